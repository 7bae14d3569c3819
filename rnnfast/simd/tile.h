/* The tile: the inner loop of all matrix products but those by columns (dots.h). Included by
 * real.h, once for each `real`, and for rounded operands by rounded.h and avx512_bf16.c. They define what
 * a word is (see operands.h) and what is done with it: TOGETHER and ROWS_TOGETHER as in simd.h, SPREAD, a
 * word in all lanes, B_VECTOR, a vector of B from a place on, B_LAST, the same where only the first of
 * its rows is there, and MULTIPLY_ADD.
 *
 *     C[m, n] = init[m, n] + sum over k of A[m, k] B[k, n]
 *
 * for as many rows and vectors of columns as fit into registers: on AVX-512, 6 rows by 4 vectors
 * are 24 sums, which with 6 numbers of A and one vector of B fill 31 of the 32 registers.
 *
 * - A is read number by number through strides: see simd_walk.
 * - B is a panel, or up to 4 of them, packed or where they stand: 4 vectors for each k.
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

static ALWAYS_INLINE FN(tile_place) FN(place_of)(const simd_panels *panels)
{
    return (FN(tile_place)){panels->at, panels->row, panels->panel, panels->vector};
}

static ALWAYS_INLINE vec *FN(vector_at)(
    FN(tile_place) at, ptrdiff_t r, ptrdiff_t v)
{
    return (vec *)(at.data + r * at.row + v / SIMD_VECTORS * at.panel
                   + v % SIMD_VECTORS * at.vector);
}

/* Rows of B that a word of A meets. */
#define B_STEP (TOGETHER / ROWS_TOGETHER)

/* R rows by V vectors, 4 in a panel; R and V are constants wherever this is called. */
static ALWAYS_INLINE void FN(tile_body)(
    const int R, const int V, ptrdiff_t K, const simd_walk *walk,
    const simd_panels *in, const simd_panels *init, const simd_panels *plus,
    const simd_panels *out)
{
    vec sum[TILE_ROWS * SIMD_VECTORS];    /* the first R V of them, all in registers */
    const real *restrict A = walk->at;
    const real *restrict B[4];            /* of each panel */
    const ptrdiff_t a_row = walk->row, a_k = walk->k_stride, a_width = walk->width;
    const ptrdiff_t a_block = walk->block;
    const ptrdiff_t b_row = in->row, b_vector = in->vector;
    UNROLL for (int v = 0; v < V; v += SIMD_VECTORS)
        B[v / SIMD_VECTORS] = (const real *)in->at + v / SIMD_VECTORS * in->panel;
    FN(tile_place) at = FN(place_of)(init);
    UNROLL for (int r = 0; r < R; r++)
        UNROLL for (int v = 0; v < V; v++)
            sum[r * V + v] = *FN(vector_at)(at, r, v);
    /* words of which all rows are there: packed ones are filled up */
    ptrdiff_t words = (K + ROWS_TOGETHER - 1) / TOGETHER;
    const ptrdiff_t whole = words;
    for (; words > 0; words -= a_width, A += a_block) {
        const real *a = A;
        if (words > a_width) /* the same rows of the next panel: further away than hardware foresees */
            UNROLL for (int r = 0; r < R; r++)
                for (size_t j = 0; j < sizeof(real[PANEL]) / TOGETHER; j += 64)
                    __builtin_prefetch((const char *)(A + a_block + r * a_row) + j, 0, 2);
        for (ptrdiff_t k = words < a_width ? words : a_width; k > 0; k--, a += a_k) {
            vec a_r[TILE_ROWS];
            UNROLL for (int r = 0; r < R; r++)
                a_r[r] = SPREAD(a[r * a_row]);
            UNROLL for (int v = 0; v < V; v++) {
                const vec b = B_VECTOR(B[v / SIMD_VECTORS] + v % SIMD_VECTORS * b_vector, b_row);
                UNROLL for (int r = 0; r < R; r++)
                    sum[r * V + v] = MULTIPLY_ADD(sum[r * V + v], a_r[r], b);
            }
            UNROLL for (int v = 0; v < V; v += SIMD_VECTORS)
                B[v / SIMD_VECTORS] += B_STEP * b_row;
        }
    }
    if (B_STEP > 1 && K % TOGETHER) { /* rows of A are contiguous then */
        const real *a = (const real *)walk->at + whole * a_k;
        UNROLL for (int v = 0; v < V; v++) {
            const vec b = B_LAST(B[v / SIMD_VECTORS] + v % SIMD_VECTORS * b_vector);
            UNROLL for (int r = 0; r < R; r++)
                sum[r * V + v] = MULTIPLY_ADD(sum[r * V + v], SPREAD(a[r * a_row]), b);
        }
    }
    if (plus) {
        at = FN(place_of)(plus);
        UNROLL for (int r = 0; r < R; r++)
            UNROLL for (int v = 0; v < V; v++)
                sum[r * V + v] += *FN(vector_at)(at, r, v);
    }
    at = FN(place_of)(out);
    UNROLL for (int r = 0; r < R; r++)
        UNROLL for (int v = 0; v < V; v++)
            *FN(vector_at)(at, r, v) = sum[r * V + v];
}

