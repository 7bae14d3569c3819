"""Recurrent functions on the memory of the caller: weights of any strides, biases, states and
gradients that are not there, results in given arrays, packed sequences, a number of threads.

Twins are compared with in drawn calls; then each option is judged by what it means.
"""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from drawn import draw_sizes, place
from forms import SEED, form
from problems import DTYPES, assert_all_close, assert_close
from sequences import CELLS, OPS, OPTIONS, make_block, run, run_backward, run_forward
from test_gradients import TOLERANCE, dot, numeric_gradient

from rnnfast import cells, kernels
from rnnfast.kernels import engine
from rnnfast.reference import ops as numpy_ops

pytestmark = pytest.mark.usefixtures("threads_for_small_calls")
every_cell = pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.name)
every_ops = pytest.mark.parametrize("ops", OPS, ids=lambda ops: ops.__name__)
dtypes = pytest.mark.parametrize("dtype", DTYPES)
TOLERANCES = {"float32": 3e-5, "float64": 1e-12}
NAMES = ["dWx", "dWh", "db", "dbh"]


def with_two_biases(block, rng):
    """The weights of a block, and a bh."""
    Wx, Wh, b, *bh = block.weights
    return [Wx, Wh, b, *(bh or [rng.standard_normal(b.shape).astype(b.dtype)])]


def columns_first(W):
    """As PyTorch has it: the transpose is contiguous."""
    return np.ascontiguousarray(W.T).T


def packed(block):
    """A block without lengths or what they exclude, and the numbers of rows of its steps."""
    N, T, _ = block.dhs.shape
    lengths = -np.sort(-np.random.default_rng([N, T]).integers(1, T + 1, N))
    lengths[0] = T
    sizes = (lengths > np.arange(T)[:, None]).sum(axis=1)
    options = {k: v for k, v in block.options.items() if k in ("reverse", "recurrent_mask")}
    return replace(block, options=options), lengths, sizes


def rows_of(padded, sizes):
    """The rows of all steps, one after the other."""
    return np.concatenate([padded[:count, t] for t, count in enumerate(sizes)])


def call(ops, block, rng, dtype, threads=None):
    """Results of forward and backward with what is drawn, by name, and (name, array, memory around
    it) of each that was given to be written."""
    (N, _, H), S = block.dhs.shape, block.cell.S
    places = []

    def given(name, *shape):
        if rng.random() < 0.3:
            return None
        array, memory = place(shape, dtype, rng)
        places.append((name, array, memory))
        return array

    def some(arrays, least=0):
        """Some of them are None, or missing."""
        arrays = [None if rng.random() < 0.3 else a for a in arrays]
        return arrays[: rng.integers(least, len(arrays) + 1)]

    xs, dhs, options, more = block.xs, block.dhs, dict(block.options), {}
    if "index" not in options and rng.random() < 0.4:
        block, _, sizes = packed(block)
        xs, dhs = rows_of(block.xs, sizes), rows_of(dhs, sizes)
        options = block.options | {"batch_sizes": sizes}
    if rng.random() < 0.5:  # time-major
        xs, dhs = (a.swapaxes(0, 1).copy().swapaxes(0, 1) for a in (xs, dhs))
    Wx, Wh, *biases = with_two_biases(block, rng)
    order = columns_first if rng.random() < 0.5 else np.copy
    Wx, Wh = order(Wx), order(Wh)
    states, dlast = list(block.states), list(block.dlast)
    if rng.random() < 0.5:
        states, dlast = (some(a, S) for a in (states, dlast))
    out = given("hs", *dhs.shape)
    last = [given("last", N, H) for _ in range(S)]
    if any(a is None for a in last):
        last, places = None, [p for p in places if p[0] != "last"]
    more = {"copy_xs": bool(rng.random() < 0.5), "out": out, "last": last, "threads": threads}
    hs, last, cache = ops.recurrent_forward(
        block.cell, xs, (Wx, Wh, *some(biases)), states, **options, **more
    )
    results = {"hs": hs} | {f"last {k}": a for k, a in enumerate(last)}
    assert out is None or hs is out

    grads = [order(np.full_like(W, np.nan)) for W in (Wx, Wh, *biases)]
    grads += [] if len(grads) == 4 else [np.full_like(biases[0], np.nan)]
    grads = some(grads)
    dxs = given("dxs", *xs.shape)
    adds = dxs is not None and bool(rng.random() < 0.5)
    if adds:
        dxs[...] = rng.standard_normal(dxs.shape)
    dfirst = [given("dfirst", N, H) for _ in range(S)]
    if any(a is None for a in dfirst):
        dfirst, places = None, [p for p in places if p[0] != "dfirst"]
    gradients = ops.recurrent_backward(
        block.cell,
        dhs if rng.random() < 0.7 else None,
        dlast,
        cache,
        (Wx, Wh),
        grads,
        truncate=block.truncate,
        need_dx=bool(rng.random() < 0.8),
        dxs=dxs,
        dfirst=dfirst,
        adds_dx=adds,
        threads=threads,
    )
    results |= {"dxs": gradients[0]} | {f"dfirst {k}": a for k, a in enumerate(gradients[1])}
    results |= dict(zip(NAMES, grads, strict=False))
    return {k: a.copy() for k, a in results.items() if a is not None}, places


