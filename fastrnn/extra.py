"""What layers are given beside x: values that the caller has for each step, and the draws of a cell's noise.

Draws are numbered, by layer, direction and name, from the first that a module makes on, and each follows from its
number alone. So it does not matter into which parts the steps of a call are cut, or whether some are run again; and the
steps of a sequence that comes in pieces are given the same as those of the whole one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from fastrnn.cells import WrittenCell
from fastrnn.checks import check_share, shown
from fastrnn.parameters import Array

__all__ = ["Beside", "Given", "Masks", "OfSequences", "Random", "as_rates", "into_width", "named"]


def as_rates(cell: WrittenCell, noise: Any) -> tuple[float, ...]:
    """The rates of a cell's noise in its order; TypeError or ValueError unless `noise` gives each one."""
    names = cell.noise
    if noise is None and not names:
        return ()
    if not names:
        raise ValueError(f"noise is {shown(noise)}, but the cell {cell.name} has no dropout or zoneout; expected None")
    if noise is None:
        raise ValueError(
            f"noise is None, but the cell {cell.name} has {' and '.join(names)}; expected a rate from 0 to 1 for all, "
            "or a dict of them by name"
        )
    if not isinstance(noise, Mapping):
        return (check_share("noise", noise),) * len(names)
    if set(noise) != set(names):
        raise ValueError(f"noise has {', '.join(map(str, noise))}; expected a rate for each of {', '.join(names)}")
    return tuple([check_share(f"noise[{name!r}]", noise[name]) for name in names])


def named(cell: str, names: Sequence[str], extra: Any) -> list[tuple[str, Any]]:
    """What a call is given beside x, in the order of a cell's names; ValueError unless it has each, and no others."""
    if not names and extra is None:
        return []
    if not isinstance(extra, Mapping) or set(extra) != set(names):
        came = f"has {', '.join(map(str, extra))}" if isinstance(extra, Mapping) and extra else f"is {shown(extra)}"
        wanted = f"a dict with {', '.join(names)}" if names else "None"
        raise ValueError(f"extra {came}; expected {wanted}, as the cell {cell} has it")
    return [(f"extra[{name!r}]", extra[name]) for name in names]


def into_width(gradient: Array, width: int) -> Array:
    """The gradient by unit, (..., H), of a value that has this width: if it was one for all units, the sum of them."""
    return gradient if gradient.shape[-1] == width else gradient.sum(-1, keepdims=True)


class _Values(Protocol):
    """One value for each row of a layer, or for each row and unit."""

    def of(self, part: slice) -> _Values:
        """Those of some steps, or rows where lengths differ."""

    def array(self) -> Array:
        """(R, W), or by sequence (N, W); W is 1 or H."""


@dataclass(frozen=True, slots=True)
class Given:
    """Values that the caller has given."""

    values: Array  # (T, N, W), or (R, W)

    def of(self, part: slice) -> Given:
        """As `_Values` says."""
        return Given(self.values[part])

    def array(self) -> Array:
        """As `_Values` says."""
        return self.values.reshape(math.prod(self.values.shape[:-1]), self.values.shape[-1])


@dataclass(frozen=True, slots=True)
class _Draws:
    """Draws for each row and unit, made when they are needed."""

    key: Array  # of the numbering
    first: int  # number
    shape: tuple[int, ...]  # (T, N, H), or (R, H)
    p: float
    zoneout: bool
    dtype: np.dtype[Any]

    def of(self, part: slice) -> _Draws:
        start, stop, _ = part.indices(self.shape[0])
        first = self.first + start * math.prod(self.shape[1:])
        return replace(self, first=first, shape=(stop - start, *self.shape[1:]))

    def array(self) -> Array:
        count = math.prod(self.shape)
        skipped = self.first % 8  # a counter's step has eight numbers of 32 bits
        words = np.random.Philox(key=self.key, counter=self.first // 8).random_raw((skipped + count + 1) // 2)
        numbers = words.view(np.uint32)[skipped : skipped + count]
        strikes = np.full(count, True) if self.p == 1 else numbers < np.uint32(self.p * 2**32)
        if self.zoneout:
            values = strikes.astype(self.dtype)
        else:
            values = np.multiply(~strikes, 0 if self.p == 1 else 1 / (1 - self.p), dtype=self.dtype)
        return values.reshape(count // self.shape[-1], self.shape[-1])


@dataclass(frozen=True, slots=True)
class OfSequences:
    """The same at all steps of a sequence."""

    values: Array  # (N, H)

    def of(self, part: slice) -> OfSequences:
        """As `_Values` says."""
        return self

    def array(self) -> Array:
        """As `_Values` says."""
        return self.values


@dataclass(frozen=True, slots=True)
class Beside:
    """All that a layer is given in one direction, in the order of its program."""

    values: Sequence[_Values]

    def of(self, part: slice) -> Beside:
        """That of some steps, or rows where lengths differ."""
        return Beside([each.of(part) for each in self.values])

    def add(self, values: Sequence[_Values]) -> Beside:
        """It and more."""
        return Beside([*self.values, *values])

    def arrays(self) -> tuple[Array, ...]:
        """As kernels take it."""
        return tuple([each.array() for each in self.values])


@dataclass(frozen=True)
class Masks:
    """Which draws a call has made for whole sequences: for the next call, if that goes on with them."""

    batch: int  # N
    firsts: tuple[tuple[int, ...], ...]  # numbers, by layer and direction, and name


class Random:
    """Where a module's noise comes from.

    Parameters
    ----------
    cell, rates
        What has noise, and how often it strikes.
    places
        L * D.
    rng
        What the numberings' keys are drawn from.
    """

    def __init__(self, cell: WrittenCell, rates: Sequence[float], places: int, rng: np.random.Generator) -> None:
        self._noise = list(zip(cell._equations.noise, rates, strict=True))
        self._keys = rng.integers(0, 2**64, (places, len(rates), 2), np.uint64)
        self._drawn = [[0] * len(rates) for _ in range(places)]  # how many draws have been made

    def draw(
        self, shape: tuple[int, ...], batch: int, dtype: np.dtype[Any], sequence: Array | None, masks: Masks | None
    ) -> tuple[list[list[_Values]], Masks]:
        """The draws of a call by layer and direction, and which of them are of whole sequences.

        Parameters
        ----------
        shape
            (T, N, H), or (R, H) where lengths differ.
        batch
            N, of sequences.
        dtype
            Of the values.
        sequence
            Where not all sequences are run as they are: which one each of the kernels' sequences is of, (M,).
        masks
            What a call before has drawn for whole sequences, to go on with it.
        """
        H = shape[-1]
        found: list[list[_Values]] = []
        firsts = [list(its) for its in (self._drawn if masks is None else masks.firsts)]
        for place, its in enumerate(firsts):
            values: list[_Values] = []
            for k, (noise, p) in enumerate(self._noise):
                key, drawn = self._keys[place, k], self._drawn[place]
                first, size = (its[k], (batch, H)) if noise.of_sequence else (drawn[k], shape)
                draws = _Draws(key, first, size, p, noise.zoneout, dtype)
                if not noise.of_sequence or masks is None:
                    drawn[k] += math.prod(size)
                if noise.of_sequence:
                    whole = draws.array()
                    values.append(OfSequences(whole if sequence is None else whole.take(sequence, 0)))
                else:
                    values.append(draws)
            found.append(values)
        return found, Masks(batch, tuple(map(tuple, firsts)))
