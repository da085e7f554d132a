"""`fastrnn.onnx.load`: the operators' complete semantics, and weights wherever they are in a file.

Numbers are ONNX Runtime's where it has them (no layout 1, no float16, no double of most), else those of ONNX' own
cases, or of the same weights in a module.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx_problems import Problem, as_model, by_runtime, draw, model_of, value_of
from tolerances import assert_close

import fastrnn
import fastrnn.onnx
from fastrnn.onnx import Node
from fastrnn.parameters import Array


def as_node(problem: Problem) -> Node:
    return Node(problem.node, **{name: value for name, value in problem.arrays.items() if name in "WRBP"})


def by_node(problem: Problem) -> list[Array]:
    """The outputs that the node has."""
    found = as_node(problem)(**problem.given)
    return [value for value, name in zip(found, problem.node.output, strict=False) if name]


def error_of(problem: Problem) -> float:
    """The largest difference to ONNX Runtime, as a share of the largest number or of 1."""
    both = zip(by_node(problem), by_runtime(model_of(problem), problem.given), strict=True)
    return max(float(np.abs(got - want).max() / max(1.0, np.abs(want).max())) for got, want in both)


@pytest.mark.parametrize("seed", range(60))
def test_random_attributes_are_onnx_runtimes(seed: int) -> None:
    assert error_of(draw(seed, plain=seed % 4 == 0)) < 2e-5


@pytest.mark.long
@pytest.mark.parametrize("seed", range(100, 600))
def test_more_random_attributes_are_onnx_runtimes(seed: int) -> None:
    assert error_of(draw(seed)) < 2e-5


def node_cases() -> list[Any]:
    """ONNX' own cases of the three operators."""
    cases = importlib.import_module("onnx.backend.test.case.node")
    for name in ("lstm", "gru", "rnn"):
        importlib.import_module(f"onnx.backend.test.case.node.{name}")
    of_ours = ("test_lstm", "test_gru", "test_simple_rnn", "test_rnn")
    return [case for case in cases._NodeTestCases if case.name.startswith(of_ours)]


NODE_CASES = node_cases()


def test_there_are_18_node_cases() -> None:
    assert len(NODE_CASES) >= 18


@pytest.mark.parametrize("case", NODE_CASES, ids=lambda case: case.name)
def test_onnx_own_node_cases(case: Any) -> None:
    (node,) = case.model.graph.node
    names = ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P")
    for inputs, outputs in case.data_sets:
        values = iter(inputs)
        given = {name: next(values) for name, used in zip(names, node.input, strict=False) if used}
        weights = {name: given.pop(name) for name in "WRBP" if name in given}
        found = Node(node, **weights)(**given)
        mine = [value for value, name in zip(found, node.output, strict=False) if name]
        for got, want in zip(mine, outputs, strict=True):
            assert_close(case.name, got, want, 1e-5)


@pytest.mark.parametrize("seed", range(8))
def test_layout_1_is_layout_0_with_other_axes(seed: int) -> None:
    problem = draw(seed)
    want = as_node(problem)(**problem.given)
    problem.node.attribute.append(helper.make_attribute("layout", 1))
    given = {k: v if k == "sequence_lens" else v.swapaxes(0, 1) for k, v in problem.given.items()}
    got = as_node(problem)(**given)
    assert_close("Y", got[0], want[0].transpose(2, 0, 1, 3), 1e-6)
    for k in range(1, len(want)):
        assert_close(f"state {k}", got[k], want[k].swapaxes(0, 1), 1e-6)


@pytest.mark.parametrize("seed", range(8))
def test_float16_is_computed_in_float32_and_double_in_double(seed: int) -> None:
    half, single = draw(seed, dtype="float16"), draw(seed)
    double = Problem(single.node, {k: v if k[:8] == "sequence" else v.astype("f8") for k, v in single.arrays.items()})
    assert as_node(half).modules[0].dtype == np.float32
    for got, rounded, want in zip(by_node(double), by_node(half), by_node(single), strict=True):
        scale = max(1.0, float(np.abs(want).max()))
        assert (got.dtype, rounded.dtype) == (np.float64, np.float16)
        assert_close("double", got, want.astype("f8"), 2e-5 * scale)
        assert_close("half", rounded.astype("f4"), want, 0.02 * scale)


