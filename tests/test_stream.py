"""Streams: step by step the same as in one call, with a state that can be seen, set and reset."""

from __future__ import annotations

import itertools
import tracemalloc
from typing import Any

import numpy as np
import pytest
from calls import Call, as_state, as_tuple, backends, kinds, make
from tolerances import assert_close, assert_same_bits

import fastrnn
from fastrnn.backends import load
from fastrnn.parameters import Array

OPTIONS = [{}, {"num_layers": 3}, {"bias": False}]
SIZES = [(1, 64, 64), (5, 3, 17), (37, 1, 40)]


def streamed(stream: Any, x: Array) -> Array:
    return np.stack([stream.step(x_t) for x_t in x])


@backends
@kinds
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_steps_are_those_of_one_call(backend: str, kind: str, dtype: str, options: dict[str, Any]) -> None:
    for proj_size, tokens, (N, I, H) in ((p, t, s) for p in (0, 7) for t in (False, True) for s in SIZES):
        if proj_size and kind != "lstm":
            continue
        call = Call(kind, 6, N, I, H, dtype=dtype, proj_size=proj_size, tokens=tokens, **options)
        module = make(kind, *call.sizes, dtype=dtype, backend=backend, **call.options)
        x, state = call.arrays()["x"], as_state(call.arrays()["state"])
        want, want_state = module(x, state)
        stream = module.stream(N)
        stream.state = state
        got, got_state = streamed(stream, x), stream.state
        for name, one, other in (
            ("y", got, want),
            *zip(("h_n", "c_n"), as_tuple(got_state), as_tuple(want_state)),  # noqa: B905  (lstm alone has c)
        ):
            if backend == "numpy":
                assert_close(name, one, other, 1e-5 if dtype == "float32" else 1e-14)
            else:
                assert_same_bits(name, one, other)


@backends
@kinds
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_blocks_of_steps_are_those_of_one_call(backend: str, kind: str, dtype: str) -> None:
    tolerance = None if backend != "numpy" else 1e-5 if dtype == "float32" else 1e-14
    shapes = [(1, 1, 9, 1), (1, 40, 16, 2), (1, 3, 70, 3), (5, 3, 17, 2), (37, 1, 130, 1)]
    for (N, I, H, L), proj_size, tokens in itertools.product(shapes, (0, 7), (False, True)):
        if proj_size and kind != "lstm":
            continue
        call = Call(kind, 12, N, I, H, num_layers=L, dtype=dtype, proj_size=proj_size, tokens=tokens)
        module = make(kind, *call.sizes, dtype=dtype, backend=backend, **call.options)
        x, state = call.arrays()["x"], as_state(call.arrays()["state"])
        want, want_state = module(x, state)
        stream = module.stream(N)
        stream.state = state
        out = np.full((4, *want.shape[1:]), np.nan, dtype)
        got = [stream.steps(x[:5]), stream.step(x[5])[None], stream.steps(x[6:6]), stream.steps(x[6:10], out), None]
        assert got[3] is out
        got[4] = stream.steps(x[10:])
        pairs = [("y", np.concatenate(got), want)]
        pairs += [*zip(("h_n", "c_n"), as_tuple(stream.state), as_tuple(want_state))]  # noqa: B905  (lstm alone has c)
        for name, one, other in pairs:
            if tolerance is None:
                assert_same_bits(name, one, other)
            else:
                assert_close(name, one, other, tolerance)


@backends
def test_blocks_of_steps_without_a_batch_and_in_place(backend: str) -> None:
    module = make("gru", 20, 20, 2, backend=backend)
    x = np.random.default_rng(0).standard_normal((7, 20)).astype(np.float32)
    one, other = module.stream(None), module.stream(None)
    want = streamed(one, x)
    assert other.steps(x, out=x) is x
    tokens = np.array([3, 19, 0])
    pairs = [(x, want), (other.steps(tokens), np.stack([one.step(token) for token in tokens]))]
    for got, stepped in pairs:
        if backend == "numpy":
            assert_close("y", got, stepped, 1e-5)
        else:
            assert_same_bits("y", got, stepped)


