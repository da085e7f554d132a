"""Writing text: what is drawn, from what distribution, and where it ends."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest

from fastrnn.training import (
    CharModel,
    CharTokenizer,
    Settings,
    TextError,
    Trainer,
    WordTokenizer,
    generate_text,
)
from fastrnn.training.sampling import choose_token, token_weights

WORDS = ["to", "be", "or", "not", "that", "is", "the", "question"]
TEXT = " ".join(random.Random(0).choices(WORDS, k=300))


@pytest.fixture(scope="module")
def trained():
    """A model after a short run, and its tokenizer."""
    trainer = Trainer(TEXT, Settings(hidden_size=12, seq_length=8, batch_size=4, steps=90))
    list(trainer.run())
    return trainer.model, trainer.tokenizer


def test_sampling_is_seeded(trained):
    model, tokenizer = trained
    first, again, other = (generate_text(model, tokenizer, "to ", 60, 1.0, seed) for seed in (3, 3, 4))
    assert first == again
    assert first != other
    assert first.startswith("to ")
    assert len(first) == 63


def test_sampling_carries_the_state(trained):
    """Greedy text is what the model predicts at every place when it reads that text at once."""
    model, tokenizer = trained
    text = generate_text(model, tokenizer, "be", 40, temperature=0)
    logits, _ = model(tokenizer.encode(text)[:, None])
    assert tokenizer.decode(logits[1:-1, 0].argmax(axis=1)) == text[2:]


def test_a_line_begins_as_the_first_does():
    """Without the state of the line before."""
    seen = []

    class Watched(CharModel):
        def __call__(self, x, state=None):
            seen.append((int(x[-1, 0]), state is None))
            return super().__call__(x, state)

    tokenizer = CharTokenizer("ab", by_line=True)
    generate_text(Watched(len(tokenizer), 4, seed=0), tokenizer, "", 30, seed=0)
    assert sum(token == tokenizer.start for token, _ in seen) > 2
    assert all((token == tokenizer.start) == anew for token, anew in seen)


@pytest.mark.parametrize("characters", ["\nab", "ab"])
def test_an_empty_prompt(characters):
    tokenizer = CharTokenizer(characters)
    model = CharModel(len(tokenizer), 4, seed=0)
    assert len(generate_text(model, tokenizer, "", 5, seed=0)) == 5
    assert generate_text(model, tokenizer, "", 0) == ""


@pytest.mark.parametrize("temperature", [0.25, 1.0, 3.0])
def test_tokens_are_drawn_from_the_softmax(temperature):
    rng = np.random.default_rng(0)
    logits = np.array([1.0, -2.0, 0.5, 3.0, -np.inf], np.float32)
    n = 20_000
    counts = np.bincount([choose_token(logits, temperature, rng) for _ in range(n)], minlength=5)
    p = np.exp(logits / temperature) / np.exp(logits / temperature).sum()
    assert (abs(counts - n * p) <= 5 * np.sqrt(n * p * (1 - p))).all()


@pytest.mark.parametrize("temperature", [0, 5e-324, 1e-3])
def test_low_temperatures_are_greedy(temperature):
    rng = np.random.default_rng(0)
    assert {choose_token(np.array([1.0, 2.0, 1.5]), temperature, rng) for _ in range(50)} == {1}


@pytest.mark.parametrize("temperature", [-1.0, math.nan])
def test_bad_temperatures(temperature):
    with pytest.raises(ValueError, match="temperature is"):
        choose_token(np.zeros(3), temperature, np.random.default_rng(0))


@pytest.mark.parametrize("temperature", [0, 1])
def test_a_model_that_has_diverged_writes_nothing(temperature):
    with pytest.raises(ValueError, match="logits holds NaN"):
        choose_token(np.array([0.0, math.nan]), temperature, np.random.default_rng(0))


@pytest.mark.parametrize("temperature", [0, 1])
@pytest.mark.parametrize("logits", [[0.0, math.inf], [-math.inf, -math.inf]])
def test_no_token_is_chosen_by_infinities(logits, temperature):
    with pytest.raises(ValueError, match="as its largest; expected a finite number"):
        choose_token(np.array(logits), temperature, np.random.default_rng(0))
    assert choose_token(np.array([-math.inf, 0.0]), temperature, np.random.default_rng(0)) == 1


BAD_PROMPTS = {"unknown character": ("to Z", 5, TextError, "'Z'"), "length": ("to", -1, ValueError, "length is -1")}


@pytest.mark.parametrize(("prompt", "length", "error", "message"), BAD_PROMPTS.values(), ids=BAD_PROMPTS)
def test_bad_prompts(trained, prompt, length, error, message):
    with pytest.raises(error, match=message):
        generate_text(*trained, prompt, length)


def filtered(logits, temperature, top_k, top_p):
    """The probabilities by the book: sort, cut, scale."""
    p = np.exp((logits - logits.max()) / temperature)
    p /= p.sum()
    kept = sorted(range(len(p)), key=lambda token: -p[token])
    kept = kept[: top_k or len(p)]
    if top_p is not None and top_p < 1:
        share = p[kept].cumsum() / p[kept].sum()
        kept = kept[: 1 + np.count_nonzero(share < top_p)]
    result = np.zeros_like(p)
    result[kept] = p[kept] / p[kept].sum()
    return result


@pytest.mark.parametrize("top_p", [None, 1e-9, 0.3, 0.9, 0.999, 1.0])
@pytest.mark.parametrize("top_k", [None, 1, 3, 40, 99])
@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
def test_what_is_kept_has_its_probability(temperature, top_k, top_p):
    logits = np.random.default_rng(1).normal(0, 3, 40)
    weights = token_weights(logits, temperature, top_k, top_p)
    np.testing.assert_allclose(weights / weights.sum(), filtered(logits, temperature, top_k, top_p), rtol=1e-12)
    assert weights.max() == 1


def test_equally_likely_tokens_are_kept_together():
    logits = np.array([0.0, 2.0, 1.0, 1.0, 1.0, -np.inf])
    for options in ({"top_k": 2}, {"top_p": 0.5}):
        assert token_weights(logits, **options).nonzero()[0].tolist() == [1, 2, 3, 4]


def test_greedy_takes_the_first_of_equals():
    assert token_weights(np.array([1.0, 3.0, 3.0]), 0).tolist() == [0, 1, 0]


def test_draws_follow_the_filtered_distribution():
    logits, n = np.array([1.0, 0.0, 0.5, 1.5, -3.0]), 10_000
    rng = np.random.default_rng(0)
    counts = np.bincount([choose_token(logits, 0.8, rng, 4, 0.9) for _ in range(n)], minlength=5)
    p = filtered(logits, 0.8, 4, 0.9)
    assert (p == 0).sum() == 2
    assert (abs(counts - n * p) <= 5 * np.sqrt(n * p * (1 - p))).all()


BAD_FILTERS = {"top_k": (0, -1), "top_p": (0.0, -0.5, 1.5, math.nan)}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in BAD_FILTERS.items() for value in values])
def test_bad_filters(name, value):
    with pytest.raises(ValueError, match=f"{name} is {value}; expected"):
        token_weights(np.zeros(3), **{name: value})


def test_s18_writing_stops_before_a_text(trained):
    whole = generate_text(*trained, "to ", 200, seed=5)
    stop = whole[40:42]
    assert generate_text(*trained, "to ", 200, seed=5, stop=stop) == whole[: 3 + whole[3:].index(stop)]


@pytest.mark.parametrize(("stop", "message"), [("Z", "'Z'"), ("", "stop is ''; expected characters")])
def test_bad_stops(trained, stop, message):
    with pytest.raises(TextError, match=message):
        generate_text(*trained, "to", 5, stop=stop)


def test_a_stop_is_of_known_words():
    tokenizer = WordTokenizer.fit("to be or not to be")
    with pytest.raises(TextError, match="stop is 'never'; expected words of the vocabulary"):
        generate_text(CharModel(len(tokenizer), 4, seed=0), tokenizer, "", 5, stop="never")


def test_the_unknown_is_never_written():
    for tokenizer in (CharTokenizer.fit("ab", oov=True), WordTokenizer.fit("a b")):
        model = CharModel(len(tokenizer), 4, seed=0)
        model.parameters["head.bias"][tokenizer.unknown] = 100
        for temperature in (0, 1):
            text = generate_text(model, tokenizer, "zebra", 30, temperature, seed=0)
            assert set(text.removeprefix("zebra")) <= set("ab ")


def test_a_vocabulary_of_one():
    assert generate_text(CharModel(1, 4, seed=0), CharTokenizer("a"), "", 5, top_k=3, top_p=0.5, seed=0) == "aaaaa"
