"""`fastrnn sample`."""

from __future__ import annotations

from pathlib import Path

import click

from fastrnn.cli.options import SEED, TEMPERATURE
from fastrnn.training import generate_text, load_model

__all__ = ["sample"]


@click.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("--prompt", default="", help="Text to continue; without one, writing starts on a new line.")
@click.option("--length", type=click.IntRange(min=0), default=500, help="Characters to write.")
@click.option("--temperature", type=TEMPERATURE, default=0.8, help="Below 1 is safer, 0 always takes the likeliest.")
@click.option("--seed", type=SEED, show_default="another one each time", help="The same seed writes the same text.")
def sample(checkpoint: Path, prompt: str, length: int, temperature: float, seed: int | None) -> None:
    """Write a text with the model of CHECKPOINT, a file that `fastrnn train` made."""
    model, tokenizer = load_model(checkpoint)
    click.echo(generate_text(model, tokenizer, prompt, length, temperature, seed))
