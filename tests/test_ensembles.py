"""Ensembles: each member does what its module does alone, to the bit, and all of them train in one step."""

from __future__ import annotations

import contextlib
import copy
import pickle
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from problems import run_python
from test_switches import overridden

import fastrnn
from fastrnn import cells
from fastrnn.backends import BACKENDS
from fastrnn.training import Adam

backends = pytest.mark.parametrize("backend", list(BACKENDS), indirect=True)
cython = pytest.mark.parametrize("backend", ["cython"], indirect=True)


@cells.cell(gates="f g", states="h c", extra="gap")
def decaying(a: Any, prev: Any, extra: Any) -> Any:
    """A memory that fades with the time since the step before."""
    c = cells.exp(-extra.gap * extra.gap) * cells.sigmoid(a.f) * prev.c + cells.tanh(a.g)
    return cells.tanh(c), c


# By name: the class, its arguments before the sizes, and more of them.
MODULES: dict[str, tuple[Any, tuple[Any, ...], dict[str, Any]]] = {
    "rnn": (fastrnn.RNN, (), {}),
    "rnn_relu": (fastrnn.RNN, (), {"nonlinearity": "relu", "bias": False}),
    "lstm": (fastrnn.LSTM, (), {}),
    "lstm_projected": (fastrnn.LSTM, (), {"proj_size": 3}),
    "gru": (fastrnn.GRU, (), {}),
    "peephole_lstm": (fastrnn.Recurrent, (cells.peephole_lstm,), {}),
    "reset_before_gru": (fastrnn.Recurrent, (cells.reset_before_gru,), {}),
    "layer_norm_lstm": (fastrnn.Recurrent, (cells.layer_norm_lstm,), {}),
    "min_gru": (fastrnn.Recurrent, (cells.min_gru,), {}),
    "fast_grnn": (fastrnn.Recurrent, (cells.fast_grnn,), {}),
    "gal_lstm": (fastrnn.Recurrent, (cells.gal_lstm,), {"noise": 0.4}),
    "decaying": (fastrnn.Recurrent, (decaying,), {}),
}
ON_NUMBA = ("lstm", "lstm_projected", "gru", "peephole_lstm", "min_gru")  # which compiles long
kinds = pytest.mark.parametrize("kind", MODULES)
kinds_of_backends = pytest.mark.parametrize(
    ("backend", "kind"),
    [(backend, kind) for backend in BACKENDS for kind in (ON_NUMBA if backend == "numba" else MODULES)],
    indirect=["backend"],
)
T, N, I, H, K = 7, 3, 4, 9, 3


def make_modules(kind: str, count: int = K, sizes: tuple[int, int] = (I, H), **options: Any) -> list[Any]:
    cls, before, more = MODULES[kind]
    return [cls(*before, *sizes, **more, **options, seed=seed) for seed in range(count)]


def draw(shape: tuple[int, ...], dtype: str, seed: int = 0) -> Any:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def in_pieces(batch: int, steps: int) -> dict[str, dict[str, Any]]:
    """Ways to leave steps out and begin anew, by name."""
    rng = np.random.default_rng(1)
    return {
        "whole": {},
        "lengths": {"lengths": rng.integers(0, steps + 1, batch)},
        "mask": {"mask": rng.random((steps, batch)) > 0.3, "masked": "last"},
        "resets": {"resets": rng.random((steps, batch)) > 0.7, "reset_state": "initial"},
    }


def tupled(state: Any) -> tuple[Any, ...]:
    return state if isinstance(state, tuple) else (state,)


def assert_same(got: Any, want: Any, name: str = "") -> None:
    assert (got.dtype, got.shape) == (want.dtype, want.shape), name
    assert np.array_equal(got, want, equal_nan=True), name


