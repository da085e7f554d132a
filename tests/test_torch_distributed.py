"""fastrnn.torch in several processes: what examples/ddp.py says of itself."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path

from watched import run_watched

from fastrnn import ops

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "ddp.py"


def test_two_processes_get_the_gradients_of_the_whole_batch(require: Callable[[bool, str], None]) -> None:
    require(importlib.util.find_spec("torch") is not None, "torch is not installed")
    import torch.distributed

    require(torch.distributed.is_gloo_available(), "torch has no gloo")
    require(ops.keeps(ops.choose(None, None)[0]), "no backend with compiled kernels runs here")
    run = run_watched([sys.executable, EXAMPLE], 300)
    assert run.returncode == 0, run.stderr
    assert "largest difference" in run.stdout