def plain(operator: str, **options: Any) -> Problem:
    rng, G = np.random.default_rng(0), {"LSTM": 4, "GRU": 3, "RNN": 1}[operator]
    D = 2 if options.get("direction") == "bidirectional" else 1
    shapes = {"X": (4, 2, 3), "W": (D, G * 5, 3), "R": (D, G * 5, 5), "B": (D, 2 * G * 5)}
    arrays = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    return Problem(helper.make_node(operator, "XWRB", ["Y"], name="it", hidden_size=5, **options), arrays)


def test_plain_nodes_become_the_built_in_modules() -> None:
    assert isinstance(as_node(plain("LSTM")).module, fastrnn.LSTM)
    assert isinstance(as_node(plain("GRU", linear_before_reset=1)).module, fastrnn.GRU)
    assert as_node(plain("GRU")).module.cell is fastrnn.cells.gru_with(reset="before")
    rnn = as_node(plain("RNN", activations=["Relu", "Relu"], direction="bidirectional")).module
    assert isinstance(rnn, fastrnn.RNN)
    assert (rnn.nonlinearity, rnn.bidirectional) == ("relu", True)
    peepholes = Node(helper.make_node("LSTM", ["X", "W", "R", "", "", "", "", "P"], ["Y"]), **PEEPHOLES)
    assert peepholes.module.cell is fastrnn.cells.lstm_with(peepholes=True)
    assert isinstance(Node(peepholes_node(), **(PEEPHOLES | {"P": np.zeros((1, 3), "f4")})).module, fastrnn.LSTM)


PEEPHOLES = {"W": np.ones((1, 4, 2), "f4"), "R": np.ones((1, 4, 1), "f4"), "P": np.ones((1, 3), "f4")}


def peepholes_node() -> Any:
    return helper.make_node("LSTM", ["X", "W", "R", "", "", "", "", "P"], ["Y"])


def test_directions_of_their_own_activations_are_two_modules() -> None:
    node = as_node(plain("RNN", activations=["Softsign", "Tanh"], direction="bidirectional"))
    assert [repr(module)[:4] for module in node.modules] == ["Recu", "RNN("]
    with pytest.raises(ValueError, match="RNN it: its directions have activations of their own"):
        _ = node.module


# ---- files


WANT = plain("LSTM")


def same_as_plain(node: Node) -> bool:
    X = WANT.arrays["X"]
    return np.array_equal(node(X)[0], as_node(WANT)(X)[0])


def test_weights_behind_any_operators_on_constants(tmp_path: Path) -> None:
    W, R, B = (WANT.arrays[name] for name in "WRB")
    starts, ends = np.array([0]), np.array([20])
    nodes = [
        helper.make_node("Constant", [], ["w"], value=numpy_helper.from_array(W[0].T)),
        helper.make_node("Identity", ["w"], ["w1"]),
        helper.make_node("Transpose", ["w1"], ["w2"], perm=[1, 0]),
        helper.make_node("Unsqueeze", ["w2", "zero"], ["W"]),
        helper.make_node("Slice", ["long", "starts", "ends"], ["r1"]),
        helper.make_node("Reshape", ["r1", "shape"], ["r2"]),
        helper.make_node("Cast", ["r2"], ["R"], to=TensorProto.FLOAT),
        helper.make_node("Concat", ["b0", "b1"], ["b2"], axis=1),
        helper.make_node("Squeeze", ["b2"], ["b3"]),
        helper.make_node("Unsqueeze", ["b3", "zero"], ["B"]),
        helper.make_node("LSTM", "XWRB", ["Y"], hidden_size=5),
    ]
    weights = {
        "long": np.concatenate((R[0], np.ones((3, 5)))).astype("f8"),
        "starts": starts,
        "ends": ends,
        "zero": np.array([0]),
        "shape": np.array([1, 20, 5]),
        "b0": B[:, :7],
        "b1": B[:, 7:],
    }
    tensors = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    file = tmp_path / "model.onnx"
    onnx.save(as_model(nodes, [value_of("X", "f4", ["T", "N", 3])], [value_of("Y", "f4")], tensors), file)
    found = fastrnn.onnx.load(file)
    assert list(found) == ["Y"]
    assert same_as_plain(found["Y"])


