"""Sequences with their targets and weights, checked once: what `fit` trains on and what it holds out."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from fastrnn.checks import Array, check_mapping, check_number, shown, take_array
from fastrnn.training.losses import bce_with_logits, cross_entropy, mae, mse
from fastrnn.training.sequences import Places, Sequences, take_steps

__all__ = [
    "LOSSES",
    "Examples",
    "Loss",
    "Outputs",
    "class_weights",
    "compute_loss",
    "digest",
    "normalized",
    "sample_weights",
    "split",
    "take_targets",
]

Loss: TypeAlias = Callable[..., tuple[float, Array]]
LOSSES: dict[str, Loss] = {"cross_entropy": cross_entropy, "bce_with_logits": bce_with_logits, "mse": mse, "mae": mae}


@dataclass(frozen=True)
class Outputs:
    """What a model gives."""

    size: int  # K
    every_step: bool  # one row for every step, or one for the sequence
    dtype: np.dtype[Any]


@dataclass(frozen=True)
class Examples:
    """Sequences with a target each, or one for every step."""

    x: Sequences
    y: Array  # (n, ...), or (S, ...) of all steps, in the order of x.values
    weights: Array | None  # (n,), or (S,)
    every_step: bool

    def of(self, members: Array) -> Examples:
        """Return those of some sequences."""
        if self.every_step:
            return Examples(self.x.of(members), self.y, self.weights, True)
        weights = None if self.weights is None else self.weights[members]
        return Examples(self.x.of(members), self.y[members], weights, False)

    def targets(self, members: Array, places: Places) -> tuple[Array, Array | None]:
        """Return the targets (R, ...) and weights (R,) of a batch, in the order in which a model's rows are taken."""
        if self.every_step:
            return places.rows(self.y), None if self.weights is None else places.rows(self.weights)
        return self.y[members], None if self.weights is None else self.weights[members]

    def size(self, members: Array) -> int:
        """Count the targets of a batch."""
        return int(self.x.lengths[members].sum()) if self.every_step else len(members)

    def rows(self) -> Array:
        """Return which rows of y and the weights are these examples'."""
        everything = np.arange(len(self.x))
        return self.x.places(everything, True).rows(np.arange(len(self.y))) if self.every_step else everything

    def add_to(self, digest: Any) -> None:
        """Have a digest tell these examples from others."""
        for array in (self.x.values, self.x.starts, self.x.lengths, self.y, self.weights):
            if array is not None:
                digest.update(f"{array.dtype}{array.shape}".encode() + np.ascontiguousarray(array).tobytes())


def digest(*examples: Examples | None) -> str:
    """Return a text that tells examples from others."""
    found = hashlib.sha256()
    for each in examples:
        if each is not None:
            each.add_to(found)
    return found.hexdigest()


def take_targets(name: str, value: Any, x: Sequences, of: str, outputs: Outputs, loss: Any) -> tuple[Array, Loss]:
    """Return targets that a caller gives for sequences x, which are called `of`, and the loss: a function.

    Raises
    ------
    TypeError
        If they are not numbers, or none that the loss takes.
    ValueError
        If they are not as many as there are sequences or steps, of another shape than the outputs, NaN, or no classes.
    """
    K = outputs.size
    y = take_steps(name, value, x, of) if outputs.every_step else take_array(name, value)
    if y.dtype.kind not in "fiub":
        what = "text" if y.dtype.kind in "USO" else f"dtype {y.dtype}"
        raise TypeError(f"{name} has {what}; expected numbers: classes as integers from 0 on")
    if not outputs.every_step and (y.ndim == 0 or len(y) != len(x)):
        raise ValueError(f"{name} has shape {y.shape}; expected {len(x)} targets, one for each sequence of {of}")
    if y.dtype.kind == "f":
        with np.errstate(over="ignore"):
            finite = np.isfinite(y.astype(outputs.dtype))
    if y.dtype.kind == "f" and not finite.all():
        k = int(np.argwhere(~finite)[0, 0])
        raise ValueError(f"{name} holds {y[k] if y.ndim == 1 else 'NaN or infinity'} at {k}; expected finite numbers")
    if callable(loss):
        return (y.astype(outputs.dtype) if y.dtype.kind == "f" else y), loss
    if loss is None:
        loss = _usual(y, K)
    if loss == "cross_entropy":
        if y.dtype.kind not in "iub" or y.ndim != 1:
            raise TypeError(
                f"{name} has dtype {y.dtype} and shape {y.shape}; expected classes for the loss cross_entropy, "
                f"integers from 0 to {K - 1}, one for each {'step' if outputs.every_step else 'sequence'}"
            )
        y = y.astype(np.intp)
        if y.size and not 0 <= y.min() <= y.max() < K:
            raise ValueError(
                f"{name} holds classes from {y.min()} to {y.max()}; expected 0 to {K - 1}, as the model has {K} outputs"
            )
        return y, cross_entropy
    if y.shape[1:] != (K,) and not (K == 1 and y.ndim == 1):
        each = f"({len(y)}, {K})" if K > 1 else f"({len(y)},)"
        raise ValueError(f"{name} has shape {y.shape}; expected {each}, as the model has {K} outputs")
    if loss == "bce_with_logits" and y.size and not 0 <= y.min() <= y.max() <= 1:
        raise ValueError(f"{name} holds values from {y.min()} to {y.max()}; expected 0 to 1 for the loss {loss}")
    return y.astype(outputs.dtype), LOSSES[loss]


