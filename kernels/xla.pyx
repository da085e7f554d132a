"""How XLA calls back: a custom call's buffers become NumPy arrays on their memory, for a function of `calls`.

`handler` is what is registered with XLA (`jax.ffi.register_ffi_target`). A call has one attribute, a string: a name of
`calls`, and after a space what that makes a function of, which takes the arguments, to be read, and the results, to be
written to. Such functions are kept in `made`. Their arrays must not outlive a call. What they raise becomes XLA's error.
"""

from fastrnn.cells import Weights

cimport numpy as cnp
from cpython.pycapsule cimport PyCapsule_GetPointer, PyCapsule_New
from libc.stdint cimport int64_t
from libc.string cimport memcpy, memset

cnp.import_array()

cdef extern from "xla_ffi.h":
    int XLA_FFI_PRED, XLA_FFI_S32, XLA_FFI_S64, XLA_FFI_U8, XLA_FFI_F32, XLA_FFI_F64, XLA_FFI_STRING
    ctypedef struct XLA_FFI_Error
    ctypedef struct XLA_FFI_Buffer:
        int dtype
        void *data
        int64_t rank
        int64_t *dims
    ctypedef struct XLA_FFI_ByteSpan:
        const char *ptr
        size_t len
    ctypedef struct XLA_FFI_Buffers:
        int64_t size
        void **buffers
    ctypedef struct XLA_FFI_Attrs:
        int64_t size
        int *types
        XLA_FFI_ByteSpan **names
        void **attrs
    ctypedef struct XLA_FFI_CallFrame:
        XLA_FFI_Buffers args
        XLA_FFI_Buffers rets
        XLA_FFI_Attrs attrs
    bint xla_ffi_is_asking(XLA_FFI_CallFrame *frame) nogil
    XLA_FFI_Error *xla_ffi_error(XLA_FFI_CallFrame *frame, const char *message)

cdef int FIELDS = len(Weights._fields)

calls = {}  # name -> what makes a function of arguments and results, given the rest of a call's attribute
made = {}  # such functions by attributes


cdef enum:
    SIZES = 128


cdef int add_sizes(XLA_FFI_Buffers *buffers, int64_t *sizes, int count) noexcept:
    """Append each buffer's dtype, rank and axes to so many of SIZES; how many there are now, or -1 for too many."""
    cdef XLA_FFI_Buffer *its
    cdef int64_t i, axis
    for i in range(buffers.size if count >= 0 else 0):
        its = <XLA_FFI_Buffer *> buffers.buffers[i]
        if count + 2 + its.rank > SIZES:
            return -1
        sizes[count], sizes[count + 1] = its.dtype, its.rank
        for axis in range(its.rank):
            sizes[count + 2 + axis] = its.dims[axis]
        count += 2 + <int> its.rank
    return count


ctypedef int (*Run)(
    object prepared, const void *x, const void **state, const void **weights, void *y, void **state_n) except -1


cdef class Inference:
    """A layer of one direction, all of whose steps are run, on XLA's arrays as they are, for its outputs only.

    It takes x, the initial states and weights, and writes y and the final states. A brief call of buffers whose sizes
    there were before makes no arrays: that takes as long as the call itself.
    """

    cdef object forward, prepare, cell, num_threads
    cdef Run run_prepared
    cdef dict prepared  # what the backend has prepared, or None, by `add_sizes` of all buffers
    cdef tuple places
    cdef int states

    def __init__(self, backend, cell, states, places, num_threads):
        """Take a backend, how many states there are, which field of `Weights` each of the weights is."""
        self.forward, self.prepare = backend.forward, backend.prepare
        self.run_prepared = <Run> PyCapsule_GetPointer(backend.RUN_PREPARED, "fastrnn.run_prepared")
        self.cell, self.num_threads, self.prepared = cell, num_threads, {}
        self.states, self.places = states, tuple(places)

    def __call__(self, list arguments, list results):
        cdef int k
        cdef cnp.ndarray result, state
        initial, weights = self.described(arguments)
        _, state_n, _ = self.forward(
            self.cell, arguments[0], initial, weights, tape=False, num_threads=self.num_threads(), y=results[0])
        for k in range(self.states):
            result, state = results[1 + k], state_n[k]
            memcpy(cnp.PyArray_DATA(result), cnp.PyArray_DATA(state), cnp.PyArray_NBYTES(state))

    cdef tuple described(self, list arguments):
        """The states of the one direction, and the fields of `Weights`."""
        cdef int k
        cdef list weights = [None] * FIELDS
        for k in range(len(self.places)):
            weights[self.places[k]] = arguments[1 + self.states + k]
        return tuple([arguments[1 + k][0] for k in range(self.states)]), tuple(weights)

    cdef int run_buffers(self, XLA_FFI_Buffers *args, XLA_FFI_Buffers *rets) except -1:
        """The same of buffers."""
        cdef XLA_FFI_Buffer **given = <XLA_FFI_Buffer **> args.buffers
        cdef XLA_FFI_Buffer **results = <XLA_FFI_Buffer **> rets.buffers
        cdef int64_t sizes[SIZES]
        cdef int count = add_sizes(rets, sizes, add_sizes(args, sizes, 0)), k
        cdef bytes key = (<char *> sizes)[:sizeof(int64_t) * max(count, 0)]
        cdef const void *weights[8]
        cdef const void *state[2]
        cdef void *state_n[2]
        prepared = self.prepared.get(key, self) if count > 0 else None
        if prepared is self:
            arguments = as_arrays(args)
            prepared = self.prepared[key] = self.prepare(self.cell, arguments[0], *self.described(arguments))
        if prepared is None:
            self(as_arrays(args), as_arrays(rets))
            return 0
        memset(weights, 0, sizeof(weights))
        for k in range(len(self.places)):
            weights[<int> self.places[k]] = given[1 + self.states + k].data
        for k in range(self.states):
            state[k], state_n[k] = given[1 + k].data, results[1 + k].data
        return self.run_prepared(prepared, given[0].data, state, weights, results[0].data, state_n)


