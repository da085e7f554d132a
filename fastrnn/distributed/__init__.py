"""Training in several processes, each on its part of every batch: the engines that bring their gradients together.

`fit(model, X, y, workers=2)` and `fastrnn train --workers 2` start the processes themselves. Under mpirun and torchrun
it is ``fit(model, X, y, group=fastrnn.distributed.connect())``, and `fastrnn train` as it stands.
"""

from __future__ import annotations

import os

from fastrnn.distributed.gloo import gloo
from fastrnn.distributed.group import Group, WorkerError, add_up
from fastrnn.distributed.mpi import mpi

__all__ = ["Group", "WorkerError", "add_up", "connect", "gloo", "mpi", "processes_here"]


def connect() -> Group | None:
    """Return the group of the processes that mpirun or torchrun started with this one; None where it is alone.

    Other launchers tell less of themselves: call `mpi` or `gloo`.

    Raises
    ------
    ModuleNotFoundError
        If mpi4py or torch is missing.

    Examples
    --------
    >>> print(connect())
    None
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return gloo()
    if any(int(os.environ.get(name, "1")) > 1 for name in ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE")):
        return mpi()
    return None


def processes_here() -> int:
    """Return how many of these processes are on this machine, which share its CPUs; what no launcher started is one.

    Examples
    --------
    >>> import fastrnn
    >>> threads = max(1, fastrnn.get_num_threads() // processes_here())
    """
    names = ("LOCAL_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS")
    return max(1, *(int(os.environ.get(name, "1")) for name in names))