def test_quantized_weights_are_taken_as_they_are_dequantized(tmp_path: Path) -> None:
    quantized = np.random.default_rng(1).integers(-128, 128, (1, 20, 3)).astype(np.int8)
    nodes = [
        helper.make_node("DequantizeLinear", ["q", "scale", "point"], ["W"]),
        helper.make_node("LSTM", "XWR", ["Y"], name="lstm", hidden_size=5),
    ]
    weights = {"q": quantized, "scale": np.float32(0.02), "point": np.int8(3), "R": WANT.arrays["R"]}
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()]
    onnx.save(
        as_model(nodes, [value_of("X", "f4", ["T", "N", 3])], [value_of("Y", "f4")], tensors), tmp_path / "q.onnx"
    )
    module = fastrnn.onnx.load(tmp_path / "q.onnx")["lstm"].module
    want = np.float32(0.02) * (quantized[0].astype("f4") - 3)
    np.testing.assert_allclose(module.parameters["weight_ih_l0"][:5], want[:5], rtol=1e-6)
    np.testing.assert_allclose(module.parameters["weight_ih_l0"][15:], want[5:10], rtol=1e-6)  # o is ONNX' second


def test_weights_in_a_file_beside(tmp_path: Path) -> None:
    onnx.save(model_of(WANT), tmp_path / "m.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert (tmp_path / "weights.bin").stat().st_size >= 4 * WANT.arrays["W"].size
    assert same_as_plain(fastrnn.onnx.load(tmp_path / "m.onnx")["it"])


def test_nodes_in_branches_and_bodies_see_weights_around_them(tmp_path: Path) -> None:
    then = helper.make_graph([WANT.node], "then", [], [value_of("Y", "f4")])
    other = helper.make_node("LSTM", "XWRB", ["Z"], name="it", hidden_size=5, direction="reverse")
    otherwise = helper.make_graph([other], "else", [], [value_of("Z", "f4")])
    branch = helper.make_node("If", ["c"], ["Y1"], name="branch", then_branch=then, else_branch=otherwise)
    step = helper.make_node("LSTM", ["x", "W", "R"], ["y"], name="inner", hidden_size=5)
    keep = helper.make_node("Identity", ["s"], ["s1"])
    ends = [value_of("s", "f4"), value_of("x", "f4")], [value_of("s1", "f4"), value_of("y", "f4")]
    body = helper.make_graph([step, keep], "body", *ends)
    scan = helper.make_node("Scan", ["state", "four"], ["s2", "Y2"], name="scan", body=body, num_scan_inputs=1)
    tensors = [numpy_helper.from_array(WANT.arrays[name], name) for name in "WRB"]
    inputs = [value_of(*each) for each in (("X", "f4"), ("c", "bool"), ("state", "f4"), ("four", "f4"))]
    onnx.save(
        as_model([branch, scan], inputs, [value_of("Y1", "f4"), value_of("Y2", "f4")], tensors), tmp_path / "m.onnx"
    )
    found = fastrnn.onnx.load(tmp_path / "m.onnx")
    assert list(found) == ["it", "branch/then_branch/it", "inner"]
    assert same_as_plain(found["branch/then_branch/it"])
    assert found["it"].direction == "reverse"


def test_nodes_in_functions_of_the_model(tmp_path: Path) -> None:
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    inner = helper.make_node("LSTM", "abc", ["y"], name="inner", hidden_size=5)
    function = helper.make_function("own", "Layer", ["a", "b", "c"], ["y"], [inner], opsets[:1])
    call = helper.make_node("Layer", "XWR", ["Y"], name="call", domain="own")
    tensors = [numpy_helper.from_array(WANT.arrays[name], name) for name in "WR"]
    graph = helper.make_graph([call], "g", [value_of("X", "f4", ["T", "N", 3])], [value_of("Y", "f4")], tensors)
    onnx.save(helper.make_model(graph, opset_imports=opsets, functions=[function], ir_version=8), tmp_path / "m.onnx")
    (node,) = fastrnn.onnx.load(tmp_path / "m.onnx").values()
    assert node.module.input_size == 3


# ---- what is refused


X = value_of("X", "f4", ["T", "N", 3])
COPY = helper.make_node("Identity", ["w"], ["W"], name="copy")
DRAW = helper.make_node("RandomNormal", [], ["W"], name="draw", shape=[1, 20, 3])


@pytest.mark.parametrize(
    ("nodes", "inputs", "message"),
    [
        ([WANT.node], [X, value_of("W", "f4")], "LSTM it: its W W is an input of the graph"),
        ([COPY, WANT.node], [X, value_of("w", "f4")], "LSTM it: its W w is an input of the graph"),
        ([DRAW, WANT.node], [X], "its W W, which RandomNormal 'draw' makes, is known at run time only"),
        ([WANT.node], [X], "its W W is nowhere in the file"),
    ],
)
def test_weights_that_are_known_at_run_time_only_are_refused_by_name(
    tmp_path: Path, nodes: Any, inputs: Any, message: str
) -> None:
    tensors = [numpy_helper.from_array(WANT.arrays[name], name) for name in "RB"]
    onnx.save(as_model(nodes, inputs, [value_of("Y", "f4")], tensors), tmp_path / "m.onnx")
    with pytest.raises(ValueError, match=message) as caught:
        fastrnn.onnx.load(tmp_path / "m.onnx")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden_size": 4}, "LSTM it: hidden_size is 4, and R has 5 columns"),
        ({"direction": "both"}, "direction is 'both'; expected forward, reverse or bidirectional"),
        ({"layout": 2}, "layout is 2"),
        ({"activations": ["Tanh"]}, "activations has 1 names; expected 3 of each direction"),
        ({"activations": ["Tanh", "Gelu", "Tanh"]}, "the activation is 'Gelu'"),
        ({"clip": -1.0}, "clip"),
        ({"peel": 1}, "the attribute peel is not known"),
        ({"direction": "bidirectional"}, r"W has shape \(1, 20, 3\); expected \(2, 20, 3\)"),
    ],
)
def test_attributes_that_are_not_known_are_refused_by_name(options: Any, message: str) -> None:
    node = helper.make_node("LSTM", "XWRB", ["Y"], name="it", **({"hidden_size": 5} | options))
    with pytest.raises(ValueError, match=message) as caught:
        Node(node, **{name: WANT.arrays[name] for name in "WRB"})
    assert str(caught.value).startswith("LSTM it: ")


