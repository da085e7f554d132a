"""Layers, losses and clipping against torch: values and gradients."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from tolerances import assert_close, assert_same_bits, tolerance

import fastrnn
from fastrnn import ops
from fastrnn.backends import load
from fastrnn.training import (
    Dropout,
    Embedding,
    Linear,
    bce_with_logits,
    clip_global_norm,
    clip_value,
    cross_entropy,
    mse,
)

DTYPES = ("float32", "float64")
LEADING_SHAPES = ((), (1,), (7,), (5, 3), (1, 1), (4, 0), (2, 3, 4))


@pytest.fixture
def rng():
    return np.random.default_rng(3)


def assert_as_torch(name, got, want, length):
    got, want = np.atleast_1d(got), np.atleast_1d(want.detach().numpy())
    assert_close(name, got, want, tolerance(want, got.dtype.name, length))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("in_features", "out_features"), [(1, 1), (7, 5), (16, 65)])
@pytest.mark.parametrize("leading", LEADING_SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_linear(rng, dtype, leading, in_features, out_features, bias):
    layer = Linear(in_features, out_features, bias, dtype=dtype)
    twin = torch.nn.Linear(in_features, out_features, bias, dtype=getattr(torch, dtype))
    layer.load_state_dict({name: rng.standard_normal(p.shape) for name, p in layer.parameters.items()})
    twin.load_state_dict({name: torch.from_numpy(p) for name, p in layer.state_dict().items()})
    x = rng.standard_normal((*leading, in_features)).astype(dtype)
    dy = rng.standard_normal((*leading, out_features)).astype(dtype)

    y, tape = layer.forward(x)
    dx, grads = layer.backward(tape, dy)

    x_twin = torch.from_numpy(x.copy()).requires_grad_()
    y_twin = twin(x_twin)
    y_twin.backward(torch.from_numpy(dy))
    assert_same_bits("y", layer(x), y)
    assert_as_torch("y", y, y_twin, in_features)
    assert_as_torch("dx", dx, x_twin.grad, out_features)
    assert grads.keys() == dict(twin.named_parameters()).keys()
    for name, p in twin.named_parameters():
        assert_as_torch(name, grads[name], p.grad, math.prod(leading))


@pytest.mark.parametrize("num_embeddings", [1, 5, 256, 300])
@pytest.mark.parametrize("leading", LEADING_SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_embedding(rng, dtype, leading, num_embeddings):
    layer = Embedding(num_embeddings, 6, dtype=dtype, seed=1)
    twin = torch.nn.Embedding(num_embeddings, 6, dtype=getattr(torch, dtype))
    twin.load_state_dict({"weight": torch.from_numpy(layer.state_dict()["weight"])})
    tokens = rng.integers(0, num_embeddings, leading)
    dy = rng.standard_normal((*leading, 6)).astype(dtype)

    y, tape = layer.forward(tokens)
    dx, grads = layer.backward(tape, dy)

    y_twin = twin(torch.as_tensor(tokens))
    y_twin.backward(torch.from_numpy(dy))
    assert dx is None
    assert_same_bits("y", y, y_twin.detach().numpy())
    assert_as_torch("weight", grads["weight"], twin.weight.grad, math.prod(leading))


@pytest.mark.parametrize("backend", ["cython", "numpy"], indirect=True)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("V", "R", "E"), [(1, 1, 1), (5, 0, 3), (5, 200, 3), (300, 200, 7), (65, 64, 33)])
def test_the_gradient_of_an_embedding_is_summed_row_by_row(restored, rng, backend, dtype, V, R, E):
    fastrnn.use_backend(backend)
    tokens, rows = rng.integers(0, V, R), rng.standard_normal((R, E)).astype(dtype)
    want = np.zeros((V, E), dtype)
    np.add.at(want, tokens, rows)
    assert_same_bits("sums", ops.scatter_add(rows, tokens, V), want)


def test_the_kernel_of_an_embedding_refuses_what_would_be_beyond_its_memory():
    sequence = load("cython")
    for token in (-1, 3):
        with pytest.raises(ValueError, match=r"tokens has one that is not in 0\.\.2"):
            sequence.scatter_add(np.ones((2, 2)), np.array([0, token]), 3)
    for rows, tokens in (
        (np.ones((2, 2), int), np.zeros(2, int)),
        (np.ones((4, 2))[::2], np.zeros(2, int)),
        (np.ones((2, 2)), np.zeros(3, int)),
        (np.ones((2, 2)), np.zeros(2)),
    ):
        with pytest.raises(ValueError, match="rows and tokens are no contiguous arrays"):
            sequence.scatter_add(rows, tokens, 3)


@pytest.mark.parametrize("num_embeddings", [5, 300])
@pytest.mark.parametrize("padding_idx", [0, 3])
def test_embedding_of_padding_is_zero_and_has_no_gradient(rng, num_embeddings, padding_idx):
    layer = Embedding(num_embeddings, 6, padding_idx, dtype="float64", seed=1)
    weight = layer.state_dict()["weight"]
    twin = torch.nn.Embedding(num_embeddings, 6, padding_idx, dtype=torch.float64)
    twin.load_state_dict({"weight": torch.from_numpy(weight)})
    tokens = rng.integers(0, 5, (7, 8))
    dy = rng.standard_normal((7, 8, 6))

    y, tape = layer.forward(tokens)
    grad = layer.backward(tape, dy)[1]["weight"]

    twin(torch.as_tensor(tokens)).backward(torch.from_numpy(dy))
    assert (tokens == padding_idx).any()
    assert not y[tokens == padding_idx].any()
    assert not grad[padding_idx].any()
    assert_as_torch("weight", grad, twin.weight.grad, tokens.size)
    without = Embedding(num_embeddings, 6, dtype="float64", seed=1).state_dict()["weight"]
    without[padding_idx] = 0
    assert_same_bits("weight", weight, without)


@pytest.mark.parametrize("num_embeddings", [5, 300])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_numbers_that_are_not_finite_stay_with_their_token(num_embeddings, bad):
    """And the padding, which has no gradient, touches none."""
    layer = Embedding(num_embeddings, 2, padding_idx=0, dtype="float64")
    _, tape = layer.forward([0, 1, 2, 1])
    dweight = layer.backward(tape, np.array([[bad, 1], [bad, 1], [1, 1], [1, 1]]))[1]["weight"]
    assert_same_bits("weight", dweight[:4], np.array([[0, 0], [bad, 2], [1, 1], [0, 0]]))


@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
def test_dropout_drops_no_nan(p):
    """As in torch, where it is multiplied with zero: a broken batch must not look whole."""
    layer, x = Dropout(p, seed=0), np.full(50, np.nan)
    y, tape = layer.forward(x)
    assert np.isnan(y).all()
    assert np.isnan(layer.backward(tape, x)[0]).all()
    assert torch.nn.functional.dropout(torch.from_numpy(x), p).isnan().all()


@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("dtype", DTYPES)
def test_dropout(rng, dtype, p):
    layer, again = Dropout(p, seed=4), Dropout(p, seed=4)
    x, dy = rng.standard_normal((2, 60, 50)).astype(dtype) + 0, rng.standard_normal((2, 60, 50)).astype(dtype)
    y, tape = layer.forward(x)
    dx, grads = layer.backward(tape, dy)

    kept = y != 0
    scale = 1 / (1 - p) if p < 1 else 0
    assert abs(kept.mean() - (1 - p)) <= 4 * (p * (1 - p) / x.size) ** 0.5
    assert grads == layer.parameters == layer.state_dict() == {}
    assert_close("y", y, np.where(kept, x * scale, 0).astype(dtype), 1e-6)
    assert_close("dx", dx, np.where(kept, dy * scale, 0).astype(dtype), 1e-6)
    assert y.dtype == dx.dtype == dtype
    assert_same_bits("inference", layer(x), x)
    assert_same_bits("y of the same seed", again.forward(x)[0], y)
    assert (layer.forward(x)[0] != y).any() == (0 < p < 1), "the second call drops the same"


def test_initial_parameters_are_drawn_as_in_torch():
    weight = Embedding(500, 40, seed=0).state_dict()["weight"]
    assert abs(weight.mean()) < 0.02
    assert abs(weight.std() - 1) < 0.02
    for name, p in Linear(64, 500, seed=0).state_dict().items():
        assert abs(p).max() <= 1 / 8, name
        assert abs(p.std() - 1 / 8 / math.sqrt(3)) < 0.005, name  # the deviation of U(-1/8, 1/8)


@pytest.mark.parametrize("make", [lambda seed: Embedding(7, 3, seed=seed), lambda seed: Linear(7, 3, seed=seed)])
def test_the_seed_decides_the_initial_parameters(make):
    first, again, other = (make(seed).state_dict()["weight"] for seed in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).all()


@pytest.mark.parametrize("vocabulary", [1, 2, 65])
@pytest.mark.parametrize("scale", [1.0, 15.0, 1e4])
@pytest.mark.parametrize("leading", [shape for shape in LEADING_SHAPES if math.prod(shape)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_cross_entropy(rng, dtype, leading, scale, vocabulary):
    logits = (scale * rng.standard_normal((*leading, vocabulary))).astype(dtype)
    targets = rng.integers(0, vocabulary, leading)

    loss, dlogits = cross_entropy(logits, targets)

    logits_twin = torch.from_numpy(logits.copy()).requires_grad_()
    flat = logits_twin.reshape(-1, vocabulary)
    loss_twin = torch.nn.functional.cross_entropy(flat, torch.as_tensor(targets).reshape(-1))
    loss_twin.backward()
    assert_as_torch("loss", np.array(loss, dtype), loss_twin, vocabulary)
    assert_as_torch("dlogits", dlogits, logits_twin.grad, vocabulary)


@pytest.mark.parametrize("size", [29.99, 39.99, 1e30])
def test_cross_entropy_of_many_large_logits_does_not_overflow(size):
    logits = np.full((2, 10_000), size, np.float32)
    logits[:, 5] = -size
    loss, dlogits = cross_entropy(logits, [5, 4])
    assert loss == pytest.approx(math.log(9999) + size, rel=1e-6)
    np.testing.assert_allclose(dlogits[:, 5], [-0.5, 0], atol=1e-7)


def test_cross_entropy_of_any_memory_layout(rng):
    logits, targets = rng.standard_normal((7, 5)), rng.integers(0, 5, 7)
    loss, dlogits = cross_entropy(logits, targets)
    for other in (np.asfortranarray(logits), np.repeat(logits, 2, axis=1)[:, ::2]):
        assert cross_entropy(other, targets)[0] == pytest.approx(loss, rel=1e-15)
        np.testing.assert_allclose(cross_entropy(other, targets)[1], dlogits, rtol=1e-14)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("leading", [(0,), (2,), (2, 3)])
def test_cross_entropy_of_no_classes_is_refused(reduction, leading):
    with pytest.raises(ValueError, match=r"^logits has shape \(.*0\); expected \(\.\.\., V\) with V of at least 1$"):
        cross_entropy(np.zeros((*leading, 0), np.float32), np.zeros(leading, int), reduction=reduction)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("ignore_index", [-100, 0, 4])
@pytest.mark.parametrize("dtype", DTYPES)
def test_cross_entropy_without_ignored_targets(rng, dtype, ignore_index, reduction):
    logits = (3 * rng.standard_normal((6, 7, 5))).astype(dtype)
    targets = rng.integers(0, 5, (6, 7))
    targets[2:, 3] = ignore_index

    loss, dlogits = cross_entropy(logits, targets, ignore_index=ignore_index, reduction=reduction)

    twin = torch.from_numpy(logits.copy()).requires_grad_()
    options = {"ignore_index": ignore_index, "reduction": reduction}
    want = torch.nn.functional.cross_entropy(twin.reshape(-1, 5), torch.as_tensor(targets).reshape(-1), **options)
    want.backward()
    assert_as_torch("loss", np.array(loss, dtype), want, 42 * 5)
    assert_as_torch("dlogits", dlogits, twin.grad, 5)
    assert not dlogits[targets == ignore_index].any()


def test_what_the_logits_of_ignored_targets_hold_does_not_matter():
    logits = np.array([[1.0, 2.0], [math.nan, math.inf]])
    loss, dlogits = cross_entropy(logits, [1, -1], ignore_index=-1)
    assert loss == cross_entropy(logits[:1], [1])[0]
    assert (dlogits[1] == 0).all()


def test_the_sum_over_no_target_is_zero():
    for logits, targets in ((np.ones((2, 3), "f"), [7, 7]), (np.ones((0, 3), "f"), np.zeros(0, int))):
        loss, dlogits = cross_entropy(logits, targets, ignore_index=7, reduction="sum")
        assert loss == 0
        assert_same_bits("dlogits", dlogits, np.zeros_like(logits))


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("leading", [shape for shape in LEADING_SHAPES if math.prod(shape)])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_losses_of_real_targets(rng, scale, dtype, leading, reduction):
    y = np.asarray(scale * rng.standard_normal(leading), dtype)
    real, share = np.asarray(rng.standard_normal(leading), dtype), np.asarray(rng.uniform(0, 1, leading), dtype)
    share = np.where(share > 0.7, share.dtype.type(1), share)  # targets of 0..1 and of 1 itself
    pairs = (
        (mse, torch.nn.functional.mse_loss, real),
        (bce_with_logits, torch.nn.functional.binary_cross_entropy_with_logits, share),
    )
    for ours, theirs, targets in pairs:
        loss, dy = ours(y, targets, reduction=reduction)
        twin = torch.from_numpy(y.copy()).requires_grad_()
        want = theirs(twin, torch.from_numpy(np.asarray(targets)), reduction=reduction)
        want.backward()
        assert dy.dtype == dtype
        assert_as_torch(f"{ours.__name__}", np.array(loss, dtype), want, y.size)
        assert_as_torch(f"gradient of {ours.__name__}", dy, twin.grad, 1)


@pytest.mark.parametrize("loss", [mse, bce_with_logits])
@pytest.mark.parametrize("dtype", DTYPES)
def test_targets_are_taken_in_the_dtype_of_the_outputs(rng, loss, dtype):
    """What one has are labels, or numbers in NumPy's own precision."""
    y = rng.standard_normal((4, 3)).astype(dtype)
    labels = rng.integers(0, 2, (4, 3))
    value, dy = loss(y, labels.astype(dtype))
    for targets in (labels, labels.astype("uint8"), labels.astype(bool), labels.astype("float64"), labels.tolist()):
        again, dy_again = loss(y, targets)
        assert again == value
        assert_same_bits("dy", dy_again, dy)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_losses_of_numbers_that_are_not_finite(rng, dtype, bad):
    """The loss and its gradient are NaN or infinite where torch's are, in the rows that count."""
    functions = torch.nn.functional
    for at in (0, 37):  # in the kernel's first vector and in its last, which is not whole
        logits = rng.standard_normal((4, 40)).astype(dtype)
        logits[1, at] = bad
        targets = np.array([3, at, 5, 1])
        with np.errstate(invalid="ignore"):
            loss, dlogits = cross_entropy(logits, targets)
            ignoring, without = cross_entropy(logits, np.where(targets == at, -1, targets), ignore_index=-1)
        twin = torch.tensor(logits, requires_grad=True)
        want = functions.cross_entropy(twin, torch.from_numpy(targets))
        want.backward()
        assert not np.isfinite(loss)
        assert np.isnan(loss) == np.isnan(want.item())
        np.testing.assert_array_equal(np.isnan(dlogits), np.isnan(twin.grad.numpy()))
        assert np.isfinite(ignoring)
        assert np.isfinite(without).all()
        assert not without[1].any()
    for ours, theirs in ((mse, functions.mse_loss), (bce_with_logits, functions.binary_cross_entropy_with_logits)):
        for target in (0.0, 0.5, 1.0):
            y, targets = logits[:, -3:], np.full((4, 3), target, dtype)
            with np.errstate(invalid="ignore"):
                loss, dy = ours(y, targets)
            twin = torch.tensor(y, requires_grad=True)
            want = theirs(twin, torch.from_numpy(targets))
            want.backward()
            np.testing.assert_array_equal(np.isfinite(loss), np.isfinite(want.item()), ours.__name__)
            np.testing.assert_array_equal(np.isnan(dy), np.isnan(twin.grad.numpy()), ours.__name__)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("max_norm", [0.5, 3.0, 1e6, math.inf])
