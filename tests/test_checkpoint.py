"""Files are whole or not there, and nothing in them is executed."""

import errno
import io
import os
import pickle
import socket
import stat
import struct
import zipfile
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest

from rnnfast import archive
from rnnfast._files import require_replaceable
from rnnfast.archive import MESSAGE_MOST, damage, load_archive, save_archive, write_atomically
from rnnfast.errors import InputError


def test_round_trip(tmp_path):
    path = tmp_path / "a.npz"
    arrays = {"param/0": np.arange(6.0).reshape(2, 3), "f": np.float32([1.5, np.nan])}
    save_archive(path, "checkpoint", arrays, {"big": 2**100, "text": "ß"})
    version, loaded, meta = load_archive(path, "checkpoint")
    assert (version, meta) == (4, {"big": 2**100, "text": "ß"})
    assert loaded.keys() == arrays.keys()
    for name, array in arrays.items():
        assert loaded[name].dtype == array.dtype
        np.testing.assert_array_equal(loaded[name], array)
    assert os.listdir(tmp_path) == ["a.npz"]


def test_names_of_any_letters_and_paths_as_text(tmp_path):
    arrays = {"ß/ω": np.arange(3.0), "W": np.ones(2)}
    save_archive(str(tmp_path / "ß.npz"), "checkpoint", arrays, {})
    loaded = load_archive(str(tmp_path / "ß.npz"), "checkpoint")[1]
    assert loaded.keys() == arrays.keys()
    np.testing.assert_array_equal(loaded["ß/ω"], arrays["ß/ω"])


