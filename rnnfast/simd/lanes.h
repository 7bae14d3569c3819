/* Vectors whose lanes are exchanged, or of which only some are meant. Included once for each `real`. */

typedef LANE_NUMBER FN(lane_numbers) __attribute__((vector_size(VECTOR_BYTES)));

#ifdef EXCHANGES
/* What __builtin_shuffle takes from two vectors for round 0, 1, ... of a transpose: pairs of blocks
 * of 1, 2, 4 ... lanes that stand below each other. */
static ALWAYS_INLINE void FN(exchanges)(
    FN(lane_numbers) *low, FN(lane_numbers) *high)
{
    UNROLL for (int round = 0; 1 << round < LANES; round++)
        UNROLL for (int j = 0; j < LANES; j++) {
            low[round][j] = j >> round & 1 ? LANES + j - (1 << round) : j;
            high[round][j] = j >> round & 1 ? LANES + j : j + (1 << round);
        }
}
#endif

typedef LANE_NUMBER FN(bits)
    __attribute__((vector_size(VECTOR_BYTES), aligned(sizeof(real)), may_alias));

/* The last n numbers before x[n], in a vector that ends where they end, 0 before them: n < L numbers, and
 * L - n in front of them. */
static ALWAYS_INLINE FN(bits) FN(end_of)(const real *x, ptrdiff_t n)
{
    static const LANE_NUMBER ends[2 * LANES] = {[LANES ... 2 * LANES - 1] = -1};
    return *(const FN(bits) *)(x + n - LANES) & *(const FN(bits) *)(ends + n);
}
