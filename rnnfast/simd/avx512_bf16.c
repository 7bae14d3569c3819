/* AVX-512 with AVX512_BF16: vdpbf16ps adds the products of two pairs of bf16 numbers to a float32, one
 * fused multiply-add after the other, first that of the upper halves: sums are those of the float32 tile
 * of rounded numbers, to the bit (but for denormal numbers, which are 0 here and in every kernel). All
 * else is that of AVX-512.
 */
#define LEVEL simd_avx512_bf16
#define VECTOR_BYTES 64
#define TILE_ROWS 6
#include "compiler.h"

#include <immintrin.h>

#include "bf16.h"

#define real float
#define LANES 16
#define PANEL (SIMD_VECTORS * LANES)
#define FN(name) name##_bf16

#define TOGETHER 2
#define ROUND(x) rounded(x)
#define SPREAD(x) ((vec)_mm512_set1_epi32((int)bits_of(x)))
#define OPERAND(b) (b)
#define MULTIPLY_ADD(sum, a, b)                                                                   \
    ((vec)_mm512_dpbf16_ps((__m512)(sum), (__m512bh)(a), (__m512bh)(b)))
#include "operands.h"
#include "tile.h"

static const simd_operands bf16 = {
    .together = TOGETHER,
    .panels_at_once = panels_at_once_bf16,
    .tile = tile_bf16,
    .one_row = one_row_bf16,
    .row_words = row_words_bf16,
    .panel_words = panel_words_bf16,
    .pack_tiles = pack_tiles_bf16,
};

extern const simd_table simd_avx512_f32, simd_avx512_f64;
extern const simd_operands simd_avx512_standing;

const simd_level LEVEL = {
    "avx512_bf16", {[SIMD_FLOAT] = &simd_avx512_f32, [SIMD_DOUBLE] = &simd_avx512_f64},
    &bf16, &simd_avx512_standing,
};
