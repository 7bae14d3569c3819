"""Threads: of OpenMP, of Python, and processes made by fork. Results are the same bits."""

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from forms import PATIENCE, form
from problems import MODELS, OPTIMIZERS, make_problem

import rnnfast
from rnnfast import _signals, kernels
from rnnfast.kernels import engine
from rnnfast.training import folder

THREADS = (1, 2, 3, 4)
SHARED = ["TimeRNN", "TimeGRU reset_after", "TimeLSTM", "TimeBiLSTM", "TimeAffine"]


pytestmark = pytest.mark.usefixtures("threads_for_small_calls")


def same_bits(run):
    """Whether run() returns the same arrays for any number of threads."""
    results = []
    for threads in THREADS:
        engine.set_num_threads(threads)
        results.append(run())
    for other in results[1:]:
        for ours, theirs in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(ours, theirs, strict=True)


@pytest.mark.parametrize("Optimizer", OPTIMIZERS)
def test_optimizers(Optimizer):
    def run():
        rng = np.random.default_rng(0)
        W, dW = (rng.standard_normal((7, 10007)).astype(np.float32) for _ in range(2))
        update = Optimizer()
        update.update([W], [dW])
        update.update([W], [dW])
        return W, rnnfast.clip_grads([dW], 1.0), dW

    same_bits(run)


@pytest.mark.parametrize("shape", [(1, 9, 300), (5, 33, 65), (700, 40, 1000)])
def test_affine_and_softmax(shape):
    M, D, V = shape
    rng = np.random.default_rng(0)
    x, W, b, dout = (rng.standard_normal(s, np.float32) for s in ((M, D), (D, V), V, (M, V)))
    targets = rng.integers(-1, V, M)

    def run():
        out, dW, db = kernels.affine_forward(x, W, b), np.empty_like(W), np.empty_like(b)
        dx = kernels.affine_backward(dout, x, W, dW, db)
        loss, _, probs = kernels.softmax_loss_forward(out, targets, -1)
        return out, dx, dW, db, loss, probs

    same_bits(run)


def test_sigmoid_loss():
    rng = np.random.default_rng(0)
    xs, sides = rng.standard_normal(50001, np.float32), rng.integers(-1, 2, 50001, np.int8)
    same_bits(lambda: kernels.sigmoid_loss_forward(xs, sides))


@pytest.mark.parametrize("Model", MODELS)
@pytest.mark.parametrize("N", [2, 17], ids=["units", "rows"])
def test_training(Model, N):
    ids = np.random.default_rng(0).integers(0, 300, (3, 2, N, 6))

    def run():
        model = Model(300, 40, 70, num_layers=2, rng=np.random.default_rng(1))
        optimizer = rnnfast.Adam()
        losses = []
        for xs, ts in ids:
            losses.append(model.forward(xs, ts))
            model.backward()
            rnnfast.clip_grads(model.grads, 0.5)
            optimizer.update(model.params, model.grads)
        return *losses, *model.params

    same_bits(run)


