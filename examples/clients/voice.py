"""Resemblyzer: who speaks. In torch, three LSTMs on top of one another.

The network is its three lines on its weights: the package needs audio libraries to import.
"""

from importlib import metadata
from typing import Any

import numpy as np
import torch

import fastrnn.torch

PACKAGE = "Resemblyzer"
NETWORK = "LSTM(40, 256, num_layers=3), a linear layer"
CASES = {"1 piece": 1, "10 pieces": 10}


class Encoder(torch.nn.Module):
    """The voice in a piece of speech as 256 numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = torch.nn.LSTM(40, 256, 3, batch_first=True)
        self.linear = torch.nn.Linear(256, 256)

    def forward(self, mels: torch.Tensor) -> torch.Tensor:
        """(N, T, 40) to (N, 256), of length 1."""
        _, (h_n, _) = self.lstm(mels)
        return torch.nn.functional.normalize(self.linear(h_n[-1]).relu())


def load(_: Any) -> torch.nn.Module:
    """The package's model."""
    path = metadata.distribution(PACKAGE).locate_file("resemblyzer/pretrained.pt")
    encoder = Encoder().eval()
    encoder.load_state_dict(torch.load(path, map_location="cpu")["model_state"], strict=False)
    return encoder


def change(encoder: torch.nn.Module, _: Any) -> None:
    """What is different with fastrnn."""
    fastrnn.torch.accelerate(encoder)


def use(encoder: torch.nn.Module, pieces: int) -> np.ndarray:
    """The voices in pieces of 1.6 seconds."""
    mels = np.random.default_rng(0).exponential(0.1, (pieces, 160, 40)).astype("float32")
    with torch.inference_mode():
        return encoder(torch.from_numpy(mels)).numpy()


def calls(encoder: torch.nn.Module) -> list[tuple[Any, str]]:
    """The recurrent part."""
    return [(encoder.lstm, "forward")]
