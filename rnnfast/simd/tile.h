/* The tile: the only matrix product of the library. Included by level.h, once for each `real`.
 *
 *     C[m, n] = init[m, n] + sum over k of A[m, k] B[k, n]
 *
 * for as many rows and vectors of columns as fit into registers: on AVX-512, 6 rows by 4 vectors
 * are 24 sums, which with 6 numbers of A and one vector of B fill 31 of the 32 registers.
 *
 * - A is read number by number through strides: row m and index k stand at
 *   A[m a_row + (k mod a_width) a_k + (k div a_width) a_block], so that A may be a matrix of rows,
 *   one packed for its tiles, or a row of panels.
 * - B is a panel: 4 L contiguous numbers for each k; panels are b_panel apart.
 * - init may be C itself (adding to it), a bias (init_row 0), or zeros.
 *
 * Every number of C is summed in the order of k, one multiply-add after the other, whatever the
 * shape of the tile: results do not depend on how rows are dealt out to tiles and threads.
 */

#define PANEL (RNNFAST_VECTORS * LANES)

typedef real FN(vec) __attribute__((vector_size(VECTOR_BYTES), aligned(sizeof(real)), may_alias));
#define vec FN(vec)

/* R rows by P panels by V vectors; R, P and V are constants wherever this is called. */
static inline __attribute__((always_inline)) void FN(tile_body)(
    const int R, const int P, const int V, ptrdiff_t K, const real *restrict A, ptrdiff_t a_row,
    ptrdiff_t a_k, ptrdiff_t a_width, ptrdiff_t a_block, const real *restrict B,
    ptrdiff_t b_panel, const real *init, ptrdiff_t init_row, ptrdiff_t init_panel, real *C,
    ptrdiff_t c_row, ptrdiff_t c_panel)
{
    vec sum[TILE_ROWS * RNNFAST_VECTORS + 8]; /* the first R P V of them, all in registers */
    const int width = P * V;
    UNROLL for (int r = 0; r < R; r++)
        UNROLL for (int v = 0; v < width; v++)
            sum[r * width + v]
                = *(const vec *)(init + r * init_row + v / V * init_panel + v % V * LANES);
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
            UNROLL for (int v = 0; v < width; v++) {
                const vec b = *(const vec *)(B + v / V * b_panel + v % V * LANES);
                UNROLL for (int r = 0; r < R; r++)
                    sum[r * width + v] += a_r[r] * b;
            }
        }
    }
    UNROLL for (int r = 0; r < R; r++)
        UNROLL for (int v = 0; v < width; v++)
            *(vec *)(C + r * c_row + v / V * c_panel + v % V * LANES) = sum[r * width + v];
}

typedef void FN(tile_function)(ptrdiff_t K, const real *A, ptrdiff_t a_row, ptrdiff_t a_k,
                               ptrdiff_t a_width, ptrdiff_t a_block, const real *B,
                               ptrdiff_t b_panel, const real *init, ptrdiff_t init_row,
                               ptrdiff_t init_panel, real *C, ptrdiff_t c_row, ptrdiff_t c_panel);

/* Out of line on purpose: inlined into a larger function, the sums end up in memory. */
#define DEFINE_TILE(R, P, V)                                                                      \
    static __attribute__((noinline)) void FN(tile_##R##x##P##x##V)(                               \
        ptrdiff_t K, const real *A, ptrdiff_t a_row, ptrdiff_t a_k, ptrdiff_t a_width,            \
        ptrdiff_t a_block, const real *B, ptrdiff_t b_panel, const real *init,                    \
        ptrdiff_t init_row, ptrdiff_t init_panel, real *C, ptrdiff_t c_row, ptrdiff_t c_panel)    \
    {                                                                                             \
        FN(tile_body)(R, P, V, K, A, a_row, a_k, a_width, a_block, B, b_panel, init, init_row,    \
                      init_panel, C, c_row, c_panel);                                             \
    }
#define DEFINE_ROWS(R) \
    DEFINE_TILE(R, 1, 1) DEFINE_TILE(R, 1, 2) DEFINE_TILE(R, 1, 3) DEFINE_TILE(R, 1, 4)
#define ROWS(R) {FN(tile_##R##x1x1), FN(tile_##R##x1x2), FN(tile_##R##x1x3), FN(tile_##R##x1x4)}

DEFINE_ROWS(1)
DEFINE_ROWS(2)
DEFINE_TILE(1, 2, 4)
#if TILE_ROWS >= 3
DEFINE_ROWS(3)
#endif
#if TILE_ROWS >= 6
DEFINE_ROWS(4)
DEFINE_ROWS(5)
DEFINE_ROWS(6)
DEFINE_TILE(1, 4, 4)
DEFINE_TILE(2, 2, 4)
DEFINE_TILE(3, 2, 4)
#endif

static FN(tile_function) *const FN(tiles)[TILE_ROWS][RNNFAST_VECTORS] = {
    ROWS(1), ROWS(2),
#if TILE_ROWS >= 3
    ROWS(3),
#endif
#if TILE_ROWS >= 6
    ROWS(4), ROWS(5), ROWS(6),
#endif
};

static ptrdiff_t FN(panels_at_once)(ptrdiff_t rows)
{
#if TILE_ROWS >= 6
    return rows == 1 ? 4 : rows <= 3 ? 2 : 1;
#else
    return rows == 1 ? 2 : 1;
#endif
}

static FN(tile_function) *FN(wide_tile)(ptrdiff_t rows, ptrdiff_t panels)
{
#if TILE_ROWS >= 6
    if (panels == 4)
        return FN(tile_1x4x4);
    if (rows >= 2)
        return rows == 2 ? FN(tile_2x2x4) : FN(tile_3x2x4);
#endif
    (void)rows, (void)panels;
    return FN(tile_1x2x4);
}

/* `columns` is how many columns of C exist: less than a panel only where `panels` is 1. */
static void FN(tile)(ptrdiff_t rows, ptrdiff_t panels, ptrdiff_t columns, ptrdiff_t K,
                     const real *A, ptrdiff_t a_row, ptrdiff_t a_k, ptrdiff_t a_width,
                     ptrdiff_t a_block, const real *B, ptrdiff_t b_panel, const real *init,
                     ptrdiff_t init_row, ptrdiff_t init_panel, real *C, ptrdiff_t c_row,
                     ptrdiff_t c_panel)
{
    const ptrdiff_t vectors = (columns + LANES - 1) / LANES;
    if (panels > 1)
        FN(wide_tile)(rows, panels)(K, A, a_row, a_k, a_width, a_block, B, b_panel, init,
                                    init_row, init_panel, C, c_row, c_panel);
    else if (columns % LANES == 0)
        FN(tiles)[rows - 1][vectors - 1](K, A, a_row, a_k, a_width, a_block, B, b_panel, init,
                                         init_row, init_panel, C, c_row, c_panel);
    else { /* the last vector reaches beyond the columns: by way of a copy */
        real copy[TILE_ROWS * PANEL];
        memset(copy, 0, sizeof copy);
        for (ptrdiff_t r = 0; r < rows; r++)
            memcpy(copy + r * PANEL, init + r * init_row, columns * sizeof(real));
        FN(tiles)[rows - 1][vectors - 1](K, A, a_row, a_k, a_width, a_block, B, b_panel, copy,
                                         PANEL, 0, copy, PANEL, 0);
        for (ptrdiff_t r = 0; r < rows; r++)
            memcpy(C + r * c_row, copy + r * PANEL, columns * sizeof(real));
    }
}

#undef vec
#undef DEFINE_TILE
#undef DEFINE_ROWS
#undef ROWS
