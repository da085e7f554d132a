"""Activations, LayerNorm, Conv1d and pooling against torch: values and every gradient; and which steps count."""

from __future__ import annotations

import re
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from tolerances import assert_close, assert_same_bits, tolerance

import fastrnn
from fastrnn.parameters import Array
from fastrnn.training import (
    AttentionPool,
    Conv1d,
    Embedding,
    Last,
    LayerNorm,
    Linear,
    Pool,
    ReLU,
    Sequential,
    Sigmoid,
    Softmax,
    Tanh,
    check_gradients,
)

dtypes = pytest.mark.parametrize("dtype", ["float32", "float64"])
LIMIT = 1e-12


def compare(layer: Any, twin: Any, x: Array, length: int, turn: Any = lambda t: t) -> set[str]:
    """Compare values, dx and the gradients of parameters, and return the names of what is as torch's.

    `turn` brings torch's axes into ours, and back.
    """
    import torch

    dtype = x.dtype.name
    if layer.parameters:
        twin.load_state_dict({name: torch.from_numpy(p) for name, p in layer.state_dict().items()})
    x_twin = torch.tensor(x, requires_grad=True)
    y_twin = turn(twin(turn(x_twin)))
    y, tape = layer.forward(x)
    dy = np.random.default_rng(9).uniform(-1, 1, y.shape).astype(dtype)
    dx, grads = layer.backward(tape, dy)
    y_twin.backward(torch.from_numpy(dy))
    assert y.dtype == dx.dtype == dtype
    assert_same_bits("y of a call", layer(x), y)
    want = y_twin.detach().numpy()
    assert_close("y", y, want, tolerance(want, dtype, length))
    assert_close("dx", dx, x_twin.grad.numpy(), tolerance(x_twin.grad.numpy(), dtype, length))
    if layer.parameters:
        assert list(grads) == list(layer.parameters) == [name for name, _ in twin.named_parameters()]
        for name, p in twin.named_parameters():
            assert_close(name, grads[name], p.grad.numpy(), tolerance(p.grad.numpy(), dtype, length * x.size))
    return {"y", "dx", *grads}


@dtypes
@pytest.mark.parametrize("shape", [(1,), (7,), (5, 3), (2, 3, 4), (1, 1, 1)])
@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_activations(torch: ModuleType, dtype: str, shape: tuple[int, ...], scale: float) -> None:
    x = (scale * np.random.default_rng(0).standard_normal(shape)).astype(dtype)
    nn = torch.nn
    for ours, theirs in (
        (ReLU(), nn.ReLU()),
        (Sigmoid(), nn.Sigmoid()),
        (Tanh(), nn.Tanh()),
        (Softmax(), nn.Softmax(-1)),
    ):
        assert compare(ours, theirs, x, 8) == {"y", "dx"}


def test_relu_keeps_nan_and_gives_zero_at_zero() -> None:
    y, tape = ReLU().forward(np.array([np.nan, 0.0, -0.0]))
    assert_same_bits("y", y, np.array([np.nan, 0, 0]))
    assert_same_bits("dx", ReLU().backward(tape, np.ones(3))[0], np.array([0.0, 0, 0]))


@dtypes
@pytest.mark.parametrize("shape", [(7,), (5, 7), (4, 3, 7)])
@pytest.mark.parametrize("options", [{}, {"bias": False}, {"eps": 0.1}], ids=str)
def test_layer_norm(torch: ModuleType, dtype: str, shape: tuple[int, ...], options: dict[str, Any]) -> None:
    rng = np.random.default_rng(0)
    layer = LayerNorm(7, **options, dtype=dtype)
    assert (layer.parameters["weight"] == 1).all()
    for p in layer.parameters.values():
        p += rng.uniform(-1, 1, p.shape).astype(dtype)
    x = (3 + 2 * rng.standard_normal(shape)).astype(dtype)
    twin = torch.nn.LayerNorm(7, **options, dtype=getattr(torch, dtype))
    assert compare(layer, twin, x, 50) == {"y", "dx", *layer.parameters}


