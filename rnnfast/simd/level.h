/* One instruction set: everything for float and for double, and the level that holds both tables.
 * Whoever includes this has defined LEVEL and LEVEL_NAME, VECTOR_BYTES and TILE_ROWS.
 */
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "simd.h"

#ifdef __clang__
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

#define square_root_f32 sqrtf
#define square_root_f64 sqrt

#define real float
#define REAL_IS_FLOAT 1
#define FN_SUFFIX _f32
#define SIMD_TABLE simd_f32
#include "real.h"
#undef real
#undef REAL_IS_FLOAT
#undef FN_SUFFIX
#undef SIMD_TABLE

#define real double
#define REAL_IS_FLOAT 0
#define FN_SUFFIX _f64
#define SIMD_TABLE simd_f64
#include "real.h"

const simd_level LEVEL = {LEVEL_NAME, &table_f32, &table_f64};
