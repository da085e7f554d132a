"""Activations as layers, of any shape: what stands between two affine maps, or at the end."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastrnn import ops
from fastrnn.cells import sigmoid
from fastrnn.checks import check_instance, take_floats
from fastrnn.parameters import Array, uniform
from fastrnn.training.architecture import Layer

__all__ = ["ReLU", "Sigmoid", "Softmax", "Tanh"]


class _Activation(Layer):
    """A function of x alone, whose derivative its value tells."""

    def __init__(self) -> None:
        self._declare({}, uniform(0), None)

    def __call__(self, x: Any) -> Array:
        """Return y, of the shape and dtype of x; TypeError unless x is of float32 or float64."""
        return self._value(take_floats("x", x))

    def forward(self, x: Any) -> tuple[Array, Array]:
        """Return y, and the tape, which is y."""
        y = self(x)
        return y, y

    def backward(self, tape: Array, dy: Any) -> tuple[Array, dict[str, Array]]:
        """Return dx for dy, and no gradients of parameters, as there are none."""
        y = check_instance("tape", tape, np.ndarray, "the tape that forward returned")
        return self._gradient(y, ops.as_real("dy", dy, y.dtype, y.shape, "the shape of y")), {}

    def _value(self, x: Array) -> Array:
        raise NotImplementedError

    def _gradient(self, y: Array, dy: Array) -> Array:
        raise NotImplementedError


class ReLU(_Activation):
    """max(x, 0).

    Examples
    --------
    >>> import numpy as np
    >>> ReLU()(np.array([-1.0, 2.0]))
    array([0., 2.])
    """

    def _value(self, x: Array) -> Array:
        return np.maximum(x, 0)

    def _gradient(self, y: Array, dy: Array) -> Array:
        return np.where(y > 0, dy, dy.dtype.type(0))


class Sigmoid(_Activation):
    """1 / (1 + exp(-x)); before `bce_with_logits` there must be none."""

    def _value(self, x: Array) -> Array:
        return np.asarray(sigmoid(x), x.dtype)

    def _gradient(self, y: Array, dy: Array) -> Array:
        dx: Array = dy * y * (1 - y)
        return dx


class Tanh(_Activation):
    """tanh(x)."""

    def _value(self, x: Array) -> Array:
        return np.tanh(x)

    def _gradient(self, y: Array, dy: Array) -> Array:
        dx: Array = dy * (1 - y * y)
        return dx


class Softmax(_Activation):
    """exp(x) over its sum along the last axis; before `cross_entropy`, which has its own, there must be none.

    Examples
    --------
    >>> import numpy as np
    >>> Softmax()(np.zeros((1, 4)))
    array([[0.25, 0.25, 0.25, 0.25]])
    """

    def _value(self, x: Array) -> Array:
        if x.ndim == 0 or not x.size:
            raise ValueError(f"x has shape {x.shape}; expected (..., K), not empty")
        rows, _, _ = ops.softmax(np.ascontiguousarray(x.reshape(-1, x.shape[-1])), 1.0)
        return rows.reshape(x.shape)

    def _gradient(self, y: Array, dy: Array) -> Array:
        dx: Array = y * (dy - np.sum(y * dy, axis=-1, keepdims=True))
        return dx
