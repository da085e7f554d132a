"""torch.nn's RNN, LSTM and GRU on fastrnn's kernels, and cells of one's own."""

try:
    import torch as _torch  # noqa: F401
except ModuleNotFoundError as _error:
    if _error.name != "torch":
        raise
    raise ImportError("fastrnn.torch needs PyTorch: pip install torch", name="torch") from _error

from fastrnn.torch.accelerate import Placement, accelerate, report, restore, restored
from fastrnn.torch.cells import GRUCell, LSTMCell, RNNCell
from fastrnn.torch.modules import GRU, LSTM, RNN
from fastrnn.torch.quantized import from_quantized
from fastrnn.torch.recurrent import Recurrent
from fastrnn.torch.threads import share_threads

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "GRUCell",
    "LSTMCell",
    "Placement",
    "RNNCell",
    "Recurrent",
    "accelerate",
    "from_quantized",
    "report",
    "restore",
    "restored",
]

share_threads()
