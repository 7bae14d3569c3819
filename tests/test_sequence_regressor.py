"""Notebook 003, the sequence regressor: numbers, the shapes it takes, and its interface, which is
that of a scikit-learn estimator.
"""

import copy
import pickle
import sys

import notebook_oracles as oracle
import numpy as np
import pytest
from problems import assert_close

import rnnfast
from rnnfast import kernels, reference

X, Y = [1, 2, 3, 4, 5], [2, 3, 4, 5, 6]

everywhere = pytest.mark.parametrize(
    ("dtype", "ops"),
    [(d, o) for d in ("float64", "float32") for o in (kernels, reference.ops)],
    ids=lambda value: {kernels: "compiled", reference.ops: "numpy"}.get(value, value),
)


def fitted(X=X, y=Y, **options):
    options = {"hidden_size": 20, "epochs": 100, "random_state": 0} | options
    return rnnfast.SequenceRegressor(**options).fit(X, y)


def oracle_weights(model):
    """The weights as the second implementation names them."""
    W = {name: np.array(value, np.float64) for name, value in model.weights_.items()}
    return {"Wx": W["W_xh"], "Wh": W["W_hh"].T, "b": W["b_h"], "Wy": W["W_hy"], "by": W["b_y"]}


def oracle_fit(weights, xs, ts, epochs, lr, truncate=None):
    """Losses before each of the updates, which change `weights`; xs (N, T, D), ts (N, T, M)."""
    losses, positions = [], xs.shape[0] * xs.shape[1]
    for _ in range(epochs):
        total, grads = 0.0, dict.fromkeys(weights, 0.0)
        for x, t in zip(xs, ts, strict=True):
            loss, shares, _, _ = oracle.rnn(x, t, weights, oracle.half_square, truncate=truncate)
            total += loss / positions
            grads = {name: grads[name] + shares[name] / positions for name in grads}
        losses.append(total)
        oracle.descend(weights, grads, lr)
    return losses


def oracle_predict(weights, x):
    h, ys = np.zeros(len(weights["b"])), []
    for row in x:
        h = np.tanh(row @ weights["Wx"] + h @ weights["Wh"] + weights["b"])
        ys.append(h @ weights["Wy"] + weights["by"])
    return np.array(ys)


@everywhere
@pytest.mark.parametrize("truncate_size", [None, 2])
@pytest.mark.parametrize(("N", "T", "D", "M"), [(1, 5, 1, 1), (3, 7, 2, 2), (4, 6, 3, 1)])
def test_curve_predictions_and_forecasts(N, T, D, M, truncate_size, dtype, ops):
    """A hundred epochs, against the second implementation from the same initial weights."""
    rng = np.random.default_rng(0)
    xs, ts = rng.normal(size=(N, T, D)), rng.normal(size=(N, T, M))
    options = {"dtype": dtype, "ops": ops, "learning_rate": 0.05, "truncate_size": truncate_size}
    weights = oracle_weights(fitted(xs, ts, epochs=0, **options))
    model = fitted(xs, ts, **options)
    losses = oracle_fit(weights, xs, ts, 100, 0.05, truncate_size)
    tolerance = {"float64": 1e-10, "float32": 1e-4}[dtype]
    np.testing.assert_allclose(model.loss_curve_, losses, rtol=tolerance)
    assert losses[-1] < losses[0]
    expected = np.stack([oracle_predict(weights, x) for x in xs])
    np.testing.assert_allclose(model.predict(xs), expected, atol=tolerance)
    if D != M:
        return
    forecast = model.forecast(4)
    assert forecast.shape == (N, 4, M)
    for n, x in enumerate(xs):
        for k in range(4):  # from the beginning again each time, with all outputs so far
            following = oracle_predict(weights, x)[-1:]
            np.testing.assert_allclose(forecast[n, k], following[0], atol=5 * tolerance)
            x = np.concatenate((x, following))


@everywhere
@pytest.mark.parametrize("init", ["normal", "scaled"])
def test_gradients(init, dtype, ops):
    model = fitted(hidden_size=100, init=init, epochs=0, dtype=dtype, ops=ops)
    weights = oracle_weights(fitted(hidden_size=100, init=init, epochs=0))
    total, expected, _, _ = oracle.rnn(
        np.array(X, float)[:, None], np.array(Y, float)[:, None], weights, oracle.half_square
    )
    loss, gradients = model.gradients(X, Y)
    assert loss == pytest.approx(total / 5, rel={"float64": 1e-12, "float32": 1e-5}[dtype])
    names = {"W_xh": "Wx", "W_hh": "Wh", "b_h": "b", "W_hy": "Wy", "b_y": "by"}
    for name, theirs in names.items():
        right = expected[theirs].T / 5 if name == "W_hh" else expected[theirs] / 5
        tolerance = {"float64": 1e-10, "float32": 1e-3 if init == "normal" else 1e-5}[dtype]
        assert_close(gradients[name], right, tolerance, name)