def test_clip_global_norm(rng, dtype, max_norm):
    grads = {name: rng.standard_normal(shape).astype(dtype) for name, shape in (("a", (5, 3)), ("b", (7,)), ("c", ()))}
    twins = [torch.nn.Parameter(torch.zeros(g.shape, dtype=getattr(torch, dtype))) for g in grads.values()]
    for twin, grad in zip(twins, grads.values(), strict=True):
        twin.grad = torch.from_numpy(grad.copy())

    norm = clip_global_norm(grads, max_norm)

    want = torch.nn.utils.clip_grad_norm_(twins, max_norm)
    assert_as_torch("norm", np.array(norm, dtype), want, 23)
    for (name, grad), twin in zip(grads.items(), twins, strict=True):
        assert_as_torch(name, grad, twin.grad, 23)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_clip_global_norm_tells_of_numbers_that_are_not_finite_and_leaves_them(bad):
    grads = {"a": np.array([1.0, bad]), "b": np.array([50.0])}
    assert not math.isfinite(clip_global_norm(grads, 1.0))
    assert grads["b"] == 50


@pytest.mark.parametrize(("dtype", "size"), [("float32", 1e30), ("float64", 1e200)])
def test_clip_global_norm_of_numbers_whose_squares_overflow(dtype, size):
    """They are finite, so they are clipped: a norm of infinity would have left them as they are."""
    grads = {"a": np.array([3 * size, 0], dtype), "b": np.array([-4 * size], dtype), "c": np.empty(0, dtype)}
    assert math.isclose(clip_global_norm(grads, 1.0), 5 * size, rel_tol=1e-6)
    np.testing.assert_allclose(np.concatenate([*grads.values()]), [0.6, 0, -0.8], rtol=1e-6)


