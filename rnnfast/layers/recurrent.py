"""Recurrent layers over a block of time steps.

Letters in shapes: N batch rows, T time steps, D input size, H hidden size, G gates, S states.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal, Unpack, overload

import numpy as np

from .. import cells
from .._checks import (
    as_array,
    as_bool,
    as_bools,
    as_count,
    as_floats,
    as_ids,
    as_lengths,
    check_shape,
)
from .._ops import Ops
from .._types import Array, ArrayLike, Arrays, Precision, Shape
from .base import hands_on, same
from .cell import (
    CELL_OPTIONS,
    GRU_CELLS,
    RNN_CELLS,
    Activation,
    gru_cell,
    rnn_cell,
    weights_of,
)
from .regularisation import Regularisation, Regularised


class Options(Regularisation, total=False):
    """Keyword arguments of every layer over a block; what they mean is said in `TimeLSTM`."""

    truncate_size: int | None
    precision: Precision | None
    ops: Ops | None


class TimeRecurrent(Regularised):
    """A cell over a block of T steps.

    Attributes
    ----------
    h, and c where the cell has one : last state (N, H) of the last forward, or None
    dh, and dc : gradient (N, H) of the initial state, from the last backward, or None
    hs, and cs : all states of the last forward
    stateful : bool
        Whether a block starts from the last states of the block before (truncated BPTT) or from
        zeros. Gradients never flow from one block into another.
    truncate_size, recurrent_dropout, zoneout, weight_drop, zoneout_mean, rng : as given; may be set
    precision : "bfloat16", "float32" or "float64"
    """

    h: Array | None
    dh: Array | None
    stateful: bool

    @hands_on(Regularised)
    def __init__(
        self,
        weights: Mapping[str, ArrayLike],
        stateful: bool,
        *,
        truncate_size: int | None = None,
        precision: Precision | None = None,
        ops: Ops | None = None,
        **regularisation: Unpack[Regularisation],
    ) -> None:
        super().__init__(weights, ops, precision, **regularisation)
        self.stateful = as_bool("stateful", stateful)
        self.truncate_size = truncate_size
        # the last states, and the views of them that are attributes
        self._left: tuple[Array | None, tuple[Array | None, ...]] | None
        self._set_states(None)
        self._set_gradients(None)

    def forward(
        self,
        xs: ArrayLike,
        *,
        index: ArrayLike | None = None,
        lengths: ArrayLike | None = None,
        reset: ArrayLike | None = None,
        need_gradient: bool = True,
    ) -> Array:
        """xs (N, T, D) -> hs (N, T, H).

        Parameters
        ----------
        xs : array (N, T, D)
        index : integers (N, T), keyword-only (like all that follow)
            The input is xs[index], xs being (U, D), and its gradient is (U, D) too: rows that are
            used often are multiplied with Wx once.
        lengths : integers (N,), each in 0..T, in any order
            Row n has the steps 0..lengths[n]-1. Beyond them neither xs nor index is looked at, and
            outputs are 0; the state that remains is that of the row's last step, and the initial
            one where there is no step.
        reset : bools (N, T)
            True where a sequence begins: neither state nor gradient crosses from the step before
            (in a layer with `reverse`, to it), and what was carried from the block before ends.
            In reverse, a flag at step 0 changes nothing: there is no step that it would cross to.
            Where a row has no steps, flags change nothing either.
        need_gradient : bool
            False keeps nothing for backward, which cannot follow.

        Raises
        ------
        TypeError, ValueError
            For arguments that do not fit; nothing has changed then.
        """
        weights = self._checked_params()
        xs, shape, options = self._checked_input(xs, index, lengths, reset)
        states = self._carried(shape[0]) if self.stateful else None
        if need_gradient:
            options["cache"] = self._take_memory()
        else:
            options["need_gradient"] = False
        training = self.training
        (hs, last, cache), drops = self._forward(xs, weights, states, shape, options, training)
        self._kept = None  # an error that comes now lets backward be refused
        self._set_states(last)
        if need_gradient:
            self._keep((cache, hs.shape, drops))
            self._memory = cache
        return hs

    def infer(
        self,
        xs: ArrayLike,
        states: ArrayLike | None = None,
        *,
        index: ArrayLike | None = None,
        lengths: ArrayLike | None = None,
        reset: ArrayLike | None = None,
    ) -> tuple[Array, Array]:
        """What `forward` returns in evaluation from given states, and the states after it: hs,
        states, (S, N, H) as `np.stack(layer.get_state())` has them.

        Nothing of the layer changes: neither the states that it carries nor what backward needs.
        `states` as this method returns them, h first, then c where there is one; None is zeros.
        The other arguments are those of `forward`.
        """
        weights = self._checked_params()
        xs, shape, options = self._checked_input(xs, index, lengths, reset)
        if states is not None:
            shape_of_all = (self.cell.S, *self.state_shape(shape[0]))
            states = as_floats("states", states, self.dtype, shape_of_all)
            states = self._from_parts(states)
        options["need_gradient"] = False
        (hs, last, _), _ = self._forward(xs, weights, states, shape, options, False)
        return hs, self._parts(last)

    @property
    def hs(self) -> Array:
        """All h of the last forward, (N, T, H), 0 beyond lengths: a read-only array, made anew.

        Raises RuntimeError without a forward with gradient.
        """
        return self._all_states("h")

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
        Beyond `lengths`, dhs is not looked at, and the gradient is 0.
        """
        given = dh is not None or dc is not None
        dlast = self._named_states({"h": dh, "c": dc}, "d") if given else {}
        dxs: Array | None
        dxs, dfirst = self._backward("dhs", dhs, dlast, truncate=self._truncate, need_dx=need_dx)
        self._set_gradients(dfirst)
        return dxs

    def set_state(self, h: ArrayLike | None, c: ArrayLike | None = None) -> None:
        """Let the next block of a stateful layer start from h and c (N, H); None is zeros.

        A layer that is not stateful starts every block from zeros; `infer` takes states of its own.
        """
        shape = self.state_shape("N")
        # copies, so that changing the originals has no effect
        states = {
            name: None if state is None else as_floats(name, state, self.dtype, shape).copy()
            for name, state in self._named_states({"h": h, "c": c}).items()
        }
        shapes = {name: state.shape for name, state in states.items() if state is not None}
        if len(set(shapes.values())) > 1:
            (first, expected), (name, got) = shapes.items()
            raise ValueError(
                f"{name}: expected an array of shape {expected} as {first} has, got {got}; "
                "all states are of one batch"
            )
        for name, state in states.items():
            setattr(self, name, state)

    def get_state(self) -> tuple[Array | None, ...]:
        """The arguments that bring `set_state` back here."""
        return tuple(getattr(self, name) for name in self.cell.states)

    def reset_state(self) -> None:
        """Let the next block start from zeros."""
        self._set_states(None)

    def config(self) -> dict[str, Any]:
        return super().config() | {
            "stateful": bool(self.stateful),
            "truncate_size": self.truncate_size,
        }

    @property
    def truncate_size(self) -> int | None:
        """Steps between two cuts of the gradient through time, or None for no cut."""
        return self._truncate or None

    @truncate_size.setter
    def truncate_size(self, size: int | None) -> None:
        hint = "None lets gradients flow through the whole block"
        self._truncate = 0 if size is None else as_count("truncate_size", size, hint=hint)

    def _checked_input(
        self,
        xs: ArrayLike,
        index: ArrayLike | None,
        lengths: ArrayLike | None,
        reset: ArrayLike | None,
    ) -> tuple[Array, Shape, dict[str, Any]]:
        """Input, the shape (N, T) of the block, and keyword arguments of a kernel."""
        D, options = self.params[0].shape[0], {}
        if index is None:
            xs = as_floats("xs", xs, self.dtype, ("N", "T", D))
            shape = xs.shape[:2]
        else:
            xs = as_floats("xs", xs, self.dtype, ("U", D))
            index = as_array("index", index)
            check_shape("index", index, ("N", "T"))
            shape = index.shape
        if lengths is not None:
            lengths = options["lengths"] = as_lengths("lengths", lengths, *shape)
        if index is not None:
            used = None if lengths is None else np.arange(shape[1]) < lengths[:, None]
            hint = f"there are {len(xs)} of them"
            options["index"] = as_ids(
                "index", index, len(xs), shape, used=used, what="rows of xs", hint=hint
            )
        if reset is not None:
            options["reset"] = as_bools("reset", reset, shape, "a flag for every step of every row")
        return xs, shape, options

    def _all_states(self, name: str) -> Array:
        """All states of a name, of the last forward."""
        (cache, *_), _ = self._require_kept(f"{name}s")
        states = self._kernel_states(cache)
        states.flags.writeable = False
        part: Array = self._parts(states)[self.cell.states.index(name)]
        return part

    def _carried(self, rows: int) -> Arrays | None:
        """The states that the last forward left, unless somebody has set others."""
        parts = self.get_state()
        last, its_parts = self._left or (None, ())
        fits = last is not None and last.shape[-2] == rows and last.dtype == self.dtype
        if fits and same(parts, its_parts):
            return last
        states = dict(zip(self.cell.states, parts, strict=True))
        hint = "reset_state() or set_state() fits the state to a batch of another size"
        return self._given(rows, states, hint)

    def _set_states(self, states: Array | None) -> None:
        """Let `h`, and `c`, be the parts of what a kernel returned, or None."""
        parts: tuple[Array | None, ...]
        parts = (None,) * self.cell.S if states is None else tuple(self._parts(states))
        self._left = (states, parts)
        for name, part in zip(self.cell.states, parts, strict=True):
            setattr(self, name, part)

    def _left_before(self) -> Callable[[], None]:
        """What brings back the states of now: the arrays themselves, so that it needs no others."""
        left, parts = self._left, self.get_state()

        def put_back() -> None:
            self._left = left
            for name, part in zip(self.cell.states, parts, strict=True):
                setattr(self, name, part)

        return put_back

    def _set_gradients(self, dstates: Array | None) -> None:
        """Let `dh`, and `dc`, be the parts of what a kernel returned, or None."""
        parts = (None,) * self.cell.S if dstates is None else self._parts(dstates)
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


