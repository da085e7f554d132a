"""Language models: a recurrent stack over tokens, and an output layer that tells every next one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from fastrnn import GRU, LSTM, RNN, modules, ops, stack
from fastrnn.cells import WrittenCell
from fastrnn.checks import check_instance, check_positive, check_share, make_generator, take_integers
from fastrnn.modules import Tape
from fastrnn.parameters import Array, NamedArrays, Parametrized
from fastrnn.training.adaptive import AdaptiveSoftmax
from fastrnn.training.cells import check_cell_name, make_layers, name_of
from fastrnn.training.composition import Composed, Recurrent, clear, given_steps, padding_of
from fastrnn.training.layers import Embedding, Linear
from fastrnn.training.losses import cross_entropy
from fastrnn.training.names import join_names

__all__ = ["CharModel", "LanguageModel", "ModelTape", "WordModel"]


class ModelTape(NamedTuple):
    """What a model's forward keeps for its backward; it serves once."""

    embedding: Array | None
    rnn: Tape
    head: Any
    dropped: list[Array]  # which elements dropout kept: of the vectors, if there are, and of y


class LanguageModel(Composed):
    """Predicts every next token of a sequence.

    What it reads are one-hot tokens, or vectors of an embedding. Dropout (Zaremba et al., 2015) is on the vectors,
    between the layers of the stack, and on what comes out of it, never on the way from step to step.

    Parameters
    ----------
    rnn
        Over one-hot tokens if there is no embedding, else over its vectors.
    head
        From the stack's outputs to the vocabulary.
    embedding
        Of the tokens.
    dropout
        The share that is dropped, also between the layers of `rnn`.
    seed
        Of dropout.
    """

    def __init__(
        self,
        rnn: Recurrent,
        head: Linear | AdaptiveSoftmax,
        embedding: Embedding | None = None,
        dropout: float = 0.0,
        seed: Any = None,
    ) -> None:
        self.rnn = check_instance(
            "rnn", rnn, (RNN, LSTM, GRU, modules.Recurrent), "fastrnn.RNN, LSTM or GRU, or a fastrnn.Recurrent"
        )
        check_instance("head", head, (Linear, AdaptiveSoftmax), "a Linear or an AdaptiveSoftmax")
        self.head = head
        if embedding is not None:
            check_instance("embedding", embedding, Embedding, "an Embedding or None")
        self.embedding = embedding
        self.dropout = check_share("dropout", dropout)
        self._seed_own(make_generator(seed))

    @property
    def parameters(self) -> dict[str, Array]:
        """The live parameter arrays by name; write into them (``p -= ...``) to train."""
        parts: dict[str, Parametrized] = {} if self.embedding is None else {"embedding": self.embedding}
        parts |= {"rnn": self.rnn, "head": self.head}
        return NamedArrays(join_names({name: part.parameters for name, part in parts.items()}))

    @property
    def vocabulary_size(self) -> int:
        """V, the number of tokens."""
        return self.head.num_classes if isinstance(self.head, AdaptiveSoftmax) else self.head.out_features

    @property
    def hidden_size(self) -> int:
        """H, the units of a layer."""
        return self.rnn.hidden_size

    @property
    def num_layers(self) -> int:
        """L, the number of layers."""
        return self.rnn.num_layers

    @property
    def cell(self) -> str | WrittenCell:
        """The cell, by its name, or one's own."""
        return name_of(self.rnn)

    @property
    def dtype(self) -> np.dtype[Any]:
        """That of the parameters."""
        return self.rnn.dtype

    def seed_dropout(self, seed: Any) -> None:
        """Have dropout, and noise of the cell, draw from `seed` on, anything `numpy.random.default_rng` takes."""
        rng = make_generator(seed)
        if any(self.rnn._rates) or (self.rnn.dropout and not self.dropout):
            self.rnn.seed_dropout(rng.spawn(1)[0])
        self._seed_own(rng)

    def _seed_own(self, rng: np.random.Generator) -> None:
        """Have the model's own dropout, also what it adds to the stack, draw from `rng` on."""
        if not self.dropout:
            return
        self._dropout = stack.Dropout(self.dropout, tuple(rng.spawn(2)))
        if self.rnn.num_layers > 1:
            self.rnn._dropout = stack.Dropout(self.dropout, tuple(rng.spawn(self.rnn.num_layers - 1)))

    def __call__(self, tokens: Any, state: Any = None) -> tuple[Array, Any]:
        """Return what is likely after each of `tokens` (T, N), and the final state of the recurrent stack.

        Returns
        -------
        tuple
            Logits (T, N, V), or log-probabilities if the output is adaptive, and the state.
        """
        y, state_n = self._infer(tokens, state, {})
        return self.head(y), state_n

    def trace(self, tokens: Any) -> dict[str, Array]:
        """Return every gate and state of the recurrent stack as it reads `tokens` (T, N); see `fastrnn.LSTM.trace`."""
        tokens = self._take_tokens(tokens, {})
        return self.rnn.trace(tokens if self.embedding is None else self.embedding(tokens))

    def loss(
        self,
        tokens: Any,
        targets: Any,
        state: Any = None,
        lengths: Any = None,
        *,
        mask: Any = None,
        resets: Any = None,
    ) -> tuple[float, Any]:
        """Return the mean cross-entropy of the predictions after `tokens`, in nats, and the final state.

        Parameters
        ----------
        tokens
            (T, N).
        targets
            (T, N), the next tokens; negative ones in the padding of sequences of different lengths. Those of steps
            that a mask leaves out do not count, whatever they are.
        state, lengths, mask, resets
            As for the modules.
        """
        which = given_steps(lengths, mask, resets)
        y, state_n = self._infer(tokens, state, which)
        rows, _, targets = _real(y, targets, which)
        if isinstance(self.head, AdaptiveSoftmax):
            return self.head.forward(rows, targets)[0], state_n
        return cross_entropy(self.head(rows), targets)[0], state_n

    def gradients(
        self,
        tokens: Any,
        targets: Any,
        state: Any = None,
        lengths: Any = None,
        *,
        mask: Any = None,
        resets: Any = None,
    ) -> tuple[float, Any, dict[str, Array]]:
        """Return what `loss` does, but with dropout, and the loss's gradients by parameter name."""
        which = given_steps(lengths, mask, resets)
        y, state_n, tape = self._forward(tokens, state, which)
        rows, real, targets = _real(y, targets, which)
        if isinstance(self.head, AdaptiveSoftmax):
            loss, adaptive_tape = self.head.forward(rows, targets)
            drows, head_grads = self.head.backward(adaptive_tape)
        else:
            logits, linear_tape = self.head.forward(rows)
            loss, dlogits = cross_entropy(logits, targets)
            drows, head_grads = self.head.backward(linear_tape, dlogits)
        if real is None:
            dy = drows
        else:
            dy = np.zeros_like(y)
            dy.reshape(-1, dy.shape[-1])[real] = drows
        return loss, state_n, self._backward(tape, dy, head_grads)

    def _take_tokens(self, tokens: Any, which: Mapping[str, Any]) -> Array:
        """Return tokens (T, N), or (T,) of a single sequence, as an array; in the padding any numbers may be."""
        array = take_integers("tokens", tokens)
        if array.ndim not in (1, 2):
            raise ValueError(f"tokens has shape {array.shape}; expected (T, N) or (T,)")
        if "lengths" in which and array.ndim == 1:
            raise ValueError(f"tokens has shape {array.shape}; expected (T, N), as lengths is given")
        if "lengths" in which or "mask" in which:
            return array
        vocabulary = self.rnn.input_size if self.embedding is None else self.embedding.num_embeddings
        return ops.as_tokens("tokens", array, vocabulary, "V")

    def _without_padding(self, tokens: Array, which: Mapping[str, Any]) -> Array:
        """Return tokens with zeros in the padding, for the embedding."""
        cleared: Array = clear(
            tokens, padding_of(tokens, which.get("lengths"), which.get("mask"), self.rnn.batch_first)
        )
        return cleared

    def _infer(self, tokens: Any, state: Any, which: Mapping[str, Any]) -> tuple[Array, Any]:
        x = self._take_tokens(tokens, which)
        if self.embedding is not None:
            x = self.embedding(self._without_padding(x, which))
        return self.rnn(x, state, **which)

    def _forward(self, tokens: Any, state: Any, which: Mapping[str, Any]) -> tuple[Array, Any, ModelTape]:
        """Return y (T, N, H), the final state, and the tape without the head's."""
        x, embedding_tape, dropped = self._take_tokens(tokens, which), None, []
        if self.embedding is not None:
            x, embedding_tape = self.embedding.forward(self._without_padding(x, which))
            if self.dropout:
                x, kept = self._dropout(x, 1)
                dropped.append(kept)
        y, state_n, rnn_tape = self.rnn.forward(x, state, **which)
        if self.dropout:
            y, kept = self._dropout(y, 2)
            dropped.append(kept)
        return y, state_n, ModelTape(embedding_tape, rnn_tape, None, dropped)

    def _backward(self, tape: ModelTape, dy: Array, head_grads: Mapping[str, Array]) -> dict[str, Array]:
        """Return the gradients by parameter name for that of y, and those of the head."""
        if self._on_gradients is not None:
            self._on_gradients("head", head_grads)
        if self.dropout:
            dy = self._dropout.scale(dy, tape.dropped[-1])
        dx, _, rnn_grads = self.rnn.backward(tape.rnn, dy)
        if self._on_gradients is not None:
            self._on_gradients("rnn", rnn_grads)
        grads: dict[str, Mapping[str, Array]] = {"rnn": rnn_grads, "head": head_grads}
        if self.embedding is not None and tape.embedding is not None and dx is not None:
            if self.dropout:
                dx = self._dropout.scale(dx, tape.dropped[0])
            grads = {"embedding": self.embedding.backward(tape.embedding, dx)[1], **grads}
        return join_names(grads)


