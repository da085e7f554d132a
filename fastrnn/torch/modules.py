"""torch.nn's RNN, LSTM and GRU, computed by fastrnn's kernels where they apply, else by torch's own."""

from __future__ import annotations

import operator
import sys
import warnings
import weakref
from collections.abc import Collection, Sequence
from types import CodeType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn.utils.rnn import PackedSequence

from fastrnn.checks import check_choice, shown
from fastrnn.rows import as_flags
from fastrnn.steps import Ragged
from fastrnn.torch import precision, second
from fastrnn.torch.operator import (
    DTYPES,
    Written,
    in_precision,
    is_traced,
    run_uncompiled,
    skip_code,
    why_no_tapes,
    why_not_precision,
)
from fastrnn.torch.precision import LOW, TORCHS, check_precision, rounded_to
from fastrnn.torch.transforms import array_of, layer, why_not_under

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "Layers",
    "may_be_freed",
    "prepare_scriptable",
    "why_never",
    "why_not_here",
    "why_not_transformed",
]


PLAIN = {Tensor, torch.nn.Parameter}


class Layers(torch.nn.Module):
    """Layers on top of one another, whatever their cell."""

    num_layers: int
    batch_first: bool
    dropout: float
    bidirectional: bool
    _precision = "float32"
    if TYPE_CHECKING:  # torch.jit would take it for an attribute of this type
        _flat_weights: Any

    def _state_sizes(self) -> list[int]:
        """How many columns each state has."""
        raise NotImplementedError

    def _layer_cell(self) -> str | Written:
        """The cell, as `layer` takes it."""
        raise NotImplementedError

    def _warn(self, reason: str) -> None:
        """Say once that something is left to torch, and why."""
        raise NotImplementedError

    def _run_input(
        self,
        input: Any,
        states: Sequence[Tensor] | None,
        cells: Sequence[str | Written] | None = None,
        weights: Sequence[Tensor] | None = None,
    ) -> tuple[Any, Sequence[Tensor]]:
        """All layers, on what `forward` takes; the states in sequence.

        The cells by layer, and the weights in place of the parameters, if they are a call's own.
        """
        packed = isinstance(input, PackedSequence)
        x, batch_sizes, sorted_indices, unsorted_indices = input if packed else (input, None, None, None)
        batched = packed or x.dim() == 3
        if not batched:
            x = x.unsqueeze(1)
            states = states and [state.unsqueeze(1) for state in states]
        elif self.batch_first and not packed:
            x = x.transpose(0, 1)
        if sorted_indices is not None:
            states = states and [state.index_select(1, sorted_indices) for state in states]
        y, states_n = self._run(x.contiguous(), batch_sizes, states, cells, weights)
        if packed:
            y = PackedSequence(y, batch_sizes, sorted_indices, unsorted_indices)
        elif not batched:
            y = y.squeeze(1)
            states_n = [state.squeeze(1) for state in states_n]
        elif self.batch_first:
            y = y.transpose(0, 1)
        if unsorted_indices is not None:
            states_n = [state.index_select(1, unsorted_indices) for state in states_n]
        return y, states_n

    def _run(
        self,
        x: Tensor,
        batch_sizes: Tensor | None,
        states: Sequence[Tensor] | None,
        cells: Sequence[str | Written] | None,
        weights: Sequence[Tensor] | None,
    ) -> tuple[Any, Sequence[Tensor]]:
        """All layers, on (T, N, I) or the rows of a packed sequence; states are (L*D, N, K) each, or zero if None."""
        L, D = self.num_layers, 2 if self.bidirectional else 1
        of_layers: Any
        if states is None:
            N = x.shape[1] if batch_sizes is None else int(batch_sizes[0])
            zeros = [torch.zeros((D, N, size), dtype=x.dtype, device=x.device) for size in self._state_sizes()]
            of_layers = [zeros] * L
        elif L == 1:
            of_layers = [states]
        else:
            of_layers = zip(*[state.chunk(L) for state in states], strict=True)
        weights = self._flat_weights if weights is None else weights
        count = len(weights) // L
        states_n = []
        for at, state in enumerate(of_layers):
            if at and self.training and self.dropout:
                x = torch.dropout(x, self.dropout, True)
            cell = self._layer_cell() if cells is None else cells[at]
            its = weights[at * count : (at + 1) * count]
            x, state_n = layer(x, batch_sizes, state, its, cell, self._warn, at < L - 1)
            states_n.append(state_n)
        return x, states_n[0] if L == 1 else [torch.cat(parts) for parts in zip(*states_n, strict=True)]

    def _forward_packed(self, packed: PackedSequence, states: Sequence[Tensor], ragged: Ragged, beside: Any) -> Any:
        """`forward` on the runs, which begin with these states."""
        return self.forward(packed, tuple(states) if len(states) > 1 else states[0])

    def _forward_runs(
        self, x: Any, hx: Any, mask: Any, masked: str, resets: Any, reset_state: Any, beside: Any = None
    ) -> Any:
        """`forward` where steps are left out or states begin anew: on the runs of `fastrnn.steps`, packed.

        `beside` is what a cell is given beside x, as `_forward_packed` wants it.
        """
        check_choice("masked", masked, ("zero", "last"))
        if isinstance(reset_state, str) and reset_state != "initial":
            raise ValueError(f"reset_state is {shown(reset_state)}; expected None for zeros, 'initial', or a state")
        if not isinstance(x, Tensor) or x.dim() not in (2, 3):
            given = "a PackedSequence" if isinstance(x, PackedSequence) else f"{type(x).__name__}"
            raise ValueError(f"input is {given}; expected a tensor (T, N, I) or (T, I) with mask and resets")
        batched, lstm = x.dim() == 3, len(self._state_sizes()) > 1
        turned = batched and self.batch_first
        x = x.unsqueeze(1) if not batched else x.transpose(0, 1) if turned else x
        T, N, D = x.shape[0], x.shape[1], 2 if self.bidirectional else 1
        axes, letters = ((T,), "(T,)") if not batched else ((N, T), "(N, T)") if turned else ((T, N), "(T, N)")
        flags = []
        for name, value in (("mask", mask), ("resets", resets)):
            its = np.full((T, N), name == "mask")
            if value is not None:
                if isinstance(value, Tensor):
                    value = array_of(name, value)
                array = as_flags(name, value, axes, letters)
                its[...] = array.T if turned else array.reshape(T, N)
            flags.append(its)
        run, anew = flags
        ragged = Ragged.of_steps(run, anew, np.full((T, N), True))

        zeros = [x.new_zeros((self.num_layers * D, N, size)) for size in self._state_sizes()]
        names = ("hx", "reset_state")
        wanted: tuple[Any, Any] = (hx, hx if isinstance(reset_state, str) else reset_state)
        states, others = (
            zeros if value is None else self._as_states(name, value, zeros, lstm, batched)
            for name, value in zip(names, wanted, strict=True)
        )
        pools = states if not ragged.anew else [torch.cat(both, 1) for both in zip(states, others, strict=True)]
        sources, ends = ([torch.from_numpy(its).to(x.device) for its in both] for both in (ragged.sources, ragged.ends))
        begun = [torch.stack([pool[at].index_select(0, sources[at % D]) for at in range(len(pool))]) for pool in pools]
        if len(ragged.rows):
            rows = x.reshape(T * N, -1).index_select(0, torch.from_numpy(ragged.rows).to(x.device))
            packed = PackedSequence(rows, torch.from_numpy(ragged.batch_sizes))
            out, ended = self._forward_packed(packed, begun, ragged, beside)
            y, states_n = out.data, list(ended) if lstm else [ended]
        else:
            y, states_n = x.new_zeros((0, D * pools[0].shape[2])), begun
        y = torch.cat([y, y.new_zeros((1, y.shape[1]))])  # a row of zeros for what is not run
        parts = []
        for reverse, part in enumerate(y.chunk(D, 1)):
            places = np.full((T, N, 1), len(ragged.rows))
            places.reshape(-1)[ragged.rows] = np.arange(len(ragged.rows))
            if masked == "last":
                ragged.hold(places, reverse == 1)
            parts.append(part.index_select(0, torch.from_numpy(places.reshape(-1)).to(x.device)))
        y = torch.cat(parts, 1).reshape(T, N, -1)
        states_n = [
            torch.stack([torch.cat([s[at], pool[at]]).index_select(0, ends[at % D]) for at in range(len(pool))])
            for s, pool in zip(states_n, pools, strict=True)
        ]
        if not batched:
            y, states_n = y.squeeze(1), [state.squeeze(1) for state in states_n]
        elif turned:
            y = y.transpose(0, 1)
        return y, tuple(states_n) if lstm else states_n[0]

    def _as_states(self, name: str, value: Any, zeros: Sequence[Tensor], lstm: bool, batched: bool) -> list[Tensor]:
        """A state as (L*D, N, K) tensors; ValueError unless it has the shapes of zeros."""
        states = list(value) if lstm and isinstance(value, (tuple, list)) else [value]
        shapes = [tuple(zero.shape) if batched else (zero.shape[0], zero.shape[2]) for zero in zeros]
        came = [tuple(s.shape) if isinstance(s, Tensor) else type(s).__name__ for s in states]
        if came != shapes:
            raise ValueError(f"{name} has the shapes {came}; expected {shapes}")
        return states if batched else [state.unsqueeze(1) for state in states]


