"""The RNN functions of fastrnn.scratch, rows S1 to S5, against torch's autograd and finite differences."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
from tolerances import assert_close, tolerance

from fastrnn.scratch import (
    initialize_rnn_parameters,
    rnn_backward,
    rnn_cell_step,
    rnn_forward,
    rnn_step_backward,
)

N_A, N_X, N_Y, T_X = 7, 5, 4, 6
LENGTH = T_X * (N_A + N_X + 2) + T_X * N_A
TOKENS = [3, 0, None, 4, 4, 1]
each_m = pytest.mark.parametrize("m", [1, 3])


def make(m, seed=0):
    rng = np.random.default_rng(seed)
    parameters = initialize_rnn_parameters(N_A, N_X, N_Y)
    for name, p in parameters.items():
        p[...] = rng.standard_normal(p.shape) * (1.0 if name[0] == "b" else (N_A + N_X) ** -0.5)
    return rng, parameters, rng.standard_normal((N_X, m, T_X)), rng.standard_normal((N_A, m))


def torch_run(torch, x, a_0, p):
    a, z, a_t = [], [], a_0
    for t in range(x.shape[2]):
        z.append(p["Wax"] @ x[:, :, t] + p["Waa"] @ a_t + p["ba"])
        a_t = torch.tanh(z[-1])
        a.append(a_t)
    a = torch.stack(a, dim=2)
    return a, torch.einsum("yh,hmt->ymt", p["Wya"], a) + p["by"][:, :, None], torch.stack(z, dim=2)


def leaves(torch, **arrays):
    return {name: torch.tensor(array, requires_grad=True) for name, array in arrays.items()}


def one_hot(tokens):
    x = np.zeros((N_X, 1, len(tokens)))
    for t, token in enumerate(tokens):
        if token is not None:
            x[token, 0, t] = 1
    return x


def close(name, got, want):
    want = want.detach().numpy() if hasattr(want, "detach") else want
    assert got.dtype == np.float64
    assert_close(name, got, want, tolerance(want, "float64", LENGTH))


def test_s1_parameters_are_drawn_in_the_order_of_the_original():
    got = initialize_rnn_parameters(N_A, N_X, N_Y, seed=3)
    np.random.seed(3)
    shapes = {"Wax": (N_A, N_X), "Waa": (N_A, N_A), "Wya": (N_Y, N_A)}
    want = {name: np.random.randn(*shape) * 0.01 for name, shape in shapes.items()}
    want |= {"ba": np.zeros((N_A, 1)), "by": np.zeros((N_Y, 1))}
    assert list(got) == list(want)
    for name, p in want.items():
        assert got[name].dtype == np.float64
        np.testing.assert_array_equal(got[name], p)
    np.testing.assert_array_equal(
        initialize_rnn_parameters(2, 3, 4)["Waa"], initialize_rnn_parameters(2, 3, 4, 1)["Waa"]
    )


@each_m
def test_s2_a_step_equals_torch(torch, m):
    _, parameters, x, a_prev = make(m)
    a_next, z_y, z, cache = rnn_cell_step(x[:, :, 0], a_prev, parameters)
    of_torch = {name: torch.tensor(p) for name, p in parameters.items()}
    want_a, want_logits, want_z = torch_run(torch, torch.tensor(x[:, :, :1]), torch.tensor(a_prev), of_torch)
    close("a_next", a_next, want_a[:, :, 0])
    close("z_y", z_y, want_logits[:, :, 0])
    close("z", z, want_z[:, :, 0])
    for got, want in zip(cache, (a_next, a_prev, x[:, :, 0], z), strict=False):
        np.testing.assert_array_equal(got, want)
    assert cache[4] is parameters


def test_s3_a_sequence_of_tokens_equals_torch(torch):
    _, parameters, _, a0 = make(1)
    a, x, logits, z_t = rnn_forward(TOKENS, a0, parameters)
    of_torch = {name: torch.tensor(p) for name, p in parameters.items()}
    want_a, want_logits, want_z = torch_run(torch, torch.tensor(one_hot(TOKENS)), torch.tensor(a0), of_torch)
    assert sorted(a) == [-1, *range(T_X)]
    assert sorted(x) == list(range(T_X))
    assert logits.shape == (N_Y, T_X)
    np.testing.assert_array_equal(a[-1], a0)
    for t in range(T_X):
        assert a[t].shape == z_t[t].shape == (N_A, 1)
        close("a", a[t], want_a[:, :, t])
        close("z", z_t[t], want_z[:, :, t])
        np.testing.assert_array_equal(x[t], one_hot(TOKENS)[:, :, t])
    close("logits", logits, want_logits[:, 0])


@each_m
def test_s4_the_gradient_of_a_step_equals_torch(torch, m):
    rng, parameters, x, a_prev = make(m)
    da = rng.standard_normal((N_A, m))
    cache = rnn_cell_step(x[:, :, 0], a_prev, parameters)[3]
    gradients, da_prev = rnn_step_backward(da, cache)
    of = leaves(torch, x=x[:, :, :1], a_prev=a_prev, **parameters)
    (torch_run(torch, of["x"], of["a_prev"], of)[0][:, :, 0] * torch.tensor(da)).sum().backward()
    assert list(gradients) == ["dWax", "dWaa", "dba"]
    close("da_prev", da_prev, of["a_prev"].grad)
    for name in ("Wax", "Waa", "ba"):
        close(name, gradients[f"d{name}"], of[name].grad)


@pytest.mark.parametrize("form", ["tokens", "batch"])
def test_s5_rnn_backward_is_the_true_gradient(torch, form):
    rng, parameters, x, a0 = make(1 if form == "tokens" else 3)
    X, x = (TOKENS, one_hot(TOKENS)) if form == "tokens" else (x, x)
    cache = rnn_forward(X, a0, parameters)
    da = rng.standard_normal((N_A, a0.shape[1], T_X))
    gradients, a = rnn_backward(da, parameters, cache)
    of = leaves(torch, x=x, a0=a0, **parameters)
    (torch_run(torch, of["x"], of["a0"], of)[0] * torch.tensor(da)).sum().backward()
    assert a is cache[0]
    assert list(gradients) == ["dWax", "dWaa", "dba"]
    for name in ("Wax", "Waa", "ba"):
        close(name, gradients[f"d{name}"], of[name].grad)


def test_s5_states_in_another_dict_give_the_same_gradient():
    rng, parameters, x, a0 = make(2)
    a, columns, logits, z_t = rnn_forward(x, a0, parameters)
    da = rng.standard_normal((N_A, 2, T_X))
    want, _ = rnn_backward(da, parameters, (a, columns, logits, z_t))
    again, _ = rnn_backward(da, parameters, (a, columns, logits, z_t))
    of_dict, _ = rnn_backward(da, parameters, (dict(a), columns, logits, z_t))
    for name, gradient in want.items():
        np.testing.assert_array_equal(again[name], gradient)
        np.testing.assert_array_equal(of_dict[name], gradient)


def test_s5_what_is_kept_can_be_copied_and_pickled():
    rng, parameters, x, a0 = make(2)
    cache = rnn_forward(x, a0, parameters)
    da = rng.standard_normal((N_A, 2, T_X))
    want, _ = rnn_backward(da, parameters, cache)
    for kept in (copy.deepcopy(cache), pickle.loads(pickle.dumps(cache))):
        got, _ = rnn_backward(da, parameters, kept)
        for name, gradient in want.items():
            np.testing.assert_array_equal(got[name], gradient)


def test_s5_parameters_that_change_before_backward_do_not_mix_in():
    rng, parameters, x, a0 = make(1)
    da = rng.standard_normal((N_A, 1, T_X))
    want, _ = rnn_backward(da, parameters, rnn_forward(x, a0, parameters))
    cache = rnn_forward(x, a0, parameters)
    for p in parameters.values():
        p += 1
    got, _ = rnn_backward(da, parameters, cache)
    for name, gradient in want.items():
        np.testing.assert_array_equal(got[name], gradient)


def test_s3_s20_a_batch_of_tokens_equals_its_examples():
    rng, parameters, _, a0 = make(3)
    tokens = rng.integers(-1, N_X, (3, T_X))
    a, _, logits, z_t = rnn_forward(tokens, a0, parameters)
    assert logits.shape == (N_Y, 3, T_X)
    for k in range(3):
        a_k, _, logits_k, z_k = rnn_forward(tokens[k], a0[:, [k]], parameters)
        close("logits", logits[:, k], logits_k)
        for t in range(T_X):
            close("a", a[t][:, [k]], a_k[t])
            close("z", z_t[t][:, [k]], z_k[t])


@pytest.mark.parametrize(
    ("X", "a0", "error", "message"),
    [
        ([], (N_A, 1), ValueError, "X is empty; expected at least one token"),
        ([N_X], (N_A, 1), ValueError, "X holds 5; expected 0 <= token < n_x = 5"),
        (["a"], (N_A, 1), TypeError, "X has dtype <U1; expected integers"),
        ([np.array([0, 1]), np.array([1, N_X])], (N_A, 2), ValueError, "X holds 5"),
        ([0], (N_A,), ValueError, r"a0 has shape \(7,\); expected \(n_a, m\) = \(7, 1\)"),
    ],
)
def test_bad_input_is_named(X, a0, error, message):
    _, parameters, _, _ = make(1)
    with pytest.raises(error, match=message):
        rnn_forward(X, np.zeros(a0), parameters)


def test_bad_gradients_and_parameters_are_named():
    _, parameters, x, a0 = make(1)
    cache = rnn_forward(x, a0, parameters)
    with pytest.raises(ValueError, match=r"da has shape \(7, 2, 6\); expected \(n_a, m, T_x\) = \(7, 1, 6\)"):
        rnn_backward(np.zeros((N_A, 2, T_X)), parameters, cache)
    del parameters["Waa"]
    with pytest.raises(KeyError, match="parameters has no 'Waa'; found Wax, Wya, ba, by"):
        rnn_cell_step(x[:, :, 0], a0, parameters)
