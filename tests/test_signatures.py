"""Arguments stand at torch.nn's positions, so that what is written for the one means the same to the other."""

from __future__ import annotations

import inspect
import re
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


def documented(cls: type) -> dict[str, str]:
    """What a class says of each of its arguments."""
    lines = inspect.cleandoc(cls.__doc__ or "").split("Parameters\n----------\n")[1].split("\n\n")[0]
    words: dict[str, str] = {}
    for names, text in re.findall(r"^(\S.*)\n((?: .*\n?)+)", lines, re.MULTILINE):
        words |= dict.fromkeys(names.split(", "), " ".join(text.split()))
    return words


@pytest.mark.parametrize("kinds", [("RNN", "LSTM", "GRU"), ("RNNCell", "LSTMCell", "GRUCell")])
def test_every_argument_is_documented_in_the_same_words(kinds: tuple[str, ...]) -> None:
    said: dict[str, set[str]] = {}
    for kind in kinds:
        words = documented(getattr(fastrnn, kind))
        assert list(words) == list(inspect.signature(getattr(fastrnn, kind)).parameters)
        for name, text in words.items():
            said.setdefault(name, set()).add(re.sub(r"`fastrnn\.\w+`\.$", "another", text))
    assert {name: texts for name, texts in said.items() if len(texts) > 1} == {}


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU", "RNNCell", "LSTMCell", "GRUCell"])
def test_every_weight_is_documented_with_its_shape(kind: str) -> None:
    options = {} if kind.endswith("Cell") else {"num_layers": 2, "bidirectional": True}
    if kind == "LSTM":
        options["proj_size"] = 2
    module = getattr(fastrnn, kind)(3, 4, **options)
    attributes = (module.__doc__ or "").split("**Weights**")[1].split("Parameters\n")[0]
    first = {re.sub(r"_l\d.*", "_l0", name) for name in module.parameters}
    assert [name for name in first if name not in attributes] == []
    rows = len(module.parameters[next(iter(module.parameters))]) // 4
    assert f"({rows}*H, I)" in attributes or rows == 1
