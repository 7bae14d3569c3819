"""Files are whole or not there, and nothing in them is executed."""

import os
import pickle

import numpy as np
import pytest

from rnnfast.archive import load_archive, save_archive, write_atomically
from rnnfast.errors import InputError


def test_round_trip(tmp_path):
    path = tmp_path / "a.npz"
    arrays = {"param/0": np.arange(6.0).reshape(2, 3), "f": np.float32([1.5, np.nan])}
    save_archive(path, "checkpoint", arrays, {"big": 2**100, "text": "ß"})
    version, loaded, meta = load_archive(path, "checkpoint")
    assert (version, meta) == (2, {"big": 2**100, "text": "ß"})
    assert loaded.keys() == arrays.keys()
    for name, array in arrays.items():
        assert loaded[name].dtype == array.dtype
        np.testing.assert_array_equal(loaded[name], array)
    assert os.listdir(tmp_path) == ["a.npz"]


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
    with pytest.raises(InputError, match="another version"):
        load_archive(tmp_path / "newer.npz", "checkpoint")
