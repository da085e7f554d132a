"""silero-vad: which parts of a recording are speech. An ONNX file, an LSTM of 128 units in branches of If."""

from importlib import metadata
from typing import Any

import numpy as np
import onnxruntime
import torch

import fastrnn.onnx

PACKAGE = "silero-vad"
NETWORK = "convolutions, LSTM(128, 128), one step a call"
CASES = {"1 stream": 1, "64 streams": 64}
PATH = metadata.distribution(PACKAGE).locate_file("silero_vad/data/silero_vad.onnx")


def load(options: onnxruntime.SessionOptions) -> Any:
    """The package's model."""
    from silero_vad import load_silero_vad

    model = load_silero_vad(onnx=True)
    model.session = onnxruntime.InferenceSession(PATH, options)
    return model


def change(model: Any, options: onnxruntime.SessionOptions) -> None:
    """What is different with fastrnn."""
    model.session = fastrnn.onnx.InferenceSession(PATH, options)


def use(model: Any, streams: int) -> np.ndarray:
    """The probabilities of speech in a second of each stream."""
    sound = np.random.default_rng(0).normal(0, 0.1, (streams, 32 * 512)).astype("float32")
    return model.audio_forward(torch.from_numpy(sound), 16000).numpy()


def session(model: Any) -> onnxruntime.InferenceSession:
    """What runs the file."""
    return model.session
