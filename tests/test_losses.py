"""The loss: exact where it is easy to get it wrong."""

import doctest

import numpy as np
import pytest
from problems import DTYPES, assert_close, make_problem

import rnnfast
from rnnfast import kernels, losses, reference

both = pytest.mark.parametrize("module", [rnnfast, reference], ids=["compiled", "numpy"])


@both
@pytest.mark.parametrize("dtype", DTYPES)
def test_improbable_targets(dtype, module):
    """The probability of the target underflows in float32; its logarithm must not."""
    layer = module.TimeSoftmaxWithLoss()
    assert layer.forward(np.array([[[0, -200]]], dtype), np.array([[1]])) == 200
    np.testing.assert_allclose(layer.backward(), [[[1, -1]]], atol=1e-80)
    assert layer.forward(np.array([[[0, -200]]], dtype), np.array([[0]])) < 1e-80


@both
@pytest.mark.parametrize("dtype", DTYPES)
def test_adding_a_constant_changes_nothing(dtype, module):
    logits, targets = np.array([[[1, 3, 2], [0, 0, 4]]], dtype), np.array([[2, 0]])
    layer = module.TimeSoftmaxWithLoss()
    expected = layer.forward(logits, targets), layer.backward()
    by_hand = (np.log(np.exp([1, 3, 2]).sum()) - 2 + np.log(np.exp([0, 0, 4]).sum())) / 2
    assert expected[0] == pytest.approx(by_hand, rel=1e-6)
    for constant in (-4096, 4096):  # exact in both dtypes
        shifted = layer.forward(logits + np.array(constant, dtype), targets), layer.backward()
        assert shifted[0] == expected[0]
        np.testing.assert_array_equal(shifted[1], expected[1])


@both
def test_all_ignored(module):
    layer = module.TimeSoftmaxWithLoss()
    assert layer.forward(np.ones((2, 3, 4)), np.full((2, 3), -1)) == 0
    np.testing.assert_array_equal(layer.backward(), np.zeros((2, 3, 4)), strict=True)


@both
@pytest.mark.parametrize("ignore_label", [-1, 0, 3, 77])
def test_ignored_positions_do_not_count(ignore_label, module):
    """The mean is over what is left, and ignored logits have no influence."""
    logits, targets = make_problem("TimeSoftmaxWithLoss").inputs
    targets = np.where(targets == -1, ignore_label, targets)
    kept = targets != ignore_label
    assert 0 < kept.sum() < kept.size
    layer = module.TimeSoftmaxWithLoss()
    layer.ignore_label = ignore_label
    loss, gradient = layer.forward(logits, targets), layer.backward()
    shifted = logits - np.log(np.exp(logits).sum(axis=2, keepdims=True))
    assert loss == pytest.approx(-shifted[kept, targets[kept]].mean(), rel=1e-12)
    assert not gradient[~kept].any()

    logits[~kept] += np.arange(7)
    assert layer.forward(logits, targets) == loss
    np.testing.assert_array_equal(layer.backward(), gradient)


@both
def test_ignored_positions_of_the_fused_loss_may_have_no_finite_logits(module):
    """Rows that are only padding may be far from anything that was trained."""
    rng = np.random.default_rng(0)
    x, W, b = rng.standard_normal((2, 3, 4)), rng.standard_normal((4, 70)), np.zeros(70)
    targets = rng.integers(0, 70, (2, 3))
    targets[1, 1] = -1
    results = []
    for scale in (1, 1e300):
        x[1, 1] = scale * np.arange(4)
        layer = module.TimeAffineWithLoss(W * 1e10, b)
        with np.errstate(over="ignore", invalid="ignore"):
            results.append((layer.forward(x, targets), layer.backward(), *layer.grads))
    for usual, extreme in zip(*results, strict=True):
        np.testing.assert_array_equal(extreme, usual)


@both
@pytest.mark.parametrize("dtype", [int, bool, float])
def test_one_hot_targets_equal_ids(dtype, module):
    logits, targets = make_problem("TimeSoftmaxWithLoss").inputs
    targets = targets % 7
    one_hot = np.eye(7)[targets].astype(dtype)
    layer = module.TimeSoftmaxWithLoss()
    expected = layer.forward(logits, targets), layer.backward()
    assert layer.forward(logits, one_hot) == expected[0]
    np.testing.assert_array_equal(layer.backward(), expected[1])


