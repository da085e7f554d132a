"""Every public callable and arguments that it takes; values that hardly one takes; what a good error says."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

import fastrnn
from fastrnn import scratch, training
from fastrnn.cells import reset_before_gru
from fastrnn.distributed.local import Local
from fastrnn.errors import FastrnnError
from fastrnn.scratch import anbn, blog, course
from fastrnn.stream import Stream

T, N, I, H, V = 5, 2, 3, 4, 6
NAMESPACES: tuple[ModuleType, ...] = (fastrnn, training, scratch, anbn, blog, course)
METHODS = ("__call__", "__getitem__")  # those with underscores that users call

# What needs no row: records hold whatever they are given, and the base class leaves its methods to others.
RECORDS = {f"fastrnn.training.{name}" for name in ("Step", "Evaluation", "Epoch", "History")}
METHODS_LEFT = ("decode", "describe", "encode", "encode_compactly", "encode_pieces", "join")
ABSTRACT = {f"fastrnn.training.Tokenizer.{method}" for method in METHODS_LEFT}

Call = tuple[Callable[..., Any], dict[str, Any]]  # a function, and arguments that it takes, made anew for each call
Row = Callable[[], Call]


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def real(*shape: int, dtype: str = "float32") -> Any:
    return rng().standard_normal(shape).astype(dtype)


def tokens(*shape: int, below: int = V) -> Any:
    return rng().integers(0, below, shape)


# ---- fastrnn

RUN = {"dtype": "float32", "seed": 0, "backend": None, "num_threads": 1}
STACK = {"num_layers": 2, "bias": True, "batch_first": False, "dropout": 0.0, "bidirectional": False}


def of_module(cls: Any) -> dict[str, Row]:
    lstm = cls is fastrnn.LSTM
    name = f"fastrnn.{cls.__name__}"

    def options() -> dict[str, Any]:
        special = {"proj_size": 2} if lstm else {"nonlinearity": "relu"} if cls is fastrnn.RNN else {}
        if cls is fastrnn.Recurrent:
            special = {"cell": reset_before_gru, "proj_size": 0, "heads": 2}
        else:
            special |= {"precision": "float32", "quantized": False}
        return {"input_size": I, "hidden_size": H, **STACK, **special, **RUN}

    def make() -> Any:
        cell = (reset_before_gru,) if cls is fastrnn.Recurrent else ()
        return cls(*cell, I, H, 2, seed=0)

    def state() -> Any:
        return (real(2, N, H), real(2, N, H)) if lstm else real(2, N, H)

    def inputs(**more: Any) -> dict[str, Any]:
        flags = {"mask": rng().random((T, N)) > 0.3, "resets": rng().random((T, N)) > 0.5, "reset_state": state()}
        return {"x": real(T, N, I), "state": state(), "lengths": [T, 2], **flags, **more}

    def backward() -> Call:
        module = make()
        _, _, tape = module.forward(real(T, N, I), state())
        return module.backward, {"tape": tape, "dy": real(T, N, H), "dstate": state()}

    def take_steps() -> Call:
        return make().stream(N).step, {"x": real(N, I), "out": np.empty((N, H), np.float32)}

    def set_state() -> Call:
        stream = make().stream(N)
        return lambda state: setattr(stream, "state", state), {"state": state()}

    def directions() -> dict[str, Any]:
        tangents = {name: real(*p.shape) for name, p in make().parameters.items()}
        more = {"x_tangent": real(T, N, I), "state_tangent": state(), "parameter_tangents": tangents}
        return {"x": real(T, N, I), "state": state(), "lengths": [T, 2], **more}

    def backward_jvp() -> Call:
        module = make()
        _, _, tape = module.jvp(real(T, N, I))
        more = {"dy_tangent": real(T, N, H), "dstate_tangent": state()}
        return module.backward_jvp, {"tape": tape, "dy": real(T, N, H), "dstate": state(), **more}

    twice = {f"{name}.jvp": lambda: (make().jvp, directions()), f"{name}.backward_jvp": backward_jvp}
    return (twice if cls is not fastrnn.Recurrent else {}) | {
        name: lambda: (cls, options()),
        f"{name}.__call__": lambda: (make(), inputs(masked="last")),
        f"{name}.forward": lambda: (make().forward, inputs(masked="last", checkpoint_every=2)),
        f"{name}.backward": backward,
        f"{name}.trace": lambda: (make().trace, inputs()),
        f"{name}.seed_dropout": lambda: (make().seed_dropout, {"seed": 1}),
        f"{name}.stream": lambda: (make().stream, {"batch_size": N}),
        f"{name}.explain": lambda: (make().explain, {"shape": (T, N, I), "tokens": False, "training": True}),
        f"{name}.state_dict": lambda: (make().state_dict, {}),
        f"{name}.load_state_dict": lambda: (make().load_state_dict, {"state_dict": make().state_dict()}),
        f"{name}.freeze": lambda: (make().freeze, {}),
        f"{name}.stream.step": take_steps,
        f"{name}.stream.state": set_state,
        f"{name}.stream.reset": lambda: (make().stream(N).reset, {"rows": [1]}),
        f"{name}.stream.refresh": lambda: (make().stream(N).refresh, {}),
    }


def of_cell(cls: Any) -> dict[str, Row]:
    lstm = cls is fastrnn.LSTMCell
    name = f"fastrnn.{cls.__name__}"

    def options() -> dict[str, Any]:
        special = {"nonlinearity": "relu"} if cls is fastrnn.RNNCell else {}
        return {"input_size": I, "hidden_size": H, "bias": True, **special, **RUN}

    def make() -> Any:
        return cls(I, H, seed=0)

    def state() -> Any:
        return (real(N, H), real(N, H)) if lstm else real(N, H)

    def backward() -> Call:
        cell = make()
        _, tape = cell.forward(real(N, I), state())
        return cell.backward, {"tape": tape, "dstate": state()}

    return {
        name: lambda: (cls, options()),
        f"{name}.__call__": lambda: (make(), {"x": real(N, I), "state": state()}),
        f"{name}.forward": lambda: (make().forward, {"x": real(N, I), "state": state()}),
        f"{name}.backward": backward,
        f"{name}.state_dict": lambda: (make().state_dict, {}),
        f"{name}.load_state_dict": lambda: (make().load_state_dict, {"state_dict": make().state_dict()}),
        f"{name}.freeze": lambda: (make().freeze, {}),
    }


def of_ensemble() -> dict[str, Row]:
    name, K = "fastrnn.Ensemble", 2

    def make() -> Any:
        return fastrnn.stack_modules([fastrnn.LSTM(I, H, 2, seed=seed) for seed in range(K)])

    def state() -> Any:
        return real(K, 2, N, H), real(K, 2, N, H)

    def inputs(**more: Any) -> dict[str, Any]:
        flags = {"mask": rng().random((T, N)) > 0.3, "resets": rng().random((T, N)) > 0.5, "reset_state": state()}
        return {"x": real(T, N, I), "state": state(), "lengths": [T, 2], **flags, **more}

    def backward() -> Call:
        ensemble = make()
        _, _, tape = ensemble.forward(real(T, N, I), state())
        return ensemble.backward, {"tape": tape, "dy": real(K, T, N, H), "dstate": state()}

    return {
        "fastrnn.stack_modules": lambda: (fastrnn.stack_modules, {"modules": [fastrnn.GRU(I, H), fastrnn.GRU(I, H)]}),
        name: lambda: (
            fastrnn.Ensemble,
            {"module": fastrnn.GRU(I, H), "members": K, "seed": 0, "backend": None, "num_threads": 1},
        ),
        f"{name}.__call__": lambda: (make(), inputs(masked="last")),
        f"{name}.__getitem__": lambda: (make().__getitem__, {"k": 1}),
        f"{name}.forward": lambda: (make().forward, inputs(masked="last", checkpoint_every=2)),
        f"{name}.backward": backward,
        f"{name}.trace": lambda: (make().trace, inputs()),
        f"{name}.explain": lambda: (make().explain, {"shape": (T, N, I), "tokens": False, "training": True}),
        f"{name}.state_dict": lambda: (make().state_dict, {}),
        f"{name}.load_state_dict": lambda: (make().load_state_dict, {"state_dict": make().state_dict()}),
        f"{name}.freeze": lambda: (make().freeze, {}),
    }


def top() -> dict[str, Row]:
    rows: dict[str, Row] = {
        "fastrnn.info": lambda: (fastrnn.info, {}),
        "fastrnn.get_num_threads": lambda: (fastrnn.get_num_threads, {}),
        "fastrnn.set_num_threads": lambda: (fastrnn.set_num_threads, {"num_threads": 1}),
        "fastrnn.use_backend": lambda: (fastrnn.use_backend, {"name": None}),
        "fastrnn.quantize": lambda: (
            fastrnn.quantize,
            {"module": fastrnn.LSTM(I, H, seed=0), "calibration": real(T, N, I)},
        ),
        "fastrnn.save": lambda: (fastrnn.save, {"model": layer(), "path": "model.safetensors"}),
        "fastrnn.load": lambda: (fastrnn.load, {"path": model_file(), "cells": [reset_before_gru]}),
        "fastrnn.cell": lambda: (
            fastrnn.cell,
            {"gates": "z n k r", "states": "h", "parameters": {"p": 1.0}, "from_x": "n", "from_h": "k", "apart": "r"},
        ),
        "fastrnn.check_cell": lambda: (
            fastrnn.check_cell,
            {"cell": reset_before_gru, "hidden_size": 2, "seed": 0, "limit": 1e-6},
        ),
    }
    for module in (fastrnn.RNN, fastrnn.LSTM, fastrnn.GRU, fastrnn.Recurrent):
        rows |= of_module(module)
    rows |= of_ensemble()
    for cell in (fastrnn.RNNCell, fastrnn.LSTMCell, fastrnn.GRUCell):
        rows |= of_cell(cell)
    return rows


# ---- fastrnn.training

TEXT = "to be or not to be,\nthat is the question\n" * 12


def parameters() -> dict[str, Any]:
    return {"a": real(3, 2), "b": real(4)}


def layer() -> Any:
    return training.Linear(I, H, seed=0)


def of_optimizer(cls: Any, **options: Any) -> dict[str, Row]:
    name = f"fastrnn.training.{cls.__name__}"
    return {
        name: lambda: (cls, {"parameters": parameters(), "learning_rate": 0.1, **options}),
        f"{name}.step": lambda: (cls(parameters()).step, {"grads": parameters()}),
        f"{name}.state_dict": lambda: (cls(parameters()).state_dict, {}),
        f"{name}.load_state_dict": lambda: (
            cls(parameters()).load_state_dict,
            {"state_dict": cls(parameters()).state_dict()},
        ),
    }


def of_schedule(cls: Any, **options: Any) -> dict[str, Row]:
    name = f"fastrnn.training.{cls.__name__}"
    return {name: lambda: (cls, dict(options)), f"{name}.__call__": lambda: (cls(**options), {"step": 3})}


def of_layer(
    name: str,
    make: Callable[[], Any],
    x: Callable[[], Any],
    dy: Callable[[], Any],
    of_x: str = "x",
    of_dy: str = "dy",
    **lengths: Any,
) -> dict[str, Row]:
    """The rows of a layer's methods, which calls x and dy `of_x` and `of_dy`, and may take lengths."""

    def backward() -> Call:
        layer = make()
        return layer.backward, {"tape": layer.forward(x(), **lengths)[1], of_dy: dy()}

    return {
        f"{name}.__call__": lambda: (make(), {of_x: x(), **lengths}),
        f"{name}.forward": lambda: (make().forward, {of_x: x(), **lengths}),
        f"{name}.backward": backward,
        f"{name}.state_dict": lambda: (make().state_dict, {}),
        f"{name}.load_state_dict": lambda: (make().load_state_dict, {"state_dict": make().state_dict()}),
        f"{name}.freeze": lambda: (make().freeze, {}),
    }


