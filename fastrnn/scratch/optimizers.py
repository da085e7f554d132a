"""Optimizers over dicts of parameters, or pairs of gradients and parameters, in place."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from fastrnn.checks import Array, check_float_array, check_iterable, check_mapping, check_number, shown, take_reals
from fastrnn.training import optimizers as rules

__all__ = ["AdamOptimizer", "MomentumOptimizer", "Optimizer", "RMSPropOptimizer", "SGDOptimizer"]

Pairs = list[tuple[Array, Array]]  # gradient, parameter


class Optimizer:
    """What the four share.

    Attributes
    ----------
    learning_rate
        May be changed between steps.
    """

    def __init__(self, learning_rate: float) -> None:
        self.learning_rate = check_number("learning_rate", learning_rate, "at least 0", lambda rate: rate >= 0)

    def update(self, parameters: dict[str, Array], gradients: Mapping[str, Any]) -> dict[str, Array]:
        """Update every parameter in place.

        Parameters
        ----------
        parameters
            Arrays by name.
        gradients
            The gradient of each, under "d" and its name; there may be others.

        Returns
        -------
        dict
            `parameters`, the same dict.

        Raises
        ------
        KeyError
            If a gradient is missing.
        ValueError
            If a shape differs from that of the parameter, or from that at the first step.
        """
        check_mapping("parameters", parameters, "names to arrays")
        check_mapping("gradients", gradients, "names to arrays")
        pairs = []
        for name, p in parameters.items():
            of = f"d{name}"
            if of not in gradients:
                raise KeyError(
                    f"gradients has no {shown(of)}; expected 'd' and the name of each parameter in parameters"
                )
            gradient = gradients[of]
            if not _fits(gradient, p):
                check_float_array(f"parameters[{shown(name)}]", p, written=True)
                gradient = _take_gradient(f"gradients[{of!r}]", gradient, p)
            pairs.append((gradient, p))
        if pairs:
            self._step(pairs)
        return parameters

    def apply_gradients(self, grads_and_vars: Iterable[tuple[Any, Array]]) -> None:
        """Update the parameters of (gradient, parameter) pairs in place; all steps have the pairs in one order.

        Raises
        ------
        ValueError
            If a shape differs from that of the parameter, or from that at the first step.
        """
        pairs = check_iterable("grads_and_vars", grads_and_vars, "pairs of a gradient and a parameter")
        for k, pair in enumerate(pairs):
            if not isinstance(pair, (tuple, list)) or len(pair) != 2:
                raise TypeError(f"grads_and_vars[{k}] is {shown(pair)}; expected a gradient and a parameter")
            if not _fits(*pair):
                check_float_array(f"grads_and_vars[{k}][1]", pair[1], written=True)
                pairs[k] = _take_gradient(f"grads_and_vars[{k}][0]", *pair), pair[1]
        if pairs:
            self._step(pairs)

    def _step(self, pairs: Pairs) -> None:
        raise NotImplementedError


def _fits(gradient: Any, p: Any) -> bool:
    """Whether these are what most are, so that nothing has to be said."""
    return (
        type(gradient) is type(p) is np.ndarray
        and gradient.dtype is p.dtype
        and p.dtype.kind == "f"
        and gradient.shape == p.shape
        and p.flags.writeable
    )


def _take_gradient(name: str, gradient: Any, p: Array) -> Array:
    if take_reals(name, gradient).shape != p.shape:
        raise ValueError(f"{name} has shape {np.shape(gradient)}; expected {p.shape}, as its parameter")
    return np.asarray(gradient)


class SGDOptimizer(Optimizer):
    """Gradient descent, ``p -= learning_rate g``.

    Examples
    --------
    >>> import numpy as np
    >>> parameters = {"ba": np.ones(2)}
    >>> SGDOptimizer(learning_rate=0.5).update(parameters, {"dba": np.array([1.0, 2.0])})
    {'ba': array([0.5, 0. ])}
    """

    def __init__(self, learning_rate: float = 0.01) -> None:
        super().__init__(learning_rate)

    def _step(self, pairs: Pairs) -> None:
        for gradient, p in pairs:
            p -= self.learning_rate * gradient


class _Averaging(Optimizer):
    """A rule over all arrays at once, one after another in memory."""

    _shapes: list[tuple[int, ...]] | None = None  # once they are known

    def _compute(self) -> None:
        """Put what is to be added to the parameters into `_change`, which has what was added last, or zeros."""
        raise NotImplementedError

    def _step(self, pairs: Pairs) -> None:
        shapes = [p.shape for _, p in pairs]
        if self._shapes is None:
            ends = np.cumsum([p.size for _, p in pairs])
            self._gradient, self._change = np.empty(ends[-1]), np.zeros(ends[-1])
            parts = np.split(self._change, ends[:-1])
            self._changes = [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]
            self._shapes = shapes
        elif shapes != self._shapes:
            raise ValueError(f"the parameters have shapes {shapes}; expected {self._shapes}, as at the first step")
        np.concatenate([gradient.ravel() for gradient, _ in pairs], out=self._gradient)
        self._compute()
        for (_, p), change in zip(pairs, self._changes, strict=True):
            p += change


class _ByRule(_Averaging):
    """A rule of `fastrnn.training`."""

    _rule: rules.Optimizer | None = None  # once the shapes are known

    def _make_rule(self, parameters: dict[str, Array]) -> rules.Optimizer:
        raise NotImplementedError

    def _compute(self) -> None:
        if self._rule is None:
            self._rule = self._make_rule({"all": self._change})
        self._change.fill(0)  # what the rule makes of zero is what it changes
        self._rule.learning_rate = self.learning_rate
        self._rule.step({"all": self._gradient})


class MomentumOptimizer(_Averaging):
    """Gradient descent with momentum, ``v = beta v - learning_rate g; p += v``.

    Parameters
    ----------
    learning_rate
        May be changed between steps.
    beta, momentum
        Two names of one number, from 0 to below 1; 0.9 where neither is given.

    Raises
    ------
    ValueError
        If both are given and differ, or the number is out of range.
    """

    def __init__(
        self, learning_rate: float = 0.01, beta: float | None = None, *, momentum: float | None = None
    ) -> None:
        super().__init__(learning_rate)
        given = {name: _check_share(name, v) for name, v in (("beta", beta), ("momentum", momentum)) if v is not None}
        if len(set(given.values())) > 1:
            raise ValueError(f"beta is {beta} and momentum {momentum}; expected one of them: they are the same number")
        self.beta = self.momentum = next(iter(given.values()), 0.9)

    def _compute(self) -> None:
        self._change *= self.beta
        self._gradient *= self.learning_rate
        self._change -= self._gradient


class RMSPropOptimizer(_ByRule):
    """Gradients over the root of their mean square.

    ``s = beta s + (1 - beta) g^2; p -= learning_rate g / (sqrt(s) + epsilon)``.
    """

    def __init__(self, learning_rate: float = 0.01, beta: float = 0.9, epsilon: float = 1e-8) -> None:
        super().__init__(learning_rate)
        self.beta, self.epsilon = _check_share("beta", beta), _check_epsilon(epsilon)

    def _make_rule(self, parameters: dict[str, Array]) -> rules.Optimizer:
        return rules.RMSProp(parameters, self.learning_rate, alpha=self.beta, eps=self.epsilon)


class AdamOptimizer(_ByRule):
    """Adam with bias correction; see `fastrnn.training.Adam`."""

    def __init__(
        self, learning_rate: float = 0.001, beta1: float = 0.9, beta2: float = 0.999, epsilon: float = 1e-8
    ) -> None:
        super().__init__(learning_rate)
        self.beta1, self.beta2 = _check_share("beta1", beta1), _check_share("beta2", beta2)
        self.epsilon = _check_epsilon(epsilon)

    def _make_rule(self, parameters: dict[str, Array]) -> rules.Optimizer:
        return rules.Adam(parameters, self.learning_rate, betas=(self.beta1, self.beta2), eps=self.epsilon)


def _check_share(name: str, value: float) -> float:
    return check_number(name, value, "at least 0 and below 1", lambda number: 0 <= number < 1)


def _check_epsilon(epsilon: float) -> float:
    return check_number("epsilon", epsilon, "at least 0", lambda number: 0 <= number < math.inf)
