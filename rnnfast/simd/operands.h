/* Operands of products whose words are single numbers: as they are, or rounded, as ROUND says. (Words of two
 * numbers are made in avx512_bf16.c.) Included once for each kind of them, with TOGETHER 1.
 *
 *     TOGETHER 1    a number; of a rounded one the lower half is 0
 *     TOGETHER 2    two bf16 numbers that follow each other along k, the first one in the upper half:
 *
 *         row of A    | k=0,1 | k=2,3 | ...            panel of B    row 0    | k=0,1 of column 0 | ...
 *                                                                    row 1    | k=2,3 of column 0 | ...
 *
 * There the product of the upper halves is added first, so that sums go in the order of k. Where K is odd,
 * the last lower half is 0.
 */

/* A row of K numbers. */
static void FN(row_words)(ptrdiff_t K, const void *row, void *words)
{
    const real *restrict x = row;
    real *restrict out = words;
    for (ptrdiff_t k = 0; k < K; k++)
        out[k] = ROUND(x[k]);
}

/* K rows of a panel, whose memory may be that of the words. */
static void FN(panel_words)(ptrdiff_t K, const void *panel, void *words)
{
    const real *x = panel;
    real *out = words;
    INDEPENDENT
    for (ptrdiff_t j = 0; j < K * PANEL; j++)
        out[j] = ROUND(x[j]);
}

/* The transpose of A = in (K, M) for tiles of `height` rows: of each tile the numbers that belong
 * to the same k, for all k, side by side; tiles height K apart. Some k at a time, whose lines stay
 * in the first-level cache; those of the next k are asked for, since hardware does not foresee them. */
static void FN(pack_tiles)(ptrdiff_t K, ptrdiff_t M, ptrdiff_t height, const void *source,
                           ptrdiff_t in_row, void *target)
{
    const real *restrict in = source;
    real *restrict out = target;
    for (ptrdiff_t first = 0; first < K; first += AHEAD) {
        const ptrdiff_t last = first + AHEAD < K ? first + AHEAD : K;
        for (ptrdiff_t m = 0; m < M; m += height) {
            const real *a = in + first * in_row + m;
            real *to = out + m * K + first * height;
            const ptrdiff_t rows = M - m < height ? M - m : height;
            if (rows == TILE_ROWS)
                for (ptrdiff_t k = first; k < last; k++, a += in_row, to += TILE_ROWS) {
                    __builtin_prefetch(a + AHEAD * in_row);
                    UNROLL for (int r = 0; r < TILE_ROWS; r++)
                        to[r] = ROUND(a[r]);
                }
            else
                for (ptrdiff_t k = first; k < last; k++, a += in_row, to += height)
                    for (ptrdiff_t r = 0; r < rows; r++)
                        to[r] = ROUND(a[r]);
        }
    }
}
