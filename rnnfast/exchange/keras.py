"""Layers from those of Keras and from its files, and Keras's layers from ours.

A file is read by h5py alone: its weights are arrays, and its configuration is JSON; no class is
looked up by a name in it, and nothing is executed.
"""

import json
import os
import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from .. import cells
from .._files import open_regular
from .._types import Array
from ..archive import damage
from ..errors import InputError
from ..layers import TimeAffine, TimeEmbedding
from ..layers.cell import GRU_CELLS, RNN_CELLS, Activation, rnn_cell
from ..models.saving import field
from .faults import Budget, Faults
from .gates import KERAS
from .recurrent import Direction, Recurrent, ours, theirs

WEIGHTS, CONFIG = "model.weights.h5", "config.json"
CONFIG_MOST = 1 << 24  # bytes
GATES = {"SimpleRNN": 1, "GRU": 3, "LSTM": 4}
CLASS_OF_CELL = {
    "rnn": "SimpleRNN", "rnn_relu": "SimpleRNN", "lstm": "LSTM",
    "gru": "GRU", "gru_reset_after": "GRU",
}  # fmt: skip
OF_LOSS = ("linear", "softmax", "sigmoid")
MUST = {
    "activation": "tanh", "recurrent_activation": "sigmoid", "merge_mode": "concat",
    "go_backwards": False,
}  # fmt: skip
"""Values of a recurrent layer's options, where it has them, with which it computes what ours do."""
SNAKE = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=.)(?=[A-Z][a-z])")
CHUNK = 1 << 20
LAYERS = ("Bidirectional", *GATES, "Embedding", "Dense")
WITHOUT_WEIGHTS = ("InputLayer", "Dropout", "SpatialDropout1D", "Masking", "Activation", "Softmax")


def from_keras(source: Any, *, activation: Activation = "tanh") -> Any:
    """A layer with the weights of one of Keras's, or layers with those of a model or a file.

    `SimpleRNN`, `LSTM` and `GRU` become a `TimeRNN`, `TimeLSTM` or `TimeGRU`, inside a
    `Bidirectional` a `TimeBiRNN` ...; `Embedding` and `Dense` a `TimeEmbedding` and a `TimeAffine`.
    Of a model and of a file a dict of layers is returned, by the names of the model's layers, or,
    in a `.weights.h5`, which has no such names, by those of the file: lstm, lstm_1, ... Weights are
    copied, and the same bits but for signs.

    A softmax or sigmoid of a `Dense` is left to the loss. Masks of an embedding are `lengths` here.

    Parameters
    ----------
    source : keras.layers.Layer, keras.Model, or the path of a `.keras` or `.weights.h5` file
        float32 or float64. Files are read by h5py, which must be installed.
    activation : "tanh" or "relu", keyword-only
        Of a `SimpleRNN` in a `.weights.h5`, which does not say it.

    Raises
    ------
    InputError
        Where weights are missing, of another shape or dtype, or not numbers, and where a layer is
        or has something that there is not here; all of it is named at once.
    TypeError
        For anything else.
    """
    rnn_cell(activation)
    of_file = isinstance(source, (str, os.PathLike))
    faults = Faults(f"{os.fspath(source) if of_file else 'source'}: the weights do not fit")
    if of_file:
        found = _of_file(Path(source), activation, faults)
    elif hasattr(source, "get_config") and hasattr(source, "get_weights"):
        # a model has layers, and so has a Bidirectional, which is one
        whole = type(source).__name__ not in LAYERS and hasattr(source, "layers")
        found = {
            layer.name if whole else "": _layer(
                layer.name, type(layer).__name__, layer.get_config(), layer.get_weights(), faults
            )
            for layer in (source.layers if whole else [source])
            if type(layer).__name__ not in WITHOUT_WEIGHTS or not whole
        }
    else:
        raise TypeError(
            f"source: expected a layer or model of Keras's, or a path, got {type(source).__name__}"
        )
    if not found:
        faults.add("no layers with weights")
    faults.raise_any()
    return found[""] if found.keys() == {""} else found


