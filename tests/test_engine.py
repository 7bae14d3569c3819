"""The compiled engine: products, functions, recurrent kernels against their NumPy twins, threads.

The instruction sets below the best one are tested by running these tests again with RNNFAST_CPU.
"""

import os
import subprocess
import sys

import numpy as np
import pytest
import sequences
from problems import MODELS, assert_close

import rnnfast
from rnnfast import cells, kernels
from rnnfast.kernels import engine, products, sums
from rnnfast.reference import ops as twins

DTYPES = pytest.mark.parametrize("dtype", [np.float32, np.float64])
CELLS = list(cells.KERNEL_CELLS)


pytestmark = pytest.mark.usefixtures("threads_for_small_calls")


@DTYPES
@pytest.mark.parametrize(
    ("M", "K", "n"),
    [(1, 1, 1), (1, 7, 300), (2, 3, 130), (3, 100, 64), (5, 17, 65), (7, 700, 129),
     (200, 1030, 70), (131, 64, 1000), (6, 512, 64), (4, 513, 63), (310, 2500, 130)],
)  # fmt: skip
def test_product(dtype, M, K, n):
    rng = np.random.default_rng(M + K + n)
    A, B = rng.standard_normal((M, K)).astype(dtype), rng.standard_normal((K, n)).astype(dtype)
    C = products.matmul(A, B)
    assert_close(C, (A.astype(np.float64) @ B).astype(dtype), dtype=dtype)
    # packing reads any strides, and no row depends on the rows beside it
    np.testing.assert_array_equal(C, products.matmul(A, np.asfortranarray(B)))
    np.testing.assert_array_equal(C[-1:], products.matmul(A[-1:], B))


def within(W):
    """W with NaN all around."""
    return np.pad(W.copy(), ((1, 1), (2, 50)), constant_values=np.nan)[1:-1, 2:-50]


LAYOUTS_OF_W = {
    "rows": np.ascontiguousarray,
    "rows upwards": lambda W: W[::-1].copy()[::-1],
    "rows of a larger matrix": within,
    "columns": np.asfortranarray,
    "columns leftwards": lambda W: np.asfortranarray(W[:, ::-1])[:, ::-1],
    "columns of a larger matrix": lambda W: within(W.T).T,
    "packed": lambda W: np.repeat(np.repeat(W, 2, 0), 2, 1)[::2, ::2],
}


@DTYPES
@pytest.mark.parametrize("layout", LAYOUTS_OF_W)
@pytest.mark.parametrize("gates", [1, 2, 4])
@pytest.mark.parametrize(
    ("K", "H"), [(16, 16), (17, 33), (23, 100), (300, 1), (250, 63), (200, 64), (701, 130)]
)
def test_weights_read_where_they_stand(dtype, layout, gates, K, H):
    """For 1 to 20 rows, added to what is there, panel by panel. Nothing is read but W and the rows,
    as NaN around it would tell, and AddressSanitizer."""
    rng = np.random.default_rng(K + H)
    n = gates * H
    A, W, init = (rng.standard_normal(s).astype(dtype) for s in ((20, K), (K, n), (20, n)))
    wanted = (init.astype(np.float64) + A.astype(np.float64) @ W).astype(dtype)
    _, packed = products.multiply(A, W, init, gates, 1000)
    W, ways, before = LAYOUTS_OF_W[layout](W), [], {}
    for M in range(1, 21):
        way, C = products.multiply(A[:M], W, init[:M], gates, M)
        ways.append(way)
        assert_close(C, wanted[:M], dtype=dtype)
        # no row depends on those beside it
        np.testing.assert_array_equal(C[:-1], before.get(way, C)[: M - 1])
        before[way] = C
        if way != "columns":
            np.testing.assert_array_equal(C, packed[:M])
    if n >= 16 and (gates != 2 or "columns" in layout):
        assert ways[0] == layout.split()[0]
    assert products.multiply(A, W, init, gates, 49)[0] == "packed"


