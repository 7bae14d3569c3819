"""One step of a recurrent layer, whose states come and go as arguments.

Letters in shapes: N batch rows, D input size, H hidden size, G gates, S states.
"""

from .. import cells
from .._checks import as_floats
from .._ops import Ops
from .._types import Array, ArrayLike, Precision
from .cell import Activation, Recurrent, gru_cell, rnn_cell, weights_of


class _Step(Recurrent):
    """One time step."""

    def _forward(self, x: ArrayLike, **states: ArrayLike) -> Array:
        """The states after the step, (S, N, H)."""
        weights = self._checked_params()
        x = as_floats("x", x, weights[0].dtype, ("N", len(weights[0])))
        first = self._given(len(x), states, "a state has a row for every row of x")
        last: Array
        _, last, cache = self._ops.recurrent_forward(
            self.cell, x[:, None], weights, first, cache=self._take_memory(), **self._products
        )
        self._keep((cache, last.shape[1:], {}))
        self._memory = cache
        return last


class _StepOfH(_Step):
    """One step of a cell whose only state is h."""

    def forward(self, x: ArrayLike, h_prev: ArrayLike) -> Array:
        """x (N, D), h_prev (N, H), None being zeros -> h (N, H)."""
        h: Array = self._forward(x, h_prev=h_prev)[0]
        return h

    def backward(self, dh_next: ArrayLike) -> tuple[Array, Array]:
        """Gradient of h (N, H) -> gradients of x (N, D) and of h_prev (N, H); fills `grads`."""
        dxs, (dh_prev,) = self._backward("dh_next", dh_next, {})
        return dxs[:, 0], dh_prev


class RNN(_StepOfH):
    """One step of a plain recurrent layer: h = f(x Wx + h_prev Wh + b), f being tanh or relu."""

    cell: cells.Cell = cells.RNN

    def __init__(
        self,
        Wx: Array,
        Wh: Array,
        b: Array,
        *,
        activation: Activation = "tanh",
        precision: Precision | None = None,
        ops: Ops | None = None,
    ) -> None:
        """
        Parameters
        ----------
        Wx, Wh, b : arrays of shapes (D, H), (H, H), (H,), float32 or float64
        activation : "tanh" or "relu", keyword-only
            relu(a) = max(0, a), whose derivative at 0 is 0.
        precision, ops : keyword-only, as in `TimeLSTM`

        Raises
        ------
        TypeError, ValueError
            Where a dtype or a shape does not fit; here and in `forward` and `backward`.
        """
        self.cell = rnn_cell(activation)
        super().__init__(weights_of(self.cell, Wx, Wh, b), ops, precision)


class GRU(_StepOfH):
    """One step of a gated recurrent unit (Cho et al. 2014). The columns of the weights are z, r, h:

    z, r = sigmoid(x Wx + h_prev Wh + b);  h = (1 - z) h_prev + z g
    g = tanh(x Wx_h + (r h_prev) Wh_h + b_h)

    With `reset_after`, as in PyTorch, cuDNN and Keras, h_prev Wh has a bias bh of its own in all
    columns, and r is multiplied with the product:

    g = tanh(x Wx_h + b_h + r (h_prev Wh_h + bh_h))

    All three have h = z h_prev + (1 - z) g: their z is 1 minus ours, so weights of theirs are to be
    negated in the columns of z.
    """

    cell: cells.Cell = cells.GRU

    def __init__(
        self,
        Wx: Array,
        Wh: Array,
        b: Array,
        *,
        reset_after: bool = False,
        bh: Array | None = None,
        precision: Precision | None = None,
        ops: Ops | None = None,
    ) -> None:
        """
        Parameters
        ----------
        Wx, Wh, b : arrays of shapes (D, 3*H), (H, 3*H), (3*H,), float32 or float64
        reset_after : bool, keyword-only (like all that follow)
        bh : array (3*H,), only with reset_after
            A parameter like b. None is an array of zeros.
        precision, ops : as in `TimeLSTM`

        Raises
        ------
        TypeError, ValueError
            Where a dtype or a shape does not fit, here and in `forward` and `backward`; for a bh
            without reset_after.
        """
        self.cell = gru_cell(reset_after, bh=bh)
        super().__init__(weights_of(self.cell, Wx, Wh, b, bh), ops, precision)


class LSTM(_Step):
    """One step of an LSTM. The columns of a = x Wx + h_prev Wh + b are the gates f, g, i, o:

    c = sigmoid(a_f) c_prev + tanh(a_g) sigmoid(a_i);  h = sigmoid(a_o) tanh(c)
    """

    cell: cells.Cell = cells.LSTM

    def __init__(
        self,
        Wx: Array,
        Wh: Array,
        b: Array,
        *,
        precision: Precision | None = None,
        ops: Ops | None = None,
    ) -> None:
        """
        Parameters
        ----------
        Wx, Wh, b : arrays of shapes (D, 4*H), (H, 4*H), (4*H,), float32 or float64
        precision, ops : keyword-only, as in `TimeLSTM`

        Raises
        ------
        TypeError, ValueError
            Where a dtype or a shape does not fit; here and in `forward` and `backward`.
        """
        super().__init__(weights_of(self.cell, Wx, Wh, b), ops, precision)

    def forward(self, x: ArrayLike, h_prev: ArrayLike, c_prev: ArrayLike) -> tuple[Array, Array]:
        """x (N, D), h_prev and c_prev (N, H), None being zeros -> h, c, both (N, H)."""
        last = self._forward(x, h_prev=h_prev, c_prev=c_prev)
        return last[0], last[1]

    def backward(self, dh_next: ArrayLike, dc_next: ArrayLike) -> tuple[Array, Array, Array]:
        """Gradients of h and c, (N, H) -> those of x (N, D), h_prev and c_prev; fills `grads`."""
        dlast = {"dh": None, "dc_next": dc_next}
        dxs, (dh_prev, dc_prev) = self._backward("dh_next", dh_next, dlast)
        return dxs[:, 0], dh_prev, dc_prev