class DirectedOptions(Options, total=False):
    """Keyword arguments of every layer that has one direction."""

    reverse: bool


class TimeDirected(TimeRecurrent):
    """A cell over a block of T steps, from the first to the last or in `reverse`."""

    @hands_on(TimeRecurrent)
    def __init__(
        self,
        weights: Mapping[str, ArrayLike],
        stateful: bool,
        *,
        reverse: bool = False,
        **options: Unpack[Options],
    ) -> None:
        self._reverse = as_bool("reverse", reverse)
        super().__init__(weights, stateful, **options)

    @property
    def reverse(self) -> bool:
        """Whether the layer runs from the last step of each row to the first."""
        return self._reverse

    @property
    def reads_ahead(self) -> bool:
        """Whether outputs depend on inputs that come later."""
        return self._reverse

    def config(self) -> dict[str, Any]:
        return super().config() | {"reverse": self._reverse}


class TimeRNN(TimeDirected):
    """A plain recurrent layer over a block of T steps: h_t = f(x_t Wx + h_{t-1} Wh + b), f being
    tanh or relu.
    """

    cell: cells.Cell = cells.RNN

    @hands_on(TimeDirected)
    def __init__(
        self,
        Wx: Array,
        Wh: Array,
        b: Array,
        stateful: bool = False,
        *,
        activation: Activation = "tanh",
        **options: Unpack[DirectedOptions],
    ) -> None:
        """
        Parameters
        ----------
        Wx, Wh, b : arrays of shapes (D, H), (H, H), (H,), float32 or float64
        activation : "tanh" or "relu", keyword-only
            relu(a) = max(0, a), whose derivative at 0 is 0.
        stateful and all other options : see `TimeLSTM`
        """
        self.cell = rnn_cell(activation)
        super().__init__(weights_of(self.cell, Wx, Wh, b), stateful, **options)


