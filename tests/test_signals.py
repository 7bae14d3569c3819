"""Signals that ask a process to stop: what they find it at is saved, or was before."""

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from forms import SEED, form
from processes import LIMIT, SIGNALS, TEXT, TINY, forking, in_background, wait_for
from run_folders import FILES, require_equal_runs

import rnnfast
from rnnfast.cli import main
from rnnfast.errors import TrainingInterrupted

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows has other signals and locks")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text(TEXT * 60)
    return tmp_path


# At any time. -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run_in_child():
    with forking() as run:
        yield run


EPOCHS = ("--epochs", "2")
TRAIN, RESUME = ("train", *TINY, *EPOCHS, "--out", "run"), ("train", "--resume", "--out", "run")
COMMANDS = {
    "train": TRAIN,
    "resume": RESUME,
    "eval": ("eval", "run"),
    "sample": ("sample", "run", "--length", "3000"),
}


@pytest.fixture
def begin(folder, run_in_child):
    """Puts a run folder there as a command finds it."""
    ended = run_in_child("command", *TRAIN[:-1], "whole")
    assert ended.code == 0, ended
    run = rnnfast.Run.start("half", rnnfast.Run.resume("whole").settings, verbose=False)
    with pytest.raises(TrainingInterrupted):
        run.fit(verbose=False, stop=lambda: run.trainer.step == 20)
    before = {"train": None, "resume": "half", "eval": "whole", "sample": "whole"}

    def begin(name):
        shutil.rmtree("run", ignore_errors=True)
        if before[name]:
            shutil.copytree(before[name], "run")

    return begin


def require_nothing_lost(folder, run_in_child):
    """What is there is resumed, or else begun: with the same end."""
    holds_run = Path("run", "last.npz").exists()
    ended = run_in_child("command", *(RESUME if holds_run else TRAIN))
    assert ended.code == 0, ended
    require_equal_runs(folder / "run", folder / "whole")
    assert set(os.listdir("run")) - {"loss.png"} == FILES


def require_told(number, code, err):
    """That it has stopped, or that it was at its end."""
    assert code in (0, SIGNALS[number])
    assert "Traceback" not in err
    assert "Exception" not in err


def handles_signals(process):
    """Whether a process has its handlers by now, as the kernel says; Python itself has none that
    print no traceback before it finds the package."""
    try:
        status = Path(f"/proc/{process.pid}/status").read_text()
    except OSError:
        return True
    masks = re.findall(r"Sig(?:Cgt|Ign):\s*([0-9a-f]+)", status)
    return any(int(mask, 16) >> (signal.SIGTERM - 1) & 1 for mask in masks)


def test_signals_at_any_time_of_a_process(folder, begin, run_in_child):
    """From its first instruction to its end."""
    chance, counts, seconds = random.Random(SEED), {"early": 0, "stopped": 0, "finished": 0}, {}
    names = form(["train", "resume"], list(COMMANDS))
    for name in names:
        begin(name)
        started = time.monotonic()
        process = in_background(*COMMANDS[name])
        process.communicate(timeout=LIMIT)
        assert process.returncode == 0
        seconds[name] = time.monotonic() - started
    for k in range(form(6, 300)):
        name = names[k % len(names)]
        number = chance.choice(list(SIGNALS))
        delay = chance.uniform(0, 1.1 * seconds[name])
        begin(name)
        process = in_background(*COMMANDS[name])
        time.sleep(delay)
        early = not handles_signals(process)
        process.send_signal(number)
        _, err = process.communicate(timeout=LIMIT)
        code = process.returncode
        try:
            if early:  # a shell says 128 + n of the first; a KeyboardInterrupt ends Python with 1
                assert code in (-number, 0, SIGNALS[number], *([1] if number == 2 else []))
            else:
                require_told(number, code, err)
            require_nothing_lost(folder, run_in_child)
        except Exception as error:
            error.add_note(f"{name}: signal {number} after {delay} s, ended with {code}: {err}")
            raise
        counts["early" if early else "stopped" if code else "finished"] += 1
    print(f"\nsignals of processes: {counts}, 0 lost")


def test_signals_at_any_time_of_a_command(folder, begin, run_in_child):
    """From the time when everything is imported."""
    chance, counts, seconds = random.Random(SEED), {"stopped": 0, "finished": 0}, {}
    for name, command in COMMANDS.items():
        begin(name)
        started = time.monotonic()
        assert run_in_child("command", *command).code == 0
        seconds[name] = time.monotonic() - started
    for k in range(form(8, 400)):
        name, command = list(COMMANDS.items())[k % len(COMMANDS)]
        number = chance.choice(list(SIGNALS))
        delay = chance.uniform(0, seconds[name])
        begin(name)
        ended = run_in_child("command", *command, number=number, after=delay)
        try:
            require_told(number, ended.code, ended.err)
            require_nothing_lost(folder, run_in_child)
        except Exception as error:
            error.add_note(f"{name}: signal {number} after {delay} s: {ended}")
            raise
        counts["stopped" if ended.code else "finished"] += 1
    print(f"\nsignals of commands: {counts}, 0 lost")


# At a certain time. -------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "code"), SIGNALS.items())
def test_a_signal_saves_and_the_run_carries_on(folder, run_in_child, number, code):
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
        assert run_in_child("command", *command).code == 0
    require_equal_runs(folder / "whole", folder / "stopped")


