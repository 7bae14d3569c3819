"""The kernels again in NumPy alone: plain formulas, one time step after the other.

These functions are the contract of the compiled ones in `rnnfast.kernels`: same names, same
arguments, same results. Arguments have been checked by the layer. All floating point arrays have
one dtype, float32 or float64, and any strides; ids are C-contiguous int64. Inputs are never
modified. What `*_forward` returns as `cache` belongs to the matching `*_backward` of the same
module, which may be called any number of times with it. With a `precision` of "bfloat16", which is
of float32 alone, operands of products are rounded first, see `rounding`.
"""

from .affine import affine_backward, affine_forward
from .attention import attention_backward, attention_forward
from .embedding import distinct, embedding_backward, embedding_forward
from .generation import draw, writer
from .losses import (
    affine_loss_backward,
    affine_loss_forward,
    sigmoid_loss_forward,
    softmax_loss_backward,
    softmax_loss_forward,
)
from .masks import draw_mask
from .optimizer_steps import (
    adagrad_step,
    adam_step,
    clip_arrays,
    momentum_step,
    nesterov_step,
    rmsprop_step,
    scale_arrays,
    sgd_step,
    sum_of_squares,
)
from .recurrent import (
    bidirectional_backward,
    bidirectional_forward,
    bidirectional_states,
    recurrent_backward,
    recurrent_forward,
    recurrent_states,
)

__all__ = [
    "adagrad_step",
    "adam_step",
    "affine_backward",
    "affine_forward",
    "affine_loss_backward",
    "affine_loss_forward",
    "attention_backward",
    "attention_forward",
    "bidirectional_backward",
    "bidirectional_forward",
    "bidirectional_states",
    "clip_arrays",
    "distinct",
    "draw",
    "draw_mask",
    "embedding_backward",
    "embedding_forward",
    "momentum_step",
    "nesterov_step",
    "recurrent_backward",
    "recurrent_forward",
    "recurrent_states",
    "rmsprop_step",
    "scale_arrays",
    "sgd_step",
    "sigmoid_loss_forward",
    "softmax_loss_backward",
    "softmax_loss_forward",
    "sum_of_squares",
    "writer",
]
