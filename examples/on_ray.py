"""Ray's processes as a group: each is an actor's method, and they meet at another actor, which passes arrays on.

    pip install ray
    python examples/on_ray.py

It trains a classifier in two processes, and prints the losses beside those of one process.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict

import numpy as np
import ray

import fastrnn
from fastrnn.distributed import add_up
from fastrnn.training import Last, Linear, Sequential, fit


class Meeting:
    """Where every process lays an array, and gets those of all: once for each number."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.laid: defaultdict[int, dict[int, object]] = defaultdict(dict)
        self.changed = asyncio.Condition()

    async def exchange(self, number: int, rank: int, array: object) -> list[object]:
        """Return what all processes lay, in the order of their ranks."""
        async with self.changed:
            self.laid[number][rank] = array
            self.laid.pop(number - 2, None)  # who is here has what was there
            self.changed.notify_all()
            await self.changed.wait_for(lambda: len(self.laid[number]) == self.size)
            return [self.laid[number][k] for k in range(self.size)]


class RayGroup:
    """The engine."""

    ordered = True  # sums are made here, in the order of the ranks

    def __init__(self, rank: int, size: int, meeting: object) -> None:
        self.rank, self.size, self.meeting, self.number = rank, size, meeting, 0

    def _exchange(self, array: np.ndarray | None) -> list:
        self.number += 1
        return ray.get(self.meeting.exchange.remote(self.number, self.rank, array))

    def allreduce(self, array: np.ndarray) -> None:
        """Replace an array by the sum of all processes'."""
        array[...] = add_up(self._exchange(array))

    def broadcast(self, array: np.ndarray, root: int = 0) -> None:
        """Replace an array by that of one process."""
        array[...] = self._exchange(array if self.rank == root else None)[root]


def train(group: RayGroup | None = None) -> list[float]:
    """Return the losses of a classifier's epochs."""
    rng = np.random.default_rng(0)
    X = [rng.standard_normal((length, 4)) for length in rng.integers(5, 30, 200)]
    y = np.array([int(x[:, 0].sum() > 0) for x in X])
    fastrnn.set_num_threads(1)
    model = Sequential(Last(fastrnn.LSTM(4, 16, seed=0)), Linear(16, 2, seed=1))
    return [epoch.loss for epoch in fit(model, X, y, epochs=3, learning_rate=0.01, progress=False, group=group).epochs]


def work(rank: int, size: int, meeting: object) -> list[float]:
    """What each process does."""
    return train(RayGroup(rank, size, meeting))


def main(size: int = 2) -> None:
    """Start the processes."""
    ray.init(num_cpus=size + 1, include_dashboard=False, logging_level="warning")
    meeting = ray.remote(Meeting).options(max_concurrency=size).remote(size)
    start = ray.remote(work)
    together, *others = ray.get([start.remote(rank, size, meeting) for rank in range(size)])
    ray.shutdown()
    alone = train()
    for epoch, (one, all_of_them) in enumerate(zip(alone, together, strict=True), 1):
        print(f"epoch {epoch}: loss {one:.6f} in one process, {all_of_them:.6f} in {size}")
    if not np.allclose(alone, together, rtol=1e-4) or any(losses != together for losses in others):
        raise SystemExit("the losses differ")


if __name__ == "__main__":
    main()
