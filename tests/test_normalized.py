"""Cells that normalize sums and states, against loops in torch; and means over units in the language."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from calls import backends
from tolerances import assert_close

import fastrnn
from fastrnn.backends import load
from fastrnn.cells import LIBRARY, layer_norm, mean, rms_norm, sigmoid, tanh

Cells = Callable[..., Any]

# ---- the library's, in torch: (torch, x_t W_ih^T + b_ih, v to v W_hh^T + b_hh, states, parameters by name) to states


def norm(torch: ModuleType, v: Any) -> Any:
    return torch.nn.functional.layer_norm(v, v.shape[1:])


def rms(torch: ModuleType, v: Any) -> Any:
    return v * torch.rsqrt((v * v).mean(1, keepdim=True) + 1e-5)


def layer_norm_lstm(torch: ModuleType, a_x: Any, product: Any, state: Any, p: Any) -> Any:
    a_h = product(state[0])
    gains = [torch.cat([p[f"gain_{g}_{of}"] for g in "ifgo"]) for of in "xh"]
    bias = torch.cat([p[f"bias_{g}"] for g in "ifgo"])
    i, f, g, o = (norm(torch, a_x) * gains[0] + norm(torch, a_h) * gains[1] + bias).chunk(4, 1)
    c = torch.sigmoid(f) * state[1] + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(norm(torch, c) * p["gain_c"] + p["bias_c"]), c


def gatewise_layer_norm_lstm(torch: ModuleType, a_x: Any, product: Any, state: Any, p: Any) -> Any:
    a_h = product(state[0])
    i, f, g, o = [
        norm(torch, a) * p[f"gain_{k}"] + p[f"bias_{k}"] for k, a in zip("ifgo", (a_x + a_h).chunk(4, 1), strict=True)
    ]
    c = torch.sigmoid(f) * state[1] + torch.sigmoid(i) * torch.tanh(g)
    c = norm(torch, c) * p["gain_c"] + p["bias_c"]
    return torch.sigmoid(o) * torch.tanh(c), c


def layer_norm_gru(torch: ModuleType, a_x: Any, product: Any, state: Any, p: Any) -> Any:
    a_h = product(state[0])
    x, h = [norm(torch, a) * torch.cat([p[f"gain_{g}_{of}"] for g in "rzn"]) for a, of in ((a_x, "x"), (a_h, "h"))]
    (x_r, x_z, x_n), (h_r, h_z, h_n) = x.chunk(3, 1), h.chunk(3, 1)
    r, z = torch.sigmoid(x_r + h_r + p["bias_r"]), torch.sigmoid(x_z + h_z + p["bias_z"])
    n = torch.tanh(x_n + p["bias_n"] + r * (h_n + p["bias_n_h"]))
    return ((1 - z) * n + z * state[0],)


def rms_norm_lstm(torch: ModuleType, a_x: Any, product: Any, state: Any, p: Any) -> Any:
    a_h = product(state[0])
    parts = zip("ifgo", (a_x + a_h).chunk(4, 1), strict=True)
    i, f, g, o = [rms(torch, a) * p[f"gain_{k}"] for k, a in parts]
    c = torch.sigmoid(f) * state[1] + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(rms(torch, c) * p["gain_c"]), c


def layer_norm_reset_before_gru(torch: ModuleType, a_x: Any, product: Any, state: Any, p: Any) -> Any:
    x_r, x_z, x_n = norm(torch, a_x).chunk(3, 1)
    h_r, h_z = norm(torch, torch.cat(product(state[0]).chunk(3, 1)[:2], 1)).chunk(2, 1)
    r = torch.sigmoid(p["gain_r_x"] * x_r + p["gain_r_h"] * h_r + p["bias_r"])
    z = torch.sigmoid(p["gain_z_x"] * x_z + p["gain_z_h"] * h_z + p["bias_z"])
    of_m = norm(torch, product(r * state[0]).chunk(3, 1)[2])
    n = torch.tanh(p["gain_n_x"] * x_n + p["gain_n_h"] * of_m + p["bias_n"])
    return ((1 - z) * n + z * state[0],)


IN_TORCH = (layer_norm_lstm, gatewise_layer_norm_lstm, layer_norm_gru, layer_norm_reset_before_gru, rms_norm_lstm)
LOOPS = {each.__name__: each for each in IN_TORCH}
SHAPES = [(4, 3, 5, 7), (3, 1, 2, 37), (5, 26, 3, 16), (2, 2, 1, 2)]


@backends
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", LOOPS)
def test_library_equals_torch(torch: ModuleType, name: str, shape: tuple[int, ...], backend: str) -> None:
    T, N, I, H = shape
    rng = np.random.default_rng(0)
    rnn = fastrnn.Recurrent(LIBRARY[name], I, H, dtype="float64", seed=0, backend=backend)
    for key, value in rnn.parameters.items():
        if key != "weight_hh_l0":
            rnn.parameters[key] = rng.standard_normal(value.shape)
    x, states = rng.standard_normal((T, N, I)), [rng.standard_normal((N, H)) for _ in rnn.cell.states]
    state = tuple(s[None] for s in states)
    y, _, tape = rnn.forward(x, state if len(state) > 1 else state[0])
    dy, dstate = rng.standard_normal(y.shape), [rng.standard_normal((1, N, H)) for _ in states]
    dx, dstate_0, grads = rnn.backward(tape, dy, tuple(dstate) if len(dstate) > 1 else dstate[0])

    leaves = [torch.tensor(v, requires_grad=True) for v in (x, *states, *rnn.parameters.values())]
    x_, states_, (w_ih, w_hh, b_ih, b_hh, unit) = leaves[0], leaves[1 : 1 + len(states)], leaves[1 + len(states) :]
    p = dict(zip(rnn.cell.parameters, unit, strict=True))
    ys, current = [], tuple(states_)
    for x_t in x_:
        current = LOOPS[name](torch, x_t @ w_ih.T + b_ih, lambda v: v @ w_hh.T + b_hh, current, p)
        ys.append(current[0])
    outputs = torch.stack(ys)
    torch.autograd.backward([outputs, *current], [torch.tensor(d) for d in (dy, *[d[0] for d in dstate])])
    assert_close("y", y, outputs.detach().numpy(), 1e-11)
    got = [dx, *[d[0] for d in (dstate_0 if len(states) > 1 else (dstate_0,))], *grads.values()]
    for key, mine, leaf in zip(["x", *rnn.cell.states, *grads], got, leaves, strict=True):
        want = leaf.grad.numpy()
        assert_close(key, mine, want, 1e-9 * max(1.0, np.abs(want).max()))


# ---- means in the language


@fastrnn.cell(gates="u", states="h s")
def means_of_states(a: Any, prev: Any) -> Any:
    s = tanh(a.u) + mean(prev.s) * prev.h
    return mean(s * prev.h) + 0.5 * s, mean(s)


@fastrnn.cell(gates="u v w", from_x="u", from_h="w", parameters="k b", states="h s")
def means_of_everything(a: Any, prev: Any, p: Any) -> Any:
    m = mean(a.u + p.k * a.w)
    s = tanh(a.v - m) * mean(p.b)
    return prev.h + rms_norm(s - mean(a.v) * m + 2.0, p.b), sigmoid(prev.s + mean(mean(s) * s) * s)


@fastrnn.cell(gates="u v", from_x="u v")
def scan(a: Any, prev: Any) -> Any:
    z = sigmoid(layer_norm(a.u))
    return z * prev.h + (1 - z) * a.v


@fastrnn.cell(gates="u", states="h s t")
def early(a: Any, prev: Any) -> Any:
    """h and s wait for no mean; t needs the s before once the new one is there."""
    s = a.u + 0.5 * prev.s
    return tanh(a.u + prev.t), s, layer_norm(s) * prev.s + 0.1 * prev.t


# ---- beside a second product


@fastrnn.cell(gates="r z n", parameters={"g": 1.0, "b": 0.0})
def means_before(a: Any, prev: Any, p: Any) -> Any:
    r, z = sigmoid(layer_norm(a.r, p.g, p.b)), sigmoid(a.z)
    n = tanh(a.n(r * prev.h))
    return n + z * (prev.h - n)


@fastrnn.cell(gates="r z n", parameters={"g": 1.0, "b": 0.0})
def means_after(a: Any, prev: Any, p: Any) -> Any:
    r, z = sigmoid(a.r), sigmoid(a.z)
    n = tanh(layer_norm(a.n(r * prev.h), p.g, p.b))
    return n + z * (prev.h - n)


@fastrnn.cell(gates="r z n u", states="h s", apart="n", from_h="u", parameters="g b k")
def means_on_both_sides(a: Any, prev: Any, p: Any) -> Any:
    """The product feeds sums that are its alone, of two gates, and values of a row are needed on both of its sides."""
    r, z = layer_norm((a.r, a.z), (p.g, p.k))
    m = rms_norm(sigmoid(r) * prev.s) - mean(prev.h)
    s = tanh(a.n.x + layer_norm(a.n.h(m), p.g, p.b) + mean(r) * a.u(m))
    return s + sigmoid(z) * (prev.h - s), 0.5 * prev.s + layer_norm(s * m)


@fastrnn.cell(gates="z n k", extra="e", parameters="p", states="h c", apart="n")
def means_beside_what_is_taken(a: Any, prev: Any, p: Any, e: Any) -> Any:
    """The first product takes what is made of h, the second what is made of a mean of c."""
    h = prev.h * e.e
    z = sigmoid(layer_norm(a.z(h)))
    c = p.p * prev.c + z * tanh(a.k(h))
    n = tanh(layer_norm(a.n.x) + a.n.h(mean(c) * c))
    return n + z * (h - n), c - mean(n * z)


@fastrnn.cell(gates="i o", parameters="g")
def norm_first(a: Any, prev: Any, p: Any) -> Any:
    """The only recurrent product is of h normalized."""
    h = layer_norm(prev.h, p.g)
    return tanh(a.i(h)) * sigmoid(a.o(h)) + 0.3 * prev.h


@fastrnn.cell(gates="u v", from_x="u")
def product_of_a_mean(a: Any, prev: Any) -> Any:
    return tanh(a.u + a.v(mean(prev.h * a.u)))


@fastrnn.cell(gates="u v", states="h s")
def mean_of_what_it_waits_for(a: Any, prev: Any) -> Any:
    """h is not read."""
    v = a.v(tanh(a.u) * prev.s)
    return tanh(layer_norm(v)), 0.5 * prev.s + mean(v) * v


OWN = [means_of_states, means_of_everything, scan, early, means_before, means_after, means_on_both_sides]
OWN += [means_beside_what_is_taken, norm_first, product_of_a_mean, mean_of_what_it_waits_for]
kernels = pytest.mark.parametrize("backend", ["cython", "numba"], indirect=True)
own = pytest.mark.parametrize("cell", OWN, ids=lambda cell: cell.name)


@own
@kernels
@pytest.mark.parametrize("shape", [(3, 1, 4, 5), (5, 14, 3, 19), (4, 3, 2, 32), (2, 150, 3, 19)], ids=str)
def test_cells_of_means_equal_reference(cell: Any, backend: str, shape: tuple[int, ...]) -> None:
    T, N, I, H = shape
    found = []
    for which in ("numpy", backend):
        rng = np.random.default_rng(0)
        rnn = fastrnn.Recurrent(cell, I, H, num_layers=2, bidirectional=True, dtype="float64", seed=0, backend=which)
        x, lengths = rng.standard_normal((T, N, I)), rng.integers(0, T + 1, N)
        states = [rng.standard_normal((4, N, H)) for _ in cell.states]
        given = tuple(states) if len(states) > 1 else states[0]
        beside: dict[str, Any] = {"lengths": lengths}
        if cell.extra:
            beside["extra"] = {"e": rng.uniform(0.5, 1, (T, N, H))}
        y, state_n, tape = rnn.forward(x, given, **beside, extra_gradients=bool(cell.extra))
        assert (rnn(x, given, **beside)[0] == y).all()
        trace = rnn.trace(x, given, **beside)
        dx, dstate, grads = rnn.backward(tape, rng.standard_normal(y.shape), given)
        found.append({"y": y, "dx": dx, **grads} | trace | (tape.dextra or {}))
        for key, its in (("state_n", state_n), ("dstate", dstate)):
            found[-1] |= {f"{key}_{k}": s for k, s in enumerate(its if isinstance(its, tuple) else (its,))}
    assert found[0].keys() == found[1].keys()
    for key, want in found[0].items():
        assert_close(key, found[1][key], want, 1e-10 * max(1.0, np.abs(want).max(initial=0)))


@own
def test_derivatives_through_means_are_right(cell: Any) -> None:
    assert fastrnn.check_cell(cell, seed=2).passed


@pytest.fixture
def _small_work_is_shared() -> Iterator[None]:
    before = load("cython")._override(FLOPS_WORTH_A_THREAD=0)
    yield
    load("cython")._override(**before)


@pytest.mark.usefixtures("_small_work_is_shared")
@kernels
@pytest.mark.parametrize("name", ["layer_norm_lstm", "layer_norm_reset_before_gru"])
@pytest.mark.parametrize("N", [5, 29, 150])  # few rows: threads share the units; many: the batch
def test_bits_do_not_depend_on_rows_or_threads(backend: str, name: str, N: int) -> None:
    rng = np.random.default_rng(0)
    T, I, H = 9, 6, 70
    x, dy = rng.standard_normal((T, N, I), np.float32), rng.standard_normal((T, N, H), np.float32)
    whole: dict[str, Any] = {}
    for threads in (1, 2, 3):
        rnn = fastrnn.Recurrent(LIBRARY[name], I, H, seed=0, num_threads=threads, backend=backend)
        y, _, tape = rnn.forward(x)
        dx, _, grads = rnn.backward(tape, dy)
        found = {"y": y, "dx": dx, **grads}
        whole = whole or found
        assert all((found[key] == whole[key]).all() for key in whole)
        dx_again, _, again = rnn.backward(rnn.forward(x, checkpoint_every=4)[2], dy)
        assert all((value == found[key]).all() for key, value in {"dx": dx_again, **again}.items())
        for n in (1, 2, N - 1):
            assert (rnn(x[:, :n])[0] == y[:, :n]).all()
            _, _, part = rnn.forward(x[:, :n])
            assert (rnn.backward(part, dy[:, :n])[0] == dx[:, :n]).all()


def test_a_row_of_equal_values_is_normalized_to_its_bias() -> None:
    v = np.full((3, 5), 7.0)
    assert (layer_norm(v, np.ones(5), np.arange(5.0)) == np.arange(5.0)).all()
    x, h = layer_norm((np.array([[1.0, 2.0]]), np.array([[3.0, 6.0]])), eps=0.0)
    assert_close("x", np.concatenate([x, h], 1), (np.array([[1.0, 2.0, 3.0, 6.0]]) - 3) / np.sqrt(3.5), 1e-15)
    assert_close("rms", rms_norm(np.array([[3.0, 4.0]]), 2.0, 0.0), np.array([[6.0, 8.0]]) / np.sqrt(12.5), 1e-15)


@backends
def test_a_large_mean_costs_no_accuracy(backend: str) -> None:
    @fastrnn.cell(gates="u", from_x="u")
    def normalized(a: Any, prev: Any) -> Any:
        return layer_norm(a.u) + 0.0 * prev.h

    rnn = fastrnn.Recurrent(normalized, 1, 64, seed=0, backend=backend)
    bias = np.random.default_rng(0).standard_normal(64).astype("float32") + np.float32(3000)
    rnn.parameters["bias_ih_l0"] = bias
    y, _ = rnn(np.zeros((1, 1, 1), "float32"))
    wide = bias.astype("float64")
    assert_close("y", y[0, 0], (wide - wide.mean()) / np.sqrt(wide.var() + 1e-5), 5e-4)  # a sum of squares is off by 1


@kernels
def test_members_are_what_they_are_alone(backend: str) -> None:
    cell, rng = LIBRARY["layer_norm_reset_before_gru"], np.random.default_rng(0)
    alone = [fastrnn.Recurrent(cell, 3, 21, seed=seed, backend=backend) for seed in range(3)]
    together = fastrnn.stack_modules(alone)
    x, dy = rng.standard_normal((3, 5, 4, 3), np.float32), rng.standard_normal((3, 5, 4, 21), np.float32)
    y, _, tape = together.forward(x)
    dx, _, _ = together.backward(tape, dy)
    for k, module in enumerate(alone):
        y_k, _, tape_k = module.forward(x[k])
        assert (y[k] == y_k).all()
        assert (dx[k] == module.backward(tape_k, dy[k])[0]).all()


def its_own_mean(a: Any, prev: Any) -> Any:
    return a.n(mean(a.n)) + a.z


def wrong_gains(a: Any, prev: Any) -> Any:
    z, n = layer_norm((a.z, a.n), (1.0, 2.0, 3.0))
    return z * n


@pytest.mark.parametrize(
    ("function", "kind", "message"),
    [
        (its_own_mean, ValueError, "gate n takes the product of what is made of it"),
        (wrong_gains, TypeError, r"gain is a tuple of 3; expected a tuple of 2"),
    ],
)
def test_errors_say_where(function: Cells, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=rf"cell {function.__name__} \(.*test_normalized.py:\d+.*{message}"):
        fastrnn.cell(gates="z n")(function)
