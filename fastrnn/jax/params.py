"""Parameters for `fastrnn.jax`: drawn, and from and to Flax."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from fastrnn.cells import CELLS
from fastrnn.checks import check_count, check_positive, shown

__all__ = ["from_flax", "init_gru", "init_lstm", "init_rnn", "to_flax"]

Params = dict[str, Any]


def init_lstm(
    key: Any,
    input_size: int,
    hidden_size: int,
    num_layers: int = 1,
    *,
    bidirectional: bool = False,
    bias: bool = True,
    proj_size: int = 0,
    dtype: Any = jnp.float32,
) -> Params:
    """Draw the parameters of an LSTM.

    Parameters
    ----------
    key
        jax.random's.
    input_size, hidden_size, num_layers, bidirectional, bias, proj_size
        As for `fastrnn.LSTM`.
    dtype
        float32 or float64.

    Returns
    -------
    dict
        Arrays by torch.nn's names, uniform between -1/sqrt(H) and 1/sqrt(H), as there.
    """
    return _draw("lstm", key, input_size, hidden_size, num_layers, bidirectional, bias, proj_size, dtype)


def init_gru(
    key: Any,
    input_size: int,
    hidden_size: int,
    num_layers: int = 1,
    *,
    bidirectional: bool = False,
    bias: bool = True,
    dtype: Any = jnp.float32,
) -> Params:
    """Draw the parameters of a GRU, as `init_lstm`."""
    return _draw("gru", key, input_size, hidden_size, num_layers, bidirectional, bias, 0, dtype)


def init_rnn(
    key: Any,
    input_size: int,
    hidden_size: int,
    num_layers: int = 1,
    *,
    bidirectional: bool = False,
    bias: bool = True,
    dtype: Any = jnp.float32,
) -> Params:
    """Draw the parameters of a plain RNN, as `init_lstm`."""
    return _draw("rnn_tanh", key, input_size, hidden_size, num_layers, bidirectional, bias, 0, dtype)


def _draw(
    cell: str, key: Any, I: int, H: int, layers: int, bidirectional: bool, bias: bool, projected: int, dtype: Any
) -> Params:
    for name, size in (("input_size", I), ("hidden_size", H), ("num_layers", layers)):
        check_positive(name, size)
    if check_count("proj_size", projected) >= H:
        raise ValueError(f"proj_size is {projected}; expected less than hidden_size = {H}")
    rows, P, D = len(CELLS[cell].gates) * H, projected or H, 2 if bidirectional else 1
    shapes: dict[str, tuple[int, ...]] = {}
    for layer in range(layers):
        for suffix in ("", "_reverse")[:D]:
            at = f"_l{layer}{suffix}"
            shapes[f"weight_ih{at}"] = (rows, D * P if layer else I)
            shapes[f"weight_hh{at}"] = (rows, P)
            if bias:
                shapes[f"bias_ih{at}"] = shapes[f"bias_hh{at}"] = (rows,)
            if projected:
                shapes[f"weight_hr{at}"] = (P, H)
    sizes = [math.prod(shape) for shape in shapes.values()]
    ends = list(itertools.accumulate(sizes))
    flat = jax.random.uniform(key, (ends[-1],), dtype, -(H**-0.5), H**-0.5)  # at once: each shape would be compiled
    parts = jnp.split(flat, ends[:-1])
    return {name: part.reshape(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}


# ---- Flax

# Their gates in our order, and what their blocks are called: one Dense a gate, with x's and with h's.
GATES = {
    "lstm": (("ii", "if", "ig", "io"), ("hi", "hf", "hg", "ho")),
    "gru": (("ir", "iz", "in"), ("hr", "hz", "hn")),
    "rnn_tanh": (("i",), ("h",)),
}
JOINED = ("dense_i", "dense_h")  # all gates' in one


def from_flax(layers: Any) -> Params:
    """The parameters of Flax' cells as those of `lstm`, `gru` or `rnn`.

    Parameters
    ----------
    layers
        The parameters of a cell: of nnx' LSTMCell, OptimizedLSTMCell, GRUCell or SimpleCell as
        ``nnx.to_pure_dict(nnx.state(cell, nnx.Param))``, of linen's the dict under "params". Or a sequence of such, a
        layer each; a layer of two directions is a pair. Activations are to be Flax' defaults, which parameters do not
        tell.

    Returns
    -------
    dict
        Arrays by torch.nn's names. A bias that Flax does not have is zero.
    """
    params: Params = {}
    for layer, its in enumerate([layers] if isinstance(layers, Mapping) else layers):
        for suffix, one in zip(("", "_reverse"), (its,) if isinstance(its, Mapping) else its, strict=False):
            for field, array in _of_cell(one).items():
                params[f"{field}_l{layer}{suffix}"] = array
    return params


def to_flax(params: Mapping[str, Any], like: Any) -> Any:
    """The inverse of `from_flax`.

    Parameters
    ----------
    params
        Those of `lstm`, `gru` or `rnn`.
    like
        What `from_flax` took, or would take: a result is like it, with these parameters.

    Returns
    -------
    Mapping or sequence of such
        Biases of x and of h are summed where Flax has one for both.

    Raises
    ------
    ValueError
        If Flax' cell has no place for a parameter: nnx' GRUCell none for the bias of h in n.
    """
    several = not isinstance(like, Mapping)
    found = []
    for layer, its in enumerate(like if several else [like]):
        pair = not isinstance(its, Mapping)
        both = [
            _to_cell({name: params[f"{name}_l{layer}{suffix}"] for name in _names(params, layer, suffix)}, one)
            for suffix, one in zip(("", "_reverse"), its if pair else [its], strict=False)
        ]
        found.append(tuple(both) if pair else both[0])
    return found if several else found[0]


def _names(params: Mapping[str, Any], layer: int, suffix: str) -> list[str]:
    at = f"_l{layer}{suffix}"
    return [name.removesuffix(at) for name in params if name.endswith(at)]


def _plain(cell: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """By names without the underscore that Python's keywords ask for."""
    return {name.removesuffix("_"): its for name, its in cell.items()}