@backends
def test_blocks_that_are_none_leave_the_state(backend: str) -> None:
    stream = make("lstm", 3, 4, 1, backend=backend).stream(2)
    stream.step(np.ones((2, 3), np.float32))
    before = stream.state
    refused = [
        (np.float32(1), None, r"x has shape \(\); expected steps, \(T, N, I\)"),
        (np.ones((5, 3), np.float32), None, r"x has shape \(5, 3\); expected \(T, N, I\) = \(5, 2, 3\)"),
        (np.ones((5, 2, 4), np.float32), None, r"x has shape \(5, 2, 4\); expected \(T, N, I\)"),
        (np.ones(5, int), None, r"x has shape \(5,\); expected \(T, N,\) = \(5, 2\) for token indices"),
        (np.ones((5, 2, 3), np.float32), np.ones((4, 2, 4), np.float32), r"out has shape .*\(T, N, P\) = \(5, 2, 4\)"),
    ]
    for x, out, message in refused:
        with pytest.raises(ValueError, match=message):
            stream.steps(x, out)
    for one, other in zip(stream.state, before, strict=True):
        assert_same_bits("state", one, other)


@backends
@kinds
def test_without_a_batch(backend: str, kind: str) -> None:
    module = make(kind, 3, 17, 2, backend=backend)
    x = np.random.default_rng(0).standard_normal((6, 3)).astype(np.float32)
    stream, batched = module.stream(None), module.stream()
    for x_t in x:
        y = stream.step(x_t)
        assert y.shape == (17,)
        assert_same_bits("y", y[None], batched.step(x_t[None]))
    for one, other in zip(as_tuple(stream.state), as_tuple(batched.state), strict=True):
        assert one.shape == (2, 17)
        assert_same_bits("state", one[:, None], other)
    tokens, out = module.stream(None), np.empty(17, np.float32)
    assert tokens.step(2, out=out) is out
    assert_close("y", out, module(np.array([2]))[0][0], 1e-6)


@backends
@kinds
def test_out_is_written_and_returned(backend: str, kind: str) -> None:
    module = make(kind, 20, 20, 2, backend=backend)
    x = np.random.default_rng(0).standard_normal((5, 4, 20)).astype(np.float32)
    plain, reusing, feeding = (module.stream(4) for _ in range(3))
    out = np.full((4, 20), np.nan, np.float32)
    kept = []
    for x_t in x:
        kept.append(plain.step(x_t))
        assert reusing.step(x_t, out) is out
        assert_same_bits("y", out, kept[-1])
        same = x_t.copy()
        assert feeding.step(same, out=same) is same
        assert_same_bits("y", same, kept[-1])
        for part in as_tuple(reusing.state):
            with pytest.raises(ValueError, match="read-only"):
                part[...] = np.nan  # a copy: what is written there would be lost
        out[...] = np.nan  # not what the state is kept in
    for one, other in itertools.pairwise(kept):
        assert not np.may_share_memory(one, other)
    again = module.stream(4)
    for x_t, y in zip(x, kept, strict=True):
        assert_same_bits("y that was returned before", y, again.step(x_t))


@backends
@kinds
def test_steps_with_out_allocate_nothing(backend: str, kind: str) -> None:
    """A backend without a stepper of its own allocates, but does not keep it."""
    stream = make(kind, 64, 64, 2, backend=backend).stream(30)
    x, out = np.ones((30, 64), np.float32), np.empty((30, 64), np.float32)
    for _ in range(3):
        stream.step(x, out)
    tracemalloc.start()
    stream.step(x, out)
    before, _ = tracemalloc.get_traced_memory()
    tracemalloc.reset_peak()
    for _ in range(100):
        stream.step(x, out)
    after, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert after - before < 5 * x.nbytes
    if hasattr(load(backend), "Stepper"):
        assert peak - before < x.nbytes


