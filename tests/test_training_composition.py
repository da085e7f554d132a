"""Last and Sequential against torch: values and every gradient."""

from __future__ import annotations

import copy
import math
import re
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from calls import Call, kinds, make, make_torch, module_of
from tolerances import assert_close, assert_same_bits

import fastrnn
import fastrnn.cells
from fastrnn.parameters import Array
from fastrnn.training import (
    Dropout,
    Embedding,
    Last,
    Linear,
    ReLU,
    Sequential,
    check_gradients,
    cross_entropy,
    fit,
)

OPTIONS: list[dict[str, Any]] = [
    {},
    {"num_layers": 2},
    {"bidirectional": True},
    {"num_layers": 2, "bidirectional": True, "batch_first": True},
    {"batched": False, "bidirectional": True},
    {"proj_size": 4, "num_layers": 2, "bidirectional": True},
]
LIMIT = 1e-12


def torch_last(module: Any, x: Any, length: int | None) -> Any:
    """The final h of the last layer for one sequence (T, I), directions side by side."""
    state_n = module(x if length is None else x[:length])[1]
    h_n = state_n[0] if isinstance(state_n, tuple) else state_n
    return h_n[-2:].flatten() if module.bidirectional else h_n[-1]


@kinds
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("ragged", [False, True], ids=["dense", "ragged"])
def test_last_equals_torch(torch: ModuleType, kind: str, options: dict[str, Any], ragged: bool) -> None:
    """Row by row in torch: it is the state after the last real step, whatever the padding holds."""
    if kind != "lstm":
        options = {name: value for name, value in options.items() if name != "proj_size"}
    call = Call(kind, 5, 4, 3, 6, **options, ragged=ragged and options.get("batched", True))
    module = module_of(call)
    lengths = None if call.lengths is None else np.maximum(call.lengths, 1)
    x = call.arrays()["x"]
    time = 1 if call.batch_first else 0
    if lengths is not None:
        padding = np.arange(call.T)[:, None] >= lengths
        x[padding.T if call.batch_first else padding] = np.nan
    h, tape = Last(module).forward(x, lengths)
    dh = np.random.default_rng(5).uniform(-1, 1, h.shape)
    dx, grads = Last(module).backward(tape, dh)

    twin = make_torch(torch, kind, *call.sizes, **call.options | {"batch_first": False}, dtype=torch.float64)
    twin.load_state_dict({name: torch.from_numpy(value) for name, value in module.state_dict().items()})
    x_twin = torch.tensor(x, requires_grad=True)
    if call.batched:
        real = [None] * call.N if lengths is None else lengths
        h_twin = torch.stack([torch_last(twin, x_twin.select(1 - time, n), real[n]) for n in range(call.N)])
    else:
        h_twin = torch_last(twin, x_twin, None)
    h_twin.backward(torch.from_numpy(dh))

    assert_same_bits("h of a call", Last(module)(x, lengths), h)
    assert_close("h", h, h_twin.detach().numpy(), LIMIT)
    assert_close("dx", dx, x_twin.grad.numpy(), LIMIT)
    assert list(grads) == [name for name, _ in twin.named_parameters()]
    for name, p in twin.named_parameters():
        assert_close(name, grads[name], p.grad.numpy(), LIMIT)


def test_last_of_a_sequence_of_no_steps_is_zero() -> None:
    last = Last(make("lstm", 3, 4, dtype="float64"))
    h, tape = last.forward(np.ones((2, 3, 3)), [0, 2, 0])
    dx, _ = last.backward(tape, np.ones((3, 4)))
    assert not h[[0, 2]].any()
    assert h[1].all()
    assert not dx[:, [0, 2]].any()


def model_of(kind: str, **options: Any) -> Sequential:
    """Tokens to logits, in float64, with a Sequential inside."""
    rnn = make(kind, 5, 6, **options, dtype="float64", seed=2)
    lower = Sequential({"rnn": rnn, "mix": Linear(6 * rnn.directions, 4, dtype="float64", seed=3)})
    return Sequential(
        {
            "embedding": Embedding(9, 5, 0, dtype="float64", seed=1),
            "lower": lower,
            "upper": make(kind, 4, 7, dtype="float64", seed=4),
            "head": Linear(7, 9, dtype="float64", seed=5),
        }
    )


