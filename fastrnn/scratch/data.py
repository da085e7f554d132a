"""From text files to training sequences, and to padded batches of them."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fastrnn.checks import (
    Array,
    check_choice,
    check_flag,
    check_instance,
    check_integer,
    check_path,
    check_positive,
    check_sequence,
    check_size,
    check_text,
    make_generator,
    take_array,
    take_integers,
)
from fastrnn.scratch.columns import as_indices
from fastrnn.scratch.text import CharTokenizer
from fastrnn.training.corpora import load_dinosaurs
from fastrnn.training.text import TextError, read_text

__all__ = [
    "TextDataset",
    "create_training_sequences_continuous",
    "create_training_sequences_line_by_line",
    "load_dataset",
    "load_text",
    "one_hot_encode",
    "pad_sequences",
]


def load_text(path: str | os.PathLike[str]) -> str:
    """Return the contents of a UTF-8 text file; see `fastrnn.training.read_text`."""
    return read_text(path)


def one_hot_encode(sequence: Any, vocab_size: int) -> Array:
    """Return the one-hot columns (vocab_size, T) of token indices (T,).

    Raises
    ------
    TypeError
        If they are not integers.
    ValueError
        If there are none, they are not (T,), or one is out of range. -1, or None in a list, stands for a column of
        zeros.

    Examples
    --------
    >>> one_hot_encode([1, 0], 3)
    array([[0., 1.],
           [1., 0.],
           [0., 0.]])
    """
    tokens, _ = as_indices("sequence", sequence, check_positive("vocab_size", vocab_size), "vocab_size")
    if tokens.ndim != 1:
        raise ValueError(f"sequence has shape {tokens.shape}; expected (T,)")
    check_size("vocab_size", (vocab_size, len(tokens)))
    one_hot: Array = np.arange(vocab_size)[:, None] == tokens
    return one_hot.astype(np.float64)


def create_training_sequences_continuous(
    corpus: str, tokenizer: CharTokenizer, seq_length: int = 25
) -> tuple[Array, Array]:
    """Cut a text into all its windows, each with its targets, the next characters.

    Parameters
    ----------
    corpus
        The text.
    tokenizer
        Fitted.
    seq_length
        The number of steps of a window.

    Returns
    -------
    tuple
        X and Y (n, seq_length), n = len(corpus) - seq_length. They are read-only views of one array.

    Raises
    ------
    TextError
        If the text is not longer than a window.

    Examples
    --------
    >>> X, Y = create_training_sequences_continuous("abcd", CharTokenizer(None).fit("abcd"), seq_length=2)
    >>> X.tolist(), Y.tolist()
    ([[0, 1], [1, 2]], [[1, 2], [2, 3]])
    """
    seq_length = check_positive("seq_length", seq_length)
    _check_tokenizer(tokenizer)
    tokens = np.array(tokenizer.texts_to_sequences(corpus), np.intp)
    if len(tokens) <= seq_length:
        raise TextError(f"the corpus has {len(tokens)} characters; expected more than seq_length = {seq_length}")
    windows = np.lib.stride_tricks.sliding_window_view(tokens, seq_length)
    return windows[:-1], windows[1:]


def create_training_sequences_line_by_line(lines: Sequence[str], tokenizer: CharTokenizer) -> tuple[Array, Array]:
    r"""Make a sequence of each line, with its targets, the next characters and a line end.

    Parameters
    ----------
    lines
        Texts without line ends; empty ones are left out.
    tokenizer
        Fitted to a text with line ends, or with an out-of-vocabulary token, which then stands for them.

    Returns
    -------
    tuple
        X and Y, arrays of lists of indices.

    Raises
    ------
    TextError
        If no line has a character, or the tokenizer does not know a line end.

    Examples
    --------
    >>> X, Y = create_training_sequences_line_by_line(["ab", "", "b"], CharTokenizer(None).fit("ab\nb"))
    >>> list(X), list(Y)
    ([[1, 2], [2]], [[2, 0], [0]])
    """
    _check_tokenizer(tokenizer)
    for k, line in enumerate(check_sequence("lines", lines, "texts")):
        check_text(f"lines[{k}]", line)
    (newline,) = tokenizer.texts_to_sequences("\n")
    inputs = [tokenizer.texts_to_sequences(line) for line in lines if line]
    if not inputs:
        raise TextError("no line has a character: lines has empty ones only; expected at least one that is not")
    return _as_objects(inputs), _as_objects([[*tokens[1:], newline] for tokens in inputs])


def _check_tokenizer(tokenizer: Any) -> None:
    check_instance("tokenizer", tokenizer, CharTokenizer, "a fastrnn.scratch.CharTokenizer")


def _as_objects(lists: list[list[int]]) -> Array:
    """A 1-D array of the lists, also where all are of one length."""
    array = np.empty(len(lists), object)
    for k, each in enumerate(lists):
        array[k] = each
    return array


def load_dataset(
    name: str | os.PathLike[str],
    mode: str = "continuous",
    seq_length: int = 25,
    lowercase: bool = True,
    oov_token: str | None = None,
) -> tuple[str, CharTokenizer, Array, Array]:
    """Read a text and make training sequences of it.

    Parameters
    ----------
    name
        The path of a text file; or NAME for data/NAME.txt; or "dinos", where there is no such file either, for the
        names of dinosaurs that come with the package.
    mode
        "continuous" or "line_by_line".
    seq_length
        The number of steps of a window of continuous text.
    lowercase
        Whether to lower-case the text.
    oov_token
        Of the tokenizer, which has the characters of the text, and a line end.

    Returns
    -------
    tuple
        The text, the tokenizer, X and Y; see `create_training_sequences_continuous` and
        `create_training_sequences_line_by_line`.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    TextError
        If it is empty, not text, or too short.
    ValueError
        If the mode is another one.

    Examples
    --------
    >>> corpus, tokenizer, X, Y = load_dataset("dinos", mode="line_by_line")
    >>> tokenizer.vocab_size(), tokenizer.sequences_to_texts(X[0])
    (27, 'aardonyx')
    """
    check_choice("mode", mode, ("continuous", "line_by_line"))
    check_flag("lowercase", lowercase)
    corpus = _find_text(name)
    if lowercase:
        corpus = corpus.lower()
    tokenizer = CharTokenizer(oov_token)
    if mode == "continuous":
        return corpus, tokenizer.fit(corpus), *create_training_sequences_continuous(corpus, tokenizer, seq_length)
    tokenizer.fit(corpus.strip() + "\n")
    return corpus, tokenizer, *create_training_sequences_line_by_line(corpus.strip().split("\n"), tokenizer)


def _find_text(name: str | os.PathLike[str]) -> str:
    for path in (check_path("name", name), Path("data", f"{name}.txt")):
        if path.is_file():
            return load_text(path)
    if name == "dinos":
        return "\n".join(load_dinosaurs()) + "\n"
    raise FileNotFoundError(
        f"{name!s:.80} is no file, nor is data/{name!s:.80}.txt; expected as name a text file, or 'dinos'"
    )


def pad_sequences(sequences: Sequence[Sequence[int]], padding: str = "post", value: int = 0) -> Array:
    """Return sequences of different lengths as one array.

    Parameters
    ----------
    sequences
        Of token indices.
    padding
        "post" to fill up at the end, "pre" at the start.
    value
        What to fill up with. -1 is no token to `lstm_forward` and `rnn_forward`, and does not count in
        `compute_loss_and_grad`.

    Returns
    -------
    ndarray
        (m, T_x) int32.

    Raises
    ------
    ValueError
        If there is no sequence, or the padding is another one.

    Examples
    --------
    >>> pad_sequences([[1, 2, 3], [4]], value=-1)
    array([[ 1,  2,  3],
           [ 4, -1, -1]], dtype=int32)
    """
    check_choice("padding", padding, ("post", "pre"))
    if not len(check_sequence("sequences", sequences, "sequences of token indices")):
        raise ValueError("sequences is empty; expected at least one")
    value = _as_int32("value", np.array(check_integer("value", value))).item()
    arrays = [_as_int32(f"sequences[{k}]", take_array(f"sequences[{k}]", each)) for k, each in enumerate(sequences)]
    for k, array in enumerate(arrays):
        if array.ndim != 1:
            raise ValueError(f"sequences[{k}] has shape {array.shape}; expected (T,)")
    steps = max(map(len, arrays))
    padded = np.full((len(arrays), steps), value, np.int32)
    for row, array in zip(padded, arrays, strict=True):
        start = 0 if padding == "post" else steps - len(array)
        row[start : start + len(array)] = array
    return padded


def _as_int32(name: str, array: Array) -> Array:
    limits = np.iinfo(np.int32)
    if array.size and not limits.min <= take_integers(name, array).min() <= array.max() <= limits.max:
        raise ValueError(f"{name} holds values from {array.min()} to {array.max()}; expected those of int32")
    return array.astype(np.int32)


class TextDataset:
    """Training sequences in padded batches.

    Parameters
    ----------
    X, Y
        Inputs and targets, as `load_dataset` returns them.
    batch_size
        The number of sequences in a batch; the last one may have fewer.
    shuffle
        Whether each pass has a new order.
    seed
        Of the orders, anything `numpy.random.default_rng` takes; None shuffles the order before with NumPy's global
        generator.
    value
        What shorter sequences are filled up with at their ends; see `pad_sequences`. -1 counts nowhere.

    Examples
    --------
    >>> dataset = TextDataset([[1, 2, 3], [4]], [[2, 3, 0], [0]], batch_size=2, shuffle=False)
    >>> for X, Y in dataset:
    ...     print(X.tolist(), Y.tolist())
    [[1, 2, 3], [4, -1, -1]] [[2, 3, 0], [0, -1, -1]]
    """

    def __init__(
        self,
        X: Sequence[Any] | Array,
        Y: Sequence[Any] | Array,
        batch_size: int = 32,
        shuffle: bool = True,
        seed: Any = None,
        value: int = -1,
    ) -> None:
        if len(check_sequence("X", X, "sequences")) != len(check_sequence("Y", Y, "sequences")):
            raise ValueError(f"X has {len(X)} sequences and Y {len(Y)}; expected as many")
        self.X, self.Y, self.value = X, Y, check_integer("value", value)
        self.batch_size, self.shuffle = check_positive("batch_size", batch_size), check_flag("shuffle", shuffle)
        self.indices = np.arange(len(X))  # the order of the last pass
        self._rng = None if seed is None else make_generator(seed)

    def __len__(self) -> int:
        """Count the batches."""
        return math.ceil(len(self.X) / self.batch_size)

    def __iter__(self) -> Iterator[tuple[Array, Array]]:
        """Go through the batches once: inputs and targets, (m, T_x) each."""
        if self.shuffle:
            if self._rng is None:
                np.random.shuffle(self.indices)
            else:
                self.indices = self._rng.permutation(len(self.X))
        order = self.indices.copy()  # of this pass, should another begin before it ends
        for start in range(0, len(order), self.batch_size):
            chosen = order[start : start + self.batch_size]
            yield (
                pad_sequences([self.X[k] for k in chosen], value=self.value),
                pad_sequences([self.Y[k] for k in chosen], value=self.value),
            )