@backends
@kinds
@pytest.mark.parametrize(
    "rows", [[1, 3], np.array([False, True, False, True, False]), np.array([3, 1, 1], np.uint8), (1, 3)], ids=str
)
def test_reset_of_some_rows(backend: str, kind: str, rows: Any) -> None:
    module = make(kind, 3, 17, 2, backend=backend)
    x = np.random.default_rng(0).standard_normal((6, 5, 3)).astype(np.float32)
    stream, whole, late = (module.stream(5) for _ in range(3))
    for x_t in x[:3]:
        stream.step(x_t)
        whole.step(x_t)
    stream.reset(rows)
    for x_t in x[3:]:
        y, with_all, anew = (each.step(x_t) for each in (stream, whole, late))
        assert_same_bits("rows that were reset", y[[1, 3]], anew[[1, 3]])
        assert_same_bits("the others", y[[0, 2, 4]], with_all[[0, 2, 4]])
    before = as_tuple(stream.state)[0]
    for nothing in ([], np.zeros(5, bool)):
        stream.reset(nothing)
        assert_same_bits("state", as_tuple(stream.state)[0], before)
    for row in (-1, 5):
        with pytest.raises(ValueError, match=rf"^rows holds {row}; expected 0 <= row < batch_size = 5$"):
            stream.reset([0, row])
    assert_same_bits("state", as_tuple(stream.state)[0], before)
    stream.reset(4)
    assert as_tuple(stream.state)[0].any(axis=(0, 2)).tolist() == [True, True, True, True, False]
    stream.reset()
    assert not any(part.any() for part in as_tuple(stream.state))
    assert_same_bits("y", streamed(stream, x), streamed(module.stream(5), x))


@backends
@kinds
def test_state_goes_from_and_to_the_module(backend: str, kind: str) -> None:
    call = Call(kind, 6, 5, 3, 17, 2, proj_size=4 if kind == "lstm" else 0, dtype="float32")
    module = make(kind, *call.sizes, backend=backend, **call.options)
    arrays = call.arrays()
    state = as_state(arrays["state"])
    stream = module.stream(5)
    stream.state = state
    for given, got in zip(arrays["state"], as_tuple(stream.state), strict=True):
        assert_same_bits("state", got, given)
        assert not np.may_share_memory(got, given)
    want = streamed(stream, arrays["x"])
    _, stream.state = module(arrays["x"][:2], state)
    assert_close("y", streamed(stream, arrays["x"][2:]), want[2:], 1e-5)
    assert_close("y", module(arrays["x"], state)[0], want, 1e-5)


@backends
@kinds
def test_parameters_are_taken_by_refresh(backend: str, kind: str) -> None:
    module = make(kind, 3, 17, backend=backend)
    x = np.ones((2, 3), np.float32)
    stream, other = module.stream(2), module.stream(2)
    step, before = stream.step, module.stream(2).step(x)
    module.load_state_dict({name: value * 2 for name, value in module.state_dict().items()})
    assert_same_bits("y", step(x), before)
    state = stream.state
    stream.refresh()
    for one, kept in zip(as_tuple(stream.state), as_tuple(state), strict=True):
        assert_same_bits("state", one, kept)
    after = step(x)
    fresh = module.stream(2)
    fresh.state = state
    assert_same_bits("y", after, fresh.step(x))
    assert_same_bits("y", other.step(x), before)


@backends
@kinds
def test_stream_holds_no_parameter(backend: str, kind: str) -> None:
    """Else calls of the module could keep nothing of them."""
    module = make(kind, 3, 17, backend=backend)
    stream = module.stream(2)
    assert module._stamp() is not None
    stream.refresh()
    stream.step(np.ones((2, 3), np.float32))
    assert module._stamp() is not None


@backends
@kinds
def test_unusual_arrays_are_taken(backend: str, kind: str) -> None:
    module = make(kind, 3, 17, backend=backend)
    x = np.random.default_rng(0).standard_normal((2, 3)).astype(np.float32)
    want = module.stream(2).step(x)
    read_only = x.copy()
    read_only.flags.writeable = False
    wide = np.zeros((4, 6), np.float32)
    wide[::2, ::2] = x
    misaligned = np.frombuffer(b"\xff" + x.tobytes(), np.float32, 6, 1).reshape(2, 3)
    for given in (read_only, wide[::2, ::2], np.asfortranarray(x), x.astype(">f4"), memoryview(x), misaligned):
        assert_same_bits("y", module.stream(2).step(given), want)
    tokens = module.stream(2).step(np.array([0, 2]))
    for given in ([0, 2], np.array([0, 2], np.uint8), np.array([0, 9, 2, 9], ">i2")[::2]):
        assert_same_bits("y", module.stream(2).step(given), tokens)


def test_dropout_is_off() -> None:
    x = np.ones((4, 2, 3), np.float32)
    plain, dropping = (fastrnn.GRU(3, 8, 2, dropout=p, seed=0).stream(2) for p in (0.0, 0.9))
    assert_same_bits("y", streamed(dropping, x), streamed(plain, x))
