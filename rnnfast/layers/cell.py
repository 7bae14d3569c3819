"""Layers with the weights of a recurrent cell: what steps and blocks of time share.

Letters in shapes: N batch rows, T time steps, D input size, H hidden size, G gates, S states.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias, TypeVar

import numpy as np

from .. import cells
from .._checks import as_bool, as_floats
from .._ops import Ops
from .._types import Array, ArrayLike, Arrays, Precision, Sizes
from .base import Multiplying

Rows = TypeVar("Rows", int, str)
Activation: TypeAlias = Literal["tanh", "relu"]
RNN_CELLS: dict[str, cells.Cell] = {"tanh": cells.RNN, "relu": cells.RNN_RELU}
GRU_CELLS: dict[bool, cells.Cell] = {False: cells.GRU, True: cells.GRU_RESET_AFTER}
CELL_OPTIONS: dict[str, dict[str, Any]] = {
    **{cell.name: {"activation": activation} for activation, cell in RNN_CELLS.items()},
    **{cell.name: {"reset_after": reset_after} for reset_after, cell in GRU_CELLS.items()},
    cells.LSTM.name: {},
}
"""The keyword arguments that give a layer the cell of this name."""


def rnn_cell(activation: Activation) -> cells.Cell:
    """The RNN with this activation."""
    if not isinstance(activation, str) or activation not in RNN_CELLS:
        raise ValueError(f"activation: expected one of {', '.join(RNN_CELLS)}, got {activation!r}")
    return RNN_CELLS[activation]


def gru_cell(reset_after: bool, **biases: ArrayLike | None) -> cells.Cell:
    """The form of the GRU; `biases`, by name, are those that only one with `reset_after` has."""
    reset_after = as_bool("reset_after", reset_after)
    for name, bias in biases.items():
        if bias is not None and not reset_after:
            raise ValueError(
                f"{name}: expected None, since a GRU has this bias only with reset_after=True, "
                f"got {type(bias).__name__}; leave it out, or pass reset_after=True"
            )
    return GRU_CELLS[reset_after]


def weights_of(
    cell: cells.Cell,
    Wx: ArrayLike,
    Wh: ArrayLike,
    b: ArrayLike,
    bh: ArrayLike | None = None,
    number: str = "",
) -> dict[str, ArrayLike]:
    """The weights of a cell by name, each name with a number; zeros for a bh that is missing."""
    given = {"Wx": Wx, "Wh": Wh, "b": b}
    if "bh" in cell.weights:
        given["bh"] = np.zeros(np.shape(Wh)[1:], np.asarray(Wh).dtype) if bh is None else bh
    return {name + number: W for name, W in given.items()}


Drops: TypeAlias = Mapping[int, tuple[Array, Array]]
"""By the place of a weight in `params`: its product with a mask, which is used instead of it, and
the mask."""
Forward: TypeAlias = tuple[Array, Array, Any]
"""hs, the last states, cache"""
Backward: TypeAlias = tuple[Array | None, Array]
"""dxs, gradients of the initial states"""


class Recurrent(Multiplying):
    """A layer with the weights of a `cell`: Wx (D, G*H), Wh (H, G*H), b (G*H,) [, bh (G*H,)].

    All that depends on the number of directions in time is in the methods from `state_shape` to
    `_kernel_states`: here it is one.
    """

    cell: cells.Cell
    _reverse = False

    def __init__(
        self, weights: Mapping[str, ArrayLike], ops: Ops | None, precision: Precision | None
    ) -> None:
        super().__init__(ops, precision, **weights)
        # where Wh of each direction stands in `params`
        self._recurrent_places = range(1, len(self._names), len(self.cell.weights))

    def config(self) -> dict[str, Any]:
        return super().config() | CELL_OPTIONS[self.cell.name]

    @property
    def hidden_size(self) -> int:
        """H"""
        return len(self.params[1])

    def state_shape(self, rows: Rows) -> tuple[int | Rows, ...]:
        """Shape of a state, h or c, of a batch of so many rows: (N, H)."""
        return rows, self.hidden_size

    def _shapes(self) -> tuple[Sizes, ...]:
        columns = self.cell.G * self.params[1].shape[0] if self.params[1].ndim else "G*H"
        shapes: dict[str, Sizes] = {"Wx": ("D", columns), "Wh": ("H", columns)}
        return tuple(shapes.get(name, (columns,)) for name in self.cell.weights)

    def _parts(self, states: Array) -> Array:
        """A view of what kernels have, whose first axis is that of the states: h, then c."""
        return states

    def _kernel_forward(
        self,
        xs: Array,
        weights: Sequence[Array],
        states: Arrays | None,
        options: dict[str, Any],
    ) -> Forward:
        if self._reverse:
            options["reverse"] = True
        results: Forward = self._ops.recurrent_forward(self.cell, xs, weights, states, **options)
        return results

    def _kernel_backward(
        self,
        dhs: Array,
        dstates: Arrays | None,
        cache: Any,
        weights: Sequence[Array],
        grads: Sequence[Array],
        truncate: int,
        need_dx: bool,
    ) -> Backward:
        results: Backward = self._ops.recurrent_backward(
            self.cell,
            dhs,
            dstates,
            cache,
            weights[:2],
            grads,
            truncate=truncate,
            need_dx=need_dx,
        )
        return results

    def _kernel_masks(
        self,
        recurrent: Sequence[Array | None],
        zoneouts: Sequence[tuple[Array | None, ...] | None],
    ) -> dict[str, Any]:
        """Keyword arguments, from masks of each direction."""
        return {"recurrent_mask": recurrent[0], "zoneouts": zoneouts[0]}

    def _kernel_states(self, cache: Any) -> Array:
        """All states of a block."""
        states: Array = self._ops.recurrent_states(self.cell, cache)
        return states

    def _from_parts(self, parts: Arrays) -> Arrays:
        """What kernels take, of the states: h, then c."""
        return parts

    def _given(self, rows: int, states: Mapping[str, ArrayLike | None], hint: str) -> Arrays | None:
        """States, or gradients of them, by name, as kernels take them; one that is None is zeros,
        and all of them are None."""
        dtype, shape = self.params[0].dtype, self.state_shape(rows)
        given: list[Array] = []
        for name, state in states.items():
            if state is not None:
                given.append(as_floats(name, state, dtype, shape, hint))
        if not given:
            return None
        if len(given) < len(states):
            rest = iter(given)
            given = [np.zeros(shape, dtype) if W is None else next(rest) for W in states.values()]
        return self._from_parts(given)

    def _backward(
        self,
        name: str,
        dhs: ArrayLike,
        dlast: Mapping[str, ArrayLike | None],
        *,
        truncate: int = 0,
        need_dx: bool = True,
    ) -> tuple[Any, Array]:
        """Gradient of the outputs, in their shape, and of the last states by name -> that of the
        input, or None unless `need_dx`, and of the initial states, as kernels have them."""
        weights: Sequence[Array] = self._checked_params()
        (cache, shape, drops), grads = self._require_cache(), self._writable_grads()
        hint = "the gradient has the shape of what forward returned last"
        dhs = as_floats(name, dhs, self.dtype, shape, hint)
        dhs = dhs if dhs.ndim == 3 else dhs[:, None]
        dstates = self._given(shape[0], dlast, hint)
        truncate = min(truncate, dhs.shape[1])  # a kernel takes no larger int than 64 bits
        if drops:
            weights = dropped(weights, drops)
        dxs, dfirst = self._kernel_backward(dhs, dstates, cache, weights, grads, truncate, need_dx)
        for k, (_, mask) in drops.items():
            grads[k] *= mask
        return dxs, dfirst


def dropped(weights: Sequence[Array], drops: Drops) -> Sequence[Array]:
    """The weights that are used: products with masks where there are some."""
    used = [*weights]
    for k, (product, _) in drops.items():
        used[k] = product
    return used