@everywhere
@pytest.mark.parametrize("seed", range(10))
def test_the_notebooks_call_learns(seed, dtype, ops):
    options = {"hidden_size": 100, "dtype": dtype, "ops": ops, "random_state": seed}
    assert fitted(init="normal", epochs=50, **options).loss_curve_[-1] < 0.05
    assert fitted(epochs=50, **options).loss_curve_[-1] < 0.15


def test_initial_weights_are_drawn_in_the_order_of_the_notebook():
    rng = np.random.RandomState(3)
    drawn = [rng.standard_normal(shape) for shape in ((1, 20), (20, 1), (20, 20), 20, 1)]
    model = fitted(init="normal", epochs=0, random_state=3)
    for name, values in zip(("W_xh", "W_hy", "W_hh", "b_h", "b_y"), drawn, strict=True):
        assert (model.weights_[name] == values).all(), name
    scaled = fitted(epochs=0, random_state=3).weights_
    assert (scaled["W_hh"] == drawn[2] / 20**0.5).all()
    assert (scaled["W_xh"] == drawn[0]).all()
    assert not scaled["b_h"].any()


def test_shapes():
    """One, two and three dimensions are the same numbers in other shapes."""
    one = fitted()
    assert one.predict(X).shape == (5,)
    assert one.predict([X, X]).shape == (2, 5)
    assert one.forecast(3).shape == (3,)
    expected = one.predict(X)
    for x, y in (
        ([X], [Y]),
        (np.reshape(X, (1, 5, 1)), [Y]),
        (np.reshape(X, (1, 5, 1)), np.reshape(Y, (1, 5, 1))),
        (np.reshape(X, (5, 1)), Y),
    ):
        model = fitted(x, y)
        assert model.loss_curve_ == one.loss_curve_
        assert model.predict(x).shape == np.shape(y)
        assert (model.predict(x).reshape(-1) == expected).all()
        assert (model.forecast(3).reshape(-1) == one.forecast(3)).all()
    # several features, one sequence: as one row of three dimensions
    features = np.random.default_rng(0).normal(size=(5, 2))
    flat, deep = fitted(features, Y), fitted(features[None], [Y])
    assert (flat.predict(features) == deep.predict(features[None])[0]).all()
    assert (deep.predict(features) == flat.predict(features)).all()


def test_forecast_continues_any_sequence():
    model = fitted(epochs=500)
    assert model.forecast(1)[0] == model.predict(X)[-1]
    assert (model.forecast(3, X) == model.forecast(3)).all()
    assert model.forecast(2, [2, 3, 4]).shape == (2,)
    assert model.forecast(2, [[2, 3, 4], [1, 2, 3]]).shape == (2, 2)


def test_score_is_r_squared():
    rng = np.random.default_rng(0)
    xs = rng.normal(size=(6, 8, 2))
    ts = np.stack((xs.sum(axis=2), xs[:, :, 0] + 3), axis=2)
    model = fitted(xs, ts)
    errors = ((ts - model.predict(xs)) ** 2).sum(axis=(0, 1))
    spread = ((ts - ts.mean(axis=(0, 1))) ** 2).sum(axis=(0, 1))
    assert model.score(xs, ts) == pytest.approx((1 - errors / spread).mean(), rel=1e-12)
    assert fitted(xs, ts[:, :, 0], epochs=500).score(xs, ts[:, :, 0]) > 0.9
    assert fitted().score(X, np.ones(5)) == 0


def test_parameters_are_only_stored():
    """What scikit-learn's clone relies on: the constructor neither copies nor checks."""
    odd = {"hidden_size": object(), "epochs": -1, "random_state": object()}
    model = rnnfast.SequenceRegressor(**odd)
    assert all(model.get_params()[name] is value for name, value in odd.items())
    assert not [name for name in vars(model) if name.endswith("_")]
    again = rnnfast.SequenceRegressor(**model.get_params(deep=False))
    assert again.get_params() == model.get_params()
    assert model.set_params(epochs=3, learning_rate=0.5) is model
    assert (model.epochs, model.learning_rate) == (3, 0.5)
    with pytest.raises(ValueError, match="depth: expected one of hidden_size, "):
        model.set_params(depth=2, epochs=9)
    assert model.epochs == 3
    assert repr(rnnfast.SequenceRegressor(7, init="normal")) == (
        "SequenceRegressor(hidden_size=7, init='normal')"
    )


def test_fit_does_not_change_its_arguments():
    x, y = np.array(X, float), np.array(Y, float)
    fitted(x, y).predict(x)
    assert x.tolist() == X
    assert y.tolist() == Y


@pytest.mark.parametrize("ops", [None, reference.ops])
def test_copies_and_pickles(ops):
    model = fitted(ops=ops)
    if ops is None:
        assert (pickle.loads(pickle.dumps(model)).predict(X) == model.predict(X)).all()
    twin = copy.deepcopy(model.network_)
    twin.params[0][...] = 0
    assert model.weights_["W_xh"].any()
    assert twin.layers[0].ops is model.network_.layers[0].ops


def test_scikit_learn_is_not_needed(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)  # importing it is an error
    model = fitted()
    assert model.score(X, Y) < 1
    assert "epochs" in repr(model.set_params(**model.get_params()))


