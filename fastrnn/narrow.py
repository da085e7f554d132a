"""Weights of fewer bits: what they are, and what a product with them is.

Both factors of a product x weight_ih^T or h_{t-1} weight_hh^T are narrowed: the weights once, the rows of the left one
as they come. Sums, states and everything else are float32. This defines the numbers, as `fastrnn.reference` does all
else; the kernels' integers are these, and their floats differ by roundings of sums.

bfloat16
    Each number becomes the nearest one of 8 significant bits, to even; that is the upper half of a float32. NaN and
    infinity stay what they are. The product is that of these numbers. So are the products of backward, which takes the
    gradients dz of the sums of gates: dz weight_ih, dz weight_hh, dz^T x and dz^T h_{t-1}. The gradient of a bias, and
    of the column that a token picks, is a sum of dz as it is.

int8
    For inference. Row j of a weight becomes integers q_j from -127 to 127 and a scale s_j: q_j = round(w_j / s_j) to
    even, with s_j = max |w_j| / 127; row n of the left factor likewise. The product is (sum over k of integers) * s_n *
    s_j, its sum exact. A row whose largest is below 2^-100 becomes zeros. A left row that holds NaN or infinity makes
    NaN of all that it goes into. A token picks q_j * s_j of its column.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from fastrnn.cells import Weights
from fastrnn.parameters import Array

__all__ = ["LONGEST_ROW", "PRECISIONS", "NarrowWeight", "as_bfloat16", "as_int8", "narrow", "outer"]

PRECISIONS = ("float32", "bfloat16", "int8")
LONGEST_ROW = 1 << 17  # columns of an int8 weight, whose sums must fit 32 bits

_LEAST = np.float32(2.0**-100)  # the reciprocal of less might be infinite


def as_bfloat16(a: Array) -> Array:
    """float32s, rounded to bfloat16: their lower halves are zero."""
    bits = np.ascontiguousarray(a, np.float32).view(np.uint32)
    rounded = bits + np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1))
    floats: Array = (np.where(np.isnan(a), bits | np.uint32(0x400000), rounded) & np.uint32(0xFFFF0000)).view(
        np.float32
    )
    return floats


def as_int8(a: Array) -> tuple[Array, Array]:
    """The integers, int8, and scales, float32, of float32 rows (..., K)."""
    top = np.abs(a).max(axis=-1, initial=0)
    counts, finite = top >= _LEAST, np.isfinite(top)
    usable = counts & finite
    by = np.divide(np.float32(127), top, out=np.zeros_like(top), where=usable)
    integers = np.rint(np.where(usable[..., None], a, 0) * by[..., None]).astype(np.int8)
    scales = np.where(finite, np.where(counts, top / np.float32(127), np.float32(0)), np.float32(np.nan))
    return integers, scales


@dataclass(frozen=True, eq=False)
class NarrowWeight:
    """A weight (G*H, K) of fewer bits; it looks like the array of float32 that it stands for, as far as products go."""

    values: Array  # (G*H, K): int8, or float32 that are rounded to bfloat16 where they are used, rounded already or not
    scale: Array | None = None  # (G*H,) float32, of int8

    dtype = np.dtype(np.float32)
    __array_ufunc__ = None  # so that NumPy leaves a @ weight to it

    @property
    def precision(self) -> str:
        """One of `PRECISIONS`."""
        return "bfloat16" if self.scale is None else "int8"

    @property
    def shape(self) -> tuple[int, ...]:
        """(G*H, K)."""
        shape: tuple[int, ...] = self.values.shape
        return shape

    @property
    def ndim(self) -> int:
        """How many axes it has."""
        return self.values.ndim

    @property
    def size(self) -> int:
        """How many weights it has."""
        return self.values.size

    @property
    def nbytes(self) -> int:
        """The bytes of its bits and scales, as kernels pack them."""
        return 2 * self.size if self.scale is None else self.values.nbytes + self.scale.nbytes

    def __len__(self) -> int:
        return len(self.values)

    @property
    def T(self) -> _Transposed:  # noqa: N802  (as of arrays)
        """What takes the right side of a product."""
        return _Transposed(self)

    def __rmatmul__(self, a: Array) -> Array:
        """The product of rows (R, G*H) with the weight as it is, of bfloat16: (R, K)."""
        product: Array = as_bfloat16(a) @ self.wide()
        return product

    def copy(self) -> NarrowWeight:
        """One of its own."""
        return NarrowWeight(self.values.copy(), None if self.scale is None else self.scale.copy())

    def view(self) -> NarrowWeight:
        """One whose arrays have shapes and dtypes of their own."""
        return NarrowWeight(self.values.view(), None if self.scale is None else self.scale.view())

    def wide(self) -> Array:
        """The numbers as float32."""
        if self.scale is None:
            return as_bfloat16(self.values)
        wide: Array = self.values * self.scale[:, None]
        return wide


@dataclass(frozen=True, eq=False)
class _Transposed:
    """A weight on the right of a product."""

    weight: NarrowWeight

    __array_ufunc__ = None

    def __rmatmul__(self, a: Array) -> Array:
        """The product of rows (R, K), narrowed, with the weight: (R, G*H)."""
        values, scale = self.weight.values, self.weight.scale
        if scale is None:
            product: Array = as_bfloat16(a) @ self.weight.wide().T
            return product
        integers, scales = as_int8(a)
        sums = integers.astype(np.float64) @ values.T.astype(np.float64)  # exact: below 2^53
        scaled: Array = sums.astype(np.float32) * scales[:, None] * scale
        return scaled

    def __getitem__(self, tokens: Any) -> Array:
        """The columns of the weight that tokens pick, as rows."""
        columns: Array = np.ascontiguousarray(self.weight.wide().T[tokens])
        return columns


def outer(weight: Any, dz: Array, x: Array) -> Array:
    """dz^T x, (G*H, K): the gradient of a weight; the rows (R, G*H) and (R, K) are rounded if it has fewer bits."""
    if isinstance(weight, NarrowWeight):
        dz, x = as_bfloat16(dz), as_bfloat16(x)
    product: Array = dz.T @ x
    return product


def narrow(weights: Weights, precision: str) -> Weights:
    """The weights of a layer with `NarrowWeight` in place of the arrays weight_ih and weight_hh.

    Those of bfloat16 refer to the arrays, which are rounded where they are used, in training step by step.
    """

    def of(weight: Any) -> Any:
        return NarrowWeight(weight) if precision == "bfloat16" else NarrowWeight(*as_int8(weight))

    return weights._replace(ih=of(weights.ih), hh=of(weights.hh))
