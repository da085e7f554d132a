"""The Cython backend: plans a call, owns its memory, and runs the time loops on the C kernels.

`forward` and `backward` must equal the functions of the same names in `fastrnn.reference`. What the C side does and how
its memory is laid out stands in c/kernels.h. Arrays come validated (fastrnn.ops): C-contiguous, aligned, one dtype.
"""

import os
import threading
import weakref

from fastrnn.cells.program import ArrayProgram, Instruction, Kind, Op, Operand
from fastrnn.machine import find_caches, why_no_sizes
from fastrnn.narrow import NarrowWeight
from fastrnn.threads import flops_worth_a_thread, usable_threads, why_no_flops

cimport cython
cimport numpy as cnp
from cpython.exc cimport PyErr_Occurred
from cpython.pycapsule cimport PyCapsule_New
from cpython.weakref cimport PyWeakref_NewRef
from libc.math cimport sqrt, sqrtf
from libc.stddef cimport size_t
from libc.stdint cimport intptr_t
from libc.string cimport memcpy, memset

from c_kernels cimport (
    FASTRNN_ADDED_FMA,
    FASTRNN_ADDED_FNMA,
    FASTRNN_ADDED_MUL,
    FASTRNN_ADD_ADD,
    FASTRNN_AT_AFTER,
    FASTRNN_AT_BEFORE,
    FASTRNN_AT_CONSTANT,
    FASTRNN_AT_EXTRA,
    FASTRNN_AT_GRADIENT,
    FASTRNN_AT_INTO_EXTRA,
    FASTRNN_AT_MIDDLE,
    FASTRNN_AT_OWN,
    FASTRNN_AT_REGISTER,
    FASTRNN_AT_ROW,
    FASTRNN_AT_SHOWN,
    FASTRNN_AT_SLOT,
    FASTRNN_AT_SUM,
    FASTRNN_AT_TAKEN,
    FASTRNN_AT_UNIT,
    FASTRNN_CHUNKS_TO_LOOK, FASTRNN_ROWS_IN_TURNS, FASTRNN_ROW_VECTORS,
    FASTRNN_BF16,
    FASTRNN_CONSTANTS,
    FASTRNN_EXTRAS,
    FASTRNN_F32,
    FASTRNN_F64,
    FASTRNN_FEW_ROWS,
    FASTRNN_FMA_ADD,
    FASTRNN_FMA_SIGMOID,
    FASTRNN_FMA_TANH,
    FASTRNN_GRADIENT_ROWS,
    FASTRNN_GROUP_UNITS,
    FASTRNN_GRU,
    FASTRNN_I8,
    FASTRNN_LEFT_ROWS,
    FASTRNN_LSTM,
    FASTRNN_MUL_FMA,
    FASTRNN_MUL_FNMA,
    FASTRNN_MUL_MUL,
    FASTRNN_MUL_SIGMOID_BACK,
    FASTRNN_MUL_TANH_BACK,
    FASTRNN_PARAMETERS,
    FASTRNN_PROGRAM,
    FASTRNN_RECYCLED,
    FASTRNN_REGISTERS,
    FASTRNN_RNN_RELU,
    FASTRNN_RNN_TANH,
    FASTRNN_ROW_VALUES,
    FASTRNN_STATES,
    FASTRNN_SUB_MUL,
    FASTRNN_SUMS,
    FASTRNN_UNIT_SLOTS,
    fastrnn_cache,
    fastrnn_cell,
    fastrnn_code,
    fastrnn_extra,
    fastrnn_give,
    fastrnn_instruction,
    fastrnn_is_scan,
    fastrnn_isa_names,
    fastrnn_isa_of,
    fastrnn_isa_runs,
    fastrnn_kernel_table,
    fastrnn_kernels,
    fastrnn_layer,
    fastrnn_memory_watch_forks,
    fastrnn_parallel,
    fastrnn_phase,
    fastrnn_phases,
    fastrnn_pool_acquire,
    fastrnn_pool_barrier,
    fastrnn_pool_borrow,
    fastrnn_pool_release,
    fastrnn_pool_run,
    fastrnn_pool_watch_forks,
    fastrnn_product,
    fastrnn_program,
    fastrnn_sizes,
    fastrnn_step_count,
    fastrnn_step_row,
    fastrnn_stopped,
    fastrnn_stopping,
    fastrnn_take,
    fastrnn_task,
    fastrnn_watch,
    fastrnn_watch_start,
)

from fastrnn.fits import check_call, check_product, check_weights
from fastrnn.kernels.choices import numbers

