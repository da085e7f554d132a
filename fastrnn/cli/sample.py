"""`fastrnn sample`."""

from __future__ import annotations

from pathlib import Path

import click

from fastrnn.cli.options import AT_LEAST_ONE, SEED, SHARE, TEMPERATURE, UTF_8, checkpoint_in
from fastrnn.training import generate_text, load_model

__all__ = ["sample"]


@click.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("--prompt", type=UTF_8, default="", help="Text to continue; without one, writing starts on a new line.")
@click.option("--length", type=click.IntRange(min=0), default=500, help="Characters, or words, to write at most.")
@click.option("--temperature", type=TEMPERATURE, default=0.8, help="Below 1 is safer, 0 always takes the likeliest.")
@click.option("--top-k", type=AT_LEAST_ONE, help="Draw from so many of the likeliest only.")
@click.option("--top-p", type=SHARE, help="Draw from the fewest that have this share of the probability.")
@click.option("--stop", type=UTF_8, help=r"Text before which writing ends; \n is a line end.")
@click.option("--seed", type=SEED, show_default="another one each time", help="The same seed writes the same text.")
def sample(
    checkpoint: Path,
    prompt: str,
    length: int,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    stop: str | None,
    seed: int | None,
) -> None:
    """Write a text with the model of CHECKPOINT, a folder that `fastrnn train` made, or the file in it."""
    model, tokenizer = load_model(checkpoint_in(checkpoint))
    if stop is not None:
        stop = stop.replace(r"\n", "\n")
    click.echo(generate_text(model, tokenizer, prompt, length, temperature, seed, top_k, top_p, stop))
