"""Random blocks for the recurrent functions of `reference.ops`, with every option that they take,
and what these functions should return, put together from calls of one row and one step.

Letters in sizes: N batch rows, T time steps, D input size, H hidden size; S states of a cell.
"""

from dataclasses import dataclass, replace

import numpy as np

from rnnfast import cells, kernels
from rnnfast.reference import ops as numpy_ops

OPS = [kernels, numpy_ops]
CELLS = [*cells.KERNEL_CELLS.values()]
LAYER_CELLS = [*cells.CELLS.values()]
OPTIONS = ("index", "lengths", "reset", "reverse", "recurrent_mask", "zoneouts", "truncate")
SHARED = ("index", "lengths", "reset")  # by both directions


@dataclass
class Block:
    """The arguments of one forward and one backward call."""

    cell: cells.Cell
    xs: np.ndarray
    weights: list
    states: np.ndarray
    dhs: np.ndarray
    dlast: np.ndarray
    options: dict  # of forward
    truncate: int = 0

    @property
    def lengths(self):
        """Of all rows, whether the option is given or not."""
        N, T, _ = self.dhs.shape
        return self.options.get("lengths", np.full(N, T))

    @property
    def exists(self):
        """(N, T): whether a row has a step."""
        return np.arange(self.dhs.shape[1]) < self.lengths[:, None]

    def arrays(self):
        """What has a gradient, by name."""
        named = {"xs": self.xs, "states": self.states}
        return named | dict(zip(self.cell.weights, self.weights, strict=True))

    def map(self, change):
        """The same block with `change` applied to every array of floats."""
        options = dict(self.options)
        if "recurrent_mask" in options:
            options["recurrent_mask"] = change(options["recurrent_mask"])
        if "zoneouts" in options:
            zoneouts = options["zoneouts"]
            options["zoneouts"] = tuple(None if d is None else change(d) for d in zoneouts)
        weights = [change(W) for W in self.weights]
        arrays = map(change, (self.states, self.dhs, self.dlast))
        return Block(self.cell, change(self.xs), weights, *arrays, options, self.truncate)


def make_block(cell, sizes, names, dtype="float64", seed=0):
    """A random block of these sizes (N, T, D, H), with the options of these names."""
    N, T, D, H = sizes
    rng = np.random.default_rng([seed, *sizes])

    def normal(*shape):
        return rng.standard_normal(shape).astype(dtype)

    def uniform(*shape):
        return rng.random(shape).astype(dtype)

    columns, U = cell.G * H, 1 + N * T // 2
    shapes = {"Wx": (D, columns), "Wh": (H, columns), "b": (columns,), "bh": (columns,)}
    scales = {"Wx": D**-0.5, "Wh": H**-0.5}
    weights = [normal(*shapes[name]) * scales.get(name, 1) for name in cell.weights]
    weights = [W.astype(dtype) for W in weights]
    zoneouts = [uniform(N, T, H) for _ in cell.states]
    if seed % 2:
        zoneouts[0] = np.broadcast_to(uniform(H), (N, T, H))
    if cell.S > 1 and seed % 3:  # one state alone, either of them
        zoneouts[seed % 3 - 1] = None
    drawn = {
        "index": rng.integers(0, U, (N, T)),
        "lengths": rng.integers(0, T + 1, N),
        "reset": rng.random((N, T)) < 0.3,
        "reverse": True,
        "recurrent_mask": 2 * uniform(N, H),
        "zoneouts": tuple(zoneouts),
    }
    return Block(
        cell,
        normal(U, D) if "index" in names else normal(N, T, D),
        weights,
        normal(cell.S, N, H),
        normal(N, T, H),
        normal(cell.S, N, H),
        {name: value for name, value in drawn.items() if name in names},
        truncate=int(rng.integers(1, T + 1)) if "truncate" in names else 0,
    )


def draw_options(seed):
    """Some of the options, by name."""
    rng = np.random.default_rng(seed)
    return [name for name in OPTIONS if rng.random() < 0.5]


def empty_grads(weights):
    """Arrays for gradients of weights; what they hold beforehand must not matter."""
    return [np.full(W.shape, np.nan, W.dtype) for W in weights]


def run(ops, block, cache=None):
    """Results of all three functions, by name; dstates are gradients of the initial states."""
    results, cache = run_forward(ops, block, cache=cache)
    return results | run_backward(ops, block, cache)


def run_forward(ops, block, **options):
    """Results by name, cache"""
    hs, last, cache = ops.recurrent_forward(
        block.cell, block.xs, tuple(block.weights), block.states, **block.options, **options
    )
    return {"hs": hs, "last": last}, cache


def run_backward(ops, block, cache, **options):
    states, grads = ops.recurrent_states(block.cell, cache), empty_grads(block.weights)
    dxs, dfirst = ops.recurrent_backward(
        block.cell,
        block.dhs,
        block.dlast,
        cache,
        tuple(block.weights[:2]),
        grads,
        truncate=block.truncate,
        **options,
    )
    results = {"all states": states, "dxs": dxs, "dstates": dfirst}
    return results | dict(zip(gradients_of(block.cell), grads, strict=True))


