"""Optimizers over a mapping of live parameter arrays, with torch.optim's defaults and numbers.

A rule is a class with the names of its running averages and one method that updates one parameter in place.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any, ClassVar, Protocol, TypeAlias

import numpy as np

from fastrnn import ops
from fastrnn.checks import (
    Array,
    check_arrays,
    check_count,
    check_float_array,
    check_mapping,
    check_number,
    check_sequence,
    shown,
    take_reals,
)

__all__ = ["SGD", "Adam", "AdamW", "Momentum", "Optimizer", "RMSProp", "RMSprop"]


class HasParameters(Protocol):
    """A module, layer or model."""

    @property
    def parameters(self) -> Mapping[str, Array]:
        """Its live arrays by name."""


Parameters: TypeAlias = Mapping[str, Array] | HasParameters


class Optimizer:
    """What the rules share: the parameters, their running averages, and saving those.

    Parameters
    ----------
    parameters
        Live arrays by name, as `model.parameters` gives them, or a module, layer or model that has them; `step` writes
        into the arrays.
    learning_rate
        May be changed between steps.
    """

    averages: ClassVar[tuple[str, ...]]  # names of the arrays kept per parameter, zero at first

    def __init__(self, parameters: Parameters, learning_rate: float) -> None:
        self.learning_rate = _check("learning_rate", learning_rate, 0, math.inf)
        self.steps = 0
        self._parameters = dict(check_arrays("parameters", _arrays_of(parameters), written=True))
        self._averages = {name: [np.zeros_like(p) for _ in self.averages] for name, p in self._parameters.items()}
        largest = max((p.nbytes for p in self._parameters.values()), default=0)
        self._scratch = np.empty(largest, np.uint8)

    def step(self, grads: Mapping[str, Array] | None = None) -> None:
        """Update every parameter in place from its gradient, which must be given: there is no `p.grad` here.

        Raises
        ------
        KeyError
            If the names of `grads` are not those of the parameters.
        TypeError, ValueError
            If `grads` is no mapping of arrays of floats, or a gradient does not have its parameter's shape.
        """
        grads = check_mapping(
            "grads", grads, "names to arrays: the gradients that backward returns, optimizer.step(grads)"
        )
        if grads.keys() != self._parameters.keys():
            raise KeyError(f"grads is for {_listed(grads)}; expected {_listed(self._parameters)}")
        for name, p in self._parameters.items():
            grad = grads[name]
            if type(grad) is np.ndarray and grad.dtype is p.dtype and grad.shape == p.shape:
                continue  # as most are
            if check_float_array(f"grads[{name!r}]", grad).shape != p.shape:
                raise ValueError(f"grads[{name!r}] has shape {grad.shape}; expected {p.shape}")
        self.steps += 1
        for name, p in self._parameters.items():
            scratch = self._scratch[: p.nbytes].view(p.dtype).reshape(p.shape)
            self._update(p, grads[name], scratch, *self._averages[name])

    def _update(self, p: Array, grad: Array, scratch: Array, *averages: Array) -> None:
        """Update one parameter and its averages; `scratch` is of the same shape and holds nothing."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Array]:
        """Return a copy of the running averages, named ``average.parameter``, and the number of `steps`."""
        state = {"steps": np.array(self.steps)}
        for name, arrays in self._averages.items():
            state |= {f"{kind}.{name}": array.copy() for kind, array in zip(self.averages, arrays, strict=True)}
        return state

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave; KeyError or ValueError, and nothing loaded, unless names and shapes fit."""
        expected = self.state_dict()
        check_mapping("state_dict", state_dict, "names to arrays")
        if state_dict.keys() != expected.keys():
            raise KeyError(f"state_dict has {_listed(state_dict)}; expected {_listed(expected)}")
        values = {name: take_reals(f"state_dict[{name!r}]", state_dict[name]) for name in expected}
        for name, value in expected.items():
            if values[name].shape != value.shape:
                raise ValueError(f"state_dict[{name!r}] has shape {values[name].shape}; expected {value.shape}")
        steps = values["steps"].item()
        self.steps = check_count("state_dict['steps']", int(steps) if math.isfinite(steps) else steps)
        for name, arrays in self._averages.items():
            for kind, array in zip(self.averages, arrays, strict=True):
                array[...] = values[f"{kind}.{name}"]


class SGD(Optimizer):
    """Gradient descent, ``v = momentum * v + g; p -= learning_rate * v``.

    Examples
    --------
    >>> import numpy as np
    >>> p = np.ones(2)
    >>> SGD({"p": p}, learning_rate=0.5).step({"p": np.array([1.0, 2.0])})
    >>> p
    array([0.5, 0. ])
    """

    averages = ("velocity",)

    def __init__(self, parameters: Parameters, learning_rate: float = 1e-3, momentum: float = 0.0) -> None:
        super().__init__(parameters, learning_rate)
        self.momentum = _check("momentum", momentum, 0, 1)

    def _update(self, p: Array, grad: Array, scratch: Array, *averages: Array) -> None:
        (velocity,) = averages
        velocity *= self.momentum
        velocity += grad
        p -= np.multiply(velocity, self.learning_rate, out=scratch)


class Momentum(SGD):
    """`SGD` with momentum, 0.9 unless told otherwise."""

    def __init__(self, parameters: Parameters, learning_rate: float = 1e-3, momentum: float = 0.9) -> None:
        super().__init__(parameters, learning_rate, momentum)


class RMSProp(Optimizer):
    """Gradients over the root of their mean square (Tieleman and Hinton, 2012).

    ``v = alpha v + (1 - alpha) g^2; p -= learning_rate g / (sqrt(v) + eps)``.
    """

    averages = ("square",)

    def __init__(
        self, parameters: Parameters, learning_rate: float = 0.01, alpha: float = 0.99, eps: float = 1e-8
    ) -> None:
        super().__init__(parameters, learning_rate)
        self.alpha = _check("alpha", alpha, 0, 1)
        self.eps = _check("eps", eps, 0, math.inf)

    def _update(self, p: Array, grad: Array, scratch: Array, *averages: Array) -> None:
        (square,) = averages
        _average_square(square, grad, self.alpha, scratch)
        np.sqrt(square, out=scratch)
        scratch += self.eps
        np.divide(grad, scratch, out=scratch)
        scratch *= self.learning_rate
        p -= scratch


RMSprop = RMSProp  # as torch spells it


class Adam(Optimizer):
    """Adam (Kingma and Ba, 2015) with bias correction.

    ``m = beta1 m + (1 - beta1) g; v = beta2 v + (1 - beta2) g^2; p -= learning_rate m' / (sqrt(v') + eps)``, where
    m' and v' are m and v divided by ``1 - beta^steps``.
    """

    averages = ("mean", "square")

    def __init__(
        self,
        parameters: Parameters,
        learning_rate: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        super().__init__(parameters, learning_rate)
        if len(check_sequence("betas", betas, "two numbers")) != 2:
            raise ValueError(f"betas is {shown(betas)}; expected two numbers")
        self.betas = _check("betas[0]", betas[0], 0, 1), _check("betas[1]", betas[1], 0, 1)
        self.eps = _check("eps", eps, 0, math.inf)

    _kept = 1.0  # of a parameter, before it is updated

    def _update(self, p: Array, grad: Array, scratch: Array, *averages: Array) -> None:
        mean, square = averages
        beta1, beta2 = self.betas
        correction, rate = math.sqrt(1 - beta2**self.steps), self.learning_rate / (1 - beta1**self.steps)
        by = {"beta1": beta1, "beta2": beta2, "correction": correction, "eps": self.eps, "rate": rate}
        if ops.adam(p, grad, mean, square, **by, kept=self._kept):
            return
        p *= self._kept
        mean *= beta1
        mean += np.multiply(grad, 1 - beta1, out=scratch)
        _average_square(square, grad, beta2, scratch)
        np.sqrt(square, out=scratch)
        scratch /= correction
        scratch += self.eps
        np.divide(mean, scratch, out=scratch)
        scratch *= rate
        p -= scratch


class AdamW(Adam):
    """`Adam` with decoupled weight decay (Loshchilov and Hutter, 2019): first ``p *= 1 - learning_rate weight_decay``.

    Examples
    --------
    >>> import numpy as np
    >>> p = np.ones(2)
    >>> AdamW({"p": p}, learning_rate=0.5, weight_decay=0.1).step({"p": np.array([0.0, 1.0])})
    >>> p
    array([0.95, 0.45])
    """

    def __init__(
        self,
        parameters: Parameters,
        learning_rate: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
    ) -> None:
        super().__init__(parameters, learning_rate, betas, eps)
        self.weight_decay = _check("weight_decay", weight_decay, 0, math.inf)

    @property
    def _kept(self) -> float:  # type: ignore[override]
        return 1 - self.learning_rate * self.weight_decay


def _arrays_of(parameters: Any) -> Mapping[str, Array]:
    """The arrays by name of a mapping or of what has one."""
    arrays = parameters if isinstance(parameters, Mapping) else getattr(parameters, "parameters", parameters)
    if isinstance(arrays, Mapping) and not isinstance(parameters, type):
        return arrays
    raise TypeError(
        f"parameters is {shown(parameters)}; expected a mapping of names to arrays, or what has one as its parameters: "
        "Adam(model.parameters) or Adam(model)"
    )


def _average_square(square: Array, grad: Array, decay: float, scratch: Array) -> None:
    """Square := decay * square + (1 - decay) * grad^2."""
    square *= decay
    np.multiply(grad, grad, out=scratch)
    scratch *= 1 - decay
    square += scratch


def _check(name: str, value: float, low: float, high: float) -> float:
    """Return `value` as a float; ValueError unless low <= value < high."""
    return check_number(name, value, f"at least {low} and below {high}", lambda number: low <= number < high)


def _listed(names: Mapping[str, Any]) -> str:
    """The names of a mapping, as many of them as one reads."""
    some = [shown(name) for name in itertools.islice(names, 20)]
    return f"[{', '.join(some)}{', ...' if len(names) > len(some) else ''}]"
