"""The operations in which a cell is written, on traced values and on NumPy's arrays alike.

A function of this module, called with an array, is that function of the array; called with a traced value, it is a new
node of the cell's graph. Beside each stands its derivative, where that is not its parts'. Where functions have kinks,
at NaN and at infinities, values and derivatives are those of torch.
"""

from __future__ import annotations

import math
import numbers
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from fastrnn.cells import graph
from fastrnn.cells.graph import Across, Function, Graph, Node
from fastrnn.cells.program import Op
from fastrnn.checks import shown

__all__ = [
    "DERIVATIVES",
    "Mask",
    "Traced",
    "absolute",
    "clip",
    "cos",
    "elu",
    "erf",
    "exp",
    "expm1",
    "gelu",
    "hard_sigmoid",
    "hard_tanh",
    "leaky_relu",
    "log",
    "log1p",
    "maximum",
    "mean",
    "minimum",
    "reciprocal",
    "relu",
    "selu",
    "sigmoid",
    "silu",
    "sin",
    "softplus",
    "softsign",
    "sqrt",
    "square",
    "tanh",
    "where",
]

SELU_ALPHA, SELU_SCALE = 1.6732632423543772, 1.0507009873554805


# ---- traced values


class _Value:
    """A node under construction: NumPy's functions of it come here."""

    __slots__ = ("graph", "node")
    __hash__ = object.__hash__

    def __init__(self, of: Graph, node: Node) -> None:
        self.graph = of
        self.node = node

    def __bool__(self) -> bool:
        raise TypeError(
            "an `if`, `and`, `or`, `not`, `min` or `max` asks for the truth of a traced value, which each row and unit "
            "has its own; expected where(condition, a, b), & | ~ of conditions, minimum(a, b), maximum(a, b)"
        )

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        function = _UFUNCS.get(ufunc.__name__)
        if function is None or method != "__call__" or options:
            raise TypeError(f"numpy.{ufunc.__name__} is not an operation of cells; expected one of fastrnn.cells")
        return function(*inputs)

    def __array_function__(self, function: Any, types: Any, args: Any, options: Any) -> Any:
        known = {"where": where, "clip": clip}.get(function.__name__)
        if known is None or options:
            raise TypeError(f"numpy.{function.__name__} is not an operation of cells; expected one of fastrnn.cells")
        return known(*args)

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise TypeError("a traced value is no array; expected an operation of fastrnn.cells on it")

    def __float__(self) -> float:
        raise TypeError("a traced value is not a number yet; expected an operation of fastrnn.cells in place of math's")


class Traced(_Value):
    """A number of every row and unit."""

    __slots__ = ()

    def __add__(self, other: Any) -> Any:
        return _apply(Op.ADD, self, other)

    def __radd__(self, other: Any) -> Any:
        return _apply(Op.ADD, other, self)

    def __sub__(self, other: Any) -> Any:
        return _apply(Op.SUB, self, other)

    def __rsub__(self, other: Any) -> Any:
        return _apply(Op.SUB, other, self)

    def __mul__(self, other: Any) -> Any:
        return _apply(Op.MUL, self, other)

    def __rmul__(self, other: Any) -> Any:
        return _apply(Op.MUL, other, self)

    def __truediv__(self, other: Any) -> Any:
        return _apply(Op.DIV, self, other)

    def __rtruediv__(self, other: Any) -> Any:
        return _apply(Op.DIV, other, self)

    def __neg__(self) -> Any:
        return _apply(Op.NEG, self)

    def __pos__(self) -> Any:
        return self

    def __abs__(self) -> Any:
        return _apply(Op.ABS, self)

    def __pow__(self, exponent: Any) -> Any:
        if isinstance(exponent, bool) or not isinstance(exponent, (int, np.integer)) or not -64 <= exponent <= 64:
            raise TypeError(f"the exponent of ** is {shown(exponent)}; expected an integer from -64 to 64")
        base: Any = self
        result: Any = 1.0
        left = abs(int(exponent))
        while left:
            if left & 1:
                result = result * base
            left >>= 1
            base = base * base if left else base
        if not isinstance(result, Traced):
            result = Traced(self.graph, self.graph.number(1.0))
        return 1 / result if exponent < 0 else result

    def __lt__(self, other: Any) -> Any:
        return _apply(Op.LESS, self, other)

    def __le__(self, other: Any) -> Any:
        return _apply(Op.LESS_EQUAL, self, other)

    def __gt__(self, other: Any) -> Any:
        return _apply(Op.LESS, other, self)

    def __ge__(self, other: Any) -> Any:
        return _apply(Op.LESS_EQUAL, other, self)

    def __eq__(self, other: Any) -> Any:
        return _apply(Op.EQUAL, self, other)

    def __ne__(self, other: Any) -> Any:
        return ~_apply(Op.EQUAL, self, other)

    __hash__ = _Value.__hash__


