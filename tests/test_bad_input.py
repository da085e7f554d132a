"""Public mistakes end in a named, complete error; unusual but valid arrays end in the right result."""

from __future__ import annotations

import re
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from tolerances import Outcome, assert_same_bits

import fastrnn
from fastrnn.backends import BACKENDS
from fastrnn.errors import BackendError
from fastrnn.parameters import Array
from fastrnn.training import from_keras_weights, mse

T, N, I, H, L = 5, 2, 3, 4, 2
X = np.linspace(-1, 1, T * N * I, dtype=np.float32).reshape(T, N, I)
STATE = np.linspace(-0.5, 0.5, L * N * H, dtype=np.float32).reshape(L, N, H)


class OnAnotherDevice:
    """What a tensor on a GPU does when NumPy asks for its values."""

    shape, dtype = X.shape, X.dtype

    def __array__(self, *args: Any, **kwargs: Any) -> Array:
        raise TypeError("can't convert cuda:0 device type tensor to numpy")


def lstm(**options: Any) -> fastrnn.LSTM:
    return fastrnn.LSTM(I, H, L, seed=0, **options)


def gru(**options: Any) -> fastrnn.GRU:
    return fastrnn.GRU(I, H, L, seed=0, **options)


# What is called, the error, and its text.
Mistake = tuple[Callable[[], Any], type[Exception], str]

BAD_X: dict[str, Mistake] = {
    "features": (lambda: lstm()(X[..., :2]), ValueError, "x has shape (5, 2, 2); expected (T, N, I) = (any, any, 3)"),
    "features_unbatched": (lambda: lstm()(X[:, 0, :2]), ValueError, "x has shape (5, 2); expected (T, I) = (any, 3)"),
    "four_axes": (lambda: lstm()(X[None]), ValueError, "x has shape (1, 5, 2, 3); expected (T, N, I) or (T, I), I = 3"),
    "one_axis": (lambda: lstm()(X[0, 0]), ValueError, "x has shape (3,); expected (T, N, I) or (T, I), I = 3"),
    "no_axis": (lambda: lstm()(np.float32(1)), ValueError, "x has shape (); expected (T, N, I) or (T, I), I = 3"),
    "integers_for_real": (
        lambda: lstm()(X.astype(int)),
        ValueError,
        "x has shape (5, 2, 3); expected (T, N) or (T,) for token indices (dtype int64)",
    ),
    **{
        f"dtype_{dtype}": (
            lambda dtype=dtype: lstm()(X.astype(dtype)),
            TypeError,
            f"x has dtype {np.dtype(dtype)}; expected float32",
        )
        for dtype in ("float64", "float16", "complex64", "object", "bool", "U5", "S5")
    },
    "float32_for_float64": (
        lambda: lstm(dtype="float64")(X),
        TypeError,
        "x has dtype float32; expected float64",
    ),
    "masked": (lambda: lstm()(np.ma.masked_less(X, 0)), TypeError, "x is a masked array; expected an array without"),
    "device": (
        lambda: lstm()(OnAnotherDevice()),
        TypeError,
        "x is a OnAnotherDevice that NumPy cannot read: can't convert cuda:0",
    ),
    "ragged": (lambda: lstm()([[1.0], [1.0, 2.0]]), TypeError, "x is a list that NumPy cannot read"),
    "token_too_large": (
        lambda: lstm()(np.array([[0, 3]])),
        ValueError,
        "x holds the token 3; expected 0 <= token < input_size = 3",
    ),
    "token_negative": (lambda: lstm()(np.array([[0, -1]])), ValueError, "x holds the token -1; expected 0 <= token"),
    "token_beyond_int64": (
        lambda: lstm()(np.array([[0, 2**63 + 1]], np.uint64)),
        ValueError,
        "x holds the token 9223372036854775809; expected 0 <= token",
    ),
    "features_batch_first": (
        lambda: lstm(batch_first=True)(X[..., :2]),
        ValueError,
        "x has shape (5, 2, 2); expected (N, T, I) = (any, any, 3)",
    ),
}

BAD_LENGTHS: dict[str, Mistake] = {
    "too_long": (lambda: lstm()(X, lengths=[6, 3]), ValueError, "lengths holds 6; expected 0 <= length <= T = 5"),
    "negative": (lambda: lstm()(X, lengths=[5, -1]), ValueError, "lengths holds -1; expected 0 <= length <= T = 5"),
    "beyond_int64": (
        lambda: lstm()(X, lengths=np.array([5, 2**63], np.uint64)),
        ValueError,
        "lengths holds 9223372036854775808; expected 0 <= length",
    ),
    "token_within": (
        lambda: gru()(np.array([[0, 7], [1, 3]]), lengths=[1, 2]),
        ValueError,
        "x holds the token 7; expected 0 <= token < input_size = 3",
    ),
    "token_without_padding": (
        lambda: gru()(np.array([[0, 1], [1, 3]]), lengths=[2, 2]),
        ValueError,
        "x holds the token 3; expected 0 <= token < input_size = 3",
    ),
    "forward": (lambda: gru().forward(X, lengths=[6, 3]), ValueError, "lengths holds 6; expected"),
    "trace": (lambda: gru().trace(X, lengths=[6, 3]), ValueError, "lengths holds 6; expected"),
    **{
        f"{dtype}": (
            lambda dtype=dtype: lstm()(X, lengths=np.array([5, 3]).astype(dtype)),
            TypeError,
            f"lengths has dtype {np.dtype(dtype)}; expected integers",
        )
        for dtype in ("float64", "float32", "bool", "complex64", "object", "U5")
    },
    "nan": (lambda: lstm()(X, lengths=[5, np.nan]), TypeError, "lengths has dtype float64; expected integers"),
    "too_many": (lambda: lstm()(X, lengths=[5, 3, 1]), ValueError, "lengths has shape (3,); expected (N,) = (2,)"),
    "two_axes": (lambda: lstm()(X, lengths=[[5, 3]]), ValueError, "lengths has shape (1, 2); expected (N,) = (2,)"),
    "one_number": (lambda: lstm()(X, lengths=5), ValueError, "lengths has shape (); expected (N,) = (2,)"),
    "of_batch_first": (
        lambda: lstm(batch_first=True)(X, lengths=[1, 2]),
        ValueError,
        "lengths has shape (2,); expected (N,) = (5,)",
    ),
    "masked": (
        lambda: lstm()(X, lengths=np.ma.masked_less([5, 3], 4)),
        TypeError,
        "lengths is a masked array; expected an array without",
    ),
    "ragged": (lambda: lstm()(X, lengths=[[5], [3, 1]]), TypeError, "lengths is a list that NumPy cannot read"),
    "unbatched": (
        lambda: lstm()(X[:, 0], lengths=[5]),
        ValueError,
        "lengths is given, but x has shape (5, 3); expected a batch with it",
    ),
    "unbatched_tokens": (
        lambda: lstm()(np.zeros(5, int), lengths=[5]),
        ValueError,
        "lengths is given, but x has shape (5,); expected a batch with it",
    ),
}

