/* Loops over arrays, compiled into vectors. Included by level.h, once for each `real`.
 *
 * Sums are kept in a fixed number of parts and added up in a fixed order, so that they are the
 * same for every call; the parts are doubles where many numbers are added.
 */

enum { FN(PARTS) = 16 };

#if REAL_IS_FLOAT
typedef int32_t FN(lane_numbers) __attribute__((vector_size(VECTOR_BYTES)));
#else
typedef int64_t FN(lane_numbers) __attribute__((vector_size(VECTOR_BYTES)));
#endif

/* out[k, j] = in[j, k] for L rows of L numbers; rows of out are those of a panel. In log2(L) rounds
 * that exchange the off-diagonal halves of blocks of 2, 4, 8 ... lanes (Eklundh 1972). */
static void FN(transpose)(const real *restrict in, ptrdiff_t in_row, real *restrict out)
{
#if VECTOR_BYTES > 16 && defined(__GNUC__) && !defined(__clang__)
    typedef real vec __attribute__((vector_size(VECTOR_BYTES)));
    vec row[LANES];
    FN(lane_numbers) low[5], high[5];
    UNROLL for (int round = 0; 1 << round < LANES; round++)
        UNROLL for (int j = 0; j < LANES; j++) {
            low[round][j] = j >> round & 1 ? LANES + j - (1 << round) : j;
            high[round][j] = j >> round & 1 ? LANES + j : j + (1 << round);
        }
    UNROLL for (int j = 0; j < LANES; j++)
        memcpy(&row[j], in + j * in_row, sizeof(vec));
    UNROLL for (int round = 0; 1 << round < LANES; round++)
        UNROLL for (int j = 0; j < LANES; j++)
            if (!(j >> round & 1)) {
                const vec a = row[j], b = row[j + (1 << round)];
                row[j] = __builtin_shuffle(a, b, low[round]);
                row[j + (1 << round)] = __builtin_shuffle(a, b, high[round]);
            }
    UNROLL for (int k = 0; k < LANES; k++)
        memcpy(out + k * PANEL, &row[k], sizeof(vec));
#else
    for (int j = 0; j < LANES; j++)
        for (int k = 0; k < LANES; k++)
            out[k * PANEL + j] = in[j * in_row + k];
#endif
}

/* One vector of columns of a panel, for all its K rows: out[k, j] = in[k, j] where j < n, else 0.
 * Packing a matrix walks down its rows; packing its transpose exchanges the strides of `in`. */
static void FN(pack)(ptrdiff_t K, ptrdiff_t n, const real *restrict in, ptrdiff_t in_row,
                     ptrdiff_t in_column, real *restrict out)
{
    if (n == LANES && in_column == 1)
        for (ptrdiff_t k = 0; k < K; k++)
            memcpy(out + k * PANEL, in + k * in_row, LANES * sizeof(real));
    else {
        ptrdiff_t k = 0;
        if (n == LANES && in_row == 1)
            for (; k + LANES <= K; k += LANES)
                FN(transpose)(in + k, in_column, out + k * PANEL);
        for (; k < K; k++)
            for (int j = 0; j < LANES; j++)
                out[k * PANEL + j] = j < n ? in[k * in_row + j * in_column] : 0;
    }
}

/* The transpose of A = in (K, M) for tiles of `height` rows: of each tile the numbers that belong
 * to the same k, for all k, side by side; tiles height K apart. Some k at a time, whose lines stay
 * in the first-level cache. */
static void FN(pack_tiles)(ptrdiff_t K, ptrdiff_t M, ptrdiff_t height, const real *restrict in,
                           ptrdiff_t in_row, real *restrict out)
{
    for (ptrdiff_t first = 0; first < K; first += 64) {
        const ptrdiff_t last = first + 64 < K ? first + 64 : K;
        for (ptrdiff_t m = 0; m < M; m += height) {
            const real *a = in + first * in_row + m;
            real *to = out + m * K + first * height;
            const ptrdiff_t rows = M - m < height ? M - m : height;
            if (rows == TILE_ROWS)
                for (ptrdiff_t k = first; k < last; k++, a += in_row, to += TILE_ROWS)
                    memcpy(to, a, TILE_ROWS * sizeof(real));
            else
                for (ptrdiff_t k = first; k < last; k++, a += in_row, to += height)
                    for (ptrdiff_t r = 0; r < rows; r++)
                        to[r] = a[r];
        }
    }
}

