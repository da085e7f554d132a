"""Fitted estimators as files: their arrays, and the rest as JSON. No pickle."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

import fastrnn
from fastrnn.checks import Array
from fastrnn.training.architecture import describe, restore
from fastrnn.training.history import Epoch, History

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["KeptEstimator", "restore_estimator"]

# Of what fit learns, beside the model and the history. Arrays of numbers are arrays in the file.
LEARNT = ("mean_", "scale_", "y_mean_", "y_scale_", "tail_", "exogenous_tail_")
REST = ("n_features_in_", "feature_names_in_", "classes_", "n_iter_", "_flat_", "_y_is_flat_", "_seed_", "lookback_")


class KeptEstimator(BaseEstimator):  # type: ignore[misc]
    """What all estimators do once they are fitted: their files, and the picture of their losses."""

    model_: Any
    history_: History

    def plot_loss(self, path: str | os.PathLike[str] | None = None) -> Figure:
        """Draw the losses by epoch; return the figure, and with a path write it there as a PNG file."""
        check_is_fitted(self)
        return self.history_.plot(path)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the fitted estimator to one safetensors file, atomically; see `fastrnn.save`."""
        fastrnn.save(self, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Any:
        """Return the estimator of a file that `save` wrote; TypeError if it is of another class."""
        found = fastrnn.load(path)
        if not isinstance(found, cls):
            raise TypeError(f"{os.fspath(path)} holds a {type(found).__name__}; expected a {cls.__name__}")
        return found

    def _file_parts(self) -> tuple[dict[str, Mapping[str, Array]], dict[str, Any]]:
        """Return the arrays, in groups, and the description that a file holds.

        The optimizer is not in it, nor a `random_state` that is no integer.
        """
        check_is_fitted(self)
        options = {name: _plain(value) for name, value in self.get_params(deep=False).items()}
        rest = {name: _plain(getattr(self, name)) for name in REST if hasattr(self, name)}
        learnt = {name: np.asarray(getattr(self, name)) for name in LEARNT if getattr(self, name, None) is not None}
        described = {
            "class": type(self).__name__,
            "options": options,
            "learnt": rest,
            "epochs": [epoch._asdict() for epoch in self.history_.epochs],
            "stopped": self.history_.stopped,
        }
        groups = {"model": self.model_.parameters, "learnt": learnt}
        return groups, {"architecture": describe(self.model_), "estimator": described}


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, Mapping):
        return {"pairs": [[_plain(key), _plain(each)] for key, each in value.items()]}
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, (tuple, list)):
        return [_plain(each) for each in value]
    return value if value is None or isinstance(value, (bool, int, float, str)) else None


def _as_it_was(value: Any) -> Any:
    """What `_plain` wrote; a list of numbers is a tuple, as those of the defaults are."""
    if isinstance(value, Mapping):
        return dict(value["pairs"])
    return tuple(value) if isinstance(value, list) else value


def restore_estimator(groups: Mapping[str, Mapping[str, Array]], metadata: Mapping[str, Any]) -> Any:
    """Return the estimator that such parts are of; KeyError, TypeError or ValueError if it is damaged."""
    import fastrnn.sklearn as package
    from fastrnn.training.checkpoint import check_arrays

    described = metadata["estimator"]
    name = described["class"]
    if name not in package.__all__:
        raise ValueError(f"it is of the estimator {name!r}, which this version does not know")
    options = {key: _as_it_was(value) for key, value in described["options"].items()}
    estimator = getattr(package, name)(**options)
    for key, value in described["learnt"].items():
        array = key in ("classes_", "feature_names_in_")
        setattr(estimator, key, np.array(value, object if key == "feature_names_in_" else None) if array else value)
    if name == "SequenceForecaster":
        estimator.tail_ = estimator.exogenous_tail_ = None
    for key, value in groups.get("learnt", {}).items():
        setattr(estimator, key, value)
    arrays = groups.get("model", {})
    estimator.model_ = restore(metadata["architecture"], arrays)
    check_arrays("model", arrays, estimator.model_.parameters, finite=False)
    estimator.model_.load_state_dict(arrays)
    estimator._optimizer_state_ = None
    estimator.history_ = History(tuple(Epoch(**epoch) for epoch in described["epochs"]), described["stopped"])
    return estimator
