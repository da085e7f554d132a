"""What processes of groups do in tests; and, as a script, a run in each of the groups that an engine makes."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from typing import Any

import numpy as np

import fastrnn
from fastrnn import distributed
from fastrnn.training import Evaluation, Last, Linear, Sequential, Settings, Trainer, dinosaur_text, fit

TEXT = "\n".join(dinosaur_text().split("\n")[:160])


def ragged(n: int = 53) -> tuple[list[Any], Any]:
    rng = np.random.default_rng(1)
    X = [rng.standard_normal((length, 3)) for length in rng.integers(1, 19, n)]
    return X, np.array([int(x[:, 0].sum() > 0) for x in X])


def model(every_step: bool = False, dropout: float = 0.0) -> Sequential:
    rnn = fastrnn.LSTM(3, 7, num_layers=2, dropout=dropout, dtype="float64", seed=0)
    return Sequential(rnn if every_step else Last(rnn), Linear(7, 2, dtype="float64", seed=1))


def fitted(group: Any = None, *, every_step: bool = False, dropout: float = 0.0, **options: Any) -> Any:
    X, y = ragged()
    if every_step:
        y = [np.cumsum(x[:, :2], axis=0) for x in X]
    made = model(every_step, dropout)
    options = {"epochs": 3, "batch_size": 9, "learning_rate": 0.05, "validation": 0.2, "progress": False} | options
    history = fit(made, X, y, group=group, **options)
    return history, made.state_dict()


def bits(parameters: dict[str, Any]) -> list[bytes]:
    return [parameters[name].tobytes() for name in sorted(parameters)]


def trained(group: Any = None, path: Any = None, steps: int = 24, resume: bool = False, **settings: Any) -> Any:
    made = {"hidden_size": 9, "num_layers": 2, "seq_length": 7, "batch_size": 6, "evaluate_every": 8, "seed": 2}
    made |= {"embedding": True, "split": "drawn", "optimizer": "sgd", "learning_rate": 0.5}
    made = Settings(**made | {"steps": steps} | settings)  # type: ignore[arg-type]
    trainer = Trainer.resume(path, TEXT, steps=steps) if resume else Trainer(TEXT, made)
    if group is not None:
        trainer.share(group)
    for record in trainer.run():
        if isinstance(record, Evaluation) and path is not None and trainer._place[0] == 0:
            trainer.save(path)
    return trainer


def bits_of_runs(group: Any) -> dict[str, str]:
    """A digest of what training leads to."""
    options: dict[str, Any] = {"batch_size": max(6, group.size), "steps": 8}
    runs = {
        "fit": fitted(group, dropout=0.3, epochs=1, batch_size=18)[1],
        "lines": trained(group, windows="lines", **options).model.parameters,
        "windows": trained(group, **options).model.parameters,
    }
    return {name: hashlib.sha256(b"".join(bits(parameters))).hexdigest() for name, parameters in runs.items()}


def die(group: Any, number: int) -> None:
    """Take part in a sum, and end."""
    group.allreduce(np.zeros(3))
    if number:
        os.kill(os.getpid(), number)
    raise ValueError("no more\nof this")


def add_ranks(group: Any, power: int) -> None:
    """Take part in a sum, and in what another process says."""
    array = np.full(2, float(group.rank**power))
    group.allreduce(array)
    array[...] = group.rank
    group.broadcast(array, 2)


def tell(kind: type[BaseException], error: BaseException, _: Any) -> None:
    """Tell an error that ends the process in one line."""
    print(f"{kind.__name__}: {error}", file=sys.stderr)


def main(engine: str, end: str = "") -> None:
    """Join the group of all processes, and of four also one of two; print what these lead to; have the last one die."""
    sys.excepthook = tell
    group: Any = distributed.mpi() if engine == "mpi" else distributed.gloo()
    sys.excepthook = tell  # where torch has put its own
    found = {f"{group.size}": bits_of_runs(group)}
    if group.size == 4:
        found["2"] = bits_of_runs(half_of(group))
    if group.rank == 0:
        print(json.dumps(found), flush=True)
    if end == "die":
        if group.rank == group.size - 1:
            die(group, 9)
        for _ in range(2):
            group.allreduce(np.zeros(3))


def half_of(group: Any) -> Any:
    """The first two processes of four, or the other two."""
    if hasattr(group, "communicator"):
        return distributed.mpi(group.communicator.Split(group.rank // 2, group.rank))
    import torch.distributed

    return distributed.gloo([torch.distributed.new_group(pair) for pair in ([0, 1], [2, 3])][group.rank // 2])


if __name__ == "__main__":
    main(*sys.argv[1:])
