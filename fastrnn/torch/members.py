"""The members of an ensemble, layers of one shape with weights of their own, as one problem.

Arrays have an axis of the members M before the others. One call of the kernels runs all of them (`fastrnn.groups`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastrnn import ops
from fastrnn.groups import Members, MembersOfHeads
from fastrnn.parameters import Array
from fastrnn.tangent import Links
from fastrnn.torch import operator

__all__ = ["Problem", "tensors"]


class Problem(operator._Problem):
    """M members: x (M, T, N, I) or (M, R, I), states (M, D, N, K), weights (M, ...)."""

    def __init__(
        self,
        x: Tensor,
        batch_sizes: Tensor | None,
        state: Sequence[Tensor],
        weights: Sequence[Tensor],
        cell: str | operator.Written,
    ) -> None:
        x, *others = map(_in_order, (x, *state, *weights))  # once, not again by the look at the first
        state, weights = others[: len(state)], others[len(state) :]
        # It looks at the first member, whose shapes are those of all.
        super().__init__(x[0], batch_sizes, [s[0] for s in state], [w[0] for w in weights], cell)
        kind = MembersOfHeads if isinstance(cell, operator.Written) and cell.heads > 1 else Members
        arrays = iter([_array(w, "a weight") for w in weights])
        self.x = _array(x, "x")
        states = list(map(_array, state, self.cell.states_0))
        self.states = [tuple([s[:, direction] for s in states]) for direction in range(self.directions)]
        self.weights = [kind._make(None if w is None else next(arrays) for w in its) for its in self.weights]

    def backward(
        self,
        y: Array,
        tapes: Sequence[Any],
        gradients: Sequence[Tensor | None],
        groups: int,
        of_x: bool,
        of_weights: bool,
    ) -> tuple[Tensor | None, list[Tensor], list[Tensor]]:
        """The gradients of x, the initial states and, (M, E, ...), the weights, from those of y and the final states.

        There are E `groups` of rows, of which a group has every E-th. The tapes are used up.
        """
        dy, *dstate_n = [None if d is None else operator._array(d, "a gradient") for d in gradients]
        dx: Array | None = None
        dstates_0, dweights = [], []
        for direction, (tape, part, its_y) in enumerate(zip(tapes, self.parts(dy), self.parts(y), strict=True)):
            dstate = tuple([None if d is None else d[:, direction] for d in dstate_n])
            if groups > 1 and of_weights:
                dx, dstate_0, da_x, da_h = ops.sums_backward(tape, part, dstate, dx, of_x)
                dweights += self._products(direction, its_y, da_x, da_h, groups)
            else:
                dx, dstate_0, its = ops.backward(tape, part, dstate, dx, of_x=of_x, of_weights=of_weights)
                dweights += [torch.from_numpy(w[:, None]) for w in its if w is not None]  # in torch.nn's order
            dstates_0.append(dstate_0)
        return torch.from_numpy(dx) if of_x else None, tensors(dstates_0), dweights if of_weights else []

    def _products(
        self, direction: int, y: Array, da_x: Sequence[Array], da_h: Sequence[Array], groups: int
    ) -> list[Tensor]:
        """The gradients of a direction's weights, in torch.nn's order, from those of its sums, (M, R, H) of each gate.

        The cell is one of CELLS, without a projection; y are the direction's own columns.
        """
        h_0, sizes = self.states[direction][0], self.batch_sizes
        M, N, P = h_0.shape
        rows, initial = _by_group(y.reshape(M, -1, P), groups), _by_group(h_0, groups)
        # Groups of rows are sequences of one length: their rows follow one another as those of one group do.
        links = Links.of(rows.shape[2], N // groups, None if sizes is None else sizes // groups, direction == 1)
        h_before = ops.empty(self.backend, rows.shape, rows.dtype)
        for to, source in links.carried:
            h_before[:, :, to] = rows[:, :, source]
        for to, sequences in links.begun:
            h_before[:, :, to] = initial[:, :, sequences]
        x = self._side_by_side([self.x.reshape(M, -1, self.x.shape[-1])], groups)
        d_x = self._side_by_side(da_x, groups)
        d_h = d_x if da_h is da_x else self._side_by_side(da_h, groups)
        pairs = (d_x, x), (d_h, torch.from_numpy(h_before))
        found = [
            torch.bmm(d.flatten(0, 1).mT, a.flatten(0, 1)).reshape(M, groups, d.shape[-1], a.shape[-1])
            for d, a in pairs
        ]
        if self.weights[direction].bias_ih is None:
            return found
        of_bias = [torch.from_numpy(np.add.reduce(d.numpy(), 2)) for d in ((d_x,) if d_h is d_x else (d_x, d_h))]
        return [*found, of_bias[0], of_bias[0].clone() if d_h is d_x else of_bias[1]]

    def _side_by_side(self, arrays: Sequence[Array], groups: int) -> Tensor:
        """Columns of arrays (M, R, K) next to one another, the rows of each group together: (M, E, R / E, sum of K).

        A product of strided rows takes up to 1.5 times as long: rows of one group are often a multiple of 4 KB apart.
        """
        parts = [_by_group(array, groups) for array in arrays]
        shape = (*parts[0].shape[:3], sum([part.shape[3] for part in parts]))
        found = ops.empty(self.backend, shape, parts[0].dtype)
        at = 0
        for part in parts:
            found[..., at : at + part.shape[3]] = part
            at += part.shape[3]
        return torch.from_numpy(found)


def _is_shared(tensor: Tensor) -> bool:
    """Whether one member is all of them."""
    return len(tensor) > 1 and tensor.stride(0) == 0


def _in_order(tensor: Tensor) -> Tensor:
    """The tensor with members that are C-contiguous; a member that is all of them is there once."""
    if _is_shared(tensor):
        return tensor[:1].contiguous().expand(tensor.shape)
    return tensor.contiguous()


def _array(tensor: Tensor, name: str) -> Array:
    """Such a tensor as an array."""
    if _is_shared(tensor):
        return np.broadcast_to(operator._array(tensor[:1], name), tensor.shape)
    return operator._array(tensor, name)


def _by_group(rows: Array, groups: int) -> Array:
    """Rows (M, R, K), of which a group has every E-th, by group: (M, E, R / E, K)."""
    M, R, K = rows.shape
    return rows.reshape(M, R // groups, groups, K).swapaxes(1, 2)


def tensors(states: Sequence[Sequence[Array]]) -> list[Tensor]:
    """States by direction, (M, N, K) each, as those of both, (M, D, N, K)."""
    return [s.transpose(0, 1) for s in operator._tensors(states)]  # type: ignore[arg-type]
