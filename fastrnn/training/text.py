"""Text files: reading them, and setting a part aside."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypeVar

from fastrnn.errors import FastrnnError
from fastrnn.parameters import Array

__all__ = ["TextError", "read_text", "split_tail"]

Tokens = TypeVar("Tokens", Array, list[Array])  # a stream, or sequences


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


def split_tail(tokens: Tokens, fraction: float) -> tuple[Tokens, Tokens]:
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
