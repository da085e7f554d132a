"""The table of workflows in docs/from/torch.md: each is done, and what ran it is seen, not told."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fastrnn import ops

torch = pytest.importorskip("torch", reason="torch is not installed")
from torch import nn  # noqa: E402
from torch_workflows import KERNELS, PARTLY, REFUSED, TORCH, WARNED, WORKFLOWS, Workflow  # noqa: E402

import fastrnn.torch as ours  # noqa: E402
from fastrnn.torch import precision  # noqa: E402

PAGE = Path(__file__).parents[1] / "docs" / "from" / "torch.md"
HEAD = "| workflow | what runs it |"


@pytest.fixture(autouse=True)
def compiled(require: Callable[[bool, str], None], monkeypatch: pytest.MonkeyPatch) -> None:
    backend, _ = ops.choose(None, None)
    require(ops.keeps(backend), "no backend with compiled kernels runs here")
    monkeypatch.setattr(precision, "MULTIPLIES_BFLOAT16", False)  # whatever the CPU
    monkeypatch.setattr(precision, "kernels_multiply_bfloat16", lambda: False)
    torch.manual_seed(0)


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A name for each run of the kernels."""
    runs: list[str] = []
    for name in ("run", "run_packed", "forward", "backward"):
        original = getattr(ops, name)

        def count(*given: Any, name: str = name, original: Any = original, **options: Any) -> Any:
            runs.append(name)
            return original(*given, **options)

        monkeypatch.setattr(ops, name, count)
    return runs


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda workflow: workflow.name)
def test_workflow(workflow: Workflow, ran: list[str]) -> None:
    stock = workflow.make()
    module = ours.accelerate(copy.deepcopy(nn.Sequential(stock)))[0] if workflow.path != REFUSED else stock
    if workflow.path == REFUSED:
        with pytest.raises(NotImplementedError, match="has no derivative of its derivative"):
            workflow.do(module)
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own
        want = (workflow.of_stock or workflow.do)(stock)
    assert not ran
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        got = workflow.do(module)
    rtol, atol = (2e-2, 1e-2) if "rounded" in workflow.name or "bfloat16" in workflow.name else (1e-4, 1e-5)
    torch.testing.assert_close(got, want, rtol=rtol, atol=atol)
    assert bool(ran) == (workflow.path in (KERNELS, PARTLY))
    assert any("leaves this to torch.nn" in str(each.message) for each in found) == (workflow.path in (WARNED, PARTLY))


def test_the_docs_have_this_table() -> None:
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    first = lines.index(HEAD) + 2
    rows = lines[first : lines.index("", first)]
    assert rows == [f"| {each.name} | {each.path} |" for each in WORKFLOWS]
    assert {each.path for each in WORKFLOWS} == {KERNELS, PARTLY, REFUSED, TORCH, WARNED}
