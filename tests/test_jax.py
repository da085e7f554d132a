"""fastrnn.jax against fastrnn's modules, whose bits it has, and under JAX's transformations against loops."""

from __future__ import annotations

import gc
import re
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from calls import KINDS, Call, Refusals, as_state, as_tuple, calls, kinds, make
from hypothesis import given, settings

from fastrnn import ops
from fastrnn.backends import use_backend
from fastrnn.cells import CELLS, Weights, lstm_with
from fastrnn.parameters import Array

jax = pytest.importorskip("jax", reason="jax is not installed")
import jax.numpy as jnp  # noqa: E402

import fastrnn.jax as ours  # noqa: E402
from fastrnn.jax import layer  # noqa: E402
from fastrnn.kernels import xla  # noqa: E402

FUNCTIONS: dict[str, Callable[..., Any]] = {
    "rnn_tanh": ours.rnn,
    "rnn_relu": lambda *arguments, **options: ours.rnn(*arguments, nonlinearity="relu", **options),
    "lstm": ours.lstm,
    "gru": ours.gru,
}
T, N, I, H = 6, 3, 5, 7


@pytest.fixture(autouse=True)
def doubles() -> Iterator[None]:
    """float64 besides float32."""
    with jax.enable_x64(True):
        yield


def differentiated(call: Call, function: Callable[..., Any], params: Any, **options: Any) -> dict[str, Any]:
    """All outputs and gradients, for gradients into each output."""
    given = call.given()
    x, state = given["x"], None if given["state"] is None else as_state(given["state"])

    def outputs(params: Any, x: Any, state: Any) -> Any:
        return function(params, x, state, call.lengths, batch_first=call.batch_first, **options)

    if call.tokens:
        out, back = jax.vjp(lambda params, state: outputs(params, x, state), params, state)
        dparams, dstate = back((given["dy"], as_state(given["dstate"])))
        dx = None
    else:
        out, back = jax.vjp(outputs, params, x, state)
        dparams, dx, dstate = back((given["dy"], as_state(given["dstate"])))
    return {"y": out[0], "state_n": out[1], "dx": dx, "dstate": dstate, "dparams": dparams}


def assert_same(got: Any, want: Any) -> None:
    """The same trees of the same bits."""
    got, want = jax.tree.flatten(got), jax.tree.flatten(want)
    assert got[1] == want[1]
    for one, other in zip(got[0], want[0], strict=True):
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))


@given(calls())
@settings(max_examples=25, deadline=None)
def test_has_the_bits_of_the_modules(call: Call) -> None:
    module = make(
        call.kind,
        *call.sizes,
        **{k: v for k, v in call.options.items() if k != "bias"},
        bias=call.bias,
        dtype=call.dtype,
    )
    weights = call.parameters({name: p.shape for name, p in module.parameters.items()})
    module.load_state_dict(weights)
    arrays = call.given()
    y, state_n, tape = module.forward(
        arrays["x"], None if arrays["state"] is None else as_state(arrays["state"]), lengths=arrays["lengths"]
    )
    dx, dstate, dparams = module.backward(tape, arrays["dy"], as_state(arrays["dstate"]))
    got = differentiated(call, FUNCTIONS[call.kind], {name: jnp.asarray(w) for name, w in weights.items()})
    want = {"y": y, "state_n": state_n, "dx": dx, "dparams": dict(dparams)}
    want["dstate"] = dstate if call.with_state else None
    assert_same(got, want)


def drawn(kind: str, **options: Any) -> dict[str, Any]:
    """Parameters of O(1)."""
    module = make(kind, I, H, **options)
    rng = np.random.default_rng(1)
    return {name: jnp.asarray(rng.uniform(-0.7, 0.7, p.shape), "float32") for name, p in module.parameters.items()}


def inputs(*leading: int) -> Array:
    return np.random.default_rng(2).normal(size=(*leading, T, N, I)).astype("float32")


LENGTHS = np.array([[6, 2, 0], [1, 1, 1], [6, 6, 6], [3, 4, 5]])


