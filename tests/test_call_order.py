"""Calls in any order: nothing goes stale, and what cannot work is an error, never a crash."""

import copy
import pickle
import warnings

import numpy as np
import pytest
from problems import MODELS, RECURRENT, assert_all_close, assert_close, make_problem, remade

import rnnfast
from rnnfast import kernels
from rnnfast.reference import ops as twins
from rnnfast.reference.generation import Choice

LAYERS = [*RECURRENT, "TimeAffine"]
layers = pytest.mark.parametrize("name", LAYERS)
recurrent = pytest.mark.parametrize("name", RECURRENT)


def results_of(problem, layer):
    return problem.forward(layer) | problem.backward(layer)


def fresh(problem, layer):
    """A layer that has seen nothing, with copies of the weights that `layer` has now."""
    other = remade(layer, rnnfast)
    if problem.state:
        other.set_state(*problem.state)
    return other


@layers
def test_weights_may_change_between_any_two_calls(name):
    problem = make_problem(name)
    layer = problem.layer(rnnfast)
    twin = remade(layer, rnnfast.reference)
    if problem.state:
        twin.set_state(*problem.state)
    rng = np.random.default_rng(0)
    for call in ("forward", "backward", "backward", "forward", "forward", "backward"):
        for ours, theirs in zip(layer.params, twin.params, strict=True):
            ours += 0.1 * rng.standard_normal(ours.shape)
            theirs[...] = ours
        assert_all_close(getattr(problem, call)(layer), getattr(problem, call)(twin))


def language_model(Model, ops, **options):
    return Model(11, 6, 6, dtype=np.float64, rng=np.random.default_rng(0), ops=ops, **options)


