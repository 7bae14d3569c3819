"""The interface that code of the textbook relies on, and what every layer promises besides."""

from inspect import signature

import numpy as np
import pytest
from problems import (
    DTYPES,
    LAYERS,
    RECURRENT,
    STEPS,
    TIME_CLASSES,
    WEIGHTED,
    WEIGHTLESS,
    assert_all_close,
    assert_close,
    class_of,
    make_problem,
)

import rnnfast
from rnnfast import reference

modules = pytest.mark.parametrize("module", [rnnfast, reference], ids=["compiled", "numpy"])
time_layers = pytest.mark.parametrize("name", RECURRENT)


@modules
@pytest.mark.parametrize("name", LAYERS)
def test_params_and_grads_keep_their_identity(name, module):
    problem = make_problem(name)
    layer = problem.layer(module)
    params, grads = layer.params, layer.grads
    members = [*params, *grads]
    assert all(W is given for W, given in zip(params, problem.weights, strict=True))
    assert [dW.shape for dW in grads] == [W.shape for W in params]
    assert [dW.dtype for dW in grads] == [W.dtype for W in params]
    assert not any(dW.any() for dW in grads)

    for dW in grads:
        dW[...] = np.nan  # overwritten, not added to
    problem.forward(layer)
    problem.backward(layer)
    assert (layer.params, layer.grads) == (params, grads) or not members
    assert all(a is b for a, b in zip(members, [*layer.params, *layer.grads], strict=True))
    assert all(np.isfinite(dW).all() for dW in grads)


@modules
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("given", ["float16", "float32", "float64", ">f4", "int64", "list"])
@pytest.mark.parametrize("name", [name for name in LAYERS if name not in WEIGHTLESS])
def test_dtype_is_that_of_the_weights(name, given, dtype, module):
    """Whatever real numbers come in, here small multiples of a quarter or whole ones."""
    problem = make_problem(name, dtype)
    weights, step = problem.weights, 1 if given == "int64" else 0.25
    exact = problem.map(lambda a: a if a.dtype.kind == "i" else step * np.round(a / step))
    other = exact.map(np.ndarray.tolist if given == "list" else lambda a: convert(a, given))
    exact.weights = other.weights = weights
    results = other.run(module)
    assert_all_close(results, exact.run(module))
    arrays = [result for result in results.values() if isinstance(result, np.ndarray)]
    assert {array.dtype for array in arrays} == {np.dtype(dtype)}


def convert(array, dtype):
    return array if array.dtype.kind == "i" else array.astype(dtype)


OPTIONS = {
    *("truncate_size", "recurrent_dropout", "zoneout", "weight_drop", "zoneout_mean", "rng", "ops"),
    "precision",
}


@pytest.mark.parametrize("name", TIME_CLASSES)
def test_weights_are_positional_and_options_are_not(name):
    """And a signature shows all of them, with their defaults."""
    problem, Layer = make_problem(name), getattr(rnnfast, name)
    assert Layer(*problem.weights).stateful is False
    assert Layer(*problem.weights, True).stateful is True
    with pytest.raises(TypeError, match="positional"):
        Layer(*problem.weights, True, rnnfast.kernels)
    parameters = list(signature(Layer).parameters.values())
    options = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
    positional = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert len(positional) + len(options) == len(parameters)
    assert positional == [*Layer(*problem.weights).named_params(), "stateful"]
    assert options.keys() >= OPTIONS
    assert ("reverse" in options) is ("Bi" not in name)
    layer = Layer(*problem.weights, **options)
    assert layer.config() == Layer(*problem.weights).config()
    left_out = {"bh", "bh1", "bh2", "rng", "ops", "precision"}
    assert layer.config().keys() == options.keys() - left_out | {"stateful"}
    with pytest.raises(TypeError, match="unexpected keyword argument 'lenght'"):
        Layer(*problem.weights, lenght=3)


@modules
@time_layers
def test_blocks_equal_one_long_run(name, module):
    problem = make_problem(name, sizes=(3, 12, 4, 6, 1))
    (xs,) = problem.inputs
    whole = problem.layer(module)
    expected = whole.forward(xs)

    layer = problem.layer(module)
    blocks = [layer.forward(block) for block in np.split(xs, [1, 5, 7], axis=1)]
    assert_close(np.concatenate(blocks, axis=1), expected)
    for ours, theirs in zip(layer.get_state(), whole.get_state(), strict=True):
        assert_close(ours, theirs)
    assert_close(layer.h, expected[:, -1])


