"""Weights and models that go to PyTorch, Keras, ONNX and safetensors, and come from there.

Outputs are compared with those of the libraries themselves, weights bit by bit after there and
back.
"""

import functools
import json
import os
import re
import subprocess
import sys
import warnings
import zipfile

import numpy as np
import pytest

import rnnfast
from rnnfast import exchange
from rnnfast.cli import main
from rnnfast.exchange.files import layers_of

# of Keras, and of what NumPy says to it
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

KINDS = {
    "rnn": ("rnn", {}), "relu": ("rnn", {"activation": "relu"}), "lstm": ("lstm", {}),
    "gru": ("gru", {}), "gru after": ("gru", {"reset_after": True}),
}  # fmt: skip
D, H, V = 3, 5, 11


def library(name):
    """A library that is optional; the tests that need it say so where it is not there."""
    if name == "keras":
        os.environ.setdefault("KERAS_BACKEND", "torch")
        pytest.importorskip("torch", reason="Keras computes with PyTorch here")
    return pytest.importorskip(name, reason=f"{name} judges, and is not installed")


def stack(kind, layers=1, both=False, dtype="f4", **options):
    cell, own = KINDS[kind]
    made = rnnfast.TimeStack(
        cell, D, H, layers, bidirectional=both, rng=0, dtype=dtype, **own, **options
    )
    return made


def block(dtype="f4"):
    return np.random.default_rng(1).standard_normal((2, 7, D)).astype(dtype)


def require_same_weights(one, other):
    assert len(one.params) == len(other.params)
    for W, expected in zip(one.params, other.params, strict=True):
        np.testing.assert_array_equal(W, expected, strict=True)


def close(found, expected, dtype="f4"):
    tolerance = 2e-6 if dtype == "f4" else 1e-13
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)


every_kind = pytest.mark.parametrize("kind", KINDS)
sizes = pytest.mark.parametrize(
    ("layers", "both"), [(1, False), (1, True), (3, False), (2, True)],
    ids=["one", "both ways", "three", "two both ways"],
)  # fmt: skip
dtypes = pytest.mark.parametrize("dtype", ["f4", "f8"])

# PyTorch


@every_kind
@sizes
@dtypes
def test_modules_of_torch(kind, layers, both, dtype):
    torch = library("torch")
    layer = stack(kind, layers, both, dtype)
    if kind == "gru":
        with pytest.raises(rnnfast.InputError, match="reset_after=True, the only one that PyTorch"):
            exchange.to_torch(layer)
        return
    module = exchange.to_torch(layer)
    close(module(torch.from_numpy(block(dtype)))[0].detach(), layer.forward(block(dtype)), dtype)
    states = module.state_dict()
    for source in (module, states, {name: W.numpy() for name, W in states.items()}):
        back = exchange.from_torch(source, activation="relu" if kind == "relu" else "tanh")
        expected = {
            (1, False): "TimeGRU TimeLSTM TimeRNN",
            (1, True): "TimeBiGRU TimeBiLSTM TimeBiRNN",
        }
        assert type(back).__name__ in expected.get((layers, both), "TimeStack")
        require_same_weights(back, layer)


@pytest.mark.parametrize("name", ["RNN", "LSTM", "GRU"])
@pytest.mark.parametrize("bias", [True, False])
@dtypes
def test_layers_of_torch(name, bias, dtype):
    torch = library("torch")
    torch.manual_seed(0)
    kind = {"f4": torch.float32, "f8": torch.float64}[dtype]
    module = getattr(torch.nn, name)(D, H, 2, bias=bias, bidirectional=True, dtype=kind)
    layer = exchange.from_torch(module)
    expected = module(torch.from_numpy(block(dtype)).transpose(0, 1))[0].transpose(0, 1)
    close(layer.forward(block(dtype)), expected.detach(), dtype)
    for W in layer.params:  # of its own
        W[...] = 0
    assert all(p.detach().any() for p in module.parameters())


def test_a_model_of_torch():
    torch = library("torch")
    torch.manual_seed(0)
    nn = torch.nn
    parts = nn.ModuleDict({"out": nn.Linear(H, V), "plain": nn.Linear(H, 2, bias=False)})
    rnn = nn.LSTM(D, H, 2, dropout=0.25)
    model = nn.ModuleDict({"table": nn.Embedding(V, D), "rnn": rnn, "parts": parts})
    layers = exchange.from_torch(model)
    assert list(layers) == ["table", "rnn", "parts.out", "parts.plain"]
    assert (layers["rnn"].dropout, layers["rnn"].num_layers) == (0.25, 2)
    kinds = {"table": "embedding", "parts.plain": "linear"}
    again = exchange.from_torch(model.state_dict(), kinds=kinds)
    assert again.keys() == layers.keys()
    for name in layers:
        require_same_weights(again[name], layers[name])
    for name, module in (("table", model["table"]), ("parts.out", model["parts"]["out"])):
        back = exchange.to_torch(layers[name])
        assert type(back) is type(module)
        for key, W in module.state_dict().items():
            np.testing.assert_array_equal(back.state_dict()[key], W)
    x = block()[..., :1] + np.zeros(H, "f4")
    out = layers["parts.out"].forward(x)
    close(out, model["parts"]["out"](torch.from_numpy(x)).detach())
    ids = [[0, 3], [10, 1]]
    np.testing.assert_array_equal(
        layers["table"].forward(ids), model["table"](torch.tensor(ids)).detach()
    )


