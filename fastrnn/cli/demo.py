"""`fastrnn demo`."""

from __future__ import annotations

import time
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from fastrnn.cli.options import PlainConsole, require_matplotlib
from fastrnn.demos import RECIPES, load_recipe
from fastrnn.training import read_text

__all__ = ["demo"]

LIST = "\b\n" + "\n".join(f"{name:14}{subject}" for name, subject in RECIPES.items())


@click.command(epilog=LIST)
@click.argument("name", type=click.Choice(list(RECIPES)), metavar="NAME")
@click.option(
    "--out", type=click.Path(path_type=Path), show_default="fastrnn-demo/NAME", help="Folder for the pictures."
)
@click.option("--text", type=click.Path(path_type=Path), help="A text file, for recipes about text.")
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, help="The same seed gives the same numbers.")
def demo(name: str, out: Path | None, text: Path | None, seed: int) -> None:
    """Run a recipe: train a small network, print what came out, and draw it. NAME is one of those below."""
    run = load_recipe(name)
    options: dict[str, Any] = {"seed": seed}
    if text is not None:
        if "text" not in signature(run).parameters:
            raise click.UsageError(f"the recipe {name} takes no --text.")
        options["text"] = read_text(text)
    require_matplotlib()
    folder = out or Path("fastrnn-demo", name)
    folder.mkdir(parents=True, exist_ok=True)
    console = PlainConsole(soft_wrap=True)
    started = time.perf_counter()
    report = run(folder, say=partial(console.tell, indent=4), **options)
    seconds = time.perf_counter() - started
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for subject, value in report.figures.items():
        table.add_row(subject, value if isinstance(value, str) else f"{value:.4g}")
    console.print()
    console.print(table)
    for picture in report.pictures:
        console.print(f"picture  {picture}")
    console.print(f"{seconds:.1f} s")
