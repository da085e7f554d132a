"""S21: LSTM, GRU and SimpleRNN against Keras, on torch's autograd: outputs, states and every gradient.

The same against torch.nn is in test_modules.py. Keras' GRU is that of `reset_after=True`, its default, but where it is
said.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from calls import Call, Refusals, kinds, make, named_states, train
from tolerances import Outcome, assert_close, tolerance

import fastrnn
from fastrnn.parameters import Array
from fastrnn.training import Embedding, Last, Linear, Sequential, cross_entropy, from_keras_weights

# Keras 3.15 asks its own variables for what NumPy 2 no longer likes.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

LAYERS = {
    "rnn_tanh": ("SimpleRNN", {}),
    "rnn_relu": ("SimpleRNN", {"activation": "relu"}),
    "lstm": ("LSTM", {}),
    "gru": ("GRU", {}),
}
OPTIONS: list[dict[str, Any]] = [
    {},
    {"bias": False, "with_state": False},
    {"num_layers": 2, "bidirectional": True},
    {"ragged": True, "num_layers": 2, "bidirectional": True},
]


def make_keras(keras: ModuleType, kind: str, H: int, *, bidirectional: bool = False, **options: Any) -> Any:
    """A layer of Keras; the fixture makes float64 its default."""
    name, activation = LAYERS[kind]
    layer = getattr(keras.layers, name)(H, **activation, **options)
    return keras.layers.Bidirectional(layer) if bidirectional else layer


def stack_of(keras: ModuleType, call: Call) -> list[Any]:
    """The call's layers in Keras, with O(1) weights that the call draws."""
    layers = []
    for number in range(call.num_layers):
        layer = make_keras(
            keras,
            call.kind,
            call.H,
            bidirectional=call.bidirectional,
            use_bias=call.bias,
            return_sequences=True,
            return_state=True,
            zero_output_for_mask=True,
        )
        layer.build((call.N, call.T, call.directions * call.H if number else call.I))
        drawn = call.parameters({str(k): tuple(w.shape) for k, w in enumerate(layer.weights)})
        layer.set_weights([value * (1 + number / 4) for value in drawn.values()])
        layers.append(layer)
    return layers


def weights_of(layers: list[Any]) -> list[Array]:
    return [weight for layer in layers for weight in layer.get_weights()]


def run_keras(torch: ModuleType, layers: list[Any], call: Call, module: Any) -> Outcome:
    """The call on Keras' layers; gradients of weights under the names of ours."""
    arrays = call.arrays()

    def tensor(array: Array) -> Any:
        return torch.tensor(array, dtype=torch.float64, requires_grad=True)

    x = tensor(arrays["x"])
    states = tuple(tensor(s if call.with_state else np.zeros_like(s)) for s in arrays["state"])
    mask = None if call.lengths is None else torch.as_tensor(np.arange(call.T) < call.lengths[:, None])
    y, states_n = x, []
    for number, layer in enumerate(layers):
        rows = range(number * call.directions, (number + 1) * call.directions)
        y, *its_states_n = layer(y, initial_state=[s[row] for row in rows for s in states], mask=mask)
        states_n += its_states_n
    state_n = tuple(torch.stack(states_n[k :: len(states)]) for k in range(len(states)))
    incoming = [torch.tensor(array, dtype=torch.float64) for array in (arrays["dy"], *arrays["dstate"])]
    torch.autograd.backward([y, *state_n], incoming)

    grads = from_keras_weights(module, [w.value.grad.numpy() for layer in layers for w in layer.trainable_weights])
    for name in grads:
        if name.startswith("bias_hh") and call.kind != "gru":
            grads[name] = grads[name.replace("hh", "ih")]  # Keras' only bias is the sum of ours
    outcome = {"y": y.detach().numpy(), "dx": x.grad.numpy()} | {f"d{name}": g for name, g in grads.items()}
    return outcome | named_states(tuple(s.detach().numpy() for s in state_n), tuple(s.grad.numpy() for s in states))


