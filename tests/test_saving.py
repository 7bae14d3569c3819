"""Models in files: what comes back is what was saved, and nothing else is believed."""

import contextlib
import copy
import doctest
import json
import os
import sys
from functools import partial

import numpy as np
import pytest
from problems import TIME_CLASSES, assert_close

import rnnfast
from rnnfast import archive, models
from rnnfast.errors import InputError
from rnnfast.layers import TIME_LAYERS
from rnnfast.models import network, saving
from rnnfast.reference import ops as numpy_ops

V, D, H = 11, 6, 6
IDS = np.random.default_rng(9).integers(0, V, (2, 3, 5))


class Sum:
    """A layer without weights, names or config."""

    def __init__(self):
        self.params, self.grads = [], []

    def forward(self, a, b):
        return a + b

    def backward(self, dout):
        return dout, dout


class Scale:
    """A layer as in the textbook, with an argument besides its weights."""

    def __init__(self, w, factor=1.0):
        self.params, self.grads, self.factor = [w], [np.zeros_like(w)], factor

    def config(self):
        return {"factor": self.factor}

    def forward(self, xs):
        return xs * self.params[0] * self.factor

    def backward(self, dout):
        return dout * self.params[0] * self.factor


class Shift(rnnfast.Layer):
    """A layer with names, on our base class."""

    def __init__(self, b):
        super().__init__(b=b)

    def _shapes(self):
        return (("D",),)

    def forward(self, xs):
        return xs + self.params[0]

    def backward(self, dout):
        return dout


OWN = {"Sum": Sum, "Scale": Scale, "Shift": Shift}


def normal(*shape, dtype="float32", seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def recurrent(Layer, rows, dtype="float32", **options):
    G = Layer.cell.G
    weights = normal(rows, G * H, dtype=dtype), normal(H, G * H, dtype=dtype), normal(G * H)
    return Layer(*(W.astype(dtype) for W in weights), **options)


def chain(dtype="float32"):
    layers = [
        rnnfast.TimeEmbedding(normal(V, D, dtype=dtype)),
        recurrent(rnnfast.TimeLSTM, D, dtype, stateful=True, truncate_size=2),
        recurrent(rnnfast.TimeRNN, H, dtype),
        rnnfast.TimeAffine(normal(H, V, dtype=dtype), normal(V, dtype=dtype)),
    ]
    return rnnfast.Network(layers, rnnfast.TimeSoftmaxWithLoss(ignore_label=3))


def graph():
    """Two inputs, one of which is no layer's, layers of one's own, and a loss with a table."""
    layers = {
        "words": rnnfast.TimeEmbedding(normal(V, D)),
        "in.0": recurrent(rnnfast.TimeLSTM, D),
        "scale": Scale(normal(H), 0.5),
        "sum": Sum(),
        "shift": Shift(normal(H)),
    }
    inputs = {"scale": "more", "sum": ("in.0", "scale")}
    loss = rnnfast.TimeAffineWithLoss(normal(H, V), normal(V), ignore_label=-7)
    return rnnfast.Network(layers, loss, inputs=inputs)


def perplexity():
    layers = {"in": rnnfast.TimeEmbedding(normal(V, V)), "p": rnnfast.TimeSoftmax()}
    return rnnfast.Network(layers, rnnfast.TimePerplexityLoss(eps=0.25))


def language_model(Model, **options):
    model = Model(V, D, H, num_layers=2, rng=0, **options)
    model.recurrent_layers[1].truncate_size = 3
    model.recurrent_layers[0].stateful = np.bool_(False)
    model.affine.ignore_label = 4
    return model


def seq2seq(Model, **options):
    model = Model(V, D, H, target_vocab_size=V + 2, rng=0, **options)
    model.recurrent_layers[1].truncate_size = 3
    model.affine.ignore_label = 4
    return model


def char_rnn():
    model = rnnfast.CharRnn.seeded(V, H, truncate_size=2, stateful=True)
    model.loss_layer.ignore_label = 3
    return model


def flat_char_rnn():
    weights = rnnfast.CharRnn.seeded(V, H, dtype="float64").weights
    return rnnfast.CharRnn({name: W.squeeze() for name, W in weights.items()})


def perplexity_rnnlm():
    model = rnnfast.PerplexityRnnlm.random(
        V, D, H, rng=0, batch_size=3, time_T=7, lr=0.25, truncate_size=2, stateful=True, eps=0.5
    )
    model.train(IDS[0, 0], 3)
    model.reset_state()
    return model


SYSTEMS = {
    "CharRnn": char_rnn,
    "CharRnn64": flat_char_rnn,
    "CharLstm": lambda: rnnfast.CharLstm.random(V, H, rng=0, truncate_size=3),
    "CharLstm64": lambda: rnnfast.CharLstm.random(V, H, rng=0, stateful=True, dtype="float64"),
    "PerplexityRnnlm": perplexity_rnnlm,
}


def every_kind():
    """Of recurrent layers, with every option that changes what they compute in evaluation."""
    both = {
        f"{name}{k}": W
        for k in "12"
        for name, W in recurrent(rnnfast.TimeGRU, H, reset_after=True).named_params().items()
    }
    layers = [
        rnnfast.TimeEmbedding(normal(V, D)),
        recurrent(rnnfast.TimeRNN, D, activation="relu", reverse=True),
        recurrent(rnnfast.TimeGRU, H, stateful=True),
        recurrent(rnnfast.TimeGRU, H, reset_after=True, bh=normal(3 * H)),
        rnnfast.TimeBiGRU(**both, reset_after=True, truncate_size=2),
        rnnfast.TimeAffine(normal(2 * H, V), normal(V)),
    ]
    return rnnfast.Network(layers, rnnfast.TimeSoftmaxWithLoss())


MODELS = SYSTEMS | {
    "every kind": every_kind,
    "chain": chain,
    "chain64": lambda: chain("float64"),
    "graph": graph,
    "perplexity": perplexity,
    "rnn": lambda: language_model(rnnfast.SimpleRnnlm),
    "lstm64": lambda: language_model(rnnfast.Rnnlm, dtype="float64"),
    "tied": lambda: language_model(rnnfast.Rnnlm, tie_weights=True),
    "seq2seq": lambda: seq2seq(rnnfast.Seq2seq, cell="gru_reset_after"),
    "peeky": lambda: seq2seq(rnnfast.PeekySeq2seq, cell="rnn_relu"),
    "attention64": lambda: seq2seq(rnnfast.AttentionSeq2seq, dtype="float64"),
}
every_model = pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)


