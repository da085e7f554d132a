"""Layers of a cell that a user wrote, as a module of torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from fastrnn import modules
from fastrnn.cells import WrittenCell
from fastrnn.checks import shown
from fastrnn.extra import Beside, Given, Random, named
from fastrnn.parameters import Array
from fastrnn.steps import Ragged
from fastrnn.torch.modules import Layers, why_not_transformed
from fastrnn.torch.operator import DTYPES, Written, is_traced, run_uncompiled

__all__ = ["Recurrent"]


class _Plan(modules.Recurrent):
    """Sizes, names and shapes, seen to be right; of a module that has no arrays."""

    shapes: Mapping[str, tuple[int, ...]]

    def _draw(self, shapes: Mapping[str, tuple[int, ...]], seed: Any) -> np.random.Generator:
        self.shapes = shapes
        self._parameters: Any = {}
        return np.random.default_rng(0)


class Recurrent(Layers):
    """Layers of any cell that `fastrnn.cell` has made, as a module of torch on fastrnn's kernels.

    It is `fastrnn.Recurrent` on tensors: the same parameters under the same names, and the same numbers; and it is
    called, trained and put into models as torch.nn.LSTM is. There is a gradient into x, the states and every parameter.
    It takes float32 and float64 on the CPU, and up to `torch.get_num_threads()` threads.

    `fastrnn.Recurrent.load_state_dict` takes its ``state_dict()``; the way back is through `torch.from_numpy` of each
    array.

    torch has no layer of its own to leave the rest to: other devices and dtypes, a gradient of a gradient, torch.func's
    transforms, torch.export and torch.jit are errors. torch.compile runs the module as it is, between two graphs.

    Parameters
    ----------
    cell
        From `fastrnn.cell`, or one of `fastrnn.cells`.
    input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, proj_size
        As of `fastrnn.Recurrent`; dropout is between the layers, where the module is in training mode.
    noise
        As of `fastrnn.Recurrent`: of a cell with dropout or zoneout of its own, how often that strikes in training
        mode. torch.manual_seed settles what is drawn.
    heads
        As of `fastrnn.Recurrent`: into how many blocks the recurrent product is cut.
    device, dtype
        Of the parameters: torch.float32 or torch.float64.

    Raises
    ------
    TypeError
        If `cell` is none, or another argument of a wrong type.
    ValueError
        If a size is wrong, or the cell cannot have a projection, or heads.

    Examples
    --------
    >>> import torch, fastrnn, fastrnn.torch
    >>> from fastrnn.cells import sigmoid, tanh
    >>> @fastrnn.cell(gates="f n", states="h")
    ... def minimal(a, prev):
    ...     return prev.h + sigmoid(a.f) * (tanh(a.n) - prev.h)
    >>> rnn = fastrnn.torch.Recurrent(minimal, 8, 32)
    >>> y, h_n = rnn(torch.zeros(100, 16, 8))
    >>> y.sum().backward()
    >>> y.shape, h_n.shape, rnn.weight_ih_l0.grad.shape
    (torch.Size([100, 16, 32]), torch.Size([1, 16, 32]), torch.Size([64, 8]))
    """

    def __init__(
        self,
        cell: WrittenCell,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: Any = None,
        dtype: Any = None,
        noise: Any = None,
        heads: int = 1,
    ) -> None:
        super().__init__()
        dtype = torch.get_default_dtype() if dtype is None else dtype
        if dtype not in DTYPES:
            raise TypeError(f"dtype is {shown(dtype)}; expected torch.float32 or torch.float64")
        sizes = (input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, proj_size)
        plan = _Plan(cell, *sizes, heads=heads, noise=noise)
        self.noise, self._rates = plan.noise, plan._rates
        self.cell = cell
        self.input_size, self.hidden_size, self.num_layers = plan.input_size, plan.hidden_size, plan.num_layers
        self.bias, self.batch_first, self.dropout = plan.bias, plan.batch_first, plan.dropout
        self.bidirectional, self.proj_size, self.heads = plan.bidirectional, plan.proj_size, plan.heads
        self._names = list(plan.shapes)
        self._written = Written(cell, tuple(plan._names(0, 0)), heads=plan.heads)
        for name, shape in plan.shapes.items():
            self.register_parameter(name, torch.nn.Parameter(torch.empty(shape, device=device, dtype=dtype)))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the parameters anew, from U(-1/sqrt(H), 1/sqrt(H)); those to which the cell gives a value have that."""
        bound = 1 / math.sqrt(self.hidden_size)
        with torch.no_grad():
            for name in self._names:
                values = getattr(self, name).uniform_(-bound, bound)
                if name.startswith("unit"):
                    for row, initial in zip(values, self.cell.parameters.values(), strict=True):
                        if initial is not None:
                            row.fill_(initial)

    def extra_repr(self) -> str:
        """What is shown between the parentheses."""
        options = {"num_layers": 1, "bias": True, "batch_first": False, "dropout": 0.0, "bidirectional": False}
        shown = [self.cell.name, str(self.input_size), str(self.hidden_size)]
        for name, default in (options | {"proj_size": 0, "noise": None, "heads": 1}).items():
            if getattr(self, name) != default:
                shown.append(f"{name}={getattr(self, name)!r}")
        return ", ".join(shown)

    def forward(
        self,
        x: Any,
        hx: Any = None,
        *,
        mask: Any = None,
        masked: str = "zero",
        resets: Any = None,
        reset_state: Any = None,
        extra: Any = None,
    ) -> Any:
        """Run the sequence, as `fastrnn.Recurrent.__call__` does, on tensors.

        Parameters
        ----------
        x
            (T, N, I), or (N, T, I) with batch_first, or (T, I) for a single sequence, or a PackedSequence.
        hx
            The initial state: of a cell with one state h_0, (L*D, N, P), else a tuple in the order of the cell's
            states, the others (L*D, N, H); without N for a single sequence. None means zeros.
        mask, masked, resets, reset_state
            As in `fastrnn.Recurrent.__call__`, as tensors; a given reset_state has a gradient as any tensor has.
        extra
            As in `fastrnn.Recurrent.__call__`, a dict of tensors, which have gradients as any tensor has; of a
            PackedSequence those of its rows, (R,) or (R, H).

        Returns
        -------
        tuple
            y, x's form with D*P in place of I, and the final state, formed as `hx`.

        Raises
        ------
        TypeError
            If a dtype differs, or an argument is no tensor.
        ValueError
            If a shape or a device differs.
        NotImplementedError
            Under a transform of torch.func, in forward mode, or where torch traces.
        """
        if torch.compiler.is_compiling():
            torch._dynamo.graph_break()
        if reason := why_not_transformed():
            raise NotImplementedError(f"fastrnn's kernels {reason}; expected a plain call of the cell {self.cell.name}")
        if is_traced():
            raise NotImplementedError(
                f"the cell {self.cell.name} cannot be traced, nor exported; expected a call outside of torch's tracing"
            )
        if mask is not None or resets is not None or reset_state is not None or masked != "zero":
            self._check_input(x, (2, 3), "(N, T, I) or (T, I)" if self.batch_first else "(T, N, I) or (T, I)")
            return self._forward_runs(x, hx, mask, masked, resets, reset_state, self._take_extra(extra, x))
        states = self._check(x, hx)
        leading, N = self._leading(x)
        cells = self._cells(self._take_extra(extra, x), leading, N)
        y, states_n = self._run_input(x, states, cells)
        return y, tuple(states_n) if len(self.cell.states) > 1 else states_n[0]

    def _forward_packed(self, packed: PackedSequence, states: Sequence[Tensor], ragged: Ragged, beside: Any) -> Any:
        rows = torch.from_numpy(ragged.rows)
        given = [tensor.flatten(0, 1).index_select(0, rows) for tensor in beside]
        N = ragged.shape[1]
        cells = self._cells(given, (len(packed.data),), N, ragged.sources[0] % max(N, 1))
        y, states_n = self._run_input(
            packed, self._check(packed, tuple(states) if len(states) > 1 else states[0]), cells
        )
        return y, tuple(states_n) if len(states) > 1 else states_n[0]

    def _leading(self, x: Any) -> tuple[tuple[int, ...], int]:
        """(T, N), or (R,) of a PackedSequence; and N."""
        if isinstance(x, PackedSequence):
            return tuple(x.data.shape[:1]), int(x.batch_sizes[0])
        T, *batch = x.shape[:-1]
        if self.batch_first and batch:
            (T,), batch = batch, [T]
        return (T, *(batch or [1])), (batch or [1])[0]

    def _take_extra(self, extra: Any, x: Any) -> list[Tensor]:
        """Copies of what is given beside x, (T, N, W) or (R, W); TypeError or ValueError unless it is right."""
        leading, _ = self._leading(x)
        axes = tuple(x.data.shape[:1] if isinstance(x, PackedSequence) else x.shape[:-1])
        taken = []
        for what, value in named(self.cell.name, self.cell.extra, extra):
            self._check_tensor(what, value)
            if tuple(value.shape) not in (axes, (*axes, 1), (*axes, self.hidden_size)):
                raise ValueError(
                    f"{what} has shape {tuple(value.shape)}; expected {axes} or {(*axes, self.hidden_size)}"
                )
            W = value.shape[-1] if value.dim() > len(axes) else 1
            tensor = value.reshape(*axes, W)
            if self.batch_first and len(axes) == 2:
                tensor = tensor.transpose(0, 1)
            taken.append(tensor.reshape(*leading, W).clone(memory_format=torch.contiguous_format))
        return taken

    def _cells(
        self, given: Sequence[Tensor], leading: tuple[int, ...], N: int, sequence: Array | None = None
    ) -> list[Written]:
        """The cell of each layer with what it is given beside x in a call: `given`, and draws of its noise."""
        L, D = self.num_layers, 2 if self.bidirectional else 1
        values = [Given(tensor.detach().numpy()) for tensor in given]
        extra, cell = [Beside(values)] * L * D, self.cell.without_noise(self._rates)
        if self.training and any(self._rates):
            cell = self.cell
            random = Random(cell, self._rates, L * D, np.random.default_rng(int(torch.randint(1 << 62, ()))))
            dtype: Any = DTYPES[self._flat_weights[0].dtype]
            draws, _ = random.draw((*leading, self.hidden_size), N, dtype, sequence, None)
            extra = [its.add(more) for its, more in zip(extra, draws, strict=True)]
        if not cell._program.extras:
            return [self._written._replace(cell=cell)] * L
        arrays = [its.arrays() for its in extra]
        tensors: list[Tensor] = []
        if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in given):
            cell, tensors = cell.into_extra, [tensor.flatten(0, -2) for tensor in given]
        its = self._written._replace(cell=cell, tensors=tensors)
        return [its._replace(extra=arrays[at * D : (at + 1) * D]) for at in range(L)]

    def _check(self, x: Any, hx: Any) -> Sequence[Tensor] | None:
        """The states as a sequence; TypeError or ValueError unless x and they are right."""
        packed = isinstance(x, PackedSequence)
        rows, sizes = (x.data, x.batch_sizes) if packed else (x, None)
        shapes = "(R, I), packed" if packed else "(N, T, I) or (T, I)" if self.batch_first else "(T, N, I) or (T, I)"
        self._check_input(rows, (2,) if packed else (2, 3), shapes)
        if hx is None:
            return None
        names, layers = self.cell.states_0, self.num_layers * (2 if self.bidirectional else 1)
        states = (hx,) if len(names) == 1 else hx
        if not isinstance(states, (tuple, list)) or len(states) != len(names):
            came = f"a tuple of {len(hx)}" if isinstance(hx, (tuple, list)) else f"a {type(hx).__name__}"
            raise TypeError(f"hx is {came}; expected a tuple ({', '.join(names)})")
        batch: tuple[int, ...] = ()
        if sizes is not None:
            batch = (int(sizes[0]),)
        elif rows.dim() == 3:
            batch = (rows.shape[0 if self.batch_first else 1],)
        for name, state, size in zip(names, states, self._state_sizes(), strict=True):
            self._check_tensor(name, state)
            if state.shape != (layers, *batch, size):
                raise ValueError(
                    f"{name} has shape {tuple(state.shape)}; expected (L*D, {'N, ' * len(batch)}size) = "
                    f"{(layers, *batch, size)}"
                )
        return states

    def _check_input(self, x: Any, axes: Sequence[int], letters: str) -> None:
        """TypeError or ValueError unless x is an input of one of these numbers of axes."""
        self._check_tensor("x", x)
        if x.dim() not in axes or x.shape[-1] != self.input_size:
            raise ValueError(f"x has shape {tuple(x.shape)}; expected {letters}, with I = {self.input_size}")

    def _check_tensor(self, name: str, value: Any) -> None:
        """TypeError or ValueError unless it is a tensor like the parameters, and they are such as kernels take."""
        own = self._flat_weights[0]
        if not isinstance(value, Tensor):
            raise TypeError(f"{name} is a {type(value).__name__}; expected a tensor")
        for whose, tensor in (("a parameter", own), (name, value)):
            if tensor.device.type != "cpu":
                raise ValueError(
                    f"{whose} is on {tensor.device}; expected the CPU, where fastrnn's kernels run: use .cpu()"
                )
            if tensor.layout is not torch.strided or tensor.is_nested:
                raise TypeError(f"{whose} is nested or of the layout {tensor.layout}; expected a dense tensor")
            if tensor.dtype not in DTYPES:
                raise TypeError(
                    f"{whose} has dtype {tensor.dtype}; expected torch.float32 or float64: use .float() or .double()"
                )
        if value.dtype is not own.dtype:
            raise TypeError(
                f"{name} has dtype {value.dtype}; expected {own.dtype}, as the parameters have: "
                f"use {name}.to({own.dtype}), or the module's .to({value.dtype})"
            )

    @property
    def precision(self) -> str:
        """The precision of products, of a written cell "float32", which stands for the dtype."""
        return "float32"

    @precision.setter
    def precision(self, value: str) -> None:
        if value != "float32":
            raise ValueError(
                f"precision is {shown(value)}, but {self.cell.name} is a written cell; expected 'float32': LSTM, GRU "
                "and RNN have products of fewer bits"
            )

    @property
    def _flat_weights(self) -> list[Any]:
        return [getattr(self, name) for name in self._names]

    def _state_sizes(self) -> list[int]:
        return [self.proj_size or self.hidden_size] + [self.hidden_size] * (len(self.cell.states) - 1)

    def _layer_cell(self) -> Written:
        return self._written


run_uncompiled(Recurrent.forward)