def assert_as_loop(
    modules: list[Any], x: Any, own: bool, *, checkpoint_every: int | None = None, of_state: bool = True, **how: Any
) -> None:
    """Inference, training and gradients of an ensemble are those of its members one after the other."""
    ensemble = fastrnn.stack_modules(modules)
    ensemble.backend, ensemble.num_threads = modules[0].backend, modules[0].num_threads
    xs = x if own else [x] * len(modules)
    state, state_shapes = None, [s.shape for s in tupled(modules[0](xs[0], **how)[1])]
    if of_state:
        arrays = [draw((len(modules), *shape), modules[0].dtype.name, 3) for shape in state_shapes]
        state = tuple(arrays) if len(arrays) > 1 else arrays[0]
    members = [None if state is None else tuple(s[k] for s in tupled(state)) for k in range(len(modules))]
    members = [its[0] if its is not None and len(its) == 1 else its for its in members]
    y, state_n = ensemble(x, state, **how)
    again, _ = ensemble(x, state, **how)
    assert_same(again, y, "y once more")
    y_t, state_t, tape = ensemble.forward(x, state, checkpoint_every=checkpoint_every, **how)
    dy = draw(y.shape, y.dtype.name, 4)
    dstate = tuple(draw(s.shape, s.dtype.name, 5) for s in tupled(state_n))
    dx, dstate_0, grads = ensemble.backward(tape, dy, dstate if len(dstate) > 1 else dstate[0])
    dxs = []
    for k, module in enumerate(modules):
        want, want_n = module(xs[k], members[k], **how)
        assert_same(y[k], want, "y")
        for got, its in zip(tupled(state_n), tupled(want_n), strict=True):
            assert_same(got[k], its, "state_n")
        want, want_n, its_tape = module.forward(xs[k], members[k], checkpoint_every=checkpoint_every, **how)
        assert_same(y_t[k], want, "y of forward")
        for got, its in zip(tupled(state_t), tupled(want_n), strict=True):
            assert_same(got[k], its, "state_n of forward")
        its_dstate = tuple(d[k] for d in dstate)
        its_dx, want_0, want_grads = module.backward(its_tape, dy[k], its_dstate if len(dstate) > 1 else its_dstate[0])
        dxs.append(its_dx)
        for got, its in zip(tupled(dstate_0), tupled(want_0), strict=True):
            assert_same(got[k], its, "dstate_0")
        assert grads.keys() == want_grads.keys()
        for name, want_grad in want_grads.items():
            assert_same(grads[name][k], want_grad, name)
    if dxs[0] is None:
        assert dx is None
    elif own:
        assert_same(dx, np.stack(dxs), "dx")
    elif modules[0].directions == 1:
        assert_same(dx, np.stack(dxs).sum(axis=0), "dx")
    else:  # the sums over members of each direction are added up
        np.testing.assert_allclose(dx, np.stack(dxs).sum(axis=0), rtol=1e-4, atol=1e-4 if dx.itemsize == 4 else 1e-12)


@kinds_of_backends
@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("way", list(in_pieces(1, 1)))
def test_members_do_what_their_modules_do(backend: str, kind: str, own: bool, way: str) -> None:
    for dtype, num_threads, options in (
        ("float32", 1, {}),
        ("float64", 2, {"num_layers": 2, "bidirectional": True}),
    ):
        modules = make_modules(kind, backend=backend, dtype=dtype, num_threads=num_threads, **options)
        x = draw((K, T, N, I) if own else (T, N, I), dtype)
        how = in_pieces(N, T)[way]
        if kind == "decaying":
            how["extra"] = {"gap": draw((T, N), dtype, 9)}
        assert_as_loop(modules, x, own, **how)


@cython
@kinds
@pytest.mark.parametrize("shape", [(40, 1, 40, 25), (33, 1, 3, 8), (1, 1, 5, 17), (2, 30, 7, 40)])
def test_members_on_threads_and_in_turns(backend: str, kind: str, shape: tuple[int, int, int, int]) -> None:
    steps, batch, inputs, hidden = shape
    switches: list[dict[str, int]] = [{}, {"MEMBERS_APART": False}]
    switches += [{"ROWS_IN_TURNS": count, "BYTES_IN_TURNS": 1 << 40} for count in (1, 2, 3, 4)]
    for number, values in enumerate(switches):
        for num_threads, count in ((1, 3), (2, 5)):
            modules = make_modules(kind, count, (inputs, hidden), backend=backend, num_threads=num_threads)
            x = draw((count, steps, batch, inputs), "float32", number)
            how = {"extra": {"gap": draw((steps, batch), "float32", 9)}} if kind == "decaying" else {}
            with overridden(**values):
                assert_as_loop(modules, x, True, **how)
                assert_as_loop(modules, x[0], False, **how)