class _Recurrent(Layers, torch.nn.RNNBase):
    """The forward of all three; what is next after `Layers` is torch's class of the same name."""

    def forward(
        self,
        input: Any,
        hx: Any = None,
        *,
        mask: Any = None,
        masked: str = "zero",
        resets: Any = None,
        reset_state: Any = None,
    ) -> Any:
        """Run the sequence, with the arguments, results and errors of torch.nn, and those of `fastrnn.RNN`.

        mask, masked, resets and reset_state are as in `fastrnn.RNN.__call__`, as tensors; a given reset_state has a
        gradient as any tensor has.
        """
        if mask is not None or resets is not None or reset_state is not None or masked != "zero":
            return self._forward_runs(input, hx, mask, masked, resets, reset_state)
        if not _are_same(self._parameters.values(), self._flat_weights):
            self._update_flat_weights()  # does all for which parameters need not be, at ten times the cost
        packed = isinstance(input, PackedSequence)
        x, batch_sizes = input[:2] if packed else (input, None)
        lstm = self.mode == "LSTM"
        states = hx if lstm or hx is None else (hx,)
        reason, rounded, its = self._why_not_this_call(x, states, batch_sizes), None, self._precision
        if not reason and not packed and its == "float32" and self._is_brief(x):
            return self._run_torchs(x, states)
        if not reason:
            tensors = [x, *(states or ())]
            rounded = rounded_to(self.mode, self.proj_size > 0, packed, x, tensors[1:], self._flat_weights)
            reason = _why_not_now() or _why_not_these([*tensors, *self._flat_weights], rounded is not None)
        if its != "float32" and not reason:
            reason = why_not_precision(its)
            self._check_call([*tensors, *self._flat_weights])
        elif rounded and not reason and not _is_transformed():
            batch = x.shape[0 if self.batch_first else 1] if batch_sizes is None else int(batch_sizes[0])
            batch = batch if packed or x.dim() == 3 else 1
            its = precision.choose(self.mode, self.proj_size > 0, packed, x, batch, self.hidden_size)
            if its == TORCHS:
                reason = BFLOAT16
        if reason:
            result = super().forward(input, hx)  # which says what is wrong, if anything is
            if reason not in (ONNX, BFLOAT16):
                self._warn(reason)
            return result

        if rounded is None:
            weights = [w.clone() for w in self._flat_weights] if may_be_freed() else None
            y, states_n = self._run_input(input, states, weights=weights)
        else:
            y, states_n = self._run_rounded(input, states, rounded, its)
        return y, tuple(states_n) if lstm else states_n[0]

    @property
    def precision(self) -> str:
        """The precision of products, "float32", which stands for the dtype, "bfloat16", or in inference "int8".

        It may be set at any time; parameters and gradients stay what they are. `fastrnn.narrow` says what is rounded,
        docs/precision.md where this holds. A subclass that had such an attribute of its own keeps that.
        """
        own: str = self.__dict__.get("precision", self._precision)
        return own

    @precision.setter
    def precision(self, value: Any) -> None:
        if "precision" in self.__dict__:
            self.__dict__["precision"] = value
        else:
            self._precision = check_precision(self, value)

    def _check_call(self, tensors: Sequence[Tensor]) -> None:
        """ValueError unless a call of these tensors, x first, can have the module's precision."""
        its = self._precision
        if tensors[0].dtype is torch.float64:
            wanted = "torch.float32: module.float(), or module.precision = 'float32' for float64"
            raise ValueError(f"precision is {its!r} with tensors of torch.float64; expected {wanted}")
        if its != "int8":
            return
        if _is_transformed():
            wanted = "'float32' or 'bfloat16' under torch.func's transforms and in forward mode"
            raise ValueError(f"precision is 'int8'; expected {wanted}: module.precision = 'float32'")
        if torch.is_grad_enabled() and any(t.requires_grad for t in tensors):
            wanted = "torch.no_grad() or torch.inference_mode() around the call, or to train 'float32' or 'bfloat16'"
            raise ValueError(
                f"precision is 'int8', which is for inference; expected {wanted}: module.precision = 'float32'"
            )

    def extra_repr(self) -> str:
        """What is shown between the parentheses."""
        more = "" if self._precision == "float32" else f", precision={self._precision!r}"
        return f"{super().extra_repr()}{more}"

    def _is_brief(self, x: Tensor) -> bool:
        """Whether a call that torch.nn takes is so brief that its operators, without its module, take less time.

        Then what is around the kernels takes longer than they do. Torch's time over theirs, on Zen 3 with one thread:
        RNN of one step 0.6 to 1.06, of three in inference 0.9, in training 1.2; GRU of one row 0.96 and 1.1, but 0.91
        of a whole training step with a loss and Adam, LSTM 1.1 of that; in 16 bits, where weights are converted, of one
        row 0.06 to 0.95, of 8 LSTM and GRU 1.05 to 1.4, RNN 0.65 to 0.75.
        """
        if is_traced() or x.dim() != 3:  # a graph is for any number of steps
            return False
        N, T = x.shape[:2] if self.batch_first else x.shape[1::-1]
        rnn = self.mode not in ("LSTM", "GRU")
        if T > 8 or (T * N > 8 and not rnn):
            return False
        dtype, recorded = x.dtype, torch.is_grad_enabled()
        if dtype in LOW:
            brief = T * N <= 16 and (not recorded or (2 if rnn else 1) >= T)
        else:
            brief = T == 1 if rnn else T * N == 1 and self.mode == "GRU"
            brief = brief or (rnn and not recorded and T <= 3 and T * N <= 16)
        if not brief or dtype is not self._flat_weights[0].dtype or not x.is_cpu or type(x) not in PLAIN:
            return False
        return not (torch.is_autocast_enabled("cpu") or _is_transformed())

    def _run_torchs(self, x: Tensor, states: Sequence[Tensor] | None) -> tuple[Tensor, Any]:
        """`forward` by torch.nn's own operator, of (T, N, I) or (N, T, I), without its module's looks at them."""
        if states is None:
            rows, N = self.num_layers * (2 if self.bidirectional else 1), x.shape[0 if self.batch_first else 1]
            states = [x.new_zeros((rows, N, size)) for size in self._state_sizes()]
        options: tuple[Any, ...] = (
            self._flat_weights, self.bias, self.num_layers, self.dropout, self.training, self.bidirectional,
            self.batch_first,
        )  # fmt: skip
        mode = self.mode
        if mode == "LSTM":
            y, h_n, c_n = torch.lstm(x, tuple(states), *options)
            return y, (h_n, c_n)
        run = torch.gru if mode == "GRU" else torch.rnn_tanh if mode == "RNN_TANH" else torch.rnn_relu
        return run(x, states[0], *options)

    def _run_rounded(
        self, input: Any, states: Sequence[Tensor] | None, rounded: Sequence[torch.dtype], precision: str
    ) -> tuple[Any, Sequence[Tensor]]:
        """`_run_input` from float32, with products in a precision, the results rounded to these dtypes."""
        states = states and [state.float() for state in states]
        weights = [w.clone() if may_be_freed() else w for w in self._flat_weights]
        with torch.autocast("cpu", enabled=False):
            cells = [in_precision(self.mode.lower(), precision)] * self.num_layers
            y, states_n = self._run_input(input.float(), states, cells, [w.float() for w in weights])
        return y.to(rounded[0]), [state.to(dtype) for state, dtype in zip(states_n, rounded[1:], strict=False)]

    def _why_not_this_call(self, x: Any, states: Any, batch_sizes: Tensor | None) -> str | None:
        """Why the kernels do not take an input and states like these, or None; torch.nn refuses most of that too."""
        if not isinstance(x, Tensor) or x.dim() not in ((2, 3) if batch_sizes is None else (2,)):
            return "take tensors of two or three axes"
        if x.shape[-1] != self.input_size:
            return "take inputs of input_size"
        if x.is_nested:
            return "take no nested tensors"
        if x.numel() == 0:
            return "take no empty input"
        if states is not None:
            batch: tuple[int, ...] = ()
            if batch_sizes is not None:
                batch = (int(batch_sizes[0]),)
            elif x.dim() == 3:
                batch = (x.shape[0 if self.batch_first else 1],)
            layers = self.num_layers * (2 if self.bidirectional else 1)
            shapes = [(layers, *batch, size) for size in self._state_sizes()]
            if not isinstance(states, (tuple, list)) or [getattr(s, "shape", None) for s in states] != shapes:
                return f"take states of the shapes {shapes}"
        return None

    def _state_sizes(self) -> list[int]:
        """How many columns each state has."""
        sizes = [self.proj_size or self.hidden_size, self.hidden_size]
        return sizes if self.mode == "LSTM" else sizes[:1]

    def _layer_cell(self) -> str:
        return in_precision(self.mode.lower(), self._precision)

    def __prepare_scriptable__(self) -> Any:
        """What torch.jit.script compiles, and puts into the model: this very module, as torch's."""
        return prepare_scriptable(self)

    def _warn(self, reason: str) -> None:
        """Say once that torch.nn's own kernels are used, and why: what ours do not do."""
        message = f"fastrnn.torch.{type(self).__name__} leaves this to torch.nn: fastrnn's kernels {reason}"
        if torch.compiler.is_compiling():
            _warn_while_tracing(message)
        elif self not in _warned:
            _warned.add(self)
            warnings.warn(message, stacklevel=5)  # at the call of the module


