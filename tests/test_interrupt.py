"""Ctrl-C during a call: KeyboardInterrupt soon, and everything goes on to work."""

from __future__ import annotations

import itertools
import sys

import pytest
from watched import run_watched

# The signal comes in the middle of a call; then the module is as it was. Inference would take 5 s or more, and must
# end long before; of the others, which take memory for their tapes, several calls fill the time.
INTERRUPTED = """
import contextlib, os, signal, sys, threading, time
import numpy as np
import fastrnn

backend, num_threads, kind, N = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
rows, H, limit = (60_000, 1024, 2) if kind == "inference" else (20_000, 256, 10)
module = fastrnn.LSTM(64, H, seed=0, backend=backend, num_threads=num_threads)
x = np.random.default_rng(0).standard_normal((rows // N, N, 64), dtype=np.float32)
few = x[:20]
y, _, tape = module.forward(few)
right = module.backward(tape, y)
if kind != "inference":
    y, _, tape = module.forward(x)
threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
begun, interrupted = time.monotonic(), True
with contextlib.suppress(KeyboardInterrupt):
    while time.monotonic() - begun < 60:
        if kind == "inference":
            module(x)
        elif kind == "forward":
            module.forward(x)
        else:
            if tape._kept is None:
                y, _, tape = module.forward(x)
            module.backward(tape, y)
    interrupted = False
print("never interrupted" if not interrupted else "interrupted" if time.monotonic() - begun < limit else "late")
again, _, tape = module.forward(few)
for name, gradient in module.backward(tape, again)[2].items():
    assert (gradient == right[2][name]).all(), name
print("goes on")
"""


CASES = [
    *itertools.product(["cython", "numba"], [1, 2], ["forward", "backward"], [1, 32]),  # by units, and by the batch
    *itertools.product(["cython", "numba"], [2], ["inference"], [1]),
    ("numpy", 1, "backward", 32),
]


@pytest.mark.parametrize(("backend", "num_threads", "kind", "N"), CASES, indirect=["backend"])
def test_a_signal_stops_a_call(backend: str, num_threads: int, kind: str, N: int) -> None:
    command = [sys.executable, "-c", INTERRUPTED, backend, str(num_threads), kind, str(N)]
    done = run_watched(command, 120)
    assert done.stdout.split("\n")[:2] == ["interrupted", "goes on"], done.stderr