def _blocks(cell: Mapping[str, Any]) -> tuple[Sequence[str], Sequence[str]]:
    """What the cell's blocks of x and of h are called."""
    names = set(_plain(cell))
    for of_x, of_h in (*GATES.values(), ((JOINED[0],), (JOINED[1],))):
        if names == {*of_x, *of_h}:
            return of_x, of_h
    raise ValueError(
        f"a cell of Flax has the parameters {shown(sorted(map(str, cell)))}; expected those of an LSTMCell, an "
        "OptimizedLSTMCell, a GRUCell or a SimpleCell"
    )


def _of_cell(cell: Mapping[str, Any]) -> Params:
    """Fields of one layer and direction."""
    plain, found = _plain(cell), {}
    for side, blocks in zip(("ih", "hh"), _blocks(cell), strict=True):
        kernels = [jnp.asarray(plain[block]["kernel"]) for block in blocks]
        biases = [
            jnp.asarray(plain[block]["bias"]) if "bias" in plain[block] else jnp.zeros(kernel.shape[1], kernel.dtype)
            for block, kernel in zip(blocks, kernels, strict=True)
        ]
        found[f"weight_{side}"] = jnp.concatenate(kernels, 1).T
        found[f"bias_{side}"] = jnp.concatenate(biases)
    return found


def _to_cell(params: Mapping[str, Any], like: Mapping[str, Any]) -> dict[str, Any]:
    """Flax' parameters of one layer and direction."""
    plain, blocks = _plain(like), _blocks(like)
    weights = params["weight_ih"], params["weight_hh"]
    rows, H = weights[1].shape
    G = rows // H
    zero = jnp.zeros(rows, weights[1].dtype)
    b_x, b_h = (params.get(name, zero).reshape(G, H) for name in ("bias_ih", "bias_hh"))
    # By gate, whether Flax has a bias of x, and of h.
    has_x, has_h = (
        ["bias" in plain[block] for block in (of_side if len(of_side) == G else of_side * G)] for of_side in blocks
    )
    for g in range(G):
        if has_x[g] and has_h[g]:
            continue
        if G != 3 or g < 2:  # a GRU's reset gate tells the biases of n apart
            both = b_x[g] + b_h[g]
            b_x, b_h = b_x.at[g].set(both if has_x[g] else 0), b_h.at[g].set(0 if has_x[g] else both)
        elif (b_h[g] != 0).any():
            raise ValueError("bias_hh is not zero in a GRU's n; expected zero, as Flax' cell has no such bias")
    found: dict[str, Any] = {}
    for of_side, weight, bias in zip(blocks, weights, (b_x, b_h), strict=True):
        kernels = jnp.split(weight.T, len(of_side), 1)
        for block, kernel, its in zip(of_side, kernels, jnp.split(bias, len(of_side)), strict=True):
            found[block] = {"kernel": kernel, "bias": its.reshape(-1)}
    return {name: {field: found[name.removesuffix("_")][field] for field in like[name]} for name in like}
