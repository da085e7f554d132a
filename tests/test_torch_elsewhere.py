"""What docs/from/torch.md says of files and of torch's other tools is what they do with an accelerated model."""

from __future__ import annotations

import copy
import io
import pickle
import sys
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


def test_scripts_and_onnx_want_it_restored(torch: ModuleType, model: Any) -> None:
    x = torch.zeros(2, 1, 3)
    with pytest.raises(torch.jit.frontend.NotSupportedError, match="keyword-only arguments"):
        torch.jit.script(model)
    with pytest.raises(torch.onnx.errors.UnsupportedOperatorError, match="fastrnn::layer"):
        torch.onnx.export(model, (x,), io.BytesIO(), dynamo=False)
    expected = model(x)[0]
    scripted = torch.jit.script(fastrnn.torch.restore(model))
    torch.testing.assert_close(scripted(x)[0], expected)


def test_quantisation_wants_it_restored(torch: ModuleType, model: Any) -> None:
    def quantised() -> Any:
        return torch.ao.quantization.quantize_dynamic(model, {torch.nn.LSTM}, dtype=torch.qint8)[0]

    assert type(quantised()) is fastrnn.torch.LSTM
    fastrnn.torch.restore(model)
    assert "quantized" in type(quantised()).__module__


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