@DTYPES
@pytest.mark.parametrize("layout", LAYOUTS_OF_W)
@pytest.mark.parametrize("gates", [1, 4])
def test_what_is_not_finite_stays_in_its_row_and_column(dtype, layout, gates):
    """Also where vectors read beyond the end of a row or of a gate, or numbers twice."""
    rng = np.random.default_rng(0)
    K, n = 37, gates * 21
    A, W, init = (rng.standard_normal(s).astype(dtype) for s in ((3, K), (K, n), (3, n)))
    for k in range(K):
        W[k, k % n] = np.inf if k % 2 else np.nan
    A[1, 2] = np.nan
    A[2, 0] = -np.inf
    with np.errstate(invalid="ignore"):
        wanted = init.astype(np.float64) + A.astype(np.float64) @ W
    _, C = products.multiply(A, LAYOUTS_OF_W[layout](W), init, gates, 3)
    np.testing.assert_array_equal(np.isnan(C), np.isnan(wanted))
    np.testing.assert_array_equal(C[np.isinf(wanted)], wanted[np.isinf(wanted)])


@DTYPES
@pytest.mark.parametrize("tile_rows", [1, 2, 3, 4, 5, 6])
@pytest.mark.parametrize(
    ("K", "M", "n"), [(1, 1, 1), (300, 17, 70), (2100, 21, 65), (17000, 17, 3), (16500, 21, 130)]
)
def test_product_of_columns(dtype, tile_rows, K, M, n):
    """In tiles of any height, sums of many parts included."""
    rng = np.random.default_rng(K)
    A, B = rng.standard_normal((K, M)).astype(dtype), rng.standard_normal((K, n)).astype(dtype)
    C = sums.product_of_columns(A, B, tile_rows)
    assert_close(C, (A.astype(np.float64).T @ B).astype(dtype), dtype=dtype)
    np.testing.assert_array_equal(C, sums.product_of_columns(A, np.asfortranarray(B), 6))


def errors(name, x):
    """Of a function, in units in the last place of the exact result, denormal ones included."""
    functions = {"tanh": np.tanh, "sigmoid": lambda x: 1 / (1 + np.exp(-x)), "exp": np.exp}
    y, info = engine.map_function(name, x), np.finfo(x.dtype)
    with np.errstate(over="ignore"):
        true = functions[name](x.astype(np.longdouble))
    unit = np.ldexp(1.0, np.maximum(np.frexp(true)[1], info.minexp + 1) - info.nmant - 1)
    return np.abs(y - true) / unit


# Where the errors are largest among all 2^32 numbers, with fused multiply-add and without, and
# where the result is denormal (see simd/functions.h).
WORST = {
    "tanh": [0.692524672],
    "sigmoid": [-5.19911861, -26.7120171, -87.6975479, -87.7071228],
    "exp": [-5.86446524, -5.86976576, -87.701004, -87.3373566],
}


@pytest.mark.parametrize("name", WORST)
def test_float32_functions_are_good_to_a_unit_in_the_last_place(name):
    # every 997th float32 of both signs, from 0 to infinity
    bits = np.arange(0, 0x7F800000, 997, dtype=np.uint32)
    x = np.concatenate((bits.view(np.float32), -bits.view(np.float32), np.float32(WORST[name])))
    if name == "exp":
        assert np.all(engine.map_function(name, x[x > 88.73]) == np.inf)
        x = x[x < 88.72]
    units = errors(name, x)
    print(f"{name}: largest error {units.max():.4f} ulp at {x[units.argmax()]}")
    assert units.max() <= 1, x[units.argmax()]


@pytest.mark.parametrize(("name", "most"), [("tanh", 3), ("sigmoid", 1.2), ("exp", 1.2)])
def test_float64_functions_are_good_to_a_few_units_in_the_last_place(name, most):
    rng = np.random.default_rng(0)
    x = [np.linspace(-40, 40, 200001), np.linspace(-750, 709, 20001), rng.standard_normal(100000)]
    x = np.concatenate((*x, 10.0 ** np.linspace(-300, 0, 10001)))
    units = errors(name, x)
    print(f"{name}: largest error {units.max():.2f} ulp at {x[units.argmax()]}")
    assert units.max() <= most, x[units.argmax()]


@DTYPES
def test_functions_keep_nan_and_saturate(dtype):
    x = np.array([np.nan, -np.nan, np.inf, -np.inf, 1e30, -1e30, 0.0, -0.0], dtype)
    x = np.tile(x, 5)  # whole vectors, and a rest
    for name, wanted in {
        "tanh": [np.nan, np.nan, 1, -1, 1, -1, 0, -0.0],
        "sigmoid": [np.nan, np.nan, 1, 0, 1, 0, 0.5, 0.5],
        "exp": [np.nan, np.nan, np.inf, 0, np.inf, 0, 1, 1],
    }.items():
        y, wanted = engine.map_function(name, x), np.tile(np.array(wanted, dtype), 5)
        np.testing.assert_array_equal(y, wanted, err_msg=name)
        number = ~np.isnan(x)
        np.testing.assert_array_equal(np.signbit(y)[number], np.signbit(wanted)[number])