def test_what_is_missing_in_a_file_is_named():
    says = "a is no model, or is damaged"
    with pytest.raises(InputError, match=rf"^{says}: 'config' is missing$"), damage("a", "model"):
        raise KeyError("config")
    with pytest.raises(InputError, match=rf"^{says}: too small$"), damage("a", "model"):
        raise ValueError("too small")
    for message, end in [("m" * MESSAGE_MOST, "m"), ("m" * MESSAGE_MOST + "n", "m ...")]:
        with pytest.raises(InputError) as caught, damage("a", "model"):
            raise ValueError(message)
        assert str(caught.value) == f"{says}: {message[: MESSAGE_MOST - 1]}{end}"


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"old")

    def write(file):
        file.write(b"half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, write)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_what_a_killed_process_left_is_overwritten(tmp_path):
    (tmp_path / ".a.txt.partial").write_bytes(b"much longer than what comes now")
    write_atomically(tmp_path / "a.txt", lambda file: file.write(b"new"))
    assert (tmp_path / "a.txt").read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["a.txt"]


class _Payload:
    """Unpickling this makes a folder."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (self.folder,)


def test_pickles_are_not_executed(tmp_path):
    folder = str(tmp_path / "executed")
    plain, inside = tmp_path / "plain.npz", tmp_path / "inside.npz"
    plain.write_bytes(pickle.dumps(_Payload(folder)))
    np.savez(inside, **{"meta.json": np.array([_Payload(folder)], object)})
    for path in (plain, inside):
        with pytest.raises(InputError, match="no checkpoint"):
            load_archive(path, "checkpoint")
    assert not os.path.exists(folder)


@pytest.mark.parametrize("keep", [0, 1, 100, -30])
def test_a_cut_file_is_an_error(tmp_path, keep):
    path = tmp_path / "a.npz"
    save_archive(path, "checkpoint", {"x": np.arange(100.0)}, {})
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match=r"a\.npz is (no checkpoint|damaged)"):
        load_archive(path, "checkpoint")


@pytest.mark.parametrize("offset", [6, 8])  # flags, and the way of compression
def test_a_zip_that_nobody_can_read(tmp_path, offset):
    path = tmp_path / "a.npz"
    save_archive(path, "checkpoint", {"x": np.arange(100.0)}, {})
    data = bytearray(path.read_bytes())
    for place in (offset, data.index(b"PK\x01\x02") + offset + 2):
        data[place] = 0x61
    path.write_bytes(data)
    with pytest.raises(InputError, match="damaged"):
        load_archive(path, "checkpoint")


def test_a_flipped_bit_is_an_error(tmp_path):
    path = tmp_path / "a.npz"
    save_archive(path, "checkpoint", {"x": np.arange(100.0)}, {})
    data = bytearray(path.read_bytes())
    data[data.index(np.float64(50).tobytes()) + 6] ^= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match="damaged"):
        load_archive(path, "checkpoint")


def test_other_files_are_errors(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        load_archive(tmp_path / "none.npz", "checkpoint")
    np.savez(tmp_path / "other.npz", x=np.arange(3))
    with pytest.raises(InputError, match="no checkpoint"):
        load_archive(tmp_path / "other.npz", "checkpoint")
    newer = np.frombuffer(b'{"format": "rnnfast checkpoint 99"}', np.uint8)
    np.savez(tmp_path / "newer.npz", **{"meta.json": newer})
    message = (
        r"another version of rnnfast: expected the format .*checkpoint 1' or .*checkpoint 4'.*99"
    )
    with pytest.raises(InputError, match=message):
        load_archive(tmp_path / "newer.npz", "checkpoint")


@pytest.mark.parametrize(
    "array",
    [np.float64(3), np.zeros((0, 3)), np.arange(6).reshape(2, 3).T, np.arange(3, dtype=">f8")],
    ids=["scalar", "empty", "Fortran", "big-endian"],
)
def test_arrays_of_all_kinds_come_back(tmp_path, array):
    save_archive(tmp_path / "a", "checkpoint", {"x": np.asarray(array)}, {})
    loaded = load_archive(tmp_path / "a", "checkpoint")[1]["x"]
    np.testing.assert_array_equal(loaded, array)
    assert loaded.shape == np.shape(array)
    assert loaded.flags.writeable
    assert loaded.dtype.isnative
    assert loaded.flags.f_contiguous == np.asarray(array).flags.f_contiguous


def _archive(path, *members, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in members:
            archive.writestr(name, data)


def _npy(array, shape=None):
    """An .npy file, whose header may say another shape."""
    file = io.BytesIO()
    header = {"descr": array.dtype.str, "fortran_order": False, "shape": shape or array.shape}
    np.lib.format.write_array_header_1_0(file, header)
    return file.getvalue() + array.tobytes()


META = ("meta.json.npy", _npy(np.frombuffer(b'{"format": "rnnfast checkpoint 4"}', np.uint8)))


@pytest.mark.parametrize("shape", [(10**15,), (3, 10**15), (2,), (-7, 1), (-3, -1)])
def test_an_array_that_says_it_has_another_size(tmp_path, shape):
    """Nothing is allocated by what a header says."""
    path = tmp_path / "a.npz"
    _archive(path, META, ("x.npy", _npy(np.arange(3.0), shape)))
    with pytest.raises(
        InputError, match=r"damaged: x: (an array of 24 bytes says that it has shape|its header)"
    ):
        load_archive(path, "checkpoint")


def test_a_small_file_that_unpacks_to_a_large_one(tmp_path):
    path = tmp_path / "a.npz"
    _archive(path, META, ("x.npy", _npy(np.zeros(10**6))), compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(InputError, match="it is compressed"):
        load_archive(path, "checkpoint")


@pytest.mark.parametrize("where", ["entry", "end", "mark", "part"])
def test_a_zip_with_more_in_it_than_arrays(tmp_path, where):
    """Nothing is passed over: comments, marks of other things, entries of other parts."""
    path, (name, data) = tmp_path / "a.npz", META
    with zipfile.ZipFile(path, "w") as archive:
        entry = zipfile.ZipInfo(name)
        entry.comment = b"more" if where == "entry" else b""
        archive.writestr(entry, data)
        archive.comment = b"more" if where == "end" else b""
    content = bytearray(path.read_bytes())
    begin = content.index(b"PK\1\2")
    if where == "mark":
        content[begin + 3] ^= 1
    if where == "part":
        content[begin + 34] ^= 1  # the number of the disk
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"is no checkpoint, or is damaged: it"):
        load_archive(path, "checkpoint")


def test_two_arrays_of_one_name(tmp_path):
    path = tmp_path / "a.npz"
    with pytest.warns(UserWarning, match="Duplicate name"):
        _archive(path, META, *[("x.npy", _npy(np.zeros(1)))] * 2)
    with pytest.raises(InputError, match="two arrays of one name"):
        load_archive(path, "checkpoint")


@pytest.mark.parametrize("limit", [300, 700, 10**4])
def test_what_is_larger_than_4_gb_is_read(tmp_path, monkeypatch, limit):
    """As if numbers of four bytes ended there: then longer ones stand elsewhere."""
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", limit)
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 3)
    path = tmp_path / "a.npz"
    arrays = {str(k): np.arange(50.0 * k) for k in range(5)}
    save_archive(path, "checkpoint", arrays, {"a": 1})
    data = path.read_bytes()
    assert b"PK\6\6" in data
    _, loaded, meta = load_archive(path, "checkpoint")
    assert meta == {"a": 1}
    for name, array in arrays.items():
        np.testing.assert_array_equal(loaded[name], array, strict=True)
    place = data.index(b"PK\6\6")
    for k in range(place, len(data)):
        if k - place in range(12, 16):
            continue  # which versions of zip wrote it, and can read it
        path.write_bytes(data[:k] + bytes([data[k] ^ 1]) + data[k + 1 :])
        with pytest.raises(InputError, match="is no checkpoint, or is damaged"):
            load_archive(path, "checkpoint")


def test_what_python_before_3_11_4_has_written_is_read(tmp_path):
    """Its local headers have sizes twice, in fields of four bytes and of eight."""
    path = tmp_path / "a.npz"
    arrays = {"x": np.arange(50.0), "y": np.ones(3, "f4")}
    save_archive(path, "checkpoint", arrays, {"a": 1})
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        headers = [(info.header_offset, info.file_size) for info in archive.infolist()]
    for at, size in headers:
        twice = struct.pack("<2L", size, size)
        assert data[at + 18 : at + 26] in (b"\xff" * 8, twice)
        data[at + 18 : at + 26] = twice
    path.write_bytes(data)
    _, loaded, meta = load_archive(path, "checkpoint")
    assert meta == {"a": 1}
    for name, array in arrays.items():
        np.testing.assert_array_equal(loaded[name], array, strict=True)
    for at, _ in headers:
        for k in range(at + 18, at + 26):
            path.write_bytes(data[:k] + bytes([data[k] ^ 1]) + data[k + 1 :])
            with pytest.raises(InputError, match="has fields that are not known"):
                load_archive(path, "checkpoint")


def test_bools_of_other_bytes(tmp_path):
    """Which NumPy would count as it likes."""
    path = tmp_path / "a.npz"
    save_archive(path, "checkpoint", {"x": np.array([True, False])}, {})
    assert load_archive(path, "checkpoint")[1]["x"].tolist() == [True, False]
    header = _npy(np.array([True, False]))
    _archive(path, META, ("x.npy", header[:-2] + b"\1\2"))
    with pytest.raises(InputError, match="damaged: x: expected bools"):
        load_archive(path, "checkpoint")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes with a name here")
def test_what_is_no_file_is_not_opened(tmp_path, monkeypatch):
    """Opening a device may do something."""
    os.mkfifo(tmp_path / "a")
    monkeypatch.setattr("os.open", lambda *_: 1 / 0)
    with pytest.raises(InputError, match="a is a pipe, and only regular files are read; write"):
        load_archive(tmp_path / "a", "checkpoint")


def test_objects_are_not_written(tmp_path):
    with pytest.raises(TypeError, match="x: expected an array of numbers, got dtype object"):
        save_archive(tmp_path / "a", "checkpoint", {"x": np.array([None])}, {})
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="POSIX has such files")
@pytest.mark.parametrize("linked", [False, True])
@pytest.mark.parametrize("kind", ["device", "pipe", "socket", "folder"])
def test_what_is_no_file_is_not_replaced(kind, linked, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # names of sockets are short
    if kind == "device":
        if os.geteuid() or not hasattr(os, "makedev"):
            pytest.skip("only root makes devices")
        try:
            os.mknod("a", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        except PermissionError:
            pytest.skip("root may make no devices here")
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as made:
            made.bind("a")
    else:
        (os.mkfifo if kind == "pipe" else os.mkdir)("a")
    os.symlink("a", "link")
    path, before = "link" if linked else "a", os.lstat("a")
    if linked:  # the link alone is lost
        write_atomically(path, lambda file: file.write(b"new"))
        assert os.path.isfile("link")
    else:
        expected = f"^a is a {kind}, expected a file; move it, or give another name$"
        with pytest.raises(InputError, match=expected):
            write_atomically(path, lambda file: pytest.fail("it was written"))
    assert os.path.samestat(os.lstat("a"), before)
    assert sorted(os.listdir()) == ["a", "link"]


@pytest.mark.skipif(not os.path.islink("/dev/stdout"), reason="the system has no /dev/stdout")
@pytest.mark.parametrize("path", ["/dev/stdout", "/dev/../dev/stdout", "/proc/../dev/stderr"])
def test_links_among_devices_are_not_replaced(path):
    """Wherever they lead; nothing is written here, since that would harm the machine."""
    with pytest.raises(InputError, match=f"^{path} is a device, expected a file"):
        require_replaceable(Path(path))


def test_a_link_is_replaced(tmp_path):
    (tmp_path / "file").write_bytes(b"old")
    for to in ("file", "missing", "link"):
        (tmp_path / "link").symlink_to(to)
        write_atomically(tmp_path / "link", lambda file: file.write(b"new"))
        assert not (tmp_path / "link").is_symlink()
        (tmp_path / "link").unlink()
    assert (tmp_path / "file").read_bytes() == b"old"


@pytest.mark.parametrize(
    ("path", "says"),
    [("", r"\. is a folder, expected a file"), ("a\0b", r"'a\\x00b' is no path: .*null")],
)
def test_names_that_are_no_path(path, says):
    with pytest.raises(InputError, match=says):
        write_atomically(path, lambda file: file.write(b"new"))


@pytest.mark.skipif(os.name != "posix", reason="POSIX has such permissions")
def test_permissions_stay(tmp_path):
    """From the first byte on."""
    path = tmp_path / "a"
    path.write_bytes(b"old")

    def mode(path):
        return stat.S_IMODE(path.stat().st_mode)

    def write(file):
        file.write(b"new")
        assert mode(Path(file.name)) == expected

    for given, expected in [(0o600, 0o600), (0o664, 0o664), (0o440, 0o640)]:
        path.chmod(given)
        write_atomically(path, write)
        assert mode(path) == expected
    (tmp_path / "link").symlink_to("a")
    write_atomically(tmp_path / "link", write)
    assert mode(tmp_path / "link") == expected
    (tmp_path / "other").touch()
    expected = mode(tmp_path / "other")
    write_atomically(tmp_path / "new", write)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="root gives files away")
@pytest.mark.parametrize("refused", [False, True])
def test_owner_and_group_stay(tmp_path, monkeypatch, refused):
    """Where the group cannot stay, another gets none of what it had."""
    path = tmp_path / "a"
    path.write_bytes(b"old")
    path.chmod(0o664)
    os.chown(path, 65534, 65534)
    if refused:

        def fchown(*_):
            raise PermissionError

        monkeypatch.setattr(os, "fchown", fchown)
    write_atomically(path, lambda file: file.write(b"new"))
    found = path.stat()
    expected = (0, 0, 0o604) if refused else (65534, 65534, 0o664)
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == expected


@pytest.mark.skipif(os.name != "posix", reason="POSIX has such permissions")
def test_nobody_else_can_open_what_replaces_a_private_file(tmp_path, monkeypatch):
    """Even before it has its own permissions."""
    path, seen = tmp_path / "a", []
    path.write_bytes(b"old")
    path.chmod(0o600)
    lock = archive.try_lock

    def try_lock(file, **options):
        seen.append(stat.S_IMODE(os.fstat(file.fileno()).st_mode))
        return lock(file, **options)

    monkeypatch.setattr(archive, "try_lock", try_lock)
    write_atomically(path, lambda file: file.write(b"new"))
    assert seen == [0o600]


@pytest.mark.skipif(os.name != "posix", reason="elsewhere folders are not synced")
@pytest.mark.parametrize("refused", ["EACCES", "EINVAL", "EIO"])
def test_a_folder_that_cannot_be_synced(tmp_path, monkeypatch, refused):
    """As one that others may write into, but not look at."""
    error, before = OSError(getattr(errno, refused), "refused"), os.open

    def opened(path, *args, **kwargs):
        if path == tmp_path:
            raise error
        return before(path, *args, **kwargs)

    monkeypatch.setattr("os.open", opened)
    raised = pytest.raises(OSError, match="refused") if refused == "EIO" else nullcontext()
    with raised:
        write_atomically(tmp_path / "a", lambda file: file.write(b"new"))
    assert (tmp_path / "a").read_bytes() == b"new"
