"""What the systems share: weights by the notebooks' names, one-hot input."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import DTypeLike

from .._checks import as_ids, as_weights, check_shape
from .._ops import Ops
from .._types import Array, ArrayLike, Ids, Shape
from ..archive import require_names
from ..layers import TimeAffine
from ..models import Network
from ..models.saving import Classes, field, layer_from, require_config, require_constructor

Named = dict[str, Array]
_CONFIG = ("shapes", "loss", "options")


class NamedNetwork(Network):
    """A network whose parameters and gradients can also be had by the names of a notebook.

    `params` and `grads` hold what the layers compute with; the names stand for the same numbers
    in the shapes that were given (a bias may be (H,), (1, H) or (H, 1)). A subclass whose names
    stand for more than other shapes overrides `_by_name`.

    A subclass is made of the named weights, unless it overrides `_arguments`, and of what
    `_options` returns.

    Parameters
    ----------
    layers, loss_layer : as in `Network`; the layers by name
    given : dict of the named weights, in the order of `params`; None if `_by_name` is overridden
    """

    PARAMS: ClassVar[tuple[str, ...]] = (
        *("recurrent.Wx", "recurrent.Wh", "recurrent.b"),
        *("affine.W", "affine.b"),
    )

    def __init__(
        self, layers: Mapping[str, Any], loss_layer: Any, given: Mapping[str, Array] | None = None
    ) -> None:
        super().__init__(layers, loss_layer)
        self._given_shapes: dict[str, Shape] = {name: W.shape for name, W in (given or {}).items()}

    @classmethod
    def _by_name(cls, arrays: Sequence[Array], shapes: Mapping[str, Shape]) -> Named:
        """Arrays in the order of `params` by the notebook's names, in the shapes of these."""
        return {
            name: array.reshape(shape)
            for (name, shape), array in zip(shapes.items(), arrays, strict=True)
        }

    @classmethod
    def _arguments(cls, weights: Named) -> tuple[Any, ...]:
        """Positional arguments of the constructor."""
        return (weights,)

    def _options(self) -> dict[str, Any]:
        """Keyword arguments of the constructor, but for `ops`."""
        (recurrent,) = self.recurrent_layers
        config: dict[str, Any] = recurrent.config()
        options = {name: config[name] for name in ("stateful", "truncate_size")}
        self._require_plain("recurrent", recurrent, **options)
        for name, layer in zip(self.layer_names, self.layers, strict=True):
            if isinstance(layer, TimeAffine):
                self._require_plain(name, layer)
        return options

    def _require_plain(self, layer_name: str, layer: Any, **options: Any) -> None:
        """Raise TypeError where a layer has other options than these, which a constructor takes."""
        plain = type(layer)(*layer.params, **options).config()
        for name, value in layer.config().items():
            if value != plain.get(name):  # a precision is there where it is not the dtype
                raise TypeError(
                    f"{name}: expected {plain.get(name)!r} in the {layer_name} layer of a "
                    f"{type(self).__name__}, which could not be made again from its constructor's "
                    f"arguments, got {value!r}; save a Network of its layers"
                )

    def config(self) -> dict[str, Any]:
        """Keyword arguments of `from_params`, as JSON has them: all of the model but its weights.

        For subclasses, see `Network.config`.
        """
        options = self._options()
        require_constructor(self, *self._arguments(self.weights), ops=None, **options)
        return {
            "shapes": {name: list(shape) for name, shape in self._given_shapes.items()},
            "loss": self.loss_layer.config(),
            "options": options,
        }

    @classmethod
    def from_params(
        cls,
        params: Mapping[str, Array],
        *,
        ops: Ops | None = None,
        classes: Classes | None = None,
        **config: Any,
    ) -> Self:
        """A model with copies of these weights, by the names of `named_params`, and what `config`
        of another has returned.

        `ops` as in `load`; there are no other `classes`. Raises InputError and ValueError where
        names or shapes are not those of one model.
        """
        if cls.config is not NamedNetwork.config:  # that of a subclass is for its constructor
            return super().from_params(params, ops=ops, classes=classes, **config)
        shapes, loss, options = (field(config, name, dict) for name in _CONFIG)
        require_names(_CONFIG, config)
        require_names(cls.PARAMS, params)
        weights = cls._by_name([params[name] for name in cls.PARAMS], shapes)
        make: Callable[..., Self] = cls
        model = make(*cls._arguments(weights), ops=ops, **options)
        model.loss_layer = layer_from("loss", type(model.loss_layer), {}, loss, None)
        model._use(ops)
        require_config("", model, config)
        return model

    @property
    def weights(self) -> Named:
        """The parameters by name; changing one in place changes the network."""
        return self._by_name(self.params, self._given_shapes)

    @property
    def gradients(self) -> Named:
        """The gradients of the last backward by name."""
        return self._by_name(self.grads, self._given_shapes)

    def backward(self, dout: float = 1, *, sparse: bool = False) -> Named:
        """Fill `grads` with the gradients of the last forward, times `dout`; -> `gradients`."""
        super().backward(dout, sparse=sparse)
        return self.gradients


