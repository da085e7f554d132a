"""Randomness in a cell's equations: what a function calls, drawn in training and an expectation in inference."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from fastrnn.cells.operations import where
from fastrnn.checks import check_choice

__all__ = ["Noise", "named_noise"]


class Noise(NamedTuple):
    """Something random that a cell has, a draw for each row and unit."""

    name: str
    zoneout: bool  # keeps old values at random; else sets values to zero
    of_sequence: bool  # one draw for all steps of a sequence; else one for each

    def drawn(self, draw: Any) -> Callable[..., Any]:
        """What the function calls in training.

        A draw is 0, or of zoneout 1 with probability p, or of dropout 1 / (1 - p) with probability 1 - p.
        """
        if self.zoneout:
            return lambda new, old: where(draw > 0.5, old, new)
        return lambda value: value * draw

    def expected(self, p: float) -> Callable[..., Any]:
        """What the function calls in inference."""
        if self.zoneout:
            return lambda new, old: new + p * (old - new)
        return lambda value: value


def named_noise(option: str, names: tuple[str, ...], given: Any) -> list[Noise]:
    """What an option of `fastrnn.cell`, "dropout" or "zoneout", declares; `given` is it, whose names are these."""
    when = dict.fromkeys(names, "step") | (dict(given) if isinstance(given, Mapping) else {})
    for name, value in when.items():
        check_choice(f"{option}[{name!r}]", value, ("step", "sequence"))
    return [Noise(name, option == "zoneout", value == "sequence") for name, value in when.items()]
