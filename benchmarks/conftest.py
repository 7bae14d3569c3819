"""Contestants of pytest-benchmark, and the header that says where the figures were measured."""

from importlib import import_module

import pytest

import rnnfast
from rnnfast.bench.duel import CONTESTANTS


def pytest_benchmark_update_json(output_json):
    output_json["rnnfast"] = rnnfast.build_info()


def pytest_report_header():
    return [f"{name}: {value}" for name, value in rnnfast.build_info().items()]


@pytest.fixture(params=["rnnfast", "numpy", "torch"])
def contestant(request):
    """The tasks of rnnfast, of its NumPy twin, and of PyTorch where it is installed."""
    module, library, label = CONTESTANTS[request.param]
    pytest.importorskip(library, reason=f"{label} is not installed")
    return import_module(module)