@dtypes
@pytest.mark.parametrize("kernel_size", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("shape", [(1, 1), (6, 3), (3, 1)], ids=str)
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
def test_convolution(
    torch: ModuleType, dtype: str, kernel_size: int, shape: tuple[int, int], batch_first: bool, bias: bool
) -> None:
    layer = Conv1d(5, 4, kernel_size, bias=bias, batch_first=batch_first, dtype=dtype, seed=1)
    twin = torch.nn.Conv1d(5, 4, kernel_size, padding="same", bias=bias, dtype=getattr(torch, dtype))
    x = np.random.default_rng(0).standard_normal((*(shape[::-1] if batch_first else shape), 5)).astype(dtype)
    axes = (0, 2, 1) if batch_first else (1, 2, 0)  # of (N, K, T) in ours

    def turn(t: Any) -> Any:
        return t.permute(axes) if t.shape == x.shape else t.permute(*np.argsort(axes).tolist())

    assert compare(layer, twin, x, 5 * kernel_size, turn) == {"y", "dx", *layer.parameters}


def test_a_causal_convolution_sees_no_later_step() -> None:
    layer = Conv1d(2, 3, 4, causal=True, dtype="float64", seed=0)
    x = np.random.default_rng(0).standard_normal((6, 2))
    later = x.copy()
    later[4:] += 1
    assert_same_bits("y of a call", layer(x)[:4], layer(later)[:4])
    assert (layer(x)[4:] != layer(later)[4:]).all()
    assert check_gradients(layer, x).largest < 1e-7
    weight, padded = layer.parameters["weight"], np.concatenate([np.zeros((3, 2)), x])
    want = np.stack([np.einsum("oik,ki->o", weight, padded[t : t + 4]) for t in range(6)]) + layer.parameters["bias"]
    assert_close("y", layer(x), want, LIMIT)


# ---- pooling

FLAGS = ("lengths", "mask", "resets")


def flags_of(shape: tuple[int, int], given: tuple[str, ...], batch_first: bool) -> dict[str, Any]:
    (T, N), rng = shape, np.random.default_rng(2)
    found: dict[str, Any] = {
        "lengths": rng.integers(0, T + 1, N),
        "mask": rng.random(shape) < 0.6,
        "resets": rng.random(shape) < 0.2,
    }
    if batch_first:
        found |= {name: found[name].T for name in ("mask", "resets")}
    return {name: found[name] for name in given}


def steps_of(shape: tuple[int, int], flags: dict[str, Any], batch_first: bool) -> list[list[int]]:
    """Sequence by sequence, which steps count: as one would say it."""
    T, N = shape
    found = []
    for n in range(N):
        steps: list[int] = []
        for t in range(int(flags["lengths"][n]) if "lengths" in flags else T):
            at = (n, t) if batch_first else (t, n)
            if "resets" in flags and flags["resets"][at]:
                steps = []
            if "mask" not in flags or flags["mask"][at]:
                steps.append(t)
        found.append(steps)
    return found


def torch_pool(torch: ModuleType, kind: str, x: Any, p: dict[str, Any]) -> Any:
    """Of one sequence's steps that count, (S, K)."""
    if not len(x):
        return x.sum(0)
    if kind == "attention":
        shares = torch.softmax(torch.tanh(x @ p["weight"].T + p["bias"]) @ p["score"], 0)
        return shares @ x
    return {"mean": x.mean(0), "max": x.max(0).values, "last": x[-1]}[kind]


@pytest.mark.parametrize("kind", ["last", "mean", "max", "attention"])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("given", [(), ("lengths",), ("mask",), ("resets",), ("mask", "resets"), FLAGS], ids=str)
@pytest.mark.parametrize("shape", [(6, 4), (1, 1), (9, 1), (1, 5)], ids=str)
def test_pooling_equals_torch_sequence_by_sequence(
    torch: ModuleType, kind: str, batch_first: bool, given: tuple[str, ...], shape: tuple[int, int]
) -> None:
    T, N = shape
    layer: Any = (
        Pool(kind, batch_first) if kind != "attention" else (AttentionPool(3, 5, batch_first, dtype="float64", seed=3))
    )
    flags = flags_of(shape, given, batch_first)
    steps = steps_of(shape, flags, batch_first)
    x = np.random.default_rng(4).standard_normal((T, N, 3))
    for n, its in enumerate(steps):
        x[[t for t in range(T) if t not in its], n] = np.nan  # which must touch nothing
    x = x.swapaxes(0, 1) if batch_first else x
    y, tape = layer.forward(x, **flags)
    dy = np.random.default_rng(5).uniform(-1, 1, y.shape)
    dx, grads = layer.backward(tape, dy)
    assert_same_bits("y of a call", layer(x, **flags), y)

    x_twin = torch.tensor(x, requires_grad=True)
    p = {name: torch.tensor(value, requires_grad=True) for name, value in layer.parameters.items()}
    time_first = x_twin.transpose(0, 1) if batch_first else x_twin
    y_twin = torch.stack([torch_pool(torch, kind, time_first[its, n], p) for n, its in enumerate(steps)])
    y_twin.backward(torch.from_numpy(dy))
    assert_close("y", y, y_twin.detach().numpy(), LIMIT)
    assert_close("dx", dx, x_twin.grad.numpy(), LIMIT)
    assert list(grads) == list(p)
    for name, value in p.items():
        assert_close(name, grads[name], np.zeros(value.shape) if value.grad is None else value.grad.numpy(), LIMIT)


@pytest.mark.parametrize("kind", ["last", "mean", "max", "attention"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_pooling_of_a_single_sequence(kind: str, dtype: str) -> None:
    layer: Any = Pool(kind) if kind != "attention" else AttentionPool(3, 2, dtype=dtype, seed=0)
    x = np.random.default_rng(0).standard_normal((5, 3)).astype(dtype)
    mask = np.array([1, 0, 1, 1, 0], bool)
    y, tape = layer.forward(x, mask=mask)
    want, tape_2 = layer.forward(x[:, None], mask=mask[:, None])
    assert_same_bits("y", y, want[0])
    assert_same_bits("dx", layer.backward(tape, y)[0], layer.backward(tape_2, y[None])[0][:, 0])
    assert not layer(x[:0]).any()


@pytest.mark.parametrize("batch_first", [False, True])
def test_a_padded_batch_is_the_sequences_one_by_one(batch_first: bool) -> None:
    """Embedding, convolutions, norm, recurrent layer, pooling, with lengths: values and gradients."""
    model = Sequential(
        {
            "embedding": Embedding(9, 4, dtype="float64", seed=0),
            "conv": Conv1d(4, 5, 3, batch_first=batch_first, dtype="float64", seed=1),
            "relu": ReLU(),
            "again": Conv1d(5, 5, 4, batch_first=batch_first, dtype="float64", seed=2),
            "norm": LayerNorm(5, dtype="float64"),
            "rnn": fastrnn.GRU(5, 6, bidirectional=True, batch_first=batch_first, dtype="float64", seed=3),
            "pool": AttentionPool(12, 3, batch_first, dtype="float64", seed=4),
            "head": Linear(12, 2, dtype="float64", seed=5),
        }
    )
    rng, lengths = np.random.default_rng(0), [6, 2, 4]
    tokens = np.where(np.arange(6)[:, None] < lengths, rng.integers(1, 9, (6, 3)), 0)
    dy = rng.uniform(-1, 1, (3, 2))
    given = tokens.T if batch_first else tokens
    y, tape = model.forward(given, lengths)
    grads = model.backward(tape, dy)[1]
    total = {name: np.zeros_like(grad) for name, grad in grads.items()}
    for n, length in enumerate(lengths):
        one, its_tape = model.forward(tokens[None, :length, n] if batch_first else tokens[:length, n, None])
        assert_close("y", y[n], one[0], LIMIT)
        for name, grad in model.backward(its_tape, dy[n : n + 1])[1].items():
            total[name] += grad
    for name, grad in grads.items():
        assert_close(name, grad, total[name], LIMIT)
    assert not grads["embedding.weight"][0].any()  # which the padding alone has


def test_last_of_a_module_and_of_its_outputs() -> None:
    """Of one direction they are the same."""
    gru, x = fastrnn.GRU(3, 4, dtype="float64", seed=0), np.random.default_rng(0).standard_normal((6, 3, 3))
    lengths = [6, 1, 3]
    assert_same_bits("y", Sequential(gru, Pool("last"))(x, lengths), Last(gru)(x, lengths))


X = np.zeros((5, 2, 3), np.float32)
BAD_CALLS = {
    "kind": (lambda: Pool("sum"), ValueError, "kind is 'sum'; expected one of last, mean, max"),
    "axes": (lambda: Pool("mean")(X[0, 0]), ValueError, "x has shape (3,); expected (T, N, K), or (T, K)"),
    "lengths of one": (lambda: Pool("mean")(X[0], [2]), ValueError, "lengths is given, but x has shape (2, 3)"),
    "lengths": (lambda: Pool("mean")(X, [2, 6]), ValueError, "lengths"),
    "mask": (lambda: Pool("max")(X, mask=np.ones((2, 5), bool)), ValueError, "mask has shape (2, 5); expected (T, N)"),
    "resets": (lambda: AttentionPool(3, 2)(X, resets=np.ones((5, 2))), TypeError, "resets has dtype float64"),
    "dy": (
        lambda: (pool := Pool("max")).backward(pool.forward(X)[1], X),
        ValueError,
        "dy has shape (5, 2, 3); expected the shape of y = (2, 3)",
    ),
    "tape": (lambda: Pool("max").backward(3, X), TypeError, "tape is 3; expected the tape that forward returned"),
    "features": (lambda: AttentionPool(4, 2)(X), ValueError, "x has shape (5, 2, 3); expected (..., in_features)"),
    "norm": (lambda: LayerNorm(4)(X), ValueError, "x has shape (5, 2, 3); expected (..., normalized_shape)"),
    "conv": (lambda: Conv1d(4, 2, 3)(X), ValueError, "x has shape (5, 2, 3); expected (..., in_channels)"),
    "conv's axes": (lambda: Conv1d(3, 2, 3)(X[0, 0]), ValueError, "x has shape (3,); expected (T, N, I), or (T, I)"),
    "softmax": (lambda: Softmax()(X[:0]), ValueError, "x has shape (0, 2, 3); expected (..., K), not empty"),
    "integers": (lambda: ReLU()([1, 2]), TypeError, "x has dtype int64; expected float32 or float64"),
}


@pytest.mark.parametrize(("call", "error", "match"), BAD_CALLS.values(), ids=BAD_CALLS)
def test_bad_input(call: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=re.escape(match)):
        call()
