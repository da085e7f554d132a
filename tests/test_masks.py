"""mask= and resets=: what a loop over single steps does, with its gradients, at the cost of the steps that are run."""

from __future__ import annotations

import importlib
import itertools
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from calls import Call, as_state, as_tuple, backends, calls, kinds, make, make_torch, module_of
from hypothesis import given, settings
from hypothesis import strategies as st
from tolerances import Outcome, assert_close, assert_same_bits

from fastrnn.backends import BACKENDS
from fastrnn.parameters import Array
from fastrnn.training import from_keras_weights

kernels = pytest.mark.parametrize("backend", [name for name in BACKENDS if name != "numpy"], indirect=True)


@dataclass(frozen=True)
class Case:
    """A call, and what it leaves out and begins anew; `masks` and `resets` are the shares of the steps."""

    call: Call
    masks: float = 0.4
    resets: float = 0.3
    masked: str = "zero"
    reset_state: str | None = None  # or "given"
    seed: int = 0

    def flags(self) -> tuple[Array, Array]:
        """run and resets, (T, N)."""
        rng, shape = np.random.default_rng(self.seed), (self.call.T, self.call.N)
        return rng.random(shape) >= self.masks, rng.random(shape) < self.resets

    def state(self) -> Any:
        """The state to begin anew with, as the module takes it."""
        if self.reset_state != "given":
            return self.reset_state
        rng = np.random.default_rng(self.seed + 1)
        return as_state(tuple(rng.uniform(-1, 1, s.shape).astype(s.dtype) for s in self.call.arrays()["state"]))

    def arguments(self) -> dict[str, Any]:
        """Those of a call besides x and state."""
        call, (run, resets) = self.call, self.flags()
        if not call.batched:
            run, resets = run[:, 0], resets[:, 0]
        elif call.batch_first:
            run, resets = run.T, resets.T
        state = self.state()
        return {"lengths": call.lengths, "mask": run, "masked": self.masked, "resets": resets, "reset_state": state}


def train(case: Case, module: Any, checkpoint_every: int | None = None) -> Outcome:
    """Forward and backward of fastrnn; an inference call returns the same."""
    given, arguments = case.call.given(), case.arguments()
    state = None if given["state"] is None else as_state(given["state"])
    y, state_n, tape = module.forward(given["x"], state, **arguments, checkpoint_every=checkpoint_every)
    assert tape.dreset_state is None
    dx, dstate_0, grads = module.backward(tape, given["dy"], as_state(given["dstate"]))
    called_y, called_n = module(given["x"], state, **arguments)
    assert_same_bits("y of __call__", called_y, y)
    for name, called, value in zip("hc", as_tuple(called_n), as_tuple(state_n), strict=False):
        assert_same_bits(f"{name}_n of __call__", called, value)
    outcome = {"y": y} | ({} if dx is None else {"dx": dx}) | {f"d{name}": g for name, g in grads.items()}
    assert (tape.dreset_state is None) == (case.reset_state != "given")
    outcome |= named("_n", state_n) | named("_0", dstate_0)
    return outcome if tape.dreset_state is None else outcome | named("_r", tape.dreset_state)


# ---- the loop, differentiated by torch


def step(torch: ModuleType, kind: str, x: Any, state: tuple[Any, ...], weights: dict[str, Any]) -> tuple[Any, ...]:
    """The equations of `fastrnn.cells`."""
    a_x = (x @ weights["weight_ih"].T) + weights.get("bias_ih", 0)
    a_h = (state[0] @ weights["weight_hh"].T) + weights.get("bias_hh", 0)
    if kind == "lstm":
        i, f, g, o = (a_x + a_h).chunk(4, 1)
        c = f.sigmoid() * state[1] + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        return (h @ weights["weight_hr"].T if "weight_hr" in weights else h), c
    if kind == "gru":
        (r, z, n), (h_r, h_z, h_n) = a_x.chunk(3, 1), a_h.chunk(3, 1)
        z, n = (z + h_z).sigmoid(), (n + (r + h_r).sigmoid() * h_n).tanh()
        return (n + z * (state[0] - n),)
    return ((a_x + a_h).relu() if kind == "rnn_relu" else (a_x + a_h).tanh(),)


