"""Cells by options: any activation of Keras and ONNX, clipping, coupled gates, peepholes, the reset before or after."""

from __future__ import annotations

import copy
import cProfile
import itertools
import pickle
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tolerances import assert_close

import fastrnn
from fastrnn.cells import WrittenCell, gru_with, lstm_with, rnn_with
from fastrnn.cells.library.activations import (
    ACTIVATIONS,
    KERAS,
    ONNX,
    activation,
    keras_activation,
    onnx_activations,
)

# Kinks are among them: where a half is one, the other is that of torch.
POINTS = np.array([-20.0, -3.0, -2.5, -1.0, -0.5, -0.25, -1e-9, 0.0, 1e-9, 0.2, 0.5, 1.0, 1.5, 3.0, 6.0, 7.0, 10.0])
T, N, I, H = 5, 3, 4, 19


def through_kernels(cell: WrittenCell, x: Any, dy: Any, backend: str) -> tuple[Any, Any]:
    """What a plain cell makes of numbers, one unit each, and the gradients of these."""
    rnn = fastrnn.Recurrent(cell, len(x), len(x), bias=False, dtype="float64", backend=backend)
    rnn.parameters["weight_ih_l0"][...] = np.eye(len(x))
    y, _, tape = rnn.forward(x[None, None])
    dx, _, _ = rnn.backward(tape, dy[None, None])
    return y[0, 0], dx[0, 0]


@pytest.mark.parametrize("name", KERAS)
@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")
def test_activations_are_keras(keras: ModuleType, torch: ModuleType, name: str) -> None:
    # Keras' slope is 1/6 in float32, which ends elsewhere.
    points = POINTS if name not in ("hard_sigmoid", "hard_silu", "hard_swish") else POINTS[np.abs(POINTS) != 3]
    x = torch.tensor(points, requires_grad=True)
    want = keras.activations.get(name)(x)
    dy = np.linspace(0.5, 1.5, len(points))
    want.backward(torch.tensor(dy))
    y, dx = through_kernels(rnn_with(keras_activation(name)), points, dy, "cython")
    # Keras has constants of float32: gelu's, selu's
    np.testing.assert_allclose(y, want.detach().numpy(), rtol=1e-7, atol=1e-6)
    np.testing.assert_allclose(dx, x.grad.numpy(), rtol=1e-7, atol=1e-6)


def test_every_activation_of_keras_is_known_or_refused(keras: ModuleType) -> None:
    theirs = set(keras.src.activations.ALL_OBJECTS_DICT)
    assert theirs - set(KERAS) == {"softmax", "log_softmax", "sparsemax", "glu", "threshold"}
    assert keras_activation(None) == activation("it", "linear")


@pytest.mark.parametrize("name", ["softmax", "log_softmax", "sparsemax", "glu"])
def test_activations_over_units_are_refused_by_name(name: str) -> None:
    with pytest.raises(ValueError, match=f"'{name}', which mixes units"):
        keras_activation(name)
    with pytest.raises(ValueError, match=f"candidate is '{name}', which mixes units"):
        gru_with(candidate=name)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_activation_keeps_float32_and_is_in_kernels_what_it_is_in_numpy(name: str) -> None:
    of, points = activation("it", name), np.random.default_rng(0).normal(0, 2, 40)
    assert of(points.astype(np.float32)).dtype == np.float32
    y, dx = through_kernels(rnn_with(name), points, np.ones(40), "cython")
    want, dwant = through_kernels(rnn_with(name), points, np.ones(40), "numpy")
    assert_close("of an array", of(points), want, 1e-13)
    assert_close("y", y, want, 1e-12)
    assert_close("dx", dx, dwant, 1e-12)
    assert_close("differences", (of(points + 1e-6) - of(points - 1e-6)) / 2e-6, dwant, 1e-6)


