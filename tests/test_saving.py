"""fastrnn.save, fastrnn.load and `fastrnn info FILE`: everything comes back, or an error says what is wrong."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays
from tolerances import assert_same_bits

import fastrnn
from fastrnn import cli
from fastrnn.cells import LIBRARY, sigmoid, tanh
from fastrnn.training import (
    AdaptiveSoftmax,
    AttentionPool,
    CharModel,
    CheckpointError,
    Conv1d,
    Dropout,
    Embedding,
    LanguageModel,
    Last,
    LayerNorm,
    Linear,
    Pool,
    ReLU,
    Sequential,
    Settings,
    Sigmoid,
    Softmax,
    Tanh,
    Trainer,
    WordModel,
)


@fastrnn.cell(gates="f n", parameters={"rate": 0.5})
def own(a: Any, prev: Any, p: Any) -> Any:
    return prev.h + sigmoid(a.f) * (tanh(a.n) - p.rate * prev.h)


MODELS: dict[str, Callable[[], Any]] = {
    "rnn": lambda: fastrnn.RNN(3, 4, 2, "relu", dtype="float64"),
    "lstm": lambda: fastrnn.LSTM(3, 4, proj_size=2, bias=False, batch_first=True, bidirectional=True),
    "gru": lambda: fastrnn.GRU(3, 1, 2, dropout=0.1),
    "cells": lambda: fastrnn.RNNCell(3, 4, False, "relu"),
    "lstm cell": lambda: fastrnn.LSTMCell(3, 4, dtype="float64"),
    "gru cell": lambda: fastrnn.GRUCell(1, 1),
    "embedding": lambda: Embedding(9, 5, 0),
    "linear": lambda: Linear(9, 5, bias=False, dtype="float64"),
    "adaptive": lambda: AdaptiveSoftmax(16, 100, [5, 20], 2.0, True),
    "characters": lambda: CharModel(7, 8, 2, "gru", dropout=0.1),
    "words": lambda: WordModel(100, 32, 1, "slstm", cutoffs=[5, 20]),
    "own language model": lambda: LanguageModel(fastrnn.LSTM(5, 6), Linear(6, 9), Embedding(9, 5), 0.2),
    "norm": lambda: LayerNorm(3, eps=1e-3, bias=False),
    "convolution": lambda: Conv1d(3, 4, 5, causal=True, dtype="float64"),
    "attention": lambda: AttentionPool(3, 20, batch_first=True),
    "pooled": lambda: Sequential(Linear(3, 3), ReLU(), Sigmoid(), Tanh(), Softmax(), Pool("max", batch_first=True)),
    "nested": lambda: Sequential(
        {
            "embedding": Embedding(9, 5),
            "lower": Sequential(fastrnn.GRU(5, 6, bidirectional=True), Dropout(0.3)),
            "upper": Last(fastrnn.RNN(12, 5, batch_first=False)),
            "head": Linear(5, 3),
        }
    ),
    **{name: lambda cell=cell: fastrnn.Recurrent(cell, 3, 4, num_layers=2) for name, cell in LIBRARY.items()},
}


@pytest.mark.parametrize("name", MODELS)
def test_a_model_comes_back(tmp_path: Path, name: str) -> None:
    """Its class, its architecture, its parameters; and the same bytes when it is saved again."""
    model, path = MODELS[name](), tmp_path / "model.safetensors"
    fastrnn.save(model, path)
    again = fastrnn.load(path)
    assert type(again) is type(model)
    assert repr(again) == repr(model)
    assert " at 0x" not in repr(model)
    assert list(again.parameters) == list(model.parameters)
    for each, values in model.parameters.items():
        assert_same_bits(each, again.parameters[each], values)
    data = path.read_bytes()
    fastrnn.save(again, path)
    assert path.read_bytes() == data
    assert sorted(found.name for found in tmp_path.iterdir()) == ["model.safetensors"]


def test_a_model_computes_the_same_and_trains_on(tmp_path: Path) -> None:
    model = MODELS["nested"]()
    fastrnn.save(model, tmp_path / "model")
    again = fastrnn.load(tmp_path / "model")
    tokens, lengths = np.arange(8).reshape(4, 2), [4, 2]
    assert_same_bits("y", again(tokens, lengths), model(tokens, lengths))
    y, tape = again.forward(tokens, lengths)
    assert list(again.backward(tape, np.ones_like(y))[1]) == list(model.parameters)


def test_numbers_that_are_not_finite_are_kept(tmp_path: Path) -> None:
    model = Linear(2, 2, seed=0)
    model.parameters["bias"] = [np.nan, -np.inf]
    fastrnn.save(model, tmp_path / "model")
    assert_same_bits("bias", fastrnn.load(tmp_path / "model").parameters["bias"], model.parameters["bias"])


def test_a_cell_of_ones_own_is_given_again(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    model = Sequential({"rnn": fastrnn.Recurrent(own, 3, 4, seed=0), "other": fastrnn.Recurrent(LIBRARY["mgu"], 4, 2)})
    fastrnn.save(model, path)
    again = fastrnn.load(path, cells=[LIBRARY["slstm"], own])
    assert again.layers["rnn"].cell is own
    assert again.layers["other"].cell is LIBRARY["mgu"]
    message = "its cell 'own' is its author's own, and files hold no code; expected the cell again"
    with pytest.raises(CheckpointError, match=re.escape(message)):
        fastrnn.load(path, cells=[LIBRARY["slstm"]])


class Mine(Linear):
    """A class that no other program has."""


def test_what_is_not_ours_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    fastrnn.save(Linear(1, 1, seed=0), path)
    before = path.read_bytes()
    message = (
        "model.layers['mine'] is Mine(2, 2); expected a module of fastrnn, or a layer or model of fastrnn.training"
    )
    with pytest.raises(TypeError, match=re.escape(message)):
        fastrnn.save(Sequential({"mine": Mine(2, 2)}), path)
    with pytest.raises(TypeError, match="model is 3; expected a module of fastrnn"):
        fastrnn.save(3, path)
    assert path.read_bytes() == before


def altered(change: Callable[[Any, Any], Any]) -> Callable[[bytes], bytes]:
    """What rewrites a file's arrays and metadata."""

    def rewrite(data: bytes) -> bytes:
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        arrays, metadata = load_arrays(data), json.loads(header["__metadata__"]["fastrnn"])
        change(arrays, metadata)
        return save_arrays(arrays, metadata={"fastrnn": json.dumps(metadata)})

    return rewrite


