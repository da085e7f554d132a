"""What docs/from/torch.md says of files and of torch's other tools is what they do with an accelerated model."""

from __future__ import annotations

import contextlib
import copy
import importlib.util
import io
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from problems import clean_environ
from watched import run_watched

import fastrnn.torch

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning",  # half of these tools are on their way out of torch
    "ignore:Converting a tensor to a Python:Warning",
    "ignore:torch.quantize_per_tensor:UserWarning",
    "ignore:The tensor attributes:UserWarning",
    "ignore:Exporting a model to ONNX:UserWarning",
    "ignore:.isinstance.treespec:FutureWarning",
)


@pytest.fixture
def model(torch: ModuleType) -> Any:
    return fastrnn.torch.accelerate(torch.nn.Sequential(torch.nn.LSTM(3, 4)))


def reloaded(torch: ModuleType, value: Any, **options: Any) -> Any:
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file, **options)


def test_files_and_copies(torch: ModuleType, model: Any) -> None:
    torch.nn.Sequential(torch.nn.LSTM(3, 4)).load_state_dict(reloaded(torch, model.state_dict()))
    with pytest.raises(pickle.UnpicklingError):
        reloaded(torch, model)
    copies = reloaded(torch, model, weights_only=False), copy.deepcopy(model), pickle.loads(pickle.dumps(model))
    assert [type(each[0]) for each in copies] == [fastrnn.torch.LSTM] * 3


def test_scripts_are_torchs(torch: ModuleType, model: Any) -> None:
    x, rnn = torch.randn(2, 1, 3), model[0]
    expected = model(x)[0]
    with fastrnn.torch.restored(model):
        scripted = torch.jit.script(model)
    torch.testing.assert_close(scripted(x)[0], expected)
    assert type(model[0]) is fastrnn.torch.LSTM
    with pytest.warns(
        UserWarning, match=r"made torch\.nn's of this fastrnn\.torch\.LSTM: fastrnn\.torch\.accelerate puts"
    ):
        scripted = torch.jit.script(model)
    torch.testing.assert_close(scripted(x)[0], expected)
    assert model[0] is rnn
    assert type(rnn) is torch.nn.LSTM


@pytest.mark.parametrize("dynamo", [False, True])
@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_onnx_files_are_torchs(
    torch: ModuleType, require: Callable[[bool, str], None], kind: str, dynamo: bool
) -> None:
    require(importlib.util.find_spec("onnxscript") is not None, "onnxscript is not installed")
    import onnx

    model = torch.nn.Sequential(getattr(torch.nn, kind)(3, 4)).eval()
    nodes = []
    for _ in range(2):
        file = io.BytesIO()
        torch.onnx.export(model, (torch.zeros(2, 1, 3),), file, dynamo=dynamo, verbose=False)
        nodes.append([node.op_type for node in onnx.load_from_string(file.getvalue()).graph.node])
        fastrnn.torch.accelerate(model)
    assert nodes[0] == nodes[1]
    assert fastrnn.torch.report(model)[0].on_kernels


def test_quantisation_wants_it_restored(torch: ModuleType, model: Any) -> None:
    def quantised() -> Any:
        return torch.ao.quantization.quantize_dynamic(model, {torch.nn.LSTM}, dtype=torch.qint8)[0]

    assert type(quantised()) is fastrnn.torch.LSTM
    with fastrnn.torch.restored(model):
        assert "quantized" in type(quantised()).__module__
    assert type(model[0]) is fastrnn.torch.LSTM


@pytest.mark.long  # C++ is compiled, for a minute
@pytest.mark.parametrize("restored", [False, True])
def test_packages_of_aot_inductor(torch: ModuleType, model: Any, restored: bool, tmp_path: Path) -> None:
    """On the kernels, through an operator of the graph, or on torch's own, and then fastrnn is not needed."""
    x = torch.randn(5, 2, 3)
    expected = model(x)[0]
    with fastrnn.torch.restored(model) if restored else contextlib.nullcontext():
        program = torch.export.export(model, (x,))
    operators = {str(node.target) for node in program.graph.nodes}
    assert ("fastrnn.layer.default" in operators, "aten.lstm.input" in operators) == (not restored, restored)
    file = torch._inductor.aoti_compile_and_package(program, package_path=str(tmp_path / "model.pt2"))
    torch.testing.assert_close(torch._inductor.aoti_load_package(file)(x)[0], expected)


@pytest.mark.long  # four interpreters that import torch
@pytest.mark.parametrize("kind", ["export", "jit"])
def test_programs_need_fastrnn_where_they_are_loaded(torch: ModuleType, model: Any, kind: str, tmp_path: Path) -> None:
    x, file = torch.zeros(2, 1, 3), tmp_path / "program.pt2"
    program = torch.jit.trace(model, x) if kind == "jit" else torch.export.export(model, (x,))
    getattr(torch, kind).save(program, file)
    call = ".module()" if kind == "export" else ""
    run = f"m = torch.{kind}.load({str(file)!r}){call}; print(m(torch.zeros(2, 1, 3))[0].shape)"
    for first, status in ("", 1), ("import fastrnn.torch; ", 0):
        command = [sys.executable, "-W", "ignore", "-c", f"import torch; {first}{run}"]
        done = run_watched(command, 120, env=clean_environ())
        assert done.returncode == status, done.stderr