def prepare_scriptable(module: Any) -> Any:
    """Make torch's of a module of ours, for torch.jit.script, and say so."""
    name = type(module).__name__
    kinds = type(module).__mro__
    module.__class__ = next(kind for kind in kinds if kind.__module__ == torch.nn.RNNBase.__module__)
    warnings.warn(
        f"torch.jit.script made torch.nn's of this fastrnn.torch.{name}: fastrnn.torch.accelerate puts it back, as "
        "does to script within fastrnn.torch.restored",
        stacklevel=3,
    )
    return module


_warned: weakref.WeakSet[torch.nn.Module] = weakref.WeakSet()


def _warn_while_tracing(message: str) -> None:
    warnings.warn(message, stacklevel=2)


_warn_while_tracing._dynamo_marked_constant = True  # type: ignore[attr-defined]  # torch.compiler.assume_constant_result


def may_be_freed() -> bool:
    """Whether torch may free a parameter's memory between forward and backward: FSDP does, in processes that use it.

    Arrays on that memory must not be there then, so the kernels get copies.
    """
    return "torch.distributed.fsdp" in sys.modules and torch.distributed.is_initialized()


def _is_transformed() -> bool:
    """Whether transforms of torch.func, or forward mode, are at work: torch.nn's modules do not know all of them."""
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def _are_same(values: Collection[Any], others: Collection[Any]) -> bool:
    return len(values) == len(others) and all(map(operator.is_, values, others))


