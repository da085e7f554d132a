"""examples/clients: networks that packages ship have the numbers that they had, where the packages are installed."""

from __future__ import annotations

import importlib
import importlib.util
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import fastrnn
from fastrnn.cells import peephole_lstm

FOLDER = Path(__file__).resolve().parents[1] / "examples" / "clients"

pytestmark = pytest.mark.filterwarnings("ignore")  # of the packages


@pytest.fixture
def measure(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(FOLDER)
    module = importlib.import_module("measure")
    monkeypatch.setattr(module, "ROUNDS", 1)
    monkeypatch.setattr(module, "SECONDS", 0)
    return module


SLOW = pytest.param("sleep", marks=pytest.mark.long)  # Keras' own loops


@pytest.mark.parametrize("name", ["speech", "denoiser", "english", "mandarin", SLOW, "lines", "voice"])
def test_numbers_stay_what_they_are(measure: Any, request: pytest.FixtureRequest, name: str) -> None:
    assert name in measure.NAMES
    if name == "sleep":
        request.getfixturevalue("keras")  # whose settings a process has once
    client = measure.client(name)
    if client is None:
        pytest.skip(f"the package of examples/clients/{name}.py is in the extra `clients`, or said in docs/clients.md")
    before, after = measure.pair(client)
    if hasattr(client, "session"):
        client.session(after)._measure = False  # and not the way that is faster on this machine
    found = measure.row(client, next(iter(client.CASES)), before, after)
    assert found["difference"] <= (0 if found["whole_numbers"] else 2e-5)
    assert 0 < found["share"] < 1.05
    assert found["seconds"]["after"] > 0


# madmom's networks are not for commercial use, so that they are no client of the page: they are tested alone. Most of
# its modules want Python 3.9 at the latest; those of its layers can be imported without them.


class NeuralNetwork:
    """What madmom's files are pickles of."""

    layers: list[Any]


@pytest.fixture(scope="module")
def madmom() -> Iterator[Path]:
    """Where the package is."""
    spec = importlib.util.find_spec("madmom")
    if spec is None:
        pytest.skip("madmom is not installed: pip install --no-deps --no-build-isolation madmom")
    (folder,) = spec.submodule_search_locations or ()
    with pytest.MonkeyPatch.context() as patch:
        for name, path in (("madmom", "."), ("madmom.ml", "ml"), ("madmom.ml.nn", "ml/nn")):
            module = ModuleType(name)
            module.__path__ = [str(Path(folder, path))]
            patch.setitem(sys.modules, name, module)
        patch.setattr(sys.modules["madmom.ml.nn"], "NeuralNetwork", NeuralNetwork, raising=False)
        yield Path(folder)


def parameters_of(layer: Any) -> dict[str, Any]:
    """A layer of madmom, in one direction, by our names."""
    if hasattr(layer, "update_gate"):  # which is 1 - z
        gates = (layer.reset_gate, 1), (layer.update_gate, -1), (layer.cell, 1)
    elif hasattr(layer, "output_gate"):
        gates = tuple((gate, 1) for gate in (layer.input_gate, layer.forget_gate, layer.cell, layer.output_gate))
    else:
        gates = ((layer, 1),)
    found = {
        "weight_ih": np.concatenate([sign * gate.weights.T for gate, sign in gates]),
        "weight_hh": np.concatenate([sign * gate.recurrent_weights.T for gate, sign in gates]),
        "bias_ih": np.concatenate([sign * gate.bias for gate, sign in gates]),
    }
    found["bias_hh"] = np.zeros_like(found["bias_ih"])
    if len(gates) == 4:
        found["unit"] = np.stack([gate.peephole_weights for gate, _ in gates if gate is not layer.cell])
    return found


@pytest.mark.long
@pytest.mark.parametrize(
    ("network", "kind", "directions"),
    [
        ("downbeats/2016/downbeats_bgru_rhythmic_0", "GRU", 2),
        ("downbeats/2016/downbeats_bgru_harmonic_3", "GRU", 2),
        ("downbeats/2016/downbeats_blstm_1", "LSTM", 2),
        ("beats/2015/beats_blstm_8", "LSTM", 2),
        ("beats/2016/beats_lstm_4", "LSTM", 1),
        ("notes/2013/notes_brnn", "RNN", 2),
    ],
)
def test_madmoms_networks_have_their_numbers(madmom: Path, network: str, kind: str, directions: int) -> None:
    with (madmom / "models" / f"{network}.pkl").open("rb") as file:
        *layers, last = pickle.load(file, encoding="latin1").layers
    each = [[its.fwd_layer, its.bwd_layer] if directions == 2 else [its] for its in layers]
    params = [[parameters_of(its) for its in pair] for pair in each]
    I, H = params[0][0]["weight_ih"].shape[1], params[0][0]["weight_hh"].shape[1]
    options = {"num_layers": len(layers), "bidirectional": directions == 2}
    module: Any
    if kind == "LSTM":
        module = fastrnn.Recurrent(peephole_lstm, I, H, **options)
    else:
        module = getattr(fastrnn, kind)(I, H, **options)
    names = [f"_l{layer}{suffix}" for layer in range(len(layers)) for suffix in ("", "_reverse")[:directions]]
    flat = [its for pair in params for its in pair]
    module.load_state_dict({f + name: array for name, its in zip(names, flat, strict=True) for f, array in its.items()})
    x = np.abs(np.random.default_rng(0).standard_normal((300, I), dtype=np.float32))  # as logarithms of a spectrum
    h_0 = np.stack([its.init for pair in each for its in pair])
    state = (h_0, np.stack([its.cell_init for pair in each for its in pair])) if kind == "LSTM" else h_0
    y = module(x, state)[0]
    want = x
    for layer in layers:
        want = layer(want)
    assert np.abs(want).max() > 0.5
    assert np.abs(y - want).max() <= 2e-5
    np.testing.assert_allclose(last(y), last(want), rtol=2e-5, atol=2e-5)
