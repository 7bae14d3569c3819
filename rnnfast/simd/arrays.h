/* Loops over arrays, compiled into vectors. Included by level.h, once for each `real`.
 *
 * Sums are kept in a fixed number of parts and added up in a fixed order, so that they are the
 * same for every call; the parts are doubles where many numbers are added.
 */

enum { FN(PARTS) = SIMD_PARTS };

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

/* out[k, j] = in[j, k] for n rows j of L numbers, and 0 for rows up to L. In log2(L) rounds that
 * exchange the off-diagonal halves of blocks of 2, 4, 8 ... lanes (Eklundh 1972). */
static void FN(transpose)(ptrdiff_t n, const real *restrict in, ptrdiff_t in_row,
                          real *restrict out, ptrdiff_t out_row)
{
#ifdef EXCHANGES
    typedef real vec __attribute__((vector_size(VECTOR_BYTES)));
    vec row[LANES];
    FN(lane_numbers) low[5], high[5];
    FN(exchanges)(low, high);
    UNROLL for (int j = 0; j < LANES; j++)
        if (j < n)
            memcpy(&row[j], in + j * in_row, sizeof(vec));
        else
            row[j] = (vec){0};
    UNROLL for (int round = 0; 1 << round < LANES; round++)
        UNROLL for (int j = 0; j < LANES; j++)
            if (!(j >> round & 1)) {
                const vec a = row[j], b = row[j + (1 << round)];
                row[j] = __builtin_shuffle(a, b, low[round]);
                row[j + (1 << round)] = __builtin_shuffle(a, b, high[round]);
            }
    UNROLL for (int k = 0; k < LANES; k++)
        memcpy(out + k * out_row, &row[k], sizeof(vec));
#else
    for (int j = 0; j < LANES; j++)
        for (int k = 0; k < LANES; k++)
            out[k * out_row + j] = j < n ? in[j * in_row + k] : 0;
#endif
}

/* Some vectors of columns of a panel, for all its K rows: out[k, v, j] = in[k, v, j] for the first
 * n columns (v, j), 0 for the others. Packing a matrix walks down its rows; packing its transpose
 * exchanges the strides of `in`. */
static void FN(pack)(ptrdiff_t K, ptrdiff_t vectors, ptrdiff_t n, const void *source,
                     ptrdiff_t in_row, ptrdiff_t in_column, ptrdiff_t in_vector, void *target)
{
    const real *restrict in = source;
    real *restrict out = target;
    ptrdiff_t k = 0;
    if (in_column == 1 && n == vectors * LANES)
        for (; k < K; k++)
            for (ptrdiff_t v = 0; v < vectors; v++)
                memcpy(out + k * PANEL + v * LANES, in + k * in_row + v * in_vector,
                       LANES * sizeof(real));
    else if (in_row == 1)
        for (; k + LANES <= K; k += LANES)
            for (ptrdiff_t v = 0; v < vectors; v++)
                FN(transpose)(n - v * LANES, in + k + v * in_vector, in_column,
                              out + k * PANEL + v * LANES, PANEL);
    for (; k < K; k++)
        for (ptrdiff_t v = 0; v < vectors; v++)
            for (ptrdiff_t j = 0; j < LANES; j++)
                out[k * PANEL + v * LANES + j]
                    = v * LANES + j < n ? in[k * in_row + v * in_vector + j * in_column] : 0;
}

/* And back from panels: out[m, j] = in[m, j] for j < n */
static void FN(unpack)(ptrdiff_t M, ptrdiff_t n, const void *source, void *target,
                       ptrdiff_t out_row, ptrdiff_t out_column)
{
    const real *restrict in = source;
    real *restrict out = target;
    ptrdiff_t m = 0;
    if (n == LANES && out_column == 1)
        for (; m < M; m++)
            memcpy(out + m * out_row, in + m * PANEL, LANES * sizeof(real));
    else if (n == LANES && out_row == 1)
        for (; m + LANES <= M; m += LANES)
            FN(transpose)(LANES, in + m * PANEL, PANEL, out + m, out_column);
    for (; m < M; m++)
        for (ptrdiff_t j = 0; j < n; j++)
            out[m * out_row + j * out_column] = in[m * PANEL + j];
}

