"""The float32 kernels are about as accurate as PyTorch's, over the grid of the benchmarks."""

from __future__ import annotations

from types import ModuleType

import pytest
from accuracy import CELLS, geometric_mean, largest_errors, ratios

from fastrnn.bench.cases import GRID

SHAPES = [shape for shape in GRID if shape[3] <= 256 and shape[:2] != (100, 64)]  # the others take a minute

# Both sides round at every step and add in another order. The largest of some hundred to some ten thousand errors is a
# matter of luck, worth a factor of 2 or 3 for one output of one shape; over all of them the luck evens out, and what is
# left is that PyTorch adds up blocks. Measured: in these shapes 3.6 at the most, means of 0.93 to 1.35.
FACTOR, MEAN_FACTOR = 5.0, 1.5


@pytest.mark.parametrize("backend", ["cython"], indirect=True)
@pytest.mark.parametrize("cell", list(CELLS))
def test_errors_are_about_those_of_torch(backend: str, cell: str, torch: ModuleType) -> None:
    found = {shape: largest_errors(backend, cell, shape) for shape in SHAPES}
    for shape, errors in found.items():
        for name, (ours, its) in errors.items():
            assert ours <= FACTOR * its, f"{name} of {shape} is off by {ours:.2g}, PyTorch's by {its:.2g}"
    assert geometric_mean([ratio for errors in found.values() for ratio in ratios(errors)]) < MEAN_FACTOR
