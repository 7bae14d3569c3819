"""Files that are whole or not there: written beside their place, synced, then renamed.

An archive is an .npz file of plain arrays, of which one holds JSON. Nothing in it is executed when
it is loaded, its checksums are compared, and no more memory is taken than it has bytes; a file in
which anything is not as it was written is refused.
"""

import errno
import glob
import json
import math
import os
import re
import secrets
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np

from . import _zip
from ._checks import aligned
from ._files import open_regular, require_replaceable
from ._locks import is_at, try_lock
from ._types import Array
from ._version import __version__
from .errors import InputError

META = "meta.json"
PARTIAL = ".partial"  # at the end of the name of a file that is being written
OWNER = stat.S_IRUSR | stat.S_IWUSR  # by which it can look whether something was left by a kill
# of file systems that cannot, and of folders in which one may write but not look
NO_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EACCES)
META_MOST = 1 << 25  # bytes
PART = 1 << 20  # numbers that are looked at together
MESSAGE_MOST = 1000  # characters
MAGIC = b"\x93NUMPY\1\0"
DTYPES = (
    *("|b1", "|i1", "|u1", "<i2", "<u2", "<i4", "<u4", "<i8", "<u8"),
    *("<f2", "<f4", "<f8", "<c8", "<c16"),
)
HEADER = re.compile(
    rb"\{'descr': '(?P<dtype>" + "|".join(map(re.escape, DTYPES)).encode() + rb")', "
    rb"'fortran_order': (?P<fortran>True|False), "
    rb"'shape': \((?P<shape>|\d{1,18},|\d{1,18}(, \d{1,18})+)\), \} *\n"
)
DAMAGE = (
    *(LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError),
    NotImplementedError,
)
"""What is raised where things are made of what a file has."""
FORMATS: dict[str, tuple[int, ...]] = {
    "checkpoint": (1, 2, 3, 4),
    "model": (1,),
    "parameters": (1,),
}
"""Versions that can be read, by what a file holds; the last one is written."""


