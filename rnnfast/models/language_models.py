"""The language models.

Letters: N batch rows, T time steps, D embedding size, H hidden size, V vocabulary size.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import DTypeLike

from .._checks import (
    as_count,
    as_float_dtype,
    as_floats,
    as_weights,
    check_shape,
    normal_numbers,
)
from .._ops import Ops
from .._types import Array, ArrayLike, Ids, Seed, Shape
from ..archive import require_names
from ..errors import InputError
from ..layers import TimeEmbedding, TimeGRU, TimeLSTM, TimeRNN
from ..losses import TimeAffineWithLoss
from ..reference.generation import Choice, Writer
from .network import Call, Network, States, forward_with
from .saving import Classes, field, known, layer_from


class LanguageModel(Network):
    """What the language models share; they differ in their recurrent layer `Cell`."""

    Cell: ClassVar[Any]
    vocab_size: int
    tie_weights: bool
    embedding: TimeEmbedding
    affine: TimeAffineWithLoss
    _loss_name = "affine"

    def __init__(
        self,
        vocab_size: int,
        wordvec_size: int,
        hidden_size: int,
        *,
        num_layers: int = 1,
        tie_weights: bool = False,
        dtype: DTypeLike = np.float32,
        rng: Seed = None,
        ops: Ops | None = None,
    ) -> None:
        V, D, H = (
            as_count("vocab_size", vocab_size),
            as_count("wordvec_size", wordvec_size),
            as_count("hidden_size", hidden_size),
        )
        num_layers = as_count("num_layers", num_layers)
        as_float_dtype("dtype", dtype)
        if tie_weights and D != H:
            raise ValueError(
                f"tie_weights: expected wordvec_size equal to hidden_size, got {D} and {H}; "
                "the output layer uses the embedding's table"
            )
        normal = normal_numbers(rng)
        params = {}
        for name, shape in self.param_shapes(V, D, H, num_layers, bool(tie_weights)).items():
            if len(shape) == 1:
                params[name] = np.zeros(shape, dtype)
            else:
                scale = 100 if name == "embedding.W" else np.sqrt(shape[0])
                params[name] = (normal(shape) / scale).astype(dtype)
        self._assemble(params, [{"stateful": True}] * num_layers, {}, ops)

    @classmethod
    def param_shapes(
        cls,
        vocab_size: int,
        wordvec_size: int,
        hidden_size: int,
        num_layers: int = 1,
        tie_weights: bool = False,
    ) -> dict[str, Shape]:
        """Shapes of the parameters of a model of these sizes, by name, in their order."""
        V, D, H, columns = vocab_size, wordvec_size, hidden_size, cls.Cell.cell.G * hidden_size
        shapes: dict[str, Shape] = {"embedding.W": (V, D)}
        for k in range(num_layers):
            shapes[f"recurrent.{k}.Wx"] = H if k else D, columns
            shapes[f"recurrent.{k}.Wh"] = H, columns
            shapes[f"recurrent.{k}.b"] = (columns,)
        if not tie_weights:
            shapes["affine.W"] = H, V
        shapes["affine.b"] = (V,)
        return shapes

    def _assemble(
        self,
        params: Mapping[str, Array],
        recurrent: Sequence[Mapping[str, Any]],
        affine: Mapping[str, Any],
        ops: Ops | None,
    ) -> None:
        """Make the layers of weights by name, and of what `config` of each has returned."""
        weights: dict[str, dict[str, Array]] = {}
        for name, W in params.items():
            layer, _, own = name.rpartition(".")
            weights.setdefault(layer, {})[own] = W
        table = params["embedding.W"]
        self.vocab_size = len(table)
        self.tie_weights = "affine.W" not in params
        if self.tie_weights:
            weights["affine"]["W"] = table.T

        def layer_of(name: str, cls: type, config: Mapping[str, Any]) -> Any:
            return layer_from(name, cls, weights[name], config, ops)

        self.embedding = layer_of("embedding", TimeEmbedding, {})
        cells = {
            f"recurrent.{k}": layer_of(f"recurrent.{k}", self.Cell, config)
            for k, config in enumerate(recurrent)
        }
        self.affine = layer_of("affine", TimeAffineWithLoss, affine)
        super().__init__({"embedding": self.embedding, **cells}, self.affine)
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

    def config(self) -> dict[str, Any]:
        """Keyword arguments of `from_params`, as JSON has them: all of the model but its weights.

        Sizes are not among them: the weights have them. For subclasses, see `Network.config`.
        """
        maker = next(cls for cls in type(self).__mro__ if "from_params" in vars(cls))
        if maker is LanguageModel and type(self).__init__ is not LanguageModel.__init__:
            raise TypeError(
                f"{type(self).__name__}: expected a method config of its own, since it has its own "
                "constructor, got none; see Network.config"
            )
        return {
            "tie_weights": self.tie_weights,
            "recurrent": [layer.config() for layer in self.recurrent_layers],
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
        tied, recurrent = field(config, "tie_weights", bool), field(config, "recurrent", list)
        require_names(("tie_weights", "recurrent", "affine"), config)
        check_shape("embedding.W", params["embedding.W"], ("V", "D"))
        check_shape("recurrent.0.Wh", params["recurrent.0.Wh"], ("H", "G*H"))
        (V, D), H = params["embedding.W"].shape, len(params["recurrent.0.Wh"])
        if len(recurrent) > len(params):
            raise InputError(f"recurrent: expected a layer or more with weights, got {recurrent!r}")
        shapes = cls.param_shapes(V, D, H, len(recurrent), tied)
        require_names(shapes, params)
        as_weights(**params)
        for name, shape in shapes.items():
            check_shape(name, params[name], shape)
        if tied and D != H:
            raise InputError(f"tie_weights: expected D equal to H, got {D} and {H}")
        model = cls.__new__(cls)
        model._assemble(params, recurrent, field(config, "affine", dict), ops)
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
        """Ids xs (N, T) -> outputs (N, T, H) of the last recurrent layer."""
        vectors, index = distinct(xs)
        first = self._steps[1]
        hs = call(self.layers[1], first, (vectors,), index=index)
        last: Array = self._run({first.name: hs}, call, first=2)
        return last

    def _loss_input(self, xs: Any, options: dict[str, Any]) -> Array:
        """Ids xs (N, T) -> outputs (N, T, H): the loss has the affine layer in it."""
        return self._hidden(self.embedding.forward_distinct, xs, forward_with(options))

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
            first, length, choice,
        )  # fmt: skip
        return writer

    def backward(self, dout: float = 1) -> None:
        super().backward(dout)
        if self.tie_weights:
            self.embedding.grads[0] += self.affine.grads[0].T


@known
class SimpleRnnlm(LanguageModel):
    """Language model on `TimeRNN`, initialised as in the textbook.

    Weights are normal, divided by 100 for the embedding and by the square root of their number of
    rows elsewhere, and drawn in the order of the layers; biases are 0. The recurrent layers are
    stateful.

    Parameters
    ----------
    vocab_size, wordvec_size, hidden_size : int
        V, D and H.
    num_layers : int, keyword-only (like all that follow)
        Recurrent layers, one on top of the other.
    tie_weights : bool
        Whether the affine layer uses the embedding's table, transposed; needs D == H.
    dtype : float32 or float64
    rng : numpy.random.Generator or RandomState, int, or None
        Where the weights are drawn from. A whole number seeds a generator of its own; None is
        NumPy's global state, as in the textbook.
    ops : module with the arithmetic, see `rnnfast.layers`

    Attributes
    ----------
    params, grads : lists of arrays, in the order of the layers
    """

    Cell = TimeRNN


@known
class Rnnlm(LanguageModel):
    """Language model on `TimeLSTM`; everything else is as in `SimpleRnnlm`."""

    Cell = TimeLSTM


@known
class GruRnnlm(LanguageModel):
    """Language model on `TimeGRU`, in the textbook's form; everything else is as in `SimpleRnnlm`.

    The textbook, which has no such model, calls that on an LSTM `Rnnlm`: the cell stands before.
    """

    Cell = TimeGRU


LANGUAGE_MODELS: dict[str, type[LanguageModel]] = {
    Model.Cell.cell.name: Model for Model in (SimpleRnnlm, Rnnlm, GruRnnlm)
}
"""The model of each cell, by the cell's name."""
