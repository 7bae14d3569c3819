/* The tile: the only matrix product of the library. Included by level.h, once for each `real`.
 *
 *     C[m, n] = init[m, n] + sum over k of A[m, k] B[k, n]
 *
 * for as many rows and vectors of columns as fit into registers: on AVX-512, 6 rows by 4 vectors
 * are 24 sums, which with 6 numbers of A and one vector of B fill 31 of the 32 registers.
 *
 * - A is read number by number through strides: see simd_walk.
 * - B is a panel: 4 L contiguous numbers for each k.
 * - init may be C itself (adding to it), a bias, or zeros. Where there is a `plus`, it is added at
 *   the end: for sums that are made of parts.
 *
 * Every number of C is summed in the order of k, one multiply-add after the other, whatever the
 * shape of the tile: results do not depend on how rows are dealt out to tiles and threads.
 */

typedef real FN(vec) __attribute__((vector_size(VECTOR_BYTES), aligned(sizeof(real)), may_alias));
#define vec FN(vec)

typedef struct {
    real *data;
    ptrdiff_t row, panel, vector;
} FN(tile_place);

static inline __attribute__((always_inline)) FN(tile_place) FN(place_of)(const simd_panels *panels)
{
    return (FN(tile_place)){panels->at, panels->row, panels->panel, panels->vector};
}

static inline __attribute__((always_inline)) vec *FN(vector_at)(
    FN(tile_place) at, ptrdiff_t r, ptrdiff_t panel, ptrdiff_t v)
{
    return (vec *)(at.data + r * at.row + panel * at.panel + v * at.vector);
}

/* R rows by P panels by V vectors; R, P and V are constants wherever this is called. */
static inline __attribute__((always_inline)) void FN(tile_body)(
    const int R, const int P, const int V, ptrdiff_t K, const simd_walk *walk,
    const simd_panels *in, const simd_panels *init, const simd_panels *plus,
    const simd_panels *out)
{
    vec sum[TILE_ROWS * SIMD_VECTORS];    /* the first R P V of them, all in registers */
    const int vectors = P * V;
    const real *restrict A = walk->at;
    const real *restrict B = in->at;
    const ptrdiff_t a_row = walk->row, a_k = walk->k_stride, a_width = walk->width;
    const ptrdiff_t a_block = walk->block, b_panel = in->panel;
    FN(tile_place) at = FN(place_of)(init);
    UNROLL for (int r = 0; r < R; r++)
        UNROLL for (int v = 0; v < vectors; v++)
            sum[r * vectors + v] = *FN(vector_at)(at, r, v / V, v % V);
    for (; K > 0; K -= a_width, A += a_block) {
        const real *a = A;
        if (K > a_width) /* the same rows of the next panel: further away than hardware foresees */
            UNROLL for (int r = 0; r < R; r++)
                for (size_t j = 0; j < sizeof(real[PANEL]); j += 64)
                    __builtin_prefetch((const char *)(A + a_block + r * a_row) + j, 0, 2);
        for (ptrdiff_t k = K < a_width ? K : a_width; k > 0; k--, a += a_k, B += PANEL) {
            vec a_r[TILE_ROWS];
            UNROLL for (int r = 0; r < R; r++)
                a_r[r] = a[r * a_row] - (vec){0};
            UNROLL for (int v = 0; v < vectors; v++) {
                const vec b = *(const vec *)(B + v / V * b_panel + v % V * LANES);
                UNROLL for (int r = 0; r < R; r++)
                    sum[r * vectors + v] += a_r[r] * b;
            }
        }
    }
    if (plus) {
        at = FN(place_of)(plus);
        UNROLL for (int r = 0; r < R; r++)
            UNROLL for (int v = 0; v < vectors; v++)
                sum[r * vectors + v] += *FN(vector_at)(at, r, v / V, v % V);
    }
    at = FN(place_of)(out);
    UNROLL for (int r = 0; r < R; r++)
        UNROLL for (int v = 0; v < vectors; v++)
            *FN(vector_at)(at, r, v / V, v % V) = sum[r * vectors + v];
}

typedef void FN(tile_function)(ptrdiff_t K, const simd_walk *A, const simd_panels *B,
                               const simd_panels *init, const simd_panels *plus,
                               const simd_panels *C);

