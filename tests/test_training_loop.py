"""The character model, its training loop, checkpoints and the picture."""

from __future__ import annotations

import errno
import json
import math
import os
import random
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.numpy import load, save
from tolerances import assert_close, assert_same_bits, tolerance
from watched import run_watched

import fastrnn
from fastrnn.cells import library
from fastrnn.training import (
    AdaptiveSoftmax,
    CharModel,
    CheckpointError,
    DivergenceError,
    Evaluation,
    Linear,
    Settings,
    Step,
    TextError,
    Trainer,
    Windows,
    WordModel,
    cross_entropy,
    load_model,
    pad,
    plot_losses,
    split_tail,
)
from fastrnn.training.files import write_atomically
from fastrnn.training.model import LanguageModel
from fastrnn.training.settings import OPTIMIZERS

CELLS = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU, "rnn": torch.nn.RNN}
each_cell = pytest.mark.parametrize("cell", CELLS)

WORDS = ["to", "be", "or", "not", "that", "is", "the", "question"]
TEXT = " ".join(random.Random(0).choices(WORDS, k=300))
SETTINGS = Settings(hidden_size=12, seq_length=8, batch_size=4, steps=90, evaluate_every=20)


@pytest.fixture(autouse=True)
def one_torch_thread():
    """Two threads on products this small only wait for each other, seconds long on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Twin(torch.nn.Module):
    """What a CharModel is in torch."""

    def __init__(self, model, cell):
        super().__init__()
        vocabulary, hidden_size = model.head.out_features, model.head.in_features
        dtype = getattr(torch, model.head.dtype.name)
        self.rnn = CELLS[cell](vocabulary, hidden_size, model.rnn.num_layers, dtype=dtype)
        self.head = torch.nn.Linear(hidden_size, vocabulary, dtype=dtype)
        self.one_hot = torch.eye(vocabulary, dtype=dtype)
        self.load_state_dict({name: torch.from_numpy(p) for name, p in model.state_dict().items()})

    def forward(self, tokens, state=None):
        y, state = self.rnn(self.one_hot[torch.from_numpy(tokens)], state)
        return self.head(y), state

    def loss(self, logits, targets):
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), torch.from_numpy(targets).flatten())


@each_cell
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_model_and_gradients_equal_torch(cell, dtype):
    rng = np.random.default_rng(0)
    model = CharModel(11, 7, 2, cell, dtype=dtype)
    model.load_state_dict({name: rng.uniform(-0.7, 0.7, p.shape) for name, p in model.parameters.items()})
    twin = Twin(model, cell)
    tokens, targets = rng.integers(0, 11, (2, 9, 3))
    states = rng.standard_normal((2, 2, 3, 7)).astype(dtype)
    state = tuple(states) if cell == "lstm" else states[0]
    torch_state = tuple(map(torch.from_numpy, states)) if cell == "lstm" else torch.from_numpy(states[0])

    logits, state_n, tape = model.forward(tokens, state)
    loss, dlogits = cross_entropy(logits, targets)
    grads = model.backward(tape, dlogits)

    logits_twin, state_n_twin = twin(tokens, torch_state)
    loss_twin = twin.loss(logits_twin, targets)
    loss_twin.backward()
    length = 9 * (7 + 11 + 2) * 2
    assert loss == pytest.approx(loss_twin.item(), rel=1e-12 if dtype == "float64" else 1e-5)
    pairs = {"logits": (logits, logits_twin)} | {name: (grads[name], p.grad) for name, p in twin.named_parameters()}
    pairs |= {f"state {k}": pair for k, pair in enumerate(zip(state_n, state_n_twin, strict=True))}
    assert grads.keys() == model.parameters.keys() == dict(twin.named_parameters()).keys()
    for name, (got, want) in pairs.items():
        want_array = want.detach().numpy()
        assert_close(name, got, want_array, tolerance(want_array, dtype, length + 9 * 3))
    assert_same_bits("logits", model(tokens, state)[0], logits)


@each_cell
def test_loop_is_truncated_bptt_with_carried_state(cell):
    settings = replace(SETTINGS, cell=cell, num_layers=2)
    trainer = Trainer(TEXT, settings)
    twin = Twin(trainer.model, cell)
    optimizer = torch.optim.Adam(twin.parameters(), settings.learning_rate)
    train, held_out = split_tail(trainer.tokenizer.encode(TEXT), settings.held_out)
    windows = Windows(train, settings.batch_size, settings.seq_length)

    records = list(trainer.run())

    losses, state = [], None
    for step in range(settings.steps):
        window = step % len(windows)
        inputs, targets = windows[window]
        logits, state = twin(inputs, state if window else None)
        state = tuple(s.detach() for s in state) if cell == "lstm" else state.detach()
        loss = twin.loss(logits, targets)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(twin.parameters(), settings.clip)
        optimizer.step()
        losses.append(loss.item())
    assert len(windows) < settings.steps / 2  # the text is read more than once
    assert trainer.losses == pytest.approx(losses, abs=2e-3)
    inputs, targets = Windows(held_out, 1, len(held_out) - 1)[0]
    assert records[-1].loss == pytest.approx(twin.loss(twin(inputs)[0], targets).item(), abs=5e-3)


def test_records():
    trainer = Trainer(TEXT, SETTINGS)
    records = list(trainer.run())
    steps = [record for record in records if isinstance(record, Step)]
    evaluations = [record for record in records if isinstance(record, Evaluation)]
    assert [record.step for record in steps] == list(range(1, 91))
    assert [record.loss for record in steps] == trainer.losses
    assert [record.step for record in evaluations] == [20, 40, 60, 80, 90]
    assert evaluations == trainer.evaluations
    assert all(record.bits == pytest.approx(record.loss / math.log(2)) for record in records)
    per_epoch = sum(record.tokens for record in steps[: trainer.steps_per_epoch])
    assert len(TEXT) * 0.9 - 2 * SETTINGS.batch_size < per_epoch < len(TEXT) * 0.9
    assert all(record.seconds > 0 for record in steps)
    assert evaluations[-1].bits < steps[0].bits - 1
    assert list(trainer.run()) == []


def test_epochs_stand_for_steps():
    trainer = Trainer(TEXT, replace(SETTINGS, epochs=2))
    assert trainer.total_steps == 2 * trainer.steps_per_epoch
    assert sum(isinstance(record, Step) for record in trainer.run()) == trainer.total_steps


def test_the_seed_decides_every_number():
    first, again, other = (Trainer(TEXT, replace(SETTINGS, seed=seed)) for seed in (1, 1, 2))
    for trainer in (first, again, other):
        list(trainer.run())
    assert first.losses == again.losses
    assert first.evaluations == again.evaluations
    assert first.losses != other.losses


# How many records to take before breaking off: in mid-epoch, with the evaluation of step 20 still due, just after it,
# at the end of the first epoch (with the evaluation of 20 come before it), and before anything.
BREAKS = {"in mid-epoch": 7, "before an evaluation": 20, "after an evaluation": 21, "between epochs": 38, "at once": 0}


@each_cell
@pytest.mark.parametrize("records", BREAKS.values(), ids=BREAKS)
def test_s22_resumed_equals_uninterrupted_in_every_bit(tmp_path, cell, records):
    settings = replace(SETTINGS, cell=cell)
    whole = Trainer(TEXT, settings)
    assert whole.steps_per_epoch == BREAKS["between epochs"] - 1
    list(whole.run())
    whole.save(tmp_path / "whole")

    first = Trainer(TEXT, settings)
    run = first.run()
    for _ in range(records):
        next(run)
    first.save(tmp_path / "part")
    second = Trainer.resume(tmp_path / "part", TEXT)
    assert second.step == first.step
    list(second.run())
    second.save(tmp_path / "part")

    assert second.losses == whole.losses
    assert second.evaluations == whole.evaluations
    assert (tmp_path / "part").read_bytes() == (tmp_path / "whole").read_bytes()


LINES = "\n".join(" ".join(random.Random(n).choices(WORDS, k=1 + n % 7)) for n in range(80))
KINDS = {
    "words": {"level": "word"},
    "adaptive": {"level": "word", "output": "adaptive", "hidden_size": 16},
    "s20-lines": {"windows": "lines"},
    "lines of words": {"windows": "lines", "level": "word"},
    "dropout": {"dropout": 0.4, "num_layers": 3},
    "words, dropout": {"level": "word", "dropout": 0.2},
    "n1-letters": {"letters_only": True, "lower": True},
    "schedule": {"schedule": "cosine", "warmup": 15, "clip_value": 0.01},
    **{f"s19-{optimizer}": {"optimizer": optimizer, "schedule": "linear"} for optimizer in OPTIMIZERS},
}


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_every_kind_of_run_is_resumed_in_every_bit(tmp_path, kind):
    settings = replace(SETTINGS, steps=50, **kind)
    whole = Trainer(LINES, settings)
    list(whole.run())
    whole.save(tmp_path / "whole")
    for breaks in (7, 33):
        first = Trainer(LINES, settings)
        for _ in zip(range(breaks), first.run(), strict=False):
            pass
        first.save(tmp_path / "part")
        second = Trainer.resume(tmp_path / "part", LINES)
        list(second.run())
        second.save(tmp_path / "part")
        assert (tmp_path / "part").read_bytes() == (tmp_path / "whole").read_bytes()

    model, tokenizer = load_model(tmp_path / "part")
    assert tokenizer.describe() == whole.tokenizer.describe()
    for name, p in whole.best.items():
        assert_same_bits(name, model.parameters[name], p)


def test_a_checkpoint_from_before_there_were_words_goes_on(tmp_path):
    """Its metadata have the characters, and of the settings those that there were."""
    settings = ("cell", "hidden_size", "num_layers", "seq_length", "batch_size", "steps", "epochs", "optimizer")
    settings += ("learning_rate", "clip", "held_out", "evaluate_every", "patience", "seed")

    def date_back(tensors, metadata):
        metadata["characters"] = metadata.pop("tokenizer")["characters"]
        metadata["settings"] = {name: metadata["settings"][name] for name in settings}

    first = Trainer(TEXT, SETTINGS)
    for _ in zip(range(30), first.run(), strict=False):
        pass
    first.save(tmp_path / "new")
    (tmp_path / "old").write_bytes(altered(date_back)((tmp_path / "new").read_bytes()))
    model, tokenizer = load_model(tmp_path / "old")
    assert tokenizer.characters == first.tokenizer.characters
    assert_same_bits("head.bias", model.parameters["head.bias"], first.best["head.bias"])
    resumed = [Trainer.resume(tmp_path / name, TEXT) for name in ("old", "new")]
    for trainer in resumed:
        list(trainer.run())
    assert resumed[0].losses == resumed[1].losses


@pytest.mark.parametrize("cutoffs", [None, [3, 9]], ids=["full", "adaptive"])
@each_cell
def test_n2_word_model_and_gradients_equal_torch(cell, cutoffs):
    rng = np.random.default_rng(0)
    V, H = 20, 8
    model = WordModel(V, H, 2, cell, dtype="float64")
    if cutoffs:
        model = LanguageModel(model.rnn, AdaptiveSoftmax(H, V, cutoffs, 2.0, dtype="float64"), model.embedding)
    model.load_state_dict({name: rng.uniform(-0.7, 0.7, p.shape) for name, p in model.parameters.items()})
    tokens, targets = rng.integers(0, V, (2, 9, 3))
    twin = torch.nn.ModuleDict(
        {
            "embedding": torch.nn.Embedding(V, H, dtype=torch.float64),
            "rnn": CELLS[cell](H, H, 2, dtype=torch.float64),
            "head": torch.nn.AdaptiveLogSoftmaxWithLoss(H, V, cutoffs, 2.0, dtype=torch.float64)
            if cutoffs
            else torch.nn.Linear(H, V, dtype=torch.float64),
        }
    )
    twin.load_state_dict({name: torch.from_numpy(p) for name, p in model.state_dict().items()})
    rows, of_rows = twin["rnn"](twin["embedding"](torch.from_numpy(tokens)))[0].flatten(0, 1), torch.from_numpy(targets)
    y = twin["head"](rows, of_rows.flatten()) if cutoffs else twin["head"](rows)
    want = y.loss if cutoffs else torch.nn.functional.cross_entropy(y, of_rows.flatten())
    want.backward()

    loss, _, grads = model.gradients(tokens, targets)

    assert loss == pytest.approx(want.item(), rel=1e-12)
    assert model.loss(tokens, targets)[0] == pytest.approx(loss, rel=1e-12)
    assert grads.keys() == dict(twin.named_parameters()).keys()
    for name, p in twin.named_parameters():
        assert_close(name, grads[name], p.grad.numpy(), tolerance(p.grad.numpy(), "float64", 9 * 50 + V))


MODELS = {
    "characters": lambda cell, **options: CharModel(11, 16, 2, cell, dtype="float64", seed=0, **options),
    "words": lambda cell, **options: WordModel(11, 16, 2, cell, dtype="float64", seed=0, **options),
    "adaptive": lambda cell, **options: WordModel(11, 16, 2, cell, cutoffs=[2, 5], dtype="float64", seed=0, **options),
}


@pytest.mark.parametrize("kind", ["words", "adaptive"])
@pytest.mark.parametrize("token", [-1, 11])
def test_padding_may_hold_any_token(kind, token):
    lengths = np.array([4, 1, 3])
    real = np.arange(4)[:, None] < lengths
    tokens = np.random.default_rng(0).integers(0, 11, (5, 3))
    targets = np.where(real, tokens[1:], -1)
    outcomes = []
    for padding in (0, token):
        model = MODELS[kind]("gru")
        inputs = np.where(real, tokens[:-1], padding)
        loss, _, grads = model.gradients(inputs, targets, lengths=lengths)
        outcomes.append(grads | {"loss": np.array([loss, model.loss(inputs, targets, lengths=lengths)[0]])})
    for name, want in outcomes[0].items():
        assert_same_bits(name, outcomes[1][name], want)


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
@each_cell
def test_s20_a_padded_batch_is_the_mean_over_its_lines(cell, make):
    """Its loss and gradients are those of the lines one by one, weighted by their lengths; an empty one has none."""
    model, rng = make(cell), np.random.default_rng(1)
    lines = [rng.integers(0, 11, n + 1) for n in (3, 1, 7, 4)]
    inputs, lengths = pad([line[:-1] for line in lines] + [[]])
    targets, _ = pad([line[1:] for line in lines] + [[]], -1)

    loss, _, grads = model.gradients(inputs, targets, None, lengths)

    alone = [model.gradients(line[:-1, None], line[1:, None]) for line in lines]
    shares = lengths[:-1] / lengths.sum()
    assert loss == pytest.approx(sum(share * of_line[0] for share, of_line in zip(shares, alone, strict=True)))
    assert model.loss(inputs, targets, None, lengths)[0] == pytest.approx(loss)
    for name, grad in grads.items():
        want = sum(share * of_line[2][name] for share, of_line in zip(shares, alone, strict=True))
        assert_close(name, grad, want, tolerance(want, "float64", 15 * 60))


def test_a_batch_of_padding_alone_has_no_mean():
    with pytest.raises(ValueError, match="targets is empty; expected at least one"):
        CharModel(3, 4, seed=0).gradients(np.zeros((2, 2), int), np.full((2, 2), -1), None, [0, 0])


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
@each_cell
def test_gradients_with_dropout_are_the_loss_s(cell, make):
    """Against central differences, with the same elements dropped each time."""
    model, rng = make(cell, dropout=0.3), np.random.default_rng(2)
    tokens, targets = rng.integers(0, 11, (2, 5, 3))

    def gradients():
        model.seed_dropout(7)
        loss, _, grads = model.gradients(tokens, targets)
        return loss, grads

    loss, grads = gradients()
    assert loss != pytest.approx(model.loss(tokens, targets)[0])
    for name, p in model.parameters.items():
        direction = rng.standard_normal(p.shape)
        start, step = p.copy(), 1e-5
        sides = []
        for sign in (1, -1):
            p[...] = start + sign * step * direction
            sides.append(gradients()[0])
        p[...] = start
        assert (sides[0] - sides[1]) / (2 * step) == pytest.approx(float((grads[name] * direction).sum()), abs=1e-7)


STACKS = {
    "dropout of the stack's own": lambda: fastrnn.LSTM(11, 6, 2, dropout=0.4, seed=0),
    "zoneout": lambda: fastrnn.Recurrent(library.zoneout_lstm, 11, 6, noise={"zone_h": 0.3, "zone_c": 0.2}, seed=0),
    "both, and that of the model": lambda: fastrnn.Recurrent(
        library.zoneout_lstm, 11, 6, 2, noise={"zone_h": 0.3, "zone_c": 0.2}, seed=0
    ),
}


@pytest.mark.parametrize("name", STACKS)
def test_all_that_a_model_draws_follows_its_seed(name):
    model = LanguageModel(STACKS[name](), Linear(6, 11, seed=1), dropout=0.2 * name.startswith("both"), seed=2)
    tokens = np.random.default_rng(3).integers(0, 11, (2, 7, 3))

    def loss(seed):
        model.seed_dropout(seed)
        return model.gradients(*tokens)[0]

    first = loss(5)
    assert loss(6) != first
    assert loss(5) == first


def test_s19_gradients_are_clipped_element_by_element_before_their_norm():
    settings = replace(SETTINGS, optimizer="sgd", learning_rate=1.0, clip_value=0.003, clip=math.inf)
    trainer = Trainer(TEXT, settings)
    before = trainer.model.state_dict()
    batch = Windows(split_tail(trainer.tokenizer.encode(TEXT), 0.1)[0], 4, 8).batch(0)
    grads = trainer.model.gradients(batch.inputs, batch.targets)[2]
    next(trainer.run())
    for name, p in trainer.model.parameters.items():
        np.testing.assert_allclose(before[name] - p, grads[name].clip(-0.003, 0.003), atol=1e-7)
    assert max(abs(grad).max() for grad in grads.values()) > 0.003


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_s19_the_learning_rate_follows_its_schedule(schedule):
    trainer = Trainer(TEXT, replace(SETTINGS, steps=20, schedule=schedule, warmup=5, learning_rate=0.01))
    rates = [trainer.optimizer.learning_rate for record in trainer.run() if isinstance(record, Step)]
    left = np.arange(15) / 15
    falling = {"constant": left * 0 + 1, "linear": 1 - left, "cosine": (1 + np.cos(np.pi * left)) / 2}[schedule]
    rising = [0.2 + 0.8 * step / 5 for step in range(5)]
    np.testing.assert_allclose(rates, 0.01 * np.concatenate([rising, falling]), rtol=1e-12)


@pytest.mark.parametrize("output", ["full", "adaptive"])
def test_n2_words_are_learnt_and_told_as_perplexity(output):
    settings = replace(SETTINGS, level="word", output=output, hidden_size=16, learning_rate=0.02)
    trainer = Trainer("To be, or not to be: that is the question.\n" * 60, settings)
    records = list(trainer.run())
    assert records[0].perplexity > 8
    assert records[-1].perplexity == pytest.approx(math.exp(records[-1].loss))
    assert records[-1].perplexity < {"full": 1.2, "adaptive": 4}[output]  # its rarest words share one column
    assert Evaluation(1, 1e4).perplexity == math.inf
    assert isinstance(trainer.model.head, {"full": Linear, "adaptive": AdaptiveSoftmax}[output])


def test_held_out_lines_are_drawn_by_the_seed():
    names = "".join(f"{letter}{k}\n" for letter in "abcdefgh" for k in range(5))

    def held_out(seed):
        trainer = Trainer(names, replace(SETTINGS, windows="lines", seed=seed, held_out=0.2))
        batches = [trainer._held_out.batch(k) for k in range(len(trainer._held_out))]
        lines = [trainer.tokenizer.decode(line) for batch in batches for line in batch.inputs.T]
        trained = sum(trainer._train.batch(k).size for k in range(trainer.steps_per_epoch))
        assert trained + sum(batch.size for batch in batches) == len(names)
        return lines

    assert len(held_out(0)) == 8
    assert held_out(0) == held_out(0)
    assert held_out(0) != held_out(1)
    assert len({line[1] for line in held_out(0)}) > 2  # not the end of a sorted file


def test_a_finished_run_goes_on_with_more_steps(tmp_path):
    Trainer(TEXT, replace(SETTINGS, steps=40)).save(tmp_path / "start")
    short = Trainer.resume(tmp_path / "start", TEXT)
    list(short.run())
    short.save(tmp_path / "short")
    longer = Trainer.resume(tmp_path / "short", TEXT, steps=90, hidden_size=12)
    list(longer.run())
    whole = Trainer(TEXT, SETTINGS)
    list(whole.run())
    assert longer.losses == whole.losses
    for name, p in whole.model.parameters.items():
        assert_same_bits(name, longer.model.parameters[name], p)


@each_cell
def test_the_best_model_is_kept_and_patience_ends_training(tmp_path, cell):
    text = "".join(random.Random(1).choices("abcdefgh", k=400))  # nothing to learn but by heart
    settings = replace(
        SETTINGS, cell=cell, hidden_size=40, learning_rate=0.02, steps=2000, evaluate_every=10, patience=3
    )
    trainer = Trainer(text, settings)
    list(trainer.run())
    trainer.save(tmp_path / "checkpoint")

    assert trainer.out_of_patience
    assert trainer.step < 2000
    losses = [evaluation.loss for evaluation in trainer.evaluations]
    assert losses.index(min(losses)) == len(losses) - 1 - 3
    model, tokenizer = load_model(tmp_path / "checkpoint")
    _, held_out = split_tail(tokenizer.encode(text), settings.held_out)
    inputs, targets = Windows(held_out, 1, len(held_out) - 1)[0]
    assert cross_entropy(model(inputs)[0], targets)[0] == pytest.approx(min(losses), rel=1e-6)
    resumed = Trainer.resume(tmp_path / "checkpoint", text)
    assert list(resumed.run()) == []
    for name, p in trainer.best.items():
        assert_same_bits(name, resumed.best[name], p)


def test_every_step_drops_others(monkeypatch):
    trainer = Trainer(TEXT, replace(SETTINGS, dropout=0.4, steps=6))
    seeds, seed_dropout = [], trainer.model.seed_dropout
    monkeypatch.setattr(trainer.model, "seed_dropout", lambda seed: seeds.append(seed) or seed_dropout(seed))
    list(trainer.run())
    assert len(seeds) == len(set(seeds)) == 6


def test_a_text_of_one_character():
    trainer = Trainer("a" * 100, replace(SETTINGS, steps=5))
    assert [record.loss for record in trainer.run()] == [0] * 6


NOT_ENOUGH = {
    "no lines": ({"windows": "lines"}, "\n\n \n"[:2], "the text has 0 lines that are not empty"),
    "one line": ({"windows": "lines"}, "to be", "the text has 1 lines that are not empty; expected some to hold out"),
    "no frequent word": ({"level": "word"}, "to be or not", "no word of the text occurs 2 times"),
    "few words": ({"level": "word"}, "to be to be", "the training part of the text is too short: 4 tokens"),
}


@pytest.mark.parametrize(("kind", "text", "message"), NOT_ENOUGH.values(), ids=NOT_ENOUGH)
def test_a_text_that_is_not_enough_is_refused(kind, text, message):
    with pytest.raises(TextError, match=message):
        Trainer(text, replace(SETTINGS, **kind))


@pytest.mark.parametrize(("characters", "part"), [(30, "training"), (60, "held-out")])
def test_a_text_shorter_than_a_window_is_refused(characters, part):
    with pytest.raises(
        TextError, match=rf"the {part} part of the text is too short: \d+ tokens are fewer than the \d+"
    ):
        Trainer(TEXT[:characters], SETTINGS)


BAD_SETTINGS = {
    "level": ("syllable", "level is 'syllable'; expected 'char' or 'word'"),
    "windows": ("pages", "windows is 'pages'; expected 'continuous' or 'lines'"),
    "output": ("adaptive", "output is 'adaptive'; expected 'auto' or 'full' for characters"),
    "schedule": ("step", "schedule is 'step'; expected one of constant, linear, cosine"),
    "dropout": (1.5, "dropout is 1.5"),
    "warmup": (-1, "warmup is -1"),
    "max_words": (0, "max_words is 0"),
    "min_count": (0, "min_count is 0"),
    "clip_value": (-1.0, "clip_value is -1"),
    "cell": ("lstmm", "cell is 'lstmm'; expected one of lstm, gru, rnn"),
    "hidden_size": (0, "hidden_size is 0"),
    "seq_length": (0, "seq_length is 0"),
    "batch_size": (-1, "batch_size is -1"),
    "steps": (0, "steps is 0"),
    "epochs": (0, "epochs is 0"),
    "evaluate_every": (0, "evaluate_every is 0"),
    "patience": (0, "patience is 0"),
    "optimizer": ("adamm", "optimizer is 'adamm'; expected one of adam, adamw, rmsprop, momentum, sgd"),
    "learning_rate": (math.nan, "learning_rate is nan"),
    "clip": (0.0, "clip is 0"),
    "held_out": (1.0, "held_out is 1.0"),
}


@pytest.mark.parametrize(("name", "value", "message"), [(name, *row) for name, row in BAD_SETTINGS.items()])
def test_bad_settings(name, value, message):
    with pytest.raises(ValueError, match=message):
        Trainer(TEXT, replace(SETTINGS, **{name: value}))


@pytest.mark.parametrize("kind", ["words", "adaptive", "s20-lines", "dropout"])
def test_divergence_of_every_kind_names_the_step(kind):
    kind = KINDS[kind] | {"optimizer": "sgd", "learning_rate": 1e38, "clip": math.inf}
    trainer = Trainer(LINES, replace(SETTINGS, **kind))
    with pytest.raises(DivergenceError, match=r"diverged at step \d: loss"):
        list(trainer.run())
    assert all(math.isfinite(loss) for loss in trainer.losses)


def test_divergence_ends_training_and_leaves_the_checkpoint(tmp_path):
    trainer = Trainer(TEXT, replace(SETTINGS, optimizer="sgd", learning_rate=1e38, clip=math.inf))
    trainer.save(tmp_path / "checkpoint")
    before = (tmp_path / "checkpoint").read_bytes()
    with pytest.raises(DivergenceError, match=r"diverged at step \d: loss (inf|nan), gradient norm"):
        list(trainer.run())
    assert trainer.step < 5
    assert all(math.isfinite(loss) for loss in trainer.losses)
    assert (tmp_path / "checkpoint").read_bytes() == before


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A checkpoint of a short run."""
    path = tmp_path_factory.mktemp("trained") / "checkpoint.safetensors"
    trainer = Trainer(TEXT, SETTINGS)
    list(trainer.run())
    trainer.save(path)
    return path