def loop(torch: ModuleType, case: Case) -> Outcome:
    """What `train` returns, step by step in float64."""
    call, given, (run, resets) = case.call, case.call.given(), case.flags()
    lengths = np.full(call.N, call.T) if call.lengths is None else call.lengths
    inside = np.arange(call.T)[:, None] < lengths
    run, resets = torch.tensor(run & inside)[..., None], torch.tensor(resets & inside)[..., None]
    inside = torch.tensor(inside)[..., None]

    def leaf(array: Array) -> Any:
        return torch.tensor(array, dtype=torch.float64, requires_grad=True)

    x = given["x"] if not call.tokens else np.eye(call.I)[given["x"]]
    x = leaf(x)
    layers = call.num_layers * call.directions
    zeros = tuple(np.zeros_like(s) for s in call.arrays()["state"])
    state_0 = [leaf(s) for s in given["state"] or zeros]
    reset = state_0 if case.reset_state == "initial" else [leaf(s) for s in zeros]
    if case.reset_state == "given":
        reset = [leaf(s) for s in as_tuple(case.state())]
    module = module_of(call)
    parameters = {name: leaf(p) for name, p in module.parameters.items()}

    def batch(states: Any) -> list[Any]:
        return list(states) if call.batched else [s[:, None] for s in states]

    inputs = x if call.batched else x[:, None]
    inputs = inputs.transpose(0, 1) if call.batch_first and call.batched else inputs
    begin, anew, ends, halves, y = batch(state_0), batch(reset), [], list[Any](), inputs
    for at in range(layers):
        layer, reverse = divmod(at, call.directions)
        suffix = f"_l{layer}{'_reverse' * reverse}"
        weights = {n.removesuffix(suffix): p for n, p in parameters.items() if n.endswith(suffix)}
        state, its_anew = tuple(s[at] for s in begin), tuple(s[at] for s in anew)
        last, ys = torch.zeros_like(state[0]), [None] * call.T
        for t in range(call.T)[:: -1 if reverse else 1]:
            if not reverse:
                state = tuple(torch.where(resets[t], a, s) for a, s in zip(its_anew, state, strict=True))
                last = torch.where(resets[t], 0, last)
            after = step(torch, call.kind, inputs[t], state, weights)
            state = tuple(torch.where(run[t], a, s) for a, s in zip(after, state, strict=True))
            last = torch.where(run[t], state[0], last)
            ys[t] = torch.where(inside[t] if case.masked == "last" else run[t], last, 0)
            if reverse and t:
                state = tuple(torch.where(resets[t], a, s) for a, s in zip(its_anew, state, strict=True))
                last = torch.where(resets[t], 0, last)
        ends.append(state)
        halves = [*halves, torch.stack(ys)] if reverse else [torch.stack(ys)]
        if reverse == call.directions - 1:
            y = inputs = torch.cat(halves, 2)
    state_n = [torch.stack(its) for its in zip(*ends, strict=True)]
    if not call.batched:
        y, state_n = y[:, 0], [s[:, 0] for s in state_n]
    elif call.batch_first:
        y = y.transpose(0, 1)
    outputs = [y, *state_n]
    torch.autograd.backward(outputs, [torch.tensor(d, dtype=torch.float64) for d in (given["dy"], *given["dstate"])])
    leaves = {} if call.tokens else {"dx": x}
    leaves |= {f"d{name}": p for name, p in parameters.items()} | named("_0", state_0)
    leaves |= named("_r", reset) if case.reset_state == "given" else {}
    gradients = {name: torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for name, leaf in leaves.items()}
    found = {"y": y.detach()} | named("_n", [s.detach() for s in state_n]) | gradients
    return {name: value.numpy() for name, value in found.items()}


def named(end: str, states: Any) -> dict[str, Any]:
    """The arrays of a state by name."""
    return {
        f"{name}{end}": value
        for name, value in zip("hc", tuple(states) if isinstance(states, list) else as_tuple(states), strict=False)
    }


