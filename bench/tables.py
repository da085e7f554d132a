"""What a report contains, as text that a console and a page show alike, and how it looks on a console."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table as Grid
from rich.text import Text

from fastrnn.bench.cells import BUILT_IN
from fastrnn.bench.results import (
    BUSY,
    OURS,
    OWN,
    REFERENCE,
    SCATTER,
    YARDSTICKS,
    Footprint,
    Results,
    Row,
    mean_ratio,
    threads_text,
)

__all__ = [
    "MISSING",
    "Line",
    "Report",
    "Sheet",
    "Table",
    "print_grid",
    "print_results",
    "ratio_text",
    "report",
    "time_text",
]

MISSING = "\N{EN DASH}"  # stands where there is no figure
NAME_WIDTH = len("lstm-50-128-1024-1024-")  # of the names where there is little room, unless a cell's name is longer
STYLES = {"lost": "red", "won": "green", "doubtful": "yellow", "": ""}


@dataclass(frozen=True)
class Line:
    """One row of a table."""

    name: str
    remark: str  # why there is no ratio, or why it does not count, or ""
    ours: str
    times: dict[str, str]  # by peer, of those that have samples
    best: str | None  # the peer that the ratio is about
    ratio: str
    verdict: str  # "lost", "won", "doubtful" or ""
    limit: str


@dataclass(frozen=True)
class Table:
    """All rows of one kind of work on one number of threads."""

    title: str
    peers: tuple[str, ...]  # the columns beside ours
    lines: tuple[Line, ...]
    means: dict[str, str]  # the geometric mean of the ratios by cell, of all "written" ones, and of "all"
    beside: dict[str, str]  # the geometric mean of a peer's time over ours, by peer, over the rows that it is in
    lost: str  # how many rows we lose, and the worst row
    doubtful: str  # how many rows count neither for the means nor there, or ""


@dataclass(frozen=True)
class Sheet:
    """Any other table: its first column holds names, the others figures."""

    columns: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Report:
    """Everything that is told about a run, apart from its pictures."""

    facts: dict[str, str]  # the machine, the versions, the settings
    limits: Sheet
    tables: tuple[Table, ...]
    cells: Sheet  # written cells, the means of their rows
    yardsticks: Sheet  # written cells beside what they are held to
    notes: tuple[str, ...]
    warnings: tuple[str, ...]
    footprints: Sheet


def report(results: Results) -> Report:
    """Put a run into words and figures."""
    return Report(
        _facts(results),
        _limits(results),
        tuple(_table(results, *table) for table in results.tables()),
        _cells(results),
        _yardsticks(results.rows),
        tuple(_notes(results.rows)),
        tuple(_warnings(results.rows)),
        _footprints(results.footprints),
    )


def print_results(console: Console, results: Results) -> None:
    """Print a run: the machine, a table per kind of work and number of threads, notes, and what packages cost."""
    told = report(results)
    for name, text in told.facts.items():
        console.print(Text.assemble((f"{name:<9}", "bold"), text))
    _print_sheet(console, "limits of the machine", told.limits)
    for table in told.tables:
        _print_table(console, table)
    _print_sheet(
        console, "written cells: geometric means of the best peer's time over ours, and of each peer's", told.cells
    )
    _print_sheet(console, "written cells beside what they are held to", told.yardsticks)
    console.print()
    for note in told.notes:
        console.print(Text(note, "dim"))
    for warning in told.warnings:
        console.print(Text(warning, "yellow"))
    _print_sheet(console, "what a package costs", told.footprints)


def print_grid(console: Console, title: str, columns: Sequence[str], rows: Sequence[Sequence[Text]]) -> None:
    """Print a table after an empty line, names on the left and figures on the right.

    Where the console is too narrow for it, only the names break, and then the columns go into several tables, one below
    the other, each with the names, but for those without figures.
    """
    lines = _grid(title, columns, rows)
    left = list(range(1, len(columns)))
    if not _fits(console, lines):
        shortest = [len(found[0]) for name, *_ in rows if (found := re.match(r"\w+(-\d+){4}-?", name.plain))]
        width = max([NAME_WIDTH, *shortest])
        rows = [[_break_name(console, name, width), *figures] for name, *figures in rows]
        columns = [column.replace(", ", ",\n") for column in columns]
    while left:
        count = len(left)
        while True:
            taken = [0, *left[:count]]
            told = [row for row in rows if left[0] == 1 or any(row[i].plain != MISSING for i in taken[1:])]
            lines = _grid(title, [columns[i] for i in taken], [[row[i] for i in taken] for row in told])
            if count == 1 or _fits(console, lines):
                break
            count -= 1
        console.print("", lines, sep="\n")
        left = left[count:]


def _grid(title: str, columns: Sequence[str], rows: Iterable[Sequence[Text]]) -> Grid:
    lines = Grid(
        title=Text(title, "bold"),
        title_justify="left",
        box=SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    for index, column in enumerate(columns):
        lines.add_column(Text(column), justify="right" if index else "left", overflow="fold")
    for row in rows:
        lines.add_row(*row)
    return lines


def _fits(console: Console, lines: Grid) -> bool:
    return Measurement.get(console, console.options.update(width=10_000), lines).maximum <= console.width


def _break_name(console: Console, name: Text, width: int) -> Text:
    """Break a name between words, and a case's before what is special about it."""
    if len(name) > width and (special := re.search(r"(?<=\d-)(?=\d*[a-z])", name.plain)):
        name = Text("\n").join(name.divide([special.start()]))
    return Text("\n").join(name.wrap(console, width))


