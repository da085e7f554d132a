"""Named parameter arrays: how a module draws, exposes, copies out and loads what it learns."""

from __future__ import annotations

import itertools
import sys
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

__all__ = [
    "Array",
    "Parameters",
    "Parametrized",
    "check_dtype",
    "check_flag",
    "check_positive",
    "check_share",
    "fill",
    "take_array",
    "take_floats",
    "uniform",
]

Array = np.ndarray[Any, np.dtype[Any]]
LARGEST = 2**31 - 1  # of any size, so that products of two of them are numbers of 64 bits
Draw = Callable[[np.random.Generator, tuple[int, ...]], Array]  # initial values of a shape


def check_dtype(dtype: Any) -> np.dtype[Any]:
    """Return `dtype` as a native float32 or float64 numpy dtype; TypeError for anything else."""
    message = f"dtype is {dtype!r}; expected float32 or float64"
    try:
        result: np.dtype[Any] = np.dtype(dtype)
    except TypeError as error:
        raise TypeError(message) from error
    if result not in (np.float32, np.float64) or not result.isnative:
        raise TypeError(message)
    return result


def check_positive(name: str, value: Any) -> int:
    """Return `value` as an int from 1 to 2^31 - 1; TypeError or ValueError that names the argument otherwise."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} is {value!r}; expected an integer of at least 1")
    if value < 1:
        raise ValueError(f"{name} is {value}; expected an integer of at least 1")
    if value > LARGEST:
        raise ValueError(f"{name} is {value}; expected an integer of at most {LARGEST}")
    return int(value)


def check_flag(name: str, value: Any) -> bool:
    """Return `value` as a bool; TypeError that names the argument unless it is one."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} is {value!r}; expected True or False")
    return bool(value)


def check_share(name: str, value: Any) -> float:
    """Return `value` as a float from 0 to 1; TypeError or ValueError that names the argument otherwise."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"{name} is {value!r}; expected a number from 0 to 1")
    if not 0 <= value <= 1:
        raise ValueError(f"{name} is {value}; expected a number from 0 to 1")
    return float(value)


def take_array(name: str, value: Any) -> Array:
    """Return `value` as an ndarray without changing its contents; TypeError if it cannot be read as one."""
    if type(value) is np.ndarray:
        return value
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{name} is a masked array; expected an array without a mask: fill it first")
    try:
        return np.asarray(value)
    except Exception as error:
        raise TypeError(f"{name} is a {type(value).__name__} that NumPy cannot read: {error}") from error


def take_floats(name: str, value: Any) -> Array:
    """Return `value` as an ndarray as it is; TypeError unless it is of float32 or float64."""
    array = take_array(name, value)
    if array.dtype not in (np.float32, np.float64):
        raise TypeError(f"{name} has dtype {array.dtype}; expected float32 or float64")
    return array


def fill(parameters: Mapping[str, Array], state_dict: Mapping[str, Any], of: str = "state_dict") -> None:
    """Copy the values of `state_dict` into arrays of the same names and shapes, all or, after an error, none.

    While `parameters` refers to the arrays they count as held: no other thread keeps a mixture of old and new. Errors
    name the argument `of` the caller.
    """
    if not isinstance(state_dict, Mapping):
        raise TypeError(f"{of} is a {type(state_dict).__name__}; expected a mapping of names to arrays")
    missing = [name for name in parameters if name not in state_dict]
    unexpected = [name for name in state_dict if name not in parameters]
    if missing or unexpected:
        raise KeyError(f"{of}: missing {missing}, unexpected {unexpected}")
    values = {name: take_array(f"{of}[{name!r}]", state_dict[name]) for name in parameters}
    for name, value in values.items():
        expected = parameters[name].shape
        if value.shape != expected:
            raise ValueError(f"{of}[{name!r}] has shape {value.shape}; expected {expected}")
        if value.dtype.kind not in "fiu":
            raise TypeError(f"{of}[{name!r}] has dtype {value.dtype}; expected real numbers")
    for name, value in values.items():
        np.copyto(parameters[name], value, casting="unsafe")


def uniform(bound: float) -> Draw:
    """Draw from U(-bound, bound)."""
    return lambda rng, shape: rng.uniform(-bound, bound, shape)


# What `Parametrized._stamp` counts for an array that only its dictionary refers to.
_OWN_REFERENCES = max(map(sys.getrefcount, {"": np.empty(0)}.values()))


_handings_out = itertools.count(1)  # of any parameters; next() on it is one step for all threads


class _Memory:
    """The owner of a parameter's memory, and no array: so NumPy's `resize` cannot move what a kernel reads."""

    def __init__(self, values: Array) -> None:
        self._array = values.copy()
        self.__array_interface__ = self._array.__array_interface__


class _Store(dict[str, Array]):
    """Parameter arrays by name, shared by a module and its shallow copies, and what `Parametrized._stamp` knows."""

    handed_out = 0  # the number of the last time that references went out
    proved = -1  # for which of these numbers nothing but the dictionary led to an array

    def __setitem__(self, name: str, values: Array) -> None:
        """Take a copy: a pickle's arrays are on memory of their own, or of somebody else's."""
        super().__setitem__(name, np.asarray(_Memory(values)))

    def hand_out(self) -> Parameters:
        """A dict of the arrays. They count as held from before the number changes, so no thread sees it early."""
        arrays = Parameters(self)
        self.handed_out = next(_handings_out)
        return arrays


class Parameters(dict[str, Array]):
    """Live parameter arrays by name.

    Assignment copies into the array that is there, with the checks of `load_state_dict`: ``parameters[name] = values``
    is ``parameters[name][...] = values``. No name can be added or taken away.
    """

    def __setitem__(self, name: str, values: Any) -> None:
        """Copy values into a parameter."""
        if name not in self:
            raise KeyError(f"{name!r} is no parameter; expected one of {', '.join(self)}")
        if values is not self[name]:  # as after `parameters[name] -= ...`
            fill({name: self[name]}, {name: values}, of="parameters")

    def update(self, *values: Any, **more: Any) -> None:
        """Copy values into some parameters, all or, after an error, none."""
        given = dict(*values, **more)
        for name in given:
            if name not in self:
                raise KeyError(f"{name!r} is no parameter; expected one of {', '.join(self)}")
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


class Parametrized:
    """Something with named parameters, all of one dtype.

    Subclasses call `_declare` once, with every parameter's shape in the order in which the values are drawn.
    """

    dtype: np.dtype[Any]

    def _declare(self, shapes: Mapping[str, tuple[int, ...]], draw: Draw, seed: Any) -> np.random.Generator:
        """Draw every parameter, in the order of `shapes`, and return the generator."""
        try:
            rng = np.random.default_rng(seed)
        except (TypeError, ValueError) as error:
            raise type(error)(f"seed is {seed!r}; expected what numpy.random.default_rng takes: {error}") from None
        self._parameters = _Store()
        for name, shape in shapes.items():
            self._parameters[name] = draw(rng, shape).astype(self.dtype)
        return rng

    @property
    def parameters(self) -> Parameters:
        """The live parameter arrays by name: write into them, `p -= ...` or `parameters[name] = ...`, to train.

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
        number = parameters.handed_out  # before the look at references, lest a thread take and return some in between
        if max(map(sys.getrefcount, parameters.values())) > _OWN_REFERENCES:
            return None
        if parameters.proved != number:
            if any(map(weakref.getweakrefcount, parameters.values())):
                return None
            parameters.proved = number
        return number

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
