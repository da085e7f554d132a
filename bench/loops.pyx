"""The loops of limit_loops.c, without the interpreter's lock."""

cdef extern from "limit_loops.h" nogil:
    enum:
        FASTRNN_LOOPS_ALIGNMENT
        FASTRNN_LOOPS_READ

    ctypedef struct fastrnn_loops:
        int vector_bytes
        ptrdiff_t sums
        double (*multiply_add_float)(ptrdiff_t rounds) noexcept nogil
        double (*multiply_add_double)(ptrdiff_t rounds) noexcept nogil
        double (*read)(const void *data, ptrdiff_t size) noexcept nogil

    const fastrnn_loops *fastrnn_widest_loops()

ALIGNMENT = FASTRNN_LOOPS_ALIGNMENT
READ_BYTES = FASTRNN_LOOPS_READ


def multiply_add(str dtype, ptrdiff_t rounds):
    """Multiply and add in registers; return how many floating-point operations that were."""
    cdef const fastrnn_loops *loops = fastrnn_widest_loops()
    cdef bint double_precision = dtype == "float64"
    with nogil:
        if double_precision:
            loops.multiply_add_double(rounds)
        else:
            loops.multiply_add_float(rounds)
    return 2 * rounds * loops.sums * (loops.vector_bytes // (8 if double_precision else 4))


def read(const unsigned char[::1] data, ptrdiff_t times):
    """Read all of `data`, aligned to ALIGNMENT, a multiple of READ_BYTES long, `times` times; return the bytes read."""
    cdef const fastrnn_loops *loops = fastrnn_widest_loops()
    cdef ptrdiff_t size = data.shape[0], k
    if size % FASTRNN_LOOPS_READ or <size_t>&data[0] % FASTRNN_LOOPS_ALIGNMENT:
        raise ValueError(f"data has {size} bytes; expected a multiple of {READ_BYTES}, aligned to {ALIGNMENT}")
    with nogil:
        for k in range(times):
            loops.read(&data[0], size)
    return size * times