class Mask(_Value):
    """A condition of every row and unit: that of `node`, or where `inverse` its opposite."""

    __slots__ = ("inverse",)

    def __init__(self, of: Graph, node: Node, inverse: bool = False) -> None:
        super().__init__(of, node)
        self.inverse = inverse

    def __invert__(self) -> Mask:
        return Mask(self.graph, self.node, not self.inverse)

    def __and__(self, other: Any) -> Mask:
        if not isinstance(other, Mask):
            raise TypeError(f"& has a {type(other).__name__} beside a condition; expected a condition: a < b")
        if self.inverse and other.inverse:
            return ~(~self | ~other)
        one, two = (other, self) if self.inverse else (self, other)
        none = self.graph.number(0.0)  # no bit of which is set
        if two.inverse:
            return Mask(self.graph, self.graph.make(Op.SELECT, two.node, none, one.node))
        return Mask(self.graph, self.graph.make(Op.SELECT, one.node, two.node, none))

    def __or__(self, other: Any) -> Mask:
        if not isinstance(other, Mask):
            raise TypeError(f"| has a {type(other).__name__} beside a condition; expected a condition: a < b")
        if self.inverse or other.inverse:
            return ~(~self & ~other)
        return Mask(self.graph, self.graph.make(Op.SELECT, self.node, self.node, other.node))

    def _number(self) -> Traced:
        """1 where it holds and 0 elsewhere."""
        warnings.warn(
            "a condition is used as a number: it jumps from 0 to 1, and no gradient goes through it",
            UserWarning,
            stacklevel=2,
        )
        one, zero = self.graph.number(1.0), self.graph.number(0.0)
        return Traced(
            self.graph, self.graph.make(Op.SELECT, self.node, *((zero, one) if self.inverse else (one, zero)))
        )

    def __add__(self, other: Any) -> Any:
        return self._number() + other

    def __radd__(self, other: Any) -> Any:
        return other + self._number()

    def __sub__(self, other: Any) -> Any:
        return self._number() - other

    def __rsub__(self, other: Any) -> Any:
        return other - self._number()

    def __mul__(self, other: Any) -> Any:
        return self._number() * other

    def __rmul__(self, other: Any) -> Any:
        return other * self._number()


def _is_traced(*values: Any) -> bool:
    return any(isinstance(value, _Value) for value in values)


def _node_of(of: Graph, value: Any) -> Node:
    """The node of an operand of an operation."""
    if isinstance(value, Mask):
        value = value._number()
    if isinstance(value, Traced):
        if value.graph is not of:
            raise TypeError("the equations mix values of two cells; expected those of the arguments alone")
        return value.node
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value.item()
    if isinstance(value, np.ndarray):
        raise TypeError(
            f"the equations have an array of shape {value.shape}; expected a number: "
            "what differs from unit to unit is a parameter"
        )
    if isinstance(value, (numbers.Real, np.bool_)):
        return of.number(float(value))
    raise TypeError(f"the equations have a {type(value).__name__}; expected values of the arguments and numbers")


_MASKS = frozenset({Op.LESS, Op.LESS_EQUAL, Op.EQUAL})


