"""From tokens to the batches that a model is trained on: windows of a stream, or padded lines."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from fastrnn.checks import (
    Array,
    check_count,
    check_flag,
    check_instance,
    check_positive,
    check_sequence,
    check_text,
    shown,
    take_array,
    take_integers,
)
from fastrnn.distributed.sharing import equal_work
from fastrnn.training.text import BLOCK, TextError
from fastrnn.training.tokenizers import Tokenizer

__all__ = ["PADDING", "Batch", "Lines", "Windows", "by_length", "encode_lines", "pad"]

PADDING = -1  # as a target: there is none
POOL = 16  # batches among whose sequences those of similar lengths come together


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

    def part(self, rank: int, size: int) -> tuple[Batch | None, Array]:
        """Return what one of `size` processes runs over, None for nothing, and which of the N sequences that is.

        Sequences that carry on stay where they are, side by side; others are dealt so that all have as much to do.
        """
        if size == 1:
            return self, np.arange(self.inputs.shape[1])
        if self.lengths is None:
            mine = np.array_split(np.arange(self.inputs.shape[1]), size)[rank]
        else:
            mine = equal_work(self.lengths, size)[rank]
        if not len(mine):
            return None, mine
        lengths = None if self.lengths is None else self.lengths[mine]
        steps = slice(None if lengths is None else lengths.max())
        inputs, targets = (np.ascontiguousarray(tokens[steps, mine]) for tokens in (self.inputs, self.targets))
        return Batch(inputs, targets, lengths, self.carries_on), mine


def pad(sequences: Sequence[Any], padding_value: Any = 0, batch_first: bool = False) -> tuple[Array, Array]:
    """Return sequences of different lengths as one array, time first, padded at their ends, and the lengths.

    Parameters
    ----------
    sequences
        At least one; token indices (T_n,), or rows of features (T_n, ...) of one shape. A sequence may be empty.
    padding_value
        What fills up the shorter ones.
    batch_first
        Whether to return (N, T, ...).

    Returns
    -------
    padded : ndarray
        (T, N, ...), where T is the largest length, or (N, T, ...).
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
    check_sequence("sequences", sequences, "sequences of tokens or of rows of features")
    arrays = [np.atleast_1d(take_array(f"sequences[{n}]", sequence)) for n, sequence in enumerate(sequences)]
    if not arrays:
        raise ValueError("sequences is empty; expected at least one sequence")
    for n, array in enumerate(arrays):
        if array.dtype.kind not in "fiubc":
            raise TypeError(f"sequences[{n}] has dtype {array.dtype}; expected numbers")
    lengths = np.array([len(array) for array in arrays], np.intp)
    # An empty list is an array of float64 that says nothing of the others' dtype and shape.
    filled = [array for array in arrays if len(array) or array.ndim > 1] or [np.empty(0, np.intp)]
    shape, dtype = filled[0].shape[1:], np.result_type(*filled)
    if other := next((array.shape[1:] for array in filled if array.shape[1:] != shape), None):
        raise ValueError(f"sequences have rows of the shapes {shape} and {other}; expected one shape")
    fill = take_array("padding_value", padding_value)
    if fill.ndim or not np.can_cast(np.min_scalar_type(padding_value), dtype, "same_kind"):
        raise TypeError(f"padding_value is {shown(padding_value)}; expected one that sequences of {dtype} can hold")
    axes = (len(arrays), lengths.max()) if check_flag("batch_first", batch_first) else (lengths.max(), len(arrays))
    padded = np.full((*axes, *shape), padding_value, dtype)
    by_sequence = padded if batch_first else padded.swapaxes(0, 1)
    for n in np.flatnonzero(lengths).tolist():
        by_sequence[n, : lengths[n]] = arrays[n]
    return padded, lengths


