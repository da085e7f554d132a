"""Checkpoints: one safetensors file with every array, and the rest as JSON in its metadata. No pickle."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from fastrnn.backends import check_run
from fastrnn.cells import WrittenCell
from fastrnn.checks import Array, check_path, shown
from fastrnn.errors import FastrnnError
from fastrnn.training.cells import CELLS, restore_cell, written
from fastrnn.training.files import write_atomically
from fastrnn.training.model import LanguageModel
from fastrnn.training.names import join_names, split_names
from fastrnn.training.settings import Settings, build_model
from fastrnn.training.tokenizers import Tokenizer, restore_tokenizer

__all__ = [
    "CheckpointError",
    "Groups",
    "check_arrays",
    "check_sizes",
    "describe_file",
    "load_model",
    "not_finite",
    "read_checkpoint",
    "read_settings",
    "take",
    "usable_checkpoint",
    "write_checkpoint",
]

LONGEST = 300  # characters of what is wrong with a file, which may quote it
FORMAT = 1  # to be raised when a change makes older files unreadable

Groups = Mapping[str, Mapping[str, Array]]  # "model", "best", "optimizer", ...: arrays by name


class CheckpointError(FastrnnError):
    """A file is not a checkpoint, is damaged, or does not fit what it is wanted for."""


def write_checkpoint(path: str | os.PathLike[str], groups: Groups, metadata: Mapping[str, Any]) -> None:
    """Write groups of arrays and JSON-able `metadata` atomically. Equal contents give equal bytes.

    Raises
    ------
    OSError
        If the file cannot be written; an older one is left as it was.
    """
    text = json.dumps({"format": FORMAT, **metadata}, sort_keys=True, default=np.generic.item)
    write_atomically(path, _safetensors().numpy.save(join_names(groups), metadata={"fastrnn": text}))


def read_checkpoint(path: str | os.PathLike[str]) -> tuple[Groups, dict[str, Any]]:
    """Return the arrays and the metadata that `write_checkpoint` was given.

    Raises
    ------
    OSError
        If the file cannot be read.
    CheckpointError
        If it is not a checkpoint, or is truncated.
    """
    safetensors = _safetensors()
    data = check_path("path", path).read_bytes()
    with usable_checkpoint(path):
        try:
            groups = split_names(safetensors.numpy.load(data))
        except safetensors.SafetensorError as error:
            raise ValueError(error) from error
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        if "fastrnn" not in header.get("__metadata__", {}):
            raise ValueError("it was not written by fastrnn")
        metadata = json.loads(header["__metadata__"]["fastrnn"])
        if not isinstance(metadata, dict):
            raise TypeError(f"its metadata is a {type(metadata).__name__}; expected an object with names")
        if (found := metadata.get("format")) != FORMAT:
            later, came = isinstance(found, int) and found > FORMAT, f"its format is {shown(found)}"
            raise ValueError(
                f"{came}, of a later version of fastrnn; expected {FORMAT} or less: upgrade fastrnn"
                if later
                else f"{came}; expected {FORMAT}"
            )
    return groups, metadata


def load_model(
    path: str | os.PathLike[str],
    *,
    cell: WrittenCell | None = None,
    backend: str | None = None,
    num_threads: int | None = None,
) -> tuple[LanguageModel, Tokenizer]:
    """Return the best model of a training run, by held-out loss, and its tokenizer.

    Parameters
    ----------
    path
        The checkpoint.
    cell
        That of the run, if it is one's own, which a checkpoint does not hold.
    backend, num_threads
        As for `fastrnn.LSTM`.

    Raises
    ------
    OSError
        If the file cannot be read.
    CheckpointError
        If it is not a checkpoint, is damaged, or has another cell.
    """
    check_run(backend, num_threads)
    groups, metadata = read_checkpoint(path)
    with usable_checkpoint(path):
        if "characters" in metadata:  # as files were written when there were characters only
            metadata["tokenizer"] = {"unit": "character", "characters": metadata["characters"]}
        tokenizer = restore_tokenizer(take(metadata, "tokenizer"))
        settings = read_settings(path, metadata, cell)
        check_sizes(settings, groups)
        model = build_model(settings, len(tokenizer), backend=backend, num_threads=num_threads)
        check_arrays("best", groups["best"], model.parameters)
        model.load_state_dict(groups["best"])
    return model, tokenizer


def describe_file(path: str | os.PathLike[str]) -> list[str]:
    """Return what is in a file, a model's or a checkpoint of a training run, in lines; no cell is needed for that.

    Raises
    ------
    OSError, CheckpointError
        As for `read_checkpoint`.
    """
    groups, metadata = read_checkpoint(path)
    with usable_checkpoint(path):
        lines = []
        if "fit" in metadata:
            steps = take(groups, "history")["loss"].size
            lines += [f"a checkpoint of fastrnn.training.fit after {steps:,} steps"]
            lines += _outline(metadata["architecture"]) if metadata["architecture"] else []
        elif "architecture" in metadata:
            lines += ["a model that fastrnn.save wrote", *_outline(metadata["architecture"])]
        else:
            steps = take(groups, "history")["loss"].size
            settings = take(metadata, "settings")
            lines += [f"a checkpoint of fastrnn train after {steps:,} steps"]
            lines += [f"  {name}: {_plain(value)}" for name, value in settings.items()]
            held_out = groups["history"]["held_out_loss"]
            if held_out.size:
                best = int(groups["history"]["evaluated_after"][held_out.argmin()])
                bits = held_out.min() / math.log(2)
                lines.append(f"best: {bits:.3f} bits per token, held out, after step {best:,}")
        arrays = take(groups, "model")
        count, size = sum(a.size for a in arrays.values()), sum(a.nbytes for a in arrays.values())
        lines.append(f"{count:,} parameters in {len(arrays)} arrays, {size:,} bytes")
        lines += [f"  {name}  {array.shape}  {array.dtype}" for name, array in sorted(arrays.items())]
    return lines


def _outline(description: Any, name: str = "", depth: int = 1) -> list[str]:
    """What an architecture is, a line a layer; the layers within one below it."""
    options, below = [], []
    for key, value in description.items():
        if isinstance(value, Mapping) and "class" in value:
            below += _outline(value, f"{key}: ", depth + 1)
        elif key == "layers":
            below += [line for each, layer in value for line in _outline(layer, f"{each}: ", depth + 1)]
        elif key != "class":
            options.append(f"{key}={_plain(value)}")
    return [f"{'  ' * depth}{name}{description['class']}({', '.join(options)})", *below]


def _plain(value: Any) -> str:
    """A setting in words: a cell that is somebody's own by its name."""
    return f"{value['own']} (a cell of one's own)" if isinstance(value, Mapping) and "own" in value else str(value)


