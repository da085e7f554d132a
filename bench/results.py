"""Results of a run: every sample, what they mean, and the JSON file they are kept in."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import geometric_mean, median, quantiles
from typing import Annotated, Literal

import msgspec

from fastrnn.bench.cases import KINDS, Case, Kind
from fastrnn.bench.limits import Limits
from fastrnn.training.files import write_atomically

__all__ = [
    "OURS",
    "OWN",
    "REFERENCE",
    "WRONG",
    "YARDSTICKS",
    "Bound",
    "Footprint",
    "Memory",
    "Results",
    "Row",
    "load",
    "mean_ratio",
    "save",
    "threads_text",
]

OURS = ("cython", "numba")  # in the order in which fastrnn prefers them
YARDSTICKS = ("built-in", "products", "float32")  # what written cells and narrow weights are held to: see `Case.most`
OWN = (*OURS, *YARDSTICKS, "stream", "fastrnn.torch")  # nobody's peers
REFERENCE = "numpy"
Seconds = Annotated[float, msgspec.Meta(gt=0)]
BUSY = 0.2  # CPUs that other processes may keep busy while a row is measured that counts
SCATTER = 0.5  # the largest `Row.spread` of a row that counts
WRONG = "wrong"  # how the reason in `Row.absent` starts for which a peer is left out whose numbers differ


@dataclass(frozen=True)
class Row:
    """One case, in one kind of work, on a number of threads."""

    case: Case
    kind: Kind
    threads: int
    samples: dict[str, list[Seconds]]  # peer -> seconds per call, one sample per round
    absent: dict[str, str] = field(default_factory=dict)  # peer -> why it has no samples
    peak: float | None = None  # floating-point operations per second of multiply-adds during these rounds
    others: float = 0.0  # CPUs that other processes kept busy during these rounds
    dropped: int = 0  # rounds that do not count because other processes were busy

    @property
    def name(self) -> str:
        """The row's name for people."""
        return f"{self.case.name} {self.kind} on {threads_text(self.threads)}"

    def seconds(self, peer: str) -> float:
        """The median of a peer's samples; NaN if it has none."""
        return median(self.samples[peer]) if self.samples.get(peer) else math.nan

    def spread(self, peer: str) -> float:
        """Half the distance between the quartiles of a peer's samples, relative to their median."""
        samples = self.samples[peer]
        low, _, high = quantiles(samples, n=4, method="inclusive") if len(samples) > 1 else (samples * 3)
        return (high - low) / 2 / median(samples)

    @property
    def wrong(self) -> str | None:
        """Why something of ours was not timed because its numbers are wrong; None if they are right."""
        reasons = (f"{name} is {self.absent[name]}" for name in OWN if self.absent.get(name, "").startswith(WRONG))
        return next(reasons, None)

    @property
    def ours(self) -> str | None:
        """The backend that stands for fastrnn: the first one of its order that ran."""
        return next((name for name in OURS if self.samples.get(name)), None)

    @property
    def best_peer(self) -> str | None:
        """The fastest of the others; the NumPy reference only when there is no other."""
        others = [name for name in self.samples if name not in (*OWN, REFERENCE)] or [REFERENCE]
        others = [name for name in others if self.samples.get(name)]
        return min(others, key=self.seconds) if others else None

    @property
    def ratio(self) -> float:
        """The best peer's time over ours: above 1 we are faster; NaN when one of the two is missing."""
        if self.ours is None or self.best_peer is None:
            return math.nan
        return self.seconds(self.best_peer) / self.seconds(self.ours)

    @property
    def yardstick(self) -> str | None:
        """What a written cell is held to, if that was measured."""
        return next((name for name in YARDSTICKS if self.samples.get(name)), None)

    @property
    def cost(self) -> float:
        """Our time over that of the yardstick; NaN when one of the two is missing."""
        if self.ours is None or self.yardstick is None:
            return math.nan
        return self.seconds(self.ours) / self.seconds(self.yardstick)

    @property
    def doubt(self) -> str:
        """Why the row counts for no mean, or ""."""
        if self.others > BUSY:
            return "the machine was busy"
        compared = [name for name in (self.ours, self.best_peer, self.yardstick) if name]
        if (scatter := max(map(self.spread, compared), default=0.0)) > SCATTER:
            return f"times ±{scatter:.0%}"
        return ""

    @property
    def counts(self) -> bool:
        """Whether the row has a ratio that is not in doubt."""
        return not math.isnan(self.ratio) and not self.doubt

    @property
    def intensity(self) -> float:
        """Floating-point operations per byte that has to come from a cache or memory."""
        again = self.case.rereads(self.kind) * self.case.reread_bytes()
        return self.case.flops(self.kind) / (again + self.case.streamed_bytes(self.kind))


