"""Normalization over the units of a row, written in the language: functions on traced values and on arrays alike."""

from __future__ import annotations

import operator
from typing import Any

from fastrnn.cells.operations import mean, sqrt

__all__ = ["layer_norm", "rms_norm"]


def layer_norm(v: Any, gain: Any = None, bias: Any = None, eps: float = 1e-5) -> Any:
    """Give the units of each row mean 0 and variance 1: (v - m) / sqrt(s + eps) * gain + bias (Ba et al., 2016).

    m is the mean of v over the units, s that of (v - m) squared.

    Parameters
    ----------
    v
        A value of the equations, a gate's sum or a state; or a tuple of several, which are normalized as one row.
    gain, bias
        What each unit has one of, a parameter of the cell; of a tuple v tuples. None leaves them out.
    eps
        Added to the variance.

    Returns
    -------
    Traced or tuple
        As v is.
    """
    values = v if isinstance(v, tuple) else (v,)
    m = mean(_sum(values)) / len(values)
    return _scaled(v, [value - m for value in values], gain, bias, eps)


def rms_norm(v: Any, gain: Any = None, eps: float = 1e-5) -> Any:
    """Give the units of each row a mean square of 1: v / sqrt(mean(v * v) + eps) * gain (Zhang and Sennrich, 2019).

    The parameters are those of `layer_norm`.
    """
    return _scaled(v, v if isinstance(v, tuple) else (v,), gain, None, eps)


def _scaled(v: Any, centred: Any, gain: Any, bias: Any, eps: float) -> Any:
    """What is left to do: to divide by the root of the mean square, and to take in gain and bias."""
    r = 1 / sqrt(mean(_sum([value * value for value in centred])) / len(centred) + eps)
    found = tuple([value * r for value in centred])
    for option, what, takes in (("gain", gain, operator.mul), ("bias", bias, operator.add)):
        if what is None:
            continue
        each = what if isinstance(v, tuple) else (what,)
        if not isinstance(each, tuple) or len(each) != len(found):
            came = f"a tuple of {len(each)}" if isinstance(each, tuple) else f"a {type(each).__name__}"
            raise TypeError(f"{option} is {came}; expected a tuple of {len(found)}, one for each value of v")
        found = tuple([takes(x, one) for x, one in zip(found, each, strict=True)])
    return found if isinstance(v, tuple) else found[0]


def _sum(values: Any) -> Any:
    first, *rest = values
    for value in rest:
        first = first + value
    return first
