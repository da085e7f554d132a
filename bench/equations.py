"""A written cell's step on another library's arrays: how a good user of that library would write it.

The cell's own function is called with its values in the library's hands, so that no cell is written twice. Around it
stand the products: that of x for all steps ahead of the loop, with every bias that can be added there, and the
recurrent one, of all gates at once, in each step.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fastrnn.cells import WrittenCell
from fastrnn.cells.graph import Across, Function
from fastrnn.cells.language import Equations
from fastrnn.cells.operations import Traced
from fastrnn.cells.program import Op

__all__ = ["Layer", "Library", "jax_library", "torch_library"]

PYTHON: Mapping[Op | Across, Callable[..., Any]] = {
    Op.ADD: operator.add,
    Op.SUB: operator.sub,
    Op.MUL: operator.mul,
    Op.DIV: operator.truediv,
    Op.NEG: operator.neg,
    Op.LESS: operator.lt,
    Op.LESS_EQUAL: operator.le,
    Op.EQUAL: operator.eq,
}


@dataclass(frozen=True)
class Library:
    """What computes. For a cell's function it stands in place of `Graph`: what would be a new node is done at once."""

    operations: Mapping[Op | Across, Callable[..., Any]]
    functions: Mapping[str, Callable[..., Any]]  # by the name of a `Function`; others are made of operations
    add_product: Callable[[Any, Any, Any], Any]  # (c, a, b) to c + a b
    split: Callable[[Any, Sequence[int]], Sequence[Any]]  # into so many columns each
    concatenate: Callable[[Sequence[Any]], Any]  # along the first axis

    def make(self, op: Op | Across, *values: Any) -> Any:
        """Do an operation."""
        return self.operations[op](*values)

    def call(self, function: Function, x: Any, *options: float) -> Any:
        """Do a function of x."""
        known = self.functions.get(function.name)
        return function.expand(self, x, *options) if known is None else known(x, *options)

    def number(self, value: float) -> float:
        """A number is one."""
        return value

    def hold(self, value: Any) -> Any:
        """An array as a cell's function takes it."""
        return Traced(self, value)  # type: ignore[arg-type]


def torch_library() -> Library:
    """PyTorch."""
    import torch

    def of_two_or_a_number(of_two: Callable[..., Any], of_number: Callable[..., Any]) -> Callable[..., Any]:
        def operation(a: Any, b: Any) -> Any:
            a, b = (b, a) if isinstance(a, float) else (a, b)
            return of_number(a, b) if isinstance(b, float) else of_two(a, b)

        return operation

    return Library(
        {
            **PYTHON,
            Op.ABS: torch.abs,
            Op.MIN: of_two_or_a_number(torch.minimum, torch.clamp_max),
            Op.MAX: of_two_or_a_number(torch.maximum, torch.clamp_min),
            Op.SQRT: torch.sqrt,
            Op.EXP: torch.exp,
            Op.EXPM1: torch.expm1,
            Op.LOG: torch.log,
            Op.LOG1P: torch.log1p,
            Op.SIN: torch.sin,
            Op.COS: torch.cos,
            Op.ERF: torch.erf,
            Op.SIGMOID: torch.sigmoid,
            Op.TANH: torch.tanh,
            Op.RELU: torch.relu,
            Across.MEAN: lambda a: torch.mean(a, dim=-1, keepdim=True),
            Op.SELECT: lambda mask, a, b: torch.where(mask.bool(), a, b),  # of two masks a number may be made before
        },
        {
            "softplus": torch.nn.functional.softplus,
            "softsign": torch.nn.functional.softsign,
            "clip": lambda x, low, high, _: torch.clamp(x, low, high),
        },
        torch.addmm,
        lambda a, sizes: torch.split(a, list(sizes), dim=-1),
        lambda arrays: torch.cat(list(arrays)),
    )


