"""Checkpoints: one safetensors file with every array, and the rest as JSON in its metadata. No pickle."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fastrnn.errors import FastrnnError
from fastrnn.parameters import Array
from fastrnn.training.files import write_atomically
from fastrnn.training.model import LanguageModel
from fastrnn.training.names import join_names, split_names
from fastrnn.training.settings import Settings, build_model
from fastrnn.training.tokenizers import Tokenizer, restore_tokenizer

__all__ = ["CheckpointError", "Groups", "load_model", "read_checkpoint", "usable_checkpoint", "write_checkpoint"]

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
    text = json.dumps({"format": FORMAT, **metadata}, sort_keys=True)
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
    data = Path(path).read_bytes()
    with usable_checkpoint(path):
        try:
            groups = split_names(safetensors.numpy.load(data))
        except safetensors.SafetensorError as error:
            raise ValueError(error) from error
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        if "fastrnn" not in header.get("__metadata__", {}):
            raise ValueError("it was not written by fastrnn")
        metadata = json.loads(header["__metadata__"]["fastrnn"])
        if metadata["format"] != FORMAT:
            raise ValueError(f"its format is {metadata['format']}; expected {FORMAT}")
    return groups, metadata


def load_model(
    path: str | os.PathLike[str], *, backend: str | None = None, num_threads: int | None = None
) -> tuple[LanguageModel, Tokenizer]:
    """Return the best model of a training run, by held-out loss, and its tokenizer.

    Raises
    ------
    OSError, CheckpointError
        As for `read_checkpoint`.
    """
    groups, metadata = read_checkpoint(path)
    with usable_checkpoint(path):
        if "characters" in metadata:  # as files were written when there were characters only
            metadata["tokenizer"] = {"unit": "character", "characters": metadata["characters"]}
        tokenizer = restore_tokenizer(metadata["tokenizer"])
        settings = Settings(**metadata["settings"])
        model = build_model(settings, len(tokenizer), backend=backend, num_threads=num_threads)
        model.load_state_dict(groups["best"])
    return model, tokenizer


@contextmanager
def usable_checkpoint(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn what goes wrong when a checkpoint's contents are used into CheckpointError."""
    try:
        yield
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} is not a usable checkpoint: {error}") from error


def _safetensors() -> Any:
    try:
        import safetensors.numpy
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("checkpoints need safetensors: pip install fastrnn[cli]", name=error.name) from None
    return safetensors