def time_text(seconds: float) -> str:
    """Return a time with three significant digits in the unit that suits it; `MISSING` for NaN."""
    if math.isnan(seconds):
        return MISSING
    for unit, scale in (("us", 1e6), ("ms", 1e3)):
        if seconds * scale < 999.5:
            return f"{_significant(seconds * scale)} {unit}"
    return f"{_significant(seconds)} s"


def ratio_text(ratio: float) -> str:
    """Return a ratio of times; `MISSING` for NaN."""
    return MISSING if math.isnan(ratio) else f"{ratio:.2f}x"


def _significant(value: float) -> str:
    return f"{value:#.3g}".rstrip(".") if value < 999.5 else f"{value:.0f}"


def _bytes_text(count: int) -> str:
    """Return a size of memory or of a cache, which come in powers of two."""
    power = max(0, min(count.bit_length() - 1, 39) // 10)
    return f"{count / 1024**power:.4g} {('B', 'KiB', 'MiB', 'GiB')[power]}"


def _megabytes(count: int) -> str:
    return f"{_significant(count / 1e6)} MB"


def _facts(results: Results) -> dict[str, str]:
    machine = {
        name.removesuffix("_bytes"): _bytes_text(int(value)) if name.endswith("_bytes") else str(value)
        for name, value in results.machine.items()
    }
    return {
        "started": results.started,
        "machine": ", ".join([machine.pop("cpu", "unknown"), *(f"{name} {value}" for name, value in machine.items())]),
        "versions": ", ".join(f"{name} {value}" for name, value in results.versions.items()),
        "settings": ", ".join(f"{name} {value}" for name, value in results.settings.items()),
    }


def _limits(results: Results) -> Sheet:
    columns = ("threads", "float32 GFLOP/s", "float64 GFLOP/s", "L2 GB/s", "DRAM GB/s")
    return Sheet(
        columns,
        tuple(
            (str(threads), *(_significant(r / 1e9) for r in (of.peak["float32"], of.peak["float64"], of.l2, of.dram)))
            for threads, of in sorted(results.limits.items())
        ),
    )


def _table(results: Results, kind: str, threads: int, rows: list[Row]) -> Table:
    ours = [name for name in OURS if any(row.ours == name for row in rows)]
    measured = {peer for row in rows for peer, samples in row.samples.items() if samples and peer != row.ours}
    peers = sorted(measured.difference(YARDSTICKS))
    ratios = [row for row in rows if row.counts]
    doubted = sum(not row.counts and not math.isnan(row.ratio) for row in rows)
    doubtful = (
        f"{doubted} of {_count(len(rows))} {'are' if doubted > 1 else 'is'} not counted, measured on a busy machine"
    )
    lost = f"lost {sum(row.ratio < 1 for row in ratios)} of {len(ratios)} rows"
    if ratios:
        lost += f", the worst is {ratios[0].case.name} at {ratio_text(ratios[0].ratio)}"
    means = {cell: mean_ratio(row for row in rows if row.case.cell == cell) for cell in BUILT_IN}
    means |= {"written": mean_ratio(row for row in rows if row.case.written), "all": mean_ratio(rows)}
    others = [peer for peer in peers if peer not in (*OWN, REFERENCE)]
    return Table(
        f"{kind} on {threads_text(threads)}" + f"; ours is {' or '.join(ours)}" * bool(ours),
        tuple(peers),
        tuple(_line(results, row) for row in rows),
        _known(means),
        _known({peer: mean_ratio(rows, peer) for peer in others}),
        lost,
        doubtful * bool(doubted),
    )


def _known(means: dict[str, float]) -> dict[str, str]:
    return {name: ratio_text(mean) for name, mean in means.items() if not math.isnan(mean)}


def _line(results: Results, row: Row) -> Line:
    remark, ours, limit = "", MISSING, MISSING
    if row.ours is None:
        remark = next((row.absent[name] for name in OURS if name in row.absent), "not measured")
    else:
        ours = f"{time_text(row.seconds(row.ours))} ±{row.spread(row.ours):.0%}"
        if bound := results.bound(row):
            fraction = results.fraction(row)
            limit = f"{fraction:.{0 if fraction > 0.095 else 1}%} {bound.binds}"
        if row.best_peer is None:
            remark = "no peer"
    if row.doubt and not math.isnan(row.ratio):
        remark = f"not counted: {row.doubt}"
    verdict = "" if math.isnan(row.ratio) else "doubtful" if row.doubt else "lost" if row.ratio < 1 else "won"
    times = {peer: time_text(row.seconds(peer)) for peer, samples in row.samples.items() if samples}
    return Line(row.case.name, remark, ours, times, row.best_peer, ratio_text(row.ratio), verdict, limit)


def _cells(results: Results) -> Sheet:
    """A line for each written cell, the worst first: the mean ratio in each table, and that to each peer in all."""
    written = [row for row in results.rows if row.case.written and row.counts]
    tables = [(kind, threads) for kind, threads, _ in results.tables()]
    peers = sorted({peer for row in written for peer in row.samples} - {*OWN, REFERENCE})
    lines = []
    for cell in {row.case.cell for row in written}:
        its = [row for row in written if row.case.cell == cell]
        of_tables = [mean_ratio(row for row in its if (row.kind, row.threads) == table) for table in tables]
        figures = [*of_tables, *(mean_ratio(its, peer) for peer in peers)]
        lines.append((mean_ratio(its), (cell, *map(ratio_text, figures))))
    columns = (*(f"{kind}, {threads_text(threads)}" for kind, threads in tables), *peers)
    return Sheet(("cell", *columns), tuple(line for _, line in sorted(lines)))


def _yardsticks(rows: Iterable[Row]) -> Sheet:
    """Rows with a yardstick, those first that are furthest beyond what is asked of them, and last those of no claim."""
    lines = []
    held = [(row, row.case.most(row.kind)) for row in rows if not math.isnan(row.cost)]
    for row, most in sorted(held, key=lambda pair: (pair[1] is None, -pair[0].cost / (pair[1] or 1))):
        kept = MISSING if most is None else "yes" if row.cost <= most else "no"
        lines.append(
            (
                row.name,
                time_text(row.seconds(str(row.ours))),
                f"{time_text(row.seconds(str(row.yardstick)))} {row.yardstick}",
                ratio_text(row.cost),
                MISSING if most is None else ratio_text(most),
                kept if row.doubt == "" else f"{kept}, but {row.doubt}",
            )
        )
    return Sheet(("row", "ours", "yardstick", "ours / yardstick", "at most", "kept"), tuple(lines))


def _notes(rows: list[Row]) -> list[str]:
    """Why peers are absent, each reason once."""
    reasons = Counter((peer, reason) for row in rows for peer, reason in row.absent.items())
    return [f"{peer}: {reason} ({_count(count)})" for (peer, reason), count in sorted(reasons.items())]


def _warnings(rows: list[Row]) -> list[str]:
    """What casts doubt on rows: wrong numbers, other processes, of which the busiest are named, and scatter."""
    warnings = [f"{row.name}: {row.wrong}" for row in rows if row.wrong]
    busy = sorted((row for row in rows if row.others > BUSY), key=lambda row: -row.others)
    names = [f"{row.name} ({row.others:.2f} CPUs)" for row in busy[:5]] + [f"{len(busy) - 5} more"] * (len(busy) > 5)
    if busy:
        warnings.append(f"another process was busy during {_count(len(busy))}: {', '.join(names)}")
    if scattered := [row.name for row in rows if row.doubt and row.others <= BUSY]:
        warnings.append(f"times scatter by more than {SCATTER:.0%} in {_count(len(scattered))}, such as {scattered[0]}")
    return warnings


def _count(rows: int) -> str:
    return f"{rows} row{'s' * (rows != 1)}"


def _footprints(footprints: list[Footprint]) -> Sheet:
    cases = list(dict.fromkeys(memory.case.name for footprint in footprints for memory in footprint.memory))
    lines = []
    for footprint in footprints:
        peaks = {memory.case.name: _megabytes(memory.bytes) for memory in footprint.memory}
        lines.append(
            (
                footprint.name + f" ({footprint.without})" * bool(footprint.without),
                time_text(footprint.import_seconds),
                _megabytes(footprint.installed_bytes),
                *(peaks.get(case, MISSING) for case in cases),
            )
        )
    return Sheet(("package", "import", "installed", *(f"peak memory, {case}" for case in cases)), tuple(lines))


def _print_table(console: Console, table: Table) -> None:
    """Print a table with a column for each peer; where there is no room for them, with the best one's time first."""
    lines = table.lines
    names = [_name(line) for line in lines]
    ours = [_figure(line.ours) for line in lines]
    times = [[_figure(line.times.get(p, MISSING), "bold" * (p == line.best)) for p in table.peers] for line in lines]
    ends = [(_figure(line.ratio, STYLES[line.verdict]), _figure(line.limit)) for line in lines]
    columns = ["case", "ours", *table.peers, "ratio", "of limit"]
    rows = [[name, our, *its, *end] for name, our, its, end in zip(names, ours, times, ends, strict=True)]
    if _fits(console, _grid(table.title, columns, rows)):
        print_grid(console, table.title, columns, rows)
    else:
        best = [_figure(f"{line.times[line.best]} {line.best}" if line.best else MISSING) for line in lines]
        rows = [[name, our, peer, *end] for name, our, peer, end in zip(names, ours, best, ends, strict=True)]
        print_grid(console, table.title, ["case", "ours", "best peer", "ratio", "of limit"], rows)
        rows = [[Text(line.name), *its] for line, its in zip(lines, times, strict=True)]
        print_grid(console, "times of all others", ["case", *table.peers], rows)
    means, beside = (", ".join(f"{name} {mean}" for name, mean in each.items()) for each in (table.means, table.beside))
    console.print(Text(f"geometric mean of the ratios: {means or MISSING}; {table.lost}"))
    if beside:
        console.print(Text(f"geometric mean of a peer's time over ours: {beside}"))
    if table.doubtful:
        console.print(Text(table.doubtful, "yellow"))


def _name(line: Line) -> Text:
    name = Text(line.name, "" if line.verdict == "won" else STYLES[line.verdict])
    return name.append(f"\n{line.remark}", "dim") if line.remark else name


def _figure(text: str, style: str = "") -> Text:
    return Text(text, "dim" if text == MISSING else style)


def _print_sheet(console: Console, title: str, sheet: Sheet) -> None:
    if not sheet.lines:
        return
    print_grid(console, title, sheet.columns, [[Text(name), *map(_figure, figures)] for name, *figures in sheet.lines])
