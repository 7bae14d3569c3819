/* The other product: few rows times a matrix whose columns are contiguous, such as the transpose of
 * an embedding's table, read where it stands. Included by real.h, once for each `real`, and by rounded.h.
 *
 *     C[m, j] = init[m, j] + sum over k of A[m, k] B[k, j]
 *
 * Vectors run along k, in rows of A and columns of B. So a number of C is a sum of L parts, one in
 * each lane, which are added up at the end, those of a vector of C together. It is made in the same
 * order, whatever rows and columns are beside it.
 */

typedef LANE_NUMBER FN(bits)
    __attribute__((vector_size(VECTOR_BYTES), aligned(sizeof(real)), may_alias));
#define vec FN(vec)
#define bits FN(bits)

/* The L parts of the products of R rows of A with J columns of B; R and J are constants wherever
 * this is called. */
static ALWAYS_INLINE void FN(dots_body)(
    const int R, const int J, ptrdiff_t K, const real *A, ptrdiff_t a_row, const real *B,
    ptrdiff_t b_column, vec *part)
{
    static const LANE_NUMBER ends[2 * LANES] = {[LANES ... 2 * LANES - 1] = -1};
    vec sum[LANES > TILE_ROWS * SIMD_VECTORS ? LANES : TILE_ROWS * SIMD_VECTORS];
    const real *b[LANES];                 /* every fourth column, so that few registers do */
    UNROLL for (int j = 0; j < J; j += 4)
        b[j] = B + j * b_column;
    UNROLL for (int j = 0; j < R * J; j++)
        sum[j] = (vec){0};
    ptrdiff_t k = 0;
    for (; k + LANES <= K; k += LANES) {
        vec a[TILE_ROWS];
        UNROLL for (int r = 0; r < R; r++)
            a[r] = *(const vec *)(A + r * a_row + k);
        UNROLL for (int j = 0; j < J; j++) {
            const vec b_j = OPERAND(*(const vec *)(b[j / 4 * 4] + j % 4 * b_column + k));
            UNROLL for (int r = 0; r < R; r++)
                sum[r * J + j] += a[r] * b_j;
        }
    }
    if (k < K) { /* a vector that ends where they end, without what has been added already */
        const bits last = *(const bits *)(ends + (K - k));
        bits a[TILE_ROWS];
        k = K - LANES;
        UNROLL for (int r = 0; r < R; r++)
            a[r] = *(const bits *)(A + r * a_row + k) & last;
        UNROLL for (int j = 0; j < J; j++) {
            const bits b_j
                = (bits)OPERAND(*(const vec *)(b[j / 4 * 4] + j % 4 * b_column + k)) & last;
            UNROLL for (int r = 0; r < R; r++)
                sum[r * J + j] += (vec)a[r] * (vec)b_j;
        }
    }
    UNROLL for (int r = 0; r < R; r++)
        UNROLL for (int j = 0; j < J; j++)
            part[r * LANES + j] = sum[r * J + j];
}

/* Lane j of the result is the sum of the lanes of part j: neighbours first, then pairs of them, ...
 * (as `transpose` exchanges them, see arrays.h). */
static ALWAYS_INLINE vec FN(sums_of_lanes)(vec *part)
{
#ifdef EXCHANGES
    typedef real whole __attribute__((vector_size(VECTOR_BYTES)));
    whole row[LANES];
    FN(lane_numbers) low[5], high[5];
    FN(exchanges)(low, high);
    UNROLL for (int j = 0; j < LANES; j++)
        row[j] = part[j];
    UNROLL for (int round = 0; 1 << round < LANES; round++)
        UNROLL for (int j = 0; j < LANES; j++)
            if (j % (2 << round) == 0) {
                const whole a = row[j], b = row[j + (1 << round)];
                row[j] = __builtin_shuffle(a, b, low[round]) + __builtin_shuffle(a, b, high[round]);
            }
    return row[0];
#else
    vec sums;
    for (int j = 0; j < LANES; j++) {
        for (int n = LANES / 2; n > 0; n /= 2)
            for (int i = 0; i < n; i++)
                part[j][i] = part[j][2 * i] + part[j][2 * i + 1];
        sums[j] = part[j][0];
    }
    return sums;
#endif
}

