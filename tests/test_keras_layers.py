"""fastrnn.keras: its layers beside Keras' own, on the backend that FASTRNN_TEST_KERAS names, else torch.

tests/test_keras_backends.py runs this file once more on each of the others.
"""

from __future__ import annotations

import importlib
import os
import re
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from calls import Refusals
from keras_calls import assert_equal, draw, make, run, set_weights
from tolerances import assert_close

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

ELSEWHERE = "FASTRNN_TEST_KERAS" in os.environ  # where a first call compiles for long
kinds = pytest.mark.parametrize("kind", ["LSTM", "GRU", "SimpleRNN"])


@pytest.fixture(scope="module")
def ours(keras: ModuleType) -> ModuleType:
    """fastrnn.keras, after Keras has been told its backend."""
    return importlib.import_module("fastrnn.keras")


@kinds
@pytest.mark.parametrize("seed", range(3 if ELSEWHERE else 30))
def test_outputs_states_and_gradients_equal_keras(keras: ModuleType, ours: ModuleType, kind: str, seed: int) -> None:
    """Random configurations, none of which is left to Keras: a warning would be an error."""
    drawn = draw(kind, seed)
    want = run(keras, make(keras.layers, drawn, **drawn.theirs), drawn)
    assert_equal(run(keras, make(ours, drawn), drawn), want, drawn)


@kinds
def test_rates_of_1_drop_what_keras_drops(keras: ModuleType, ours: ModuleType, kind: str) -> None:
    """All of a SimpleRNN, nothing of the others."""
    drawn = replace(draw(kind, 4, dropout=1.0, recurrent_dropout=1.0, return_sequences=True), training=True)
    want = run(keras, make(keras.layers, drawn, **({} if kind == "SimpleRNN" else {"use_cudnn": False})), drawn)
    assert_equal(run(keras, make(ours, drawn), drawn), want, drawn)


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "SimpleRNN"])
@pytest.mark.parametrize("activation", ["elu", "hard_sigmoid", "gelu", "softsign", "leaky_relu", "linear"])
def test_other_activations_equal_keras(keras: ModuleType, ours: ModuleType, kind: str, activation: str) -> None:
    gates = "sigmoid" if activation == "softsign" else "hard_sigmoid"  # the usual one beside another activation
    gate = {} if kind == "SimpleRNN" else {"recurrent_activation": gates, "use_cudnn": False}
    drawn = draw(kind, 4, activation=activation, return_sequences=True, **gate)
    got, want = run(keras, make(ours, drawn), drawn), run(keras, make(keras.layers, drawn), drawn)
    assert got.keys() == want.keys()
    for name, value in want.items():  # torch has a sixth in float32
        assert_close(name, got[name], value, 1e-7 * max(1, np.abs(value).max()))


def constant(keras: ModuleType, **options: Any) -> dict[str, Any]:
    """The weights of Keras' published tests."""
    names = {"kernel": 0.01, "recurrent": 0.02, "bias": 0.03}
    return {f"{name}_initializer": keras.initializers.Constant(value) for name, value in names.items()} | options


PUBLISHED: list[tuple[str, dict[str, Any], list[float]]] = [
    # One number a sequence: all units are the same. T = 6, I = 4, H = 3, x = 0, 1, 2, ...
    ("LSTM", {}, [0.6288687, 0.86899155, 0.9460773]),
    ("LSTM", {"go_backwards": True}, [0.35622165, 0.74789524, 0.8872726]),
    ("LSTM", {"unroll": True, "implementation": 1}, [0.6288687, 0.86899155, 0.9460773]),
    ("LSTM", {"unit_forget_bias": False}, [0.57019705, 0.8661914, 0.9459622]),
    ("LSTM", {"use_bias": False}, [0.54986924, 0.86226785, 0.9443936]),
    ("GRU", {}, [0.5217289, 0.6371659, 0.39384964]),
    ("GRU", {"go_backwards": True}, [0.24406259, 0.611516, 0.3928808]),
    ("GRU", {"reset_after": False}, [0.51447755, 0.6426879, 0.40208298]),
    ("GRU", {"use_bias": False}, [0.49988455, 0.64701194, 0.4103359]),
]


