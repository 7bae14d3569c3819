"""The n-th allocation fails, for n = 1, 2, 3 ...: MemoryError, nothing has changed, nothing leaks,
and the next call gives the bits that it would have given.

What is called, and how it fails, is in failed_allocations.py, which runs in a process of its own.
"""

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from failed_allocations import CASES
from forms import LONG, SANITIZED, SEED, form

HERE = Path(__file__).parent
STRIDE = form(61, 1)  # of n, between two calls that fail
CC = shutil.which("cc")

pytestmark = [
    pytest.mark.skipif(
        platform.system() != "Linux" or platform.libc_ver()[0] != "glibc",
        reason="allocations are made to fail with LD_PRELOAD and glibc",
    ),
    pytest.mark.skipif(CC is None, reason="there is no cc"),
    pytest.mark.skipif(SANITIZED, reason="AddressSanitizer has a malloc of its own"),
]


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    path = tmp_path_factory.mktemp("library") / "fail_allocation.so"
    command = [CC, "-std=gnu11", "-O1", "-shared", "-fPIC", "-fno-builtin", "-o", path]
    subprocess.run([*command, HERE / "fail_allocation.c"], check=True)
    return path


def test_the_next_allocation_fails(library):
    command = [sys.executable, "-X", "faulthandler", HERE / "failed_allocations.py", library]
    environment = {
        "LD_PRELOAD": str(library),
        "PYTHONMALLOC": "malloc",  # objects are malloc's too
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    done = subprocess.run(
        [*command, str(STRIDE)],
        env=os.environ | environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if LONG:
        print(done.stdout)
    lines = done.stdout.splitlines()
    faults = [line for line in lines if "FAULT" in line]
    assert not faults, f"RNNFAST_SEED={SEED}, every {STRIDE}th:\n" + "\n".join(faults)
    last = lines[-1] if lines else "nothing"
    assert done.returncode == 0, f"ended with {done.returncode} in {last!r}:\n{done.stderr}"
    assert done.stderr == ""
    assert sum("failed" in line for line in lines) == 2 * len(CASES)
