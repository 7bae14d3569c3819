"""The language models.

Letters: N batch rows, T time steps, D embedding size, H hidden size, V vocabulary size.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Self, TypeAlias

import numpy as np
from numpy.typing import DTypeLike

from .._checks import (
    as_bool,
    as_count,
    as_float_dtype,
    as_floats,
    as_fraction,
    as_generator,
    as_ids,
    as_weights,
    check_shape,
)
from .._ops import Ops
from .._random import draw_key
from .._types import Array, ArrayLike, Ids, Precision, Seed, Shape
from ..archive import require_names
from ..cells import Cell
from ..errors import InputError
from ..layers import TimeDropout, TimeEmbedding, TimeGRU, TimeLSTM, TimeRNN
from ..layers.initial import Init, init_by_name
from ..layers.regularisation import Rates
from ..losses import TimeAffineWithLoss
from ..reference.generation import Choice, Writer
from .network import Call, Network, States, forward_with
from .saving import Classes, by_layer, field, known, layer_from, require_one_precision

CellName: TypeAlias = Literal["rnn", "lstm", "gru"]
LAYER_OF_CELL: dict[str, Any] = {layer.cell.name: layer for layer in (TimeRNN, TimeLSTM, TimeGRU)}
"""The recurrent layer of each cell, by the cell's name."""
_CONFIG = ("cell", "tie_weights", "recurrent", "dropout", "affine")


def param_shapes(
    cell: Cell,
    vocab_size: int,
    embedding: int,
    hidden: int,
    layers: int = 1,
    tie_weights: bool = False,
) -> dict[str, Shape]:
    """Shapes of the parameters of a model of these sizes, by name, in their order."""
    V, D, H = vocab_size, embedding, hidden
    shapes: dict[str, Shape] = {"embedding.W": (V, D)}
    for k in range(layers):
        own = _recurrent_shapes(cell, H if k else D, H)
        shapes |= {f"recurrent.{k}.{name}": shape for name, shape in own.items()}
    if not tie_weights:
        shapes["affine.W"] = H, V
    shapes["affine.b"] = (V,)
    return shapes


def _recurrent_shapes(cell: Cell, D: int, H: int) -> dict[str, Shape]:
    return {"Wx": (D, cell.G * H), "Wh": (H, cell.G * H), "b": (cell.G * H,)}


