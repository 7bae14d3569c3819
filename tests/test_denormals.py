"""Numbers below the smallest normal one: 0 in the kernels, where they would take long, and what
they are everywhere else in the process."""

import ctypes
import ctypes.util
import platform
import threading
from contextlib import contextmanager

import numpy as np
import pytest
from problems import DTYPES, LAYERS, make_problem

import rnnfast
from rnnfast import kernels, reference
from rnnfast.kernels import engine

pytestmark = pytest.mark.usefixtures("threads_for_small_calls")
dtypes = pytest.mark.parametrize("dtype", DTYPES)


def scaled(problem, factor):
    """Inputs, gradients and states that are so many times as large; not the weights."""
    weights = {id(W) for W in problem.weights}

    def change(array):
        is_float = array.dtype.kind == "f" and id(array) not in weights
        return (array * factor).astype(array.dtype) if is_float else array

    return problem.map(change)


@dtypes
def test_they_are_zero_in_the_kernels(dtype):
    """What comes in, and what is made of numbers that are not."""
    normal = np.finfo(dtype).smallest_normal
    one, zero = np.ones((1, 3), dtype), np.zeros(3, dtype)
    for x, weight in ((normal / 2, 1), (normal, 0.5)):
        xs = np.full((1, 2, 1), x, dtype)
        for layer in (
            rnnfast.TimeAffine(weight * one, zero),
            rnnfast.TimeRNN(weight * one, np.zeros((3, 3), dtype), zero),
        ):
            assert np.all(layer.forward(xs) == 0)
            assert np.all(layer.forward(2 * xs) > 0)
    W, v = np.ones((2, 3), dtype), np.full((2, 3), 2e-23 if dtype == "float32" else 1e-160, dtype)
    h = np.zeros_like(v)
    kernels.adagrad_step([W], [v], [[h]], None, 1.0, 0.1)
    assert np.all(h == 0)
    logits = np.array([[0, -100 if dtype == "float32" else -740]], dtype)
    _, _, ps = kernels.softmax_loss_forward(logits, np.zeros(1, int), -1)
    np.testing.assert_array_equal(ps, [[1, 0]])


@dtypes
def test_learning_rates_and_gradients_of_embeddings(dtype):
    """One is 0, even where the step would not be; the others are what they are in the twin."""
    normal = float(np.finfo(dtype).smallest_normal)
    W, dW = np.zeros(3, dtype), np.full(3, 0.5 / normal, dtype)
    for lr, step in ((normal / 2, 0), (normal, 0.5)):
        W[...] = 0
        kernels.sgd_step([W], [dW], [[]], None, 1.0, lr)
        np.testing.assert_array_equal(W, np.full(3, -step, dtype))
    found, expected = np.zeros((2, 4, 3), dtype)
    for backward, out in (
        (kernels.embedding_backward, found),
        (reference.ops.embedding_backward, expected),
    ):
        backward(np.full((2, 3), normal / 4, dtype), np.array([1, 1]), out)
    assert found[1, 0] == normal / 2
    np.testing.assert_array_equal(found, expected)


@dtypes
@pytest.mark.parametrize("name", LAYERS)
def test_results_differ_from_those_of_the_twin_by_as_little(name, dtype):
    smallest = np.finfo(dtype).smallest_normal
    problem = scaled(make_problem(name, dtype), 8 * smallest)
    ours, twin = problem.run(rnnfast), problem.run(reference)
    for key in ours:
        size = np.abs(twin[key]).max()
        rounding = size * (2e-5 if dtype == "float32" else 1e-12)
        assert np.abs(ours[key] - twin[key]).max() <= rounding + 100 * smallest, key


def has_denormals():
    """Whether a thread has them; the arithmetic is NumPy's, and Python's own."""
    double, single = np.full(64, 5e-324), np.full(64, 1e-45, np.float32)
    own = float("5e-324")
    return bool(
        np.all(double * 1.0 > 0) and np.all(single * np.float32(1) > 0) and own * 1.0 > 0
    ) and bool(np.all(np.full(64, 3e-308) / 4 > 0) and 3e-308 / 4 > 0)


def in_every_thread_of_openmp(function):
    """What it returns in each; they are those that the kernels have, and wait for the next call."""
    found = []
    try:
        openmp = ctypes.CDLL(ctypes.util.find_library("gomp") or "libgomp.so.1")
        parallel = openmp.GOMP_parallel
    except (OSError, AttributeError):
        pytest.skip("the OpenMP of this Python is not GNU's")
    task = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(lambda _: found.append(function()))
    parallel(task, None, engine.get_num_threads(), 0)
    return found


