"""With `ops=reference.ops` nothing compiled is called: not by a layer, a loss, a model, an
optimizer, nor by one of the systems while it trains.
"""

from inspect import signature

import numpy as np
import pytest
from problems import LAYERS, MODELS, OPTIMIZERS, class_of, make_problem

import rnnfast
from rnnfast import kernels, reference
from rnnfast.layers import TIME_LAYERS

pytestmark = pytest.mark.usefixtures("no_kernels")

OPS = {"ops": reference.ops}
TEXT = "the cat saw the dog and the dog saw the cat and ran\n" * 4
IDS = rnnfast.Vocabulary.from_text(TEXT).encode(TEXT)
V = int(IDS.max()) + 1


def refused(name):
    return pytest.raises(AssertionError, match=f"{name} was called, which is compiled")


def test_every_compiled_function_is_refused(no_kernels):
    """Or else the tests below would find nothing."""
    assert set(kernels.__all__) - {"build", "engine"} <= no_kernels["rnnfast.kernels"]
    for name in kernels.__all__:
        if name not in ("build", "engine"):
            with refused(name):
                getattr(kernels, name)()
    assert "map_function" in no_kernels["rnnfast.kernels.engine"]
    assert "matmul" in no_kernels["rnnfast.kernels.products"]
    for name in ("affine", "embedding", "generation", "optimizer_steps", "recurrent", "sums"):
        assert no_kernels[f"rnnfast.kernels.{name}"]
    with refused("recurrent_forward"):
        make_problem("TimeRNN").run(rnnfast)
    with refused("affine_forward"):
        make_problem("TimeAffine").run(rnnfast)
    with refused("sgd_step"):
        rnnfast.SGD().update([np.zeros(2)], [np.ones(2)])
    with refused("sum_of_squares"):
        rnnfast.clip_grads([np.ones(2)], 1)


@pytest.mark.parametrize("module", [reference, rnnfast], ids=["reference", "ops"])
@pytest.mark.parametrize("name", LAYERS)
def test_layers_and_losses(name, module):
    """`reference` has these `ops` without an argument."""
    problem = make_problem(name)
    given = module is rnnfast and "ops" in signature(class_of(name)).parameters
    layer = problem.layer(module, **(OPS if given else {}))
    assert problem.forward(layer) | problem.backward(layer)
    if hasattr(layer, "infer"):
        problem.infer(layer)


@pytest.mark.parametrize("cell", TIME_LAYERS)
def test_rows_of_an_embedding_by_an_index(cell):
    embedding = rnnfast.TimeEmbedding(np.ones((V, 3)), **OPS)
    G = TIME_LAYERS[cell].cell.G
    weights = np.ones((3, G * 4)), np.ones((4, G * 4)), np.ones(G * 4)
    layer = TIME_LAYERS[cell](*weights, **OPS)
    vectors, index = embedding.forward_distinct(IDS[None])
    hs = layer.forward(vectors, index=index)
    embedding.backward(layer.backward(np.ones_like(hs)))
    layer.infer(*embedding.infer_distinct(IDS[None])[:1], index=index)


def test_affine_with_loss():
    layer = rnnfast.TimeAffineWithLoss(np.ones((4, V)), np.ones(V), **OPS)
    layer.forward(np.ones((2, 3, 4)), IDS[:6].reshape(2, 3), need_gradient=False)


@pytest.mark.parametrize("tie_weights", [False, True])
@pytest.mark.parametrize("Model", MODELS)
def test_models(Model, tie_weights):
    model = Model(V, 5, 5, num_layers=2, tie_weights=tie_weights, rng=0, **OPS)
    xs, ts = IDS[None, :-1], IDS[None, 1:]
    model.forward(xs, ts)
    model.backward()
    model.predict(xs)
    model.infer(xs)
    model.read(xs)
    rnnfast.generate(model, IDS[:3], 4, rng=0)
    rnnfast.generate(model, IDS[:1], 4, temperature=0)
    rnnfast.evaluate(model, IDS)


def test_network():
    W = np.ones((4, 4))
    layers = [
        rnnfast.TimeEmbedding(np.ones((V, 4)), **OPS),
        rnnfast.TimeRNN(W, W, W[0], **OPS),
        rnnfast.TimeAffine(np.ones((4, V)), np.ones(V), **OPS),
    ]
    network = rnnfast.Network(layers, rnnfast.TimeSoftmaxWithLoss(**OPS))
    network.forward(IDS[None, :-1], IDS[None, 1:])
    network.backward()
    network.predict(IDS[None])
    network.infer(IDS[None])
    rnnfast.generate(network, IDS[:2], 3, rng=0)


@pytest.mark.parametrize("Optimizer", OPTIMIZERS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_optimizers_and_clipping(dtype, Optimizer):
    W, dW = np.ones((2, 3), dtype), np.full((2, 3), 9, dtype)
    optimizer = Optimizer(0.5, **OPS)
    assert optimizer.ops is reference.ops
    for _ in range(2):
        assert rnnfast.clip_grads([dW, W.T.copy().T], 1.0, **OPS) > 1
        assert rnnfast.clip_values([dW, W.T.copy().T], 0.3, **OPS) > 0.9
        optimizer.update([W], [dW])
    assert (W != 1).all()


def test_perplexity_rnnlm():
    model = rnnfast.PerplexityRnnlm.random(V, 3, 4, batch_size=2, rng=0, **OPS)
    assert len(model.train(IDS, 11, max_grad=1.0)) == 2
    model.predict(IDS[None])


def test_char_rnn():
    model = rnnfast.CharRnn.seeded(V, 4, **OPS)
    model.forward(IDS[:3], IDS[1:4])
    model.backward()
    model.published_gradients(IDS[:3], IDS[1:4])
    rnnfast.generate(model, IDS[:2], 3, rng=0)


@pytest.mark.parametrize("Model", MODELS)
def test_word_training(Model, tmp_path):
    path = tmp_path / "words.txt"
    path.write_text(TEXT, encoding="utf-8")
    run = rnnfast.train_word_file(
        path, batch_size=2, hidden_size=4, wordvec_size=3, epochs=1, model_class=Model, **OPS
    )
    ids = run.vocabulary.encode(TEXT)
    optimizer = rnnfast.Adam(**OPS)
    options = {"batch_size": 2, "epochs": 1, "max_grad": 0.1}
    rnnfast.train_words(run.model, optimizer, ids, **options)
    with refused("sum_of_squares"):
        rnnfast.train_words(run.model, rnnfast.SGD(), ids, **options)


@pytest.mark.parametrize("target", ["steps", "last"])
def test_sequence_regressor(target):
    X = np.random.default_rng(0).normal(size=(3, 5, 1))
    y = X[:, :, 0] if target == "steps" else X[:, 0, 0]
    model = rnnfast.SequenceRegressor(4, target=target, epochs=2, max_grad=0.1, **OPS)
    model.fit(X, y).predict(X)
    model.forecast(2)
    model.score(X, y)
    model.gradients(X, y)


def test_char_lstm():
    model = rnnfast.CharLstm.random(V, 4, rng=0, **OPS)
    model.fit(IDS, epochs=1, max_grad=1.0)
    model.forward(IDS[:3], IDS[1:4])
    model.backward()
    model.sample(IDS[:2], 3, rng=0)