typedef void FN(tile_function)(ptrdiff_t K, const simd_walk *A, const simd_panels *B,
                               const simd_panels *init, const simd_panels *plus,
                               const simd_panels *C);

/* Out of line on purpose: inlined into a larger function, the sums end up in memory. */
#define DEFINE_TILE(R, V)                                                                         \
    static __attribute__((noinline)) void FN(tile_##R##x##V)(                                     \
        ptrdiff_t K, const simd_walk *A, const simd_panels *B, const simd_panels *init,           \
        const simd_panels *plus, const simd_panels *C)                                            \
    {                                                                                             \
        FN(tile_body)(R, V, K, A, B, init, plus, C);                                              \
    }
#define DEFINE_4(R, A, B, C, D) \
    DEFINE_TILE(R, A) DEFINE_TILE(R, B) DEFINE_TILE(R, C) DEFINE_TILE(R, D)
#define TILES_4(R, A, B, C, D) \
    FN(tile_##R##x##A), FN(tile_##R##x##B), FN(tile_##R##x##C), FN(tile_##R##x##D)

/* Tiles of 1 to TILE_ROWS rows by up to a panel, and by more panels where there are few rows: so
 * that enough sums are in flight to hide the latency of a multiply-add. */
DEFINE_4(1, 1, 2, 3, 4)
DEFINE_4(1, 5, 6, 7, 8)
DEFINE_4(2, 1, 2, 3, 4)
#if TILE_ROWS >= 3
DEFINE_4(3, 1, 2, 3, 4)
#endif
#if TILE_ROWS >= 4
DEFINE_4(1, 9, 10, 11, 12)
DEFINE_4(1, 13, 14, 15, 16)
DEFINE_4(2, 5, 6, 7, 8)
DEFINE_4(4, 1, 2, 3, 4)
#endif
#if TILE_ROWS >= 5
DEFINE_4(5, 1, 2, 3, 4)
#endif
#if TILE_ROWS >= 6
DEFINE_4(3, 5, 6, 7, 8)
DEFINE_4(6, 1, 2, 3, 4)
#endif

static FN(tile_function) *const FN(tiles)[TILE_ROWS][4 * SIMD_VECTORS] = {
#if TILE_ROWS >= 4
    {TILES_4(1, 1, 2, 3, 4), TILES_4(1, 5, 6, 7, 8), TILES_4(1, 9, 10, 11, 12),
     TILES_4(1, 13, 14, 15, 16)},
    {TILES_4(2, 1, 2, 3, 4), TILES_4(2, 5, 6, 7, 8)},
#else
    {TILES_4(1, 1, 2, 3, 4), TILES_4(1, 5, 6, 7, 8)},
    {TILES_4(2, 1, 2, 3, 4)},
#endif
#if TILE_ROWS >= 6
    {TILES_4(3, 1, 2, 3, 4), TILES_4(3, 5, 6, 7, 8)},
#elif TILE_ROWS >= 3
    {TILES_4(3, 1, 2, 3, 4)},
#endif
#if TILE_ROWS >= 4
    {TILES_4(4, 1, 2, 3, 4)},
#endif
#if TILE_ROWS >= 5
    {TILES_4(5, 1, 2, 3, 4)},
#endif
#if TILE_ROWS >= 6
    {TILES_4(6, 1, 2, 3, 4)},
#endif
};

static ptrdiff_t FN(panels_at_once)(ptrdiff_t rows)
{
    return rows * 4 <= TILE_ROWS ? 4 : rows * 2 <= TILE_ROWS ? 2 : 1;
}

/* The numbers of some columns from one place to another. */
static void FN(copy_columns)(ptrdiff_t rows, ptrdiff_t columns, const simd_panels *from,
                             const simd_panels *to)
{
    for (ptrdiff_t r = 0; r < rows; r++)
        for (ptrdiff_t p = 0; p * PANEL < columns; p++)
            memcpy((real *)to->at + r * to->row + p * to->panel,
                   (const real *)from->at + r * from->row + p * from->panel,
                   (columns - p * PANEL < PANEL ? columns - p * PANEL : PANEL) * sizeof(real));
}

/* `columns` is how many columns of C exist, at most panels_at_once(rows) panels. Only matrices whose
 * 4 vectors stand side by side may end within a vector; gates that are summed in their place, and
 * stand apart, have whole ones. */
static void FN(tile)(ptrdiff_t rows, ptrdiff_t columns, ptrdiff_t K, const simd_walk *A,
                     const simd_panels *B, const simd_panels *init, const simd_panels *plus,
                     const simd_panels *C)
{
    const ptrdiff_t vectors = (columns + LANES - 1) / LANES;
    FN(tile_function) *const function = FN(tiles)[rows - 1][vectors - 1];
    if (columns % LANES == 0)
        function(K, A, B, init, plus, C);
    else { /* by way of copies */
        real from[TILE_ROWS * PANEL], more[TILE_ROWS * PANEL];
        const simd_panels start = {from, vectors * LANES, PANEL, LANES};
        const simd_panels end = {more, vectors * LANES, PANEL, LANES};
        for (ptrdiff_t r = 0; r < rows; r++)
            for (ptrdiff_t j = columns / LANES * LANES; j < vectors * LANES; j++)
                from[r * vectors * LANES + j] = more[r * vectors * LANES + j] = 0;
        FN(copy_columns)(rows, columns, init, &start);
        if (plus)
            FN(copy_columns)(rows, columns, plus, &end);
        function(K, A, B, &start, plus ? &end : NULL, &start);
        FN(copy_columns)(rows, columns, &start, C);
    }
}

#if ROWS_TOGETHER == 1 /* one row is never multiplied with packed words of two */
/* R words of one row of A times the rows of B that they meet, from end to end: where they come from no
 * small cache, this is faster than the short pieces that a tile reads. Panels have one vector of each
 * gate. `last`: a word of which only the first row is there. */
static ALWAYS_INLINE void FN(add_rows)(
    const int R, const int last, ptrdiff_t gates, ptrdiff_t panels, const real *A, const real *B,
    const simd_panels *in, const simd_panels *init, const simd_panels *out)
{
    const ptrdiff_t b_row = in->row, from_next = init->panel, to_next = out->panel;
    vec a[8];
    UNROLL for (int r = 0; r < R; r++)
        a[r] = SPREAD(A[r]);
    for (ptrdiff_t g = 0; g < gates; g++) {
        const real *b = B + g * in->vector, *from = (const real *)init->at + g * init->vector;
        real *to = (real *)out->at + g * out->vector;
        for (ptrdiff_t p = 0; p < panels; p++, b += LANES, from += from_next, to += to_next) {
            vec sum = *(const vec *)from;
            UNROLL for (int r = 0; r < R; r++)
                sum = MULTIPLY_ADD(sum, a[r],
                                   last ? B_LAST(b) : B_VECTOR(b + r * B_STEP * b_row, b_row));
            *(vec *)to = sum;
        }
    }
}

static void FN(one_row)(ptrdiff_t gates, ptrdiff_t panels, ptrdiff_t K, const void *row,
                        const simd_panels *in, const simd_panels *init, const simd_panels *C)
{
    const real *A = row, *B = in->at;
    ptrdiff_t words = K / B_STEP;
    enum { MANY = 8 / B_STEP };           /* that are 8 rows of B */
    for (; words >= MANY; words -= MANY, A += MANY, B += 8 * in->row, init = C)
        FN(add_rows)(MANY, 0, gates, panels, A, B, in, init, C);
    for (; words >= 2; words -= 2, A += 2, B += 2 * B_STEP * in->row, init = C)
        FN(add_rows)(2, 0, gates, panels, A, B, in, init, C);
    for (; words >= 1; words--, A++, B += B_STEP * in->row, init = C)
        FN(add_rows)(1, 0, gates, panels, A, B, in, init, C);
    if (K % B_STEP)
        FN(add_rows)(1, 1, gates, panels, A, B, in, init, C);
}
#endif

#undef B_STEP
#undef vec
#undef DEFINE_TILE
#undef DEFINE_4
#undef TILES_4
