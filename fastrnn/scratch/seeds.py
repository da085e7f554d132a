"""Seeds of NumPy's global generator, from which from-scratch code draws."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fastrnn.checks import shown

__all__ = ["legacy_generator", "seed_numpy"]


def legacy_generator(seed: Any) -> np.random.RandomState:
    """Return ``numpy.random.RandomState(seed)``; TypeError or ValueError that names the seed if there is none."""
    wanted = "an integer from 0 to 2**32 - 1, or an array of such"
    if seed is not None and not isinstance(seed, (int, np.integer, Sequence, np.ndarray)):
        raise TypeError(f"seed is {shown(seed)}; expected {wanted}")
    try:
        return np.random.RandomState(np.asarray(seed) if isinstance(seed, np.ndarray) else seed)
    except (TypeError, ValueError, OverflowError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"seed is {shown(seed)}; expected {wanted}") from None


def seed_numpy(seed: Any) -> None:
    """Seed NumPy's global generator; errors are those of `legacy_generator`."""
    np.random.set_state(legacy_generator(seed).get_state())