@time_layers
def test_gradients_chain_over_blocks(name):
    """dh and dc of a block, given to the block before it, make the gradient of one long run."""
    problem = make_problem(name, sizes=(3, 8, 4, 6, 1))
    expected = problem.run(rnnfast)
    layer = problem.layer(rnnfast)
    (xs,), (dhs,) = problem.inputs, problem.gradients
    start, cut = problem.state, 3
    layer.forward(xs[:, :cut])
    middle = layer.get_state()
    last, grads, dxs = problem.last, [0] * len(problem.weights), []
    for state, block in ((middle, slice(cut, None)), (start, slice(cut))):
        layer.set_state(*state)
        layer.forward(xs[:, block])
        dxs.insert(0, layer.backward(dhs[:, block], **last))
        grads = [total + dW for total, dW in zip(grads, layer.grads, strict=True)]
        last = {key: getattr(layer, key) for key in last}
    results = {f"grads[{k}]": dW for k, dW in enumerate(grads)} | last
    results["gradient[0]"] = np.concatenate(dxs, axis=1)
    assert_all_close(results, {key: expected[key] for key in results})


@modules
@time_layers
def test_states(name, module):
    problem = make_problem(name)
    (xs,) = problem.inputs
    layer = problem.make(module, stateful=True)
    names = ["h", "c"][: len(problem.state)]
    assert layer.h is None
    assert layer.dh is None
    from_zeros = layer.forward(xs)
    carried = layer.forward(xs)
    assert not np.allclose(from_zeros, carried)

    layer.reset_state()
    assert [getattr(layer, which) for which in names] == [None] * len(names)
    np.testing.assert_array_equal(layer.forward(xs), from_zeros)

    mine = [state.copy() for state in problem.state]
    layer.set_state(*mine)
    for which, state in zip(names, mine, strict=True):
        np.testing.assert_array_equal(getattr(layer, which), state)
        state[...] = 9  # the layer has a copy
    expected = problem.layer(module).forward(xs)
    np.testing.assert_array_equal(layer.forward(xs), expected)

    layer.stateful = False
    np.testing.assert_array_equal(layer.forward(xs), from_zeros)
    np.testing.assert_array_equal(layer.h, from_zeros[:, -1])


def test_lstm_state_without_a_cell_is_zeros():
    problem = make_problem("TimeLSTM")
    layer = problem.layer(rnnfast)
    h, c = problem.state
    layer.set_state(h)
    assert layer.c is None
    without = layer.forward(*problem.inputs)
    layer.set_state(h, np.zeros_like(c))
    np.testing.assert_array_equal(layer.forward(*problem.inputs), without)


@time_layers
def test_stateless_layer_gives_its_state_to_a_decoder(name):
    """As in the textbook's Encoder and Decoder: h of one, set_state of the other, dh back."""
    problem = make_problem(name)
    encoder = problem.make(rnnfast)
    hs = encoder.forward(*problem.inputs)
    encoder.forward(*problem.inputs)
    np.testing.assert_array_equal(encoder.h, hs[:, -1])
    at_last = np.zeros_like(hs)
    at_last[:, -1] = problem.last["dh"]
    expected = encoder.backward(at_last)
    assert_close(encoder.backward(np.zeros_like(hs), dh=problem.last["dh"]), expected)


@modules
@pytest.mark.parametrize("name", WEIGHTED)
def test_params_changed_before_forward_are_seen(name, module):
    problem, changed = make_problem(name), make_problem(name)
    layer = problem.layer(module)
    problem.forward(layer)
    problem.backward(layer)
    for W in [*layer.params, *changed.weights]:
        W *= -0.5
    if problem.state:
        layer.set_state(*problem.state)
    assert_all_close(problem.forward(layer) | problem.backward(layer), changed.run(module))


@modules
@pytest.mark.parametrize("name", ["TimeRNN", "TimeLSTM", "TimeAffine"])
def test_params_changed_before_backward_are_seen(name, module):
    """With one time step the gradient of xs is linear in the weights."""
    problem = make_problem(name, sizes=(3, 1, 4, 6, 7))
    layer = problem.layer(module)
    problem.forward(layer)
    before = problem.backward(layer)["gradient[0]"]
    for W in layer.params:
        W *= -0.5
    assert_close(problem.backward(layer)["gradient[0]"], -0.5 * before)


@modules
@pytest.mark.parametrize("name", STEPS)
def test_single_steps_equal_the_time_layer(name, module):
    """Outputs step by step, and the gradients, added up from the last step to the first."""
    problem, single = make_problem(f"Time{name}"), make_problem(name)
    single.weights = problem.weights
    expected = problem.run(module)
    (xs,), (dhs,) = problem.inputs, problem.gradients
    steps, states, hs = [], tuple(problem.state), []
    for t in range(xs.shape[1]):
        step = single.make(module)
        states = step.forward(xs[:, t], *states)
        states = states if isinstance(states, tuple) else (states,)
        steps.append(step)
        hs.append(states[0])
    assert_close(np.stack(hs, axis=1), expected["output[0]"])

    dstates, dxs, grads = list(problem.last.values()), [], [0] * len(problem.weights)
    for t, step in reversed(list(enumerate(steps))):
        dx, *dstates = step.backward(dhs[:, t] + dstates[0], *dstates[1:])
        dxs.insert(0, dx)
        grads = [total + dW for total, dW in zip(grads, step.grads, strict=True)]
    results = dict(zip(("dh", "dc"), dstates, strict=False))
    results |= {f"grads[{k}]": dW for k, dW in enumerate(grads)}
    results["gradient[0]"] = np.stack(dxs, axis=1)
    assert_all_close(results, {key: expected[key] for key in results})


