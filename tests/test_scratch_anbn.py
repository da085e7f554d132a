"""The a^n b^n notebook's functions, rows H1 to H4 and H6, against torch's autograd and finite differences."""

from __future__ import annotations

import math

import numpy as np
import pytest
from tolerances import assert_close, tolerance

from fastrnn.scratch import anbn

H, V = 7, anbn.VOCAB_SIZE
RNN_SHAPES = [(H, V), (H, H), (V, H), (H, 1), (V, 1)]
LSTM_SHAPES = [*[(H, H + V)] * 4, (V, H), *[(H, 1)] * 4, (V, 1)]


def make(shapes, seed=0):
    """Parameters of size 1 over the root of what they sum, biases and states of size 1, and a sequence."""
    rng = np.random.default_rng(seed)
    params = tuple(rng.standard_normal(s) * (1.0 if s[1] == 1 else s[1] ** -0.5) for s in shapes)
    words = ["a", "a", "b", "b", "EOS"]
    inputs, targets = anbn.one_hot_encode_sequence(words[:-1]), anbn.one_hot_encode_sequence(words[1:])
    return params, inputs, targets, rng.standard_normal((H, 1)), rng.standard_normal((H, 1))


def close(name, got, want):
    want = want.detach().numpy() if hasattr(want, "detach") else want
    assert_close(name, got, want, tolerance(want, "float64", 4 * (5 * H + V + 2)))


def clipped(gradients, max_norm=0.25):
    norm = math.sqrt(sum(float((g**2).sum()) for g in gradients))
    return [g * min(1, max_norm / (norm + 1e-6)) for g in gradients]


def test_h1_sequences_are_a_n_b_n():
    sequences = anbn.generate_dataset(seed=0)
    np.random.seed(0)
    assert sequences == anbn.generate_dataset()
    counts = [sequence.count("a") for sequence in sequences]
    assert sequences == [["a"] * n + ["b"] * n + ["EOS"] for n in counts]
    assert len(sequences) == 256
    assert set(counts) == set(range(1, 12))
    assert anbn.WORD_TO_IDX == {"a": 0, "b": 1, "EOS": 2, "UNK": 3}


def test_h1_splits_and_targets():
    sequences = anbn.generate_dataset(100, seed=1)
    training, validation, test = anbn.create_datasets(sequences)
    assert (len(training), len(validation), len(test)) == (80, 10, 10)
    assert [*training, *validation, *test] == [(s[:-1], s[1:]) for s in sequences]
    assert training[3] == (sequences[3][:-1], sequences[3][1:])
    pairs = anbn.create_datasets(sequences, lambda inputs, targets: list(zip(inputs, targets, strict=True)))
    assert pairs[2] == list(test)
    assert len(anbn.create_datasets(sequences, p_test=0)[2]) == 0
    with pytest.raises(ValueError, match="expected shares that sum to at most 1"):
        anbn.create_datasets(sequences, p_train=0.95)


def test_h2_one_hot_columns():
    np.testing.assert_array_equal(anbn.one_hot_encode(2, 4), [0, 0, 1, 0])
    encoded = anbn.one_hot_encode_sequence(["b", "what"], 4)
    assert encoded.shape == (2, 4, 1)
    np.testing.assert_array_equal(encoded[:, :, 0], [[0, 1, 0, 0], [0, 0, 0, 1]])
    with pytest.raises(ValueError, match="idx is 4; expected 0 <= idx < vocab_size = 4"):
        anbn.one_hot_encode(4, 4)


@pytest.mark.parametrize("shape", [(5, 5), (3, 8), (8, 3)])
def test_h2_orthogonal_matrices(shape):
    np.random.seed(0)
    q = anbn.init_orthogonal(np.zeros(shape))
    assert q.shape == shape
    product = q @ q.T if shape[0] <= shape[1] else q.T @ q
    np.testing.assert_allclose(product, np.eye(min(shape)), atol=1e-14)
    np.random.seed(0)
    normal = np.random.randn(*shape)
    r = q.T @ normal if shape[0] >= shape[1] else q @ normal.T  # the R of the decomposition whose diagonal is positive
    assert (np.diag(r) > 0).all()
    np.testing.assert_allclose(np.tril(r, -1), 0, atol=1e-13)


def test_h2_only_matrices_are_orthogonal():
    with pytest.raises(ValueError, match=r"param has shape \(3,\); expected a matrix"):
        anbn.init_orthogonal(np.zeros(3))


def test_h2_gradients_are_clipped_together_in_place():
    grads = [np.full((2, 2), 3.0), np.full((1, 1), 4.0)]
    want = clipped([g.copy() for g in grads])
    assert anbn.clip_gradient_norm(grads) is grads
    for got, g in zip(grads, want, strict=True):
        np.testing.assert_allclose(got, g, rtol=1e-14)
    small = [np.full(2, 0.01)]
    np.testing.assert_array_equal(anbn.clip_gradient_norm(small)[0], [0.01, 0.01])