FLAGS = np.ones((T, N), bool)

BAD_FLAGS: dict[str, Mistake] = {
    "integers": (
        lambda: lstm()(X, mask=FLAGS.astype(int)),
        TypeError,
        "mask has dtype int64; expected bool: use mask.astype(bool)",
    ),
    "list_of_integers": (
        lambda: gru()(X, resets=[[0, 1]] * T),
        TypeError,
        "resets has dtype int64; expected bool: use np.array(resets, bool)",
    ),
    "text": (lambda: gru()(X, resets="all"), TypeError, "resets has dtype <U3; expected bool"),
    "one_flag": (lambda: gru()(X, mask=True), ValueError, "mask has shape (); expected (T, N) = (5, 2)"),
    "turned": (
        lambda: lstm()(X, mask=FLAGS.T),
        ValueError,
        "mask has shape (2, 5); expected (T, N) = (5, 2): use mask.T",
    ),
    "turned_batch_first": (
        lambda: lstm(batch_first=True)(X, resets=FLAGS.T),
        ValueError,
        "resets has shape (2, 5); expected (N, T) = (5, 2): use resets.T",
    ),
    "of_lengths": (lambda: gru()(X, mask=FLAGS[0]), ValueError, "mask has shape (2,); expected (T, N) = (5, 2)"),
    "single": (lambda: gru()(X[:, 0], resets=FLAGS), ValueError, "resets has shape (5, 2); expected (T,) = (5,)"),
    "masked_array": (
        lambda: gru()(X, mask=np.ma.masked_array(FLAGS)),
        TypeError,
        "mask is a masked array; expected an array without a mask",
    ),
    "masked": (lambda: gru()(X, masked="first"), ValueError, "masked is 'first'; expected 'zero' or 'last'"),
    "masked_is_the_mask": (lambda: gru()(X, masked=FLAGS), TypeError, "masked is"),
    "forward": (lambda: gru().forward(X, mask=FLAGS[:2]), ValueError, "mask has shape (2, 2); expected (T, N)"),
    "trace": (lambda: gru().trace(X, resets=FLAGS[:2]), ValueError, "resets has shape (2, 2); expected (T, N)"),
    "reset_word": (
        lambda: gru()(X, resets=FLAGS, reset_state="zero"),
        ValueError,
        "reset_state is 'zero'; expected None for zeros, 'initial', or a state",
    ),
    "reset_shape": (
        lambda: gru()(X, resets=FLAGS, reset_state=STATE[:1]),
        ValueError,
        "reset_state has shape (1, 2, 4); expected (L*D, N, H) = (2, 2, 4)",
    ),
    "reset_of_two_states": (
        lambda: lstm()(X, resets=FLAGS, reset_state=(STATE, STATE[:, :1])),
        ValueError,
        "reset_state[1] has shape (2, 1, 4); expected (L*D, N, H) = (2, 2, 4)",
    ),
    "reset_of_one_state": (
        lambda: lstm()(X, resets=FLAGS, reset_state=STATE),
        TypeError,
        "reset_state is an array of shape (2, 2, 4); expected a tuple (reset_state[0], reset_state[1])",
    ),
    "reset_dtype": (
        lambda: gru()(X, reset_state=STATE.astype(float)),
        TypeError,
        "reset_state has dtype float64; expected float32",
    ),
    "masked_token": (
        lambda: gru()(np.array([[0, 7], [1, 3]]), mask=[[True, False], [True, True]]),
        ValueError,
        "x holds the token 3; expected 0 <= token < input_size = 3",
    ),
}

