"""Recurrent layers on top of each other, as one layer.

Letters in shapes: N batch rows, T time steps, D input size, H hidden size, G gates, S states,
L layers times directions.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, Self, TypeAlias, Unpack

import numpy as np

from .. import cells
from .._checks import as_bool, as_count, as_float_dtype, as_fraction, as_generator
from .._ops import Ops
from .._random import Generator
from .._types import Array, ArrayLike, Arrays, DTypeLike, Seed, Shape, Sizes
from .base import hands_on
from .bidirectional import TimeBidirectional
from .cell import CELL_OPTIONS, Activation, Backward, Drops, Forward, Rows, gru_cell, rnn_cell
from .initial import Init, init_by_name
from .recurrent import Options, TimeDirected, TimeRecurrent

Kind: TypeAlias = Literal["rnn", "lstm", "gru"]


class StackOptions(Options, total=False):
    """Keyword arguments of every stack; what they mean is said in `TimeStack`."""

    bidirectional: bool
    dropout: float
    stateful: bool
    activation: Activation
    reset_after: bool
    reverse: bool


class TimeStack(TimeRecurrent):
    """Recurrent layers of one kind over a block of T steps, each taking the outputs of the one
    before; made of sizes here, of arrays by `from_weights`, of layers by `from_layers`.

    Outputs are those of the last layer, (N, T, H), or (N, T, 2H) with `bidirectional`. `lengths`
    and `reset` are for all layers, an `index` is for the first.

    States are those of all layers, in PyTorch's order: the first layer before the second, and of
    each the first direction before the second, L in all. Attributes are those of `TimeRecurrent`,
    but states and their gradients, h, c, dh and dc, are (L, N, H), and hs and cs, without dropout,
    are (L, N, T, H). `set_state` and `backward` take, and `get_state` returns, the same; `infer`
    has all states as (S, L, N, H). Parameters have the names that a layer of this kind has, behind
    the number of the layer: "0.Wx", or "0.Wx1" and "0.Wx2" with `bidirectional`.

    In training a mask is drawn for all outputs of each layer but the last, after the masks inside
    of the layers, which are drawn layer by layer (see `Regularised`).

    Attributes
    ----------
    num_layers, bidirectional, reverse : as given
    dropout : as given; may be set
    rng : the random generator, as given, or a fresh one

    Examples
    --------
    >>> import numpy as np, rnnfast
    >>> stack = rnnfast.TimeStack("lstm", 3, 4, num_layers=2, bidirectional=True, rng=0)
    >>> stack.forward(np.ones((5, 6, 3))).shape, stack.h.shape
    ((5, 6, 8), (4, 5, 4))
    >>> again = rnnfast.TimeStack.from_weights("lstm", stack.params, bidirectional=True)
    >>> list(again.named_params())[:3]
    ['0.Wx1', '0.Wh1', '0.b1']
    """

    c: Array | None
    dc: Array | None
    _shape_hint = "the layers have one H, and each takes the outputs of the one before"
    _kind: str
    _bidirectional: bool
    _dropout: float

    @hands_on(TimeRecurrent)
    def _assemble(
        self,
        kind: str,
        make_weights: Callable[[cells.Cell, int], Sequence[ArrayLike]],
        *,
        bidirectional: bool = False,
        dropout: float = 0.0,
        stateful: bool = False,
        activation: Activation = "tanh",
        reset_after: bool = False,
        reverse: bool = False,
        **options: Unpack[Options],
    ) -> None:
        """What all constructors end with; weights are made for a cell and so many directions."""
        self.cell, self._kind = _cell(kind, activation, reset_after), kind
        self._bidirectional = as_bool("bidirectional", bidirectional)
        self._reverse = as_bool("reverse", reverse)
        if self._bidirectional and self._reverse:
            raise ValueError(
                "reverse: expected False with bidirectional=True, which runs both ways, got True; "
                "leave out one of the two"
            )
        numbers = ("1", "2") if self._bidirectional else ("",)
        own = [name + number for number in numbers for name in self.cell.weights]
        weights = make_weights(self.cell, len(numbers))
        if not weights or len(weights) % len(own):
            raise ValueError(
                f"weights: expected {len(own)} arrays for each of one or more layers "
                f"({', '.join(own)}), got {len(weights)}"
            )
        self._num_layers = len(weights) // len(own)
        self._dropout = self._as_dropout(dropout)
        names = [f"{k}.{name}" for k in range(self._num_layers) for name in own]
        super().__init__(dict(zip(names, weights, strict=True)), stateful, **options)

    @hands_on(_assemble)
    def __init__(
        self,
        cell: Kind,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        init: Init = "pytorch",
        dtype: DTypeLike = np.float32,
        **options: Unpack[StackOptions],
    ) -> None:
        """
        Sizes have PyTorch's names and order, behind the name of the cell. Otherwise than there,
        batches always come first, and there always are biases.

        Parameters
        ----------
        cell : "rnn", "lstm" or "gru"
            What is in `TimeRNN`, `TimeLSTM` or `TimeGRU`, or their `TimeBi` layers.
        input_size, hidden_size, num_layers : int
            D, H (Keras's units), and how many layers there are.
        init : "pytorch", "keras" or "textbook", keyword-only (like all that follow)
            How weights are drawn. "pytorch": all uniform within 1/sqrt(H), b too, which there is
            the sum of two biases but with `reset_after`. "keras": Wx uniform
            within sqrt(6/(rows + columns)), Wh with orthonormal rows, biases 0 but 1 of an LSTM's
            forget gate. "textbook": normal, divided by the square root of the rows; biases 0. Each
            matrix is drawn as a whole, in float64 and in the order of `params`.
        dtype : float32 or float64
        bidirectional : bool
            Whether every layer has a second direction, in reverse, as in `TimeBidirectional`.
        dropout : float
            Probability p of 0 in a mask of the outputs of every layer but the last, drawn for every
            number in every call in training; the others are multiplied by 1/(1-p). As in PyTorch,
            but an error where there is one layer, and so nothing to drop. (Keras's dropout is of
            the input of a layer.)
        stateful : bool
            Whether a block starts from the last states of the block before, or from zeros.
        activation : "tanh" or "relu", of an "rnn"
        reset_after : bool, of a "gru"
            True is the form in PyTorch and Keras, False that in the textbook, as in `TimeGRU`.
        reverse : bool
            Whether every layer runs from the last step to the first.
        rng : numpy.random.Generator or RandomState, int, or None
            Where weights, and then masks, are drawn from. A whole number seeds a generator of its
            own, and None a fresh one.
        truncate_size, precision, recurrent_dropout, zoneout, weight_drop, zoneout_mean
            See `TimeLSTM`.
            Of every layer.
        ops : module with the arithmetic

        Raises
        ------
        TypeError, ValueError
            Where an argument does not fit, here and in `forward`, `backward` and `set_state`, and
            where attributes are set. Nothing has changed then.
        """
        D, H = as_count("input_size", input_size), as_count("hidden_size", hidden_size)
        num_layers = as_count("num_layers", num_layers)
        draw, dtype = init_by_name(init).recurrent, as_float_dtype("dtype", dtype)

        def zeros(cell: cells.Cell, directions: int) -> list[Array]:
            columns = cell.G * H
            biases = [(columns,)] * len(cell.weights[2:])
            rows = [D, *[directions * H] * (num_layers - 1)]
            shapes = [
                ((D, columns), (H, columns), *biases) for D in rows for _ in range(directions)
            ]
            return [np.zeros(shape, dtype) for direction in shapes for shape in direction]

        self._assemble(cell, zeros, **options)
        assert self._rng is not None
        for own in self._by_direction(self.params):  # when all else is known to fit
            for W, numbers in zip(own, draw(self.cell, len(own[0]), H, self._rng), strict=True):
                W[...] = numbers

    @classmethod
    @hands_on(_assemble)
    def from_weights(
        cls, cell: Kind, weights: Sequence[ArrayLike], **options: Unpack[StackOptions]
    ) -> Self:
        """A stack of these arrays, which are its `params` then, in PyTorch's order: of the first
        layer's first direction Wx, Wh, b, with `reset_after` bh, then those of its second
        direction, then those of the second layer.

        Other arguments are those of the constructor.
        """
        if isinstance(weights, (Mapping, np.ndarray)) or not isinstance(weights, Iterable):
            raise TypeError(
                f"weights: expected a list of arrays, as `params` is, got {type(weights).__name__}"
            )
        stack = cls.__new__(cls)
        stack._assemble(cell, lambda *_: list(weights), **options)
        return stack

    @classmethod
    def from_layers(
        cls,
        layers: Sequence[TimeDirected | TimeBidirectional],
        *,
        dropout: float = 0.0,
        rng: Seed = None,
        ops: Ops | None = None,
    ) -> Self:
        """A stack with the weights, the same arrays, and the options of layers, which must be of
        one kind and have the same options; gradients and states are its own.

        `rng` None is the generator of the first layer.
        """
        if not isinstance(layers, Iterable):
            raise TypeError(f"layers: expected a list of layers, got {type(layers).__name__}")
        layers = list(layers)
        for k, layer in enumerate(layers):
            if not isinstance(layer, (TimeDirected, TimeBidirectional)):
                raise TypeError(
                    f"layers[{k}]: expected a layer such as TimeLSTM or TimeBiLSTM, "
                    f"got {type(layer).__name__}"
                )
            for name, value in _description(layers[0]).items():
                if (other := _description(layer).get(name)) != value:
                    raise ValueError(
                        f"layers[{k}]: expected the {name} {value!r} that layers[0] has, "
                        f"got {other!r}; give all layers the same"
                    )
        if not layers:
            raise ValueError("layers: expected at least one layer, got none")
        first = layers[0]
        stack = cls.__new__(cls)
        stack._assemble(
            type(first).cell.name,
            lambda *_: [W for layer in layers for W in layer.params],
            bidirectional=isinstance(first, TimeBidirectional),
            dropout=dropout,
            rng=first.rng if rng is None else rng,
            ops=ops,
            **first.config(),
        )
        return stack

    @classmethod
    def from_params(cls, params: Mapping[str, Array], *, cell: Kind, **options: Any) -> Self:
        """A stack of weights by name, in their order, and what `config` of another has returned."""
        return cls.from_weights(cell, list(params.values()), **options)

    def config(self) -> dict[str, Any]:
        return super().config() | {
            "cell": self._kind,
            "bidirectional": self._bidirectional,
            "dropout": self._dropout,
            "reverse": self._reverse,
        }

    @property
    def num_layers(self) -> int:
        """How many layers there are."""
        return self._num_layers

    @property
    def bidirectional(self) -> bool:
        """Whether every layer runs both ways."""
        return self._bidirectional

    @property
    def reverse(self) -> bool:
        """Whether every layer runs from the last step of each row to the first."""
        return self._reverse

    @property
    def reads_ahead(self) -> bool:
        """Whether outputs depend on inputs that come later."""
        return self._bidirectional or self._reverse

    @property
    def dropout(self) -> float:
        """Probability of 0 in the masks of the outputs of all layers but the last."""
        return self._dropout

    @dropout.setter
    def dropout(self, rate: float) -> None:
        self._set(_dropout=self._as_dropout(rate))

    def state_shape(self, rows: Rows) -> tuple[int | Rows, ...]:
        """Shape of a state, h or c, of a batch of so many rows: (L, N, H)."""
        return len(self._recurrent_places), rows, self.hidden_size

    @property
    def cs(self) -> Array:
        """All c of the last forward, as `hs` has all h; a stack of LSTM alone has it."""
        if "c" not in self.cell.states:
            raise AttributeError(f"cs: a stack of {self.cell.name} has no states c")
        return self._all_states("c")

    def _as_dropout(self, rate: float) -> float:
        rate = as_fraction("dropout", rate)
        if rate and self._num_layers == 1:
            raise ValueError(
                "dropout: expected 0 in a stack of one layer, since outputs of the last are not "
                f"dropped, got {rate}; leave it out, or give more layers"
            )
        return rate

    def _set(self, **attributes: Any) -> None:
        super()._set(**attributes)
        self._regularised |= self._dropout > 0
        # always, so that a checkpoint fits however a stack of the same options has been made
        if self._rng is None:
            self._rng = as_generator(None)

    def _shapes(self) -> tuple[Sizes, ...]:
        first = super()._shapes()
        Wx, Wh = self.params[:2]
        H, columns = Wh.shape[0] if Wh.ndim else "H", first[0][1]
        directions, biases = 1 + self._bidirectional, first[2:]
        above = (directions * H, columns), Wh.shape, *biases
        shapes = [first, *[(Wx.shape, Wh.shape, *biases)] * (directions - 1)]
        shapes += [above] * directions * (self._num_layers - 1)
        return tuple(shape for direction in shapes for shape in direction)

    # What a layer alone does in one call of a kernel.

    def _draw(
        self, rng: Generator, weights: Sequence[Array], shape: Shape
    ) -> tuple[dict[str, Any], Drops]:
        masks, drops = super()._draw(rng, weights, shape)
        outputs = (*shape, (1 + self._bidirectional) * self.hidden_size)
        between = [
            self._dropout_mask(rng, self._dropout, outputs, self._batch_part)
            for _ in range(self._num_layers - 1)
        ]
        return masks | {"between": between}, drops

    def _parts(self, states: Array) -> Array:
        return states.swapaxes(0, 1)

    def _from_parts(self, parts: Arrays) -> Arrays:
        return np.stack([*parts], 1)

    def _kernel_masks(
        self,
        recurrent: Sequence[Array | None],
        zoneouts: Sequence[tuple[Array | None, ...] | None],
    ) -> dict[str, Any]:
        name = "recurrent_masks" if self._bidirectional else "recurrent_mask"
        both = zip(self._by_layer(recurrent), self._by_layer(zoneouts), strict=True)
        return {"masks": [{name: mask, "zoneouts": zoneout} for mask, zoneout in both]}

    def _kernel_forward(
        self,
        xs: Array,
        weights: Sequence[Array],
        states: Arrays | None,
        options: dict[str, Any],
    ) -> Forward:
        index, memory = options.pop("index", None), options.pop("cache", None)
        masks, between = options.pop("masks", None), options.pop("between", None)
        if self._reverse:
            options["reverse"] = True
        kernel, first = self._kernel("forward"), xs
        caches: list[Any] = [None] * self._num_layers
        last: list[Any] = [None] * self._num_layers
        try:
            for k, own in enumerate(self._by_layer(self._by_direction(weights))):
                before = None if states is None else self._of_layer(states, k)
                of_layer = {
                    "index": None if k else index,
                    "cache": memory and memory[0][k],
                    **(masks[k] if masks else {}),
                }
                mask = between[k] if between and k < len(between) else None
                if not self._bidirectional:  # outputs that nobody else sees
                    of_layer["copy_xs"] = k == 0
                    of_layer["copy_hs"] = k == self._num_layers - 1 or mask is not None
                xs, after, cache = kernel(self.cell, xs, own, before, **of_layer, **options)
                caches[k], last[k] = cache, after
                if mask is not None:
                    xs *= mask
            return xs, self._joined(last), (caches, between)
        except BaseException:
            if memory and xs is not first:  # what backward needs has been written over
                self._kept = None
            raise

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
        kernel, (caches, between) = self._kernel("backward"), cache
        # a kernel would tell, but when gradients of the layers above are written
        shapes = [W.shape for W in weights], [dW.shape for dW in grads]
        if shapes != (self._sizes, self._sizes):
            raise ValueError(
                "weights and gradients: expected the shapes that they had when the layer was made, "
                "got others; do not change the shape of an array of params or grads"
            )
        own = self._by_layer([W[:2] for W in self._by_direction(weights)])
        of_grads = self._by_layer(self._by_direction(grads))
        dxs: Array | None = dhs
        first: list[Array] = []
        for k in reversed(range(self._num_layers)):
            dlast = None if dstates is None else self._of_layer(dstates, k)
            options = {"truncate": truncate, "need_dx": need_dx or k > 0}
            dxs, dfirst = kernel(self.cell, dxs, dlast, caches[k], own[k], of_grads[k], **options)
            first.insert(0, dfirst)
            if k and between and (mask := between[k - 1]) is not None:
                dxs *= mask
        return dxs, self._joined(first)

    def _kernel_states(self, cache: Any) -> Array:
        kernel, (caches, _) = self._kernel("states"), cache
        return self._joined([kernel(self.cell, kept) for kept in caches])

    def _kernel(self, name: str) -> Any:
        """The function of this name in `ops`, for a layer of as many directions."""
        way = "bidirectional" if self._bidirectional else "recurrent"
        return getattr(self._ops, f"{way}_{name}")

    def _by_direction(self, arrays: Sequence[Array]) -> list[Sequence[Array]]:
        """Weights, or gradients of them, of each direction of each layer."""
        size = len(self.cell.weights)
        return [arrays[k : k + size] for k in range(0, len(arrays), size)]

    def _by_layer(self, things: Sequence[Any]) -> Sequence[Any]:
        """What there is for each direction of each layer -> what a kernel takes for each layer."""
        return list(zip(things[::2], things[1::2], strict=True)) if self._bidirectional else things

    def _of_layer(self, states: Arrays, k: int) -> Arrays:
        """The states of a layer, as its kernel has them, of those of all."""
        return states[2 * k : 2 * k + 2] if self._bidirectional else states[k]

    def _joined(self, states: Sequence[Array]) -> Array:
        """The states of all layers, of those of each."""
        joined = np.concatenate(states)  # np.stack takes longer than a layer of few units
        return joined if self._bidirectional else joined.reshape(len(states), *states[0].shape)


def _cell(kind: str, activation: Activation, reset_after: bool) -> cells.Cell:
    """The cell of a kind, with those options that it has."""
    kinds = {"rnn": rnn_cell(activation), "lstm": cells.LSTM, "gru": gru_cell(reset_after)}
    if not isinstance(kind, str) or kind not in kinds:
        raise ValueError(f"cell: expected one of {', '.join(kinds)}, got {kind!r}")
    cell = kinds[kind]
    for name, value, default in (
        ("activation", activation, "tanh"),
        ("reset_after", reset_after, False),
    ):
        if value != default and name not in CELL_OPTIONS[cell.name]:
            raise ValueError(
                f"{name}: expected {default!r}, since the cell {kind!r} has no such option, "
                f"got {value!r}; leave it out"
            )
    return cell


def _description(layer: TimeRecurrent) -> dict[str, Any]:
    """What must be equal in all layers of a stack, by name."""
    return {"class": type(layer).__name__, "precision": None} | layer.config()
