"""`fastrnn info`."""

from __future__ import annotations

import click

import fastrnn

__all__ = ["info"]


@click.command()
def info() -> None:
    """Tell what was built, what runs here, and why."""
    click.echo(fastrnn.info())
