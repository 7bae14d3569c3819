/* The cells: what is special about an RNN or an LSTM. Included by level.h, once for each `real`.
 *
 * A call handles one panel of one time step for some rows of the batch. The panel holds the
 * pre-activations a = x Wx + h Wh + b of `units` units, all gates of them side by side; `forward`
 * leaves there whatever its derivative needs. States stand in rows of `row` numbers, the states of
 * a cell (h, then c) `state` apart; their gradients likewise, `dstate` apart. `backward` finds the
 * whole gradients of h and c in dstates, writes those of a to das, and leaves there what reaches
 * the previous c.
 *
 * All panels but the last of an LSTM have L units, and so a vector for each gate; the last one may
 * have fewer, its gates closer together, and is spread into vectors for the time of the call.
 * Lanes beyond the units compute with pre-activations of 0, and their states and gradients stay 0.
 */

/* The gates of a panel (rows of 4 `units` numbers) as vectors, and back; whole vectors at a time,
 * since a panel has room for 4 of them. */
static inline void FN(spread)(ptrdiff_t units, const real *restrict panel, real *restrict vectors)
{
    for (int g = 0; g < 4; g++) {
        real gate[LANES]; /* and the beginning of the next */
        memcpy(gate, panel + g * units, sizeof gate);
        for (int j = 0; j < LANES; j++)
            vectors[g * LANES + j] = j < units ? gate[j] : 0;
    }
}

static inline void FN(gather)(ptrdiff_t units, const real *restrict vectors, real *restrict panel)
{
    for (int g = 0; g < 4; g++) /* what is too much, the next gate overwrites */
        memcpy(panel + g * units, vectors + g * LANES, LANES * sizeof(real));
}

/* h = tanh(a): a panel is up to 4 L units */
static void FN(rnn_forward)(ptrdiff_t rows, ptrdiff_t units, real *restrict gates,
                            const real *restrict prev, real *restrict next, ptrdiff_t row,
                            ptrdiff_t state)
{
    (void)prev, (void)state;
    for (ptrdiff_t r = 0; r < rows; r++)
        for (ptrdiff_t v = 0; v * LANES < units; v++)
            for (int j = 0; j < LANES; j++)
                next[r * row + v * LANES + j] = FN(tanh)(gates[r * PANEL + v * LANES + j]);
}

/* da = dh (1 - h^2) */
static void FN(rnn_backward)(ptrdiff_t rows, ptrdiff_t units, const real *restrict gates,
                             const real *restrict prev, const real *restrict next,
                             real *restrict dstates, real *restrict das, ptrdiff_t row,
                             ptrdiff_t state, ptrdiff_t dstate)
{
    (void)gates, (void)prev, (void)state, (void)dstate;
    for (ptrdiff_t r = 0; r < rows; r++)
        for (ptrdiff_t v = 0; v * LANES < units; v++)
            for (int j = 0; j < LANES; j++) {
                const ptrdiff_t unit = r * row + v * LANES + j;
                const real h = next[unit];
                das[r * PANEL + v * LANES + j] = dstates[unit] * (1 - h * h);
            }
}

/* f, g, i, o = sigmoid, tanh, sigmoid, sigmoid of the four gates
 * c = f c_prev + g i;  h = o tanh(c) */
static inline void FN(lstm_forward_row)(real *restrict a, const real *restrict prev,
                                        real *restrict next, ptrdiff_t state)
{
    for (int j = 0; j < LANES; j++) {
        const real f = FN(sigmoid)(a[j]);
        const real g = FN(tanh)(a[LANES + j]);
        const real i = FN(sigmoid)(a[2 * LANES + j]);
        const real o = FN(sigmoid)(a[3 * LANES + j]);
        const real c = f * prev[state + j] + g * i;
        a[j] = f;
        a[LANES + j] = g;
        a[2 * LANES + j] = i;
        a[3 * LANES + j] = o;
        next[state + j] = c;
        next[j] = o * FN(tanh)(c);
    }
}

static void FN(lstm_forward)(ptrdiff_t rows, ptrdiff_t units, real *restrict gates,
                             const real *restrict prev, real *restrict next, ptrdiff_t row,
                             ptrdiff_t state)
{
    for (ptrdiff_t r = 0; r < rows; r++, gates += PANEL, prev += row, next += row)
        if (units == LANES)
            FN(lstm_forward_row)(gates, prev, next, state);
        else {
            real a[PANEL];
            FN(spread)(units, gates, a);
            FN(lstm_forward_row)(a, prev, next, state);
            FN(gather)(units, a, gates);
        }
}

/* With u = tanh(c):  dc += dh o (1 - u^2)
 * da_f = dc c_prev f (1 - f)  da_g = dc i (1 - g^2)  da_i = dc g i (1 - i)  da_o = dh u o (1 - o)
 * dc_prev = dc f */
static inline void FN(lstm_backward_row)(const real *restrict a, const real *restrict prev,
                                         const real *restrict next, real *restrict dstates,
                                         real *restrict da, ptrdiff_t state, ptrdiff_t dstate)
{
    for (int j = 0; j < LANES; j++) {
        const real f = a[j], g = a[LANES + j], i = a[2 * LANES + j], o = a[3 * LANES + j];
        const real u = FN(tanh)(next[state + j]);
        const real dh = dstates[j];
        const real dc = dstates[dstate + j] + dh * o * (1 - u * u);
        da[j] = dc * prev[state + j] * f * (1 - f);
        da[LANES + j] = dc * i * (1 - g * g);
        da[2 * LANES + j] = dc * g * i * (1 - i);
        da[3 * LANES + j] = dh * u * o * (1 - o);
        dstates[dstate + j] = dc * f;
    }
}

static void FN(lstm_backward)(ptrdiff_t rows, ptrdiff_t units, const real *restrict gates,
                              const real *restrict prev, const real *restrict next,
                              real *restrict dstates, real *restrict das, ptrdiff_t row,
                              ptrdiff_t state, ptrdiff_t dstate)
{
    for (ptrdiff_t r = 0; r < rows; r++) {
        if (units == LANES)
            FN(lstm_backward_row)(gates, prev, next, dstates, das, state, dstate);
        else {
            real a[PANEL], da[PANEL];
            FN(spread)(units, gates, a);
            FN(lstm_backward_row)(a, prev, next, dstates, da, state, dstate);
            FN(gather)(units, da, das);
        }
        gates += PANEL, das += PANEL, prev += row, next += row, dstates += row;
    }
}
