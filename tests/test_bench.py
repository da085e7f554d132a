"""The benchmark suite: its cases, that it finds wrong numbers, how it measures, the command. No time is asserted."""

from __future__ import annotations

import importlib.util
import math
import os
import signal
import sys
from dataclasses import replace

import numpy as np
import pytest

from fastrnn import cli
from fastrnn.bench import footprint, limits, machine, measure, peers, run
from fastrnn.bench.cases import ALL, KINDS, SETS, Case, select
from fastrnn.bench.cells import BUILT_IN
from fastrnn.bench.limits import Limits
from fastrnn.bench.problems import difference, make, solve
from fastrnn.bench.results import Bound, Row, load

SMALL = Case("lstm", 5, 3, 4, 6)
VARIANTS = {
    "plain": {},
    "single step": {"T": 1},
    "float64": {"dtype": "float64"},
    "layers": {"num_layers": 2},
    "bidirectional": {"bidirectional": True},
    "ragged": {"ragged": True},
    "projection": {"proj_size": 4},
    "projected layers": {"proj_size": 2, "num_layers": 2, "bidirectional": True, "ragged": True},
    "all": {"num_layers": 2, "bidirectional": True, "ragged": True},
}
MUST_RUN = ("cython", "numba", "numpy", "stream", "fastrnn.torch", "torch", "torch-cell")
QUICK = measure.Settings(seconds=0.001, least_rounds=2, most_rounds=2, turn=1e-6)


