"""The kernels under Keras' JAX backend: `fastrnn.jax`'s layer, with its derivative, under jit, grad and vmap."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from fastrnn import ops
from fastrnn.backends import BACKENDS
from fastrnn.cells import Cell
from fastrnn.keras.spec import FIELDS, Spec

__all__ = ["run", "why_not", "why_not_this_call"]


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
    spec: Spec,
    x: Any,
    mask: Any,
    dropped: Any,
    states: Sequence[Any],
    weights: Sequence[Any],
    warn: Callable[[str], None],
) -> tuple[Any, list[Any]]:
    """y (N, T, H), or None if it is not wanted, and the final states (N, H)."""
    from fastrnn.jax import layer  # which needs what `why_not` looks for

    backend, _ = ops.choose_for_cell(spec.cell, None, None)
    what = layer.Layer(
        layer.known(spec.cell),
        1,
        FIELDS[: len(weights)],
        tuple([name for name, its in (("mask", mask), ("dropped", dropped)) if its is not None]),
        "last" if spec.hold else "zero",
        "zero",
        next(name for name, module in BACKENDS.items() if module == backend.__name__),
    )
    steps_first = [jnp.swapaxes(array, 0, 1) for array in (x, mask) if array is not None]
    if spec.go_backwards:
        steps_first = [jnp.flip(array, 0) for array in steps_first]
    x, *given = steps_first
    if dropped is not None:
        given.append(dropped)
    y, *states_n = layer.run(what, x, given, [state[None] for state in states], weights)
    return jnp.swapaxes(y, 0, 1) if spec.sequences else None, [state[0] for state in states_n]
