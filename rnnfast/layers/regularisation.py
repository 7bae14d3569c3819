"""Regularisation inside the loop over time: its rates, and the masks that a call draws.

Letters in shapes: N batch rows, T time steps, H hidden size, G gates, S states.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias, TypedDict

import numpy as np

from .._checks import as_bool, as_fraction, as_generator, is_number
from .._ops import Ops
from .._random import Generator, PutBackOnError, draw_key
from .._types import Array, ArrayLike, Arrays, BatchPart, DTypeLike, Precision, Seed, Shape
from .cell import Drops, Forward, Recurrent, dropped

Rates: TypeAlias = float | Sequence[float]
"""One for all states, or one for each."""
Zoneouts: TypeAlias = tuple[Array | None, ...] | None
"""Masks of each state (N, T, H), or None of all."""


def draw(
    ops: Ops,
    rng: Generator,
    probability: float,
    value: float,
    shape: Shape,
    dtype: DTypeLike,
    part: BatchPart = None,
) -> Array:
    """A mask: `value` with this probability, and else 0; or the rows of it that are a `part`."""
    first, of = 0, None
    if part is not None:
        (row, rows), size = part, math.prod(shape[1:])
        if row + shape[0] > rows:
            raise ValueError(
                f"batch_part: expected {shape[0]} rows, as xs has, of the whole batch, got those "
                f"from row {row} on of {rows}; set it to None where the rows of xs are all"
            )
        first, of = row * size, rows * size
    mask = np.empty(shape, dtype)
    ops.draw_mask(draw_key(rng), probability, value, mask, first, of)
    return mask


def draw_dropout(
    ops: Ops,
    rng: Generator,
    rate: float,
    shape: Shape,
    dtype: DTypeLike,
    part: BatchPart = None,
) -> Array:
    """A mask of 0 with probability `rate`; what is kept makes up for it in the mean."""
    return draw(ops, rng, 1 - rate, 1 / (1 - rate), shape, dtype, part)


class Regularisation(TypedDict, total=False):
    """Keyword arguments; a rate is a number in 0 <= rate < 1."""

    recurrent_dropout: float
    """Probability of 0 in the mask of the h that meets Wh, one mask for all steps of a block."""
    zoneout: Rates
    """Probability of a number of a state to stay what it was: of all states, or (of h, of c)."""
    weight_drop: float
    """Probability of 0 in the mask of Wh."""
    zoneout_mean: bool
    """Whether zoneout is its mean in evaluation, and not off."""
    rng: Seed
    """What masks are drawn from."""


class Regularised(Recurrent):
    """A layer that, in training, leaves out some of what goes from step to step.

    A mask is drawn by `ops.draw_mask` from a key that is one number of `rng`, int(rng.random() *
    2**53). The order in a call, for the first direction and then for the second: recurrent dropout,
    zoneout of h and of c, weight drop. Of the masks that have rows of the batch, a `batch_part` has
    its own; that of Wh is drawn whole.
    """

    _recurrent_dropout: float
    _zoneout: float | tuple[float, ...]
    _weight_drop: float
    _zoneout_mean: bool
    _rng: Generator | None

    def __init__(
        self,
        weights: Mapping[str, ArrayLike],
        ops: Ops | None,
        precision: Precision | None,
        *,
        recurrent_dropout: float = 0.0,
        zoneout: Rates = 0.0,
        weight_drop: float = 0.0,
        zoneout_mean: bool = False,
        rng: Seed = None,
    ) -> None:
        super().__init__(weights, ops, precision)
        self._set(
            _recurrent_dropout=as_fraction("recurrent_dropout", recurrent_dropout),
            _zoneout=self._as_rates(zoneout),
            _weight_drop=as_fraction("weight_drop", weight_drop),
            _zoneout_mean=as_bool("zoneout_mean", zoneout_mean),
            _rng=None if rng is None else as_generator(rng),
        )

    @property
    def recurrent_dropout(self) -> float:
        """Probability of 0 in the mask of the h that meet Wh, one mask for all steps of a block."""
        return self._recurrent_dropout

    @recurrent_dropout.setter
    def recurrent_dropout(self, rate: float) -> None:
        self._set(_recurrent_dropout=as_fraction("recurrent_dropout", rate))

    @property
    def zoneout(self) -> float | tuple[float, ...]:
        """Probability of a number of a state to stay what it was: of all states, or of each."""
        return self._zoneout

    @zoneout.setter
    def zoneout(self, rates: Rates) -> None:
        self._set(_zoneout=self._as_rates(rates))

    @property
    def weight_drop(self) -> float:
        """Probability of 0 in the mask of Wh."""
        return self._weight_drop

    @weight_drop.setter
    def weight_drop(self, rate: float) -> None:
        self._set(_weight_drop=as_fraction("weight_drop", rate))

    @property
    def zoneout_mean(self) -> bool:
        """Whether evaluation takes the mean of zoneout, or none."""
        return self._zoneout_mean

    @zoneout_mean.setter
    def zoneout_mean(self, mean: bool) -> None:
        self._set(_zoneout_mean=as_bool("zoneout_mean", mean))

    @property
    def rng(self) -> Generator | None:
        """What masks are drawn from. May be None where there are none to draw."""
        return self._rng

    @rng.setter
    def rng(self, rng: Seed) -> None:
        self._set(_rng=None if rng is None else as_generator(rng))

    def config(self) -> dict[str, Any]:
        return super().config() | {
            "recurrent_dropout": self._recurrent_dropout,
            "zoneout": self._zoneout,
            "weight_drop": self._weight_drop,
            "zoneout_mean": self._zoneout_mean,
        }

    def _as_rates(self, zoneout: Rates) -> float | tuple[float, ...]:
        states = self.cell.states
        if is_number(zoneout):
            return as_fraction("zoneout", zoneout)
        if isinstance(zoneout, (tuple, list, np.ndarray)) and len(zoneout) == len(states) > 1:
            return tuple(as_fraction(f"zoneout[{k}]", rate) for k, rate in enumerate(zoneout))
        several = f", or one for each of {', '.join(states)}"
        alone = f", since a {type(self).__name__} has the state h alone"
        raise ValueError(
            "zoneout: expected a number in 0 <= zoneout < 1"
            f"{several if len(states) > 1 else alone}, got {zoneout!r}"
        )

    def _set(self, **attributes: Any) -> None:
        """Set attributes, and what follows from all: forward asks one question, not one of each."""
        self.__dict__ |= attributes
        rates = (
            self._zoneout if isinstance(self._zoneout, tuple) else (self._zoneout,) * self.cell.S
        )
        self._zoneouts = rates if any(rates) else ()
        self._regularised = any((self._recurrent_dropout, *rates, self._weight_drop))
        if self._regularised and self._rng is None:
            self._rng = as_generator(None)

    def _forward(
        self,
        xs: Array,
        weights: Sequence[Array],
        states: Arrays | None,
        shape: Shape,
        options: dict[str, Any],
        training: bool,
    ) -> tuple[Forward, Drops]:
        """What a kernel makes of a block of (N, T), and what stood for weights that were dropped.

        After an error the generator is as it was.
        """
        options.update(self._products)
        if not self._regularised:
            return self._kernel_forward(xs, weights, states, options), {}
        if not training:
            return self._kernel_forward(xs, weights, states, options | self._means(shape)), {}
        assert self._rng is not None
        with PutBackOnError(self._rng):
            masks, drops = self._draw(self._rng, weights, shape)
            options.update(masks)
            if drops:
                weights = dropped(weights, drops)
            return self._kernel_forward(xs, weights, states, options), drops

    def _draw(
        self, rng: Generator, weights: Sequence[Array], shape: Shape
    ) -> tuple[dict[str, Any], Drops]:
        """Masks for a block of (N, T): arguments of a kernel, and products of weights."""
        N, T, H = *shape, self.hidden_size
        part = self._batch_part
        recurrent: list[Array | None] = []
        zoneouts: list[Zoneouts] = []
        drops: dict[int, tuple[Array, Array]] = {}
        for k in self._recurrent_places:
            recurrent.append(self._dropout_mask(rng, self._recurrent_dropout, (N, H), part))
            each = [self._mask(rng, p, 1, (N, T, H), part) for p in self._zoneouts]
            zoneouts.append(tuple(each) or None)
            of_weight = self._dropout_mask(rng, self._weight_drop, weights[k].shape)
            if of_weight is not None:
                drops[k] = weights[k] * of_weight, of_weight
        return self._kernel_masks(recurrent, zoneouts), drops

    def _mask(
        self, rng: Generator, probability: float, value: float, shape: Shape, part: BatchPart
    ) -> Array | None:
        """`value` with this probability, and else 0; None where it is 0."""
        if not probability:
            return None
        return draw(self._ops, rng, probability, value, shape, self.dtype, part)

    def _dropout_mask(
        self, rng: Generator, rate: float, shape: Shape, part: BatchPart = None
    ) -> Array | None:
        return draw_dropout(self._ops, rng, rate, shape, self.dtype, part) if rate else None

    def _means(self, shape: Shape) -> dict[str, Any]:
        """What evaluation has in place of masks, as arguments of a kernel."""
        if not (self._zoneout_mean and self._zoneouts):
            return {}
        full = (*shape, self.hidden_size)
        means = tuple(np.broadcast_to(self.dtype.type(p), full) for p in self._zoneouts)
        directions = len(self._recurrent_places)
        return self._kernel_masks([None] * directions, [means] * directions)
