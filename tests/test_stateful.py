"""Modules used in any order: calls, tapes, writes, copies, streams, forks, against plain copies of their parameters.

Whatever a module keeps between calls (packed weights, zero states, tapes, streams), its numbers are those of a fresh
module in float64 on the reference, made of arrays that only this test can write to.
"""

from __future__ import annotations

import copy
import os
import pickle
import signal
import warnings
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from calls import Call, as_state, as_tuple, calls, module_of, named_states
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from tolerances import Outcome, assert_close, tolerance

import fastrnn
from fastrnn.backends import load
from fastrnn.parameters import Array

SEEDS = st.integers(0, 99)


@dataclass
class Used:
    """A module, and what its parameters are: one dictionary for all modules that share the arrays."""

    module: Any
    values: dict[str, Array]
    call: Call  # that fixes kind, sizes and options


@dataclass
class Taped:
    """A tape, and what its backward must give."""

    used: Used
    tape: Any
    dy: Array
    dstate: tuple[Array, ...]
    want: Outcome


@dataclass
class Streamed:
    """A stream, the parameters that it took, and its state."""

    used: Used
    stream: Any
    values: dict[str, Array]
    states: tuple[Array, ...]


def given(call: Call, seed: int) -> dict[str, Any]:
    """The arguments of a call: like `Call.given`, drawn anew."""
    rng = np.random.default_rng(seed)

    def drawn(array: Array) -> Array:
        return rng.permutation(array.ravel()).reshape(array.shape)

    arrays = call.arrays()
    arrays |= {name: drawn(arrays[name]) for name in ("x", "dy")}
    arrays |= {name: tuple(map(drawn, arrays[name])) for name in ("state", "dstate")}
    return arrays | {"lengths": call.lengths} | ({} if call.with_state else {"state": None})


def reference(call: Call, values: dict[str, Array]) -> Any:
    """A fresh module of these parameters in float64 on the reference."""
    module = module_of(replace(call, dtype="float64"), backend="numpy")
    module.load_state_dict(values)
    return module


def in_double(value: Any) -> Any:
    """Real arrays in float64, in tuples too."""
    if isinstance(value, tuple):
        return tuple(map(in_double, value))
    return value.astype("float64") if isinstance(value, np.ndarray) and value.dtype.kind == "f" else value


def expected(call: Call, values: dict[str, Array], arrays: dict[str, Any]) -> Outcome:
    """What forward and backward must give."""
    module, its = reference(call, values), {name: in_double(value) for name, value in arrays.items()}
    state = None if its["state"] is None else as_state(its["state"])
    y, state_n, tape = module.forward(its["x"], state, lengths=its["lengths"])
    dx, dstate_0, grads = module.backward(tape, its["dy"], as_state(its["dstate"]))
    outcome = {"y": y} | ({} if dx is None else {"dx": dx}) | {f"d{name}": g for name, g in grads.items()}
    return outcome | named_states(as_tuple(state_n), as_tuple(dstate_0))


def assert_all_close(got: Outcome, want: Outcome, call: Call) -> None:
    terms = call.num_layers * call.T * (call.I + 6 * call.H + call.N + 2)
    for name, array in got.items():
        assert_close(name, array, want[name], tolerance(want[name], call.dtype, terms))