def test_numbers_of_activations_count() -> None:
    x = np.array([-2.0, -0.1, 0.3, 2.0])
    for given, want in {
        ("affine", 2.0, -1.0): 2 * x - 1,
        ("scaled_tanh", 1.5, 0.3): 1.5 * np.tanh(0.3 * x),
        ("leaky_relu", 0.2): np.where(x > 0, x, 0.2 * x),
        ("thresholded_relu", 0.5): np.where(x > 0.5, x, 0),
        ("threshold", 0.1, -7.0): np.where(x > 0.1, x, -7),
        ("hard_sigmoid", 0.3, 0.4): np.clip(0.3 * x + 0.4, 0, 1),
        ("hard_sigmoid", 0.3): np.clip(0.3 * x + 0.5, 0, 1),  # what is left out is what it is without
        ("elu", 0.7): np.where(x > 0, x, 0.7 * np.expm1(x)),
        ("celu", 0.7): np.where(x > 0, x, 0.7 * np.expm1(x / 0.7)),
        ("soft_shrink", 0.2): np.sign(x) * np.maximum(np.abs(x) - 0.2, 0),
        ("hard_shrink", 0.2): np.where(np.abs(x) > 0.2, x, 0),
        ("squareplus", 1.0): (x + np.sqrt(x * x + 1)) / 2,
    }.items():
        y, _ = through_kernels(rnn_with(given), x, np.ones(4), "cython")
        assert_close(str(given), y, want, 1e-13)


def test_activations_of_onnx_take_the_numbers_that_they_have() -> None:
    found = onnx_activations(["HardSigmoid", "Tanh", "leakyrelu", "Affine"], [0.3, 0.02, 2.0], [0.6, -1.0])
    assert found == (("hard_sigmoid", (0.3, 0.6)), ("tanh", ()), ("leaky_relu", (0.02,)), ("affine", (2.0, -1.0)))
    assert onnx_activations(["HardSigmoid", "Elu"]) == (("hard_sigmoid", (0.2, 0.5)), ("elu", (1.0,)))
    assert len(ONNX) == 11
    with pytest.raises(ValueError, match="'Gelu'; expected one of ONNX'"):
        onnx_activations(["Gelu"])
    assert onnx_activations(["Tanh", "Affine"], [1.0, 2.0]) == (("tanh", ()), ("affine", (1.0, 0.0)))


# ---- cells


def step(cell: WrittenCell, sums: dict[str, Any], before: dict[str, Any], **own: Any) -> Any:
    arguments = [SimpleNamespace(**sums), SimpleNamespace(**before), *([SimpleNamespace(**own)] if own else [])]
    return cell(*arguments)


def test_an_lstm_by_options_is_what_they_say() -> None:
    rng = np.random.default_rng(0)
    a, c = {name: rng.normal(0, 2, 50) for name in "ifgo"}, rng.normal(0, 2, 50)
    p = {f"p_{name}": rng.normal(size=50) for name in "ifo"}

    def gate(x: Any) -> Any:
        return np.clip(np.clip(x, -1.5, 1.5) / 6 + 0.5, 0, 1)

    for coupled, peepholes in itertools.product((False, True), repeat=2):
        cell = lstm_with("hard_sigmoid", "softsign", "relu", clip=1.5, coupled=coupled, peepholes=peepholes)
        on = 1 if peepholes else 0
        i, g = gate(a["i"] + on * p["p_i"] * c), np.clip(a["g"], -1.5, 1.5)
        f = 1 - i if coupled else gate(a["f"] + on * p["p_f"] * c)
        new = f * c + i * g / (1 + abs(g))
        want = gate(a["o"] + on * p["p_o"] * new) * np.maximum(new, 0)
        h, memory = step(cell, a, {"h": c, "c": c}, **(p if peepholes else {}))
        np.testing.assert_allclose(memory, new, rtol=1e-13)
        np.testing.assert_allclose(h, want, rtol=1e-13, atol=1e-15)
        assert cell.gates == (("i", "g", "o") if coupled else ("i", "f", "g", "o"))


