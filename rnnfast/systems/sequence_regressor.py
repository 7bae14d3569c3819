"""Notebook 003: regression on sequences, such as a price from the prices before it.

Letters: N sequences, T time steps, D features, H hidden size, M outputs.
"""

import copy
import inspect
import math
from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import DTypeLike

from .._checks import (
    as_above_zero,
    as_count,
    as_float_dtype,
    as_floats,
    as_weights,
    check_finite,
    check_shape,
    normal_numbers,
)
from .._ops import HasOps, Ops
from .._types import Array, ArrayLike, Seed, Shape
from ..archive import require_names
from ..errors import InputError
from ..layers import TimeAffine, TimeRNN
from ..losses import TimeSquaredLoss
from ..models import saving
from ..models.saving import Format
from ..training.optimizers import SGD
from ..training.steps import take_step
from ._shared import Named, NamedNetwork, own_weights

SHAPES = {"W_xh": "DH", "W_hy": "HM", "W_hh": "HH", "b_h": "H", "b_y": "M"}
THREE = (
    "X[:, :, None] makes sequences of one feature out of rows, X[None] one sequence out of all rows"
)


@saving.known
class SequenceRegressor(HasOps):
    """h_t = tanh(x_t W_xh + W_hh h_{t-1} + b_h) from h_0 = 0, y_t = h_t W_hy + b_y.

    y is a value for every step, or one target for each sequence, which is then that of its last
    step. `fit` minimises the mean, over all positions that have a target, of half the squared
    error, by gradient descent through the whole of every sequence, all sequences at once. It has
    the interface of a scikit-learn estimator (and does not need scikit-learn); rows of X are
    sequences.

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
    target : "auto", "steps" or "last"
        Whether y has a value for every step, or one target for each sequence. "auto" says it by
        the dimensions of X and y, never by their sizes: "last" for X (N, T, D) with y (N,), which
        can mean nothing else, and "steps" otherwise. Several targets for each sequence, y (N, M),
        need "last", since with M equal to T they look like a value for every step.
    random_state : int, which seeds a numpy.random.RandomState, or a RandomState or Generator; None
        is NumPy's global state
    dtype : "float64" or "float32"
    ops : module with the arithmetic, see `rnnfast.layers`; None is `rnnfast.kernels`

    Attributes
    ----------
    weights_ : dict of arrays W_xh (D, H), W_hy (H, M), W_hh (H, H), b_h (H,), b_y (M,)
    loss_curve_ : list of float, the loss before each update
    n_features_in_, n_outputs_ : D and M
    n_iter_ : updates done
    target_ : "steps" or "last"
    network_ : the layers, with `params`, `grads` and `forward` of their own
    X_train_ : a copy of what was fitted

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

    The sum of each sequence, one target for each:

    >>> import numpy as np
    >>> X = np.random.default_rng(0).normal(size=(50, 4, 1))
    >>> y = X.sum(axis=(1, 2))
    >>> model = rnnfast.SequenceRegressor(learning_rate=0.1, random_state=0).fit(X, y)
    >>> model.predict(X).shape, model.score(X, y) > 0.95
    ((50,), True)
    """

    network_: "_RegressionRnn"
    loss_curve_: list[float]
    n_features_in_: int
    n_outputs_: int
    n_iter_: int
    target_: Literal["steps", "last"]
    X_train_: Array

    def __init__(
        self,
        hidden_size: int = 100,
        *,
        learning_rate: float = 0.01,
        epochs: int = 500,
        init: Literal["scaled", "normal"] = "scaled",
        max_grad: float | None = None,
        truncate_size: int | None = None,
        target: Literal["auto", "steps", "last"] = "auto",
        random_state: Seed = None,
        dtype: DTypeLike = "float64",
        ops: Ops | None = None,
    ) -> None:
        self.hidden_size = hidden_size
        self.learning_rate = learning_rate
        self.epochs = epochs
        self.init = init
        self.max_grad = max_grad
        self.truncate_size = truncate_size
        self.target = target
        self.random_state = random_state
        self.dtype = dtype
        self.ops = ops  # None too: scikit-learn wants back what it gave

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        """Learn to predict y from X; returns self.

        Parameters
        ----------
        X : array (T,), one sequence; or (N, T), a sequence in each row; or (N, T, D), with D
            features at every step
        y : array
            A value for every step: of the shape of X, or (N, T) where X is (N, T, D); or
            (N, T, M), M values. Sequences then need at least 2 steps. Or one target for each
            sequence, where X is (N, T, D): (N,), or (N, M) with `target="last"`.

        Raises
        ------
        TypeError, ValueError
            For samples without time, X (N, D) with y (N,), which are neither one sequence nor N
            until X says so. For sequences of different lengths, NaN, shapes that do not fit, and
            parameters that make no sense.
        TrainingDiverged
            Where the loss or its gradient is not finite. Nothing has changed then.
        """
        self._require_good_options()
        X, y = _numbers("X", X, self.dtype), _numbers("y", y, self.dtype)
        target = self._target_of(X, y)
        xs, ts = _as_sequences(X), _as_targets(y, X, target)
        network = _RegressionRnn(
            self._initial_weights(xs.shape[2], ts.shape[2]),
            target=target, truncate_size=self.truncate_size, ops=self.ops,
        )  # fmt: skip
        optimizer = SGD(self.learning_rate, ops=self.ops)
        losses = [
            take_step(network, optimizer, xs, ts, max_grad=self.max_grad)
            for _ in range(self.epochs)
        ]
        self._set_fitted(network, losses, X.copy(), y.ndim == (3 if target == "steps" else 2))
        return self

    @property
    def weights_(self) -> Named:
        """The fitted weights by the notebook's names; changing one in place changes the network."""
        self._require_fitted()
        return self.network_.weights

    def predict(self, X: ArrayLike) -> Array:
        """What y is for X, which has one of the shapes that `fit` takes: an array of y's shape.

        For a sequence that goes on, the last of the values for its steps is the forecast of what
        comes next.
        """
        X, xs = self._checked_input(X)
        ys = self._like_y(self.network_.infer(xs)[0], X)
        return ys if self.target_ == "steps" else ys[:, 0]

    def forecast(self, n: int, X: ArrayLike | None = None) -> Array:
        """The n values that follow X (by default, what was fitted), in the shape of n steps of y:
        (n,), (N, n) or (N, n, M).

        The first is the last of `predict`; then every output is the next input. With one target
        for each sequence, which is taken for the value that follows it, a sequence loses its first
        step for every value that it gets, so that it is as long as those that were fitted. Raises
        ValueError where outputs are not as many as features.
        """
        n = as_count("n", n)
        X, xs = self._checked_input(X)
        if self.n_outputs_ != self.n_features_in_:
            raise ValueError(
                f"forecast: expected as many outputs as features, got {self.n_outputs_} and "
                f"{self.n_features_in_}; fit with a y that holds the next value of every feature"
            )
        states, following = None, []
        for _ in range(n):
            ys, after = self.network_.infer(xs, states)
            following.append(ys[:, -1:])
            if self.target_ == "steps":
                xs, states = following[-1], after
            else:
                xs = np.concatenate((xs[:, 1:], following[-1]), axis=1)
        return self._like_y(np.concatenate(following, axis=1), X)

    def score(self, X: ArrayLike, y: ArrayLike) -> float:
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

    def gradients(self, X: ArrayLike, y: ArrayLike) -> tuple[float, Named]:
        """Loss of the fitted weights on X and y, and its gradients by the names of `weights_`."""
        predicted, (_, xs) = self.predict(X), self._checked_input(X)
        y = _numbers("y", y, self.dtype)
        check_shape("y", y, predicted.shape, "y has the shape of predict(X)")
        # a copy, since gradients of a network from another process may be read-only
        network = copy.deepcopy(self.network_)
        loss = network.forward(xs, y.reshape(len(xs), -1, self.n_outputs_))
        return loss, network.backward()

    def save(self, path: str | PathLike[str], *, format: Format = "npz") -> None:
        """Write the fitted estimator to one file, which is there whole or not at all; `format` is
        "npz" or "safetensors", as in `Network.save`.

        It holds the parameters, the network, what was fitted (`X_train_`, for `forecast`) and
        `loss_curve_`. Not kept are `ops`, and a generator as `random_state`, which becomes None.

        Raises
        ------
        AttributeError
            Before `fit`.
        TypeError, ValueError
            Where a parameter makes no sense, or is of a kind that JSON has not.
        OSError
            Where the file cannot be written; what was there before is still there.
        """
        self._require_fitted()
        self._require_good_options()
        saving.save(path, self, format)

    @classmethod
    def load(cls, path: str | PathLike[str], *, ops: Ops | None = None) -> Self:
        """The fitted estimator that `save` wrote, with the same weights, bit for bit.

        `ops` is its parameter of this name. Nothing in the file is executed. Raises InputError
        where there is no such file, it is damaged, or something in it is missing, unknown or does
        not fit; the message names the file and what it is.

        Examples
        --------
        >>> import pathlib, rnnfast, tempfile
        >>> model = rnnfast.SequenceRegressor(random_state=0).fit([1, 2, 3], [2, 3, 4])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "model.npz")
        ...     model.save(path)
        ...     again = rnnfast.SequenceRegressor.load(path)
        >>> bool((again.forecast(5) == model.forecast(5)).all())
        True
        """
        model: Self = saving.load(path, cls, None, ops)
        return model

    def named_params(self) -> Named:
        """The arrays of a file: the parameters of the network by name, and `X_train`."""
        return self.network_.named_params() | {"X_train": self.X_train_}

    def config(self) -> dict[str, Any]:
        """Keyword arguments of `from_params`, as JSON has them: all but the arrays."""
        options = {name: _as_json(value) for name, value in self.get_params().items()}
        del options["ops"]
        return {
            "options": options,
            "network": self.network_.config(),
            "loss_curve": self.loss_curve_,
            "outputs_have_axis": self._outputs_have_axis,
        }

    @classmethod
    def from_params(
        cls,
        params: Mapping[str, Array],
        *,
        ops: Ops | None = None,
        classes: saving.Classes | None = None,
        **config: Any,
    ) -> Self:
        """A fitted estimator of what `named_params` and `config` of another have returned.

        `ops` as in `load`; there are no other `classes`. Raises InputError, TypeError and
        ValueError where something does not fit.
        """
        kinds = {"options": dict, "network": dict, "loss_curve": list, "outputs_have_axis": bool}
        options, network, losses, have_axis = (
            saving.field(config, name, kind) for name, kind in kinds.items()
        )
        require_names(kinds, config)
        model = cls(**options, ops=ops)
        require_names(model.get_params().keys() - {"ops"}, options)
        model._require_good_options()
        weights = {name: W for name, W in params.items() if name != "X_train"}
        (X,) = as_weights(X_train=params["X_train"])
        for loss in losses:
            if not isinstance(loss, float) or not math.isfinite(loss):
                raise InputError(f"loss_curve: expected finite numbers, got {loss!r}")
        fitted = _RegressionRnn.from_params(weights, ops=ops, **network)
        model._set_fitted(fitted, losses, X, have_axis)
        if not have_axis and model.n_outputs_ != 1:
            raise InputError(f"outputs_have_axis: expected true for {model.n_outputs_} outputs")
        model._checked_input(X)
        saving.require_config("", model, config)
        return model

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The parameters by name; `deep` is there for scikit-learn."""
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    def set_params(self, **params: Any) -> Self:
        """Change parameters by name; returns self. They count from the next `fit` on."""
        known = self.get_params()
        for name in params:
            if name not in known:
                raise ValueError(f"{name}: expected one of {', '.join(known)}")
        for name, value in params.items():
            setattr(self, name, value)
        return self

    def __sklearn_tags__(self) -> Any:
        """What scikit-learn asks an estimator about itself before it tunes or scores it."""
        # nobody but scikit-learn calls this, so that it is there to be imported
        from sklearn.utils import (  # type: ignore[import-not-found,import-untyped,unused-ignore]
            InputTags,
            RegressorTags,
            Tags,
            TargetTags,
        )

        return Tags(
            estimator_type="regressor",
            target_tags=TargetTags(required=True, multi_output=True),
            regressor_tags=RegressorTags(),
            input_tags=InputTags(three_d_array=True),
        )

    def __repr__(self) -> str:
        defaults = inspect.signature(type(self)).parameters
        changed = (
            f"{name}={value!r}"
            for name, value in self.get_params().items()
            if value is not defaults[name].default
        )
        return f"{type(self).__name__}({', '.join(changed)})"

    def _require_good_options(self) -> None:
        """Raise TypeError or ValueError for parameters that make no sense."""
        as_count("hidden_size", self.hidden_size)
        as_above_zero("learning_rate", self.learning_rate)
        as_count("epochs", self.epochs, least=0)
        if self.init not in ("scaled", "normal"):
            raise ValueError(f"init: expected 'scaled' or 'normal', got {self.init!r}")
        if self.max_grad is not None:
            as_above_zero("max_grad", self.max_grad)
        if self.truncate_size is not None:
            as_count("truncate_size", self.truncate_size)
        if self.target not in ("auto", "steps", "last"):
            raise ValueError(f"target: expected 'auto', 'steps' or 'last', got {self.target!r}")
        normal_numbers(self.random_state, "random_state", legacy=True)
        as_float_dtype("dtype", self.dtype)

    def _initial_weights(self, D: int, M: int) -> Named:
        H = self.hidden_size
        normal = normal_numbers(self.random_state, "random_state", legacy=True)
        shapes: tuple[Shape, ...] = (D, H), (H, M), (H, H), (H,), (M,)
        W_xh, W_hy, W_hh, b_h, b_y = map(normal, shapes)
        if self.init == "scaled":
            W_xh, W_hy, W_hh = W_xh / D**0.5, W_hy / H**0.5, W_hh / H**0.5
            b_h, b_y = 0 * b_h, 0 * b_y
        weights = {"W_xh": W_xh, "W_hy": W_hy, "W_hh": W_hh, "b_h": b_h, "b_y": b_y}
        return {name: W.astype(self.dtype) for name, W in weights.items()}

    def _set_fitted(
        self, network: "_RegressionRnn", losses: list[float], X: Array, outputs_have_axis: bool
    ) -> None:
        self.network_, self.loss_curve_, self.n_iter_ = network, losses, len(losses)
        self.n_features_in_, self.n_outputs_ = len(network.params[0]), len(network.params[-1])
        self.target_, self.X_train_ = network.target, X
        self._outputs_have_axis = outputs_have_axis

    def _require_fitted(self) -> None:
        if not hasattr(self, "network_"):
            raise AttributeError(
                f"{type(self).__name__}: expected a call of fit before this one, got none; "
                "call fit(X, y) first"
            )

    def _target_of(self, X: Array, y: Array) -> Literal["steps", "last"]:
        """Which of the two the shapes of X and y and the parameter `target` say."""
        if X.ndim == 2 and y.ndim == 1:
            raise ValueError(
                f"X: expected sequences (N, T, D), got {X.shape} with y {y.shape}, samples without "
                "time; for one sequence, whose steps they are, give X[None], y[None]; for as many "
                "sequences with one target each, X[:, None, :] for sequences of one step, or "
                "X[:, :, None] for sequences of one feature"
            )
        if self.target == "last" and X.ndim < 3:
            raise ValueError(
                f"X: expected sequences (N, T, D) for target='last', got {X.shape}; {THREE}"
            )
        if self.target == "auto":
            return "last" if X.ndim == 3 and y.ndim == 1 else "steps"
        return self.target

    def _checked_input(self, X: ArrayLike | None) -> tuple[Array, Array]:
        """(X as numbers, X as (N, T, D)), or the fitted X for None."""
        self._require_fitted()
        X = self.X_train_ if X is None else _numbers("X", X, self.dtype)
        if X.ndim < 3 and (self.n_features_in_ > 1 or self.target_ == "last"):
            raise ValueError(
                f"X: expected sequences (N, T, {self.n_features_in_}) as in fit, got {X.shape}; "
                f"{THREE}"
            )
        xs = _as_sequences(X)
        check_shape("X", xs, ("N", "T", self.n_features_in_), "these are N, T, D; D as in fit")
        return X, xs

    def _like_y(self, ys: Array, X: Array) -> Array:
        """Outputs (N, T, M) without the axes that X and y do not have."""
        ys = ys if self._outputs_have_axis else ys[:, :, 0]
        return ys[0] if X.ndim == 1 else ys


class _LastStep:
    """Of all steps (N, T, H) the last alone, (N, 1, H). No parameters."""

    def __init__(self) -> None:
        self.params: list[Array] = []
        self.grads: list[Array] = []

    def forward(self, xs: Array) -> Array:
        self._shape = xs.shape
        return self.infer(xs)

    def infer(self, xs: Array) -> Array:
        return xs[:, -1:]

    def backward(self, dout: Array) -> Array:
        dxs = np.zeros(self._shape, dout.dtype)
        dxs[:, -1:] = dout
        return dxs


@saving.known
class _RegressionRnn(NamedNetwork):
    """The layers of a `SequenceRegressor`; W_hh is written from the left, and so Wh transposed."""

    target: Literal["steps", "last"]

    def __init__(
        self,
        weights: Mapping[str, ArrayLike],
        *,
        target: Literal["steps", "last"],
        truncate_size: int | None = None,
        stateful: bool = False,
        ops: Ops | None = None,
    ) -> None:
        W_xh, W_hy, W_hh, b_h, b_y = own_weights(weights, SHAPES).values()
        if target not in ("steps", "last"):
            raise ValueError(f"target: expected 'steps' or 'last', got {target!r}")
        self.target = target
        Wh = W_hh.T.copy()
        rnn = TimeRNN(W_xh, Wh, b_h, stateful, truncate_size=truncate_size, ops=ops)
        last = {"last": _LastStep()} if target == "last" else {}
        affine = TimeAffine(W_hy, b_y, ops=ops)
        super().__init__({"recurrent": rnn, **last, "affine": affine}, TimeSquaredLoss())

    @classmethod
    def _by_name(cls, arrays: Sequence[Array], shapes: Mapping[str, Shape]) -> Named:
        Wx, Wh, b, Wy, by = arrays
        return {"W_xh": Wx, "W_hy": Wy, "W_hh": Wh.T, "b_h": b, "b_y": by}

    def _options(self) -> dict[str, Any]:
        return super()._options() | {"target": self.target}


def _as_json(value: Any) -> Any:
    """The value of a parameter as JSON has it."""
    if isinstance(value, (np.random.Generator, np.random.RandomState)):
        return None
    if isinstance(value, (np.dtype, type)):
        return np.dtype(value).name
    return value.item() if isinstance(value, np.generic) else value


def _numbers(name: str, given: Any, dtype: DTypeLike) -> Array:
    """What is given as finite numbers in up to three dimensions; ragged lists are told apart."""
    try:
        array = np.asarray(given)
        if array.dtype == object:  # sequences of different lengths, or numbers nobody converted
            array = np.asarray(array.tolist())
    except ValueError:
        lengths = sorted(
            {len(sequence) if hasattr(sequence, "__len__") else 1 for sequence in given}
        )
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


def _as_sequences(X: Array) -> Array:
    """(T,), (N, T) or (N, T, D) -> (N, T, D)"""
    if X.ndim == 1:
        return X[None, :, None]
    return X[:, :, None] if X.ndim == 2 else X


def _as_targets(y: Array, X: Array, target: str) -> Array:
    """y, whose shape must fit that of X -> (N, T, M), or (N, 1, M) for one target a sequence."""
    if target == "last":
        hint = "y has one target for each sequence of X; values for every step are (N, T)"
        check_shape("y", y, (len(X),) if y.ndim == 1 else (len(X), "M"), hint)
        return y.reshape(len(X), 1, -1)
    N, T = X.shape[:2] if X.ndim > 1 else (1, len(X))
    if T < 2:
        raise ValueError(
            "X: expected sequences of at least 2 steps, got 1, which has no course to learn; "
            "give longer sequences (rows of X are sequences)"
        )
    if y.ndim == 3 and X.ndim > 1:
        check_shape("y", y, (N, T, "M"), "y has a value for every step of X")
    else:
        hint = "y has a value for every step of X"
        if X.ndim == 3 and y.ndim == 2:
            hint += (
                "; for M targets of each sequence, (N, M), make the estimator with target='last'"
            )
        check_shape("y", y, X.shape[:2], hint)
    return y.reshape(N, T, -1)
