"""Generation of text, one token at a time."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .._checks import as_count, as_generator, as_ids, is_number
from .._types import Array, ArrayLike, Ids, Seed
from ..losses import TimeAffineWithLoss, TimeSoftmax
from ..models import Network
from ..reference.ops import draw


def generate(
    model: Any,
    prime: ArrayLike,
    length: int,
    *,
    temperature: float = 1.0,
    skip_ids: Sequence[int] | Ids = (),
    rng: Seed = None,
) -> Ids:
    """Let a language model continue a beginning, from zeros.

    Parameters
    ----------
    model : Rnnlm, SimpleRnnlm or another Network whose output is logits (N, T, V)
        The state that it carries neither counts nor changes, and several threads may sample from
        one model at once. What is no Network needs `vocab_size`, `predict`, `get_state`,
        `set_state` and `reset_state`; its state is put back at the end, and it is for one thread
        at a time.
    prime : sequence of int
        Ids of the beginning, at least one.
    length : int
        How many tokens to generate.
    temperature : float
        The logits are divided by it: below 1 the likely becomes likelier; 0 always takes the
        likeliest.
    skip_ids : sequence of int
        Tokens that are never generated.
    rng : numpy.random.Generator or RandomState, an int that seeds one, or None for a fresh one

    Returns
    -------
    ids : array (length,), int64, without the beginning

    Raises
    ------
    TypeError, ValueError
        For arguments that do not fit, for a network whose output is no logits but the input of a
        `TimeAffineWithLoss`, or probabilities, and for one with a layer that reads ahead: in
        reverse, or in both directions.
    """
    if isinstance(model, Network):
        _require_order(model)
        if not hasattr(model, "continued"):
            _require_logits(model)
    vocab_size = getattr(model, "vocab_size", None)
    if vocab_size is None:  # a Network says so by its output only
        vocab_size = model.infer(np.asarray(prime)[None])[0].shape[-1]
    prime = as_ids("prime", prime, vocab_size, ("M",))
    skipped = as_ids("skip_ids", skip_ids, vocab_size, ("M",)).tolist() if np.size(skip_ids) else []
    if len(set(skipped)) == vocab_size:
        raise ValueError("skip_ids: expected to leave a token to generate, got all of them")
    if not (is_number(temperature) and 0 <= temperature < math.inf):
        raise ValueError(f"temperature: expected a finite number >= 0, got {temperature!r}")
    length = as_count("length", length, least=0)
    uniforms = as_generator(rng).random(length if temperature else 0)
    # what generates without a layer being called has no means of zoneout
    layers = getattr(model, "recurrent_layers", ())
    if hasattr(model, "continued") and not any(getattr(x, "zoneout_mean", 0) for x in layers):
        states = model.read(prime[None, :-1]) if len(prime) > 1 else None
        ids: Ids = model.continued(prime[-1], states, length, float(temperature), skipped, uniforms)
        return ids
    if hasattr(model, "infer"):
        return _continued(_inferring(model), prime, length, temperature, skipped, uniforms)
    carried = model.get_state()
    model.reset_state()
    try:
        return _continued(model.predict, prime, length, temperature, skipped, uniforms)
    finally:
        model.set_state(carried)


def _require_order(model: Network) -> None:
    """Raise TypeError for a layer whose output depends on what is still to be generated."""
    for name, layer in zip(model.layer_names, model.layers, strict=True):
        if getattr(layer, "reads_ahead", False):
            raise TypeError(
                f"model: expected layers that read from the first token to the last, got the "
                f"{type(layer).__name__} {name}, which reads ahead; make another without reverse "
                "time"
            )


def _require_logits(model: Network) -> None:
    """Raise TypeError for the output of a network that is known to be something else."""
    output = None
    if isinstance(model.loss_layer, TimeAffineWithLoss):
        output = "what its TimeAffineWithLoss makes logits of"
    elif isinstance(model.layers[-1], TimeSoftmax):
        output = "probabilities, of TimeSoftmax"
    if output:
        raise TypeError(
            f"model: expected a network whose output is logits, got one with {output}; make one "
            "of its layers with TimeAffine as the last"
        )


def _inferring(model: Any) -> Callable[[Ids], Array]:
    """What `predict` is of a model that starts from zeros; the state is kept here."""
    states = None

    def predict(xs: Ids) -> Array:
        nonlocal states
        logits: Array
        logits, states = model.infer(xs, states)
        return logits

    return predict


def _continued(
    predict: Callable[[Ids], Array],
    given: Ids,
    length: int,
    temperature: float,
    skip_ids: list[int],
    uniforms: Array,
) -> Ids:
    """What `ops.generate` does, for any model."""
    generated = np.empty(length, np.int64)
    for k in range(length):
        logits = predict(given[None])[0, -1].astype(np.float64)
        logits[skip_ids] = -np.inf
        generated[k] = draw(logits, temperature, uniforms[k] if temperature else None)
        given = generated[k : k + 1]
    return generated
