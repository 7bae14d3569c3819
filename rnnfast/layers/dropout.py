"""Dropout of what goes from layer to layer. N batch rows, T time steps, D numbers of a step."""

from typing import Any

from .._checks import as_array, as_bool, as_floats, as_fraction, as_generator, as_own_floats
from .._ops import Ops
from .._random import Generator, PutBackOnError
from .._types import Array, ArrayLike, Seed
from .base import Layer
from .regularisation import draw_dropout


class TimeDropout(Layer):
    """Inverted dropout: in training, numbers are 0 with probability `rate`, and the others are
    multiplied by 1 / (1 - rate), which makes up for it in the mean; in evaluation nothing is done.

    The mask is drawn by `ops.draw_mask` from a key that is one number of `rng`, int(rng.random() *
    2**53), in every `forward`; a `batch_part` has its rows of it. After an error the generator is
    as it was. (Srivastava et al. 2014; one mask for all steps: Gal and Ghahramani 2016.)

    Parameters
    ----------
    rate : float
        Probability of 0, in 0 <= rate < 1.
    locked : bool, keyword-only (like all that follow)
        Whether all steps of a row have one mask (N, D), or each its own.
    rng : numpy.random.Generator or RandomState, int, or None
        Where masks are drawn from. A whole number seeds a generator of its own, and None a fresh
        one. Checkpoints keep its state.
    ops : module with the arithmetic

    Attributes
    ----------
    rate, locked, rng : as given; may be set
    params, grads : empty lists

    Raises
    ------
    TypeError, ValueError
        Where an argument does not fit, and where an attribute is set. Nothing has changed then.

    Examples
    --------
    >>> import numpy as np, rnnfast
    >>> dropout = rnnfast.TimeDropout(0.5, locked=True, rng=3)
    >>> dropout.forward(np.ones((1, 3, 6)))[0]
    array([[2., 0., 2., 0., 0., 2.],
           [2., 0., 2., 0., 0., 2.],
           [2., 0., 2., 0., 0., 2.]])
    >>> dropout.infer(np.ones((1, 1, 2)))
    array([[[1., 1.]]])
    """

    def __init__(
        self,
        rate: float = 0.5,
        *,
        locked: bool = False,
        rng: Seed = None,
        ops: Ops | None = None,
    ) -> None:
        super().__init__(ops)
        self.rate, self.locked, self.rng = rate, locked, rng

    @property
    def rate(self) -> float:
        """Probability of 0 in a mask."""
        return self._rate

    @rate.setter
    def rate(self, rate: float) -> None:
        self._rate = as_fraction("rate", rate)

    @property
    def locked(self) -> bool:
        """Whether all steps have one mask."""
        return self._locked

    @locked.setter
    def locked(self, locked: bool) -> None:
        self._locked = as_bool("locked", locked)

    @property
    def rng(self) -> Generator:
        """What masks are drawn from; None sets a fresh generator."""
        return self._rng

    @rng.setter
    def rng(self, rng: Seed) -> None:
        self._rng: Generator = as_generator(rng)

    def config(self) -> dict[str, Any]:
        """Keyword arguments, as JSON has them, that make the layer again; its generator is new."""
        return {"rate": self._rate, "locked": self._locked}

    def forward(self, xs: ArrayLike) -> Array:
        """xs (N, T) or (N, T, D), or with more axes -> xs times a mask, of the same shape.

        float64 stays it, anything else becomes float32. Where nothing is left out, which is so in
        evaluation, this is `xs` itself if it has such a dtype.
        """
        xs, rate = self.infer(xs), self._rate
        if self.training and rate:
            shape = (len(xs), 1, *xs.shape[2:]) if self._locked else xs.shape
            with PutBackOnError(self._rng):
                part = self._batch_part
                mask = draw_dropout(self._ops, self._rng, rate, shape, xs.dtype, part)
                xs = xs * mask
                self._keep((xs.shape, xs.dtype, mask))
        else:
            self._keep((xs.shape, xs.dtype, None))
        return xs

    def infer(self, xs: ArrayLike) -> Array:
        """What `forward` returns in evaluation: `xs`, of which nothing is left out."""
        xs = as_array("xs", xs)
        return as_own_floats("xs", xs, ("N", "T", *"D" * (xs.ndim - 2)))

    def backward(self, dout: ArrayLike) -> Array:
        """Gradient of what `forward` returned -> gradient of xs: it times the same mask."""
        shape, dtype, mask = self._require_cache()
        dout = as_floats("dout", dout, dtype, shape)
        return dout if mask is None else dout * mask
