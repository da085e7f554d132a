"""`fastrnn train`."""

from __future__ import annotations

import math
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import Any

import click
import numpy as np
from click.core import ParameterSource
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

import fastrnn
from fastrnn.cli.options import AT_LEAST_ONE, LEARNING_RATE, MAX_NORM, SEED, TEMPERATURE
from fastrnn.training import (
    DivergenceError,
    Evaluation,
    Settings,
    Trainer,
    dinosaur_text,
    generate_text,
    load_model,
    plot_losses,
    read_text,
)
from fastrnn.training.loop import OPTIMIZERS
from fastrnn.training.model import CELLS

__all__ = ["train"]

LEARNING_RATES = {"adam": Settings.learning_rate, "sgd": 1.0}


@click.command()
@click.argument("texts", nargs=-1, metavar="[TEXT.txt ...]", type=click.Path(path_type=Path))
@click.option(
    "--out", default="fastrnn-run", type=click.Path(path_type=Path), help="Folder for checkpoint and picture."
)
@click.option("--resume", is_flag=True, help="Go on with the checkpoint in the folder; takes the same text.")
@click.option("--cell", type=click.Choice(list(CELLS)), default=Settings.cell)
@click.option("--hidden", "hidden_size", type=AT_LEAST_ONE, default=Settings.hidden_size, help="Units of a layer.")
@click.option("--layers", "num_layers", type=AT_LEAST_ONE, default=Settings.num_layers)
@click.option("--seq-length", type=AT_LEAST_ONE, default=Settings.seq_length, help="Characters gradients flow back.")
@click.option("--batch-size", type=AT_LEAST_ONE, default=Settings.batch_size, help="Places of the text read at once.")
@click.option("--steps", type=AT_LEAST_ONE, default=Settings.steps, help="Updates of the parameters, at most.")
@click.option("--epochs", type=AT_LEAST_ONE, help="Readings of the whole text, at most; instead of --steps.")
@click.option("--optimizer", type=click.Choice(list(OPTIMIZERS)), default=Settings.optimizer)
@click.option(
    "--learning-rate", type=LEARNING_RATE, show_default=", ".join(f"{r} with {o}" for o, r in LEARNING_RATES.items())
)
@click.option("--clip", type=MAX_NORM, default=Settings.clip, help="Largest norm of the gradients; inf for any.")
@click.option(
    "--evaluate-every",
    type=AT_LEAST_ONE,
    show_default="once per epoch, within 50 to 250",
    help="Steps between evaluations on held-out text.",
)
@click.option(
    "--patience", type=AT_LEAST_ONE, default=Settings.patience, help="Evaluations without progress before it stops."
)
@click.option("--seed", type=SEED, default=Settings.seed, help="The same seed gives the same numbers.")
@click.option("--temperature", type=TEMPERATURE, default=0.8, help="Of the samples; 0 always takes the likeliest.")
@click.option("--backend", metavar="NAME", show_default="the fastest that runs here", help="See `fastrnn info`.")
@click.option("--threads", type=AT_LEAST_ONE, show_default="all available CPUs")
@click.pass_context
def train(
    context: click.Context,
    /,
    texts: tuple[Path, ...],
    out: Path,
    resume: bool,
    temperature: float,
    backend: str | None,
    threads: int | None,
    **settings: Any,
) -> None:
    """Train a character model on one or more text files, or, without any, on the names of dinosaurs.

    The last tenth of the text is held out. The folder gets checkpoint.safetensors, which always holds the latest state
    and the best model, and loss.png. Ctrl-C saves and stops; --resume then goes on as if nothing had happened.
    """
    given = {name: v for name, v in settings.items() if context.get_parameter_source(name) != ParameterSource.DEFAULT}
    if "steps" in given:
        if "epochs" in given:
            raise click.UsageError("--steps and --epochs exclude each other.")
        given["epochs"] = None

    checkpoint, picture = out / "checkpoint.safetensors", out / "loss.png"
    if not resume and checkpoint.exists():
        raise click.UsageError(f"{checkpoint} exists; --resume goes on with it, another --out leaves it alone.")
    text = "".join(map(read_text, texts)) or dinosaur_text()
    used = backend or fastrnn.info().used
    if resume:
        trainer = Trainer.resume(checkpoint, text, backend=used, num_threads=threads, **given)
    else:
        given.setdefault("learning_rate", LEARNING_RATES[settings["optimizer"]])
        trainer = Trainer(text, Settings(**given), backend=used, num_threads=threads)
    out.mkdir(parents=True, exist_ok=True)
    trainer.save(checkpoint)

    console = Console(emoji=False, highlight=False, markup=False, soft_wrap=True)
    source = ", ".join(map(str, texts)) or "names of dinosaurs"
    parameters = sum(p.size for p in trainer.model.parameters.values())
    console.print(f"text   {source}: {len(text):,} characters, {len(trainer.tokenizer)} different ones")
    console.print(f"model  {trainer.model.rnn} and a linear layer: {parameters:,} parameters")
    if resume:
        console.print(f"going on after step {trainer.step:,} of {checkpoint}; the text is the same")
    try:
        speed, interrupted = _follow(trainer, checkpoint, temperature, console)
    except DivergenceError as error:
        raise click.ClickException(f"{error}; {checkpoint} holds the last good state") from error
    trainer.save(checkpoint)
    drawn = find_spec("matplotlib") is not None
    if drawn:
        plot_losses(picture, trainer.losses, trainer.evaluations)

    console.print()
    if interrupted:
        stop = f"stopped after step {trainer.step:,} of {trainer.total_steps:,}"
        console.print(f"{stop}; the same command with --resume goes on as if it had not been")
    elif trainer.step < trainer.total_steps:
        console.print(
            f"stopped after step {trainer.step:,}: the last {trainer.settings.patience} evaluations were no better"
        )
    if speed:
        console.print(f"speed  {speed:,.0f} characters/s")
    if best := trainer.best_evaluation:
        console.print(f"best   {best.bits:.3f} bits per held-out character, after step {best.step:,}; it writes:")
        model, tokenizer = load_model(checkpoint, backend=used, num_threads=threads)
        console.print("", generate_text(model, tokenizer, "", 300, temperature, trainer.settings.seed), "", sep="\n")
    console.print(f"checkpoint  {checkpoint}")
    console.print(f"loss curve  {picture if drawn else 'needs matplotlib: pip install fastrnn[plot]'}")


