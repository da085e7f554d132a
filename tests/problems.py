"""Random problems for every test, and how to run one on a backend."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from tolerances import Outcome, assert_close, tolerance
from watched import run_watched

from fastrnn.backends import load
from fastrnn.cells import CELLS, Cell, State, Weights
from fastrnn.parameters import Array

# The field of Weights behind each parameter.
PARAMETERS = {  # the fields of Weights, by the names that modules give them
    "weight_ih": "ih",
    "weight_hh": "hh",
    "bias_ih": "bias_ih",
    "bias_hh": "bias_hh",
    "weight_hr": "hr",
    "unit": "unit",
}
PAD = 65  # elements around every input; odd, so that arrays are aligned to their items and to nothing more


@dataclass(frozen=True)
class Problem:
    """One sequence through one layer, and the gradients that come back into it."""

    cell: Cell
    x: Array  # (T, N, I), or tokens (T, N); with batch_sizes the rows (R, I) or (R,)
    state: State
    weights: Weights
    dy: Array | None  # (T, N, P) or (R, P)
    dstate: tuple[Array | None, ...]
    batch_sizes: Array | None = None  # (T,)
    reverse: bool = False

    @property
    def tokens(self) -> bool:
        """Whether x holds token indices."""
        return self.x.dtype.kind == "i"

    @property
    def order(self) -> dict[str, Any]:
        """How the sequences run, as every backend takes it."""
        return {"batch_sizes": self.batch_sizes, "reverse": self.reverse}

    def inputs(self) -> Outcome:
        """Every array of the problem by name."""
        cell = self.cell
        named = {"x": self.x, "dy": self.dy}
        named |= {f"{name}_0": value for name, value in zip(cell.states, self.state, strict=True)}
        named |= {f"d{name}_n": value for name, value in zip(cell.states, self.dstate, strict=True)}
        named |= {name: getattr(self.weights, field) for name, field in PARAMETERS.items()}
        return {name: value for name, value in named.items() if value is not None}

    def with_inputs(self, inputs: Mapping[str, Array]) -> Problem:
        """The same problem made of other arrays, under the names of `inputs`."""
        return replace(
            self,
            x=inputs["x"],
            state=tuple(inputs[f"{name}_0"] for name in self.cell.states),
            weights=Weights(*(inputs.get(name) for name in PARAMETERS)),
            dy=inputs.get("dy"),
            dstate=tuple(inputs.get(f"d{name}_n") for name in self.cell.states),
        )

    def astype(self, dtype: str) -> Problem:
        """The same values in another dtype; tokens stay tokens."""
        return self.with_inputs(
            {name: a if a.dtype.kind == "i" else a.astype(dtype) for name, a in self.inputs().items()}
        )

    def rows(self, rows: slice) -> Problem:
        """Some rows of the batch alone."""
        x, dy, batch_sizes = self.x, self.dy, self.batch_sizes
        if batch_sizes is None:
            x, dy = x[:, rows], None if dy is None else dy[:, rows]
        else:
            ranks = np.concatenate([np.arange(n) for n in batch_sizes])
            kept = np.isin(ranks, np.arange(len(self.state[0]))[rows])
            x, dy = x[kept], None if dy is None else dy[kept]
            batch_sizes = np.array([len(range(n)[rows]) for n in batch_sizes])
        return replace(
            self,
            x=x,
            state=tuple(s[rows] for s in self.state),
            dy=dy,
            dstate=tuple(None if d is None else d[rows] for d in self.dstate),
            batch_sizes=batch_sizes,
        )

    def dense(self) -> Problem:
        """Tokens replaced by the one-hot rows they stand for."""
        one_hot = np.eye(self.weights.ih.shape[1], dtype=self.weights.ih.dtype)
        return replace(self, x=one_hot[self.x])

    def length(self, name: str) -> int:
        """How many terms the sums behind an element of the outcome have; see `tolerances`."""
        rows, H = self.weights.hh.shape
        T, N = self.x.shape[:2] if self.batch_sizes is None else (len(self.batch_sizes), len(self.state[0]))
        H += 0 if self.weights.hr is None else self.weights.hr.shape[1]
        forward = T * (self.weights.ih.shape[1] + H + 2)
        if name in ("y", "h_n", "c_n"):
            return forward
        return forward + T * rows + (T * N if name[1:] in PARAMETERS else 0)


def make(
    cell: str,
    T: int,
    N: int,
    I: int,
    H: int,
    *,
    dtype: str = "float64",
    tokens: bool = False,
    bias: bool = True,
    proj_size: int = 0,
    ragged: bool = False,
    reverse: bool = False,
) -> Problem:
    """A problem with nonzero states and gradients into every output.

    `ragged` sequences have lengths of 0 to T, sorted as backends take them. Weights are O(1) for a few columns and fall
    with the root of their number, so that pre-activations are O(1) at any size and a small change of the state does not
    grow from step to step.
    """
    rng = np.random.default_rng([T, N, I, H])
    row = CELLS[cell]
    rows, P = len(row.gates) * H, proj_size or H
    batch_sizes = None
    leading: tuple[int, ...] = (T, N)
    if ragged:
        lengths = rng.integers(0, T + 1, N)
        lengths[N // 2 : N // 2 + 1] = T
        batch_sizes = (np.arange(T)[:, None] < lengths).sum(1)
        leading = (int(batch_sizes.sum()),)

    def uniform(bound: float, *shape: int) -> Array:
        return rng.uniform(-bound, bound, shape)

    problem = Problem(
        row,
        rng.integers(I, size=leading) if tokens else uniform(2, *leading, I),
        tuple(uniform(1, N, H if name == "c" else P) for name in row.states),
        Weights(
            uniform(1.5 / I**0.5, rows, I),
            uniform(1.5 / P**0.5, rows, P),
            uniform(1, rows) if bias else None,
            uniform(1, rows) if bias else None,
            uniform(2 / H**0.5, P, H) if proj_size else None,
        ),
        uniform(1, *leading, P),
        tuple(uniform(1, N, H if name == "c" else P) for name in row.states),
        batch_sizes,
        reverse,
    )
    return problem.astype(dtype)


def _guarded(array: Array) -> tuple[Array, Array]:
    """A read-only copy of `array` inside a larger buffer of NaN (of -1 for tokens), and that buffer."""
    buffer = np.full(array.size + 2 * PAD, -1 if array.dtype.kind == "i" else np.nan, array.dtype)
    buffer[PAD : PAD + array.size] = array.ravel()
    buffer.flags.writeable = False
    return buffer[PAD : PAD + array.size].reshape(array.shape), buffer


def run(backend: str, problem: Problem, *, num_threads: int = 1) -> Outcome:
    """Forward and backward on a backend, and everything they return by name.

    Checks what every backend promises besides its numbers: inputs are not written, outputs are new, contiguous and of
    the weights' dtype, and backward leaves y alone.
    """
    module, cell = load(backend), problem.cell
    guarded = {name: _guarded(array) for name, array in problem.inputs().items()}
    before = {name: buffer.tobytes() for name, (_, buffer) in guarded.items()}
    given = problem.with_inputs({name: view for name, (view, _) in guarded.items()})

    y, state_n, tape = module.forward(
        cell, given.x, given.state, given.weights, tape=True, num_threads=num_threads, **problem.order
    )
    y_before = y.copy()
    dx, dstate_0, dweights = module.backward(cell, tape, given.dy, given.dstate, num_threads=num_threads)

    for name, (_, buffer) in guarded.items():
        assert buffer.tobytes() == before[name], f"{name} was written to"
    assert y.tobytes() == y_before.tobytes(), "backward wrote to y"
    assert (dx is None) == problem.tokens, "dx is None for tokens and for nothing else"
    outcome: Outcome = {"y": y} if dx is None else {"y": y, "dx": dx}
    outcome |= {f"{name}_n": value for name, value in zip(cell.states, state_n, strict=True)}
    outcome |= {f"d{name}_0": value for name, value in zip(cell.states, dstate_0, strict=True)}
    outcome |= {f"d{name}": value for name, value in zip(PARAMETERS, dweights, strict=True) if value is not None}
    others = {name: buffer for name, (_, buffer) in guarded.items()}
    for name, array in outcome.items():
        assert array.dtype == problem.weights.hh.dtype, f"{name} has dtype {array.dtype}"
        assert array.flags.c_contiguous, f"{name} is not contiguous"
        assert array.flags.writeable, f"{name} is read-only"
        shared = [other for other, its in others.items() if np.may_share_memory(array, its)]
        assert not shared, f"{name} shares memory with {shared}"
        others[name] = array
    return outcome


@lru_cache(maxsize=1)
def solved(cell: str, *size: int, **options: Any) -> tuple[Problem, Outcome]:
    """`make` and `expected`, once for all backends that get the same problem one after another."""
    problem = make(cell, *size, **options)
    return problem, expected(problem)


def expected(problem: Problem) -> Outcome:
    """What the reference gives in float64 for the same values."""
    with np.errstate(all="ignore"):
        return run("numpy", problem.astype("float64"))


def assert_outcome(problem: Problem, got: Outcome, want: Outcome) -> None:
    """Every output and gradient within the tolerance of its dtype and length."""
    assert got.keys() == want.keys()
    dtype = problem.weights.hh.dtype.name
    for name, value in want.items():
        assert_close(name, got[name], value, tolerance(value, dtype, problem.length(name)))


def run_python(code: str, folder: Path, *, timeout: float = 60, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run code in a new interpreter outside the repository, within seconds that `run_watched` counts."""
    return run_watched([sys.executable, "-c", code], timeout, cwd=folder, env=clean_environ(**environ))


def clean_environ(**environ: str) -> dict[str, str]:
    """This process's environment without fastrnn's own variables, and with `environ`."""
    return {k: v for k, v in os.environ.items() if not k.startswith("FASTRNN_")} | environ
