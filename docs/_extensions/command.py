"""The page about the command: what `--help` says, as tables."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click

from fastrnn.cli.app import app as command

ORDER = ("train", "sample", "plot", "demo", "bench", "info")
KINDS = {"INTEGER RANGE": "N", "FLOAT RANGE": "X", "TEXT": "TEXT", "PATH": "PATH"}


def cell(text: str) -> str:
    """Return text as a cell of a Markdown table."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def row(option: click.Option, context: click.Context) -> str:
    """Return an option's line of the table: its flags, what it does, its default."""
    flags, says = option.get_help_record(context) or ("", "")
    for name, letter in KINDS.items():
        flags = flags.replace(name, letter)
    default = re.search(r"\[default: (.*)\]$", says)
    value = re.sub(r"; \S*[<>]\S*$", "", default.group(1)).strip("()") if default else ""
    return f"| `{cell(flags)}` | {cell(option.help or '')} | {cell(value)} |\n"


def described(name: str, each: click.Command) -> str:
    """Return a section about a command: its usage, what it does, its options."""
    with click.Context(each, info_name=f"fastrnn {name}", show_default=True) as context:
        usage = each.get_usage(context).removeprefix("Usage: ")
        options = [option for option in each.params if isinstance(option, click.Option)]
        rows = "".join(row(option, context) for option in options)
    says = "\n\n".join(" ".join(part.split()) for part in (each.help or "").split("\n\n"))
    table = f"| option | what it does | default |\n| --- | --- | --- |\n{rows}\n" if rows else ""
    return f"### fastrnn {name}\n\n```text\n{usage}\n```\n\n{says}\n\n{table}"


def write(app: Any) -> None:
    """Write what `command.md` includes."""
    folder = Path(app.srcdir, "_generated")
    folder.mkdir(exist_ok=True)
    text = "".join(described(name, command.commands[name]) for name in ORDER)
    (folder / "command.md").write_text(text, "utf-8")


def setup(app: Any) -> dict[str, bool]:
    """Write when a build begins."""
    app.connect("builder-inited", write)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
