"""The page about performance: tables and pictures by `fastrnn.bench`, from the results of the release."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any

import fastrnn
from fastrnn.bench.bars import INKS, draw_bars, first_rows
from fastrnn.bench.plots import CAPTIONS, all_plots
from fastrnn.bench.results import load
from fastrnn.bench.tables import MISSING, Report, Sheet, report

RESULTS = Path(__file__).parents[2] / "bench" / "results"


def sheet(content: Sheet) -> str:
    """Return a table."""
    head = "".join(f"<th>{escape(column)}</th>" for column in content.columns)
    lines = ["".join(f"<td>{escape(text)}</td>" for text in line) for line in content.lines]
    return table(head, [f"<tr>{line}</tr>" for line in lines])


def table(head: str, lines: list[str]) -> str:
    """Return a table of HTML rows that scrolls by itself where it is too wide."""
    body = "\n".join(lines)
    return (
        '<div class="table-wrapper"><table class="figures docutils"><thead><tr>'
        f"{head}</tr></thead><tbody>\n{body}\n</tbody></table></div>\n"
    )


def rows_of(told: Report) -> str:
    """Return every table of rows, folded."""
    parts = []
    for each in told.tables:
        head = "".join(f"<th>{escape(name)}</th>" for name in ("case", "ours", "ratio", "of limit", *each.peers))
        lines = []
        for line in each.lines:
            cells = [f"<td>{escape(text)}</td>" for text in (line.name, line.ours, line.ratio, line.limit)]
            for peer in each.peers:
                mark = ' class="best"' if peer == line.best else ""
                cells.append(f"<td{mark}>{escape(line.times.get(peer, MISSING))}</td>")
            lines.append(f'<tr class="{line.verdict}">{"".join(cells)}</tr>')
        means = ", ".join(f"{cell} {mean}" for cell, mean in each.means.items())
        parts.append(
            f"<details><summary>{escape(each.title)}: {escape(means)}</summary>\n"
            f"{table(head, lines)}<p>{escape(each.lost)}</p></details>\n"
        )
    return "".join(parts)


def bars(folder: Path) -> str:
    """Draw the bars of the first page, each cell's by itself for a page of any width, and return what shows them."""
    rows, shown = first_rows(load(RESULTS / f"{fastrnn.__version__}.json")), []
    for ink in INKS:
        (folder.parent / "gallery" / f"speed{ink}.svg").write_text(draw_bars(rows, ink), "utf-8")  # README's
    for row in rows:
        for ink, when in zip(INKS, ("light", "dark"), strict=True):
            name = f"bars-{row.case.cell}{ink}.svg"
            (folder / name).write_text(draw_bars([row], ink), "utf-8")
            shown.append(f"![{row.case.cell.upper()}](/_generated/{name}){{.only-{when} .as-drawn}}")
    return ":::{container} bars\n" + "\n".join(shown) + "\n:::\n"


def written_cells(path: Path) -> str:
    """Return the tables of written cells, or, where none were kept of this release, how to make them."""
    if not path.exists():
        return "<p>No figures were kept of this release: <code>fastrnn bench cells yardsticks</code> makes them.</p>\n"
    told = report(load(path))
    facts = f"<p>{escape(told.facts['machine'])}; {escape(told.facts['versions'])}</p>\n"
    return sheet(told.cells) + rows_of(told) + "<h3>Beside the built-in ones</h3>\n" + sheet(told.yardsticks) + facts


def of_example(name: str, script: str, lines_of: Callable[[Any], tuple[list[str], list[list[str]]]]) -> str:
    """Return what a script of examples/ measured as a table, or, where nothing was kept of this release, how to."""
    path = RESULTS / f"{fastrnn.__version__}-{name}.json"
    if not path.exists():
        return f"<p>No figures were kept of this release: <code>examples/{name}/{script}</code> makes them.</p>\n"
    known = json.loads(path.read_text("utf-8"))
    columns, rows = lines_of(known)
    lines = ["<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>" for cells in rows]
    facts = [known["machine"]["cpu"], *(f"{peer} {version}" for peer, version in known["versions"].items())]
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    return table(head, lines) + f"<p>{escape(', '.join(facts))}</p>\n"


