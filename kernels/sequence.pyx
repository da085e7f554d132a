"""The Cython backend: plans a call, owns its memory, and runs the time loops on the C kernels.

`forward` and `backward` must equal the functions of the same names in `fastrnn.reference`. What the C side does and how
its memory is laid out stands in c/kernels.h. Arrays come validated (fastrnn.ops): C-contiguous, aligned, one dtype.
"""

import os

cimport numpy as cnp
from cpython.pycapsule cimport PyCapsule_New
from libc.stddef cimport size_t
from libc.stdint cimport intptr_t
from libc.string cimport memcpy, memset

from c_kernels cimport (
    FASTRNN_F32,
    FASTRNN_F64,
    FASTRNN_FEW_ROWS,
    FASTRNN_GRU,
    FASTRNN_LSTM,
    FASTRNN_RECYCLED,
    FASTRNN_RNN_RELU,
    FASTRNN_RNN_TANH,
    fastrnn_cell,
    fastrnn_give,
    fastrnn_isa_names,
    fastrnn_isa_runs,
    fastrnn_kernel_table,
    fastrnn_kernels,
    fastrnn_layer,
    fastrnn_pool_acquire,
    fastrnn_pool_barrier,
    fastrnn_pool_release,
    fastrnn_pool_run,
    fastrnn_product,
    fastrnn_sizes,
    fastrnn_take,
)

cdef extern from *:
    """
    #include "memory.h"

    static void *handler_take(void *unused, size_t size) { return fastrnn_take(size); }
    static void *handler_take_zeros(void *unused, size_t count, size_t size) {
        void *block = size && count > SIZE_MAX / size ? NULL : fastrnn_take(count * size);
        return block ? memset(block, 0, count * size) : NULL;
    }
    static void *handler_retake(void *unused, void *block, size_t size) { return fastrnn_retake(block, size); }
    static void handler_give(void *unused, void *block, size_t size) { fastrnn_give(block); }

    static PyDataMem_Handler recycling_handler = {
        "fastrnn", 1, {NULL, handler_take, handler_take_zeros, handler_retake, handler_give}};
    """
    int recycling_handler

cdef extern from "numpy/arrayobject.h":
    object PyDataMem_SetHandler(object handler)

cnp.import_array()

cdef dict CELL_IDS = {
    "rnn_tanh": FASTRNN_RNN_TANH,
    "rnn_relu": FASTRNN_RNN_RELU,
    "lstm": FASTRNN_LSTM,
    "gru": FASTRNN_GRU,
}


# ---- instruction sets

cdef list _built():
    cdef int isa = 0
    names = []
    while fastrnn_isa_names[isa] != NULL:
        names.append(fastrnn_isa_names[isa].decode())
        isa += 1
    return names


cdef list ISAS = _built()
cdef str WANTED = os.environ.get("FASTRNN_ISA", "").strip().lower()
cdef int ISA = max(
    isa for isa, name in enumerate(ISAS) if isa == 0 or (fastrnn_isa_runs(isa) and not (WANTED in ISAS[:isa]))
)
cdef bint SPLITS = ISAS[ISA] == "amx"  # float32 products of layers that are worth it; all else one level lower
cdef bint SPLITS_ALL = WANTED == "amx"


def why_not_runnable():
    """Why this backend cannot run here, or None."""
    if WANTED and WANTED not in ISAS:
        return f"FASTRNN_ISA is {WANTED!r}; expected one of {', '.join(ISAS)}"
    return None


def describe():
    """What was built, what runs here and what is used, for `fastrnn.info`."""
    states = [
        f"{name}: " + ("used" if isa == ISA else "runs" if fastrnn_isa_runs(isa) else "not on this CPU")
        for isa, name in enumerate(ISAS)
    ]
    lowered = f"; FASTRNN_ISA={WANTED}" if WANTED else ""
    return f"C kernels, instruction sets {', '.join(states)}{lowered}"


# ---- memory