BAD_STATE: dict[str, Mistake] = {
    "array_for_lstm": (
        lambda: lstm()(X, STATE),
        TypeError,
        "the state is an array of shape (2, 2, 4); expected a tuple (h_0, c_0)",
    ),
    "three_for_lstm": (
        lambda: lstm()(X, (STATE,) * 3),
        TypeError,
        "the state is a tuple of 3; expected a tuple (h_0, c_0)",
    ),
    "tuple_for_gru": (
        lambda: gru()(X, (STATE, STATE)),
        ValueError,
        "h_0 has shape (2, 2, 2, 4); expected (L*D, N, H) = (2, 2, 4)",
    ),
    "layers": (
        lambda: lstm()(X, (STATE[:1], STATE)),
        ValueError,
        "h_0 has shape (1, 2, 4); expected (L*D, N, H) = (2, 2, 4)",
    ),
    "layers_of_one_direction": (
        lambda: gru(bidirectional=True)(X, STATE),
        ValueError,
        "h_0 has shape (2, 2, 4); expected (L*D, N, H) = (4, 2, 4)",
    ),
    "without_projection": (
        lambda: lstm(proj_size=2)(X, (STATE, STATE)),
        ValueError,
        "h_0 has shape (2, 2, 4); expected (L*D, N, P) = (2, 2, 2)",
    ),
    "all_projected": (
        lambda: lstm(proj_size=2)(X, (STATE[..., :2], STATE[..., :2])),
        ValueError,
        "c_0 has shape (2, 2, 2); expected (L*D, N, H) = (2, 2, 4)",
    ),
    "batch": (
        lambda: lstm()(X, (STATE, STATE[:, :1])),
        ValueError,
        "c_0 has shape (2, 1, 4); expected (L*D, N, H) = (2, 2, 4)",
    ),
    "batched_for_unbatched": (
        lambda: gru()(X[:, 0], STATE),
        ValueError,
        "h_0 has shape (2, 2, 4); expected (L*D, H) = (2, 4)",
    ),
    "dtype": (
        lambda: lstm()(X, (STATE, STATE.astype(float))),
        TypeError,
        "c_0 has dtype float64; expected float32",
    ),
    "half_missing": (lambda: lstm()(X, (STATE, None)), TypeError, "c_0 is None; expected an array"),
    "masked": (lambda: gru()(X, np.ma.masked_less(STATE, 0)), TypeError, "h_0 is a masked array"),
    "device": (lambda: lstm()(X, (OnAnotherDevice(), STATE)), TypeError, "h_0 is a OnAnotherDevice that NumPy cannot"),
}


def backward(module: Any, *gradients: Any) -> Any:
    return module.backward(module.forward(X)[2], *gradients)


DY = np.ones((T, N, H), np.float32)
BAD_BACKWARD: dict[str, Mistake] = {
    "dy_shape": (
        lambda: backward(lstm(), DY[1:]),
        ValueError,
        "dy has shape (4, 2, 4); expected y's shape = (5, 2, 4)",
    ),
    "dy_dtype": (lambda: backward(gru(), DY.astype(float)), TypeError, "dy has dtype float64; expected float32"),
    "dy_integers": (lambda: backward(gru(), DY.astype(int)), TypeError, "dy has dtype int64; expected float32"),
    "dy_masked": (lambda: backward(gru(), np.ma.masked_less(DY, 0)), TypeError, "dy is a masked array"),
    "dy_device": (lambda: backward(gru(), OnAnotherDevice()), TypeError, "dy is a OnAnotherDevice that NumPy cannot"),
    "dstate_array_for_lstm": (
        lambda: backward(lstm(), DY, STATE),
        TypeError,
        "expected a tuple (dh_n, dc_n)",
    ),
    "dstate_shape": (
        lambda: backward(lstm(), DY, (None, STATE[:1])),
        ValueError,
        "dc_n has shape (1, 2, 4); expected (L*D, N, H) = (2, 2, 4)",
    ),
    "dstate_dtype": (
        lambda: backward(gru(), DY, STATE.astype("float16")),
        TypeError,
        "dh_n has dtype float16; expected float32",
    ),
    "dy_of_one_direction": (
        lambda: backward(gru(bidirectional=True), DY),
        ValueError,
        "dy has shape (5, 2, 4); expected y's shape = (5, 2, 8)",
    ),
    "dstate_projected": (
        lambda: backward(lstm(proj_size=2), DY[..., :2], (STATE, None)),
        ValueError,
        "dh_n has shape (2, 2, 4); expected (L*D, N, P) = (2, 2, 2)",
    ),
    **{
        f"checkpoint_every_{value!r}": (
            lambda value=value: gru().forward(X, checkpoint_every=value),
            error,
            f"checkpoint_every is {value!r}; expected an integer of at least 1",
        )
        for value, error in ((0, ValueError), (-3, ValueError), (2.0, TypeError), (True, TypeError), ("2", TypeError))
    },
    "tape": (lambda: lstm().backward([DY]), TypeError, "tape is a list; expected the tape that forward returned"),
}

