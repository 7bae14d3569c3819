"""Fixtures that more than one file of tests uses, and which tests only one thread can run."""

import os
import signal
import sys

import pytest

from rnnfast.kernels import engine

# Why a test runs in one thread where others run in several at once (.ci/parallel): by what it is
# given, or by its own name or that of its file, and by what it calls. pytest-run-parallel knows by
# itself of monkeypatch, capsys, pytest.warns and the like.
ALONE = {
    "start": "the fixture has one folder for all threads",
    "file": "the fixture has one file for all threads",
    "old": "the fixture has one file for all threads",
    "faults_of": "the fixture has one folder for all threads",
    "of_ranks": "the fixture starts ranks that write into one folder",
    "outcomes": "the fixture starts ranks that write into one folder",
    "of_one": "the fixture computes what it keeps for all",
    "resumed": "the fixture starts ranks that write into one folder",
    "whole": "the fixture has runs that it makes at the first call",
    "test_threads_of_a_call": "it looks at how many threads the process has",
    "limited": "the fixture limits the files of the process",
    **dict.fromkeys(
        (
            "test_torch.py",
            "test_torch_autograd.py",
            "test_torch_modules.py",
            "test_torch_programs.py",
        ),
        "PyTorch's global generator, and what `accelerate` replaces, are those of all threads",
    ),
}
CALLS = {
    "testmod": "doctest replaces sys.stdout and linecache",
    "manual_seed": "PyTorch's global generator is that of all threads",
    "seed": "NumPy's global generator is that of all threads",
    "tracemalloc": "it counts the memory of all threads",
    "raise_signal": "a signal is one of the process, and collected in its main thread",
}


def pytest_configure():
    """Signals do what they do in a terminal, whether or not a background job or nohup has had them
    ignored."""
    for name in ("SIGINT", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) == signal.SIG_IGN:
            own = signal.default_int_handler if name == "SIGINT" else signal.SIG_DFL
            signal.signal(number, own)


def pytest_collection_modifyitems(items):
    for item in items:
        reasons = [CALLS.get(name) for name in item.function.__code__.co_names]
        given = (*item.fixturenames, item.originalname, item.path.name)
        reasons += [ALONE.get(name) for name in given]
        if any(reasons):
            item.add_marker(pytest.mark.thread_unsafe(reason=next(filter(None, reasons))))


@pytest.fixture
def threads_for_small_calls():
    """Small calls use all threads too; afterwards as many as before."""
    threads, flops = engine.get_num_threads(), engine.set_serial_flops(0)
    yield
    engine.set_num_threads(threads)
    engine.set_serial_flops(flops)


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory):
    """The targets of `hostile/fuzz.py`, whose folder is then the working one."""
    from hostile import fuzz

    before = os.getcwd()
    yield fuzz.Fuzz(tmp_path_factory.mktemp("fuzz"))
    os.chdir(before)


@pytest.fixture
def no_kernels(monkeypatch):
    """Every compiled function raises, under every name that a module of the package has for it.

    Returns the names: {name of the module: names in it}.
    """
    modules = {name: m for name, m in sys.modules.items() if name.partition(".")[0] == "rnnfast"}
    replaced = {}
    for module_name, module in modules.items():
        for name, value in list(vars(module).items()):
            if "cython_function" in type(value).__name__:
                monkeypatch.setattr(module, name, _refuses(f"{module_name}.{name}"))
                replaced.setdefault(module_name, set()).add(name)
    return replaced


def _refuses(name):
    def compiled(*_, **__):
        raise AssertionError(f"{name} was called, which is compiled")

    return compiled
