"""Shapes, strides and numbers at the edge of what layers take; and how much memory they need."""

import gc
import tracemalloc

import numpy as np
import pytest
from problems import RECURRENT, assert_all_close, assert_close, make_problem

import rnnfast
from rnnfast import kernels

LAYERS = [*RECURRENT, "TimeEmbedding", "TimeAffine", "TimeSoftmaxWithLoss"]
layers = pytest.mark.parametrize("name", LAYERS)
recurrent = pytest.mark.parametrize("name", RECURRENT)
dtypes = pytest.mark.parametrize("dtype", ["float32", "float64"])


def results_of(problem, module=rnnfast):
    layer = problem.layer(module)
    return problem.forward(layer) | problem.backward(layer)


@layers
@pytest.mark.parametrize(
    "sizes",
    [(1, 5000, 3, 2, 2), (4000, 2, 3, 5, 3), (1, 1, 1, 1, 1), (3, 2, 1, 1, 2), (2, 3, 1, 300, 1),
     (2, 3, 300, 1, 2)],
    ids=str,
)  # fmt: skip
def test_extreme_shapes(name, sizes):
    problem = make_problem(name, "float64", sizes)
    assert_all_close(results_of(problem), results_of(problem, rnnfast.reference), 1e-9)


def misaligned(array):
    """Every number one byte beside where it should be."""
    memory = np.zeros(array.nbytes + 1, np.uint8)
    view = np.frombuffer(memory.data, array.dtype, array.size, offset=1).reshape(array.shape)
    view[...] = array
    return view


def packed(array):
    """Fields of records of an odd number of bytes: strides are no multiples of a number."""
    records = np.zeros(array.shape, [("flag", "u1"), ("number", array.dtype)])
    records["number"] = array
    return records["number"]


def packed_rows(array):
    """The same, a record for each row."""
    if array.ndim < 2:
        return packed(array)
    records = np.zeros(array.shape[:-1], [("f", "u1"), ("row", array.dtype, array.shape[-1:])])
    records["row"] = array
    return records["row"]


@dtypes
@layers
@pytest.mark.parametrize("layout", [misaligned, packed, packed_rows])
def test_misaligned_arrays(name, dtype, layout):
    problem = make_problem(name, dtype)
    odd = problem.map(layout)
    assert not odd.arrays()[next(iter(odd.arrays()))].flags.aligned
    layer = odd.layer(rnnfast)
    ours = odd.forward(layer) | odd.backward(layer)
    assert_all_close(ours, results_of(problem), 1e-300)
    for ours, theirs in zip(layer.params, odd.weights, strict=True):
        assert ours is theirs  # an optimizer may write into it
    rnnfast.Adam().update(layer.params, layer.grads)


@recurrent
def test_broadcast_inputs_and_gradients(name):
    """Strides of zero, along each axis in turn, and along all."""
    problem = make_problem(name)
    for axis in (0, 1, 2, slice(None)):
        arrays = [*problem.inputs, *problem.gradients]
        firsts = [a[:1, :1, :1] if axis == slice(None) else a.take([0], axis) for a in arrays]
        views = [np.broadcast_to(f, a.shape) for f, a in zip(firsts, arrays, strict=True)]
        xs, dhs = views
        wide = problem.map(lambda a: a)
        wide.inputs, wide.gradients = [xs], [dhs]
        plain = wide.map(np.array)
        assert_all_close(results_of(wide), results_of(plain), 1e-300)


@dtypes
@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", [*RECURRENT, "TimeAffine", "TimeSoftmaxWithLoss"])
def test_what_is_not_finite_stays_in_its_row(name, dtype, wrong):
    problem = make_problem(name, dtype, (7, 5, 4, 20, 19))
    clean = results_of(problem)
    problem.inputs[0] = problem.inputs[0].copy()
    problem.inputs[0][3, 2] = wrong
    with np.errstate(all="ignore"):
        dirty = results_of(problem)
    rows = {"output[0]", "gradient[0]", "h", "c", "dh", "dc"} & dirty.keys()
    rows -= {"output[0]"} if name == "TimeSoftmaxWithLoss" else set()
    for key in rows:
        others = np.arange(7) != 3
        np.testing.assert_array_equal(dirty[key][others], clean[key][others], err_msg=key)
    if np.isnan(wrong):
        key = "gradient[0]" if name == "TimeSoftmaxWithLoss" else "output[0]"
        assert np.isnan(dirty[key][3, 2]).all()
        if name in RECURRENT:
            np.testing.assert_array_equal(dirty[key][3, :2], clean[key][3, :2])
            assert np.isnan(dirty[key][3, 2:]).all()


@dtypes
def test_distinct_tokens_of_a_huge_vocabulary(dtype):
    V = 1_000_000
    rng = np.random.default_rng(0)
    layer = rnnfast.TimeEmbedding(np.zeros((V, 2), dtype))
    tokens = rng.integers(0, V, 40)
    tokens[:2] = 0, V - 1
    layer.params[0][tokens] = rng.standard_normal((40, 2))
    ids = rng.choice(tokens, (5, 60))
    vectors, index = layer.forward_distinct(ids)
    assert len(vectors) == len(np.unique(ids))
    np.testing.assert_array_equal(vectors[index], layer.params[0][ids])
    layer.backward(np.ones_like(vectors))
    assert np.flatnonzero(layer.grads[0][:, 0]).tolist() == np.unique(ids).tolist()


