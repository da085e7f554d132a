"""RNN, LSTM and GRU on the CPU: forward and back-propagation through time on compiled kernels."""

from importlib.metadata import version as _version

from fastrnn import errors
from fastrnn.backends import info, use_backend
from fastrnn.cell_modules import GRUCell, LSTMCell, RNNCell
from fastrnn.cells import cell
from fastrnn.cells.checking import check_cell
from fastrnn.ensembles import Ensemble, stack_modules
from fastrnn.modules import GRU, LSTM, RNN, Recurrent
from fastrnn.quantized import quantize
from fastrnn.saving import load, save
from fastrnn.threads import get_num_threads, set_num_threads

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "Ensemble",
    "GRUCell",
    "LSTMCell",
    "RNNCell",
    "Recurrent",
    "cell",
    "check_cell",
    "errors",
    "get_num_threads",
    "info",
    "load",
    "quantize",
    "save",
    "set_num_threads",
    "stack_modules",
    "use_backend",
]

__version__ = _version("fastrnn")
