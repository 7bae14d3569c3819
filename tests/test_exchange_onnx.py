"""Graphs that go to ONNX, ONNX Runtime as the judge, and come from there."""

import functools
import os
import re
import warnings

import numpy as np
import pytest
from exchanges import D, H, V, block, close, every_kind, library, sizes, stack

import rnnfast
from rnnfast import exchange
from rnnfast.exchange.files import layers_of


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
