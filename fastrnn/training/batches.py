"""From tokens to the batches that a model is trained on: windows of a stream, or padded lines."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from fastrnn.parameters import Array, check_positive, take_array
from fastrnn.training.text import TextError
from fastrnn.training.tokenizers import Tokenizer

__all__ = ["PADDING", "Batch", "Lines", "Windows", "encode_lines", "pad"]

PADDING = -1  # as a target: there is none


class Batch(NamedTuple):
    """What one step of training runs over."""

    inputs: Array  # (T, N)
    targets: Array  # (T, N), the token after each input, or PADDING
    lengths: Array | None  # (N,), how many of the steps are no padding; None means all
    carries_on: bool  # whether each row goes on where that of the batch before ended

    @property
    def size(self) -> int:
        """The number of targets."""
        return self.targets.size if self.lengths is None else int(self.lengths.sum())


def pad(sequences: Sequence[Any], padding_value: Any = 0) -> tuple[Array, Array]:
    """Return sequences of different lengths as one array, time first, padded at their ends, and the lengths.

    Parameters
    ----------
    sequences
        At least one; token indices (T_n,), or rows of features (T_n, ...) of one shape. A sequence may be empty.
    padding_value
        What fills up the shorter ones.

    Returns
    -------
    padded : ndarray
        (T, N, ...), where T is the largest length.
    lengths : ndarray
        (N,), as the modules take it.

    Raises
    ------
    ValueError
        If there is no sequence, or two have rows of different shapes.
    TypeError
        If a sequence is not an array, or the sequences' dtype cannot hold `padding_value`.

    Examples
    --------
    >>> padded, lengths = pad([[1, 2, 3], [4]])
    >>> padded.tolist(), lengths.tolist()
    ([[1, 4], [2, 0], [3, 0]], [3, 1])
    """
    arrays = [np.atleast_1d(take_array(f"sequences[{n}]", sequence)) for n, sequence in enumerate(sequences)]
    if not arrays:
        raise ValueError("sequences is empty; expected at least one sequence")
    lengths = np.array([len(array) for array in arrays], np.intp)
    # An empty list is an array of float64 that says nothing of the others' dtype and shape.
    filled = [array for array in arrays if len(array) or array.ndim > 1] or [np.empty(0, np.intp)]
    shape, dtype = filled[0].shape[1:], np.result_type(*filled)
    if other := next((array.shape[1:] for array in filled if array.shape[1:] != shape), None):
        raise ValueError(f"sequences have rows of the shapes {shape} and {other}; expected one shape")
    if not np.can_cast(np.min_scalar_type(padding_value), dtype, "same_kind"):
        raise TypeError(f"padding_value is {padding_value!r}; expected one that sequences of {dtype} can hold")
    padded = np.full((lengths.max(), len(arrays), *shape), padding_value, dtype)
    for n in np.flatnonzero(lengths):
        padded[: lengths[n], n] = arrays[n]
    return padded, lengths


def encode_lines(text: str, tokenizer: Tokenizer) -> list[Array]:
    r"""Return the tokens of every line that is not empty, each between two line ends.

    Parameters
    ----------
    text
        Any.
    tokenizer
        With the line end in its vocabulary: made with `by_line`.

    Examples
    --------
    >>> from fastrnn.training import CharTokenizer
    >>> [line.tolist() for line in encode_lines("ab\n\nb", CharTokenizer.fit("ab", by_line=True))]
    [[0, 1, 2, 0], [0, 2, 0]]
    """
    tokens = tokenizer.encode(f"\n{text}\n")
    ends = np.flatnonzero(tokens == tokenizer.start).tolist()
    return [tokens[k : end + 1] for k, end in itertools.pairwise(ends) if end > k + 1]


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

    def batch(self, step: int) -> Batch:
        """Return what a step of training runs over, steps counted from 0 through all readings of the stream."""
        k = step % len(self)
        return Batch(*self[k], None, carries_on=k > 0)

    def __iter__(self) -> Iterator[tuple[Array, Array]]:
        """Go through the windows in order."""
        return (self[k] for k in range(len(self)))


class Lines:
    """Sequences as padded batches, each with its targets, the next tokens.

    In every epoch the sequences are shuffled; those of similar lengths among some 16 batches then come together, so
    that there is little padding, and the batches are shuffled.

    Parameters
    ----------
    sequences
        Arrays of at least two tokens, such as `encode_lines` returns: all but the last are inputs, all but the first
        targets.
    batch_size
        N, the largest number of sequences in a batch; batches differ by at most one.
    seq_length
        T, the largest number of steps. Longer sequences are cut into pieces, which do not know of one another.
    seed
        Of the order: a non-negative integer. None means by length, the same in every epoch.

    Raises
    ------
    TextError
        If there is no sequence of two tokens.

    Examples
    --------
    >>> import numpy as np
    >>> lines = Lines([np.array([0, 5, 6, 0]), np.array([0, 7, 0])], batch_size=2, seq_length=9)
    >>> for inputs, targets, lengths in lines:
    ...     print(inputs.tolist(), targets.tolist(), lengths.tolist())
    [[0, 0], [7, 5], [0, 6]] [[7, 5], [0, 6], [-1, 0]] [2, 3]
    """

    _POOL = 16

    def __init__(self, sequences: Sequence[Array], batch_size: int, seq_length: int, seed: int | None = None) -> None:
        self.batch_size = check_positive("batch_size", batch_size)
        self.seq_length = check_positive("seq_length", seq_length)
        self.seed = seed
        pieces = [
            sequence[k : k + seq_length + 1] for sequence in sequences for k in range(0, len(sequence) - 1, seq_length)
        ]
        if not pieces:
            raise TextError("there is no line that is not empty")
        sizes = np.array([len(piece) for piece in pieces])
        self._lengths = sizes - 1
        self._starts = np.cumsum(sizes) - sizes
        # The end is so long that every row of a batch can be read to the last step.
        self._tokens = np.concatenate([*pieces, np.zeros(seq_length, np.intp)])
        self._order: tuple[int, list[Array]] = (-1, [])  # an epoch, and the sequences in each of its batches

    def __len__(self) -> int:
        """Count the batches of an epoch."""
        return math.ceil(len(self._lengths) / self.batch_size)

    def batch(self, step: int) -> Batch:
        """Return what a step of training runs over, steps counted from 0 through all epochs."""
        return Batch(*self._padded(step), carries_on=False)

    def _padded(self, step: int) -> tuple[Array, Array, Array]:
        epoch, k = divmod(step, len(self))
        if self._order[0] != epoch:
            self._order = epoch, self._epoch(epoch)
        members = self._order[1][k]
        lengths = self._lengths[members]
        steps = np.arange(lengths.max())[:, None]
        places = self._starts[members] + steps
        beyond = steps >= lengths
        inputs, targets = self._tokens[places], self._tokens[places + 1]
        inputs[beyond] = 0
        targets[beyond] = PADDING
        return inputs, targets, lengths

    def _epoch(self, epoch: int) -> list[Array]:
        lengths = self._lengths
        if self.seed is None:
            return np.array_split(np.argsort(lengths, kind="stable"), len(self))
        rng = np.random.default_rng((self.seed, epoch))
        order = rng.permutation(len(lengths))
        pools = max(1, len(order) // (self._POOL * self.batch_size))
        pool = np.arange(len(order)) * pools // len(order)
        rising = np.where(pool % 2, -1, 1)  # where two pools meet in a batch, their lengths are similar, too
        order = order[np.lexsort((lengths[order] * rising, pool))]
        batches = np.array_split(order, len(self))
        rng.shuffle(batches)
        return batches

    def __iter__(self) -> Iterator[tuple[Array, Array, Array]]:
        """Go through the batches of the first epoch: inputs (T, N), targets (T, N) and lengths (N,) of each."""
        return (self._padded(step) for step in range(len(self)))