/* y += x */
static void FN(add)(ptrdiff_t n, const void *added, void *sums)
{
    const real *restrict x = added;
    real *restrict y = sums;
    for (ptrdiff_t j = 0; j < n; j++)
        y[j] += x[j];
}

/* sum + rest += x, `rest` being what is lost as `sum` is rounded, for the next call to add (Kahan
 * 1965, with the exact error of a sum by Knuth, The Art of Computer Programming, volume 2, section
 * 4.2.2): the error does not grow with the number of terms. What is not finite stays so. */
static void FN(add_exactly)(ptrdiff_t n, const void *added, void *sums, void *rests)
{
    const real *restrict x = added;
    real *restrict sum = sums, *restrict rest = rests;
    for (ptrdiff_t j = 0; j < n; j++) {
        const real more = x[j] + rest[j], before = sum[j], after = before + more;
        const real part = after - before;
        sum[j] = after;
        rest[j] = (before - (after - part)) + (more - part);
    }
}

/* x = value */
static void FN(fill)(ptrdiff_t n, double value, void *numbers)
{
    real *x = numbers;
    for (ptrdiff_t j = 0; j < n; j++)
        x[j] = (real)value;
}

/* The number at x. */
static double FN(value)(const void *x)
{
    return *(const real *)x;
}

/* x *= factor */
static void FN(scale)(ptrdiff_t n, double factor, void *numbers)
{
    const real by = (real)factor;
    real *restrict x = numbers;
    for (ptrdiff_t j = 0; j < n; j++)
        x[j] *= by;
}

/* out = x y, of which y may be the memory of out */
static void FN(multiply)(ptrdiff_t n, const void *factors, const void *numbers, void *products)
{
    const real *restrict x = factors, *y = numbers;
    real *out = products;
    INDEPENDENT
    for (ptrdiff_t j = 0; j < n; j++)
        out[j] = x[j] * y[j];
}

/* out = part x + (1 - part) y, in which 0 and 1 choose exactly */
static void FN(blend)(ptrdiff_t n, const void *parts, const void *first, const void *second,
                      void *blended)
{
    const real *restrict part = parts, *restrict x = first, *restrict y = second;
    real *restrict out = blended;
    for (ptrdiff_t j = 0; j < n; j++)
        out[j] = part[j] * x[j] + (1 - part[j]) * y[j];
}

/* taken = part x;  x = (1 - part) x */
static void FN(divide)(ptrdiff_t n, const void *parts, void *numbers, void *taken_numbers)
{
    const real *restrict part = parts;
    real *restrict x = numbers, *restrict taken = taken_numbers;
    for (ptrdiff_t j = 0; j < n; j++) {
        taken[j] = part[j] * x[j];
        x[j] = (1 - part[j]) * x[j];
    }
}

/* Word k of the random generator SplitMix64 (Steele, Lea and Flood 2014), which counts from `key` */
static inline uint64_t FN(random_word)(uint64_t key, uint64_t k)
{
    uint64_t z = key + (k + 1) * UINT64_C(0x9E3779B97F4A7C15);
    z = (z ^ z >> 30) * UINT64_C(0xBF58476D1CE4E5B9);
    z = (z ^ z >> 27) * UINT64_C(0x94D049BB133111EB);
    return z ^ z >> 31;
}

/* Numbers that words from number `start` on decide: chosen where a half of a word is below the
 * threshold, else 0; `lows` numbers by low halves, `highs` by high ones. In line, since whole masks
 * are a few percent slower otherwise. */
