"""`rnnfast reproduce`: every row on all kernels; and that faulty variants of them are caught.

The mutants are faults that the notebooks have, or might have had.
"""

import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import threadpoolctl

from rnnfast import TimePerplexityLoss, TimeSoftmax, TimeSquaredLoss, kernels
from rnnfast.cli import main
from rnnfast.errors import TrainingDiverged
from rnnfast.reference import ops as numpy_ops
from rnnfast.reference import recurrent
from rnnfast.systems import reproduce

NOTEBOOKS = ("000", "001", "002", "003", "004")


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """These networks are small: more threads only wait for each other."""
    with threadpoolctl.threadpool_limits(1, "blas"):
        yield


def test_command(capsys):
    """On the compiled kernels, in both dtypes."""
    assert main(["reproduce"]) == 0
    output, errors = capsys.readouterr()
    lines = output.splitlines()
    assert not errors
    for notebook in NOTEBOOKS:
        assert sum(line.startswith(f"{notebook} ") for line in lines) >= 9
    assert "WRONG" not in output
    assert "rows are within tolerance" in lines[-1]
    assert "103.29" in output
    assert "untrained" in output


def test_command_with_a_wrong_row(monkeypatch, capsys):
    wrong = reproduce.Row("000", "loss", 1.0, 1.5, 1e-12)
    right = reproduce.Row("000", "loss", 1.0, 1.0, 1e-12)
    answers = {"float64": [right, right], "float32": [right, wrong]}
    monkeypatch.setattr("rnnfast.cli.reproduce.rows", lambda dtype: answers[dtype])
    assert main(["reproduce"]) == 1
    output, errors = capsys.readouterr()
    assert output.count("WRONG") == 1
    assert "1 of 2 rows are out of tolerance" in errors


PRODUCTS = {
    *("recurrent_forward", "affine_forward", "affine_backward", "affine_loss_forward"),
}


def in_bf16(function):
    """A function of the kernels with products in bf16, of what is float32."""

    def call(*args, **options):
        more = {"precision": "bfloat16"} if args[1].dtype == np.float32 else {}
        return function(*args, **options, **more)

    return call


@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_rows_in_bf16(notebook, monkeypatch):
    """Within 5 %; within 20 % gradients of saturated units, and a loss that is nearly 0."""
    ops = ModuleType("kernels_in_bf16")
    vars(ops).update(
        {
            name: in_bf16(function) if name in PRODUCTS else function
            for name, function in vars(kernels).items()
            if not name.startswith("_")
        }
    )
    monkeypatch.setitem(sys.modules, ops.__name__, ops)  # so that layers can be copied
    differences = []
    for row in reproduce.rows("float32", ops, [notebook]):
        faint = row.quantity.startswith("normal weights") or 0 < row.expected < 1e-3
        tolerance = 0.2 if faint else 0.05
        assert row.difference <= tolerance, row
        differences.append(row.difference)
    assert max(differences) > 1e-4


@pytest.mark.parametrize("notebook", NOTEBOOKS)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_rows_on_the_numpy_twins(dtype, notebook, no_kernels):
    for row in reproduce.rows(dtype, numpy_ops, [notebook]):
        assert row.ok, row


def test_a_row_is_wrong_where_it_should_be():
    def row(expected, ours, tolerance, at_most=False):
        return reproduce.Row("000", "loss", expected, ours, tolerance, at_most)

    assert row(200.0, 200.1, 1e-3).ok
    assert not row(200.0, 200.3, 1e-3).ok
    assert not row(0.0, 2e-3, 1e-3).ok
    assert not row(1.0, float("nan"), 1e-3).ok
    assert not row(1.0, float("nan"), 0.0, at_most=True).ok
    assert row(1.0, -5.0, 0.0, at_most=True).ok
    assert not row(1.0, 1.1, 0.0, at_most=True).ok


# Mutants. -------------------------------------------------------------------------------------


def passes(notebook, ops=numpy_ops):
    """Whether all rows of a notebook are right on `ops`; an error counts as a wrong one."""
    try:
        with np.errstate(all="ignore"):
            return all(row.ok for row in reproduce.rows("float64", ops, [notebook]))
    except (TrainingDiverged, FloatingPointError):
        return False


