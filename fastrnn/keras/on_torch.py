"""The kernels under Keras' torch backend: `fastrnn.torch`'s operator, which has a derivative."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from fastrnn.cells import Cell, WrittenCell
from fastrnn.keras.spec import FIELDS, Spec
from fastrnn.steps import Ragged
from fastrnn.torch.modules import Layers, why_not_here
from fastrnn.torch.operator import Written, is_traced, layer, why_no_tapes

__all__ = ["run", "why_not", "why_not_this_call"]


def why_not() -> str | None:
    """Why the kernels do not run here, or None."""
    return why_no_tapes()


def why_not_this_call(cell: Cell, x: Tensor) -> str | None:
    """Why they do not with an input such as x, or under what torch is in the middle of, or None."""
    if not (x.is_cpu or x.is_meta):
        return f"run on the CPU, not on {x.device}"
    if isinstance(cell, WrittenCell) and is_traced():
        return f"have no graph of the cell {cell.name}, which torch is tracing"
    return why_not_here()


def run(
    spec: Spec,
    x: Tensor,  # (N, T, I)
    mask: Tensor | None,  # (N, T)
    dropped: Tensor | None,  # (N, H), of the cell's dropout
    states: Sequence[Tensor],  # (N, H) each
    weights: Sequence[Tensor],  # in torch.nn's order and layout
    warn: Callable[[str], None],
) -> tuple[Tensor, list[Tensor]]:
    """y (N, T, H) and the final states."""
    if x.is_meta:  # Keras builds models so
        return x.new_empty((*x.shape[:2], states[0].shape[1])), list(states)
    cell = spec.cell
    named: str | Written = cell.name
    if isinstance(cell, WrittenCell):
        beside = () if dropped is None else (dropped.detach().numpy().copy(),)
        named = Written(cell, FIELDS[: len(weights)], [beside])
    if spec.go_backwards:
        x, mask = x.flip(1), None if mask is None else mask.flip(1)
    initial = [state[None] for state in states]
    if mask is None:
        y, states_n = layer(x.transpose(0, 1).contiguous(), None, initial, weights, named, warn)
        return y.transpose(0, 1), [state[0] for state in states_n]
    one = _OneLayer(named, len(initial), weights, warn)
    y, states_n = one._forward_runs(x, one.pair(initial), mask, "last" if spec.hold else "zero", None, None)
    return y, [state[0] for state in one.states_of(states_n)]


class _OneLayer(Layers):
    """A layer in the form that leaves masked steps out."""

    num_layers, batch_first, dropout, bidirectional = 1, True, 0.0, False

    def __init__(
        self, cell: str | Written, states: int, weights: Sequence[Tensor], warn: Callable[[str], None]
    ) -> None:
        super().__init__()
        self._cell, self._states, self._flat_weights, self._say = cell, states, list(weights), warn

    def _state_sizes(self) -> list[int]:
        return [self._flat_weights[1].shape[1]] * self._states

    def _layer_cell(self) -> str | Written:
        return self._cell

    def _warn(self, reason: str) -> None:
        self._say(reason)

    def _forward_packed(self, packed: PackedSequence, states: Sequence[Tensor], ragged: Ragged, beside: Any) -> Any:
        if isinstance(self._cell, Written):
            order = ragged.sources[0] % ragged.shape[1]
            self._cell = self._cell._replace(extra=[tuple([array[order] for array in its]) for its in self._cell.extra])
        return super()._forward_packed(packed, states, ragged, beside)

    def pair(self, states: Sequence[Tensor]) -> Any:
        """States as modules take and return them: one alone, or a tuple."""
        return tuple(states) if self._states > 1 else states[0]

    def states_of(self, hx: Any) -> Sequence[Tensor]:
        """The reverse of `pair`."""
        return hx if self._states > 1 else (hx,)

    def forward(self, rows: Any, hx: Any) -> Any:
        """Run the rows of a packed sequence."""
        y, states_n = self._run_input(rows, self.states_of(hx))
        return y, self.pair(states_n)
