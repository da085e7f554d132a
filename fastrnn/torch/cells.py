"""torch.nn's LSTMCell, GRUCell and RNNCell: single steps, on the kernels where these are faster."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from fastrnn import ops
from fastrnn.cells import CELLS
from fastrnn.torch import operator
from fastrnn.torch.modules import PLAIN, may_be_freed, prepare_scriptable, why_not_transformed
from fastrnn.torch.operator import DTYPES, is_traced, run_uncompiled, why_no_tapes
from fastrnn.torch.transforms import layer

__all__ = ["Cell", "GRUCell", "LSTMCell", "RNNCell"]


class Cell(torch.nn.RNNCellBase):
    """The forward of all three; what is next after it is torch's class of the same name.

    A step may take ten microseconds. So all that is not plain is torch's, in silence: compiling, tracing, hooks,
    parametrizations, other dtypes and devices; but transforms of torch.func, for which torch has no rule.
    """

    _states = 1

    def forward(self, input: Tensor, hx: Any = None) -> Any:
        """Take a step, with the arguments, results and errors of torch.nn."""
        taped = torch.is_grad_enabled()
        if torch.compiler.is_compiling() or not isinstance(input, Tensor):
            return super().forward(input, hx)
        transformed = torch._C._are_functorch_transforms_active()
        if not transformed and not self._is_faster(input.shape[0] if input.dim() == 2 else 1, taped):
            return self._run_torchs(input, hx)
        lstm, weights = self._states == 2, [p for p in self._parameters.values() if p is not None]
        if hx is None and input.dim() in (1, 2):
            zeros = input.new_zeros((*input.shape[:-1], self.hidden_size))
            hx = (zeros, zeros) if lstm else zeros
        states = hx if lstm else (hx,)
        if not self._fits(input, states, weights, taped):
            return super().forward(input, hx)
        if transformed:
            state_n = _step_of_layer(self._name(), self._warn, input, states, weights)
        elif taped:
            state_n = operator.apply(_Step, self._name(), self._warn, len(states), tensors=(input, *states, *weights))
        else:
            state_n, _ = _step(self._name(), input, states, weights, False)
        return state_n if lstm else state_n[0]

    def _run_torchs(self, x: Tensor, hx: Any) -> Any:
        """The step by torch.nn's operator, at once where everything is plain, which saves a fifth of a small step."""
        parameters = self._parameters
        plain = x.dim() == 2 and "weight_ih" in parameters and "weight_hh" in parameters and len(parameters) == 4
        for h in hx if isinstance(hx, tuple) else (hx,):
            plain = plain and isinstance(h, Tensor) and h.dim() == 2
        if not plain or isinstance(hx, tuple) != (self._states == 2):
            return super().forward(x, hx)
        weights = [parameters[name] for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
        return getattr(torch, f"{self._name()}_cell")(x, hx, *weights)

    def _fits(self, x: Any, states: Any, weights: Sequence[Tensor], taped: bool) -> bool:
        """Whether the kernels take a step like this."""
        if not isinstance(states, (tuple, list)) or (dtype := x.dtype) not in DTYPES:
            return False
        axes, dense = x.dim(), torch.strided
        for t in (x, *states, *weights):
            if type(t) not in PLAIN or t.dtype is not dtype or not t.is_cpu or t.layout is not dense:
                return False
        if axes not in (1, 2) or x.shape[-1] != self.input_size or len(weights) != (4 if self.bias else 2):
            return False
        batch = x.shape[0] if axes == 2 else 1
        shape = (batch, self.hidden_size) if axes == 2 else (self.hidden_size,)
        if batch == 0 or any(s.shape != shape for s in states) or len(states) != self._states:
            return False
        if torch.is_autocast_enabled("cpu") or is_traced() or why_not_transformed() or why_no_tapes() or may_be_freed():
            return False
        return not taped or torch._C._autograd._top_saved_tensors_default_hooks(True) is None

    def _is_faster(self, batch: int, taped: bool) -> bool:
        """Whether a step takes less time than torch's; figures are of float32 on Zen 3, one thread, torch's / ours."""
        raise NotImplementedError

    def _name(self) -> str:
        """The cell, as of `fastrnn.cells.CELLS`."""
        raise NotImplementedError

    def _warn(self, reason: str) -> None:
        """Say nothing: cells run on torch's operators wherever these are better."""

    def __prepare_scriptable__(self) -> Any:
        """What torch.jit.script compiles, and puts into the model: this very module, as torch's."""
        return prepare_scriptable(self)


class LSTMCell(Cell, torch.nn.LSTMCell):
    """torch.nn.LSTMCell on fastrnn's kernels.

    A step runs there in inference of a batch, and with backward, where it takes less time than torch.nn's operator. All
    else runs on that operator, which is called without the module's own looks.

    Examples
    --------
    >>> import torch, fastrnn.torch
    >>> cell = fastrnn.torch.LSTMCell(10, 20)
    >>> h, c = cell(torch.zeros(3, 10))
    >>> h, c = cell(torch.zeros(3, 10), (h, c))
    >>> h.shape, c.shape
    (torch.Size([3, 20]), torch.Size([3, 20]))
    """

    _states = 2

    def _name(self) -> str:
        return "lstm"

    def _is_faster(self, batch: int, taped: bool) -> bool:
        if taped:
            return batch > 1 or self.hidden_size < 128  # N 1: H 128 0.93, H 256 0.84; others 0.95 to 1.2
        return batch * self.hidden_size >= 2048  # N 8, H 64: 0.84; N 32, H 128: 1.11


class GRUCell(Cell, torch.nn.GRUCell):
    """torch.nn.GRUCell on fastrnn's kernels; see `LSTMCell`. Large ones are trained on torch's.

    Examples
    --------
    >>> import torch, fastrnn.torch
    >>> fastrnn.torch.GRUCell(10, 20)(torch.zeros(3, 10)).shape
    torch.Size([3, 20])
    """

    def _name(self) -> str:
        return "gru"

    def _is_faster(self, batch: int, taped: bool) -> bool:
        if taped:
            # N 1, H 256: 0.92; N 32, H 128: 0.9; smaller ones 1.02 to 1.24
            return batch * self.hidden_size * (self.input_size + self.hidden_size) < 1 << 17
        return batch * self.hidden_size >= 512  # N 1: 0.88 to 0.97; N 8, H 64: 1.1


class RNNCell(Cell, torch.nn.RNNCell):
    """torch.nn.RNNCell on torch's operator; on fastrnn's kernels under the transforms of torch.func.

    Examples
    --------
    >>> import torch, fastrnn.torch
    >>> fastrnn.torch.RNNCell(10, 20)(torch.zeros(3, 10)).shape
    torch.Size([3, 20])
    """

    def _name(self) -> str:
        return f"rnn_{self.nonlinearity}"

    def _is_faster(self, batch: int, taped: bool) -> bool:
        return False  # inference 0.6 to 0.97, training 0.94 to 1.01


def _step(
    cell: str, x: Tensor, state: Sequence[Tensor], weights: Sequence[Tensor], keep: bool
) -> tuple[tuple[Tensor, ...], ops.Tape | None]:
    """The next states and, if it is to be kept, the tape."""
    backend, num_threads = ops.choose(None, torch.get_num_threads())
    arrays = [operator._array(t, name) for t, name in zip((x, *state), ("x", *CELLS[cell].states_0), strict=True)]
    rows = [a[None, None] if a.ndim == 1 else a[None] for a in arrays]
    given = (rows[0], tuple([r[0] for r in rows[1:]]), operator._weights(weights), num_threads)
    tape = None
    if keep:
        _, state_n, tape = ops.forward(backend, CELLS[cell], *given)
    else:
        _, state_n = ops.run(backend, CELLS[cell], *given)
    return tuple([torch.from_numpy(s if arrays[0].ndim == 2 else s[0]) for s in state_n]), tape


class _Step(torch.autograd.Function):
    """A step for autograd."""

    @staticmethod
    def forward(
        ctx: Any, cell: str, warn: Callable[[str], None], states: int, x: Tensor, *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        state_n, tape = _step(cell, x, tensors[:states], tensors[states:], True)
        ctx.save_for_backward(x, *tensors)
        ctx.set_materialize_grads(False)
        ctx.fresh, ctx.cell, ctx.warn, ctx.states = [tape], cell, warn, states
        return state_n

    @staticmethod
    def backward(ctx: Any, *dstate_n: Tensor | None) -> tuple[Any, ...]:
        x, *tensors = ctx.saved_tensors
        plain = not (torch.is_grad_enabled() or is_traced() or operator._are_batched(*dstate_n))
        try:
            tape = ctx.fresh.pop() if plain else None  # at once: another thread may run backward too
        except IndexError:
            tape = None
        if tape is None:
            return None, None, None, *_backward_of_layer(ctx, x, tensors, dstate_n)
        arrays = [None if d is None else operator._array(d, "the gradient of a state") for d in dstate_n]
        if x.dim() == 1:
            arrays = [None if d is None else d[None] for d in arrays]
        dx, dstate_0, dweights = ops.backward(tape, None, tuple(arrays), of_x=ctx.needs_input_grad[3])
        rows = [dx if dx is None else dx[0], *dstate_0]
        gradients = [None if d is None else torch.from_numpy(d if x.dim() == 2 else d[0]) for d in rows]
        return None, None, None, *gradients, *[torch.from_numpy(w) for w in dweights if w is not None]


def _step_of_layer(
    cell: str, warn: Callable[[str], None], x: Tensor, state: Sequence[Tensor], weights: Sequence[Tensor]
) -> tuple[Tensor, ...]:
    """The next states, by a layer of one step."""
    rows = [t[None, None] if x.dim() == 1 else t[None] for t in (x, *state)]
    _, state_n = layer(rows[0], None, rows[1:], weights, cell, warn)
    return tuple([s[0, 0] if x.dim() == 1 else s[0] for s in state_n])


def _backward_of_layer(
    ctx: Any, x: Tensor, tensors: Sequence[Tensor], dstate_n: Sequence[Tensor | None]
) -> list[Tensor | None]:
    """The gradients by a layer of one step, which does all that autograd may ask for."""
    recorded = torch.is_grad_enabled()
    with torch.enable_grad():
        # Aliases, since what led from one of these to another is not part of this step.
        leaves = [t.view_as(t) for t in (x, *tensors)]
        state, weights = leaves[1 : 1 + ctx.states], leaves[1 + ctx.states :]
        outputs = _step_of_layer(ctx.cell, ctx.warn, leaves[0], state, weights)
    pairs = [(out, d) for out, d in zip(outputs, dstate_n, strict=True) if d is not None]
    wanted = [t for t in leaves if t.requires_grad]
    found = iter(
        torch.autograd.grad(
            [out for out, _ in pairs], wanted, [d for _, d in pairs], create_graph=recorded, allow_unused=True
        )
    )
    return [next(found) if t.requires_grad else None for t in leaves]


run_uncompiled(_Step.backward)