CELLS = [
    lstm_with("hard_sigmoid", ("leaky_relu", 0.2), ("scaled_tanh", 1.2, 0.7), clip=2),
    lstm_with(candidate="softsign", clip=1.5, coupled=True),
    lstm_with(("hard_sigmoid", 0.2), "elu", peepholes=True),
    lstm_with(("affine", 0.3, 0.5), "tanh", "softsign", clip=2.5, coupled=True, peepholes=True),
    gru_with("hard_sigmoid", "softsign", clip=1.5),
    gru_with(("elu", 0.5), ("thresholded_relu", 0.3), reset="before", clip=3),
    rnn_with("softplus", clip=2),
]


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.name)
def test_cells_by_options_run_in_the_kernels(cell: WrittenCell) -> None:
    rng = np.random.default_rng(0)
    modules = [
        fastrnn.Recurrent(cell, I, H, num_layers=2, bidirectional=True, dtype="float64", seed=0, backend=backend)
        for backend in ("cython", "numpy")
    ]
    x, dy = rng.normal(size=(T, N, I)), rng.normal(size=(T, N, 2 * H))
    states = tuple(rng.normal(size=(4, N, H)) for _ in cell.states)
    found = []
    for module in modules:
        y, after, tape = module.forward(x, states if len(states) > 1 else states[0], lengths=[5, 0, 3])
        dx, before, grads = module.backward(tape, dy, after)
        found.append({"y": y, "dx": dx, "after": np.asarray(after), "before": np.asarray(before), **grads})
    mine, reference = found
    for name, want in reference.items():
        assert_close(name, mine[name], want, 1e-11 * max(1.0, np.abs(want).max()))


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.name)
def test_derivatives_of_cells_by_options_are_right(cell: WrittenCell) -> None:
    assert fastrnn.check_cell(cell, seed=3).passed


def test_without_options_they_are_the_built_in_cells() -> None:
    for cell, module in ((lstm_with(), fastrnn.LSTM), (gru_with(), fastrnn.GRU), (rnn_with(), fastrnn.RNN)):
        rnn = fastrnn.Recurrent(cell, I, H, dtype="float64", seed=0)
        built_in: Any = module(I, H, dtype="float64", seed=0)
        x = np.random.default_rng(0).normal(size=(T, N, I))
        assert_close(cell.name, rnn(x)[0], built_in(x)[0], 1e-14)


def test_the_same_options_are_the_same_cell_also_from_a_pickle() -> None:
    cell = lstm_with("hard_sigmoid", ("leaky_relu", 0.01), clip=2)
    assert cell is lstm_with(("hard_sigmoid", 1 / 6, 0.5), "leaky_relu", "tanh", clip=2.0)
    assert cell is not lstm_with("hard_sigmoid", ("leaky_relu", 0.02), clip=2)
    assert cell.name == "lstm_with(gate='hard_sigmoid', candidate='leaky_relu', output='tanh', clip=2.0)"
    for made in CELLS:
        assert pickle.loads(pickle.dumps(made)) is made
        assert copy.deepcopy(made) is made
    rnn = fastrnn.Recurrent(cell, I, H, seed=0)
    x = np.ones((T, N, I), np.float32)
    assert np.array_equal(pickle.loads(pickle.dumps(rnn))(x)[0], rnn(x)[0])


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"gate": "sigmoidal"}, ValueError, "gate is 'sigmoidal'; expected one of linear, affine"),
        ({"output": 3}, TypeError, "output is 3; expected the name of an activation"),
        ({"output": ()}, TypeError, r"output is \(\); expected the name of an activation"),
        ({"candidate": ("elu", 1.0, 2.0)}, ValueError, "candidate has 2 numbers beside 'elu'; expected at most 1"),
        ({"candidate": ("elu", "1")}, ValueError, "candidate has '1' beside 'elu'; expected finite numbers"),
        ({"clip": -1}, ValueError, "clip"),
        ({"coupled": 1}, TypeError, "coupled"),
    ],
)
def test_options_that_are_not_known_are_refused(options: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        lstm_with(**options)


def test_a_cell_can_be_defined_under_a_profiler() -> None:
    profile = cProfile.Profile()
    profile.enable()
    fastrnn.cell(gates="n")(lambda a, prev: a.n)
    sum([1])
    profile.disable()
    assert any("sum" in str(entry.code) for entry in profile.getstats())
