"""Layers from PyTorch's modules and state dicts, and modules from layers."""

import os
import re
import sys
from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

import numpy as np

from .. import cells
from .._types import Array
from ..archive import write_atomically
from ..errors import InputError
from ..layers import TimeAffine, TimeEmbedding
from ..layers.cell import Activation, rnn_cell
from ..models import LanguageModel
from .faults import Faults
from .gates import PYTORCH
from .recurrent import Direction, Recurrent, ours, theirs

Kind: TypeAlias = Literal["embedding", "linear"]
NAME = re.compile(r"(weight|bias)_(ih|hh|hr)_l(\d{1,9})(_reverse)?")
CELL_OF_GATES = {1: "rnn", 3: "gru_reset_after", 4: "lstm"}
MODULE_OF_CELL = {"rnn": "RNN", "rnn_relu": "RNN", "lstm": "LSTM", "gru_reset_after": "GRU"}


def from_torch(
    source: Any, *, activation: Activation = "tanh", kinds: Mapping[str, Kind] | None = None
) -> Any:
    """A layer with the weights of a module of PyTorch's, or of what its `state_dict` returned.

    `nn.RNN`, `nn.LSTM` and `nn.GRU` become a `TimeRNN`, `TimeLSTM` or `TimeGRU`, with two
    directions a `TimeBiRNN` ..., with several layers a `TimeStack`; `nn.Embedding` and `nn.Linear`
    become a `TimeEmbedding` and a `TimeAffine`. Of a module with such modules in it, and of a state
    dict of one, a dict of layers by their names there is returned. Weights are copied. Batches come
    first in all layers here, whatever `batch_first` is.

    Outputs are those of the module but for rounding. Weights are the same bits, but for the bias of
    an RNN and an LSTM, which is the sum of PyTorch's two.

    Parameters
    ----------
    source : torch.nn.Module, or a mapping of names to tensors or arrays
        float32 or float64. In a state dict, `weight` with `bias` is a linear layer, and `weight`
        alone what `kinds` says.
    activation : "tanh" or "relu", keyword-only
        Of an RNN in a state dict, which does not say it.
    kinds : mapping of names to "embedding" or "linear", keyword-only
        What modules in a state dict are that have a `weight` alone.

    Raises
    ------
    InputError
        Where weights are missing, of another shape or dtype, not numbers, or not of such a module;
        all of them are named at once.
    TypeError
        For anything else.
    """
    rnn_cell(activation)
    faults = Faults("from_torch: the weights do not fit")
    if isinstance(source, Mapping):
        found = of_states(source, activation, kinds or {}, faults)
    elif (torch := sys.modules.get("torch")) and isinstance(source, torch.nn.Module):
        found = _of_modules(torch, source, faults)
    else:
        raise TypeError(
            "source: expected a module of PyTorch's or a state dict, got "
            f"{type(source).__name__}; read a file by torch.load(path, weights_only=True) first"
        )
    faults.raise_any()
    return found[""] if found.keys() == {""} else found


def _of_modules(torch: Any, source: Any, faults: Faults) -> dict[str, Any]:
    nn, found = torch.nn, {}
    for name, module in source.named_modules():
        where = f"{name}." if name else ""
        if isinstance(module, nn.RNNBase):
            # by attribute: weights may be computed from others, as by a weight norm
            weights = {own: getattr(module, own) for own in module._flat_weights_names}
            kind: Activation = getattr(module, "nonlinearity", "tanh")
            dropout = module.dropout if module.num_layers > 1 else 0.0
            found[name] = _recurrent(where, weights, kind, faults, dropout)
        elif isinstance(module, nn.Embedding):
            found[name] = _embedding(where, {"weight": module.weight}, faults)
        elif isinstance(module, nn.Linear):
            weights = {"weight": module.weight}
            if module.bias is not None:
                weights["bias"] = module.bias
            found[name] = _affine(where, weights, faults)
        elif any(True for _ in module.parameters(recurse=False)):
            faults.add(
                f"{name or 'source'}: a {type(module).__name__}, for which there is no layer"
            )
    if not found:
        faults.add(
            f"source: a {type(source).__name__} without recurrent, linear or embedding layers"
        )
    return found


