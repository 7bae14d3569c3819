"""Every reader refuses every file of the gallery in `hostile/make.py`: by an InputError that names
it, at once, with no more memory than it has bytes and 64 MB, and nothing in it is executed.
"""

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
from forms import LONG, SANITIZED, form
from hostile import fuzz, make

import rnnfast
from rnnfast.cli import main
from rnnfast.textbook.base_model import BaseModel

pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="POSIX has such files")

HANGS = 20  # seconds after which a reader counts as one that hangs


class Model(BaseModel):
    def __init__(self):
        self.params = [np.full((3, 4), 7.0, "f4"), np.full(5, 7.0, "f4")]


def load_parameters(path):
    model = Model()
    try:
        model.load_params(path)
    finally:
        if not all((W == 7).all() for W in model.params):
            model.changed = True
    return model


def command(*words):
    """A command that is expected to say an error and end with 1; its error as an InputError."""

    def run(path):
        folder = str(path.parent)
        err = io.StringIO()
        with contextlib.redirect_stderr(err), contextlib.redirect_stdout(io.StringIO()):
            code = main(
                [word.format(run=folder, text=path.parent.parent / "text.txt") for word in words]
            )
        if code:
            assert code == 1
            raise rnnfast.InputError(err.getvalue().removeprefix("rnnfast: error: "))

    return run


READERS = {
    "checkpoint": {
        "Run.load": lambda path: rnnfast.Run.load(path.parent),
        "Run.resume": lambda path: rnnfast.Run.resume(path.parent, verbose=False),
        "train --resume": command("train", "--resume", "--out", "{run}"),
        "eval": command("eval", "{run}"),
        "sample": command("sample", "{run}", "--length", "1"),
        "score": command("score", "{run}", "{text}"),
    },
    "model": {"Network.load": rnnfast.Network.load, "Rnnlm.load": rnnfast.Rnnlm.load},
    "parameters": {"load_params": load_parameters},
}
FUNCTIONS = {name for of_kind in READERS.values() for name in of_kind if "." in name or "_" in name}
FILES = {"checkpoint": "run/last.npz", "model": "model.npz", "parameters": "Model.pkl"}
every_kind = pytest.mark.parametrize("kind", make.KINDS)


@pytest.fixture(scope="module")
def valid(tmp_path_factory):
    return make.valid_files(tmp_path_factory.mktemp("valid"))


@pytest.fixture(autouse=True)
def _nothing_is_executed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text(make.TEXT)
    yield
    assert not {make.EXECUTED, "executed", "escaped.npy"} & set(os.listdir(tmp_path))


@contextlib.contextmanager
def within_limits(size):
    """Ends what hangs, and measures memory, which takes time, unless `size` is None."""

    def hangs(*_):
        raise TimeoutError(f"has not ended after {HANGS} seconds")

    before = signal.signal(signal.SIGALRM, hangs)
    signal.alarm(HANGS)
    if size is not None:
        tracemalloc.start()
    try:
        yield
        assert size is None or tracemalloc.get_traced_memory()[1] <= size + make.MEMORY
    finally:
        tracemalloc.stop()
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def fault(read, path, name, measured=True):
    """What is wrong with how a reader takes a file, or None."""
    size = path.stat().st_size if path.is_file() else 0
    try:
        # a sparse file has fewer
        with within_limits(min(size, 1 << 30) if measured or LONG else None):
            try:
                read(path)
            except rnnfast.InputError as error:
                named = str(path) in str(error) or str(path.parent) in str(error)
                return None if named and len(str(error)) < 50_000 else f"{name}: {error!s:.300}"
    except Exception as error:
        return f"{name}: {error!r:.300}"
    return f"{name}: was taken"


@pytest.fixture
def faults_of(tmp_path):
    """What goes wrong where all readers of a kind read files, given as (name, bytes)."""

    def faults(kind, files, readers=None, measured=True):
        path = tmp_path / FILES[kind]
        path.parent.mkdir(exist_ok=True)
        found, count = [], 0
        for name, data in files:
            path.write_bytes(data)
            for reader, read in READERS[kind].items():
                if readers is None or reader in readers:
                    found.append(fault(read, path, f"{reader}, {name}", measured))
                    count += 1
        assert count
        return [one for one in found if one]

    return faults


@every_kind
def test_the_valid_file_is_read(valid, faults_of, kind):
    """So that the others are refused for what is wrong with them."""
    taken = faults_of(kind, [("valid", valid[kind].packed())])
    assert [one.endswith("was taken") for one in taken] == [True] * len(READERS[kind])


