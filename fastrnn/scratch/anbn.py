"""The functions of the notebook that learns a^n b^n: its data, an RNN and an LSTM whose parameters are tuples.

Inputs and targets are one-hot columns (T, V, 1), states (H, 1). Names that other files of this package have too mean
something else here, so the package does not export these.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from fastrnn.cells import Weights
from fastrnn.checks import (
    Array,
    check_count,
    check_float_array,
    check_index,
    check_integer,
    check_iterable,
    check_mapping,
    check_number,
    check_positive,
    check_sequence,
    check_size,
    check_text,
    shown,
    take_array,
    take_reals,
)
from fastrnn.scratch.activations import softmax
from fastrnn.scratch.columns import project, state_rows
from fastrnn.scratch.lstm import split_gates, stack_gates
from fastrnn.scratch.seeds import legacy_generator
from fastrnn.scratch.sequence import Run
from fastrnn.training.clipping import clip_global_norm

__all__ = [
    "IDX_TO_WORD",
    "WORD_TO_IDX",
    "Dataset",
    "backward",
    "backward_pass",
    "clip_gradient_norm",
    "create_datasets",
    "forward",
    "forward_pass",
    "freestyle",
    "generate_dataset",
    "init_lstm",
    "init_orthogonal",
    "init_rnn",
    "one_hot_encode",
    "one_hot_encode_sequence",
    "update_parameters",
]

Parameters = Sequence[Array]
Columns = list[Array]  # a column of each step

WORD_TO_IDX = {"a": 0, "b": 1, "EOS": 2, "UNK": 3}
IDX_TO_WORD = {index: word for word, index in WORD_TO_IDX.items()}
VOCAB_SIZE = len(WORD_TO_IDX)


# --- data


def generate_dataset(num_sequences: int = 2**8, seed: int | None = None) -> list[list[str]]:
    """Draw sequences a^n b^n EOS, n uniform in 1..11.

    Parameters
    ----------
    num_sequences
        How many.
    seed
        None draws from NumPy's global generator; a number gives what that one gives after ``np.random.seed(seed)``.

    Examples
    --------
    >>> ["".join(sequence) for sequence in generate_dataset(2, seed=1)]
    ['aaaaaabbbbbbEOS', 'aaaaaaaaabbbbbbbbbEOS']
    """
    randint = np.random.randint if seed is None else legacy_generator(seed).randint
    check_size("num_sequences", (check_positive("num_sequences", num_sequences),))
    counts = randint(1, 12, num_sequences).tolist()
    return [["a"] * n + ["b"] * n + ["EOS"] for n in counts]


class Dataset:
    """Pairs of input and target sequences."""

    def __init__(self, inputs: Sequence[list[str]], targets: Sequence[list[str]]) -> None:
        self.inputs = check_sequence("inputs", inputs, "sequences")
        self.targets = check_sequence("targets", targets, "sequences")

    def __len__(self) -> int:
        """Count the pairs."""
        return len(self.targets)

    def __getitem__(self, index: Any) -> tuple[list[str], list[str]]:
        """Return an input and its target."""
        if not isinstance(index, slice):
            index = check_integer("index", index)
            if not -len(self) <= index < len(self):
                raise IndexError(f"index is {index}; expected less than {len(self)}, the number of pairs")
        return self.inputs[index], self.targets[index]

    def __iter__(self) -> Iterator[tuple[list[str], list[str]]]:
        """Go through the pairs."""
        return iter(zip(self.inputs, self.targets, strict=True))


Split = TypeVar("Split")


def create_datasets(
    sequences: Sequence[list[str]],
    dataset_class: Callable[[list[list[str]], list[list[str]]], Split] = Dataset,  # type: ignore[assignment]
    p_train: float = 0.8,
    p_val: float = 0.1,
    p_test: float = 0.1,
) -> tuple[Split, Split, Split]:
    """Split sequences in their order for training, validation and test; a target is its input, one step later.

    Parameters
    ----------
    sequences
        Of `generate_dataset`.
    dataset_class
        Called with inputs and targets.
    p_train, p_val, p_test
        Shares of the sequences, the last counted from the end.

    Raises
    ------
    ValueError
        If a share is not from 0 to 1, or they sum to more than 1.

    Examples
    --------
    >>> training_set, validation_set, test_set = create_datasets(generate_dataset(seed=0))
    >>> len(training_set), len(validation_set), len(test_set)
    (204, 25, 25)
    """
    sequences = check_sequence("sequences", sequences, "lists of words")
    for k, sequence in enumerate(sequences):
        check_sequence(f"sequences[{k}]", sequence, "a list of words")
    if not callable(dataset_class):
        raise TypeError(f"dataset_class is {shown(dataset_class)}; expected what makes a data set: a class or function")
    shares = check_number("p_train", p_train), check_number("p_val", p_val), check_number("p_test", p_test)
    if not (min(shares) >= 0 and sum(shares) <= 1 + 1e-9):
        raise ValueError(f"p_train, p_val, p_test are {shares}; expected shares that sum to at most 1")
    train, val, test = (int(len(sequences) * share) for share in shares)
    parts = sequences[:train], sequences[train : train + val], sequences[len(sequences) - test :]
    first, second, third = (dataset_class([s[:-1] for s in part], [s[1:] for s in part]) for part in parts)
    return first, second, third


def one_hot_encode(idx: int, vocab_size: int = VOCAB_SIZE) -> Array:
    """Return the vector (vocab_size,) that is 1 at idx; ValueError if it is out of range."""
    idx = check_index("idx", idx, check_positive("vocab_size", vocab_size), "vocab_size")
    check_size("vocab_size", (vocab_size,))
    one_hot = np.zeros(vocab_size)
    one_hot[idx] = 1
    return one_hot


def one_hot_encode_sequence(
    sequence: Iterable[str], vocab_size: int = VOCAB_SIZE, word_to_idx: Mapping[str, int] = WORD_TO_IDX
) -> Array:
    """Return the one-hot columns (T, vocab_size, 1) of words; those that are unknown are UNK.

    Examples
    --------
    >>> one_hot_encode_sequence(["a", "what"])[:, :, 0]
    array([[1., 0., 0., 0.],
           [0., 0., 0., 1.]])
    """
    check_mapping("word_to_idx", word_to_idx, "words to indices")
    if "UNK" not in word_to_idx:
        raise KeyError("word_to_idx has no 'UNK'; expected one: it stands for words that are not there")
    unknown = word_to_idx["UNK"]
    sequence = check_iterable("sequence", sequence, "words")
    for k, word in enumerate(sequence):
        check_text(f"sequence[{k}]", word)
    check_positive("vocab_size", vocab_size)
    columns = [one_hot_encode(word_to_idx.get(word, unknown), vocab_size) for word in sequence]
    return np.array(columns).reshape(-1, vocab_size, 1)


# --- both networks


def init_orthogonal(param: Any) -> Array:
    """Return a random matrix of the shape of `param`, its rows or columns orthonormal, from NumPy's global generator.

    It is the Q of the QR decomposition of a normal matrix, with signs that make it uniform over all such matrices
    (Mezzadri, 2007).

    Raises
    ------
    ValueError
        If `param` is not a matrix.

    Examples
    --------
    >>> q = init_orthogonal(np.zeros((2, 3)))
    >>> np.allclose(q @ q.T, np.eye(2))
    True
    """
    shape = take_array("param", param).shape
    if len(shape) != 2:
        raise ValueError(f"param has shape {shape}; expected a matrix")
    return _orthogonal(*shape)


def _orthogonal(rows: int, columns: int) -> Array:
    check_size("a matrix", (rows, columns))
    shape = rows, columns
    normal = np.random.randn(*shape)
    wide = shape[0] < shape[1]
    q, r = np.linalg.qr(normal.T if wide else normal)
    q *= np.sign(np.diag(r))
    return q.T if wide else q


def clip_gradient_norm(grads: Sequence[Array], max_norm: float = 0.25) -> Sequence[Array]:
    """Scale all gradients in place so that their joint norm is at most `max_norm`, and return them.

    Raises
    ------
    ValueError
        If `max_norm` is not positive.
    """
    for k, grad in enumerate(check_sequence("grads", grads, "arrays")):
        check_float_array(f"grads[{k}]", grad, written=True)
    clip_global_norm({str(k): grad for k, grad in enumerate(grads)}, max_norm)
    return grads


def update_parameters(params: Parameters, grads: Sequence[Array], lr: float = 1e-3) -> Parameters:
    """Subtract `lr` times its gradient from each parameter in place, and return the parameters."""
    lr = check_number("lr", lr)
    check_sequence("params", params, "arrays")
    if len(check_sequence("grads", grads, "arrays")) != len(params):
        raise ValueError(f"grads has {len(grads)} arrays; expected {len(params)}, as params")
    for k, (param, grad) in enumerate(zip(params, grads, strict=True)):
        check_float_array(f"params[{k}]", param, written=True)
        if take_reals(f"grads[{k}]", grad).shape != param.shape:
            raise ValueError(f"grads[{k}] has shape {np.shape(grad)}; expected {param.shape}, as params[{k}]")
    for param, grad in zip(params, grads, strict=True):
        param -= lr * np.asarray(grad)
    return params


def _check_parameters(name: str, params: Any, count: int, maker: str) -> list[Array]:
    """Return so many parameters, of `maker`, which may be empty, as matrices."""
    check_sequence(name, params, f"the {count} arrays of {maker}")
    if len(params) != count:
        raise ValueError(f"{name} has {len(params)} arrays; expected {count}, of {maker}")
    arrays = [take_reals(f"{name}[{k}]", param) for k, param in enumerate(params)]
    for k, array in enumerate(arrays):
        if array.ndim != 2 or not array.size:
            raise ValueError(f"{name}[{k}] has shape {array.shape}; expected a matrix that is not empty")
    return arrays


def _rows(name: str, inputs: Any, vocab_size: int) -> Array:
    """Return a copy of columns (T, V, 1) as rows (T, 1, V)."""
    array = take_reals(name, inputs)
    if array.shape[1:] != (vocab_size, 1) or not len(array):
        raise ValueError(f"{name} has shape {array.shape}; expected (T, V, 1) = (at least 1, {vocab_size}, 1)")
    return array.transpose(0, 2, 1).copy()


def _loss(outputs: Sequence[Array], targets: Any, vocab_size: int) -> tuple[float, Array]:
    """The notebook's loss, cross-entropy summed over steps and divided by V, and the gradient of the undivided one.

    The gradient is with respect to the logits, as rows (T, 1, V).
    """
    p, wanted = _rows("outputs", outputs, vocab_size), _rows("targets", targets, vocab_size)
    if p.shape != wanted.shape:
        raise ValueError(f"targets has {len(wanted)} steps; expected {len(p)}, as outputs")
    with np.errstate(divide="ignore"):  # a probability that underflowed has an infinite loss
        loss = -np.log(p[wanted > 0]) @ wanted[wanted > 0] / vocab_size
    return float(loss), p - wanted


# --- the RNN: h_t = tanh(U x_t + V h_{t-1} + b_hidden), outputs softmax(W h_t + b_out)


def init_rnn(hidden_size: int, vocab_size: int = VOCAB_SIZE) -> tuple[Array, ...]:
    """Return U (H, V), V (H, H) and W (V, H), orthogonal, and b_hidden (H, 1) and b_out (V, 1), zero."""
    _check_sizes(hidden_size, vocab_size)
    U = _orthogonal(hidden_size, vocab_size)
    V = _orthogonal(hidden_size, hidden_size)
    W = _orthogonal(vocab_size, hidden_size)
    return U, V, W, np.zeros((hidden_size, 1)), np.zeros((vocab_size, 1))


def _check_sizes(hidden_size: Any, vocab_size: Any) -> None:
    check_positive("hidden_size", hidden_size)
    check_positive("vocab_size", vocab_size)
    check_size("hidden_size, vocab_size", (hidden_size, hidden_size + vocab_size))


class HiddenStates(Columns):
    """The states after each step, and the one before the first."""

    initial: Array


def _rnn_parameters(params: Any) -> list[Array]:
    """Return the parameters of `init_rnn`; TypeError or ValueError unless they fit together."""
    arrays = _check_parameters("params", params, 5, "init_rnn")
    H, V = arrays[0].shape
    _check_shapes("params", arrays, ((H, V), (H, H), (V, H), (H, 1), (V, 1)))
    return arrays


def _check_shapes(name: str, arrays: Sequence[Array], shapes: Sequence[tuple[int, int]]) -> None:
    for k, (array, shape) in enumerate(zip(arrays, shapes, strict=True)):
        if array.shape != shape:
            raise ValueError(f"{name}[{k}] has shape {array.shape}; expected {shape}")


def _run_rnn(inputs: Any, initial: Any, params: Sequence[Array]) -> Run:
    U, V, _, b_hidden, _ = params
    copies = [np.array(param, np.float64, order="C") for param in (U, V, b_hidden)]
    weights = Weights(copies[0], copies[1], copies[2].ravel(), np.zeros(len(U)))
    return Run(
        "rnn_tanh", _rows("inputs", inputs, U.shape[1]), (state_rows("hidden_state", initial, len(U), 1),), weights
    )


def forward_pass(inputs: Any, hidden_state: Any, params: Parameters) -> tuple[Columns, Columns]:
    """Run the RNN over a sequence.

    Parameters
    ----------
    inputs
        (T, V, 1), or a list of columns.
    hidden_state
        (H, 1), the initial state.
    params
        Of `init_rnn`.

    Returns
    -------
    tuple
        The softmax outputs, a list of (V, 1), and the states after each step, a list of (H, 1).

    Raises
    ------
    ValueError
        If a shape does not fit.
    """
    params = _rnn_parameters(params)
    run = _run_rnn(inputs, hidden_state, params)
    outputs = softmax(project(run.y, params[2], params[4]).transpose(2, 0, 1)).transpose(1, 0, 2)
    hidden_states = HiddenStates(run.y.transpose(0, 2, 1).copy())
    hidden_states.initial = run.state[0].T
    return list(outputs), hidden_states


def backward_pass(
    inputs: Any, outputs: Sequence[Array], hidden_states: Sequence[Array], targets: Any, params: Parameters
) -> tuple[float, tuple[Array, ...]]:
    """Return the RNN's loss, and its gradients by back-propagation through time, clipped by `clip_gradient_norm`.

    Parameters
    ----------
    inputs, outputs, hidden_states
        As given to and returned by `forward_pass`. A list of states that was made in another way is taken to start from
        zero.
    targets
        (T, V, 1), one-hot.
    params
        Of `init_rnn`.

    Returns
    -------
    loss : float
        The cross-entropy, summed over steps and divided by V, as the notebook has it.
    grads : tuple
        The gradients of the cross-entropy's sum, undivided, in the order of `params`, clipped.
    """
    params = _rnn_parameters(params)
    W, b_hidden = params[2:4]
    if not isinstance(hidden_states, HiddenStates):
        check_sequence("hidden_states", hidden_states, "the states that forward_pass returned")
    loss, dlogits = _loss(outputs, targets, len(W))
    initial = hidden_states.initial if isinstance(hidden_states, HiddenStates) else np.zeros_like(b_hidden)
    run = _run_rnn(inputs, initial, params)
    dW, db_out, dh = _through_outputs(dlogits, run.y, W)
    _, _, (dU, dV, db_hidden) = run.backward(dh, (None,))
    grads = dU, dV, dW, db_hidden[:, None], db_out
    clip_gradient_norm(grads)
    return loss, grads


def _through_outputs(dlogits: Array, h: Array, W: Array) -> tuple[Array, Array, Array]:
    """The gradients of the output layer's weights and bias, and of h, (T, 1, H)."""
    flat = dlogits[:, 0]
    return flat.T @ h[:, 0], flat.sum(0)[:, None], dlogits @ np.asarray(W, np.float64)


