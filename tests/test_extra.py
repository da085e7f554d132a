"""Cells that are given values beside x, and cells with dropout and zoneout inside."""

import pickle
from typing import Any

import numpy as np
import pytest
from calls import backends
from closed_pages import close_inputs, needs_closed_pages
from tolerances import assert_close, assert_same_bits

import fastrnn
from fastrnn.backends import load
from fastrnn.cells import BESIDE, LIBRARY, WrittenCell, exp, layer_norm, mean, relu, rms_norm, sigmoid, tanh

T, N, I, H = 6, 5, 4, 19
LIMITS = {"float64": 1e-11, "float32": 3e-4}


@fastrnn.cell(
    gates="i f g o",
    states="h c",
    parameters="p q",
    extra="dt w",
    dropout={"drop": "step", "keep": "sequence"},
    zoneout={"zone_h": "sequence", "zone_c": "step"},
)
def everything(a, prev, p, e):
    h = e.keep(prev.h) * tanh(e.dt * p.q)
    i, f = sigmoid(a.i(h)), sigmoid(a.f(h) * exp(-relu(e.dt * p.p)))
    g, o = e.drop(tanh(a.g(i * h))), sigmoid(a.o(h) * e.w)
    c = f * prev.c + i * g
    return e.zone_h(o * tanh(c), prev.h), e.zone_c(c, prev.c)


@fastrnn.cell(gates="f g k", states="h c", from_h="k", apart="g", extra="dt", dropout={"drop": "sequence"})
def second_product_of_h(a, prev, e):
    """Some gates take h as it is, so that the others have a product of their own."""
    c = sigmoid(a.f(e.drop(prev.h))) * prev.c + tanh(a.g.x + a.g.h * e.dt)
    return tanh(c) * sigmoid(a.k), c


@fastrnn.cell(gates="f g", states="h c", parameters="gain", extra="dt w", zoneout="zone")
def normalized(a, prev, p, e):
    """Extras within means, and a gradient of one that is the same for all units of a row."""
    f = sigmoid(layer_norm(a.f * e.dt, p.gain) + e.w)
    c = f * prev.c + (1 - f) * tanh(a.g + mean(a.g * e.w))
    return e.zone(tanh(rms_norm(c) * e.dt), prev.h), c


@fastrnn.cell(
    gates="i f g o",
    states="h c",
    parameters={"gain_f": 1.0, "gain_c": None, "rate": 0.3},
    apart="g",
    extra="dt",
    dropout={"drop": "sequence"},
)
def taken_and_normalized(a, prev, p, e):
    """A gate that is called beside a mean: what the product takes is made of h alone."""
    h = e.drop(prev.h) * exp(-relu(p.rate) * e.dt)
    i, f = sigmoid(a.i(h)), sigmoid(layer_norm(a.f(h), p.gain_f))
    c = f * prev.c + i * tanh(a.g.x + layer_norm(a.g.h(h)))
    return sigmoid(a.o(h)) * tanh(rms_norm(c, p.gain_c)), c


CELLS: dict[str, WrittenCell] = BESIDE | {
    "taken_and_normalized": taken_and_normalized,
    "everything": everything,
    "normalized": normalized,
    "second_product_of_h": second_product_of_h,
}
cells = pytest.mark.parametrize("name", list(CELLS))
extras = pytest.mark.parametrize("name", [name for name, c in CELLS.items() if c.extra])
noisy = pytest.mark.parametrize("name", [name for name, c in CELLS.items() if c.noise])


def draw(seed: int, *shape: int) -> Any:
    return np.random.default_rng(seed).standard_normal(shape)


def make(name: str, dtype: str = "float64", noise: Any = 0.4, **options: Any) -> fastrnn.Recurrent:
    noise = noise if CELLS[name].noise else None
    module = fastrnn.Recurrent(CELLS[name], I, H, dtype=dtype, noise=noise, seed=3, **options)
    for key, value in module.parameters.items():
        if "weight_hh" not in key:  # O(1); recurrent weights stay as they are drawn, so that errors do not grow
            module.parameters[key] = draw(len(key), *value.shape).astype(dtype)
    return module


