"""RNN, LSTM and GRU against torch.nn (S21; against Keras in test_keras.py), and what a module promises besides."""

from __future__ import annotations

import copy
import ctypes
import itertools
import pickle
import sys
import weakref
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from calls import (
    Call,
    as_state,
    as_tuple,
    backends,
    calls,
    kinds,
    make,
    make_torch,
    module_of,
    named_states,
    train,
)
from hypothesis import given, settings
from tolerances import Outcome, assert_close, assert_same_bits, tolerance

import fastrnn
from fastrnn.parameters import Array


def run(call: Call, checkpoint_every: int | None = None, **options: Any) -> Outcome:
    """The call on our module."""
    return train(module_of(call, **options), call.given(), checkpoint_every)


def run_torch(torch: ModuleType, call: Call) -> Outcome:
    """The call on torch.nn, in float64 whatever the call's dtype."""
    module = make_torch(torch, call.kind, *call.sizes, **call.options, dtype=torch.float64)
    parameters = call.parameters({name: tuple(p.shape) for name, p in module.state_dict().items()})
    module.load_state_dict({name: torch.from_numpy(value) for name, value in parameters.items()})
    arrays = call.arrays()

    def tensor(array: Array) -> Any:
        return torch.tensor(array, dtype=torch.float64, requires_grad=True)

    x = tensor(np.eye(call.I)[arrays["x"]] if call.tokens else arrays["x"])
    state = tuple(tensor(s if call.with_state else np.zeros_like(s)) for s in arrays["state"])
    if call.ragged:
        y, state_n = run_rows(torch, module, x, state, call.lengths, call.batch_first)
    else:
        y, state_n = module(x, as_state(state))
    incoming = [torch.tensor(array, dtype=torch.float64) for array in (arrays["dy"], *arrays["dstate"])]
    torch.autograd.backward([y, *as_tuple(state_n)], incoming)
    outcome = {"y": y} | ({} if call.tokens else {"dx": x.grad})
    outcome |= {f"d{name}": p.grad for name, p in module.named_parameters()}
    outcome |= named_states(as_tuple(state_n), tuple(s.grad for s in state))
    return {name: value.detach().numpy() for name, value in outcome.items()}


def run_rows(
    torch: ModuleType, module: Any, x: Any, state: tuple[Any, ...], lengths: Array, batch_first: bool
) -> tuple[Any, tuple[Any, ...]]:
    """Each sequence of a batch on its own: torch packs none of length 0."""
    time = 1 if batch_first else 0
    rows, states_n = [], []
    for n, length in enumerate(lengths.tolist()):
        whole = x.narrow(1 - time, n, 1)
        state_n = tuple(s[:, n : n + 1] for s in state)
        y = x.new_zeros([*whole.shape[:2], state[0].shape[-1] * (2 if module.bidirectional else 1)])
        if length:
            real, state_n = module(whole.narrow(time, 0, length), as_state(state_n))
            y = torch.cat([real, y.narrow(time, 0, whole.shape[time] - length)], time)
        rows.append(y)
        states_n.append(as_tuple(state_n))
    return torch.cat(rows, 1 - time), tuple(torch.cat(states, 1) for states in zip(*states_n, strict=True))


def assert_equals_torch(torch: ModuleType, call: Call, **options: Any) -> None:
    got, want = run(call, **options), run_torch(torch, call)
    assert got.keys() == want.keys()
    # Every layer adds the longest sums of `tolerances`, with H inputs above the first.
    gates = {"lstm": 4, "gru": 3}.get(call.kind, 1)
    length = call.num_layers * call.T * (max(call.I, call.H) + call.H + 2 + gates * call.H + call.N)
    for name, value in want.items():
        assert got[name].dtype == call.dtype, f"{name} has dtype {got[name].dtype}"
        assert_close(name, got[name], value, tolerance(value, call.dtype, length))


@backends
@kinds
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("num_layers", [1, 2, 3])
def test_equals_torch(torch: ModuleType, backend: str, kind: str, dtype: str, num_layers: int) -> None:
    for bias, batch_first, batched in itertools.product([True, False], repeat=3):
        call = Call(kind, 6, 5, 4, 9, num_layers, bias=bias, batch_first=batch_first, batched=batched, dtype=dtype)
        assert_equals_torch(torch, call, backend=backend)


