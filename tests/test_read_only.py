"""Weights that cannot be written: frozen, mapped from a file, or in an object from another process.

Everything works with them that does not write them, with the same bits; what does says so.
"""

import pickle

import numpy as np
import pytest
from problems import DTYPES, LAYERS, MODELS, make_problem

import rnnfast
from rnnfast import kernels, reference

V, H = 7, 6
IDS = np.random.default_rng(0).integers(0, V, 40)
BLOCK = IDS[None, :9], IDS[None, 1:10]
both_ops = pytest.mark.parametrize("ops", [kernels, reference.ops], ids=["compiled", "numpy"])
dtypes = pytest.mark.parametrize("dtype", DTYPES)


def frozen(array, _):
    array = array.copy()
    array.flags.writeable = False
    return array


def mapped(array, folder):
    path = folder / str(len(list(folder.iterdir())))
    array.tofile(path)
    return np.memmap(path, array.dtype, "r", shape=array.shape)


def moved(thing):
    """A copy of an object whose arrays are read-only, as joblib hands them out to its workers."""
    buffers = []
    data = pickle.dumps(thing, protocol=5, buffer_callback=buffers.append)
    again = pickle.loads(data, buffers=[bytes(buffer.raw()) for buffer in buffers])
    assert buffers
    return again


changes = pytest.mark.parametrize("change", [frozen, mapped])


def with_weights(network, change, folder):
    """The network, whose layers have changed weights, each of which is read-only."""
    for layer in (*network.layers, network.loss_layer):
        layer.params[:] = [change(W, folder) for W in layer.params]
    network.params[:] = [W for _, W in network.named_params().items()]
    assert network.params
    assert not any(W.flags.writeable for W in network.params)
    return network


def assert_same(a, b):
    for x, y in zip(a, b, strict=True):
        np.testing.assert_array_equal(x, y)


@changes
@dtypes
@pytest.mark.parametrize("module", [rnnfast, reference], ids=["compiled", "numpy"])
@pytest.mark.parametrize("name", LAYERS)
def test_layers_and_losses(name, module, dtype, change, tmp_path):
    """Weights, inputs, states and gradients that arrive, in forward, backward and infer."""
    problem = make_problem(name, dtype)
    fixed = problem.map(lambda array: change(array, tmp_path))
    expected, ours = problem.run(module), fixed.run(module)
    assert_same(ours.values(), expected.values())
    layer = fixed.layer(module)
    if hasattr(layer, "infer"):
        infer = [np.asarray(p.infer(layer)[0]) for p in (problem, fixed)]
        assert_same(infer[:1], infer[1:])


def network(ops):
    rng = np.random.default_rng(0)
    shapes = (V, 4), (4, 4 * H), (H, 4 * H), (4 * H,), (H, V), (V,)
    embed_W, Wx, Wh, b, W, affine_b = map(rng.standard_normal, shapes)
    layers = [
        rnnfast.TimeEmbedding(embed_W, ops=ops),
        rnnfast.TimeLSTM(Wx, Wh, b, ops=ops),
        rnnfast.TimeAffine(W, affine_b, ops=ops),
    ]
    return rnnfast.Network(layers, rnnfast.TimeSoftmaxWithLoss(ops=ops))


NETWORKS = {
    **{
        f"{Model.__name__}{' tied' * tied}": lambda ops, Model=Model, tied=tied: Model(
            V, H, H, num_layers=2, tie_weights=tied, rng=0, ops=ops
        )
        for Model in MODELS
        for tied in (False, True)
    },
    "Network": network,
    "CharRnn": lambda ops: rnnfast.CharRnn.seeded(V, H, ops=ops),
    "CharLstm": lambda ops: rnnfast.CharLstm.random(V, H, rng=0, ops=ops),
    "PerplexityRnnlm": lambda ops: rnnfast.PerplexityRnnlm.random(
        V, 4, H, batch_size=2, rng=0, ops=ops
    ),
}
networks = pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS)


