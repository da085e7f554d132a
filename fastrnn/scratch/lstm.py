"""The LSTM of from-scratch code, whose gates are each a matrix on the stacked column z = [a_{t-1}; x_t].

f = s(Wf z + bf)    i = s(Wi z + bi)    cct = tanh(Wc z + bc)    o = s(Wo z + bo)
c_t = f * c_{t-1} + i * cct             a_t = o * tanh(c_t)      logits_t = Wy a_t + by
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import repeat
from typing import Any

import numpy as np

from fastrnn.cells import Weights
from fastrnn.checks import Array, check_positive, check_sequence, check_size, shown
from fastrnn.scratch.columns import as_rows, project, sequence_rows, state_rows, step_rows, take, to_columns
from fastrnn.scratch.seeds import seed_numpy
from fastrnn.scratch.sequence import Run

__all__ = [
    "initialize_lstm_parameters",
    "lstm_backwards",
    "lstm_cell_step",
    "lstm_forward",
    "lstm_step_backward",
]

Parameters = Mapping[str, Any]
Cache = tuple[Any, ...]  # (a_next, c_next, a_prev, c_prev, ft, it, cct, ot, xt, parameters)


def initialize_lstm_parameters(n_a: int, n_x: int, n_y: int, seed: int = 1) -> dict[str, Array]:
    """Draw the weights from N(0, 0.01^2), after ``np.random.seed(seed)``; the biases are zero.

    Parameters
    ----------
    n_a, n_x, n_y
        The numbers of hidden units, inputs and outputs.
    seed
        Of NumPy's global generator.

    Returns
    -------
    dict
        Wf, Wi, Wc, Wo (n_a, n_a + n_x) and Wy (n_y, n_a), drawn in this order, each followed by its bias, bf, bi,
        bc, bo (n_a, 1) and by (n_y, 1), float64.

    Examples
    --------
    >>> parameters = initialize_lstm_parameters(5, 3, 3)
    >>> parameters["Wf"].shape, parameters["bf"].shape, parameters["Wy"].shape
    ((5, 8), (5, 1), (3, 5))
    """
    sizes = check_positive("n_a", n_a), check_positive("n_x", n_x) + check_positive("n_y", n_y)
    check_size("n_a, n_x, n_y", (sizes[0], sum(sizes)))
    seed_numpy(seed)
    parameters = {}
    for gate in "fico":
        parameters[f"W{gate}"] = np.random.randn(n_a, n_a + n_x) * 0.01
        parameters[f"b{gate}"] = np.zeros((n_a, 1))
    parameters["Wy"] = np.random.randn(n_y, n_a) * 0.01
    parameters["by"] = np.zeros((n_y, 1))
    return parameters


def _weights(parameters: Parameters) -> tuple[Weights, Array, Array]:
    """Copies of the gates' weights as kernels take them, and Wy and by."""
    n_a, n_z = take(parameters, "Wf").shape
    if n_z <= n_a:
        raise ValueError(f"parameters['Wf'] has shape {(n_a, n_z)}; expected (n_a, n_a + n_x)")
    matrices = [take(parameters, name, n_a, n_z) for name in ("Wi", "Wf", "Wc", "Wo")]
    biases = [take(parameters, name, n_a, 1) for name in ("bi", "bf", "bc", "bo")]
    wy = take(parameters, "Wy", columns=n_a)
    return stack_gates(matrices, biases), wy, take(parameters, "by", len(wy), 1)


def stack_gates(matrices: Sequence[Array], biases: Sequence[Array]) -> Weights:
    """Return matrices (n_a, n_a + n_x) and biases (n_a, 1), of i, f, c, o, in copies for kernels."""
    n_a = len(matrices[0])
    ih = np.concatenate([matrix[:, n_a:] for matrix in matrices], dtype=np.float64)
    hh = np.concatenate([matrix[:, :n_a] for matrix in matrices], dtype=np.float64)
    bias = np.concatenate(biases, dtype=np.float64).ravel()
    return Weights(np.ascontiguousarray(ih), np.ascontiguousarray(hh), bias, np.zeros(len(bias)))


