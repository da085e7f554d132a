"""Processes whose time is limited by what they compute: on a busy machine a test takes longer, and does not fail."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

LEAST = 0.01  # share of a CPU below which a process waits for what does not come

if importlib.util.find_spec("psutil") is None:
    psutil = None
else:
    import psutil


def run_watched(command: Sequence[Any], seconds: float, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a command as `subprocess.run` does with `capture_output` and `text`.

    It and what it starts may compute for `seconds` on every CPU, and may not stand still for as long; otherwise all of
    them are ended and subprocess.TimeoutExpired is raised. Where psutil is missing the clock counts.
    """
    with _file() as out, _file() as err:
        process = subprocess.Popen(command, stdout=out, stderr=err, **options)
        try:
            returncode = _wait(process, seconds)
        except BaseException as error:
            _end(process)
            if isinstance(error, subprocess.TimeoutExpired):
                error.output, error.stderr = _read(out), _read(err)
            raise
        return subprocess.CompletedProcess(command, returncode, _read(out), _read(err))


def _file() -> Any:
    return tempfile.TemporaryFile("w+", encoding="utf-8", errors="backslashreplace")


def _read(file: Any) -> str:
    file.seek(0)
    text: str = file.read()
    return text


def _wait(process: subprocess.Popen[Any], seconds: float) -> int:
    if psutil is None:
        return process.wait(seconds)
    limit, since, before = seconds * (os.cpu_count() or 1), time.monotonic(), 0.0
    while True:
        with suppress(subprocess.TimeoutExpired):
            return process.wait(0.2)
        spent = _spent(process.pid)
        if spent >= before + LEAST * seconds:
            since, before = time.monotonic(), spent
        if spent > limit or time.monotonic() - since > seconds:
            raise subprocess.TimeoutExpired(process.args, seconds)


def _family(pid: int) -> list[Any]:
    """A process and all that it has started and that still run."""
    try:
        first = psutil.Process(pid)
        return [first, *first.children(recursive=True)]
    except psutil.Error:
        return []


def _spent(pid: int) -> float:
    """Seconds of CPU time of a process, of its threads, and of the processes that it has started."""
    total = 0.0
    for process in _family(pid):
        with suppress(psutil.Error):
            times = process.cpu_times()
            total += times.user + times.system
            total += getattr(times, "children_user", 0) + getattr(times, "children_system", 0)  # which have ended
    return total


def _end(process: subprocess.Popen[Any]) -> None:
    children = [] if psutil is None else _family(process.pid)[1:]
    for each in children:
        with suppress(psutil.Error):
            each.kill()
    process.kill()
    process.wait()
    if children:
        psutil.wait_procs(children, timeout=60)
