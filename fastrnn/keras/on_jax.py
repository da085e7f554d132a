"""The kernels under Keras' JAX backend: a call from XLA, with a derivative of its own, under jit, grad and vmap."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from fastrnn.cells import Cell
from fastrnn.keras import arrays
from fastrnn.keras.arrays import Given
from fastrnn.keras.spec import Spec
from fastrnn.parameters import Array

__all__ = ["run", "why_not", "why_not_this_call"]

TARGET = "fastrnn_keras"  # XLA's name of the handler
FORWARD, GRADIENTS = "keras_forward", "keras_gradients"  # what it calls


def why_not() -> str | None:
    """Why the kernels do not run here, or None."""
    platform = jax.default_backend()
    if platform != "cpu":
        return f"run on the CPU, and JAX's default backend is {platform}"
    if not hasattr(jax, "ffi"):
        return f"need jax.ffi, which JAX {jax.__version__} does not have"
    built = importlib.util.find_spec("fastrnn.kernels.xla")
    return None if built else "cannot be called from XLA: fastrnn.kernels.xla is not built here"


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
    """y, if it is wanted, and the final states."""
    return _run(spec._replace(keep=False), given)[1:]


def _run(spec: Spec, given: Given) -> list[Any]:
    """What `arrays.forward` computes."""
    x, _, states, _ = given
    like = [jax.ShapeDtypeStruct((), arrays.NUMBER)]
    like += [jax.ShapeDtypeStruct((*x.shape[:2], states[0].shape[1]), x.dtype)] * spec.sequences
    like += [jax.ShapeDtypeStruct(state.shape, x.dtype) for state in states]
    return _call(FORWARD, spec, given, (), like)


def _forward(spec: Spec, given: Given) -> tuple[list[Any], tuple[Given, Any]]:
    number, *results = _run(spec._replace(keep=True), given)
    return results, (given, number)


def _backward(spec: Spec, saved: tuple[Given, Any], incoming: Sequence[Any]) -> tuple[Given]:
    given, number = saved
    x, mask, states, weights = given
    like = [jax.ShapeDtypeStruct(array.shape, x.dtype) for array in (x, *states, *weights)]
    dx, *others = _call(GRADIENTS, spec, given, (number, *incoming), like)
    no_mask = None if mask is None else np.zeros(mask.shape, jax.dtypes.float0)
    return (Given(dx, no_mask, others[: len(states)], others[len(states) :]),)


_layer.defvjp(_forward, _backward)


class _Kind(NamedTuple):
    """What a call's flat arrays are."""

    spec: Spec
    masked: bool
    states: int
    weights: int


_KINDS: dict[str, _Kind] = {}  # by what XLA has of them, a text


def _call(function: str, spec: Spec, given: Given, incoming: Sequence[Any], like: Sequence[Any]) -> list[Any]:
    _register()
    x, mask, states, weights = given
    kind = _Kind(spec, mask is not None, len(states), len(weights))
    text = ",".join(map(str, (spec.cell.name, *spec[1:], *kind[1:])))
    _KINDS[text] = kind
    flat = [x, *([] if mask is None else [mask]), *states, *weights, *incoming]
    return list(jax.ffi.ffi_call(TARGET, like, vmap_method="sequential")(*flat, call=function, kind=text))


def _on_arrays(flat: Sequence[Array], results: Sequence[Array], attributes: dict[str, str], *, gradients: bool) -> None:
    kind, rest = _KINDS[attributes["kind"]], iter(flat)
    x, mask = next(rest), next(rest) if kind.masked else None
    given = Given(x, mask, [next(rest) for _ in range(kind.states)], [next(rest) for _ in range(kind.weights)])
    if gradients:
        found = arrays.gradients(kind.spec, given, next(rest), list(rest))
    else:
        found = arrays.forward(kind.spec, given)
    for result, array in zip(results, found, strict=True):
        np.copyto(result, array)


@functools.cache
def _register() -> None:
    from fastrnn.kernels import xla

    xla.calls[FORWARD] = functools.partial(_on_arrays, gradients=False)
    xla.calls[GRADIENTS] = functools.partial(_on_arrays, gradients=True)
    jax.ffi.register_ffi_target(TARGET, xla.handler, platform="cpu")
