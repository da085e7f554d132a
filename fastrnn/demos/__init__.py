"""Recipes: small experiments that train a network, print what came out and draw it.

Every recipe is a module with a function ``run(out, *, seed=0, say=print)`` that writes its pictures into the folder
`out` and returns a `Report`; those about text also take ``text=``. The same seed gives the same numbers on the same
machine.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

from fastrnn.checks import shown

__all__ = ["RECIPES", "Report", "load_recipe"]

RECIPES = {
    "anbn": "counting: a^n b^n with RNN, LSTM and GRU, beside torch",
    "hello": "the next character of a single sentence",
    "sine": "the next value of noisy sine waves",
    "sentiment": "sentences of different lengths, good or bad",
    "gates": "what the gates of an LSTM do while it remembers",
    "hidden": "the hidden state of an RNN as it runs",
    "vanishing": "how far back the gradient reaches, RNN beside LSTM",
    "memory": "how long five cells remember: copying and adding",
    "names": "dinosaur names, one at a time and in mini-batches",
    "reuters-like": "characters and words of any text",
}


class Report(NamedTuple):
    """What a recipe found."""

    figures: dict[str, float | str]  # by what was measured, with its unit
    pictures: list[Path]


def load_recipe(name: str) -> Callable[..., Report]:
    """Return the function `run` of a recipe in `RECIPES`; ValueError for any other name."""
    if name not in RECIPES:
        raise ValueError(f"name is {shown(name)}; expected one of {', '.join(RECIPES)}")
    run: Callable[..., Report] = import_module(f"fastrnn.demos.{name.replace('-', '_')}").run
    return run
