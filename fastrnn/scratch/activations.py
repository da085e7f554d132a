"""Activation functions with their derivatives.

Whether `backward` takes the input of `forward` or its output is as users of these names know it, and differs.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fastrnn.checks import Array, check_positive_number, take_reals
from fastrnn.reference import sigmoid as _sigmoid

__all__ = [
    "Linear",
    "LinearActivation",
    "Sigmoid",
    "SigmoidActivation",
    "Softmax",
    "SoftmaxActivation",
    "Tanh",
    "TanhActivation",
    "sigmoid",
    "softmax",
]


def sigmoid(x: Any) -> Array:
    """Return 1 / (1 + exp(-x)), without overflow for any x."""
    return _sigmoid(take_reals("x", x))


def softmax(z: Any, temperature: float = 1.0) -> Array:
    """Return exp(z / temperature) over its sum along the first axis, without overflow for any z.

    Parameters
    ----------
    z
        Logits (n_y,), (n_y, m) or (n_y, m, T_x).
    temperature
        Above 0: below 1 the largest become larger.

    Raises
    ------
    ValueError
        If the temperature is not positive.

    Examples
    --------
    >>> softmax([[0.0], [0.0]]).ravel()
    array([0.5, 0.5])
    """
    temperature = check_positive_number("temperature", temperature)
    z = take_reals("z", z)
    if not z.ndim or not z.shape[0]:
        raise ValueError(f"z has shape {z.shape}; expected (n_y,), (n_y, m) or (n_y, m, T_x), n_y at least 1")
    with np.errstate(over="ignore"):  # -inf is right for a temperature next to 0
        p: Array = np.exp((z - z.max(axis=0, keepdims=True)) / temperature)
    p /= p.sum(axis=0, keepdims=True)
    return p


class Linear:
    """The identity."""

    @staticmethod
    def forward(x: Any) -> Array:
        """Return x."""
        return take_reals("x", x)

    @staticmethod
    def backward(x: Any) -> Array:
        """Return the derivative at the INPUT x: ones."""
        return np.ones_like(take_reals("x", x))


class Tanh:
    """The hyperbolic tangent.

    Examples
    --------
    >>> float(Tanh.backward(0.0))
    1.0
    """

    @staticmethod
    def forward(x: Any) -> Array:
        """Return tanh(x)."""
        y: Array = np.tanh(take_reals("x", x))
        return y

    @staticmethod
    def backward(x: Any) -> Array:
        """Return the derivative at the INPUT x: 1 - tanh(x)^2."""
        slope: Array = 1 - np.tanh(take_reals("x", x)) ** 2
        return slope


class Sigmoid:
    """The logistic function.

    Examples
    --------
    >>> s = Sigmoid.forward(0.0)
    >>> float(s), float(Sigmoid.backward(s))
    (0.5, 0.25)
    """

    @staticmethod
    def forward(x: Any) -> Array:
        """Return 1 / (1 + exp(-x))."""
        return sigmoid(x)

    @staticmethod
    def backward(s: Any) -> Array:
        """Return the derivative where the OUTPUT is s: s (1 - s)."""
        s = take_reals("s", s)
        slope: Array = s * (1 - s)
        return slope


class Softmax:
    """The softmax over the first axis, with a temperature.

    Examples
    --------
    >>> Softmax.backward(Softmax.forward([0.0, 0.0]))
    array([[ 0.25, -0.25],
           [-0.25,  0.25]])
    """

    @staticmethod
    def forward(z: Any, temperature: float = 1.0) -> Array:
        """Return ``softmax(z, temperature)``."""
        return softmax(z, temperature)

    @staticmethod
    def backward(s: Any, temperature: float = 1.0) -> Array:
        """Return the Jacobian ds_i / dz_j where the OUTPUT is s: (n, n) for (n,) or (n, 1), (n, n, m) for (n, m)."""
        s = take_reals("s", s)
        temperature = check_positive_number("temperature", temperature)
        if not 1 <= s.ndim <= 2 or not s.size:
            raise ValueError(f"s has shape {s.shape}; expected (n,) or (n, m), not empty")
        columns = s.reshape(len(s), -1)
        jacobian: Array = (np.eye(len(s))[..., None] * columns - columns[:, None] * columns) / temperature
        return jacobian[..., 0] if columns.shape[1] == 1 else jacobian


# The names in full, as the character models import them.
LinearActivation, SigmoidActivation, SoftmaxActivation, TanhActivation = Linear, Sigmoid, Softmax, Tanh
