"""g2pM: how Chinese characters are spoken in their sentence. NumPy, a bidirectional LSTM."""

from typing import Any

import numpy as np

import fastrnn

PACKAGE = "g2pM"
NETWORK = "LSTM(64, 32, bidirectional), two linear layers"
CASES = {"20 sentences": 20}


def load(_: Any) -> Any:
    """The package's model."""
    from g2pM import G2pM

    return G2pM()


def change(g2p: Any, _: Any) -> None:
    """What is different with fastrnn."""
    lstm = fastrnn.LSTM(64, 32, bidirectional=True, batch_first=True)
    for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
        lstm.parameters[f"{name}_l0"] = getattr(g2p, name)
        lstm.parameters[f"{name}_l0_reverse"] = getattr(g2p, f"{name}_reverse")

    def predict(inputs: np.ndarray, target: list[int]) -> np.ndarray:
        y, _ = lstm(g2p.get_embedding(inputs))
        return g2p.fc_layer(y[0, target]).argmax(axis=1)

    g2p.predict = predict


def use(g2p: Any, sentences: int) -> np.ndarray:
    """The numbers of the pronunciations of sentences of 40 characters each."""
    rng, known = np.random.default_rng(0), sorted(g2p.cedict.keys() & g2p.char2idx.keys())
    spoken = [g2p("".join(rng.choice(known, 40)), char_split=True) for _ in range(sentences)]
    numbers = {name: k for k, name in g2p.idx2class.items()}
    return np.array([numbers.get(name, -1) for sentence in spoken for name in sentence])


def calls(g2p: Any) -> list[tuple[Any, str]]:
    """The recurrent part."""
    return [(g2p, "fw_lstm_cell"), (g2p, "bw_lstm_cell")]