def loss_of(kind: str) -> Callable[..., Any]:
    """A loss into which all outputs go."""

    def loss(params: Any, x: Any, lengths: Any = None) -> Any:
        y, state = FUNCTIONS[kind](params, x, None, lengths)
        return (y**2).sum() + sum((s**3).sum() for s in as_tuple(state))

    return loss


def stacked(trees: list[Any]) -> Any:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def assert_close(got: Any, want: Any) -> None:
    """To rounding in another order of sums."""
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-5, atol=2e-5)


@kinds
def test_gradients_by_example(kind: str) -> None:
    params, x = drawn(kind, bidirectional=True), inputs(4)
    one = jax.grad(loss_of(kind), argnums=(0, 1))
    want = stacked([one(params, x[i], LENGTHS[i]) for i in range(4)])
    assert_same(jax.vmap(one, (None, 0, 0))(params, x, LENGTHS), want)
    assert_same(jax.jit(jax.vmap(one, (None, 0, 0)))(params, x, LENGTHS), want)
    twice = jax.vmap(jax.vmap(one, (None, 0, 0)), (None, 0, 0))
    assert_same(twice(params, np.stack([x, x]), np.stack([LENGTHS, LENGTHS])), stacked([want, want]))


@kinds
def test_gradient_of_a_vmapped_loss(kind: str) -> None:
    params, x = drawn(kind, bidirectional=True), inputs(4)
    loss = loss_of(kind)
    one = jax.grad(loss, argnums=(0, 1))
    each = [one(params, x[i], LENGTHS[i]) for i in range(4)]
    want = (jax.tree.map(lambda g: g.sum(0), stacked([e[0] for e in each])), stacked([e[1] for e in each]))
    total = lambda params, x: jax.vmap(loss, (None, 0, 0))(params, x, LENGTHS).sum()  # noqa: E731
    assert_close(jax.grad(total, argnums=(0, 1))(params, x), want)
    by_group = jax.vmap(jax.grad(total), (None, 0))(params, np.stack([x, x]))
    assert_close(by_group, stacked([want[0], want[0]]))


@pytest.fixture
def noted(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[..., None]], None]:
    """Has a function called with the name of each call that XLA makes, its arguments and its results."""

    def note(function: Callable[..., None]) -> None:
        def maker(name: str, make: Any) -> Any:
            def noting(text: str) -> Any:
                run = make(text)

                def call(arguments: list[Array], results: list[Array]) -> None:
                    function(name, arguments, results)
                    run(arguments, results)

                return call

            return noting

        monkeypatch.setattr(xla, "calls", {name: maker(name, make) for name, make in xla.calls.items()})
        monkeypatch.setattr(xla, "made", {})

    return note


def test_a_vmapped_batch_runs_at_once(noted: Any) -> None:
    seen: list[tuple[int, ...]] = []
    noted(lambda name, arguments, results: seen.append(arguments[0].shape))
    params, x = drawn("gru"), inputs(4)[:, :, 0]  # (4, T, I): a sequence each
    loss = lambda params: jax.vmap(lambda x: (ours.gru(params, x)[0] ** 2).sum())(x).sum()  # noqa: E731
    jax.block_until_ready(jax.grad(loss)(params))
    assert seen == [(T, 4, I), (T, 4, I)]


@kinds
def test_weights_may_be_mapped(kind: str) -> None:
    params = [drawn(kind), jax.tree.map(lambda w: w * 1.25, drawn(kind))]
    x, one = inputs(), jax.grad(loss_of(kind), argnums=(0, 1))
    got = jax.vmap(one, (0, None))(stacked(params), x)
    assert_same(got, stacked([one(p, x) for p in params]))


