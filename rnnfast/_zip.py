"""Zip files as NumPy's `savez` writes them, read so strictly that no byte has two meanings.

Members stand uncompressed one behind the other from the first byte on, then the directory, then
its end, which is the file's. Whatever else zip files may be (compressed, encrypted, in parts, with
comments, with gaps, with something before or behind) is refused. All sizes are compared with the
file's before anything is read by them.
"""

import os
import struct
import zlib
from dataclasses import dataclass
from typing import IO

import numpy as np

from ._types import Array

LOCAL = struct.Struct("<4s5H3I2H")
CENTRAL = struct.Struct("<4s6H3I5H2I")
END = struct.Struct("<4s4H2IH")
END_64 = struct.Struct("<4sQ2H2I4Q")
LOCATOR = struct.Struct("<4sIQI")
FULL_16, FULL_32 = 0xFFFF, 0xFFFFFFFF  # the number stands in a longer field elsewhere
MORE = END_64.size + LOCATOR.size
SIZES = struct.Struct("<2H2Q")  # such a field of a local header, with its own name and size
NAME_IS_UTF8 = 0x800  # the only flag that is known
CHUNK = 1 << 20


@dataclass(frozen=True)
class Member:
    """What the directory says of a member, and where its bytes begin."""

    name: str
    common: tuple[int, ...]  # flags, method, time, date, checksum: as in its own header
    size: int
    header: int = 0
    data: int = 0


def members(file: IO[bytes]) -> list[Member]:
    """The members of a zip file, in their order; no two have one name.

    Raises ValueError for a file of another kind.
    """
    count, start, end = _directory(file)
    data = _read(file, start, end - start)
    found: list[Member] = []
    place = header = 0
    while place < len(data):
        entry, place = _entry(data, place)
        if entry.header != header:
            raise ValueError(f"{entry.name!r} does not begin where what is before it ends")
        found.append(_located(file, entry))
        header = found[-1].data + entry.size
        if header > start:
            raise ValueError(f"{entry.name!r} says that it has more bytes than there are")
    if len(found) != count or header != start:
        raise ValueError("its directory is not that of what is before it")
    if len({member.name for member in found}) < len(found):
        raise ValueError("it holds two arrays of one name")
    return found


def read(file: IO[bytes], member: Member) -> Array:
    """The bytes of a member, of which `members` has said that they are there.

    Raises ValueError where their checksum is another.
    """
    data = np.empty(member.size, np.uint8)
    file.seek(member.data)
    crc = 0
    for k in range(0, member.size, CHUNK):
        piece = data[k : k + CHUNK]
        if file.readinto(piece.data) != len(piece):  # type: ignore[attr-defined]
            raise ValueError("it ends too early")
        crc = zlib.crc32(piece.data, crc)
    if crc != member.common[-1]:
        raise ValueError(f"the checksum of {member.name!r} is another than that of its bytes")
    return data


def _read(file: IO[bytes], start: int, size: int) -> bytes:
    """Bytes of the file, which must be there."""
    file.seek(max(start, 0))
    data = file.read(max(size, 0))
    if start < 0 or len(data) != size:
        raise ValueError("it ends too early")
    return data


def _directory(file: IO[bytes]) -> tuple[int, int, int]:
    """How many entries the directory has, where it begins, and where it ends."""
    end = os.fstat(file.fileno()).st_size - END.size
    mark, *disks, own, count, size, start, comment = END.unpack(_read(file, end, END.size))
    if mark != b"PK\5\6" or comment or any(disks) or own != count:
        raise ValueError("it does not end as a zip file of one part without a comment does")
    # what writes zip files does so from 2 GB on, and the short fields may still have all
    more = _read(file, max(end - MORE, 0), min(end, MORE))
    if more[-LOCATOR.size :].startswith(b"PK\6\7") and len(more) == MORE:
        end -= MORE
        mark, rest, _, _, disk, first, own, *numbers = END_64.unpack_from(more)
        if (
            (mark, rest, disk, first) != (b"PK\6\6", END_64.size - 12, 0, 0)
            or LOCATOR.unpack_from(more, END_64.size) != (b"PK\6\7", 0, end, 1)
            or own != numbers[0]
            or any(
                short not in (full, min(long, full))
                for short, long, full in zip(
                    (count, size, start), numbers, (FULL_16, FULL_32, FULL_32), strict=True
                )
            )
        ):
            raise ValueError("the two ends of its directory differ")
        count, size, start = numbers
    if start + size != end:
        raise ValueError("its directory does not stand before its end")
    return count, start, end


def _entry(data: bytes, place: int) -> tuple[Member, int]:
    """The entry at a place of the directory, and the place of the next."""
    if len(data) < place + CENTRAL.size:
        raise ValueError("its directory is cut")
    mark, _, _, *fields = CENTRAL.unpack_from(data, place)
    *common, packed, size, named, extra, comment, disk, _, _, header = fields
    begin = place + CENTRAL.size
    end = begin + named + extra
    if mark != b"PK\1\2" or comment or disk or len(data) < end:
        raise ValueError("its directory has something other than entries without comments")
    flags, method = common[:2]
    if flags & ~NAME_IS_UTF8 or method:
        raise ValueError("it is compressed or encrypted, which what rnnfast writes is not")
    long = [number for number in (size, packed, header) if number == FULL_32]
    expected = struct.pack("<2H", 1, 8 * len(long)) if long else b""
    more = data[begin + named : end]
    if not more.startswith(expected) or len(more) != len(expected) + 8 * len(long):
        raise ValueError("an entry of its directory has fields that are not known")
    numbers = iter(struct.unpack_from(f"<{len(long)}Q", more, len(expected)))
    size, packed, header = (next(numbers) if n == FULL_32 else n for n in (size, packed, header))
    if size != packed:
        raise ValueError("it is compressed, which what rnnfast writes is not")
    name = data[begin : begin + named].decode("utf-8" if flags else "ascii")
    return Member(name, tuple(common), size, header), end


def _located(file: IO[bytes], entry: Member) -> Member:
    """An entry with where its bytes begin, once its own header has said the same."""
    head = _read(file, entry.header, LOCAL.size)
    mark, _, *fields = LOCAL.unpack(head)
    *common, packed, size, named, extra = fields
    rest = _read(file, entry.header + LOCAL.size, named + extra)
    if extra:
        short = size, packed
        # Python before 3.11.4 has the sizes in the short fields too
        if extra != SIZES.size or short not in ((FULL_32, FULL_32), (entry.size, entry.size)):
            raise ValueError(f"{entry.name!r} has fields that are not known")
        kind, length, size, packed = SIZES.unpack(rest[named:])
        if (kind, length) != (1, SIZES.size - 4):
            raise ValueError(f"{entry.name!r} has fields that are not known")
    name = rest[:named].decode("utf-8" if common[0] else "ascii")
    if (mark, name, tuple(common), size, packed) != (
        *(b"PK\3\4", entry.name, entry.common),
        *(entry.size, entry.size),
    ):
        raise ValueError(f"{entry.name!r} is another in the directory than where it stands")
    return Member(
        entry.name, entry.common, entry.size, entry.header, entry.header + LOCAL.size + len(rest)
    )
