"""Every backend, cell, dtype and odd shape equals the reference, and the same bits come out however the work is cut."""

from __future__ import annotations

import ctypes.util
import functools
import itertools
import os
import platform
import re
import sys
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from closed_pages import before_a_closed_page, needs_closed_pages
from problems import PARAMETERS, Problem, assert_outcome, clean_environ, expected, make, run, run_python, solved
from tolerances import Outcome, assert_close, assert_same_bits, tolerance
from watched import run_watched

from fastrnn.backends import BACKENDS, load
from fastrnn.cells import CELLS, Weights
from fastrnn.steps import cuts

backends = pytest.mark.parametrize("backend", list(BACKENDS), indirect=True)
kernels = pytest.mark.parametrize("backend", [name for name in BACKENDS if name != "numpy"], indirect=True)
cells = pytest.mark.parametrize("cell", list(CELLS))
dtypes = pytest.mark.parametrize("dtype", ["float32", "float64"])
inputs = pytest.mark.parametrize("tokens", [False, True], ids=["dense", "tokens"])
biases = pytest.mark.parametrize("bias", [True, False], ids=["bias", "no_bias"])

# T, N, I, H: every N that leaves another remainder in a tile of rows, every H that leaves another one in the lanes, and
# full panels in few rows.
SHAPES = [
    (1, 1, 1, 1),
    (0, 3, 4, 5),
    (4, 0, 3, 5),
    (0, 0, 2, 3),
    (3, 1, 5, 7),
    (5, 5, 1, 1),
    (1, 6, 3, 17),
    (2, 7, 1, 16),
    (5, 2, 4, 33),
    (4, 13, 9, 65),
    (3, 37, 7, 8),
    (7, 4, 8, 48),
    (200, 1, 1, 2),
    (200, 3, 2, 5),
    (2, 3, 64, 128),
    (2, 53, 5, 17),
    (6, 40, 130, 200),
]
# More weights than a cache level holds, more steps than a chunk, more hidden units than a panel.
LARGE_SHAPES = [(200, 1, 64, 256), (3, 8, 300, 420), (2, 20, 17, 780)]


@backends
@cells
@dtypes
@inputs
@biases
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_reference(
    backend: str, cell: str, dtype: str, tokens: bool, bias: bool, shape: tuple[int, int, int, int]
) -> None:
    problem, want = solved(cell, *shape, dtype=dtype, tokens=tokens, bias=bias)
    assert_outcome(problem, run(backend, problem), want)


@kernels
@cells
@dtypes
@pytest.mark.parametrize("shape", LARGE_SHAPES, ids=str)
def test_large_sizes_equal_reference(backend: str, cell: str, dtype: str, shape: tuple[int, int, int, int]) -> None:
    problem, want = solved(cell, *shape, dtype=dtype)
    assert_outcome(problem, run(backend, problem), want)


# How sequences may run besides: backwards, with different lengths, with a projection of h.
ORDERS = [
    {"reverse": True},
    {"ragged": True},
    {"ragged": True, "reverse": True},
    {"proj_size": 5},
    {"proj_size": 6, "ragged": True, "reverse": True},
]
ORDERED_CELLS = [(cell, order) for cell in CELLS for order in ORDERS if cell == "lstm" or "proj_size" not in order]


def order_name(of: str | dict[str, Any]) -> str:
    return of if isinstance(of, str) else "-".join(map(str, of))


orders = pytest.mark.parametrize(("cell", "order"), ORDERED_CELLS, ids=order_name)
ORDERED_SHAPES = [
    (0, 3, 4, 9),
    (4, 0, 3, 9),
    (1, 1, 1, 9),
    (3, 1, 5, 7),
    (3, 4, 3, 17),  # where lengths differ, steps of 1 and of 4 rows follow one another
    (5, 2, 4, 33),
    (4, 13, 9, 65),
    (7, 37, 7, 8),
    (40, 3, 2, 17),
    (6, 40, 130, 200),
]


@backends
@orders
@dtypes
@inputs
@pytest.mark.parametrize("shape", ORDERED_SHAPES, ids=str)
def test_every_order_equals_reference(
    backend: str, cell: str, order: dict[str, Any], dtype: str, tokens: bool, shape: tuple[int, int, int, int]
) -> None:
    problem, want = solved(cell, *shape, dtype=dtype, tokens=tokens, **order)
    assert_outcome(problem, run(backend, problem), want)


