"""Every compiled kernel and every layer gives what its NumPy twin gives, whatever the strides."""

import copy
import itertools
import pickle

import numpy as np
import pytest
from problems import (
    CELLS,
    DTYPES,
    LAYERS,
    LAYOUTS,
    OPTIMIZERS,
    SIZES,
    assert_all_close,
    assert_close,
    backward_cell,
    empty_grads,
    forward_cell,
    make_cell,
    make_problem,
    run_cell,
)

import rnnfast
from rnnfast import kernels, reference, selfcheck
from rnnfast.reference import ops as numpy_ops

RANDOM_SIZES = [tuple(map(int, s)) for s in np.random.default_rng(7).integers(1, 24, (6, 5))]
sizes = pytest.mark.parametrize("sizes", SIZES + RANDOM_SIZES, ids=str)
dtypes = pytest.mark.parametrize("dtype", DTYPES)
layers = pytest.mark.parametrize("name", LAYERS)
layouts = pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)


ONES = np.ones(3)


@pytest.mark.parametrize(
    ("actual", "tolerance"),
    [
        (np.array([1, 1, 1 + 2e-12]), None),
        (np.array([1, 1, 1.002]), 1e-3),
        (np.array([1, np.nan, 1]), 1),
        (np.array([1, 1, np.inf]), 1),
        (np.ones((3, 1)), 1),
        (ONES.astype("f"), None),
    ],
    ids=["rounding", "tolerance", "NaN", "infinity", "shape", "dtype"],
)
def test_assert_close_finds(actual, tolerance):
    assert_close(ONES, ONES, tolerance)
    with pytest.raises(AssertionError, match="which: "):
        assert_close(actual, ONES, tolerance, "which")
    with pytest.raises(AssertionError):
        assert_close(ONES, actual, tolerance)


def test_assert_close_compares_with_the_largest_value():
    assert_close([1e6, 5e-7], [1e6, 0.0])
    assert_close(ONES.astype("f"), ONES, 1e-6)
    assert_close(ONES, ONES, dtype=np.float64)
    for different in (lambda: assert_close([1e-9], [0.0]),
                      lambda: assert_close(ONES, ONES, dtype=np.float32)):  # fmt: skip
        with pytest.raises(AssertionError):
            different()


@sizes
@dtypes
@pytest.mark.parametrize("cell", CELLS)
def test_recurrent_kernels(cell, dtype, sizes):
    arrays = make_cell(cell, dtype, sizes)
    ours, twins = run_cell(kernels, cell, arrays), run_cell(numpy_ops, cell, arrays)
    assert_all_close(ours, twins)
    assert {array.dtype for array in (ours | twins).values()} == {np.dtype(dtype)}


@layouts
@pytest.mark.parametrize("cell", CELLS)
def test_recurrent_kernels_take_any_strides(cell, layout):
    arrays = make_cell(cell)
    strided = {name: layout(array) for name, array in arrays.items()}
    assert_all_close(run_cell(kernels, cell, strided), run_cell(kernels, cell, arrays))
    for name, array in arrays.items():
        np.testing.assert_array_equal(strided[name], array, err_msg=f"{name} was modified")


@pytest.mark.parametrize("layout", LAYOUTS[:-1], ids=lambda layout: layout.__name__)
def test_gradient_buffers_may_have_any_strides(layout):
    """They are allocated like the weights, so those of W.T have the order of W."""
    arrays = make_cell("lstm")
    _, cache = forward_cell(kernels, "lstm", arrays)
    expected = run_cell(kernels, "lstm", arrays)
    grads = {f"d{name}": layout(np.full_like(arrays[name], 9)) for name in ("Wx", "Wh", "b")}
    backward_cell(kernels, "lstm", arrays, cache, [*grads.values()])
    assert_all_close(grads, {name: expected[name] for name in grads})

    dout, ids = arrays["xs"], np.zeros((3, 5), np.int64)
    dW = layout(np.full((7, 4), 9.0))
    kernels.embedding_backward(dout, ids, dW)
    assert_close(dW[0], dout.sum(axis=(0, 1)))


