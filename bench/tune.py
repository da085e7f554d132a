"""Whether the numbers by which the C kernels choose between ways are right for this machine.

    python -m fastrnn.bench.tune [--check] [--seconds S] [NAME ...]
    python -m fastrnn.bench.tune --table

A call chooses by sizes how it goes about its work; which way it takes changes no bit, only the time. The numbers are
formulas of what is known of the machine, and stand in one table, `kernels/choices.py`; --table prints it, with what
they are here. Without, each choice is forced either way, in turns, at sizes on both sides of its number, and a table
tells how long the choice takes beside the best that was forced: minima, of a thread's own time where there is one
thread. With --check the status is 1 if one takes more than a tenth longer. FASTRNN_TUNE, as in
FASTRNN_TUNE=ROWS_WORTH_FUSING=8,ROW_VECTORS=4, replaces numbers from the import on; FASTRNN_L1D, FASTRNN_L2 and
FASTRNN_L3, as in FASTRNN_L2=512K, replace the sizes of caches that they follow from.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

import fastrnn
from fastrnn import backends
from fastrnn.cells import LIBRARY
from fastrnn.errors import BackendError
from fastrnn.kernels.choices import CHOICES
from fastrnn.threads import available_cpus

__all__ = ["RULES", "Found", "Rule", "main", "measure", "show"]

ALWAYS = 1 << 40
SLOWER = 1.1  # from which on a choice is wrong: minima lie within some percent
Shape = tuple[int, int, int, int]  # T, N, I, H


@dataclass(frozen=True)
class Rule:
    """A choice: what it is between, by the numbers that force it, and where it is looked at."""

    name: str
    forced: Mapping[str, Mapping[str, int]]
    shapes: Sequence[Shape]
    kind: str = "inference"
    threads: int = 1
    cell: str = "lstm"


@dataclass(frozen=True)
class Found:
    """Seconds of a call at one shape, as it chooses and forced."""

    rule: Rule
    shape: Shape
    chosen: list[float]
    forced: dict[str, list[float]]

    @property
    def best(self) -> str:
        """The fastest of the ways that were forced."""
        return min(self.forced, key=lambda way: min(self.forced[way]))

    @property
    def ratio(self) -> float:
        """How many times as long as that the call takes as it chooses."""
        return min(self.chosen) / min(self.forced[self.best])


def _either(number: str, below: str, above: str) -> dict[str, dict[str, int]]:
    """What forces a choice by whether something is below a number."""
    return {below: {number: ALWAYS}, above: {number: 0}}


RULES = (
    Rule(
        "input product", _either("ROWS_WORTH_FUSING", "ahead", "with the recurrent one"),
        [(50, N, H, H) for H in (128, 512) for N in (2, 4, 5, 8)],
    ),
    Rule(
        "packing", {
            "first": {"STEPS_NOT_WORTH_PACKING": 0, "STEPS_NOT_WORTH_PACKING_LARGE": 0},
            "as each step goes": {"STEPS_NOT_WORTH_PACKING": ALWAYS, "STEPS_NOT_WORTH_PACKING_LARGE": ALWAYS},
        }, [(T, 8, H, H) for H, steps in ((256, (1, 2, 3, 4)), (1024, (1, 2, 4, 8, 9, 12))) for T in steps], "forward",
    ),
    Rule(
        "bytes of a projection", {f"{kb} KB": {"PROJECTION_BYTES": kb << 10} for kb in (128, 256, 512, 1024, 2048)},
        [(500, 1, 128, 128), (500, 2, 256, 256)],
    ),
    Rule(
        "fetching ahead", _either("FETCH_BYTES", "never", "always"),
        [(5, N, H, H) for H in (128, 512) for N in (8, 64)],
    ),
    Rule(
        "a single row", {"steps at once": {"ROW_VECTORS": ALWAYS}, "step by step": {"ROW_VECTORS": 0}},
        [(200, 1, 1, H) for H in (16, 64, 96, 128, 160, 192, 256)],
    ),
    Rule(
        "input of a single row", {
            "ahead": {"ROW_INPUTS": 0, "ROW_BYTES": 0}, "with the recurrent one": {"ROW_INPUTS": ALWAYS},
        }, [(200, 1, I, H) for I, H in ((2, 64), (8, 64), (24, 32), (40, 32), (40, 16))],
    ),
    Rule(
        "gradients of few rows", {"as of many": {"FEW_ROWS": 0}, "in place": {"FEW_ROWS": ALWAYS}},
        [(1, N, H, H) for H in (256, 512) for N in (4, 8, 12, 16)], "training",
    ),
    Rule(
        "sums of gradients", {f"{mb} MB": {"GRADIENT_BYTES": mb << 20} for mb in (1, 2, 4, 8)},
        [(10, 32, 256, 256), (10, 20, 650, 650)], "training",
    ),
    Rule(
        "rows of a scan on the way back", {f"{rows}": {"ROWS_BACK": rows} for rows in (96, 192, 384)},
        [(1000, 8, 128, 128)], "training", cell="min_gru",
    ),
    Rule(
        "two threads or one", _either("FLOPS_WORTH_A_THREAD", "one", "two"),
        [(10, 16, 32, 32), (20, 16, 32, 32), (50, 16, 32, 32), (20, 1, 128, 128), (50, 1, 128, 128)], threads=2,
    ),
    Rule(
        "what two threads share", {
            "units": {"ROWS_WORTH_A_THREAD": ALWAYS, "ROWS_WORTH_LARGE_WEIGHTS": ALWAYS},
            "batch": {"ROWS_WORTH_A_THREAD": 0, "ROWS_WORTH_LARGE_WEIGHTS": 0},
        }, [(20, N, H, H) for H in (256, 650) for N in (4, 8, 16, 24, 32)], threads=2,
    ),
)  # fmt: skip


@contextmanager
def _forced(numbers: Mapping[str, int]) -> Iterator[None]:
    """Let the kernels choose by other numbers meanwhile."""
    module = backends.load("cython")
    before = module._override(**numbers)
    try:
        yield
    finally:
        module._override(**before)


def _call(rule: Rule, shape: Shape) -> Callable[[], Any]:
    T, N, I, H = shape
    rng = np.random.default_rng(0)
    x, dy = rng.standard_normal((T, N, I), "float32"), rng.standard_normal((T, N, H), "float32")
    if rule.cell == "lstm":
        module: Any = fastrnn.LSTM(I, H, seed=0, backend="cython")
    else:
        module = fastrnn.Recurrent(LIBRARY[rule.cell], I, H, seed=0, backend="cython")
    if rule.kind == "inference":
        return lambda: module(x)
    if rule.kind == "forward":
        return lambda: module.forward(x)
    return lambda: module.backward(module.forward(x)[-1], dy)


def measure(rule: Rule, shape: Shape, seconds: float, rounds: int = 5) -> Found:
    """Call in turns as chosen and forced, for so long, but `rounds` times at least."""
    call, before = _call(rule, shape), fastrnn.get_num_threads()
    clock = time.perf_counter if rule.threads > 1 or os.name == "nt" else time.thread_time  # Windows counts in 16 ms
    ways: dict[str, Mapping[str, int]] = {"": {}, **rule.forced}
    samples: dict[str, list[float]] = {way: [] for way in ways}
    try:
        fastrnn.set_num_threads(rule.threads)
        end = time.perf_counter() + seconds
        while len(samples[""]) < rounds or time.perf_counter() < end:
            for way, numbers in ways.items():
                with _forced(numbers):
                    call()  # finds caches as a loop of such calls does, and does not count
                    start = clock()
                    call()
                    samples[way].append(clock() - start)
    finally:
        fastrnn.set_num_threads(before)
    return Found(rule, shape, samples.pop(""), samples)


def show(rows: Sequence[Found]) -> Table:
    """Return a table of the choices, those that are wrong in red."""
    table = Table("choice", "(T, N, I, H)", "chosen, us", "best that was forced", "chosen / best")
    for row in rows:
        style = "red" if row.ratio > SLOWER else ""
        told = (row.rule.name, str(row.shape), f"{1e6 * min(row.chosen):.1f}", row.best, f"{row.ratio:.2f}")
        table.add_row(*told, style=style)
    return table


def numbers() -> Table:
    """Return a table of the numbers: what they are computed from, what they are here, and what they mean."""
    module: Any = backends.load("cython")
    table = Table("number", "formula", "here", "meaning")
    for name, value in module._numbers().items():
        table.add_row(name, CHOICES[name].formula, str(value), CHOICES[name].meaning)
    return table


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; return the status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="of choices; all unless given")
    parser.add_argument("--check", action="store_true", help="fail if a choice is wrong")
    parser.add_argument("--table", action="store_true", help="print the numbers, and measure nothing")
    parser.add_argument("--seconds", type=float, default=0.5, help="for each size")
    given = parser.parse_args(arguments)
    names = [rule.name for rule in RULES]
    if unknown := sorted(set(given.names) - set(names)):
        parser.error(f"there is no choice {unknown[0]!r}; expected some of {', '.join(map(repr, names))}")
    try:
        backends.load("cython")
    except BackendError as error:
        parser.error(str(error))
    if given.table:
        Console().print(numbers())
        return 0
    rules = [rule for rule in RULES if not given.names or rule.name in given.names]
    rows = [measure(r, shape, given.seconds) for r in rules if r.threads <= available_cpus() for shape in r.shapes]
    Console().print(show(rows))
    wrong = sum(row.ratio > SLOWER for row in rows)
    print(f"{len(rows)} choices, {wrong} of them more than {SLOWER - 1:.0%} slower than the best that was forced")
    return int(given.check and wrong > 0)


if __name__ == "__main__":
    raise SystemExit(main())
