"""How good predictions are, in numbers that people compare: scikit-learn's, of a model's outputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from fastrnn.checks import Array

__all__ = ["METRICS", "Metric"]

Metric: TypeAlias = Callable[[Array, Array], float]  # of outputs (R, K) and targets (R,) or (R, K)


def _labels(outputs: Array, targets: Array) -> tuple[Array, Array]:
    """Return predicted and true classes: the largest of K logits, or of a single one, or each of many, its sign."""
    if targets.ndim == 1 and outputs.shape[1] > 1:
        return outputs.argmax(axis=1), targets
    return (outputs > 0).astype(np.intp), (targets.reshape(outputs.shape) > 0.5).astype(np.intp)


def accuracy(outputs: Array, targets: Array) -> float:
    """Return the share of the predicted classes that are right."""
    predicted, true = _labels(outputs, targets)
    return float(np.mean(predicted == true))


def f1(outputs: Array, targets: Array) -> float:
    """Return ``2 TP / (2 TP + FP + FN)`` of the ones if there is one logit, else its mean over the classes."""
    predicted, true = _labels(outputs, targets)
    classes = np.array([1]) if true.ndim == 2 else np.union1d(predicted, true)
    scores = []
    for k in classes:
        hits, errors = np.sum((predicted == k) & (true == k)), np.sum((predicted == k) != (true == k))
        scores.append(2 * hits / (2 * hits + errors) if hits else 0.0)
    return float(np.mean(scores))


def mae(outputs: Array, targets: Array) -> float:
    """Return the mean of the absolute errors."""
    return float(np.mean(np.abs(_difference(outputs, targets))))


def mse(outputs: Array, targets: Array) -> float:
    """Return the mean of the squared errors."""
    return float(np.mean(np.square(_difference(outputs, targets))))


def rmse(outputs: Array, targets: Array) -> float:
    """Return the root of the mean of the squared errors."""
    return float(np.sqrt(mse(outputs, targets)))


def r2(outputs: Array, targets: Array) -> float:
    """Return 1 minus the squared errors over the squares around the mean, column by column, and the mean of that."""
    true = np.asarray(targets, np.float64).reshape(outputs.shape)
    around = np.square(true - true.mean(axis=0)).sum(axis=0)
    errors = np.square(_difference(outputs, targets)).sum(axis=0)
    return float(np.mean(np.where(around > 0, 1 - errors / np.where(around > 0, around, 1), (errors == 0) * 1.0)))


def _difference(outputs: Array, targets: Array) -> Array:
    return outputs.astype(np.float64) - np.asarray(targets, np.float64).reshape(outputs.shape)


METRICS: dict[str, Metric] = {metric.__name__: metric for metric in (accuracy, f1, mae, mse, rmse, r2)}
