"""Whatever Python does to arrays, attributes and objects, between calls or during them: an error or the right result.

A fault of this kind is a crash of the interpreter, or a gradient that is wrong in silence.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import pickle
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from calls import Refusals, as_tuple, backends, kinds, make
from tolerances import assert_close, assert_same_bits

import fastrnn
from fastrnn.checks import LARGEST
from fastrnn.errors import BackendError
from fastrnn.parameters import Array
from fastrnn.training import Embedding, Linear

T, N, I, H = 9, 4, 27, 16


def tokens() -> Array:
    return np.random.default_rng(0).integers(0, I, (T, N))


def real() -> Array:
    return np.random.default_rng(0).standard_normal((T, N, I)).astype(np.float32)


def assert_same_gradients(one: Any, other: Any) -> None:
    for name, gradient in one[2].items():
        assert_same_bits(name, gradient, other[2][name])
    for a, b in zip(as_tuple(one[1]), as_tuple(other[1]), strict=True):
        assert_same_bits("dstate_0", a, b)
    if one[0] is not None:
        assert_same_bits("dx", one[0], other[0])


# ---- arrays of the caller


WAYS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "plain": ({}, {}),
    "checkpoints": ({}, {"checkpoint_every": 2}),
    "lengths": ({}, {"lengths": [T, 3, 0, 5]}),
    "bidirectional": ({"bidirectional": True, "num_layers": 2}, {}),
}


@backends
@kinds
@pytest.mark.parametrize("value", [3, 200, -1, 10**9])
@pytest.mark.parametrize("way", list(WAYS))
def test_tokens_may_change_after_forward(backend: str, kind: str, value: int, way: str) -> None:
    options, arguments = WAYS[way]
    module = make(kind, I, H, backend=backend, **options)
    x = tokens()
    y, _, tape = module.forward(x, **arguments)
    _, _, changed = module.forward(x, **arguments)
    right = module.backward(tape, np.ones_like(y))
    x[...] = value
    assert_same_gradients(module.backward(changed, np.ones_like(y)), right)


@backends
def test_tokens_of_a_cell_may_change_after_forward(backend: str) -> None:
    cell, x = fastrnn.LSTMCell(I, H, seed=0, backend=backend), tokens()[0]
    (h, c), tape = cell.forward(x)
    _, changed = cell.forward(x)
    right = cell.backward(tape, (np.ones_like(h), c))
    x[...] = 10**9
    assert_same_gradients(cell.backward(changed, (np.ones_like(h), c)), right)


def test_tokens_of_an_embedding_may_change_after_forward() -> None:
    embedding, x = Embedding(I, H, seed=0), tokens()
    y, tape = embedding.forward(x)
    right = embedding.backward(tape, y)[1]["weight"]
    x[...] = -1
    assert_same_bits("weight", embedding.backward(tape, y)[1]["weight"], right)


@backends
@kinds
@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True}], ids=str)
def test_real_input_that_has_changed_is_an_error(backend: str, kind: str, options: dict[str, Any]) -> None:
    module, x = make(kind, I, H, backend=backend, **options), real()
    y, _, tape = module.forward(x)
    before = x.copy()
    x[...] = np.random.default_rng(1).standard_normal(x.shape)
    with pytest.raises(ValueError, match="x was changed after forward"):
        module.backward(tape, np.ones_like(y))
    x[...] = before
    assert_same_gradients(
        module.backward(tape, np.ones_like(y)), module.backward(module.forward(x)[2], np.ones_like(y))
    )


def test_real_input_of_a_cell_that_has_changed_is_an_error() -> None:
    cell, x = fastrnn.GRUCell(I, H, seed=0), real()[0]
    h, tape = cell.forward(x)
    x += 1
    with pytest.raises(ValueError, match="x was changed after forward"):
        cell.backward(tape, h)


@backends
@pytest.mark.parametrize("way", ["batch_first", "lengths", "spread"])
def test_real_input_that_was_copied_may_change(backend: str, way: str) -> None:
    module = make("lstm", I, H, backend=backend, batch_first=way == "batch_first")
    x = real()[:, ::2] if way == "spread" else real()
    if way == "batch_first":
        x = x.swapaxes(0, 1).copy()
    arguments = {"lengths": [T, 3, 0, 5]} if way == "lengths" else {}
    y, _, tape = module.forward(x, **arguments)
    _, _, changed = module.forward(x, **arguments)
    right = module.backward(tape, np.ones_like(y))
    x[...] = np.nan
    assert_same_gradients(module.backward(changed, np.ones_like(y)), right)


def shrink(array: Array) -> None:
    array.resize(1, refcheck=False)


@backends
@pytest.mark.parametrize("whose", ["x", "y", "parameter"])
def test_memory_that_a_tape_reads_stays(backend: str, whose: str) -> None:
    """`resize(refcheck=False)` gives memory back at once: NumPy or backward refuses."""
    module, x = make("rnn_tanh", I, 64, backend=backend), real()
    y, _, tape = module.forward(x)
    dy = np.ones_like(y)
    right = module.backward(module.forward(x.copy())[2], dy)
    its = {"x": x, "y": y, "parameter": module.parameters["weight_hh_l0"]}[whose]
    if error_of(lambda: shrink(its)) is None:
        assert whose != "parameter"
        with pytest.raises(ValueError, match=r"since forward|x was changed"):
            module.backward(tape, dy)
    else:
        assert_same_gradients(module.backward(tape, dy), right)


@backends
def test_initial_states_may_change_after_forward(backend: str) -> None:
    module, x, h_0 = make("gru", I, 64, backend=backend), real(), np.ones((1, N, 64), np.float32)
    y, _, tape = module.forward(x, h_0)
    right = module.backward(module.forward(x, h_0)[2], np.ones_like(y))
    shrink(h_0)
    assert_same_gradients(module.backward(tape, np.ones_like(y)), right)


@backends
@pytest.mark.parametrize("what", ["tokens", "lengths"])
def test_indices_that_change_during_calls_never_lead_out_of_memory(backend: str, what: str) -> None:
    """Another thread writes while the interpreter's lock is released: each call takes what it saw, or refuses."""
    module = make("lstm", I, H, backend=backend)
    x, lengths = tokens(), np.full(N, T)
    stop = threading.Event()
    written = x if what == "tokens" else lengths
    good = written.copy()

    def write() -> None:
        while not stop.is_set():
            for values in (10**15, good):
                written[...] = values
                time.sleep(0)

    writer = threading.Thread(target=write)
    writer.start()
    refused = 0
    for k in range(300):
        for _ in range(1 + k % 2):  # an even and an odd number of turns for the other: calls begin with either
            time.sleep(0)
        outcome: list[Any] = []
        text = error_of(lambda outcome=outcome: outcome.append(module.forward(x, lengths=lengths)))
        assert text is None or " holds " in text
        refused += text is not None
        if outcome:
            y, _, tape = outcome[0]
            module.backward(tape, np.ones_like(y))
    stop.set()
    writer.join()
    assert refused < 300