@dataclass(frozen=True)
class Bound:
    """The least time that a row could take on its machine, and what sets it."""

    seconds: float
    binds: str  # "flops" or "bytes"

    @classmethod
    def of(cls, row: Row, limits: Limits) -> Bound:
        """The larger of two times: all multiply-adds at peak, all bytes at the bandwidth of where they lie.

        Each time step needs the recurrent weights again, from the cache that holds a thread's share of them; at the
        first-level cache's rate they never bind. Everything else is read or written once.
        """
        case = row.case
        compute = case.flops(row.kind) / (row.peak or limits.peak[case.dtype])
        share = case.reread_bytes() / row.threads
        again = case.rereads(row.kind) * case.reread_bytes() / limits.bandwidth_at(share)
        streamed = case.streamed_bytes(row.kind)
        memory = again + streamed / limits.bandwidth_at(streamed / row.threads)
        return cls(compute, "flops") if compute >= memory else cls(memory, "bytes")


@dataclass(frozen=True)
class Memory:
    """Peak memory of one training step."""

    case: Case
    bytes: int


@dataclass(frozen=True)
class Footprint:
    """What a package costs before and beside its speed."""

    name: str
    import_seconds: float
    installed_bytes: int  # with everything it needs
    memory: tuple[Memory, ...] = ()
    without: str = ""  # why there is no memory of a training step


@dataclass
class Results:
    """One run of the suite."""

    started: str  # ISO 8601, UTC
    machine: dict[str, str | int]
    versions: dict[str, str]
    settings: dict[str, float | str]
    limits: dict[int, Limits] = field(default_factory=dict)  # by number of threads
    rows: list[Row] = field(default_factory=list)
    footprints: list[Footprint] = field(default_factory=list)
    format: Literal[1] = 1  # raised when fields change their meaning

    def tables(self) -> list[tuple[Kind, int, list[Row]]]:
        """The rows by kind of work and threads, each table's worst rows first, those that do not count last."""
        threads = sorted({row.threads for row in self.rows})
        tables = [(k, t, [r for r in self.rows if (r.kind, r.threads) == (k, t)]) for k in KINDS for t in threads]
        return [
            (k, t, sorted(rows, key=lambda row: (math.isnan(row.ratio), not row.counts, row.ratio)))
            for k, t, rows in tables
            if rows
        ]

    def bound(self, row: Row) -> Bound | None:
        """The row's bound; None where limits were not measured."""
        return Bound.of(row, self.limits[row.threads]) if row.threads in self.limits else None

    def fraction(self, row: Row) -> float:
        """The part of the machine's limit that we reach in a row; NaN where it is not known."""
        bound = self.bound(row)
        return bound.seconds / row.seconds(row.ours) if bound and row.ours else math.nan


def threads_text(count: int) -> str:
    """Return "1 thread", "2 threads" and so on."""
    return f"{count} thread{'s' * (count > 1)}"


def mean_ratio(rows: Iterable[Row], peer: str | None = None) -> float:
    """The geometric mean of the ratios of the rows that count, to a peer or to the best; NaN when none does."""
    counted = [row for row in rows if row.counts and (peer is None or row.samples.get(peer))]
    ratios = [row.ratio if peer is None else row.seconds(peer) / row.seconds(str(row.ours)) for row in counted]
    return geometric_mean(ratios) if ratios else math.nan


def save(path: str | os.PathLike[str], results: Results) -> None:
    """Write the results as JSON, atomically; OSError if that cannot be done."""
    write_atomically(path, msgspec.json.encode(results) + b"\n")


def load(path: str | os.PathLike[str]) -> Results:
    """Read results that `save` wrote.

    Raises
    ------
    OSError
        If the file cannot be read.
    ValueError
        If it does not hold results of this format.
    """
    data = Path(path).read_bytes()
    try:
        return msgspec.json.decode(data, type=Results)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ValueError(f"{os.fspath(path)} does not hold results of `fastrnn bench --save`: {error}") from None
