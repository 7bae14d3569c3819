"""Layers of two directions over a block of time steps: one runs forward, the other in reverse.

Letters in shapes: N batch rows, T time steps, D input size, H hidden size, G gates, S states.
"""

from collections.abc import Sequence
from typing import Any, Unpack

import numpy as np

from .. import cells
from .._types import Array, Arrays, Sizes
from .base import hands_on
from .cell import Activation, Backward, Forward, Rows, gru_cell, rnn_cell, weights_of
from .recurrent import Options, TimeRecurrent


class TimeBidirectional(TimeRecurrent):
    """Two cells of one kind over the same block of T steps (Schuster and Paliwal 1997).

    The first direction runs from the first step to the last, the second from the last step of each
    row (of its length) to the first, each with weights, states and masks of its own. Outputs
    (N, T, 2H) are those of the first direction, then those of the second, where their inputs stand.

    Attributes are those of `TimeRecurrent`, but states and their gradients, h, c, dh and dc, are
    (2, N, H), the first direction before the second, and hs and cs are (2, N, T, H). `set_state`
    and `backward` take, and `get_state` returns, the same; `infer` has all states as (S, 2, N, H).
    """

    reads_ahead = True

    def state_shape(self, rows: Rows) -> tuple[int | Rows, ...]:
        """Shape of a state, h or c, of a batch of so many rows: (2, N, H)."""
        return 2, rows, self.hidden_size

    def _shapes(self) -> tuple[Sizes, ...]:
        first = super()._shapes()
        Wx, Wh = self.params[:2]
        return *first, Wx.shape, Wh.shape, *first[2:]  # both have the same input and H

    def _parts(self, states: Array) -> Array:
        return states.swapaxes(0, 1)

    def _from_parts(self, parts: Arrays) -> Arrays:
        return np.stack([*parts], 1)

    def _kernel_forward(
        self,
        xs: Array,
        weights: Sequence[Array],
        states: Arrays | None,
        options: dict[str, Any],
    ) -> Forward:
        pair = self._by_direction(weights)
        results: Forward = self._ops.bidirectional_forward(self.cell, xs, pair, states, **options)
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
        first, second = self._by_direction(weights)
        pair, of_grads = (first[:2], second[:2]), self._by_direction(grads)
        results: Backward = self._ops.bidirectional_backward(
            self.cell,
            dhs,
            dstates,
            cache,
            pair,
            of_grads,
            truncate=truncate,
            need_dx=need_dx,
        )
        return results

    def _kernel_masks(
        self,
        recurrent: Sequence[Array | None],
        zoneouts: Sequence[tuple[Array | None, ...] | None],
    ) -> dict[str, Any]:
        return {"recurrent_masks": tuple(recurrent), "zoneouts": tuple(zoneouts)}

    def _kernel_states(self, cache: Any) -> Array:
        states: Array = self._ops.bidirectional_states(self.cell, cache)
        return states

    def _by_direction(self, arrays: Sequence[Array]) -> tuple[Sequence[Array], Sequence[Array]]:
        """Weights, or gradients of them, of each direction."""
        first = len(self.cell.weights)
        return arrays[:first], arrays[first:]


class TimeBiRNN(TimeBidirectional):
    """Two plain recurrent layers, forward and in reverse: see `TimeBidirectional`, `TimeRNN`."""

    cell: cells.Cell = cells.RNN

    @hands_on(TimeRecurrent)
    def __init__(
        self,
        Wx1: Array,
        Wh1: Array,
        b1: Array,
        Wx2: Array,
        Wh2: Array,
        b2: Array,
        stateful: bool = False,
        *,
        activation: Activation = "tanh",
        **options: Unpack[Options],
    ) -> None:
        """
        Parameters
        ----------
        Wx1, Wh1, b1, Wx2, Wh2, b2 : weights of `TimeRNN`, of the first and the second direction
        activation : "tanh" or "relu", keyword-only
        stateful and all other options : those of `TimeLSTM`, but no reverse
        """
        self.cell = rnn_cell(activation)
        first = weights_of(self.cell, Wx1, Wh1, b1, number="1")
        second = weights_of(self.cell, Wx2, Wh2, b2, number="2")
        super().__init__(first | second, stateful, **options)


class TimeBiLSTM(TimeBidirectional):
    """Two LSTM layers, forward and in reverse: see `TimeBidirectional`, `TimeLSTM`."""

    cell: cells.Cell = cells.LSTM
    c: Array | None
    dc: Array | None

    @hands_on(TimeRecurrent)
    def __init__(
        self,
        Wx1: Array,
        Wh1: Array,
        b1: Array,
        Wx2: Array,
        Wh2: Array,
        b2: Array,
        stateful: bool = False,
        **options: Unpack[Options],
    ) -> None:
        """
        Parameters
        ----------
        Wx1, Wh1, b1, Wx2, Wh2, b2 : weights of `TimeLSTM`, of the first and the second direction
        stateful and all other options : those of `TimeLSTM`, but no reverse
        """
        first = weights_of(self.cell, Wx1, Wh1, b1, number="1")
        second = weights_of(self.cell, Wx2, Wh2, b2, number="2")
        super().__init__(first | second, stateful, **options)

    @property
    def cs(self) -> Array:
        """All c of the last forward, as `hs` has all h."""
        return self._all_states("c")


class TimeBiGRU(TimeBidirectional):
    """Two gated recurrent units, forward and in reverse: see `TimeBidirectional`, `TimeGRU`."""

    cell: cells.Cell = cells.GRU

    @hands_on(TimeRecurrent)
    def __init__(
        self,
        Wx1: Array,
        Wh1: Array,
        b1: Array,
        Wx2: Array,
        Wh2: Array,
        b2: Array,
        stateful: bool = False,
        *,
        reset_after: bool = False,
        bh1: Array | None = None,
        bh2: Array | None = None,
        **options: Unpack[Options],
    ) -> None:
        """
        Parameters
        ----------
        Wx1, Wh1, b1, Wx2, Wh2, b2 : weights of `TimeGRU`, of the first and the second direction
        reset_after : bool, keyword-only (like all that follow)
        bh1, bh2 : arrays (3*H,), only with reset_after
            Parameters; `params` has each after the b of its direction. None is an array of zeros.
        stateful and all other options : those of `TimeLSTM`, but no reverse
        """
        self.cell = gru_cell(reset_after, bh1=bh1, bh2=bh2)
        first = weights_of(self.cell, Wx1, Wh1, b1, bh1, number="1")
        second = weights_of(self.cell, Wx2, Wh2, b2, bh2, number="2")
        super().__init__(first | second, stateful, **options)
