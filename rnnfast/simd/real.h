/* Everything for one `real`, and its table. Included by level.h, once for each. */
#define FN_JOIN(name, suffix) name##suffix
#define FN_OF(name, suffix) FN_JOIN(name, suffix)
#define FN(name) FN_OF(name, FN_SUFFIX)
#define LANES ((int)(VECTOR_BYTES / sizeof(real)))

#include "functions.h"
#include "tile.h"
#include "cells.h"
#include "arrays.h"

static const SIMD_TABLE FN(table) = {
    .lanes = LANES,
    .tile_rows = TILE_ROWS,
    .panels_at_once = FN(panels_at_once),
    .tile = FN(tile),
    .forward = {[RNNFAST_RNN] = FN(rnn_forward), [RNNFAST_LSTM] = FN(lstm_forward)},
    .backward = {[RNNFAST_RNN] = FN(rnn_backward), [RNNFAST_LSTM] = FN(lstm_backward)},
    .map = {[RNNFAST_TANH] = FN(map_tanh), [RNNFAST_SIGMOID] = FN(map_sigmoid),
            [RNNFAST_EXP] = FN(map_exp)},
    .pack = FN(pack),
    .pack_tiles = FN(pack_tiles),
    .unpack = FN(unpack),
    .add = FN(add),
    .largest = FN(largest),
    .exp_shifted = FN(exp_shifted),
    .panel_top = FN(panel_top),
    .panel_exp = FN(panel_exp),
    .scale = FN(scale),
    .sum_of_squares = FN(sum_of_squares),
    .sgd = FN(sgd),
    .momentum = FN(momentum),
    .adagrad = FN(adagrad),
    .rmsprop = FN(rmsprop),
    .adam = FN(adam),
};

#undef FN_JOIN
#undef FN_OF
#undef FN
#undef LANES
#undef PANEL
