"""RNNCell, LSTMCell and GRUCell against torch.nn's, and against one step of our modules."""

from __future__ import annotations

import copy
import itertools
import pickle
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from calls import as_state, as_tuple, backends, kinds
from tolerances import Outcome, assert_close, assert_same_bits, tolerance

import fastrnn
from fastrnn.parameters import Array

CELLS = {
    "rnn_tanh": (fastrnn.RNNCell, {"nonlinearity": "tanh"}),
    "rnn_relu": (fastrnn.RNNCell, {"nonlinearity": "relu"}),
    "lstm": (fastrnn.LSTMCell, {}),
    "gru": (fastrnn.GRUCell, {}),
}
N, I, H = 5, 4, 9


def make(kind: str, dtype: str = "float64", **options: Any) -> Any:
    """A cell with O(1) weights."""
    cls, nonlinearity = CELLS[kind]
    cell = cls(I, H, **nonlinearity, dtype=dtype, **({"seed": 0} | options))
    rng = np.random.default_rng(1)
    for parameter in cell.parameters.values():
        parameter[...] = rng.uniform(-1.5, 1.5, parameter.shape) / parameter.shape[-1] ** 0.5
    return cell


def arrays_of(kind: str, dtype: str, *batch: int) -> tuple[Array, tuple[Array, ...], tuple[Array, ...]]:
    """x, the state and its gradient."""
    rng = np.random.default_rng(2)
    count = 2 if kind == "lstm" else 1
    x, *rest = (rng.uniform(-1, 1, (*batch, size)).astype(dtype) for size in (I, *[H] * 2 * count))
    return x, tuple(rest[:count]), tuple(rest[count:])


def step(cell: Any, x: Any, state: tuple[Any, ...], dstate: tuple[Any, ...]) -> Outcome:
    called = cell(x, as_state(state))
    state_n, tape = cell.forward(x, as_state(state))
    for one, other in zip(as_tuple(called), as_tuple(state_n), strict=True):
        assert_same_bits("state of __call__", one, other)
    dx, dstate_0, grads = cell.backward(tape, as_state(dstate))
    assert list(grads) == list(cell.parameters)
    outcome = {} if dx is None else {"dx": dx}
    return outcome | grads | named(state_n, dstate_0)


def named(state_n: Any, dstate_0: Any) -> dict[str, Any]:
    pairs = zip(("h", "c"), as_tuple(state_n), as_tuple(dstate_0))  # noqa: B905  (lstm alone has c)
    return {name: array for s, n, d in pairs for name, array in ((f"{s}_n", n), (f"d{s}_0", d))}


def step_torch(torch: ModuleType, cell: Any, kind: str, x: Array, state: Any, dstate: Any) -> Outcome:
    """The same on torch.nn's cell in float64."""
    theirs = getattr(torch.nn, type(cell).__name__)(I, H, cell.bias, **CELLS[kind][1], dtype=torch.float64)
    theirs.load_state_dict({name: torch.from_numpy(p.astype("float64")) for name, p in cell.state_dict().items()})

    def tensor(array: Array) -> Any:
        return torch.tensor(array, dtype=torch.float64, requires_grad=True)

    leaf, leaves = tensor(x), tuple(map(tensor, state))
    state_n = theirs(leaf, as_state(leaves))
    torch.autograd.backward(as_tuple(state_n), [torch.from_numpy(d.astype("float64")) for d in dstate])
    grads = {name: p.grad for name, p in theirs.named_parameters()}
    outcome = {"dx": leaf.grad} | grads | named(state_n, tuple(s.grad for s in leaves))
    return {name: value.detach().numpy() for name, value in outcome.items()}


@backends
@kinds
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_equals_torch(torch: ModuleType, backend: str, kind: str, dtype: str) -> None:
    for bias, batch in itertools.product([True, False], [(N,), ()]):
        cell = make(kind, dtype, bias=bias, backend=backend)
        given = arrays_of(kind, dtype, *batch)
        got, want = step(cell, *given), step_torch(torch, cell, kind, *given)
        assert got.keys() == want.keys()
        for name, value in want.items():
            assert got[name].dtype == dtype
            assert_close(name, got[name], value, tolerance(value, dtype, I + 5 * H + N))


