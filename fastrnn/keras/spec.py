"""What the kernels are to run for a layer of Keras, in words that are the same for each of Keras' backends."""

from __future__ import annotations

from typing import NamedTuple

from fastrnn.cells import Cell

__all__ = ["FIELDS", "Spec"]


class Spec(NamedTuple):
    """All of a call that is not an array; hashable, so that traced functions can be kept by it."""

    cell: Cell  # which may take dropout of h, as `layers.dropped_rnn` does: then a call has its mask
    go_backwards: bool  # the steps are taken from the last to the first, and y has them in the order they are taken
    sequences: bool  # whether y is wanted, and not the final states alone
    keep: bool  # whether a backward is to be expected
    hold: bool  # at masked steps y has the output of the step taken before (zero before all), else zero


FIELDS = ("ih", "hh", "bias_ih", "bias_hh")  # of fastrnn.cells.Weights, which a layer of Keras has
