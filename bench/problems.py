"""A case made concrete: arrays for it, and the right answer from the NumPy reference."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from fastrnn import reference
from fastrnn.bench.cases import Case
from fastrnn.cells import Weights, WrittenCell
from fastrnn.parameters import Array

__all__ = ["Outcome", "Problem", "difference", "make", "solve", "suffixes"]

FIELDS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr", "unit")  # of a layer and direction

POSITIVE = {"slstm": ("n",)}  # states of a cell by which it divides

Outcome = dict[str, Array]  # y, h_n, c_n; in training also dx, dh_0, dc_0 and d + every parameter's name

# The largest error of a right answer, in units of eps * sqrt(terms of the longest sum) * max(1, largest element). Sums
# in any order differ by about one unit; peers that approximate exp and tanh more coarsely than we do reach a few. A
# wrong formula is off by thousands.
UNITS = 16.0


# The same where weights have fewer bits: what peers do with them differs, and errors go on from step to step.
NARROW = {"bfloat16": 0.1, "int8": 0.3}


@dataclass(frozen=True)
class Problem:
    """A module's parameters, its input, and the gradients that come back into its outputs; none is written to."""

    case: Case
    x: Array  # (T, N, I)
    lengths: Array | None  # (N,)
    state: tuple[Array, ...]  # h_0 (L*D, N, P), and a cell's other states, (L*D, N, H)
    parameters: dict[str, Array]  # by torch's names
    dy: Array  # (T, N, D*P)
    dstate: tuple[Array, ...]  # dh_n and the others, shaped like state


class Part(NamedTuple):
    """The sequences of one length."""

    rows: Array  # of the batch
    at: tuple[Array, ...]  # of their elements in (T, N, ...), in the order of the direction


def suffixes(case: Case) -> list[str]:
    """The endings of parameter names, layer by layer and forward before reverse, in the order of h_n's first axis."""
    return [f"_l{layer}{end}" for layer in range(case.num_layers) for end in ("", "_reverse")[: case.directions]]


def make(case: Case) -> Problem:
    """Draw a case's arrays: inputs, states and gradients O(1), weights such that pre-activations are O(1) too."""
    rng = np.random.default_rng([case.T, case.N, case.I, case.H])
    T, N, I, H, P, D = case.T, case.N, case.I, case.H, case.outputs, case.directions
    cell, positive = case.definition, POSITIVE.get(case.cell, ())

    def uniform(bound: float, *shape: int) -> Array:
        return rng.uniform(-bound, bound, shape).astype(case.dtype)

    parameters: dict[str, Array] = {}
    for index, suffix in enumerate(suffixes(case)):
        columns = I if index < D else P * D
        rows_ih, rows_hh = len(cell.gates_ih) * H, len(cell.gates_hh) * H
        parameters[f"weight_ih{suffix}"] = uniform(1.5 / columns**0.5, rows_ih, columns)
        if rows_hh:
            parameters[f"weight_hh{suffix}"] = uniform(1.5 / P**0.5, rows_hh, P)
        parameters[f"bias_ih{suffix}"] = uniform(0.5, rows_ih)
        if rows_hh:
            parameters[f"bias_hh{suffix}"] = uniform(0.5, rows_hh)
        if case.proj_size:
            parameters[f"weight_hr{suffix}"] = uniform(2 / H**0.5, P, H)
        if isinstance(cell, WrittenCell) and cell.parameters:
            centres = [[initial or 0.0] for initial in cell.parameters.values()]
            parameters[f"unit{suffix}"] = (uniform(0.5, len(centres), H) + centres).astype(case.dtype)
    states = [(case.num_layers * D, N, P if name == case.states[0] else H) for name in case.states]
    return Problem(
        case,
        uniform(1, T, N, I),
        case.lengths(),
        tuple(
            abs(value) + 1 if name in positive else value
            for name, value in zip(case.states, [uniform(1, *shape) for shape in states], strict=True)
        ),
        parameters,
        uniform(1, T, N, D * P),
        tuple(uniform(1, *shape) for shape in states),
    )


