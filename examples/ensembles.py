"""How much faster an ensemble is than a loop over its members' modules: the table of docs/ensembles.md.

Run it as ``python examples/ensembles.py``, with LSTM, GRU or RNN and a number of threads behind.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import fastrnn
from fastrnn.training import Adam

ROUNDS = 12
UNITS = (8, 16, 25, 32)


def take_turns(calls: Sequence[Callable[[], Any]], repeats: int, clock: Callable[[], float]) -> list[float]:
    """The least microseconds of each call, which come in turns."""
    least = [float("inf")] * len(calls)
    for call in calls:
        call()
    for _ in range(ROUNDS):
        for i, call in enumerate(calls):
            start = clock()
            for _ in range(repeats):
                call()
            least[i] = min(least[i], (clock() - start) / repeats)
    return [1e6 * seconds for seconds in least]


def measure(kind: str, threads: int, members: int, steps: int, batch: int, hidden: int) -> tuple[float, ...]:
    """Microseconds of the loop and of the ensemble, in inference and in training."""
    cls = getattr(fastrnn, kind)
    modules = [cls(hidden, hidden, seed=seed, num_threads=threads) for seed in range(members)]
    ensemble = fastrnn.stack_modules(modules)
    ensemble.num_threads = threads
    x = np.random.default_rng(0).standard_normal((steps, batch, hidden)).astype("float32")
    dy = np.ones((members, steps, batch, hidden), np.float32)
    repeats = max(1, 2000 // (members * steps * batch))
    clock = time.process_time if threads == 1 else time.perf_counter
    inference = take_turns([lambda: [module(x) for module in modules], lambda: ensemble(x)], repeats, clock)
    optimizers, together = [Adam(module) for module in modules], Adam(ensemble)

    def train_each() -> None:
        for module, optimizer, its_dy in zip(modules, optimizers, dy, strict=True):
            _, _, tape = module.forward(x)
            optimizer.step(module.backward(tape, its_dy)[2])

    def train_together() -> None:
        _, _, tape = ensemble.forward(x)
        together.step(ensemble.backward(tape, dy)[2])

    return (*inference, *take_turns([train_each, train_together], repeats, clock))


def main() -> None:
    """Print the time of the loop over that of the ensemble, a line for each number of members, steps and sequences."""
    kind, threads = (sys.argv[1] if len(sys.argv) > 1 else "LSTM"), int(sys.argv[2]) if len(sys.argv) > 2 else 1
    print("| members | T | N | inference | | | | training | | | |")
    print("| --- | --- | --- " + "| --- " * 8 + "|")
    print("| | | | " + " | ".join([f"H = {hidden}" for hidden in UNITS] * 2) + " |")
    for members in (8, 32):
        for steps, batch in ((10, 1), (10, 8), (10, 32), (100, 1), (100, 8), (100, 32)):
            found = [measure(kind, threads, members, steps, batch, hidden) for hidden in UNITS]
            ratios = [a / b for a, b, _, _ in found] + [c / d for _, _, c, d in found]
            print(
                f"| {members} | {steps} | {batch} | " + " | ".join(f"{ratio:.2f}" for ratio in ratios) + " |",
                flush=True,
            )


if __name__ == "__main__":
    main()