def results(model):
    """Output, loss and gradients of two blocks, of which the second starts where one ended."""
    options = {"more": normal(3, 5, H)} if "scale" in model.layer_names else {}
    read = {"decoder_xs": IDS[1]} if "decoder.embedding" in model.layer_names else options
    found = {}
    for k in range(2):
        found[f"output {k}"] = model.predict(IDS[0], **read)
        found[f"loss {k}"] = model.forward(*IDS, **options)
        model.backward()
        found |= {f"{name} {k}": dW.copy() for name, dW in model.named_grads().items()}
    return found


def require_equal(model, other):
    assert type(model) is type(other)
    assert model.config() == other.config()
    assert list(model.named_params()) == list(other.named_params())
    for name, W in model.named_params().items():
        np.testing.assert_array_equal(other.named_params()[name], W, strict=True)
    expected, found = results(model), results(other)
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, strict=True)


@every_model
def test_round_trip(make, tmp_path):
    model = make()
    path = tmp_path / "model"
    model.save(path)
    assert os.listdir(tmp_path) == ["model"]
    loaded = rnnfast.Network.load(path, classes=OWN)
    model.reset_state()
    require_equal(model, loaded)
    loaded.save(path)  # and what was loaded can be saved
    model.reset_state()
    require_equal(model, type(model).load(path, classes=OWN))


@every_model
def test_other_arithmetic(make, tmp_path):
    """`ops` reaches every layer and the loss; by default it is that of the layers."""
    make().save(tmp_path / "model")
    loaded, ours = (
        rnnfast.Network.load(tmp_path / "model", classes=OWN, ops=ops) for ops in (numpy_ops, None)
    )
    for model, ops in ((loaded, numpy_ops), (ours, rnnfast.kernels)):
        layers = [x for x in (*model.layers, model.loss_layer) if hasattr(x, "ops")]
        assert layers
        assert all(layer.ops is ops for layer in layers)
        assert getattr(model, "ops", ops) is ops


def test_what_was_loaded_learns_on(tmp_path):
    """Its weights are writable, tied ones are one memory, and those of the file stay."""
    model = language_model(rnnfast.Rnnlm, tie_weights=True)
    model.save(tmp_path / "a")
    loaded = rnnfast.Rnnlm.load(tmp_path / "a")
    assert np.shares_memory(loaded.embedding.params[0], loaded.affine.params[0])
    for some in (model, loaded):
        some.reset_state()
        some.forward(*IDS)
        some.backward()
        rnnfast.Adam().update(some.params, some.grads)
    for name, W in model.named_params().items():
        np.testing.assert_array_equal(loaded.named_params()[name], W)
    assert not np.array_equal(rnnfast.Rnnlm.load(tmp_path / "a").params[0], loaded.params[0])


@pytest.mark.parametrize("order", ["C", "F"])
def test_tied_weights_stay_tied(tmp_path, order):
    """Transposed or as they are, but not where they only look alike."""
    W = np.asarray(normal(V, H), order=order)
    b = normal(V)
    layers = {
        "in": rnnfast.TimeEmbedding(W),
        "square": rnnfast.TimeAffine(normal(H, H), normal(H)),
        "again": rnnfast.TimeAffine(normal(H, H), normal(H)),
        "out": rnnfast.TimeAffine(W.T, b),
        "loss.0": rnnfast.TimeAffine(normal(V, V), b),
    }
    network = rnnfast.Network(layers, rnnfast.TimeSoftmaxWithLoss())
    network.save(tmp_path / "a")
    _, arrays, meta = archive.load_archive(tmp_path / "a", "model")
    assert meta["tied"].keys() == {"out.W", "loss.0.b"}
    assert "param/out.W" not in arrays
    loaded = rnnfast.Network.load(tmp_path / "a")
    require_equal(network, loaded)
    params = loaded.named_params()
    assert np.shares_memory(params["in.W"], params["out.W"])
    assert params["out.b"] is params["loss.0.b"]
    assert not np.shares_memory(params["square.W"], params["again.W"])
    params["in.W"][2, 3] = 5
    assert params["out.W"][3, 2] == 5


