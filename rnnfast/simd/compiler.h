/* What all files of an instruction set share: headers, and words for the compiler. Whoever includes this
 * has defined VECTOR_BYTES and TILE_ROWS.
 */
#include <math.h>
#include <string.h>

#include "simd.h"

#if VECTOR_BYTES != 16 && VECTOR_BYTES != 32 && VECTOR_BYTES != 64
#error "VECTOR_BYTES must be 16, 32 or 64: scratch memory and rows of states are padded to 64 bytes"
#endif
#if TILE_ROWS < 2 || TILE_ROWS > SIMD_MOST_ROWS
#error "TILE_ROWS must be 2 to SIMD_MOST_ROWS: for higher tiles, add their functions to tile.h"
#endif

#ifdef __clang__
#define UNROLL _Pragma("unroll")
#define NO_UNROLL _Pragma("clang loop unroll(disable)")
#define INDEPENDENT _Pragma("clang loop vectorize(assume_safety)")
#else
#define UNROLL _Pragma("GCC unroll 16")
#define NO_UNROLL _Pragma("GCC unroll 1")
#define INDEPENDENT _Pragma("GCC ivdep") /* no turn of a loop needs what another one writes */
#endif
/* Over the numbers of a vector: what is unrolled would not become one. */
#define LANE_LOOP(j) NO_UNROLL for (int j = 0; j < LANES; j++)

/* Rows that are packed together, and asked for ahead of time: see operands.h. */
enum { AHEAD = 64 };

#define ALWAYS_INLINE inline __attribute__((always_inline))

/* Whether the compiler makes one instruction of a shuffle by a list of lanes. */
#if VECTOR_BYTES > 16 && defined(__GNUC__) && !defined(__clang__)
#define EXCHANGES
#endif
