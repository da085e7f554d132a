"""Groups whose processes are threads of this one: the smallest engines that there can be."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import numpy as np

from fastrnn.distributed.group import Exchange


class Table:
    """Where threads lay arrays for one another."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.arrays: list[Any] = [None] * size
        self.barrier = threading.Barrier(size, timeout=60)

    def exchange(self, rank: int, array: Any) -> list[Any]:
        """What every thread has laid."""
        self.barrier.wait()
        self.arrays[rank] = array
        self.barrier.wait()
        found = [each.copy() for each in self.arrays]
        self.barrier.wait()
        return found


class Unordered:
    """An engine that knows of no order: its sums begin with another rank each time."""

    def __init__(self, rank: int, table: Table) -> None:
        self.rank, self.size, self.table = rank, table.size, table
        self.begun = 0

    def allreduce(self, array: Any) -> None:
        parts = self.table.exchange(self.rank, array)
        self.begun += 1
        total = np.zeros_like(array)
        for k in range(self.size):
            total += parts[(k + self.begun) % self.size]
        array[...] = total

    def broadcast(self, array: Any, root: int = 0) -> None:
        array[...] = self.table.exchange(self.rank, array)[root]


class Exchanging(Exchange):
    """An engine that exchanges rows."""

    def __init__(self, rank: int, table: Table) -> None:
        super().__init__(rank, table.size)
        self.table = table

    def _exchange(self, rows: Any, found: Any) -> None:
        found[...] = [theirs[self.rank] for theirs in self.table.exchange(self.rank, rows)]

    def _gather(self, row: Any, found: Any) -> None:
        found[...] = self.table.exchange(self.rank, row)

    def broadcast(self, array: Any, root: int = 0) -> None:
        array[...] = self.table.exchange(self.rank, array)[root]


def together(size: int, work: Callable[[Any], Any], engine: Callable[[int, Table], Any] = Unordered) -> list[Any]:
    """Return what a function of a group returns in each of so many threads; the first error is raised."""
    table = Table(size)

    def one(rank: int) -> Any:
        with ExitStack() as where_wrong:
            where_wrong.callback(table.barrier.abort)  # so that the others do not wait for it
            result = work(engine(rank, table))
            where_wrong.pop_all()
        return result

    with ThreadPoolExecutor(size) as pool:
        futures = [pool.submit(one, rank) for rank in range(size)]
    errors = [future.exception() for future in futures]
    for error in sorted(filter(None, errors), key=lambda each: isinstance(each, threading.BrokenBarrierError)):
        raise error
    return [future.result() for future in futures]
