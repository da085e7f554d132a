"""Training steps of Keras models on fastrnn.keras beside Keras' own layers: `python -m fastrnn.bench.keras_layers`.

A process has one backend of Keras, that of KERAS_BACKEND: torch, jax or tensorflow. Each pair of models first has to
come to the same loss; then their steps are timed in turns, on one thread.
"""

from __future__ import annotations

import argparse
import os
import time
from typing import Any

import numpy as np

__all__ = ["main"]

SHAPES = ((100, 32, 128, 128), (50, 64, 32, 32))  # T, N, I, H
KINDS = ("LSTM", "GRU", "SimpleRNN")
ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "TF_NUM_INTRAOP_THREADS": "1",
    "TF_NUM_INTEROP_THREADS": "1",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
}


def main() -> None:
    """Print a table: the shortest step of each, their ratio, and that of the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30, help="steps of each model (default: 30)")
    parser.add_argument("--cpu-time", action="store_true", help="time of the CPU, not of the clock: on a busy machine")
    options = parser.parse_args()
    os.environ.update(ONE_THREAD)
    os.environ.setdefault("KERAS_BACKEND", "torch")

    import keras

    import fastrnn
    import fastrnn.keras

    fastrnn.set_num_threads(1)
    if keras.config.backend() == "torch":
        import torch

        torch.set_num_threads(1)
    clock = time.process_time if options.cpu_time else time.perf_counter
    print(
        f"Keras {keras.__version__} on {keras.config.backend()}, one thread, {options.rounds} steps of each in turns\n"
    )
    print(
        "| T, N, I, H | layer | Keras, ms | fastrnn, ms | ratio | of medians |\n| --- | --- | --- | --- | --- | --- |"
    )
    for shape in SHAPES:
        for kind in KINDS:
            models = [_model(keras, module, kind, shape) for module in (keras.layers, fastrnn.keras)]
            theirs, ours = _times(models, shape, options.rounds, clock)
            fastest, middle = min(theirs) / min(ours), np.median(theirs) / np.median(ours)
            print(
                f"| {', '.join(map(str, shape))} | {kind} | {min(theirs) * 1e3:.2f} | {min(ours) * 1e3:.2f} | "
                f"{fastest:.2f} | {middle:.2f} |",
                flush=True,
            )


def _model(keras: Any, module: Any, kind: str, shape: tuple[int, int, int, int]) -> Any:
    """A layer that returns sequences, of weights that are the same for all modules."""
    T, _, I, H = shape
    model = keras.Sequential([keras.Input((T, I)), getattr(module, kind)(H, return_sequences=True)])
    rng = np.random.default_rng(0)
    model.set_weights([rng.uniform(-1, 1, w.shape) / H**0.5 for w in model.get_weights()])
    model.compile("adam", "mse")
    return model


def _times(models: list[Any], shape: tuple[int, int, int, int], rounds: int, clock: Any) -> list[list[float]]:
    """The times of steps of each model."""
    T, N, I, H = shape
    rng = np.random.default_rng(1)
    x, y = (rng.standard_normal((N, T, size), dtype=np.float32) for size in (I, H))
    losses = [[float(model.train_on_batch(x, y)) for _ in range(3)] for model in models]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4)
    times: list[list[float]] = [[] for _ in models]
    for _ in range(rounds):
        for model, its in zip(models, times, strict=True):
            start = clock()
            model.train_on_batch(x, y)
            its.append(clock() - start)
    return times


if __name__ == "__main__":
    main()
