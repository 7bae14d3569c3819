"""Forward and backward of one recurrent layer, float32, by pytest-benchmark.

All contestants are in one process here; `rnnfast bench` gives each its own.
"""

import pytest

import rnnfast
from rnnfast.bench import numpy_peer
from rnnfast.bench.duel import agree
from rnnfast.bench.tables.cases import SHAPES, layer


@pytest.mark.parametrize("shape", SHAPES[:4], ids=str)
@pytest.mark.parametrize("cell", ["rnn", "lstm"])
def test_forward_backward(benchmark, contestant, cell, shape):
    benchmark.group = f"{cell} forward+backward N,T,D,H = {shape}"
    options = layer("rnnfast", cell, shape).options
    task, twin = (m.Layer(rnnfast.get_num_threads(), **options) for m in (contestant, numpy_peer))
    for result, expected in zip(task.results(), twin.results(), strict=True):
        assert agree(result, expected)
    benchmark(task.run)
