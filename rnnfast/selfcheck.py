"""Every compiled kernel against its NumPy twin, on the machine at hand."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np

from . import kernels
from ._ops import Ops
from ._types import Array
from .cells import KERNEL_CELLS, RNN_RELU, Cell
from .reference import ops as numpy_ops
from .reference.generation import Choice

Dtype: TypeAlias = Literal["float32", "float64"]

# Largest difference that rounding explains, relative to the largest value of an array.
TOLERANCES: dict[Dtype, float] = {"float32": 2e-5, "float64": 1e-12}
SHAPES = [(1, 1, 1, 1, 2), (3, 7, 5, 4, 11), (10, 5, 100, 100, 418), (7, 13, 37, 65, 50)]


def compare(dtype: Dtype, ops: Ops | None = None) -> dict[str, float]:
    """Largest difference of each kernel from its twin: {name: difference}.

    A difference is relative to the largest value of the array in which it is, and the largest
    over several shapes (N, T, D, H, V). `ops` has the kernels; None is `rnnfast.kernels`.
    """
    ops = kernels if ops is None else ops
    worst: dict[str, float] = {}
    for shape in SHAPES:
        ours, twins = (_all_results(module, dtype, *shape) for module in (ops, numpy_ops))
        for name in ours:
            for a, b in zip(ours[name], twins[name], strict=True):
                difference = np.max(np.abs(a - b)) / max(np.max(np.abs(b)), 1e-30)
                # np.maximum and not max(), which may lose a NaN
                worst[name] = float(np.maximum(worst.get(name, 0.0), difference))
    return worst


def _all_results(ops: Ops, dtype: Dtype, *shape: int) -> dict[str, Sequence[Array]]:
    results = _results(ops, dtype, *shape)
    return results | _rounded(ops, *shape) if dtype == "float32" else results


def _rounded(ops: Ops, N: int, T: int, D: int, H: int, V: int) -> dict[str, Sequence[Array]]:
    """The same where operands of products are rounded to bf16, of whole numbers: their sums are
    exact, so that no other order of adding up makes an operand round to another number."""
    rng, bf16 = np.random.default_rng(N + T + D + H + V), {"precision": "bfloat16"}

    def whole(*shape: int, most: int = 3) -> Array:
        return rng.integers(-most, most + 1, shape).astype(np.float32)

    # above 256 not all whole numbers are in bf16; each h goes into one, so that they stay small
    xs, dhs = whole(N, T, D, most=300), whole(N, T, H)
    weights = [whole(D, H), np.eye(H, dtype=np.float32)[rng.permutation(H)], whole(H)]
    grads = [np.empty_like(W) for W in weights]
    *outputs, cache = ops.recurrent_forward(RNN_RELU, xs, weights, whole(1, N, H), **bf16)
    gradients = ops.recurrent_backward(RNN_RELU, dhs, None, cache, weights[:2], grads)
    results = {"recurrent_forward bf16": outputs, "recurrent_backward bf16": [*gradients, *grads]}

    x, W, b, dout = whole(N * T, H, most=300), whole(H, V), whole(V), whole(N * T, V, most=300)
    grads = [np.empty_like(W), np.empty_like(b)]
    dx = ops.affine_backward(dout, x, W, *grads, **bf16)
    results["affine_forward bf16"] = [ops.affine_forward(x, W, b, **bf16)]
    results["affine_backward bf16"] = [dx, *grads]

    # logits so far apart that probabilities are 0 and 1, in rows whose number is a power of two
    x, b, targets = x * 2**16, np.arange(V, dtype=np.float32) * 128, rng.integers(0, V, N * T)
    targets[1 << (N * T).bit_length() - 1 :] = -1
    grads = [np.empty_like(W), np.empty_like(b)]
    loss, count, cache = ops.affine_loss_forward(x, W, b, targets, -1, **bf16)
    dx = ops.affine_loss_backward(cache, 0.5, *grads)
    results["affine_loss_forward bf16"] = [np.array([loss, count])]
    results["affine_loss_backward bf16"] = [dx, *grads]
    return results


def _block(
    ops: Ops,
    cell: Cell,
    weights: Sequence[Sequence[Array]],
    xs: Array,
    dhs: Array,
    normal: Callable[..., Array],
) -> dict[str, list[Array]]:
    """The same for the functions of a cell: of one direction, without and with all options, and of
    two; weights for two directions, and gradients dhs (N, T, 2H) of both outputs."""
    (N, T, _), H = xs.shape, dhs.shape[2] // 2
    states, dstates = normal(2, cell.S, N, H), normal(2, cell.S, N, H)
    flags = np.abs(normal(N, T))
    lengths = (T * flags[:, 0]).astype(np.int64).clip(0, T)
    masks = [np.abs(normal(N, H)) for _ in weights]
    zoneouts = [tuple((np.abs(normal(N, T, H)) % 1) for _ in range(cell.S)) for _ in weights]
    sequences = {"lengths": lengths, "reset": flags < 0.3}
    all_options = {
        **sequences,
        "recurrent_mask": masks[0],
        "zoneouts": zoneouts[0],
        "reverse": True,
    }
    results: dict[str, list[Array]] = {}
    for options in ({}, all_options):
        grads = [np.empty_like(W) for W in weights[0]]
        *outputs, cache = ops.recurrent_forward(cell, xs, weights[0], states[0], **options)
        kept = ops.recurrent_states(cell, cache)
        gradients = ops.recurrent_backward(
            cell, dhs[:, :, :H], dstates[0], cache, weights[0][:2], grads, truncate=3
        )
        for name, arrays in {
            "recurrent_forward": outputs,
            "recurrent_states": [kept],
            "recurrent_backward": [*gradients, *grads],
        }.items():
            results.setdefault(f"{name} {cell.name}", []).extend(arrays)
    pairs = [[np.empty_like(W) for W in own] for own in weights]
    *outputs, cache = ops.bidirectional_forward(
        cell, xs, weights, states, **sequences, recurrent_masks=masks, zoneouts=zoneouts
    )
    kept = ops.bidirectional_states(cell, cache)
    gradients = ops.bidirectional_backward(
        cell, dhs, dstates, cache, [own[:2] for own in weights], pairs
    )
    return results | {
        f"bidirectional_forward {cell.name}": outputs,
        f"bidirectional_states {cell.name}": [kept],
        f"bidirectional_backward {cell.name}": [*gradients, *pairs[0], *pairs[1]],
    }


def _results(
    ops: Ops, dtype: Dtype, N: int, T: int, D: int, H: int, V: int
) -> dict[str, Sequence[Array]]:
    """What every kernel of `ops` makes of the same random input: {name: arrays}."""
    rng = np.random.default_rng(N + T + D + H + V)
    results: dict[str, Sequence[Array]] = {}

    def normal(*shape: int) -> Array:
        return rng.standard_normal(shape).astype(dtype)

    xs, dhs = normal(N, T, D), normal(N, T, 2 * H)
    layers: list[tuple[Any, ...]] = []  # of all cells, one on top of the other
    size = D
    for cell in KERNEL_CELLS.values():
        columns = cell.G * H

        def weights(rows: int, columns: int = columns, cell: Cell = cell) -> list[Array]:
            biases = [normal(columns) for _ in cell.weights[2:]]
            return [normal(rows, columns) / rows**0.5, normal(H, columns) / H**0.5, *biases]

        layers.append((cell, *weights(size)))
        size = H
        results |= _block(ops, cell, [weights(D), weights(D)], xs, dhs, normal)

    enc, dec, dout = normal(N, V, H), normal(N, T, H), normal(N, T, H)
    for lengths in (None, np.arange(1, N + 1) % (V + 1)):
        contexts, attended = ops.attention_forward(enc, dec, lengths)
        gradients = ops.attention_backward(dout, enc, dec, attended, lengths)
        for name, arrays in {
            "attention_forward": [contexts, attended],
            "attention_backward": list(gradients),
        }.items():
            results[name] = [*results.get(name, []), *arrays]

    W, ids = normal(V, D), rng.integers(0, V, (N, T))
    dW = np.empty_like(W)
    ops.embedding_backward(xs, ids, dW)
    results |= {"embedding_forward": [ops.embedding_forward(W, ids)], "embedding_backward": [dW]}

    logits, targets = 5 * normal(N * T, V), rng.integers(-1, V, N * T)
    loss, count, probs = ops.softmax_loss_forward(logits, targets, -1)
    dlogits = ops.softmax_loss_backward(probs, targets, -1, 0.5)
    results |= {
        "softmax_loss_forward": [np.array([loss, count]), probs],
        "softmax_loss_backward": [dlogits],
    }

    loss, dlogits = ops.sigmoid_loss_forward(logits[:, 0].copy(), np.sign(targets).astype(np.int8))
    results["sigmoid_loss_forward"] = [np.array([loss]), dlogits]

    x, W, b, dout = normal(N * T, H), normal(H, V), normal(V), normal(N * T, V)
    grads = [np.empty_like(W), np.empty_like(b)]
    dx = ops.affine_backward(dout, x, W, *grads)
    results |= {"affine_forward": [ops.affine_forward(x, W, b)], "affine_backward": [dx, *grads]}
    loss, count, cache = ops.affine_loss_forward(x, W, b, targets, -1)
    grads = [np.empty_like(W), np.empty_like(b)]
    dx = ops.affine_loss_backward(cache, 0.5, *grads)
    results |= {
        "affine_loss_forward": [np.array([loss, count])],
        "affine_loss_backward": [dx, *grads],
        "distinct": list(ops.distinct(ids, V)),
        "sum_of_squares": [np.array([ops.sum_of_squares([W, b], None)])],
    }

    first, written = [normal(cell.S, N, H) for cell, *_ in layers], []
    for choice in (Choice(skip_ids=[0]), Choice(0.5, top_k=5, top_p=0.8, stop_ids=[0])):
        writer = ops.writer(normal(V, D), layers, W, b, first, np.zeros(N, int), 12, choice)
        written += [writer.write(rng.random((N, length))) for length in (9, 3)]
    results["writer"] = written
    mask = np.empty(N * T * H + 1, dtype)
    ops.draw_mask(N + T, 0.7, 1.5, mask)
    part = np.empty(len(mask) // 2, dtype)
    ops.draw_mask(N + T, 0.7, 1.5, part, first=len(mask) // 3, of=len(mask))
    results["draw_mask"] = [mask, part]
    steps: list[tuple[str, int, tuple[float, ...]]] = [
        ("sgd_step", 0, (0.1,)),
        ("momentum_step", 1, (0.1, 0.9)),
        ("nesterov_step", 1, (0.1, 0.9)),
        ("adagrad_step", 1, (0.1,)),
        ("rmsprop_step", 1, (0.1, 0.99)),
        ("adam_step", 2, (0.1, 0.9, 0.999)),
    ]
    rows = np.arange(0, V, 2)
    for name, n_slots, numbers in steps:
        params, grads = ([normal(V, H), normal(V, H)] for _ in range(2))
        state = [tuple(np.abs(normal(V, H)) for _ in range(n_slots)) for _ in params]
        getattr(ops, name)(params, grads, state, [None, rows], 0.99, *numbers)
        results[name] = [*params, *(slot for slots in state for slot in slots)]
    for name in ("scale_arrays", "clip_arrays"):
        arrays = [normal(V, H), normal(V, H)]
        getattr(ops, name)(arrays, [None, rows], 0.3)
        results[name] = arrays
    return results