def gradients_of(cell):
    """Names of the gradients of its weights."""
    return [f"d{name}" for name in cell.weights]


def both_directions(block, back):
    """A pair: the block forward in time, and in reverse with weights and gradients of another."""
    shared = {name: value for name, value in block.options.items() if name in SHARED}
    own = {name: value for name, value in back.options.items() if name not in SHARED}
    forward = {name: value for name, value in block.options.items() if name != "reverse"}
    back = replace(back, xs=block.xs, truncate=block.truncate)
    return replace(block, options=forward), replace(back, options=shared | own | {"reverse": True})


def run_both(ops, blocks, cache=None):
    """What `run` returns for both directions, from a bidirectional layer; dxs is a sum."""
    results, cache = run_both_forward(ops, blocks, cache=cache)
    return results | run_both_backward(ops, blocks, cache)


def run_both_forward(ops, blocks, **options):
    """Results by name, cache"""
    hs, last, cache = ops.bidirectional_forward(
        blocks[0].cell,
        blocks[0].xs,
        tuple(tuple(block.weights) for block in blocks),
        np.stack([block.states for block in blocks]),
        **{name: blocks[0].options.get(name) for name in SHARED},
        recurrent_masks=tuple(block.options.get("recurrent_mask") for block in blocks),
        zoneouts=tuple(block.options.get("zoneouts") for block in blocks),
        **options,
    )
    return {"hs": hs, "last": last}, cache


def run_both_backward(ops, blocks, cache, **options):
    cell = blocks[0].cell
    states = ops.bidirectional_states(cell, cache)
    grads = tuple(empty_grads(block.weights) for block in blocks)
    dxs, dfirst = ops.bidirectional_backward(
        cell,
        np.concatenate([block.dhs for block in blocks], axis=2),
        np.stack([block.dlast for block in blocks]),
        cache,
        tuple(tuple(block.weights[:2]) for block in blocks),
        grads,
        truncate=blocks[0].truncate,
        **options,
    )
    results = {"all states": states, "dxs": dxs, "dstates": dfirst}
    return results | dict(
        zip(gradients_of(cell), map(np.stack, zip(*grads, strict=True)), strict=True)
    )


def run_single_steps(ops, block):
    """What `run` should return, from calls of one row and one step without any option."""
    cell, (N, T), options = block.cell, block.dhs.shape[:2], block.options
    Wx, Wh, *biases = block.weights
    S, H = cell.S, len(Wh)
    index = options.get("index")
    xs = block.xs if index is None else block.xs[np.where(block.exists, index, 0)]
    reset = options.get("reset", np.zeros((N, T), bool))
    mask = options.get("recurrent_mask", np.ones((N, H), Wh.dtype))
    zeros = np.zeros((N, T, H), Wh.dtype)
    ds = [zeros if d is None else d for d in options.get("zoneouts", [None] * S)]
    results = {
        "hs": zeros.copy(),
        "last": block.states.copy(),
        "all states": np.zeros((S, N, T, H), Wh.dtype),
        "dxs": np.zeros_like(xs),
        "dstates": block.dlast.copy(),
    }
    totals = [np.zeros(W.shape) for W in block.weights]

    for n in range(N):
        row = slice(n, n + 1)
        scale = mask[n][:, None]  # (h mask) Wh = h (mask Wh)
        weights, length = (Wx, scale * Wh, *biases), block.lengths[n]
        times = [int(t) for t in range(length)]
        begins = {t: reset[n, t] for t in times}
        if options.get("reverse"):
            times.reverse()
            begins = {t: t + 1 < length and reset[n, t + 1] for t in times}
        state, caches = block.states[:, row], {}
        for t in times:
            d = np.stack([d[row, t] for d in ds])
            before = np.zeros_like(state) if begins[t] else state
            _, new, caches[t] = ops.recurrent_forward(cell, xs[row, t : t + 1], weights, before)
            state = d * before + (1 - d) * new
            results["all states"][:, n, t] = state[:, 0]
            results["hs"][n, t] = state[0]
        results["last"][:, row] = state

        dstate = block.dlast[:, row].copy()
        for k, t in reversed(list(enumerate(times))):
            if block.truncate and (k + 1) % block.truncate == 0 and k + 1 < length:
                dstate[...] = 0
            dstate[0] += block.dhs[row, t]
            d = np.stack([d[row, t] for d in ds])
            grads = empty_grads(block.weights)
            dx, dbefore = ops.recurrent_backward(
                cell, zeros[:1, :1], (1 - d) * dstate, caches[t], weights[:2], grads
            )
            dstate = d * dstate + dbefore
            if begins[t]:
                dstate[...] = 0
            results["dxs"][n, t] = dx[0, 0]
            grads[1] *= scale
            for total, dW in zip(totals, grads, strict=True):
                total += dW
        results["dstates"][:, row] = dstate

    if index is not None:
        dxs = np.zeros(block.xs.shape)
        np.add.at(dxs, index[block.exists], results["dxs"][block.exists])
        results["dxs"] = dxs.astype(xs.dtype)
    totals = [total.astype(Wh.dtype) for total in totals]
    return results | dict(zip(gradients_of(cell), totals, strict=True))
