/* Everything for one `real`, and its table. Included by level.h, once for each format. */
#define FN_JOIN(name, suffix) name##suffix
#define FN_OF(name, suffix) FN_JOIN(name, suffix)
#define FN(name) FN_OF(name, FN_SUFFIX)
#define LANES ((int)(VECTOR_BYTES / sizeof(real)))
#define PANEL (SIMD_VECTORS * LANES)

#define TOGETHER 1
#define ROWS_TOGETHER 1
#define ROUND(x) (x)
#define SPREAD(x) ((x) - (vec){0})
#define B_VECTOR(place, row) (*(const vec *)(place))
#define B_LAST(place) B_VECTOR(place, 0)
#define A_VECTOR(place) (*(const vec *)(place))
#define A_END(place, n) ((vec)FN(end_of)(place, n))
#define COLUMN A_VECTOR
#define COLUMN_END A_END
#define MULTIPLY_ADD(sum, a, b) ((sum) + (a) * (b))

#include "functions.h"
#include "lanes.h"
#include "operands.h"
#include "tile.h"
#include "cells.h"
#include "arrays.h"
#include "dots.h"

#define FUNCTION(result, name, arguments) .name = FN(name),
#define FORWARD(name, gates, together, reset) FN(name##_forward),
#define BACKWARD(name, gates, together, reset) FN(name##_backward),

const simd_table TABLE = {
    .number = sizeof(real),
    .lanes = LANES,
    .tile_rows = TILE_ROWS,
    .rounds = 0,
    .exact = &TABLE,
    .standing = &TABLE,
    .products = {TOGETHER, ROWS_TOGETHER, SIMD_PRODUCT_FUNCTIONS(FUNCTION)},
    SIMD_FUNCTIONS(FUNCTION)
    .forward = {SIMD_CELLS(FORWARD)},
    .backward = {SIMD_CELLS(BACKWARD)},
};

#undef FUNCTION
#undef FORWARD
#undef BACKWARD
#undef FN_JOIN
#undef FN_OF
#undef FN
#undef LANES
#undef PANEL
#undef TOGETHER
#undef ROWS_TOGETHER
#undef ROUND
#undef SPREAD
#undef B_VECTOR
#undef B_LAST
#undef A_VECTOR
#undef A_END
#undef COLUMN
#undef COLUMN_END
#undef MULTIPLY_ADD
