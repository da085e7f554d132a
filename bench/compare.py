"""Two runs side by side: what became slower or faster, beyond the machine's own changes and the noise."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from statistics import fmean, geometric_mean, median

from rich.console import Console
from rich.text import Text

from fastrnn.bench.results import OURS, Results, Row
from fastrnn.bench.tables import print_grid, ratio_text, time_text

__all__ = ["Change", "Comparison", "compare", "print_comparison"]

SHOWN = 4  # names of rows that have no counterpart
LEAST_NOISE = 0.05  # what two runs of the same code may differ by, however small the spread within each of them


@dataclass(frozen=True)
class Change:
    """What happened to our time in one row."""

    old: Row
    new: Row
    peers: tuple[str, ...]  # whose times tell the machine's drift

    @property
    def drift(self) -> float:
        """How many times as long the machine takes for the same work: the median over the peers; 1 without any."""
        return median(self.new.seconds(p) / self.old.seconds(p) for p in self.peers) if self.peers else 1.0

    @property
    def factor(self) -> float:
        """Our new time over the old one, divided by the drift."""
        return self.new.seconds(self.new.ours or "") / self.old.seconds(self.old.ours or "") / self.drift

    @property
    def noise(self) -> float:
        """How far from 1 the factor may be by chance.

        max(5 %, 2 sqrt(s_old^2 + s_new^2 + mean over the peers of (p_old^2 + p_new^2))), where each letter is a
        `Row.spread`: of our samples, and of a peer's. The drift, a median, counts as one typical peer.
        """
        ours = sum(row.spread(row.ours or "") ** 2 for row in (self.old, self.new))
        drift = [self.old.spread(peer) ** 2 + self.new.spread(peer) ** 2 for peer in self.peers]
        return max(LEAST_NOISE, 2 * math.sqrt(ours + (fmean(drift) if drift else 0)))

    @property
    def verdict(self) -> str:
        """Slower or faster, if beyond the noise; unchanged if not."""
        if self.factor > 1 + self.noise:
            return "slower"
        return "faster" if self.factor < 1 / (1 + self.noise) else "unchanged"


@dataclass(frozen=True)
class Comparison:
    """All rows of two runs."""

    changes: tuple[Change, ...]  # the rows of both with our time in both, the largest factor first
    only_old: tuple[str, ...]  # the names of the others
    only_new: tuple[str, ...]
    remarks: tuple[str, ...]  # what makes the comparison less certain

    def of(self, verdict: str) -> list[Change]:
        """The changes of one verdict: slower, faster or unchanged."""
        return [change for change in self.changes if change.verdict == verdict]


def compare(old: Results, new: Results) -> Comparison:
    """Compare our times in two runs, row by row.

    A row's change is our new time over the old one, divided by how much longer the same version of other packages took
    (`Change.drift`); what is within `Change.noise` counts as unchanged.
    """
    before, after = ({row.name: row for row in run.rows if row.ours} for run in (old, new))
    changes = [
        Change(before[name], row, _unchanged_peers(before[name], row, old.versions, new.versions))
        for name, row in after.items()
        if name in before
    ]
    remarks = []
    if old.machine.get("cpu") != new.machine.get("cpu"):
        remarks.append(f"different machines: {old.machine.get('cpu')} before, {new.machine.get('cpu')} now")
    if alone := sum(not change.peers for change in changes):
        remarks.append(
            f"{alone} of {len(changes)} rows without the machine's drift taken out: no peer of the same version in both"
        )
    return Comparison(
        tuple(sorted(changes, key=lambda change: -change.factor)),
        tuple(name for name in before if name not in after),
        tuple(name for name in after if name not in before),
        tuple(remarks),
    )


def _unchanged_peers(old: Row, new: Row, before: dict[str, str], after: dict[str, str]) -> tuple[str, ...]:
    """The other packages with samples in both rows and the same version in both runs."""

    def version(peer: str, versions: dict[str, str]) -> dict[str, str]:
        package = re.split(r"\W", peer)[0]  # torch of torch-cell; jax has jaxlib beside it
        return {name: value for name, value in versions.items() if name in (package, f"{package}lib")}

    return tuple(
        peer
        for peer, samples in new.samples.items()
        if peer not in OURS and samples and old.samples.get(peer)
        if version(peer, before) and version(peer, before) == version(peer, after)
    )


def print_comparison(console: Console, comparison: Comparison) -> None:
    """Print what became slower, what became faster, and how many rows did neither."""
    notable = comparison.of("slower") + comparison.of("faster")
    rows = []
    for change in notable:
        style = {"slower": "red", "faster": "green"}[change.verdict]
        row = [
            Text(change.new.name, style),
            *(Text(time_text(row.seconds(row.ours or ""))) for row in (change.old, change.new)),
            Text(ratio_text(change.drift)),
            Text(ratio_text(change.factor), style),
            Text(f"±{change.noise:.0%}"),
            Text(change.verdict, style),
        ]
        rows.append(row)
    if notable:
        columns = ("row", "before", "now", "drift", "change", "noise", "")
        print_grid(console, "compared with the old results", columns, rows)
    same = [change.factor for change in comparison.of("unchanged")]
    mean = f", geometric mean of the change {ratio_text(geometric_mean(same))}" if same else ""
    counts = ", ".join(f"{len(comparison.of(verdict))} {verdict}" for verdict in ("slower", "faster", "unchanged"))
    console.print("", Text(f"{counts}{mean}"), sep="\n")
    for when, names in (("only in the old results", comparison.only_old), ("only now", comparison.only_new)):
        if names:
            more = [f"{len(names) - SHOWN} more"] if len(names) > SHOWN else []
            console.print(Text(f"{when}: {', '.join([*names[:SHOWN], *more])}"))
    for remark in comparison.remarks:
        console.print(Text(remark, "yellow"))
