"""What a training run is where nobody says: from the text, the cores, the minutes, and what is given."""

from __future__ import annotations

import itertools
import random
import re
import sys
from dataclasses import replace

import numpy as np
import pytest
from tolerances import assert_same_bits

from fastrnn import cli
from fastrnn.training import Settings, Trainer, choose_settings, dinosaur_text, load_model
from fastrnn.training.checkpoint import read_checkpoint, write_checkpoint
from fastrnn.training.defaults import CORE, TextKind, inspect_text
from fastrnn.training.text import Text, split_blocks

WORDS = ["to", "be", "or", "not", "that", "is", "the", "question", "whether", "nobler", "in", "mind", "suffer"]


def verses(count: int, words: int = 6, blank_every: int = 0) -> str:
    rng = random.Random(0)
    lines = [" ".join(rng.choices(WORDS, k=words)) for _ in range(count)]
    return "".join(f"{line}\n" + "\n" * (blank_every and not k % blank_every) for k, line in enumerate(lines, 1))


@pytest.mark.parametrize(
    ("text", "is_list"),
    [
        (dinosaur_text(), True),
        (verses(60, words=3), True),
        (verses(60, words=4), False),
        (verses(60), False),
        (verses(60, words=2, blank_every=3), False),
        (verses(15, words=1), False),  # too few to tell
        ("x" * 65 + "\n", False),
        ("\n".join("x" * (30 + 5 * (k % 7)) for k in range(60)), True),  # molecules, sequences: one word a line
        ("\n".join("x" * (30 + 7 * (k % 9)) for k in range(60)), False),  # a language without blanks
        ("", False),
    ],
    ids=["names", "3 words", "4 words", "verses", "stanzas", "few", "one", "words", "long words", "nothing"],
)
def test_a_text_of_short_lines_is_a_list(text, is_list):
    assert inspect_text(text).is_list is is_list


def test_a_text_in_pieces_is_of_the_same_kind():
    text = verses(3000)
    assert inspect_text(Text([text[:777], text[777:]])) == inspect_text(text)
    assert inspect_text(text) == TextKind(len(text), 3000, pytest.approx(len(text) / 3000), False)


def test_only_the_beginning_of_a_large_text_is_looked_at(monkeypatch):
    monkeypatch.setattr("fastrnn.training.defaults.SEEN", 500)
    kind = inspect_text(dinosaur_text() + verses(3000))
    assert (kind.characters, kind.is_list) == (len(dinosaur_text() + verses(3000)), True)


def size(settings: Settings) -> int:
    return settings.num_layers * settings.hidden_size**2


def test_larger_texts_and_more_time_have_larger_models_and_less_dropout():
    texts = [verses(count) for count in (100, 1000, 10_000)]
    of_texts = [choose_settings(text, num_threads=2) for text in texts]
    assert all(size(small) < size(large) for small, large in itertools.pairwise(of_texts))
    assert all(small.dropout >= large.dropout for small, large in itertools.pairwise(of_texts))
    assert {settings.windows for settings in of_texts} == {"continuous"}
    of_cores = [choose_settings(texts[-1], num_threads=cores) for cores in (1, 8)]
    assert size(of_cores[0]) < size(of_cores[1])
    fixed = [choose_settings(texts[-1], num_threads=cores, num_layers=2, hidden_size=2048) for cores in (1, 4)]
    assert fixed[1].steps == pytest.approx(4 * fixed[0].steps, rel=0.1)


def test_a_small_text_is_read_thirty_times_at_most():
    settings = choose_settings(dinosaur_text(), num_threads=8)
    trainer = Trainer(dinosaur_text(), settings)
    assert settings.windows == "lines"
    assert trainer.total_steps / trainer.steps_per_epoch == pytest.approx(30, rel=0.1)
    assert settings.evaluate_every * settings.patience < settings.steps / 2


