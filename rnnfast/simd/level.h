/* One instruction set: everything for every number format, and the level that holds the tables.
 * Whoever includes this has defined LEVEL and LEVEL_NAME, VECTOR_BYTES and TILE_ROWS.
 */
#include "compiler.h"

/* Names that other files see. */
#define JOINED(level, name) level##_##name
#define JOIN(level, name) JOINED(level, name)
#define OF_LEVEL(name) JOIN(LEVEL, name)

#define square_root_f32 sqrtf
#define square_root_f64 sqrt

#define real float
#define REAL_BITS 32
#define LANE_NUMBER int32_t
#define FN_SUFFIX _f32
#define TABLE OF_LEVEL(f32)
#include "real.h"
#undef real
#undef REAL_BITS
#undef LANE_NUMBER
#undef FN_SUFFIX
#undef TABLE

#define real double
#define REAL_BITS 64
#define LANE_NUMBER int64_t
#define FN_SUFFIX _f64
#define TABLE OF_LEVEL(f64)
#include "real.h"
#undef real
#undef REAL_BITS
#undef LANE_NUMBER
#undef FN_SUFFIX

#include "rounded.h"

const simd_level LEVEL = {
    LEVEL_NAME, {[SIMD_FLOAT] = &OF_LEVEL(f32), [SIMD_DOUBLE] = &OF_LEVEL(f64)},
    &OF_LEVEL(rounded), &OF_LEVEL(standing),
};
