"""Whatever a public function is given, it works, or its error names the argument and says what was expected."""

from __future__ import annotations

import inspect
import random
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import hostile_use
import pytest
from problems import clean_environ
from public_calls import ENDLESS, ROWS, complaint, hostile, public_names
from watched import run_watched

import fastrnn

Check = Callable[[str, list[tuple[str, str]]], str | None]


@pytest.fixture
def check(torch: ModuleType, restored: None, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Check]:
    """Call a row with some arguments replaced by values of a kind each, and tell what is wrong with the error."""
    monkeypatch.chdir(tmp_path)
    pool = hostile(torch)

    def run(row: str, changes: list[tuple[str, str]]) -> str | None:
        if not ENDLESS.isdisjoint(changes):
            return None
        call, arguments = ROWS[row]()
        values = {argument: pool[kind]() for argument, kind in changes}
        try:
            call(**arguments | values)
        except Exception as error:  # what this test is about
            wrong = complaint(row, error, values)
            return wrong and f"{row} with {changes}: {wrong}: {type(error).__name__}: {str(error)[:200]}"
        finally:
            fastrnn.use_backend(None)
            fastrnn.set_num_threads(None)
        return None

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of dropout on one layer, numpy.matrix, numbers that overflow
        yield run


def arguments_of_rows(folder: Any) -> list[tuple[str, str]]:
    return [(row, argument) for row, make in ROWS.items() for argument in make()[1]]


def test_every_public_callable_has_a_row() -> None:
    assert sorted(set(public_names()) - ROWS.keys()) == []


@pytest.mark.parametrize("row", ROWS)
def test_good_arguments_are_taken(check: Check, row: str) -> None:
    call, arguments = ROWS[row]()
    call(**arguments)


def test_bad_arguments_are_named(check: Check, torch: ModuleType, tmp_path: Any) -> None:
    kinds, draw = list(hostile(torch)), random.Random(0)
    wrong = [
        check(row, [(argument, kind)])
        for row, argument in arguments_of_rows(tmp_path)
        for kind in {"long_text", *draw.sample(kinds, 5)}
    ]
    assert [each for each in wrong if each] == []


@pytest.mark.long
def test_every_bad_argument_is_named(check: Check, torch: ModuleType, tmp_path: Any) -> None:
    kinds = list(hostile(torch))
    wrong = [check(row, [(argument, kind)]) for row, argument in arguments_of_rows(tmp_path) for kind in kinds]
    assert [each for each in wrong if each] == []


@pytest.mark.long
def test_one_of_two_bad_arguments_is_named(check: Check, torch: ModuleType, tmp_path: Any) -> None:
    kinds, draw, wrong = list(hostile(torch)), random.Random(0), []
    rows = [row for row, make in ROWS.items() if len(make()[1]) > 1]
    for _ in range(20_000):
        row = draw.choice(rows)
        two = draw.sample(list(ROWS[row]()[1]), 2)
        wrong.append(check(row, [(argument, draw.choice(kinds)) for argument in two]))
    assert [each for each in wrong if each] == []


NO_BOOLS = {"text": "relu", "number": 2, "none": None, "zero": 0, "list": []}


def flags() -> Iterator[tuple[str, str]]:
    """Every argument that is annotated as a bool."""
    for row, make in ROWS.items():
        call, arguments = make()
        taken = inspect.signature(call).parameters
        yield from ((row, name) for name in arguments if name in taken and taken[name].annotation == "bool")


def test_a_flag_that_is_no_bool_is_refused(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = list(flags())
    assert len(found) > 30
    for row, name in found:
        for value in NO_BOOLS.values():
            call, arguments = ROWS[row]()
            with pytest.raises(TypeError, match=rf"^{name} is .*; expected True or False$"):
                call(**arguments | {name: value})


@pytest.mark.long
@pytest.mark.parametrize("seed", range(8))
def test_hostile_use_crashes_nothing(tmp_path: Path, seed: int) -> None:
    backends, calls = ["numba" if seed == 0 else "cython", "numpy"], 2_000 if seed == 0 else 14_000
    command = [sys.executable, "-X", "faulthandler", hostile_use.__file__, str(seed), str(calls), *backends]
    result = run_watched(command, 900, cwd=tmp_path, env=clean_environ())
    assert result.stdout.endswith(f"{calls} calls\n"), result.stderr[-3000:]
    assert result.returncode == 0, result.stderr[-3000:]
