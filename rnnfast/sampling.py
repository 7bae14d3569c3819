"""Generation of text, one token at a time."""

import math
from numbers import Real

import numpy as np

from ._checks import as_ids


def generate(model, prime, length, *, temperature=1.0, skip_ids=(), rng=None):
    """Let a language model continue a beginning.

    Parameters
    ----------
    model : SimpleRnnlm or Rnnlm
        Starts from zeros; the state it carried is put back at the end.
    prime : sequence of int
        Ids of the beginning, at least one.
    length : int
        How many tokens to generate.
    temperature : float
        The logits are divided by it: below 1 the likely becomes likelier; 0 always takes the
        likeliest.
    skip_ids : sequence of int
        Tokens that are never generated.
    rng : numpy.random.Generator, or None for a fresh one

    Returns
    -------
    ids : array (length,), int64, without the beginning
    """
    prime = as_ids("prime", prime, model.vocab_size, ("M",))
    skip_ids = np.asarray(skip_ids, np.int64) if len(skip_ids) == 0 else skip_ids
    skip_ids = as_ids("skip_ids", skip_ids, model.vocab_size, (len(skip_ids),)).tolist()
    if len(set(skip_ids)) == model.vocab_size:
        raise ValueError("skip_ids: expected to leave a token to generate, got all of them")
    if not (isinstance(temperature, Real) and 0 <= temperature < math.inf):
        raise ValueError(f"temperature: expected a finite number >= 0, got {temperature!r}")
    if isinstance(length, bool) or not isinstance(length, (int, np.integer)) or length < 0:
        raise ValueError(f"length: expected a whole number >= 0, got {length!r}")
    rng = rng or np.random.default_rng()
    generated = np.empty(length, np.int64)
    carried = model.get_state()
    model.reset_state()
    try:
        given = prime
        for k in range(length):
            logits = model.predict(given[None])[0, -1].astype(np.float64)
            logits[skip_ids] = -np.inf
            generated[k] = _draw(logits, temperature, rng)
            given = generated[k : k + 1]
    finally:
        model.set_state(carried)
    return generated


def _draw(logits, temperature, rng):
    """One index, with probability proportional to e^(logit / temperature)."""
    if temperature == 0:
        return logits.argmax()
    # subtracted before the division, so that a tiny temperature cannot overflow to inf - inf
    with np.errstate(over="ignore"):  # -inf is as good as any very negative number here
        p = np.exp((logits - logits.max()) / temperature)
    cumulated = p.cumsum()
    # side="right": a draw of exactly 0 must not select a first token of probability 0
    return min(np.searchsorted(cumulated, rng.random() * cumulated[-1], "right"), len(p) - 1)