# --- the LSTM, of gates on z = [h_{t-1}; x_t]: C_t = f C_{t-1} + i g, h_t = o tanh(C_t), outputs softmax(W_v h_t + b_v)


def init_lstm(hidden_size: int, vocab_size: int = VOCAB_SIZE, z_size: int | None = None) -> tuple[Array, ...]:
    """Return W_f, W_i, W_g, W_o (H, H + V) and W_v (V, H), orthogonal, and b_f, b_i, b_g, b_o (H, 1), b_v (V, 1), zero.

    Raises
    ------
    ValueError
        If z_size is given and is not H + V.
    """
    _check_sizes(hidden_size, vocab_size)
    if z_size is not None and check_integer("z_size", z_size) != hidden_size + vocab_size:
        raise ValueError(f"z_size is {z_size}; expected hidden_size + vocab_size = {hidden_size + vocab_size}")
    of_gates = [_orthogonal(hidden_size, hidden_size + vocab_size) for _ in range(4)]
    W_v = _orthogonal(vocab_size, hidden_size)
    return (*of_gates, W_v, *(np.zeros((hidden_size, 1)) for _ in range(4)), np.zeros((vocab_size, 1)))


def _lstm_parameters(name: str, params: Any) -> list[Array]:
    """Return the parameters of `init_lstm`; TypeError or ValueError unless they fit together."""
    arrays = _check_parameters(name, params, 10, "init_lstm")
    V, H = arrays[4].shape
    _check_shapes(name, arrays, ((H, H + V),) * 4 + ((V, H),) + ((H, 1),) * 4 + ((V, 1),))
    return arrays


