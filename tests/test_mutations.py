"""The mutants fit the code as it is: each one's text stands in its file once, and its tests are there."""

from __future__ import annotations

import shlex
from collections import Counter

from mutants import MUTANTS, ROOT, SUITES, missing


def test_every_mutant_has_its_place() -> None:
    """Who changes such a line changes tests/mutations.py with it."""
    assert missing(MUTANTS) == []


def test_mutants_are_many_and_have_names_of_their_own() -> None:
    assert len(MUTANTS) >= 100
    assert [name for name, count in Counter(mutant.name for mutant in MUTANTS).items() if count > 1] == []


def test_suites_are_there() -> None:
    named = {suite for mutant in MUTANTS for suite in mutant.suites.split()}
    assert named == SUITES.keys()
    files = {word for suite in SUITES.values() for word in shlex.split(suite) if word.endswith(".py")}
    assert [name for name in files if not (ROOT / "tests" / name).exists()] == []