cdef class Buffer:
    """Uninitialised memory aligned to a cache line."""

    cdef void *data

    def __cinit__(self, size_t size):
        self.data = fastrnn_take(size)
        if self.data == NULL:
            raise MemoryError(f"no {size} bytes of memory for the kernels")

    def __dealloc__(self):
        fastrnn_give(self.data)


cdef object RECYCLING = PyCapsule_New(&recycling_handler, "mem_handler", NULL)


cdef cnp.ndarray empty(int dimensions, cnp.npy_intp *shape, int typenum):
    """A new array; a large one on recycled memory, which NumPy gives back when the array goes."""
    cdef size_t size = itemsize_of(typenum)
    cdef int i
    for i in range(dimensions):
        size *= shape[i]
    if size < FASTRNN_RECYCLED:
        return cnp.PyArray_EMPTY(dimensions, shape, typenum, 0)
    others = PyDataMem_SetHandler(RECYCLING)
    try:
        return cnp.PyArray_EMPTY(dimensions, shape, typenum, 0)
    finally:
        PyDataMem_SetHandler(others)


cdef inline void *pointer(object array) noexcept:
    return NULL if array is None else cnp.PyArray_DATA(<cnp.ndarray> array)


cdef inline ptrdiff_t round_up(ptrdiff_t count, ptrdiff_t step) noexcept nogil:
    return (count + step - 1) // step * step


cdef void copy_rows(
    void *out, size_t out_row, const void *rows, size_t row, size_t count
) noexcept nogil:
    """Copy `count` rows of min(out_row, row) bytes; what is left of an output row becomes zero."""
    cdef size_t i, width = min(out_row, row)
    for i in range(count):
        memcpy(<char *> out + i * out_row, <const char *> rows + i * row, width)
        memset(<char *> out + i * out_row + width, 0, out_row - width)


# ---- the plan of a call

cdef struct Job:
    fastrnn_layer layer
    const fastrnn_cell *cell
    int typenum
    ptrdiff_t gates
    ptrdiff_t blocks    # of hidden units, in Z
    ptrdiff_t lanes
    int itemsize
    int threads         # that the pool gave
    int packs_as_it_goes  # each step packs what it needs into L1
    int by_hidden       # threads split the hidden units, with a barrier per step; else the batch
    ptrdiff_t steps     # of one projection of the input
    fastrnn_sizes sizes


cdef enum:
    # Below this many flops (about 100 us of one core) waking a worker costs more than it brings.
    FLOPS_WORTH_A_THREAD = 10_000_000
    # What packing one weight costs, in flops.
    FLOPS_OF_PACKING = 12
    # Rows per thread below which a tile is too low to be worth a split of the batch.
    ROWS_WORTH_A_THREAD = 4
    # The same where every thread would read large weights at every step: by splitting the units instead, two threads take
    # 0.77 of the time for N = 16, H = 512 and 0.83 for N = 20, H = 650, but 1.1 for N = 32.
    ROWS_WORTH_LARGE_WEIGHTS = 12
    # From this many rows on, a tile is high enough to take the input product in with the recurrent one; below,
    # projecting whole chunks of time reads the weights less often (1.3 to 1.5x at N = 1).
    ROWS_WORTH_FUSING = 5
    # From how many bytes and inputs on weight_ih is worth splitting: at 128 KB an RNN with N = 1 lost a tenth of a
    # training step, an LSTM with N = 32 gained nothing.
    SPLIT_BYTES = 192 * 1024
    SPLIT_INPUTS = 32
    # From how many rows, of all steps, and hidden units on the gradients of the weights are: with 32 units at N = 32 to
    # 64 steps took up to 1.24 times as long, with 64 they gained 1.05.
    SPLIT_ROWS = 128
    SPLIT_HIDDEN = 64
    # Bytes of Z that a projection fills at once: they stay in L2 until the steps read them.
    PROJECTION_BYTES = 512 * 1024
    # Up to this many steps the weights are packed as each step goes, into L1: packing all of them to memory first
    # would cost more than it saves (at H = 1024 as much as nine such steps).
    STEPS_NOT_WORTH_PACKING = 2
    STEPS_NOT_WORTH_PACKING_LARGE = 8
    LARGE_BYTES = 4 * 1024 * 1024