def own_weights(given: Mapping[str, ArrayLike], shapes: Mapping[str, str]) -> Named:
    """Copies of named weights, checked: {name: array}, in the order of `shapes`.

    `shapes` gives letters by name, such as {"Wxh": "VH", "bh": "H"}; a letter stands for one size
    everywhere. A bias, which has one letter, may have its H entries as (H,), (1, H) or (H, 1).
    """
    if unlike := set(given) ^ set(shapes):
        raise ValueError(
            f"weights: expected the names {', '.join(shapes)}, got {', '.join(given) or 'none'}; "
            f"missing or unknown: {', '.join(sorted(unlike))}"
        )
    weights = dict(zip(shapes, as_weights(**{name: given[name] for name in shapes}), strict=True))
    sizes: dict[str, int] = {}
    for name, letters in shapes.items():
        shape = weights[name].shape
        if len(letters) == 1 and len(shape) == 2 and 1 in shape:
            shape = (max(shape),) if min(shape) else (0,)
        expected = tuple(sizes.get(letter, letter) for letter in letters)
        check_shape(name, weights[name].reshape(shape), expected)
        sizes |= dict(zip(letters, shape, strict=True))
    return {name: W.copy(order="C") for name, W in weights.items()}


def as_tokens(name: str, array: ArrayLike, vocab_size: int) -> Ids:
    """Ids (N, T), int64, of what is given as ids (T,) or (N, T), or as one-hot vectors.

    One-hot vectors are (T, V) of a floating point dtype or bool, or (N, T, V) of any: in integers,
    two dimensions are ids.
    """
    array = np.asarray(array)
    if array.dtype.kind not in "fb" and array.ndim != 3:
        array = array[None] if array.ndim == 1 else array
        return as_ids(name, array, vocab_size, ("N", "T"))
    array = array[None] if array.ndim == 2 else array
    check_shape(name, array, ("N", "T", vocab_size), "give one-hot vectors, or integer ids")
    wrong = ((array != 0) & (array != 1)).any(axis=2) | ((array == 1).sum(axis=2) != 1)
    if wrong.any():
        where = tuple(int(index) for index in np.argwhere(wrong)[0])
        raise ValueError(
            f"{name}: expected one-hot vectors, a single 1 among zeros, got {array[where]} at "
            f"position {where}; give ids of an integer dtype instead, or correct the vector"
        )
    ids: Ids = array.argmax(axis=2)
    return ids


class TimeOneHot:
    """Tokens, as ids or as one-hot vectors, -> one-hot vectors (N, T, V). No parameters."""

    def __init__(self, vocab_size: int, dtype: DTypeLike) -> None:
        self.params: list[Array] = []
        self.grads: list[Array] = []
        self._rows = np.eye(vocab_size, dtype=dtype)

    def forward(self, xs: ArrayLike) -> Array:
        return self._rows[as_tokens("xs", xs, len(self._rows))]

    def backward(self, dout: ArrayLike) -> None:
        """None, since tokens have no gradient."""
