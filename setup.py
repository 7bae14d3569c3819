"""Build the compiled modules; everything else about the package is in pyproject.toml.

RNNFAST_DEBUG=1 builds them with bounds checks, for tests of the kernels themselves.
RNNFAST_OPENMP=0 builds them without OpenMP, and so serial.
RNNFAST_SANITIZE=address builds them with bounds checks, AddressSanitizer and
UndefinedBehaviorSanitizer, for .ci/sanitize; RNNFAST_SANITIZE=thread with ThreadSanitizer, for
.ci/races.
"""

import os
import platform
import tempfile
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError, LinkError

SANITIZERS = {
    "": [],
    "0": [],
    "address": ["-fsanitize=address,undefined", "-fno-sanitize-recover", "-O1"],
    # no bounds checks: with them scratch memory is new at every call, and shared by none
    "thread": ["-fsanitize=thread", "-g", "-O1"],
}
SANITIZE = os.environ.get("RNNFAST_SANITIZE", "")
if SANITIZE not in SANITIZERS:
    raise ValueError(f"RNNFAST_SANITIZE: expected address or thread, got {SANITIZE!r}; unset it")
DEBUG = SANITIZE == "address" or os.environ.get("RNNFAST_DEBUG", "0") not in ("", "0")
OPENMP = os.environ.get("RNNFAST_OPENMP", "1") not in ("", "0")
X86 = platform.machine().lower() in ("x86_64", "amd64")

# NumPy is no build-time dependency: the kernels see arrays through memoryviews only.
MODULES = [
    *("engine", "panels", "products", "sums", "recurrent", "forward_steps", "backward_steps"),
    *("affine", "affine_loss", "attention", "embedding", "generation", "sigmoid_loss"),
    *("softmax_loss", "masks", "optimizer_steps", "build"),
]

# In Python, and compiled as they are: what every call of a layer of PyTorch goes through, of which
# a tiny one takes less time than the interpreter takes.
IN_PYTHON = ["torch/function", "torch/stack"]

# Each instruction set is one file with flags of its own; nothing else is compiled with them.
SIMD = Path("rnnfast/simd")
SIMD_FLAGS = {"baseline.c": [], "dispatch.c": []}
if X86:
    SIMD_FLAGS["avx2.c"] = ["-mavx2", "-mfma"]
    SIMD_FLAGS["avx512.c"] = [
        *("-mavx512f", "-mavx512dq", "-mavx512vl", "-mavx512bw", "-mavx2", "-mfma"),
        "-mprefer-vector-width=512",
    ]
# Neither errno nor the floating point exceptions are looked at, so loops may become vectors;
# results are those of IEEE arithmetic (this is not -ffast-math).
OPTIMISE = ["-O3", "-g" if DEBUG else "-g0", "-fno-math-errno", "-fno-trapping-math"]


class BuildExt(build_ext):
    """Compiles the instruction sets into the engine, and uses OpenMP where there is one."""

    def build_extensions(self):
        if self.compiler.compiler_type == "msvc":
            # what would be needed: a tile of plain floats beside that of simd/tile.h
            raise CompileError(
                "rnnfast: expected GCC or Clang, whose vector types the kernels are written in, "
                "got MSVC; build with MinGW: python setup.py build_ext --inplace --compiler=mingw32"
            )
        # what was built with other switches is not up to date
        stamp, switches = Path(self.build_temp, "switches"), f"{DEBUG} {OPENMP} {SANITIZE}"
        self.force = self.force or not stamp.is_file() or stamp.read_text() != switches
        openmp = self._openmp_flags()
        for extension in self.extensions:
            extension.extra_compile_args += openmp + SANITIZERS[SANITIZE]
            extension.extra_link_args += openmp + SANITIZERS[SANITIZE]
            if extension.name == "rnnfast.kernels.engine":
                extension.extra_objects += self._simd_objects()
        super().build_extensions()
        stamp.write_text(switches)

    def _simd_objects(self):
        macros = [("RNNFAST_X86", "1")] if X86 else []
        objects = []
        for name, flags in SIMD_FLAGS.items():
            objects += self.compiler.compile(
                [str(SIMD / name)],
                output_dir=self.build_temp,
                macros=macros,
                extra_postargs=[*OPTIMISE, *flags, *SANITIZERS[SANITIZE]],
                depends=[str(header) for header in SIMD.glob("*.h")],
            )
        return objects

    def _openmp_flags(self):
        """The flags with which a program that uses OpenMP compiles and links, or none."""
        if not OPENMP:
            return []
        flags = ["-fopenmp"]
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / "probe.c"
            source.write_text("#include <omp.h>\nint main(void) { return omp_in_parallel(); }")
            try:
                objects = self.compiler.compile(
                    [str(source)], output_dir=folder, extra_postargs=flags
                )
                self.compiler.link_executable(
                    objects, str(Path(folder) / "probe"), extra_postargs=flags
                )
            except (CompileError, LinkError):
                print("rnnfast: this compiler has no OpenMP, so that the kernels will be serial")
                return []
        return flags


# debug information, which many a Python asks for, would be most of the wheel
COMPILE_ARGS = ["-O3", "-g" if DEBUG else "-g0"]
kernels = [
    Extension(
        f"rnnfast.kernels.{name}",
        [f"rnnfast/kernels/{name}.pyx"],
        include_dirs=[str(SIMD)],
        depends=[str(header) for header in SIMD.glob("*.h")],
        extra_compile_args=[*COMPILE_ARGS],
        define_macros=[("RNNFAST_DEBUG", str(int(DEBUG)))],
    )
    for name in MODULES
]
in_python = [
    Extension(
        f"rnnfast.{name.replace('/', '.')}",
        [f"rnnfast/{name}.py"],
        extra_compile_args=[*COMPILE_ARGS],
    )
    for name in IN_PYTHON
]
BUILD_DIR = "build/cython-debug" if DEBUG else "build/cython"

setup(
    cmdclass={"build_ext": BuildExt},
    ext_modules=[
        *cythonize(
            kernels,
            build_dir=BUILD_DIR,
            compiler_directives={
                "language_level": 3,
                "boundscheck": DEBUG,
                "wraparound": False,
                "initializedcheck": DEBUG,
                "cdivision": True,
                "embedsignature": True,
            },
        ),
        # of no other meaning than in the interpreter, where an annotation is no check
        *cythonize(
            in_python,
            build_dir=BUILD_DIR,
            compiler_directives={"language_level": 3, "annotation_typing": False},
        ),
    ],
)
