"""What is in the way of a training: closed outputs, full disks, a second process."""

import contextlib
import errno
import os
import shutil
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from processes import LIMIT, TEXT, TINY, in_background, wait_for
from run_folders import read_history, require_equal_runs

import rnnfast
from rnnfast._locks import is_locked, open_locked
from rnnfast.archive import load_archive, save_archive, write_atomically
from rnnfast.errors import InputError, TrainingInterrupted
from rnnfast.training import runs
from rnnfast.training.folder import FolderInUse, locked

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows has other signals and locks")

BUFFERED = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text(TEXT * 60)
    return tmp_path


# Outputs. -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("closed", ["stdout", "stderr"])
def test_a_closed_pipe_does_not_end_a_training(folder, closed):
    process = in_background("train", *TINY, "--epochs", "3", "--out", "run", env=BUFFERED)
    getattr(process, closed).close()
    setattr(process, closed, None)
    process.communicate(timeout=LIMIT)
    assert process.returncode == 0
    assert rnnfast.Run.resume("run").trainer.epoch == 3


def test_outputs_that_were_never_open(folder):
    command = [sys.executable, "-m", "rnnfast", "train", *TINY, "--epochs", "2", "--out", "run"]
    shell = subprocess.run(
        ["sh", "-c", '"$@" >&- 2>&-', "sh", *command], check=False, timeout=LIMIT
    )
    assert shell.returncode == 0
    assert rnnfast.Run.resume("run").trainer.epoch == 2


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="the system has no /dev/full")
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("full", [["stdout"], ["stderr"], ["stdout", "stderr"]])
def test_an_output_on_a_full_disk_is_an_error_at_the_end(folder, full, unbuffered):
    with open("/dev/full", "w") as file:
        env = BUFFERED | {"PYTHONUNBUFFERED": unbuffered}
        options = dict.fromkeys(full, file) | {"env": env}
        process = in_background("train", *TINY, "--epochs", "2", "--out", "run", **options)
        _, err = process.communicate(timeout=LIMIT)
    assert process.returncode == 1
    if "stderr" not in full:
        told = "rnnfast: error: not all that was printed could be written: [Errno 28] No space left"
        assert err.splitlines()[-1].startswith(told)
        assert "Traceback" not in err
    assert rnnfast.Run.resume("run").trainer.epoch == 2


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="the system has no /dev/full")
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_what_is_printed_on_a_full_disk_is_an_error(folder, unbuffered):
    rnnfast.Run.start("run", rnnfast.Settings("text.txt", hidden=3, epochs=1)).fit(verbose=False)
    (folder / "long.txt").write_text("the quick " * 2000)  # a line that no buffer holds
    commands = [
        *(["--version"], ["--help"], ["sample", "--help"], ["info"], ["doctor", "run"]),
        *(["sample", "run"], ["sample", "run", "--samples", "2"], ["eval", "run"]),
        *(["score", "run", "text.txt", "--tokens"], ["score", "run", "long.txt"]),
    ]
    with open("/dev/full", "w") as file:
        env = BUFFERED | {"PYTHONUNBUFFERED": unbuffered}
        processes = [in_background(*command, stdout=file, env=env) for command in commands]
        ended = [
            (process.communicate(timeout=LIMIT)[1], process.returncode) for process in processes
        ]
    why = "[Errno 28] standard output could not be written: No space left on device"
    assert ended == [(f"rnnfast: error: {why}\n", 1)] * len(commands)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="POSIX has pipes in folders")
def test_a_pipe_in_the_place_of_the_history_is_replaced(folder):
    run = rnnfast.Run.start("run", rnnfast.Settings("text.txt", hidden=3, epochs=2))
    run.fit(1, verbose=False)
    history = folder / "run" / "history.csv"
    history.unlink()
    os.mkfifo(history)
    run.fit(2, verbose=False)
    assert history.read_text().count("\n") == 1 + len(run.trainer.history)


@pytest.mark.skipif(os.name != "posix", reason="an open folder cannot be moved elsewhere")
def test_a_folder_that_is_moved_and_linked(folder):
    """While its run trains, as to a larger disk."""
    run = rnnfast.Run.start("run", rnnfast.Settings("text.txt", hidden=3, epochs=2))

    def moved(record, improved):
        if run.trainer.epoch == 1:
            os.rename("run", "moved")
            os.symlink("moved", "run")

    run.fit(verbose=False, on_epoch=moved)
    assert rnnfast.Run.resume("moved").trainer.epoch == 2
    assert set(os.listdir("moved")) == {"last.npz", "best.npz", "history.csv"}