@backends
@orders
@dtypes
@pytest.mark.parametrize("T", [30, 1])
def test_writes_beside_and_adds_to_what_is_there(
    backend: str, cell: str, order: dict[str, Any], dtype: str, T: int
) -> None:
    """y and dy as a part of wider rows, dx and the weights' gradients on top of others: as two directions need it."""
    problem = make(cell, T=T, N=5, I=3, H=17, dtype=dtype, **order)
    want, P = run(backend, problem), problem.weights.hh.shape[1]
    wide = np.full((*problem.dy.shape[:-1], 2 * P), 7, dtype)
    wide_dy = np.concatenate([np.full_like(problem.dy, np.nan), problem.dy], -1)
    module = load(backend)
    given = problem.cell, problem.x, problem.state, problem.weights
    y, _, tape = module.forward(*given, tape=True, num_threads=1, y=wide[..., P:], **problem.order)
    assert np.may_share_memory(y, wide)
    assert_same_bits("y", wide[..., P:], want["y"])
    assert (wide[..., :P] == 7).all()
    dx = np.ones_like(problem.x)
    dweights = Weights(*(None if w is None else np.ones_like(w) for w in problem.weights))
    rows = problem.dy.size // P
    module.backward(
        problem.cell, tape, wide_dy[..., P:], problem.dstate, num_threads=1, dx=dx, dweights=dweights, rows=rows
    )
    added = {"dx": dx} | {f"d{name}": getattr(dweights, field) for name, field in PARAMETERS.items()}
    for name, array in added.items():
        if array is not None:
            limit = 2 * tolerance(want[name], dtype, problem.length(name))
            assert_close(name, array - 1, want[name], limit)


@backends
@orders
@dtypes
def test_gates_are_those_of_the_reference(backend: str, cell: str, order: dict[str, Any], dtype: str) -> None:
    problem = make(cell, T=7, N=5, I=3, H=37, dtype=dtype, **order)
    found = []
    for name, its in ((backend, problem), ("numpy", problem.astype("float64"))):
        module = load(name)
        given = its.cell, its.x, its.state, its.weights
        tape = module.forward(*given, tape=True, num_threads=2, **its.order)[2]
        found.append(module.gates(its.cell, tape, num_threads=2))
    names = (*problem.cell.gates, *problem.cell.states[1:])
    assert len(found[0]) == len(names)
    for name, got, want in zip(names, *found, strict=True):
        assert got.dtype == dtype
        assert_close(name, got, want, tolerance(want, dtype, problem.length("y")))
    rows = len(found[0][0])
    to = np.random.default_rng(0).permutation(2 * rows)[:rows]
    given = problem.cell, problem.x, problem.state, problem.weights
    tape = load(backend).forward(*given, tape=True, num_threads=2, **problem.order)[2]
    spread = load(backend).gates(problem.cell, tape, num_threads=2, rows=2 * rows, to=to)
    for name, got, want in zip(names, spread, found[0], strict=True):
        assert got.shape == (2 * rows, want.shape[1])
        assert_same_bits(name, got[to], want)


@backends
@cells
@dtypes
def test_missing_gradients_are_zero(backend: str, cell: str, dtype: str) -> None:
    full = make(cell, T=4, N=5, I=3, H=9, dtype=dtype)
    zero = full.with_inputs({name: a * (name not in ("dy", "dh_n", "dc_n")) for name, a in full.inputs().items()})
    for given in itertools.product([True, False], repeat=1 + len(full.cell.states)):
        chosen = [full if one else None for one in given]
        dy, *dstate = [None if p is None else i for p, i in zip(chosen, (full.dy, *full.dstate), strict=True)]
        filled = [z if one is None else one for one, z in zip((dy, *dstate), (zero.dy, *zero.dstate), strict=True)]
        missing = replace(full, dy=dy, dstate=tuple(dstate))
        explicit = replace(full, dy=filled[0], dstate=tuple(filled[1:]))
        assert_outcome(missing, run(backend, missing), expected(explicit))


# Values at the ends of the range


@backends
@cells
@dtypes
def test_saturated_gates(backend: str, cell: str, dtype: str) -> None:
    problem = make(cell, T=5, N=6, I=3, H=17, dtype=dtype)
    bias = problem.weights.bias_ih
    pushed = np.resize(np.array([1e2, -1e2, 1e3, 0, -1e3, 1e4, -1e4], dtype), bias.shape) + bias
    problem = replace(problem, weights=problem.weights._replace(bias_ih=pushed))
    assert_outcome(problem, run(backend, problem), expected(problem))


