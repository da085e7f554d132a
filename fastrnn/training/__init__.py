"""What one needs around a recurrent network to train it: layers, losses, optimizers, text, the loop, checkpoints."""

from fastrnn.training.activations import ReLU, Sigmoid, Softmax, Tanh
from fastrnn.training.adaptive import AdaptiveSoftmax
from fastrnn.training.batches import Lines, Windows, encode_lines, pad
from fastrnn.training.checkpoint import CheckpointError, load_model
from fastrnn.training.clipping import clip_global_norm, clip_value
from fastrnn.training.composition import Last, Sequential
from fastrnn.training.convolution import Conv1d
from fastrnn.training.corpora import dinosaur_text, load_dinosaurs
from fastrnn.training.defaults import choose_settings
from fastrnn.training.early_stopping import EarlyStopping
from fastrnn.training.fitting import fit, predict
from fastrnn.training.gradient_check import check_gradients
from fastrnn.training.history import Epoch, History
from fastrnn.training.keras_weights import from_keras_weights
from fastrnn.training.layers import Dropout, Embedding, Linear
from fastrnn.training.loop import Trainer, load_history
from fastrnn.training.losses import QuantileLoss, bce_with_logits, cross_entropy, mae, mse
from fastrnn.training.model import CharModel, LanguageModel, WordModel
from fastrnn.training.normalization import LayerNorm
from fastrnn.training.optimizers import SGD, Adam, AdamW, Momentum, RMSProp, RMSprop
from fastrnn.training.plots import plot_losses
from fastrnn.training.pooling import AttentionPool, Pool
from fastrnn.training.running import DivergenceError, Evaluation, Step
from fastrnn.training.sampling import generate_text
from fastrnn.training.schedules import (
    ConstantRate,
    CosineDecay,
    ExponentialDecay,
    LinearDecay,
    LinearWarmup,
    MultiStepDecay,
    ReduceLROnPlateau,
    ReduceOnPlateau,
    StepDecay,
)
from fastrnn.training.settings import Settings
from fastrnn.training.text import TextError, read_text, split_tail
from fastrnn.training.tokenizers import CharTokenizer, Tokenizer, WordTokenizer

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "AdaptiveSoftmax",
    "AttentionPool",
    "CharModel",
    "CharTokenizer",
    "CheckpointError",
    "ConstantRate",
    "Conv1d",
    "CosineDecay",
    "DivergenceError",
    "Dropout",
    "EarlyStopping",
    "Embedding",
    "Epoch",
    "Evaluation",
    "ExponentialDecay",
    "History",
    "LanguageModel",
    "Last",
    "LayerNorm",
    "Linear",
    "LinearDecay",
    "LinearWarmup",
    "Lines",
    "Momentum",
    "MultiStepDecay",
    "Pool",
    "QuantileLoss",
    "RMSProp",
    "RMSprop",
    "ReLU",
    "ReduceLROnPlateau",
    "ReduceOnPlateau",
    "Sequential",
    "Settings",
    "Sigmoid",
    "Softmax",
    "Step",
    "StepDecay",
    "Tanh",
    "TextError",
    "Tokenizer",
    "Trainer",
    "Windows",
    "WordModel",
    "WordTokenizer",
    "bce_with_logits",
    "check_gradients",
    "choose_settings",
    "clip_global_norm",
    "clip_value",
    "cross_entropy",
    "dinosaur_text",
    "encode_lines",
    "fit",
    "from_keras_weights",
    "generate_text",
    "load_dinosaurs",
    "load_history",
    "load_model",
    "mae",
    "mse",
    "pad",
    "plot_losses",
    "predict",
    "read_text",
    "split_tail",
]