def _apply(op: Op | Across, *values: Any) -> Any:
    """An operation on traced values and numbers."""
    (of, *_) = [value.graph for value in values if isinstance(value, _Value)]
    node = of.make(op, *[_node_of(of, value) for value in values])
    return Mask(of, node) if op in _MASKS else Traced(of, node)


def _call(function: Function, x: Any, *options: float) -> Traced:
    if isinstance(x, Mask):
        x = x._number()
    return Traced(x.graph, x.graph.call(function, x.node, *[float(option) for option in options]))


# ---- derivatives of the program's own operations: (graph, gradient, value, *operands) to the operands' gradients


def _no(*_: Any) -> tuple[None, ...]:
    return (None, None)


def _select_back(g: Graph, d: Node, y: Node, mask: Node, b: Node, c: Node) -> tuple[Node | None, ...]:
    zero = g.number(0.0)
    return None, g.make(Op.SELECT, mask, d, zero), g.make(Op.SELECT, mask, zero, d)


def _mul_back(g: Graph, d: Node, y: Node, a: Node, b: Node) -> tuple[Node | None, ...]:
    def part(one: Node, other: Node) -> Node:
        if g.is_of_a_row(one) and one.op is Op.DIV and one.args[0].number == 1 and not g.is_of_a_row(other):
            return g.make(Op.MUL, g.make(Op.MUL, d, y), one.args[1])  # other = y * s, where one = 1 / s
        return g.make(Op.MUL, d, other)

    return part(a, b), part(b, a)


def _div_back(g: Graph, d: Node, y: Node, a: Node, b: Node) -> tuple[Node | None, ...]:
    da = g.make(Op.DIV, d, b)
    return da, g.make(Op.NEG, g.make(Op.MUL, da, y))


def _abs_back(g: Graph, d: Node, y: Node, a: Node) -> tuple[Node | None, ...]:
    zero = g.number(0.0)  # sign(a) * d; 0 at 0 and of NaN
    positive = g.make(Op.SELECT, g.make(Op.LESS, zero, a), d, zero)
    return (g.make(Op.SELECT, g.make(Op.LESS, a, zero), g.make(Op.NEG, d), positive),)


def _extreme_back(g: Graph, d: Node, lost_a: Node, lost_b: Node, a: Node, b: Node) -> tuple[Node | None, ...]:
    zero = g.number(0.0)  # half each where both are the same; to both where either is NaN
    of_one = g.make(Op.SELECT, g.make(Op.EQUAL, a, b), g.make(Op.MUL, g.number(0.5), d), d)
    return g.make(Op.SELECT, lost_a, zero, of_one), g.make(Op.SELECT, lost_b, zero, of_one)


def _min_back(g: Graph, d: Node, y: Node, a: Node, b: Node) -> tuple[Node | None, ...]:
    return _extreme_back(g, d, g.make(Op.LESS, b, a), g.make(Op.LESS, a, b), a, b)


def _max_back(g: Graph, d: Node, y: Node, a: Node, b: Node) -> tuple[Node | None, ...]:
    return _extreme_back(g, d, g.make(Op.LESS, a, b), g.make(Op.LESS, b, a), a, b)


def _relu_back(g: Graph, d: Node, y: Node, a: Node) -> tuple[Node | None, ...]:
    zero = g.number(0.0)
    return (g.make(Op.SELECT, g.make(Op.LESS_EQUAL, y, zero), zero, d),)


def _erf_back(g: Graph, d: Node, y: Node, a: Node) -> tuple[Node | None, ...]:
    bell = g.make(Op.EXP, g.make(Op.NEG, g.make(Op.MUL, a, a)))
    return (g.make(Op.MUL, g.make(Op.MUL, g.number(2 / math.sqrt(math.pi)), bell), d),)


