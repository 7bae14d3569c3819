"""Generation of text, one token at a time."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from .._checks import as_count, as_generator, as_ids, as_real, is_number
from .._random import Generator, PutBackOnError, uniforms, widths
from .._types import Array, ArrayLike, Ids, Seed
from ..losses import TimeAffineWithLoss, TimeSoftmax
from ..models import Network
from ..models.decoding import require_numbers
from ..reference.generation import BROKEN, ENDED, Choice, Writer, WriterOf


def generate(
    model: Any,
    prime: ArrayLike,
    length: int,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    skip_ids: Sequence[int] | Ids = (),
    stop_ids: Sequence[int] | Ids = (),
    samples: int | None = None,
    rng: Seed = None,
) -> Ids:
    """Let a language model continue a beginning, from zeros.

    Parameters
    ----------
    model : Rnnlm, SimpleRnnlm or another Network whose output is logits (N, T, V)
        The state that it carries neither counts nor changes, and several threads may sample from
        one model at once. What is no Network needs `vocab_size`, `predict`, `get_state`,
        `set_state` and `reset_state`; its state is put back after every step, and it is for one
        thread at a time.
    prime : sequence of int
        Ids of the beginning, at least one.
    length : int
        How many tokens to generate, at most.
    temperature : float
        The logits are divided by it: below 1 the likely becomes likelier; 0 always takes the
        likeliest.
    top_k : int, or None for all
        Only so many of the likeliest tokens may come.
    top_p : float in 0 < top_p <= 1, or None for 1
        Only the fewest likeliest tokens whose probabilities sum to it may come: the nucleus of
        Holtzman et al. (2020).
    skip_ids : sequence of int
        Tokens that are never generated.
    stop_ids : sequence of int
        Tokens after any of which a sample ends; it stands at the end of what is returned.
    samples : int, or None for one without an axis of its own
        So many continuations are made at once, which takes less time than one after the other.
        They are those that as many calls with this generator would return.
    rng : numpy.random.Generator or RandomState, an int that seeds one, or None for a fresh one

    Returns
    -------
    ids : array (M,) or (samples, M), int64, without the beginning
        M is `length`, or the length of the longest sample where all of them have ended before;
        behind the end of a shorter one stands -1, the padding of `lanes`.

    Raises
    ------
    TypeError, ValueError
        For arguments that do not fit, for a network whose output is no logits but the input of a
        `TimeAffineWithLoss`, or probabilities, and for one with a layer that reads ahead: in
        reverse, or in both directions. After an error the generator is as it was.
    InputError
        Where the model's logits are not finite numbers.

    Notes
    -----
    What restricts the choice applies one after the other: `skip_ids`, the temperature, `top_k`,
    `top_p` (to probabilities among what is left), in the order of Hugging Face's transformers. Of
    equally likely tokens the one of the smaller id counts as likelier, so `top_k` leaves exactly
    that many.
    """
    generator = as_generator(rng)
    with PutBackOnError(generator):
        choice = temperature, top_k, top_p, skip_ids, stop_ids
        writer, numbers = _begin(model, prime, length, choice, samples, generator)
        parts = [np.empty((samples or 1, 0), np.int64)]  # should `length` be 0
        for part in numbers:
            parts.append(_written(writer, part))
            if (parts[-1][:, -1:] == ENDED).all():
                break
        ids = np.concatenate(parts, axis=1)
        longest = (ids != ENDED).sum(1).max()
        return ids[0, :longest] if samples is None else ids[:, :longest]


def stream(
    model: Any,
    prime: ArrayLike,
    length: int,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    skip_ids: Sequence[int] | Ids = (),
    stop_ids: Sequence[int] | Ids = (),
    samples: int | None = None,
    rng: Seed = None,
) -> Iterator[Ids]:
    """What `generate` returns, bit for bit, as it comes: token by token.

    Arguments are checked, and the generator is behind all random numbers, before it returns; a long
    text takes no more memory than a short one. The model may be used meanwhile, but its weights
    should stay as they are; whoever has read enough stops at any time.

    Yields
    ------
    ids : array (1,) or (samples, 1), int64
        Along the last axis these make what `generate` returns.

    Raises
    ------
    As `generate`; InputError comes where logits that are not finite numbers are met.

    Examples
    --------
    >>> import numpy as np, rnnfast
    >>> model = rnnfast.Rnnlm(10, 4, 8, rng=0)
    >>> parts = rnnfast.stream(model, [1, 2], 6, top_k=3, rng=0)
    >>> np.concatenate([*parts]) == rnnfast.generate(model, [1, 2], 6, top_k=3, rng=0)
    array([ True,  True,  True,  True,  True,  True])
    """
    generator = as_generator(rng)
    with PutBackOnError(generator):
        choice = temperature, top_k, top_p, skip_ids, stop_ids
        writer, numbers = _begin(model, prime, length, choice, samples, generator)
    return _streamed(writer, numbers, samples is None)


def vocab_size_of(model: Any) -> int:
    """V of a model whose outputs are logits of the token that follows; TypeError for another."""
    if isinstance(model, Network):
        _require_order(model)
        if not hasattr(model, "writer"):
            _require_logits(model)
    if (vocab_size := getattr(model, "vocab_size", None)) is None:
        # a Network says so by its output only
        vocab_size = model.infer(np.zeros((1, 1), np.int64))[0].shape[-1]
    return int(vocab_size)


def _begin(
    model: Any,
    prime: ArrayLike,
    length: int,
    choice: tuple[Any, ...],
    samples: int | None,
    generator: Generator,
) -> tuple[Writer, Iterator[Array]]:
    """What writes, and its random numbers (samples, length), in parts, of checked arguments."""
    vocab_size = vocab_size_of(model)
    prime = as_ids("prime", prime, vocab_size, ("M",))
    length = as_count("length", length, least=0)
    rows = 1 if samples is None else as_count("samples", samples)
    checked = _checked(vocab_size, *choice)
    numbers = (
        uniforms(generator, rows, length)
        if checked.temperature
        else (np.zeros((rows, width)) for width in widths(rows, length))
    )
    # what generates without a layer being called has no means of zoneout
    layers = getattr(model, "recurrent_layers", ())
    if hasattr(model, "writer") and not any(getattr(x, "zoneout_mean", 0) for x in layers):
        states = model.read(prime[None, :-1]) if len(prime) > 1 else None
        if states is not None:
            states = [np.repeat(state, rows, 1) for state in states]
        return model.writer(np.repeat(prime[-1:], rows), states, length, checked), numbers
    predict = _inferring(model, rows) if hasattr(model, "infer") else _putting_back(model)
    return WriterOf(predict, np.tile(prime, (rows, 1)), checked), numbers


def _checked(
    vocab_size: int,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    skip_ids: Sequence[int] | Ids,
    stop_ids: Sequence[int] | Ids,
) -> Choice:
    """How a token is chosen; the arguments are those of `generate`."""
    if not 0 <= as_real(temperature) < math.inf:
        raise ValueError(f"temperature: expected a finite number >= 0, got {temperature!r}")
    if top_k is not None:
        top_k = as_count("top_k", top_k, hint="None keeps all tokens, temperature=0 the likeliest")
    if top_p is not None and not (is_number(top_p) and 0 < top_p <= 1):
        raise ValueError(
            f"top_p: expected a number in 0 < top_p <= 1, got {top_p!r}; None keeps all tokens"
        )
    given = {"skip_ids": skip_ids, "stop_ids": stop_ids}
    skipped, stops = (
        as_ids(name, ids, vocab_size, ("M",)).tolist() if np.size(ids) else []
        for name, ids in given.items()
    )
    if len(set(skipped)) == vocab_size:
        raise ValueError("skip_ids: expected to leave a token to generate, got all of them")
    return Choice(float(temperature), top_k, 1.0 if top_p is None else float(top_p), skipped, stops)


def _written(writer: Writer, numbers: Array) -> Ids:
    """The next ids of every row."""
    ids = writer.write(numbers)
    require_numbers((ids != BROKEN).all())
    return ids


def _streamed(writer: Writer, numbers: Iterator[Array], single: bool) -> Iterator[Ids]:
    """Column by column, until every row has ended."""
    for part in numbers:
        for k in range(part.shape[1]):
            ids = _written(writer, part[:, k : k + 1])
            if (ids == ENDED).all():
                return
            yield ids[0] if single else ids


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


def _inferring(model: Any, rows: int) -> Callable[[Ids], Array]:
    """What `WriterOf` asks: of a model that starts from zeros; the states are kept here."""
    states = None

    def predict(xs: Ids) -> Array:
        nonlocal states
        if states is None:  # all rows begin alike
            logits, states = model.infer(xs[:1])
            states = [np.repeat(state, rows, -2) for state in states]
            return np.repeat(logits[:, -1], rows, 0)
        logits, states = model.infer(xs, states)
        last: Array = logits[:, -1]
        return last

    return predict


def _putting_back(model: Any) -> Callable[[Ids], Array]:
    """The same of a model whose state must be set; the one that it carries is put back."""
    own = None

    def predict(xs: Ids) -> Array:
        nonlocal own
        carried = model.get_state()
        try:
            if own is None:
                model.reset_state()
            else:
                model.set_state(own)
            last: Array = np.asarray(model.predict(xs))[:, -1]
            own = model.get_state()
            return last
        finally:
            model.set_state(carried)

    return predict
