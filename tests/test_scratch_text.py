"""Text, data and sampling of fastrnn.scratch, rows S13 and S16 to S18."""

from __future__ import annotations

import random

import numpy as np
import pytest

from fastrnn.scratch import (
    CharTokenizer,
    TextDataset,
    compute_loss_and_grad,
    compute_output_layer_gradients,
    create_training_sequences_continuous,
    create_training_sequences_line_by_line,
    generate_text,
    generate_text_lstm,
    get_sample,
    initialize_lstm_parameters,
    initialize_rnn_parameters,
    load_dataset,
    load_text,
    lstm_backwards,
    lstm_cell_step,
    lstm_forward,
    one_hot_encode,
    pad_sequences,
    project_logit_grad_to_hidden,
    rnn_cell_step,
    sample_from_logits,
    set_random_seed,
    softmax,
)
from fastrnn.training import TextError, load_dinosaurs


def test_s16_the_oov_token_is_first_then_characters_in_order():
    tokenizer = CharTokenizer(oov_token="<UNK>").fit("hello\nworld")
    assert tokenizer.get_vocab() == ["<UNK>", *sorted(set("hello\nworld"))]
    assert tokenizer.vocab_size() == 9
    assert tokenizer.oov_index == 0
    assert tokenizer.char_to_ix["\n"] == 1
    assert tokenizer.ix_to_char == {ix: character for character, ix in tokenizer.char_to_ix.items()}
    sequence = tokenizer.texts_to_sequences("hex")
    assert sequence == [tokenizer.char_to_ix["h"], tokenizer.char_to_ix["e"], 0]
    assert tokenizer.sequences_to_texts(np.array(sequence)) == "he<UNK>"
    assert tokenizer.sequences_to_texts([99]) == "<UNK>"


def test_s16_a_list_of_texts_is_joined_by_blanks():
    tokenizer = CharTokenizer().fit(["ab", "c"])
    assert tokenizer.get_vocab() == ["<UNK>", " ", "a", "b", "c"]
    assert tokenizer.texts_to_sequences(["a", "b"]) == [2, 1, 3]


def test_s16_without_an_oov_token_unknown_characters_are_errors():
    tokenizer = CharTokenizer(oov_token=None).fit("ab")
    assert (tokenizer.get_vocab(), tokenizer.oov_index) == (["a", "b"], None)
    assert tokenizer.sequences_to_texts(tokenizer.texts_to_sequences("baab")) == "baab"
    with pytest.raises(TextError, match="character 'x' is not in the vocabulary, and there is no oov_token"):
        tokenizer.texts_to_sequences("ax")
    with pytest.raises(TextError, match="an index is not in the vocabulary"):
        tokenizer.sequences_to_texts([0, 2])
    with pytest.raises(TextError, match="corpus is empty"):
        tokenizer.fit("")


def test_s17_any_text_file_works(tmp_path, monkeypatch):
    path = tmp_path / "anything.txt"
    path.write_bytes(b"Ab\r\n\r\nc\r\n")
    assert load_text(path) == "Ab\n\nc\n"
    corpus, tokenizer, X, Y = load_dataset(path, mode="line_by_line")
    assert corpus == "ab\n\nc\n"
    assert tokenizer.get_vocab() == ["\n", "a", "b", "c"]
    assert (list(X), list(Y)) == ([[1, 2], [3]], [[2, 0], [0]])
    _, tokenizer, X, Y = load_dataset(path, seq_length=4, lowercase=False, oov_token="?")
    assert tokenizer.get_vocab() == ["?", "\n", "A", "b", "c"]
    assert (X.tolist(), Y.tolist()) == ([[2, 3, 1, 1], [3, 1, 1, 4]], [[3, 1, 1, 4], [1, 1, 4, 1]])
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine.txt").write_text("xyz")
    monkeypatch.chdir(tmp_path)
    assert load_dataset("mine", seq_length=1)[0] == "xyz"
    assert load_dataset("mine", mode="line_by_line")[3][0] == [2, 3, 0]  # a line end, though the file has none


