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

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch._C._functorch import TransformType, get_interpreter_stack, get_unwrapped, is_functorch_wrapped_tensor
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack
from torch.autograd import forward_ad

from fastrnn import ops
from fastrnn.parameters import Array
from fastrnn.torch import operator
from fastrnn.torch.operator import Written, run_uncompiled

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
    """`fastrnn.torch.operator.layer`, under transforms too."""
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
    call = _Call(cell, warn, batch_sizes, len(state), len(weights), any(map(_wants_gradient, tensors)))
    y, *state_n, _ = _Forward.apply(call, *[t[None] for t in tensors])  # type: ignore[no-untyped-call]
    return y[0], [s[0] for s in state_n]


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
    groups: int = 1  # E
    of_x: bool = True  # whether backward is to give its gradient
    of_weights: bool = True  # and theirs
    kept: Any = None  # for backward, what forward kept


# ---- a level of vmap

ROWS, WEIGHTS, GROUPS = "rows", "weights", "groups"  # what the axes of a tensor are, as in the docstring above


def _enter(kind: str, tensor: Tensor | None, at: int | None, count: int, members: bool) -> Tensor | None:
    """Make the axis that a level maps over, or a new one, a part of that of the members, rows or groups."""
    if tensor is None or (kind == WEIGHTS and not members):
        return tensor
    if members:
        return (tensor.expand(count, *tensor.shape) if at is None else tensor.movedim(at, 0)).flatten(0, 1)
    axis = 1 if kind == GROUPS else tensor.dim() - 2 - (at is not None)
    if at is None:
        tensor = tensor.unsqueeze(axis + 1).expand(*tensor.shape[: axis + 1], count, *tensor.shape[axis + 1 :])
    else:
        tensor = tensor.movedim(at, axis + 1)
    return tensor.flatten(axis, axis + 1)