BAD_CONSTRUCTION: dict[str, Mistake] = {
    **{
        f"dropout_{value!r}": (
            lambda value=value: gru(dropout=value),
            error,
            f"dropout is {value!r}; expected a number from 0 to 1",
        )
        for value, error in (
            (-0.1, ValueError),
            (1.5, ValueError),
            (float("nan"), ValueError),
            (True, TypeError),
            ("0.5", TypeError),
            (None, TypeError),
        )
    },
    **{
        f"proj_size_{value!r}": (lambda value=value: lstm(proj_size=value), error, f"proj_size is {value!r}; expected")
        for value, error in (
            (H, ValueError),
            (H + 1, ValueError),
            (-1, ValueError),
            (2.0, TypeError),
            (True, TypeError),
            (None, TypeError),
        )
    },
    "proj_size_of_gru": (lambda: gru(proj_size=2), TypeError, "unexpected keyword argument 'proj_size'"),
    "proj_size_of_rnn": (lambda: fastrnn.RNN(I, H, proj_size=2), TypeError, "unexpected keyword argument 'proj_size'"),
    **{
        f"{name}_{value!r}": (
            lambda name=name, value=value: fastrnn.RNN(**({"input_size": I, "hidden_size": H} | {name: value})),
            error,
            f"{name} is {value!r}; expected an integer of at least 1",
        )
        for name in ("input_size", "hidden_size", "num_layers", "num_threads")
        for value, error in ((0, ValueError), (-1, ValueError), (2.5, TypeError), (True, TypeError), ("3", TypeError))
    },
    **{
        f"dtype_{dtype!r}": (
            lambda dtype=dtype: lstm(dtype=dtype),
            TypeError,
            f"dtype is {dtype!r}; expected float32 or float64",
        )
        for dtype in ("float16", "int64", "nonsense", complex, object, np.dtype("f4").newbyteorder(), 7)
    },
    "nonlinearity": (
        lambda: fastrnn.RNN(I, H, nonlinearity="sigmoid"),
        ValueError,
        "nonlinearity is 'sigmoid'; expected 'tanh' or 'relu'",
    ),
    "seed_negative": (lambda: fastrnn.RNN(I, H, seed=-1), ValueError, "seed is -1; expected"),
    "seed_text": (lambda: fastrnn.RNN(I, H, seed="one"), TypeError, "seed is 'one'; expected"),
    "backend": (lambda: lstm(backend="cuda"), BackendError, "backend is 'cuda'; expected one of cython, numba, numpy"),
    "set_num_threads_0": (
        lambda: fastrnn.set_num_threads(0),
        ValueError,
        "num_threads is 0; expected an integer of at least 1",
    ),
    "set_num_threads_2.5": (
        lambda: fastrnn.set_num_threads(2.5),
        TypeError,
        "num_threads is 2.5; expected an integer of at least 1",
    ),
}


def load(**changes: Any) -> None:
    module = lstm()
    values = {name: value for name, value in (module.state_dict() | changes).items() if value is not None}
    module.load_state_dict(values)


BAD_STATE_DICT: dict[str, Mistake] = {
    "of_one_direction": (
        lambda: lstm(bidirectional=True).load_state_dict(lstm().state_dict()),
        KeyError,
        "state_dict: missing ['weight_ih_l0_reverse', 'weight_hh_l0_reverse', 'bias_ih_l0_reverse', "
        "'bias_hh_l0_reverse', 'weight_ih_l1_reverse', 'weight_hh_l1_reverse', 'bias_ih_l1_reverse', "
        "'bias_hh_l1_reverse'], unexpected []",
    ),
    "of_a_projection": (
        lambda: lstm().load_state_dict(lstm(proj_size=2).state_dict()),
        KeyError,
        "state_dict: missing [], unexpected ['weight_hr_l0', 'weight_hr_l1']",
    ),
    "of_a_cell": (
        lambda: fastrnn.GRUCell(I, H, bias=False).load_state_dict(fastrnn.GRU(I, H, bias=False).state_dict()),
        KeyError,
        "state_dict: missing ['weight_ih', 'weight_hh'], unexpected ['weight_ih_l0', 'weight_hh_l0']",
    ),
    "names": (
        lambda: load(weight_hh_l1=None, weight_hh_l2=STATE),
        KeyError,
        "state_dict: missing ['weight_hh_l1'], unexpected ['weight_hh_l2']",
    ),
    "shape": (
        lambda: load(bias_hh_l1=np.zeros(15)),
        ValueError,
        "state_dict['bias_hh_l1'] has shape (15,); expected (16,)",
    ),
    **{
        f"dtype_{dtype}": (
            lambda dtype=dtype: load(bias_hh_l1=np.zeros(16).astype(dtype)),
            TypeError,
            f"state_dict['bias_hh_l1'] has dtype {np.dtype(dtype)}; expected real numbers",
        )
        for dtype in ("complex64", "object", "U5", "bool")
    },
    "masked": (lambda: load(bias_hh_l1=np.ma.masked_less(np.zeros(16), 1)), TypeError, "['bias_hh_l1'] is a masked"),
    "device": (
        lambda: load(bias_hh_l1=OnAnotherDevice()),
        TypeError,
        "['bias_hh_l1'] is a OnAnotherDevice that NumPy cannot read",
    ),
}


ROWS, ROWS_STATE = X[0], STATE[0]  # of one step


def lstm_cell(**options: Any) -> fastrnn.LSTMCell:
    return fastrnn.LSTMCell(I, H, seed=0, **options)


def gru_cell(**options: Any) -> fastrnn.GRUCell:
    return fastrnn.GRUCell(I, H, seed=0, **options)


def cell_backward(cell: Any, dstate: Any) -> Any:
    return cell.backward(cell.forward(ROWS)[1], dstate)