@dtypes
@sizes
def test_embedding_kernels(dtype, sizes):
    N, T, D, _, V = sizes
    rng = np.random.default_rng(sizes)
    W, dout = rng.standard_normal((V, D)).astype(dtype), rng.standard_normal((N, T, D))
    dout = dout.astype(dtype)
    ids = rng.integers(0, V, (N, T)) // 2  # most of them more than once
    np.testing.assert_array_equal(kernels.embedding_forward(W, ids), W[ids], strict=True)
    ours, twin = (np.full_like(W, np.nan) for _ in range(2))
    kernels.embedding_backward(dout, ids, ours)
    numpy_ops.embedding_backward(dout, ids, twin)
    assert_close(ours, twin)


@dtypes
@sizes
@pytest.mark.parametrize("ignore_label", [-1, 0, 999])
def test_softmax_loss_kernels(dtype, sizes, ignore_label):
    N, T, _, _, V = sizes
    rng = np.random.default_rng(sizes)
    logits = (10 * rng.standard_normal((N * T, V))).astype(dtype)
    targets = rng.integers(0, V, N * T)
    targets[:: max(2, V)] = ignore_label
    loss, count, probs = kernels.softmax_loss_forward(logits, targets, ignore_label)
    twin_loss, twin_count, twin_probs = numpy_ops.softmax_loss_forward(
        logits, targets, ignore_label
    )
    assert count == twin_count == (targets != ignore_label).sum()
    assert loss == pytest.approx(twin_loss, rel=1e-5 if dtype == "float32" else 1e-12)
    assert_close(probs, twin_probs)
    ours, twin = (
        ops.softmax_loss_backward(twin_probs, targets, ignore_label, 0.3)
        for ops in (kernels, numpy_ops)
    )
    assert_close(ours, twin)
    assert ours.dtype == probs.dtype == dtype


@sizes
@dtypes
@layers
def test_layers(name, dtype, sizes):
    problem = make_problem(name, dtype, sizes)
    ours, twins = problem.run(rnnfast), problem.run(reference)
    assert_all_close(ours, twins, tolerance=3e-5 if dtype == "float32" else 1e-12)
    arrays = [result for result in (ours | twins).values() if isinstance(result, np.ndarray)]
    assert {array.dtype for array in arrays} == {np.dtype(dtype)}


@dtypes
@pytest.mark.parametrize("layout", [np.copy, *LAYOUTS], ids=lambda layout: layout.__name__)
@pytest.mark.parametrize("sizes", [(1, 5), (7, 13), (64, 33), (129, 65), (300, 100)], ids=str)
def test_affine_layer_with_few_rows(sizes, layout, dtype):
    """Whatever the order of its weights in memory; the rows are those of one call with all."""
    D, V = sizes
    rng = np.random.default_rng(D)
    arrays = (rng.standard_normal(s).astype(dtype) for s in ((D, V), V, (20, 2, D), (20, 2, V)))
    W, b, x, dout = map(layout, arrays)
    for rows in (*range(1, 21), 30):
        results = []
        for module in (rnnfast, reference):
            layer = module.TimeAffine(W, b)
            out = layer.forward(x[:rows])
            dx, grads = layer.backward(dout[:rows]), layer.named_grads()
            results.append(grads | {"out": out, "infer": layer.infer(x[:rows]), "dx": dx})
        assert_all_close(*results)
        np.testing.assert_array_equal(results[0]["infer"], results[0]["out"])


@dtypes
@pytest.mark.parametrize("layout", [np.copy, *LAYOUTS[:-1]], ids=lambda layout: layout.__name__)
@pytest.mark.parametrize("Optimizer", OPTIMIZERS)
def test_optimizers(Optimizer, layout, dtype):
    """Three clipped steps by default and with `ops`; a copy of an optimizer carries on alike."""
    rng = np.random.default_rng(0)
    start = rng.standard_normal((5, 7)).astype(dtype)
    history = [(3 * rng.standard_normal(start.shape)).astype(dtype) for _ in range(3)]
    results, kept = [], []
    for ops in (None, kernels, numpy_ops):
        W, optimizer = layout(start), Optimizer(0.1, ops=ops)
        assert optimizer.ops is (ops or kernels)
        for dW in history:
            dW = layout(dW)
            rnnfast.clip_grads([dW], 2.0, ops=ops)
            optimizer.update([W], [dW])
            optimizer = pickle.loads(pickle.dumps(copy.deepcopy(optimizer)))
        results.append(W)
        kept += optimizer.state[0]
    np.testing.assert_array_equal(results[0], results[1])
    assert_close(results[1], results[2])
    slots = len(kept) // 3
    for ours, twin in zip(kept[slots : 2 * slots], kept[2 * slots :], strict=True):
        assert_close(ours, twin)


