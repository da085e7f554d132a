"""Put a model's recurrent layers on fastrnn's kernels, and back on Keras' own loop; and say which run where."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, TypeVar

import keras

from fastrnn.keras.layers import GRU, LSTM, OnKernels, SimpleRNN

__all__ = ["Placement", "accelerate", "report", "restore"]

Layer = TypeVar("Layer", bound=keras.layers.Layer)

OURS: dict[type[Any], type[Any]] = {
    keras.layers.LSTM: LSTM,
    keras.layers.GRU: GRU,
    keras.layers.SimpleRNN: SimpleRNN,
}
THEIRS = {ours: theirs for theirs, ours in OURS.items()}


class Placement(NamedTuple):
    """Where one recurrent layer of a model runs."""

    layer: str
    kind: str
    on_kernels: bool
    reason: str  # why not, else empty


def accelerate(model: Layer) -> Layer:
    """Run every LSTM, GRU and SimpleRNN of a Keras model on fastrnn's kernels, forward and backward.

    The layers stay the objects they are, with their variables, names and settings: only their class changes, to
    fastrnn.keras' of the same name. So a compiled model stays compiled, with its optimizer; what Keras has traced is
    traced anew. Those within Bidirectional, TimeDistributed and nested models are found too. Subclasses, which may
    compute anything, and RNN with cells stay as they are. What the kernels do not do, Keras' own path does, and a
    warning says so once a layer; `report` lists it beforehand.

    A function that you have traced yourself (jax.jit, tf.function) keeps what it was traced with.

    Parameters
    ----------
    model
        A Keras model or layer; itself or those in it are changed in place.

    Returns
    -------
    keras.layers.Layer
        The same object.

    Raises
    ------
    TypeError
        If `model` is not a Keras layer.

    Examples
    --------
    >>> import keras, fastrnn.keras
    >>> model = keras.Sequential([keras.Input((None, 8)), keras.layers.LSTM(16, name="memory"), keras.layers.Dense(4)])
    >>> fastrnn.keras.accelerate(model) is model
    True
    >>> fastrnn.keras.report(model)
    [Placement(layer='memory', kind='LSTM', on_kernels=True, reason='')]
    """
    return _change_classes(model, OURS)


def restore(model: Layer) -> Layer:
    """Undo `accelerate`, and put layers that were made as fastrnn.keras' on Keras' own loop likewise.

    Files of a restored model load where there is no fastrnn. Parameters, return value and errors are those of
    `accelerate`.

    Examples
    --------
    >>> import keras, fastrnn.keras
    >>> type(fastrnn.keras.restore(fastrnn.keras.GRU(4))) is keras.layers.GRU
    True
    """
    return _change_classes(model, THEIRS)


def report(model: Any) -> list[Placement]:
    """List the recurrent layers of a Keras model and whether the kernels run them, and if not, why.

    Parameters
    ----------
    model
        A Keras model or layer.

    Returns
    -------
    list
        A `Placement` (layer, kind, on_kernels, reason) of each. What depends on the call alone, such as a
        recurrent_dropout of an LSTM while training, is no reason here.

    Raises
    ------
    TypeError
        If `model` is not a Keras layer.

    Examples
    --------
    >>> import keras, fastrnn.keras
    >>> layer = fastrnn.keras.SimpleRNN(4, activation="softmax", name="odd")
    >>> fastrnn.keras.report(layer)[0].reason
    "fastrnn's kernels have no cell with activation='softmax'"
    """
    found = []
    for layer in _layers(model):
        if isinstance(layer, OnKernels):
            reason = layer.why_not()
            reason = reason and f"fastrnn's kernels {reason}"
        elif type(layer) in OURS:
            reason = "it is Keras' own: accelerate it"
        elif isinstance(layer, keras.layers.RNN):
            reason = f"it is a {type(layer).__name__} with cells of its own, which may compute anything"
        else:
            continue
        found.append(Placement(layer.name, type(layer).__name__, not reason, reason or ""))
    return found


def _layers(model: Any) -> Iterator[Any]:
    """A layer and all within it."""
    if not isinstance(model, keras.layers.Layer):
        raise TypeError(f"model is a {type(model).__name__}; expected a Keras model or layer")
    yield from model._flatten_layers()


def _change_classes(model: Layer, classes: dict[type[Any], type[Any]]) -> Layer:
    for layer in list(_layers(model)):
        if type(layer) in classes:
            layer.__class__ = classes[type(layer)]
        elif isinstance(layer, keras.Model):
            # What has been traced runs the layers as they were.
            layer.train_function = layer.test_function = layer.predict_function = None
    return model
