"""The adaptive softmax: equal to torch's in values and gradients, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
from tolerances import assert_close, tolerance

from fastrnn.training import AdaptiveSoftmax

LAYERS = {
    "two clusters": (12, 50, [10, 30], 2.0, False),
    "bias": (12, 50, [10, 30], 2.0, True),
    "one cluster": (9, 20, [7], 4.0, False),
    "of one class": (16, 40, [1, 2, 39], 2.0, True),
}


def twins(torch, layer, dtype):
    """The layer with weights of size 1, and torch's with the same."""
    in_features, num_classes, cutoffs, div_value, bias = layer
    ours = AdaptiveSoftmax(in_features, num_classes, cutoffs, div_value, bias, dtype=dtype)
    theirs = torch.nn.AdaptiveLogSoftmaxWithLoss(
        in_features, num_classes, cutoffs, div_value, head_bias=bias, dtype=getattr(torch, dtype)
    )
    rng = np.random.default_rng(0)
    ours.load_state_dict({name: rng.uniform(-0.7, 0.7, p.shape) for name, p in theirs.state_dict().items()})
    theirs.load_state_dict({name: torch.from_numpy(p) for name, p in ours.state_dict().items()})
    return ours, theirs


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("rows", [1, 33])
@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
def test_values_and_gradients_equal_torch(torch, layer, rows, dtype):
    ours, theirs = twins(torch, layer, dtype)
    rng = np.random.default_rng(1)
    x, targets = rng.standard_normal((rows, layer[0])).astype(dtype), rng.integers(0, layer[1], rows)
    x_twin = torch.from_numpy(x.copy()).requires_grad_()
    output = theirs(x_twin, torch.from_numpy(targets))
    output.loss.backward()

    loss, tape = ours.forward(x, targets)
    dx, grads = ours.backward(tape)

    want = {"dx": x_twin.grad} | {
        name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in theirs.named_parameters()
    }
    want |= {"loss": output.loss.detach()[None], "log_prob": theirs.log_prob(x_twin).detach()}
    got = {"dx": dx} | grads | {"loss": np.array([loss], dtype), "log_prob": ours(x)}
    assert got.keys() == want.keys()
    for name, value in want.items():
        assert_close(name, got[name], value.numpy(), tolerance(value.numpy(), dtype, layer[0] + layer[1] + rows))


def test_the_loss_is_the_mean_of_the_log_probabilities():
    output = AdaptiveSoftmax(8, 30, [5, 12], 2.0, dtype="float64", seed=0)
    x, targets = np.random.default_rng(0).standard_normal((4, 3, 8)), np.arange(12).reshape(4, 3) * 2
    log_p = output(x)
    np.testing.assert_allclose(np.exp(log_p).sum(axis=-1), 1, rtol=1e-12)
    expected = -np.take_along_axis(log_p, targets[..., None], axis=-1).mean()
    assert output.forward(x, targets)[0] == pytest.approx(expected, rel=1e-12)


BAD = {
    "none": ([], ValueError, r"cutoffs is \[\]; expected rising numbers below num_classes = 20"),
    "falling": ([5, 3], ValueError, "expected rising"),
    "twice": ([5, 5], ValueError, "expected rising"),
    "not below V": ([5, 20], ValueError, "expected rising"),
    "zero": ([0, 5], ValueError, r"cutoffs\[0\] is 0"),
    "a float": ([2.5], TypeError, r"cutoffs\[0\] is 2.5"),
    "too many": ([5, 10, 15], ValueError, "expected fewer clusters"),
}


@pytest.mark.parametrize(("cutoffs", "error", "message"), BAD.values(), ids=BAD)
def test_bad_cutoffs(cutoffs, error, message):
    with pytest.raises(error, match=message):
        AdaptiveSoftmax(8, 20, cutoffs, 2.5)


@pytest.mark.parametrize("div_value", [0, -2.0, np.nan, np.inf])
def test_bad_div_values(div_value):
    with pytest.raises(ValueError, match=f"div_value is {div_value}; expected a positive number"):
        AdaptiveSoftmax(8, 20, [5], div_value)


TARGETS = {
    "too large": (np.array([0, 20]), ValueError, "holds the token 20; expected 0 <= token < V = 20"),
    "negative": (np.array([0, -1]), ValueError, "holds the token -1"),
    "floats": (np.zeros(2), TypeError, "targets has dtype float64; expected integers"),
    "of another shape": (np.zeros(3, int), ValueError, r"targets has shape \(3,\); expected \(2,\)"),
}


@pytest.mark.parametrize(("targets", "error", "message"), TARGETS.values(), ids=TARGETS)
def test_bad_targets(targets, error, message):
    with pytest.raises(error, match=message):
        AdaptiveSoftmax(8, 20, [5]).forward(np.zeros((2, 8), np.float32), targets)
