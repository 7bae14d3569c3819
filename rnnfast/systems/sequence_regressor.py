"""Notebook 003: regression on sequences, such as a price from the prices before it.

Letters: N sequences, T time steps, D features, H hidden size, M outputs.
"""

import inspect

import numpy as np

from .. import kernels
from .._checks import as_above_zero, as_count, as_float_dtype, as_floats, check_finite, check_shape
from ..layers import TimeAffine, TimeRNN
from ..losses import TimeSquaredLoss
from ..training.optimizers import SGD
from ._shared import NamedNetwork, take_step


class SequenceRegressor:
    """h_t = tanh(x_t W_xh + W_hh h_{t-1} + b_h) from h_0 = 0, y_t = h_t W_hy + b_y.

    `fit` minimises the mean over all positions of half the squared error, by gradient descent
    through the whole of every sequence, all sequences at once. It has the interface of a
    scikit-learn estimator (and does not need scikit-learn); rows of X are sequences.

    Parameters
    ----------
    hidden_size : int
        H.
    learning_rate : float
    epochs : int
        Updates; 0 leaves the initial weights.
    init : "scaled" or "normal"
        Initial weights from W_xh, W_hy, W_hh, b_h, b_y, drawn in this order as standard normal
        numbers: as they are, as in the notebook ("normal"; with H = 100 this is far outside of
        what trains well), or divided by the square root of their number of inputs, with the
        biases 0 ("scaled").
    max_grad : float or None
        Norm at which the gradient is clipped.
    truncate_size : int or None, as in `TimeRNN`
    random_state : int, or numpy.random.RandomState or Generator; None is NumPy's global state
    dtype : "float64" or "float32"
    ops : module with the arithmetic, see `rnnfast.layers`; None is `rnnfast.kernels`

    Attributes
    ----------
    weights_ : dict of arrays W_xh (D, H), W_hy (H, M), W_hh (H, H), b_h (H,), b_y (M,)
    loss_curve_ : list of float, the loss before each update
    n_features_in_, n_outputs_ : D and M
    n_iter_ : updates done
    network_ : the layers, with `params`, `grads` and `forward` of their own
    X_train_ : what was fitted

    Examples
    --------
    >>> import rnnfast
    >>> prices = [1, 2, 3, 4, 5, 6]
    >>> model = rnnfast.SequenceRegressor(random_state=0).fit(prices[:-1], prices[1:])
    >>> model.predict(prices[:-1]).round(1)
    array([2., 3., 4., 5., 6.])
    >>> model.forecast(3).round(1)
    array([6. , 6.4, 6.5])
    >>> round(model.score(prices[:-1], prices[1:]), 3)
    1.0
    """

    def __init__(
        self,
        hidden_size=100,
        *,
        learning_rate=0.01,
        epochs=500,
        init="scaled",
        max_grad=None,
        truncate_size=None,
        random_state=None,
        dtype="float64",
        ops=None,
    ):
        self.hidden_size = hidden_size
        self.learning_rate = learning_rate
        self.epochs = epochs
        self.init = init
        self.max_grad = max_grad
        self.truncate_size = truncate_size
        self.random_state = random_state
        self.dtype = dtype
        self.ops = ops

    def fit(self, X, y):
        """Learn to predict y from X; returns self.

        Parameters
        ----------
        X : array (T,), one sequence of at least 2 steps; or (N, T), a sequence in each row; or
            (N, T, D), with several features
        y : array (T,) or (N, T), like X but for its features; or (N, T, M), several outputs.
            With y (T,), X may also be (T, D): one sequence with several features.

        Raises
        ------
        TypeError, ValueError
            For sequences of different lengths or of one step, NaN, shapes that do not fit, and
            parameters that make no sense.
        TrainingDiverged
            Where the loss or its gradient is not finite. Nothing has changed then.
        """
        epochs = as_count("epochs", self.epochs, least=0)
        X, y = _numbers("X", X, self.dtype), _numbers("y", y, self.dtype)
        rows_are_steps = X.ndim == 2 and y.ndim == 1
        xs = _as_sequences(X, rows_are_steps)
        if xs.shape[1] < 2:
            raise ValueError(
                "X: expected sequences of at least 2 steps, got 1, which has no course to learn; "
                "give longer sequences (rows of X are sequences; steps, where y has one dimension)"
            )
        if y.ndim == 3:
            check_shape("y", y, (*xs.shape[:2], "M"), "y has a value for every step of X")
        else:
            want = xs.shape[:2] if X.ndim == 3 else X.shape[:1] if rows_are_steps else X.shape
            check_shape("y", y, want, "y has a value for every step of X")
        ts = y if y.ndim == 3 else y.reshape(*xs.shape[:2], 1)
        network = _RegressionRnn(self, xs.shape[2], ts.shape[2])
        optimizer = SGD(as_above_zero("learning_rate", self.learning_rate))
        losses = [take_step(network, optimizer, xs, ts, self.max_grad) for _ in range(epochs)]
        self.network_, self.weights_, self.loss_curve_ = network, network.weights, losses
        self.n_features_in_, self.n_outputs_, self.n_iter_ = xs.shape[2], ts.shape[2], epochs
        self.X_train_ = X
        self._rows_are_steps = rows_are_steps or xs.shape[2] > 1
        self._outputs_have_axis = y.ndim == 3
        return self

    def predict(self, X):
        """An output for every step of X (in a shape that `fit` takes): of the shape that y has.

        For a sequence that goes on, the last of them is the forecast of what comes next.
        """
        X, xs = self._checked_input(X)
        return self._like_y(self.network_.predict(xs), X)

    def forecast(self, n, X=None):
        """The n values that follow X (by default, what was fitted), in the shape of n steps of y.

        The first is the last of `predict`; then every output is the next input. Raises ValueError
        where outputs are not as many as features.
        """
        n = as_count("n", n)
        X, xs = self._checked_input(X)
        if self.n_outputs_ != self.n_features_in_:
            raise ValueError(
                f"forecast: expected as many outputs as features, got {self.n_outputs_} and "
                f"{self.n_features_in_}; fit with a y that holds the next value of every feature"
            )
        with self.network_.carrying_state():
            ys = [self.network_.predict(xs)[:, -1:]]
            while len(ys) < n:
                ys.append(self.network_.predict(ys[-1]))
        return self._like_y(np.concatenate(ys, axis=1), X)

    def score(self, X, y):
        """R^2 of `predict(X)`: 1 is perfect, 0 as good as the mean of y; the mean over outputs."""
        predicted = self.predict(X)
        y = _numbers("y", y, self.dtype)
        check_shape("y", y, predicted.shape, "y has the shape of predict(X)")
        columns = self.n_outputs_ if self._outputs_have_axis else 1
        ts = y.reshape(-1, columns)
        errors = np.square(ts - predicted.reshape(-1, columns)).sum(axis=0)
        spread = np.square(ts - ts.mean(axis=0)).sum(axis=0)
        # where y is constant, right is 1 and wrong is 0, as in scikit-learn
        scores = np.where(spread > 0, 1 - errors / np.where(spread > 0, spread, 1), errors == 0)
        return float(scores.mean())

    def gradients(self, X, y):
        """Loss of the fitted weights on X and y, and its gradients by the names of `weights_`."""
        X, xs = self._checked_input(X)
        y = _numbers("y", y, self.dtype)
        check_shape("y", y, self._like_y(np.empty((*xs.shape[:2], self.n_outputs_)), X).shape)
        loss = self.network_.forward(xs, y.reshape(*xs.shape[:2], self.n_outputs_))
        return loss, {name: dW.copy() for name, dW in self.network_.backward().items()}

    def get_params(self, deep=True):
        """The parameters by name; `deep` is there for scikit-learn."""
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    def set_params(self, **params):
        """Change parameters by name; returns self. They count from the next `fit` on."""
        known = self.get_params()
        for name in params:
            if name not in known:
                raise ValueError(f"{name}: expected one of {', '.join(known)}")
        for name, value in params.items():
            setattr(self, name, value)
        return self

    def __sklearn_tags__(self):
        """What scikit-learn asks an estimator about itself before it tunes or scores it."""
        # nobody but scikit-learn calls this, so that it is there to be imported
        from sklearn.utils import InputTags, RegressorTags, Tags, TargetTags

        return Tags(
            estimator_type="regressor",
            target_tags=TargetTags(required=True, multi_output=True),
            regressor_tags=RegressorTags(),
            input_tags=InputTags(three_d_array=True),
        )

    def __repr__(self):
        defaults = inspect.signature(type(self)).parameters
        changed = (
            f"{name}={value!r}"
            for name, value in self.get_params().items()
            if value is not defaults[name].default
        )
        return f"{type(self).__name__}({', '.join(changed)})"

    def _checked_input(self, X):
        """(X as numbers, X as (N, T, D)), or the fitted X for None."""
        if not hasattr(self, "network_"):
            raise AttributeError(
                "SequenceRegressor: expected a call of fit before this one, got none; "
                "call fit(X, y) first"
            )
        X = self.X_train_ if X is None else _numbers("X", X, self.dtype)
        xs = _as_sequences(X, self._rows_are_steps)
        check_shape("X", xs, ("N", "T", self.n_features_in_), "these are N, T, D; D as in fit")
        return X, xs

    def _like_y(self, ys, X):
        """Outputs (N, T, M) without the axes that X and y do not have."""
        ys = ys if self._outputs_have_axis else ys[:, :, 0]
        return ys[0] if X.ndim == 1 or (X.ndim == 2 and self._rows_are_steps) else ys


