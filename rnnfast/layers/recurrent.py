"""Recurrent layers: one step, and a block of time steps.

Letters in shapes: N batch rows, T time steps, D input size, H hidden size, G gates, S states.
"""

from collections.abc import Mapping
from typing import Any, Literal, overload

import numpy as np

from .. import cells
from .._checks import as_count, as_floats, as_ids
from .._ops import Ops
from .._types import Array, ArrayLike, Ids, Shape, Sizes
from .base import Layer, same


class Recurrent(Layer):
    """A layer with the weights of a `cell`: Wx (D, G*H), Wh (H, G*H), b (G*H,)."""

    cell: cells.Cell

    def __init__(self, Wx: Array, Wh: Array, b: Array, ops: Ops | None = None) -> None:
        super().__init__(ops, Wx=Wx, Wh=Wh, b=b)

    @property
    def hidden_size(self) -> int:
        """H"""
        return len(self.params[1])

    def _shapes(self) -> tuple[Sizes, ...]:
        columns = self.cell.G * self.params[1].shape[0] if self.params[1].ndim else "G*H"
        return ("D", columns), ("H", columns), (columns,)

    def _stacked(
        self, rows: int, states: Mapping[str, ArrayLike | None], hint: str
    ) -> Array | None:
        """States, or gradients of them, by name: one array (S, N, H), zeros where they are None."""
        if all(state is None for state in states.values()):
            return None
        shape = (rows, self.hidden_size)
        stacked = np.zeros((len(states), *shape), self.dtype)
        for k, (name, state) in enumerate(states.items()):
            if state is not None:
                stacked[k] = as_floats(name, state, self.dtype, shape, hint)
        return stacked

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
        input, or None unless `need_dx`, and of the initial states (S, N, H)."""
        weights = self._checked_params()
        (cache, shape), grads = self._require_cache(), self._writable_grads()
        hint = "the gradient has the shape of what forward returned last"
        dhs = as_floats(name, dhs, self.dtype, (*shape, self.hidden_size), hint)
        dhs = dhs if dhs.ndim == 3 else dhs[:, None]
        dxs, dfirst = self.ops.recurrent_backward(
            self.cell,
            dhs,
            self._stacked(shape[0], dlast, hint),
            cache,
            weights[:2],
            grads,
            truncate=min(truncate, dhs.shape[1]),  # a kernel takes no larger int than 64 bits
            need_dx=need_dx,
        )
        return dxs, dfirst


class _Step(Recurrent):
    """One time step, whose states come and go as arguments."""

    def __init__(self, Wx: Array, Wh: Array, b: Array, *, ops: Ops | None = None) -> None:
        """
        Parameters
        ----------
        Wx, Wh, b : arrays of shapes (D, G*H), (H, G*H), (G*H,), float32 or float64
        ops : module with the arithmetic, keyword-only

        Raises
        ------
        TypeError, ValueError
            Where a dtype or a shape does not fit; here and in `forward` and `backward`.
        """
        super().__init__(Wx, Wh, b, ops)

    def _forward(self, x: ArrayLike, **states: ArrayLike) -> Array:
        """The states after the step, (S, N, H)."""
        last: Array
        weights = self._checked_params()
        x = as_floats("x", x, self.dtype, ("N", len(weights[0])))
        first = self._stacked(len(x), states, "a state has a row for every row of x")
        _, last, cache = self.ops.recurrent_forward(
            self.cell, x[:, None], weights, first, cache=self._take_memory()
        )
        self._keep((cache, x.shape[:1]))
        self._memory = cache
        return last


class RNN(_Step):
    """One step of a plain recurrent layer: h = tanh(x Wx + h_prev Wh + b)."""

    cell: cells.Cell = cells.RNN

    def forward(self, x: ArrayLike, h_prev: ArrayLike) -> Array:
        """x (N, D), h_prev (N, H) -> h (N, H)."""
        h: Array
        (h,) = self._forward(x, h_prev=h_prev)
        return h

    def backward(self, dh_next: ArrayLike) -> tuple[Array, Array]:
        """Gradient of h (N, H) -> gradients of x (N, D) and of h_prev (N, H); fills `grads`."""
        dxs, (dh_prev,) = self._backward("dh_next", dh_next, {})
        return dxs[:, 0], dh_prev


class LSTM(_Step):
    """One step of an LSTM. The columns of a = x Wx + h_prev Wh + b are the gates f, g, i, o:

    c = sigmoid(a_f) c_prev + tanh(a_g) sigmoid(a_i);  h = sigmoid(a_o) tanh(c)
    """

    cell: cells.Cell = cells.LSTM

    def forward(self, x: ArrayLike, h_prev: ArrayLike, c_prev: ArrayLike) -> tuple[Array, Array]:
        """x (N, D), h_prev and c_prev (N, H) -> h, c, both (N, H)."""
        h, c = self._forward(x, h_prev=h_prev, c_prev=c_prev)
        return h, c

    def backward(self, dh_next: ArrayLike, dc_next: ArrayLike) -> tuple[Array, Array, Array]:
        """Gradients of h and c, (N, H) -> those of x (N, D), h_prev and c_prev; fills `grads`."""
        dlast = {"dh": None, "dc_next": dc_next}
        dxs, (dh_prev, dc_prev) = self._backward("dh_next", dh_next, dlast)
        return dxs[:, 0], dh_prev, dc_prev


class TimeRecurrent(Recurrent):
    """A cell over a block of T steps.

    Attributes
    ----------
    h, and c where the cell has one : last state (N, H) of the last forward, or None
    dh, and dc : gradient (N, H) of the initial state, from the last backward, or None
    stateful : bool
        Whether a block starts from the last states of the block before (truncated BPTT) or from
        zeros. Gradients never flow from one block into another.
    """

    h: Array | None
    dh: Array | None
    stateful: bool

    def __init__(
        self,
        Wx: Array,
        Wh: Array,
        b: Array,
        stateful: bool = False,
        *,
        truncate_size: int | None = None,
        ops: Ops | None = None,
    ) -> None:
        """
        Parameters
        ----------
        Wx, Wh, b : arrays of shapes (D, G*H), (H, G*H), (G*H,), float32 or float64
        stateful : bool
            Whether a block starts from the last states of the block before, or from zeros.
        truncate_size : int or None, keyword-only
            k >= 1: in the backward pass nothing flows from step t+1 into step t where
            (t+1) % k == 0, as if blocks of k steps had been run one by one; the forward pass is
            the same.
        ops : module with the arithmetic, keyword-only

        Raises
        ------
        TypeError, ValueError
            Where a dtype or a shape does not fit, a carried state of another batch size included;
            here and in `forward`, `backward` and `set_state`. Nothing has changed then.
        """
        super().__init__(Wx, Wh, b, ops)
        self.stateful = stateful
        self.truncate_size = truncate_size
        # the last states, and the views of them that are attributes
        self._left: tuple[Array | None, tuple[Array | None, ...]] | None
        self._set_states(None)
        self._set_gradients(None)

    def forward(self, xs: ArrayLike, *, index: ArrayLike | None = None) -> Array:
        """xs (N, T, D) -> hs (N, T, H).

        With an index (N, T) of integers the input is xs[index], xs being (U, D), and its gradient
        is (U, D) too: rows that are used often are multiplied with Wx once.
        """
        hs: Array
        weights = self._checked_params()
        xs, index, shape = self._checked_input(xs, index)
        states = self._carried(shape[0]) if self.stateful else None
        hs, last, cache = self.ops.recurrent_forward(
            self.cell, xs, weights, states, index=index, cache=self._take_memory()
        )
        self._keep((cache, shape))
        self._memory = cache
        self._set_states(last)
        return hs

    def infer(
        self,
        xs: ArrayLike,
        states: ArrayLike | None = None,
        *,
        index: ArrayLike | None = None,
    ) -> tuple[Array, Array]:
        """What `forward` returns from given states, and the states after it: hs, states (S, N, H).

        Nothing of the layer changes: neither the states that it carries nor what backward needs.
        `states` as this method returns them, h first, then c where there is one; None is zeros.
        """
        weights = self._checked_params()
        xs, index, shape = self._checked_input(xs, index)
        if states is not None:
            expected = (self.cell.S, shape[0], self.hidden_size)
            states = as_floats("states", states, self.dtype, expected)
        hs, last, _ = self.ops.recurrent_forward(self.cell, xs, weights, states, index=index)
        return hs, last

    @overload
    def backward(
        self,
        dhs: ArrayLike,
        *,
        dh: ArrayLike | None = None,
        dc: ArrayLike | None = None,
        need_dx: Literal[True] = True,
    ) -> Array: ...
    @overload
    def backward(
        self,
        dhs: ArrayLike,
        *,
        dh: ArrayLike | None = None,
        dc: ArrayLike | None = None,
        need_dx: bool,
    ) -> Array | None: ...
    def backward(
        self,
        dhs: ArrayLike,
        *,
        dh: ArrayLike | None = None,
        dc: ArrayLike | None = None,
        need_dx: bool = True,
    ) -> Array | None:
        """Gradient of hs (N, T, H) -> gradient of xs (N, T, D); fills `grads`, sets `dh`, `dc`.

        dh, dc (N, H): gradients that arrive at the last states besides (zero if None).
        Unless `need_dx`, the gradient of xs is not computed, and None is returned.
        """
        given = dh is not None or dc is not None
        dlast = self._named_states({"h": dh, "c": dc}, "d") if given else {}
        dxs: Array | None
        dxs, dfirst = self._backward("dhs", dhs, dlast, truncate=self._truncate, need_dx=need_dx)
        self._set_gradients(dfirst)
        return dxs

    def set_state(self, h: ArrayLike | None, c: ArrayLike | None = None) -> None:
        """Let the next block of a stateful layer start from h and c (N, H); None is zeros."""
        shape = ("N", self.hidden_size)
        # copies, so that changing the originals has no effect
        states = {
            name: None if state is None else as_floats(name, state, self.dtype, shape).copy()
            for name, state in self._named_states({"h": h, "c": c}).items()
        }
        for name, state in states.items():
            setattr(self, name, state)

    def get_state(self) -> tuple[Array | None, ...]:
        """The arguments that bring `set_state` back here."""
        return tuple(getattr(self, name) for name in self.cell.states)

    def reset_state(self) -> None:
        """Let the next block start from zeros."""
        self._set_states(None)

    def config(self) -> dict[str, Any]:
        return {"stateful": bool(self.stateful), "truncate_size": self.truncate_size}

    @property
    def truncate_size(self) -> int | None:
        """Steps between two cuts of the gradient through time, or None for no cut."""
        return self._truncate or None

    @truncate_size.setter
    def truncate_size(self, size: int | None) -> None:
        hint = "None lets gradients flow through the whole block"
        self._truncate = 0 if size is None else as_count("truncate_size", size, hint=hint)

    def _checked_input(
        self, xs: ArrayLike, index: ArrayLike | None
    ) -> tuple[Array, Ids | None, Shape]:
        """Input and index, and the shape of the output but for its last axis."""
        D = self.params[0].shape[0]
        if index is None:
            xs = as_floats("xs", xs, self.dtype, ("N", "T", D))
            return xs, None, xs.shape[:2]
        xs = as_floats("xs", xs, self.dtype, ("U", D))
        index = as_ids("index", index, len(xs), ("N", "T"))
        return xs, index, index.shape

    def _carried(self, rows: int) -> Array | None:
        """The states that the last forward left, unless somebody has set others: (S, N, H)."""
        parts = self.get_state()
        last, its_parts = self._left or (None, ())
        if last is not None and last.shape[1] == rows and same(parts, its_parts):
            return last
        states = dict(zip(self.cell.states, parts, strict=True))
        hint = "reset_state() or set_state() fits the state to a batch of another size"
        return self._stacked(rows, states, hint)

    def _set_states(self, states: Array | None) -> None:
        """Let `h`, and `c`, be the parts of (S, N, H), or None."""
        parts: tuple[Array | None, ...]
        parts = (None,) * self.cell.S if states is None else tuple(states)
        self._left = (states, parts)
        for name, part in zip(self.cell.states, parts, strict=True):
            setattr(self, name, part)

    def _set_gradients(self, dstates: Array | None) -> None:
        """Let `dh`, and `dc`, be the parts of (S, N, H), or None."""
        parts = (None,) * self.cell.S if dstates is None else dstates
        for name, part in zip(self.cell.gradients, parts, strict=True):
            setattr(self, name, part)

    def _named_states(
        self, given: dict[str, ArrayLike | None], prefix: str = ""
    ) -> dict[str, ArrayLike | None]:
        """Those of the given states that the cell has; an error if there are others."""
        for name, state in given.items():
            if state is not None and name not in self.cell.states:
                raise TypeError(
                    f"{prefix}{name}: expected None, since a {type(self).__name__} has the states "
                    f"{', '.join(self.cell.states)} alone, got {type(state).__name__}; leave it out"
                )
        return {prefix + name: given[name] for name in self.cell.states}


class TimeRNN(TimeRecurrent):
    """A plain recurrent layer over a block of T steps: h_t = tanh(x_t Wx + h_{t-1} Wh + b)."""

    cell: cells.Cell = cells.RNN


class TimeLSTM(TimeRecurrent):
    """An LSTM layer over a block of T steps; gate columns f, g, i, o (see `LSTM`)."""

    cell: cells.Cell = cells.LSTM
    c: Array | None
    dc: Array | None


TIME_LAYERS: dict[str, type[TimeRecurrent]] = {
    layer.cell.name: layer for layer in (TimeRNN, TimeLSTM)
}
"""The layer of each cell, by the cell's name."""
