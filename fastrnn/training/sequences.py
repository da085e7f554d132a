"""Sequences of different lengths end to end in one array, checked once, from which batches are taken."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from fastrnn.checks import Array, check_sequence, shown, take_array

__all__ = ["Places", "Sequences", "take_sequences", "take_steps"]


@dataclass(frozen=True)
class Places:
    """Where the steps of a batch are in the array of all sequences."""

    at: Array  # (T, N), or (N, T)
    real: Array | None  # of the same shape, whether it is no padding; None where there is none
    lengths: Array  # (N,)

    def take(self, values: Array) -> Array:
        """Return a batch of `values` (S, ...), with zeros in the padding."""
        taken = values.take(self.at, axis=0, mode="clip")
        if self.real is not None:
            taken[~self.real] = 0
        return taken

    def rows(self, values: Array) -> Array:
        """Return the steps that are no padding of `values` (S, ...), as rows (R, ...)."""
        return values.take(self.at.ravel() if self.real is None else self.at[self.real], axis=0)


@dataclass(frozen=True)
class Sequences:
    """Sequences end to end."""

    values: Array  # (S, I), or (S,) of tokens or of targets
    starts: Array  # (n,)
    lengths: Array  # (n,)

    def __len__(self) -> int:
        """Count the sequences."""
        return len(self.lengths)

    def of(self, members: Array) -> Sequences:
        """Return some of the sequences."""
        return Sequences(self.values, self.starts[members], self.lengths[members])

    def places(self, members: Array, batch_first: bool) -> Places:
        """Return where the steps of some sequences are."""
        lengths = self.lengths[members]
        steps = np.arange(lengths.max())[:, None]
        at = self.starts[members] + steps
        real = None if (lengths == len(steps)).all() else steps < lengths
        if batch_first:
            at, real = at.T, None if real is None else real.T
        return Places(at, real, lengths)


def take_sequences(name: str, value: Any, dtype: np.dtype[Any]) -> Sequences:
    """Return sequences that a caller gives: of features, in `dtype`, or of tokens.

    Raises
    ------
    TypeError
        If they are not of numbers.
    ValueError
        If there is none, one has no steps or other columns than the rest, or a feature is NaN or infinite.
    """
    if isinstance(value, np.ndarray) and value.dtype != object:
        _check_kind(name, value)
        tokens = value.ndim == 2 and value.dtype.kind in "iu"
        if not tokens and value.ndim != 3:
            raise ValueError(_shape(name, value, "(n, T, I)", "(n, T)"))
        if not value.shape[0]:
            raise ValueError(f"{name} has shape {value.shape}; expected at least one sequence")
        if not value.shape[1]:
            raise ValueError(f"{name}[0] has no steps; expected at least one in every sequence")
        n, steps = value.shape[:2]
        flat = np.ascontiguousarray(value).reshape(n * steps, *value.shape[2:])
        return _checked(name, flat, np.full(n, steps, np.intp), tokens, dtype)
    listed = check_sequence(name, value, "an array (n, T, I), or a list of arrays (T, I) or of tokens (T,)")
    if not len(listed):
        raise ValueError(f"{name} is empty; expected at least one sequence")
    arrays = [take_array(f"{name}[{k}]", each) for k, each in enumerate(listed)]
    first = arrays[0]
    tokens = first.ndim == 1 and first.dtype.kind in "iu"
    for k, array in enumerate(arrays):
        each = f"{name}[{k}]"
        if array.ndim and not len(array):
            raise ValueError(f"{each} has no steps; expected at least one in every sequence: leave it out")
        _check_kind(each, array)
        if not tokens and array.ndim != 2:
            raise ValueError(_shape(each, array, "(T, I)", "(T,)"))
        if tokens and (array.ndim != 1 or array.dtype.kind not in "iu"):
            raise ValueError(f"{each} has shape {array.shape} and dtype {array.dtype}; expected tokens, as {name}[0]")
        if array.shape[1:] != first.shape[1:]:
            columns = f"{array.shape[1]} columns; expected {first.shape[1]}"
            raise ValueError(f"{each} has {columns}, as {name}[0] has")
    lengths = np.array([len(array) for array in arrays], np.intp)
    return _checked(name, np.concatenate(arrays), lengths, tokens, dtype)


def take_steps(name: str, value: Any, like: Sequences, of: str) -> Array:
    """Return what a caller gives for every step of sequences, which are called `of`: (S,) or (S, K).

    Raises
    ------
    TypeError
        If they are not of numbers.
    ValueError
        If there are not as many steps in each as in those, or the rows differ.
    """
    if isinstance(value, np.ndarray) and value.dtype != object:
        listed: Any = value
    else:
        listed = check_sequence(name, value, f"one array of the steps of each sequence of {of}")
    if len(listed) != len(like):
        raise ValueError(f"{name} has {len(listed)} sequences; expected {len(like)}, as {of} has")
    arrays = [take_array(f"{name}[{k}]", each) for k, each in enumerate(listed)]
    for k, (array, length) in enumerate(zip(arrays, like.lengths.tolist(), strict=True)):
        if array.ndim not in (1, 2) or len(array) != length:
            raise ValueError(
                f"{name}[{k}] has shape {array.shape}; expected one value for each of the {length} steps of {of}[{k}], "
                "as the model gives one for every step"
            )
        _check_kind(f"{name}[{k}]", array)
        if array.shape[1:] != arrays[0].shape[1:]:
            raise ValueError(f"{name}[{k}] has shape {array.shape}; expected (T, ...) as {name}[0] {arrays[0].shape}")
    return np.concatenate(arrays)


def _check_kind(name: str, array: Array) -> None:
    if array.dtype.kind not in "fiub":
        what = "text" if array.dtype.kind in "US" else f"dtype {array.dtype}"
        raise TypeError(f"{name} has {what}; expected numbers")


def _shape(name: str, array: Array, wanted: str, tokens: str) -> str:
    remedy = f": use {name}[..., None] for one column" if len(wanted.split(",")) - 1 == array.ndim else ""
    return f"{name} has shape {array.shape} and dtype {array.dtype}; expected {wanted}, or integers {tokens}{remedy}"


def _checked(name: str, values: Array, lengths: Array, tokens: bool, dtype: np.dtype[Any]) -> Sequences:
    starts = np.cumsum(lengths) - lengths
    if not tokens:
        if values.shape[1] == 0:
            raise ValueError(f"{name} has no columns; expected at least one")
        with np.errstate(over="ignore"):
            values = np.ascontiguousarray(values, dtype)
        if not np.isfinite(values).all():
            row, column = np.argwhere(~np.isfinite(values))[0].tolist()
            k = int(np.searchsorted(starts, row, side="right")) - 1
            raise ValueError(
                f"{name}[{k}] holds {values[row, column]} at step {row - starts[k]}, column {column}; expected finite "
                "numbers: fill them in, or leave those steps out"
            )
    elif values.min() < 0:
        raise ValueError(f"{name} holds the token {shown(values.min().item())}; expected at least 0")
    return Sequences(values, starts, lengths)
