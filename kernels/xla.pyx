"""How XLA calls back: a custom call's buffers become NumPy arrays on their memory, for a function of `calls`.

`handler` is what is registered with XLA (`jax.ffi.register_ffi_target`). The attributes of a call are strings; "call" is
the name of the function, which takes the arguments, to be read, the results, to be written to, and the other attributes.
Its arrays must not outlive it. What it raises becomes XLA's error.
"""

cimport numpy as cnp
from cpython.pycapsule cimport PyCapsule_New
from libc.stdint cimport int64_t

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

calls = {}  # name -> function of arguments, results and attributes


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


cdef object as_text(XLA_FFI_ByteSpan *span):
    return span.ptr[:span.len].decode()


cdef dict as_attributes(XLA_FFI_Attrs *attrs):
    cdef int64_t i
    found = {}
    for i in range(attrs.size):
        name = as_text(attrs.names[i])
        if attrs.types[i] != XLA_FFI_STRING:
            raise TypeError(f"the attribute {name} is no string; expected one")
        found[name] = as_text(<XLA_FFI_ByteSpan *> attrs.attrs[i])
    return found


cdef XLA_FFI_Error *run(XLA_FFI_CallFrame *frame) noexcept with gil:
    try:
        attributes = as_attributes(&frame.attrs)
        calls[attributes.pop("call")](as_arrays(&frame.args), as_arrays(&frame.rets), attributes)
    except BaseException as error:  # XLA knows no other way
        return xla_ffi_error(frame, f"{type(error).__name__}: {error}".encode("utf-8", "backslashreplace"))
    return NULL


cdef XLA_FFI_Error *handle(XLA_FFI_CallFrame *frame) noexcept nogil:
    return NULL if xla_ffi_is_asking(frame) else run(frame)


handler = PyCapsule_New(<void *> handle, NULL, NULL)
