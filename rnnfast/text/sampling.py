"""Generation of text, one token at a time."""

import math
from numbers import Real

import numpy as np

from .._checks import as_ids
from ..reference.ops import draw


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
    uniforms = rng.random(length if temperature else 0)
    carried = model.get_state()
    model.reset_state()
    try:
        if not hasattr(model, "continued"):  # not one of this package
            return _continued(model, prime, length, temperature, skip_ids, uniforms)
        if len(prime) > 1:
            model.read(prime[None, :-1])
        return model.continued(prime[-1], length, float(temperature), skip_ids, uniforms)
    finally:
        model.set_state(carried)


def _continued(model, given, length, temperature, skip_ids, uniforms):
    """What `ops.generate` does, for any model that has `predict`."""
    generated = np.empty(length, np.int64)
    for k in range(length):
        logits = model.predict(given[None])[0, -1].astype(np.float64)
        logits[skip_ids] = -np.inf
        generated[k] = draw(logits, temperature, uniforms[k] if temperature else None)
        given = generated[k : k + 1]
    return generated