@backends
@cells
@dtypes
@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan], ids=str)
def test_not_finite_input_touches_what_it_touches_in_the_reference(
    backend: str, cell: str, dtype: str, value: float
) -> None:
    clean = make(cell, T=7, N=8, I=5, H=17, dtype=dtype)
    x = clean.x.copy()
    x[3, 2, 1] = value
    problem = replace(clean, x=x)
    with np.errstate(invalid="ignore"):
        got = run(backend, problem)
    want, untouched = expected(problem), run(backend, clean)
    assert any(not np.isfinite(array).all() for array in want.values())
    for name, array in want.items():
        for kind in (np.isnan, np.isposinf, np.isneginf):
            different = np.argwhere(kind(got[name]) != kind(array))
            assert not different.size, f"{name}: {kind.__name__} differs at {different[0]}"
    for name, array in rows_of(got, 2, keep=False).items():
        assert_same_bits(name, array, rows_of(untouched, 2, keep=False)[name])


@backends
@pytest.mark.parametrize(("cell", "order"), [*((cell, {}) for cell in CELLS), *ORDERED_CELLS], ids=order_name)
@dtypes
@pytest.mark.parametrize("shape", [(1, 1, 4, 33), (5, 4, 3, 17)], ids=str)
def test_not_finite_values_reach_what_they_reach_in_torch(
    backend: str,
    cell: str,
    order: dict[str, Any],
    dtype: str,
    shape: tuple[int, int, int, int],
    without_onednn: ModuleType,
) -> None:
    """What torch has NaN is NaN, and what it has finite is finite and as if nothing were wrong elsewhere. Of infinities
    NaN or infinite will do: what sums of them are depends on the formula."""
    clean, in_torch, spoiled = spoiled_problems(without_onednn, cell, *shape, dtype=dtype, **order)
    module, finite = load(backend), run(backend, clean)
    # Of split floats, what shares a vector with a spoilt element is computed anew with it, as a chain.
    splits = dtype == "float32" and "amx: used; FASTRNN_ISA=amx" in module.describe()
    for place, value, problem, want in spoiled:
        given = problem.cell, problem.x, problem.state, problem.weights
        with np.errstate(invalid="ignore"):
            got = run(backend, problem)
            y, state, _ = module.forward(*given, tape=False, num_threads=2, **problem.order)
        assert got.keys() == want.keys()
        spoils = np.isnan if np.isnan(value) else lambda its: ~np.isfinite(its)
        for name, its in want.items():
            different = np.argwhere(spoils(got[name]) != spoils(its))
            assert not different.size, f"{value} in {place}: {name} differs at {different[0]}"
            untouched = its == in_torch[name]
            limit = tolerance(finite[name], dtype, problem.length(name)) if splits else 0.0
            assert_close(name, got[name][untouched], finite[name][untouched], limit)
        for name, its in zip(["y", *(f"{name}_n" for name in problem.cell.states)], [y, *state], strict=True):
            assert_same_bits(f"{name} of inference", its, got[name])


@pytest.fixture
def without_onednn(torch: ModuleType) -> Iterator[ModuleType]:
    """PyTorch, on kernels of its own, whose formulas are known."""
    before = torch._C._get_mkldnn_enabled()
    torch._C._set_mkldnn_enabled(False)
    yield torch
    torch._C._set_mkldnn_enabled(before)