def _layer(
    where: str,
    kind: str,
    config: Mapping[str, Any],
    weights: Sequence[Array],
    faults: Faults,
) -> Any:
    """A layer from what Keras's has as configuration and weights."""
    wrong = faults.from_here()
    directions = 1
    if kind == "Bidirectional":
        directions = 2
        _require(where, config, ("merge_mode",), faults)
        inner = field(config, "layer", dict, f"{where}: ")
        kind = field(inner, "class_name", str, f"{where}: ")
        config = field(inner, "config", dict, f"{where}: ")
    if kind not in LAYERS:
        faults.add(f"{where}: a {kind}, for which there is no layer")
        return None
    arrays = [
        faults.checked(f"{where}, array {k}", np.asarray(W), np.ndim(W))
        for k, W in enumerate(weights)
    ]
    if wrong():
        return None
    own = [W for W in arrays if W is not None]
    if kind in GATES:
        return _recurrent(where, kind, directions, config, own, faults)
    if kind == "Dense" and config.get("activation", "linear") not in OF_LOSS:
        faults.add(
            f"{where}: expected an activation of {', '.join(OF_LOSS)}, got {config['activation']!r}"
        )
        return None
    if not own or own[0].ndim != 2 or len(own) > (kind == "Dense") + 1:
        faults.add(f"{where}: expected the weights of a {kind}, got {_shapes(own)}")
        return None
    W = own[0].copy()
    if kind == "Embedding":
        return TimeEmbedding(W)
    b = own[1] if len(own) > 1 else np.zeros(W.shape[1], W.dtype)
    return TimeAffine(W, b.copy()) if faults.require(where, b, W.shape[1:], W.dtype) else None


def _require(
    where: str, config: Mapping[str, Any], names: Sequence[str], faults: Faults, **others: Any
) -> None:
    """Note options with which a layer does not compute what ours does."""
    for name in names:
        wanted = others.get(name, (MUST[name],))
        if name in config and config[name] not in wanted:
            expected = " or ".join(map(repr, wanted))
            faults.add(f"{where}: expected {name} {expected}, got {config[name]!r:.60}")


def _recurrent(
    where: str,
    kind: str,
    directions: int,
    config: Mapping[str, Any],
    arrays: Sequence[Array],
    faults: Faults,
) -> Any:
    wrong = faults.from_here()
    activations = {"activation": tuple(RNN_CELLS)} if kind == "SimpleRNN" else {}
    names = [name for name in MUST if name != "merge_mode"]
    _require(where, config, names, faults, **activations)
    count = len(arrays) // directions
    if len(arrays) % directions or count not in (2, 3) or any(W.ndim != 2 for W in arrays[::count]):
        faults.add(f"{where}: expected the weights of a {kind}, got {_shapes(arrays)}")
    if wrong():
        return None
    D, columns = arrays[0].shape
    H = columns // GATES[kind]
    if kind == "SimpleRNN":
        cell = RNN_CELLS[config.get("activation", "tanh")]
    elif kind == "LSTM":
        cell = cells.LSTM
    else:
        two = count == 3 and arrays[2].ndim == 2
        # without biases both forms have the same arrays
        cell = GRU_CELLS[two if count == 3 else config.get("reset_after", True)]
    shapes = [(D, GATES[kind] * H), (H, columns), (columns,)]
    if cell == cells.GRU_RESET_AFTER:
        shapes[2] = (2, columns)
    for k, array in enumerate(arrays):
        faults.require(f"{where}, array {k}", array, shapes[k % count], arrays[0].dtype)
    if wrong():
        return None
    pairs: list[Direction] = []
    for k in range(0, len(arrays), count):
        Wx, Wh, *b = arrays[k : k + count]
        pairs.append(ours(cell, KERAS, Wx, Wh, [*np.atleast_2d(*b)] if b else []))
    return Recurrent(cell, [pairs]).layer()


def _shapes(arrays: Sequence[Array]) -> str:
    return ", ".join(str(W.shape) for W in arrays) or "none"


