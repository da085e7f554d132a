"""onnxruntime's DynamicQuantizeLSTM: an LSTM whose weights are integers, in modules of precision int8.

Its W (D, I, 4*H) and R (D, H, 4*H) are those of an LSTM with the last two axes exchanged, int8 or uint8; a number is
(integer - zero point) * scale, with one of each for a direction, (D,), or one for a row, (D, 4*H).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from onnx import NodeProto

from fastrnn.modules import LSTM
from fastrnn.onnx.node import Node, gates_of
from fastrnn.parameters import Array
from fastrnn.quantized import of_integers

__all__ = ["INPUTS", "SCALES", "quantized_node"]

#: What the weights are made of, and all the operator's inputs in their order.
SCALES = ("W_scale", "W_zero_point", "R_scale", "R_zero_point")
INPUTS = ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P", *SCALES)


def quantized_node(node: NodeProto, values: Mapping[str, Array | None], name: str) -> Node:
    """The node, of its constants by input.

    A plain LSTM's module has the file's integers and scales (see `fastrnn.quantized.of_integers`). Where the node has
    peepholes, a clip or other activations, its module has float32 weights, which are what the integers stand for.

    Raises
    ------
    ValueError
        As of `Node`, and if scales or zero points do not fit the weights.
    """
    integers: dict[str, Array] = {}
    scales: dict[str, Array] = {}
    zeros: dict[str, Array] = {}
    for key in ("W", "R"):
        weight, scale, zero = values[key], values[f"{key}_scale"], values[f"{key}_zero_point"]
        if weight is None or weight.ndim != 3 or weight.dtype not in (np.int8, np.uint8):
            found = "missing" if weight is None else f"of {weight.dtype} and shape {weight.shape}"
            raise ValueError(f"{node.op_type} {name}: {key} is {found}; expected int8 or uint8 with three axes")
        integers[key] = weight.swapaxes(1, 2)
        zero = np.zeros(len(weight), weight.dtype) if zero is None else zero
        shapes = (weight.shape[:1], (len(weight), weight.shape[2]))
        for input_, value in ((f"{key}_scale", scale), (f"{key}_zero_point", zero)):
            if value is None or value.shape not in shapes:
                found = "missing" if value is None else f"of shape {value.shape}"
                raise ValueError(f"{node.op_type} {name}: {input_} is {found}; expected {shapes[0]} or {shapes[1]}")
        rows = np.ones((1, weight.shape[2]))
        scales[key] = (scale.reshape(len(weight), -1) * rows).astype(np.float32)
        zeros[key] = (zero.reshape(len(weight), -1) * rows).astype(np.int32)
    wide = {
        key: (integers[key] - zeros[key][:, :, None]).astype(np.float32) * scales[key][:, :, None] for key in integers
    }
    plain = NodeProto()
    plain.CopyFrom(node)
    plain.op_type, plain.domain = "LSTM", ""
    made = Node(plain, **wide, B=values["B"], P=values["P"], name=name)
    if type(made.module) is LSTM:
        made.modules = (_narrowed(made.module, integers, scales, zeros),)
    return made


def _narrowed(
    lstm: LSTM, integers: Mapping[str, Array], scales: Mapping[str, Array], zeros: Mapping[str, Array]
) -> LSTM:
    """The module with the file's integers and scales in place of its weights."""
    options = {name: getattr(lstm, name) for name in ("bias", "batch_first", "bidirectional")}
    found = LSTM(lstm.input_size, lstm.hidden_size, **options, precision="int8", quantized=True)
    parameters = lstm.state_dict()
    for d, suffix in enumerate(("_l0", "_l0_reverse")[: lstm.directions]):
        for key, kind in (("W", "ih"), ("R", "hh")):
            rows, its_scales = of_integers(integers[key][d], scales[key][d], zeros[key][d])
            parameters[f"weight_{kind}{suffix}"] = gates_of("LSTM", "ifgo", rows)
            parameters[f"scale_{kind}{suffix}"] = gates_of("LSTM", "ifgo", its_scales)
    found.load_state_dict(parameters)
    return found
