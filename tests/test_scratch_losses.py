"""Losses, the output layer, activations and clipping of fastrnn.scratch, rows S11 to S14."""

from __future__ import annotations

import math

import numpy as np
import pytest
from tolerances import assert_close, tolerance

from fastrnn.scratch import (
    Linear,
    Sigmoid,
    Softmax,
    Tanh,
    clip,
    compute_loss_and_grad,
    compute_output_layer_gradients,
    cross_entropy_loss,
    cross_entropy_loss_grad_from_logits,
    get_initial_loss,
    initialize_lstm_parameters,
    initialize_rnn_parameters,
    lstm_backwards,
    lstm_forward,
    project_logit_grad_to_hidden,
    rnn_backward,
    rnn_forward,
    sigmoid,
    smooth,
    softmax,
)

V, T = 5, 6


def close(name, got, want):
    got, want = np.atleast_1d(got), np.atleast_1d(want.detach().numpy() if hasattr(want, "detach") else want)
    assert_close(name, got, want, tolerance(want, "float64", V * T))


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("shape", [(V, T), (V, 1, T), (V, 3, T)])
def test_s11_loss_and_gradient_equal_torch(torch, shape, reduction):
    rng = np.random.default_rng(0)
    logits = rng.standard_normal(shape) * 3
    y_true = rng.integers(0, V, T if len(shape) == 2 or shape[1] == 1 else (3, T))
    loss, dy = compute_loss_and_grad(logits, y_true.tolist() if y_true.ndim == 1 else y_true, reduction=reduction)
    of_torch = torch.tensor(logits.reshape(V, -1, T), requires_grad=True)
    targets = torch.tensor(y_true.reshape(-1, T))
    want = torch.nn.functional.cross_entropy(of_torch.permute(1, 0, 2), targets, reduction=reduction)
    want.backward()
    assert isinstance(loss, float)
    assert dy.shape == (V, shape[1] if len(shape) == 3 else 1, T)
    close("loss", loss, want)
    close("dy", dy, of_torch.grad)


def test_s11_padding_does_not_count():
    logits = np.random.default_rng(0).standard_normal((V, 2, T))
    y_true = np.array([[1, 2, 3, -1, -1, -1], [4, 0, 2, 2, 1, 0]])
    loss, dy = compute_loss_and_grad(logits, y_true, reduction="sum")
    first, d_first = compute_loss_and_grad(logits[:, 0, :3], [1, 2, 3], reduction="sum")
    second, d_second = compute_loss_and_grad(logits[:, 1], y_true[1], reduction="sum")
    close("loss", loss, first + second)
    close("dy", dy[:, [0], :3], d_first)
    close("dy", dy[:, [1]], d_second)
    np.testing.assert_array_equal(dy[:, 0, 3:], np.zeros((V, 3)))
    close("mean", compute_loss_and_grad(logits, y_true)[0], loss / 9)
    close("None", compute_loss_and_grad(logits[:, 0], [1, 2, 3, None, None, None], reduction="sum")[0], first)


@pytest.mark.parametrize("dtype", ["uint8", "int32", "uint64"])
def test_s11_tokens_of_any_integer_type(dtype):
    logits, y_true = np.random.default_rng(0).standard_normal((V, 3)), [4, 0, 2]
    loss, dy = compute_loss_and_grad(logits, np.array(y_true, dtype))
    want, want_dy = compute_loss_and_grad(logits, y_true)
    assert loss == want
    np.testing.assert_array_equal(dy, want_dy)


def test_s11_logits_of_any_size_are_safe():
    logits = np.array([[1e4, -1e4], [-1e4, 1e4]])
    loss, dy = compute_loss_and_grad(logits, [0, 0])
    assert loss == 1e4
    np.testing.assert_array_equal(dy[:, 0], [[0, -0.5], [0, 0.5]])


