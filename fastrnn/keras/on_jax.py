"""The kernels under Keras' JAX backend: a call back from XLA, with a derivative of its own, also under jit and vmap."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from fastrnn.cells import Cell
from fastrnn.keras import arrays
from fastrnn.keras.arrays import Given
from fastrnn.keras.spec import Spec

__all__ = ["run", "why_not", "why_not_this_call"]


def why_not() -> str | None:
    """Why the kernels do not run here, or None."""
    platform = jax.default_backend()
    return None if platform == "cpu" else f"run on the CPU, and JAX's default backend is {platform}"


def why_not_this_call(cell: Cell, x: Any) -> str | None:
    """Why they do not with such an input, or None."""
    return None


def run(
    spec: Spec, x: Any, mask: Any, states: Sequence[Any], weights: Sequence[Any], warn: Callable[[str], None]
) -> tuple[Any, list[Any]]:
    """y (N, T, H), or None if it is not wanted, and the final states."""
    y, *states_n = [None] * (not spec.sequences) + _layer(spec, Given(x, mask, states, weights))
    return y, states_n


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _layer(spec: Spec, given: Given) -> list[Any]:
    """What `arrays.forward` computes."""
    x, _, states, _ = given
    H = states[0].shape[1]
    like = [jax.ShapeDtypeStruct((*x.shape[:2], H), x.dtype)] if spec.sequences else []
    like += [jax.ShapeDtypeStruct(state.shape, x.dtype) for state in states]
    found: list[Any] = jax.pure_callback(
        functools.partial(_call, arrays.forward, spec), like, given, vmap_method="sequential"
    )
    return found


def _forward(spec: Spec, given: Given) -> tuple[list[Any], Given]:
    return _layer(spec, given), given


def _backward(spec: Spec, given: Given, incoming: Sequence[Any]) -> tuple[Given]:
    x, mask, states, weights = given
    like = [jax.ShapeDtypeStruct(array.shape, x.dtype) for array in (x, *states, *weights)]
    found = jax.pure_callback(
        functools.partial(_call, arrays.gradients, spec), like, given, incoming, vmap_method="sequential"
    )
    dx, *others = found
    no_mask = None if mask is None else np.zeros(mask.shape, jax.dtypes.float0)
    return (Given(dx, no_mask, others[: len(states)], others[len(states) :]),)


_layer.defvjp(_forward, _backward)


def _call(function: Callable[..., list[Any]], spec: Spec, given: Given, *incoming: Any) -> list[Any]:
    """The function on arrays that share JAX's memory."""
    return function(spec, *jax.tree.map(np.asarray, (given, *incoming)))