def _run_lstm(x: Array, h_0: Any, c_0: Any, params: Sequence[Array], names: tuple[str, str]) -> Run:
    W_f, W_i, W_g, W_o, _, b_f, b_i, b_g, b_o, _ = params
    state = state_rows(names[0], h_0, len(W_f), 1), state_rows(names[1], c_0, len(W_f), 1)
    return Run("lstm", x, state, stack_gates((W_i, W_f, W_g, W_o), (b_i, b_f, b_g, b_o)))


def forward(inputs: Any, h_prev: Any, C_prev: Any, p: Parameters) -> tuple[Columns, ...]:
    """Run the LSTM over a sequence.

    Parameters
    ----------
    inputs
        (T, V, 1), or a list of columns.
    h_prev, C_prev
        (H, 1), the initial states.
    p
        Of `init_lstm`.

    Returns
    -------
    tuple
        Lists of columns: z, f, i, g, C, o, h, v, outputs. C and h have T + 1, the initial state first, the others one
        of each step: the stacked input z, the gates f, i, o and the candidate g, the logits v and their softmax.

    Raises
    ------
    ValueError
        If a shape does not fit.
    """
    p = _lstm_parameters("p", p)
    x = _rows("inputs", inputs, len(p[4]))
    run = _run_lstm(x, h_prev, C_prev, p, ("h_prev", "C_prev"))
    inside = {name: list(rows.transpose(0, 2, 1)) for name, rows in run.gates().items()}
    h = [run.state[0].T, *run.y.transpose(0, 2, 1).copy()]
    v = project(run.y, p[4], p[9]).transpose(0, 2, 1)
    outputs = softmax(v.transpose(1, 0, 2)).transpose(1, 0, 2)
    z = [np.concatenate([h_t, x_t.T]) for h_t, x_t in zip(h, x)]  # noqa: B905  (h has one more)
    C = [run.state[1].T, *inside["c"]]
    return z, inside["f"], inside["i"], inside["g"], C, inside["o"], h, list(v), list(outputs)


