"""How a row is measured: prepare, check, then time the peers in turns.

The peers of a row run in one process. What each returns is compared with the reference before anything is timed. Then
come rounds: in each, every peer has a turn, and so has the loop of multiply-adds that tells what the machine can do at
that moment. A turn begins when no thread of the process is busy any more (the pools of others spin for a while after
their work), with a short call that does not count; garbage is not collected meanwhile. Rounds in which another process
was busy are dropped, unless there would be too few.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from statistics import fmean, median
from typing import NamedTuple

from fastrnn.bench import limits
from fastrnn.bench.cases import Case, Kind
from fastrnn.bench.machine import CpuTimes
from fastrnn.bench.peers import PEERS, Prepared, UnsupportedError
from fastrnn.bench.problems import Problem, difference, make, solve
from fastrnn.bench.results import BUSY, WRONG, Row

__all__ = ["Settings", "measure_row", "prepare", "settle", "without_collection"]


@dataclass(frozen=True)
class Settings:
    """How long to measure a row."""

    seconds: float = 1.0  # about, unless the least number of rounds takes longer
    least_rounds: int = 5
    most_rounds: int = 30
    most_others: float = BUSY  # CPUs that other processes may keep busy in a round that counts, if enough rounds do
    patience: float = 3.0  # times `seconds`, until which to wait for quiet rounds
    turn: float = 0.01  # seconds of calls in a turn, at least one call
    long_call: float = 0.2  # seconds from which a call needs none before it that does not count


def prepare(
    problem: Problem, kind: str, threads: int, peers: Iterable[str]
) -> tuple[dict[str, Prepared], dict[str, str]]:
    """Return the peers that do a problem and return what the reference does, and why the others are not there."""
    want = solve(problem, kind)
    ready, absent = {}, {}
    for name in peers:
        if not PEERS[name].applies(problem.case):
            continue
        reason = PEERS[name].why_absent()
        if reason is None:
            try:
                prepared = PEERS[name].prepare(problem, kind, threads)
            except UnsupportedError as error:
                reason = str(error)
            else:
                with prepared.context():
                    result = prepared.call()
                if prepared.outcome:
                    reason = difference(problem.case, prepared.outcome(result), want)
                reason = reason and f"{WRONG}: {reason}"
        if reason is None:
            ready[name] = prepared
        else:
            absent[name] = reason
    return ready, absent


def measure_row(case: Case, kind: Kind, threads: int, peers: Iterable[str], settings: Settings) -> Row:
    """Measure one row in this process, which is pinned to `threads` CPUs."""
    ready, absent = prepare(make(case), kind, threads, peers)
    turns: dict[str, Callable[[], float]] = {}
    for name, prepared in ready.items():
        settle()
        seconds = _turn(prepared, 1, warm=False)
        if seconds < settings.long_call:
            seconds = median(_turn(prepared, 1, warm=True) for _ in range(3))
        calls = max(1, min(1000, round(settings.turn / seconds)))
        turns[name] = partial(_turn, prepared, calls, warm=seconds < settings.long_call)
    rounds: list[Round] = []
    begun = time.perf_counter()
    with without_collection():
        while len(rounds) < settings.most_rounds:
            rounds.append(_round(turns, len(rounds), case.dtype, threads))
            quiet = [each for each in rounds if each.others <= settings.most_others]
            enough, spent = len(quiet) >= settings.least_rounds, time.perf_counter() - begun
            if len(rounds) >= settings.least_rounds and spent > settings.seconds * (1 if enough else settings.patience):
                break
    counted = quiet if enough else rounds
    return Row(
        case,
        kind,
        threads,
        {name: [each.samples[name] for each in counted] for name in turns},
        absent,
        max((each.peak for each in counted if each.peak), default=None),
        fmean(each.others for each in counted),
        len(rounds) - len(counted),
    )


class Round(NamedTuple):
    """A turn of every peer."""

    samples: dict[str, float]  # peer -> seconds per call
    peak: float | None  # floating-point operations per second of multiply-adds
    others: float  # CPUs that other processes kept busy


def _round(turns: dict[str, Callable[[], float]], number: int, dtype: str, threads: int) -> Round:
    """Give every peer its turn, in an order that rotates with the round's number."""
    samples, load, names = {}, CpuTimes(), list(turns)
    first = number % max(1, len(names))
    for name in names[first:] + names[:first]:
        settle()
        samples[name] = turns[name]()
    peak = limits.multiply_add_rate(dtype, threads) if limits.why_absent() is None else None
    return Round(samples, peak, load.others())


def settle(most: float = 1.0) -> None:
    """Wait until no thread of this process is busy, for `most` seconds at the most."""
    end = time.perf_counter() + most
    while True:
        used = time.process_time()
        time.sleep(0.004)
        if time.process_time() - used < 0.0005 or time.perf_counter() > end:
            return


def _turn(prepared: Prepared, calls: int, *, warm: bool) -> float:
    """Seconds per call of some calls in a row, to the nanosecond; `warm` puts one before them that does not count."""
    call = prepared.call
    with prepared.context():
        if warm:
            call()
        begun = time.perf_counter()
        for _ in range(calls):
            call()
        return round((time.perf_counter() - begun) / calls, 9)


@contextmanager
def without_collection() -> Iterator[None]:
    """Collect garbage before, and none within."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
