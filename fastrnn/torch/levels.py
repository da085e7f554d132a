"""Functions of autograd under torch.func's transforms, which are levels: each call peels off one after the other.

`torch.autograd.Function.apply` does so too. But it makes a class for each level of vjp, and trees of all that is given
and returned for every level, which takes several times as long as the forward and backward of a small layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import TransformType
from torch._functorch.pyfunctorch import retrieve_current_functorch_interpreter
from torch._functorch.utils import enable_single_level_autograd_function
from torch.autograd import forward_ad
from torch.autograd.forward_ad import _set_fwd_grad_enabled

from fastrnn.torch.operator import run_uncompiled

__all__ = ["Function"]

functorch = torch._C._functorch


class Function(torch.autograd.Function):
    """One of the kind that has `setup_context`, whose arguments and results are tensors or anything, in no trees.

    The first argument is no tensor, and no tensor that it returns was given to it.
    """

    @classmethod
    def apply(cls: Any, *given: Any) -> Any:
        """Call it."""
        given = tuple([functorch.unwrap_if_dead(each) if isinstance(each, Tensor) else each for each in given])
        if functorch.peek_interpreter_stack() is None:
            recorded = torch.is_grad_enabled() and any(isinstance(t, Tensor) and t.requires_grad for t in given)
            if recorded or forward_ad._current_level >= 0:
                # Torch's own binds default arguments first, for some 20 us.
                return super(torch.autograd.Function, cls).apply(*given)  # type: ignore[misc]
            with torch.no_grad():
                return cls.forward(*given)
        level: Any = retrieve_current_functorch_interpreter()
        if level.key() == TransformType.Vmap:
            return cls._mapped(level, given)
        lift = level._cptr.lift
        with enable_single_level_autograd_function():
            lifted = [lift(each) if isinstance(each, Tensor) else each for each in given[1:]]
            return _Level.apply((cls, level, given[0]), *lifted)  # type: ignore[attr-defined]

    @classmethod
    def batched(cls, count: int, axes: Sequence[int | None], *given: Any) -> tuple[Sequence[Any], Sequence[int | None]]:
        """The rule for vmap: call it on all of a batch; also returns which axis of a result is the batch's, if any.

        `axes` says which one it is of what is given.
        """
        raise NotImplementedError

    @classmethod
    def _mapped(cls, level: Any, given: Sequence[Any]) -> Any:
        """`apply`, the uppermost level being one of vmap."""
        at = level.level()
        pairs = [functorch._unwrap_batched(each, at) if isinstance(each, Tensor) else (each, None) for each in given]
        with level.lower():
            if all(axis is None for _, axis in pairs):
                return cls.apply(*given)
            found, axes = cls.batched(level.batch_size(), [axis for _, axis in pairs], *[each for each, _ in pairs])
        return tuple(
            [
                each if axis is None else functorch._add_batch_dim(each, axis, at)
                for each, axis in zip(found, axes, strict=True)
            ]
        )


class _Level(torch.autograd.function._SingleLevelFunction):
    """A `Function` on a level of grad, vjp or jvp; with its first argument comes which one, and the level."""

    @staticmethod
    def forward(its: tuple[type[Function], Any, Any], *given: Any) -> Any:
        function, level, first = its
        at = level.level()
        unwrapped = [functorch._unwrap_for_grad(each, at) if isinstance(each, Tensor) else each for each in given]
        # Within a function of autograd nothing is recorded; but for what is below this is none.
        with torch.enable_grad(), _set_fwd_grad_enabled(True), level.lower():
            found = function.apply(first, *unwrapped)
        return tuple([functorch._wrap_for_grad(each, at) if isinstance(each, Tensor) else each for each in found])

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        (ctx.function, _, first), *given = inputs
        ctx.function.setup_context(ctx, (first, *given), output)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return ctx.function.backward(ctx, *gradients)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        return ctx.function.jvp(ctx, *tangents)


run_uncompiled(Function.apply, Function._mapped)
