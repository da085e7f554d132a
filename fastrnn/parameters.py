"""Named parameter arrays: how a module draws, exposes, copies out and loads what it learns."""

from __future__ import annotations

import itertools
import sys
import weakref
from collections.abc import Callable, Collection, Mapping
from typing import Any, NoReturn, TypeVar

import numpy as np

from fastrnn.checks import Array, check_mapping, make_generator, shown, take_array

__all__ = ["Array", "NamedArrays", "Parameters", "Parametrized", "fill", "uniform"]

Draw = Callable[[np.random.Generator, tuple[int, ...]], Array]  # initial values of a shape


def fill(parameters: Mapping[str, Array], state_dict: Mapping[str, Any], of: str = "state_dict") -> None:
    """Copy the values of `state_dict` into arrays of the same names and shapes, all or, after an error, none.

    While `parameters` refers to the arrays they count as held: no other thread keeps a mixture of old and new. Errors
    name the argument `of` the caller.
    """
    check_mapping(of, state_dict, "names to arrays")
    missing = [name for name in parameters if name not in state_dict]
    unexpected = [name for name in state_dict if name not in parameters]
    if missing or unexpected:
        remedy = _remedy(missing, unexpected)
        raise KeyError(f"{of}: missing {_listed(missing)}, unexpected {_listed(unexpected)}; expected {remedy}")
    values = {name: take_array(f"{of}[{name!r}]", state_dict[name]) for name in parameters}
    for name, value in values.items():
        expected = parameters[name].shape
        if value.shape != expected:
            raise ValueError(f"{of}[{name!r}] has shape {value.shape}; expected {expected}")
        if value.dtype.kind not in "fiu":
            raise TypeError(f"{of}[{name!r}] has dtype {value.dtype}; expected real numbers")
        if parameters[name].dtype == np.int8 and value.dtype != np.int8:
            raise TypeError(
                f"{of}[{name!r}] has dtype {value.dtype}; expected int8: load it into a module of float32 and "
                "fastrnn.quantize that"
            )
    for name in values:
        if not parameters[name].flags.writeable:
            remedy = "a module that is not frozen, as copy.deepcopy(module) is"
            raise ValueError(f"{of}[{name!r}] is for a parameter that is read-only; expected {remedy}")
    for name, value in values.items():
        np.copyto(parameters[name], value, casting="unsafe")


def _listed(names: Collection[Any]) -> str:
    """Names as a message lists them, as many as one reads."""
    some = [shown(name) for name in itertools.islice(names, 40)]
    return f"[{', '.join(some)}{f', and {len(names) - 40} more' if len(names) > 40 else ''}]"


def _remedy(missing: list[str], unexpected: list[Any]) -> str:
    """What a state dict with other names may be, and what to do."""
    others = [name for name in unexpected if isinstance(name, str)]
    for name in others if missing else []:
        prefix = name.removesuffix(missing[0])
        if prefix != name and all(prefix + each in unexpected for each in missing):
            return (
                f"names without {prefix!r}: use {{name.removeprefix({prefix!r}): value for name, value in "
                f"state_dict.items() if name.startswith({prefix!r})}}"
            )
    if all("bias" in name for name in (*missing, *others)) and len(others) == len(unexpected):
        return f"{'biases' if missing else 'no biases'}, as the module was made with bias={bool(missing)}"
    return "exactly the names of the parameters"


def uniform(bound: float) -> Draw:
    """Draw from U(-bound, bound)."""
    return lambda rng, shape: rng.uniform(-bound, bound, shape)


# What `Parametrized._stamp` counts for an array that only its dictionary refers to.
_OWN_REFERENCES = max(map(sys.getrefcount, {"": np.empty(0)}.values()))
if not getattr(sys, "_is_gil_enabled", lambda: True)():
    _OWN_REFERENCES = -1  # without the interpreter's lock a count says nothing of other threads: all count as held


_handings_out = itertools.count(1)  # of any parameters; next() on it is one step for all threads


class _Memory:
    """The owner of a parameter's memory, and no array: so NumPy's `resize` cannot move what a kernel reads."""

    def __init__(self, values: Array) -> None:
        self._array = values.copy()
        self.__array_interface__ = self._array.__array_interface__


class _ToRead:
    """The memory of an array, to be read only; no array, so that nobody can make it writeable again."""

    def __init__(self, values: Array) -> None:
        self._array = values
        self.__array_interface__ = values.__array_interface__ | {"data": (values.ctypes.data, True)}


