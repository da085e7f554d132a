"""The recipes hello, sine and sentiment: their figures, and sine beside torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from tolerances import assert_close

from fastrnn.demos import Report, hello, sentiment, sine


def assert_drawn(report: Report, *names: str) -> None:
    assert [picture.name for picture in report.pictures] == list(names)
    for picture in report.pictures:
        assert picture.read_bytes().startswith(b"\x89PNG"), picture


def test_c3_hello_world_is_learned_by_heart(tmp_path: Path) -> None:
    lines: list[str] = []
    report = hello.run(tmp_path, say=lines.append)
    V, E, H = 8, hello.EMBEDDING, hello.HIDDEN
    assert report.figures["parameters"] == V * E + H * E + H * H + 2 * H + V * H + V
    assert report.figures["right predictions"] == "10 of 10"
    assert lines[-10:] == [f"{x!r} -> {y!r} ({y!r})" for x, y in zip("hello worl", "ello world", strict=True)]
    assert_drawn(report, "hello.png")


def test_c6_waves_are_sines_and_targets_their_next_values() -> None:
    inputs, targets = sine.generate_sine_data(200, 30, noise=0.0, seed=1)
    assert inputs.shape == targets.shape == (200, 30, 1)
    assert inputs.dtype == targets.dtype == np.float32
    assert (inputs[1:] == targets[:-1]).all()
    # x[t + 1] + x[t - 1] = 2 cos(2 pi f) x[t] where x is a sine of frequency f
    middle, around = inputs[1:], targets[1:] + inputs[:-1]
    cosine = (around * middle).sum(axis=0) / (2 * middle**2).sum(axis=0)
    assert_close("x", around, 2 * cosine * middle, 1e-5)
    period = 2 * np.pi / np.arccos(cosine)
    assert 11.9 < period.min() < 15
    assert 40 < period.max() < 61
    noisy, _ = sine.generate_sine_data(200, 30, noise=0.1, seed=1)
    assert abs((noisy - inputs).std() - 0.1) < 0.005


def test_c6_the_test_loss_is_as_low_as_torchs(torch: ModuleType) -> None:
    """From the same parameters on the same batches, it is the same but for rounding."""
    data, test = sine.generate_sine_data(50, 150, seed=1), sine.generate_sine_data(50, 40, seed=2)
    model = sine.make_model(3)
    start = model.state_dict()
    threads = torch.get_num_threads()
    ours = [test_loss for _, test_loss in sine.train(model, data, test, epochs=6, seed=4)]
    theirs = sine.train_torch(start, data, test, epochs=6, seed=4)
    np.testing.assert_allclose(ours, theirs, rtol=1e-4)
    assert ours[-1] < 0.99 * ours[0], "nothing is learned"
    assert torch.get_num_threads() == threads


def test_c6_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, torch: ModuleType) -> None:
    for name, value in {"EPOCHS": 2, "TRAIN": 64, "TEST": 10}.items():
        monkeypatch.setattr(sine, name, value)
    report = sine.run(tmp_path, say=lambda line: None)
    np.testing.assert_allclose(report.figures["test mean squared error"], report.figures["the same in torch"], 1e-4)
    assert_drawn(report, "sine.png")


def test_c7_every_sentence_is_told_right_whatever_its_padding(tmp_path: Path) -> None:
    report = sentiment.run(tmp_path, say=lambda line: None)
    assert report.figures["test accuracy"] == 1
    assert report.figures["unseen sentences, right"] == "4 of 4"
    assert report.figures["largest change of a logit by 100 more steps of padding"] == 0
    assert_drawn(report, "sentiment.png")


def test_c7_most_words_decide() -> None:
    sentences, good = sentiment.generate_sentences(500, seed=3)
    for sentence, label in [*zip(sentences, good, strict=True), *sentiment.UNSEEN.items()]:
        words = sentence.split()
        kinds = [word in sentiment.GOOD for word in words]
        assert all(known or word in sentiment.BAD for known, word in zip(kinds, words, strict=True))
        assert label == (sum(kinds) > len(words) / 2)
        assert len(words) in sentiment.LENGTHS
    assert 0.4 < good.mean() < 0.6
    assert not sentiment.UNSEEN.keys() & set(sentences)


@pytest.mark.parametrize("run", [hello.run, sentiment.run])
def test_the_seed_decides_the_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Callable[..., Report]
) -> None:
    monkeypatch.setattr(hello, "EPOCHS", 20)
    monkeypatch.setattr(sentiment, "EPOCHS", 1)
    said: list[list[str]] = []
    for seed in (1, 1, 2):
        said.append([])
        report = run(tmp_path, seed=seed, say=said[-1].append)
        said[-1] += map(str, report.figures.values())
    assert said[0] == said[1] != said[2]