FORK = """
import ctypes, multiprocessing, os, signal, sys, threading
import numpy as np, rnnfast
from rnnfast.kernels import engine
engine.set_serial_flops(0)
rnnfast.set_num_threads(2)
THREADS = rnnfast.get_num_threads() if sys.platform == "linux" else 1

def train():
    model = rnnfast.Rnnlm(50, 20, 30, rng=np.random.default_rng(0))
    ids = np.random.default_rng(1).integers(0, 50, (2, 9, 7))
    optimizer = rnnfast.Adam()
    loss = model.forward(*ids)
    model.backward()
    optimizer.update(model.params, model.grads)
    logits = model.predict(ids[0])
    loss = rnnfast.TimeSoftmaxWithLoss().forward(logits, ids[1])
    return [np.array(loss), logits, *model.params]

before = train()

def works(threads=THREADS, tasks=False):
    same = all(map(np.array_equal, before, train()))
    if tasks:  # those of OpenMP are there, not only allowed
        assert len(os.listdir("/proc/self/task")) == threads
    found = rnnfast.get_num_threads()
    rnnfast.set_num_threads(2)
    return same and found == rnnfast.get_num_threads() == threads

def pool_works(_):
    return works()

def children(n, work, fork=os.fork):
    for k in range(n):
        child = fork()
        if child == 0:
            code = 1
            try:
                signal.alarm(60)  # it would wait for ever
                code = not work()
            finally:
                os._exit(code)
        status = os.waitpid(child, 0)[1]
        assert status == 0, f"child {k} of {n}: status {status}"
        assert all(map(np.array_equal, before, train()))  # the parent has its threads as before

def nested():
    if os.path.isdir("/proc/self/task"):
        assert works(tasks=True)
    children(1, works)
    return works()

def fork_of_c():
    # as servers do that are written in C: Python is told afterwards at most
    child = ctypes.PyDLL(None).fork()
    if child == 0:
        ctypes.pythonapi.PyOS_AfterFork_Child()
    return child

def nested_one_thread():
    children(1, lambda: works(1))
    return works(1)

if __name__ == "__main__":
    n = int(sys.argv[1])
    children(n, nested)
    print(f"{n} of {n} children and grandchildren with {THREADS} threads")
    with multiprocessing.get_context("fork").Pool(2, maxtasksperchild=3) as pool:
        assert all(pool.map(pool_works, range(n), 1))
    print(f"{n} of {n} calls in a pool of processes")
    children(2, nested_one_thread, fork_of_c)
    # while another thread is in its kernels, or forks
    done = False
    def beside(act):
        while not done:
            act()
    acts = (train, lambda: children(1, works))
    others = [threading.Thread(target=beside, args=(act,)) for act in acts]
    for other in others:
        other.start()
    try:
        children(n, works)
    finally:
        done = True
    for other in others:
        other.join()
    print(f"{n} of {n} children beside threads that train and fork")
"""


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork here")
def test_fork_of_a_process_that_has_used_threads(tmp_path):
    script = tmp_path / "forks.py"
    script.write_text(FORK)
    # Python warns of a fork beside threads, which is what is tested
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, script, str(form(5, 50))]
    subprocess.run(command, check=True, timeout=form(120, 1200) * PATIENCE, env=environment)


def in_python_threads(jobs):
    with ThreadPoolExecutor(len(jobs)) as pool:
        return [future.result() for future in [pool.submit(job) for job in jobs]]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", [*SHARED, "TimeSoftmaxWithLoss"])
def test_python_threads_with_layers_of_their_own(name, threads):
    engine.set_num_threads(threads)
    problems = [make_problem(name, sizes=(8 * k, 20, 30, 20 * k, 150 * k)) for k in (1, 2, 3)]

    def run(problem):
        layer = problem.layer(rnnfast)
        results = [problem.forward(layer) | problem.backward(layer)]
        for _ in range(10):
            if problem.state:
                layer.set_state(*problem.state)
            results.append(problem.forward(layer) | problem.backward(layer))
        return results

    alone = [run(problem)[0] for problem in problems]
    for expected, results in zip(
        alone, in_python_threads([lambda p=p: run(p) for p in problems]), strict=True
    ):
        for result in results:
            for key in expected:
                np.testing.assert_array_equal(result[key], expected[key], err_msg=key)


