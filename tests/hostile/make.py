"""Hostile files: each is made of a valid one, and must be refused.

    python tests/hostile/make.py FOLDER

writes all of them to a folder, by kind and name. What is not in the repository cannot infect it.
"""

import contextlib
import io
import json
import os
import pickle
import socket
import struct
import sys
import tempfile
import zipfile
import zlib
from pathlib import Path

import numpy as np

LOCAL, CENTRAL, END = b"PK\3\4", b"PK\1\2", b"PK\5\6"
KINDS = ("checkpoint", "model", "parameters")
MEMORY = 64 << 20  # bytes that a reader may take besides those of the file
TEXT = "the quick brown fox jumps over the lazy dog.\n" * 8
EXECUTED = "executed-by-a-pickle"
COLUMNS = (
    *("epoch", "step", "lr", "train_loss", "valid_loss", "valid_perplexity"),
    *("valid_bits_per_token", "tokens_per_second"),
)


class Payload:
    """Unpickling it makes a file."""

    def __reduce__(self):
        return open, (EXECUTED, "w")


def npy(array, version=(1, 0)):
    file = io.BytesIO()
    np.lib.format.write_array(file, np.asarray(array), version=version)
    return file.getvalue()


def with_header(data, header):
    """An .npy file with another header."""
    numbers = data[10 + struct.unpack_from("<H", data, 8)[0] :]
    return data[:8] + struct.pack("<H", len(header) + 1) + header.encode() + b"\n" + numbers


def header_of(data):
    return data[10 : 10 + struct.unpack_from("<H", data, 8)[0]].decode().strip()


def text_array(text):
    return npy(np.frombuffer(text if isinstance(text, bytes) else text.encode(), np.uint8))


def in_version_3(arrays, meta):
    """The arrays and the metadata of a checkpoint as they were when these two were JSON."""
    arrays = dict(arrays)
    meta["context"] = arrays.pop("context").tolist()
    if "history" in arrays:
        lines = [
            [None if np.isnan(x) else x for x in row] for row in arrays.pop("history").tolist()
        ]
        meta["position"]["history"] = [
            dict(zip(COLUMNS, line, strict=True)) | {"step": int(line[1])} for line in lines
        ]
    return arrays, meta


class Valid:
    """A valid file: its bytes, members and metadata."""

    def __init__(self, kind, data):
        self.kind, self.data = kind, data
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            self.members = {info.filename: archive.read(info) for info in archive.infolist()}
        self.meta = json.loads(np.load(io.BytesIO(self.members["meta.json.npy"])).tobytes())
        self.first = next(name for name in self.members if name != "meta.json.npy")

    def packed(self, *more, without=(), compression=zipfile.ZIP_STORED, **changed):
        """Its bytes with some other members, `more` of them at the end."""
        file = io.BytesIO()
        members = self.members | changed.get("members", {})
        with zipfile.ZipFile(file, "w", compression) as archive:
            for name, data in [*members.items(), *more]:
                if name not in without:
                    archive.writestr(zipfile.ZipInfo(name), data, compression)
        return file.getvalue()

    def with_array(self, data):
        """Its bytes with other bytes of its first array."""
        return self.packed(members={self.first: data})

    def with_meta(self, text):
        return self.packed(members={"meta.json.npy": text_array(text)})

    def with_field(self, keys, value):
        """Its bytes with another value in its metadata, or without one where it is `...`."""
        meta = json.loads(json.dumps(self.meta))
        place = meta
        for key in keys[:-1]:
            place = place[key]
        if value is ...:
            del place[keys[-1]]
        else:
            place[keys[-1]] = value
        return self.with_meta(json.dumps(meta))

    def in_version_3(self):
        """The checkpoint as it was then."""
        arrays = {
            name: np.load(io.BytesIO(self.members[f"{name}.npy"]))
            for name in ("context", "history")
        }
        _, meta = in_version_3(arrays, json.loads(json.dumps(self.meta)))
        text = text_array(json.dumps(meta | {"format": "rnnfast checkpoint 3"}))
        without = [f"{name}.npy" for name in arrays]
        return Valid(self.kind, self.packed(members={"meta.json.npy": text}, without=without))

    def edited(self, *edits):
        """Its bytes, other bytes written at places: (mark of a header, offset behind it, bytes)."""
        data = bytearray(self.data)
        for mark, offset, new in edits:
            place = data.rindex(mark) if mark == END else data.index(mark)
            data[place + offset : place + offset + len(new)] = new
        return bytes(data)