cdef inline const fastrnn_kernels *kernels_of(int typenum) noexcept:
    return fastrnn_kernel_table(ISA, FASTRNN_F32 if typenum == cnp.NPY_FLOAT32 else FASTRNN_F64)


cdef void choose_splits(Job *job, bint tape) noexcept:
    """Choose which products run on split floats.

    Never by T or N, which must not change the bits of y and dx. A batch of one, which reads weights for longer than it
    multiplies, loses by it: split weights are half as large again. So inference, where that is common, never splits.
    """
    cdef fastrnn_layer *l = &job.layer
    cdef ptrdiff_t weight = job.itemsize * job.gates * l.hidden
    if not SPLITS or job.typenum != cnp.NPY_FLOAT32:
        return
    l.split_x = SPLITS_ALL or (tape and weight * l.inputs >= SPLIT_BYTES and l.inputs >= SPLIT_INPUTS)


cdef void choose_weight_split(Job *job) noexcept:
    """The same of the gradients of the weights. They are sums over T and N, whose bits are a matter of both anyhow."""
    cdef fastrnn_layer *l = &job.layer
    cdef ptrdiff_t rows = l.steps * l.batch
    l.few_rows = rows <= FASTRNN_FEW_ROWS
    if SPLITS and job.typenum == cnp.NPY_FLOAT32 and not l.few_rows:
        l.split_w = SPLITS_ALL or rows >= SPLIT_ROWS and l.hidden >= SPLIT_HIDDEN


cdef inline int itemsize_of(int typenum) noexcept:
    return 4 if typenum == cnp.NPY_FLOAT32 else 8


cdef void describe_layer(Job *job, object cell, weights, bint tape) except *:
    """Fill in what a job knows before it has input: the layer's weights and the sizes that follow from them."""
    cdef fastrnn_layer *l = &job.layer
    cdef cnp.ndarray weight_ih = weights[0], weight_hh = weights[1]
    memset(job, 0, sizeof(Job))
    l.inputs, l.hidden = weight_ih.shape[1], weight_hh.shape[1]
    l.weight_ih, l.weight_hh, l.bias_ih, l.bias_hh = (
        pointer(weight_ih), pointer(weight_hh), pointer(weights[2]), pointer(weights[3]))
    job.typenum = cnp.PyArray_TYPE(weight_hh)
    job.itemsize = itemsize_of(job.typenum)
    job.gates = weight_hh.shape[0] // l.hidden
    choose_splits(job, tape)
    cdef const fastrnn_kernels *kernels = kernels_of(job.typenum)
    job.cell = &kernels.cells[<int> CELL_IDS[cell.name]]
    job.lanes = kernels.lanes
    job.blocks = round_up(l.hidden, job.cell.block_units) // job.cell.block_units
    job.cell.measure(l, &job.sizes)
    l.panel_stride = job.sizes.panel


cdef int threads_worth(const Job *job, int num_threads) noexcept:
    """How many of so many threads are worth waking."""
    cdef const fastrnn_layer *l = &job.layer
    cdef double weights = job.gates * l.hidden * (l.hidden + (0 if l.x == NULL else l.inputs))
    return 1 if weights * (2 * l.steps * l.batch + FLOPS_OF_PACKING) < FLOPS_WORTH_A_THREAD else num_threads


cdef void split_over(Job *job, int threads) noexcept:
    """Note how many threads there are, and whether they share the hidden units or the batch."""
    cdef bint large = job.itemsize * job.blocks * job.layer.panel_stride > LARGE_BYTES
    job.threads = threads
    job.by_hidden = job.layer.batch < threads * (ROWS_WORTH_LARGE_WEIGHTS if large else ROWS_WORTH_A_THREAD)


