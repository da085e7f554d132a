"""The classes of fastrnn.scratch's course and blog, rows H7, C1 and C4, against torch's cells."""

from __future__ import annotations

import numpy as np
import pytest
from tolerances import assert_close, tolerance

from fastrnn.scratch import LSTM, SimpleLSTM, SimpleRNN, encode

I, H, O, T = 5, 7, 3, 6


def draw(module, seed=0):
    """Give every weight and bias a value of size 1 over the root of what is summed."""
    rng = np.random.default_rng(seed)
    for name, p in vars(module).items():
        if isinstance(p, np.ndarray):
            setattr(module, name, rng.standard_normal(p.shape) * (1.0 if p.shape[1] == 1 else (I + H) ** -0.5))
    return rng


def close(name, got, want):
    want = want.detach().numpy() if hasattr(want, "detach") else want
    assert got.dtype == np.float64
    assert_close(name, got, want, tolerance(want, "float64", T * (I + H + 2)))


def torch_lstm(torch, weights, biases, x, h, c):
    """The states and the gates i, f, g, o after one step of torch's cell; weights in that order, on [h; x]."""
    cell = torch.nn.LSTMCell(I, H, dtype=torch.float64)
    stacked, bias = np.concatenate(weights), np.concatenate(biases)[:, 0]
    cell.load_state_dict(
        {
            "weight_ih": torch.tensor(stacked[:, H:]),
            "weight_hh": torch.tensor(stacked[:, :H]),
            "bias_ih": torch.tensor(bias),
            "bias_hh": torch.zeros(4 * H),
        }
    )
    h_n, c_n = cell(torch.tensor(x.T), (torch.tensor(h.T), torch.tensor(c.T)))
    pre = stacked @ np.concatenate([h, x]) + bias[:, None]
    i, f, g, o = (torch.tensor(block) for block in np.split(pre, 4))
    return h_n.T, c_n.T, (torch.sigmoid(i), torch.sigmoid(f), torch.tanh(g), torch.sigmoid(o))


def test_h7_encode():
    tokens = encode(["a", "a", "b", "b", "EOS"])
    assert tokens.tolist() == [0, 0, 1, 1, 2]
    assert (tokens == 0).tolist() == [True, True, False, False, False]
    with pytest.raises(ValueError, match="sequence holds 'c'; expected a, b, EOS"):
        encode(["a", "c"])


def test_h7_simple_rnn_without_outputs_takes_a_step(torch):
    rnn = SimpleRNN(I, H)
    rng = draw(rnn)
    x, h_prev = rng.standard_normal((I, 1)), rng.standard_normal((H, 1))
    assert (rnn.Wxh.shape, rnn.Whh.shape, rnn.bh.shape) == ((H, I), (H, H), (H, 1))
    cell = torch.nn.RNNCell(I, H, dtype=torch.float64)
    weights = {"weight_ih": rnn.Wxh, "weight_hh": rnn.Whh, "bias_ih": rnn.bh[:, 0], "bias_hh": np.zeros(H)}
    cell.load_state_dict({name: torch.tensor(p) for name, p in weights.items()})
    close("h", rnn.forward(x, h_prev), cell(torch.tensor(x.T), torch.tensor(h_prev.T)).T)
    close("h from zero", rnn.forward(x), cell(torch.tensor(x.T)).T)


def test_h7_lstm_takes_a_step(torch):
    lstm = LSTM(I, H)
    rng = draw(lstm)
    x, h_prev, c_prev = (rng.standard_normal((size, 1)) for size in (I, H, H))
    h, c = lstm.forward(x, h_prev, c_prev)
    weights, biases = (lstm.Wi, lstm.Wf, lstm.Wc, lstm.Wo), (lstm.bi, lstm.bf, lstm.bc, lstm.bo)
    want_h, want_c, _ = torch_lstm(torch, weights, biases, x, h_prev, c_prev)
    close("h", h, want_h)
    close("c", c, want_c)


def test_c1_simple_rnn_equals_torch(torch):
    rnn = SimpleRNN(I, H, O)
    rng = draw(rnn)
    X, h_prev = rng.standard_normal((T, I)), rng.standard_normal((H, 1))
    shapes = [p.shape for p in (rnn.W_ih, rnn.W_hh, rnn.b_h, rnn.W_ho, rnn.b_o)]
    assert shapes == [(H, I), (H, H), (H, 1), (O, H), (O, 1)]
    layer = torch.nn.RNN(I, H, dtype=torch.float64)
    weights = {
        "weight_ih_l0": rnn.W_ih,
        "weight_hh_l0": rnn.W_hh,
        "bias_ih_l0": rnn.b_h[:, 0],
        "bias_hh_l0": np.zeros(H),
    }
    layer.load_state_dict({name: torch.tensor(p) for name, p in weights.items()})
    for h_0 in (h_prev, None):
        outputs, hidden_states = rnn.forward(X, h_0)
        first = np.zeros((H, 1)) if h_0 is None else h_0
        y, _ = layer(torch.tensor(X), torch.tensor(first.T))
        assert outputs.shape == (T, O, 1)
        assert hidden_states.shape == (T + 1, H, 1)
        np.testing.assert_array_equal(hidden_states[0], first)
        close("hidden_states", hidden_states[1:], y[:, :, None])
        close("outputs", outputs, y[:, :, None].new_tensor(rnn.W_ho) @ y[:, :, None] + torch.tensor(rnn.b_o))