def mutant(**functions):
    """The NumPy twins with some functions replaced."""
    return SimpleNamespace(**(vars(numpy_ops) | functions))


def mutant_of(pairs):
    """The NumPy twins with the kernels of some cells replaced, (forward, backward) by name."""

    def recurrent_forward(cell, xs, weights, states, **_):
        states = np.zeros((cell.S, len(xs), len(weights[1]))) if states is None else states
        hs, last, cache = pairs[cell.name][0](xs, *weights, states)
        return hs, np.stack(last), cache

    def recurrent_backward(cell, dhs, dstates, cache, weights, grads, *, truncate=0, **_):
        if dstates is None:
            dstates = np.zeros((cell.S, len(dhs), len(weights[1])))
        dxs, dfirst = pairs[cell.name][1](dhs, dstates, cache, *weights, *grads, truncate)
        return dxs, np.stack(dfirst)

    return mutant(recurrent_forward=recurrent_forward, recurrent_backward=recurrent_backward)


def rnn_with(
    activation=np.tanh, derivative=lambda h: 1 - h**2, flow=1.0, first=0, transposed=False
):
    """Both kernels of the plain layer, with one thing changed."""

    def forward(xs, Wx, Wh, b, states):
        (h0,) = states
        hs = np.empty((xs.shape[0], xs.shape[1] + 1, h0.shape[1]), h0.dtype)
        hs[:, 0] = h0
        for t in range(xs.shape[1]):
            hs[:, t + 1] = activation(xs[:, t] @ Wx + hs[:, t] @ Wh + b)
        return hs[:, 1:].copy(), (hs[:, -1].copy(),), (xs.copy(), hs)

    def backward(dhs, dstates, cache, Wx, Wh, dWx, dWh, db, truncate):
        (dh,), (xs, hs) = dstates, cache
        dxs = np.zeros_like(xs)
        for dW in (dWx, dWh, db):
            dW[...] = 0
        for t in reversed(range(first, xs.shape[1])):
            if recurrent.cut_after(t, xs.shape[1], truncate):
                dh = np.zeros_like(dh)
            da = (dhs[:, t] + dh) * derivative(hs[:, t + 1])
            dWx += xs[:, t].T @ da
            dWh += da.T @ hs[:, t] if transposed else hs[:, t].T @ da
            db += da.sum(axis=0)
            dxs[:, t] = da @ Wx.T
            dh = flow * da @ Wh.T
        return dxs, (dh,)

    return {"rnn": (forward, backward)}


def lstm_with(h_flow=1.0, forget_of=lambda c: c, g_derivative=lambda g: 1 - g**2, first=0):
    """Both kernels of the LSTM, with one thing of the gradient changed."""

    def forward(xs, Wx, Wh, b, states):
        (h, c), steps = states, []
        for x in xs.swapaxes(0, 1):
            f, g, i, o = np.split(x @ Wx + h @ Wh + b, 4, axis=1)
            f, i, o = recurrent.sigmoid(f), recurrent.sigmoid(i), recurrent.sigmoid(o)
            before, g = (h, c), np.tanh(g)
            c = f * c + g * i
            h = o * np.tanh(c)
            steps.append((x, *before, f, g, i, o, np.tanh(c), h))
        return np.stack([step[-1] for step in steps], axis=1), (h, c), steps

    def backward(dhs, dstates, cache, Wx, Wh, dWx, dWh, db, truncate):
        dh, dc = dstates
        for dW in (dWx, dWh, db):
            dW[...] = 0
        for t in reversed(range(first, len(cache))):
            x, h, c, f, g, i, o, tanh_c, _ = cache[t]
            dh = dhs[:, t] + dh
            dc = dc + dh * o * (1 - tanh_c**2)
            da_f = dc * forget_of(c) * f * (1 - f)
            da_g, da_i = dc * i * g_derivative(g), dc * g * i * (1 - i)
            da = np.hstack((da_f, da_g, da_i, dh * tanh_c * o * (1 - o)))
            dWx += x.T @ da
            dWh += h.T @ da
            db += da.sum(axis=0)
            dh = h_flow * da @ Wh.T
            dc = dc * f
        return np.zeros((*dhs.shape[:2], len(Wx))), (dh, dc)

    return {"lstm": (forward, backward)}


