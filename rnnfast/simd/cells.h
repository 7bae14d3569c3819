/* The cells: what is special about each. Included by level.h, once for each `real`.
 *
 * A call handles one panel of one time step for some rows of the batch. The panel holds the
 * pre-activations a = x Wx + h Wh + b of `units` units, all gates of them side by side, or each gate
 * in a panel of its own (simd_gates); `forward` leaves there whatever its derivative needs. `before`
 * and `after` are the states around the step, h, then c. `backward` finds their whole gradients in
 * `gradients`, writes those of a to das, and leaves in `gradients` what reaches the states before
 * directly, and not by way of a; where that is nothing for h (simd_cell.reset is SIMD_NO_RESET), it
 * may leave anything.
 *
 * All panels but the last of an LSTM have L units, and so a vector for each gate; the last one may
 * have fewer, its gates closer together, and is spread into vectors for the time of the call.
 * Lanes beyond the units compute with pre-activations of 0. What is in them reaches no other lane.
 */

/* The gates of a panel (rows of 4 `units` numbers) as vectors, and back; whole vectors at a time,
 * since a panel has room for 4 of them. */
static inline void FN(spread)(ptrdiff_t units, const real *restrict panel, real *restrict vectors)
{
    for (int g = 0; g < 4; g++) {
        real gate[LANES]; /* and the beginning of the next */
        memcpy(gate, panel + g * units, sizeof gate);
        LANE_LOOP(j)
            vectors[g * LANES + j] = j < units ? gate[j] : 0;
    }
}

static inline void FN(gather)(ptrdiff_t units, const real *restrict vectors, real *restrict panel)
{
    for (int g = 0; g < 4; g++) /* what is too much, the next gate overwrites */
        memcpy(panel + g * units, vectors + g * LANES, LANES * sizeof(real));
}

/* h = f(a), da = dh f'(a), where the derivative is known from h: a panel is up to 4 L units. Here as
 * below, the loop over L units is a function of its own, to which its arrays are promised to be
 * distinct: else the compiler makes no vectors of it. */