def test_a_state_dict_that_does_not_fit_is_refused_with_all_that_is_wrong():
    layer = np.ones
    states = {
        "a.weight_ih_l0": layer((4 * H, D)), "a.weight_hh_l0": layer((4 * H, H)),
        "a.bias_ih_l0": np.full(4 * H, np.nan), "a.weight_ih_l1": layer((4 * H, 2)),
        "b.weight": layer((2, 2)), "c.weight": layer((2, 3)), "c.bias": layer(3),
        "d.running_mean": layer(3), "e.weight_ih_l0": layer((3, 2), "f2"),
        "f.weight_hr_l0": layer((3, 2)), "g.weight": layer(3), "g.bias": layer(3),
        "h.weight_ih_l0": layer((3 * H, D)), "h.weight_hh_l0": layer((3 * H, H)),
        "h.bias_ih_l0": layer(3 * H), "h.bias_hh_l0": layer(2 * H),
        "i.weight_ih_l0": layer((2 * H, D)), "i.weight_hh_l0": layer((2 * H, H)),
        "j.weight_ih_l0": layer((3, 2)), "j.weight_hh_l999999": layer((3, 1)),
    }  # fmt: skip
    with pytest.raises(rnnfast.InputError) as caught:
        exchange.from_torch(states)
    first, *faults = str(caught.value).splitlines()
    assert first == "from_torch: the weights do not fit:"
    for told in [
        "a.bias_ih_l0: expected finite numbers, got NaN or infinity",
        "a.bias_hh_l0: missing",
        "a.weight_hh_l1: missing",
        "b.weight: alone, it is of an embedding or of a linear layer without a bias; "
        'say which in kinds, as {"b": "embedding"}',
        "c.bias: expected (2,) of float64, got (3,) of float64",
        "d.running_mean: not of an RNN, LSTM, GRU or Linear",
        "e.weight_ih_l0: expected float32 or float64, got float16; convert it",
        "e.weight_hh_l0: missing",
        "f.weight_hr_l0: a projection (proj_size), which there is not here",
        "g.weight: expected 2 axes, got shape (3,)",
        f"h.bias_hh_l0: expected ({3 * H},) of float64, got ({2 * H},) of float64",
        f"i.weight_hh_l0: expected (G*H, H) with G 1, 3 or 4, got ({2 * H}, {H})",
        "j.: 2 tensors cannot have a layer 999999",
    ]:
        assert f"  {told}" in faults


def test_other_things_are_no_weights():
    for source in (None, 3, "model.pt", [np.ones(3)]):
        with pytest.raises(TypeError, match="expected a module of PyTorch's or a state dict"):
            exchange.from_torch(source)
    with pytest.raises(ValueError, match="activation: expected one of tanh, relu"):
        exchange.from_torch({}, activation="elu")
    with pytest.raises(rnnfast.InputError, match="no tensors"):
        exchange.from_torch({})


def test_modules_of_torch_that_there_are_not_here():
    torch = library("torch")
    for module, told in {
        torch.nn.LSTM(3, 4, proj_size=2): "weight_hr_l0: a projection",
        torch.nn.GRU(2, 3).half(): "got float16; convert it by .float()",
        torch.nn.Sequential(torch.nn.Conv1d(2, 2, 2), torch.nn.ReLU()): "0: a Conv1d, for which",
        torch.nn.ReLU(): "source: a ReLU without recurrent, linear or embedding layers",
    }.items():
        with pytest.raises(rnnfast.InputError, match=re.escape(told)):
            exchange.from_torch(module)
    with pytest.raises(TypeError, match="expected a recurrent layer such as TimeLSTM"):
        exchange.to_torch(rnnfast.TimeDropout(0.5))
    layer = stack("lstm", reverse=True)
    with pytest.raises(rnnfast.InputError, match="forward, as all of PyTorch's, got reverse"):
        exchange.to_torch(layer)
    layer = stack("lstm", zoneout=0.1, zoneout_mean=True)
    with pytest.raises(rnnfast.InputError, match="set zoneout_mean to False"):
        exchange.to_torch(layer)


# Keras


@every_kind
@sizes
@dtypes
def test_layers_of_keras(kind, layers, both, dtype):
    keras = library("keras")
    layer = stack(kind, layers, both, dtype)
    made = exchange.to_keras(layer)
    # Keras computes some of it in float32 whatever the dtype is
    close(np.asarray(made(block(dtype)).detach()), layer.forward(block(dtype)))
    if layers > 1:
        assert isinstance(made, keras.Sequential)
        weights = [W for own in exchange.from_keras(made).values() for W in own.params]
        for W, expected in zip(weights, layer.params, strict=True):
            np.testing.assert_array_equal(W, expected, strict=True)
    else:
        require_same_weights(exchange.from_keras(made), layer)


