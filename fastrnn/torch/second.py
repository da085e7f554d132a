"""Derivatives beyond `fastrnn.torch.operator`'s: of its backward (create_graph=True), and in forward mode.

What there is to differentiate are functions of autograd whose derivatives are one another:

    Layer      (x, states, weights) -> (y, final states)                       backward: Backward, jvp: Forward
    Backward   (the same; dy, dstate_n) -> (dx, dstate_0, dweights)            backward: Second,   jvp: Tangent
    Forward    (the same as Layer; its tangents) -> tangents of y and so on    backward: Backward and Second
    Second     (as Backward; cotangents) -> gradients of all that Backward takes    backward: Second; Third for the rest
    Tangent    (as Backward; tangents of all of it) -> tangents of what Backward returns

All are made of two things: a layer's tangent in a direction, and the gradient of that (`fastrnn.tangent`). With the
cotangents of (dx, dstate_0, dweights) as the direction, `Second`'s gradient of dy is the tangent of y, and those of x,
states and weights are the gradient of <dy, tangent of y>. A third derivative is left to torch's own layers.

They are of torch's newer kind (`setup_context`), which transforms of torch.func want.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch._C._functorch import TransformType, get_interpreter_stack
from torch.autograd import forward_ad

from fastrnn import ops
from fastrnn.cells import State
from fastrnn.parameters import Array
from fastrnn.tangent import Point
from fastrnn.tangent import Tangent as LayerTangent
from fastrnn.torch import levels, operator

__all__ = ["Memory", "backward", "layer", "why_not_forward"]

THIRD = "have no third derivative"
TWICE_FORWARD = "have no forward-mode derivative of a forward-mode derivative"


class Call(NamedTuple):
    """What a call of a layer has besides tensors."""

    cell: str
    warn: Callable[[str], None]
    states: int
    weights: int  # how many tensors
    of_x: bool = True  # whether its gradient is wanted
    of_any: bool = True  # or that of a state or weight

    def of(self, ctx: Any) -> Call:
        """What a context of autograd wants gradients of, of x and what follows it."""
        x, _, *others = ctx.needs_input_grad[2 : 4 + self.states + self.weights]
        return self._replace(of_x=x, of_any=x or any(others))

    def split(self, tensors: Sequence[Any]) -> tuple[Any, Any, Any]:
        """States, weights, and what follows."""
        S, W = self.states, self.states + self.weights
        return tensors[:S], tensors[S:W], tensors[W:]

    def problem(self, x: Tensor, batch_sizes: Tensor | None, tensors: Sequence[Any], backend: Any = None) -> Any:
        """The layer on arrays, of tensors that begin with states and weights."""
        state, weights, _ = self.split(tensors)
        operator._check_arguments(x, state, weights, self.cell)  # others may be in saved tensors by now
        return operator._Problem(x, batch_sizes, state, weights, self.cell, backend)


class Memory:
    """What is kept of a layer's forward: the tapes until a backward has used them, then gates; made when it must be."""

    def __init__(self, *fresh: Any) -> None:
        self._fresh = list(fresh)  # (problem, tapes): for one backward
        self._kept: Any = None  # the backend's name, y, and by direction the gates

    def fill(self, problem: Any, tapes: list[ops.Tape]) -> None:
        """Take in a forward."""
        self._fresh.append((problem, tapes))

    def take(self, problem: Callable[[], Any]) -> tuple[Any, list[ops.Tape]]:
        """Tapes for a backward, and their problem; what others need of them is kept."""
        try:
            found, tapes = self._fresh.pop()
        except IndexError:
            found = problem()
            _, _, tapes = found.run(keep=True)
        self._keep(found, tapes)
        return found, tapes

    def points(self, problem: Callable[[Any], Any]) -> tuple[Any, list[Point]]:
        """Where to differentiate, by direction, of the problem on a backend."""
        if self._kept is None and self._fresh:
            self._keep(*self._fresh[-1])
        its = problem(None if self._kept is None else self._kept[0])
        if self._kept is None:
            _, _, tapes = its.run(keep=True)
            self._keep(its, tapes)
        _, y, gates = self._kept
        points = []
        for direction, part in enumerate(its.parts(y)):
            state, weights = its.states[direction], its.weights[direction]
            given = (its.backend, its.cell, its.x, state, weights, its.num_threads, its.batch_sizes, direction == 1)
            points.append(Point(*given, part, gates[direction]))
        return its, points

    def _keep(self, problem: Any, tapes: list[ops.Tape]) -> None:
        if self._kept is None:
            gates = [list(ops.gates(tape).values()) if len(problem.cell.gates) > 1 else [] for tape in tapes]
            self._kept = operator.BACKEND_OF_FLAG[operator.FLAGS[problem.backend.__name__]], problem.y, gates


