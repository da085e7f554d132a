"""`fastrnn train`."""

from __future__ import annotations

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
from fastrnn.cli.options import AT_LEAST_ONE, DROPOUT, LEARNING_RATE, LIMIT, SEED, TEMPERATURE
from fastrnn.training import (
    DivergenceError,
    Evaluation,
    Linear,
    Settings,
    Step,
    Trainer,
    dinosaur_text,
    generate_text,
    load_model,
    plot_losses,
    read_text,
)
from fastrnn.training.model import CELLS, LanguageModel
from fastrnn.training.settings import LEVELS, OPTIMIZERS, OUTPUTS, SCHEDULES, WINDOWS
from fastrnn.training.tokenizers import Tokenizer

__all__ = ["train"]

LEARNING_RATES = {"adam": Settings.learning_rate, "adamw": 0.005, "rmsprop": 0.005, "momentum": 0.1, "sgd": 1.0}
LENGTHS = {"character": (80, 300), "word": (20, 60)}  # of a sample as training goes, and of the last one
OF_WORDS = ("max_words", "min_count", "output")  # settings that characters have not


@click.command()
@click.argument("texts", nargs=-1, metavar="[TEXT.txt ...]", type=click.Path(path_type=Path))
@click.option(
    "--out", default="fastrnn-run", type=click.Path(path_type=Path), help="Folder for checkpoint and picture."
)
@click.option("--resume", is_flag=True, help="Go on with the checkpoint in the folder; takes the same text.")
@click.option("--level", type=click.Choice(LEVELS), default=Settings.level, help="Whether to train on words.")
@click.option("--lower/--no-lower", default=None, show_default="words yes, characters no", help="Make it lower case.")
@click.option("--letters-only", is_flag=True, help="Make each run of anything but letters a blank.")
@click.option("--max-words", type=AT_LEAST_ONE, default=Settings.max_words, help="Words to know, at most.")
@click.option("--min-count", type=AT_LEAST_ONE, default=Settings.min_count, help="How often a known word occurs.")
@click.option(
    "--windows",
    type=click.Choice(WINDOWS),
    default=Settings.windows,
    help="Whether to read one stream, or lines that have nothing to do with one another.",
)
@click.option("--cell", type=click.Choice(list(CELLS)), default=Settings.cell)
@click.option("--hidden", "hidden_size", type=AT_LEAST_ONE, default=Settings.hidden_size, help="Units of a layer.")
@click.option("--layers", "num_layers", type=AT_LEAST_ONE, default=Settings.num_layers)
@click.option("--dropout", type=DROPOUT, default=Settings.dropout, help="The share of the outputs to drop.")
@click.option(
    "--output", type=click.Choice(OUTPUTS), default=Settings.output, help="For words; adaptive is fast with many."
)
@click.option("--seq-length", type=AT_LEAST_ONE, default=Settings.seq_length, help="Tokens that gradients flow back.")
@click.option("--batch-size", type=AT_LEAST_ONE, default=Settings.batch_size, help="Places, or lines, read at once.")
@click.option("--steps", type=AT_LEAST_ONE, default=Settings.steps, help="Updates of the parameters, at most.")
@click.option("--epochs", type=AT_LEAST_ONE, help="Readings of the whole text, at most; instead of --steps.")
@click.option("--optimizer", type=click.Choice(list(OPTIMIZERS)), default=Settings.optimizer)
@click.option(
    "--learning-rate", type=LEARNING_RATE, show_default=", ".join(f"{r} with {o}" for o, r in LEARNING_RATES.items())
)
@click.option(
    "--schedule", type=click.Choice(SCHEDULES), default=Settings.schedule, help="How the learning rate falls to zero."
)
@click.option("--warmup", type=click.IntRange(min=0), default=Settings.warmup, help="Steps in which it rises first.")
@click.option("--clip", type=LIMIT, default=Settings.clip, help="Largest norm of the gradients; inf for any.")
@click.option("--clip-value", type=LIMIT, default=Settings.clip_value, help="Largest element of the gradients.")
@click.option(
    "--evaluate-every",
    type=AT_LEAST_ONE,
    show_default="once per epoch, within 50 to 250",
    help="Steps between evaluations on held-out text, each with a sample.",
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
    """Train a model of characters or words on text files, or, without any, on the names of dinosaurs.

    A tenth is held out: the end of the text, or lines drawn by the seed. The folder gets checkpoint.safetensors, which
    always holds the latest state and the best model, and loss.png. Ctrl-C saves and stops; --resume then goes on as if
    nothing had happened.
    """
    given = {name: v for name, v in settings.items() if context.get_parameter_source(name) != ParameterSource.DEFAULT}
    if "steps" in given:
        if "epochs" in given:
            raise click.UsageError("--steps and --epochs exclude each other.")
        given["epochs"] = None
    if settings["level"] == "char" and not resume and (of_words := [name for name in OF_WORDS if name in given]):
        raise click.UsageError(f"--{of_words[0].replace('_', '-')} is for --level word.")

    checkpoint, picture = out / "checkpoint.safetensors", out / "loss.png"
    if not resume and checkpoint.exists():
        raise click.UsageError(f"{checkpoint} exists; --resume goes on with it, another --out leaves it alone.")
    text = _read(texts)
    used = backend or fastrnn.info().used
    if resume:
        trainer = Trainer.resume(checkpoint, text, backend=used, num_threads=threads, **given)
    else:
        given.setdefault("learning_rate", LEARNING_RATES[settings["optimizer"]])
        try:
            chosen = Settings(**given)
        except ValueError as error:  # options that do not go together
            raise click.UsageError(str(error)) from None
        trainer = Trainer(text, chosen, backend=used, num_threads=threads)
    out.mkdir(parents=True, exist_ok=True)
    trainer.save(checkpoint)

    console = Console(emoji=False, highlight=False, markup=False, soft_wrap=True)
    source = ", ".join(map(str, texts)) or "names of dinosaurs"
    unit = trainer.tokenizer.unit
    parameters = sum(p.size for p in trainer.model.parameters.values())
    console.print(f"text   {source}: {len(text):,} characters, {_describe_vocabulary(trainer.tokenizer)}")
    console.print(f"model  {_describe_model(trainer.model)}: {parameters:,} parameters")
    if resume:
        console.print(f"going on after step {trainer.step:,} of {checkpoint}; the text is the same")
    try:
        speed, interrupted = _follow(trainer, checkpoint, temperature, console)
    except DivergenceError as error:
        raise click.ClickException(f"{error}; {checkpoint} holds the last good state") from error
    trainer.save(checkpoint)
    drawn = find_spec("matplotlib") is not None
    if drawn:
        plot_losses(picture, trainer.losses, trainer.evaluations, token=unit)

    console.print()
    if interrupted:
        stop = f"stopped after step {trainer.step:,} of {trainer.total_steps:,}"
        console.print(f"{stop}; the same command with --resume goes on as if it had not been")
    elif trainer.step < trainer.total_steps:
        console.print(
            f"stopped after step {trainer.step:,}: the last {trainer.settings.patience} evaluations were no better"
        )
    if speed:
        console.print(f"speed  {speed:,.0f} {unit}s/s")
    if best := trainer.best_evaluation:
        console.print(f"best   {_describe_loss(best, unit)}, held out, after step {best.step:,}; it writes:")
        model, tokenizer = load_model(checkpoint, backend=used, num_threads=threads)
        length = LENGTHS[unit][1]
        console.print("", generate_text(model, tokenizer, "", length, temperature, trainer.settings.seed), "", sep="\n")
    console.print(f"checkpoint  {checkpoint}")
    console.print(f"loss curve  {picture if drawn else 'needs matplotlib: pip install fastrnn[plot]'}")


def _read(texts: tuple[Path, ...]) -> str:
    """Return the texts as one, in which each starts on a line of its own; without any, the names of dinosaurs."""
    if not texts:
        return dinosaur_text()
    *others, last = map(read_text, texts)
    return "".join(text if text.endswith("\n") else f"{text}\n" for text in others) + last


def _describe_vocabulary(tokenizer: Tokenizer) -> str:
    if tokenizer.unit == "character":
        return f"{len(tokenizer)} different ones"
    return f"a vocabulary of {len(tokenizer):,} words"


def _describe_model(model: LanguageModel) -> str:
    head = "a linear layer" if isinstance(model.head, Linear) else f"an adaptive softmax cut at {model.head.cutoffs}"
    return f"{'an embedding, ' if model.embedding else ''}{model.rnn} and {head}"


def _describe_loss(record: Evaluation | Step, unit: str) -> str:
    """Say a loss in the unit that people compare: bits per character, or perplexity."""
    bits = f"{record.bits:.3f} bits per {unit}"
    return bits if unit == "character" else f"perplexity {record.perplexity:,.1f} ({bits})"


def _follow(trainer: Trainer, checkpoint: Path, temperature: float, console: Console) -> tuple[float, bool]:
    """Train to the end or to Ctrl-C, telling how it goes; return tokens per second and whether it was Ctrl-C.

    What the model writes is told before the first step and with every evaluation, which a checkpoint follows. The bar
    between them is for terminals only.
    """
    tokens, seconds, speed = 0, 0.0, 0.0
    unit = trainer.tokenizer.unit
    evaluated = trainer.evaluations[-1].step if trainer.evaluations else 0

    def tell_sample() -> None:
        seed = (trainer.settings.seed, trainer.step)
        sample = generate_text(trainer.model, trainer.tokenizer, "", LENGTHS[unit][0], temperature, seed)
        console.print("   ", " / ".join(sample.split("\n")), style="dim")

    if not trainer.step:
        console.print("before training it writes:")
        tell_sample()
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
                trained = Evaluation(record.step, float(np.mean(trainer.losses[evaluated:])))
                console.print(
                    f"step {record.step:,}/{trainer.total_steps:,}: {_describe_loss(trained, unit)} in training, "
                    f"{_describe_loss(record, unit)} held out; {speed:,.0f} {unit}s/s"
                )
                tell_sample()
                evaluated = record.step
                trainer.save(checkpoint)
            else:
                tokens += record.tokens
                seconds += record.seconds
                speed = tokens / seconds
                now = f"{_describe_loss(record, unit)}, {speed:,.0f} {unit}s/s"
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
