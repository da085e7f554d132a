"""16-bit modules and autocast: computed in float32 and rounded once, to the dtypes that torch.nn's modules give."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["LOW", "is_left_to_torch", "rounded_to"]

LOW = (torch.bfloat16, torch.float16)
MULTIPLIES_BFLOAT16 = torch.cpu._is_avx512_bf16_supported()


def is_left_to_torch(mode: str, projected: bool, packed: bool, x: Tensor, batch: int, hidden: int) -> bool:
    """Whether torch.nn's bfloat16 products take less time here than float32 on the kernels, of what `rounded_to` takes.

    On Zen 4, with twice the rate of float32: oneDNN's LSTM 0.53 to 0.94 of the time from H = 32 on, but for single
    sequences (1.4 to 3.4 in training); the other cells from H = 384 on 0.67 to 0.94, up to 256 1.04 to 7.9.
    """
    low = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
    if low is not torch.bfloat16 or not MULTIPLIES_BFLOAT16 or batch == 1:
        return False
    return (mode == "LSTM" and not packed and not projected) or max(hidden, x.shape[-1]) > 256


def rounded_to(
    mode: str, projected: bool, packed: bool, x: Tensor, states: Sequence[Tensor], weights: Sequence[Tensor]
) -> list[torch.dtype] | None:
    """The dtypes of y and of the final states, if float32 is to be rounded to such; else None: no dtype is changed.

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
