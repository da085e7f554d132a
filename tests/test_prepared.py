"""What equations make of a cell's own parameters alone: once a call, with the same results."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from calls import backends
from tolerances import assert_close, assert_same_bits

import fastrnn
from fastrnn.backends import load
from fastrnn.cells import LIBRARY, WrittenCell, exp, layer_norm, mean, sigmoid, softplus, tanh, where
from fastrnn.parameters import Array

T, N, I, H = 9, 5, 3, 19


@fastrnn.cell(gates="f g", states="h c", parameters={"p": 0.3, "q": -0.2, "unseen": 0.7})
def both_ways(a: Any, prev: Any, p: Any) -> Any:
    """A parameter as it is and in two values, one within the other."""
    rate = sigmoid(p.p)
    c = rate * prev.c + exp(rate * p.q) * tanh(a.g + p.p)
    return sigmoid(a.f) * c * softplus(p.unseen), c


@fastrnn.cell(gates="r z n", parameters={"decay": 0.4, "gain": 1.2})
def in_what_is_taken(a: Any, prev: Any, p: Any) -> Any:
    h = prev.h * exp(-softplus(p.decay))
    return sigmoid(a.z(h)) * h + tanh(a.n(sigmoid(a.r(h)) * h * tanh(p.gain)))


@fastrnn.cell(gates="f n", parameters={"gain": 0.5, "bias": 0.1})
def in_phases(a: Any, prev: Any, p: Any) -> Any:
    return prev.h + sigmoid(p.bias) * (tanh(layer_norm(a.n, softplus(p.gain), p.bias)) * sigmoid(a.f) - prev.h)


@fastrnn.cell(gates="f n", states="h", parameters={"p": 0.5, "sign": -0.5})
def shown_and_compared(a: Any, prev: Any, p: Any) -> Any:
    """Trace shows n, a part of what is made once; of the sign there is no derivative."""
    n = softplus(p.p)
    rate = where(p.sign < 0, sigmoid(n), exp(-n))
    return rate * prev.h + tanh(a.n) * sigmoid(a.f)


@fastrnn.cell(gates="n", parameters={"p": 0.5})
def mean_of_one(a: Any, prev: Any, p: Any) -> Any:
    """A mean over units is none of a unit's own."""
    return tanh(a.n) * mean(softplus(p.p))


@fastrnn.cell(gates="n", parameters={"p": 0.5})
def cheap(a: Any, prev: Any, p: Any) -> Any:
    return tanh(a.n) * (1 - p.p) + p.p * prev.h


OF_LIBRARY = [name for name, cell in LIBRARY.items() if cell.equations is not None and cell.equations.prepared]
CELLS: dict[str, WrittenCell] = {name: LIBRARY[name] for name in OF_LIBRARY}
CELLS |= {c.name: c for c in (both_ways, in_what_is_taken, in_phases, shown_and_compared, mean_of_one)}
cells = pytest.mark.parametrize("name", list(CELLS))


def draw(seed: int, *shape: int) -> Array:
    drawn: Array = np.random.default_rng(seed).standard_normal(shape)
    return drawn


def make(name: str, dtype: str = "float64", **options: Any) -> fastrnn.Recurrent:
    module = fastrnn.Recurrent(CELLS[name], I, H, dtype=dtype, seed=3, **options)
    for key, value in module.parameters.items():
        if "weight_hh" not in key:
            value[...] += draw(len(key), *value.shape).astype(dtype) / 2
    return module


def run(module: fastrnn.Recurrent, x: Array, **options: Any) -> dict[str, Array]:
    count, places = len(module.cell.states), module.num_layers * module.directions
    state = [draw(20 + k, places, x.shape[1], H).astype(module.dtype) for k in range(count)]
    extra = {"dt": np.abs(draw(5, *x.shape[:2])).astype(module.dtype)} if module.cell.extra else None
    y, _, tape = module.forward(x, state[0] if count == 1 else tuple(state), extra=extra, **options)
    dx, _, grads = module.backward(tape, draw(1, *y.shape).astype(module.dtype))
    assert dx is not None
    inside = module.trace(x, extra=extra)
    return {"y": y, "dx": dx, "inferred": module(x, extra=extra)[0]} | grads | inside


def test_which_cells_have_such_values() -> None:
    assert {"rg_lru", "leaky_rnn", "fast_rnn", "fast_grnn", "ltc"} <= set(OF_LIBRARY)
    for cell in (cheap, LIBRARY["ind_rnn"], LIBRARY["peephole_lstm"]):
        assert cell.equations is not None
        assert cell.equations.prepared is None
    assert both_ways.program is not None
    assert (both_ways.program.units, both_ways.program.seen_units) == (3, 4)  # p, and what is made of p, q and unseen


