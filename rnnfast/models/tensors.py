"""Models as safetensors files, which other programs read: what `archive` does, in their format.

Tensors have the names of parameters; what else a model is stands as JSON in the file's metadata,
with checksums of it and of every tensor. Reading and writing is the library safetensors', which
compares all sizes with the file's; nothing in it is executed.
"""

import json
import zlib
from collections.abc import Mapping
from os import PathLike
from typing import Any

import numpy as np

from .._files import open_regular
from .._types import Array
from ..archive import damage, format_of, object_of, require_names, version_of, write_atomically
from ..errors import InputError

HEADER_MOST = 1 << 20  # bytes; a model of a thousand layers has fewer
BEGIN = b'{"'  # after eight bytes with the length of the header


def is_safetensors(path: str | PathLike[str]) -> bool:
    """Whether a file begins as one."""
    with open_regular(path) as file:
        return file.read(8 + len(BEGIN))[8:] == BEGIN


def save_tensors(
    path: str | PathLike[str], kind: str, arrays: Mapping[str, Array], meta: Mapping[str, Any]
) -> None:
    """What `save_archive` does. Raises ImportError where safetensors is not installed."""
    from safetensors.numpy import save

    arrays = {name: np.ascontiguousarray(W) for name, W in arrays.items()}
    sums = {name: _checksum(W) for name, W in arrays.items()}
    text = json.dumps({"format": format_of(kind), "crc32": sums, **meta})
    data = save(arrays, {"rnnfast": text, "crc32": str(zlib.crc32(text.encode()))})
    write_atomically(path, lambda file: file.write(data))


def load_tensors(
    path: str | PathLike[str], kind: str
) -> tuple[int, dict[str, Array], dict[str, Any]]:
    """What `load_archive` does, of this format."""
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError as error:
        raise InputError(f"{path} is read by safetensors, which is not installed") from error
    with open_regular(path) as start, damage(path, kind):
        if (length := int.from_bytes(start.read(8), "little")) > HEADER_MOST:
            raise ValueError(f"its header has {length:,} bytes, more than {HEADER_MOST:,}")
    with damage(path, kind):
        try:
            with safe_open(path, framework="numpy") as file:
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                told = file.metadata() or {}
        except SafetensorError as error:
            raise ValueError(str(error)) from error
    text = told.get("rnnfast")
    if text is None:
        raise InputError(
            f"{path} holds tensors, but no {kind} of rnnfast; "
            "rnnfast.exchange.from_torch takes those of PyTorch"
        )
    with damage(path, kind):
        if told["crc32"] != str(zlib.crc32(text.encode())):
            raise ValueError("its metadata are others than were written")
        meta = object_of(text.encode())
        found, sums = meta.pop("format"), meta.pop("crc32")
        for name, array in arrays.items():
            if sums.pop(name) != _checksum(array):
                raise ValueError(f"{name}: other numbers than were written")
        require_names((), sums)
    return version_of(path, kind, found), arrays, meta


def _checksum(array: Array) -> int:
    return zlib.crc32(array.reshape(-1).view(np.uint8).data)
