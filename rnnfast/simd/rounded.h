/* Operands of float32 products that are rounded to bf16, where the processor does not multiply bf16: packed
 * ones are rounded once, and are the numbers of an ordinary tile then; weights that are read where they
 * stand are rounded as they are read. Included by level.h.
 */
#include "bf16.h"

#define real float
#define LANE_NUMBER int32_t
#define LANES ((int)(VECTOR_BYTES / sizeof(real)))
#define PANEL (SIMD_VECTORS * LANES)
#define FN(name) name##_standing
#define lane_numbers_standing lane_numbers_f32
#define exchanges_standing exchanges_f32

typedef uint32_t vector_of_bits
    __attribute__((vector_size(VECTOR_BYTES), aligned(sizeof(real)), may_alias));
typedef real vector_of_numbers
    __attribute__((vector_size(VECTOR_BYTES), aligned(sizeof(real)), may_alias));

/* `rounded` for all lanes. */
static ALWAYS_INLINE vector_of_numbers rounded_vector(vector_of_numbers x)
{
    const vector_of_bits bits = (vector_of_bits)x;
    const vector_of_bits is_nan = (vector_of_bits)((bits & 0x7fffffff) > 0x7f800000);
    const vector_of_bits nearest = bits + 0x7fff + (bits >> 16 & 1), quiet = bits | 0x400000;
    return (vector_of_numbers)(((is_nan & quiet) | (~is_nan & nearest)) & 0xffff0000);
}

#define TOGETHER 1
#define ROUND(x) rounded(x)
#define SPREAD(x) ((x) - (vec){0})
#define OPERAND(b) ((vec)rounded_vector((vector_of_numbers)(b)))
#define MULTIPLY_ADD(sum, a, b) ((sum) + (a) * (b))
#include "operands.h"
#include "tile.h"
#include "dots.h"

const simd_operands OF_LEVEL(rounded) = {
    .together = TOGETHER,
    .panels_at_once = panels_at_once_f32,
    .tile = tile_f32,
    .row_words = row_words_standing,
    .panel_words = panel_words_standing,
    .pack_tiles = pack_tiles_standing,
};

const simd_operands OF_LEVEL(standing) = {
    .together = TOGETHER,
    .panels_at_once = panels_at_once_standing,
    .tile = tile_standing,
    .one_row = one_row_standing,
    .dots = dots_standing,
    .row_words = row_words_standing,
};

#undef real
#undef LANE_NUMBER
#undef LANES
#undef PANEL
#undef FN
#undef TOGETHER
#undef ROUND
#undef SPREAD
#undef OPERAND
#undef MULTIPLY_ADD