@cells
@pytest.mark.parametrize("backend", ["cython", "numba"], indirect=True)
@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True}], ids=str)
def test_equals_reference(name: str, backend: str, options: dict[str, Any]) -> None:
    for dtype, limit in (("float64", 1e-11), ("float32", 3e-4)):
        x = draw(0, T, N, I).astype(dtype)
        want = run(make(name, dtype, backend="numpy", **options), x)
        got = run(make(name, dtype, backend=backend, **options), x)
        assert got.keys() == want.keys()
        for key, value in want.items():
            assert_close(key, got[key], value, limit * max(1.0, float(np.abs(value).max())))


@cells
@pytest.mark.parametrize("shape", [(1,), (H,), (3, 1030)], ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_kernels_make_what_numpy_makes(name: str, shape: tuple[int, ...], dtype: str) -> None:
    """Of one unit, of parts of vectors, and of several layers with more units than are taken at once."""
    run: Any = load("cython").run_on_arrays
    cell, (*members, units) = CELLS[name], shape
    assert cell.equations is not None
    assert cell.equations.prepared is not None
    unit = draw(0, *members, len(cell.parameters), units).astype(dtype)
    want = cell.prepare(unit)
    gradient = draw(1, *want.shape).astype(dtype)
    limit = 1e-5 if dtype == "float32" else 1e-13
    assert_close("values", cell.prepare(unit, run), want, limit)
    assert_close(
        "gradients", cell.prepare_back(unit, gradient, None, run), cell.prepare_back(unit, gradient), 10 * limit
    )


def test_arrays_that_are_no_programs_are_refused() -> None:
    run: Any = load("cython").run_on_arrays
    assert both_ways.equations is not None
    assert both_ways.equations.prepared is not None
    program = both_ways.equations.prepared.program
    unit = draw(0, 3, H)
    with pytest.raises(ValueError, match="was given 2 rows; expected 3"):
        run(program, unit[:2])
    with pytest.raises(ValueError, match=r"have shapes \[\(1, 19\), \(2, 18\)\]; expected contiguous ones, alike but"):
        run(program, unit[:1], np.ascontiguousarray(unit[1:, :18]))
    with pytest.raises(ValueError, match="expected contiguous ones"):
        run(program, np.asfortranarray(unit))
    with pytest.raises(ValueError, match="expected contiguous ones"):
        run(program, unit[:1], unit[1:].astype(np.float32))


@cells
def test_derivative_is_that_of_the_function(name: str) -> None:
    assert fastrnn.check_cell(CELLS[name], seed=1).passed


@cells
def test_checkpoints_and_threads_give_the_same_bits(name: str) -> None:
    """Gradients of what is prepared are summed up over all pieces before they become those of parameters."""
    x = draw(0, 120, 30, I).astype("float32")
    whole = run(make(name, "float32", num_layers=2, num_threads=1), x)
    for options, given in (({"num_threads": 3}, {}), ({"num_threads": 1}, {"checkpoint_every": 7})):
        again = run(make(name, "float32", num_layers=2, **options), x, **given)
        for key, value in whole.items():
            assert_same_bits(key, again[key], value)


@cells
@backends
def test_parameters_are_looked_at_in_every_call(name: str, backend: str) -> None:
    module, x = make(name, backend=backend), draw(0, T, 1, I)
    extra = {"dt": np.ones((T, 1))} if module.cell.extra else None
    before, _ = module(x, extra=extra)
    stream = module.stream()
    module.parameters["unit_l0"] += 0.5
    after, _ = module(x, extra=extra)
    assert (after != before).any()
    for want in (before, after):  # a stream takes them anew when it is told to
        y = np.stack([stream.step(x[t], **({"extra": {"dt": np.ones(1)}} if extra else {})) for t in range(T)])
        assert_close("y", y, want, 1e-12)
        stream.refresh()
        stream.reset()


def test_a_parameter_of_another_shape_is_refused() -> None:
    module = make("rg_lru")
    module.parameters["unit_l0"].shape = (H, 1)
    with pytest.raises(ValueError, match=r"unit has shape \(19, 1\) .* expected \(M, H\) = \(1, 19\)"):
        module(draw(0, T, N, I))


def test_print_shows_them() -> None:
    text = str(both_ways)
    assert "once a call, of each unit:" in text
    assert "u0 = p.p" in text
    assert "sigmoid" not in text[text.index("\nforward:") : text.index("\nbackward:")].replace("sigmoid(s", "")
