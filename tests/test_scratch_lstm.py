"""The LSTM functions of fastrnn.scratch, rows S6 to S10, against torch's autograd and finite differences."""

from __future__ import annotations

import numpy as np
import pytest
from tolerances import assert_close, tolerance

import fastrnn
from fastrnn.scratch import (
    initialize_lstm_parameters,
    lstm_backwards,
    lstm_cell_step,
    lstm_forward,
    lstm_step_backward,
)

N_A, N_X, N_Y, T_X = 7, 5, 4, 6
LENGTH = T_X * (N_A + N_X + 2) + T_X * 4 * N_A
NAMES = ["Wf", "bf", "Wi", "bi", "Wc", "bc", "Wo", "bo", "Wy", "by"]
OF_GATES = NAMES[:8]
each_m = pytest.mark.parametrize("m", [1, 3])


def make(m, seed=0):
    """Parameters of size 1 over the root of what they sum, biases and a state of size 1, and real input."""
    rng = np.random.default_rng(seed)
    parameters = initialize_lstm_parameters(N_A, N_X, N_Y)
    for name, p in parameters.items():
        p[...] = rng.standard_normal(p.shape) * (1.0 if name[0] == "b" else (N_A + N_X) ** -0.5)
    return rng, parameters, rng.standard_normal((N_X, m, T_X)), rng.standard_normal((N_A, m))


def torch_run(torch, x, a_0, c_0, parameters):
    """The equations in torch: a and c of every step and the logits, from leaves."""
    p, a, c, a_t, c_t = parameters, [], [], a_0, c_0
    for t in range(x.shape[2]):
        z = torch.cat([a_t, x[:, :, t]])
        f, i, o = (torch.sigmoid(p[f"W{gate}"] @ z + p[f"b{gate}"]) for gate in "fio")
        c_t = f * c_t + i * torch.tanh(p["Wc"] @ z + p["bc"])
        a_t = o * torch.tanh(c_t)
        a.append(a_t)
        c.append(c_t)
    a = torch.stack(a, dim=2)
    return a, torch.stack(c, dim=2), torch.einsum("yh,hmt->ymt", p["Wy"], a) + p["by"][:, :, None]


def leaves(torch, **arrays):
    return {name: torch.tensor(array, requires_grad=True) for name, array in arrays.items()}


def close(name, got, want):
    want = want.detach().numpy() if hasattr(want, "detach") else want
    assert got.dtype == np.float64
    assert_close(name, got, want, tolerance(want, "float64", LENGTH))


def test_s6_parameters_are_drawn_in_the_order_of_the_original():
    got = initialize_lstm_parameters(N_A, N_X, N_Y, seed=3)
    np.random.seed(3)
    want = {f"W{gate}": np.random.randn(N_A, N_A + N_X) * 0.01 for gate in "fico"}
    want["Wy"] = np.random.randn(N_Y, N_A) * 0.01
    assert list(got) == NAMES
    for name in NAMES:
        assert got[name].dtype == np.float64
        if name in want:
            np.testing.assert_array_equal(got[name], want[name])
        else:
            np.testing.assert_array_equal(got[name], np.zeros((N_Y if name == "by" else N_A, 1)))
    np.testing.assert_array_equal(
        initialize_lstm_parameters(2, 3, 4)["Wf"], initialize_lstm_parameters(2, 3, 4, 1)["Wf"]
    )


@each_m
def test_s7_a_step_equals_torch(torch, m):
    rng, parameters, x, a_prev = make(m)
    c_prev = rng.standard_normal((N_A, m))
    a_next, c_next, logits, cache = lstm_cell_step(x[:, :, 0], a_prev, c_prev, parameters)
    of_torch = {name: torch.tensor(p) for name, p in parameters.items()}
    a, c, want = torch_run(torch, torch.tensor(x[:, :, :1]), torch.tensor(a_prev), torch.tensor(c_prev), of_torch)
    close("a_next", a_next, a[:, :, 0])
    close("c_next", c_next, c[:, :, 0])
    close("logits", logits, want[:, :, 0])
    assert len(cache) == 10
    z = torch.cat([torch.tensor(a_prev), torch.tensor(x[:, :, 0])])
    for name, gate, got in zip(["ft", "it", "cct", "ot"], "fico", cache[4:8], strict=True):
        pre = of_torch[f"W{gate}"] @ z + of_torch[f"b{gate}"]
        close(name, got, torch.tanh(pre) if gate == "c" else torch.sigmoid(pre))
    for got, want in zip(cache[:4], (a_next, c_next, a_prev, c_prev), strict=True):
        np.testing.assert_array_equal(got, want)
    np.testing.assert_array_equal(cache[8], x[:, :, 0])
    assert cache[9] is parameters