@kinds
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_s21_forward_and_every_gradient_equal_keras(
    keras: ModuleType, torch: ModuleType, kind: str, options: dict[str, Any], dtype: str
) -> None:
    """Ours in each dtype; Keras, given the same numbers, in float64."""
    call = Call(kind, 7, 5, 3, 9, batch_first=True, dtype=dtype, **options)
    layers, module = stack_of(keras, call), make(kind, *call.sizes, dtype=dtype, **call.options)
    module.load_state_dict(from_keras_weights(module, weights_of(layers)))
    got, want = train(module, call.given()), run_keras(torch, layers, call, module)
    assert got.keys() == want.keys()
    length = call.num_layers * call.T * (6 * call.H + 2 + call.N)  # of the sums that `tolerances` counts
    for name, value in want.items():
        assert_close(name, got[name], value, tolerance(value, dtype, length))


@kinds
@pytest.mark.parametrize("bidirectional", [False, True])
def test_s21_a_model_and_its_twin_in_keras(
    keras: ModuleType, torch: ModuleType, kind: str, bidirectional: bool
) -> None:
    """Padded tokens to a class: Embedding with a mask, the last state, Dense, and a softmax cross-entropy."""
    V, E, H, classes = 11, 4, 6, 3
    rng = np.random.default_rng(0)
    lengths = np.array([6, 1, 4, 6, 2])
    tokens = np.where(np.arange(6) < lengths[:, None], rng.integers(1, V, (5, 6)), 0)
    targets = rng.integers(0, classes, 5)

    twin = keras.Sequential(
        [
            keras.layers.Embedding(V, E, mask_zero=True),
            make_keras(keras, kind, H, bidirectional=bidirectional),
            keras.layers.Dense(classes),
        ]
    )
    twin.build((5, 6))
    twin.set_weights([rng.uniform(-1, 1, w.shape) for w in twin.get_weights()])
    want_logits = twin(tokens)
    want_loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)(targets, want_logits)
    want_loss.backward()

    D = 2 if bidirectional else 1
    rnn = make(kind, E, H, batch_first=True, bidirectional=bidirectional, dtype="float64")
    embedding, head = Embedding(V, E, dtype="float64"), Linear(D * H, classes, dtype="float64")
    model = Sequential({"embedding": embedding, "rnn": Last(rnn), "head": head})
    embedded, *of_rnn, kernel, bias = twin.get_weights()
    embedding.load_state_dict({"weight": embedded})
    rnn.load_state_dict(from_keras_weights(rnn, of_rnn))
    head.load_state_dict({"weight": kernel.T, "bias": bias})
    logits, tape = model.forward(tokens, lengths)
    loss, dlogits = cross_entropy(logits, targets)
    _, grads = model.backward(tape, dlogits)

    assert_close("logits", logits, want_logits.detach().numpy(), 1e-13)
    assert_close("loss", np.array([loss]), want_loss.detach().numpy()[None], 1e-13)
    of_embedding, *of_rnn, of_kernel, of_bias = (w.value.grad.numpy() for w in twin.trainable_weights)
    want = {"embedding.weight": of_embedding, "head.weight": of_kernel.T, "head.bias": of_bias}
    want |= {f"rnn.{name}": gradient for name, gradient in from_keras_weights(rnn, of_rnn).items()}
    for name, gradient in want.items():
        if not (kind != "gru" and "bias_hh" in name):  # which Keras does not have
            assert_close(name, grads[name], gradient, 1e-13)


def test_s21_both_biases_of_reset_after_are_used(keras: ModuleType) -> None:
    """The reset gate multiplies the recurrent product and its bias: two biases, and not only their sum, matter."""
    layer = make_keras(keras, "gru", 2)
    layer.build((1, 1, 1))
    weights = layer.get_weights()
    assert [w.shape for w in weights] == [(1, 6), (2, 6), (2, 6)]
    gru = fastrnn.GRU(1, 2, dtype="float64")
    outputs = []
    for bias in (np.array([[1.0] * 6, [2.0] * 6]), np.array([[2.0] * 6, [1.0] * 6])):
        layer.set_weights([*weights[:2], bias])
        gru.load_state_dict(from_keras_weights(gru, layer.get_weights()))
        outputs.append(gru(np.ones((1, 1, 1)))[0][0])
        assert_close("y", outputs[-1], layer(np.ones((1, 1, 1))).detach().numpy(), 1e-14)
    assert (outputs[0] != outputs[1]).all()