@pytest.mark.skipif(os.name != "posix", reason="elsewhere a link needs rights")
def test_one_folder_of_two_names_and_two_that_look_like_one(folder):
    """A name may lead back from where a link has led."""
    (folder / "elsewhere" / "deep").mkdir(parents=True)
    os.symlink("elsewhere/deep", "link")
    os.symlink("run", "alias")
    run, alias, another = Path("run"), Path("alias"), Path("link/../run")
    with ThreadPoolExecutor(1) as pool, locked(run):
        with locked(alias), locked(another):
            assert os.listdir("run") == os.listdir("elsewhere/run") == [".lock"]
        assert os.listdir("run") == [".lock"]
        with pytest.raises(FolderInUse, match="in use by another thread of this process"):
            pool.submit(locked(alias).__enter__).result()
        with locked(another):
            pass


# A second process. --------------------------------------------------------------------------------


def test_a_run_in_training_is_in_use(folder):
    process = in_background("train", *TINY, "--epochs", "100000", "--patience", "100000")
    wait_for(folder / "rnnfast-run" / "best.npz")
    try:
        for command in (["--resume"], ["--resume", "--out", "rnnfast-run"]):
            other = in_background("train", *command)
            _, err = other.communicate(timeout=LIMIT)
            assert other.returncode == 1
            assert f"run folder rnnfast-run is in use by process {process.pid}; wait" in err
        run = rnnfast.Run.resume("rnnfast-run")
        with pytest.raises(InputError, match=f"in use by process {process.pid}"):
            run.fit()
    finally:
        process.kill()
        process.communicate(timeout=LIMIT)
    run = rnnfast.Run.resume("rnnfast-run")  # the lock has ended with its process
    run.fit(run.trainer.epoch + 1, verbose=False)
    assert set(os.listdir("rnnfast-run")) == {"last.npz", "best.npz", "history.csv"}


def test_two_that_start_at_once_have_a_folder_each(folder):
    processes = [in_background("train", *TINY, "--epochs", "1") for _ in range(4)]
    for process in processes:
        _, err = process.communicate(timeout=LIMIT)
        assert process.returncode == 0, err
    names = ["rnnfast-run", *(f"rnnfast-run-{k}" for k in (2, 3, 4))]
    assert sorted(set(os.listdir()) - {"text.txt"}) == names
    for name in names:
        assert rnnfast.Run.resume(name).trainer.epoch == 1


def test_what_another_has_trained_since_is_not_written_over(folder):
    settings = rnnfast.Settings("text.txt", hidden=12, batch=4, time=10, epochs=2)
    run = rnnfast.Run.start("run", settings)
    in_background("train", "--resume", "--out", "run").communicate(timeout=LIMIT)
    before = (folder / "run" / "last.npz").read_bytes()
    with pytest.raises(InputError, match=r"trained since; Run\.resume carries on"):
        run.fit()
    assert (folder / "run" / "last.npz").read_bytes() == before


@pytest.mark.parametrize("what", ["save", "renamed", "removed", "touched"])
def test_what_became_of_the_folder(folder, what):
    settings = rnnfast.Settings("text.txt", hidden=12, batch=4, time=10, epochs=2)
    run = rnnfast.Run.start("run", settings)
    other = rnnfast.Run.resume("run")
    if what == "removed":
        shutil.rmtree("run")
        run.fit(verbose=False)
    elif what == "touched":
        os.utime("run/last.npz", (1, 1))
        run.fit(verbose=False)
    elif what == "save":
        other.fit(1, verbose=False)
        with pytest.raises(InputError, match="trained since"):
            run.save()
        assert rnnfast.Run.resume("run").trainer.epoch == 1
        return
    else:

        def on_step(tokens, loss):
            if run.trainer.step == 5:
                os.rename("run", "moved")
                new = rnnfast.Settings("text.txt", hidden=16, batch=4, time=10, epochs=1)
                thread = threading.Thread(target=rnnfast.Run.start, args=("other", new))
                thread.start()
                thread.join()
                os.rename("other", "run")

        with pytest.raises(InputError, match="trained since"):
            run.fit(verbose=False, on_step=on_step)
        assert rnnfast.Run.resume("run").settings.hidden == 16
        return
    assert rnnfast.Run.resume("run").trainer.epoch == 2