def architecture(**changes: Any) -> Callable[[bytes], bytes]:
    return altered(lambda arrays, metadata: metadata["architecture"].update(changes))


DAMAGES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda data: b"", "deserializing"),
    "truncated in the header": (lambda data: data[:100], "deserializing"),
    "truncated": (lambda data: data[:-1], "deserializing"),
    "a text": (lambda data: b"To be, or not to be, that is the question.", "deserializing"),
    "another program's": (lambda data: save_arrays({"x": np.ones(3)}), "it was not written by fastrnn"),
    "a later version": (
        altered(lambda arrays, metadata: metadata.update(format=2)),
        "its format is 2, of a later version of fastrnn; expected 1 or less: upgrade fastrnn",
    ),
    "no architecture": (altered(lambda arrays, metadata: metadata.pop("architecture")), "it has no architecture"),
    "a kind of a later version": (architecture(**{"class": "Transformer"}), "which this version does not know"),
    "a part that is none": (
        altered(lambda arrays, metadata: metadata.update(architecture=3)),
        "a part of it is 3; expected the description of a layer",
    ),
    "an argument of a later version": (architecture(attention=True), "attention"),
    "more units than there is memory for": (
        architecture(hidden_size=10**9),
        "hidden_size of its GRU is 1000000000; expected at most",
    ),
    "other sizes": (architecture(hidden_size=5), "model.weight_ih_l0 has shape (12, 3); expected (15, 3)"),
    "another dtype": (architecture(dtype="float64"), "model.weight_ih_l0 has dtype float32; expected float64"),
    "an array less": (
        altered(lambda arrays, metadata: arrays.pop("model.bias_ih_l0")),
        "model: missing ['bias_ih_l0'], unexpected []",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_file_that_is_no_good_is_refused_in_a_line(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "model.safetensors"
    fastrnn.save(fastrnn.GRU(3, 4), path)
    change, message = DAMAGES[damage]
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(CheckpointError, match=re.escape(message)) as caught:
        fastrnn.load(path)
    assert str(caught.value).startswith(f"{path} is not a usable checkpoint: ")
    assert "\n" not in str(caught.value)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    text = "to be or not to be, " * 40
    trainer = Trainer(text, Settings(hidden_size=5, seq_length=6, batch_size=2, steps=4, cell=own, evaluate_every=2))
    list(trainer.run())
    trainer.save(tmp_path / "checkpoint.safetensors")
    return tmp_path / "checkpoint.safetensors"


def test_a_training_run_is_not_a_model(checkpoint: Path) -> None:
    with pytest.raises(CheckpointError, match=r"it is of a training run: use fastrnn\.training\.load_model"):
        fastrnn.load(checkpoint)


def test_info_describes_files(
    tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def info(path: Path) -> tuple[Any, str, str]:
        monkeypatch.setattr(sys, "argv", ["fastrnn", "info", str(path)])
        with pytest.raises(SystemExit) as exit_:
            cli.main()
        return exit_.value.code, *capsys.readouterr()

    fastrnn.save(Sequential({"rnn": Last(fastrnn.Recurrent(own, 3, 4)), "head": Linear(4, 2)}), tmp_path / "model")
    status, out, err = info(tmp_path / "model")
    lines = out.splitlines()
    assert (status, err) == (0, "")
    assert lines[:3] == ["a model that fastrnn.save wrote", "  Sequential()", "    rnn: Last()"]
    assert "cell=own (a cell of one's own), dropout=0.0" in lines[3]
    assert lines[3].startswith("      rnn: Recurrent(")
    assert "86 parameters in 7 arrays, 344 bytes" in lines
    assert "  rnn.weight_hh_l0  (8, 4)  float32" in lines

    for path in (checkpoint, checkpoint.parent):
        status, out, err = info(path)
        assert (status, err) == (0, "")
        assert out.startswith("a checkpoint of fastrnn train after 4 steps\n")
        assert "  cell: own (a cell of one's own)\n" in out
        assert re.search(r"^best: \d\.\d{3} bits per token, held out, after step \d$", out, re.MULTILINE)

    (tmp_path / "text").write_text("To be, or not to be, that is the question.")
    status, out, err = info(tmp_path / "text")
    assert (status, out) == (2, "")
    assert "text is not a usable checkpoint" in err
    assert info(tmp_path / "none")[0] == 2


SHOWN = """Sequential(
    embedding: Embedding(9, 5)
    lower: Sequential(
        0: GRU(5, 6, bidirectional=True)
        1: Dropout(p=0.3)
    )
    upper: Last(RNN(12, 5, nonlinearity='tanh'))
    head: Linear(5, 3)
)"""


def test_a_model_is_shown_as_it_is_made() -> None:
    assert repr(MODELS["nested"]()) == SHOWN
    assert repr(MODELS["own language model"]()) == (
        "LanguageModel(LSTM(5, 6), Linear(6, 9), embedding=Embedding(9, 5), dropout=0.2)"
    )
    assert repr(CharModel(7, 8, cell=own)) == "CharModel(7, 8, cell=own)"
    assert repr(Linear(9, 5, bias=False, dtype="float64")) == "Linear(9, 5, bias=False, dtype='float64')"