KERNELS = [np.zeros((3, 12)), np.zeros((4, 12))]
BAD_WEIGHTS: dict[str, tuple[Callable[[], Any], str]] = {
    "reset_after=False": (
        lambda: from_keras_weights(fastrnn.GRU(3, 4), [*KERNELS, np.zeros(12)]),
        "weights[2] has shape (12,); expected (2, 3*H) = (2, 12), the bias of a GRU with reset_after=True",
    ),
    "one direction of two": (
        lambda: from_keras_weights(fastrnn.GRU(3, 4, bidirectional=True), [*KERNELS, np.zeros((2, 12))]),
        "weights holds 3 arrays; expected 3 of each of 1 layers and 2 directions",
    ),
    "no bias": (
        lambda: from_keras_weights(fastrnn.GRU(3, 4), KERNELS),
        "weights holds 2 arrays; expected 3 of each of 1 layers and 1 directions",
    ),
    "projection": (
        lambda: from_keras_weights(fastrnn.LSTM(3, 4, proj_size=2), KERNELS),
        "rnn has proj_size 2; expected 0: Keras has no projections",
    ),
}


@pytest.mark.parametrize(("call", "text"), BAD_WEIGHTS.values(), ids=BAD_WEIGHTS)
def test_weights_that_do_not_fit_are_named(call: Callable[[], Any], text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(text)):
        call()


def stacked(keras: ModuleType, module: Any) -> Any:
    """A model of a Bidirectional GRU, and an LSTM."""
    layers = [
        keras.Input((6, 3)),
        keras.layers.Bidirectional(module.GRU(4, return_sequences=True, dropout=0.1), name="both"),
        module.LSTM(5, return_sequences=True, name="last"),
    ]
    model = keras.Sequential(layers)
    rng = np.random.default_rng(0)
    model.set_weights([rng.uniform(-1, 1, w.shape) for w in model.get_weights()])
    return model


@pytest.mark.parametrize("source", ["layers", ".keras", ".h5"])
def test_layers_and_files_are_read(keras: ModuleType, tmp_path: Path, source: str) -> None:
    model, x = stacked(keras, keras.layers), np.random.default_rng(1).uniform(-1, 1, (2, 6, 3))
    gru = fastrnn.GRU(3, 4, bidirectional=True, batch_first=True, dtype="float64")
    lstm = fastrnn.LSTM(8, 5, batch_first=True, dtype="float64")
    if source == "layers":
        gru.load_state_dict(from_keras_weights(gru, model.layers[0]))
        lstm.load_state_dict(from_keras_weights(lstm, [model.layers[1]]))
    else:
        path = tmp_path / f"model{source}"
        model.save(path)
        gru.load_state_dict(from_keras_weights(gru, path, layers="both"))
        lstm.load_state_dict(from_keras_weights(lstm, str(path), layers=["last"]))
    assert_close("y", lstm(gru(x)[0])[0], model(x).detach().numpy(), 1e-13)


def test_a_gru_with_its_reset_before_is_a_recurrent(keras: ModuleType) -> None:
    layer = keras.layers.GRU(4, reset_after=False, return_sequences=True)
    x = np.random.default_rng(1).uniform(-1, 1, (2, 6, 3))
    layer.build(x.shape)
    rnn = fastrnn.Recurrent(fastrnn.cells.reset_before_gru, 3, 4, batch_first=True, dtype="float64")
    rnn.load_state_dict(from_keras_weights(rnn, layer))
    assert_close("y", rnn(x)[0], layer(x).detach().numpy(), 1e-13)


