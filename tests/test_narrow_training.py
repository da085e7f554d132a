"""Training in bfloat16: what defines it, each product of the kernels made again from its factors, and modules."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from closed_pages import before_a_closed_page, needs_closed_pages
from problems import PARAMETERS, Problem, make
from tolerances import Outcome, assert_close, assert_same_bits, tolerance

import fastrnn
from fastrnn import reference
from fastrnn.backends import load
from fastrnn.cells import CELLS, Weights
from fastrnn.narrow import NarrowWeight, as_bfloat16, narrow, outer
from fastrnn.parameters import Array

cython = pytest.mark.parametrize("backend", ["cython"], indirect=True)
cells = pytest.mark.parametrize("cell", list(CELLS))

# T, N, I, H: remainders of I and H in an element, a vector, a panel; of N in a tile; odd chunks of rows, and several.
SIZES = [
    (1, 1, 1, 1),
    (3, 1, 5, 7),
    (2, 3, 4, 33),
    (9, 15, 17, 40),
    (2, 53, 31, 48),
    (3, 129, 3, 65),
    (2, 4, 130, 200),
]


def wide(a: Any) -> Array:
    """What a factor is rounded to, in float64."""
    rounded: Array = as_bfloat16(a.values if isinstance(a, NarrowWeight) else a).astype(np.float64)
    return rounded


def train(problem: Problem, weights: Weights, backend: str = "cython", **options: Any) -> tuple[Outcome, Outcome, Any]:
    """Outputs and gradients by name, the gates by name, and the tape that backward has used."""
    module, cell = load(backend), problem.cell
    threads = options.pop("num_threads", 1)
    y, state, tape = module.forward(
        cell, problem.x, problem.state, weights, tape=True, num_threads=threads, **problem.order, **options
    )
    gates = dict(zip((*cell.gates, *cell.states[1:]), module.gates(cell, tape), strict=True))
    dx, dstate, dweights = module.backward(cell, tape, problem.dy, problem.dstate, num_threads=threads)
    found = {"y": y, "dx": dx}
    found |= {f"{name}_n": value for name, value in zip(cell.states, state, strict=True)}
    found |= {f"d{name}_0": value for name, value in zip(cell.states, dstate, strict=True)}
    found |= {f"d{name}": value for name, value in zip(PARAMETERS, dweights, strict=True)}
    return {name: value for name, value in found.items() if value is not None}, gates, tape


def assert_same(got: Outcome, want: Outcome) -> None:
    assert got.keys() == want.keys()
    for name, value in want.items():
        assert_same_bits(name, got[name], value)


def remade(problem: Problem, found: Outcome, gates: Outcome, tape: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a run has found, and the same in float64, each product made again from the factors that it had there.

    So nothing that is rounded comes from anywhere else, and all is exact to the float32 of one sum.
    """
    cell, weights = problem.cell, problem.weights
    y = found["y"].reshape(-1, found["y"].shape[-1])
    rows = problem.x.reshape(len(y), *problem.x.shape[1 if problem.batch_sizes is not None else 2 :])
    da = [d.astype(np.float64) for d in load("cython").gates(cell, tape)[: len(cell.gates)]]
    da_x = da_h = np.concatenate(da, axis=1)
    if cell.name == "gru":
        da_h = np.concatenate([*da[:2], da[2] * gates["r"]], axis=1)
    W_ih, W_hh, W_hr = wide(weights.ih), wide(weights.hh), weights.hr
    a_x = W_ih.T[rows] if problem.tokens else wide(rows) @ W_ih.T
    bias_ih, bias_hh = (0, 0) if weights.bias_ih is None else (weights.bias_ih.astype(float), weights.bias_hh)
    sizes = len(problem.x) if problem.batch_sizes is None else problem.batch_sizes
    steps = reference._steps(sizes, len(problem.state[0]), problem.reverse)
    point_forward, point_backward = reference.POINT_FUNCTIONS[cell.name]
    own = {"y": y, "da": da_x, **{name: gates[name] for name in cell.states[1:]}}
    want = {name: np.empty(value.shape) for name, value in own.items()}
    h_before, u, kept = np.empty(y.shape), np.empty((len(y), len(da[0][0]))), []
    state = [s.astype(np.float64) for s in problem.state]
    for step in steps:
        count = step.stop - step.start
        before = tuple(s[:count].copy() for s in state)
        h_before[step] = before[0]
        a_h = wide(before[0].astype(np.float32)) @ W_hh.T + bias_hh
        after, its_gates = point_forward(a_x[step] + bias_ih, a_h, before)
        u[step] = after[0]
        want["y"][step] = after[0] if W_hr is None else after[0] @ W_hr.T
        for name, value in zip(cell.states[1:], after[1:], strict=True):
            want[name][step] = value
        kept.append((before, after, its_gates))
        for whole, part in zip(state, (y[step], *[own[name][step] for name in cell.states[1:]]), strict=True):
            whole[:count] = part
    dy = np.zeros(y.shape) if problem.dy is None else problem.dy.reshape(y.shape)
    d = [
        np.zeros(s.shape) if given is None else given.astype(float)
        for s, given in zip(state, problem.dstate, strict=True)
    ]
    dh_of_rows = np.empty(y.shape)
    for step, (before, after, its_gates) in reversed(list(zip(steps, kept, strict=True))):
        count = step.stop - step.start
        dh = dh_of_rows[step] = d[0][:count] + dy[step]
        du = dh if W_hr is None else dh @ W_hr
        want["da"][step], _, bypass = point_backward(its_gates, before, after, (du, *[o[:count] for o in d[1:]]))
        d[0][:count] = wide(da_h[step].astype(np.float32)) @ W_hh + (0 if W_hr is not None else bypass[0])
        for whole, part in zip(d[1:], bypass[1:], strict=True):
            whole[:count] = part
    z_x, z_h = wide(da_x.astype(np.float32)), wide(da_h.astype(np.float32))
    want |= {f"d{name}_0": value for name, value in zip(cell.states, d, strict=True)}
    want["dweight_hh"] = z_h.T @ wide(h_before.astype(np.float32))
    if problem.tokens:
        want["dweight_ih"] = np.zeros(W_ih.shape)
        np.add.at(want["dweight_ih"].T, rows, da_x)
    else:
        want["dx"], want["dweight_ih"] = (z_x @ W_ih).reshape(problem.x.shape), z_x.T @ wide(rows)
    if weights.bias_ih is not None:
        want["dbias_ih"], want["dbias_hh"] = da_x.sum(0), da_h.sum(0)
    if W_hr is not None:
        want["dweight_hr"] = dh_of_rows.T @ u
    return {name: own.get(name, found.get(name)) for name in want}, want


