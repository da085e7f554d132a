"""In which precision products are: what a module is set to, and what 16-bit modules and autocast choose.

The latter are computed from float32 inputs, states and weights, and rounded once, to the dtypes that torch.nn gives.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastrnn import ops
from fastrnn.checks import check_choice
from fastrnn.narrow import LONGEST_ROW, PRECISIONS

__all__ = ["LOW", "TORCHS", "check_precision", "choose", "kernels_multiply_bfloat16", "rounded_to"]

LOW = (torch.bfloat16, torch.float16)
TORCHS = "torch's"
MULTIPLIES_BFLOAT16 = torch.cpu._is_avx512_bf16_supported()  # torch's products


def check_precision(module: Any, precision: Any) -> str:
    """Return it; TypeError or ValueError unless it is one that a recurrent module of torch.nn can have."""
    its = str(check_choice("precision", precision, PRECISIONS))
    if its == "float32":
        return its
    weights: Sequence[Tensor] = module._flat_weights
    if any(w.dtype is torch.float64 for w in weights):
        raise ValueError(f"precision is {its!r} with dtype torch.float64; expected torch.float32: module.float()")
    longest = max(w.shape[-1] for w in weights)
    if its == "int8" and longest > LONGEST_ROW:
        raise ValueError(f"precision is 'int8' with {longest} columns of a weight; expected at most {LONGEST_ROW}")
    return its


def choose(mode: str, projected: bool, packed: bool, x: Tensor, batch: int, hidden: int) -> str:
    """Who multiplies what `rounded_to` takes: `TORCHS`, or the kernels in "bfloat16" or "float32".

    First come layers at which torch.nn's bfloat16 takes less time than the kernels in float32, on CPUs that multiply
    bfloat16: on Zen 4, with twice the rate of float32, oneDNN's LSTM 0.53 to 0.94 of the time from H = 32 on, but for
    single sequences (1.4 to 3.4 in training); the other cells from H = 384 on 0.67 to 0.94, up to 256 1.04 to 7.9. The
    kernels in bfloat16 are no part of these figures: inference of NumPy's modules takes 0.55 to 0.93 of torch's time
    for LSTM there, and 0.05 to 0.81 for GRU (docs/precision.md), but training has not been timed, and neither has what
    converts and packs weights here.

    Then come the kernels, in bfloat16 if their backend says that the CPU multiplies it. Otherwise a training step takes
    1.3 to 1.6 of float32's time (AVX2), so it is float32.
    """
    low = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
    if low is not torch.bfloat16:
        return "float32"
    torchs = (mode == "LSTM" and not packed and not projected) or max(hidden, x.shape[-1]) > 256
    if MULTIPLIES_BFLOAT16 and batch > 1 and torchs:
        return TORCHS
    return "bfloat16" if kernels_multiply_bfloat16() else "float32"


def kernels_multiply_bfloat16() -> bool:
    """Whether products of bfloat16 take less time on the kernels than those of float32."""
    backend, _ = ops.choose(None, 1)
    return bool(getattr(backend, "MULTIPLIES_BFLOAT16", False))


kernels_multiply_bfloat16._dynamo_marked_constant = True  # type: ignore[attr-defined]  # as operator.why_no_tapes


def rounded_to(
    mode: str, projected: bool, packed: bool, x: Tensor, states: Sequence[Tensor], weights: Sequence[Tensor]
) -> list[torch.dtype] | None:
    """The dtypes of y and of the final states, if results are to be rounded to such; else None: no dtype is changed.

    Without autocast everything is of one 16-bit dtype, then the results are. Under it, x and the states are float32 or
    of autocast's dtype. torch.nn's results are what its operators make of that: products are of autocast's dtype, what
    is multiplied with a state or added to it is of the wider of both. oneDNN's LSTM, of sequences that are not packed,
    gives autocast's alone.
    """
    if not torch.is_autocast_enabled("cpu"):
        dtype = x.dtype
        return [dtype] * 3 if dtype in LOW and all(t.dtype is dtype for t in (*states, *weights)) else None
    given = {t.dtype for t in (x, *states)}
    low = torch.get_autocast_dtype("cpu")
    if not given <= {torch.float32, low} or len({s.dtype for s in states}) > 1:
        return None
    if not {w.dtype for w in weights} <= {torch.float32, *LOW}:
        return None
    wide = torch.promote_types(low, states[0].dtype if states else x.dtype)
    if mode == "GRU":
        return [wide] * 2
    if mode != "LSTM":
        return [low] * 2
    if projected:
        return [low, low, wide]
    onednn = (
        not packed and torch._C._get_mkldnn_enabled() and torch.float16 not in (x.dtype, states and states[0].dtype)
    )
    return [low if onednn else wide] * 3
