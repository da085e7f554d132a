"""Writing text with a trained model, a token at a time."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastrnn.checks import (
    Array,
    check_count,
    check_instance,
    check_number,
    check_positive,
    check_text,
    make_generator,
    shown,
)
from fastrnn.errors import FastrnnError
from fastrnn.training.model import LanguageModel
from fastrnn.training.text import TextError
from fastrnn.training.tokenizers import Tokenizer

__all__ = ["LogitsError", "choose_token", "generate_text", "token_weights"]


class LogitsError(FastrnnError, ValueError):
    """What a model makes of a text is no likelihood: its parameters are far too large."""


def token_weights(
    logits: Array, temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None
) -> Array:
    """Return how likely each token is to be drawn, relative to the likeliest.

    Parameters
    ----------
    logits
        (V,), or log-probabilities.
    temperature
        The weights are ``exp(logits / temperature)`` over their maximum. 0 leaves the likeliest token alone, the first
        of equals.
    top_k
        How many tokens, the likeliest, keep a weight.
    top_p
        Only the fewest tokens keep one, the likeliest, that together have at least this share of the probability which
        temperature and `top_k` have left (Holtzman et al., 2020, nucleus sampling).

    Returns
    -------
    ndarray
        (V,) float64, the largest 1. Tokens as likely as the last one kept are kept, too.

    Raises
    ------
    ValueError
        If the temperature is negative or NaN, `top_k` below 1, `top_p` not in (0, 1].
    LogitsError
        If a logit is NaN, or the largest is infinite.

    Examples
    --------
    >>> import numpy as np
    >>> logits = np.log([0.5, 0.25, 0.125, 0.125])
    >>> token_weights(logits, top_p=0.7)
    array([1. , 0.5, 0. , 0. ])
    """
    temperature = check_number("temperature", temperature, "0 (greedy) or a positive number", lambda t: t >= 0)
    if top_k is not None:
        check_positive("top_k", top_k)
    if top_p is not None:
        top_p = check_number("top_p", top_p, "a number above 0 and at most 1", lambda share: 0 < share <= 1)
    if np.isnan(logits).any():
        raise LogitsError("logits holds NaN; expected numbers")
    if not np.isfinite(logits.max()):
        raise LogitsError(f"logits has {logits.max()} as its largest; expected a finite number")
    below_best: Array = np.subtract(logits, logits.max(), dtype=np.float64)
    if temperature == 0:
        weights: Array = np.zeros_like(below_best)
        weights[below_best.argmax()] = 1
        return weights
    with np.errstate(over="ignore"):  # -inf is right for a temperature next to 0
        weights = np.exp(below_best / temperature)
    if top_k is not None and top_k < len(weights):
        weights[weights < np.partition(weights, -top_k)[-top_k]] = 0
    if top_p is not None and top_p < 1:
        falling = np.sort(weights)[::-1]
        cumulative = falling.cumsum()
        weights[weights < falling[np.searchsorted(cumulative, top_p * cumulative[-1])]] = 0
    return weights


def choose_token(
    logits: Array,
    temperature: float,
    rng: np.random.Generator,
    top_k: int | None = None,
    top_p: float | None = None,
) -> int:
    """Draw a token by the weights that `token_weights` gives for the same arguments."""
    cumulative = token_weights(logits, temperature, top_k, top_p).cumsum()
    return int(np.searchsorted(cumulative, rng.random() * cumulative[-1], side="right"))


def generate_text(
    model: LanguageModel,
    tokenizer: Tokenizer,
    prompt: str,
    length: int,
    temperature: float = 1.0,
    seed: Any = None,
    top_k: int | None = None,
    top_p: float | None = None,
    stop: str | None = None,
) -> str:
    """Continue `prompt` by `length` tokens, characters or words, but never by an unknown one.

    Parameters
    ----------
    model, tokenizer
        What to write with.
    prompt
        Read by the model first. If empty, writing starts as after a line end, or, where the vocabulary has none, as
        after its first token.
    length
        How many tokens to write at most.
    temperature
        Below 1 the likely tokens become likelier; 0 always takes the likeliest.
    seed
        Anything `numpy.random.default_rng` takes.
    top_k, top_p
        What tokens to draw from; see `token_weights`. None means all.
    stop
        A text after which no more is written; it is left out itself.

    Returns
    -------
    str
        The prompt and its continuation. If the tokenizer is one by line, each further line starts from a zero state,
        as in training.

    Raises
    ------
    TextError
        If the prompt or `stop` has a character that is not in the vocabulary, or `stop` an unknown word or nothing.
    ValueError
        If the length is negative, or as for `token_weights`.
    """
    check_instance("model", model, LanguageModel, "a CharModel, WordModel or other LanguageModel")
    check_instance("tokenizer", tokenizer, Tokenizer, "a CharTokenizer or WordTokenizer")
    length = check_count("length", length)
    token_weights(np.zeros(1), temperature, top_k, top_p)  # what is wrong is said before anything is written
    last: list[int] = []
    if stop is not None:
        last = _encode("stop", stop, tokenizer).tolist()
        if not last or tokenizer.unknown in last:
            raise TextError(f"stop is {shown(stop)}; expected {tokenizer.unit}s of the vocabulary")
    rng = make_generator(seed)
    start = _encode("prompt", prompt, tokenizer)
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows ends in an error of its own
        logits, state = model((start if start.size else np.array([tokenizer.start]))[:, None])
        tokens: list[int] = []
        for _ in range(length):
            of_next = logits[-1, 0]
            if tokenizer.unknown is not None:
                of_next[tokenizer.unknown] = -np.inf
            tokens.append(choose_token(of_next, temperature, rng, top_k, top_p))
            if last and tokens[-len(last) :] == last:
                del tokens[-len(last) :]
                break
            anew = tokenizer.by_line and tokens[-1] == tokenizer.start
            logits, state = model(np.array([tokens[-1:]]), None if anew else state)
    return tokenizer.join(prompt, tokens)


def _encode(name: str, text: Any, tokenizer: Tokenizer) -> Array:
    """The tokens of an argument, which errors name."""
    check_text(name, text)
    try:
        return tokenizer.encode(text)
    except TextError as error:
        raise TextError(f"{name} has a character that is unknown: {error}") from None
