"""The language models.

Letters: N batch rows, T time steps, D embedding size, H hidden size, V vocabulary size.
"""

import numpy as np

from .. import kernels
from .._checks import as_count, as_float_dtype
from ..layers import TimeEmbedding, TimeLSTM, TimeRNN
from ..losses import TimeAffineWithLoss
from .network import Network


class _LanguageModel(Network):
    """What the language models share; they differ in their recurrent layer `Cell`."""

    Cell = None

    def __init__(
        self,
        vocab_size,
        wordvec_size,
        hidden_size,
        *,
        num_layers=1,
        tie_weights=False,
        dtype=np.float32,
        rng=None,
        ops=kernels,
    ):
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
        normal = np.random.standard_normal if rng is None else rng.standard_normal

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
        super().__init__([self.embedding, *cells], self.affine)
        if tie_weights:  # one array, one entry: backward adds both gradients into the embedding's
            del self.params[-2], self.grads[-2]

    def _hidden(self, xs):
        """Ids xs (N, T) -> outputs (N, T, H) of the last recurrent layer."""
        first, *others = self.recurrent_layers
        vectors, index = self.embedding.forward_distinct(xs)
        hs = first.forward(vectors, index=index)
        for layer in others:
            hs = layer.forward(hs)
        return hs

    def predict(self, xs):
        """Ids xs (N, T) -> logits (N, T, V) of the token that follows each."""
        with self._state_kept_on_error():
            return self.affine.logits(self._hidden(xs))

    def forward(self, xs, ts, *, need_gradient=True):
        """Ids xs and targets ts, (N, T) -> mean cross entropy in nats, a float.

        Without `need_gradient` this is faster, and backward cannot follow.
        """
        with self._state_kept_on_error():
            return self.affine.forward(self._hidden(xs), ts, need_gradient=need_gradient)

    def read(self, xs):
        """Let the recurrent layers read ids xs (N, T); nothing comes back but their states."""
        with self._state_kept_on_error():
            self._hidden(xs)

    def continued(self, first, length, temperature, skip_ids, uniforms):
        """Ids (length,) that follow `first` and the states carried, which stay as they are.

        See `rnnfast.generate`, and `rnnfast.reference.ops.generate` for the arguments.
        """
        layers = [(layer.cell, *layer._checked_params()) for layer in self.recurrent_layers]
        states = [layer._carried(1) for layer in self.recurrent_layers]
        return self.ops.generate(
            *self.embedding._checked_params(), layers, *self.affine._checked_params(), states,
            int(first), length, temperature, skip_ids, uniforms,
        )[0]  # fmt: skip

    def backward(self, dout=1):
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
    rng : numpy.random.Generator or RandomState
        Where the weights are drawn from; None is NumPy's global state, as in the textbook.
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