@pytest.fixture
def bench(monkeypatch, capsys, tmp_path):
    """Run `fastrnn bench` in an empty folder; return its status, output and errors."""

    def command(*arguments):
        monkeypatch.setattr(sys, "argv", ["fastrnn", "bench", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_:
            cli.main()
        return exit_.value.code, *capsys.readouterr()

    monkeypatch.chdir(tmp_path)
    return command


def test_names_of_cases():
    assert Case("gru", 5, 3, 4, 6, "float64", 2, True, True).name == "gru-5-3-4-6-float64-2layers-bidirectional-ragged"
    assert Case("lstm", 5, 3, 4, 6, proj_size=2).name == "lstm-5-3-4-6-projection2"
    for name, case in ALL.items():
        assert case.name == name
    assert sum(map(len, SETS.values())) > len(ALL), "a case of the quick set is a case of the grid"


def test_grid_has_every_cell():
    assert len(SETS["grid"]) == 39
    assert {case.cell for case in SETS["grid"]} == {"lstm", "gru", "rnn"}


def test_select():
    assert select(["lstm-1-1-64-64", "lstm-1-*", "grid"])[0].name == "lstm-1-1-64-64"
    assert len(select(["lstm-1-1-64-64", "grid"])) == 39
    assert {case.H for case in select(["*-64-64"])} == {64}
    with pytest.raises(ValueError, match=r"no case is called 'lstm-1-1-64-65'; expected .*lstm-1-1-64-64"):
        select(["grid", "lstm-1-1-64-65"])


def test_work_of_a_case():
    case = Case("gru", 10, 2, 3, 5, num_layers=2, bidirectional=True)
    weights = 2 * (15 * 3 + 15 * 5) + 2 * (15 * 10 + 15 * 5)
    assert case.flops("inference") == 2 * 20 * weights
    assert case.flops("training") == 3 * case.flops("inference")
    assert case.reread_bytes() == 15 * 5 * 4
    assert case.rereads("inference") == 10 * 4
    plain = Case("rnn", 7, 2, 3, 5, "float64")
    assert plain.streamed_bytes("inference") == 8 * (5 * 3 + 14 * 3 + 14 * 5)
    assert plain.streamed_bytes("training") == 8 * (2 * (5 * 3 + 14 * 3 + 14 * 5) + 5 * 3 + 5 * 5)
    projected = Case("lstm", 10, 2, 3, 5, proj_size=4)
    assert projected.flops("inference") == 2 * 20 * (20 * 3 + 20 * 4 + 4 * 5)
    assert projected.reread_bytes() == 4 * (20 * 4 + 4 * 5)
    assert projected.streamed_bytes("inference") == 4 * (20 * 3 + 20 * 3 + 20 * 4)
    ragged = Case("rnn", 20, 8, 3, 5, ragged=True)
    lengths = ragged.lengths()
    assert (lengths.max(), lengths.min() >= 10, lengths.min() < 20) == (20, True, True)
    assert ragged.real_rows() == lengths.sum()


def test_bound():
    limits = Limits(2, {"float32": 1e9}, ((1024, 4e9), (4096, 2e9), (65536, 1e9)))
    assert limits.bandwidth_at(1) == 4e9
    assert limits.bandwidth_at(2048) == pytest.approx(3e9)
    assert limits.dram == 1e9
    many, single = (Case("rnn", 100, n, 32, 32) for n in (64, 1))
    bound = Bound.of(Row(many, "inference", 2, {}), limits)
    assert (bound.seconds, bound.binds) == (pytest.approx(2 * 6400 * 2048 / 1e9), "flops")
    bound = Bound.of(Row(single, "inference", 2, {}, peak=1e12), limits)
    streamed = 4 * (32 * 32 + 100 * 64)
    seconds = 100 * 4096 / limits.bandwidth_at(2048) + streamed / limits.bandwidth_at(streamed / 2)
    assert (bound.seconds, bound.binds) == (pytest.approx(seconds), "bytes")


@pytest.mark.parametrize(
    ("cell", "variant"),
    [
        (cell, name)
        for name, options in VARIANTS.items()
        for cell in BUILT_IN
        if cell == "lstm" or "proj_size" not in options
    ],
)
def test_peers_agree(cell, variant, require):
    """Independent implementations return the same."""
    case = replace(SMALL, cell=cell, **VARIANTS[variant])
    agreed = set()
    for kind in KINDS:
        ready, absent = measure.prepare(make(case), kind, 1, peers.PEERS)
        assert not [why for why in absent.values() if why.startswith("wrong")], absent
        agreed |= ready.keys()
    for name in MUST_RUN:
        require(name in agreed or not peers.PEERS[name].applies(case), f"{name}: {absent.get(name)}")
    assert agreed


@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
@pytest.mark.parametrize("cell", BUILT_IN)
def test_peers_of_fewer_bits_agree(cell, precision, require):
    """They round as they do; nobody trains int8, and who has none of it says so."""
    for options in ({}, {"T": 1}, {"num_layers": 2, "bidirectional": True}):
        case = replace(SMALL, cell=cell, precision=precision, **options)
        assert case.name.endswith(precision)
        ready, absent = measure.prepare(make(case), "inference", 1, peers.PEERS)
        assert not [why for why in absent.values() if why.startswith("wrong")], absent
        for name in ("cython", "numpy", "float32", *(["stream"] if case.T == 1 else [])):
            require(name in ready, f"{name}: {absent.get(name)}")
        assert absent["numba"] == f"has no {precision} weights" or "numba is not installed" in absent["numba"]
        if importlib.util.find_spec("torch") is not None:
            assert ("torch" in ready) == ((cell, precision) != ("rnn", "int8"))
        ready, absent = measure.prepare(make(case), "training", 1, peers.PEERS)
        assert not [why for why in absent.values() if why.startswith("wrong")], absent
        wanted = {"cython", "numpy", "float32"} if precision == "bfloat16" else set()
        assert ready.keys() - {"torch"} == wanted
        assert ("torch" in ready) == (precision == "bfloat16" and importlib.util.find_spec("torch") is not None)


def test_fewer_bits_are_fewer_bytes():
    wide = Case("lstm", 10, 1, 8, 64)
    bytes_of = [replace(wide, precision=precision).reread_bytes() for precision in ("float32", "bfloat16", "int8")]
    assert bytes_of == [4 * 4 * 64 * 64, 2 * 4 * 64 * 64, 4 * 64 * 64]
    problem = make(replace(wide, precision="int8"))
    want = solve(problem, "inference")
    assert difference(problem.case, want | {"y": want["y"] + 0.2}, want) is None
    assert "y is off by" in difference(problem.case, want | {"y": want["y"] + 0.4}, want)


@pytest.mark.parametrize("kind", KINDS)
def test_wrong_numbers_are_found(kind):
    problem = make(SMALL)
    want = solve(problem, kind)
    assert difference(SMALL, want, want) is None
    for name, right in want.items():
        for wrong in (1e-3, np.nan):
            changed = right.copy()
            changed.flat[-1] += wrong
            assert f"{name} is off by" in difference(SMALL, want | {name: changed}, want)
        assert f"{name} has shape" in difference(SMALL, want | {name: right[:-1]}, want)
        without = {other: value for other, value in want.items() if other != name}
        assert "expected" in difference(SMALL, without, want)


def test_wrong_peer_is_not_timed(monkeypatch):
    def prepare(problem, kind, threads):
        prepared = peers.prepare_fastrnn(problem, kind, threads, backend="numpy")
        return replace(prepared, outcome=lambda result: prepared.outcome(result) | {"y": problem.dy})

    monkeypatch.setitem(peers.PEERS, "cython", peers.Peer("cython", prepare))
    row = measure.measure_row(SMALL, "training", 1, ["cython", "numpy"], QUICK)
    assert list(row.samples) == ["numpy"]
    assert row.wrong.startswith("cython is wrong: y is off by")
    assert math.isnan(row.ratio)


def test_measure_row():
    row = measure.measure_row(SMALL, "training", 1, ["cython", "numba", "numpy"], QUICK)
    assert row.wrong is None
    assert {name: len(samples) for name, samples in row.samples.items()} == dict.fromkeys(row.samples, 2)
    assert all(0 < sample < 1 for samples in row.samples.values() for sample in samples)
    assert row.best_peer == "numpy"


def test_limits(require):
    require(limits.why_absent() is None, str(limits.why_absent()))
    from fastrnn.bench import loops

    assert loops.multiply_add("float32", 10) == 2 * loops.multiply_add("float64", 10) > 0
    assert loops.read(limits._aligned(4096), 3) == 3 * 4096
    for data in (limits._aligned(4096)[: -loops.READ_BYTES // 2], limits._aligned(4096)[loops.ALIGNMENT // 2 :]):
        with pytest.raises(ValueError, match="expected a multiple of"):
            loops.read(data, 1)
    assert limits.multiply_add_rate("float64", 2) > 0


def test_pin_refuses_more_cpus_than_there_are():
    with pytest.raises(ValueError, match="threads are more than the"):
        machine.pin(100_000)


def test_installed_size_and_memory():
    assert footprint.installed_bytes(("fastrnn",)) > footprint.installed_bytes(("numpy",)) > 1_000_000
    assert footprint.installed_bytes(("no-such-distribution",)) == 0
    small, large = (footprint.step_bytes("numpy", Case("rnn", T, 16, 64, 64)) for T in (20, 400))
    if isinstance(small, str):
        pytest.skip(small)
    assert large > small + 8 * 380 * 16 * 64 * 4 / 4


def test_command(bench, tmp_path):
    status, out, err = bench(
        "lstm-7-5-9-17", "--threads", 1, "--peers", "cython,numba,numpy", "--seconds", 0.01, "--no-footprint",
        "--save", "a/r.json", "--html", "b/r.html", "--png", "c",
    )  # fmt: skip
    assert (status, err) == (0, "")
    assert "\x1b" not in out
    assert "lstm-7-5-9-17" in out
    results = load("a/r.json")
    assert [(row.kind, row.threads, sorted(row.samples)) for row in results.rows] == [
        (kind, 1, ["cython", "numba", "numpy"]) for kind in KINDS
    ]
    assert all(len(samples) >= 5 for row in results.rows for samples in row.samples.values())
    assert list(results.limits) == ([] if limits.why_absent() else [1])
    assert "lstm-7-5-9-17" in (tmp_path / "b/r.html").read_text()
    assert list((tmp_path / "c").glob("*.png"))

    status, out, err = bench("lstm-7-5-9-17", "--kind", "training", "--threads", 1, "--peers", "cython", "--seconds",
                             0.01, "--no-footprint", "--compare", "a/r.json")  # fmt: skip
    assert status in (0, 1)
    assert err == ""

    status, out, err = bench("--read", "a/r.json", "--html", "b/again.html", "--compare", "a/r.json")
    assert (status, err) == (0, "")
    assert "lstm-7-5-9-17" in out
    assert load("a/r.json").rows == results.rows
    assert "lstm-7-5-9-17" in (tmp_path / "b/again.html").read_text()


def test_command_lists(bench):
    status, out, err = bench("--list")
    assert (status, err) == (0, "")
    assert "lstm-100-32-128-128" in out
    assert "numpy: runs here" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no-such-case"], "no case is called 'no-such-case'"),
        (["--peers", "tensorflow"], "no peer is called 'tensorflow'; expected some of cython, numba"),
        (["--threads", "0"], "'0' is not a list of numbers of at least 1"),
        (["--threads", "1,x"], "'1,x' is not a list of numbers of at least 1"),
        (["--threads", "100000"], "--threads is 100000; expected at most"),
        (["--seconds", "0"], "--seconds"),
        (["--kind", "both"], "--kind"),
        (["--compare", "nothing.json"], "nothing.json: No such file or directory"),
        (["--compare", "text.json"], "text.json does not hold results of `fastrnn bench --save`"),
        (["--save", "text.json/r.json"], "text.json"),
        (["--read", "text.json"], "text.json does not hold results of `fastrnn bench --save`"),
        (["--read", "text.json", "grid"], "--read measures nothing: leave CASE out."),
        (["--read", "text.json", "--save", "new.json"], "--read measures nothing: leave --save out."),
    ],
)
def test_bad_arguments_are_one_line(bench, tmp_path, arguments, message):
    (tmp_path / "text.json").write_text("no results")
    status, out, err = bench(*arguments)
    assert (status, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


def test_missing_peer_asked_for_by_name(bench, monkeypatch):
    monkeypatch.setitem(peers.PEERS, "jax", replace(peers.PEERS["jax"], modules=("no_such_module",)))
    status, _, err = bench("--peers", "cython,jax")
    assert status == 2
    assert err == (
        "fastrnn: the peer jax cannot run here: no_such_module is not installed: pip install no_such_module\n"
    )


def test_command_without_its_packages(bench, monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr("fastrnn.cli.bench.find_spec", lambda name: None if name == "psutil" else find_spec(name))
    assert bench("--list") == (2, "", "fastrnn: the benchmarks need psutil: pip install psutil\n")


def test_death_of_the_measuring_process_is_told():
    plan = run.Plan(
        (SMALL,), ("inference",), (1,), ("cython", "numpy"), measure.Settings(seconds=60, most_rounds=10**9)
    )
    records = run.run(plan)
    if limits.why_absent() is None:
        assert isinstance(next(records), Limits)
    (process,) = run.multiprocessing.active_children()
    os.kill(process.pid, signal.SIGKILL)
    with pytest.raises(run.BenchError, match=rf"{SMALL.name} inference on 1 threads ended with status -9"):
        next(records)
    assert not run.multiprocessing.active_children()


@pytest.mark.parametrize(
    ("error", "status", "told"), [(KeyboardInterrupt, 130, ""), (run.BenchError("it died"), 2, "fastrnn: it died\n")]
)
def test_what_was_measured_is_not_lost(bench, monkeypatch, error, status, told):
    def measured(plan):
        yield Row(SMALL, "training", 1, {"cython": [1.0, 1.0], "numpy": [2.0, 2.0]})
        raise error

    monkeypatch.setattr("fastrnn.bench.run.run", measured)
    code, out, err = bench("smoke", "--save", "r.json", "--no-footprint")
    assert (code, err) == (status, told)
    assert SMALL.name in out
    assert [row.ratio for row in load("r.json").rows] == [2.0]
