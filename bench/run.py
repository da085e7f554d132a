"""Run a selection: one process per number of threads, so that every pool in it is made for that many CPUs."""

from __future__ import annotations

import multiprocessing
import os
import signal
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from fastrnn.bench import limits, machine
from fastrnn.bench.cases import Case, Kind
from fastrnn.bench.limits import Limits
from fastrnn.bench.measure import Settings, measure_row
from fastrnn.bench.results import Row
from fastrnn.errors import FastrnnError

__all__ = ["BenchError", "Plan", "run"]


class BenchError(FastrnnError):
    """The process that measured ended before it was done."""


@dataclass(frozen=True)
class Plan:
    """What to measure."""

    cases: tuple[Case, ...]
    kinds: tuple[Kind, ...]
    threads: tuple[int, ...]
    peers: tuple[str, ...]
    settings: Settings

    def rows(self) -> list[tuple[Case, Kind, int]]:
        """Case, kind and threads of every row, in the order in which they are measured."""
        return [(case, kind, threads) for threads in self.threads for case in self.cases for kind in self.kinds]


def run(plan: Plan) -> Iterator[Limits | Row]:
    """Measure, and yield the rows in the order of `plan.rows()`, for each number of threads the machine's limits first.

    Raises
    ------
    BenchError
        If a process that measures dies; what was yielded until then is complete.
    """
    for threads in plan.threads:
        yield from _run_pinned(plan, threads)


def _run_pinned(plan: Plan, threads: int) -> Iterator[Limits | Row]:
    context = multiprocessing.get_context("spawn")  # a fork would inherit this process's pools
    receiver, sender = context.Pipe(duplex=False)
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder, "log")  # what the peers write to the terminal
        process = context.Process(target=_work, args=(sender, plan, threads, log), daemon=True)
        process.start()
        sender.close()
        done = 0
        try:
            while True:
                try:
                    record = receiver.recv()
                except EOFError:
                    break
                done += isinstance(record, Row)
                yield record
            process.join()
        finally:
            process.terminate()
            process.join()
            receiver.close()
        rows = [row for row in plan.rows() if row[2] == threads]
        if process.exitcode or done < len(rows):
            case, kind, _ = rows[min(done, len(rows) - 1)]
            said = (log.read_text("utf-8", "replace").strip().splitlines() or ["it said nothing"])[-1]
            raise BenchError(
                f"measuring {case.name} {kind} on {threads} threads ended with status {process.exitcode}: {said}"
            )


def _work(sender: Connection, plan: Plan, threads: int, log: Path) -> None:
    """Measure the plan's rows of one number of threads and send them; runs in a process of its own."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, who ends this process
    with open(log, "w", encoding="utf-8") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    machine.pin(threads)
    if limits.why_absent() is None:
        sender.send(limits.measure(threads))
    for case, kind, its_threads in plan.rows():
        if its_threads == threads:
            sender.send(measure_row(case, kind, threads, plan.peers, plan.settings))
    sender.close()
