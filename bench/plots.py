"""Pictures of a run; they need matplotlib."""

from __future__ import annotations

import io
import math
import os
from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import cycle, groupby
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fastrnn.bench.cases import KINDS, SETS
from fastrnn.bench.cells import BUILT_IN
from fastrnn.bench.results import YARDSTICKS, Results, Row, mean_ratio, threads_text
from fastrnn.training.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "CAPTIONS",
    "all_plots",
    "roofline",
    "save_pngs",
    "scaling_with_length",
    "scaling_with_threads",
    "speedups",
]

# Told apart with every kind of colour vision (Okabe and Ito, 2008); markers tell the same without any colour.
BLUE, VERMILION, GREY = "#0072b2", "#d55e00", "#777777"
PEER_STYLES = (
    (VERMILION, "s"),
    ("#009e73", "^"),
    ("#cc79a7", "D"),
    ("#e69f00", "v"),
    ("#56b4e9", "P"),
    ("#000000", "X"),
)
KIND_MARKERS = {"inference": "o", "training": "s"}
LARGEST = 4.0  # the ratio at which the colours of the heat map end

CAPTIONS = {
    "Speed-ups": "The best peer's time over ours, the geometric mean over all cases of that hidden size and batch: "
    "blue and above 1 where fastrnn is faster, red and below 1 where it is slower. A field without a number was not "
    "measured.",
    "Roofline": "How much of the machine is used. A case lies further right the more arithmetic it has per byte that "
    "has to be read or written, and higher the faster it runs; the roofs are what the machine was measured to do with "
    "data in the L2 cache, in memory, and in registers. A line joins us with the best peer on the same case: the "
    "upper end is the faster one. Weights that fit the first-level cache may lie above the L2 roof.",
    "Scaling with length": "Time per step of sequences that differ only in length. A flat line is time in proportion "
    "to length; a line that falls pays something once per call; a line that rises runs out of cache.",
    "Scaling with threads": "How many times as fast several threads are as one: a pale point per row, and a line "
    "through the geometric means of rows with about as much work. The dashed line is as many times as there are "
    "threads; below 1 more threads are slower.",
}


def all_plots(results: Results) -> dict[str, Figure]:
    """Draw every picture that there is data for, by the titles of `CAPTIONS`.

    Raises
    ------
    ModuleNotFoundError
        If matplotlib is missing.
    """
    drawers: tuple[Callable[[Results], Figure | None], ...] = (
        speedups,
        roofline,
        scaling_with_length,
        scaling_with_threads,
    )
    figures = {title: draw(results) for title, draw in zip(CAPTIONS, drawers, strict=True)}
    return {title: figure for title, figure in figures.items() if figure is not None}


def save_pngs(folder: str | os.PathLike[str], results: Results) -> list[Path]:
    """Write every picture as a PNG file, atomically, into a folder, which is made if there is none.

    Raises
    ------
    ModuleNotFoundError
        If matplotlib is missing.
    OSError
        If a file cannot be written.
    """
    paths = []
    for title, figure in all_plots(results).items():
        png = io.BytesIO()
        figure.savefig(png, format="png", dpi=120)
        Path(folder).mkdir(parents=True, exist_ok=True)
        paths.append(Path(folder) / f"{title.lower().replace(' ', '-')}.png")
        write_atomically(paths[-1], png.getvalue())
    return paths