def why_never(module: Layers) -> str | None:
    """Why the kernels run none of a module's calls while it is as it is, or None."""
    weights = module._flat_weights
    reason = why_no_tapes() or why_not_precision(module._precision)
    return reason or _why_not_these(weights, rounded_to("", False, False, weights[0], (), weights) is not None)


ONNX = "are no operators of ONNX"
BFLOAT16 = "take longer in float32 than torch's in bfloat16 on this CPU"


def why_not_here() -> str | None:
    """Why the kernels do not work under what torch is in the middle of, for callers that round nothing, or None."""
    return "do not run under autocast" if torch.is_autocast_enabled("cpu") else _why_not_now()


def _why_not_now() -> str | None:
    """`why_not_here`, but for autocast."""
    compiling = torch.compiler.is_compiling()
    if (compiling or torch._C._get_tracing_state() is not None) and torch.onnx.is_in_onnx_export():
        return ONNX
    return (None if compiling else why_not_transformed(forward_mode=True)) or why_no_tapes()


def why_not_transformed(forward_mode: bool = False) -> str | None:
    """Why the kernels do not work under a transform that torch is in the middle of, or None; who knows forward mode."""
    if forward_mode and forward_ad._current_level >= 0:
        return second.why_not_forward()
    if torch._C._are_functorch_transforms_active() and (reason := why_not_under()):
        return reason
    if forward_ad._current_level >= 0:
        return "have no forward-mode derivative"
    return None


