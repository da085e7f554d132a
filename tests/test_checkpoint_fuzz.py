"""Broken checkpoints: whatever is in a file, each use of it works or ends in one clear line."""

from __future__ import annotations

import json
import random
import re
import sys

import numpy as np
import pytest
from calls import Refusals
from safetensors.numpy import load, save

from fastrnn import cli
from fastrnn.errors import FastrnnError
from fastrnn.training import CheckpointError, Settings, TextError, Trainer, load_history, load_model

TEXT = "".join(random.Random(0).choices(["to ", "be ", "or ", "not ", "that", ",", "\n"], k=260)) + "\n"
KINDS = {
    "characters": {},
    "words": {"level": "word", "cell": "gru", "num_layers": 2, "dropout": 0.1, "min_count": 1},
    "adaptive": {"level": "word", "output": "adaptive", "hidden_size": 16, "optimizer": "sgd"},
    "lines": {"windows": "lines", "cell": "rnn", "optimizer": "rmsprop", "letters_only": True},
}
SMALL = Settings(hidden_size=6, seq_length=6, batch_size=3, evaluate_every=5, steps=12)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Of each kind, what a run of twelve steps saves."""
    files = {}
    for kind, options in KINDS.items():
        path = tmp_path_factory.mktemp(kind) / "checkpoint.safetensors"
        trainer = Trainer(TEXT, Settings(**({**SMALL.__dict__} | options)))
        list(trainer.run())
        trainer.save(path)
        files[kind] = path.read_bytes()
    return files


def parts(data):
    """Return tensors and metadata of a checkpoint."""
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return load(data), json.loads(header["__metadata__"]["fastrnn"])


def whole(tensors, metadata):
    """Return the file of tensors and metadata, which may be a text that is to stand there as it is."""
    text = metadata.encode(errors="replace").decode() if isinstance(metadata, str) else json.dumps(metadata)
    return save(tensors, metadata={"fastrnn": text})


def resume(path):
    trainer = Trainer.resume(path, TEXT, steps=14)
    list(trainer.run())


USES = {"resume": resume, "load_model": load_model, "load_history": load_history}


def poison(name, value):
    """Return what puts a value into the first tensor whose name begins so."""

    def change(tensors, metadata):
        (key, *_) = (key for key in sorted(tensors) if key.startswith(name))
        tensors[key] = tensors[key].copy()
        tensors[key].flat[-1] = value

    return change


def tensor(name, make):
    """Return what replaces the first tensor whose name begins so by what is made of it, None by nothing."""

    def change(tensors, metadata):
        (key, *_) = (key for key in sorted(tensors) if key.startswith(name))
        made = make(tensors.pop(key))
        if made is not None:
            tensors[key] = np.ascontiguousarray(made)

    return change


def entry(value, *names):
    """Return what sets an entry of the metadata."""

    def change(tensors, metadata):
        *before, last = names
        for name in before:
            metadata = metadata[name]
        metadata[last] = value

    return change


def without(name):
    """Return what removes all tensors whose name begins so, and the entry of the metadata."""

    def change(tensors, metadata):
        metadata.pop(name, None)
        for key in [key for key in tensors if key.startswith(f"{name}.")]:
            del tensors[key]

    return change


# What is changed, for which uses it is refused, and what the message says.
ALL, RUN, MODEL, HISTORY = tuple(USES), ("resume",), ("resume", "load_model"), ("resume", "load_history")
BROKEN = {
    "NaN in the best": (poison("best.", np.nan), MODEL, r"best\.\S+ holds NaN or infinity; expected numbers"),
    "infinity in the best": (poison("best.", -np.inf), MODEL, r"best\.\S+ holds NaN or infinity"),
    "NaN in the model": (poison("model.", np.nan), RUN, r"model\.\S+ holds NaN or infinity"),
    "NaN in the optimizer": (poison("optimizer.s", np.nan), RUN, r"optimizer\.\S+ holds NaN or infinity"),
    "NaN carried": (poison("carried.", np.nan), RUN, r"carried\.\S+ holds NaN or infinity"),
    "NaN in the history": (poison("history.loss", np.nan), HISTORY, r"history\.loss holds NaN or infinity"),
    "a held-out loss": (poison("history.held", np.inf), HISTORY, r"history\.held_out_loss holds NaN or infinity"),
    "steps that fall": (
        poison("history.eval", 3),
        HISTORY,
        r"history.evaluated_after holds \[ 5 10 3\]; expected rising",
    ),
    "a step to come": (poison("history.eval", 99), HISTORY, r"expected rising steps up to 12"),
    "no losses": (
        tensor("history.loss", lambda a: None),
        HISTORY,
        r"history: missing \['loss'\], unexpected \[\]",
    ),
    "a table of losses": (tensor("history.loss", lambda a: a[None]), HISTORY, r"history.loss has shape \(1, 12\)"),
    "losses of float32": (
        tensor("history.loss", np.float32),
        HISTORY,
        "history.loss has dtype float32; expected float64",
    ),
    "a shorter history": (tensor("history.loss", lambda a: a[:-1]), HISTORY, "expected rising steps up to 11"),
    "another number of steps": (poison("optimizer.steps", 3), RUN, "optimizer.steps is 3; expected 12"),
    "carried, another shape": (
        tensor("carried.h", lambda a: a[:, 1:]),
        RUN,
        r"carried.h has shape \(1, 2, 6\); expected",
    ),
    "carried, nothing": (without("carried"), RUN, r"carried: missing \['c', 'h'\], unexpected \[\]"),
    "carried, half": (tensor("carried.c", lambda a: None), RUN, r"carried: missing \['c'\], unexpected \[\]"),
    "a model of float64": (tensor("model.", np.float64), RUN, r"model.\S+ has dtype float64; expected float32"),
    "a best of integers": (
        tensor("best.", lambda a: a.astype(int)),
        MODEL,
        r"best.\S+ has dtype int64; expected float32",
    ),
    "no best": (without("best"), MODEL, "it has no best"),
    "no model": (without("model"), RUN, r"model: missing \['"),
    "no optimizer": (without("optimizer"), RUN, r"optimizer: missing \['"),
    "no history": (without("history"), HISTORY, r"history: missing \['"),
    "no settings": (without("settings"), MODEL, "it has no settings"),
    "no tokenizer": (without("tokenizer"), ("load_model",), "it has no tokenizer"),
    "no digest": (without("text_sha256"), RUN, "it has no text_sha256"),
    "a digest that is no text": (entry(5, "text_sha256"), RUN, "text_sha256 is 5; expected a text"),
    "no format": (without("format"), ALL, "its format is None; expected 1"),
    "settings that are a list": (entry([1], "settings"), MODEL, "must be a mapping, not list"),
    "an unknown setting": (entry(1, "settings", "wings"), MODEL, "unexpected keyword argument 'wings'"),
    "too many units": (
        entry(10**7, "settings", "hidden_size"),
        MODEL,
        r"layers and units are \(1, 6\); expected \(1, 10",
    ),
    "too many layers": (entry(10**7, "settings", "num_layers"), MODEL, r"layers and units are \(1, 6\); expected \(10"),
    "no units": (entry(None, "settings", "hidden_size"), MODEL, "hidden_size is None; expected an integer"),
    "a seed that is a text": (entry("x", "settings", "seed"), MODEL, "seed is 'x'; expected an integer"),
    "words that are numbers": (
        entry([1, 2], "tokenizer", "characters"),
        ("load_model",),
        r"characters is \[1, 2\]; expected a text \(str\)",
    ),
    "a tokenizer that is none": (entry("x", "tokenizer"), ("load_model",), "dictionary update sequence"),
    "a very long text": (entry("x" * 9999, "text_sha256"), (), ""),
    "very long characters": (
        entry("ba" * 9999, "tokenizer", "characters"),
        ("load_model",),
        "characters is a str of length 19998; expected at least one, distinct and sorted",
    ),
}


@pytest.mark.parametrize(("change", "refused", "message"), BROKEN.values(), ids=BROKEN)
def test_what_is_broken_is_named(checkpoints, tmp_path, change, refused, message):
    tensors, metadata = parts(checkpoints["characters"])
    change(tensors, metadata)
    path = tmp_path / "checkpoint.safetensors"
    path.write_bytes(whole(tensors, metadata))
    for name in refused:
        with pytest.raises(CheckpointError, match=message) as caught:
            USES[name](path)
        assert str(caught.value).startswith(f"{path} is not a usable checkpoint: ")
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 350 + len(str(path))


DEEP = "[" * 100_000
FILES = {
    "nothing": b"",
    "deep JSON": lambda tensors, _: whole(tensors, DEEP),
    "deep JSON with an end": lambda tensors, _: whole(tensors, DEEP + "]" * len(DEEP)),
    "JSON that is a number": lambda tensors, _: whole(tensors, "5"),
    "JSON that is cut off": lambda tensors, metadata: whole(tensors, json.dumps(metadata)[:-9]),
    "a header of deep JSON": (100_000).to_bytes(8, "little") + DEEP.encode(),
    "a header as long as the world": (2**63).to_bytes(8, "little") + b"{}",
    "another program's": lambda tensors, _: save(tensors),
}


@pytest.mark.parametrize("make", FILES.values(), ids=FILES)
@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_what_is_no_checkpoint_is_refused(checkpoints, tmp_path, make, use):
    path = tmp_path / "checkpoint.safetensors"
    path.write_bytes(make if isinstance(make, bytes) else make(*parts(checkpoints["characters"])))
    with pytest.raises(CheckpointError, match="is not a usable checkpoint: ") as caught:
        use(path)
    assert "\n" not in str(caught.value)


VALUES = [None, True, -1, 0, 1, 3, 2**31, 10**30, -(10**400), 0.5, 1.0, -0.0, 1e308, float("nan"), float("inf")]
VALUES += ["", "x", "lstm", "word", "char", "lines", "adaptive", "\ud800", "\0", [], [1], ["a", "b"], {}, {"a": [1]}]
NUMBERS = [np.nan, np.inf, -np.inf, 0, -1, 1e30, -3e38, 3e38, 1e-45, 255]


def mutate_value(value, rng):
    """Return a JSON value with something in it changed."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(sorted(value))
        changed = dict(value)
        fate = rng.random()
        if fate < 0.15:
            del changed[key]
        elif fate < 0.25:
            changed[rng.choice(["x", "", *value])] = value[key]
        else:
            changed[key] = mutate_value(value[key], rng)
        return changed
    if isinstance(value, str) and value and rng.random() < 0.5:
        at = rng.randrange(len(value))
        return value[:at] + rng.choice(["", "é", "\U0001f996", "\ud800", value[at:][::-1]]) + value[at + 1 :]
    if isinstance(value, list) and value and rng.random() < 0.7:
        at = rng.randrange(len(value))
        return rng.choice([value[:at], value[::-1], [*value, value[at]], [*value[:at], rng.choice(VALUES)]])
    return rng.choice(VALUES)


