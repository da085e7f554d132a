"""Cells with one product or few gates: variants of the plain RNN."""

from __future__ import annotations

from typing import Any

from fastrnn.cells.language import cell
from fastrnn.cells.operations import relu, sigmoid, tanh

__all__ = ["antisymmetric_rnn", "fast_grnn", "fast_rnn", "ind_rnn", "ind_rnn_tanh", "leaky_rnn"]


@cell(gates="n", states="h", parameters="u", from_x="n")
def ind_rnn(a: Any, prev: Any, p: Any) -> Any:
    """Independently recurrent network (Li et al., 2018): each unit sees itself, by one weight, and x."""
    return relu(a.n + p.u * prev.h)


@cell(gates="n", states="h", parameters="u", from_x="n")
def ind_rnn_tanh(a: Any, prev: Any, p: Any) -> Any:
    """As `ind_rnn`, with tanh."""
    return tanh(a.n + p.u * prev.h)


@cell(gates="n", states="h", parameters={"rate": -2.0})
def leaky_rnn(a: Any, prev: Any, p: Any) -> Any:
    """Leaky integrators (Mozer, 1992; Jaeger et al., 2007): each unit follows at a rate of its own, sigmoid(rate)."""
    n = tanh(a.n)
    return prev.h + sigmoid(p.rate) * (n - prev.h)


@cell(gates="n", states="h", parameters={"alpha": -3.0, "beta": 3.0})
def fast_rnn(a: Any, prev: Any, p: Any) -> Any:
    """RNN with a weighted residual connection (Kusupati et al., 2018); theirs has one weight for all units."""
    return sigmoid(p.alpha) * tanh(a.n) + sigmoid(p.beta) * prev.h


@cell(gates="s", states="h", parameters={"b_z": 1.0, "b_n": 1.0, "zeta": 1.0, "nu": -4.0})
def fast_grnn(a: Any, prev: Any, p: Any) -> Any:
    """Gated network of a single product (Kusupati et al., 2018): gate and candidate differ in their biases only."""
    z, n = sigmoid(a.s + p.b_z), tanh(a.s + p.b_n)
    return (sigmoid(p.zeta) * (1.0 - z) + sigmoid(p.nu)) * n + z * prev.h


@cell(gates="n", states="h", parameters={"gamma": 0.01})
def antisymmetric_rnn(a: Any, prev: Any, p: Any) -> Any:
    """A step of 0.1 of Euler's method through a stable system (Chang et al., 2019).

    Its recurrent weights are to be antisymmetric, which is up to whoever trains it: weight_hh -= weight_hh.T, halved,
    after each of the optimizer's steps. gamma is how much it is damped.
    """
    return prev.h + 0.1 * tanh(a.n - p.gamma * prev.h)
