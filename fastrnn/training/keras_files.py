"""The recurrent layers in Keras' files: their configurations and weights, without Keras.

A ``.keras`` file is a zip of config.json and model.weights.h5; an ``.h5`` file has both in one.
"""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fastrnn.checks import Array, shown

__all__ = ["read_layers"]

Layers = dict[str, tuple[dict[str, Any], list[Array]]]  # by name, as `read_layers` returns them
KINDS = ("LSTM", "GRU", "SimpleRNN", "Bidirectional")


def read_layers(path: str | os.PathLike[str]) -> Layers:
    """Read all LSTM, GRU, SimpleRNN and Bidirectional layers of a model.

    Parameters
    ----------
    path
        Of a .keras or .h5 file of a whole model.

    Returns
    -------
    dict
        By each layer's name, in the model's order: its configuration, ``{"class_name": ..., "config": ...}``, and what
        its get_weights() gave.

    Raises
    ------
    ImportError
        If h5py is not installed.
    OSError
        If the file cannot be read.
    ValueError
        If it is not one of these files, has no configuration, or lacks the weights of a layer.
    """
    try:
        import h5py
    except ModuleNotFoundError as error:
        raise ImportError("Keras' files are read with h5py: pip install h5py", name="h5py") from error
    path = Path(path)
    label = f"weights, {path},"  # what messages call it
    content = path.read_bytes()
    if zipfile.is_zipfile(io.BytesIO(content)):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            missing = {"config.json", "model.weights.h5"} - set(archive.namelist())
            if missing:
                raise ValueError(f"{label} is a zip file without {', '.join(sorted(missing))}; expected a .keras file")
            config = json.loads(archive.read("config.json"))
            with h5py.File(io.BytesIO(archive.read("model.weights.h5"))) as file:
                return {its["config"]["name"]: (its, _of_archive(file, its, label)) for its in _recurrent(config)}
    if not h5py.is_hdf5(path):
        raise ValueError(f"{label} is neither a zip nor an HDF5 file; expected a .keras or .h5 file of Keras")
    with h5py.File(path) as file:
        if "model_config" not in file.attrs:
            raise ValueError(
                f"{label} has weights without a configuration; expected a whole model's file, from model.save"
            )
        config = json.loads(file.attrs["model_config"])
        return {its["config"]["name"]: (its, _of_h5(file, its, label)) for its in _recurrent(config)}


def _recurrent(config: Any) -> Iterator[dict[str, Any]]:
    """The configurations of recurrent layers anywhere in that of a model."""
    if isinstance(config, Mapping):
        if config.get("class_name") in KINDS and isinstance(config.get("config"), Mapping):
            yield dict(config)
            return
        config = list(config.values())
    for its in config if isinstance(config, list) else ():
        yield from _recurrent(its)


def _of_archive(file: Any, layer: dict[str, Any], label: str) -> list[Array]:
    """A layer's weights in model.weights.h5: where a group's variables bear its name, beside them those of its cell."""
    names = [layer["config"]["name"]]
    if layer["class_name"] == "Bidirectional":
        names = [layer["config"][which]["config"]["name"] for which in ("layer", "backward_layer")]
    found: dict[str, Any] = {}

    def look(_: str, item: Any) -> None:
        name = item.attrs.get("name")
        if name in names and "cell" in item.parent:
            found[name] = item.parent["cell"]["vars"]

    file.visititems(look)
    missing = [name for name in names if name not in found]
    if missing:
        raise ValueError(f"{label} has no weights under the name {shown(missing[0])}; expected those of that layer")
    return [np.asarray(found[name][str(k)]) for name in names for k in range(len(found[name]))]


def _of_h5(file: Any, layer: dict[str, Any], label: str) -> list[Array]:
    """A layer's weights in an .h5 file."""
    name = layer["config"]["name"]
    if name not in file["model_weights"]:
        raise ValueError(f"{label} has no weights under the name {shown(name)}; expected those of that layer")
    group = file["model_weights"][name]
    return [np.asarray(group[weight]) for weight in group.attrs["weight_names"]]