@backends
@kinds
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("num_layers", [1, 2])
@pytest.mark.parametrize("ragged", [False, True], ids=["dense", "ragged"])
def test_directions_lengths_and_projections_equal_torch(
    torch: ModuleType, backend: str, kind: str, dtype: str, num_layers: int, ragged: bool
) -> None:
    for bidirectional, projected in itertools.product([True, False], [True, False] if kind == "lstm" else [False]):
        options = {"bidirectional": bidirectional, "proj_size": 5 if projected else 0, "ragged": ragged}
        call = Call(kind, 6, 5, 4, 9, num_layers, dtype=dtype, **options)
        assert_equals_torch(torch, call, backend=backend)


@backends
@kinds
@pytest.mark.parametrize("tokens", [False, True], ids=["dense", "tokens"])
@pytest.mark.parametrize("options", [{}, {"bidirectional": True}, {"ragged": True, "num_layers": 2}], ids=str)
def test_checkpoints_change_no_bit(backend: str, kind: str, tokens: bool, options: dict[str, Any]) -> None:
    call = Call(kind, 19, 40, 3, 17, tokens=tokens, dtype="float32", **options)
    want = run(call, backend=backend)
    for every in (1, 5, 100):
        for name, value in run(call, every, backend=backend).items():
            assert_same_bits(f"{name}, checkpoint every {every}", value, want[name])


# Only the first 100 of all option combinations, the same ones in every run.
@settings(max_examples=100, derandomize=True, deadline=None)
@given(call=calls())
def test_any_options_equal_torch(torch: ModuleType, call: Call) -> None:
    assert_equals_torch(torch, call)


@kinds
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no_bias"])
def test_state_dict_is_torchs(torch: ModuleType, kind: str, bias: bool) -> None:
    ours, theirs = make(kind, 4, 6, 3, bias=bias), make_torch(torch, kind, 4, 6, 3, bias=bias)
    assert [(n, p.shape) for n, p in ours.parameters.items()] == [(n, p.shape) for n, p in theirs.state_dict().items()]
    ours.load_state_dict(theirs.state_dict())
    for name, tensor in theirs.state_dict().items():
        assert_same_bits(name, ours.parameters[name], tensor.numpy())
    other = make_torch(torch, kind, 4, 6, 3, bias=bias)
    other.load_state_dict({name: torch.from_numpy(value) for name, value in ours.state_dict().items()})
    for name, tensor in other.state_dict().items():
        assert_same_bits(name, tensor.numpy(), ours.parameters[name])


@kinds
def test_state_dict_is_cast_to_the_modules_dtype(kind: str) -> None:
    wide, narrow = make(kind, 3, 4, dtype="float64", seed=1), make(kind, 3, 4, dtype="float32", seed=2)
    narrow.load_state_dict(wide.state_dict())
    for name, value in narrow.parameters.items():
        assert_same_bits(name, value, wide.parameters[name].astype(np.float32))


def test_parameters_are_live_and_state_dict_is_a_copy() -> None:
    module = make("lstm", 3, 4)
    x = np.ones((2, 1, 3), np.float32)
    before, _ = module(x)
    module.state_dict()["weight_ih_l0"][...] = 0
    assert_same_bits("y", module(x)[0], before)
    held = module.parameters["weight_ih_l0"]
    module.load_state_dict({name: np.zeros_like(value) for name, value in module.parameters.items()})
    assert not held.any(), "load_state_dict replaced an array instead of filling it"
    module.parameters["bias_ih_l0"][...] = 1
    assert module(x)[0].min() > 0


def add_to_a_byte_view(module: Any) -> None:
    with memoryview(module.parameters["bias_hh_l0"]) as view:
        view[0] += 1.0


WRITES: dict[str, Callable[[Any], Any]] = {
    "in_place": lambda module: module.parameters["weight_hh_l1"].__imul__(1.5),
    "every_parameter": lambda module: [p.__isub__(0.1) for p in module.parameters.values()],
    "view": lambda module: module.parameters["weight_ih_l0"].T[1:2, ::2].__iadd__(1),
    "memoryview": add_to_a_byte_view,
    "load_state_dict": lambda module: module.load_state_dict(
        {name: value * 1.5 for name, value in module.state_dict().items()}
    ),
}