@pytest.fixture
def hasty_switches() -> Iterator[None]:
    """Threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def set_attribute(array: Array, name: str, value: Any) -> None:  # a call: between two of them threads take turns
    with contextlib.suppress(ValueError, TypeError):  # what the other attribute, or a read-only array, does not allow
        setattr(array, name, value)


@backends
@pytest.mark.parametrize("whose", ["x", "y", "dy", "parameter"])
@pytest.mark.usefixtures("hasty_switches")
def test_shapes_and_dtypes_that_change_during_calls_never_lead_out_of_memory(backend: str, whose: str) -> None:
    """Another thread sets them between any two lines: each call goes by what it looked at, or refuses."""
    module = make("lstm", I, H, backend=backend)
    stop, its = threading.Event(), np.zeros(8, np.float32)
    warm, _, tape = module.forward(real())
    module.backward(tape, np.ones_like(warm))

    def change() -> None:
        while not stop.is_set():
            array = its
            shape, dtype = array.shape, array.dtype
            for name, value in (("dtype", np.int32), ("dtype", np.float64), ("shape", -1)):
                set_attribute(array, name, value)
            set_attribute(array, "dtype", dtype)
            set_attribute(array, "shape", shape)

    changer = threading.Thread(target=change)
    changer.start()
    done, started = 0, time.monotonic()
    while (seconds := time.monotonic() - started) < 1.5 or (
        not done and seconds < 60
    ):  # one call at least is left alone
        with contextlib.suppress(ValueError, TypeError, IndexError):
            x, dy = real(), np.ones_like(warm)
            its = {"x": x, "parameter": module.parameters["weight_ih_l0"]}.get(whose, dy)
            module(x)
            y, _, tape = module.forward(x)
            if whose == "y":
                its = y
            module.backward(tape, dy)
            done += 1
    stop.set()
    changer.join()
    assert done


def error_of(call: Callable[[], Any]) -> str | None:
    """What the error says that a call ends in, of those that stand for a refusal; None if it succeeds."""
    refusals = Refusals(ValueError, RuntimeError)
    with refusals:
        call()
    return refusals[0] if refusals else None


# ---- attributes


FIXED = {
    "input_size": 1,
    "hidden_size": 1,
    "bias": False,
    "dtype": np.dtype("float64"),
    "num_layers": 2,
    "bidirectional": True,
    "directions": 2,
    "proj_size": 3,
    "dropout": 0.5,
    "nonlinearity": "relu",
    "parameters": {},
}


@pytest.mark.parametrize("name", list(FIXED))
def test_what_the_parameters_were_made_for_is_fixed(name: str) -> None:
    module = make("rnn_tanh", I, H)
    before = getattr(module, name)
    with pytest.raises(AttributeError, match=f"^{name} of a RNN is fixed once it is made; "):
        setattr(module, name, FIXED[name])
    assert str(getattr(module, name)) == str(before)
    if name in ("input_size", "hidden_size", "bias", "dtype"):
        with pytest.raises(AttributeError, match=f"^{name} of a LSTMCell is fixed"):
            setattr(fastrnn.LSTMCell(3, 4), name, FIXED[name])
    with pytest.raises(AttributeError, match=f"^{name} of a RNN cannot be deleted"):
        delattr(module, name)


def test_what_a_call_looks_at_may_change_and_is_checked() -> None:
    module, x = make("lstm", 5, H), np.ones((2, 3, 5), np.float32)
    module.backend, module.num_threads, module.batch_first = "numpy", 1, True
    assert module(x)[1][0].shape == (1, 2, H)
    for name, value, error in (
        ("backend", np.ones(3), TypeError),
        ("backend", "fortran", BackendError),
        ("num_threads", 0, ValueError),
        ("batch_first", 1, TypeError),
    ):
        with pytest.raises(error, match=f"^{name} is "):
            setattr(module, name, value)
    assert (module.backend, module.num_threads, module.batch_first) == ("numpy", 1, True)


@pytest.mark.parametrize("flag", ["bias", "batch_first", "bidirectional"])
@pytest.mark.parametrize("value", ["relu", 1, None, np.ones(2)], ids=repr)
def test_flags_are_booleans(flag: str, value: Any) -> None:
    with pytest.raises(TypeError, match=rf"^{flag} is .*; expected True or False"):
        fastrnn.LSTM(3, 4, **{flag: value})


def test_positional_arguments_are_torchs(torch: ModuleType) -> None:
    for args in ((3, 4, 2, "relu", False, True, 0.25, True), (3, 4, 1, "tanh")):
        ours, theirs = fastrnn.RNN(*args), torch.nn.RNN(*args)
        assert_same_arguments(ours, theirs)
        assert ours.nonlinearity == theirs.nonlinearity
    for name in ("LSTM", "GRU"):
        args = (3, 4, 2, False, True, 0.25, True)
        assert_same_arguments(getattr(fastrnn, name)(*args), getattr(torch.nn, name)(*args))
    assert fastrnn.LSTM(3, 4, 1, True, False, 0.0, False, 2).proj_size == 2
    assert fastrnn.RNNCell(3, 4, False, "relu").nonlinearity == torch.nn.RNNCell(3, 4, False, "relu").nonlinearity


def assert_same_arguments(ours: Any, theirs: Any) -> None:
    for name in ("input_size", "hidden_size", "num_layers", "bias", "batch_first", "dropout", "bidirectional"):
        assert getattr(ours, name) == getattr(theirs, name), name
    assert list(ours.parameters) == [name for name, _ in theirs.named_parameters()]


# ---- parameters


def reshape(module: Any, name: str) -> Callable[[], None]:
    weight = module.parameters[name]
    shape = weight.shape
    weight.shape = (weight.size,) if weight.ndim == 2 else (2, weight.size // 2)
    return lambda: setattr(weight, "shape", shape)


def swap_axes(module: Any, name: str) -> Callable[[], None]:
    weight = module.parameters[name]
    shape = weight.shape
    weight.shape = shape[::-1] if weight.ndim == 2 else (2, weight.size // 2)
    return lambda: setattr(weight, "shape", shape)


def relabel(module: Any, name: str) -> Callable[[], None]:
    weight = module.parameters[name]
    weight.dtype = np.dtype([("a", "f4")]) if weight.ndim == 1 else np.int32
    return lambda: setattr(weight, "dtype", np.float32)


@pytest.mark.filterwarnings("ignore:Setting the (shape|dtype):DeprecationWarning")
@backends
@pytest.mark.parametrize("change", [reshape, swap_axes, relabel])
@pytest.mark.parametrize("name", ["weight_ih_l0", "weight_hh_l0", "weight_hr_l0", "bias_ih_l0", "bias_hh_l0"])
def test_parameters_of_another_shape_or_dtype_are_refused(
    backend: str, change: Callable[[Any, str], Callable[[], None]], name: str
) -> None:
    module, x = make("lstm", I, 64, backend=backend, proj_size=33), real()
    before, _ = module(x)
    y, _, tape = module.forward(x)
    stream = module.stream(N)
    undo = change(module, name)
    field = name.removesuffix("_l0")
    for call in (
        lambda: module(x),
        lambda: module.forward(x),
        lambda: module.trace(x),
        lambda: module.stream(N),
        lambda: stream.refresh(),
    ):
        with pytest.raises(ValueError, match=f"^{field} has shape"):
            call()
    with pytest.raises(ValueError, match=rf"^{field} has shape|since forward"):
        module.backward(tape, np.ones_like(y))
    undo()
    assert_same_bits("y", module(x)[0], before)
    assert_close("y", np.stack([stream.step(x_t) for x_t in x]), before, 1e-6)


@pytest.mark.filterwarnings("ignore:Setting the (shape|dtype):DeprecationWarning")
def test_dense_parameters_of_another_shape_or_dtype_are_refused() -> None:
    linear, x = Linear(6, 4, seed=0), np.ones((5, 6), np.float32)
    y, tape = linear.forward(x)
    for change in (swap_axes, relabel):
        undo = change(linear, "weight")
        with pytest.raises(ValueError, match="a product of"):
            linear(x)
        with pytest.raises(ValueError, match="a product of"):
            linear.backward(tape, y)
        undo()
    assert_same_bits("y", linear(x), y)


def test_assignment_to_a_parameter_writes_through() -> None:
    module, x = make("gru", 3, 4), np.ones((2, 1, 3), np.float32)
    live, before = module.parameters["weight_hh_l0"], module(x)[0]
    parameters = module.parameters
    parameters["weight_hh_l0"] = np.full((12, 4), 2.0)
    assert (live == 2).all()
    assert (module(x)[0] != before).any()
    parameters["weight_hh_l0"] *= 2
    assert (live == 4).all()
    parameters.update(weight_hh_l0=np.zeros((12, 4)), bias_hh_l0=np.ones(12))
    assert not live.any()
    parameters |= {"weight_hh_l0": np.ones((12, 4))}
    assert live.all()


@pytest.mark.parametrize(
    ("mistake", "error", "text"),
    [
        (
            lambda p: p.__setitem__("weight_hh", 1),
            KeyError,
            "'weight_hh' is no parameter; expected one of weight_ih_l0",
        ),
        (
            lambda p: p.__setitem__("weight_hh_l0", np.ones(3)),
            ValueError,
            r"parameters\['weight_hh_l0'\] has shape \(3,\)",
        ),
        (lambda p: p.__setitem__("bias_hh_l0", ["a"] * 12), TypeError, r"parameters\['bias_hh_l0'\] has dtype"),
        (lambda p: p.update(bias_hh_l0=np.ones(12), other=1), KeyError, "'other' is no parameter"),
        (lambda p: p.pop("bias_hh_l0"), TypeError, "names of parameters are fixed"),
        (lambda p: p.clear(), TypeError, "names of parameters are fixed"),
        (lambda p: p.__delitem__("bias_hh_l0"), TypeError, "names of parameters are fixed"),
        (lambda p: p.setdefault("other", 1), TypeError, "names of parameters are fixed"),
        (lambda p: p.popitem(), TypeError, "names of parameters are fixed"),
    ],
)
def test_assignment_to_a_parameter_is_checked(mistake: Callable[[Any], Any], error: type[Exception], text: str) -> None:
    module = make("gru", 3, 4)
    before = module.state_dict()
    with pytest.raises(error, match=text):
        mistake(module.parameters)
    for name, value in module.state_dict().items():
        assert_same_bits(name, value, before[name])


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda p: pickle.loads(pickle.dumps(p))])
def test_parameters_can_be_copied(duplicate: Callable[[Any], Any]) -> None:
    parameters = make("gru", 3, 4).parameters
    for name, value in duplicate(parameters).items():
        assert_same_bits(name, value, parameters[name])


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_memory_of_a_copys_parameters_cannot_be_moved(duplicate: Callable[[Any], Any]) -> None:
    for value in duplicate(make("lstm", 3, 4)).parameters.values():
        with pytest.raises(ValueError, match="does not own its data"):
            shrink(value)
        assert value[:1].base is value, "a view of it does not count as a reference"


# ---- sizes


@backends
@pytest.mark.parametrize("steps", [0, 3, 10**9])
@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True, "dropout": 0.5}], ids=str)
@pytest.mark.parametrize("arguments", [{}, {"checkpoint_every": 3}, {"lengths": []}], ids=str)
def test_a_batch_of_no_sequences_takes_no_time(
    backend: str, steps: int, options: dict[str, Any], arguments: dict[str, Any]
) -> None:
    module = make("lstm", 4, 8, backend=backend, **options)
    P = 8 * module.directions
    for x in (np.zeros((steps, 0, 4), np.float32), np.zeros((steps, 0), int)):
        y, (h_n, _), tape = module.forward(x, **arguments)
        assert y.shape == (steps, 0, P)
        assert h_n.shape[1] == 0
        dx, _, grads = module.backward(tape, np.zeros_like(y))
        assert dx is None or dx.shape == x.shape
        assert not any(g.any() for g in grads.values())
        assert module(x)[0].shape == y.shape
        assert {a.shape[:2] for a in module.trace(x).values()} == {(steps, 0)}


@pytest.mark.parametrize("size", [LARGEST + 1, 10**20])
def test_sizes_beyond_any_machine_are_refused(size: int) -> None:
    module = make("lstm", 3, 4)
    for name, call in (
        ("batch_size", lambda: module.stream(size)),
        ("input_size", lambda: fastrnn.LSTM(size, 4)),
        ("hidden_size", lambda: fastrnn.GRUCell(3, size)),
        ("num_layers", lambda: fastrnn.RNN(3, 4, size)),
        ("checkpoint_every", lambda: module.forward(np.ones((2, 1, 3), np.float32), checkpoint_every=size)),
    ):
        with pytest.raises(ValueError, match=f"^{name} is {size}; expected an integer of at most {LARGEST}"):
            call()


# ---- tapes and streams


def test_tapes_and_streams_cannot_be_copied() -> None:
    module = make("gru", 3, 4)
    _, _, tape = module.forward(np.ones((2, 1, 3), np.float32))
    for thing, text in ((tape, "a tape cannot be copied or pickled"), (module.stream(), "a stream cannot be copied")):
        for duplicate in (copy.copy, copy.deepcopy, pickle.dumps):
            with pytest.raises(TypeError, match=text):
                duplicate(thing)


def test_attributes_of_a_stream_are_fixed() -> None:
    stream = make("gru", 3, 4).stream(2)
    for name in ("batch_size", "step"):
        with pytest.raises(AttributeError, match=f"^{name} of a stream is fixed"):
            setattr(stream, name, 5)
    assert stream.batch_size == 2


def test_a_tape_serves_one_thread() -> None:
    module, x = make("lstm", 64, 64), np.ones((200, 4, 64), np.float32)
    for _ in range(20):
        y, _, tape = module.forward(x)
        outcomes: list[str | None] = []
        use = functools.partial(module.backward, tape, np.ones_like(y))
        run_together(functools.partial(lambda use, outcomes: outcomes.append(error_of(use)), use, outcomes), 4)
        assert sorted(text is None for text in outcomes) == [False, False, False, True]
        assert all("tape" in text for text in outcomes if text)


def test_a_stream_serves_one_thread_at_a_time() -> None:
    stream, x = make("lstm", 512, 512).stream(16), np.ones((16, 512), np.float32)
    texts: list[str | None] = []

    def steps() -> None:
        texts.extend(error_of(lambda: stream.step(x)) for _ in range(20))

    run_together(steps, 3)
    assert all(text is None or "one thread at a time" in text for text in texts)
    stream.step(x)


def run_together(function: Callable[[], None], count: int) -> None:
    threads = [threading.Thread(target=function) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