def test_h2_update_is_in_place():
    params = (np.ones(2), np.zeros(1))
    assert anbn.update_parameters(params, (np.array([1.0, 2.0]), np.array([3.0])), lr=0.5) is params
    np.testing.assert_array_equal(params[0], [0.5, 0])
    np.testing.assert_array_equal(params[1], [-1.5])


def torch_rnn(torch, inputs, h, p):
    U, V_, W, b_hidden, b_out = p
    states, logits = [], []
    for x in torch.tensor(inputs):
        h = torch.tanh(U @ x + V_ @ h + b_hidden)
        states.append(h)
        logits.append(W @ h + b_out)
    return states, torch.cat(logits, dim=1)


def test_h3_the_rnn_equals_torch(torch):
    params, inputs, targets, h_0, _ = make(RNN_SHAPES)
    assert [p.shape for p in anbn.init_rnn(H, V)] == RNN_SHAPES
    outputs, hidden_states = anbn.forward_pass(inputs, h_0, params)
    leaves = [torch.tensor(p, requires_grad=True) for p in params]
    states, logits = torch_rnn(torch, inputs, torch.tensor(h_0), leaves)
    for t in range(4):
        close("h", hidden_states[t], states[t])
        close("output", outputs[t], torch.softmax(logits[:, [t]], dim=0))
    total = torch.nn.functional.cross_entropy(logits.T, torch.tensor(targets.argmax(1)[:, 0]), reduction="sum")
    total.backward()
    loss, grads = anbn.backward_pass(inputs, outputs, hidden_states, targets, params)
    assert loss == pytest.approx(total.item() / V, rel=1e-13)
    for got, want in zip(grads, clipped([leaf.grad.numpy() for leaf in leaves]), strict=True):
        close("gradient", got, want)


def test_h3_states_in_another_list_start_from_zero(torch):
    params, inputs, targets, _, _ = make(RNN_SHAPES)
    outputs, hidden_states = anbn.forward_pass(inputs, np.zeros((H, 1)), params)
    _, want = anbn.backward_pass(inputs, outputs, hidden_states, targets, params)
    _, got = anbn.backward_pass(inputs, outputs, [h.copy() for h in hidden_states], targets, params)
    for left, right in zip(got, want, strict=True):
        np.testing.assert_array_equal(left, right)


def torch_lstm(torch, inputs, h, C, p):
    W_f, W_i, W_g, W_o, W_v, b_f, b_i, b_g, b_o, b_v = p
    kept = []
    for x in torch.tensor(inputs):
        z = torch.cat([h, x])
        f, i, o = (torch.sigmoid(W @ z + b) for W, b in ((W_f, b_f), (W_i, b_i), (W_o, b_o)))
        g = torch.tanh(W_g @ z + b_g)
        C = f * C + i * g
        h = o * torch.tanh(C)
        kept.append((z, f, i, g, C, o, h, W_v @ h + b_v))
    return [list(column) for column in zip(*kept, strict=True)]


def test_h4_the_lstm_equals_torch(torch):
    params, inputs, targets, h_0, C_0 = make(LSTM_SHAPES)
    assert [p.shape for p in anbn.init_lstm(H, V, H + V)] == LSTM_SHAPES
    kept = anbn.forward(inputs, h_0, C_0, params)
    z, f, i, g, C, o, h, v, outputs = kept
    leaves = [torch.tensor(p, requires_grad=True) for p in params]
    want = torch_lstm(torch, inputs, torch.tensor(h_0), torch.tensor(C_0), leaves)
    np.testing.assert_array_equal(C[0], C_0)
    np.testing.assert_array_equal(h[0], h_0)
    for got, of_torch in zip((z, f, i, g, C[1:], o, h[1:], v), want, strict=True):
        assert len(got) == 4
        for left, right in zip(got, of_torch, strict=True):
            close("kept", left, right)
    logits = torch.cat(want[-1], dim=1)
    close("outputs", np.concatenate(outputs, axis=1), torch.softmax(logits, dim=0))
    total = torch.nn.functional.cross_entropy(logits.T, torch.tensor(targets.argmax(1)[:, 0]), reduction="sum")
    total.backward()
    loss, grads = anbn.backward(*kept, targets, params)
    assert loss == pytest.approx(total.item() / V, rel=1e-13)
    for got, gradient in zip(grads, clipped([leaf.grad.numpy() for leaf in leaves]), strict=True):
        close("gradient", got, gradient)


