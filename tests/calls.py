"""Modules and calls of them for every test: each kind, and all that a call may be given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st
from tolerances import Outcome, assert_same_bits

import fastrnn
from fastrnn.backends import BACKENDS
from fastrnn.parameters import Array

KINDS = {
    "rnn_tanh": (fastrnn.RNN, {"nonlinearity": "tanh"}),
    "rnn_relu": (fastrnn.RNN, {"nonlinearity": "relu"}),
    "lstm": (fastrnn.LSTM, {}),
    "gru": (fastrnn.GRU, {}),
}
kinds = pytest.mark.parametrize("kind", list(KINDS))
backends = pytest.mark.parametrize("backend", list(BACKENDS), indirect=True)


def make(kind: str, *sizes: int, **options: Any) -> Any:
    """A module of ours, its parameters from a fixed seed."""
    cls, nonlinearity = KINDS[kind]
    return cls(*sizes, **nonlinearity, **({"seed": 0} | options))


def make_torch(torch: ModuleType, kind: str, *sizes: int, **options: Any) -> Any:
    """The same module of torch.nn."""
    cls, nonlinearity = KINDS[kind]
    return getattr(torch.nn, cls.__name__)(*sizes, **nonlinearity, **options)


def as_tuple(state: Any) -> tuple[Any, ...]:
    return state if isinstance(state, tuple) else (state,)


def as_state(states: tuple[Any, ...]) -> Any:
    return states if len(states) > 1 else states[0]


@dataclass(frozen=True)
class Call:
    """One forward and backward of a module, as the caller sees it."""

    kind: str
    T: int
    N: int
    I: int
    H: int
    num_layers: int = 1
    bias: bool = True
    batch_first: bool = False
    batched: bool = True
    with_state: bool = True
    tokens: bool = False
    dtype: str = "float64"
    bidirectional: bool = False
    proj_size: int = 0
    ragged: bool = False

    @property
    def sizes(self) -> tuple[int, int, int]:
        return self.I, self.H, self.num_layers

    @property
    def directions(self) -> int:
        return 2 if self.bidirectional else 1

    @property
    def options(self) -> dict[str, Any]:
        options = {"bias": self.bias, "batch_first": self.batch_first, "bidirectional": self.bidirectional}
        return options | ({"proj_size": self.proj_size} if self.proj_size else {})

    @property
    def lengths(self) -> Array | None:
        """Of 0 to T: T among them, and 0 where there are two sequences or more."""
        if not self.ragged:
            return None
        lengths = np.random.default_rng(self.N).integers(0, self.T + 1, self.N)
        lengths[0] = self.T
        lengths[1:][-1:] = 0
        return lengths

    def arrays(self) -> dict[str, Any]:
        """x, dy, and the tuples state and dstate."""
        rng = np.random.default_rng([self.T, self.N, self.I, self.H])

        def uniform(bound: float, *shape: int) -> Array:
            return rng.uniform(-bound, bound, shape).astype(self.dtype)

        leading = (self.T,)
        if self.batched:
            leading = (self.N, self.T) if self.batch_first else (self.T, self.N)
        P = self.proj_size or self.H
        of_states = (self.num_layers * self.directions, *([self.N] if self.batched else []))
        sizes = (P, self.H) if self.kind == "lstm" else (P,)
        return {
            "x": rng.integers(self.I, size=leading) if self.tokens else uniform(2, *leading, self.I),
            "dy": uniform(1, *leading, self.directions * P),
            "state": tuple(uniform(1, *of_states, size) for size in sizes),
            "dstate": tuple(uniform(1, *of_states, size) for size in sizes),
        }

    def given(self) -> dict[str, Any]:
        """`arrays` and lengths; a state that is not given is None."""
        given = self.arrays() | {"lengths": self.lengths}
        return given if self.with_state else given | {"state": None}

    def parameters(self, shapes: dict[str, tuple[int, ...]]) -> dict[str, Array]:
        """O(1) weights, by name; see `problems.make`."""
        rng = np.random.default_rng(1)
        return {
            name: rng.uniform(-1.5, 1.5, shape).astype(self.dtype) / np.array(shape[-1] ** 0.5, self.dtype)
            for name, shape in shapes.items()
        }


def calls(**fixed: Any) -> st.SearchStrategy[Call]:
    """All combinations of options at small sizes."""
    booleans = ("bias", "batch_first", "batched", "with_state", "tokens", "bidirectional", "ragged")
    options: dict[str, Any] = dict.fromkeys(booleans, st.booleans())
    sizes = {"T": (1, 7), "N": (1, 6), "I": (1, 20), "H": (1, 35), "num_layers": (1, 3), "proj_size": (0, 4)}
    options |= {name: st.integers(low, high) for name, (low, high) in sizes.items()}
    options |= {"kind": st.sampled_from(list(KINDS)), "dtype": st.sampled_from(["float32", "float64"])}
    options |= {name: st.just(value) for name, value in fixed.items()}
    return st.builds(Call, **options).map(_possible)


def _possible(call: Call) -> Call:
    """The call without what does not go together."""
    proj_size = min(call.proj_size, call.H - 1) if call.kind == "lstm" else 0
    return replace(call, proj_size=proj_size, ragged=call.ragged and call.batched)


def module_of(call: Call, **options: Any) -> Any:
    """The call's module, with the call's parameters."""
    module = make(call.kind, *call.sizes, dtype=call.dtype, **call.options, **options)
    parameters = module.parameters
    for name, value in call.parameters({name: p.shape for name, p in parameters.items()}).items():
        parameters[name][...] = value
    return module


def train(module: Any, given: Mapping[str, Any], checkpoint_every: int | None = None) -> Outcome:
    """Forward and backward; without dropout checks that an inference call returns the same."""
    x, lengths = given["x"], given["lengths"]
    state = None if given["state"] is None else as_state(given["state"])
    y, state_n, tape = module.forward(x, state, lengths=lengths, checkpoint_every=checkpoint_every)
    dx, dstate_0, grads = module.backward(tape, given["dy"], as_state(given["dstate"]))
    if not module.dropout:
        called_y, called_state_n = module(x, state, lengths=lengths)
        assert_same_bits("y of __call__", called_y, y)
        assert_same_bits("h_n of __call__", as_tuple(called_state_n)[0], as_tuple(state_n)[0])
    assert list(grads) == list(module.parameters)
    assert (dx is None) == (x.dtype.kind != "f")
    outcome = {"y": y} | ({} if dx is None else {"dx": dx}) | {f"d{name}": g for name, g in grads.items()}
    return outcome | named_states(as_tuple(state_n), as_tuple(dstate_0))


def named_states(state_n: tuple[Any, ...], dstate_0: tuple[Any, ...]) -> dict[str, Any]:
    return dict(zip(("h_n", "c_n"), state_n)) | dict(zip(("dh_0", "dc_0"), dstate_0))  # noqa: B905  (lstm alone has c)


class Refusals(list[str]):
    """What errors of some kinds say that end a block: ``with refusals: ...`` adds the text, if there is one."""

    def __init__(self, *kinds: type[Exception]) -> None:
        super().__init__()
        self.kinds = kinds

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> bool:
        if isinstance(error, self.kinds):
            self.append(str(error))
        return isinstance(error, self.kinds)
