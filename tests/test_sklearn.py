"""fastrnn.sklearn: scikit-learn's own checks, frames and ragged lists, files, and what is refused."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tolerances import assert_same_bits

import fastrnn
from fastrnn.parameters import Array
from fastrnn.training import CheckpointError
from fastrnn.training.checkpoint import read_checkpoint, write_checkpoint

SMALL: dict[str, Any] = {"hidden_size": 8, "epochs": 3, "random_state": 0}


pytestmark = pytest.mark.usefixtures("sklearn")


def classifier(**options: Any) -> Any:
    from fastrnn.sklearn import SequenceClassifier

    return SequenceClassifier(**SMALL | options)


def regressor(**options: Any) -> Any:
    from fastrnn.sklearn import SequenceRegressor

    return SequenceRegressor(**SMALL | options)


def forecaster(**options: Any) -> Any:
    from fastrnn.sklearn import SequenceForecaster

    return SequenceForecaster(**SMALL | {"horizon": 4} | options)


def ragged(n: int = 60, seed: int = 0) -> tuple[list[Array], Array]:
    rng = np.random.default_rng(seed)
    X = [5 + 3 * rng.standard_normal((length, 2)) for length in rng.integers(3, 12, n)]
    return X, np.where([x[:, 0].mean() > 5 for x in X], "up", "down")


# Batches are drawn, so that a weight of 2 is not to the bit the same as a sequence that comes twice.
DRAWN = {"check_sample_weight_equivalence_on_dense_data": "batches are drawn", "check_array_api_input": "no array API"}


@pytest.mark.parametrize(
    ("make", "hidden_size", "epochs"), [(classifier, 8, 12), (regressor, 16, 40)], ids=["classifier", "regressor"]
)
def test_it_is_an_estimator_as_scikit_learn_checks_it(make: Callable[..., Any], hidden_size: int, epochs: int) -> None:
    from sklearn.utils.estimator_checks import check_estimator

    estimator = make(hidden_size=hidden_size, epochs=epochs, learning_rate=0.02, random_state=None)
    results = check_estimator(estimator, expected_failed_checks=DRAWN, on_fail=None, on_skip=None)
    assert [each for each in results if each["status"] == "failed"] == []
    assert len(results) > 50


# ---- sequences


def test_a_ragged_classifier_learns_and_is_the_same_from_the_same_seed() -> None:
    X, y = ragged()
    first, second, other = (classifier(epochs=30, random_state=seed).fit(X, y) for seed in (1, 1, 2))
    assert first.score(X, y) > 0.9
    assert list(first.classes_) == ["down", "up"]
    assert_same_bits("p", first.predict_proba(X), second.predict_proba(X))
    assert (first.predict_proba(X) != other.predict_proba(X)).any()
    np.testing.assert_allclose(first.predict_proba(X).sum(axis=1), 1, rtol=1e-12)
    assert ((first.decision_function(X) > 0) == (first.predict(X) == "up")).all()


def test_frames_are_their_sequences() -> None:
    import pandas as pd
    import polars as pl

    X, y = ragged(20)
    ids = [f"s{(7 * k) % 20}" for k in range(20)]
    table = {"id": np.repeat(ids, [len(x) for x in X]), "a": np.concatenate(X)[:, 0], "b": np.concatenate(X)[:, 1]}
    wanted = classifier().fit(X, y).predict_proba(X)
    frame = pd.DataFrame(table)
    shuffled = pd.Series(y, ids).sample(frac=1, random_state=0)
    for given, targets in ((frame, y), (pl.DataFrame(table), y), (frame, shuffled), (frame, pd.Series(y))):
        found = classifier(id_column="id").fit(given, targets)
        assert_same_bits("p", found.predict_proba(given), wanted)
        assert list(found.feature_names_in_) == ["a", "b"]
    with pytest.raises(ValueError, match="X has the columns a, c; expected a, b, as fit was given"):
        found.predict(frame.rename(columns={"b": "c"}))
    with pytest.raises(ValueError, match="X has the columns id, a, b; expected 'who' among them, as id_column says"):
        classifier(id_column="who").fit(frame, y)
    with pytest.raises(TypeError, match="X has the column 'a' of dtype "):
        classifier(id_column="id").fit(frame.assign(a="x"), y)


@pytest.mark.parametrize("as_array", [False, True])
def test_every_step_has_its_value(as_array: bool) -> None:
    rng = np.random.default_rng(0)
    X: Any = [rng.standard_normal((8 if as_array else length, 2)) for length in rng.integers(3, 12, 40)]
    y: Any = [100 + 7 * x[:, 0].cumsum() for x in X]
    if as_array:
        X, y = np.stack(X), np.stack(y)
    estimator = regressor(every_step=True, bidirectional=False, epochs=40, learning_rate=0.02).fit(X, y)
    found = estimator.predict(X)
    assert [np.shape(each) for each in found] == [np.shape(each) for each in y]
    assert estimator.score(X, y) > 0.9


def test_several_values_a_sequence_and_outliers() -> None:
    X, _ = ragged()
    y = np.array([[x[:, 0].mean(), 100 * x[:, 1].mean()] for x in X])
    estimator = regressor(epochs=60, loss="mae", learning_rate=0.02).fit(X, y)
    assert estimator.predict(X).shape == y.shape
    assert estimator.score(X, y) > 0.8


def test_scaling_frees_from_units() -> None:
    X, y = ragged()
    wanted, other = classifier().fit(X, y), classifier().fit([1e6 * x - 1e7 for x in X], y)
    np.testing.assert_allclose(other.predict_proba([1e6 * x - 1e7 for x in X]), wanted.predict_proba(X), rtol=1e-3)


@pytest.mark.parametrize("pooling", ["mean", "last", "max", "attention"])
def test_every_pooling_and_cell_works(pooling: str) -> None:
    X, y = ragged(24)
    for cell in ("gru", "lstm", "rnn"):
        estimator = classifier(cell=cell, pooling=pooling, num_layers=2, dropout=0.1, class_weight="balanced")
        assert estimator.fit(X, y).predict(X).shape == (24,)


def test_partial_fit_and_warm_start_go_on() -> None:
    X, y = ragged()
    estimator = classifier()
    losses = []
    for _ in range(30):
        estimator.partial_fit(X, y, classes=["down", "up"])
        losses.append(estimator.history_.epochs[0].loss)
    assert estimator.n_iter_ == 30
    assert losses[-1] < losses[0] / 2
    again = pickle.loads(pickle.dumps(estimator)).partial_fit(X, y)
    assert_same_bits("p", again.predict_proba(X), estimator.partial_fit(X, y).predict_proba(X))
    assert estimator._optimizer_state_["steps"] == 31 * 2
    warm = classifier(warm_start=True, validation=None)
    first = warm.fit(X, y).history_.epochs[-1].loss
    assert warm.fit(X, y).history_.epochs[0].loss < first * 1.2
    values = regressor().partial_fit(X, np.arange(60.0)).partial_fit(X, np.arange(60.0))
    assert values.n_iter_ == 2


def test_pipelines_and_searches() -> None:
    from sklearn.base import clone
    from sklearn.model_selection import GridSearchCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer

    X, y = ragged(40)
    search = GridSearchCV(
        make_pipeline(FunctionTransformer(), classifier()), {"sequenceclassifier__hidden_size": [4, 8]}, cv=2
    )
    search.fit(X, y)
    assert search.best_params_["sequenceclassifier__hidden_size"] in (4, 8)
    assert not hasattr(clone(search.best_estimator_[-1]), "model_")


def test_class_weights_go_by_name() -> None:
    X, y = ragged()
    heavy = classifier(epochs=10, class_weight={"up": 50.0}).fit(X, y)
    light = classifier(epochs=10).fit(X, y)
    assert heavy.predict_proba(X)[:, 1].mean() > light.predict_proba(X)[:, 1].mean() + 0.1
    with pytest.raises(ValueError, match="class_weight has 'left'; expected classes among 'down', 'up'"):
        classifier(class_weight={"left": 2.0}).fit(X, y)


# ---- files


def fitted() -> dict[str, tuple[Any, Callable[[Any], Any]]]:
    X, y = ragged(30)
    values = np.arange(30.0)
    series = np.sin(np.arange(90) / 4)
    beside = np.cos(np.arange(90) / 4)[:, None]
    return {
        "classifier": (classifier(class_weight={"up": 2.0}).fit(X, y), lambda e: e.predict_proba(X)),
        "regressor": (regressor(num_layers=2).fit(X, values), lambda e: e.predict(X)),
        "forecaster": (forecaster().fit(series, beside), lambda e: e.predict_interval()),
    }


@pytest.mark.parametrize("kind", ["classifier", "regressor", "forecaster"])
def test_saved_and_pickled_estimators_predict_the_same(kind: str, tmp_path: Path) -> None:
    estimator, predict = fitted()[kind]
    path = tmp_path / "model.safetensors"
    estimator.save(path)
    kept = path.read_bytes()
    for found in (type(estimator).load(path), fastrnn.load(path), pickle.loads(pickle.dumps(estimator))):
        assert_same_bits("predictions", predict(found), predict(estimator))
        assert found.get_params() == estimator.get_params()
        assert found.history_ == estimator.history_
        found.save(path)
        assert path.read_bytes() == kept


def test_other_files_are_refused(tmp_path: Path) -> None:
    from fastrnn.sklearn import SequenceRegressor

    path = tmp_path / "model.safetensors"
    estimator, _ = fitted()["classifier"]
    estimator.save(path)
    with pytest.raises(TypeError, match="holds a SequenceClassifier; expected a SequenceRegressor"):
        SequenceRegressor.load(path)
    groups, metadata = read_checkpoint(path)
    write_checkpoint(path, groups, metadata | {"format": 9})
    with pytest.raises(CheckpointError, match="of a later version of fastrnn; expected 1 or less: upgrade fastrnn"):
        fastrnn.load(path)
    write_checkpoint(path, groups, metadata | {"estimator": metadata["estimator"] | {"class": "SequenceRanker"}})
    with pytest.raises(CheckpointError, match="of the estimator 'SequenceRanker', which this version does not know"):
        fastrnn.load(path)


def test_the_loss_is_a_picture(tmp_path: Path) -> None:
    estimator, _ = fitted()["classifier"]
    estimator.plot_loss(tmp_path / "loss.png")
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")


# ---- forecasts


def test_forecasts_follow_a_series_that_rises_and_swings() -> None:
    t = np.arange(300)
    series = np.sin(t / 5) + t / 50
    estimator = forecaster(horizon=8, hidden_size=24, epochs=60).fit(series[:280])
    assert np.abs(estimator.predict() - series[280:288]).max() < 0.4
    assert np.abs(estimator.predict(series[:290]) - series[290:298]).max() < 0.4
    assert estimator.score(series) > 0.95
    low, high = estimator.predict_interval().T
    assert (low <= high).all()


def test_intervals_hold_about_their_share() -> None:
    rng = np.random.default_rng(0)
    series = rng.standard_normal(700)
    estimator = forecaster(horizon=1, quantiles=[0.1, 0.5, 0.9], lookback=4, epochs=20, hidden_size=4).fit(series[:500])
    inside = [low <= series[k] <= high for k in range(500, 700) for low, high in estimator.predict_interval(series[:k])]
    assert 0.65 < np.mean(inside) < 0.92


def test_what_is_known_beside_the_series_helps() -> None:
    rng = np.random.default_rng(0)
    ahead = rng.standard_normal((400, 1))
    series = np.r_[0.0, ahead[:-1, 0]]  # what the column says comes a step later
    plain, informed = (forecaster(horizon=1, epochs=40, hidden_size=16, learning_rate=0.02) for _ in range(2))
    assert informed.fit(series[:300], ahead[:300]).score(series[300:], ahead[300:]) > 0.9
    assert plain.fit(series[:300]).score(series[300:]) < 0.2


def test_several_series_of_several_columns() -> None:
    rng = np.random.default_rng(0)
    series = [rng.standard_normal((length, 2)).cumsum(axis=0) for length in (40, 60)]
    estimator = forecaster(quantiles=None).fit(series)
    assert [each.shape for each in estimator.predict(series)] == [(4, 2), (4, 2)]
    assert estimator.predict(series[0]).shape == (4, 2)
    with pytest.raises(ValueError, match="y is None, but fit was given several series"):
        estimator.predict()
    with pytest.raises(ValueError, match="quantiles is None; expected at least two for an interval"):
        estimator.predict_interval(series)


# ---- bad input

X, Y = ragged(30)
NUMBERS = np.arange(30.0)


def spoilt() -> list[Array]:
    found = [x.copy() for x in X]
    found[4][2, 1] = np.nan
    return found


BAD: dict[str, tuple[Callable[[], Any], str]] = {
    "nan": (lambda: classifier().fit(spoilt(), Y), r"X\[4\] holds nan at step 2, column 1; expected finite numbers"),
    "text": (lambda: classifier().fit([np.array([["a"]])] * 30, Y), r"X\[0\] has text; expected numbers"),
    "columns": (
        lambda: classifier().fit([*X[:-1], np.ones((3, 5))], Y),
        r"X\[29\] has 5 columns; expected 2, as X\[0\]",
    ),
    "empty": (lambda: classifier().fit([*X[:-1], np.ones((0, 2))], Y), r"X\[29\] has no steps; expected at least one"),
    "one class": (lambda: classifier().fit(X, ["a"] * 30), "y has one class, 'a'; expected at least two"),
    "fewer": (lambda: classifier().fit(X, Y[:-1]), "y has 29 classes; expected 30, one for each sequence of X"),
    "other columns": (lambda: classifier().fit(X, Y).predict([np.ones((2, 3))]), "X has 3 columns; expected 2, as fit"),
    "unseen": (
        lambda: classifier().fit(X, Y).score(X, ["left", *Y[1:]]),
        "y has 'left', which fit has not seen; expected classes among 'down', 'up'",
    ),
    "unseen later": (
        lambda: classifier().partial_fit(X, Y, classes=["down", "up"]).partial_fit(X, ["left", *Y[1:]]),
        "y has 'left', which fit has not seen",
    ),
    "classes": (lambda: classifier().partial_fit(X, Y), "classes is None; expected all classes in the first call"),
    "cell": (lambda: classifier(cell="tcn").fit(X, Y), "cell is 'tcn'; expected one of gru, lstm, rnn"),
    "pooling": (lambda: classifier(pooling="sum").fit(X, Y), "pooling is 'sum'; expected one of mean, last, max"),
    "a frame": (lambda: classifier(id_column="id").fit(X, Y), "X is .*; expected a frame of pandas or polars"),
    "steps": (lambda: regressor().fit(X, [x[:, 0] for x in X]), "expected one of each sequence, or every_step=True"),
    "no steps": (
        lambda: regressor(every_step=True).fit(X, [x[:2, 0] for x in X]),
        r"y\[\d\] has shape .* expected one",
    ),
    "loss": (lambda: regressor(loss="huber").fit(X, NUMBERS), "loss is 'huber'; expected 'mse' or 'mae'"),
    "short": (lambda: forecaster(lookback=50).fit(NUMBERS), "y has a series of 30 steps; expected at least 54, 50 to"),
    "hole": (lambda: forecaster().fit([1.0, np.nan] * 20), "y holds NaN or infinity at step 1; expected finite"),
    "texts": (lambda: forecaster().fit(["a"] * 40), "y has text; expected numbers"),
    "beside": (lambda: forecaster().fit(NUMBERS, np.ones((29, 1))), r"X has \[29\] steps; expected \[30\], as y has"),
    "quantiles": (lambda: forecaster(quantiles=[0.9, 0.1]).fit(NUMBERS), "expected rising numbers"),
    "too short": (lambda: forecaster().fit(NUMBERS).predict(NUMBERS[:3]), r"y\[0\] has 3 steps; expected at least 15"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_named_in_one_line(name: str) -> None:
    call, message = BAD[name]
    with pytest.raises((TypeError, ValueError), match=message) as refused:
        call()
    assert "\n" not in str(refused.value)
