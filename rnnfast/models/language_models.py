"""The language models.

Letters: N batch rows, T time steps, D embedding size, H hidden size, V vocabulary size.
"""

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
from numpy.typing import DTypeLike

from .. import kernels
from .._checks import as_count, as_float_dtype, as_floats, as_generator
from .._types import Array, ArrayLike, Ids, Seed
from ..layers import TimeEmbedding, TimeLSTM, TimeRNN
from ..losses import TimeAffineWithLoss
from .network import Call, Network, States, forward_with


class _LanguageModel(Network):
    """What the language models share; they differ in their recurrent layer `Cell`."""

    Cell: ClassVar[Any]
    cell: ClassVar[str]
    ops: ModuleType
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
        ops: ModuleType = kernels,
    ) -> None:
        V, D, H = (
            as_count("vocab_size", vocab_size),
            as_count("wordvec_size", wordvec_size),
            as_count("hidden_size", hidden_size),
        )
        as_count("num_layers", num_layers)
        as_float_dtype("dtype", dtype)
        if tie_weights and D != H:
            raise ValueError(
                f"tie_weights: expected wordvec_size equal to hidden_size, got {D} and {H}; "
                "the output layer uses the embedding's table"
            )
        normal = np.random.standard_normal if rng is None else as_generator(rng).standard_normal

        def weights(rows, columns, scale):
            return (normal((rows, columns)) / scale).astype(dtype)

        embed_W = weights(V, D, 100)
        cells = []
        for size in [D] + [H] * (num_layers - 1):
            G = self.Cell.cell.G
            Wx, Wh = weights(size, G * H, np.sqrt(size)), weights(H, G * H, np.sqrt(H))
            cells.append(self.Cell(Wx, Wh, np.zeros(G * H, dtype), stateful=True, ops=ops))
        affine_W = embed_W.T if tie_weights else weights(H, V, np.sqrt(H))

        self.ops = ops
        self.vocab_size = V
        self.tie_weights = tie_weights
        self.embedding = TimeEmbedding(embed_W, ops=ops)
        self.affine = TimeAffineWithLoss(affine_W, np.zeros(V, dtype), ops=ops)
        named = {f"recurrent.{k}": cell for k, cell in enumerate(cells)}
        super().__init__({"embedding": self.embedding, **named}, self.affine)

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
        return self._run({first.name: hs}, call, first=2)

    def forward(
        self, xs: ArrayLike, ts: ArrayLike, *, need_gradient: bool = True, **options: Any
    ) -> float:
        """Ids xs and targets ts, (N, T) -> mean cross entropy in nats, a float.

        Without `need_gradient` this is faster, and backward cannot follow.
        """
        self._check_options(options, self._takes)
        with self._state_kept_on_error():
            hs = self._hidden(self.embedding.forward_distinct, xs, forward_with(options))
            return self.affine.forward(hs, ts, need_gradient=need_gradient)

    def read(
        self, xs: ArrayLike, states: Sequence[Array | None] | None = None, **options: Any
    ) -> States:
        """States of the recurrent layers after they have read ids xs (N, T); see `infer`."""
        self._check_options(options, self._infer_takes)
        call, after = self._infer_with(states, options)
        self._hidden(self.embedding.infer_distinct, xs, call)
        return after

    def continued(
        self,
        first: int,
        states: Sequence[Array | None] | None,
        length: int,
        temperature: float,
        skip_ids: list[int],
        uniforms: Array,
    ) -> Ids:
        """Ids (length,) that follow the id `first` and states (S, 1, H) of what came before it.

        See `rnnfast.generate`, and `rnnfast.reference.ops.generate` for the arguments.
        """
        layers = [(layer.cell, *layer._checked_params()) for layer in self.recurrent_layers]
        if states is None:
            states = [None] * len(layers)
        shapes = [(layer.cell.S, 1, layer.hidden_size) for layer in self.recurrent_layers]
        states = [
            np.zeros(shape, self.affine.dtype)
            if given is None
            else as_floats(f"states[{k}]", given, self.affine.dtype, shape)
            for k, (given, shape) in enumerate(zip(states, shapes, strict=True))
        ]
        return self.ops.generate(
            *self.embedding._checked_params(), layers, *self.affine._checked_params(), states,
            int(first), length, temperature, skip_ids, uniforms,
        )[0]  # fmt: skip

    def backward(self, dout: float = 1) -> None:
        super().backward(dout)
        if self.tie_weights:
            self.embedding.grads[0] += self.affine.grads[0].T


class SimpleRnnlm(_LanguageModel):
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
    cell = "rnn"


class Rnnlm(_LanguageModel):
    """Language model on `TimeLSTM`; everything else is as in `SimpleRnnlm`."""

    Cell = TimeLSTM
    cell = "lstm"
