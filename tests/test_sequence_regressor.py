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
A = np.zeros

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
    ):
        model = fitted(x, y)
        assert model.loss_curve_ == one.loss_curve_
        assert model.predict(x).shape == np.shape(y)
        assert (model.predict(x).reshape(-1) == expected).all()
        assert (model.forecast(3).reshape(-1) == one.forecast(3)).all()


SAMPLES = np.random.default_rng(0).normal(size=(6, 3))


def test_samples_without_time_are_an_error_that_says_what_to_give():
    """X (N, D), y (N,), what scikit-learn's other estimators take; all that it says is done."""
    y = SAMPLES.sum(axis=1)
    with pytest.raises(
        ValueError, match=r"^X: expected sequences \(N, T, D\), got \(6, 3\)"
    ) as error:
        fitted(SAMPLES, y)
    for target in ("steps", "last"):
        with pytest.raises(ValueError, match=r"X: expected sequences \(N, T, D\)"):
            fitted(SAMPLES, y, target=target)
    said = str(error.value)
    for part in ("with y (6,)", "one sequence", "X[None], y[None]", "sequences of one step",
                 "X[:, None, :]", "sequences of one feature", "X[:, :, None]"):  # fmt: skip
        assert part in said
    assert fitted(SAMPLES[None], y[None]).predict(SAMPLES[None]).shape == (1, 6)
    for X in (SAMPLES[:, None, :], SAMPLES[:, :, None]):
        assert fitted(X, y).predict(X).shape == (6,)


def one_target_problem(M=None, sizes=(3, 4, 2)):
    rng = np.random.default_rng(0)
    return rng.normal(size=sizes), rng.normal(size=sizes[:1] if M is None else (sizes[0], M))


def loss_of_last_step(weights, xs, ts):
    """Loss of targets (N, M) and its gradients, by the second implementation."""

    def loss(y, target):
        return (0.0, np.zeros_like(y)) if target is None else oracle.half_square(y, target)

    total, grads = 0.0, dict.fromkeys(weights, 0.0)
    for x, t in zip(xs, ts, strict=True):
        value, shares, _, _ = oracle.rnn(x, [None] * (len(x) - 1) + [t], weights, loss)
        total += value / len(xs)
        grads = {name: grads[name] + shares[name] / len(xs) for name in grads}
    return total, grads


@everywhere
@pytest.mark.parametrize("sizes", [(3, 4, 2), (5, 1, 3), (1, 3, 1)])
@pytest.mark.parametrize("M", [None, 1, 4])
def test_one_target_learning_curve(M, sizes, dtype, ops):
    """Losses and predictions of thirty epochs, by the second implementation."""
    X, y = one_target_problem(M, sizes)
    options = {"dtype": dtype, "ops": ops, "learning_rate": 0.05, "target": "last"}
    weights = oracle_weights(fitted(X, y, epochs=0, **options))
    model = fitted(X, y, epochs=30, **options)
    losses = []
    for _ in range(30):
        loss, grads = loss_of_last_step(weights, X, y.reshape(len(X), -1))
        losses.append(loss)
        oracle.descend(weights, grads, 0.05)
    tolerance = {"float64": 1e-10, "float32": 1e-4}[dtype]
    assert_close(model.loss_curve_, losses, tolerance)
    assert (model.target_, model.n_outputs_) == ("last", M or 1)
    expected = np.stack([oracle_predict(weights, x)[-1] for x in X]).reshape(y.shape)
    np.testing.assert_allclose(model.predict(X), expected, atol=tolerance)
    assert model.predict(X).dtype == dtype


@pytest.mark.parametrize("ops", [kernels, reference.ops], ids=["compiled", "numpy"])
@pytest.mark.parametrize("M", [None, 2])
def test_one_target_gradients_by_central_differences(M, ops):
    X, y = one_target_problem(M)
    model = fitted(X, y, hidden_size=5, epochs=0, init="normal", target="last", ops=ops)
    _, gradients = model.gradients(X, y)
    for name, W in model.weights_.items():
        numeric = np.empty(W.shape)
        for index in np.ndindex(W.shape):
            kept, losses = W[index], []
            for step in (1e-5, -1e-5):
                W[index] = kept + step
                losses.append(model.gradients(X, y)[0])
            W[index] = kept
            numeric[index] = (losses[0] - losses[1]) / 2e-5
        assert_close(gradients[name], numeric, 1e-7, name)


