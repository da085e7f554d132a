"""A folder that one process at a time writes to."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import click

__all__ = ["exclusive"]

if sys.platform == "win32":
    import msvcrt

    def _lock(descriptor: int) -> None:
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)

else:
    import fcntl

    def _lock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


HELD = (errno.EAGAIN, errno.EACCES, errno.EDEADLK)  # what a lock that another process holds is called


@contextlib.contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Hold the folder's lock, which the system gives up when the process ends, however that happens.

    Raises
    ------
    click.ClickException
        If another process holds it.
    OSError
        If the folder cannot be written to.
    """
    path = folder / ".lock"
    descriptor = _acquire(path)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            if sys.platform == "win32":  # where an open file cannot be removed
                os.close(descriptor)
                path.unlink()
            else:  # removed while it is locked, so that nobody else's is
                path.unlink()
                os.close(descriptor)


def _acquire(path: Path) -> int:
    """Return the descriptor of the file of this name, locked, or, where the file system has no locks, just open."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _lock(descriptor)
        except OSError as error:
            if error.errno not in HELD:
                return descriptor
            os.close(descriptor)
            raise click.ClickException(
                f"{path.parent} is in use: another `fastrnn train` writes there; "
                "wait until it has ended, or take another --out"
            ) from None
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                return descriptor
        os.close(descriptor)  # who held the lock before has removed this file: take the one that now has its name
