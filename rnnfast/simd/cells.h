/* The cells: what is special about an RNN or an LSTM. Included by level.h, once for each `real`.
 *
 * A call handles one panel of one time step for some rows of the batch. The panel holds the
 * pre-activations a = x Wx + h Wh + b of `units` units, all gates of them side by side; `forward`
 * leaves there whatever its derivative needs. `before` and `after` are the states around the step,
 * h, then c. `backward` finds their whole gradients in `gradients`, writes those of a to das, and
 * leaves in `gradients` what reaches the c before.
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

/* h = tanh(a): a panel is up to 4 L units. (That the pointers do not overlap the compiler believes
 * of arguments; with local ones, it would ask for each vector.) */
static inline void FN(rnn_forward_row)(ptrdiff_t units, const real *restrict a, real *restrict h)
{
    for (ptrdiff_t v = 0; v * LANES < units; v++)
        for (int j = 0; j < LANES; j++)
            h[v * LANES + j] = FN(tanh)(a[v * LANES + j]);
}

static void FN(rnn_forward)(ptrdiff_t rows, ptrdiff_t units, void *gates,
                            const simd_states *before, const simd_states *after)
{
    const real *a = gates;
    real *h = after->at;
    (void)before;
    for (ptrdiff_t r = 0; r < rows; r++, a += PANEL, h += after->row)
        FN(rnn_forward_row)(units, a, h);
}

/* da = dh (1 - h^2) */
static void FN(rnn_backward)(ptrdiff_t rows, ptrdiff_t units, const void *gates,
                             const simd_states *before, const simd_states *after,
                             const simd_states *gradients, void *das)
{
    const real *restrict h = after->at, *restrict dh = gradients->at;
    real *restrict da = das;
    (void)gates, (void)before;
    for (ptrdiff_t r = 0; r < rows; r++, da += PANEL, h += after->row, dh += gradients->row)
        for (ptrdiff_t v = 0; v * LANES < units; v++)
            for (int j = 0; j < LANES; j++) {
                const real h_j = h[v * LANES + j];
                da[v * LANES + j] = dh[v * LANES + j] * FN(one_minus_square)(h_j);
            }
}

/* f, g, i, o = sigmoid, tanh, sigmoid, sigmoid of the four gates
 * c = f c_before + g i;  h = o tanh(c) */
static inline void FN(lstm_gates_row)(real *restrict a, const real *restrict c_before,
                                      real *restrict c)
{
    for (int j = 0; j < LANES; j++) {
        const real f = FN(sigmoid)(a[j]);
        const real g = FN(tanh)(a[LANES + j]);
        const real i = FN(sigmoid)(a[2 * LANES + j]);
        const real o = FN(sigmoid)(a[3 * LANES + j]);
        a[j] = f;
        a[LANES + j] = g;
        a[2 * LANES + j] = i;
        a[3 * LANES + j] = o;
        c[j] = f * c_before[j] + g * i;
    }
}

static inline void FN(lstm_output_row)(const real *restrict o, const real *restrict c,
                                       real *restrict h)
{
    for (int j = 0; j < LANES; j++)
        h[j] = o[j] * FN(tanh)(c[j]);
}

/* The outputs in a loop of their own: the processor works on several rows at once, which it cannot
 * where each ends with tanh of what it has just computed. */
static void FN(lstm_forward)(ptrdiff_t rows, ptrdiff_t units, void *gates,
                             const simd_states *before, const simd_states *after)
{
    real *panel = gates;
    const real *c_before = (const real *)before->at + before->state;
    real *h = after->at, *c = h + after->state;
    for (ptrdiff_t r = 0; r < rows; r++)
        if (units == LANES)
            FN(lstm_gates_row)(panel + r * PANEL, c_before + r * before->row, c + r * after->row);
        else {
            real a[PANEL];
            FN(spread)(units, panel + r * PANEL, a);
            FN(lstm_gates_row)(a, c_before + r * before->row, c + r * after->row);
            FN(gather)(units, a, panel + r * PANEL);
        }
    for (ptrdiff_t r = 0; r < rows; r++)
        FN(lstm_output_row)(panel + r * PANEL + 3 * units, c + r * after->row, h + r * after->row);
}

/* With u = tanh(c):  dc += dh o (1 - u^2)
 * da_f = dc c_before f (1 - f)  da_g = dc i (1 - g^2)  da_i = dc g i (1 - i)
 * da_o = dh u o (1 - o)  dc_before = dc f */
static inline void FN(lstm_backward_row)(const real *restrict a, const real *restrict c_before,
                                         const real *restrict c, const real *restrict dh,
                                         real *restrict dc, real *restrict da)
{
    for (int j = 0; j < LANES; j++) {
        const real f = a[j], g = a[LANES + j], i = a[2 * LANES + j], o = a[3 * LANES + j];
        const real u = FN(tanh)(c[j]);
        const real whole = dc[j] + dh[j] * o * FN(one_minus_square)(u);
        da[j] = whole * c_before[j] * f * (1 - f);
        da[LANES + j] = whole * i * FN(one_minus_square)(g);
        da[2 * LANES + j] = whole * g * i * (1 - i);
        da[3 * LANES + j] = dh[j] * u * o * (1 - o);
        dc[j] = whole * f;
    }
}

static void FN(lstm_backward)(ptrdiff_t rows, ptrdiff_t units, const void *gates,
                              const simd_states *before, const simd_states *after,
                              const simd_states *gradients, void *das)
{
    const real *panel = gates;
    const real *c_before = (const real *)before->at + before->state;
    const real *c = (const real *)after->at + after->state;
    real *dh = gradients->at, *dc = dh + gradients->state, *da = das;
    for (ptrdiff_t r = 0; r < rows; r++) {
        if (units == LANES)
            FN(lstm_backward_row)(panel, c_before, c, dh, dc, da);
        else {
            real a[PANEL], da_a[PANEL];
            FN(spread)(units, panel, a);
            FN(lstm_backward_row)(a, c_before, c, dh, dc, da_a);
            FN(gather)(units, da_a, da);
        }
        panel += PANEL, da += PANEL, c_before += before->row, c += after->row;
        dh += gradients->row, dc += gradients->row;
    }
}
