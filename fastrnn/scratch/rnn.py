"""The RNN of from-scratch code: a_t = tanh(Wax x_t + Waa a_{t-1} + ba), logits_t = Wya a_t + by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from fastrnn import ops
from fastrnn.cells import Weights
from fastrnn.checks import Array, check_positive, check_size, shown, take_array
from fastrnn.scratch.columns import as_rows, project, sequence_rows, state_rows, step_rows, take, to_columns
from fastrnn.scratch.seeds import seed_numpy
from fastrnn.scratch.sequence import Run

__all__ = [
    "initialize_rnn_parameters",
    "rnn_backward",
    "rnn_cell_step",
    "rnn_forward",
    "rnn_step_backward",
]

Parameters = Mapping[str, Any]


def initialize_rnn_parameters(n_a: int, n_x: int, n_y: int, seed: int = 1) -> dict[str, Array]:
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
        Wax (n_a, n_x), Waa (n_a, n_a), Wya (n_y, n_a), drawn in this order, ba (n_a, 1) and by (n_y, 1), float64.

    Examples
    --------
    >>> parameters = initialize_rnn_parameters(5, 3, 3)
    >>> {name: p.shape for name, p in parameters.items()}
    {'Wax': (5, 3), 'Waa': (5, 5), 'Wya': (3, 5), 'ba': (5, 1), 'by': (3, 1)}
    """
    sizes = check_positive("n_a", n_a), check_positive("n_x", n_x) + check_positive("n_y", n_y)
    check_size("n_a, n_x, n_y", (sizes[0], sum(sizes)))
    seed_numpy(seed)
    return {
        "Wax": np.random.randn(n_a, n_x) * 0.01,
        "Waa": np.random.randn(n_a, n_a) * 0.01,
        "Wya": np.random.randn(n_y, n_a) * 0.01,
        "ba": np.zeros((n_a, 1)),
        "by": np.zeros((n_y, 1)),
    }


def _weights(parameters: Parameters) -> tuple[Weights, Array, Array]:
    """Copies of the recurrent weights as kernels take them, and Wya and by."""
    wax = np.array(take(parameters, "Wax"), np.float64, order="C")
    n_a = len(wax)
    waa = np.array(take(parameters, "Waa", n_a, n_a), np.float64, order="C")
    ba = np.array(take(parameters, "ba", n_a, 1), np.float64)
    wya = take(parameters, "Wya", columns=n_a)
    return Weights(wax, waa, ba.ravel(), np.zeros(n_a)), wya, take(parameters, "by", len(wya), 1)


class States(dict[int, Array]):
    """The hidden states by step, the initial one at -1, and the run that they come from."""

    run: Run


def _before_tanh(run: Run) -> Array:
    """Wax x + Waa a_prev + ba, as rows (T, N, n_a): what the kernels do not keep."""
    weights, previous = run.weights, np.concatenate([run.state[0][None], run.y[:-1]])
    assert weights.bias_ih is not None
    assert weights.hh is not None
    z = project(previous, weights.hh, weights.bias_ih)
    z += ops.multiply(run.x.reshape(-1, run.x.shape[-1]), weights.ih.T).reshape(z.shape)
    return z


def rnn_cell_step(x_t: Any, a_prev: Any, parameters: Parameters) -> tuple[Array, Array, Array, tuple[Any, ...]]:
    """Take one step.

    Parameters
    ----------
    x_t
        (n_x, m), for example one-hot columns.
    a_prev
        (n_a, m), the state before.
    parameters
        Of `initialize_rnn_parameters`.

    Returns
    -------
    tuple
        a_next (n_a, m), the logits z_y (n_y, m), the pre-activation z (n_a, m), and the cache that `rnn_step_backward`
        takes.

    Raises
    ------
    KeyError, ValueError
        If a parameter is missing, or a shape does not fit.

    Examples
    --------
    >>> import numpy as np
    >>> parameters = initialize_rnn_parameters(5, 3, 3)
    >>> a_next, z_y, z, cache = rnn_cell_step(np.eye(3)[:, :2], np.zeros((5, 2)), parameters)
    >>> a_next.shape, z_y.shape, np.allclose(a_next, np.tanh(z))
    ((5, 2), (3, 2), True)
    """
    weights, wya, by = _weights(parameters)
    x = step_rows("x_t", x_t, weights.ih.shape[1])
    a_0 = state_rows("a_prev", a_prev, len(weights.ih), x.shape[1])
    run = Run("rnn_tanh", x, (a_0,), weights)
    a_next, z = run.y[0].T, _before_tanh(run)[0].T
    return a_next, project(run.y, wya, by)[0].T, z, (a_next, a_0.T, x[0].T, z, parameters)


