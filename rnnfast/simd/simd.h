/* What the compiled levels (baseline, AVX2, AVX-512) offer: one table of functions for each
 * instruction set and number format. The engine (kernels/engine.pyx) calls nothing else, and picks
 * its tables once, when it is imported.
 *
 * Letters: L lanes, the numbers in a vector; a panel is 4 vectors wide, so 4 L columns. Distances
 * are in numbers. Arrays are untyped here, so that every function is declared once, for all
 * formats; a table belongs to one format, and the callers are typed.
 */
#ifndef RNNFAST_SIMD_H
#define RNNFAST_SIMD_H

#include <stddef.h>
#include <stdint.h>

enum { SIMD_VECTORS = 4 };                /* vectors in a row of a panel */
#define SIMD_MOST_ROWS 6                  /* of a tile */
enum { SIMD_PARTS = 16 };                 /* of a sum of many numbers */

/* The number formats. What is in none of them does not compile. (bf16 is none of them: it is what
 * operands of products may be rounded to, see simd_operands.) */
enum { SIMD_FLOAT, SIMD_DOUBLE, SIMD_FORMATS };
#define SIMD_FORMAT_OF(pointer) _Generic(*(pointer), float: SIMD_FLOAT, double: SIMD_DOUBLE)

/* The cells, by their names in rnnfast/cells.py; each is two functions in cells.h. Of each: how many
 * gates it has, how many of them share a panel (all or one), and what its reset gate does to h Wh. */
#define SIMD_CELLS(CELL)                                                                          \
    CELL(rnn, 1, 1, SIMD_NO_RESET)                                                                \
    CELL(rnn_relu, 1, 1, SIMD_NO_RESET)                                                           \
    CELL(lstm, 4, 4, SIMD_NO_RESET)                                                               \
    CELL(gru, 3, 1, SIMD_RESET_BEFORE)                                                            \
    CELL(gru_reset_after, 3, 1, SIMD_RESET_AFTER)                                                 \
    CELL(lstm_ifgo, 4, 4, SIMD_NO_RESET)                                                          \
    CELL(gru_rzn, 3, 1, SIMD_RESET_AFTER)
#define SIMD_CELL_NUMBER(name, gates, together, reset) SIMD_##name,
enum { SIMD_CELLS(SIMD_CELL_NUMBER) SIMD_CELL_COUNT };

/* Nothing; it multiplies h before the product with the last gate's columns, or the product. */
enum { SIMD_NO_RESET, SIMD_RESET_BEFORE, SIMD_RESET_AFTER };

typedef struct {
    const char *name;
    int gates, together, reset;
} simd_cell;

/* The operand A of a product: row m and index k stand at
 * at[m row + (k mod width) k_stride + (k div width) block]; of every tile, the first row m at
 * at[m tile]. So A may be a matrix of rows, one packed for its tiles, or a row of panels. */
typedef struct {
    const void *at;
    ptrdiff_t row, tile, k_stride, width, block;
} simd_walk;

/* A matrix in panels of 4 L columns: rows `row` apart, panels `panel` apart, and the 4 vectors of a
 * row `vector` apart, which is L where they stand side by side. So it may be packed, or a matrix of
 * rows where it stands. A row that stands for all, such as zeros, has row 0. */
typedef struct {
    void *at;
    ptrdiff_t row, panel, vector;
} simd_panels;

/* A cell's states, or gradients of them: (S, rows, units), `row` and `state` apart. */
typedef struct {
    void *at;
    ptrdiff_t row, state;
} simd_states;

/* The gates of some units, or gradients of them, in a step: a panel of all gates, or of the first
 * one, the others being `gate` further on. `hidden` is a panel of h Wh + bh of the last gate, or of
 * its gradient, where the reset gate acts on it. */
typedef struct {
    void *at, *hidden;
    ptrdiff_t gate;
} simd_gates;

/* What products are made of: their operands, and the loops over them. What it returns, its name and
 * its arguments. */
