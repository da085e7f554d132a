"""DistributedDataParallel over gloo: two processes, half of the batch each, get the gradients of the whole batch.

    python examples/ddp.py

Each process runs forward and backward of the same model on its half; DistributedDataParallel averages the gradients
while backward still runs. Then the first process computes those of the whole batch alone, and prints how far apart the
two are.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import fastrnn.torch

PROCESSES, T, N, V, H = 2, 20, 8, 30, 48


class LanguageModel(nn.Module):
    """Embedding, two bidirectional LSTM layers, and the logits of the next token."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(V, H)
        self.lstm = nn.LSTM(H, H, num_layers=2, bidirectional=True)
        self.logits = nn.Linear(2 * H, V)

    def forward(self, tokens: Tensor) -> Tensor:
        """(T, N) tokens to (T, N, V) logits."""
        return self.logits(self.lstm(self.embedding(tokens))[0])


def gradients(model: nn.Module, tokens: Tensor) -> list[Tensor]:
    """Of the mean cross-entropy of each next token."""
    logits = model(tokens[:-1])
    nn.functional.cross_entropy(logits.flatten(0, 1), tokens[1:].flatten()).backward()
    return [p.grad for p in model.parameters()]


def work(rank: int, rendezvous: str) -> None:
    """What each process does."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=PROCESSES)
    torch.manual_seed(0)  # the same parameters and tokens everywhere
    model = fastrnn.torch.accelerate(LanguageModel())
    tokens = torch.randint(V, (T + 1, N))
    mine = gradients(DistributedDataParallel(model), tokens.chunk(PROCESSES, dim=1)[rank])
    if rank == 0:
        mine = [g.clone() for g in mine]
        model.zero_grad()
        alone = gradients(model, tokens)
        error = max((a - b).abs().max().item() for a, b in zip(mine, alone, strict=True))
        largest = max(g.abs().max().item() for g in alone)
        print(f"largest gradient {largest:.3g}, largest difference {error:.3g}")
        if error > 1e-6 * largest + 1e-7:
            raise SystemExit("the gradients differ")
    dist.barrier()
    dist.destroy_process_group()


def main() -> None:
    """Start the processes."""
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(work, args=(str(Path(folder, "rendezvous")),), nprocs=PROCESSES)


if __name__ == "__main__":
    main()
