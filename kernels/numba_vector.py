"""Vectors and pointers as Numba types: arithmetic on one CPU register of lanes, written with Python's operators.

`Vector(dtype)` is LLVM's ``<W x float>`` or ``<W x double>``, W = `numba_options.lanes(dtype)`; a Python number beside
a vector stands for W equal lanes. `Pointer(dtype)` counts in elements; as a kernel's argument it takes an ndarray,
writable or not, or None, and costs no reference count. Nothing here checks a bound.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.imputils import lower_builtin
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import NativeValue, intrinsic, models, register_model, unbox

from fastrnn.kernels.numba_options import FUSED, SOURCES, VECTOR_BYTES, inlined, lanes

__all__ = [
    "Pointer",
    "Vector",
    "absolute",
    "address",
    "aligned",
    "all_set",
    "at_address",
    "choose",
    "copysign",
    "each_lane",
    "equal",
    "exponent",
    "first",
    "fma",
    "fused",
    "less",
    "less_equal",
    "load",
    "load_part",
    "maximum",
    "minimum",
    "negative",
    "null_like",
    "polynomial",
    "power_of_two",
    "splat",
    "spread",
    "square_root",
    "stack",
    "store",
    "store_part",
    "turned",
    "width",
    "zero_unless_positive",
]


class Pointer(types.Type):
    """Address of elements of `dtype`."""

    def __init__(self, dtype: types.Type) -> None:
        self.dtype = dtype
        super().__init__(name=f"fastrnn_pointer({dtype}, {SOURCES})")


class Vector(types.Type):
    """One register of elements of `dtype`."""

    def __init__(self, dtype: types.Type) -> None:
        self.dtype = dtype
        self.lanes = lanes(dtype.name)
        super().__init__(name=f"fastrnn_vector({dtype}, {self.lanes})")


@register_model(Pointer)
class _PointerModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Pointer) -> None:
        super().__init__(manager, kind, manager[kind.dtype].get_data_type().as_pointer())


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Vector) -> None:
        super().__init__(manager, kind, ir.VectorType(manager[kind.dtype].get_value_type(), kind.lanes))


@unbox(Pointer)
def _unbox_pointer(kind: Pointer, value: Any, c: Any) -> NativeValue:
    """Take the address of an ndarray's data; None gives the null pointer."""
    array = c.context.make_array(types.Array(kind.dtype, 4, "C"))(c.context, c.builder)
    failed = cgutils.alloca_once_value(c.builder, cgutils.false_bit)
    with c.builder.if_then(c.builder.icmp_unsigned("!=", value, c.pyapi.borrow_none())):
        adapt = ir.FunctionType(ir.IntType(32), [c.pyapi.pyobj, c.pyapi.voidptr])
        function = cgutils.get_or_insert_function(c.builder.module, adapt, "numba_adapt_ndarray")
        error = c.builder.call(function, [value, c.builder.bitcast(array._getpointer(), c.pyapi.voidptr)])
        c.builder.store(cgutils.is_not_null(c.builder, error), failed)
        with c.builder.if_then(cgutils.is_not_null(c.builder, error)):
            c.pyapi.err_set_string("PyExc_TypeError", "expected an ndarray or None")
    return NativeValue(array.data, is_error=c.builder.load(failed))


# --- pointers: p + i, p[i], p[i] = value, and whether p is not null


@infer_global(operator.add)
@infer_global(operator.iadd)
class _PointerAdd(AbstractTemplate):
    def generic(self, args: Any, kws: Any) -> Any:
        if len(args) == 2 and isinstance(args[0], Pointer) and isinstance(args[1], types.Integer):
            return signature(args[0], args[0], types.intp)
        return None


@infer_global(operator.getitem)
class _PointerGet(AbstractTemplate):
    def generic(self, args: Any, kws: Any) -> Any:
        if isinstance(args[0], Pointer) and isinstance(args[1], types.Integer):
            return signature(args[0].dtype, args[0], types.intp)
        return None


@infer_global(operator.setitem)
class _PointerSet(AbstractTemplate):
    def generic(self, args: Any, kws: Any) -> Any:
        if isinstance(args[0], Pointer) and isinstance(args[1], types.Integer):
            return signature(types.none, args[0], types.intp, args[0].dtype)
        return None