@pytest.mark.parametrize("name", ["SimpleRNN", "LSTM", "GRU"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("both", [False, True])
def test_layers_that_keras_has_made(name, bias, both):
    keras = library("keras")
    keras.utils.set_random_seed(0)
    for options in [{}, {"activation": "relu"}] if name == "SimpleRNN" else [{}]:
        options |= {"use_bias": bias, "return_sequences": True, "bias_initializer": "normal"}
        made = getattr(keras.layers, name)(H, **options)
        made = keras.layers.Bidirectional(made) if both else made
        expected = np.asarray(made(block()).detach())
        close(exchange.from_keras(made).forward(block()), expected)


@pytest.fixture
def keras_files(tmp_path):
    keras = library("keras")
    library("h5py")
    keras.utils.set_random_seed(0)
    layers = keras.layers
    model = keras.Sequential(
        [
            layers.Embedding(V, D, name="table"),
            layers.Bidirectional(layers.LSTM(H, return_sequences=True), name="both"),
            layers.Dropout(0.5),
            layers.GRU(4, return_sequences=True),
            layers.GRU(4, return_sequences=True, reset_after=False, name="second"),
            layers.SimpleRNN(2, return_sequences=True, use_bias=False),
            layers.Dense(V, activation="softmax"),
        ]
    )
    model(np.ones((1, 2), int))
    model.save(tmp_path / "model.keras")
    model.save_weights(tmp_path / "model.weights.h5")
    return tmp_path, model


def test_files_of_keras(keras_files):
    folder, model = keras_files
    whole = exchange.from_keras(folder / "model.keras")
    names = ["table", "both", "gru", "second", "simple_rnn", "dense"]
    assert [*whole] == [layer.name for layer in model.layers if layer.weights]
    assert [name.partition("_")[0] for name in whole] == [name.partition("_")[0] for name in names]
    weights = exchange.from_keras(str(folder / "model.weights.h5"))
    assert {*weights} == {"embedding", "bidirectional", "gru", "gru_1", "simple_rnn", "dense"}
    of_model = exchange.from_keras(model)
    pairs = zip(
        whole, ["embedding", "bidirectional", "gru", "gru_1", "simple_rnn", "dense"], strict=True
    )
    for name, in_file in pairs:
        require_same_weights(weights[in_file], whole[name])
        require_same_weights(of_model[name], whole[name])
    xs = np.array([[1, 2, 3], [3, 4, 5]])
    expected, out = np.asarray(model(xs).detach()), xs
    for layer in whole.values():
        out = layer.forward(out)
    out = np.exp(out) / np.exp(out).sum(axis=2, keepdims=True)
    close(out, expected)


@pytest.mark.parametrize("name", ["model.keras", "model.weights.h5"])
def test_files_of_keras_that_are_damaged(name, keras_files):
    folder, _ = keras_files
    data = (folder / name).read_bytes()
    path = folder / f"cut{name}"
    for size in [0, 1, 2, 7, 100, *range(1000, len(data), 2999), len(data) - 1]:
        path.write_bytes(data[:size])
        with pytest.raises(rnnfast.InputError, match=f"cut{name}"):
            exchange.from_keras(path)
    with pytest.raises(rnnfast.InputError, match="does not exist"):
        exchange.from_keras(folder / "missing.keras")
    rng = np.random.default_rng(0)
    good = exchange.from_keras(folder / name)
    for place in rng.integers(0, len(data), 200):
        flipped = bytearray(data)
        flipped[place] ^= 1 << rng.integers(8)
        path.write_bytes(flipped)
        try:
            found = exchange.from_keras(path)
        except rnnfast.InputError:
            continue
        if name == "model.keras":  # its members have checksums; those of the other have none
            assert found.keys() == good.keys()
            for key in good:
                require_same_weights(found[key], good[key])


def test_data_of_keras_that_stand_elsewhere(keras_files):
    import h5py

    folder, _ = keras_files
    data = (folder / "model.weights.h5").read_bytes()

    def changed(change):
        path = folder / "changed.weights.h5"
        path.write_bytes(data)
        with h5py.File(path, "r+") as file:
            holder = file["layers/dense/vars"]
            change(h5py, holder, "0", holder["0"][()])
        return path

    def link(h5py, holder, name, _):
        del holder[name]
        holder[name] = h5py.ExternalLink("other.h5", "/x")

    def external(h5py, holder, name, W):
        del holder[name]
        holder.create_dataset(name, W.shape, "f4", external=[("/etc/hostname", 0, W.nbytes)])

    def bomb(h5py, holder, name, W):
        del holder[name]
        holder.create_dataset(name, (10**6, 10**6), "f4", chunks=(1000, 1000), compression="gzip")

    def empty(h5py, holder, name, W):
        del holder[name]
        holder.create_dataset(name, (10**6, 10**5), "f4")

    def text(h5py, holder, name, W):
        del holder[name]
        holder[name] = "abc"

    def names(h5py, holder, name, W):
        for k in range(1, 99):
            holder.pop(str(k), None)
            holder[str(k)] = holder[name]
        large = holder.create_dataset("99", (1000, 1000), "f4")
        large[...] = 1
        for k in range(100, 110):
            holder[str(k)] = large

    for change in (link, external, bomb, empty, text, names):
        with pytest.raises(rnnfast.InputError, match="changed"):
            exchange.from_keras(changed(change))


def nothing(layers):
    del layers["lstm"]


def a_folder_of_one_that_is_none(layers):
    layers["lstm/forward_layer"] = np.ones(3)
    layers["lstm/backward_layer"] = np.ones(3)


def layers_that_are_an_array(layers):
    file = layers.parent
    del file["layers"]
    file["layers"] = np.ones(3)


def layers_of_another_file(layers):
    import h5py

    file = layers.parent
    del file["layers"]
    file["layers"] = h5py.ExternalLink("other.h5", "/layers")


def arrays_of_another_file(layers):
    import h5py

    place = "lstm/cell/vars"
    del layers[place]
    layers[place] = h5py.ExternalLink("other.h5", f"/layers/{place}")


def a_table_without_numbers(layers):
    layers.create_dataset("lstm_1/vars/0", (10**12, 0), "f4")


def a_name_that_no_network_has(layers):
    layers.move("lstm", "a\x0fb")


def an_array_without_a_number(layers):
    layers["lstm/cell/vars/x"] = np.ones(3, "f4")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (nothing, "no layers with weights"),
        (a_folder_of_one_that_is_none, "/layers/lstm/forward_layer: expected a group, got a Data"),
        (layers_that_are_an_array, "/layers: expected a group, got a Dataset"),
        (layers_of_another_file, "'layers' stands elsewhere"),
        (arrays_of_another_file, "'vars' stands elsewhere"),
        (a_table_without_numbers, "lstm_1, array 0: expected numbers, got none"),
        (a_name_that_no_network_has, "layers: expected names of printable characters"),
        (an_array_without_a_number, "lstm: expected arrays 0, 1, 2, 3, got"),
    ],
)
def test_weights_of_keras_that_are_no_layers(change, told, tmp_path):
    library("h5py")
    import h5py

    path = tmp_path / "it.weights.h5"
    for name in (path, tmp_path / "other.h5"):
        with h5py.File(name, "w") as file:
            for k, shape in enumerate([(D, 4 * H), (H, 4 * H), (4 * H,)]):
                file[f"layers/lstm/cell/vars/{k}"] = np.ones(shape, "f4")
    assert layers_of(path, {}).keys() == {"lstm"}
    with h5py.File(path, "r+") as file:
        change(file["layers"])
    with pytest.raises(rnnfast.InputError, match=re.escape(told)) as caught:
        layers_of(path, {})
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"config": {"layers": []}}, "dense: weights of no layer"),
        ({"config": {"layers": {}}}, "layers: expected a list, got {}"),
        ([], "expected an object with config, got []"),
        (3, "name: expected a str, got 3"),
        ("a\x0fb", "layers: expected names of printable characters"),
        ("\ud800", "layers: expected names of printable characters"),
    ],
)
def test_configurations_of_keras_that_are_none(config, told, tmp_path):
    library("h5py")
    import h5py

    with h5py.File(tmp_path / "weights", "w") as file:
        file["layers/dense/vars/0"] = np.ones((D, H), "f4")
    if not isinstance(config, dict | list):  # the name of the layer
        layer = {"class_name": "Dense", "config": {"name": config}}
        config = {"config": {"layers": [layer]}}
    with zipfile.ZipFile(tmp_path / "it.keras", "w") as archive:
        archive.writestr("config.json", json.dumps(config))
        archive.write(tmp_path / "weights", "model.weights.h5")
    with pytest.raises(rnnfast.InputError, match=re.escape(told)) as caught:
        layers_of(tmp_path / "it.keras", {})
    assert "it.keras" in str(caught.value)