def test_square_tied_weights_know_their_way(tmp_path):
    W = normal(H, H)
    for tied in (W, W.T):
        layers = [rnnfast.TimeEmbedding(W), rnnfast.TimeAffine(tied, normal(H))]
        network = rnnfast.Network(layers, rnnfast.TimeSquaredLoss())
        network.save(tmp_path / "a")
        ids = np.arange(H)[None]
        np.testing.assert_array_equal(
            rnnfast.Network.load(tmp_path / "a").predict(ids), network.predict(ids)
        )


@pytest.mark.parametrize("twin", [False, True])
def test_views_and_twins_become_plain_layers(tmp_path, twin):
    """Weights with gaps, reversed, read-only or in Fortran order; twins load as compiled layers."""
    module = rnnfast.reference if twin else rnnfast
    base = normal(2 * H, 2 * H)
    for W in (base[::2, ::2], base[:H, :H][::-1], np.asfortranarray(base[:H, :H]), base[:H, :H].T):
        W.flags.writeable = False
        network = rnnfast.Network([module.TimeAffine(W, normal(H))], module.TimeSquaredLoss())
        network.save(tmp_path / "a")
        loaded = rnnfast.Network.load(tmp_path / "a")
        assert type(loaded.layers[0]) is rnnfast.TimeAffine
        np.testing.assert_array_equal(loaded.params[0], W)
        assert all(W.flags.writeable for W in loaded.params)


RATES = {"recurrent_dropout": 0.125, "zoneout": 0.5, "weight_drop": 0.25}
ALL_OPTIONS = RATES | {"stateful": True, "truncate_size": 3, "zoneout_mean": True}
OWN_OPTIONS = {
    "TimeRNN": {"activation": "relu", "reverse": True},
    "TimeGRU": {"reset_after": True, "reverse": True},
    "TimeLSTM": {"zoneout": (0.0, 0.375), "reverse": True},
    "TimeBiRNN": {"activation": "relu"},
    "TimeBiGRU": {"reset_after": True},
    "TimeBiLSTM": {"zoneout": (0.25, 0.0)},
}


@pytest.mark.parametrize("name", TIME_CLASSES)
def test_options_of_recurrent_layers_come_back(name, tmp_path):
    """All of them but `rng`; in files of before there are two, and those are enough."""
    Layer, options, path = getattr(rnnfast, name), ALL_OPTIONS | OWN_OPTIONS[name], tmp_path / "a"
    columns = Layer.cell.G * H
    weights = [normal(H, columns), normal(H, columns, seed=1), normal(columns)]
    weights *= 2 if "Bi" in name else 1
    for given in (options, {}):
        layer = Layer(*weights, **given, rng=0)
        with_layer(layer).save(path)
        (loaded,) = rnnfast.Network.load(path).layers
        assert loaded.cell is layer.cell
        assert loaded.config() == layer.config()
        assert layer.config().items() >= given.items()
        for key, W in layer.named_params().items():
            np.testing.assert_array_equal(loaded.named_params()[key], W, strict=True)
    assert options.keys() == layer.config().keys()
    _, arrays, meta = archive.load_archive(path, "model")
    before = replaced(
        meta, ("config", "layers", "0", "config"), {"stateful": False, "truncate_size": None}
    )
    archive.save_archive(path, "model", arrays, before)
    (loaded,) = rnnfast.Network.load(path).layers
    assert loaded.config() == layer.config()


@pytest.mark.parametrize("make", SYSTEMS.values(), ids=SYSTEMS)
def test_a_system_with_options_that_it_does_not_know(make, tmp_path):
    """They would not come back, so that it is not saved."""
    model = make()
    model.recurrent_layers[0].zoneout = 0.25
    with pytest.raises(
        TypeError, match=r"^zoneout: expected 0\.0 in the .*, got 0\.25; save a Net"
    ):
        model.save(tmp_path / "a")
    assert os.listdir(tmp_path) == []
    layers = dict(zip(model.layer_names, model.layers, strict=True))
    assert rnnfast.Network(layers, model.loss_layer).layers[0] is model.layers[0]


@pytest.mark.parametrize("replaced", ["recurrent", "affine"])
@pytest.mark.parametrize("name", ["CharRnn", "CharLstm", "PerplexityRnnlm"])
def test_a_system_with_rounded_products(name, replaced, tmp_path):
    """Which would not come back either."""
    model = SYSTEMS[name]()
    place = model.layer_names.index(replaced)
    layer = model.layers[place]
    options = {"stateful": layer.stateful} if replaced == "recurrent" else {}
    model.layers[place] = type(layer)(*layer.params, precision="bfloat16", **options)
    if replaced == "recurrent":
        model.recurrent_layers[0] = model.layers[place]
    with pytest.raises(
        TypeError,
        match=rf"^precision: expected None in the {replaced} .*, got 'bfloat16'; save a Network",
    ):
        model.save(tmp_path / "a")
    assert os.listdir(tmp_path) == []


