"""fastrnn.bench.torch_models: that both models learn the same, and what it prints. No time is asserted."""

from __future__ import annotations

import time
from types import ModuleType

import pytest

pytest.importorskip("threadpoolctl")

from fastrnn.bench import machine, torch_models


@pytest.fixture
def smallest(torch: ModuleType, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """One shape, few steps, and the process's CPUs and threads as they are."""
    monkeypatch.setattr(torch_models, "GRID", ((3, 2, 4, 5),))
    monkeypatch.setattr(torch_models, "TURN", 0.0)
    monkeypatch.setattr(machine, "pin", lambda threads: None)
    monkeypatch.setattr(torch, "set_num_threads", lambda threads: None)
    return torch


def test_a_row_for_each_layer(smallest: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr("sys.argv", ["torch_models", "--seconds", "0"])
    torch_models.main()
    head, _, _, _, *rows = capsys.readouterr().out.splitlines()
    assert head.startswith(f"torch {smallest.__version__}, 1 threads")
    assert sorted(row.split(",")[0] for row in rows) == ["| GRU", "| LSTM", "| RNN"]
    ratios = [float(row.split("|")[-2]) for row in rows]
    assert ratios == sorted(ratios)


def test_models_that_learn_otherwise_are_not_timed(smallest: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    import fastrnn.torch

    monkeypatch.setattr(fastrnn.torch, "accelerate", lambda model: model["rnn"].weight_hh_l0.data.zero_())
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        torch_models._measure(smallest, "LSTM", (3, 2, 4, 5), 0.0, time.process_time)
