"""fit and predict: the numbers of a loop written by hand, the same bits after a break, and what is refused."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from tolerances import assert_same_bits

import fastrnn
from fastrnn.parameters import Array
from fastrnn.training import (
    SGD,
    Adam,
    AttentionPool,
    CheckpointError,
    DivergenceError,
    Dropout,
    Embedding,
    Epoch,
    Last,
    Linear,
    Pool,
    QuantileLoss,
    ReduceOnPlateau,
    Sequential,
    bce_with_logits,
    clip_global_norm,
    cross_entropy,
    fit,
    mae,
    mse,
    pad,
    predict,
)
from fastrnn.training.batches import by_length
from fastrnn.training.checkpoint import describe_file, read_checkpoint, write_checkpoint
from fastrnn.training.metrics import METRICS

N, I, H = 23, 3, 7


def assert_same_state(got: Mapping[str, Array], want: Mapping[str, Array]) -> None:
    assert got.keys() == want.keys()
    for name, array in want.items():
        assert_same_bits(name, got[name], array)


def ragged(seed: int = 0, n: int = N, dtype: str = "float64") -> list[Array]:
    rng = np.random.default_rng(seed)
    return [rng.standard_normal((length, I)).astype(dtype) for length in rng.integers(1, 12, n)]


def classes(seed: int = 1, n: int = N, among: int = 3) -> Array:
    return np.random.default_rng(seed).integers(0, among, n)


def classifier(dtype: str = "float64", dropout: float = 0.0, outputs: int = 3, **options: Any) -> Sequential:
    rnn = fastrnn.LSTM(I, H, 2, dropout=dropout, dtype=dtype, seed=0, **options)
    return Sequential(Last(rnn), Dropout(dropout), Linear(H, outputs, dtype=dtype, seed=1))


def tagger(**options: Any) -> Sequential:
    return Sequential(fastrnn.GRU(I, H, dtype="float64", seed=0, **options), Linear(H, 2, dtype="float64", seed=1))


def test_fit_is_the_loop_that_one_writes_by_hand() -> None:
    X, y, model, by_hand = ragged(), classes(), classifier(), classifier()
    history = fit(model, X, y, epochs=3, batch_size=5, learning_rate=0.02, clip=0.3, seed=4)
    optimizer, losses = Adam(by_hand, 0.02), []
    for epoch in range(3):
        for members in by_length(np.array([len(x) for x in X]), 5, np.random.default_rng((4, epoch))):
            x, lengths = pad([X[k] for k in members])
            logits, tape = by_hand.forward(x, lengths)
            loss, dlogits = cross_entropy(logits, y[members])
            _, grads = by_hand.backward(tape, dlogits)
            clip_global_norm(grads, 0.3)
            optimizer.step(grads)
            losses.append(loss * len(members))
    assert_same_state(model.state_dict(), by_hand.state_dict())
    np.testing.assert_allclose(history.epochs[2].loss, sum(losses[-5:]) / N, rtol=1e-12)
    assert [epoch.step for epoch in history.epochs] == [5, 10, 15]


@pytest.mark.parametrize("batch_first", [False, True])
def test_every_step_has_its_target_and_padding_none(batch_first: bool) -> None:
    """One step of gradient descent on all: the mean over all steps, taken sequence by sequence."""
    X, rng = ragged(), np.random.default_rng(2)
    y = [rng.standard_normal((len(x), 2)) for x in X]
    model, by_hand = tagger(batch_first=batch_first), tagger()
    fit(model, X, y, epochs=1, batch_size=N, optimizer=SGD(model, 0.5), clip=math.inf)
    steps = sum(map(len, X))
    sums: dict[str, Array] = {}
    for x, targets in zip(X, y, strict=True):
        out, tape = by_hand.forward(x[:, None])
        _, grads = by_hand.backward(tape, mse(out, targets[:, None], reduction="sum")[1] / (2 * steps))
        sums = {name: sums.get(name, 0) + grad for name, grad in grads.items()}
    for name, p in by_hand.parameters.items():
        np.testing.assert_allclose(model.parameters[name], p - 0.5 * sums[name], rtol=1e-9, atol=1e-12, err_msg=name)


def test_classes_of_every_step() -> None:
    X = ragged()
    y = [(x[:, 0] > 0).astype(int) for x in X]
    model = tagger()
    history = fit(model, X, y, epochs=30, learning_rate=0.03, metrics=["accuracy", "f1"], validation=(X, y))
    assert history.best is not None
    assert history.best.metrics["accuracy"] > 0.9
    right = np.concatenate([p.argmax(1) == t for p, t in zip(predict(model, X), y, strict=True)]).mean()
    assert right == history.best.metrics["accuracy"]


def test_predictions_do_not_depend_on_the_batch_they_are_in() -> None:
    X, model, steps = ragged(), classifier(bidirectional=False), tagger()
    one_by_one = np.concatenate([model(x[:, None]) for x in X])
    assert_same_bits("y", predict(model, X, batch_size=4), one_by_one)
    for found, x in zip(predict(steps, X, batch_size=4), X, strict=True):
        assert_same_bits("y", found, steps(x[:, None])[:, 0])
    array = np.stack([x[:1] for x in X])
    assert predict(steps, array).shape == (N, 1, 2)


@pytest.mark.parametrize("batch_first", [False, True])
def test_an_array_is_a_list_of_its_sequences(batch_first: bool) -> None:
    array, y = np.random.default_rng(0).standard_normal((N, 6, I)), classes()
    models = [classifier(batch_first=batch_first), classifier(batch_first=batch_first), classifier()]
    for model, X in zip(models, (array, list(array), np.asfortranarray(array)), strict=True):
        fit(model, X, y, epochs=2, seed=3)
    assert_same_state(models[0].state_dict(), models[1].state_dict())
    assert_same_state(models[0].state_dict(), models[2].state_dict())


def test_tokens_and_pools_learn() -> None:
    rng = np.random.default_rng(0)
    X = [rng.integers(0, 9, length) for length in rng.integers(1, 9, 60)]
    y = np.array([3 in x for x in X])
    model = Sequential(Embedding(9, 4, seed=0), fastrnn.GRU(4, 8, seed=1), AttentionPool(8, 8), Linear(8, 1, seed=2))
    history = fit(model, X, y, epochs=40, learning_rate=0.03, metrics="accuracy")
    assert history.epochs[-1].metrics["accuracy"] > 0.95
    assert history.epochs[-1].loss < history.epochs[0].loss / 3


def test_a_bare_module_is_a_model() -> None:
    X = ragged()
    rnn = fastrnn.RNN(I, 2, dtype="float64", seed=0)
    history = fit(rnn, X, [np.tanh(x[:, :2]) for x in X], epochs=5)
    assert history.epochs[-1].loss < history.epochs[0].loss


# ---- what is kept


def test_the_best_epoch_is_kept_and_patience_ends() -> None:
    X, y = ragged(), classes()
    model, states = classifier(), []
    history = fit(
        model,
        X,
        y,
        validation=0.3,
        epochs=200,
        learning_rate=0.1,
        patience=3,
        callbacks=[lambda epoch: states.append(model.state_dict())],
    )
    losses = history.to_dict()["validation_loss"]
    best = int(np.argmin(losses))
    assert (history.stopped, len(losses)) == ("patience", best + 4)
    assert history.best == history.epochs[best]
    assert_same_state(model.state_dict(), states[best])


def test_callbacks_end_training() -> None:
    seen: list[Epoch] = []
    history = fit(classifier(), ragged(), classes(), callbacks=[seen.append, lambda epoch: epoch.epoch == 2])
    assert (history.stopped, len(seen), seen) == ("callback", 2, list(history.epochs))


def test_history_is_columns_and_a_picture(tmp_path: Path) -> None:
    history = fit(classifier(), ragged(), classes(), epochs=2, metrics=["accuracy"], validation=0.2)
    columns = history.to_dict()
    assert list(columns) == ["epoch", "step", "loss", "validation_loss", "learning_rate", "accuracy"]
    assert columns["epoch"] == [1, 2]
    history.plot(tmp_path / "loss.png")
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert repr(history).startswith("History(2 epochs, best ")


def interrupting(after: int) -> Any:
    """A loss that is interrupted as by Ctrl-C in so many calls."""
    calls = iter(range(10**6))

    def cross_entropy_(logits: Array, targets: Array) -> tuple[float, Array]:
        if next(calls) == after:
            raise KeyboardInterrupt
        return cross_entropy(logits, targets)

    cross_entropy_.__qualname__ = "a loss"
    return cross_entropy_


def test_a_broken_off_run_goes_on_in_the_same_bits(tmp_path: Path) -> None:
    X, y = ragged(), classes()
    options: dict[str, Any] = {"epochs": 6, "batch_size": 4, "validation": 0.3, "learning_rate": 0.05, "resume": True}
    models = {}
    for name, breaks in {"whole": [10**6], "broken": [9, 4, 11, 10**6]}.items():
        path = tmp_path / name
        for after in breaks:
            models[name] = classifier(dropout=0.4)
            schedule = ReduceOnPlateau(0.5, patience=0)
            arguments = options | {"loss": interrupting(after), "schedule": schedule, "checkpoint": path}
            history = fit(models[name], X, y, metrics=["f1"], **arguments)
            assert history.stopped == ("epochs" if after == 10**6 else "interrupted")
    assert_same_state(models["whole"].state_dict(), models["broken"].state_dict())
    assert (tmp_path / "whole").read_bytes() == (tmp_path / "broken").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken", "whole"]


def test_a_checkpoint_is_a_model_and_says_what_it_is(tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    model = classifier("float32")
    fit(model, ragged(), classes(), epochs=4, learning_rate=0.3, validation=0.3, checkpoint=path)
    assert_same_state(fastrnn.load(path).state_dict(), model.state_dict())
    assert describe_file(path)[0] == "a checkpoint of fastrnn.training.fit after 4 steps"


def test_more_epochs_go_on_from_a_checkpoint(tmp_path: Path) -> None:
    path, X, y = tmp_path / "run", ragged(), classes()
    models = [classifier(), classifier(), classifier()]
    fit(models[0], X, y, epochs=2, checkpoint=path)
    history = fit(models[1], X, y, epochs=4, checkpoint=path, resume=True)
    fit(models[2], X, y, epochs=4)
    assert [epoch.epoch for epoch in history.epochs] == [1, 2, 3, 4]
    assert_same_state(models[1].state_dict(), models[2].state_dict())


def test_other_runs_checkpoints_are_refused(tmp_path: Path) -> None:
    path, X, y = tmp_path / "run", ragged(), classes()
    fit(classifier(), X, y, epochs=1, checkpoint=path)
    kept = path.read_bytes()
    with pytest.raises(FileExistsError, match="exists; expected a new path: resume=True goes on"):
        fit(classifier(), X, y, epochs=1, checkpoint=path)
    with pytest.raises(CheckpointError, match="the data are others"):
        fit(classifier(), X, (y + 1) % 3, checkpoint=path, resume=True)
    with pytest.raises(CheckpointError, match="seed was 0"):
        fit(classifier(), X, y, checkpoint=path, resume=True, seed=1)
    with pytest.raises(CheckpointError, match=r"last: missing|last\.\S+ has shape"):
        fit(
            Sequential(Last(fastrnn.GRU(I, 4, dtype="float64")), Linear(4, 3, dtype="float64")),
            X,
            y,
            checkpoint=path,
            resume=True,
        )
    assert path.read_bytes() == kept
    groups, metadata = read_checkpoint(path)
    write_checkpoint(path, groups, metadata | {"format": 99})
    with pytest.raises(CheckpointError, match="of a later version of fastrnn; expected 1 or less: upgrade fastrnn"):
        fit(classifier(), X, y, checkpoint=path, resume=True)


def test_an_update_broken_off_half_way_leaves_the_best() -> None:
    X, y, states = ragged(), classes(), []
    model = classifier()
    optimizer = Adam(model, 0.01)
    whole = optimizer._update

    def broken(p: Array, *arrays: Array) -> None:
        if optimizer.steps == 3 and p.shape == (3,):
            raise KeyboardInterrupt
        whole(p, *arrays)

    optimizer._update = broken  # type: ignore[method-assign]
    history = fit(model, X, y, optimizer=optimizer, callbacks=[lambda epoch: states.append(model.state_dict())])
    assert history.stopped == "interrupted"
    assert_same_state(model.state_dict(), states[-1])


def test_divergence_keeps_the_best() -> None:
    model, states = classifier(), []

    def overflowing(logits: Array, targets: Array) -> tuple[float, Array]:
        return (cross_entropy if len(states) < 2 else lambda *_: (math.inf, np.zeros_like(logits)))(logits, targets)

    with pytest.raises(DivergenceError, match="training diverged at step 3: loss inf"):
        fit(
            model,
            ragged(),
            classes(),
            batch_size=99,
            loss=overflowing,
            validation=(ragged(2), classes(3)),
            callbacks=[lambda epoch: states.append(model.state_dict())],
        )
    assert_same_state(model.state_dict(), states[1])


# ---- chance, weights


def test_seeds_give_the_same_bits_and_others_others() -> None:
    X, y = ragged(), classes()
    found = []
    for seed in (5, 5, 6):
        model = classifier(dropout=0.5)
        fit(model, X, y, epochs=2, batch_size=4, seed=seed)
        found.append(model.state_dict())
    assert_same_state(found[0], found[1])
    assert any((found[0][name] != found[2][name]).any() for name in found[0])


def test_dropout_of_each_step_and_layer_is_its_own() -> None:
    model = Sequential(Dropout(0.5), Dropout(0.5))
    x = np.ones((40, 1, 3), np.float32)
    drawn = []
    for seed in ((0, 1), (0, 1), (0, 2)):
        model.seed_dropout(seed)
        drawn.append(model.forward(x)[1])
    same, again, other = ([tape[0] for tape in tapes] for tapes in drawn)
    assert all((a == b).all() for a, b in zip(same, again, strict=True))
    assert (same[0] != same[1]).any()
    assert (same[0] != other[0]).any()


def test_a_weight_of_two_is_the_sequence_twice() -> None:
    X, y = ragged(), classes()
    weights = np.where(np.arange(N) % 3 == 0, 2.0, 1.0)
    twice = [k for k in range(N) for _ in range(int(weights[k]))]
    weighted, repeated = classifier(), classifier()
    fit(weighted, X, y, epochs=2, batch_size=N, sample_weight=weights)
    fit(repeated, [X[k] for k in twice], y[twice], epochs=2, batch_size=99)
    for name, p in weighted.parameters.items():
        np.testing.assert_allclose(p, repeated.parameters[name], rtol=1e-8, atol=1e-11, err_msg=name)


@pytest.mark.parametrize("outputs", [1, 2])
def test_balanced_classes_weigh_the_same(outputs: int) -> None:
    X, y = ragged(), (np.arange(N) % 4 == 0).astype(int)
    by_name, by_hand, by_class = (classifier(outputs=outputs) for _ in range(3))
    counts = np.bincount(y)
    fit(by_name, X, y, epochs=2, class_weight="balanced")
    fit(by_hand, X, y, epochs=2, sample_weight=7 / counts[y])
    fit(by_class, X, y, epochs=2, class_weight={0: counts[1] / counts[0]})
    for name, p in by_name.parameters.items():
        np.testing.assert_allclose(by_hand.parameters[name], p, rtol=1e-8, atol=1e-11, err_msg=name)
        np.testing.assert_allclose(by_class.parameters[name], p, rtol=1e-8, atol=1e-11, err_msg=name)


@pytest.mark.parametrize(("counts", "share", "held"), [((40, 20), 0.25, [10, 5]), ((1, 40, 20), 0.5, [0, 20, 10])])
def test_held_out_sequences_are_of_each_class_as_many(counts: Any, share: float, held: list[int]) -> None:
    y, seen = np.repeat(np.arange(len(counts)), counts), []
    X = np.random.default_rng(0).standard_normal((len(y), 2, I))
    note = [lambda outputs, targets: seen.append(targets) or 0.0]
    fit(classifier(), X, y, epochs=1, validation=share, metrics=note)
    assert np.bincount(seen[0], minlength=len(counts)).tolist() == held


def test_dropout_is_drawn_by_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    model, seeds = classifier(dropout=0.5), []
    monkeypatch.setattr(model, "seed_dropout", seeds.append)
    fit(model, ragged(), classes(), epochs=2, batch_size=12, seed=3)
    assert seeds == [(3, 0), (3, 1), (3, 2), (3, 3)]


def test_unshuffled_sequences_come_as_they_stand() -> None:
    seen: list[Array] = []

    def noting(outputs: Array, targets: Array) -> tuple[float, Array]:
        seen.append(targets)
        return mse(outputs, targets.reshape(outputs.shape))

    fit(classifier(outputs=1), ragged(), np.arange(float(N)), loss=noting, epochs=1, batch_size=6, shuffle=False)
    assert np.concatenate(seen).tolist() == list(range(N))


# ---- losses and metrics


def test_losses_are_those_of_torch(torch: ModuleType) -> None:
    rng = np.random.default_rng(0)
    y, targets, weights = rng.standard_normal((5, 3)), rng.standard_normal((5, 3)), rng.random((5, 3))
    ones, labels, each = (targets > 0).astype(float), rng.integers(0, 3, 5), rng.random(5)
    functional = torch.nn.functional
    cases: list[tuple[Any, Any, Array, Array]] = [
        (mae, functional.l1_loss, targets, weights),
        (mse, functional.mse_loss, targets, weights),
        (bce_with_logits, functional.binary_cross_entropy_with_logits, ones, weights),
        (cross_entropy, functional.cross_entropy, labels, each),
    ]
    for ours, theirs, wanted, w in cases:
        for given in (None, w):
            leaf = torch.tensor(y, requires_grad=True)
            terms = theirs(leaf, torch.tensor(wanted), reduction="none")
            value = (terms if given is None else terms * torch.tensor(given)).mean()
            value.backward()
            loss, dy = ours(y, wanted, weights=given)
            np.testing.assert_allclose(loss, value.item(), rtol=1e-12)
            np.testing.assert_allclose(dy, leaf.grad.numpy(), rtol=1e-12, atol=1e-15)


def test_the_quantile_loss_is_least_at_quantiles() -> None:
    targets = np.sort(np.random.default_rng(0).standard_normal(999))
    loss = QuantileLoss([0.1, 0.5])
    estimates = np.tile(np.quantile(targets, [0.1, 0.5]), (999, 1))
    _, dy = loss(estimates, targets)
    assert (np.abs(dy.sum(axis=0)) <= 1 / 999 / 2).all()
    rng = np.random.default_rng(1)
    y, t, w, step = rng.standard_normal((4, 6)), rng.standard_normal((4, 3)), rng.random(4), 1e-6
    _, dy = loss(y, t, weights=w)
    for at in np.ndindex(y.shape):
        high, low = y.copy(), y.copy()
        high[at] += step
        low[at] -= step
        slope = (loss(high, t, weights=w)[0] - loss(low, t, weights=w)[0]) / (2 * step)
        np.testing.assert_allclose(dy[at], slope, rtol=1e-6, atol=1e-9)


def test_metrics() -> None:
    logits, labels = np.array([[2.0, 1, 0], [0, 1, 3], [0, 2, 1], [4, 0, 0]]), np.array([0, 2, 2, 1])
    assert METRICS["accuracy"](logits, labels) == 0.5
    assert METRICS["f1"](logits, labels) == pytest.approx((2 / 3 + 0 + 2 / 3) / 3)
    one, truth = np.array([[1.0], [-1], [2], [3]]), np.array([1, 1, 0, 1])
    assert METRICS["accuracy"](one, truth) == 0.5
    assert METRICS["f1"](one, truth) == pytest.approx(4 / 6)
    y, t = np.array([[1.0], [2], [4]]), np.array([1.0, 3, 2])
    assert METRICS["mae"](y, t) == 1.0
    assert METRICS["mse"](y, t) == pytest.approx(5 / 3)
    assert METRICS["rmse"](y, t) == pytest.approx((5 / 3) ** 0.5)
    assert METRICS["r2"](y, t) == pytest.approx(1 - 5 / 2)


# ---- bad input

X, Y = ragged(), classes()


def spoilt(k: int, value: float) -> list[Array]:
    found = [x.copy() for x in X]
    found[k][0, 1] = value
    return found


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "nan": ({"X": spoilt(3, np.nan)}, r"X\[3\] holds nan at step 0, column 1; expected finite numbers"),
    "infinity": ({"X": spoilt(0, np.inf)}, r"X\[0\] holds inf at step 0, column 1; expected finite numbers"),
    "text": ({"X": [np.array([["a"]])] * N}, r"X\[0\] has text; expected numbers"),
    "texts": ({"X": ["abc"] * N}, r"X\[0\] has text; expected numbers"),
    "columns": ({"X": [*X[:-1], np.ones((2, 4))]}, rf"X\[{N - 1}\] has 4 columns; expected 3, as X\[0\] has"),
    "empty": ({"X": [*X[:-1], np.ones((0, 3))]}, rf"X\[{N - 1}\] has no steps; expected at least one in every"),
    "none": ({"X": [], "y": []}, "X is empty; expected at least one sequence"),
    "flat": ({"X": [x[:, 0] for x in X]}, r"X\[0\] has shape .* expected \(T, I\), or integers"),
    "mixed": ({"X": [np.array([1, 2])] * 22 + [np.ones((2, 3))]}, r"X\[22\] has shape .* expected tokens, as X\[0\]"),
    "table": ({"X": np.ones((N, 4))}, r"X has shape \(23, 4\) .* expected \(n, T, I\), or integers \(n, T\): use X\["),
    "fewer": ({"y": Y[:-1]}, r"y has shape \(22,\); expected 23 targets, one for each sequence of X"),
    "large": (
        {"model": classifier("float32", outputs=1), "y": np.full(N, 1e39)},
        r"y holds 1e\+39 at 0; expected finite",
    ),
    "labels": ({"y": np.array(["a"] * N)}, "y has text; expected numbers: classes as integers from 0 on"),
    "nan in y": ({"y": np.full(N, np.nan), "loss": "mse"}, "y holds nan at 0; expected finite numbers"),
    "class": ({"y": Y + 1}, "y holds classes from 1 to 3; expected 0 to 2, as the model has 3 outputs"),
    "floats": ({"y": Y + 0.5, "loss": "cross_entropy"}, "y has dtype float64 .* expected classes for the loss"),
    "shape": ({"y": np.ones((N, 2))}, r"y has shape \(23, 2\); expected \(23, 3\), as the model has 3 outputs"),
    "loss": ({"loss": "l2"}, "loss is 'l2'; expected one of cross_entropy, bce_with_logits, mse, mae"),
    "metric": ({"metrics": ["auc"]}, r"metrics\[0\] is 'auc'; expected one of accuracy"),
    "share": ({"validation": 1.5}, "validation is 1.5; expected a share between 0 and 1"),
    "all held out": ({"validation": 0.999}, "validation is 0.999, but X has 23 sequences; expected enough"),
    "validation": ({"validation": (X,)}, "validation has 1 parts; expected X and y"),
    "other columns": ({"validation": ([np.ones((2, 4))], [0])}, r"validation\[0\] has rows of shape \(4,\); expected"),
    "weights": ({"sample_weight": np.ones(3)}, r"sample_weight has shape \(3,\); expected \(23,\)"),
    "negative": ({"sample_weight": -np.ones(N)}, "sample_weight holds a negative"),
    "zeros": ({"sample_weight": np.zeros(N)}, "the weights of all training data are zero"),
    "of classes": ({"class_weight": {5: 1.0}}, "class_weight has 5; expected classes from 0 to 2"),
    "no classes": ({"class_weight": "balanced", "y": np.ones((N, 3))}, "class_weight is given, but y is not of"),
    "optimizer": ({"optimizer": "lion"}, "optimizer is 'lion'; expected one of"),
    "others'": ({"optimizer": Adam(classifier())}, "optimizer is of other parameters"),
    "epochs": ({"epochs": 0}, "epochs is 0; expected an integer of at least 1"),
    "resume": ({"resume": True}, "resume is True, but checkpoint is None"),
    "model": ({"model": "lstm"}, "model is 'lstm'; expected a layer or a Sequential"),
    "no lengths": ({"model": Sequential(Linear(I, 3, dtype="float64"))}, "but no layer of the model takes lengths"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_named_in_one_line(name: str) -> None:
    arguments, message = BAD[name]
    with pytest.raises((TypeError, ValueError), match=message) as refused:
        fit(**({"model": classifier(), "X": X, "y": Y, "epochs": 1} | arguments))
    assert "\n" not in str(refused.value)


def test_targets_of_steps_are_as_long_as_their_sequences() -> None:
    y = [np.zeros(len(x), int) for x in X]
    with pytest.raises(ValueError, match=re.escape("y[4] has shape (0,); expected one value for each of the")):
        fit(tagger(), X, [*y[:4], np.zeros(0, int), *y[5:]])
    with pytest.raises(ValueError, match="y has 22 sequences; expected 23, as X has"):
        fit(tagger(), X, y[:-1])


def test_pooled_layers_take_the_lengths() -> None:
    model = Sequential(fastrnn.GRU(I, H, dtype="float64", seed=0), Pool("mean"), Linear(H, 3, dtype="float64", seed=1))
    one_by_one = np.concatenate([model(x[:, None]) for x in X])
    np.testing.assert_allclose(predict(model, X), one_by_one, rtol=1e-12)
