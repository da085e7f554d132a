"""Derivatives beyond the first: tangents of layers and modules, and the derivatives of these."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from problems import Problem, clean_environ, make, run
from tolerances import Outcome, assert_close, assert_same_bits
from watched import run_watched

import fastrnn
from fastrnn import ops
from fastrnn.backends import load
from fastrnn.cells import CELLS, Weights
from fastrnn.cells.tangents import adjoint_cell, tangent_cell
from fastrnn.parameters import Array
from fastrnn.tangent import Point, Tangent

LIMITS = {"float64": 1e-11, "float32": 3e-4}  # of the largest element of a result
SIZES = {
    "one": (1, 1, 1, 1),
    "odd": (5, 3, 2, 7),
    "tail": (4, 2, 5, 19),
    "group": (7, 9, 3, 64),
    "wide": (3, 5, 33, 70),
}
ORDERS: dict[str, dict[str, Any]] = {
    "whole": {},
    "reverse": {"reverse": True},
    "ragged": {"ragged": True},
    "ragged_reverse": {"ragged": True, "reverse": True},
}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in CELLS},
    "lstm_projected": ("lstm", {"proj_size": True}),
    "lstm_no_bias": ("lstm", {"bias": False}),
    "gru_no_bias": ("gru", {"bias": False}),
    "gru_tokens": ("gru", {"tokens": True}),
    "lstm_tokens": ("lstm", {"tokens": True}),
}
kinds = pytest.mark.parametrize("kind", list(KINDS))
orders = pytest.mark.parametrize("order", list(ORDERS))

Direction = dict[str, Array]  # tangents by the names of `Problem.inputs`


def problem_of(kind: str, size: tuple[int, ...], order: str = "whole", dtype: str = "float64") -> Problem:
    cell, options = KINDS[kind]
    projected = {"proj_size": max(1, size[3] // 2)} if options.get("proj_size") else {}
    return make(cell, *size, dtype=dtype, **(options | projected), **ORDERS[order])


def direction_of(problem: Problem) -> Direction:
    """A tangent for each input that is real."""
    rng = np.random.default_rng(5)
    inputs = {name: array for name, array in problem.inputs().items() if array.dtype.kind == "f"}
    return {name: rng.uniform(-1, 1, array.shape).astype(array.dtype) for name, array in inputs.items()}


def derive(backend: str, problem: Problem, direction: Direction, num_threads: int = 1) -> Outcome:
    """The tangents of all that `problems.run` returns."""
    module, cell, weights, D = load(backend), problem.cell, problem.weights, direction
    order = (problem.batch_sizes, problem.reverse)
    given = (module, cell, problem.x, problem.state, weights, num_threads, *order)
    y, _, tape = ops.forward(*given)
    gates = list(ops.gates(tape).values()) if len(cell.gates) > 1 else []
    names = {"ih": "weight_ih", "hh": "weight_hh", "hr": "weight_hr"}
    of_weights = Weights._make(D.get(names.get(field, field)) for field in Weights._fields)
    tangent = Tangent(
        Point(*given, y, gates), D.get("x"), [D.get(name) for name in cell.states_0], of_weights, keep=True
    )
    found = {"y": tangent.y} | {f"{n}_n": s for n, s in zip(cell.states, tangent.state_n, strict=True)}
    dx, dstate_0, dweights = tangent.adjoint(
        problem.dy, problem.dstate, D.get("dy"), [D.get(name) for name in cell.dstates_n]
    )
    if dx is not None:
        found["dx"] = dx
    found |= {f"d{n}_0": s for n, s in zip(cell.states, dstate_0, strict=True)}
    found |= {f"d{names.get(f, f)}": w for f, w in zip(Weights._fields, dweights, strict=True) if w is not None}
    return found


def differences(function: Callable[[float], Outcome]) -> Outcome:
    """Its derivative at 0."""
    step = 1e-6
    more, less = function(step), function(-step)
    return {name: (more[name] - less[name]) / (2 * step) for name in more}


def assert_alike(got: Outcome, want: Outcome, limit: float) -> None:
    assert got.keys() == want.keys()
    for name, value in want.items():
        assert_close(name, got[name], value, limit * max(1.0, np.abs(value).max(initial=0)))


# ---- a layer


@kinds
@orders
def test_reference_is_the_limit_of_differences(kind: str, order: str) -> None:
    problem = problem_of(kind, (5, 4, 3, 4), order)
    direction, inputs = direction_of(problem), problem.inputs()

    def moved(by: float) -> Outcome:
        return run(
            "numpy", problem.with_inputs({n: a + by * direction[n] if n in direction else a for n, a in inputs.items()})
        )

    assert_alike(derive("numpy", problem, direction), differences(moved), 1e-7)


@pytest.mark.parametrize("dtype", list(LIMITS))
@pytest.mark.parametrize("size", list(SIZES))
@orders
@kinds
def test_kernels_equal_the_reference(kind: str, order: str, size: str, dtype: str) -> None:
    problem = problem_of(kind, SIZES[size], order, dtype)
    direction = direction_of(problem)
    want = derive("numpy", problem.astype("float64"), {n: d.astype("float64") for n, d in direction.items()})
    assert_alike(derive("cython", problem, direction), want, LIMITS[dtype])


@pytest.mark.parametrize("backend", ["cython", "numpy"])
@pytest.mark.parametrize("kind", ["lstm_projected", "gru", "rnn_tanh"])
def test_what_is_not_given_is_zero(kind: str, backend: str) -> None:
    problem = problem_of(kind, (4, 3, 2, 5), "ragged")
    whole = direction_of(problem)
    for count in (1, 2, len(whole) - 1):
        for names in combinations(whole, count):
            some = {name: whole[name] for name in names}
            zeros = {name: whole[name] if name in names else np.zeros_like(whole[name]) for name in whole}
            assert_alike(derive(backend, problem, some), derive(backend, problem, zeros), 1e-12)


@pytest.mark.parametrize("kind", list(CELLS))
def test_threads_change_no_bit(kind: str) -> None:
    problem = problem_of(kind, (20, 24, 64, 64), dtype="float32")
    direction = direction_of(problem)
    want = derive("cython", problem, direction)
    for threads in (2, 3):
        for name, value in derive("cython", problem, direction, threads).items():
            assert_same_bits(name, value, want[name])


@pytest.mark.parametrize("backend", ["cython", "numpy"])
@pytest.mark.parametrize("size", [(0, 3, 2, 5), (4, 0, 2, 5)])
@pytest.mark.parametrize("kind", ["lstm", "gru", "rnn_relu", "lstm_projected"])
def test_nothing_to_do(kind: str, size: tuple[int, ...], backend: str) -> None:
    problem = problem_of(kind, size)
    direction = direction_of(problem)
    found = derive(backend, problem, direction)
    assert found["y"].shape == problem.dy.shape
    for name in problem.cell.states:
        assert_same_bits(name, found[f"{name}_n"], direction[f"{name}_0"])
    assert not found["dweight_ih"].any()


@pytest.mark.parametrize("backend", ["cython", "numpy"])
def test_relu_is_flat_below_zero_and_at_it_and_hands_nan_on(backend: str) -> None:
    x = np.array([[[-1.0], [0.0], [1.0], [np.nan]]]).reshape(1, 4, 1)
    weights, state = Weights(np.ones((1, 1)), np.ones((1, 1))), (np.zeros((4, 1)),)
    given = (load(backend), CELLS["rnn_relu"], x, state, weights, 1, None, False)
    y, _, _ = ops.forward(*given)
    tangent = Tangent(Point(*given, y, []), np.ones_like(x), [None], Weights._make([None] * 6), keep=True)
    assert_same_bits("y", tangent.y[0, :, 0], np.array([0.0, 0.0, 1.0, 1.0]))
    dx, _, _ = tangent.adjoint(np.ones_like(y), [None])
    assert_same_bits("dx", dx[0, :3, 0], np.zeros(3))  # no second derivative


@pytest.mark.parametrize("level", ["baseline", "avx2", "avx512", "amx"])
def test_again_on_every_instruction_set(level: str, tmp_path: Path) -> None:
    state = re.search(rf"\b{level}: ([^,;]*)", load("cython").describe())
    if state is None or (state[1] != "runs" and (state[1], level) != ("used", "amx")):
        pytest.skip(f"{level} is {'not of this machine' if state is None else state[1]}")
    settings = ["-q", "-p", "no:cacheprovider", "-c", Path(__file__).parents[1] / "pyproject.toml"]
    chosen = "equal_the_reference or nothing_to_do or relu_is"
    command = [sys.executable, "-m", "pytest", *settings, "-k", chosen, __file__]
    result = run_watched(command, 400, cwd=tmp_path, env=clean_environ(FASTRNN_REQUIRE_ALL="1", FASTRNN_ISA=level))
    assert result.returncode == 0, result.stdout


def test_gradients_of_values_beside_x_need_arrays_that_fit() -> None:
    problem = problem_of("rnn_tanh", (4, 3, 2, 5))
    cell, rows = tangent_cell("rnn_tanh", False), np.zeros((12, 5))
    module = load("cython")
    for wrong in ((), (rows, rows), (rows[:-1],), (rows.astype("float32"),), (rows[:, :-1],), (rows.view(),)):
        for array in wrong[:1]:
            array.flags.writeable = array.base is None or array.shape != rows.shape
        _, _, tape = ops.forward(module, cell, problem.x, problem.state, problem.weights, 1, extra=(rows,))
        with pytest.raises(ValueError, match="gradient"):
            ops.backward(tape, problem.dy, (None,), dextra=wrong)


def test_cells_keep_only_what_backward_reads() -> None:
    """An adjoint's backward runs without its forward: it must not read what that would have left."""
    for name in CELLS:
        for cell in (
            adjoint_cell(name, False),
            adjoint_cell(name, True) if name == "lstm" else adjoint_cell(name, False),
        ):
            assert cell.program is not None
            made = set()
            for one in cell.program.backward:
                read = {operand for operand in one[2:] if operand.kind.name not in ("EXTRA", "GRADIENT", "CONSTANT")}
                assert read <= made, cell.name
                made.add(one.out)


