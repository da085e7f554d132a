"""Models as files: a module or a composition of layers with its architecture, in one safetensors file, no pickle."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from fastrnn.cells import WrittenCell
from fastrnn.checks import check_instance, check_iterable

__all__ = ["load", "save"]


def save(model: Any, path: str | os.PathLike[str]) -> None:
    """Write a model with its architecture to a safetensors file, atomically: whatever goes wrong, an older one is kept.

    Parameters
    ----------
    model
        A module or cell of `fastrnn`, a layer or model of `fastrnn.training`, composed as one likes, or a fitted
        estimator of `fastrnn.sklearn`. Equal models give equal bytes.
    path
        Of the file. Its arrays are under ``model.`` and the names of `model.parameters`; the description of the
        architecture is JSON in the metadata. Seeds, the state of dropout's generators, backends and numbers of threads
        are not in it.

    Raises
    ------
    TypeError
        If a part of the model is of a class of one's own; its `state_dict` can be kept.
    OSError
        If the file cannot be written.
    ModuleNotFoundError
        If safetensors is missing.

    Examples
    --------
    >>> import numpy as np, fastrnn, tempfile
    >>> from fastrnn.training import Last, Linear, Sequential
    >>> model = Sequential({"rnn": Last(fastrnn.GRU(4, 8, seed=0)), "head": Linear(8, 2, seed=1)})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     fastrnn.save(model, f"{folder}/model.safetensors")
    ...     again = fastrnn.load(f"{folder}/model.safetensors")
    >>> again
    Sequential(
        rnn: Last(GRU(4, 8))
        head: Linear(8, 2)
    )
    >>> x = np.ones((5, 3, 4), np.float32)
    >>> bool((again(x) == model(x)).all())
    True
    """
    from fastrnn.training.architecture import describe
    from fastrnn.training.checkpoint import write_checkpoint

    if hasattr(model, "_file_parts"):
        write_checkpoint(path, *model._file_parts())
        return
    architecture = describe(model)
    write_checkpoint(path, {"model": model.parameters}, {"architecture": architecture})


def load(path: str | os.PathLike[str], *, cells: Iterable[WrittenCell] = ()) -> Any:
    """Return the model of a file that `save` wrote.

    Parameters
    ----------
    path
        Of the file.
    cells
        The cells in it that are one's own, made by `fastrnn.cell`: files hold no code. Those of `fastrnn.cells` are
        found by their names.

    Returns
    -------
    A module, layer, model or estimator of the class that was saved, with the same parameters.

    Raises
    ------
    OSError
        If the file cannot be read.
    fastrnn.training.CheckpointError
        If it is another file, a damaged one, or one of a later version, or a cell is missing.
    ModuleNotFoundError
        If safetensors is missing.
    """
    from fastrnn.training.architecture import restore
    from fastrnn.training.checkpoint import check_arrays, read_checkpoint, usable_checkpoint

    given = check_iterable("cells", cells, "cells that fastrnn.cell has made")
    for k, cell in enumerate(given):
        check_instance(f"cells[{k}]", cell, WrittenCell, "a cell that fastrnn.cell has made")
    groups, metadata = read_checkpoint(path)
    with usable_checkpoint(path):
        if "settings" in metadata:
            raise ValueError("it is of a training run: use fastrnn.training.load_model")
        if "estimator" in metadata:
            from fastrnn.sklearn.files import restore_estimator

            return restore_estimator(groups, metadata)
        if "architecture" not in metadata:
            raise KeyError("it has no architecture")
        arrays = groups.get("model", {})
        model = restore(metadata["architecture"], arrays, given)
        check_arrays("model", arrays, model.parameters, finite=False)
        model.load_state_dict(arrays)
    return model