def sequential() -> Any:
    return training.Sequential(
        {
            "embedding": training.Embedding(V, I, seed=0),
            "rnn": training.Last(fastrnn.GRU(I, H, seed=0)),
            "head": training.Linear(H, 1, seed=0),
        }
    )


def of_model(name: str, make: Callable[[], Any]) -> dict[str, Row]:
    def targets(**more: Any) -> dict[str, Any]:
        return {"tokens": tokens(T, N), "targets": tokens(T, N), "state": None, "lengths": [T, 2], **more}

    return {
        f"{name}.__call__": lambda: (make(), {"tokens": tokens(T, N), "state": None}),
        f"{name}.trace": lambda: (make().trace, {"tokens": tokens(T, N)}),
        f"{name}.loss": lambda: (make().loss, targets()),
        f"{name}.gradients": lambda: (make().gradients, targets()),
        f"{name}.seed_dropout": lambda: (make().seed_dropout, {"seed": 1}),
        f"{name}.state_dict": lambda: (make().state_dict, {}),
        f"{name}.load_state_dict": lambda: (make().load_state_dict, {"state_dict": make().state_dict()}),
    }


def of_tokenizer(name: str, make: Callable[[], Any]) -> dict[str, Row]:
    return {
        f"{name}.encode": lambda: (make().encode, {"text": "to be"}),
        f"{name}.encode_pieces": lambda: (lambda pieces: list(make().encode_pieces(pieces)), {"pieces": ["to ", "be"]}),
        f"{name}.encode_compactly": lambda: (make().encode_compactly, {"text": "to be", "by_line": False}),
        f"{name}.decode": lambda: (make().decode, {"tokens": [1, 0, 2]}),
        f"{name}.join": lambda: (make().join, {"prompt": "to", "tokens": [1, 2]}),
        f"{name}.describe": lambda: (make().describe, {}),
    }