@pytest.mark.parametrize("M", [None, 2])
def test_one_target_gradients_by_pytorch(M):
    torch = pytest.importorskip("torch")
    X, y = one_target_problem(M)
    model = fitted(X, y, epochs=0, target="last")
    loss, gradients = model.gradients(X, y)
    W = {name: torch.tensor(W, requires_grad=True) for name, W in model.weights_.items()}
    h = torch.zeros(len(X), 20, dtype=torch.float64)
    for t in range(X.shape[1]):
        h = torch.tanh(torch.tensor(X[:, t]) @ W["W_xh"] + h @ W["W_hh"].T + W["b_h"])
    error = h @ W["W_hy"] + W["b_y"] - torch.tensor(y.reshape(len(X), -1))
    theirs = (error**2).sum() / (2 * len(X))
    theirs.backward()
    assert loss == pytest.approx(theirs.item(), rel=1e-13)
    for name, dW in gradients.items():
        assert_close(dW, W[name].grad.numpy(), 1e-12, name)


@everywhere
def test_one_target_frozen(dtype, ops):
    """Loss, and norm and sum of each gradient, computed once by PyTorch 2.13; all numbers of X, y
    and the weights are sin(k n), n being 1, 2, 3..."""

    def wave(k, *shape):
        return np.sin(k * np.arange(1, 1 + np.prod(shape))).reshape(shape).astype(dtype)

    X, y = wave(1.1, 2, 3, 2), wave(2.3, 2, 2)
    model = fitted(X, y, hidden_size=3, epochs=0, target="last", dtype=dtype, ops=ops)
    frozen = {
        "W_xh": (1.3, 0.527119831753125, -0.011763686656135),
        "W_hy": (1.7, 0.506153923412169, 0.114692171693051),
        "W_hh": (1.9, 0.607391991271887, 0.065754125990753),
        "b_h": (2.9, 0.559184989177726, 0.057968568160671),
        "b_y": (3.1, 0.488444592674027, 0.000077329585158),
    }
    for name, (k, _, _) in frozen.items():
        model.weights_[name][...] = wave(k, *model.weights_[name].shape)
    loss, gradients = model.gradients(X, y)
    tolerance = {"float64": 1e-14, "float32": 1e-6}[dtype]
    assert abs(loss - 0.309973580214202) <= tolerance
    for name, (_, norm, total) in frozen.items():
        assert abs(np.linalg.norm(gradients[name]) - norm) <= tolerance, name
        assert abs(gradients[name].sum() - total) <= 4 * tolerance, name


def test_what_a_target_is_depends_on_dimensions_alone():
    """With as many outputs as steps, as many sequences as steps, and neither."""
    for N, T in ((3, 4), (4, 4), (4, 2)):
        X, y = one_target_problem(T, (N, T, 2))
        model = fitted(X, y)
        assert (model.target_, model.n_outputs_, model.predict(X).shape) == ("steps", 1, (N, T))
        model = fitted(X, y, target="last")
        assert (model.target_, model.n_outputs_, model.predict(X).shape) == ("last", T, (N, T))
        model = fitted(X, y[:, 0])
        assert (model.target_, model.n_outputs_, model.predict(X).shape) == ("last", 1, (N,))
        again = fitted(X, y[:, :1], target="last")
        assert again.loss_curve_ == model.loss_curve_
        assert again.predict(X).shape == (N, 1)
        assert (again.predict(X)[:, 0] == model.predict(X)).all()


@pytest.mark.parametrize(
    ("x", "y", "target", "message"),
    [
        (A((3, 4, 2)), A((3, 5)), "auto", r"y: .*\(3, 4\), got \(3, 5\); .*target='last'"),
        (A((3, 4, 2)), A(4), "auto", r"y: .*\(3,\), got \(4,\); y has one target for each"),
        (A((1, 4, 2)), A(4), "auto", r"y: .*\(1,\), got \(4,\); .*every step are \(N, T\)"),
        (A((3, 4, 2)), A(3), "steps", r"y: .*shape \(3, 4\), got \(3,\); .*value for every step"),
        (A((3, 4, 2)), A((3, 4, 1)), "last", r"y: .*shape \(3, M\), got \(3, 4, 1\); y has one"),
        (A((3, 4, 2)), A((4, 2)), "last", r"y: .*shape \(3, M\), got \(4, 2\)"),
        (A((3, 4)), A((3, 4)), "last", r"X: .*\(N, T, D\) for target='last', got \(3, 4\)"),
        (A(4), A(4), "last", r"X: expected sequences \(N, T, D\) for target='last', got \(4,\)"),
        (A((3, 1, 2)), A((3, 1)), "auto", r"X: expected sequences of at least 2 steps, got 1"),
        (X, Y, "each", r"target: expected 'auto', 'steps' or 'last', got 'each'"),
        (X, Y, None, r"target: expected 'auto', 'steps' or 'last', got None"),
    ],
)  # fmt: skip
def test_bad_targets(x, y, target, message):
    with pytest.raises(ValueError, match=message):
        fitted(x, y, target=target)