def write_atomically(path: str | os.PathLike[str], write: Callable[[IO[bytes]], object]) -> None:
    """Call `write(file)` on a binary file that takes the place of `path` when all is on disk.

    Of several that write to one path at the same time, the last one stays. It has the permissions
    of the file that it replaces, and its owner can write; it has its owner and group too, where the
    system lets them be given, and else nobody of another group gets what that group had.

    Raises OSError, with the path in its message, where that is not possible, and InputError where
    something else than a file is there; what was there before is still there then, but where the
    folder alone could not be synced.
    """
    path = Path(path)
    replaced = require_replaceable(path)
    with naming(path):
        remove_leftovers(path)
        temporary, file = _new_beside(path, 0o666 if replaced is None else OWNER)
        try:
            with file:
                if replaced is not None:
                    _make_alike(file, replaced)
                write(file)
                file.flush()
                os.fsync(file.fileno())
                if os.name == "posix":  # while it is locked; elsewhere it must be closed
                    os.replace(temporary, path)
            if os.name != "posix":
                os.replace(temporary, path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise
    if os.name == "posix":  # elsewhere a folder cannot be opened, nor its entry synced
        with naming(path):
            _sync(path.parent)


def _make_alike(file: IO[bytes], other: os.stat_result) -> None:
    """Give a file the owner, the group and the permissions of another, as far as one can."""
    if not hasattr(os, "fchown"):
        return
    mode = stat.S_IMODE(other.st_mode) & 0o777 | OWNER
    for owner, group in ((other.st_uid, -1), (-1, other.st_gid)):
        with suppress(OSError):  # only root gives files away
            os.fchown(file.fileno(), owner, group)
    if os.fstat(file.fileno()).st_gid != other.st_gid:
        mode &= ~stat.S_IRWXG
    with suppress(OSError):  # not every file system can
        os.fchmod(file.fileno(), mode)


def _sync(folder: Path) -> None:
    """Bring the names in a folder to the disk, where that is possible."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in NO_SYNC:
            raise


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Within it, an OSError names a file: that of a full disk names none."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error


def _new_beside(path: Path, mode: int) -> tuple[Path, IO[bytes]]:
    """A new file in the same folder, with these permissions at most, locked until it is closed."""
    while True:
        beside = path.with_name(f".{path.name}.{secrets.token_hex(8)}{PARTIAL}")
        file: IO[bytes] | None = None
        try:
            file = open(beside, "xb", opener=partial(os.open, mode=mode))  # noqa: SIM115 - stays open
            try_lock(file, wait=True)  # for somebody who looks whether it is a leftover
            if is_at(file, beside):
                return beside, file
        except FileExistsError:
            raise
        except BaseException:
            with suppress(OSError):
                beside.unlink()
            if file is not None:
                file.close()
            raise
        file.close()


def leftovers(path: Path) -> Iterator[Path]:
    """What saves of a file have left beside it: those that are going on, and killed ones."""
    name = re.compile(re.escape(f".{path.name}") + r"(\.[0-9a-f]{16})?" + re.escape(PARTIAL))
    for beside in path.parent.glob(f".{glob.escape(path.name)}*{PARTIAL}"):
        if name.fullmatch(beside.name) and os.path.isfile(beside) and not os.path.islink(beside):
            yield beside


def remove_leftovers(path: Path) -> None:
    """Remove what killed processes have left of a file: nobody has it locked any more."""
    for leftover in leftovers(path):
        with suppress(OSError), open(leftover, "r+b") as file:
            if try_lock(file):
                leftover.unlink()


def save_archive(
    path: str | os.PathLike[str], kind: str, arrays: Mapping[str, Array], meta: Mapping[str, Any]
) -> None:
    """Write arrays by name and `meta`, whatever JSON can hold, to `path`; `kind` as in `FORMATS`.

    Raises TypeError for what neither can hold, and InputError for more than could be read again;
    there is no new file then.
    """
    little = {name: _little_endian(array) for name, array in arrays.items()}
    for name, array in little.items():
        if array.dtype.str not in DTYPES:
            raise TypeError(
                f"{name}: expected an array of numbers, got dtype {array.dtype}; convert it"
            )
    text = json.dumps({"format": format_of(kind), **meta})
    with damage(path, f"{kind} that could be read again"):
        object_of(text.encode())
    encoded: dict[str, Any] = {META: np.frombuffer(text.encode(), np.uint8)}
    write_atomically(path, lambda file: np.savez(file, **(encoded | little)))


def load_archive(
    path: str | os.PathLike[str], kind: str
) -> tuple[int, dict[str, Array], dict[str, Any]]:
    """What `save_archive` wrote: (version of the format, arrays, meta).

    No more memory is taken than the file has bytes, and some megabytes. Raises InputError for any
    other file; those that are none, such as pipes, are not opened.
    """
    with open_regular(path) as file:
        with damage(path, kind):
            members = {member.name: member for member in _zip.members(file)}
            meta = _meta(file, members.pop(f"{META}.npy", None))
            found = meta.pop("format", None)
        version = version_of(path, kind, found)
        with damage(path, kind):
            arrays: dict[str, Array] = {}
            for name, member in members.items():
                if not name.endswith(".npy"):
                    raise ValueError(f"it holds {name!r}, which is no array")
                name = name.removesuffix(".npy")
                arrays[name] = _array(name, _zip.read(file, member))
    return version, arrays, meta


def load_meta(path: str | os.PathLike[str], kind: str) -> tuple[int, dict[str, Any]]:
    """Of what `load_archive` returns, the version and the meta, without reading the arrays."""
    with open_regular(path) as file:
        with damage(path, kind):
            members = {member.name: member for member in _zip.members(file)}
            meta = _meta(file, members.get(f"{META}.npy"))
        return version_of(path, kind, meta.pop("format", None)), meta


def format_of(kind: str, version: int | None = None) -> str:
    """What a file says that it holds, in a version of its format; None is the newest."""
    return f"rnnfast {kind} {FORMATS[kind][-1] if version is None else version}"


def version_of(path: str | os.PathLike[str], kind: str, found: object) -> int:
    """The version of what a file says; raises InputError, with the path, for another thing."""
    versions = {format_of(kind, version): version for version in FORMATS[kind]}
    if not isinstance(found, str) or found not in versions:
        known = " or ".join(map(repr, versions))
        raise InputError(
            f"{path} holds another kind of thing, or was written by another version of "
            f"rnnfast: expected the format {known}, which version {__version__} reads, got "
            f"{found!r:.60}"
        )
    return versions[found]


@contextmanager
def damage(path: str | os.PathLike[str], kind: str) -> Iterator[None]:
    """Within it, what is missing or of a wrong kind is an InputError that names the file."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{path}: {_short(str(error))}") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}; check the path") from error
    except DAMAGE as error:
        problem = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise InputError(f"{path} is no {kind}, or is damaged: {_short(problem)}") from error


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