def extra_of(name: str, dtype: Any = "float64", T: int = T, N: int = N, H: int = H) -> Any:
    """One value for each row, and of the second name one for each row and unit."""
    shapes = [(T, N), (T, N, H)]
    return {key: np.abs(draw(7 + k, *shapes[k])).astype(dtype) for k, key in enumerate(CELLS[name].extra)} or None


def run(module: Any, x: Any, extra: Any, **options: Any) -> dict[str, Any]:
    """Outputs and all gradients, from a state that is not zero."""
    dtype, layers = module.dtype, module.num_layers * module.directions
    count, N = len(module.cell.states), x.shape[1]
    state = [draw(20 + k, layers, N, module.hidden_size).astype(dtype) for k in range(count)]
    options["extra_gradients"] = bool(module.cell.extra)
    y, state_n, tape = module.forward(x, state[0] if count == 1 else tuple(state), extra=extra, **options)
    dy = draw(1, *y.shape).astype(dtype)
    dstate = [draw(30 + k, *s.shape).astype(dtype) for k, s in enumerate(state)]
    dx, dstate_0, grads = module.backward(tape, dy, dstate[0] if count == 1 else tuple(dstate))
    states = [(state_n,), (dstate_0,)] if count == 1 else [state_n, dstate_0]
    found = {"y": y, "dx": dx} | grads
    for what, its in zip(("state", "dstate"), states, strict=True):
        found |= {f"{what}_{k}": s for k, s in enumerate(its)}
    assert (tape.dextra is None) == (not module.cell.extra)
    return found | {f"dextra_{key}": value for key, value in (tape.dextra or {}).items()}


RUNS = {
    "whole": {},
    "lengths": {"lengths": np.array([6, 3, 0, 5, 6])},
    "resets": {"resets": draw(4, T, N) > 1, "mask": draw(5, T, N) < 1, "masked": "last"},
}


kernels = pytest.mark.parametrize("backend", ["cython", "numba"], indirect=True)


@cells
@kernels
@pytest.mark.parametrize("kind", list(RUNS))
@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True}], ids=str)
def test_equals_reference(name, backend, kind, options):
    x, extra = draw(0, T, N, I), extra_of(name)
    want = run(make(name, backend="numpy", **options), x, extra, **RUNS[kind])
    got = run(make(name, backend=backend, **options), x, extra, **RUNS[kind])
    for key, value in want.items():
        assert_close(key, got[key], value, LIMITS["float64"] * max(1.0, np.abs(value).max(initial=0)))


@cells
@kernels
@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 1, 7), (2, 30, 70), (2, 75, 37), (20, 3, 130)], ids=str)
def test_odd_shapes_equal_reference_in_float32(name, backend, shape):
    T, N, H = shape
    found = []
    for which, dtype in (("numpy", "float64"), (backend, "float32")):
        module = fastrnn.Recurrent(
            CELLS[name], I, H, dtype=dtype, seed=3, backend=which, noise=0.4 if CELLS[name].noise else None
        )
        found.append(run(module, draw(0, T, N, I).astype(dtype), extra_of(name, dtype, T, N, H)))
    want, got = found
    for key, value in want.items():
        assert_close(key, got[key], value, LIMITS["float32"] * max(1.0, np.abs(value).max(initial=0)))


@needs_closed_pages
@cells
def test_nothing_is_read_beyond_an_array(name, monkeypatch):
    """Neither of what comes beside x; H is no whole number of vectors. A read beyond would end the process."""
    x, extra = draw(0, T, N, I), extra_of(name)
    found = []
    for closed in (False, True):
        module = make(name, backend="cython")  # which draws the same masks
        with monkeypatch.context() as patch:
            called = close_inputs(patch, load("cython")) if closed else []
            found.append(run(module, x, extra) | {"inference": module(x, extra=extra)[0]})
    assert called == ["forward", "backward", "forward"]
    want, got = found
    for key, value in want.items():
        assert_same_bits(key, got[key], value)