def draw(cell, case, dtype):
    rng = np.random.default_rng([SEED, case, *cell.name.encode()])
    *sizes, _ = draw_sizes(rng)
    names = [name for name in OPTIONS if rng.random() < 0.3]
    return make_block(cell, sizes, names, dtype, int(rng.integers(1 << 30))), rng


@dtypes
@every_cell
def test_drawn_calls(cell, dtype):
    """As the twin, whatever is drawn, and the same bits for any number of threads; nothing is
    written beside the arrays that are given."""
    for case in range(form(25, 400)):
        what = f"RNNFAST_SEED={SEED}, {cell.name}, case {case}"
        results = []
        for ops, threads in ((kernels, 1), (kernels, 2), (kernels, 3), (numpy_ops, None)):
            block, rng = draw(cell, case, dtype)
            ours, places = call(ops, block, rng, dtype, threads)
            results.append(ours)
            for name, array, memory in places:
                array[...] = 99
                assert (memory == 99).all(), f"{what}: beside {name}"
        ours, *others, twin = results
        assert ours.keys() == twin.keys(), what
        for name in ours:
            for other in others:
                np.testing.assert_array_equal(other[name], ours[name], f"{what}: {name}")
        for name, expected in twin.items():
            difference = np.abs(ours[name] - expected).max()
            most = TOLERANCES[dtype] * max(1, np.abs(expected).max())
            assert difference <= most, f"{what}: {name} differs by {difference}"


@dtypes
@every_cell
@pytest.mark.parametrize("sizes", [(2, 3, 40, 70), (9, 13, 37, 33), (70, 2, 5, 16)], ids=str)
def test_weights_and_gradients_as_pytorch_has_them(sizes, cell, dtype):
    """Transposes of (G*H, D) and (G*H, H), read and written where they are."""
    block = make_block(cell, sizes, (), dtype)
    expected = run(kernels, block)
    block.weights = [columns_first(W) for W in block.weights]
    results, cache = run_forward(kernels, block)
    grads = [columns_first(np.full_like(W, np.nan)) for W in block.weights]
    dxs, dfirst = kernels.recurrent_backward(
        cell, block.dhs, block.dlast, cache, block.weights[:2], grads
    )
    results |= {"dxs": dxs, "dstates": dfirst}
    results |= {f"d{name}": dW for name, dW in zip(cell.weights, grads, strict=True)}
    assert_all_close(results, {name: expected[name] for name in results})


@every_ops
@every_cell
@pytest.mark.parametrize("names", [(), ("reverse", "recurrent_mask")], ids=["plain", "reverse"])
def test_two_biases_by_differences(names, cell, ops):
    """In every cell, of a packed sequence."""
    block, _, sizes = packed(make_block(cell, (3, 4, 2, 3), names))
    weights = with_two_biases(block, np.random.default_rng(0))
    xs, dhs = rows_of(block.xs, sizes), rows_of(block.dhs, sizes)
    options = block.options | {"batch_sizes": sizes}

    def loss():
        hs, last, _ = ops.recurrent_forward(
            cell, xs, weights, block.states, need_gradient=False, **options
        )
        return dot(hs, dhs) + dot(last, block.dlast)

    *_, cache = ops.recurrent_forward(cell, xs, weights, block.states, **options)
    grads = [np.full_like(W, np.nan) for W in weights]
    dxs, dfirst = ops.recurrent_backward(cell, dhs, block.dlast, cache, weights[:2], grads)
    arrays, gradients = (xs, block.states, *weights), (dxs, dfirst, *grads)
    for array, gradient in zip(arrays, gradients, strict=True):
        assert_close(gradient, numeric_gradient(loss, array), TOLERANCE)


