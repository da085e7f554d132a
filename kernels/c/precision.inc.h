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
#include "softmax.inc.h"
#include "program.inc.h"
#include "gemm.inc.h"
#include "cells.inc.h"
#include "half.inc.h"
#if REAL_BYTES == 4 && defined(MATRIX_UNIT)
#define SPLIT
#include "split.inc.h"
#endif
#if REAL_BYTES == 4 && NARROW_BF16
#define NARROW bf16
#define NARROW_BITS 16
#include "narrow.inc.h"
#undef NARROW
#undef NARROW_BITS
#endif
#if REAL_BYTES == 4 && NARROW_I8
#define NARROW i8
#define NARROW_BITS 8
#include "narrow.inc.h"
#undef NARROW
#undef NARROW_BITS
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

#define KERNELS(name, row, programs)              \
    static const fastrnn_kernels name = {         \
        .lanes = LANES,                           \
        .tile_rows = TILE_ROWS,                   \
        .cells = {                                \
            [FASTRNN_RNN_TANH] = row(rnn_tanh),   \
            [FASTRNN_RNN_RELU] = row(rnn_relu),   \
            [FASTRNN_LSTM] = row(lstm),           \
            [FASTRNN_GRU] = row(gru),             \
            [FASTRNN_PROGRAM] = programs,         \
        },                                        \
        .pack_right = NAME(pack_right),           \
        .multiply = NAME(multiply),               \
        .evaluate = NAME(evaluate),               \
        .softmax = NAME(softmax),                 \
    }

#ifndef NARROW_ONLY
KERNELS(NAME(kernels), CELL_ROW, CELL_ROW(program));
#endif
#ifdef SPLIT
KERNELS(kernels_split, SPLIT_CELL_ROW, SPLIT_CELL_ROW(program));
#endif
#if REAL_BYTES == 4 && NARROW_BF16
KERNELS(kernels_bf16, BF16_CELL_ROW, {0});
#endif
#if REAL_BYTES == 4 && NARROW_I8
KERNELS(kernels_i8, I8_CELL_ROW, {0});
#endif

#undef KERNELS
#undef BF16_CELL_ROW
#undef I8_CELL_ROW
#undef NARROW_PHASES
#undef CELL_ROW
#undef SPLIT_CELL_ROW
#undef SPLIT
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