cdef object as_array(XLA_FFI_Buffer *buffer):
    """An array on a buffer's memory; of an argument it can be written to as well, as arrays are that need no look."""
    cdef int typenum
    if buffer.dtype == XLA_FFI_F32:
        typenum = cnp.NPY_FLOAT32
    elif buffer.dtype == XLA_FFI_F64:
        typenum = cnp.NPY_FLOAT64
    elif buffer.dtype == XLA_FFI_S32:
        typenum = cnp.NPY_INT32
    elif buffer.dtype == XLA_FFI_S64:
        typenum = cnp.NPY_INT64
    elif buffer.dtype == XLA_FFI_PRED:
        typenum = cnp.NPY_BOOL
    elif buffer.dtype == XLA_FFI_U8:
        typenum = cnp.NPY_UINT8
    else:
        raise TypeError(f"a buffer has XLA's dtype {buffer.dtype}; expected float32, float64, int32, int64, uint8 or bool")
    cdef cnp.npy_intp dims[8]
    cdef int axis
    if buffer.rank > 8:
        raise ValueError(f"a buffer has {buffer.rank} axes; expected at most 8")
    for axis in range(buffer.rank):
        dims[axis] = buffer.dims[axis]
    return cnp.PyArray_SimpleNewFromData(<int> buffer.rank, dims, typenum, buffer.data)


cdef list as_arrays(XLA_FFI_Buffers *buffers):
    cdef int64_t i
    return [as_array(<XLA_FFI_Buffer *> buffers.buffers[i]) for i in range(buffers.size)]


cdef object function_of(XLA_FFI_Attrs *attrs):
    """What the attribute says, made when it is first met."""
    if attrs.size != 1 or attrs.types[0] != XLA_FFI_STRING:
        raise TypeError(f"a call has {attrs.size} attributes; expected one, a string")
    cdef XLA_FFI_ByteSpan *span = <XLA_FFI_ByteSpan *> attrs.attrs[0]
    cdef bytes text = span.ptr[:span.len]
    function = made.get(text)
    if function is None:
        name, _, rest = text.decode().partition(" ")
        function = made[text] = calls[name](rest)
    return function


cdef XLA_FFI_Error *run(XLA_FFI_CallFrame *frame) noexcept with gil:
    try:
        function = function_of(&frame.attrs)
        if type(function) is Inference:
            (<Inference> function).run_buffers(&frame.args, &frame.rets)
        else:
            function(as_arrays(&frame.args), as_arrays(&frame.rets))
    except BaseException as error:  # XLA knows no other way
        return xla_ffi_error(frame, f"{type(error).__name__}: {error}".encode("utf-8", "backslashreplace"))
    return NULL


cdef XLA_FFI_Error *handle(XLA_FFI_CallFrame *frame) noexcept nogil:
    return NULL if xla_ffi_is_asking(frame) else run(frame)


handler = PyCapsule_New(<void *> handle, NULL, NULL)