@pytest.mark.parametrize(
    ("logits", "y_true", "reduction", "message"),
    [
        ((V, T), [0] * T, "max", "reduction is 'max'; expected 'mean' or 'sum'"),
        ((V, T), [0] * 2, "mean", r"y_true has shape \(2,\); expected \(T,\) or \(m, T\), as logits is \(5, 6\)"),
        ((V, T), [V] * T, "mean", "y_true holds 5; expected 0 <= token < V = 5"),
        ((V, T), [], "mean", "y_true is empty; expected at least one token"),
        ((V, T), [-1] * T, "mean", "expected at least one"),
        ((V,), [0], "mean", r"logits has shape \(5,\); expected \(V, T\) or \(V, m, T\)"),
    ],
)
def test_s11_bad_input_is_named(logits, y_true, reduction, message):
    with pytest.raises(ValueError, match=message):
        compute_loss_and_grad(np.zeros(logits), y_true, reduction=reduction)


@pytest.mark.parametrize("m", [1, 3])
def test_s12_the_output_layer_equals_torch(torch, m):
    rng = np.random.default_rng(0)
    dy, a, weight = (rng.standard_normal(shape) for shape in [(V, m, T), (7, m, T), (V, 7)])
    of = [torch.tensor(array, requires_grad=True) for array in (a, weight, np.zeros((V, 1)))]
    logits = torch.einsum("yh,hmt->ymt", of[1], of[0]) + of[2][:, :, None]
    (logits * torch.tensor(dy)).sum().backward()
    close("da", project_logit_grad_to_hidden(dy, weight), of[0].grad)
    of_dict = compute_output_layer_gradients(dy, {-1: np.ones((7, m)), **{t: a[:, :, t] for t in range(T)}})
    for gradients in (compute_output_layer_gradients(dy, a), of_dict):
        assert sorted(gradients) == ["dWy", "dWya", "dby"]
        close("dWy", gradients["dWy"], of[1].grad)
        close("dby", gradients["dby"], of[2].grad)
        np.testing.assert_array_equal(gradients["dWya"], gradients["dWy"])
        assert not np.shares_memory(gradients["dWya"], gradients["dWy"])


def test_s12_arrays_without_an_axis_of_examples():
    rng = np.random.default_rng(0)
    dy, a, weight = (rng.standard_normal(shape) for shape in [(V, T), (7, T), (V, 7)])
    assert project_logit_grad_to_hidden(dy, weight).shape == (7, 1, T)
    np.testing.assert_array_equal(
        compute_output_layer_gradients(dy, a)["dWy"], compute_output_layer_gradients(dy[:, None], a[:, None])["dWy"]
    )


def test_s12_bad_shapes_are_named():
    with pytest.raises(ValueError, match=r"Wy has shape \(4, 7\); expected \(n_y, n_a\) = \(5, any\)"):
        project_logit_grad_to_hidden(np.zeros((V, 1, T)), np.zeros((4, 7)))
    with pytest.raises(ValueError, match=r"dy has shape \(5,\); expected \(n_y, m, T_x\)"):
        project_logit_grad_to_hidden(np.zeros(V), np.zeros((V, 7)))
    with pytest.raises(ValueError, match="a is of 2 steps of 1 examples; expected 6 steps of 1 examples, as dy"):
        compute_output_layer_gradients(np.zeros((V, 1, T)), np.zeros((7, 1, 2)))


@pytest.mark.parametrize("model", ["rnn", "lstm"])
def test_s11_s12_a_whole_step_is_the_gradient_of_the_loss(model):
    """Every parameter's gradient against a finite difference of the loss, through all functions of a training step."""
    rng = np.random.default_rng(0)
    x, y, a0 = [1, 4, 0, 2], [4, 0, 2, 3], rng.standard_normal((7, 1))
    initialize = initialize_rnn_parameters if model == "rnn" else initialize_lstm_parameters
    parameters = {name: rng.standard_normal(p.shape) * 0.5 for name, p in initialize(7, V, V).items()}

    def loss_of(p):
        if model == "rnn":
            return compute_loss_and_grad(rnn_forward(x, a0, p)[2], y)
        return compute_loss_and_grad(lstm_forward(x, a0, p)[1], y)

    _, dy = loss_of(parameters)
    if model == "rnn":
        cache = rnn_forward(x, a0, parameters)
        gradients, a = rnn_backward(project_logit_grad_to_hidden(dy, parameters["Wya"]), parameters, cache)
    else:
        a, _, caches = lstm_forward(x, a0, parameters)
        gradients = lstm_backwards(project_logit_grad_to_hidden(dy, parameters["Wy"]), caches)
    gradients.update(compute_output_layer_gradients(dy, a))
    for name, p in parameters.items():
        direction, h = rng.standard_normal(p.shape), 1e-5
        ahead, behind = (loss_of(parameters | {name: p + step * direction})[0] for step in (h, -h))
        assert (gradients[f"d{name}"] * direction).sum() == pytest.approx(
            (ahead - behind) / (2 * h), rel=1e-6, abs=1e-9
        )


