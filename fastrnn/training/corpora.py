"""The corpus that ships with the package: genus names of dinosaurs."""

from __future__ import annotations

import random
from importlib import resources

__all__ = ["dinosaur_text", "load_dinosaurs"]


def load_dinosaurs() -> list[str]:
    """Return the names in alphabetical order.

    Examples
    --------
    >>> load_dinosaurs()[:3]
    ['Aardonyx', 'Abdarainurus', 'Abditosaurus']
    """
    return resources.files("fastrnn.training").joinpath("dinosaurs.txt").read_text("utf-8").split()


def dinosaur_text() -> str:
    """Return the names as a text, one a line, in an order that is shuffled but always the same.

    In alphabetical order the held-out tail of the text would be the names from T to Z, unlike what is trained on.
    """
    names = load_dinosaurs()
    random.Random(0).shuffle(names)
    return "\n".join(names) + "\n"