class TimeLSTM(TimeDirected):
    """An LSTM layer over a block of T steps; gate columns f, g, i, o (see `LSTM`)."""

    cell: cells.Cell = cells.LSTM
    c: Array | None
    dc: Array | None

    @hands_on(TimeDirected)
    def __init__(
        self,
        Wx: Array,
        Wh: Array,
        b: Array,
        stateful: bool = False,
        **options: Unpack[DirectedOptions],
    ) -> None:
        """
        Parameters
        ----------
        Wx, Wh, b : arrays of shapes (D, 4*H), (H, 4*H), (4*H,), float32 or float64
        stateful : bool
            Whether a block starts from the last states of the block before, or from zeros.
        reverse : bool, keyword-only (like all that follow)
            Whether time runs from the last step of each row (of its length) to the first. Outputs
            stand where their inputs stand; the initial state enters the last step, and the last
            state is that after the first.
        truncate_size : int or None
            k >= 1: in the backward pass nothing flows from one step into the one computed before it
            where k steps, or a multiple, have been computed, as if blocks of k steps had been run
            one by one; the forward pass is the same.
        recurrent_dropout : float
            Probability p of 0 in a mask (N, H), whose other numbers are 1/(1-p): products with Wh
            read h times the mask, which is the same in all steps of a block (Gal and Ghahramani
            2016), and for all gates (Keras draws one for each gate). What reaches the next state
            without Wh is not masked.
        zoneout : float, or pair of floats where the cell has the states h and c
            Probability of a number of h, and of c, to stay in a step what it was before it, drawn
            for every step (Krueger et al. 2016). The new h is that of the new c, whether or not c
            stays what it was.
        weight_drop : float
            Probability p of 0 in a mask of Wh, whose other numbers are 1/(1-p), for all of a block
            (Wan et al. 2013, Merity et al. 2018).
        zoneout_mean : bool
            Whether evaluation takes the mean of zoneout, p state before + (1-p) state, and not the
            state as it is.
        rng : numpy.random.Generator or RandomState, int, or None
            Where masks are drawn from, for every call of `forward` in training, and for no other.
            A whole number seeds a generator of its own, and None a fresh one.
        precision : "bfloat16", or the dtype of the weights, or None
            "bfloat16", of weights in float32 alone, rounds the operands of all products to bf16, to
            the nearest, ties to even: xs, Wx, Wh, the h that meets Wh, and in backward the
            gradients that meet one of them. Weights, states, gates, sums and gradients stay
            float32. Gradients are those of the rounded operands, and pass the rounding as they are
            (straight through). None is the dtype.
        ops : module with the arithmetic

        Raises
        ------
        TypeError, ValueError
            Where a dtype or a shape does not fit, a carried state of another batch size included;
            for rates outside 0 <= p < 1; for another precision, or "bfloat16" with weights in
            float64. Here and in `forward`, `backward` and `set_state`, and
            where attributes are set. Nothing has changed then.
        """
        super().__init__(weights_of(self.cell, Wx, Wh, b), stateful, **options)

    @property
    def cs(self) -> Array:
        """All c of the last forward, as `hs` has all h."""
        return self._all_states("c")