def backward(
    z: Sequence[Array],
    f: Sequence[Array],
    i: Sequence[Array],
    g: Sequence[Array],
    C: Sequence[Array],
    o: Sequence[Array],
    h: Sequence[Array],
    v: Sequence[Array],
    outputs: Sequence[Array],
    targets: Any,
    p: Parameters,
) -> tuple[float, tuple[Array, ...]]:
    """Return the LSTM's loss, and its gradients by back-propagation through time, clipped by `clip_gradient_norm`.

    Parameters
    ----------
    z, f, i, g, C, o, h, v, outputs
        What `forward` returned. Of these z, the initial states h[0] and C[0], and the outputs are used.
    targets
        (T, V, 1), one-hot.
    p
        Of `init_lstm`.

    Returns
    -------
    loss : float
        The cross-entropy, summed over steps and divided by V, as the notebook has it.
    grads : tuple
        The gradients of the cross-entropy's sum, undivided, in the order of `p`, clipped.
    """
    p = _lstm_parameters("p", p)
    W_v = p[4]
    for name, states in (("h", h), ("C", C)):
        if not len(check_sequence(name, states, "the columns that forward returned")):
            raise ValueError(f"{name} is empty; expected the columns that forward returned")
    loss, dlogits = _loss(outputs, targets, len(W_v))
    stacked = _rows("z", z, len(p[0][0]))
    if len(stacked) != len(dlogits):
        raise ValueError(f"z has {len(stacked)} steps; expected {len(dlogits)}, as outputs")
    x = stacked[:, :, len(p[0]) :].copy()
    run = _run_lstm(x, h[0], C[0], p, ("h[0]", "C[0]"))
    dW_v, db_v, dh = _through_outputs(dlogits, run.y, W_v)
    _, _, dweights = run.backward(dh, (None, None))
    (dW_i, dW_f, dW_g, dW_o), (db_i, db_f, db_g, db_o) = split_gates(dweights)
    grads = dW_f, dW_i, dW_g, dW_o, dW_v, db_f, db_i, db_g, db_o, db_v
    clip_gradient_norm(grads)
    return loss, grads