def reshape_in_place(array, shape):
    """What NumPy still lets a caller do, though newer versions warn."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        array.shape = shape


@pytest.mark.parametrize("tie_weights", [False, True])
@pytest.mark.parametrize("Model", MODELS)
def test_a_model_sees_every_change_of_its_weights(Model, tie_weights):
    ids = np.random.default_rng(1).integers(0, 11, (2, 3, 7))
    results = []
    for ops in (kernels, twins):
        model = language_model(Model, ops, tie_weights=tie_weights, num_layers=2)
        seen = []

        def change(model=model):
            for W in model.params:
                W[...] = W[..., ::-1] * 1.25 + 0.01

        for _ in range(2):
            seen.append(model.forward(*ids))
            change()
            model.backward()
            seen += [dW.copy() for dW in model.grads]
            change()
            seen.append(rnnfast.generate(model, [1, 2], 30, rng=np.random.default_rng(2)))
            change()
            seen.append(model.forward(*ids, need_gradient=False))
            change()
            seen.append(model.predict(ids[0]))
            change()
        results.append(seen)
    for ours, theirs in zip(*results, strict=True):
        assert_close(ours, theirs, 1e-10)


@layers
def test_layers_may_share_their_weights(name):
    """One changes what the other reads, between its forward and backward."""
    problem = make_problem(name)
    first, second = problem.layer(rnnfast), problem.layer(rnnfast)
    results_of(problem, first), problem.forward(second)
    first.params[0][...] *= 2
    # what backward sees is the weights of now, and the outputs of then
    twin = make_problem(name).layer(rnnfast.reference)
    problem.forward(twin)
    twin.params[0][...] *= 2
    assert_all_close(problem.backward(second), problem.backward(twin))


@layers
def test_backward_twice_and_after_another_forward(name):
    problem = make_problem(name)
    layer = problem.layer(rnnfast)
    once = results_of(problem, layer)
    assert_all_close(problem.backward(layer), {k: once[k] for k in problem.backward(layer)}, 1e-300)
    # larger, smaller, of other proportions: the memory of the calls before changes nothing
    for N, T in ((1, 1), (9, 2), (2, 40), (4, 4)):
        other = make_problem(name, sizes=(N, T, 4, 6, 7))
        layer.params[:] = other.weights
        if other.state:
            layer.set_state(*other.state)
        expected = results_of(other, fresh(other, layer))
        assert_all_close(results_of(other, layer), expected, 1e-300)


@layers
def test_a_forward_that_fails_changes_nothing_for_backward(name):
    problem = make_problem(name)
    layer = problem.layer(rnnfast)
    expected = results_of(problem, layer)
    for wrong in (np.zeros((3, 5, 99)), np.zeros((3, 5, 4), complex), np.zeros((0, 5, 4))):
        with pytest.raises((TypeError, ValueError)):
            layer.forward(wrong)
    ours = problem.backward(layer)
    assert_all_close(ours, {name: expected[name] for name in ours}, 1e-300)


@recurrent
def test_a_forward_without_enough_memory_changes_nothing(name):
    problem = make_problem(name)
    layer = problem.layer(rnnfast)
    expected = results_of(problem, problem.layer(rnnfast))
    problem.forward(layer)
    layer.reset_state()
    huge = (3, 1 << 44)  # 8 bytes each are more than any address space
    with pytest.raises((MemoryError, ValueError)):
        layer.forward(np.broadcast_to(0.0, (*huge, 4)))
    with pytest.raises(ValueError, match=r"dhs: expected"):
        layer.backward(np.broadcast_to(0.0, (*huge, 6)))
    ours = problem.backward(layer)
    assert_all_close(ours, {name: expected[name] for name in ours}, 1e-300)


def loss_problem(dtype=np.float64):
    rng = np.random.default_rng(0)
    layer = rnnfast.TimeAffineWithLoss(*(rng.standard_normal(s).astype(dtype) for s in ((4, 7), 7)))
    return layer, rng.standard_normal((3, 5, 4)), rng.integers(0, 7, (3, 5))


def test_the_fused_loss_survives_a_forward_that_fails():
    layer, xs, ts = loss_problem()
    layer.forward(xs, ts)
    dxs = layer.backward()
    for wrong in ((xs, ts + 1), (xs[:2], ts), (xs, ts * 1.0)):
        with pytest.raises((TypeError, ValueError)):
            layer.forward(*wrong)
    np.testing.assert_array_equal(layer.backward(), dxs)
    layer.forward(xs, ts, need_gradient=False)
    with pytest.raises(RuntimeError, match="call forward first"):
        layer.backward()


@layers
@pytest.mark.parametrize(("ours", "other"), [(kernels, twins), (twins, kernels)])
def test_ops_may_be_switched_but_not_before_backward(name, ours, other):
    problem = make_problem(name)
    layer = problem.layer(rnnfast)
    expected = results_of(problem, layer)
    layer.ops = ours
    problem.forward(layer)
    layer.ops = other
    with pytest.raises(RuntimeError, match=r"the same ops, got none; call forward first"):
        problem.backward(layer)
    if problem.state:
        layer.set_state(*problem.state)
    assert_all_close(results_of(problem, layer), expected)


def test_ops_of_losses_may_be_switched_too():
    layer, xs, ts = loss_problem()
    loss = layer.forward(xs, ts)
    layer.ops = twins
    with pytest.raises(RuntimeError, match="call forward first"):
        layer.backward()
    assert_close(layer.forward(xs, ts), loss, 1e-12)
    layer.backward()


@layers
def test_weights_and_grads_of_another_dtype_need_a_forward(name):
    """float64 arrays in the place of all float32 ones, and of their gradients."""
    problem = make_problem(name, "float32")
    layer = problem.layer(rnnfast)
    problem.forward(layer)
    for arrays in (layer.params, layer.grads):
        arrays[:] = [a.astype(np.float64) for a in arrays]
    with pytest.raises((RuntimeError, ValueError), match=r"call forward first|dtype mismatch"):
        problem.backward(layer)


@layers
def test_the_weight_that_is_another_array_is_named(name):
    problem = make_problem(name)
    for k, label in enumerate(problem.layer(rnnfast).named_params()):
        layer = problem.layer(rnnfast)
        problem.forward(layer)
        layer.params[k] = layer.params[k].copy()
        with pytest.raises(RuntimeError, match=rf"got another array as {label}; call forward"):
            problem.backward(layer)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_the_fused_loss_checks_gradients_that_were_replaced(dtype):
    layer, xs, ts = loss_problem(dtype)
    layer.forward(xs, ts)
    layer.grads[0] = np.zeros((1, 1), dtype)
    with pytest.raises(ValueError, match="gradient of W: expected shape"):
        layer.backward()
    other = np.float32 if dtype is np.float64 else np.float64
    layer.params[:], layer.grads[:] = ([np.zeros((4, 7), other), np.zeros(7, other)] for _ in "12")
    with pytest.raises(RuntimeError, match="call forward first"):
        layer.backward()


@layers
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_a_copy_between_forward_and_backward(name, copied):
    problem = make_problem(name)
    layer = problem.layer(rnnfast)
    expected = results_of(problem, problem.layer(rnnfast))
    problem.forward(layer)
    other = copied(layer)
    with pytest.raises(RuntimeError, match="call forward first"):
        problem.backward(other)
    if problem.state:
        other.set_state(*problem.state)
    assert_all_close(results_of(problem, other), expected, 1e-300)
    ours = problem.backward(layer)  # the copy shares no memory with it
    assert_all_close(ours, {k: expected[k] for k in ours}, 1e-300)


@layers
def test_a_weight_that_became_a_vector_is_an_error(name):
    problem = make_problem(name)
    layer = problem.layer(rnnfast)
    expected = results_of(problem, layer)
    for W in layer.params:
        shape = W.shape
        reshape_in_place(W, (W.size,) if W.ndim == 2 else (1, W.size))
        for call in (problem.forward, problem.backward):
            try:
                call(layer)
            except (RuntimeError, ValueError):
                continue
            assert len(shape) == 1  # a bias has the same numbers in the same places
        reshape_in_place(W, shape)
    if problem.state:
        layer.set_state(*problem.state)
    assert_all_close(results_of(problem, layer), expected)


@layers
@pytest.mark.parametrize("arrays", ["params", "grads"])
def test_an_array_whose_shape_was_changed_in_place_is_an_error(name, arrays):
    """(1, D*M) has the numbers of (D, M), but a row that ends where there is no other."""
    problem = make_problem(name)
    layer = problem.layer(rnnfast)
    expected = results_of(problem, layer)
    array = getattr(layer, arrays)[0]
    D, M = array.shape
    reshape_in_place(array, (1, D * M))
    with pytest.raises(ValueError, match=r"do not change the shape of an array|expected an array"):
        results_of(problem, layer)
    reshape_in_place(array, (D, M))
    if problem.state:
        layer.set_state(*problem.state)
    assert_all_close(results_of(problem, layer), expected)


def test_an_embedding_sees_a_shape_that_was_changed_in_place():
    layer = rnnfast.TimeEmbedding(np.ones((4, 3)))
    layer.forward([[2, 3, 3, 3]])
    layer.grads[0][...] = 5
    reshape_in_place(layer.grads[0], (1, 12))
    with pytest.raises(ValueError, match="do not change the shape of an array"):
        layer.backward(np.ones((1, 4, 3)))
    assert (layer.grads[0] == 5).all()


def test_the_fused_loss_sees_a_shape_that_was_changed_in_place():
    layer, xs, ts = loss_problem()
    layer.forward(xs, ts)
    layer.backward()
    for dW in layer.grads:
        shape = dW.shape
        reshape_in_place(dW, (1, dW.size))
        with pytest.raises(RuntimeError, match="call forward first"):
            layer.backward()
        reshape_in_place(dW, shape)
    reshape_in_place(layer.params[0], (1, 28))
    with pytest.raises(ValueError, match="do not change the shape of an array"):
        layer.forward(xs[..., :1], ts)


def test_generation_checks_what_a_caller_put_in_place_of_weights_and_states():
    model = language_model(rnnfast.Rnnlm, kernels)
    first = np.array([1])
    for wrong in ((2, 1, 2), (1, 1, 6), (2, 2, 6)):
        with pytest.raises(
            ValueError, match=r"states\[0\]: expected an array of shape \(2, 1, 6\)"
        ):
            model.writer(first, [np.zeros(wrong)], 5, Choice())
    model.infer([[1]])  # after which layers need not look again
    for layer in (model.embedding, *model.recurrent_layers, model.affine):
        W = layer.params[0]
        shape = W.shape
        reshape_in_place(W, (1, W.size))
        with pytest.raises(ValueError, match=r"shape of an array|expected shape"):
            model.writer(first, None, 5, Choice())
        reshape_in_place(W, shape)
        model.writer(first, None, 5, Choice())
    model.recurrent_layers[0].params[0] = np.zeros((6, 4))
    with pytest.raises(ValueError, match="Wx: expected"):
        model.writer(first, None, 5, Choice())


def test_one_array_as_two_gradients_is_an_error():
    """Both are summed in their place, and at once."""
    layer = rnnfast.TimeRNN(*(np.zeros(shape) for shape in ((3, 3), (3, 3), 3)))
    layer.forward(np.ones((2, 4, 3)))
    before = [dW.copy() for dW in layer.grads]
    layer.grads[1] = layer.grads[0]
    with pytest.raises(
        ValueError, match=r"grads: expected an array of its own for every parameter"
    ):
        layer.backward(np.ones((2, 4, 3)))
    np.testing.assert_array_equal(layer.grads[0], before[0])
