"""fastrnn.bench.scaling: that it measures, notices other bits, and refuses what it cannot do. No time is asserted."""

from __future__ import annotations

import json

import numpy as np
import pytest

from fastrnn.bench import scaling
from fastrnn.threads import available_cpus, get_num_threads


@pytest.mark.parametrize("kind", scaling.KINDS)
@pytest.mark.parametrize("shape", [(3, 20, 4, 33), (5, 1, 4, 200), (2, 3, 5, 7)])
def test_any_number_of_threads_has_the_same_bits(shape, kind):
    before = get_num_threads()
    row = scaling.measure(shape, kind, [1, 3, 16, 64], 0.0, rounds=2)
    assert {threads: len(samples) for threads, samples in row.samples.items()} == {1: 2, 3: 2, 16: 2, 64: 2}
    assert get_num_threads() == before


def test_other_bits_are_noticed(monkeypatch):
    counted = iter(range(100))
    monkeypatch.setattr(scaling, "call_of", lambda shape, kind: lambda: (np.full(3, next(counted) > 2),))
    with pytest.raises(RuntimeError, match=r"^training of \(1, 1, 1, 1\) has other bits with 2 threads than with 1$"):
        scaling.measure((1, 1, 1, 1), "training", [1, 2], 0.0)


def test_gains_are_ratios_of_medians():
    row = scaling.Scaling((1, 1, 1, 1), "training", {1: [4.0, 9.0, 6.0], 2: [3.0, 3.0, 1.0], 4: [2.0, 2.0, 9.0]})
    assert [row.gain(threads) for threads in row.samples] == [1.0, 2.0, 3.0]
    cells = [list(column.cells) for column in scaling.show([row], [1, 2, 4]).columns]
    assert cells[2:] == [["6000.00"], ["2.00 (100%)"], ["3.00 (75%)"]]


def test_the_command_shows_and_keeps_what_it_found(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(scaling, "SHAPES", [(2, 3, 4, 5)])
    scaling.main(["--seconds", "0", "--threads", "1", "--save", str(tmp_path / "found.json")])
    assert "(2, 3, 4, 5)" in capsys.readouterr().out
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["machine"]["cpus"] == available_cpus()
    assert [row["kind"] for row in found["rows"]] == list(scaling.KINDS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--threads", "9999"], "--threads: expected numbers from 1 to"),
        (["--threads", "0"], "--threads: expected numbers from 1 to"),
        (["--save", "nowhere/found.json"], "--save nowhere/found.json: there is no folder nowhere"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_measured(monkeypatch, capsys, arguments, message):
    monkeypatch.setattr(scaling, "measure", None)
    with pytest.raises(SystemExit, match=r"^2$"):
        scaling.main(arguments)
    assert message in capsys.readouterr().err