def calls():
    """Something that starts threads, of every kernel that has a task, by name."""
    rng = np.random.default_rng(0)
    model = rnnfast.Rnnlm(7, 4, 5, rng=0)
    yield "generate", lambda: rnnfast.generate(model, [1, 2], 5, samples=9, rng=rng)
    for name in LAYERS:
        yield name, lambda name=name: make_problem(name, "float32", (9, 5, 4, 6, 7)).run(rnnfast)
    arrays = [np.ones((300, 300), np.float32)]
    yield "sgd", lambda: kernels.sgd_step(arrays, arrays, [[]], None, 1.0, 0.1)
    yield "scale", lambda: kernels.scale_arrays(arrays, None, 1.0)
    yield "clip", lambda: kernels.clip_arrays(arrays, None, 1.0)
    yield "squares", lambda: kernels.sum_of_squares(arrays, None)


CALLS = dict(calls())


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_they_are_what_they_were_in_the_rest_of_the_process(threads):
    """After each call, in the thread that made it, in others, and in those of OpenMP."""
    engine.set_num_threads(threads)
    assert has_denormals()
    for name, call in CALLS.items():
        call()
        assert has_denormals(), name
    found = []
    other = threading.Thread(target=lambda: found.append(has_denormals()))
    other.start()
    other.join()
    assert found == [True]
    if engine.HAS_OPENMP:
        assert in_every_thread_of_openmp(has_denormals) == [True] * threads


def test_they_are_what_they_were_while_another_thread_is_in_a_kernel():
    """And in one that started in the middle of a call, as a thread has the flags of its maker."""
    engine.set_num_threads(2)
    stop, found = threading.Event(), []

    def call():
        problem = make_problem("TimeLSTM", "float32", (20, 20, 30, 60, 1))
        while not stop.is_set():
            problem.run(rnnfast)
            found.append(has_denormals())

    caller = threading.Thread(target=call)
    caller.start()
    for _ in range(50):
        assert has_denormals()
        other = threading.Thread(target=lambda: found.append(has_denormals()))
        other.start()
        other.join()
    stop.set()
    caller.join()
    assert all(found)


@pytest.mark.parametrize("threads", [1, 2])
def test_they_are_what_they_were_after_an_error(threads):
    engine.set_num_threads(threads)
    problem = make_problem("TimeLSTM", "float32")
    layer = problem.layer(rnnfast)
    problem.forward(layer)
    layer.grads[0].shape = layer.grads[0].shape[::-1]
    with pytest.raises(ValueError, match="weights and gradients"):
        problem.backward(layer)
    with pytest.raises(TypeError, match="float32 or float64"):
        kernels.affine_forward(np.ones((2, 3), int), np.ones((3, 4)), np.ones(4))
    assert has_denormals()


def test_a_denormal_temperature_is_a_temperature():
    """By which equals are divided: 0 by 0 if it was 0."""
    models = [rnnfast.Rnnlm(7, 4, 5, rng=0, ops=ops) for ops in (kernels, reference.ops)]
    for model in models:
        W, b = model.affine.params
        W[...], b[...] = 0, [0, 0, 0, 1, 1, 1, 0]
    for temperature in (5e-324, 1e-310, 1e-300):
        ours, twins = (
            rnnfast.generate(model, [1], 50, temperature=temperature, rng=0) for model in models
        )
        assert {*ours[1:]} == {3, 4, 5}
        np.testing.assert_array_equal(ours, twins)


UPWARD = {"x86_64": 0x800, "AMD64": 0x800, "aarch64": 0x400000, "arm64": 0x400000}


@contextmanager
def rounding_upward():
    """In this thread alone."""
    try:
        libm = ctypes.CDLL(ctypes.util.find_library("m"))
        before = libm.fegetround()
    except (OSError, AttributeError, TypeError):
        pytest.skip("there is no libm")
    assert libm.fesetround(UPWARD[platform.machine()]) == 0
    try:
        yield
        assert libm.fegetround() == UPWARD[platform.machine()]
    finally:
        libm.fesetround(before)


@pytest.mark.skipif(platform.machine() not in UPWARD, reason="its numbers are not known here")
@pytest.mark.parametrize("name", LAYERS)
def test_all_threads_round_alike(name):
    """Whatever the caller has set for its own, which it has again afterwards."""
    found = []
    for threads in (1, 2, 3):
        engine.set_num_threads(threads)
        problem = make_problem(name, "float32", (9, 5, 4, 6, 7))
        problem.run(rnnfast)  # now there are these threads: a new one rounds as who starts it
        with rounding_upward():
            found.append(problem.run(rnnfast))
    for other in found[1:]:
        for key, result in found[0].items():
            np.testing.assert_array_equal(other[key], result, err_msg=key)
