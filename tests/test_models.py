"""Language models: the initial weights of the textbook, params and grads, tied weights, state."""

import numpy as np
import pytest
from problems import assert_close

import rnnfast
from rnnfast.reference import ops as numpy_ops

MODELS = [rnnfast.SimpleRnnlm, rnnfast.Rnnlm]
models = pytest.mark.parametrize("Model", MODELS, ids=lambda Model: Model.__name__)
tied_or_not = pytest.mark.parametrize("tie_weights", [False, True], ids=["untied", "tied"])
V, D, H = 11, 6, 6


def batch(N=3, T=5, seed=0):
    return np.random.default_rng(seed).integers(0, V, (2, N, T))


def draw(*shape, scale):
    return (np.random.randn(*shape) / scale).astype("f")  # as the textbook does


@models
def test_initial_weights_are_the_textbooks(Model):
    """Same seed, same draws: embedding, Wx, Wh, b, affine W, b; float32; sizes as positions."""
    D, H, G = 5, 7, 4 if Model is rnnfast.Rnnlm else 1
    np.random.seed(3)
    model = Model(V, D, H)
    after = np.random.randn()
    np.random.seed(3)
    expected = [
        draw(V, D, scale=100),
        draw(D, G * H, scale=np.sqrt(D)),
        draw(H, G * H, scale=np.sqrt(H)),
        np.zeros(G * H, "f"),
        draw(H, V, scale=np.sqrt(H)),
        np.zeros(V, "f"),
    ]
    assert np.random.randn() == after
    for W, textbook in zip(model.params, expected, strict=True):
        np.testing.assert_array_equal(W, textbook, strict=True)


@models
def test_rng_is_where_weights_come_from(Model):
    """A generator of one's own leaves NumPy's global state alone."""
    np.random.seed(0)
    first, second, other = (
        Model(V, D, H, num_layers=2, rng=np.random.default_rng(s)) for s in (1, 1, 2)
    )
    at = np.random.randn()
    np.random.seed(0)
    assert np.random.randn() == at
    for a, b in zip(first.params, second.params, strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(first.params[0], other.params[0])


@models
@tied_or_not
@pytest.mark.parametrize("num_layers", [1, 3])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_params_and_grads_are_aligned_and_stay(Model, tie_weights, num_layers, dtype):
    model = Model(V, D, H, num_layers=num_layers, tie_weights=tie_weights, dtype=dtype)
    assert len(model.params) == 1 + 3 * num_layers + (1 if tie_weights else 2)
    assert [W.shape for W in model.params] == [dW.shape for dW in model.grads]
    assert {array.dtype for array in model.params + model.grads} == {np.dtype(dtype)}
    members = [id(array) for array in model.params + model.grads]
    loss = model.forward(*batch())
    assert loss == pytest.approx(np.log(V), rel=0.2)
    model.backward()
    assert members == [id(array) for array in model.params + model.grads]
    assert all(dW.any() for dW in model.grads)
    for W in model.params:  # all of them are what the layers compute with
        W[...] = 0
    assert model.forward(*batch()) == pytest.approx(np.log(V), rel=1e-6)


@models
@tied_or_not
def test_compiled_equals_numpy(Model, tie_weights):
    options = {"num_layers": 2, "tie_weights": tie_weights, "dtype": np.float64}
    ours, twin = (
        Model(V, D, H, rng=np.random.default_rng(0), ops=ops, **options)
        for ops in (rnnfast.kernels, numpy_ops)
    )
    for seed in range(3):
        xs, ts = batch(seed=seed)
        assert ours.forward(xs, ts) == pytest.approx(twin.forward(xs, ts), rel=1e-12)
        ours.backward(0.5)
        twin.backward(0.5)
        for k, (a, b) in enumerate(zip(ours.grads, twin.grads, strict=True)):
            assert_close(a, b, name=f"grads[{k}]")
    assert_close(ours.predict(xs), twin.predict(xs))


@models
def test_tied_weights_share_memory_and_collect_both_gradients(Model):
    tied = Model(V, D, H, tie_weights=True, dtype=np.float64)
    assert np.shares_memory(tied.embedding.params[0], tied.affine.params[0])
    assert tied.params[0] is tied.embedding.params[0]

    untied = Model(V, D, H, dtype=np.float64)
    *others, affine_W, affine_b = untied.params
    for W, value in zip([*others, affine_b], tied.params, strict=True):
        W[...] = value
    affine_W[...] = tied.params[0].T
    for model in (tied, untied):
        model.forward(*batch())
        model.backward()
        model.backward()  # a second time changes nothing
    assert_close(tied.grads[0], untied.grads[0] + untied.grads[-2].T)
    for ours, theirs in zip(tied.grads[1:], untied.grads[1:-2] + untied.grads[-1:], strict=True):
        assert_close(ours, theirs)

    rnnfast.SGD(0.1).update(tied.params, tied.grads)
    np.testing.assert_array_equal(tied.affine.params[0], tied.embedding.params[0].T)


@models
@tied_or_not
def test_blocks_equal_one_long_run(Model, tie_weights):
    model = Model(V, D, H, num_layers=2, tie_weights=tie_weights, dtype=np.float64)
    xs, _ = batch(T=12)
    whole = model.predict(xs)
    assert not np.allclose(model.predict(xs), whole)  # carries on
    model.reset_state()
    blocks = [model.predict(block) for block in np.split(xs, [1, 5, 7], axis=1)]
    assert_close(np.concatenate(blocks, axis=1), whole)


@models
def test_get_state_and_set_state(Model):
    model = Model(V, D, H, num_layers=2)
    xs, ts = batch()
    assert all(part is None for layer in model.get_state() for part in layer)
    model.predict(xs)
    carried = model.get_state()
    assert [part.shape for layer in carried for part in layer] == [(3, H)] * len(sum(carried, ()))
    loss = model.forward(xs, ts)
    assert model.forward(xs, ts) != loss
    model.set_state(carried)
    assert model.forward(xs, ts) == loss
    model.reset_state()
    assert all(part is None for layer in model.get_state() for part in layer)


@models
@tied_or_not
def test_models_learn(Model, tie_weights):
    """A text of period 7, far below the entropy of guessing."""
    model = Model(V, 16, 16, tie_weights=tie_weights, rng=np.random.default_rng(0))
    optimizer = rnnfast.Adam(0.02)
    ids = np.resize([0, 1, 2, 0, 3, 2, 4], (4, 1401))
    for start in range(0, 1400, 7):
        loss = model.forward(ids[:, start : start + 7], ids[:, start + 1 : start + 8])
        model.backward()
        rnnfast.clip_grads(model.grads, 1)
        optimizer.update(model.params, model.grads)
    assert loss < 0.05