def test_a_full_disk_within_an_epoch_is_told_and_tried_again(folder, monkeypatch, capsys):
    settings = rnnfast.Settings("text.txt", hidden=12, batch=4, time=10, epochs=1)
    run, save, calls = rnnfast.Run.start("run", settings), rnnfast.Run.save, []

    def full(self, **options):
        calls.append(options)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        save(self, **options)

    monkeypatch.setattr(rnnfast.Run, "save", full)
    run.fit(save_every=1e-9)
    told = "not saved: [Errno 28] No space left on device; training goes on"
    assert told in capsys.readouterr().err
    assert rnnfast.Run.resume("run").trainer.epoch == 1


def test_a_history_that_could_not_be_appended_is_written_again(folder, monkeypatch):
    settings = rnnfast.Settings("text.txt", hidden=12, batch=4, time=10, epochs=2)
    run = rnnfast.Run.start("run", settings)
    run.fit(1, verbose=False)

    def half(history, **options):
        with open("run/history.csv", "ab") as file:
            file.write(b"1.0,6")
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("rnnfast.training.run_files.as_csv", half)
        with pytest.raises(OSError, match=r"No space left.*history\.csv"):
            run.save()
    run.fit(verbose=False)
    rows = read_history(folder / "run")
    assert [float(row["epoch"]) for row in rows] == [r.epoch for r in run.trainer.history]


@pytest.mark.parametrize("settings", [{"text": "nosuch.txt"}, {"batch": 4000}])
def test_a_start_that_is_refused_removes_nothing(folder, settings):
    (folder / "own").mkdir()
    (folder / "own" / "notes.txt").write_text("my own file")
    with pytest.raises(InputError):
        rnnfast.Run.start("own", rnnfast.Settings(**({"text": "text.txt"} | settings)))
    (folder / "own" / "history.csv").write_text("mine, too")
    with pytest.raises(InputError, match="holds files of a run, without its"):
        rnnfast.Run.start("own", rnnfast.Settings("text.txt"))
    assert (folder / "own" / "history.csv").read_text() == "mine, too"
    assert sorted(os.listdir("own")) == ["history.csv", "notes.txt"]


@pytest.mark.parametrize("kind", ["link", "fifo"])
def test_a_lock_that_is_no_file(folder, kind):
    (folder / "precious").write_text("precious")
    (folder / "run").mkdir()
    if kind == "link":
        (folder / "run" / ".lock").symlink_to(folder / "precious")
    else:
        os.mkfifo(folder / "run" / ".lock")
    message = r"run folder .*run cannot be written: (Too many levels|it is no file)"
    with pytest.raises(InputError, match=message), locked(folder / "run"):
        pass
    assert (folder / "precious").read_text() == "precious"


def test_a_name_that_is_too_long_leaves_no_lock(folder):
    for _ in range(2):
        message = "cannot be written: File name too long"
        with pytest.raises(InputError, match=message), locked(folder / ("a" * 300)):
            pass


def test_a_child_made_by_fork_has_no_lock(folder):
    with locked(folder / "run"):
        child = os.fork()
        if child == 0:
            try:
                with locked(folder / "run"):
                    os._exit(1)
            except FolderInUse:
                os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert os.listdir("run") == [".lock"]
    assert not (folder / "run").exists()


def test_a_save_within_a_save(folder):
    """Of a handler of a signal, for one."""
    write_atomically("a", lambda file: write_atomically("a", lambda other: other.write(b"in")))
    assert sorted(os.listdir()) == ["a", "text.txt"]


def test_leftovers_of_a_file_alone_are_removed(folder):
    for name in (".a.partial", ".a.0123456789abcdef.partial", ".a.npz-of-mine.partial"):
        (folder / name).write_text("left")
    os.mkfifo(folder / ".a.fedcba9876543210.partial")
    write_atomically("a", lambda file: file.write(b"whole"))
    left = [".a.fedcba9876543210.partial", ".a.npz-of-mine.partial", "a", "text.txt"]
    assert sorted(os.listdir()) == left


def test_without_locks_nothing_of_others_is_removed(folder, monkeypatch):
    (folder / ".a.0123456789abcdef.partial").write_text("of another")
    monkeypatch.setattr("rnnfast.archive.try_lock", lambda file, wait=False: None)
    write_atomically("a", lambda file: file.write(b"whole"))
    assert sorted(os.listdir()) == [".a.0123456789abcdef.partial", "a", "text.txt"]


