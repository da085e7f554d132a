"""The suite through pytest-benchmark: `pytest bench`, grouped by row. Nothing is asserted of the times."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import pytest

from fastrnn.bench.cases import Case
from fastrnn.bench.measure import prepare, settle
from fastrnn.bench.peers import PEERS, Prepared
from fastrnn.bench.problems import make
from fastrnn.bench.results import WRONG


@lru_cache(maxsize=1)  # the peers of a row come one after another
def prepared_row(case: Case, kind: str, threads: int) -> tuple[dict[str, Prepared], dict[str, str]]:
    """All peers of a row, compared with the reference."""
    return prepare(make(case), kind, threads, PEERS)


def test_speed(row: tuple[Case, str], peer: str, benchmark: Any, pytestconfig: pytest.Config) -> None:
    """Time one peer on one row, if its numbers are right."""
    ready, absent = prepared_row(*row, pytestconfig.option.threads)
    if peer not in ready:
        (pytest.fail if absent[peer].startswith(WRONG) else pytest.skip)(absent[peer])
    settle()
    with ready[peer].context():
        benchmark(ready[peer].call)
