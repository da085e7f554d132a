"""The character model: a recurrent stack over tokens and a linear map to the next token's logits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from fastrnn import GRU, LSTM, RNN
from fastrnn.modules import Tape
from fastrnn.parameters import Array
from fastrnn.training.layers import Linear
from fastrnn.training.names import join_names, split_names

__all__ = ["CELLS", "CharModel", "ModelTape"]

CELLS: dict[str, type[LSTM] | type[GRU] | type[RNN]] = {"lstm": LSTM, "gru": GRU, "rnn": RNN}


class ModelTape(NamedTuple):
    """What `CharModel.forward` keeps for its `backward`; it serves once."""

    rnn: Tape
    head: Array


class CharModel:
    """Predicts every next token of a sequence.

    The parameters bear the names they have in a torch module with the attributes ``rnn`` (torch.nn.LSTM, GRU or RNN
    over one-hot input) and ``head`` (torch.nn.Linear): ``rnn.weight_ih_l0``, ``head.bias`` and so on.

    Parameters
    ----------
    vocabulary_size
        V, the number of tokens.
    hidden_size, num_layers
        H and L of the recurrent stack.
    cell
        "lstm", "gru" or "rnn".
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

    def __init__(
        self,
        vocabulary_size: int,
        hidden_size: int,
        num_layers: int = 1,
        cell: str = "lstm",
        *,
        dtype: Any = "float32",
        seed: Any = None,
        backend: str | None = None,
        num_threads: int | None = None,
    ) -> None:
        if cell not in CELLS:
            raise ValueError(f"cell is {cell!r}; expected one of {', '.join(CELLS)}")
        rng = np.random.default_rng(seed)  # rnn and head draw one after the other
        self.rnn = CELLS[cell](
            vocabulary_size,
            hidden_size,
            num_layers,
            dtype=dtype,
            seed=rng,
            backend=backend,
            num_threads=num_threads,
        )
        self.head = Linear(
            hidden_size, vocabulary_size, dtype=dtype, seed=rng, backend=backend, num_threads=num_threads
        )

    @property
    def parameters(self) -> dict[str, Array]:
        """The live parameter arrays by name: write into them (``p -= ...``) to train."""
        return join_names({"rnn": self.rnn.parameters, "head": self.head.parameters})

    def state_dict(self) -> dict[str, Array]:
        """Return a copy of every parameter by name."""
        return join_names({"rnn": self.rnn.state_dict(), "head": self.head.state_dict()})

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Copy the values of `state_dict` into the parameters; KeyError or ValueError if names or shapes differ."""
        groups = split_names(state_dict)
        if groups.keys() != {"rnn", "head"}:
            raise KeyError(f"state_dict: names begin with {sorted(groups)}; expected rnn and head")
        self.rnn.load_state_dict(groups["rnn"])
        self.head.load_state_dict(groups["head"])

    def __call__(self, tokens: Any, state: Any = None) -> tuple[Array, Any]:
        """Return the logits (T, N, V) after each of `tokens` (T, N), and the final state of the recurrent stack."""
        y, state_n = self.rnn(tokens, state)
        return self.head(y), state_n

    def forward(self, tokens: Any, state: Any = None) -> tuple[Array, Any, ModelTape]:
        """Return what calling the model returns, and the tape for `backward`."""
        y, state_n, rnn_tape = self.rnn.forward(tokens, state)
        logits, head_tape = self.head.forward(y)
        return logits, state_n, ModelTape(rnn_tape, head_tape)

    def backward(self, tape: ModelTape, dlogits: Any) -> dict[str, Array]:
        """Return the gradients by parameter name, for those of the logits (T, N, V)."""
        dy, head_grads = self.head.backward(tape.head, dlogits)
        _, _, rnn_grads = self.rnn.backward(tape.rnn, dy)
        return join_names({"rnn": rnn_grads, "head": head_grads})
