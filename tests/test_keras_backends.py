"""fastrnn.keras on Keras' other backends: a process has one, so the tests of its layers run once more in others."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Require

TESTS = Path(__file__).with_name("test_keras_layers.py")


@pytest.mark.long
@pytest.mark.parametrize("backend", ["jax", "tensorflow"])
def test_layers_on_another_backend(require: Require, backend: str) -> None:
    require(importlib.util.find_spec("keras") is not None, "keras is not installed")
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed: it is no part of the extra test, being large")
    environment = os.environ | {"FASTRNN_TEST_KERAS": backend, "JAX_ENABLE_X64": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(TESTS)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=TESTS.parents[1])
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