def characters() -> Any:
    return training.CharTokenizer.fit(TEXT, by_line=True)


def words() -> Any:
    return training.WordTokenizer.fit(TEXT)


def language_model() -> Any:
    return training.LanguageModel(fastrnn.LSTM(V, H, seed=0), training.Linear(H, V, seed=0), None, 0.5, seed=0)


def char_model() -> Any:
    return training.CharModel(V, H, seed=0, dropout=0.5)


def word_model() -> Any:
    return training.WordModel(V, H, seed=0, dropout=0.5)


def settings(**changes: Any) -> Any:
    return training.Settings(**{"hidden_size": 4, "seq_length": 5, "batch_size": 2, "steps": 2, **changes})


def checkpoint() -> str:
    """The path of a checkpoint in the working folder."""
    if not Path("run.safetensors").exists():
        trainer = training.Trainer(TEXT, settings())
        list(trainer.run())
        trainer.save("run.safetensors")
    return "run.safetensors"


def model_file() -> str:
    """The path of a model in the working folder."""
    fastrnn.save(layer(), "model.safetensors")
    return "model.safetensors"


def text_file() -> str:
    Path("text.txt").write_text(TEXT)
    return "text.txt"


def generated() -> Call:
    tokenizer = characters()
    model = training.CharModel(len(tokenizer), H, seed=0)
    arguments = {"model": model, "tokenizer": tokenizer, "prompt": "to", "length": 3, "temperature": 0.8, "seed": 0}
    return training.generate_text, {**arguments, "top_k": 3, "top_p": 0.9, "stop": "b"}


def keras_weights() -> Call:
    rnn = fastrnn.GRU(I, H, seed=0)
    return training.from_keras_weights, {
        "rnn": rnn,
        "weights": [real(I, 3 * H), real(H, 3 * H), real(2, 3 * H)],
    }


