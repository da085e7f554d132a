"""Text files, tokens, windows, and the corpus that ships with the package."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastrnn.training import (
    CharTokenizer,
    TextError,
    Windows,
    dinosaur_text,
    load_dinosaurs,
    read_text,
    split_tail,
)

READABLE = {
    "plain": (b"one\ntwo\n", "one\ntwo\n"),
    "not ASCII": ("Zürich, 東京 \U0001f996".encode(), "Zürich, 東京 \U0001f996"),
    "byte order mark": (b"\xef\xbb\xbfone", "one"),
    "line ends": (b"one\r\ntwo\rthree\n", "one\ntwo\nthree\n"),
}


@pytest.mark.parametrize(("data", "text"), READABLE.values(), ids=READABLE)
def test_read_text(tmp_path, data, text):
    path = tmp_path / "text.txt"
    path.write_bytes(data)
    assert read_text(path) == text


UNREADABLE = {
    "empty": (b"", "text.txt is empty"),
    "binary": (b"PNG\0\1\2", "NUL at byte 3"),
    "Latin-1": ("Zürich".encode("latin-1"), "not UTF-8: byte 0xfc at offset 1"),
    "cut short": ("Zürich: 東".encode()[:-1], "not UTF-8: byte 0xe6 at offset 9"),
}


@pytest.mark.parametrize(("data", "message"), UNREADABLE.values(), ids=UNREADABLE)
def test_what_is_not_text_is_refused(tmp_path, data, message):
    path = tmp_path / "text.txt"
    path.write_bytes(data)
    with pytest.raises(TextError, match=re.escape(message)):
        read_text(path)


@pytest.mark.parametrize(("name", "error"), [("missing.txt", FileNotFoundError), ("", IsADirectoryError)])
def test_what_is_no_file_is_refused(tmp_path, name, error):
    with pytest.raises(error):
        read_text(tmp_path / name)


@given(st.text(min_size=1))
def test_tokenizer_round_trip(text):
    tokenizer = CharTokenizer.fit(text)
    tokens = tokenizer.encode(text)
    assert tokenizer.decode(tokens) == text
    assert sorted(set(tokens.tolist())) == list(range(len(tokenizer)))
    assert list(tokenizer.characters) == sorted(set(text))
    assert CharTokenizer(tokenizer.characters).encode(text).tolist() == tokens.tolist()


UNKNOWN = {"b": "'b' (U+0062) at position 0", "acd\n": r"'\n' (U+000A) at position 3", "ca\U0001f996": "(U+1F996)"}


@pytest.mark.parametrize(("text", "message"), UNKNOWN.items())
def test_an_unknown_character_is_named(text, message):
    with pytest.raises(TextError, match=re.escape(message)):
        CharTokenizer("acd").encode(text)


@pytest.mark.parametrize("characters", ["", "ba", "aab"])
def test_a_vocabulary_is_sorted_and_distinct(characters):
    with pytest.raises(ValueError, match="expected at least one, distinct and sorted"):
        CharTokenizer(characters)


@given(batch_size=st.integers(1, 6), seq_length=st.integers(1, 9), extra=st.integers(0, 200))
def test_windows_cover_the_stream_once_and_in_order(batch_size, seq_length, extra):
    n = batch_size * seq_length + 1 + extra
    windows = list(Windows(np.arange(n), batch_size, seq_length))

    lengths = [len(inputs) for inputs, _ in windows]
    row = (n - 1) // batch_size
    assert len(windows) == -(-row // seq_length)
    assert max(lengths) <= seq_length
    assert max(lengths) - min(lengths) <= 1
    rows = np.concatenate([inputs for inputs, _ in windows]).T  # (N, steps): each row reads on where its window ended
    assert rows.ravel().tolist() == list(range(batch_size * row))
    for inputs, targets in windows:
        assert inputs.shape == targets.shape
        assert (targets == inputs + 1).all()


@pytest.mark.parametrize("k", [-1, 4])
def test_there_is_no_such_window(k):
    with pytest.raises(IndexError, match=r"expected 0\.\.3"):
        Windows(np.arange(25), 2, 3)[k]


SHORT = {(1, 1, 1): "1 tokens are fewer than the 2", (64, 32, 2): "2 rows needs", (10, 2, 5): "fewer than the 11"}


@pytest.mark.parametrize(("sizes", "message"), SHORT.items())
def test_a_stream_shorter_than_a_window_is_refused(sizes, message):
    n, batch_size, seq_length = sizes
    with pytest.raises(TextError, match=message):
        Windows(np.arange(n), batch_size, seq_length)


@pytest.mark.parametrize(("n", "fraction", "tail"), [(10, 0.1, 1), (1000, 0.25, 250), (3, 0.1, 0), (7, 0.5, 4)])
def test_split_tail(n, fraction, tail):
    train, held_out = split_tail(np.arange(n), fraction)
    assert np.concatenate([train, held_out]).tolist() == list(range(n))
    assert len(held_out) == tail


@pytest.mark.parametrize("fraction", [0, 1, -0.1, float("nan")])
def test_split_tail_takes_a_fraction(fraction):
    with pytest.raises(ValueError, match="fraction is"):
        split_tail(np.arange(9), fraction)


def test_dinosaurs():
    names = load_dinosaurs()
    assert len(names) >= 800
    assert names == sorted(set(names))
    assert not [name for name in names if not re.fullmatch("[A-Z][a-z]+", name)]
    lines = dinosaur_text().split("\n")
    assert lines != [*names, ""]
    assert sorted(lines) == ["", *names]
    assert lines == dinosaur_text().split("\n")
