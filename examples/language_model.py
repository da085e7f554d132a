"""A character language model in plain PyTorch, on torch.nn's LSTM or, with one more line, on fastrnn's kernels.

    python examples/language_model.py my_text.txt
    python examples/language_model.py my_text.txt --fastrnn

Both print the same losses, within rounding, and how long they took.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from torch import Tensor, nn


class LanguageModel(nn.Module):
    """Embedding, LSTM layers with dropout between them, and the logits of the next character."""

    def __init__(self, vocabulary: int, hidden: int, layers: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, hidden)
        self.lstm = nn.LSTM(hidden, hidden, num_layers=layers, dropout=0.2 if layers > 1 else 0)
        self.logits = nn.Linear(hidden, vocabulary)

    def forward(self, tokens: Tensor, state: tuple[Tensor, Tensor] | None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """(T, N) tokens to (T, N, V) logits and the final state."""
        y, state = self.lstm(self.embedding(tokens), state)
        return self.logits(y), state


def main() -> None:
    """Train, and print the loss ten times."""
    parser = argparse.ArgumentParser(description="Train a character language model.")
    parser.add_argument("text", type=Path, help="any UTF-8 text")
    parser.add_argument("--fastrnn", action="store_true", help="run the LSTM on fastrnn's kernels")
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--batch", type=int, default=32, help="sequences that are trained on side by side")
    parser.add_argument("--steps", type=int, default=50, help="characters that back-propagation goes through")
    parser.add_argument("--updates", type=int, default=500)
    arguments = parser.parse_args()
    torch.manual_seed(0)

    text = arguments.text.read_text("utf-8")
    characters = sorted(set(text))
    tokens = torch.tensor([characters.index(c) for c in text])
    columns = tokens[: len(tokens) // arguments.batch * arguments.batch].view(arguments.batch, -1).T  # (steps, N)
    if len(columns) <= arguments.steps:
        parser.error(f"the text has {len(text)} characters; expected more than {arguments.batch * arguments.steps}")

    model = LanguageModel(len(characters), arguments.hidden, arguments.layers)
    if arguments.fastrnn:
        import fastrnn.torch

        fastrnn.torch.accelerate(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)

    start, state, at, total = time.perf_counter(), None, 0, 0.0
    for update in range(1, arguments.updates + 1):
        if at + arguments.steps >= len(columns):
            at, state = 0, None
        part = columns[at : at + arguments.steps + 1]
        at += arguments.steps
        logits, state = model(part[:-1], state)
        state = (state[0].detach(), state[1].detach())
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), part[1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        total += loss.item()
        every = max(1, arguments.updates // 10)
        if update % every == 0:
            print(f"update {update:5}, loss {total / every:.6f}, {time.perf_counter() - start:6.1f} s", flush=True)
            total = 0.0


if __name__ == "__main__":
    main()
