"""What is written for torch is taken where its meaning is clear; else the error says what to write instead."""

from __future__ import annotations

import re

import numpy as np
import pytest

import fastrnn
from fastrnn import training
from fastrnn.training import Adam, EarlyStopping, Embedding, Linear, Sequential

X = np.ones((2, 1, 3), np.float32)
STATE = np.zeros((1, 1, 4), np.float32)


def test_torchs_spellings_are_the_same_classes() -> None:
    assert training.RMSprop is training.RMSProp
    assert training.ReduceLROnPlateau is training.ReduceOnPlateau


def test_early_stopping_says_what_it_returns() -> None:
    stopping, other = EarlyStopping(patience=2), EarlyStopping(patience=2)
    for loss in (3.0, 1.0, 2.0, float("nan")):
        assert stopping.is_new_best(loss) == other.update(loss) == (loss in (3.0, 1.0))
    assert stopping.stop
    assert other.stop
    assert stopping.best == 1.0


@pytest.mark.parametrize("optimizer", ["SGD", "Momentum", "RMSprop", "Adam", "AdamW"])
def test_optimizers_take_a_module_or_a_model(optimizer: str) -> None:
    for make in (
        lambda: fastrnn.LSTM(3, 4, seed=0),
        lambda: fastrnn.GRUCell(3, 4, seed=0),
        lambda: Linear(3, 4, seed=0),
        lambda: Sequential({"rnn": fastrnn.GRU(3, 4, seed=0), "head": Linear(4, 1, seed=0)}),
    ):
        one, other = make(), make()
        for model, given in ((one, one), (other, other.parameters)):
            grads = {name: np.ones_like(p) for name, p in model.parameters.items()}
            getattr(training, optimizer)(given, 0.1).step(grads)
        for name, p in one.parameters.items():
            np.testing.assert_array_equal(p, other.parameters[name])


def test_sequential_takes_layers_as_torchs_does() -> None:
    def layers() -> list[object]:
        return [Embedding(9, 3, seed=0), fastrnn.LSTM(3, 4, seed=1), Linear(4, 1, seed=2)]

    named = Sequential(dict(zip("012", layers(), strict=True)))
    tokens = np.array([[1], [2]])
    for model in (Sequential(*layers()), Sequential(layers()), Sequential(layers=layers())):
        assert list(model.parameters) == list(named.parameters)
        assert "1.weight_ih_l0" in model.parameters
        np.testing.assert_array_equal(model(tokens), named(tokens))
    assert list(Sequential(Linear(3, 4)).layers) == ["0"]
    with pytest.raises(TypeError, match="layers is a mapping and 1 more; expected one mapping, or the layers alone"):
        Sequential({"a": Linear(3, 4)}, Linear(4, 1))
    with pytest.raises(TypeError, match=re.escape("layers['1'] is 3; expected a layer")):
        Sequential(Linear(3, 4), 3)
    with pytest.raises(TypeError, match=re.escape("Sequential({'rnn': rnn, 'head': head}), Sequential(rnn, head)")):
        Sequential(3)


@pytest.mark.parametrize("cls", [fastrnn.RNN, fastrnn.GRU, fastrnn.RNNCell, fastrnn.GRUCell])
def test_a_cell_state_that_there_is_not(cls: type) -> None:
    cell = cls.__name__.endswith("Cell")
    x, h = (X[0], STATE[0]) if cell else (X, STATE)
    wanted = "(N, H) = (1, 4)" if cell else "(L*D, N, H) = (1, 1, 4)"
    message = re.escape(f"; expected {wanted}: use h_0 alone in place of the tuple of two, for only an LSTM has")
    module = cls(3, 4)
    for call in (module, module.forward):
        with pytest.raises(ValueError, match=message):
            call(x, (h, h))
    two = fastrnn.GRU(3, 4, bidirectional=True)  # states of two directions in a tuple are one h_0
    np.testing.assert_array_equal(two(X, (STATE[0], STATE[0]))[0], two(X, np.zeros((2, 1, 4), np.float32))[0])


@pytest.mark.parametrize(
    "make",
    [
        lambda: fastrnn.LSTM(3, 4),
        lambda: fastrnn.GRUCell(3, 4),
        lambda: Linear(3, 4),
        lambda: Sequential(Linear(3, 4)),
        lambda: training.Last(fastrnn.RNN(3, 4)),
        lambda: training.CharModel(9, 4),
    ],
)
def test_parameters_is_no_method(make) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(TypeError, match=r"parameters is a mapping .*; expected model.parameters without parentheses"):
        make().parameters()


def test_optimizers_say_what_to_write() -> None:
    lstm = fastrnn.LSTM(3, 4)
    for given in ([1], lstm.parameters.values(), fastrnn.LSTM, 3):
        with pytest.raises(TypeError, match=r"parameters is .*: Adam\(model.parameters\) or Adam\(model\)"):
            Adam(given)
    with pytest.raises(TypeError, match=r"grads is \[1\]; expected .* that backward returns, optimizer.step\(grads\)"):
        Adam(lstm).step([1])


def test_a_step_without_gradients_says_where_they_are() -> None:
    with pytest.raises(TypeError, match=r"grads is None; expected .* that backward returns, optimizer.step\(grads\)"):
        Adam(Linear(3, 4)).step()


def test_a_state_without_its_second_half_says_how_to_write_it() -> None:
    lstm = fastrnn.LSTM(3, 4)
    with pytest.raises(
        TypeError, match=r"expected a tuple \(h_0, c_0\): use \(h_0, (.*)\) where there is no c_0"
    ) as info:
        lstm(X, STATE)
    zeros = eval(re.search(r"np.zeros\(.*?'\)", str(info.value))[0])  # type: ignore[index]
    np.testing.assert_array_equal(lstm(X, (STATE, zeros))[0], lstm(X)[0])
    y, _, tape = lstm.forward(X)
    with pytest.raises(TypeError, match=r"expected a tuple \(dh_n, dc_n\): use \(dh_n, None\) where there is no dc_n"):
        lstm.backward(tape, y, STATE)
    lstm.backward(tape, y, (STATE, None))
