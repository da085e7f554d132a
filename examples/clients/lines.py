"""legere: text from pictures of lines. In torch, a bidirectional GRU behind convolutions."""

from typing import Any

import numpy as np
import torch

import fastrnn.torch

PACKAGE = "legere"
NETWORK = "convolutions, GRU(192, 128, bidirectional), a linear layer"
CASES = {"1 line": 1, "16 lines": 16}


def load(_: Any) -> torch.nn.Module:
    """The package's model."""
    from legere import load_model

    return load_model()


def change(model: torch.nn.Module, _: Any) -> None:
    """What is different with fastrnn."""
    fastrnn.torch.accelerate(model)


def use(model: torch.nn.Module, lines: int) -> np.ndarray:
    """The logits of the characters in lines of 512 columns."""
    pixels = np.random.default_rng(0).uniform(-1, 1, (lines, 1, 32, 512)).astype("float32")
    with torch.inference_mode():
        return model(torch.from_numpy(pixels)).numpy()


def calls(model: torch.nn.Module) -> list[tuple[Any, str]]:
    """The recurrent part."""
    return [(model.rnn, "forward")]