# ---------------------------------------------------------------- saturation

UNIT = 2.0**-24  # in the last place of a float32 just below 1
UNITS = np.eye(4 * 64)  # weights with which each pre-activation is a number of the input


def saturated(*shape):
    """Pre-activations of both signs; in float32 tanh is 1 from 9.01 on, sigmoid from 16.6 on."""
    rng = np.random.default_rng(0)
    return (rng.uniform(4, 18, shape) * rng.choice([-1, 1], shape)).astype(np.float32)


def rnn_gradient(a, dtype):
    """That of the pre-activations a (N, 64), where that of h is 1."""
    a, H = a.astype(dtype), a.shape[1]
    layer = rnnfast.RNN(UNITS[:H, :H].astype(dtype), np.zeros((H, H), dtype), np.zeros(H, dtype))
    layer.forward(a, np.zeros_like(a))
    return layer.backward(np.ones_like(a))[0]


def lstm_gradients(gates, c, dtype):
    """Those of the pre-activations (N, 4 * 64) and of c (N, 64), where that of the new h is 1."""
    gates, c, H = gates.astype(dtype), c.astype(dtype), c.shape[1]
    zeros = np.zeros((H, 4 * H), dtype), np.zeros(4 * H, dtype)
    layer = rnnfast.LSTM(UNITS.astype(dtype), *zeros)
    layer.forward(gates, np.zeros_like(c), c)
    dgates, _, dc = layer.backward(np.ones_like(c), np.zeros_like(c))
    return dgates, dc


def assert_within(actual, true, bounds):
    """Relative errors within their bounds."""
    errors = np.abs((actual - true) / true) / bounds
    print(f"largest error: {errors.max():.3f} of its bound")
    assert actual.dtype == np.float32
    assert errors.max() <= 1


def test_gradients_of_a_saturated_rnn():
    """No worse than from an h that is off by 3/4 of a unit, which moves 1 - h^2 by 1.5 units."""
    a = saturated(300, 64)
    true = rnn_gradient(a, np.float64)
    assert_within(rnn_gradient(a, np.float32), true, 1.5 * UNIT / true + 4 * UNIT)


def test_gradients_of_a_saturated_cell():
    """The same of tanh(c), with gates f = o = 1 and g = 0."""
    c = saturated(300, 64)
    gates = np.repeat([60.0, 0.0, 0.0, 60.0], 64) + np.zeros((300, 1))
    _, true = lstm_gradients(gates, c, np.float64)
    _, dc = lstm_gradients(gates, c, np.float32)
    assert_within(dc, true, 1.5 * UNIT / true + 4 * UNIT)


def test_gradients_of_saturated_gates():
    """No worse than from gates that are off by one unit (g by 3/4), but for what the rest costs,
    where c is no difference of two numbers."""
    gates, H = saturated(300, 4 * 64), 64
    a = gates.astype(np.float64)
    c = np.float32(0.5) * np.sign(gates[:, H : 2 * H])
    true, _ = lstm_gradients(gates, c, np.float64)
    dgates, _ = lstm_gradients(gates, c, np.float32)
    bounds = UNIT * (1 + np.exp(a))  # of s (1 - s), where 1 - s is off by one unit
    bounds[:, H : 2 * H] = 1.5 * UNIT * np.cosh(a[:, H : 2 * H]) ** 2  # of 1 - g^2
    assert_within(dgates, true, bounds + 32 * UNIT)


# ---------------------------------------------------------------- memory


def peak_of(run):
    """Most bytes of arrays at a time during run(), beyond those before it, and those left over."""
    gc.collect()
    tracemalloc.start()
    try:
        run()
        gc.collect()
        left, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return peak, left


def training_step(N, T, V):
    model = rnnfast.Rnnlm(V, 16, 16, rng=np.random.default_rng(0))
    optimizer = rnnfast.Adam()
    ids = np.random.default_rng(1).integers(0, V, (2, N, T))

    def step():
        model.forward(*ids)
        model.backward()
        optimizer.update(model.params, model.grads)

    return step


def test_no_array_of_all_logits():
    N, T, V = 40, 200, 10_000
    logits = N * T * V * 4
    peak, _ = peak_of(training_step(N, T, V))
    assert peak < logits / 4
    # twice the rows cost no more than their own small arrays
    more, _ = peak_of(training_step(2 * N, T, V))
    assert more - peak < logits / 20


def test_memory_does_not_grow_call_after_call():
    step = training_step(8, 10, 300)
    step()
    _, few = peak_of(lambda: [step() for _ in range(3)])
    _, many = peak_of(lambda: [step() for _ in range(30)])
    assert many < few + 20_000


@pytest.mark.skipif(kernels.build.BOUNDS_CHECKED, reason="a debug build allocates anew each time")
def test_a_second_call_allocates_only_what_it_returns():
    problem = make_problem("TimeLSTM", "float32", (20, 35, 64, 64, 1))
    layer = problem.layer(rnnfast)

    def step():
        hs, dxs = problem.forward(layer)["output[0]"], layer.backward(*problem.gradients)
        return hs, dxs

    step()
    peak, _ = peak_of(step)
    assert peak < 3 * problem.inputs[0].nbytes
    assert_close(*[step()[0]] * 2)