def _of_file(path: Path, activation: Activation, faults: Faults) -> dict[str, Any]:
    import h5py

    with open_regular(path, "Keras file") as file, damage(path, "Keras file"):
        try:
            if file.read(2) == b"PK":
                return _of_archive(h5py, file, faults)
            return {
                name: _layer(name, *_guessed(arrays, activation), faults)
                for name, arrays in _arrays_by_layer(h5py, file).items()
                if arrays.arrays
            }
        except EOFError as error:
            raise ValueError("it ends within a member") from error
        except (OSError, RuntimeError, zipfile.BadZipFile) as error:  # those of h5py
            raise ValueError(str(error)) from error


def _of_archive(h5py: Any, file: IO[bytes], faults: Faults) -> dict[str, Any]:
    """Of a `.keras` file: its weights, by the configuration that stands beside them."""
    with zipfile.ZipFile(file) as archive:
        for name in (CONFIG, WEIGHTS):
            info = archive.getinfo(name)
            if info.compress_type != zipfile.ZIP_STORED or archive.namelist().count(name) > 1:
                raise ValueError(f"expected one {name} in it, and not compressed")
            with archive.open(info) as member:  # all of it, and so its checksum
                while member.read(CHUNK):
                    pass
        if archive.getinfo(CONFIG).file_size > CONFIG_MOST:
            raise ValueError(f"its {CONFIG} has more than {CONFIG_MOST:,} bytes")
        model = json.loads(archive.read(CONFIG))
        with archive.open(WEIGHTS) as member:
            arrays = _arrays_by_layer(h5py, member)
    found: dict[str, Any] = {}
    counts: dict[str, int] = {}
    for layer in field(field(model, "config", dict), "layers", list):
        kind, config = field(layer, "class_name", str), field(layer, "config", dict)
        stem = SNAKE.sub("_", kind).lower()
        number = counts[stem] = counts.get(stem, -1) + 1
        own = arrays.pop(f"{stem}_{number}" if number else stem, Stored())
        if kind not in WITHOUT_WEIGHTS:
            name = field(config, "name", str)
            if name in found:
                faults.add(f"{name}: expected one layer of this name, got several")
            found[name] = _layer(name, kind, config, own.arrays, faults)
    for name, own in arrays.items():
        if own.arrays:
            faults.add(f"{name}: weights of no layer that the configuration has")
    return found


class Stored(NamedTuple):
    """Weights of a layer in a file, in Keras's order, and which folders they stood in."""

    arrays: Sequence[Array] = ()
    bidirectional: bool = False
    recurrent: bool = False


def _arrays_by_layer(h5py: Any, file: IO[bytes]) -> dict[str, Stored]:
    budget = Budget(file.seek(0, os.SEEK_END))  # one array may have many names, by hard links
    with h5py.File(file) as weights:
        found = {}
        for name, group in _members(h5py, _members(h5py, weights)["layers"]).items():
            parts = _members(h5py, group)
            both = "forward_layer" in parts
            names = ("forward_layer", "backward_layer")
            sides = [_members(h5py, parts[side]) for side in names] if both else [parts]
            cell = all("cell" in side for side in sides)
            holders = [_members(h5py, side["cell"]) if cell else side for side in sides]
            arrays = [
                _read(h5py, f"{name}, array {k}", array, budget)
                for holder in holders
                for k, array in enumerate(_numbered(name, _members(h5py, holder["vars"])))
            ]
            found[name] = Stored(arrays, both, cell)
        return found


def _members(h5py: Any, group: Any) -> dict[str, Any]:
    """What is in a group itself: links to elsewhere are none of it."""
    if not isinstance(group, h5py.Group):
        raise ValueError(f"{group.name}: expected a group, got a {type(group).__name__}")
    for name in group:
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise ValueError(f"{name!r:.60} stands elsewhere")
    return {name: group[name] for name in group}


