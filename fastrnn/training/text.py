"""Text files: reading them piece by piece, and setting a part aside."""

from __future__ import annotations

import codecs
import io
import math
import os
import re
from collections.abc import Iterable, Iterator
from typing import TypeVar

import numpy as np

from fastrnn.checks import Array, check_number, check_path, check_sequence, check_text
from fastrnn.errors import FastrnnError

__all__ = ["Text", "TextError", "read_blocks", "read_text", "split_blocks", "split_tail", "text_pieces"]

Tokens = TypeVar("Tokens", Array, list[Array])  # a stream, or sequences

BLOCK = 1 << 16  # characters or bytes that are worked on at once: few for the memory, many for the interpreter


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
    return "".join(read_blocks(path))


def read_blocks(path: str | os.PathLike[str]) -> Iterator[str]:
    """Yield what `read_text` returns in blocks, so that the bytes and the text are never in memory as a whole."""
    decoder = io.IncrementalNewlineDecoder(codecs.getincrementaldecoder("utf-8-sig")(), translate=True)
    offset = 0
    with open(check_path("path", path), "rb") as file:
        while data := file.read(BLOCK):
            if (nul := data.find(0)) >= 0:
                raise TextError(f"{path} is not a text file: NUL at byte {offset + nul}; expected UTF-8")
            offset += len(data)
            yield _decode(path, decoder, data, offset)
        if not offset:
            raise TextError(f"{path} is empty; expected a text")
        yield _decode(path, decoder, b"", offset)


def _decode(path: str | os.PathLike[str], decoder: io.IncrementalNewlineDecoder, data: bytes, offset: int) -> str:
    """Decode a block that ends at `offset`; none is the end of the file."""
    try:
        return decoder.decode(data, final=not data)
    except UnicodeDecodeError as error:  # its object begins with bytes that earlier blocks have left
        bad = offset - len(error.object) + error.start
        raise TextError(f"{path} is not UTF-8: byte 0x{error.object[error.start]:02x} at offset {bad}") from None


class Text:
    """A text in pieces that can be cleaned and cut into words one by one, with the same result as the whole.

    A piece ends after white space, and the next begins with a letter: no word, no run of blanks and no context of a
    lower-case letter goes across. Only where there is no such place for long does a piece become long. In pieces, a
    text takes a byte for each character of a piece in ASCII, whatever else is in the other pieces.

    Parameters
    ----------
    blocks
        What the text is made of, cut anywhere.
    """

    def __init__(self, blocks: Iterable[str]) -> None:
        self._pieces = list(_cut(blocks))
        self._length = sum(map(len, self._pieces))

    @classmethod
    def read(cls, paths: Iterable[str | os.PathLike[str]]) -> Text:
        """Read text files as one text, in which each starts on a line of its own; the errors are `read_text`'s."""
        return cls(_read_in_a_row(paths))

    def __len__(self) -> int:
        """Count the characters."""
        return self._length

    def __iter__(self) -> Iterator[str]:
        """Go through the pieces."""
        return iter(self._pieces)


def text_pieces(text: str | Text) -> Iterator[str]:
    """Go through the pieces of a text; see `Text` for where they end."""
    if isinstance(text, Text):
        return iter(text)
    check_text("text", text)
    return _cut(text[k : k + BLOCK] for k in range(0, len(text), BLOCK))


def _read_in_a_row(paths: Iterable[str | os.PathLike[str]]) -> Iterator[str]:
    last = "\n"
    for path in paths:
        if last != "\n":
            yield "\n"
        for block in read_blocks(path):
            yield block
            last = block[-1:] or last


_PLACE = re.compile(r".*\s(?=[^\W\d_])", re.DOTALL)


def _cut(blocks: Iterable[str]) -> Iterator[str]:
    """Cut and join blocks so that each piece ends at the last place in its block that the next may begin at."""
    parts: list[str] = []  # of the next piece
    for block in blocks:
        end = len(block)
        while found := _PLACE.match(block, 0, end):
            end = found.end()
            if block[end].isalpha():  # some of the characters that the expression finds are numbers
                yield "".join([*parts, block[:end]])
                parts = []
                block = block[end:]
                break
        if block:
            parts.append(block)
    if parts:
        yield "".join(parts)


def split_tail(tokens: Tokens, fraction: float) -> tuple[Tokens, Tokens]:
    """Return `tokens` without their last `fraction`, and that tail, to be held out; ValueError unless 0 < fraction < 1.

    Examples
    --------
    >>> import numpy as np
    >>> split_tail(np.arange(10), 0.2)
    (array([0, 1, 2, 3, 4, 5, 6, 7]), array([8, 9]))
    """
    fraction = check_number("fraction", fraction, "one between 0 and 1", lambda share: 0 < share < 1)
    check_sequence("tokens", tokens, "an array of tokens, or a list of such")
    cut = len(tokens) - round(len(tokens) * fraction)
    return tokens[:cut], tokens[cut:]


# Blocks of some pages are long enough that the joints between them hardly count, and short enough that those drawn
# are of everything in the text: a megabyte has 280 of them, 94 KB have 50.
LARGEST_BLOCK, FEWEST_BLOCKS, SMALLEST_BLOCK = 4000, 50, 1000


def split_blocks(tokens: Array, fraction: float, seed: int, end: int | None = None) -> tuple[Array, Array]:
    """Return `tokens` (n,) without some blocks that `seed` draws, about `fraction` of all, and those, to be held out.

    A block ends after a token `end`, a line end, if there is one in reach, so that nothing is torn where the blocks
    left are put together. ValueError unless 0 < fraction < 1.

    Examples
    --------
    >>> import numpy as np
    >>> [part.tolist() for part in split_blocks(np.arange(10), 0.2, seed=0)]
    [[0, 1, 2, 3, 6, 7, 8, 9], [4, 5]]
    """
    fraction = check_number("fraction", fraction, "one between 0 and 1", lambda share: 0 < share < 1)
    size = max(SMALLEST_BLOCK, min(len(tokens) // FEWEST_BLOCKS, LARGEST_BLOCK))
    count = max(len(tokens) // size, math.ceil(1 / fraction), 2)
    cuts = np.arange(count + 1) * len(tokens) // count
    for k in range(1, count) if end is not None else ():
        reach = np.flatnonzero(tokens[cuts[k] : cuts[k + 1]] == end)
        cuts[k] += reach[0] + 1 if reach.size else 0
    drawn = np.zeros(count, bool)
    drawn[np.random.default_rng(seed).permutation(count)[: max(1, round(count * fraction))]] = True
    held_out = np.repeat(drawn, np.diff(cuts))
    return tokens[~held_out], tokens[held_out]
