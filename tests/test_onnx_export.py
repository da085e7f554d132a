"""`fastrnn.onnx.export`: what onnxruntime makes of the file is what the module makes of the same input."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx.reference import ReferenceEvaluator
from tolerances import assert_close

import fastrnn
import fastrnn.onnx
from fastrnn import cells
from fastrnn.cells import LIBRARY, gru_with, lstm_with, rnn_with, where
from fastrnn.parameters import Array
from fastrnn.training import Dropout, Embedding, LanguageModel, Last, Linear, Sequential

LENGTHS = np.array([6, 0, 4], np.int32)
T, N, I, H = 6, 3, 4, 5


@fastrnn.cell(gates="u v", states="h s")
def with_conditions(a: Any, prev: Any) -> Any:
    far = (a.u > prev.s) & ~((a.v < 0.5) | (a.v == prev.h))
    return where(far, cells.softplus(a.u), cells.elu(a.v, 0.7)), 1.5


@fastrnn.cell(gates="u", states="h", parameters="k")
def of_parameters(a: Any, prev: Any, p: Any) -> Any:
    return cells.log1p(cells.absolute(a.u)) - cells.erf(p.k) * cells.expm1(cells.minimum(prev.h, 1.0))


@fastrnn.cell(gates="u", states="h", parameters="k")
def of_what_is_left(a: Any, prev: Any, p: Any) -> Any:
    return cells.tanh(a.u(p.k * prev.h)) + 0.1 * prev.h


@fastrnn.cell(gates="u v", states="h s", from_x="u")
def of_means(a: Any, prev: Any) -> Any:
    s = cells.tanh(a.u) + 0.5 * prev.s
    return cells.tanh(a.v(cells.mean(prev.h * s)) + s), cells.mean(s)


def run(model: Any, feed: dict[str, Array], path: Path, **options: Any) -> list[Array]:
    """The model in onnxruntime."""
    fastrnn.onnx.export(model, path, **options)
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
    return list(session.run(None, feed))


def largest_difference(rnn: Any, path: Path, *, lengths: bool, state: bool, normalizer: int = -1) -> float:
    rng, dtype = np.random.default_rng(0), rnn.dtype
    x = rng.normal(size=(N, T, I) if rnn.batch_first else (T, N, I)).astype(dtype)
    sizes = [rnn._output_size] + [rnn.hidden_size] * (len(rnn._cell.states) - 1)
    states = [rng.normal(size=(rnn.num_layers * rnn.directions, N, size)).astype(dtype) for size in sizes]
    if normalizer >= 0:
        states[normalizer] = np.abs(states[normalizer]) + 1
    feed = {"x": x} | ({"lengths": LENGTHS} if lengths else {})
    feed |= {f"{name}_0": value for name, value in zip(rnn._cell.states, states, strict=True)} if state else {}
    given: Any = (states[0] if len(states) == 1 else tuple(states)) if state else None
    y, after = rnn(x, given, lengths=LENGTHS if lengths else None)
    want = [y, *(after if isinstance(after, tuple) else (after,))]
    got = run(rnn, feed, path, lengths=lengths, state=state)
    assert [value.shape for value in got] == [value.shape for value in want]
    return max(float(np.abs(one - other).max()) for one, other in zip(got, want, strict=True))


MODULES: dict[str, Any] = {
    "lstm": fastrnn.LSTM(I, H, 2, bidirectional=True, seed=0),
    "lstm_alone": fastrnn.LSTM(I, H, bias=False, batch_first=True, seed=0),
    "gru": fastrnn.GRU(I, H, 2, batch_first=True, bidirectional=True, seed=0),
    "rnn": fastrnn.RNN(I, H, nonlinearity="relu", bidirectional=True, seed=0),
    "projection": fastrnn.LSTM(I, H, 2, proj_size=3, bidirectional=True, seed=0),
    "peepholes": fastrnn.Recurrent(
        lstm_with(clip=1.0, coupled=True, peepholes=True), I, H, 2, bidirectional=True, seed=0
    ),
    "activations": fastrnn.Recurrent(lstm_with("hard_sigmoid", ("leaky_relu", 0.2), "softsign"), I, H, seed=0),
    "reset_before": fastrnn.Recurrent(
        gru_with(("hard_sigmoid", 0.2), reset="before"), I, H, bidirectional=True, seed=0
    ),
    "elu": fastrnn.Recurrent(rnn_with(("elu", 0.5), clip=0.7), I, H, seed=0),
    "mish": fastrnn.Recurrent(gru_with("sigmoid", "mish"), I, H, seed=0),
    "conditions": fastrnn.Recurrent(with_conditions, I, H, bidirectional=True, seed=0),
    "of_parameters": fastrnn.Recurrent(of_parameters, I, H, batch_first=True, bias=False, seed=0),
}


@pytest.mark.parametrize("name", MODULES)
def test_modules_are_the_same_in_onnxruntime(tmp_path: Path, name: str) -> None:
    for lengths, state in ((False, False), (True, False), (False, True), (True, True)):
        assert largest_difference(MODULES[name], tmp_path / "m.onnx", lengths=lengths, state=state) < 3e-6
    model = onnx.load(tmp_path / "m.onnx")
    operators = {node.op_type for node in model.graph.node} & {"LSTM", "GRU", "RNN", "Scan"}
    own = name in ("projection", "mish", "conditions", "of_parameters")
    assert operators == {"Scan"} if own else "Scan" not in operators


@pytest.mark.parametrize("name", LIBRARY)
def test_cells_of_the_library_are_the_same_in_onnxruntime(tmp_path: Path, name: str) -> None:
    rnn = fastrnn.Recurrent(LIBRARY[name], I, H, 2, bidirectional=True, seed=0)
    options = {"normalizer": 2 if name == "slstm" else -1}
    assert largest_difference(rnn, tmp_path / "m.onnx", lengths=True, state=True, **options) < 1e-5


@pytest.mark.parametrize(
    "cell", [of_what_is_left, of_means, cells.gal_lstm, cells.zoneout_gru], ids=lambda cell: cell.name
)
def test_noise_is_as_in_inference_and_products_take_what_they_take(tmp_path: Path, cell: Any) -> None:
    rnn = fastrnn.Recurrent(cell, I, H, 2, seed=0, noise=0.3 if cell.noise else None)
    assert largest_difference(rnn, tmp_path / "m.onnx", lengths=True, state=True) < 1e-5


def test_values_beside_x_are_not_exported(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the cell cfc_dt is given dt beside x"):
        fastrnn.onnx.export(fastrnn.Recurrent(cells.cfc_dt, I, H), tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["lstm", "peepholes", "projection", "conditions"])
def test_what_is_exported_comes_back(tmp_path: Path, name: str) -> None:
    rnn = MODULES[name]
    fastrnn.onnx.export(rnn, tmp_path / "m.onnx")
    nodes = fastrnn.onnx.load(tmp_path / "m.onnx")
    assert len(nodes) == (rnn.num_layers if name in ("lstm", "peepholes") else 0)
    for layer, node in enumerate(nodes.values()):
        assert (node.name, node.module.bidirectional) == (f"lstm_l{layer}", True)
        for key, value in node.module.parameters.items():
            assert np.array_equal(value, rnn.parameters[key.replace("_l0", f"_l{layer}")])


@pytest.mark.parametrize("opset", [14, 17, 18, 21])
def test_every_opset_from_14_on(tmp_path: Path, opset: int) -> None:
    rnn = MODULES["conditions"]
    x = np.random.default_rng(0).normal(size=(T, N, I)).astype("f4")
    got = run(rnn, {"x": x, "lengths": LENGTHS}, tmp_path / "m.onnx", opset=opset, lengths=True)
    assert_close("y", got[0], rnn(x, lengths=LENGTHS)[0], 3e-6)


def test_float64_is_written_as_such(tmp_path: Path) -> None:
    rnn = fastrnn.Recurrent(LIBRARY["min_gru"], I, H, dtype="float64", seed=0)
    fastrnn.onnx.export(rnn, tmp_path / "m.onnx")
    x = np.random.default_rng(0).normal(size=(T, N, I))
    got = ReferenceEvaluator(str(tmp_path / "m.onnx")).run(None, {"x": x})
    assert_close("y", np.asarray(got[0]), rnn(x)[0], 1e-12)


TOKENS = np.random.default_rng(0).integers(0, 20, (T, N))
LAYERS = {
    "embedding": Embedding(20, 4, seed=0),
    "dropout": Dropout(0.5),
    "rnn": fastrnn.GRU(4, 8, bidirectional=True, seed=1),
    "between": Linear(16, 4, seed=2),
}
ENDS = {
    "every step": {"lstm": fastrnn.LSTM(4, 6, seed=3), "head": Linear(6, 3, bias=False, seed=4)},
    "the last": {"last": Last(fastrnn.LSTM(4, 6, 2, bidirectional=True, seed=3)), "head": Linear(12, 3, seed=4)},
    "nested": {"inner": Sequential(fastrnn.Recurrent(LIBRARY["janet"], 4, 6, seed=3)), "head": Linear(6, 3, seed=4)},
}


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("lengths", [None, LENGTHS])
def test_sequential_models(tmp_path: Path, end: str, lengths: Any) -> None:
    model = Sequential(LAYERS | ENDS[end])
    tokens = TOKENS.copy()
    if lengths is not None:
        tokens[np.arange(T)[:, None] >= lengths] = -1  # padding may hold anything
    feed = {"tokens": tokens} | ({} if lengths is None else {"lengths": lengths})
    (got,) = run(model, feed, tmp_path / "m.onnx", lengths=lengths is not None)
    want = model(tokens, lengths)
    if lengths is not None and end == "the last":
        got, want = got[lengths > 0], want[lengths > 0]
    assert_close("y", got, want, 2e-6)


@pytest.mark.parametrize("embedding", [None, Embedding(20, 7, seed=0)])
def test_language_models(tmp_path: Path, embedding: Any) -> None:
    size = 20 if embedding is None else 7
    model = LanguageModel(fastrnn.LSTM(size, 8, 2, seed=1), Linear(8, 20, seed=2), embedding, dropout=0.3)
    state = tuple(np.random.default_rng(k).normal(size=(2, N, 8)).astype("f4") for k in range(2))
    feed = {"tokens": TOKENS, "h_0": state[0], "c_0": state[1]}
    logits, h_n, c_n = run(model, feed, tmp_path / "m.onnx", state=True)
    want, (want_h, want_c) = model(TOKENS, state)
    assert_close("logits", logits, want, 3e-6)
    assert_close("h_n", h_n, want_h, 3e-6)
    assert_close("c_n", c_n, want_c, 3e-6)


@pytest.mark.parametrize(
    ("model", "options", "kind", "message"),
    [
        (MODULES["lstm"], {"opset": 13}, ValueError, "opset is 13; expected 14 to"),
        (MODULES["lstm"], {"opset": 999}, ValueError, "opset is 999; expected 14 to"),
        (MODULES["lstm"], {"lengths": 1}, TypeError, "lengths"),
        (Sequential(Linear(2, 2)), {"lengths": True}, ValueError, "lengths is True, but a Sequential takes none"),
        (Sequential(Linear(2, 2)), {"state": True}, ValueError, "state is True, but a Sequential takes no state"),
        (fastrnn, {}, TypeError, "model is .*; expected a module of fastrnn"),
    ],
)
def test_what_cannot_be_exported_is_refused(
    tmp_path: Path, model: Any, options: Any, kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        fastrnn.onnx.export(model, tmp_path / "m.onnx", **options)
    assert not (tmp_path / "m.onnx").exists()