@cells
@kernels
@pytest.mark.parametrize("kind", list(RUNS))
@pytest.mark.parametrize("options", [{"num_layers": 2}, {"bidirectional": True}], ids=str)
def test_checkpoints_give_the_same_bits(name, backend, kind, options):
    options = options | {"backend": backend}
    x, extra = draw(0, T, N, I), extra_of(name)
    many = {
        "x": np.tile(x, (3, 6, 1)),
        "extra": extra and {k: np.tile(v, (3, 6, 1)[: v.ndim]) for k, v in extra.items()},
    }
    given = {
        k: np.tile(v, (6,) if v.ndim == 1 else (3, 6)) if isinstance(v, np.ndarray) else v
        for k, v in RUNS[kind].items()
    }
    whole = run(make(name, **options), **many, **given)
    again = run(make(name, **options), **many, **given, checkpoint_every=4)
    assert all((whole[key] == again[key]).all() for key in whole)


@cells
@kernels
def test_threads_give_the_same_bits(name, backend):
    found, noise = [], 0.4 if CELLS[name].noise else None
    for batch in (2, 12):
        for threads in (1, 2, 3):
            module = fastrnn.Recurrent(CELLS[name], 16, 200, seed=3, num_threads=threads, noise=noise, backend=backend)
            x = draw(0, 30, batch, 16).astype("float32")
            found.append(run(module, x, extra_of(name, "float32", 30, batch, 200)))
    for first, *others in (found[:3], found[3:]):
        assert all((first[key] == other[key]).all() for other in others for key in first)


@cells
def test_a_sequence_in_pieces_gives_the_same_bits(name):
    x, extra = draw(0, T, N, I), extra_of(name) or {}
    module, again = make(name, num_layers=2), make(name, num_layers=2)
    y, state_n, _ = module.forward(x, extra=extra or None)
    pieces, state, masks = [], None, None
    for first, last in ((0, 1), (1, 4), (4, T)):
        part = {key: value[first:last] for key, value in extra.items()} or None
        options = {"noise": masks} if module.cell.noise else {}
        piece, state, tape = again.forward(x[first:last], state, extra=part, **options)
        pieces.append(piece)
        masks = tape.noise
    assert (np.concatenate(pieces) == y).all()
    assert (np.asarray(state) == np.asarray(state_n)).all()


@cells
@pytest.mark.parametrize("batch_size", [None, 1, 5])
@backends
def test_streams_give_the_same_bits(name, batch_size, backend):
    module, count = make(name, num_layers=2, backend=backend), batch_size or 1
    x, extra = draw(0, T, count, I), extra_of(name, N=count) or {}
    if batch_size is None:
        x, extra = x[:, 0], {key: value[:, 0] for key, value in extra.items()}
    y, _ = module(x, extra=extra or None)
    stream = module.stream(batch_size)
    steps = []
    for t in range(T):
        given = {"extra": {key: value[t] for key, value in extra.items()}} if extra else {}
        steps.append(stream.step(x[t], **given).copy())
    if backend != "numpy":
        assert (np.stack(steps) == y).all()
    assert_close("y", np.stack(steps), y, 1e-13)


@cells
@kernels
def test_traces_equal_reference_and_have_no_noise(name, backend):
    x, extra = draw(0, T, N, I), extra_of(name)
    want = make(name, backend="numpy", bidirectional=True).trace(x, extra=extra)
    module = make(name, bidirectional=True, backend=backend)
    got = module.trace(x, extra=extra)
    assert got.keys() == want.keys()
    for key, value in want.items():
        assert_close(key, got[key], value, 1e-11)
    y, _ = module(x, extra=extra)
    assert_close(
        "y", np.concatenate([got[f"{CELLS[name].states[0]}_l0{way}"] for way in ("", "_reverse")], 2), y, 1e-13
    )


