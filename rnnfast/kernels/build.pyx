"""How the compiled modules were built."""

cdef extern from *:
    """
    #if defined(__clang__)
    #define RNNFAST_COMPILER "Clang " __clang_version__
    #elif defined(__GNUC__)
    #define RNNFAST_COMPILER "GCC " __VERSION__
    #elif defined(_MSC_VER)
    #define RNNFAST_STRINGIFY(x) #x
    #define RNNFAST_VALUE_OF(x) RNNFAST_STRINGIFY(x)
    #define RNNFAST_COMPILER "MSVC " RNNFAST_VALUE_OF(_MSC_VER)
    #else
    #define RNNFAST_COMPILER "unknown"
    #endif
    """
    const char* RNNFAST_COMPILER
    const int RNNFAST_DEBUG

COMPILER = RNNFAST_COMPILER.decode("ascii")
BOUNDS_CHECKED = bool(RNNFAST_DEBUG)