def test_s8_a_sequence_of_tokens_equals_torch(torch):
    _, parameters, _, a0 = make(1)
    tokens = [3, 0, 4, 4, 1, 2]
    a, logits, caches = lstm_forward(np.array(tokens), a0, parameters)
    x = torch.eye(N_X, dtype=torch.float64)[:, tokens][:, None]
    of_torch = {name: torch.tensor(p) for name, p in parameters.items()}
    want_a, want_c, want = torch_run(torch, x, torch.tensor(a0), torch.zeros(N_A, 1, dtype=torch.float64), of_torch)
    assert a.shape == (N_A, 1, T_X)
    assert logits.shape == (N_Y, 1, T_X)
    assert len(caches) == T_X
    close("a", a, want_a)
    close("logits", logits, want)
    close("c", np.stack([cache[1] for cache in caches], axis=2), want_c)
    for t in range(1, T_X):
        np.testing.assert_array_equal(caches[t][2], caches[t - 1][0])
        np.testing.assert_array_equal(caches[t][3], caches[t - 1][1])
    np.testing.assert_array_equal(caches[0][3], np.zeros((N_A, 1)))
    for form in (tokens, tuple(tokens), np.array(tokens, np.int32)):
        np.testing.assert_array_equal(lstm_forward(form, a0.astype(np.float64), parameters)[0], a)


def test_s8_steps_one_by_one_equal_the_sequence():
    _, parameters, _, a0 = make(1)
    tokens = [3, 0, 4]
    a, logits, caches = lstm_forward(tokens, a0, parameters)
    a_prev, c_prev = a0, np.zeros((N_A, 1))
    for t, token in enumerate(tokens):
        a_prev, c_prev, of_step, cache = lstm_cell_step(np.eye(N_X)[:, [token]], a_prev, c_prev, parameters)
        close("a", a_prev, a[:, :, t])
        close("logits", of_step, logits[:, :, t])
        for got, want in zip(cache[:9], caches[t][:9], strict=True):
            close("cache", got, want)


def test_s8_none_and_minus_one_are_columns_of_zeros():
    _, parameters, x, a0 = make(1)
    x[...] = 0
    x[2, 0, 1] = x[4, 0, 3] = 1
    want = lstm_forward(x, a0, parameters)[0]
    np.testing.assert_array_equal(lstm_forward([None, 2, None, 4, None, None], a0, parameters)[0], want)
    np.testing.assert_array_equal(lstm_forward(np.array([-1, 2, -1, 4, -1, -1]), a0, parameters)[0], want)


def test_s8_s20_a_batch_equals_its_examples():
    rng, parameters, _, a0 = make(3)
    tokens = rng.integers(0, N_X, (3, T_X))
    a, logits, caches = lstm_forward(tokens, a0, parameters)
    da = rng.standard_normal(a.shape)
    gradients = lstm_backwards(da, caches)
    sums = {f"d{name}": 0 for name in OF_GATES}
    for k in range(3):
        a_k, logits_k, caches_k = lstm_forward(tokens[k], a0[:, [k]], parameters)
        close("a", a[:, [k]], a_k)
        close("logits", logits[:, [k]], logits_k)
        of_k = lstm_backwards(da[:, [k]], caches_k)
        close("dx", gradients["dx"][:, [k]], of_k["dx"])
        close("da0", gradients["da0"][:, [k]], of_k["da0"])
        sums = {name: total + of_k[name] for name, total in sums.items()}
    for name, total in sums.items():
        close(name, gradients[name], total)


@each_m
def test_s9_the_gradient_of_a_step_equals_torch(torch, m):
    rng, parameters, x, a_prev = make(m)
    c_prev, da, dc = (rng.standard_normal((N_A, m)) for _ in range(3))
    cache = lstm_cell_step(x[:, :, 0], a_prev, c_prev, parameters)[3]
    gradients = lstm_step_backward(da, dc, cache)
    of = leaves(torch, x=x[:, :, :1], a_prev=a_prev, c_prev=c_prev, **parameters)
    a, c, _ = torch_run(torch, of["x"], of["a_prev"], of["c_prev"], of)
    (a[:, :, 0] * torch.tensor(da) + c[:, :, 0] * torch.tensor(dc)).sum().backward()
    assert sorted(gradients) == sorted(["dxt", "da_prev", "dc_prev", *(f"d{name}" for name in OF_GATES)])
    close("dxt", gradients["dxt"], of["x"].grad[:, :, 0])
    for name in ["a_prev", "c_prev", *OF_GATES]:
        close(name, gradients[f"d{name}"], of[name].grad)


