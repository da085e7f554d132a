"""What a call will do and why it takes the time it takes: `module.explain(shape)`, FASTRNN_EXPLAIN=1."""

from __future__ import annotations

import os
import sys
from types import ModuleType

import numpy as np

from fastrnn import ops
from fastrnn.cells import Cell, Weights
from fastrnn.fits import check_weights

__all__ = ["WANTED", "explain_layer", "say_once"]

WANTED = os.environ.get("FASTRNN_EXPLAIN", "") not in ("", "0")  # explain every new kind of call on stderr

FEW_ROWS = 8  # batch rows below which a step reads weights for longer than it multiplies
FEW_UNITS = 64  # hidden units below which activations take longer than products
SHORT_CALL = 1e6  # flops of a call that lasts no longer than its own checks and allocations

_said: set[str] = set()


def explain_layer(
    backend: ModuleType,
    cell: Cell,
    weights: Weights,
    steps: int,
    batch: int,
    *,
    tokens: bool,
    training: bool,
    packed: bool,
    num_threads: int,
) -> str:
    """Say how one layer runs: what the backend chooses, how much work it is, and what bounds its time.

    Work counts the matrix products alone, a multiply-add as two flops; bytes are those of the arrays that go in and
    out, and of what a training step keeps.
    """
    weight_ih, size = weights.ih, weights.ih.dtype.itemsize
    columns, hidden, outputs = check_weights(cell, weights)
    rows = hidden * len(cell.gates)
    of_h = [weight for weight in (weights.hh, weights.hr) if weight is not None]
    recurrent, of_weights = sum(weight.size for weight in of_h), sum(weight.nbytes for weight in of_h)
    flops = 2 * steps * batch * (recurrent + (0 if tokens else weight_ih.size))
    of_x = np.intp().itemsize if tokens else size * columns
    lines = {"products": f"{_count(flops)}flop forward"}
    if training:
        lines["products"] += f", {_count(2 * flops)}flop backward"
    in_and_out = steps * batch * (of_x + size * outputs)
    lines["memory"] = f"x and y {_count(in_and_out)}B, weights {_count(weight_ih.nbytes + of_weights)}B"
    if training:
        lines["memory"] += f", tape {_count(size * steps * batch * (rows + hidden))}B"
    if flops < SHORT_CALL:
        bound = "the call itself: checks and allocation"
    elif batch < FEW_ROWS:
        bound = "the scan" if not recurrent else f"reading the recurrent weights, {_count(of_weights)}B at every step"
    elif hidden < FEW_UNITS:
        bound = "the activations"
    else:
        bound = "the multiply-adds"
    chosen = {}
    if hasattr(backend, "explain"):
        chosen = backend.explain(
            cell,
            ops.prepared(backend, cell, weights),
            steps,
            batch,
            tokens=tokens,
            tape=training,
            packed=packed,
            num_threads=num_threads,
        )
    lines |= chosen | {"bound by": bound}
    return "\n".join(f"  {name:<18}{text}" for name, text in lines.items())


def say_once(text: str) -> None:
    """Print an explanation on stderr, unless it has been before."""
    if text not in _said:
        _said.add(text)
        print(text, file=sys.stderr)


def _count(number: float) -> str:
    """A number of something with the prefix that keeps it short: 1.5 M."""
    for prefix in ("", "k", "M", "G"):
        if number < 999.5 or prefix == "G":
            break
        number /= 1000
    return f"{number:.3g} {prefix}"
