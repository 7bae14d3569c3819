"""Layers from the nodes RNN, GRU and LSTM of ONNX, and ONNX's graphs from layers and models.

The standard: https://onnx.ai/onnx/operators/onnx__LSTM.html and those of RNN and GRU.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .. import cells
from .._files import open_regular
from .._types import Array
from .._version import __version__
from ..archive import damage, write_atomically
from ..errors import InputError
from ..models import LanguageModel
from .faults import NAMES, Budget, Faults
from .gates import ONNX
from .recurrent import Direction, Recurrent, ours, theirs

OPSET, IR_VERSION = 22, 10
NODES = ("RNN", "GRU", "LSTM")
NODE_OF_CELL = {
    "rnn": "RNN", "rnn_relu": "RNN", "gru": "GRU", "gru_reset_after": "GRU", "lstm": "LSTM",
}  # fmt: skip
ACTIVATIONS = {"RNN": ("tanh",), "GRU": ("sigmoid", "tanh"), "LSTM": ("sigmoid", "tanh", "tanh")}
GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
INPUTS = ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P")
MUST = {"layout": 0, "input_forget": 0}
"""Attributes, where a node has them, with which it computes what our layers do."""
READ = {
    "layout": "INT", "input_forget": "INT", "hidden_size": "INT", "linear_before_reset": "INT",
    "clip": "FLOAT", "activation_alpha": "FLOATS", "activation_beta": "FLOATS",
    "direction": "STRING", "activations": "STRINGS",
}  # fmt: skip
"""Attributes that a node may have, and the types of their values."""
LARGEST = 2**31 - 1  # bytes of a protocol buffer


def to_onnx(model: Any, path: str | os.PathLike[str]) -> None:
    """Write a layer or a language model as a graph that ONNX Runtime and others run.

    A recurrent layer, of two directions too, or a `TimeStack` has the inputs `xs` (N, T, D) and `h`
    (L, N, H), an LSTM also `c`, its initial states as `get_state` of a stack has them, L being
    layers times directions; the outputs are `hs`, and the last states `h_last` and `c_last`. A
    `LanguageModel` has `ids` (N, T), int64, in the place of `xs`, and `logits` (N, T, V) in that of
    `hs`. N and T are free. Opset 22, float32, where the
    precision is "bfloat16" too. The file appears whole or not at all.

    Raises InputError for weights that are not float32, or more than 2 GB; TypeError for other
    models; ImportError where the package onnx is not installed.
    """
    import onnx

    graph = Graph(onnx)
    if isinstance(model, LanguageModel):
        weights = Recurrent.on_top(model.recurrent_names, model.recurrent_layers)
        table = graph.constant("embedding.W", model.embedding.params[0])
        graph.input("ids", onnx.TensorProto.INT64, ["N", "T"])
        xs = graph.node("Gather", [table, "ids"])
        hs = graph.recurrent(weights, xs)
        W, b = model.affine.params
        product = graph.node("MatMul", [hs, graph.constant("affine.W", W)])
        graph.node("Add", [product, graph.constant("affine.b", b)], "logits")
        graph.output("logits", ["N", "T", len(b)])
    else:
        weights = Recurrent.of("model", model)
        graph.input("xs", onnx.TensorProto.FLOAT, ["N", "T", weights.input_size])
        graph.recurrent(weights, "xs", "hs")
        graph.output("hs", ["N", "T", weights.directions * weights.hidden_size])
    if weights.dtype != np.float32:
        raise InputError(f"model: expected weights of float32, got {weights.dtype}; convert them")
    made = graph.model(type(model).__name__)
    if made.ByteSize() > LARGEST:
        raise InputError("model: expected weights of less than 2 GB, which is what a file may have")
    onnx.checker.check_model(made, full_check=True)
    data = made.SerializeToString()
    write_atomically(path, lambda file: file.write(data))


class Graph:
    """A graph that grows node by node."""

    def __init__(self, onnx: Any) -> None:
        self.onnx = onnx
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.inputs: list[Any] = []
        self.outputs: list[Any] = []

    def constant(self, name: str, array: Array) -> str:
        array = np.ascontiguousarray(array)
        self.constants.append(self.onnx.numpy_helper.from_array(array, name))
        return name

    def input(self, name: str, kind: int, shape: Sequence[int | str]) -> str:
        self.inputs.append(self.onnx.helper.make_tensor_value_info(name, kind, shape))
        return name

    def output(self, name: str, shape: Sequence[int | str]) -> None:
        kind = self.onnx.TensorProto.FLOAT
        self.outputs.append(self.onnx.helper.make_tensor_value_info(name, kind, shape))

    def node(self, kind: str, inputs: Sequence[str], output: str = "", **attributes: Any) -> str:
        """A node of one output; returns its name."""
        output = output or f"{kind.lower()}.{len(self.nodes)}"
        self.nodes.append(self.onnx.helper.make_node(kind, inputs, [output], **attributes))
        return output

    def recurrent(self, weights: Recurrent, xs: str, hs: str = "") -> str:
        """The layers, from xs (N, T, D) to the name of (N, T, directions H)."""
        states = {state: self._parts(state, weights) for state in weights.cell.states}
        last: dict[str, list[str]] = {state: [] for state in states}
        of_steps = self.node("Transpose", [xs], perm=[1, 0, 2])
        together = self.constant("together", np.array([0, 0, -1], np.int64))
        for k, directions in enumerate(weights.layers):
            arrays = _arrays_of(weights.cell, directions)
            names = [self.constant(f"{k}.{name}", W) for name, W in arrays.items()]
            entering = [parts[k] for parts in states.values()]
            leaving = {state: f"{k}.{state}" for state in states}
            self.nodes.append(
                self.onnx.helper.make_node(
                    NODE_OF_CELL[weights.cell.name],
                    [of_steps, *names, "", *entering],
                    [f"{k}.Y", *leaving.values()],
                    name=f"layer.{k}",
                    **_attributes_of(weights),
                )
            )
            for state, name in leaving.items():
                last[state].append(name)
            beside = self.node("Transpose", [f"{k}.Y"], perm=[0, 2, 1, 3])
            of_steps = self.node("Reshape", [beside, together])
        for state, names in last.items():
            self.node("Concat", names, f"{state}_last", axis=0)
            self.output(f"{state}_last", _state_shape(weights))
        return self.node("Transpose", [of_steps], hs, perm=[1, 0, 2])

    def _parts(self, state: str, weights: Recurrent) -> list[str]:
        """An input for a state of all layers, and the names of its parts for each."""
        self.input(state, self.onnx.TensorProto.FLOAT, _state_shape(weights))
        count = len(weights.layers)
        names = [f"{state}.{k}" for k in range(count)]
        sizes = self.constant(f"{state}.sizes", np.full(count, weights.directions, np.int64))
        self.nodes.append(self.onnx.helper.make_node("Split", [state, sizes], names, axis=0))
        return names

    def model(self, name: str) -> Any:
        helper = self.onnx.helper
        graph = helper.make_graph(self.nodes, name, self.inputs, self.outputs, self.constants)
        return helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="rnnfast",
            producer_version=__version__,
        )


def _state_shape(weights: Recurrent) -> list[int | str]:
    return [len(weights.layers) * weights.directions, "N", weights.hidden_size]


def _arrays_of(cell: cells.Cell, directions: Sequence[Direction]) -> dict[str, Array]:
    """W (directions, G*H, D), R (directions, G*H, H), B (directions, 2 G*H)"""
    own = [theirs(cell, ONNX, direction) for direction in directions]
    biases = [[b, *bh] if bh else [b, np.zeros_like(b)] for _, _, b, *bh in own]
    return {
        "W": np.stack([Wx.T for Wx, *_ in own]),
        "R": np.stack([Wh.T for _, Wh, *_ in own]),
        "B": np.stack([np.concatenate(pair) for pair in biases]),
    }


def _attributes_of(weights: Recurrent) -> dict[str, Any]:
    reverse = "reverse" if weights.reverse else "forward"
    attributes: dict[str, Any] = {
        "hidden_size": weights.hidden_size,
        "direction": "bidirectional" if weights.directions == 2 else reverse,
    }
    if weights.cell == cells.RNN_RELU:
        attributes["activations"] = ["Relu"] * weights.directions
    if weights.cell == cells.GRU_RESET_AFTER:
        attributes["linear_before_reset"] = 1
    return attributes


def from_onnx(source: Any, *, values: Mapping[str, Array] | None = None) -> dict[str, Any]:
    """The recurrent layers of a model, by the names of their nodes, or of their outputs where they
    have none.

    A node RNN, GRU (both values of `linear_before_reset`) or LSTM becomes a `TimeRNN`, `TimeGRU` or
    `TimeLSTM`, with `reverse` where its direction is that, or a `TimeBiRNN` ...; `sequence_lens` is
    the argument `lengths` of `forward`, and initial states are those of `infer`. Inputs are
    (N, T, D) here, and (T, N, D) there. Other nodes are left out.

    Parameters
    ----------
    source : path, or onnx.ModelProto
        Weights may stand in files beside the model's (external data), in its folder.
    values : mapping of names to arrays, keyword-only
        Weights that are no constants of the model, but inputs of it.

    Raises
    ------
    InputError
        For what there is not here: peepholes, clipping, other activations, layout 1,
        `input_forget`, states that are constants; for weights that are missing, or not float32 or
        float64, with the node and the attribute; all of them at once. For a file that is damaged.
    TypeError
        For another source.
    ImportError
        Where the package onnx is not installed.
    """
    import onnx

    if isinstance(source, (str, os.PathLike)):
        model, about = _read(onnx, Path(source)), os.fspath(source)
    elif isinstance(source, onnx.ModelProto):
        model, about = source, "source"
    else:
        raise TypeError(f"source: expected a path or a ModelProto, got {type(source).__name__}")
    faults = Faults(f"{about}: not a model that can be had here")
    constants = _constants(model)

    def array(name: str) -> Array | None:
        if values and name in values:
            return np.asarray(values[name])
        if name not in constants:
            return None
        if constants[name].data_location == onnx.TensorProto.EXTERNAL:
            raise InputError(f"{name}: its data stand in another file; give the path of the model")
        try:
            return np.asarray(onnx.numpy_helper.to_array(constants[name]))
        except (ValueError, TypeError) as error:
            raise InputError(f"{name}: its data are damaged: {error}") from error

    found: dict[str, Any] = {}
    with damage(about, "ONNX model"):
        for node in model.graph.node:
            if node.op_type in NODES and node.domain in ("", "ai.onnx"):
                name = _text(node.name or next(filter(None, node.output), node.op_type))
                if name in found:
                    faults.add(f"{name}: expected one node of this name, got several")
                attributes = _attributes(onnx, name, node, faults)
                inputs = dict(zip(INPUTS, node.input, strict=False))
                found[name] = _layer(name, node.op_type, attributes, inputs, array, faults)
    if not found:
        faults.add("no node RNN, GRU or LSTM")
    faults.raise_any()
    return found


def _constants(model: Any) -> dict[str, Any]:
    """The tensors of a model by name."""
    found = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        values = [a.t for a in node.attribute if a.name == "value"]
        if node.op_type == "Constant" and values and node.output:
            found[node.output[0]] = values[0]
    return found


def _read(onnx: Any, path: Path) -> Any:
    with open_regular(path, "ONNX file") as file, damage(path, "ONNX file"):
        if (size := file.seek(0, os.SEEK_END)) > LARGEST:
            raise ValueError(f"{size:,} bytes, more than such a file may have")
        file.seek(0)
        try:
            model = onnx.load(file, load_external_data=False)
        except Exception as error:  # of protobuf, which has classes of its own
            raise ValueError(f"{error}") from error
        folder, budgets = path.resolve().parent, dict[Path, Budget]()
        for name, tensor in _constants(model).items():
            if tensor.data_location == onnx.TensorProto.EXTERNAL:
                try:
                    _take_external(tensor, folder, budgets)
                except (RuntimeError, TypeError, ValueError) as error:  # links in a circle, for one
                    raise InputError(f"{name}: external data: {error}") from error
    return model


def _take_external(tensor: Any, folder: Path, budgets: dict[Path, Budget]) -> None:
    """Read the bytes of a tensor that stand in another file, which must be in the same folder."""
    told = {entry.key: entry.value for entry in tensor.external_data}
    where = (folder / told.get("location", "")).resolve()
    if folder not in where.parents:
        raise InputError("its data stand outside the folder of the model")
    # an array has no more axes, and the product of a million would take long
    begin, size = int(told.get("offset", 0)), np.prod(tensor.dims[:64], dtype=object)
    with open_regular(where, "external data") as file:
        there = file.seek(0, os.SEEK_END)
        length = int(told.get("length", there - begin))
        if not 0 <= begin <= begin + length <= there or length > 8 * size:
            raise InputError("its data are not those of its shape")
        budgets.setdefault(where, Budget(there, NAMES)).take("its bytes", length)
        file.seek(begin)
        tensor.raw_data = file.read(length)
    tensor.ClearField("external_data")
    tensor.ClearField("data_location")


def _attributes(onnx: Any, where: str, node: Any, faults: Faults) -> dict[str, Any]:
    """Those of a node by name, of the types that they should have."""
    found: dict[str, Any] = {}
    for attribute in node.attribute:
        name, kind = _text(attribute.name), onnx.AttributeProto.AttributeType.Name(attribute.type)
        if name not in READ:
            faults.add(f"{where}: attribute {name}: unknown")
        elif kind != READ[name] or attribute.ref_attr_name:
            got = "a reference" if attribute.ref_attr_name else kind
            faults.add(f"{where}: attribute {name}: expected {READ[name]}, got {got}")
        else:
            found[name] = onnx.helper.get_attribute_value(attribute)
    return found


def _layer(
    where: str,
    kind: str,
    attributes: Mapping[str, Any],
    inputs: Mapping[str, str],
    array: Any,
    faults: Faults,
) -> Any:
    wrong = faults.from_here()
    direction = _text(attributes.get("direction", "forward"))
    directions = 2 if direction == "bidirectional" else 1
    cell = _cell(where, kind, directions, attributes, faults)
    if direction not in ("forward", "reverse", "bidirectional"):
        faults.add(f"{where}: attribute direction: expected one that there is, got {direction!r}")
    for name, value in MUST.items():
        if attributes.get(name, value) != value:
            faults.add(f"{where}: attribute {name}: expected {value}, got {attributes[name]}")
    if attributes.get("clip"):
        faults.add(f"{where}: attribute clip: expected none, got {attributes['clip']}")
    if inputs.get("P"):
        faults.add(f"{where}: input P: expected none, since there are no peepholes here")
    for name in ("initial_h", "initial_c"):
        if inputs.get(name) and (state := array(inputs[name])) is not None and state.any():
            faults.add(f"{where}: input {name}: expected an input of the model, got a constant")
    arrays: dict[str, Array] = {}
    for name, ndim in {"W": 3, "R": 3, "B": 2}.items():
        if not inputs.get(name):
            if name != "B":
                faults.add(f"{where}: input {name}: missing")
        elif (given := array(inputs[name])) is None:
            faults.add(f"{where}: input {name}: {inputs[name]} is no constant; give it in values")
        elif (good := faults.checked(f"{where}: input {name}", given, ndim)) is not None:
            arrays[name] = good
    if wrong():
        return None
    W, R = arrays["W"], arrays["R"]
    H, columns = R.shape[-1], GATES[kind] * R.shape[-1]
    B = arrays.get("B", np.zeros((directions, 2 * columns), R.dtype))
    hidden = attributes.get("hidden_size", H)
    if hidden != H:
        faults.add(f"{where}: attribute hidden_size: expected that of R, {H}, got {hidden}")
    faults.require(f"{where}: input W", W, (directions, columns, W.shape[-1]), R.dtype)
    faults.require(f"{where}: input R", R, (directions, columns, H), R.dtype)
    faults.require(f"{where}: input B", B, (directions, 2 * columns), R.dtype)
    if wrong():
        return None
    own = [ours(cell, ONNX, W[k].T, R[k].T, np.split(B[k], 2)) for k in range(directions)]
    return Recurrent(cell, [own], reverse=direction == "reverse").layer()


def _cell(
    where: str, kind: str, directions: int, attributes: Mapping[str, Any], faults: Faults
) -> cells.Cell:
    given = [_text(name).lower() for name in attributes.get("activations", ())]
    for name in ("activation_alpha", "activation_beta"):
        if attributes.get(name):
            faults.add(f"{where}: attribute {name}: expected none, got {attributes[name]}")
    relu = kind == "RNN" and given == ["relu"] * directions
    if given and not relu and given != [*ACTIVATIONS[kind]] * directions:
        faults.add(f"{where}: attribute activations: expected the usual ones, got {given}")
    if kind == "GRU":
        return cells.GRU_RESET_AFTER if attributes.get("linear_before_reset") else cells.GRU
    if kind == "LSTM":
        return cells.LSTM
    return cells.RNN_RELU if relu else cells.RNN


def _text(value: bytes | str) -> str:
    """A text of a protocol buffer, which gives names as bytes where they are no UTF-8."""
    return value.decode(errors="backslashreplace") if isinstance(value, bytes) else value