def test_as_an_estimator_of_scikit_learn():
    pytest.importorskip("sklearn")
    from sklearn.base import clone, is_regressor
    from sklearn.model_selection import GridSearchCV

    rng = np.random.default_rng(0)
    xs = rng.normal(size=(12, 6, 2))
    ts = xs.sum(axis=2)
    model = clone(rnnfast.SequenceRegressor(8, epochs=30, random_state=0))
    assert is_regressor(model)
    search = GridSearchCV(model, {"hidden_size": [4, 8]}, cv=3).fit(xs, ts)
    assert search.predict(xs).shape == ts.shape


@pytest.mark.parametrize(
    ("x", "y", "error", "message"),
    [
        ([[1, 2, 3], [1, 2]], Y, ValueError, r"X: .* one length, got lengths \[2, 3\]; cut them"),
        (X, [[1, 2, 3], [1, 2]], ValueError, r"y: .* one length, got lengths \[2, 3\]"),
        (np.array([X, X[1:]], object), [Y, Y], ValueError, r"X: .* got lengths \[4, 5\]"),
        (X, Y[1:], ValueError, r"y: .*shape \(5,\), got \(4,\); .* value for every step of X"),
        ([X, X], [Y], ValueError, r"y: expected an array of shape \(2, 5\), got \(1, 5\)"),
        ([1], [2], ValueError, "X: expected sequences of at least 2 steps, got 1"),
        ([[[1]], [[2]]], [[1], [2]], ValueError, "X: expected sequences of at least 2 steps"),
        ([], [], ValueError, r"X: .*got \(0,\) \(sizes must be at least 1\)"),
        (np.zeros((0, 5)), np.zeros((0, 5)), ValueError, r"X: .*got \(0, 5\)"),
        ([1, np.nan, 3], [1, 2, 3], ValueError, r"X: .* got nan at position \(1,\); leave"),
        ([[1, 2], [3, np.inf]], [[1, 2]] * 2, ValueError, r"X: .* got inf at position \(1, 1\)"),
        ([1, 2, 3], [1, 2, np.nan], ValueError, r"y: .* got nan at position \(2,\)"),
        (3, 4, ValueError, r"X: expected 1 dimension \(T\), 2 \(N, T\) or 3 .*, got 0"),
        (np.zeros((1, 2, 3, 4)), Y, ValueError, "X: expected 1 dimension .*, got 4"),
        (["a", "b"], [1, 2], TypeError, "X: expected an array of real numbers"),
        ([1j, 2], [1, 2], TypeError, "X: expected an array of real numbers, got dtype complex128"),
    ],
)
def test_bad_sequences(x, y, error, message):
    with pytest.raises(error, match=message):
        fitted(x, y)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"hidden_size": 0}, ValueError, "hidden_size: expected a whole number of at least 1"),
        ({"epochs": -1}, ValueError, "epochs: expected a whole number of at least 0, got -1"),
        ({"learning_rate": 0}, ValueError, "learning_rate: expected a finite number above 0"),
        ({"max_grad": -1}, ValueError, "max_grad: expected a finite number above 0, got -1"),
        ({"init": "xavier"}, ValueError, "init: expected 'scaled' or 'normal', got 'xavier'"),
        ({"dtype": "int64"}, TypeError, "dtype: expected float32 or float64, got int64"),
        ({"truncate_size": 0}, ValueError, "truncate_size: expected a whole number of at least 1"),
    ],
)
def test_bad_parameters(options, error, message):
    with pytest.raises(error, match=message):
        fitted(**options)


def test_bad_input_after_fit():
    model = rnnfast.SequenceRegressor()
    for method, arguments in (("predict", [X]), ("forecast", [1]), ("score", [X, Y])):
        with pytest.raises(AttributeError, match=r"call fit\(X, y\) first"):
            getattr(model, method)(*arguments)
    model = fitted(np.zeros((3, 5, 2)), np.zeros((3, 5)))
    with pytest.raises(ValueError, match="forecast: expected as many outputs as features, got 1"):
        model.forecast(2)
    with pytest.raises(ValueError, match=r"X: .*\(N, T, 2\), got \(1, 5, 3\)"):
        model.predict(np.zeros((1, 5, 3)))
    with pytest.raises(ValueError, match=r"y: .*shape \(3, 5\), got \(5,\)"):
        model.score(np.zeros((3, 5, 2)), Y)
    with pytest.raises(ValueError, match="n: expected a whole number of at least 1, got 0"):
        fitted().forecast(0)


@pytest.mark.filterwarnings("ignore:overflow", "ignore:invalid")
def test_divergence_keeps_what_was_fitted():
    model = fitted()
    expected = model.predict(X)
    with pytest.raises(rnnfast.errors.TrainingDiverged, match="try a smaller learning rate"):
        model.set_params(learning_rate=1e3, epochs=1000).fit(X, Y)
    assert (model.predict(X) == expected).all()
    model.set_params(max_grad=1.0, learning_rate=0.05).fit(X, Y)
    assert model.loss_curve_[-1] < model.loss_curve_[0]
