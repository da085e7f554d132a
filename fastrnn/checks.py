"""Is an argument what it should be? Otherwise an error that says which one, what came, what was wanted, and the remedy.

Each check returns the argument, as the type that the code after it works with.
"""

from __future__ import annotations

import math
import numbers
import os
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

__all__ = [
    "LARGEST",
    "Array",
    "check_arrays",
    "check_choice",
    "check_count",
    "check_dtype",
    "check_flag",
    "check_float_array",
    "check_index",
    "check_instance",
    "check_integer",
    "check_iterable",
    "check_mapping",
    "check_number",
    "check_path",
    "check_positive",
    "check_positive_number",
    "check_sequence",
    "check_share",
    "check_size",
    "check_text",
    "make_generator",
    "shown",
    "take_array",
    "take_floats",
    "take_integers",
    "take_reals",
    "to_dtype",
]

Array = np.ndarray[Any, np.dtype[Any]]
Kind = TypeVar("Kind")

LARGEST = 2**31 - 1  # of any size, so that products of two of them are numbers of 64 bits
LONGEST = 80  # characters of a value that a message shows


def shown(value: Any) -> str:
    """What a message says of a value: how it is written in Python, or where that is long, what it is."""
    if isinstance(value, np.ndarray) and value.ndim:
        return f"an array of shape {value.shape} and dtype {value.dtype}"
    if isinstance(value, int) and not -(10**LONGEST) < value < 10**LONGEST:
        return "a number of more digits than anyone reads"  # Python may even refuse to write it
    try:
        text = repr(value) if not isinstance(value, (str, bytes)) else repr(value[: LONGEST + 1])
    except Exception:
        text = ""
    if text and len(text) <= LONGEST and "\n" not in text and " at 0x" not in text:
        return text
    size = f" of length {len(value)}" if isinstance(value, (str, bytes, list, tuple, dict, set)) else ""
    return f"a {type(value).__name__}{size}"


# ---- numbers


def check_integer(
    name: str, value: Any, wanted: str = "an integer", low: int = -sys.maxsize, high: int = sys.maxsize
) -> int:
    """Return `value` as an int with low <= value <= high, which `wanted` tells; TypeError or ValueError otherwise."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} is {shown(value)}; expected {wanted}")
    if not low <= value <= high:
        bound = f", and at most {high}" if value > high == sys.maxsize else ""
        raise ValueError(f"{name} is {shown(value)}; expected {wanted}{bound}")
    return int(value)


def check_positive(name: str, value: Any) -> int:
    """Return `value` as an int from 1 to 2^31 - 1; TypeError or ValueError that names the argument otherwise."""
    too_large = isinstance(value, int) and value > LARGEST
    wanted = f"an integer of at most {LARGEST}" if too_large else "an integer of at least 1"
    return check_integer(name, value, wanted, 1, LARGEST)


def check_count(name: str, value: Any) -> int:
    """Return `value` as an int of at least 0."""
    return check_integer(name, value, "an integer of at least 0", 0)


def check_index(name: str, value: Any, size: int, letters: str) -> int:
    """Return `value` as an int with 0 <= value < size, which `letters` names; TypeError or ValueError otherwise."""
    wanted = f"0 <= {name} < {letters} = {size}"
    index = check_integer(name, value, wanted, 0)
    if index >= size:
        raise ValueError(f"{name} is {index}; expected {wanted}")
    return index


def check_number(
    name: str, value: Any, wanted: str = "a number", fits: Callable[[float], bool] = lambda number: True
) -> float:
    """Return `value` as a float that `fits`, which `wanted` tells. An array of no axes is a number, too."""
    if isinstance(value, np.ndarray) and value.ndim == 0 and value.dtype.kind in "fiu":
        value = value.item()
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} is {shown(value)}; expected {wanted}")
    try:
        number = float(value)
    except OverflowError:
        number = math.nan
    if not fits(number) or (math.isnan(number) and value == value):  # a number that is too large for a float
        raise ValueError(f"{name} is {shown(value)}; expected {wanted}")
    return number


def check_positive_number(name: str, value: Any) -> float:
    """Return `value` as a float above 0, infinity included."""
    return check_number(name, value, "a positive number", lambda number: number > 0)


def check_share(name: str, value: Any) -> float:
    """Return `value` as a float from 0 to 1; TypeError or ValueError that names the argument otherwise."""
    return check_number(name, value, "a number from 0 to 1", lambda number: 0 <= number <= 1)


def check_flag(name: str, value: Any) -> bool:
    """Return `value`, True or False, as a bool; TypeError for what merely counts as one, such as a text."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} is {shown(value)}; expected True or False")
    return bool(value)


