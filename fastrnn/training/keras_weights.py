"""The weights of Keras' recurrent layers under the names and in the order that fastrnn and torch use.

Keras keeps W of ``x W + h U + b``: a kernel (I, G*H), a recurrent kernel (H, G*H) and a bias per layer and direction.
Its gates come in the order i, f, c, o in an LSTM, as here, and z, r, h in a GRU, where here they are r, z, n. An LSTM
and a SimpleRNN have one bias (G*H,), a GRU with ``reset_after=True`` two (2, G*H).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fastrnn import GRU, LSTM, RNN
from fastrnn.checks import Array, check_instance, check_sequence, take_reals

__all__ = ["from_keras_weights"]


def from_keras_weights(rnn: RNN | LSTM | GRU, weights: Sequence[Any]) -> dict[str, Array]:
    """Return what `rnn.load_state_dict` takes for a module to compute what Keras' layers do.

    Parameters
    ----------
    rnn
        The module: an `RNN` for SimpleRNN, an `LSTM` or a `GRU`, with as many layers and directions as there are in
        Keras, and `bias` as `use_bias` there.
    weights
        What ``get_weights()`` of Keras' layers gives, of all of them in one list; a Bidirectional gives those of both
        directions. Of a single layer: kernel (I, G*H), recurrent kernel (H, G*H) and, with bias, (G*H,) or for a GRU
        (2, G*H).

    Returns
    -------
    dict
        The weights by the names of `rnn.parameters`; the second bias of an LSTM or SimpleRNN is zero.

    Raises
    ------
    ValueError
        If there are not as many weights as `rnn` asks for, it has projections, or a GRU's bias is one of
        ``reset_after=False``. That GRU multiplies the state with the reset gate *before* the product with the recurrent
        kernel, and is another cell: `GRU` is Keras' default, ``reset_after=True``.

    Notes
    -----
    Keras' x is (N, T, I), which is `batch_first` here; its initial state of two directions is that of the forward one
    and then that of the backward one, in the order of the first axis of h_0. Where a mask of Keras ends a sequence,
    `lengths` do here, and y beyond them is that of ``zero_output_for_mask=True``.

    Examples
    --------
    >>> import numpy as np, fastrnn
    >>> gru = fastrnn.GRU(3, 2, seed=0)
    >>> of_keras = [np.ones((3, 6)), np.ones((2, 6)), np.arange(12).reshape(2, 6)]  # layer.get_weights()
    >>> gru.load_state_dict(from_keras_weights(gru, of_keras))
    >>> gru.parameters["bias_hh_l0"]
    array([ 8.,  9.,  6.,  7., 10., 11.], dtype=float32)
    """
    check_instance("rnn", rnn, (RNN, LSTM, GRU), "a fastrnn.RNN, LSTM or GRU")
    if rnn.proj_size:
        raise ValueError(f"rnn has proj_size {rnn.proj_size}; expected 0: Keras has no projections")
    each = 3 if rnn.bias else 2
    check_sequence("weights", weights, "the arrays of get_weights()")
    if len(weights) != each * rnn.num_layers * rnn.directions:
        raise ValueError(
            f"weights holds {len(weights)} arrays; expected {each} of each of {rnn.num_layers} layers "
            f"and {rnn.directions} directions"
        )
    arrays = [take_reals(f"weights[{k}]", weight) for k, weight in enumerate(weights)]
    for k, array in enumerate(arrays):
        suffix = f"_l{k // each // rnn.directions}{'_reverse' * (k // each % rnn.directions)}"
        name = ("weight_ih", "weight_hh", "bias_ih")[k % each] + suffix
        shape = rnn.parameters[name].shape[::-1]
        if k % each < 2 and array.shape != shape:
            raise ValueError(f"weights[{k}] has shape {array.shape}; expected {shape}, for {name}")
        if k % each == 2 and not isinstance(rnn, GRU) and array.shape != shape:
            raise ValueError(f"weights[{k}] has shape {array.shape}; expected {shape}, for {name}")
    gru = isinstance(rnn, GRU)
    state_dict: dict[str, Array] = {}
    for k, start in enumerate(range(0, len(arrays), each)):
        suffix = f"_l{k // rnn.directions}{'_reverse' * (k % rnn.directions)}"
        kernel, recurrent_kernel, *biases = arrays[start : start + each]
        rows = {"weight_ih": kernel.T, "weight_hh": recurrent_kernel.T}
        for bias in biases:
            if gru and bias.shape != (2, 3 * rnn.hidden_size):
                raise ValueError(
                    f"weights[{start + 2}] has shape {bias.shape}; expected (2, 3*H) = (2, {3 * rnn.hidden_size}), "
                    "the bias of a GRU with reset_after=True"
                )
            rows["bias_ih"], rows["bias_hh"] = bias if gru else (bias, np.zeros_like(bias))
        for name, array in rows.items():
            if gru:
                z, r, h = np.split(array, 3)
                array = np.concatenate((r, z, h))
            state_dict[name + suffix] = array
    return state_dict