def test_one_target_score_is_r_squared():
    X, y = one_target_problem(2, (30, 4, 2))
    y[:, 0] = X.sum(axis=(1, 2))
    model = fitted(X, y, target="last", learning_rate=0.1, epochs=300)
    errors = ((y - model.predict(X)) ** 2).sum(axis=0)
    scores = 1 - errors / ((y - y.mean(axis=0)) ** 2).sum(axis=0)
    assert model.score(X, y) == pytest.approx(scores.mean(), rel=1e-12)
    assert fitted(X, y[:, 0], learning_rate=0.1, epochs=300).score(X, y[:, 0]) > 0.9


@pytest.mark.parametrize("M", [None, 1])
def test_one_target_forecasts_slide_over_the_sequence(M):
    """Every value is predicted from as many steps as the sequences had that were fitted."""
    X, y = one_target_problem(M, (3, 4, 1))
    model = fitted(X, y, target="last")
    forecast, window = model.forecast(6), X
    assert forecast.shape == ((3, 6) if M is None else (3, 6, 1))
    for k in range(6):
        assert window.shape == X.shape
        following = model.predict(window)
        np.testing.assert_allclose(forecast[:, k], following, rtol=1e-13)
        window = np.concatenate((window[:, 1:], following.reshape(3, 1, 1)), axis=1)
    assert model.forecast(2, X[:1]).shape[:2] == (1, 2)
    with pytest.raises(ValueError, match="forecast: expected as many outputs as features, got 1"):
        fitted(*one_target_problem()).forecast(1)


def test_what_was_fitted_is_a_copy():
    x = np.array(X, float)
    model = fitted(x, Y)
    expected = model.forecast(3)
    x[...] = 0
    assert (model.forecast(3) == expected).all()


def test_asking_sets_nothing():
    """Neither the state of the layers, nor their gradients: several threads may ask at once."""
    model = fitted()
    layer = model.network_.layers[0]
    state, grads = layer.h.copy(), [dW.copy() for dW in model.network_.grads]
    model.predict([7, 8, 9])
    model.forecast(3)
    model.gradients([7, 8, 9], [8, 9, 10])
    assert (layer.h == state).all()
    assert all((a == b).all() for a, b in zip(model.network_.grads, grads, strict=True))


@pytest.mark.parametrize("seed", [0, np.int64(7), 2**32 - 1])
def test_a_whole_number_seeds_the_legacy_generator(seed):
    """Whose numbers stay, as those that `rnnfast reproduce` compares must."""
    expected = fitted(random_state=np.random.RandomState(seed), epochs=0).weights_
    weights = fitted(random_state=seed, epochs=0).weights_
    assert all((weights[name] == expected[name]).all() for name in expected)
    generators = [fitted(random_state=np.random.default_rng(1), epochs=0) for _ in range(2)]
    assert (generators[0].weights_["W_hh"] == generators[1].weights_["W_hh"]).all()


@pytest.mark.parametrize(
    ("seed", "error", "message"),
    [
        (-1, ValueError, "random_state: expected a whole number of at least 0, got -1"),
        (2**32, ValueError, r"random_state: expected a whole number below 2\*\*32, got 4294967296"),
        (1.5, TypeError, "random_state: expected a numpy.random.Generator or RandomState, a whole"),
        ("one", TypeError, "random_state: expected a .*, a whole number or None, got 'one'"),
        (True, TypeError, "random_state: .* got True"),
    ],
)
def test_bad_seeds(seed, error, message):
    with pytest.raises(error, match=message):
        fitted(random_state=seed)


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
    again = pickle.loads(pickle.dumps(model))
    assert (again.predict(X) == model.predict(X)).all()
    assert again.get_params() == model.get_params()
    assert (again.set_params(epochs=3).fit(X, Y).loss_curve_) == model.loss_curve_[:3]
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
    for target in ("auto", "last"):  # T values for every step, or T targets
        model.set_params(target=target)
        assert clone(model).get_params() == model.get_params()
        search = GridSearchCV(model, {"hidden_size": [4, 8]}, cv=3).fit(xs, ts)
        assert search.best_estimator_.n_outputs_ == {"auto": 1, "last": 6}[target]
        assert search.predict(xs).shape == ts.shape
    search = GridSearchCV(model, {"target": ["auto", "last"]}, cv=3).fit(xs, ts[:, 0])
    assert search.predict(xs).shape == (12,)


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
        ({"dtype": "real"}, TypeError, "dtype: expected float32 or float64, got 'real'"),
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
    for wrong in (A((5, 2)), A(2)):
        with pytest.raises(ValueError, match=r"X: .*\(N, T, 2\) as in fit, got .*, X\[None\] one"):
            model.predict(wrong)
    one_target = fitted(A((3, 5, 1)), A(3))
    for wrong in (A((3, 5)), A(5)):
        with pytest.raises(ValueError, match=r"X: .*\(N, T, 1\) as in fit, got .*, X\[None\] one"):
            one_target.predict(wrong)
    with pytest.raises(
        ValueError, match=r"y: .*shape \(3,\), got \(3, 1\); y has the shape of pred"
    ):
        one_target.gradients(A((3, 5, 1)), A((3, 1)))
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