def assert_is_the_loop(torch: ModuleType, case: Case, backend: str, **options: Any) -> None:
    got, want = train(case, module_of(case.call, backend=backend, **options)), loop(torch, case)
    assert got.keys() == want.keys()
    for name, value in want.items():
        assert_close(name, got[name], value, 1e-12 * max(1, np.abs(value).max(initial=0)))


PLAIN = Call("lstm", 9, 5, 3, 7)
CASES = {
    "mask": Case(PLAIN, resets=0),
    "mask_and_last": Case(PLAIN, resets=0, masked="last"),
    "resets": Case(PLAIN, masks=0),
    "resets_to_h_0": Case(PLAIN, masks=0, reset_state="initial"),
    "resets_to_a_state": Case(PLAIN, masks=0, reset_state="given"),
    "both_directions": Case(replace(PLAIN, bidirectional=True), masked="last", reset_state="initial"),
    "two_layers": Case(replace(PLAIN, bidirectional=True, num_layers=2), masked="last", reset_state="given"),
    "lengths": Case(replace(PLAIN, bidirectional=True, ragged=True), masked="last", reset_state="given"),
    "projection": Case(replace(PLAIN, num_layers=2, proj_size=4, ragged=True), reset_state="given"),
    "tokens": Case(replace(PLAIN, tokens=True, batch_first=True, num_layers=2), reset_state="initial"),
    "single": Case(replace(PLAIN, batched=False, N=1, bidirectional=True), masked="last", reset_state="given"),
    "batch_first": Case(replace(PLAIN, batch_first=True, with_state=False), masked="last", reset_state="given"),
    "all_masked": Case(PLAIN, masks=1, reset_state="given"),
    "all_reset": Case(replace(PLAIN, bidirectional=True), masks=0.2, resets=1, masked="last", reset_state="given"),
    "never_reset": Case(replace(PLAIN, with_state=False), masks=0, resets=0, reset_state="given"),
    "one_step": Case(Call("lstm", 1, 3, 2, 1, bidirectional=True), resets=0.6, reset_state="given"),
}


@backends
@kinds
@pytest.mark.parametrize("name", CASES)
def test_masks_and_resets_are_the_loop(torch: ModuleType, backend: str, kind: str, name: str) -> None:
    case = CASES[name]
    call = replace(case.call, kind=kind, proj_size=case.call.proj_size if kind == "lstm" else 0)
    assert_is_the_loop(torch, replace(case, call=call), backend)


@settings(max_examples=40, deadline=None)
@given(
    case=st.builds(
        Case,
        calls(dtype="float64"),
        st.sampled_from([0, 0.3, 0.9, 1]),
        st.sampled_from([0, 0.1, 0.5, 1]),
        st.sampled_from(["zero", "last"]),
        st.sampled_from([None, "initial", "given"]),
        st.integers(0, 9),
    )
)
def test_any_call_is_the_loop(torch: ModuleType, case: Case) -> None:
    call = case.call if case.call.batched else replace(case.call, N=1)
    assert_is_the_loop(torch, replace(case, call=call), "numpy")


@kernels
@kinds
def test_every_piece_has_the_bits_of_a_call_of_its_own(backend: str, kind: str) -> None:
    case = Case(Call(kind, 12, 6, 5, 9, num_layers=2, dtype="float32"), masks=0.3, resets=0.2)
    module, given, (run, resets) = module_of(case.call, backend=backend), case.call.given(), case.flags()
    y, state_n = module(given["x"], as_state(given["state"]), mask=run, resets=resets)
    for n in range(case.call.N):
        state = as_state(tuple(s[:, n] for s in given["state"]))
        starts = [0, *np.flatnonzero(resets[:, n]), len(run)]
        for first, last in itertools.pairwise(starts):
            steps = np.arange(first, last)[run[first:last, n]]
            state = (
                as_state(tuple(np.zeros_like(s) for s in as_tuple(state)))
                if resets[first : first + 1, n].any()
                else state
            )
            its_y, state = module(given["x"][steps, n], state)
            assert_same_bits("y", y[steps, n], its_y)
        for name, s, s_n in zip("hc", as_tuple(state), as_tuple(state_n), strict=False):
            assert_same_bits(f"{name}_n", s_n[:, n], s)