#define SIMD_PRODUCT_FUNCTIONS(F)                                                                 \
    /* How many panels a tile of so many rows may take at once: 1, 2 or 4. */                     \
    F(ptrdiff_t, panels_at_once, (ptrdiff_t rows))                                                \
    /* C = init + A B for one tile, and + plus unless that is NULL: see tile.h. */                \
    F(void, tile, (ptrdiff_t rows, ptrdiff_t columns, ptrdiff_t K, const simd_walk *A,            \
                   const simd_panels *B, const simd_panels *init, const simd_panels *plus,        \
                   const simd_panels *C))                                                         \
    /* For one row, and panels of one vector for each gate, side by side in B: gate by gate. */    \
    F(void, one_row, (ptrdiff_t gates, ptrdiff_t panels, ptrdiff_t K, const void *A,              \
                      const simd_panels *B, const simd_panels *init, const simd_panels *C))       \
    /* C = init + A B for contiguous rows of A and columns of B, and at least L terms: see dots.h. */ \
    F(void, dots, (ptrdiff_t rows, ptrdiff_t columns, ptrdiff_t K, const simd_walk *A,            \
                   const void *B, ptrdiff_t b_column, const simd_panels *init,                    \
                   const simd_panels *C))                                                         \
    /* Operands, in words: a row of A; rows of a panel of B, of which `words` may be the memory; A   \
     * transposed, for tiles of `height` rows: see operands.h. */                                 \
    F(void, row_words, (ptrdiff_t K, const void *row, void *words))                               \
    F(void, panel_words, (ptrdiff_t K, const void *panel, void *words))                           \
    F(void, pack_tiles, (ptrdiff_t K, ptrdiff_t M, ptrdiff_t height, const void *in,              \
                         ptrdiff_t in_row, void *out))

/* Every other function. */
#define SIMD_FUNCTIONS(F)                                                                         \
    /* y = f(x) for n numbers: see functions.h. */                                                \
    F(void, map_tanh, (ptrdiff_t n, const void *x, void *y))                                      \
    F(void, map_sigmoid, (ptrdiff_t n, const void *x, void *y))                                   \
    F(void, map_exp, (ptrdiff_t n, const void *x, void *y))                                       \
    /* Arrays: see arrays.h. */                                                                   \
    F(void, pack, (ptrdiff_t K, ptrdiff_t vectors, ptrdiff_t n, const void *in,                   \
                   ptrdiff_t in_row, ptrdiff_t in_column, ptrdiff_t in_vector, void *out))        \
    F(void, unpack, (ptrdiff_t M, ptrdiff_t n, const void *in, void *out, ptrdiff_t out_row,      \
                     ptrdiff_t out_column))                                                       \
    F(void, add, (ptrdiff_t n, const void *x, void *y))                                           \
    F(void, add_exactly, (ptrdiff_t n, const void *x, void *sum, void *rest))                     \
    F(void, fill, (ptrdiff_t n, double value, void *x))                                           \
    F(double, value, (const void *x))                                                             \
    F(void, scale, (ptrdiff_t n, double factor, void *x))                                         \
    F(void, multiply, (ptrdiff_t n, const void *x, const void *y, void *out))                     \
    F(void, blend, (ptrdiff_t n, const void *part, const void *x, const void *y, void *out))      \
    F(void, divide, (ptrdiff_t n, const void *part, void *x, void *taken))                        \
    F(void, draw_mask, (ptrdiff_t n, ptrdiff_t first, ptrdiff_t of, uint64_t key,                 \
                        uint64_t threshold, double value, void *out))                             \
    /* The two halves of a GRU whose reset gate acts before the product: see cells.h. */          \
    F(void, gru_reset, (ptrdiff_t rows, ptrdiff_t units, const simd_gates *gates,                 \
                        const simd_states *h, const simd_states *reset_h))                        \
    F(void, gru_reset_backward, (ptrdiff_t rows, ptrdiff_t units, const simd_gates *gates,        \
                                 const simd_states *h, const simd_states *gradients,              \
                                 const simd_gates *das))                                          \
    F(double, largest, (ptrdiff_t n, const void *x))                                              \
    F(double, exp_shifted, (ptrdiff_t n, double shift, void *x))                                  \
    F(void, softmax_gradient, (ptrdiff_t n, const void *p, void *dp))                             \
    F(double, sigmoid_loss, (ptrdiff_t n, const void *x, const signed char *sides, void *dx))     \
    F(void, panel_top, (ptrdiff_t rows, ptrdiff_t n, const void *panel, void *top))               \
    F(void, panel_exp, (ptrdiff_t rows, ptrdiff_t n, void *panel, const void *largest,            \
                        double *sum))                                                             \
    F(void, add_squares, (ptrdiff_t n, ptrdiff_t at, const void *x, double *sums))                \
    F(void, clip, (ptrdiff_t n, double limit, void *x))                                           \
    F(void, sgd, (ptrdiff_t n, double lr, void *W, const void *dW))                               \
    F(void, momentum, (ptrdiff_t n, double lr, double momentum, void *W, const void *dW,          \
                       void *v))                                                                  \
    F(void, nesterov, (ptrdiff_t n, double lr, double momentum, void *W, const void *dW,          \
                       void *v))                                                                  \
    F(void, adagrad, (ptrdiff_t n, double lr, void *W, const void *dW, void *h))                  \
    F(void, rmsprop, (ptrdiff_t n, double lr, double decay, double rate, void *W,                 \
                      const void *dW, void *h))                                                   \
    F(void, adam, (ptrdiff_t n, double lr, double rate1, double rate2, void *W, const void *dW,   \
                   void *m, void *v))

