"""The loops that the time goes into, emitted as LLVM vector code: a register tile of a product, and transposes.

The tile keeps rows x vectors accumulators in registers, loads one row of the panel per k and broadcasts one element per
row: rows * vectors fused multiply-adds for vectors + rows loads. Every output element is one chain of them in the
order of k, whatever the tile's height, so that results do not depend on how the rows were tiled.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastrnn.kernels.numba_options import TILE_ROWS, helper
from fastrnn.kernels.numba_vector import Vector, fused, spread, width

__all__ = ["Loop", "dot", "product", "transpose"]

_WORD = ir.IntType(64)


class Loop:
    """A counted loop, at least one turn, whose variables are phi nodes."""

    def __init__(self, builder: Any, count: Any, initial: list[Any]) -> None:
        before, self.body = builder.block, builder.append_basic_block()
        builder.branch(self.body)
        builder.position_at_end(self.body)
        self._builder, self._count = builder, count
        self._phis = [builder.phi(value.type) for value in (_WORD(0), *initial)]
        for phi, value in zip(self._phis, (_WORD(0), *initial), strict=True):
            phi.add_incoming(value, before)
        self.variables = self._phis[1:]

    def close(self, updated: list[Any]) -> None:
        """End the body, which has made `updated` of the variables."""
        builder = self._builder
        turn = builder.add(self._phis[0], _WORD(1))
        after = builder.append_basic_block()
        for phi, value in zip(self._phis, (turn, *updated), strict=True):
            phi.add_incoming(value, builder.block)
        builder.cbranch(builder.icmp_signed("<", turn, self._count), self.body, after)
        builder.position_at_end(after)


def _prefetch(builder: Any, pointer: Any) -> None:
    """Ask for a line in the second-level cache."""
    flag = ir.IntType(32)
    kind = ir.FunctionType(ir.VoidType(), [pointer.type, flag, flag, flag])
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    builder.call(function, [pointer, flag(0), flag(2), flag(1)])


def _emit_tile(builder: Any, kind: Vector, rows: int, vectors: int, arguments: Any) -> None:
    """Emit the tile for fixed `rows` and `vectors`; the arguments are those of `tile` behind the first two."""
    out, out_row, init, init_row, add, a, a_row, a_k, a_outer, panel, panel_k, inner, outer, ahead, ahead_k = arguments
    element = out.type.pointee
    vector = ir.VectorType(element, kind.lanes)
    size = kind.dtype.bitwidth // 8

    def at(pointer: Any, row: int, stride: Any, v: int) -> Any:
        offset = builder.add(builder.mul(stride, _WORD(row)), _WORD(v * kind.lanes))
        return builder.bitcast(builder.gep(pointer, [offset]), vector.as_pointer())

    places = [(row, v) for row in range(rows) for v in range(vectors)]
    sums = [builder.load(at(init, row, init_row, v), align=size) for row, v in places]
    start, tiled, done = builder.block, builder.append_basic_block(), builder.append_basic_block()
    some = builder.and_(builder.icmp_signed(">", inner, _WORD(0)), builder.icmp_signed(">", outer, _WORD(0)))
    builder.cbranch(some, tiled, done)

    builder.position_at_end(tiled)
    outer_loop = Loop(builder, outer, [a, panel, ahead, *sums])
    a_outer_at, panel_outer_at, ahead_outer_at, *outer_sums = outer_loop.variables
    inner_loop = Loop(builder, inner, [a_outer_at, panel_outer_at, ahead_outer_at, *outer_sums])
    a_at, panel_at, ahead_at, *inner_sums = inner_loop.variables
    weights = [builder.load(at(panel_at, 0, _WORD(0), v), align=size) for v in range(vectors)]
    products = []
    for row in range(rows):
        scalar = builder.load(builder.gep(a_at, [builder.mul(a_row, _WORD(row))]))
        factor = spread(builder, scalar, kind.lanes)
        products += [fused(builder, factor, w, inner_sums[row * vectors + v]) for v, w in enumerate(weights)]
    _prefetch(builder, ahead_at)
    following = [builder.gep(panel_at, [panel_k]), builder.gep(ahead_at, [ahead_k])]
    inner_loop.close([builder.gep(a_at, [a_k]), *following, *products])
    outer_loop.close([builder.gep(a_outer_at, [a_outer]), *following, *products])
    finished = builder.block
    builder.branch(done)

    builder.position_at_end(done)
    totals = []
    for before, after in zip(sums, products, strict=True):
        totals.append(builder.phi(vector))
        totals[-1].add_incoming(before, start)
        totals[-1].add_incoming(after, finished)
    adding, writing, end = (builder.append_basic_block() for _ in range(3))
    builder.cbranch(builder.icmp_signed("!=", add, _WORD(0)), adding, writing)
    for block in (adding, writing):
        builder.position_at_end(block)
        for (row, v), total in zip(places, totals, strict=True):
            place = at(out, row, out_row, v)
            value = total if block is writing else builder.fadd(builder.load(place, align=size), total)
            builder.store(value, place, align=size)
        builder.branch(end)
    builder.position_at_end(end)


@intrinsic
def tile(
    typing: Any,
    rows: Any,
    vectors: Any,
    out: Any,
    out_row: Any,
    init: Any,
    init_row: Any,
    add: Any,
    a: Any,
    a_row: Any,
    a_k: Any,
    a_outer: Any,
    panel: Any,
    panel_k: Any,
    inner: Any,
    outer: Any,
    ahead: Any,
    ahead_k: Any,
) -> Any:
    """out[r, :] := init[r, :] + sum over o, k of a[r, o, k] * panel[o, k, :], or with `add` out += that.

    Parameters
    ----------
    rows, vectors
        The tile: r < rows <= TILE_ROWS[vectors], and `vectors` <= 4 vectors of columns.
    out, out_row
        OUT (rows, vectors * W) at rows `out_row` elements apart; may be `init`.
    init, init_row
        IN the starting values, in the same way; a row stride of 0 repeats one row, such as the bias.
    add
        Whether the sum, once it is complete, is added to `out` instead of replacing it.
    a, a_row, a_k, a_outer
        IN element (r, o, k) stands at r * a_row + o * a_outer + k * a_k.
    panel, panel_k
        IN rows of vectors * W elements, `panel_k` apart, in the order of (o, k).
    inner, outer
        How many k and o there are; none leaves `init`.
    ahead, ahead_k
        Where to prefetch one cache line for every k, and how many elements further for the next.
    """
    kind = Vector(out.dtype)
    word = types.intp

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        shape = builder.add(builder.mul(args[1], _WORD(16)), args[0])
        end = builder.append_basic_block()
        switch = builder.switch(shape, end)
        for v, most in TILE_ROWS.items():
            for r in range(1, most + 1):
                block = builder.append_basic_block()
                switch.add_case(_WORD(v * 16 + r), block)
                builder.position_at_end(block)
                _emit_tile(builder, kind, r, v, args[2:])
                builder.branch(end)
        builder.position_at_end(end)
        return context.get_dummy_value()

    sig = types.void(word, word, out, word, out, word, word, out, word, word, word, out, word, word, word, out, word)
    return sig, generate


@helper
def product(
    rows,
    vectors,
    out,
    out_row,
    init,
    init_row,
    add,
    a,
    a_row,
    a_k,
    a_outer,
    panel,
    panel_k,
    inner,
    outer,
    ahead,
    ahead_k,
):
    """`tile`, compiled once for all of its uses, for any number of vectors: four at a time."""
    W = width(out)
    for v in range(0, vectors, 4):
        tile(
            rows,
            min(4, vectors - v),
            out + v * W,
            out_row,
            init + v * W,
            init_row,
            add,
            a,
            a_row,
            a_k,
            a_outer,
            panel + v * W,
            panel_k,
            inner,
            outer,
            ahead,
            ahead_k,
        )


def _shuffle(builder: Any, x: Any, y: Any, lanes: list[int]) -> Any:
    """Lanes of x and y, numbered through."""
    return builder.shuffle_vector(x, y, ir.Constant(ir.VectorType(ir.IntType(32), len(lanes)), lanes))


def _concatenate(builder: Any, vectors: list[Any]) -> Any:
    """One vector of the lanes of a power of two of vectors."""
    while len(vectors) > 1:
        pairs = zip(vectors[::2], vectors[1::2], strict=True)
        vectors = [_shuffle(builder, x, y, list(range(2 * x.type.count))) for x, y in pairs]
    return vectors[0]


def _load_columns(builder: Any, kind: Vector, a: Any, a_row: Any) -> tuple[int, list[list[Any]]]:
    """Load W rows of a few elements; return how many rows a vector of a column has, and per column its vectors.

    Vectors of at most 32 bytes are gathered from pieces of 16 bytes of several rows, which is the loads' work, and the
    pieces are transposed without crossing their borders, which is cheap: 16 ns for 16 x 16, with shuffles across whole
    vectors of 64 bytes 51 ns.
    """
    align = kind.dtype.bitwidth // 8
    piece = 16 // align
    size = min(kind.lanes, 2 * piece)
    piece_type = ir.VectorType(a.type.pointee, piece).as_pointer()

    def interleave(x: Any, y: Any, group: int) -> list[Any]:
        """Groups of lanes of x and y in turn, for the lower and for the upper halves of their pieces."""
        halves = []
        for half in (0, piece // 2):
            starts = [p + half + g for p in range(0, size, piece) for g in range(0, piece // 2, group)]
            lanes = [start + side + i for start in starts for side in (0, size) for i in range(group)]
            halves.append(_shuffle(builder, x, y, lanes))
        return halves

    columns: list[list[Any]] = [[] for _ in range(piece)]
    for top in range(0, kind.lanes, size):
        rows = []
        for r in range(piece):
            places = [builder.gep(a, [builder.mul(a_row, _WORD(top + r + p))]) for p in range(0, size, piece)]
            pieces = [builder.load(builder.bitcast(place, piece_type), align=align) for place in places]
            rows.append(_concatenate(builder, pieces))
        if piece == 2:
            transposed = interleave(*rows, 1)
        else:
            (x, y), (z, w) = interleave(rows[0], rows[1], 1), interleave(rows[2], rows[3], 1)
            transposed = [*interleave(x, z, 2), *interleave(y, w, 2)]
        for column, value in zip(columns, transposed, strict=True):
            column.append(value)
    return size, columns


@intrinsic
def transpose(typing: Any, out: Any, out_row: Any, a: Any, a_row: Any) -> Any:
    """out[k, r] := a[r, k] for W x W elements, rows `out_row` and `a_row` elements apart; `out` may not overlap `a`."""
    kind = Vector(out.dtype)

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        to, to_row, source, source_row = args
        align = kind.dtype.bitwidth // 8
        for left in range(0, kind.lanes, 16 // align):
            size, columns = _load_columns(builder, kind, builder.gep(source, [_WORD(left)]), source_row)
            for k, column in enumerate(columns):
                for i, value in enumerate(column):
                    offset = builder.add(builder.mul(to_row, _WORD(left + k)), _WORD(i * size))
                    place = builder.bitcast(builder.gep(to, [offset]), value.type.as_pointer())
                    builder.store(value, place, align=align)
        return context.get_dummy_value()

    return types.void(out, types.intp, a, types.intp), generate


@intrinsic
def dot(typing: Any, out: Any, weights: Any, row: Any, a: Any, count: Any) -> Any:
    """out[r] += sum over k of weights[r, k] * a[k] for W rows, `row` elements apart, and `count` k, a multiple of W.

    The tile's chains for a single row of its left operand, without a panel: as fast as memory delivers the weights,
    where packing them first would take as long again.
    """
    kind = Vector(out.dtype)

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        to, source, source_row, factors, size = args
        align = kind.dtype.bitwidth // 8
        piece = 16 // align
        vector = ir.VectorType(to.type.pointee, kind.lanes)
        place = builder.bitcast(to, vector.as_pointer())
        start, tiled, done = builder.block, builder.append_basic_block(), builder.append_basic_block()
        initial = builder.load(place, align=align)
        builder.cbranch(builder.icmp_signed(">", size, _WORD(0)), tiled, done)

        builder.position_at_end(tiled)
        loop = Loop(builder, builder.sdiv(size, _WORD(piece)), [source, factors, initial])
        source_at, factors_at, total = loop.variables
        _, columns = _load_columns(builder, kind, source_at, source_row)
        for k, column in enumerate(columns):
            factor = spread(builder, builder.load(builder.gep(factors_at, [_WORD(k)])), kind.lanes)
            total = fused(builder, factor, _concatenate(builder, column), total)
        loop.close([builder.gep(source_at, [_WORD(piece)]), builder.gep(factors_at, [_WORD(piece)]), total])
        finished = builder.block
        builder.branch(done)

        builder.position_at_end(done)
        result = builder.phi(vector)
        result.add_incoming(initial, start)
        result.add_incoming(total, finished)
        builder.store(result, place, align=align)
        return context.get_dummy_value()

    return types.void(out, weights, types.intp, a, types.intp), generate