@backends
@pytest.mark.parametrize("kind", ["lstm", "gru", "min_gru"])
@pytest.mark.parametrize("own", [False, True])
def test_checkpoints_dropout_and_forms(backend: str, kind: str, own: bool) -> None:
    lead = (K,) if own else ()
    for options in ({}, {"bidirectional": True}):
        modules = make_modules(kind, num_layers=3, dropout=0.4, backend=backend, **options)
        x = draw((*lead, T, N, I), "float32")
        assert_as_loop(copy.deepcopy(modules), x, own)
        assert_as_loop(copy.deepcopy(modules), x, own, checkpoint_every=2)
        assert_as_loop(copy.deepcopy(modules), x, own, checkpoint_every=3, lengths=[2, 0, T])
        modules = make_modules(kind, num_layers=2, batch_first=True, backend=backend, **options)
        assert_as_loop(modules, draw((*lead, N, T, I), "float32"), own)
        assert_as_loop(modules, draw((*lead, N, T, I), "float32"), own, lengths=[2, 0, T], of_state=False)
        tokens = np.random.default_rng(0).integers(0, I, (*lead, T, N))
        modules = make_modules(kind, num_layers=2, backend=backend, **options)
        assert_as_loop(modules, tokens, own)
        assert_as_loop(modules, tokens, own, checkpoint_every=2, lengths=[2, 0, T])
        if not own:
            assert_as_loop(modules, x[:, 0], False)
            assert_as_loop(modules, x[:, 0], False, mask=np.arange(T) % 3 > 0)


@backends
@pytest.mark.parametrize("sizes", [(0, N), (T, 0), (0, 0)])
def test_nothing_to_do(backend: str, sizes: tuple[int, int]) -> None:
    for kind in ("lstm", "gru", "peephole_lstm", "min_gru"):
        modules = make_modules(kind, num_layers=2, backend=backend)
        assert_as_loop(modules, draw((*sizes, I), "float32"), False)
        assert_as_loop(modules, draw((K, *sizes, I), "float32"), True)


@backends
@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_a_state_to_begin_anew_with(backend: str, kind: str) -> None:
    modules = make_modules(kind, backend=backend)
    ensemble, x = fastrnn.stack_modules(modules), draw((T, N, I), "float32")
    ensemble.backend = backend
    resets = np.random.default_rng(1).random((T, N)) > 0.6
    count = 2 if kind == "lstm" else 1
    states = [draw((K, 1, N, H), "float32", seed) for seed in range(count)]
    given = tuple(states) if count > 1 else states[0]
    y, _, tape = ensemble.forward(x, resets=resets, reset_state=given)
    dy = draw(y.shape, "float32", 7)
    ensemble.backward(tape, dy)
    for k, module in enumerate(modules):
        its = tuple(s[k] for s in states)
        want, _, its_tape = module.forward(x, resets=resets, reset_state=its if count > 1 else its[0])
        assert_same(y[k], want)
        module.backward(its_tape, dy[k])
        for got, its_want in zip(tupled(tape.dreset_state), tupled(its_tape.dreset_state), strict=True):
            assert_same(got[k], its_want)


@backends
def test_trace_shows_what_each_member_does(backend: str) -> None:
    modules = make_modules("lstm", num_layers=2, backend=backend)
    ensemble, x = fastrnn.stack_modules(modules), draw((K, T, N, I), "float32")
    state = tuple(draw((K, 2, N, H), "float32", seed) for seed in (1, 2))
    found = ensemble.trace(x, state, lengths=[3, T, 0])
    want = [module.trace(x[k], tuple(s[k] for s in state), lengths=[3, T, 0]) for k, module in enumerate(modules)]
    assert list(found) == list(want[0])
    for name, array in found.items():
        assert_same(array, np.stack([its[name] for its in want]), name)


@backends
def test_one_optimizer_trains_all_members(backend: str) -> None:
    modules = make_modules("gru", backend=backend)
    ensemble, x = fastrnn.stack_modules(modules), draw((T, N, I), "float32")
    ensemble.backend = backend
    optimizer, each = Adam(ensemble, 0.01), [Adam(module, 0.01) for module in modules]
    for step in range(3):
        y, _, tape = ensemble.forward(x)
        dy = draw(y.shape, "float32", step)
        optimizer.step(ensemble.backward(tape, dy)[2])
        for k, module in enumerate(modules):
            _, _, its_tape = module.forward(x)
            each[k].step(module.backward(its_tape, dy[k])[2])
    for k, module in enumerate(modules):
        for name, values in module.parameters.items():
            assert_same(ensemble.parameters[name][k], values, name)


