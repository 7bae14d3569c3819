"""`LanguageModel` and its options: cells, initial weights, dropout, zoneout, weight drop."""

import copy

import numpy as np
import pytest
from problems import assert_close

import rnnfast
from rnnfast import archive
from rnnfast.errors import InputError
from rnnfast.layers.initial import INITS
from rnnfast.models import LANGUAGE_MODELS, LAYER_OF_CELL
from rnnfast.reference import ops as numpy_ops

V, D, H, N, T = 9, 6, 6, 3, 5
SIZES = {"embedding": D, "hidden": H}
REGULARISED = {"dropout": 0.3, "weight_drop": 0.2, "zoneout": 0.1}
cells = pytest.mark.parametrize("cell", LAYER_OF_CELL)


def batch(seed=0):
    return np.random.default_rng(seed).integers(0, V, (2, N, T))


def make(**options):
    return rnnfast.LanguageModel(V, **{**SIZES, "layers": 2, "rng": 0, **options})


def test_cells_are_those_of_the_textbooks_models():
    assert list(LAYER_OF_CELL) == list(LANGUAGE_MODELS)
    for cell, Model in LANGUAGE_MODELS.items():
        assert Model.Cell is LAYER_OF_CELL[cell]
        ours, books = make(cell=cell, init="textbook"), Model(V, D, H, num_layers=2, rng=0)
        assert isinstance(books, rnnfast.LanguageModel)
        assert list(ours.named_params()) == list(books.named_params())
        for W, like in zip(ours.params, books.params, strict=True):
            np.testing.assert_array_equal(W, like, strict=True)


@cells
@pytest.mark.parametrize("init", INITS)
def test_initial_weights(cell, init):
    """Recurrent layers as in a stack of the same generator; the others by what each name means."""
    D, H = 40, 30
    model = rnnfast.LanguageModel(
        200, cell=cell, embedding=D, hidden=H, init=init, rng=0, dtype="f8"
    )
    rng = np.random.default_rng(0)
    if init == "keras":
        table = rng.uniform(-0.05, 0.05, (200, D))
    else:
        table = rng.standard_normal((200, D)) / (100 if init == "textbook" else 1)
    stack = rnnfast.TimeStack(cell, D, H, init=init, rng=rng, dtype="f8")
    if init == "textbook":
        W, b = rng.standard_normal((H, 200)) / np.sqrt(H), np.zeros(200)
    elif init == "keras":
        bound = np.sqrt(6 / (H + 200))
        W, b = rng.uniform(-bound, bound, (H, 200)), np.zeros(200)
    else:
        bound = 1 / np.sqrt(H)
        W, b = rng.uniform(-bound, bound, (H, 200)), rng.uniform(-bound, bound, 200)
    for own, expected in zip(model.params, [table, *stack.params, W, b], strict=True):
        np.testing.assert_allclose(own, expected, rtol=1e-15, atol=1e-15)


@cells
@pytest.mark.parametrize("locked", [False, True])
@pytest.mark.parametrize("tie_weights", [False, True])
def test_gradients_with_everything_dropped(cell, locked, tie_weights):
    """Central differences, every mask being drawn again from the same generator."""
    model = make(cell=cell, locked=locked, tie_weights=tie_weights, dtype="f8", **REGULARISED)
    xs, ts = batch()
    start = copy.deepcopy(model.random_state())

    def loss():
        model.reset_state()
        model.set_random_state(start)
        return model.forward(xs, ts)

    loss()
    model.backward()
    grads = {name: dW.copy() for name, dW in model.named_grads().items()}
    for name, W in model.named_params().items():
        places = [np.unravel_index(k, W.shape) for k in np.linspace(0, W.size - 1, 7, dtype=int)]
        for place in places:
            kept = W[place]
            W[place] = kept + 1e-5
            above = loss()
            W[place] = kept - 1e-5
            below = loss()
            W[place] = kept
            difference = (above - below) / 2e-5
            assert grads[name][place] == pytest.approx(difference, rel=1e-5, abs=1e-8), name


@pytest.mark.parametrize("locked", [False, True])
def test_dropout_is_that_of_the_layers(locked):
    """Vectors, first and second outputs are masked, each by a generator of its own."""
    model = make(dropout=0.4, locked=locked)
    rng = np.random.default_rng(0)
    plain = make(rng=rng)  # draws the same weights first
    xs, ts = batch()
    first, *others = (
        rnnfast.TimeDropout(0.4, locked=locked, rng=int(rng.random() * 2**53)) for _ in range(3)
    )
    hs = first.forward(plain.embedding.forward(xs))
    for layer, drop in zip(plain.recurrent_layers, others, strict=True):
        hs = drop.forward(layer.forward(hs))
    assert model.forward(xs, ts) == plain.affine.forward(hs, ts)
    assert 0 < (hs == 0).mean() < 1
    assert (hs == 0).all(axis=1).any() == locked