@kinds
def test_sequential_equals_torch(torch: ModuleType, kind: str) -> None:
    """Padded sequences, a loss that ignores the padding, a Sequential within."""
    model = model_of(kind, num_layers=2, bidirectional=True)
    rng = np.random.default_rng(0)
    T, lengths = 7, np.array([7, 2, 5, 1])
    padding = np.arange(T)[:, None] >= lengths
    tokens, targets = (np.where(padding, 0, rng.integers(1, 9, (T, 4))) for _ in range(2))

    logits, tape = model.forward(tokens, lengths)
    loss, dlogits = cross_entropy(logits, targets, ignore_index=0)
    dx, grads = model.backward(tape, dlogits)

    nn, double = torch.nn, {"dtype": torch.float64}
    parts = {
        "embedding": nn.Embedding(9, 5, 0, **double),
        "lower": nn.ModuleDict(
            {
                "rnn": make_torch(torch, kind, 5, 6, 2, bidirectional=True, **double),
                "mix": nn.Linear(12, 4, **double),
            }
        ),
        "upper": make_torch(torch, kind, 4, 7, **double),
        "head": nn.Linear(7, 9, **double),
    }
    twin = nn.ModuleDict(parts)
    twin.load_state_dict({name: torch.from_numpy(value) for name, value in model.state_dict().items()})
    total = 0.0
    for n, length in enumerate(lengths):
        y = parts["lower"]["rnn"](parts["embedding"](torch.from_numpy(tokens[:length, n])))[0]
        y = parts["head"](parts["upper"](parts["lower"]["mix"](y))[0])
        assert_close("logits", logits[:length, n], y.detach().numpy(), LIMIT)
        total += nn.functional.cross_entropy(y, torch.from_numpy(targets[:length, n]), reduction="sum")
    (total / int(lengths.sum())).backward()

    assert dx is None
    assert_close("loss", np.array([loss]), np.array([total.item() / lengths.sum()]), LIMIT)
    assert_same_bits("logits of a call", model(tokens, lengths), logits)
    assert list(grads) == list(model.parameters) == [name for name, _ in twin.named_parameters()]
    for name, p in twin.named_parameters():
        assert_close(name, grads[name], p.grad.numpy(), LIMIT)


def numbers_of(model: Sequential, x: Array, lengths: Any = None) -> float:
    y, _ = model.forward(x, lengths)
    return float(np.cos(np.arange(y.size).reshape(y.shape)).ravel() @ y.ravel())


def test_gradients_with_dropout_are_those_of_finite_differences() -> None:
    def make_model() -> Sequential:
        return Sequential(
            {
                "in": Linear(3, 5, dtype="float64", seed=1),
                "rnn": fastrnn.GRU(5, 4, 2, dropout=0.3, dtype="float64", seed=2),
                "dropout": Dropout(0.4, seed=3),
                "last": Last(fastrnn.LSTM(4, 6, dtype="float64", seed=4)),
                "head": Linear(6, 2, dtype="float64", seed=5),
            }
        )

    model, lengths = make_model(), [5, 0, 3]
    x = np.random.default_rng(0).uniform(-1, 1, (5, 3, 3))
    y, tape = model.forward(x, lengths)
    dx, grads = model.backward(tape, np.cos(np.arange(y.size).reshape(y.shape)))
    assert (y != model(x, lengths)).any()
    for name in ("x", *model.parameters):
        slopes, chosen = [], [0, -1]
        for at in chosen:
            values = []
            for step in (1e-5, -1e-5):
                moved = make_model()  # whose dropout draws the same
                x_moved = x.copy()
                array = x_moved if name == "x" else moved.parameters[name]
                array.ravel()[at] += step
                values.append(numbers_of(moved, x_moved, lengths))
            slopes.append((values[0] - values[1]) / 2e-5)
        gradient = dx if name == "x" else grads[name]
        assert_close(name, gradient.ravel()[chosen], np.array(slopes), 1e-8)


