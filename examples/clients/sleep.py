"""sleepecg: the stages of sleep from heartbeats. A Keras file, two bidirectional GRUs behind a mask."""

import os
from typing import Any

import numpy as np

PACKAGE = "sleepecg"
NETWORK = "GRU(64, 8, bidirectional), GRU(16, 8, bidirectional), masked"
CASES = {"1 night": 1, "8 nights": 8}


def load(_: Any) -> Any:
    """The package's model."""
    os.environ.setdefault("KERAS_BACKEND", "torch")  # before Keras is imported
    from sleepecg import load_classifier

    return load_classifier("wrn-gru-mesa", "SleepECG").model


def change(model: Any, _: Any) -> None:
    """What is different with fastrnn."""
    import fastrnn.keras

    fastrnn.keras.accelerate(model)


def use(model: Any, nights: int) -> np.ndarray:
    """The probabilities of 4 stages in every half minute of 8 hours."""
    features = np.random.default_rng(0).normal(size=(nights, 960, 36)).astype("float32")
    features[:, 300:310] = -1  # where the recording has no heartbeats
    return model.predict(features, verbose=0)


def calls(model: Any) -> list[tuple[Any, str]]:
    """The recurrent part."""
    return [(layer, "call") for layer in model.layers if layer.name.startswith("bidirectional")]