def test_weights_are_packed_anew_when_they_have_changed() -> None:
    ensemble, x = fastrnn.stack_modules(make_modules("lstm")), draw((T, N, I), "float32")
    before, _ = ensemble(x)
    ensemble.parameters["weight_hh_l0"][2] *= 0.5
    after, _ = ensemble(x)
    assert_same(after[:2], before[:2])
    assert (after[2, 1:] != before[2, 1:]).any()
    assert_same(after[2], ensemble[2](x)[0])


def test_stacking_copies() -> None:
    modules = make_modules("lstm", num_layers=2, dropout=0.5)
    ensemble, x = fastrnn.stack_modules(modules), draw((T, N, I), "float32")
    y, _ = ensemble(x)
    want = ensemble.forward(x)[0]
    modules[1].parameters["bias_ih_l0"][...] = 0
    assert_same(ensemble(x)[0], y)
    member = ensemble[0]
    member.parameters["bias_ih_l0"][...] = 0
    assert_same(ensemble(x)[0], y)
    assert_same(modules[0].forward(x)[0], want[0], "dropout as the module would have drawn it")


@pytest.mark.usefixtures("safetensors")
def test_as_a_file_pickle_and_copy(tmp_path: Path) -> None:
    ensemble, x = fastrnn.stack_modules(make_modules("lstm_projected", num_layers=2)), draw((T, N, I), "float32")
    fastrnn.save(ensemble, tmp_path / "ensemble.safetensors")
    y, _ = ensemble(x)
    others = [fastrnn.load(tmp_path / "ensemble.safetensors"), pickle.loads(pickle.dumps(ensemble))]
    others += [copy.deepcopy(ensemble), fastrnn.Ensemble(ensemble.module, K, seed=9)]
    others[-1].load_state_dict(ensemble.state_dict())
    others.append(fastrnn.stack_modules(list(ensemble)))
    others.append(copy.deepcopy(ensemble).freeze())
    for other in others:
        assert repr(other) == repr(ensemble) == "Ensemble(LSTM(4, 9, num_layers=2, proj_size=3), 3)"
        assert_same(other(x)[0], y)
    assert fastrnn.Ensemble(ensemble.module, 2, seed=1).parameters["weight_ih_l0"][0, 0, 0] != y[0, 0, 0, 0]


def test_drawn_members_differ_and_come_again() -> None:
    first, second = (fastrnn.Ensemble(fastrnn.GRU(I, H), 3, seed=5) for _ in range(2))
    for name, values in first.parameters.items():
        assert_same(second.parameters[name], values)
        assert len({member.tobytes() for member in values}) == 3
    assert len(first) == first.members == 3
    assert "3 at once" in first.explain((T, N, I))
    with pytest.raises(IndexError, match="k is 3; expected -3 <= k < 3"):
        first[3]
    with pytest.raises(IndexError, match="k is a number of more digits than anyone reads"):
        first[10**5000]