def _leave(kind: str, tensor: Any, count: int, members: bool) -> tuple[Any, int | None]:
    """The inverse of `_enter`, with the axis that is mapped over."""
    if not isinstance(tensor, Tensor):
        return tensor, None
    if members:
        return tensor.reshape(count, tensor.shape[0] // count, *tensor.shape[1:]), 0
    axis = 1 if kind == GROUPS else tensor.dim() - 2
    shape = (*tensor.shape[:axis], tensor.shape[axis] // count, count, *tensor.shape[axis + 1 :])
    return tensor.reshape(shape), axis + 1


class _Function(torch.autograd.Function):
    """What `_Forward`, `_Backward` and `_Second` share: a rule for vmap. The first argument is the `_Call`."""

    @staticmethod
    def kinds(call: _Call) -> tuple[list[str], list[str]]:
        """Of the tensors that it takes, and of what it returns."""
        raise NotImplementedError

    @classmethod
    def vmap(cls, info: Any, in_dims: Any, call: _Call, *tensors: Any) -> Any:
        """One level of vmap."""
        given, found = cls.kinds(call)
        count, axes = info.batch_size, in_dims[1:]
        members = any(at is not None for kind, at in zip(given, axes, strict=True) if kind == WEIGHTS)
        sizes = call.batch_sizes
        if not members:
            call = replace(call, groups=call.groups * count, batch_sizes=None if sizes is None else sizes * count)
        entered = [_enter(*each, count, members) for each in zip(given, tensors, axes, strict=True)]
        results = [
            _leave(kind, result, count, members)
            for kind, result in zip(found, cls.apply(call, *entered), strict=True)  # type: ignore[no-untyped-call]
        ]
        return tuple(result for result, _ in results), tuple(at for _, at in results)


# ---- forward


class _Kept:
    """What forward keeps of each member: the problem, y and the tapes, until a backward takes them."""

    def __init__(self, sequences: int) -> None:
        self.members: list[Any] = []
        self.sequences = sequences

    def take(self, members: int, sequences: int) -> list[Any]:
        """Those of as many members and sequences, once; else nothing: they are not those of this backward."""
        taken, self.members = self.members, []
        return taken if len(taken) == members and self.sequences == sequences else []


class _Forward(_Function):
    """From x, the initial states and the weights to y, the final states and what is kept."""

    @staticmethod
    def kinds(call: _Call) -> tuple[list[str], list[str]]:
        return [ROWS] * (1 + call.states) + [WEIGHTS] * call.weights, [ROWS] * (2 + call.states)

    @staticmethod
    def forward(call: _Call, x: Tensor, *tensors: Tensor) -> Any:
        state, weights = tensors[: call.states], tensors[call.states :]
        kept, outputs = _Kept(state[0].shape[2]), []
        for problem in _problems(call, x, state, weights):
            y, state_n, tapes = problem.run(call.keep)
            outputs.append([torch.from_numpy(y), *operator._tensors(state_n)])
            if call.keep:
                kept.members.append((problem, y, tapes))
        y, *states_n = _together(outputs)
        if len(outputs) == 1 and call.keep:
            y = y.clone()  # the tape reads it: users get a copy
        return y, *states_n, kept

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
        call = replace(ctx.call, groups=1, of_x=wanted[0], of_weights=of_weights, kept=ctx.kept)
        found = _Backward.apply(call, *ctx.saved_tensors, *gradients)  # type: ignore[no-untyped-call]
        dweights = [None if d is None else d[:, 0] for d in found[1 + call.states :]]
        return None, *found[: 1 + call.states], *dweights


def _problems(call: _Call, x: Tensor, state: Sequence[Tensor], weights: Sequence[Tensor]) -> list[Any]:
    """One for each member. They run one after the other."""
    return [
        operator._Problem(x[m], call.batch_sizes, [s[m] for s in state], [w[m] for w in weights], call.cell)
        for m in range(len(x))
    ]


def _together(results: Sequence[Sequence[Any]]) -> list[Any]:
    """The results of members as those of all, (M, ...) each; None where there are none."""
    if len(results) == 1:
        return [None if r is None else r[None] for r in results[0]]
    return [None if parts[0] is None else torch.stack(parts) for parts in zip(*results, strict=True)]


# ---- backward


class _Backward(_Function):
    """The gradients of all that `_Forward` takes, from those of y and the final states, which may be None."""

    @staticmethod
    def kinds(call: _Call) -> tuple[list[str], list[str]]:
        rows, weights = [ROWS] * (1 + call.states), [WEIGHTS] * call.weights
        return [*rows, *weights, *rows], [*rows, *[GROUPS] * call.weights]

    @staticmethod
    def forward(call: _Call, *tensors: Any) -> Any:
        x, state, weights, gradients = _split(call, tensors)
        projected = call.weights // state[0].shape[1] % 2 == 1
        if call.groups > 1 and call.of_weights and (projected or isinstance(call.cell, Written)):
            return _group_by_group(call, _gradients_anew, tensors, _Backward.kinds(call))
        fresh: list[tuple[Any, Array, list[ops.Tape]]] = call.kept.take(len(x), state[0].shape[2])
        if not fresh:
            for problem in _problems(call, x, state, weights):
                y, _, tapes = problem.run(True)
                fresh.append((problem, y, tapes))
        found = []
        for m, (problem, y, tapes) in enumerate(fresh):
            found.append(_gradients(call, problem, y, tapes, [None if d is None else d[m] for d in gradients]))
        return tuple(_together(found))

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.call, *tensors = inputs
        ctx.save_for_backward(*tensors)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *incoming: Any) -> Any:
        call = ctx.call
        if not isinstance(call.cell, str):
            raise NotImplementedError(f"the cell {call.cell.cell.name} has no derivative of its derivative")
        call.warn(operator.CREATE_GRAPH)
        found = list(_Second.apply(replace(call, kept=None), *ctx.saved_tensors, *incoming))  # type: ignore[no-untyped-call]
        first = 1 + call.states
        for at in range(first, first + call.weights):
            found[at] = None if found[at] is None else found[at].sum(1)  # those of this level share the weights
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
    call = _Call(cell, warn, batch_sizes, len(state), len(weights), False, kept=_Kept(-1))
    functorch = torch._C._functorch
    level = torch._C._vmapmode_increment_nesting() - 1
    torch._C._vmapmode_decrement_nesting()
    batched = [d is not None and functorch.is_legacy_batchedtensor(d) for d in gradients]
    pairs: list[Any] = list(zip(gradients, batched, strict=True))
    raw: list[Any] = [torch._remove_batch_dim(d, level, 1, 0) if its else d for d, its in pairs]
    given = [None if t is None else t.unsqueeze(int(its)) for t, its in zip(raw, batched, strict=True)]  # the axis M
    tensors = [*[t[None] for t in (x, *state, *weights)], *given]
    if any(batched):
        count = next(len(d) for d, its in zip(raw, batched, strict=True) if its)
        axes = [None, *[None] * (1 + len(state) + len(weights)), *[0 if its else None for its in batched]]
        results, at = _Backward.vmap(_Info(count), axes, call, *tensors)
        found = [
            r if axis is None else torch._add_batch_dim(r, axis, level) for r, axis in zip(results, at, strict=True)
        ]
    else:
        found = _Backward.apply(call, *tensors)  # type: ignore[no-untyped-call]
    dx, *others = [None if r is None else r[0] for r in found]
    return dx, others[: len(state)], [None if d is None else d[0] for d in others[len(state) :]]


class _Info(NamedTuple):
    """What torch.func says of a level."""

    batch_size: int


def _split(call: _Call, tensors: Sequence[Any]) -> tuple[Any, Sequence[Any], Sequence[Any], Sequence[Any]]:
    """x, the states, the weights, and what else there is."""
    first, last = 1 + call.states, 1 + call.states + call.weights
    return tensors[0], tensors[1:first], tensors[first:last], tensors[last:]


def _gradients(
    call: _Call, problem: Any, y: Array, tapes: Sequence[ops.Tape], gradients: Sequence[Tensor | None]
) -> list[Tensor | None]:
    """Those of x, the initial states and, (E, ...), the weights of one member."""
    dy, *dstate_n = [None if d is None else operator._array(d, "a gradient") for d in gradients]
    dx: Array | None = None
    dstates_0, dweights = [], []
    for direction, (tape, part, its_y) in enumerate(zip(tapes, problem.parts(dy), problem.parts(y), strict=True)):
        dstate = tuple([None if d is None else d[direction] for d in dstate_n])
        if call.groups > 1 and call.of_weights:
            dx, dstate_0, da_x, da_h = ops.sums_backward(tape, part, dstate, dx, call.of_x)
            dweights += _products(problem, direction, its_y, da_x, da_h, call.groups)
        else:
            dx, dstate_0, its = ops.backward(tape, part, dstate, dx, of_x=call.of_x, of_weights=call.of_weights)
            dweights += [torch.from_numpy(w[None]) for w in its if w is not None]
        dstates_0.append(dstate_0)
    found = dweights if call.of_weights else [None] * call.weights
    return [torch.from_numpy(dx) if call.of_x else None, *operator._tensors(dstates_0), *found]


def _products(problem: Any, direction: int, y: Array, da_x: Array, da_h: Array, groups: int) -> list[Tensor]:
    """The gradients of a direction's weights (E, ...), in torch.nn's order, from those of its sums, (R, G*H) each.

    The cell is one of CELLS, without a projection; y are the direction's own columns.
    """
    h_0, rows, sizes = problem.states[direction][0], [problem.x, y, da_x, da_h], problem.batch_sizes
    T, N = len(problem.x) if sizes is None else len(sizes), len(h_0)
    there = np.full((T, N), True) if sizes is None else np.arange(N) < sizes[:, None]
    if sizes is not None:  # rows that are not there are zeros
        rows = [_spread(array, there) for array in rows]
    x, y, da_x, da_h = [array.reshape(T, N, -1) for array in rows]
    if direction == 0:
        h_before = np.concatenate([h_0[None], y[:-1]])
    else:  # where the step after it is not there, a step is a sequence's first
        h_before = np.where(np.concatenate([there[1:], there[:1] & False])[..., None], np.roll(y, -1, 0), h_0)
    # (T, N, K) as (E, T * N / E, K)
    x, h, d_x, d_h = [
        torch.from_numpy(a.reshape(-1, groups, a.shape[-1])).transpose(0, 1) for a in (x, h_before, da_x, da_h)
    ]
    found = [torch.bmm(d_x.mT, x), torch.bmm(d_h.mT, h)]
    return found if problem.weights[direction].bias_ih is None else [*found, d_x.sum(1), d_h.sum(1)]


def _spread(rows: Array, there: Array) -> Array:
    """Rows at the places, in order, that there are; zeros at the others."""
    spread = np.zeros((*there.shape, rows.shape[-1]), rows.dtype)
    spread[there] = rows
    return spread


def _group_by_group(
    call: _Call, function: Callable[..., Sequence[Any]], tensors: Sequence[Any], kinds: tuple[list[str], list[str]]
) -> tuple[Any, ...]:
    """Call a function on the tensors of each member and of each group of rows, and put together what it returns."""
    members, sizes, E = len(tensors[0]), call.batch_sizes, call.groups
    its_call = replace(call, groups=1, batch_sizes=None if sizes is None else sizes // E)
    of_members = []
    for m in range(members):
        of_groups = []
        for e in range(E):
            part = {ROWS: (..., slice(e, None, E), slice(None)), WEIGHTS: (), GROUPS: (e,)}
            its = [None if t is None else t[m][part[kind]] for kind, t in zip(kinds[0], tensors, strict=True)]
            of_groups.append(function(its_call, *its))
        of_members.append(
            [
                None if its[0] is None else torch.stack(its, -2).flatten(-3, -2) if kind == ROWS else torch.stack(its)
                for kind, its in zip(kinds[1], zip(*of_groups, strict=True), strict=True)
            ]
        )
    return tuple(_together(of_members))


def _gradients_anew(call: _Call, *tensors: Any) -> list[Tensor | None]:
    """As `_gradients`, of one group of a member, whose forward runs again; those of the weights without the axis E."""
    x, state, weights, gradients = _split(call, tensors)
    problem = operator._Problem(x, call.batch_sizes, state, weights, call.cell)
    y, _, tapes = problem.run(True)
    dx, *others = _gradients(call, problem, y, tapes, gradients)
    dstate_0, dweights = others[: call.states], others[call.states :]
    return [dx, *dstate_0, *[None if d is None else d[0] for d in dweights]]


# ---- backward of backward


class _Second(_Function):
    """The gradients of all that `_Backward` takes, from those of what it returns; those of the weights by group."""

    @staticmethod
    def kinds(call: _Call) -> tuple[list[str], list[str]]:
        rows, weights, groups = [ROWS] * (1 + call.states), [WEIGHTS] * call.weights, [GROUPS] * call.weights
        return [*rows, *weights, *rows, *rows, *groups], [*rows, *groups, *rows]

    @staticmethod
    def forward(call: _Call, *tensors: Any) -> Any:
        return _group_by_group(call, _second, tensors, _Second.kinds(call))

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *incoming: Any) -> Any:
        raise NotImplementedError(
            "the kernels have no third derivative; expected at most the second: fastrnn.torch.restored"
        )


def _second(call: _Call, *tensors: Any) -> list[Tensor | None]:
    """`_Second` of one member and one group, by torch's own layer."""
    count = 2 + 2 * call.states + call.weights
    given, incoming = tensors[:count], tensors[count:]
    leaves = [None if t is None else t.detach().requires_grad_() for t in given]
    x, state, weights, (dy, *dstate_n) = _split(call, leaves)
    with torch.enable_grad():
        cell: Any = call.cell  # a name: others have no second derivative
        dx, dstate_0, dweights = operator._torchs_backward(x, call.batch_sizes, state, weights, dy, dstate_n, cell)
    pairs = [
        (out, d)
        for out, d in zip((dx, *dstate_0, *dweights), incoming, strict=True)
        if out is not None and d is not None and out.requires_grad
    ]
    there = [leaf for leaf in leaves if leaf is not None]
    found = iter(
        torch.autograd.grad([out for out, _ in pairs], there, [d for _, d in pairs], allow_unused=True)
        if pairs
        else [None] * len(there)
    )
    return [None if leaf is None else _or_zeros(next(found), leaf) for leaf in leaves]


def _or_zeros(gradient: Tensor | None, leaf: Tensor) -> Tensor:
    return torch.zeros_like(leaf) if gradient is None else gradient


run_uncompiled(layer, array_of, backward_of_batches)