cdef void share(Job *job, int num_threads) noexcept:
    """Take the pool, for as many threads as are worth it."""
    split_over(job, fastrnn_pool_acquire(threads_worth(job, num_threads)))


cdef inline ptrdiff_t start(ptrdiff_t count, int parts, int part) noexcept nogil:
    """Where part `part` of `count` things begins."""
    return count * part // parts


# ---- packed weights

cdef class Packed:
    """A layer's weights in the order in which the forward kernels read them, and a job that is to run on them."""

    cdef Job job
    cdef Buffer panels, bias, split


cdef void pack_task(void *context, int part) noexcept nogil:
    cdef Job *job = <Job *> context
    job.cell.pack(&job.layer, start(job.blocks, job.threads, part), start(job.blocks, job.threads, part + 1))


cdef Packed run_pack(Job *job):
    cdef Packed packed = Packed()
    packed.panels = Buffer(job.itemsize * job.blocks * job.layer.panel_stride)
    packed.bias = Buffer(job.itemsize * job.blocks * 4 * job.lanes)
    job.layer.panels, job.layer.bias = packed.panels.data, packed.bias.data
    if job.layer.split_x and job.layer.tokens == NULL:
        packed.split = Buffer(job.itemsize * job.blocks * job.sizes.split_forward)
        job.layer.split_panels = packed.split.data
    with nogil:
        fastrnn_pool_run(pack_task, job, job.threads, False)
    return packed


def pack(cell, weights, *, int num_threads=1):
    """Pack a layer's weights once for many calls of `forward`; the caller sees to it that they have not changed."""
    cdef Job job
    cdef Packed packed
    describe_layer(&job, cell, weights, False)
    share(&job, num_threads)
    try:
        packed = run_pack(&job)
    finally:
        if job.threads > 1:
            fastrnn_pool_release()
    job.layer.weight_ih = job.layer.weight_hh = job.layer.bias_ih = job.layer.bias_hh = NULL  # they may go away
    packed.job = job
    return packed


# ---- forward