@known
class LanguageModel(Network):
    """A language model: an embedding, recurrent layers, and an affine layer with its loss.

    Parameters
    ----------
    vocab_size : int
        V
    cell : "rnn", "lstm" or "gru", keyword-only (like all that follow)
        What is in `TimeRNN`, `TimeLSTM` or `TimeGRU`.
    embedding, hidden, layers : int
        D, H, and how many recurrent layers there are, one on top of the other; they are stateful.
    tie_weights : bool
        Whether the affine layer uses the embedding's table, transposed (Press and Wolf 2017);
        needs D == H.
    dropout : float
        Probability of 0 in masks, in training, of the vectors of the tokens and of what every
        recurrent layer returns (Zaremba et al. 2014), as in `TimeDropout`.
    locked : bool
        Whether all steps of a block have one such mask (Gal and Ghahramani 2016).
    weight_drop : float
        Probability of 0 in a mask of every Wh, drawn for each block (Merity et al. 2018).
    zoneout : float, or (of h, of c)
        Probability of a number of a state to stay what it was (Krueger et al. 2017).
    dtype : float32 or float64
    precision : "bfloat16", or the dtype, or None
        "bfloat16", of a model in float32 alone, rounds the operands of all products of the
        recurrent layers, the affine layer and its loss to bf16, as in `TimeLSTM` and
        `TimeAffineWithLoss`; all numbers that the model keeps stay float32. None is the dtype.
    rng : numpy.random.Generator or RandomState, int, or None
        Where the weights are drawn from, and then a number for each layer with masks, which seeds
        the generator that they come from. A whole number seeds a generator of its own; None is
        NumPy's global state, as in the textbook.
    init : "textbook", "pytorch" or "keras"
        How weights are drawn, in the order of `params`. Recurrent layers as in `TimeStack`, and the
        others as they are in a new layer there: "textbook": normal, divided by 100 for the
        embedding and by the square root of H for the affine layer, whose bias is 0. "pytorch":
        normal for the embedding, and uniform within 1/sqrt(H). "keras": uniform within 0.05, and
        within sqrt(6/(H + V)), with a bias of 0.
    ops : module with the arithmetic, see `rnnfast.layers`

    Attributes
    ----------
    vocab_size, tie_weights : as given
    precision : "bfloat16", "float32" or "float64"
    embedding, affine : the first layer, and the loss with the last in it
    dropout_layers : list of `TimeDropout`, whose rates may be set; empty without `dropout`
    params, grads : lists of arrays, in the order of the layers

    Raises
    ------
    TypeError, ValueError
        Where an argument does not fit.

    Examples
    --------
    >>> import rnnfast
    >>> model = rnnfast.LanguageModel(50, cell="gru", embedding=16, hidden=32, dropout=0.2, rng=0)
    >>> model.predict([[1, 2, 3]]).shape
    (1, 3, 50)
    >>> model.layer_names
    ('embedding', 'dropout.0', 'recurrent.0', 'dropout.1')
    """

    Cell: Any
    vocab_size: int
    tie_weights: bool
    embedding: TimeEmbedding
    affine: TimeAffineWithLoss
    dropout_layers: list[TimeDropout]
    _loss_name = "affine"

    def __init__(
        self,
        vocab_size: int,
        *,
        cell: CellName = "lstm",
        embedding: int = 64,
        hidden: int = 384,
        layers: int = 1,
        tie_weights: bool = False,
        dropout: float = 0.0,
        locked: bool = False,
        weight_drop: float = 0.0,
        zoneout: Rates = 0.0,
        dtype: DTypeLike = np.float32,
        precision: Precision | None = None,
        rng: Seed = None,
        init: Init = "textbook",
        ops: Ops | None = None,
    ) -> None:
        V, D, H = (
            as_count("vocab_size", vocab_size),
            as_count("embedding", embedding),
            as_count("hidden", hidden),
        )
        layers = as_count("layers", layers)
        self.Cell = _layer_of(cell)
        tie_weights = as_bool("tie_weights", tie_weights)
        if tie_weights and D != H:
            raise ValueError(
                f"tie_weights: expected equal sizes of embedding and hidden state, got {D} and "
                f"{H}; the output layer uses the embedding's table"
            )
        dropout, locked = as_fraction("dropout", dropout), as_bool("locked", locked)
        dtype, draw = as_float_dtype("dtype", dtype), init_by_name(init)
        # the smallest layer of this kind says what it thinks of the options
        least = self.Cell(
            *(np.zeros(shape, dtype) for shape in _recurrent_shapes(self.Cell.cell, 1, 1).values()),
            stateful=True,
            weight_drop=weight_drop,
            zoneout=zoneout,
            precision=precision,
        )
        # NumPy's module has what a generator has, and draws from the global state
        numbers: Any = np.random if rng is None else as_generator(rng)
        arrays = draw.embedding(V, D, numbers)
        for k in range(layers):
            arrays += draw.recurrent(self.Cell.cell, H if k else D, H, numbers)
        arrays += draw.affine(H, V, numbers)
        if tie_weights:
            del arrays[-2]
        names = param_shapes(self.Cell.cell, V, D, H, layers, tie_weights)
        params = {name: array.astype(dtype) for name, array in zip(names, arrays, strict=True)}
        drops = [{"rate": dropout, "locked": locked}] * (layers + 1) if dropout else []
        self._assemble(params, [least.config()] * layers, drops, {"precision": precision}, ops)
        for layer in self.layers:
            if getattr(layer, "rng", None) is not None:
                layer.rng = draw_key(numbers)

    def _assemble(
        self,
        params: Mapping[str, Array],
        recurrent: Sequence[Mapping[str, Any]],
        dropout: Sequence[Mapping[str, Any]],
        affine: Mapping[str, Any],
        ops: Ops | None,
    ) -> None:
        """Make the layers of weights by name, and of what `config` of each has returned."""
        weights, table = by_layer(params), params["embedding.W"]
        self.vocab_size = len(table)
        self.tie_weights = "affine.W" not in params
        if self.tie_weights:
            weights["affine"]["W"] = table.T

        def layer_of(name: str, cls: type, config: Mapping[str, Any]) -> Any:
            return layer_from(name, cls, weights.get(name, {}), config, ops)

        self.embedding = layer_of("embedding", TimeEmbedding, {})
        self.dropout_layers = [
            layer_of(f"dropout.{k}", TimeDropout, config) for k, config in enumerate(dropout)
        ]
        layers: dict[str, Any] = {"embedding": self.embedding}
        for k, config in enumerate(recurrent):
            if dropout:
                layers[f"dropout.{k}"] = self.dropout_layers[k]
            layers[f"recurrent.{k}"] = layer_of(f"recurrent.{k}", self.Cell, config)
        if dropout:
            layers[f"dropout.{len(recurrent)}"] = self.dropout_layers[-1]
        self.affine = layer_of("affine", TimeAffineWithLoss, affine)
        super().__init__(layers, self.affine)
        # the index of the first layer is the model's
        for taken in ("_takes", "_infer_takes", "_forward_takes"):
            setattr(self, taken, getattr(self, taken) - {"index"})

    @property
    def ops(self) -> Ops:
        """The module that the arithmetic is taken from; setting it tells the layers."""
        return self.affine.ops

    @ops.setter
    def ops(self, ops: Ops) -> None:
        self._use(ops)

    @property
    def precision(self) -> Precision:
        """What operands of products have: "bfloat16", or the dtype of the weights."""
        return self.affine.precision

    def config(self) -> dict[str, Any]:
        """Keyword arguments of `from_params`, as JSON has them: all of the model but its weights.

        Sizes are not among them: the weights have them. For subclasses, see `Network.config`.
        """
        maker = next(cls for cls in type(self).__mro__ if "from_params" in vars(cls))
        if maker is LanguageModel and type(self).__init__ not in _CONSTRUCTORS:
            raise TypeError(
                f"{type(self).__name__}: expected a method config of its own, since it has its own "
                "constructor, got none; see Network.config"
            )
        return {
            "cell": self.Cell.cell.name,
            "tie_weights": self.tie_weights,
            "recurrent": [layer.config() for layer in self.recurrent_layers],
            "dropout": [layer.config() for layer in self.dropout_layers],
            "affine": self.affine.config(),
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
        """A model of these weights, by name, and what `config` of another has returned.

        `ops` as in `load`; there are no other `classes`. Raises InputError and ValueError where
        names or shapes are not those of one model.
        """
        if cls.config is not LanguageModel.config:  # that of a subclass is for its constructor
            return super().from_params(params, ops=ops, classes=classes, **config)
        # files of models that had neither another cell than their class nor dropout
        config = {"dropout": []} | config
        if "cell" not in config and hasattr(cls, "Cell"):
            config["cell"] = cls.Cell.cell.name
        require_names(_CONFIG, config)
        layer = _layer_of(config["cell"])
        if getattr(cls, "Cell", layer) is not layer:
            raise InputError(f"cell: expected that of a {cls.__name__}, got {config['cell']!r}")
        tied, recurrent = field(config, "tie_weights", bool), field(config, "recurrent", list)
        dropout = field(config, "dropout", list)
        if dropout and len(dropout) != len(recurrent) + 1:
            raise InputError(
                f"dropout: expected one more than the {len(recurrent)} recurrent layers, or none, "
                f"got {len(dropout)}"
            )
        check_shape("embedding.W", params["embedding.W"], ("V", "D"))
        check_shape("recurrent.0.Wh", params["recurrent.0.Wh"], ("H", "G*H"))
        (V, D), H = params["embedding.W"].shape, len(params["recurrent.0.Wh"])
        if len(recurrent) > len(params):
            raise InputError(f"recurrent: expected a layer or more with weights, got {recurrent!r}")
        shapes = param_shapes(layer.cell, V, D, H, len(recurrent), tied)
        require_names(shapes, params)
        as_weights(**params)
        for name, shape in shapes.items():
            check_shape(name, params[name], shape)
        if tied and D != H:
            raise InputError(f"tie_weights: expected D equal to H, got {D} and {H}")
        model = cls.__new__(cls)
        model.Cell = layer
        model._assemble(params, recurrent, dropout, field(config, "affine", dict), ops)
        require_one_precision([*model.recurrent_layers, model.affine])
        require_names(model.named_params(), params)  # an option may ask for one more
        return model

    def _named(self, kind: str) -> list[tuple[str, Array]]:
        named = super()._named(kind)
        if self.tie_weights:  # one array, one entry: backward adds both gradients into it
            del named[-2]
        return named

    def _outputs(self, xs: Any, options: dict[str, Any], call: Call) -> Array:
        """Ids xs (N, T) -> logits (N, T, V)."""
        return self.affine.infer(self._hidden(self.embedding.infer_distinct, xs, call))

    def _hidden(self, distinct: Callable[[Any], tuple[Array, Ids]], xs: Any, call: Call) -> Array:
        """Ids xs (N, T) -> what the affine layer takes, (N, T, H)."""
        vectors, index = distinct(xs)
        place = self.layers.index(self.recurrent_layers[0])
        first = self._steps[place]
        hs = call(self.layers[place], first, (vectors,), index=index)
        last: Array = self._run({first.name: hs}, call, first=place + 1)
        return last

    def _loss_input(self, xs: Any, options: dict[str, Any]) -> Array:
        """Ids xs (N, T) -> what the affine layer takes, (N, T, H): it is in the loss."""
        call = forward_with(options)
        if self.dropout_layers:  # of one token at two places they leave out different numbers
            last: Array = self._run({"xs": xs}, call)
            return last
        return self._hidden(self.embedding.forward_distinct, xs, call)

    def read(
        self, xs: ArrayLike, states: Sequence[Array | None] | None = None, **options: Any
    ) -> States:
        """States of the recurrent layers after they have read ids xs (N, T); see `infer`."""
        self._check_options(options, self._infer_takes)
        call, after = self._infer_with(states, options)
        self._hidden(self.embedding.infer_distinct, xs, call)
        return after

    def writer(
        self, first: Ids, states: Sequence[Array | None] | None, length: int, choice: Choice
    ) -> Writer:
        """What continues rows: after the ids `first` (N,), and states (S, N, H) of what came before
        them, or None for zeros.

        See `rnnfast.generate`, and `rnnfast.reference.ops.writer` for the arguments. It has the
        weights as they are now; they should stay while it writes.
        """
        first = as_ids("first", first, self.vocab_size, ("N",))
        layers = [(layer.cell, *layer._checked_params()) for layer in self.recurrent_layers]
        if states is None:
            states = [None] * len(layers)
        rows = len(first)
        shapes = [(layer.cell.S, rows, layer.hidden_size) for layer in self.recurrent_layers]
        states = [
            None if given is None else as_floats(f"states[{k}]", given, self.affine.dtype, shape)
            for k, (given, shape) in enumerate(zip(states, shapes, strict=True))
        ]
        writer: Writer = self.ops.writer(
            *self.embedding._checked_params(), layers, *self.affine._checked_params(), states,
            first, length, choice, **self.affine._products,
        )  # fmt: skip
        return writer

    def backward(self, dout: float = 1, *, sparse: bool = False) -> None:
        super().backward(dout, sparse=sparse and not self.tie_weights)
        if self.tie_weights:  # into all rows
            self.embedding.grads[0] += self.affine.grads[0].T


def _layer_of(cell: Any) -> Any:
    """The recurrent layer of a cell."""
    if not isinstance(cell, str) or cell not in LAYER_OF_CELL:
        raise ValueError(f"cell: expected one of {', '.join(LAYER_OF_CELL)}, got {cell!r}")
    return LAYER_OF_CELL[cell]


class _TextbookModel(LanguageModel):
    """A `LanguageModel` with the textbook's arguments and initial weights."""

    Cell: Any

    def __init__(
        self,
        vocab_size: int,
        wordvec_size: int,
        hidden_size: int,
        *,
        num_layers: int = 1,
        tie_weights: bool = False,
        dtype: DTypeLike = np.float32,
        precision: Precision | None = None,
        rng: Seed = None,
        ops: Ops | None = None,
    ) -> None:
        super().__init__(
            vocab_size,
            cell=self.Cell.cell.name,
            embedding=as_count("wordvec_size", wordvec_size),
            hidden=as_count("hidden_size", hidden_size),
            layers=as_count("num_layers", num_layers),
            tie_weights=tie_weights,
            dtype=dtype,
            precision=precision,
            rng=rng,
            init="textbook",
            ops=ops,
        )


@known
class SimpleRnnlm(_TextbookModel):
    """`LanguageModel` on `TimeRNN` under its name in the textbook, initialised as there.

    Parameters
    ----------
    vocab_size, wordvec_size, hidden_size : int
        V, D and H.
    num_layers : int, keyword-only (like all that follow)
        Recurrent layers, one on top of the other.
    tie_weights, dtype, precision, rng, ops : as in `LanguageModel`
    """

    Cell: Any = TimeRNN


@known
class Rnnlm(_TextbookModel):
    """`LanguageModel` on `TimeLSTM` under its name in the textbook; otherwise as `SimpleRnnlm`."""

    Cell: Any = TimeLSTM


@known
class GruRnnlm(_TextbookModel):
    """`LanguageModel` on `TimeGRU`, in the textbook's form; otherwise as `SimpleRnnlm`.

    The textbook, which has no such model, calls that on an LSTM `Rnnlm`: the cell stands before.
    """

    Cell: Any = TimeGRU


@known
class BetterRnnlm(LanguageModel):
    """The textbook's better model: two layers of `TimeLSTM`, tied weights and dropout.

    Parameters
    ----------
    vocab_size, wordvec_size, hidden_size : int
        V, D and H; D and H must be equal.
    dropout_ratio : float
        Probability of 0, as `dropout` of `LanguageModel`.
    dtype, precision, rng, ops : keyword-only, as in `LanguageModel`
    """

    Cell: Any = TimeLSTM

    def __init__(
        self,
        vocab_size: int = 10000,
        wordvec_size: int = 650,
        hidden_size: int = 650,
        dropout_ratio: float = 0.5,
        *,
        dtype: DTypeLike = np.float32,
        precision: Precision | None = None,
        rng: Seed = None,
        ops: Ops | None = None,
    ) -> None:
        D, H = as_count("wordvec_size", wordvec_size), as_count("hidden_size", hidden_size)
        super().__init__(
            vocab_size,
            cell="lstm",
            embedding=D,
            hidden=H,
            layers=2,
            tie_weights=True,
            dropout=as_fraction("dropout_ratio", dropout_ratio),
            dtype=dtype,
            precision=precision,
            rng=rng,
            init="textbook",
            ops=ops,
        )


_CONSTRUCTORS = {LanguageModel.__init__, _TextbookModel.__init__, BetterRnnlm.__init__}
LANGUAGE_MODELS: dict[str, type[_TextbookModel]] = {
    Model.Cell.cell.name: Model for Model in (SimpleRnnlm, Rnnlm, GruRnnlm)
}
"""The textbook's model of each cell, by the cell's name."""
