"""The kernels under Keras' TensorFlow backend: a Python function in its graphs, with a derivative of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from fastrnn.cells import Cell
from fastrnn.keras import arrays
from fastrnn.keras.arrays import Given
from fastrnn.keras.spec import Spec

__all__ = ["run", "why_not", "why_not_this_call"]


def why_not() -> str | None:
    """Why the kernels do not run here, or None."""
    return "run on the CPU, and TensorFlow has a GPU" if tf.config.list_physical_devices("GPU") else None


def why_not_this_call(cell: Cell, x: Any) -> str | None:
    """Why they do not with such an input, or None."""
    return None


def run(
    spec: Spec, x: Any, mask: Any, states: Sequence[Any], weights: Sequence[Any], warn: Callable[[str], None]
) -> tuple[Any, list[Any]]:
    """y (N, T, H), or None if it is not wanted, and the final states."""
    x, *others = map(tf.convert_to_tensor, (x, *states, *weights))  # of variables there would have to be more to say
    states, weights = others[: len(states)], others[len(states) :]
    like_y = tf.TensorShape([*x.shape[:2], states[0].shape[1]])
    count = len(states)

    def given(tensors: Sequence[Any]) -> Given:
        """What tensors are a call's; masks have no gradient and are none of them."""
        return Given(tensors[0], mask, tensors[1 : 1 + count], tensors[1 + count :])

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def layer(*tensors: Any) -> Any:
        """What `arrays.forward` computes."""
        like = [like_y] * spec.sequences + [state.shape for state in states]
        return _call(arrays.forward, spec, given(tensors), (), like), lambda *incoming: gradients(*tensors, *incoming)

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def gradients(*tensors: Any) -> Any:
        """What `arrays.gradients` computes."""
        its, incoming = tensors[: 1 + count + len(weights)], tensors[1 + count + len(weights) :]
        return _call(arrays.gradients, spec, given(its), incoming, [t.shape for t in its]), _refuse

    y, *states_n = [None] * (not spec.sequences) + list(layer(x, *states, *weights))
    return y, states_n


def _call(
    function: Callable[..., list[Any]], spec: Spec, given: Given, incoming: Sequence[Any], shapes: Sequence[Any]
) -> list[Any]:
    """The function on arrays, as an operation whose results have the shapes, as far as these are known."""
    given = Given(*[tuple(its) if isinstance(its, Sequence) else its for its in given])
    flat = [tensor for tensor in tf.nest.flatten((given, tuple(incoming))) if tensor is not None]

    def on_arrays(*flat_arrays: Any) -> list[Any]:
        rest = iter(flat_arrays)
        packed = tf.nest.map_structure(lambda tensor: None if tensor is None else next(rest), (given, tuple(incoming)))
        its, its_incoming = packed
        return function(spec, its, its_incoming) if incoming else function(spec, its)

    results = tf.nest.flatten(tf.numpy_function(on_arrays, flat, [given.x.dtype] * len(shapes), stateful=False))
    for result, shape in zip(results, shapes, strict=True):
        result.set_shape(shape)
    return list(results)


def _refuse(*_: Any) -> Any:
    raise NotImplementedError(
        "fastrnn's kernels have no second derivative; expected a first derivative, "
        "or fastrnn.keras.restore(model) before it"
    )