def split_gates(dweights: tuple[Array, Array, Array]) -> tuple[list[Array], list[Array]]:
    """Return the gradients of the matrices and of the biases, of i, f, c, o, for those of `stack_gates`."""
    dih, dhh, dbias = dweights
    n_a = dhh.shape[1]
    matrices = np.concatenate((dhh, dih), axis=1).reshape(4, n_a, -1)
    return list(matrices), list(dbias.reshape(4, n_a, 1))


class Caches(Sequence[Cache]):
    """The caches of a run's steps, made when somebody looks: training does not, and they take as long as the run."""

    def __init__(self, run: Run, parameters: Parameters) -> None:
        self.run, self._parameters = run, parameters

    @cached_property
    def _steps(self) -> list[Cache]:
        a_0, c_0 = (state.T for state in self.run.state)
        inside = self.run.gates()
        i, f, g, o, c = (list(inside[name].transpose(0, 2, 1)) for name in "ifgoc")
        a, x = list(self.run.y.transpose(0, 2, 1)), self.run.x.transpose(0, 2, 1)
        return list(zip(a, c, [a_0, *a], [c_0, *c], f, i, g, o, x, repeat(self._parameters)))

    def __len__(self) -> int:
        return len(self.run.x)

    def __getitem__(self, index: Any) -> Any:
        return self._steps[index]


def lstm_cell_step(xt: Any, a_prev: Any, c_prev: Any, parameters: Parameters) -> tuple[Array, Array, Array, Cache]:
    """Take one step.

    Parameters
    ----------
    xt
        (n_x, m), for example one-hot columns.
    a_prev, c_prev
        (n_a, m), the states before.
    parameters
        Of `initialize_lstm_parameters`.

    Returns
    -------
    tuple
        a_next (n_a, m), c_next (n_a, m), the logits (n_y, m), and the cache (a_next, c_next, a_prev, c_prev, ft, it,
        cct, ot, xt, parameters).

    Raises
    ------
    KeyError, ValueError
        If a parameter is missing, or a shape does not fit.

    Examples
    --------
    >>> import numpy as np
    >>> parameters, zero = initialize_lstm_parameters(5, 3, 3), np.zeros((5, 2))
    >>> a_next, c_next, logits, cache = lstm_cell_step(np.eye(3)[:, :2], zero, zero, parameters)
    >>> a_next.shape, logits.shape, len(cache)
    ((5, 2), (3, 2), 10)
    """
    weights, wy, by = _weights(parameters)
    run = _run(step_rows("xt", xt, weights.ih.shape[1]), a_prev, c_prev, weights)
    (cache,) = Caches(run, parameters)
    return cache[0], cache[1], project(run.y, wy, by)[0].T, cache