@backends
@kinds
def test_threads_and_checkpoints_change_no_bit(backend: str, kind: str) -> None:
    case = Case(Call(kind, 20, 40, 8, 16, num_layers=2, dtype="float32"), masked="last", reset_state="given")
    want = train(case, module_of(case.call, backend=backend, num_threads=1))
    for num_threads, every in ((3, None), (1, 3), (2, 5)):
        got = train(case, module_of(case.call, backend=backend, num_threads=num_threads), every)
        for name, value in want.items():
            assert_same_bits(name, got[name], value)


@kinds
def test_what_is_left_out_is_never_read(kind: str) -> None:
    case = Case(Call(kind, 9, 5, 3, 7, bidirectional=True, ragged=True), masked="zero")
    module, given, arguments = module_of(case.call), case.call.given(), case.arguments()
    run = arguments["mask"] & (np.arange(9)[:, None] < arguments["lengths"])
    x, dy = np.where(run[..., None], given["x"], np.nan), np.where(run[..., None], given["dy"], np.nan)
    y, _, tape = module.forward(x, as_state(given["state"]), **arguments)
    dx, _, grads = module.backward(tape, dy)
    assert not y[~run].any()
    assert not dx[~run].any()
    assert all(np.isfinite(a).all() for a in (y, dx, *grads.values()))
    tokens = np.where(run, 2, 99)
    assert np.isfinite(module(tokens, **arguments)[0]).all()


@backends
@kinds
def test_trace_has_zeros_where_nothing_is_run(backend: str, kind: str) -> None:
    case = Case(replace(PLAIN, kind=kind, bidirectional=True, ragged=True), reset_state="initial")
    module, given, arguments = module_of(case.call, backend=backend), case.call.given(), case.arguments()
    arguments.pop("masked")
    state = as_state(given["state"])
    inside, (y, _) = module.trace(given["x"], state, **arguments), module(given["x"], state, **arguments)
    assert_same_bits("h", np.concatenate([inside["h_l0"], inside["h_l0_reverse"]], 2), y)
    run = arguments["mask"] & (np.arange(9)[:, None] < arguments["lengths"])
    assert all(not values[~run].any() and values[run].any() for values in inside.values())


@backends
def test_dropout_draws_for_the_steps_that_are_run(backend: str) -> None:
    case = Case(Call("lstm", 9, 5, 3, 7, num_layers=3), reset_state="given")
    for every in (None, 2):
        module = module_of(case.call, backend=backend, dropout=0.4)
        twin = module_of(case.call, backend=backend, dropout=0.4)
        given, arguments = case.call.given(), case.arguments()
        run, _ = case.flags()
        y, _, tape = module.forward(given["x"], **arguments, checkpoint_every=every)
        twin_y, _, _ = twin.forward(np.where(run[..., None], given["x"], 9), **arguments)
        assert_same_bits("y", y, twin_y)
        dx, _, _ = module.backward(tape, given["dy"])
        assert dx[run].any(1).all()
        assert not dx[~run].any()


@backends
@pytest.mark.parametrize("shape", [(4, 0), (0, 3), (0, 0), (2**31 - 1, 0)])
def test_no_sequences_and_no_steps(backend: str, shape: tuple[int, int]) -> None:
    module = make("lstm", 3, 4, 2, backend=backend, bidirectional=True)
    x, flags = np.empty((*shape, 3), np.float32), np.ones(shape, bool)
    state = tuple(np.ones((4, shape[1], 4), np.float32) for _ in "hc")
    y, (h_n, c_n), tape = module.forward(x, state, mask=flags, resets=flags, masked="last", reset_state=state)
    assert y.shape == (*shape, 8)
    assert h_n.shape == c_n.shape == state[0].shape
    dx, (dh_0, _), _ = module.backward(tape, None, state)
    assert dx.shape == x.shape
    assert dh_0.all()
    assert tape.dreset_state[0].shape == state[0].shape
    assert not tape.dreset_state[0].any()


