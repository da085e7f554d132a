# What c/kernels.h, c/memory.h and c/pool.h offer; the meaning of every name stands there.
from libc.stddef cimport ptrdiff_t
from libc.stdint cimport intptr_t

cdef extern from "caches.h":
    size_t fastrnn_cache(int level, int *sharing)

cdef extern from "pool.h" nogil:
    ctypedef struct fastrnn_watch:
        pass

    void fastrnn_watch_start(fastrnn_watch *, int (*look)() noexcept)
    int fastrnn_stopped(fastrnn_watch *)
    int fastrnn_stopping(const fastrnn_watch *)
    ctypedef void fastrnn_task(void *context, int part) noexcept
    void fastrnn_pool_watch_forks()
    int fastrnn_pool_acquire(int wanted)
    void fastrnn_pool_run(fastrnn_task *task, void *context, int parts, int together, fastrnn_watch *)
    int fastrnn_pool_barrier(int parts, fastrnn_watch *)
    void fastrnn_pool_release()
    ctypedef void fastrnn_parallel(void (*function)(void *), void *data, unsigned threads, unsigned flags) noexcept
    void fastrnn_pool_borrow(fastrnn_parallel *parallel, int (*team_size)() noexcept)

cdef extern from "kernels.h" nogil:
    enum:
        FASTRNN_RNN_TANH
        FASTRNN_RNN_RELU
        FASTRNN_LSTM
        FASTRNN_GRU
        FASTRNN_PROGRAM
        FASTRNN_CELLS
        FASTRNN_UNIT_SLOTS
        FASTRNN_GROUP_UNITS
        FASTRNN_STATES
        FASTRNN_EXTRAS
        FASTRNN_CONSTANTS
        FASTRNN_REGISTERS
        FASTRNN_PARAMETERS
        FASTRNN_ROW_VALUES
        FASTRNN_SUMS
        FASTRNN_AT_SLOT
        FASTRNN_AT_BEFORE
        FASTRNN_AT_AFTER
        FASTRNN_AT_GRADIENT
        FASTRNN_AT_UNIT
        FASTRNN_AT_SHOWN
        FASTRNN_AT_MIDDLE
        FASTRNN_AT_EXTRA
        FASTRNN_AT_TAKEN
        FASTRNN_AT_CONSTANT
        FASTRNN_AT_REGISTER
        FASTRNN_AT_ROW
        FASTRNN_AT_SUM
        FASTRNN_AT_OWN
        FASTRNN_AT_INTO_EXTRA
        FASTRNN_ADD_ADD
        FASTRNN_SUB_MUL
        FASTRNN_MUL_MUL
        FASTRNN_MUL_FMA
        FASTRNN_MUL_FNMA
        FASTRNN_MUL_SIGMOID_BACK
        FASTRNN_MUL_TANH_BACK
        FASTRNN_FMA_ADD
        FASTRNN_FMA_SIGMOID
        FASTRNN_FMA_TANH
        FASTRNN_ADDED_MUL
        FASTRNN_ADDED_FMA
        FASTRNN_ADDED_FNMA
        FASTRNN_F32
        FASTRNN_F64
        FASTRNN_BF16
        FASTRNN_I8
        FASTRNN_LEFT_ROWS
        FASTRNN_ROWS_IN_TURNS
        FASTRNN_ROW_VECTORS
        FASTRNN_CHUNKS_TO_LOOK
        FASTRNN_FEW_ROWS
        FASTRNN_GRADIENT_ROWS

    ctypedef struct fastrnn_instruction:
        int op, out, a, b, c, d, e

    ctypedef struct fastrnn_code:
        const fastrnn_instruction *instructions
        ptrdiff_t count

    ctypedef struct fastrnn_phase:
        fastrnn_code of_row, of_units
        int means[32]
        int reads[96]
        int mean_count, read_count

    ctypedef struct fastrnn_phases:
        const fastrnn_phase *first
        int count

    ctypedef struct fastrnn_program:
        int units, blocks, slots, x_slots, h_slots, h_first, m_first, m_slots, states, parameters, gates, reads_h, reads_y
        int adds_up
        int x_gates[64]
        int h_gates[64]
        int m_gates[64]
        int extras, into_extras, registers, constant_count
        const void *constants
        fastrnn_code forward, backward, inside, take, take_back, middle, middle_back
        fastrnn_phases phases, phases_back, phases_middle, phases_middle_back
        int row_values, all_row_values, sums

    ctypedef struct fastrnn_extra:
        const void *at
        ptrdiff_t width, row
        int of_sequence

    bint fastrnn_is_scan(const fastrnn_program *)

    ctypedef struct fastrnn_layer:
        ptrdiff_t steps, batch, inputs, hidden, outputs, rows
        const ptrdiff_t *offsets
        int reverse
        void *y
        void *u
        void *m
        void *taken
        void *z
        void *c
        const void *x
        const intptr_t *tokens
        const void *h_0
        const fastrnn_program *program
        const void *weight_ih
        const void *weight_hh
        const float *scale_ih
        const float *scale_hh
        const void *unit
        const void *units
        const void *bias_ih
        const void *bias_hh
        const fastrnn_extra *extras
        void *panels
        void *bias
        void *scales
        ptrdiff_t y_row, z_stride, z_row, panel_stride
        int keep, projected, pairs, turned
        ptrdiff_t fetch_bytes, gradient_bytes
        void *dx
        void *dh_0
        void *dweight_ih
        void *dweight_hh
        void *dbias_ih
        void *dbias_hh
        void *dunit
        int dx_add, dweight_add
        void *carry
        void *dh
        const void *du
        void *own
        void *into_extras
        const fastrnn_extra *dextras
        const void *dy
        const void *dh_n
        ptrdiff_t dy_row
        const ptrdiff_t *chunks
        ptrdiff_t chunk_count, chunk_start, chunk_end
        void *panels_hh
        void *panels_m
        void *panels_ih
        int few_rows
        int split_x, split_w
        void *split_panels
        void *scratch
        fastrnn_watch *watch

    ctypedef struct fastrnn_sizes:
        ptrdiff_t panel, hidden_panels, input_panels, backward_panel
        ptrdiff_t split_forward, split_backward, forward_scratch, backward_scratch, gradient_blocks
        ptrdiff_t scales, left_row

    ctypedef struct fastrnn_cell:
        ptrdiff_t block_units
        void (*measure)(const fastrnn_layer *, fastrnn_sizes *) noexcept nogil
        void (*pack)(const fastrnn_layer *, ptrdiff_t, ptrdiff_t) noexcept nogil
        void (*project)(const fastrnn_layer *, ptrdiff_t, ptrdiff_t, ptrdiff_t, ptrdiff_t) noexcept nogil
        void (*step)(const fastrnn_layer *, ptrdiff_t, ptrdiff_t, ptrdiff_t, ptrdiff_t, ptrdiff_t) noexcept nogil
        void (*steps_of_row)(const fastrnn_layer *, ptrdiff_t, ptrdiff_t) noexcept nogil
        void (*steps_of_rows)(const fastrnn_layer *const *, ptrdiff_t, ptrdiff_t, ptrdiff_t) noexcept nogil
        void (*step_take)(const fastrnn_layer *, ptrdiff_t, ptrdiff_t, ptrdiff_t, ptrdiff_t, ptrdiff_t) noexcept nogil
        void (*step_middle)(const fastrnn_layer *, ptrdiff_t, ptrdiff_t, ptrdiff_t, ptrdiff_t, ptrdiff_t) noexcept nogil
        void (*step_phases)(const fastrnn_layer *, ptrdiff_t, int, ptrdiff_t, ptrdiff_t) noexcept nogil
        void (*step_back_phases)(const fastrnn_layer *, ptrdiff_t, int, ptrdiff_t, ptrdiff_t) noexcept nogil
        void (*own_gradients)(const fastrnn_layer *, ptrdiff_t, ptrdiff_t) noexcept nogil
        void (*read_tape)(
            const fastrnn_layer *, void *, void *, ptrdiff_t, const intptr_t *, ptrdiff_t, ptrdiff_t) noexcept nogil
        void (*pack_hidden)(const fastrnn_layer *, ptrdiff_t, ptrdiff_t) noexcept nogil
        void (*pack_input)(const fastrnn_layer *, ptrdiff_t, ptrdiff_t) noexcept nogil
        void (*step_back)(const fastrnn_layer *, ptrdiff_t, ptrdiff_t, ptrdiff_t, ptrdiff_t, ptrdiff_t) noexcept nogil
        void (*step_back_middle)(
            const fastrnn_layer *, ptrdiff_t, ptrdiff_t, ptrdiff_t, ptrdiff_t, ptrdiff_t) noexcept nogil
        void (*step_back_gates)(
            const fastrnn_layer *, ptrdiff_t, ptrdiff_t, ptrdiff_t, ptrdiff_t, ptrdiff_t) noexcept nogil
        void (*weight_gradients)(const fastrnn_layer *, ptrdiff_t, ptrdiff_t) noexcept nogil
        void (*input_gradient)(const fastrnn_layer *, ptrdiff_t, ptrdiff_t) noexcept nogil

    ctypedef struct fastrnn_product:
        ptrdiff_t rows, columns, K
        void *out
        const void *a
        const void *b
        const void *bias
        void *panels
        ptrdiff_t out_row, a_row, a_k, b_k, b_column
        int add

    ctypedef struct fastrnn_kernels:
        ptrdiff_t lanes, tile_rows
        fastrnn_cell cells[FASTRNN_CELLS]
        void (*pack_right)(const fastrnn_product *, ptrdiff_t, ptrdiff_t) noexcept nogil
        void (*multiply)(const fastrnn_product *, ptrdiff_t, ptrdiff_t, ptrdiff_t, ptrdiff_t) noexcept nogil
        void (*evaluate)(const fastrnn_code *, void *, ptrdiff_t, ptrdiff_t) noexcept nogil
        void (*softmax)(
            void *, void *, void *, const void *, ptrdiff_t, double, ptrdiff_t, ptrdiff_t) noexcept nogil

    const char *const fastrnn_isa_names[]
    int fastrnn_isa_runs(int isa)
    int fastrnn_isa_of(int isa, int precision)
    const fastrnn_kernels *fastrnn_kernel_table(int isa, int precision)

cdef extern from "steps.h" nogil:
    ptrdiff_t fastrnn_step_row(const fastrnn_layer *, ptrdiff_t s)
    ptrdiff_t fastrnn_step_count(const fastrnn_layer *, ptrdiff_t s)

cdef extern from "memory.h" nogil:
    enum:
        FASTRNN_RECYCLED

    void fastrnn_memory_watch_forks()
    void *fastrnn_take(size_t size)
    void fastrnn_give(void *block)