def of_training() -> dict[str, Row]:
    t = training
    own = "fastrnn.training."

    def fit(cls: Any, **more: Any) -> Row:
        cleaning = {"lower": True, "letters_only": False, "by_line": True}
        return lambda: (cls.fit, {"text": TEXT, **cleaning, **more})

    def elementwise(reduction: str) -> dict[str, Any]:
        return {"y": real(N, H), "targets": real(N, H), "reduction": reduction, "weights": real(N, H)}

    def adaptive() -> Any:
        return t.AdaptiveSoftmax(8, 20, [4, 10], 2.0, seed=0)

    def adaptive_backward() -> Call:
        softmax = adaptive()
        return softmax.backward, {"tape": softmax.forward(real(N, 8), tokens(N, below=20))[1]}

    def char_backward() -> Call:
        model = char_model()
        logits, _, tape = model.forward(tokens(T, N))
        return model.backward, {"tape": tape, "dlogits": np.ones_like(logits)}

    def plateau() -> Any:
        return t.ReduceOnPlateau(patience=1)

    def trainer() -> Any:
        return t.Trainer(TEXT, settings())

    def lines() -> Any:
        return t.Lines([tokens(5), tokens(3)], 2, 4)

    def windows() -> Any:
        return t.Windows(tokens(30), 2, 4)

    rows: dict[str, Row] = {
        own + "check_gradients": lambda: (
            t.check_gradients,
            {
                "module": fastrnn.GRU(I, H, dtype="float64", seed=0),
                "x": real(T, N, I, dtype="float64"),
                "state": real(1, N, H, dtype="float64"),
                "lengths": [T, 2],
                "mask": rng().random((T, N)) > 0.3,
                "resets": rng().random((T, N)) > 0.5,
                "most": 2,
                "seed": 0,
            },
        ),
        own + "AdaptiveSoftmax": lambda: (
            t.AdaptiveSoftmax,
            {"in_features": 8, "num_classes": 20, "cutoffs": [4, 10], "div_value": 2.0, "head_bias": True, **RUN},
        ),
        own + "AdaptiveSoftmax.__call__": lambda: (adaptive(), {"x": real(N, 8)}),
        own + "AdaptiveSoftmax.forward": lambda: (
            adaptive().forward,
            {"x": real(N, 8), "targets": tokens(N, below=20)},
        ),
        own + "AdaptiveSoftmax.backward": adaptive_backward,
        own + "AdaptiveSoftmax.state_dict": lambda: (adaptive().state_dict, {}),
        own + "AdaptiveSoftmax.freeze": lambda: (adaptive().freeze, {}),
        own + "AdaptiveSoftmax.load_state_dict": lambda: (
            adaptive().load_state_dict,
            {"state_dict": adaptive().state_dict()},
        ),
        own + "pad": lambda: (t.pad, {"sequences": [[1, 2, 3], [4]], "padding_value": 0, "batch_first": True}),
        own + "encode_lines": lambda: (t.encode_lines, {"text": TEXT, "tokenizer": characters()}),
        own + "Windows": lambda: (t.Windows, {"tokens": tokens(30), "batch_size": 2, "seq_length": 4}),
        own + "Windows.__getitem__": lambda: (windows().__getitem__, {"k": 1}),
        own + "Windows.batch": lambda: (windows().batch, {"step": 1}),
        own + "Lines": lambda: (
            t.Lines,
            {"sequences": [tokens(5), tokens(3)], "batch_size": 2, "seq_length": 4, "seed": 0},
        ),
        own + "Lines.batch": lambda: (lines().batch, {"step": 1}),
        own + "load_model": lambda: (t.load_model, {"path": checkpoint(), "backend": None, "num_threads": 1}),
        own + "clip_global_norm": lambda: (t.clip_global_norm, {"grads": parameters(), "max_norm": 1.0}),
        own + "clip_value": lambda: (t.clip_value, {"grads": parameters(), "limit": 1.0}),
        own + "Last": lambda: (t.Last, {"rnn": fastrnn.GRU(I, H, seed=0)}),
        own + "Sequential": lambda: (t.Sequential, {"layers": {"head": layer()}}),
        own + "dinosaur_text": lambda: (t.dinosaur_text, {}),
        own + "load_dinosaurs": lambda: (t.load_dinosaurs, {}),
        own + "EarlyStopping": lambda: (t.EarlyStopping, {"patience": 2, "min_delta": 0.1}),
        own + "EarlyStopping.is_new_best": lambda: (t.EarlyStopping(2).is_new_best, {"loss": 1.0}),
        own + "EarlyStopping.update": lambda: (t.EarlyStopping(2).update, {"loss": 1.0}),
        own + "EarlyStopping.state_dict": lambda: (t.EarlyStopping(2).state_dict, {}),
        own + "EarlyStopping.load_state_dict": lambda: (
            t.EarlyStopping(2).load_state_dict,
            {"state_dict": t.EarlyStopping(2).state_dict()},
        ),
        own + "from_keras_weights": keras_weights,
        own + "Embedding": lambda: (
            t.Embedding,
            {"num_embeddings": V, "embedding_dim": I, "padding_idx": 0, "dtype": "float32", "seed": 0},
        ),
        own + "Linear": lambda: (t.Linear, {"in_features": I, "out_features": H, "bias": True, **RUN}),
        own + "Dropout": lambda: (t.Dropout, {"p": 0.5, "seed": 0}),
        own + "LayerNorm": lambda: (
            t.LayerNorm,
            {"normalized_shape": I, "eps": 1e-3, "bias": True, "dtype": "float32"},
        ),
        own + "Conv1d": lambda: (
            t.Conv1d,
            {
                "in_channels": I,
                "out_channels": H,
                "kernel_size": 3,
                "causal": True,
                "bias": True,
                "batch_first": False,
                **RUN,
            },
        ),
        own + "Pool": lambda: (t.Pool, {"kind": "mean", "batch_first": False}),
        own + "AttentionPool": lambda: (
            t.AttentionPool,
            {"in_features": I, "units": H, "batch_first": False, "dtype": "float32", "seed": 0},
        ),
        own + "Trainer": lambda: (
            t.Trainer,
            {"text": TEXT, "settings": settings(), "backend": None, "num_threads": 1},
        ),
        own + "Trainer.run": lambda: (lambda: list(trainer().run()), {}),
        own + "Trainer.share": lambda: (trainer().share, {"group": Local(0, [])}),
        own + "Trainer.check_processes": lambda: (trainer().check_processes, {"processes": 1}),
        own + "Trainer.save": lambda: (trainer().save, {"path": "saved.safetensors"}),
        own + "Trainer.resume": lambda: (
            t.Trainer.resume,
            {"path": checkpoint(), "text": TEXT, "backend": None, "num_threads": 1, "steps": 3, "patience": 4},
        ),
        own + "load_history": lambda: (t.load_history, {"path": checkpoint()}),
        own + "mse": lambda: (t.mse, elementwise("mean")),
        own + "mae": lambda: (t.mae, elementwise("sum")),
        own + "QuantileLoss": lambda: (t.QuantileLoss, {"quantiles": [0.1, 0.9]}),
        own + "QuantileLoss.__call__": lambda: (
            t.QuantileLoss([0.1, 0.9]),
            {"y": real(N, 4), "targets": real(N, 2), "weights": np.ones(N, np.float32)},
        ),
        own + "fit": lambda: (
            t.fit,
            {
                "model": t.Sequential(t.Last(fastrnn.GRU(I, H, seed=0)), t.Linear(H, 2, seed=0)),
                "X": [real(3, I), real(T, I)],
                "y": np.array([1, 0]),
                "loss": "cross_entropy",
                "metrics": ["f1"],
                "validation": ([real(3, I)], [1]),
                "epochs": 1,
                "batch_size": 2,
                "shuffle": True,
                "optimizer": "sgd",
                "learning_rate": 0.1,
                "schedule": "cosine",
                "clip": 1.0,
                "clip_value": 1.0,
                "patience": 1,
                "class_weight": {0: 2.0},
                "sample_weight": [1.0, 2.0],
                "callbacks": [print],
                "progress": False,
                "seed": 0,
                "checkpoint": None,
                "resume": False,
                "workers": 1,
                "group": None,
            },
        ),
        own + "predict": lambda: (
            t.predict,
            {"model": t.Last(fastrnn.GRU(I, H, seed=0)), "X": [real(3, I), real(T, I)], "batch_size": 2},
        ),
        own + "bce_with_logits": lambda: (
            t.bce_with_logits,
            {"logits": real(N, H), "targets": np.zeros((N, H)), "reduction": "sum", "weights": np.ones((N, H))},
        ),
        own + "cross_entropy": lambda: (
            t.cross_entropy,
            {
                "logits": real(N, V),
                "targets": tokens(N),
                "ignore_index": -1,
                "reduction": "mean",
                "weights": np.ones(N),
            },
        ),
        own + "LanguageModel": lambda: (
            t.LanguageModel,
            {
                "rnn": fastrnn.GRU(I, H, 2, seed=0),
                "head": t.Linear(H, V, seed=0),
                "embedding": t.Embedding(V, I, seed=0),
                "dropout": 0.5,
                "seed": 0,
            },
        ),
        own + "CharModel": lambda: (
            t.CharModel,
            {"vocabulary_size": V, "hidden_size": H, "num_layers": 2, "cell": "gru", "dropout": 0.5, **RUN},
        ),
        own + "CharModel.forward": lambda: (char_model().forward, {"tokens": tokens(T, N), "state": None}),
        own + "CharModel.backward": char_backward,
        own + "WordModel": lambda: (
            t.WordModel,
            {
                "vocabulary_size": 20,
                "hidden_size": 16,
                "num_layers": 1,
                "cell": "gru",
                "cutoffs": [4, 10],
                "dropout": 0.5,
                **RUN,
            },
        ),
        own + "plot_losses": lambda: (
            t.plot_losses,
            {
                "path": "losses.png",
                "losses": [3.0, 2.0, 1.0],
                "evaluations": [t.Evaluation(2, 2.0)],
                "token": "word",
            },
        ),
        own + "generate_text": generated,
        own + "ReduceOnPlateau": lambda: (
            t.ReduceOnPlateau,
            {"gamma": 0.5, "patience": 1, "threshold": 0.1, "minimum": 0.0},
        ),
        own + "ReduceOnPlateau.__call__": lambda: (plateau(), {"step": 1}),
        own + "ReduceOnPlateau.update": lambda: (plateau().update, {"loss": 1.0}),
        own + "ReduceOnPlateau.state_dict": lambda: (plateau().state_dict, {}),
        own + "ReduceOnPlateau.load_state_dict": lambda: (
            plateau().load_state_dict,
            {"state_dict": plateau().state_dict()},
        ),
        own + "Settings": lambda: (
            t.Settings,
            {name: field.default for name, field in t.Settings.__dataclass_fields__.items()},
        ),
        own + "choose_settings": lambda: (
            t.choose_settings,
            {"text": TEXT, "minutes": 0.001, "backend": "numpy", "num_threads": 1},
        ),
        own + "read_text": lambda: (t.read_text, {"path": text_file()}),
        own + "split_tail": lambda: (t.split_tail, {"tokens": tokens(30), "fraction": 0.2}),
        own + "Tokenizer": lambda: (
            t.Tokenizer,
            {"pieces": ["a", "b"], "unknown": None, "lower": True, "letters_only": False, "by_line": True},
        ),
        own + "CharTokenizer": lambda: (
            t.CharTokenizer,
            {"characters": "\nab", "oov": True, "lower": True, "letters_only": False, "by_line": True},
        ),
        own + "CharTokenizer.fit": fit(t.CharTokenizer, oov=True),
        own + "WordTokenizer": lambda: (
            t.WordTokenizer,
            {"words": ["to", "be"], "lower": True, "letters_only": False, "by_line": False},
        ),
        own + "WordTokenizer.fit": fit(t.WordTokenizer, max_words=5, min_count=2),
    }
    rows |= of_optimizer(t.SGD, momentum=0.5)
    rows |= of_optimizer(t.Momentum, momentum=0.5)
    rows |= of_optimizer(t.RMSProp, alpha=0.9, eps=1e-6)
    rows |= of_optimizer(t.Adam, betas=(0.9, 0.99), eps=1e-6)
    rows |= of_optimizer(t.AdamW, betas=(0.9, 0.99), eps=1e-6, weight_decay=0.1)
    for name, other in (("RMSProp", "RMSprop"), ("ReduceOnPlateau", "ReduceLROnPlateau")):
        rows |= {full.replace(name, other): row for full, row in rows.items() if f"{full}.".startswith(f"{own}{name}.")}
    rows |= of_schedule(t.ConstantRate)
    rows |= of_schedule(t.CosineDecay, steps=4, minimum=0.1)
    rows |= of_schedule(t.ExponentialDecay, gamma=0.9)
    rows |= of_schedule(t.LinearDecay, steps=4, minimum=0.1)
    rows |= of_schedule(t.LinearWarmup, steps=4, start=0.1, then=t.ConstantRate())
    rows |= of_schedule(t.MultiStepDecay, milestones=[1, 3], gamma=0.5)
    rows |= of_schedule(t.StepDecay, every=2, gamma=0.5)
    rows |= of_layer(
        own + "Embedding", lambda: t.Embedding(V, I, seed=0), lambda: tokens(T, N), lambda: real(T, N, I), of_x="tokens"
    )
    rows |= of_layer(own + "Linear", layer, lambda: real(T, N, I), lambda: real(T, N, H))
    for name, make in (
        ("Dropout", lambda: t.Dropout(0.5, seed=0)),
        ("Last", lambda: t.Last(fastrnn.GRU(I, H, 2, dropout=0.1, seed=0))),
        ("Sequential", sequential),
    ):
        rows[own + name + ".seed_dropout"] = lambda make=make: (make().seed_dropout, {"seed": 1})
    rows |= of_layer(own + "Dropout", lambda: t.Dropout(0.5, seed=0), lambda: real(T, N), lambda: real(T, N))
    rows |= of_layer(
        own + "Last",
        lambda: t.Last(fastrnn.GRU(I, H, seed=0)),
        lambda: real(T, N, I),
        lambda: real(N, H),
        of_dy="dh",
        lengths=[T, 2],
    )
    for cls in (t.ReLU, t.Sigmoid, t.Tanh, t.Softmax):
        name = own + cls.__name__
        rows |= {name: lambda cls=cls: (cls, {})}  # type: ignore[misc]
        rows |= of_layer(name, cls, lambda: real(T, N), lambda: real(T, N))
    rows |= of_layer(own + "LayerNorm", lambda: t.LayerNorm(I), lambda: real(T, I), lambda: real(T, I))
    rows |= of_layer(own + "Conv1d", lambda: t.Conv1d(I, H, 3, seed=0), lambda: real(T, N, I), lambda: real(T, N, H))
    flags = {"lengths": [T, 2], "mask": rng().random((T, N)) > 0.3, "resets": rng().random((T, N)) > 0.5}
    rows |= of_layer(own + "Pool", lambda: t.Pool("max"), lambda: real(T, N, I), lambda: real(N, I), **flags)
    rows |= of_layer(
        own + "AttentionPool",
        lambda: t.AttentionPool(I, H, seed=0),
        lambda: real(T, N, I),
        lambda: real(N, I),
        **flags,
    )
    rows |= of_layer(own + "Sequential", sequential, lambda: tokens(T, N), lambda: real(N, 1), lengths=[T, 2])
    rows |= of_model(own + "LanguageModel", language_model)
    rows |= of_model(own + "CharModel", char_model)
    rows |= of_model(own + "WordModel", word_model)
    rows |= of_tokenizer(own + "CharTokenizer", characters)
    rows |= of_tokenizer(own + "WordTokenizer", words)
    return rows


