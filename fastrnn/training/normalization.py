"""Layer normalisation of vectors."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fastrnn import ops
from fastrnn.checks import check_dtype, check_flag, check_instance, check_positive, check_positive_number, take_array
from fastrnn.parameters import Array
from fastrnn.training.architecture import Layer

__all__ = ["LayerNorm"]


class LayerNormTape(NamedTuple):
    """What `LayerNorm.forward` keeps for its `backward`."""

    standard: Array  # (..., K), x of mean 0 and variance 1
    scale: Array  # (..., 1), by which it was multiplied


class LayerNorm(Layer):
    """``(x - mean) / sqrt(variance + eps) * weight + bias`` over the last axis (Ba et al., 2016), as torch.nn's.

    Parameters
    ----------
    normalized_shape
        K, the size of the last axis.
    eps
        What is added to the variance.
    bias
        Whether there is one.
    dtype
        float32 or float64. `weight` (K,) begins at one, `bias` (K,) at zero.

    Examples
    --------
    >>> import numpy as np
    >>> y, tape = LayerNorm(2, dtype="float64").forward(np.array([[1.0, 3.0]]))
    >>> y.round(3)
    array([[-1.,  1.]])
    """

    def __init__(self, normalized_shape: int, eps: float = 1e-5, bias: bool = True, *, dtype: Any = "float32") -> None:
        self.normalized_shape = check_positive("normalized_shape", normalized_shape)
        self.eps = check_positive_number("eps", eps)
        self.bias = check_flag("bias", bias)
        self.dtype = check_dtype(dtype)
        shapes = {"weight": (self.normalized_shape,)}
        self._declare(shapes | ({"bias": (self.normalized_shape,)} if self.bias else {}), lambda _, K: np.ones(K), None)
        if self.bias:
            self._parameters["bias"][...] = 0

    def __call__(self, x: Any) -> Array:
        """Return y (..., K) for x (..., K)."""
        return self.forward(x)[0]

    def forward(self, x: Any) -> tuple[Array, LayerNormTape]:
        """Return y (..., K) for x (..., K), and the tape.

        Raises
        ------
        ValueError
            If the last axis of x is not K long.
        TypeError
            If the dtype of x is not the layer's.
        """
        x = take_array("x", x)
        shape = (*x.shape[:-1], self.normalized_shape)
        x = ops.as_real("x", x, self.dtype, shape, "(..., normalized_shape)")
        standard = x - x.mean(-1, keepdims=True)
        scale = 1 / np.sqrt(np.square(standard).mean(-1, keepdims=True) + self.dtype.type(self.eps))
        standard *= scale
        y = standard * self._parameters["weight"]
        if self.bias:
            y += self._parameters["bias"]
        return y, LayerNormTape(standard, scale)

    def backward(self, tape: LayerNormTape, dy: Any) -> tuple[Array, dict[str, Array]]:
        """Return dx (..., K) and the gradients by parameter name, for dy (..., K)."""
        standard, scale = check_instance("tape", tape, LayerNormTape, "the tape that forward returned")
        dy = ops.as_real("dy", dy, self.dtype, standard.shape, "the shape of y")
        rows = dy.reshape(-1, self.normalized_shape)
        grads = {"weight": np.einsum("rk,rk->k", rows, standard.reshape(rows.shape))}
        if self.bias:
            grads["bias"] = np.einsum("rk->k", rows)
        d = dy * self._parameters["weight"]
        along = (d * standard).mean(-1, keepdims=True)
        dx: Array = (d - d.mean(-1, keepdims=True) - standard * along) * scale
        return dx, grads