def clients(known: Any) -> tuple[list[str], list[list[str]]]:
    """Return columns and rows of the table of published networks."""
    columns = ["package", "network", "on", "recurrent part", "largest difference", "before", "after", "times as fast"]
    lines = []
    for row in known["rows"]:
        before, after = (f"{1e3 * row['seconds'][key]:.3g} ms" for key in ("before", "after"))
        difference, outputs = row["difference"], f"{row['outputs']:,}"
        if row["whole_numbers"]:
            difference = f"{'none' if difference == 0 else 'some'} of {outputs}"
        else:
            difference = f"{difference:.0e}" if difference else "0"
        times = with_digits(row["seconds"]["before"] / row["seconds"]["after"])
        lines.append(
            [row["package"], row["network"], row["case"], f"{row['share']:.0%}", difference, before, after, times]
        )
    return columns, lines


def estimators(known: Any) -> tuple[list[str], list[list[str]]]:
    """Return columns and rows of the table of estimators beside other libraries' networks."""
    names = list(known["rows"][0]["scores"])
    peers = [name for name in names if name != "fastrnn"]
    columns = ["data set", "what it is", "score", *names, *(f"times as fast as {peer}" for peer in peers)]
    lines = []
    for row in known["rows"]:
        scores = [f"{row['scores'][name]:.3f} in {row['seconds'][name]:.3g} s" for name in names]
        times = [with_digits(row["seconds"][peer] / row["seconds"]["fastrnn"]) for peer in peers]
        lines.append([row["data"], row["about"], row["measure"], *scores, *times])
    return columns, lines


def with_digits(ratio: float) -> str:
    """Return a ratio with as many digits as it is worth."""
    return f"{ratio:.2f}" if ratio < 10 else f"{ratio:.0f}"


def write_all(app: Any) -> None:
    """Write what `index.md`, `performance.md`, `clients.md`, `fit.md` and `your-own-cell.md` include."""
    folder = Path(app.srcdir, "_generated")
    folder.mkdir(exist_ok=True)
    (folder / "bars.md").write_text(bars(folder), "utf-8")
    (folder / "clients.html").write_text(of_example("clients", "measure.py", clients), "utf-8")
    (folder / "estimators.html").write_text(of_example("estimators", "compare.py", estimators), "utf-8")
    (folder / "cells.html").write_text(written_cells(RESULTS / f"{fastrnn.__version__}-cells.json"), "utf-8")
    for name, end in (("grid", ""), ("variants", "-variants")):
        results = load(RESULTS / f"{fastrnn.__version__}{end}.json")
        told = report(results)
        facts = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v or MISSING)}</dd>" for k, v in told.facts.items())
        (folder / f"{name}-facts.html").write_text(f'<dl class="facts">{facts}</dl>\n', "utf-8")
        (folder / f"{name}-rows.html").write_text(rows_of(told), "utf-8")
        (folder / f"{name}-costs.html").write_text(sheet(told.footprints), "utf-8")
        pictures = []
        for title, figure in all_plots(results).items():
            svg = io.BytesIO()
            figure.savefig(svg, format="svg", metadata={"Date": None})
            picture = f"{name}-{title.lower().replace(' ', '-')}.svg"
            (folder / picture).write_bytes(svg.getvalue())
            alt = "Heat map of speed-ups" if title == "Speed-ups" else title
            pictures.append(f"### {title}\n\n![{alt}](/_generated/{picture})\n\n{CAPTIONS[title]}\n")
        (folder / f"{name}-pictures.md").write_text("\n".join(pictures), "utf-8")


def setup(app: Any) -> dict[str, bool]:
    """Write when a build begins."""
    app.connect("builder-inited", write_all)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
