"""Contestants in processes of their own: compared first, then they take turns."""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import IO, Any, Self, cast

import numpy as np

from .._types import Array

CONTESTANTS = {  # name: module with its tasks, library, as it is written
    "rnnfast": ("rnnfast.bench.ours", "rnnfast", "rnnfast"),
    "numpy": ("rnnfast.bench.numpy_peer", "numpy", "NumPy"),
    "textbook": ("rnnfast.bench.textbook_peer", "numpy", "textbook NumPy"),
    "torch": ("rnnfast.bench.torch_peer", "torch", "PyTorch"),
    "modules": ("rnnfast.bench.torch_modules", "torch", "PyTorch"),  # and ours, in its process
    "jax": ("rnnfast.bench.jax_peer", "jax", "JAX"),
}
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
TOLERANCES = {"float32": 1e-4, "float64": 1e-10}  # relative to the largest value of an array
LIMIT = 120.0  # seconds that an answer may take
# Seconds before a turn, in which the threads of whoever had the one before stop spinning: those of
# OpenBLAS took away half of a processor for a tenth of a second (measured). One thread does not.
SETTLING = 0.15
BUSY = """
import os
parent = os.getppid()
while os.getppid() == parent:
    for _ in range(100_000):
        pass
"""
START = "import {library}; from rnnfast.bench.worker import main; main()"


class Refused(Exception):
    """A contestant failed, or its results are not those of the others."""


@dataclass(frozen=True)
class Entry:
    """A contestant with a task: what is started, and with how many threads and processes."""

    name: str
    task: str
    options: dict[str, Any]
    threads: int = 1
    environment: dict[str, str] = field(default_factory=dict)
    ranks: int = 1
    """Processes that MPI starts, and that do the task together; threads are those of each."""

    @property
    def label(self) -> str:
        return CONTESTANTS[self.name][2]


@dataclass(frozen=True)
class Pace:
    """How long contestants take turns: seconds of a turn, numbers of rounds and seconds of them.

    Rounds go on until `seconds` have passed and there are `rounds` of them. Where calls are long,
    `most_seconds` end them earlier, after 2 rounds at least.
    """

    turn: float = 0.1
    seconds: float = 1.5
    rounds: int = 5
    most_seconds: float = 15.0


def installed_version(name: str) -> str | None:
    """Version of a contestant's library, or None where it is absent."""
    library = CONTESTANTS[name][1]
    if find_spec(library) is None:
        return None
    with suppress(PackageNotFoundError):
        return version(library)
    return "of unknown version"


def optional_versions() -> dict[str, str | None]:
    """{title: version or None} of the peers that are not installed with this package."""
    return {
        title: installed_version(name)
        for name, (_, library, title) in CONTESTANTS.items()
        if library not in ("rnnfast", "numpy")
    }


def launcher() -> str | None:
    """The mpiexec of this Python, or else that of the system, where mpi4py is there too."""
    if find_spec("mpi4py") is None:
        return None
    return shutil.which("mpiexec", path=os.path.dirname(sys.executable)) or shutil.which("mpiexec")


class Worker:
    """The process of a contestant, or the mpiexec of several; `ask` raises Refused where it fails
    or does not answer."""

    label: str
    threads: int
    process: subprocess.Popen[str]

    def __init__(self, entry: Entry) -> None:
        module, library, self.label = CONTESTANTS[entry.name]
        self.threads = entry.threads
        counts = {variable: str(entry.threads) for variable in THREAD_VARIABLES}
        # The library comes first: rnnfast shortens the spinning of an OpenMP that it loads, and a
        # peer must find its own settings.
        command = [sys.executable, "-c", START.format(library=library), module]
        if entry.ranks > 1:
            self.label += f", {entry.ranks} ranks"
            mpiexec = launcher()
            if mpiexec is None:
                raise Refused(f"{self.label}: mpi4py, or an mpiexec, is not installed")
            command = [mpiexec, "-n", str(entry.ranks), *command]  # rank 0 has standard input
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, **counts, **entry.environment},
        )
        # both are pipes, as said above, and never None
        self._requests = cast(IO[str], self.process.stdin)
        self._answers = cast(IO[str], self.process.stdout)

    def ask(self, do: str, **request: Any) -> Any:
        timer = threading.Timer(LIMIT, self.process.terminate)
        timer.start()
        try:
            print(json.dumps({"do": do, **request}), file=self._requests, flush=True)
            # what else is said is said by mpiexec, of processes that it ends
            line = next((line for line in self._answers if line.startswith("{")), "")
        except OSError:
            line = ""
        finally:
            timer.cancel()
        answer = json.loads(line) if line else {"error": "ended without an answer"}
        if "error" in answer:
            raise Refused(f"{self.label}: {answer['error']}")
        return answer["answer"]

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def close(self) -> None:
        # a worker ends when told; one that is busy, after Ctrl-C for one, is not waited for
        with suppress(OSError):
            print(json.dumps({"do": "end"}), file=self._requests, flush=True)
        with suppress(OSError):
            self._requests.close()
        # an mpiexec that is terminated ends its processes first
        for stop in (self.process.terminate, self.process.kill):
            try:
                self.process.wait(timeout=2)
            except subprocess.TimeoutExpired:
                stop()
        self.process.wait()
        self._answers.close()