def _real(y: Array, targets: Any, which: Mapping[str, Any]) -> tuple[Array, Array | None, Array]:
    """Return the rows of y with a target, (R, H), which they are, and their targets (R,); all if all steps are run."""
    targets = take_integers("targets", targets)
    if targets.shape != y.shape[:-1]:
        raise ValueError(f"targets has shape {targets.shape}; expected {y.shape[:-1]}, as the tokens")
    if "lengths" not in which and "mask" not in which:
        return y, None, targets
    counts = targets >= 0
    if "mask" in which:
        counts &= np.asarray(which["mask"])
    real = np.flatnonzero(counts)
    return y.reshape(-1, y.shape[-1])[real], real, targets.ravel()[real]


class CharModel(LanguageModel):
    """A language model of one-hot tokens with a linear output: for characters, or other small vocabularies.

    The parameters bear the names they have in a torch module with the attributes ``rnn`` (torch.nn.LSTM, GRU or RNN
    over one-hot input) and ``head`` (torch.nn.Linear): ``rnn.weight_ih_l0``, ``head.bias`` and so on.

    Parameters
    ----------
    vocabulary_size
        V, the number of tokens.
    hidden_size, num_layers
        H and L of the recurrent stack.
    cell
        "lstm", "gru", "rnn", the name of a cell of `fastrnn.cells`, or one that `fastrnn.cell` has made.
    dropout
        The share of the outputs of every layer of the stack that training drops.
    dtype
        float32 or float64.
    seed
        Anything `numpy.random.default_rng` takes.
    backend, num_threads
        As for `fastrnn.LSTM`.

    Examples
    --------
    >>> import numpy as np
    >>> model = CharModel(65, 128, seed=0)
    >>> logits, (h_n, c_n) = model(np.zeros((10, 4), int))
    >>> logits.shape, h_n.shape
    ((10, 4, 65), (1, 4, 128))
    """

    head: Linear

    def __init__(
        self,
        vocabulary_size: int,
        hidden_size: int,
        num_layers: int = 1,
        cell: str | WrittenCell = "lstm",
        *,
        dropout: float = 0.0,
        dtype: Any = "float32",
        seed: Any = None,
        backend: str | None = None,
        num_threads: int | None = None,
    ) -> None:
        check_positive("vocabulary_size", vocabulary_size)
        check_positive("hidden_size", hidden_size)
        check_share("dropout", dropout)
        rng = make_generator(seed)  # rnn and head draw one after the other
        options: dict[str, Any] = {"dtype": dtype, "seed": rng, "backend": backend, "num_threads": num_threads}
        rnn = _stack(cell, vocabulary_size, hidden_size, num_layers, dropout, options)
        super().__init__(rnn, Linear(hidden_size, vocabulary_size, **options), None, dropout, rng)

    def forward(self, tokens: Any, state: Any = None) -> tuple[Array, Any, ModelTape]:
        """Return what calling the model returns, with dropout if it has it, and the tape for `backward`."""
        y, state_n, tape = self._forward(tokens, state, {})
        logits, head_tape = self.head.forward(y)
        return logits, state_n, tape._replace(head=head_tape)

    def backward(self, tape: ModelTape, dlogits: Any) -> dict[str, Array]:
        """Return the gradients by parameter name, for those of the logits (T, N, V)."""
        check_instance("tape", tape, ModelTape, "the tape that forward returned")
        shape = (*tape.head.shape[:-1], self.head.out_features)
        dlogits = ops.as_real("dlogits", dlogits, self.head.dtype, shape, "the shape of the logits")
        dy, head_grads = self.head.backward(tape.head, dlogits)
        return self._backward(tape, dy, head_grads)


