"""Training steps of torch models, accelerated and not, in turns: `python -m fastrnn.bench.torch_models`.

A model is an Embedding, a layer, a Linear and cross-entropy, trained by Adam. Each pair of models first has to come to
the same losses; the table has the rows that gain least first.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from fastrnn.bench import machine
from fastrnn.bench.cases import GRID
from fastrnn.bench.measure import settle, without_collection

__all__ = ["main"]

KINDS = ("LSTM", "GRU", "RNN")
VOCABULARY = 96
TURN = 0.01  # seconds
LEAST = 5  # turns of a model, however long they take
LONG = 0.2  # seconds of a step that needs none before it


class Steps(NamedTuple):
    """The seconds of a step of both models, by turn."""

    row: str
    theirs: list[float]
    ours: list[float]

    @property
    def ratio(self) -> float:
        """How many times as fast as torch's own: of the medians."""
        return float(np.median(self.theirs) / np.median(self.ours))


def main() -> None:
    """Print a table, the worst row first."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", default=KINDS, choices=KINDS, help="layers (default: all)")
    parser.add_argument("--threads", type=int, default=1, help="threads of each model (default: 1)")
    parser.add_argument("--seconds", type=float, default=2.0, help="for each row (default: 2)")
    parser.add_argument("--cpu-time", action="store_true", help="time of the CPU, not of the clock: on a busy machine")
    options = parser.parse_args()
    machine.pin(options.threads)

    import torch

    torch.set_num_threads(options.threads)
    clock = time.process_time if options.cpu_time else time.perf_counter
    rows = [_measure(torch, kind, shape, options.seconds, clock) for kind in options.kinds for shape in GRID]
    print(f"torch {torch.__version__}, {options.threads} threads, steps of both models in turns, medians\n")
    print("| layer, T, N, I, H | torch, ms | accelerated, ms | ratio |\n| --- | --- | --- | --- |")
    for row in sorted(rows, key=lambda row: row.ratio):
        print(f"| {row.row} | {np.median(row.theirs) * 1e3:.3f} | {np.median(row.ours) * 1e3:.3f} | {row.ratio:.2f} |")


def _measure(
    torch: Any, kind: str, shape: tuple[int, int, int, int], seconds: float, clock: Callable[[], float]
) -> Steps:
    """The steps of a model and of its accelerated copy."""
    import fastrnn.torch

    T, N, I, H = shape
    tokens = torch.randint(VOCABULARY, (2, T, N), generator=torch.Generator().manual_seed(0))
    steps = []
    for accelerated in (False, True):
        torch.manual_seed(0)
        parts = {"in": torch.nn.Embedding(VOCABULARY, I), "rnn": getattr(torch.nn, kind)(I, H)}
        model = torch.nn.ModuleDict(parts | {"out": torch.nn.Linear(H, VOCABULARY)})
        if accelerated:
            fastrnn.torch.accelerate(model)
        steps.append(_step(torch, model, torch.optim.Adam(model.parameters()), *tokens))
    theirs, ours = ([step() for _ in range(3)] for step in steps)
    np.testing.assert_allclose(ours, theirs, rtol=1e-4)
    times: tuple[list[float], list[float]] = ([], [])
    end = time.perf_counter() + seconds
    with without_collection():
        while time.perf_counter() < end or len(times[0]) < LEAST:
            for step, its in zip(steps, times, strict=True):
                settle()
                its.append(_turn(step, clock, warm=not its or its[-1] < LONG))
    return Steps(f"{kind}, {', '.join(map(str, shape))}", *times)


def _turn(step: Callable[[], float], clock: Callable[[], float], *, warm: bool) -> float:
    """The mean of steps one after the other; `warm` puts one before them that does not count."""
    if warm:
        step()
    start, count, passed = clock(), 0, 0.0
    while not count or passed < TURN:
        step()
        count, passed = count + 1, clock() - start
    return passed / count


def _step(torch: Any, model: Any, optimizer: Any, tokens: Any, targets: Any) -> Callable[[], float]:
    """A training step, which returns the loss."""

    def step() -> float:
        optimizer.zero_grad()
        y, _ = model["rnn"](model["in"](tokens))
        loss = torch.nn.functional.cross_entropy(model["out"](y).flatten(0, 1), targets.flatten())
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return step


if __name__ == "__main__":
    main()
