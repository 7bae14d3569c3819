"""Recurrent layers: one step, and a block of time steps.

Letters in shapes: N batch rows, T time steps, D input size, H hidden size, G gates.
"""

import numpy as np

from .. import kernels
from .._checks import as_count, as_floats, as_ids
from .base import Layer


class _Recurrent(Layer):
    """Weights Wx (D, G*H), Wh (H, G*H), b (G*H,) of a cell with G gates."""

    gates = 1
    state_hint = "a state has a row for every row of x"

    def __init__(self, Wx, Wh, b, ops=kernels):
        super().__init__(ops, Wx=Wx, Wh=Wh, b=b)

    @property
    def hidden_size(self):
        return self.params[1].shape[0]

    def _shapes(self):
        columns = self.gates * self.params[1].shape[0] if self.params[1].ndim else "G*H"
        return ("D", columns), ("H", columns), (columns,)

    def _start_forward(self, xs, name, shape, index=None, **states):
        """Checked input and weights, and the initial states; remembers the shape of the output."""
        *checked, self._output_shape = self._checked_forward(xs, name, shape, index, **states)
        return checked

    def _checked_forward(self, xs, name, shape, index=None, **states):
        """Checked input and weights, the initial states, zeros where they are None, and the shape
        of the output but for its last axis."""
        weights = self._checked_params()
        if index is not None:
            shape = ("U",)
        xs = as_floats(name, xs, self.dtype, (*shape, weights[0].shape[0]))
        if index is not None:
            index = as_ids("index", index, len(xs), ("N", "T"))
        output_shape = xs.shape[:-1] if index is None else index.shape
        states = self._checked_states(output_shape[0], states, self.state_hint)
        return xs, index, weights, states, output_shape

    def _start_backward(self, dhs, name, **states):
        """Checked gradient, what forward kept, Wx and Wh, and the gradients of the last states."""
        cache = self._require_cache()
        shape = self._output_shape
        Wx, Wh, _ = self._checked_params()
        hint = "the gradient has the shape of what forward returned last"
        dhs = as_floats(name, dhs, self.dtype, (*shape, self.hidden_size), hint)
        return dhs, cache, (Wx, Wh), self._checked_states(shape[0], states, hint)

    def _given_state(self, name, state):
        """A copy of a state that a caller sets, so that changing the original has no effect."""
        if state is None:
            return None
        return as_floats(name, state, self.dtype, ("N", self.hidden_size)).copy()

    def _checked_states(self, rows, states, hint):
        shape = (rows, self.hidden_size)
        return [
            np.zeros(shape, self.dtype)
            if state is None
            else as_floats(name, state, self.dtype, shape, hint)
            for name, state in states.items()
        ]


class RNN(_Recurrent):
    """One step of a plain recurrent layer: h = tanh(x Wx + h_prev Wh + b).

    Parameters
    ----------
    Wx, Wh, b : arrays of shapes (D, H), (H, H), (H,), float32 or float64
    ops : module with the arithmetic, keyword-only

    Raises
    ------
    TypeError, ValueError
        Where a dtype or a shape does not fit; here and in `forward` and `backward`.
    """

    def __init__(self, Wx, Wh, b, *, ops=kernels):
        super().__init__(Wx, Wh, b, ops)

    def forward(self, x, h_prev):
        """x (N, D), h_prev (N, H) -> h (N, H)."""
        x, _, weights, (h_prev,) = self._start_forward(x, "x", ("N",), h_prev=h_prev)
        _, h, self._cache = self.ops.rnn_forward(x[:, None], *weights, h_prev, cache=self._cache)
        return h

    def backward(self, dh_next):
        """Gradient of h (N, H) -> gradients of x (N, D) and of h_prev (N, H); fills `grads`."""
        dhs, cache, weights, (dh,) = self._start_backward(dh_next, "dh_next", dh=None)
        dxs, dh_prev = self.ops.rnn_backward(dhs[:, None], dh, cache, *weights, *self.grads)
        return dxs[:, 0], dh_prev


