"""Put a model's recurrent modules on fastrnn's kernels, and back on torch's."""

from __future__ import annotations

from typing import TypeVar

import torch

from fastrnn.torch.modules import GRU, LSTM, RNN

__all__ = ["accelerate", "restore"]

Model = TypeVar("Model", bound=torch.nn.Module)

OURS: dict[type[torch.nn.Module], type[torch.nn.Module]] = {
    torch.nn.RNN: RNN,
    torch.nn.LSTM: LSTM,
    torch.nn.GRU: GRU,
}
THEIRS = {ours: theirs for theirs, ours in OURS.items()}


def accelerate(model: Model) -> Model:
    """Run every torch.nn.RNN, LSTM and GRU in a model on fastrnn's kernels.

    The modules stay the objects they are, with their parameters, hooks and settings: only their class changes, to
    fastrnn.torch's of the same name. So optimisers built before still work, and so does whatever else refers to them.
    Subclasses, which may compute anything, stay as they are; so do parametrized modules (a parametrization makes a
    subclass: accelerate first) and those of torch.jit.

    Parameters
    ----------
    model
        Any module; itself or those in it are changed in place.

    Returns
    -------
    torch.nn.Module
        The same object.

    Raises
    ------
    TypeError
        If `model` is not a torch.nn.Module.

    Examples
    --------
    >>> import torch, fastrnn.torch
    >>> model = torch.nn.ModuleDict({"rnn": torch.nn.LSTM(8, 16), "out": torch.nn.Linear(16, 4)})
    >>> fastrnn.torch.accelerate(model) is model
    True
    >>> isinstance(model["rnn"], fastrnn.torch.LSTM)
    True
    """
    return _change_classes(model, OURS)


def restore(model: Model) -> Model:
    """Undo `accelerate`, and put modules that were made as fastrnn.torch's on torch's own kernels likewise.

    Parameters, return value and errors are those of `accelerate`.

    Examples
    --------
    >>> import torch, fastrnn.torch
    >>> type(fastrnn.torch.restore(fastrnn.torch.GRU(3, 4))) is torch.nn.GRU
    True
    """
    return _change_classes(model, THEIRS)


def _change_classes(model: Model, classes: dict[type[torch.nn.Module], type[torch.nn.Module]]) -> Model:
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"model is a {type(model).__name__}; expected a torch.nn.Module")
    for module in model.modules():
        if type(module) in classes:
            module.__class__ = classes[type(module)]
    return model
