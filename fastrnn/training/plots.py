"""Pictures of training runs and of what a network does inside; they need matplotlib.

The functions named `draw_...` draw into axes, those named `plot_...` make a whole picture, a PNG file that is written
atomically. Colours are told apart with every kind of colour vision: Okabe and Ito's (2008) for lines, cividis for what
lies between 0 and 1, and red to blue around a white zero for what has a sign.
"""

from __future__ import annotations

import io
import math
import os
import warnings
from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import TYPE_CHECKING, Any

import numpy as np

from fastrnn.checks import Array, check_path, check_sequence, check_text, shown, take_reals
from fastrnn.training.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from fastrnn.training.running import Evaluation

__all__ = [
    "COLOURS",
    "draw_heat_map",
    "draw_steps",
    "draw_units",
    "legend_beside",
    "new_figure",
    "plot_gates",
    "plot_hidden",
    "plot_losses",
    "save_figure",
]

BLUE, ORANGE = "#0072b2", "#d55e00"
COLOURS = (BLUE, ORANGE, "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")
NAMES = {
    "i": "input gate i",
    "f": "forget gate f",
    "g": "cell candidate g",
    "o": "output gate o",
    "r": "reset gate r",
    "z": "update gate z",
    "n": "candidate n",
    "c": "cell state c",
    "h": "hidden state h",
}
BETWEEN_0_AND_1 = frozenset("iforz")
STATES = ("h", "c")
LINES = 10  # units that `draw_units` tells apart
LABEL = 0.1  # inches of an input's label along the axis of time