# --- writing


def freestyle(
    params: Parameters,
    sentence: str = "",
    num_generate: int = 10,
    word_to_idx: Mapping[str, int] = WORD_TO_IDX,
) -> list[str]:
    """Continue a sentence with the most likely words until EOS.

    Parameters
    ----------
    params
        Of `init_rnn` or `init_lstm`: the one has 5 arrays, the other 10.
    sentence
        Words between blanks; those that are unknown are read as UNK, and an empty sentence as one of these.
    num_generate
        How many words to write at most.
    word_to_idx
        The vocabulary, with EOS and UNK.

    Returns
    -------
    list
        The words of the sentence and those written, EOS included.

    Raises
    ------
    ValueError
        If `params` has another number of arrays, or num_generate is negative.
    """
    num_generate = check_count("num_generate", num_generate)
    check_sequence("params", params, "the arrays of init_rnn or init_lstm")
    if len(params) not in (5, 10):
        raise ValueError(f"params has {len(params)} arrays; expected 5, of init_rnn, or 10, of init_lstm")
    params = _rnn_parameters(params) if len(params) == 5 else _lstm_parameters("params", params)
    check_mapping("word_to_idx", word_to_idx, "words to indices")
    size = params[0].shape[1] if len(params) == 5 else len(params[4])
    if "UNK" not in word_to_idx or sorted(map(shown, word_to_idx.values())) != sorted(map(shown, range(size))):
        raise ValueError(f"word_to_idx is {shown(dict(word_to_idx))}; expected words to 0..{size - 1}, UNK among them")
    words = check_text("sentence", sentence).split()
    idx_to_word = {index: word for word, index in word_to_idx.items()}
    h = C = np.zeros((len(params[0]), 1))
    read, written = words or ["UNK"], list(words)
    for _ in range(num_generate):
        inputs = one_hot_encode_sequence(read, len(word_to_idx), word_to_idx)
        if len(params) == 5:
            outputs, hidden_states = forward_pass(inputs, h, params)
            h = hidden_states[-1]
        else:
            _, _, _, _, C_all, _, h_all, _, outputs = forward(inputs, h, C, params)
            h, C = h_all[-1], C_all[-1]
        read = [idx_to_word[int(outputs[-1].argmax())]]
        written += read
        if read == ["EOS"]:
            break
    return written