/* Columns at once for R rows: as many as fill the registers, of which a tile of TILE_ROWS rows is a
 * measure; for one row all that are added up together. */
#define AT_ONCE(R) (R == 1 ? LANES : R * 8 <= TILE_ROWS * SIMD_VECTORS && LANES >= 8 ? 8            \
                    : LANES >= 4 ? 4 : LANES)

/* R rows of a vector of C, or of its first columns. */
#define DEFINE_DOTS(R)                                                                            \
    static __attribute__((noinline)) void FN(dots_##R)(                                           \
        ptrdiff_t columns, ptrdiff_t K, const real *A, ptrdiff_t a_row, const real *B,            \
        ptrdiff_t b_column, const real *init, ptrdiff_t init_row, real *C, ptrdiff_t c_row)       \
    {                                                                                             \
        vec part[R * LANES];                                                                      \
        ptrdiff_t j = 0;                                                                          \
        if (R == 1 && columns == LANES) { /* without a loop the sums stay in registers */         \
            FN(dots_body)(R, LANES, K, A, a_row, B, b_column, part);                              \
            *(vec *)C = *(const vec *)init + FN(sums_of_lanes)(part);                             \
            return;                                                                               \
        }                                                                                         \
        for (; j + AT_ONCE(R) <= columns; j += AT_ONCE(R))                                        \
            FN(dots_body)(R, AT_ONCE(R), K, A, a_row, B + j * b_column, b_column, part + j);      \
        for (; j < columns; j++)                                                                  \
            FN(dots_body)(R, 1, K, A, a_row, B + j * b_column, b_column, part + j);               \
        for (int r = 0; r < R; r++) {                                                             \
            const vec sums = FN(sums_of_lanes)(part + r * LANES);                                 \
            if (columns == LANES)                                                                 \
                *(vec *)(C + r * c_row) = *(const vec *)(init + r * init_row) + sums;             \
            else                                                                                  \
                for (j = 0; j < columns; j++)                                                     \
                    C[r * c_row + j] = init[r * init_row + j] + sums[j];                          \
        }                                                                                         \
    }

DEFINE_DOTS(1)
DEFINE_DOTS(2)
#if TILE_ROWS >= 3
DEFINE_DOTS(3)
#endif
#if TILE_ROWS >= 4
DEFINE_DOTS(4)
#endif
#if TILE_ROWS >= 5
DEFINE_DOTS(5)
#endif
#if TILE_ROWS >= 6
DEFINE_DOTS(6)
#endif

typedef void FN(dots_function)(ptrdiff_t columns, ptrdiff_t K, const real *A, ptrdiff_t a_row,
                               const real *B, ptrdiff_t b_column, const real *init,
                               ptrdiff_t init_row, real *C, ptrdiff_t c_row);

static FN(dots_function) *const FN(dots_functions)[TILE_ROWS] = {
    FN(dots_1), FN(dots_2),
#if TILE_ROWS >= 3
    FN(dots_3),
#endif
#if TILE_ROWS >= 4
    FN(dots_4),
#endif
#if TILE_ROWS >= 5
    FN(dots_5),
#endif
#if TILE_ROWS >= 6
    FN(dots_6),
#endif
};

/* Rows of A are contiguous, as are columns of B, and these are at least L numbers. */
static void FN(dots)(ptrdiff_t rows, ptrdiff_t columns, ptrdiff_t K, const simd_walk *walk,
                     const void *in, ptrdiff_t b_column, const simd_panels *init,
                     const simd_panels *out)
{
    const ptrdiff_t tiles = (rows + TILE_ROWS - 1) / TILE_ROWS, height = (rows + tiles - 1) / tiles;
    for (ptrdiff_t j = 0; j < columns; j += LANES)
        for (ptrdiff_t m = 0; m < rows; m += height)
            FN(dots_functions)[(rows - m < height ? rows - m : height) - 1](
                columns - j < LANES ? columns - j : LANES, K,
                (const real *)walk->at + m * walk->row, walk->row,
                (const real *)in + j * b_column, b_column,
                (const real *)init->at + m * init->row + (init->vector ? j : 0), init->row,
                (real *)out->at + m * out->row + j, out->row);
}

#undef vec
#undef bits
#undef DEFINE_DOTS
#undef AT_ONCE