class _Pushed:
    """The tangents of both directions of a layer."""

    def __init__(
        self, problem: Any, points: list[Point], direction: tuple[Any, Sequence[Any], Sequence[Any]], again: bool
    ) -> None:
        """Take the tangents of x, states and weights, tensors or None; `again`: for `adjoint`."""
        self.problem = problem
        x, *others = [None if t is None else operator._array(t, "a tangent") for t in (direction[0], *direction[1])]
        self.tangents = []
        for at, (point, its) in enumerate(zip(points, operator._split(direction[2], len(points)), strict=True)):
            weights = [None if t is None else operator._array(t, "a tangent") for t in its]
            hr = weights.pop() if len(weights) % 2 else None
            fields = (*weights, *[None] * (4 - len(weights)), hr, None)
            self.tangents.append(LayerTangent(point, x, [None if s is None else s[at] for s in others], fields, again))

    def outputs(self) -> list[Tensor]:
        """The tangents of y and of the final states."""
        ys = [each.y for each in self.tangents]
        y = ys[0] if len(ys) == 1 else np.concatenate(ys, -1)
        return [torch.from_numpy(y), *operator._tensors([each.state_n for each in self.tangents])]

    def adjoint(self, outer: Sequence[Any], outer_tangent: Sequence[Any] | None, of_x: bool) -> list[Any]:
        """`fastrnn.tangent.Tangent.adjoint`, given (dy, *dstate_n) and their tangents."""
        dx: Array | None = None
        dstates: list[State] = []
        dweights: list[Tensor] = []
        outer_of, tangent_of = self._by_direction(outer), self._by_direction(outer_tangent or [None] * len(outer))
        for at, each in enumerate(self.tangents):
            (dy, *dstate_n), (dy_tangent, *dstate_n_tangent) = outer_of[at], tangent_of[at]
            its_dx, dstate, found = each.adjoint(dy, dstate_n, dy_tangent, dstate_n_tangent, of_x)
            dx = its_dx if dx is None or its_dx is None else dx + its_dx
            dstates.append(dstate)
            dweights += [torch.from_numpy(w) for w in found if w is not None]
        return [None if dx is None else torch.from_numpy(dx), *operator._tensors(dstates), *dweights]

    def _by_direction(self, tensors: Sequence[Any]) -> list[list[Any]]:
        """(dy, *dstate_n) of each direction."""
        dy, *dstate_n = [None if t is None else operator._array(t, "a gradient") for t in tensors]
        parts = self.problem.parts(dy)
        return [[part, *[None if d is None else d[at] for d in dstate_n]] for at, part in enumerate(parts)]


def _as_wanted(ctx: Any, *gradients: Any) -> tuple[Any, ...]:
    """The gradients that are, None for others: autograd takes none of what was no tensor."""
    return tuple([its if wanted else None for its, wanted in zip(gradients, ctx.needs_input_grad, strict=True)])


# ---- functions of autograd; all begin with (call, memory, x, batch_sizes, *states, *weights)


class _Function(levels.Function):
    """What they share."""

    @classmethod
    def batched(cls, count: int, axes: Sequence[int | None], *given: Any) -> tuple[Sequence[Any], Sequence[int | None]]:
        """One after the other; what is kept of the layer serves all, unless x, states or weights are a batch too."""
        call, memory, *rest = given
        point = 2 + call.states + call.weights + (cls is Second)  # arguments that say where it is differentiated
        own = any(axis is not None for axis in axes[2 : 2 + point])
        each = []
        for b in range(count):
            its = [t if axis is None else t.select(axis, b) for t, axis in zip(rest, axes[2:], strict=True)]
            each.append(cls.apply(call, Memory() if own else memory, *its))
        found = [None if parts[0] is None else torch.stack(parts) for parts in zip(*each, strict=True)]
        return found, [None if its is None else 0 for its in found]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.call, ctx.memory, *tensors = inputs
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)
        ctx.set_materialize_grads(False)


