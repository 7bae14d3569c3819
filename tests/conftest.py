"""Fixtures that more than one file of tests uses."""

import pytest

from rnnfast.kernels import engine


@pytest.fixture
def threads_for_small_calls():
    """Small calls use all threads too; afterwards as many as before."""
    threads, flops = engine.get_num_threads(), engine.set_serial_flops(0)
    yield
    engine.set_num_threads(threads)
    engine.set_serial_flops(flops)