@pytest.mark.parametrize(("kind", "options", "want"), PUBLISHED, ids=str)
def test_published_numbers(
    keras: ModuleType, ours: ModuleType, kind: str, options: dict[str, Any], want: list[float]
) -> None:
    x = np.arange(72.0).reshape(3, 6, 4)
    y = keras.ops.convert_to_numpy(getattr(ours, kind)(3, **constant(keras, **options))(x))
    assert_close("y", y, np.repeat(want, 3).reshape(3, 3), 1e-5)


MASKED: list[tuple[str, dict[str, Any], list[list[float]]]] = [
    ("GRU", {}, [[0.03606692, 0.09497581, 0.09497581, 0.19393763], [0.16051409, 0.16051409, 0.16051409, 0.30818558]]),
    ("GRU", {"zero_output_for_mask": True}, [[0.03606692, 0.09497581, 0, 0.19393763], [0.16051409, 0, 0, 0.30818558]]),
    ("SimpleRNN", {}, [[0.0599281, 0.15122814, 0.15122814, 0.32394567], [0.3969304, 0.3969304, 0.3969304, 0.608085]]),
]


@pytest.mark.parametrize(("kind", "options", "want"), MASKED, ids=str)
def test_published_numbers_of_masks(
    keras: ModuleType, ours: ModuleType, kind: str, options: dict[str, Any], want: list[list[float]]
) -> None:
    mask = np.array([[True, True, False, True], [True, False, False, True]])
    layer = getattr(ours, kind)(2, **constant(keras, return_sequences=True, **options))
    y = keras.ops.convert_to_numpy(layer(np.arange(24.0).reshape(2, 4, 3), mask=mask))
    assert_close("y", y, np.repeat(want, 2).reshape(2, 4, 2), 1e-5)


@pytest.mark.parametrize("merge_mode", ["concat", "sum", "ave", "mul", None])
@pytest.mark.parametrize("return_sequences", [False, True])
def test_bidirectional_equals_keras(
    keras: ModuleType, ours: ModuleType, merge_mode: str | None, return_sequences: bool
) -> None:
    kind = "GRU" if return_sequences else "LSTM"
    rng = np.random.default_rng(0)
    x, mask = rng.uniform(-1, 1, (4, 6, 3)), rng.random((4, 6)) < 0.6
    outcomes = []
    for module in (keras.layers, ours):
        inner = getattr(module, kind)(5, return_sequences=return_sequences, return_state=True)
        layer = keras.layers.Bidirectional(inner, merge_mode=merge_mode)
        layer.build(x.shape)
        set_weights(layer, 3)
        outcomes.append([keras.ops.convert_to_numpy(y) for y in keras.tree.flatten(layer(x, mask=mask))])
    assert [p.on_kernels for p in ours.report(layer)] == [True, True]
    for k, (got, want) in enumerate(zip(outcomes[1], outcomes[0], strict=True)):
        assert_close(f"output {k}", got, want, 1e-12)


@kinds
def test_a_stateful_layer_goes_on_and_begins_anew(keras: ModuleType, ours: ModuleType, kind: str) -> None:
    """Three batches, then a reset; gradients too: Keras has written to the state by then."""
    drawn = draw(kind, 0, stateful=True, return_sequences=True, return_state=True)
    theirs, mine = make(keras.layers, drawn, **drawn.theirs), make(ours, drawn)
    for _ in range(3):
        if keras.config.backend() == "torch":
            assert_equal(run(keras, mine, drawn), run(keras, theirs, drawn), drawn)
        else:
            outputs = [keras.tree.flatten(layer(drawn.x, mask=drawn.mask)) for layer in (mine, theirs)]
            for k, (got, want) in enumerate(zip(*outputs, strict=True)):
                assert_close(f"output {k}", *map(keras.ops.convert_to_numpy, (got, want)), 1e-12)
    for layer in (theirs, mine):
        layer.reset_state()
    assert all(not keras.ops.convert_to_numpy(state).any() for state in mine.states)