@kinds
def test_in_scan_checkpoint_and_jacrev(kind: str) -> None:
    params, x, run = drawn(kind), inputs(4), FUNCTIONS[kind]

    def scanned(params: Any, x: Any) -> Any:
        state = run(params, x[0])[1]
        state, y = jax.lax.scan(lambda state, x: run(params, x, state)[::-1], state, x)
        return (y**2).sum() + sum(s.sum() for s in as_tuple(state))

    def unrolled(params: Any, x: Any) -> Any:
        state, total = run(params, x[0])[1], 0.0
        for its in x:
            y, state = run(params, its, state)
            total = total + (y**2).sum()
        return total + sum(s.sum() for s in as_tuple(state))

    want = jax.grad(unrolled)(params, x)
    assert_close(jax.grad(scanned)(params, x), want)
    assert_same(jax.grad(jax.checkpoint(scanned))(params, x), jax.grad(scanned)(params, x))
    sums = lambda x: run(params, x)[0].sum((0, 2))  # noqa: E731
    rows = [jax.grad(lambda x, n=n: sums(x)[n])(x[0]) for n in range(N)]
    assert_same(jax.jacrev(sums)(x[0]), jnp.stack(rows))


@kinds
@pytest.mark.parametrize("options", [{"masked": "zero"}, {"masked": "last", "reset_state": "initial"}])
def test_masks_and_resets(kind: str, options: dict[str, Any]) -> None:
    call = Call(kind, T, N, I, H, num_layers=2, bidirectional=True, ragged=True)
    rng = np.random.default_rng(3)
    steps = {"mask": rng.random((T, N)) < 0.7, "resets": rng.random((T, N)) < 0.4}
    module = make(kind, *call.sizes, bidirectional=True, dtype="float64")
    weights = call.parameters({name: p.shape for name, p in module.parameters.items()})
    module.load_state_dict(weights)
    arrays = call.arrays()
    y, state_n, tape = module.forward(arrays["x"], as_state(arrays["state"]), lengths=call.lengths, **steps, **options)
    dx, dstate, dparams, *_ = module.backward(tape, arrays["dy"], as_state(arrays["dstate"]))
    params = {name: jnp.asarray(w) for name, w in weights.items()}
    got = differentiated(call, FUNCTIONS[kind], params, **steps, **options)
    assert_same(got, {"y": y, "state_n": state_n, "dx": dx, "dstate": dstate, "dparams": dict(dparams)})


@pytest.mark.parametrize("count", [0, 16, 17])
def test_fewer_rows_may_need_a_larger_tape(count: int) -> None:
    """Those of 0, 16, 32, ... rows are padded."""
    params, x = drawn("lstm"), inputs()
    mask = (np.arange(T * N) < count).reshape(N, T).T
    module = make("lstm", I, H, dtype="float32")
    module.load_state_dict({name: np.asarray(p) for name, p in params.items()})
    *_, tape = module.forward(x, mask=mask)
    dy = np.random.default_rng(6).normal(size=(T, N, H)).astype("float32")
    want = dict(module.backward(tape, dy)[2])
    assert_same(jax.vjp(lambda params: ours.lstm(params, x, mask=mask)[0], params)[1](dy)[0], want)


