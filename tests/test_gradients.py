"""Every gradient against central differences of the forward pass, in float64.

Run on the compiled kernels and on their NumPy twins, since parity alone would not notice a mistake
that both share.
"""

import numpy as np
import pytest
from problems import CELLS, LAYERS, LOSSES, MODELS, assert_close, make_cell, make_problem, run_cell

import rnnfast
from rnnfast import kernels, reference

STEP = 1e-5  # cuts off about STEP^2 = 1e-10, rounds about 1e-16 / STEP = 1e-11
TOLERANCE = 1e-8

both_ops = pytest.mark.parametrize("ops", [kernels, reference.ops], ids=["compiled", "numpy"])


def numeric_gradient(loss, array):
    """Gradient of the number `loss()` with respect to `array`, which it reads."""
    gradient = np.empty(array.shape)
    for index in np.ndindex(array.shape):
        kept = array[index]
        array[index] = kept + STEP
        above = loss()
        array[index] = kept - STEP
        below = loss()
        array[index] = kept
        gradient[index] = (above - below) / (2 * STEP)
    return gradient


def dot(a, b):
    return float(np.sum(a * b))


@both_ops
@pytest.mark.parametrize("sizes", [(2, 4, 3, 5, 1), (1, 1, 1, 1, 1), (3, 1, 2, 4, 1)], ids=str)
@pytest.mark.parametrize(
    ("cell", "incoming"),
    [(c, d) for c in CELLS for d in ("dhs", "dh", "dc", "all") if (c, d) != ("rnn", "dc")],
)
def test_recurrent_kernels(cell, incoming, sizes, ops):
    """Weights, inputs and initial states, for a gradient arriving at each output on its own."""
    arrays = make_cell(cell, sizes=sizes)
    outgoing = {"dhs": "hs", "dh": "h", "dc": "c"}
    outgoing = {d: output for d, output in outgoing.items() if d in arrays}
    for d in outgoing:
        if incoming not in (d, "all"):
            arrays[d][...] = 0
    results = run_cell(ops, cell, arrays)

    def loss():
        outputs = run_cell(ops, cell, arrays)
        return sum(dot(outputs[output], arrays[d]) for d, output in outgoing.items())

    for name in [name for name in arrays if name not in outgoing]:
        assert_close(results[f"d{name}"], numeric_gradient(loss, arrays[name]), TOLERANCE, name)


@both_ops
def test_embedding_kernel(ops):
    rng = np.random.default_rng(0)
    W, ids = rng.standard_normal((6, 3)), np.array([[0, 5, 5], [2, 5, 0]])
    dout = rng.standard_normal((2, 3, 3))
    dW = np.empty_like(W)
    ops.embedding_backward(dout, ids, dW)
    expected = numeric_gradient(lambda: dot(ops.embedding_forward(W, ids), dout), W)
    assert_close(dW, expected, TOLERANCE)
    assert not dW[[1, 3, 4]].any()


@both_ops
@pytest.mark.parametrize("ignore_label", [-1, 0])
def test_softmax_loss_kernel(ops, ignore_label):
    rng = np.random.default_rng(0)
    logits, targets = 3 * rng.standard_normal((6, 5)), np.array([1, 0, 4, 0, 3, 2])
    targets[targets == 0] = ignore_label

    def loss():
        return 0.3 * ops.softmax_loss_forward(logits, targets, ignore_label)[0]

    *_, probs = ops.softmax_loss_forward(logits, targets, ignore_label)
    dlogits = ops.softmax_loss_backward(probs, targets, ignore_label, 0.3)
    assert_close(dlogits, numeric_gradient(loss, logits), TOLERANCE)
    assert not dlogits[[1, 3]].any()


@pytest.mark.parametrize("name", [name for name in LAYERS if name not in LOSSES])
def test_layers(name):
    """Every float that goes in, through the layer's own interface."""
    problem = make_problem(name, sizes=(2, 3, 2, 3, 4))
    last = {"h": problem.last.get("dh", 0), "c": problem.last.get("dc", 0)}

    def loss():
        results = problem.forward(problem.layer(rnnfast))
        outputs = [value for key, value in results.items() if key.startswith("output")]
        total = sum(map(dot, outputs, problem.gradients))
        return total + sum(dot(results[key], last[key]) for key in last if key in results)

    results = problem.run(rnnfast)
    for k, W in enumerate(problem.weights):
        assert_close(results[f"grads[{k}]"], numeric_gradient(loss, W), TOLERANCE, f"grads[{k}]")
    for k, x in enumerate(problem.inputs):
        if x.dtype.kind == "i":  # ids have no gradient
            assert f"gradient[{k}]" not in results
            continue
        expected = numeric_gradient(loss, x)
        assert_close(results[f"gradient[{k}]"], expected, TOLERANCE, f"gradient[{k}]")
    for key, state in zip(("dh", "dc"), problem.state, strict=False):
        assert_close(results[key], numeric_gradient(loss, state), TOLERANCE, key)


@pytest.mark.parametrize("name", LOSSES)
def test_losses(name):
    problem = make_problem(name, sizes=(3, 4, 1, 1, 5))
    inputs, targets = problem.inputs
    (scale,) = problem.gradients
    if "WithLoss" in name:
        assert (targets == -1).any()
    if name == "TimePerplexityLoss":  # 1/p is no straight line over a step where p is as small
        inputs[...] = 0.5 * inputs + 0.1
    layer = problem.layer(rnnfast)
    layer.forward(inputs, targets)
    gradients = [layer.backward(scale), *layer.grads]
    for array, gradient in zip((inputs, *layer.params), gradients, strict=True):
        expected = numeric_gradient(lambda: scale * layer.forward(inputs, targets), array)
        assert_close(gradient, expected, TOLERANCE)


@pytest.mark.parametrize("tie_weights", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("num_layers", [1, 2])
@pytest.mark.parametrize("Model", MODELS)
def test_whole_models(Model, num_layers, tie_weights):
    """All params of a model that starts from a carried state."""
    rng = np.random.default_rng(0)
    options = {"num_layers": num_layers, "tie_weights": tie_weights}
    model = Model(5, 3, 3, dtype=np.float64, rng=rng, **options)
    for W in model.params:
        W[...] = 0.7 * rng.standard_normal(W.shape)  # nothing so small that it is lost
    xs, ts = rng.integers(0, 5, (2, 2, 4))
    ts[0, 1] = -1
    model.forward(ts % 5, xs)
    carried = model.get_state()

    def loss():
        model.set_state(carried)
        return model.forward(xs, ts)

    loss()
    model.backward()
    gradients = [dW.copy() for dW in model.grads]
    for k, (W, dW) in enumerate(zip(model.params, gradients, strict=True)):
        assert_close(dW, numeric_gradient(loss, W), TOLERANCE, f"grads[{k}]")
