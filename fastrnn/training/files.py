"""Writing files so that whatever happens leaves the old one or the new one, never a part, and nothing beside it."""

from __future__ import annotations

import contextlib
import os
import re
import threading
from pathlib import Path

from fastrnn.checks import check_path

__all__ = ["remove_temporaries", "write_atomically"]


def write_atomically(path: str | os.PathLike[str], data: bytes) -> None:
    """Make `data` the contents of `path`, through a temporary file beside it.

    The temporary files that killed processes have left for the same path are removed. Where `path` is a link, the file
    that it leads to is replaced. What is no file at all, such as /dev/stdout, is simply written to.

    Raises
    ------
    OSError
        If that cannot be done, with `path` as its `filename`; an older file is then as it was.
    """
    target = Path(os.path.realpath(check_path("path", path)))
    # The name is this thread's own: two that write to one path do not write into each other's file.
    temporary = target.with_name(f".{target.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        if target.exists() and not (target.is_file() or target.is_dir()):
            with open(path, "wb") as file:
                file.write(data)
            return
        remove_temporaries(target)
        try:
            with open(temporary, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:  # a file that is full names nothing, another error the temporary file
        raise OSError(error.errno, error.strerror or str(error), os.fspath(path)) from error
    _sync_folder(target.parent)


def remove_temporaries(path: str | os.PathLike[str]) -> None:
    """Remove the temporary files of `write_atomically` to this path that processes left which are no longer alive."""
    path = Path(path)
    pattern = re.compile(rf"\.{re.escape(path.name)}\.(\d+)(\.\d+)?\.tmp")
    with contextlib.suppress(OSError):  # this is not what the caller has come for
        for name in os.listdir(path.parent):
            if (found := pattern.fullmatch(name)) and not _is_alive(int(found[1])):
                (path.parent / name).unlink(missing_ok=True)


def _is_alive(pid: int) -> bool:
    """Whether there is such a process. Windows does not say, but does not remove the file of one that has it open."""
    if os.name == "nt":
        return pid == os.getpid()
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # it is somebody else's
        return True
    return True


def _sync_folder(folder: Path) -> None:
    """Have the file's new name survive a power failure, where a folder can be opened and synced."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