@kinds
def test_equals_a_scan_of_its_equations(kind: str) -> None:
    """Beside the modules: JAX's own derivative of the equations, in float64."""
    rng = np.random.default_rng(4)
    params = {name: jnp.asarray(rng.uniform(-0.7, 0.7, p.shape)) for name, p in drawn(kind).items()}
    x, state = rng.normal(size=(T, N, I)), tuple(rng.normal(size=(1, N, H)) for _ in range(1 + (kind == "lstm")))

    def step(params: Any, state: Any, x: Any) -> Any:
        a = x @ params["weight_ih_l0"].T + params["bias_ih_l0"]
        b = state[0] @ params["weight_hh_l0"].T + params["bias_hh_l0"]
        if kind == "lstm":
            i, f, g, o = jnp.split(a + b, 4, 1)
            c = jax.nn.sigmoid(f) * state[1] + jax.nn.sigmoid(i) * jnp.tanh(g)
            return jax.nn.sigmoid(o) * jnp.tanh(c), c
        if kind == "gru":
            (a_r, a_z, a_n), (b_r, b_z, b_n) = jnp.split(a, 3, 1), jnp.split(b, 3, 1)
            z, n = jax.nn.sigmoid(a_z + b_z), jnp.tanh(a_n + jax.nn.sigmoid(a_r + b_r) * b_n)
            return ((1 - z) * n + z * state[0],)
        return (jnp.tanh(a + b) if kind == "rnn_tanh" else jax.nn.relu(a + b),)

    def of_equations(params: Any, x: Any, state: Any) -> Any:
        def body(state: Any, x: Any) -> Any:
            state = step(params, state, x)
            return state, state[0]

        state, y = jax.lax.scan(body, tuple(s[0] for s in state), x)
        return (y**2).sum() + sum((s**3).sum() for s in state)

    def of_ours(params: Any, x: Any, state: Any) -> Any:
        y, state = FUNCTIONS[kind](params, x, as_state(state))
        return (y**2).sum() + sum((s**3).sum() for s in as_tuple(state))

    got, want = (
        jax.value_and_grad(f, argnums=(0, 1, 2))(params, jnp.asarray(x), state) for f in (of_ours, of_equations)
    )
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-12)


def test_backends_without_tapes_in_arrays_run_forward_again() -> None:
    params, x = drawn("lstm"), inputs()
    gradient = jax.grad(loss_of("lstm"))
    want = gradient(params, x)
    with use_backend("numpy"):
        got = gradient(params, x)
    assert_close(got, want)


def test_dropout_is_seeded_and_scaled() -> None:
    params, x = drawn("gru", num_layers=2), inputs()
    plain = ours.gru(params, x)[0]
    one, same, other = (ours.gru(params, x, dropout=0.5, key=jax.random.key(seed))[0] for seed in (0, 0, 1))
    assert_same(one, same)
    assert (one != other).any()
    assert (one != plain).any()
    many = jax.vmap(lambda key: ours.gru(params, x, dropout=0.1, key=key)[0])(jax.random.split(jax.random.key(2), 64))
    assert np.abs(many.mean(0) - plain).max() < 0.1


def test_tapes_serve_twice() -> None:
    params, x = drawn("lstm"), jnp.asarray(inputs())
    _, back = jax.vjp(lambda params, x: ours.lstm(params, x)[0], params, x)
    dy = jnp.ones((T, N, H), "float32")
    assert_same(back(dy), back(dy))


def test_drawn_parameters() -> None:
    sizes = {"num_layers": 2, "bidirectional": True}
    for kind, init in (("lstm", ours.init_lstm), ("gru", ours.init_gru), ("rnn_tanh", ours.init_rnn)):
        params = init(jax.random.key(0), I, H, **sizes)
        assert {name: p.shape for name, p in params.items()} == {
            name: p.shape for name, p in make(kind, I, H, **sizes).parameters.items()
        }
        flat = np.concatenate([np.ravel(p) for p in params.values()])
        assert np.abs(flat).max() <= H**-0.5
        assert abs(flat.mean()) < 0.05
    projected = ours.init_lstm(jax.random.key(0), I, H, proj_size=3, bias=False)
    assert ours.lstm(projected, inputs())[0].shape == (T, N, 3)


# ---- Flax


