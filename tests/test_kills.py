"""kill -9 at every call that changes a file, and at any time: nothing is lost, nothing is left."""

import os
import random
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from forms import LONG, SEED, form
from processes import LIMIT, ONE_THREAD, TEXT, build, forking, preloaded
from run_folders import FILES, require_equal_runs

import rnnfast

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
KILLED = -9
PARTIAL = re.compile(r"\.(last\.npz|best\.npz|history\.csv|loss\.png)\.[0-9a-f]{16}\.partial")


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    return build(tmp_path_factory.mktemp("library"))


@pytest.fixture(scope="module")
def run_in_child(library):
    with forking(library) as run:
        yield run


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text(TEXT * 6)
    return tmp_path


@pytest.fixture
def whole(folder, run_in_child):
    """A run that nothing has interrupted."""
    ended = run_in_child("train", "whole")
    assert ended.code == 0, ended
    return folder / "whole"


def require_bounded(path):
    """Beside what is whole and the lock, at most one part of each file."""
    names = set(os.listdir(path)) if path.exists() else set()
    parts = [match for match in map(PARTIAL.fullmatch, names) if match]
    assert len({part[1] for part in parts}) == len(parts)
    assert names - {part[0] for part in parts} <= {*FILES, ".lock", "loss.png"}


def require_finished(run_in_child, path, whole):
    """The command that was killed, once more: it ends with what it would have without."""
    ended = run_in_child("train", path)
    assert ended.code == 0, ended
    require_equal_runs(path, whole)
    assert set(os.listdir(path)) == FILES


def places(calls, short):
    """At which calls a process is killed: all, or some."""
    every = range(1, calls + 1)
    return every if LONG else sorted(random.Random(SEED).sample(every, min(short, calls)))


@pytest.mark.parametrize("begins", ["new", "trained", "leftovers"])
@pytest.mark.parametrize("times", [1, 2])
def test_a_kill_at_every_call_of_a_training(folder, run_in_child, whole, begins, times):
    """In the first save of a run, between its files, while it removes what a kill has left; twice
    in a row at the same place."""
    before, run = folder / "before", folder / "run"
    if begins != "new":
        assert run_in_child("train", before, 1).code == 0
    if begins == "leftovers":
        for name in (".lock", *(f".{name}.0123456789abcdef.partial" for name in FILES)):
            (before / name).write_text("1\n")

    def begin():
        shutil.rmtree(run, ignore_errors=True)
        if before.exists():
            shutil.copytree(before, run)

    begin()
    calls = run_in_child("train", run, folder=run).calls
    assert calls > 100
    kills = 0
    for place in places(calls, 4)[::times]:
        begin()
        try:
            for _ in range(times):
                ended = run_in_child("train", run, folder=run, at=place)
                assert ended.code in (KILLED, 0), ended
                kills += ended.code == KILLED
                require_bounded(run)
            require_finished(run_in_child, run, whole)
        except Exception as error:
            error.add_note(
                f"killed {times} times at call {place} of {calls}: {list(run.glob('*'))}"
            )
            raise
    print(f"\n{begins}, {times} in a row: {kills} kills at {calls} calls, 0 unusable")


def test_a_kill_where_a_run_that_could_not_be_saved_is_removed(folder, run_in_child, whole):
    run = folder / "run"
    calls = run_in_child("start_on_a_full_disk", run, folder=run).calls
    assert not run.exists()
    for place in range(calls - form(4, 12), calls + 1):
        ended = run_in_child("start_on_a_full_disk", run, folder=run, at=place)
        assert ended.code == KILLED, ended
        require_finished(run_in_child, run, whole)
        shutil.rmtree(run)


def test_the_next_save_leaves_nothing(run_in_child, folder):
    """Not even of a file that it does not write."""
    assert run_in_child("train", "run", 1).code == 0
    run = rnnfast.Run.resume("run")
    for name in FILES:
        Path("run", f".{name}.0123456789abcdef.partial").write_text("left")
    run.save()
    assert set(os.listdir("run")) == FILES


