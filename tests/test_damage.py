"""Files that are damaged, cut, or could not be written: none is taken for what it was, and what was
there before a save that failed is still there.

RNNFAST_LONG=1 tries 10,000 bits and every length, RNNFAST_SEED=N others.
"""

import errno
import os
import random
import tracemalloc

import numpy as np
import pytest
from forms import LONG, SEED, form
from hostile import make

import rnnfast
from rnnfast.archive import load_archive, save_archive
from rnnfast.textbook.base_model import BaseModel

pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the gallery is of POSIX")

FLIPS, STRIDE = form((300, 97), (10_000, 1))
FILES = {"checkpoint": "run/last.npz", "model": "model.npz", "parameters": "Model.pkl"}


class Model(BaseModel):
    def __init__(self):
        self.params = [np.full((3, 4), 7.0, "f4"), np.full(5, 7.0, "f4")]

    @classmethod
    def read(cls, path):
        model = cls()
        model.load_params(path)
        return model


READERS = {
    "checkpoint": lambda path: rnnfast.Run.resume(path.parent, text="text.txt", verbose=False),
    "model": rnnfast.Network.load,
    "parameters": Model.read,
}
every_kind = pytest.mark.parametrize("kind", make.KINDS)


@pytest.fixture(scope="module")
def valid(tmp_path_factory):
    return make.valid_files(tmp_path_factory.mktemp("valid"))


@pytest.fixture
def outcome(tmp_path, valid, monkeypatch):
    """What becomes of a damaged file: "refused", "same" where all that is read is as it was, or
    what is wrong."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text(make.TEXT)
    (tmp_path / "run").mkdir()

    def content(kind, path):
        version, arrays, meta = load_archive(path, kind)
        return version, {k: (v.dtype, v.shape, v.tobytes()) for k, v in arrays.items()}, meta

    def outcome(kind, data):
        path = tmp_path / FILES[kind]
        if kind not in good:
            path.write_bytes(valid[kind].data)
            good[kind] = content(kind, path)
        path.write_bytes(data)
        try:
            tracemalloc.start()
            READERS[kind](path)
        except rnnfast.InputError as error:
            if str(path) not in str(error):
                return f"does not name the file: {error}"
            if tracemalloc.get_traced_memory()[1] > len(data) + make.MEMORY:
                return "takes too much memory"
            return "refused"
        except Exception as error:
            return f"raises {error!r}"
        finally:
            tracemalloc.stop()
        return "same" if content(kind, path) == good[kind] else "silently something else"

    good = {}
    return outcome


def count(outcomes):
    found = {}
    for one in outcomes:
        found[one] = found.get(one, 0) + 1
    return found


@every_kind
def test_a_bit_that_flips(kind, valid, outcome, capsys):
    """In a field that says nothing, such as the version of the program that wrote it, it may."""
    rng, data = random.Random(SEED), valid[kind].data
    outcomes = []
    for _ in range(FLIPS):
        flipped = bytearray(data)
        flipped[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        outcomes.append(outcome(kind, flipped))
    found = count(outcomes)
    with capsys.disabled():
        if LONG:
            print(f"\n{kind}: {FLIPS:,} flips of a bit in {len(data):,} bytes: {found}")
    assert found.keys() <= {"refused", "same"}
    assert found["refused"] > FLIPS / 2


@every_kind
def test_every_length(kind, valid, outcome, capsys):
    data = valid[kind].data
    lengths = range(SEED % STRIDE, len(data), STRIDE)
    found = count(outcome(kind, data[:length]) for length in lengths)
    with capsys.disabled():
        if LONG:
            print(f"\n{kind}: {len(lengths):,} lengths: {found}")
    assert found.keys() == {"refused"}
    assert outcome(kind, data) == "same"


# Disks that are full. -----------------------------------------------------------------------------


@pytest.fixture
def limited():
    """Sets how large files may become."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(
        resource.RLIMIT_FSIZE, (soft if size is None else size, hard)
    )
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def savers(tmp_path):
    """What saves, by kind, and where."""
    (tmp_path / "text.txt").write_text(make.TEXT)
    settings = rnnfast.Settings(
        tmp_path / "text.txt", hidden=64, embedding=64, batch=2, time=5, epochs=1
    )
    run = rnnfast.Run.start(tmp_path / "run", settings, verbose=False)
    run.fit(verbose=False)
    book = Model()
    book.params = [np.ones((100, 1000), "f4")]
    model = rnnfast.Rnnlm(50, 64, 64, rng=0)
    (tmp_path / "model").mkdir()
    (tmp_path / "book").mkdir()
    return {
        "checkpoint": (run.save, tmp_path / "run" / "last.npz"),
        "model": (lambda: model.save(tmp_path / "model" / "a"), tmp_path / "model" / "a"),
        "parameters": (lambda: book.save_params(tmp_path / "book" / "a"), tmp_path / "book" / "a"),
    }


@every_kind
def test_a_disk_that_is_full_at_any_place(kind, tmp_path, limited):
    """Every 64 kB: what was there is still there, nothing else is, and the message has the path."""
    save, path = savers(tmp_path)[kind]
    save()
    before = {name: (path.parent / name).read_bytes() for name in os.listdir(path.parent)}
    size = len(before[path.name])
    assert size > 2 << 16
    for limit in range(0, size, 1 << 16):
        limited(limit)
        try:
            with pytest.raises(OSError, match=str(path.parent)) as caught:
                save()
        finally:
            limited(None)
        assert caught.value.errno == errno.EFBIG
        after = {name: (path.parent / name).read_bytes() for name in os.listdir(path.parent)}
        assert after.keys() == before.keys()
        assert after[path.name] == before[path.name]
    save()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
@every_kind
def test_what_the_disk_says_only_at_the_end(kind, number, tmp_path, monkeypatch):
    save, path = savers(tmp_path)[kind]
    save()
    before = path.read_bytes()

    def refused(_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("os.fsync", refused)
    with pytest.raises(OSError, match=f"{os.strerror(number)}.*{path.parent}") as caught:
        save()
    monkeypatch.undo()
    assert caught.value.errno == number
    assert path.read_bytes() == before
    assert not [name for name in os.listdir(path.parent) if name.endswith(".partial")]


def test_a_first_save_that_fails_leaves_nothing(tmp_path, limited):
    (tmp_path / "text.txt").write_text(make.TEXT)
    settings = rnnfast.Settings(tmp_path / "text.txt", hidden=64, batch=2, time=5)
    limited(1 << 16)
    try:
        with pytest.raises(rnnfast.InputError, match=r"folder .*run cannot be written: File too"):
            rnnfast.Run.start(tmp_path / "run", settings, verbose=False)
    finally:
        limited(None)
    assert os.listdir(tmp_path) == ["text.txt"]


# What could not be read again. --------------------------------------------------------------------


@pytest.mark.parametrize(
    "meta", [{"x": [[1]] * 400_000}, {"x": "a" * (1 << 25)}], ids=["wide", "long"]
)
def test_what_could_not_be_read_again_is_not_written(meta, tmp_path):
    path = tmp_path / "model.npz"
    save_archive(path, "model", {"W": np.ones(3)}, {"x": 1})
    before = path.read_bytes()
    with pytest.raises(
        rnnfast.InputError, match=r"model\.npz is no model that could be read again"
    ):
        save_archive(path, "model", {"W": np.ones(3)}, meta)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["model.npz"]