@pytest.mark.parametrize(
    ("name", "kind"),
    [("LSTMCell", "lstm"), ("OptimizedLSTMCell", "lstm"), ("GRUCell", "gru"), ("SimpleCell", "rnn_tanh")],
)
@pytest.mark.parametrize("library", ["nnx", "linen"])
def test_converts_from_and_to_flax(name: str, kind: str, library: str) -> None:
    its_library = pytest.importorskip(f"flax.{library}", reason="flax is not installed")
    x = inputs().swapaxes(0, 1)  # theirs is (N, T, I)
    if library == "nnx":
        cell = getattr(its_library, name)(I, H, rngs=its_library.Rngs(0))
        theirs = jax.tree.map(lambda p: p + 0.1, its_library.to_pure_dict(its_library.state(cell, its_library.Param)))
        its_library.update(cell, theirs)
        y = its_library.RNN(cell)(x)
    else:
        module = its_library.RNN(getattr(its_library, name)(H))
        variables = jax.tree.map(lambda p: p + 0.1, module.init(jax.random.key(0), x))
        theirs, y = variables["params"]["cell"], module.apply(variables, x)
    params = ours.from_flax(theirs)
    np.testing.assert_allclose(FUNCTIONS[kind](params, x, batch_first=True)[0], y, rtol=1e-5, atol=1e-6)
    assert_close(ours.to_flax(params, theirs), theirs)
    both = ours.from_flax([(theirs, theirs)])
    assert_same({k: v for k, v in both.items() if "reverse" not in k}, params)
    assert_close(ours.to_flax(both, [(theirs, theirs)]), [(theirs, theirs)])


def test_flax_has_no_place_for_some_biases() -> None:
    like = {"dense_i": {"kernel": 0, "bias": 0}, "dense_h": {"kernel": 0}}
    params = drawn("gru")
    with pytest.raises(ValueError, match="bias_hh is not zero in a GRU's n"):
        ours.to_flax(params, like)
    params["bias_hh_l0"] = params["bias_hh_l0"].at[2 * H :].set(0)
    again = ours.from_flax(ours.to_flax(params, like))
    assert_close(FUNCTIONS["gru"](again, inputs())[0], FUNCTIONS["gru"](params, inputs())[0])
    with pytest.raises(ValueError, match="expected those of an LSTMCell"):
        ours.from_flax({"hf": {}, "hn": {}})


# ---- bad input

BAD: dict[str, Callable[[dict[str, Any]], Any]] = {
    "params is a list; expected a mapping": lambda p: ours.lstm(list(p), inputs()),
    "expected weight_ih_l0 and so on": lambda p: ours.lstm({}, inputs()),
    "has \\['bias_hh_l1'\\] besides": lambda p: ours.lstm(p | {"bias_hh_l1": 0}, inputs()),
    "expected both or none": lambda p: ours.lstm({k: v for k, v in p.items() if k != "bias_ih_l0"}, inputs()),
    "as weight_ih_l0 says": lambda p: ours.lstm(p | {"weight_hh_l0": p["weight_hh_l0"].T}, inputs()),
    "a projection is an LSTM's": lambda p: ours.gru(drawn("gru") | {"weight_hr_l0": 0}, inputs()),
    "x has dtype float64; expected float32": lambda p: ours.lstm(p, inputs().astype("float64")),
    "x has shape \\(6, 3, 4\\)": lambda p: ours.lstm(p, inputs()[..., :4]),
    "state has 1 arrays; expected 2: h_0, c_0": lambda p: ours.lstm(p, inputs(), jnp.zeros((1, N, H))),
    "c_0 is float32\\[1, 3, 8\\]": lambda p: ours.lstm(
        p, inputs(), (jnp.zeros((1, N, H), "f"), jnp.zeros((1, N, H + 1), "f"))
    ),
    "lengths is int64\\[2\\]": lambda p: ours.lstm(p, inputs(), None, np.array([1, 2])),
    "mask is float32": lambda p: ours.lstm(p, inputs(), mask=jnp.ones((T, N), "f")),
    "masked is 'none'": lambda p: ours.lstm(p, inputs(), masked="none"),
    "reset_state is 'given'": lambda p: ours.lstm(p, inputs(), reset_state="given"),
    "dropout is 1": lambda p: ours.lstm(p, inputs(), dropout=1),
    "key is None": lambda p: ours.lstm(p, inputs(), dropout=0.5),
    "lengths holds 9; expected 0 <= length <= T = 6": lambda p: ours.lstm(p, inputs(), None, np.array([9, 1, 1])),
    "x holds the token 9": lambda p: ours.lstm(p, np.full((T, N), 9)),
    "no forward-mode derivative.*use jax.grad.*or a lax.scan of its equations": lambda p: jax.jvp(
        lambda x: ours.lstm(p, x)[0], (inputs(),), (inputs(),)
    ),
    "no second derivative.*use one jax.grad.*or a lax.scan of its equations": lambda p: jax.grad(
        lambda x: jax.grad(loss_of("lstm"), 1)(p, x).sum()
    )(inputs()),
    "no forward-mode derivative.*jax.hessian": lambda p: jax.hessian(lambda x: ours.lstm(p, x)[0].sum())(inputs()),
}


