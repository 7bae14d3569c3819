"""Whoever stops a training, or is in its way: signals, closed outputs, a second process."""

import errno
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from run_folders import read_history, require_equal_runs

import rnnfast
from rnnfast.archive import load_archive, save_archive, write_atomically
from rnnfast.cli import main
from rnnfast.errors import InputError, TrainingInterrupted
from rnnfast.training.folder import FolderInUse, locked

TEXT = "the quick brown fox jumps over the lazy dog.\n" * 60
TINY = ["--text", "text.txt", "--hidden", "12", "--embedding", "6", "--batch", "4", "--time", "10"]
LIMIT = 60  # seconds that a process may take
SIGNALS = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows has other signals and locks")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text(TEXT)
    return tmp_path


def in_background(*command, program=("-m", "rnnfast"), **options):
    """A process in which no signal is ignored, whatever started this one."""

    def restore():
        for number in SIGNALS:
            signal.signal(number, signal.SIG_DFL)

    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    return subprocess.Popen(
        [sys.executable, *program, *command],
        text=True,
        preexec_fn=restore,  # noqa: PLW1509 - no other thread is running
        **options,
    )


def wait_for(path):
    deadline = time.monotonic() + LIMIT
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.005)


# Signals. -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "code"), SIGNALS.items())
def test_a_signal_saves_and_the_run_carries_on(folder, number, code):
    train = ("train", *TINY, "--epochs", "30")
    process = in_background(*train, "--out", "stopped")
    wait_for(folder / "stopped" / "best.npz")
    process.send_signal(number)
    _, err = process.communicate(timeout=LIMIT)
    assert process.returncode == code, err
    assert re.search(r"stopped after step \d+ and saved; .*--resume --out stopped", err)
    assert "Traceback" not in err
    assert set(os.listdir("stopped")) == {"last.npz", "best.npz", "history.csv"}
    for command in (("train", "--resume", "--out", "stopped"), (*train, "--out", "whole")):
        assert in_background(*command, stderr=None, stdout=subprocess.DEVNULL).wait(LIMIT) == 0
    require_equal_runs(folder / "whole", folder / "stopped")


@pytest.mark.parametrize(("number", "code"), SIGNALS.items())
@pytest.mark.parametrize("delay", [0, 0.1, 0.2])
def test_a_signal_while_it_starts_leaves_no_traceback(number, code, delay):
    """While modules are imported, the text is read, and the first steps are made."""
    program = ("-X", "importtime", "-m", "rnnfast")
    process = in_background("train", *TINY, "--epochs", "400", program=program)
    while "rnnfast._signals" not in process.stderr.readline():
        assert process.poll() is None
    time.sleep(delay)
    process.send_signal(number)
    _, err = process.communicate(timeout=LIMIT)
    assert "Traceback" not in err
    assert process.returncode == code, err


@pytest.mark.parametrize(("number", "code"), SIGNALS.items())
def test_a_signal_ends_sampling(number, code):
    assert main(["train", *TINY, "--epochs", "1"]) == 0
    process = in_background("sample", "rnnfast-run", "--length", "1000000000")
    process.stdout.read(100)
    process.send_signal(number)
    _, err = process.communicate(timeout=LIMIT)
    assert (process.returncode, err) == (code, "rnnfast: interrupted\n")


def test_a_second_signal_ends_at_once(folder):
    """A step that never ends cannot be waited for."""
    program = f"""
import os, signal, time, rnnfast
run = rnnfast.Run.start("run", rnnfast.Settings("text.txt", hidden=12, batch=4, time=10))
def on_step(tokens, loss):
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGTERM)  # from another side, at the same time
    time.sleep(1.1)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep({LIMIT})
run.fit(on_step=on_step)
"""
    process = in_background(program=("-c", program))
    process.communicate(timeout=LIMIT / 2)
    assert process.returncode == -signal.SIGTERM
    assert rnnfast.Run.resume("run").trainer.step == 0


def test_a_terminal_that_is_closed(folder):
    """The kernel and the shell may both send SIGHUP."""
    program = """
import os, signal, rnnfast
run = rnnfast.Run.start("run", rnnfast.Settings("text.txt", hidden=12, batch=4, time=10))
def on_step(tokens, loss):
    if run.trainer.step == 3:
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGHUP)
try:
    run.fit(on_step=on_step, verbose=False)
except rnnfast.TrainingInterrupted as stop:
    assert stop.signal == signal.SIGHUP
"""
    process = in_background(program=("-c", program))
    _, err = process.communicate(timeout=LIMIT)
    assert (process.returncode, err) == (0, "")
    assert rnnfast.Run.resume("run").trainer.step == 3


@pytest.mark.parametrize("how", ["an error", "another run", "the end"])
def test_a_signal_that_was_kept_is_not_forgotten(folder, how):
    settings = rnnfast.Settings("text.txt", hidden=12, batch=4, time=10, epochs=2)
    run, other = (rnnfast.Run.start(name, settings) for name in ("run", "other"))
    caught = []
    before = signal.signal(signal.SIGTERM, lambda number, _: caught.append(number))

    def on_epoch(record, improved):
        if how == "another run":
            with pytest.raises(TrainingInterrupted):
                other.fit(verbose=False, on_step=on_step)
            return
        os.kill(os.getpid(), signal.SIGTERM)
        if how == "an error":
            raise ZeroDivisionError

    def on_step(tokens, loss):
        os.kill(os.getpid(), signal.SIGTERM)

    try:
        expected = ZeroDivisionError if how == "an error" else TrainingInterrupted
        if how == "another run":
            run.fit(verbose=False, on_epoch=on_epoch)  # that signal was for the other
        else:
            with pytest.raises(expected):
                run.fit(1 if how == "the end" else 2, verbose=False, on_epoch=on_epoch)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert caught == ([signal.SIGTERM] if how == "an error" else [])


def test_an_ignored_signal_stays_ignored(folder):
    """As `nohup` wants it."""
    program = (
        "import signal, sys; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "from rnnfast.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    process = in_background("train", *TINY, "--epochs", "8", program=("-c", program))
    wait_for(folder / "rnnfast-run" / "last.npz")
    process.send_signal(signal.SIGHUP)
    process.communicate(timeout=LIMIT)
    assert process.returncode == 0


def test_a_program_without_arguments():
    """Python that is part of another program."""
    program = "import sys; sys.argv = []; import rnnfast"
    process = in_background(program=("-c", program))
    assert process.communicate(timeout=LIMIT) == ("", "")


def test_other_programs_keep_their_handlers():
    program = """
import signal
import rnnfast
assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
"""
    quiet = {"stdout": subprocess.DEVNULL, "stderr": None}
    assert in_background(program=("-c", program), **quiet).wait(LIMIT) == 0


# Outputs. -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("closed", ["stdout", "stderr"])
def test_a_closed_pipe_does_not_end_a_training(folder, closed):
    process = in_background("train", *TINY, "--epochs", "3", "--out", "run")
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
        patch.setattr("rnnfast.training.runs._as_csv", half)
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
    with pytest.raises(InputError, match="already holds a run"):
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
