"""A layer as one of ONNX' own operators LSTM, GRU and RNN, where it has the cell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from fastrnn.cells import gru_with, lstm_with, rnn_with
from fastrnn.cells.library.activations import ONNX, Activation, activation
from fastrnn.modules import GRU, LSTM, RNN
from fastrnn.onnx.graph import Graph
from fastrnn.onnx.node import GATES
from fastrnn.parameters import Array

__all__ = ["operator_of", "write_operator"]


class Operator(NamedTuple):
    """An operator, and the attributes that do not depend on sizes."""

    name: str
    activations: tuple[Activation, ...]
    attributes: Mapping[str, Any]


def operator_of(rnn: Any) -> Operator | None:
    """The operator that computes what a module does; None if there is none."""
    sigmoid, tanh = activation("it", "sigmoid"), activation("it", "tanh")
    if rnn.proj_size:
        return None
    if isinstance(rnn, LSTM):
        return Operator("LSTM", (sigmoid, tanh, tanh), {})
    if isinstance(rnn, GRU):
        return Operator("GRU", (sigmoid, tanh), {"linear_before_reset": 1})
    if isinstance(rnn, RNN):
        return Operator("RNN", (activation("it", rnn.nonlinearity),), {})
    if rnn.cell.made_by is None:
        return None
    factory, options = rnn.cell.made_by
    found = tuple(value for value in options.values() if isinstance(value, Activation))
    if not {each.name for each in found} <= {ours for ours, *_ in ONNX.values()}:
        return None
    attributes: dict[str, Any] = {} if options["clip"] is None else {"clip": options["clip"]}
    if factory is gru_with:
        return Operator("GRU", found, attributes | {"linear_before_reset": int(options["reset"] == "after")})
    if factory is lstm_with:
        return Operator("LSTM", found, attributes | ({"input_forget": 1} if options["coupled"] else {}))
    assert factory is rnn_with
    return Operator("RNN", found, attributes)


def _of_activations(activations: Sequence[Activation], D: int) -> dict[str, Any]:
    """The attributes that say which they are, of each direction the same."""
    theirs = {ours: name for name, (ours, *_) in ONNX.items()}
    found: dict[str, Any] = {"activations": [theirs[each.name] for each in activations] * D}
    for k, key in enumerate(("activation_alpha", "activation_beta")):
        numbers = [each.numbers[k] for each in activations if len(each.numbers) > k]
        if numbers:
            found[key] = numbers * D
    return found


def _in_order(operator: str, gates: Sequence[str], blocks: Array) -> Array:
    """Blocks (G*H, ...) of our gates in ONNX' order; of a gate that we have not, zeros."""
    by_gate = dict(zip(gates, np.split(blocks, len(gates)), strict=True))
    nothing = np.zeros_like(next(iter(by_gate.values())))
    return np.concatenate([by_gate.get(gate, nothing) for gate in GATES[operator]])


def write_operator(
    g: Graph, of: Operator, rnn: Any, layer: int, x: str, lengths: str | None, states: Sequence[str], prefix: str
) -> tuple[str, list[str]]:
    """A layer of a module on x (T, N, I): y (T, N, D*H), and the states after, (D, N, H)."""
    D, H, gates = rnn.directions, rnn.hidden_size, rnn._cell.gates
    name = f"{prefix}{of.name.lower()}_l{layer}"
    suffixes = [f"_l{layer}", f"_l{layer}_reverse"][:D]

    def weight(*keys: str) -> Array:
        each = [[_in_order(of.name, gates, rnn.parameters[f"{key}{suffix}"]) for key in keys] for suffix in suffixes]
        return np.stack([np.concatenate(blocks) for blocks in each])

    inputs = [x, g.constant(weight("weight_ih"), f"{name}/W"), g.constant(weight("weight_hh"), f"{name}/R")]
    inputs += [g.constant(weight("bias_ih", "bias_hh"), f"{name}/B") if rnn.bias else "", lengths or ""]
    inputs += states or [""] * len(rnn._cell.states)
    if f"unit_l{layer}" in rnn.parameters:
        by_name = [dict(zip(rnn.cell.parameters, rnn.parameters[f"unit{suffix}"], strict=True)) for suffix in suffixes]
        nothing = np.zeros(H, rnn.dtype)
        P = [np.concatenate([each.get(f"p_{gate}", nothing) for gate in "iof"]) for each in by_name]
        inputs.append(g.constant(np.stack(P), f"{name}/P"))
    while not inputs[-1]:
        inputs.pop()
    outputs = [g.name(f"{name}/{output}") for output in ("Y", "Y_h", "Y_c")[: 1 + len(rnn._cell.states)]]
    options = {**of.attributes, **_of_activations(of.activations, D), "hidden_size": H}
    g.add(of.name, inputs, outputs, name=name, direction="bidirectional" if D == 2 else "forward", **options)
    Y, *after = outputs
    if D == 1:
        y = g.add("Squeeze", [Y, g.constant(np.array([1]))])
    else:
        y = g.add("Transpose", [Y], perm=[0, 2, 1, 3])
        y = g.add("Reshape", [y, g.constant(np.array([0, 0, D * H]))])
    if lengths and states:  # of a sequence of no steps ONNX Runtime has zeros
        some = g.add("Less", [g.constant(np.int32(0)), lengths])
        some = g.add("Unsqueeze", [some, g.constant(np.array([0, 2]))])
        after = [g.add("Where", [some, new, old]) for new, old in zip(after, states, strict=True)]
    return y, after
