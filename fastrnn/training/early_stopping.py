"""When to stop: once the loss on data that is not trained on no longer falls."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from fastrnn.checks import Array, check_number, check_positive
from fastrnn.training.names import take_scalars

__all__ = ["EarlyStopping"]


class EarlyStopping:
    """Tells from validation losses which is the best so far, and whether it is time to stop.

    Parameters
    ----------
    patience
        How many losses in a row that are not better end the training.
    min_delta
        A loss is better if it is below the best one by more than this.

    Attributes
    ----------
    best : float
        The best loss so far; infinity before there is one.
    stop : bool
        Whether the last `patience` losses brought no better one.

    Raises
    ------
    ValueError
        If the patience is less than 1, or `min_delta` negative.
    TypeError
        If the patience is not an integer.

    Examples
    --------
    >>> stopping = EarlyStopping(patience=2)
    >>> for loss in [3.0, 1.0, 2.0, 1.5]:
    ...     best = stopping.is_new_best(loss)  # if so, keep the model's state_dict()
    ...     print(loss, best, stopping.stop)
    3.0 True False
    1.0 True False
    2.0 False False
    1.5 False True
    """

    def __init__(self, patience: int, min_delta: float = 0.0) -> None:
        self.patience = check_positive("patience", patience)
        self.min_delta = check_number("min_delta", min_delta, "0 or a positive number", lambda delta: delta >= 0)
        self.best = math.inf
        self._waited = 0

    @property
    def stop(self) -> bool:
        """Whether the last `patience` losses brought no better one."""
        return self._waited >= self.patience

    def is_new_best(self, loss: float) -> bool:
        """Take notice of a validation loss and return whether it is the best so far; NaN never is.

        Whether to stop is another question, which `stop` answers.
        """
        loss = check_number("loss", loss)
        if loss < self.best - self.min_delta:
            self.best, self._waited = loss, 0
            return True
        self._waited += 1
        return False

    def update(self, loss: float) -> bool:
        """`is_new_best`, under a name that does not tell what it returns: True is no reason to stop."""
        return self.is_new_best(loss)

    def state_dict(self) -> dict[str, Array]:
        """Return what the losses so far have led to, for `load_state_dict`."""
        return {"best": np.array(self.best), "waited": np.array(self._waited)}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave; KeyError if a name is missing."""
        best, waited = take_scalars(state_dict, ("best", "waited"))
        self.best, self._waited = best, int(waited)