def test_s17_dinos_come_with_the_package(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _, tokenizer, X, Y = load_dataset("dinos", mode="line_by_line")
    assert tokenizer.vocab_size() == 27
    assert [tokenizer.sequences_to_texts(x) for x in X] == [name.lower() for name in load_dinosaurs()]
    assert all(y == [*x[1:], 0] for x, y in zip(X, Y, strict=True))


def test_s17_bad_input_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing is no file, nor is data/nothing"):
        load_dataset("nothing")
    with pytest.raises(ValueError, match="mode is 'words'; expected 'continuous' or 'line_by_line'"):
        load_dataset("dinos", mode="words")
    blank = tmp_path / "blank.txt"
    blank.write_text("\n\n")
    with pytest.raises(TextError, match="no line has a character"):
        load_dataset(blank, mode="line_by_line")
    with pytest.raises(TextError, match="the corpus has 2 characters; expected more than seq_length = 25"):
        load_dataset(blank)
    with pytest.raises(TextError, match="character '\\\\n' is not in the vocabulary"):
        create_training_sequences_line_by_line(["a"], CharTokenizer(None).fit("a"))


def test_s17_windows_are_all_of_the_text():
    corpus = "abcabca"
    tokenizer = CharTokenizer().fit(corpus)
    X, Y = create_training_sequences_continuous(corpus, tokenizer, seq_length=3)
    tokens = tokenizer.texts_to_sequences(corpus)
    assert X.tolist() == [tokens[k : k + 3] for k in range(4)]
    assert Y.tolist() == [tokens[k + 1 : k + 4] for k in range(4)]


def test_s17_lines_of_one_length_are_still_lists():
    X, Y = create_training_sequences_line_by_line(["ab", "ba"], CharTokenizer(None).fit("ab\n"))
    assert X.shape == Y.shape == (2,)
    assert X[1] == [2, 1]


def test_s17_one_hot_columns():
    np.testing.assert_array_equal(one_hot_encode([2, 0, None], 3), [[0, 1, 0], [0, 0, 0], [1, 0, 0]])
    with pytest.raises(ValueError, match="sequence holds 3; expected 0 <= token < vocab_size = 3"):
        one_hot_encode([3], 3)
    with pytest.raises(ValueError, match=r"sequence has shape \(3, 3\); expected \(T,\)"):
        one_hot_encode(np.zeros((3, 3), int), 3)


def test_s13_pad_sequences():
    np.testing.assert_array_equal(pad_sequences([[1, 2], [3], []]), [[1, 2], [3, 0], [0, 0]])
    np.testing.assert_array_equal(pad_sequences([[1, 2], [3], []], "pre", value=9), [[1, 2], [9, 3], [9, 9]])
    assert pad_sequences([[1]]).dtype == np.int32
    with pytest.raises(ValueError, match="padding is 'both'; expected 'post' or 'pre'"):
        pad_sequences([[1]], padding="both")
    with pytest.raises(ValueError, match="sequences is empty"):
        pad_sequences([])


def test_s17_text_dataset_gives_every_sequence_once_a_pass():
    _, _, X, Y = load_dataset("dinos", mode="line_by_line")
    dataset = TextDataset(X[:70], Y[:70], batch_size=32, seed=0)
    orders = []
    for _ in range(2):
        batches = list(dataset)
        assert [len(x) for x, _ in batches] == [32, 32, 6]
        assert len(dataset) == 3
        rows = [(tuple(a[a >= 0]), tuple(b[b >= 0])) for x, y in batches for a, b in zip(x, y, strict=True)]
        orders.append(rows)
        assert sorted(rows) == sorted((tuple(a), tuple(b)) for a, b in zip(X[:70], Y[:70], strict=True))
    assert orders[0] != orders[1]
    with pytest.raises(ValueError, match="X has 1 sequences and Y 2; expected as many"):
        TextDataset(X[:1], Y[:2])


def test_s20_a_padded_batch_has_the_gradients_of_its_sequences():
    _, tokenizer, X, Y = load_dataset("dinos", mode="line_by_line")
    V = tokenizer.vocab_size()
    rng = np.random.default_rng(0)
    parameters = {n: rng.standard_normal(p.shape) * 0.3 for n, p in initialize_lstm_parameters(9, V, V).items()}

    def gradients_of(x, y, m):
        a, logits, caches = lstm_forward(x, np.zeros((9, m)), parameters)
        loss, dy = compute_loss_and_grad(logits, y, reduction="sum")
        gradients = lstm_backwards(project_logit_grad_to_hidden(dy, parameters["Wy"]), caches)
        return loss, gradients | compute_output_layer_gradients(dy, a)

    ((x, y),) = TextDataset(X[:5], Y[:5], batch_size=5)
    loss, gradients = gradients_of(x, y, 5)
    each = [gradients_of(X[k], Y[k], 1) for k in range(5)]
    assert loss == pytest.approx(sum(of_one for of_one, _ in each), rel=1e-12)
    for name in parameters:
        want = sum(of_one[f"d{name}"] for _, of_one in each)
        np.testing.assert_allclose(gradients[f"d{name}"], want, rtol=1e-10, atol=1e-12)


def test_s13_sampling_draws_what_numpy_choice_draws():
    logits = np.random.default_rng(0).standard_normal((6, 1))
    for seed in range(20):
        got = sample_from_logits(logits, seed=seed)
        np.random.seed(seed)
        assert got == np.random.choice(6, p=softmax(logits).ravel())
    set_random_seed(3)
    drawn = [sample_from_logits(logits) for _ in range(5)], random.random()
    set_random_seed(3)
    assert drawn == ([sample_from_logits(logits) for _ in range(5)], random.random())


def test_s13_sampling_follows_the_probabilities():
    set_random_seed(0)
    logits = np.log([0.2, 0.5, 0.3])
    counts = np.bincount([sample_from_logits(logits) for _ in range(4000)])
    np.testing.assert_allclose(counts / 4000, [0.2, 0.5, 0.3], atol=0.03)
    assert sample_from_logits([[3.0]]) == 0  # a vocabulary of one
    with pytest.raises(ValueError, match=r"logits has shape \(3, 2\); expected \(V, 1\) or \(V,\)"):
        sample_from_logits(np.zeros((3, 2)))
    for bad in (np.nan, np.inf):
        with pytest.raises(ValueError, match="logits holds NaN or infinity"):
            sample_from_logits([0.0, bad])
    assert sample_from_logits([-np.inf, 0.0]) == 1


def test_s13_get_sample():
    assert get_sample([1, 0, 1], {0: "a", 1: "b"}) == "Bab"
    assert get_sample([], {}) == ""


def models():
    tokenizer = CharTokenizer().fit("abc\n")
    V, rng = tokenizer.vocab_size(), np.random.default_rng(0)
    rnn, lstm = initialize_rnn_parameters(6, V, V), initialize_lstm_parameters(6, V, V)
    for p in (*rnn.values(), *lstm.values()):
        p[...] = rng.standard_normal(p.shape)
    return tokenizer, rnn, lstm


def by_hand(tokenizer, parameters, start, temperature, max_length, seed):
    """Write with the step functions and numpy.random.choice."""
    lstm = "Wf" in parameters
    state = [np.zeros((6, 1))] * (2 if lstm else 1)
    columns = np.eye(tokenizer.vocab_size())[:, :, None]
    written, inputs = [], [columns[t] for t in tokenizer.texts_to_sequences(start)] or [columns[0] * 0]
    np.random.seed(seed)
    while len(written) < max_length and tokenizer.char_to_ix["\n"] not in written:
        for x in inputs:
            step = (lstm_cell_step if lstm else rnn_cell_step)(x, *state, parameters)
            state, logits = step[: len(state)], step[len(state)]
        p = softmax(logits, temperature).ravel()
        written.append(int(np.random.choice(len(p), p=p)))
        inputs = [columns[written[-1]]]
    return start + tokenizer.sequences_to_texts(written)


@pytest.mark.parametrize("start", ["", "ab", "xa"])
def test_s18_text_is_drawn_as_by_hand(start):
    tokenizer, rnn, lstm = models()
    ends = set()
    for seed in range(6):
        for generate, parameters in ((generate_text, rnn), (generate_text_lstm, lstm)):
            text = generate(parameters, tokenizer, start, temperature=0.7, max_length=12, seed=seed)
            assert text == by_hand(tokenizer, parameters, start, 0.7, 12, seed)
            assert text.startswith(start)
            assert "\n" not in text[:-1]
            ends.add(text.endswith("\n"))
    assert ends == {True, False}


def test_s18_temperature_0_is_greedy():
    tokenizer, rnn, lstm = models()
    for generate, parameters in ((generate_text, rnn), (generate_text_lstm, lstm)):
        greedy = generate(parameters, tokenizer, "a", temperature=0, max_length=8)
        assert greedy == generate(parameters, tokenizer, "a", temperature=0, max_length=8, seed=5)
        assert greedy == generate(parameters, tokenizer, "a", temperature=1e-310, max_length=8)
        assert generate(parameters, tokenizer, "a", max_length=0) == "a"


def test_s18_bad_input_is_named():
    tokenizer, rnn, lstm = models()
    with pytest.raises(ValueError, match=r"temperature is -1; expected 0 \(greedy\) or a positive number"):
        generate_text(rnn, tokenizer, temperature=-1)
    with pytest.raises(ValueError, match="max_length is -1; expected an integer of at least 0"):
        generate_text_lstm(lstm, tokenizer, max_length=-1)
    with pytest.raises(TextError, match="character 'x' is not in the vocabulary"):
        generate_text(rnn, CharTokenizer(None).fit("abc\n"), "x")


def test_s18_a_vocabulary_without_line_ends_or_of_one_character():
    tokenizer = CharTokenizer(None).fit("aaa")
    assert tokenizer.vocab_size() == 1
    assert generate_text(initialize_rnn_parameters(3, 1, 1), tokenizer, max_length=4) == "aaaa"
    loss, dy = compute_loss_and_grad(np.zeros((1, 2)), [0, 0])
    assert (loss, dy.any()) == (0.0, False)
