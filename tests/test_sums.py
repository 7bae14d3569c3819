"""Gradients that are sums over very many rows: rounding errors do not grow with the rows.

Equal numbers are the hardest: what is added is always rounded in the same direction. One term after
the other, 2^21 of them in float32 are off by 1e-2.
"""

import numpy as np
import pytest

import rnnfast
from rnnfast import kernels
from rnnfast.kernels import engine

M = 2**21
FLOAT32 = 2e-6  # relative; NumPy's sum of such a column, which is pairwise, is good to 2e-7


def relative_error(ours, true):
    return np.abs(ours - true).max() / np.abs(true).max()


def numbers(kind, *shape):
    rng = np.random.default_rng(0)
    return (rng.random(shape) if kind == "random" else np.full(shape, 0.1)).astype(np.float32)


@pytest.mark.parametrize("kind", ["equal", "random"])
@pytest.mark.parametrize("rows", [4096, M])
def test_affine(kind, rows):
    x, dout, W = numbers(kind, rows, 3), numbers(kind, rows, 5), numbers(kind, 3, 5)
    dW, db = np.empty_like(W), np.empty(5, np.float32)
    kernels.affine_backward(dout, x, W, dW, db)
    assert relative_error(dW, x.astype(np.float64).T @ dout.astype(np.float64)) < FLOAT32
    assert relative_error(db, dout.sum(axis=0, dtype=np.float64)) < FLOAT32


def test_affine_with_loss():
    D, V = 3, 5
    x, W, b = numbers("equal", M, D), numbers("random", D, V), np.zeros(V, np.float32)
    targets = np.zeros(M, np.int64)
    _, _, cache = kernels.affine_loss_forward(x, W, b, targets, -1)
    dW, db = np.empty_like(W), np.empty_like(b)
    kernels.affine_loss_backward(cache, 1.0, dW, db)
    # all rows are the same
    logits = x[0].astype(np.float64) @ W
    p = np.exp(logits - logits.max())
    dlogits = p / p.sum() - (np.arange(V) == 0)
    assert relative_error(db, dlogits) < FLOAT32
    assert relative_error(dW, np.outer(x[0], dlogits)) < FLOAT32


@pytest.mark.parametrize("cell", ["RNN", "LSTM"])
@pytest.mark.parametrize("N", [M // 8, 512], ids=["rows", "steps"])
@pytest.mark.parametrize("indexed", [False, True])
def test_recurrent(cell, N, indexed):
    """Every row and step is the same: no state reaches the next step, so that the sum is known."""
    T, D, H = M // 8 // N * 2, 2, 3
    G = {"RNN": 1, "LSTM": 4}[cell]
    Wx = numbers("random", D, G * H)
    layer = getattr(rnnfast, f"Time{cell}")(Wx, np.zeros((H, G * H), "f"), np.zeros(G * H, "f"))
    layer.truncate_size = 1  # of the LSTM, whose cell state goes on
    if cell == "LSTM":  # forget gates are 0, so that all cell states are the same too
        layer.params[2][:H] = -200
    rows = numbers("equal", 1, D)
    index = np.zeros((N, T), np.int64)
    xs = rows[index]
    dhs = np.full((N, T, H), 0.1, np.float32)
    if indexed:
        layer.forward(rows, index=index)
    else:
        layer.forward(xs)
    layer.backward(dhs)
    small = type(layer)(*(W.astype(np.float64) for W in layer.params))
    small.forward(xs[:1, :1])
    small.backward(dhs[:1, :1])
    for name in ("Wx", "b"):
        true = N * T * small.named_grads()[name]
        assert relative_error(layer.named_grads()[name], true) < 1e-5, name


@pytest.mark.parametrize("cell", ["RNN", "LSTM"])
def test_recurrent_weights(cell):
    """dWh = sum over all steps but the first of h^T da, where h is the same in all of them."""
    N, T, D, H = 2048, 200, 1, 2
    G = {"RNN": 1, "LSTM": 4}[cell]
    rng = np.random.default_rng(0)
    xs = np.broadcast_to(rng.random((N, 1, D)).astype(np.float32), (N, T, D))
    weights = rng.random((D, G * H)), np.zeros((H, G * H)), rng.random(G * H)
    if cell == "LSTM":
        weights[2][:H] = -200
    layer = getattr(rnnfast, f"Time{cell}")(*(W.astype(np.float32) for W in weights))
    twin = getattr(rnnfast.reference, f"Time{cell}")(*(W.astype(np.float64) for W in layer.params))
    dhs = np.broadcast_to(rng.random((N, 1, H)).astype(np.float32), (N, T, H))
    for each in (layer, twin):
        each.truncate_size = 1
        each.forward(xs)
        each.backward(dhs)
    for ours, true in zip(layer.grads, twin.grads, strict=True):
        assert relative_error(ours, true) < FLOAT32


@pytest.mark.parametrize("order", ["C", "F"])
def test_embedding(order):
    ids = np.zeros(M, np.int64)
    ids[::2] = 2
    dout = np.full((M, 3), 0.1, np.float32, order=order)
    dW = np.ones((4, 3), np.float32, order=order)
    kernels.embedding_backward(dout, ids, dW)
    half = np.float64(np.float32(0.1)) * (M // 2)
    np.testing.assert_allclose(dW, np.outer([half, 0, half, 0], np.ones(3)), rtol=FLOAT32)


def test_bits_do_not_depend_on_threads(threads_for_small_calls):
    x, dout, W = numbers("random", 2**15 + 7, 13), numbers("random", 2**15 + 7, 70), None
    W = numbers("random", 13, 70)
    results = []
    for threads in (1, 2, 3):
        engine.set_num_threads(threads)
        dW, db = np.empty_like(W), np.empty(70, np.float32)
        kernels.affine_backward(dout, x, W, dW, db)
        results.append((dW, db))
    for dW, db in results[1:]:
        np.testing.assert_array_equal(dW, results[0][0])
        np.testing.assert_array_equal(db, results[0][1])


def test_what_is_not_finite_stays_so():
    x, dout = np.ones((2**15, 2), np.float32), np.ones((2**15, 3), np.float32)
    dout[5, 1] = np.inf
    W, dW, db = np.ones((2, 3), "f"), np.empty((2, 3), "f"), np.empty(3, "f")
    kernels.affine_backward(dout, x, W, dW, db)
    np.testing.assert_array_equal(np.isfinite(dW), [[True, False, True]] * 2)
    np.testing.assert_array_equal(np.isfinite(db), [True, False, True])