# ---- the definition


def test_both_factors_of_every_product_are_rounded() -> None:
    """One step of a rectifier, whose gradient dz is dh where h is above zero: nothing else is computed."""
    problem = make("rnn_relu", 1, 5, 4, 6, dtype="float32")
    found, _, _ = train_reference(problem)
    dz = np.where(found["y"][0] > 0, problem.dy[0] + problem.dstate[0], 0)
    x, h, weights = problem.x[0], problem.state[0], problem.weights
    h_1 = wide(x) @ wide(weights.ih).T + weights.bias_ih + wide(h) @ wide(weights.hh).T + weights.bias_hh
    want = {
        "y": np.maximum(h_1, 0)[None],
        "dx": (wide(dz) @ wide(weights.ih))[None],
        "dh_0": wide(dz) @ wide(weights.hh),
        "dweight_ih": wide(dz).T @ wide(x),
        "dweight_hh": wide(dz).T @ wide(h),
        "dbias_ih": dz.sum(0),
        "dbias_hh": dz.sum(0),
    }
    for name, value in want.items():
        assert_close(name, found[name], value, 2e-6)
        exact = train_reference(problem, problem.weights)[0][name]
        assert name.startswith("dbias") or np.abs(exact - value).max() > 1e-4


def train_reference(problem: Problem, weights: Any = None) -> tuple[Outcome, Outcome, Any]:
    return train(problem, narrow(problem.weights, "bfloat16") if weights is None else weights, "numpy")