@DTYPES
def test_tanh_is_odd(dtype):
    x = np.concatenate((np.linspace(0, 10, 10001), 10.0 ** np.linspace(-44, 1, 1001))).astype(dtype)
    np.testing.assert_array_equal(engine.map_function("tanh", -x), -engine.map_function("tanh", x))


def problem(cell, dtype, N, T, D, H, U=None):
    """Arguments of forward and backward, as random numbers."""
    rng = np.random.default_rng(0)
    columns, S = cells.KERNEL_CELLS[cell].G * H, cells.KERNEL_CELLS[cell].S

    def normal(*shape):
        return rng.standard_normal(shape).astype(dtype)

    biases = [normal(columns) for _ in cells.KERNEL_CELLS[cell].weights[2:]]
    weights = (normal(D, columns) / dtype(D**0.5), normal(H, columns) / dtype(H**0.5), *biases)
    xs = normal(N, T, D) if U is None else normal(U, D)
    index = None if U is None else rng.integers(0, U, (N, T))
    return xs, weights, normal(S, N, H), index, normal(N, T, H), normal(S, N, H)


def run(ops, cell, xs, weights, states, index, dhs, dstates, *, cache=None, **options):
    """Everything that forward and backward return and write, by name, and the cache."""
    cell = cells.KERNEL_CELLS[cell]
    hs, last, cache = ops.recurrent_forward(cell, xs, weights, states, index=index, cache=cache)
    grads = [np.full_like(W, np.nan) for W in weights]
    dxs, dfirst = ops.recurrent_backward(cell, dhs, dstates, cache, weights[:2], grads, **options)
    results = {"hs": hs, "last": last, "dfirst": dfirst}
    results |= {f"d{name}": dW for name, dW in zip(cell.weights, grads, strict=True)}
    return results | ({} if dxs is None else {"dxs": dxs}), cache


SHAPES = [
    *((1, 1, 1, 1), (1, 25, 65, 100), (2, 3, 5, 17), (3, 4, 16, 64), (7, 13, 37, 193)),
    *((10, 5, 100, 100), (5, 2, 3, 16), (20, 3, 70, 130), (33, 2, 600, 33), (2, 300, 4, 8)),
    (3, 2, 1100, 300),  # K in blocks, of rows and of gates
]


@DTYPES
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_recurrent_kernels_agree_with_their_twins(cell, dtype, shape, threads):
    engine.set_num_threads(threads)
    arguments = problem(cell, dtype, *shape)
    ours, cache = run(kernels, cell, *arguments)
    twin, _ = run(twins, cell, *arguments)
    assert ours.keys() == twin.keys()
    for name in ours:
        assert_close(ours[name], twin[name], name=name, dtype=dtype)
    # the memory of a call before changes nothing, nor does leaving out dx
    again, _ = run(kernels, cell, *arguments, cache=cache, need_dx=False)
    assert ours.keys() - again.keys() == {"dxs"}
    for name in again:
        np.testing.assert_array_equal(again[name], ours[name])


@DTYPES
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("U", [1, 3, 40, 600])
def test_indexed_input_is_the_input_it_stands_for(cell, dtype, U):
    arguments = problem(cell, dtype, 7, 13, 37, 50, U)
    ours, _ = run(kernels, cell, *arguments)
    twin, _ = run(twins, cell, *arguments)
    for name in twin:
        assert_close(ours[name], twin[name], name=name, dtype=dtype)


@DTYPES
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("U", [None, 9])
@pytest.mark.parametrize("shape", [(20, 30, 70, 100), (2, 60, 70, 200), (13, 15, 37, 193)], ids=str)
def test_same_bits_for_any_number_of_threads(cell, dtype, shape, U):
    arguments = problem(cell, dtype, *shape, U)
    engine.set_num_threads(1)
    serial, _ = run(kernels, cell, *arguments)
    for threads in (2, 3, 4):
        engine.set_num_threads(threads)
        parallel, _ = run(kernels, cell, *arguments)
        for name in serial:
            np.testing.assert_array_equal(parallel[name], serial[name])