def mutate_tensor(array, rng):
    """Return an array with something in it changed, or None."""
    fate = rng.random()
    if fate < 0.4 and array.size:
        changed = array.copy()
        with np.errstate(all="ignore"):
            for _ in range(rng.choice([1, 1, 100])):
                changed.flat[rng.randrange(array.size)] = np.array(rng.choice(NUMBERS)).astype(array.dtype)
        return changed
    if fate < 0.5:
        with np.errstate(all="ignore"):
            return array.astype(rng.choice(["f2", "f4", "f8", "i1", "u2", "i8", "?"]))
    return rng.choice(
        [None, array[..., None], array.T, array.ravel(), array.ravel()[:-1], array.ravel()[:0], array[:1]]
    )


def mutation(data, rng):
    """Return a checkpoint in which the metadata, a tensor, the header or any bytes have changed."""
    fate = rng.random()
    if fate < 0.7:
        tensors, metadata = parts(data)
        tensors = dict(tensors)
        for _ in range(rng.choice([1, 1, 1, 2, 5])):
            if fate < 0.4:
                metadata = mutate_value(metadata, rng) if isinstance(metadata, dict) else metadata
            elif tensors:
                name = rng.choice(sorted(tensors))
                array = tensors.pop(name)
                changed = (
                    mutate_tensor(np.atleast_1d(array) if rng.random() < 0.3 else array[...], rng)
                    if array.ndim
                    else None
                )
                if changed is not None:
                    tensors[rng.choice([name] * 9 + ["model.x", "x", "."])] = np.ascontiguousarray(changed)
        return whole(tensors, metadata)
    changed = bytearray(data)
    size = 8 + int.from_bytes(data[:8], "little")
    for _ in range(rng.choice([1, 1, 2, 8])):
        at = rng.randrange(len(data)) if fate < 0.75 else rng.randrange(size)
        changed[at] = rng.choice([0, 255, 34, 44, 91, 123, 48, 57, changed[at] ^ 1 << rng.randrange(8)])
    if fate > 0.95:
        del changed[rng.randrange(len(changed)) :]
    return bytes(changed)