class LSTM(_Recurrent):
    """One step of an LSTM. The columns of a = x Wx + h_prev Wh + b are the gates f, g, i, o:

    c = sigmoid(a_f) c_prev + tanh(a_g) sigmoid(a_i);  h = sigmoid(a_o) tanh(c)

    Parameters
    ----------
    Wx, Wh, b : arrays of shapes (D, 4H), (H, 4H), (4H,), float32 or float64
    ops : module with the arithmetic, keyword-only

    Raises
    ------
    TypeError, ValueError
        Where a dtype or a shape does not fit; here and in `forward` and `backward`.
    """

    gates = 4

    def __init__(self, Wx, Wh, b, *, ops=kernels):
        super().__init__(Wx, Wh, b, ops)

    def forward(self, x, h_prev, c_prev):
        """x (N, D), h_prev and c_prev (N, H) -> h, c, both (N, H)."""
        x, _, weights, states = self._start_forward(x, "x", ("N",), h_prev=h_prev, c_prev=c_prev)
        _, h, c, self._cache = self.ops.lstm_forward(
            x[:, None], *weights, *states, cache=self._cache
        )
        return h, c

    def backward(self, dh_next, dc_next):
        """Gradients of h and c, (N, H) -> those of x (N, D), h_prev and c_prev; fills `grads`."""
        dhs, cache, weights, (dh, dc) = self._start_backward(
            dh_next, "dh_next", dh=None, dc_next=dc_next
        )
        dxs, dh_prev, dc_prev = self.ops.lstm_backward(
            dhs[:, None], dh, dc, cache, *weights, *self.grads
        )
        return dxs[:, 0], dh_prev, dc_prev


class _TimeRecurrent(_Recurrent):
    state_hint = "reset_state() or set_state() fits the state to a batch of another size"

    def config(self):
        return {"stateful": self.stateful, "truncate_size": self.truncate_size}

    def infer(self, xs, states=None, *, index=None):
        """What `forward` returns from given states, and the states after it: hs, states (S, N, H).

        Nothing of the layer changes: neither the states that it carries nor what backward needs.
        `states` as this method returns them, h first, then c where there is one; None is zeros.
        """
        names = ("h", "c")[: 2 if self.gates == 4 else 1]
        given = dict(zip(names, [None] * len(names) if states is None else states, strict=True))
        xs, index, weights, first, _ = self._checked_forward(xs, "xs", ("N", "T"), index, **given)
        forward = self.ops.lstm_forward if self.gates == 4 else self.ops.rnn_forward
        hs, *last, _ = forward(xs, *weights, *first, index=index)
        return hs, np.stack(last)

    @property
    def truncate_size(self):
        """Steps between two cuts of the gradient through time, or None for no cut."""
        return self._truncate or None

    @truncate_size.setter
    def truncate_size(self, size):
        hint = "None lets gradients flow through the whole block"
        self._truncate = 0 if size is None else as_count("truncate_size", size, hint=hint)


class TimeRNN(_TimeRecurrent):
    """A plain recurrent layer over a block of T steps: h_t = tanh(x_t Wx + h_{t-1} Wh + b).

    Parameters
    ----------
    Wx, Wh, b : arrays of shapes (D, H), (H, H), (H,), float32 or float64
    stateful : bool
        Whether a block starts from the last state of the block before (truncated BPTT) or from
        zeros. Gradients never flow from one block into another.
    truncate_size : int or None, keyword-only
        k >= 1: in the backward pass nothing flows from step t+1 into step t where (t+1) % k == 0,
        as if blocks of k steps had been run one by one; the forward pass is the same.
    ops : module with the arithmetic, keyword-only

    Attributes
    ----------
    h : last state (N, H) of the last forward, or None
    dh : gradient (N, H) of the initial state, from the last backward, or None

    Raises
    ------
    TypeError, ValueError
        Where a dtype or a shape does not fit, a carried state of another batch size included;
        here and in `forward`, `backward` and `set_state`. Nothing has changed then.
    """

    def __init__(self, Wx, Wh, b, stateful=False, *, truncate_size=None, ops=kernels):
        super().__init__(Wx, Wh, b, ops)
        self.stateful = stateful
        self.truncate_size = truncate_size
        self.h = self.dh = None

    def forward(self, xs, *, index=None):
        """xs (N, T, D) -> hs (N, T, H).

        With an index (N, T) of integers the input is xs[index], xs being (U, D), and its gradient
        is (U, D) too: rows that are used often are multiplied with Wx once.
        """
        carried = self.h if self.stateful else None
        xs, index, weights, (h,) = self._start_forward(xs, "xs", ("N", "T"), index, h=carried)
        hs, self.h, self._cache = self.ops.rnn_forward(
            xs, *weights, h, index=index, cache=self._cache
        )
        return hs

    def backward(self, dhs, *, dh=None, need_dx=True):
        """Gradient of hs (N, T, H) -> gradient of xs (N, T, D); fills `grads` and sets `dh`.

        dh (N, H): gradient that arrives at the last state besides (zero if None).
        Unless `need_dx`, the gradient of xs is not computed, and None is returned.
        """
        dhs, cache, weights, (dh,) = self._start_backward(dhs, "dhs", dh=dh)
        dxs, self.dh = self.ops.rnn_backward(
            dhs, dh, cache, *weights, *self.grads, truncate=self._truncate, need_dx=need_dx
        )
        return dxs

    def set_state(self, h):
        """Let the next block of a stateful layer start from h (N, H); None is zeros."""
        self.h = self._given_state("h", h)

    def get_state(self):
        """The arguments that bring `set_state` back here."""
        return (self.h,)

    def reset_state(self):
        """Let the next block start from zeros."""
        self.h = None