def lstm_forward(x_seq: Any, a0: Any, parameters: Parameters) -> tuple[Array, Array, Sequence[Cache]]:
    """Run over a sequence of tokens; the cell state is zero at first.

    Parameters
    ----------
    x_seq
        Token indices (T_x,), or (m, T_x) for a batch; None in a list, or -1, stands for a column of zeros. Real columns
        (n_x, m, T_x) are taken too.
    a0
        (n_a, m), the initial hidden state.
    parameters
        Of `initialize_lstm_parameters`.

    Returns
    -------
    tuple
        a (n_a, m, T_x), the logits (n_y, m, T_x), and the sequence of each step's cache; see `lstm_cell_step`. a is
        read-only: `lstm_backwards` needs it.

    Raises
    ------
    TypeError
        If x_seq does not hold integers.
    KeyError, ValueError
        If a parameter is missing, a shape does not fit, an index is out of range, or there is no step.

    Examples
    --------
    >>> import numpy as np
    >>> parameters = initialize_lstm_parameters(5, 3, 3)
    >>> a, logits, caches = lstm_forward([2, 0, 1, 1], np.zeros((5, 1)), parameters)
    >>> a.shape, logits.shape, len(caches)
    ((5, 1, 4), (3, 1, 4), 4)
    """
    weights, wy, by = _weights(parameters)
    x = sequence_rows("x_seq", x_seq, weights.ih.shape[1])
    state = state_rows("a0", a0, len(weights.ih) // 4, x.shape[1])
    run = Run("lstm", x, (state, np.zeros_like(state)), weights)
    return to_columns(run.y), to_columns(project(run.y, wy, by)), Caches(run, parameters)


def _run(x: Array, a_0: Any, c_0: Any, weights: Weights) -> Run:
    n_a, m = len(weights.ih) // 4, x.shape[1]
    return Run("lstm", x, (state_rows("a_prev", a_0, n_a, m), state_rows("c_prev", c_0, n_a, m)), weights)


def lstm_step_backward(da_next: Any, dc_next: Any, cache: Cache) -> dict[str, Array]:
    """Differentiate one step.

    Parameters
    ----------
    da_next, dc_next
        (n_a, m), the loss's gradients with respect to a_next and c_next.
    cache
        Of `lstm_cell_step`, or one of those of `lstm_forward`.

    Returns
    -------
    dict
        dxt (n_x, m), da_prev and dc_prev (n_a, m), dWf, dWi, dWc, dWo (n_a, n_a + n_x), dbf, dbi, dbc, dbo (n_a, 1).
    """
    run = _again("cache", [cache])
    _, m, n_a = run.y.shape
    dstate = state_rows("da_next", da_next, n_a, m), state_rows("dc_next", dc_next, n_a, m)
    dx, (da_prev, dc_prev), dweights = run.backward(None, dstate)
    return {"dxt": dx[0].T, "da_prev": da_prev.T, "dc_prev": dc_prev.T} | _named(dweights)


def lstm_backwards(da: Any, caches: Sequence[Cache]) -> dict[str, Array]:
    """Back-propagate through time: the exact gradient of everything that went into `lstm_forward`.

    Parameters
    ----------
    da
        (n_a, m, T_x), the loss's gradient with respect to each a_t by way of the logits; see
        `project_logit_grad_to_hidden`.
    caches
        What `lstm_forward` returned. The gradient is that of this run, also where parameters have changed in place
        since. For a list made in another way, from `lstm_cell_step` or as a part of such a list, the run is repeated
        from its first a_prev and c_prev, its xt and its parameters as they are now.

    Returns
    -------
    dict
        dx (n_x, m, T_x), da0 (n_a, m), dWf, dWi, dWc, dWo (n_a, n_a + n_x), dbf, dbi, dbc, dbo (n_a, 1).

    Raises
    ------
    ValueError
        If da does not have that shape, or there is no cache.

    Examples
    --------
    >>> import numpy as np
    >>> parameters = initialize_lstm_parameters(5, 3, 3)
    >>> a, logits, caches = lstm_forward([2, 0, 1, 1], np.zeros((5, 1)), parameters)
    >>> gradients = lstm_backwards(np.ones_like(a), caches)
    >>> gradients["dx"].shape, gradients["da0"].shape, gradients["dWf"].shape
    ((3, 1, 4), (5, 1), (5, 8))
    """
    run = caches.run if isinstance(caches, Caches) else _again("caches", caches)
    steps, m, n_a = run.y.shape
    dx, (da_0, _), dweights = run.backward(as_rows("da", da, (n_a, m, steps), "(n_a, m, T_x)"), (None, None))
    return {"dx": to_columns(dx), "da0": da_0.T} | _named(dweights)


def _again(name: str, caches: Sequence[Cache]) -> Run:
    """Run over the steps of caches; `name` is that of the argument."""
    if not len(check_sequence(name, caches, "the caches of a run's steps")):
        raise ValueError(f"{name} is empty; expected one of each step")
    for cache in caches:
        if not isinstance(cache, tuple) or len(cache) != 10:
            raise TypeError(f"{name} is {shown(cache)}; expected what lstm_cell_step returns as its cache")
    _, _, a_0, c_0, *_, parameters = caches[0]
    weights = _weights(parameters)[0]
    x = np.concatenate([step_rows("xt", cache[8], weights.ih.shape[1]) for cache in caches])
    return _run(x, a_0, c_0, weights)


def _named(dweights: tuple[Array, Array, Array]) -> dict[str, Array]:
    (dwi, dwf, dwc, dwo), (dbi, dbf, dbc, dbo) = split_gates(dweights)
    return {"dWf": dwf, "dbf": dbf, "dWi": dwi, "dbi": dbi, "dWc": dwc, "dbc": dbc, "dWo": dwo, "dbo": dbo}
