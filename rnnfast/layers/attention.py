"""Attention. N batch rows, S steps of the encoder, T of the decoder, H hidden size."""

import numpy as np

from .._checks import as_floats, as_lengths, as_own_floats, unshared
from .._ops import Ops
from .._types import Array, ArrayLike, Ids
from .base import Layer


class Attention(Layer):
    """Dot-product attention of every step of a decoder to all steps of an encoder.

    The weights of step t are the softmax over s of the dot products dec_t . enc_s, and its context
    is the sum of the enc_s with these weights (Luong, Pham and Manning 2015, the score "dot").

    Parameters
    ----------
    ops : module with the arithmetic, keyword-only

    Attributes
    ----------
    weights : array (N, T, S), read-only
        Those of the last forward, each row of which sums to 1.
    params, grads : empty lists

    Examples
    --------
    >>> import numpy as np, rnnfast
    >>> attention = rnnfast.Attention()
    >>> hs_enc, hs_dec = np.array([[[1.0, 0.0], [0.0, 1.0]]]), np.array([[[9.0, 0.0]]])
    >>> attention.forward(hs_enc, hs_dec).round(3)
    array([[[1., 0.]]])
    >>> attention.forward(hs_enc, 0 * hs_dec), attention.weights
    (array([[[0.5, 0.5]]]), array([[[0.5, 0.5]]]))

    In a network it is a layer of two inputs, as in `inputs={"attention": ("encoder", "decoder")}`.
    """

    def __init__(self, *, ops: Ops | None = None) -> None:
        super().__init__(ops)

    @property
    def weights(self) -> Array:
        """What every step of the decoder took of those of the encoder; RuntimeError before forward.

        0 beyond lengths, and everywhere in a row of length 0.
        """
        weights: Array
        (*_, weights, _), _ = self._require_kept("weights")
        return weights

    def forward(
        self, hs_enc: ArrayLike, hs_dec: ArrayLike, lengths: ArrayLike | None = None
    ) -> Array:
        """hs_enc (N, S, H), hs_dec (N, T, H) -> contexts (N, T, H).

        Both in float64 if one of them is, else in float32, as the contexts are.

        Parameters
        ----------
        hs_enc, hs_dec : arrays (N, S, H) and (N, T, H)
        lengths : integers (N,), each in 0..S
            Row n of hs_enc has the steps 0..lengths[n]-1. Those beyond are not looked at; where
            there is no step, contexts are 0. By name, where a network calls the layer.

        Raises
        ------
        TypeError, ValueError
            For arguments that do not fit; nothing has changed then.
        """
        enc, dec, steps = self._checked(hs_enc, hs_dec, lengths)
        contexts, weights = self._ops.attention_forward(enc, dec, steps)
        weights.flags.writeable = False
        self._keep((unshared(enc, hs_enc), unshared(dec, hs_dec), weights, steps))
        out: Array = contexts
        return out

    def infer(
        self, hs_enc: ArrayLike, hs_dec: ArrayLike, lengths: ArrayLike | None = None
    ) -> Array:
        """What `forward` returns, with nothing kept: neither weights nor what backward needs."""
        contexts: Array
        contexts, _ = self._ops.attention_forward(*self._checked(hs_enc, hs_dec, lengths))
        return contexts

    def backward(self, dout: ArrayLike) -> tuple[Array, Array]:
        """Gradient of the contexts (N, T, H) -> those of hs_enc, 0 beyond lengths, and hs_dec."""
        enc, dec, weights, steps = self._require_cache()
        dout = as_floats("dout", dout, dec.dtype, dec.shape)
        denc: Array
        ddec: Array
        denc, ddec = self._ops.attention_backward(dout, enc, dec, weights, steps)
        return denc, ddec

    def _checked(
        self, hs_enc: ArrayLike, hs_dec: ArrayLike, lengths: ArrayLike | None
    ) -> tuple[Array, Array, Ids | None]:
        enc = as_own_floats("hs_enc", hs_enc, ("N", "S", "H"))
        N, S, H = enc.shape
        hint = "it has the batch and the H of hs_enc"
        dec = as_own_floats("hs_dec", hs_dec, (N, "T", H), hint)
        dtype = np.result_type(enc, dec)
        steps = None if lengths is None else as_lengths("lengths", lengths, N, S)
        return enc.astype(dtype, copy=False), dec.astype(dtype, copy=False), steps
