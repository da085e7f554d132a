"""The recipes do what they promise and draw it; the command that runs them; their gallery."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from fastrnn.cli.app import app
from fastrnn.demos import RECIPES, Report, load_recipe, memory, names, reuters_like

ROOT = Path(__file__).resolve().parents[1]
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Report]:
    """What a recipe reports, run at most once."""
    return cache(lambda name: load_recipe(name)(tmp_path_factory.mktemp(name), say=lambda line: None))


@pytest.mark.parametrize("name", ["anbn", "gates", "hidden", "vanishing", "names"])
def test_figures_and_pictures(report, name):
    figures, pictures = report(name)
    assert figures
    assert pictures
    for subject, value in figures.items():
        assert isinstance(value, str) or math.isfinite(value), subject
    for picture in pictures:
        assert picture.read_bytes().startswith(PNG)
        assert picture.stat().st_size > 10_000


def test_h1_to_h6_the_lstm_counts_further_than_it_was_shown(torch, report):
    figures = report("anbn").figures
    of_chance = figures["validation loss that chance leaves on average, nats per token"]
    for cell in ("RNN", "GRU", "LSTM"):
        assert abs(figures[f"{cell}: validation loss, nats per token"] - of_chance) < 0.02
        assert figures[f"{cell}: counts right up to n, having been shown 11"] >= 9
    assert figures["LSTM: counts right up to n, having been shown 11"] >= 12  # 12 to 60 with other seeds
    floor = figures["least loss there is in validation, nats per token"]
    assert floor < of_chance < figures["least loss there is in training, nats per token"]  # each set has its own
    assert all(value > floor for name, value in figures.items() if "validation loss" in name)
    ours = figures["LSTM: validation loss, nats per token"]
    assert abs(figures["torch's LSTM, same initial weights: validation loss"] - ours) < 0.02


def test_c2_the_hidden_state_holds_what_the_output_needs(report):
    figures = report("hidden").figures
    assert figures["test mean squared error"] < 0.01 * figures["variance of the targets"]


def test_c5_the_gates_hold_the_marked_value(report):
    figures = report("gates").figures
    assert figures["test mean squared error"] < 0.005
    at_marks, between = (figures[f"forget gate, mean over units, {where}"] for where in ("at marks", "between marks"))
    assert at_marks < 0.6 < 0.85 < between  # it holds


def test_c8_the_gradient_vanishes_in_the_rnn_first(report):
    rnn, lstm, opened = report("vanishing").figures.values()
    assert rnn < 1e-3 * lstm < 1e-6 < 0.1 < opened


def test_answers_without_memory_lose_what_the_picture_says():
    tokens, symbols = memory.copying(np.random.default_rng(0), 3)
    assert (tokens[: memory.COUNT] == symbols).all()
    assert (tokens[memory.COUNT :] == memory.SYMBOLS).sum() == 3 * (memory.DELAY + memory.COUNT - 1)
    assert (tokens[memory.COUNT + memory.DELAY - 1] == memory.SYMBOLS + 1).all()
    x, sums = memory.adding(np.random.default_rng(0), 20_000)
    assert (x[..., 1].sum(axis=0) == 2).all()
    np.testing.assert_allclose((x[..., 0] * x[..., 1]).sum(axis=0), sums[:, 0], rtol=1e-6)
    assert np.mean((sums - 1) ** 2) == pytest.approx(memory.ANSWERING_1, rel=0.02)


def test_five_cells_on_two_problems(tmp_path, monkeypatch):
    for name, value in {"DELAY": 2, "COUNT": 1, "STEPS": 4, "HIDDEN": 32, "UPDATES": 300}.items():
        monkeypatch.setattr(memory, name, value)
    said, again = [], []
    figures, (picture,) = memory.run(tmp_path, say=said.append)
    assert picture.read_bytes().startswith(PNG)
    for problem in ("copying", "adding"):
        losses = [figures.pop(f"{problem}: {name}") for name in ("RNN", "LSTM", "GRU", "LEM", "minGRU")]
        assert max(losses) < 0.5 * figures.pop(f"{problem}: without memory")
    assert not figures
    memory.run(tmp_path, say=again.append)
    assert said == again, "the same seed gives other numbers"


def test_a_token_that_never_comes_is_not_written(tmp_path, monkeypatch):
    monkeypatch.setattr(names, "EPOCHS", 1)
    monkeypatch.setattr(names, "EPOCHS_SINGLY", 1)
    said = []
    names.run(tmp_path, say=said.append, text="ab\nba\nabba\n" * 20)
    letters = set("".join(said[0].partition(": ")[2].split(", ")))
    assert letters <= set("ab")


def test_no_label_is_minus_zero(tmp_path, monkeypatch):
    labels = []
    for name in ("gates", "hidden"):
        module = import_module(f"fastrnn.demos.{name}")
        monkeypatch.setattr(module, "UPDATES", 1)
        monkeypatch.setattr(module, "draw_steps", lambda axes, series, its: labels.extend(its))
        monkeypatch.setattr(module, "legend_beside", lambda axes: None)
        module.run(tmp_path, say=lambda line: None)
    assert "+0.0" in labels
    assert not [label for label in labels if label.startswith("-0.0")]


def test_names_are_learned_both_ways(report):
    figures = report("names").figures
    assert figures["one at a time: training loss of the last epoch, nats per character"] < 1.8
    assert figures["in batches: held-out loss, nats per character"] < 1.8  # log 27 is 3.3
    assert figures["in batches: new among 100 made-up names"] > 80


def test_names_may_be_any_lines(tmp_path, monkeypatch):
    monkeypatch.setattr(names, "EPOCHS", 1)
    monkeypatch.setattr(names, "EPOCHS_SINGLY", 1)
    text = "".join(f"line {k} costs $x_{k}^$ {'and so on ' * (k % 40)}\n" for k in range(50)) + "\n" * 20
    _, pictures = names.run(tmp_path, say=lambda line: None, text=text)
    assert all(picture.read_bytes().startswith(PNG) for picture in pictures)


def test_n1_to_n3_characters_and_words_of_any_text(tmp_path, monkeypatch):
    small = {"hidden_size": 32, "seq_length": 20, "batch_size": 4, "steps": 40, "evaluate_every": 20, "max_words": 50}
    runs = {name: replace(settings, **small) for name, settings in reuters_like.RUNS.items()}
    monkeypatch.setattr(reuters_like, "RUNS", runs)
    said = []
    text = "The quick brown fox, No. 1, jumps over the lazy dog!\n" * 60
    figures, pictures = reuters_like.run(tmp_path, say=said.append, text=text)
    assert [line.split(":")[0] for line in said if "vocabulary" in line] == list(runs)
    assert said[0] == "characters, lower case: a vocabulary of 32. Before training it writes:"
    assert said[4] == "letters and blanks: a vocabulary of 27. Before training it writes:"
    assert figures["characters, lower case: held out, bits per character"] < math.log2(32)
    assert figures["letters and blanks: held out, bits per character"] < math.log2(27)
    assert figures["words: held out, bits per word"] < math.log2(16)
    assert [picture.name for picture in pictures] == ["losses.png", "hidden.png"]
    assert all(picture.read_bytes().startswith(PNG) for picture in pictures)


def test_the_command_prints_figures_and_draws(tmp_path):
    result = CliRunner().invoke(app, ["demo", "vanishing", "--out", str(tmp_path / "new"), "--seed", "3"])
    assert result.exit_code == 0, result.output
    assert "norm 50 steps back" in result.output
    assert (tmp_path / "new" / "vanishing.png").read_bytes().startswith(PNG)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nonsense"], "'nonsense' is not one of 'anbn'"),
        (["vanishing", "--text", "x.txt"], "the recipe vanishing takes no --text."),
        (["names", "--text", "missing.txt"], "missing.txt"),
        (["vanishing", "--seed", "-1"], "-1 is not in the range"),
        (["anbn", "--seed", str(2**32)], "4294967296 is not in the range"),
    ],
)
def test_bad_arguments(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["demo", *arguments])
    assert result.exit_code != 0
    assert message in result.output + str(result.exception)
    assert not list(tmp_path.iterdir())


def test_without_matplotlib_nothing_is_trained(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("fastrnn.cli.options.find_spec", lambda name: None)
    result = CliRunner().invoke(app, ["demo", "gates"])
    assert (result.exit_code, result.output) == (1, "Error: pictures need matplotlib: pip install matplotlib\n")
    assert not list(tmp_path.iterdir())


def test_an_unknown_recipe():
    with pytest.raises(ValueError, match="name is 'x'; expected one of anbn, "):
        load_recipe("x")


def test_the_gallery_shows_every_recipe():
    gallery = (ROOT / "docs" / "gallery.md").read_text()
    for name in RECIPES:
        assert f"fastrnn demo {name}" in gallery
        pictures = list((ROOT / "docs" / "gallery" / name).glob("*.png"))
        assert pictures
        assert all(f"gallery/{name}/{picture.name}" in gallery for picture in pictures)
