"""Optimizers against their formulas, written out for one number, and clipping of gradients."""

import math
import sys

import numpy as np
import pytest
from problems import OPTIMIZERS

import rnnfast
from rnnfast.training import settings
from rnnfast.training.optimizers import gradient_norm


def sgd(W, grads, lr=0.1):
    for dW in grads:
        W = W - lr * dW
    return W


def momentum(W, grads, lr=0.1, momentum=0.8):
    v = 0
    for dW in grads:
        v = momentum * v - lr * dW
        W = W + v
    return W


def adagrad(W, grads, lr=0.1):
    h = 0
    for dW in grads:
        h = h + dW**2
        W = W - lr * dW / (h**0.5 + 1e-7)
    return W


def rmsprop(W, grads, lr=0.1, decay_rate=0.9):
    h = 0
    for dW in grads:
        h = decay_rate * h + (1 - decay_rate) * dW**2
        W = W - lr * dW / (h**0.5 + 1e-7)
    return W


def adam(W, grads, lr=0.1, beta1=0.7, beta2=0.95):
    m = v = 0
    for t, dW in enumerate(grads, start=1):
        m = beta1 * m + (1 - beta1) * dW
        v = beta2 * v + (1 - beta2) * dW**2
        lr_t = lr * (1 - beta2**t) ** 0.5 / (1 - beta1**t)
        W = W - lr_t * m / (v**0.5 + 1e-7)
    return W


def adamw(W, grads, lr=0.1, weight_decay=0.3):
    """Those of two axes decay."""
    m = v = 0
    for t, dW in enumerate(grads, start=1):
        if W.ndim > 1:
            W = W - lr * weight_decay * W
        m = 0.7 * m + (1 - 0.7) * dW
        v = 0.95 * v + (1 - 0.95) * dW**2
        m_hat, v_hat = m / (1 - 0.7**t), v / (1 - 0.95**t)
        W = W - lr * m_hat / (v_hat**0.5 + 1e-7 / (1 - 0.95**t) ** 0.5)
    return W


def sgd_with_decay(W, grads, lr=0.1, weight_decay=0.3):
    """As of a penalty on the sum of squares."""
    for dW in grads:
        W = W - lr * (dW + weight_decay * W * (W.ndim > 1))
    return W


def momentum_with_decay(W, grads, lr=0.1, momentum=0.8, weight_decay=0.3):
    v = 0
    for dW in grads:
        v = momentum * v - lr * dW
        W = W - lr * weight_decay * W * (W.ndim > 1) + v
    return W


CASES = [
    (lambda: rnnfast.SGD(0.1), sgd),
    (lambda: rnnfast.Momentum(0.1, 0.8), momentum),
    (lambda: rnnfast.AdaGrad(0.1), adagrad),
    (lambda: rnnfast.RMSprop(0.1, 0.9), rmsprop),
    (lambda: rnnfast.Adam(0.1, 0.7, 0.95), adam),
    (lambda: rnnfast.AdamW(0.1, 0.7, 0.95, 0.3), adamw),
    (lambda: rnnfast.SGD(0.1, weight_decay=0.3), sgd_with_decay),
    (lambda: rnnfast.Momentum(0.1, 0.8, weight_decay=0.3), momentum_with_decay),
]
cases = pytest.mark.parametrize(("make", "formula"), CASES, ids=[f.__name__ for _, f in CASES])
DEFAULTS = {
    "SGD": {"lr": 0.01},
    "Momentum": {"lr": 0.01, "momentum": 0.9},
    "AdaGrad": {"lr": 0.01},
    "RMSprop": {"lr": 0.01, "decay_rate": 0.99},
    "Adam": {"lr": 0.001, "beta1": 0.9, "beta2": 0.999},
    "AdamW": {"lr": 0.001, "beta1": 0.9, "beta2": 0.999, "weight_decay": 0.01},
}


def test_every_optimizer_has_a_formula_and_a_name_for_runs():
    assert (
        {type(make()) for make, _ in CASES} == set(OPTIMIZERS) == set(settings.OPTIMIZERS.values())
    )
    assert settings.OPTIMIZERS.keys() == settings.LEARNING_RATES.keys()


@pytest.mark.parametrize("kind", [int, np.float32, np.int64])
@pytest.mark.parametrize("Optimizer", OPTIMIZERS)
def test_numbers_of_any_kind_are_floats(Optimizer, kind):
    """As JSON takes them, and as they multiply arrays without changing their dtype."""
    options = dict.fromkeys(DEFAULTS[Optimizer.__name__], 0) | {"lr": 1}
    if Optimizer in (rnnfast.SGD, rnnfast.Momentum):
        options["weight_decay"] = 1
    optimizer = Optimizer(**{name: kind(value) for name, value in options.items()})
    for name, value in options.items():
        assert type(getattr(optimizer, name)) is float
        assert getattr(optimizer, name) == value