@each_m
def test_s10_lstm_backwards_is_the_true_gradient(torch, m):
    rng, parameters, x, a0 = make(m)
    a, _, caches = lstm_forward(x, a0, parameters)
    da = rng.standard_normal(a.shape)
    gradients = lstm_backwards(da, caches)
    of = leaves(torch, x=x, a0=a0, **parameters)
    want, _, _ = torch_run(torch, of["x"], of["a0"], torch.zeros(N_A, m, dtype=torch.float64), of)
    (want * torch.tensor(da)).sum().backward()
    assert list(gradients) == ["dx", "da0", *(f"d{name}" for name in OF_GATES)]
    for name in ["x", "a0", *OF_GATES]:
        close(name, gradients[f"d{name}"], of[name].grad)


@pytest.mark.parametrize("name", ["x", "a0", *OF_GATES])
def test_s10_finite_differences(name):
    rng, parameters, x, a0 = make(2)
    arrays = {"x": x, "a0": a0, **parameters}
    da = rng.standard_normal((N_A, 2, T_X))
    gradient = lstm_backwards(da, lstm_forward(x, a0, parameters)[2])[f"d{name}"]
    direction = rng.standard_normal(arrays[name].shape)

    def loss(step):
        moved = {**arrays, name: arrays[name] + step * direction}
        return float(np.sum(lstm_forward(moved["x"], moved["a0"], moved)[0] * da))

    h = 1e-5  # the error is of the order of h^2 and eps / h
    assert (gradient * direction).sum() == pytest.approx((loss(h) - loss(-h)) / (2 * h), rel=1e-7, abs=1e-8)


def test_s10_caches_in_another_list_give_the_same_gradient():
    rng, parameters, x, a0 = make(2)
    a, _, caches = lstm_forward(x, a0, parameters)
    da = rng.standard_normal(a.shape)
    want = lstm_backwards(da, caches)
    a_prev, c_prev, own = a0, np.zeros((N_A, 2)), []
    for t in range(T_X):
        a_prev, c_prev, _, cache = lstm_cell_step(x[:, :, t], a_prev, c_prev, parameters)
        own.append(cache)
    for again in (caches, list(caches), caches[:], own):
        got = lstm_backwards(da, again)
        for name, gradient in want.items():
            close(name, got[name], gradient)


def test_s10_a_part_of_the_caches_is_truncated_back_propagation(torch):
    rng, parameters, x, a0 = make(1)
    _, _, caches = lstm_forward(x, a0, parameters)
    da = rng.standard_normal((N_A, 1, 3))
    gradients = lstm_backwards(da, caches[3:])
    of = leaves(torch, x=x[:, :, 3:], a_prev=caches[3][2].copy(), c_prev=caches[3][3].copy(), **parameters)
    a, _, _ = torch_run(torch, of["x"], of["a_prev"], of["c_prev"], of)
    (a * torch.tensor(da)).sum().backward()
    close("da0", gradients["da0"], of["a_prev"].grad)
    for name in OF_GATES:
        close(name, gradients[f"d{name}"], of[name].grad)


def test_s10_parameters_that_change_before_backward_do_not_mix_in():
    rng, parameters, x, a0 = make(1)
    da = rng.standard_normal((N_A, 1, T_X))
    want = lstm_backwards(da, lstm_forward(x, a0, parameters)[2])
    a, _, caches = lstm_forward(x, a0, parameters)
    for p in parameters.values():
        p += 1
    x += 1
    a0 += 1
    got = lstm_backwards(da, caches)
    for name, gradient in want.items():
        np.testing.assert_array_equal(got[name], gradient)
    with pytest.raises(ValueError, match="read-only"):
        a[0, 0, 0] = 1


def test_s10_caches_after_backward_are_those_before():
    rng, parameters, x, a0 = make(1)
    want = lstm_forward(x, a0, parameters)[2]
    before = list(want)
    _, _, caches = lstm_forward(x, a0, parameters)
    lstm_backwards(rng.standard_normal((N_A, 1, T_X)), caches)
    assert len(caches) == len(before) == T_X
    for got, cache in zip(reversed(caches), reversed(before), strict=True):
        for left, right in zip(got[:9], cache[:9], strict=True):
            np.testing.assert_array_equal(left, right)