def test_affine_on_a_transposed_table_shares_its_memory():
    table = np.random.default_rng(0).standard_normal((7, 4))
    embedding, affine = rnnfast.TimeEmbedding(table), rnnfast.TimeAffine(table.T, np.zeros(7))
    assert np.shares_memory(affine.params[0], embedding.params[0])
    ids = np.array([[1, 2, 1]])
    before = affine.forward(embedding.forward(ids))
    embedding.params[0] *= 2
    assert_close(affine.forward(embedding.forward(ids)), 4 * before)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.uint32, np.int64, np.uint64])
def test_ids_of_any_integer_dtype(dtype):
    layer = rnnfast.TimeEmbedding(np.arange(6.0).reshape(3, 2))
    ids = np.array([[2, 0], [1, 2]], dtype)
    np.testing.assert_array_equal(layer.forward(ids), layer.params[0][ids])
    layer.backward(np.ones((2, 2, 2)))
    np.testing.assert_array_equal(layer.grads[0], [[1, 1], [1, 1], [2, 2]])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", [name for name in RECURRENT if "relu" not in name])
def test_values_that_are_not_finite(name, value):
    """NaN stays NaN in its own row and reaches no other; infinities saturate."""
    problem = make_problem(name)
    problem.weights[0][...] = np.abs(problem.weights[0])
    (xs,) = problem.inputs
    expected = problem.layer(rnnfast).forward(xs)
    xs[1, 2] = value
    hs = problem.layer(rnnfast).forward(xs)
    np.testing.assert_array_equal(hs[[0, 2]], expected[[0, 2]])
    np.testing.assert_array_equal(hs[1, :2], expected[1, :2])
    assert np.isnan(hs[1, 2:]).all() == np.isnan(value)
    assert np.isnan(value) or (np.abs(hs) <= 1).all()


@modules
@time_layers
def test_textbook_style_training(name, module):
    """Layers by hand, plain gradient descent: learns to repeat what it read one step ago."""
    rng = np.random.default_rng(0)
    N, T, D, H, V = 8, 6, 5, 16, 4
    problem = make_problem(name, sizes=(N, T, D, H, V))
    for W in problem.weights:
        W *= W.ndim > 1  # biases start from 0

    def init(*shape):
        return rng.standard_normal(shape) / np.sqrt(shape[0])

    layers = [
        module.TimeEmbedding(init(V, D)),
        problem.make(module, stateful=True),
        module.TimeAffine(init(H, V), np.zeros(V)),
    ]
    loss_layer = module.TimeSoftmaxWithLoss()
    params, grads = [], []
    for layer in layers:
        params += layer.params
        grads += layer.grads

    ids = rng.integers(0, V, (N, 150 * T + 1))
    losses = []
    for start in range(0, 150 * T, T):
        xs, ts = ids[:, start + 1 : start + T + 1], ids[:, start : start + T]
        for layer in layers:
            xs = layer.forward(xs)
        losses.append(loss_layer.forward(xs, ts))
        dout = loss_layer.backward()
        for layer in reversed(layers):
            dout = layer.backward(dout)
        for W, dW in zip(params, grads, strict=True):
            W -= 1.0 * dW
    assert losses[0] > 0.8 * np.log(V)
    assert np.mean(losses[-10:]) < 0.1


class Twice(rnnfast.Layer):
    """A layer of one's own, without weights."""

    def forward(self, xs):
        self._keep(xs.shape)
        return 2 * xs

    def backward(self, dout):
        assert dout.shape == self._require_cache()
        return 2 * dout


def test_a_layer_may_have_no_weights():
    layer = Twice()
    assert (layer.params, layer.grads, layer.named_params(), layer.config()) == ([], [], {}, {})
    with pytest.raises(AttributeError, match="dtype: Twice has no weights"):
        _ = layer.dtype
    with pytest.raises(RuntimeError, match=r"Twice\.backward: expected a forward call before it"):
        layer.backward(np.zeros((1, 1, 2)))
    network = rnnfast.Network([layer], rnnfast.TimeSquaredLoss())
    xs = np.ones((1, 1, 2))
    assert network.forward(xs, np.zeros_like(xs)) == 4
    assert network.params == []
    network.backward()


@pytest.mark.parametrize("name", LAYERS)
def test_options_that_were_handed_out_are_the_callers(name):
    layer = make_problem(name).layer(rnnfast)
    handed, config = layer.config(), layer.config()
    handed["more"] = 1
    assert layer.config() == config
    assert make_problem(name).layer(rnnfast).config() == config


@pytest.mark.parametrize("name", WEIGHTLESS)
def test_what_has_no_weights_is_a_layer_that_takes_none(name):
    layer = class_of(name)()
    assert isinstance(layer, rnnfast.Layer)
    assert not hasattr(layer, "dtype")
    with pytest.raises(TypeError):
        class_of(name)(W=np.zeros((2, 2)))
