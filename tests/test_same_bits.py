"""The same bits come out of a module however its work is cut: into batches, threads, chunks of time, lengths.

`test_kernels` has that of a single layer; here are the ways in which modules put layers together. NumPy's products do
not have it, so the reference is left out where rows come in other batches.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from calls import Call, as_state, as_tuple, backends, calls, kinds, make, module_of, train
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tolerances import Outcome, assert_close, assert_same_bits

from fastrnn.backends import BACKENDS
from fastrnn.parameters import Array

kernels = pytest.mark.parametrize("backend", [name for name in BACKENDS if name != "numpy"], indirect=True)
# The fixture is a name, the same for every example.
examples = settings(
    max_examples=40, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
OF_ROWS = ("y", "dx", "h_n", "c_n", "dh_0", "dc_0")


def row_of(call: Call, arrays: dict[str, Any], row: int) -> dict[str, Any]:
    """What a call is given for one sequence alone, cut to its length."""
    length = call.T if call.lengths is None else int(call.lengths[row])
    axis = 0 if call.batch_first else 1
    x, dy = (arrays[name].take([row], axis).take(range(length), 1 - axis) for name in ("x", "dy"))
    states = {
        name: None if arrays[name] is None else tuple(s[:, row : row + 1] for s in arrays[name])
        for name in ("state", "dstate")
    }
    return {"x": x, "dy": dy, "lengths": None} | states


def part_of(call: Call, outcome: Outcome, row: int) -> Outcome:
    """What a call gives for one sequence, cut to its length."""
    length = call.T if call.lengths is None else int(call.lengths[row])
    axis = 0 if call.batch_first else 1
    found = {name: array.take([row], 1) for name, array in outcome.items() if name in OF_ROWS[2:]}
    for name in OF_ROWS[:2]:
        if name in outcome:
            found[name] = outcome[name].take([row], axis).take(range(length), 1 - axis)
    return found


@kernels
@kinds
@examples
@given(data=st.data())
def test_row_alone(backend: str, kind: str, data: Any) -> None:
    """Whatever batch it is in and how long the others are."""
    call = data.draw(calls(kind=kind, batched=True))
    row = data.draw(st.integers(0, call.N - 1))
    module, arrays = module_of(call, backend=backend), call.given()
    together = part_of(call, train(module, arrays), row)
    alone = train(module, row_of(call, arrays, row))
    for name, want in together.items():
        assert_same_bits(name, alone[name], want)


@kernels
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("ragged", [False, True])
@kinds
def test_row_alone_in_a_larger_batch(backend: str, kind: str, ragged: bool, bidirectional: bool) -> None:
    proj_size = 33 if kind == "lstm" else 0
    call = Call(kind, 12, 67, 20, 70, 2, bidirectional=bidirectional, ragged=ragged, proj_size=proj_size)
    for dtype in ("float32", "float64"):
        its = Call(**(vars(call) | {"dtype": dtype}))
        module, arrays = module_of(its, backend=backend), its.given()
        together = train(module, arrays)
        for row in (0, 5, 31, 66):
            alone = train(module, row_of(its, arrays, row))
            for name, want in part_of(its, together, row).items():
                assert_same_bits(f"{name} of row {row}", alone[name], want)


@backends
@kinds
@examples
@given(data=st.data())
def test_any_number_of_threads(backend: str, kind: str, data: Any) -> None:
    call = data.draw(calls(kind=kind, N=70, I=33, H=66, T=5))
    want = train(module_of(call, backend=backend, num_threads=1), call.given())
    num_threads = data.draw(st.integers(2, 4))
    for name, array in train(module_of(call, backend=backend, num_threads=num_threads), call.given()).items():
        assert_same_bits(name, array, want[name])


@kernels
@kinds
@examples
@given(data=st.data())
def test_chunks_of_time(backend: str, kind: str, data: Any) -> None:
    """With the state carried from one to the next, in inference and in training."""
    call = data.draw(calls(kind=kind, bidirectional=False))
    cut = data.draw(st.integers(0, call.T))
    module, arrays = module_of(call, backend=backend), call.arrays()
    axis = 1 if call.batched and call.batch_first else 0
    whole = train(module, call.given())
    for run in (module, lambda *given, **options: module.forward(*given, **options)[:2]):
        state, parts = as_state(arrays["state"]) if call.with_state else None, []
        for first, last in ((0, cut), (cut, call.T)):
            lengths = None if call.lengths is None else np.clip(call.lengths - first, 0, last - first)
            y, state = run(arrays["x"].take(range(first, last), axis), state, lengths=lengths)
            parts.append(y)
        assert_same_bits("y", np.concatenate(parts, axis), whole["y"])
        for name, array in zip(("h_n", "c_n"), as_tuple(state)):  # noqa: B905  (lstm alone has c)
            assert_same_bits(name, array, whole[name])


@backends
@kinds
@examples
@given(data=st.data())
def test_checkpoints(backend: str, kind: str, data: Any) -> None:
    call = data.draw(calls(kind=kind, N=30, H=9, T=14))
    every = data.draw(st.integers(1, 15))
    options = {"dropout": 0.5} if call.num_layers > 1 and data.draw(st.booleans()) else {}
    want = train(module_of(call, backend=backend, **options), call.given())
    for name, array in train(module_of(call, backend=backend, **options), call.given(), every).items():
        assert_same_bits(name, array, want[name])


# Lengths at their ends

LENGTHS_OPTIONS = [{}, {"num_layers": 2, "bidirectional": True}, {"batch_first": True}, {"tokens": True}]
lengths_options = pytest.mark.parametrize("options", LENGTHS_OPTIONS, ids=str)


def with_lengths(call: Call, lengths: Any) -> dict[str, Any]:
    return call.given() | {"lengths": lengths}


@backends
@kinds
@lengths_options
def test_full_lengths_are_no_lengths(backend: str, kind: str, options: dict[str, Any]) -> None:
    call = Call(kind, 6, 5, 4, 9, dtype="float32", **options)
    module = module_of(call, backend=backend)
    want = train(module, call.given())
    for lengths in ([6] * 5, np.full(5, 6, np.uint8)):
        for name, array in train(module, with_lengths(call, lengths)).items():
            assert_same_bits(name, array, want[name])


@backends
@kinds
@lengths_options
def test_no_steps_at_all(backend: str, kind: str, options: dict[str, Any]) -> None:
    """The state and its gradient go straight through."""
    call = Call(kind, 6, 5, 4, 9, dtype="float32", **options)
    arrays = with_lengths(call, [0] * 5)
    for every in (None, 2):
        got = train(module_of(call, backend=backend), arrays, every)
        for name, want in zip(("h_n", "c_n"), arrays["state"]):  # noqa: B905  (lstm alone has c)
            assert_same_bits(name, got[name], want)
        for name, want in zip(("dh_0", "dc_0"), arrays["dstate"]):  # noqa: B905
            assert_same_bits(name, got[name], want)
        for name, array in got.items():
            assert name in OF_ROWS[2:] or not array.any(), name


@backends
@kinds
@lengths_options
@pytest.mark.parametrize("length", [0, 1, 4, 6])
def test_one_sequence(backend: str, kind: str, options: dict[str, Any], length: int) -> None:
    call = Call(kind, 6, 1, 4, 9, dtype="float32", **options)
    module, arrays = module_of(call, backend=backend), with_lengths(call, [length])
    got = train(module, arrays)
    axis = 1 if call.batch_first else 0
    cut = call.given() | {name: arrays[name].take(range(length), axis) for name in ("x", "dy")}
    for name, want in train(module, cut).items():
        if name in OF_ROWS[:2]:
            assert not got[name].take(range(length, 6), axis).any()
            assert_same_bits(name, got[name].take(range(length), axis), want)
        else:
            assert_same_bits(name, got[name], want)


def padded(call: Call, array: Array, value: Any) -> Array:
    """With a value beyond every length."""
    array = array.copy()
    for n, length in enumerate(call.lengths):
        array[(n, slice(length, None)) if call.batch_first else (slice(length, None), n)] = value
    return array


@backends
@kinds
@lengths_options
@pytest.mark.parametrize("value", [np.nan, np.inf], ids=str)
def test_padding_reaches_nothing(backend: str, kind: str, options: dict[str, Any], value: float) -> None:
    call = Call(kind, 6, 5, 4, 9, dtype="float32", ragged=True, **options)
    arrays = call.given()
    other = arrays | {"dy": padded(call, arrays["dy"], value)}
    other["x"] = padded(call, arrays["x"], (-1 if np.isnan(value) else 10**9) if call.tokens else value)
    for every in (None, 2):
        want = train(module_of(call, backend=backend), arrays, every)
        assert all(np.isfinite(array).all() for array in want.values())
        for name, array in train(module_of(call, backend=backend), other, every).items():
            assert_same_bits(name, array, want[name])
        for name in ("y", "dx"):
            if name in want:
                assert_same_bits(name, padded(call, want[name], 0), want[name])


@backends
@kinds
def test_order_of_the_lengths_does_not_matter(backend: str, kind: str) -> None:
    call = Call(kind, 6, 5, 4, 9, 2, dtype="float64", ragged=True, bidirectional=True)
    arrays, order = call.given(), np.array([3, 0, 4, 2, 1])
    shuffled = {
        "x": arrays["x"][:, order],
        "dy": arrays["dy"][:, order],
        "lengths": call.lengths[order],
        "state": tuple(s[:, order] for s in arrays["state"]),
        "dstate": tuple(s[:, order] for s in arrays["dstate"]),
    }
    module = module_of(call, backend=backend)
    want = train(module, arrays)
    for name, array in train(module, shuffled).items():
        assert_close(name, array, want[name][:, order] if name in OF_ROWS else want[name], 1e-12)


@kernels
def test_sequences_of_one_length_are_summed_as_without_lengths(backend: str) -> None:
    """In pieces of 128 rows at most, of which this batch fills some."""
    module, x = make("gru", 5, 9, backend=backend), np.ones((70, 4, 5), np.float32)
    x *= np.sin(np.arange(70 * 4, dtype=np.float32)).reshape(70, 4, 1)
    found = []
    for lengths in (None, [70] * 4):
        y, _, tape = module.forward(x, lengths=lengths)
        found.append(module.backward(tape, np.ones_like(y))[2])
    for name, gradient in found[0].items():
        assert_same_bits(name, found[1][name], gradient)
