"""What is in a state dict: several mappings of arrays as one, under dotted names, and back; numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from fastrnn.checks import Array, check_mapping, check_number, take_array

__all__ = ["join_names", "split_names", "take_scalars"]


def join_names(groups: Mapping[str, Mapping[str, Array]]) -> dict[str, Array]:
    """Return the arrays of all groups under the names ``group.name``."""
    return {f"{group}.{name}": array for group, arrays in groups.items() for name, array in arrays.items()}


def split_names(arrays: Mapping[str, Array]) -> dict[str, dict[str, Array]]:
    """Undo `join_names`: the group is what stands before the first dot."""
    groups: dict[str, dict[str, Array]] = {}
    for full_name, array in arrays.items():
        group, _, name = full_name.partition(".")
        groups.setdefault(group, {})[name] = array
    return groups


def take_scalars(state_dict: Any, names: Sequence[str]) -> list[float]:
    """Return the numbers of some names in a state dict, those that count something, all but the first, finite.

    Raises
    ------
    KeyError
        If a name is missing.
    TypeError, ValueError
        If it is no mapping, or a value no such number.
    """
    check_mapping("state_dict", state_dict, "names to numbers")
    if missing := [name for name in names if name not in state_dict]:
        raise KeyError(f"state_dict has no {missing}; expected {list(names)}")
    numbers = []
    for k, name in enumerate(names):
        label = f"state_dict[{name!r}]"
        array = take_array(label, state_dict[name])
        value = array.reshape(())[()] if array.size == 1 else array
        wanted = "a finite number" if k else "a number"
        numbers.append(check_number(label, value, wanted, math.isfinite if k else lambda number: True))
    return numbers