static ALWAYS_INLINE void FN(draw_words)(
    uint64_t start, uint64_t key, uint64_t threshold, real chosen, ptrdiff_t lows,
    real *restrict low, ptrdiff_t highs, real *restrict high)
{
    enum { BLOCK = 64 };
    const ptrdiff_t words = lows > highs ? lows : highs;
    for (ptrdiff_t first = 0; first < words; first += BLOCK) {
        const ptrdiff_t l = lows - first < BLOCK ? lows - first : BLOCK;
        const ptrdiff_t h = highs - first < BLOCK ? highs - first : BLOCK;
        uint64_t word[BLOCK];
        for (ptrdiff_t k = 0; k < BLOCK; k++)
            word[k] = FN(random_word)(key, start + (uint64_t)(first + k));
        for (ptrdiff_t k = 0; k < l; k++)
            low[first + k] = (word[k] & UINT32_MAX) < threshold ? chosen : 0;
        for (ptrdiff_t k = 0; k < h; k++)
            high[first + k] = word[k] >> 32 < threshold ? chosen : 0;
    }
}

/* out = n numbers, from number `first` on, of a mask of `of`. The low halves of the words decide the
 * first half of the mask, the high halves the second; a part of it takes one half of a word. */
static void FN(draw_mask)(ptrdiff_t n, ptrdiff_t first, ptrdiff_t of, uint64_t key,
                          uint64_t threshold, double value, void *mask)
{
    const ptrdiff_t half = of - of / 2;
    const real chosen = (real)value;
    real *out = mask;
    if (n == of) {
        FN(draw_words)(0, key, threshold, chosen, half, out, n - half, out + half);
        return;
    }
    const ptrdiff_t before = half > first ? half - first : 0, lows = before < n ? before : n;
    const uint64_t start = (uint64_t)first, second = (uint64_t)(first + lows - half);
    FN(draw_words)(start, key, threshold, chosen, lows, out, 0, NULL);
    FN(draw_words)(second, key, threshold, chosen, 0, NULL, n - lows, out + lows);
}

/* A NaN may be passed over: it comes back in whatever is computed with the number it stood for. */
static double FN(largest)(ptrdiff_t n, const void *numbers)
{
    const real *restrict x = numbers;
    real part[FN(PARTS)], top;
    ptrdiff_t j = 0;
    for (int q = 0; q < FN(PARTS); q++)
        part[q] = x[0];
    for (; j + FN(PARTS) <= n; j += FN(PARTS))
        for (int q = 0; q < FN(PARTS); q++)
            part[q] = x[j + q] > part[q] ? x[j + q] : part[q];
    top = part[0];
    for (int q = 1; q < FN(PARTS); q++)
        top = part[q] > top ? part[q] : top;
    for (; j < n; j++)
        top = x[j] > top ? x[j] : top;
    return top;
}

/* x = e^(x - shift); returns the sum */
static double FN(exp_shifted)(ptrdiff_t n, double shift, void *numbers)
{
    real *restrict x = numbers;
    const real by = (real)shift;
    double part[FN(PARTS)] = {0}, total = 0;
    ptrdiff_t j = 0;
    for (; j + FN(PARTS) <= n; j += FN(PARTS)) {
        for (int q = 0; q < FN(PARTS); q++)
            x[j + q] = FN(exp)(x[j + q] - by);
        for (int q = 0; q < FN(PARTS); q++)
            part[q] += x[j + q];
    }
    for (int q = 0; q < FN(PARTS); q++)
        total += part[q];
    for (; j < n; j++)
        total += x[j] = FN(exp)(x[j] - by);
    return total;
}

/* dx = p (dp - sum of dp p), the gradient of what p is the softmax of; in the memory of dp */
static void FN(softmax_gradient)(ptrdiff_t n, const void *probs, void *gradients)
{
    const real *restrict p = probs;
    real *restrict dp = gradients;
    double part[FN(PARTS)] = {0}, total = 0;
    ptrdiff_t j = 0;
    for (; j + FN(PARTS) <= n; j += FN(PARTS))
        for (int q = 0; q < FN(PARTS); q++)
            part[q] += (double)p[j + q] * (double)dp[j + q];
    for (int q = 0; q < FN(PARTS); q++)
        total += part[q];
    for (; j < n; j++)
        total += (double)p[j] * (double)dp[j];
    const real mean = (real)total;
    for (j = 0; j < n; j++)
        dp[j] = p[j] * (dp[j] - mean);
}

