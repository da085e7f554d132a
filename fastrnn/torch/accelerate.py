"""Put a model's recurrent modules on fastrnn's kernels, and back on torch's; and say which run where."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

import torch
from torch.nn.utils.parametrize import is_parametrized

from fastrnn.checks import check_choice, check_flag
from fastrnn.narrow import PRECISIONS
from fastrnn.torch.cells import Cell, GRUCell, LSTMCell, RNNCell
from fastrnn.torch.modules import GRU, LSTM, RNN, Layers, why_never
from fastrnn.torch.operator import why_no_tapes
from fastrnn.torch.precision import check_precision

__all__ = ["Placement", "accelerate", "report", "restore", "restored"]

Model = TypeVar("Model", bound=torch.nn.Module)
Kind = type[torch.nn.Module]

OURS: dict[Kind, Kind] = {
    torch.nn.RNN: RNN,
    torch.nn.LSTM: LSTM,
    torch.nn.GRU: GRU,
    torch.nn.RNNCell: RNNCell,
    torch.nn.LSTMCell: LSTMCell,
    torch.nn.GRUCell: GRUCell,
}
THEIRS = {ours: theirs for theirs, ours in OURS.items()}
BUILT_IN = (RNN, LSTM, GRU)
SCRIPTED = {kind.__name__ for kind in OURS}


class Placement(NamedTuple):
    """Where one recurrent module of a model runs."""

    module: str  # its name, as of named_modules
    kind: str
    on_kernels: bool
    reason: str  # why not, else empty
    precision: str = "float32"  # of its products there, where float32 stands for the dtype


def accelerate(
    model: Model,
    *,
    subclasses: Collection[str | Kind] = (),
    precision: str | None = None,
    verbose: bool = False,
) -> Model:
    """Run every torch.nn.RNN, LSTM and GRU in a model on fastrnn's kernels, and their cells of one step.

    The modules stay the objects they are, with their parameters, hooks and settings: only their class changes, to
    fastrnn.torch's of the same name. So optimisers built before still work, and so does whatever else refers to them.
    Parametrized modules are taken too. Subclasses, which may compute anything, stay as they are unless they are named;
    so do those of torch.jit. `report` lists what runs where.

    Parameters
    ----------
    model
        Any module; itself or those in it are changed in place.
    subclasses
        Subclasses of these classes, or their names, to be taken as well: where they call
        ``super().forward``, the kernels run it. They stay instances of their class.
    precision
        What the products of every LSTM, GRU and RNN on the kernels are to multiply, their `precision`: "float32",
        "bfloat16", or in inference "int8". None leaves each as it is, "float32" at first. Cells of one step, and cells
        of one's own, stay in float32.
    verbose
        Print `report` of the model, a line for each recurrent module.

    Returns
    -------
    torch.nn.Module
        The same object.

    Warns
    -----
    UserWarning
        If there is nothing in the model that the kernels run; it says why.

    Raises
    ------
    TypeError
        If `model` is not a torch.nn.Module, or one of `subclasses` neither a name nor such a class.
    ValueError
        If a name of `subclasses` is of no module in the model, or a module cannot have the `precision`, of float64 for
        instance. Nothing has changed then.

    Examples
    --------
    >>> import torch, fastrnn.torch
    >>> model = torch.nn.ModuleDict({"rnn": torch.nn.LSTM(8, 16), "out": torch.nn.Linear(16, 4)})
    >>> fastrnn.torch.accelerate(model, verbose=True) is model
    rnn: LSTM, on fastrnn's kernels
    True
    >>> fastrnn.torch.accelerate(model, precision="bfloat16", verbose=True) is model
    rnn: LSTM, on fastrnn's kernels, in bfloat16
    True
    >>> isinstance(model["rnn"], fastrnn.torch.LSTM)
    True
    """
    _check(model)
    check_flag("verbose", verbose)
    wanted = _subclasses(model, subclasses)

    def ours(kind: Kind) -> Kind | None:
        return OURS.get(kind) or (_derived(kind) if kind in wanted else None)

    if precision is not None:
        check_choice("precision", precision, PRECISIONS)
        for module in model.modules():
            if issubclass(ours(_kind(module)) or type(module), BUILT_IN):
                check_precision(module, precision)
    _change_classes(model, ours)
    if precision is not None:
        for module in model.modules():
            if isinstance(module, BUILT_IN):
                module._precision = precision
    found = report(model)
    if verbose:
        for name, kind, on_kernels, reason, its in found:
            print(f"{name or 'the model'}: {kind}, {'on' if on_kernels else 'not on'} fastrnn's kernels", end="")
            print(f": {reason}" if reason else "" if its == "float32" else f", in {its}")
    if not any(isinstance(module, (Layers, Cell)) for module in model.modules()):
        why = "; ".join(f"{each.module or 'the model'}: {each.reason}" for each in found)
        what = why or "it has no torch.nn.RNN, LSTM or GRU"
        warnings.warn(f"nothing in this {type(model).__name__} runs on fastrnn's kernels: {what}", stacklevel=2)
    return model


def restore(model: Model) -> Model:
    """Undo `accelerate`, and put modules that were made as fastrnn.torch's on torch's own kernels likewise.

    Their `precision` is gone: accelerated again, they are in float32.

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
    >>> type(fastrnn.torch.restore(fastrnn.torch.GRU(3, 4))) is torch.nn.GRU
    True
    """
    _check(model)
    for module, _ in _change_classes(model, _theirs):
        module.__dict__.pop("_precision", None)
    return model


@contextmanager
def restored(model: Model) -> Iterator[Model]:
    """Let other tools see torch's own modules within a block, which then are on the kernels again.

    For what asks for torch.nn's very classes, or writes a file for another program: torch.ao's quantization, torch.jit,
    torch.export for a process without fastrnn, ``torch.save`` of a whole model. The argument, what it yields, and
    errors are those of `restore`.

    Examples
    --------
    >>> import torch, fastrnn.torch
    >>> model = torch.nn.Sequential(fastrnn.torch.LSTM(8, 16))
    >>> with fastrnn.torch.restored(model):
    ...     type(model[0]) is torch.nn.LSTM
    True
    >>> fastrnn.torch.report(model)[0].on_kernels
    True
    """
    _check(model)
    changed = _change_classes(model, _theirs)
    try:
        yield model
    finally:
        for module, kind in changed:
            module.__class__ = kind


def report(model: torch.nn.Module) -> list[Placement]:
    """List the recurrent modules of a model and whether fastrnn's kernels run them, and if not, why.

    Parameters
    ----------
    model
        Any module.

    Returns
    -------
    list
        A `Placement` (module, kind, on_kernels, reason, precision) of each: those of fastrnn.torch, torch.nn.RNN, LSTM
        and GRU, their cells and subclasses, and what torch.jit has made of them. What depends on the call alone, such
        as an input on another device, is no reason here.

    Raises
    ------
    TypeError
        If `model` is not a torch.nn.Module.

    Examples
    --------
    >>> import torch, fastrnn.torch
    >>> fastrnn.torch.report(fastrnn.torch.accelerate(torch.nn.GRU(3, 4, device="meta")))[0].reason
    "fastrnn's kernels take tensors on the CPU, not on meta"
    """
    _check(model)
    found = []
    for name, module in model.named_modules():
        kind = _kind(module).__name__
        precision = "float32"
        if isinstance(module, Layers):
            reason, precision = why_never(module), module._precision
            reason = reason and f"fastrnn's kernels {reason}"
        elif isinstance(module, Cell):
            reason = why_no_tapes()
            reason = reason and f"fastrnn's kernels {reason}"
        elif isinstance(module, torch.jit.ScriptModule):
            kind = str(module.original_name)
            if kind not in SCRIPTED:
                continue
            reason = "torch.jit has compiled it"
        elif _kind(module) in OURS:
            reason = "it is torch's own: accelerate it"
        elif isinstance(module, (torch.nn.RNNBase, torch.nn.RNNCellBase)):
            reason = f"it is a subclass, which may compute anything: accelerate(model, subclasses=[{kind!r}]) takes it"
        else:
            continue
        found.append(Placement(name, kind, not reason, reason or "", precision))
    return found


def _check(model: Any) -> None:
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"model is a {type(model).__name__}; expected a torch.nn.Module")


def _kind(module: torch.nn.Module) -> Kind:
    """Its class, of a parametrized module the one before."""
    kind: Kind = type(module).__bases__[0] if is_parametrized(module) else type(module)
    return kind


def _subclasses(model: torch.nn.Module, given: Any) -> set[Kind]:
    """The classes that `accelerate` is to take beside torch.nn's."""
    if isinstance(given, (str, type)) or not isinstance(given, Collection):
        raise TypeError(f"subclasses is {given!r}; expected a list of classes or of their names")
    there = {_kind(module) for module in model.modules()}
    wanted = set()
    for each in given:
        of_name = {kind for kind in there if each in (kind, kind.__name__)}
        if not isinstance(each, (str, type)) or any(not issubclass(kind, tuple(OURS)) for kind in of_name):
            raise TypeError(
                f"subclasses has {each!r}; expected subclasses of torch.nn.RNN, LSTM or GRU, or their names"
            )
        if not of_name:
            names = ", ".join(sorted(kind.__name__ for kind in there if issubclass(kind, tuple(OURS)))) or "none"
            raise ValueError(f"subclasses has {each!r}, which no module in the model is; recurrent ones are: {names}")
        wanted |= {kind for kind in of_name if not issubclass(kind, (Layers, Cell))}
    return wanted - set(OURS)


