"""A training step of a language model (embedding, cell, affine, loss, SGD), by pytest-benchmark.

All contestants are in one process here; `rnnfast bench` gives each its own.
"""

import pytest

import rnnfast
from rnnfast.bench import numpy_peer
from rnnfast.bench.duel import agree
from rnnfast.bench.tables.cases import LANGUAGE_MODELS, training


@pytest.mark.parametrize("model", [LANGUAGE_MODELS[0], LANGUAGE_MODELS[2]], ids=str)
def test_training_step(benchmark, contestant, model):
    benchmark.group = f"training step cell,N,T,V,D,H = {model}"
    options = training("rnnfast", model).options
    threads = rnnfast.get_num_threads()
    task, twin = (m.Training(threads, **options) for m in (contestant, numpy_peer))
    for result, expected in zip(task.results(), twin.results(), strict=True):
        assert agree(result, expected)
    benchmark(task.run)
