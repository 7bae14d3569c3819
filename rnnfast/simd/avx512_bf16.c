/* AVX-512 with AVX512_BF16: vdpbf16ps adds the products of two pairs of bf16 numbers to a float32, one
 * fused multiply-add after the other, first that of the upper halves: sums are those of the float32 tile
 * of rounded numbers, to the bit. All else is that of AVX-512.
 */
#define LEVEL simd_avx512_bf16
#define VECTOR_BYTES 64
#define TILE_ROWS 6
#include "compiler.h"

#include <immintrin.h>

#include "bf16.h"

#define real float
#define LANE_NUMBER int32_t
#define LANES 16
#define PANEL (SIMD_VECTORS * LANES)
#define TOGETHER 2

typedef uint32_t word __attribute__((may_alias));

/* The first n lanes of 16. */
static ALWAYS_INLINE __mmask16 first(ptrdiff_t n)
{
    return n >= 16 ? 0xffff : n <= 0 ? 0 : (__mmask16)((1u << n) - 1);
}

/* Words of the numbers k, k + 1, ..., k + 31 of a row, the first 16 of them in `low`. */
static ALWAYS_INLINE __m512i row_of_words(__m512 low, __m512 high)
{
    return _mm512_rol_epi32((__m512i)_mm512_cvtne2ps_pbh(high, low), 16);
}

/* Words of the rows k, in the upper halves, and k + 1 of 16 columns. */
static ALWAYS_INLINE __m512i rows_of_words(__m512 upper, __m512 lower)
{
    const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8,
                                           23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    return _mm512_permutexvar_epi16(order, (__m512i)_mm512_cvtne2ps_pbh(upper, lower));
}

static void row_words(ptrdiff_t K, const void *row, void *words)
{
    const float *x = row;
    word *out = words;
    for (ptrdiff_t k = 0; k < K; k += 32)
        _mm512_mask_storeu_epi32(out + k / 2, first((K - k + 1) / 2), row_of_words(
            _mm512_maskz_loadu_ps(first(K - k), x + k),
            _mm512_maskz_loadu_ps(first(K - k - 16), x + k + 16)));
}

static void panel_words(ptrdiff_t K, const void *panel, void *words)
{
    const float *in = panel;
    word *out = words;
    for (ptrdiff_t k = 0; k < K; k += 2, in += 2 * PANEL, out += PANEL)
        UNROLL for (int v = 0; v < PANEL; v += LANES)
            _mm512_storeu_si512(out + v, rows_of_words(
                _mm512_loadu_ps(in + v),
                k + 1 < K ? _mm512_loadu_ps(in + PANEL + v) : _mm512_setzero_ps()));
}

/* The same of 8 columns. */
static ALWAYS_INLINE __m256i rows_of_8_words(__m256 upper, __m256 lower)
{
    const __m256i order
        = _mm256_set_epi16(15, 7, 14, 6, 13, 5, 12, 4, 11, 3, 10, 2, 9, 1, 8, 0);
    return _mm256_permutexvar_epi16(order, (__m256i)_mm256_cvtne2ps_pbh(upper, lower));
}

static void pack_tiles(ptrdiff_t K, ptrdiff_t M, ptrdiff_t height, const void *source,
                       ptrdiff_t in_row, void *target)
{
    const float *in = source;
    word *out = target;
    const ptrdiff_t words = (K + 1) / 2;
    for (ptrdiff_t begin = 0; begin < words; begin += AHEAD / 2)
        for (ptrdiff_t m = 0; m < M; m += height) {
            const ptrdiff_t end = begin + AHEAD / 2 < words ? begin + AHEAD / 2 : words;
            const __mmask16 rows = first(M - m < height ? M - m : height);
            const float *a = in + 2 * begin * in_row + m;
            word *to = out + m * words + begin * height;
            ptrdiff_t k = begin;
            if (height == TILE_ROWS && m + 8 <= M) /* what is too much, the next word writes over */
                for (; k < end - 1; k++, a += 2 * in_row, to += TILE_ROWS) {
                    __builtin_prefetch(a + AHEAD * in_row); /* see operands.h */
                    __builtin_prefetch(a + (AHEAD + 1) * in_row);
                    _mm256_storeu_si256((__m256i *)to, rows_of_8_words(
                        _mm256_loadu_ps(a), _mm256_loadu_ps(a + in_row)));
                }
            for (; k < end; k++, a += 2 * in_row, to += height)
                _mm512_mask_storeu_epi32(to, rows, rows_of_words(
                    _mm512_maskz_loadu_ps(rows, a),
                    2 * k + 1 < K ? _mm512_maskz_loadu_ps(rows, a + in_row) : _mm512_setzero_ps()));
        }
}

#define SPREAD(x) ((vec)_mm512_set1_epi32((int)bits_of(x)))
#define MULTIPLY_ADD(sum, a, b)                                                                   \
    ((vec)_mm512_dpbf16_ps((__m512)(sum), (__m512bh)(a), (__m512bh)(b)))

/* packed */
#define FN(name) name##_packed
#define ROWS_TOGETHER 2
#define B_VECTOR(place, row) (*(const vec *)(place))
#define B_LAST(place) B_VECTOR(place, 0)
#include "tile.h"
#undef FN
#undef ROWS_TOGETHER
#undef B_VECTOR
#undef B_LAST

/* where it stands */
#define FN(name) name##_standing
#define ROWS_TOGETHER 1
#define B_VECTOR(place, row)                                                                      \
    ((vec)rows_of_words(_mm512_loadu_ps(place), _mm512_loadu_ps((place) + (row))))
#define B_LAST(place) ((vec)rows_of_words(_mm512_loadu_ps(place), _mm512_setzero_ps()))
#define A_VECTOR(place) (*(const vec *)(place))
#define A_END(place, n) ((vec)_mm512_maskz_loadu_epi32(first(((n) + 1) / 2), place))
#define COLUMN(place) ((vec)row_of_words(_mm512_loadu_ps(place), _mm512_loadu_ps((place) + 16)))
#define COLUMN_END(place, n)                                                                      \
    ((vec)row_of_words(_mm512_maskz_loadu_ps(first(n), place),                                    \
                       _mm512_maskz_loadu_ps(first((n) - 16), (place) + 16)))
#include "lanes.h"
#include "tile.h"
#include "dots.h"

static const simd_operands packed = {
    .together = TOGETHER,
    .rows_together = 2,
    .panels_at_once = panels_at_once_packed,
    .tile = tile_packed,
    .row_words = row_words,
    .panel_words = panel_words,
    .pack_tiles = pack_tiles,
};

static const simd_operands standing = {
    .together = TOGETHER,
    .rows_together = 1,
    .panels_at_once = panels_at_once_standing,
    .tile = tile_standing,
    .one_row = one_row_standing,
    .dots = dots_standing,
    .row_words = row_words,
};

extern const simd_table simd_avx512_f32, simd_avx512_f64;

const simd_level LEVEL = {
    "avx512_bf16", {[SIMD_FLOAT] = &simd_avx512_f32, [SIMD_DOUBLE] = &simd_avx512_f64},
    &packed, &standing,
};
