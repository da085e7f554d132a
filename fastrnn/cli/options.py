"""Option types that several commands share."""

from __future__ import annotations

import math
from importlib.util import find_spec
from typing import Any

import click

__all__ = [
    "AT_LEAST_ONE",
    "DROPOUT",
    "LEARNING_RATE",
    "LIMIT",
    "SECONDS",
    "SEED",
    "SHARE",
    "TEMPERATURE",
    "require_matplotlib",
]


def require_matplotlib() -> None:
    """Fail with what to install, before anything is trained or a folder made."""
    if find_spec("matplotlib") is None:
        raise click.ClickException("pictures need matplotlib: pip install fastrnn[plot]")


class Number(click.FloatRange):
    """A float range that NaN is not in."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the float, or fail."""
        number = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail(f"{value!r} is not a number.", param, ctx)
        return number


AT_LEAST_ONE = click.IntRange(min=1)
DROPOUT = Number(min=0, max=1, max_open=True)
LEARNING_RATE = Number(min=0, min_open=True, max=math.inf, max_open=True)
LIMIT = Number(min=0, min_open=True)
SECONDS = Number(min=0, min_open=True, max=math.inf, max_open=True)
SEED = click.IntRange(min=0)
SHARE = Number(min=0, min_open=True, max=1)
TEMPERATURE = Number(min=0)
