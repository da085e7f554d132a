"""`fastrnn plot`."""

from __future__ import annotations

from pathlib import Path

import click

from fastrnn.cli.options import AT_LEAST_ONE, SEED, UTF_8, checkpoint_in, require_matplotlib
from fastrnn.training import generate_text, load_history, load_model
from fastrnn.training.plots import plot_gates, plot_hidden, plot_losses

__all__ = ["plot"]

LONGEST = 60  # tokens of the text that is made up where none is given


@click.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option(
    "--prompt", type=UTF_8, show_default="one the model writes", help="The text to read while its inside is drawn."
)
@click.option("--layer", type=AT_LEAST_ONE, show_default="the last", help="The layer whose inside is drawn.")
@click.option(
    "--out", type=click.Path(path_type=Path), show_default="the checkpoint's", help="Folder for the pictures."
)
@click.option("--seed", type=SEED, default=0, help="Of the prompt that the model writes.")
def plot(checkpoint: Path, prompt: str | None, layer: int | None, out: Path | None, seed: int) -> None:
    """Draw the loss curves of CHECKPOINT and what is inside its model as it reads.

    CHECKPOINT is a folder that `fastrnn train` made, or the file in it.

    The pictures are loss.png, hidden.png, with heat maps of the states and the hidden state as lines, and gates.png,
    with a heat map of each gate.
    """
    require_matplotlib()
    checkpoint = checkpoint_in(checkpoint)
    model, tokenizer = load_model(checkpoint)
    losses, evaluations = load_history(checkpoint)
    layers = model.rnn.num_layers
    if layer is not None and layer > layers:
        raise click.UsageError(f"--layer is {layer}, but the model has {layers}.")
    if prompt is None:
        prompt = generate_text(model, tokenizer, "", LONGEST, 0.8, seed)
    tokens = tokenizer.encode(prompt)
    if not len(tokens):
        raise click.UsageError("--prompt is empty.")
    labels = [tokenizer.decode([token]) for token in tokens]
    suffix = f"_l{(layer or layers) - 1}"
    trace = model.trace(tokens[:, None])
    inside = {name.removesuffix(suffix): values[:, 0] for name, values in trace.items() if name.endswith(suffix)}

    folder = out or checkpoint.parent
    folder.mkdir(parents=True, exist_ok=True)
    title = f"{model.rnn}, layer {layer or layers}"
    plot_losses(folder / "loss.png", losses, evaluations, token=tokenizer.unit)
    states = model.rnn._cell.states
    plot_hidden(folder / "hidden.png", inside, labels, states=states, title=title)
    pictures = ["loss.png", "hidden.png"]
    if inside.keys() - set(states):
        plot_gates(folder / "gates.png", inside, labels, states=states, title=title)
        pictures.append("gates.png")
    for picture in pictures:
        click.echo(folder / picture)
