"""Written cells in language models, in training runs, in checkpoints and in the command."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tolerances import assert_same_bits

import fastrnn
from fastrnn import cli
from fastrnn.cells import LIBRARY, min_gru, sigmoid, slstm, tanh
from fastrnn.training import (
    CharModel,
    CheckpointError,
    Settings,
    Trainer,
    WordModel,
    check_gradients,
    generate_text,
    load_model,
)
from fastrnn.training.plots import plot_gates, plot_hidden

TEXT = "the quick brown fox jumps over the lazy dog; " * 40
SMALL = Settings(hidden_size=7, seq_length=9, batch_size=4, evaluate_every=10, steps=20)


@fastrnn.cell(gates="f n", states="h s", parameters={"rate": 0.5})
def own(a: Any, prev: Any, p: Any) -> Any:
    f = sigmoid(a.f)
    s = f * prev.s + (1 - f) * tanh(a.n)
    return prev.h + p.rate * (s - prev.h), s


@fastrnn.cell(gates="f n", states="h s", parameters={"rate": 0.5})
def other(a: Any, prev: Any, p: Any) -> Any:
    return own(a, prev, p)


class Weighted:
    """A language model's loss as a layer whose only output is the loss, for differences."""

    def __init__(self, model: Any, targets: Any) -> None:
        self.model, self.targets = model, targets

    @property
    def parameters(self) -> Any:
        return self.model.parameters

    def forward(self, x: Any, lengths: Any = None, *, mask: Any = None, resets: Any = None) -> Any:
        loss, _, grads = self.model.gradients(x, self.targets, None, lengths, mask=mask, resets=resets)
        return np.array(loss), grads

    def backward(self, tape: Any, dy: Any) -> Any:
        return None, {name: grad * dy for name, grad in tape.items()}


@pytest.mark.parametrize("cell", [*LIBRARY, own], ids=lambda cell: getattr(cell, "name", cell))
def test_gradients_of_a_language_model(cell: Any) -> None:
    """With a mask and resets; a library's cell by name is the cell itself."""
    if isinstance(cell, fastrnn.cells.WrittenCell):
        model: Any = WordModel(6, 4, 2, cell, dtype="float64", seed=1)
    else:
        model = CharModel(6, 4, 1, cell, dtype="float64", seed=1)
        assert model.rnn.cell is LIBRARY[cell]
    rng = np.random.default_rng(0)
    for p in model.parameters.values():
        p += rng.uniform(-0.3, 0.3, p.shape)
    tokens, targets = rng.integers(0, 6, (2, 5, 3))
    mask, resets = rng.random((5, 3)) < 0.7, rng.random((5, 3)) < 0.3
    assert check_gradients(Weighted(model, targets), tokens, mask=mask, resets=resets, most=8).largest < 1e-5


@pytest.mark.parametrize("embedded", [False, True])
def test_a_mask_of_a_language_model_leaves_steps_out(embedded: bool) -> None:
    """Tokens and targets of these may be any; without a mask of theirs, resets are the same as two texts."""
    model: Any = WordModel(6, 4, seed=0) if embedded else CharModel(6, 4, seed=0)
    rng = np.random.default_rng(0)
    tokens, targets = rng.integers(0, 6, (2, 5, 3))
    mask = rng.random((5, 3)) < 0.6
    garbled = np.where(mask, tokens, 99), np.where(mask, targets, 99)
    loss, state, grads = model.gradients(tokens, targets, mask=mask)
    again, _, grads_again = model.gradients(*garbled, mask=mask)
    assert loss == again == model.loss(*garbled, mask=mask)[0]
    for name, grad in grads.items():
        assert_same_bits(name, grads_again[name], grad)

    resets = np.zeros((5, 3), bool)
    resets[2] = True
    parts = model.loss(tokens[:2], targets[:2])[0] * 2 + model.loss(tokens[2:], targets[2:])[0] * 3
    assert model.loss(tokens, targets, state, resets=resets)[0] != loss
    assert model.loss(tokens, targets, resets=resets)[0] == pytest.approx(parts / 5, rel=1e-6)


@pytest.mark.parametrize("cell", ["min_gru", slstm, own], ids=lambda cell: getattr(cell, "name", cell))
@pytest.mark.parametrize("windows", ["continuous", "lines"])
def test_a_run_goes_on_with_the_same_bits(cell: Any, windows: str, tmp_path: Path) -> None:
    settings = replace(SMALL, cell=cell, windows=windows, num_layers=2)
    text = TEXT.replace("; ", ";\n")
    whole, first = Trainer(text, settings), Trainer(text, replace(settings, steps=10))
    list(whole.run())
    list(first.run())
    path = tmp_path / "run.safetensors"
    first.save(path)
    second = Trainer.resume(path, text, steps=20, cell=cell)
    list(second.run())
    assert second.losses == whole.losses
    for name, p in whole.model.parameters.items():
        assert_same_bits(name, second.model.parameters[name], p)
    second.save(path)
    model, tokenizer = load_model(path, cell=None if cell == "min_gru" else cell)
    assert model.rnn.cell is whole.model.rnn.cell
    assert len(generate_text(model, tokenizer, "the", 5, seed=0)) == 8


