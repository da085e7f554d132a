"""Keras 3's LSTM, GRU and SimpleRNN on fastrnn's kernels, on its torch, JAX and TensorFlow backends."""

try:
    import keras as _keras  # noqa: F401
except ModuleNotFoundError as _error:
    if _error.name != "keras":
        raise
    raise ImportError("fastrnn.keras needs Keras 3: pip install keras", name="keras") from _error

from fastrnn.keras.accelerate import Placement, accelerate, report, restore
from fastrnn.keras.layers import GRU, LSTM, SimpleRNN

__all__ = ["GRU", "LSTM", "Placement", "SimpleRNN", "accelerate", "report", "restore"]
