"""Measure the error of the float32 kernels, and of PyTorch's, against the float64 reference.

    python tests/accuracy.py

prints the largest error of every output and gradient over the shapes of the benchmarks' grid, in some minutes. The
problems are those of the tests: weights of O(1), nonzero states, gradients into every output. tests/test_accuracy.py
does the same with the smaller shapes.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, fsum, log

import numpy as np
from problems import PARAMETERS, Problem, run, solved
from tolerances import Outcome

from fastrnn.bench.cases import GRID

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


if __name__ == "__main__":
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
