"""Fixtures that more than one file of tests uses."""

import sys

import pytest

from rnnfast.kernels import engine


@pytest.fixture
def threads_for_small_calls():
    """Small calls use all threads too; afterwards as many as before."""
    threads, flops = engine.get_num_threads(), engine.set_serial_flops(0)
    yield
    engine.set_num_threads(threads)
    engine.set_serial_flops(flops)


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