def try_out(checkpoints, tmp_path, monkeypatch, capsys, count):
    """Use mutations by function and by command; return how many were refused by each."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("fastrnn.cli.train.find_spec", lambda name: None)  # no picture: it takes long
    (tmp_path / "text.txt").write_text(TEXT, encoding="utf-8")
    (tmp_path / "run").mkdir()
    path = tmp_path / "run/checkpoint.safetensors"
    refused = dict.fromkeys([*USES, "train", "sample", "plot"], 0)
    commands = {
        "train": ["train", "text.txt", "--out", "run", "--resume", "--steps", "14"],
        "sample": ["sample", "run/checkpoint.safetensors", "--length", "20", "--seed", "1"],
        "plot": ["plot", "run/checkpoint.safetensors", "--out", "pictures"],
    }
    for number in range(count):
        rng = random.Random(number)
        data = mutation(checkpoints[rng.choice(sorted(checkpoints))], rng)
        path.write_bytes(data)
        for name, use in USES.items():
            refused[name] += raises_only_our_own(use, path)
        for name, arguments in commands.items():
            if name == "plot" and number % 16:
                continue  # so do these
            path.write_bytes(data)
            monkeypatch.setattr(sys, "argv", ["fastrnn", *arguments])
            with pytest.raises(SystemExit) as exit_:
                cli.main()
            err = capsys.readouterr().err
            assert (exit_.value.code, err.count("\n"), "Traceback" in err) in ((0, 0, False), (2, 1, False)), (
                number,
                err,
            )
            assert not err or re.match("fastrnn: .", err)
            refused[name] += bool(exit_.value.code)
            if name == "train" and exit_.value.code:
                assert path.read_bytes() == data or "last good state" in err
    return refused


def raises_only_our_own(use, path):
    """Return whether a use is refused; other errors than the package's own are the test's."""
    refusals = Refusals(FastrnnError, TextError)
    with refusals:
        use(path)
    return bool(refusals)


def test_mutations_work_or_are_refused(checkpoints, tmp_path, monkeypatch, capsys):
    refused = try_out(checkpoints, tmp_path, monkeypatch, capsys, 100)
    assert all(0 < count < 100 for count in refused.values()), refused


@pytest.mark.long
def test_many_mutations_work_or_are_refused(checkpoints, tmp_path, monkeypatch, capsys):
    try_out(checkpoints, tmp_path, monkeypatch, capsys, 5000)