class TimeLSTM(_TimeRecurrent):
    """An LSTM layer over a block of T steps; gate columns f, g, i, o (see `LSTM`).

    Parameters
    ----------
    Wx, Wh, b : arrays of shapes (D, 4H), (H, 4H), (4H,), float32 or float64
    stateful : bool
        Whether a block starts from the last state and cell of the block before (truncated BPTT)
        or from zeros. Gradients never flow from one block into another.
    truncate_size : int or None, keyword-only
        k >= 1: in the backward pass nothing flows from step t+1 into step t where (t+1) % k == 0,
        as if blocks of k steps had been run one by one; the forward pass is the same.
    ops : module with the arithmetic, keyword-only

    Attributes
    ----------
    h, c : last state and cell (N, H) of the last forward, or None
    dh, dc : gradients (N, H) of the initial state and cell, from the last backward, or None

    Raises
    ------
    TypeError, ValueError
        Where a dtype or a shape does not fit, a carried state of another batch size included;
        here and in `forward`, `backward` and `set_state`. Nothing has changed then.
    """

    gates = 4

    def __init__(self, Wx, Wh, b, stateful=False, *, truncate_size=None, ops=kernels):
        super().__init__(Wx, Wh, b, ops)
        self.stateful = stateful
        self.truncate_size = truncate_size
        self.h = self.c = self.dh = self.dc = None

    def forward(self, xs, *, index=None):
        """xs (N, T, D) -> hs (N, T, H).

        With an index (N, T) of integers the input is xs[index], xs being (U, D), and its gradient
        is (U, D) too: rows that are used often are multiplied with Wx once.
        """
        h, c = (self.h, self.c) if self.stateful else (None, None)
        xs, index, weights, states = self._start_forward(xs, "xs", ("N", "T"), index, h=h, c=c)
        hs, self.h, self.c, self._cache = self.ops.lstm_forward(
            xs, *weights, *states, index=index, cache=self._cache
        )
        return hs

    def backward(self, dhs, *, dh=None, dc=None, need_dx=True):
        """Gradient of hs (N, T, H) -> gradient of xs (N, T, D); fills `grads`, sets `dh`, `dc`.

        dh, dc (N, H): gradients that arrive at the last state and cell besides (zero if None).
        Unless `need_dx`, the gradient of xs is not computed, and None is returned.
        """
        dhs, cache, weights, states = self._start_backward(dhs, "dhs", dh=dh, dc=dc)
        dxs, self.dh, self.dc = self.ops.lstm_backward(
            dhs, *states, cache, *weights, *self.grads, truncate=self._truncate, need_dx=need_dx
        )
        return dxs

    def set_state(self, h, c=None):
        """Let the next block of a stateful layer start from h and c (N, H); None is zeros."""
        self.h, self.c = self._given_state("h", h), self._given_state("c", c)

    def get_state(self):
        """The arguments that bring `set_state` back here."""
        return self.h, self.c

    def reset_state(self):
        """Let the next block start from zeros."""
        self.h = self.c = None