def test_what_goes_into_a_node_is_checked() -> None:
    node, x = as_node(plain("GRU")), plain("GRU").arrays["X"]
    with pytest.raises(TypeError, match="GRU it: X has dtype float64; expected float32"):
        node(x.astype("f8"))
    with pytest.raises(ValueError, match="GRU it: X has 2 axes; expected 3"):
        node(x[0])
    with pytest.raises(ValueError, match="GRU it: initial_c is given"):
        node(x, initial_c=x)
    reverse = as_node(plain("GRU", direction="reverse"))
    for lengths in ([4], [4, 5], [-1, 2]):
        with pytest.raises(ValueError, match="expected N = 2 numbers from 0 to T = 4"):
            reverse(x, sequence_lens=lengths)


def test_files_that_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="which is no file; expected an ONNX file"):
        fastrnn.onnx.load(tmp_path / "none.onnx")
    for content in (b"", b"no protocol buffer at all", np.arange(99.0).tobytes()):
        (tmp_path / "m.onnx").write_bytes(content)
        with pytest.raises(ValueError, match="is no ONNX file"):
            fastrnn.onnx.load(tmp_path / "m.onnx")
    model = model_of(WANT)
    model.opset_import[0].version = 999
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ValueError, match="has operators of opset 999; expected 1 to"):
        fastrnn.onnx.load(tmp_path / "m.onnx")