def test_a_member_of_a_keras_file_that_has_fewer_bytes_than_it_says(tmp_path):
    library("h5py")
    with zipfile.ZipFile(tmp_path / "it.keras", "w") as archive:
        archive.writestr("config.json", "{}")
        archive.writestr("model.weights.h5", "x")
    data = bytearray((tmp_path / "it.keras").read_bytes())
    entry = data.rindex(b"PK\1\2")
    data[entry + 20 : entry + 28] = 2 * (1 << 30).to_bytes(4, "little")
    (tmp_path / "it.keras").write_bytes(data)
    with pytest.raises(rnnfast.InputError, match=r"it\.keras is no Keras file, or is damaged"):
        exchange.from_keras(tmp_path / "it.keras")


def test_layers_of_keras_that_there_are_not_here():
    keras = library("keras")
    layers = keras.layers
    for layer, told in [
        (layers.LSTM(3, activation="relu"), "expected activation 'tanh', got 'relu'"),
        (layers.GRU(3, recurrent_activation="hard_sigmoid"), "recurrent_activation 'sigmoid'"),
        (layers.SimpleRNN(3, activation="elu"), "activation 'tanh' or 'relu', got 'elu'"),
        (layers.LSTM(3, go_backwards=True), "go_backwards False, got True"),
        (layers.Bidirectional(layers.LSTM(3), merge_mode="sum"), "merge_mode 'concat', got 'sum'"),
        (layers.Dense(3, activation="tanh"), "linear, softmax, sigmoid, got 'tanh'"),
        (layers.Conv1D(3, 2), "a Conv1D, for which there is no layer"),
    ]:
        layer.build((None, 4, 2))
        with pytest.raises(rnnfast.InputError, match=told):
            exchange.from_keras(layer)
    for source in (None, 3, [1]):
        with pytest.raises(TypeError, match="expected a layer or model of Keras's"):
            exchange.from_keras(source)
    with pytest.raises(TypeError, match="expected a recurrent layer"):
        exchange.to_keras(rnnfast.TimeDropout(0.5))
    with pytest.raises(rnnfast.InputError, match="got reverse"):
        exchange.to_keras(stack("gru", reverse=True))
    table = rnnfast.TimeEmbedding(np.ones((V, D), "f4"))
    affine = rnnfast.TimeAffine(np.ones((D, 2)), np.ones(2))
    for layer in (table, affine):
        require_same_weights(exchange.from_keras(exchange.to_keras(layer)), layer)


# ONNX


def run(path, xs, states, name="xs"):
    session = library("onnxruntime").InferenceSession(path)
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, {name: xs, **states}), strict=True))


@every_kind
@sizes
@pytest.mark.parametrize("reverse", [False, True])
def test_graphs_of_onnx(kind, layers, both, reverse, tmp_path):
    library("onnx")
    library("onnxruntime")
    if both and reverse:
        return
    layer = stack(kind, layers, both, reverse=reverse)
    exchange.to_onnx(layer, tmp_path / "layer.onnx")
    rng = np.random.default_rng(2)
    states = rng.standard_normal((layer.cell.S, layers * (1 + both), 2, H)).astype("f4")
    named = dict(zip(layer.cell.states, states, strict=True))
    for xs in (block(), block()[:, :1]):  # T is free
        found = run(tmp_path / "layer.onnx", xs, named)
        hs, last = layer.infer(xs, states)
        close(found["hs"], hs)
        for state, expected in zip(layer.cell.states, last, strict=True):
            close(found[f"{state}_last"], expected)
    back = exchange.from_onnx(tmp_path / "layer.onnx")
    assert list(back) == [f"layer.{k}" for k in range(layers)]
    weights = [W for own in back.values() for W in own.params]
    for W, expected in zip(weights, layer.params, strict=True):
        np.testing.assert_array_equal(W, expected, strict=True)


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
@pytest.mark.parametrize("tied", [False, True])
def test_language_models_in_onnx(cell, tied, tmp_path):
    library("onnx")
    library("onnxruntime")
    model = rnnfast.LanguageModel(
        V, cell=cell, embedding=H, hidden=H, layers=2, tie_weights=tied, dropout=0.5, rng=0
    )
    model.eval()
    exchange.to_onnx(model, tmp_path / "model.onnx")
    ids = np.random.default_rng(0).integers(0, V, (3, 6))
    zeros = {"h": np.zeros((2, 3, H), "f4"), "c": np.zeros((2, 3, H), "f4")}
    states = {name: zeros[name] for name in model.recurrent_layers[0].cell.states}
    first = run(tmp_path / "model.onnx", ids[:, :2], states, "ids")
    states = {name: first[f"{name}_last"] for name in states}
    second = run(tmp_path / "model.onnx", ids[:, 2:], states, "ids")
    logits = np.concatenate((first["logits"], second["logits"]), axis=1)
    close(logits, model.predict(ids))


def test_what_onnx_does_not_get(tmp_path):
    library("onnx")
    path = tmp_path / "x.onnx"
    with pytest.raises(rnnfast.InputError, match="expected weights of float32, got float64"):
        exchange.to_onnx(stack("lstm", dtype="f8"), path)
    with pytest.raises(TypeError, match="expected a recurrent layer"):
        exchange.to_onnx(rnnfast.TimeDropout(0.5), path)
    assert not path.exists()


