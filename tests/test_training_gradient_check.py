"""check_gradients finds right gradients right and wrong ones wrong, and leaves alone what it examines."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fastrnn
from fastrnn.training import (
    CharModel,
    Dropout,
    Embedding,
    Last,
    Linear,
    Sequential,
    check_gradients,
)

T, N, I, H, V = 5, 3, 4, 5, 7
F64: dict[str, Any] = {"dtype": "float64", "seed": 0}
RIGHT, WRONG = 1e-7, 1e-2  # as its docstring says


def real(*shape: int) -> Any:
    return np.random.default_rng(1).standard_normal(shape)


def tokens(*shape: int) -> Any:
    return np.random.default_rng(2).integers(0, V, shape)


CASES: dict[str, tuple[Any, tuple[Any, ...], dict[str, Any]]] = {
    "lstm": (
        fastrnn.LSTM(I, H, 2, dropout=0.3, bidirectional=True, proj_size=2, **F64),
        (real(T, N, I), (real(4, N, 2), real(4, N, H))),
        {"lengths": [T, 2, 0]},
    ),
    "gru": (fastrnn.GRU(I, H, batch_first=True, **F64), (real(N, T, I), real(1, N, H)), {}),
    "rnn": (fastrnn.RNN(I, H, bias=False, **F64), (real(T, I),), {}),
    "tokens": (fastrnn.LSTM(V, H, **F64), (tokens(T, N),), {}),
    "cell": (fastrnn.LSTMCell(I, H, **F64), (real(N, I), (real(N, H), real(N, H))), {}),
    "embedding": (Embedding(V, I, **F64), (tokens(T, N),), {}),
    "linear": (Linear(I, H, **F64), (real(T, N, I),), {}),
    "dropout": (Dropout(0.5, seed=0), (real(T, N),), {}),
    "sequential": (
        Sequential(Embedding(V, I, **F64), Last(fastrnn.GRU(I, H, **F64)), Linear(H, 2, **F64)),
        (tokens(T, N),),
        {"lengths": [T, 2, 1]},
    ),
    "model": (CharModel(V, H, **F64), (tokens(T, N),), {}),
}


@pytest.mark.parametrize("name", CASES)
def test_right_gradients_are_found_right(name: str) -> None:
    module, inputs, options = CASES[name]
    before = {name: p.copy() for name, p in module.parameters.items()}
    errors = check_gradients(module, *inputs, **options)
    assert {*before} <= {*errors}
    assert errors.largest == max(errors.values()) < RIGHT
    assert all((before[name] == p).all() for name, p in module.parameters.items())


def test_names_and_table() -> None:
    module, inputs, options = CASES["cell"]
    errors = check_gradients(module, *inputs, **options)
    assert list(errors) == ["x", "h_0", "c_0", "weight_ih", "weight_hh", "bias_ih", "bias_hh"]
    first, *lines = str(errors).splitlines()
    assert first == "gradient of  largest relative error"
    assert [line.split() for line in lines] == [[name, f"{error:.1e}"] for name, error in errors.items()]
    assert [*check_gradients(CASES["linear"][0], real(2, I))] == ["x", "weight", "bias"]
    assert "x" not in check_gradients(CASES["embedding"][0], tokens(T))


class Own:
    """y = tanh(x w + b): what somebody writes who wants to know whether the backward pass is right."""

    def __init__(self, fault: str = "") -> None:
        self.parameters = {"w": real(I, H), "b": real(H)}
        self.fault = fault

    def forward(self, x: Any) -> Any:
        y = np.tanh(x @ self.parameters["w"] + self.parameters["b"])
        return y, (x, y)

    def backward(self, tape: Any, dy: Any) -> Any:
        x, y = tape
        da = dy * (1 - (np.tanh(y) if self.fault == "tanh twice" else y) ** 2)
        grads = {"w": x.T @ da, "b": da.mean(axis=0) if self.fault == "mean" else da.sum(axis=0)}
        if self.fault == "left out":
            del grads["b"]
        dx = da @ self.parameters["w"].T
        return (dx.T if self.fault == "shape" else dx), grads


def test_faults_of_ones_own_module_are_found() -> None:
    x = real(N, I)
    assert check_gradients(Own(), x).largest < RIGHT
    assert min(check_gradients(Own("tanh twice"), x).values()) > WRONG
    errors = check_gradients(Own("mean"), x)
    assert errors["b"] > WRONG
    assert max(errors["x"], errors["w"]) < RIGHT
    with pytest.raises(ValueError, match=r"backward returns no gradient of b; expected one of shape \(5,\)"):
        check_gradients(Own("left out"), x)
    with pytest.raises(ValueError, match=r"the gradient of x has shape \(4, 3\); expected \(3, 4\)"):
        check_gradients(Own("shape"), x)


def test_no_more_than_most_elements_are_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    forward = Own.forward
    monkeypatch.setattr(Own, "forward", lambda self, x: calls.append(1) or forward(self, x))
    check_gradients(Own(), real(N, I), most=3)
    assert len(calls) == 1 + 2 * 3 * 3  # x, w and b


def test_a_gradient_that_has_vanished_is_not_called_wrong() -> None:
    rnn = fastrnn.RNN(I, H, **F64)
    rnn.parameters["weight_hh_l0"][...] *= 0.01
    last = Last(rnn)
    assert check_gradients(last, real(20, N, I)).largest < RIGHT  # of x at first 1e-40


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((fastrnn.LSTM(I, H), real(T, N, I)), "expected float64, for differences need it: use dtype='float64' for the"),
        ((CASES["rnn"][0], real(T, I).astype("float32")), "x has dtype float32; expected float64.*x.astype"),
        ((fastrnn.LSTM, real(T, I)), "module is .*; expected what has forward, backward and parameters"),
        (
            (Linear(I, H, **F64), real(T, I), real(H)),
            "state is given; expected None, as forward of module, a Linear, takes",
        ),
    ],
)
def test_what_cannot_be_checked_is_refused(arguments: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        check_gradients(*arguments)
    with pytest.raises(TypeError, match="lengths is given; expected None, as forward of module, a Linear, takes none"):
        check_gradients(Linear(I, H, **F64), real(T, I), lengths=[1])
