"""fastrnn.torch answers every mistake as torch.nn does: the same error where that raises, else its values."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest
from public_calls import hostile

NAMES = ("RNN", "LSTM", "GRU")
OPTIONS = (
    "input_size",
    "hidden_size",
    "num_layers",
    "bias",
    "batch_first",
    "dropout",
    "bidirectional",
    "device",
    "dtype",
)
ENDLESS = ("huge", "endless", "int64", "nested")  # as sizes: torch.nn makes layer after layer


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Both warn of dropout on one layer, and ours of what it leaves to torch.nn."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def outcome(call: Callable[[], Any]) -> tuple[str | None, Any]:
    """The error that a call ends in, as a text, and what it returns."""
    try:
        return None, call()
    except Exception as error:  # what these tests are about
        return f"{type(error).__name__}: {error}"[:120], None


def make(torch: ModuleType, namespace: Any, name: str, **options: Any) -> Any:
    torch.manual_seed(0)
    return getattr(namespace, name)(**{"input_size": 3, "hidden_size": 4} | options)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("option", OPTIONS)
def test_constructors_refuse_what_torchs_refuse(torch: ModuleType, name: str, option: str) -> None:
    import fastrnn.torch

    refused = 0
    for kind, value in hostile(torch).items():
        if kind not in ENDLESS:
            theirs, _ = outcome(lambda value=value: make(torch, torch.nn, name, **{option: value()}))
            ours, _ = outcome(lambda value=value: make(torch, fastrnn.torch, name, **{option: value()}))
            assert ours == theirs, kind
            refused += ours is not None
    assert refused or option in ("bias", "batch_first", "bidirectional")  # which torch.nn takes as they are


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("argument", ["input", "hx"])
def test_calls_end_as_torchs_do(torch: ModuleType, name: str, argument: str) -> None:
    import fastrnn.torch

    theirs, ours = make(torch, torch.nn, name), make(torch, fastrnn.torch, name)
    h = torch.zeros(1, 2, 4)
    good = {"input": torch.ones(5, 2, 3), "hx": (h, h) if name == "LSTM" else h}
    refused = 0
    for kind, value in hostile(torch).items():
        error, right = outcome(lambda value=value: theirs(**good | {argument: value()}))
        own_error, found = outcome(lambda value=value: ours(**good | {argument: value()}))
        assert own_error == error, kind
        if error is None:
            torch.testing.assert_close(found[0], right[0])
        refused += error is not None
    assert refused > 60


@pytest.mark.parametrize("function", ["accelerate", "restore"])
def test_what_is_no_model_is_named(torch: ModuleType, function: str) -> None:
    import fastrnn.torch

    for kind, value in hostile(torch).items():
        error, _ = outcome(lambda value=value: getattr(fastrnn.torch, function)(value()))
        assert error is not None, kind
        assert error.startswith("TypeError: model is "), kind
        assert error.endswith("; expected a torch.nn.Module"), kind