# ---- texts


def check_text(name: str, value: Any) -> str:
    """Return `value`, a str; TypeError otherwise."""
    if not isinstance(value, str):
        raise TypeError(f"{name} is {shown(value)}; expected a text (str)")
    return value


def check_choice(name: str, value: Any, among: Iterable[str]) -> str:
    """Return `value`, one of some texts; ValueError that lists them otherwise, TypeError for what is no text."""
    choices = list(among)
    if not isinstance(value, str) or value not in choices:
        kind = ValueError if isinstance(value, str) else TypeError
        wanted = " or ".join(map(repr, choices)) if len(choices) == 2 else f"one of {', '.join(choices)}"
        raise kind(f"{name} is {shown(value)}; expected {wanted}")
    return value


def check_path(name: str, value: Any) -> Path:
    """Return `value`, a str or os.PathLike, as a Path; TypeError or ValueError otherwise."""
    try:
        text = os.fspath(value)
    except TypeError:
        text = None
    if not isinstance(text, str):
        raise TypeError(f"{name} is {shown(value)}; expected a path: a str or os.PathLike")
    if not text or "\0" in text:
        raise ValueError(f"{name} is {shown(value)}; expected a path, not empty and without NUL")
    return Path(text)


# ---- collections


def check_instance(name: str, value: Any, kind: type[Kind] | tuple[type[Kind], ...], wanted: str) -> Kind:
    """Return `value`, an instance of `kind`, which `wanted` tells; TypeError otherwise."""
    if not isinstance(value, kind):
        raise TypeError(f"{name} is {shown(value)}; expected {wanted}")
    return value


def check_mapping(name: str, value: Any, wanted: str) -> Mapping[Any, Any]:
    """Return `value`, a mapping of what `wanted` tells; TypeError otherwise."""
    return check_instance(name, value, Mapping, f"a mapping of {wanted}")


def check_sequence(name: str, value: Any, wanted: str) -> Sequence[Any]:
    """Return `value`, a list, a tuple or the like, or an array with an axis; TypeError otherwise."""
    is_array = isinstance(value, np.ndarray) and value.ndim > 0
    if isinstance(value, (str, bytes)) or not (is_array or isinstance(value, Sequence)):
        raise TypeError(f"{name} is {shown(value)}; expected {wanted}")
    sequence: Sequence[Any] = value
    return sequence


def check_iterable(name: str, value: Any, wanted: str) -> list[Any]:
    """Return what `value` gives when it is gone through, as a list; TypeError where that cannot be."""
    try:
        return list(value)
    except TypeError:
        raise TypeError(f"{name} is {shown(value)}; expected {wanted}") from None


def check_arrays(name: str, value: Any, *, written: bool = False) -> Mapping[str, Array]:
    """Return `value`, a mapping of names to arrays of floats; TypeError or ValueError otherwise.

    With `written` they are to be written to.
    """
    arrays = check_mapping(name, value, "names to arrays")
    for key, array in arrays.items():
        if not _is_float_array(array, written):  # looked at before its name is written: this is part of every step
            check_float_array(f"{name}[{shown(key)}]", array, written=written)
    return arrays


def _is_float_array(array: Any, written: bool) -> bool:
    return isinstance(array, np.ndarray) and array.dtype.kind == "f" and (array.flags.writeable or not written)


def check_float_array(name: str, array: Any, *, written: bool = False) -> Array:
    """Return `array`, an ndarray of floats, and with `written` one to write to; TypeError or ValueError otherwise."""
    if not isinstance(array, np.ndarray) or array.dtype.kind != "f":
        raise TypeError(f"{name} is {shown(array)}; expected an array of floats")
    if written and not array.flags.writeable:
        raise ValueError(f"{name} is read-only; expected an array that can be written: it is updated in place")
    return array


# ---- arrays


def take_array(name: str, value: Any) -> Array:
    """Return `value` as an ndarray without changing its contents; TypeError if it cannot be read as one."""
    if type(value) is np.ndarray:
        return value
    if value is None:
        raise TypeError(f"{name} is None; expected an array")
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{name} is a masked array; expected an array without a mask: fill it first")
    try:
        array = np.asarray(value)
    except Exception as error:
        remedy = _remedy(name, value)
        raise TypeError(
            f"{name} is a {type(value).__name__} that NumPy cannot read: {_first_line(error)}; "
            f"expected an array{remedy}"
        ) from error
    if array.dtype == object and array.ndim == 0:
        raise TypeError(f"{name} is {shown(value)}; expected an array")
    return array


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0].rstrip(".")


