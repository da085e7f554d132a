"""The command's group, and where every error of the user's becomes one line."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable
from typing import Any

import click

import fastrnn
from fastrnn.cli.bench import bench
from fastrnn.cli.demo import demo
from fastrnn.cli.info import info
from fastrnn.cli.plot import plot
from fastrnn.cli.sample import sample
from fastrnn.cli.train import train
from fastrnn.errors import FastrnnError

__all__ = ["app", "run"]


GONE = 128 + 13  # the status that a shell gives a process that SIGPIPE has ended


class App(click.Group):
    """A group whose commands end where nobody reads any more, as other programs do: `fastrnn train | head`."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; what it prints to a pipe that is closed ends it without a word."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            ctx.exit(GONE)


@click.group(
    cls=App,
    invoke_without_command=True,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "show_default": True,
        "token_normalize_func": lambda name: name.replace("_", "-"),  # --batch_size is --batch-size
    },
)
@click.version_option(fastrnn.__version__, prog_name="fastrnn", message="%(prog)s %(version)s")
@click.pass_context
def app(context: click.Context) -> None:
    """Train models of characters or words with RNN, LSTM or GRU, write with them, and measure how fast that is."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


for command in (train, sample, plot, demo, bench, info):
    app.add_command(command)


def run(complain: Callable[[str], int]) -> int:
    """Run the command on the process's arguments and return its exit status; `complain` prints and returns one."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a character that a terminal cannot show is no reason to stop
    try:
        return app.main(prog_name="fastrnn", standalone_mode=False) or 0
    except click.ClickException as error:
        return complain(error.format_message())
    except click.Abort:  # Ctrl-C
        return 130
    except FastrnnError as error:
        return complain(str(error))
    except ModuleNotFoundError as error:  # of an extra, which the message names
        return complain(str(error))
    except MemoryError as error:
        return complain(f"not enough memory: {error}")
    except OSError as error:
        return complain(f"{error.filename}: {error.strerror}" if error.filename else str(error))
