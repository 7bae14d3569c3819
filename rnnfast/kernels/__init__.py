"""The compiled kernels: functions of the same name, arguments and meaning as those of
`rnnfast.reference.ops`, which documents them. They trust their arguments, which the layers check,
but for shapes of weights and gradients, which may be changed in place at any time, and for what
recurrent functions are given to write into, which no layer gives.
"""

import os as _os

# GNU OpenMP lets threads spin for a while where they wait, which is ruinous beside a busy process:
# they use up the time of the thread that they wait for. It reads how long when it is loaded, which
# is below; 2000 rounds are some microseconds. Who has chosen otherwise, or has loaded it before,
# is left alone.
_spinning = not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & set(_os.environ)
if _spinning:
    _os.environ["GOMP_SPINCOUNT"] = "2000"

try:
    from . import build, engine
    from .affine import affine_backward, affine_forward
    from .affine_loss import affine_loss_backward, affine_loss_forward
    from .attention import attention_backward, attention_forward
    from .embedding import distinct, embedding_backward, embedding_forward
    from .generation import writer
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
    from .sigmoid_loss import sigmoid_loss_forward
    from .softmax_loss import softmax_loss_backward, softmax_loss_forward
except ImportError as _error:
    raise ImportError(
        f"this copy of rnnfast ({__path__[0]}) has no usable compiled modules: {_error}. "
        "Build it with `pip install .` in the folder that holds setup.py, or in place with "
        "`pip install -e .`; if rnnfast is installed already, start Python from another folder, "
        "since here the source folder hides the installed package."
    ) from _error
finally:
    if _spinning:
        del _os.environ["GOMP_SPINCOUNT"]

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
    "build",
    "clip_arrays",
    "distinct",
    "draw_mask",
    "embedding_backward",
    "embedding_forward",
    "engine",
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
