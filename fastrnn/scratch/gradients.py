"""Clipping of gradients, element by element."""

from __future__ import annotations

from collections.abc import Mapping

from fastrnn.checks import Array, check_mapping, check_positive_number, shown, take_reals

__all__ = ["clip"]


def clip(gradients: Mapping[str, Array], maxValue: float) -> dict[str, Array]:
    """Return a new dict of new arrays, with every element clipped to [-maxValue, maxValue].

    Raises
    ------
    ValueError
        If `maxValue` is not positive.

    Examples
    --------
    >>> import numpy as np
    >>> clip({"dba": np.array([-7.0, 0.5, 9.0])}, maxValue=5)
    {'dba': array([-5. ,  0.5,  5. ])}
    """
    check_positive_number("maxValue", maxValue)
    check_mapping("gradients", gradients, "names to arrays")
    arrays = {name: take_reals(f"gradients[{shown(name)}]", gradient) for name, gradient in gradients.items()}
    return {name: array.clip(-maxValue, maxValue) for name, array in arrays.items()}