@cells
def test_batch_first_and_single_sequences_are_the_same(name):
    x, extra = draw(0, T, N, I), extra_of(name)
    y, _ = make(name)(x, extra=extra)
    turned = extra and {key: value.swapaxes(0, 1) for key, value in extra.items()}
    assert (make(name, batch_first=True)(x.swapaxes(0, 1), extra=turned)[0].swapaxes(0, 1) == y).all()
    one = extra and {key: value[:, 2] for key, value in extra.items()}
    assert_close("y", make(name)(x[:, 2], extra=one)[0], y[:, 2], 1e-13)
    none = extra and {key: value[:, :0] for key, value in extra.items()}
    assert make(name).forward(x[:, :0], extra=none)[0].shape == (T, 0, H)


@cells
def test_derivative_is_that_of_the_function(name):
    checked = fastrnn.check_cell(CELLS[name], seed=1)
    assert checked.passed
    assert [key for key in checked.errors if key.startswith("e.")] == [f"e.{key}" for key in CELLS[name].extra]


@extras
def test_who_does_not_ask_for_gradients_of_extras_runs_as_before(name):
    """On a program that knows nothing of them; outputs and the other gradients are the same."""
    assert CELLS[name].program.into_extras == 0
    assert CELLS[name].into_extra.program.into_extras == len(CELLS[name].extra)
    assert CELLS[name].into_extra is CELLS[name].into_extra
    x, extra, found = draw(0, T, N, I), extra_of(name), []
    for asked in (False, True):
        module = make(name)
        y, _, tape = module.forward(x, extra=extra, extra_gradients=asked)
        dx, _, grads = module.backward(tape, y)
        assert (tape.dextra is not None) == asked
        found.append({"y": y, "dx": dx} | grads)
    for key, value in found[0].items():
        assert_close(key, found[1][key], value, 1e-12 * max(1.0, np.abs(value).max()))


def test_gradients_of_extras_have_the_form_of_these():
    shapes = ((T, N), (T, N, 1), (T, N, H), (T,), (T, 1), (T, H), (T, 0), (0, N, H))
    for shape in shapes:
        module, single = make("ltc_dt"), shape[0] == T and len(shape) < 3 and shape[-1] not in (N, 0)
        x = draw(0, T, I) if single else draw(0, shape[0], shape[1], I)
        y, _, tape = module.forward(x, extra={"dt": np.abs(draw(1, *shape))}, extra_gradients=True)
        assert tape.dextra is None
        module.backward(tape, np.ones_like(y))
        assert tape.dextra["dt"].shape == shape


# ---- what is drawn


@fastrnn.cell(gates="g", states="h m", dropout={"drop": "step"}, from_x="g")
def shows_steps(a, prev, e):
    return e.drop(1.0 + 0.0 * a.g), prev.m


@fastrnn.cell(gates="g", states="h m", zoneout={"zone": "sequence"}, from_x="g")
def shows_sequences(a, prev, e):
    return e.zone(0.0 * a.g, 1.0 + 0.0 * prev.m), prev.m


def test_draws_have_their_rate_and_scale():
    x = np.zeros((100, 20, 1), "float32")
    kept, _, _ = fastrnn.Recurrent(shows_steps, 1, 50, noise=0.3, seed=0).forward(x)
    assert set(np.unique(kept)) == {0, np.float32(1 / 0.7)}
    assert abs((kept == 0).mean() - 0.3) < 0.005  # 3.4 standard deviations of 100,000 draws
    zoned, _, _ = fastrnn.Recurrent(shows_sequences, 1, 5000, noise=0.3, seed=0).forward(x)
    assert set(np.unique(zoned)) == {0, 1}
    assert abs(zoned[0].mean() - 0.3) < 0.005
    assert (zoned == zoned[0]).all()
    for p, value in ((0.0, 1.0), (1.0, 0.0)):
        whole, _, _ = fastrnn.Recurrent(shows_steps, 1, 5, noise=p, seed=0).forward(x)
        assert (whole == value).all()


