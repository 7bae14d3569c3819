"""How many threads the layers use."""

import math
import os
from pathlib import Path
from reprlib import repr as shortened

from ._checks import as_count
from .errors import InputError
from .kernels import engine

ENVIRONMENT = "RNNFAST_NUM_THREADS"
MOST = 1024  # where there are too many for the system, OpenMP ends the process


def available_cpus() -> int:
    """CPUs that this process may use: its affinity, and the quota of its control group."""
    return max(1, min(len(usable_cpus()), quota()))


def usable_cpus() -> set[int]:
    """Numbers of the CPUs that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def quota() -> int:
    """CPUs worth of time that the control group grants (Linux, version 2), rounded up."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return math.ceil(int(quota) / int(period))
    except (OSError, ValueError):  # no such file; or "max", which is no limit
        return os.cpu_count() or 1


def default_num_threads() -> int:
    """RNNFAST_NUM_THREADS where it is set, and `available_cpus()` otherwise."""
    asked = os.environ.get(ENVIRONMENT, "")
    if not asked:
        return available_cpus()
    try:
        count = int(asked) if asked.isdecimal() else 0
    except ValueError:  # of thousands of digits
        count = 0
    if count < 1:
        raise InputError(
            f"{ENVIRONMENT}: expected a whole number of at least 1, got {shortened(asked)}; "
            "unset it to use all CPUs"
        )
    return count


def set_num_threads(n: int) -> None:
    """Let a call of a layer use up to n threads from now on, in the whole process (1024 at most).

    Results are the same bits for any n. Small layers stay on one thread, as does everything where
    rnnfast was built without OpenMP.

    A child made by `os.fork`, or by multiprocessing, has as many threads as its parent, on Linux;
    where several children run at once, let each use its part of the processor. It keeps to one
    thread, whatever n is, on other systems, with GNU OpenMP older than 9, and where code in C has
    made it.
    """
    engine.set_num_threads(min(as_count("n", n), MOST))
    _chosen[:] = [n]


def propose_num_threads(n: int) -> None:
    """`set_num_threads`, unless somebody has."""
    if not _chosen:
        engine.set_num_threads(min(n, MOST))


def get_num_threads() -> int:
    """Threads that a call of a layer may use."""
    return engine.get_num_threads()


_chosen: list[int] = []  # what somebody has set, if anybody has
propose_num_threads(default_num_threads())
