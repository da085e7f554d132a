"""Random problems on the C kernels, each with choices forced at random, against the reference in float64, for a time.

Half of them are of the built-in cells, as the driver takes them; half of written cells, through `fastrnn.Recurrent`.

python tests/fuzz.py [--seconds SECONDS] [--seed SEED] [--digest]

The first failure ends it, and says by which numbers it can be made again. With --digest the problems are a fixed few,
and what is printed is a digest of all their bits: two builds of the kernels agree if their digests do.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import hashlib
import os
import time
from typing import Any

os.environ.setdefault("FASTRNN_OVERSUBSCRIBE", "1")  # before the import: threads are tried on however few CPUs

import numpy as np
from problems import Problem, assert_outcome, expected, make, run
from test_switches import SWITCHES, overridden
from tolerances import Outcome
from written_problems import WrittenProblem, draw_written

from fastrnn.backends import load
from fastrnn.cells import CELLS

DIGESTED = 300


def draw(rng: np.random.Generator) -> Problem:
    """A problem of small sizes, or with one larger one."""
    cell = str(rng.choice(list(CELLS)))
    T, N, I, H = (int(rng.integers(0, high)) for high in (12, 14, 20, 80))
    T, N = (T * 10, N) if rng.random() < 0.1 else (T, N * 10) if rng.random() < 0.1 else (T, N)
    I, H = (I * 20, H) if rng.random() < 0.1 else (I, H * 5) if rng.random() < 0.1 else (I, H)
    options: dict[str, Any] = {name: bool(rng.random() < 0.4) for name in ("tokens", "bias", "ragged", "reverse")}
    if cell == "lstm" and H > 1 and rng.random() < 0.4:
        options["proj_size"] = int(rng.integers(1, H))
    return make(cell, T, N, I + 1, H + 1, dtype=str(rng.choice(["float32", "float64"])), **options)


def at_a_kink(problem: Problem | WrittenProblem) -> bool:
    """Whether a sum lies so near to where relu bends that rounding decides about the gradients."""
    if problem.cell.name != "rnn_relu" or not isinstance(problem, Problem) or problem.weights.ih.dtype == np.float64:
        return False
    exact = problem.astype("float64")
    ih = exact.weights.ih
    error = 1e-5 * np.random.default_rng(0).standard_normal(ih.shape)  # alike for all of them it would only scale sums
    ends = [dataclasses.replace(exact, weights=exact.weights._replace(ih=ih * (1 + by))) for by in (-error, error)]
    one, other = (run("numpy", each) for each in ends)
    return any((abs(one[name] - other[name]) > 1e-2 * (1 + abs(one[name]))).any() for name in one)


def outcome(problem: Problem | WrittenProblem, num_threads: int) -> Outcome:
    """What the C kernels make of a problem."""
    if isinstance(problem, WrittenProblem):
        return problem.run("cython", problem.dtype, num_threads)
    return run("cython", problem, num_threads=num_threads)


def check(problem: Problem | WrittenProblem, got: Outcome) -> None:
    """AssertionError unless that is what the reference has."""
    if isinstance(problem, WrittenProblem):
        problem.check(got)
    else:
        assert_outcome(problem, got, expected(problem))


def main() -> None:
    """Run problems until the time is over, or digest some."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--digest", action="store_true")
    arguments = parser.parse_args()
    digest, count, end = hashlib.sha256(), 0, time.monotonic() + arguments.seconds
    print(load("cython").describe())
    while count < DIGESTED if arguments.digest else time.monotonic() < end:
        rng = np.random.default_rng([arguments.seed, count])
        problem = draw_written(rng) if count % 2 else draw(rng)
        switch = str(rng.choice(list(SWITCHES)))
        if not arguments.digest and at_a_kink(problem):
            count += 1
            continue
        with overridden(**SWITCHES[switch]):
            got = outcome(problem, int(rng.integers(1, 4)))
        if arguments.digest:
            for array in got.values():
                digest.update(array.tobytes())
        else:
            with contextlib.ExitStack() as when_wrong:
                when_wrong.callback(print, f"seed {arguments.seed}, problem {count}: {problem.cell.name}, {switch}")
                check(problem, got)
                when_wrong.pop_all()
        count += 1
    print(f"{count} problems" + (f": {digest.hexdigest()}" if arguments.digest else " equal the reference"))


if __name__ == "__main__":
    main()
