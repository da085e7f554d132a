"""`pytest bench`: options, and what the run is held to."""

from __future__ import annotations

import importlib.util

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare which rows to measure."""
    group = parser.getgroup("fastrnn")
    group.addoption("--smoke", action="store_true", help="tiny cases, a few rounds: does every peer still run?")
    group.addoption("--cases", action="append", metavar="CASE", help="a set, name or pattern; as for `fastrnn bench`")
    group.addoption("--threads", type=int, default=1, help="threads of every peer")


def pytest_configure(config: pytest.Config) -> None:
    """Pin the process before any peer makes its pools."""
    if importlib.util.find_spec("pytest_benchmark") is None:
        raise pytest.UsageError("pytest-benchmark is not installed; run: pip install pytest-benchmark")
    from fastrnn.bench.cases import select
    from fastrnn.bench.machine import pin

    try:
        select(cases(config))
        pin(config.option.threads)
    except ValueError as error:
        raise pytest.UsageError(str(error)) from None
    config.addinivalue_line("filterwarnings", "default")  # what a peer deprecates is not our fault
    config.option.benchmark_disable_gc = True
    if config.option.smoke:
        config.option.benchmark_min_rounds, config.option.benchmark_max_time = 2, 0.01


def cases(config: pytest.Config) -> list[str]:
    """The patterns of cases that the options ask for."""
    return config.option.cases or ["smoke" if config.option.smoke else "quick"]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test for each case, kind of work and peer; those of a row side by side, in one group."""
    from fastrnn.bench.cases import KINDS, select
    from fastrnn.bench.peers import PEERS

    metafunc.parametrize(
        ("row", "peer"),
        [
            pytest.param(
                (case, kind),
                name,
                marks=pytest.mark.benchmark(group=f"{case.name} {kind}"),
                id=f"{case.name}-{kind}-{name}",
            )
            for case in select(cases(metafunc.config))
            for kind in KINDS
            for name, peer in PEERS.items()
            if peer.applies(case) and not (metafunc.config.option.smoke and peer.compiles)
        ],
    )