@every_ops
@every_cell
def test_missing_biases_are_zeros(cell, ops):
    block = make_block(cell, (3, 4, 2, 5), ())
    Wx, Wh, b, bh = with_two_biases(block, np.random.default_rng(0))
    zeros = np.zeros_like(b)
    for given, whole in (
        ((), (zeros, zeros)),
        ((None,), (zeros, zeros)),
        ((None, None), (zeros, zeros)),
        ((b,), (b, zeros)),
        ((b, None), (b, zeros)),
        ((None, bh), (zeros, bh)),
    ):
        hs, expected = (
            ops.recurrent_forward(cell, block.xs, (Wx, Wh, *own), None)[0] for own in (given, whole)
        )
        np.testing.assert_array_equal(hs, expected)
    together, apart = (
        ops.recurrent_forward(cell, block.xs, (Wx, Wh, *own), None)[0]
        for own in ((b + bh,), (b, bh))
    )
    assert np.allclose(together, apart) == ("bh" not in cell.weights)


@every_ops
@every_cell
def test_packed_sequences_are_those_with_lengths(cell, ops):
    """Outputs, last states and gradients, in reverse too, with inputs that stay and that do not;
    the same where all rows are of one length."""
    for sizes, names in (((5, 7, 3, 4), ()), ((7, 9, 18, 33), ("reverse",)), ((1, 6, 3, 4), ())):
        for even in (False, True):
            block, lengths, counts = packed(make_block(cell, sizes, names))
            if even:
                lengths, counts = np.full(sizes[0], sizes[1]), np.full(sizes[1], sizes[0])
            block.options["lengths"] = lengths
            expected = run(ops, block)
            xs, dhs = rows_of(block.xs, counts), rows_of(block.dhs, counts)
            options = {k: v for k, v in block.options.items() if k != "lengths"}
            flat = replace(block, xs=xs, dhs=dhs, options=options | {"batch_sizes": counts})
            for name in ("hs", "dxs"):
                expected[name] = rows_of(expected[name], counts)
            for copy_xs in (True, False):
                results, cache = run_forward(ops, flat, copy_xs=copy_xs)
                counts_kept, counts[...] = counts.copy(), 0  # nobody looks at it again
                results |= run_backward(ops, flat, cache)
                counts[...] = counts_kept
                assert_all_close(results, expected)


@every_ops
@every_cell
def test_gradients_add_up_in_one_array(cell, ops):
    """Those of two directions, as a layer of both has them."""
    block = make_block(cell, (4, 5, 3, 6), ("lengths",))
    back = replace(block, options=block.options | {"reverse": True})
    expected = run(ops, block)["dxs"] + run(ops, back)["dxs"]
    dxs, _ = place(expected.shape, expected.dtype, np.random.default_rng(1))
    for one, adds in ((block, False), (back, True)):
        _, cache = run_forward(ops, one)
        results = run_backward(ops, one, cache, dxs=dxs, adds_dx=adds)
        assert results["dxs"] is dxs
    assert_close(dxs, expected)


@every_ops
@every_cell
def test_outputs_and_gradients_are_cleared_beyond_lengths(cell, ops):
    for lengths in ([3, 5, 0, 1], [2, 2, 2, 2], [0, 0, 0, 0]):
        block = make_block(cell, (4, 5, 3, 6), ())
        block.options["lengths"] = np.array(lengths)
        out, dxs = np.full(block.dhs.shape, np.nan), np.full(block.xs.shape, np.nan)
        results, cache = run_forward(ops, block, out=out)
        results |= run_backward(ops, block, cache, dxs=dxs)
        assert results["hs"] is out
        assert results["dxs"] is dxs
        assert not out[~block.exists].any()
        assert not dxs[~block.exists].any()
        assert_all_close(results, run(ops, block))


