"""g2p-en: how English words are spoken. NumPy, a GRU that reads letters and one that writes phonemes."""

from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np

import fastrnn
from fastrnn.training import load_dinosaurs

PACKAGE = "g2p-en"
NETWORK = "GRU(256, 256), GRU(256, 256) by steps"
CASES = {"100 words": 100}


def load(_: Any) -> Any:
    """The package's model."""
    from nltk import corpus

    # The network alone: neither NLTK's dictionary, which knows most words, nor its download.
    with mock.patch("nltk.download"), mock.patch.object(corpus, "cmudict", SimpleNamespace(dict=dict)):
        from g2p_en import G2p

        return G2p()


def change(g2p: Any, _: Any) -> None:
    """What is different with fastrnn."""
    reader, writer = fastrnn.GRU(256, 256, batch_first=True), fastrnn.GRUCell(256, 256)
    for module, of, suffix in ((reader, "enc", "_l0"), (writer, "dec", "")):
        for name, theirs in (("weight_ih", "w_ih"), ("weight_hh", "w_hh"), ("bias_ih", "b_ih"), ("bias_hh", "b_hh")):
            module.parameters[name + suffix] = getattr(g2p, f"{of}_{theirs}")
    g2p.gru = lambda x, steps, *weights, h0: reader(x, h0[None])[0]
    g2p.grucell = lambda x, h, *weights: writer(x, h)


def use(g2p: Any, words: int) -> np.ndarray:
    """The phonemes of words that are in no dictionary."""
    found = [g2p.p2idx[phoneme] for name in load_dinosaurs()[:words] for phoneme in g2p.predict(name.lower())]
    return np.array(found)


def calls(g2p: Any) -> list[tuple[Any, str]]:
    """The recurrent part."""
    return [(g2p, "grucell")]  # which gru calls, too