def altered(change):
    """Return what rewrites a checkpoint's tensors and metadata."""

    def rewrite(data):
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        tensors, metadata = load(data), json.loads(header["__metadata__"]["fastrnn"])
        change(tensors, metadata)
        return save(tensors, metadata={"fastrnn": json.dumps(metadata)})

    return rewrite


def without_models(tensors, metadata):
    for name in list(tensors):
        if name.startswith(("model.", "best.")):
            del tensors[name]


DAMAGES = {
    "empty": lambda data: b"",
    "first bytes only": lambda data: data[:5],
    "in the header": lambda data: data[:200],
    "last byte missing": lambda data: data[:-1],
    "a text": lambda data: b"To be, or not to be, that is the question.",
    "another program's": lambda data: save({"x": np.ones(3)}),
    "another program's metadata": lambda data: save({"x": np.ones(3)}, metadata={"format": "pt"}),
    "another format": altered(lambda tensors, metadata: metadata.update(format=99)),
    "another size": altered(lambda tensors, metadata: metadata["settings"].update(hidden_size=13)),
    "another cell": altered(lambda tensors, metadata: metadata["settings"].update(cell="gru")),
    "no settings": altered(lambda tensors, metadata: metadata.pop("settings")),
    "no models": altered(without_models),
    "another model's shape": altered(
        lambda tensors, metadata: [tensors.update({f"{m}.head.bias": np.ones(3, "f")}) for m in ("model", "best")]
    ),
}