#define SIMD_MEMBER(result, name, arguments) result (*name) arguments;

/* Operands of products. A word has the bytes of a number, and holds `together` of them that follow each
 * other along k: two bf16 numbers, or one, as it is or rounded to bf16. In a row of B there are `rows_together` rows of the matrix: as many where it is packed, one
 * where it is read where it stands. What is not needed for them is a null pointer. */
typedef struct {
    ptrdiff_t together, rows_together;
    SIMD_PRODUCT_FUNCTIONS(SIMD_MEMBER)
} simd_operands;

typedef struct simd_table {
    ptrdiff_t number;                     /* bytes of a number */
    ptrdiff_t lanes;                      /* L */
    ptrdiff_t tile_rows;                  /* most rows of a tile */
    int rounds;                           /* whether operands are rounded, so that they are copies */
    const struct simd_table *exact;       /* of this format, with operands as they are */
    const struct simd_table *standing;    /* for weights that are read where they stand */
    simd_operands products;
    SIMD_FUNCTIONS(SIMD_MEMBER)
    /* One panel of a time step: activation and new state, and their derivatives. See cells.h. */
    void (*forward[SIMD_CELL_COUNT])(ptrdiff_t rows, ptrdiff_t units, const simd_gates *gates,
                                     const simd_states *before, const simd_states *after);
    void (*backward[SIMD_CELL_COUNT])(ptrdiff_t rows, ptrdiff_t units, const simd_gates *gates,
                                      const simd_states *before, const simd_states *after,
                                      const simd_states *gradients, const simd_gates *das);
} simd_table;

typedef struct {
    const char *name;
    const simd_table *tables[SIMD_FORMATS];
    /* of float32, rounded to bf16: packed ones, and those of weights that are read where they stand */
    const simd_operands *bf16, *bf16_standing;
} simd_level;

/* The levels that this build has, from the lowest up; a null pointer ends the list. */
extern const simd_level *const simd_levels[];

/* Whether processor and operating system can run the level (CPUID and XGETBV). */
int simd_level_usable(const simd_level *level);

/* A row of a panel, of zeros in any format. */
extern const char simd_zeros[SIMD_VECTORS * 64];

/* The cells, in the order of their numbers. */
extern const simd_cell simd_cells[SIMD_CELL_COUNT];

#endif