class Modules(RuleBasedStateMachine):
    """The rules; subclasses say on what backends."""

    backends: tuple[str, ...]
    forks = False
    looked_at = 0

    def __init__(self) -> None:
        super().__init__()
        self.all: list[Used] = []
        self.tapes: list[Taped] = []
        self.spent: list[Taped] = []
        self.streams: list[Streamed] = []
        self.held: list[tuple[Used, str, Array]] = []  # references to parameters, whole or in part
        self.before = load("cython")._override(FLOPS_WORTH_A_THREAD=0) if "cython" in self.backends else {}

    def teardown(self) -> None:
        if self.before:
            load("cython")._override(**self.before)
        fastrnn.use_backend(None)
        fastrnn.set_num_threads(None)

    @initialize(call=calls(T=4, N=3, I=5, H=9, batched=True, batch_first=False))
    def make(self, call: Call) -> None:
        call = replace(call, num_layers=min(call.num_layers, 2))
        module = module_of(call)
        self.all.append(Used(module, module.state_dict(), call))

    # ---- what a caller may do with a module

    def pick(self, some: list[Any], at: int) -> Any:
        return some[at % len(some)]

    @rule(at=SEEDS, seed=SEEDS, N=st.integers(1, 4), with_state=st.booleans())
    def infer(self, at: int, seed: int, N: int, with_state: bool) -> None:
        used = self.pick(self.all, at)
        call = replace(used.call, N=N, with_state=with_state)
        arrays = given(call, seed)
        y, state_n = used.module(
            arrays["x"], None if arrays["state"] is None else as_state(arrays["state"]), lengths=arrays["lengths"]
        )
        got = {"y": y} | named_states(as_tuple(state_n), ())
        assert_all_close(got, expected(call, used.values, arrays), call)

    @rule(at=SEEDS, seed=SEEDS, N=st.integers(1, 4), T=st.integers(1, 5), every=st.sampled_from([None, 1, 2]))
    def forward(self, at: int, seed: int, N: int, T: int, every: int | None) -> None:
        used = self.pick(self.all, at)
        call = replace(used.call, N=N, T=T)
        arrays = given(call, seed)
        state = None if arrays["state"] is None else as_state(tuple(s.copy() for s in arrays["state"]))
        y, state_n, tape = used.module.forward(arrays["x"], state, lengths=arrays["lengths"], checkpoint_every=every)
        want = expected(call, used.values, arrays)
        assert_all_close({"y": y} | named_states(as_tuple(state_n), ()), want, call)
        for array in as_tuple(state) if state is not None else ():
            array.fill(np.nan)  # the tape has copies of it
        self.tapes.append(Taped(replace(used, call=call), tape, arrays["dy"], arrays["dstate"], want))

    @precondition(lambda self: self.tapes)
    @rule(at=SEEDS)
    def backward(self, at: int) -> None:
        taped = self.tapes.pop(at % len(self.tapes))
        module = taped.used.module
        dx, dstate_0, grads = module.backward(taped.tape, taped.dy, as_state(taped.dstate))
        got = {} if dx is None else {"dx": dx}
        got |= {f"d{name}": g for name, g in grads.items()} | named_states((), as_tuple(dstate_0))
        assert_all_close(got, taped.want, taped.used.call)
        self.spent.append(taped)

    @precondition(lambda self: self.spent)
    @rule(at=SEEDS)
    def backward_again(self, at: int) -> None:
        taped = self.pick(self.spent, at)
        with pytest.raises(ValueError, match="tape was used before"):
            taped.used.module.backward(taped.tape, taped.dy, as_state(taped.dstate))

    # ---- parameters

    def changed(self, used: Used, name: str, value: Array) -> None:
        """Note a write; tapes of these parameters are void, as `forward` says."""
        used.values[name] = value.copy()
        self.tapes = [taped for taped in self.tapes if taped.used.values is not used.values]

    def new_value(self, used: Used, name: str, seed: int) -> Array:
        return np.random.default_rng(seed).uniform(-0.5, 0.5, used.values[name].shape).astype(used.call.dtype)

    @rule(at=SEEDS, which=SEEDS, seed=SEEDS)
    def write(self, at: int, which: int, seed: int) -> None:
        used = self.pick(self.all, at)
        name = self.pick(list(used.values), which)
        value = self.new_value(used, name, seed)
        used.module.parameters[name][...] = value
        self.changed(used, name, value)

    @rule(at=SEEDS, which=SEEDS, part=st.booleans())
    def hold(self, at: int, which: int, part: bool) -> None:
        used = self.pick(self.all, at)
        name = self.pick(list(used.values), which)
        array = used.module.parameters[name]
        self.held.append((used, name, array[1:] if part else array))

    @precondition(lambda self: self.held)
    @rule(at=SEEDS, seed=SEEDS)
    def write_what_is_held(self, at: int, seed: int) -> None:
        used, name, array = self.pick(self.held, at)
        value, new = used.values[name].copy(), self.new_value(used, name, seed)
        held = slice(len(new) - len(array), None)  # perhaps of no rows
        array[...] = new[held]
        value[held] = new[held]
        self.changed(used, name, value)

    @precondition(lambda self: self.held)
    @rule(at=SEEDS)
    def let_go(self, at: int) -> None:
        self.held.pop(at % len(self.held))

    @rule(at=SEEDS, seed=SEEDS)
    def load_values(self, at: int, seed: int) -> None:
        used = self.pick(self.all, at)
        state_dict = {name: self.new_value(used, name, seed) for name in used.values}
        used.module.load_state_dict(state_dict)
        for name, value in state_dict.items():
            self.changed(used, name, value)
            value.fill(np.nan)  # loaded means copied

    @rule(at=SEEDS)
    def save_values(self, at: int) -> None:
        used = self.pick(self.all, at)
        for name, value in used.module.state_dict().items():
            np.testing.assert_array_equal(value, used.values[name])
            value.fill(np.nan)  # saved means copied

    # ---- copies

    @precondition(lambda self: len(self.all) < 4)
    @rule(at=SEEDS)
    def copy(self, at: int) -> None:
        used = self.pick(self.all, at)
        self.all.append(replace(used, module=copy.copy(used.module)))

    @precondition(lambda self: len(self.all) < 4)
    @rule(at=SEEDS, pickled=st.booleans())
    def deepcopy(self, at: int, pickled: bool) -> None:
        used = self.pick(self.all, at)
        module = pickle.loads(pickle.dumps(used.module)) if pickled else copy.deepcopy(used.module)
        self.all.append(replace(used, module=module, values=dict(used.values)))

    # ---- streams

    @precondition(lambda self: not self.all[0].call.bidirectional)
    @rule(at=SEEDS, batch_size=st.integers(1, 4))
    def open_stream(self, at: int, batch_size: int) -> None:
        used = self.pick(self.all, at)
        states = tuple(np.zeros_like(s) for s in replace(used.call, N=batch_size).arrays()["state"])
        self.streams.append(Streamed(used, used.module.stream(batch_size), dict(used.values), states))

    @precondition(lambda self: self.streams)
    @rule(at=SEEDS, seed=SEEDS)
    def step(self, at: int, seed: int) -> None:
        streamed = self.pick(self.streams, at)
        call = replace(streamed.used.call, T=1, N=streamed.stream.batch_size, ragged=False)
        x = given(call, seed)["x"]
        y = streamed.stream.step(x[0])
        module = reference(call, streamed.values)
        want, state_n = module(in_double(x), as_state(in_double(streamed.states)))
        got = {"y": y[None]} | named_states(as_tuple(streamed.stream.state), ())
        assert_all_close(got, {"y": want} | named_states(as_tuple(state_n), ()), call)
        streamed.states = tuple(s.astype(call.dtype) for s in as_tuple(streamed.stream.state))

    @precondition(lambda self: self.streams)
    @rule(at=SEEDS, row=SEEDS)
    def reset(self, at: int, row: int) -> None:
        streamed = self.pick(self.streams, at)
        row %= streamed.stream.batch_size
        streamed.stream.reset([row])
        for state in streamed.states:
            state[:, row] = 0

    @precondition(lambda self: self.streams)
    @rule(at=SEEDS, seed=SEEDS)
    def set_state(self, at: int, seed: int) -> None:
        streamed = self.pick(self.streams, at)
        call = replace(streamed.used.call, N=streamed.stream.batch_size, with_state=True)
        streamed.states = given(call, seed)["state"]
        streamed.stream.state = as_state(streamed.states)

    @precondition(lambda self: self.streams)
    @rule(at=SEEDS)
    def refresh(self, at: int) -> None:
        streamed = self.pick(self.streams, at)
        streamed.stream.refresh()
        streamed.values = dict(streamed.used.values)

    @precondition(lambda self: self.streams)
    @rule(at=SEEDS)
    def close_stream(self, at: int) -> None:
        self.streams.pop(at % len(self.streams))

    # ---- what calls run on

    @rule(at=SEEDS)
    def switch_backend(self, at: int) -> None:
        fastrnn.use_backend(self.pick(list(self.backends), at))

    @rule(num_threads=st.integers(1, 3))
    def switch_threads(self, num_threads: int) -> None:
        fastrnn.set_num_threads(num_threads)

    @precondition(lambda self: self.forks)
    @rule(at=SEEDS, seed=SEEDS)
    def fork(self, at: int, seed: int) -> None:
        """A child has all of it; on the C kernels, since NumPy's BLAS may hang there."""
        used = self.pick(self.all, at)
        x = given(replace(used.call, ragged=False), seed)["x"]
        with fastrnn.use_backend("cython"):
            want = used.module(x)[0].tobytes()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # of forks of several threads
                child = os.fork()
            if child == 0:
                signal.alarm(20)  # a child that hangs dies of it
                os._exit(used.module(x)[0].tobytes() != want)
        assert os.waitpid(child, 0)[1] == 0

    @invariant()
    def parameters_are_as_written(self) -> None:
        for used in self.all:
            type(self).looked_at += 1
            for name, value in used.module.state_dict().items():
                np.testing.assert_array_equal(value, used.values[name])


