"""Whether a cell's derivative is that of its function."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from fastrnn.cells.language import WrittenCell
from fastrnn.cells.table import Weights
from fastrnn.checks import check_positive, check_positive_number, make_generator, shown
from fastrnn.parameters import Array

__all__ = ["CellCheck", "check_cell"]

_STEP = float(np.finfo(np.float64).eps ** (1 / 3))  # of a central difference


@dataclass(frozen=True)
class CellCheck:
    """What `check_cell` has found; printed, a table."""

    cell: str
    errors: dict[str, float]  # by what the gradient is of: the largest difference over the largest gradient, or over 1
    limit: float

    @property
    def passed(self) -> bool:
        """Whether every gradient is right within the limit."""
        return all(error <= self.limit for error in self.errors.values())  # not of NaN

    def __str__(self) -> str:
        width = max(map(len, self.errors))
        lines = [f"cell {self.cell}: derivatives against central differences in float64, limit {self.limit:.0e}"]
        for name, error in self.errors.items():
            lines.append(f"  {name:<{width}}  {error:8.1e}  {'right' if error <= self.limit else 'WRONG'}")
        return "\n".join(lines)


def check_cell(cell: WrittenCell, *, hidden_size: int = 5, seed: Any = 0, limit: float = 1e-6) -> CellCheck:
    """Compare a cell's derivative with central differences of its function, over three steps in float64.

    At a kink the two differ, and where the function jumps; with another seed the numbers lie elsewhere. What
    the cell is given beside x is drawn too, and its noise is as in training: half of it strikes.

    Parameters
    ----------
    cell
        From `fastrnn.cell`.
    hidden_size
        H.
    seed
        Of the numbers, anything `numpy.random.default_rng` takes: all of them are drawn from N(0, 1).
    limit
        On the largest error of a gradient, as a share of its largest element, or of 1 if that is more.

    Returns
    -------
    CellCheck
        Its `errors` by name, whether it has `passed`; ``print`` shows a table.

    Raises
    ------
    TypeError
        If `cell` is none.

    Examples
    --------
    >>> import fastrnn
    >>> from fastrnn.cells import min_gru
    >>> fastrnn.check_cell(min_gru).passed
    True
    """
    from fastrnn import reference
    from fastrnn.extra import into_width

    if not isinstance(cell, WrittenCell) or cell.program is None:
        raise TypeError(f"cell is {shown(cell)}; expected one that fastrnn.cell has made")
    cell = cell.into_extra if cell.extra else cell
    H, limit = check_positive("hidden_size", hidden_size), check_positive_number("limit", limit)
    T, N, I = 3, 2, 3
    rng = make_generator(seed)
    X, Y, M = len(cell.gates_ih) * H, len(cell.gates_hh) * H, cell.program.units

    def draw(*shape: int) -> Array:
        drawn: Array = rng.standard_normal(shape)
        return drawn

    given: dict[str, Array] = {"x": draw(T, N, I)}
    given |= {name: draw(N, H) for name in cell.states_0}
    given |= {"weight_ih": draw(X, I), "bias_ih": draw(X)}
    if Y:
        given |= {"weight_hh": draw(Y, H) / np.sqrt(H), "bias_hh": draw(Y)}
    if M:
        given["unit"] = draw(M, H)
    drawn = []
    for k, of_sequence in enumerate(cell.program.extras):
        values = draw(N if of_sequence else T * N, 1 if k == 0 and cell.extra else H)
        drawn.append(values if k < len(cell.extra) else (values > 0) * 1.0)
    extra, draws = dict(zip(cell.extra, drawn, strict=False)), drawn[len(cell.extra) :]
    dy, dstate = draw(T, N, H), tuple([draw(N, H) for _ in cell.states])

    given |= {f"e.{name}": values for name, values in extra.items()}

    def run(arrays: dict[str, Array], *, tape: bool) -> tuple[float, Any]:
        weights = Weights(
            arrays["weight_ih"],
            arrays.get("weight_hh"),
            arrays["bias_ih"],
            arrays.get("bias_hh"),
            None,
            arrays.get("unit"),
        )
        state = tuple([arrays[name] for name in cell.states_0])
        beside = (*[arrays[f"e.{name}"] for name in extra], *draws)
        y, state_n, kept = reference.forward(cell, arrays["x"], state, weights, tape=tape, extra=beside)
        return float((y * dy).sum() + sum((s * d).sum() for s, d in zip(state_n, dstate, strict=True))), kept

    _, kept = run(given, tape=True)
    dextra = tuple([np.zeros((T * N, H)) for _ in extra])
    dx, dstate_0, dweights = reference.backward(cell, kept, dy, dstate, dextra=dextra)
    gradients: dict[str, Any] = {"x": dx} | dict(zip(cell.states_0, dstate_0, strict=True))
    gradients |= {
        "weight_ih": dweights.ih,
        "weight_hh": dweights.hh,
        "bias_ih": dweights.bias_ih,
        "bias_hh": dweights.bias_hh,
        "unit": dweights.unit,
    }
    by_unit = zip(extra.items(), dextra, strict=True)
    gradients |= {f"e.{name}": into_width(d, values.shape[1]) for (name, values), d in by_unit}
    errors: dict[str, float] = {}
    for name, value in given.items():
        difference = np.empty_like(value)
        for at in np.ndindex(value.shape):
            losses = []
            for step in (_STEP, -_STEP):
                moved = value.copy()
                moved[at] += step
                losses.append(run(given | {name: moved}, tape=False)[0])
            difference[at] = (losses[0] - losses[1]) / (2 * _STEP)
        scale = max(1.0, float(np.abs(difference).max()))
        if name == "unit":
            for parameter, mine, other in zip(cell.parameters, gradients[name], difference, strict=True):
                errors[parameter] = float(np.abs(mine - other).max()) / scale
        else:
            errors[name] = float(np.abs(gradients[name] - difference).max()) / scale
    return CellCheck(cell.name, errors, limit)
