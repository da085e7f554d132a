"""What several commands share: types of options, and how they print."""

from __future__ import annotations

import math
import os
import textwrap
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

import click
from rich.console import Console

from fastrnn.training.cells import check_cell_name

__all__ = [
    "AT_LEAST_ONE",
    "CELL",
    "DROPOUT",
    "LEARNING_RATE",
    "LIMIT",
    "MINUTES",
    "SECONDS",
    "SEED",
    "SHARE",
    "TEMPERATURE",
    "UTF_8",
    "WIDTH",
    "PlainConsole",
    "checkpoint_in",
    "require_matplotlib",
    "wrap",
]

WIDTH = 80  # columns that every line of ours fits


def checkpoint_in(path: Path) -> Path:
    """Return the checkpoint in a folder that `fastrnn train` made; anything else is a checkpoint itself."""
    return path / "checkpoint.safetensors" if path.is_dir() else path


def wrap(text: str, indent: int = 0, width: int = WIDTH) -> str:
    """Break a line that is too long between words, and indent what follows by so many columns."""
    return textwrap.fill(
        text,
        min(width, WIDTH),
        subsequent_indent=" " * indent,
        replace_whitespace=False,
        break_long_words=False,
        break_on_hyphens=False,
    )


def require_matplotlib() -> None:
    """Fail with what to install, before anything is trained or a folder made."""
    if find_spec("matplotlib") is None:
        raise click.ClickException("pictures need matplotlib: pip install matplotlib")


class Number(click.FloatRange):
    """A float range that NaN is not in."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the float, or fail."""
        number = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail(f"{value!r} is not a number.", param, ctx)
        return number


class Utf8(click.ParamType):  # type: ignore[type-arg]  # generic in newer ones
    """A text in UTF-8, as text files are, whatever the locale says that arguments are in."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the text; what is not UTF-8 stays as the locale has it."""
        try:
            return os.fsencode(value).decode("utf-8")
        except UnicodeError:
            return value


class CellName(click.ParamType):  # type: ignore[type-arg]  # generic in newer ones
    """The name of a cell; those of the library are looked up, and so defined, only where one is asked for."""

    name = "name"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the name, or fail."""
        try:
            return check_cell_name(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class PlainConsole(Console):
    """Prints text as it is, and raises BrokenPipeError where the reader has gone, which rich makes an exit of."""

    def __init__(self, **options: Any) -> None:
        super().__init__(emoji=False, highlight=False, markup=False, **options)

    def tell(self, text: str, indent: int = 0) -> None:
        """Print a line, broken between words where it is too long."""
        self.print(wrap(text, indent, self.width), soft_wrap=True)

    def on_broken_pipe(self) -> NoReturn:
        """Raise the error that is being handled."""
        raise  # noqa: PLE0704 - rich calls this where it has caught it


AT_LEAST_ONE = click.IntRange(min=1)
CELL = CellName()
DROPOUT = Number(min=0, max=1, max_open=True)
LEARNING_RATE = Number(min=0, min_open=True, max=math.inf, max_open=True)
LIMIT = Number(min=0, min_open=True)
MINUTES = Number(min=0, min_open=True, max=math.inf, max_open=True)
SECONDS = Number(min=0, min_open=True, max=math.inf, max_open=True)
SEED = click.IntRange(min=0)
SHARE = Number(min=0, min_open=True, max=1)
TEMPERATURE = Number(min=0)
UTF_8 = Utf8()
