"""Weights of fewer bits as the kernels pack them, kept from one call of inference to the next.

Rounding and packing takes as long as several steps of a sequence, so it is done once, until the weights change. Writes
that torch knows of count up a tensor's version. Those that are hidden from it (`p.data`, `p.numpy()`) are seen where
they reach one of some 64 elements that are looked at, as all that write a whole tensor do.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any

from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from fastrnn import ops
from fastrnn.cells import Cell, Weights
from fastrnn.fits import check_weights
from fastrnn.narrow import narrow

__all__ = ["packed"]

Packed = tuple[Any, tuple[int, int, int]]  # what a backend has packed, and I, H and P

_kept: Any = WeakIdKeyDictionary()  # by weight_ih: what tells these weights from others, and what was packed


def packed(
    backend: ModuleType, cell: Cell, weights: Weights, tensors: Sequence[Tensor], precision: str, num_threads: int
) -> Packed:
    """Those of a layer in one direction, whose arrays share the memory of these tensors; weight_ih is the first."""
    stamp = None
    if not any(t.is_inference() for t in tensors):  # which have no versions
        of_tensors = [(id(t), t.data_ptr(), t._version, t.shape) for t in tensors]
        samples = [ops.sample(backend, a) for a in weights if a is not None]
        stamp = backend, cell.name, precision, of_tensors, samples
        before, found = _kept.get(tensors[0], (None, None))
        if before == stamp:
            its: Packed = found
            return its
    sizes = check_weights(cell, weights)
    its = backend.pack(cell, narrow(weights, precision), num_threads=num_threads), sizes
    if stamp is not None:
        _kept[tensors[0]] = stamp, its
    return its