def test_real_input_has_a_gradient_and_lengths_go_where_they_are_taken() -> None:
    layers = {"rnn": make("gru", 3, 4, dtype="float64"), "head": Linear(4, 2, dtype="float64", seed=1)}
    model, x = Sequential(layers), np.random.default_rng(0).uniform(-1, 1, (5, 2, 3))
    y, tape = model.forward(x, [2, 5])
    dx, grads = model.backward(tape, np.ones_like(y))
    assert_same_bits("y", y, layers["head"](layers["rnn"](x, lengths=[2, 5])[0]))
    assert dx.shape == x.shape
    assert not dx[2:, 0].any()
    assert dx[:2].all()
    assert list(grads) == list(model.parameters)


class Reciprocal:
    """A layer whose derivative makes NaN of a gradient of zero where x is."""

    def __init__(self) -> None:
        self.parameters: dict[str, Array] = {}

    def forward(self, x: Array) -> tuple[Array, Array]:
        with np.errstate(divide="ignore"):
            return 1 / x, x

    def __call__(self, x: Array) -> Array:
        return self.forward(x)[0]

    def backward(self, tape: Array, dy: Array) -> tuple[Array, dict[str, Array]]:
        with np.errstate(divide="ignore", invalid="ignore"):
            return -dy / tape**2, {}


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("garbage", [np.nan, np.inf, -1e300])
@pytest.mark.parametrize("end", ["every", "last"])
def test_padding_touches_nothing(batch_first: bool, garbage: float, end: str) -> None:
    """Every layer before a recurrent one, and one of the user's that has infinities in the padding by itself."""

    def rnn(I: int, seed: int) -> fastrnn.GRU:
        return fastrnn.GRU(I, 5, bidirectional=True, dtype="float64", seed=seed, batch_first=batch_first)

    upper = rnn(5, 4)
    layers = {"dropout": Dropout(0.3, seed=0), "in": Linear(3, 4, dtype="float64", seed=1), "lower": rnn(4, 2)}
    layers |= {"own": Reciprocal(), "mix": Linear(10, 5, dtype="float64", seed=3)}
    layers |= {"upper": Last(upper) if end == "last" else upper, "head": Linear(10, 2, dtype="float64", seed=5)}
    lengths = np.array([4, 6, 0, 1])
    real = np.arange(6)[:, None] < lengths
    real = real.T if batch_first else real
    x = np.random.default_rng(0).uniform(-1, 1, (*real.shape, 3))
    found = []
    for padding in (0.0, garbage):
        model = Sequential({"inner": Sequential(copy.deepcopy(layers))})
        given = np.where(real[..., None], x, padding)
        before = given.copy()
        y, tape = model.forward(given, lengths)
        dy = np.cos(np.arange(y.size).reshape(y.shape))
        if end == "every":
            dy[~real] = 0
        dx, grads = model.backward(tape, dy)
        assert_same_bits("x, which is the caller's", given, before)
        found.append({"y": y, "dx": dx, "y of a call": model(given, lengths)} | grads)
    assert all(np.isfinite(array).all() for array in found[0].values())
    for name, want in found[0].items():
        assert_same_bits(name, found[1][name], want)


@pytest.mark.parametrize("token", [-1, 9, 10**12])
def test_padding_of_tokens_may_be_any(token: int) -> None:
    lengths = np.array([4, 0, 2])
    real = np.arange(4)[:, None] < lengths
    tokens = np.random.default_rng(0).integers(0, 9, real.shape)
    found = []
    for padding in (0, token):
        model = model_of("lstm")
        model.parameters["embedding.weight"][0] = np.nan  # of token 0, which only the padding has
        given = np.where(real, np.maximum(tokens, 1), padding)
        y, tape = model.forward(given, lengths)
        _, dlogits = cross_entropy(y, np.where(real, tokens, -1), ignore_index=-1)
        found.append({"y": y[real], "y of a call": model(given, lengths)[real]} | model.backward(tape, dlogits)[1])
    for name, want in found[0].items():
        assert np.isfinite(want).all()
        assert_same_bits(name, found[1][name], want)