class OnTheCKernels(Modules):
    backends = ("cython", "numpy")


class OnAllBackends(Modules):
    backends = ("cython", "numba", "numpy")


class InForksToo(OnAllBackends):
    forks = hasattr(os, "fork")


@pytest.mark.parametrize("backend", ["cython"], indirect=True)
def test_a_part_that_is_held_may_have_no_rows(backend: str) -> None:
    """The machine's own account of it: weight_hr has one row where proj_size is 1."""
    machine = OnTheCKernels()
    machine.make(call=Call(kind="lstm", T=4, N=3, I=5, H=9, proj_size=1))
    held = [name for name in machine.all[0].values if "weight_hr" in name]
    for which in range(len(machine.all[0].values)):
        machine.hold(at=0, which=which, part=True)
        machine.write_what_is_held(at=which, seed=23)
        machine.parameters_are_as_written()
    assert [array.size for _, name, array in machine.held if name in held] == [0]
    machine.teardown()


def run_machine(machine: type[Modules], examples: int, steps: int, **options: Any) -> int:
    """Run a machine, whose rules assert; return how many modules were seen to be as they should."""
    machine.looked_at = 0
    health = [HealthCheck.too_slow, HealthCheck.data_too_large]
    chosen = settings(max_examples=examples, stateful_step_count=steps, deadline=None, suppress_health_check=health)
    run_state_machine_as_test(machine, settings=settings(chosen, **options))
    return machine.looked_at


@pytest.mark.parametrize("backend", ["cython"], indirect=True)
def test_any_order(backend: str) -> None:
    assert run_machine(OnTheCKernels, 80, 40, derandomize=True) > 80


@pytest.mark.parametrize("backend", ["numba"], indirect=True)
def test_any_order_on_all_backends(backend: str) -> None:
    assert run_machine(OnAllBackends, 20, 30, derandomize=True) > 20


@pytest.mark.long
@pytest.mark.parametrize("backend", ["cython"], indirect=True)
def test_any_order_for_long(backend: str) -> None:
    assert run_machine(InForksToo, 1000, 60, print_blob=True) > 1000