def rnn_forward(
    X: Any, a0: Any, parameters: Parameters
) -> tuple[dict[int, Array], dict[int, Array], Array, list[Array]]:
    """Run over a sequence of tokens.

    Parameters
    ----------
    X
        Token indices (T_x,), or (m, T_x) for a batch; None in a list, or -1, stands for a column of zeros. Real columns
        (n_x, m, T_x) are taken too.
    a0
        (n_a, m), the initial state.
    parameters
        Of `initialize_rnn_parameters`.

    Returns
    -------
    tuple
        The states a, a dict from the step to (n_a, m), with a[-1] = a0; the inputs x, a dict of columns (n_x, m); the
        logits (n_y, T_x), or (n_y, m, T_x) for a batch; and the pre-activations z_t, a list of (n_a, m). a and x are
        read-only: `rnn_backward` needs them.

    Raises
    ------
    TypeError
        If X does not hold integers.
    KeyError, ValueError
        If a parameter is missing, a shape does not fit, an index is out of range, or there is no step.

    Examples
    --------
    >>> import numpy as np
    >>> parameters = initialize_rnn_parameters(5, 3, 3)
    >>> a, x, logits, z_t = rnn_forward([None, 2, 0, 1], np.zeros((5, 1)), parameters)
    >>> sorted(a), x[1].ravel(), logits.shape
    ([-1, 0, 1, 2, 3], array([0., 0., 1.]), (3, 4))
    """
    weights, wya, by = _weights(parameters)
    rows = sequence_rows("X", X, weights.ih.shape[1])
    a_0 = state_rows("a0", a0, len(weights.ih), rows.shape[1])
    run = Run("rnn_tanh", rows, (a_0,), weights)
    a = States({-1: a_0.T})
    a.update(enumerate(run.y.transpose(0, 2, 1)))
    a.run = run
    x = dict(enumerate(rows.transpose(0, 2, 1)))
    logits = to_columns(project(run.y, wya, by))
    return a, x, logits if np.ndim(X) > 1 else logits[:, 0], list(_before_tanh(run).transpose(0, 2, 1))


def rnn_step_backward(da: Any, cache: tuple[Any, ...]) -> tuple[dict[str, Array], Array]:
    """Differentiate one step.

    Parameters
    ----------
    da
        (n_a, m), the loss's gradient with respect to a_next.
    cache
        (a_next, a_prev, x_t, z_t, parameters), as `rnn_cell_step` returns it.

    Returns
    -------
    tuple
        {dWax, dWaa, dba}, and da_prev (n_a, m).
    """
    if not isinstance(cache, tuple) or len(cache) != 5:
        raise TypeError(f"cache is {shown(cache)}; expected what rnn_cell_step returns as its cache")
    _, a_prev, x_t, _, parameters = cache
    gradients, da_prev = _backward(_again([x_t], a_prev, parameters), take_array("da", da)[..., None])
    return gradients, da_prev


def rnn_backward(
    da: Any, parameters: Parameters, cache: tuple[Mapping[int, Array], Mapping[int, Array], Array, list[Array]]
) -> tuple[dict[str, Array], Mapping[int, Array]]:
    """Back-propagate through time.

    Parameters
    ----------
    da
        (n_a, m, T_x), the loss's gradient with respect to each a_t by way of the logits; see
        `project_logit_grad_to_hidden`.
    parameters
        As given to `rnn_forward`.
    cache
        What `rnn_forward` returned. The gradient is that of this run, also where parameters have changed in place
        since. With dicts made in another way the run is repeated, from a[-1] and x.

    Returns
    -------
    tuple
        {dWax (n_a, n_x), dWaa (n_a, n_a), dba (n_a, 1)}, and a.

    Raises
    ------
    ValueError
        If da does not have that shape.

    Examples
    --------
    >>> import numpy as np
    >>> parameters = initialize_rnn_parameters(5, 3, 3)
    >>> cache = rnn_forward([2, 0, 1], np.zeros((5, 1)), parameters)
    >>> gradients, a = rnn_backward(np.ones((5, 1, 3)), parameters, cache)
    >>> {name: g.shape for name, g in gradients.items()}
    {'dWax': (5, 3), 'dWaa': (5, 5), 'dba': (5, 1)}
    """
    if not isinstance(cache, (tuple, list)) or len(cache) < 2 or not all(isinstance(c, Mapping) for c in cache[:2]):
        raise TypeError(f"cache is {shown(cache)}; expected what rnn_forward returned")
    a, x = cache[:2]
    run = a.run if isinstance(a, States) else _again([x[t] for t in range(len(x))], a[-1], parameters)
    return _backward(run, da)[0], a


def _again(x: list[Array], a_0: Any, parameters: Parameters) -> Run:
    """Run over steps x, (n_x, m) each."""
    weights = _weights(parameters)[0]
    rows = np.concatenate([step_rows("x_t", x_t, weights.ih.shape[1]) for x_t in x])
    return Run("rnn_tanh", rows, (state_rows("a_prev", a_0, len(weights.ih), rows.shape[1]),), weights)


def _backward(run: Run, da: Any) -> tuple[dict[str, Array], Array]:
    """The gradients of the parameters and of the initial state, for those of all states."""
    steps, m, n_a = run.y.shape
    _, (da_0,), (dwax, dwaa, dba) = run.backward(as_rows("da", da, (n_a, m, steps), "(n_a, m, T_x)"), (None,))
    return {"dWax": dwax, "dWaa": dwaa, "dba": dba[:, None]}, da_0.T