def by_length(lengths: Array, batch_size: int, rng: np.random.Generator | None) -> list[Array]:
    """Return which sequences are in each batch of an epoch: those of similar lengths together, the rest drawn by `rng`.

    They are shuffled, sorted by length among those of some 16 batches, and then the batches are shuffled. Without `rng`
    all are sorted by length.
    """
    batches = math.ceil(len(lengths) / batch_size)
    if rng is None:
        return np.array_split(np.argsort(lengths, kind="stable"), batches)
    order = np.arange(len(lengths), dtype=lengths.dtype)
    rng.shuffle(order)
    pools = max(1, len(order) // (POOL * batch_size))
    pool = np.arange(len(order))
    pool *= pools
    pool //= len(order)
    # Where two pools meet in a batch, their lengths are similar, too.
    rising = (1 - 2 * (pool % 2)).astype(lengths.dtype)
    order = order[np.lexsort((lengths[order] * rising, pool))]
    found = np.array_split(order, batches)
    rng.shuffle(found)
    return found


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
    check_instance("tokenizer", tokenizer, Tokenizer, "a CharTokenizer or WordTokenizer")
    tokens = tokenizer.encode(f"\n{check_text('text', text)}\n")
    ends = np.flatnonzero(tokens == tokenizer.start).tolist()
    return [tokens[k : end + 1] for k, end in itertools.pairwise(ends) if end > k + 1]


class Spans:
    """Sequences that are parts of one stream: a few bytes each, where an array takes a hundred."""

    def __init__(self, tokens: Array, starts: Array, sizes: Array) -> None:
        self.tokens = tokens
        self.starts = starts  # of each sequence
        self.sizes = sizes

    @classmethod
    def of(cls, sequences: Sequence[Array]) -> Spans:
        """Return what holds a copy of arrays."""
        tokens = np.concatenate([np.empty(0, np.intp), *sequences])
        sizes = np.array([len(sequence) for sequence in sequences], np.intp)
        return cls(tokens, np.cumsum(sizes) - sizes, sizes)

    @classmethod
    def between(cls, end: int, tokens: Array) -> Spans:
        """Return the lines of a stream that are not empty, each from one line end to the next, as `encode_lines`."""
        found = [np.flatnonzero(tokens[k : k + BLOCK] == end) + k for k in range(0, len(tokens), BLOCK)]
        ends = np.concatenate(found).astype(np.int32 if len(tokens) < 2**31 else np.int64)
        sizes = np.diff(ends) + 1
        lines = sizes > 2
        return cls(tokens, ends[:-1][lines], sizes[lines])

    def __len__(self) -> int:
        """Count the sequences."""
        return len(self.sizes)

    def __getitem__(self, which: Array) -> Spans:
        """Return some of the sequences, by their numbers."""
        return Spans(self.tokens, self.starts[which], self.sizes[which])


def _keep(tokens: Array) -> Array:
    """Return an array that nobody else can write to: this one, or a copy."""
    owner = tokens if tokens.base is None else tokens.base
    return tokens if isinstance(owner, np.ndarray) and not owner.flags.writeable else np.array(tokens)


def _as_indices(tokens: Array) -> Array:
    """Return a copy in the order of C, and of the type of indices if they are some."""
    return np.array(tokens, np.intp if tokens.dtype.kind in "iu" else None, order="C")


def _as_stream(name: str, tokens: Any) -> Array:
    array = take_array(name, tokens)
    if array.ndim != 1:
        raise ValueError(f"{name} has shape {array.shape}; expected (n,)")
    return take_integers(name, array) if array.size else array.astype(np.intp)


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
        tokens = _as_stream("tokens", tokens)
        row = (len(tokens) - 1) // batch_size
        if row < seq_length:
            raise TextError(
                f"{len(tokens)} tokens are fewer than the {seq_length * batch_size + 1} "
                f"that a window of {seq_length} steps in {batch_size} rows needs; "
                "expected at least as many"
            )
        tokens = np.ascontiguousarray(_keep(tokens))
        # A row's last target is the next row's first token.
        shape, strides = (batch_size, row + 1), (row * tokens.itemsize, tokens.itemsize)
        self._rows = np.lib.stride_tricks.as_strided(tokens, shape, strides, writeable=False)

    def __len__(self) -> int:
        """Count the windows."""
        steps: int = self._rows.shape[1] - 1
        return math.ceil(steps / self.seq_length)

    def __getitem__(self, k: int) -> tuple[Array, Array]:
        """Return window k: inputs and targets, (at most T, N) each; IndexError past the last one."""
        if not isinstance(k, (int, np.integer)):
            raise TypeError(f"k is {shown(k)}; expected an integer")
        if not 0 <= k < len(self):
            raise IndexError(f"k is {shown(k)}; expected a window from 0 to {len(self) - 1}")
        row = self._rows.shape[1] - 1
        start, stop = k * row // len(self), (k + 1) * row // len(self)
        tokens = _as_indices(self._rows[:, start : stop + 1].T)
        return tokens[:-1], tokens[1:].copy()

    def batch(self, step: int) -> Batch:
        """Return what a step of training runs over, steps counted from 0 through all readings of the stream."""
        k = check_count("step", step) % len(self)
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

    def __init__(
        self, sequences: Sequence[Array] | Spans, batch_size: int, seq_length: int, seed: int | None = None
    ) -> None:
        self.batch_size = check_positive("batch_size", batch_size)
        self.seq_length = check_positive("seq_length", seq_length)
        self.seed = None if seed is None else check_count("seed", seed)
        if not isinstance(sequences, Spans):
            check_sequence("sequences", sequences, "arrays of tokens")
            sequences = Spans.of([_as_stream(f"sequences[{n}]", each) for n, each in enumerate(sequences)])
        targets = np.maximum(sequences.sizes - 1, 0)
        seq_length = min(seq_length, max(1, int(targets.max(initial=0))))
        pieces = -(-targets // seq_length)  # of each sequence
        if not pieces.any():
            raise TextError(
                "there is no line that is not empty: none of sequences has two tokens; expected at least one that has"
            )
        firsts = np.cumsum(pieces, dtype=pieces.dtype) - pieces
        done = np.arange(pieces.sum(), dtype=pieces.dtype) - np.repeat(firsts, pieces)
        done *= seq_length  # targets of the same sequence in the pieces before
        self._lengths = np.minimum(np.repeat(targets, pieces) - done, seq_length)
        self._starts = np.repeat(sequences.starts, pieces) + done
        self._tokens = sequences.tokens
        self._order: tuple[int, list[Array]] = (-1, [])  # an epoch, and the sequences in each of its batches

    def __len__(self) -> int:
        """Count the batches of an epoch."""
        return math.ceil(len(self._lengths) / self.batch_size)

    def batch(self, step: int) -> Batch:
        """Return what a step of training runs over, steps counted from 0 through all epochs."""
        return Batch(*self._padded(check_count("step", step)), carries_on=False)

    def _padded(self, step: int) -> tuple[Array, Array, Array]:
        epoch, k = divmod(step, len(self))
        if self._order[0] != epoch:
            rng = None if self.seed is None else np.random.default_rng((self.seed, epoch))
            self._order = epoch, by_length(self._lengths, self.batch_size, rng)
        members = self._order[1][k]
        lengths = self._lengths[members].astype(np.intp)
        steps = np.arange(lengths.max())[:, None]
        places = self._starts[members] + steps
        beyond = steps >= lengths
        inputs, targets = (_as_indices(self._tokens.take(at, mode="clip")) for at in (places, places + 1))
        inputs[beyond] = 0
        targets[beyond] = PADDING
        return inputs, targets, lengths

    def __iter__(self) -> Iterator[tuple[Array, Array, Array]]:
        """Go through the batches of the first epoch: inputs (T, N), targets (T, N) and lengths (N,) of each."""
        return (self._padded(step) for step in range(len(self)))