def test_mistakes() -> None:
    module, x = fastrnn.LSTM(I, H), draw((T, N, I), "float32")
    for given, error, text in (
        ([], ValueError, "modules is empty"),
        (module, TypeError, "modules is"),
        ([module, 3], TypeError, r"modules\[1\] is 3; expected a fastrnn.RNN"),
        ([module, fastrnn.GRU(I, H)], ValueError, "of the class GRU"),
        ([module, fastrnn.LSTM(I, H + 1)], ValueError, "hidden_size=10"),
        ([module, fastrnn.LSTM(I, H, dtype="float64")], ValueError, "dtype='float64'"),
        ([fastrnn.LSTMCell(I, H)], TypeError, "expected a fastrnn.RNN"),
        (
            [fastrnn.Recurrent(cells.min_gru, I, H), fastrnn.Recurrent(cells.min_lstm, I, H)],
            ValueError,
            "cell='min_lstm'",
        ),
        ([fastrnn.Recurrent(cells.slstm, I, 8, heads=2)], ValueError, "heads=2"),
    ):
        with pytest.raises(error, match=text):
            fastrnn.stack_modules(given)  # type: ignore[arg-type]
    ensemble = fastrnn.stack_modules([module] * 3)
    for arguments, error, text in (
        ({"x": draw((2, T, N, I), "float32")}, ValueError, "K = 3 members"),
        ({"x": draw((3, T, N, I + 1), "float32")}, ValueError, "x has shape"),
        ({"x": draw((T, N, I), "float64")}, TypeError, "x has dtype float64"),
        ({"x": np.full((T, N), I)}, ValueError, "holds the token 4"),
        ({"x": x, "state": (draw((1, N, H), "float32"),) * 2}, ValueError, r"expected \(K, L\*D, N, H\)"),
        ({"x": x, "state": draw((3, 1, N, H), "float32")}, TypeError, "expected a tuple"),
        ({"x": x, "lengths": [1, 2]}, ValueError, "lengths has shape"),
        ({"x": x, "extra": {"gap": x}}, ValueError, "extra has gap"),
    ):
        with pytest.raises(error, match=text):
            ensemble(**arguments)  # type: ignore[arg-type]
    y, _, tape = ensemble.forward(x)
    with pytest.raises(ValueError, match="dy has shape"):
        ensemble.backward(tape, y[0])
    with pytest.raises(ValueError, match="another module's"):
        fastrnn.stack_modules([module] * 3).backward(tape, y)
    ensemble.backward(tape, y)
    with pytest.raises(ValueError, match="used before"):
        ensemble.backward(tape, y)
    with pytest.raises(ValueError, match="noise is given"):
        ensemble.forward(x, noise=[None] * 3)


@backends
def test_parameters_that_were_given_another_shape_are_refused(backend: str) -> None:
    ensemble, x = fastrnn.stack_modules(make_modules("lstm", backend=backend)), draw((T, N, I), "float32")
    ensemble.parameters["weight_hh_l0"].shape = (K, H, 4 * H)
    for call in (ensemble, ensemble.forward):
        with pytest.raises(ValueError, match="weight_hh"):
            call(x)


@backends
def test_parameters_may_be_given_another_shape_before_backward(backend: str) -> None:
    """The C kernels look again; on the others each member's tape has views of its own."""
    ensemble, x = fastrnn.stack_modules(make_modules("lstm", backend=backend)), draw((T, N, I), "float32")
    y, _, tape = ensemble.forward(x)
    want = ensemble.backward(tape, y)[2]["weight_ih_l0"]
    y, _, tape = ensemble.forward(x)
    ensemble.parameters["weight_hh_l0"].shape = (K, H, 4 * H)
    with pytest.raises(ValueError, match="weight_hh") if backend == "cython" else contextlib.nullcontext():
        found = ensemble.backward(tape, y)[2]["weight_ih_l0"]
    ensemble.parameters["weight_hh_l0"].shape = (K, 4 * H, H)
    if backend != "cython":
        assert_same(found, want)
    assert_same(ensemble.forward(x)[0], y)


@backends
def test_threads_of_ones_own(backend: str) -> None:
    ensemble, x = fastrnn.stack_modules(make_modules("lstm", 8, (I, 25))), draw((100, 1, I), "float32")
    ensemble.backend, ensemble.num_threads = backend, 2
    want, found = ensemble(x)[0], []

    def call() -> None:
        found.extend(ensemble(x)[0] for _ in range(10))

    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 40
    for y in found:
        assert_same(y, want)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no fork")
def test_a_child_of_a_fork_does_the_same(tmp_path: Path) -> None:
    script = """
import os, signal
import numpy as np
import fastrnn

modules = [fastrnn.LSTM(16, 96, seed=seed) for seed in range(4)]
ensemble, x = fastrnn.stack_modules(modules), np.ones((50, 16, 16), np.float32)
ensemble.num_threads = 2

def train():
    y, _, tape = ensemble.forward(x)
    return y, ensemble.backward(tape, np.ones_like(y))[2]["weight_hh_l0"]

want = train()
if (child := os.fork()) == 0:
    signal.alarm(40)
    os._exit(0 if all((a == b).all() for a, b in zip(train(), want)) else 1)
print(os.waitpid(child, 0)[1])
"""
    assert run_python(script, tmp_path).stdout.split() == ["0"]