DERIVATIVES: dict[Op | Across, Callable[..., tuple[Node | None, ...]]] = {
    Across.MEAN: lambda g, d, y, a: (g.make(Across.MEAN, d),),
    Op.ADD: lambda g, d, y, a, b: (d, d),
    Op.SUB: lambda g, d, y, a, b: (d, g.make(Op.NEG, d)),
    Op.MUL: _mul_back,
    Op.DIV: _div_back,
    Op.NEG: lambda g, d, y, a: (g.make(Op.NEG, d),),
    Op.ABS: _abs_back,
    Op.MIN: _min_back,
    Op.MAX: _max_back,
    Op.SQRT: lambda g, d, y, a: (g.make(Op.DIV, g.make(Op.MUL, g.number(0.5), d), y),),
    Op.EXP: lambda g, d, y, a: (g.make(Op.MUL, d, y),),
    Op.EXPM1: lambda g, d, y, a: (g.make(Op.MUL, d, g.make(Op.ADD, y, g.number(1.0))),),
    Op.LOG: lambda g, d, y, a: (g.make(Op.DIV, d, a),),
    Op.LOG1P: lambda g, d, y, a: (g.make(Op.DIV, d, g.make(Op.ADD, a, g.number(1.0))),),
    Op.SIN: lambda g, d, y, a: (g.make(Op.MUL, d, g.make(Op.COS, a)),),
    Op.COS: lambda g, d, y, a: (g.make(Op.NEG, g.make(Op.MUL, d, g.make(Op.SIN, a))),),
    Op.ERF: _erf_back,
    Op.SIGMOID: lambda g, d, y, a: (g.back(Op.SIGMOID_BACK, d, y),),
    Op.TANH: lambda g, d, y, a: (g.back(Op.TANH_BACK, d, y),),
    Op.RELU: _relu_back,
    Op.LESS: _no,
    Op.LESS_EQUAL: _no,
    Op.EQUAL: _no,
    Op.SELECT: _select_back,
}


# ---- the operations


def exp(x: Any) -> Any:
    """e to the power of x."""
    return _apply(Op.EXP, x) if _is_traced(x) else np.exp(x)


def expm1(x: Any) -> Any:
    """exp(x) - 1, exact for small x."""
    return _apply(Op.EXPM1, x) if _is_traced(x) else np.expm1(x)


def log(x: Any) -> Any:
    """The natural logarithm."""
    return _apply(Op.LOG, x) if _is_traced(x) else np.log(x)


def log1p(x: Any) -> Any:
    """log(1 + x), exact for small x."""
    return _apply(Op.LOG1P, x) if _is_traced(x) else np.log1p(x)


def sin(x: Any) -> Any:
    """The sine."""
    return _apply(Op.SIN, x) if _is_traced(x) else np.sin(x)


def cos(x: Any) -> Any:
    """The cosine."""
    return _apply(Op.COS, x) if _is_traced(x) else np.cos(x)


def erf(x: Any) -> Any:
    """The error function."""
    return _apply(Op.ERF, x) if _is_traced(x) else graph.erf(x)


def sqrt(x: Any) -> Any:
    """The square root."""
    return _apply(Op.SQRT, x) if _is_traced(x) else np.sqrt(x)


def absolute(x: Any) -> Any:
    """abs(x); its derivative at 0 is 0."""
    return _apply(Op.ABS, x) if _is_traced(x) else np.abs(x)


def sigmoid(x: Any) -> Any:
    """1 / (1 + exp(-x))."""
    return _apply(Op.SIGMOID, x) if _is_traced(x) else graph.sigmoid(x)


def tanh(x: Any) -> Any:
    """The hyperbolic tangent."""
    return _apply(Op.TANH, x) if _is_traced(x) else np.tanh(x)


def relu(x: Any) -> Any:
    """max(x, 0); its derivative at 0 is 0."""
    return _apply(Op.RELU, x) if _is_traced(x) else np.maximum(x, 0)


def minimum(a: Any, b: Any) -> Any:
    """The lesser of a and b, NaN if either is; where they are the same each has half the gradient."""
    return _apply(Op.MIN, a, b) if _is_traced(a, b) else np.minimum(a, b)


def maximum(a: Any, b: Any) -> Any:
    """The greater of a and b, NaN if either is; where they are the same each has half the gradient."""
    return _apply(Op.MAX, a, b) if _is_traced(a, b) else np.maximum(a, b)