def test_what_is_given_is_kept_and_the_rest_suits_it():
    text = verses(1000)
    given = {"hidden_size": 20, "num_layers": 2, "batch_size": 3, "seq_length": 9, "windows": "lines", "seed": 4}
    settings = choose_settings(text, **given, split="end", optimizer="sgd")
    assert {name: getattr(settings, name) for name in given} == given
    assert (settings.split, settings.learning_rate) == ("end", 1.0)
    assert choose_settings(text, steps=7).steps == 7
    assert choose_settings(text, steps=7).warmup == 0
    assert choose_settings(text, steps=7, dropout=0.2, patience=3, evaluate_every=2).dropout == 0.2
    long, short = (choose_settings(text, num_threads=1, epochs=epochs) for epochs in (40, 2))
    assert (long.epochs, short.epochs) == (40, 2)
    assert long.dropout > short.dropout
    fast, slow = (choose_settings(verses(10_000), num_threads=1, hidden_size=units) for units in (256, 2048))
    assert fast.steps > 10 * slow.steps


def test_minutes_are_as_many_steps_as_fit(monkeypatch):
    seconds = {"a step": 0.01}
    monkeypatch.setattr("fastrnn.training.defaults._time_step", lambda *arguments: seconds["a step"])
    text = verses(30_000)
    fixed = {"hidden_size": 64, "num_layers": 1, "num_threads": 1}
    assert choose_settings(text, minutes=0.5, **fixed).steps == 3000
    assert choose_settings(text, minutes=0.25, **fixed).steps == 1500
    seconds["a step"] = 0.02
    assert choose_settings(text, minutes=0.5, **fixed).steps == 1500
    assert choose_settings(text, minutes=1e-9, **fixed).steps == 1
    ample = [choose_settings(text, minutes=minutes, **fixed) for minutes in (1e9, 1e300)]
    assert ample[1] == replace(ample[0], minutes=1e300)


def test_a_slow_machine_has_a_smaller_model(monkeypatch):
    timed = []

    def step(settings, length, *rest):
        timed.append(size(settings))
        return 20 * 6 * settings.batch_size * length * 4 * size(settings) / CORE  # a twentieth of what is expected

    monkeypatch.setattr("fastrnn.training.defaults._time_step", step)
    settings = choose_settings(verses(30_000), minutes=5, num_threads=1)
    assert len(timed) == 2
    assert size(settings) == timed[1] < timed[0]


def test_steps_are_timed_on_this_machine():
    settings = choose_settings(dinosaur_text(), minutes=0.01, num_threads=1)
    assert settings.minutes == 0.01
    assert 1 <= settings.steps < 1200


@pytest.mark.parametrize("minutes", [0, -1, float("nan"), float("inf"), 10**400])
def test_minutes_are_positive(minutes):
    with pytest.raises(ValueError, match=r"minutes is .*; expected a positive number of minutes"):
        choose_settings(TEXT, minutes=minutes)


@pytest.mark.parametrize("name", ["steps", "epochs"])
def test_minutes_and_steps_exclude_each_other(name):
    with pytest.raises(ValueError, match=f"minutes is 2 and {name} is 5; expected one of them"):
        choose_settings(TEXT, minutes=2, **{name: 5})
    with pytest.raises(ValueError, match="minutes is -1; expected a positive number"):
        Settings(minutes=-1)


TEXT = verses(400)


@pytest.mark.parametrize("n", [10, 997, 5000, 300_000])
def test_blocks_are_a_partition(n):
    tokens = np.arange(n)
    train, held_out = split_blocks(tokens, 0.1, 3)
    assert np.sort(np.concatenate([train, held_out])).tolist() == tokens.tolist()
    assert len(held_out) == pytest.approx(n / 10, rel=0.1)
    assert (np.diff(train) > 0).all()
    assert (np.diff(held_out) > 0).all()
    assert (np.diff(held_out) > 1).any() or n < 20_000  # of more than one block
    assert not np.array_equal(held_out, split_blocks(tokens, 0.1, 4)[1])


def test_blocks_end_where_lines_end():
    tokens = np.random.default_rng(0).integers(0, 40, 20_000)
    train, held_out = split_blocks(tokens, 0.1, 0, end=7)
    lines = sorted(tuple(part) for part in np.split(tokens, np.flatnonzero(tokens == 7) + 1))
    left = [np.split(part, np.flatnonzero(part == 7) + 1) for part in (train, held_out)]
    assert sorted(tuple(line) for line in [*left[0], *left[1]] if len(line)) == [line for line in lines if line]


