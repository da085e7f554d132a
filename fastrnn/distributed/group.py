"""What training needs of processes that share its batches, and sums whose order is that of the processes."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from fastrnn.checks import Array, check_count, shown
from fastrnn.errors import FastrnnError

__all__ = ["Exchange", "Group", "WorkerError", "add_up", "call", "check_group", "send", "serve", "sum_in_order"]

FEW = 1024  # elements, up to which one message that holds all is faster than two that hold a part each


class WorkerError(FastrnnError, RuntimeError):
    """A process of a group has ended or cannot be reached, or the processes do not do the same."""


@runtime_checkable
class Group(Protocol):
    """Processes that do the same calls in the same order; anything with these four is one.

    An engine whose `allreduce` adds in the order of the ranks, ``((a0 + a1) + a2) + ...`` for every element, says so
    with an attribute ``ordered = True``. Without it sums are made of `broadcast`, which costs `size - 1` times the
    array for every process, where an ordered `allreduce` costs less than twice the array. One that may be called in
    another thread, and only ever in one at a time, says ``overlaps = True``: sums then run beside backward.

    Examples
    --------
    A group of one.

    >>> class Alone:
    ...     rank, size = 0, 1
    ...
    ...     def allreduce(self, array):
    ...         pass
    ...
    ...     def broadcast(self, array, root=0):
    ...         pass
    >>> isinstance(Alone(), Group)
    True
    """

    @property
    def rank(self) -> int:
        """The number of this process, from 0 on. The first one writes, prints and decides."""

    @property
    def size(self) -> int:
        """The number of processes."""

    def allreduce(self, array: Array) -> Any:
        """Replace a contiguous array by the sum of all processes' arrays of this shape and dtype."""

    def broadcast(self, array: Array, root: int = 0) -> Any:
        """Replace a contiguous array by that of the process `root`."""


def check_group(name: str, group: Any) -> Group:
    """Return a group; TypeError or ValueError unless it is one."""
    if isinstance(group, type) or not isinstance(group, Group):
        wanted = "what has rank, size, allreduce and broadcast: fastrnn.distributed.connect(), or an engine of your own"
        raise TypeError(f"{name} is {shown(group)}; expected {wanted}")
    rank, size = check_count(f"{name}.rank", group.rank), check_count(f"{name}.size", group.size)
    if rank >= size:
        raise ValueError(f"{name} has rank {rank} and size {size}; expected a rank from 0 to size - 1")
    return group


def sum_in_order(group: Group, array: Array) -> None:
    """Replace a contiguous array by the sum of all processes', added in the order of their ranks: always the same bits.

    Examples
    --------
    >>> from fastrnn.distributed.local import Local
    >>> array = np.ones(3)
    >>> sum_in_order(Local(0, []), array)
    >>> array
    array([1., 1., 1.])
    """
    if group.size == 1:
        return
    if getattr(group, "ordered", False):
        group.allreduce(array)
        return
    mine, part = array.copy(), np.empty_like(array)
    for root in range(group.size):
        if root == group.rank:
            part[...] = mine
        group.broadcast(part, root)
        if root:
            array += part
        else:
            array[...] = part


def add_up(parts: Sequence[Array] | Array) -> Array:
    """Return the sum of all processes' arrays in their order, which NumPy's own sum does not promise.

    Parameters
    ----------
    parts
        Arrays of one shape, by rank.

    Examples
    --------
    >>> add_up([np.array([1.0, 2.0]), np.array([3.0, 4.0])])
    array([4., 6.])
    """
    total: Array = parts[0].copy()
    for part in parts[1:]:
        total += part
    return total


class Exchange:
    """An `allreduce` in the order of the ranks, for engines that can exchange and gather rows.

    Every process gets a part of all arrays, adds these up, and gives the others its sum: as much is sent as by a ring,
    ``2 (size - 1) / size`` times the array.
    """

    ordered = True

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size
        self._scratch: dict[tuple[int, str], Array] = {}  # by length and dtype, of which there are few

    def _exchange(self, rows: Array, found: Array) -> None:
        """Row k of `rows` (size, n) goes to process k; row k of `found` is what came from there."""
        raise NotImplementedError

    def _gather(self, row: Array, found: Array) -> None:
        """Give every process the rows (size, n) of all."""
        raise NotImplementedError

    def allreduce(self, array: Array) -> None:
        """Replace a contiguous array by the sum of all processes'."""
        flat = array.reshape(-1)
        n = flat.size
        if self.size == 1:
            return
        if n <= FEW:
            every = np.empty((self.size, n), array.dtype)
            self._gather(flat.copy(), every)
            flat[:] = add_up(every)
            return
        key = n, array.dtype.str
        if key not in self._scratch:
            self._scratch[key] = np.zeros((2, self.size, -(-n // self.size)), array.dtype)
        rows, found = self._scratch[key]
        rows.reshape(-1)[:n] = flat
        self._exchange(rows, found)
        self._gather(add_up(found), rows)
        flat[:] = rows.reshape(-1)[:n]


def send(group: Group, value: Any = None) -> Any:
    """Return what the first process gives as `value`, in every process; it is pickled on the way."""
    if group.rank == 0:
        _send_bytes(group, pickle.dumps(value))
        return value
    length = np.empty(1, np.int64)
    group.broadcast(length)
    buffer = np.empty(int(length[0]), np.uint8)
    group.broadcast(buffer)
    return pickle.loads(buffer.data)


def _send_bytes(group: Group, data: bytes) -> None:
    group.broadcast(np.array([len(data)], np.int64))
    group.broadcast(np.frombuffer(bytearray(data), np.uint8))


def call(group: Group, function: Callable[..., Any], **arguments: Any) -> None:
    """Have the other processes, which `serve`, call a function of a module with the group and arguments.

    Raises
    ------
    TypeError
        If an argument cannot be pickled; the message says which.
    """
    parts = []
    for name, value in arguments.items():
        try:
            parts.append((name, pickle.dumps(value)))
        except Exception as error:  # whatever an object of a user's raises
            wanted = "what pickle takes: functions and classes of a module that can be imported"
            raise TypeError(f"{name} cannot be sent to other processes: {error}; expected {wanted}") from error
    _send_bytes(group, pickle.dumps((function, parts)))


def serve(group: Group) -> None:
    """Wait for the first process's `call`, and do what it says."""
    try:
        function, parts = send(group)
        arguments = {name: pickle.loads(data) for name, data in parts}
    except (AttributeError, ImportError) as error:  # it has no such name, or there is none
        raise WorkerError(f"{error}; expected functions and classes of a module that can be imported") from None
    function(group=group, **arguments)