_of_subclass: dict[Kind, Kind] = {}


def _derived(kind: Kind) -> Kind:
    """A subclass of torch.nn's with fastrnn.torch's class between the two."""
    if kind not in _of_subclass:
        ours = next(OURS[base] for base in kind.__mro__ if base in OURS)
        own = {"__module__": kind.__module__, "__qualname__": kind.__qualname__, "__reduce_ex__": _reduce_derived}
        _of_subclass[kind] = type(kind.__name__, (kind, ours), own)
    return _of_subclass[kind]


def _reduce_derived(self: torch.nn.Module, protocol: Any) -> Any:
    """For copies and pickles, which find no class of this name in its module."""
    kind = type(self)
    reduced = super(kind, self).__reduce_ex__(protocol)
    return (_new_derived, kind.__bases__[:1], *reduced[2:])


def _new_derived(kind: Kind) -> Any:
    derived = _derived(kind)
    return derived.__new__(derived)


def _theirs(kind: Kind) -> Kind | None:
    """torch's class, or a user's, in place of one of ours."""
    base = kind.__bases__[0]
    return THEIRS.get(kind) or (base if _of_subclass.get(base) is kind else None)


def _change_classes(
    model: torch.nn.Module, counterpart: Callable[[Kind], Kind | None]
) -> list[tuple[torch.nn.Module, Kind]]:
    """Change the class of modules for which there is a counterpart; what these modules were."""
    changed = []
    for module in model.modules():
        kind = type(module)
        new = counterpart(_kind(module))
        if new is None:
            continue
        if is_parametrized(module):  # by a class of its own, made of properties and torch.nn's
            own = {name: value for name, value in vars(kind).items() if name not in ("__dict__", "__weakref__")}
            new = type(kind.__name__, (new,), own)
        changed.append((module, kind))
        module.__class__ = new
    return changed