def test_a_mask_is_the_lengths_that_it_has() -> None:
    module, rng = make("gru", 3, 4, bidirectional=True), np.random.default_rng(0)
    x, lengths = rng.standard_normal((6, 4, 3), np.float32), [3, 6, 0, 1]
    mask = np.arange(6)[:, None] < lengths
    for got, want in zip(module(x, mask=mask), module(x, lengths=lengths), strict=True):
        assert_same_bits("y and h_n", got, want)


def test_masks_are_copied() -> None:
    module, x = make("gru", 3, 4), np.ones((6, 4, 3), np.float32)
    mask, resets = np.ones((6, 4), bool), np.zeros((6, 4), bool)
    mask[2], resets[4] = False, True
    y, _, tape = module.forward(x, mask=mask, resets=resets, masked="last")
    mask[...], resets[...] = False, True
    assert module.backward(tape, np.ones_like(y))[0].any(2).sum() == 20


KERAS = {"lstm": "LSTM", "gru": "GRU", "rnn_tanh": "SimpleRNN"}


@pytest.mark.parametrize("kind", KERAS)
@pytest.mark.parametrize("masked", ["zero", "last"])
def test_masks_are_those_of_keras(keras: ModuleType, kind: str, masked: str) -> None:
    rng = np.random.default_rng(0)
    x, mask = rng.standard_normal((5, 9, 3)), rng.random((5, 9)) > 0.4
    mask[2] = False
    layer = getattr(keras.layers, KERAS[kind])(7, return_sequences=True, return_state=True)
    layer.zero_output_for_mask = masked == "zero"
    want_y, *want_n = (np.asarray(out.detach()) for out in layer(x, mask=mask))
    module = make(kind, 3, 7, batch_first=True, dtype="float64")
    module.load_state_dict(from_keras_weights(module, [np.asarray(w.value.detach()) for w in layer.weights]))
    y, state_n = module(x, mask=mask, masked=masked)
    assert_close("y", y, want_y, 1e-12)
    for got, want in zip(as_tuple(state_n), want_n, strict=True):
        assert_close("state", got[0], want, 1e-12)


@kinds
@pytest.mark.parametrize("name", [name for name in CASES if name not in ("tokens", "lengths", "projection")])
def test_torch_modules_do_the_same(torch: ModuleType, kind: str, name: str) -> None:
    case = replace(CASES[name], call=replace(CASES[name].call, kind=kind))
    module, arguments = module_of(case.call), case.arguments()
    arguments.pop("lengths")
    want, given = train(case, module), case.call.given()
    theirs = make_torch(torch, kind, *case.call.sizes, **case.call.options).double()
    theirs.load_state_dict({name: torch.tensor(p) for name, p in module.parameters.items()})
    with_masks = torch.nn.ModuleList([theirs])
    importlib.import_module("fastrnn.torch").accelerate(with_masks)

    def leaves(states: Any) -> Any:
        return as_state(tuple(torch.tensor(s, requires_grad=True) for s in as_tuple(states)))

    x = torch.tensor(given["x"], requires_grad=True)
    zeros = tuple(np.zeros_like(s) for s in given["dstate"])
    state = leaves(as_state(given["state"] or zeros))
    arguments |= {name: torch.tensor(arguments[name]) for name in ("mask", "resets")}
    if case.reset_state == "given":
        arguments["reset_state"] = leaves(arguments["reset_state"])
    y, state_n = with_masks[0](x, state, **arguments)
    outputs = zip((y, *as_tuple(state_n)), map(torch.tensor, (given["dy"], *given["dstate"])), strict=True)
    outputs = [(out, d) for out, d in outputs if out.requires_grad]  # y does not where nothing is run
    torch.autograd.backward(*map(list, zip(*outputs, strict=True)))
    got = {"y": y, "dx": x.grad} | named("_n", state_n) | {f"d{n}": p.grad for n, p in theirs.named_parameters()}
    got |= named("_0", as_state(tuple(s.grad for s in as_tuple(state))))
    if case.reset_state == "given":
        got |= named("_r", as_state(tuple(s.grad for s in as_tuple(arguments["reset_state"]))))
    for key, value in want.items():
        found = np.zeros_like(value) if got[key] is None else got[key].detach().numpy()
        assert_close(key, found, value, 1e-12 * max(1, np.abs(value).max(initial=0)))