# ---- fastrnn.scratch

OF_LSTM = ("da", "caches")


def column(*shape: int) -> Any:
    return real(*shape, dtype="float64")


def lstm_parameters() -> Any:
    return scratch.initialize_lstm_parameters(H, V, V)


def rnn_parameters() -> Any:
    return scratch.initialize_rnn_parameters(H, V, V)


def fitted() -> Any:
    return scratch.CharTokenizer().fit(TEXT)


def of_scratch_optimizer(cls: Any, **options: Any) -> dict[str, Row]:
    name = f"fastrnn.scratch.{cls.__name__}"

    def gradients() -> dict[str, Any]:
        return {"d" + name: array for name, array in parameters().items()}

    return {
        name: lambda: (cls, {"learning_rate": 0.1, **options}),
        f"{name}.update": lambda: (cls(0.1).update, {"parameters": parameters(), "gradients": gradients()}),
        f"{name}.apply_gradients": lambda: (
            cls(0.1).apply_gradients,
            {"grads_and_vars": [(real(3, 2), real(3, 2)), (real(4), real(4))]},
        ),
    }


def of_scratch() -> dict[str, Row]:
    s = scratch
    own = "fastrnn.scratch."

    def generate(function: Any, make: Callable[[int], Any]) -> Row:
        def row() -> Call:
            tokenizer = fitted()
            arguments = {"parameters": make(tokenizer.vocab_size()), "tokenizer": tokenizer, "start_string": "to"}
            return function, {**arguments, "temperature": 0.9, "max_length": 3, "seed": 0}

        return row

    def lstm_backward() -> Call:
        a, _, caches = s.lstm_forward(tokens(T), np.zeros((H, 1)), lstm_parameters())
        return s.lstm_backwards, {"da": np.ones_like(a), "caches": caches}

    def lstm_step() -> Call:
        *_, cache = s.lstm_cell_step(np.eye(V)[:, :N], column(H, N), column(H, N), lstm_parameters())
        return s.lstm_step_backward, {"da_next": column(H, N), "dc_next": column(H, N), "cache": cache}

    def rnn_backward() -> Call:
        cache = s.rnn_forward(tokens(T), np.zeros((H, 1)), rnn_parameters())
        return s.rnn_backward, {"da": column(H, 1, T), "parameters": rnn_parameters(), "cache": cache}

    def rnn_step() -> Call:
        *_, cache = s.rnn_cell_step(np.eye(V)[:, :N], column(H, N), rnn_parameters())
        return s.rnn_step_backward, {"da": column(H, N), "cache": cache}

    rows: dict[str, Row] = {
        own + "sigmoid": lambda: (s.sigmoid, {"x": column(3)}),
        own + "softmax": lambda: (s.softmax, {"z": column(3, 2), "temperature": 0.5}),
        own + "encode": lambda: (s.encode, {"sequence": ["a", "b", "EOS"]}),
        own + "TextDataset": lambda: (
            s.TextDataset,
            {"X": [[1, 2], [3]], "Y": [[2, 3], [1]], "batch_size": 2, "shuffle": True, "seed": 0, "value": -1},
        ),
        own + "create_training_sequences_continuous": lambda: (
            s.create_training_sequences_continuous,
            {"corpus": TEXT, "tokenizer": fitted(), "seq_length": 5},
        ),
        own + "create_training_sequences_line_by_line": lambda: (
            s.create_training_sequences_line_by_line,
            {"lines": TEXT.split("\n"), "tokenizer": fitted()},
        ),
        own + "load_dataset": lambda: (
            s.load_dataset,
            {"name": text_file(), "mode": "continuous", "seq_length": 5, "lowercase": True, "oov_token": None},
        ),
        own + "load_text": lambda: (s.load_text, {"path": text_file()}),
        own + "one_hot_encode": lambda: (s.one_hot_encode, {"sequence": [1, 0], "vocab_size": 3}),
        own + "pad_sequences": lambda: (
            s.pad_sequences,
            {"sequences": [[1, 2, 3], [4]], "padding": "post", "value": -1},
        ),
        own + "generate_text": generate(s.generate_text, lambda V: s.initialize_rnn_parameters(H, V, V)),
        own + "generate_text_lstm": generate(s.generate_text_lstm, lambda V: s.initialize_lstm_parameters(H, V, V)),
        own + "get_sample": lambda: (s.get_sample, {"sample_ix": [1, 0], "ix_to_char": {0: "a", 1: "b"}}),
        own + "sample_from_logits": lambda: (s.sample_from_logits, {"logits": column(V, 1), "seed": 0}),
        own + "set_random_seed": lambda: (s.set_random_seed, {"seed": 0}),
        own + "clip": lambda: (s.clip, {"gradients": parameters(), "maxValue": 5}),
        own + "compute_loss_and_grad": lambda: (
            s.compute_loss_and_grad,
            {"logits": column(V, 1, T), "y_true": tokens(T), "reduction": "mean"},
        ),
        own + "cross_entropy_loss": lambda: (s.cross_entropy_loss, {"z": column(V, 1, T), "y_true": tokens(T)}),
        own + "cross_entropy_loss_grad_from_logits": lambda: (
            s.cross_entropy_loss_grad_from_logits,
            {"logits": column(V, 1, T), "y_true": tokens(T)},
        ),
        own + "get_initial_loss": lambda: (s.get_initial_loss, {"vocab_size": 27, "seq_length": 10}),
        own + "smooth": lambda: (s.smooth, {"loss": 1.0, "cur_loss": 2.0}),
        own + "initialize_lstm_parameters": lambda: (
            s.initialize_lstm_parameters,
            {"n_a": H, "n_x": V, "n_y": V, "seed": 1},
        ),
        own + "lstm_backwards": lstm_backward,
        own + "lstm_cell_step": lambda: (
            s.lstm_cell_step,
            {
                "xt": np.eye(V)[:, :N],
                "a_prev": column(H, N),
                "c_prev": column(H, N),
                "parameters": lstm_parameters(),
            },
        ),
        own + "lstm_forward": lambda: (
            s.lstm_forward,
            {"x_seq": tokens(T), "a0": column(H, 1), "parameters": lstm_parameters()},
        ),
        own + "lstm_step_backward": lstm_step,
        own + "compute_output_layer_gradients": lambda: (
            s.compute_output_layer_gradients,
            {"dy": column(V, 1, T), "a": column(H, 1, T)},
        ),
        own + "project_logit_grad_to_hidden": lambda: (
            s.project_logit_grad_to_hidden,
            {"dy": column(V, 1, T), "Wy": column(V, H)},
        ),
        own + "initialize_rnn_parameters": lambda: (
            s.initialize_rnn_parameters,
            {"n_a": H, "n_x": V, "n_y": V, "seed": 1},
        ),
        own + "rnn_backward": rnn_backward,
        own + "rnn_cell_step": lambda: (
            s.rnn_cell_step,
            {"x_t": np.eye(V)[:, :N], "a_prev": column(H, N), "parameters": rnn_parameters()},
        ),
        own + "rnn_forward": lambda: (
            s.rnn_forward,
            {"X": tokens(T), "a0": column(H, 1), "parameters": rnn_parameters()},
        ),
        own + "rnn_step_backward": rnn_step,
        own + "CharTokenizer": lambda: (s.CharTokenizer, {"oov_token": "<UNK>"}),
        own + "CharTokenizer.fit": lambda: (s.CharTokenizer().fit, {"corpus": TEXT}),
        own + "CharTokenizer.texts_to_sequences": lambda: (fitted().texts_to_sequences, {"corpus": "to be"}),
        own + "CharTokenizer.sequences_to_texts": lambda: (fitted().sequences_to_texts, {"sequence": [1, 2]}),
        own + "CharTokenizer.get_vocab": lambda: (fitted().get_vocab, {}),
        own + "CharTokenizer.vocab_size": lambda: (fitted().vocab_size, {}),
    }
    for name in ("", "Activation"):
        for cls, x in ((s.Linear, "x"), (s.Sigmoid, "s"), (s.Tanh, "x")):
            full = f"{own}{cls.__name__}{name}"
            rows |= {
                full: lambda cls=cls: (cls, {}),  # type: ignore[misc]
                f"{full}.forward": lambda cls=cls: (cls.forward, {"x": column(3)}),  # type: ignore[misc]
                f"{full}.backward": lambda cls=cls, x=x: (cls.backward, {x: column(3)}),  # type: ignore[misc]
            }
        full = f"{own}Softmax{name}"
        rows |= {
            full: lambda: (s.Softmax, {}),
            f"{full}.forward": lambda: (s.Softmax.forward, {"z": column(3, 2), "temperature": 0.5}),
            f"{full}.backward": lambda: (s.Softmax.backward, {"s": column(3, 2), "temperature": 0.5}),
        }
    rows |= of_scratch_optimizer(s.SGDOptimizer)
    rows |= of_scratch_optimizer(s.MomentumOptimizer, beta=0.5, momentum=0.5)
    rows |= of_scratch_optimizer(s.RMSPropOptimizer, beta=0.9, epsilon=1e-6)
    rows |= of_scratch_optimizer(s.AdamOptimizer, beta1=0.9, beta2=0.99, epsilon=1e-6)
    return rows