REFUSED = {
    "test_gru_batchwise": "attribute layout: expected 0, got 1",
    "test_lstm_batchwise": "attribute layout: expected 0, got 1",
    "test_simple_rnn_batchwise": "attribute layout: expected 0, got 1",
    "test_lstm_with_peepholes": "input P: expected none, since there are no peepholes here",
}


@functools.cache  # since they are there once
def vectors():
    """Problems of the standard itself, with their solutions."""
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of other nodes
        return list(collect_testcases(None))


@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
def test_vectors_of_the_standard(kind):
    library("onnx")
    cases = [case for case in vectors() if case.model.graph.node[0].op_type == kind]
    assert len(cases) >= 4
    refused = set()
    for case in cases:
        (node,), (inputs, outputs) = case.model.graph.node, case.data_sets[0]
        values = dict(zip([i.name for i in case.model.graph.input], inputs, strict=True))
        named = dict(zip(("X", "W", "R", "B", "lengths", "h", "c", "P"), node.input, strict=False))
        if case.name in REFUSED:
            with pytest.raises(rnnfast.InputError, match=REFUSED[case.name]):
                exchange.from_onnx(case.model, values=values)
            refused.add(case.name)
            continue
        (layer,) = exchange.from_onnx(case.model, values=values).values()
        states = [values[named[name]] for name in ("h", "c") if named.get(name) in values]
        both = isinstance(layer, rnnfast.TimeBiLSTM | rnnfast.TimeBiGRU | rnnfast.TimeBiRNN)
        states = np.stack([W if both else W[0] for W in states]) if states else None
        lengths = values.get(named.get("lengths"))
        hs, last = layer.infer(values["X"].swapaxes(0, 1), states, lengths=lengths)
        directions = 1 + both
        found = {
            "Y": hs.reshape(*hs.shape[:2], directions, -1).transpose(1, 2, 0, 3),
            "Y_h": last[0].reshape(directions, *last.shape[-2:]),
            "Y_c": last[-1].reshape(directions, *last.shape[-2:]),
        }
        for output, expected in zip(case.model.graph.output, outputs, strict=True):
            assert found[output.name].shape == expected.shape
            close(found[output.name], expected)
    assert refused == {name for name in REFUSED if kind.lower() in name}


def graph_of(kind, **changes):
    """A model of one node with weights of ones."""
    from onnx import TensorProto, helper, numpy_helper

    G = {"RNN": 1, "GRU": 3, "LSTM": 4}[kind]
    attributes = {"hidden_size": H} | changes.pop("attributes", {})
    arrays = {"W": np.ones((1, G * H, D), "f4"), "R": np.ones((1, G * H, H), "f4")}
    arrays |= {"B": np.ones((1, 2 * G * H), "f4")} | changes.pop("arrays", {})
    inputs = ["X", *(name if name in arrays else "" for name in ("W", "R", "B"))]
    inputs += changes.pop("inputs", [])
    node = helper.make_node(kind, inputs, ["Y"], name="it", **attributes)
    constants = [numpy_helper.from_array(W, name) for name, W in arrays.items()]
    info = helper.make_tensor_value_info("X", TensorProto.FLOAT, ["T", "N", D])
    out = helper.make_tensor_value_info("Y", TensorProto.FLOAT, None)
    return helper.make_model(helper.make_graph([node], "g", [info], [out], constants))


@pytest.mark.parametrize(
    ("kind", "changes", "told"),
    [
        ("LSTM", {"attributes": {"clip": 3.0}}, "it: attribute clip: expected none, got 3.0"),
        ("LSTM", {"attributes": {"input_forget": 1}}, "it: attribute input_forget: expected 0"),
        ("LSTM", {"attributes": {"layout": 1}}, "it: attribute layout: expected 0, got 1"),
        ("LSTM", {"attributes": {"later": 1}}, "it: attribute later: unknown"),
        ("LSTM", {"attributes": {"direction": "up"}}, "it: attribute direction: expected one"),
        ("LSTM", {"attributes": {"hidden_size": 4}}, "it: attribute hidden"),
        ("GRU", {"attributes": {"activations": ["Elu", "Tanh"]}}, "it: attribute activations: "),
        ("RNN", {"attributes": {"activation_alpha": [0.1]}}, "it: attribute activation_alpha"),
        ("LSTM", {"inputs": ["", "", "", "P"]}, "it: input P: expected none"),
        ("LSTM", {"inputs": ["", "h"], "arrays": {"h": np.ones((1, 1, H), "f4")}},
         "it: input initial_h: expected an input of the model, got a constant"),
        ("LSTM", {"arrays": {"W": np.ones((1, 4 * H, D), "f2")}}, "it: input W: expected float"),
        ("LSTM", {"arrays": {"W": np.ones((1, 3 * H, D), "f4")}}, "it: input W: expected (1, 20"),
        ("LSTM", {"arrays": {"B": np.full((1, 8 * H), np.nan, "f4")}}, "it: input B: expected fin"),
    ],
)  # fmt: skip
def test_nodes_of_onnx_that_there_are_not_here(kind, changes, told):
    library("onnx")
    assert exchange.from_onnx(graph_of(kind))
    with pytest.raises(rnnfast.InputError, match=re.escape(told)):
        exchange.from_onnx(graph_of(kind, **changes))


def node_called(name):
    def change(model):
        model.graph.node[0].name = name

    return change


def a_type(model):
    (attribute,) = (a for a in model.graph.node[0].attribute if a.name == "activations")
    attribute.type = attribute.INT


def a_reference(model):
    model.graph.node[0].attribute[0].ref_attr_name = "other"


def two_nodes_of_a_name(model):
    model.graph.node.add().CopyFrom(model.graph.node[0])


def two_names_of_one_parameter(model):
    model.graph.node.add().CopyFrom(model.graph.node[0])
    for node, name in zip(model.graph.node, ("a.b", "a_b"), strict=True):
        node.name = name
    for W in model.graph.initializer:
        if W.name == "W":  # as many inputs as outputs
            W.CopyFrom(next(R for R in model.graph.initializer if R.name == "R"))
            W.name = "W"