class Layer(_Function):
    """The layer itself, for forward mode."""

    @staticmethod
    def forward(call: Call, memory: Memory, x: Tensor, batch_sizes: Tensor | None, *tensors: Tensor) -> Any:
        problem = call.problem(x, batch_sizes, tensors)
        y, states_n, tapes = problem.run(keep=True)
        memory.fill(problem, tapes)
        return operator._copy(y), *operator._tensors(states_n)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> Any:
        dx, *others = Backward.apply(ctx.call.of(ctx), ctx.memory, *ctx.saved_tensors, *gradients)
        return None, None, dx, None, *others

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        return Forward.apply(ctx.call, ctx.memory, *ctx.saved_tensors, tangents[2], *tangents[4:])


class Backward(_Function):
    """The gradients of what `Layer` takes; besides that it is given dy and dstate_n."""

    @staticmethod
    def forward(call: Call, memory: Memory, x: Tensor, batch_sizes: Tensor | None, *tensors: Any) -> Any:
        problem, tapes = memory.take(lambda: call.problem(x, batch_sizes, tensors))
        dy, *dstate_n = call.split(tensors)[2]
        dx, dstate_0, dweights = problem.gradients(tapes, dy, dstate_n, call.of_x)
        return dx, *dstate_0, *dweights

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> Any:
        dx, *others = _second(ctx.call.of(ctx), ctx.memory, ctx.saved_tensors, cotangents)
        return _as_wanted(ctx, None, None, dx, None, *others)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        return Tangent.apply(ctx.call, ctx.memory, *ctx.saved_tensors, tangents[2], *tangents[4:])


class Forward(_Function):
    """The tangents of what `Layer` returns; besides what that takes it is given tangents of it."""

    @staticmethod
    def forward(call: Call, memory: Memory, x: Tensor, batch_sizes: Tensor | None, *tensors: Any) -> Any:
        problem, points = memory.points(lambda backend: call.problem(x, batch_sizes, tensors, backend))
        x_tangent, *others = call.split(tensors)[2]
        return tuple(_Pushed(problem, points, (x_tangent, *call.split(others)[:2]), again=False).outputs())

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> Any:
        x, batch_sizes, *tensors = ctx.saved_tensors
        state, weights, tangents = ctx.call.split(tensors)
        point = (x, batch_sizes, *state, *weights, *gradients)
        dx, *others = _second(ctx.call.of(ctx), ctx.memory, point, tangents)
        of_tangents = Backward.apply(ctx.call, ctx.memory, *point)
        return _as_wanted(ctx, None, None, dx, None, *others[: len(state) + len(weights)], *of_tangents)


def _second(call: Call, memory: Memory, point: Sequence[Any], cotangents: Sequence[Any]) -> list[Any]:
    """`Second` of what `Backward` takes from x on, and cotangents of what it returns.

    To be differentiated in turn it is two functions: of the cotangents, in which it is linear, and `Third` of the rest.
    Products with the Hessian that are taken by differentiating twice (torch.autograd.functional.hvp) need the first.
    """
    if not torch.is_grad_enabled() or torch._C._are_functorch_transforms_active():
        return list(Second.apply(call, memory, None, *point, *cotangents))
    still, along = ([None if t is None else t.detach() for t in its] for its in (point, cotangents))
    found = Second.apply(call, memory, tuple(point), *still, *cotangents)
    rest = Third.apply(call, memory, (*point, *cotangents), *point, *along)
    return [one if one is None or other is None else one + other for one, other in zip(found, rest, strict=True)]


