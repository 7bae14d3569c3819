"""Build the compiled kernels; everything else about the package is in pyproject.toml.

RNNFAST_DEBUG=1 builds them with bounds checks, for tests of the kernels themselves.
"""

import os
import sys

from Cython.Build import cythonize
from setuptools import Extension, setup

DEBUG = os.environ.get("RNNFAST_DEBUG", "0") not in ("", "0")

# NumPy is no build-time dependency: the kernels see arrays through memoryviews only.
MODULES = ["rnn", "lstm", "embedding", "softmax_loss", "build"]

extensions = [
    Extension(
        f"rnnfast.kernels.{name}",
        [f"rnnfast/kernels/{name}.pyx"],
        # the sources again, since cythonize puts generated C in their place: a source
        # distribution takes its files from here
        depends=[f"rnnfast/kernels/{name}.pyx", "rnnfast/kernels/_scalar.pxd"],
        extra_compile_args=["/O2"] if sys.platform == "win32" else ["-O3"],
        define_macros=[("RNNFAST_DEBUG", str(int(DEBUG)))],
    )
    for name in MODULES
]

setup(
    ext_modules=cythonize(
        extensions,
        build_dir="build/cython-debug" if DEBUG else "build/cython",
        compiler_directives={
            "language_level": 3,
            "boundscheck": DEBUG,
            "wraparound": False,
            "initializedcheck": DEBUG,
            "cdivision": True,
            "embedsignature": True,
        },
    ),
)