def constants_without_values(model):
    model.graph.node.add().op_type = "Constant"
    model.graph.node.add(op_type="Constant").attribute.add(name="value")
    model.graph.initializer[0].name = "other"


def constants_in_another_file(model):
    from onnx import TensorProto

    tensor = model.graph.initializer.pop(0)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/hostname")
    node = model.graph.node.add(op_type="Constant", output=["W"])
    attribute = node.attribute.add(name="value", type=4)
    attribute.t.CopyFrom(tensor)


def biases_without_a_finite_sum(model):
    from onnx import numpy_helper

    large = numpy_helper.from_array(np.full((1, 8 * H), 3e38, "f4"), "B")
    (B,) = (tensor for tensor in model.graph.initializer if tensor.name == "B")
    B.CopyFrom(large)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (node_called("a\x0fb"), r"expected names of printable characters but the backslash, got "),
        (node_called("xs"), "expected no layer named xs"),
        (node_called("loss"), "expected no layer named loss"),
        ((b"NAME", b"\xffAME"), r"printable characters but the backslash, got '\\\\xffAME'"),
        ((b"forward", b"\xfforward"), r"NAME: attribute direction: .*, got '\\\\xfforward'"),
        ((b"Sigmoid", b"\xffigmoid"), r"NAME: attribute activations: expected the usual ones"),
        (a_type, "NAME: attribute activations: expected STRINGS, got INT"),
        (a_reference, "NAME: attribute .*: expected .*, got a reference"),
        (two_nodes_of_a_name, "NAME: expected one node of this name, got several"),
        (two_names_of_one_parameter, r"differ with _ for every dot, got a\.b, a_b"),
        (constants_without_values, "NAME: input W: W is no constant"),
        (constants_in_another_file, "W: external data: its data stand outside the folder"),
        (biases_without_a_finite_sum, "two biases of a cell: expected a finite sum, got infinity"),
    ],
)
def test_models_of_onnx_that_are_odd(change, told, tmp_path):
    library("onnx")
    attributes = {"direction": "forward", "activations": ["Sigmoid", "Tanh", "Tanh"]}
    model, path = graph_of("LSTM", attributes=attributes), tmp_path / "it.onnx"
    model.graph.node[0].name = "NAME"
    path.write_bytes(model.SerializeToString())
    assert layers_of(path, {}).keys() == {"NAME"}
    if isinstance(change, tuple):  # bytes that are no UTF-8
        path.write_bytes(path.read_bytes().replace(*change))
    else:
        change(model)
        path.write_bytes(model.SerializeToString())
    with pytest.raises(rnnfast.InputError, match=told) as caught:
        layers_of(path, {})
    assert str(path) in str(caught.value)


def test_weights_that_are_no_constants():
    library("onnx")
    model = graph_of("GRU")
    W = model.graph.initializer[0]
    assert W.name == "W"
    del model.graph.initializer[0]
    with pytest.raises(
        rnnfast.InputError, match="it: input W: W is no constant; give it in values"
    ):
        exchange.from_onnx(model)
    layer = exchange.from_onnx(model, values={"W": np.full((1, 3 * H, D), 2.0, "f4")})["it"]
    assert (abs(layer.params[0]) == 2).all()
    del model.graph.node[0]
    with pytest.raises(rnnfast.InputError, match="no node RNN, GRU or LSTM"):
        exchange.from_onnx(model)
    with pytest.raises(TypeError, match="expected a path or a ModelProto"):
        exchange.from_onnx(3)


def test_external_data_of_onnx(tmp_path):
    onnx = library("onnx")
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "model.onnx"
    onnx.save(graph_of("LSTM"), path, save_as_external_data=True, location="data", size_threshold=0)
    layer = exchange.from_onnx(path)["it"]
    assert (layer.params[0] == 1).all()
    model = onnx.load(path, load_external_data=False)

    def refused(told, **changes):
        entries = model.graph.initializer[0].external_data
        before = {entry.key: entry.value for entry in entries}
        del entries[:]
        for key, value in (before | changes).items():
            entries.add(key=key, value=value)
        path.write_bytes(model.SerializeToString())
        with pytest.raises(rnnfast.InputError, match=told):
            exchange.from_onnx(path)
        del entries[:]
        for key, value in before.items():
            entries.add(key=key, value=value)

    (tmp_path / "outside").write_bytes(bytes(10**4))
    os.symlink(tmp_path / "outside", tmp_path / "in" / "link")
    for location in ("../outside", str(tmp_path / "outside"), "link", "."):
        refused("outside the folder of the model|is a folder", location=location)
    refused("does not exist", location="missing")
    os.symlink("loop", tmp_path / "in" / "loop")
    refused("W: (external data: .*loop|.* cannot be read)", location="loop")
    refused("W: external data: invalid literal", offset="x")
    refused("its data are not those of its shape", offset="9999999999999")
    refused("its data are not those of its shape", length="-1")
    refused("W: its data are damaged", length=str(4 * H * D))
    for k in range(200):
        model.graph.initializer.add().CopyFrom(model.graph.initializer[0])
        model.graph.initializer[-1].name = str(k)
    refused("expected arrays of as many bytes as the file has")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "in" / "pipe")
        refused("is a pipe", location="pipe")


def test_files_of_onnx_that_are_damaged(tmp_path):
    library("onnx")
    path = tmp_path / "layer.onnx"
    exchange.to_onnx(stack("lstm"), path)
    data = path.read_bytes()
    for size in range(0, len(data), 101):
        path.write_bytes(data[:size])
        with pytest.raises(rnnfast.InputError):
            exchange.from_onnx(path)


# safetensors


def models():
    return {
        "language": rnnfast.LanguageModel(
            V, embedding=H, hidden=H, layers=2, tie_weights=True, dropout=0.1, rng=0
        ),
        "seq2seq": rnnfast.AttentionSeq2seq(V, D, H, rng=0),
        "network": rnnfast.Network(
            {"stack": stack("gru", 2, True, reset_after=True)}, rnnfast.TimeSquaredLoss()
        ),
        "regressor": rnnfast.SequenceRegressor(hidden_size=3, epochs=1).fit(
            np.ones((2, 3, 2)), np.ones(2)
        ),
    }


