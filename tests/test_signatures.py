"""Arguments stand at torch.nn's positions, so that what is written for the one means the same to the other."""

from __future__ import annotations

import inspect
from types import ModuleType

import pytest

import fastrnn

# torch.nn's modules take these by name or position from *args.
TORCH = {
    "RNN": "input_size hidden_size num_layers nonlinearity bias batch_first dropout bidirectional",
    "LSTM": "input_size hidden_size num_layers bias batch_first dropout bidirectional proj_size",
    "GRU": "input_size hidden_size num_layers bias batch_first dropout bidirectional",
}


def positional(function: object) -> list[str]:
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [name for name, p in inspect.signature(function).parameters.items() if p.kind in kinds]  # type: ignore[arg-type]


@pytest.mark.parametrize("name", TORCH)
def test_modules_take_torchs_positions(torch: ModuleType, name: str) -> None:
    assert positional(getattr(fastrnn, name)) == TORCH[name].split()
    different = (3, 4, 2, "relu", False, True, 0.25, True) if name == "RNN" else (3, 4, 2, False, True, 0.25, True)
    ours, theirs = getattr(fastrnn, name)(*different), getattr(torch.nn, name)(*different)
    for attribute in TORCH[name].split():
        assert getattr(ours, attribute) == getattr(theirs, attribute)
    assert list(ours.parameters) == [name for name, _ in theirs.named_parameters()]


@pytest.mark.parametrize("name", ["RNNCell", "LSTMCell", "GRUCell"])
def test_cells_take_torchs_positions(torch: ModuleType, name: str) -> None:
    theirs = [each for each in positional(getattr(torch.nn, name)) if each not in ("device", "dtype")]
    assert positional(getattr(fastrnn, name)) == theirs


def test_a_nonlinearity_in_place_of_bias_is_refused() -> None:
    with pytest.raises(TypeError, match="bias is 'relu'; expected True or False"):
        fastrnn.RNNCell(3, 4, "relu")  # type: ignore[arg-type]
    assert fastrnn.RNN(3, 4, 2, "relu").nonlinearity == "relu"