class TimeGRU(TimeDirected):
    """A gated recurrent unit over a block of T steps, in both of its forms; columns z, r, h (see
    `GRU`, also for weights from other libraries, whose z is 1 minus ours).
    """

    cell: cells.Cell = cells.GRU

    @hands_on(TimeDirected)
    def __init__(
        self,
        Wx: Array,
        Wh: Array,
        b: Array,
        stateful: bool = False,
        *,
        reset_after: bool = False,
        bh: Array | None = None,
        **options: Unpack[DirectedOptions],
    ) -> None:
        """
        Parameters
        ----------
        Wx, Wh, b : arrays of shapes (D, 3*H), (H, 3*H), (3*H,), float32 or float64
        reset_after : bool, keyword-only
            Whether r is multiplied with h Wh, as in PyTorch, cuDNN and Keras, or with h.
        bh : array (3*H,), keyword-only, only with reset_after
            A parameter like b. None is an array of zeros.
        stateful and all other options : see `TimeLSTM`
        """
        self.cell = gru_cell(reset_after, bh=bh)
        super().__init__(weights_of(self.cell, Wx, Wh, b, bh), stateful, **options)


TIME_LAYERS: dict[str, type[TimeRNN] | type[TimeLSTM] | type[TimeGRU]] = {
    **dict.fromkeys((cell.name for cell in RNN_CELLS.values()), TimeRNN),
    cells.LSTM.name: TimeLSTM,
    **dict.fromkeys((cell.name for cell in GRU_CELLS.values()), TimeGRU),
}
"""The layer of each cell, by the cell's name; `CELL_OPTIONS` makes it one with that cell."""


def time_layer(cell: str, *weights: Array, **options: Any) -> TimeDirected:
    """The layer with the cell of this name, from weights in the order of its `params`."""
    named: dict[str, Any] = dict(zip(("Wx", "Wh", "b", "bh"), weights, strict=False))
    return TIME_LAYERS[cell](**named, **CELL_OPTIONS[cell], **options)
