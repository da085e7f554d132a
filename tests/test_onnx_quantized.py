"""onnxruntime's DynamicQuantizeLSTM: its integers and scales as they are, and its numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic
from tolerances import assert_close

import fastrnn
import fastrnn.onnx
from fastrnn.onnx import InferenceSession, load
from fastrnn.parameters import Array

T, N, I, H = 12, 3, 6, 20
SCALES = ("W_scale", "W_zero_point", "R_scale", "R_zero_point")
RNG = np.random.default_rng(0)


def constants(graph: onnx.GraphProto) -> dict[str, Array]:
    """The inputs of the graph's quantized node that are constants, by the operator's names."""
    (node,) = [node for node in graph.node if node.op_type == "DynamicQuantizeLSTM"]
    names = ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P", *SCALES)
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    return {key: tensors[name] for key, name in zip(names, node.input, strict=False) if name in tensors}


def quantized(folder: Path, *, bidirectional: bool = False, peepholes: bool = False, **options: Any) -> Path:
    """The file of an LSTM that onnxruntime has quantized, with integers of 7 bits, for its own sums may overflow."""
    D = 1 + bidirectional
    shapes = {"W": (D, 4 * H, I), "R": (D, 4 * H, H), "B": (D, 8 * H)} | ({"P": (D, 3 * H)} if peepholes else {})
    tensors = [numpy_helper.from_array(RNG.uniform(-0.4, 0.4, s).astype("f"), k) for k, s in shapes.items()]
    inputs = ["x", "W", "R", "B", "lengths", "h_0", "c_0", "P"][: 7 + peepholes]
    direction = "bidirectional" if bidirectional else "forward"
    node = helper.make_node("LSTM", inputs, ["y", "h_n", "c_n"], name="lstm", hidden_size=H, direction=direction)
    kinds = {"x": onnx.TensorProto.FLOAT, "lengths": onnx.TensorProto.INT32}
    given = [
        helper.make_tensor_value_info(k, kinds.get(k, onnx.TensorProto.FLOAT), None) for k in inputs if k not in shapes
    ]
    outputs = [helper.make_tensor_value_info(k, onnx.TensorProto.FLOAT, None) for k in ("y", "h_n", "c_n")]
    graph = helper.make_graph([node], "one", given, outputs, tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), folder / "wide.onnx")
    quantize_dynamic(folder / "wide.onnx", folder / "narrow.onnx", reduce_range=True, **options)
    return folder / "narrow.onnx"


def feed(D: int) -> dict[str, Array]:
    states = {name: RNG.uniform(-1, 1, (D, N, H)).astype("f") for name in ("h_0", "c_0")}
    return {"x": RNG.standard_normal((T, N, I)).astype("f"), "lengths": np.array([T, 4, 9], np.int32), **states}


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("weight_type", [QuantType.QInt8, QuantType.QUInt8])
@pytest.mark.parametrize("per_channel", [False, True])
def test_integers_and_scales_are_the_files(
    tmp_path: Path, bidirectional: bool, weight_type: Any, per_channel: bool
) -> None:
    file = quantized(tmp_path, bidirectional=bidirectional, weight_type=weight_type, per_channel=per_channel)
    node = load(file)["lstm_quant"]
    values = constants(onnx.load(file).graph)
    assert type(node.module) is fastrnn.LSTM
    assert node.module.quantized
    for d, suffix in enumerate(("_l0", "_l0_reverse")[: 1 + bidirectional]):
        for key, kind in (("W", "ih"), ("R", "hh")):
            zero = np.broadcast_to(values[f"{key}_zero_point"][d], 4 * H).astype(int)
            scale = np.broadcast_to(values[f"{key}_scale"][d], 4 * H)
            i, o, f, g = np.split(values[key][d].T.astype(int) - zero[:, None], 4)
            np.testing.assert_array_equal(node.module.parameters[f"weight_{kind}{suffix}"], [*i, *f, *g, *o])
            i, o, f, g = np.split(scale, 4)
            np.testing.assert_array_equal(node.module.parameters[f"scale_{kind}{suffix}"], [*i, *f, *g, *o])


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("per_channel", [False, True])
def test_numbers_are_those_of_onnxruntime(tmp_path: Path, bidirectional: bool, per_channel: bool) -> None:
    file = quantized(tmp_path, bidirectional=bidirectional, per_channel=per_channel)
    given = feed(1 + bidirectional)
    wide = onnxruntime.InferenceSession(tmp_path / "wide.onnx").run(None, given)
    theirs = onnxruntime.InferenceSession(file).run(None, given)
    ours = load(file)["lstm_quant"](given["x"], given["lengths"], given["h_0"], given["c_0"])
    here = InferenceSession(file, measure=False, quantized=True)
    assert [*here.nodes] == ["lstm_quant"]
    for name, mine, other, exact in zip(("y", "h_n", "c_n"), ours, theirs, wide, strict=True):
        assert_close(name, mine, other, 0.03)
        assert_close(name, mine, exact, 0.03)
        assert (other != exact).any()
    for mine, session in zip(ours, here.run(None, given), strict=True):
        np.testing.assert_array_equal(mine, session)


def test_a_session_leaves_them_to_onnxruntime_unless_asked(tmp_path: Path) -> None:
    file, given = quantized(tmp_path), feed(1)
    session = InferenceSession(file)
    assert not session.nodes
    for mine, theirs in zip(session.run(None, given), onnxruntime.InferenceSession(file).run(None, given), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_other_cells_have_what_the_integers_stand_for(tmp_path: Path) -> None:
    file = quantized(tmp_path, peepholes=True, per_channel=True)
    node, values = load(file)["lstm_quant"], constants(onnx.load(file).graph)
    assert type(node.module) is fastrnn.Recurrent
    wide = (values["R"].astype("f") - values["R_zero_point"].astype("f")[:, None]) * values["R_scale"][:, None]
    i, o, f, g = np.split(wide[0].T, 4)
    by_gate = dict(zip("iofg", (i, o, f, g), strict=True))
    wanted = np.concatenate([by_gate[gate] for gate in node.module.cell.gates])
    assert_close("weight_hh_l0", node.module.parameters["weight_hh_l0"], wanted, 1e-7)
    given = feed(1)
    theirs = onnxruntime.InferenceSession(file).run(None, given)
    assert_close("y", node(given["x"], given["lengths"], given["h_0"], given["c_0"])[0], theirs[0], 0.03)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (
            "W_scale",
            np.ones(3, "f"),
            r"DynamicQuantizeLSTM lstm_quant: W_scale is of shape \(3,\); expected \(1,\) or \(1, 80\)",
        ),
        ("R_zero_point", np.zeros((1, 7), "i1"), r"R_zero_point is of shape \(1, 7\); expected \(1,\) or \(1, 80\)"),
        (
            "R",
            np.ones((1, H, 4 * H), "f"),
            r"R is of float32 and shape \(1, 20, 80\); expected int8 or uint8 with three axes",
        ),
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, key: str, value: Array, message: str) -> None:
    file = quantized(tmp_path, weight_type=QuantType.QInt8)
    model = onnx.load(file)
    (node,) = model.graph.node
    place = {"W_scale": 8, "R_zero_point": 11, "R": 2}[key]
    (tensor,) = [t for t in model.graph.initializer if t.name == node.input[place]]
    tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
    onnx.save(model, file)
    with pytest.raises(ValueError, match=message):
        load(file)
