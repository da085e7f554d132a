"""fastrnn.bench.tune: that it forces choices and tells which are wrong; and FASTRNN_TUNE. No time is asserted."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from fastrnn import backends
from fastrnn.backends import load
from fastrnn.bench import tune
from fastrnn.errors import BackendError
from fastrnn.kernels.choices import CHOICES

SHAPE = (3, 2, 4, 5)


@pytest.mark.parametrize("rule", tune.RULES, ids=lambda rule: rule.name)
def test_each_choice_is_forced_either_way_and_left_as_it_was(rule, monkeypatch):
    numbers = {number: 0 for way in rule.forced.values() for number in way}
    before = load("cython")._override(**numbers)
    load("cython")._override(**before)
    forced: list[dict[str, int]] = []
    monkeypatch.setattr(tune, "_forced", watched(tune._forced, forced))
    row = tune.measure(rule, SHAPE, 0.0, rounds=2)
    assert forced == [{}, *rule.forced.values()] * 2
    assert {way: len(samples) for way, samples in row.forced.items()} == dict.fromkeys(rule.forced, 2)
    assert load("cython")._override(**before) == before


def watched(function, calls):
    """The function, which notes what it was called with."""

    def called(numbers):
        calls.append(dict(numbers))
        return function(numbers)

    return called


def found(chosen, **forced):
    return tune.Found(tune.RULES[0], SHAPE, chosen, forced)


def test_ratios_are_of_minima_to_the_best_way():
    row = found([4.0, 3.0, 9.0], ahead=[2.0, 1.0, 1.0], fused=[0.5, 5.0, 5.0])
    assert (row.best, row.ratio) == ("fused", 6.0)


def test_the_table_shows_each_number_as_it_is(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    before = load("cython")._override(ROW_BYTES=12345)
    status = tune.main(["--table"])
    load("cython")._override(**before)
    lines = capsys.readouterr().out.splitlines()
    (row,) = (line for line in lines if "ROW_BYTES" in line)
    assert status == 0
    assert [cell.strip() for cell in row.split("│")[1:4]] == ["ROW_BYTES", "min(30 * KB, l1d * 15 // 16)", "12345"]
    assert [name for name in CHOICES if not any(f" {name} " in line for line in lines)] == []


@pytest.mark.parametrize(("chosen", "status"), [(1.05, 0), (1.2, 1)])
def test_a_check_fails_where_a_choice_is_wrong(monkeypatch, capsys, chosen, status):
    monkeypatch.setattr(tune, "measure", lambda *given: found([chosen], ahead=[1.0], fused=[1.5]))
    assert tune.main(["--check", "input product"]) == status
    assert f"8 choices, {8 * status} of them more than 10% slower" in capsys.readouterr().out
    assert tune.main(["input product"]) == 0


def test_an_unknown_choice_is_refused(capsys):
    with pytest.raises(SystemExit, match=r"^2$"):
        tune.main(["all"])
    assert "there is no choice 'all'; expected some of 'input product', 'packing'" in capsys.readouterr().err


def test_without_the_c_kernels_it_says_why(monkeypatch, capsys):
    monkeypatch.setitem(backends._loaded, "cython", BackendError("backend 'cython' is not built: no compiler"))
    with pytest.raises(SystemExit, match=r"^2$"):
        tune.main([])
    assert "backend 'cython' is not built: no compiler" in capsys.readouterr().err


def with_tune(text, code):
    """Run code with FASTRNN_TUNE."""
    environment = {**os.environ, "FASTRNN_TUNE": text, "FASTRNN_BACKEND": "cython"}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)


def test_numbers_are_replaced_from_the_import_on():
    run = with_tune(
        " PAIRS=0,FEW_ROWS=3 ", "from fastrnn.kernels.sequence import _override; print(_override(PAIRS=1, FEW_ROWS=1))"
    )
    assert run.stdout == "{'PAIRS': 0, 'FEW_ROWS': 3}\n"


@pytest.mark.parametrize("text", ["ROWS=3", "PAIRS", "PAIRS=-1", "PAIRS=1;FEW_ROWS=2", "PAIRS=9999999999999999999"])
def test_numbers_that_are_none_are_refused(text):
    run = with_tune(text, "import fastrnn; fastrnn.LSTM(2, 3)(fastrnn.LSTM(2, 3).parameters['weight_ih_l0'][None])")
    assert run.returncode == 1
    assert f"cannot run here: FASTRNN_TUNE is {text!r}; expected NAME=NUMBER,... with names of" in run.stderr
