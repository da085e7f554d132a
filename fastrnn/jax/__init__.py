"""RNN, LSTM and GRU as functions for JAX, on fastrnn's kernels through XLA's foreign function interface."""

from fastrnn.jax.functions import gru, lstm, rnn
from fastrnn.jax.params import from_flax, init_gru, init_lstm, init_rnn, to_flax

__all__ = ["from_flax", "gru", "init_gru", "init_lstm", "init_rnn", "lstm", "rnn", "to_flax"]