@functools.lru_cache(maxsize=1)
def spoiled_problems(
    torch: ModuleType, cell: str, *size: int, **options: Any
) -> tuple[Problem, Outcome, list[tuple[str, float, Problem, Outcome]]]:
    """A problem, what torch makes of it, and both again with NaN in one element of each input, in some also inf."""
    clean, spoiled = make(cell, *size, **options), []
    for place, array in clean.inputs().items():
        for value in (np.nan, np.inf, -np.inf) if place in ("x", "dy", "weight_hh") else (np.nan,):
            one = array.copy()
            one.ravel()[one.size * 2 // 3] = value
            problem = clean.with_inputs(clean.inputs() | {place: one})
            spoiled.append((place, value, problem, torch_outcome(torch, problem)))
    return clean, torch_outcome(torch, clean), spoiled


def torch_outcome(torch: ModuleType, problem: Problem) -> Outcome:
    """What torch makes of a problem, one step after the other."""
    cell, inputs = problem.cell, problem.inputs()
    leaves = {name: torch.tensor(array, requires_grad=True) for name, array in inputs.items() if name[0] != "d"}
    weights = [leaves[name] for name in PARAMETERS if name in leaves]
    counts = [len(problem.state[0])] * len(problem.x) if problem.batch_sizes is None else problem.batch_sizes.tolist()
    x = leaves["x"].reshape(-1, leaves["x"].shape[-1]).split(counts)
    states, ys = [leaves[f"{name}_0"] for name in cell.states], [None] * len(counts)
    for step in sorted(range(len(counts)), reverse=problem.reverse):
        before = [state[None, : counts[step]] for state in states]
        hx = before if len(before) > 1 else before[0]
        y, *after = getattr(torch._VF, cell.name)(x[step][None], hx, weights, True, 1, 0.0, True, False, False)
        ys[step] = y[0]
        states = [torch.cat([new[0], old[counts[step] :]]) for new, old in zip(after, states, strict=True)]
    outputs = {"y": torch.cat(ys).reshape(problem.dy.shape)}
    outputs |= {f"{name}_n": state for name, state in zip(cell.states, states, strict=True)}
    incoming = [torch.from_numpy(d) for d in (problem.dy, *problem.dstate)]
    gradients = torch.autograd.grad(list(outputs.values()), list(leaves.values()), incoming)
    named = outputs | {f"d{name}": gradient for name, gradient in zip(leaves, gradients, strict=True)}
    return {name: tensor.detach().numpy() for name, tensor in named.items()}


@backends
@cells
@dtypes
def test_subnormal_input(backend: str, cell: str, dtype: str) -> None:
    problem = make(cell, T=6, N=7, I=3, H=17, dtype=dtype)
    tiny = np.array(np.finfo(dtype).tiny / 8)
    small = {name: a if name.startswith(("weight", "bias")) else a * tiny for name, a in problem.inputs().items()}
    problem = problem.with_inputs(small)
    assert_outcome(problem, run(backend, problem), expected(problem))
    assert tiny * np.ones(1, dtype) > 0, "flush-to-zero was left on"


@kernels
@dtypes
def test_subnormal_numbers_count_as_zero(backend: str, dtype: str) -> None:
    """Operands too, for a gradient that shrinks through time costs some 50 times as much with them."""
    if backend == "numba" and platform.machine().lower() not in ("x86_64", "amd64"):
        pytest.skip("the numba backend leaves subnormal numbers to other CPUs")
    clean, limits = make("rnn_relu", T=1, N=1, I=1, H=1, dtype=dtype, bias=False), np.finfo(dtype)
    large = np.full((1, 1), 1 / limits.tiny, dtype)
    weights = clean.weights._replace(ih=large, hh=0 * large)
    problem = replace(clean, x=np.full((1, 1, 1), limits.tiny / 4, dtype), weights=weights)
    assert problem.x.item() * large.item() > 0.2
    assert run(backend, problem)["y"].item() == 0


# The same bits, however the work is cut

CUT_SHAPES = [(23, 37, 3, 17), (9, 37, 33, 65), (12, 37, 64, 130)]
cut_shapes = pytest.mark.parametrize("shape", CUT_SHAPES, ids=str)


def rows_of(outcome: Outcome, row: int, *, keep: bool = True) -> Outcome:
    """What belongs to one row of the batch (`keep`), or to all others."""
    per_row = {name: array for name, array in outcome.items() if name in ("y", "dx", "h_n", "c_n", "dh_0", "dc_0")}
    axis = {"y": 1, "dx": 1}
    if keep:
        return {name: array.take([row], axis.get(name, 0)) for name, array in per_row.items()}
    return {name: np.delete(array, row, axis.get(name, 0)) for name, array in per_row.items()}


@kernels
@cells
@dtypes
@inputs
@pytest.mark.parametrize("shape", [*CUT_SHAPES, (30, 2, 16, 200), (1, 64, 96, 96)], ids=str)
def test_same_bits_for_any_number_of_threads(
    backend: str, cell: str, dtype: str, tokens: bool, shape: tuple[int, int, int, int]
) -> None:
    problem = make(cell, *shape, dtype=dtype, tokens=tokens)
    want = run(backend, problem, num_threads=1)
    for num_threads in (2, 3, 5):
        for name, array in run(backend, problem, num_threads=num_threads).items():
            assert_same_bits(f"{name} of {num_threads} threads", array, want[name])


@kernels
@cells
@dtypes
@inputs
@cut_shapes
def test_same_bits_for_a_row_alone(
    backend: str, cell: str, dtype: str, tokens: bool, shape: tuple[int, int, int, int]
) -> None:
    problem = make(cell, *shape, dtype=dtype, tokens=tokens)
    together = run(backend, problem)
    for row in (0, 5, 17, 36):
        alone = rows_of(run(backend, problem.rows(slice(row, row + 1))), 0)
        for name, want in rows_of(together, row).items():
            assert_same_bits(f"{name} of row {row}", alone[name], want)


@kernels
@orders
@dtypes
@cut_shapes
def test_same_bits_for_every_order(
    backend: str, cell: str, order: dict[str, Any], dtype: str, shape: tuple[int, int, int, int]
) -> None:
    """Of any number of threads, and of a row alone, as above."""
    problem = make(cell, *shape, dtype=dtype, **order)
    want = run(backend, problem)
    for num_threads in (2, 3, 5):
        for name, array in run(backend, problem, num_threads=num_threads).items():
            assert_same_bits(f"{name} of {num_threads} threads", array, want[name])
    if problem.batch_sizes is None:
        for name, array in rows_of(want, 17).items():
            alone = rows_of(run(backend, problem.rows(slice(17, 18))), 0)[name]
            assert_same_bits(f"{name} of row 17", alone, array)
    else:
        ranks = np.concatenate([np.arange(n) for n in problem.batch_sizes])
        for row in (0, 5, 18):
            alone = run(backend, problem.rows(slice(row, row + 1)))
            for name in ("y", "dx"):
                assert_same_bits(f"{name} of row {row}", alone[name], want[name][ranks == row])
            for name in ("h_n", "c_n", "dh_0", "dc_0"):
                if name in want:
                    assert_same_bits(f"{name} of row {row}", alone[name], want[name][row : row + 1])


@kernels
@pytest.mark.parametrize(("cell", "order"), [*[(name, {}) for name in CELLS], *ORDERED_CELLS], ids=str)
@dtypes
@inputs
@pytest.mark.parametrize("shape", [(23, 37, 3, 17), (4, 150, 3, 17), (9, 37, 400, 17), (9, 32, 3, 17)], ids=str)
def test_same_bits_of_gradients_for_segments_and_kept_tapes(
    backend: str, cell: str, order: dict[str, Any], dtype: str, tokens: bool, shape: tuple[int, int, int, int]
) -> None:
    """Forward segment by segment; backward from the last to the first, from arrays that stand elsewhere."""
    problem = make(cell, *shape, dtype=dtype, tokens=tokens, **order)
    want, module, (T, N, _, H) = run(backend, problem), load(backend), shape
    row, x, state, weights, dy, dstate, sizes, reverse = (getattr(problem, field.name) for field in fields(problem))
    counts = [N] * T if sizes is None else sizes.tolist()
    segments = []
    for first, last in cuts(counts[::-1] if reverse else counts, 2):
        first, last = (T - last, T - first) if reverse else (first, last)
        rows = slice(first, last) if sizes is None else slice(sum(counts[:first]), sum(counts[:last]))
        its_order = {"batch_sizes": None if sizes is None else sizes[first:last], "reverse": reverse}
        y, state_n, tape = module.forward(row, x[rows], state, weights, tape=True, num_threads=1, **its_order)
        kept = module.keep(tape)
        its_sizes = last - first, N, sum(counts[first:last]), H, order.get("proj_size", 0), np.dtype(dtype)
        assert [array.shape for array in kept] == [(size,) for size in module.kept_sizes(row, *its_sizes)]
        kept = tuple(np.concatenate([np.ones(1, dtype), array])[1:] for array in kept)
        segments.append((rows, module.recall(row, x[rows], state, weights, y, kept, **its_order)))
        state = state_n
    assert len(segments) > 1
    dx, dweights = (
        None if tokens else np.zeros_like(x),
        Weights(*(w if w is None else np.zeros_like(w) for w in weights)),
    )
    for rows, tape in reversed(segments):
        options = {"dx": None if dx is None else dx[rows], "dweights": dweights, "rows": dy.size // dy.shape[-1]}
        _, dstate, _ = module.backward(row, tape, dy[rows], dstate, num_threads=2, **options)
    got = {"dx": dx} | {f"d{name}_0": array for name, array in zip(row.states, dstate, strict=True)}
    got |= {f"d{name}": getattr(dweights, field) for name, field in PARAMETERS.items()}
    for name, array in got.items():
        if array is not None:
            assert_same_bits(name, array, want[name])


@kernels
@cells
@dtypes
@inputs
@cut_shapes
def test_same_bits_for_chunks_of_time(
    backend: str, cell: str, dtype: str, tokens: bool, shape: tuple[int, int, int, int]
) -> None:
    problem = make(cell, *shape, dtype=dtype, tokens=tokens)
    forward = functools.partial(load(backend).forward, num_threads=1)
    for tape in (False, True):
        want_y, want_state, _ = forward(problem.cell, problem.x, problem.state, problem.weights, tape=tape)
        state, parts = problem.state, []
        for steps in (slice(0, 1), slice(1, 6), slice(6, None)):
            y, state, _ = forward(problem.cell, problem.x[steps], state, problem.weights, tape=tape)
            parts.append(y)
        assert_same_bits("y", np.concatenate(parts), want_y)
        for name, array, want in zip(problem.cell.states, state, want_state, strict=True):
            assert_same_bits(f"{name}_n", array, want)


@kernels
@cells
@dtypes
@biases
@cut_shapes
def test_same_bits_for_tokens_and_one_hot_rows(
    backend: str, cell: str, dtype: str, bias: bool, shape: tuple[int, int, int, int]
) -> None:
    """The products of one-hot rows are exact, but sums over rows have another order where they are split."""
    problem = make(cell, *shape, dtype=dtype, tokens=True, bias=bias)
    want = run(backend, problem.dense())
    splits = dtype == "float32" and "amx: used" in load(backend).describe()
    for name, array in run(backend, problem).items():
        if splits and name == "dweight_ih":
            assert_close(name, array, want[name], tolerance(want[name], dtype, shape[0] * shape[1]))
        else:
            assert_same_bits(name, array, want[name])


@kernels
@cells
@dtypes
@inputs
@biases
@pytest.mark.parametrize("shape", [*SHAPES, *CUT_SHAPES, *LARGE_SHAPES], ids=str)
def test_same_bits_for_inference(
    backend: str, cell: str, dtype: str, tokens: bool, bias: bool, shape: tuple[int, int, int, int]
) -> None:
    """Without a tape, and on weights that were packed before, which not every backend does. Where a tape makes the C
    kernels split floats, the test below that has all of them split goes for the bits."""
    problem = make(cell, *shape, dtype=dtype, tokens=tokens, bias=bias)
    module = load(backend)
    given = (problem.cell, problem.x, problem.state, problem.weights)
    want_y, want_state, _ = module.forward(*given, tape=True, num_threads=1)
    packed = {"packed": module.pack(problem.cell, problem.weights, num_threads=1)} if hasattr(module, "pack") else {}
    for num_threads, options in ((1, {}), (1, packed), (2, {}), (3, packed)):
        y, state, tape = module.forward(*given, tape=False, num_threads=num_threads, **options)
        assert tape is None
        for name, array, want in zip(["y", *problem.cell.states], [y, *state], [want_y, *want_state], strict=True):
            if dtype == "float32" and "amx: used" in module.describe() and not os.environ.get("FASTRNN_ISA"):
                assert_close(name, array, want, tolerance(want, dtype, shape[0] * (shape[2] + shape[3])))
            else:
                assert_same_bits(name, array, want)


# The same again in other processes: lesser CPUs, which this one can stand in for, and an allocator that checks


def assert_passes_again(backend: str, used: str, chosen: str, folder: Path, **environ: str) -> None:
    """Run the chosen tests above in an environment in which the backend says that it is what `used` says."""
    code = f"from fastrnn.backends import load; print(load({backend!r}).describe())"
    assert used in run_python(code, folder, **environ).stdout
    settings = ["-q", "-p", "no:cacheprovider", "-c", Path(__file__).parents[1] / "pyproject.toml"]
    command = [sys.executable, "-m", "pytest", *settings, "-k", f"{backend} and not again and {chosen}", __file__]
    result = run_watched(command, 400, cwd=folder, env=clean_environ(FASTRNN_REQUIRE_ALL="1", **environ))
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("level", ["baseline", "avx2", "avx512", "amx"])
@pytest.mark.parametrize("backend", ["cython"], indirect=True)
def test_again_on_every_instruction_set_of_cython(backend: str, level: str, tmp_path: Path) -> None:
    """The lesser ones; and with `amx`, every product on split floats, which otherwise only large ones are."""
    state = re.search(rf"\b{level}: ([^,;]*)", load(backend).describe())
    if state is None or (state[1] != "runs" and (state[1], level) != ("used", "amx")):
        pytest.skip(f"{level} is {'not of this machine' if state is None else state[1]}")
    chosen = "not no_bias" if level == "amx" else "not (large or inference or no_bias)"
    assert_passes_again(backend, f"{level}: used", chosen, tmp_path, FASTRNN_ISA=level)


@pytest.mark.parametrize("backend", ["cython"], indirect=True)
def test_unknown_instruction_set_is_refused(backend: str, tmp_path: Path) -> None:
    environ = {"FASTRNN_ISA": "sse9"}
    levels = "baseline, avx2, avx512, avx512_vnni, avx512_bf16, amx|neon"
    text = rf"cannot run here: FASTRNN_ISA is 'sse9'; expected one of ({levels})\n$"
    chosen = run_python("import fastrnn; fastrnn.use_backend('cython')", tmp_path, **environ)
    assert re.search(text, chosen.stderr)
    automatic = run_python("import fastrnn; print(fastrnn.info().used)", tmp_path, **environ)
    assert automatic.stdout in ("numba\n", "numpy\n")


@pytest.mark.slow  # two minutes of compiling, which Numba keeps
@pytest.mark.parametrize(
    ("bits", "cpu", "features"),
    [pytest.param(128, "x86-64", "+sse2", marks=pytest.mark.long), (256, "haswell", "+avx2,+fma")],
)
@pytest.mark.parametrize("backend", ["numba"], indirect=True)
def test_again_with_lesser_vectors_of_numba(backend: str, bits: int, cpu: str, features: str, tmp_path: Path) -> None:
    used = re.search(r"vectors of (\d+) bits", load(backend).describe())
    if platform.machine() != "x86_64" or int(used[1]) <= bits:
        pytest.skip(f"{bits} bits are not less than this machine's {used[1]}")
    lowered = {"NUMBA_CPU_NAME": cpu, "NUMBA_CPU_FEATURES": features}
    assert_passes_again(backend, f"vectors of {bits} bits", "float32 and not (large or no_bias)", tmp_path, **lowered)


@needs_closed_pages
@kernels
@cells
@dtypes
@pytest.mark.parametrize("order", [{}, {"tokens": True}, {"ragged": True, "reverse": True}], ids=order_name)
def test_nothing_is_read_beyond_an_array(backend: str, cell: str, dtype: str, order: dict[str, Any]) -> None:
    """A read beyond would end the process, where checked memory notices only writes."""
    for size in SHAPES:
        problem = make(cell, *size, dtype=dtype, **order)
        arrays = {name: before_a_closed_page(array) for name, array in problem.inputs().items()}
        closed, module = problem.with_inputs(arrays), load(backend)
        y, _, tape = module.forward(
            closed.cell, closed.x, closed.state, closed.weights, tape=True, num_threads=1, **closed.order
        )
        module.backward(closed.cell, tape, closed.dy, closed.dstate, num_threads=1)
        assert_same_bits("y", y, run(backend, problem)["y"])


@kernels
def test_again_with_checked_memory(backend: str, tmp_path: Path) -> None:
    """glibc's checking allocator puts a mark behind every block, and other values than zero into new ones."""
    checker = ctypes.util.find_library("c_malloc_debug")
    if checker is None:
        pytest.skip("this system has no libc_malloc_debug")
    checked = {"LD_PRELOAD": checker, "MALLOC_CHECK_": "3", "MALLOC_PERTURB_": "165"}
    assert "libc_malloc_debug" in run_python("print(open('/proc/self/maps').read())", tmp_path, **checked).stdout
    chosen = "(equals_reference or threads) and not (large or no_bias)"
    assert_passes_again(backend, "", chosen, tmp_path, **checked)
    if "amx: used" in load(backend).describe():
        assert_passes_again(backend, "amx: used", chosen, tmp_path, FASTRNN_ISA="amx", **checked)
