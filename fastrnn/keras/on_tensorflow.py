"""The kernels under Keras' TensorFlow backend: a Python function in its graphs, with a derivative of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from fastrnn.cells import Cell
from fastrnn.keras import arrays
from fastrnn.keras.arrays import NUMBER, Given
from fastrnn.keras.spec import Spec
from fastrnn.parameters import Array

__all__ = ["run", "why_not", "why_not_this_call"]


def why_not() -> str | None:
    """Why the kernels do not run here, or None."""
    return "run on the CPU, and TensorFlow has a GPU" if tf.config.list_physical_devices("GPU") else None


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
    """y (N, T, H), or None if it is not wanted, and the final states."""
    x, *others = map(tf.convert_to_tensor, (x, *states, *weights))  # of variables there would have to be more to say
    states, weights = others[: len(states)], others[len(states) :]
    like_y = tf.TensorShape([*x.shape[:2], states[0].shape[1]])
    count = len(states)

    def given(tensors: Sequence[Any]) -> Given:
        """What tensors are a call's; masks have no gradient and are none of them."""
        return Given(tensors[0], mask, dropped, tensors[1 : 1 + count], tensors[1 + count :])

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def layer(*tensors: Any) -> Any:
        """What `arrays.forward` computes, without the number of the tape."""
        like = [(x.dtype, like_y)] * spec.sequences + [(x.dtype, state.shape) for state in states]
        number, *results = _call(arrays.forward, spec, given(tensors), (), [(NUMBER, ()), *like])
        return results, lambda *incoming: gradients(number, *tensors, *incoming)

    def gradients(number: Any, *tensors: Any) -> Any:
        @tf.custom_gradient  # type: ignore[untyped-decorator]
        def of_tensors(*tensors: Any) -> Any:
            """What `arrays.gradients` computes."""
            its, incoming = tensors[: 1 + len(others)], tensors[1 + len(others) :]
            like = [(x.dtype, t.shape) for t in its]
            return _call(arrays.gradients, spec, given(its), (number, incoming), like), _refuse

        return of_tensors(*tensors)

    y, *states_n = [None] * (not spec.sequences) + list(layer(x, *others))
    return y, states_n


def _call(
    function: Callable[..., list[Array]], spec: Spec, given: Given, more: tuple[Any, ...], like: Sequence[Any]
) -> list[Any]:
    """The function on arrays, as an operation, with what is known of its results: dtypes and shapes."""
    arguments = (tuple(map(_tuple, given)), more)
    flat = [tensor for tensor in tf.nest.flatten(arguments) if tensor is not None]

    def on_arrays(*flat_arrays: Array) -> list[Array]:
        rest = iter(flat_arrays)
        its, its_more = tf.nest.map_structure(lambda tensor: None if tensor is None else next(rest), arguments)
        # Copies, since TensorFlow may use arrays as its own, and write to them.
        return [np.array(result, order="C") for result in function(spec, Given(*its), *its_more)]

    results = tf.nest.flatten(tf.numpy_function(on_arrays, flat, [dtype for dtype, _ in like], stateful=False))
    for result, (_, shape) in zip(results, like, strict=True):
        result.set_shape(shape)
    return list(results)


def _tuple(its: Any) -> Any:
    return tuple(its) if isinstance(its, (list, tuple)) else its


def _refuse(*_: Any) -> Any:
    raise NotImplementedError(
        "fastrnn's kernels have no second derivative; expected a first derivative, "
        "or fastrnn.keras.restore(model) before it"
    )
