"""Processes that mpirun has started: mpi4py, with the extra `mpi`."""

from __future__ import annotations

from typing import Any

from fastrnn.checks import Array
from fastrnn.distributed.group import Exchange

__all__ = ["MPI", "mpi"]


class MPI(Exchange):
    """The group of an MPI communicator; arrays are sent as they are, without pickle."""

    def __init__(self, library: Any, communicator: Any) -> None:
        super().__init__(communicator.Get_rank(), communicator.Get_size())
        self.communicator = communicator
        self.overlaps = library.Query_thread() >= library.THREAD_SERIALIZED

    def _exchange(self, rows: Array, found: Array) -> None:
        self.communicator.Alltoall(rows, found)

    def _gather(self, row: Array, found: Array) -> None:
        self.communicator.Allgather(row, found)

    def broadcast(self, array: Array, root: int = 0) -> None:
        """Replace a contiguous array by that of the process `root`."""
        self.communicator.Bcast(array, root)

    def abort_at_exit(self) -> None:
        """End all processes when this one ends, and not have it wait for them, nor them for it."""
        from mpi4py.run import set_abort_status

        set_abort_status(2)


def mpi(communicator: Any = None) -> MPI:
    """Return the group of an mpi4py communicator, ``MPI.COMM_WORLD`` if none is given.

    Start scripts by ``mpirun -n 4 python -m mpi4py script.py``: then an error in one process ends all of them.

    Raises
    ------
    ModuleNotFoundError
        If mpi4py is missing.
    """
    try:
        import mpi4py.MPI
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("groups of MPI need mpi4py: pip install mpi4py", name=error.name) from None
    return MPI(mpi4py.MPI, mpi4py.MPI.COMM_WORLD if communicator is None else communicator)
