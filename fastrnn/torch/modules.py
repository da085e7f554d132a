"""torch.nn's RNN, LSTM and GRU, computed by fastrnn's kernels where they apply, else by torch's own."""

from __future__ import annotations

import operator
import warnings
import weakref
from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn.utils.rnn import PackedSequence

from fastrnn.torch.operator import DTYPES, is_traced, layer, run_uncompiled, why_no_tapes

__all__ = ["GRU", "LSTM", "RNN"]


PLAIN = {Tensor, torch.nn.Parameter}


class _Recurrent(torch.nn.RNNBase):
    """The forward of all three; its super() is torch's class of the same name."""

    def forward(self, input: Any, hx: Any = None) -> Any:
        """Run the sequence, with the arguments, results and errors of torch.nn."""
        if not _are_same(self._parameters.values(), self._flat_weights):
            self._update_flat_weights()  # does all for which parameters need not be, at ten times the cost
        packed = isinstance(input, PackedSequence)
        x, batch_sizes, sorted_indices, unsorted_indices = input if packed else (input, None, None, None)
        lstm = self.mode == "LSTM"
        states = () if hx is None else hx if lstm else (hx,)
        reason = (
            _why_not_this_call(x, states, packed)
            or _why_not_here()
            or _why_not_these([x, *states, *self._flat_weights])
        )
        if reason:
            result = super().forward(input, hx)  # which says what is wrong, if anything is
            self._warn(reason)
            return result

        batched = packed or x.dim() == 3
        batch_axis = 0 if self.batch_first else 1
        if not batched:
            x = x.unsqueeze(batch_axis)
            states = [state.unsqueeze(1) for state in states]
        if states:
            hx = tuple(states) if lstm else states[0]
            hx = self.permute_hidden(hx, sorted_indices)
            self.check_forward_args(x, hx, batch_sizes)
            states = hx if lstm else (hx,)
        else:
            self.check_input(x, batch_sizes)
        if self.batch_first and not packed:
            x = x.transpose(0, 1)
        y, state_n = self._run(x.contiguous(), batch_sizes, states)
        if self.batch_first and not packed:
            y = y.transpose(0, 1)
        if packed:
            y = PackedSequence(y, batch_sizes, sorted_indices, unsorted_indices)
        elif not batched:
            y = y.squeeze(batch_axis)
            state_n = [state.squeeze(1) for state in state_n]
        hx_n: Any = tuple(state_n) if lstm else state_n[0]
        return y, self.permute_hidden(hx_n, unsorted_indices)

    def _run(self, x: Tensor, batch_sizes: Tensor | None, states: Sequence[Tensor]) -> tuple[Any, Sequence[Tensor]]:
        """All layers, on (T, N, I) or the rows of a packed sequence; states are (L*D, N, K) each, or there are none."""
        L, D = self.num_layers, 2 if self.bidirectional else 1
        of_layers: Any
        if not states:
            N = x.shape[1] if batch_sizes is None else int(batch_sizes[0])
            sizes = (self.proj_size or self.hidden_size, self.hidden_size)
            zeros = [x.new_zeros(D, N, size) for size in sizes[: 2 if self.mode == "LSTM" else 1]]
            of_layers = [zeros] * L
        elif L == 1:
            of_layers = [states]
        else:
            of_layers = zip(*[state.chunk(L) for state in states], strict=True)
        weights: list[Any] = self._flat_weights
        count = len(weights) // L
        states_n = []
        for at, state in enumerate(of_layers):
            if at and self.training and self.dropout:
                x = torch.dropout(x, self.dropout, True)
            x, state_n = layer(
                x, batch_sizes, state, weights[at * count : (at + 1) * count], self.mode.lower(), self._warn
            )
            states_n.append(state_n)
        return x, states_n[0] if L == 1 else [torch.cat(parts) for parts in zip(*states_n, strict=True)]

    def _warn(self, reason: str) -> None:
        """Say once that torch.nn's own kernels are used, and why: what ours do not do."""
        message = f"fastrnn.torch.{type(self).__name__} leaves this to torch.nn: fastrnn's kernels {reason}"
        if torch.compiler.is_compiling():
            _warn_while_tracing(message)
        elif self not in _warned:
            _warned.add(self)
            warnings.warn(message, stacklevel=5)  # at the call of the module


run_uncompiled(_Recurrent.forward)

_warned: weakref.WeakSet[torch.nn.Module] = weakref.WeakSet()


def _warn_while_tracing(message: str) -> None:
    warnings.warn(message, stacklevel=2)


_warn_while_tracing._dynamo_marked_constant = True  # type: ignore[attr-defined]  # torch.compiler.assume_constant_result


def _are_same(values: Collection[Any], others: Collection[Any]) -> bool:
    return len(values) == len(others) and all(map(operator.is_, values, others))


def _why_not_this_call(x: Any, states: Any, packed: bool) -> str | None:
    """Why the kernels do not take what a module is called with, or None; torch.nn refuses most of that as well."""
    if not isinstance(x, Tensor) or not (packed or x.dim() in (2, 3)):
        return "take tensors of two or three axes"
    if not isinstance(states, (tuple, list)):
        return "take states in a tuple"
    dims = 3 if packed else x.dim()
    for state in states:
        if not isinstance(state, Tensor) or state.dim() != dims:
            return "take states of as many axes as the input"
    if x.is_nested or (not torch.compiler.is_compiling() and x.is_neg()):
        return "take no nested tensors, and none with a negative bit"
    return None if x.numel() else "take no empty input"


def _why_not_here() -> str | None:
    """Why the kernels do not work under what torch is in the middle of, or None."""
    if torch.is_autocast_enabled("cpu"):
        return "do not run under autocast"
    if not torch.compiler.is_compiling():
        if torch._C._are_functorch_transforms_active():
            return "know none of torch.func's transforms"
        if forward_ad._current_level >= 0:
            return "have no forward-mode derivative"
    return why_no_tapes()


def _why_not_these(tensors: Sequence[Any]) -> str | None:
    """Why the kernels cannot work on tensors like these, or None."""
    dtype = tensors[0].dtype
    for t in tensors:
        if not t.is_cpu:
            return f"take tensors on the CPU, not on {t.device}"
        if t.dtype is not dtype or t.dtype not in DTYPES or t.layout is not torch.strided:
            return f"take dense tensors, all float32 or all float64, not {t.dtype}"
        if type(t) not in PLAIN and not is_traced():
            return f"do not know what a {type(t).__name__} does"
    return None


class RNN(_Recurrent, torch.nn.RNN):
    """torch.nn.RNN on fastrnn's kernels.

    Parameters, input, output, state, parameter names and errors are those of torch.nn.RNN, which it is a subclass of.
    float32 and float64 on the CPU run on the kernels, on up to `torch.get_num_threads()` threads, forward and backward.
    All else (other devices and dtypes, autocast, torch.func's transforms, a gradient of a gradient, no compiled
    backend) runs as torch.nn's, and a warning says why, once per module.

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