/* And back from panels: out[m, j] = in[m, j] for j < n */
static void FN(unpack)(ptrdiff_t M, ptrdiff_t n, const real *restrict in, real *restrict out,
                       ptrdiff_t out_row, ptrdiff_t out_column)
{
    if (n == LANES && out_column == 1)
        for (ptrdiff_t m = 0; m < M; m++)
            memcpy(out + m * out_row, in + m * PANEL, LANES * sizeof(real));
    else
        for (ptrdiff_t m = 0; m < M; m++)
            for (ptrdiff_t j = 0; j < n; j++)
                out[m * out_row + j * out_column] = in[m * PANEL + j];
}

static void FN(add)(ptrdiff_t n, const real *restrict x, real *restrict y)
{
    for (ptrdiff_t j = 0; j < n; j++)
        y[j] += x[j];
}

static void FN(scale)(ptrdiff_t n, real factor, real *restrict x)
{
    for (ptrdiff_t j = 0; j < n; j++)
        x[j] *= factor;
}

/* A NaN may be passed over: it comes back in whatever is computed with the number it stood for. */
static real FN(largest)(ptrdiff_t n, const real *restrict x)
{
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
static double FN(exp_shifted)(ptrdiff_t n, real shift, real *restrict x)
{
    double part[FN(PARTS)] = {0}, total = 0;
    ptrdiff_t j = 0;
    for (; j + FN(PARTS) <= n; j += FN(PARTS)) {
        for (int q = 0; q < FN(PARTS); q++)
            x[j + q] = FN(exp)(x[j + q] - shift);
        for (int q = 0; q < FN(PARTS); q++)
            part[q] += x[j + q];
    }
    for (int q = 0; q < FN(PARTS); q++)
        total += part[q];
    for (; j < n; j++)
        total += x[j] = FN(exp)(x[j] - shift);
    return total;
}

/* For the softmax of rows that stand in panels: L running maxima of each row, top (rows, L), and
 * once their largest is known, panel = e^(panel - largest) and L running sums, sum (rows, L). */
static void FN(panel_top)(ptrdiff_t rows, ptrdiff_t n, const real *restrict panel,
                          real *restrict top)
{
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

static void FN(panel_exp)(ptrdiff_t rows, ptrdiff_t n, real *restrict panel,
                          const real *restrict largest, double *restrict sum)
{
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

static double FN(sum_of_squares)(ptrdiff_t n, const real *restrict x)
{
    double part[FN(PARTS)] = {0}, total = 0;
    ptrdiff_t j = 0;
    for (; j + FN(PARTS) <= n; j += FN(PARTS))
        for (int q = 0; q < FN(PARTS); q++)
            part[q] += (double)x[j + q] * (double)x[j + q];
    for (int q = 0; q < FN(PARTS); q++)
        total += part[q];
    for (; j < n; j++)
        total += (double)x[j] * (double)x[j];
    return total;
}

/* The optimizers: the formulas are those of rnnfast/optimizers.py, one number at a time. What they
 * write as 1 - beta comes as `rate`: in float, 1 - beta would not be it. */

static void FN(sgd)(ptrdiff_t n, real lr, real *restrict W, const real *restrict dW)
{
    for (ptrdiff_t j = 0; j < n; j++)
        W[j] -= lr * dW[j];
}

static void FN(momentum)(ptrdiff_t n, real lr, real momentum, real *restrict W,
                         const real *restrict dW, real *restrict v)
{
    for (ptrdiff_t j = 0; j < n; j++) {
        v[j] = momentum * v[j] - lr * dW[j];
        W[j] += v[j];
    }
}

static void FN(adagrad)(ptrdiff_t n, real lr, real *restrict W, const real *restrict dW,
                        real *restrict h)
{
    for (ptrdiff_t j = 0; j < n; j++) {
        h[j] += dW[j] * dW[j];
        W[j] -= lr * dW[j] / (FN(square_root)(h[j]) + (real)1e-7);
    }
}

static void FN(rmsprop)(ptrdiff_t n, real lr, real decay, real rate, real *restrict W,
                        const real *restrict dW, real *restrict h)
{
    for (ptrdiff_t j = 0; j < n; j++) {
        h[j] = decay * h[j] + rate * dW[j] * dW[j];
        W[j] -= lr * dW[j] / (FN(square_root)(h[j]) + (real)1e-7);
    }
}

static void FN(adam)(ptrdiff_t n, real lr, real rate1, real rate2, real *restrict W,
                     const real *restrict dW, real *restrict m, real *restrict v)
{
    for (ptrdiff_t j = 0; j < n; j++) {
        m[j] += rate1 * (dW[j] - m[j]);
        v[j] += rate2 * (dW[j] * dW[j] - v[j]);
        W[j] -= lr * m[j] / (FN(square_root)(v[j]) + (real)1e-7);
    }
}