def of_courses() -> dict[str, Row]:
    rows: dict[str, Row] = {}
    rnn, lstm = course.SimpleRNN, course.SimpleLSTM
    for own in ("fastrnn.scratch.", "fastrnn.scratch.course."):
        rows |= {
            own + "SimpleRNN": lambda: (rnn, {"input_size": I, "hidden_size": H, "output_size": 2}),
            own + "SimpleRNN.forward": lambda: (rnn(I, H, 2).forward, {"X": column(T, I), "h_prev": column(H, 1)}),
            own + "SimpleLSTM": lambda: (lstm, {"input_size": I, "hidden_size": H}),
            own + "SimpleLSTM.forward": lambda: (lstm(I, H).forward, {"X": column(T, I)}),
            own + "SimpleLSTM.sigmoid": lambda: (lstm(I, H).sigmoid, {"x": column(3)}),
            own + "SimpleLSTM.forward_step": lambda: (
                lstm(I, H).forward_step,
                {"x_t": column(I, 1), "h_prev": column(H, 1), "C_prev": column(H, 1)},
            ),
        }
    own = "fastrnn.scratch.blog."
    return rows | {
        own + "SimpleRNN": lambda: (blog.SimpleRNN, {"input_size": I, "hidden_size": H}),
        own + "SimpleRNN.forward": lambda: (
            blog.SimpleRNN(I, H).forward,
            {"X": column(I, 1), "h_prev": column(H, 1)},
        ),
        own + "LSTM": lambda: (blog.LSTM, {"input_size": I, "hidden_size": H}),
        own + "LSTM.forward": lambda: (
            blog.LSTM(I, H).forward,
            {"input": column(I, 1), "h_prev": column(H, 1), "c_prev": column(H, 1)},
        ),
        own + "encode": lambda: (blog.encode, {"sequence": ["a", "b", "EOS"]}),
    }


