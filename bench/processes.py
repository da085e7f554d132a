"""Two processes of one thread against one process of two threads, and how long gradients are on their way.

    python -m fastrnn.bench.processes                          # the standard library's engine
    mpirun -n 2 python -m mpi4py -m fastrnn.bench.processes    # MPI; likewise under torchrun

Each trains the same model on the same batches, by `fit`, in turns; a sample is an epoch's time by its steps, of which
the first of a turn does not count. Before a sum all processes meet, so that waiting for the slower one is told apart
from the sum itself. For more processes than there are CPUs, `--model 16` says what the share of sums would be: a part
of the batch on one thread is measured, and the sum's time follows from that of two processes and what is sent.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import numpy as np

import fastrnn
from fastrnn.checks import Array
from fastrnn.distributed import Group, connect
from fastrnn.distributed.group import call
from fastrnn.distributed.local import start
from fastrnn.training import Epoch, Last, Linear, Sequential, fit

__all__ = ["Timed", "main"]

STEPS = 2  # of an epoch


class Timed:
    """A group that counts the seconds of its sums, and those of waiting for others before them."""

    def __init__(self, group: Group) -> None:
        self.group = group
        self.rank, self.size = group.rank, group.size
        self.ordered = getattr(group, "ordered", False)
        self.waited = self.added = 0.0

    def allreduce(self, array: Array) -> None:
        """Add, and note how long it took."""
        begun = time.perf_counter()
        self.group.allreduce(np.zeros(1))
        met = time.perf_counter()
        self.group.allreduce(array)
        self.waited += met - begun
        self.added += time.perf_counter() - met

    def broadcast(self, array: Array, root: int = 0) -> None:
        """Pass on, untimed: no step does."""
        self.group.broadcast(array, root)


def train(group: Any, threads: int, sizes: tuple[int, int, int, int], epochs: int) -> list[float]:
    """Return the seconds of a step in each epoch but the first."""
    T, N, I, H = sizes
    rng = np.random.default_rng(0)
    X = rng.standard_normal((STEPS * N, T, I), "float32")
    y = rng.integers(0, 10, len(X))
    model = Sequential(Last(fastrnn.LSTM(I, H, seed=0)), Linear(H, 10, seed=1))
    ended: list[float] = []

    def note(epoch: Epoch) -> None:
        ended.append(time.perf_counter())

    fastrnn.set_num_threads(threads)
    fit(model, X, y, epochs=epochs + 1, batch_size=N, callbacks=[note], progress=False, group=group)
    return [float(seconds) / STEPS for seconds in np.diff(ended)]


def measure(group: Group, sizes: tuple[int, int, int, int], rounds: int, epochs: int, modelled: int) -> None:
    """Train in turns in one process and in all, and print what came out."""
    T, N, I, H = sizes
    timed, one, all_of_them, part = Timed(group), [], [], []
    for _ in range(rounds):
        if group.rank == 0:
            one += train(None, group.size, sizes, epochs)
            part += train(None, 1, (T, max(1, N // modelled), I, H), epochs)
        all_of_them += train(timed, 1, sizes, epochs)
    if group.rank:
        return
    steps = rounds * (epochs + 1) * STEPS
    added, waited = timed.added / steps, timed.waited / steps
    threads, processes = statistics.median(one), statistics.median(all_of_them)
    sent = (modelled - 1) / modelled / ((group.size - 1) / group.size)
    share = added * sent / (added * sent + statistics.median(part))
    size, name = group.size, type(group).__name__
    print(f"(T, N, I, H) = {sizes}, {size} processes, {name}; milliseconds of a step")
    print(f"one process, {size} threads   median {1e3 * threads:.1f}, least {1e3 * min(one):.1f}")
    print(f"{size} processes, 1 thread    median {1e3 * processes:.1f}, least {1e3 * min(all_of_them):.1f}")
    print(f"threads over processes   medians {threads / processes:.2f}, leasts {min(one) / min(all_of_them):.2f}")
    print(f"sums                     {1e3 * added:.1f}, {added / processes:.1%} of a step")
    print(f"waiting before them      {1e3 * waited:.1f}, {waited / processes:.1%} of a step")
    print(f"sums of {modelled} processes on as many CPUs, modelled: {share:.1%} of a step, unless memory is slower")


def main() -> None:
    """Measure in the processes that mpirun or torchrun started, or in ones of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs=4, default=(50, 64, 512, 512), metavar=tuple("TNIH"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=3, help="samples of a round")
    parser.add_argument("--workers", type=int, default=2, help="processes to start")
    parser.add_argument("--model", type=int, default=16, help="how many processes the sums' share is modelled for")
    given = parser.parse_args()
    options = {"sizes": tuple(given.sizes), "rounds": given.rounds, "epochs": given.epochs, "modelled": given.model}
    group = connect()
    if group is not None:
        measure(group, **options)
        return
    with start(given.workers) as local:
        call(local, measure_here, **options)
        measure(local, **options)


def measure_here(group: Group, **options: Any) -> None:
    """What the other processes do, which know this module by its name."""
    measure(group, **options)


if __name__ == "__main__":
    from fastrnn.bench.processes import main as of_the_module  # the functions of __main__ are unknown elsewhere

    of_the_module()