@every_kind
def test_hostile_archives(valid, faults_of, kind):
    assert faults_of(kind, make.archives(valid[kind], large=LONG), FUNCTIONS) == []


@pytest.mark.parametrize("kind", ["checkpoint", "model"])
def test_fields_of_a_wrong_kind(valid, faults_of, kind):
    assert faults_of(kind, make.of_fields(valid[kind]), FUNCTIONS, measured=False) == []


@every_kind
def test_things_in_the_place_of_a_file(kind, tmp_path):
    found = []
    for place in make.PLACES:
        path = tmp_path / place.__name__ / FILES[kind]
        path.parent.mkdir(parents=True)
        place(path)
        for reader, read in READERS[kind].items():
            if place is make.a_loop and kind != "model":
                continue  # there is no such file, for who asks whether there is
            found.append(fault(read, path, f"{reader}, {place.__name__}"))
    assert [one for one in found if one] == []


COMMANDS = READERS["checkpoint"].keys() - FUNCTIONS


def test_commands_say_what_is_wrong(valid, faults_of):
    """Some files of each sort: the rest is what the functions say."""
    archives = [*make.archives(valid["checkpoint"])][:: form(11, 1)]
    fields = [*make.of_fields(valid["checkpoint"])][:: form(50, 1)]
    assert faults_of("checkpoint", archives + fields, COMMANDS, measured=False) == []


def test_best_weights_are_looked_at_in_the_same_way(valid, tmp_path):
    good, found = valid["checkpoint"], []
    path = tmp_path / "run" / "best.npz"
    path.parent.mkdir()
    (path.parent / "last.npz").write_bytes(good.data)
    files = [*make.archives(good)][:: form(9, 1)]
    # what is resumed from has no place there
    files += [("the arrays of last.npz", good.with_field(("position",), ...)), ("last", good.data)]
    for name, data in files:
        path.write_bytes(data)
        for reader in ("Run.load", "eval"):
            found.append(fault(READERS["checkpoint"][reader], path, f"{reader}, {name}", False))
    assert [one for one in found if one] == []


def test_a_text_that_a_checkpoint_names(valid, tmp_path, faults_of):
    """It is not opened unless it is a file of that size, and nothing that is in it is shown."""
    good = valid["checkpoint"]
    (folder := tmp_path / "texts").mkdir()
    secret = folder / "a secret"
    paths = make.texts_of_checkpoints(folder)
    names = {"train --resume", "eval", "Run.resume"}
    files = [(text, good.with_field(("settings", "text"), text)) for text in paths]
    assert faults_of("checkpoint", files, names) == []
    shown = []
    for content in (b"hunter2 " * 1000, b"\0hunter2", b"\xffhunter2", b"hunter2\n", b""):
        secret.write_bytes(content)
        meta = good.meta | {"text_bytes": len(content)}
        meta["settings"] = meta["settings"] | {"text": str(secret)}
        path = tmp_path / "run" / "last.npz"
        path.write_bytes(good.with_meta(json.dumps(meta)))
        for reader in names:
            with pytest.raises(rnnfast.InputError) as caught:
                READERS["checkpoint"][reader](path)
            shown.append(str(caught.value))
    assert {text.split(" is not the text that the run in ")[0] for text in shown} == {str(secret)}
    assert not [text for text in shown if "hunter" in text or "byte" in text]


def test_a_text_of_another_size_is_not_read(valid, tmp_path, monkeypatch):
    path = tmp_path / "run" / "last.npz"
    path.parent.mkdir()
    path.write_bytes(valid["checkpoint"].with_field(("settings", "text"), str(tmp_path / "other")))
    (tmp_path / "other").write_text(make.TEXT + "x")
    monkeypatch.setattr("rnnfast.text.pieces.open_regular", lambda *_: 1 / 0)
    with pytest.raises(rnnfast.InputError, match="other is not the text that the run in"):
        rnnfast.Run.resume(path.parent)