def of_anbn() -> dict[str, Row]:
    a = anbn
    own = "fastrnn.scratch.anbn."

    def one_hot() -> Any:
        return a.one_hot_encode_sequence(["a", "b", "EOS"])

    def rnn_backward() -> Call:
        inputs, params = one_hot(), a.init_rnn(H)
        outputs, states = a.forward_pass(inputs, np.zeros((H, 1)), params)
        return a.backward_pass, {
            "inputs": inputs,
            "outputs": outputs,
            "hidden_states": states,
            "targets": inputs,
            "params": params,
        }

    def lstm_backward() -> Call:
        inputs, p = one_hot(), a.init_lstm(H)
        names = ("z", "f", "i", "g", "C", "o", "h", "v", "outputs")
        found = a.forward(inputs, np.zeros((H, 1)), np.zeros((H, 1)), p)
        return a.backward, {**dict(zip(names, found, strict=True)), "targets": inputs, "p": p}

    return {
        own + "Dataset": lambda: (a.Dataset, {"inputs": [["a"]], "targets": [["b"]]}),
        own + "Dataset.__getitem__": lambda: (a.Dataset([["a"]], [["b"]]).__getitem__, {"index": 0}),
        own + "generate_dataset": lambda: (a.generate_dataset, {"num_sequences": 3, "seed": 0}),
        own + "create_datasets": lambda: (
            a.create_datasets,
            {
                "sequences": a.generate_dataset(10, 0),
                "dataset_class": a.Dataset,
                "p_train": 0.8,
                "p_val": 0.1,
                "p_test": 0.1,
            },
        ),
        own + "one_hot_encode": lambda: (a.one_hot_encode, {"idx": 1, "vocab_size": 4}),
        own + "one_hot_encode_sequence": lambda: (
            a.one_hot_encode_sequence,
            {"sequence": ["a", "b"], "vocab_size": 4, "word_to_idx": dict(a.WORD_TO_IDX)},
        ),
        own + "init_orthogonal": lambda: (a.init_orthogonal, {"param": np.zeros((2, 3))}),
        own + "clip_gradient_norm": lambda: (a.clip_gradient_norm, {"grads": [column(3), column(2)], "max_norm": 0.5}),
        own + "update_parameters": lambda: (
            a.update_parameters,
            {"params": [column(3), column(2)], "grads": [column(3), column(2)], "lr": 0.1},
        ),
        own + "init_rnn": lambda: (a.init_rnn, {"hidden_size": H, "vocab_size": 4}),
        own + "forward_pass": lambda: (
            a.forward_pass,
            {"inputs": one_hot(), "hidden_state": np.zeros((H, 1)), "params": a.init_rnn(H)},
        ),
        own + "backward_pass": rnn_backward,
        own + "init_lstm": lambda: (a.init_lstm, {"hidden_size": H, "vocab_size": 4, "z_size": H + 4}),
        own + "forward": lambda: (
            a.forward,
            {"inputs": one_hot(), "h_prev": np.zeros((H, 1)), "C_prev": np.zeros((H, 1)), "p": a.init_lstm(H)},
        ),
        own + "backward": lstm_backward,
        own + "freestyle": lambda: (
            a.freestyle,
            {
                "params": a.init_rnn(H),
                "sentence": "a b",
                "num_generate": 2,
                "word_to_idx": dict(a.WORD_TO_IDX),
            },
        ),
    }


ROWS: dict[str, Row] = {**top(), **of_training(), **of_scratch(), **of_courses(), **of_anbn()}

# Other names under which errors speak of an argument: those of its parts, and of what it is passed on to.
SPOKEN_OF: dict[str, dict[str, tuple[str, ...]]] = {
    "fastrnn.": {
        "state": ("h_0", "c_0", "the state", "h", "c"),
        "dstate": ("dh_n", "dc_n", "the state"),
        "tape": ("dy", "dh"),  # whose shape is another than the tape says
        "pieces": ("text",),
        "x": ("h_0", "c_0", "lengths"),  # whose shape is another than x says
    },
    "fastrnn.use_backend": {"name": ("backend",)},
    "fastrnn.training.Sequential": {"x": ("tokens",), "tape": ("dh",)},
    "fastrnn.training.WordModel": {"vocabulary_size": ("num_classes",), "hidden_size": ("in_features",)},
    "fastrnn.scratch.": {"logits": ("y_true",), "z": ("y_true",), "X": ("a0",), "x_seq": ("a0",)},
    "fastrnn.training.LanguageModel": {"tokens": ("x",)},
    "fastrnn.training.CharModel": {"tokens": ("x",)},
    "fastrnn.training.fit": {"X": ("x",)},
    "fastrnn.training.predict": {"X": ("x",)},
}

# What takes as long as one asks for, and what is called, whose errors are its own.
ENDLESS = {
    ("epochs", "int64"),
    ("length", "int64"),
    ("max_length", "int64"),
    ("num_generate", "int64"),
    ("start_string", "long_text"),
}
CALLED = {"dataset_class"}
CALLED_BY = {"fastrnn.training.fit": {"loss", "schedule"}}