@backends
@kinds
@pytest.mark.parametrize("write", list(WRITES))
def test_call_sees_every_write_to_a_parameter(backend: str, kind: str, write: str) -> None:
    """Whatever a call keeps of the weights for the next one, it never uses what was overwritten since."""
    module, fresh = (make(kind, 3, 20, 2, backend=backend) for _ in range(2))
    x = np.random.default_rng(0).standard_normal((2, 3, 3)).astype(np.float32)
    before = [module(x)[0] for _ in range(3)][-1]
    for _ in range(2):
        WRITES[write](module)
        after = module(x)[0]
        fresh.load_state_dict(module.state_dict())
        assert_same_bits("y", after, fresh(x)[0])
        assert (after != before).any()
        before = after


def buffers(module: Any) -> Array:
    """An array over the memory that a pickler hands out."""
    handed: list[pickle.PickleBuffer] = []
    pickle.dumps(module, 5, buffer_callback=handed.append)
    return next(a for b in handed if (a := np.frombuffer(b.raw(), np.float32)).size == 4 * 20 * 20)


def weight(module: Any) -> Array:
    return module.parameters["weight_hh_l0"]


# What somebody may keep of a parameter, and the array that it leads to.
KEPT: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    "array": (weight, lambda kept: kept),
    "view": (lambda module: weight(module)[5:, :1], lambda kept: kept),
    "view_of_view": (lambda module: weight(module).T[1:].reshape(-1)[::2], lambda kept: kept),
    "memoryview": (lambda module: memoryview(weight(module)), np.asarray),
    "dlpack": (lambda module: np.from_dlpack(weight(module)), lambda kept: memory_of(kept)),
    "ctypes": (lambda module: np.ctypeslib.as_ctypes(weight(module)), np.ctypeslib.as_array),
    "iterator": (lambda module: weight(module).flat, lambda kept: kept),
    "weak_reference": (lambda module: weakref.ref(weight(module)), lambda kept: kept()),
    "pickled_buffer": (buffers, lambda kept: kept),
    "shallow_copy": (copy.copy, weight),
    "memo": (lambda module: copy.deepcopy(module, memo := {}) and memo, lambda kept: memorised(kept)),
}


def memory_of(kept: Array) -> Array:
    """What an array shows, to be written: NumPy before 2.1 hands out what comes by DLPack as read-only."""
    return np.frombuffer((ctypes.c_char * kept.nbytes).from_address(kept.ctypes.data), kept.dtype)


def memorised(memo: dict[int, Any]) -> Array:
    """A module's parameter from the memo that deepcopy keeps the originals alive in."""
    originals = memo[id(memo)]
    return next(a for a in originals if isinstance(a, np.ndarray) and a.shape == (80, 20))


def assert_up_to_date(module: Any, x: Array) -> None:
    fresh = make("lstm", 3, 20, backend=module.backend)
    fresh.load_state_dict(module.state_dict())
    assert_same_bits("y", module(x)[0], fresh(x)[0])


@backends
@pytest.mark.parametrize("kept", list(KEPT))
def test_call_sees_writes_through_what_was_kept(backend: str, kept: str) -> None:
    module = make("lstm", 3, 20, backend=backend)
    x = np.ones((2, 3, 3), np.float32)
    keep, lead = KEPT[kept]
    module(x)
    held = keep(module)
    for value in (1.0, 2.0, 3.0):
        for _ in range(2):
            module(x)
        lead(held)[...] = value
        assert_up_to_date(module, x)
    module(x)
    lead(held)[...] = 4.0
    del held
    assert_up_to_date(module, x)


@backends
def test_call_sees_writes_through_tensors(backend: str, torch: ModuleType) -> None:
    module = make("lstm", 3, 20, backend=backend)
    x = np.ones((2, 3, 3), np.float32)
    for share in (torch.from_numpy, torch.from_dlpack):
        tensor = share(weight(module))[2:, ::3]
        for _ in range(2):
            module(x)
            tensor += 0.5
            assert_up_to_date(module, x)
        module(x)
        tensor.zero_()
        del tensor
        assert_up_to_date(module, x)