class Arena:
    """Workers: kept while the next row needs them, ended with the `with` block."""

    def __init__(self, pace: Pace) -> None:
        self.pace = pace
        self._workers: dict[tuple[object, ...], Worker] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End all workers."""
        while self._workers:
            self._workers.popitem()[1].close()

    def enter(self, *entries: Entry) -> list[Worker]:
        """Workers of the entries, a process each, with their tasks made; others end."""
        keys = [
            (slot, entry.name, entry.threads, entry.ranks, *sorted(entry.environment.items()))
            for slot, entry in enumerate(entries)
        ]
        for key in self._workers.keys() - keys:
            self._workers.pop(key).close()
        for key, entry in zip(keys, entries, strict=True):
            if key not in self._workers or not self._workers[key].alive:
                self._workers[key] = Worker(entry)
        workers = [self._workers[key] for key in keys]
        for worker, entry in zip(workers, entries, strict=True):
            worker.ask("make", task=entry.task, threads=entry.threads, options=entry.options)
        return workers

    def check(self, workers: Sequence[Worker], tolerance: float | None = None) -> None:
        """Compare the results of all workers with those of the first; Refused if they differ."""
        first, *others = workers
        with tempfile.TemporaryDirectory() as folder:
            expected = _results(first, folder)
            for other in others:
                for ours, theirs in zip(expected, _results(other, folder), strict=True):
                    if not agree(ours, theirs, tolerance):
                        raise Refused(f"results of {first.label} and {other.label} differ")

    def race(self, workers: Sequence[Worker]) -> tuple[list[float], list[float]]:
        """Median seconds of each worker, and median of its ratio to the first, turn by turn."""
        pace, start = self.pace, time.perf_counter()
        settling = SETTLING if any(worker.threads > 1 for worker in workers) else 0
        turns: list[list[float]] = []
        while (
            len(turns) < 2
            or (passed := time.perf_counter() - start) < pace.seconds
            or (len(turns) < pace.rounds and passed < pace.most_seconds)
        ):
            turns.append(
                [worker.ask("turn", seconds=pace.turn, settling=settling) for worker in workers]
            )
        times = [statistics.median(column) for column in zip(*turns, strict=True)]
        ratios = [statistics.median(t[k] / t[0] for t in turns) for k in range(len(workers))]
        return times, ratios


def agree(ours: Array, theirs: Array, tolerance: float | None = None) -> bool:
    """Whether two arrays differ by rounding at most, of their dtype or as much as is given, or by
    some denormal numbers, which the kernels take for 0; integers not at all, NaN never agrees."""
    if ours.shape != theirs.shape:
        return False
    if tolerance is None:
        tolerance = TOLERANCES.get(str(theirs.dtype), 0)
    most = tolerance * np.abs(theirs).max()
    if theirs.dtype.kind == "f":
        most += 1000 * np.finfo(theirs.dtype).smallest_normal
    return bool(np.abs(ours - theirs).max() <= most)


def _results(worker: Worker, folder: str) -> list[Array]:
    path = os.path.join(folder, "results.npz")
    worker.ask("results", path=path)
    with np.load(path) as file:
        return [file[name] for name in file.files]


@contextmanager
def busy_neighbours(count: int) -> Iterator[None]:
    """So many processes that only compute, until the block ends, or this process does."""
    with ExitStack() as stack:
        for _ in range(count):
            process = subprocess.Popen([sys.executable, "-c", BUSY])
            stack.callback(process.wait)
            stack.callback(process.kill)
        yield