def of_states(
    states: Mapping[str, Any], activation: Activation, kinds: Mapping[str, Kind], faults: Faults
) -> dict[str, Any]:
    """The layers of a state dict, by their names there; what is wrong is noted."""
    groups: dict[str, dict[str, Any]] = {}
    for name, tensor in states.items():
        if not isinstance(name, str):
            raise TypeError(f"source: expected names of tensors, got {name!r}")
        module, _, own = name.rpartition(".")
        groups.setdefault(module, {})[own] = tensor
    if not groups:
        faults.add("source: no tensors")
    found = {}
    for module, weights in groups.items():
        where = f"{module}." if module else ""
        if any(NAME.fullmatch(name) for name in weights):
            found[module] = _recurrent(where, weights, activation, faults)
        elif weights.keys() == {"weight"} and kinds.get(module) == "embedding":
            found[module] = _embedding(where, weights, faults)
        elif weights.keys() == {"weight"} and kinds.get(module) != "linear":
            faults.add(
                f"{where}weight: alone, it is of an embedding or of a linear layer without a bias; "
                f'say which in kinds, as {{"{module}": "embedding"}}'
            )
        elif weights.keys() - {"bias"} == {"weight"}:
            found[module] = _affine(where, weights, faults)
        else:
            names = ", ".join(where + name for name in weights)
            faults.add(f"{names}: not of an RNN, LSTM, GRU or Linear")
    return found


def _array(where: str, tensor: Any, ndim: int, faults: Faults) -> Array | None:
    """A tensor as an array; None, with what is wrong noted, where it cannot be."""
    if hasattr(tensor, "detach"):
        tensor = tensor.detach()
        dtype = str(tensor.dtype).removeprefix("torch.")
        if dtype not in ("float32", "float64"):
            faults.add(f"{where}: expected float32 or float64, got {dtype}; convert it by .float()")
            return None
        try:
            tensor = tensor.cpu().numpy()
        except (TypeError, RuntimeError) as error:  # it is sparse, nested, or has no numbers
            why = str(error).partition("\n")[0]
            faults.add(f"{where}: expected a dense tensor with its numbers, got another: {why}")
            return None
    try:
        array = np.asarray(tensor)
    except (TypeError, ValueError) as error:  # lists of several lengths, for one
        faults.add(f"{where}: expected a tensor or an array, got {type(tensor).__name__}: {error}")
        return None
    return faults.checked(where, array, ndim)


