"""The function and class names of well-known from-scratch NumPy networks, computed by fastrnn's kernels.

Arrays are columns: (features, m) per step and (features, m, T_x) per sequence of m examples, float64. Gradients are
exact. Where two networks give one name to different things, each has its module: `fastrnn.scratch.course` and
`fastrnn.scratch.blog` for `SimpleRNN` and `LSTM`, `fastrnn.scratch.anbn` for the notebook that learns a^n b^n.
``from fastrnn.scratch import *`` leaves out `LSTM`, which is `fastrnn.scratch.blog.LSTM`: it would hide `fastrnn.LSTM`.

Examples
--------
A step of training on one name:

>>> import numpy as np
>>> from fastrnn.scratch import *
>>> corpus, tokenizer, X, Y = load_dataset("dinos", mode="line_by_line")
>>> V = tokenizer.vocab_size()
>>> parameters = initialize_lstm_parameters(50, V, V)
>>> optimizer = SGDOptimizer(learning_rate=0.01)
>>> a, logits, caches = lstm_forward(X[0], np.zeros((50, 1)), parameters)
>>> loss, dy = compute_loss_and_grad(logits, Y[0])
>>> da = project_logit_grad_to_hidden(dy, parameters["Wy"])
>>> gradients = lstm_backwards(da, caches) | compute_output_layer_gradients(dy, a)
>>> parameters = optimizer.update(parameters, clip(gradients, maxValue=5))
>>> round(loss, 2)
3.3
"""

from fastrnn.scratch.activations import (
    Linear,
    LinearActivation,
    Sigmoid,
    SigmoidActivation,
    Softmax,
    SoftmaxActivation,
    Tanh,
    TanhActivation,
    sigmoid,
    softmax,
)
from fastrnn.scratch.blog import LSTM as LSTM  # without the "as" it would be an import that nothing uses
from fastrnn.scratch.blog import encode
from fastrnn.scratch.course import SimpleLSTM, SimpleRNN
from fastrnn.scratch.data import (
    TextDataset,
    create_training_sequences_continuous,
    create_training_sequences_line_by_line,
    load_dataset,
    load_text,
    one_hot_encode,
    pad_sequences,
)
from fastrnn.scratch.generation import (
    generate_text,
    generate_text_lstm,
    get_sample,
    sample_from_logits,
    set_random_seed,
)
from fastrnn.scratch.gradients import clip
from fastrnn.scratch.losses import (
    compute_loss_and_grad,
    cross_entropy_loss,
    cross_entropy_loss_grad_from_logits,
    get_initial_loss,
    smooth,
)
from fastrnn.scratch.lstm import (
    initialize_lstm_parameters,
    lstm_backwards,
    lstm_cell_step,
    lstm_forward,
    lstm_step_backward,
)
from fastrnn.scratch.optimizers import AdamOptimizer, MomentumOptimizer, RMSPropOptimizer, SGDOptimizer
from fastrnn.scratch.output import compute_output_layer_gradients, project_logit_grad_to_hidden
from fastrnn.scratch.rnn import (
    initialize_rnn_parameters,
    rnn_backward,
    rnn_cell_step,
    rnn_forward,
    rnn_step_backward,
)
from fastrnn.scratch.text import CharTokenizer

__all__ = [
    "AdamOptimizer",
    "CharTokenizer",
    "Linear",
    "LinearActivation",
    "MomentumOptimizer",
    "RMSPropOptimizer",
    "SGDOptimizer",
    "Sigmoid",
    "SigmoidActivation",
    "SimpleLSTM",
    "SimpleRNN",
    "Softmax",
    "SoftmaxActivation",
    "Tanh",
    "TanhActivation",
    "TextDataset",
    "clip",
    "compute_loss_and_grad",
    "compute_output_layer_gradients",
    "create_training_sequences_continuous",
    "create_training_sequences_line_by_line",
    "cross_entropy_loss",
    "cross_entropy_loss_grad_from_logits",
    "encode",
    "generate_text",
    "generate_text_lstm",
    "get_initial_loss",
    "get_sample",
    "initialize_lstm_parameters",
    "initialize_rnn_parameters",
    "load_dataset",
    "load_text",
    "lstm_backwards",
    "lstm_cell_step",
    "lstm_forward",
    "lstm_step_backward",
    "one_hot_encode",
    "pad_sequences",
    "project_logit_grad_to_hidden",
    "rnn_backward",
    "rnn_cell_step",
    "rnn_forward",
    "rnn_step_backward",
    "sample_from_logits",
    "set_random_seed",
    "sigmoid",
    "smooth",
    "softmax",
]