def test_layers_directions_calls_and_seeds_draw_apart():
    x = np.zeros((9, 7, 1), "float32")

    def drawn(seed: int, **options: Any) -> Any:
        return fastrnn.Recurrent(shows_steps, 1, 40, noise=0.5, seed=seed, **options)

    module, again = drawn(0, bidirectional=True), drawn(0, bidirectional=True)
    first, second = module.forward(x)[0], module.forward(x)[0]
    assert (first == again.forward(x)[0]).all()
    halves = [first[..., :40], first[..., 40:], second[..., :40], drawn(1).forward(x)[0]]
    alike = [(a == b).mean() for k, a in enumerate(halves) for b in halves[:k]]
    assert max(alike) < 0.6
    assert (pickle.loads(pickle.dumps(module)).forward(x)[0] == module.forward(x)[0]).all()


def test_runs_of_a_sequence_share_its_draws():
    x, resets = np.zeros((9, 7, 1), "float32"), draw(0, 9, 7) > 0
    for bidirectional in (False, True):
        y, _, _ = fastrnn.Recurrent(shows_sequences, 1, 40, noise=0.5, seed=0, bidirectional=bidirectional).forward(
            x, resets=resets
        )
        assert (y == y[0]).all()
        assert 0 < y.mean() < 1


@noisy
def test_inference_is_the_cell_without_noise(name):
    x, extra = draw(0, T, N, I), extra_of(name)
    module = make(name)
    y, _ = module(x, extra=extra)
    assert (module(x, extra=extra)[0] == y).all()
    assert (module.forward(x, extra=extra)[0] != y).any()
    if not any(noise.zoneout for noise in CELLS[name]._equations.noise):
        quiet = make(name, noise=0.0)
        assert (quiet.forward(x, extra=extra)[0] == y).all()
        assert (quiet(x, extra=extra)[0] == y).all()


def test_zoneout_in_inference_is_its_expectation():
    @fastrnn.cell(gates="n", states="h")
    def by_hand(a, prev):
        new = tanh(a.n)
        return new + 0.25 * (prev.h - new)

    @fastrnn.cell(gates="n", states="h", zoneout="zone")
    def zoned(a, prev, e):
        return e.zone(tanh(a.n), prev.h)

    x = draw(0, T, N, I)
    want = fastrnn.Recurrent(by_hand, I, H, dtype="float64", seed=0)(x)[0]
    assert (fastrnn.Recurrent(zoned, I, H, dtype="float64", seed=0, noise=0.25)(x)[0] == want).all()


def test_a_gate_called_with_the_state_itself_is_a_plain_one():
    @fastrnn.cell(gates="n g")
    def called(a, prev):
        return tanh(a.n(prev.h)) * sigmoid(a.g)

    assert called.program is not None
    assert called.program.m_gates == ()
    x = draw(0, T, N, I)
    found = [fastrnn.Recurrent(called, I, H, dtype="float64", seed=0, backend=b)(x)[0] for b in ("cython", "numpy")]
    assert_close("y", found[0], found[1], 1e-13)


# ---- refusals


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (None, "extra is None; expected a dict with dt"),
        ({}, "expected a dict with dt"),
        ({"dy": 1}, "extra has dy; expected a dict with dt"),
        ({"dt": np.ones((N, T))}, r"extra\['dt'\] has shape \(5, 6\); expected \(T, N\) or \(T, N, H\) = \(6, 5\)"),
        ({"dt": np.ones((T, N, 3))}, r"extra\['dt'\] has shape \(6, 5, 3\); expected \(T, N, H\) = \(6, 5, 19\)"),
    ],
)
def test_wrong_extras_are_refused(extra, message):
    with pytest.raises(ValueError, match=message):
        make("cfc_dt")(draw(0, T, N, I), extra=extra)


