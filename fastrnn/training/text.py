"""From text files to the windows of token indices that truncated back-propagation through time runs over."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from fastrnn.errors import FastrnnError
from fastrnn.parameters import Array, check_positive

__all__ = ["CharTokenizer", "TextError", "Windows", "read_text", "split_tail"]


class TextError(FastrnnError, ValueError):
    """A text cannot be used: it is empty, not text, too short, or has characters that are not in the vocabulary."""


def read_text(path: str | os.PathLike[str]) -> str:
    """Return the contents of a UTF-8 text file; every kind of line end becomes a newline.

    Raises
    ------
    OSError
        If the file cannot be read.
    TextError
        If it is empty, or is not UTF-8 text; the message gives the offset of the first bad byte.
    """
    data = Path(path).read_bytes()
    if not data:
        raise TextError(f"{path} is empty")
    if (offset := data.find(0)) >= 0:
        raise TextError(f"{path} is not a text file: NUL at byte {offset}")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise TextError(f"{path} is not UTF-8: byte 0x{data[error.start]:02x} at offset {error.start}") from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


class CharTokenizer:
    """Numbers the characters of a text in their sorted order.

    Parameters
    ----------
    characters
        The vocabulary: distinct and sorted. `fit` collects it from a text.

    Examples
    --------
    >>> tokenizer = CharTokenizer.fit("banana")
    >>> tokenizer.encode("nab")
    array([2, 0, 1])
    >>> tokenizer.decode([1, 0, 2])
    'ban'
    """

    def __init__(self, characters: str) -> None:
        if not characters or list(characters) != sorted(set(characters)):
            raise ValueError(f"characters is {characters!r}; expected at least one, distinct and sorted")
        self.characters = characters
        self._code_points = _code_points(characters)

    @classmethod
    def fit(cls, text: str) -> CharTokenizer:
        """Return the tokenizer of all characters in `text`; ValueError if there are none."""
        return cls("".join(sorted(set(text))))

    def __len__(self) -> int:
        """V, the size of the vocabulary."""
        return len(self.characters)

    def encode(self, text: str) -> Array:
        """Return the indices (len(text),) of the characters; TextError names the first unknown one."""
        wanted = _code_points(text)
        tokens = np.searchsorted(self._code_points, wanted)
        tokens[tokens == len(self)] = 0
        unknown = np.flatnonzero(self._code_points[tokens] != wanted)
        if unknown.size:
            at = int(unknown[0])
            raise TextError(f"character {text[at]!r} (U+{ord(text[at]):04X}) at position {at} is not in the vocabulary")
        return tokens

    def decode(self, tokens: Any) -> str:
        """Return the text of the token indices."""
        return "".join(self.characters[token] for token in tokens)


def _code_points(text: str) -> Array:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.dtype("<u4"))


def split_tail(tokens: Array, fraction: float) -> tuple[Array, Array]:
    """Return `tokens` without their last `fraction`, and that tail, to be held out; ValueError unless 0 < fraction < 1.

    Examples
    --------
    >>> import numpy as np
    >>> split_tail(np.arange(10), 0.2)
    (array([0, 1, 2, 3, 4, 5, 6, 7]), array([8, 9]))
    """
    if not 0 < fraction < 1:
        raise ValueError(f"fraction is {fraction}; expected one between 0 and 1")
    cut = len(tokens) - round(len(tokens) * fraction)
    return tokens[:cut], tokens[cut:]


class Windows:
    """A stream of tokens as consecutive windows of a batch, each with its targets, the next tokens.

    The stream is cut into N contiguous rows of equal length, and the rows into as few windows of at most T steps as
    cover them, equally long but for one step: were the last one just the rest, its tokens would weigh more in a mean
    than others. The state at the end of a window is the initial state of the next. Of the stream, at most N tokens at
    its end are in no row.

    Parameters
    ----------
    tokens
        The stream, (n,).
    batch_size
        N, the number of rows.
    seq_length
        T, the largest number of steps in a window.

    Raises
    ------
    TextError
        If a row would be shorter than a window.

    Examples
    --------
    >>> import numpy as np
    >>> windows = Windows(np.arange(11), batch_size=2, seq_length=3)
    >>> for inputs, targets in windows:
    ...     print(inputs.tolist(), targets.tolist())
    [[0, 5], [1, 6]] [[1, 6], [2, 7]]
    [[2, 7], [3, 8], [4, 9]] [[3, 8], [4, 9], [5, 10]]
    """

    def __init__(self, tokens: Array, batch_size: int, seq_length: int) -> None:
        self.batch_size = check_positive("batch_size", batch_size)
        self.seq_length = check_positive("seq_length", seq_length)
        row = (len(tokens) - 1) // batch_size
        if row < seq_length:
            raise TextError(
                f"{len(tokens)} tokens are fewer than the {seq_length * batch_size + 1} "
                f"that a window of {seq_length} steps in {batch_size} rows needs"
            )
        self._inputs = np.ascontiguousarray(tokens[: row * batch_size].reshape(batch_size, row).T)  # (steps, N)
        self._targets = np.ascontiguousarray(tokens[1 : row * batch_size + 1].reshape(batch_size, row).T)

    def __len__(self) -> int:
        """Count the windows."""
        return math.ceil(len(self._inputs) / self.seq_length)

    def __getitem__(self, k: int) -> tuple[Array, Array]:
        """Return window k: inputs and targets, (at most T, N) each; IndexError past the last one."""
        if not 0 <= k < len(self):
            raise IndexError(f"window {k}; expected 0..{len(self) - 1}")
        row = len(self._inputs)
        steps = slice(k * row // len(self), (k + 1) * row // len(self))
        return self._inputs[steps], self._targets[steps]

    def __iter__(self) -> Iterator[tuple[Array, Array]]:
        """Go through the windows in order."""
        return (self[k] for k in range(len(self)))
