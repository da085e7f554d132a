"""Pictures of a training run; they need matplotlib."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from fastrnn.training.files import write_atomically

if TYPE_CHECKING:
    from fastrnn.training.loop import Evaluation

__all__ = ["plot_losses"]

BLUE, ORANGE = "#0072b2", "#d55e00"  # told apart with every kind of colour vision (Okabe and Ito, 2008)


def plot_losses(path: str | os.PathLike[str], losses: Sequence[float], evaluations: Sequence[Evaluation]) -> None:
    """Draw the loss against the step as a PNG file, written atomically.

    Parameters
    ----------
    path
        Of the picture.
    losses
        One per training step, in nats per character.
    evaluations
        On the held-out text.

    Raises
    ------
    ModuleNotFoundError
        If matplotlib is missing.
    OSError
        If the file cannot be written.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("pictures need matplotlib: pip install fastrnn[plot]", name=error.name) from None

    bits = np.asarray(losses) / math.log(2)
    steps = np.arange(1, len(bits) + 1)
    span = max(1, len(bits) // 50)
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(steps, bits, color=BLUE, alpha=0.25, linewidth=0.8)
    middles = steps[span - 1 :] - (span - 1) / 2
    axes.plot(middles, _running_mean(bits, span), color=BLUE, label=f"training, mean of {span} steps")
    if evaluations:
        best = min(evaluations, key=lambda evaluation: evaluation.loss)
        x, y = [e.step for e in evaluations], [e.bits for e in evaluations]
        axes.plot(x, y, "o-", color=ORANGE, markersize=4, label=f"held out, best {best.bits:.2f} at step {best.step}")
    axes.set(xlabel="training steps", ylabel="loss (bits per character)", ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend()
    png = io.BytesIO()
    figure.savefig(png, format="png")
    write_atomically(path, png.getvalue())


def _running_mean(values: np.ndarray, span: int) -> np.ndarray:
    """Return the means of all runs of `span` consecutive values."""
    sums = np.concatenate(([0.0], np.cumsum(values)))
    return (sums[span:] - sums[:-span]) / span