def test_call_sees_a_write_by_a_thread_that_comes_between() -> None:
    """Another thread takes a parameter while a call looks whether anybody holds one, and writes after that call."""
    module = make("lstm", 3, 20)
    x = np.ones((2, 3, 3), np.float32)
    held: list[Array] = []

    class Interrupted(type(module._parameters)):
        """Hands a parameter out just before one of the two things that a call looks at."""

        at = ""

        def come_between(self, place: str) -> None:
            if place == self.at:
                self.at = ""
                held.append(weight(module))

        def values(self) -> Any:
            self.come_between("before the count")
            return super().values()

        @property
        def handed_out(self) -> int:
            self.come_between("before the number")
            return self.number

        @handed_out.setter
        def handed_out(self, number: int) -> None:
            self.number = number

    store = Interrupted(module._parameters)
    store.handed_out = 0
    module._parameters = store
    module.__setstate__({})
    for at in ("before the count", "before the number"):
        module(x)
        store.at = at
        module(x)
        assert held, at
        held.pop()[...] += 0.5
        assert_up_to_date(module, x)


def test_calls_by_another_thread_do_not_keep_a_half_loaded_state() -> None:
    module = make("lstm", 3, 20)
    x = np.ones((2, 3, 3), np.float32)
    state = {name: value + 0.5 for name, value in module.state_dict().items()}

    def call_between_lines(frame: Any, event: str, argument: Any) -> Any:
        if frame.f_code is not fastrnn.LSTM.load_state_dict.__code__:
            return None
        module(x)
        return call_between_lines

    before = sys.gettrace()
    sys.settrace(call_between_lines)
    module.load_state_dict(state)
    sys.settrace(before)
    assert_up_to_date(module, x)


def test_weights_packed_late_do_not_replace_newer_ones() -> None:
    """A thread that is overtaken by a write and another thread's call leaves nothing stale."""
    module = make("gru", 3, 20)
    ((layer,),) = module._weights
    backend = ModuleType("slow_to_pack")

    def pack(cell: Any, weights: Any, *, num_threads: int) -> str:
        if stamps:
            layer.packed(backend, cell, stamps.pop(), num_threads)
            return "stale"
        return "fresh"

    backend.pack = pack
    stamps = [2]
    assert layer.packed(backend, module._cell, 1, 1)[0] == "stale"
    assert layer.packed(backend, module._cell, 2, 1)[0] == "fresh"