class Second(_Function):
    """The gradients of what `Backward` takes; besides that it is given cotangents of what that returns.

    `origin` is what is to be differentiated by in place of all but these, if `Third` does the rest.
    """

    @staticmethod
    def forward(call: Call, memory: Memory, origin: Any, x: Tensor, batch_sizes: Tensor | None, *tensors: Any) -> Any:
        rest = call.split(tensors)[2]
        outer, (of_dx, *of_others) = rest[: 1 + call.states], rest[1 + call.states :]
        problem, points = memory.points(lambda backend: call.problem(x, batch_sizes, tensors, backend))
        pushed = _Pushed(problem, points, (of_dx, *call.split(of_others)[:2]), again=call.of_any)
        of_outer = pushed.outputs()
        if not call.of_any:
            return *[None] * (1 + call.states + call.weights), *of_outer
        return *pushed.adjoint(outer, None, call.of_x), *of_outer

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> Any:
        call, count = ctx.call, 1 + ctx.call.states + ctx.call.weights
        if ctx.origin is None:
            dx, *others = _pull(*_by_torch(ctx, _pull), gradients)
            return _as_wanted(ctx, None, None, None, dx, None, *others)
        saved = ctx.saved_tensors
        point = ctx.origin if torch.is_grad_enabled() else saved[: len(ctx.origin)]
        call = call._replace(of_x=True, of_any=True)
        found = _second(call, ctx.memory, point, gradients[:count])[:count]
        if any(d is not None for d in gradients[count:]):
            more = Backward.apply(call, ctx.memory, *point[: count + 1], *gradients[count:])
            found = [one + other for one, other in zip(found, more, strict=True)]
        return _as_wanted(ctx, *[None] * (3 + len(point)), *found)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        return tuple(_push(*_by_torch(ctx, _pull), [tangents[3], *tangents[5:]]))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        call, memory, ctx.origin, *tensors = inputs
        _Function.setup_context(ctx, (call, memory, *tensors), output)


class Third(_Function):
    """Zeros in the places of what `Second` returns, with its derivative in all but the cotangents.

    `origin` is all of it, as what the derivative's own derivatives are taken of.
    """

    @staticmethod
    def forward(call: Call, memory: Memory, origin: Any, x: Tensor, batch_sizes: Tensor | None, *tensors: Any) -> Any:
        zero = x.new_zeros(())
        outputs = (x, *tensors[: 2 * call.states + call.weights + 1])
        return tuple([None if t is None else zero.expand(t.shape) for t in outputs])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> Any:
        dx, *others = _pull(*_by_torch(ctx, _pull, ctx.origin), gradients)
        return _as_wanted(ctx, None, None, None, dx, None, *others)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        Second.setup_context(ctx, inputs, output)


class Tangent(_Function):
    """The tangents of what `Backward` returns; besides what that takes it is given tangents of it."""

    @staticmethod
    def forward(call: Call, memory: Memory, x: Tensor, batch_sizes: Tensor | None, *tensors: Any) -> Any:
        rest = call.split(tensors)[2]
        outer, (x_tangent, *of_others) = rest[: 1 + call.states], rest[1 + call.states :]
        problem, points = memory.points(lambda backend: call.problem(x, batch_sizes, tensors, backend))
        of_state, of_weights, of_outer = call.split(of_others)
        pushed = _Pushed(problem, points, (x_tangent, of_state, of_weights), again=True)
        return tuple(pushed.adjoint(outer, of_outer, of_x=True))

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        dx, *others = _pull(*_by_torch(ctx, _push), gradients)
        return _as_wanted(ctx, None, None, dx, None, *others)


# ---- third derivatives, by torch's own layer

Given = Sequence[Any]  # tensors, or None


def _by_torch(
    ctx: Any, way: Callable[..., list[Any]], origin: Any = None
) -> tuple[Callable[[Given], list[Any]], Given]:
    """`_pull` or `_push` of `Backward` as a function of all that a context's function takes, and that."""
    call: Call = ctx.call
    call.warn(THIRD)
    recorded, count = torch.is_grad_enabled(), 2 + 2 * call.states + call.weights
    saved = ctx.saved_tensors
    x, batch_sizes, *tensors = origin if origin is not None and recorded else saved
    aliases = [None if t is None else t.view_as(t) if recorded else t.detach() for t in (x, *tensors)]
    aliases = [t if t is None or t.requires_grad else t.requires_grad_() for t in aliases]

    def backward(given: Given) -> list[Any]:
        state, weights, (dy, *dstate_n) = call.split(given[1:])
        with torch.enable_grad():
            dx, dstate_0, dweights = operator._torchs_backward(
                given[0], batch_sizes, state, weights, dy, dstate_n, call.cell
            )
        return [dx, *dstate_0, *dweights]

    return lambda given: way(backward, given[:count], given[count:]), aliases