@cells
def test_evaluation_drops_nothing(cell):
    model, plain = make(cell=cell, **REGULARISED), make(cell=cell)
    xs, ts = batch()
    assert model.forward(xs, ts) != plain.forward(xs, ts)
    model.reset_state()
    plain.reset_state()
    model.eval()
    before = model.random_state()
    assert model.forward(xs, ts) == pytest.approx(plain.forward(xs, ts), rel=1e-6)
    model.backward()
    plain.backward()
    for a, b in zip(model.grads, plain.grads, strict=True):
        assert_close(a, b)
    model.train()
    for a, b in zip(model.infer(xs), plain.infer(xs), strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(model.read(xs), plain.read(xs), strict=True):
        np.testing.assert_array_equal(a, b)
    ids = [rnnfast.generate(m, [1, 2], 8, rng=3).tolist() for m in (model, plain)]
    assert ids[0] == ids[1]
    assert model.random_state() == before


@cells
def test_twins_and_seeds(cell):
    """The same seed is the same model and masks, in NumPy too; NumPy's own seed as well."""
    xs, ts = batch()

    def losses(**options):
        model = make(cell=cell, **REGULARISED, **options)
        return [model.forward(xs, ts) for _ in range(2)]

    first = losses()
    assert first[0] != first[1]
    assert losses() == losses(rng=np.random.default_rng(0)) == first
    assert losses(ops=numpy_ops) == pytest.approx(first, rel=1e-5)
    np.random.seed(5)
    of_global = losses(rng=None)
    np.random.seed(5)
    assert losses(rng=None) == of_global != first


def test_nothing_random_without_regularisation():
    assert make().random_state() == {}
    np.random.seed(5)
    make(rng=None)
    after = np.random.randn()
    np.random.seed(5)
    rnnfast.TimeStack("lstm", 1, 1, rng=0)
    make(rng=None)
    assert np.random.randn() == after


def test_the_better_model():
    model = rnnfast.BetterRnnlm(V, H, H, 0.25, rng=0)
    assert model.Cell is rnnfast.TimeLSTM
    assert model.tie_weights
    assert len(model.recurrent_layers) == 2
    assert [(layer.rate, layer.locked) for layer in model.dropout_layers] == [(0.25, False)] * 3
    assert model.affine.params[0].base is model.embedding.params[0]
    assert rnnfast.BetterRnnlm(V, H, H).dropout_layers[0].rate == 0.5
    with pytest.raises(ValueError, match=r"^dropout_ratio: expected"):
        rnnfast.BetterRnnlm(V, H, H, 1)
    with pytest.raises(ValueError, match=r"^tie_weights: expected equal sizes .* got 5 and 6"):
        rnnfast.BetterRnnlm(V, 5, 6)


@pytest.mark.parametrize(
    "options",
    [
        {"cell": "gru", "tie_weights": True, "dropout": 0.25, "locked": True},
        {"cell": "rnn", "zoneout": 0.1},
        {"cell": "lstm", "weight_drop": 0.5, "dropout": 0.5, "zoneout": (0.1, 0.2)},
    ],
    ids=lambda options: options["cell"],
)
def test_saved_and_loaded(tmp_path, options):
    model = make(**options)
    path = tmp_path / "model.npz"
    model.save(path)
    for again in (rnnfast.LanguageModel.load(path), rnnfast.Network.load(path)):
        assert type(again) is rnnfast.LanguageModel
        assert again.config() == model.config()
        assert again.random_state().keys() == model.random_state().keys()
        again.set_random_state(model.random_state())
        assert again.forward(*batch()) == copy.deepcopy(model).forward(*batch())
    with pytest.raises(InputError, match=r"holds a LanguageModel, expected a Rnnlm"):
        rnnfast.Rnnlm.load(path)


def test_files_of_other_shapes(tmp_path):
    path = tmp_path / "model.npz"
    rnnfast.Rnnlm(V, D, H, rng=0).save(path)
    _, arrays, meta = archive.load_archive(path, "model")
    for entries, said in (
        ({"cell": "gru"}, "cell: expected that of a Rnnlm, got 'gru'"),
        ({"cell": "new"}, "cell: expected one of rnn, lstm, gru, got 'new'"),
        ({"dropout": [{"rate": 0.5}]}, "expected one more than the 1 recurrent layers"),
        ({"dropout": [{"rate": 0.5}, {"rate": 2}]}, "layer dropout.1, a TimeDropout: rate"),
    ):
        archive.save_archive(path, "model", arrays, meta | {"config": meta["config"] | entries})
        with pytest.raises(InputError, match=said):
            rnnfast.Network.load(path)
    # as they were before there were other cells and dropout
    old = {name: value for name, value in meta["config"].items() if name not in ("cell", "dropout")}
    archive.save_archive(path, "model", arrays, meta | {"config": old})
    assert rnnfast.Network.load(path).config() == meta["config"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"cell": "LSTM"}, "cell: expected one of rnn, lstm, gru, got 'LSTM'"),
        ({"cell": ["lstm"]}, "cell: expected one of"),
        ({"embedding": 0}, "embedding: expected"),
        ({"hidden": 2.5}, "hidden: expected"),
        ({"layers": 0}, "layers: expected"),
        ({"dropout": 1.0}, "dropout: expected"),
        ({"dropout": "x"}, "dropout: expected"),
        ({"locked": 1}, "locked: expected"),
        ({"weight_drop": -0.1}, "weight_drop: expected"),
        ({"zoneout": (0.1, 2)}, "zoneout[1]: expected"),
        ({"init": "zeros"}, "init: expected one of textbook, pytorch, keras, got 'zeros'"),
        ({"dtype": "f2"}, "dtype: expected"),
        ({"rng": "x"}, "rng: expected"),
        ({"tie_weights": True, "embedding": 5}, "tie_weights: expected equal sizes"),
    ],
    ids=str,
)
def test_bad_options(options, said):
    np.random.seed(1)
    before = np.random.get_state()[1].tolist()
    with pytest.raises((TypeError, ValueError)) as error:
        make(**{"rng": None, **options})
    assert said in str(error.value)
    assert np.random.get_state()[1].tolist() == before
