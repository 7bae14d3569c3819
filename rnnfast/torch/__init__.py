"""PyTorch's recurrent modules on the kernels of this package.

`RNN`, `LSTM` and `GRU` are subclasses of torch.nn's; `accelerate(model)` makes those of a model
ours, `restore(model)` theirs again; `last_path(module)` tells who did the last forward, and why.

Nothing else in this package imports PyTorch, which must be installed.
"""

try:
    import torch as _torch  # noqa: F401
except ImportError as _error:
    raise ImportError(
        f"rnnfast.torch is for programs of PyTorch, which cannot be imported here: {_error}; "
        "install it with `pip install torch`"
    ) from _error

from .modules import GRU, LSTM, RNN, last_path
from .replacing import accelerate, restore

__all__ = ["GRU", "LSTM", "RNN", "accelerate", "last_path", "restore"]