# ---- a module

MODULES: dict[str, tuple[Any, dict[str, Any]]] = {
    "lstm": (fastrnn.LSTM, {}),
    "lstm_stacked": (fastrnn.LSTM, {"num_layers": 2, "bidirectional": True, "proj_size": 2}),
    "gru_batch_first": (fastrnn.GRU, {"num_layers": 2, "batch_first": True}),
    "rnn_bidirectional": (fastrnn.RNN, {"bidirectional": True, "nonlinearity": "tanh"}),
    "gru_dropout": (fastrnn.GRU, {"num_layers": 3, "dropout": 0.5}),
}
SHAPE = 5, 3, 3, 4  # T, N, I, H


def random_like(value: Any, seed: int) -> Any:
    rng = np.random.default_rng(seed)
    if isinstance(value, tuple):
        return tuple(rng.uniform(-1, 1, s.shape) for s in value)
    return rng.uniform(-1, 1, value.shape)


def along(value: Any, tangent: Any, by: float) -> Any:
    if isinstance(value, tuple):
        return tuple(v + by * t for v, t in zip(value, tangent, strict=True))
    return value + by * tangent


def flat(results: Sequence[Any]) -> Outcome:
    """All arrays, by their places."""
    found: Outcome = {}
    for at, value in enumerate(results):
        its = value.values() if isinstance(value, dict) else value if isinstance(value, tuple) else (value,)
        found |= {f"{at}.{k}": array for k, array in enumerate(its)}
    return found


