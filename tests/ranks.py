"""How tests start ranks: processes of mpiexec, which must end in time."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from forms import PATIENCE

from rnnfast.bench.duel import launcher

TESTS = Path(__file__).parent
SECONDS = 120  # after which ranks that have not ended are taken to wait for each other
ENVIRONMENT = {
    # Open MPI starts as root, and more ranks than there are cores, if it is asked to
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "OMPI_MCA_mpi_yield_when_idle": "1",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
    "RNNFAST_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)]),
    "PYTHONUNBUFFERED": "1",
}


needs_mpi = pytest.mark.skipif(launcher() is None, reason="needs mpi4py and an mpiexec")


def _own_group():
    """In the child: Ctrl-C is not ignored, as it is behind a shell's &."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def start(*command, env=None, cwd=None):
    """A process in a group of its own, which a signal reaches as it does from a terminal."""
    return subprocess.Popen(
        [str(word) for word in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
        cwd=cwd,
        env=os.environ | ENVIRONMENT | (env or {}),
        preexec_fn=_own_group,  # noqa: PLW1509
    )


def finished(process, seconds=SECONDS):
    """(exit code, standard output, standard error); one that does not end is a failure."""
    try:
        out, err = process.communicate(timeout=seconds * PATIENCE)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        out, err = process.communicate()
        pytest.fail(f"ranks have not ended after {seconds} s:\n{out}\n{err}")
    return process.returncode, out, err


def start_ranks(count, *arguments, **options):
    """`mpiexec -n count python ...`, started."""
    return start(launcher(), "-n", count, sys.executable, *arguments, **options)


def run_ranks(count, *arguments, **options):
    """`mpiexec -n count python ...`, ended: (exit code, standard output, standard error)."""
    return finished(start_ranks(count, *arguments, **options))


def run_code(count, code, *arguments, **options):
    """The same with a program, given as text."""
    return run_ranks(count, "-c", code, *arguments, **options)