@pytest.mark.parametrize("name", ["language", "seq2seq", "network", "regressor"])
def test_models_as_safetensors(name, tmp_path):
    library("safetensors")
    from safetensors.numpy import load_file

    model = models()[name]
    path = tmp_path / "model"
    model.save(path, format="safetensors")
    again = type(model).load(path)
    network = getattr(model, "network_", model)
    params = network.named_params()
    found = getattr(again, "network_", again).named_params()
    assert params.keys() == found.keys()
    for key, W in params.items():
        np.testing.assert_array_equal(found[key], W, strict=True)
    if name != "regressor":
        assert load_file(path).keys() <= params.keys()
        assert again.config() == model.config()


def test_safetensors_that_are_damaged(tmp_path):
    library("safetensors")
    model, path = models()["language"], tmp_path / "model"
    model.save(path, format="safetensors")
    data, rng = path.read_bytes(), np.random.default_rng(0)
    for size in range(0, len(data), 61):
        path.write_bytes(data[:size])
        with pytest.raises(rnnfast.InputError, match="model"):
            rnnfast.Network.load(path)
    for _ in range(500):
        flipped = bytearray(data)
        flipped[rng.integers(len(data))] ^= 1 << rng.integers(8)
        path.write_bytes(flipped)
        try:
            again = rnnfast.Network.load(path)
        except rnnfast.InputError:
            continue
        require_same_weights(again, model)
        assert again.config() == model.config()


def test_safetensors_of_others(tmp_path):
    library("safetensors")
    from safetensors.numpy import save_file

    save_file({"x": np.ones(3)}, tmp_path / "x")
    with pytest.raises(rnnfast.InputError, match="holds tensors, but no model of rnnfast"):
        rnnfast.Network.load(tmp_path / "x")
    for meta in ({"rnnfast": "{}", "crc32": "0"}, {"rnnfast": "{}"}, {"other": "x"}):
        save_file({"x": np.ones(3)}, tmp_path / "x", metadata=meta)
        with pytest.raises(rnnfast.InputError):
            rnnfast.Network.load(tmp_path / "x")
    with pytest.raises(ValueError, match="format: expected 'npz' or 'safetensors', got 'zip'"):
        models()["language"].save(tmp_path / "y", format="zip")
    assert not (tmp_path / "y").exists()


# the command


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    (folder / "text.txt").write_text("the quick brown fox. " * 60)
    settings = rnnfast.Settings(
        folder / "text.txt", hidden=H, embedding=D, batch=2, time=5, epochs=1
    )
    rnnfast.Run.start(folder / "run", settings, verbose=False).fit(verbose=False)
    return folder / "run"


@pytest.mark.parametrize("kind", ["npz", "safetensors", "torch", "onnx"])
def test_export_and_import(kind, trained, tmp_path, monkeypatch, capsys):
    for name in {"npz": [], "safetensors": ["safetensors"], "onnx": ["onnx"]}.get(kind, ["torch"]):
        library(name)
    monkeypatch.chdir(tmp_path)
    assert main(["export", str(trained), "--to", kind]) == 0
    ending = ".pt" if kind == "torch" else f".{kind}"
    out = capsys.readouterr().out
    assert re.fullmatch(
        rf"model: run{ending}, [\d,]+ bytes\nvocabulary: run{ending}.vocabulary.json, .*\n", out
    )
    run = rnnfast.Run.load(trained)
    vocabulary = json.loads((tmp_path / f"run{ending}.vocabulary.json").read_text())
    assert rnnfast.Vocabulary(**vocabulary).tokens == run.vocabulary.tokens
    if kind in ("npz", "safetensors"):
        require_same_weights(rnnfast.Network.load(f"run{ending}"), run.model)
        return
    command = ["import", f"run{ending}", "--kind", "embedding=embedding", "--out", "back.npz"]
    assert main(command) == 0
    assert "back.npz" in capsys.readouterr().out
    back = rnnfast.Network.load("back.npz")
    if kind == "torch":
        require_same_weights(back, run.model)
        ids = np.array([[1, 2, 3]])
        run.model.eval()
        close(back.predict(ids), run.model.predict(ids))
    assert main(command) == 1
    assert "already there; give another --out" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["npz", "safetensors", "torch", "onnx"])
def test_export_of_rounded_products(kind, trained, tmp_path, monkeypatch, capsys):
    """Ours keep the precision; others have no place for it, which is said."""
    if kind != "npz":
        library(kind)
    monkeypatch.chdir(tmp_path)
    sizes = {"hidden": H, "embedding": D, "batch": 2, "time": 5, "epochs": 1}
    settings = rnnfast.Settings(trained.parent / "text.txt", **sizes, precision="bfloat16")
    rnnfast.Run.start("rounds", settings, verbose=False).fit(verbose=False)
    assert main(["export", "rounds", "--to", kind]) == 0
    told = "products: in float32 there, in bfloat16 in the run; outputs" in capsys.readouterr().out
    assert told == (kind in ("torch", "onnx"))
    if not told:
        assert rnnfast.Network.load(f"rounds.{kind}").precision == "bfloat16"


@pytest.mark.parametrize("to", ["torch", "keras"])
def test_layers_with_rounded_products_go_as_others(to):
    """With the weights that they have, for products in float32."""
    library(to)
    W, b = block()[0], np.ones(D, "f4")
    for layer in (
        stack("lstm", both=True, precision="bfloat16"),
        rnnfast.TimeAffine(W, b, precision="bfloat16"),
    ):
        there = getattr(exchange, f"to_{to}")(layer)
        back = getattr(exchange, f"from_{to}")(there)
        require_same_weights(back, layer)
        assert back.precision == "float32"