def where(condition: Any, a: Any, b: Any) -> Any:
    """a where the condition holds, else b; the other has no gradient there, not even NaN's."""
    if not _is_traced(condition, a, b):
        return np.where(condition, a, b)
    if not isinstance(condition, Mask):
        raise TypeError(
            f"the condition of where is a {type(condition).__name__}; expected a comparison: where(a < b, ...)"
        )
    of = condition.graph
    if isinstance(a, Mask) or isinstance(b, Mask):
        raise TypeError("where chooses between conditions; expected numbers: & | ~ combine conditions")
    one, two = _node_of(of, a), _node_of(of, b)
    return Traced(of, of.make(Op.SELECT, condition.node, *((two, one) if condition.inverse else (one, two))))


def mean(x: Any) -> Any:
    """The mean of x over the units of a row (one sequence at one step): a value that all of them see."""
    return _apply(Across.MEAN, x) if _is_traced(x) else graph.EVALUATE[Across.MEAN](x)


def reciprocal(x: Any) -> Any:
    """1 / x."""
    return 1 / x


def square(x: Any) -> Any:
    """x * x."""
    return x * x


def silu(x: Any) -> Any:
    """x * sigmoid(x), swish."""
    return x * sigmoid(x)


def _softplus_expand(g: Graph, x: Node) -> Node:
    small = g.make(Op.LOG1P, g.make(Op.EXP, g.make(Op.NEG, g.make(Op.ABS, x))))
    return g.make(Op.ADD, g.make(Op.RELU, x), small)


def _softplus_back(g: Graph, d: Node, y: Node, x: Node) -> Node:
    return g.make(Op.MUL, d, g.make(Op.SIGMOID, x))


_SOFTPLUS = Function("softplus", _softplus_expand, _softplus_back)


def softplus(x: Any) -> Any:
    """log(1 + exp(x)), without overflow."""
    return _call(_SOFTPLUS, x) if _is_traced(x) else np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


def _softsign_expand(g: Graph, x: Node) -> Node:
    return g.make(Op.DIV, x, g.make(Op.ADD, g.make(Op.ABS, x), g.number(1.0)))


def _softsign_back(g: Graph, d: Node, y: Node, x: Node) -> Node:
    r = g.make(Op.DIV, g.number(1.0), g.make(Op.ADD, g.make(Op.ABS, x), g.number(1.0)))
    return g.make(Op.MUL, d, g.make(Op.MUL, r, r))


_SOFTSIGN = Function("softsign", _softsign_expand, _softsign_back)


def softsign(x: Any) -> Any:
    """x / (1 + abs(x)); NaN of an infinity."""
    return _call(_SOFTSIGN, x) if _is_traced(x) else x / (1 + np.abs(x))


def _elu_expand(g: Graph, x: Node, alpha: float, scale: float) -> Node:
    below = g.make(Op.MUL, g.number(alpha * scale), g.make(Op.EXPM1, x))
    positive = g.make(Op.MUL, g.number(scale), x)
    return g.make(Op.SELECT, g.make(Op.LESS, x, g.number(0.0)), below, positive)


def _elu_back(g: Graph, d: Node, y: Node, x: Node, alpha: float, scale: float) -> Node:
    # From x alone: the slope alpha * exp(x) is chosen after it is computed, so that it may be infinite where it is not.
    below = g.make(Op.MUL, g.make(Op.MUL, g.number(alpha * scale), g.make(Op.EXP, x)), d)
    return g.make(Op.SELECT, g.make(Op.LESS_EQUAL, x, g.number(0.0)), below, g.make(Op.MUL, g.number(scale), d))


_ELU = Function("elu", _elu_expand, _elu_back)


def elu(x: Any, alpha: float = 1.0) -> Any:
    """x where it is positive, else alpha * (exp(x) - 1); at 0 the derivative is alpha."""
    return _call(_ELU, x, alpha, 1.0) if _is_traced(x) else np.where(x < 0, alpha * np.expm1(np.minimum(x, 0)), x)


def selu(x: Any) -> Any:
    """The scaled elu that keeps mean 0 and variance 1 (Klambauer et al., 2017)."""
    return _call(_ELU, x, SELU_ALPHA, SELU_SCALE) if _is_traced(x) else SELU_SCALE * elu(x, SELU_ALPHA)