def test_float32_goes_in_and_every_backend_agrees():
    rng, parameters, x, a0 = make(2)
    narrow = {name: p.astype(np.float32) for name, p in parameters.items()}
    wide = {name: p.astype(np.float64) for name, p in narrow.items()}
    x, a0 = x.astype(np.float32), a0.astype(np.float32)
    da = rng.standard_normal((N_A, 2, T_X))
    want = lstm_backwards(da, lstm_forward(x.astype(np.float64), a0.astype(np.float64), wide)[2])
    got = lstm_backwards(da, lstm_forward(x, a0, narrow)[2])
    with fastrnn.use_backend("numpy"):
        of_reference = lstm_backwards(da, lstm_forward(x, a0, narrow)[2])
    for name, gradient in want.items():
        np.testing.assert_array_equal(got[name], gradient)
        close(name, of_reference[name], gradient)


def test_arrays_of_any_order_give_the_same_bits():
    rng, parameters, x, a0 = make(3)
    da = rng.standard_normal((N_A, 3, T_X))
    want = lstm_backwards(da, lstm_forward(x, a0, parameters)[2])
    of_fortran = {name: np.asfortranarray(p) for name, p in parameters.items()}
    a, _, caches = lstm_forward(np.asfortranarray(x), np.asfortranarray(a0), of_fortran)
    got = lstm_backwards(np.asfortranarray(da), caches)
    np.testing.assert_array_equal(a, lstm_forward(x, a0, parameters)[0])
    for name, gradient in want.items():
        np.testing.assert_array_equal(got[name], gradient)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x_seq": []}, ValueError, "x_seq is empty; expected at least one token"),
        ({"x_seq": [0, N_X]}, ValueError, r"x_seq holds 5; expected 0 <= token < n_x = 5, or -1 for none"),
        ({"x_seq": [0, -2]}, ValueError, "x_seq holds -2; expected 0 <= token"),
        ({"x_seq": [0.5]}, TypeError, "x_seq has dtype float64; expected integers"),
        (
            {"x_seq": np.zeros((2, 1, 3))},
            ValueError,
            r"x_seq has shape \(2, 1, 3\); expected \(n_x, m, T_x\)",
        ),
        ({"x_seq": np.zeros((1, 2, 3, 4), int)}, ValueError, r"x_seq has shape \(1, 2, 3, 4\); expected \(T_x,\)"),
        ({"a0": np.zeros((N_A, 2))}, ValueError, r"a0 has shape \(7, 2\); expected \(n_a, m\) = \(7, 1\)"),
        ({"Wo": None}, KeyError, "parameters has no 'Wo'; found Wf, bf"),
        ({"Wi": np.zeros((2, 2))}, ValueError, r"parameters\['Wi'\] has shape \(2, 2\); expected \(7, 12\)"),
        ({"by": np.zeros(N_Y)}, ValueError, r"parameters\['by'\] has shape \(4,\); expected \(4, 1\)"),
        ({"Wf": np.zeros((7, 7))}, ValueError, r"parameters\['Wf'\] has shape \(7, 7\); expected \(n_a, n_a \+ n_x\)"),
    ],
)
def test_bad_input_is_named(change, error, message):
    _, parameters, _, a0 = make(1)
    arguments = {"x_seq": [0, 1], "a0": a0} | {k: v for k, v in change.items() if k in ("x_seq", "a0")}
    parameters |= {k: v for k, v in change.items() if k in parameters}
    parameters = {name: p for name, p in parameters.items() if p is not None}
    with pytest.raises(error, match=message):
        lstm_forward(arguments["x_seq"], arguments["a0"], parameters)


def test_bad_gradients_are_named():
    _, parameters, x, a0 = make(1)
    _, _, caches = lstm_forward(x, a0, parameters)
    with pytest.raises(ValueError, match=r"da has shape \(7, 1, 2\); expected \(n_a, m, T_x\) = \(7, 1, 6\)"):
        lstm_backwards(np.zeros((N_A, 1, 2)), caches)
    with pytest.raises(ValueError, match="caches is empty"):
        lstm_backwards(np.zeros((N_A, 1, 2)), [])
    with pytest.raises(ValueError, match=r"dc_next has shape \(2, 1\); expected \(n_a, m\) = \(7, 1\)"):
        lstm_step_backward(np.zeros((N_A, 1)), np.zeros((2, 1)), caches[0])