@pytest.mark.parametrize("backend", ["cython", "numba", "numpy"], indirect=True)
@pytest.mark.parametrize("lengths", [None, [3, 0, 5]], ids=["whole", "lengths"])
@pytest.mark.parametrize("name", list(MODULES))
def test_module_against_differences(name: str, lengths: Any, backend: str) -> None:
    (cls, options), (T, N, I, H) = MODULES[name], SHAPE
    module = cls(I, H, dtype="float64", seed=1, backend=backend, **options)
    x = random_like(np.empty((N, T, I) if module.batch_first else (T, N, I)), 0)
    layers = module.num_layers * module.directions
    h_0, c_0 = np.empty((layers, N, module.proj_size or H)), np.empty((layers, N, H))
    state = random_like((h_0, c_0) if cls is fastrnn.LSTM else h_0, 1)
    x_tangent, state_tangent = random_like(x, 2), random_like(state, 3)
    parameters = {key: value.copy() for key, value in module.parameters.items()}
    tangents = {key: random_like(value, 4) for key, value in parameters.items()}
    module.seed_dropout(7)
    outputs, pushed, tape = module.jvp(
        x, state, lengths=lengths, x_tangent=x_tangent, state_tangent=state_tangent, parameter_tangents=tangents
    )
    (dy, dstate), (dy_tangent, dstate_tangent) = (
        tuple(random_like(each, seed + k) for k, each in enumerate(outputs)) for seed in (10, 20)
    )
    gradients, products = module.backward_jvp(tape, dy, dstate, dy_tangent=dy_tangent, dstate_tangent=dstate_tangent)

    def moved(by: float) -> Outcome:
        for key, value in module.parameters.items():
            value[...] = parameters[key] + by * tangents[key]
        module.seed_dropout(7)
        y, state_n, tape = module.forward(x + by * x_tangent, along(state, state_tangent, by), lengths=lengths)
        back = module.backward(tape, dy + by * dy_tangent, along(dstate, dstate_tangent, by))
        return flat([y, state_n, *back])

    assert_alike(flat([*outputs, *gradients]), moved(0.0), 1e-13)
    assert_alike(flat([*pushed, *products]), differences(moved), 1e-7)


