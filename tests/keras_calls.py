"""Layers of Keras and calls of them with every gradient, on whichever backend Keras has."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import numpy as np
from tolerances import Outcome, assert_close, tolerance

from fastrnn.parameters import Array

GATES = {"LSTM": 4, "GRU": 3, "SimpleRNN": 1}


@dataclass(frozen=True)
class Drawn:
    """One call of a layer, and the layer's configuration."""

    kind: str
    shape: tuple[int, int, int]  # of x, (N, T, I)
    units: int
    options: dict[str, Any]
    x: Array
    mask: Array | None
    states: Sequence[Array] | None
    training: bool = False
    seed: int = 0
    theirs: dict[str, Any] = field(default_factory=dict)  # what Keras' own layer is given besides


def draw(kind: str, seed: int, **fixed: Any) -> Drawn:
    """A call by a seed; `fixed` are options of the layer."""
    rng = np.random.default_rng((seed, *kind.encode()))

    def flip() -> bool:
        return bool(rng.integers(2))

    N, T, I, H = (int(rng.integers(1, most)) for most in (6, 9, 5, 8))
    options: dict[str, Any] = {
        name: flip()
        for name in ("return_sequences", "return_state", "go_backwards", "use_bias", "zero_output_for_mask")
    }
    masks = [
        None,
        rng.random((N, T)) < 0.6,
        np.arange(T) < rng.integers(0, T + 1, (N, 1)),
        np.full((N, T), flip()),
    ]
    mask = masks[rng.integers(len(masks))]
    options |= {"unroll": mask is None and flip()}  # Keras' own masks are wrong there on some backends
    training, theirs = flip(), {}
    if training and flip():
        options |= {"dropout": 0.4, "seed": 7}
    if kind == "GRU":
        options["reset_after"] = flip()
    if kind == "SimpleRNN":
        options["activation"] = ("tanh", "relu")[int(flip())]
        if training and flip():
            options |= {"recurrent_dropout": 0.3, "seed": 7}
    elif flip():
        options["implementation"] = 1
        if "dropout" in options:
            theirs["use_cudnn"] = False  # else it does not get by the dropout of several gates
    x = rng.uniform(-1, 1, (N, T, I))
    states = [rng.uniform(-1, 1, (N, H)) for _ in range(2 if kind == "LSTM" else 1)] if flip() else None
    return Drawn(kind, (N, T, I), H, options | fixed, x, mask, states, training, seed, theirs)


def make(module: Any, drawn: Drawn, **options: Any) -> Any:
    """The layer, of keras.layers or of fastrnn.keras, with O(1) weights."""
    layer = getattr(module, drawn.kind)(drawn.units, **drawn.options, **options)
    layer.build(drawn.shape)
    set_weights(layer, drawn.seed)
    return layer


def set_weights(layer: Any, seed: int) -> None:
    """O(1) weights by a seed."""
    rng = np.random.default_rng(seed)
    layer.set_weights([rng.uniform(-1, 1, w.shape) for w in layer.get_weights()])


def run(keras: ModuleType, layer: Any, drawn: Drawn) -> Outcome:
    """Outputs and states, and the gradients of x, initial states and weights, of a random direction in all outputs."""
    arrays = [drawn.x, *(drawn.states or ())]

    def along(function: Callable[..., Any], x: Any, *states: Any) -> tuple[Any, list[Any]]:
        """The direction's sum, and all outputs."""
        outputs = keras.tree.flatten(
            function(x, initial_state=list(states) or None, mask=drawn.mask, training=drawn.training)
        )
        rng = np.random.default_rng(drawn.seed)
        directions = [keras.ops.convert_to_tensor(rng.uniform(-1, 1, tuple(y.shape))) for y in outputs]
        return sum(keras.ops.sum(y * d) for y, d in zip(outputs, directions, strict=True)), outputs

    outputs, gradients = _GRADIENTS[keras.config.backend()](layer, along, arrays)
    named: dict[str, Any] = {f"output {k}": y for k, y in enumerate(outputs)}
    names = ["dx", *[f"dstate {k}" for k in range(len(arrays) - 1)], *[f"d{w.path}" for w in layer.trainable_weights]]
    named |= zip([name.rpartition("/")[2] for name in names], gradients, strict=True)
    return {name: keras.ops.convert_to_numpy(value) for name, value in named.items()}


Along = Callable[..., tuple[Any, list[Any]]]
Gradients = tuple[list[Any], list[Any]]


def _on_torch(layer: Any, along: Along, arrays: Sequence[Array]) -> Gradients:
    torch = importlib.import_module("torch")
    tensors = [torch.tensor(array, requires_grad=True) for array in arrays]
    value, outputs = along(layer, *tensors)
    given = [*tensors, *[w.value for w in layer.trainable_weights]]
    value = value + sum(0 * t.sum() for t in given)  # where all is masked, it may depend on none of them
    return outputs, list(torch.autograd.grad(value, given))


def _on_jax(layer: Any, along: Along, arrays: Sequence[Array]) -> Gradients:
    jax = importlib.import_module("jax")
    others = [w.value for w in layer.non_trainable_variables]

    def function(weights: Any, tensors: Any) -> Any:
        return along(lambda *args, **options: layer.stateless_call(weights, others, *args, **options)[0], *tensors)

    weights = [w.value for w in layer.trainable_weights]
    (_, outputs), (of_weights, of_arrays) = jax.value_and_grad(function, argnums=(0, 1), has_aux=True)(
        weights, [jax.numpy.asarray(array) for array in arrays]
    )
    return outputs, [*of_arrays, *of_weights]


def _on_tensorflow(layer: Any, along: Along, arrays: Sequence[Array]) -> Gradients:
    tf = importlib.import_module("tensorflow")
    tensors = [tf.constant(array) for array in arrays]
    with tf.GradientTape() as tape:
        tape.watch(tensors)
        value, outputs = along(layer, *tensors)
    given = [*tensors, *[w.value for w in layer.trainable_weights]]
    return outputs, tape.gradient(value, given, unconnected_gradients="zero")


_GRADIENTS = {"torch": _on_torch, "jax": _on_jax, "tensorflow": _on_tensorflow}


def assert_equal(got: Outcome, want: Outcome, drawn: Drawn) -> None:
    """All of it, within what the orders of summation may differ by."""
    assert got.keys() == want.keys()
    N, T, I = drawn.shape
    length = 2 * T * (N + I + (2 + GATES[drawn.kind]) * drawn.units)
    for name, value in want.items():
        assert_close(f"{name} of {drawn}", got[name], value, tolerance(value, str(value.dtype), length))
