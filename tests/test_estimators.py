"""examples/estimators: the estimators are as good as other libraries' networks, where those are installed."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).resolve().parents[1] / "examples" / "estimators"

pytestmark = [pytest.mark.long, pytest.mark.filterwarnings("ignore")]  # of the packages


@pytest.mark.parametrize(("name", "least"), [("vowels", 0.94), ("digits", 0.92), ("sunspots", -0.5)])
def test_scores(monkeypatch: pytest.MonkeyPatch, keras: Any, name: str, least: float) -> None:
    for package in ("aeon", "skorch", "statsmodels"):
        pytest.importorskip(package, reason="it is in the extra `estimators`", exc_type=ImportError)
    monkeypatch.syspath_prepend(FOLDER)
    compare = importlib.import_module("compare")
    monkeypatch.setattr(compare, "SEEDS", 1)
    found = compare.row(name)
    assert found["scores"].keys() == found["seconds"].keys() == {"fastrnn", "keras", "skorch"}
    assert found["scores"]["fastrnn"] >= least
    assert found["scores"]["fastrnn"] >= min(found["scores"]["keras"], found["scores"]["skorch"]) - 0.03
    assert found["seconds"]["fastrnn"] < min(found["seconds"]["keras"], found["seconds"]["skorch"])
