"""A layer under torch.func's transforms: vmap, grad, vjp, jacrev in any order, and so per-sample gradients.

Each transform is a level, and torch peels off one after the other. The rules for vmap only rearrange what a level maps
over: under the same weights, more rows of one batch; with weights of their own, members of an ensemble. What is left
below all levels is a call with

    x (M, T, N, I), or packed rows (M, R, I);  states (M, D, N, K);  weights (M, ...);  their gradients (M, E, ...)

of M members and E groups of rows. Levels are the fastest part of the axis of the rows, so that the rows of one group
are every E-th. Per-sample gradients, `vmap(grad(...))`, are one backward of all rows, up to the gradients of the sums,
and then products of these with x and with h before the step, group by group.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import TransformType, get_interpreter_stack, get_unwrapped, is_functorch_wrapped_tensor
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack
from torch.autograd import forward_ad

from fastrnn.parameters import Array
from fastrnn.torch import levels, members, operator, second
from fastrnn.torch.operator import Written, run_uncompiled, wide

__all__ = ["array_of", "backward_of_batches", "layer", "why_not_under"]


def why_not_under() -> str | None:
    """Why a layer cannot run under the transforms that are active, or None."""
    kinds = [level.key() for level in get_interpreter_stack() or ()]
    if TransformType.Jvp in kinds:
        return "have no forward-mode derivative"
    if TransformType.Functionalize in kinds:
        return "do not know torch.func.functionalize"
    if kinds.count(TransformType.Grad) > 2:
        return "have no third derivative"
    return None


def layer(
    x: Tensor,
    batch_sizes: Tensor | None,
    state: Sequence[Tensor],
    weights: Sequence[Tensor],
    cell: str | Written,
    warn: Callable[[str], None],
    inner: bool = False,
) -> tuple[Tensor, Sequence[Tensor]]:
    """`fastrnn.torch.operator.layer`, under transforms too, where its products are in float32 in any precision."""
    forward_mode = forward_ad._current_level >= 0  # which `operator.layer` knows, with and without torch.func
    if forward_mode or torch.compiler.is_compiling() or not torch._C._are_functorch_transforms_active():
        return operator.layer(x, batch_sizes, state, weights, cell, warn, inner)
    if isinstance(cell, Written) and cell.extra:
        raise NotImplementedError(
            f"the cell {cell.cell.name} is given values beside x, or draws noise; expected one that is not under "
            "torch.func's transforms"
        )
    tensors = [x, *state, *weights]
    batch_sizes = None if batch_sizes is None else _unwrapped("batch_sizes", batch_sizes)
    call = _Call(wide(cell), warn, batch_sizes, len(state), len(weights), any(map(_wants_gradient, tensors)))
    y, *state_n, _ = _Forward.apply(call, *tensors)
    return y, state_n


def _unwrapped(name: str, tensor: Tensor) -> Tensor:
    """A tensor of numbers that have no gradient, such as a mask, without the wrappers of transforms.

    Raises
    ------
    ValueError
        If torch.vmap maps over it.
    """
    while is_functorch_wrapped_tensor(tensor):
        if torch._C._functorch.is_batchedtensor(tensor):
            raise ValueError(
                f"{name} is mapped over by torch.vmap; expected one for all: leave it out of in_dims, or call the "
                "module once with a larger batch"
            )
        tensor = get_unwrapped(tensor)
    return tensor


def array_of(name: str, tensor: Tensor) -> Array:
    """`_unwrapped`, as an array."""
    found = _unwrapped(name, tensor.detach().cpu())
    with temporarily_clear_interpreter_stack():  # under transforms, torch gives no array of any tensor
        array: Array = found.numpy()
        return array


def _wants_gradient(tensor: Tensor) -> bool:
    """Whether it requires a gradient on any level."""
    while not tensor.requires_grad:
        if not is_functorch_wrapped_tensor(tensor):
            return False
        tensor = get_unwrapped(tensor)
    return True


@dataclass(frozen=True)
class _Call:
    """What the functions below are given beside tensors."""

    cell: str | Written
    warn: Callable[[str], None]
    batch_sizes: Tensor | None
    states: int
    weights: int
    keep: bool  # whether for backward
    members: bool = False  # whether there is the axis M, for which a level has brought members
    groups: int = 0  # E; 0 as long as there is no such axis
    of_x: bool = True  # whether backward is to give its gradient
    of_weights: bool = True  # and theirs
    kept: Any = None  # for backward, what forward kept


# ---- a level of vmap

ROWS, WEIGHTS, GROUPS = "rows", "weights", "groups"  # what the axes of a tensor are, as in the docstring above


def _place(call: _Call, kind: str, axes: int, of_members: bool) -> tuple[int, bool, int]:
    """Which axis a level's becomes part of, whether that is there, and where the level's is put in before that."""
    if of_members:
        return 0, call.members, 0
    axis, there = (int(call.members), call.groups > 0) if kind == GROUPS else (axes - 2, True)
    return axis, there, axis + there


def _enter(
    call: _Call, kind: str, tensor: Tensor | None, at: int | None, count: int, of_members: bool
) -> Tensor | None:
    """Make the axis that a level maps over, or a new one, a part of that of the members, rows or groups."""
    if tensor is None or (kind == WEIGHTS and not of_members):
        return tensor
    axis, there, put = _place(call, kind, tensor.dim() - (at is not None), of_members)
    if at is not None:
        tensor = tensor.movedim(at, put)
    else:
        tensor = tensor.unsqueeze(put).expand(*tensor.shape[:put], count, *tensor.shape[put:])
    return tensor.flatten(axis, axis + 1) if there else tensor


def _leave(call: _Call, kind: str, tensor: Any, count: int, of_members: bool) -> tuple[Any, int | None]:
    """The inverse of `_enter`, with the axis that is mapped over."""
    if not isinstance(tensor, Tensor):
        return tensor, None
    axis, there, put = _place(call, kind, tensor.dim(), of_members)
    if there:
        rest = tensor.shape[axis] // count
        cut = (count, rest) if put == axis else (rest, count)
        tensor = tensor.reshape(*tensor.shape[:axis], *cut, *tensor.shape[axis + 1 :])
    return tensor, put


class _Function(levels.Function):
    """What `_Forward`, `_Backward` and `_Second` share. The first argument is the `_Call`."""

    @staticmethod
    def kinds(call: _Call) -> tuple[list[str], list[str]]:
        """Of the tensors that it takes, and of what it returns."""
        raise NotImplementedError

    @staticmethod
    def run(call: _Call, *tensors: Any) -> Sequence[Any]:
        """What it does below all levels, of tensors that have all axes."""
        raise NotImplementedError

    @classmethod
    def whole(cls, call: _Call, *tensors: Any) -> tuple[Any, ...]:
        """`run`, of tensors that have those axes that a level has brought; so has what it returns."""
        given, found = cls.kinds(call)
        entered = []
        for kind, tensor in zip(given, tensors, strict=True):
            if tensor is not None and not call.members:
                tensor = tensor.unsqueeze(0)
            if tensor is not None and kind == GROUPS and not call.groups:
                tensor = tensor.unsqueeze(1)
            entered.append(tensor)
        results = []
        for kind, result in zip(found, cls.run(call, *entered), strict=True):
            if isinstance(result, Tensor) and kind == GROUPS and not call.groups:
                result = result.squeeze(1)
            if isinstance(result, Tensor) and not call.members:
                result = result.squeeze(0)
            results.append(result)
        return tuple(results)

    @classmethod
    def batched(cls, count: int, axes: Sequence[int | None], *given: Any) -> tuple[Sequence[Any], Sequence[int | None]]:
        """One level of vmap."""
        call, *tensors = given
        kinds, found = cls.kinds(call)
        of_members = any(at is not None for kind, at in zip(kinds, axes[1:], strict=True) if kind == WEIGHTS)
        sizes = call.batch_sizes
        if of_members:
            inner = replace(call, members=True)
        else:
            inner = replace(
                call, groups=max(call.groups, 1) * count, batch_sizes=None if sizes is None else sizes * count
            )
        entered = [_enter(call, *each, count, of_members) for each in zip(kinds, tensors, axes[1:], strict=True)]
        results = cls.apply(inner, *entered)
        left = [_leave(call, *each, count, of_members) for each in zip(found, results, strict=True)]
        return [result for result, _ in left], [at for _, at in left]


# ---- forward


class _Kept:
    """What forward keeps: the problem, y and the tapes, until a backward takes them."""

    def __init__(self, *fresh: Any) -> None:
        self._fresh = list(fresh)

    def take(self, members: int, sequences: int) -> Any:
        """Those of as many members and sequences, once; else None: they are not those of this backward."""
        with contextlib.suppress(IndexError):
            problem, y, tapes = self._fresh.pop()
            if problem.states[0][0].shape[:2] == (members, sequences):
                return problem, y, tapes
        return None


class _Forward(_Function):
    """From x, the initial states and the weights to y, the final states and what is kept."""

    @staticmethod
    def kinds(call: _Call) -> tuple[list[str], list[str]]:
        return [ROWS] * (1 + call.states) + [WEIGHTS] * call.weights, [ROWS] * (2 + call.states)

    @staticmethod
    def forward(call: _Call, *tensors: Any) -> Any:
        return _Forward.whole(call, *tensors)

    @staticmethod
    def run(call: _Call, *tensors: Any) -> Sequence[Any]:
        x, state, weights, _ = _split(call, tensors)
        problem = members.Problem(x, call.batch_sizes, state, weights, call.cell)
        y, states_n, tapes = problem.run(call.keep)
        outputs = members.tensors(states_n)
        if not call.keep:
            return torch.from_numpy(y), *outputs, _Kept()
        return operator._copy(y), *outputs, _Kept((problem, y, tapes))  # the tape reads y: users get a copy

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.call, *tensors = inputs
        ctx.kept = output[-1]
        ctx.save_for_backward(*tensors)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *incoming: Any) -> Any:
        wanted, gradients = ctx.needs_input_grad[1:], incoming[:-1]
        if all(d is None for d in gradients):
            return None, *[None] * len(wanted)
        of_weights = any(wanted[-ctx.call.weights :])
        call = replace(ctx.call, of_x=wanted[0], of_weights=of_weights, kept=ctx.kept)
        return None, *_Backward.apply(call, *ctx.saved_tensors, *gradients)


# ---- backward


class _Backward(_Function):
    """The gradients of all that `_Forward` takes, from those of y and the final states, which may be None."""

    @staticmethod
    def kinds(call: _Call) -> tuple[list[str], list[str]]:
        rows, weights = [ROWS] * (1 + call.states), [WEIGHTS] * call.weights
        return [*rows, *weights, *rows], [*rows, *[GROUPS] * call.weights]

    @staticmethod
    def forward(call: _Call, *tensors: Any) -> Any:
        return _Backward.whole(call, *tensors)

    @staticmethod
    def run(call: _Call, *tensors: Any) -> Sequence[Any]:
        x, state, weights, gradients = _split(call, tensors)
        projected = call.weights // state[0].shape[1] % 2 == 1
        if call.groups > 1 and call.of_weights and (projected or isinstance(call.cell, Written)):
            return _as_members(_Backward, _Backward.run, call, tensors)
        fresh = call.kept and call.kept.take(len(x), state[0].shape[2])
        if not fresh:
            problem = members.Problem(x, call.batch_sizes, state, weights, call.cell)
            y, _, tapes = problem.run(True)
            fresh = problem, y, tapes
        problem, y, tapes = fresh
        dx, dstate_0, dweights = problem.backward(y, tapes, gradients, call.groups, call.of_x, call.of_weights)
        return dx, *dstate_0, *(dweights or [None] * call.weights)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.call, *tensors = inputs
        ctx.save_for_backward(*tensors)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *incoming: Any) -> Any:
        call = ctx.call
        if not isinstance(call.cell, str):
            raise NotImplementedError(operator.no_second(call.cell))
        found = list(_Second.apply(replace(call, kept=None), *ctx.saved_tensors, *incoming))
        first = 1 + call.states
        for at in range(first, first + call.weights):
            if call.groups and found[at] is not None:  # those of this level share the weights
                found[at] = found[at].sum(int(call.members))
        return None, *found


def backward_of_batches(
    x: Tensor,
    batch_sizes: Tensor | None,
    state: Sequence[Tensor],
    weights: Sequence[Tensor],
    gradients: Sequence[Tensor | None],
    cell: str | Written,
    warn: Callable[[str], None],
) -> tuple[Any, Sequence[Any], Sequence[Any]]:
    """The gradients of a layer from batches of those of y and the final states, as torch.autograd puts them.

    Either torch.vmap is at work around torch.autograd.grad, or torch.autograd itself with is_grads_batched=True, whose
    tensors of batches are older than torch.func: nobody asks for a rule for these.
    """
    call = _Call(cell, warn, batch_sizes, len(state), len(weights), False)
    functorch = torch._C._functorch
    level = torch._C._vmapmode_increment_nesting() - 1
    torch._C._vmapmode_decrement_nesting()
    batched = [d is not None and functorch.is_legacy_batchedtensor(d) for d in gradients]
    pairs: list[Any] = list(zip(gradients, batched, strict=True))
    raw: list[Any] = [torch._remove_batch_dim(d, level, 1, 0) if its else d for d, its in pairs]
    tensors = [x, *state, *weights, *raw]
    if any(batched):
        count = next(len(d) for d, its in zip(raw, batched, strict=True) if its)
        axes = [None, *[None] * (1 + len(state) + len(weights)), *[0 if its else None for its in batched]]
        results, at = _Backward.batched(count, axes, call, *tensors)
        found = [
            r if axis is None else torch._add_batch_dim(r, axis, level) for r, axis in zip(results, at, strict=True)
        ]
    else:
        found = _Backward.apply(call, *tensors)
    dx, *others = found
    return dx, others[: len(state)], others[len(state) :]


def _split(call: _Call, tensors: Sequence[Any]) -> tuple[Any, Sequence[Any], Sequence[Any], Sequence[Any]]:
    """x, the states, the weights, and what else there is."""
    first, last = 1 + call.states, 1 + call.states + call.weights
    return tensors[0], tensors[1:first], tensors[first:last], tensors[last:]


def _as_members(
    cls: type[_Function], function: Callable[..., Sequence[Any]], call: _Call, tensors: Sequence[Any]
) -> Sequence[Any]:
    """What `cls` does, by a function that takes one group of rows: each group of each member is a member."""
    (given, found), E, sizes = cls.kinds(call), max(call.groups, 1), call.batch_sizes
    call = replace(call, members=True, groups=1, batch_sizes=None if sizes is None else sizes // E, kept=None)
    entered = []
    for kind, tensor in zip(given, tensors, strict=True):
        if tensor is not None and kind == ROWS:
            tensor = tensor.unflatten(-2, (tensor.shape[-2] // E, E))
        its = _enter(call, kind, tensor, {ROWS: -2, WEIGHTS: None, GROUPS: 1}[kind], E, True)
        entered.append(its.unsqueeze(1) if its is not None and kind == GROUPS else its)
    results = []
    for kind, result in zip(found, function(call, *entered), strict=True):
        its, _ = _leave(call, kind, result, E, True)
        if its is not None:  # (E, M, ...)
            its = its.movedim(0, -2).flatten(-3, -2) if kind == ROWS else its.transpose(0, 1).flatten(1, 2)
        results.append(its)
    return results


# ---- backward of backward


class _Second(_Function):
    """The gradients of all that `_Backward` takes, from those of what it returns; those of the weights by group."""

    @staticmethod
    def kinds(call: _Call) -> tuple[list[str], list[str]]:
        rows, weights, groups = [ROWS] * (1 + call.states), [WEIGHTS] * call.weights, [GROUPS] * call.weights
        return [*rows, *weights, *rows, *rows, *groups], [*rows, *groups, *rows]

    @staticmethod
    def forward(call: _Call, *tensors: Any) -> Any:
        return _Second.whole(call, *tensors)

    @staticmethod
    def run(call: _Call, *tensors: Any) -> Sequence[Any]:
        return _as_members(_Second, _second, call, tensors)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *incoming: Any) -> Any:
        raise NotImplementedError(
            "the kernels have no third derivative; expected at most the second: fastrnn.torch.restored"
        )


def _second(call: _Call, *tensors: Any) -> list[Any]:
    """`_Second` of one group of each member, one after the other."""
    cell: Any = call.cell  # a name: others have no second derivative
    its_call, count = second.Call(cell, call.warn, call.states, call.weights), 2 + 2 * call.states + call.weights
    each = []
    for m in range(len(tensors[0])):
        x, *others = list[Any](None if t is None else t[m] for t in tensors)
        for at in range(len(others) - call.weights, len(others)):
            others[at] = None if others[at] is None else others[at][0]  # the group
        found = second.Second.forward(its_call, second.Memory(), None, x, call.batch_sizes, *others)
        each.append([its if t is not None else None for its, t in zip(found, tensors[:count], strict=True)])
    stacked: list[Any] = [None if its[0] is None else torch.stack(its) for its in zip(*each, strict=True)]
    for at in range(1 + call.states, 1 + call.states + call.weights):
        stacked[at] = stacked[at].unsqueeze(1)
    return stacked


run_uncompiled(layer, array_of, backward_of_batches)
