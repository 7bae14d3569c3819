"""`np`, which is NumPy, since `GPU` is False."""

import numpy as np

from .config import GPU

__all__ = ["GPU", "np"]