def _follow(trainer: Trainer, checkpoint: Path, temperature: float, console: Console) -> tuple[float, bool]:
    """Train to the end or to Ctrl-C, telling how it goes; return characters per second and whether it was Ctrl-C.

    Every evaluation is told with a sample and followed by a checkpoint. The bar between them is for terminals only.
    """
    characters, seconds, speed = 0, 0.0, 0.0
    evaluated = trainer.evaluations[-1].step if trainer.evaluations else 0
    bar = Progress(
        MofNCompleteColumn(),
        BarColumn(bar_width=12),
        TextColumn("{task.fields[now]}"),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )
    with _interruption() as interruption, bar:
        task = bar.add_task("", total=trainer.total_steps, completed=trainer.step, now="")
        for record in trainer.run():
            if isinstance(record, Evaluation):
                trained = np.mean(trainer.losses[evaluated:]) / math.log(2)
                sample = generate_text(
                    trainer.model, trainer.tokenizer, "", 80, temperature, (trainer.settings.seed, record.step)
                )
                console.print(
                    f"step {record.step:,}/{trainer.total_steps:,}: bits per character {trained:.3f} in training, "
                    f"{record.bits:.3f} held out; {speed:,.0f} characters/s"
                )
                console.print("   ", " / ".join(sample.split("\n")), style="dim")
                evaluated = record.step
                trainer.save(checkpoint)
            else:
                characters += record.characters
                seconds += record.seconds
                speed = characters / seconds
                now = f"loss {record.loss:.3f}, {record.bits:.3f} bits/char, {speed:,.0f} chars/s"
                bar.update(task, completed=record.step, now=now)
            if interruption.is_set():
                break
    return speed, interruption.is_set()


@contextmanager
def _interruption() -> Iterator[threading.Event]:
    """Have the first Ctrl-C set the event instead of breaking into a step; a second one breaks as always."""
    event = threading.Event()
    before = signal.getsignal(signal.SIGINT)

    def interrupt(number: int, frame: FrameType | None) -> None:
        event.set()
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, interrupt)
    try:
        yield event
    finally:
        signal.signal(signal.SIGINT, before)