@both
@pytest.mark.parametrize(
    ("given", "expected"),
    [("f4", "f4"), ("f8", "f8"), ("f2", "f4"), ("i8", "f4"), (">f4", "f4")],
)
def test_dtypes(given, expected, module):
    layer = module.TimeSoftmaxWithLoss()
    loss = layer.forward(np.arange(12).reshape(1, 3, 4).astype(given), np.array([[3, 3, 3]]))
    assert isinstance(loss, float)
    assert loss == pytest.approx(0.44018969856119533, rel=1e-12 if expected == "f8" else 1e-6)
    assert layer.backward().dtype == expected


@both
def test_gradient_is_scaled_by_what_arrives(module):
    problem = make_problem("TimeSoftmaxWithLoss")
    layer = problem.layer(module)
    layer.forward(*problem.inputs)
    assert_close(layer.backward(-3), -3 * layer.backward())
    np.testing.assert_array_equal(layer.backward(), layer.backward(1.0))


@both
def test_huge_logits_stay_finite(module):
    """Their difference overflows float32, the loss does not."""
    layer = module.TimeSoftmaxWithLoss()
    logits = np.array([[[3e38, -3e38], [-3e38, 3e38]]], np.float32)
    assert layer.forward(logits, np.array([[1, 1]])) == pytest.approx(3e38)
    np.testing.assert_array_equal(layer.backward(), [[[0.5, -0.5], [0, 0]]])
    assert layer.forward(np.full((1, 1, 4), -np.finfo("f4").max), [[0]]) == pytest.approx(np.log(4))


@both
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("V", [3, 128, 150])  # less than a panel, some, and a part
def test_the_largest_logit_may_stand_anywhere(V, dtype, module):
    """e to it overflows; beside it, the others are nothing."""
    for largest in range(V):
        W = np.zeros((1, V), dtype)
        W[0, largest] = 5000
        target = np.array([[largest], [0 if largest else 1]])
        xs = np.ones((2, 1, 1), dtype)
        fused = module.TimeAffineWithLoss(W, np.zeros(V, dtype))
        plain = module.TimeSoftmaxWithLoss()
        for loss in (fused.forward(xs, target), plain.forward(xs * W, target)):
            assert loss == pytest.approx(2500, rel=1e-6)


@both
@pytest.mark.parametrize("column", [0, 1, 2])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_and_inf_are_not_hidden(value, column, module):
    """The loss is NaN, which the trainer stops at, wherever the culprit stands; unless ignored."""
    logits = np.zeros((1, 2, 3))
    logits[0, 1, column] = value
    layer = module.TimeSoftmaxWithLoss()
    assert np.isnan(layer.forward(logits, np.array([[0, 0]])))
    assert np.isnan(layer.backward()[0, 1]).any()
    assert layer.forward(logits, np.array([[0, -1]])) == pytest.approx(np.log(3))
    assert np.isfinite(layer.backward()).all()


@both
def test_minus_infinity_is_probability_zero(module):
    layer = module.TimeSoftmaxWithLoss()
    logits = np.array([[[0, -np.inf, 0]]])
    assert layer.forward(logits, np.array([[0]])) == pytest.approx(np.log(2))
    np.testing.assert_array_equal(layer.backward(), [[[-0.5, 0, 0.5]]])
    assert layer.forward(logits, np.array([[1]])) == np.inf


@pytest.mark.parametrize("dtype", [">f8", "<f8"])
def test_logits_of_either_byte_order_keep_their_precision(dtype):
    layer = rnnfast.TimeSoftmaxWithLoss()
    loss = layer.forward(np.array([[[1.0, 1 / 3]]], dtype), [[0]])
    assert loss == pytest.approx(np.log1p(np.exp(1 / 3 - 1)), rel=1e-15)
    assert layer.backward().dtype == np.float64


# The losses of the notebooks, which have no compiled kernel. --------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_softmax_of_huge_logits(dtype):
    xs = np.array([[[1e4, 0, -1e4], [5, 5, 5]]], dtype)
    ps = rnnfast.TimeSoftmax().forward(xs)
    assert ps.dtype == dtype
    assert_close(ps, [[[1, 0, 0], [1 / 3, 1 / 3, 1 / 3]]], 1e-7)