def test_state_dict_goes_in_and_out() -> None:
    model, other = model_of("gru"), model_of("gru", num_layers=1)
    for p in other.parameters.values():
        p += 1
    tokens = np.arange(8).reshape(4, 2)
    held = other.parameters["lower.rnn.weight_ih_l0"]
    state = model.state_dict()
    other.load_state_dict(state)
    assert_same_bits("y", other(tokens), model(tokens))
    assert_same_bits("a parameter, filled and not replaced", held, state["lower.rnn.weight_ih_l0"])
    model.parameters["head.bias"][...] += 1
    assert (state["head.bias"] != model.parameters["head.bias"]).all()
    assert_same_bits("y of a copy", copy.deepcopy(model)(tokens), model(tokens))


def test_failed_load_loads_nothing() -> None:
    model = model_of("lstm")
    before = model.state_dict()
    wrong = {name: np.zeros_like(value) for name, value in before.items()} | {"head.bias": np.zeros(3)}
    with pytest.raises(ValueError, match=re.escape("state_dict['head.bias'] has shape (3,); expected (9,)")):
        model.load_state_dict(wrong)
    for name, value in model.parameters.items():
        assert_same_bits(name, value, before[name])


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("with_lengths", [False, True])
@pytest.mark.parametrize("end", ["every", "last"])
def test_masks_and_resets_reach_every_recurrent_layer(batch_first: bool, with_lengths: bool, end: str) -> None:
    """As running the parts by hand does; and the gradients are those of differences."""

    def rnn(kind: str, I: int, seed: int) -> Any:
        options = {"dtype": "float64", "seed": seed, "batch_first": batch_first}
        cell = fastrnn.cells.slstm
        return fastrnn.Recurrent(cell, I, 5, **options) if kind == "written" else make(kind, I, 5, **options)

    lower, upper = rnn("lstm", 3, 1), rnn("written", 4, 3)
    layers: dict[str, Any] = {"lower": Sequential({"rnn": lower}), "mix": Linear(5, 4, dtype="float64", seed=2)}
    layers["upper"] = Last(upper) if end == "last" else upper
    rng = np.random.default_rng(0)
    shape = (4, 6) if batch_first else (6, 4)
    x = rng.uniform(-1, 1, (*shape, 3))
    which: dict[str, Any] = {"mask": rng.random(shape) < 0.7, "resets": rng.random(shape) < 0.3}
    if with_lengths:
        which["lengths"] = np.array([6, 3, 0, 5])
    model = Sequential(layers)
    y, _ = model.forward(x, **which)

    between = layers["mix"](lower(x, **which)[0])
    every, state_n = upper(between, **which)
    assert_same_bits("y", y, state_n[0][-1] if end == "last" else every)
    assert_same_bits("y of a call", model(x, **which), y)
    assert (y != model(x, which.get("lengths"))).any()
    assert check_gradients(model, x, **which).largest < 1e-6


def test_masked_steps_may_hold_anything() -> None:
    """A layer of the user's that makes infinities of zeros, before a recurrent one; no gradient comes back there."""
    model = Sequential(
        Reciprocal(), make("gru", 3, 4, dtype="float64", bidirectional=True), Linear(8, 2, dtype="float64")
    )
    rng = np.random.default_rng(1)
    mask = rng.random((5, 3)) < 0.6
    found = []
    for garbage in (1.0, np.nan):
        x = np.where(mask[..., None], rng.uniform(1, 2, (5, 3, 3)) if not found else found[0]["x"], garbage)
        y, tape = model.forward(x, mask=mask)
        dx, grads = model.backward(tape, np.where(mask[..., None], np.cos(np.arange(30)).reshape(5, 3, 2), 0))
        found.append({"x": x, "y": y, "dx": dx} | grads)
    for name in found[0].keys() - {"x"}:
        assert np.isfinite(found[0][name]).all()
        assert_same_bits(name, found[1][name], found[0][name])
    assert not found[0]["dx"][~mask].any()


def test_a_single_sequence_has_a_mask() -> None:
    gru, x = make("gru", 3, 4, dtype="float64"), np.random.default_rng(0).uniform(-1, 1, (5, 3))
    model = Sequential({"mix": Linear(3, 3, dtype="float64", seed=1), "rnn": gru})
    mask, resets = np.array([1, 0, 1, 1, 0], bool), np.array([0, 0, 0, 1, 0], bool)
    assert_same_bits("y", model(x, mask=mask, resets=resets), gru(model.layers["mix"](x), mask=mask, resets=resets)[0])
    assert not model(x, mask=mask)[~mask].any()


