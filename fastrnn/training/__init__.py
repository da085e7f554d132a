"""What one needs around a recurrent network to train it: layers, losses, optimizers, text, the loop, checkpoints."""

from fastrnn.training.adaptive import AdaptiveSoftmax
from fastrnn.training.batches import Lines, Windows, encode_lines, pad
from fastrnn.training.checkpoint import CheckpointError, load_model
from fastrnn.training.clipping import clip_global_norm, clip_value
from fastrnn.training.corpora import dinosaur_text, load_dinosaurs
from fastrnn.training.layers import Embedding, Linear
from fastrnn.training.loop import DivergenceError, Evaluation, Settings, Step, Trainer
from fastrnn.training.losses import cross_entropy
from fastrnn.training.model import CharModel
from fastrnn.training.optimizers import SGD, Adam
from fastrnn.training.plots import plot_losses
from fastrnn.training.sampling import generate_text
from fastrnn.training.text import TextError, read_text, split_tail
from fastrnn.training.tokenizers import CharTokenizer, WordTokenizer

__all__ = [
    "SGD",
    "Adam",
    "AdaptiveSoftmax",
    "CharModel",
    "CharTokenizer",
    "CheckpointError",
    "DivergenceError",
    "Embedding",
    "Evaluation",
    "Linear",
    "Lines",
    "Settings",
    "Step",
    "TextError",
    "Trainer",
    "Windows",
    "WordTokenizer",
    "clip_global_norm",
    "clip_value",
    "cross_entropy",
    "dinosaur_text",
    "encode_lines",
    "generate_text",
    "load_dinosaurs",
    "load_model",
    "pad",
    "plot_losses",
    "read_text",
    "split_tail",
]