@pytest.mark.parametrize("eps", [1e-8, 0.1])
def test_perplexity_loss(eps):
    rng = np.random.default_rng(0)
    ps = rng.dirichlet(np.ones(5), size=(2, 3))
    ts = rng.integers(0, 5, (2, 3, 1))
    loss_layer = rnnfast.TimePerplexityLoss(eps)
    p = np.array([[ps[n, t, ts[n, t, 0]] for t in range(3)] for n in range(2)])
    assert loss_layer.forward(ps, ts) == pytest.approx(np.mean(1 / (p + eps)), rel=1e-14)
    assert loss_layer.perplexity == pytest.approx(np.exp(-np.log(p).mean()), rel=1e-14)
    assert loss_layer.forward(ps, ts[:, :, 0]) == loss_layer.forward(ps, ts)
    expected = np.zeros_like(ps)
    np.put_along_axis(expected, ts, -1 / (6 * (p[:, :, None] + eps) ** 2), axis=2)
    assert_close(loss_layer.backward(), expected, 1e-14)
    assert_close(loss_layer.backward(3), 3 * loss_layer.backward(), 1e-15)


def test_perplexity_loss_of_impossible_targets():
    ps = np.array([[[1.0, 0.0]]])
    loss_layer = rnnfast.TimePerplexityLoss()
    assert loss_layer.forward(ps, [[1]]) == pytest.approx(1e8)
    assert loss_layer.perplexity == np.inf
    assert np.isfinite(loss_layer.backward()).all()