def stateful(kind: str) -> Sequential:
    """Two recurrent layers, one of them in a Sequential within, in float64."""
    lower = Sequential({"rnn": make(kind, 3, 4, num_layers=2, dtype="float64", seed=1), "relu": ReLU()})
    upper = fastrnn.Recurrent(fastrnn.cells.slstm, 4, 5, dtype="float64", seed=2)
    return Sequential({"lower": lower, "last": Last(upper), "head": Linear(5, 2, dtype="float64", seed=3)})


def states_of(kind: str, rng: np.random.Generator) -> dict[str, Any]:
    """Of three sequences."""
    lower = tuple(rng.uniform(-1, 1, (2, 3, 4)) for _ in range(2 if kind == "lstm" else 1))
    return {
        "lower.rnn": lower if len(lower) > 1 else lower[0],
        "last": tuple(rng.uniform(0.5, 1, (1, 3, 5)) for _ in range(4)),
    }


class Flat:
    """A model as `check_gradients` takes it: its states in a tuple."""

    def __init__(self, model: Sequential, names: list[str], counts: list[int]) -> None:
        self.model, self.names, self.counts = model, names, counts

    @property
    def parameters(self) -> Any:
        return self.model.parameters

    def pack(self, states: Any) -> dict[str, Any]:
        parts = iter(states)
        found = {name: tuple(next(parts) for _ in range(k)) for name, k in zip(self.names, self.counts, strict=True)}
        return {name: each if len(each) > 1 else each[0] for name, each in found.items()}

    def flat(self, states: Any) -> tuple[Any, ...]:
        found: list[Any] = []
        for name in self.names:
            found += states[name] if isinstance(states[name], tuple) else [states[name]]
        return tuple(found)

    def forward(self, x: Any, state: Any, lengths: Any = None, *, mask: Any = None, resets: Any = None) -> Any:
        y, state_n, tape = self.model.forward(x, lengths, mask=mask, resets=resets, state=self.pack(state))
        return y, self.flat(state_n), tape

    def backward(self, tape: Any, dy: Any, dstate: Any) -> Any:
        dx, dstate_0, grads = self.model.backward(tape, dy, self.pack(dstate))
        return dx, self.flat(dstate_0), grads


@pytest.mark.parametrize("kind", ["lstm", "gru"])
@pytest.mark.parametrize("flags", [False, True])
def test_gradients_of_initial_and_final_states_are_those_of_differences(kind: str, flags: bool) -> None:
    rng = np.random.default_rng(0)
    x, states = rng.uniform(-1, 1, (5, 3, 3)), states_of(kind, rng)
    model = Flat(stateful(kind), list(states), [2 if kind == "lstm" else 1, 4])
    which = (
        {"mask": rng.random((5, 3)) < 0.7, "resets": rng.random((5, 3)) < 0.2, "lengths": [5, 0, 3]} if flags else {}
    )
    errors = check_gradients(model, x, model.flat(states), **which)
    assert len(errors) == 1 + sum(model.counts) + len(model.parameters)
    assert errors.largest < 1e-6


@pytest.mark.parametrize("kind", ["rnn_tanh", "lstm", "gru"])
def test_a_state_goes_from_call_to_call(kind: str) -> None:
    """Two halves are the whole; what is left out begins with zeros; without a state the results are as ever."""
    rng = np.random.default_rng(1)
    x, model = rng.uniform(-1, 1, (6, 3, 3)), stateful(kind)
    assert list(model(x, state={})[1]) == ["lower.rnn", "last"]
    y, state = model(x, state={})
    assert_same_bits("y", y, model(x))
    _, halfway = model(x[:2], state={})
    y_2, state_2 = model(x[2:], state=halfway)
    y_3, state_3, tape = model.forward(x[2:], state=halfway)
    assert list(state) == list(state_3) == ["lower.rnn", "last"]
    assert_same_bits("y of halves", y_2, y)
    assert_same_bits("y of forward", y_3, y)
    for name in state:
        for found, again, want in zip(
            *(np.atleast_3d(np.array(s[name])) for s in (state_2, state_3, state)), strict=True
        ):
            assert_same_bits(name, found, want)
            assert_same_bits(name, again, want)
    _, dstate, grads = model.backward(tape, np.ones_like(y), {})
    y_4, tape = model.forward(x[2:], state=None)
    assert (y_4 != y).any()
    assert list(dstate) == ["lower.rnn", "last"]
    assert list(grads) == list(model.parameters)
    assert len(model.backward(tape, np.ones_like(y))) == 2