def test_s13_losses(torch):
    rng = np.random.default_rng(0)
    z, y = rng.standard_normal((V, 1, T)), rng.integers(0, V, T)
    close("loss", cross_entropy_loss(z, y), compute_loss_and_grad(z, y)[0])
    close("loss of (V, T)", cross_entropy_loss(z[:, 0], y), compute_loss_and_grad(z, y)[0])
    np.testing.assert_array_equal(cross_entropy_loss_grad_from_logits(z, y), compute_loss_and_grad(z, y)[1])
    assert get_initial_loss(27, 10) == pytest.approx(-math.log(1 / 27) * 10)
    assert smooth(2.0, 1.0) == 2.0 * 0.999 + 1.0 * 0.001


def test_s13_softmax_and_sigmoid_equal_torch(torch):
    z = np.random.default_rng(0).standard_normal((V, 3, T)) * 5
    for array in (z[:, 0, 0], z[:, :, 0], z):
        close("softmax", softmax(array), torch.softmax(torch.tensor(array), dim=0))
        close("sigmoid", sigmoid(array), torch.sigmoid(torch.tensor(array)))
    np.testing.assert_array_equal(sigmoid([-1e4, 1e4]), [0, 1])
    np.testing.assert_array_equal(softmax([-1e4, 1e4]), [0, 1])
    np.testing.assert_array_equal(softmax([1.0, 2.0], temperature=1e-320), [0, 1])


def test_s13_clip_makes_a_new_dict_of_new_arrays():
    gradients = {"dWa": np.array([[-9.0, 1.0], [5.0, 7.0]]), "dba": np.array([[0.5]])}
    before = {name: g.copy() for name, g in gradients.items()}
    clipped = clip(gradients, maxValue=5)
    np.testing.assert_array_equal(clipped["dWa"], [[-5, 1], [5, 5]])
    for name, g in gradients.items():
        np.testing.assert_array_equal(g, before[name])
        assert not np.shares_memory(clipped[name], g)
    with pytest.raises(ValueError, match="maxValue is -1; expected a positive number"):
        clip(gradients, -1)


def test_s14_activations_equal_torch(torch):
    x = np.random.default_rng(0).standard_normal((4, 3))
    of_torch = torch.tensor(x, requires_grad=True)
    for activation, function, of_input in ((Tanh, torch.tanh, True), (Sigmoid, torch.sigmoid, False)):
        y = activation.forward(x)
        (want,) = torch.autograd.grad(function(of_torch).sum(), of_torch)
        close("forward", y, function(of_torch))
        close("backward", activation.backward(x if of_input else y), want)
    np.testing.assert_array_equal(Linear.forward(x), x)
    np.testing.assert_array_equal(Linear.backward(x), np.ones_like(x))


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_s14_softmax_with_a_temperature_equals_torch(torch, temperature):
    z = np.random.default_rng(0).standard_normal((4, 3))
    s = Softmax.forward(z, temperature=temperature)
    close("forward", s, torch.softmax(torch.tensor(z) / temperature, dim=0))
    jacobian = Softmax.backward(s, temperature)
    assert jacobian.shape == (4, 4, 3)
    for k in range(3):
        want = torch.autograd.functional.jacobian(
            lambda column: torch.softmax(column / temperature, 0), torch.tensor(z[:, k])
        )
        close("jacobian", jacobian[:, :, k], want)
        close("jacobian of a column", Softmax.backward(s[:, [k]], temperature), want)
    with pytest.raises(ValueError, match="temperature is 0; expected a positive number"):
        Softmax.forward(z, temperature=0)
