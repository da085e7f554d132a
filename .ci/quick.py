"""The tests of an installed fastrnn that need no more than NumPy, pytest and hypothesis, and take some minutes.

`python .ci/quick.py [arguments of pytest]`. They run wherever the whole suite cannot: in the test of a wheel, on
another processor or another Python, from an unpacked sdist. The C kernels must run; what else is not there is skipped.
Where they take hours, SHARD=I/N in the environment is the I-th of N parts: every N-th test, so each test of many cases
has some in it.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

os.environ.setdefault("FASTRNN_OVERSUBSCRIBE", "1")  # before the import, as tests/conftest.py does

import fastrnn

TESTS = Path(__file__).resolve().parents[1] / "tests"
NAMES = ["activations", "cells", "dropout", "ensembles", "explain", "extra", "heads", "kernels", "many_threads"]
NAMES += ["masks", "memory", "modules", "multiply", "narrow", "normalized", "precision", "prepared", "recurrent"]
NAMES += [
    "reference",
    "safety",
    "same_bits",
    "saturated",
    "softmax",
    "stream",
    "switches",
    "tangent",
    "threads",
    "trace",
]


class Shard:
    """A part of the tests, as a plugin of pytest."""

    def __init__(self, text: str) -> None:
        self.part, self.parts = map(int, text.split("/"))
        if not 1 <= self.part <= self.parts:
            raise ValueError(f"SHARD is {text!r}; expected I/N, with I from 1 to N")

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        """Leave out what other parts have."""
        others = [item for at, item in enumerate(items) if at % self.parts != self.part - 1]
        items[:] = items[self.part - 1 :: self.parts]
        config.hook.pytest_deselected(items=others)


if __name__ == "__main__":
    fastrnn.use_backend("cython")  # raises, and says why, where the kernels are missing
    fastrnn.use_backend(None)
    print(fastrnn.info())
    for name in ("CI", "FASTRNN_REQUIRE_ALL"):  # either would make failures of the skips
        os.environ.pop(name, None)
    files = [str(TESTS / f"test_{name}.py") for name in NAMES]
    options = ["-q", "-p", "no:cacheprovider", "-k", "not again_on and not again_with"]  # which start most of it anew
    sys.exit(pytest.main([*options, *sys.argv[1:], *files], [Shard(os.environ.get("SHARD", "1/1"))]))