@pytest.mark.parametrize(("number", "code"), SIGNALS.items())
def test_a_signal_while_it_starts_leaves_no_traceback(number, code):
    """While modules are imported."""
    program = ("-X", "importtime", "-m", "rnnfast")
    process = in_background("train", *TINY, "--epochs", "400", program=program)
    while "rnnfast._signals" not in process.stderr.readline():
        assert process.poll() is None
    process.send_signal(number)
    _, err = process.communicate(timeout=LIMIT)
    assert "Traceback" not in err
    assert process.returncode == code, err


IN_SITE = {  # what Python imports before all else
    "begins": """
import os, sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "rnnfast.errors":
            os.kill(os.getpid(), {number})
sys.meta_path.insert(0, Finder())
""",
    "ends": """
import atexit, os, sys
def ask(kill=os.kill, process=os.getpid()):
    kill(process, {number})
class Last:
    __del__ = ask
sys.last = Last()
atexit.register(ask)
""",
}


@pytest.mark.parametrize("when", IN_SITE)
@pytest.mark.parametrize(("number", "code"), SIGNALS.items())
def test_a_signal_when_python_begins_or_ends(folder, when, number, code):
    """While the package is imported it can only end; when all is done nothing is left to stop."""
    (folder / "site").mkdir()
    (folder / "site" / "sitecustomize.py").write_text(IN_SITE[when].format(number=int(number)))
    paths = [str(folder / "site"), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    process = in_background("info", env=environment)
    out, err = process.communicate(timeout=LIMIT)
    assert (process.returncode, err) == (code if when == "begins" else 0, "")
    assert bool(out) == (when == "ends")


@pytest.mark.parametrize("when", ["start", "fit", "loss_of"])
@pytest.mark.parametrize(("number", "code"), SIGNALS.items())
def test_an_interruption_names_the_folder(monkeypatch, capsys, when, number, code):
    """Once there is a run in it: between start and fit, and after fit."""
    place = "rnnfast.cli.train.loss_of" if when == "loss_of" else f"rnnfast.Run.{when}"

    def asked(*_, **__):
        os.kill(os.getpid(), number)

    monkeypatch.setattr(place, asked)
    assert main(["train", *TINY, "--epochs", "1", "--out", "a run"]) == code
    err = capsys.readouterr().err.splitlines()[-1]
    named = "rnnfast: interrupted; a run keeps what was saved last, "
    named += "`rnnfast train --resume --out 'a run'` carries on"
    assert err == ("rnnfast: interrupted" if when == "start" else named)


@pytest.mark.parametrize("number", SIGNALS)
def test_an_error_comes_out_beside_a_signal(monkeypatch, capsys, number):
    settings = rnnfast.Settings("text.txt", hidden=12, batch=4, time=10, epochs=2)

    def full(*_, **__):
        os.kill(os.getpid(), number)
        raise OSError("the disk is full")

    run = rnnfast.Run.start("run", settings)
    if number == signal.SIGINT:  # by default the others end a process
        with pytest.raises(OSError, match="the disk is full") as caught:
            run.fit(verbose=False, on_epoch=full)
        assert caught.value.__notes__ == ["SIGINT came at the same time"]
    monkeypatch.setattr("rnnfast.training.trainer.evaluate", full)
    assert main(["train", "--resume", "--out", "run"]) == 1
    assert capsys.readouterr().err.splitlines()[-1] == "rnnfast: error: the disk is full"


@pytest.mark.parametrize(("number", "code"), SIGNALS.items())
def test_a_signal_ends_sampling(number, code):
    assert main(["train", *TINY, "--epochs", "1"]) == 0
    process = in_background("sample", "rnnfast-run", "--length", "10000000")
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


KEPT = """
import signal
import rnnfast
assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
"""
TAKEN = """
import signal, sys
from rnnfast.cli import main
assert signal.getsignal(signal.SIGINT) is not signal.default_int_handler
signal.raise_signal(signal.SIGINT)
"""


@pytest.mark.parametrize(
    ("files", "program", "code"),
    [
        ({"rnnfast": KEPT}, ["rnnfast"], 0),  # a script of one's own
        ({"rnnfast": "import helper", "helper.py": KEPT}, ["rnnfast"], 0),
        ({"rnnfast": "def main():\n import helper\nmain()", "helper.py": KEPT}, ["rnnfast"], 0),
        ({"tool/__init__.py": KEPT, "tool/it.py": ""}, ["-m", "tool.it", "-m", "rnnfast"], 0),
        ({"a/rnnfast/__main__.py": KEPT}, ["a/rnnfast/__main__.py"], 0),
        ({"rnnfast": TAKEN}, ["rnnfast"], 130),  # as installers write it
        ({}, ["-m", "rnnfast", "--version"], 0),
    ],
)
def test_a_program_of_the_same_name(folder, files, program, code):
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    quiet = {"stdout": subprocess.DEVNULL, "stderr": None}
    path = {"PYTHONPATH": os.pathsep.join([str(folder), *sys.path])}
    assert in_background(program=program, env=os.environ | path, **quiet).wait(LIMIT) == code


def test_other_programs_keep_their_handlers():
    quiet = {"stdout": subprocess.DEVNULL, "stderr": None}
    assert in_background(program=("-c", KEPT), **quiet).wait(LIMIT) == 0