def test_files_that_cannot_be_imported(tmp_path, monkeypatch, capsys):
    library("torch")
    import torch

    monkeypatch.chdir(tmp_path)

    class Bad:
        def __reduce__(self):
            return os.system, ("touch executed",)

    torch.save({"x": Bad()}, "code.pt")
    torch.save([1], "list.pt")
    (tmp_path / "cut.pt").write_bytes((tmp_path / "list.pt").read_bytes()[:99])
    odd = {
        "sparse": torch.eye(9).to_sparse(),
        "without numbers": torch.empty(9, 9, device="meta"),
    }
    torch.save({f"{name}.weight": tensor for name, tensor in odd.items()}, "odd.pt")
    torch.save({3: torch.eye(9)}, "three.pt")
    kinds = [word for name in odd for word in ("--kind", f"{name}=embedding")]
    assert main(["import", "odd.pt", *kinds]) == 1
    err = capsys.readouterr().err
    assert [f"{name}.weight: expected a dense tensor" in err for name in odd] == [True, True]
    for name, told in {
        "three.pt": "it holds 3, expected names of tensors",
        "code.pt": "code.pt is no file of PyTorch's, or is damaged",
        "list.pt": "expected a state dict",
        "cut.pt": "cut.pt is no file of PyTorch's",
        "missing.pt": "does not exist",
        "model.bin": "a file whose name ends with one of .pt, .pth, .safetensors",
    }.items():
        assert main(["import", name]) == 1
        assert told in capsys.readouterr().err
    assert main(["import", "list.pt", "--kind", "x=y"]) == 1
    assert "--kind: expected NAME=embedding or NAME=linear, got 'x=y'" in capsys.readouterr().err
    assert not os.path.exists("executed")
    torch.save(
        torch.nn.ModuleDict({"a": torch.nn.Linear(2, 3), "b": torch.nn.Linear(2, 3)}).state_dict(),
        "ab.pt",
    )
    assert main(["import", "ab.pt"]) == 1
    assert (
        "b: expected 3 inputs, which the layer before has as outputs, got 2"
        in capsys.readouterr().err
    )
    assert sorted(os.listdir()) == sorted(
        f"{name}.pt" for name in ("ab", "code", "cut", "list", "odd", "three")
    )


@pytest.mark.parametrize(
    ("states", "told"),
    [
        ({"a.weight": np.ones((0, D), "f4")}, r"a\.weight: expected numbers, got none: its shape"),
        ({"b.weight": np.ones((10**12, 0), "f4")}, r"b\.weight: expected numbers, got none"),
        ({"b.weight_ih_l" + "9" * 5000: np.ones(1, "f4")}, r"b\.weight_ih_l9{400,} \.\.\."),
        ({"xs.weight": np.ones((H, D), "f4"), "xs.bias": np.ones(H, "f4")}, "no layer named xs"),
        ({"a.weight": np.ones((2, 2), "f4"), "a.bias": np.ones(3, "f4")}, r"a\.bias: expected"),
        ({"weight": np.ones((2, 2), "f4"), "bias": np.ones(2, "f4"),
          "a.weight": np.ones((2, 2), "f4")}, "expected names that are texts, got ''"),
    ],
)  # fmt: skip
def test_states_in_files_that_make_no_network(states, told, tmp_path):
    library("safetensors")
    from safetensors.numpy import save_file

    save_file(states, tmp_path / "it.safetensors")
    with pytest.raises(rnnfast.InputError, match=told) as caught:
        layers_of(tmp_path / "it.safetensors", {"a": "embedding", "b": "linear"})
    assert "it.safetensors" in str(caught.value)


def test_states_that_are_lists():
    with pytest.raises(rnnfast.InputError, match=r"a\.bias: expected a tensor or an array, got li"):
        exchange.from_torch({"a.weight": np.ones((2, 2), "f4"), "a.bias": [[1], [1, 2]]})


def test_files_of_torch_that_have_more_in_them_than_bytes(tmp_path):
    library("torch")
    import torch

    W = torch.ones(300, 300)
    torch.save({"a.weight": W, "b.weight": W}, tmp_path / "tied.pt")
    tied = layers_of(tmp_path / "tied.pt", {"a": "embedding", "b": "linear"})
    assert [layer.params[0].shape for layer in tied.values()] == [(300, 300)] * 2
    torch.save({"a.weight": W}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert layers_of(tmp_path / "old.pt", {"a": "embedding"}).keys() == {"a"}
    torch.save({f"{k}.weight": W for k in range(1000)}, tmp_path / "names.pt")
    torch.save({"a.weight": torch.ones(1, 1).expand(30_000, 30_000)}, tmp_path / "wide.pt")
    with (
        zipfile.ZipFile(tmp_path / "tied.pt") as archive,
        zipfile.ZipFile(tmp_path / "packed.pt", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for name in archive.namelist():
            packed.writestr(name, archive.read(name))
    # two entries of the directory for one member
    data = (tmp_path / "tied.pt").read_bytes()
    begin, end = data.index(b"PK\1\2"), data.rindex(b"PK\6\6")
    start = data.rindex(b"PK\1\2", 0, data.rindex(b"data/0"))
    more = 9 * data[start : data.index(b"PK\1\2", start + 4)]
    count = int.from_bytes(data[-12:-10], "little") + 9
    size, tail = (end - begin + len(more)).to_bytes(4, "little"), data[-22:]
    tail = tail[:8] + 2 * count.to_bytes(2, "little") + size + begin.to_bytes(4, "little") + b"\0\0"
    (tmp_path / "entries.pt").write_bytes(data[:begin] + more + data[begin:end] + tail)
    for name, told in {
        "names.pt": r"\.weight: expected arrays of as many bytes as the file has, got more",
        "wide.pt": r"a\.weight: expected arrays of as many bytes as the file has, got more",
        "packed.pt": "packed.pt is no file of PyTorch's, .* is compressed",
        "entries.pt": "data/0: expected arrays of as many bytes as the file has",
    }.items():
        with pytest.raises(rnnfast.InputError, match=told):
            layers_of(tmp_path / name, {"a": "embedding"})


def test_nothing_is_imported_before_it_is_asked_for():
    code = "import sys, rnnfast, rnnfast.exchange; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    others = {"torch", "onnx", "onnxruntime", "keras", "h5py", "safetensors", "ml_dtypes"}
    assert not others & set(done.stdout.split())
