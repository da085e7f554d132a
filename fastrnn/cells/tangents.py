"""The tangents of the built-in cells, as written cells: what one step does with small changes of what goes into it.

Write v' for the tangent of v, its derivative in a given direction. A step's tangent is linear in those of its sums and
states, with coefficients made of `values` of the step itself, which a cell is given beside x. So its recurrent product
is the cell's own, and forward mode is a layer like any other (`tangent_cell`).

What it gives back to its values, d<d, state'>/dv, is where second derivatives come from. The last reverse pass
(`adjoint_cell`) goes the way of back-propagation through time, and at each step adds these gradients times the
derivatives of the values: to be derived like every other cell's, it has them as an additional state q, whose gradient
is 1, that sums up gradient times v' over all values.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any, NamedTuple

from fastrnn.cells.language import WrittenCell, derived_cell
from fastrnn.cells.operations import where
from fastrnn.cells.table import CELLS

__all__ = ["TANGENTS", "Equations", "adjoint_cell", "tangent_cell"]


class Equations(NamedTuple):
    """The tangent of a cell's step."""

    sums: tuple[str, ...]  # their names: those that x alone feeds, both, h alone
    of_x: tuple[int, ...]  # blocks of weight_ih, of the first of these sums
    of_h: tuple[int, ...]  # of weight_hh, of the last
    values: tuple[str, ...]  # what coefficients are made of
    step: Callable[[Any, Any, Any], tuple[tuple[Any, ...], Mapping[str, Any]]]  # of sums', states', values


def _rnn_tanh(a: Any, prev: Any, e: Any) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
    h = a.h * (1 - e.h * e.h)  # h = tanh(a)
    return (h,), {"h": h}


def _rnn_relu(a: Any, prev: Any, e: Any) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
    h = where(e.h <= 0, 0, a.h)  # h = max(a, 0); its second derivative is 0
    return (h,), {"h": h}


def _lstm(a: Any, prev: Any, e: Any) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
    i, f, o = a.i * (e.i * (1 - e.i)), a.f * (e.f * (1 - e.f)), a.o * (e.o * (1 - e.o))
    g = a.g * (1 - e.g * e.g)
    c = e.f * prev.c + f * e.c_prev + i * e.g + e.i * g  # c = f * c_prev + i * g
    k = c * (1 - e.k * e.k)  # k = tanh(c)
    u = o * e.k + e.o * k  # u = o * k, which is h, but for a projection
    return (u, c), {"i": i, "f": f, "g": g, "o": o, "c_prev": prev.c, "k": k, "u": u}


def _gru(a: Any, prev: Any, e: Any) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
    r, z = a.r * (e.r * (1 - e.r)), a.z * (e.z * (1 - e.z))
    n = (a.n.x + r * e.a_n + e.r * a.n.h) * (1 - e.n * e.n)  # n = tanh(x_n + r * a_n)
    h = n + z * (e.h_prev - e.n) + e.z * (prev.h - n)  # h = n + z * (h_prev - n)
    return (h,), {"r": r, "z": z, "n": n, "a_n": a.n.h, "h_prev": prev.h}


#: By the name of the cell.
TANGENTS: dict[str, Equations] = {
    "rnn_tanh": Equations(("h",), (0,), (0,), ("h",), _rnn_tanh),
    "rnn_relu": Equations(("h",), (0,), (0,), ("h",), _rnn_relu),
    "lstm": Equations(tuple("ifgo"), (0, 1, 2, 3), (0, 1, 2, 3), ("i", "f", "g", "o", "c_prev", "k"), _lstm),
    "gru": Equations(("n.x", "r", "z", "n.h"), (2, 0, 1), (0, 1, 2), ("r", "z", "n", "a_n", "h_prev"), _gru),
}


@functools.cache
def tangent_cell(name: str, with_sums: bool) -> WrittenCell:
    """The tangent of a built-in cell's step; its backward also gives the gradients of what it is given beside x.

    That is its values and, `with_sums`, after them something to be added to each sum.
    """
    equations = TANGENTS[name]
    more = tuple(map(_of_sum, equations.sums)) if with_sums else ()

    def tangent(a: Any, prev: Any, e: Any) -> tuple[Any, ...]:
        if with_sums:
            a = _namespace({its: _at(a, its) + getattr(e, _of_sum(its)) for its in equations.sums})
        return equations.step(a, prev, e)[0]

    tangent.__name__ = f"{name}_tangent"
    return _derived(tangent, name, CELLS[name].states, (*equations.values, *more), of_extra=True)


@functools.cache
def adjoint_cell(name: str, of_output: bool) -> WrittenCell:
    """The same step, given its values and the gradient of each, whose backward is the reverse pass of this module.

    `of_output`: and that of u, which a projection takes.
    """
    equations = TANGENTS[name]
    known = (*equations.values, "u") if of_output else equations.values

    def adjoint(a: Any, prev: Any, e: Any) -> tuple[Any, ...]:
        states, values = equations.step(a, prev, e)
        q = prev.q
        for value in known:
            q = q + getattr(e, f"d_{value}") * values[value]
        return *states, q

    adjoint.__name__ = f"{name}_adjoint"
    extra = (*equations.values, *[f"d_{value}" for value in known])
    return _derived(adjoint, name, (*CELLS[name].states, "q"), extra, of_extra=False)


def _derived(
    function: Callable[..., Any], name: str, states: tuple[str, ...], extra: tuple[str, ...], of_extra: bool
) -> WrittenCell:
    apart = tuple(dict.fromkeys(its.partition(".")[0] for its in TANGENTS[name].sums if "." in its))
    return derived_cell(function, CELLS[name].gates, states, apart, extra, of_extra)


def _of_sum(name: str) -> str:
    return "to_" + name.replace(".", "_")


def _at(a: Any, name: str) -> Any:
    for part in name.split("."):
        a = getattr(a, part)
    return a


def _namespace(sums: Mapping[str, Any]) -> SimpleNamespace:
    """Sums by their names, as the argument of a cell's function has them."""
    found = SimpleNamespace()
    for name, value in sums.items():
        gate, _, part = name.partition(".")
        if part:
            setattr(found, gate, SimpleNamespace(**vars(getattr(found, gate, SimpleNamespace())), **{part: value}))
        else:
            setattr(found, gate, value)
    return found