def test_clip_value(rng):
    grads = {"a": rng.standard_normal((50, 3)), "b": np.array([-7.0, 0.25, math.nan])}
    twins = {name: torch.nn.Parameter(torch.zeros(g.shape, dtype=torch.float64)) for name, g in grads.items()}
    for name, twin in twins.items():
        twin.grad = torch.from_numpy(grads[name].copy())
    clip_value(grads, 0.5)
    torch.nn.utils.clip_grad_value_(list(twins.values()), 0.5)
    for name, twin in twins.items():
        assert_same_bits(name, grads[name], twin.grad.numpy())


BAD_CALLS = {
    "linear, last axis": (lambda: Linear(3, 2)(np.zeros((4, 5), "f")), ValueError, r"x has shape \(4, 5\).*\(4, 3\)"),
    "linear, no axis": (lambda: Linear(3, 2)(np.float32(1)), ValueError, "x has shape"),
    "linear, dtype": (lambda: Linear(3, 2)(np.zeros(3)), TypeError, "x has dtype float64; expected float32"),
    "linear, dy": (
        lambda: Linear(3, 2).backward(np.zeros((4, 3), "f"), np.zeros((4, 3), "f")),
        ValueError,
        r"dy has shape \(4, 3\).*\(4, 2\)",
    ),
    "linear, size": (lambda: Linear(0, 2), ValueError, "in_features is 0"),
    "embedding, real tokens": (lambda: Embedding(3, 2)(np.zeros(3)), TypeError, "tokens has dtype float64"),
    "embedding, large token": (lambda: Embedding(3, 2)([0, 3]), ValueError, "token 3"),
    "embedding, negative token": (lambda: Embedding(3, 2)([0, -1]), ValueError, "token -1"),
    "embedding, dy": (
        lambda: Embedding(3, 2).backward(np.array([0, 1]), np.zeros((2, 3), "f")),
        ValueError,
        "dy has shape",
    ),
    "loss, integer logits": (lambda: cross_entropy(np.zeros((2, 3), int), [0, 1]), TypeError, "logits has dtype int64"),
    "loss, real targets": (
        lambda: cross_entropy(np.zeros((2, 3)), np.zeros(2)),
        TypeError,
        "targets has dtype float64",
    ),
    "loss, shape": (lambda: cross_entropy(np.zeros((2, 3)), [0, 1, 2]), ValueError, r"targets has shape \(3,\)"),
    "loss, large target": (lambda: cross_entropy(np.zeros((2, 3)), [0, 3]), ValueError, "token 3"),
    "loss, no targets": (lambda: cross_entropy(np.zeros((0, 3)), np.zeros(0, int)), ValueError, "targets is empty"),
    "embedding, padding": (lambda: Embedding(3, 2, 3), ValueError, "padding_idx is 3; expected 0 <= padding_idx < num"),
    "embedding, negative padding": (lambda: Embedding(3, 2, -1), ValueError, "padding_idx is -1"),
    "embedding, real padding": (
        lambda: Embedding(3, 2, 1.0),
        TypeError,
        "padding_idx is 1.0; expected 0 <= padding_idx < num_embeddings = 3",
    ),
    "dropout, share": (lambda: Dropout(1.5), ValueError, "p is 1.5; expected a number from 0 to 1"),
    "dropout, seed": (lambda: Dropout(seed="a"), TypeError, "seed is 'a'"),
    "dropout, integers": (lambda: Dropout().forward([1, 2]), TypeError, "x has dtype int64; expected float32 or"),
    "dropout, dy": (lambda: Dropout().backward(np.ones(3, bool), np.zeros(2)), ValueError, r"dy has shape \(2,\)"),
    "loss, all ignored": (
        lambda: cross_entropy(np.zeros((2, 3)), [0, 0], ignore_index=0),
        ValueError,
        "every target is ignore_index = 0; expected at least one: the mean of none is undefined",
    ),
    "loss, target beside the ignored": (
        lambda: cross_entropy(np.zeros((2, 3)), [-100, -1], ignore_index=-100),
        ValueError,
        "token -1",
    ),
    "loss, reduction": (
        lambda: cross_entropy(np.zeros((2, 3)), [0, 1], reduction="none"),
        ValueError,
        "reduction is 'none'; expected 'mean' or 'sum'",
    ),
    "mse, shape": (lambda: mse(np.zeros((2, 1)), np.zeros(2)), ValueError, r"targets has shape \(2,\)"),
    "mse, complex targets": (
        lambda: mse(np.zeros(2, "f"), np.zeros(2, complex)),
        TypeError,
        "targets has dtype complex128; expected real numbers",
    ),
    "bce, texts": (
        lambda: bce_with_logits(np.zeros(2), ["0", "1"]),
        TypeError,
        "targets has dtype <U1; expected real numbers",
    ),
    "mse, integers": (lambda: mse([1, 2], [1, 2]), TypeError, "y has dtype int64; expected float32 or float64"),
    "mse, nothing": (lambda: mse(np.zeros(0), np.zeros(0)), ValueError, "y is empty"),
    "bce, large target": (lambda: bce_with_logits(np.zeros(2), np.array([0, 1.5])), ValueError, "from 0.0 to 1.5"),
    "bce, NaN": (lambda: bce_with_logits(np.zeros(1), np.array([math.nan])), ValueError, "from nan to nan"),
    "bce, nothing": (lambda: bce_with_logits(np.zeros(0), np.zeros(0)), ValueError, "logits is empty"),
    "clip norm": (lambda: clip_global_norm({}, 0), ValueError, "max_norm is 0"),
    "clip norm, NaN": (lambda: clip_global_norm({}, math.nan), ValueError, "max_norm is nan"),
    "clip value": (lambda: clip_value({}, -1), ValueError, "limit is -1"),
}


@pytest.mark.parametrize(("call", "error", "match"), BAD_CALLS.values(), ids=BAD_CALLS)
def test_bad_input(call, error, match):
    with pytest.raises(error, match=match):
        call()
