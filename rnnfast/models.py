"""Language models: embedding, recurrent layers, affine, softmax with cross entropy.

Letters: N batch rows, T time steps, D embedding size, H hidden size, V vocabulary size.
"""

import numpy as np

from . import kernels
from ._checks import FLOATS, as_size
from .layers import TimeAffine, TimeEmbedding, TimeLSTM, TimeRNN
from .losses import TimeSoftmaxWithLoss


class _LanguageModel:
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
            as_size("vocab_size", vocab_size),
            as_size("wordvec_size", wordvec_size),
            as_size("hidden_size", hidden_size),
        )
        as_size("num_layers", num_layers)
        if np.dtype(dtype) not in FLOATS:
            raise TypeError(f"dtype: expected float32 or float64, got {np.dtype(dtype)}")
        if tie_weights and D != H:
            raise ValueError(
                f"tie_weights: expected wordvec_size equal to hidden_size, got {D} and {H}; "
                "the output layer uses the embedding's table"
            )
        normal = np.random.standard_normal if rng is None else rng.standard_normal

        def weights(rows, columns, scale):
            return (normal((rows, columns)) / scale).astype(dtype)

        embed_W = weights(V, D, 100)
        self.recurrent_layers = []
        for size in [D] + [H] * (num_layers - 1):
            G = self.Cell.gates
            Wx, Wh = weights(size, G * H, np.sqrt(size)), weights(H, G * H, np.sqrt(H))
            b = np.zeros(G * H, dtype)
            self.recurrent_layers.append(self.Cell(Wx, Wh, b, stateful=True, ops=ops))
        affine_W = embed_W.T if tie_weights else weights(H, V, np.sqrt(H))

        self.vocab_size = V
        self.tie_weights = tie_weights
        self.embedding = TimeEmbedding(embed_W, ops=ops)
        self.affine = TimeAffine(affine_W, np.zeros(V, dtype))
        self.layers = [self.embedding, *self.recurrent_layers, self.affine]
        self.loss_layer = TimeSoftmaxWithLoss(ops=ops)
        self.params = [W for layer in self.layers for W in layer.params]
        self.grads = [dW for layer in self.layers for dW in layer.grads]
        if tie_weights:  # one array, one entry: backward adds both gradients into the embedding's
            del self.params[-2], self.grads[-2]

    def predict(self, xs):
        """Ids xs (N, T) -> logits (N, T, V) of the token that follows each."""
        carried = self.get_state()
        try:
            for layer in self.layers:
                xs = layer.forward(xs)
        except Exception:
            self.set_state(carried)
            raise
        return xs

    def forward(self, xs, ts):
        """Ids xs and targets ts, (N, T) -> mean cross entropy in nats, a float."""
        carried = self.get_state()
        logits = self.predict(xs)
        try:
            return self.loss_layer.forward(logits, ts)
        except Exception:  # the targets do not fit: the block has not been read
            self.set_state(carried)
            raise

    def backward(self, dout=1):
        """Fill `grads` with the gradients of the last forward, times `dout`."""
        dout = self.loss_layer.backward(dout)
        for layer in reversed(self.layers):
            dout = layer.backward(dout)
        if self.tie_weights:
            self.embedding.grads[0] += self.affine.grads[0].T

    def reset_state(self):
        """Let every recurrent layer start its next block from zeros."""
        for layer in self.recurrent_layers:
            layer.reset_state()

    def get_state(self):
        """The carried states, for `set_state`: a tuple per recurrent layer of (N, H) or None."""
        return [layer.get_state() for layer in self.recurrent_layers]

    def set_state(self, states):
        """Carry on from states that `get_state` returned."""
        for layer, state in zip(self.recurrent_layers, states, strict=True):
            layer.set_state(*state)


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


class Rnnlm(_LanguageModel):
    """Language model on `TimeLSTM`; everything else is as in `SimpleRnnlm`."""

    Cell = TimeLSTM