@DTYPES
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize(("U", "options"), [(1200, {}), (None, {"truncate": 2})])
@pytest.mark.parametrize(
    "shape", [(7, 400, 20, 70), (300, 10, 5, 17), (1500, 7, 4, 9), (1, 1100, 3, 33)], ids=str
)
def test_backward_in_chunks(cell, dtype, shape, U, options):
    """T * N well above the rows of gates whose gradients are in memory at a time, and no multiple
    of them; cuts within chunks and between them; more rows of x than a chunk has."""
    *arguments, dhs, dstates = problem(cell, dtype, *shape, U)
    N, T, _, H = shape
    view = np.full((N, 2 * T, H + 3), np.nan, dtype)[:, ::-2, 1:-2]  # rows contiguous, no copy
    view[...] = dhs
    engine.set_num_threads(1)
    twin, _ = run(twins, cell, *arguments, dhs, dstates, **options)
    ours, cache = run(kernels, cell, *arguments, view, dstates, **options)
    for name in twin:
        assert_close(ours[name], twin[name], name=name, dtype=dtype)
    for threads in (2, 3):
        engine.set_num_threads(threads)
        for need_dx in (True, False):
            again, _ = run(kernels, cell, *arguments, view, dstates, cache=cache, need_dx=need_dx,
                           **options)  # fmt: skip
            assert twin.keys() - again.keys() == ({"dxs"} if not need_dx else set())
            for name in again:
                np.testing.assert_array_equal(again[name], ours[name])


@DTYPES
@pytest.mark.parametrize("cell", CELLS)
def test_any_strides(cell, dtype):
    xs, weights, states, _, dhs, dstates = problem(cell, dtype, 6, 5, 20, 30)

    def strange(a):
        view = np.zeros(tuple(2 * n for n in a.shape[::-1]), dtype).T
        view = view[tuple(slice(None, None, -2) for _ in a.shape)]
        view[...] = a
        view.flags.writeable = False
        return view

    plain, _ = run(kernels, cell, xs, weights, states, None, dhs, dstates)
    odd, _ = run(kernels, cell, strange(xs), [strange(W) for W in weights], strange(states), None,
                 strange(dhs), strange(dstates))  # fmt: skip
    for name in plain:
        np.testing.assert_array_equal(odd[name], plain[name])


@pytest.mark.parametrize("cell", CELLS)
def test_weights_may_change_between_any_two_calls(cell):
    xs, weights, states, _, dhs, dstates = problem(cell, np.float64, 4, 6, 10, 12)
    results = {}
    for ops in (kernels, twins):
        results[ops] = []
        changed, cache = [W.copy() for W in weights], None
        for _ in range(2):
            *outputs, cache = ops.recurrent_forward(
                cells.KERNEL_CELLS[cell], xs, changed, states, cache=cache
            )
            changed[1] *= 1.5  # between forward and backward
            grads = [np.empty_like(W) for W in changed]
            outputs += ops.recurrent_backward(
                cells.KERNEL_CELLS[cell], dhs, dstates, cache, changed[:2], grads
            )
            changed[0] -= 0.25  # between backward and forward
            results[ops] += [*outputs, *grads]
    for a, b in zip(results[kernels], results[twins], strict=True):
        assert_close(a, b, dtype=np.float64)


