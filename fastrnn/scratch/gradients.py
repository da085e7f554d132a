"""Clipping of gradients, element by element."""

from __future__ import annotations

from collections.abc import Mapping

from fastrnn.parameters import Array

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
    if not maxValue > 0:
        raise ValueError(f"maxValue is {maxValue}; expected a positive number")
    return {name: gradient.clip(-maxValue, maxValue) for name, gradient in gradients.items()}