@pytest.mark.parametrize("module", [rnnfast, reference], ids=["compiled", "numpy"])
@layouts
@layers
def test_layers_take_any_strides_and_leave_inputs_alone(name, layout, module):
    problem = make_problem(name)
    strided = problem.map(layout)
    assert_all_close(strided.run(module), problem.run(module))
    for which, array in problem.arrays().items():
        np.testing.assert_array_equal(strided.arrays()[which], array, err_msg=which)


@pytest.mark.parametrize("module", [rnnfast, reference], ids=["compiled", "numpy"])
@dtypes
@layers
def test_backward_depends_on_nothing_that_the_caller_can_reach(name, dtype, module):
    """Neither what was passed to forward nor what was returned is what backward reads."""
    problem = make_problem(name, dtype)
    expected = problem.run(module)

    mine = problem.map(np.copy)
    layer = mine.layer(module)
    outputs = mine.forward(layer)
    for array in [*outputs.values(), *mine.inputs, *mine.state]:
        if isinstance(array, np.ndarray):
            array[...] = 0
    first = {k: np.copy(v) for k, v in mine.backward(layer).items()}
    assert_all_close(first, {k: expected[k] for k in first}, tolerance=1e-30)

    for array in problem.backward(layer).values():  # its results are the caller's as well
        array[...] = 0
    second = problem.backward(layer)
    for which, value in first.items():
        np.testing.assert_array_equal(second[which], value, err_msg=which)


@pytest.mark.parametrize("ops", [kernels, numpy_ops], ids=["compiled", "numpy"])
@pytest.mark.parametrize("cell", CELLS)
def test_recurrent_kernels_share_no_memory(cell, ops):
    """Inputs, outputs, what is kept for backward, and gradients are arrays of their own."""
    arrays = make_cell(cell)
    outputs, cache = forward_cell(ops, cell, arrays)
    grads = empty_grads(cell, arrays)
    gradients = backward_cell(ops, cell, arrays, cache, grads)
    # what the compiled kernels keep is memory that Python does not see
    kept = [cache.xs, *(step.before for step in cache.steps)] if ops is numpy_ops else []
    everything = [*arrays.values(), *outputs, *kept, *grads, *gradients]
    for a, b in itertools.combinations(everything, 2):
        assert not np.shares_memory(a, b)


@dtypes
def test_selfcheck_agrees(dtype):
    """The check that users run covers every kernel, and finds one that is wrong."""
    worst = selfcheck.compare(dtype)
    assert {name.partition(" ")[0] for name in worst} == set(kernels.__all__) - {"build", "engine"}
    bf16 = {"bf16"} if dtype == "float32" else set()
    assert {name.partition(" ")[2] for name in worst} == {"", *CELLS, *bf16}
    assert max(worst.values()) <= selfcheck.TOLERANCES[dtype]

    class Broken:
        def __getattr__(self, name):
            if name != "embedding_backward":
                return getattr(kernels, name)

            def loses_repeated_ids(dout, ids, dW):
                dW[...] = 0
                dW[ids] += dout

            return loses_repeated_ids

    assert selfcheck.compare(dtype, Broken())["embedding_backward"] > 0.1


class Unrounded:
    """Kernels that leave operands as they are."""

    def __getattr__(self, name):
        def function(*args, precision=None, **options):
            return getattr(kernels, name)(*args, **options)

        return function


def test_selfcheck_sees_what_is_rounded():
    """And nothing else: sums are exact, whatever the order in which they are added up."""
    ours = {name: d for name, d in selfcheck.compare("float32").items() if "bf16" in name}
    assert ours.pop("affine_loss_forward bf16") < 1e-6  # it is a mean of logarithms
    assert ours == dict.fromkeys(ours, 0)
    others = selfcheck.compare("float32", Unrounded())
    assert min(others[name] for name in [*ours, "affine_loss_forward bf16"]) > 1e-4
