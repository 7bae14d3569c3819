/* The cells: what is special about an RNN or an LSTM. Included by level.h, once for each `real`.
 *
 * A call handles one panel of one time step for some rows of the batch. The panel holds the
 * pre-activations a = x Wx + h Wh + b, (rows, 4 L); `forward` leaves there whatever its derivative
 * needs. States stand in rows of `row` numbers, the states of a cell (h, then c) `state` apart;
 * their gradients likewise, `dstate` apart. `backward` finds the whole gradients of h and c in
 * dstates, writes those of a to das, and leaves there what reaches the previous c.
 *
 * Units beyond H have weights of 0, and so states and gradients of 0.
 */

/* h = tanh(a): a panel is 4 L units, of which `vectors` times L exist */
static void FN(rnn_forward)(ptrdiff_t rows, ptrdiff_t vectors, real *restrict gates,
                            const real *restrict prev, real *restrict next, ptrdiff_t row,
                            ptrdiff_t state)
{
    (void)prev, (void)state;
    for (ptrdiff_t r = 0; r < rows; r++)
        for (ptrdiff_t v = 0; v < vectors; v++)
            for (int j = 0; j < LANES; j++)
                next[r * row + v * LANES + j] = FN(tanh)(gates[r * PANEL + v * LANES + j]);
}

/* da = dh (1 - h^2) */
static void FN(rnn_backward)(ptrdiff_t rows, ptrdiff_t vectors, const real *restrict gates,
                             const real *restrict prev, const real *restrict next,
                             real *restrict dstates, real *restrict das, ptrdiff_t row,
                             ptrdiff_t state, ptrdiff_t dstate)
{
    (void)gates, (void)prev, (void)state, (void)dstate;
    for (ptrdiff_t r = 0; r < rows; r++)
        for (ptrdiff_t v = 0; v < vectors; v++)
            for (int j = 0; j < LANES; j++) {
                const ptrdiff_t unit = r * row + v * LANES + j;
                const real h = next[unit];
                das[r * PANEL + v * LANES + j] = dstates[unit] * (1 - h * h);
            }
}

/* f, g, i, o = sigmoid, tanh, sigmoid, sigmoid of the four vectors of a panel
 * c = f c_prev + g i;  h = o tanh(c) */
static void FN(lstm_forward)(ptrdiff_t rows, ptrdiff_t vectors, real *restrict gates,
                             const real *restrict prev, real *restrict next, ptrdiff_t row,
                             ptrdiff_t state)
{
    (void)vectors;
    for (ptrdiff_t r = 0; r < rows; r++)
        for (int j = 0; j < LANES; j++) {
            real *a = gates + r * PANEL + j;
            const ptrdiff_t unit = r * row + j;
            const real f = FN(sigmoid)(a[0]);
            const real g = FN(tanh)(a[LANES]);
            const real i = FN(sigmoid)(a[2 * LANES]);
            const real o = FN(sigmoid)(a[3 * LANES]);
            const real c = f * prev[state + unit] + g * i;
            a[0] = f;
            a[LANES] = g;
            a[2 * LANES] = i;
            a[3 * LANES] = o;
            next[state + unit] = c;
            next[unit] = o * FN(tanh)(c);
        }
}

/* With u = tanh(c):  dc += dh o (1 - u^2)
 * da_f = dc c_prev f (1 - f)  da_g = dc i (1 - g^2)  da_i = dc g i (1 - i)  da_o = dh u o (1 - o)
 * dc_prev = dc f */
static void FN(lstm_backward)(ptrdiff_t rows, ptrdiff_t vectors, const real *restrict gates,
                              const real *restrict prev, const real *restrict next,
                              real *restrict dstates, real *restrict das, ptrdiff_t row,
                              ptrdiff_t state, ptrdiff_t dstate)
{
    (void)vectors;
    for (ptrdiff_t r = 0; r < rows; r++)
        for (int j = 0; j < LANES; j++) {
            const real *a = gates + r * PANEL + j;
            real *da = das + r * PANEL + j;
            const ptrdiff_t unit = r * row + j;
            const real f = a[0], g = a[LANES], i = a[2 * LANES], o = a[3 * LANES];
            const real u = FN(tanh)(next[state + unit]);
            const real dh = dstates[unit];
            const real dc = dstates[dstate + unit] + dh * o * (1 - u * u);
            da[0] = dc * prev[state + unit] * f * (1 - f);
            da[LANES] = dc * i * (1 - g * g);
            da[2 * LANES] = dc * g * i * (1 - i);
            da[3 * LANES] = dh * u * o * (1 - o);
            dstates[dstate + unit] = dc * f;
        }
}