def require_no_nan(name: str, array: Array) -> None:
    """Raise InputError where a saved array has NaN in it."""
    # in parts: there is no array of bools of its size
    flat = array.reshape(-1, order="A")
    if any(np.isnan(flat[k : k + PART]).any() for k in range(0, flat.size, PART)):
        raise InputError(f"{name}: expected numbers, got NaN")


def _short(message: str) -> str:
    """A message that may quote what a file has, which may be long."""
    return message if len(message) <= MESSAGE_MOST else f"{message[:MESSAGE_MOST]} ..."


def _little_endian(array: Array) -> Array:
    return array.astype(array.dtype.newbyteorder("<"), copy=False)


def _some(names: Iterable[str], most: int = 12) -> str:
    names = list(names)
    more = f" and {len(names) - most} others" if len(names) > most else ""
    return (", ".join(map(str, names[:most])) or "none") + more


def _meta(file: IO[bytes], member: _zip.Member | None) -> dict[str, Any]:
    if member is None:
        raise ValueError(f"it has no {META}")
    _require_short(member.size)
    array = _array(META, _zip.read(file, member))
    if array.dtype != np.uint8 or array.ndim != 1:
        raise ValueError(f"its {META} is no text")
    return object_of(array.tobytes())


def _require_short(size: int) -> None:
    if size > META_MOST:
        raise ValueError(f"its {META} has {size:,} bytes, more than {META_MOST:,}")


def object_of(text: bytes) -> dict[str, Any]:
    """The object that a text of JSON holds, which may not take much more memory than it has bytes.

    What `save_archive` writes has no long rows of small things: a number has more than two bytes.
    """
    _require_short(len(text))
    weight = 0
    for part in _outside_strings(text):
        weight += 232 * part.count(b"{") + 72 * part.count(b"[") + 40 * part.count(b",")
    if weight > 4 * len(text) + (1 << 23):
        raise ValueError(f"its {META} has more in it than its length allows")
    made = json.loads(text.decode("ascii"), object_pairs_hook=_object)
    if not isinstance(made, dict):
        raise ValueError(f"its {META} is no object")
    return made


def _outside_strings(text: bytes) -> Iterator[bytes]:
    """What of a text of JSON is in no string, in parts; no string takes time of its own."""
    begun, inside = b"", np.uint8(0)  # an escape, a string
    for k in range(0, len(text), PART):
        part = (begun + text[k : k + PART]).replace(rb"\\", b"")
        begun = part[len(part) - part.endswith(b"\\") :]
        part = part.removesuffix(b"\\").replace(rb"\"", b"")
        marks = np.frombuffer(part, np.uint8)
        within = np.bitwise_xor.accumulate((marks == ord('"')).view(np.uint8)) ^ inside
        yield marks[within == 0].tobytes()
        inside = within[-1] if len(within) else inside


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for k, name in enumerate(names) if name in names[:k])
        raise ValueError(f"its {META} has {twice!r:.60} twice")
    return made


def _array(name: str, data: Array) -> Array:
    """The array of an .npy file, of whose memory it is; its header may say no more than is there.

    Headers are those that NumPy writes, of numbers or bools in this byte order.
    """
    if data[: len(MAGIC)].tobytes() != MAGIC:
        raise ValueError(f"{name}: it is no array of the format 1.0")
    begin = len(MAGIC) + 2
    end = begin + int.from_bytes(data[len(MAGIC) : begin].tobytes(), "little")
    header = HEADER.fullmatch(data[begin:end].tobytes())
    if header is None or end > len(data):
        raise ValueError(f"{name}: its header is none of an array of numbers")
    dtype = np.dtype(header["dtype"].decode())
    shape = tuple(int(size) for size in header["shape"].replace(b",", b"").split())
    size = len(data) - end
    if len(shape) > 32 or math.prod(shape) * dtype.itemsize != size:
        raise ValueError(f"{name}: an array of {size:,} bytes says that it has shape {shape}")
    if dtype.kind == "b" and size and data[end:].max() > 1:
        raise ValueError(f"{name}: expected bools, got other bytes")
    order: Any = "F" if header["fortran"] == b"True" else "C"
    numbers: Array = data[end:].view(dtype).reshape(shape, order=order)
    return aligned(numbers).astype(dtype.newbyteorder("="), copy=False)