def test_neither_states_nor_flags_are_saved(tmp_path):
    model = rnnfast.Rnnlm(V, D, H, rng=0)
    model.predict(IDS[0])
    model.eval()
    model.save(tmp_path / "a")
    loaded = rnnfast.Rnnlm.load(tmp_path / "a")
    assert loaded.get_state() == [(None, None)]
    assert loaded.training
    assert model.get_state()[0][0] is not None


# Subclasses. --------------------------------------------------------------------------------------


class Named(rnnfast.Network):
    """Only methods are new."""


class Tagger(rnnfast.Network):
    """Made of sizes, as `config` says; weights are copied in."""

    def __init__(self, size, scale=1.0):
        self.size = size
        layers = [rnnfast.TimeAffine(np.full((size, size), scale), np.zeros(size))]
        super().__init__(layers, rnnfast.TimeSquaredLoss())

    def config(self):
        return {"size": self.size}


class Packed(rnnfast.Network):
    """Made of its weights."""

    def __init__(self, W, b, ops=None):
        super().__init__([rnnfast.TimeAffine(W, b, ops=ops)], rnnfast.TimeSquaredLoss())

    def config(self):
        return {}

    @classmethod
    def from_params(cls, params, *, ops=None, classes=None):
        return cls(params["0.W"], params["0.b"], ops)


class Closed(rnnfast.Network):
    """Says nothing of how it is made."""

    def __init__(self, W):
        super().__init__([rnnfast.TimeAffine(W, W[0])], rnnfast.TimeSquaredLoss())


class Writer(rnnfast.Rnnlm):
    """A language model with methods of its own."""


class Sized(rnnfast.Rnnlm):
    """A language model with a constructor of its own."""

    def __init__(self, size):
        self.size = size
        super().__init__(V, size, size, tie_weights=True, rng=size)

    def config(self):
        return {"size": self.size}


@pytest.mark.parametrize("model", [Writer(V, D, H, rng=0), Sized(5)], ids=["Writer", "Sized"])
def test_subclasses_of_language_models(model, tmp_path):
    model = copy.deepcopy(model)  # that of the list is every thread's
    model.params[0] += 1
    model.save(tmp_path / "a")
    loaded = type(model).load(tmp_path / "a", ops=numpy_ops)
    assert type(loaded) is type(model)
    assert getattr(loaded, "size", 5) == 5
    assert loaded.embedding.ops is numpy_ops
    for W, expected in zip(loaded.params, model.params, strict=True):
        np.testing.assert_array_equal(W, expected)


def test_a_language_model_that_says_nothing_cannot_be_saved(tmp_path):
    class Silent(rnnfast.Rnnlm):
        def __init__(self):
            super().__init__(V, D, H)

    with pytest.raises(TypeError, match=r"^Silent: expected a method config of its own"):
        Silent().save(tmp_path / "a")


def subclassed():
    layers = {"own": Scale(normal(3)), "out": rnnfast.TimeAffine(normal(3, 3), normal(3))}
    return [
        Named(layers, rnnfast.TimeSquaredLoss()),
        Tagger(3, scale=2.0),
        Packed(normal(3, 3), normal(3)),
    ]


@pytest.mark.parametrize("model", subclassed(), ids=lambda model: type(model).__name__)
def test_subclasses_of_ones_own(model, tmp_path):
    path, cls = tmp_path / "a", type(model)
    model.save(path)
    xs = normal(1, 2, 3, dtype=model.params[0].dtype)
    expected = model.predict(xs)
    for load in (cls.load, rnnfast.Network.load):
        loaded = load(path, classes=OWN | {cls.__name__: cls}, ops=numpy_ops)
        assert type(loaded) is cls
        assert_close(loaded.predict(xs), expected)
        assert loaded.layers[-1].ops is numpy_ops
    if cls is not Named:
        cls.load(path)  # which knows its own name
    with pytest.raises(
        InputError, match=f"class '{cls.__name__}' is none of rnnfast's; .*classes="
    ):
        rnnfast.Network.load(path, classes=OWN)


def test_a_subclass_that_says_nothing_cannot_be_saved(tmp_path):
    with pytest.raises(TypeError, match=r"^Closed: expected a method config of its own"):
        Closed(normal(3, 3)).save(tmp_path / "a")
    assert os.listdir(tmp_path) == []


def test_every_model_and_layer_of_the_package_is_known():
    public = [getattr(rnnfast, name) for name in rnnfast.__all__]
    of_package = {x for x in public if isinstance(x, type) and hasattr(x, "predict")}
    assert len(of_package) == 13
    assert of_package <= set(saving.MODELS.values())
    assert all(callable(Model.save) and callable(Model.load) for Model in of_package)
    assert set(saving.LAYERS) == set(rnnfast.reference.__all__) - {"ops"}
    default_cells = {layer.cell.name for layer in TIME_LAYERS.values()}
    assert {Model.Cell.cell.name for Model in models.LANGUAGE_MODELS.values()} == default_cells
    assert TIME_LAYERS.keys() >= set(rnnfast.cells.CELLS)


# What cannot be saved. ----------------------------------------------------------------------------


def with_layer(layer):
    return rnnfast.Network([layer], rnnfast.TimeSquaredLoss())