@cases
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-13), ("float32", 2e-6)])
def test_formulas_over_several_steps(make, formula, dtype, tolerance):
    """Every parameter has a state of its own; arrays keep identity, dtype and, for grads, value."""
    rng = np.random.default_rng(0)
    starts = [rng.standard_normal(shape).astype(dtype) for shape in [(2, 3), (4,), (3, 2)]]
    history = [[rng.standard_normal(W.shape).astype(dtype) for W in starts] for _ in range(5)]
    history[2][1][0] = 0
    params = [np.asfortranarray(W.copy()) for W in starts]
    same = list(params)
    optimizer = make()
    for grads in history:
        before = [dW.copy() for dW in grads]
        optimizer.update(params, grads)
        for dW, kept in zip(grads, before, strict=True):
            np.testing.assert_array_equal(dW, kept)
    assert optimizer.steps == 5
    for k, (W, start) in enumerate(zip(params, starts, strict=True)):
        assert W is same[k]
        assert W.dtype == dtype
        expected = formula(start.astype(float), [grads[k].astype(float) for grads in history])
        np.testing.assert_allclose(W, expected, rtol=0, atol=tolerance)


@cases
def test_first_step_with_a_zero_gradient_stays(make, formula):
    W = np.ones(2)
    make().update([W], [np.zeros(2)])
    np.testing.assert_array_equal(W, 1)


@pytest.mark.parametrize("Optimizer", OPTIMIZERS)
def test_defaults_are_the_textbooks(Optimizer):
    attributes = vars(Optimizer())
    assert DEFAULTS[Optimizer.__name__].items() <= attributes.items()


@pytest.mark.parametrize("Optimizer", OPTIMIZERS)
def test_learning_rate_may_change_between_steps(Optimizer):
    optimizer, W = Optimizer(0.1), np.ones(2)
    optimizer.update([W], [np.full(2, 0.5)])
    moved = W.copy()
    optimizer.lr = 1e-9
    optimizer.update([W], [np.full(2, 0.5)])
    rest = -0.9 * 0.05 if Optimizer is rnnfast.Momentum else 0
    np.testing.assert_allclose(W, moved + rest, atol=1e-8)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_clip_grads(dtype):
    """Norm over all of them: (3, 4) and 12 have norm 13."""
    grads = [np.array([[3, 4]], dtype), np.array([12], dtype)]
    same = list(grads)
    norm = rnnfast.clip_grads(grads, 6.5)
    assert norm == pytest.approx(13, rel=1e-12)
    assert isinstance(norm, float)
    assert all(a is b for a, b in zip(grads, same, strict=True))
    np.testing.assert_allclose(np.hstack([dW.ravel() for dW in grads]), [1.5, 2, 6], rtol=1e-6)
    assert {dW.dtype for dW in grads} == {np.dtype(dtype)}
    assert rnnfast.clip_grads(grads, 6.5) <= 6.5


@pytest.mark.parametrize("max_norm", [13.1, 100])
def test_clip_grads_leaves_small_ones_alone(max_norm):
    grads = [np.array([3.0, 4.0]), np.array([12.0])]
    assert rnnfast.clip_grads(grads, max_norm) == 13
    np.testing.assert_array_equal(grads[0], [3, 4])
    np.testing.assert_array_equal(grads[1], [12])