def _numbered(where: str, arrays: Mapping[str, Any]) -> list[Any]:
    """What is called 0, 1, 2 ..., in this order."""
    names = [str(k) for k in range(len(arrays))]
    if arrays.keys() != set(names):
        raise ValueError(f"{where}: expected arrays {', '.join(names)}, got {', '.join(arrays)}")
    return [arrays[name] for name in names]


def _read(h5py: Any, name: str, array: Any, budget: Budget) -> Array:
    """An array whose bytes stand in the file as they are, before any memory is taken for it."""
    if not isinstance(array, h5py.Dataset) or array.is_virtual or array.external or array.chunks:
        raise ValueError(f"{name}: expected an array whose numbers stand in the file in one piece")
    size = array.size * array.dtype.itemsize
    if array.dtype.kind not in "fiu" or size != array.id.get_storage_size():
        raise ValueError(f"{name}: expected numbers, as many as its shape says")
    budget.take(name, size)
    numbers: Array = array[()]
    return numbers


def _guessed(stored: Stored, activation: Activation) -> tuple[str, dict[str, Any], Sequence[Array]]:
    """Class and configuration of a layer of which only the weights are there."""
    arrays = stored.arrays
    if not stored.recurrent:
        return "Dense" if len(arrays) == 2 else "Embedding", {}, arrays
    wide = arrays[1].shape if len(arrays) > 1 and arrays[1].ndim == 2 else (1, 0)
    of_gates = {gates: kind for kind, gates in GATES.items()}
    kind = of_gates.get(wide[1] // max(1, wide[0]), "recurrent layer")
    config = {"activation": activation} if kind == "SimpleRNN" else {}
    if stored.bidirectional:
        return "Bidirectional", {"layer": {"class_name": kind, "config": config}}, arrays
    return kind, config, arrays


def to_keras(layer: Any) -> Any:
    """A layer of Keras's with the weights of one of ours, copied.

    A `TimeRNN`, `TimeLSTM` or `TimeGRU` becomes a `SimpleRNN`, `LSTM` or `GRU` that returns
    sequences, with two directions in a `Bidirectional`; a `TimeStack` becomes a `Sequential` of
    them, a `TimeEmbedding` an `Embedding`, a `TimeAffine` a `Dense`. Options of training are not
    kept, nor is a precision of "bfloat16": products there are in float32.

    Raises InputError for a layer that runs in reverse alone, whose outputs Keras has in another
    order; TypeError for other layers; ImportError where Keras is not installed.
    """
    import keras

    if isinstance(layer, (TimeEmbedding, TimeAffine)):
        made = (
            keras.layers.Embedding(*layer.params[0].shape, dtype=layer.dtype.name)
            if isinstance(layer, TimeEmbedding)
            else keras.layers.Dense(layer.params[0].shape[1], dtype=layer.dtype.name)
        )
        made.build((None, None, len(layer.params[0])))
        made.set_weights(layer.params)
        return made
    weights = Recurrent.of("layer", layer)
    if weights.reverse:
        raise InputError("layer: expected one that runs forward, got reverse; take two directions")
    options: dict[str, Any] = {"return_sequences": True, "dtype": weights.dtype.name}
    if "rnn" in weights.cell.name:
        options["activation"] = "relu" if weights.cell == cells.RNN_RELU else "tanh"
    if "gru" in weights.cell.name:
        options["reset_after"] = weights.cell == cells.GRU_RESET_AFTER
    stack = []
    for directions in weights.layers:
        made = getattr(keras.layers, CLASS_OF_CELL[weights.cell.name])(
            weights.hidden_size, **options
        )
        made = keras.layers.Bidirectional(made) if len(directions) == 2 else made
        made.build((None, None, len(directions[0][0])))
        arrays: list[Array] = []
        for direction in directions:
            Wx, Wh, *biases = theirs(weights.cell, KERAS, direction)
            arrays += [Wx, Wh, np.stack(biases) if len(biases) > 1 else biases[0]]
        made.set_weights(arrays)
        stack.append(made)
    return stack[0] if len(stack) == 1 else keras.Sequential(stack)
