"""Files of other programs, told apart by how their names end."""

import os
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from .._files import open_regular
from ..archive import damage
from ..errors import InputError
from ..layers import TimeAffine, TimeEmbedding
from ..losses import TimeSoftmaxWithLoss, TimeSquaredLoss
from ..models import Network
from .faults import NAMES, Budget, Faults
from .keras import from_keras
from .onnx import from_onnx
from .torch import Kind, of_states


def layers_of(path: Path, kinds: Mapping[str, Kind]) -> dict[str, Any]:
    """The layers of a file by name, of which `network_of` makes a network; `kinds` as in
    `from_torch`.

    Raises InputError, which names the file, for one that cannot be read, whose name ends otherwise
    or whose layers make no network, and ImportError where the library is missing that reads it.
    """
    ending = path.suffix.lower()
    if ending not in READERS:
        raise InputError(
            f"{path}: expected a file whose name ends with one of {', '.join(READERS)}"
        )
    open_regular(path).close()
    found = READERS[ending](path, kinds)
    layers = found if isinstance(found, dict) else {"layer": found}
    with damage(path, "file of a network"):
        network_of(layers)
    return layers


def _torch(path: Path, kinds: Mapping[str, Kind]) -> Any:
    import torch

    with damage(path, "file of PyTorch's"):
        _require_stored(path)
        try:
            states = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # which may be of any class
            raise ValueError(str(error).partition("\n")[0]) from error
        if not isinstance(states, Mapping):
            raise ValueError(f"it holds a {type(states).__name__}, expected a state dict")
        budget = Budget(path.stat().st_size, NAMES)
        for name, tensor in states.items():
            if not isinstance(name, str):
                raise ValueError(f"it holds {name!r:.60}, expected names of tensors")
            if isinstance(tensor, torch.Tensor):  # a few numbers may stand for many
                budget.take(name, tensor.numel() * tensor.element_size())
    return _of_states(path, states, kinds)


def _require_stored(path: Path) -> None:
    """Raise an error for a zip file with members of more bytes than it has itself: PyTorch, which
    writes them as they are, would unpack all of one before it looks at it."""
    with open_regular(path) as file:
        if file.read(2) != b"PK":  # of a PyTorch before 1.6
            return
        try:
            with zipfile.ZipFile(file) as archive:
                members = archive.infolist()
        except zipfile.BadZipFile as error:
            raise ValueError(str(error)) from error
        budget = Budget(file.seek(0, os.SEEK_END))
        for member in members:
            if member.compress_type != zipfile.ZIP_STORED:
                raise ValueError(f"{member.filename} is compressed; PyTorch does not do that")
            budget.take(member.filename, member.file_size)


def _safetensors(path: Path, kinds: Mapping[str, Kind]) -> Any:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    with damage(path, "safetensors file"):
        try:
            states = load_file(path)
        except SafetensorError as error:
            raise ValueError(str(error)) from error
    return _of_states(path, states, kinds)


def _of_states(path: Path, states: Mapping[str, Any], kinds: Mapping[str, Kind]) -> Any:
    faults = Faults(f"{path}: the weights do not fit")
    with damage(path, "state dict"):
        found = of_states(states, "tanh", kinds, faults)
    faults.raise_any()
    return found[""] if found.keys() == {""} else found


READERS: dict[str, Callable[[Path, Mapping[str, Kind]], Any]] = {
    ".pt": _torch,
    ".pth": _torch,
    ".safetensors": _safetensors,
    ".onnx": lambda path, _: from_onnx(path),
    ".keras": lambda path, _: from_keras(path),
    ".h5": lambda path, _: from_keras(path),
}


def network_of(layers: Mapping[str, Any]) -> Network:
    """A network in which each layer takes the outputs of the one before, in their order. Its loss
    is softmax with cross entropy behind an embedding, and else the squared error.

    Raises InputError where a layer does not take as many as the one before has, and for names that
    layers of a network cannot have.
    """
    before = None
    for name, layer in layers.items():
        inputs, outputs = _sizes(layer)
        if before is not None and inputs != before:
            sizes = ", ".join(f"{own} {_sizes(each)}" for own, each in layers.items())
            raise InputError(
                f"{name}: expected {before} inputs, which the layer before has as outputs, got "
                f"{inputs}; the layers are {sizes}: in Python, rnnfast.exchange gives them one by "
                "one"
            )
        before = outputs
    reads_ids = isinstance(next(iter(layers.values())), TimeEmbedding)
    loss = TimeSoftmaxWithLoss() if reads_ids else TimeSquaredLoss()
    named = {name.replace(".", "_"): layer for name, layer in layers.items()}
    if len(named) < len(layers):
        raise InputError(
            f"layers: expected names that differ with _ for every dot, got {', '.join(layers)}"
        )
    try:
        return Network(named, loss)
    except (TypeError, ValueError) as error:  # other programs name layers as they like
        raise InputError(f"the layers make no network: {error}") from error


def _sizes(layer: Any) -> tuple[int | None, int]:
    """How many numbers a layer takes and returns at every step; an embedding takes ids."""
    W = layer.params[0]
    if isinstance(layer, TimeEmbedding):
        return None, W.shape[1]
    if isinstance(layer, TimeAffine):
        return len(W), W.shape[1]
    both = getattr(layer, "bidirectional", len(layer.state_shape(1)) == 3)
    return len(W), layer.hidden_size * (1 + both)