def model_of(keras: ModuleType, module: Any, kind: str, **compiled: Any) -> Any:
    """Tokens with padding anywhere, a recurrent layer over one that returns sequences, and a head."""
    layers = [
        keras.Input((7,)),
        keras.layers.Embedding(9, 4, mask_zero=True),
        keras.layers.Bidirectional(getattr(module, kind)(5, return_sequences=True, dropout=0.2, seed=3)),
        getattr(module, kind)(6),
        keras.layers.Dense(3),
    ]
    model = keras.Sequential(layers)
    set_weights(model, 1)
    model.compile(keras.optimizers.Adam(0.01), keras.losses.SparseCategoricalCrossentropy(from_logits=True), **compiled)
    return model


def problem() -> tuple[Any, Any]:
    """16 sequences of 7 tokens, some of them padding, and classes."""
    rng = np.random.default_rng(0)
    return rng.integers(0, 9, (16, 7)), rng.integers(0, 3, 16)


@kinds
def test_fifty_steps_of_adam_come_to_keras_loss(keras: ModuleType, ours: ModuleType, kind: str) -> None:
    """One bias of an LSTM, whose sum with a second one Adam would move twice as far."""
    rng = np.random.default_rng(0)
    x, y = rng.uniform(-1, 1, (8, 4, 3)), rng.uniform(-1, 1, (8, 1))
    losses = []
    for module in (keras.layers, ours):
        model = keras.Sequential([keras.Input((4, 3)), getattr(module, kind)(6), keras.layers.Dense(1)])
        set_weights(model, 1)
        model.compile(keras.optimizers.Adam(0.01), "mse")
        losses.append([model.train_on_batch(x, y) for _ in range(50)][-1])
    assert losses[1] == pytest.approx(losses[0], rel=1e-6)


def test_recurrent_dropout_draws_what_keras_draws(keras: ModuleType, ours: ModuleType) -> None:
    """New masks at each step of training, of both dropouts, and none in between: seeds go on as Keras' do."""
    x, classes = problem()
    losses = []
    for module in (keras.layers, ours):
        rnn = module.SimpleRNN(5, dropout=0.2, recurrent_dropout=0.4, seed=5)
        embedding = keras.layers.Embedding(9, 4, mask_zero=True)
        model = keras.Sequential([keras.Input((7,)), embedding, rnn, keras.layers.Dense(3)])
        set_weights(model, 1)
        model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        its = [float(model.train_on_batch(x, classes)) for _ in range(3)]
        its.append(float(model.evaluate(x, classes, verbose=0)))
        losses.append([*its, float(model.train_on_batch(x, classes))])
    assert len({round(loss, 6) for loss in losses[0]}) == 5
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-6)


@pytest.mark.parametrize("compiled", [{}, {"run_eagerly": True}], ids=str)
def test_fit_evaluate_and_predict_after_accelerate_and_restore(
    keras: ModuleType, ours: ModuleType, compiled: dict[str, Any]
) -> None:
    x, classes = problem()
    theirs = model_of(keras, keras.layers, "LSTM", **compiled)
    mine = model_of(keras, keras.layers, "LSTM", **compiled)
    want = theirs.predict(x, verbose=0)
    mine.predict(x, verbose=0)  # which traces Keras' own path
    theirs.predict(x, verbose=0)  # Keras draws dropout, and does without
    assert ours.accelerate(mine) is mine
    assert [p.on_kernels for p in ours.report(mine)] == [True] * 3
    assert_close("prediction", mine.predict(x, verbose=0), want, 1e-12)
    histories = [
        model.fit(x, classes, epochs=2, batch_size=5, shuffle=False, verbose=0).history for model in (theirs, mine)
    ]
    assert histories[1]["loss"] == pytest.approx(histories[0]["loss"], rel=1e-9)
    assert mine.evaluate(x, classes, verbose=0) == pytest.approx(theirs.evaluate(x, classes, verbose=0), rel=1e-9)
    ours.restore(mine)
    assert type(mine.layers[2]) is keras.layers.LSTM
    assert [p.reason for p in ours.report(mine)] == ["it is Keras' own: accelerate it"] * 3
    assert_close("prediction", mine.predict(x, verbose=0), theirs.predict(x, verbose=0), 1e-9)


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_a_saved_model_loads_as_what_it_was(keras: ModuleType, ours: ModuleType, tmp_path: Path, suffix: str) -> None:
    x, classes = problem()
    model = model_of(keras, ours, "GRU")
    model.train_on_batch(x, classes)
    model.save(tmp_path / f"model{suffix}")
    loaded = keras.models.load_model(tmp_path / f"model{suffix}")
    assert [(p.kind, p.on_kernels) for p in ours.report(loaded)] == [("GRU", True)] * 3
    assert_close("prediction", loaded.predict(x, verbose=0), model.predict(x, verbose=0), 1e-12)
    if suffix == ".keras":  # Keras' own models from .h5 do not go on either
        assert 0 < loaded.train_on_batch(x, classes) < np.inf