class TestFrozen:
    """Whoever holds parameters, a frozen module keeps its values, and what it packed of them."""

    @backends
    @kinds
    def test_it_has_the_same_bits_and_trains_no_more(self, backend: str, kind: str) -> None:
        module = make(kind, 3, 20, 2, backend=backend)
        x = np.random.default_rng(0).standard_normal((2, 3, 3)).astype(np.float32)
        y, _, tape = module.forward(x)
        _, _, grads = module.backward(tape, np.ones_like(y))
        held, view = module.parameters, module.parameters["weight_hh_l0"][1:]
        assert module.freeze() is module
        assert module.freeze() is module
        with pytest.raises(ValueError, match="read-only"):
            held["weight_hh_l0"] += 1
        with pytest.raises(ValueError, match="read-only"):
            module.parameters["weight_hh_l0"] += 1
        with pytest.raises(ValueError, match="cannot set WRITEABLE"):
            module.parameters["weight_hh_l0"].flags.writeable = True
        view += 1
        assert_same_bits("y", module(x)[0], y)
        again, _, tape = module.forward(x)
        assert_same_bits("y", again, y)
        for name, grad in module.backward(tape, np.ones_like(y))[2].items():
            assert_same_bits(name, grad, grads[name])

    @pytest.mark.parametrize("write", ["load_state_dict", "parameters"])
    def test_what_writes_says_what_to_do(self, write: str) -> None:
        module = make("lstm", 3, 4).freeze()
        state = {name: value + 1 for name, value in module.state_dict().items()}
        of = "parameters" if write == "parameters" else "state_dict"
        with pytest.raises(ValueError, match=rf"^{of}\['weight_ih_l0'\] is for .* read-only.*copy.deepcopy"):
            module.load_state_dict(state) if write == "load_state_dict" else module.parameters.update(state)
        assert all((value != state[name]).all() for name, value in module.state_dict().items())

    @pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m, 5))])
    def test_a_copy_trains_again(self, duplicate: Callable[[Any], Any]) -> None:
        module = make("gru", 3, 4).freeze()
        x = np.ones((2, 3, 3), np.float32)
        y, other = module(x)[0], duplicate(module)
        assert_same_bits("y", other(x)[0], y)
        other.parameters["weight_ih_l0"] *= 2
        assert (other(x)[0] != y).any()
        assert_same_bits("y", module(x)[0], y)

    def test_a_pickler_is_given_nothing_to_write_to(self) -> None:
        handed: list[pickle.PickleBuffer] = []
        pickle.dumps(make("lstm", 3, 4).freeze(), 5, buffer_callback=handed.append)
        assert [buffer.raw().readonly for buffer in handed] == [True] * 4

    def test_it_keeps_what_it_packed_while_parameters_are_held(self) -> None:
        module = make("lstm", 3, 20)
        held = module.parameters
        assert module._stamp() is None
        module.freeze()
        assert module._stamp() is not None
        assert module._stamp() == module._stamp()
        assert held["weight_ih_l0"] is not module.parameters["weight_ih_l0"]

    def test_all_layers_of_a_model_are(self) -> None:
        from fastrnn.training import Last, Linear, Sequential

        model = Sequential(Last(make("gru", 3, 4)), Linear(4, 2, seed=0))
        assert model.freeze() is model
        assert not any(p.flags.writeable for p in model.parameters.values())


@backends
@kinds
@pytest.mark.parametrize("num_layers", [1, 2])
@pytest.mark.parametrize("T", [0, 1, 3])
def test_results_own_their_memory(backend: str, kind: str, num_layers: int, T: int) -> None:
    call = Call(kind, T, 2, 3, 5, num_layers)
    module = make(kind, *call.sizes, dtype="float64", backend=backend)
    arrays = call.arrays()
    for _ in range(2):
        y, state_n = module(arrays["x"], as_state(arrays["state"]))
        results = [y, *as_tuple(state_n)]
        for one, other in itertools.combinations([*results, arrays["x"], *arrays["state"]], 2):
            assert not np.may_share_memory(one, other)
        for result in results:
            result[...] = np.nan  # also not kept for the next call


@backends
@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_compute_with_their_own_parameters(backend: str, duplicate: Callable[[Any], Any]) -> None:
    module = make("gru", 3, 20, backend=backend)
    x = np.ones((2, 3, 3), np.float32)
    y = module(x)[0]
    other = duplicate(module)
    assert_same_bits("y", other(x)[0], y)
    other.load_state_dict({name: value * 2 for name, value in other.state_dict().items()})
    for each in (module, other):
        fresh = make("gru", 3, 20, backend=backend)
        fresh.load_state_dict(each.state_dict())
        assert_same_bits("y", each(x)[0], fresh(x)[0])


@kinds
def test_initial_parameters(kind: str) -> None:
    H = 64
    module = make(kind, 32, H, 2, seed=3)
    bound = 1 / H**0.5
    for name, value in module.parameters.items():
        assert value.dtype == np.float32
        assert 0.9 * bound < np.abs(value).max() <= np.float32(bound), name
        assert abs(value.mean()) < 4 * bound / (3 * value.size) ** 0.5, name  # four standard deviations of the mean
    same, other = make(kind, 32, H, 2, seed=3), make(kind, 32, H, 2, seed=4)
    for name, value in module.parameters.items():
        assert_same_bits(name, same.parameters[name], value)
        assert (other.parameters[name] != value).any()
    generator = np.random.default_rng(3)
    first, second = make(kind, 3, 4, seed=generator), make(kind, 3, 4, seed=generator)
    assert (first.parameters["weight_hh_l0"] != second.parameters["weight_hh_l0"]).any()
    unseeded = [make(kind, 3, 4, seed=None).parameters["weight_hh_l0"] for _ in range(2)]
    assert (unseeded[0] != unseeded[1]).any()