def speedups(results: Results) -> Figure | None:
    """Draw the best peer's time over ours for hidden sizes and batches, per cell, kind of work and threads."""
    rows = [row for row in results.rows if row.counts and not row.case.written]
    if not rows:
        return None
    sizes, batches = sorted({row.case.H for row in rows}), sorted({row.case.N for row in rows})
    figure, panels = _panel_per_cell(rows, max(3, 1 + 0.42 * len(sizes)), 1.2 + 0.28 * len(batches))
    from matplotlib.colors import LinearSegmentedColormap

    colours = LinearSegmentedColormap.from_list("losses and wins", [VERMILION, "#f7f7f7", BLUE])
    end = math.log2(LARGEST)
    for axes, group in panels:
        fields = [[[row for row in group if n == row.case.N and h == row.case.H] for h in sizes] for n in batches]
        means = np.array([[mean_ratio(field) for field in line] for line in fields])
        image = axes.imshow(np.log2(means), cmap=colours, vmin=-end, vmax=end, origin="lower", aspect="auto")
        for (y, x), mean in np.ndenumerate(means):
            if not math.isnan(mean):
                colour = "white" if abs(math.log2(mean)) > 0.7 * end else "black"
                text = f"{mean:.2f}" if mean < 9.95 else f"{mean:.0f}"
                axes.text(x, y, text, ha="center", va="center", fontsize=8, color=colour)
        axes.set_xticks(range(len(sizes)), [str(size) for size in sizes])
        axes.set_yticks(range(len(batches)), [str(batch) for batch in batches])
        axes.set(xlabel="hidden size H", ylabel="batch N")
    ratios = (1 / LARGEST, 1 / 2, 1, 2, LARGEST)
    every = [axes for axes, _ in panels]
    bar = figure.colorbar(image, ax=every, extend="both", shrink=0.8, aspect=6 * figure.get_figheight(), pad=0.02)
    bar.set_ticks([math.log2(ratio) for ratio in ratios], labels=[f"{ratio:g}x" for ratio in ratios])
    bar.set_label("best peer's time / ours")
    return figure


def roofline(results: Results) -> Figure | None:
    """Draw operations per second against arithmetic intensity, ours and the best peer's, below the machine's roofs."""
    threads = sorted({row.threads for row in results.rows if row.ours} & results.limits.keys())
    if not threads:
        return None
    figure = _figure(6.2 * len(threads), 5.9)
    for count, axes in zip(threads, figure.subplots(1, len(threads), squeeze=False)[0], strict=True):
        rows = [row for row in results.rows if row.threads == count]
        for row in rows:
            both = [_gigaflops(row, peer) for peer in (row.ours, row.best_peer) if peer]
            axes.plot([row.intensity] * len(both), both, color=GREY, linewidth=0.6, zorder=1)
        for kind, marker in KIND_MARKERS.items():
            group = [row for row in rows if row.kind == kind]
            ours = [(row.intensity, _gigaflops(row, row.ours)) for row in group if row.ours]
            best = [(row.intensity, _gigaflops(row, row.best_peer)) for row in group if row.best_peer]
            for who, points, colour, inside in (("fastrnn", ours, BLUE, BLUE), ("best peer", best, VERMILION, "none")):
                if points:
                    label = f"{who}, {kind}"
                    axes.plot(*zip(*points, strict=True), marker, color=colour, mfc=inside, ms=4.5, label=label)
        limits = results.limits[count]
        dtypes = sorted({row.case.dtype for row in rows})
        peaks = {dtype: limits.peak[dtype] / 1e9 for dtype in dtypes}
        x = np.geomspace(min(row.intensity for row in rows) / 2, max(row.intensity for row in rows) * 2, 300)
        for name, rate, style in (("L2", limits.l2 / 1e9, "--"), ("memory", limits.dram / 1e9, ":")):
            roof = np.minimum(rate * x, max(peaks.values()))
            axes.plot(x, roof, style, color="black", label=f"from {name}, {rate:.0f} GB/s")
        for (dtype, peak), style in zip(peaks.items(), ("-", "-."), strict=False):
            axes.axhline(peak, linestyle=style, color="black", linewidth=1, label=f"{dtype} peak, {peak:.0f} GFLOP/s")
        axes.set(xscale="log", yscale="log", xlim=(x[0], x[-1]), title=threads_text(count))
        axes.set(xlabel="arithmetic intensity (FLOP per byte)", ylabel="achieved (GFLOP/s)")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.13))  # below all points
    return figure


def scaling_with_length(results: Results) -> Figure | None:
    """Draw the time per step against the length of the cases of the set `long`, per cell, kind of work and threads."""
    rows = sorted((row for row in results.rows if row.case in SETS["long"]), key=lambda row: row.case.T)
    if len({row.case.T for row in rows}) < 2:
        return None
    figure, panels = _panel_per_cell(rows, 4.2, 3.2)
    from matplotlib.ticker import LogLocator

    styles = _styles(rows)
    for axes, group in panels:
        for name, (colour, marker) in styles.items():
            points = [(row.case.T, _times(row)[name] / row.case.T * 1e6) for row in group if name in _times(row)]
            if points:
                axes.plot(*zip(*points, strict=True), color=colour, marker=marker, label=name)
        axes.set(xscale="log", yscale="log", xlabel="length T (steps)", ylabel="time per step (us)")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_minor_formatter("")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter("{x:g}")
        axes.grid(alpha=0.3)
    _legend_below(figure)
    return figure