def lent(array):
    strides = tuple(distance // array.itemsize for distance in array.strides)
    return engine.Lent(array.ctypes.data, array.shape, strides, array.dtype)


@every_cell
@dtypes
def test_memory_that_is_lent_stands_for_arrays(cell, dtype):
    """Parts too: columns of outputs, one state of several, a gradient that is like its weight."""
    block = make_block(cell, (3, 4, 2, 5), [], dtype)
    weights = [np.ascontiguousarray(W.T).T for W in block.weights]
    (N, T, H), S, D = block.dhs.shape, cell.S, block.xs.shape[2]
    results = []
    for of in (np.asarray, lent):
        wide = np.full((N, T, H + 3), np.nan, dtype)
        last, dfirst = np.full((2, S, N, H), np.nan, dtype)
        grads = [np.full_like(W, np.nan) for W in weights]
        dxs = np.full((N, T, D), np.nan, dtype)
        if of is lent:
            out, lasts, dfirsts = lent(wide).columns(2, 2 + H), lent(last), lent(dfirst)
            dWs = [lent(W).at(dW.ctypes.data) for W, dW in zip(weights, grads, strict=True)]
        else:
            out, lasts, dfirsts, dWs = wide[:, :, 2 : 2 + H], last, dfirst, grads
        Ws = [of(W) for W in weights]
        *_, cache = kernels.recurrent_forward(
            cell, of(block.xs), Ws, [of(h) for h in block.states], out=out,
            last=[lasts[k] for k in range(S)],
        )  # fmt: skip
        kernels.recurrent_backward(
            cell, of(block.dhs), [of(d) for d in block.dlast], cache, Ws, dWs, dxs=of(dxs),
            dfirst=[dfirsts[k] for k in range(S)],
        )  # fmt: skip
        results.append([wide, last, dfirst, dxs, *grads])
    for expected, array in zip(*results, strict=True):
        np.testing.assert_array_equal(array, expected)
    assert np.isfinite(results[1][0][:, :, 2 : 2 + H]).all()
    with pytest.raises(ValueError, match="out: expected an array"):
        kernels.recurrent_forward(cell, lent(block.xs), Ws, None, out=lent(block.xs))


def test_what_cannot_be_written_is_refused():
    block = make_block(cells.LSTM_IFGO, (3, 4, 2, 5), (), "float32")
    _, cache = run_forward(kernels, block)
    grads = [np.full_like(W, 7) for W in block.weights]
    wrong = {
        "shape": np.zeros((3, 4, 6), "f"),
        "dtype": np.zeros((3, 4, 5)),
        "strides": np.zeros((3, 4, 10), "f")[:, :, ::2],
    }
    for array in wrong.values():
        with pytest.raises(ValueError, match=r"^out: expected an array \(3, 4, 5\) of float32"):
            run_forward(kernels, block, out=array)
        with pytest.raises(ValueError, match=r"^dxs: expected an array \(3, 4, 2\) of float32"):
            run_backward(kernels, block, cache, dxs=array)
    narrow = make_block(cells.LSTM_IFGO, (3, 4, 2, 1), (), "float32")
    out = np.zeros((3, 4, 2), "f")[:, :, ::2]  # a single number in a row is contiguous
    assert out.strides[2] > out.itemsize
    assert_all_close(run_forward(kernels, narrow, out=out)[0], run_forward(kernels, narrow)[0])
    constant = np.zeros((3, 4, 5), "f")
    constant.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        run_forward(kernels, block, out=constant)
    h = np.zeros((3, 5), "f")
    with pytest.raises(ValueError, match=r"^last: expected an array for each of 2 states, got 1"):
        run_forward(kernels, block, last=[h])
    with pytest.raises(ValueError, match=r"^last: expected an array \(3, 5\)"):
        run_forward(kernels, block, last=[h, h.T])
    with pytest.raises(ValueError, match=r"^dfirst: expected an array \(3, 5\)"):
        run_backward(kernels, block, cache, dfirst=[h, h[:2]])
    with pytest.raises(ValueError, match=r"^dxs: expected an array to add to"):
        run_backward(kernels, block, cache, adds_dx=True)
    for threads in (0, -1):
        with pytest.raises(ValueError, match=r"^threads: expected a number of 1 or more"):
            run_forward(kernels, block, threads=threads)
        with pytest.raises(ValueError, match=r"^threads: expected a number of 1 or more"):
            run_backward(kernels, block, cache, threads=threads)
    with pytest.raises(RuntimeError, match="expected gradients and weights as in the last forward"):
        kernels.recurrent_backward(
            block.cell, block.dhs.swapaxes(0, 1), None, cache, block.weights[:2], grads
        )
    for k in (2, 3):
        given = [*grads, grads[2]]
        given[k] = given[k][1:]
        with pytest.raises(ValueError, match="weights and gradients: expected the shapes"):
            kernels.recurrent_backward(block.cell, block.dhs, None, cache, block.weights[:2], given)
        weights = [*block.weights, block.weights[2]]
        weights[k] = weights[k][1:]
        with pytest.raises(ValueError, match="weights and gradients: expected the shapes"):
            run_forward(kernels, replace(block, weights=weights))
    assert all((dW == 7).all() for dW in grads)
    assert_all_close(run_backward(kernels, block, cache), run_backward(kernels, block, cache))


@pytest.mark.parametrize(
    "sizes", [[2, 3, 1], [3, 2], [3, 2, 1, 0], [4, 3, -1], [], [0], [3, 3, 1]], ids=str
)
def test_batch_sizes_that_do_not_fit_are_refused(sizes):
    block = make_block(cells.GRU_RZN, (3, 4, 2, 5), (), "float32")
    xs = block.xs.reshape(-1, 2)[:6]
    with pytest.raises(ValueError, match=r"^batch_sizes: expected how many rows each step has"):
        kernels.recurrent_forward(
            block.cell, xs, block.weights, None, batch_sizes=np.array(sizes, np.int64)
        )
    other = {
        "index": np.zeros((3, 2), np.int64),
        "lengths": np.array([3, 2, 1]),
        "reset": np.zeros((3, 3), bool),
        "zoneouts": (None,),
    }
    for name, value in other.items():
        with pytest.raises(ValueError, match=r"^batch_sizes: expected neither index"):
            kernels.recurrent_forward(
                block.cell, xs, block.weights, None,
                batch_sizes=np.array([3, 2, 1]), **{name: value},
            )  # fmt: skip


def test_threads_of_a_call():
    """One where one is asked for, whatever the engine has; those of the engine otherwise."""
    block = make_block(cells.LSTM_IFGO, (40, 6, 20, 30), (), "float32")
    engine.set_num_threads(1)
    expected = run(kernels, block)
    for engines in (1, 2):
        engine.set_num_threads(engines)
        for threads in (None, 1, 2, 4):
            results, cache = run_forward(kernels, block, threads=threads)
            results |= run_backward(kernels, block, cache, threads=threads)
            for name in results:
                np.testing.assert_array_equal(results[name], expected[name])
        assert engine.get_num_threads() == engines


PROGRAM = """
import os
import numpy as np
from rnnfast import cells, kernels
from rnnfast.kernels import engine

engine.set_serial_flops(0)
zeros = lambda *shape: np.zeros(shape, "f")
weights, grads = ([zeros(3, 20), zeros(5, 20)] for _ in range(2))

def started(**options):
    before = len(os.listdir("/proc/self/task"))
    *_, cache = kernels.recurrent_forward(cells.LSTM, zeros(40, 2, 3), weights, None, **options)
    forward = len(os.listdir("/proc/self/task")) - before
    kernels.recurrent_backward(
        cells.LSTM, zeros(40, 2, 5), None, cache, weights, grads, **options
    )
    return forward, len(os.listdir("/proc/self/task")) - before

engine.set_num_threads(3)
assert started(threads=1) == (0, 0)
assert started() == (2, 2)
engine.set_num_threads(1)
assert started(threads=4) == (1, 1)
"""


@pytest.mark.skipif(
    not (engine.HAS_OPENMP and Path("/proc/self/task").is_dir()),
    reason="threads are counted where Linux shows them, and where there are any",
)
def test_as_many_threads_are_started():
    """No more than the call may have, whatever all calls may; those that are there stay."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", PROGRAM], check=True, timeout=120, env=environment)