def test_weights_are_read_where_they_are() -> None:
    """Training rounds what an optimizer has changed, and gives gradients of float32."""
    w = np.random.default_rng(0).standard_normal((6, 3)).astype(np.float32)
    weight: Any = narrow(Weights(w, w), "bfloat16").ih
    a = np.ones((2, 6), np.float32)
    before = a @ weight
    w *= 2
    assert_same_bits("product", a @ weight, 2 * before)
    x = np.full((2, 3), 1 + 2**-9, np.float32)
    assert_same_bits("rounded", outer(weight, a, x), np.full((6, 3), 2, np.float32))
    assert_same_bits("as it is", outer(w, a, x), np.full((6, 3), 2 + 2**-8, np.float32))


# ---- the kernels


@cython
@cells
@pytest.mark.parametrize("tokens", [False, True], ids=["dense", "tokens"])
@pytest.mark.parametrize(
    ("ragged", "reverse"), [(False, False), (True, False), (True, True)], ids=["even", "ragged", "reverse"]
)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_every_product_of_the_kernels(
    backend: str, cell: str, tokens: bool, ragged: bool, reverse: bool, size: tuple[int, int, int, int]
) -> None:
    problem = make(cell, *size, dtype="float32", tokens=tokens, ragged=ragged, reverse=reverse)
    got, want = remade(problem, *train(problem, narrow(problem.weights, "bfloat16"), backend))
    length = sum(size[2:]) + len(problem.weights.ih) + min(size[0] * size[1], 300)
    for name, value in want.items():
        assert_close(name, got[name], value, tolerance(value, "float32", length))