OTHERS: dict[str, tuple[Any, str, dict[str, Any], str]] = {
    "hard_sigmoid": (
        fastrnn.LSTM(3, 4),
        "LSTM",
        {"recurrent_activation": "hard_sigmoid"},
        "it has recurrent_activation='hard_sigmoid'; expected recurrent_activation='sigmoid'",
    ),
    "relu": (
        fastrnn.LSTM(3, 4),
        "LSTM",
        {"activation": "relu"},
        "it has activation='relu'; expected activation='tanh'",
    ),
    "relu into tanh": (
        fastrnn.RNN(3, 4),
        "SimpleRNN",
        {"activation": "relu"},
        "it has activation='relu'; expected activation='tanh'",
    ),
    "linear": (fastrnn.GRU(3, 4), "GRU", {"activation": None}, "it has activation='linear'; expected"),
    "backwards": (fastrnn.GRU(3, 4), "GRU", {"go_backwards": True}, "it has go_backwards=True; expected"),
    "reset_after": (
        fastrnn.GRU(3, 4, bias=False),
        "GRU",
        {"use_bias": False, "reset_after": False},
        "it has reset_after=False; expected reset_after=True: for False use fastrnn.Recurrent(fastrnn.cells.reset",
    ),
    "kind": (fastrnn.GRU(3, 4), "LSTM", {}, "it is a LSTM; expected a GRU, for a fastrnn.GRU"),
    "units": (fastrnn.LSTM(3, 5), "LSTM", {}, "it has units=4; expected units=5"),
    "directions": (fastrnn.LSTM(3, 4, bidirectional=True), "LSTM", {}, "a layer is no Bidirectional; expected one"),
}


@pytest.mark.parametrize(("rnn", "kind", "options", "text"), OTHERS.values(), ids=OTHERS)
def test_a_layer_that_computes_something_else_is_refused(
    keras: ModuleType, rnn: Any, kind: str, options: dict[str, Any], text: str
) -> None:
    layer = getattr(keras.layers, kind)(4, name="it", **options)
    layer.build((2, 6, 3))
    with pytest.raises(ValueError, match=re.escape(text)):
        from_keras_weights(rnn, layer)
    if kind != "LSTM" or options:  # the arrays beside its configuration, which does not say the class
        with pytest.raises(ValueError, match=re.escape(text)):
            from_keras_weights(rnn, layer.get_weights(), layer.get_config())


def test_files_and_configurations_that_do_not_serve_are_named(keras: ModuleType, tmp_path: Path) -> None:
    model, gru = stacked(keras, keras.layers), fastrnn.GRU(3, 4, bidirectional=True)
    model.save(tmp_path / "model.keras")
    model.save_weights(tmp_path / "model.weights.h5")
    (tmp_path / "text.keras").write_text("no file of Keras")
    merged = keras.layers.Bidirectional(keras.layers.GRU(4), merge_mode="sum")
    merged.build((2, 6, 3))
    config = keras.layers.GRU(4).get_config() | {"warmth": 3}
    calls: list[tuple[Any, ...]] = [
        (gru, tmp_path / "model.keras"),
        (gru, tmp_path / "model.keras", None, "boht"),
        (gru, tmp_path / "model.weights.h5"),
        (gru, tmp_path / "text.keras"),
        (gru, merged),
        (fastrnn.GRU(3, 4), [np.zeros((3, 12))], config),
        (fastrnn.GRU(3, 4), [np.zeros((3, 12))], None, "both"),
        (fastrnn.GRU(3, 4), model.layers[0], config),
    ]
    refusals = Refusals(ValueError)
    for rnn, weights, *more in calls:
        given = dict(zip(("config", "layers"), more, strict=False))
        with refusals:
            from_keras_weights(rnn, weights, **given)
    wanted = [
        "model.keras, has the recurrent layers ['both', 'last']; expected layers= to name one, or several",
        "layers names 'boht'; expected names of ['both', 'last']",
        "model.weights.h5, has weights without a configuration; expected a whole model's file, from model.save",
        "text.keras, is neither a zip nor an HDF5 file; expected a .keras or .h5 file of Keras",
        "a Bidirectional has merge_mode='sum'; expected 'concat', which is what y is here",
        "has warmth=3; expected settings that are known",
        "layers is given; expected it with a path only",
        "config is given beside layers, which have their own; expected None",
    ]
    assert [end in text for end, text in zip(wanted, refusals, strict=True)] == [True] * len(wanted)