@pytest.mark.parametrize("name", SHARED)
def test_python_threads_may_call_forward_of_one_layer(name):
    """As in a server: no state carried, blocks of different sizes."""
    layer = make_problem(name, sizes=(1, 1, 30, 60, 150)).layer(rnnfast)
    layer.stateful = False
    blocks = [make_problem(name, sizes=(n, 40 // n, 30, 60, 150)).inputs[0] for n in (1, 8, 40)]
    alone = [layer.forward(xs) for xs in blocks]

    def run(xs, expected):
        return all(np.array_equal(layer.forward(xs), expected) for _ in range(50))

    assert all(in_python_threads([lambda a=a: run(*a) for a in zip(blocks, alone, strict=True)]))


ONE_LAYER = """
import sys
from concurrent.futures import ThreadPoolExecutor
import numpy as np, rnnfast

sys.setswitchinterval(1e-6)
rng = np.random.default_rng(0)
name = sys.argv[1]
sizes = {"TimeRNN": ((30, 40), (40, 40), 40), "TimeLSTM": ((30, 160), (40, 160), 160),
         "TimeAffineWithLoss": ((1, 2), 2)}[name]
layer = getattr(rnnfast, name)(*(rng.standard_normal(size) for size in sizes))
# arrays that must be copied: the copy lets other threads run
D, scale = sizes[0][0], 50 if name == "TimeAffineWithLoss" else 1
blocks = [rng.standard_normal((n, t, D)) for n, t in
          ((40, 50 * scale), (1, 300 * scale), (64, 40 * scale), (7, 130 * scale))]
blocks = [copy(xs) for xs, copy in zip(blocks, (np.asfortranarray, np.flip) * 2)]

def forward(xs):
    if name == "TimeAffineWithLoss":
        return layer.forward(xs, np.ones(xs.shape[:2], int), need_gradient=False)
    return layer.forward(xs)

def same(xs, expected):
    return all(np.array_equal(forward(xs), expected) for _ in range(60 + 2 * scale))

alone = [forward(xs) for xs in blocks]
with ThreadPoolExecutor(4) as pool:
    assert all(pool.map(same, blocks, alone))
"""


@pytest.mark.parametrize("name", ["TimeRNN", "TimeLSTM", "TimeAffineWithLoss"])
def test_python_threads_may_call_forward_of_one_layer_with_arrays_that_are_copied(name):
    """In a process of its own, which would die if two calls used the same memory."""
    command = [sys.executable, "-c", ONE_LAYER, name]
    done = subprocess.run(
        command, check=False, timeout=120 * PATIENCE, capture_output=True, text=True
    )
    assert done.returncode == 0, (done.returncode, done.stderr)


def forward_interrupted(layer, at, forward, other):
    """forward(), where other() happens before its line number `at`; whether it has so many."""
    lines = 0

    def trace(frame, event, _):
        nonlocal lines
        if "rnnfast" not in frame.f_code.co_filename:
            return None
        lines += event == "line"
        if event == "line" and lines == at:
            other()
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        forward()
    finally:
        sys.settrace(before)
    return lines >= at


@pytest.mark.parametrize("module", [rnnfast, rnnfast.reference], ids=["compiled", "numpy"])
@pytest.mark.parametrize("name", ["TimeRNN", "TimeLSTM", "TimeAffineWithLoss", "LSTM"])
def test_what_two_forwards_leave_for_backward_is_that_of_one(name, module):
    """Whatever line of the one it is before which the other happens."""
    loss = name == "TimeAffineWithLoss"
    problem = make_problem("TimeAffine" if loss else name, sizes=(1, 1, 3, 4, 5))
    layer = getattr(module, name)(*problem.weights)
    rng = np.random.default_rng(0)

    def block(N, T):
        xs = rng.standard_normal((N, T, 3))
        if loss:
            ts = rng.integers(0, 5, (N, T))
            return lambda of: of.forward(xs, ts), lambda of: of.backward()
        if name == "LSTM":
            states, dstates = rng.standard_normal((2, 2, N, 4))
            return lambda of: of.forward(xs[:, 0], *states), lambda of: of.backward(*dstates)[0]
        dhs = rng.standard_normal((N, T, 4))
        return lambda of: of.forward(xs), lambda of: of.backward(dhs)

    blocks, expected = [block(2, 5), block(3, 4)], []
    for forward, backward in blocks:
        alone = getattr(module, name)(*problem.weights)
        forward(alone)
        expected.append(backward(alone))
    (ours, _), (others, _) = blocks
    at = 0
    while forward_interrupted(layer, at := at + 1, lambda: ours(layer), lambda: others(layer)):
        found = []
        for _, backward in blocks:
            with contextlib.suppress(ValueError):  # the gradient has the shape of the other block
                found.append(backward(layer))
        assert len(found) == (2 if loss else 1)
        assert any(np.array_equal(found[0], dxs) for dxs in expected), at
    assert at > 10


@pytest.mark.parametrize("name", ["TimeRNN", "TimeLSTM", "TimeAffineWithLoss"])
def test_python_threads_that_train_one_layer_get_errors_at_worst(name):
    loss = name == "TimeAffineWithLoss"
    problem = make_problem("TimeAffine" if loss else name, sizes=(1, 1, 30, 60, 900))
    layer = getattr(rnnfast, name)(*problem.weights)

    def run(N):
        rng, refused = np.random.default_rng(N), 0
        for _ in range(60):
            xs = rng.standard_normal((N, 40 // N, 30))
            try:
                if loss:
                    layer.forward(xs, rng.integers(0, 900, xs.shape[:2]))
                    layer.backward()
                else:
                    layer.backward(np.ones_like(layer.forward(xs)))
            except (RuntimeError, ValueError, TypeError):
                refused += 1
        return refused

    in_python_threads([lambda N=N: run(N) for N in (1, 8, 40)])
    assert run(4) == 0  # and afterwards it works


@pytest.mark.parametrize("name", ["TimeLSTM", "TimeBiLSTM", "TimeBiGRU"])
def test_a_python_thread_that_looks_at_states_or_sets_the_number_of_threads(name):
    """While another one calls the layer, with outputs that stay the same."""
    problem = make_problem(name)
    layer = getattr(rnnfast, name)(*problem.weights)
    blocks = [np.random.default_rng(N).standard_normal((N, 60 // N, 4)) for N in (2, 5)]
    expected, states = [], []
    for xs in blocks:
        expected.append(layer.forward(xs))
        states.append(layer.hs)
    done = []

    def call():
        try:
            for k in range(60):
                xs, lengths = blocks[k % 2], None
                if k % 3 == 0:  # sorting them lets other threads run
                    lengths = np.full(len(xs), xs.shape[1])
                np.testing.assert_array_equal(layer.forward(xs, lengths=lengths), expected[k % 2])
        finally:
            done.append(True)

    def look():
        while not done:
            with contextlib.suppress(RuntimeError):
                seen = layer.hs
                assert any(np.array_equal(seen, found) for found in states)

    def set_threads():
        while not done:
            for n in (1, 2):
                engine.set_num_threads(n)

    in_python_threads([call, look, set_threads])


def test_a_folder_that_a_thread_is_leaving_is_in_use_by_that_thread(tmp_path, monkeypatch):
    """Not by this process, as if it were another one."""
    leave, errors = folder._leave, []

    def take():
        with pytest.raises(folder.FolderInUse) as caught, folder.locked(tmp_path / "run"):
            pass
        errors.append(str(caught.value))

    def leave_beside_another(*args):
        monkeypatch.undo()
        in_python_threads([take])
        leave(*args)

    monkeypatch.setattr(folder, "_leave", leave_beside_another)
    with folder.locked(tmp_path / "run"):
        pass
    assert "by another thread of this process" in errors[0]


FORK_BESIDE_A_FOLDER = """
import os, signal, sys
from pathlib import Path
from rnnfast.training import folder

with folder._mutex:  # as in another thread that takes a folder at that moment
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        with folder.locked(Path(sys.argv[1])):
            os._exit(0)
assert os.waitpid(child, 0)[1] == 0
"""


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork here")
def test_a_child_takes_a_folder_though_a_thread_of_its_parent_was_about_to(tmp_path):
    command = [sys.executable, "-c", FORK_BESIDE_A_FOLDER, tmp_path / "run"]
    subprocess.run(command, check=True, timeout=120)


def test_a_signal_is_kept_whoever_else_collects():
    """Within it, in the same thread or in another one, before the signal comes."""

    def collect():
        with _signals.collecting():
            return _signals.kept()

    with contextlib.suppress(rnnfast.TrainingInterrupted), _signals.collecting():
        before = collect(), *in_python_threads([collect] * 2)
        signal.raise_signal(signal.SIGTERM)
        during = _signals.kept()
        raise rnnfast.TrainingInterrupted
    assert (before, during) == ((0, 0, 0), signal.SIGTERM)
