"""Two processes of one thread against one process of two threads, and how long gradients are on their way.

    python -m fastrnn.bench.processes                          # the standard library's engine
    mpirun -n 2 python -m mpi4py -m fastrnn.bench.processes    # MPI; likewise under torchrun

Each trains the same model on the same batches, by `fit`, in turns; a sample is an epoch's time by its steps, of which
the first of a turn does not count. Before a sum all processes meet, so that waiting for the slower one is told apart
from the sum itself. Sums come after backward, or layer by layer during it. For more processes than there are CPUs,
`--model 16` says what the share of sums would be: a part of the batch on one thread is measured, and the sum's time
follows from that of two processes and what is sent.
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
    """A group that counts the seconds of its sums, and those of waiting for others before them.

    Its sums take as long, at least, as a network of so many bytes a second; other work goes on meanwhile.
    """

    def __init__(self, group: Group, overlaps: bool, speed: float) -> None:
        self.group, self.overlaps, self.speed = group, overlaps, speed
        self.rank, self.size = group.rank, group.size
        self.ordered = getattr(group, "ordered", False)
        self.waited = self.added = 0.0

    def allreduce(self, array: Array) -> None:
        """Add, and note how long it took."""
        begun = time.perf_counter()
        self.group.allreduce(np.zeros(1))
        met = time.perf_counter()
        self.group.allreduce(array)
        time.sleep(max(0.0, met + array.nbytes / self.speed - time.perf_counter()))
        self.waited += met - begun
        self.added += time.perf_counter() - met

    def broadcast(self, array: Array, root: int = 0) -> None:
        """Pass on, untimed: no step does."""
        self.group.broadcast(array, root)


def train(group: Any, threads: int, sizes: tuple[int, int, int, int], layers: int, epochs: int) -> list[float]:
    """Return the seconds of a step in each epoch but the first."""
    T, N, I, H = sizes
    rng = np.random.default_rng(0)
    X = rng.standard_normal((STEPS * N, T, I), "float32")
    y = rng.integers(0, 10, len(X))
    above = [fastrnn.LSTM(H, H, seed=k) for k in range(1, layers)]
    *below, top = fastrnn.LSTM(I, H, seed=0), *above
    model = Sequential(*below, Last(top), Linear(H, 10, seed=layers))
    ended: list[float] = []

    def note(epoch: Epoch) -> None:
        ended.append(time.perf_counter())

    fastrnn.set_num_threads(threads)
    fit(model, X, y, epochs=epochs + 1, batch_size=N, callbacks=[note], progress=False, group=group)
    return [float(seconds) / STEPS for seconds in np.diff(ended)]


def measure(
    group: Group,
    sizes: tuple[int, int, int, int],
    layers: int,
    rounds: int,
    epochs: int,
    modelled: int,
    megabytes: float,
) -> None:
    """Train in turns in one process and in all, and print what came out."""
    T, N, I, H = sizes
    after, during = Timed(group, False, 1e6 * megabytes), Timed(group, True, 1e6 * megabytes)
    one, summed_after, summed_during, part = [], [], [], []
    for _ in range(rounds):
        if group.rank == 0:
            one += train(None, group.size, sizes, layers, epochs)
            part += train(None, 1, (T, max(1, N // modelled), I, H), layers, epochs)
        summed_after += train(after, 1, sizes, layers, epochs)
        summed_during += train(during, 1, sizes, layers, epochs)
    if group.rank:
        return
    steps = rounds * (epochs + 1) * STEPS
    added, waited = after.added / steps, after.waited / steps
    threads, processes = statistics.median(one), statistics.median(summed_after)
    sent = (modelled - 1) / modelled / ((group.size - 1) / group.size)
    share = added * sent / (added * sent + statistics.median(part))
    rows = [
        (f"one process, {group.size} threads", one),
        (f"{group.size} processes of 1 thread", summed_after),
        ("  sums during backward", summed_during),
    ]
    print(f"(T, N, I, H) = {sizes}, {layers} LSTM layers, {type(group).__name__}; milliseconds of a step")
    for name, seconds in rows:
        print(f"{name:25} median {1e3 * statistics.median(seconds):.1f}, least {1e3 * min(seconds):.1f}")
    print(f"{'threads over processes':25} medians {threads / processes:.2f}, leasts {min(one) / min(summed_after):.2f}")
    print(f"{'sums':25} {1e3 * added:.1f}, {added / processes:.1%} of a step")
    print(f"{'waiting before them':25} {1e3 * waited:.1f}, {waited / processes:.1%} of a step")
    print(f"sums of {modelled} processes on as many CPUs, modelled: {share:.1%} of a step, unless memory is slower")


def main() -> None:
    """Measure in the processes that mpirun or torchrun started, or in ones of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs=4, default=(50, 64, 512, 512), metavar=tuple("TNIH"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=3, help="samples of a round")
    parser.add_argument("--workers", type=int, default=2, help="processes to start")
    parser.add_argument("--model", type=int, default=16, help="how many processes the sums' share is modelled for")
    parser.add_argument("--layers", type=int, default=1)
    parser.add_argument("--megabytes", type=float, default=float("inf"), help="a second, of a network to imitate")
    given = parser.parse_args()
    options = {"sizes": tuple(given.sizes), "rounds": given.rounds, "epochs": given.epochs, "modelled": given.model}
    options |= {"layers": given.layers, "megabytes": given.megabytes}
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