LEAVES_DX = True  # whether backward may do without the gradient of x
LEAVES_DWEIGHTS = True  # whether it may do without those of the weights
TAKES_PREPARED = True  # in place of a cell's own parameters what its programs see
TAKES_KEPT = True  # whether forward puts its tape into arrays that it is given
PRECISIONS = ("bfloat16", "int8")  # of weights, besides their dtypes; int8 is for inference, without a tape
RUNS_GROUPS = True  # whether forward and pack take several layers of one shape
LOOKS_ITSELF = True  # whether arrays fit one another, sooner than fastrnn.ops would

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

    /* Run the handlers of signals; an error of theirs stays set. */
    static int look_for_signals(void) {
        const PyGILState_STATE state = PyGILState_Ensure();
        const int failed = PyErr_CheckSignals() != 0;
        PyGILState_Release(state);
        return failed;
    }
    """
    int recycling_handler
    int look_for_signals() noexcept nogil
    unsigned long PyThread_get_thread_ident() noexcept nogil

cdef extern from "numpy/arrayobject.h":
    object PyDataMem_SetHandler(object handler)

cnp.import_array()
fastrnn_pool_watch_forks()
fastrnn_memory_watch_forks()

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
MULTIPLIES_BFLOAT16 = ISAS[fastrnn_isa_of(ISA, FASTRNN_BF16)] == "avx512_bf16"  # else it is multiplied as float32


def why_not_runnable():
    """Why this backend cannot run here, or None."""
    if WANTED and WANTED not in ISAS:
        return f"FASTRNN_ISA is {WANTED!r}; expected one of {', '.join(ISAS)}"
    if WHY_NOT_TUNED is not None:
        return WHY_NOT_TUNED
    return why_no_flops() or why_no_sizes()


def describe():
    """What was built, what runs here and what is used, for `fastrnn.info`."""
    states = [
        f"{name}: " + ("used" if isa == ISA else "runs" if fastrnn_isa_runs(isa) else "not on this CPU")
        for isa, name in enumerate(ISAS)
    ]
    lowered = f"; FASTRNN_ISA={WANTED}" if WANTED else ""
    narrow = f"bfloat16 weights on {ISAS[fastrnn_isa_of(ISA, FASTRNN_BF16)]}, int8 on {ISAS[fastrnn_isa_of(ISA, FASTRNN_I8)]}"
    return f"C kernels, instruction sets {', '.join(states)}{lowered}, vectors of {32 * LANES} bits; {narrow}"


# ---- signals

cdef unsigned long MAIN_THREAD  # the one that runs the handlers of signals


def _note_main_thread():
    global MAIN_THREAD
    MAIN_THREAD = threading.main_thread().ident


_note_main_thread()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_note_main_thread)


cdef inline void begin(fastrnn_watch *watch, bint stops=True) noexcept:
    """Begin a call, which a signal stops if its handler raises."""
    if stops and PyThread_get_thread_ident() == MAIN_THREAD:
        fastrnn_watch_start(watch, look_for_signals)
    else:
        fastrnn_watch_start(watch, NULL)


cdef int check(const fastrnn_watch *watch) except -1:
    """Raise what has stopped the call, if anything."""
    if not fastrnn_stopping(watch):
        return 0
    if PyErr_Occurred() == NULL:
        raise RuntimeError("a signal's handler forked this process during a call of fastrnn: the child cannot go on with it")
    return -1


# ---- memory

@cython.no_gc  # arrays have no cycles through it
cdef class Buffer:
    """Uninitialised memory aligned to a cache line; that of an array in the list `arrays`, its next one, if it serves."""

    cdef void *data
    cdef size_t size
    cdef object array  # which owns the memory, if `own` is false
    cdef bint own

    def __cinit__(self, size_t size, list arrays=None):
        cdef cnp.ndarray array
        self.size = size
        if arrays:
            array = arrays.pop(0)
            if <size_t> cnp.PyArray_DATA(array) % 64 == 0 and <size_t> cnp.PyArray_NBYTES(array) >= size:
                self.array, self.data = array, cnp.PyArray_DATA(array)
                return
        self.data, self.own = fastrnn_take(size), True
        if self.data == NULL:
            raise MemoryError(f"no {size} bytes of memory for the kernels")

    def __dealloc__(self):
        if self.own:
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


def new_array(tuple shape, dtype):
    """A new array, a large one on memory that is recycled."""
    cdef cnp.npy_intp sizes[4]
    cdef int i
    for i in range(len(shape)):
        sizes[i] = shape[i]
    return empty(len(shape), sizes, cnp.NPY_FLOAT32 if dtype.itemsize == 4 else cnp.NPY_FLOAT64)


cdef inline void *pointer(object array) noexcept:
    return NULL if array is None else cnp.PyArray_DATA(<cnp.ndarray> array)


cdef inline ptrdiff_t round_up(ptrdiff_t count, ptrdiff_t step) noexcept nogil:
    return (count + step - 1) // step * step


cdef void copy_rows(
    void *out, size_t out_row, const void *rows, size_t row, size_t count, size_t size, size_t filled=0
) noexcept nogil:
    """Copy `size` bytes of `count` rows; what follows them in an output row, up to `filled` bytes, becomes zero."""
    cdef size_t i
    for i in range(count):
        memcpy(<char *> out + i * out_row, <const char *> rows + i * row, size)
        if filled > size:
            memset(<char *> out + i * out_row + size, 0, filled - size)


# ---- what may be read and written

cdef bint is_array(object array, int typenum, int ndim, ptrdiff_t a, ptrdiff_t b=0, ptrdiff_t c=0) noexcept:
    """Whether `array` is a C-contiguous, aligned, native one of a type and of the shape (a,), (a, b) or (a, b, c)."""
    if not cnp.PyArray_Check(array):
        return False
    cdef cnp.ndarray given = array
    cdef ptrdiff_t *shape = [a, b, c]
    cdef int i, its = cnp.PyArray_TYPE(given)
    # intp may be either of two types of C that are alike
    if given.ndim != ndim or not (its == typenum or (typenum == cnp.NPY_INTP and cnp.PyArray_EquivTypenums(its, typenum))):
        return False
    for i in range(ndim):
        if given.shape[i] != shape[i]:
            return False
    return cnp.PyArray_ISCARRAY_RO(given)


cdef bint are_rows(object array, const Job *job, bint ragged, ptrdiff_t T) noexcept:
    """Whether `array` is a y or dy: (T, N, P), or ragged (R, P), whose rows are contiguous and lie evenly."""
    if not cnp.PyArray_Check(array):
        return False
    cdef cnp.ndarray given = array
    cdef ptrdiff_t P = job.layer.outputs, N = job.layer.batch
    if cnp.PyArray_TYPE(given) != job.typenum or not (cnp.PyArray_ISALIGNED(given) and cnp.PyArray_ISNOTSWAPPED(given)):
        return False
    if given.ndim != (2 if ragged else 3) or given.shape[0] != T or given.shape[given.ndim - 1] != P:
        return False
    if not ragged and given.shape[1] != N:
        return False
    return T == 0 or N == 0 or (
        (given.strides[given.ndim - 1] == job.itemsize or P == 1)
        and (ragged or T == 1 or N == 1 or given.strides[0] == N * given.strides[1]))


cdef bint are_apart(object array, int typenum, ptrdiff_t rows, ptrdiff_t width) noexcept:
    """Whether `array` is an aligned, native one of a type and shape whose rows are contiguous and do not overlap."""
    if not cnp.PyArray_Check(array):
        return False
    cdef cnp.ndarray given = array
    if cnp.PyArray_TYPE(given) != typenum or given.ndim != 2 or given.shape[0] != rows or given.shape[1] != width:
        return False
    if not (cnp.PyArray_ISALIGNED(given) and cnp.PyArray_ISNOTSWAPPED(given)):
        return False
    cdef ptrdiff_t itemsize = cnp.PyArray_ITEMSIZE(given)
    return rows == 0 or (width == 1 or given.strides[1] == itemsize) and (
        rows == 1 or given.strides[0] % itemsize == 0 and given.strides[0] >= width * itemsize)


cdef inline ptrdiff_t row_of(cnp.ndarray array) noexcept:
    """From row to row of an array that `are_apart`."""
    return array.strides[0] // cnp.PyArray_ITEMSIZE(array) if array.shape[0] > 1 else array.shape[1]


cdef bint weights_fit(ptrdiff_t x_gates, ptrdiff_t h_gates, ptrdiff_t parameters, weights) noexcept:
    """Whether the weights of a layer fit one another: `fastrnn.fits.check_weights`."""
    ih, hh, bias_ih, bias_hh, hr, unit = weights
    if not (cnp.PyArray_Check(ih) and (cnp.PyArray_Check(hh) or hh is None and h_gates == 0)):
        return False
    cdef cnp.ndarray weight_ih = ih, outer = ih if hh is None else hh
    cdef int typenum = cnp.PyArray_TYPE(weight_ih)
    if typenum not in (cnp.NPY_FLOAT32, cnp.NPY_FLOAT64) or weight_ih.ndim != 2 or outer.ndim != 2:
        return False
    cdef ptrdiff_t rows = weight_ih.shape[0], I = weight_ih.shape[1], H = rows // x_gates, P = H
    if hh is not None:
        P = outer.shape[1]
    elif hr is not None and cnp.PyArray_Check(hr) and (<cnp.ndarray> hr).ndim:
        P = (<cnp.ndarray> hr).shape[0]
    return (
        rows == x_gates * H and rows > 0 and I > 0 and P > 0
        and is_array(ih, typenum, 2, rows, I) and (hh is None or is_array(hh, typenum, 2, h_gates * H, P))
        and (P == H if hr is None else is_array(hr, typenum, 2, P, H))
        and (unit is None and parameters == 0 or is_array(unit, typenum, 2, parameters, H))
        and ((bias_ih is None and bias_hh is None)
             or (is_array(bias_ih, typenum, 1, rows)
                 and (bias_hh is None and hh is None or is_array(bias_hh, typenum, 1, h_gates * H)))))


cdef int refuse_misfits(cell, weights) except -1:
    """ValueError unless the weights of a layer fit one another."""
    cdef ptrdiff_t gates = len(cell.gates)
    program = cell.program
    if not (weights_fit(gates, gates, 0, weights) if program is None else weights_fit(
            len(program.x_gates), len(program.h_gates) + len(program.m_gates), program.seen_units, weights)):
        check_weights(cell, weights, prepared=True)  # which says what does not
        raise ValueError("the weights do not fit one another")
    return 0


cdef object hold(object array):
    """What keeps NumPy, as long as it lives, from giving the memory of an array away, even by resize(refcheck=False)."""
    if array is None:
        return None
    owner = cnp.get_array_base(array)
    return PyWeakref_NewRef(owner if isinstance(owner, cnp.ndarray) else array, None)


def sample(cnp.ndarray x):
    """A number that tells real x, contiguous, from other values in its place: of some 64 of them, or of all of fewer."""
    if not cnp.PyArray_ISFLOAT(x):
        return 0
    cdef ptrdiff_t i, at, size = x.size, count = min(size, 64)
    cdef const char *data = <const char *> cnp.PyArray_DATA(x)
    cdef size_t itemsize = cnp.PyArray_ITEMSIZE(x), found = size, bits = 0
    cdef size_t golden = 0x9E3779B97F4A7C15  # of 2^64: its multiples meet every column of x
    for i in range(count):
        at = i if size == count else <ptrdiff_t> (<double> ((i + 1) * golden >> 32) / 4294967296.0 * size)
        if itemsize == 4:
            bits = (<const unsigned int *> (data + at * 4))[0]
        else:
            bits = (<const size_t *> (data + at * 8))[0]
        found += bits * (golden + 2 * i)
    return found


# ---- cells that are programs

cdef dict PLACES = {
    Kind.SLOT: (FASTRNN_AT_SLOT, FASTRNN_UNIT_SLOTS),
    Kind.BEFORE: (FASTRNN_AT_BEFORE, FASTRNN_STATES),
    Kind.AFTER: (FASTRNN_AT_AFTER, FASTRNN_STATES),
    Kind.GRADIENT: (FASTRNN_AT_GRADIENT, FASTRNN_STATES),
    Kind.UNIT: (FASTRNN_AT_UNIT, FASTRNN_PARAMETERS),
    Kind.MIDDLE: (FASTRNN_AT_MIDDLE, 1),
    Kind.EXTRA: (FASTRNN_AT_EXTRA, FASTRNN_EXTRAS),
    Kind.TAKEN: (FASTRNN_AT_TAKEN, 1),
    Kind.SHOWN: (FASTRNN_AT_SHOWN, FASTRNN_UNIT_SLOTS),
    Kind.CONSTANT: (FASTRNN_AT_CONSTANT, FASTRNN_CONSTANTS),
    Kind.REGISTER: (FASTRNN_AT_REGISTER, FASTRNN_REGISTERS),
    Kind.ROW: (FASTRNN_AT_ROW, FASTRNN_ROW_VALUES),
    Kind.SUM: (FASTRNN_AT_SUM, FASTRNN_SUMS),
    Kind.OWN: (FASTRNN_AT_OWN, FASTRNN_PARAMETERS),
    Kind.INTO_EXTRA: (FASTRNN_AT_INTO_EXTRA, FASTRNN_EXTRAS),
}


cdef int place(operand) except -1:
    """An operand's index in the kernels' table of places."""
    kind, index = operand
    first, count = PLACES[kind]
    if not 0 <= index < count:
        raise ValueError(f"a cell's program has {kind.name} {index}; expected less than {count}")
    return first + index


# Two operations in one instruction, by the first one, the second, and which of its operands the first one makes.
TWO_AT_ONCE = {
    (Op.ADD, Op.ADD, 0): FASTRNN_ADD_ADD,
    (Op.SUB, Op.MUL, 0): FASTRNN_SUB_MUL,
    (Op.MUL, Op.MUL, 0): FASTRNN_MUL_MUL,
    (Op.MUL, Op.FMA, 0): FASTRNN_MUL_FMA,
    (Op.MUL, Op.FNMA, 0): FASTRNN_MUL_FNMA,
    (Op.MUL, Op.SIGMOID_BACK, 0): FASTRNN_MUL_SIGMOID_BACK,
    (Op.MUL, Op.TANH_BACK, 0): FASTRNN_MUL_TANH_BACK,
    (Op.FMA, Op.ADD, 0): FASTRNN_FMA_ADD,
    (Op.FMA, Op.SIGMOID, 0): FASTRNN_FMA_SIGMOID,
    (Op.FMA, Op.TANH, 0): FASTRNN_FMA_TANH,
    (Op.MUL, Op.FMA, 2): FASTRNN_ADDED_MUL,
    (Op.FMA, Op.FMA, 2): FASTRNN_ADDED_FMA,
    (Op.FNMA, Op.FMA, 2): FASTRNN_ADDED_FNMA,
}
_OPERANDS = {Op.SIGMOID: 1, Op.TANH: 1, Op.FMA: 3, Op.FNMA: 3}  # of these operations, if not two
_EITHER_WAY = (Op.ADD, Op.MUL, Op.FMA, Op.FNMA)  # whose first two operands may change places


def _two_at_once(first, second, rest):
    """Both instructions as one with the same bits: (op, out, a, b, c, d, e). None if there is none such.

    Nobody else may read what the first one leaves; `rest` are the instructions that follow.
    """
    made = first.out
    read = list(second[2:2 + _OPERANDS.get(second.op, 2)])
    if made.kind != Kind.REGISTER or read.count(made) != 1:
        return None
    if second.out != made:
        for later in rest:
            if made in later[2:]:
                return None
            if later.out == made:
                break
    at = read.index(made)
    if at == 1 and second.op in _EITHER_WAY:
        read[0], read[1] = read[1], read[0]
        at = 0
    op = TWO_AT_ONCE.get((first.op, second.op, at))
    if op is None:
        return None
    d, e = first.a, first.b
    read[at] = d  # which is not looked at
    a, b, c = read + [d] * (3 - len(read))
    return op, second.out, a, b, first.c if first.op in (Op.FMA, Op.FNMA) else c, d, e


def with_two_at_once(instructions):
    """A program whose instructions have operands a to e, two operations in one where that can be."""
    cdef ptrdiff_t i = 0, count = len(instructions)
    found = []
    while i < count:
        both = _two_at_once(instructions[i], instructions[i + 1], instructions[i + 2:]) if i + 1 < count else None
        one = instructions[i]
        found.append(both or (*one, one.a, one.a))
        i += 2 if both else 1
    return found


cdef class Compiled:
    """A cell's program for the kernels, in one dtype."""

    cdef fastrnn_program program
    cdef Buffer instructions, constants, phases

    def __init__(self, program, gates, int typenum, int units):
        cdef fastrnn_program *p = &self.program
        cdef ptrdiff_t i, k, lanes = kernels_of(typenum).lanes
        cdef fastrnn_instruction *at
        cdef fastrnn_phase *phase
        cdef fastrnn_phases **parts = [&p.phases_middle, &p.phases, &p.phases_middle_back, &p.phases_back]
        x_gates, h_gates, m_gates = program.x_gates, program.h_gates, program.m_gates
        p.slots, p.x_slots, p.h_slots, p.m_slots = program.slots, len(x_gates), len(h_gates), len(m_gates)
        p.h_first, p.m_first = program.h_first, program.m_first
        p.states, p.parameters, p.gates, p.reads_h = program.states, program.seen_units, gates, program.reads_h
        p.registers, p.constant_count, p.extras = program.registers, len(program.constants), len(program.extras)
        p.into_extras = program.into_extras
        all_phases = program.all_phases
        rows_read = [
            sorted({operand.index for one in each.of_units for operand in one[1:] if operand.kind == Kind.ROW})
            for each in all_phases]
        rows_made = [
            operand.index for each in all_phases for one in each.of_row for operand in one[1:] if operand.kind == Kind.ROW]
        rows_made += [index for each in all_phases for index in each.means]
        p.all_row_values = max([program.row_values] + [index + 1 for index in rows_made])
        p.sums = max([len(each.means) for each in all_phases], default=0)
        p.adds_up = program.adds_up
        cdef ptrdiff_t room = max(p.slots + (0 if p.adds_up else p.parameters), <int> program.room)
        p.units, p.blocks = units, (room * units + 3) // 4
        for name, count, most in (
                ("sums, parameters and values to keep", room, FASTRNN_UNIT_SLOTS), ("gates", gates, FASTRNN_UNIT_SLOTS),
                ("parameters", p.parameters, FASTRNN_PARAMETERS), ("states", p.states, FASTRNN_STATES),
                ("values beside x", p.extras, FASTRNN_EXTRAS), ("constants", p.constant_count, FASTRNN_CONSTANTS),
                ("values of a row", p.all_row_values, FASTRNN_ROW_VALUES), ("means at once", p.sums, FASTRNN_SUMS),
                ("registers", p.registers, FASTRNN_REGISTERS)):
            if count > most:
                raise ValueError(f"the cell has {count} {name}; expected {most} at the most for the C kernels")
        for i in range(p.x_slots * units):
            p.x_gates[i] = sorted(x_gates).index(x_gates[i // units])
        blocks_hh = sorted(h_gates + m_gates)
        for i in range(p.h_slots * units):
            p.h_gates[i] = blocks_hh.index(h_gates[i // units])
        for i in range(p.m_slots * units):
            p.m_gates[i] = blocks_hh.index(m_gates[i // units])
        codes = [
            program.forward, program.backward, program.inside, program.middle, program.middle_back, program.take,
            program.take_back]
        for each in all_phases:
            codes += [each.of_row, each.of_units]
        p.reads_y = any((Kind.AFTER, 0) in one[2:] for each in (program.backward, program.middle_back, program.inside)
                        for one in each)
        codes = [with_two_at_once(each) for each in codes]
        self.instructions = Buffer(sum(map(len, codes)) * sizeof(fastrnn_instruction))
        at = <fastrnn_instruction *> self.instructions.data
        cdef fastrnn_code **compiled = [
            &p.forward, &p.backward, &p.inside, &p.middle, &p.middle_back, &p.take, &p.take_back]
        cdef fastrnn_code *code
        self.phases = Buffer(len(all_phases) * sizeof(fastrnn_phase))
        phase = <fastrnn_phase *> self.phases.data
        p.row_values, k = program.row_values, 0
        for i, part in enumerate((program.phases_middle, program.phases, program.phases_middle_back, program.phases_back)):
            parts[i].first, parts[i].count = phase + k, len(part)
            k += len(part)
        for i, (means, _, _) in enumerate(all_phases):
            phase[i].mean_count = len(means)
            for k in range(phase[i].mean_count):
                phase[i].means[k] = place((Kind.ROW, means[k])) - FASTRNN_AT_ROW
            phase[i].read_count = len(rows_read[i])
            for k in range(phase[i].read_count):
                phase[i].reads[k] = rows_read[i][k]
        for i, instructions in enumerate(codes):
            if i < 7:
                code = compiled[i]
            else:
                code = &phase[(i - 7) // 2].of_units if (i - 7) % 2 else &phase[(i - 7) // 2].of_row
            code.instructions, code.count = at, len(instructions)
            for op, out, *operands in instructions:
                at.op, at.out = op, place(out)
                at.a, at.b, at.c, at.d, at.e = map(place, operands)
                at += 1
        lanes *= units
        self.constants = Buffer(p.constant_count * lanes * itemsize_of(typenum))
        p.constants = self.constants.data
        for i, value in enumerate(program.constants):
            for k in range(lanes):
                if typenum == cnp.NPY_FLOAT32:
                    (<float *> self.constants.data)[i * lanes + k] = value
                else:
                    (<double *> self.constants.data)[i * lanes + k] = value


cdef dict COMPILED = {}  # by id of a cell, dtype and units of a group, for as long as the cell lives


cdef Compiled compile_program(cell, int typenum, ptrdiff_t hidden):
    """A cell's program for the kernels, made once."""
    # Four unit vectors share their blocks, so that any number of slots fills whole tiles; fewer if there are no more.
    cdef ptrdiff_t lanes = kernels_of(typenum).lanes
    cdef int units = 1 if hidden <= lanes else 2 if hidden <= 2 * lanes else FASTRNN_GROUP_UNITS
    key = id(cell), typenum, units
    found = COMPILED.get(key)
    if found is None:
        found = Compiled(cell.program, len(cell.gates), typenum, units)
        COMPILED[key] = found
        weakref.finalize(cell, COMPILED.pop, key, None).atexit = False
    return found


# ---- the plan of a call

cdef struct Group


cdef struct Job:
    fastrnn_layer layer
    int precision       # of the weights: FASTRNN_F32, ...
    const fastrnn_cell *cell
    const fastrnn_kernels *kernels
    fastrnn_product projection  # y := u weight_hr^T in forward, du := dh weight_hr in backward; rows of one step
    fastrnn_product gradient_hr  # dweight_hr += dh^T u, of a chunk of rows
    int typenum
    ptrdiff_t gates     # that are shown
    ptrdiff_t x_gates, h_gates  # that the products feed
    ptrdiff_t blocks    # of hidden units, in Z
    ptrdiff_t strands   # blocks that have their units in common, which one thread takes together
    ptrdiff_t block_units  # hidden units of these
    ptrdiff_t others    # states besides h
    ptrdiff_t lanes
    int itemsize
    int threads         # that share the layer
    int pool            # that the pool gave
    int packs_as_it_goes  # each step packs what it needs into L1
    int by_hidden       # threads split the hidden units, with a barrier per step; else the batch
    bint apart          # threads that do so need no barrier
    bint of_row         # the steps of a single row are taken at once
    ptrdiff_t steps     # of one projection of the input
    bint makes_dx, makes_dweights  # on the way back, piece by piece, and not after it
    fastrnn_sizes sizes
    fastrnn_watch watch
    bint brief               # so that other Python threads can wait for it: some 10 us
    ptrdiff_t steps_to_look  # after which a task asks whether to stop
    ptrdiff_t pieces         # that a step is done in, to ask between them
    Group *group             # whose first member this is, or NULL


# What is done, one after the other, by all threads.
cdef struct Plan:
    int count
    fastrnn_task *tasks[6]
    bint together[6]


# A pointer of a job that lies elsewhere for each member of a group, or for each of those that are run at a time.
cdef struct Moved:
    size_t at  # in the job
    ptrdiff_t by_member, by_slot  # bytes


# Several layers of one shape in one call: the job is the first one's, and the others have pointers of their own.
cdef struct Group:
    Job *first
    const Plan *plan
    ptrdiff_t members
    ptrdiff_t at_once  # members whose steps one thread takes in turns
    ptrdiff_t slots    # members that are run at a time
    bint across        # each member has one thread; or all threads have one member after the other
    int count
    Moved moved[48]


cdef enum:
    # What packing one weight costs, in flops.
    FLOPS_OF_PACKING = 12
    # What an element of a softmax costs, in flops of products.
    FLOPS_OF_SOFTMAX = 100
    # From how many bytes and inputs on weight_ih is worth splitting: at 128 KB an RNN with N = 1 lost a tenth of a
    # training step, an LSTM with N = 32 gained nothing.
    SPLIT_BYTES = 192 * 1024
    # The same of a cell without a recurrent product, which projects all of x ahead in any case.
    SPLIT_BYTES_OF_SCAN = 32 * 1024
    SPLIT_INPUTS = 32
    # From how many rows, of all steps, and hidden units on the gradients of the weights are: with 32 units at N = 32 to
    # 64 steps took up to 1.24 times as long, with 64 they gained 1.05.
    SPLIT_ROWS = 128
    SPLIT_HIDDEN = 64
    # Tasks ask whether to stop about as often as this many flops are done, in the first case if they are cheap to count:
    # that takes some 30 ns, and these 10 us, or 5 to 50 ms.
    FLOPS_TO_LOOK = 1_000_000
    FLOPS_OF_A_PIECE = 500_000_000


# The numbers that choose between ways with the same bits; what they mean, and what they are, stands in choices.py. They are
# variables, so that tests can have every way, by `_override`.
cdef:
    ptrdiff_t FLOPS_WORTH_A_THREAD
    ptrdiff_t ROWS_WORTH_A_THREAD
    ptrdiff_t ROWS_WORTH_LARGE_WEIGHTS
    ptrdiff_t MEMBERS_APART
    ptrdiff_t LARGE_BYTES
    ptrdiff_t ROWS_WORTH_FUSING
    ptrdiff_t PROJECTION_BYTES
    ptrdiff_t ROWS_BACK
    ptrdiff_t STEPS_NOT_WORTH_PACKING
    ptrdiff_t STEPS_NOT_WORTH_PACKING_LARGE
    ptrdiff_t FETCH_BYTES
    ptrdiff_t GRADIENT_BYTES
    ptrdiff_t FEW_ROWS
    ptrdiff_t PAIRS
    ptrdiff_t ROW_VECTORS
    ptrdiff_t ROW_INPUTS
    ptrdiff_t ROW_BYTES
    ptrdiff_t ROWS_IN_TURNS
    ptrdiff_t BYTES_IN_TURNS

cdef dict ADDRESSES = {
    "FLOPS_WORTH_A_THREAD": <size_t> &FLOPS_WORTH_A_THREAD,
    "ROWS_WORTH_A_THREAD": <size_t> &ROWS_WORTH_A_THREAD,
    "ROWS_WORTH_LARGE_WEIGHTS": <size_t> &ROWS_WORTH_LARGE_WEIGHTS,
    "MEMBERS_APART": <size_t> &MEMBERS_APART,
    "LARGE_BYTES": <size_t> &LARGE_BYTES,
    "ROWS_WORTH_FUSING": <size_t> &ROWS_WORTH_FUSING,
    "PROJECTION_BYTES": <size_t> &PROJECTION_BYTES,
    "ROWS_BACK": <size_t> &ROWS_BACK,
    "STEPS_NOT_WORTH_PACKING": <size_t> &STEPS_NOT_WORTH_PACKING,
    "STEPS_NOT_WORTH_PACKING_LARGE": <size_t> &STEPS_NOT_WORTH_PACKING_LARGE,
    "FETCH_BYTES": <size_t> &FETCH_BYTES,
    "GRADIENT_BYTES": <size_t> &GRADIENT_BYTES,
    "FEW_ROWS": <size_t> &FEW_ROWS,
    "PAIRS": <size_t> &PAIRS,
    "ROW_VECTORS": <size_t> &ROW_VECTORS,
    "ROW_INPUTS": <size_t> &ROW_INPUTS,
    "ROW_BYTES": <size_t> &ROW_BYTES,
    "ROWS_IN_TURNS": <size_t> &ROWS_IN_TURNS,
    "BYTES_IN_TURNS": <size_t> &BYTES_IN_TURNS,
}


def _override(**values):
    """Replace numbers of those above, for the calls from here on, and return what they were."""
    before = {}
    for name, value in values.items():
        number = <ptrdiff_t *> <size_t> ADDRESSES[name]
        before[name], number[0] = number[0], value
    return before


def _numbers():
    """What they are now."""
    return {name: (<ptrdiff_t *> <size_t> address)[0] for name, address in ADDRESSES.items()}


cdef inline int precision_of(int typenum) noexcept:
    return FASTRNN_F32 if typenum == cnp.NPY_FLOAT32 else FASTRNN_F64


def _tuned(text):
    """Replace numbers as FASTRNN_TUNE says, NAME=NUMBER,..., and return what is wrong with it, or None."""
    pairs = [pair.strip().partition("=") for pair in text.split(",") if pair.strip()]
    for name, _, value in pairs:
        if name not in ADDRESSES or not value.isdecimal() or int(value) > 1 << 62:
            return f"FASTRNN_TUNE is {text!r}; expected NAME=NUMBER,... with names of {', '.join(ADDRESSES)}"
    _override(**{name: int(value) for name, _, value in pairs})


def _caches():
    """Those of this CPU."""
    cdef int level, sharing
    told = []
    for level in range(1, 4):
        size = fastrnn_cache(level, &sharing)
        told.append((size, sharing))
    return find_caches(told)


CACHES = _caches()
LANES = fastrnn_kernel_table(ISA, FASTRNN_F32).lanes  # float32 of a vector
_override(**numbers(CACHES, LANES))
FLOPS_WORTH_A_THREAD = flops_worth_a_thread(FLOPS_WORTH_A_THREAD)
cdef object WHY_NOT_TUNED = _tuned(os.environ.get("FASTRNN_TUNE", ""))


cdef inline const fastrnn_kernels *kernels_of(int typenum) noexcept:
    return fastrnn_kernel_table(ISA, precision_of(typenum))


cdef void choose_splits(Job *job, bint tape) noexcept:
    """Choose which products run on split floats.

    Never by T or N, which must not change the bits of y and dx. A batch of one, which reads weights for longer than it
    multiplies, loses by it: split weights are half as large again. So inference, where that is common, never splits.
    """
    cdef fastrnn_layer *l = &job.layer
    cdef ptrdiff_t weight = job.itemsize * job.x_gates * l.hidden
    if not SPLITS or job.precision != FASTRNN_F32:
        return
    l.split_x = SPLITS_ALL or (tape and l.inputs >= SPLIT_INPUTS and (
        weight * l.inputs >= (SPLIT_BYTES_OF_SCAN if is_scan(l) else SPLIT_BYTES)))


cdef void choose_weight_split(Job *job, ptrdiff_t rows) noexcept:
    """The same of the gradients of the weights. They are sums over all rows, whose bits are a matter of those anyhow."""
    cdef fastrnn_layer *l = &job.layer
    # Where weights are small, panels pay from 9 rows on: 16 rows of H = 64 train 1.26 times as fast, 12 of H = 256 0.90.
    l.few_rows = rows <= min(FEW_ROWS, FASTRNN_FEW_ROWS, max(8, l.hidden // 20)) and not l.dweight_add and not job.sizes.left_row
    if SPLITS and not has_middle(l) and job.precision == FASTRNN_F32 and not l.few_rows:
        l.split_w = SPLITS_ALL or rows >= SPLIT_ROWS and l.hidden >= SPLIT_HIDDEN


cdef inline int itemsize_of(int typenum) noexcept:
    return 4 if typenum == cnp.NPY_FLOAT32 else 8


cdef int choose_cell(Job *job, object cell, ptrdiff_t hidden) except -1:
    """Fill in what follows from the cell, the dtype and the number of hidden units."""
    cdef Compiled compiled
    job.itemsize, job.kernels = itemsize_of(job.typenum), fastrnn_kernel_table(ISA, job.precision)
    job.gates = job.x_gates = job.h_gates = len(cell.gates)
    job.others, job.strands = len(cell.states) - 1, 1
    if cell.program is None:
        job.cell = &job.kernels.cells[<int> CELL_IDS[cell.name]]
        job.block_units = job.cell.block_units
    else:
        compiled = compile_program(cell, job.typenum, hidden)
        job.block_units = compiled.program.units * job.kernels.lanes
        job.layer.program = &compiled.program
        job.x_gates, job.h_gates, job.strands = (
            compiled.program.x_slots, compiled.program.h_slots + compiled.program.m_slots, compiled.program.blocks)
        job.cell = &job.kernels.cells[<int> FASTRNN_PROGRAM]
    job.lanes = job.kernels.lanes
    return 0


cdef inline ptrdiff_t blocks_of(const Job *job, ptrdiff_t hidden) noexcept:
    """How many blocks so many hidden units have."""
    return round_up(hidden, job.block_units) // job.block_units * job.strands


cdef inline ptrdiff_t c_width(const Job *job) noexcept:
    """Elements of a row of c: all states but h."""
    return job.others * round_up(job.layer.hidden, job.lanes)


cdef int describe_layer(Job *job, object cell, weights, bint tape) except -1:
    """Fill in what a job knows before it has input: the layer's weights and the sizes that follow from them."""
    cdef fastrnn_layer *l = &job.layer
    cdef cnp.ndarray weight_ih
    memset(job, 0, sizeof(Job))
    if type(weights[0]) is NarrowWeight:
        weights = take_narrow(job, cell, weights, tape)
        weight_ih = weights[0]
    else:
        refuse_misfits(cell, weights)
        weight_ih = weights[0]
        job.typenum = cnp.PyArray_TYPE(weight_ih)
        job.precision = precision_of(job.typenum)
    l.weight_ih, l.weight_hh, l.bias_ih, l.bias_hh, l.unit = (
        pointer(weight_ih), pointer(weights[1]), pointer(weights[2]), pointer(weights[3]), pointer(weights[5]))
    l.inputs = weight_ih.shape[1]
    l.hidden = weight_ih.shape[0] // len(cell.gates if cell.program is None else cell.program.x_gates)
    choose_cell(job, cell, l.hidden)
    l.outputs = l.hidden
    if weights[1] is not None:
        l.outputs = (<cnp.ndarray> weights[1]).shape[1]
    elif weights[4] is not None:
        l.outputs = (<cnp.ndarray> weights[4]).shape[0]
    l.pairs, l.fetch_bytes, l.gradient_bytes = PAIRS, FETCH_BYTES, GRADIENT_BYTES
    choose_splits(job, tape)
    job.blocks = blocks_of(job, l.hidden)
    job.cell.measure(l, &job.sizes)
    l.panel_stride = job.sizes.panel
    if weights[4] is not None:
        job.projection.b = pointer(weights[4])
        describe_projection(job, l.hidden, l.outputs, 1, l.hidden)
    return 0


cdef tuple take_narrow(Job *job, cell, weights, bint tape):
    """Fill in what is a layer's own whose weights have fewer bits; its weights, with the bits of those in their place."""
    cdef ptrdiff_t gates = len(cell.gates), I, P, H
    cdef int bits
    if type(weights[1]) is not NarrowWeight:
        raise ValueError("only one of weight_ih and weight_hh has fewer bits")
    ih, hh, bias_ih, bias_hh, hr, unit = weights
    job.typenum, job.precision = cnp.NPY_FLOAT32, FASTRNN_BF16 if ih.scale is None else FASTRNN_I8
    bits = job.typenum if ih.scale is None else cnp.NPY_INT8
    H, I, P = len(ih) // gates, ih.shape[1], hh.shape[1]
    if (tape and bits == cnp.NPY_INT8) or cell.program is not None or not (
            is_array(ih.values, bits, 2, gates * H, I) and is_array(hh.values, bits, 2, gates * H, P)
            and I > 0 and P > 0 and H > 0
            and (bits == job.typenum or are_of_rows(job.typenum, gates * H, ih.scale, hh.scale))
            and (bias_ih is None and bias_hh is None or are_of_rows(job.typenum, gates * H, bias_ih, bias_hh))
            and (P == H if hr is None else is_array(hr, job.typenum, 2, P, H))):
        raise ValueError("the weights do not fit one another, or those of int8 are for a tape, or any for a written cell")
    job.layer.scale_ih, job.layer.scale_hh = <const float *> pointer(ih.scale), <const float *> pointer(hh.scale)
    return arrays_of(weights)


cdef tuple arrays_of(weights):
    """The weights with the arrays of those that have fewer bits."""
    if type(weights[0]) is not NarrowWeight:
        return tuple(weights)
    return weights[0].values, weights[1].values, *weights[2:]


cdef bint are_of_rows(int typenum, ptrdiff_t rows, of_ih, of_hh) noexcept:
    """Whether both are arrays of a number for each row of a weight."""
    return is_array(of_ih, typenum, 1, rows) and is_array(of_hh, typenum, 1, rows)


cdef void size_scratch(Job *job) noexcept:
    """Note how much scratch memory a thread of forward needs where left factors have fewer bits; the batch is known."""
    if job.sizes.left_row:
        job.sizes.forward_scratch = job.sizes.left_row * max(job.layer.batch, <ptrdiff_t> FASTRNN_LEFT_ROWS)


cdef Buffer scratch_of_forward(Job *job, int threads):
    """This memory, or that of split products, which the layer points to; None if there is nothing for it."""
    if not (job.sizes.left_row or job.layer.split_x):
        return None
    cdef Buffer scratch = Buffer(job.itemsize * job.sizes.forward_scratch * threads)
    job.layer.scratch = scratch.data
    return scratch


cdef void describe_projection(Job *job, ptrdiff_t K, ptrdiff_t columns, ptrdiff_t b_k, ptrdiff_t b_column) noexcept:
    """Make the projection's product one with a right factor (K, columns), of rows that are contiguous."""
    cdef fastrnn_product *m = &job.projection
    m.K, m.columns, m.b_k, m.b_column, m.a_row, m.a_k = K, columns, b_k, b_column, K, 1


cdef ptrdiff_t panels_of(const Job *job, const fastrnn_product *m) noexcept nogil:
    """How many panels the right factor of a product has."""
    return round_up(m.columns, 4 * job.lanes) // (4 * job.lanes)


cdef Buffer panels_of_projection(Job *job, bint of_member=False):
    """Memory for the packed right factor of the projection; None without one."""
    if job.projection.b == NULL:
        return None
    return room_for(
        job, &job.projection.panels, job.itemsize * panels_of(job, &job.projection) * job.projection.K * 4 * job.lanes,
        of_member)


cdef Buffer describe_input(Job *job, cell, cnp.ndarray x, tuple state, batch_sizes, bint reverse):
    """Fill in how the sequences run; the rows at which steps begin, which the layer points to, or None."""
    cdef fastrnn_layer *l = &job.layer
    cdef Buffer offsets = None
    cdef ptrdiff_t *rows
    cdef const cnp.npy_intp *counts
    cdef ptrdiff_t t
    cdef cnp.ndarray h_0 = state[0]
    cdef bint fit
    l.batch, l.reverse = h_0.shape[0] if h_0.ndim else 0, reverse
    l.steps, l.rows, l.offsets = x.shape[0] if x.ndim else 0, (x.shape[0] if x.ndim else 0) * l.batch, NULL
    fit = input_fits(job, x, state, batch_sizes is not None) and (
        batch_sizes is None or is_array(batch_sizes, cnp.NPY_INTP, 1, len(batch_sizes)))
    if fit and batch_sizes is not None:
        l.steps, l.rows = len(batch_sizes), x.shape[0]
        offsets = Buffer(sizeof(ptrdiff_t) * (l.steps + 1))
        rows, counts = <ptrdiff_t *> offsets.data, <const cnp.npy_intp *> pointer(batch_sizes)
        rows[0] = 0
        for t in range(l.steps):
            fit = fit and 0 <= counts[t] <= (counts[t - 1] if t else l.batch)
            rows[t + 1] = rows[t] + counts[t]
        fit = fit and rows[l.steps] == l.rows
        l.offsets = rows
    if not fit:
        sizes = l.inputs, l.hidden, l.outputs
        check_call(cell, x, state, sizes, cnp.PyArray_DescrFromType(job.typenum), batch_sizes)
        raise ValueError("x, the state and the weights do not fit one another")
    point_to_input(l, job.typenum, x, h_0)
    size_scratch(job)
    return offsets


cdef bint input_fits(const Job *job, object x, tuple state, bint ragged) noexcept:
    """Whether x, of so many rows as it has, and the state fit the layer: `fastrnn.fits.check_call`."""
    cdef const fastrnn_layer *l = &job.layer
    cdef ptrdiff_t T = (<cnp.ndarray> x).shape[0] if (<cnp.ndarray> x).ndim else -1
    cdef ptrdiff_t I = l.inputs, N = l.batch, k
    if not is_array(state[0], job.typenum, 2, N, l.outputs) or len(state) != 1 + job.others:
        return False
    for k in range(1, 1 + job.others):
        if not is_array(state[k], job.typenum, 2, N, l.hidden):
            return False
    if ragged:
        return is_array(x, job.typenum, 2, T, I) or is_array(x, cnp.NPY_INTP, 1, T)
    return is_array(x, job.typenum, 3, T, N, I) or is_array(x, cnp.NPY_INTP, 2, T, N)


cdef Buffer describe_extras(fastrnn_layer *l, int typenum, cell, tuple extra):
    """Make the layer read what the cell is given beside x, in the memory that is returned; None without any."""
    cdef tuple wanted = () if cell.program is None else cell.program.extras
    cdef ptrdiff_t rows, width
    cdef fastrnn_extra *at
    cdef Buffer memory
    if len(extra) != len(wanted):
        raise ValueError(f"the cell is given {len(extra)} values beside x; expected {len(wanted)}")
    if not extra:
        return None
    memory = Buffer(len(extra) * sizeof(fastrnn_extra))
    at = <fastrnn_extra *> memory.data
    for array, of_sequence in zip(extra, wanted):
        rows, width = l.batch if of_sequence else l.rows, array.shape[len(array.shape) - 1] if array.shape else 0
        if width not in (1, l.hidden) or not are_apart(array, typenum, rows, width):
            raise ValueError("what the cell is given beside x does not fit the layer")
        at.at, at.width, at.row, at.of_sequence = pointer(array), width, row_of(array), of_sequence
        at += 1
    l.extras = <fastrnn_extra *> memory.data
    return memory

cdef void point_to_input(fastrnn_layer *l, int typenum, cnp.ndarray x, cnp.ndarray h_0) noexcept:
    """Make the layer read x, real or tokens, and h_0."""
    l.h_0 = cnp.PyArray_DATA(h_0)
    if cnp.PyArray_TYPE(x) == typenum:
        l.x, l.tokens = cnp.PyArray_DATA(x), NULL
    else:
        l.x, l.tokens = NULL, <const intptr_t *> cnp.PyArray_DATA(x)


cdef ptrdiff_t row_stride(const Job *job, cnp.ndarray rows) noexcept:
    """Elements from row to row of y or dy, whose axes but the last are those of rows that lie evenly."""
    cdef int axis = rows.ndim - 2
    if axis == 1 and rows.shape[1] == 1:
        axis = 0  # the other one's stride may be anything
    return rows.strides[axis] // job.itemsize


cdef bint worth_threads(const Job *job, ptrdiff_t members=1) noexcept:
    """Whether there is enough to do for several threads."""
    cdef const fastrnn_layer *l = &job.layer
    cdef double weights = l.hidden * (job.h_gates * l.outputs + (0 if l.x == NULL else job.x_gates * l.inputs))
    return members * weights * (2 * l.rows + FLOPS_OF_PACKING) >= FLOPS_WORTH_A_THREAD


cdef void split_over(Job *job, int threads) noexcept:
    """Note how many threads there are, and whether they share the hidden units or the batch."""
    cdef bint large = job.itemsize * job.blocks * job.layer.panel_stride > LARGE_BYTES
    job.threads = threads
    job.by_hidden = job.layer.batch < threads * (ROWS_WORTH_LARGE_WEIGHTS if large else ROWS_WORTH_A_THREAD)
    job.apart = is_scan(&job.layer) and job.projection.b == NULL and not has_phases(&job.layer)
    if job.apart and job.blocks // job.strands % threads == 0:
        job.by_hidden = True  # without a barrier


cdef int share(Job *job, num_threads) except -1:
    """Begin a call, and take the pool for as many threads as are worth it and may be used."""
    begin(&job.watch)
    take_pool(job, usable_threads(num_threads) if worth_threads(job, members_of(job)) else 1)
    return 0


cdef void take_pool(Job *job, int threads) noexcept:
    """Take the pool for up to so many threads; the call has begun."""
    cdef fastrnn_layer *l = &job.layer
    cdef double flops = 2.0 * l.batch * l.hidden * (job.h_gates * l.outputs + job.x_gates * l.inputs)  # of a step
    job.steps_to_look = 1 + <ptrdiff_t> (FLOPS_TO_LOOK / max(flops, FLOPS_TO_LOOK / 1024))
    job.pieces = 1 + <ptrdiff_t> (flops / FLOPS_OF_A_PIECE)
    job.brief = members_of(job) * flops * (l.steps + FLOPS_OF_PACKING) < FLOPS_TO_LOOK
    l.watch = &job.watch
    job.pool = fastrnn_pool_acquire(threads)
    if job.group == NULL:
        split_over(job, job.pool)
    else:
        split_members(job)


cdef int run(fastrnn_task *task, Job *job, bint together=False) except -1:
    """Have a task done; raise what has stopped it, if anything."""
    if job.brief:  # letting others run, and keeping them from what is in use, would take as long again
        fastrnn_pool_run(task, job, job.threads, together, job.layer.watch)
    else:
        with nogil:
            fastrnn_pool_run(task, job, job.threads, together, job.layer.watch)
    return check(job.layer.watch)


cdef inline void add(Plan *plan, fastrnn_task *task, bint together=False) noexcept:
    plan.tasks[plan.count], plan.together[plan.count] = task, together
    plan.count += 1


cdef int run_plan(const Plan *plan, Job *job) except -1:
    """Have all of a plan done, for a group's members all of it."""
    cdef Job its
    cdef int i
    cdef ptrdiff_t k
    if job.group == NULL:
        for i in range(plan.count):
            run(plan.tasks[i], job, plan.together[i])
        return 0
    job.group.first, job.group.plan = job, plan
    if job.group.across:
        if job.brief:
            fastrnn_pool_run(members_task, job.group, job.pool, False, job.layer.watch)
        else:
            with nogil:
                fastrnn_pool_run(members_task, job.group, job.pool, False, job.layer.watch)
        return check(job.layer.watch)
    for k in range(job.group.members):
        member_of(&its, job, k)
        run_plan(plan, &its)
    return 0


ctypedef void (*Part)(
    const fastrnn_layer *, ptrdiff_t, ptrdiff_t, ptrdiff_t, ptrdiff_t, ptrdiff_t) noexcept nogil


cdef void in_pieces(
    Job *job, Part function, const fastrnn_layer *l, ptrdiff_t s, ptrdiff_t c0, ptrdiff_t c1, ptrdiff_t n0, ptrdiff_t n1,
    ptrdiff_t together=1
) noexcept nogil:
    """function(l, s, c0, c1, n0, n1), a part of a step; of a large one piece by piece, until the call is to stop.

    As many columns as are `together`, from 0 on, stay so.
    """
    cdef ptrdiff_t count = (c1 - c0) // together  # of those
    cdef ptrdiff_t columns = min(job.pieces, max(count, 1)), rows = round_up(job.pieces, columns) // columns, i
    if job.pieces == 1:
        function(l, s, c0, c1, n0, n1)
        return
    for i in range(columns * rows):
        if fastrnn_stopped(job.layer.watch):
            return
        function(
            l, s, c0 + count * (i // rows) // columns * together, c0 + count * (i // rows + 1) // columns * together,
            n0 + (n1 - n0) * (i % rows) // rows, n0 + (n1 - n0) * (i % rows + 1) // rows)


cdef void multiply_in_pieces(
    Job *job, const fastrnn_product *m, ptrdiff_t p0, ptrdiff_t p1, ptrdiff_t row0, ptrdiff_t row1
) noexcept nogil:
    """The product's panels p0 .. p1 - 1 for rows row0 .. row1 - 1, as `in_pieces`."""
    cdef ptrdiff_t i, rows = row1 - row0
    for i in range(job.pieces):
        if job.pieces > 1 and fastrnn_stopped(job.layer.watch):
            return
        job.kernels.multiply(m, p0, p1, row0 + rows * i // job.pieces, row0 + rows * (i + 1) // job.pieces)


cdef inline ptrdiff_t start(ptrdiff_t count, int parts, int part) noexcept nogil:
    """Where part `part` of `count` things begins."""
    return count * part // parts


cdef inline ptrdiff_t first_block(const Job *job, int part) noexcept nogil:
    """The first block of a part, where threads share the hidden units."""
    return start(job.blocks // job.strands, job.threads, part) * job.strands


def borrow_threads(size_t parallel, size_t team_size):
    """Run on the threads of an OpenMP runtime from here on: the addresses of its GOMP_parallel and omp_get_num_threads."""
    with nogil:  # whoever holds the pool needs the interpreter to release it
        fastrnn_pool_borrow(<fastrnn_parallel *> parallel, <int (*)() noexcept nogil> team_size)


# ---- groups

cdef inline ptrdiff_t members_of(const Job *job) noexcept nogil:
    """How many layers a call runs."""
    return 1 if job.group == NULL else job.group.members


cdef void start_group(Job *job, Group *group, ptrdiff_t members) noexcept:
    """Make a job that of the first of so many layers of one shape."""
    memset(group, 0, sizeof(Group))
    group.members, group.at_once, group.slots, job.group = members, 1, 1, group


cdef void split_members(Job *job) noexcept:
    """Choose what threads share: a group's members, or each one's work, if they cannot have as many of these each."""
    cdef Group *group = job.group
    cdef bint uneven = group.members % job.pool and group.members < 4 * job.pool and worth_threads(job)
    group.across = MEMBERS_APART and group.members >= job.pool and not uneven
    split_over(job, 1 if group.across else job.pool)
    group.slots = job.pool if group.across else 1


cdef void choose_turns(Job *job) noexcept:
    """Choose how many members of a group take the steps of their single rows in turns."""
    cdef fastrnn_layer *l = &job.layer
    cdef ptrdiff_t columns = l.outputs if l.projected else l.inputs + l.outputs
    cdef ptrdiff_t size = job.itemsize * job.blocks * l.panel_stride // (l.inputs + l.outputs) * columns
    if ROWS_IN_TURNS * size <= BYTES_IN_TURNS:
        job.group.at_once = max(1, min(ROWS_IN_TURNS, FASTRNN_ROWS_IN_TURNS))
        job.group.slots *= job.group.at_once


cdef int move(Job *job, const void *field, ptrdiff_t by_member, ptrdiff_t by_slot) except -1:
    """Note how a pointer of the job moves from member to member."""
    cdef Group *group = job.group
    cdef size_t at = <const char *> field - <const char *> job
    cdef int i = 0
    while i < group.count and group.moved[i].at != at:
        i += 1
    if i == group.count:
        if i == sizeof(group.moved) // sizeof(Moved):
            raise RuntimeError("a job has more pointers than a group has room for")
        group.count += 1
    group.moved[i].at, group.moved[i].by_member, group.moved[i].by_slot = at, by_member, by_slot
    return 0


cdef Buffer room_for(Job *job, void **field, size_t size, bint of_member=False, list room=None):
    """Memory that a pointer of the job points to: of a group each member's own, or of each that is run at a time."""
    cdef Buffer buffer
    if job.group == NULL:
        buffer = Buffer(size, room)
    else:
        size = round_up(size, 64)
        buffer = Buffer(size * (job.group.members if of_member else job.group.slots), room)
        move(job, field, size if of_member else 0, 0 if of_member else size)
    field[0] = buffer.data
    return buffer


cdef void member_of(Job *its, const Job *job, ptrdiff_t k, ptrdiff_t slot=0) noexcept nogil:
    """its := the job of a group's member k, with the memory of a slot; a job without a group is its only member."""
    cdef const Group *group = job.group
    cdef void **field
    cdef int i
    its[0] = job[0]
    its.group = NULL
    if group == NULL:
        return
    for i in range(group.count):
        field = <void **> (<char *> its + group.moved[i].at)
        if field[0] != NULL:
            field[0] = <char *> field[0] + k * group.moved[i].by_member + slot * group.moved[i].by_slot


cdef inline Job *member_at(Job *its, Job *job, ptrdiff_t m) noexcept nogil:
    """The job of a group's member m, which `its` may become; of a layer alone the job itself."""
    if job.group == NULL:
        return job
    member_of(its, job, m)
    return its


cdef void members_task(void *context, int part) noexcept nogil:
    """Some members of a group, each from the first to the last task of the plan, on one thread."""
    cdef const Group *group = <const Group *> context
    cdef const Job *job = group.first
    cdef const Plan *plan = group.plan
    cdef Job jobs[FASTRNN_ROWS_IN_TURNS]
    cdef ptrdiff_t k = start(group.members, job.pool, part), end = start(group.members, job.pool, part + 1), count, i
    cdef int task
    while k < end and not fastrnn_stopped(job.layer.watch):
        count = min(group.at_once, end - k)
        for i in range(count):
            member_of(&jobs[i], job, k + i, part * group.at_once + i)
        for task in range(plan.count):
            if count > 1 and plan.tasks[task] == forward_task:
                rows_in_turns(jobs, count)
                continue
            for i in range(count):
                plan.tasks[task](&jobs[i], 0)
        k += count


cdef object first_of(object array, ptrdiff_t members):
    """The first member's part of an array of all; None of None."""
    if array is None:
        return None
    if not cnp.PyArray_Check(array) or (<cnp.ndarray> array).ndim == 0 or (<cnp.ndarray> array).shape[0] != members:
        raise ValueError(f"an array has no axis of the {members} members of a group before the others")
    return array[0]


cdef tuple first_of_all(arrays, ptrdiff_t members):
    return tuple([first_of(array, members) for array in arrays])


cdef inline ptrdiff_t stride_of(object array) noexcept:
    """Bytes from member to member of an array of all; 0 of None."""
    return 0 if array is None else (<cnp.ndarray> array).strides[0]


cdef int move_weights(Job *job, weights) except -1:
    """Note where the weights of a group's members lie, in arrays of all."""
    cdef fastrnn_layer *l = &job.layer
    cdef const void **fields = [
        &l.weight_ih, &l.weight_hh, &l.bias_ih, &l.bias_hh, &job.projection.b, &l.unit]
    for i in range(6):
        move(job, fields[i], stride_of(weights[i]), 0)
    return 0


cdef int move_input(Job *job, x, state, y, bint shared) except -1:
    """Note where the input, h_0 and y of a group's members lie, in arrays of all, but for x if that is `shared`."""
    cdef fastrnn_layer *l = &job.layer
    move(job, &l.x, 0 if shared else stride_of(x), 0)
    move(job, &l.tokens, 0 if shared else stride_of(x), 0)
    move(job, &l.h_0, stride_of(state), 0)
    move(job, &l.y, stride_of(y), 0)
    return 0


cdef Buffer describe_extras_of_all(Job *job, cell, tuple extra):
    """`describe_extras` for each member of a group: each array is of all members, or has an axis of them before the others."""
    cdef ptrdiff_t k, size = len(extra) * sizeof(fastrnn_extra)
    cdef Buffer memory, its
    if not extra:
        return describe_extras(&job.layer, job.typenum, cell, extra)
    memory = room_for(job, <void **> &job.layer.extras, size, True)
    for k in range(job.group.members):
        its = describe_extras(
            &job.layer, job.typenum, cell,
            tuple([first_of(each[k:], job.group.members - k) if each.ndim == 3 else each for each in extra]))
        memcpy(<char *> memory.data + k * round_up(size, 64), its.data, size)
    job.layer.extras = <fastrnn_extra *> memory.data
    return memory


# ---- packed weights

cdef class Packed:
    """A layer's weights in the order in which the forward kernels read them, and a job that is to run on them."""

    cdef Job job
    cdef object unit  # a copy: the layer reads the cell's own parameters as they are
    cdef Buffer panels, bias, scales, split, projection, units
    cdef Buffer group  # a Group, where it is one of several layers


cdef void pack_task(void *context, int part) noexcept nogil:
    cdef Job *job = <Job *> context
    job.cell.pack(&job.layer, start(job.blocks, job.threads, part), start(job.blocks, job.threads, part + 1))
    pack_projection_task(context, part)


cdef void pack_projection_task(void *context, int part) noexcept nogil:
    cdef Job *job = <Job *> context
    cdef ptrdiff_t panels = panels_of(job, &job.projection)
    if job.projection.b != NULL:
        job.kernels.pack_right(
            &job.projection, start(panels, job.threads, part), start(panels, job.threads, part + 1))


cdef Packed room_for_panels(Job *job, bint of_member=False):
    """Memory for packed weights, which the layer points to."""
    cdef Packed packed = Packed()
    cdef fastrnn_layer *l = &job.layer
    packed.panels = room_for(job, &l.panels, job.itemsize * job.blocks * l.panel_stride, of_member)
    packed.bias = room_for(job, &l.bias, job.itemsize * job.blocks * 4 * job.lanes, of_member)
    if job.sizes.scales:
        packed.scales = room_for(job, &l.scales, job.itemsize * job.blocks * job.sizes.scales, of_member)
    if l.split_x and l.tokens == NULL:
        packed.split = room_for(job, &l.split_panels, job.itemsize * job.blocks * job.sizes.split_forward, of_member)
    packed.projection = panels_of_projection(job, of_member)
    return packed


cdef Packed run_pack(Job *job):
    cdef Packed packed = room_for_panels(job)
    run(pack_task, job)
    return packed


def pack(cell, weights, *, num_threads=1, ptrdiff_t members=0):
    """Pack a layer's weights once for many calls of `forward`; the caller sees to it that they have not changed.

    Where there are `members`, the weights of all layers of a group, whose arrays have that axis before the others.
    """
    cdef Job job
    cdef Group group
    cdef Plan plan
    cdef Packed packed
    all_weights, plan.count = weights, 0
    if members:
        weights = first_of_all(weights, members)
    describe_layer(&job, cell, weights, False)
    if members:
        start_group(&job, &group, members)
        move_weights(&job, all_weights)
    share(&job, num_threads)
    try:
        packed = room_for_panels(&job, True)
        add(&plan, pack_task)
        run_plan(&plan, &job)
    finally:
        if job.pool > 1:
            fastrnn_pool_release()
    job.layer.weight_ih = job.layer.weight_hh = job.layer.bias_ih = job.layer.bias_hh = NULL  # they may go away
    job.layer.scale_ih = job.layer.scale_hh = NULL
    packed.unit = None if weights[5] is None else all_weights[5].copy()
    job.layer.unit = pointer(packed.unit)
    if members:
        move(&job, &job.layer.unit, stride_of(packed.unit), 0)
    packed.units = whole_units_of(&job)
    if members:
        packed.group = Buffer(sizeof(Group))
        (<Group *> packed.group.data)[0] = group
    job.group = NULL
    packed.job = job
    return packed


# ---- forward

cdef inline bint is_scan(const fastrnn_layer *l) noexcept nogil:
    """Whether a step has no recurrent product."""
    return l.program != NULL and fastrnn_is_scan(l.program)


cdef inline bint has_middle(const fastrnn_layer *l) noexcept nogil:
    """Whether a step has a second recurrent product, of m."""
    return l.program != NULL and l.program.m_slots > 0


cdef inline bint takes_other(const fastrnn_layer *l) noexcept nogil:
    """Whether h goes through a program before the recurrent product."""
    return l.program != NULL and l.program.take.count > 0


cdef inline bint has_phases(const fastrnn_layer *l) noexcept nogil:
    """Whether a step is done in phases, between which rows are summed up."""
    return l.program != NULL and l.program.phases.count > 0


cdef Buffer whole_units_of(Job *job):
    """The cell's own parameters in whole vectors, as phases read them; the layer points to them. None without phases."""
    cdef fastrnn_layer *l = &job.layer
    if not has_phases(l) or l.unit == NULL:
        return None
    cdef size_t row = l.hidden * job.itemsize, units_row = round_up(l.hidden, job.lanes) * job.itemsize
    cdef Buffer units = room_for(job, <void **> &l.units, l.program.parameters * units_row, True)
    cdef Job its
    cdef Job *one
    for k in range(members_of(job)):
        one = member_at(&its, job, k)
        copy_rows(<void *> one.layer.units, units_row, one.layer.unit, row, l.program.parameters, row, units_row)
    return units


cdef ptrdiff_t size_of_z(const Job *job, ptrdiff_t stride, ptrdiff_t rows) noexcept:
    """Elements of Z with what lies behind it, of so many rows."""
    return job.blocks * stride + (rows * job.layer.program.row_values if job.layer.program != NULL else 0)


cdef void plan_forward(Job *job, bint tape, bint packed) noexcept:
    """Choose how a forward call runs that knows its sizes and threads, on weights that are packed already or not."""
    cdef fastrnn_layer *l = &job.layer
    cdef ptrdiff_t of_a_step = l.batch * job.blocks * 4 * job.lanes * job.itemsize  # bytes of Z
    cdef ptrdiff_t large = job.itemsize * job.blocks * l.panel_stride > LARGE_BYTES
    job.packs_as_it_goes = not packed and not l.split_x and not job.sizes.left_row and (
        l.steps <= (STEPS_NOT_WORTH_PACKING_LARGE if large else STEPS_NOT_WORTH_PACKING))
    if job.packs_as_it_goes:
        job.by_hidden = True  # so that each block is packed by one thread only
    l.keep = tape
    job.of_row = (
        l.batch == 1 and l.offsets == NULL and job.threads == 1 and job.cell.steps_of_row != NULL and not tape
        and l.u == NULL and job.projection.b == NULL and not job.packs_as_it_goes and not l.split_x
        and l.hidden <= min(ROW_VECTORS, FASTRNN_ROW_VECTORS) * job.lanes)
    l.projected = l.x != NULL and (
        l.split_x or (l.steps > 1 and (job.packs_as_it_goes or l.batch < ROWS_WORTH_FUSING or is_scan(l))))
    cdef ptrdiff_t weights = job.itemsize * job.x_gates * round_up(l.hidden, job.lanes) * (l.inputs + l.outputs)
    if job.of_row and (l.inputs <= ROW_INPUTS or weights <= ROW_BYTES):
        l.projected = False
    if l.projected:
        job.steps = max(1, PROJECTION_BYTES // max(1, of_a_step))
        if l.split_x:
            job.steps = max(job.steps, SPLIT_ROWS // max(1, l.batch))
    if tape or l.projected or has_middle(l) or has_phases(l):
        l.z_stride = stride_of_blocks(
            job, l.rows if tape else min(l.rows, job.steps * l.batch) if l.projected else l.batch)


cdef ptrdiff_t stride_of_blocks(const Job *job, ptrdiff_t rows) noexcept:
    """Elements from block to block of a Z of so many rows."""
    cdef ptrdiff_t stride = 4 * job.lanes * rows
    if stride * job.itemsize % 4096 == 0:
        stride += 1536 // job.itemsize  # else the same row of all blocks falls on the same cache sets
    return stride


cdef ptrdiff_t batch_start(const Job *job, int part, ptrdiff_t first, ptrdiff_t last) noexcept nogil:
    """Where the batch rows of a part begin, if all parts are to have as many rows of steps first .. last - 1."""
    cdef const fastrnn_layer *l = &job.layer
    cdef ptrdiff_t n, s, rows = 0, total = 0
    if l.offsets == NULL:
        return start(l.batch, job.threads, part)
    for s in range(first, last):
        total += fastrnn_step_count(l, s)
    for n in range(l.batch):
        if rows * job.threads >= total * part:
            return n
        while first < last and fastrnn_step_count(l, first) <= n:
            first += 1  # steps that have row n are at one end: their rows grow or shrink from step to step
        while first < last and fastrnn_step_count(l, last - 1) <= n:
            last -= 1
        rows += last - first
    return l.batch


cdef bint project_step(Job *job, fastrnn_layer *l, ptrdiff_t s, int part, ptrdiff_t n0, ptrdiff_t n1) noexcept nogil:
    """y := u weight_hr^T, for a step's batch rows n0 .. n1 - 1, or a part of their columns. Returns whether to leave."""
    cdef fastrnn_product m = job.projection
    cdef ptrdiff_t p0 = 0, p1 = panels_of(job, &m), row = fastrnn_step_row(l, s)
    if job.by_hidden:
        if fastrnn_pool_barrier(job.threads, job.layer.watch):  # u is of all threads
            return True
        p0, p1 = start(p1, job.threads, part), start(p1, job.threads, part + 1)
    m.a = <char *> l.u + (row * l.hidden * job.itemsize if l.keep else 0)
    m.out, m.out_row = <char *> l.y + row * l.y_row * job.itemsize, l.y_row
    multiply_in_pieces(job, &m, p0, p1, n0, max(n0, min(n1, fastrnn_step_count(l, s))))
    return False


cdef void project_rows(
    Job *job, const fastrnn_layer *l, ptrdiff_t b0, ptrdiff_t b1, ptrdiff_t row0, ptrdiff_t row1
) noexcept nogil:
    """Z := bias + x weight_ih^T, as `in_pieces`."""
    cdef ptrdiff_t i, rows = row1 - row0
    for i in range(job.pieces):
        if job.pieces > 1 and fastrnn_stopped(job.layer.watch):
            return
        job.cell.project(l, b0, b1, row0 + rows * i // job.pieces, row0 + rows * (i + 1) // job.pieces)


cdef inline ptrdiff_t first_row(const Job *job, int part, ptrdiff_t n) noexcept nogil:
    """The first batch row of a part in what is done of whole rows: n, or where threads share the units one of its own."""
    return start(job.layer.batch, job.threads, part) if job.by_hidden else n


cdef bint in_phases(
    Job *job, void (*phases)(const fastrnn_layer *, ptrdiff_t, int, ptrdiff_t, ptrdiff_t) noexcept nogil,
    fastrnn_layer *l, ptrdiff_t s, bint to_m, int part, ptrdiff_t n0, ptrdiff_t n1
) noexcept nogil:
    """Run a step's phases, those up to m or the others. Returns whether to leave."""
    if job.by_hidden and fastrnn_pool_barrier(job.threads, job.layer.watch):  # what they read is of all threads
        return True
    phases(l, s, to_m, first_row(job, part, n0), first_row(job, part + 1, n1))
    return False


cdef inline ptrdiff_t rows_ahead(const Job *job, fastrnn_layer *layer, ptrdiff_t s, ptrdiff_t *first) noexcept nogil:
    """How many rows are projected ahead from step s on; first := the first of them."""
    cdef ptrdiff_t last = min(s + job.steps, layer.steps), lowest, highest
    lowest, highest = (last - 1, s) if layer.reverse else (s, last - 1)
    first[0] = fastrnn_step_row(layer, lowest)
    if not layer.keep:
        layer.z_row = first[0]
    return fastrnn_step_row(layer, highest) + fastrnn_step_count(layer, highest) - first[0]


cdef void rows_in_turns(Job *jobs, ptrdiff_t count) noexcept nogil:
    """`forward_task` of some members of a group whose steps of a single row are taken at once."""
    cdef fastrnn_layer *layers[FASTRNN_ROWS_IN_TURNS]
    cdef Job *job = jobs
    cdef ptrdiff_t s = 0, due, row, rows, i
    for i in range(count):
        layers[i] = &jobs[i].layer
    while s < job.layer.steps and not fastrnn_stopped(job.layer.watch):
        due = min(s + job.steps_to_look, job.layer.steps)
        if job.layer.projected:
            due = min(due, (s // job.steps + 1) * job.steps)
            for i in range(count if s % job.steps == 0 else 0):
                rows = rows_ahead(job, layers[i], s, &row)
                project_rows(job, layers[i], 0, job.blocks, row, row + rows)
        job.cell.steps_of_rows(<const fastrnn_layer *const *> layers, count, s, due)
        s = due


cdef void forward_task(void *context, int part) noexcept nogil:
    cdef Job *job = <Job *> context
    cdef fastrnn_layer layer = job.layer
    cdef ptrdiff_t s, last, row, rows, b0 = 0, b1 = job.blocks, n0 = 0, n1 = layer.batch, due = 0
    cdef ptrdiff_t to_look = job.steps_to_look
    cdef bint by_step = job.by_hidden and not job.apart  # whether there is a barrier
    # Where others wait, it may not leave alone.
    cdef bint stopped = False, meets = by_step or layer.projected and not job.by_hidden
    if job.by_hidden:
        b0, b1 = first_block(job, part), first_block(job, part + 1)
    else:
        n0 = batch_start(job, part, 0, layer.steps)
        n1 = batch_start(job, part + 1, 0, layer.steps)
    layer.scratch = <char *> layer.scratch + part * job.sizes.forward_scratch * job.itemsize
    for s in range(layer.steps):
        if layer.projected and s % job.steps == 0:
            last = min(s + job.steps, layer.steps)
            rows = rows_ahead(job, &layer, s, &row)
            if job.by_hidden:
                project_rows(job, &layer, b0, b1, row, row + rows)
            else:
                if s and fastrnn_pool_barrier(job.threads, job.layer.watch):  # Z may be read still
                    return
                project_rows(
                    job, &layer, b0, b1, row + start(rows, job.threads, part), row + start(rows, job.threads, part + 1))
                if fastrnn_pool_barrier(job.threads, job.layer.watch):
                    return
                n0 = batch_start(job, part, s, last)
                n1 = batch_start(job, part + 1, s, last)
        if job.of_row:
            if s == due and not stopped:  # at once to where it is looked whether to stop, or x is projected
                due = min(s + to_look, layer.steps)
                if layer.projected:
                    due = min(due, (s // job.steps + 1) * job.steps)
                job.cell.steps_of_row(&layer, s, due)
        elif not stopped:
            if (layer.m != NULL or has_phases(&layer)) and not layer.keep and not layer.projected:
                layer.z_row = fastrnn_step_row(&layer, s)
            if layer.taken != NULL:
                in_pieces(job, job.cell.step_take, &layer, s, b0, b1, n0, n1, job.strands)
                if job.by_hidden and fastrnn_pool_barrier(job.threads, job.layer.watch):  # what is taken is of all threads
                    return
            in_pieces(job, job.cell.step, &layer, s, b0, b1, n0, n1, job.strands)
            if layer.m != NULL:
                if has_phases(&layer) and in_phases(job, job.cell.step_phases, &layer, s, True, part, n0, n1):
                    return
                if job.by_hidden and fastrnn_pool_barrier(job.threads, job.layer.watch):  # m is of all threads
                    return
                in_pieces(job, job.cell.step_middle, &layer, s, b0, b1, n0, n1, job.strands)
            if has_phases(&layer) and in_phases(job, job.cell.step_phases, &layer, s, False, part, n0, n1):
                return
            if layer.u != NULL and project_step(job, &layer, s, part, n0, n1):
                return
        to_look -= 1
        if to_look == 0:
            to_look, stopped = job.steps_to_look, fastrnn_stopped(job.layer.watch)
            if stopped and not meets:
                return
        if by_step and fastrnn_pool_barrier(job.threads, job.layer.watch):
            return


cdef class Tape:
    """What backward needs: the layer as forward left it, and the owners of the memory it points to."""

    cdef Job job
    cdef object x, y, h_0, weights
    cdef object cell  # which owns the program that the layer points to
    cdef object held  # see `hold`: of x, h_0 and y
    cdef object arrays  # that own z, c and u, if `recall` has made the tape
    cdef tuple extra  # which nobody else writes to
    cdef Buffer z, c, u, taken, offsets, extras
    cdef Buffer group  # a Group, where it is of several layers, whose arrays those above are
    cdef bint shared  # by these: x


cdef cnp.ndarray new_y(Job *job, cnp.ndarray x, y):
    """The array for y, a new one unless there is one; the layer points to it."""
    cdef cnp.npy_intp *shape = [x.shape[0], job.layer.batch, job.layer.outputs]
    cdef cnp.ndarray out
    if y is None:
        if job.layer.offsets != NULL:
            shape[1] = job.layer.outputs
        out = empty(3 if job.layer.offsets == NULL else 2, shape, job.typenum)
        job.layer.y_row = job.layer.outputs
    else:
        if not are_rows(y, job, job.layer.offsets != NULL, x.shape[0]):
            raise ValueError("y is no array of rows of the layer's outputs")
        out = y
        job.layer.y_row = row_stride(job, out)
    job.layer.y = cnp.PyArray_DATA(out)
    return out


cdef cnp.ndarray new_y_of_all(Job *job, cnp.ndarray x):
    """A new array for y of all members of a group."""
    cdef cnp.npy_intp *shape = [job.group.members, x.shape[0], job.layer.batch, job.layer.outputs]
    if job.layer.offsets != NULL:
        shape[2] = job.layer.outputs
    return empty(4 if job.layer.offsets == NULL else 3, shape, job.typenum)


cdef inline char *member(object array, ptrdiff_t m, ptrdiff_t members) noexcept:
    """Where member m's part of an array of all members begins, if there are members; NULL of None."""
    return NULL if array is None else <char *> pointer(array) + (m * stride_of(array) if members else 0)


cdef void copy_final(
    const fastrnn_layer *l, char *out, size_t out_row, const char *state_0, size_t row_0, const char *rows, size_t row
) noexcept:
    """out[n] := out_row bytes of the last row of each sequence n, or of state_0[n] where it has none."""
    cdef ptrdiff_t n, s = l.steps - 1
    for n in range(l.batch):
        while s > 0 and not l.reverse and fastrnn_step_count(l, s) <= n:
            s -= 1
        if fastrnn_step_count(l, s) > n:
            memcpy(out + n * out_row, rows + (fastrnn_step_row(l, s) + n) * row, out_row)
        else:
            memcpy(out + n * out_row, state_0 + n * row_0, out_row)


def forward(
    cell, x, tuple state, weights, *, bint tape=True, num_threads=1, Packed packed=None, batch_sizes=None,
    bint reverse=False, y=None, tuple extra=(), tuple kept=(), ptrdiff_t members=0, bint shared=False
):
    """`fastrnn.reference.forward` on the C kernels; without a tape, `packed`, made of the weights, may replace them.

    The tape is put into the contiguous arrays `kept`, in the order of `keep`, that are aligned and large enough for it.
    Where there are `members`, all of a group are run: arrays, but for an x that is `shared`, have an axis of them before
    the others; those in `extra` may.
    """
    cdef Job job, its
    cdef Job *one
    cdef Group group
    cdef Plan plan
    cdef list room = list(kept) if tape else None
    all_x, all_state, all_weights, all_y = x, state, weights, y
    plan.count = 0
    if tape:
        packed = None  # backward reads the weights themselves
    if members:
        if (packed is None) != (weights is not None) or packed is not None and packed.group is None:
            raise ValueError("the weights are not packed for a group")
        x = x if shared else first_of(x, members)
        state, weights = first_of_all(state, members), None if packed else first_of_all(weights, members)
    elif packed is not None and packed.group is not None:
        raise ValueError("the weights are packed for a group")
    if packed is None:
        describe_layer(&job, cell, weights, tape)
        if members:
            start_group(&job, &group, members)
            move_weights(&job, all_weights)
    else:
        job = packed.job
        if members:
            group = (<Group *> packed.group.data)[0]
            job.group = &group
            if group.members != members:
                raise ValueError(f"the weights are packed for {group.members} members; expected {members}")
    cdef fastrnn_layer *l = &job.layer
    cdef cnp.ndarray h_0 = state[0]
    cdef ptrdiff_t k, m, others = job.others
    cdef bint ragged = batch_sizes is not None
    cdef Buffer offsets = describe_input(&job, cell, x, state, batch_sizes, reverse)
    cdef Buffer extras = describe_extras_of_all(&job, cell, extra) if members else describe_extras(
        l, job.typenum, cell, extra)
    cdef cnp.npy_intp *h_shape = [members, l.batch, l.outputs]
    cdef cnp.npy_intp *c_shape = [members, l.batch, l.hidden]
    cdef int axis = 0 if members else 1, axes = 3 if members else 2
    if members and y is None:
        all_y = new_y_of_all(&job, x)
    cdef cnp.ndarray y_array = new_y(&job, x, first_of(all_y, members) if members else y)
    if l.batch == 0 and not ragged:
        l.steps = 0  # there may be any number, and nothing to do in each
    cdef cnp.ndarray h_n = empty(axes, h_shape + axis, job.typenum)
    cdef tuple state_n = (h_n,) if others == 0 else (
        h_n, *[empty(axes, c_shape + axis, job.typenum) for k in range(others)])
    if members:
        move_input(&job, all_x, all_state[0], all_y, shared)

    share(&job, num_threads)
    held = None if job.brief and not tape else (hold(all_x), [hold(each) for each in all_state])
    plan_forward(&job, tape, packed is not None)
    if members and job.of_row and group.across:
        choose_turns(&job)
    cdef size_t row = l.hidden * job.itemsize, c_row = c_width(&job) * job.itemsize, c_size = 0
    if others:
        c_size = c_row // others
    cdef size_t h_row = l.outputs * job.itemsize, y_row = l.y_row * job.itemsize
    cdef char *at
    cdef Buffer z = None, c = None, u = None, taken = None, scratch = None, projection = None, units = None
    try:
        if packed is None:
            units = whole_units_of(&job)
        if l.z_stride:
            z = room_for(&job, &l.z, job.itemsize * size_of_z(&job, l.z_stride, l.rows if tape else l.batch), tape, room)
        if others:
            if tape or c_row != row or l.program != NULL:  # programs want whole vectors that are aligned
                c = room_for(&job, &l.c, c_row * (l.batch + (l.rows if tape else 0)), True, room)
            else:
                l.c = pointer(state_n[1])
                if members:
                    move(&job, &l.c, stride_of(state_n[1]), 0)
            for m in range(members_of(&job)):
                one = member_at(&its, &job, m)
                for k in range(others):
                    copy_rows(
                        <char *> one.layer.c + k * c_size, c_row, member(all_state[1 + k], m, members), row, l.batch, row,
                        c_size)
        if job.projection.b != NULL:
            u = room_for(&job, &l.u, row * (l.rows if tape else l.batch), tape, room)
        elif has_middle(l):
            u = room_for(&job, &l.m, row * (l.rows if tape else l.batch), tape, room)
        if takes_other(l):
            taken = room_for(&job, &l.taken, row * (l.rows if tape else l.batch), tape, room)
        if packed is None and not job.packs_as_it_goes:
            packed = room_for_panels(&job)
            add(&plan, pack_task)
        elif packed is None and l.u != NULL:
            projection = panels_of_projection(&job)
            add(&plan, pack_projection_task)
        if job.sizes.left_row or l.split_x and l.projected:
            scratch = room_for(&job, &l.scratch, job.itemsize * job.sizes.forward_scratch * job.threads)
        add(&plan, forward_task, job.by_hidden or l.projected)
        run_plan(&plan, &job)
    finally:
        if job.pool > 1:
            fastrnn_pool_release()

    for m in range(members_of(&job)):
        one = member_at(&its, &job, m)
        if l.offsets == NULL and l.steps:
            copy_rows(
                member(h_n, m, members), h_row, <char *> one.layer.y + fastrnn_step_row(l, l.steps - 1) * y_row, y_row,
                l.batch, h_row)
        else:
            copy_final(
                l, member(h_n, m, members), h_row, <const char *> one.layer.h_0, h_row, <char *> one.layer.y, y_row)
        for k in range(others if c is not None else 0):
            at = <char *> one.layer.c + k * c_size
            if tape:
                copy_final(l, member(state_n[1 + k], m, members), row, at, c_row, at + l.batch * c_row, c_row)
            else:
                copy_rows(member(state_n[1 + k], m, members), row, at, c_row, l.batch, row)
    if members:
        y_array = all_y
    if not tape:
        return y_array, state_n, None
    cdef Tape made = Tape()
    made.job = job
    made.job.layer.panels = made.job.layer.bias = made.job.layer.split_panels = NULL
    made.job.layer.units = NULL
    made.job.group = NULL
    if members:
        made.group = Buffer(sizeof(Group))
        (<Group *> made.group.data)[0] = group
    made.shared = shared
    made.x, made.y, made.h_0, made.weights, made.cell = all_x, y_array, all_state[0], arrays_of(all_weights), cell
    made.held = held, hold(y_array)
    made.z, made.c, made.u, made.taken, made.offsets, made.extras, made.extra = z, c, u, taken, offsets, extras, extra
    return y_array, state_n, made


# ---- brief calls on memory that a runtime names

@cython.final
cdef class Brief:
    """What `forward` chooses by the sizes of a brief call, and the memory it takes, once for many calls of them."""

    cdef Job job
    cdef Packed packed  # whose panels each call packs anew; None if it packs as it goes
    cdef Buffer z, c


def prepare(cell, x, tuple state, weights):
    """Prepare calls of real x on one thread without a tape, of the sizes of these arrays, for RUN_PREPARED.

    None for those that let other threads of Python run or look for signals, and where a step is more than its gates.
    """
    cdef Brief brief = Brief()
    cdef Job *job = &brief.job
    cdef fastrnn_layer *l = &job.layer
    describe_layer(job, cell, weights, False)
    describe_input(job, cell, x, state, None, False)
    l.y_row = l.outputs
    begin(&job.watch, False)
    take_pool(job, 1)
    if l.program != NULL or job.projection.b != NULL:
        return None
    if not job.brief or l.steps >= job.steps_to_look or worth_threads(job):
        return None
    plan_forward(job, False, False)
    if l.split_x:
        return None
    if l.z_stride:
        brief.z = Buffer(job.itemsize * size_of_z(job, l.z_stride, 0))
        l.z = brief.z.data
    if job.others:
        brief.c = Buffer(c_width(job) * job.itemsize * l.batch)
        l.c = brief.c.data
    if not job.packs_as_it_goes:
        brief.packed = run_pack(job)
    return brief


cdef int run_prepared(
    Brief brief, const void *x, const void **state, const void **weights, void *y, void **state_n
) except -1:
    """`forward` for C: contiguous arrays of the sizes that it was prepared for, of `Weights` the first four or NULL.

    Nothing here lets other threads run, which would write to the same memory.
    """
    cdef Job *job = &brief.job
    cdef fastrnn_layer *l = &job.layer
    cdef size_t h_size = l.batch * l.outputs * job.itemsize, c_row = l.hidden * job.itemsize
    cdef size_t c_width_bytes = c_width(job) * job.itemsize
    begin(&job.watch, False)
    l.x, l.h_0, l.y = <void *> x, <void *> state[0], y
    l.weight_ih, l.weight_hh = <void *> weights[0], <void *> weights[1]
    l.bias_ih, l.bias_hh = <void *> weights[2], <void *> weights[3]
    if job.others:  # one: programs alone have more
        copy_rows(l.c, c_width_bytes, state[1], c_row, l.batch, c_row, c_width_bytes)
    if brief.packed is not None:
        run(pack_task, job)
    run(forward_task, job)
    memcpy(state_n[0], <char *> y + (l.steps - 1) * h_size, h_size)
    if job.others:
        copy_rows(state_n[1], c_row, l.c, c_width_bytes, l.batch, c_row)
    return 0


RUN_PREPARED = PyCapsule_New(<void *> run_prepared, "fastrnn.run_prepared", NULL)


# ---- single steps

cdef class Stepper:
    """Takes the steps of N sequences through all layers without allocating; the contract stands in `fastrnn.backends`."""

    cdef readonly tuple states
    cdef object cell, validate
    cdef bint busy  # in a step: of another thread
    cdef bint extras  # whether the cell is given anything beside x
    cdef bint turned  # which way the next step goes through the layers' blocks
    cdef bint brief  # whether a step lets no other Python thread run
    cdef list packed, memory  # Packed by layer; Buffers
    cdef tuple room  # Buffers that `steps` needs
    cdef Buffer jobs  # a Job by layer
    cdef int dimensions, threads, typenum
    cdef ptrdiff_t batch

    def __init__(self, cell, weights, batch_size, dtype, num_threads, validate):
        cdef Job *job
        cdef fastrnn_layer *l
        cdef ptrdiff_t C, k
        self.cell, self.validate, self.threads = cell, validate, usable_threads(num_threads)
        self.extras = cell.program is not None and len(cell.program.extras) > 0
        self.dimensions, self.batch = (1, 1) if batch_size is None else (2, batch_size)
        self.typenum = cnp.NPY_FLOAT32 if dtype.itemsize == 4 else cnp.NPY_FLOAT64
        self.jobs = Buffer(len(weights) * sizeof(Job))
        self.memory, states = [], []
        self.load(weights)
        for layer in range(len(weights)):
            job = &(<Job *> self.jobs.data)[layer]
            l, C = &job.layer, round_up(job.layer.hidden, job.lanes)
            l.h_0, l.y = self.take(l.outputs * job.itemsize), self.take(l.outputs * job.itemsize)
            state = (self.state_of(<void *> l.h_0, l.outputs, l.outputs),)
            if job.others:
                l.c = self.take(job.others * C * job.itemsize)
            for k in range(job.others):
                state += (self.state_of(<char *> l.c + k * C * job.itemsize, l.hidden, job.others * C),)
            states.append(state)
            if job.projection.b != NULL:
                l.u = self.take(l.hidden * job.itemsize)
            if has_middle(l):
                l.m = self.take(l.hidden * job.itemsize)
            if takes_other(l):
                l.taken = self.take(l.hidden * job.itemsize)
            self.memory.append(scratch_of_forward(job, self.threads))
            if l.split_x or has_middle(l) or has_phases(l):
                l.x = l.h_0  # anything but NULL: a step of tokens needs no more
                plan_forward(job, False, True)
                self.memory.append(Buffer(job.itemsize * size_of_z(job, l.z_stride, l.batch)))
                l.z = (<Buffer> self.memory[len(self.memory) - 1]).data
        self.states = tuple(states)

    cdef void *take(self, size_t row) except? NULL:
        """Zeros for N rows of so many bytes."""
        if <size_t> self.batch > (<size_t> -1) // 2 // row:
            raise MemoryError(f"no memory for a stream of batch_size = {self.batch}")
        cdef Buffer buffer = Buffer(self.batch * row)
        memset(buffer.data, 0, buffer.size)
        self.memory.append(buffer)
        return buffer.data

    cdef cnp.ndarray state_of(self, void *data, cnp.npy_intp columns, cnp.npy_intp row):
        """The memory of rows that are `row` elements apart as an array (N, columns)."""
        cdef cnp.npy_intp *shape = [self.batch, columns]
        cdef cnp.npy_intp *strides = [row * itemsize_of(self.typenum), itemsize_of(self.typenum)]
        cdef cnp.ndarray array = cnp.PyArray_New(
            cnp.ndarray, 2, shape, self.typenum, strides, data, 0, cnp.NPY_ARRAY_WRITEABLE, <object> NULL)
        cnp.set_array_base(array, self.memory[len(self.memory) - 1])
        return array

    def load(self, weights):
        """Replace each layer's weights."""
        cdef Packed packed
        cdef fastrnn_layer before
        cdef Job *job
        self.refuse_when_busy()
        new = [pack(self.cell, each, num_threads=self.threads) for each in weights]
        self.refuse_when_busy()  # other threads ran meanwhile
        self.packed, self.brief = new, True
        for layer, packed in enumerate(self.packed):
            job = &(<Job *> self.jobs.data)[layer]
            before = job.layer
            job[0] = packed.job
            job.layer.steps, job.layer.batch, job.layer.rows = 1, self.batch, self.batch
            job.layer.y_row = job.layer.outputs
            size_scratch(job)
            take_pool(job, 1)
            self.brief &= job.brief
            if self.states:
                job.layer.h_0, job.layer.y, job.layer.c, job.layer.u = before.h_0, before.y, before.c, before.u
                job.layer.z, job.layer.scratch, job.layer.m, job.layer.taken = (
                    before.z, before.scratch, before.m, before.taken)

    cdef bint fits(self, object array, ptrdiff_t columns, bint written, bint many=False) noexcept:
        """Whether an array can be used as it is: (N, columns) of the dtype, or many of these."""
        if not cnp.PyArray_CheckExact(array):
            return False
        cdef cnp.ndarray a = array
        return (
            cnp.PyArray_TYPE(a) == self.typenum and a.ndim == self.dimensions + many
            and a.shape[a.ndim - 1] == columns and (self.dimensions == 1 or a.shape[a.ndim - 2] == self.batch)
            and (cnp.PyArray_ISCARRAY(a) if written else cnp.PyArray_ISCARRAY_RO(a)))

    cdef int refuse_when_busy(self) except -1:
        """RuntimeError while another thread is in a step."""
        if self.busy:
            raise RuntimeError("the stream is in a step of another thread; expected one thread at a time: give each its own")
        return 0

    def step(self, x, out=None, tuple extra=()):
        """Take one step and return the last layer's outputs."""
        cdef fastrnn_layer given  # an extra of one layer is that of all
        cdef Buffer memory
        cdef int layer, count = len(self.packed)
        cdef Job *jobs = <Job *> self.jobs.data
        cdef Job *job
        cdef const void *before
        cdef cnp.npy_intp *shape = [self.batch, jobs[count - 1].layer.outputs]
        if not self.fits(x, jobs[0].layer.inputs, False) or (out is not None and not self.fits(out, shape[1], True)):
            x = self.validate(x, out)
        if out is None:
            out = empty(self.dimensions, shape + 2 - self.dimensions, self.typenum)
        held = None if self.brief else hold(x)
        given.extras = NULL
        if self.extras or extra:
            given.batch, given.rows, given.hidden = self.batch, self.batch, jobs[0].layer.hidden
            memory = describe_extras(&given, self.typenum, self.cell, extra)
        self.refuse_when_busy()  # nothing between the look and the mark may let another thread run, as new objects can
        self.busy = True
        before = pointer(x)
        for layer in range(count):
            job = jobs + layer
            if layer == 0 and cnp.PyArray_TYPE(<cnp.ndarray> x) != self.typenum:
                self.run_layer(job, NULL, <const intptr_t *> before, given.extras)
            else:
                self.run_layer(job, before, NULL, given.extras)
            before = job.layer.h_0
        self.busy, self.turned = False, not self.turned
        if not self.fits(out, shape[1], True):
            raise ValueError("out was changed during the step; expected its shape, dtype and flags to stay")
        memcpy(pointer(out), before, shape[0] * shape[1] * itemsize_of(self.typenum))
        return out

    cdef void run_layer(
        self, Job *job, const void *x, const intptr_t *tokens, const fastrnn_extra *extras) noexcept:
        """The next steps of a layer: y, and the states after them."""
        cdef fastrnn_layer *l = &job.layer
        cdef size_t size = l.batch * l.outputs * job.itemsize
        cdef void *z = l.z
        l.x, l.tokens, l.extras, l.turned = x, tokens, extras, self.turned
        begin(&job.watch, stops=False)  # or the layers' states would be of different steps
        take_pool(job, self.threads if worth_threads(job) else 1)
        plan_forward(job, False, True)
        if l.z_stride == 0:
            l.z = NULL  # this plan has none, and programs make their sums in what there is
        if self.brief and l.steps == 1:
            fastrnn_pool_run(forward_task, job, job.threads, job.by_hidden or l.projected, &job.watch)
        else:
            with nogil:
                fastrnn_pool_run(forward_task, job, job.threads, job.by_hidden or l.projected, &job.watch)
        if job.threads > 1:
            fastrnn_pool_release()
        l.z = z
        memcpy(<void *> l.h_0, <char *> l.y + (l.steps - 1) * size, size)

    def steps(self, x, out=None, tuple extra=()):
        """Take the steps of x, (T, N, I) or (T, I), and return the last layer's outputs."""
        cdef fastrnn_layer given, before
        cdef Buffer memory
        cdef int layer, count = len(self.packed)
        cdef Job *jobs = <Job *> self.jobs.data
        cdef Job *job
        cdef fastrnn_layer *l
        cdef cnp.npy_intp *shape = [0, self.batch, jobs[count - 1].layer.outputs]
        cdef cnp.npy_intp *one = [0, shape[2]]  # without a batch
        if not self.fits(x, jobs[0].layer.inputs, False, True) or (
                out is not None and (not self.fits(out, shape[2], True, True) or len(out) != len(x))):
            x = self.validate(x, out, True)
        shape[0] = one[0] = len(x)
        if out is None:
            out = empty(self.dimensions + 1, shape if self.dimensions == 2 else one, self.typenum)
        if shape[0] == 0:
            return out
        held = hold(x)
        given.extras = NULL
        if self.extras or extra:
            given.batch, given.rows, given.hidden = self.batch, shape[0] * self.batch, jobs[0].layer.hidden
            memory = describe_extras(&given, self.typenum, self.cell, extra)
        self.make_room(shape[0])
        self.refuse_when_busy()
        self.busy = True
        cdef const void *rows = pointer(x)
        for layer in range(count):
            job = jobs + layer
            l = &job.layer
            before = l[0]
            l.steps, l.rows = shape[0], shape[0] * self.batch
            l.y, l.z = (<Buffer> self.room[layer % 2]).data, (<Buffer> self.room[2]).data
            l.z_stride = 0
            if layer == 0 and cnp.PyArray_TYPE(<cnp.ndarray> x) != self.typenum:
                self.run_layer(job, NULL, <const intptr_t *> rows, given.extras)
            else:
                self.run_layer(job, rows, NULL, given.extras)
            rows = l.y
            l.steps, l.rows, l.y, l.z, l.z_stride = 1, self.batch, before.y, before.z, before.z_stride
        self.busy = False
        if not self.fits(out, shape[2], True, True) or len(out) != shape[0]:
            raise ValueError("out was changed during the steps; expected its shape, dtype and flags to stay")
        memcpy(pointer(out), rows, shape[0] * shape[1] * shape[2] * itemsize_of(self.typenum))
        return out

    cdef int make_room(self, ptrdiff_t steps) except -1:
        """Memory for so many steps, kept for the next ones: rows of two layers, and the largest Z."""
        cdef int layer
        cdef ptrdiff_t rows = 0, z = 0
        cdef Job *jobs = <Job *> self.jobs.data
        cdef Job job
        for layer in range(len(self.packed)):
            job = jobs[layer]
            rows = max(rows, steps * self.batch * job.layer.outputs * job.itemsize)
            job.layer.steps, job.layer.rows, job.layer.x = steps, steps * self.batch, job.layer.h_0
            job.layer.z_stride = 0
            split_over(&job, self.threads if worth_threads(&job) else 1)
            plan_forward(&job, False, True)
            z = max(z, size_of_z(&job, job.layer.z_stride, job.layer.rows) * job.itemsize)
        if self.room is None or (<Buffer> self.room[0]).size < <size_t> rows or (
                (<Buffer> self.room[2]).size < <size_t> z):
            self.refuse_when_busy()
            self.room = (Buffer(rows), Buffer(rows), Buffer(max(z, 1)))
        return 0


# ---- what a tape holds

cdef struct Reading:
    const Job *job
    void *gates
    void *c
    ptrdiff_t rows
    const intptr_t *to


cdef void read_task(void *context, int part) noexcept nogil:
    cdef Reading *reading = <Reading *> context
    cdef const Job *job = reading.job
    job.cell.read_tape(
        &job.layer, reading.gates, reading.c, reading.rows, reading.to,
        start(job.layer.rows, job.threads, part), start(job.layer.rows, job.threads, part + 1))


def gates(cell, Tape tape, *, num_threads=1, rows=None, cnp.ndarray to=None):
    """`fastrnn.reference.gates` of a tape that backward has not used; of a group's with an axis of members after the first."""
    cdef Job job = tape.job, its
    cdef Group group
    cdef Reading reading
    cdef ptrdiff_t m, members = 0
    if tape.group is not None:
        group = (<Group *> tape.group.data)[0]
        job.group, members = &group, group.members
    reading.rows = job.layer.rows if rows is None else rows
    reading.to = <const intptr_t *> pointer(to)
    cdef cnp.npy_intp *shape = [max(1, members), job.gates, reading.rows, job.layer.hidden]
    cdef cnp.ndarray found = empty(4, shape, job.typenum)
    cdef cnp.npy_intp *c_shape = [max(1, members), job.others, reading.rows, job.layer.hidden]
    cdef cnp.ndarray c = empty(4, c_shape, job.typenum)
    share(&job, num_threads)
    with nogil:
        for m in range(members_of(&job)):
            member_of(&its, &job, m)
            its.threads = job.pool
            reading.job = &its
            reading.gates = <char *> cnp.PyArray_DATA(found) + m * found.strides[0]
            reading.c = <char *> cnp.PyArray_DATA(c) + m * c.strides[0]
            fastrnn_pool_run(read_task, &reading, job.pool, False, &job.watch)
        if job.pool > 1:
            fastrnn_pool_release()
    check(&job.watch)
    if members:
        return (*found.swapaxes(0, 1), *c.swapaxes(0, 1))
    return (*found[0], *c[0])


cdef cnp.ndarray array_of(Buffer buffer, int typenum):
    """A buffer's memory as an array that keeps it alive."""
    cdef cnp.npy_intp size = buffer.size // itemsize_of(typenum)
    cdef cnp.ndarray array = cnp.PyArray_SimpleNewFromData(1, &size, typenum, buffer.data)
    cnp.set_array_base(array, buffer)
    return array


def keep(Tape tape):
    """Take a tape apart: flat arrays that hold what it has besides what forward was given, and y. `recall` inverts it."""
    return tuple([array_of(buffer, tape.job.typenum) for buffer in (tape.z, tape.c, tape.u, tape.taken)
        if buffer is not None])


def kept_sizes(cell, ptrdiff_t steps, ptrdiff_t batch, ptrdiff_t rows, ptrdiff_t hidden, ptrdiff_t proj_size, dtype):
    """How many elements each array of `keep` has."""
    cdef Job job
    cdef int typenum = cnp.NPY_FLOAT32 if dtype.itemsize == 4 else cnp.NPY_FLOAT64
    memset(&job, 0, sizeof(Job))
    job.typenum, job.precision, job.layer.hidden = typenum, precision_of(typenum), hidden
    choose_cell(&job, cell, hidden)
    job.blocks = blocks_of(&job, hidden)
    sizes = [size_of_z(&job, stride_of_blocks(&job, rows), rows)]
    if job.others:
        sizes.append((batch + rows) * c_width(&job))
    if proj_size or has_middle(&job.layer):
        sizes.append(rows * hidden)
    if takes_other(&job.layer):
        sizes.append(rows * hidden)
    return tuple(sizes)


def recall(cell, x, tuple state, weights, y, tuple kept, *, batch_sizes=None, bint reverse=False, tuple extra=()):
    """Put together the tape of a `forward` with these arguments from its y and what `keep` said of it.

    The arrays become the tape's memory, if they are aligned to cache lines; else it gets a copy.
    """
    cdef Tape tape = Tape()
    cdef fastrnn_layer *l = &tape.job.layer
    describe_layer(&tape.job, cell, weights, True)
    tape.offsets = describe_input(&tape.job, cell, x, state, batch_sizes, reverse)
    tape.extras, tape.extra = describe_extras(l, tape.job.typenum, cell, extra), extra
    new_y(&tape.job, x, y)
    tape.x, tape.y, tape.h_0, tape.weights, tape.cell = x, y, state[0], arrays_of(weights), cell
    tape.held = hold(x), hold(state[0]), hold(y), [hold(array) for array in kept]
    l.keep = True
    l.z_stride = stride_of_blocks(&tape.job, l.rows)
    sizes = kept_sizes(
        cell, l.steps, l.batch, l.rows, l.hidden, 0 if weights[4] is None else l.outputs,
        cnp.PyArray_DescrFromType(tape.job.typenum))
    if len(kept) != len(sizes) or not all(
            [is_array(array, tape.job.typenum, 1, size) for array, size in zip(kept, sizes)]):
        raise ValueError(f"the tape has arrays of {[array.size for array in kept]} elements; expected {list(sizes)}")
    memory = [aligned(array) for array in kept]
    tape.arrays = tuple(memory)
    l.z = pointer(memory[0])
    if len(state) > 1:
        l.c = pointer(memory[1])
    if takes_other(l):
        l.taken = pointer(memory.pop())
    if weights[4] is not None:
        l.u = pointer(memory[len(memory) - 1])
    elif has_middle(l):
        l.m = pointer(memory[len(memory) - 1])
    return tape


cdef cnp.ndarray aligned(cnp.ndarray array):
    """The array, or a copy that is aligned as the kernels need it."""
    if <size_t> cnp.PyArray_DATA(array) % 64 == 0:
        return array
    cdef Buffer buffer = Buffer(array.nbytes)
    memcpy(buffer.data, cnp.PyArray_DATA(array), array.nbytes)
    return array_of(buffer, cnp.PyArray_TYPE(array))


# ---- backward

cdef inline ptrdiff_t first_to_pack(const Job *job, ptrdiff_t columns) noexcept nogil:
    """The first panel of a weight of so many columns that backward does not read in place."""
    return columns // (4 * job.lanes) if job.layer.few_rows else 0


cdef void pack_hidden_task(void *context, int part) noexcept nogil:
    cdef Job *job = <Job *> context
    cdef ptrdiff_t first = first_to_pack(job, job.layer.outputs), count = job.sizes.hidden_panels - first
    job.cell.pack_hidden(
        &job.layer, first + start(count, job.threads, part), first + start(count, job.threads, part + 1))
    pack_projection_task(context, part)


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


cdef bint unproject_step(Job *job, fastrnn_layer *l, ptrdiff_t s, int part, ptrdiff_t n0, ptrdiff_t n1) noexcept nogil:
    """du := dh weight_hr, and Z from it, for a step's batch rows n0 .. n1 - 1, or a part of their columns.

    Returns whether to leave.
    """
    cdef fastrnn_product m = job.projection
    cdef ptrdiff_t p0 = 0, p1 = panels_of(job, &m), b0 = 0, b1 = job.blocks
    if job.by_hidden:
        if fastrnn_pool_barrier(job.threads, job.layer.watch):  # dh is of all threads
            return True
        p0, p1 = start(p1, job.threads, part), start(p1, job.threads, part + 1)
        b0, b1 = first_block(job, part), first_block(job, part + 1)
    m.a = <char *> l.dh + fastrnn_step_row(l, s) * l.outputs * job.itemsize
    m.out, m.out_row = <void *> l.du, l.hidden
    multiply_in_pieces(job, &m, p0, p1, n0, max(n0, min(n1, fastrnn_step_count(l, s))))
    if job.by_hidden and fastrnn_pool_barrier(job.threads, job.layer.watch):  # du is of all threads
        return True
    if not has_phases(l):
        job.cell.step_back_gates(l, s, b0, b1, n0, n1)
    return False


cdef bint sum_own(Job *job, fastrnn_layer *l, int part) noexcept nogil:
    """dunit += what the steps since the last time gave, of all threads' rows, for a part of the units.

    Returns whether to leave.
    """
    cdef ptrdiff_t units = round_up(l.hidden, job.lanes) // job.lanes, panels = job.sizes.hidden_panels
    if job.by_hidden and job.apart:  # of rows that no other thread works on
        job.cell.own_gradients(l, 4 * start(panels, job.threads, part), min(4 * start(panels, job.threads, part + 1), units))
        return False
    if fastrnn_pool_barrier(job.threads, job.layer.watch):
        return True
    job.cell.own_gradients(l, start(units, job.threads, part), start(units, job.threads, part + 1))
    return fastrnn_pool_barrier(job.threads, job.layer.watch)


cdef void sum_chunks(Job *job, fastrnn_layer *layer, ptrdiff_t row0, ptrdiff_t row1) noexcept nogil:
    """Sum the chunks whose rows all are done, of which row0 .. row1 - 1 are the last; with the last chunk to dweights."""
    cdef ptrdiff_t first
    layer.chunk_start = layer.chunk_end
    while layer.chunk_end < layer.chunk_count:
        first = layer.chunks[2 * layer.chunk_end]
        if first + layer.chunks[2 * layer.chunk_end + 1] > row1 if layer.reverse else first < row0:
            break
        layer.chunk_end += 1
    if layer.chunk_end > layer.chunk_start:
        job.cell.weight_gradients(layer, 0, job.blocks)


cdef void backward_task(void *context, int part) noexcept nogil:
    cdef Job *job = <Job *> context
    cdef fastrnn_layer layer = layer_of_part(job, part)
    cdef ptrdiff_t s, p0 = 0, p1 = job.sizes.hidden_panels, n0 = 0, n1 = layer.batch, to_look = job.steps_to_look
    cdef bint by_step = job.by_hidden and not job.apart
    cdef ptrdiff_t group = 0  # rows of the steps since the gradients of the cell's own parameters were added up
    cdef bint due = False  # whether they are to be
    cdef ptrdiff_t rows = 0, row = 0  # whose gradients of sums are made, and their products not yet, and the first of them
    if job.by_hidden:
        p0 = start(job.sizes.hidden_panels, job.threads, part)
        p1 = start(job.sizes.hidden_panels, job.threads, part + 1)
    else:
        n0 = batch_start(job, part, 0, layer.steps)
        n1 = batch_start(job, part + 1, 0, layer.steps)
    for s in range(layer.steps - 1, -2, -1):
        in_pieces(job, job.cell.step_back, &layer, s, p0, p1, n0, n1)
        if due:  # not sooner in phases: what the product took of step s + 1 has gradients of parameters, too
            if sum_own(job, &layer, part):
                return
            due, group = False, 0
        if layer.u != NULL and s >= 0 and unproject_step(job, &layer, s, part, n0, n1):
            return
        if layer.m != NULL and s >= 0:
            if has_phases(&layer) and in_phases(job, job.cell.step_back_phases, &layer, s, True, part, n0, n1):
                return
            if job.by_hidden and fastrnn_pool_barrier(job.threads, job.layer.watch):  # what m feeds is of all threads
                return
            in_pieces(job, job.cell.step_back_middle, &layer, s, p0, p1, n0, n1)
        if has_phases(&layer) and s >= 0:
            if in_phases(job, job.cell.step_back_phases, &layer, s, False, part, n0, n1):
                return
        if layer.own != NULL and s >= 0:
            group += fastrnn_step_count(&layer, s)
            due = s == 0 or group + fastrnn_step_count(&layer, s - 1) > FASTRNN_GRADIENT_ROWS  # as `cut_chunks`
            if due and not has_phases(&layer):
                if sum_own(job, &layer, part):
                    return
                due, group = False, 0
        if (job.makes_dx or job.makes_dweights) and s >= 0:
            if rows == 0 or not layer.reverse:
                row = fastrnn_step_row(&layer, s)
            rows += fastrnn_step_count(&layer, s)
            if rows >= ROWS_BACK or s == 0:
                if job.makes_dx:
                    job.cell.input_gradient(&layer, row, row + rows)
                if job.makes_dweights:
                    sum_chunks(job, &layer, row, row + rows)
                rows = 0
        to_look -= 1
        if to_look == 0:
            to_look = job.steps_to_look
            if fastrnn_stopped(job.layer.watch) and not by_step and (layer.own == NULL or job.by_hidden):
                return
        if by_step and fastrnn_pool_barrier(job.threads, job.layer.watch):
            return


cdef void projection_gradient_task(void *context, int part) noexcept nogil:
    """dweight_hr += dh^T u, chunk by chunk: some panels of columns."""
    cdef Job *job = <Job *> context
    cdef fastrnn_layer *l = &job.layer
    cdef fastrnn_product m = job.gradient_hr
    cdef ptrdiff_t i, row, p0, p1 = panels_of(job, &m)
    m.panels = <char *> m.panels + part * p1 * FASTRNN_GRADIENT_ROWS * 4 * job.lanes * job.itemsize
    p0, p1 = start(p1, job.threads, part), start(p1, job.threads, part + 1)
    for i in range(l.chunk_count):
        if i % FASTRNN_CHUNKS_TO_LOOK == 0 and fastrnn_stopped(job.layer.watch):
            return
        row, m.K = l.chunks[2 * i], l.chunks[2 * i + 1]
        m.a = <char *> l.dh + row * l.outputs * job.itemsize
        m.b = <char *> l.u + row * l.hidden * job.itemsize
        job.kernels.pack_right(&m, p0, p1)
        job.kernels.multiply(&m, p0, p1, 0, l.outputs)


cdef Buffer describe_projection_gradient(Job *job):
    """Make the product for the gradient of the projection's weights, whose `out` is known, from that which made du."""
    cdef fastrnn_product *m = &job.gradient_hr
    cdef void *out = m.out
    m[0] = job.projection
    m.a_row, m.a_k, m.out, m.out_row, m.add = 1, job.layer.outputs, out, job.layer.hidden, True
    return room_for(
        job, &m.panels, job.itemsize * job.threads * panels_of(job, m) * FASTRNN_GRADIENT_ROWS * 4 * job.lanes)


cdef void weight_task(void *context, int part) noexcept nogil:
    cdef Job *job = <Job *> context
    cdef fastrnn_layer layer = layer_of_part(job, part)
    job.cell.weight_gradients(&layer, start(job.blocks, job.threads, part), start(job.blocks, job.threads, part + 1))


cdef void input_task(void *context, int part) noexcept nogil:
    cdef Job *job = <Job *> context
    cdef fastrnn_layer layer = layer_of_part(job, part)
    job.cell.input_gradient(
        &layer, start(layer.rows, job.threads, part), start(layer.rows, job.threads, part + 1))


cdef Buffer cut_chunks(fastrnn_layer *l):
    """The chunks of rows that gradients of weights are summed by: see `fastrnn.steps.gradient_groups`."""
    cdef Buffer memory = Buffer(2 * sizeof(ptrdiff_t) * (l.steps + l.rows // FASTRNN_GRADIENT_ROWS))
    cdef ptrdiff_t *chunks = <ptrdiff_t *> memory.data
    cdef ptrdiff_t first, last = l.steps, rows, row, count = 0
    while last > 0:
        first = last - 1
        rows = fastrnn_step_count(l, first)
        while first > 0 and rows + fastrnn_step_count(l, first - 1) <= FASTRNN_GRADIENT_ROWS:
            first -= 1
            rows += fastrnn_step_count(l, first)
        row = fastrnn_step_row(l, last - 1 if l.reverse else first)
        while rows > 0:
            chunks[2 * count], chunks[2 * count + 1] = row, min(rows, FASTRNN_GRADIENT_ROWS)
            row += chunks[2 * count + 1]
            rows -= chunks[2 * count + 1]
            count += 1
        last = first
    l.chunks, l.chunk_count, l.chunk_start, l.chunk_end = chunks, count, 0, count
    return memory


cdef int look_again(Job *job, cell, weights, cnp.ndarray x, cnp.ndarray y, h_0) except -1:
    """Make a tape's layer read its arrays where they are by now; ValueError unless they are as forward left them."""
    cdef fastrnn_layer *l = &job.layer
    cdef bint ragged = l.offsets != NULL
    refuse_misfits(cell, weights)
    cdef cnp.ndarray ih = weights[0]
    cdef object hh = weights[1]
    if not (
            cnp.PyArray_TYPE(ih) == job.typenum and ih.shape[1] == l.inputs and ih.shape[0] == job.x_gates * l.hidden
            and (hh is None or (<cnp.ndarray> hh).shape[1] == l.outputs)
            and (l.bias_ih == NULL) == (weights[2] is None)):
        raise ValueError("the parameters have other shapes or dtypes than in forward; expected those they had")
    cdef ptrdiff_t T = l.rows if ragged else l.steps if l.batch else x.shape[0]
    if x.ndim == 0 or x.shape[0] != T or not (
            is_array(x, job.typenum if l.x != NULL else cnp.NPY_INTP, x.ndim, T, l.inputs if ragged else l.batch, l.inputs)
            and x.ndim == (l.x != NULL) + (1 if ragged else 2)):
        raise ValueError("x has another shape or dtype than in forward; expected it as it was")
    if not are_rows(y, job, ragged, T) or row_stride(job, y) != l.y_row and l.rows > 1:
        raise ValueError("y has another shape or dtype than forward gave it; expected it as it was")
    if not is_array(h_0, job.typenum, 2, l.batch, l.outputs):
        raise ValueError("the initial state has another shape or dtype than in forward; expected it as it was")
    l.weight_ih, l.weight_hh, l.bias_ih, l.bias_hh, l.unit = (
        pointer(ih), pointer(hh), pointer(weights[2]), pointer(weights[3]), pointer(weights[5]))
    if l.u != NULL:
        job.projection.b = pointer(weights[4])
    point_to_input(l, job.typenum, x, h_0)
    l.y = pointer(y)
    return 0


cdef int gradients_fit(const Job *job, cnp.ndarray x, weights, dy, tuple dstate, dx, dweights) except -1:
    """ValueError unless the gradients that go in, and those that are added to, fit the tape's layer."""
    cdef const fastrnn_layer *l = &job.layer
    cdef bint ragged = l.offsets != NULL
    cdef bint fit = dy is None or are_rows(dy, job, ragged, x.shape[0])
    fit = fit and len(dstate) == 1 + job.others
    fit = fit and (dstate[0] is None or is_array(dstate[0], job.typenum, 2, l.batch, l.outputs))
    for d in dstate[1:]:
        fit = fit and (d is None or is_array(d, job.typenum, 2, l.batch, l.hidden))
    if dx is not None:
        fit = fit and l.x != NULL and is_array(
            dx, job.typenum, x.ndim, x.shape[0], l.inputs if ragged else l.batch, l.inputs)
    if dweights is not None:
        for weight, dweight in zip(weights, dweights, strict=True):
            fit = fit and (weight is None) == (dweight is None) and (weight is None or is_array(
                dweight, job.typenum, weight.ndim, len(weight), weight.shape[1] if weight.ndim == 2 else 0))
    if not fit:
        raise ValueError("the gradients do not fit what forward was given and returned")
    return 0


cdef Buffer describe_into_extras(Job *job, tuple dextra, bint add):
    """Where backward writes the gradients of what the cell is given beside x; None if nobody wants them.

    They go right into the arrays, of any rows that do not overlap, unless they are to be added: then into memory that is
    returned, see `add_into_extras`.
    """
    cdef fastrnn_layer *l = &job.layer
    cdef ptrdiff_t wanted = 0 if l.program == NULL else l.program.into_extras
    cdef fastrnn_extra *at
    cdef Buffer memory
    l.dextras, l.into_extras = NULL, NULL
    if wanted == 0 and len(dextra) == 0:
        return None
    if len(dextra) != wanted or not all([
            is_array(d, job.typenum, 2, l.rows, l.hidden) if add else are_apart(d, job.typenum, l.rows, l.hidden)
            for d in dextra]) or not all([d.flags.writeable for d in dextra]):
        raise ValueError("the gradients of what the cell is given beside x do not fit the layer")
    if add:
        return room_for(
            job, &l.into_extras, wanted * l.rows * round_up(l.hidden, job.lanes) * job.itemsize, True)
    if job.group != NULL:
        raise ValueError("gradients of what a group is given beside x are added; expected dextra_add")
    memory = Buffer(wanted * sizeof(fastrnn_extra))
    at = <fastrnn_extra *> memory.data
    for array in dextra:
        at.at, at.width, at.row, at.of_sequence = pointer(array), l.hidden, row_of(array), False
        at += 1
    l.dextras = <fastrnn_extra *> memory.data
    return memory


cdef int add_into_extras(const Job *job, Buffer memory, tuple dextra) except -1:
    """dextra += what backward has written; of a group each has an axis of the members before the others."""
    cdef const fastrnn_layer *l = &job.layer
    cdef ptrdiff_t row = round_up(l.hidden, job.lanes), m, members = members_of(job), size
    if l.into_extras != NULL:
        size = memory.size // job.itemsize // members
        for m, of_member in enumerate(array_of(memory, job.typenum).reshape(members, size)):
            found = of_member[:len(dextra) * l.rows * row].reshape(len(dextra), l.rows, row)
            for its, d in zip(found, dextra):
                d = d if job.group == NULL else d[m]
                d += its[:, :l.hidden]
    return 0


def backward(
    cell, Tape tape, dy, tuple dstate, *, num_threads=1, dx=None, dweights=None, rows=None, bint of_x=True,
    tuple dextra=(), bint dextra_add=True, bint of_weights=True
):
    """`fastrnn.reference.backward` on the C kernels; dx is None unless `of_x`. Overwrites the tape: it serves once.

    Of a group's tape all arrays, also dx of an x that its members share, have an axis of the members before the others.
    Unless `of_weights`, the gradients of the weights of a built-in cell without a projection are left out: they hold
    anything.
    """
    cdef Job job = tape.job, its
    cdef Job *one
    cdef Group group
    cdef Plan plan
    cdef fastrnn_layer *l = &job.layer
    cdef ptrdiff_t members = 0
    cdef object all_dx = dx, all_dweights = dweights, all_dy = dy, weights = tape.weights
    cdef tuple all_dstate = dstate
    cdef object its_y = tape.y, its_h_0 = tape.h_0
    cdef cnp.ndarray x = tape.x
    plan.count = 0
    if tape.group is not None:
        group = (<Group *> tape.group.data)[0]
        job.group, members, group.at_once = &group, group.members, 1
        weights, its_y, its_h_0 = (
            first_of_all(weights, members), first_of(its_y, members), first_of(its_h_0, members))
        x = x if tape.shared else first_of(x, members)
        dy, dx, dstate = first_of(dy, members), first_of(dx, members), first_of_all(dstate, members)
        dweights = None if dweights is None else first_of_all(dweights, members)
    cdef cnp.ndarray h_0 = its_h_0
    look_again(&job, cell, weights, x, its_y, h_0)
    if members:
        move_weights(&job, tape.weights)
        move_input(&job, tape.x, tape.h_0, tape.y, tape.shared)
    gradients_fit(&job, x, weights, dy, dstate, dx, dweights)
    cdef int typenum = job.typenum
    cdef ptrdiff_t k, m, others = job.others
    cdef Buffer into_extras = describe_into_extras(&job, first_of_all(dextra, members) if members else dextra, dextra_add)
    l.dy = pointer(dy)
    l.dy_row = 0 if dy is None else row_stride(&job, dy)
    l.dh_n = pointer(dstate[0])

    l.dx_add, l.dweight_add = dx is not None, dweights is not None
    if dx is None and l.x != NULL and of_x:
        all_dx = new_like(x, members)
    if dweights is None:
        ih, hh, bias_ih, bias_hh, hr, unit = weights
        all_dweights = (
            new_like(ih, members), new_like(hh, members), new_like(bias_ih, members), new_like(bias_hh, members),
            new_like(hr, members, True), new_like(unit, members, unit is not None and l.program.adds_up))
    dh_0 = new_of_rows(typenum, members, l.batch, l.outputs)
    cdef tuple dstate_0 = (dh_0,) if others == 0 else (
        dh_0, *[new_of_rows(typenum, members, l.batch, l.hidden) for k in range(others)])
    cdef void ***fields = [&l.dweight_ih, &l.dweight_hh, &l.dbias_ih, &l.dbias_hh, &job.gradient_hr.out, &l.dunit]
    l.dx, l.dh_0 = pointer(all_dx), pointer(dstate_0[0])
    for k in range(6):
        fields[k][0] = pointer(all_dweights[k])
    if members:
        for k in range(6):
            move(&job, fields[k], stride_of(all_dweights[k]), 0)
        move(&job, &l.dx, stride_of(all_dx), 0)
        move(&job, &l.dh_0, stride_of(dstate_0[0]), 0)
        move(&job, &l.dy, stride_of(all_dy), 0)
        move(&job, &l.dh_n, stride_of(all_dstate[0]), 0)

    share(&job, num_threads)
    held = None if job.brief else (hold(all_dy), [hold(d) for d in all_dstate], [hold(d) for d in dextra])
    cdef size_t row = round_up(l.hidden, job.lanes) * job.itemsize, packed_row = l.hidden * job.itemsize
    # of carry: the part of dh that goes around the product, and the gradients of the other states; a built-in cell has one
    cdef size_t carry_row = row * (1 if l.program == NULL else 1 + others), first = 0 if l.program == NULL else row
    if has_phases(l) and has_middle(l):
        carry_row += row  # and that of m
    cdef size_t h_row = l.outputs * job.itemsize
    cdef ptrdiff_t begun = fastrnn_step_count(l, l.steps - 1 if l.reverse else 0)  # sequences of a step or more
    cdef bint piece_by_piece
    cdef Buffer carry, panels, split, scratch, panels_m, own, units, chunks = None, projection = None, dh = None, du = None
    cdef Buffer panels_hr = None
    try:
        units = whole_units_of(&job)
        carry = room_for(&job, &l.carry, l.batch * carry_row, True)
        if l.unit != NULL and l.program.adds_up:
            own = room_for(&job, &l.own, l.batch * l.program.parameters * row, True)
            memset(own.data, 0, own.size)
        memset(carry.data, 0, carry.size)
        for m in range(members_of(&job)):
            one = member_at(&its, &job, m)
            for k in range(others):
                if dstate[1 + k] is not None:
                    copy_rows(
                        <char *> one.layer.carry + first + k * row, carry_row, member(all_dstate[1 + k], m, members),
                        packed_row, l.batch, packed_row)
            if l.dh_n == NULL:
                memset(<char *> one.layer.dh_0 + begun * h_row, 0, (l.batch - begun) * h_row)
            else:
                memcpy(
                    <char *> one.layer.dh_0 + begun * h_row, <char *> one.layer.dh_n + begun * h_row,
                    (l.batch - begun) * h_row)
        choose_weight_split(&job, l.rows if rows is None else rows)
        if not l.few_rows or l.u != NULL:
            chunks = cut_chunks(l)
        job.cell.measure(l, &job.sizes)
        panels = room_for(
            &job, &l.panels_hh,
            job.itemsize * job.sizes.backward_panel * max(job.sizes.hidden_panels, job.sizes.input_panels))
        l.panels_ih = l.panels_hh  # one after the other
        if members:
            move(&job, &l.panels_ih, 0, round_up(panels.size // group.slots, 64))
        if l.m != NULL:
            panels_m = room_for(&job, &l.panels_m, job.itemsize * job.sizes.backward_panel * job.sizes.hidden_panels)
        split = room_for(&job, &l.split_panels, job.itemsize * job.sizes.input_panels * job.sizes.split_backward)
        scratch = room_for(&job, &l.scratch, job.itemsize * job.sizes.backward_scratch * job.threads)
        if l.u != NULL:
            describe_projection(&job, l.outputs, l.hidden, l.hidden, 1)
            projection = panels_of_projection(&job)
            dh, du = room_for(&job, &l.dh, l.rows * h_row), room_for(&job, <void **> &l.du, l.batch * packed_row)
        add(&plan, pack_hidden_task)
        piece_by_piece = (
            is_scan(l) and job.threads == 1
            and job.blocks * stride_of_blocks(&job, l.rows) * job.itemsize > PROJECTION_BYTES)
        job.makes_dx = piece_by_piece and l.dx != NULL
        job.makes_dweights = (  # in scratch memory, which split products want for themselves
            piece_by_piece and not (l.few_rows or l.split_w or l.split_x) and l.chunk_count > 0
            and job.blocks <= job.sizes.gradient_blocks)
        if job.makes_dx:
            add(&plan, pack_input_task)  # there is no recurrent product that has panels
        if job.makes_dweights:
            l.chunk_end = 0  # none is summed yet
        add(&plan, backward_task, job.by_hidden or l.own != NULL)
        if not job.makes_dweights and (of_weights or l.program != NULL or l.u != NULL):
            add(&plan, weight_task)
        if l.dx != NULL and not job.makes_dx:
            add(&plan, pack_input_task)
            add(&plan, input_task)
        if l.u != NULL:
            panels_hr = describe_projection_gradient(&job)
            add(&plan, projection_gradient_task)
        run_plan(&plan, &job)
    finally:
        if job.pool > 1:
            fastrnn_pool_release()

    for m in range(members_of(&job)):
        one = member_at(&its, &job, m)
        for k in range(others):
            copy_rows(
                member(dstate_0[1 + k], m, members), packed_row, <char *> one.layer.carry + first + k * row, carry_row,
                l.batch, packed_row)
    add_into_extras(&job, into_extras, dextra)
    return all_dx, dstate_0, tuple(all_dweights)


cdef object new_like(object array, ptrdiff_t members, bint zero=False):
    """A new array of an array's shape and dtype, with an axis of members before the others if there are any; None of None."""
    cdef cnp.npy_intp sizes[4]
    cdef cnp.ndarray made, given
    cdef int i, axes = 1 if members else 0
    if array is None:
        return None
    given, sizes[0] = array, members
    for i in range(given.ndim):
        sizes[axes + i] = given.shape[i]
    made = empty(axes + given.ndim, sizes, cnp.PyArray_TYPE(given))
    if zero:
        memset(cnp.PyArray_DATA(made), 0, cnp.PyArray_NBYTES(made))
    return made


cdef cnp.ndarray new_of_rows(int typenum, ptrdiff_t members, ptrdiff_t rows, ptrdiff_t columns):
    """A new array (N, K) for a state's gradient, with an axis of members before the others if there are any."""
    cdef cnp.npy_intp *shape = [members, rows, columns]
    return empty(3, shape, typenum) if members else empty(2, shape + 1, typenum)


# ---- explanation

def explain(cell, weights, ptrdiff_t steps, ptrdiff_t batch, *, bint tokens, bint tape, bint packed, num_threads):
    """What `forward`, and after one with a tape `backward`, would choose for x of a size: a dict of words."""
    cdef Job job
    describe_layer(&job, cell, weights, tape)
    cdef fastrnn_layer *l = &job.layer
    l.steps, l.batch, l.rows = steps, batch, steps * batch
    if not tokens:
        l.x = l.weight_ih  # anything but NULL
    split_over(&job, usable_threads(num_threads) if worth_threads(&job) else 1)
    plan_forward(&job, tape, packed and not tape)
    choose_weight_split(&job, l.rows)
    rows = job.kernels.tile_rows
    level, kind = ISAS[fastrnn_isa_of(ISA - SPLITS, job.precision)], "multiply-adds"
    if job.sizes.left_row:
        kind = "products of int8, summed in int32" if l.scale_ih != NULL else "products of bfloat16, summed in float32"
    chains = f"{level} {kind}, tiles of {rows} rows by 4 vectors of {job.lanes}"
    products = (chains, "split floats on the matrix unit (amx), tiles of 16 by 16")
    chosen = {
        "threads": f"{job.threads}, sharing the {'hidden units' if job.by_hidden else 'batch'}" if job.threads > 1 else "1",
        "weights": "packed as each step goes" if job.packs_as_it_goes else
                   "packed by an earlier call" if packed and not tape else "packed first",
        "input product": "columns of weight_ih, gathered" if tokens else products[l.split_x] + (
            f", {min(job.steps, max(steps, 1))} steps ahead" if l.projected else ", step by step"),
        "recurrent product": chains + (", sums of one row in registers" if job.of_row else ""),
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
    fastrnn_watch watch
    ptrdiff_t pieces


cdef void pack_right_task(void *context, int part) noexcept nogil:
    cdef Multiplication *job = <Multiplication *> context
    job.kernels.pack_right(
        &job.product, start(job.panels, job.threads, part), start(job.panels, job.threads, part + 1))


cdef void multiply_task(void *context, int part) noexcept nogil:
    cdef Multiplication *job = <Multiplication *> context
    cdef ptrdiff_t i, pieces = job.pieces * job.threads  # of all threads
    for i in range(job.pieces * part, job.pieces * (part + 1)):
        if fastrnn_stopped(&job.watch):
            return
        job.kernels.multiply(
            &job.product, 0, job.panels, job.product.rows * i // pieces, job.product.rows * (i + 1) // pieces)


cdef bint product_fits(cnp.ndarray a, cnp.ndarray b, bias) noexcept:
    """Whether the factors of a product can be read: `fastrnn.fits.check_product`."""
    cdef int typenum = cnp.PyArray_TYPE(a), i
    if typenum not in (cnp.NPY_FLOAT32, cnp.NPY_FLOAT64) or cnp.PyArray_TYPE(b) != typenum or a.ndim != 2 or b.ndim != 2:
        return False
    cdef ptrdiff_t itemsize = itemsize_of(typenum)
    for i in range(2):
        if a.strides[i] % itemsize or b.strides[i] % itemsize:
            return False
    return (
        a.shape[1] == b.shape[0]
        and (b.strides[0] == itemsize or b.strides[1] == itemsize or b.shape[0] <= 1 or b.shape[1] == 0)
        and cnp.PyArray_ISALIGNED(a) and cnp.PyArray_ISALIGNED(b)
        and cnp.PyArray_ISNOTSWAPPED(a) and cnp.PyArray_ISNOTSWAPPED(b)
        and (bias is None or is_array(bias, typenum, 1, b.shape[1])))


def multiply(cnp.ndarray a, cnp.ndarray b, bias=None, *, num_threads=1, out=None, bint add=False):
    """Return a @ b + bias for a (R, K), b (K, C) and bias (C,), of any strides but one of b's is an element.

    It is put into `out`, if given, whose rows may lie apart, or with `add` added to that, without a bias.
    """
    cdef Multiplication job
    memset(&job, 0, sizeof(job))
    if not product_fits(a, b, bias):
        check_product(a, b, bias)  # which says what does not fit
        raise ValueError("the factors of a product do not fit one another")
    held = hold(a), hold(b), hold(bias), hold(out)
    cdef fastrnn_product *m = &job.product
    cdef int typenum = cnp.PyArray_TYPE(a), itemsize = itemsize_of(typenum)
    job.kernels = kernels_of(typenum)
    m.rows, m.K, m.columns = a.shape[0], a.shape[1], b.shape[1]
    m.a_row, m.a_k = a.strides[0] // itemsize, a.strides[1] // itemsize
    m.b_k, m.b_column = b.strides[0] // itemsize, b.strides[1] // itemsize
    m.a, m.b, m.bias = cnp.PyArray_DATA(a), cnp.PyArray_DATA(b), pointer(bias)
    cdef cnp.npy_intp *shape = [m.rows, m.columns]
    if out is None:
        out, add = empty(2, shape, typenum), False
    elif not are_apart(out, typenum, m.rows, m.columns) or not out.flags.writeable or (add and bias is not None):
        raise ValueError(f"out does not fit a product of the shape {(m.rows, m.columns)}")
    m.out, m.out_row, m.add = pointer(out), row_of(out), add
    cdef ptrdiff_t width = 4 * job.kernels.lanes
    job.panels = round_up(m.columns, width) // width
    cdef Buffer panels = Buffer(itemsize * job.panels * m.K * width)
    m.panels = panels.data
    cdef double flops = 2.0 * m.rows * m.K * m.columns
    begin(&job.watch)
    job.threads = fastrnn_pool_acquire(1 if flops < FLOPS_WORTH_A_THREAD else usable_threads(num_threads))
    job.pieces = 1 + <ptrdiff_t> (flops / job.threads / FLOPS_OF_A_PIECE)
    with nogil:
        fastrnn_pool_run(pack_right_task, &job, job.threads, False, &job.watch)
        fastrnn_pool_run(multiply_task, &job, job.threads, False, &job.watch)
        if job.threads > 1:
            fastrnn_pool_release()
    check(&job.watch)
    return out


# ---- softmax

cdef struct Softmax:
    const fastrnn_kernels *kernels
    void *p
    void *top
    void *total
    const void *z
    ptrdiff_t rows, columns
    double scale
    int threads
    fastrnn_watch watch
    ptrdiff_t pieces


cdef void softmax_task(void *context, int part) noexcept nogil:
    cdef Softmax *job = <Softmax *> context
    cdef ptrdiff_t i, pieces = job.pieces * job.threads  # of all threads
    for i in range(job.pieces * part, job.pieces * (part + 1)):
        if fastrnn_stopped(&job.watch):
            return
        job.kernels.softmax(
            job.p, job.top, job.total, job.z, job.columns, job.scale, job.rows * i // pieces, job.rows * (i + 1) // pieces)


def softmax(cnp.ndarray z, double scale, *, num_threads=1):
    """Return scale * softmax(z) of the rows of z (n, C), C-contiguous, their maxima (n,), and sums of exp(z - max)."""
    if not (z.ndim == 2 and (
            is_array(z, cnp.NPY_FLOAT32, 2, z.shape[0], z.shape[1]) or is_array(z, cnp.NPY_FLOAT64, 2, z.shape[0], z.shape[1]))):
        raise ValueError("z is no contiguous array of two axes of float32 or float64")
    held = hold(z)
    cdef Softmax job
    cdef int typenum = cnp.PyArray_TYPE(z)
    cdef cnp.npy_intp *shape = [z.shape[0], z.shape[1]]
    cdef cnp.ndarray p = empty(2, shape, typenum), top = empty(1, shape, typenum), total = empty(1, shape, typenum)
    job.kernels = kernels_of(typenum)
    job.rows, job.columns, job.scale = z.shape[0], z.shape[1], scale
    job.p, job.top, job.total = cnp.PyArray_DATA(p), cnp.PyArray_DATA(top), cnp.PyArray_DATA(total)
    job.z = cnp.PyArray_DATA(z)
    cdef double flops = <double> FLOPS_OF_SOFTMAX * job.rows * job.columns
    begin(&job.watch)
    job.threads = fastrnn_pool_acquire(1 if flops < FLOPS_WORTH_A_THREAD else usable_threads(num_threads))
    job.pieces = 1 + <ptrdiff_t> (flops / job.threads / FLOPS_OF_A_PIECE)
    with nogil:
        fastrnn_pool_run(softmax_task, &job, job.threads, False, &job.watch)
        if job.threads > 1:
            fastrnn_pool_release()
    check(&job.watch)
    return p, top, total


# ---- what training does besides: gradients of embeddings, steps of Adam

ctypedef fused real:
    float
    double


cdef bint add_rows(real *out, const cnp.npy_intp *tokens, const real *rows, ptrdiff_t R, ptrdiff_t V, ptrdiff_t E) noexcept:
    """out[tokens[r]] += rows[r], in order; whether all tokens were in 0..V-1."""
    cdef ptrdiff_t r, e
    cdef real *row
    for r in range(R):
        if not 0 <= tokens[r] < V:
            return False
        row = out + tokens[r] * E
        for e in range(E):
            row[e] += rows[r * E + e]
    return True


def scatter_add(cnp.ndarray rows, cnp.ndarray tokens, ptrdiff_t count):
    """Return (count, E) with the sum of the rows (R, E) of each of tokens (R,), which are of intp; both C-contiguous."""
    cdef ptrdiff_t R = rows.shape[0], E = rows.shape[1]
    cdef int typenum = cnp.PyArray_TYPE(rows)
    cdef bint single = is_array(rows, cnp.NPY_FLOAT32, 2, R, E)
    if not (single or is_array(rows, cnp.NPY_FLOAT64, 2, R, E)) or not is_array(tokens, cnp.NPY_INTP, 1, R):
        raise ValueError("rows and tokens are no contiguous arrays (R, E) of float32 or float64 and (R,) of intp")
    cdef cnp.npy_intp *shape = [count, E]
    cdef cnp.ndarray out = cnp.PyArray_ZEROS(2, shape, typenum, 0)
    cdef const cnp.npy_intp *at = <const cnp.npy_intp *> cnp.PyArray_DATA(tokens)
    cdef bint fit
    if single:
        fit = add_rows(<float *> cnp.PyArray_DATA(out), at, <const float *> cnp.PyArray_DATA(rows), R, count, E)
    else:
        fit = add_rows(<double *> cnp.PyArray_DATA(out), at, <const double *> cnp.PyArray_DATA(rows), R, count, E)
    if not fit:
        raise ValueError(f"tokens has one that is not in 0..{count - 1}")
    return out


cdef void step_of_adam(
    real *p, const real *grad, real *mean, real *square, ptrdiff_t n, const double *by) noexcept:
    """One pass over all four, in the order of operations of `fastrnn.training.optimizers`, so that the bits are its."""
    cdef real beta1 = <real> by[0], beta2 = <real> by[1], rest1 = <real> (1 - by[0]), rest2 = <real> (1 - by[1])
    cdef real correction = <real> by[2], eps = <real> by[3], rate = <real> by[4], kept = <real> by[5]
    cdef real m, v
    cdef ptrdiff_t i
    for i in range(n):
        m = mean[i] * beta1 + grad[i] * rest1
        v = square[i] * beta2 + grad[i] * grad[i] * rest2
        mean[i] = m
        square[i] = v
        if real is float:
            p[i] = p[i] * kept - m / (sqrtf(v) / correction + eps) * rate
        else:
            p[i] = p[i] * kept - m / (sqrt(v) / correction + eps) * rate


def adam(cnp.ndarray p, cnp.ndarray grad, cnp.ndarray mean, cnp.ndarray square, *, double beta1, double beta2,
         double correction, double eps, double rate, double kept):
    """Take a step of Adam in place; False, and nothing done, unless all arrays are contiguous, of one dtype and size.

    mean := beta1 mean + (1 - beta1) grad; square := beta2 square + (1 - beta2) grad^2;
    p := kept p - rate mean / (sqrt(square) / correction + eps).
    """
    cdef int typenum = cnp.PyArray_TYPE(p)
    cdef ptrdiff_t n = cnp.PyArray_SIZE(p)
    if typenum != cnp.NPY_FLOAT32 and typenum != cnp.NPY_FLOAT64:
        return False
    for a in (p, grad, mean, square):
        if not cnp.PyArray_ISCARRAY_RO(a) or not (a is grad or cnp.PyArray_ISWRITEABLE(a)):
            return False
        if cnp.PyArray_TYPE(a) != typenum or cnp.PyArray_SIZE(a) != n:
            return False
    cdef double *by = [beta1, beta2, correction, eps, rate, kept]
    if typenum == cnp.NPY_FLOAT32:
        step_of_adam(
            <float *> cnp.PyArray_DATA(p), <const float *> cnp.PyArray_DATA(grad), <float *> cnp.PyArray_DATA(mean),
            <float *> cnp.PyArray_DATA(square), n, by)
    else:
        step_of_adam(
            <double *> cnp.PyArray_DATA(p), <const double *> cnp.PyArray_DATA(grad), <double *> cnp.PyArray_DATA(mean),
            <double *> cnp.PyArray_DATA(square), n, by)
    return True


# ---- programs on arrays

cdef struct Evaluation:
    const fastrnn_kernels *kernels
    fastrnn_code code
    void *places
    ptrdiff_t count
    ptrdiff_t vectors  # of a place
    fastrnn_watch watch


cdef void evaluate_task(void *context, int part) noexcept nogil:
    cdef Evaluation *job = <Evaluation *> context
    job.kernels.evaluate(&job.code, job.places, job.count, job.vectors)


cdef class Evaluator:
    """A program on arrays. Its places are the inputs, the outputs, the constants, then the registers."""

    cdef Evaluation job  # all of it but the kernels, the memory and its size
    cdef ptrdiff_t inputs, outputs
    cdef Buffer instructions
    cdef tuple constants

    def __init__(self, program):
        self.inputs, self.outputs, self.constants = program.inputs, program.outputs, program.constants
        first = {Kind.UNIT: 0, Kind.AFTER: self.inputs, Kind.CONSTANT: self.inputs + self.outputs}
        first[Kind.REGISTER] = first[Kind.CONSTANT] + len(self.constants)
        self.job.count = first[Kind.REGISTER] + program.registers
        code = with_two_at_once(program.instructions)
        self.instructions = Buffer(len(code) * sizeof(fastrnn_instruction))
        cdef fastrnn_instruction *at = <fastrnn_instruction *> self.instructions.data
        self.job.code.instructions, self.job.code.count = at, len(code)
        for op, *operands in code:
            at.op = op
            at.out, at.a, at.b, at.c, at.d, at.e = [first[kind] + index for kind, index in operands]
            at += 1

    cdef cnp.ndarray run(self, const fastrnn_kernels *kernels, list arrays):
        """The outputs, (outputs, H) or (K, outputs, H), of contiguous arrays (rows, H) or (K, rows, H) of one dtype."""
        cdef cnp.ndarray array = arrays[0], out
        cdef Evaluation job = self.job
        cdef int axes = array.ndim, typenum = cnp.PyArray_TYPE(array), itemsize = itemsize_of(typenum)
        cdef ptrdiff_t members = array.shape[0] if axes == 3 else 1, H = array.shape[axes - 1], k = 0, rows, m, r, i
        for array in arrays:
            if cnp.PyArray_TYPE(array) != typenum or array.ndim != axes or array.shape[axes - 1] != H or (
                    axes == 3 and array.shape[0] != members) or not cnp.PyArray_ISCARRAY_RO(array):
                raise ValueError(
                    f"a program's arrays have shapes {[each.shape for each in arrays]}; expected contiguous ones, alike but "
                    "in their rows")
            k += array.shape[axes - 2]
        if k != self.inputs:
            raise ValueError(f"a program was given {k} rows; expected {self.inputs}")
        cdef cnp.npy_intp *shape = [members, self.outputs, H]
        out = empty(axes, shape + 3 - axes, typenum)
        job.kernels, job.vectors = kernels, min((H + kernels.lanes - 1) // kernels.lanes, MOST_VECTORS)
        cdef ptrdiff_t columns = job.vectors * kernels.lanes, row = columns * itemsize, column, size
        cdef Buffer room = Buffer(job.count * row)
        cdef char *at
        job.places = room.data
        at = <char *> room.data + (self.inputs + self.outputs) * row
        for value in self.constants:
            for i in range(columns):
                if typenum == cnp.NPY_FLOAT32:
                    (<float *> at)[i] = value
                else:
                    (<double *> at)[i] = value
            at += row
        begin(&job.watch, stops=False)
        for m in range(members):
            for column from 0 <= column < H by columns:
                at, size = <char *> room.data, min(columns, H - column) * itemsize
                for array in arrays:
                    rows = array.shape[axes - 2]
                    for r in range(rows):
                        memcpy(at, <char *> cnp.PyArray_DATA(array) + ((m * rows + r) * H + column) * itemsize, size)
                        at += row
                fastrnn_pool_run(evaluate_task, &job, 1, False, &job.watch)
                for r in range(self.outputs):
                    memcpy(
                        <char *> cnp.PyArray_DATA(out) + ((m * self.outputs + r) * H + column) * itemsize,
                        at + r * row, size)
        return out


cdef ptrdiff_t MOST_VECTORS = 32  # of a place, so that some dozen of them fit L1

cdef dict EVALUATORS = {}  # by id of a program, for as long as it lives


def run_on_arrays(program, *arrays):
    """Return the outputs (..., H) of an `ArrayProgram` whose inputs are the rows of all arrays (..., rows, H)."""
    found = EVALUATORS.get(id(program))
    if found is None:
        found = EVALUATORS[id(program)] = Evaluator(program)
        weakref.finalize(program, EVALUATORS.pop, id(program), None).atexit = False
    cdef int typenum = cnp.PyArray_TYPE(arrays[0])
    return (<Evaluator> found).run(kernels_of(typenum), list(arrays))


def activation(str name, cnp.ndarray a, str isa, cnp.ndarray b=None, cnp.ndarray c=None):
    """Return what an operation makes of a, b and c as programs compute it on instruction set `isa`, which must run here.

    `name` is that of `fastrnn.cells.program.Op`, in small letters; b and c are a where they are None. For the tests.
    """
    cdef int at = ISAS.index(isa)
    if not fastrnn_isa_runs(at):
        raise ValueError(f"{isa} does not run on this CPU")
    operands = [Operand(Kind.UNIT, k) for k in range(3)]
    instruction = Instruction(Op[name.upper()], Operand(Kind.AFTER, 0), *operands)
    cdef Evaluator evaluator = Evaluator(ArrayProgram(3, 1, (), 0, (instruction,)))
    cdef bint is_float = cnp.PyArray_TYPE(a) == cnp.NPY_FLOAT32
    rows = [each.reshape(1, -1) for each in (a, a if b is None else b, a if c is None else c)]
    out = evaluator.run(fastrnn_kernel_table(at, FASTRNN_F32 if is_float else FASTRNN_F64), rows)
    return out.reshape((<object> a).shape)
