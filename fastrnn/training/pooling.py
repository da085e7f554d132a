"""Many to one: a sequence's vectors as one vector, of the steps that it really has."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from fastrnn import ops
from fastrnn.checks import (
    check_choice,
    check_dtype,
    check_flag,
    check_instance,
    check_positive,
    take_array,
    take_floats,
)
from fastrnn.parameters import Array, uniform
from fastrnn.rows import as_flags
from fastrnn.training.architecture import Layer

__all__ = ["AttentionPool", "Pool"]

KINDS = ("last", "mean", "max")


class _Pooling(Layer):
    """What reads a sequence to its end; a batch's axes and which steps count are looked after here."""

    takes_lengths = takes_masks = True
    batch_first: bool

    def _take(self, x: Array, lengths: Any, mask: Any, resets: Any) -> tuple[Array, Array]:
        """Return x as (T, N, K), and which steps count, (T, N)."""
        if x.ndim not in (2, 3):
            raise ValueError(f"x has shape {x.shape}; expected (T, N, K), or (T, K) of a single sequence")
        batched, axes, letters = x.ndim == 3, x.shape[:-1], "(T, N)" if x.ndim == 3 else "(T,)"
        turned = batched and self.batch_first
        if turned:
            x, letters = x.swapaxes(0, 1), "(N, T)"
        x = x if batched else x[:, None]
        steps, N = x.shape[:2]
        counted = np.full((steps, N), True)
        if lengths is not None:
            if not batched:
                raise ValueError(f"lengths is given, but x has shape {axes + x.shape[2:]}; expected a batch with it")
            counted &= np.arange(steps)[:, None] < ops.as_lengths(lengths, N, steps)
        for name, value in (("resets", resets), ("mask", mask)):
            if value is None:
                continue
            flags = as_flags(name, value, axes, letters)
            flags = flags.T if turned else flags.reshape(steps, N)
            if name == "mask":
                counted &= flags
            else:  # what comes before the last one is of sequences that have ended
                begun = (flags & counted)[::-1].cumsum(0)[::-1]
                counted[:-1] &= begun[1:] == 0
        return x, counted

    def _back(self, dx: Array, shape: tuple[int, ...]) -> Array:
        """(T, N, K) in the caller's order, of a shape."""
        return dx.swapaxes(0, 1) if self.batch_first and len(shape) == 3 else dx.reshape(shape)


class PoolTape(NamedTuple):
    """What `Pool.forward` keeps for its `backward`."""

    counted: Array  # (T, N)
    at: Array | None  # of "max", (N, K): the steps of the largest; of "last", (N, 1)
    shape: tuple[int, ...]  # of x


class Pool(_Pooling):
    """The last, the mean or the largest of what a sequence has at its steps, column by column.

    Steps beyond the lengths, and masked ones, do not count; where `resets` begin a sequence anew, those before its last
    beginning do not, either. A sequence without a step gives zeros. Of a bidirectional module `Last` is what its
    directions end in, and ``Pool("last")`` y of the last step.

    Parameters
    ----------
    kind
        "last", "mean" or "max".
    batch_first
        Whether x is (N, T, K) instead of (T, N, K).

    Raises
    ------
    ValueError
        If the kind is another one.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.array([[[1.0]], [[3.0]], [[8.0]]])  # (T, N, K)
    >>> Pool("mean")(x, lengths=[2]), Pool("max")(x, mask=np.array([[True], [True], [False]]))
    (array([[2.]]), array([[3.]]))
    """

    def __init__(self, kind: str, batch_first: bool = False) -> None:
        self.kind = check_choice("kind", kind, KINDS)
        self.batch_first = check_flag("batch_first", batch_first)
        self._declare({}, uniform(0), None)

    def __call__(self, x: Any, lengths: Any = None, *, mask: Any = None, resets: Any = None) -> Array:
        """Return y (N, K) for x (T, N, K), or (K,) for (T, K); lengths, mask and resets are as for the modules."""
        return self.forward(x, lengths, mask=mask, resets=resets)[0]

    def forward(self, x: Any, lengths: Any = None, *, mask: Any = None, resets: Any = None) -> tuple[Array, PoolTape]:
        """Return what calling returns, and the tape.

        Raises
        ------
        TypeError, ValueError
            If x is not of floats, or what is given does not have its axes.
        """
        given = take_floats("x", x)
        x, counted = self._take(given, lengths, mask, resets)
        some, at = counted.any(0, keepdims=True).T, None
        if self.kind == "mean":
            count = np.maximum(counted.sum(0), 1)[:, None].astype(x.dtype)
            y = np.where(counted[..., None], x, 0).sum(0, dtype=x.dtype) / count
        elif not len(x):
            y, at = np.zeros(x.shape[1:], x.dtype), np.zeros((x.shape[1], 1), np.intp)
        else:
            if self.kind == "max":
                at = np.where(counted[..., None], x, -np.inf).argmax(0)
            else:
                at = (len(x) - 1 - counted[::-1].argmax(0))[:, None]
            y = np.where(some, np.take_along_axis(x, at[None], 0)[0], x.dtype.type(0))
        return y.reshape(y.shape[1:] if given.ndim == 2 else y.shape), PoolTape(counted, at, given.shape)

    def backward(self, tape: PoolTape, dy: Any) -> tuple[Array, dict[str, Array]]:
        """Return dx, of x's shape, for dy of y's, and no gradients of parameters, as there are none.

        Of equal values the largest is the first.
        """
        counted, at, shape = check_instance("tape", tape, PoolTape, "the tape that forward returned")
        dy = take_floats("dy", dy)
        (steps, N), K = counted.shape, shape[-1]
        dy = ops.as_real("dy", dy, dy.dtype, (N, K) if len(shape) == 3 else (K,), "the shape of y").reshape(N, K)
        if at is None:
            count = np.maximum(counted.sum(0), 1)[:, None].astype(dy.dtype)
            dx = np.where(counted[..., None], dy / count, dy.dtype.type(0))
        else:
            dx = np.zeros((steps, N, K), dy.dtype)
            if steps:
                at = np.broadcast_to(at, (N, K))[None]
                np.put_along_axis(dx, at, np.where(counted.any(0, keepdims=True).T, dy, 0)[None], 0)
        return self._back(dx, shape), {}