class Window(Sum):
    """Its config has what JSON turns into something else, or cannot compare."""

    def __init__(self, size=(1, 1), fill=0.0):
        super().__init__()
        self.size, self.fill = tuple(size), fill

    def config(self):
        return {"size": self.size, "fill": self.fill}


def test_tuples_and_nan_in_a_config(tmp_path):
    layers = {"own": Window((2, 3), float("nan"))}
    network = rnnfast.Network(layers, rnnfast.TimeSquaredLoss(), inputs={"own": ("xs", "xs")})
    network.save(tmp_path / "a")
    (layer,) = rnnfast.Network.load(tmp_path / "a", classes={"Window": Window}).layers
    assert layer.size == (2, 3)
    assert np.isnan(layer.fill)


class Secret(Sum):
    """Its constructor needs what no config tells."""

    def __init__(self, secret):
        super().__init__()


class Unwritable(Scale):
    """Its config is none that JSON has."""

    def config(self):
        return {"factor": np.float32(1)}


def test_layers_that_could_not_be_made_again(tmp_path):
    path = tmp_path / "a"
    rnnfast.Rnnlm(V, D, H, rng=0).save(path)
    before = path.read_bytes()
    for layer in (Secret(1), Unwritable(normal(3))):
        with pytest.raises(TypeError, match=r"^layer 0: expected that \w+ can be made again"):
            with_layer(layer).save(path)
    objects = Scale(np.array([None, 1], object))
    with pytest.raises(TypeError, match=r"^param/0.0: expected an array of numbers, got .* object"):
        with_layer(objects).save(path)
    namesake = type("TimeAffine", (rnnfast.TimeAffine,), {})
    with pytest.raises(TypeError, match=r"^TimeAffine: expected another name"):
        with_layer(namesake(normal(2, 2), normal(2))).save(path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["a"]
    with pytest.raises(FileNotFoundError):
        rnnfast.Rnnlm(V, D, H, rng=0).save(tmp_path / "none" / "a")


# What is not loaded. ------------------------------------------------------------------------------


def saved(tmp_path, make):
    """A file, its arrays and its metadata."""
    path = tmp_path / "file"
    MODELS[make]().save(path)
    _, arrays, meta = archive.load_archive(path, "model")
    return path, arrays, meta


def require_refused(path, arrays, meta, message, **options):
    archive.save_archive(path, "model", arrays, meta)
    with pytest.raises(InputError, match=message) as caught:
        rnnfast.Network.load(path, **({"classes": OWN} | options))
    assert str(caught.value).startswith(str(path))


def test_the_class_must_be_the_one_that_was_asked_for(tmp_path):
    path = tmp_path / "a"
    rnnfast.SimpleRnnlm(V, D, H, rng=0).save(path)
    message = r"a: it holds a SimpleRnnlm, expected a Rnnlm; SimpleRnnlm.load takes it"
    with pytest.raises(InputError, match=message):
        rnnfast.Rnnlm.load(path)
    chain().save(path)
    with pytest.raises(InputError, match="it holds a Network, expected a Rnnlm"):
        rnnfast.Rnnlm.load(path)


def test_layers_of_ones_own_are_handed_over(tmp_path):
    path = tmp_path / "a"
    graph().save(path)
    message = r"a: the class 'Scale' is none of rnnfast's; hand it over, .*classes=\{'Scale': Scale"
    with pytest.raises(InputError, match=message):
        rnnfast.Network.load(path)
    with pytest.raises(ValueError, match="classes: expected names that rnnfast has not, got Time"):
        rnnfast.Network.load(path, classes={"TimeAffine": Scale})


@pytest.mark.parametrize("name", ["os.system", "subprocess.Popen", "Layer", "Rnnlm", "", None, 3])
def test_no_class_is_looked_up_anywhere_else(tmp_path, name):
    path, arrays, meta = saved(tmp_path, "chain")
    meta["config"]["layers"]["1"]["class"] = name
    require_refused(path, arrays, meta, "is none of rnnfast's|expected a str")
    path, arrays, meta = saved(tmp_path, "chain")
    meta["class"] = "TimeAffine" if name == "Rnnlm" else name
    require_refused(path, arrays, meta, "is none of rnnfast's")


def test_a_file_that_begins_as_safetensors_is_for_that_library(tmp_path, monkeypatch):
    path = tmp_path / "model"
    path.write_bytes(b'\2\0\0\0\0\0\0\0{"')
    monkeypatch.setitem(sys.modules, "safetensors", None)  # as if it was not installed
    with pytest.raises(InputError, match="is read by safetensors, which is not installed"):
        rnnfast.Network.load(path)


def test_other_files(tmp_path):
    with pytest.raises(InputError, match="none does not exist"):
        rnnfast.Network.load(tmp_path / "none")
    with pytest.raises(InputError, match="is a folder, and only regular files are read"):
        rnnfast.Network.load(tmp_path)
    path = tmp_path / "a"
    for content in (b"", b"x" * 1000, b"PK\x05\x06" + bytes(18)):
        path.write_bytes(content)
        with pytest.raises(InputError, match="a is no model, or is damaged"):
            rnnfast.Network.load(path)
    np.savez(path, x=np.arange(3))
    with pytest.raises(InputError, match=r"a\.npz is no model, or is damaged: it has no meta.json"):
        rnnfast.Network.load(f"{path}.npz")
    archive.save_archive(path, "checkpoint", {}, {})
    message = "expected the format 'rnnfast model 1', .* got 'rnnfast checkpoint 4'"
    with pytest.raises(InputError, match=message):
        rnnfast.Network.load(path)


@pytest.mark.parametrize("make", ["graph", "lstm64", *SYSTEMS])
def test_arrays_that_are_missing_unknown_or_wrong(tmp_path, make):
    path, arrays, meta = saved(tmp_path, make)
    for name, array in arrays.items():
        own = name.removeprefix("param/")
        rest = {key: value for key, value in arrays.items() if key != name}
        require_refused(path, rest, meta, f"{own}.* (is )?missing|missing.*{own}")
        require_refused(path, rest | {f"{name}x": array}, meta, own)
        if own.startswith(("scale", "shift", "words")):
            continue  # a layer with one array: the file would hold another model
        other = array.astype("float32" if array.dtype == "float64" else "float64")
        for wrong in (other, array.astype(np.int32), array[..., :-1], array[None]):
            require_refused(path, rest | {name: wrong}, meta, r"\b\w+: expected|recurrent|shape")
    more = {"param/more": arrays[name]}, {"more": arrays[name]}
    for unknown in more:
        require_refused(path, arrays | unknown, meta, "unknown more")


def replaced(meta, keys, value):
    """The metadata with another value at a path of keys, or without it if that is `...`."""
    meta = json.loads(json.dumps(meta))
    place = meta
    for key in keys[:-1]:
        place = place[key]
    if value is ...:
        del place[keys[-1]]
    else:
        place[keys[-1]] = value
    return meta


def entries(value, keys=()):
    """All entries of nested dicts and lists: their keys, and what they are."""
    if keys:
        yield keys, value
    if isinstance(value, (dict, list)):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from entries(value[key], (*keys, key))


@pytest.mark.parametrize("make", ["graph", "lstm64", "tied", "perplexity", *SYSTEMS])
def test_metadata_of_other_kinds(tmp_path, make):
    """Each entry in turn is missing, or of every other kind."""
    path, arrays, meta = saved(tmp_path, make)

    tried = 0
    for keys, value in list(entries(meta)):
        for other in (..., None, [], {}, "x", 10**30, -1.5, [10**9], {"x": {}}):
            if other == value or (other is ... and keys[-1] in OPTIONAL) or is_fine(keys, other):
                continue
            archive.save_archive(path, "model", arrays, replaced(meta, keys, other))
            with contextlib.suppress(InputError):
                rnnfast.Network.load(path, classes=OWN)
                raise AssertionError(f"{other} as {keys} was taken")
            tried += 1
    assert tried > 50


OPTIONAL = {  # they have defaults
    *("stateful", "truncate_size", "ignore_label", "eps", "factor", "activation", "reverse"),
    *("recurrent_dropout", "zoneout", "weight_drop", "zoneout_mean"),
}


def is_fine(keys, other):
    """What makes another model, and no nonsense."""
    return (
        len(keys) > 1
        and (
            (keys[-1] == "config" and other == {})
            or (keys[1] in ("cell", "dropout") and other is ...)  # files written before they were
            or (keys[-1] == "affine" and other == {})
            or (keys[-2:-1] == ("recurrent",) and other == {})
            or (keys[1] == "inputs" and other == "x")  # which is then a keyword argument
            or (keys[-1] == "factor")
            or (keys[-1] == "truncate_size" and other in (None, 10**30))
            or (keys[-1] == "eps" and other == 10**30)
            or (keys[1] == "shapes" and keys[-1] == 0 and other is ...)  # a bias of one dimension
            or (keys[-1] == "time_T" and other in (None, 10**30))
            or (keys[-1] == "batch_size" and other == 10**30)
        )
    )


def test_numbers_in_the_metadata_take_no_memory(tmp_path):
    path, arrays, meta = saved(tmp_path, "lstm64")
    layers = [{"stateful": True, "truncate_size": None}] * 10_000
    require_refused(path, arrays, replaced(meta, ("config", "recurrent"), layers), "recurrent: exp")
    more = replaced(meta, ("config", "vocab_size"), 10**12)
    require_refused(path, arrays, more, "unknown vocab_size")


def test_tied_weights_that_lead_nowhere(tmp_path):
    path, arrays, meta = saved(tmp_path, "chain")
    del arrays["param/3.b"]
    for place in (
        {"to": "3.b", "transposed": False},
        {"to": "4.W", "transposed": False},
        {"to": "0.W", "transposed": 1},
        {"to": ["0.W"], "transposed": False},
        {"transposed": False},
        "0.W",
    ):
        require_refused(path, arrays, replaced(meta, ("tied",), {"3.b": place}), r"tied|missing")
    place = {"to": "0.W", "transposed": False}
    require_refused(
        path, arrays, replaced(meta, ("tied",), {"3.b": place}), "layer 3.* b: expected"
    )
    require_refused(path, arrays, replaced(meta, ("tied",), {"3.W": place}), "array of its own")


def test_a_layer_that_makes_other_weights_is_told(tmp_path):
    class Doubled(Scale):
        def __init__(self, w):
            super().__init__(2 * w)

        def config(self):
            return {}

    with_layer(Doubled(normal(3))).save(tmp_path / "a")
    with pytest.raises(InputError, match=r"a: 0.0: expected the array of the file"):
        rnnfast.Network.load(tmp_path / "a", classes={"Doubled": Doubled})


def test_set_params_changes_all_or_nothing():
    model = rnnfast.Rnnlm(V, D, H, rng=0)
    params = {name: W + 1 for name, W in model.named_params().items()}
    before = {name: W.copy() for name, W in model.named_params().items()}
    wrong = params | {"affine.b": params["affine.b"][:-1]}
    with pytest.raises(InputError, match=r"affine.b: expected float32 \(11,\) as the model has"):
        model.set_params(wrong)
    with pytest.raises(InputError, match=r"missing affine.b, unknown none"):
        model.set_params({name: W for name, W in params.items() if name != "affine.b"})
    model.params[-1].flags.writeable = False
    with pytest.raises(ValueError, match=r"affine.b: expected a writable array"):
        model.set_params(params)
    for name, W in model.named_params().items():
        np.testing.assert_array_equal(W, before[name])
    model.params[-1].flags.writeable = True
    model.set_params(params)
    for name, W in model.named_params().items():
        np.testing.assert_array_equal(W, params[name])


def test_the_examples_in_docstrings():
    results = doctest.testmod(network)
    assert results.attempted
    assert not results.failed


# Systems of the notebooks. ------------------------------------------------------------------------


@pytest.mark.parametrize("make", SYSTEMS.values(), ids=SYSTEMS)
def test_a_system_is_the_same_by_the_names_of_its_notebook(make, tmp_path):
    model = make()
    model.save(tmp_path / "a")
    loaded = type(model).load(tmp_path / "a")
    assert list(loaded.weights) == list(model.weights)
    for name, W in model.weights.items():
        np.testing.assert_array_equal(loaded.weights[name], W, strict=True)
    assert all(W.flags.writeable for W in loaded.params)
    if isinstance(model, rnnfast.PerplexityRnnlm):
        assert (loaded.time_T, loaded.batch_size, loaded.optimizer.lr) == (7, 3, 0.25)
        assert loaded.train(IDS[0, 0], 11) == model.train(IDS[0, 0], 11)
    elif isinstance(model, rnnfast.CharLstm):
        assert loaded.fit(IDS[0, 0], 3) == model.fit(IDS[0, 0], 3)


def test_weights_under_the_names_of_others_are_refused(tmp_path):
    path, arrays, meta = saved(tmp_path, "CharRnn64")
    shapes = meta["config"]["shapes"]
    swapped = shapes | {"Wxh": shapes["Whh"], "Whh": shapes["Wxh"]}
    require_refused(path, arrays, replaced(meta, ("config", "shapes"), swapped), "reshape")
    rnnfast.CharRnn.seeded(4, 4).save(path)  # whose matrices are of one shape
    _, arrays, meta = archive.load_archive(path, "model")
    shapes = meta["config"]["shapes"]
    swapped = {"Whh": shapes["Whh"]} | shapes
    arrays["param/recurrent.Wh"] += 1
    message = r"recurrent\.Wx: expected the array of the file"
    require_refused(path, arrays, replaced(meta, ("config", "shapes"), swapped), message)


def test_a_subclass_of_a_system(tmp_path):
    class Own(rnnfast.CharLstm):
        """Only methods are new."""

    class Sized(rnnfast.CharRnn):
        """A constructor of its own, and a config for it."""

        def __init__(self, size):
            super().__init__(rnnfast.CharRnn.seeded(size, size).weights)

        def config(self):
            return {"size": self.vocab_size}

    class Silent(Sized):
        """A constructor of its own."""

        config = rnnfast.CharRnn.config

    for model in (Own.random(V, H, rng=0), Sized(V)):
        model.params[0] += 1
        model.save(tmp_path / "a")
        loaded = type(model).load(tmp_path / "a", ops=numpy_ops)
        assert type(loaded) is type(model)
        assert loaded.recurrent_layers[0].ops is numpy_ops
        for W, expected in zip(loaded.params, model.params, strict=True):
            np.testing.assert_array_equal(W, expected)
    with pytest.raises(TypeError, match=r"^Silent: expected a method config of its own"):
        Silent(V).save(tmp_path / "a")


# SequenceRegressor. -------------------------------------------------------------------------------

XS = np.random.default_rng(3).normal(size=(4, 6, 2))
FITS = {
    "one": ({"truncate_size": 2, "random_state": np.int64(3)}, [1, 2, 3, 4], [2, 3, 4, 5]),
    "rows": ({"dtype": np.float32, "max_grad": np.float32(2)}, XS[:, :, 0], XS[:, ::-1, 1]),
    "steps": ({"random_state": np.random.default_rng(0)}, XS, XS[:, ::-1]),
    "last": ({"init": "normal", "hidden_size": np.int32(5)}, XS, XS.sum(axis=(1, 2))),
    "columns": ({"target": "last", "epochs": 0}, XS, XS.sum(axis=1)),
}
every_fit = pytest.mark.parametrize("name", FITS)


def regressor(name):
    options, X, y = FITS[name]
    options = {"hidden_size": 7, "epochs": 9, "random_state": 0} | options
    return rnnfast.SequenceRegressor(**options).fit(X, y)


@every_fit
@pytest.mark.parametrize("ops", [None, numpy_ops])
def test_round_trip_of_an_estimator(name, ops, tmp_path):
    model, (_, X, y) = regressor(name), FITS[name]
    model.save(tmp_path / "a")
    loaded = rnnfast.SequenceRegressor.load(tmp_path / "a", ops=ops)
    assert loaded.ops is ops
    assert all(layer.ops is (ops or rnnfast.kernels) for layer in loaded.network_.layers[::2])
    same = np.testing.assert_array_equal if ops is None else partial(assert_close, tolerance=1e-5)
    for attribute in ("loss_curve_", "n_features_in_", "n_outputs_", "n_iter_", "target_"):
        assert getattr(loaded, attribute) == getattr(model, attribute)
    np.testing.assert_array_equal(loaded.X_train_, model.X_train_, strict=True)
    for key, W in model.weights_.items():
        np.testing.assert_array_equal(loaded.weights_[key], W, strict=True)
    same(loaded.predict(X), model.predict(X))
    same(loaded.score(X, y), model.score(X, y))
    if model.n_outputs_ == model.n_features_in_:
        same(loaded.forecast(4), model.forecast(4))
    gradients = model.gradients(X, y)[1]
    for key, dW in loaded.gradients(X, y)[1].items():
        same(dW, gradients[key])
    options = loaded.get_params()
    for key, value in model.get_params().items():
        if key == "dtype":
            assert np.dtype(options[key]) == np.dtype(value)
        elif key != "ops":
            assert options[key] == (None if isinstance(value, np.random.Generator) else value)
    if loaded.random_state is not None:
        same(loaded.fit(X, y).predict(X), model.predict(X))


def test_an_estimator_that_cannot_be_saved(tmp_path):
    path = tmp_path / "a"
    with pytest.raises(AttributeError, match=r"SequenceRegressor: expected a call of fit"):
        rnnfast.SequenceRegressor().save(path)
    model = regressor("one")
    with pytest.raises(ValueError, match="hidden_size: expected a whole number of at least 1"):
        model.set_params(hidden_size=-1).save(path)
    assert os.listdir(tmp_path) == []
    model.set_params(hidden_size=3).save(path)  # which counts from the next fit on
    assert rnnfast.SequenceRegressor.load(path).forecast(2).tolist() == model.forecast(2).tolist()


def test_an_estimator_is_no_network_and_no_network_an_estimator(tmp_path):
    path = tmp_path / "a"
    regressor("one").save(path)
    message = r"a: it holds a SequenceRegressor, expected a Network; SequenceRegressor.load takes"
    with pytest.raises(InputError, match=message):
        rnnfast.Network.load(path)
    regressor("one").network_.save(path)
    assert rnnfast.Network.load(path).config() == regressor("one").network_.config()
    for make in ("chain", "CharRnn"):
        MODELS[make]().save(path)
        with pytest.raises(InputError, match="expected a SequenceRegressor"):
            rnnfast.SequenceRegressor.load(path)


@pytest.mark.parametrize("name", ["one", "last"])
def test_damaged_files_of_estimators(name, tmp_path):
    """Arrays and metadata in turn, as for networks."""
    path = tmp_path / "a"
    regressor(name).save(path)
    _, arrays, meta = archive.load_archive(path, "model")

    def refused(arrays, meta):
        archive.save_archive(path, "model", arrays, meta)
        with pytest.raises(InputError, match="^" + str(path)):
            rnnfast.SequenceRegressor.load(path)

    for key, array in arrays.items():
        rest = {name: value for name, value in arrays.items() if name != key}
        refused(rest, meta)
        refused(rest | {f"{key}x": array}, meta)
        wrong = [array.astype(np.int32), array[None, None], array * 1j, array[..., None, None, :]]
        if "X_train" not in key:
            wrong += [array.astype("float32"), array[..., :-1]]
        for other in wrong:
            refused(rest | {key: other}, meta)
    refused(arrays | {"param/X_train": arrays["param/X_train"] * np.nan}, meta)
    options = 0
    for keys, value in list(entries(meta)):
        for other in (..., None, [], {}, "x", 10**30, -1.5, [10**9], {"x": {}}, True):
            if other == value or is_fine_option(keys, other) or "loss_curve" in keys:
                continue
            refused(arrays, replaced(meta, keys, other))
            options += keys[1:2] == ("options",)
    assert options > 50
    for losses in (..., ["x"], [None], [1], [float("nan")], [[]], [True], "x", {}):
        refused(arrays, replaced(meta, ("config", "loss_curve"), losses))
    refused(arrays, replaced(meta, ("class",), "TimeAffine"))


def is_fine_option(keys, other):
    """What another `fit` could have been told, or could have left."""
    name = keys[-1]
    return (
        (name in ("max_grad", "truncate_size", "dtype", "random_state") and other is None)
        or (name in ("hidden_size", "epochs", "truncate_size") and other == 10**30)
        or (name in ("learning_rate", "max_grad") and other == 10**30)
        or (name in ("outputs_have_axis", "stateful") and other is True)
    )