FORK = """
import os, sys, numpy as np
from rnnfast import TimeLSTM, set_num_threads
set_num_threads(2)
rng = np.random.default_rng(0)
W = [rng.standard_normal(s) for s in ((100, 400), (100, 400), (400,))]
xs = rng.standard_normal((20, 30, 100))
before = TimeLSTM(*W).forward(xs)
child = os.fork()
if child == 0:
    os._exit(0 if np.array_equal(TimeLSTM(*W).forward(xs), before) else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_fork():
    subprocess.run([sys.executable, "-W", "ignore", "-c", FORK], check=True, timeout=60)


def test_an_instruction_set_that_is_not_there_is_an_error():
    environment = {**os.environ, "RNNFAST_CPU": "avx1024"}
    command = [sys.executable, "-c", "import rnnfast"]
    result = subprocess.run(command, check=False, env=environment, text=True, capture_output=True)
    assert result.returncode
    assert "avx1024" in result.stderr
    assert "baseline" in result.stderr


def test_cpu_level_is_the_one_asked_for():
    assert os.environ.get("RNNFAST_CPU", engine.CPU_LEVEL) == engine.CPU_LEVEL


@DTYPES
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(
    "shape",
    [(1, 1, 1), (3, 7, 5), (50, 100, 418), (300, 33, 129), (2, 9, 3000), (1, 650, 129),
     (4, 300, 1000), (20, 129, 33), (16, 40, 65), (5, 32, 1024)],
)  # fmt: skip
def test_affine(dtype, threads, transposed, shape):
    engine.set_num_threads(threads)
    M, D, V = shape
    rng = np.random.default_rng(M)
    x, dout, b = (rng.standard_normal(s).astype(dtype) for s in ((M, D), (M, V), (V,)))
    W = rng.standard_normal((V, D) if transposed else (D, V)).astype(dtype)
    W = W.T if transposed else W
    assert_close(kernels.affine_forward(x, W, b), twins.affine_forward(x, W, b), dtype=dtype)
    results = []
    for ops in (kernels, twins):
        dW, db = np.full_like(W, np.nan), np.full_like(b, np.nan)
        results.append((ops.affine_backward(dout, x, W, dW, db), dW, db))
    for ours, theirs in zip(*results, strict=True):
        assert_close(ours, theirs, dtype=dtype)


@DTYPES
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(
    "shape",
    [
        (5, 30, 700),
        (131, 64, 300),
        (2500, 310, 70),
        (310, 2500, 130),
        (9, 7, 1200),
        (2, 650, 333),
        (1, 651, 333),
    ],
    ids=str,
)
def test_affine_has_the_same_bits_for_any_number_of_threads(dtype, transposed, shape):
    """All three products, sums of more terms than a block and rows of more than one included."""
    M, D, V = shape
    rng = np.random.default_rng(0)
    x, W, b, dout = (rng.standard_normal(s).astype(dtype) for s in ((M, D), (D, V), V, (M, V)))
    W = np.asfortranarray(W) if transposed else W
    results = []
    for threads in (1, 2, 3):
        engine.set_num_threads(threads)
        dW, db = np.empty_like(W), np.empty_like(b)
        out, dx = kernels.affine_forward(x, W, b), kernels.affine_backward(dout, x, W, dW, db)
        results.append((out, dx, dW, db))
    x, W, b, dout = (a.astype(np.float64) for a in (x, W, b, dout))
    theirs = x @ W + b, dout @ W.T, x.T @ dout, dout.sum(axis=0)
    for ours, wanted in zip(results[0], theirs, strict=True):
        assert_close(ours, wanted.astype(dtype), dtype=dtype)
    for other in results[1:]:
        for ours, theirs in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(ours, theirs)


@DTYPES
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(
    "shape", [(1, 1, 1), (3, 7, 5), (50, 100, 418), (300, 33, 10007), (100, 9, 64)]
)
def test_fused_loss(dtype, threads, transposed, shape):
    engine.set_num_threads(threads)
    M, D, V = shape
    rng = np.random.default_rng(M)
    x, b = (3 * rng.standard_normal(s).astype(dtype) for s in ((M, D), (V,)))
    W = rng.standard_normal((V, D) if transposed else (D, V)).astype(dtype)
    W = W.T if transposed else W
    targets = rng.integers(-1, V, M)
    results, cache = [], None
    for ops in (twins, kernels, kernels):
        *loss, cache = ops.affine_loss_forward(
            x, W, b, targets, -1, cache=None if len(results) < 2 else cache
        )
        dW, db = np.full_like(W, np.nan), np.full_like(b, np.nan)
        dx = ops.affine_loss_backward(cache, 0.5, dW, db)
        results.append((np.array(loss, dtype), dx, dW, db))
    for theirs, ours, again in zip(*results, strict=True):
        assert_close(ours, theirs, dtype=dtype)
        np.testing.assert_array_equal(ours, again)
    total, count, _ = kernels.affine_loss_forward(x, W, b, targets, -1, need_gradient=False)
    np.testing.assert_array_equal(np.array((total, count), dtype), results[1][0])


@DTYPES
@pytest.mark.parametrize("shape", [(700, 128, 65), (60_000, 20, 65), (350, 12, 30_011)], ids=str)
def test_fused_loss_in_blocks_has_the_same_bits_for_any_number_of_threads(dtype, shape):
    """One block; several, with few panels, where threads have rows of dW; several, with many."""
    M, D, V = shape
    rng = np.random.default_rng(0)
    x, W, b = (rng.standard_normal(s).astype(dtype) for s in ((M, D), (D, V), (V,)))
    targets = rng.integers(-1, V, M)
    results = []
    for ops, threads in ((twins, 1), (kernels, 1), (kernels, 2), (kernels, 3)):
        engine.set_num_threads(threads)
        total, _, cache = ops.affine_loss_forward(x, W, b, targets, -1)
        dW, db = np.full_like(W, np.nan), np.full_like(b, np.nan)
        results.append((np.array(total, dtype), ops.affine_loss_backward(cache, 1, dW, db), dW, db))
    twin, serial, *parallel = results
    for ours, theirs in zip(serial, twin, strict=True):
        assert_close(ours, theirs, dtype=dtype)
    for other in parallel:
        for ours, theirs in zip(serial, other, strict=True):
            np.testing.assert_array_equal(ours, theirs)


@DTYPES
@pytest.mark.parametrize("Model", MODELS)
@pytest.mark.parametrize(("V", "length"), [(13, 200), (300, 50), (300, 7), (5, 6)])
@pytest.mark.parametrize("num_layers", [1, 3])
@pytest.mark.parametrize("temperature", [0, 0.7])
@pytest.mark.parametrize("tied", [False, True])
def test_generation(dtype, Model, V, length, num_layers, temperature, tied):
    """Of many tokens, for which weights are packed, and of a few, for which they are not."""
    results = []
    for ops in (kernels, twins):
        model = Model(
            V, 33 if tied else 20, 33, num_layers=num_layers, tie_weights=tied, dtype=dtype,
            rng=np.random.default_rng(0), ops=ops,
        )  # fmt: skip
        model.affine.params[0][...] *= 10
        rng = np.random.default_rng(1)
        for name, b in model.named_params().items():
            if name.endswith(".b"):
                b[...] = rng.standard_normal(b.shape)
        options = {"temperature": temperature, "skip_ids": [4]}
        results.append(
            [
                rnnfast.generate(model, [1, 2, 3], length, rng=rng, **options),
                rnnfast.generate(model, [1], length, rng=rng, top_k=V // 2, top_p=0.9, **options),
                *rnnfast.generate(model, [3, 2], length, rng=rng, samples=7, **options),
            ]
        )
    for ours, theirs in zip(*results, strict=True):
        np.testing.assert_array_equal(ours, theirs)
        assert 4 not in ours


# More rows than a block of forward, a chunk of backward and a thread of few rows have.
LONG = (37, 45, 5, 70)


@pytest.mark.parametrize("names", [(), sequences.OPTIONS, ("index",), ("lengths",)], ids=str)
@pytest.mark.parametrize("cell", CELLS)
def test_threads_change_no_bit_of_any_option(cell, names):
    """By rows of the batch and by units; with and without gradient; of one direction and of two."""
    for sizes in (LONG, (3, 5, 4, 70)):
        block = sequences.make_block(cells.KERNEL_CELLS[cell], sizes, names, "float32")
        back = sequences.make_block(cells.KERNEL_CELLS[cell], sizes, names, "float32", seed=1)
        both = sequences.both_directions(block, back)
        results = []
        for threads in (1, 2, 3):
            engine.set_num_threads(threads)
            of_one = sequences.run(kernels, block)
            of_two = sequences.run_both(kernels, both)
            alone, _ = sequences.run_forward(kernels, block, need_gradient=False)
            results.append((of_one, of_two, alone))
        for of_one, of_two, alone in results:
            assert_all_equal(of_one, results[0][0])
            assert_all_equal(of_two, results[0][1])
            assert_all_equal(alone, {name: of_one[name] for name in alone})


@pytest.mark.parametrize("names", [(), sequences.OPTIONS], ids=["plain", "all"])
@pytest.mark.parametrize("cell", CELLS)
def test_long_blocks_agree_with_their_twins(cell, names):
    engine.set_num_threads(2)
    block = sequences.make_block(cells.KERNEL_CELLS[cell], LONG, names)
    ours, twins_ = sequences.run(kernels, block), sequences.run(twins, block)
    assert ours.keys() == twins_.keys()
    for name in ours:
        assert_close(ours[name], twins_[name], 1e-11, name)


def assert_all_equal(ours, expected):
    assert ours.keys() == expected.keys()
    for name in ours:
        np.testing.assert_array_equal(ours[name], expected[name], err_msg=name)
