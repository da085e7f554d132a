"""Activations by name, with their numbers: those of ONNX and of Keras, for cells by options (`variants.py`).

An activation is a name of `ACTIVATIONS`, or a tuple of a name and its numbers: ``"relu"``, ``("leaky_relu", 0.2)``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from fastrnn.cells.operations import (
    elu,
    exp,
    gelu,
    hard_sigmoid,
    hard_tanh,
    leaky_relu,
    maximum,
    relu,
    selu,
    sigmoid,
    silu,
    softplus,
    softsign,
    sqrt,
    tanh,
    where,
)
from fastrnn.checks import shown

__all__ = ["ACTIVATIONS", "KERAS", "ONNX", "Activation", "activation", "keras_activation", "onnx_activations"]


class Activation(NamedTuple):
    """A function of one number, by its name and numbers, so that equal ones are equal."""

    name: str
    numbers: tuple[float, ...] = ()

    def __call__(self, x: Any) -> Any:
        """Its value, of what equations are made of or of an array."""
        function, _ = ACTIVATIONS[self.name]
        return function(x, *self.numbers)

    def __str__(self) -> str:
        return repr((self.name, *self.numbers)) if self.numbers != ACTIVATIONS[self.name][1] else repr(self.name)


def _gelu_tanh(x: Any) -> Any:
    return 0.5 * x * (1 + tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def _soft_shrink(x: Any, width: float) -> Any:
    return where(x > width, x - width, where(x < -width, x + width, 0.0))


def _hard_shrink(x: Any, width: float) -> Any:
    return where((x > width) | (x < -width), x, 0.0)


#: By name: the function of x and its numbers, and what the numbers are where none are given.
ACTIVATIONS: Mapping[str, tuple[Callable[..., Any], tuple[float, ...]]] = {
    "linear": (lambda x: x, ()),
    "affine": (lambda x, slope, offset: slope * x + offset, (1.0, 0.0)),
    "relu": (relu, ()),
    "relu6": (lambda x: hard_tanh(x, 0, 6), ()),
    "leaky_relu": (leaky_relu, (0.01,)),
    "thresholded_relu": (lambda x, threshold: where(x > threshold, x, 0.0), (1.0,)),
    "threshold": (lambda x, threshold, value: where(x > threshold, x, value), (0.0, 0.0)),
    "elu": (elu, (1.0,)),
    "celu": (lambda x, alpha: alpha * elu(x / alpha), (1.0,)),
    "selu": (selu, ()),
    "gelu": (gelu, ()),
    "gelu_tanh": (_gelu_tanh, ()),
    "silu": (silu, ()),
    "hard_silu": (lambda x: x * hard_sigmoid(x), ()),
    "mish": (lambda x: x * tanh(softplus(x)), ()),
    "exponential": (exp, ()),
    "softplus": (softplus, ()),
    "squareplus": (lambda x, b: 0.5 * (x + sqrt(x * x + b)), (4.0,)),
    "sparse_plus": (lambda x: where(x < 1, 0.25 * maximum(x + 1, 0) ** 2, x), ()),
    "tanh": (tanh, ()),
    "scaled_tanh": (lambda x, scale, slope: scale * tanh(slope * x), (1.0, 1.0)),
    "hard_tanh": (hard_tanh, ()),
    "tanh_shrink": (lambda x: x - tanh(x), ()),
    "soft_shrink": (_soft_shrink, (0.5,)),
    "hard_shrink": (_hard_shrink, (0.5,)),
    "sigmoid": (sigmoid, ()),
    "hard_sigmoid": (hard_sigmoid, (1 / 6, 0.5)),
    "sparse_sigmoid": (lambda x: hard_sigmoid(x, 0.5), ()),
    "log_sigmoid": (lambda x: -softplus(-x), ()),
    "softsign": (softsign, ()),
}

_OVER_UNITS = frozenset({"softmax", "log_softmax", "sparsemax", "glu"})


def activation(argument: str, given: Any) -> Activation:
    """An activation, of its name, or of a tuple of the name and its numbers.

    Raises
    ------
    TypeError, ValueError
        If it is not known, or is not of each unit alone, or has other numbers; the message names the argument.
    """
    if isinstance(given, Activation):
        given = (given.name, *given.numbers)
    name, *numbers = (given,) if isinstance(given, str) else given if isinstance(given, tuple) and given else (None,)
    if not isinstance(name, str):
        raise TypeError(
            f"{argument} is {shown(given)}; expected the name of an activation, or a tuple of it and its numbers"
        )
    if name in _OVER_UNITS:
        raise ValueError(f"{argument} is {name!r}, which mixes units; expected one that is of each unit alone")
    if name not in ACTIVATIONS:
        raise ValueError(f"{argument} is {shown(name)}; expected one of {', '.join(ACTIVATIONS)}")
    _, defaults = ACTIVATIONS[name]
    if len(numbers) > len(defaults):
        raise ValueError(f"{argument} has {len(numbers)} numbers beside {name!r}; expected at most {len(defaults)}")
    for number in numbers:
        if isinstance(number, bool) or not isinstance(number, (int, float)) or not math.isfinite(number):
            raise ValueError(f"{argument} has {shown(number)} beside {name!r}; expected finite numbers")
    return Activation(name, (*map(float, numbers), *defaults[len(numbers) :]))


#: Keras' name, and ours with Keras' numbers.
KERAS: Mapping[str, tuple[Any, ...]] = {
    **{
        name: (name,)
        for name in ("linear", "relu", "relu6", "elu", "celu", "selu", "gelu", "silu", "hard_silu", "mish")
    },
    **{name: (name,) for name in ("exponential", "softplus", "squareplus", "sparse_plus", "tanh", "hard_tanh")},
    **{name: (name,) for name in ("tanh_shrink", "soft_shrink", "hard_shrink", "sigmoid", "hard_sigmoid")},
    **{name: (name,) for name in ("sparse_sigmoid", "log_sigmoid", "softsign")},
    "swish": ("silu",),
    "hard_swish": ("hard_silu",),
    "leaky_relu": ("leaky_relu", 0.2),
}

#: ONNX' name, in which case does not count; ours; and the numbers alpha and beta, as far as it has them, where none are
#: given: those of ONNX Runtime. The specification has 1 for ThresholdedRelu, and none for Affine and ScaledTanh.
ONNX: Mapping[str, tuple[Any, ...]] = {
    "Relu": ("relu",),
    "Tanh": ("tanh",),
    "Sigmoid": ("sigmoid",),
    "Affine": ("affine", 0.0, 0.0),
    "LeakyRelu": ("leaky_relu", 0.01),
    "ThresholdedRelu": ("thresholded_relu", 0.0),
    "ScaledTanh": ("scaled_tanh", 0.0, 0.0),
    "HardSigmoid": ("hard_sigmoid", 0.2, 0.5),
    "Elu": ("elu", 1.0),
    "Softsign": ("softsign",),
    "Softplus": ("softplus",),
}


def keras_activation(name: str | None) -> Activation:
    """The activation that Keras calls so; None is linear.

    Raises
    ------
    ValueError
        If Keras has none of this name, or one that is not of each unit alone.
    """
    name = "linear" if name is None else name
    if name not in KERAS and name not in _OVER_UNITS:
        raise ValueError(f"the activation is {shown(name)}; expected one of Keras': {', '.join(KERAS)}")
    return activation("the activation", KERAS.get(name, (name,)))


def onnx_activations(
    names: Sequence[str], alpha: Sequence[float] = (), beta: Sequence[float] = ()
) -> tuple[Activation, ...]:
    """The activations of a node of ONNX: each takes the next alpha and beta if it has such a number.

    Numbers that are left over count for nothing, as in ONNX Runtime.

    Raises
    ------
    ValueError
        If ONNX has no activation of a name.
    """
    left: tuple[Iterator[float], ...] = iter(alpha), iter(beta)
    known = {name.lower(): entry for name, entry in ONNX.items()}
    found = []
    for name in names:
        if name.lower() not in known:
            raise ValueError(f"the activation is {shown(name)}; expected one of ONNX': {', '.join(ONNX)}")
        ours, *defaults = known[name.lower()]
        numbers = [next(of, default) for of, default in zip(left, defaults, strict=False)]
        found.append(activation("the activation", (ours, *numbers)))
    return tuple(found)
