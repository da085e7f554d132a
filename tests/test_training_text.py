"""Text files, tokens, windows, and the corpus that ships with the package."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastrnn.training import (
    CharTokenizer,
    Lines,
    TextError,
    Windows,
    WordTokenizer,
    dinosaur_text,
    encode_lines,
    load_dinosaurs,
    pad,
    read_text,
    split_tail,
)
from fastrnn.training.tokenizers import restore_tokenizer

READABLE = {
    "plain": (b"one\ntwo\n", "one\ntwo\n"),
    "not ASCII": ("Zürich, 東京 \U0001f996".encode(), "Zürich, 東京 \U0001f996"),
    "byte order mark": (b"\xef\xbb\xbfone", "one"),
    "line ends": (b"one\r\ntwo\rthree\n", "one\ntwo\nthree\n"),
}


@pytest.mark.parametrize(("data", "text"), READABLE.values(), ids=READABLE)
def test_s17_any_text_file_is_read(tmp_path, data, text):
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


def test_s16_the_unknown_character_comes_first_and_the_others_sorted():
    tokenizer = CharTokenizer.fit("banana", oov=True)
    assert list(tokenizer.pieces) == ["\ufffd", "a", "b", "n"]
    assert (len(tokenizer), tokenizer.unknown, tokenizer.start) == (4, 0, 1)
    assert tokenizer.encode("zab\U0001f996n").tolist() == [0, 1, 2, 0, 3]
    assert tokenizer.decode([0, 1, 2, 0, 3]) == "\ufffdab\ufffdn"


SENTENCE = "Two vowels,\n3 CONSONANTS;   it is\tNaïve…"
CLEANINGS = {
    "as it is": ({}, SENTENCE),
    "lower": ({"lower": True}, "two vowels,\n3 consonants;   it is\tnaïve…"),
    "letters only": ({"letters_only": True}, "Two vowels CONSONANTS it is Naïve "),
    "both": ({"lower": True, "letters_only": True}, "two vowels consonants it is naïve "),
    "and line ends": ({"letters_only": True, "by_line": True}, "Two vowels \n CONSONANTS it is Naïve "),
}


@pytest.mark.parametrize(("options", "cleaned"), CLEANINGS.values(), ids=CLEANINGS)
def test_n1_a_text_is_cleaned_before_its_characters_are_numbered(options, cleaned):
    tokenizer = CharTokenizer.fit(SENTENCE, **options)
    assert tokenizer.characters == "".join(sorted(set(cleaned)))
    assert tokenizer.decode(tokenizer.encode(SENTENCE)) == cleaned


def test_n1_letters_and_blank_are_27():
    text = 'The quick brown fox jumps over the lazy dog, 27 times: "Ha!"\n' * 3
    assert len(CharTokenizer.fit(text, lower=True, letters_only=True)) == 27


PIECES = {
    "marks": ("Well -- no... yes!", ["well", "--", "no", "...", "yes", "!"]),
    "inside words": ("who's well-known? dogs' 'tis", ["who's", "well-known", "?", "dogs", "'", "'", "tis"]),
    "numbers": ("1,234.5 and 6.", ["1,234.5", "and", "6", "."]),
    "line ends": ("one\n\ntwo", ["one", "\n", "\n", "two"]),
    "underscores": ("_so_ a_b", ["_", "so", "_", "a", "_", "b"]),
    "unknown words": ("an <unk> word", ["an", "<unk>", "word"]),
}


@pytest.mark.parametrize(("text", "pieces"), PIECES.values(), ids=PIECES)
def test_n2_words_marks_and_by_line_are_tokens(text, pieces):
    tokenizer = WordTokenizer.fit(text)
    assert [tokenizer.pieces[token] for token in tokenizer.encode(text)] == pieces
    assert set(tokenizer.pieces) == {"<unk>", *pieces}


def test_n2_the_vocabulary_is_cut_off_by_frequency():
    text = "d d d c b c b a E e"
    assert WordTokenizer.fit(text).pieces == ("<unk>", "d", "b", "c", "e", "a")
    assert WordTokenizer.fit(text, lower=False).pieces == ("<unk>", "d", "b", "c", "E", "a", "e")
    assert WordTokenizer.fit(text, max_words=2).pieces == ("<unk>", "d", "b")
    assert WordTokenizer.fit(text, min_count=3).pieces == ("<unk>", "d")
    assert WordTokenizer.fit(text, max_words=2).encode(text).tolist() == [1, 1, 1, 0, 2, 0, 2, 0, 0, 0]


def test_n2_letters_only():
    tokenizer = WordTokenizer.fit("It's 5 o'clock,\nsir!", letters_only=True)
    assert sorted(tokenizer.pieces) == ["<unk>", "clock", "it", "o", "s", "sir"]
    assert "\n" in WordTokenizer.fit("a a b b c", letters_only=True, by_line=True, max_words=2).pieces


READABLE_TEXTS = [
    'he said: "who (if any) is it?" -- then, no...\n"me," she said, 5% sure.\n\n[end]',
    '"one\n"two" three',
    "don't; well-known",
]


@pytest.mark.parametrize("text", READABLE_TEXTS)
def test_n2_decoded_words_read_as_people_write(text):
    tokenizer = WordTokenizer.fit(text)
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("prompt", ["", "Well", "Well ", "oh, well\n", '"', '"well" ', "not known "])
def test_n2_a_prompt_stays_as_it_is(prompt):
    tokenizer = WordTokenizer.fit('well, "who knows?"')
    token = tokenizer.encode("knows")[0]
    space = " " if prompt and prompt[-1].isalpha() else ""
    assert tokenizer.join(prompt, [token]) == f"{prompt}{space}knows"


TOKENIZERS = {
    "characters": CharTokenizer("abc"),
    "characters, all options": CharTokenizer("abc", oov=True, lower=True, letters_only=True, by_line=True),
    "words": WordTokenizer(["to", "be", "\n"]),
    "words, all options": WordTokenizer(["to", "be"], lower=False, letters_only=True, by_line=True),
}


@pytest.mark.parametrize("tokenizer", TOKENIZERS.values(), ids=TOKENIZERS)
def test_a_tokenizer_is_restored_from_json(tokenizer):
    restored = restore_tokenizer(json.loads(json.dumps(tokenizer.describe())))
    assert type(restored) is type(tokenizer)
    assert restored.describe() == tokenizer.describe()
    assert (tuple(restored.pieces), restored.unknown) == (tuple(tokenizer.pieces), tokenizer.unknown)


NO_VOCABULARIES = {
    "no characters": (lambda: CharTokenizer.fit(""), TextError, "the text is empty"),
    "no characters given": (lambda: CharTokenizer(""), ValueError, "expected at least one, distinct and sorted"),
    "no words": (lambda: WordTokenizer.fit(" \t"), TextError, "no word of the text occurs 1 times"),
    "no frequent words": (lambda: WordTokenizer.fit("a b", min_count=2), TextError, "occurs 2 times"),
    "max_words": (lambda: WordTokenizer.fit("a", max_words=0), ValueError, "max_words is 0"),
    "min_count": (lambda: WordTokenizer.fit("a", min_count=0), ValueError, "min_count is 0"),
    "no words given": (lambda: WordTokenizer([]), ValueError, "words holds 0 words"),
    "a word twice": (lambda: WordTokenizer(["a", "a"]), ValueError, "words holds 2 words, 1 of them distinct"),
    "the unknown word": (lambda: WordTokenizer(["<unk>"]), ValueError, "and not '<unk>'"),
}


@pytest.mark.parametrize(("make", "error", "message"), NO_VOCABULARIES.values(), ids=NO_VOCABULARIES)
def test_what_gives_no_vocabulary_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


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
    with pytest.raises(IndexError, match=r"expected a window from 0 to 3"):
        Windows(np.arange(25), 2, 3)[k]


SHORT = {(1, 1, 1): "1 tokens are fewer than the 2", (64, 32, 2): "2 rows needs", (10, 2, 5): "fewer than the 11"}


@pytest.mark.parametrize(("sizes", "message"), SHORT.items())
def test_a_stream_shorter_than_a_window_is_refused(sizes, message):
    n, batch_size, seq_length = sizes
    with pytest.raises(TextError, match=message):
        Windows(np.arange(n), batch_size, seq_length)


@pytest.mark.parametrize("token", [-1, 3])
@pytest.mark.parametrize("tokenizer", [CharTokenizer.fit("abc"), WordTokenizer.fit("a b")], ids=["chars", "words"])
def test_what_is_no_token_has_no_text(tokenizer, token):
    with pytest.raises(ValueError, match=f"tokens holds {token}; expected 0 <= token < V = 3"):
        tokenizer.decode([0, token])


def test_pad():
    padded, lengths = pad([[1, 2, 3], [], np.array([4])], -1)
    assert padded.tolist() == [[1, -1, 4], [2, -1, -1], [3, -1, -1]]
    assert lengths.tolist() == [3, 0, 1]
    assert padded.dtype.kind == lengths.dtype.kind == "i"
    features, _ = pad([np.ones((1, 2), "f"), np.full((2, 2), 2.0, "f"), np.empty((0, 2), "f")])
    assert features.tolist() == [[[1, 1], [2, 2], [0, 0]], [[0, 0], [2, 2], [0, 0]]]
    assert features.dtype == np.float32
    turned, again = pad([[1, 2, 3], [], np.array([4])], -1, batch_first=True)
    assert (turned == padded.T).all()
    assert (again == lengths).all()
    assert turned.flags.c_contiguous
    assert pad([np.ones((1, 2)), np.ones((3, 2))], batch_first=True)[0].shape == (2, 3, 2)
    assert pad([[], []], batch_first=True)[0].shape == (2, 0)
    assert pad([[], []])[0].shape == (0, 2)
    assert pad([np.empty((0, 3)), []])[0].shape == (0, 2, 3)


def test_pad_wants_sequences_of_one_kind():
    with pytest.raises(ValueError, match="sequences is empty"):
        pad([])
    with pytest.raises(ValueError, match=r"rows of the shapes \(2,\) and \(3,\)"):
        pad([np.ones((1, 2)), np.ones((1, 3))])
    for value, dtype in ((0.5, np.int64), (-1, np.uint8)):
        with pytest.raises(
            TypeError, match=f"padding_value is {value}; expected one that sequences of {dtype.__name__}"
        ):
            pad([np.ones(1, dtype), np.ones(2, dtype)], value)


def test_s17_lines_are_sequences_between_by_line_and_empty_ones_are_dropped():
    text = "\nTo be\n\n\nor not\n"
    for tokenizer in (CharTokenizer.fit(text), WordTokenizer.fit(text)):
        lines = [tokenizer.decode(line[1:-1]) for line in encode_lines(text, tokenizer)]
        assert [line.lower() for line in lines] == ["to be", "or not"]
        assert {int(token) for line in encode_lines(text, tokenizer) for token in line[[0, -1]]} == {tokenizer.start}


@given(
    sizes=st.lists(st.integers(2, 30), min_size=1, max_size=60),
    batch_size=st.integers(1, 7),
    seq_length=st.integers(1, 12),
    seed=st.sampled_from([None, 0, 1]),
)
def test_s20_lines_cover_every_target_once_an_epoch(sizes, batch_size, seq_length, seed):
    ends = np.cumsum(sizes).tolist()
    sequences = [np.arange(end - size, end) for size, end in zip(sizes, ends, strict=True)]
    lines = Lines(sequences, batch_size, seq_length, seed)
    for epoch in range(2):
        seen = []
        for k in range(len(lines)):
            inputs, targets, lengths, carries_on = batch = lines.batch(epoch * len(lines) + k)
            assert not carries_on
            assert inputs.shape == targets.shape == (lengths.max(), len(lengths))
            assert 1 <= lengths.min() <= lengths.max() <= seq_length
            assert len(lengths) <= batch_size
            real = np.arange(len(inputs))[:, None] < lengths
            assert batch.size == real.sum()
            assert (targets[real] == inputs[real] + 1).all()
            assert (targets[~real] == -1).all()
            seen += targets[real].tolist()
        assert sorted(seen) == [token for sequence in sequences for token in sequence[1:].tolist()]


def test_s20_the_seed_decides_the_order_of_lines_in_every_epoch():
    sequences = [np.full(2 + n % 9, n) for n in range(200)]

    def order(seed, epoch):
        lines = Lines(sequences, 8, 20, seed)
        batches = [lines.batch(epoch * len(lines) + k) for k in range(len(lines))]
        return [token for batch in batches for token in batch.inputs[0].tolist()]

    assert order(0, 3) == order(0, 3)
    assert len({tuple(order(seed, epoch)) for seed in (0, 1) for epoch in (0, 1)}) == 4
    assert order(None, 0) == order(None, 1) == sorted(range(200), key=lambda n: n % 9)


def test_lines_of_similar_length_come_together():
    rng = np.random.default_rng(0)
    sequences = [np.zeros(rng.integers(2, 40), int) for _ in range(1600)]
    batches = [targets for _, targets, _ in Lines(sequences, 32, 64, seed=0)]
    assert sum((targets == -1).sum() for targets in batches) < 0.06 * sum(targets.size for targets in batches)


@pytest.mark.parametrize("text", ["", "\n", "\n\n\n"])
def test_a_text_without_lines_is_refused(text):
    tokenizer = CharTokenizer.fit("a", by_line=True)
    with pytest.raises(TextError, match="there is no line that is not empty"):
        Lines(encode_lines(text, tokenizer), 2, 5)


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