def test_other_refusals():
    x = draw(0, T, N, I)
    with pytest.raises(TypeError, match=r"extra\['dt'\] has dtype float32; expected float64"):
        make("cfc_dt")(x, extra={"dt": np.ones((T, N), "float32")})
    with pytest.raises(ValueError, match="extra has dt; expected None, as the cell lstm has it"):
        fastrnn.LSTM(I, H, dtype="float64")(x, extra={"dt": np.ones((T, N))})
    with pytest.raises(ValueError, match="noise is None, but the cell gal_lstm has drop"):
        fastrnn.Recurrent(BESIDE["gal_lstm"], I, H)
    with pytest.raises(ValueError, match="the cell cfc has no dropout or zoneout; expected None"):
        fastrnn.Recurrent(LIBRARY["cfc"], I, H, noise=0.5)
    with pytest.raises(ValueError, match="noise has zone_h; expected a rate for each of zone_h, zone_c"):
        fastrnn.Recurrent(BESIDE["zoneout_lstm"], I, H, noise={"zone_h": 0.1})
    with pytest.raises(ValueError, match=r"noise\['zone_c'\] is 1\.5; expected a number from 0 to 1"):
        fastrnn.Recurrent(BESIDE["zoneout_lstm"], I, H, noise={"zone_h": 0.1, "zone_c": 1.5})
    with pytest.raises(ValueError, match="extra_gradients is True, but the module is given nothing beside x"):
        make("gal_lstm").forward(x, extra_gradients=True)
    with pytest.raises(TypeError, match="extra_gradients is 'dt'; expected True or False"):
        make("cfc_dt").forward(x, extra=extra_of("cfc_dt"), extra_gradients="dt")
    module = make("gal_lstm")
    _, _, tape = module.forward(x)
    with pytest.raises(ValueError, match="noise is of a batch of N = 5; expected that of x, 4"):
        module.forward(x[:, :4], noise=tape.noise)
    with pytest.raises(TypeError, match=r"noise is 0\.5; expected None, or the noise of the tape"):
        module.forward(x, noise=0.5)
    with pytest.raises(AttributeError, match="noise of a Recurrent is fixed"):
        module.noise = None
    with pytest.raises(ValueError, match=r"extra is None; expected a dict with dt"):
        make("cfc_dt").stream(N).step(x[0])


def test_definitions_are_looked_at():
    def step(a, prev, e):
        return tanh(a.n) * e.dt

    with pytest.raises(ValueError, match=r"e\.drop is not used"):
        fastrnn.cell(gates="n", extra="dt", dropout="drop")(step)
    with pytest.raises(TypeError, match=r"it takes 3 arguments; expected \(a, prev, p, e\)"):
        fastrnn.cell(gates="n", extra="dt", parameters="p")(step)
    with pytest.raises(ValueError, match="extra, dropout and zoneout have dt dt; expected each name once"):
        fastrnn.cell(gates="n", extra="dt", zoneout="dt")
    with pytest.raises(ValueError, match=r"dropout\['drop'\] is 'once'; expected 'step' or 'sequence'"):
        fastrnn.cell(gates="n", dropout={"drop": "once"})
    with pytest.raises(AttributeError, match="the cell has no extra value 'dt'; expected one of gap"):
        fastrnn.cell(gates="n", extra="gap")(step)


def test_what_is_given_may_change_after_the_call():
    x, extra = draw(0, T, N, I), extra_of("cfc_dt")
    found = []
    for change in (False, True):
        module = make("cfc_dt")
        y, _, tape = module.forward(x, extra=extra)
        if change:
            extra["dt"][...] = 0
        found.append(module.backward(tape, np.ones_like(y))[0])
    assert (found[0] == found[1]).all()


def test_print_names_what_is_given_beside_x():
    text = str(everything)
    assert "e.dt" in text
    assert "e.zone_c" in text
