"""A tokenizer of characters: the out-of-vocabulary token first, then the characters of a text in their order."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from fastrnn.checks import check_iterable, check_text, shown
from fastrnn.training.text import TextError

__all__ = ["CharTokenizer"]


class CharTokenizer:
    """Numbers the characters of a text.

    Parameters
    ----------
    oov_token
        What stands for characters that the text does not have, at index 0; None for no such token.

    Attributes
    ----------
    char_to_ix, ix_to_char
        The index by character, and the character by index.
    oov_index
        0, or None.

    Examples
    --------
    >>> tokenizer = CharTokenizer().fit("banana")
    >>> tokenizer.get_vocab(), tokenizer.vocab_size()
    (['<UNK>', 'a', 'b', 'n'], 4)
    >>> tokenizer.texts_to_sequences("bandana")
    [2, 1, 3, 0, 1, 3, 1]
    >>> tokenizer.sequences_to_texts([2, 1, 3])
    'ban'
    """

    def __init__(self, oov_token: str | None = "<UNK>") -> None:
        self.oov_token = None if oov_token is None else check_text("oov_token", oov_token)
        self.oov_index: int | None = None
        self.vocab: list[str] = []
        self.char_to_ix: dict[str, int] = {}
        self.ix_to_char: dict[int, str] = {}

    def fit(self, corpus: str | list[str]) -> CharTokenizer:
        """Take the vocabulary of a text, or of a list of texts joined by blanks, and return the tokenizer.

        Raises
        ------
        TextError
            If the text is empty.
        """
        characters = sorted(set(_join(corpus)))
        if not characters:
            raise TextError("corpus is empty; expected a text")
        self.vocab = [self.oov_token, *characters] if self.oov_token else characters
        self.char_to_ix = {character: index for index, character in enumerate(self.vocab)}
        self.ix_to_char = dict(enumerate(self.vocab))
        self.oov_index = 0 if self.oov_token else None
        return self

    def texts_to_sequences(self, corpus: str | list[str]) -> list[int]:
        """Return the indices of a text, or of a list of texts joined by blanks.

        Raises
        ------
        TextError
            If a character is not in the vocabulary and there is no out-of-vocabulary token.
        """
        text, indices = _join(corpus), self.char_to_ix
        if self.oov_index is not None:
            return [indices.get(character, self.oov_index) for character in text]
        try:
            return [indices[character] for character in text]
        except KeyError as error:
            raise TextError(
                f"character {error} is not in the vocabulary, and there is no oov_token; expected a corpus of others"
            ) from None

    def sequences_to_texts(self, sequence: Iterable[Any]) -> str:
        """Return the text of indices; one that is not in the vocabulary stands for the out-of-vocabulary token.

        Raises
        ------
        TextError
            If there is no such token.
        """
        indices = check_iterable("sequence", sequence, "token indices")
        for index in indices:
            if not isinstance(index, (int, np.integer)):
                raise TypeError(f"sequence holds {shown(index)}; expected integers")
        characters = [self.ix_to_char.get(index, self.oov_token) for index in indices]
        if None in characters:
            raise TextError("in sequence an index is not in the vocabulary, and there is no oov_token; expected others")
        return "".join(characters)  # type: ignore[arg-type]

    def get_vocab(self) -> list[str]:
        """Return the vocabulary in the order of the indices."""
        return self.vocab

    def vocab_size(self) -> int:
        """Return the size of the vocabulary."""
        return len(self.vocab)


def _join(corpus: str | list[str]) -> str:
    if isinstance(corpus, str):
        return corpus
    texts = check_iterable("corpus", corpus, "a text, or a list of texts")
    return " ".join([check_text(f"corpus[{k}]", text) for k, text in enumerate(texts)])
