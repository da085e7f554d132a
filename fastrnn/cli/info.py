"""`fastrnn info`."""

from __future__ import annotations

import click

import fastrnn
from fastrnn.cli.options import wrap

__all__ = ["info"]


@click.command()
def info() -> None:
    """Tell what was built, what runs here, and why."""
    for line in str(fastrnn.info()).splitlines():
        click.echo(wrap(line, 10))
