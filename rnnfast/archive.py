"""Files that are whole or not there: written beside their place, synced, then renamed.

An archive is an .npz file of plain arrays, of which one holds JSON. Nothing in it is executed when
it is loaded, its checksums are compared, and no more memory is taken than it has bytes.
"""

import errno
import glob
import io
import json
import math
import os
import threading
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import numpy as np

from ._locks import open_locked, try_lock
from ._types import Array
from ._version import __version__
from .errors import InputError

META = "meta.json"
PARTIAL = ".partial"  # at the end of the name of a file that is being written
FORMATS: dict[str, tuple[int, ...]] = {"checkpoint": (1, 2), "model": (1,), "parameters": (1,)}
"""Versions that can be read, by what a file holds; the last one is written."""


def write_atomically(path: str | os.PathLike[str], write: Callable[[IO[bytes]], object]) -> None:
    """Call `write(file)` on a binary file that takes the place of `path` when all is on disk.

    Of several that write to one path at the same time, the last one stays.
    """
    path = Path(path)
    _remove_leftovers(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}{PARTIAL}")
    try:
        while (opened := open_locked(temporary, "wb")) is None:
            time.sleep(0.001)  # somebody looks whether it is a leftover
        with opened as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
            if os.name == "posix":  # while it is locked; elsewhere it must be closed
                os.replace(temporary, path)
        if os.name != "posix":
            os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if os.name == "posix":  # elsewhere a folder cannot be opened, nor its entry synced
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # not every file system can
                raise
        finally:
            os.close(folder)


def _remove_leftovers(path: Path) -> None:
    """Remove what killed processes have left of a file: nobody has it locked any more."""
    for leftover in path.parent.glob(f".{glob.escape(path.name)}*{PARTIAL}"):
        with suppress(OSError), open(leftover, "rb") as file:
            if try_lock(file):
                leftover.unlink()


def save_archive(
    path: str | os.PathLike[str], kind: str, arrays: Mapping[str, Array], meta: Mapping[str, Any]
) -> None:
    """Write arrays by name and `meta`, whatever JSON can hold, to `path`; `kind` as in `FORMATS`.

    Raises TypeError for what neither can hold; there is no new file then.
    """
    for name, array in arrays.items():
        if array.dtype.hasobject:
            raise TypeError(
                f"{name}: expected an array of numbers, got dtype {array.dtype}; convert it"
            )
    text = json.dumps({"format": _format(kind, FORMATS[kind][-1]), **meta})
    encoded: dict[str, Any] = {META: np.frombuffer(text.encode(), np.uint8)}
    write_atomically(path, lambda file: np.savez(file, **(encoded | dict(arrays))))


def load_archive(
    path: str | os.PathLike[str], kind: str
) -> tuple[int, dict[str, Array], dict[str, Any]]:
    """What `save_archive` wrote: (version of the format, arrays, meta).

    Raises InputError for any other file.
    """
    try:
        with open(path, "rb") as file, zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            if sum(member.file_size for member in members) > os.fstat(file.fileno()).st_size:
                raise ValueError("it says that it holds more bytes than it has")
            arrays = {m.filename.removesuffix(".npy"): _array(archive.read(m)) for m in members}
        if len(arrays) < len(members):
            raise ValueError("it holds two arrays of one name")
        meta = json.loads(arrays.pop(META).tobytes())
        found = meta.pop("format")
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; check the path") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}; check the path") from error
    except Exception as error:  # whatever zipfile, NumPy and json make of arbitrary bytes
        raise InputError(f"{path} is no {kind}, or is damaged: {error}") from error
    for version in FORMATS[kind]:
        if found == _format(kind, version):
            return version, arrays, meta
    known = " or ".join(repr(_format(kind, version)) for version in FORMATS[kind])
    raise InputError(
        f"{path} holds another kind of thing, or was written by another version of rnnfast: "
        f"expected the format {known}, which version {__version__} reads, got {found!r}"
    )


@contextmanager
def damage(path: str | os.PathLike[str], kind: str) -> Iterator[None]:
    """Within it, what is missing or of a wrong kind is an InputError that names the file."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        problem = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise InputError(f"{path} is no {kind}, or is damaged: {problem}") from error


def require_names(expected: Iterable[str], found: Iterable[str]) -> None:
    """Raise InputError unless `found` are the names that are expected, in any order."""
    wanted, there = dict.fromkeys(expected), dict.fromkeys(found)
    missing = [name for name in wanted if name not in there]
    unknown = [name for name in there if name not in wanted]
    if missing or unknown:
        raise InputError(
            f"expected {_some(wanted)}, got others: missing {_some(missing)}, "
            f"unknown {_some(unknown)}"
        )


def require_like(name: str, saved: Array, like: Array) -> None:
    """Raise InputError unless a saved array has the shape and the dtype of the one there is."""
    if saved.shape != like.shape or saved.dtype != like.dtype:
        raise InputError(
            f"{name}: expected {like.dtype} {like.shape} as the model has, "
            f"got {saved.dtype} {saved.shape}"
        )


def _some(names: Iterable[str], most: int = 12) -> str:
    names = list(names)
    more = f" and {len(names) - most} others" if len(names) > most else ""
    return (", ".join(map(str, names[:most])) or "none") + more


def _format(kind: str, version: int) -> str:
    return f"rnnfast {kind} {version}"


def _array(data: bytes) -> Array:
    """The array of an .npy file, writable; its header may say no more than is there."""
    file = io.BytesIO(data)
    version = np.lib.format.read_magic(file)
    if version != (1, 0):  # what NumPy writes, unless a header is longer than 64 kB
        raise ValueError(f"it holds an array of another format, {version}")
    shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(file)
    numbers: Array = np.frombuffer(data, dtype, offset=file.tell())
    if math.prod(shape) != numbers.size or any(size < 0 for size in shape):
        raise ValueError(f"an array of {numbers.size} numbers says that it has shape {shape}")
    array = numbers.reshape(shape, order="F" if fortran_order else "C")
    return array.astype(dtype.newbyteorder("="))
