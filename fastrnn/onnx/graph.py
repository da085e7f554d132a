"""A graph of ONNX under construction: operators one after the other, each value under a name of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper

__all__ = ["Graph"]


class Graph:
    """Nodes and constants.

    Parameters
    ----------
    outer
        The graph around it, which has its constants, for the body of a loop.
    """

    def __init__(self, outer: Graph | None = None) -> None:
        self.nodes: list[NodeProto] = []
        self.initializers: list[TensorProto] = []
        self.names: set[str] = set() if outer is None else outer.names
        self.outer = outer
        self._numbers: dict[tuple[Any, ...], str] = {}

    def name(self, wanted: str) -> str:
        """A name that nothing has yet."""
        found, count = wanted, 1
        while found in self.names:
            count += 1
            found = f"{wanted}_{count}"
        self.names.add(found)
        return found

    def constant(self, value: Any, name: str = "") -> str:
        """The name of an array."""
        if self.outer is not None:
            return self.outer.constant(value, name)
        array = np.ascontiguousarray(value) if np.ndim(value) else np.asarray(value)
        key = array.dtype.str, array.shape, array.tobytes()
        if not name and key in self._numbers:
            return self._numbers[key]
        found = self.name(name or "constant")
        self.initializers.append(numpy_helper.from_array(array, found))
        if not name:
            self._numbers[key] = found
        return found

    def add(self, op: str, inputs: Sequence[str], outputs: Sequence[str] = (), **attributes: Any) -> str:
        """A node, and the name of its (first) output."""
        outputs = list(outputs) or [self.name(op.lower())]
        self.nodes.append(helper.make_node(op, list(inputs), outputs, **attributes))
        return outputs[0]

    def cut(self, value: str, start: int, end: int) -> str:
        """Entries of the first axis."""
        ends = [self.constant(np.array([k])) for k in (start, end)]
        return self.add("Slice", [value, *ends, self.constant(np.array([0]))])

    def parts(self, value: str, count: int, size: int) -> list[str]:
        """Parts of the last axis, of one size."""
        if count == 1:
            return [value]
        names = [self.name("part") for _ in range(count)]
        self.add("Split", [value, self.constant(np.full(count, size))], names, axis=-1)
        return names

    def real_steps(self, x: str, lengths: str, batch_first: bool) -> str:
        """Which steps are before the lengths (N,), of x (T, N, ...): (T, N); of x (N, T, ...) (N, T)."""
        zero, one = self.constant(np.int64(0)), self.constant(np.int64(1))
        T = self.add("Gather", [self.add("Shape", [x]), one if batch_first else zero])
        steps = self.add("Range", [zero, T, one])
        wide = self.add("Cast", [lengths], to=TensorProto.INT64)
        step_axis, length_axis = (0, 1) if batch_first else (1, 0)
        steps = self.add("Unsqueeze", [steps, self.constant(np.array([step_axis]))])
        wide = self.add("Unsqueeze", [wide, self.constant(np.array([length_axis]))])
        return self.add("Less", [steps, wide])
