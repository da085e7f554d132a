"""Written cells in the benchmark suite: others compute the same from the very function, and what is held to what."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

import fastrnn
from fastrnn import reference
from fastrnn.bench import cells, equations, measure, peers, tables
from fastrnn.bench.cases import ALL, KINDS, SCAN, SETS, SMOKE_CELLS, VARIANT_OF, Case
from fastrnn.bench.problems import make
from fastrnn.bench.results import Results, Row, mean_ratio
from fastrnn.cells import (
    LIBRARY,
    absolute,
    clip,
    cos,
    elu,
    erf,
    exp,
    expm1,
    leaky_relu,
    log,
    log1p,
    maximum,
    minimum,
    relu,
    sigmoid,
    sin,
    softplus,
    softsign,
    sqrt,
    tanh,
    where,
)
from fastrnn.cells.operations import DERIVATIVES

LIBRARIES = {"torch": equations.torch_library, "jax": equations.jax_library}


def agreed(case, kind, names):
    """The peers of these names that return what the reference does; that none returns something else is asserted."""
    ready, absent = measure.prepare(make(case), kind, 1, names)
    assert not [why for why in absent.values() if why.startswith("wrong")], absent
    return ready.keys()


@pytest.mark.parametrize("cell", [*LIBRARY, "written_lstm", "written_gru"])
def test_a_loop_in_torch_returns_the_same(cell, require):
    for kind in KINDS:
        for case in (Case(cell, 5, 3, 4, 6), Case(cell, 1, 1, 1, 1, "float64")):
            names = agreed(case, kind, ["cython", "numba", "fastrnn.torch", "torch-loop", "built-in", "products"])
            require({"cython", "fastrnn.torch", "torch-loop"} <= names, f"{cell}: only {', '.join(names)}")
            assert ("built-in" in names) == (cells.built_in_like(cell) is not None)
            assert ("products" in names) == (not LIBRARY.get(cell, cells.written_gru).gates_hh)


@pytest.mark.parametrize("cell", [*SMOKE_CELLS, "ran", "nbrc", "lem"])
def test_a_scan_in_jax_returns_the_same(cell):
    pytest.importorskip("jax")
    assert agreed(Case(cell, 5, 3, 4, 6), "training", ["jax"]) == {"jax"}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit.script.* is deprecated:DeprecationWarning")  # inductor's own
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # Dynamo looks at it
@pytest.mark.parametrize("kind", KINDS)
def test_a_compiled_step_in_torch_returns_the_same(kind, require):
    assert agreed(Case("reset_before_gru", 5, 3, 4, 6), kind, ["torch-compile", "numpy"]) >= {"numpy"}
    require(peers.PEERS["torch-compile"].why_absent() is None, "torch is not installed")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit.script.* is deprecated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
def test_any_number_of_cells_is_compiled_in_a_run(torch, monkeypatch):
    """torch.compile has a limit, eight of a function, beyond which it fails."""
    monkeypatch.setattr(torch._dynamo.config, "recompile_limit", 1)
    for cell in ("gilr", "min_gru"):
        assert agreed(Case(cell, 5, 3, 4, 6), "inference", ["torch-compile", "numpy"]) == {"torch-compile", "numpy"}


@fastrnn.cell(gates="a b c", states="h m", parameters="p q", from_h="b", apart="c")
def everything(a, prev, p):
    """Has a gate of each kind, and every operation once."""
    bounded = clip(a.a, -1, 2) + minimum(maximum(prev.m, -0.5), a.c.x) + minimum(0.5, a.c.h)
    smooth = sin(a.b) * cos(bounded) + erf(p.p) + softplus(prev.h) + softsign(a.a) + elu(a.b) + leaky_relu(a.b)
    chosen = where((a.a < a.b) & ~(prev.m <= 0), tanh(a.b), where(a.a == 1, exp(-a.b), expm1(a.c.x)))
    positive = sqrt(absolute(smooth) + 1) + log(relu(a.b) + 1) / log1p(absolute(a.c.h) + 1)
    return sigmoid(smooth * p.q) - chosen, positive**2 - bounded


@pytest.mark.parametrize("library", LIBRARIES)
def test_every_operation_on_another_librarys_arrays(library, require):
    try_import = pytest.importorskip(library)
    its = LIBRARIES[library]()
    assert its.operations.keys() == DERIVATIVES.keys()
    as_array = try_import.from_numpy if library == "torch" else try_import.numpy.asarray
    N, I, H = 7, 4, 5
    rng = np.random.default_rng(0)
    X, Y = 2 * H, 3 * H  # gates a and c, and all three
    shapes = {"weight_ih": (X, I), "weight_hh": (Y, H), "bias_ih": (X,), "bias_hh": (Y,), "unit": (2, H)}
    drawn = {name: rng.standard_normal(shape).astype("float32") for name, shape in shapes.items()}
    x, *state = (rng.standard_normal(shape).astype("float32") for shape in ((N, I), (N, H), (N, H)))

    layer = equations.Layer(everything, H, its)
    weight, bias, taken = layer.ahead({name: as_array(value) for name, value in drawn.items()})
    got = layer.step(as_array(x) @ weight.T + bias, [as_array(s) for s in state], taken)

    weights = reference.Weights(*[drawn.get(name) for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")])
    _, want, _ = reference.forward(everything, x[None], tuple(state), weights._replace(unit=drawn["unit"]))
    for mine, right in zip(got, want, strict=True):
        np.testing.assert_allclose(np.asarray(mine), right, rtol=2e-5, atol=2e-5)


def test_cases_of_written_cells():
    assert {case.cell for case in SETS["cells"]} == set(LIBRARY)
    case = Case("min_lstm", 10, 2, 3, 5)
    assert (case.states, case.gates, case.recurrent_weights()) == (("h",), 3, 0)
    assert case.flops("inference") == 2 * 20 * (15 * 3)
    assert not Case("gru", 10, 2, 3, 5).written
    nbrc = Case("nbrc", 10, 2, 3, 5)  # three gates that x feeds, two that h feeds
    assert (sum(nbrc.input_weights()), nbrc.recurrent_weights()) == (15 * 3, 10 * 5)


def test_what_is_a_variant_of_what():
    like = {name: cells.built_in_like(name) for name in cells.MEASURED}
    assert (like["peephole_lstm"], like["reset_before_gru"], like["written_gru"]) == ("lstm", "gru", "gru")
    assert not any(like[name] for name in ("min_lstm", "slstm", "coupled_lstm", "li_gru", "lstm", "ind_rnn"))


def test_what_is_asked_of_a_written_cell():
    asked = {
        ("written_lstm", 1, 1, 64, 64): (1.5, 1.5),
        ("written_gru", 100, 64, 256, 256): (1.15, 1.15),
        ("written_gru", 50, 64, 32, 32): (None, None),
        ("peephole_lstm", *VARIANT_OF): (None, 1.25),
        ("peephole_lstm", 50, 1, 64, 64): (None, None),
        ("min_gru", *SCAN): (None, 1.3),
        ("min_gru", *VARIANT_OF): (None, None),
        ("ind_rnn", *SCAN): (None, 1.3),
        ("mgu", *SCAN): (None, None),
    }
    assert {key: tuple(map(Case(*key).most, KINDS)) for key in asked} == asked
    assert all(case.most("training") for case in SETS["yardsticks"])


def rows():
    """Rows of made-up times, in milliseconds by peer."""
    times = {
        "min_gru-1000-8-128-128": {"cython": 3, "products": 2, "torch-loop": 30, "jax": 6},
        "min_gru-50-1-64-64": {"cython": 1, "products": 2, "torch-loop": 10, "jax": 8},
        "mgu-50-1-64-64": {"cython": 2, "torch-loop": 8, "jax": 1},
        "written_gru-50-1-64-64": {"cython": 1.2, "built-in": 1},
        "peephole_lstm-100-32-128-128": {"cython": 2, "built-in": 1},
    }
    return [
        Row(ALL[name], "training", 1, {peer: [ms / 1000] * 3 for peer, ms in its.items()})
        for name, its in times.items()
    ]


def test_yardsticks_are_nobodys_peers():
    first, second, third, fourth, _ = rows()
    assert [row.best_peer for row in (first, third, fourth)] == ["jax", "jax", None]
    assert (first.ratio, first.cost, second.cost) == (2, 1.5, 0.5)
    assert math.isnan(third.cost)
    assert mean_ratio([first, second, third], "torch-loop") == pytest.approx((10 * 10 * 4) ** (1 / 3))


def test_what_is_told_of_written_cells():
    told = tables.report(Results("now", {}, {}, {}, rows=rows()))
    assert [line[0].split("-")[0] for line in told.yardsticks.lines] == [
        "peephole_lstm",
        "min_gru",
        "written_gru",
        "min_gru",
    ]
    assert [line[3:] for line in told.yardsticks.lines] == [
        ("2.00x", "1.25x", "no"),
        ("1.50x", "1.30x", "no"),
        ("1.20x", "1.50x", "yes"),
        ("0.50x", tables.MISSING, tables.MISSING),
    ]
    assert told.cells.columns == ("cell", "training, 1 thread", "jax", "torch-loop")
    assert told.cells.lines == (("mgu", "0.50x", "0.50x", "4.00x"), ("min_gru", "4.00x", "4.00x", "10.00x"))
    (table,) = told.tables
    assert (table.means, table.peers) == ({"written": "2.00x", "all": "2.00x"}, ("jax", "torch-loop"))
    assert table.beside == {"jax": "2.00x", "torch-loop": "7.37x"}


def test_a_busy_yardstick_says_so():
    row = replace(rows()[0], others=1.0)
    (line,) = tables.report(Results("now", {}, {}, {}, rows=[row])).yardsticks.lines
    assert line[-1] == "no, but the machine was busy"
