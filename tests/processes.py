"""Processes that are killed or get signals, at the cost of a fork each: run as a program, this has
imported the package, and forks a child for every line of its input."""

import ctypes
import errno
import gc
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile

import pytest

SOURCE = Path(__file__).with_name("kill_at_call.c")
LIMIT = 60  # seconds that a process may take
# small things are not faster with more
ONE_THREAD = {"RNNFAST_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


SIGNALS = {signal.SIGINT: 130}
if os.name == "posix":
    SIGNALS |= {signal.SIGTERM: 143, signal.SIGHUP: 129}
TEXT = "the quick brown fox jumps over the lazy dog.\n"
TINY = ["--text", "text.txt", "--hidden", "12", "--embedding", "6", "--batch", "4", "--time", "10"]


def nothing_ignored():
    """Whatever started this process."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_DFL)


def in_background(*command, program=("-m", "rnnfast"), **options):
    """A process in which no signal is ignored."""
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    return subprocess.Popen(
        [sys.executable, *program, *command],
        text=True,
        preexec_fn=nothing_ignored,  # noqa: PLW1509 - no other thread is running
        **options,
    )


def wait_for(path):
    deadline = time.monotonic() + LIMIT
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.005)


class Ended:
    """How a child has ended: what it returned, or minus the signal; how many calls were counted, 0
    where it was killed; what it said."""

    def __init__(self, code, calls, out, err):
        self.code, self.calls, self.out, self.err = code, calls, out, err

    def __repr__(self):
        return f"{self.code}, {self.calls} calls, stdout {self.out!r}, stderr {self.err!r}"


def preloaded(library):
    """LD_PRELOAD with a library behind those that are there: a sanitizer must come first."""
    return f"{os.environ.get('LD_PRELOAD', '')} {library}".strip()


class Forking:
    """What forks; `library` is preloaded, if there is one."""

    def __init__(self, library=None):
        preload = {"LD_PRELOAD": preloaded(library)} if library else {}
        self._process = in_background(
            program=(__file__,),
            stdin=subprocess.PIPE,
            stderr=None,
            env=os.environ | ONE_THREAD | preload,
        )

    def __call__(self, do, *arguments, folder="", at=0, number=signal.SIGKILL, after=None):
        """Run a function of this file in a child, which is killed at a call that changes files
        below a folder, or gets a signal after some seconds."""
        request = {"do": do, "arguments": arguments, "folder": str(folder), "at": at}
        request |= {"number": number, "after": after, "cwd": os.getcwd()}
        print(json.dumps(request, default=str), file=self._process.stdin, flush=True)
        return Ended(*json.loads(self._process.stdout.readline()))

    def close(self):
        self._process.communicate(timeout=LIMIT)


@contextmanager
def forking(library=None):
    run = Forking(library)
    try:
        yield run
    finally:
        run.close()


def build(folder):
    """The library that counts calls, built from its source; skips where that cannot be done."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if not sys.platform.startswith("linux") or compiler is None:
        pytest.skip("kills at system calls need Linux, and a C compiler named cc or gcc")
    library = folder / "kill_at_call.so"
    options = ["-shared", "-fPIC", "-O1", "-w", "-o", library, SOURCE, "-ldl"]
    subprocess.run([compiler, *options], check=True, timeout=LIMIT)
    return library


# In the process that forks. -----------------------------------------------------------------------


def train(folder, epochs=None, save_every=1e9):
    """A new run, or the rest of the one that is there, as the command does."""
    import rnnfast
    from rnnfast.training.folder import locked

    with locked(Path(folder)):
        if Path(folder, "last.npz").exists():
            run = rnnfast.Run.resume(folder, verbose=False)
        else:
            settings = rnnfast.Settings(
                "text.txt", hidden=6, embedding=4, batch=2, time=5, epochs=2, dropout=0.2
            )
            run = rnnfast.Run.start(folder, settings, verbose=False)
        run.fit(epochs, verbose=False, save_every=save_every)


def start_on_a_full_disk(folder):
    import rnnfast

    save = rnnfast.Run.save

    def full(run):
        save(run)
        raise OSError(errno.ENOSPC, "No space left on device")

    rnnfast.Run.save = full
    with suppress(rnnfast.InputError):
        train(folder)


def save_model(path, seed):
    import rnnfast

    rnnfast.LanguageModel(20, embedding=4, hidden=6, rng=seed).save(path)


def command(*argv):
    from rnnfast.cli import main

    return main(argv)


def child(request, report, out, err):
    """What a child does; reports how many calls were counted."""
    os.chdir(request["cwd"])
    os.dup2(out.fileno(), 1)
    os.dup2(err.fileno(), 2)
    counter = ctypes.CDLL(None)
    if request["folder"]:
        counter.kill_at(request["folder"].encode(), ctypes.c_long(request["at"]))
    code = globals()[request["do"]](*request["arguments"])
    if request["do"] != "command":  # whose end is looked at, too
        os.write(report, str(counter.calls_counted()).encode())
        os._exit(0)
    return code


def serve():
    gc.freeze()  # the memory that is shared with children is left alone by theirs
    for line in iter(sys.stdin.readline, ""):
        request = json.loads(line)
        with TemporaryFile() as report, TemporaryFile() as out, TemporaryFile() as err:
            process = os.fork()
            if not process:
                sys.exit(child(request, report.fileno(), out, err))
            if request["after"] is not None:
                time.sleep(request["after"])
                os.kill(process, request["number"])
            code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
            calls, *said = (file.seek(0) or file.read().decode() for file in (report, out, err))
        print(json.dumps([code, int(calls or 0), *said]), flush=True)


if __name__ == "__main__":
    sys.argv[0] = "rnnfast"  # as the command has its handlers of signals from the beginning
    import rnnfast.cli
    import rnnfast.cli.commands
    import rnnfast.cli.train  # noqa: F401 - so that no child has to

    serve()