def _remedy(name: str, value: Any) -> str:
    """What to do with a tensor of torch that NumPy cannot read."""
    if getattr(value, "requires_grad", False) is True:
        return f": use {name}.detach()"
    if str(getattr(value, "dtype", "")).startswith("torch.bfloat"):
        return f": use {name}.float()"
    device = getattr(getattr(value, "device", None), "type", "cpu")
    return "" if device in ("cpu", "meta") else f": use {name}.cpu()"


def take_floats(name: str, value: Any) -> Array:
    """Return `value` as an ndarray as it is; TypeError unless it is of float32 or float64."""
    array = take_array(name, value)
    if array.dtype not in (np.float32, np.float64):
        raise TypeError(
            f"{name} has dtype {array.dtype}; expected float32 or float64{to_dtype(name, value, np.dtype(np.float32))}"
        )
    return array


def take_reals(name: str, value: Any) -> Array:
    """Return `value` as an ndarray of float64; TypeError unless it is of real numbers."""
    array = take_array(name, value)
    if array.dtype.kind not in "fiub":
        raise TypeError(f"{name} has dtype {array.dtype}; expected real numbers")
    return np.asarray(array, np.float64)


def take_integers(name: str, value: Any) -> Array:
    """Return `value` as an ndarray as it is; TypeError unless it is of integers."""
    array = take_array(name, value)
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name} has dtype {array.dtype}; expected integers")
    return array


def to_dtype(name: str, value: Any, dtype: np.dtype[Any]) -> str:
    """The remedy where `value` is of other real numbers than `dtype`, to end a message with; otherwise nothing."""
    given = getattr(value, "dtype", None)
    if isinstance(value, (list, tuple)):
        return f": use np.array({name}, np.{dtype})" if np.asarray(value).dtype.kind in "fiu" else ""
    if not isinstance(given, np.dtype) or given.kind not in "fiu":
        return ""
    return f": use {name}.astype(np.{dtype})"


# ---- what modules are made with


def check_dtype(dtype: Any) -> np.dtype[Any]:
    """Return `dtype` as a native float32 or float64 numpy dtype; TypeError for anything else."""
    message = f"dtype is {shown(dtype)}; expected float32 or float64"
    try:
        result: np.dtype[Any] = np.dtype(dtype)
    except (TypeError, ValueError, RuntimeError, SyntaxError) as error:
        raise TypeError(message) from error
    if result not in (np.float32, np.float64) or not result.isnative:
        raise TypeError(message)
    return result


SEEDS: tuple[Any, ...] = (int, np.integer, str, Sequence, np.ndarray, np.random.SeedSequence, np.random.BitGenerator)
SEEDS += (np.random.Generator, np.random.RandomState, np.random.bit_generator.ISeedSequence)


def make_generator(seed: Any, name: str = "seed") -> np.random.Generator:
    """Return ``numpy.random.default_rng(seed)``; TypeError or ValueError that names the argument otherwise."""
    wanted = f"{name} is {shown(seed)}; expected what numpy.random.default_rng takes"
    if isinstance(seed, str) and len(seed) > 1000:
        raise ValueError(wanted)
    if isinstance(seed, np.ndarray):
        seed = np.asarray(seed)  # NumPy goes on for ever, until the stack ends, with a numpy.matrix
    if isinstance(seed, (Sequence, np.ndarray)) and not isinstance(seed, str) and not _is_entropy(seed):
        raise TypeError(f"{wanted}: of sequences those of integers of at least 0")
    if seed is not None and not isinstance(seed, SEEDS):
        raise TypeError(wanted)  # NumPy's own error shows the seed, which can be an error, too
    try:
        return np.random.default_rng(seed)
    except (TypeError, ValueError, OverflowError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"{wanted}: {_first_line(error)}") from None


def _is_entropy(seed: Any, depth: int = 0) -> bool:
    """Whether a sequence has integers of at least 0 only, or such sequences."""
    if isinstance(seed, np.ndarray):
        return seed.dtype.kind in "iu" and bool((seed >= 0).all()) if seed.size else True
    if isinstance(seed, (list, tuple, range)):
        return depth < 8 and len(seed) <= 1_000_000 and all(_is_entropy(each, depth + 1) for each in seed)
    return isinstance(seed, (int, np.integer)) and bool(seed >= 0)


def check_size(name: str, sizes: Collection[int], itemsize: int = 8) -> None:
    """ValueError unless an array of these sizes, which `name` gives, could be addressed."""
    if math.prod(sizes) * itemsize > sys.maxsize:
        raise ValueError(f"{name} would be an array of shape {tuple(sizes)}; expected one that memory can hold")
