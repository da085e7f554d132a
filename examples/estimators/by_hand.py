"""What has to be written around a network of another library: padding, scaling, a held-out share, windows."""

from __future__ import annotations

from typing import Any

import numpy as np
from data import HORIZON, LOOKBACK, Classes, Series
from sklearn.metrics import r2_score
from sklearn.model_selection import train_test_split


def pad(sequences: list[Any], steps: int, mean: Any, scale: Any) -> Any:
    """Return scaled sequences as one array (n, T, I), zeros being the padding."""
    padded = np.zeros((len(sequences), steps, sequences[0].shape[1]), np.float32)
    for row, each in zip(padded, sequences, strict=True):
        row[: len(each)] = (each - mean) / scale
    return padded


def arrays(data: Classes, seed: int) -> tuple[Any, ...]:
    """Return x, lengths and classes to train with, to validate with, and to be scored on."""
    rows = np.concatenate(data.x)
    mean, scale = rows.mean(axis=0), np.where(rows.std(axis=0) > 0, rows.std(axis=0), 1)
    steps = max(len(each) for each in [*data.x, *data.x_test])
    classes = np.unique(data.y)
    x, x_test = (pad(each, steps, mean, scale) for each in (data.x, data.x_test))
    lengths, lengths_test = (np.array([len(s) for s in each]) for each in (data.x, data.x_test))
    y, y_test = (np.searchsorted(classes, each) for each in (data.y, data.y_test))
    train, held = train_test_split(np.arange(len(x)), test_size=0.1, random_state=seed)
    parts = [(x[part], lengths[part], y[part]) for part in (train, held)]
    return *parts, (x_test, lengths_test, y_test)


def windows(data: Series) -> tuple[Any, ...]:
    """Return windows of the series and what comes after them, to train with, to validate with, and to be scored on."""
    mean, scale = data.train.mean(), data.train.std()

    def cut(values: Any) -> tuple[Any, Any]:
        scaled = ((values - mean) / scale).astype(np.float32)
        ends = range(LOOKBACK, len(scaled) - HORIZON + 1)
        return (
            np.stack([scaled[end - LOOKBACK : end, None] for end in ends]),
            np.stack([scaled[end : end + HORIZON] for end in ends]),
        )

    held = len(data.train) // 10 + LOOKBACK
    return cut(data.train[: LOOKBACK - held]), cut(data.train[-held:]), cut(data.test)


def determination(want: Any, got: Any) -> float:
    """Return the coefficient of determination over all steps, as SequenceForecaster.score has it."""
    return float(r2_score(want, got, multioutput="variance_weighted"))