cdef void plan_forward(Job *job, bint tape, bint packed) noexcept:
    """Choose how a forward call runs that knows its sizes and threads, on weights that are packed already or not."""
    cdef fastrnn_layer *l = &job.layer
    cdef ptrdiff_t of_a_step = l.batch * job.blocks * 4 * job.lanes * job.itemsize  # bytes of Z
    cdef ptrdiff_t large = job.itemsize * job.blocks * l.panel_stride > LARGE_BYTES
    job.packs_as_it_goes = not packed and not l.split_x and (
        l.steps <= (STEPS_NOT_WORTH_PACKING_LARGE if large else STEPS_NOT_WORTH_PACKING))
    if job.packs_as_it_goes:
        job.by_hidden = True  # so that each block is packed by one thread only
    l.keep = tape
    l.projected = l.x != NULL and (
        l.split_x or (l.steps > 1 and (job.packs_as_it_goes or l.batch < ROWS_WORTH_FUSING)))
    if l.projected:
        job.steps = max(1, PROJECTION_BYTES // max(1, of_a_step))
        if l.split_x:
            job.steps = max(job.steps, SPLIT_ROWS // max(1, l.batch))
    if tape or l.projected:
        l.z_stride = 4 * job.lanes * l.batch * (l.steps if tape else min(l.steps, job.steps))
        if l.z_stride * job.itemsize % 4096 == 0:
            l.z_stride += 1536 // job.itemsize  # else the same row of all blocks falls on the same cache sets


cdef void forward_task(void *context, int part) noexcept nogil:
    cdef Job *job = <Job *> context
    cdef fastrnn_layer layer = job.layer
    cdef ptrdiff_t t, rows, b0 = 0, b1 = job.blocks, n0 = 0, n1 = layer.batch
    if job.by_hidden:
        b0 = start(job.blocks, job.threads, part)
        b1 = start(job.blocks, job.threads, part + 1)
    else:
        n0 = start(layer.batch, job.threads, part)
        n1 = start(layer.batch, job.threads, part + 1)
    layer.scratch = <char *> layer.scratch + part * job.sizes.forward_scratch * job.itemsize
    for t in range(layer.steps):
        if layer.projected and t % job.steps == 0:
            if not layer.keep:
                layer.z_row = t * layer.batch
            rows = (min(t + job.steps, layer.steps) - t) * layer.batch
            if job.by_hidden:
                job.cell.project(&layer, b0, b1, t * layer.batch, t * layer.batch + rows)
            else:
                if t:
                    fastrnn_pool_barrier(job.threads)  # Z may be read still
                job.cell.project(
                    &layer, b0, b1, t * layer.batch + start(rows, job.threads, part),
                    t * layer.batch + start(rows, job.threads, part + 1))
                fastrnn_pool_barrier(job.threads)
        job.cell.step(&layer, t, b0, b1, n0, n1)
        if job.by_hidden:
            fastrnn_pool_barrier(job.threads)


cdef class Tape:
    """What backward needs: the layer as forward left it, and the owners of the memory it points to."""

    cdef Job job
    cdef object x, y, h_0, weights
    cdef Buffer z, c


def forward(cell, x, tuple state, weights, *, bint tape=True, int num_threads=1, Packed packed=None):
    """`fastrnn.reference.forward` on the C kernels; without a tape, `packed`, made of the weights, may replace them."""
    cdef Job job
    if tape:
        packed = None  # backward reads the weights themselves
    if packed is None:
        describe_layer(&job, cell, weights, tape)
    else:
        job = packed.job
    cdef fastrnn_layer *l = &job.layer
    cdef cnp.ndarray input_array = x, h_0 = state[0]
    cdef bint has_c = len(state) > 1
    l.steps, l.batch = input_array.shape[0], input_array.shape[1]
    if cnp.PyArray_NDIM(input_array) == 2:
        l.tokens = <const intptr_t *> cnp.PyArray_DATA(input_array)
    else:
        l.x = cnp.PyArray_DATA(input_array)
    l.h_0 = cnp.PyArray_DATA(h_0)

    cdef cnp.npy_intp *shape = [l.steps, l.batch, l.hidden]
    cdef cnp.ndarray y = empty(3, shape, job.typenum)
    cdef cnp.ndarray h_n = empty(2, shape + 1, job.typenum)
    cdef cnp.ndarray c_n = empty(2, shape + 1, job.typenum) if has_c else None
    l.y = cnp.PyArray_DATA(y)

    share(&job, num_threads)
    plan_forward(&job, tape, packed is not None)
    cdef ptrdiff_t C = round_up(l.hidden, job.lanes)
    cdef size_t row = l.hidden * job.itemsize
    cdef Buffer z = None, c = None, scratch = None
    try:
        if has_c:
            l.c_stride = l.batch * C if tape else 0
            if tape or C != l.hidden:
                c = Buffer(job.itemsize * (l.steps * l.c_stride + l.batch * C))
                l.c = c.data
            else:
                l.c = cnp.PyArray_DATA(c_n)
            copy_rows(l.c, C * job.itemsize, pointer(state[1]), row, l.batch)
        if packed is None and not job.packs_as_it_goes:
            packed = run_pack(&job)
        if l.z_stride:
            z = Buffer(job.itemsize * job.blocks * l.z_stride)
            l.z = z.data
        if l.split_x and l.projected:
            scratch = Buffer(job.itemsize * job.sizes.forward_scratch * job.threads)
            l.scratch = scratch.data
        with nogil:
            fastrnn_pool_run(forward_task, &job, job.threads, job.by_hidden or l.projected)
    finally:
        if job.threads > 1:
            fastrnn_pool_release()

    memcpy(
        cnp.PyArray_DATA(h_n), <char *> l.y + (l.steps - 1) * l.batch * row if l.steps else l.h_0, l.batch * row)
    if c is not None:
        copy_rows(
            cnp.PyArray_DATA(c_n), row, <char *> l.c + l.steps * l.c_stride * job.itemsize, C * job.itemsize, l.batch)
    state_n = (h_n, c_n) if has_c else (h_n,)
    if not tape:
        return y, state_n, None
    cdef Tape kept = Tape()
    kept.job = job
    kept.job.layer.panels = kept.job.layer.bias = kept.job.layer.split_panels = NULL
    kept.x, kept.y, kept.h_0, kept.weights, kept.z, kept.c = x, y, h_0, weights, z, c
    return y, state_n, kept


# ---- backward

cdef inline ptrdiff_t first_to_pack(const Job *job, ptrdiff_t columns) noexcept nogil:
    """The first panel of a weight of so many columns that backward does not read in place."""
    return columns // (4 * job.lanes) if job.layer.few_rows else 0


cdef void pack_hidden_task(void *context, int part) noexcept nogil:
    cdef Job *job = <Job *> context
    cdef ptrdiff_t first = first_to_pack(job, job.layer.hidden), count = job.sizes.hidden_panels - first
    job.cell.pack_hidden(
        &job.layer, first + start(count, job.threads, part), first + start(count, job.threads, part + 1))


cdef void pack_input_task(void *context, int part) noexcept nogil:
    cdef Job *job = <Job *> context
    cdef ptrdiff_t first = 0 if job.layer.split_x else first_to_pack(job, job.layer.inputs)
    cdef ptrdiff_t count = job.sizes.input_panels - first
    job.cell.pack_input(
        &job.layer, first + start(count, job.threads, part), first + start(count, job.threads, part + 1))


cdef inline fastrnn_layer layer_of_part(Job *job, int part) noexcept nogil:
    """The layer, with scratch memory for one thread in backward."""
    cdef fastrnn_layer layer = job.layer
    layer.scratch = <char *> layer.scratch + part * job.sizes.backward_scratch * job.itemsize
    return layer


cdef void backward_task(void *context, int part) noexcept nogil:
    cdef Job *job = <Job *> context
    cdef fastrnn_layer layer = layer_of_part(job, part)
    cdef ptrdiff_t t, p0 = 0, p1 = job.sizes.hidden_panels, n0 = 0, n1 = layer.batch
    if job.by_hidden:
        p0 = start(job.sizes.hidden_panels, job.threads, part)
        p1 = start(job.sizes.hidden_panels, job.threads, part + 1)
    else:
        n0 = start(layer.batch, job.threads, part)
        n1 = start(layer.batch, job.threads, part + 1)
    for t in range(layer.steps - 1, -2, -1):
        job.cell.step_back(&layer, t, p0, p1, n0, n1)
        if job.by_hidden:
            fastrnn_pool_barrier(job.threads)


cdef void weight_task(void *context, int part) noexcept nogil:
    cdef Job *job = <Job *> context
    cdef fastrnn_layer layer = layer_of_part(job, part)
    job.cell.weight_gradients(&layer, start(job.blocks, job.threads, part), start(job.blocks, job.threads, part + 1))


cdef void input_task(void *context, int part) noexcept nogil:
    cdef Job *job = <Job *> context
    cdef fastrnn_layer layer = layer_of_part(job, part)
    cdef ptrdiff_t rows = layer.steps * layer.batch
    job.cell.input_gradient(&layer, start(rows, job.threads, part), start(rows, job.threads, part + 1))


def backward(cell, Tape tape, dy, tuple dstate, *, int num_threads=1):
    """`fastrnn.reference.backward` on the C kernels. Overwrites the tape: it serves once."""
    cdef Job job = tape.job
    cdef fastrnn_layer *l = &job.layer
    cdef cnp.ndarray weight_ih = tape.weights[0], weight_hh = tape.weights[1], h_0 = tape.h_0
    cdef int typenum = job.typenum
    cdef bint has_c = l.c != NULL
    l.dy = pointer(dy)
    l.dh_n = pointer(dstate[0])

    cdef cnp.npy_intp *dx_shape = [l.steps, l.batch, l.inputs]
    dx = None if l.x == NULL else empty(3, dx_shape, typenum)
    dweight_ih = empty(2, weight_ih.shape, typenum)
    dweight_hh = empty(2, weight_hh.shape, typenum)
    dbias_ih = dbias_hh = None
    if l.bias_ih != NULL:
        dbias_ih = empty(1, weight_ih.shape, typenum)
        dbias_hh = empty(1, weight_ih.shape, typenum)
    dh_0 = empty(2, h_0.shape, typenum)
    dc_0 = empty(2, h_0.shape, typenum) if has_c else None
    l.dx, l.dh_0 = pointer(dx), pointer(dh_0)
    l.dweight_ih, l.dweight_hh, l.dbias_ih, l.dbias_hh = (
        pointer(dweight_ih), pointer(dweight_hh), pointer(dbias_ih), pointer(dbias_hh))

    share(&job, num_threads)
    cdef size_t L = job.lanes, row = round_up(l.hidden, L) * job.itemsize, packed_row = l.hidden * job.itemsize
    cdef Buffer carry, panels, split, scratch
    try:
        carry = Buffer(l.batch * row)
        l.carry = carry.data
        if has_c and dstate[1] is not None:
            copy_rows(l.carry, row, pointer(dstate[1]), packed_row, l.batch)
        else:
            memset(l.carry, 0, l.batch * row)
        choose_weight_split(&job)
        job.cell.measure(l, &job.sizes)
        panels = Buffer(
            job.itemsize * job.sizes.backward_panel * max(job.sizes.hidden_panels, job.sizes.input_panels))
        l.panels_hh = l.panels_ih = panels.data  # one after the other
        split = Buffer(job.itemsize * job.sizes.input_panels * job.sizes.split_backward)
        l.split_panels = split.data
        scratch = Buffer(job.itemsize * job.sizes.backward_scratch * job.threads)
        l.scratch = scratch.data
        with nogil:
            fastrnn_pool_run(pack_hidden_task, &job, job.threads, False)
            fastrnn_pool_run(backward_task, &job, job.threads, job.by_hidden)
            fastrnn_pool_run(weight_task, &job, job.threads, False)
            if l.dx != NULL:
                fastrnn_pool_run(pack_input_task, &job, job.threads, False)
                fastrnn_pool_run(input_task, &job, job.threads, False)
    finally:
        if job.threads > 1:
            fastrnn_pool_release()

    if has_c:
        copy_rows(pointer(dc_0), packed_row, l.carry, row, l.batch)
    return dx, (dh_0, dc_0) if has_c else (dh_0,), (dweight_ih, dweight_hh, dbias_ih, dbias_hh)


# ---- explanation

def explain(cell, weights, ptrdiff_t steps, ptrdiff_t batch, *, bint tokens, bint tape, bint packed, int num_threads):
    """What `forward`, and after one with a tape `backward`, would choose for x of a size: a dict of words."""
    cdef Job job
    describe_layer(&job, cell, weights, tape)
    cdef fastrnn_layer *l = &job.layer
    l.steps, l.batch = steps, batch
    if not tokens:
        l.x = l.weight_ih  # anything but NULL
    split_over(&job, threads_worth(&job, num_threads))
    plan_forward(&job, tape, packed and not tape)
    choose_weight_split(&job)
    rows = kernels_of(job.typenum).tile_rows
    chains = f"{ISAS[ISA - SPLITS]} multiply-adds, tiles of {rows} rows by 4 vectors of {job.lanes}"
    products = (chains, "split floats on the matrix unit (amx), tiles of 16 by 16")
    chosen = {
        "threads": f"{job.threads}, sharing the {'hidden units' if job.by_hidden else 'batch'}" if job.threads > 1 else "1",
        "weights": "packed as each step goes" if job.packs_as_it_goes else
                   "packed by an earlier call" if packed and not tape else "packed first",
        "input product": "columns of weight_ih, gathered" if tokens else products[l.split_x] + (
            f", {min(job.steps, max(steps, 1))} steps ahead" if l.projected else ", step by step"),
        "recurrent product": chains,
    }
    if tape:
        chosen["weight gradients"] = "in place, a few rows" if l.few_rows else products[l.split_w]
    return chosen


# ---- dense layers

cdef struct Multiplication:
    fastrnn_product product
    const fastrnn_kernels *kernels
    ptrdiff_t panels
    int threads


cdef void pack_right_task(void *context, int part) noexcept nogil:
    cdef Multiplication *job = <Multiplication *> context
    job.kernels.pack_right(
        &job.product, start(job.panels, job.threads, part), start(job.panels, job.threads, part + 1))


cdef void multiply_task(void *context, int part) noexcept nogil:
    cdef Multiplication *job = <Multiplication *> context
    cdef ptrdiff_t rows = job.product.rows
    job.kernels.multiply(
        &job.product, 0, job.panels, start(rows, job.threads, part), start(rows, job.threads, part + 1))


def multiply(cnp.ndarray a, cnp.ndarray b, bias=None, *, int num_threads=1):
    """Return a @ b + bias for a (R, K), b (K, C) and bias (C,), of any strides but one of b's is an element."""
    cdef Multiplication job
    memset(&job, 0, sizeof(job))
    cdef fastrnn_product *m = &job.product
    cdef int typenum = cnp.PyArray_TYPE(a), itemsize = itemsize_of(typenum)
    job.kernels = kernels_of(typenum)
    m.rows, m.K, m.columns = a.shape[0], a.shape[1], b.shape[1]
    m.a_row, m.a_k = a.strides[0] // itemsize, a.strides[1] // itemsize
    m.b_k, m.b_column = b.strides[0] // itemsize, b.strides[1] // itemsize
    m.a, m.b, m.bias = cnp.PyArray_DATA(a), cnp.PyArray_DATA(b), pointer(bias)
    cdef cnp.npy_intp *shape = [m.rows, m.columns]
    cdef cnp.ndarray out = empty(2, shape, typenum)
    m.out = cnp.PyArray_DATA(out)
    cdef ptrdiff_t width = 4 * job.kernels.lanes
    job.panels = round_up(m.columns, width) // width
    cdef Buffer panels = Buffer(itemsize * job.panels * m.K * width)
    m.panels = panels.data
    if 2.0 * m.rows * m.K * m.columns < FLOPS_WORTH_A_THREAD:
        num_threads = 1
    job.threads = fastrnn_pool_acquire(num_threads)
    with nogil:
        fastrnn_pool_run(pack_right_task, &job, job.threads, False)
        fastrnn_pool_run(multiply_task, &job, job.threads, False)
        if job.threads > 1:
            fastrnn_pool_release()
    return out


# ---- activations, for the tests

cdef struct Activation:
    void (*function)(void *, const void *, ptrdiff_t) noexcept nogil
    void *out
    const void *a
    ptrdiff_t count


cdef void activation_task(void *context, int part) noexcept nogil:
    cdef Activation *job = <Activation *> context
    job.function(job.out, job.a, job.count)


def activation(str name, cnp.ndarray a, str isa):
    """Return sigmoid(a) or tanh(a) as the cells compute it on instruction set `isa`, which must run here."""
    cdef Activation job
    cdef int typenum = cnp.PyArray_TYPE(a), at = ISAS.index(isa)
    if not fastrnn_isa_runs(at):
        raise ValueError(f"{isa} does not run on this CPU")
    cdef const fastrnn_kernels *kernels = fastrnn_kernel_table(
        at, FASTRNN_F32 if typenum == cnp.NPY_FLOAT32 else FASTRNN_F64)
    cdef cnp.ndarray out = empty(a.ndim, a.shape, typenum)
    job.function = kernels.sigmoid if name == "sigmoid" else kernels.tanh
    job.out, job.a, job.count = pointer(out), pointer(a), a.size
    with nogil:
        fastrnn_pool_run(activation_task, &job, 1, False)
    return out