def _why_not_these(tensors: Sequence[Any], rounded: bool) -> str | None:
    """Why the kernels cannot work on tensors like these, or None; if results are `rounded`, their dtypes are right."""
    dtype = tensors[0].dtype
    known = rounded or dtype in DTYPES
    for t in tensors:
        if not t.is_cpu:
            return f"take tensors on the CPU, not on {t.device}"
        if not (rounded or t.dtype is dtype) or not known or t.layout is not torch.strided:
            return f"take dense tensors, all of one floating dtype, or what autocast makes such, not {t.dtype}"
        if type(t) not in PLAIN and not is_traced():
            return f"do not know what a {type(t).__name__} does"
    return None


run_uncompiled(
    _are_same,
    _is_transformed,
    why_not_here,
    _why_not_now,
    rounded_to,
    precision.choose,
    why_not_precision,
    why_not_transformed,
    _why_not_these,
    Layers._forward_runs,
)
for _method in (
    _Recurrent.forward,
    _Recurrent._run_rounded,
    _Recurrent._check_call,
    Layers._run_input,
    Layers._run,
    _Recurrent._why_not_this_call,
):
    for _constant in _method.__code__.co_consts:
        if isinstance(_constant, CodeType):  # a comprehension
            skip_code(_constant)


class RNN(_Recurrent, torch.nn.RNN):
    """torch.nn.RNN on fastrnn's kernels.

    Parameters, input, output, state, parameter names and errors are those of torch.nn.RNN, which it is a subclass of.
    float32 and float64 on the CPU run on the kernels, on up to `torch.get_num_threads()` threads, forward and backward,
    under torch.func's vmap, grad, vjp and jacrev too. So do a second backward (create_graph=True) and forward mode
    (torch.autograd.forward_ad, torch.func.jvp), and bfloat16, float16 and autocast: from float32 weights, products in
    bfloat16 where that is asked for and the CPU multiplies it, else in float32, results rounded once; but for layers at
    which torch.nn's bfloat16 is faster on this CPU. Brief calls run on torch.nn's operators where those are faster: an
    RNN's of one step, a GRU's of one row, few rows in 16 bits. All else (other devices, a third derivative, no compiled
    backend) runs as torch.nn's, and a warning says why, once per module.

    `precision` says what products multiply: "float32", which stands for the dtype, "bfloat16", in training too, or
    "int8", for inference.

    Under torch.compile a module is a graph of its own, as torch.nn's are; with `torch._dynamo.config.allow_rnn = True`
    it is one operator per layer of the graph around it, as in torch.export.

    Examples
    --------
    >>> import torch, fastrnn.torch
    >>> rnn = fastrnn.torch.RNN(10, 20, nonlinearity="relu")
    >>> y, h_n = rnn(torch.zeros(5, 3, 10))
    >>> y.shape, h_n.shape
    (torch.Size([5, 3, 20]), torch.Size([1, 3, 20]))
    """


class LSTM(_Recurrent, torch.nn.LSTM):
    """torch.nn.LSTM on fastrnn's kernels; see `RNN`.

    Examples
    --------
    >>> import torch, fastrnn.torch
    >>> lstm = fastrnn.torch.LSTM(10, 20, num_layers=2, batch_first=True, bidirectional=True)
    >>> y, (h_n, c_n) = lstm(torch.zeros(3, 5, 10))
    >>> y.sum().backward()
    >>> y.shape, c_n.shape, lstm.weight_ih_l1.grad.shape
    (torch.Size([3, 5, 40]), torch.Size([4, 3, 20]), torch.Size([80, 40]))
    """


class GRU(_Recurrent, torch.nn.GRU):
    """torch.nn.GRU on fastrnn's kernels; see `RNN`.

    Examples
    --------
    >>> import torch, fastrnn.torch
    >>> gru = fastrnn.torch.GRU(10, 20)
    >>> gru.load_state_dict(torch.nn.GRU(10, 20).state_dict())
    <All keys matched successfully>
    >>> y, h_n = gru(torch.zeros(5, 3, 10))
    >>> y.shape, h_n.shape
    (torch.Size([5, 3, 20]), torch.Size([1, 3, 20]))
    """
