"""The layers around a recurrent one: token embedding, affine map and dropout, each with its backward."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fastrnn import ops, stack
from fastrnn.backends import check_run
from fastrnn.checks import (
    check_dtype,
    check_flag,
    check_index,
    check_instance,
    check_positive,
    check_share,
    make_generator,
    shown,
    take_array,
    take_floats,
    take_integers,
)
from fastrnn.parameters import Array, uniform
from fastrnn.training.architecture import Layer

__all__ = ["Dropout", "Embedding", "Linear"]


class Embedding(Layer):
    """A learned vector per token.

    Parameters
    ----------
    num_embeddings
        V, the number of tokens.
    embedding_dim
        E, the size of a vector.
    padding_idx
        The token that stands for padding, if any: its vector is zero at first and has no gradient.
    dtype
        float32 or float64.
    seed
        Anything `numpy.random.default_rng` takes. `weight` (V, E) is drawn from N(0, 1), as in torch.nn.Embedding.

    Examples
    --------
    >>> import numpy as np
    >>> embedding = Embedding(10, 3, seed=0)
    >>> embedding(np.array([[1, 2], [1, 9]])).shape
    (2, 2, 3)
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        *,
        dtype: Any = "float32",
        seed: Any = None,
    ) -> None:
        self.num_embeddings = check_positive("num_embeddings", num_embeddings)
        self.embedding_dim = check_positive("embedding_dim", embedding_dim)
        self.dtype = check_dtype(dtype)
        shape = (self.num_embeddings, self.embedding_dim)
        self._declare({"weight": shape}, lambda rng, shape: rng.standard_normal(shape), seed)
        if padding_idx is not None:
            padding_idx = check_index("padding_idx", padding_idx, self.num_embeddings, "num_embeddings")
            self._parameters["weight"][padding_idx] = 0
        self.padding_idx = padding_idx

    def __call__(self, tokens: Any) -> Array:
        """Return the vectors (..., E) of integer `tokens` (...)."""
        return self.forward(tokens)[0]

    def forward(self, tokens: Any) -> tuple[Array, Array]:
        """Return the vectors (..., E) of integer `tokens` (...) and the tape.

        Raises
        ------
        TypeError
            If the tokens are not integers.
        ValueError
            If a token is negative or not below V.
        """
        tokens = ops.as_tokens("tokens", take_integers("tokens", tokens), self.num_embeddings, "num_embeddings")
        return self._parameters["weight"][tokens], tokens

    def backward(self, tape: Array, dy: Any) -> tuple[None, dict[str, Array]]:
        """Return None, tokens having no gradient, and the gradient of `weight` for that of the vectors (..., E)."""
        tape = check_instance("tape", tape, np.ndarray, "the tape that forward returned")
        tape = ops.as_tokens("tape", take_integers("tape", tape), self.num_embeddings, "num_embeddings")
        shape = (*tape.shape, self.embedding_dim)
        tokens, rows = tape.ravel(), ops.as_real("dy", dy, self.dtype, shape, "the shape of y").reshape(-1, shape[-1])
        dweight = ops.scatter_add(np.ascontiguousarray(rows), np.ascontiguousarray(tokens), self.num_embeddings)
        if self.padding_idx is not None:
            dweight[self.padding_idx] = 0
        return None, {"weight": dweight}


