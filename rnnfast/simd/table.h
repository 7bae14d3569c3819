/* The table of one instruction set for one `real` (included by simd.h, once for each). */
typedef struct {
    ptrdiff_t lanes;                      /* L */
    ptrdiff_t tile_rows;                  /* most rows of a tile */

    /* How many panels a tile of so many rows should take at once, so that enough sums are in
     * flight to hide the latency of a multiply-add: 1, 2 or 4. */
    ptrdiff_t (*panels_at_once)(ptrdiff_t rows);

    /* C = init + A B for one tile. See tile.h. */
    void (*tile)(ptrdiff_t rows, ptrdiff_t panels, ptrdiff_t columns, ptrdiff_t K,
                 const real *A, ptrdiff_t a_row, ptrdiff_t a_k, ptrdiff_t a_width,
                 ptrdiff_t a_block, const real *B, ptrdiff_t b_panel, const real *init,
                 ptrdiff_t init_row, ptrdiff_t init_panel, real *C, ptrdiff_t c_row,
                 ptrdiff_t c_panel);

    /* One panel of a time step: activation and new state, and their derivatives. See cells.h. */
    void (*forward[RNNFAST_CELLS])(ptrdiff_t rows, ptrdiff_t units, real *gates,
                                   const real *prev, real *next, ptrdiff_t row, ptrdiff_t state);
    void (*backward[RNNFAST_CELLS])(ptrdiff_t rows, ptrdiff_t units, const real *gates,
                                    const real *prev, const real *next, real *dstates, real *das,
                                    ptrdiff_t row, ptrdiff_t state, ptrdiff_t dstate);

    /* y = f(x) for n numbers; f is RNNFAST_TANH and so on. See functions.h. */
    void (*map[RNNFAST_FUNCTIONS])(ptrdiff_t n, const real *x, real *y);

    /* Arrays: see arrays.h. */
    void (*pack)(ptrdiff_t K, ptrdiff_t n, const real *in, ptrdiff_t in_row, ptrdiff_t in_column,
                 real *out);
    void (*pack_tiles)(ptrdiff_t K, ptrdiff_t M, ptrdiff_t height, const real *in,
                       ptrdiff_t in_row, real *out);
    void (*unpack)(ptrdiff_t M, ptrdiff_t n, const real *in, real *out, ptrdiff_t out_row,
                   ptrdiff_t out_column);
    void (*add)(ptrdiff_t n, const real *x, real *y);
    real (*largest)(ptrdiff_t n, const real *x);
    double (*exp_shifted)(ptrdiff_t n, real shift, real *x);
    void (*panel_top)(ptrdiff_t rows, ptrdiff_t n, const real *panel, real *top);
    void (*panel_exp)(ptrdiff_t rows, ptrdiff_t n, real *panel, const real *largest, double *sum);
    void (*scale)(ptrdiff_t n, real factor, real *x);
    double (*sum_of_squares)(ptrdiff_t n, const real *x);
    void (*sgd)(ptrdiff_t n, real lr, real *W, const real *dW);
    void (*momentum)(ptrdiff_t n, real lr, real momentum, real *W, const real *dW, real *v);
    void (*adagrad)(ptrdiff_t n, real lr, real *W, const real *dW, real *h);
    void (*rmsprop)(ptrdiff_t n, real lr, real decay, real rate, real *W, const real *dW,
                    real *h);
    void (*adam)(ptrdiff_t n, real lr, real rate1, real rate2, real *W, const real *dW, real *m,
                 real *v);
} SIMD_TABLE;