@backends
@kinds
def test_equals_a_module_of_one_step(backend: str, kind: str) -> None:
    cell = make(kind, "float32", backend=backend)
    options = {} if kind in ("lstm", "gru") else CELLS[kind][1]
    module = getattr(fastrnn, type(cell).__name__.removesuffix("Cell"))(I, H, backend=backend, **options)
    module.load_state_dict({f"{name}_l0": value for name, value in cell.parameters.items()})
    x, state, dstate = arrays_of(kind, "float32", N)
    got = step(cell, x, state, dstate)
    _, state_n, tape = module.forward(x[None], as_state(tuple(s[None] for s in state)))
    dx, dstate_0, grads = module.backward(tape, None, as_state(tuple(d[None] for d in dstate)))
    want = named(*(tuple(s[0] for s in as_tuple(states)) for states in (state_n, dstate_0))) | {"dx": dx[0]}
    want |= {name.removesuffix("_l0"): gradient for name, gradient in grads.items()}
    for name, value in want.items():
        assert_same_bits(name, got[name], value)


@backends
@kinds
@pytest.mark.parametrize("batch", [(N,), ()], ids=str)
def test_tokens_are_their_one_hot_rows(backend: str, kind: str, batch: tuple[int, ...]) -> None:
    cell = make(kind, backend=backend)
    tokens = np.random.default_rng(0).integers(I, size=batch)
    _, state, dstate = arrays_of(kind, "float64", *batch)
    got, want = step(cell, tokens, state, dstate), step(cell, np.eye(I)[tokens], state, dstate)
    assert want.keys() - got.keys() == {"dx"}
    for name, value in got.items():
        assert_close(name, value, want[name], 1e-14)


@backends
@kinds
def test_a_missing_state_or_gradient_is_zero(backend: str, kind: str) -> None:
    cell = make(kind, backend=backend)
    x, state, dstate = arrays_of(kind, "float64", N)
    zeros = tuple(map(np.zeros_like, state))
    for size in (N, 2, N):
        for one, other in zip(as_tuple(cell(x[:size])), zeros, strict=True):
            assert one.shape == other[:size].shape
    for got, want in ((cell(x), cell(x, as_state(zeros))), (cell.forward(x)[0], cell(x))):
        for one, other in zip(as_tuple(got), as_tuple(want), strict=True):
            assert_same_bits("state", one, other)
    for given in itertools.product([True, False], repeat=len(dstate)):
        chosen = [d if there else None for d, there in zip(dstate, given, strict=True)]
        filled = [d * there for d, there in zip(dstate, given, strict=True)]
        got, want = (step(cell, x, state, tuple(each)) for each in (chosen, filled))
        for name, value in want.items():
            assert_close(name, got[name], value, 1e-14)
    _, tape = cell.forward(x)
    assert not cell.backward(tape, None)[0].any()


@backends
@kinds
def test_results_own_their_memory(backend: str, kind: str) -> None:
    cell = make(kind, backend=backend)
    x, state, dstate = arrays_of(kind, "float64", N)
    want = step(cell, x, state, dstate)
    state_n, tape = cell.forward(x, as_state(state))
    for array in (*as_tuple(state_n), *state):
        array[...] = np.nan  # neither the caller's old state nor the new one is on the tape
    dx, _, grads = cell.backward(tape, as_state(dstate))
    for name, value in (grads | {"dx": dx}).items():
        assert_same_bits(name, value, want[name])


@kinds
def test_tape_serves_once(kind: str) -> None:
    cell = make(kind)
    x, state, dstate = arrays_of(kind, "float64", N)
    _, tape = cell.forward(x, as_state(state))
    with pytest.raises(ValueError, match="tape is another module's"):
        make(kind).backward(tape, as_state(dstate))
    cell.backward(tape, as_state(dstate))
    with pytest.raises(ValueError, match="tape was used before"):
        cell.backward(tape, as_state(dstate))


@kinds
@pytest.mark.parametrize("duplicate", [copy.deepcopy, copy.copy, lambda cell: pickle.loads(pickle.dumps(cell))])
def test_copies_and_writes(kind: str, duplicate: Callable[[Any], Any]) -> None:
    cell = make(kind)
    x, _, _ = arrays_of(kind, "float64", N)
    before = as_tuple(cell(x))[0]
    other = duplicate(cell)
    assert_same_bits("h_n", as_tuple(other(x))[0], before)
    cell.parameters["weight_ih"][...] *= 2
    assert (as_tuple(cell(x))[0] != before).any()


@kinds
def test_names_and_values_are_torchs(torch: ModuleType, kind: str) -> None:
    for bias in (True, False):
        cls, options = CELLS[kind]
        ours = cls(I, H, bias, **options)
        theirs = getattr(torch.nn, cls.__name__)(I, H, bias, **options)
        shapes = [(name, tuple(p.shape)) for name, p in theirs.state_dict().items()]
        assert [(name, p.shape) for name, p in ours.parameters.items()] == shapes
        ours.load_state_dict(theirs.state_dict())
        again = eval(repr(ours), vars(fastrnn))
        assert repr(again) == repr(ours)
        assert max(np.abs(p).max() for p in again.parameters.values()) <= H**-0.5
