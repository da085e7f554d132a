"""`fastrnn info`."""

from __future__ import annotations

from pathlib import Path

import click

import fastrnn
from fastrnn.cli.options import checkpoint_in, wrap
from fastrnn.training.checkpoint import describe_file

__all__ = ["info"]


@click.command()
@click.argument("file", required=False, type=click.Path(path_type=Path))
def info(file: Path | None) -> None:
    """Tell what was built, what runs here, and why; or what is in FILE.

    FILE is a model that `fastrnn.save` wrote, a checkpoint of `fastrnn train`, or the folder that has it.
    """
    if file is not None:
        for line in describe_file(checkpoint_in(file)):
            click.echo(line)
        return
    for line in str(fastrnn.info()).splitlines():
        click.echo(wrap(line, 10))
