"""Writing text, a character at a time, with NumPy's global generator."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from fastrnn.checks import (
    Array,
    check_count,
    check_instance,
    check_iterable,
    check_mapping,
    check_number,
    check_text,
    shown,
    take_reals,
)
from fastrnn.scratch.activations import softmax
from fastrnn.scratch.columns import take
from fastrnn.scratch.lstm import lstm_cell_step
from fastrnn.scratch.rnn import rnn_cell_step
from fastrnn.scratch.seeds import seed_numpy
from fastrnn.scratch.text import CharTokenizer

__all__ = ["generate_text", "generate_text_lstm", "get_sample", "sample_from_logits", "set_random_seed"]

Parameters = Mapping[str, Any]
State = tuple[Array, ...]


def set_random_seed(seed: int) -> None:
    """Seed the global generators of Python and NumPy."""
    seed_numpy(None if seed is None else check_count("seed", seed))
    random.seed(seed)


def sample_from_logits(logits: Any, seed: int | None = None) -> int:
    """Draw a token from softmax(logits), as ``numpy.random.choice`` does.

    Parameters
    ----------
    logits
        (V, 1) or (V,).
    seed
        If given, NumPy's global generator is seeded first.

    Raises
    ------
    ValueError
        If there is more than one column, or a logit is NaN or infinity.

    Examples
    --------
    >>> sample_from_logits([[0.0], [50.0], [0.0]], seed=0)
    1
    """
    column = take_reals("logits", logits)
    if not column.size or column.shape not in ((column.size,), (column.size, 1)):
        raise ValueError(f"logits has shape {column.shape}; expected (V, 1) or (V,), V at least 1")
    if not (column < np.inf).all():
        raise ValueError("logits holds NaN or infinity; expected finite numbers, or -infinity for no chance")
    if seed is not None:
        seed_numpy(seed)
    cumulative = softmax(column).ravel().cumsum()
    return int(np.searchsorted(cumulative / cumulative[-1], np.random.random_sample(), side="right"))


def get_sample(sample_ix: Iterable[int], ix_to_char: Mapping[int, str]) -> str:
    """Return the text of token indices, its first character in upper case.

    Examples
    --------
    >>> get_sample([1, 0], {0: "a", 1: "b"})
    'Ba'
    """
    check_mapping("ix_to_char", ix_to_char, "token indices to characters")
    characters = []
    for index in check_iterable("sample_ix", sample_ix, "token indices"):
        if not isinstance(index, (int, np.integer)) or index not in ix_to_char:
            raise KeyError(f"ix_to_char has no {shown(index)}, which sample_ix holds; expected all of these")
        characters.append(check_text(f"ix_to_char[{index}]", ix_to_char[int(index)]))
    text = "".join(characters)
    return text[:1].upper() + text[1:]


def generate_text(
    parameters: Parameters,
    tokenizer: CharTokenizer,
    start_string: str = "",
    temperature: float = 1.0,
    max_length: int = 50,
    seed: int | None = 0,
) -> str:
    r"""Write with the RNN of `initialize_rnn_parameters`.

    Parameters
    ----------
    parameters, tokenizer
        What to write with.
    start_string
        Read first. Empty, the first input is a column of zeros.
    temperature
        Below 1 the likely characters become likelier; 0 always takes the likeliest.
    max_length
        How many characters to write at most. Writing ends after the first "\\n".
    seed
        NumPy's global generator is seeded with it, so that every call writes the same text, and what is drawn after it
        is the same too; None leaves the generator as it is, and each call writes another one.

    Returns
    -------
    str
        The start and what was written, with the "\\n" where there is one.

    Raises
    ------
    ValueError
        If the temperature or max_length is negative, or a character of the start is not in the vocabulary and there is
        no out-of-vocabulary token.
    """

    def step(x: Array, state: State) -> tuple[Array, State]:
        (a_prev,) = state
        a_next, logits, _, _ = rnn_cell_step(x, a_prev, parameters)
        return logits, (a_next,)

    state = (np.zeros((len(take(parameters, "ba")), 1)),)
    return _generate(step, state, tokenizer, start_string, temperature, max_length, seed)


def generate_text_lstm(
    parameters: Parameters,
    tokenizer: CharTokenizer,
    start_string: str = "",
    temperature: float = 1.0,
    max_length: int = 50,
    seed: int | None = 0,
) -> str:
    """Write with the LSTM of `initialize_lstm_parameters`; see `generate_text`."""

    def step(x: Array, state: State) -> tuple[Array, State]:
        a_prev, c_prev = state
        a_next, c_next, logits, _ = lstm_cell_step(x, a_prev, c_prev, parameters)
        return logits, (a_next, c_next)

    zero = np.zeros((len(take(parameters, "bf")), 1))
    return _generate(step, (zero, zero), tokenizer, start_string, temperature, max_length, seed)


def _generate(
    step: Callable[[Array, State], tuple[Array, State]],
    state: State,
    tokenizer: CharTokenizer,
    start_string: str,
    temperature: float,
    max_length: int,
    seed: int | None,
) -> str:
    check_instance("tokenizer", tokenizer, CharTokenizer, "a fastrnn.scratch.CharTokenizer")
    check_text("start_string", start_string)
    temperature = check_number("temperature", temperature, "0 (greedy) or a positive number", lambda t: t >= 0)
    max_length = check_count("max_length", max_length)
    if seed is not None:
        seed_numpy(seed)
    columns = np.eye(tokenizer.vocab_size())[..., None]
    inputs = [columns[index] for index in tokenizer.texts_to_sequences(start_string)]
    for x in inputs or [np.zeros_like(columns[0])]:
        logits, state = step(x, state)
    written: list[int] = []
    while len(written) < max_length:
        with np.errstate(over="ignore"):  # -inf is right for a temperature next to 0
            index = (
                int(logits.argmax()) if temperature == 0 else sample_from_logits((logits - logits.max()) / temperature)
            )
        written.append(index)
        if index == tokenizer.char_to_ix.get("\n"):
            break
        logits, state = step(columns[index], state)
    return start_string + tokenizer.sequences_to_texts(written)