@lower_builtin(operator.add, Pointer, types.Integer)
@lower_builtin(operator.iadd, Pointer, types.Integer)
def _pointer_add(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    return builder.gep(args[0], [args[1]])


@lower_builtin(operator.getitem, Pointer, types.Integer)
def _pointer_get(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    return builder.load(builder.gep(args[0], [args[1]]))


@lower_builtin(operator.setitem, Pointer, types.Integer, types.Any)
def _pointer_set(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    builder.store(args[2], builder.gep(args[0], [args[1]]))
    return context.get_dummy_value()


@infer_global(bool)
class _PointerTruth(AbstractTemplate):
    def generic(self, args: Any, kws: Any) -> Any:
        return signature(types.boolean, args[0]) if isinstance(args[0], Pointer) else None


@lower_builtin(bool, Pointer)
def _pointer_truth(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    return cgutils.is_not_null(builder, args[0])


@intrinsic
def null_like(typing: Any, pointer: Any) -> Any:
    """The null pointer of this type."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return ir.Constant(args[0].type, None)

    return pointer(pointer), generate


@intrinsic
def aligned(typing: Any, pointer: Any) -> Any:
    """`pointer` rounded up to a multiple of the vector's size."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        word = ir.IntType(64)
        address = builder.add(builder.ptrtoint(args[0], word), word(VECTOR_BYTES - 1))
        return builder.inttoptr(builder.and_(address, word(-VECTOR_BYTES)), args[0].type)

    return pointer(pointer), generate


@intrinsic
def address(typing: Any, pointer: Any) -> Any:
    """The number of the place that a pointer points to."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.ptrtoint(args[0], ir.IntType(64))

    return types.intp(pointer), generate


@intrinsic
def at_address(typing: Any, pointer: Any, number: Any) -> Any:
    """The pointer of this type whose `address` is a number."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.inttoptr(args[1], args[0].type)

    return pointer(pointer, types.intp), generate


@intrinsic(prefer_literal=True)
def stack(typing: Any, pointer: Any, count: Any) -> Any:
    """Room for `count` vectors of this type, a constant; it lives as long as the call of the function that asks."""
    if not isinstance(count, types.IntegerLiteral):
        return None

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        kind = ir.ArrayType(args[0].type.pointee, count.literal_value * lanes(pointer.dtype.name))
        with builder.goto_entry_block():  # and not by `alloca_once`, which fills it with zeros at every call
            room = builder.alloca(kind)
        room.align = VECTOR_BYTES
        return builder.bitcast(room, args[0].type)

    return pointer(pointer, count), generate


# --- vectors: loads and stores, from any address


def _vector_pointer(context: Any, builder: Any, pointer: Any, dtype: Any) -> Any:
    return builder.bitcast(pointer, context.get_value_type(Vector(dtype)).as_pointer())


@intrinsic
def width(typing: Any, pointer: Any) -> Any:
    """W, the lanes of a vector of the pointer's elements: a constant."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return context.get_constant(types.intp, Vector(pointer.dtype).lanes)

    return types.intp(pointer), generate


@intrinsic
def load(typing: Any, pointer: Any) -> Any:
    """The W elements at `pointer`."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.load(
            _vector_pointer(context, builder, args[0], pointer.dtype), align=pointer.dtype.bitwidth // 8
        )

    return Vector(pointer.dtype)(pointer), generate


@intrinsic
def store(typing: Any, pointer: Any, vector: Any) -> Any:
    """Write W elements at `pointer`."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        where = _vector_pointer(context, builder, args[0], pointer.dtype)
        builder.store(args[1], where, align=pointer.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(pointer, vector), generate


def _mask(builder: Any, count: Any, size: int) -> Any:
    """<W x i1>: whether the lane's number is below `count`."""
    lane = ir.IntType(32)
    numbers = ir.Constant(ir.VectorType(lane, size), list(range(size)))
    return builder.icmp_signed("<", numbers, spread(builder, builder.trunc(count, lane), size))


def spread(builder: Any, scalar: Any, size: int) -> Any:
    """A vector of equal lanes."""
    kind = ir.VectorType(scalar.type, size)
    one = builder.insert_element(ir.Constant(kind, ir.Undefined), scalar, ir.IntType(32)(0))
    zeros = ir.Constant(ir.VectorType(ir.IntType(32), size), [0] * size)
    return builder.shuffle_vector(one, ir.Constant(kind, ir.Undefined), zeros)


def _suffix(kind: Any) -> str:
    """The ending of an LLVM intrinsic's name, such as v16f32."""
    return f"v{kind.count}f{'64' if isinstance(kind.element, ir.DoubleType) else '32'}"


@intrinsic
def _load_masked(typing: Any, pointer: Any, count: Any) -> Any:
    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        where = _vector_pointer(context, builder, args[0], pointer.dtype)
        kind = where.type.pointee
        mask = _mask(builder, args[1], kind.count)
        function = cgutils.get_or_insert_function(
            builder.module,
            ir.FunctionType(kind, [where.type, ir.IntType(32), mask.type, kind]),
            f"llvm.masked.load.{_suffix(kind)}.p0{_suffix(kind)}",
        )
        return builder.call(
            function, [where, ir.IntType(32)(pointer.dtype.bitwidth // 8), mask, ir.Constant(kind, None)]
        )

    return Vector(pointer.dtype)(pointer, types.intp), generate


@intrinsic
def _store_masked(typing: Any, pointer: Any, vector: Any, count: Any) -> Any:
    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        where = _vector_pointer(context, builder, args[0], pointer.dtype)
        kind = where.type.pointee
        mask = _mask(builder, args[2], kind.count)
        function = cgutils.get_or_insert_function(
            builder.module,
            ir.FunctionType(ir.VoidType(), [kind, where.type, ir.IntType(32), mask.type]),
            f"llvm.masked.store.{_suffix(kind)}.p0{_suffix(kind)}",
        )
        builder.call(function, [args[1], where, ir.IntType(32)(pointer.dtype.bitwidth // 8), mask])
        return context.get_dummy_value()

    return types.void(pointer, vector, types.intp), generate


@inlined
def load_part(pointer, count):
    """The first `count` elements at `pointer`, zeros in the lanes behind them."""
    return load(pointer) if count >= width(pointer) else _load_masked(pointer, count)


@inlined
def store_part(pointer, vector, count):
    """Write the first `count` lanes; nothing is read or written behind them."""
    if count >= width(pointer):
        store(pointer, vector)
    else:
        _store_masked(pointer, vector, count)


@intrinsic
def first(typing: Any, vector: Any, count: Any) -> Any:
    """The first `count` lanes of `vector`, zeros behind them."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        kind = args[0].type
        return builder.select(_mask(builder, args[1], kind.count), args[0], ir.Constant(kind, None))

    return vector(vector, types.intp), generate


@intrinsic
def splat(typing: Any, pointer: Any, value: Any) -> Any:
    """W lanes of `value`, a number, in the type of the pointer's elements."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        scalar = context.cast(builder, args[1], value, pointer.dtype)
        return spread(builder, scalar, lanes(pointer.dtype.name))

    return Vector(pointer.dtype)(pointer, value), generate


# --- vectors: arithmetic


def _as_vector(context: Any, builder: Any, kind: Any, wanted: Vector, value: Any) -> Any:
    return (
        value
        if isinstance(kind, Vector)
        else spread(builder, context.cast(builder, value, kind, wanted.dtype), wanted.lanes)
    )


def _common(args: Any) -> Vector | None:
    """The vector type of a mix of vectors and numbers."""
    vectors = [arg for arg in args if isinstance(arg, Vector)]
    fits = all(isinstance(arg, (Vector, types.Number)) for arg in args)
    return vectors[0] if vectors and fits and len(set(vectors)) == 1 else None


def _define_operator(symbol: Callable[..., Any], instruction: str) -> None:
    @infer_global(symbol)
    class _Template(AbstractTemplate):
        def generic(self, args: Any, kws: Any) -> Any:
            kind = _common(args)
            return kind and signature(kind, *args)

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        operands = [_as_vector(context, builder, k, sig.return_type, v) for k, v in zip(sig.args, args, strict=True)]
        return getattr(builder, instruction)(*operands)

    for left, right in ((Vector, Vector), (Vector, types.Number), (types.Number, Vector)):
        lower_builtin(symbol, left, right)(generate)


for _symbol, _instruction in (
    (operator.add, "fadd"),
    (operator.sub, "fsub"),
    (operator.mul, "fmul"),
    (operator.truediv, "fdiv"),
):
    _define_operator(_symbol, _instruction)


def fused(builder: Any, a: Any, b: Any, c: Any) -> Any:
    """Emit a * b + c, rounded once where the CPU can."""
    if not FUSED:
        return builder.fadd(builder.fmul(a, b), c)
    function = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(a.type, [a.type] * 3), f"llvm.fma.{_suffix(a.type)}"
    )
    return builder.call(function, [a, b, c])


@intrinsic
def fma(typing: Any, a: Any, b: Any, c: Any) -> Any:
    """a * b + c, rounded once where the CPU can; numbers stand for equal lanes."""
    kind = _common((a, b, c))

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return fused(builder, *(_as_vector(context, builder, k, kind, v) for k, v in zip(sig.args, args, strict=True)))

    return kind(a, b, c), generate


def _choice(comparison: str) -> Callable[..., Any]:
    """Two-operand selection: b where `a comparison b`, else a."""

    def typed(typing: Any, a: Any, b: Any) -> Any:
        kind = _common((a, b))

        def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            x, y = (_as_vector(context, builder, k, kind, v) for k, v in zip(sig.args, args, strict=True))
            return builder.select(builder.fcmp_ordered(comparison, x, y), y, x)

        return kind(a, b), generate

    return typed


maximum = intrinsic(_choice("<="))  # a NaN in the first argument stays
minimum = intrinsic(_choice(">="))  # a NaN in the first argument stays


@intrinsic
def zero_unless_positive(typing: Any, a: Any, b: Any) -> Any:
    """Zero where a <= 0, lanes of b where a > 0 or a is NaN."""
    kind = _common((a, b))

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        x, y = (_as_vector(context, builder, k, kind, v) for k, v in zip(sig.args, args, strict=True))
        zero = ir.Constant(x.type, None)
        return builder.select(builder.fcmp_ordered("<=", x, zero), zero, y)

    return kind(a, b), generate


def _of_llvm(name: str) -> Any:
    """Generate a call of LLVM's function of one vector."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        kind = args[0].type
        function = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(kind, [kind]), f"llvm.{name}.{_suffix(kind)}"
        )
        return builder.call(function, args)

    return generate


@intrinsic
def absolute(typing: Any, a: Any) -> Any:
    """|a|."""
    return a(a), _of_llvm("fabs")


@intrinsic
def square_root(typing: Any, a: Any) -> Any:
    """The root of a; NaN of negative numbers."""
    return a(a), _of_llvm("sqrt")


@intrinsic
def negative(typing: Any, a: Any) -> Any:
    """-a, of zero too."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.fneg(args[0])

    return a(a), generate


@intrinsic
def copysign(typing: Any, magnitude: Any, sign: Any) -> Any:
    """|magnitude| with the sign of `sign`."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        kind = args[0].type
        function = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(kind, [kind, kind]), f"llvm.copysign.{_suffix(kind)}"
        )
        return builder.call(function, args)

    return magnitude(magnitude, sign), generate


@intrinsic
def power_of_two(typing: Any, a: Any) -> Any:
    """The float whose exponent field is the low bits of a's representation, for use after adding a magic number."""
    mantissa = 23 if a.dtype.bitwidth == 32 else 52

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        kind = args[0].type
        bits = ir.VectorType(ir.IntType(a.dtype.bitwidth), kind.count)
        shift = ir.Constant(bits, [mantissa] * kind.count)
        return builder.bitcast(builder.shl(builder.bitcast(args[0], bits), shift), kind)

    return a(a), generate


def each_lane(name: str) -> Any:
    """The function of a vector that a function of the C library is of its lanes, one after the other."""

    @intrinsic
    def function(typing: Any, a: Any) -> Any:
        def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            wide, element, vector = ir.DoubleType(), args[0].type.element, args[0]
            of_library = cgutils.get_or_insert_function(builder.module, ir.FunctionType(wide, [wide]), name)
            single = element != wide
            for lane in map(ir.IntType(32), range(args[0].type.count)):
                value = builder.extract_element(args[0], lane)
                found = builder.call(of_library, [builder.fpext(value, wide) if single else value])
                vector = builder.insert_element(vector, builder.fptrunc(found, element) if single else found, lane)
            return vector

        return a(a), generate

    return function


def polynomial(*coefficients: float) -> Any:
    """The function c[0] + c[1] x + c[2] x^2 + ... of a vector, for coefficients that are constants."""

    @intrinsic
    def function(typing: Any, x: Any) -> Any:
        def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            kind = args[0].type
            total, *others = [ir.Constant(kind, [c] * kind.count) for c in reversed(coefficients)]
            for coefficient in others:
                total = fused(builder, total, args[0], coefficient)
            return total

        return x(x), generate

    return function


# --- vectors: masks, whose lanes have all bits set, or none


def _bits(builder: Any, vector: Any) -> Any:
    """The vector as integers."""
    kind = vector.type
    size = 64 if isinstance(kind.element, ir.DoubleType) else 32
    return builder.bitcast(vector, ir.VectorType(ir.IntType(size), kind.count))


def _comparison(symbol: str) -> Callable[..., Any]:
    """The mask of `a symbol b`; not set where one of them is NaN."""

    def typed(typing: Any, a: Any, b: Any) -> Any:
        kind = _common((a, b))

        def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            x, y = (_as_vector(context, builder, k, kind, v) for k, v in zip(sig.args, args, strict=True))
            return builder.bitcast(builder.sext(builder.fcmp_ordered(symbol, x, y), _bits(builder, x).type), x.type)

        return kind(a, b), generate

    return typed


less = intrinsic(_comparison("<"))
less_equal = intrinsic(_comparison("<="))
equal = intrinsic(_comparison("=="))


def _is_set(builder: Any, mask: Any) -> Any:
    """<W x i1> of a mask."""
    bits = _bits(builder, mask)
    return builder.icmp_signed("<", bits, ir.Constant(bits.type, None))


@intrinsic
def choose(typing: Any, mask: Any, b: Any, c: Any) -> Any:
    """b where the mask is set, else c; numbers stand for equal lanes."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        x, y = (_as_vector(context, builder, k, mask, v) for k, v in zip(sig.args[1:], args[1:], strict=True))
        return builder.select(_is_set(builder, args[0]), x, y)

    return mask(mask, b, c), generate


@intrinsic
def all_set(typing: Any, mask: Any) -> Any:
    """Whether a mask is set in all lanes."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        lanes_set = ir.IntType(args[0].type.count)
        return builder.icmp_signed("==", builder.bitcast(_is_set(builder, args[0]), lanes_set), lanes_set(-1))

    return types.boolean(mask), generate


# --- vectors: the parts of a number


@intrinsic
def exponent(typing: Any, a: Any, lowest: Any, shift: Any) -> Any:
    """n and f of a = 2^n f with lowest <= f < 2 lowest, for a normal a > 0.

    `shift` is 1.5 * 2^(bits of the mantissa).
    """
    mantissa = 23 if a.dtype.bitwidth == 32 else 52

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        of_lowest, of_shift = (
            _as_vector(context, builder, k, a, v) for k, v in zip(sig.args[1:], args[1:], strict=True)
        )
        bits = _bits(builder, args[0])
        by = ir.Constant(bits.type, [mantissa] * bits.type.count)
        n = builder.ashr(builder.sub(bits, _bits(builder, of_lowest)), by)
        f = builder.bitcast(builder.sub(bits, builder.shl(n, by)), args[0].type)
        number = builder.bitcast(builder.add(_bits(builder, of_shift), n), args[0].type)
        return context.make_tuple(builder, sig.return_type, [builder.fsub(number, of_shift), f])

    return types.UniTuple(a, 2)(a, lowest, shift), generate


@intrinsic
def turned(typing: Any, shifted: Any, quarters: Any, sine: Any, cosine: Any) -> Any:
    """sin(r + n pi / 2) from the sine and cosine of r; n is `quarters` and the low bits of shifted's representation."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        bits = _bits(builder, args[0])
        integer, count = bits.type.element, bits.type.count
        quarter = args[1] if integer.width == 64 else builder.trunc(args[1], integer)
        n = builder.add(bits, spread(builder, quarter, count))
        one, two, up = [ir.Constant(bits.type, [value] * count) for value in (1, 2, integer.width - 2)]
        odd = builder.icmp_signed("!=", builder.and_(n, one), ir.Constant(bits.type, None))
        value = _bits(builder, builder.select(odd, args[3], args[2]))
        return builder.bitcast(builder.xor(value, builder.shl(builder.and_(n, two), up)), args[0].type)

    return shifted(shifted, types.intp, sine, cosine), generate