def lost_repeated_ids(dout, ids, dW, **_):
    dW[...] = 0
    for row, tokens in zip(dout, ids, strict=True):
        dW[tokens] += row


def sign_error(probs, targets, ignore_label, scale):
    return -numpy_ops.softmax_loss_backward(probs, targets, ignore_label, scale)


@pytest.mark.parametrize("notebook", ["000", "001", "003", "004"])
def test_what_the_mutants_are_made_of_is_right(notebook):
    """Or else they would be caught for another reason."""
    assert passes(notebook, mutant_of(rnn_with() | lstm_with()))


@pytest.mark.parametrize("notebook", ["000", "001", "003"])
@pytest.mark.parametrize(
    "changes",
    [
        {"activation": np.tan, "derivative": lambda h: 1 + h**2},
        {"derivative": lambda h: 1 + h**2},
        {"flow": 0.0},
        {"flow": -1.0},
        {"first": 1},
        {"transposed": True},
    ],
    ids=["tan for tanh", "the derivative of tan", "no gradient through time", "sign error",
         "first step left out", "dWh transposed"],
)  # fmt: skip
def test_mutants_of_the_plain_layer_are_caught(changes, notebook):
    assert not passes(notebook, mutant_of(rnn_with(**changes)))


@pytest.mark.parametrize(
    "changes",
    [
        {"h_flow": 0.0},
        {"h_flow": -1.0},
        {"forget_of": np.tanh},
        {"g_derivative": lambda g: 1 - np.tanh(g) ** 2},
        {"first": 1},
    ],
    ids=["only C carries gradients", "sign error", "tanh(C)", "tanh twice", "first step left out"],
)
def test_mutants_of_the_lstm_are_caught(changes):
    assert not passes("004", mutant_of(lstm_with(**changes)))


def test_lost_repeated_ids_are_caught():
    assert not passes("000", mutant(embedding_backward=lost_repeated_ids))


def test_lost_uses_of_distinct_tokens_are_caught(monkeypatch):
    """Where a language model hands every token to its recurrent layer only once."""

    def of_last_use(sums, index, parts):
        sums[index] = parts

    monkeypatch.setattr(recurrent, "_add_by_rows", of_last_use)
    assert not passes("002", numpy_ops)


@pytest.mark.parametrize("notebook", ["001", "004"])
def test_a_sign_error_of_the_loss_is_caught(notebook):
    assert not passes(notebook, mutant(softmax_loss_backward=sign_error))


def test_truncation_that_does_nothing_is_caught():
    def without(*arguments, truncate, **options):
        return numpy_ops.recurrent_backward(*arguments, **options)

    assert not passes("000", mutant(recurrent_backward=without))


def test_missing_cross_terms_are_caught(monkeypatch):
    def backward(layer, dout):
        ps = layer._require_cache()
        return dout * ps * (1 - ps)

    monkeypatch.setattr(TimeSoftmax, "backward", backward)
    assert not passes("000", kernels)


@pytest.mark.parametrize("change", ["sign", "positions", "eps"])
def test_faults_of_the_perplexity_loss_are_caught(monkeypatch, change):
    right = TimePerplexityLoss.backward

    def backward(loss, dout=1):
        (N, T, _), _, _, p = loss._require_cache()
        scale = {"sign": -1, "positions": N * T, "eps": ((p + loss.eps) / p) ** 2}[change]
        return right(loss, dout) * scale

    monkeypatch.setattr(TimePerplexityLoss, "backward", backward)
    assert not passes("000", kernels)


@pytest.mark.parametrize("factor", [-1, 5])
def test_faults_of_the_squared_loss_are_caught(monkeypatch, factor):
    right = TimeSquaredLoss.backward
    monkeypatch.setattr(TimeSquaredLoss, "backward", lambda loss, dout=1: factor * right(loss))
    assert not passes("003", kernels)