def take(found: Mapping[str, Any], name: str) -> Any:
    """Return the part of a checkpoint that has this name; KeyError if there is none."""
    if name not in found:
        raise KeyError(f"it has no {name}; expected what `fastrnn train` writes")
    return found[name]


def read_settings(path: str | os.PathLike[str], metadata: Mapping[str, Any], cell: Any) -> Settings:
    """Return the settings of a run, with its cell, which is given if it is a user's own.

    Raises
    ------
    KeyError, TypeError, ValueError
        If they are none.
    CheckpointError
        If the cell is not the one that is given.
    """
    found = take(metadata, "settings")
    if not isinstance(found, Mapping):
        raise TypeError(f"its settings must be a mapping, not {type(found).__name__}")
    settings = dict(found)
    try:
        settings["cell"] = restore_cell(settings.get("cell", Settings.cell), cell)
    except ValueError as error:
        raise CheckpointError(f"{path} cannot be loaded so: {error}") from None
    return Settings(**settings)


def check_sizes(settings: Settings, groups: Groups) -> None:
    """KeyError or ValueError unless the best model has as many units and layers as the settings say.

    To be called before a model is made: what a damaged file says might take more memory than there is.
    """
    best = take(groups, "best")
    layers = sum(name.startswith("rnn.weight_ih_l") for name in best)
    if "rnn.weight_hh_l0" in best or settings.cell in CELLS:
        units = take(best, "rnn.weight_hh_l0").shape[-1:]
    else:  # nothing is fed by h
        units = (len(take(best, "rnn.weight_ih_l0")) // len(written(settings.cell).gates_ih),)
    found = layers, *units
    if found != (settings.num_layers, settings.hidden_size):
        raise ValueError(
            f"its layers and units are {found}; expected {(settings.num_layers, settings.hidden_size)} by its settings"
        )


def check_arrays(group: str, found: Mapping[str, Array], expected: Mapping[str, Array], *, finite: bool = True) -> None:
    """KeyError, TypeError or ValueError unless arrays have the names, shapes and dtypes of others, and are `finite`."""
    missing, unexpected = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    if missing or unexpected:
        raise KeyError(f"{group}: missing {missing}, unexpected {unexpected}")
    for name, array in expected.items():
        if found[name].dtype != array.dtype:
            raise TypeError(f"{group}.{name} has dtype {found[name].dtype}; expected {array.dtype}")
        if found[name].shape != array.shape:
            raise ValueError(f"{group}.{name} has shape {found[name].shape}; expected {array.shape}")
    if finite and (spoilt := not_finite({group: found})):
        raise ValueError(f"{spoilt} holds NaN or infinity; expected numbers")


def not_finite(groups: Groups) -> str | None:
    """Return the name of the first array with NaN or infinity in it, if there is one."""
    return next((name for name, array in join_names(groups).items() if not np.isfinite(array).all()), None)


@contextmanager
def usable_checkpoint(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn what goes wrong when a checkpoint's contents are used into CheckpointError, whose message is one line."""
    try:
        yield
    except CheckpointError:
        raise
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        said = error.args[0] if isinstance(error, KeyError) and error.args else error  # the text of others is quoted
        why = " ".join(f"{said}".split()) or type(error).__name__
        why = why if len(why) <= LONGEST else f"{why[:LONGEST]}..."
        raise CheckpointError(f"{path} is not a usable checkpoint: {why}") from error


def _safetensors() -> Any:
    try:
        import safetensors.numpy
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("checkpoints need safetensors: pip install safetensors", name=error.name) from None
    return safetensors
