"""From text to token indices and back: by characters, or by words."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from fastrnn.checks import (
    Array,
    check_count,
    check_flag,
    check_iterable,
    check_positive,
    check_sequence,
    check_text,
    shown,
)
from fastrnn.training.text import BLOCK, Text, TextError, text_pieces

__all__ = ["CharTokenizer", "Tokenizer", "WordTokenizer", "restore_tokenizer"]


class Tokenizer:
    """What the tokenizers share: a vocabulary, and how a text is cleaned before it is looked up there.

    Attributes
    ----------
    pieces : sequence of str
        The text that each token stands for.
    unknown : int or None
        The token of whatever is not in the vocabulary, if there is one.
    lower, letters_only : bool
        Whether a text becomes lower case, and whether each run of anything but letters becomes one blank.
    by_line : bool
        Whether every line is a sequence of its own: line ends stay even with `letters_only`, and are in the vocabulary
        in any case.
    """

    unit: ClassVar[str]  # what a token is, as people say it

    def __init__(
        self, pieces: Sequence[str], unknown: int | None, lower: bool, letters_only: bool, by_line: bool
    ) -> None:
        for k, piece in enumerate(pieces if isinstance(pieces, str) else check_sequence("pieces", pieces, "texts")):
            check_text(f"pieces[{k}]", piece)
        self.pieces = pieces
        self.unknown = None if unknown is None else check_count("unknown", unknown)
        self.lower = check_flag("lower", lower)
        self.letters_only = check_flag("letters_only", letters_only)
        self.by_line = check_flag("by_line", by_line)

    def __len__(self) -> int:
        """V, the size of the vocabulary."""
        return len(self.pieces)

    @property
    def start(self) -> int:
        """The token after which a text starts, the line end, or, where there is none, the first known one."""
        return self.pieces.index("\n") if "\n" in self.pieces else int(self.unknown == 0)

    def encode(self, text: str) -> Array:
        """Return the tokens (n,) of a text, which is cleaned first.

        Words that are not in the vocabulary become the unknown word; so do characters, if there is an unknown one.
        Otherwise TextError names the first.
        """
        return np.concatenate([np.empty(0, np.intp), *self.encode_pieces(text_pieces(text))])

    def encode_compactly(self, text: str | Text, *, by_line: bool = False) -> Array:
        """Return what `encode` does in the smallest type of integers that holds it, and read-only.

        Parameters
        ----------
        text
            Any.
        by_line
            Whether there is a line end before the text and after it.
        """
        parts = text_pieces(text)
        end = ["\n"] if check_flag("by_line", by_line) else []
        dtype = np.min_scalar_type(len(self) - 1)
        tokens = np.empty(len(text) + 2 * len(end), dtype)  # there are seldom more of them than characters
        done = 0
        for some in self.encode_pieces(itertools.chain(end, parts, end)):
            if done + len(some) > len(tokens):
                tokens = np.concatenate([tokens, np.empty(len(tokens) // 8 + len(some), dtype)])
            tokens[done : done + len(some)] = some
            done += len(some)
        if done < len(tokens) // 2:
            tokens = tokens[:done].copy()
        tokens.flags.writeable = False
        return tokens[:done]

    def encode_pieces(self, pieces: Iterable[str]) -> Iterator[Array]:
        """Yield the tokens of a text that comes in pieces, as `text_pieces` cuts them, some at a time."""
        raise NotImplementedError

    def decode(self, tokens: Iterable[int]) -> str:
        """Return the text of the tokens; ValueError if one is not in the vocabulary."""
        raise NotImplementedError

    def _piece(self, token: int) -> str:
        if not isinstance(token, (int, np.integer)):
            raise TypeError(f"tokens holds {shown(token)}; expected integers")
        if not 0 <= token < len(self.pieces):
            raise ValueError(f"tokens holds {shown(token)}; expected 0 <= token < V = {len(self.pieces)}")
        return self.pieces[token]

    def join(self, prompt: str, tokens: Sequence[int]) -> str:
        """Return the text `prompt` as it is, continued by the tokens."""
        raise NotImplementedError

    def describe(self) -> dict[str, Any]:
        """Return what `restore_tokenizer` makes an equal tokenizer of; it can be written as JSON."""
        cleaning = {"lower": self.lower, "letters_only": self.letters_only, "by_line": self.by_line}
        return {"unit": self.unit, **cleaning}


class CharTokenizer(Tokenizer):
    """Numbers the characters of a text in their sorted order.

    Parameters
    ----------
    characters
        The vocabulary: distinct and sorted. `fit` collects it from a text.
    oov
        Whether there is a token, the first one, for all other characters; it is written as U+FFFD.
    lower, letters_only, by_line
        See `Tokenizer`.

    Examples
    --------
    >>> tokenizer = CharTokenizer.fit("banana")
    >>> tokenizer.encode("nab")
    array([2, 0, 1])
    >>> tokenizer.decode([1, 0, 2])
    'ban'
    >>> CharTokenizer.fit("Anna, 2 or 3!", lower=True, letters_only=True).characters
    ' anor'
    """

    unit = "character"

    def __init__(
        self,
        characters: str,
        *,
        oov: bool = False,
        lower: bool = False,
        letters_only: bool = False,
        by_line: bool = False,
    ) -> None:
        if not check_text("characters", characters) or list(characters) != sorted(set(characters)):
            raise ValueError(f"characters is {shown(characters)}; expected at least one, distinct and sorted")
        pieces = ("\ufffd" if check_flag("oov", oov) else "") + characters
        super().__init__(pieces, 0 if oov else None, lower, letters_only, by_line)
        self.characters = characters
        self._code_points = _code_points(characters)

    @classmethod
    def fit(
        cls,
        text: str | Text,
        *,
        oov: bool = False,
        lower: bool = False,
        letters_only: bool = False,
        by_line: bool = False,
    ) -> CharTokenizer:
        """Return the tokenizer of all characters in `text`, once cleaned; TextError if there are none."""
        found = set("\n" if check_flag("by_line", by_line) else "")
        for piece in text_pieces(text):
            found.update(_clean(piece, lower, letters_only, by_line))
        characters = "".join(sorted(found))
        if not characters:
            raise TextError("the text is empty; expected at least one character")
        return cls(characters, oov=oov, lower=lower, letters_only=letters_only, by_line=by_line)

    def encode_pieces(self, pieces: Iterable[str]) -> Iterator[Array]:
        """Yield the tokens of a text that comes in pieces; errors as for `encode`."""
        done = 0
        for piece in _checked(pieces):
            cleaned = _clean(piece, self.lower, self.letters_only, self.by_line)
            for k in range(0, len(cleaned), BLOCK):
                block = cleaned[k : k + BLOCK]
                yield self._look_up(block, done)
                done += len(block)

    def _look_up(self, block: str, position: int) -> Array:
        """Return the tokens of some characters, which begin at a position of the text."""
        wanted = _code_points(block)
        tokens = np.searchsorted(self._code_points, wanted)
        tokens[tokens == len(self.characters)] = 0
        unknown = np.flatnonzero(self._code_points[tokens] != wanted)
        if self.unknown is not None:
            tokens += 1
            tokens[unknown] = self.unknown
        elif unknown.size:
            at = int(unknown[0])
            raise TextError(
                f"character {block[at]!r} (U+{ord(block[at]):04X}) at position {position + at} is not in the "
                "vocabulary; expected a text of known ones"
            )
        return tokens

    def decode(self, tokens: Iterable[int]) -> str:
        """Return the text of the tokens; ValueError if one is not in the vocabulary."""
        return "".join(map(self._piece, check_iterable("tokens", tokens, "token indices")))

    def join(self, prompt: str, tokens: Sequence[int]) -> str:
        """Return the text `prompt` as it is, continued by the tokens."""
        return check_text("prompt", prompt) + self.decode(tokens)

    def describe(self) -> dict[str, Any]:
        """Return what `restore_tokenizer` makes an equal tokenizer of; it can be written as JSON."""
        return super().describe() | {"characters": self.characters, "oov": self.unknown is not None}


UNKNOWN_WORD = "<unk>"

# Words may have apostrophes and hyphens inside, numbers commas and points; a run of one mark is one token.
_WORDS = re.compile(rf"{UNKNOWN_WORD}|\d+(?:[.,]\d+)+|[^\W_]+(?:['\u2019-][^\W_]+)*|\n|(?P<mark>[^\w\s]|_)(?P=mark)*")

_NO_SPACE_BEFORE = frozenset(".,;:!?)]}%…\u2019”»\n")
_NO_SPACE_AFTER = frozenset("([{$#'\u2018“«¿¡\n")


class WordTokenizer(Tokenizer):
    """Numbers words from the most frequent on, after the unknown word; marks and line ends are words, too.

    Parameters
    ----------
    words
        The vocabulary without the unknown word: at least one, distinct. `fit` collects it from a text.
    lower, letters_only, by_line
        See `Tokenizer`.

    Examples
    --------
    >>> tokenizer = WordTokenizer.fit("To be, or not to be: that is the question.", min_count=2)
    >>> tokenizer.pieces
    ('<unk>', 'be', 'to')
    >>> tokenizer.encode("to be free")
    array([2, 1, 0])
    >>> WordTokenizer.fit("Well, who's (not) there?").pieces
    ('<unk>', '(', ')', ',', '?', 'not', 'there', 'well', "who's")
    >>> WordTokenizer.fit("Well, who's (not) there?").decode([7, 3, 8, 1, 6, 2, 4])
    "well, who's (there)?"
    """

    unit = "word"

    def __init__(
        self, words: Sequence[str], *, lower: bool = True, letters_only: bool = False, by_line: bool = False
    ) -> None:
        check_sequence("words", words, "texts")
        for k, word in enumerate(words):
            if not check_text(f"words[{k}]", word):
                raise ValueError(f"words[{k}] is empty; expected a word")
        self._tokens = {word: token for token, word in enumerate((UNKNOWN_WORD, *words))}
        if not len(words) or len(self._tokens) != len(words) + 1:
            raise ValueError(
                f"words holds {len(words)} words, {len(self._tokens) - 1} of them distinct and not "
                f"{UNKNOWN_WORD!r}; expected at least one, and all"
            )
        super().__init__(tuple(self._tokens), 0, lower, letters_only, by_line)

    @classmethod
    def fit(
        cls,
        text: str | Text,
        *,
        max_words: int | None = None,
        min_count: int = 1,
        lower: bool = True,
        letters_only: bool = False,
        by_line: bool = False,
    ) -> WordTokenizer:
        """Return the tokenizer of the words in `text`, once cleaned.

        Parameters
        ----------
        text
            Any.
        max_words
            How many words to keep at most, the most frequent ones, and of equally frequent ones those that come first
            in the order of the alphabet. The unknown word comes on top.
        min_count
            How often a word must occur to be kept.
        lower, letters_only, by_line
            See `Tokenizer`.

        Raises
        ------
        TextError
            If no word is left.
        ValueError
            If `max_words` or `min_count` is below 1.
        """
        if max_words is not None:
            check_positive("max_words", max_words)
        check_positive("min_count", min_count)
        counts: Counter[str] = Counter()
        for piece in text_pieces(text):
            counts.update(_words(_clean(piece, lower, letters_only, by_line)))
        del counts[UNKNOWN_WORD]
        words = [word for word, count in counts.items() if count >= min_count]
        if not words:
            raise TextError(f"no word of the text occurs {min_count} times; expected at least one that does")
        words = sorted(words, key=lambda word: (-counts[word], word))[:max_words]
        if by_line and "\n" not in words:
            words = [*words[: None if max_words is None else max_words - 1], "\n"]
        return cls(words, lower=lower, letters_only=letters_only, by_line=by_line)

    def encode_pieces(self, pieces: Iterable[str]) -> Iterator[Array]:
        """Yield the tokens of a text that comes in pieces."""
        for piece in _checked(pieces):
            words = _words(_clean(piece, self.lower, self.letters_only, self.by_line))
            yield np.fromiter((self._tokens.get(word, 0) for word in words), np.intp)

    def decode(self, tokens: Iterable[int]) -> str:
        """Return the words with blanks between them, but where a mark or a line end wants none.

        Raises
        ------
        ValueError
            If a token is not in the vocabulary.
        """
        parts: list[str] = []
        previous, quoted = "\n", False
        for token in check_iterable("tokens", tokens, "token indices"):
            word = self._piece(token)
            if word == '"':
                tight, quoted = quoted, not quoted
                after = "(" if quoted else word  # after the opening mark comes no blank
            else:
                tight, after = word[0] in _NO_SPACE_BEFORE, word
                quoted = quoted and word != "\n"
            parts.append(word if tight or previous in _NO_SPACE_AFTER else f" {word}")
            previous = after
        return "".join(parts)

    def join(self, prompt: str, tokens: Sequence[int]) -> str:
        """Return the text `prompt` as it is, continued by the tokens."""
        read = self.encode(check_text("prompt", prompt)).tolist()
        tokens = check_iterable("tokens", tokens, "token indices")
        continuation = self.decode([*read, *tokens])[len(self.decode(read)) :]
        return prompt + (continuation.lstrip(" ") if prompt[-1:].isspace() else continuation)

    def describe(self) -> dict[str, Any]:
        """Return what `restore_tokenizer` makes an equal tokenizer of; it can be written as JSON."""
        return super().describe() | {"words": list(self.pieces[1:])}


def restore_tokenizer(description: Mapping[str, Any]) -> Tokenizer:
    """Return the tokenizer that `describe` described; KeyError, TypeError or ValueError if it is none."""
    arguments = dict(description)
    kinds: dict[str, type[CharTokenizer] | type[WordTokenizer]] = {
        kind.unit: kind for kind in (CharTokenizer, WordTokenizer)
    }
    return kinds[arguments.pop("unit")](**arguments)


def _checked(pieces: Iterable[str]) -> Iterator[str]:
    try:
        texts = iter(pieces)
    except TypeError:
        raise TypeError(f"pieces is {shown(pieces)}; expected texts") from None
    for piece in texts:
        yield check_text("each of pieces", piece)


def _clean(text: str, lower: bool, letters_only: bool, by_line: bool) -> str:
    check_flag("by_line", by_line)
    check_flag("letters_only", letters_only)
    if check_flag("lower", lower):
        text = text.lower()
    if letters_only:
        kept = "\n" if by_line else ""
        others = {ord(character): " " for character in set(text) if not character.isalpha() and character not in kept}
        text = re.sub(" +", " ", text.translate(others))
    return text


def _words(text: str) -> Iterator[str]:
    return (match.group() for match in _WORDS.finditer(text))


def _code_points(text: str) -> Array:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.dtype("<u4"))
