"""Contestants of the benchmarks, and the header that says where the figures were measured."""

import pytest

import rnnfast

CONTESTANTS = ("rnnfast", "numpy", "torch")


def pytest_benchmark_update_json(output_json):
    output_json["rnnfast"] = rnnfast.build_info()


def pytest_report_header():
    return [f"{name}: {value}" for name, value in rnnfast.build_info().items()]


@pytest.fixture(params=CONTESTANTS)
def contestant(request):
    """rnnfast, its NumPy twin, and PyTorch where it is installed, all on the same threads."""
    if request.param == "torch":
        torch = pytest.importorskip("torch", reason="PyTorch is not installed")
        torch.set_num_threads(rnnfast.get_num_threads())
    return request.param
