"""Processes whose time is limited by what they compute: on a busy machine a test takes longer, and does not fail."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

LEAST = 0.01  # share of a CPU below which a process waits for what does not come
OFTEN = 0.2  # seconds between two looks

psutil: Any = None
if importlib.util.find_spec("psutil") is not None:
    import psutil


def run_watched(command: Sequence[Any], seconds: float, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a command as `subprocess.run` does with `capture_output` and `text`, within seconds that `Watch` counts."""
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        command, stdout=pipe, stderr=pipe, encoding="utf-8", errors="backslashreplace", **options
    )
    with process:
        out, err = communicate(process, seconds)
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def communicate(process: subprocess.Popen[str], seconds: float) -> tuple[str, str]:
    """What a process writes until it ends. One that takes longer is ended, and subprocess.TimeoutExpired is raised."""
    watch = Watch(process, seconds)
    while True:
        with suppress(subprocess.TimeoutExpired):
            return process.communicate(timeout=OFTEN)
        if watch.is_over():
            _end(process)
            raise subprocess.TimeoutExpired(process.args, seconds, *process.communicate())


class Watch:
    """A process, with what it starts, may compute for `seconds` on every CPU, and may not stand still for as long.

    Where psutil is missing the clock counts.
    """

    def __init__(self, process: subprocess.Popen[str], seconds: float) -> None:
        self.process, self.seconds = process, seconds
        self.looked = self.since = time.monotonic()
        self.begun = self.before = _spent(process.pid)  # CPU time at first, and at `since`

    def look(self) -> None:
        """Raise subprocess.TimeoutExpired if it has taken too long."""
        if self.is_over():
            raise subprocess.TimeoutExpired(self.process.args, self.seconds)

    def is_over(self) -> bool:
        """Whether it has taken too long; between two looks at it, False."""
        now = time.monotonic()
        if now < self.looked + OFTEN:
            return False
        self.looked = now
        spent = _spent(self.process.pid)
        if spent >= self.before + LEAST * self.seconds:
            self.since, self.before = now, spent
        return spent - self.begun > self.seconds * (os.cpu_count() or 1) or now - self.since > self.seconds


def _family(pid: int) -> list[Any]:
    """A process and all that it has started and that still run."""
    with suppress(psutil.Error):
        first = psutil.Process(pid)
        return [first, *first.children(recursive=True)]
    return []


def _spent(pid: int) -> float:
    """Seconds of CPU time of a process, of its threads, and of the processes that it has started."""
    total = 0.0
    for process in [] if psutil is None else _family(pid):
        with suppress(psutil.Error):
            times = process.cpu_times()
            total += times.user + times.system
            total += getattr(times, "children_user", 0) + getattr(times, "children_system", 0)  # which have ended
    return total


def _end(process: subprocess.Popen[str]) -> None:
    """End a process and what it has started."""
    children = [] if psutil is None else _family(process.pid)[1:]
    for each in children:
        with suppress(psutil.Error):
            each.kill()
    process.kill()
    process.wait()
    if children:
        psutil.wait_procs(children, timeout=60)