BAD_CELL: dict[str, Mistake] = {
    "features": (lambda: lstm_cell()(ROWS[:, :2]), ValueError, "x has shape (2, 2); expected (N, I) = (any, 3)"),
    "features_unbatched": (lambda: gru_cell()(ROWS[0, :2]), ValueError, "x has shape (2,); expected (I,) = (3,)"),
    "sequence": (lambda: lstm_cell()(X), ValueError, "x has shape (5, 2, 3); expected (N, I) or (I,), I = 3"),
    "no_axis": (lambda: lstm_cell()(np.float32(1)), ValueError, "x has shape (); expected (N, I) or (I,), I = 3"),
    "tokens": (lambda: gru_cell()(ROWS.astype(int)), ValueError, "x has shape (2, 3); expected (N,) or () for token"),
    "token_too_large": (
        lambda: gru_cell()([0, 3]),
        ValueError,
        "x holds the token 3; expected 0 <= token < input_size",
    ),
    "dtype": (lambda: lstm_cell()(ROWS.astype(float)), TypeError, "x has dtype float64; expected float32"),
    "masked": (lambda: lstm_cell()(np.ma.masked_less(ROWS, 0)), TypeError, "x is a masked array"),
    "state_array_for_lstm": (
        lambda: lstm_cell()(ROWS, ROWS_STATE),
        TypeError,
        "the state is an array of shape (2, 4); expected a tuple (h_0, c_0)",
    ),
    "state_with_layers": (lambda: gru_cell()(ROWS, STATE), ValueError, "h_0 has shape (2, 2, 4); expected (N, H)"),
    "state_batch": (
        lambda: lstm_cell()(ROWS, (ROWS_STATE, ROWS_STATE[:1])),
        ValueError,
        "c_0 has shape (1, 4); expected (N, H) = (2, 4)",
    ),
    "state_of_a_batch": (
        lambda: gru_cell()(ROWS[0], ROWS_STATE),
        ValueError,
        "h_0 has shape (2, 4); expected (H,) = (4,)",
    ),
    "state_dtype": (lambda: gru_cell()(ROWS, ROWS_STATE.astype(float)), TypeError, "h_0 has dtype float64; expected"),
    "dstate_array_for_lstm": (
        lambda: cell_backward(lstm_cell(), ROWS_STATE),
        TypeError,
        "expected a tuple (dh_n, dc_n)",
    ),
    "dstate_shape": (
        lambda: cell_backward(gru_cell(), ROWS_STATE[:1]),
        ValueError,
        "dh_n has shape (1, 4); expected (N, H) = (2, 4)",
    ),
    "tape": (lambda: gru_cell().backward(ROWS, None), TypeError, "tape is a ndarray; expected the tape that forward"),
    "tape_of_a_module": (
        lambda: gru_cell().backward(gru().forward(X)[2], None),
        ValueError,
        "tape is another module's; expected one from this module's forward",
    ),
    "hidden_size": (lambda: fastrnn.RNNCell(I, 0), ValueError, "hidden_size is 0; expected an integer of at least 1"),
    "nonlinearity": (lambda: fastrnn.RNNCell(I, H, True, "sin"), ValueError, "nonlinearity is 'sin'; expected 'tanh'"),
    "dtype_of_parameters": (lambda: gru_cell(dtype="float16"), TypeError, "dtype is 'float16'; expected float32"),
    "num_threads": (lambda: gru_cell(num_threads=0), ValueError, "num_threads is 0; expected an integer of at least 1"),
    "backend": (lambda: gru_cell(backend="cuda"), BackendError, "backend is 'cuda'; expected one of"),
}


def step(batch_size: int | None = N, *given: Any, **options: Any) -> Any:
    return gru(**options).stream(batch_size).step(*given)


def set_state(module: Any, state: Any) -> None:
    module.stream(N).state = state


