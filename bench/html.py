"""A run as one page of HTML that needs nothing beside itself."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import Environment, StrictUndefined

from fastrnn.bench.plots import CAPTIONS, all_plots
from fastrnn.bench.results import Results
from fastrnn.bench.tables import MISSING, report

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["render_html"]

NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))


def render_html(results: Results) -> str:
    """Return a page with the tables of `print_results`, the means at a glance, and every picture.

    Raises
    ------
    ModuleNotFoundError
        If matplotlib is missing.
    """
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(Path(__file__).with_name("report.html.j2").read_text("utf-8"))
    pictures = [(title, CAPTIONS[title], _data_url(figure)) for title, figure in all_plots(results).items()]
    return template.render(report=report(results), pictures=pictures, missing=MISSING)


def _data_url(figure: Figure) -> str:
    """Return a picture as an address that holds it; as an image of its own its ids cannot clash with another one's."""
    svg = io.BytesIO()
    figure.savefig(svg, format="svg", metadata=NO_METADATA)
    return f"data:image/svg+xml;base64,{base64.b64encode(svg.getvalue()).decode()}"