def _recurrent(
    where: str,
    weights: Mapping[str, Any],
    activation: Activation,
    faults: Faults,
    dropout: float = 0.0,
) -> Any:
    wrong = faults.from_here()
    places = {name: NAME.fullmatch(name) for name in weights}
    for name, place in places.items():
        if place is None:
            faults.add(f"{where}{name}: unknown")
        elif place[2] == "hr":
            faults.add(f"{where}{name}: a projection (proj_size), which there is not here")
    known = [place for place in places.values() if place]
    layers = 1 + max(int(place[3]) for place in known)
    if layers > len(weights):
        faults.add(f"{where}: {len(weights)} tensors cannot have a layer {layers - 1}")
    if wrong():
        return None
    directions = 1 + any(place[4] for place in known)
    names = _names(layers, directions, any(place[1] == "bias" for place in known))
    arrays: dict[str, Array] = {}
    for name in (name for own in names for name in own):
        if name not in weights:
            faults.add(f"{where}{name}: missing")
            continue
        array = _array(where + name, weights[name], 1 + name.startswith("weight"), faults)
        if array is not None:
            arrays[name] = array
    if wrong():
        return None
    rows, H = arrays["weight_hh_l0"].shape
    if H == 0 or rows % H or rows // H not in CELL_OF_GATES:
        faults.add(f"{where}weight_hh_l0: expected (G*H, H) with G 1, 3 or 4, got {(rows, H)}")
        return None
    cell = cells.CELLS[CELL_OF_GATES[rows // H]]
    cell = rnn_cell(activation) if cell == cells.RNN else cell
    D, dtype = arrays["weight_ih_l0"].shape[1], arrays["weight_ih_l0"].dtype
    found: list[Direction] = []
    for k, own in enumerate(names):
        inputs = D if k < directions else directions * H
        shapes = [(rows, inputs), (rows, H), (rows,), (rows,)]
        for name, shape in zip(own, shapes, strict=False):
            faults.require(where + name, arrays[name], shape, dtype)
        if not wrong():
            W_ih, W_hh, *biases = (arrays[name] for name in own)
            found.append(ours(cell, PYTORCH, W_ih.T, W_hh.T, biases))
    if wrong():
        return None
    stacked = [found[k : k + directions] for k in range(0, len(found), directions)]
    return Recurrent(cell, stacked, dropout=dropout).layer()


def _names(layers: int, directions: int, biased: bool) -> list[list[str]]:
    """What PyTorch calls the weights of each direction of each layer."""
    kinds = ["weight_ih", "weight_hh", "bias_ih", "bias_hh"][: 4 if biased else 2]
    ends = [f"_l{k}{end}" for k in range(layers) for end in ("", "_reverse")[:directions]]
    return [[kind + end for kind in kinds] for end in ends]


def _embedding(where: str, weights: Mapping[str, Any], faults: Faults) -> Any:
    W = _array(f"{where}weight", weights["weight"], 2, faults)
    return None if W is None else TimeEmbedding(W.copy())


def _affine(where: str, weights: Mapping[str, Any], faults: Faults) -> Any:
    W = _array(f"{where}weight", weights["weight"], 2, faults)
    if W is None:
        return None
    b: Array | None = np.zeros(len(W), W.dtype)
    if "bias" in weights:
        b = _array(f"{where}bias", weights["bias"], 1, faults)
    if b is None or not faults.require(f"{where}bias", b, (len(W),), W.dtype):
        return None
    return TimeAffine(W.T.copy(), b.copy())


def to_torch(layer: Any) -> Any:
    """A module of PyTorch's with the weights of a layer, copied.

    A `TimeRNN`, `TimeLSTM`, `TimeGRU`, a layer of two directions, or a `TimeStack` becomes an
    `nn.RNN`, `nn.LSTM` or `nn.GRU` with `batch_first=True`; b is the first of its two biases, and
    the second is 0, but with `reset_after` that is bh. A `TimeEmbedding` becomes an `nn.Embedding`,
    a `TimeAffine` an `nn.Linear`. Options of training but the dropout between layers are not kept,
    nor is a precision of "bfloat16": products there are in float32.

    Raises InputError for what PyTorch has not: the GRU of the textbook, one direction in reverse;
    TypeError for other layers; ImportError where PyTorch is not installed.
    """
    import torch

    if isinstance(layer, TimeEmbedding):
        (W,) = layer.params
        return torch.nn.Embedding.from_pretrained(torch.from_numpy(W.copy()), freeze=False)
    if isinstance(layer, TimeAffine):
        W, b = layer.params
        module: Any = torch.nn.Linear(*W.shape, dtype=getattr(torch, W.dtype.name), device="meta")
        states = {"weight": torch.from_numpy(W.T.copy()), "bias": torch.from_numpy(b.copy())}
    else:
        weights = Recurrent.of("layer", layer)
        states = {k: torch.from_numpy(W) for k, W in state_of(weights).items()}
        options: dict[str, Any] = {}
        if MODULE_OF_CELL[weights.cell.name] == "RNN":
            options["nonlinearity"] = "relu" if weights.cell == cells.RNN_RELU else "tanh"
        module = getattr(torch.nn, MODULE_OF_CELL[weights.cell.name])(
            weights.input_size,
            weights.hidden_size,
            len(weights.layers),
            batch_first=True,
            bidirectional=weights.directions == 2,
            dropout=weights.dropout,
            dtype=getattr(torch, weights.dtype.name),
            device="meta",  # which draws no weights
            **options,
        )
        module = module.to_empty(device="cpu")
    module.load_state_dict(states, assign=not isinstance(module, torch.nn.RNNBase))
    return module


def state_of(weights: Recurrent) -> dict[str, Array]:
    """The state dict of PyTorch's module with these weights, as arrays."""
    if weights.cell == cells.GRU:
        raise InputError(
            "layer: expected a GRU with reset_after=True, the only one that PyTorch has, got one "
            "that resets h before the product"
        )
    if weights.reverse:
        raise InputError("layer: expected one that runs forward, as all of PyTorch's, got reverse")
    states: dict[str, Array] = {}
    for k, directions in enumerate(weights.layers):
        for suffix, direction in zip(("", "_reverse"), directions, strict=False):
            Wx, Wh, b, *bh = theirs(weights.cell, PYTORCH, direction)
            arrays = {
                "weight_ih": np.ascontiguousarray(Wx.T),
                "weight_hh": np.ascontiguousarray(Wh.T),
                "bias_ih": b,
                "bias_hh": bh[0] if bh else np.zeros_like(b),
            }
            states |= {f"{name}_l{k}{suffix}": W for name, W in arrays.items()}
    return states


def save_state(model: LanguageModel, path: str | os.PathLike[str]) -> None:
    """Write the state dict that a module of PyTorch's with an `nn.Embedding` called embedding, an
    `nn.RNN`, `nn.LSTM` or `nn.GRU` called recurrent and an `nn.Linear` called affine has.

    `torch.load(path, weights_only=True)` reads it. Products there are in float32, whatever the
    model's precision is. Raises InputError as `to_torch`, and ImportError
    where PyTorch is not installed.
    """
    import torch

    layers = Recurrent.on_top(model.recurrent_names, model.recurrent_layers)
    W, b = model.affine.params
    states = {
        "embedding.weight": model.embedding.params[0],
        **{f"recurrent.{name}": array for name, array in state_of(layers).items()},
        "affine.weight": W.T,
        "affine.bias": b,
    }
    tensors = {name: torch.from_numpy(np.array(array, order="C")) for name, array in states.items()}
    write_atomically(path, lambda file: torch.save(tensors, file))
