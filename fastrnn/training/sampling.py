"""Writing text with a trained model, a token at a time."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastrnn.parameters import Array
from fastrnn.training.model import CharModel
from fastrnn.training.text import CharTokenizer

__all__ = ["choose_token", "generate_text"]


def choose_token(logits: Array, temperature: float, rng: np.random.Generator) -> int:
    """Draw a token from softmax(logits / temperature), logits (V,); temperature 0 takes the most likely one.

    Raises
    ------
    ValueError
        If the temperature is negative or NaN.
    """
    if not temperature >= 0:
        raise ValueError(f"temperature is {temperature}; expected 0 (greedy) or a positive number")
    below_best = np.subtract(logits, logits.max(), dtype=np.float64)
    if temperature == 0:
        return int(below_best.argmax())
    with np.errstate(over="ignore"):  # -inf is right for a temperature next to 0
        cumulative = np.exp(below_best / temperature).cumsum()
    return int(np.searchsorted(cumulative, rng.random() * cumulative[-1], side="right"))


def generate_text(
    model: CharModel, tokenizer: CharTokenizer, prompt: str, length: int, temperature: float = 1.0, seed: Any = None
) -> str:
    """Continue `prompt` by `length` characters.

    Parameters
    ----------
    model, tokenizer
        What to write with.
    prompt
        Read by the model first. If empty, writing starts as after a line end, or, where the vocabulary has none, as
        after its first character.
    length
        How many characters to write.
    temperature
        Below 1 the likely characters become likelier; 0 always takes the likeliest.
    seed
        Anything `numpy.random.default_rng` takes.

    Returns
    -------
    str
        The prompt and its continuation.

    Raises
    ------
    TextError
        If the prompt has a character that is not in the vocabulary.
    ValueError
        If the temperature or the length is negative, or the temperature NaN.
    """
    if length < 0:
        raise ValueError(f"length is {length}; expected at least 0")
    rng = np.random.default_rng(seed)
    start = prompt or ("\n" if "\n" in tokenizer.characters else tokenizer.characters[0])
    logits, state = model(tokenizer.encode(start)[:, None])
    tokens: list[int] = []
    for _ in range(length):
        tokens.append(choose_token(logits[-1, 0], temperature, rng))
        logits, state = model(np.array([tokens[-1:]]), state)
    return prompt + tokenizer.decode(tokens)