def scaling_with_threads(results: Results) -> Figure | None:
    """Draw how many times as fast several threads are as one, per kind of work, against the work of a row."""
    rows = sorted(results.rows, key=lambda row: row.case.flops(row.kind))
    single = {(row.case, row.kind): row for row in rows if row.threads == 1}
    several = [row for row in rows if row.threads > 1 and (row.case, row.kind) in single]
    if not several:
        return None
    threads = sorted({row.threads for row in several})
    kinds = [kind for kind in KINDS if any(row.kind == kind for row in several)]
    styles = _styles(rows)
    figure = _figure(8 * len(threads), 4 * len(kinds))
    for kind, line in zip(kinds, figure.subplots(len(kinds), len(threads), squeeze=False), strict=True):
        for count, axes in zip(threads, line, strict=True):
            factors: dict[str, list[tuple[int, float]]] = defaultdict(list)
            for row in several:
                if (row.kind, row.threads) == (kind, count):
                    before, now = _times(single[row.case, kind]), _times(row)
                    for name in before.keys() & now.keys():
                        factors[name].append((row.case.flops(kind), before[name] / now[name]))
            for name, (colour, marker) in styles.items():
                if points := factors[name]:
                    axes.plot(*zip(*points, strict=True), marker, color=colour, alpha=0.25, ms=4, mew=0)
                    decades = [list(group) for _, group in groupby(points, key=lambda point: len(str(point[0])))]
                    means = [np.exp(np.mean(np.log(decade), axis=0)) for decade in decades]
                    axes.plot(*zip(*means, strict=True), color=colour, marker=marker, label=name)
            axes.axhline(count, color="black", linestyle="--", label="ideal")
            axes.axhline(1, color=GREY, linewidth=1, zorder=1)
            axes.set(xscale="log", ylim=(0, None), title=f"{kind}, {threads_text(count)}")
            axes.set(xlabel="work of a call (FLOP)", ylabel=f"time on 1 thread / on {count}")
            axes.grid(alpha=0.3)
    _legend_below(figure)
    return figure


def _figure(width: float, height: float) -> Figure:
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("pictures need matplotlib: pip install matplotlib", name=error.name) from None
    return Figure(figsize=(width, height), layout="constrained")


def _panel_per_cell(rows: Sequence[Row], width: float, height: float) -> tuple[Figure, list[tuple[Axes, list[Row]]]]:
    """Return a figure with a line of panels per kind of work and threads, and the rows that belong into each."""
    lines = sorted({(KINDS.index(row.kind), row.threads) for row in rows})
    cells = [cell for cell in BUILT_IN if any(row.case.cell == cell for row in rows)]
    figure = _figure(width * len(cells), height * len(lines))
    panels = []
    for (kind, threads), line in zip(lines, figure.subplots(len(lines), len(cells), squeeze=False), strict=True):
        for cell, axes in zip(cells, line, strict=True):
            group = [row for row in rows if (row.case.cell, row.kind, row.threads) == (cell, KINDS[kind], threads)]
            if group:
                axes.set_title(f"{cell}, {KINDS[kind]}, {threads_text(threads)}", fontsize=10)
                panels.append((axes, group))
            else:
                axes.remove()
    return figure, panels


def _legend_below(figure: Figure) -> None:
    """Put one legend for all panels below them."""
    entries: dict[str, Artist] = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    figure.legend(list(entries.values()), list(entries), loc="outside lower center", ncols=4)


def _times(row: Row) -> dict[str, float]:
    """Seconds by the name in legends: ours is fastrnn, whichever backend that is."""
    names = [name for name, samples in row.samples.items() if samples and name not in YARDSTICKS]
    return {"fastrnn" if name == row.ours else name: row.seconds(name) for name in names}


def _styles(rows: Sequence[Row]) -> dict[str, tuple[str, str]]:
    """Colour and marker by the name in legends, fastrnn last so that it is drawn above the others."""
    peers = sorted({name for row in rows for name in _times(row)} - {"fastrnn"})
    return dict(zip(peers, cycle(PEER_STYLES), strict=False)) | {"fastrnn": (BLUE, "o")}


def _gigaflops(row: Row, peer: str) -> float:
    return float(row.case.flops(row.kind) / row.seconds(peer) / 1e9)
