"""Nothing grows from call to call: memory, of Python and of C alike, references, descriptors,
threads, files. RNNFAST_LONG=1 makes 10,000 calls of each case.

A process of its own calls everything again and again (leak_cases.py). There Python takes all of its
memory from malloc, which keeps nothing aside, so that glibc's count of the bytes in use is the same
after every call, and 16 bytes more in each of a few are seen.
"""

import ctypes
import json
import os
import subprocess
import sys

import pytest
from forms import LONG, SANITIZED, form
from ranks import TESTS

CALLS = form(48, 10_000)
RESIDENT = 1 << 19  # bytes, for what is not malloc's
ENVIRONMENT = {
    "PYTHONMALLOC": "malloc",
    "GLIBC_TUNABLES": "glibc.malloc.tcache_count=0",
    "MALLOC_ARENA_MAX": "1",
    "OMP_WAIT_POLICY": "passive",
    "OPENBLAS_NUM_THREADS": "1",
    "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)]),
}
FAULTS = {
    "leak: 16 bytes of C": "bytes",
    "leak: 16 bytes of Python": "bytes",
    "leak: a reference": "references",
    "leak: a descriptor": "descriptors",
    "leak: a file": "files",
    "leak: a thread": "threads",
}

pytestmark = [
    pytest.mark.skipif(SANITIZED, reason="AddressSanitizer has a malloc of its own"),
    pytest.mark.skipif(
        sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "mallinfo2"),
        reason="bytes in use are counted by glibc 2.33 or newer",
    ),
]


def test_nothing_grows_with_the_number_of_calls(tmp_path):
    """And every kind of leak is seen where there is one, on purpose, of 16 bytes at least."""
    command = [sys.executable, str(TESTS / "leak_cases.py"), str(CALLS), str(tmp_path)]
    found, errors = {}, 0
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=os.environ | ENVIRONMENT
    ) as process:
        for line in process.stdout:
            case = json.loads(line)
            found[case["name"]], errors = grown(case), errors + case["errors"]
            if LONG:
                print(line, end="", flush=True)
    assert process.returncode == 0
    for name, kind in FAULTS.items():
        assert kind in found.pop(name), f"{name} is not seen"
    if LONG:
        print(f"{len(found)} cases, {CALLS:,} calls of each, {errors:,} errors among them")
    assert len(found) > 100
    assert errors > CALLS
    assert {name: more for name, more in found.items() if more} == {}


def grown(case):
    """What there is more of after each third of the calls, by kind. What is made once and kept, as
    a table of Python's that gets larger, is no leak, nor what a thread that ends frees later."""
    references = max(min(map(abs, thirds)) for thirds in case["references"])
    most = {
        # threads leave some to each other
        "bytes": (2000 if "threads" in case["name"] else 200) + case["calls"] // 8,
        "resident": RESIDENT,
        "descriptors": 0,
        "threads": 0,
        "files": 0,
    }
    more = {kind: case[kind] for kind, bound in most.items() if min(case[kind]) > bound}
    return more | ({"references": references} if references >= case["calls"] // 4 else {})
