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
    "lengths": (lambda: lstm()(X, lengths=[5, 3]), NotImplementedError, "lengths is not implemented yet"),
    "lengths_nan": (lambda: lstm()(X, lengths=[5, np.nan]), NotImplementedError, "lengths is not implemented yet"),
    "lengths_forward": (lambda: gru().forward(X, lengths=[5, 3]), NotImplementedError, "lengths is not implemented"),
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
    "half_missing": (lambda: lstm()(X, (STATE, None)), TypeError, "c_0 has dtype object; expected float32"),
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
    "tape": (lambda: lstm().backward([DY]), TypeError, "tape is a list; expected the tape that forward returned"),
}

BAD_CONSTRUCTION: dict[str, Mistake] = {
    "bidirectional": (lambda: lstm(bidirectional=True), NotImplementedError, "bidirectional=True is not implemented"),
    "dropout": (lambda: gru(dropout=0.5), NotImplementedError, "dropout=0.5 is not implemented yet; expected 0.0"),
    "proj_size": (lambda: lstm(proj_size=2), NotImplementedError, "proj_size=2 is not implemented yet; expected 0"),
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


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        pytest.param(*mistake, id=f"{group}-{name}")
        for group, mistakes in {
            "x": BAD_X,
            "state": BAD_STATE,
            "backward": BAD_BACKWARD,
            "constructor": BAD_CONSTRUCTION,
            "state_dict": BAD_STATE_DICT,
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