/* The sum of log(1 + e^z) of z = side x, which is how far x is on the wrong side, and its gradient.
 * For a side of 0, neither 1 nor -1, both are 0: z is as small as can be. In powers of -|z|, of which
 * none overflows; sides are taken apart from the rest, of which the compiler makes vectors. */
static double FN(sigmoid_loss)(ptrdiff_t n, const void *logits, const signed char *sides,
                               void *gradients)
{
    enum { BLOCK = 64 };
    const real *restrict x = logits;
    real *restrict dx = gradients;
    double part[FN(PARTS)] = {0}, total = 0;
    for (; n > 0; n -= BLOCK, x += BLOCK, dx += BLOCK, sides += BLOCK) {
        const ptrdiff_t count = n < BLOCK ? n : BLOCK;
        real side[BLOCK], loss[BLOCK] = {0};
        for (ptrdiff_t j = 0; j < count; j++)
            side[j] = sides[j];
        for (ptrdiff_t j = 0; j < count; j++) {
            const real product = side[j] * x[j];
            const real z = side[j] == 0 ? -(real)INFINITY : product;
            const real e = FN(exp)(z > 0 ? -z : z), above = z > 0 ? z : 0, high = z > 0 ? 1 : e;
            dx[j] = side[j] * (high / (1 + e));
            loss[j] = FN(small_log1p)(e) + above;
        }
        for (int j = 0; j < BLOCK; j += FN(PARTS))
            for (int q = 0; q < FN(PARTS); q++)
                part[q] += loss[j + q];
    }
    for (int q = 0; q < FN(PARTS); q++)
        total += part[q];
    return total;
}

/* For the softmax of rows that stand in panels: L running maxima of each row, top (rows, L), and
 * once their largest is known, panel = e^(panel - largest) and L running sums, sum (rows, L). */
static void FN(panel_top)(ptrdiff_t rows, ptrdiff_t n, const void *logits, void *tops)
{
    const real *restrict panel = logits;
    real *restrict top = tops;
    for (ptrdiff_t r = 0; r < rows; r++, panel += PANEL, top += LANES)
        if (n == PANEL)
            for (int j = 0; j < LANES; j++) {
                const real a = panel[j], b = panel[LANES + j];
                const real c = panel[2 * LANES + j], d = panel[3 * LANES + j];
                const real ab = a > b ? a : b, cd = c > d ? c : d;
                const real all = ab > cd ? ab : cd;
                top[j] = all > top[j] ? all : top[j];
            }
        else
            for (ptrdiff_t j = 0; j < n; j++)
                top[j % LANES] = panel[j] > top[j % LANES] ? panel[j] : top[j % LANES];
}

static void FN(panel_exp)(ptrdiff_t rows, ptrdiff_t n, void *logits, const void *tops,
                          double *restrict sum)
{
    real *restrict panel = logits;
    const real *restrict largest = tops;
    for (ptrdiff_t r = 0; r < rows; r++, panel += PANEL, sum += LANES) {
        const real shift = largest[r];
        if (n == PANEL) {
            for (int j = 0; j < PANEL; j++)
                panel[j] = FN(exp)(panel[j] - shift);
            for (int j = 0; j < LANES; j++)
                sum[j] += (panel[j] + panel[LANES + j])
                    + (panel[2 * LANES + j] + panel[3 * LANES + j]);
        } else
            for (ptrdiff_t j = 0; j < n; j++)
                sum[j % LANES] += panel[j] = FN(exp)(panel[j] - shift);
    }
}

/* What is not a number stays so. */
static void FN(clip)(ptrdiff_t n, double limit, void *numbers)
{
    const real most = (real)limit;
    real *restrict x = numbers;
    for (ptrdiff_t j = 0; j < n; j++) {
        const real low = x[j] < -most ? -most : x[j];
        x[j] = low > most ? most : low;
    }
}