class _Store(dict[str, Array]):
    """Parameter arrays by name, shared by a module and its shallow copies, and what `Parametrized._stamp` knows."""

    handed_out = 0  # the number of the last time that references went out
    proved = -1  # for which of these numbers nothing but the dictionary led to an array
    to_read: dict[str, Array] | None = None  # what is handed out of a frozen module, in place of the arrays

    def __setitem__(self, name: str, values: Array) -> None:
        """Take a copy: a pickle's arrays are on memory of their own, or of somebody else's."""
        super().__setitem__(name, np.asarray(_Memory(values)))

    def hand_out(self) -> Parameters:
        """A dict of the arrays. They count as held from before the number changes, so no thread sees it early."""
        if self.to_read is not None:
            return Parameters(self.to_read)
        arrays = Parameters(self)
        self.handed_out = next(_handings_out)
        return arrays

    def freeze(self) -> None:
        """Move the values to memory that nobody outside can write to."""
        for name, values in self.items():
            values.flags.writeable = False  # whoever holds the array is told so when writing to it
            self[name] = values
        self.to_read = {name: np.asarray(_ToRead(values)) for name, values in self.items()}
        self.handed_out = next(_handings_out)

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy that can be written to; of a frozen module a pickler is given nothing else to write to."""
        return _Store, (), None, None, iter((self if self.to_read is None else self.to_read).items())


class NamedArrays(dict[str, Array]):
    """The arrays of something by name; what is written for torch calls it."""

    def __call__(self, *_: Any, **__: Any) -> NoReturn:
        """Say that it is no method."""
        raise TypeError(
            "parameters is a mapping of names to arrays and is not called; expected model.parameters without "
            "parentheses: model.parameters.values() are the arrays, model.parameters.items() also have their names"
        )


class Parameters(NamedArrays):
    """Live parameter arrays by name.

    Assignment copies into the array that is there, with the checks of `load_state_dict`: ``parameters[name] = values``
    is ``parameters[name][...] = values``. No name can be added or taken away.
    """

    def __setitem__(self, name: str, values: Any) -> None:
        """Copy values into a parameter."""
        if name not in self:
            raise KeyError(f"{shown(name)} is no parameter; expected one of {', '.join(self)}")
        if values is not self[name]:  # as after `parameters[name] -= ...`
            fill({name: self[name]}, {name: values}, of="parameters")

    def update(self, *values: Any, **more: Any) -> None:
        """Copy values into some parameters, all or, after an error, none."""
        given = dict(*values, **more)
        for name in given:
            if name not in self:
                raise KeyError(f"{shown(name)} is no parameter; expected one of {', '.join(self)}")
        fill({name: self[name] for name in given}, given, of="parameters")

    def __ior__(self, values: Any) -> Parameters:  # type: ignore[override,misc]
        self.update(values)
        return self

    def _fixed(self, *_: Any, **__: Any) -> Any:
        raise TypeError("the names of parameters are fixed; expected values to be written: parameters[name] = values")

    __delitem__ = clear = pop = popitem = setdefault = _fixed

    def __reduce__(self) -> tuple[Any, ...]:
        return _parameters_again, (dict(self),)


def _parameters_again(arrays: Mapping[str, Array]) -> Parameters:
    """Parameters from a pickle or a deep copy."""
    return Parameters(arrays)


Module = TypeVar("Module", bound="Parametrized")


class Parametrized:
    """Something with named parameters, all of one dtype but for int8 weights.

    Subclasses call `_declare` once, with every parameter's shape in the order in which the values are drawn.
    """

    dtype: np.dtype[Any]

    def _declare(
        self, shapes: Mapping[str, tuple[int, ...]], draw: Draw, seed: Any, integers: Collection[str] = ()
    ) -> np.random.Generator:
        """Draw every parameter, in the order of `shapes`, and return the generator; those in `integers` are int8."""
        rng = make_generator(seed)
        self._parameters = _Store()
        for name, shape in shapes.items():
            self._parameters[name] = draw(rng, shape).astype(np.int8 if name in integers else self.dtype)
        return rng

    @property
    def parameters(self) -> Parameters:
        """The live parameter arrays by name; write into them, `p -= ...` or `parameters[name] = ...`, to train.

        Modules keep packed copies of them between calls and notice writes by anyone who refers to an array; do not
        write to a bare address (`p.ctypes.data`) once the array itself has been let go.
        """
        return self._parameters.hand_out()

    def _stamp(self) -> int | None:
        """A number that stays the same as long as nobody can have written to a parameter; None while somebody could.

        Whoever writes to an array holds a reference to it, itself or through a view, buffer or tensor, and `hand_out`
        is where references come from. So while no array has a reference beyond the dictionary's, nobody writes; and
        while the number of the last handing-out is the same, nobody has come and gone in between. What leads to an
        array without a reference, a weak one, is looked for once per number. An address is not noticed.
        """
        parameters = self._parameters
        if parameters.to_read is not None:
            return parameters.handed_out
        number = parameters.handed_out  # before the look at references, lest a thread take and return some in between
        if max(map(sys.getrefcount, parameters.values())) > _OWN_REFERENCES:
            return None
        if parameters.proved != number:
            if any(map(weakref.getweakrefcount, parameters.values())):
                return None
            parameters.proved = number
        return number

    def freeze(self: Module) -> Module:
        """Make the parameters read-only, for good, and return the module.

        A call packs the weights for its kernels, and keeps what it packed as long as nobody can have written to them:
        as long as nobody, such as an optimizer, holds `parameters`. Of a frozen module nobody can, so that single steps
        and short sequences need not pack again: one step of an LSTM of 256 units then takes 0.4 of the time. Who holds
        an array of before gets an error on writing to it. A deep copy of the module, or one from a pickle or a file,
        can be trained again.

        Examples
        --------
        >>> import copy, numpy as np, fastrnn
        >>> lstm = fastrnn.LSTM(3, 4, seed=0).freeze()
        >>> lstm.parameters["bias_ih_l0"].flags.writeable
        False
        >>> copy.deepcopy(lstm).parameters["bias_ih_l0"].flags.writeable
        True
        """
        if self._parameters.to_read is None:
            self._parameters.freeze()
        return self

    def __getstate__(self) -> dict[str, Any]:
        self._parameters.hand_out()  # the state has the arrays, and so have a pickler's buffers and a deepcopy's memo
        return self.__dict__.copy()

    def state_dict(self) -> dict[str, Array]:
        """A copy of every parameter, by torch's name."""
        return {name: value.copy() for name, value in self._parameters.items()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Copy the values of `state_dict` into the parameters, in place.

        Parameters
        ----------
        state_dict
            Mapping with exactly the names of `parameters`; the values are anything `numpy.asarray` takes (arrays, CPU
            tensors) of the same shapes. Values are cast to the module's dtype.

        Raises
        ------
        KeyError
            If a name is missing or unexpected; all of them are listed.
        ValueError
            If a shape differs. Nothing is loaded then.
        """
        fill(self._parameters.hand_out(), state_dict)
