"""A convolution along time, to stand before a recurrent layer."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from fastrnn import ops
from fastrnn.backends import check_run
from fastrnn.checks import check_dtype, check_flag, check_instance, check_positive, take_array
from fastrnn.parameters import Array, uniform
from fastrnn.training.architecture import Layer

__all__ = ["Conv1d"]


class ConvTape(NamedTuple):
    """What `Conv1d.forward` keeps for its `backward`."""

    windows: Array  # (T*N, k*I), what each step sees
    shape: tuple[int, ...]  # of x


class Conv1d(Layer):
    """``y_t = bias + sum over j of weight[:, :, j] x_{t + j - before}``, as many steps as x has; beyond them x is zero.

    `before` is (k - 1) // 2, as in torch.nn.Conv1d with ``padding="same"``, or k - 1 if it is causal. In a `Sequential`
    before a layer that takes lengths, what is beyond a sequence's length or masked is zero, too; of resets it does not
    know.

    Parameters
    ----------
    in_channels, out_channels
        I and O.
    kernel_size
        k, how many steps each y sees.
    causal
        Whether these are the step itself and those before it, instead of as many before as after it.
    bias
        Whether to add one.
    batch_first
        Whether x and y are (N, T, ...) instead of (T, N, ...).
    dtype
        float32 or float64.
    seed
        Anything `numpy.random.default_rng` takes. `weight` (O, I, k) and `bias` (O,) are drawn from
        U(-1/sqrt(k I), 1/sqrt(k I)), as in torch.nn.Conv1d.
    backend, num_threads
        As for `fastrnn.LSTM`.

    Examples
    --------
    >>> import numpy as np
    >>> conv = Conv1d(4, 8, kernel_size=3, seed=0)
    >>> y, tape = conv.forward(np.ones((10, 2, 4), "float32"))
    >>> dx, grads = conv.backward(tape, np.ones_like(y))
    >>> y.shape, dx.shape, grads["weight"].shape
    ((10, 2, 8), (10, 2, 4), (8, 4, 3))
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        causal: bool = False,
        bias: bool = True,
        batch_first: bool = False,
        *,
        dtype: Any = "float32",
        seed: Any = None,
        backend: str | None = None,
        num_threads: int | None = None,
    ) -> None:
        self.in_channels = check_positive("in_channels", in_channels)
        self.out_channels = check_positive("out_channels", out_channels)
        self.kernel_size = check_positive("kernel_size", kernel_size)
        self.causal = check_flag("causal", causal)
        self.bias = check_flag("bias", bias)
        self.batch_first = check_flag("batch_first", batch_first)
        self.dtype = check_dtype(dtype)
        self.backend, self.num_threads = check_run(backend, num_threads)
        shapes: dict[str, tuple[int, ...]] = {"weight": (self.out_channels, self.in_channels, self.kernel_size)}
        if self.bias:
            shapes["bias"] = (self.out_channels,)
        self._declare(shapes, uniform(1 / math.sqrt(self.in_channels * self.kernel_size)), seed)

    @property
    def _before(self) -> int:
        return self.kernel_size - 1 if self.causal else (self.kernel_size - 1) // 2

    def __call__(self, x: Any) -> Array:
        """Return y (T, N, O) for x (T, N, I), or (T, O) for (T, I)."""
        return self.forward(x)[0]

    def forward(self, x: Any) -> tuple[Array, ConvTape]:
        """Return y (T, N, O) for x (T, N, I), or (T, O) for (T, I), and the tape.

        Raises
        ------
        ValueError
            If x has other axes.
        TypeError
            If the dtype of x is not the layer's.
        """
        x = take_array("x", x)
        if x.ndim not in (2, 3):
            raise ValueError(f"x has shape {x.shape}; expected (T, N, I), or (T, I) of a single sequence")
        x = ops.as_real("x", x, self.dtype, (*x.shape[:-1], self.in_channels), "(..., in_channels)")
        shape, x = x.shape, self._turn(x)
        steps, k = len(x), self.kernel_size
        padded = np.zeros((steps + k - 1, *x.shape[1:]), self.dtype)
        padded[self._before : self._before + steps] = x
        windows = np.concatenate([padded[j : j + steps] for j in range(k)], axis=-1).reshape(-1, k * self.in_channels)
        y = ops.multiply(windows, self._matrix().T, self._parameters.get("bias"), **self._on())
        return self._turn(y.reshape(*x.shape[:-1], self.out_channels)), ConvTape(windows, shape)

    def backward(self, tape: ConvTape, dy: Any) -> tuple[Array, dict[str, Array]]:
        """Return dx, of x's shape, and the gradients by parameter name, for dy of y's."""
        windows, shape = check_instance("tape", tape, ConvTape, "the tape that forward returned")
        O, I, k = self._parameters["weight"].shape
        dy = self._turn(ops.as_real("dy", dy, self.dtype, (*shape[:-1], O), "the shape of y"))
        rows = np.ascontiguousarray(dy).reshape(-1, O)
        dweight = ops.multiply(rows.T, windows, **self._on()).reshape(O, k, I)
        grads = {"weight": np.ascontiguousarray(dweight.swapaxes(1, 2))}
        if self.bias:
            grads["bias"] = np.einsum("ro->o", rows)
        dwindows = ops.multiply(rows, self._matrix(), **self._on()).reshape(*dy.shape[:-1], k, I)
        steps = len(dy)
        dpadded = np.zeros((steps + k - 1, *dy.shape[1:-1], I), self.dtype)
        for j in range(k):
            dpadded[j : j + steps] += dwindows[..., j, :]
        return self._turn(dpadded[self._before : self._before + steps]), grads

    def _matrix(self) -> Array:
        """The weight as (O, k*I), as windows have their columns."""
        return np.ascontiguousarray(self._parameters["weight"].swapaxes(1, 2)).reshape(self.out_channels, -1)

    def _turn(self, x: Array) -> Array:
        """(T, N, K) for what is in the caller's order, and the other way round."""
        return x.swapaxes(0, 1) if self.batch_first and x.ndim == 3 else x

    def _on(self) -> dict[str, Any]:
        return {"backend": self.backend, "num_threads": self.num_threads}
