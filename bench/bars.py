"""A picture of a few rows, for the first screen of README and of the documentation: bars, as SVG."""

from __future__ import annotations

from html import escape

from fastrnn.bench.results import Results, Row, threads_text
from fastrnn.bench.tables import time_text

__all__ = ["INKS", "draw_bars", "first_rows"]

INKS = {"": ("#1f2328", "#8c959f"), "-dark": ("#e6edf3", "#6e7681")}  # text and others' bars, by end of a file's name
OURS = "#0072b2", "#3aa0e0"  # our bars on a light page and on a dark one
CASES = "lstm-100-32-128-128", "gru-100-32-128-128", "rnn-100-32-128-128"
LABELS = {"torch": "PyTorch", "jax": "JAX", "numpy": "NumPy"}
PANEL, LINE, NAMES, LONGEST = 280, 22, 66, 150  # pixels: a panel's width, a bar's line, names, the longest bar


def first_rows(results: Results) -> list[Row]:
    """The rows of the first screen: a training step of every cell at (100, 32, 128, 128) on one thread."""
    by_name = {row.case.name: row for row in results.rows if row.kind == "training" and row.threads == 1}
    return [by_name[name] for name in CASES]


def draw_bars(rows: list[Row], ink: str = "") -> str:
    """Draw a panel per row, in it a bar per package, shorter being faster, in an ink of `INKS`."""
    text, grey = INKS[ink]
    height = 30 + LINE * (1 + len(LABELS)) + 24 * (len(rows) > 1)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {PANEL * len(rows)} {height}" '
        f'width="{PANEL * len(rows)}" height="{height}" role="img" font-family="system-ui, sans-serif" font-size="13">',
        f"<title>{escape(_told(rows))}</title>",
    ]
    for column, row in enumerate(rows):
        x = PANEL * column + NAMES  # where bars begin
        times = {"fastrnn": row.seconds(str(row.ours))} | {label: row.seconds(p) for p, label in LABELS.items()}
        parts.append(f'<text x="{x}" y="18" fill="{text}" font-weight="bold">{row.case.cell.upper()}</text>')
        for k, (label, seconds) in enumerate(times.items()):
            y, own = 30 + LINE * k, label == "fastrnn"
            width = max(2.0, LONGEST * seconds / max(times.values()))
            colour, weight = (OURS[ink == "-dark"], ' font-weight="bold"') if own else (grey, "")
            parts += [
                f'<text x="{x - 6}" y="{y + 15}" fill="{text}" text-anchor="end"{weight}>{label}</text>',
                f'<rect x="{x}" y="{y + 3}" width="{width:.1f}" height="{LINE - 6}" rx="2" fill="{colour}"/>',
                f'<text x="{x + width + 5:.1f}" y="{y + 15}" fill="{text}"{weight}>{time_text(seconds)}</text>',
            ]
    if len(rows) > 1:  # else there is no room
        parts.append(f'<text x="{NAMES}" y="{height - 6}" fill="{text}" font-size="12">{escape(_subject(rows))}</text>')
    parts.append("</svg>")
    return "\n".join(parts) + "\n"


def _subject(rows: list[Row]) -> str:
    case = rows[0].case
    sizes = f"{case.T} steps, {case.N} sequences, {case.I} inputs, {case.H} units, {case.dtype}"
    return f"Forward and all gradients; {sizes}; {threads_text(rows[0].threads)}. Shorter is faster."


def _told(rows: list[Row]) -> str:
    """The picture in words."""
    times = [
        f"{row.case.cell.upper()}: fastrnn {time_text(row.seconds(str(row.ours)))}, "
        + ", ".join(f"{label} {time_text(row.seconds(p))}" for p, label in LABELS.items())
        for row in rows
    ]
    return f"{_subject(rows)} {'; '.join(times)}"
