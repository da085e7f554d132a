"""Dropout between layers: its share and scale, its generator, and exact gradients given what it kept."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from calls import Call, as_state, backends, kinds, make, module_of, train
from tolerances import assert_close, assert_same_bits

import fastrnn
from fastrnn.parameters import Array

LAYERS = 3
OPTIONS = [{}, {"bidirectional": True}, {"ragged": True}, {"batch_first": True}]


def passing_on(seed: int, p: float, backend: str | None = None) -> tuple[Any, Array]:
    """A module whose upper layer's y is what is left of a lower y of ones, and a long x."""
    module = fastrnn.RNN(1, 8, 2, dropout=p, seed=seed, backend=backend, nonlinearity="relu", dtype="float64")
    for name, parameter in module.parameters.items():
        parameter[...] = {"weight_ih_l1": np.eye(8), "bias_ih_l0": 1}.get(name, 0)
    return module, np.zeros((500, 5, 1))


@backends
@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_share_and_mean(backend: str, p: float) -> None:
    module, x = passing_on(0, p, backend)
    y, _, _ = module.forward(x)
    kept = y != 0
    deviation = (p * (1 - p) / y.size) ** 0.5
    assert abs(kept.mean() - (1 - p)) < 4 * deviation
    assert_close("what is kept", y[kept], np.full(kept.sum(), 1 / (1 - p)), 1e-15)
    assert abs(y.mean() - 1) < 4 * deviation / (1 - p)
    for axis in ((1, 2), (0, 2), (0, 1)):
        share = kept.mean(axis)
        assert share.std() > 0, "steps, rows or units are dropped together"
        assert np.abs(share - (1 - p)).max() < 5 * (p * (1 - p) * share.size / y.size) ** 0.5


@backends
@kinds
def test_inference_keeps_all(backend: str, kind: str) -> None:
    call = Call(kind, 5, 3, 4, 6, LAYERS)
    x = call.arrays()["x"]
    y = module_of(call, dropout=0.5, backend=backend)(x)[0]
    assert_same_bits("y", y, module_of(call, backend=backend)(x)[0])


@kinds
@pytest.mark.parametrize("p", [0.0, 1.0])
def test_all_or_nothing(kind: str, p: float) -> None:
    """p = 0 is no dropout; with p = 1 the last layer sees its bias alone and nothing flows below it."""
    call = Call(kind, 5, 3, 4, 6, 2)
    got = train(module_of(call, dropout=p), call.given())
    want = train(module_of(call), call.given())
    if p == 0:
        for name, array in want.items():
            assert_same_bits(name, got[name], array)
        return
    assert not got["dweight_ih_l1"].any()
    assert np.isfinite(got["y"]).all()
    module = make(kind, 6, 6, dtype="float64")
    module.load_state_dict({n.replace("l1", "l0"): a for n, a in module_of(call).parameters.items() if "l1" in n})
    state = as_state(tuple(s[1:] for s in call.arrays()["state"]))
    assert_close("y", got["y"], module(np.zeros((5, 3, 6)), state)[0], 1e-13)


def test_seed_decides_what_is_kept() -> None:
    (first, x), (second, _), (other, _) = passing_on(7, 0.5), passing_on(7, 0.5), passing_on(8, 0.5)
    before = None
    for _ in range(3):
        y = first.forward(x)[0]
        assert_same_bits("y", second.forward(x)[0], y)
        assert (other.forward(x)[0] != y).any()
        if before is not None:
            assert (y != before).any(), "two calls of forward drop the same"
        before = y
        second(x)  # inference draws nothing


def test_seed_draws_the_same_parameters_with_and_without_dropout() -> None:
    plain, dropping = (fastrnn.GRU(3, 4, 3, dropout=p, seed=5).parameters for p in (0.0, 0.5))
    for name, array in plain.items():
        assert_same_bits(name, dropping[name], array)


def test_layers_drop_independently() -> None:
    module = fastrnn.RNN(1, 8, 3, dropout=0.5, seed=0, nonlinearity="relu", dtype="float64")
    for name, parameter in module.parameters.items():
        parameter[...] = {"weight_ih_l1": np.eye(8), "weight_ih_l2": np.eye(8), "bias_ih_l0": 1}.get(name, 0)
    kept = module.forward(np.zeros((500, 5, 1)))[0] != 0
    assert abs(kept.mean() - 0.25) < 0.02


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))])
def test_copies_keep_the_generator(duplicate: Callable[[Any], Any]) -> None:
    module, x = passing_on(3, 0.5)
    module.forward(x)
    other = duplicate(module)
    want = module.forward(x)[0]
    module.forward(x)
    assert_same_bits("y", other.forward(x)[0], want)