OUT = np.zeros((N, H), np.float32)
BAD_STREAM: dict[str, Mistake] = {
    "bidirectional": (
        lambda: gru(bidirectional=True).stream(),
        ValueError,
        "a bidirectional module has no stream: its reverse direction starts at the last step",
    ),
    **{
        f"batch_size_{value!r}": (
            lambda value=value: gru().stream(value),
            error,
            f"batch_size is {value!r}; expected an integer of at least 1",
        )
        for value, error in ((0, ValueError), (-1, ValueError), (2.0, TypeError), (True, TypeError), ("2", TypeError))
    },
    "batch": (lambda: step(3, ROWS), ValueError, "x has shape (2, 3); expected (N, I) = (3, 3)"),
    "features": (lambda: step(N, ROWS[:, :2]), ValueError, "x has shape (2, 2); expected (N, I) = (2, 3)"),
    "unbatched": (lambda: step(N, ROWS[0]), ValueError, "x has shape (3,); expected (N, I) = (2, 3)"),
    "batch_for_none": (lambda: step(None, ROWS), ValueError, "x has shape (2, 3); expected (I,) = (3,)"),
    "sequence": (lambda: step(N, X), ValueError, "x has shape (5, 2, 3); expected (N, I) = (2, 3)"),
    "none": (lambda: step(N, None), TypeError, "x is None; expected an array"),
    "dtype": (lambda: step(N, ROWS.astype(float)), TypeError, "x has dtype float64; expected float32"),
    "float32_for_float64": (lambda: step(N, ROWS, dtype=float), TypeError, "x has dtype float32; expected float64"),
    "masked": (lambda: step(N, np.ma.masked_less(ROWS, 0)), TypeError, "x is a masked array"),
    "device": (lambda: step(N, OnAnotherDevice()), TypeError, "x is a OnAnotherDevice that NumPy cannot read"),
    "tokens": (lambda: step(N, [0, 1, 2]), ValueError, "x has shape (3,); expected (N,) = (2,) for token indices"),
    "tokens_for_none": (lambda: step(None, [0]), ValueError, "x has shape (1,); expected () for token indices"),
    "token_too_large": (lambda: step(N, [0, 3]), ValueError, "x holds the token 3; expected 0 <= token < input_size"),
    "out_shape": (lambda: step(N, ROWS, OUT[:1]), ValueError, "out has shape (1, 4); expected (N, P) = (2, 4)"),
    "out_for_none": (lambda: step(None, ROWS[0], OUT), ValueError, "out has shape (2, 4); expected (P,) = (4,)"),
    "out_dtype": (lambda: step(N, ROWS, OUT.astype(float)), TypeError, "out has dtype float64; expected float32"),
    "out_byte_swapped": (lambda: step(N, ROWS, OUT.astype(">f4")), TypeError, "out has dtype >f4; expected float32"),
    "out_list": (lambda: step(N, ROWS, OUT.tolist()), TypeError, "out is a list; expected an array"),
    "out_read_only": (lambda: step(N, ROWS, np.broadcast_to(OUT, OUT.shape)), ValueError, "out is read-only, not"),
    "out_spread": (lambda: step(N, ROWS, np.zeros((N, 2 * H), "f4")[:, ::2]), ValueError, "out is read-only, not"),
    "state_of_a_cell": (
        lambda: set_state(gru(), ROWS_STATE),
        ValueError,
        "h has shape (2, 4); expected (L, N, H) = (2, 2, 4)",
    ),
    "state_array_for_lstm": (
        lambda: set_state(lstm(), STATE),
        TypeError,
        "the state is an array of shape (2, 2, 4); expected a tuple (h, c)",
    ),
    "state_projected": (
        lambda: set_state(lstm(proj_size=2), (STATE, STATE)),
        ValueError,
        "h has shape (2, 2, 4); expected (L, N, P) = (2, 2, 2)",
    ),
    "state_dtype": (lambda: set_state(gru(), STATE.astype(float)), TypeError, "h has dtype float64; expected float32"),
    "rows_mask": (
        lambda: gru().stream(N).reset([True]),
        ValueError,
        "rows has shape (1,); expected a mask (N,) = (2,)",
    ),
    "rows_too_large": (
        lambda: gru().stream(N).reset([0, 2]),
        ValueError,
        "rows holds 2; expected 0 <= row < batch_size = 2",
    ),
    "rows_negative": (lambda: gru().stream(N).reset(-1), ValueError, "rows holds -1; expected 0 <= row < batch_size"),
    "rows_float": (lambda: gru().stream(N).reset([1.0]), TypeError, "rows has dtype float64; expected integers or"),
    "rows_for_none": (
        lambda: gru().stream(None).reset([0]),
        ValueError,
        "rows is [0], but the stream has no batch; expected None",
    ),
}


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        pytest.param(*mistake, id=f"{group}-{name}")
        for group, mistakes in {
            "x": BAD_X,
            "lengths": BAD_LENGTHS,
            "flags": BAD_FLAGS,
            "state": BAD_STATE,
            "backward": BAD_BACKWARD,
            "constructor": BAD_CONSTRUCTION,
            "state_dict": BAD_STATE_DICT,
            "cell": BAD_CELL,
            "stream": BAD_STREAM,
        }.items()
        for name, mistake in mistakes.items()
    ],
)
def test_mistake_is_named(restored: None, call: Callable[[], Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=re.escape(text)):
        call()


def test_failed_load_loads_nothing() -> None:
    module = lstm()
    before = module.state_dict()
    wrong = {name: np.zeros_like(value) for name, value in before.items()} | {"bias_hh_l1": np.zeros(15)}
    with pytest.raises(ValueError, match="bias_hh_l1"):
        module.load_state_dict(wrong)
    for name, value in before.items():
        assert_same_bits(name, module.parameters[name], value)


def test_failed_backward_leaves_the_tape_usable() -> None:
    module = lstm()
    _, _, tape = module.forward(X)
    with pytest.raises(ValueError, match="dy has shape"):
        module.backward(tape, DY[1:])
    with pytest.raises(ValueError, match="dc_n has shape"):
        module.backward(tape, DY, (STATE, STATE[:1]))
    want = backward(lstm(), DY)
    assert_same_bits("dx", module.backward(tape, DY)[0], want[0])


@pytest.mark.parametrize("backend", list(BACKENDS), indirect=True)
@pytest.mark.parametrize("options", [{}, {"bidirectional": True}, {"proj_size": 2, "dropout": 0.5}], ids=str)
def test_module_goes_on_after_mistakes(backend: str, options: dict[str, Any]) -> None:
    """A call that was refused changes nothing: no parameter, no state, not what dropout draws next."""
    module, fresh = (lstm(backend=backend, **options) for _ in range(2))
    mistakes: list[Callable[[], Any]] = [
        lambda: module(X[..., :2]),
        lambda: module(X, lengths=[9, 1]),
        lambda: module(X, (STATE, STATE[:1])),
        lambda: module.forward(X, lengths=[1.5, 2]),
        lambda: module.forward(X, checkpoint_every=0),
        lambda: module.trace(X.astype(float)),
        lambda: module.load_state_dict({name: p for name, p in fresh.parameters.items() if name != "bias_hh_l1"}),
        lambda: module.stream(0),
    ]
    for mistake in mistakes:
        with pytest.raises((TypeError, ValueError, KeyError)):
            mistake()
    for name, value in fresh.parameters.items():
        assert_same_bits(name, module.parameters[name], value)
    assert_same_bits("y", module(X, lengths=[5, 2])[0], fresh(X, lengths=[5, 2])[0])
    assert_same_bits("y", module.forward(X)[0], fresh.forward(X)[0])


@pytest.mark.parametrize("backend", list(BACKENDS), indirect=True)
def test_stream_goes_on_after_mistakes(backend: str) -> None:
    stream, fresh = (lstm(backend=backend).stream(N) for _ in range(2))
    for each in (stream, fresh):
        each.step(ROWS)
    mistakes: list[Callable[[], Any]] = [
        lambda: stream.step(ROWS[:1]),
        lambda: stream.step(ROWS.astype(float)),
        lambda: stream.step([0, 9]),
        lambda: stream.step(ROWS, OUT[:1]),
        lambda: stream.reset([0, 5]),
        lambda: setattr(stream, "state", (STATE, STATE[:1])),
        lambda: setattr(stream, "state", None),
    ]
    for mistake in mistakes:
        with pytest.raises((TypeError, ValueError)):
            mistake()
    for one, other in zip(stream.state, fresh.state, strict=True):
        assert_same_bits("state", one, other)
    assert_same_bits("y", stream.step(ROWS), fresh.step(ROWS))


def test_dropout_of_one_layer_warns() -> None:
    for module in (fastrnn.RNN, fastrnn.LSTM, fastrnn.GRU):
        with pytest.warns(UserWarning, match=r"dropout=0.5 has no effect on one layer") as warned:
            module(I, H, dropout=0.5)
        assert warned[0].filename == __file__


def test_torch_refuses_the_same(torch: ModuleType) -> None:
    """What is a mistake for torch.nn is one here."""
    for options in ({"dropout": 1.5}, {"dropout": True}, {"proj_size": H}, {"proj_size": -1}, {"hidden_size": 0}):
        sizes = {"input_size": I, "hidden_size": H, "num_layers": L} | options
        for library in (torch.nn, fastrnn):
            with pytest.raises((TypeError, ValueError)):
                library.LSTM(**sizes)


# Unusual arrays


def spread(array: Array) -> Array:
    """Every second element along every axis of a larger array of NaN (of -1)."""
    wide = np.full([2 * n + 1 for n in array.shape], np.nan if array.dtype.kind == "f" else -1).astype(array.dtype)
    view = wide[tuple(slice(1, None, 2) for _ in array.shape)]
    view[...] = array
    return view


def misalign(array: Array) -> Array:
    raw = b"\xff" + array.tobytes() + b"\xff"
    return np.frombuffer(raw, array.dtype, array.size, offset=1).reshape(array.shape)


def read_only(array: Array) -> Array:
    copy = array.copy()
    copy.flags.writeable = False
    return copy


class Backwards(np.ndarray):
    """A subclass whose indexing and products mean something else."""

    def __getitem__(self, key: Any) -> Any:
        return super().__getitem__(key)[::-1]

    def __matmul__(self, other: Any) -> Any:
        raise AssertionError("the subclass's product was used")


class Interface:
    """Something that is no array but shows its memory."""

    def __init__(self, array: Array) -> None:
        self.__array_interface__ = array.__array_interface__
        self.kept = array


ARRANGEMENTS: dict[str, Callable[[Array], Any]] = {
    "spread": spread,
    "fortran": np.asfortranarray,
    "reversed": lambda a: np.flip(np.flip(a).copy()),
    "transposed": lambda a: np.ascontiguousarray(a.T).T,
    "byte_swapped": lambda a: a.astype(a.dtype.newbyteorder()),
    "byte_swapped_spread": lambda a: spread(a.astype(a.dtype.newbyteorder())),
    "read_only": read_only,
    "misaligned": misalign,
    "broadcast_time": lambda a: np.broadcast_to(a[:1], a.shape),
    "broadcast_all": lambda a: np.broadcast_to(a.ravel()[0], a.shape),
    "subclass": lambda a: a.view(Backwards),
    "interface": Interface,
    "memoryview": memoryview,
}


def train(module: Any, x: Any, state: Any, dy: Any, dstate: Any) -> Outcome:
    """Forward and backward of a LSTM."""
    y, (h_n, c_n), tape = module.forward(x, state)
    dx, (dh_0, dc_0), grads = module.backward(tape, dy, dstate)
    outcome = grads | {"y": y, "h_n": h_n, "c_n": c_n, "dh_0": dh_0, "dc_0": dc_0}
    return outcome if dx is None else outcome | {"dx": dx}


@pytest.mark.parametrize("backend", list(BACKENDS), indirect=True)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("options", [{}, {"batch_first": True}, {"unbatched": True}, {"tokens": True}], ids=str)
@pytest.mark.parametrize("arrangement", list(ARRANGEMENTS))
def test_any_arrangement_of_memory_gives_the_same_bits(
    backend: str, dtype: str, options: dict[str, bool], arrangement: str
) -> None:
    arrange, batch_first = ARRANGEMENTS[arrangement], options.get("batch_first", False)
    module = fastrnn.LSTM(I, H, L, seed=0, backend=backend, dtype=dtype, batch_first=batch_first)
    rng = np.random.default_rng(5)
    batch = () if options.get("unbatched") else (N,)
    leading = (N, T) if batch_first else (T, *batch)
    real = [rng.standard_normal(s).astype(dtype) for s in ((*leading, H), *[(L, *batch, H)] * 4, (*leading, I))]
    x = rng.integers(I, size=leading) if options.get("tokens") else real.pop()
    given = [arrange(array) for array in (x, *real[:5])]
    plain = [np.array(array).astype(np.asarray(array).dtype.newbyteorder("="), order="C") for array in given]
    before = [np.asarray(array).tobytes() for array in given]
    got, want = (train(module, a[0], (a[2], a[3]), a[1], (a[4], a[5])) for a in (given, plain))
    for name, value in want.items():
        assert_same_bits(name, got[name], value)
    assert [np.asarray(array).tobytes() for array in given] == before, "an input was written to"


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", ">i4", "uint32", "int64", "uint64", ">u8"])
def test_tokens_of_any_integer_dtype(dtype: str) -> None:
    tokens = np.array([[0, 1], [2, 2], [1, 0]])
    want, _ = lstm()(tokens)
    assert_same_bits("y", lstm()(tokens.astype(dtype))[0], want)
    assert_same_bits("y", lstm()(tokens.tolist())[0], want)


def test_lists_are_float64() -> None:
    module = lstm(dtype="float64")
    x = X.astype(float)
    assert_same_bits("y", module(x.tolist())[0], module(x)[0])


@pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")
def test_matrix_is_one_sequence() -> None:
    matrix = np.matrix(X[:, 0])
    y, (h_n, _) = lstm()(matrix, (np.matrix(STATE[:, 0]), np.matrix(STATE[:, 1])))
    want, (want_h_n, _) = lstm()(X[:, 0], (STATE[:, 0], STATE[:, 1]))
    assert type(y) is np.ndarray
    assert_same_bits("y", y, want)
    assert_same_bits("h_n", h_n, want_h_n)


def test_tensors_are_read_and_left_alone(torch: ModuleType) -> None:
    x, state, dy = (torch.from_numpy(a.copy()) for a in (X, STATE, DY))
    got = train(lstm(), x.transpose(0, 1).contiguous().transpose(0, 1), (state, state), dy, (state, state))
    for name, value in train(lstm(), X, (STATE, STATE), DY, (STATE, STATE)).items():
        assert_same_bits(name, got[name], value)
    for tensor, array in ((x, X), (state, STATE), (dy, DY)):
        assert_same_bits("input", tensor.numpy(), array)


def test_tensor_that_requires_grad_is_refused(torch: ModuleType) -> None:
    tensor = torch.from_numpy(X.copy()).requires_grad_()
    with pytest.raises(TypeError, match=r"x is a Tensor that NumPy cannot read: .*detach"):
        lstm()(tensor)


@pytest.mark.parametrize("arrangement", ["spread", "fortran", "byte_swapped", "read_only", "misaligned", "subclass"])
def test_state_dict_of_any_arrangement_loads(arrangement: str) -> None:
    source, module = lstm(), fastrnn.LSTM(I, H, L, seed=1)
    module.load_state_dict({name: ARRANGEMENTS[arrangement](value) for name, value in source.parameters.items()})
    for name, value in source.parameters.items():
        assert_same_bits(name, module.parameters[name], value)


REMEDIES: dict[str, Mistake] = {
    "float64": (
        lambda: lstm()(X.astype("f8")),
        TypeError,
        "x has dtype float64; expected float32: use x.astype(np.float32), or dtype='float64' for the module",
    ),
    "float32": (
        lambda: lstm(dtype="float64")(X),
        TypeError,
        "x has dtype float32; expected float64: use x.astype(np.float64), or dtype='float32' for the module",
    ),
    "list": (
        lambda: lstm()(X.tolist()),
        TypeError,
        "x has dtype float64; expected float32: use np.array(x, np.float32)",
    ),
    "none": (lambda: lstm()(None), TypeError, "x is None; expected an array"),
    "targets": (
        lambda: mse(X, [[["a"]]]),
        TypeError,
        "targets has dtype <U1; expected real numbers",
    ),
    "no_state_dict": (
        lambda: lstm().load_state_dict(None),  # type: ignore[arg-type]
        TypeError,
        "state_dict is None; expected a mapping of names to arrays",
    ),
    "prefix": (
        lambda: gru().load_state_dict({f"gru.{name}": p for name, p in gru().parameters.items()} | {"out.bias": X}),
        KeyError,
        "name.removeprefix('gru.')",
    ),
    "biases": (
        lambda: fastrnn.GRU(I, H, L, bias=False).load_state_dict(gru().state_dict()),
        KeyError,
        "expected no biases, as the module was made with bias=False",
    ),
    "no_biases": (
        lambda: gru().load_state_dict(fastrnn.GRU(I, H, L, bias=False).state_dict()),
        KeyError,
        "expected biases, as the module was made with bias=True",
    ),
    "of_another_cell": (
        lambda: from_keras_weights(fastrnn.GRU(I, H, bias=False), [np.ones((I, 4 * H)), np.ones((H, 4 * H))]),
        ValueError,
        "weights[0] has shape (3, 16); expected (3, 12), for weight_ih_l0",
    ),
}


@pytest.mark.parametrize(("call", "error", "text"), REMEDIES.values(), ids=REMEDIES)
def test_what_to_do_is_said(call: Callable[[], Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error) as caught:
        call()
    assert text in str(caught.value.args[0])


def test_what_to_do_with_a_tensor_is_said(torch: ModuleType) -> None:
    module = torch.nn.GRU(I, H, L)
    with pytest.raises(TypeError, match=r"use state_dict\['weight_ih_l0'\].detach\(\)"):
        gru().load_state_dict(dict(module.named_parameters()))
    with pytest.raises(TypeError, match=r"use x.float\(\)"):
        lstm()(torch.from_numpy(X.copy()).bfloat16())


class Endless(list[Any]):
    """What NumPy goes into for ever."""


def test_seeds_that_numpy_does_not_survive_are_refused() -> None:
    nested = Endless()
    nested.append(nested)
    with pytest.warns(PendingDeprecationWarning, match="matrix"):
        matrix = np.matrix([[1.5, 2.0]])
    for seed in (nested, matrix, [matrix]):
        with pytest.raises(TypeError, match=r"^seed is .*; expected what numpy\.random\.default_rng takes"):
            gru_of_seed(seed)


def gru_of_seed(seed: Any) -> fastrnn.GRU:
    return fastrnn.GRU(I, H, seed=seed)