def test_a_kill_at_every_call_that_writes_a_model(folder, run_in_child):
    """The file is the one before or the new one, and the next save leaves nothing beside it."""
    models = [rnnfast.LanguageModel(20, embedding=4, hidden=6, rng=seed) for seed in (0, 1)]

    def weights(number):
        return np.concatenate([W.ravel() for W in models[number].params])

    os.mkdir("models")
    path = folder / "models" / "model.npz"
    calls = run_in_child("save_model", path, 0, folder=path.parent).calls
    assert calls > 20
    found = []
    for place in places(calls, 12):
        models[0].save(path)
        assert os.listdir("models") == ["model.npz"]
        ended = run_in_child("save_model", path, 1, folder=path.parent, at=place)
        assert ended.code == KILLED, ended
        saved = np.concatenate([W.ravel() for W in rnnfast.LanguageModel.load(path).params])
        found.append([np.array_equal(saved, weights(number)) for number in (0, 1)])
        assert sum(found[-1]) == 1, f"killed at call {place} of {calls}"
    models[0].save(path)
    assert os.listdir("models") == ["model.npz"]
    print(f"\nmodel: {len(found)} kills at {calls} calls, {found.count([False, True])} files new")


def test_what_takes_a_files_place_is_on_the_disk(folder, monkeypatch):
    """A power failure, too, leaves one of both: the file is synced before, and its name after."""
    done, fsync, replace = [], os.fsync, os.replace

    def synced(file):
        done.append(("synced", os.fstat(file).st_ino))
        fsync(file)

    def renamed(old, new):
        done.append(("renamed", os.stat(old).st_ino))
        replace(old, new)

    monkeypatch.setattr("os.fsync", synced)
    monkeypatch.setattr("os.replace", renamed)
    rnnfast.LanguageModel(20, embedding=4, hidden=6, rng=0).save("model.npz")
    file, place = (os.stat(path).st_ino for path in ("model.npz", folder))
    assert done == [("synced", file), ("renamed", file), ("synced", place)]


def test_kills_at_any_time_of_a_training(folder, run_in_child, whole):
    """Again and again, while it saves after every step."""
    chance, run, kills, rounds = random.Random(SEED), folder / "run", 0, form(2, 60)
    started = time.monotonic()
    assert run_in_child("train", run, None, 1e-9).code == 0
    seconds = time.monotonic() - started
    for _ in range(rounds):
        shutil.rmtree(run)
        delays = [chance.uniform(0, seconds) for _ in range(5)]
        try:
            for delay in delays:
                ended = run_in_child("train", run, None, 1e-9, after=delay)
                assert ended.code in (KILLED, 0), ended
                kills += ended.code == KILLED
                require_bounded(run)
            require_finished(run_in_child, run, whole)
        except Exception as error:
            error.add_note(f"killed after {delays} s: {[path.name for path in run.glob('*')]}")
            raise
    print(f"\nany time: {kills} kills of {rounds} trainings, 0 unusable")


TRAIN = ("--text", "text.txt", "--hidden", "6", "--embedding", "4", "--batch", "2", "--time", "5")
TRAIN, RESUME = ("train", *TRAIN, "--epochs", "2"), ("train", "--resume")


def test_kills_of_the_command(folder, library, run_in_child):
    """`rnnfast train` without --out: what is left is resumed, or the next one takes its place."""
    chance, kills, rounds = random.Random(SEED), 0, form(1, 25)
    ended = run_in_child("command", *TRAIN, "--out", "whole")
    assert ended.code == 0, ended
    for _ in range(rounds):
        chosen = [chance.randint(1, 25), chance.randint(1, 330)]
        try:
            for place in chosen:
                process = subprocess.run(
                    [
                        *(sys.executable, "-m", "rnnfast"),
                        *(RESUME if Path("rnnfast-run", "last.npz").exists() else TRAIN),
                    ],
                    env=os.environ
                    | ONE_THREAD
                    | {"LD_PRELOAD": preloaded(library), "KILL_IN": folder, "KILL_AT": str(place)},
                    check=False,
                    capture_output=True,
                    text=True,
                    timeout=LIMIT,
                )
                assert process.returncode in (KILLED, 0), process.stderr
                kills += process.returncode == KILLED
                require_bounded(folder / "rnnfast-run")
                assert {*os.listdir()} <= {"text.txt", "whole", "rnnfast-run"}
            again = RESUME if Path("rnnfast-run", "last.npz").exists() else TRAIN
            ended = run_in_child("command", *again)
            assert ended.code == 0, ended
            require_equal_runs(folder / "rnnfast-run", folder / "whole")
        except Exception as error:
            left = [path.name for path in Path("rnnfast-run").glob("*")]
            error.add_note(f"killed at calls {chosen}: {left}")
            raise
        shutil.rmtree("rnnfast-run")
    print(f"\ncommand: {kills} kills of {rounds} trainings, 0 unusable")
