"""Recurrent layers as all formats have them: weights of each direction of each layer."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Self, TypeAlias

import numpy as np

from .._types import Array
from ..cells import Cell
from ..errors import InputError
from ..layers import TIME_LAYERS, TimeBiGRU, TimeBiLSTM, TimeBiRNN, TimeStack, time_layer
from ..layers.bidirectional import TimeBidirectional
from ..layers.cell import CELL_OPTIONS
from ..layers.recurrent import TimeDirected, TimeRecurrent
from .gates import Orders, to_ours, to_theirs

Direction: TypeAlias = Sequence[Array]
"""Wx (D, G*H), Wh (H, G*H), b (G*H,) [, bh (G*H,)], as `params` has them"""

BOTH_WAYS: dict[str, type[TimeBidirectional]] = {
    "rnn": TimeBiRNN, "rnn_relu": TimeBiRNN, "lstm": TimeBiLSTM,
    "gru": TimeBiGRU, "gru_reset_after": TimeBiGRU,
}  # fmt: skip


@dataclass
class Recurrent:
    """One or more layers of one cell, each taking the outputs of the one before."""

    cell: Cell
    layers: list[list[Direction]]
    reverse: bool = False
    dropout: float = 0.0  # between layers

    @property
    def directions(self) -> int:
        """How many each layer has."""
        return len(self.layers[0])

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.layers[0][0][0].dtype

    @property
    def input_size(self) -> int:
        return len(self.layers[0][0][0])

    @property
    def hidden_size(self) -> int:
        return len(self.layers[0][0][1])

    @classmethod
    def of(cls, name: str, layer: Any) -> Self:
        """The weights, the arrays themselves, of a layer that is called so in errors."""
        if not isinstance(layer, (TimeDirected, TimeBidirectional, TimeStack)):
            raise TypeError(
                f"{name}: expected a recurrent layer such as TimeLSTM, TimeBiLSTM or TimeStack, "
                f"got {type(layer).__name__}"
            )
        if layer.zoneout != 0 and layer.zoneout_mean:
            raise InputError(
                f"{name}: expected no zoneout_mean, with which outputs are others in evaluation "
                "too, and which no other library has; set zoneout_mean to False"
            )
        step = len(layer.cell.weights)
        own: list[Direction] = [
            layer.params[k : k + step] for k in range(0, len(layer.params), step)
        ]
        both = isinstance(layer, TimeBidirectional) or getattr(layer, "bidirectional", False)
        return cls(
            layer.cell,
            [own[k : k + 1 + both] for k in range(0, len(own), 1 + both)],
            getattr(layer, "reverse", False),
            getattr(layer, "dropout", 0.0),
        )

    @classmethod
    def on_top(cls, names: Sequence[str], layers: Sequence[Any]) -> Self:
        """The weights of several layers of one kind, each on top of the one before."""
        parts = [cls.of(name, layer) for name, layer in zip(names, layers, strict=True)]
        first = parts[0]
        for name, part in zip(names, parts, strict=True):
            if (part.cell, part.directions, part.reverse) != (
                first.cell, first.directions, first.reverse,
            ):  # fmt: skip
                raise InputError(f"{name}: expected a layer of the same kind as {names[0]}")
        return cls(first.cell, [layer for part in parts for layer in part.layers], first.reverse)

    def layer(self) -> TimeRecurrent:
        """A layer with these weights: `TimeLSTM` or another, `TimeBiLSTM` or another, or a
        `TimeStack`."""
        if len(self.layers) == 1 and self.directions == 1:
            return time_layer(self.cell.name, *self.layers[0][0], reverse=self.reverse)
        options: dict[str, Any] = dict(CELL_OPTIONS[self.cell.name])
        if len(self.layers) == 1:
            names = [f"{W}{number}" for number in (1, 2) for W in self.cell.weights]
            both: Any = BOTH_WAYS[self.cell.name]
            made: TimeBidirectional = both(
                **dict(zip(names, chain(*self.layers[0]), strict=True)), **options
            )
            return made
        kind: Any = TIME_LAYERS[self.cell.name].cell.name
        weights = [W for layer in self.layers for direction in layer for W in direction]
        return TimeStack.from_weights(
            kind,
            weights,
            bidirectional=self.directions == 2,
            reverse=self.reverse,
            dropout=self.dropout,
            **options,
        )


def ours(cell: Cell, orders: Orders, Wx: Array, Wh: Array, biases: Iterable[Array]) -> Direction:
    """A direction from a library's matrices (D, G*H) and (H, G*H), and the bias it has, or the
    two, which are added up where the cell has one."""
    arrays = [to_ours(W, cell, orders) for W in (Wx, Wh)]
    own = [to_ours(b, cell, orders) for b in biases]
    wanted = len(cell.weights) - 2
    if len(own) > wanted:
        with np.errstate(over="ignore"):
            own = [np.add(*own)]
        if not np.isfinite(own[0]).all():
            raise InputError("the two biases of a cell: expected a finite sum, got infinity")
    columns = Wh.shape[-1]
    missing = wanted - len(own)
    return *arrays, *own, *[np.zeros(columns, Wh.dtype) for _ in range(missing)]


def theirs(cell: Cell, orders: Orders, direction: Direction) -> list[Array]:
    """The matrices and biases of a direction, with a library's columns."""
    return [to_theirs(W, cell, orders) for W in direction]