def test_a_restored_model_s_file_is_keras_own(keras: ModuleType, ours: ModuleType, tmp_path: Path) -> None:
    x, classes = problem()
    model = model_of(keras, ours, "SimpleRNN")
    model.train_on_batch(x, classes)
    want = model.predict(x, verbose=0)
    ours.restore(model).save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert type(loaded.layers[2]) is keras.layers.SimpleRNN
    assert_close("prediction", loaded.predict(x, verbose=0), want, 1e-12)


LEFT: dict[str, tuple[str, dict[str, Any], bool, str]] = {
    "activation": ("LSTM", {"activation": "softmax"}, False, "have no cell with activation='softmax'"),
    "recurrent_activation": ("GRU", {"recurrent_activation": "softmax"}, False, "recurrent_activation='softmax'"),
    "recurrent_dropout": ("LSTM", {"recurrent_dropout": 0.5, "seed": 1}, True, "has a mask a gate"),
    "policy": ("GRU", {"dtype": "mixed_bfloat16"}, False, "not by the dtype policy mixed_bfloat16"),
}


@pytest.mark.parametrize(("kind", "options", "training", "reason"), LEFT.values(), ids=LEFT)
def test_what_the_kernels_do_not_do_keras_does_and_it_is_said_once(
    keras: ModuleType, ours: ModuleType, kind: str, options: dict[str, Any], training: bool, reason: str
) -> None:
    x = np.random.default_rng(0).uniform(-1, 1, (2, 4, 3))
    mine, theirs = (getattr(module, kind)(5, name="it", **options) for module in (ours, keras.layers))
    theirs.build(x.shape)
    mine.build(x.shape)
    mine.set_weights(theirs.get_weights())
    with pytest.warns(UserWarning, match=re.escape(reason)) as said:
        got = [mine(x, training=training) for _ in range(2)]
    ours_alone = [str(warning.message) for warning in said if "fastrnn" in str(warning.message)]
    assert [text.startswith(f"fastrnn.keras.{kind} 'it' stays on Keras' own path") for text in ours_alone] == [True]
    assert (reason in ours.report(mine)[0].reason) != training
    want = [theirs(x, training=training) for _ in range(2)]
    for k in range(2):
        one, other = (keras.ops.convert_to_numpy(keras.ops.cast(y[k], "float64")) for y in (got, want))
        assert_close("y", one, other, 1e-12)


def test_cells_of_one_s_own_and_subclasses_are_left_alone(keras: ModuleType, ours: ModuleType) -> None:
    class Mine(keras.layers.LSTM):  # type: ignore[misc]
        pass

    model = keras.Sequential([keras.layers.RNN(keras.layers.GRUCell(3), return_sequences=True), Mine(2)])
    ours.accelerate(model)
    assert [type(layer) for layer in model.layers] == [keras.layers.RNN, Mine]
    assert [p.on_kernels for p in ours.report(model)] == [False, False]
    assert "cells of its own" in ours.report(model)[0].reason


def test_what_cannot_be_taken_is_named(keras: ModuleType, ours: ModuleType) -> None:
    layer = ours.LSTM(3, name="memory")
    refusals = Refusals(ValueError, TypeError)
    with refusals:
        layer(np.zeros((2, 4, 3)), mask=np.ones((4, 2), bool))
    with refusals:
        ours.accelerate([layer])
    with refusals:
        ours.report("model.keras")
    assert "the mask of LSTM 'memory' has shape (4, 2); expected (N, T) = (2, 4)" in refusals[0]
    assert refusals[1:] == [f"model is a {name}; expected a Keras model or layer" for name in ("list", "str")]
