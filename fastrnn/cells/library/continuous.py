"""Cells that are steps through a differential equation."""

from __future__ import annotations

from typing import Any

from fastrnn.cells.language import cell
from fastrnn.cells.operations import exp, relu, sigmoid, softplus, tanh

__all__ = ["cfc", "cfc_dt", "co_rnn", "gru_d", "lem", "ltc", "ltc_dt"]


@cell(gates="f g a b", states="h")
def cfc(a: Any, prev: Any) -> Any:
    """Closed-form continuous-time network (Hasani et al., 2022), without a backbone, for steps of one unit of time."""
    f, g = tanh(a.f), tanh(a.g)
    t = sigmoid(a.a + a.b)
    return f + t * (g - f)


@cell(gates="f g a b", states="h", extra="dt")
def cfc_dt(a: Any, prev: Any, e: Any) -> Any:
    """Closed-form continuous-time network (Hasani et al., 2022), without a backbone, for steps `dt` apart."""
    f, g = tanh(a.f), tanh(a.g)
    t = sigmoid(a.a * e.dt + a.b)
    return f + t * (g - f)


@cell(gates="t u z y", states="y z")
def lem(a: Any, prev: Any) -> Any:
    """Long expressive memory (Rusch et al., 2022), for steps of one unit of time: two time scales learned from data.

    As in the paper z takes the product of y before the step, and y that of the new z.
    """
    t, u = sigmoid(a.t), sigmoid(a.u)
    z = prev.z + t * (tanh(a.z) - prev.z)
    y = prev.y + u * (tanh(a.y(z)) - prev.y)
    return y, z


@cell(gates="f", states="h", parameters={"tau": 1.0, "target": 1.0})
def ltc(a: Any, prev: Any, p: Any) -> Any:
    """Liquid time-constant network (Hasani et al., 2021): one fused step of a tenth of a unit of time.

    Each unit decays at a rate of its own, softplus(tau), and is drawn towards its target as fast as its gate is open.
    """
    f = sigmoid(a.f)
    return (prev.h + 0.1 * f * p.target) / (1.0 + 0.1 * (softplus(p.tau) + f))


@cell(gates="f", states="h", parameters={"tau": 1.0, "target": 1.0}, extra="dt")
def ltc_dt(a: Any, prev: Any, p: Any, e: Any) -> Any:
    """Liquid time-constant network (Hasani et al., 2021): one fused step of `dt`, the time since the step before."""
    f = sigmoid(a.f)
    return (prev.h + e.dt * f * p.target) / (1.0 + e.dt * (softplus(p.tau) + f))


@cell(gates="r z n", states="h", parameters={"rate": 1.0, "delay": 0.0}, extra="dt")
def gru_d(a: Any, prev: Any, p: Any, e: Any) -> Any:
    """GRU whose state decays over `dt`, the time since the step before (Che et al., 2018, the decay of h).

    The decay of x, which the paper has too, and its mask as further columns of x, are a layer's before. The
    paper's decay sees the gaps of all variables; here it is one gap of a row, as where all are measured together.
    """
    h = prev.h * exp(-relu(p.rate * e.dt + p.delay))
    r, z = sigmoid(a.r(h)), sigmoid(a.z(h))
    n = tanh(a.n(r * h))
    return (1 - z) * h + z * n


@cell(gates="y z", states="y z", parameters={"gamma": 2.7, "epsilon": 4.7}, from_h="y")
def co_rnn(a: Any, prev: Any, p: Any) -> Any:
    """Coupled oscillators (Rusch and Mishra, 2021), in steps of 0.042: y is where each is, z how fast.

    Two recurrent products, of y and of z. Frequency gamma and damping epsilon, one number each in the paper, begin as
    those of its experiment on MNIST by pixels.
    """
    z = prev.z + 0.042 * (tanh(a.z(prev.z) + a.y) - p.gamma * prev.y - p.epsilon * prev.z)
    return prev.y + 0.042 * z, z