@pytest.mark.parametrize(("p", "expected"), [(-3.0, np.nan), (1e-310, np.inf), (np.nan, np.nan)])
def test_perplexity_loss_of_what_is_no_probability(p, expected):
    loss_layer = rnnfast.TimePerplexityLoss()
    loss_layer.forward(np.full((1, 1, 1), p), np.zeros((1, 1), int))
    np.testing.assert_equal(loss_layer.perplexity, expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("eps", [0, 1e-300, 1e-30])
def test_an_infinite_perplexity_loss_has_an_infinite_gradient(eps, dtype):
    """Without a warning, as forward has none; in float64 not of an eps whose square is above 0."""
    loss_layer = rnnfast.TimePerplexityLoss(eps)
    loss_layer.forward(np.array([[[1.0, 0.0]]], dtype), [[1]])
    gradient = loss_layer.backward()
    assert gradient[0, 0, 0] == 0
    assert gradient[0, 0, 1] == (-1e60 if (eps, dtype) == (1e-30, "float64") else -np.inf)


@pytest.mark.parametrize("shape", [(4,), (2, 4), (2, 4, 3)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_squared_loss(shape, dtype):
    rng = np.random.default_rng(0)
    ys, ts = rng.normal(size=shape), rng.normal(size=shape)
    positions = np.prod(shape[:2])
    loss_layer = rnnfast.TimeSquaredLoss()
    loss = loss_layer.forward(ys.astype(dtype), ts.astype(dtype))
    assert loss == pytest.approx(((ys - ts) ** 2).sum() / 2 / positions, rel=1e-6)
    gradient = loss_layer.backward()
    assert gradient.dtype == dtype
    assert_close(gradient, (ys - ts) / positions, {"float64": 1e-15, "float32": 1e-6}[dtype])
    assert_close(loss_layer.backward(2), 2 * gradient, 1e-15)


def test_losses_reject_what_does_not_fit():
    ps = np.full((2, 3, 4), 0.25)
    with pytest.raises(ValueError, match=r"ts: .* in 0\.\.3, got 4 at position \(1, 2\)"):
        rnnfast.TimePerplexityLoss().forward(ps, [[0, 0, 0], [0, 0, 4]])
    with pytest.raises(TypeError, match="ts: expected token ids of an integer dtype, got float64"):
        rnnfast.TimePerplexityLoss().forward(ps, np.zeros((2, 3)))
    with pytest.raises(ValueError, match=r"ps: expected an array of shape \(N, T, V\)"):
        rnnfast.TimePerplexityLoss().forward(ps[0], [[0, 0, 0]])
    for eps in (-1, np.inf, "1e-8", None, True):
        with pytest.raises(ValueError, match=f"eps: expected a finite number .*, got {eps!r}"):
            rnnfast.TimePerplexityLoss(eps)
    with pytest.raises(ValueError, match=r"ts: expected an array of shape \(3,\), got \(2,\)"):
        rnnfast.TimeSquaredLoss().forward([1.0, 2.0, 3.0], [1.0, 2.0])
    with pytest.raises(ValueError, match=r"ys: expected an array of shape \(N, T, M\)"):
        rnnfast.TimeSquaredLoss().forward(np.zeros((1, 2, 3, 4)), np.zeros((1, 2, 3, 4)))
    for loss in (rnnfast.TimeSoftmax, rnnfast.TimePerplexityLoss, rnnfast.TimeSquaredLoss):
        with pytest.raises(RuntimeError, match=f"{loss.__name__}.backward: .* call forward first"):
            loss().backward(np.zeros((1, 1, 1)))


# Binary cross entropy. ----------------------------------------------------------------------------

ROUNDING = {"float32": 1e-6, "float64": 1e-14}


@both
@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 4), (3, 5, 23)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_sigmoid_loss(shape, dtype, module):
    """The formula, of probabilities that are far from 0 and 1; the mean is over what is left."""
    rng, rounding = np.random.default_rng(1), ROUNDING[dtype]
    xs, ts = rng.normal(size=shape).astype(dtype), rng.integers(-1, 2, shape)
    p, kept = 1 / (1 + np.exp(-xs.astype("f8"))), ts >= 0
    assert 0 < kept.sum() < kept.size
    loss_layer = module.TimeSigmoidWithLoss()
    expected = -(ts * np.log(p) + (1 - ts) * np.log(1 - p))[kept].mean()
    assert loss_layer.forward(xs, ts) == pytest.approx(expected, rel=rounding)
    gradient = loss_layer.backward()
    assert gradient.dtype == dtype
    assert_close(gradient, np.where(kept, p - ts, 0) / kept.sum(), rounding)
    assert_close(loss_layer.backward(-3), -3 * gradient)
    np.testing.assert_array_equal(loss_layer.backward(), gradient)

    xs[~kept] = np.nan  # ignored logits have no influence
    assert loss_layer.forward(xs, ts) == pytest.approx(expected, rel=rounding)
    np.testing.assert_array_equal(loss_layer.backward(), gradient)


@both
@pytest.mark.parametrize("dtype", DTYPES)
def test_sigmoid_loss_of_probabilities_that_round_to_0_or_1(dtype, module):
    """Neither the loss nor the gradient of a certain logit rounds away, or overflows."""
    loss_layer = module.TimeSigmoidWithLoss()
    for x, target, loss, gradient in (
        (200, 0, 200, 1),
        (-200, 1, 200, -1),
        (3e38, 0, 3e38, 1),
        (-3e38, 1, 3e38, -1),
        (3e38, 1, 0, 0),
        (np.inf, 1, 0, 0),
        (-np.inf, 1, np.inf, -1),
        (40, 1, np.exp(-40), -np.exp(-40)),
        (-40, 0, np.exp(-40), np.exp(-40)),
        (0, 1, np.log(2), -0.5),
    ):
        found = loss_layer.forward(np.array([[x]], dtype), [[target]])
        assert found == pytest.approx(loss, rel=1e-6, abs=0)
        assert loss_layer.backward()[0, 0] == pytest.approx(gradient, rel=1e-6, abs=0)
    assert np.isnan(loss_layer.forward([[np.nan, 0.0]], [[0, 1]]))
    np.testing.assert_array_equal(loss_layer.backward(), [[np.nan, -0.25]])


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_sigmoid_loss_of_single_numbers(dtype):
    """In units in the last place: the engine has a logarithm of its own."""
    rng, most = np.random.default_rng(0), {"float32": 85, "float64": 700}[dtype]
    xs = -np.concatenate([np.geomspace(1e-6, most, 3000), rng.uniform(0, 20, 3000)]).astype(dtype)
    sides = np.ones(1, np.int8)
    found = [kernels.sigmoid_loss_forward(xs[k : k + 1], sides)[0] for k in range(len(xs))]
    exact = np.log1p(np.exp(xs.astype(np.longdouble)))
    assert (np.abs(found - exact) / np.spacing(exact.astype(dtype))).max() < 3.5


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("count", [1, 15, 16, 17, 63, 64, 65, 200, 4095, 4096, 4097, 20000])
def test_sigmoid_loss_kernels(count, dtype):
    rng = np.random.default_rng(count)
    xs, sides = 9 * rng.standard_normal(count).astype(dtype), rng.integers(-1, 2, count, np.int8)
    loss, dxs = kernels.sigmoid_loss_forward(xs, sides)
    expected, expected_dxs = reference.ops.sigmoid_loss_forward(xs, sides)
    assert loss == pytest.approx(expected, rel=2 * ROUNDING[dtype], abs=1e-300)
    assert_close(dxs, expected_dxs)
    assert (dxs != 0).tolist() == (sides != 0).tolist()


@pytest.mark.parametrize("ignore_label", [-1, 0, 1, 255])
def test_targets_of_the_sigmoid_loss(ignore_label):
    """Of any real dtype; where all are ignored, the loss is 0."""
    xs, ts = np.array([[1.0, -2.0, 0.5, 3.0]]), np.array([[1, 0, 2, 1]])
    ts[ts == 2] = ignore_label
    loss_layer = rnnfast.TimeSigmoidWithLoss(ignore_label=ignore_label)
    expected = loss_layer.forward(xs, ts), loss_layer.backward()
    kept = ts != ignore_label
    assert (expected[1] != 0).tolist() == kept.tolist()
    losses = np.log1p(np.exp(np.where(ts == 1, -xs, xs)))
    assert expected[0] == pytest.approx(losses[kept].mean(), rel=1e-14)
    given = [ts.astype(dtype) for dtype in ("i2", "i8", "f4", "f8")]
    if ignore_label in (0, 1):
        given.append(ts.astype(bool))
    if ignore_label >= 0:
        given.append(ts.astype("u1"))
    for targets in given:
        assert loss_layer.forward(xs, targets) == expected[0]
        np.testing.assert_array_equal(loss_layer.backward(), expected[1])
    assert loss_layer.forward(xs, np.full((1, 4), ignore_label)) == 0
    np.testing.assert_array_equal(loss_layer.backward(), np.zeros((1, 4)), strict=True)


def test_the_sigmoid_loss_rejects_what_does_not_fit():
    loss_layer = rnnfast.TimeSigmoidWithLoss()
    xs = np.arange(6.0).reshape(2, 3)
    expected = loss_layer.forward(xs, np.ones((2, 3))), loss_layer.backward()
    for wrong, error, message in (
        ([[0, 1, 1], [1, 2, 0]], ValueError, r"ts: expected 0 or 1 or .* -1, got 2 at .*\(1, 1\)"),
        ([[0, 0.5, 1], [1, 1, 0]], ValueError, r"ts: .* got 0\.5 at position \(0, 1\); there is"),
        ([[0, 1, 1], [1, np.nan, 0]], ValueError, r"ts: .* got nan at position \(1, 1\)"),
        (np.full((2, 3), 2**64 - 1, "u8"), ValueError, r"ts: .* got 18446744073709551615 at"),
        ([0, 1, 1], ValueError, r"ts: .* \(2, 3\), got \(3,\); targets have the shape of the"),
        (np.ones((2, 3, 1)), ValueError, r"ts: .* \(2, 3\), got \(2, 3, 1\)"),
        ([["a"] * 3] * 2, TypeError, "ts: expected an array of the numbers 0 and 1, got dtype <U1"),
    ):
        with pytest.raises(error, match=f"^{message}"):
            loss_layer.forward(xs, wrong)
    for wrong, error, message in (
        (np.ones(3), ValueError, r"xs: expected an array of shape \(N, T\), got \(3,\)"),
        (np.ones((1, 2, 3, 4)), ValueError, r"xs: .* \(N, T\), got \(1, 2, 3, 4\)"),
        (np.ones((2, 0, 3)), ValueError, r"xs: .* \(N, T, K\), got \(2, 0, 3\) \(sizes must be"),
        (xs + 1j, TypeError, "xs: expected an array of real numbers"),
        ([[1.0], [1.0, 2.0]], ValueError, "xs: expected an array, got rows of different shapes"),
    ):
        with pytest.raises(error, match=f"^{message}"):
            loss_layer.forward(wrong, np.ones((2, 3)))
    np.testing.assert_array_equal(loss_layer.backward(), expected[1])
    with pytest.raises(RuntimeError, match=r"TimeSigmoidWithLoss\.backward: .* call forward first"):
        rnnfast.TimeSigmoidWithLoss().backward()


# What losses say of themselves. -------------------------------------------------------------------


def fused(**options):
    rng = np.random.default_rng(0)
    return rnnfast.TimeAffineWithLoss(rng.normal(size=(4, 7)), rng.normal(size=7), **options)


@both
def test_ignore_label_is_a_whole_number(module):
    layer = module.TimeSoftmaxWithLoss(ignore_label=np.int8(5))
    assert (type(layer.ignore_label), layer.config()) == (int, {"ignore_label": 5})
    assert fused(ignore_label=3).config()["ignore_label"] == 3
    for wrong in (5.0, True, "1", None):
        for make in (fused, module.TimeSoftmaxWithLoss, module.TimeSigmoidWithLoss):
            with pytest.raises(TypeError, match="ignore_label: expected a whole number, got"):
                make(ignore_label=wrong)
        with pytest.raises(TypeError, match="ignore_label: expected a whole number, got"):
            layer.ignore_label = wrong
    with pytest.raises(ValueError, match="ignore_label: expected a number of 64 bits"):
        layer.ignore_label = 2**63
    assert layer.ignore_label == 5


def test_config_makes_a_loss_again():
    for loss in (
        rnnfast.TimeSoftmaxWithLoss(ignore_label=2),
        rnnfast.TimeSigmoidWithLoss(ignore_label=2),
        rnnfast.TimePerplexityLoss(0.5),
        rnnfast.TimeSquaredLoss(),
        rnnfast.TimeSoftmax(),
    ):
        again = type(loss)(**loss.config())
        assert again.config() == loss.config()
        assert (loss.named_params(), loss.named_grads(), loss.training) == ({}, {}, True)
    assert rnnfast.TimePerplexityLoss(**rnnfast.TimePerplexityLoss(0.5).config()).eps == 0.5


def test_softmax_infers_without_keeping():
    xs, other = np.random.default_rng(0).normal(size=(2, 3, 4, 5))
    layer = rnnfast.TimeSoftmax()
    ps = layer.forward(xs)
    expected = layer.backward(xs)
    np.testing.assert_array_equal(layer.infer(xs), ps, strict=True)
    layer.infer(other)
    np.testing.assert_array_equal(layer.backward(xs), expected)


def test_logits_of_the_fused_loss_change_nothing_for_backward():
    xs, ts = np.random.default_rng(0).normal(size=(2, 3, 4)), np.zeros((2, 3), int)
    layer = fused()
    layer.forward(xs, ts)
    kept = layer._kept
    logits = layer.logits(xs + 1)
    np.testing.assert_array_equal(logits, layer.infer(xs + 1))
    assert_close(logits, (xs + 1) @ layer.params[0] + layer.params[1])
    assert layer._kept is kept
    expected = fused()
    expected.forward(xs, ts)
    np.testing.assert_array_equal(layer.backward(), expected.backward())


def test_gradients_of_the_fused_loss_are_those_of_the_weights_of_forward():
    xs, ts = np.random.default_rng(0).normal(size=(2, 3, 4)), np.zeros((2, 3), int)
    layer = fused()
    layer.forward(xs, ts)
    expected = [layer.backward().copy(), *(dW.copy() for dW in layer.grads)]
    for W in layer.params:
        W += 1
    for now, then in zip((layer.backward(), *layer.grads), expected, strict=True):
        np.testing.assert_array_equal(now, then)
    layer.params[1] = layer.params[1].copy()
    with pytest.raises(RuntimeError, match="expected the weights of the last forward"):
        layer.backward()
    layer.forward(xs, ts)
    layer.backward()


def test_the_example_in_a_docstring():
    results = doctest.testmod(losses)
    assert (results.failed, results.attempted > 2) == (0, True)