def test_clip_grads_does_not_overflow_in_float32():
    grads = [np.full(4, 1e30, np.float32)]
    assert rnnfast.clip_grads(grads, 1) == pytest.approx(2e30)
    np.testing.assert_allclose(grads[0], 0.5, rtol=1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_clip_grads_reports_what_is_not_finite_and_changes_nothing(value):
    grads = [np.array([1.0, value]), np.array([5.0])]
    assert not np.isfinite(rnnfast.clip_grads(grads, 1))
    np.testing.assert_array_equal(grads[0], [1, value])
    np.testing.assert_array_equal(grads[1], [5])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_clip_values(dtype):
    grads = [np.array([[3, -4]], dtype), np.array([12, 0, -0.5], dtype)]
    grads.append(np.array([[1, 5], [-6, -2]], dtype).T[::-1])
    same = list(grads)
    expected = [np.clip(dW, -2.5, 2.5) for dW in grads]
    assert rnnfast.clip_values(grads, 2.5) == pytest.approx(235.25**0.5, rel=1e-12)
    for dW, kept, clipped in zip(grads, same, expected, strict=True):
        assert dW is kept
        np.testing.assert_array_equal(dW, clipped, strict=True)
    assert rnnfast.clip_values(grads, 1e300) > 2.5  # a limit that float32 does not have
    np.testing.assert_array_equal(grads[0], expected[0])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_clip_values_reports_what_is_not_finite_and_changes_nothing(value):
    grads = [np.array([1.0, value]), np.array([5.0])]
    assert not np.isfinite(rnnfast.clip_values(grads, 1))
    np.testing.assert_array_equal(grads[0], [1, value])
    np.testing.assert_array_equal(grads[1], [5])


@cases
def test_arrays_of_every_kind_in_one_list(make, formula):
    """Those that the compiled steps take, beside others: each gets its formula."""
    rng = np.random.default_rng(0)

    def array(*shape, dtype="f8"):
        return rng.standard_normal(shape).astype(dtype)

    params = [
        array(3, 4), array(4, dtype="f4"), array(6, 4)[::2], array(3, 4).T, array(), array(0, 3),
        array(5, dtype=np.longdouble), array(2, 3, 4), array(3),
    ]  # fmt: skip
    starts = [W.astype(float) for W in params]
    optimizer, history = make(), []
    for _ in range(3):
        grads = [array(*W.shape).astype(W.dtype) for W in params]
        grads[3] = np.ascontiguousarray(grads[3])  # in another order than its parameter
        grads[8] = grads[8].astype("f4")
        history.append([dW.astype(float) for dW in grads])
        optimizer.update(params, grads)
        assert rnnfast.clip_grads(grads, 1e9) == pytest.approx(
            math.sqrt(sum((dW**2).sum() for dW in history[-1])), rel=1e-6
        )
    for k, W in enumerate(params):
        expected = formula(starts[k], [grads[k] for grads in history])
        np.testing.assert_allclose(W.astype(float), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@cases
def test_floats_are_for_the_compiled_steps(make, formula, dtype, monkeypatch):
    """Nothing is left to NumPy, in either order of the axes."""
    optimizer = make()
    monkeypatch.delattr(rnnfast.reference.ops, optimizer._function)
    for name in ("sum_of_squares", "scale_arrays", "clip_arrays"):
        monkeypatch.delattr(rnnfast.reference.ops, name)
    params, grads = (
        [np.ones((3, 4), dtype), np.ones((4, 3), dtype).T, np.ones(5, dtype)] for _ in range(2)
    )
    rows = [np.array([0, 2]), None, None]
    optimizer.update(params, grads)
    optimizer.update(params, grads, rows)
    rnnfast.clip_grads(grads, 1)
    rnnfast.clip_values(grads, 0.1, rows=rows)
    assert [float((dW > 0.1).sum()) for dW in grads] == [4, 0, 0]  # in the row that is not named


@pytest.mark.parametrize("name", ["sgd_step", "scale_arrays"])
def test_all_arrays_or_none_where_each_is_for_itself(name, monkeypatch):
    """The second one, which NumPy has to take, meets an error when the first is done."""

    def fail(*_):
        raise MemoryError

    monkeypatch.setattr(rnnfast.reference.ops, name, fail)
    params, grads = ([np.full(4, 3.0), np.full(4, 3, np.longdouble)] for _ in range(2))
    with pytest.raises(MemoryError):
        rnnfast.SGD().update(params, grads) if name == "sgd_step" else rnnfast.clip_grads(grads, 1)
    assert all((array == 3).all() for array in (*params, *grads))


def test_the_same_array_twice():
    """Is updated twice, one after the other, and is clipped so."""
    W, dW = np.ones((3, 4)), np.full((3, 4), 0.5)
    rnnfast.SGD(0.5).update([W, W, W.T], [dW, 2 * dW, dW.T])
    np.testing.assert_array_equal(W, 1 - 0.5 * 2)
    assert rnnfast.clip_grads([dW, dW], 1e-3) == pytest.approx(24**0.5 / 2)


HUGE = {  # gradients, and their norm
    "squares overflow": ([np.full((2, 2), 1e200), np.array([0.0])], 2e200),
    "one is tiny": ([np.full((2, 2), -3e180), np.full(2, 1e-300)], 6e180),
    "the norm overflows": ([np.full((2, 2), 1e308), np.full(1, -1e308)], sys.float_info.max),
    "the factor is denormal": ([np.full((4, 4), 2.0**127, np.float32)], 2.0**129),
    "in two dtypes": ([np.full((2, 2), 3e38, np.float32), np.array([1e160])], 1e160),
}


@pytest.mark.parametrize("gaps", [False, True], ids=["", "gaps"])
@pytest.mark.parametrize(("grads", "norm"), HUGE.values(), ids=HUGE)
def test_finite_gradients_have_a_finite_norm(grads, norm, gaps):
    grads = [dW.copy() for dW in grads]
    if gaps:
        grads[0] = grads[0].repeat(2, axis=0).repeat(2, axis=1)[::2, ::2]
    assert gradient_norm(grads) == pytest.approx(norm, rel=1e-12)
    assert rnnfast.clip_grads(grads, 1.0) == pytest.approx(norm, rel=1e-12)
    size = math.sqrt(sum(np.square(dW, dtype=np.float64).sum() for dW in grads))
    assert 0.9 < size < 1.4  # 1 but for where the norm is beyond float64


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_norm_of_gradients_that_are_not_finite(dtype, value):
    """Beside others whose squares overflow, too."""
    for others in (1.0, 3e38 if dtype == "float32" else 1e200):
        grads = [np.full(3, others, dtype), np.array([[0, value]], dtype)]
        assert not math.isfinite(gradient_norm(grads))


def test_norm_of_no_gradients():
    assert gradient_norm([]) == rnnfast.clip_grads([], 1) == 0