def public_names() -> Iterator[str]:
    """Every function, class and public method that has to have a row."""
    for namespace in NAMESPACES:
        for name in namespace.__all__:
            value, full = getattr(namespace, name), f"{namespace.__name__}.{name}"
            if inspect.isclass(value):
                if issubclass(value, FastrnnError) or full in RECORDS:
                    continue
                yield full
                for method, function in inspect.getmembers(value, inspect.isroutine):
                    own = str(getattr(function, "__module__", "")).startswith("fastrnn")
                    if own and (method in METHODS or not method.startswith("_")) and f"{full}.{method}" not in ABSTRACT:
                        yield f"{full}.{method}"
            elif callable(value):
                yield full
    for method in ("step", "reset", "refresh"):
        for cls in ("RNN", "LSTM", "GRU", "Recurrent"):
            assert hasattr(Stream, method) or method == "step"
            yield f"fastrnn.{cls}.stream.{method}"


# ---- values that hardly a parameter takes


class Plain:
    """An object of a class that nobody knows."""


class Unprintable:
    """An object that cannot even be shown."""

    def __repr__(self) -> str:
        raise RuntimeError("no repr")


def hostile(torch: ModuleType | None) -> dict[str, Callable[[], Any]]:
    """Values by what they are, made anew each time."""
    made = real(T, N, I)
    values: dict[str, Callable[[], Any]] = {
        "None": lambda: None,
        "object": Plain,
        "unprintable": Unprintable,
        "text": lambda: "text",
        "empty_text": lambda: "",
        "long_text": lambda: "\u00e4b " * 100_000,
        "surrogate": lambda: "\udc80",
        "nul": lambda: "a\0b",
        "bytes": lambda: b"",
        "huge": lambda: 10**20,
        "endless": lambda: 10**5000,
        "minus_huge": lambda: -(10**20),
        "int64": lambda: 2**63 - 1,
        "minus_one": lambda: -1,
        "zero": lambda: 0,
        "two": lambda: 2,
        "float": lambda: 1.5,
        "nan": lambda: float("nan"),
        "inf": lambda: float("inf"),
        "complex": lambda: 1j,
        "true": lambda: True,
        "list": list,
        "dict": dict,
        "set": set,
        "tuple": tuple,
        "set_of_numbers": lambda: {1, 2},
        "dict_of_numbers": lambda: {0: 1.0},
        "dict_of_arrays": lambda: {"a": real(3, 2)},
        "dict_of_texts": lambda: {"a": "b", "b": None},
        "list_of_none": lambda: [None],
        "list_of_texts": lambda: ["a", "b"],
        "list_of_lists": lambda: [[1], [1, 2]],
        "list_of_objects": lambda: [Plain(), Plain()],
        "list_of_arrays": lambda: [real(2), real(3)],
        "nested": lambda: [[[[]]]],
        "range": lambda: range(3),
        "generator": lambda: (k for k in range(3)),
        "class": lambda: Plain,
        "function": lambda: lambda *arguments: None,
        "module": lambda: np,
        "ellipsis": lambda: ...,
        "slice": lambda: slice(None),
        "dtype": lambda: np.dtype("float32"),
        "float32": lambda: np.float32(1),
        "int8": lambda: np.int8(-3),
        "bool_": lambda: np.bool_(True),
        "datetime": lambda: np.datetime64("2020-01-01"),
        "nothing": lambda: np.zeros(0),
        "no_axis": lambda: np.array(1.0),
        "no_axis_int": lambda: np.array(3),
        "no_axis_object": lambda: np.array(None, object),
        "zeros_size": lambda: np.zeros((0, 3, 0), np.float32),
        "vector": lambda: real(4),
        "matrix_class": lambda: np.matrix([[1.0, 2.0]]),
        "float64": lambda: made.astype("f8"),
        "float16": lambda: made.astype("f2"),
        "complex64": lambda: made.astype("c8"),
        "strings": lambda: made.astype("U4"),
        "objects": lambda: made.astype(object),
        "object_of_none": lambda: np.full((T, N), None, object),
        "bools": lambda: made > 0,
        "datetimes": lambda: np.zeros((T, N), "M8[s]"),
        "structured": lambda: np.zeros((T, N), [("a", "f4"), ("b", "i4")]),
        "voids": lambda: np.zeros((T, N), "V8"),
        "integers": lambda: tokens(T, N),
        "negative_integers": lambda: -1 - tokens(T, N),
        "large_integers": lambda: np.full((T, N), 2**63, np.uint64),
        "five_axes": lambda: np.zeros((1, 2, 1, 2, 1), np.float32),
        "masked": lambda: np.ma.masked_less(real(T, N, I), 0),
        "spread": lambda: np.repeat(made, 2, -1)[..., ::2],
        "fortran": lambda: np.asfortranarray(made),
        "swapped": lambda: made.astype(">f4"),
        "broadcast": lambda: np.broadcast_to(np.float32(1), (T, N, I)),
        "read_only": lambda: read_only(real(T, N, I)),
        "nans": lambda: np.full((T, N, I), np.nan, np.float32),
        "good_shape": lambda: real(T, N, I),
        "module_of_ours": lambda: fastrnn.GRU(I, H, seed=0),
        "layer_of_ours": layer,
        "error": lambda: ValueError("a"),
    }
    if torch is not None:
        values |= {
            "tensor_requires_grad": lambda: torch.zeros(T, N, I, requires_grad=True),
            "tensor_bfloat16": lambda: torch.zeros(T, N, I, dtype=torch.bfloat16),
            "tensor_meta": lambda: torch.zeros(T, N, I, device="meta"),
            "tensor": lambda: torch.zeros(T, N, I),
            "tensor_sparse": lambda: torch.zeros(T, N).to_sparse(),
        }
    return values


def read_only(array: Any) -> Any:
    array.flags.writeable = False
    return array


# ---- what a good error says

ALLOWED = (TypeError, ValueError, KeyError, IndexError, FastrnnError, OSError)


def complaint(row: str, error: BaseException, changes: Mapping[str, Any]) -> str | None:
    """What is wrong with the error that a call ended in after some arguments were replaced, or None."""
    text = str(error)
    if (CALLED | CALLED_BY.get(row, set())) & changes.keys():
        return None
    if isinstance(error, OSError) and error.filename is not None:
        return None  # of the operating system, which names the file
    if not isinstance(error, ALLOWED):
        return "an error that nobody documents"
    names = list(changes)
    for prefix, parts in SPOKEN_OF.items():
        if row.startswith(prefix):
            names += [other for name in changes for other in parts.get(name, ())]
    names += [value for name, value in changes.items() if name in ("path", "name") and isinstance(value, str)]
    if not any(re.search(rf"(?<![\w.]){re.escape(name)}(?!\w)", text) for name in names):
        return f"names none of {', '.join(names)}"
    if "expected" not in text:
        return "does not say what was expected"
    if len(text) > 2000:
        return "is longer than anyone reads"
    return None
