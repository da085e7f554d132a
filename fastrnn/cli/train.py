"""`fastrnn train`."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
import numpy as np
from click.core import ParameterSource
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text as Styled

import fastrnn
from fastrnn import distributed
from fastrnn.cli.lock import exclusive
from fastrnn.cli.options import (
    AT_LEAST_ONE,
    CELL,
    DROPOUT,
    LEARNING_RATE,
    LIMIT,
    MINUTES,
    SEED,
    TEMPERATURE,
    WIDTH,
    PlainConsole,
)
from fastrnn.cli.signals import Stop, stop_signals
from fastrnn.distributed.group import Group, WorkerError, call, serve
from fastrnn.distributed.local import share_of_threads, start
from fastrnn.distributed.mpi import MPI
from fastrnn.training import (
    DivergenceError,
    Evaluation,
    Linear,
    Settings,
    Step,
    Trainer,
    choose_settings,
    dinosaur_text,
    generate_text,
    load_model,
    plot_losses,
)
from fastrnn.training.files import remove_temporaries
from fastrnn.training.model import LanguageModel
from fastrnn.training.settings import LEVELS, OPTIMIZERS, OUTPUTS, PRECISIONS, SCHEDULES, SPLITS, WINDOWS
from fastrnn.training.text import Text
from fastrnn.training.tokenizers import Tokenizer

__all__ = ["train"]

CHOSEN = "chosen for the text"
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
    show_default="lines for a list",
    help="Whether to read one stream, or lines that have nothing to do with one another.",
)
@click.option(
    "--embedding/--no-embedding",
    default=True,
    help="Whether characters are read as vectors, as words are, and not one-hot.",
)
@click.option(
    "--split",
    type=click.Choice(SPLITS),
    default="drawn",
    help="What to hold out of a stream: its end, or blocks that are drawn.",
)
@click.option(
    "--cell", type=CELL, default=Settings.cell, help="lstm, gru, rnn, or one of fastrnn.cells, such as min_gru."
)
@click.option(
    "--hidden",
    "--hidden-size",
    "hidden_size",
    type=AT_LEAST_ONE,
    show_default=CHOSEN,
    help="Units of a layer.",
)
@click.option("--layers", "--num-layers", "num_layers", type=AT_LEAST_ONE, show_default=CHOSEN)
@click.option("--dropout", type=DROPOUT, show_default=CHOSEN, help="The share of the outputs to drop.")
@click.option(
    "--precision",
    type=click.Choice(PRECISIONS),
    default=Settings.precision,
    help="What products multiply: bfloat16 is faster where the CPU has it.",
)
@click.option(
    "--output", type=click.Choice(OUTPUTS), default=Settings.output, help="For words; adaptive is fast with many."
)
@click.option("--seq-length", type=AT_LEAST_ONE, show_default=CHOSEN, help="Tokens that gradients flow back.")
@click.option("--batch-size", type=AT_LEAST_ONE, show_default=CHOSEN, help="Places, or lines, read at once.")
@click.option("--steps", type=AT_LEAST_ONE, show_default=CHOSEN, help="Updates of the parameters, at most.")
@click.option("--epochs", type=AT_LEAST_ONE, help="Readings of the whole text, at most; instead of --steps.")
@click.option(
    "--minutes", type=MINUTES, help="How long to train, at most; instead of --steps. Sets the model's size, too."
)
@click.option("--optimizer", type=click.Choice(list(OPTIMIZERS)), default=Settings.optimizer)
@click.option("--learning-rate", type=LEARNING_RATE, show_default="chosen for the optimizer and the units")
@click.option("--schedule", type=click.Choice(SCHEDULES), default="cosine", help="How the learning rate falls to zero.")
@click.option("--warmup", type=click.IntRange(min=0), show_default=CHOSEN, help="Steps in which it rises first.")
@click.option("--clip", type=LIMIT, default=Settings.clip, help="Largest norm of the gradients; inf for any.")
@click.option("--clip-value", type=LIMIT, default=Settings.clip_value, help="Largest element of the gradients.")
@click.option(
    "--evaluate-every",
    type=AT_LEAST_ONE,
    show_default=CHOSEN,
    help="Steps between evaluations on held-out text, each with a sample.",
)
@click.option(
    "--patience", type=AT_LEAST_ONE, show_default=CHOSEN, help="Evaluations without progress before it stops."
)
@click.option("--seed", type=SEED, default=Settings.seed, help="The same seed gives the same numbers.")
@click.option("--temperature", type=TEMPERATURE, default=0.8, help="Of the samples; 0 always takes the likeliest.")
@click.option("--backend", metavar="NAME", show_default="the fastest that runs here", help="See `fastrnn info`.")
@click.option("--threads", type=AT_LEAST_ONE, show_default="all available CPUs")
@click.option("--workers", type=AT_LEAST_ONE, default=1, help="Processes that share each batch.")
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
    workers: int,
    **settings: Any,
) -> None:
    """Train a model of characters or words on text files, or, without any, on the names of dinosaurs.

    What no option says follows from the size and kind of the text and the time that there is: --minutes, or about five
    on fast cores. A tenth is held out, drawn by the seed. The folder gets checkpoint.safetensors, which
    always holds the latest state and the best model, and loss.png. Ctrl-C, SIGTERM and SIGHUP save after the step in
    work and stop; --resume then goes on as if nothing had happened. A second Ctrl-C does not wait for the step.

    With --workers, or started by mpirun or torchrun, several processes share each batch.
    """
    group = distributed.connect()
    if group is not None and workers > 1:
        raise click.UsageError(f"--workers is for one process that starts others; {group.size} are started already.")
    if group is not None and group.rank:
        context.exit(_serve(group))
    given = {name: v for name, v in settings.items() if context.get_parameter_source(name) != ParameterSource.DEFAULT}
    lengths = [name for name in ("steps", "epochs", "minutes") if name in given]
    if len(lengths) > 1:
        raise click.UsageError(f"--{lengths[0]} and --{lengths[1]} exclude each other.")
    if "steps" in given:
        given["epochs"] = None
    if settings["level"] == "char" and not resume and (of_words := [name for name in OF_WORDS if name in given]):
        raise click.UsageError(f"--{of_words[0].replace('_', '-')} is for --level word.")
    if settings["level"] == "word" and not settings["embedding"]:
        raise click.UsageError("--no-embedding is for --level char.")

    checkpoint = out / "checkpoint.safetensors"
    used = backend or fastrnn.info().used
    options: dict[str, Any] = {"backend": used, "num_threads": threads}
    cores = threads  # of all processes
    if group is not None or workers > 1:
        here, everywhere = (workers, workers) if group is None else (distributed.processes_here(), group.size)
        options["num_threads"] = threads or share_of_threads(here)
        cores = options["num_threads"] * everywhere
    with ExitStack() as held:
        if group is not None:
            held.enter_context(_ending(group))
        if resume:
            if out.is_dir():
                held.enter_context(exclusive(out))
            text = _read(texts)
            trainer = Trainer.resume(checkpoint, text, **options, **given)
        else:
            _refuse(checkpoint)
            text = _read(texts)
            try:
                chosen = choose_settings(text, backend=used, num_threads=cores, **given)
            except ValueError as error:  # options that do not go together
                raise click.UsageError(str(error)) from None
            trainer = Trainer(text, chosen, **options)
            out.mkdir(parents=True, exist_ok=True)
            held.enter_context(exclusive(out))
            _refuse(checkpoint)  # another process may have made one meanwhile

        source = ", ".join(map(str, texts)) or "names of dinosaurs"
        subject = f"text   {source}: {len(text):,} characters, {_describe_vocabulary(trainer.tokenizer)}"
        try:
            trainer.check_processes(workers if group is None else group.size)
        except ValueError as error:
            raise click.UsageError(str(error)) from None
        if workers > 1:
            group = held.enter_context(start(workers))
        if group is not None:
            trainer.share(group)
            call(group, _assist, text=text, settings=trainer.settings, options=options)
        del text
        stopped_by = _train(trainer, out, temperature, subject, resume, options)
    context.exit(0 if stopped_by in (None, signal.SIGINT) else 128 + stopped_by)


def _assist(group: Group, text: Text | str, settings: Settings, options: dict[str, Any]) -> None:
    """What each process but the first does, which tells how it goes and writes."""
    trainer = Trainer(text, settings, **options)
    trainer.share(group)
    with stop_signals() as stop:
        trainer.asks_to_stop = lambda: stop.signal is not None
        for _ in trainer.run():
            pass


def _serve(group: Group) -> int:
    """Do what the first process says, which also tells what has gone wrong there; return the exit status."""
    with _ending(group):
        try:
            serve(group)
        except (DivergenceError, WorkerError):
            return 2
    return 0


@contextmanager
def _ending(group: Group) -> Iterator[None]:
    """Have an error in this process end the others, which under MPI would wait for it."""
    try:
        yield
    except BaseException:
        if isinstance(group, MPI):
            group.abort_at_exit()
        raise


def _refuse(checkpoint: Path) -> None:
    """Refuse to overwrite a checkpoint."""
    if checkpoint.exists():
        raise click.UsageError(f"{checkpoint} exists; --resume goes on with it, another --out leaves it alone.")


def _read(texts: tuple[Path, ...]) -> Text | str:
    return Text.read(texts) if texts else dinosaur_text()


def _train(
    trainer: Trainer, out: Path, temperature: float, subject: str, resumed: bool, options: dict[str, Any]
) -> int | None:
    """Train, save and tell how it went; return the signal that has ended it, if one has."""
    checkpoint, picture = out / "checkpoint.safetensors", out / "loss.png"
    for path in (checkpoint, picture):
        remove_temporaries(path)
    console = PlainConsole(soft_wrap=True)
    with stop_signals() as stop:
        try:
            trainer.save(checkpoint)
            parameters = sum(p.size for p in trainer.model.parameters.values())
            speed, broken = 0.0, False
            try:
                console.tell(subject, 7)
                console.tell(f"model  {_describe_model(trainer.model)}: {parameters:,} parameters", 7)
                processes = f"; {trainer.processes} processes" if trainer.processes > 1 else ""
                console.tell(f"plan   {_describe_plan(trainer)}{processes}", 7)
                if resumed:
                    console.tell(f"going on after step {trainer.step:,} of {checkpoint}; the text is the same")
                stop.breakable = lambda: not trainer.halfway
                trainer.asks_to_stop = lambda: stop.signal is not None
                speed = _follow(trainer, checkpoint, temperature, console)
                stop.breakable = None
            except KeyboardInterrupt:  # the second one, into a step that has not been taken
                broken = True
            except OSError:  # nobody reads what is told; what has been learnt is kept all the same
                if trainer.can_save:
                    trainer.save(checkpoint)
                if stop.signal in (None, signal.SIGINT):
                    raise
            if trainer.can_save:
                trainer.save(checkpoint)
        except DivergenceError as error:
            raise click.ClickException(f"{error}; {checkpoint} holds the last good state") from error
        except WorkerError as error:
            after = f"the same command with --resume goes on from {checkpoint}, as it was at the last evaluation"
            raise click.ClickException(f"{error}; {after}") from error
        at_once = broken or stop.signal not in (None, signal.SIGINT)
        with suppress(OSError) if at_once else nullcontext():  # a terminal that has hung up shows nothing
            _tell_end(trainer, stop, console)
        if broken:
            raise click.Abort
        if not at_once:
            _conclude(trainer, checkpoint, picture, speed, temperature, console, options)
        return stop.signal


def _tell_end(trainer: Trainer, stop: Stop, console: PlainConsole) -> None:
    """Say why training has ended before its last step, or that it would have gone on to improve."""
    console.print()
    if stop.signal is not None or (trainer.step < trainer.total_steps and not trainer.out_of_patience):
        end = f"stopped after step {trainer.step:,} of {trainer.total_steps:,}"
        on = "as if it had not been" if trainer.can_save else "from the last evaluation"
        console.tell(f"{end}; the same command with --resume goes on {on}")
    elif trainer.step < trainer.total_steps:
        console.tell(
            f"stopped after step {trainer.step:,}: the last {trainer.settings.patience} evaluations were no better"
        )
    elif _improves(trainer):
        settings = trainer.settings
        more = f"--epochs {2 * settings.epochs}" if settings.epochs else f"--steps {2 * settings.steps}"
        console.tell(f"the last evaluation was the best: the same command with --resume {more} improves it further")


def _improves(trainer: Trainer) -> bool:
    """Whether the held-out loss was still falling, other than with a learning rate that falls to zero."""
    losses = [evaluation.loss for evaluation in trainer.evaluations]
    return trainer.settings.schedule == "constant" and len(losses) > 1 and losses[-1] < min(losses[:-1])


def _conclude(
    trainer: Trainer,
    checkpoint: Path,
    picture: Path,
    speed: float,
    temperature: float,
    console: PlainConsole,
    options: dict[str, Any],
) -> None:
    """Draw the losses, tell speed, best loss and a sample, and what files there are."""
    unit = trainer.tokenizer.unit
    drawn = find_spec("matplotlib") is not None
    if drawn:
        plot_losses(picture, trainer.losses, trainer.evaluations, token=unit)
    if speed:
        console.tell(f"speed  {speed:,.0f} {unit}s/s")
    if best := trainer.best_evaluation:
        loss = f"{best.bits:.3f} bits per {unit}"
        if unit == "word":
            loss = f"perplexity {best.perplexity:,.1f} ({loss})"
        console.tell(f"best   {loss}, held out, after step {best.step:,}; it writes:", 7)
        model, tokenizer = load_model(checkpoint, **options)
        length = LENGTHS[unit][1]
        console.print()
        for line in generate_text(model, tokenizer, "", length, temperature, trainer.settings.seed).split("\n"):
            console.tell(line)
        console.print()
    console.print(f"checkpoint  {checkpoint}")
    console.print(f"loss curve  {picture if drawn else 'needs matplotlib: pip install matplotlib'}")


def _describe_vocabulary(tokenizer: Tokenizer) -> str:
    if tokenizer.unit == "character":
        return f"{len(tokenizer)} different ones"
    return f"a vocabulary of {len(tokenizer):,} words"


def _describe_model(model: LanguageModel) -> str:
    head = "a linear layer" if isinstance(model.head, Linear) else f"an adaptive softmax cut at {model.head.cutoffs}"
    return f"{'an embedding, ' if model.embedding else ''}{model.rnn} and {head}"


def _describe_plan(trainer: Trainer) -> str:
    """Say how the model is trained, whether chosen or given."""
    settings = trainer.settings
    rows, length = settings.batch_size, settings.seq_length
    what = (
        f"{rows} lines at a time"
        if settings.windows == "lines"
        else f"{rows} rows of {length} {trainer.tokenizer.unit}s"
    )
    falling = {"constant": "constant", "linear": "falling along a line", "cosine": "falling as a cosine"}
    readings = trainer.total_steps / trainer.steps_per_epoch
    limit = f", for {settings.minutes:g} minutes" if settings.minutes else ""
    return (
        f"{what}, dropout {settings.dropout:g}, {settings.optimizer} at {settings.learning_rate:g}, "
        f"{falling[settings.schedule]}; {trainer.total_steps:,} steps at most, {readings:.3g} readings{limit}"
    )


def _describe_losses(trained: Evaluation | Step, held_out: Evaluation | None, unit: str) -> str:
    """Say losses in the unit that people compare: bits per character, or perplexity."""
    if unit == "word":
        end = f", held out {held_out.perplexity:,.1f}" if held_out else ""
        return f"perplexity {trained.perplexity:,.1f}{end}"
    end = f", held out {held_out.bits:.3f}" if held_out else ""
    return f"loss {trained.bits:.3f}{end} bits per {unit}"


def _follow(trainer: Trainer, checkpoint: Path, temperature: float, console: PlainConsole) -> float:
    """Train to the end or to a signal, telling how it goes; return tokens per second.

    What the model writes is told before the first step and with every evaluation, which a checkpoint follows. The bar
    between them is for terminals only.
    """
    tokens, seconds, speed = 0, 0.0, 0.0
    unit = trainer.tokenizer.unit
    evaluated = trainer.evaluations[-1].step if trainer.evaluations else 0

    def tell_sample() -> None:
        seed = (trainer.settings.seed, trainer.step)
        sample = generate_text(trainer.model, trainer.tokenizer, "", LENGTHS[unit][0], temperature, seed)
        line = Styled("    " + " / ".join(sample.split("\n")), "dim")
        line.truncate(min(console.width, WIDTH))
        console.print(line)

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
    with bar:
        task = bar.add_task("", total=trainer.total_steps, completed=trainer.step, now="")
        for record in trainer.run():
            if isinstance(record, Evaluation):
                trainer.save(checkpoint)
                trained = Evaluation(record.step, float(np.mean(trainer.losses[evaluated:])))
                console.tell(
                    f"step {record.step:,}/{trainer.total_steps:,}: {_describe_losses(trained, record, unit)}; "
                    f"{speed:,.0f}/s"
                )
                tell_sample()
                evaluated = record.step
            else:
                tokens += record.tokens
                seconds += record.seconds
                speed = tokens / seconds
                now = f"{_describe_losses(record, None, unit)}; {speed:,.0f}/s"
                bar.update(task, completed=record.step, now=now)
    return speed