def test_of_a_stream_blocks_are_held_out():
    settings = choose_settings(TEXT, steps=1)
    trainer = Trainer(TEXT, settings)
    tokens = trainer.tokenizer.encode(TEXT)
    train, held_out = split_blocks(tokens, 0.1, 0, trainer.tokenizer.start)
    assert trainer._train.batch(0).inputs[:, 0].tolist() == train[: len(trainer._train.batch(0).inputs)].tolist()
    assert trainer._held_out.batch(0).inputs[:5, 0].tolist() == held_out[:5].tolist()
    assert held_out[-1] != tokens[-1] or not np.array_equal(held_out, tokens[-len(held_out) :])


def test_a_run_with_what_was_chosen_goes_on_in_every_bit(tmp_path):
    settings = choose_settings(TEXT, minutes=0.002, num_threads=1, hidden_size=16, evaluate_every=5)
    whole, part = (Trainer(TEXT, replace(settings, steps=20)) for _ in range(2))
    list(whole.run())
    records = part.run()
    while part.step < 11:
        next(records)
    part.save(tmp_path / "part")
    resumed = Trainer.resume(tmp_path / "part", TEXT, minutes=0.002)
    list(resumed.run())
    assert resumed.settings == whole.settings
    assert resumed.evaluations == whole.evaluations
    for name, p in whole.model.parameters.items():
        assert_same_bits(name, resumed.model.parameters[name], p)


def test_characters_may_be_vectors(tmp_path):
    small = {"hidden_size": 7, "seq_length": 8, "batch_size": 4, "evaluate_every": 5, "steps": 10, "dropout": 0.3}
    trainers = [Trainer(TEXT, Settings(**small, embedding=embedding)) for embedding in (True, False)]
    assert [trainer.model.embedding is not None for trainer in trainers] == [True, False]
    list(trainers[0].run())
    trainers[0].save(tmp_path / "vectors")
    model, tokenizer = load_model(tmp_path / "vectors")
    assert model.parameters["embedding.weight"].shape == (len(tokenizer), 7)
    for name, p in trainers[0].best.items():
        assert_same_bits(name, model.parameters[name], p)


def test_a_checkpoint_of_before_holds_the_end_out(tmp_path):
    small = {"hidden_size": 7, "seq_length": 8, "batch_size": 4, "evaluate_every": 5}
    trainer = Trainer(TEXT, Settings(**small, steps=10))
    list(trainer.run())
    trainer.save(tmp_path / "now")
    groups, metadata = read_checkpoint(tmp_path / "now")
    for name in ("split", "minutes", "embedding"):  # which it did not know
        del metadata["settings"][name]
    del metadata["format"]
    write_checkpoint(tmp_path / "before", groups, metadata)
    assert load_model(tmp_path / "before")[0].hidden_size == 7
    resumed = Trainer.resume(tmp_path / "before", TEXT)
    assert resumed.settings == trainer.settings
    assert resumed.settings.split == "end"


def test_the_command_says_what_it_has_chosen(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    told = {}
    for name, options in {
        "a list": ["--minutes", "0.001"],
        "a stream": ["--windows", "continuous", "--steps", "2"],
    }.items():
        monkeypatch.setattr(sys, "argv", ["fastrnn", "train", "--threads", "1", *options, "--out", name])
        with pytest.raises(SystemExit) as end:
            cli.main()
        assert end.value.code == 0
        told[name] = " ".join(capsys.readouterr().out.split())
    chosen = Trainer.resume("a list/checkpoint.safetensors", dinosaur_text()).settings
    assert (chosen.windows, chosen.split, chosen.minutes) == ("lines", "drawn", 0.001)
    assert f"model an embedding, LSTM({chosen.hidden_size}, {chosen.hidden_size}" in told["a list"]
    plan = (
        f"plan 32 lines at a time, dropout {chosen.dropout:g}, adam at {chosen.learning_rate:g}, falling as a cosine;"
    )
    assert f"{plan} {chosen.steps} steps at most, " in told["a list"]
    assert " readings, for 0.001 minutes" in told["a list"]
    assert re.search(r"plan \d+ rows of 64 characters, .*; 2 steps at most, [\d.]+ readings", told["a stream"])