def test_c1_weights_that_are_assigned_count():
    rnn = SimpleRNN(I, H, O)
    rnn.W_ho, rnn.b_o = np.zeros((O, H)), np.ones((O, 1))
    outputs, _ = rnn.forward(np.ones((T, I)))
    np.testing.assert_array_equal(outputs, np.ones((T, O, 1)))


def test_c4_every_gate_of_every_step_equals_torch(torch):
    lstm = SimpleLSTM(I, H)
    X = draw(lstm).standard_normal((T, I))
    assert [p.shape for p in (lstm.W_f, lstm.W_i, lstm.W_C, lstm.W_o)] == [(H, H + I)] * 4
    hidden_states, cell_states, all_gates = lstm.forward(X)
    assert (type(hidden_states), type(cell_states), type(all_gates)) == (list, list, list)
    assert len(hidden_states) == len(cell_states) == len(all_gates) == T
    zero = np.zeros((H, 1))
    weights, biases = (lstm.W_i, lstm.W_f, lstm.W_C, lstm.W_o), (lstm.b_i, lstm.b_f, lstm.b_C, lstm.b_o)
    for t in range(T):
        before = (hidden_states[t - 1], cell_states[t - 1]) if t else (zero, zero)
        h, c, gates = torch_lstm(torch, weights, biases, X[t][:, None], *before)
        close("h", hidden_states[t], h)
        close("C", cell_states[t], c)
        assert list(all_gates[t]) == ["forget", "input", "cell", "output"]
        h_step, c_step, of_step = lstm.forward_step(X[t][:, None], *before)
        close("h of a step", h_step, h)
        close("C of a step", c_step, c)
        for name, want in zip(("input", "forget", "cell", "output"), gates, strict=True):
            close(name, all_gates[t][name], want)
            close(f"{name} of a step", of_step[name], want)


def test_weights_that_are_assigned_must_fit():
    rnn, cell, lstm = SimpleRNN(I, H, O), SimpleRNN(I, H), LSTM(I, H)
    rnn.W_ho, cell.Whh, lstm.Wi = np.zeros((O, H + 1)), np.zeros((H, H + 1)), np.zeros((1, H + I))
    with pytest.raises(ValueError, match=r"the output layer's weight has shape \(3, 8\); expected \(3, 7\)"):
        rnn.forward(np.zeros((T, I)))
    with pytest.raises(ValueError, match=r"the weights have shapes \(7, 5\), \(7, 8\), \(7,\); expected"):
        cell.forward(np.zeros((I, 1)))
    with pytest.raises(ValueError, match=r"the weights have shapes \(22, 11\), \(22, 1\), \(28,\); expected"):
        lstm.forward(np.zeros((I, 1)), np.zeros((H, 1)), np.zeros((H, 1)))


def test_initial_weights_are_small_and_seeded():
    np.random.seed(4)
    rnn = SimpleRNN(I, H, O)
    np.random.seed(4)
    for got, shape in ((rnn.W_ih, (H, I)), (rnn.W_hh, (H, H)), (rnn.W_ho, (O, H))):
        np.testing.assert_array_equal(got, np.random.randn(*shape) * 0.01)
    assert not rnn.b_h.any()
    assert not rnn.b_o.any()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: SimpleRNN(I, H, O).forward(np.zeros((T, 2))), r"X has shape \(6, 2\); expected \(T, I\)"),
        (lambda: SimpleRNN(I, H, O).forward(np.zeros((0, I))), r"X has shape \(0, 5\); expected \(T, I\)"),
        (lambda: SimpleRNN(I, H).forward(np.zeros((2, 1))), r"X has shape \(2, 1\); expected \(n_x, m\) = \(5, 1\)"),
        (lambda: SimpleRNN(I, H).forward(np.zeros((I, 1)), np.zeros(H)), r"h_prev has shape \(7,\)"),
        (
            lambda: LSTM(I, H).forward(np.zeros((I, 1)), np.zeros((H, 1)), np.zeros((1, H))),
            r"c_prev has shape \(1, 7\)",
        ),
        (lambda: SimpleLSTM(I, H).forward(np.zeros((T, I, 2))), r"X has shape \(6, 5, 2\); expected \(T, I\)"),
        (lambda: SimpleLSTM(I, 0), "hidden_size is 0; expected an integer of at least 1"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