class Doubled(Last):
    def forward(self, *arguments: Any, **options: Any) -> Any:
        h, tape = super().forward(*arguments, **options)
        return 2 * h, tape

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return 2 * super().__call__(*arguments, **options)


def test_a_layer_that_is_a_subclass_computes_what_it_says() -> None:
    gru, x = make("gru", 3, 4, dtype="float64"), np.random.default_rng(0).uniform(-1, 1, (5, 2, 3))
    model, h = Sequential(Doubled(gru)), Last(gru)(x)
    assert_same_bits("y", model(x), 2 * h)
    assert_same_bits("y of forward", model.forward(x)[0], 2 * h)


class OfLengths(Reciprocal):
    takes_lengths = True


LINEAR = {"head": Linear(3, 2)}
BAD_CALLS = {
    "a list of others": (
        lambda: Sequential([1]),
        TypeError,
        "layers['0'] is 1; expected a layer",
    ),
    "no name": (lambda: Sequential({1: Linear(1, 1)}), ValueError, "layers has the name 1; expected one without a dot"),
    "a class": (
        lambda: Sequential({"a": Linear}),
        TypeError,
        "layers['a'] is <class 'fastrnn.training.layers.Linear'>; expected a layer",
    ),
    "twice": (lambda: Sequential(LINEAR | {"again": LINEAR["head"]}), ValueError, "layers has one layer twice"),
    "no layers": (lambda: Sequential({}), ValueError, "layers is empty"),
    "dot": (lambda: Sequential({"a.b": Linear(1, 1)}), ValueError, "layers has the name 'a.b'; expected one without a"),
    "not a layer": (
        lambda: Sequential({"a": math.tanh}),
        TypeError,
        "layers['a'] is <built-in function tanh>; expected a layer",
    ),
    "lengths": (
        lambda: Sequential({"inner": Sequential(LINEAR)})(np.zeros((2, 3), "f"), [1, 2]),
        ValueError,
        "lengths is given, but none of the layers inner takes any",
    ),
    "mask": (
        lambda: Sequential(LINEAR)(np.zeros((2, 3), "f"), mask=[True, False]),
        ValueError,
        "mask is given, but none of the layers head takes any",
    ),
    "resets of a layer of lengths": (
        lambda: Sequential({"own": OfLengths(), "rnn": fastrnn.GRU(3, 4)})(np.zeros((2, 1, 3), "f"), resets=[[1], [0]]),
        ValueError,
        "resets is given, but the layer own takes lengths alone; expected one whose takes_masks is true",
    ),
    "mask of numbers": (
        lambda: Sequential(LINEAR | {"rnn": fastrnn.GRU(2, 4)})(np.zeros((2, 1, 3), "f"), mask=np.ones((2, 1))),
        TypeError,
        "mask has dtype float64; expected bool: use mask.astype(bool)",
    ),
    "mask of another shape": (
        lambda: Sequential(LINEAR | {"rnn": fastrnn.GRU(2, 4)})(np.zeros((2, 1, 3), "f"), mask=np.ones((1, 2), bool)),
        ValueError,
        "mask has shape (1, 2); expected (T, N) = (2, 1): use mask.T",
    ),
    "a state of no layer": (
        lambda: stateful("gru")(np.zeros((2, 3, 3)), state={"head": 1}),
        ValueError,
        "state has 'head'; expected some of lower.rnn, last",
    ),
    "states of another kind": (
        lambda: stateful("gru")(np.zeros((2, 3, 3)), state=np.zeros((1, 3, 4))),
        TypeError,
        "state is an array of shape (1, 3, 4) and dtype float64; expected a mapping of names of recurrent layers",
    ),
    "a state without recurrent layers": (
        lambda: Sequential(LINEAR)(np.zeros((2, 3), "f"), state={"head": 1}),
        ValueError,
        "state has 'head'; expected none: no layer is recurrent",
    ),
    "names": (lambda: Sequential(LINEAR).load_state_dict({"head.weight": 0}), KeyError, "missing ['head.bias']"),
    "tape": (
        lambda: Sequential(LINEAR).backward([], np.zeros((1, 2), "f")),
        TypeError,
        "tape is not of this model; expected",
    ),
    "last": (lambda: Last(Linear(3, 2)), TypeError, "rnn is Linear(3, 2); expected fastrnn.RNN, LSTM or GRU"),
    "dh": (
        lambda: (last := Last(fastrnn.GRU(3, 4))).backward(
            last.forward(np.zeros((5, 2, 3), "f"))[1], np.zeros((2, 3), "f")
        ),
        ValueError,
        "dh has shape (2, 3); expected the shape of h = (2, 4)",
    ),
}


