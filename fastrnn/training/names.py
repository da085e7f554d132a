"""Dotted names: several mappings of arrays as one, and back."""

from __future__ import annotations

from collections.abc import Mapping

from fastrnn.parameters import Array

__all__ = ["join_names", "split_names"]


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
