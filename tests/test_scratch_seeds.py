"""The networks that fastrnn.scratch takes over from, written anew in plain NumPy: values, types, shapes, draws.

A notebook written against one of them has to find what it found. What is left to find is at the end, each difference in
a test of its own, in the order of "Where the numbers differ" in docs/from/course.md.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

import fastrnn
from fastrnn import scratch
from fastrnn.scratch import anbn, blog, course

V, A, T = 6, 7, 5
TOKENS = [3, 0, 5, 1, 1]
CLOSE = {"rtol": 1e-11, "atol": 1e-13}


def sigma(x):
    return 1 / (1 + np.exp(-x))


def one_hot(index, size=V):
    x = np.zeros((size, 1))
    if index is not None:
        x[index] = 1
    return x


def large(parameters, seed=0):
    """The same parameters with values of size 1: at 0.01 nothing differs from anything."""
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(p.shape) * (0.5 if p.shape[1] > 1 else 1.0) for name, p in parameters.items()}


def rnn_step(x, a, p):
    z = p["Wax"] @ x + p["Waa"] @ a + p["ba"]
    return np.tanh(z), z, p["Wya"] @ np.tanh(z) + p["by"]


def lstm_step(x, a, c, p):
    """The new states, the gates f, i, candidate, o, and the logits."""
    column = np.vstack([a, x])
    f, i, o = (sigma(p["W" + g] @ column + p["b" + g]) for g in "fio")
    g = np.tanh(p["Wc"] @ column + p["bc"])
    c = f * c + i * g
    a = o * np.tanh(c)
    return a, c, (f, i, g, o), p["Wy"] @ a + p["by"]


def same(got, want):
    np.testing.assert_allclose(got, want, **CLOSE)
    assert got.dtype == np.float64
    assert got.shape == want.shape


# --- the character models: S1 to S18


def test_s1_s6_draws():
    rnn, lstm = scratch.initialize_rnn_parameters(A, V, 4), scratch.initialize_lstm_parameters(A, V, 4, seed=9)
    np.random.seed(1)
    for name, shape in (("Wax", (A, V)), ("Waa", (A, A)), ("Wya", (4, A))):
        np.testing.assert_array_equal(rnn[name], np.random.randn(*shape) * 0.01)
    np.random.seed(9)
    for name in ("Wf", "Wi", "Wc", "Wo"):
        np.testing.assert_array_equal(lstm[name], np.random.randn(A, A + V) * 0.01)
    np.testing.assert_array_equal(lstm["Wy"], np.random.randn(4, A) * 0.01)
    assert list(rnn) == ["Wax", "Waa", "Wya", "ba", "by"]
    assert list(lstm) == ["Wf", "bf", "Wi", "bi", "Wc", "bc", "Wo", "bo", "Wy", "by"]
    for parameters in (rnn, lstm):
        assert all(type(p) is np.ndarray and p.flags.writeable and p.dtype == np.float64 for p in parameters.values())
        assert not any(p.any() for name, p in parameters.items() if name.startswith("b"))


def test_s2_s4_a_step_of_the_rnn():
    p, rng = large(scratch.initialize_rnn_parameters(A, V, V)), np.random.default_rng(1)
    x, a_prev, da = rng.standard_normal((V, 3)), rng.standard_normal((A, 3)), rng.standard_normal((A, 3))
    a_next, z_y, z, cache = scratch.rnn_cell_step(x, a_prev, p)
    want_a, want_z, want_logits = rnn_step(x, a_prev, p)
    for got, want in ((a_next, want_a), (z, want_z), (z_y, want_logits)):
        same(got, want)
    for taken in (cache, (want_a, a_prev, x, want_z, p)):
        gradients, da_prev = scratch.rnn_step_backward(da, taken)
        dz = da * (1 - want_a**2)
        assert list(gradients) == ["dWax", "dWaa", "dba"]
        same(gradients["dWax"], dz @ x.T)
        same(gradients["dWaa"], dz @ a_prev.T)
        same(gradients["dba"], dz.sum(1, keepdims=True))
        same(da_prev, p["Waa"].T @ dz)


def test_s3_s5_a_sequence_of_the_rnn():
    p, rng = large(scratch.initialize_rnn_parameters(A, V, V)), np.random.default_rng(2)
    a0, da, indices = rng.standard_normal((A, 1)), rng.standard_normal((A, 1, T)), [None, *TOKENS[1:]]
    cache = a, x, logits, z_t = scratch.rnn_forward(indices, a0, p)
    assert isinstance(a, dict)
    assert type(x) is dict
    assert type(z_t) is list
    assert list(a) == [-1, *range(T)]
    assert list(x) == list(range(T))
    same(a[-1], a0)
    assert logits.shape == (V, T)
    for t, index in enumerate(indices):
        same(x[t], one_hot(index))
        want = rnn_step(x[t], a[t - 1], p)
        for got, each in zip((a[t], z_t[t], logits[:, [t]]), want, strict=True):
            same(got, each)

    gradients, states = scratch.rnn_backward(da, p, cache)
    assert states is a
    want = {name: np.zeros_like(p[name]) for name in ("Wax", "Waa", "ba")}
    later = np.zeros((A, 1))
    for t in reversed(range(T)):
        dz = (da[:, :, t] + later) * (1 - a[t] ** 2)
        want["Wax"] += dz @ x[t].T
        want["Waa"] += dz @ a[t - 1].T
        want["ba"] += dz
        later = p["Waa"].T @ dz
    assert list(gradients) == ["dWax", "dWaa", "dba"]
    for name, each in want.items():
        same(gradients["d" + name], each)


def lstm_back(da, dc, a_prev, c_prev, x, p):
    """The gradients of a step: those of dxt, da_prev, dc_prev, and of the parameters."""
    _, c, (f, i, g, o), _ = lstm_step(x, a_prev, c_prev, p)
    dc = dc + da * o * (1 - np.tanh(c) ** 2)
    of = {"f": dc * c_prev * f * (1 - f), "i": dc * g * i * (1 - i), "c": dc * i * (1 - g**2)}
    of["o"] = da * np.tanh(c) * o * (1 - o)
    column = np.vstack([a_prev, x])
    back = sum(p["W" + gate].T @ d for gate, d in of.items())
    found = {"dxt": back[A:], "da_prev": back[:A], "dc_prev": dc * f}
    for gate, d in of.items():
        found |= {f"dW{gate}": d @ column.T, f"db{gate}": d.sum(1, keepdims=True)}
    return found


OF_GATES = ["dWf", "dbf", "dWi", "dbi", "dWc", "dbc", "dWo", "dbo"]


def test_s7_s9_a_step_of_the_lstm():
    p, rng = large(scratch.initialize_lstm_parameters(A, V, V)), np.random.default_rng(3)
    x, a_prev, c_prev, da, dc = (rng.standard_normal((n, 3)) for n in (V, A, A, A, A))
    a_next, c_next, logits, cache = scratch.lstm_cell_step(x, a_prev, c_prev, p)
    a, c, (f, i, g, o), want_logits = lstm_step(x, a_prev, c_prev, p)
    same(logits, want_logits)
    assert type(cache) is tuple
    assert len(cache) == 10
    assert cache[9] is p
    for got, want in zip((a_next, c_next, *cache), (a, c, a, c, a_prev, c_prev, f, i, g, o, x), strict=False):
        same(got, want)
    gradients = scratch.lstm_step_backward(da, dc, cache)
    assert list(gradients) == ["dxt", "da_prev", "dc_prev", *OF_GATES]
    for name, want in lstm_back(da, dc, a_prev, c_prev, x, p).items():
        same(gradients[name], want)


def test_s8_s10_a_sequence_of_the_lstm():
    p, rng = large(scratch.initialize_lstm_parameters(A, V, V)), np.random.default_rng(4)
    a0, da = rng.standard_normal((A, 1)), rng.standard_normal((A, 1, T))
    a, logits, caches = scratch.lstm_forward(np.array(TOKENS), a0, p)
    assert a.shape == (A, 1, T)
    assert logits.shape == (V, 1, T)
    assert len(caches) == T
    before, c = [(a0, np.zeros((A, 1)))], np.zeros((A, 1))
    for t, index in enumerate(TOKENS):
        a_t, c, gates, logits_t = lstm_step(one_hot(index), before[-1][0], c, p)
        same(a[:, :, t], a_t)
        same(logits[:, :, t], logits_t)
        for got, want in zip(caches[t], (a_t, c, *before[-1], *gates, one_hot(index)), strict=False):
            same(got, want)
        assert caches[t][9] is p
        before.append((a_t, c))

    gradients = scratch.lstm_backwards(da, caches)
    assert list(gradients) == ["dx", "da0", *OF_GATES]
    total, da_later, dc = dict.fromkeys(OF_GATES, 0.0), np.zeros((A, 1)), np.zeros((A, 1))
    for t in reversed(range(T)):
        found = lstm_back(da[:, :, t] + da_later, dc, *before[t], one_hot(TOKENS[t]), p)
        same(gradients["dx"][:, :, t], found["dxt"])
        total = {name: total[name] + found[name] for name in OF_GATES}
        da_later, dc = found["da_prev"], found["dc_prev"]
    same(gradients["da0"], da_later)
    for name, want in total.items():
        same(gradients[name], want)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_s11_s12_s13_losses_and_the_output_layer(reduction):
    rng = np.random.default_rng(5)
    logits, a, wy = rng.standard_normal((V, 1, T)), rng.standard_normal((A, 1, T)), rng.standard_normal((V, A))
    p = np.exp(logits) / np.exp(logits).sum(0)
    share = T if reduction == "mean" else 1
    each = -np.log([p[token, 0, t] for t, token in enumerate(TOKENS)])
    dy = (p - np.hstack([one_hot(token) for token in TOKENS])[:, None]) / share
    for shaped in (logits, logits[:, 0]):
        loss, got = scratch.compute_loss_and_grad(shaped, TOKENS, reduction=reduction)
        np.testing.assert_allclose(loss, each.sum() / share, **CLOSE)
        same(got, dy)
    np.testing.assert_allclose(scratch.cross_entropy_loss(logits, TOKENS), each.mean(), **CLOSE)
    same(scratch.cross_entropy_loss_grad_from_logits(logits, TOKENS), dy * share / T)
    same(scratch.project_logit_grad_to_hidden(dy, wy), np.einsum("yt,ya->at", dy[:, 0], wy)[:, None])
    for states in (a, {-1: a[:, :, 0], **{t: a[:, :, t] for t in range(T)}}):
        found = scratch.compute_output_layer_gradients(dy, states)
        assert list(found) == ["dWy", "dWya", "dby"]
        same(found["dWy"], dy[:, 0] @ a[:, 0].T)
        same(found["dWya"], dy[:, 0] @ a[:, 0].T)
        same(found["dby"], dy[:, 0].sum(1, keepdims=True))


def test_s13_small_functions():
    rng = np.random.default_rng(6)
    z = rng.standard_normal((V, 3))
    same(scratch.softmax(z), np.exp(z) / np.exp(z).sum(0))
    same(scratch.sigmoid(z), sigma(z))
    assert scratch.smooth(2.0, 3.0) == 2.0 * 0.999 + 3.0 * 0.001
    assert scratch.get_initial_loss(27, 10) == pytest.approx(10 * np.log(27))
    gradients = {"dWf": z * 9}
    same(scratch.clip(gradients, 5)["dWf"], np.clip(z * 9, -5, 5))
    assert scratch.clip(gradients, 5)["dWf"] is not gradients["dWf"]
    assert scratch.get_sample([1, 0], {0: "a", 1: "b"}) == "Ba"
    padded = scratch.pad_sequences([[1, 2, 3], [4]])
    assert padded.dtype == np.int32
    assert padded.tolist() == [[1, 2, 3], [4, 0, 0]]
    assert scratch.pad_sequences([[1, 2, 3], [4]], padding="pre", value=7).tolist() == [[1, 2, 3], [7, 7, 4]]

    logits = rng.standard_normal((V, 1))
    p = (np.exp(logits) / np.exp(logits).sum()).ravel()
    drawn = []
    for seed in range(50):
        drawn.append(scratch.sample_from_logits(logits, seed=seed))
        np.random.seed(seed)
        assert drawn[-1] == np.random.choice(range(V), p=p)
    assert len(set(drawn)) > 2
    scratch.set_random_seed(3)
    after = np.random.rand()
    np.random.seed(3)
    assert after == np.random.rand()


def test_s14_activations():
    x = np.random.default_rng(7).standard_normal((4, 1))
    s = np.exp(x) / np.exp(x).sum()
    same(scratch.LinearActivation.forward(x), x)
    same(scratch.LinearActivation.backward(x), np.ones((4, 1)))
    same(scratch.SigmoidActivation.forward(x), sigma(x))
    same(scratch.SigmoidActivation.backward(x), x * (1 - x))  # of the output
    same(scratch.TanhActivation.forward(x), np.tanh(x))
    same(scratch.TanhActivation.backward(x), 1 - np.tanh(x) ** 2)  # of the input
    same(scratch.SoftmaxActivation.forward(x), s)
    same(scratch.SoftmaxActivation.backward(s), np.diagflat(s) - s @ s.T)
    for name in ("Linear", "Sigmoid", "Softmax", "Tanh"):
        assert getattr(scratch, name) is getattr(scratch, name + "Activation")


class Rules:
    """What the four optimizers add to a parameter, for a gradient and the rate of that step."""

    def __init__(self):
        self.m, self.v, self.t = 0.0, 0.0, 0

    def sgd(self, g, rate):
        return -rate * g

    def momentum(self, g, rate):
        self.m = 0.9 * self.m - rate * g
        return self.m

    def rmsprop(self, g, rate):
        self.v = 0.9 * self.v + 0.1 * g**2
        return -rate * g / (np.sqrt(self.v) + 1e-8)

    def adam(self, g, rate):
        self.t += 1
        self.m, self.v = 0.9 * self.m + 0.1 * g, 0.999 * self.v + 0.001 * g**2
        return -rate * self.m / (1 - 0.9**self.t) / (np.sqrt(self.v / (1 - 0.999**self.t)) + 1e-8)


@pytest.mark.parametrize(
    ("name", "rule", "default"),
    [("SGD", "sgd", 0.01), ("Momentum", "momentum", 0.01), ("RMSProp", "rmsprop", 0.01), ("Adam", "adam", 0.001)],
)
@pytest.mark.parametrize("call", ["update", "apply_gradients"])
def test_s15_optimizers_with_their_defaults_and_a_rate_that_changes(name, rule, default, call):
    rng = np.random.default_rng(8)
    optimizer = getattr(scratch, name + "Optimizer")()
    assert optimizer.learning_rate == default
    parameters = {"Wax": rng.standard_normal((3, 2)), "ba": rng.standard_normal((3, 1))}
    want, rules = {name: p.copy() for name, p in parameters.items()}, {name: Rules() for name in parameters}
    for step in range(6):
        if step == 3:
            optimizer.learning_rate = 0.3 * default
        gradients = {"d" + name: rng.standard_normal(p.shape) for name, p in parameters.items()}
        if call == "update":
            assert optimizer.update(parameters, gradients | {"dWya": None}) is parameters
        else:
            optimizer.apply_gradients([(gradients["d" + name], p) for name, p in parameters.items()])
        for name, p in want.items():
            p += getattr(rules[name], rule)(gradients["d" + name], optimizer.learning_rate)
    for name, p in want.items():
        np.testing.assert_allclose(parameters[name], p, rtol=1e-9, atol=1e-12)


def test_s16_tokenizer():
    tokenizer = scratch.CharTokenizer()
    tokenizer.fit(["ba", "na\n"])
    assert tokenizer.get_vocab() == ["<UNK>", "\n", " ", "a", "b", "n"]
    assert tokenizer.char_to_ix == {"<UNK>": 0, "\n": 1, " ": 2, "a": 3, "b": 4, "n": 5}
    assert tokenizer.ix_to_char == {index: each for each, index in tokenizer.char_to_ix.items()}
    assert (tokenizer.oov_index, tokenizer.oov_token, tokenizer.vocab_size()) == (0, "<UNK>", 6)
    assert tokenizer.texts_to_sequences(["ban", "x"]) == [4, 3, 5, 2, 0]
    assert tokenizer.sequences_to_texts([4, 3, 5, 0, 99]) == "ban<UNK><UNK>"
    without = scratch.CharTokenizer(oov_token=None)
    without.fit("ba")
    assert (without.get_vocab(), without.oov_index) == (["a", "b"], None)


def test_s17_data(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "dinos.txt").write_text("Abc\nCab\nBb\n")
    monkeypatch.chdir(tmp_path)
    corpus, tokenizer, X, Y = scratch.load_dataset("dinos", mode="line_by_line")
    assert corpus == "abc\ncab\nbb\n"
    assert tokenizer.get_vocab() == ["\n", "a", "b", "c"]
    assert X.dtype == Y.dtype == object
    assert list(X) == [[1, 2, 3], [3, 1, 2], [2, 2]]
    assert list(Y) == [[2, 3, 0], [1, 2, 0], [2, 0]]
    corpus, tokenizer, X, Y = scratch.load_dataset("dinos", seq_length=4, lowercase=False)
    assert tokenizer.get_vocab() == sorted(set("Abc\nCab\nBb\n"))
    whole = tokenizer.texts_to_sequences(corpus)
    assert X.shape == Y.shape == (len(whole) - 4, 4)
    assert X.tolist() == [whole[k : k + 4] for k in range(len(whole) - 4)]
    assert Y.tolist() == [whole[k + 1 : k + 5] for k in range(len(whole) - 4)]
    assert scratch.one_hot_encode([1, 0], 3).tolist() == [[0, 1], [1, 0], [0, 0]]
    assert scratch.load_text("data/dinos.txt") == "Abc\nCab\nBb\n"


def test_s17_batches_are_shuffled_by_the_global_generator():
    X = np.arange(20).reshape(10, 2)
    np.random.seed(11)
    dataset = scratch.TextDataset(X, X + 1, batch_size=4)
    assert len(dataset) == 3
    found = [[batch.tolist() for batch in pair] for _ in range(2) for pair in dataset]
    np.random.seed(11)
    order, want = np.arange(10), []
    for _ in range(2):
        np.random.shuffle(order)
        want += [[X[order[k : k + 4]].tolist(), (X[order[k : k + 4]] + 1).tolist()] for k in range(0, 10, 4)]
    assert found == want


@pytest.mark.parametrize("model", ["rnn", "lstm"])
def test_s18_text_without_a_start(model):
    tokenizer = scratch.CharTokenizer(None).fit("abcd\n")
    size = tokenizer.vocab_size()
    p = large(getattr(scratch, f"initialize_{model}_parameters")(A, size, size), seed=12)
    write = scratch.generate_text if model == "rnn" else scratch.generate_text_lstm
    for seed in range(5):
        got = write(p, tokenizer, temperature=0.7, max_length=30, seed=seed)
        np.random.seed(seed)
        a, c, x, text = np.zeros((A, 1)), np.zeros((A, 1)), np.zeros((size, 1)), ""
        while len(text) < 30 and not text.endswith("\n"):
            if model == "rnn":
                a, _, logits = rnn_step(x, a, p)
            else:
                a, c, _, logits = lstm_step(x, a, c, p)
            chances = np.exp(logits / 0.7) / np.exp(logits / 0.7).sum()
            index = np.random.choice(range(size), p=chances.ravel())
            text, x = text + tokenizer.ix_to_char[index], one_hot(index, size)
        assert got == text
    assert write(p, tokenizer, max_length=30) == write(p, tokenizer, max_length=30)  # seed=0: the same each time
    assert len({write(p, tokenizer, max_length=30, seed=None) for _ in range(9)}) > 1


# --- the course: C1, C4


def test_c1_the_courses_rnn():
    np.random.seed(13)
    rnn = course.SimpleRNN(input_size=2, hidden_size=3, output_size=4)
    np.random.seed(13)
    for got, shape in ((rnn.W_ih, (3, 2)), (rnn.W_hh, (3, 3)), (rnn.W_ho, (4, 3))):
        np.testing.assert_array_equal(got, np.random.randn(*shape) * 0.01)
    assert rnn.hidden_size == 3
    rng = np.random.default_rng(13)
    for name in ("W_ih", "W_hh", "b_h", "W_ho", "b_o"):
        setattr(rnn, name, rng.standard_normal(getattr(rnn, name).shape))
    X, h = rng.standard_normal((T, 2)), rng.standard_normal((3, 1))
    outputs, hidden_states = rnn.forward(X, h)
    assert (type(outputs), type(hidden_states)) == (np.ndarray, np.ndarray)
    assert (outputs.shape, hidden_states.shape) == ((T, 4, 1), (T + 1, 3, 1))
    same(hidden_states[0], h)
    for t in range(T):
        h = np.tanh(rnn.W_ih @ X[t][:, None] + rnn.W_hh @ h + rnn.b_h)
        same(hidden_states[t + 1], h)
        same(outputs[t], rnn.W_ho @ h + rnn.b_o)
    single = course.SimpleRNN(1, 3, 1)
    for shaped in (X[:, :1], X[:, :1, None]):
        for got, want in zip(single.forward(shaped), single.forward(X[:, 0]), strict=True):
            np.testing.assert_array_equal(got, want)


def test_c4_the_courses_lstm():
    np.random.seed(14)
    lstm = course.SimpleLSTM(input_size=2, hidden_size=3)
    np.random.seed(14)
    for name in ("W_f", "W_i", "W_C", "W_o"):
        np.testing.assert_array_equal(getattr(lstm, name), np.random.randn(3, 5) * 0.01)
    rng = np.random.default_rng(14)
    for name in ("W_f", "b_f", "W_i", "b_i", "W_C", "b_C", "W_o", "b_o"):
        setattr(lstm, name, rng.standard_normal(getattr(lstm, name).shape))
    X = rng.standard_normal((T, 2))
    found = lstm.forward(X)
    assert [(type(each), len(each)) for each in found] == [(list, T)] * 3
    h, c = np.zeros((3, 1)), np.zeros((3, 1))
    names = {"f": "f", "i": "i", "c": "C", "o": "o"}
    p = {f"{kind}{g}": getattr(lstm, f"{kind}_{name}") for g, name in names.items() for kind in "Wb"}
    p |= {"Wy": np.zeros((1, 3)), "by": np.zeros((1, 1))}
    for t in range(T):
        step = lstm.forward_step(X[t].reshape(-1, 1), h, c)
        h, c, gates, _ = lstm_step(X[t][:, None], h, c, p)
        for got_h, got_c, got in ((found[0][t], found[1][t], found[2][t]), step):
            same(got_h, h)
            same(got_c, c)
            assert list(got) == ["forget", "input", "cell", "output"]
            for gate, want in zip(got.values(), gates, strict=True):
                same(gate, want)
    assert np.hstack(found[0]).T.shape == np.hstack([gates["cell"] for gates in found[2]]).T.shape == (T, 3)
    same(lstm.sigmoid(X), sigma(X))


# --- the blog and the notebook: H3, H4, H7


def test_h7_the_blogs_classes():
    np.random.seed(15)
    rnn, either = blog.SimpleRNN(2, 3), scratch.SimpleRNN(2, 3)
    np.random.seed(15)
    for each in (rnn, either):
        np.testing.assert_array_equal(each.Wxh, np.random.randn(3, 2))
        np.testing.assert_array_equal(each.Whh, np.random.randn(3, 3))
        assert not each.bh.any()
    rng = np.random.default_rng(15)
    x, h, c = rng.standard_normal((2, 1)), rng.standard_normal((3, 1)), rng.standard_normal((3, 1))
    same(rnn.forward(x, h), np.tanh(rnn.Wxh @ x + rnn.Whh @ h + rnn.bh))
    lstm = blog.LSTM(2, 3)
    for name, p in vars(lstm).items():
        if isinstance(p, np.ndarray):
            setattr(lstm, name, rng.standard_normal(p.shape))
    want = lstm_step(x, h, c, {**vars(lstm), "Wy": np.zeros((1, 3)), "by": np.zeros((1, 1))})
    for got, each in zip(lstm.forward(x, h, c), want[:2], strict=True):
        same(got, each)
    tokens = blog.encode(["a", "b", "b", "EOS"])
    assert type(tokens) is np.ndarray
    assert (tokens == [0, 1, 1, 2]).all()


def notebooks_loss(outputs, targets):
    return sum(-np.mean(np.log(output) * target) for output, target in zip(outputs, targets, strict=True))


def clipped(gradients):
    norm = np.sqrt(sum((g**2).sum() for g in gradients))
    return [g * min(1.0, 0.25 / (norm + 1e-6)) for g in gradients]


def test_h3_the_notebooks_rnn():
    np.random.seed(16)
    params = anbn.init_rnn(3, 4)
    np.random.seed(16)
    for got, shape in zip(params, ((3, 4), (3, 3), (4, 3)), strict=False):
        np.testing.assert_array_equal(got, anbn.init_orthogonal(np.zeros(shape)))
    assert [p.shape for p in params] == [(3, 4), (3, 3), (4, 3), (3, 1), (4, 1)]
    U, V_, W, b_hidden, b_out = params
    inputs, targets = (anbn.one_hot_encode_sequence(list(words)) for words in ("aab", "abb"))
    outputs, states = anbn.forward_pass(inputs, np.full((3, 1), 0.3), params)
    assert isinstance(outputs, list)
    assert isinstance(states, list)
    h, dlogits = np.full((3, 1), 0.3), []
    before = [h]
    for t in range(3):
        h = np.tanh(U @ inputs[t] + V_ @ h + b_hidden)
        out = np.exp(W @ h + b_out) / np.exp(W @ h + b_out).sum()
        same(states[t], h)
        same(outputs[t], out)
        before.append(h)
        dlogits.append(out - targets[t])
    loss, grads = anbn.backward_pass(inputs, outputs, states, targets, params)
    assert loss == pytest.approx(notebooks_loss(outputs, targets))
    want = [np.zeros_like(p) for p in params]
    later = np.zeros((3, 1))
    for t in reversed(range(3)):
        df = (W.T @ dlogits[t] + later) * (1 - before[t + 1] ** 2)
        parts = df @ inputs[t].T, df @ before[t].T, dlogits[t] @ before[t + 1].T, df, dlogits[t]
        for total, part in zip(want, parts, strict=True):
            total += part
        later = V_.T @ df
    assert type(grads) is tuple
    for got, each in zip(grads, clipped(want), strict=True):
        same(got, each)


def test_h4_the_notebooks_lstm():
    params = anbn.init_lstm(A, 4, A + 4)
    assert [p.shape for p in params] == [(A, A + 4)] * 4 + [(4, A)] + [(A, 1)] * 4 + [(4, 1)]
    W_f, W_i, W_g, W_o, W_v, b_f, b_i, b_g, b_o, b_v = params
    p = {"Wf": W_f, "Wi": W_i, "Wc": W_g, "Wo": W_o, "bf": b_f, "bi": b_i, "bc": b_g, "bo": b_o, "Wy": W_v, "by": b_v}
    inputs, targets = (anbn.one_hot_encode_sequence(list(words)) for words in ("aab", "abb"))
    h, c = np.full((A, 1), 0.3), np.full((A, 1), -0.4)
    found = anbn.forward(inputs, h, c, params)
    assert [(type(each), len(each)) for each in found] == [(list, n) for n in (3, 3, 3, 3, 4, 3, 4, 3, 3)]
    before, dlogits = [(h, c)], []
    same(found[6][0], h)
    same(found[4][0], c)
    for t in range(3):
        column = np.vstack([h, inputs[t]])
        h, c, (f, i, g, o), v = lstm_step(inputs[t], h, c, p)
        out = np.exp(v) / np.exp(v).sum()
        wanted = (column, f, i, g, c, o, h, v, out)
        for each, (steps, want) in enumerate(zip(found, wanted, strict=True)):
            same(steps[t + (each in (4, 6))], want)
        before.append((h, c))
        dlogits.append(out - targets[t])
    loss, grads = anbn.backward(*found, targets, params)
    assert loss == pytest.approx(notebooks_loss(found[-1], targets))
    total = {name: np.zeros_like(each) for name, each in p.items()}
    da, dc = np.zeros((A, 1)), np.zeros((A, 1))
    for t in reversed(range(3)):
        step = lstm_back(W_v.T @ dlogits[t] + da, dc, *before[t], inputs[t], p)
        step |= {"dWy": dlogits[t] @ before[t + 1][0].T, "dby": dlogits[t]}
        for name, each in total.items():
            each += step["d" + name]
        da, dc = step["da_prev"], step["dc_prev"]
    order = ("Wf", "Wi", "Wc", "Wo", "Wy", "bf", "bi", "bc", "bo", "by")
    for got, want in zip(grads, clipped([total[name] for name in order]), strict=True):
        same(got, want)


def test_h1_sequences_are_drawn_one_after_another():
    np.random.seed(42)
    found = anbn.generate_dataset(2**8)
    np.random.seed(42)
    assert [sequence.count("a") for sequence in found] == [np.random.randint(1, 12) for _ in range(2**8)]


# --- one name, one meaning


def test_star_import_hides_no_name_of_fastrnn_and_mixes_no_two_seeds():
    assert not set(scratch.__all__) & set(fastrnn.__all__)
    assert scratch.LSTM is blog.LSTM
    assert scratch.SimpleRNN is course.SimpleRNN
    assert issubclass(blog.SimpleRNN, course.SimpleRNN)
    of_the_notebook = set(anbn.__all__) & set(scratch.__all__)
    assert of_the_notebook == {"one_hot_encode"}
    assert scratch.one_hot_encode is not anbn.one_hot_encode


# --- where the numbers differ


def test_differs_the_lstms_gradients_are_its_derivatives():
    p, rng = large(scratch.initialize_lstm_parameters(A, V, V)), np.random.default_rng(20)
    da = rng.standard_normal((A, 1, T))
    found = scratch.lstm_backwards(da, scratch.lstm_forward(TOKENS, np.zeros((A, 1)), p)[2])
    for name in ("Wc", "bc", "Wi"):
        moved = {key: each.copy() for key, each in p.items()}
        sums = []
        for step in (1e-6, -2e-6):
            moved[name][1, 0] += step
            sums.append((scratch.lstm_forward(TOKENS, np.zeros((A, 1)), moved)[0] * da).sum())
        assert found["d" + name][1, 0] == pytest.approx((sums[0] - sums[1]) / 2e-6, rel=1e-6)
    *_, cache = scratch.lstm_cell_step(one_hot(0), np.zeros((A, 1)), np.zeros((A, 1)), p)
    _, c, _, _, _, i, g, o, *_ = cache
    dc = o * (1 - np.tanh(c) ** 2)
    got = scratch.lstm_step_backward(np.ones((A, 1)), np.zeros((A, 1)), cache)["dbc"]
    same(got, dc * i * (1 - g**2))
    assert np.abs(got - dc * i * (1 - np.tanh(g) ** 2)).max() > 0.01  # the original's


def test_differs_the_bias_of_a_batch_is_summed():
    p, rng = large(scratch.initialize_rnn_parameters(A, V, V)), np.random.default_rng(21)
    *_, cache = scratch.rnn_cell_step(rng.standard_normal((V, 3)), np.zeros((A, 3)), p)
    assert len(cache) == 5  # with z, so that rnn_step_backward takes it
    assert scratch.rnn_step_backward(np.ones((A, 3)), cache)[0]["dba"].shape == (A, 1)  # the original's: (A, 3)


def test_differs_softmax_sums_over_the_first_axis():
    z = np.random.default_rng(22).standard_normal((V, 3, T))
    np.testing.assert_allclose(scratch.softmax(z).sum(0), np.ones((3, T)))
    assert scratch.Softmax.backward(scratch.softmax(z[..., 0])).shape == (V, V, 3)  # the original's: (3V, 3V)


def test_differs_nothing_is_added_within_logarithms_and_activations():
    logits = np.zeros((2, 1, 1))
    loss, _ = scratch.compute_loss_and_grad(logits, [0])
    assert loss == np.log(2)
    assert loss != -np.log(0.5 + 1e-9)
    assert scratch.sigmoid(np.zeros(1))[0] == 0.5
    assert sigma(1e-12) != 0.5  # the notebook's
    assert (scratch.sigmoid(np.array([-1e4, 1e4])) == [0, 1]).all()  # without a warning


def test_differs_text_reads_its_start_once():
    tokenizer = scratch.CharTokenizer(None).fit("ab\n")
    p = large(scratch.initialize_rnn_parameters(A, 3, 3), seed=3)
    a, b = (one_hot(tokenizer.char_to_ix[each], 3) for each in "ab")
    state, _, logits = rnn_step(b, rnn_step(a, np.zeros((A, 1)), p)[0], p)
    _, _, twice = rnn_step(b, state, p)  # the original reads the last character again
    assert np.abs(twice - logits).max() > 0.1
    want = tokenizer.ix_to_char[scratch.sample_from_logits(logits, seed=0)]
    assert scratch.generate_text(p, tokenizer, "ab", max_length=1) == "ab" + want
    assert (
        scratch.generate_text(p, tokenizer, "ab", temperature=0, max_length=1)[2]
        == tokenizer.ix_to_char[int(logits.argmax())]
    )


def test_differs_the_notebooks_gradients_go_through_time_from_the_initial_state():
    params = anbn.init_rnn(3, 4)
    inputs, targets = (anbn.one_hot_encode_sequence(list(words)) for words in ("a", "b"))
    outputs, states = anbn.forward_pass(inputs, np.zeros((3, 1)), params)
    _, grads = anbn.backward_pass(inputs, outputs, states, targets, params)
    assert not grads[1].any()  # of V, before the first step: the state of index -1 would be the last one's
    params = anbn.init_lstm(A, 4)
    inputs, targets = (anbn.one_hot_encode_sequence(list(words)) for words in ("ab", "bb"))
    found = anbn.forward(inputs, np.zeros((A, 1)), np.zeros((A, 1)), params)
    _, grads = anbn.backward(*found, targets, params)
    p = dict(zip(("Wf", "Wi", "Wc", "Wo", "Wy", "bf", "bi", "bc", "bo", "by"), params, strict=True))
    alone = [
        lstm_back(params[4].T @ (found[8][t] - targets[t]), 0, found[6][t], found[4][t], inputs[t], p)["dWc"]
        for t in range(2)
    ]
    direction = sum(alone) / np.linalg.norm(sum(alone))
    assert np.abs(grads[2] / np.linalg.norm(grads[2]) - direction).max() > 1e-3  # nothing from later steps


def test_differs_freestyle_writes_as_many_words_as_asked_and_reads_them():
    np.random.seed(0)
    params = anbn.init_rnn(50)
    params[4][anbn.WORD_TO_IDX["EOS"]] = -10.0  # which would end it
    written = anbn.freestyle(params, "a a b", num_generate=4)
    assert len(written) == 3 + 4  # the notebook's: one more
    assert anbn.freestyle(params, "", num_generate=0) == []  # the notebook's: [""] and a word
    h = anbn.forward_pass(anbn.one_hot_encode_sequence(["a", "a", "b"]), np.zeros((50, 1)), params)
    again, _ = anbn.forward_pass(anbn.one_hot_encode_sequence([written[3]]), h[1][-1], params)
    assert written[4] == anbn.IDX_TO_WORD[int(again[0].argmax())]


def test_differs_minus_one_and_none_are_no_token():
    p = large(scratch.initialize_lstm_parameters(A, V, V))
    a, _, _ = scratch.lstm_forward([None, -1], np.zeros((A, 1)), p)
    np.testing.assert_array_equal(a, scratch.lstm_forward(np.zeros((V, 1, 2)), np.zeros((A, 1)), p)[0])
    logits = np.random.default_rng(23).standard_normal((V, 1, 3))
    assert scratch.cross_entropy_loss(logits, [0, 1, -1]) == scratch.cross_entropy_loss(logits[..., :2], [0, 1])
    assert not scratch.one_hot_encode([-1], 3).any()


def test_differs_types():
    p = scratch.initialize_lstm_parameters(A, V, V)
    a, _, caches = scratch.lstm_forward(TOKENS, np.zeros((A, 1)), p)
    assert not isinstance(caches, list)
    assert len(list(caches)) == T
    states, inputs, _, _ = scratch.rnn_forward(TOKENS, np.zeros((A, 1)), scratch.initialize_rnn_parameters(A, V, V))
    X, Y = scratch.create_training_sequences_continuous("abcdef", scratch.CharTokenizer().fit("abcdef"), 2)
    assert not any(each.flags.writeable for each in (a, states[0], inputs[0], X, Y))
    logits = np.zeros((V, 1, 1))
    found = scratch.compute_loss_and_grad(logits, [0])[0], scratch.cross_entropy_loss(logits, [0])
    assert [type(each) for each in (*found, scratch.get_initial_loss(3, 2))] == [float] * 3
    assert type(scratch.sample_from_logits(logits[..., 0], seed=0)) is int


def test_differs_gradients_are_those_of_the_run():
    p = large(scratch.initialize_lstm_parameters(A, V, V))
    a, _, caches = scratch.lstm_forward(TOKENS, np.zeros((A, 1)), p)
    want = scratch.lstm_backwards(np.ones_like(a), caches)
    p["Wf"] += 1  # after forward: the original would mix both
    got = scratch.lstm_backwards(np.ones_like(a), caches)
    for name, each in want.items():
        np.testing.assert_array_equal(got[name], each)


def test_differs_averages_go_by_position():
    one, other = np.zeros(2), np.zeros(2)
    optimizer = scratch.MomentumOptimizer(1.0)
    optimizer.apply_gradients([(np.ones(2), one), (np.zeros(2), other)])
    optimizer.apply_gradients([(np.zeros(2), other), (np.zeros(2), one)])  # in another order
    assert (one == -1.0).all()
    assert (other == -0.9).all()  # the original's: 0, for it goes by the array
    with pytest.raises(ValueError, match="as at the first step"):
        optimizer.apply_gradients([(np.zeros(2), one)])


def test_differs_batches_are_padded():
    ((X, Y),) = scratch.TextDataset([[1, 2, 3], [4]], [[2, 3, 0], [0]], shuffle=False)
    assert (X.dtype, X.tolist(), Y.tolist()) == (np.int32, [[1, 2, 3], [4, -1, -1]], [[2, 3, 0], [0, -1, -1]])


def test_differs_lines_of_one_length_are_lists_too():
    X, _ = scratch.create_training_sequences_line_by_line(["ab", "ba"], scratch.CharTokenizer().fit("ab\n"))
    assert X.shape == (2,)  # the original's: (2, 2)
    assert X[0] == [2, 3]


def test_differs_what_makes_no_sense_is_an_error(tmp_path):
    tokenizer = scratch.CharTokenizer(oov_token=None).fit("ab")
    with pytest.raises(ValueError, match="not in the vocabulary"):
        tokenizer.texts_to_sequences("x")  # the original's: [None]
    with pytest.raises(ValueError, match="expected more than seq_length"):
        scratch.create_training_sequences_continuous("ab", tokenizer, 25)  # no windows
    with pytest.raises(ValueError, match="at least 1"):
        course.SimpleRNN(1, 2, 1).forward(np.zeros((0, 1)))  # no outputs
    with pytest.raises(FileNotFoundError, match="is no file"):
        scratch.load_dataset(tmp_path / "tolstoy")  # ValueError
    with pytest.raises(ValueError, match="maxValue"):
        scratch.clip({}, 0)  # zeros
    (tmp_path / "any.txt").write_text("ab\nba\n")
    assert scratch.load_dataset(tmp_path / "any.txt", "line_by_line")[1].vocab_size() == 3  # of two names only


def test_every_difference_is_in_the_docs_and_has_its_test():
    text = (Path(__file__).parents[1] / "docs" / "from" / "course.md").read_text("utf-8")
    listed = text.partition("## Where the numbers differ")[2].partition("\n## ")[0]
    tests = [name for name in globals() if name.startswith("test_differs_")]
    assert len(re.findall(r"^- ", listed, re.M)) == len(tests)