def test_a_lock_is_of_one_thread_and_can_be_asked_for_again(folder):
    raised = []

    def other():
        try:
            with locked(folder / "run"):
                pass
        except FolderInUse as error:
            raised.append(str(error))

    with locked(folder / "run"), locked(folder / "run"):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        assert os.listdir("run") == [".lock"]
    assert "another thread of this process" in raised[0]
    assert not (folder / "run").exists()  # nothing was put there
    other()
    assert len(raised) == 1


def test_a_folder_that_cannot_be_made(folder):
    (folder / "file").write_text("in the way")
    message = r"file.run cannot be written: .*give another --out"
    with pytest.raises(InputError, match=message), locked(folder / "file" / "run"):
        pass
    assert sorted(os.listdir()) == ["file", "text.txt"]


def test_several_write_one_file_at_once(folder):
    """Each whole, the last one stays, and no part is left."""
    arrays = [{"x": np.full(100_000, k)} for k in range(8)]
    threads = [
        threading.Thread(target=save_archive, args=("model.npz", "model", a, {})) for a in arrays
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    _, found, _ = load_archive("model.npz", "model")
    assert len(set(found["x"])) == 1
    assert sorted(os.listdir()) == ["model.npz", "text.txt"]


def test_a_part_that_is_being_written_is_not_removed(folder):
    def write(file):
        thread = threading.Thread(target=write_atomically, args=("a", lambda f: f.write(b"two")))
        thread.start()
        thread.join()
        assert (folder / "a").read_bytes() == b"two"
        file.write(b"one")

    write_atomically("a", write)
    assert (folder / "a").read_bytes() == b"one"
    assert sorted(os.listdir()) == ["a", "text.txt"]


@pytest.mark.parametrize("verbose", [True, False])
def test_who_wants_to_be_told_of_a_full_disk(folder, monkeypatch, capsys, verbose):
    """While it trains; where there is no standard error, nobody is."""
    settings = rnnfast.Settings("text.txt", hidden=12, batch=4, time=10, epochs=1)

    def full(**_):
        raise OSError(28, "No space left on device")

    for stream in (sys.stderr, None):
        run = rnnfast.Run.start(f"run{stream is None}", settings, verbose=False)
        with monkeypatch.context() as patch:
            patch.setattr(run, "save", full)
            patch.setattr(sys, "stderr", stream)
            with contextlib.suppress(OSError):  # at the end of the epoch
                run.fit(verbose=verbose, save_every=1e-9)
        out, err = capsys.readouterr()
        assert out == ""
        assert ("not saved" in err) is (verbose and stream is not None)


# Long epochs. -------------------------------------------------------------------------------------


def test_a_long_epoch_is_saved_now_and_then(folder, monkeypatch):
    settings = rnnfast.Settings("text.txt", hidden=12, batch=4, time=10, epochs=2)
    whole, run = (rnnfast.Run.start(name, settings) for name in ("whole", "run"))
    whole.fit(verbose=False)
    steps = []

    def on_step(tokens, loss):
        saved = load_archive(folder / "run" / "last.npz", "checkpoint")[2]["position"]["step"]
        steps.append(run.trainer.step - saved)
        if run.trainer.step == 75:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run.fit(verbose=False, on_step=on_step, save_every=1e-9)
    assert set(steps) == {1}  # after every step
    resumed = rnnfast.Run.resume("run")
    assert resumed.trainer.step == 74
    resumed.fit(verbose=False)
    require_equal_runs(folder / "whole", folder / "run")
    for bad in (0, -1, float("nan"), "5"):
        with pytest.raises((TypeError, ValueError), match="save_every: expected"):
            run.fit(3, save_every=bad)


def test_the_history_is_appended_to(folder):
    settings = rnnfast.Settings("text.txt", hidden=12, batch=4, time=10, epochs=4)
    run = rnnfast.Run.start("run", settings)
    path, sizes = folder / "run" / "history.csv", []
    file = path.stat().st_ino

    def on_epoch(record, improved):
        assert path.stat().st_ino == file  # the same file
        sizes.append(len(read_history(folder / "run")))

    run.fit(2, verbose=False, on_epoch=on_epoch)
    assert sizes == [len(run.trainer.history) // 2, len(run.trainer.history)]
    with open(path, "ab") as torn:
        torn.write(b"2.5,3")  # of a process that was killed
    resumed = rnnfast.Run.resume("run")
    resumed.fit(verbose=False)
    rows = read_history(folder / "run")
    assert len(rows) == len(resumed.trainer.history)
    assert [float(row["epoch"]) for row in rows] == [r.epoch for r in resumed.trainer.history]
    with pytest.raises(TrainingInterrupted):
        resumed.fit(5, verbose=False, stop=lambda: True)


def test_a_lock_that_is_no_longer_there_is_taken_again(folder):
    """Somebody has removed it, and another one may have the folder by now."""
    with locked(Path("run")):
        os.remove("run/.lock")
        with locked(Path("run")):
            assert is_locked(Path("run/.lock"))
    assert not os.path.exists("run")
    with locked(Path("run")):
        os.remove("run/.lock")
        other = open_locked(Path("run/.lock"))
        with pytest.raises(FolderInUse, match="in use by process"), locked(Path("run")):
            pass
    assert is_locked(Path("run/.lock"))  # who leaves removes no other's
    other.close()


def test_a_link_that_leads_elsewhere_by_now(folder):
    for name in ("one", "two"):
        os.mkdir(name)
    os.symlink("one", "link")
    with locked(Path("link")):
        os.remove("link")
        os.symlink("two", "link")
        with locked(Path("link")):
            assert (os.listdir("one"), os.listdir("two")) == ([], [".lock"])
    assert (os.listdir("one"), os.listdir("two")) == ([], [])


@pytest.mark.parametrize("what", ["folder", "socket"])
@pytest.mark.parametrize("name", ["last.npz", "best.npz", "history.csv"])
def test_what_is_in_the_way_of_a_save_is_told_before_training(folder, name, what):
    run = rnnfast.Run.start("run", rnnfast.Settings("text.txt", hidden=3, epochs=1))
    Path("run", name).unlink(missing_ok=True)
    if what == "folder":
        os.mkdir(f"run/{name}")
    else:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(f"run/{name}")
    before = sorted(os.listdir("run"))
    with pytest.raises(InputError, match=rf"{name} is a {what}, expected a file; move it"):
        run.fit(verbose=False, on_step=lambda *_: pytest.fail("it trains"))
    assert sorted(os.listdir("run")) == before


def test_a_file_of_somebodys_own_in_the_place_of_a_lock_is_kept(folder):
    settings = rnnfast.Settings("text.txt", hidden=3)
    os.mkdir("run")
    Path("run/.lock").write_text("my data")
    with pytest.raises(InputError, match=r"\.lock: expected the number of a process.* move it"):
        rnnfast.Run.start("run", settings)
    assert Path("run/.lock").read_text() == "my data"
    for ours in ("", "123\n", "\0\0\0\0\n"):
        Path("run/.lock").write_text(ours)
        with locked(Path("run")):
            assert Path("run/.lock").read_text() == f"{os.getpid()}\n"
        assert os.listdir("run") == []
        Path("run").mkdir(exist_ok=True)


def test_a_start_that_comes_too_late_removes_nothing(folder, monkeypatch):
    """The folder was removed, and its run writes there again before the new one does."""
    settings = rnnfast.Settings("text.txt", hidden=12, batch=4, time=10, epochs=1)
    other = rnnfast.Run.start("other", settings)
    other.fit(verbose=False)

    def late(*arguments):
        for name in ("last.npz", "history.csv"):
            shutil.copy(f"other/{name}", "run")
        return vocabulary_of(*arguments)

    vocabulary_of = runs.vocabulary_of
    monkeypatch.setattr(runs, "vocabulary_of", late)
    with pytest.raises(InputError, match=r"expected last\.npz as this run has read or written it"):
        rnnfast.Run.start("run", rnnfast.Settings("text.txt", hidden=8))
    assert set(os.listdir("run")) == {"last.npz", "history.csv"}


@pytest.mark.parametrize("what", ["weights", "slots", "rate", "stopped"])
def test_what_could_not_be_read_again_is_not_written(folder, what):
    run = rnnfast.Run.start("run", rnnfast.Settings("text.txt", hidden=3, epochs=3))
    run.fit(1, verbose=False)
    before = {name: Path("run", name).read_bytes() for name in os.listdir("run")}

    def change(*_):
        if what == "rate":
            run.trainer.optimizer.lr = np.inf
        else:
            arrays = run.trainer.optimizer.state[0] if what == "slots" else run.model.params
            arrays[0][...] = np.inf
        if what == "stopped":
            raise rnnfast.TrainingInterrupted("by a callback")

    told = pytest.raises(InputError, match=r"last\.npz: not written, since it could not be read")
    if what == "stopped":
        with told:
            run.fit(verbose=False, on_step=change)
    else:
        change()
        with told:
            run.save(best=True)
    assert {name: Path("run", name).read_bytes() for name in os.listdir("run")} == before