/* Out of line on purpose: inlined into a larger function, the sums end up in memory. */
#define DEFINE_TILE(R, P, V)                                                                      \
    static __attribute__((noinline)) void FN(tile_##R##x##P##x##V)(                               \
        ptrdiff_t K, const simd_walk *A, const simd_panels *B, const simd_panels *init,           \
        const simd_panels *plus, const simd_panels *C)                                            \
    {                                                                                             \
        FN(tile_body)(R, P, V, K, A, B, init, plus, C);                                           \
    }
#define DEFINE_ROWS(R) \
    DEFINE_TILE(R, 1, 1) DEFINE_TILE(R, 1, 2) DEFINE_TILE(R, 1, 3) DEFINE_TILE(R, 1, 4)
#define ROWS(R) {FN(tile_##R##x1x1), FN(tile_##R##x1x2), FN(tile_##R##x1x3), FN(tile_##R##x1x4)}

/* Tiles of one panel, of 1 to TILE_ROWS rows, and those of more panels that have no more sums. */
DEFINE_ROWS(1)
DEFINE_ROWS(2)
DEFINE_TILE(1, 2, 4)
#if TILE_ROWS >= 3
DEFINE_ROWS(3)
#endif
#if TILE_ROWS >= 4
DEFINE_ROWS(4)
DEFINE_TILE(1, 4, 4)
DEFINE_TILE(2, 2, 4)
#endif
#if TILE_ROWS >= 5
DEFINE_ROWS(5)
#endif
#if TILE_ROWS >= 6
DEFINE_ROWS(6)
DEFINE_TILE(3, 2, 4)
#endif

static FN(tile_function) *const FN(tiles)[TILE_ROWS][SIMD_VECTORS] = {
    ROWS(1), ROWS(2),
#if TILE_ROWS >= 3
    ROWS(3),
#endif
#if TILE_ROWS >= 4
    ROWS(4),
#endif
#if TILE_ROWS >= 5
    ROWS(5),
#endif
#if TILE_ROWS >= 6
    ROWS(6),
#endif
};

static ptrdiff_t FN(panels_at_once)(ptrdiff_t rows)
{
    return rows * 4 <= TILE_ROWS ? 4 : rows * 2 <= TILE_ROWS ? 2 : 1;
}

static FN(tile_function) *FN(wide_tile)(ptrdiff_t rows, ptrdiff_t panels)
{
#if TILE_ROWS >= 4
    if (panels == 4)
        return FN(tile_1x4x4);
    if (rows == 2)
        return FN(tile_2x2x4);
#endif
#if TILE_ROWS >= 6
    if (rows == 3)
        return FN(tile_3x2x4);
#endif
    (void)rows, (void)panels;
    return FN(tile_1x2x4);
}

/* The numbers of some columns from one place to another. */
static void FN(copy_columns)(ptrdiff_t rows, ptrdiff_t columns, const simd_panels *from,
                             const simd_panels *to)
{
    for (ptrdiff_t r = 0; r < rows; r++)
        memcpy((real *)to->at + r * to->row, (const real *)from->at + r * from->row,
               columns * sizeof(real));
}

/* `columns` is how many columns of C exist: less than a panel only where `panels` is 1, and then
 * vectors stand side by side. */
static void FN(tile)(ptrdiff_t rows, ptrdiff_t panels, ptrdiff_t columns, ptrdiff_t K,
                     const simd_walk *A, const simd_panels *B, const simd_panels *init,
                     const simd_panels *plus, const simd_panels *C)
{
    const ptrdiff_t vectors = (columns + LANES - 1) / LANES;
    if (panels > 1)
        FN(wide_tile)(rows, panels)(K, A, B, init, plus, C);
    else if (columns % LANES == 0)
        FN(tiles)[rows - 1][vectors - 1](K, A, B, init, plus, C);
    else { /* the last vector reaches beyond the columns: by way of copies */
        real from[TILE_ROWS * PANEL], more[TILE_ROWS * PANEL];
        const simd_panels start = {from, PANEL, 0, LANES}, end = {more, PANEL, 0, LANES};
        for (ptrdiff_t r = 0; r < rows; r++)
            for (int j = 0; j < LANES; j++)
                from[r * PANEL + (vectors - 1) * LANES + j]
                    = more[r * PANEL + (vectors - 1) * LANES + j] = 0;
        FN(copy_columns)(rows, columns, init, &start);
        if (plus)
            FN(copy_columns)(rows, columns, plus, &end);
        FN(tiles)[rows - 1][vectors - 1](K, A, B, &start, plus ? &end : NULL, &start);
        FN(copy_columns)(rows, columns, &start, C);
    }
}

#undef vec
#undef DEFINE_TILE
#undef DEFINE_ROWS
#undef ROWS