@kinds
def test_seed_draws_the_same_values_in_both_dtypes(kind: str) -> None:
    wide = make(kind, 3, 4, dtype=np.float64).parameters
    for name, value in make(kind, 3, 4, dtype=np.dtype("float32")).parameters.items():
        assert_same_bits(name, value, wide[name].astype(np.float32))


@kinds
def test_missing_state_is_zero(kind: str) -> None:
    module = make(kind, 3, 4, 2)
    x = np.random.default_rng(0).standard_normal((5, 2, 3)).astype(np.float32)
    zeros = tuple(np.zeros((2, 2, 4), np.float32) for _ in range(2 if kind == "lstm" else 1))
    assert_same_bits("y", module(x)[0], module(x, as_state(zeros))[0])


@backends
@kinds
@pytest.mark.parametrize("options", [{}, {"batch_first": True}, {"num_layers": 3}], ids=str)
def test_any_gradient_may_be_missing(backend: str, kind: str, options: dict[str, Any]) -> None:
    call = Call(kind, 4, 3, 2, 5, **options)
    arrays = call.arrays()
    module = make(kind, *call.sizes, **call.options, dtype="float64", backend=backend)

    def gradients(dy: Any, dstate: Any) -> Outcome:
        _, _, tape = module.forward(arrays["x"], as_state(arrays["state"]))
        dx, dstate_0, grads = module.backward(tape, dy, dstate)
        return grads | {"dx": dx} | named_states((), as_tuple(dstate_0))

    for given_dy, *given_dstate in itertools.product([True, False], repeat=1 + len(arrays["dstate"])):
        got = gradients(
            arrays["dy"] if given_dy else None,
            as_state(tuple(d if there else None for d, there in zip(arrays["dstate"], given_dstate, strict=True))),
        )
        want = gradients(
            arrays["dy"] * given_dy,
            as_state(tuple(d * there for d, there in zip(arrays["dstate"], given_dstate, strict=True))),
        )
        for tensor, value in want.items():
            assert_close(tensor, got[tensor], value, 1e-14)


@kinds
def test_dy_may_be_any_view(kind: str) -> None:
    call = Call(kind, 5, 4, 3, 6, num_layers=2)
    arrays = call.arrays()
    module = make(kind, *call.sizes, dtype="float64")
    outcomes = []
    wide = np.zeros((4, 5, 12))
    view = wide[:, ::-1, ::2].swapaxes(0, 1)
    view[...] = arrays["dy"]
    for dy in (arrays["dy"], view):
        _, _, tape = module.forward(arrays["x"])
        dx, _, grads = module.backward(tape, dy)
        outcomes.append(grads | {"dx": dx})
    for name, value in outcomes[0].items():
        assert_same_bits(name, outcomes[1][name], value)


@kinds
@pytest.mark.parametrize("options", [{}, {"batch_first": True}, {"num_layers": 2}], ids=str)
def test_tape_serves_once_and_keeps_y_read_only(kind: str, options: dict[str, Any]) -> None:
    module = make(kind, 3, 4, **options)
    x = np.ones((5, 5, 3), np.float32)
    y, _, tape = module.forward(x)
    with pytest.raises(ValueError, match="read-only"):
        y[...] = 0
    module.backward(tape, np.ones_like(y))
    with pytest.raises(ValueError, match=r"tape was used before; expected a fresh one"):
        module.backward(tape, np.ones_like(y))
    _, _, tape = module.forward(x)
    with pytest.raises(ValueError, match=r"tape is another module's; expected one from this module"):
        make(kind, 3, 4, **options).backward(tape, np.ones_like(y))
    module.backward(tape, np.ones_like(y))
    y, _ = module(x)
    y[...] = 0


@kinds
def test_tape_outlives_the_callers_state(kind: str) -> None:
    call = Call(kind, 4, 3, 2, 5, num_layers=2)
    want, arrays = run(call), call.arrays()
    module = make(kind, *call.sizes, dtype="float64")
    module.load_state_dict(call.parameters({name: p.shape for name, p in module.parameters.items()}))
    _, _, tape = module.forward(arrays["x"], as_state(arrays["state"]))
    for state in arrays["state"]:
        state[...] = np.nan
    _, _, grads = module.backward(tape, arrays["dy"], as_state(arrays["dstate"]))
    for name, value in grads.items():
        assert_same_bits(f"d{name}", value, want[f"d{name}"])


