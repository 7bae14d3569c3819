"""What is installed here, and what of it is in use."""

import os
import platform

import numpy as np

from . import kernels
from ._version import __version__
from .threads import available_cpus, get_num_threads


def build_info() -> dict[str, str | int]:
    """Versions, build and machine, as a dict of printable values."""
    return {
        "rnnfast": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "compiler": kernels.build.COMPILER,
        "bounds checks": "on (debug build)" if kernels.build.BOUNDS_CHECKED else "off",
        "machine": f"{platform.system()} {platform.machine()}",
        "cpu level": kernels.engine.CPU_LEVEL,
        "bf16 products": (
            "by the processor" if kernels.engine.BF16 else "rounded first, slower than float32"
        ),
        "openmp": "yes" if kernels.engine.HAS_OPENMP else "no: everything is serial",
        "cpus": f"{available_cpus()} of {os.cpu_count()}",
        "threads": get_num_threads(),
    }