def asked(network):
    """What can be asked of a network without writing anything."""
    results = [network.predict(BLOCK[0]), network.infer(BLOCK[0])[0]]
    results.append(network.forward(*BLOCK))
    if not isinstance(network, rnnfast.PerplexityRnnlm):  # whose outputs are no logits
        results += [rnnfast.generate(network, IDS[:3], 8, rng=0, temperature=t) for t in (0, 1)]
    if hasattr(network, "read"):
        results += network.read(BLOCK[0])
        results.append(rnnfast.evaluate(network, IDS))
    if hasattr(network, "published_gradients"):
        results += network.published_gradients(IDS[:3], IDS[1:4]).values()
    return results


@changes
@both_ops
@networks
def test_networks(make, ops, change, tmp_path):
    network = make(ops)
    fixed = with_weights(make(ops), change, tmp_path)
    assert_same(asked(fixed), asked(network))
    for each in (network, fixed):
        each.reset_state()
        each.forward(*BLOCK)
        each.backward()
    assert_same(fixed.grads, network.grads)
    with pytest.raises(ValueError, match=r"params\[0\]: expected a writable array .* read-only"):
        rnnfast.SGD(0.1).update(fixed.params, fixed.grads)
    assert_same(fixed.params, network.params)


@both_ops
@pytest.mark.parametrize("name", ["Network", "CharRnn", "CharLstm", "PerplexityRnnlm"])
def test_networks_from_another_process(name, ops):
    network = NETWORKS[name](ops)
    network.forward(*BLOCK)  # so that there are states that are carried
    assert_same(asked(moved(network)), asked(network))
    far = moved(network)
    far.forward(*BLOCK)
    with pytest.raises(TypeError, match=r"gradient of \w+: expected a writable array"):
        far.backward()


@both_ops
@pytest.mark.parametrize("name", ["CharRnn", "CharLstm"])
def test_systems_copy_the_weights_that_they_are_given(name, ops, tmp_path):
    model = NETWORKS[name](ops)
    for change in (frozen, mapped):
        given = {key: change(W, tmp_path) for key, W in model.weights.items()}
        again = type(model)(given, ops=ops)
        assert all(W.flags.writeable for W in again.params)
        assert_same(again.params, model.params)


@both_ops
def test_training_of_weights_that_cannot_be_written(ops, tmp_path):
    """An error of the optimizer, and nothing has changed."""
    for make, train in (
        (NETWORKS["CharLstm"], lambda model: model.fit(IDS, epochs=1)),
        (NETWORKS["PerplexityRnnlm"], lambda model: model.train(IDS, 1)),
        (
            NETWORKS["Rnnlm"],
            lambda model: rnnfast.train_words(
                model, rnnfast.SGD(), IDS, batch_size=2, epochs=1, max_grad=1.0
            ),
        ),
    ):
        model = with_weights(make(ops), frozen, tmp_path)
        before = [W.copy() for W in model.params]
        with pytest.raises(ValueError, match=r"params\[0\]: expected a writable array"):
            train(model)
        assert_same(model.params, before)


@both_ops
@pytest.mark.parametrize("target", ["steps", "last"])
def test_sequence_regressor_from_another_process(target, ops):
    X = np.random.default_rng(0).normal(size=(3, 5, 1))
    y = X[:, :, 0] if target == "steps" else X.sum(axis=(1, 2))
    model = rnnfast.SequenceRegressor(H, epochs=3, target=target, random_state=0, ops=ops)
    model.fit(X, y)
    far = moved(model)
    assert not any(W.flags.writeable for W in far.network_.params)
    X.flags.writeable = y.flags.writeable = False
    assert_same([far.predict(X), far.forecast(3)], [model.predict(X), model.forecast(3)])
    assert far.score(X, y) == model.score(X, y)
    loss, gradients = far.gradients(X, y)
    expected_loss, expected = model.gradients(X, y)
    assert loss == expected_loss
    assert_same(gradients.values(), expected.values())
    assert far.fit(X, y).loss_curve_ == model.loss_curve_