class WordModel(LanguageModel):
    """A language model of embedded tokens: for words, and as many of them as one likes.

    The parameters bear the names they have in a torch module with the attributes ``embedding`` (torch.nn.Embedding),
    ``rnn``, and ``head`` (torch.nn.Linear, or torch.nn.AdaptiveLogSoftmaxWithLoss if there are cut-offs).

    Parameters
    ----------
    vocabulary_size
        V, the number of tokens.
    hidden_size, num_layers
        H, also the size of the embedding's vectors, and L.
    cell
        "lstm", "gru", "rnn", the name of a cell of `fastrnn.cells`, or one that `fastrnn.cell` has made.
    cutoffs
        Those of an `AdaptiveSoftmax`, tokens being numbered from the most frequent on; None for a linear output.
    dropout
        The share of the vectors, and of the outputs of every layer of the stack, that training drops.
    dtype, seed, backend, num_threads
        As for `CharModel`.

    Examples
    --------
    >>> import numpy as np
    >>> model = WordModel(10_000, 32, cutoffs=[500, 2500], seed=0)
    >>> tokens = np.arange(40).reshape(10, 4)
    >>> loss, state, grads = model.gradients(tokens, tokens + 1)
    >>> log_probabilities, state = model(tokens)
    >>> log_probabilities.shape
    (10, 4, 10000)
    """

    def __init__(
        self,
        vocabulary_size: int,
        hidden_size: int,
        num_layers: int = 1,
        cell: str | WrittenCell = "lstm",
        *,
        cutoffs: Sequence[int] | None = None,
        dropout: float = 0.0,
        dtype: Any = "float32",
        seed: Any = None,
        backend: str | None = None,
        num_threads: int | None = None,
    ) -> None:
        check_positive("vocabulary_size", vocabulary_size)
        check_positive("hidden_size", hidden_size)
        check_share("dropout", dropout)
        rng = make_generator(seed)  # the parts draw one after the other
        options: dict[str, Any] = {"dtype": dtype, "seed": rng, "backend": backend, "num_threads": num_threads}
        embedding = Embedding(vocabulary_size, hidden_size, dtype=dtype, seed=rng)
        rnn = _stack(cell, hidden_size, hidden_size, num_layers, dropout, options)
        head = (
            Linear(hidden_size, vocabulary_size, **options)
            if cutoffs is None
            else AdaptiveSoftmax(hidden_size, vocabulary_size, cutoffs, **options)
        )
        super().__init__(rnn, head, embedding, dropout, rng)

    @property
    def cutoffs(self) -> list[int] | None:
        """Those of the adaptive output; None where it is linear."""
        return self.head.cutoffs if isinstance(self.head, AdaptiveSoftmax) else None


def _stack(
    cell: str | WrittenCell,
    input_size: int,
    hidden_size: int,
    num_layers: int,
    dropout: float,
    options: Mapping[str, Any],
) -> Recurrent:
    between = dropout if check_positive("num_layers", num_layers) > 1 else 0.0
    return make_layers(check_cell_name(cell), input_size, hidden_size, num_layers, dropout=between, **options)