@cython
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no_bias"])
@pytest.mark.parametrize("size", SIZES[2:], ids=str)
def test_every_product_of_projected_layers(backend: str, bias: bool, size: tuple[int, int, int, int]) -> None:
    problem = make("lstm", *size, dtype="float32", proj_size=size[3] // 3, bias=bias, ragged=True)
    got, want = remade(problem, *train(problem, narrow(problem.weights, "bfloat16"), backend))
    for name, value in want.items():
        assert_close(name, got[name], value, tolerance(value, "float32", 2 * sum(size) + len(problem.weights.ih)))


@cython
@cells
@pytest.mark.parametrize("missing", ["dy", "dstate"])
def test_gradients_that_are_none(backend: str, cell: str, missing: str) -> None:
    problem = make(cell, 3, 7, 6, 18, dtype="float32")
    left_out = ["dy"] if missing == "dy" else [f"d{state}_n" for state in problem.cell.states]
    problem = problem.with_inputs({name: a for name, a in problem.inputs().items() if name not in left_out})
    got, want = remade(problem, *train(problem, narrow(problem.weights, "bfloat16"), backend))
    for name, value in want.items():
        assert_close(name, got[name], value, tolerance(value, "float32", 150))


@cython
@cells
def test_a_whole_run_equals_the_reference(backend: str, cell: str) -> None:
    """Two steps; what is rounded the other way once makes the difference of a bfloat16 then, but not of many."""
    problem = make(cell, 2, 20, 9, 23, dtype="float32")
    weights = narrow(problem.weights, "bfloat16")
    got, want = train(problem, weights, backend)[0], train(problem, weights, "numpy")[0]
    exact = train(problem, problem.weights, "numpy")[0]
    assert got.keys() == want.keys()
    for name, value in want.items():
        error, rounding = np.abs(got[name] - value).mean(), np.abs(exact[name] - value).mean()
        assert error < 0.05 * rounding or rounding < 1e-6


@cython
@cells
@pytest.mark.parametrize("size", [(7, 1, 5, 40), (6, 9, 40, 70), (5, 30, 9, 200)], ids=str)
def test_same_bits_however_the_work_is_cut(backend: str, cell: str, size: tuple[int, int, int, int]) -> None:
    problem, module = make(cell, *size, dtype="float32", ragged=size[1] > 9), load(backend)
    weights = narrow(problem.weights, "bfloat16")
    want = train(problem, weights)[0]
    inference = module.forward(
        problem.cell, problem.x, problem.state, weights, tape=False, num_threads=1, **problem.order
    )
    assert_same_bits("y of inference", inference[0], want["y"])
    before = module._override(FLOPS_WORTH_A_THREAD=0)
    ways = [train(problem, weights, num_threads=n)[0] for n in (2, 3)]
    for more in (
        {"ROWS_WORTH_A_THREAD": 1000},
        {"ROWS_WORTH_A_THREAD": 1},
        {"ROWS_WORTH_FUSING": 0},
        {"FEW_ROWS": 0, "PAIRS": 0},
    ):
        its = module._override(**more)
        ways += [train(problem, weights, num_threads=n)[0] for n in (1, 2)]
        module._override(**its)
    module._override(**before)
    for got in ways:
        assert_same(got, want)


@cython
@cells
def test_a_row_does_not_depend_on_the_others(backend: str, cell: str) -> None:
    problem = make(cell, 4, 14, 9, 33, dtype="float32")
    weights = narrow(problem.weights, "bfloat16")
    want = train(problem, weights)[0]
    one = problem.rows(slice(5, 6))
    one = one.with_inputs({name: np.ascontiguousarray(array) for name, array in one.inputs().items()})
    its = train(one, weights)[0]
    assert_same_bits("y", its["y"], np.ascontiguousarray(want["y"][:, 5:6]))
    assert_same_bits("dx", its["dx"], np.ascontiguousarray(want["dx"][:, 5:6]))
    assert_same_bits("dh_0", its["dh_0"], np.ascontiguousarray(want["dh_0"][5:6]))
    problem.dy[2, 5, 3] = np.nan
    spoilt, others = train(problem, weights)[0], np.arange(14) != 5
    assert np.isnan(spoilt["dx"][:3, 5]).any()
    assert_same_bits("dx of others", spoilt["dx"][:, others], want["dx"][:, others])


@cython
@cells
@pytest.mark.parametrize("size", [(0, 3, 4, 5), (4, 0, 3, 5)], ids=str)
def test_nothing_to_do(backend: str, cell: str, size: tuple[int, int, int, int]) -> None:
    problem = make(cell, *size, dtype="float32")
    found = train(problem, narrow(problem.weights, "bfloat16"))[0]
    assert found["dx"].shape == problem.x.shape
    assert_same_bits("dh_0", found["dh_0"], problem.dstate[0])
    for name in PARAMETERS:
        assert not found.get(f"d{name}", np.zeros(1)).any()


@needs_closed_pages
@cython
@cells
def test_nothing_is_read_beyond_an_array(backend: str, cell: str) -> None:
    for size in [(2, 1, 1, 1), (3, 3, 5, 17), (1, 7, 64, 65), (4, 2, 9, 6)]:
        problem = make(cell, *size, dtype="float32")
        closed = problem.with_inputs({name: before_a_closed_page(array) for name, array in problem.inputs().items()})
        got = train(closed, narrow(closed.weights, "bfloat16"))[0]
        assert_same(got, train(problem, narrow(problem.weights, "bfloat16"))[0])


@cython
def test_what_cannot_be_trained_is_refused(backend: str) -> None:
    problem, module = make("lstm", 3, 2, 4, 5, dtype="float32"), load(backend)
    with pytest.raises(ValueError, match="int8 are for a tape"):
        module.forward(
            problem.cell, problem.x, problem.state, narrow(problem.weights, "int8"), tape=True, num_threads=1
        )
    weights = narrow(problem.weights, "bfloat16")
    _, _, tape = module.forward(problem.cell, problem.x, problem.state, weights, tape=True, num_threads=1)
    weights.ih.values.shape = (4, 20)
    with pytest.raises(ValueError, match="weight_hh has shape"):
        module.backward(problem.cell, tape, problem.dy, problem.dstate)


# ---- modules


KINDS = [
    (fastrnn.LSTM, {}),
    (fastrnn.LSTM, {"num_layers": 2, "bidirectional": True, "proj_size": 5}),
    (fastrnn.GRU, {"num_layers": 2, "bias": False, "dropout": 0.3}),
    (fastrnn.RNN, {"nonlinearity": "relu", "bidirectional": True}),
]
kinds = pytest.mark.parametrize(("cls", "options"), KINDS, ids=["lstm", "lstm-all", "gru", "rnn"])
T, N, I, H = 150, 3, 9, 20


def real(*shape: int) -> Array:
    return np.random.default_rng(list(shape)).standard_normal(shape).astype(np.float32)


def gradients(module: Any, x: Array, **options: Any) -> Outcome:
    """y, dx and the gradients of the parameters, of the gradient y / 2 + 1 of y."""
    module.seed_dropout(0)
    y, _, tape = module.forward(x, **options)
    dx, _, grads = module.backward(tape, y / 2 + 1)
    return {"y": y, **({} if dx is None else {"dx": dx}), **grads}


@kinds
def test_modules_train(cls: Any, options: dict[str, Any]) -> None:
    """Gradients near those of float32 and of the reference; the same bits with checkpoints, and on two threads."""
    module, x = cls(I, H, seed=0, **options), real(T, N, I)
    exact = gradients(module, x)
    module.precision = "bfloat16"
    found = gradients(module, x)
    assert {a.dtype.name for a in found.values()} == {"float32"}
    for name, value in exact.items():
        error = np.linalg.norm(found[name] - value) / np.linalg.norm(value)
        assert 1e-5 < error < 0.05
    module.backend = "numpy"
    of_reference = gradients(module, x[:3])
    module.backend = None
    for name, value in gradients(module, x[:3]).items():
        assert_close(name, value, of_reference[name], 0.004 * float(np.abs(value).max()))
    mask, resets = np.ones((T, N), bool), np.zeros((T, N), bool)
    mask[2::7, 1], resets[40, 2] = False, True
    for more in ({}, {"lengths": [T, 0, 77]}, {"mask": mask, "resets": resets}):
        whole = gradients(module, x, **more)
        assert_same(gradients(module, x, checkpoint_every=20, **more), whole)
        module.num_threads = 2
        assert_same(gradients(module, x, **more), whole)
        module.num_threads = None
    tokens = np.random.default_rng(0).integers(0, I, (T, N))
    of_tokens, of_rows = gradients(module, tokens), gradients(module, np.eye(I, dtype=np.float32)[tokens])
    assert_same_bits("y", of_tokens["y"], of_rows["y"])
    for name, value in of_tokens.items():
        assert_close(name, value, of_rows[name], 0.004 * float(np.abs(value).max()))


@kinds
def test_what_trains_otherwise_has_bfloat16(cls: Any, options: dict[str, Any]) -> None:
    module, x = cls(I, H, seed=0, precision="bfloat16", **options), real(5, N, I)
    inside = module.trace(x)
    y = module(x)[0]
    last = f"h_l{module.num_layers - 1}"
    assert_same_bits("traced", inside[last], np.ascontiguousarray(y[..., : inside[last].shape[-1]]))
    assert "bfloat16" in module.explain(x.shape, training=True)
    with pytest.raises(
        ValueError, match=r"^precision is 'bfloat16', in which jvp does not run; expected 'float32' for"
    ):
        module.jvp(x, x_tangent=x)


def test_a_loss_falls_as_in_float32() -> None:
    """The sum so far of a sequence, by gradient descent on a layer and its readout."""
    losses = {}
    for precision in ("float32", "bfloat16"):
        rng = np.random.default_rng(0)
        module, v = fastrnn.GRU(1, 24, seed=0, precision=precision), np.full((24, 1), 0.1, np.float32)
        for _ in range(200):
            x = rng.uniform(-0.3, 0.3, (12, 16, 1)).astype(np.float32)
            y, _, tape = module.forward(x)
            error = y @ v - x.cumsum(0)
            dloss = 2 * error / error.size
            _, _, grads = module.backward(tape, dloss @ v.T)
            v -= 0.2 * np.tensordot(y, dloss, ([0, 1], [0, 1]))
            for name, grad in grads.items():
                module.parameters[name][...] -= 0.2 * grad
        losses[precision] = float((error**2).mean())
    assert losses["float32"] < 0.1
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=0.03)