def test_a_text_that_was_moved_is_named_by_the_user(valid, tmp_path):
    (tmp_path / "run").mkdir()
    good = valid["checkpoint"]
    path = tmp_path / "run" / "last.npz"
    path.write_bytes(good.with_field(("settings", "text"), "//server/share/text.txt"))
    with pytest.raises(rnnfast.InputError, match="is on another machine; name the text yourself"):
        rnnfast.Run.resume(path.parent)
    run = rnnfast.Run.resume(path.parent, text="text.txt", verbose=False)
    run.save()
    assert rnnfast.Run.resume(path.parent).settings.text == str(tmp_path / "text.txt")
    path.write_bytes(good.with_field(("settings", "text"), "nowhere"))
    assert main(["train", "--resume", "--out", "run", "--text", "text.txt", "--epochs", "3"]) == 0
    assert main(["train", "--resume", "--out", "run"]) == 0
    (tmp_path / "other.txt").write_text("other")
    with pytest.raises(rnnfast.InputError, match=r"other.txt is not the text that the run in"):
        rnnfast.Run.resume(path.parent, text="other.txt")


@pytest.mark.parametrize("place", make.PLACES)
@pytest.mark.parametrize("option", ["--text", "eval --text", "score"])
def test_texts_that_are_no_files(valid, tmp_path, place, option):
    place(tmp_path / "text")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "last.npz").write_bytes(valid["checkpoint"].data)
    words = {
        "--text": ["train", "--out", "new", "--text", "text"],
        "eval --text": ["eval", "run", "--text", "text"],
        "score": ["score", "run", "text"],
    }[option]
    before = sorted(os.listdir(tmp_path))
    with within_limits(0), pytest.raises(rnnfast.InputError, match=r"text file .*text "):
        command(*words)(tmp_path / "run" / "last.npz")
    assert sorted(os.listdir(tmp_path)) == before


def test_a_pipe_of_a_shell_is_no_text():
    """As the one that `<(command)` makes: it could not be read again."""
    reading, writing = os.pipe()
    try:
        with pytest.raises(
            rnnfast.InputError, match=r"is a pipe.*; write what comes from there to a"
        ):
            rnnfast.load_text(f"/dev/fd/{reading}")
    finally:
        os.close(reading)
        os.close(writing)


LIMITED = """
import json, resource, sys
from pathlib import Path
import rnnfast
from hostile import make
from test_hostile import READERS

rnnfast.set_num_threads(1)
for name, path, reader in json.load(sys.stdin):
    path = Path(path)
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limit = now + min(path.stat().st_size, 1 << 30) + make.MEMORY
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    try:
        READERS["checkpoint"][reader](path)
    except rnnfast.InputError:
        pass
    except MemoryError:
        print(name, "takes too much memory")
    else:
        print(name, "was taken")
    resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="Linux counts memory there")
@pytest.mark.skipif(SANITIZED, reason="a sanitizer keeps memory that was given back")
def test_memory_as_the_system_counts_it(valid, tmp_path):
    good = valid["checkpoint"]
    large = ("a bomb", "blanks in the metadata", "metadata: brackets", "a size of 4 GB")
    files = {
        "hidden": good.with_field(("settings", "hidden"), 12_000),
        "layers": good.with_field(("settings", "layers"), 100_000),
        "zero": good.with_field(("settings", "text"), "/dev/zero"),
        **{name: data for name, data in make.archives(good) if name in large},
    }
    assert len(files) == 7
    given = []
    for name, data in files.items():
        path = tmp_path / name / "last.npz"
        path.parent.mkdir()
        path.write_bytes(data)
        readers = ("Run.resume",) if name == "zero" else ("Run.resume", "Run.load", "eval")
        given += [(f"{reader}, {name}", str(path), reader) for reader in readers]
    done = subprocess.run(
        [sys.executable, "-c", LIMITED],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        input=json.dumps(given), capture_output=True, text=True, check=False, timeout=100,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("target", fuzz.OWN)
def test_bytes_that_are_made_up(fuzzed, target):
    """A short form of `hostile/fuzz.py`."""
    os.chdir(fuzzed.folder)
    assert fuzz.run(fuzzed, target, seed=0, count=40) == 40


def test_no_error_of_the_command_paints_on_the_terminal(valid, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    meta = valid["checkpoint"].meta | {"\33[2J\u202e": 1}
    data = valid["checkpoint"].with_meta(json.dumps(meta).encode())
    (tmp_path / "run" / "last.npz").write_bytes(data)
    for command in ("eval", "doctor"):
        assert main([command, "run"]) == 1
        out, err = capfd.readouterr()
        assert r"\x1b[2J\u202e" in (out if command == "doctor" else err)
        assert all(mark.isprintable() or mark == "\n" for mark in out + err)