def test_tokens_have_no_tangent_but_parameters_have() -> None:
    module = fastrnn.LSTM(6, 4, dtype="float64", seed=0)
    tokens = np.array([[1, 5], [0, 3], [1, 2]])
    ones = {name: np.ones_like(p) for name, p in module.parameters.items()}
    _, of_tokens, _ = module.jvp(tokens, parameter_tangents=ones)
    _, of_rows, _ = module.jvp(np.eye(6)[tokens], parameter_tangents=ones)
    assert_alike(flat(of_tokens), flat(of_rows), 1e-14)
    with pytest.raises(ValueError, match="x_tangent is given, but x has tokens"):
        module.jvp(tokens, x_tangent=np.zeros((3, 2, 6)))


X = np.zeros((4, 2, 3))
MISTAKES: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "x_tangent": ({"x_tangent": X[:3]}, ValueError, r"x_tangent has shape \(3, 2, 3\); expected x's shape"),
    "dtype": ({"x_tangent": X.astype("float32")}, TypeError, "x_tangent has dtype float32; expected float64"),
    "state": ({"state_tangent": np.zeros((1, 3, 5))}, ValueError, r"state_tangent has shape \(1, 3, 5\)"),
    "name": ({"parameter_tangents": {"w": X}}, ValueError, "parameter_tangents has 'w'; expected names of parameters"),
    "shape": ({"parameter_tangents": {"bias_ih_l0": X}}, ValueError, r"parameter_tangents\['bias_ih_l0'\] has shape"),
}


@pytest.mark.parametrize("mistake", list(MISTAKES))
def test_mistakes_are_named(mistake: str) -> None:
    given, error, text = MISTAKES[mistake]
    with pytest.raises(error, match=text):
        fastrnn.RNN(3, 5, dtype="float64", seed=0).jvp(X, **given)


def test_a_tape_serves_once_and_for_its_own() -> None:
    module = fastrnn.RNN(3, 5, dtype="float64", seed=0)
    (y, _), _, tape = module.jvp(X)
    with pytest.raises(TypeError, match="tape is one of jvp, for backward_jvp"):
        module.backward(tape, y)
    (dx, _, _), _ = module.backward_jvp(tape, y)
    assert dx.shape == X.shape
    with pytest.raises(ValueError, match="tape was used before"):
        module.backward_jvp(tape, y)
    _, _, plain = module.forward(X)
    with pytest.raises(TypeError, match="tape is one of forward, for backward"):
        module.backward_jvp(plain, y)