def solve(problem: Problem, kind: str) -> Outcome:
    """Return what every peer has to return: `fastrnn.reference` in float64, one direction and length at a time."""
    case, cell = problem.case, problem.case.definition
    D, P = case.directions, case.outputs
    state = [s.astype("float64") for s in problem.state]
    state_n = [np.empty(s.shape) for s in problem.state]
    x = problem.x.astype("float64")
    y = np.empty(0)
    tapes: dict[int, list[tuple[Part, Any]]] = {}
    for index, suffix in enumerate(suffixes(case)):
        direction = index % D
        if direction == 0:
            x, y = (x if index == 0 else y), np.zeros((case.T, case.N, D * P))
        its = [problem.parameters.get(f"{field}{suffix}") for field in FIELDS]
        weights = Weights._make(None if w is None else w.astype("float64") for w in its)
        tapes[index] = []
        for part in _parts(problem, reverse=direction == 1):
            state_0 = tuple(s[index, part.rows] for s in state)
            its_y, its_state_n, tape = reference.forward(cell, x[part.at], state_0, weights, tape=kind == "training")
            y[..., direction * P : (direction + 1) * P][part.at] = its_y
            for whole, value in zip(state_n, its_state_n, strict=True):
                whole[index, part.rows] = value
            tapes[index].append((part, tape))
    outcome = {"y": y} | _named("{}_n", case, state_n)
    return outcome if kind == "inference" else outcome | _differentiate(problem, tapes)


def _differentiate(problem: Problem, tapes: dict[int, list[tuple[Part, Any]]]) -> Outcome:
    """The gradients of everything that went into `solve`'s forward."""
    case, cell = problem.case, problem.case.definition
    D, P = case.directions, case.outputs
    dstate_n = [d.astype("float64") for d in problem.dstate]
    dstate_0 = [np.empty(d.shape) for d in dstate_n]
    gradients: Outcome = {}
    dy, dx = problem.dy.astype("float64"), np.empty(0)
    for index, suffix in reversed(list(enumerate(suffixes(case)))):
        direction = index % D
        if direction == D - 1:
            dy = dy if index == len(tapes) - 1 else dx
            dx = np.zeros((case.T, case.N, case.I if index < D else D * P))
        for part, tape in tapes[index]:
            its_dy = dy[..., direction * P : (direction + 1) * P][part.at]
            its_dstate = tuple(d[index, part.rows] for d in dstate_n)
            its_dx, its_dstate_0, dweights = reference.backward(cell, tape, its_dy, its_dstate)
            dx[part.at] += np.asarray(its_dx)
            for whole, value in zip(dstate_0, its_dstate_0, strict=True):
                whole[index, part.rows] = value
            for field, gradient in zip(FIELDS, dweights, strict=True):
                if gradient is None:
                    continue
                gradients[f"d{field}{suffix}"] = gradients.get(f"d{field}{suffix}", 0) + np.asarray(gradient)
    return {"dx": dx} | _named("d{}_0", case, dstate_0) | gradients


def difference(case: Case, got: Outcome, want: Outcome) -> str | None:
    """Say how `got` differs from `want`, or return None where it is right within the dtype's accuracy."""
    if got.keys() != want.keys():
        return f"returns {', '.join(got)}; expected {', '.join(want)}"
    terms = case.T * (2 + case.gates) * (case.I + case.H) + case.T * case.N
    for name, right in want.items():
        if got[name].shape != right.shape:
            return f"{name} has shape {got[name].shape}; expected {right.shape}"
        error = float(np.abs(got[name] - right).max())
        limit = UNITS * float(np.finfo(case.dtype).eps) * terms**0.5 * max(1.0, float(np.abs(right).max()))
        limit = NARROW.get(case.precision, limit)
        if not error <= limit:  # NaN is wrong too
            return f"{name} is off by {error:.2g}; expected at most {limit:.2g}"
    return None


def _parts(problem: Problem, *, reverse: bool) -> Iterator[Part]:
    """The rows of each length, and their steps in the order in which a direction takes them."""
    lengths = np.full(problem.case.N, problem.case.T) if problem.lengths is None else problem.lengths
    for length in np.unique(lengths):
        (rows,) = np.nonzero(lengths == length)
        steps = np.arange(length)[::-1] if reverse else np.arange(length)
        yield Part(rows, np.ix_(steps, rows))


def _named(pattern: str, case: Case, values: Iterable[Array]) -> Outcome:
    return {pattern.format(state): value for state, value in zip(case.states, values, strict=True)}