/* sums[(at + j) mod PARTS] += x_j^2, so that numbers that are 0 may be left out of a sum. */
static void FN(add_squares)(ptrdiff_t n, ptrdiff_t at, const void *numbers, double *restrict sums)
{
    const real *restrict x = numbers;
    double part[FN(PARTS)];
    ptrdiff_t j = 0;
    for (; j < n && (at + j) % FN(PARTS); j++)
        sums[(at + j) % FN(PARTS)] += (double)x[j] * (double)x[j];
    for (int q = 0; q < FN(PARTS); q++)
        part[q] = sums[q];
    for (; j + FN(PARTS) <= n; j += FN(PARTS))
        for (int q = 0; q < FN(PARTS); q++)
            part[q] += (double)x[j + q] * (double)x[j + q];
    for (int q = 0; q < FN(PARTS); q++)
        sums[q] = part[q];
    for (int q = 0; j < n; j++, q++)
        sums[q] += (double)x[j] * (double)x[j];
}

/* The optimizers: the formulas are those of rnnfast/training/optimizers.py, one number at a time.
 * What they write as 1 - beta comes as `rate`: in float, 1 - beta would not be it. */

static void FN(sgd)(ptrdiff_t n, double lr, void *params, const void *grads)
{
    const real step = (real)lr, *restrict dW = grads;
    real *restrict W = params;
    for (ptrdiff_t j = 0; j < n; j++)
        W[j] -= step * dW[j];
}

static void FN(momentum)(ptrdiff_t n, double lr, double momentum, void *params,
                         const void *grads, void *slot)
{
    const real step = (real)lr, kept = (real)momentum, *restrict dW = grads;
    real *restrict W = params, *restrict v = slot;
    for (ptrdiff_t j = 0; j < n; j++) {
        v[j] = kept * v[j] - step * dW[j];
        W[j] += v[j];
    }
}

static void FN(nesterov)(ptrdiff_t n, double lr, double momentum, void *params,
                         const void *grads, void *slot)
{
    const real step = (real)lr, kept = (real)momentum, *restrict dW = grads;
    const real of_v = (real)(momentum * momentum), of_dW = (real)((1 + momentum) * lr);
    real *restrict W = params, *restrict v = slot;
    for (ptrdiff_t j = 0; j < n; j++) {
        v[j] = kept * v[j] - step * dW[j];
        W[j] += of_v * v[j] - of_dW * dW[j];
    }
}

static void FN(adagrad)(ptrdiff_t n, double lr, void *params, const void *grads, void *slot)
{
    const real step = (real)lr, *restrict dW = grads;
    real *restrict W = params, *restrict h = slot;
    for (ptrdiff_t j = 0; j < n; j++) {
        h[j] += dW[j] * dW[j];
        W[j] -= step * dW[j] / (FN(square_root)(h[j]) + (real)1e-7);
    }
}

static void FN(rmsprop)(ptrdiff_t n, double lr, double decay, double rate, void *params,
                        const void *grads, void *slot)
{
    const real step = (real)lr, kept = (real)decay, new = (real)rate, *restrict dW = grads;
    real *restrict W = params, *restrict h = slot;
    for (ptrdiff_t j = 0; j < n; j++) {
        h[j] = kept * h[j] + new * dW[j] * dW[j];
        W[j] -= step * dW[j] / (FN(square_root)(h[j]) + (real)1e-7);
    }
}

static void FN(adam)(ptrdiff_t n, double lr, double rate1, double rate2, void *params,
                     const void *grads, void *first, void *second)
{
    const real step = (real)lr, of_m = (real)rate1, of_v = (real)rate2, *restrict dW = grads;
    real *restrict W = params, *restrict m = first, *restrict v = second;
    for (ptrdiff_t j = 0; j < n; j++) {
        m[j] += of_m * (dW[j] - m[j]);
        v[j] += of_v * (dW[j] * dW[j] - v[j]);
        W[j] -= step * m[j] / (FN(square_root)(v[j]) + (real)1e-7);
    }
}
