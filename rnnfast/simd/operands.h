/* Operands of products, in words of as many bytes as a number. Included once for each kind of them, by
 * whoever defines TOGETHER, how many numbers a word holds, and ROUND, what becomes of a number.
 *
 *     TOGETHER 1    a number; for rounded operands, one whose lower half is 0
 *     TOGETHER 2    two bf16 numbers that follow each other along k, the first one in the upper half:
 *
 *         row of A    | k=0,1 | k=2,3 | ...             panel of B, row 0    | k=0,1 of column 0 | ...
 *                                                                  row 1    | k=2,3 of column 0 | ...
 *
 * The product of the upper halves is added first, so that sums go in the order of k. Where K is odd, the
 * last lower half is 0.
 */
#if TOGETHER == 2
typedef uint32_t __attribute__((may_alias)) FN(word);
#define WORD(first, second) (bits_of(ROUND(first)) | bits_of(ROUND(second)) >> 16)
#else
typedef real FN(word);
#define WORD(first, second) ((void)(second), ROUND(first))
#endif
#define word FN(word)

/* A row of K numbers. */
static void FN(row_words)(ptrdiff_t K, const void *row, void *words)
{
    const real *restrict x = row;
    word *restrict out = words;
    const ptrdiff_t whole = K / TOGETHER;
    for (ptrdiff_t k = 0; k < whole; k++)
        out[k] = WORD(x[k * TOGETHER], x[k * TOGETHER + TOGETHER - 1]);
    if (whole * TOGETHER < K)
        out[whole] = WORD(x[K - 1], 0);
}

/* K rows of a panel, whose memory may be that of the words. */
static void FN(panel_words)(ptrdiff_t K, const void *panel, void *words)
{
    for (ptrdiff_t k = 0; k < K; k += TOGETHER) {
        const real *first = (const real *)panel + k * PANEL;
        const real *second = first + (TOGETHER - 1) * PANEL;
        word *out = (word *)words + k / TOGETHER * PANEL;
        if (k + TOGETHER <= K) {
            INDEPENDENT
            for (ptrdiff_t j = 0; j < PANEL; j++)
                out[j] = WORD(first[j], second[j]);
        } else {
            INDEPENDENT
            for (ptrdiff_t j = 0; j < PANEL; j++)
                out[j] = WORD(first[j], 0);
        }
    }
}

/* The transpose of A = in (K, M) for tiles of `height` rows: of each tile the numbers that belong
 * to the same k, for all k, side by side; tiles height K apart. Some k at a time, whose lines stay
 * in the first-level cache. */
static void FN(pack_tiles)(ptrdiff_t K, ptrdiff_t M, ptrdiff_t height, const void *source,
                           ptrdiff_t in_row, void *target)
{
    const real *restrict in = source;
    word *restrict out = target;
    const ptrdiff_t words = (K + TOGETHER - 1) / TOGETHER, whole = K / TOGETHER;
    for (ptrdiff_t first = 0; first < words; first += 64 / TOGETHER) {
        const ptrdiff_t end = first + 64 / TOGETHER, last = end < whole ? end : whole;
        for (ptrdiff_t m = 0; m < M; m += height) {
            const real *a = in + first * TOGETHER * in_row + m;
            word *to = out + m * words + first * height;
            const ptrdiff_t rows = M - m < height ? M - m : height;
            ptrdiff_t k = first;
            if (rows == TILE_ROWS)
                for (; k < last; k++, a += TOGETHER * in_row, to += TILE_ROWS)
                    UNROLL for (int r = 0; r < TILE_ROWS; r++)
                        to[r] = WORD(a[r], a[(TOGETHER - 1) * in_row + r]);
            else
                for (; k < last; k++, a += TOGETHER * in_row, to += height)
                    for (ptrdiff_t r = 0; r < rows; r++)
                        to[r] = WORD(a[r], a[(TOGETHER - 1) * in_row + r]);
            if (k < end && k < words) /* the last one, of an odd K */
                for (ptrdiff_t r = 0; r < rows; r++)
                    to[r] = WORD(a[r], 0);
        }
    }
}

#undef word
#undef WORD
