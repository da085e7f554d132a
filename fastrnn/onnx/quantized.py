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
    of_rows: dict[str, Array] = {}  # (D, 4*H)
    for key in ("W", "R"):
        weight = values[key]
        if weight is None or weight.ndim != 3 or weight.dtype not in (np.int8, np.uint8):
            found = "missing" if weight is None else f"of {weight.dtype} and shape {weight.shape}"
            raise ValueError(f"{node.op_type} {name}: {key} is {found}; expected int8 or uint8 with three axes")
        integers[key] = weight.swapaxes(1, 2)
        of_all, of_each = weight.shape[:1], (len(weight), weight.shape[2])
        for what, otherwise in (("scale", None), ("zero_point", np.zeros(of_all, weight.dtype))):
            value = values[f"{key}_{what}"]
            value = otherwise if value is None else value
            if value is None or value.shape not in (of_all, of_each):
                found = "missing" if value is None else f"of shape {value.shape}"
                raise ValueError(f"{node.op_type} {name}: {key}_{what} is {found}; expected {of_all} or {of_each}")
            of_rows[f"{key}_{what}"] = np.broadcast_to(value.reshape(len(weight), -1), of_each)
    wide = {key: _wide(rows, of_rows[f"{key}_scale"], of_rows[f"{key}_zero_point"]) for key, rows in integers.items()}
    plain = NodeProto()
    plain.CopyFrom(node)
    plain.op_type, plain.domain = "LSTM", ""
    made = Node(plain, **wide, B=values["B"], P=values["P"], name=name)
    first, *others = made.modules
    if type(first) is LSTM and not others:
        made.modules = (_narrowed(first, integers, of_rows),)
    return made


def _wide(integers: Array, scale: Array, zero: Array) -> Array:
    """What integers (D, 4*H, K) stand for."""
    from_zero = integers.astype(np.float32) - zero.astype(np.float32)[:, :, None]
    wide: Array = from_zero * scale.astype(np.float32)[:, :, None]
    return wide


def _narrowed(lstm: LSTM, integers: Mapping[str, Array], of_rows: Mapping[str, Array]) -> LSTM:
    """The module with the file's integers and scales in place of its weights."""
    options = {name: getattr(lstm, name) for name in ("bias", "batch_first", "bidirectional")}
    found = LSTM(lstm.input_size, lstm.hidden_size, **options, precision="int8", quantized=True)
    parameters = lstm.state_dict()
    for d, suffix in enumerate(("_l0", "_l0_reverse")[: lstm.directions]):
        for key, kind in (("W", "ih"), ("R", "hh")):
            rows, scales = of_integers(integers[key][d], of_rows[f"{key}_scale"][d], of_rows[f"{key}_zero_point"][d])
            parameters[f"weight_{kind}{suffix}"] = gates_of("LSTM", "ifgo", rows)
            parameters[f"scale_{kind}{suffix}"] = gates_of("LSTM", "ifgo", scales)
    found.load_state_dict(parameters)
    return found