@kinds
def test_tapes_of_two_calls_are_independent(kind: str) -> None:
    call = Call(kind, 4, 3, 2, 5, num_layers=2)
    arrays = call.arrays()
    module = make(kind, *call.sizes, dtype="float64")

    def gradient(tape: Any) -> Array:
        return module.backward(tape, arrays["dy"])[0]

    alone = [gradient(module.forward(x)[2]) for x in (arrays["x"], 2 * arrays["x"])]
    tapes = [module.forward(x)[2] for x in (arrays["x"], 2 * arrays["x"])]
    together = [gradient(tape) for tape in tapes]
    for got, want in zip(together, alone, strict=True):
        assert_same_bits("dx", got, want)


@kinds
@pytest.mark.parametrize("batched", [True, False], ids=["batched", "unbatched"])
def test_empty_sequence_gives_the_initial_state(kind: str, batched: bool) -> None:
    call = Call(kind, 0, 3, 2, 5, num_layers=2, batched=batched)
    arrays = call.arrays()
    module = make(kind, *call.sizes, dtype="float64")
    y, state_n, tape = module.forward(arrays["x"], as_state(arrays["state"]))
    assert y.shape == ((0, 3, 5) if batched else (0, 5))
    dx, dstate_0, grads = module.backward(tape, arrays["dy"], as_state(arrays["dstate"]))
    assert dx.shape == arrays["x"].shape
    assert not any(g.any() for g in grads.values())
    for got, want in ((state_n, arrays["state"]), (dstate_0, arrays["dstate"])):
        for one, other in zip(as_tuple(got), want, strict=True):
            assert_same_bits("state", one, other)
            assert not np.may_share_memory(one, other)


@kinds
@pytest.mark.parametrize("batch_first", [True, False])
def test_empty_batch(kind: str, batch_first: bool) -> None:
    module = make(kind, 2, 5, 2, batch_first=batch_first)
    x = np.zeros((0, 4, 2) if batch_first else (4, 0, 2), np.float32)
    y, state_n, tape = module.forward(x)
    dx, dstate_0, grads = module.backward(tape, y.copy())
    assert y.shape == (*x.shape[:2], 5)
    assert dx.shape == x.shape
    assert {s.shape for s in (*as_tuple(state_n), *as_tuple(dstate_0))} == {(2, 0, 5)}
    assert not any(g.any() for g in grads.values())


def test_repr_tells_what_differs_from_the_default() -> None:
    assert repr(fastrnn.LSTM(3, 4)) == "LSTM(3, 4)"
    module = fastrnn.GRU(3, 4, 2, False, True, dtype="float64", backend="numpy", num_threads=2)
    wanted = "GRU(3, 4, num_layers=2, bias=False, batch_first=True, dtype='float64', backend='numpy', num_threads=2)"
    assert repr(module) == wanted


@kinds
def test_repr_makes_the_module_again(kind: str) -> None:
    module = make(kind, 3, 4, 2, bias=False)
    again = eval(repr(module), vars(fastrnn))
    assert repr(again) == repr(module)
    x = np.ones((2, 1, 3), np.float32)
    again.load_state_dict(module.state_dict())
    assert_same_bits("y", again(x)[0], module(x)[0])


@backends
@kinds
def test_threads_of_a_module_change_no_bit(backend: str, kind: str) -> None:
    call = Call(kind, 10, 37, 30, 70, num_layers=2, dtype="float32")
    want = run(call, backend=backend, num_threads=1)
    for num_threads in (2, 3):
        for tensor, value in run(call, backend=backend, num_threads=num_threads).items():
            assert_same_bits(tensor, value, want[tensor])


def test_doctests_of_the_public_api(restored: None) -> None:
    import doctest

    from fastrnn import backends, cell_modules, modules, stream

    for module in (modules, cell_modules, stream, backends):
        result = doctest.testmod(module)
        assert result.attempted
        assert not result.failed
