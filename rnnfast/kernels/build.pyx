"""How the compiled modules were built."""

cdef extern from *:
    """
    #if defined(__clang__)
    #define RNNFAST_COMPILER "Clang " __clang_version__
    #elif defined(__GNUC__)
    #define RNNFAST_COMPILER "GCC " __VERSION__
    #else
    #error "rnnfast needs GCC or Clang: its kernels are written in their vector types"
    #endif
    """
    const char* RNNFAST_COMPILER
    const int RNNFAST_DEBUG

COMPILER = RNNFAST_COMPILER.decode("ascii")
BOUNDS_CHECKED = bool(RNNFAST_DEBUG)