def test_h4_backward_is_back_propagation_through_time():
    """Finite differences of the loss along every parameter; the norm of all says what was clipped."""
    params, inputs, targets, h_0, C_0 = make(LSTM_SHAPES)
    rng = np.random.default_rng(1)

    def loss_of(p):
        return anbn.backward(*anbn.forward(inputs, h_0, C_0, p), targets, p)

    _, grads = loss_of(params)
    ratios = []
    for k, p in enumerate(params):
        direction, step = rng.standard_normal(p.shape), 1e-5
        ahead, behind = (loss_of([*params[:k], p + sign * step * direction, *params[k + 1 :]])[0] for sign in (1, -1))
        ratios.append((ahead - behind) / (2 * step) * V / float((grads[k] * direction).sum()))
    np.testing.assert_allclose(ratios, ratios[0], rtol=1e-6)
    assert ratios[0] > 1  # clipped to a norm of 0.25
    assert math.sqrt(sum(float((g**2).sum()) for g in grads)) == pytest.approx(0.25, rel=1e-4)


def test_h6_freestyle_is_greedy_until_eos():
    params, _, _, _, _ = make(RNN_SHAPES)
    for shapes in (RNN_SHAPES, LSTM_SHAPES):
        params = make(shapes, seed=2)[0]
        words = ["a", "b", "what"]
        written = anbn.freestyle(params, "a b what", num_generate=5)
        assert written[:3] == words
        zero = np.zeros((H, 1))
        expected = list(words)
        for _ in range(5):  # the whole sentence anew for every word
            inputs = anbn.one_hot_encode_sequence(expected)
            outputs = anbn.forward_pass(inputs, zero, params)[0] if shapes is RNN_SHAPES else None
            outputs = outputs or anbn.forward(inputs, zero, zero, params)[-1]
            expected.append(anbn.IDX_TO_WORD[int(outputs[-1].argmax())])
            if expected[-1] == "EOS":
                break
        assert written == expected


def test_h6_freestyle_stops_at_eos_and_reads_empty_sentences():
    params = tuple(np.zeros(shape) for shape in RNN_SHAPES)
    params[4][anbn.WORD_TO_IDX["EOS"]] = 1
    assert anbn.freestyle(params, "a a") == ["a", "a", "EOS"]
    assert anbn.freestyle(params) == ["EOS"]
    assert anbn.freestyle(params, "a", num_generate=0) == ["a"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: anbn.freestyle((np.zeros(1),) * 3, "a"), "params has 3 arrays; expected 5, of init_rnn, or 10"),
        (lambda: anbn.freestyle((np.zeros(1),) * 5, "a", -1), "num_generate is -1; expected an integer of at least 0"),
        (
            lambda: anbn.forward_pass(make(RNN_SHAPES)[1], np.zeros((H, 1)), make(LSTM_SHAPES)[0]),
            "params has 10 arrays; expected 5, of init_rnn",
        ),
        (
            lambda: anbn.forward(make(RNN_SHAPES)[1], np.zeros((H, 1)), np.zeros((H, 1)), make(RNN_SHAPES)[0]),
            "p has 5 arrays; expected 10, of init_lstm",
        ),
        (lambda: anbn.init_lstm(H, V, H), r"z_size is 7; expected hidden_size \+ vocab_size = 11"),
        (lambda: anbn.forward_pass([], np.zeros((H, 1)), make(RNN_SHAPES)[0]), r"inputs has shape \(0,\); expected"),
        (
            lambda: anbn.forward(np.zeros((2, V)), np.zeros((H, 1)), np.zeros((H, 1)), make(LSTM_SHAPES)[0]),
            r"inputs has shape \(2, 4\); expected \(T, V, 1\)",
        ),
        (
            lambda: anbn.backward_pass(
                make(RNN_SHAPES)[1],
                *anbn.forward_pass(make(RNN_SHAPES)[1], np.zeros((H, 1)), make(RNN_SHAPES)[0]),
                make(RNN_SHAPES)[2][:2],
                make(RNN_SHAPES)[0],
            ),
            "targets has 2 steps; expected 4, as outputs",
        ),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(("network", "epochs", "lr"), [("rnn", 40, 3e-2), ("lstm", 25, 1e-1)])
def test_h5_training_as_in_the_notebook_learns(network, epochs, lr):
    """What can be predicted is: after the first b all is decided."""
    np.random.seed(42)
    training, validation, _ = anbn.create_datasets(anbn.generate_dataset(80))
    params = anbn.init_rnn(20) if network == "rnn" else anbn.init_lstm(20)
    zero = np.zeros((20, 1))

    def step(inputs, targets):
        x, y = anbn.one_hot_encode_sequence(inputs), anbn.one_hot_encode_sequence(targets)
        if network == "rnn":
            outputs, hidden_states = anbn.forward_pass(x, zero, params)
            return anbn.backward_pass(x, outputs, hidden_states, y, params)
        return anbn.backward(*anbn.forward(x, zero, zero, params), y, params)

    losses = []
    for _ in range(epochs):
        for inputs, targets in training:
            _, grads = step(inputs, targets)
            anbn.update_parameters(params, grads, lr=lr)
        losses.append(np.mean([step(inputs, targets)[0] for inputs, targets in validation]))
    assert losses[-1] < 0.6 * losses[0]
