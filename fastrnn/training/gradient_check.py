"""Is a backward pass the derivative of its forward pass? Central differences tell."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from typing import Any

import numpy as np

from fastrnn.checks import Array, check_mapping, check_positive, make_generator, shown, take_array
from fastrnn.modules import Runnable
from fastrnn.training.composition import given_steps

__all__ = ["GradientErrors", "check_gradients"]

# The cube root of eps balances the two errors of a central difference, of the series cut off and of rounding.
STEP = 6e-6
# Gradients below this part of the largest one drown in the rounding of the loss: errors are not relative to less.
LEAST = 1e-5


class GradientErrors(dict[str, float]):
    """The largest relative error of the gradient of each input and parameter, by name; printed, a table."""

    @property
    def largest(self) -> float:
        """The largest of them all."""
        return max(self.values(), default=0.0)

    def __str__(self) -> str:
        width = max(map(len, ("gradient of", *self)))
        lines = [f"{name:<{width}}  {error:.1e}" for name, error in self.items()]
        return "\n".join([f"{'gradient of':<{width}}  largest relative error", *lines])


def check_gradients(
    module: Any,
    x: Any,
    state: Any = None,
    *,
    lengths: Any = None,
    mask: Any = None,
    resets: Any = None,
    most: int = 100,
    seed: Any = 0,
) -> GradientErrors:
    """Compare the gradients of `module.backward` with central differences of `module.forward`, in float64.

    The loss is a sum of all outputs with random weights. Each element of an input or parameter is moved by 6e-6 either
    way; the error is the difference of both gradients over the largest element of its array's gradient (of a gradient
    that is tiny beside the others', over 1e-5 of the largest of all). A right gradient is at 1e-7 or below, a wrong
    one is mostly above 1e-2.

    Parameters
    ----------
    module
        A module, cell or layer of this package with dtype float64, or one of your own: ``forward(x) -> (y, tape)``,
        ``backward(tape, dy) -> (dx, grads)`` and a dict `parameters` of the arrays that forward reads, with the names
        of `grads`. With a state, ``forward(x, state) -> (y, state_n, tape)`` and
        ``backward(tape, dy, dstate) -> (dx, dstate, grads)``. It is left as it was: a copy is examined, a new one for
        each run, so that dropout draws the same each time.
    x
        The input, float64, or integers, which have no gradient.
    state
        The initial state, an array or a tuple of arrays, where `forward` takes one and its gradient shall be checked.
    lengths, mask, resets
        Which steps of the sequences are run and where they begin anew, where `forward` takes these.
    most
        How many elements of an array are checked, at random, where it has more.
    seed
        Of the weights and of what is checked, anything `numpy.random.default_rng` takes.

    Returns
    -------
    GradientErrors
        The largest relative error by name: "x", the states ("h_0", "c_0"), then the parameters.

    Raises
    ------
    TypeError
        If `module` lacks what is needed, or something is not float64.
    ValueError
        If `backward` leaves a gradient out, or its shape is not that of what it is the gradient of.

    Examples
    --------
    >>> import numpy as np, fastrnn
    >>> gru = fastrnn.GRU(3, 4, dtype="float64", seed=0)
    >>> errors = check_gradients(gru, np.random.default_rng(0).standard_normal((5, 2, 3)))
    >>> list(errors)
    ['x', 'weight_ih_l0', 'weight_hh_l0', 'bias_ih_l0', 'bias_hh_l0']
    >>> errors.largest < 1e-7
    True
    """
    for name in ("forward", "backward", "parameters"):
        if not hasattr(module, name) or isinstance(module, type):
            raise TypeError(
                f"module is {shown(module)}; expected what has forward, backward and parameters, such as "
                "fastrnn.LSTM(3, 4, dtype='float64')"
            )
    most, rng = check_positive("most", most), make_generator(seed)
    inputs = _inputs(module, x, state)
    if state is not None and not _takes(module.forward, "state"):
        raise TypeError(f"state is given; expected None, as forward of module, a {type(module).__name__}, takes none")
    options = given_steps(lengths, mask, resets)
    for name in options:
        if not _takes(module.forward, name):
            raise TypeError(
                f"{name} is given; expected None, as forward of module, a {type(module).__name__}, takes none"
            )
    examined = copy.deepcopy(module)
    parameters = check_mapping("module.parameters", examined.parameters, "names to arrays")
    for name, parameter in parameters.items():
        _check_float64(f"module.parameters[{name!r}]", parameter)
    arguments: list[Any] = [inputs["x"]]
    if state is not None:
        states = tuple(array for name, array in inputs.items() if name != "x")
        arguments.append(states if isinstance(state, (tuple, list)) else states[0])

    one_run = copy.deepcopy(examined)
    *outputs, tape = one_run.forward(*arguments, **options)
    taken = outputs[: len(_positional(one_run.backward)) - 1]  # a language model's takes no gradient of its state
    weights = [_weights(rng, output) for output in taken]
    found = one_run.backward(tape, *weights)
    *dinputs, grads = found if isinstance(found, tuple) else (found,)
    check_mapping("the last of what backward returns", grads, "names to gradients")

    def loss() -> float:
        *outputs, _ = copy.deepcopy(examined).forward(*arguments, **options)
        return sum(_dot(w, output) for w, output in zip(weights, outputs, strict=False))

    arrays = {name: array for name, array in inputs.items() if array.dtype.kind == "f"}
    gradients = dict(zip(inputs, _flat(dinputs), strict=False))
    if not dinputs:  # a model that begins with tokens gives those of its parameters alone
        arrays = {}
    pairs = {}
    for name, array in (arrays | dict(parameters)).items():
        gradient = (gradients if name in arrays else grads).get(name)
        if gradient is None:
            raise ValueError(f"backward returns no gradient of {name}; expected one of shape {array.shape}")
        if np.shape(gradient) != array.shape:
            raise ValueError(f"the gradient of {name} has shape {np.shape(gradient)}; expected {array.shape}")
        at = rng.choice(array.size, min(most, array.size), replace=False)
        pairs[name] = np.ravel(gradient)[at], _differences(loss, array, at)
    largest = {name: float(np.abs(pair).max(initial=0)) for name, pair in pairs.items()}
    least = LEAST * max(largest.values(), default=0)
    return GradientErrors(
        {
            name: float(np.abs(gradient - difference).max(initial=0)) / (max(largest[name], least) or 1)
            for name, (gradient, difference) in pairs.items()
        }
    )


def _inputs(module: Any, x: Any, state: Any) -> dict[str, Array]:
    """Copies of the inputs by name; TypeError if one is neither float64 nor, as x may be, of integers."""
    values = {"x": x}
    if isinstance(state, (tuple, list)):
        names = module._cell.states_0 if isinstance(module, Runnable) else ()
        if len(names) != len(state):
            names = tuple(f"state[{k}]" for k in range(len(state)))
        values |= dict(zip(names, state, strict=True))
    elif state is not None:
        values["h_0" if isinstance(module, Runnable) else "state"] = state
    arrays = {name: take_array(name, value).copy() for name, value in values.items()}
    for name, array in arrays.items():
        if name != "x" or array.dtype.kind not in "iu":
            _check_float64(name, array)
    return arrays


def _check_float64(name: str, array: Any) -> None:
    dtype = getattr(array, "dtype", type(array).__name__)
    if dtype != np.float64:
        remedy = "dtype='float64' for the module" if name.startswith("module") else f"{name}.astype(np.float64)"
        raise TypeError(f"{name} has dtype {dtype}; expected float64, for differences need it: use {remedy}")


def _positional(function: Callable[..., Any]) -> list[str]:
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [name for name, each in inspect.signature(function).parameters.items() if each.kind in kinds]


def _takes(function: Callable[..., Any], name: str) -> bool:
    return name in inspect.signature(function).parameters


def _flat(values: Any) -> list[Any]:
    """The arrays of tuples in tuples, one after the other."""
    if isinstance(values, (tuple, list)):
        return [array for value in values for array in _flat(value)]
    return [values]


def _weights(rng: np.random.Generator, output: Any) -> Any:
    """Random weights of an output's elements, an array or a tuple as the output is."""
    if isinstance(output, tuple):
        return tuple(_weights(rng, each) for each in output)
    return rng.standard_normal(np.shape(output))


def _dot(weights: Any, output: Any) -> float:
    if isinstance(weights, tuple):
        return sum(_dot(w, each) for w, each in zip(weights, output, strict=True))
    return float(np.vdot(weights, output))


def _differences(loss: Callable[[], float], array: Array, at: Array) -> Array:
    """The central difference of the loss for each of some elements of an array, which is as it was afterwards."""
    differences = np.empty(len(at))
    for k, position in enumerate(at):
        index = np.unravel_index(position, array.shape)
        before = array[index]
        array[index] = above = before + STEP
        loss_above = loss()
        array[index] = below = before - STEP
        differences[k] = (loss_above - loss()) / (above - below)
        array[index] = before
    return differences