def new_figure(rows: int = 1, columns: int = 1, *, size: tuple[float, float] = (8, 4.5)) -> tuple[Figure, Array]:
    """Return a figure of `size` inches and its axes (rows, columns).

    Raises
    ------
    ModuleNotFoundError
        If matplotlib is missing.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("pictures need matplotlib: pip install matplotlib", name=error.name) from None
    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def save_figure(path: str | os.PathLike[str], figure: Figure) -> None:
    """Write the figure as a PNG file, atomically; OSError if that cannot be done."""
    png = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from ")  # the text's script is not ours to choose
        figure.savefig(png, format="png", dpi=120)
    write_atomically(path, png.getvalue())


def plot_losses(
    path: str | os.PathLike[str],
    losses: Sequence[float],
    evaluations: Sequence[Evaluation],
    *,
    token: str = "character",
) -> None:
    """Draw the loss of a training run against the step.

    Parameters
    ----------
    path
        Of the picture.
    losses
        One per training step, in nats per token.
    evaluations
        On the held-out text.
    token
        What a token is, for the axis.

    Raises
    ------
    ModuleNotFoundError
        If matplotlib is missing.
    OSError
        If the file cannot be written.
    """
    check_path("path", path)
    if not check_text("token", token).isprintable() or len(token) > 100:
        raise ValueError(f"token is {shown(token)}; expected a word for the axis")
    check_sequence("evaluations", evaluations, "Evaluations")
    for k, evaluation in enumerate(evaluations):
        if not (hasattr(evaluation, "step") and hasattr(evaluation, "bits")):
            raise TypeError(f"evaluations[{k}] is {shown(evaluation)}; expected an Evaluation")
    bits = take_reals("losses", check_sequence("losses", losses, "numbers")) / math.log(2)
    if bits.ndim != 1:
        raise ValueError(f"losses has shape {bits.shape}; expected (steps,)")
    figure, ((axes,),) = new_figure()
    steps = np.arange(1, len(bits) + 1)
    span = max(1, len(bits) // 50)
    axes.plot(steps, bits, "." if len(bits) == 1 else "-", color=BLUE, alpha=0.25, linewidth=0.8)
    middles = steps[span - 1 :] - (span - 1) / 2
    label = "training" if span == 1 else f"training, mean of {span} steps"
    axes.plot(middles, _running_mean(bits, span), color=BLUE, label=label)
    if len(evaluations):
        best = min(evaluations, key=lambda evaluation: evaluation.loss)
        x, y = [e.step for e in evaluations], [e.bits for e in evaluations]
        axes.plot(x, y, "o-", color=ORANGE, markersize=4, label=f"held out, best {best.bits:.2f} at step {best.step}")
    axes.set(xlabel="training steps", ylabel=f"loss (bits per {token})", ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend()
    save_figure(path, figure)


def plot_gates(
    path: str | os.PathLike[str],
    inside: Mapping[str, Array],
    labels: Sequence[str],
    *,
    states: Sequence[str] = STATES,
    title: str = "",
) -> None:
    """Draw the gates of one layer as heat maps, time step by unit.

    Parameters
    ----------
    path
        Of the picture.
    inside
        Gates by their names, i, f, g, o or r, z, n, as `trace` gives them for one layer and row: (T, H) each. States
        are left out.
    labels
        The T inputs, for the axis of time.
    states
        The names of what is a state.
    title
        Of the whole picture.

    Raises
    ------
    ValueError
        If there is no gate, as in a plain RNN, or not a label of each step.
    ModuleNotFoundError, OSError
        As for `plot_losses`.
    """
    gates = {name: values for name, values in inside.items() if name not in states}
    if not gates:
        raise ValueError(f"inside has {sorted(inside)}; expected at least one gate, and a plain RNN has none")
    _plot_heat_maps(path, gates, labels, title)


def plot_hidden(
    path: str | os.PathLike[str],
    inside: Mapping[str, Array],
    labels: Sequence[str],
    *,
    states: Sequence[str] = STATES,
    title: str = "",
) -> None:
    """Draw the states of one layer: heat maps of h and, where there is one, c, and h as one line per unit.

    The parameters and errors are those of `plot_gates`; of `inside` the states are drawn, the first of them as lines.
    """
    found = {name: inside[name] for name in states if name in inside}
    _plot_heat_maps(path, found, labels, title, lines=states[0])


def _plot_heat_maps(
    path: str | os.PathLike[str], maps: Mapping[str, Array], labels: Sequence[str], title: str, lines: str = ""
) -> None:
    panels = len(maps) + bool(lines)
    columns = 2 if panels == 4 and len(labels) <= 60 else 1
    width = min(max(6.0, 2.0 + 0.16 * len(labels)), max(14.0, 2.0 + 0.12 * len(labels)), 24.0) * columns
    figure, axes = new_figure(math.ceil(panels / columns), columns, size=(width, 3.0 * math.ceil(panels / columns)))
    for (name, values), target in zip(maps.items(), axes.flat, strict=False):
        draw_heat_map(target, values, labels, name)
    if lines:
        draw_units(axes.flat[-1], maps[lines], labels, name=lines)
    if title:
        figure.suptitle(title, parse_math=False)
    save_figure(path, figure)


def draw_heat_map(axes: Axes, values: Any, labels: Sequence[str], name: str) -> None:
    """Draw the `values` (T, H) of a gate or state in the range it can have, with a colour bar.

    `name` is its letter: i, f, o, r, z lie within [0, 1], unless a cell has others under these; g, n, h and c have a
    range symmetric around 0 that is [-1, 1] or as wide as they need. A few units far beyond the others do not widen it:
    the bar then ends in tips.
    """
    values = np.asarray(values)
    if name in BETWEEN_0_AND_1 and not ((values < 0) | (values > 1)).any():
        low, high, colours = 0.0, 1.0, "cividis"
    else:
        high = max(1.0, _usual_limit(values))
        low, colours = -high, "RdBu_r"
    image = axes.imshow(
        values.T,
        cmap=colours,
        vmin=low,
        vmax=high,
        aspect="auto",
        origin="lower",
        interpolation="nearest",
    )
    axes.set(title=NAMES.get(name, name), ylabel="unit")
    axes.locator_params(axis="y", integer=True, min_n_ticks=1)
    _label_steps(axes, labels, len(values))
    extend = "both" if np.abs(values).max(initial=0.0) > high else "neither"
    axes.figure.colorbar(image, ax=axes, label=f"value of {name}", pad=0.01, extend=extend)


def _usual_limit(values: Array) -> float:
    """Return the largest magnitude of `values` (T, H), but at most thrice what three quarters of the units keep to."""
    limits = np.abs(values).max(axis=0, initial=0.0)
    return float(min(limits.max(initial=0.0), 3 * np.quantile(limits, 0.75, method="lower"))) if limits.size else 0.0


def draw_units(axes: Axes, values: Any, labels: Sequence[str], *, name: str = "h") -> None:
    """Draw `values` (T, H) as a line per unit; of more than ten units, those that vary most are told apart."""
    values = np.asarray(values)
    told = np.argsort(-values.std(axis=0), kind="stable")[:LINES] if values.shape[1] > LINES else range(values.shape[1])
    axes.plot(values, color="#999999", linewidth=0.5)
    for k, unit in enumerate(sorted(told)):
        style = "-" if k < len(COLOURS) else "--"
        axes.plot(
            values[:, unit],
            style,
            color=COLOURS[k % len(COLOURS)],
            linewidth=1.2,
            label=f"{unit}",
        )
    axes.axhline(0, color="black", linewidth=0.5)
    axes.set(
        title=f"{NAMES.get(name, name)}, a line per unit", ylabel=f"value of {name}", xlim=(-0.5, len(values) - 0.5)
    )
    axes.grid(alpha=0.3)
    legend_beside(axes, title="unit", fontsize="x-small")
    _label_steps(axes, labels, len(values))


def legend_beside(axes: Axes, **options: Any) -> None:
    """Put a legend to the right of the axes, where it covers nothing."""
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), **options)


def draw_steps(axes: Axes, series: Mapping[str, Any], labels: Sequence[str]) -> None:
    """Draw values (T,) by name, such as input, target and output, against the time step; no legend is made."""
    for (name, values), colour, marker in zip(series.items(), cycle(COLOURS), cycle("os^Dv"), strict=False):
        axes.plot(np.asarray(values), marker=marker, markersize=3, linewidth=1.2, color=colour, label=name)
        _label_steps(axes, labels, len(values))
    axes.set_xlim(-0.5, len(labels) - 0.5)
    axes.grid(alpha=0.3)


def _label_steps(axes: Axes, labels: Sequence[str], steps: int) -> None:
    """Write all inputs along the axis of time, or numbers if there is no room; ValueError unless each step has one."""
    if not 0 < len(labels) == steps:
        raise ValueError(f"labels has {len(labels)} inputs; expected one of each step, T = {steps}, and at least one")
    figure: Any = axes.figure
    if len(labels) * LABEL > figure.get_figwidth() * axes.get_position().width:
        axes.locator_params(axis="x", integer=True)
        axes.set_xlabel("time step")
        return
    shown = [label.translate({ord(" "): "\u2423", ord("\n"): "\u21b5", ord("\t"): "\u21e5"}) for label in labels]
    rotation = 90 if any(len(label) > 1 for label in shown) else 0
    axes.set_xticks(range(len(labels)), shown, fontsize="x-small", rotation=rotation, parse_math=False)
    axes.set_xlabel("time step, by its input")


def _running_mean(values: Array, span: int) -> Array:
    """Return the means of all runs of `span` consecutive values."""
    sums = np.concatenate(([0.0], np.cumsum(values)))
    means: Array = (sums[span:] - sums[:-span]) / span
    return means