#define DEFINE_RNN(NAME, ACTIVATION, GRADIENT)                                                    \
    static inline void FN(NAME##_forward_row)(const real *restrict a, real *restrict h)           \
    {                                                                                             \
        LANE_LOOP(j)                                                                              \
            h[j] = ACTIVATION(a[j]);                                                              \
    }                                                                                             \
                                                                                                  \
    static void FN(NAME##_forward)(ptrdiff_t rows, ptrdiff_t units, const simd_gates *gates,      \
                                   const simd_states *before, const simd_states *after)           \
    {                                                                                             \
        const real *a = gates->at;                                                                \
        real *h = after->at;                                                                      \
        (void)before;                                                                             \
        for (ptrdiff_t r = 0; r < rows; r++, a += PANEL, h += after->row)                         \
            for (ptrdiff_t v = 0; v < units; v += LANES)                                          \
                FN(NAME##_forward_row)(a + v, h + v);                                             \
    }                                                                                             \
                                                                                                  \
    static inline void FN(NAME##_backward_row)(const real *restrict h, const real *restrict dh,   \
                                               real *restrict da)                                 \
    {                                                                                             \
        LANE_LOOP(j)                                                                              \
            da[j] = GRADIENT(dh[j], h[j]);                                                        \
    }                                                                                             \
                                                                                                  \
    static void FN(NAME##_backward)(ptrdiff_t rows, ptrdiff_t units, const simd_gates *gates,     \
                                    const simd_states *before, const simd_states *after,          \
                                    const simd_states *gradients, const simd_gates *das)          \
    {                                                                                             \
        const real *h = after->at, *dh = gradients->at;                                           \
        real *da = das->at;                                                                       \
        (void)gates, (void)before;                                                                \
        for (ptrdiff_t r = 0; r < rows; r++, da += PANEL, h += after->row, dh += gradients->row)  \
            for (ptrdiff_t v = 0; v < units; v += LANES)                                          \
                FN(NAME##_backward_row)(h + v, dh + v, da + v);                                   \
    }

/* max(0, a), NaN stays NaN: it compares false */
#define RELU(a) ((a) < 0 ? 0 : (a))
#define RELU_GRADIENT(dh, h) ((h) == 0 ? 0 : (dh))
#define TANH_GRADIENT(dh, h) ((dh) * FN(one_minus_square)(h))
DEFINE_RNN(rnn, FN(tanh), TANH_GRADIENT)
DEFINE_RNN(rnn_relu, RELU, RELU_GRADIENT)
#undef DEFINE_RNN
#undef RELU
#undef RELU_GRADIENT
#undef TANH_GRADIENT

/* The LSTM. The vectors F, G, I and O of a panel are its gates f, g, i and o: that is the order of
 * the columns of the weights, and all in which the two forms differ.
 *
 * f, g, i, o = sigmoid, tanh, sigmoid, sigmoid of the four gates
 * c = f c_before + g i;  h = o tanh(c) */
static ALWAYS_INLINE void FN(lstm_gates_row)(
    int F, int G, int I, int O, real *restrict a, const real *restrict c_before, real *restrict c)
{
    LANE_LOOP(j) {
        const real f = FN(sigmoid)(a[F * LANES + j]);
        const real g = FN(tanh)(a[G * LANES + j]);
        const real i = FN(sigmoid)(a[I * LANES + j]);
        const real o = FN(sigmoid)(a[O * LANES + j]);
        a[F * LANES + j] = f;
        a[G * LANES + j] = g;
        a[I * LANES + j] = i;
        a[O * LANES + j] = o;
        c[j] = f * c_before[j] + g * i;
    }
}

static inline void FN(lstm_output_row)(const real *restrict o, const real *restrict c,
                                       real *restrict h)
{
    LANE_LOOP(j)
        h[j] = o[j] * FN(tanh)(c[j]);
}

/* The outputs in a loop of their own: the processor works on several rows at once, which it cannot
 * where each ends with tanh of what it has just computed. */
static ALWAYS_INLINE void FN(lstm_forward_of)(
    int F, int G, int I, int O, ptrdiff_t rows, ptrdiff_t units, const simd_gates *gates,
    const simd_states *before, const simd_states *after)
{
    real *panel = gates->at;
    const real *c_before = (const real *)before->at + before->state;
    real *h = after->at, *c = h + after->state;
    for (ptrdiff_t r = 0; r < rows; r++)
        if (units == LANES)
            FN(lstm_gates_row)(F, G, I, O, panel + r * PANEL, c_before + r * before->row,
                               c + r * after->row);
        else {
            real a[PANEL];
            FN(spread)(units, panel + r * PANEL, a);
            FN(lstm_gates_row)(F, G, I, O, a, c_before + r * before->row, c + r * after->row);
            FN(gather)(units, a, panel + r * PANEL);
        }
    for (ptrdiff_t r = 0; r < rows; r++)
        FN(lstm_output_row)(panel + r * PANEL + O * units, c + r * after->row, h + r * after->row);
}

/* With u = tanh(c):  dc += dh o (1 - u^2)
 * da_f = dc c_before f (1 - f)  da_g = dc i (1 - g^2)  da_i = dc g i (1 - i)
 * da_o = dh u o (1 - o)  dc_before = dc f */
static ALWAYS_INLINE void FN(lstm_backward_row)(
    int F, int G, int I, int O, const real *restrict a, const real *restrict c_before,
    const real *restrict c, const real *restrict dh, real *restrict dc, real *restrict da)
{
    LANE_LOOP(j) {
        const real f = a[F * LANES + j], g = a[G * LANES + j];
        const real i = a[I * LANES + j], o = a[O * LANES + j];
        const real u = FN(tanh)(c[j]);
        const real whole = dc[j] + dh[j] * o * FN(one_minus_square)(u);
        da[F * LANES + j] = whole * c_before[j] * f * (1 - f);
        da[G * LANES + j] = whole * i * FN(one_minus_square)(g);
        da[I * LANES + j] = whole * g * i * (1 - i);
        da[O * LANES + j] = dh[j] * u * o * (1 - o);
        dc[j] = whole * f;
    }
}

static ALWAYS_INLINE void FN(lstm_backward_of)(
    int F, int G, int I, int O, ptrdiff_t rows, ptrdiff_t units, const simd_gates *gates,
    const simd_states *before, const simd_states *after, const simd_states *gradients,
    const simd_gates *das)
{
    const real *panel = gates->at;
    const real *c_before = (const real *)before->at + before->state;
    const real *c = (const real *)after->at + after->state;
    real *dh = gradients->at, *dc = dh + gradients->state, *da = das->at;
    for (ptrdiff_t r = 0; r < rows; r++) {
        if (units == LANES)
            FN(lstm_backward_row)(F, G, I, O, panel, c_before, c, dh, dc, da);
        else {
            real a[PANEL], da_a[PANEL];
            FN(spread)(units, panel, a);
            FN(lstm_backward_row)(F, G, I, O, a, c_before, c, dh, dc, da_a);
            FN(gather)(units, da_a, da);
        }
        panel += PANEL, da += PANEL, c_before += before->row, c += after->row;
        dh += gradients->row, dc += gradients->row;
    }
}

#define DEFINE_LSTM(NAME, F, G, I, O)                                                             \
    static void FN(NAME##_forward)(ptrdiff_t rows, ptrdiff_t units, const simd_gates *gates,      \
                                   const simd_states *before, const simd_states *after)           \
    {                                                                                             \
        FN(lstm_forward_of)(F, G, I, O, rows, units, gates, before, after);                       \
    }                                                                                             \
                                                                                                  \
    static void FN(NAME##_backward)(ptrdiff_t rows, ptrdiff_t units, const simd_gates *gates,     \
                                    const simd_states *before, const simd_states *after,          \
                                    const simd_states *gradients, const simd_gates *das)          \
    {                                                                                             \
        FN(lstm_backward_of)(F, G, I, O, rows, units, gates, before, after, gradients, das);      \
    }

DEFINE_LSTM(lstm, 0, 1, 2, 3)
DEFINE_LSTM(lstm_ifgo, 1, 2, 0, 3)
#undef DEFINE_LSTM

/* The GRU: panels of up to 4 L units for each of its gates, `gate` apart, g being the last. */

/* The GRU whose reset gate acts after the product. Z and R are the groups of z and r; z is the share
 * of the new state in h, or of the old one.
 *
 * g = tanh(a_g + r hidden);  h = (1 - z) h_before + z g, or z h_before + (1 - z) g */
static ALWAYS_INLINE void FN(gru_reset_after_forward_row)(
    int z_is_old, real *restrict z, real *restrict r, real *restrict g, const real *restrict hidden,
    const real *restrict h_before, real *restrict h)
{
    LANE_LOOP(j) {
        const real z_j = FN(sigmoid)(z[j]), r_j = FN(sigmoid)(r[j]);
        const real g_j = FN(tanh)(g[j] + r_j * hidden[j]);
        z[j] = z_j;
        r[j] = r_j;
        g[j] = g_j;
        h[j] = z_is_old ? z_j * h_before[j] + (1 - z_j) * g_j
                        : (1 - z_j) * h_before[j] + z_j * g_j;
    }
}

static ALWAYS_INLINE void FN(gru_reset_after_forward_of)(
    int Z, int R, int z_is_old, ptrdiff_t rows, ptrdiff_t units, const simd_gates *gates,
    const simd_states *before, const simd_states *after)
{
    real *a = gates->at, *z = a + Z * gates->gate, *r = a + R * gates->gate;
    real *g = a + 2 * gates->gate;
    const real *hidden = gates->hidden, *h_before = before->at;
    real *h = after->at;
    for (ptrdiff_t row = 0; row < rows; row++) {
        for (ptrdiff_t v = 0; v < units; v += LANES)
            FN(gru_reset_after_forward_row)(z_is_old, z + v, r + v, g + v, hidden + v,
                                            h_before + v, h + v);
        z += PANEL, r += PANEL, g += PANEL, hidden += PANEL;
        h_before += before->row, h += after->row;
    }
}

static ALWAYS_INLINE void FN(gru_reset_after_backward_row)(
    int z_is_old, const real *restrict z, const real *restrict r, const real *restrict g,
    const real *restrict hidden, const real *restrict h_before, real *restrict dh,
    real *restrict dz, real *restrict dr, real *restrict dg, real *restrict dhidden)
{
    LANE_LOOP(j) {
        const real da_g = dh[j] * (z_is_old ? 1 - z[j] : z[j]) * FN(one_minus_square)(g[j]);
        const real slope = z_is_old ? h_before[j] - g[j] : g[j] - h_before[j];
        dz[j] = dh[j] * slope * z[j] * (1 - z[j]);
        dr[j] = da_g * hidden[j] * r[j] * (1 - r[j]);
        dg[j] = da_g;
        dhidden[j] = da_g * r[j];
        dh[j] *= z_is_old ? z[j] : 1 - z[j];
    }
}

static ALWAYS_INLINE void FN(gru_reset_after_backward_of)(
    int Z, int R, int z_is_old, ptrdiff_t rows, ptrdiff_t units, const simd_gates *gates,
    const simd_states *before, const simd_states *after, const simd_states *gradients,
    const simd_gates *das)
{
    const real *a = gates->at, *z = a + Z * gates->gate, *r = a + R * gates->gate;
    const real *g = a + 2 * gates->gate, *hidden = gates->hidden, *h_before = before->at;
    real *dh = gradients->at, *da = das->at, *dz = da + Z * das->gate, *dr = da + R * das->gate;
    real *dg = da + 2 * das->gate, *dhidden = das->hidden;
    (void)after;
    for (ptrdiff_t row = 0; row < rows; row++) {
        for (ptrdiff_t v = 0; v < units; v += LANES)
            FN(gru_reset_after_backward_row)(z_is_old, z + v, r + v, g + v, hidden + v,
                                             h_before + v, dh + v, dz + v, dr + v, dg + v,
                                             dhidden + v);
        z += PANEL, r += PANEL, g += PANEL, hidden += PANEL, h_before += before->row;
        dh += gradients->row, dz += PANEL, dr += PANEL, dg += PANEL, dhidden += PANEL;
    }
}

#define DEFINE_GRU_RESET_AFTER(NAME, Z, R, Z_IS_OLD)                                              \
    static void FN(NAME##_forward)(ptrdiff_t rows, ptrdiff_t units, const simd_gates *gates,      \
                                   const simd_states *before, const simd_states *after)           \
    {                                                                                             \
        FN(gru_reset_after_forward_of)(Z, R, Z_IS_OLD, rows, units, gates, before, after);        \
    }                                                                                             \
                                                                                                  \
    static void FN(NAME##_backward)(ptrdiff_t rows, ptrdiff_t units, const simd_gates *gates,     \
                                    const simd_states *before, const simd_states *after,          \
                                    const simd_states *gradients, const simd_gates *das)          \
    {                                                                                             \
        FN(gru_reset_after_backward_of)(Z, R, Z_IS_OLD, rows, units, gates, before, after,        \
                                        gradients, das);                                          \
    }

DEFINE_GRU_RESET_AFTER(gru_reset_after, 0, 1, 0)
DEFINE_GRU_RESET_AFTER(gru_rzn, 1, 0, 1)
#undef DEFINE_GRU_RESET_AFTER

/* z, r = sigmoid(a_z), sigmoid(a_r);  reset_h = r h, for the product with the columns of g */
static inline void FN(gru_reset_row)(real *restrict z, real *restrict r, const real *restrict h,
                                     real *restrict reset_h)
{
    LANE_LOOP(j) {
        z[j] = FN(sigmoid)(z[j]);
        r[j] = FN(sigmoid)(r[j]);
        reset_h[j] = r[j] * h[j];
    }
}

static void FN(gru_reset)(ptrdiff_t rows, ptrdiff_t units, const simd_gates *gates,
                          const simd_states *h_in, const simd_states *reset_h)
{
    real *z = gates->at, *r = z + gates->gate, *out = reset_h->at;
    const real *h = h_in->at;
    for (ptrdiff_t row = 0; row < rows; row++) {
        for (ptrdiff_t v = 0; v < units; v += LANES)
            FN(gru_reset_row)(z + v, r + v, h + v, out + v);
        z += PANEL, r += PANEL, h += h_in->row, out += reset_h->row;
    }
}

/* g = tanh(a_g);  h = (1 - z) h_before + z g */
static inline void FN(gru_forward_row)(const real *restrict z, real *restrict g,
                                       const real *restrict h_before, real *restrict h)
{
    LANE_LOOP(j) {
        g[j] = FN(tanh)(g[j]);
        h[j] = (1 - z[j]) * h_before[j] + z[j] * g[j];
    }
}

static void FN(gru_forward)(ptrdiff_t rows, ptrdiff_t units, const simd_gates *gates,
                            const simd_states *before, const simd_states *after)
{
    const real *z = gates->at, *h_before = before->at;
    real *g = (real *)gates->at + 2 * gates->gate, *h = after->at;
    for (ptrdiff_t row = 0; row < rows; row++) {
        for (ptrdiff_t v = 0; v < units; v += LANES)
            FN(gru_forward_row)(z + v, g + v, h_before + v, h + v);
        z += PANEL, g += PANEL, h_before += before->row, h += after->row;
    }
}

static inline void FN(gru_backward_row)(const real *restrict z, const real *restrict g,
                                        const real *restrict h_before, real *restrict dh,
                                        real *restrict dz, real *restrict dg)
{
    LANE_LOOP(j) {
        dz[j] = dh[j] * (g[j] - h_before[j]) * z[j] * (1 - z[j]);
        dg[j] = dh[j] * z[j] * FN(one_minus_square)(g[j]);
        dh[j] *= 1 - z[j];
    }
}

static void FN(gru_backward)(ptrdiff_t rows, ptrdiff_t units, const simd_gates *gates,
                             const simd_states *before, const simd_states *after,
                             const simd_states *gradients, const simd_gates *das)
{
    const real *z = gates->at, *g = z + 2 * gates->gate, *h_before = before->at;
    real *dh = gradients->at, *dz = das->at, *dg = dz + 2 * das->gate;
    (void)after;
    for (ptrdiff_t row = 0; row < rows; row++) {
        for (ptrdiff_t v = 0; v < units; v += LANES)
            FN(gru_backward_row)(z + v, g + v, h_before + v, dh + v, dz + v, dg + v);
        z += PANEL, g += PANEL, h_before += before->row;
        dh += gradients->row, dz += PANEL, dg += PANEL;
    }
}

/* From the gradient of reset_h = r h: da_r, and what reaches h by this way */
static inline void FN(gru_reset_backward_row)(const real *restrict r, const real *restrict h,
                                              real *restrict dh, real *restrict dr)
{
    LANE_LOOP(j) {
        dr[j] = dh[j] * h[j] * r[j] * (1 - r[j]);
        dh[j] *= r[j];
    }
}

static void FN(gru_reset_backward)(ptrdiff_t rows, ptrdiff_t units, const simd_gates *gates,
                                   const simd_states *h_in, const simd_states *gradients,
                                   const simd_gates *das)
{
    const real *r = (const real *)gates->at + gates->gate, *h = h_in->at;
    real *dh = gradients->at, *dr = (real *)das->at + das->gate;
    for (ptrdiff_t row = 0; row < rows; row++) {
        for (ptrdiff_t v = 0; v < units; v += LANES)
            FN(gru_reset_backward_row)(r + v, h + v, dh + v, dr + v);
        r += PANEL, h += h_in->row, dh += gradients->row, dr += PANEL;
    }
}
