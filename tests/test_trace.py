"""`trace` shows the gates and states that the equations and the weights give."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from calls import Call, as_state, as_tuple, backends, kinds, make, module_of
from tolerances import assert_close, assert_same_bits, tolerance

from fastrnn.parameters import Array
from fastrnn.reference import sigmoid

GATES = {"rnn_tanh": (), "rnn_relu": (), "lstm": ("i", "f", "g", "o"), "gru": ("r", "z", "n")}


def assert_follows_equations(call: Call, module: Any, inside: dict[str, Array]) -> None:
    """Every step from the layer's input and from the states that `inside` has for the step before."""
    arrays, weights = call.arrays(), {name: p.astype("float64") for name, p in module.parameters.items()}
    x, T = arrays["x"].astype("float64"), call.T
    for layer in range(call.num_layers):
        of_layer = []
        for reverse in range(call.directions):
            end = f"_l{layer}" + "_reverse" * reverse
            its = {name.removesuffix(end): a.astype("float64") for name, a in inside.items() if name.endswith(end)}
            state = [s[layer * call.directions + reverse].astype("float64") for s in arrays["state"]]
            steps = range(T)[::-1] if reverse else range(T)
            for t, before in zip(steps, [None, *steps], strict=False):
                h_prev = state[0] if before is None else its["h"][before]
                a_x = x[t] @ weights[f"weight_ih{end}"].T + weights[f"bias_ih{end}"]
                a_h = h_prev @ weights[f"weight_hh{end}"].T + weights[f"bias_hh{end}"]
                if call.kind == "lstm":
                    a = np.split(a_x + a_h, 4, 1)
                    c_prev = state[1] if before is None else its["c"][before]
                    want = {"i": sigmoid(a[0]), "f": sigmoid(a[1]), "g": np.tanh(a[2]), "o": sigmoid(a[3])}
                    want["c"] = want["f"] * c_prev + want["i"] * want["g"]
                    want["h"] = want["o"] * np.tanh(want["c"])
                    if call.proj_size:
                        want["h"] = want["h"] @ weights[f"weight_hr{end}"].T
                elif call.kind == "gru":
                    (x_r, x_z, x_n), (h_r, h_z, h_n) = np.split(a_x, 3, 1), np.split(a_h, 3, 1)
                    want = {"r": sigmoid(x_r + h_r), "z": sigmoid(x_z + h_z)}
                    want["n"] = np.tanh(x_n + want["r"] * h_n)
                    want["h"] = (1 - want["z"]) * want["n"] + want["z"] * h_prev
                else:
                    want = {"h": np.tanh(a_x + a_h) if call.kind == "rnn_tanh" else np.maximum(a_x + a_h, 0)}
                assert its.keys() == want.keys()
                for name, value in want.items():
                    limit = tolerance(value, call.dtype, x.shape[-1] + h_prev.shape[-1] + 2)
                    assert_close(f"{name}{end}[{t}]", its[name][t], value, limit)
            of_layer.append(its["h"])
        x = np.concatenate(of_layer, 2)


@backends
@kinds
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True}], ids=str)
def test_trace_follows_the_equations(backend: str, kind: str, dtype: str, options: dict[str, Any]) -> None:
    for proj_size in (0, 5) if kind == "lstm" else (0,):
        call = Call(kind, 6, 5, 4, 9, dtype=dtype, proj_size=proj_size, **options)
        module, arrays = module_of(call, backend=backend), call.arrays()
        inside = module.trace(arrays["x"], as_state(arrays["state"]))
        y, state_n = module(arrays["x"], as_state(arrays["state"]))
        states = ("h", "c") if kind == "lstm" else ("h",)
        names = (*GATES[kind], *states)
        ends = [f"_l{layer}{end}" for layer in range(call.num_layers) for end in ("", "_reverse")[: call.directions]]
        assert list(inside) == [f"{name}{end}" for end in ends for name in names]
        for name, array in inside.items():
            size = proj_size if proj_size and name.startswith("h_") else call.H
            assert (array.shape, array.dtype) == ((call.T, call.N, size), np.dtype(dtype)), name
        assert_follows_equations(call, module, inside)
        top = np.concatenate([inside[f"h{end}"] for end in ends[-call.directions :]], 2)
        assert_close("y", top, y, tolerance(y, dtype, 200))
        for name, state in zip(states, as_tuple(state_n), strict=True):
            last = np.stack([inside[f"{name}{end}"][0 if end.endswith("reverse") else -1] for end in ends])
            assert_close(f"{name}_n", last, state, tolerance(state, dtype, 200))


@backends
@kinds
@pytest.mark.parametrize("bidirectional", [False, True])
def test_trace_has_zeros_beyond_the_lengths(backend: str, kind: str, bidirectional: bool) -> None:
    """And before them what each sequence has alone, whatever the layout."""
    call = Call(kind, 6, 5, 4, 9, 2, bidirectional=bidirectional, ragged=True)
    module, arrays, lengths = module_of(call, backend=backend), call.arrays(), call.lengths
    inside = module.trace(arrays["x"], as_state(arrays["state"]), lengths=lengths)
    flipped = module_of(Call(kind, 6, 5, 4, 9, 2, bidirectional=bidirectional, batch_first=True), backend=backend)
    of_flipped = flipped.trace(arrays["x"].swapaxes(0, 1), as_state(arrays["state"]), lengths=lengths.tolist())
    for n, length in enumerate(lengths):
        state = as_state(tuple(s[:, n] for s in arrays["state"]))
        alone = module.trace(arrays["x"][:length, n], state)
        assert alone.keys() == inside.keys() == of_flipped.keys()
        for name, array in inside.items():
            assert alone[name].shape == (length, 9)
            assert_close(name, array[:length, n], alone[name], 1e-13)
            assert not array[length:, n].any()
            assert_same_bits(name, of_flipped[name][n], array[:, n])


@backends
@kinds
def test_trace_leaves_dropout_out(backend: str, kind: str) -> None:
    call = Call(kind, 4, 3, 3, 5, 3)
    plain, dropping = (module_of(call, backend=backend, dropout=p) for p in (0.0, 0.5))
    x = call.arrays()["x"]
    for name, array in plain.trace(x).items():
        assert_same_bits(name, dropping.trace(x)[name], array)


@backends
@kinds
@pytest.mark.parametrize("sizes", [(0, 3), (4, 0)], ids=str)
def test_trace_of_nothing(backend: str, kind: str, sizes: tuple[int, int]) -> None:
    for name, array in make(kind, 2, 5, 2, backend=backend).trace(np.zeros((*sizes, 2), np.float32)).items():
        assert array.shape == (*sizes, 5), name


def test_trace_of_tokens_is_that_of_their_one_hot_rows() -> None:
    call = Call("gru", 4, 3, 3, 5, tokens=True)
    module, tokens = module_of(call), call.arrays()["x"]
    for name, array in module.trace(np.eye(3)[tokens]).items():
        assert_same_bits(name, module.trace(tokens)[name], array)
