/* Everything for one precision: the vector type, then vector math, tile, point functions, and the phases per cell. */
#define NAME(name) PASTE(name, PRECISION)
#define LANES (VECTOR_BYTES / REAL_BYTES)

#define vec NAME(vec)
#define vint NAME(vint)
#define vec_fma NAME(fma)
#define vec_max NAME(max)
#define vec_min NAME(min)
#define vec_sqrt NAME(sqrt)
#define vec_splat NAME(splat)
#define vec_load NAME(load)
#define vec_store NAME(store)
#define vec_load_part NAME(load_part)
#define vec_store_part NAME(store_part)
#define ceil_div NAME(ceil_div)
#define least NAME(least)
#define most NAME(most)

#include "vector.inc.h"
#include "vmath.inc.h"
#include "program.inc.h"
#include "gemm.inc.h"
#include "cells.inc.h"
#include "half.inc.h"
#ifdef SPLIT
#include "split.inc.h"
#endif

#define CELL rnn_tanh
#include "layer.inc.h"
#undef CELL
#define CELL rnn_relu
#include "layer.inc.h"
#undef CELL
#define CELL lstm
#include "layer.inc.h"
#undef CELL
#define CELL gru
#include "layer.inc.h"
#undef CELL
#define CELL program
#include "layer.inc.h"
#undef CELL

static const fastrnn_kernels NAME(kernels) = {
    .lanes = LANES,
    .tile_rows = TILE_ROWS,
    .cells = {
        [FASTRNN_RNN_TANH] = CELL_ROW(rnn_tanh),
        [FASTRNN_RNN_RELU] = CELL_ROW(rnn_relu),
        [FASTRNN_LSTM] = CELL_ROW(lstm),
        [FASTRNN_GRU] = CELL_ROW(gru),
        [FASTRNN_PROGRAM] = CELL_ROW(program),
    },
    .pack_right = NAME(pack_right),
    .multiply = NAME(multiply),
    .apply = NAME(apply),
    .softmax = NAME(softmax),
};

#undef CELL_ROW
#undef ceil_div
#undef least
#undef most
#undef vec_load_part
#undef vec_store_part
#undef half_vec
#undef half_load
#undef half_fma
#undef low_half
#undef vec_splat
#undef vec_load
#undef vec_store
#undef vec
#undef vint
#undef vec_fma
#undef vec_max
#undef vec_min
#undef vec_sqrt
#undef vec_select
#undef vec_sign
#undef vec_abs
#undef LANES
#undef LEFT_WIDTH
#undef LEFT_TILE
#undef NAME
