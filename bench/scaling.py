"""How much more threads bring, on this machine, in about two minutes.

    python -m fastrnn.bench.scaling [--save FILE] [--seconds S] [--threads N ...]

An LSTM of each shape is trained, and run, with 1, 2, 4 ... threads in turns; a table shows the time of one thread over
that of so many, and the share of what as many CPUs could bring. The numbers must be the same bits for any number of
threads, or the command fails. FILE holds all samples and what the machine is: please send it, in an issue, of a machine
with many cores or several sockets.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

import fastrnn
from fastrnn.bench.machine import describe, versions
from fastrnn.checks import Array
from fastrnn.threads import available_cpus
from fastrnn.training.files import write_atomically

__all__ = ["SHAPES", "Scaling", "main", "measure", "show"]

# (T, N, I, H): batches that threads share; few rows, whose hidden units they share, with a barrier at every step; a
# single step; and what is too small for many.
SHAPES = (
    (50, 64, 512, 512), (50, 256, 256, 256), (50, 128, 1024, 1024), (100, 32, 128, 128), (50, 64, 32, 32),
    (100, 1, 512, 512), (50, 4, 1024, 1024), (1, 128, 512, 512),
)  # fmt: skip
KINDS = ("inference", "training")


@dataclass(frozen=True)
class Scaling:
    """The seconds of a call, by number of threads."""

    shape: tuple[int, int, int, int]
    kind: str
    samples: dict[int, list[float]]

    def gain(self, threads: int) -> float:
        """How many times as fast as one thread so many are: the ratio of the medians."""
        return median(self.samples[min(self.samples)]) / median(self.samples[threads])


def call_of(shape: tuple[int, int, int, int], kind: str) -> Callable[[], Sequence[Array]]:
    """Return what is measured, and what it returns is compared."""
    T, N, I, H = shape
    rng = np.random.default_rng(0)
    lstm = fastrnn.LSTM(I, H, seed=0)
    x, dy = rng.standard_normal((T, N, I), "float32"), rng.standard_normal((T, N, H), "float32")

    def infer() -> Sequence[Array]:
        y, _ = lstm(x)
        return (y,)

    def train() -> Sequence[Array]:
        y, _, tape = lstm.forward(x)
        dx, _, grads = lstm.backward(tape, dy)
        assert dx is not None
        return (y, dx, *grads.values())

    return infer if kind == "inference" else train


def measure(
    shape: tuple[int, int, int, int], kind: str, counts: Sequence[int], seconds: float, rounds: int = 3
) -> Scaling:
    """Call with each number of threads in turns, for so long, but `rounds` times at least.

    Raises
    ------
    RuntimeError
        If the bits depend on the number of threads.
    """
    call, samples = call_of(shape, kind), {threads: list[float]() for threads in counts}
    before = fastrnn.get_num_threads()
    try:
        fastrnn.set_num_threads(counts[0])
        wanted = call()
        end = time.perf_counter() + seconds
        while len(samples[counts[0]]) < rounds or time.perf_counter() < end:
            for threads in counts:
                fastrnn.set_num_threads(threads)
                call()  # wakes the threads, and does not count
                start = time.perf_counter()
                found = call()
                samples[threads].append(time.perf_counter() - start)
                if not all(np.array_equal(a, b) for a, b in zip(wanted, found, strict=True)):
                    raise RuntimeError(f"{kind} of {shape} has other bits with {threads} threads than with {counts[0]}")
    finally:
        fastrnn.set_num_threads(before)
    return Scaling(shape, kind, samples)


def show(rows: Sequence[Scaling], counts: Sequence[int]) -> Table:
    """Return a table of the gains, and of their shares of the numbers of threads."""
    table = Table(
        "(T, N, I, H)", "", "1 thread, ms", title="LSTM, float32: times as fast as one thread (share of the CPUs)"
    )
    for threads in counts[1:]:
        table.add_column(f"{threads} threads", justify="right")
    for row in rows:
        gains = [f"{row.gain(threads):.2f} ({row.gain(threads) / threads:.0%})" for threads in counts[1:]]
        table.add_row(str(row.shape), row.kind, f"{1e3 * median(row.samples[counts[0]]):.2f}", *gains)
    return table


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write what was found."""
    cpus = available_cpus()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--save", type=Path, metavar="FILE", help="where the samples go, as JSON")
    parser.add_argument("--seconds", type=float, default=120, help="altogether, about")
    usual = sorted({min(2**k, cpus) for k in range(cpus.bit_length() + 1)})
    parser.add_argument("--threads", type=int, nargs="+", default=usual, metavar="N")
    given = parser.parse_args(arguments)
    counts = sorted({1, *given.threads})
    if counts[0] < 1 or counts[-1] > cpus:
        parser.error(f"--threads: expected numbers from 1 to {cpus}, the CPUs that this process may use")
    if given.save is not None and not given.save.parent.is_dir():
        parser.error(f"--save {given.save}: there is no folder {given.save.parent}")
    rows: list[Scaling] = []
    for shape in SHAPES:
        for kind in KINDS:
            rows.append(measure(shape, kind, counts, given.seconds / len(SHAPES) / len(KINDS)))
    Console().print(show(rows, counts))
    if given.save is not None:
        kept: dict[str, Any] = {"machine": describe(), "versions": versions(), "rows": [asdict(row) for row in rows]}
        write_atomically(given.save, json.dumps(kept).encode() + b"\n")


if __name__ == "__main__":
    main()
