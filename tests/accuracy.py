"""Measure the error of the float32 kernels, and of PyTorch's, against the float64 reference.

    python tests/accuracy.py

prints the largest error of every output and gradient over the shapes of the benchmarks' grid, in some minutes. The
problems are those of the tests: weights of O(1), nonzero states, gradients into every output. tests/test_accuracy.py
does the same with the smaller shapes.

    python tests/accuracy.py narrow

prints the errors of y in inference with weights of fewer bits, of gradients in training, and those of others that have
such, on the problems of the benchmarks: the tables of docs/precision.md.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from dataclasses import replace
from math import exp, fsum, log

import numpy as np
from problems import PARAMETERS, Problem, run, solved
from tolerances import Outcome

from fastrnn.bench import problems as bench_problems
from fastrnn.bench.cases import GRID, Case
from fastrnn.bench.peers import PEERS, UnsupportedError

CELLS = {"lstm": "LSTM", "gru": "GRU", "rnn_tanh": "RNN"}  # and torch.nn's names
Errors = dict[str, tuple[float, float]]  # per output and gradient: max |got - want| of the kernels, of PyTorch


def run_torch(problem: Problem) -> Outcome:
    """What `problems.run` returns, from a torch.nn module."""
    import torch

    states = problem.cell.states
    module = getattr(torch.nn, CELLS[problem.cell.name])(problem.weights.ih.shape[1], problem.weights.hh.shape[1])
    given = {name: torch.tensor(array, requires_grad=True) for name, array in problem.inputs().items()}
    parameters = [name for name in PARAMETERS if name in given]
    for name in parameters:
        setattr(module, f"{name}_l0", torch.nn.Parameter(given[name].detach()))
    state = tuple(given[f"{name}_0"][None] for name in states)
    y, state_n = module(given["x"], state if len(states) > 1 else state[0])
    state_n = state_n if len(states) > 1 else (state_n,)
    torch.autograd.backward([y, *state_n], [given["dy"], *(given[f"d{name}_n"][None] for name in states)])
    outcome = {"y": y, "dx": given["x"].grad}
    outcome |= {f"{name}_n": value[0] for name, value in zip(states, state_n, strict=True)}
    outcome |= {f"d{name}_0": given[f"{name}_0"].grad for name in states}
    outcome |= {f"d{name}": getattr(module, f"{name}_l0").grad for name in parameters}
    return {name: value.detach().numpy() for name, value in outcome.items()}


def largest_errors(backend: str, cell: str, shape: Sequence[int]) -> Errors:
    """Run one problem on a backend and on PyTorch."""
    problem, want = solved(cell, *shape, dtype="float32")
    ours, its = run(backend, problem), run_torch(problem)
    assert ours.keys() == its.keys() == want.keys()
    return {name: tuple(float(np.abs(got[name] - a).max()) for got in (ours, its)) for name, a in want.items()}


def ratios(errors: Errors) -> list[float]:
    """The kernels' error over PyTorch's, per output and gradient."""
    return [ours / its for ours, its in errors.values()]


def geometric_mean(values: Sequence[float]) -> float:
    """The n-th root of the product."""
    return exp(fsum(log(value) for value in values) / len(values))


def narrow_errors(case: Case, kind: str) -> dict[str, tuple[float, float]]:
    """The largest error and the root mean square, by precision, who computes, and what: y, or in training gradients.

    Those of gradients are divided by their largest element and their root mean square.
    """
    problem, found = bench_problems.make(case), {}
    want = bench_problems.solve(problem, kind)
    names = ["y"] if kind == "inference" else ["dx", "dweight_ih_l0", "dweight_hh_l0"]
    for precision in ("float32", "bfloat16", "int8"):
        its = replace(problem, case=replace(case, precision=precision))
        for name in ("cython", "torch", "onnxruntime"):
            with contextlib.suppress(UnsupportedError):
                prepared = PEERS[name].prepare(its, kind, 1)
                with prepared.context():
                    got = prepared.outcome(prepared.call())
                for each in names:
                    errors, right = np.abs(got[each] - want[each]), want[each] if kind == "training" else np.ones(1)
                    top, mean = float(np.abs(right).max()), float((right**2).mean() ** 0.5)
                    whole = f"{precision} {name} {each.removesuffix('_l0')}"
                    found[whole] = float(errors.max()) / top, float((errors**2).mean() ** 0.5) / mean
    return found


def print_narrow(kind: str) -> None:
    for cell in ("lstm", "gru", "rnn"):
        every: dict[str, list[tuple[float, float]]] = {}
        for shape in GRID[:-1]:
            for name, errors in narrow_errors(Case(cell, *shape), kind).items():
                every.setdefault(name, []).append(errors)
        for name, errors in every.items():
            tops, means = zip(*errors, strict=True)
            print(
                f"{cell} {name}: largest {geometric_mean(tops):.2g} ({max(tops):.2g}), root mean square "
                f"{geometric_mean(means):.2g} ({max(means):.2g})",
                flush=True,
            )


if __name__ == "__main__" and sys.argv[1:] == ["narrow"]:
    print_narrow("inference")
    print_narrow("training")
elif __name__ == "__main__":
    for cell in CELLS:
        print(f"{cell}: 1e-7 * largest error of cython / numba / PyTorch")
        every: dict[str, list[float]] = {"cython": [], "numba": []}
        for shape in GRID:
            found = {backend: largest_errors(backend, cell, shape) for backend in every}
            for backend, errors in found.items():
                every[backend] += ratios(errors)
            row = [
                f"{name} {ours * 1e7:.2g}/{found['numba'][name][0] * 1e7:.2g}/{its * 1e7:.2g}"
                for name, (ours, its) in found["cython"].items()
            ]
            print(*shape, " ".join(row), flush=True)
        for backend, values in every.items():
            print(f"{backend} over PyTorch: geometric mean {geometric_mean(values):.2f}, largest {max(values):.2f}")
