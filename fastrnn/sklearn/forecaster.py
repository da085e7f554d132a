"""SequenceForecaster: the next steps of a series, with intervals."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.metrics import r2_score
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from fastrnn.checks import Array, check_number, check_positive
from fastrnn.sklearn.estimators import build
from fastrnn.sklearn.files import KeptEstimator
from fastrnn.sklearn.inputs import is_frame
from fastrnn.training import QuantileLoss, fit, predict

__all__ = ["SequenceForecaster"]

LOOKBACK = 24  # steps that are looked at, if nothing is said; twice the horizon if that is more


class SequenceForecaster(KeptEstimator):
    """The next `horizon` steps of a series, all at once, from the steps before them.

    The network reads how each step differs from the last one, the level itself, and the exogenous columns; it is asked
    for differences from the last step, so that a level that it has not seen does not confuse it.

    Parameters
    ----------
    horizon
        How many steps ahead to forecast.
    lookback
        How many steps the network reads; None for twice the horizon, at least 24, at most half of the shortest series.
    quantiles
        Rising, between 0 and 1: the forecast is the middle one, and the first and the last are the interval. None for
        the mean alone.
    cell, hidden_size, num_layers, dropout, batch_size, learning_rate, schedule, random_state, verbose
        As for `SequenceClassifier`.
    epochs
        How often the windows of the series are read, at the most. They overlap, so that few times are enough.
    validation, patience
        The share of each series, its end, that is held out, and how many epochs in a row without a lower loss on it end
        training; the best parameters are kept. Of a series that is too short nothing is held out.

    Attributes
    ----------
    model_, history_, n_iter_
        As for `SequenceClassifier`.
    lookback_ : int

    Examples
    --------
    >>> import numpy as np
    >>> from fastrnn.sklearn import SequenceForecaster
    >>> series = np.sin(np.arange(400) / 5)
    >>> forecaster = SequenceForecaster(horizon=10, hidden_size=32, random_state=0).fit(series[:380])
    >>> bool(np.abs(forecaster.predict() - series[380:390]).max() < 0.2)
    True
    >>> forecaster.predict_interval().shape
    (10, 2)
    """

    def __init__(
        self,
        horizon: int = 1,
        lookback: int | None = None,
        *,
        quantiles: Any = (0.1, 0.5, 0.9),
        cell: str = "gru",
        hidden_size: int = 64,
        num_layers: int = 1,
        dropout: float = 0.0,
        epochs: int = 30,
        batch_size: int = 32,
        learning_rate: float = 0.005,
        schedule: str = "cosine",
        validation: float | None = 0.1,
        patience: int | None = 15,
        random_state: Any = None,
        verbose: bool = False,
    ) -> None:
        self.horizon = horizon
        self.lookback = lookback
        self.quantiles = quantiles
        self.cell = cell
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.dropout = dropout
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.schedule = schedule
        self.validation = validation
        self.patience = patience
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, y: Any, X: Any = None) -> SequenceForecaster:
        """Train on a series.

        Parameters
        ----------
        y
            (T,) or (T, C), an array, a Series or a frame; or a list of several series of any lengths.
        X
            Exogenous columns, (T, E), or a list of them: what is known at each step, up to the last one. What is known
            ahead is given earlier: at the step from which on it is known.

        Raises
        ------
        TypeError, ValueError
            If a series is not of finite numbers, or too short.
        """
        horizon = check_positive("horizon", self.horizon)
        series, self._flat_ = _take_series("y", y)
        beside = _take_beside(X, series)
        shortest = min(map(len, series))
        if self.lookback is None:
            self.lookback_ = max(1, min(max(LOOKBACK, 2 * horizon), shortest // 2))
        else:
            self.lookback_ = check_positive("lookback", self.lookback)
        if shortest < self.lookback_ + horizon:
            raise ValueError(
                f"y has a series of {shortest} steps; expected at least {self.lookback_ + horizon}, "
                f"{self.lookback_} to look at and {horizon} to forecast"
            )
        loss = None if self.quantiles is None else QuantileLoss(self.quantiles)
        if loss is not None and sorted(set(loss.quantiles)) != loss.quantiles:
            raise ValueError(f"quantiles is {self.quantiles}; expected rising numbers")
        self._fit_scale(series, beside)
        inputs, targets, _, held, clear = self._windows(series, beside)
        self._seed_ = int(check_random_state(self.random_state).randint(2**31 - 1))
        outputs = targets.shape[1] * (1 if loss is None else len(loss.quantiles))
        self.model_ = build(
            inputs.shape[2],
            outputs,
            self._seed_,
            cell=self.cell,
            hidden_size=check_positive("hidden_size", self.hidden_size),
            num_layers=check_positive("num_layers", self.num_layers),
            bidirectional=False,
            dropout=self.dropout,
            pooling="last",
        )
        trained = clear if held.any() else np.full(len(held), True)
        self.history_ = fit(
            self.model_,
            inputs[trained],
            targets[trained],
            loss="mse" if loss is None else loss,
            epochs=self.epochs,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            schedule=self.schedule,
            validation=(inputs[held], targets[held]) if held.any() else None,
            patience=self.patience if held.any() else None,
            progress=bool(self.verbose),
            seed=self._seed_,
        )
        self.n_iter_ = len(self.history_.epochs)
        one = len(series) == 1
        self.tail_ = series[0][-self.lookback_ :] if one else None
        self.exogenous_tail_ = beside[0][-self.lookback_ :] if one and beside[0].shape[1] else None
        return self

    def predict(self, y: Any = None, X: Any = None) -> Any:
        """Return the next steps, (horizon,) or (horizon, C), or a list of them if y is a list.

        Parameters
        ----------
        y, X
            As for `fit`: what comes before. Without y it is the series that was fitted, if it was one.
        """
        found = self.predict_quantiles(y, X)
        listed = found if isinstance(found, list) else [found]
        middle = [each[..., each.shape[-1] // 2] for each in listed]
        return middle if isinstance(found, list) else middle[0]

    def predict_interval(self, y: Any = None, X: Any = None) -> Any:
        """Return the first and the last quantile of the next steps, (horizon, 2) or (horizon, C, 2)."""
        if self.quantiles is None or len(self.quantiles) < 2:
            raise ValueError(f"quantiles is {self.quantiles}; expected at least two for an interval")
        found = self.predict_quantiles(y, X)
        return [each[..., [0, -1]] for each in found] if isinstance(found, list) else found[..., [0, -1]]

    def predict_quantiles(self, y: Any = None, X: Any = None) -> Any:
        """Return all quantiles of the next steps, (horizon, Q) or (horizon, C, Q); Q is 1 for the mean."""
        check_is_fitted(self)
        if y is None:
            if self.tail_ is None:
                raise ValueError("y is None, but fit was given several series; expected one to go on from")
            y = self.tail_[:, 0] if self._flat_ else self.tail_
            X = self.exogenous_tail_ if X is None else X
        series, _ = _take_series("y", y)
        beside = _take_beside(X, series)
        self._check_columns(series, beside)
        for k, each in enumerate(series):
            if len(each) < self.lookback_:
                raise ValueError(f"y[{k}] has {len(each)} steps; expected at least {self.lookback_} to look at")
        ends = [len(each) for each in series]
        inputs = np.stack([self._window(s, b, end) for s, b, end in zip(series, beside, ends, strict=True)])
        lasts = np.stack([each[-1] for each in series])
        found = self._back(predict(self.model_, inputs), lasts)
        found = found[:, :, 0] if self._flat_ else found
        return list(found) if isinstance(y, (list, tuple)) and not np.isscalar(y[0]) else found[0]

    def score(self, y: Any, X: Any = None) -> float:
        """Return the coefficient of determination of the forecasts from every step that has enough before it."""
        check_is_fitted(self)
        series, _ = _take_series("y", y)
        beside = _take_beside(X, series)
        self._check_columns(series, beside)
        inputs, targets, lasts, _, _ = self._windows(series, beside)
        if not len(inputs):
            raise ValueError(f"y has {len(series[0])} steps; expected at least {self.lookback_ + self.horizon}")
        found = self._back(predict(self.model_, inputs), lasts)
        middle = found[..., found.shape[-1] // 2].reshape(len(inputs), -1)
        true = targets.reshape(len(inputs), self.horizon, -1) * self.y_scale_ + lasts[:, None]
        return float(r2_score(true.reshape(len(inputs), -1), middle, multioutput="variance_weighted"))

    # ---- windows

    def _fit_scale(self, series: list[Array], beside: list[Array]) -> None:
        rows, others = np.concatenate(series), np.concatenate(beside)
        self.y_mean_, spread = rows.mean(axis=0), rows.std(axis=0)
        self.y_scale_ = np.where(spread > 0, spread, 1.0)
        self.mean_, spread = others.mean(axis=0), others.std(axis=0)
        self.scale_ = np.where(spread > 0, spread, 1.0)

    def _window(self, series: Array, beside: Array, end: int) -> Array:
        """What the network reads before step `end`, (lookback, 2C + E)."""
        seen = slice(end - self.lookback_, end)
        y = series[seen]
        others = (beside[seen] - self.mean_) / self.scale_
        return np.hstack([(y - y[-1]) / self.y_scale_, (y - self.y_mean_) / self.y_scale_, others]).astype(np.float32)

    def _windows(self, series: list[Array], beside: list[Array]) -> tuple[Array, ...]:
        """Return what is read before each step that can be forecast from, what comes, and the values it goes on from.

        And which of them to hold out, and which end before anything that is held out.
        """
        share = self.validation
        if share is not None:
            share = check_number("validation", share, "a share between 0 and 1", lambda number: 0 < number < 1)
        inputs, targets, held, clear, lasts = [], [], [], [], []
        for y, x in zip(series, beside, strict=True):
            ends = range(self.lookback_, len(y) - self.horizon + 1)
            cut = len(y) if share is None else len(y) - max(self.horizon, round(share * len(y)))
            cut = cut if cut >= self.lookback_ + self.horizon else len(y)  # too short to hold anything out
            for end in ends:
                inputs.append(self._window(y, x, end))
                targets.append(((y[end : end + self.horizon] - y[end - 1]) / self.y_scale_).ravel())
                held.append(end >= cut)
                clear.append(end + self.horizon <= cut)
                lasts.append(y[end - 1])
        return np.array(inputs), np.array(targets), np.array(lasts), np.array(held, bool), np.array(clear, bool)

    def _back(self, outputs: Array, lasts: Array) -> Array:
        """Return values (n, horizon, C, Q) of what the network gives, quantiles in their order."""
        found = outputs.astype(np.float64).reshape(len(lasts), self.horizon, len(self.y_scale_), -1)
        found = np.sort(found, axis=-1)
        return found * self.y_scale_[:, None] + lasts[:, None, :, None]

    def _check_columns(self, series: list[Array], beside: list[Array]) -> None:
        for name, found, known in (("y", series, self.y_mean_), ("X", beside, self.mean_)):
            if found[0].shape[1] != len(known):
                raise ValueError(f"{name} has {found[0].shape[1]} columns; expected {len(known)}, as fit was given")


def _take_series(name: str, value: Any) -> tuple[list[Array], bool]:
    """Return series (T, C) that a caller gives, and whether they came without columns."""
    several = isinstance(value, (list, tuple)) and len(value) > 0 and not np.isscalar(value[0])
    listed = list(value) if several else [value]
    found = []
    for k, each in enumerate(listed):
        which = f"{name}[{k}]" if several else name
        array = np.asarray(each.to_numpy() if is_frame(each) or hasattr(each, "to_numpy") else each)
        if array.dtype.kind not in "fiub":
            raise TypeError(f"{which} has {'text' if array.dtype.kind in 'USO' else array.dtype}; expected numbers")
        if array.ndim not in (1, 2) or not array.size:
            raise ValueError(f"{which} has shape {array.shape}; expected (T,) or (T, C) with at least one step")
        if not np.isfinite(array).all():
            step = int(np.argwhere(~np.isfinite(array))[0, 0])
            raise ValueError(f"{which} holds NaN or infinity at step {step}; expected finite numbers: fill them in")
        found.append(array.astype(np.float64))
    flat = found[0].ndim == 1
    found = [each[:, None] if each.ndim == 1 else each for each in found]
    if other := next((each.shape[1] for each in found if each.shape[1] != found[0].shape[1]), None):
        raise ValueError(f"{name} has series of {found[0].shape[1]} and of {other} columns; expected one number")
    return found, flat


def _take_beside(X: Any, series: list[Array]) -> list[Array]:
    """Return the exogenous columns of each series, (T, E), none if X is None."""
    if X is None:
        return [np.zeros((len(each), 0)) for each in series]
    found, _ = _take_series("X", X)
    if [len(each) for each in found] != [len(each) for each in series]:
        raise ValueError(
            f"X has {[len(each) for each in found]} steps; expected {[len(each) for each in series]}, as y has"
        )
    return found