def kept_by(module: Any, leading: tuple[int, ...]) -> list[Array]:
    """What the next forward will keep of the input of each layer above the first."""
    size = module.directions * module.hidden_size
    twin = copy.deepcopy(module)
    ones = np.ones((*leading, size), module.dtype)
    return [twin._dropout(ones, layer)[0] for layer in range(1, module.num_layers)]


@backends
@kinds
@pytest.mark.parametrize("bidirectional", [False, True])
def test_gradient_is_exact_given_what_was_kept(backend: str, kind: str, bidirectional: bool) -> None:
    """Against modules of one layer, with the scaled masks between them."""
    call = Call(kind, 5, 3, 4, 6, LAYERS, bidirectional=bidirectional)
    module, arrays = module_of(call, dropout=0.4, backend=backend), call.arrays()
    D, masks = call.directions, kept_by(module, (call.T, call.N))
    got = train(module, call.given())

    x, tapes = arrays["x"], []
    for layer in range(LAYERS):
        single = make(kind, x.shape[-1], call.H, dtype="float64", bidirectional=bidirectional, backend="numpy")
        own = {n.replace(f"_l{layer}", "_l0"): p for n, p in module.parameters.items() if f"_l{layer}" in n}
        single.load_state_dict(own)
        y, _, tape = single.forward(x, as_state(tuple(s[layer * D : (layer + 1) * D] for s in arrays["state"])))
        tapes.append((single, tape))
        x = y * masks[layer] if layer < LAYERS - 1 else y
    assert_close("y", got["y"], x, 1e-12)
    dy = arrays["dy"]
    for layer, (single, tape) in reversed(list(enumerate(tapes))):
        dstate = as_state(tuple(d[layer * D : (layer + 1) * D] for d in arrays["dstate"]))
        dx, _, grads = single.backward(tape, dy, dstate)
        for name, gradient in grads.items():
            assert_close(name, got[f"d{name}".replace("_l0", f"_l{layer}")], gradient, 1e-12)
        dy = dx * masks[layer - 1] if layer else dx
    assert_close("dx", got["dx"], dy, 1e-12)


def test_gradient_is_that_of_finite_differences() -> None:
    call = Call("lstm", 4, 2, 3, 5, LAYERS, ragged=True)
    module, arrays = module_of(call, dropout=0.3), call.arrays()
    start = module._dropout.now()

    def loss() -> float:
        module._dropout = module._dropout.again(start)
        y, _, _ = module.forward(arrays["x"], lengths=call.lengths)
        return float((y * arrays["dy"]).sum())

    module._dropout = module._dropout.again(start)
    _, _, tape = module.forward(arrays["x"], lengths=call.lengths)
    dx, _, grads = module.backward(tape, arrays["dy"])
    step = 1e-6
    for name, array in ({"x": arrays["x"]} | module.parameters).items():
        chosen = list(np.ndindex(array.shape))[:: max(1, array.size // 7)]
        slopes = []
        for index in chosen:
            middle = array[index]
            losses = []
            for array[index] in (middle + step, middle - step):
                losses.append(loss())
            array[index] = middle
            slopes.append((losses[0] - losses[1]) / (2 * step))
        gradient = dx if name == "x" else grads[name]
        assert_close(f"d{name}", np.array([gradient[index] for index in chosen]), np.array(slopes), 1e-7)


@backends
@kinds
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_checkpoints_change_no_bit(backend: str, kind: str, options: dict[str, Any]) -> None:
    call = Call(kind, 19, 40, 3, 7, LAYERS, dtype="float32", **options)
    want = train(module_of(call, dropout=0.5, backend=backend), call.given())
    assert (want["y"] != train(module_of(call, backend=backend), call.given())["y"]).any()
    for every in (1, 7):
        for name, array in train(module_of(call, dropout=0.5, backend=backend), call.given(), every).items():
            assert_same_bits(f"{name}, checkpoint every {every}", array, want[name])
