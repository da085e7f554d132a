"""`fastrnn.onnx.InferenceSession`: onnxruntime's numbers, whatever stands between the recurrent nodes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import ModelProto, helper, numpy_helper
from onnx_problems import as_model, by_runtime, draw, model_of, value_of
from tolerances import assert_close

import fastrnn
import fastrnn.onnx
from fastrnn.onnx import InferenceSession
from fastrnn.parameters import Array

RNG = np.random.default_rng(0)


def weights_of(operator: str, name: str, I: int, H: int) -> dict[str, Array]:
    G = {"LSTM": 4, "GRU": 3, "RNN": 1}[operator]
    shapes = {f"{name}_W": (1, G * H, I), f"{name}_R": (1, G * H, H)}
    return {key: RNG.normal(0, 0.5, shape).astype("f4") for key, shape in shapes.items()}


def layer(operator: str, name: str, x: str, y: str, H: int, *more: str) -> Any:
    return helper.make_node(operator, [x, f"{name}_W", f"{name}_R"], [y, *more], name=name, hidden_size=H)


def tangled() -> ModelProto:
    """Three recurrent nodes, two behind one another, with a shared constant, a branch, and an input that goes past."""
    weights = weights_of("LSTM", "a", 3, 5) | weights_of("GRU", "b", 5, 4) | weights_of("RNN", "c", 3, 4)
    weights |= {"axis": np.array([1]), "half": np.array([0.5], "f4"), "turned": weights.pop("b_W")[0].T}
    branch = {}
    for key, op in (("then_branch", "Add"), ("else_branch", "Mul")):
        node = helper.make_node(op, ["a_y", "scale"], [key])  # of the graph around
        branch[key] = helper.make_graph([node], key, [], [value_of(key, "f4")])
    nodes = [
        helper.make_node("Transpose", ["turned"], ["b_W0"], perm=[1, 0]),
        helper.make_node("Unsqueeze", ["b_W0", "zero"], ["b_W"]),
        helper.make_node("Add", ["half", "half"], ["one"]),
        helper.make_node("Mul", ["x", "one"], ["x1"]),
        layer("LSTM", "a", "x1", "a_Y", 5, "", "a_c"),
        helper.make_node("Squeeze", ["a_Y", "axis"], ["a_y"]),
        helper.make_node("If", ["which"], ["a_z"], **branch),
        layer("GRU", "b", "a_z", "b_Y", 4),
        layer("RNN", "c", "x", "c_Y", 4, "c_h"),
        helper.make_node("Add", ["b_Y", "c_Y"], ["sum"]),
        helper.make_node("Mul", ["sum", "one"], ["y"]),
        helper.make_node("Shape", ["x"], ["nobody"]),
    ]
    weights |= {"zero": np.array([0])}
    tensors = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    inputs = [value_of("x", "f4", ["T", "N", 3]), value_of("which", "bool", []), value_of("scale", "f4", [])]
    outputs = [
        value_of("y", "f4"),
        value_of("a_c", "f4"),
        value_of("one", "f4"),
        value_of("scale", "f4"),
        value_of("c_h", "f4"),
    ]
    return as_model(nodes, inputs, outputs, tensors)


@pytest.mark.parametrize("which", [False, True])
def test_a_tangled_graph_is_cut_and_its_numbers_are_onnxruntimes(tmp_path: Path, which: bool) -> None:
    model = tangled()
    onnx.save(model, tmp_path / "m.onnx")
    session = InferenceSession(tmp_path / "m.onnx", measure=False)
    assert sorted(session.nodes) == ["a", "b", "c"]
    for T, N in ((1, 1), (6, 3)):
        x = RNG.normal(size=(T, N, 3)).astype("f4")
        feed = {"x": x, "which": np.array(which), "scale": np.array(0.7, "f4")}
        got, want = session.run(None, feed), by_runtime(model, feed)
        for k, (mine, theirs) in enumerate(zip(got, want, strict=True)):
            np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-5, err_msg=str(k))
        (alone,) = session.run(["c_h"], feed)
        assert np.array_equal(alone, got[4])


def branching() -> ModelProto:
    """Recurrent nodes in branches, and in a branch of a branch, of one name in both.

    Their weights, states and inputs are of the branch, of the graph around it, or made there of constants; the inner
    condition comes out of a recurrent node.
    """
    weights = weights_of("GRU", "a", 3, 4) | weights_of("LSTM", "b", 4, 4) | weights_of("RNN", "c", 4, 4)
    weights |= {"h_0": RNG.normal(size=(1, 2, 4)).astype("f4"), "turned": weights.pop("b_W")[0].T}
    weights |= {"zero": np.array([0]), "one": np.array([1])}
    tensors = {name: numpy_helper.from_array(value, name) for name, value in weights.items()}
    inside = [tensors.pop("c_W")]  # of the branch

    def branch(key: str, nodes: list[Any], out: str, *own: Any) -> Any:
        nodes = [*nodes, helper.make_node("Add", [out, "x1"], [f"{key}_out"])]
        return helper.make_graph(nodes, key, [], [value_of(f"{key}_out", "f4", [None] * 3)], list(own))

    def squeezed(name: str, x: str, out: str, operator: str, *states: str) -> list[Any]:
        node = layer(operator, name, x, f"{out}_Y", 4)
        node.input.extend(["", "", *states] if states else [])
        return [node, helper.make_node("Squeeze", [f"{out}_Y", "one"], [out])]

    deepest = {
        "then_branch": branch("t", squeezed("c", "p", "r", "RNN"), "r", *inside),
        "else_branch": branch("e", [helper.make_node("Mul", ["p", "more"], ["s"])], "s"),
    }
    then = [
        *squeezed("b", "x1", "p", "LSTM", "h_0", "h_0"),
        helper.make_node("ReduceSum", ["p"], ["all"], keepdims=0),
        helper.make_node("Less", ["all", "limit"], ["small"]),
        helper.make_node("If", ["small"], ["q"], **deepest),
    ]
    outer = {
        "then_branch": branch("then", then, "q"),
        "else_branch": branch("else", squeezed("b", "a_y", "p2", "LSTM"), "p2"),
    }
    nodes = [
        helper.make_node("Transpose", ["turned"], ["b_W0"], perm=[1, 0]),
        helper.make_node("Unsqueeze", ["b_W0", "zero"], ["b_W"]),
        helper.make_node("Add", ["turned", "turned"], ["twice"]),
        helper.make_node("ReduceSum", ["twice"], ["more"], keepdims=0),  # a constant, which a branch has
        *squeezed("a", "x", "a_y", "GRU", "h_0"),
        helper.make_node("Mul", ["a_y", "more"], ["x1"]),
        helper.make_node("If", ["which"], ["y"], **outer),
        helper.make_node("Neg", ["y"], ["z"]),
    ]
    inputs = [value_of("x", "f4", ["T", 2, 3]), value_of("which", "bool", []), value_of("limit", "f4", [])]
    return as_model(nodes, inputs, [value_of("z", "f4"), value_of("a_y", "f4")], list(tensors.values()))


@pytest.mark.parametrize(("which", "limit"), [(True, 1e9), (True, -1e9), (False, 0)])
def test_nodes_in_branches_run_here_with_onnxruntimes_numbers(tmp_path: Path, which: bool, limit: float) -> None:
    model = branching()
    onnx.save(model, tmp_path / "m.onnx")
    session = InferenceSession(tmp_path / "m.onnx", measure=False)
    assert {node.operator for node in session.nodes.values()} == {"LSTM", "GRU", "RNN"}
    assert session.nodes.keys() == fastrnn.onnx.load(tmp_path / "m.onnx").keys()
    assert len(session.nodes) == 4  # two of one name
    for T in (1, 6):
        feed = {"x": RNG.normal(size=(T, 2, 3)).astype("f4"), "which": np.array(which), "limit": np.array(limit, "f4")}
        for mine, theirs in zip(session.run(None, feed), by_runtime(model, feed), strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-5)


def test_a_state_that_is_constant_goes_into_its_node(tmp_path: Path) -> None:
    weights = weights_of("GRU", "g", 3, 5) | {"h_0": RNG.normal(size=(1, 2, 5)).astype("f4")}
    node = layer("GRU", "g", "x", "y", 5)
    node.input.extend(["", "", "h_0"])
    tensors = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    model = as_model([node], [value_of("x", "f4", ["T", 2, 3])], [value_of("y", "f4")], tensors)
    onnx.save(model, tmp_path / "m.onnx")
    feed = {"x": RNG.normal(size=(4, 2, 3)).astype("f4")}
    (got,) = InferenceSession(tmp_path / "m.onnx", measure=False).run(None, feed)
    np.testing.assert_allclose(got, by_runtime(model, feed)[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("seed", range(12))
def test_single_nodes_with_all_their_inputs(tmp_path: Path, seed: int) -> None:
    problem = draw(seed)
    onnx.save(model_of(problem), tmp_path / "m.onnx")
    got = InferenceSession(tmp_path / "m.onnx", measure=False).run(None, problem.given)
    for mine, theirs in zip(got, by_runtime(model_of(problem), problem.given), strict=True):
        assert_close("output", mine, theirs, 2e-5 * max(1.0, float(np.abs(theirs).max())))


def test_measured_runs_are_either_way_the_same_numbers(tmp_path: Path) -> None:
    onnx.save(tangled(), tmp_path / "m.onnx")
    session, always = InferenceSession(tmp_path / "m.onnx"), InferenceSession(tmp_path / "m.onnx", measure=False)
    feed = {"x": RNG.normal(size=(5, 2, 3)).astype("f4"), "which": np.array(True), "scale": np.array(2, "f4")}
    for _ in range(2):
        for one, other in zip(session.run(None, feed), always.run(None, feed), strict=True):
            np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)
    assert len(session._chosen) == 1


def test_inputs_and_outputs_are_described_as_by_onnxruntime(tmp_path: Path) -> None:
    fastrnn.onnx.export(fastrnn.LSTM(3, 5, seed=0), tmp_path / "m.onnx", lengths=True, state=True)
    mine, theirs = (of(tmp_path / "m.onnx") for of in (InferenceSession, onnxruntime.InferenceSession))
    for name in ("get_inputs", "get_outputs"):
        want = [(each.name, each.type, each.shape) for each in getattr(theirs, name)()]
        assert [(each.name, each.type, each.shape) for each in getattr(mine, name)()] == want


def test_nodes_whose_weights_come_at_run_time_stay_in_onnxruntime(tmp_path: Path) -> None:
    weights = weights_of("GRU", "g", 3, 5)
    nodes = [helper.make_node("Mul", ["g_W", "two"], ["W"]), layer("GRU", "g", "x", "y", 5)]
    nodes[1].input[1] = "W"
    tensors = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    inputs = [value_of("x", "f4", ["T", "N", 3]), value_of("two", "f4", [])]
    model = as_model(nodes, inputs, [value_of("y", "f4")], tensors)
    onnx.save(model, tmp_path / "m.onnx")
    session, feed = InferenceSession(tmp_path / "m.onnx"), {"x": np.ones((4, 2, 3), "f4"), "two": np.array(2, "f4")}
    assert session.nodes == {}
    assert np.array_equal(session.run(None, feed)[0], by_runtime(model, feed)[0])


def test_weights_that_a_caller_may_replace_are_replaced(tmp_path: Path) -> None:
    model = model_of(problem := draw(3))
    model.graph.input.append(value_of("W", "f4", problem.arrays["W"].shape))
    onnx.save(model, tmp_path / "m.onnx")
    session = InferenceSession(tmp_path / "m.onnx", measure=False)
    for feed in (problem.given, problem.given | {"W": 2 * problem.arrays["W"]}, problem.given):
        want = by_runtime(model, feed)[0]
        assert_close("output", session.run(None, feed)[0], want, 2e-5 * max(1.0, float(np.abs(want).max())))


def test_layout_1_and_float16_run_though_onnxruntime_cannot(tmp_path: Path) -> None:
    weights = weights_of("GRU", "g", 3, 5)
    for dtype, options in (("f4", {"layout": 1}), ("f2", {})):
        tensors = [numpy_helper.from_array(value.astype(dtype), name) for name, value in weights.items()]
        node = helper.make_node("GRU", ["x", *weights], ["y"], name="g", hidden_size=5, **options)
        inputs, outputs = [value_of("x", dtype, [2, 4, 3])], [value_of("y", dtype)]
        onnx.save(as_model([node], inputs, outputs, tensors), tmp_path / "m.onnx")
        session, x = InferenceSession(tmp_path / "m.onnx"), RNG.normal(size=(2, 4, 3)).astype(dtype)
        (got,) = session.run(None, {"x": x})
        assert got.shape == ((2, 4, 1, 5) if options else (2, 1, 4, 5))
        assert np.array_equal(got, session.nodes["g"](x)[0])  # which test_onnx.py compares


@pytest.mark.parametrize(
    ("names", "feed", "message"),
    [
        (["z"], {"x": np.ones((1, 1, 3), "f4")}, "output_names has 'z'; expected of y, h_n"),
        (None, {}, "input_feed has nothing; expected x"),
        (None, {"x": np.ones((1, 1, 3), "f4"), "z": 1}, "input_feed has x, z; expected x"),
    ],
)
def test_calls_that_do_not_fit_are_refused(tmp_path: Path, names: Any, feed: Any, message: str) -> None:
    fastrnn.onnx.export(fastrnn.GRU(3, 5, seed=0), tmp_path / "m.onnx")
    session = InferenceSession(tmp_path / "m.onnx")
    with pytest.raises(ValueError, match=message):
        session.run(names, feed)


def test_threads_are_those_of_the_options(tmp_path: Path) -> None:
    fastrnn.onnx.export(fastrnn.GRU(3, 5, seed=0), tmp_path / "m.onnx")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = InferenceSession(tmp_path / "m.onnx", options)
    assert session.nodes["gru_l0"].module.num_threads == 1
