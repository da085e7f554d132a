"""Processes that torchrun has started: torch.distributed with gloo, its engine for CPUs."""

from __future__ import annotations

import atexit
import os
from typing import Any

import numpy as np

from fastrnn.checks import Array
from fastrnn.distributed.group import Exchange, WorkerError

__all__ = ["Gloo", "gloo"]


class Gloo(Exchange):
    """A process group of torch.distributed on CPUs; arrays are shared with torch, not copied."""

    overlaps = True

    def __init__(self, torch: Any, process_group: Any) -> None:
        self._torch, self._distributed = torch, torch.distributed
        super().__init__(self._distributed.get_rank(process_group), self._distributed.get_world_size(process_group))
        self.process_group = process_group

    def _exchange(self, rows: Array, found: Array) -> None:
        self._run(self._distributed.all_to_all_single, self._tensor(found), self._tensor(rows))

    def _gather(self, row: Array, found: Array) -> None:
        self._run(self._distributed.all_gather, list(self._tensor(found).unbind()), self._tensor(row))

    def broadcast(self, array: Array, root: int = 0) -> None:
        """Replace a contiguous array by that of the process `root`."""
        source = self._distributed.get_global_rank(self.process_group or self._distributed.group.WORLD, root)
        self._run(self._distributed.broadcast, self._tensor(array), source)

    def _tensor(self, array: Array) -> Any:
        return self._torch.from_numpy(np.atleast_1d(array))

    def _run(self, function: Any, *arguments: Any) -> None:
        try:
            function(*arguments, group=self.process_group)
        except RuntimeError as error:  # as torch says that a connection is closed
            said = f"{error}".strip().splitlines()[0][:200]
            raise WorkerError(f"another process of the group has ended: gloo says {said}") from error


def gloo(process_group: Any = None) -> Gloo:
    """Return the group of a process group of torch.distributed; of all that torchrun started if none is given.

    Raises
    ------
    ModuleNotFoundError
        If torch is missing.
    RuntimeError
        If the processes do not find one another.
    WorkerError
        If the port that they meet at is in use.
    """
    try:
        import torch
        import torch.distributed
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("groups of gloo need torch: pip install torch", name=error.name) from None
    if not torch.distributed.is_available() or not torch.distributed.is_gloo_available():
        raise RuntimeError("this torch has no gloo; expected one that is built with torch.distributed")
    if process_group is None and not torch.distributed.is_initialized():
        try:
            torch.distributed.init_process_group("gloo")
        except torch.distributed.DistNetworkError as error:
            if "EADDRINUSE" not in f"{error}":
                raise
            port = os.environ.get("MASTER_PORT")
            raise WorkerError(f"port {port} is in use by another process; expected MASTER_PORT to be free") from error
        atexit.register(_end, torch.distributed)
    return Gloo(torch, process_group)


def _end(distributed: Any) -> None:
    """End gloo's threads, which else end the process as if it had failed."""
    if distributed.is_initialized():
        distributed.destroy_process_group()
