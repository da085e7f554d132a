"""Recurrent networks as functions of their parameters, for JAX's transformations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from fastrnn import ops
from fastrnn.backends import BACKENDS
from fastrnn.cells import CELLS
from fastrnn.checks import check_choice, shown
from fastrnn.jax.layer import Layer, run
from fastrnn.rows import MASKED

__all__ = ["gru", "lstm", "rnn"]

FIELDS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")  # in torch.nn's order


def lstm(
    params: Mapping[str, Any],
    x: Any,
    state: Any = None,
    lengths: Any = None,
    *,
    mask: Any = None,
    masked: str = "zero",
    resets: Any = None,
    reset_state: str | None = None,
    batch_first: bool = False,
    dropout: float = 0.0,
    key: Any = None,
) -> tuple[Any, tuple[Any, Any]]:
    """Run an LSTM: what `fastrnn.LSTM` computes, under jit, grad, vmap, scan and checkpoint.

    Parameters
    ----------
    params
        Arrays of float32 or float64 by torch.nn's names: weight_ih_l0 (4*H, I), weight_hh_l0 (4*H, P), bias_ih_l0 and
        bias_hh_l0 (4*H,), weight_hr_l0 (P, H) with a projection, with _reverse behind them those of the other
        direction, and so on for each layer. What there is says how many layers and directions it has.
        `fastrnn.LSTM(...).state_dict()` is such a mapping, `init_lstm` draws one.
    x
        (T, N, I), or (T, I) for a single sequence; tokens, integers, without the axis I.
    state
        The initial h (L*D, N, P) and c (L*D, N, H), without N for a single sequence. Zeros if None.
    lengths
        (N,) ints: sequences are run as far as these, y is zero beyond. Values may be traced.
    mask, masked, resets, reset_state
        As for `fastrnn.LSTM`; mask and resets are bool (T, N); reset_state is None for zeros, or "initial".
    batch_first
        Whether x, y, mask and resets have N before T.
    dropout, key
        The probability that an output of a layer is dropped before the next layer, and jax.random's key for it.

    Returns
    -------
    tuple
        y (T, N, D*P), and the final states, shaped like `state`.

    Raises
    ------
    TypeError, ValueError
        If something does not fit, when traced.
    jax.errors.JaxRuntimeError
        If values do not, as lengths beyond T.
    NotImplementedError
        For forward-mode and second derivatives.

    Examples
    --------
    >>> import jax, fastrnn.jax
    >>> params = fastrnn.jax.init_lstm(jax.random.key(0), 8, 32, num_layers=2)
    >>> x = jax.random.normal(jax.random.key(1), (100, 16, 8))
    >>> loss = lambda params: fastrnn.jax.lstm(params, x)[0].sum()
    >>> jax.jit(jax.grad(loss))(params)["weight_hh_l1"].shape
    (128, 32)
    """
    y, (h_n, c_n) = _run(
        "lstm", params, x, state, lengths, mask, masked, resets, reset_state, batch_first, dropout, key
    )
    return y, (h_n, c_n)


def gru(
    params: Mapping[str, Any],
    x: Any,
    state: Any = None,
    lengths: Any = None,
    *,
    mask: Any = None,
    masked: str = "zero",
    resets: Any = None,
    reset_state: str | None = None,
    batch_first: bool = False,
    dropout: float = 0.0,
    key: Any = None,
) -> tuple[Any, Any]:
    """Run a GRU, as `fastrnn.GRU`; everything else is as for `lstm`, with h alone for a state."""
    y, (h_n,) = _run("gru", params, x, state, lengths, mask, masked, resets, reset_state, batch_first, dropout, key)
    return y, h_n


def rnn(
    params: Mapping[str, Any],
    x: Any,
    state: Any = None,
    lengths: Any = None,
    *,
    nonlinearity: str = "tanh",
    mask: Any = None,
    masked: str = "zero",
    resets: Any = None,
    reset_state: str | None = None,
    batch_first: bool = False,
    dropout: float = 0.0,
    key: Any = None,
) -> tuple[Any, Any]:
    """Run a plain RNN, as `fastrnn.RNN`, with "tanh" or "relu"; everything else is as for `lstm`, with h alone."""
    check_choice("nonlinearity", nonlinearity, ("tanh", "relu"))
    cell = f"rnn_{nonlinearity}"
    y, (h_n,) = _run(cell, params, x, state, lengths, mask, masked, resets, reset_state, batch_first, dropout, key)
    return y, h_n


def _run(
    cell: str,
    params: Mapping[str, Any],
    x: Any,
    state: Any,
    lengths: Any,
    mask: Any,
    masked: str,
    resets: Any,
    reset_state: str | None,
    batch_first: bool,
    dropout: float,
    key: Any,
) -> tuple[Any, tuple[Any, ...]]:
    """Validate what is known when a call is traced, and run layer after layer."""
    layers, directions, fields = _look(cell, params)
    check_choice("masked", masked, MASKED)
    if reset_state is not None:
        check_choice("reset_state", reset_state, ("initial",))
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout is {shown(dropout)}; expected 0 <= dropout < 1")
    if dropout and key is None:
        raise ValueError(f"dropout is {dropout}, but key is None; expected a key: use key=jax.random.key(seed)")
    weights = [
        [params[f"{field}_l{layer}{'_reverse' * reverse}"] for reverse in range(directions) for field in fields]
        for layer in range(layers)
    ]
    rows, I = weights[0][0].shape
    H, P, dtype = rows // len(CELLS[cell].gates), weights[0][1].shape[1], weights[0][0].dtype
    x, single = _as_input(x, dtype, I, batch_first)
    N = x.shape[1]

    given = {}
    for name, value in (("lengths", lengths), ("mask", mask), ("resets", resets)):
        if value is not None:
            given[name] = _as_given(name, value, x.shape[0], N, single, batch_first)
    names = CELLS[cell].states_0
    shapes = [(layers * directions, N, P), (layers * directions, N, H)][: len(names)]
    if state is None:
        states = tuple(jnp.zeros(shape, dtype) for shape in shapes)
    else:
        states = _as_states(names, state, shapes, dtype, single)
    backend, _ = ops.choose(None, None)
    what = Layer(
        cell,
        directions,
        tuple(field.removeprefix("weight_") for field in fields),
        tuple(given),
        masked,
        reset_state or "zero",
        next(name for name, module in BACKENDS.items() if module == backend.__name__),
    )
    ended = []
    for layer, its in enumerate(weights):
        if layer and dropout:
            key, drawn = jax.random.split(key)
            x = jnp.where(jax.random.bernoulli(drawn, 1 - dropout, x.shape), x / (1 - dropout), 0)
        begin = [s[layer * directions : (layer + 1) * directions] for s in states]
        x, *state_n = run(what, x, list(given.values()), begin, its)
        ended.append(state_n)
    final = tuple(jnp.concatenate(its) if layers > 1 else its[0] for its in zip(*ended, strict=True))
    if single:
        return x[:, 0], tuple(s[:, 0] for s in final)
    return jnp.swapaxes(x, 0, 1) if batch_first else x, final


def _look(cell: str, params: Any) -> tuple[int, int, list[str]]:
    """How many layers and directions there are, and which fields; errors unless all fit one another."""
    if not isinstance(params, Mapping):
        raise TypeError(f"params is a {type(params).__name__}; expected a mapping from torch.nn's names to arrays")
    if "weight_ih_l0" not in params:
        raise ValueError(f"params has {shown(sorted(map(str, params)))}; expected weight_ih_l0 and so on, as torch.nn")
    layers = 0
    while f"weight_ih_l{layers}" in params:
        layers += 1
    directions = 2 if "weight_ih_l0_reverse" in params else 1
    fields = [field for field in FIELDS if field in ("weight_ih", "weight_hh") or f"{field}_l0" in params]
    gates, first = len(CELLS[cell].gates), params["weight_ih_l0"]
    wanted = {
        f"{field}_l{layer}{'_reverse' * reverse}"
        for field in fields
        for layer in range(layers)
        for reverse in range(directions)
    }
    if wanted != set(params):
        missing, more = sorted(wanted - set(params)), sorted(set(map(str, params)) - wanted)
        raise ValueError(f"params lacks {missing or 'nothing'} and has {more or 'nothing'} besides; expected {cell}'s")
    if "weight_hr" in fields and cell != "lstm":
        raise ValueError(f"params has weight_hr_l0; expected none, as a projection is an LSTM's, for {cell}")
    if ("bias_ih" in fields) != ("bias_hh" in fields):
        raise ValueError("params has one of bias_ih_l0 and bias_hh_l0; expected both or none")
    if len(first.shape) != 2 or first.shape[0] % gates or first.dtype not in (jnp.float32, jnp.float64):
        raise ValueError(
            f"params['weight_ih_l0'] is {first.dtype}{list(first.shape)}; expected ({gates}*H, I) of float32 or float64"
        )
    H, I = first.shape[0] // gates, first.shape[1]
    P = params["weight_hr_l0"].shape[0] if "weight_hr" in fields else H
    for name in sorted(wanted):
        field, _, rest = name.partition("_l")
        shape = {
            "weight_ih": (gates * H, I if rest.split("_")[0] == "0" else directions * P),
            "weight_hh": (gates * H, P),
            "weight_hr": (P, H),
        }.get(field, (gates * H,))
        if params[name].shape != shape or params[name].dtype != first.dtype:
            raise ValueError(
                f"params[{name!r}] is {params[name].dtype}{list(params[name].shape)}; expected "
                f"{first.dtype}{list(shape)}, as weight_ih_l0 says"
            )
    return layers, directions, fields


def _as_input(x: Any, dtype: Any, I: int, batch_first: bool) -> tuple[Any, bool]:
    """x as (T, N, I) or tokens (T, N), and whether it was a single sequence."""
    x = jnp.asarray(x)
    tokens = jnp.issubdtype(x.dtype, jnp.integer)
    if not tokens and x.dtype != dtype:
        raise TypeError(f"x has dtype {x.dtype}; expected {dtype}, as the parameters have: use x.astype('{dtype}')")
    axes = x.ndim + tokens
    if axes not in (2, 3) or (not tokens and x.shape[-1] != I):
        leading = "(N, T" if batch_first else "(T, N"
        raise ValueError(f"x has shape {x.shape}; expected {leading}, I) or (T, I) with I = {I}, or tokens without I")
    if axes == 2:
        return jnp.expand_dims(x, 1), True
    return jnp.swapaxes(x, 0, 1) if batch_first else x, False


def _as_given(name: str, value: Any, T: int, N: int, single: bool, batch_first: bool) -> Any:
    """Lengths, mask or resets as a layer takes them."""
    value = jnp.asarray(value)
    if name == "lengths":
        if single or value.shape != (N,) or not jnp.issubdtype(value.dtype, jnp.integer):
            raise ValueError(f"lengths is {value.dtype}{list(value.shape)}; expected (N,) = ({N},) ints of a batch")
        return value
    shape = (T,) if single else (N, T) if batch_first else (T, N)
    if value.shape != shape or value.dtype != jnp.bool_:
        raise ValueError(f"{name} is {value.dtype}{list(value.shape)}; expected bool{list(shape)}")
    return value.reshape(T, N) if single else value.T if batch_first else value


def _as_states(names: tuple[str, ...], state: Any, shapes: Sequence[tuple[int, ...]], dtype: Any, single: bool) -> Any:
    """The initial states with an axis N."""
    given = tuple(state) if isinstance(state, (tuple, list)) else (state,)
    if len(given) != len(names):
        raise ValueError(f"state has {len(given)} arrays; expected {len(names)}: {', '.join(names)}")
    found = []
    for name, value, shape in zip(names, given, shapes, strict=True):
        array = jnp.asarray(value)
        wanted = shape[:1] + shape[2:] if single else shape
        if array.shape != wanted or array.dtype != dtype:
            raise ValueError(f"{name} is {array.dtype}{list(array.shape)}; expected {dtype}{list(wanted)}")
        found.append(jnp.expand_dims(array, 1) if single else array)
    return tuple(found)