def _usual(y: Array, K: int) -> str:
    """The loss that targets ask for."""
    if y.dtype.kind == "f":
        return "mse"
    if y.ndim == 1 and K > 1:
        return "cross_entropy"
    return "bce_with_logits" if y.size and 0 <= y.min() <= y.max() <= 1 else "mse"


def compute_loss(loss: Loss, rows: Array, targets: Array, weights: Array | None) -> tuple[float, Array]:
    """Return the loss of rows (R, K) and its gradient, each row's terms multiplied with its weight."""
    ours = loss in LOSSES.values()
    if ours and loss is not cross_entropy:
        targets = targets.reshape(rows.shape)
        weights = None if weights is None else np.broadcast_to(weights[:, None], rows.shape)
    found = loss(rows, targets) if weights is None else loss(rows, targets, weights=weights)
    if not ours and not (isinstance(found, tuple) and len(found) == 2 and np.shape(found[1]) == rows.shape):
        raise TypeError(f"loss gives {shown(found)}; expected the loss and its gradient, an array {rows.shape}")
    return found


def class_weights(value: Any, y: Array, K: int) -> Array:
    """Return the weight of each target (R,) by its class; "balanced" gives all classes the same sum.

    Raises
    ------
    TypeError, ValueError
        If the targets are not classes, or the value is no such thing.
    """
    if not _are_classes(y):
        raise ValueError("class_weight is given, but y is not of classes, one of each target; expected None")
    classes = y.astype(np.intp)
    count = max(K, 2)
    if isinstance(value, str):
        if value != "balanced":
            raise ValueError(f"class_weight is {shown(value)}; expected 'balanced', None or a mapping of weights")
        counts = np.bincount(classes, minlength=count)
        return (len(y) / (np.maximum(counts, 1) * np.count_nonzero(counts)))[classes]
    by_class = np.ones(count)
    given: Mapping[Any, Any] = check_mapping("class_weight", value, "classes to weights, or 'balanced'")
    for k, weight in given.items():
        if isinstance(k, bool) or not isinstance(k, (int, np.integer)) or not 0 <= k < count:
            raise ValueError(f"class_weight has {shown(k)}; expected classes from 0 to {count - 1}")
        by_class[k] = check_number(f"class_weight[{k}]", weight, "at least 0", lambda w: 0 <= w < np.inf)
    return by_class[classes]


def _are_classes(y: Array) -> bool:
    return y.ndim == 1 and (y.dtype.kind in "iub" or bool(np.isin(y, (0, 1)).all()))


def sample_weights(name: str, value: Any, n: int) -> Array:
    """Return weights (n,) that a caller gives; TypeError or ValueError unless they are finite and not negative."""
    weights = take_array(name, value)
    if weights.dtype.kind not in "fiub":
        raise TypeError(f"{name} has dtype {weights.dtype}; expected numbers")
    if weights.shape != (n,):
        raise ValueError(f"{name} has shape {weights.shape}; expected ({n},), one for each sequence")
    if not (np.isfinite(weights).all() and (weights >= 0).all()):
        raise ValueError(f"{name} holds a negative, an infinite number or NaN; expected weights of at least 0")
    return weights.astype(np.float64)


def normalized(weights: Array, dtype: np.dtype[Any], rows: Array) -> Array:
    """Return weights whose mean over some rows is 1; ValueError if all of these are 0."""
    weights = np.array(weights, np.float64)
    count, total = len(rows), float(weights[rows].sum())
    if not total:
        raise ValueError(
            "sample_weight and class_weight: the weights of all training data are zero; expected some above"
        )
    weights *= count / total
    return weights.astype(dtype)


def split(examples: Examples, share: float, rng: np.random.Generator) -> tuple[Array, Array]:
    """Return which sequences to train on and which to hold out, drawn; of each class about the same share.

    Raises
    ------
    ValueError
        If there are not enough for both.
    """
    n = len(examples.x)
    order = rng.permutation(n)
    if not examples.every_step and _are_classes(examples.y):
        _, classes, counts = np.unique(examples.y, return_inverse=True, return_counts=True)
        order = order[np.argsort(classes[order], kind="stable")]
        order = order[counts[classes[order]] > 1]  # the only one of its class is trained on
    edges = np.floor(np.arange(len(order) + 1) * share + 0.5)
    held = np.zeros(n, bool)
    held[order[np.diff(edges) > 0]] = True
    if held.all() or not held.any():
        raise ValueError(f"validation is {share}, but X has {n} sequences; expected enough to train and to hold out")
    return np.flatnonzero(~held), np.flatnonzero(held)