def leaky_relu(x: Any, slope: float = 0.01) -> Any:
    """x where it is positive, else slope * x; at 0 the derivative is the slope."""
    return where(x > 0, x, slope * x)


def _clip_expand(g: Graph, x: Node, low: float, high: float, *_: float) -> Node:
    return g.make(Op.MIN, g.make(Op.MAX, x, g.number(low)), g.number(high))


def _clip_back(g: Graph, d: Node, y: Node, x: Node, low: float, high: float, bounds: float) -> Node:
    zero = g.number(0.0)
    if bounds:  # 1: the gradient goes through at the bounds; 2: it does not; of NaN neither
        less = Op.LESS_EQUAL if bounds == 1 else Op.LESS
        inner = g.make(Op.SELECT, g.make(less, x, g.number(high)), d, zero)
        return g.make(Op.SELECT, g.make(less, g.number(low), x), inner, zero)
    inner = g.make(Op.SELECT, g.make(Op.LESS_EQUAL, g.number(high), x), zero, d)
    return g.make(Op.SELECT, g.make(Op.LESS_EQUAL, x, g.number(low)), zero, inner)


_CLIP = Function("clip", _clip_expand, _clip_back)


def clip(x: Any, low: float, high: float) -> Any:
    """The nearest to x of the numbers from low to high; the gradient goes through where x is one of them."""
    if _is_traced(low, high):
        return minimum(maximum(x, low), high)
    return _call(_CLIP, x, low, high, 1) if _is_traced(x) else np.minimum(np.maximum(x, low), high)


def hard_tanh(x: Any, low: float = -1, high: float = 1) -> Any:
    """x clipped to low to high; at the bounds the derivative is 0."""
    return _call(_CLIP, x, low, high, 0) if _is_traced(x) else clip(x, low, high)


def hard_sigmoid(x: Any, slope: float = 1 / 6, offset: float = 0.5) -> Any:
    """slope * x + offset clipped to 0 to 1: torch's and Keras' with a slope of 1/6, ONNX' and Keras 2's with 0.2."""
    line = x * slope + offset
    return _call(_CLIP, line, 0, 1, 2) if _is_traced(x) else clip(line, 0, 1)


def gelu(x: Any) -> Any:
    """x times the share of a normal distribution below x."""
    return x * (0.5 * erf(x * math.sqrt(0.5)) + 0.5)


_UFUNCS: dict[str, Callable[..., Any]] = {
    "add": lambda a, b: _apply(Op.ADD, a, b),
    "subtract": lambda a, b: _apply(Op.SUB, a, b),
    "multiply": lambda a, b: _apply(Op.MUL, a, b),
    "divide": lambda a, b: _apply(Op.DIV, a, b),
    "negative": lambda a: -a,
    "positive": lambda a: a,
    "absolute": absolute,
    "fabs": absolute,
    "power": lambda a, b: a**b,
    "square": square,
    "reciprocal": reciprocal,
    "sqrt": sqrt,
    "exp": exp,
    "expm1": expm1,
    "log": log,
    "log1p": log1p,
    "sin": sin,
    "cos": cos,
    "tanh": tanh,
    "minimum": minimum,
    "maximum": maximum,
    "less": lambda a, b: _apply(Op.LESS, a, b),
    "less_equal": lambda a, b: _apply(Op.LESS_EQUAL, a, b),
    "greater": lambda a, b: _apply(Op.LESS, b, a),
    "greater_equal": lambda a, b: _apply(Op.LESS_EQUAL, b, a),
    "equal": lambda a, b: _apply(Op.EQUAL, a, b),
    "not_equal": lambda a, b: ~_apply(Op.EQUAL, a, b),
    "logical_and": lambda a, b: a & b,
    "logical_or": lambda a, b: a | b,
    "logical_not": lambda a: ~a,
    "bitwise_and": lambda a, b: a & b,
    "bitwise_or": lambda a, b: a | b,
    "invert": lambda a: ~a,
}