def _pull(function: Callable[[Given], list[Any]], given: Given, cotangents: Given) -> list[Any]:
    """The gradients of <function(given), cotangents> with respect to each of `given`, to be differentiated."""
    pairs = [(o, u) for o, u in zip(function(given), cotangents, strict=True) if o is not None and u is not None]
    inputs = [t for t in given if t is not None]
    found: Any = [None] * len(inputs)
    if pairs:
        outs, gradients = zip(*pairs, strict=True)
        found = torch.autograd.grad(outs, inputs, gradients, create_graph=True, allow_unused=True)
    by_tensor = iter(found)
    return [None if t is None else next(by_tensor) for t in given]


def _push(function: Callable[[Given], list[Any]], given: Given, tangents: Given) -> list[Any]:
    """The tangents of function(given): the gradient of `_pull`, which is linear in its cotangents."""
    zeros = [None if o is None else torch.zeros_like(o).requires_grad_() for o in function(given)]
    return _pull(lambda cotangents: _pull(function, given, cotangents), zeros, tangents)


# ---- what `fastrnn.torch.operator` calls


def backward(
    fresh: list[Any],
    x: Tensor,
    batch_sizes: Tensor | None,
    state: Sequence[Tensor],
    weights: Sequence[Tensor],
    dy: Tensor | None,
    dstate_n: Sequence[Tensor | None],
    cell: str,
    warn: Callable[[str], None],
    of_x: bool,
) -> operator.Gradients:
    """The backward of a layer, to be differentiated in turn; without the gradient of x unless `of_x`.

    `fresh` has the problem and its tapes, if they are there, and loses them.
    """
    if operator.is_traced() or operator._are_batched(dy, *dstate_n):
        warn(operator.CREATE_GRAPH)
        return operator._torchs_backward(x, batch_sizes, state, weights, dy, dstate_n, cell)
    memory = Memory()
    with contextlib.suppress(IndexError):
        memory.fill(*fresh.pop())
    call = Call(cell, warn, len(state), len(weights), of_x)
    dx, *others = Backward.apply(call, memory, x, batch_sizes, *state, *weights, dy, *dstate_n)
    return dx, others[: len(state)], others[len(state) :]


def layer(
    x: Tensor,
    batch_sizes: Tensor | None,
    state: Sequence[Tensor],
    weights: Sequence[Tensor],
    cell: str,
    warn: Callable[[str], None],
) -> tuple[Tensor, Sequence[Tensor]]:
    """A layer, in forward mode."""
    call = Call(cell, warn, len(state), len(weights))
    y, *state_n = Layer.apply(call, Memory(), x, batch_sizes, *state, *weights)
    return y, state_n


def why_not_forward() -> str | None:
    """Why not to work under transforms of torch.func, one of which is of forward mode; None without such, too."""
    stack = sorted(get_interpreter_stack() or (), key=lambda level: level.level())
    kinds = [level.key() for level in stack]  # the outermost first
    duals = kinds.count(TransformType.Jvp) or int(forward_ad._current_level >= 0)
    if kinds and TransformType.Jvp not in kinds:
        return "know none of torch.func's transforms"
    if TransformType.Functionalize in kinds:
        return "do not know torch.func.functionalize"
    if TransformType.Vmap in kinds and TransformType.Grad in kinds[: kinds.index(TransformType.Jvp)]:
        return "have no reverse mode of batches of forward mode"  # each of which would run on its own, in turn a batch
    if duals > 1:
        return TWICE_FORWARD
    if duals + kinds.count(TransformType.Grad) > 2:
        return THIRD
    return None