# Archives, of any kind. ---------------------------------------------------------------------------


def archives(valid, large=False):
    """Name and bytes of hostile archives."""
    data, first = valid.data, valid.members[valid.first]
    header = header_of(first)
    end = data.rindex(END)
    yield "empty", b""
    yield "one byte", b"P"
    yield "half", data[: len(data) // 2]
    yield "a text", b"once upon a time\n" * 100
    yield "a pickle", pickle.dumps([Payload()])
    yield "zeros", bytes(10_000)
    yield "an empty zip", END + bytes(18)
    yield "bytes after the end", data + b"x"
    yield "another zip after the end", data + data
    yield "bytes before the beginning", b"x" + data
    yield "a program before the beginning", b"#!/bin/sh\ntouch executed\nexit\n" + data
    yield "a comment", data[:-2] + b"\5\0abcde"
    yield "a comment that is a zip", data[:-2] + struct.pack("<H", len(data)) + data
    yield "two of one name", _twice(valid)
    yield "meta twice", _twice(valid, "meta.json.npy")
    yield "an unknown array", valid.packed(("unknown.npy", first))
    yield "an unknown text", valid.packed(("README.txt", b"hello"))
    yield "a path as a name", valid.packed(("../../escaped.npy", first))
    yield "an absolute path as a name", valid.packed(("/tmp/escaped.npy", first))
    yield "a folder in it", valid.packed(("folder/", b""))
    yield "no meta", valid.packed(without=["meta.json.npy"])
    yield "without an array", valid.packed(without=[valid.first])
    yield "deflated", valid.packed(compression=zipfile.ZIP_DEFLATED)
    yield "bzip2", valid.packed(compression=zipfile.ZIP_BZIP2)
    yield "lzma", valid.packed(compression=zipfile.ZIP_LZMA)
    yield "a bomb", _bomb(valid, (1 << 30) if large else (1 << 27))
    yield "encrypted", valid.edited((LOCAL, 6, b"\1"), (CENTRAL, 8, b"\1"))
    yield "encrypted where it stands", valid.edited((LOCAL, 6, b"\1"))
    yield "sizes behind the data", valid.edited((LOCAL, 6, b"\x08"), (CENTRAL, 8, b"\x08"))
    yield "another name where it stands", valid.edited((LOCAL, 30, b"q"))
    yield "another name in the directory", valid.edited((CENTRAL, 46, b"q"))
    yield "another checksum", valid.edited((LOCAL, 14, b"abcd"), (CENTRAL, 16, b"abcd"))
    yield "another checksum where it stands", valid.edited((LOCAL, 14, b"abcd"))
    yield "a size of 4 GB", valid.edited((CENTRAL, 20, b"\xfe\xff\xff\xff" * 2))
    yield (
        "a size in a field that is not there",
        valid.edited((CENTRAL, 20, b"\xff\xff\xff\xff" * 2)),
    )
    yield "another start", valid.edited((CENTRAL, 42, b"\1"))
    yield "a start beyond the end", valid.edited((CENTRAL, 42, b"\xf0\xff\xff\xff"))
    yield "a second disk", valid.edited((END, 4, b"\1\0\1\0"))
    yield "more entries than there are", valid.edited((END, 8, b"\xf0\0\xf0\0"))
    yield "65535 entries", valid.edited((END, 8, b"\xff\xff\xff\xff"))
    yield "a directory of 4 GB", valid.edited((END, 12, b"\xff\xff\xff\xff"))
    yield "a directory elsewhere", valid.edited((END, 16, b"\1\0\0\0"))
    yield "a method that nobody knows", valid.edited((LOCAL, 8, b"c"), (CENTRAL, 10, b"c"))
    yield "overlapping", _overlapping(valid)
    yield "a gap", _with_gap(valid)
    yield "a gap between arrays", _with_gap_between(valid)
    yield "a comment that is not there", valid.edited((END, 20, b"\5\0"))
    yield "a long field in the directory", _with_extra(valid)
    yield "two ends", data[:end] + _end_64(data[end:], count=1 << 40) + data[end:]
    yield (
        "a long end that differs",
        data[:end] + _end_64(data[end:], place=end, count=1 << 40) + END + b"\0" * 4
        + b"\xff" * 12 + b"\0\0",
    )  # fmt: skip
    # arrays
    for name, array in {
        "objects": np.array([Payload()], object),
        "records": np.zeros(3, [("a", "f4"), ("b", "i8")]),
        "texts": np.array(["a", "b"]),
        "dates": np.zeros(3, "M8[s]"),
        "bytes": np.zeros(3, "S4"),
        "nothing": np.zeros(3, "V4"),
    }.items():
        yield f"an array of {name}", valid.with_array(npy(array))
    array = np.load(io.BytesIO(first))
    yield "an array in the other byte order", valid.with_array(npy(array.astype(">f4")))
    yield (
        "an array of whole numbers",
        valid.with_array(npy(np.full(array.shape, "1", "i4")[..., None])),
    )
    yield "an array of complex numbers", valid.with_array(npy(array.astype("c16")[..., None]))
    yield "an array of another shape", valid.with_array(npy(array[None, None]))
    yield "an array without numbers", valid.with_array(npy(array[:0]))
    yield "an array of format 2", valid.with_array(npy(array, (2, 0)))
    yield "an array of format 3", valid.with_array(npy(array, (3, 0)))
    for value in (np.nan, -np.inf, np.inf) if valid.kind == "checkpoint" else (np.nan,):
        other = np.array(array)
        other.flat[-1] = value
        yield f"an array with {value}", valid.with_array(npy(other))
    shape = header[header.index("'shape'") :]
    for new in (
        *("(-1,)", "(-3, -4)", f"({10**15},)", f"({10**30}, 0)", "(2, True)", "(1.0,)", "3", "()"),
        *("(" + "1, " * 5000 + ")", "(" * 200 + ")" * 200, "('a',)", "(0, 10000000000)"),
    ):
        other = header.replace(shape, f"'shape': {new}, }}")
        yield f"a shape {new:.30}", valid.with_array(with_header(first, other))
    for new in (
        *("{}", "[]", "1", "", "{'descr': '<f4'}", "__import__('os').system('touch executed')"),
        *(header[:-1] + "'more': 1, }", header.replace("'<f", "'<f9999"), "{" * 5000, "9" * 50_000),
        *(header.replace("False", "0"), header.replace("{", "{'descr': '|O', "), "\0" * 118),
    ):
        yield f"a header {new!r:.40}", valid.with_array(with_header(first, new))
    yield "an array that is cut", valid.with_array(first[:-1])
    yield "an array with more behind it", valid.with_array(first + b"\0")
    yield "an array that is empty", valid.with_array(b"")
    yield "an array that is a pickle", valid.with_array(pickle.dumps(Payload()))
    # metadata
    good = json.dumps(valid.meta)
    size = (512 << 20) if large else (40 << 20)
    yield "blanks in the metadata", valid.with_meta(good[:-1].encode() + b" " * size + b"}")
    fine = 8 << 20
    for name, text in {
        "nothing": "",
        "a list": "[]",
        "a number": "3",
        "null": "null",
        "a half": good[: len(good) // 2],
        "more behind it": good + "{}",
        "a key twice": good[:-1] + f', "format": "{valid.meta["format"]}"}}',
        "another format": good.replace(valid.meta["format"], "rnnfast checkpoint 99"),
        "a format that is a list": good.replace(f'"{valid.meta["format"]}"', "[1]"),
        "an unknown field": good[:-1] + ', "unknown": 1}',
        "brackets": good[:-1] + ', "x": [' + "[]," * (fine // 3) + "0]}",
        "brackets in brackets": good[:-1] + ', "x": ' + "[" * 100_000 + "]" * 100_000 + "}",
        "a long number": good[:-1] + ', "x": ' + "9" * fine + "}",
        "a long text": good[:-1] + ', "x": "' + "9" * fine + '"}',
        "many names": good[:-1] + "".join(f', "{k}": {k}' for k in range(200_000)) + "}",
        "UTF-16": good.encode("utf-16"),
        "no UTF-8": good.encode()[:-1] + b', "\xff": 1}',
        "a mark before it": "\ufeff" + good,
    }.items():
        yield f"metadata: {name}", valid.with_meta(text)
    floats = npy(np.frombuffer(good.encode(), np.uint8).astype("f4"))
    yield "metadata of floats", valid.packed(members={"meta.json.npy": floats})


def _twice(valid, name=None):
    """A second member of a name, with other weights."""
    name = name or valid.first
    other = bytearray(valid.members[name])
    other[-1] ^= 1
    # zipfile warns of a name that is there twice: so it gets another one first
    data = valid.packed((name[:-1] + "?", bytes(other)))
    return data.replace((name[:-1] + "?").encode(), name.encode())


def _bomb(valid, size):
    """A member of many zeros, which are few bytes."""
    packer = zlib.compressobj(1, zlib.DEFLATED, -15)
    begin = npy(np.zeros(0, "f4")).replace(b"(0,), }", b"(%d,), }" % (size // 4), 1)
    chunk, crc = bytes(1 << 20), zlib.crc32(begin)
    parts = [packer.compress(begin)]
    for _ in range(size >> 20):
        parts.append(packer.compress(chunk))
        crc = zlib.crc32(chunk, crc)
    packed = b"".join([*parts, packer.flush()])
    return _appended(valid.data, b"bomb.npy", packed, len(begin) + size, crc, method=8)


def _appended(data, name, packed, size, crc, method=0):
    """A zip file with one more member."""
    end = data.rindex(END)
    count, length, start = struct.unpack_from("<HII", data, end + 10)
    common = struct.pack("<5H3I2H", 20, 0, method, 0, 33, crc, len(packed), size, len(name), 0)
    entry = CENTRAL + struct.pack("<H", 20) + common + struct.pack("<3H2I", 0, 0, 0, 0, start)
    members = data[:start] + LOCAL + common + name + packed
    directory = data[start:end] + entry + name
    count, length = count + 1, length + len(entry) + len(name)
    return (
        members
        + directory
        + END
        + struct.pack("<4H2IH", 0, 0, count, count, length, len(members), 0)
    )


def _overlapping(valid):
    """The last entry of the directory leads to the first member."""
    data = bytearray(valid.data)
    data[(place := data.rindex(CENTRAL)) + 42 : place + 46] = bytes(4)
    return bytes(data)


def _with_gap(valid):
    """Bytes before the directory that belong to nothing."""
    data = valid.data
    end = data.rindex(END)
    (start,) = struct.unpack_from("<I", data, end + 16)
    gap = b"nobody reads this"
    moved = struct.pack("<I", start + len(gap))
    return data[:start] + gap + data[start : end + 16] + moved + data[end + 20 :]


def _with_gap_between(valid):
    """Bytes before the last member that belong to nothing."""
    data = valid.data
    last, end = data.rindex(LOCAL), data.rindex(END)
    gap, entry = b"nobody reads this", data.rindex(CENTRAL)
    (start,) = struct.unpack_from("<I", data, end + 16)
    moved = bytearray(data[:last] + gap + data[last:])
    struct.pack_into("<I", moved, entry + len(gap) + 42, last + len(gap))
    struct.pack_into("<I", moved, end + len(gap) + 16, start + len(gap))
    return bytes(moved)


def _with_extra(valid):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in valid.members.items():
            info = zipfile.ZipInfo(name)
            info.extra = struct.pack("<2H", 0x7075, 4) + b"abcd"
            archive.writestr(info, data)
    return file.getvalue()


def _end_64(end, place=0, **changed):
    count, length, start = struct.unpack_from("<HII", end, 10)
    count = changed.get("count", count)
    return struct.pack("<4sQ2H2I4Q", b"PK\6\6", 44, 45, 45, 0, 0, count, count, length, start) + (
        struct.pack("<4sIQI", b"PK\6\7", 0, place, 1)
    )


# Fields of the metadata. --------------------------------------------------------------------------

HUGE = 10**400
COUNTS = ("hidden", "embedding", "layers", "batch", "time", "accumulate", "epochs")
STATE = ("random_state", "state")
RECORD = ("position", "history", 0)


def fields_of_checkpoints(meta):
    """Keys of fields, and the values that they must not have; `...` is none."""
    yield ("settings", "hidden"), 12_000
    yield ("settings", "layers"), 100_000
    for name in COUNTS:
        for value in (HUGE, 0, -1, "8", 1.5, None, True, [8], ...):
            yield ("settings", name), value
    for name in ("window", "patience"):
        for value in (HUGE, 0, "8", [], ...):
            yield ("settings", name), value
    for name in ("dropout", "weight_drop", "zoneout"):
        for value in (-1, 1, HUGE, "0.1", None, float("nan"), ...):
            yield ("settings", name), value
    for value in (-1, 0, HUGE, "1", None, float("nan"), float("inf"), [], ...):
        yield ("settings", "lr"), value
    for name in ("cell", "optimizer", "schedule", "level", "init", "dtype"):
        for value in ("unknown", 3, None, [], {}, ...):
            yield ("settings", name), value
    for value in ("unknown", "bfloat16", 3, [], {}):
        yield ("settings", "precision"), value
    for value in (3, [], {}, True, ...):
        yield ("settings", "text"), value
    yield ("settings", "unknown"), 1
    yield ("settings", "dtype"), "float64"
    for name in meta["settings"]:
        yield ("settings", name), ...
        yield ("settings", name), {"a": [HUGE]}
    for value in (HUGE, "3", -1, 1.5, None, True, [], ...):
        for name in ("epoch", "block", "step", "optimizer_steps", "earlier"):
            yield ("position", name), value
    for value in (-1, HUGE, "1", None, float("nan"), float("inf"), [], ...):
        yield ("position", "lr"), value
        yield ("position", "peak_lr"), value
    for value in ("x", [], {}, HUGE, True, ...):
        yield ("position", "best_loss"), value
    for value in (
        ["a", "b", "c"],
        [],
        [1, 2],
        [1, 2, 3, 4],
        "abc",
        None,
        [1.0, -5, 1.0],
        [1.0, 5, -1e9],
        [HUGE] * 3,
        [[]] * 3,
        ...,
    ):
        yield ("position", "record"), value
    yield ("position", "history"), []
    yield ("context",), [0]
    yield ("position", "unknown"), 1
    for value in (["carried/recurrent.9/0"], ["a"] * 9, "a", [[]], [3], None, {}, ...):
        yield ("position", "carried"), value
    for value in (None, [], 3, "x", {"unknown": {}}, ...):
        yield ("position", "random_state"), value
    for name in meta["position"]["random_state"]:
        of_layer = ("position", "random_state", name)
        for value in (-1, HUGE, "3", 1.5, 0.9, True, None, [], ...):
            for keys in (("state", "state"), ("state", "inc"), ("has_uint32",), ("uinteger",)):
                yield (*of_layer, *keys), value
        yield (*of_layer, "has_uint32"), 7
        yield (*of_layer, "unknown"), 1
        yield (*of_layer, "state", "unknown"), 1
    for value in (0, 3, -(2**63), None, 1.5, True, "x", []):
        yield ("model", "affine", "ignore_label"), value
    for name in ("settings", "vocabulary", "position", "random_state"):
        for value in (None, [], {}, 3, "x", ...):
            yield (name,), value
    for value in (None, "x", [], ["a"], [""] * 9, [3], {}, ...):
        yield ("vocabulary", "tokens"), value
    for value in ("word", "unknown", None, 3, ...):
        yield ("vocabulary", "level"), value
    yield ("vocabulary", "tokens", 0), "aa"
    yield ("vocabulary", "unknown"), 1
    for value in (None, 3, "", "x" * 64, "0" * 63, ["0"] * 64, ...):
        yield ("sha256",), value
    for value in ("x", -1, 1.5, HUGE, [], ...):
        yield ("text_bytes",), value
    for value in (None, [], 3, ...):
        yield ("model",), value
    for key in meta["model"]:
        for value in (None, 3, "x", [3], [None], [[]], {"a": 1}, [{"unknown": 1}]):
            yield ("model", key), value
    for value in ("MT19937", "os.system", 3, None, ...):
        yield ("random_state", "bit_generator"), value
    for value in (-1, HUGE, "3", 1.5, None, [], ...):
        yield (*STATE, "state"), value
        yield (*STATE, "inc"), value
        yield ("random_state", "has_uint32"), value
        yield ("random_state", "uinteger"), value
    yield (*STATE, "unknown"), 1
    yield ("unknown",), 1


def fields_of_version_3(meta):
    for value in (-1, HUGE, "1", None, float("nan"), float("inf"), [], ...):
        yield (*RECORD, "lr"), value
        yield (*RECORD, "epoch"), value
    for value in ("x", [], {}, HUGE, True, ...):
        for name in ("train_loss", "valid_loss", "valid_perplexity", "tokens_per_second"):
            yield (*RECORD, name), value
    yield (*RECORD, "step"), 2**60
    for value in ({}, [{}], [[]], [None], "x", 3, None, ...):
        yield ("position", "history"), value
    yield (*RECORD, "unknown"), 1
    ids = [-1], [10**6], [HUGE], ["a"], [1.5], [[0]], [None], [True], [], None, {}, "x", ...
    for value in ids:
        yield ("context",), value


def arrays_of_checkpoints(valid):
    """Name and bytes of files with an array, besides those of the model, that is wrong."""
    history = np.load(io.BytesIO(valid.members["history.npy"]))
    wrong = {
        "history": [history[:, :-1], history[0], history.astype("f4")],
        "context": [np.zeros((1, 1), "i8"), np.zeros(3), np.ones(2, "?")],
    }
    wrong["context"] += [np.array([value]) for value in (-1, 10**6)]
    for name, values in {
        "epoch": (-1, np.nan, np.inf),
        "step": (-1, 0.5, 2.0**60, np.nan, np.inf),
        "lr": (-1, np.nan, np.inf),
        "tokens_per_second": (-1, np.nan, np.inf),
    }.items():
        for value in values:
            wrong["history"].append(history.copy())
            wrong["history"][-1][-1, COLUMNS.index(name)] = value
    for name, arrays in wrong.items():
        yield f"no {name}", valid.packed(without=[f"{name}.npy"])
        for k, array in enumerate(arrays):
            yield f"{name} {k}", valid.packed(members={f"{name}.npy": npy(array)})


def texts_of_checkpoints(folder):
    """Paths of texts that a checkpoint may name, which are not those that it was trained on."""
    (folder / "a folder").mkdir()
    os.mkfifo(folder / "a pipe")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(os.path.relpath(folder / "a socket"))
    (folder / "a secret").write_text("hunter2 " * 1000)
    (folder / "a secret without end").write_bytes(b"")
    os.truncate(folder / "a secret without end", 1 << 40)
    (folder / "a link to a device").symlink_to("/dev/zero")
    (folder / "a loop").symlink_to(folder / "a loop")
    names = ("a folder", "a pipe", "a socket", "a secret", "a secret without end", "missing")
    names += ("a link to a device", "a loop")
    devices = "/dev/zero", "/dev/random", "/dev/stdin", "/dev/null", "/dev/tty"
    return [*(str(folder / name) for name in names), *devices, "//server/share", "a\0b", "a" * 9999]


def fields_of_models(meta):
    for name in ("class", "config", "tied"):
        for value in (None, [], 3, "os.system", HUGE, {"a": 1}, ...):
            yield (name,), value
    yield ("unknown",), 1
    yield ("config", "unknown"), 1
    yield ("class",), "Network"
    yield ("class",), "SequenceRegressor"
    yield ("config", "recurrent"), [{}] * 100_000
    for key in meta["config"]:
        for value in (None, HUGE, "x", [3], [None], {"a": 1}):
            yield ("config", key), value


def of_fields(valid):
    """Name and bytes of files with a field that is wrong."""
    if valid.kind == "checkpoint":
        yield from _with_fields(valid, fields_of_checkpoints)
        yield from _with_fields(valid.in_version_3(), fields_of_version_3)
        yield from arrays_of_checkpoints(valid)
    elif valid.kind == "model":
        yield from _with_fields(valid, fields_of_models)


def _with_fields(valid, fields):
    for keys, value in fields(valid.meta):
        shown = "missing" if value is ... else f"{value!r:.24}"
        place = valid.meta
        for key in keys[:-1]:
            place = place[key]
        there = (keys[-1] in place) if isinstance(place, dict) else True
        if (value is ... and not there) or (there and place[keys[-1]] == value):
            continue
        yield f"{'.'.join(map(str, keys))}: {shown}", valid.with_field(keys, value)


# Things in the place of files. --------------------------------------------------------------------


def a_pipe(path):
    os.mkfifo(path)


def a_socket(path):
    with tempfile.TemporaryDirectory() as short, socket.socket(socket.AF_UNIX) as bound:
        bound.bind(f"{short}/s")  # the path of a socket may have some 100 characters
        os.rename(f"{short}/s", path)


def a_folder(path):
    Path(path).mkdir()


def a_device(path):
    Path(path).symlink_to("/dev/zero")


def a_loop(path):
    Path(path).symlink_to(path)


def a_file_of_a_terabyte(path):
    """Which has no blocks on the disk."""
    Path(path).touch()
    os.truncate(path, 1 << 40)


PLACES = (a_pipe, a_socket, a_folder, a_device, a_loop, a_file_of_a_terabyte)


def valid_files(folder):
    """A small file of each kind, by kind; a run whose checkpoint is one stays in the folder."""
    import rnnfast
    from rnnfast.textbook.base_model import BaseModel

    class Model(BaseModel):
        def __init__(self):
            self.params = [np.ones((3, 4), "f4"), np.arange(5, dtype="f4")]

    folder = Path(folder)
    (folder / "text.txt").write_text(TEXT)
    settings = rnnfast.Settings(
        folder / "text.txt", hidden=3, embedding=2, batch=2, time=5, epochs=2, dropout=0.1
    )
    run = rnnfast.Run.start(folder / "run", settings, verbose=False)
    with contextlib.suppress(rnnfast.TrainingInterrupted):  # within the second epoch
        run.fit(verbose=False, stop=lambda: run.trainer.step == 40)
    run.trainer.best_loss = float("inf")  # else last.npz alone is not enough to sample
    run.save()
    rnnfast.Rnnlm(7, 3, 4, rng=0).save(folder / "model.npz")
    Model().save_params(folder / "Model.pkl")
    files = {"checkpoint": "run/last.npz", "model": "model.npz", "parameters": "Model.pkl"}
    return {kind: Valid(kind, (folder / name).read_bytes()) for kind, name in files.items()}


def main(folder):
    with tempfile.TemporaryDirectory() as scratch:
        valid = valid_files(scratch)
    for kind in KINDS:
        (place := Path(folder, kind)).mkdir(parents=True)
        for name, data in [*archives(valid[kind], large=True), *of_fields(valid[kind])]:
            safe = "".join(c if c.isalnum() or c in " -.:" else "_" for c in name)
            (place / safe).write_bytes(data)
        for make in PLACES:
            make(place / make.__name__.replace("_", " "))


if __name__ == "__main__":
    main(*sys.argv[1:])