@pytest.mark.parametrize("message", list(BAD))
def test_says_what_is_wrong(message: str) -> None:
    refusals = Refusals(TypeError, ValueError, NotImplementedError, jax.errors.JaxRuntimeError)
    with refusals:
        jax.block_until_ready(BAD[message](drawn("lstm")))
    assert refusals, "nothing was refused"
    assert re.search(message, refusals[0]), refusals[0]


@pytest.mark.parametrize("differentiated", [False, True])
def test_arrays_of_a_call_do_not_outlive_it(noted: Any, differentiated: bool) -> None:
    alive: list[Any] = []
    noted(lambda name, arguments, results: alive.extend(weakref.ref(a) for a in (*arguments, *results)))
    run = lambda p: ours.lstm(p, inputs())[0]  # noqa: E731
    params = drawn("lstm")
    jax.block_until_ready(jax.vjp(run, params)[0] if differentiated else run(params))
    gc.collect()
    assert alive
    assert all(its() is None for its in alive)


PLAIN: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "inference": (lambda p: ours.lstm(p, inputs()), "infer"),
    "no steps": (lambda p: ours.lstm(p, inputs()[:0]), "forward"),
    "lengths": (lambda p: ours.lstm(p, inputs(), None, LENGTHS[0]), "forward"),
    "tokens": (lambda p: ours.lstm(p, np.zeros((T, N), int)), "forward"),
    "training": (lambda p: jax.vjp(lambda p: ours.lstm(p, inputs()), p)[0], "forward"),
}


@pytest.mark.parametrize("call", PLAIN)
def test_plain_calls_are_not_prepared_in_general(noted: Any, call: str) -> None:
    """Only these have the short way, which looks at nothing."""
    names: list[str] = []
    noted(lambda name, arguments, results: names.append(name))
    run, wanted = PLAIN[call]
    jax.block_until_ready(run(drawn("lstm")))
    assert names == [wanted]


@kinds
def test_what_x_is_no_part_of_has_no_gradient_of_x(noted: Any, kind: str) -> None:
    """A sixth of a step's arithmetic, of a first layer's for nothing."""
    results: list[int] = []
    noted(lambda name, arguments, its: results.append(len(its)) if name == "backward" else None)
    loss, params, x = loss_of(kind), drawn(kind, bidirectional=True), inputs()
    alone = jax.grad(loss)(params, x, LENGTHS[0])
    dparams, dx = jax.grad(loss, argnums=(0, 1))(params, x, LENGTHS[0])
    assert_same(alone, dparams)
    assert np.abs(dx).max() > 0
    assert results[1] - results[0] == 1


BRIEF = [(1, 1, 16, True), (2, 3, 7, False), (5, 2, 19, True), (40, 1, 33, True), (9, 4, 64, False)]  # T, N, H, bias


@kinds
@pytest.mark.parametrize(("steps", "batch", "hidden", "bias"), BRIEF)
def test_brief_calls_have_the_bits_of_the_modules(kind: str, steps: int, batch: int, hidden: int, bias: bool) -> None:
    """What the backend prepares by the sizes of a call serves the next ones, of other arrays."""
    dtype = "float64" if hidden % 2 else "float32"
    module = make(kind, I, hidden, bias=bias, dtype=dtype)
    program = jax.jit(FUNCTIONS[kind])
    for seed in range(3):
        rng = np.random.default_rng(seed)
        weights = {name: rng.uniform(-0.7, 0.7, p.shape).astype(dtype) for name, p in module.parameters.items()}
        module.load_state_dict(weights)
        x, *state = (rng.normal(size=shape).astype(dtype) for shape in ((steps, batch, I), *[(1, batch, hidden)] * 2))
        state = as_state(state[: 1 + (kind == "lstm")])
        assert_same(program(weights, x, state), module(x, state))