class AttentionTape(NamedTuple):
    """What `AttentionPool.forward` keeps for its `backward`."""

    x: Array  # (T, N, K), zero where a step does not count
    hidden: Array  # (T, N, A)
    shares: Array  # (T, N)
    shape: tuple[int, ...]  # of x as the caller has it


class AttentionPool(_Pooling):
    """The mean of a sequence's vectors by shares that it learns (Yang et al., 2016)::

        share_t = softmax over t of (score . tanh(weight x_t + bias))
        y = sum over t of share_t x_t

    Steps count as in `Pool`; a sequence without one gives zeros.

    Parameters
    ----------
    in_features
        K.
    units
        A, how many numbers a step is judged by.
    batch_first
        Whether x is (N, T, K) instead of (T, N, K).
    dtype
        float32 or float64.
    seed
        Anything `numpy.random.default_rng` takes. `weight` (A, K) and `bias` (A,) are drawn from
        U(-1/sqrt(K), 1/sqrt(K)), `score` (A,) from U(-1/sqrt(A), 1/sqrt(A)).

    Examples
    --------
    >>> import numpy as np
    >>> pool = AttentionPool(4, 3, seed=0)
    >>> y, tape = pool.forward(np.ones((5, 2, 4), "float32"), lengths=[5, 3])
    >>> dx, grads = pool.backward(tape, np.ones_like(y))
    >>> y.shape, list(grads)
    ((2, 4), ['weight', 'bias', 'score'])
    """

    def __init__(
        self, in_features: int, units: int, batch_first: bool = False, *, dtype: Any = "float32", seed: Any = None
    ) -> None:
        self.in_features = check_positive("in_features", in_features)
        self.units = check_positive("units", units)
        self.batch_first = check_flag("batch_first", batch_first)
        self.dtype = check_dtype(dtype)
        A, K = self.units, self.in_features
        rng = self._declare({"weight": (A, K), "bias": (A,), "score": (A,)}, uniform(1 / math.sqrt(K)), seed)
        self._parameters["score"][...] = uniform(1 / math.sqrt(A))(rng, (A,))

    def __call__(self, x: Any, lengths: Any = None, *, mask: Any = None, resets: Any = None) -> Array:
        """Return y (N, K) for x (T, N, K), or (K,) for (T, K); lengths, mask and resets are as for the modules."""
        return self.forward(x, lengths, mask=mask, resets=resets)[0]

    def forward(
        self, x: Any, lengths: Any = None, *, mask: Any = None, resets: Any = None
    ) -> tuple[Array, AttentionTape]:
        """Return what calling returns, and the tape.

        Raises
        ------
        TypeError, ValueError
            If the dtype of x is not the layer's, or what is given does not have its axes.
        """
        given = take_array("x", x)
        given = ops.as_real("x", given, self.dtype, (*given.shape[:-1], self.in_features), "(..., in_features)")
        x, counted = self._take(given, lengths, mask, resets)
        x = np.where(counted[..., None], x, self.dtype.type(0))
        p = self._parameters
        hidden = np.tanh(x @ p["weight"].T + p["bias"])
        scores = np.where(counted, hidden @ p["score"], -np.inf)
        top = scores.max(0, initial=-np.inf)
        shares = np.exp(scores - np.where(np.isfinite(top), top, 0))
        shares /= np.maximum(shares.sum(0), np.finfo(self.dtype).tiny)
        shares = shares.astype(self.dtype)
        y = np.einsum("tn,tnk->nk", shares, x)
        return y[0] if given.ndim == 2 else y, AttentionTape(x, hidden, shares, given.shape)

    def backward(self, tape: AttentionTape, dy: Any) -> tuple[Array, dict[str, Array]]:
        """Return dx, of x's shape, and the gradients by parameter name, for dy of y's shape."""
        x, hidden, shares, shape = check_instance("tape", tape, AttentionTape, "the tape that forward returned")
        p, (N, K) = self._parameters, x.shape[1:]
        dy = ops.as_real("dy", dy, self.dtype, (N, K) if len(shape) == 3 else (K,), "the shape of y").reshape(N, K)
        dshares = np.einsum("nk,tnk->tn", dy, x)
        dscores = shares * (dshares - np.einsum("tn,tn->n", shares, dshares))
        dsums = dscores[..., None] * p["score"] * (1 - hidden * hidden)  # hidden = tanh(sums)
        rows = dsums.reshape(-1, self.units)
        grads = {
            "weight": rows.T @ x.reshape(-1, K),
            "bias": np.einsum("ra->a", rows),
            "score": np.einsum("tn,tna->a", dscores, hidden),
        }
        dx = shares[..., None] * dy + dsums @ p["weight"]
        dx[shares == 0] = 0
        return self._back(dx, shape), grads