@pytest.mark.parametrize("use", [load_model, lambda path: Trainer.resume(path, TEXT)], ids=["load_model", "resume"])
@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_checkpoint_is_refused(tmp_path, trained, damage, use):
    path = tmp_path / "checkpoint"
    path.write_bytes(damage(trained.read_bytes()))
    with pytest.raises(CheckpointError, match="is not a usable checkpoint: ") as caught:
        use(path)
    assert "\n" not in str(caught.value)


def test_resume_wants_the_same_text(trained):
    with pytest.raises(TextError, match="was trained on another text: SHA-256"):
        Trainer.resume(trained, TEXT + " ")


@pytest.mark.parametrize(("name", "value"), [("hidden_size", 13), ("cell", "gru"), ("learning_rate", 1.0), ("seed", 5)])
def test_resume_keeps_the_settings(trained, name, value):
    with pytest.raises(CheckpointError, match=rf"has {name} .*; it cannot go on with {value}"):
        Trainer.resume(trained, TEXT, **{name: value})


@pytest.mark.parametrize("use", [load_model, lambda path: Trainer.resume(path, TEXT)], ids=["load_model", "resume"])
def test_a_missing_checkpoint(tmp_path, use):
    with pytest.raises(FileNotFoundError):
        use(tmp_path / "none")


@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch, function):
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def fail(*arguments):
        raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr(os, function, fail)
    with pytest.raises(OSError, match="no space left"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_process_killed_while_it_writes_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    code = (
        "import os, sys; from fastrnn.training.files import write_atomically; "
        "os.replace = lambda *arguments: os._exit(9); write_atomically(sys.argv[1], b'new')"
    )
    done = run_watched([sys.executable, "-c", code, str(path)], 60)
    assert done.returncode == 9
    assert path.read_bytes() == b"old"


@pytest.mark.parametrize("evaluations", [[], [Evaluation(2, 1.5), Evaluation(4, 1.0)]])
@pytest.mark.parametrize("steps", [0, 1, 4, 700])
def test_picture(tmp_path, steps, evaluations):
    path = tmp_path / "loss.png"
    plot_losses(path, [2.0] * steps, evaluations)
    data = path.read_bytes()
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    assert (int.from_bytes(data[16:20]), int.from_bytes(data[20:24])) == (960, 540)
    assert list(tmp_path.iterdir()) == [path]
