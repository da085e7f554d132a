"""What `fit` has seen, epoch by epoch."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Epoch", "History"]


class Epoch(NamedTuple):
    """One reading of the training data."""

    epoch: int  # 1 for the first
    step: int  # how many steps there have been at its end
    loss: float  # the mean of its batches', before their updates
    validation_loss: float | None  # at its end; None without validation data
    metrics: dict[str, float]  # of the validation data, or else the training data, at its end
    learning_rate: float  # of its last step


@dataclass(frozen=True)
class History:
    """The epochs of a call of `fit`, and those of the call before it that it went on from.

    Attributes
    ----------
    epochs : sequence of Epoch
    stopped : str
        Why it ended: "epochs" if all are done, "patience", "callback" or "interrupted".
    """

    epochs: Sequence[Epoch]
    stopped: str

    @property
    def best(self) -> Epoch | None:
        """The epoch with the lowest validation loss, or loss where there is none; None before the first has ended."""
        return min(self.epochs, key=lambda e: e.loss if e.validation_loss is None else e.validation_loss, default=None)

    def to_dict(self) -> dict[str, list[Any]]:
        """Return columns by name, as `pandas.DataFrame` takes them: epoch, step, loss and so on, and each metric."""
        columns: dict[str, list[Any]] = {name: [] for name in Epoch._fields if name != "metrics"}
        for epoch in self.epochs:
            for name, value in (epoch._asdict() | epoch.metrics).items():
                if name != "metrics":
                    columns.setdefault(name, []).append(value)
        return columns

    def plot(self, path: str | os.PathLike[str] | None = None) -> Figure:
        """Draw the losses by epoch; return the figure, and with a path write it there as a PNG file, atomically.

        Raises
        ------
        ModuleNotFoundError
            If matplotlib is missing.
        OSError
            If the file cannot be written.
        """
        from fastrnn.training.plots import BLUE, ORANGE, new_figure, save_figure

        figure, ((axes,),) = new_figure()
        epochs = [epoch.epoch for epoch in self.epochs]
        axes.plot(epochs, [epoch.loss for epoch in self.epochs], ".-", color=BLUE, label="training")
        if self.epochs and self.epochs[0].validation_loss is not None:
            axes.plot(epochs, [e.validation_loss for e in self.epochs], ".-", color=ORANGE, label="validation")
        axes.set(xlabel="epoch", ylabel="loss")
        axes.grid(alpha=0.3)
        if self.epochs:
            axes.legend()
        if path is not None:
            save_figure(path, figure)
        return figure

    def __repr__(self) -> str:
        best = self.best
        if best is None:
            return f"History(no epoch, stopped={self.stopped!r})"
        shown = [f"loss {best.loss:.4g}"]
        if best.validation_loss is not None:
            shown.append(f"validation loss {best.validation_loss:.4g}")
        shown += [f"{name} {value:.4g}" for name, value in best.metrics.items()]
        return f"History({len(self.epochs)} epochs, best {best.epoch}: {', '.join(shown)}, stopped={self.stopped!r})"
