"""What layers and models were made with: how they are shown, and how files describe them."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Iterable, Mapping
from importlib import import_module
from typing import Any

import numpy as np

from fastrnn.cells import WrittenCell
from fastrnn.checks import Array, shown
from fastrnn.parameters import Parametrized
from fastrnn.training.cells import CELLS, cell_name, describe_cell, restore_cell, written

__all__ = ["KINDS", "Layer", "arguments", "describe", "restore", "written_as"]

#: What can be described, by package: whatever one is made with is an attribute of the same name.
KINDS: Mapping[str, tuple[str, ...]] = {
    "fastrnn": ("RNN", "LSTM", "GRU", "Recurrent", "RNNCell", "LSTMCell", "GRUCell", "Ensemble"),
    "fastrnn.training": (
        "AdaptiveSoftmax",
        "AttentionPool",
        "CharModel",
        "Conv1d",
        "Dropout",
        "Embedding",
        "LanguageModel",
        "Last",
        "LayerNorm",
        "Linear",
        "Pool",
        "ReLU",
        "Sequential",
        "Sigmoid",
        "Softmax",
        "Tanh",
        "WordModel",
    ),
}

# Of arguments those that say of what size arrays are.
SIZES = {"input_size", "hidden_size", "proj_size", "num_layers", "num_embeddings", "embedding_dim", "in_features"}
SIZES |= {"out_features", "num_classes", "vocabulary_size", "normalized_shape", "units", "in_channels", "out_channels"}
SIZES |= {"kernel_size", "members", "heads"}

NOT_SHOWN = ("seed", "backend", "num_threads")  # which say how something is drawn or run, and not what it is


class Layer(Parametrized):
    """A layer, shown as it is made."""

    def __repr__(self) -> str:
        return written_as(self)


def arguments(module: Any) -> dict[str, Any]:
    """Return what a module, layer or model was made with, by name, but for seeds and what it runs on."""
    parameters = inspect.signature(type(module)).parameters.values()
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    names = [each.name for each in parameters if each.kind in kinds and each.name not in NOT_SHOWN]
    return {name: getattr(module, name) for name in names}


def written_as(module: Any) -> str:
    """Return how one would make a module: what has a default is left out where it has that."""
    parameters = inspect.signature(type(module)).parameters
    parts = []
    for name, value in arguments(module).items():
        default = parameters[name].default
        if isinstance(value, Mapping):
            lines = [f"{key}: {each!r}" for key, each in value.items()]
            parts.append("\n" + textwrap.indent("\n".join(lines), "    ") + "\n")
        elif default is inspect.Parameter.empty:
            parts.append(repr(value))
        elif (value.name if isinstance(value, np.dtype) else value) != default:
            parts.append(f"{name}={_short(value)}")
    return f"{type(module).__name__}({', '.join(parts)})"


def _short(value: Any) -> str:
    if isinstance(value, WrittenCell):
        return value.name
    return repr(value.name if isinstance(value, np.dtype) else value)


def _classes() -> dict[str, type[Any]]:
    return {name: getattr(import_module(package), name) for package, names in KINDS.items() for name in names}


def describe(module: Any, name: str = "model") -> dict[str, Any]:
    """Return what `restore` makes a module of again, as JSON has it.

    Raises
    ------
    TypeError
        If it, or a part of it, is none of `KINDS`; the message calls it `name`.
    """
    kind = type(module).__name__
    if _classes().get(kind) is not type(module):
        raise TypeError(
            f"{name} is {shown(module)}; expected a module of fastrnn, or a layer or model of fastrnn.training: keep "
            "the state_dict of one's own"
        )
    return {"class": kind} | {key: _value(value, f"{name}.{key}") for key, value in arguments(module).items()}


def _value(value: Any, name: str) -> Any:
    if isinstance(value, np.dtype):
        return value.name
    if isinstance(value, WrittenCell):
        return describe_cell(cell_name(value))
    if isinstance(value, Mapping):
        return [[key, describe(each, f"{name}[{key!r}]")] for key, each in value.items()]
    if isinstance(value, (list, tuple)):
        return [_value(each, name) for each in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return describe(value, name)


def restore(description: Any, arrays: Mapping[str, Array], cells: Iterable[WrittenCell] = ()) -> Any:
    """Return the module that `describe` described, with other parameters than it had.

    Parameters
    ----------
    description
        What `describe` returned.
    arrays
        The parameters it had, by which sizes are checked before anything is made: what a damaged file says might take
        more memory than there is.
    cells
        Those of the user's own that are needed, which no description holds.

    Raises
    ------
    KeyError, TypeError, ValueError
        If the description is none, or a cell is missing.
    """
    if not isinstance(description, Mapping) or not isinstance(kind := description.get("class"), str):
        raise TypeError(f"a part of it is {shown(description)}; expected the description of a layer")
    cls = _classes().get(kind)
    if cls is None:
        raise ValueError(f"a part of it is of the kind {shown(kind)}, which this version does not know")
    largest = sum(max(array.shape, default=1) for array in arrays.values())
    options: dict[str, Any] = {}
    for name, value in description.items():
        if name in SIZES and isinstance(value, int) and value > largest:
            raise ValueError(f"{name} of its {kind} is {value}; expected at most {largest}, by its arrays")
        if name == "cell":
            value = _cell(value, cells, cls)
        elif isinstance(value, Mapping):
            value = restore(value, arrays, cells)
        elif name == "layers":
            value = {key: restore(each, arrays, cells) for key, each in value}
        options[name] = value
    del options["class"]
    return cls(**options)


def _cell(described: Any, cells: Iterable[WrittenCell], cls: type[Any]) -> Any:
    own = described.get("own") if isinstance(described, Mapping) else None
    cell = restore_cell(described, next((cell for cell in cells if own is not None and cell.name == own), None))
    return written(cell) if cls.__name__ == "Recurrent" and cell not in CELLS else cell