def jax_library() -> Library:
    """JAX."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    return Library(
        {
            **PYTHON,
            Op.ABS: jnp.abs,
            Op.MIN: jnp.minimum,
            Op.MAX: jnp.maximum,
            Op.SQRT: jnp.sqrt,
            Op.EXP: jnp.exp,
            Op.EXPM1: jnp.expm1,
            Op.LOG: jnp.log,
            Op.LOG1P: jnp.log1p,
            Op.SIN: jnp.sin,
            Op.COS: jnp.cos,
            Op.ERF: jax.scipy.special.erf,
            Op.SIGMOID: jax.nn.sigmoid,
            Op.TANH: jnp.tanh,
            Op.RELU: jax.nn.relu,
            Across.MEAN: lambda a: jnp.mean(a, axis=-1, keepdims=True),
            Op.SELECT: jnp.where,
        },
        {
            "softplus": jax.nn.softplus,
            "softsign": jax.nn.soft_sign,
            "clip": lambda x, low, high, _: jnp.clip(x, low, high),
        },
        lambda c, a, b: c + a @ b,
        lambda a, sizes: jnp.split(a, np.cumsum(sizes)[:-1].tolist(), axis=-1),
        jnp.concatenate,
    )


class Layer:
    """A layer of a written cell, of H units: what is done ahead of the loop, and a step of it."""

    def __init__(self, cell: WrittenCell, units: int, library: Library) -> None:
        self.cell, self.units, self.library = cell, units, library
        self.equations: Equations = cell._equations
        self.added = self.equations.both  # gates that get the sum of both products
        # gates of the second product, and those whose recurrent product stays by itself
        self.of_middle = {name: name.removesuffix(".h") for name in self.equations.of_middle}
        self.alone = tuple(
            gate for gate in (*self.equations.h_only, *self.equations.apart) if gate not in self.of_middle.values()
        )
        self.others = tuple(gate for gate in cell.gates_ih if gate not in self.added)

    def ahead(self, parameters: Mapping[str, Any]) -> tuple[Any, Any, dict[str, Any]]:
        """The weight (G*H, I) and bias (G*H,) of the product of x for all steps, and what each step takes besides.

        Parameters
        ----------
        parameters
            By torch's names, without the layer's suffix.
        """
        e, gates_hh, order = self.equations, self.cell.gates_hh, (*self.added, *self.others)
        weight_ih = self._rows(parameters["weight_ih"], self.cell.gates_ih, order)
        bias_ih = self._rows(parameters["bias_ih"], self.cell.gates_ih, order)
        taken: dict[str, Any] = {}
        if gates_hh:
            weight_hh, bias_hh = parameters["weight_hh"], parameters["bias_hh"]
            first = (*self.added, *self.alone)
            of_m = tuple(gate for name, gate in self.of_middle.items() if name in self.others)
            early = of_m if self.alone else (*self.added, *of_m)  # gates whose biases are added here
            if early:
                blocks = self.library.split(bias_ih, [self.units] * len(order))
                both = [
                    block + self._rows(bias_hh, gates_hh, (gate,)) if gate in early else block
                    for gate, block in zip(order, blocks, strict=True)
                ]
                bias_ih = self.library.concatenate(both)
            if first:
                taken["weight"] = self._rows(weight_hh, gates_hh, first).T
            if self.alone:
                taken["bias"] = self._rows(bias_hh, gates_hh, first)
            for name, gate in self.of_middle.items():
                taken[f"weight of {name}"] = self._rows(weight_hh, gates_hh, (gate,)).T
                if name not in self.others:
                    taken[f"bias of {name}"] = self._rows(bias_hh, gates_hh, (gate,))
        return weight_ih, bias_ih, taken | {f"p.{name}": parameters["unit"][m] for m, name in enumerate(e.parameters)}

    def step(self, sums_x: Any, state: Sequence[Any], taken: Mapping[str, Any]) -> tuple[Any, ...]:
        """The new states (N, H), from the product of x of the step's rows, the states, and what `ahead` said."""
        e, library = self.equations, self.library
        both, sums = self._apart(sums_x, self.others, "x")
        if self.alone:
            added, of_h = self._apart(library.add_product(taken["bias"], state[0], taken["weight"]), self.alone, "h")
            both = both + added if self.added else None
            sums |= of_h
        elif self.added:
            both = library.add_product(both, state[0], taken["weight"])
        sums |= {name: taken[f"bias of {name}"] for name in e.of_middle if name not in self.others}
        if self.added:
            blocks = self._split(both, [self.units] * len(self.added))
            sums |= {gate: blocks[k] for k, gate in enumerate(self.added)}

        def product(name: str, value: Any) -> Any:
            return library.hold(value.node @ taken[f"weight of {name}"])

        def hold(values: Mapping[str, Any]) -> dict[str, Any]:
            return {name: library.hold(value) for name, value in values.items()}

        unit: Any = [library.hold(taken[f"p.{name}"]) for name in e.parameters]
        before = hold(dict(zip(self.cell.states, state, strict=True)))
        return tuple(value.node for value in e.run(hold(sums), before, unit, product))

    def _apart(self, sums: Any, gates: Sequence[str], part: str) -> tuple[Any, dict[str, Any]]:
        """The columns of the gates that get the sum of both products, as one, and those of other gates, by slot."""
        first = [len(self.added) * self.units] if self.added else []
        blocks = self._split(sums, first + [self.units] * len(gates))
        slots = (f"{gate}.{part}" if gate in self.equations.apart else gate for gate in gates)
        return blocks[0], {slot: blocks[len(first) + k] for k, slot in enumerate(slots)}

    def _split(self, array: Any, sizes: Sequence[int]) -> Any:
        return self.library.split(array, sizes) if len(sizes) > 1 else [array]

    def _rows(self, array: Any, gates: Sequence[str], wanted: Sequence[str]) -> Any:
        """The blocks of some gates, of an array that has a block of each."""
        if tuple(wanted) == tuple(gates):
            return array
        starts = [gates.index(gate) * self.units for gate in wanted]
        blocks = [array[start : start + self.units] for start in starts]
        return blocks[0] if len(blocks) == 1 else self.library.concatenate(blocks)