class Linear(Layer):
    """The affine map ``y = x weight^T + bias`` over the last axis.

    Parameters
    ----------
    in_features, out_features
        The sizes of x and of y.
    bias
        Whether to add one.
    dtype
        float32 or float64.
    seed
        Anything `numpy.random.default_rng` takes. `weight` (out, in) and `bias` (out,) are drawn from
        U(-1/sqrt(in), 1/sqrt(in)), as in torch.nn.Linear.
    backend, num_threads
        As for `fastrnn.LSTM`.

    Examples
    --------
    >>> import numpy as np
    >>> linear = Linear(4, 2, seed=0)
    >>> y, tape = linear.forward(np.ones((5, 3, 4), "float32"))
    >>> dx, grads = linear.backward(tape, np.ones_like(y))
    >>> y.shape, dx.shape, grads["weight"].shape
    ((5, 3, 2), (5, 3, 4), (2, 4))
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        dtype: Any = "float32",
        seed: Any = None,
        backend: str | None = None,
        num_threads: int | None = None,
    ) -> None:
        self.in_features = check_positive("in_features", in_features)
        self.out_features = check_positive("out_features", out_features)
        self.dtype = check_dtype(dtype)
        shapes: dict[str, tuple[int, ...]] = {"weight": (self.out_features, self.in_features)}
        self.bias = check_flag("bias", bias)
        if self.bias:
            shapes["bias"] = (self.out_features,)
        self.backend, self.num_threads = check_run(backend, num_threads)
        self._declare(shapes, uniform(1 / math.sqrt(self.in_features)), seed)

    def __call__(self, x: Any) -> Array:
        """Return y (..., out) for x (..., in)."""
        return self.forward(x)[0]

    def forward(self, x: Any) -> tuple[Array, Array]:
        """Return y (..., out) for x (..., in), and the tape, which is x.

        Raises
        ------
        ValueError
            If the last axis of x is not `in_features` long.
        TypeError
            If the dtype of x is not the layer's.
        """
        x = take_array("x", x)
        x = ops.as_real("x", x, self.dtype, (*x.shape[:-1], self.in_features), "(..., in_features)")
        rows = x.reshape(-1, self.in_features)
        y = self._multiply(rows, self._parameters["weight"].T, self._parameters.get("bias"))
        return y.reshape(*x.shape[:-1], self.out_features), x

    def backward(self, tape: Array, dy: Any) -> tuple[Array, dict[str, Array]]:
        """Return dx (..., in) and the gradients by parameter name, for dy (..., out)."""
        tape = check_instance("tape", tape, np.ndarray, "the tape that forward returned")
        tape = ops.as_real("tape", tape, self.dtype, (*tape.shape[:-1], self.in_features), "(..., in_features)")
        shape = (*tape.shape[:-1], self.out_features)
        dy = ops.as_real("dy", dy, self.dtype, shape, "the shape of y").reshape(-1, self.out_features)
        dx = self._multiply(dy, self._parameters["weight"])  # y = x @ weight.T
        grads = {"weight": self._multiply(dy.T, tape.reshape(-1, self.in_features))}
        if "bias" in self._parameters:
            grads["bias"] = np.einsum("rv->v", dy)  # y = ... + bias; dy.sum(axis=0), at a third of its time
        return dx.reshape(tape.shape), grads

    def _multiply(self, a: Array, b: Array, bias: Array | None = None) -> Array:
        return ops.multiply(a, b, bias, backend=self.backend, num_threads=self.num_threads)


class Dropout(Layer):
    """In training sets a random share of the elements to zero and divides the others by what is left of 1.

    Parameters
    ----------
    p
        The share, from 0 to 1.
    seed
        Anything `numpy.random.default_rng` takes.

    Examples
    --------
    >>> import numpy as np
    >>> dropout, x = Dropout(0.5, seed=0), np.ones(6, "float32")
    >>> y, tape = dropout.forward(x)
    >>> y
    array([2., 2., 2., 0., 0., 0.], dtype=float32)
    >>> dropout(x)
    array([1., 1., 1., 1., 1., 1.], dtype=float32)
    """

    def __init__(self, p: float = 0.5, *, seed: Any = None) -> None:
        self.p = check_share("p", p)
        self.seed_dropout(self._declare({}, uniform(0), seed))

    def seed_dropout(self, seed: Any) -> None:
        """Have it draw from `seed` on, anything `numpy.random.default_rng` takes."""
        self._dropout = stack.Dropout(self.p, (make_generator(seed),))

    def __call__(self, x: Any) -> Array:
        """Return x as it is: calling a layer is inference."""
        return take_array("x", x)

    def forward(self, x: Any) -> tuple[Array, Array]:
        """Return y, of x's shape and dtype, and the tape: which elements were kept; TypeError unless x is of floats."""
        return self._dropout(take_floats("x", x), layer=1)

    def backward(self, tape: Array, dy: Any) -> tuple[Array, dict[str, Array]]:
        """Return dx for dy, and no gradients of parameters, as there are none."""
        dy = take_floats("dy", dy)
        if not isinstance(tape, np.ndarray) or tape.dtype != bool:
            raise TypeError(f"tape is {shown(tape)}; expected the tape that forward returned")
        if dy.shape != tape.shape:
            raise ValueError(f"dy has shape {dy.shape}; expected the shape of y = {tape.shape}")
        return self._dropout.scale(dy, tape), {}