def test_only_brief_calls_of_one_thread_are_prepared() -> None:
    backend, _ = ops.choose("cython", None)
    drawn = np.random.default_rng(0).normal

    def is_prepared(T: int, H: int, cell: Any = CELLS["lstm"], hr: Array | None = None) -> bool:
        P = H if hr is None else len(hr)
        state = (drawn(size=(1, P)), drawn(size=(1, H)))[: len(cell.states)]
        return (
            backend.prepare(
                cell,
                drawn(size=(T, 1, I)),
                state,
                Weights(drawn(size=(len(cell.gates) * H, I)), drawn(size=(len(cell.gates) * H, P)), hr=hr),
            )
            is not None
        )

    assert is_prepared(1, 64)
    assert is_prepared(8, 32, CELLS["gru"])
    assert not is_prepared(1, 512)  # lets other threads of Python run
    assert not is_prepared(3000, 1, CELLS["rnn_tanh"])  # looks for signals
    assert not is_prepared(1, 8, hr=drawn(size=(3, 8)))
    assert not is_prepared(1, 8, lstm_with("hard_sigmoid"))  # a program


def test_brief_calls_look_at_every_array() -> None:
    """One whose state or weights do not fit is not run as the one before it."""
    what = layer.Layer("lstm", 1, ("ih", "hh"), (), "zero", "zero", "cython")
    x, state, weights = np.ones((1, N, I)), [np.ones((1, N, H))] * 2, [np.ones((4 * H, I)), np.ones((4 * H, H))]
    layer.run(what, x, (), state, weights)
    for states, its in (([*state[:1], state[0][:, :1]], weights), (state, [weights[0][: 4 * H - 4], weights[1]])):
        with pytest.raises(jax.errors.JaxRuntimeError, match="expected"):
            jax.block_until_ready(layer.run(what, x, (), states, its))


def test_brief_calls_of_many_threads_do_not_meet() -> None:
    params, program = drawn("lstm"), jax.jit(ours.lstm)
    xs = [inputs() * scale for scale in range(1, 5)]
    want = [program(params, x) for x in xs]
    with ThreadPoolExecutor(4) as threads:
        for i, got in enumerate(threads.map(lambda i: program(params, xs[i % 4]), range(200))):
            assert_same(got, want[i % 4])


def test_tapes_lie_in_the_arrays_that_xla_gives() -> None:
    """Where these are aligned and large enough; else they are copied there."""
    backend, _ = ops.choose("cython", None)
    rng = np.random.default_rng(5)
    x, state = rng.normal(size=(T, N, I)), (rng.normal(size=(N, H)), rng.normal(size=(N, H)))
    weights = Weights(rng.normal(size=(4 * H, I)), rng.normal(size=(4 * H, H)))
    sizes = ops.kept_sizes(backend, CELLS["lstm"], (T, N, T * N, H, 0), x.dtype)
    rooms = [aligned(size + 8) for size in sizes]
    run = lambda *kept: ops.forward(backend, CELLS["lstm"], x, state, weights, 1, kept=kept)  # noqa: E731
    want = ops.keep(run()[2])
    for kept, inside in ((rooms, True), ([room[1:] for room in rooms], False), ([room[:4] for room in rooms], False)):
        got = ops.keep(run(*kept)[2])
        for one, other, room in zip(got, want, kept, strict=True):
            np.testing.assert_array_equal(one, other)
            assert np.may_share_memory(one, room) == inside


def aligned(size: int) -> Array:
    """Doubles from a cache line on."""
    array = np.empty(size + 8)
    return array[-array.ctypes.data % 64 // 8 :][:size]


def test_every_kind_has_a_function() -> None:
    assert list(FUNCTIONS) == list(KINDS)