@pytest.mark.parametrize(("call", "error", "match"), BAD_CALLS.values(), ids=BAD_CALLS)
def test_bad_input(call: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=re.escape(match)):
        call()


# ---- without a gradient of x


class Counting(fastrnn.GRU):
    """Says which of its calls of backward were to find dx."""

    asked: tuple[bool, ...] = ()

    def backward(self, *given: Any, of_x: bool = True, **options: Any) -> Any:
        self.asked = (*self.asked, of_x)
        return super().backward(*given, of_x=of_x, **options)


@pytest.mark.parametrize("end", ["every", "last"])
@pytest.mark.parametrize("first", ["rnn", "dropout", "within", "linear"])
def test_without_dx_the_other_gradients_have_the_same_bits(first: str, end: str) -> None:
    x = np.random.default_rng(0).standard_normal((6, 4, 3)).astype("float32")
    found = []
    for of_x in (True, False):
        rnn = Counting(3, 5, 2, dropout=0.2, bidirectional=True, seed=0)
        lowest: Any = Last(rnn) if end == "last" else rnn
        layers: list[Any] = [lowest, ReLU(), Linear(10, 2, seed=1)]
        if first == "dropout":
            layers = [Dropout(0.3, seed=5), *layers]
        elif first == "within":
            layers = [Sequential(*layers[:2]), layers[2]]
        elif first == "linear":  # it knows of no of_x, and the recurrent layer finds dx for it
            layers = [Linear(3, 3, seed=2), *layers]
        model = Sequential(*layers)
        y, tape = model.forward(x, [6, 2, 0, 5])
        dx, grads = model.backward(tape, np.ones_like(y), of_x=of_x)
        assert (dx is None) != of_x
        assert rnn.asked == (of_x or first == "linear",)
        assert grads.keys() == model.parameters.keys()
        found.append(grads)
    for name, want in found[0].items():
        assert_same_bits(name, found[1][name], want)


@pytest.mark.parametrize("backend", ["cython", "numpy"])
@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True}], ids=str)
@pytest.mark.parametrize("every", [None, 2])
def test_a_module_leaves_dx_out(backend: str, options: dict[str, Any], every: int | None) -> None:
    module = fastrnn.LSTM(3, 5, backend=backend, seed=0, **options)
    x = np.random.default_rng(0).standard_normal((70, 4, 3)).astype("float32")
    found = []
    for of_x in (True, False):
        y, _, tape = module.forward(x, checkpoint_every=every)
        dx, dstate, grads = module.backward(tape, np.ones_like(y), of_x=of_x)
        assert (dx is None) != of_x
        found.append({"dh": dstate[0], "dc": dstate[1]} | grads)
    for name, want in found[0].items():
        assert_same_bits(name, found[1][name], want)
    _, _, tape = module.forward(x)
    with pytest.raises(TypeError, match="of_x is 1; expected True or False"):
        module.backward(tape, of_x=1)


def test_fit_does_not_ask_for_the_gradient_of_its_data() -> None:
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((12, 6, 3)).astype("float32"), rng.standard_normal((12, 1)).astype("float32")
    rnn = Counting(3, 5, seed=0)
    fit(Sequential(Last(rnn), Linear(5, 1, seed=1)), X, y, epochs=2, batch_size=6, loss="mse", validation=None)
    assert rnn.asked == (False,) * 4
