"""Weights and files that go to Keras and come from there."""

import json
import re
import zipfile

import numpy as np
import pytest
from exchanges import (
    D,
    H,
    V,
    block,
    close,
    dtypes,
    every_kind,
    library,
    require_same_weights,
    sizes,
    stack,
)

import rnnfast
from rnnfast import exchange
from rnnfast.exchange.files import layers_of

# of Keras, and of what NumPy says to it
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


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
