"""No kernel touches a byte beside an array: those of the caller, those that it returns, and its
scratch memory stand between pages that may not be touched, in every instruction set."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from fenced_cases import KERNELS, NAMES
from forms import form
from problems import CELLS

HERE = Path(__file__).parent
CASES = form(4, 2000)


def cases_of(name):
    """How many shapes are tried of a name."""
    return CASES if name in (*CELLS, KERNELS) else form(1, 500)


def levels():
    """Instruction sets of this processor and build, of which a program can be told to use one."""
    command = [sys.executable, "-c", "import rnnfast"]
    for level in ("baseline", "avx2", "avx512", "avx512_bf16"):
        environment = {**os.environ, "RNNFAST_CPU": level}
        if not subprocess.run(
            command, check=False, env=environment, capture_output=True
        ).returncode:
            yield level


def run(path, count, names, level, **environment):
    """The program, and the case in which it was ended."""
    command = [sys.executable, HERE / "fenced_cases.py", path, str(count), *names]
    environment = {**os.environ, "RNNFAST_CPU": level, **environment}
    done = subprocess.run(command, check=False, env=environment, capture_output=True, text=True)
    return done, path.read_text().strip() if path.exists() else "none began"


needs_mprotect = pytest.mark.skipif(
    sys.platform == "win32" or not hasattr(os, "pwrite"), reason="needs mmap and mprotect"
)


@needs_mprotect
@pytest.mark.parametrize("level", list(levels()))
def test_nothing_is_touched_beside_an_array(tmp_path, level):
    for name in form([NAMES], [[name] for name in NAMES]):
        count = cases_of(name[0])
        done, case = run(tmp_path / "case", count, name, level)
        assert case == "all", f"{case}\n{done.returncode}\n{done.stderr[-3000:]}"
        print(f"{level}, {name if form(0, 1) else 'all'}: {count} shapes, 0 faults")


OVERRUN = """
import sys
sys.path.insert(0, {here!r})
import ctypes
import numpy as np
from fences import Fences
fences = Fences()
fences.build()
fences.at_end = {at_end}
array = np.ones({size}, np.float32)
assert ctypes.string_at(array.ctypes.data, array.nbytes) == array.tobytes()
print("here", flush=True)
ctypes.string_at(array.ctypes.data + {beside}, 1)
print("survived")
"""


@needs_mprotect
@pytest.mark.parametrize("size", [1, 7, 1024, 5000])
@pytest.mark.parametrize("at_end", [True, False])
def test_a_touch_ends_the_process(size, at_end):
    beside = 4 * size if at_end else -1
    program = OVERRUN.format(here=str(HERE), at_end=at_end, size=size, beside=beside)
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.stdout == "here\n"
    assert done.returncode < 0