def saved(path: Path, cell: Any) -> Path:
    trainer = Trainer(TEXT, replace(SMALL, cell=cell, steps=1))
    list(trainer.run())
    trainer.save(path)
    return path


def test_a_cell_of_the_library_is_saved_by_its_name(tmp_path: Path) -> None:
    assert Settings(cell=min_gru) == Settings(cell="min_gru")
    path = saved(tmp_path / "run.safetensors", min_gru)
    assert load_model(path)[0].rnn.cell is min_gru
    assert Trainer.resume(path, TEXT, cell=min_gru).step == Trainer.resume(path, TEXT, cell="min_gru").step == 1


@pytest.mark.parametrize(
    ("cell", "given", "message"),
    [
        (own, None, "its cell 'own' is its author's own, and files hold no code; expected the cell again: cell=own"),
        (own, other, "its cell is 'own', its author's own; expected that one, but cell is <cell other: gates f n"),
        (own, min_gru, "its cell is 'own', its author's own; expected that one, but cell is 'min_gru'"),
        ("min_gru", own, "its cell is 'min_gru'; expected no other, but cell is <cell own: gates f n, states h s>"),
        ("lstm", min_gru, "its cell is 'lstm'; expected no other, but cell is 'min_gru'"),
    ],
)
def test_another_cell_is_refused(tmp_path: Path, cell: Any, given: Any, message: str) -> None:
    path = saved(tmp_path / "run.safetensors", cell)
    with pytest.raises(CheckpointError, match=re.escape(f"{path} cannot be loaded so: {message}")):
        load_model(path, cell=given)


def test_resume_wants_the_cell_too(tmp_path: Path) -> None:
    path = saved(tmp_path / "run.safetensors", own)
    with pytest.raises(CheckpointError, match="files hold no code; expected the cell again: cell=own"):
        Trainer.resume(path, TEXT)
    path = saved(tmp_path / "run.safetensors", "min_gru")
    with pytest.raises(CheckpointError, match="has cell min_gru; it cannot go on with mgu"):
        Trainer.resume(path, TEXT, cell="mgu")


@pytest.mark.parametrize("cell", [{"own": 1}, 3, ["lstm"]])
def test_a_damaged_name_of_a_cell_is_told(tmp_path: Path, cell: Any) -> None:
    path = saved(tmp_path / "run.safetensors", "lstm")
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    metadata = json.loads(header["__metadata__"]["fastrnn"])
    metadata["settings"]["cell"] = cell
    header["__metadata__"]["fastrnn"] = json.dumps(metadata)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + size :])
    with pytest.raises(CheckpointError, match=r"is not a usable checkpoint: its cell is .*; expected a name"):
        load_model(path)


def test_the_command_trains_plots_and_samples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)

    def command(*arguments: str) -> tuple[Any, str, str]:
        monkeypatch.setattr(sys, "argv", ["fastrnn", *arguments])
        with pytest.raises(SystemExit) as exit_:
            cli.main()
        return exit_.value.code, *capsys.readouterr()

    status, out, err = command("train", "--cell", "slstm", "--hidden", "6", "--steps", "3", "--out", "run")
    assert (status, err) == (0, "")
    assert "Recurrent(slstm, " in out
    assert command("sample", "run", "--length", "5", "--seed", "1")[0] == 0
    assert command("plot", "run")[:2] == (0, "run/loss.png\nrun/hidden.png\nrun/gates.png\n")
    status, _, err = command("train", "--cell", "nope", "--out", "other")
    assert status == 2
    assert "cell is 'nope'; expected one of lstm, gru, rnn, peephole_lstm" in err


def test_gates_and_states_under_any_name_are_drawn(tmp_path: Path) -> None:
    labels, rng = list("abcd"), np.random.default_rng(0)
    inside = {name: rng.uniform(-3, 3, (4, 5)) for name in ("i", "of_x", "h", "s")}
    plot_gates(tmp_path / "gates.png", inside, labels, states=("h", "s"))
    plot_hidden(tmp_path / "hidden.png", inside, labels, states=("h", "s"))
    assert all((tmp_path / name).stat().st_size > 1000 for name in ("gates.png", "hidden.png"))
    with pytest.raises(ValueError, match="expected at least one gate"):
        plot_gates(tmp_path / "none.png", {"h": inside["h"], "s": inside["s"]}, labels, states=("h", "s"))