class _RegressionRnn(NamedNetwork):
    """The layers of a `SequenceRegressor`; W_hh is written from the left, and so Wh transposed."""

    def __init__(self, estimator, D, M):
        H = as_count("hidden_size", estimator.hidden_size)
        if estimator.init not in ("scaled", "normal"):
            raise ValueError(f"init: expected 'scaled' or 'normal', got {estimator.init!r}")
        rng = estimator.random_state
        rng = np.random if rng is None else rng
        rng = np.random.RandomState(rng) if isinstance(rng, (int, np.integer)) else rng
        shapes = (D, H), (H, M), (H, H), (H,), (M,)
        W_xh, W_hy, W_hh, b_h, b_y = (rng.standard_normal(shape) for shape in shapes)
        if estimator.init == "scaled":
            W_xh, W_hy, W_hh = W_xh / D**0.5, W_hy / H**0.5, W_hh / H**0.5
            b_h, b_y = 0 * b_h, 0 * b_y
        Wx, Wh, b, Wy, by = (
            W.astype(estimator.dtype, order="C") for W in (W_xh, W_hh.T, b_h, W_hy, b_y)
        )
        ops = estimator.ops or kernels
        rnn = TimeRNN(Wx, Wh, b, truncate_size=estimator.truncate_size, ops=ops)
        super().__init__([rnn, TimeAffine(Wy, by)], TimeSquaredLoss(), {})

    def _by_name(self, arrays):
        Wx, Wh, b, Wy, by = arrays
        return {"W_xh": Wx, "W_hy": Wy, "W_hh": Wh.T, "b_h": b, "b_y": by}


def _numbers(name, array, dtype):
    """`array` as finite numbers in up to three dimensions; ragged lists are told apart."""
    try:
        array = np.asarray(array)
        if array.dtype == object:  # sequences of different lengths, or numbers nobody converted
            array = np.asarray(array.tolist())
    except ValueError:
        lengths = sorted({len(sequence) if np.iterable(sequence) else 1 for sequence in array})
        raise ValueError(
            f"{name}: expected sequences of one length, got lengths {lengths}; "
            "cut them to one length, or fit them one by one"
        ) from None
    if not 1 <= array.ndim <= 3:
        raise ValueError(
            f"{name}: expected 1 dimension (T), 2 (N, T) or 3 (N, T, D), got {array.ndim}; "
            "reshape it"
        )
    array = as_floats(name, array, as_float_dtype("dtype", dtype), tuple("NTD"[: array.ndim]))
    check_finite(name, array, "leave such sequences out, or fill the gaps")
    return array


def _as_sequences(array, rows_are_steps):
    """(T,), (N, T), (T, D) or (N, T, D) -> (N, T, D)"""
    if array.ndim == 1:
        return array[None, :, None]
    if array.ndim == 2:
        return array[None] if rows_are_steps else array[:, :, None]
    return array
