"""examples/clients: networks that packages ship have the numbers that they had, where the packages are installed."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).resolve().parents[1] / "examples" / "clients"

pytestmark = pytest.mark.filterwarnings("ignore")  # of the packages


@pytest.fixture
def measure(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(FOLDER)
    module = importlib.import_module("measure")
    monkeypatch.setattr(module, "ROUNDS", 1)
    monkeypatch.setattr(module, "SECONDS", 0)
    return module


SLOW = pytest.param("sleep", marks=pytest.mark.long)  # Keras' own loops


@pytest.mark.parametrize("name", ["speech", "denoiser", "english", "mandarin", SLOW, "lines", "voice"])
def test_numbers_stay_what_they_are(measure: Any, request: pytest.FixtureRequest, name: str) -> None:
    assert name in measure.NAMES
    if name == "sleep":
        request.getfixturevalue("keras")  # whose settings a process has once
    client = measure.client(name)
    if client is None:
        pytest.skip(f"the package of examples/clients/{name}.py is in the extra `clients`, or said in docs/clients.md")
    before, after = measure.pair(client)
    if hasattr(client, "session"):
        client.session(after)._measure = False  # and not the way that is faster on this machine
    found = measure.row(client, next(iter(client.CASES)), before, after)
    assert found["difference"] <= (0 if found["whole_numbers"] else 2e-5)
    assert 0 < found["share"] < 1.05
    assert found["seconds"]["after"] > 0
