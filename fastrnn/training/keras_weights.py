"""The weights of Keras' recurrent layers under the names and in the order that fastrnn and torch use.

Keras keeps W of ``x W + h U + b``: a kernel (I, G*H), a recurrent kernel (H, G*H) and a bias per layer and direction.
Its gates come in the order i, f, c, o in an LSTM, as here, and z, r, h in a GRU, where here they are r, z, n. An LSTM,
a SimpleRNN and a GRU with ``reset_after=False`` have one bias (G*H,), a GRU with ``reset_after=True`` two (2, G*H).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fastrnn import GRU, LSTM, RNN, Recurrent
from fastrnn.cells import reset_before_gru
from fastrnn.checks import Array, check_instance, check_path, check_sequence, shown, take_reals
from fastrnn.training.keras_files import read_layers

__all__ = ["from_keras_weights"]


def from_keras_weights(
    rnn: RNN | LSTM | GRU | Recurrent, weights: Any, config: Any = None, *, layers: str | Sequence[str] | None = None
) -> dict[str, Array]:
    """Return what `rnn.load_state_dict` takes for a module to compute what Keras' layers do.

    Parameters
    ----------
    rnn
        The module: an `RNN` for SimpleRNN, an `LSTM` or a `GRU`, or for a GRU with ``reset_after=False`` a
        `Recurrent` of `fastrnn.cells.reset_before_gru`; with as many layers and directions as there are in Keras, and
        `bias` as `use_bias` there.
    weights
        Keras' layer, or a list of those to be stacked; or the path of a .keras or .h5 file of a whole model; or arrays,
        what ``get_weights()`` of Keras' layers gives, of all of them in one list; a Bidirectional gives those of both
        directions. Of a single layer: kernel (I, G*H), recurrent kernel (H, G*H) and, with bias, (G*H,) or for a GRU
        (2, G*H). Arrays alone do not say what activations they are for.
    config
        Beside arrays, what ``get_config()`` of the layer gives, or a list of those of all.
    layers
        Of a file, the name of the layer, or those to be stacked; needed where it has several recurrent ones.

    Returns
    -------
    dict
        The weights by the names of `rnn.parameters`; the second bias, where Keras has one, is zero.

    Raises
    ------
    ValueError
        If there are not as many weights as `rnn` asks for, it has projections, or a layer computes something else:
        by its activations, `reset_after`, `go_backwards`, a `merge_mode`, or a setting that is not known here. What
        concerns training alone (dropout, initializers, regularizers, constraints) is left aside.
    TypeError
        If `rnn` or `weights` is something else.
    OSError, ImportError
        If a file cannot be read, or h5py is missing.

    Notes
    -----
    Keras' x is (N, T, I), which is `batch_first` here; its initial state of two directions is that of the forward one
    and then that of the backward one, in the order of the first axis of h_0. Keras' masks are `mask` here, and y at
    masked steps is that of ``zero_output_for_mask=True``, or with ``masked="last"`` that of False.

    Examples
    --------
    >>> import numpy as np, fastrnn
    >>> gru = fastrnn.GRU(3, 2, seed=0)
    >>> of_keras = [np.ones((3, 6)), np.ones((2, 6)), np.arange(12).reshape(2, 6)]  # layer.get_weights()
    >>> gru.load_state_dict(from_keras_weights(gru, of_keras))
    >>> gru.parameters["bias_hh_l0"]
    array([ 8.,  9.,  6.,  7., 10., 11.], dtype=float32)
    """
    before = isinstance(rnn, Recurrent) and rnn.cell is reset_before_gru
    if not before:
        check_instance("rnn", rnn, (RNN, LSTM, GRU), "a fastrnn.RNN, LSTM or GRU, or a Recurrent of reset_before_gru")
    if rnn.proj_size:
        raise ValueError(f"rnn has proj_size {rnn.proj_size}; expected 0: Keras has no projections")
    configs, weights = _take(weights, config, layers)
    if configs is not None:
        if len(configs) != rnn.num_layers:
            raise ValueError(f"there are configurations of {len(configs)} layers; expected {rnn.num_layers}, as in rnn")
        for its in configs:
            _check_layer(rnn, its)
    each = 3 if rnn.bias else 2
    check_sequence("weights", weights, "the arrays of get_weights()")
    if len(weights) != each * rnn.num_layers * rnn.directions:
        raise ValueError(
            f"weights holds {len(weights)} arrays; expected {each} of each of {rnn.num_layers} layers "
            f"and {rnn.directions} directions"
        )
    arrays = [take_reals(f"weights[{k}]", weight) for k, weight in enumerate(weights)]
    for k, array in enumerate(arrays):
        suffix = f"_l{k // each // rnn.directions}{'_reverse' * (k // each % rnn.directions)}"
        name = ("weight_ih", "weight_hh", "bias_ih")[k % each] + suffix
        shape = rnn.parameters[name].shape[::-1]
        if k % each < 2 and array.shape != shape:
            raise ValueError(f"weights[{k}] has shape {array.shape}; expected {shape}, for {name}")
        if k % each == 2 and not isinstance(rnn, GRU) and array.shape != shape:
            raise ValueError(f"weights[{k}] has shape {array.shape}; expected {shape}, for {name}")
    two, gru = isinstance(rnn, GRU), isinstance(rnn, GRU) or before
    state_dict: dict[str, Array] = {}
    for k, start in enumerate(range(0, len(arrays), each)):
        suffix = f"_l{k // rnn.directions}{'_reverse' * (k % rnn.directions)}"
        kernel, recurrent_kernel, *biases = arrays[start : start + each]
        rows = {"weight_ih": kernel.T, "weight_hh": recurrent_kernel.T}
        for bias in biases:
            if two and bias.shape != (2, 3 * rnn.hidden_size):
                raise ValueError(
                    f"weights[{start + 2}] has shape {bias.shape}; expected (2, 3*H) = (2, {3 * rnn.hidden_size}), "
                    "the bias of a GRU with reset_after=True"
                )
            rows["bias_ih"], rows["bias_hh"] = bias if two else (bias, np.zeros_like(bias))
        for name, array in rows.items():
            if gru:
                z, r, h = np.split(array, 3)
                array = np.concatenate((r, z, h))
            state_dict[name + suffix] = array
    return state_dict


def _take(weights: Any, config: Any, layers: Any) -> tuple[list[Any] | None, Any]:
    """The layers' configurations, ``{"class_name": ..., "config": ...}`` each or the inner one alone, and arrays."""
    if isinstance(weights, (str, os.PathLike)):
        path = check_path("weights", weights)
        found = read_layers(path)
        names = [layers] if isinstance(layers, str) else list(found) if layers is None else list(layers)
        if layers is None and len(found) != 1:
            raise ValueError(
                f"weights, {path}, has the recurrent layers {list(found)}; expected layers= to name one, or several"
            )
        missing = [name for name in names if name not in found]
        if missing:
            raise ValueError(f"layers names {shown(missing[0])}; expected names of {list(found)}")
        return [found[name][0] for name in names], [array for name in names for array in found[name][1]]
    if layers is not None:
        raise ValueError("layers is given; expected it with a path only")
    given = weights if isinstance(weights, (list, tuple)) else [weights]
    if given and all(hasattr(layer, "get_config") and hasattr(layer, "get_weights") for layer in given):
        if config is not None:
            raise ValueError("config is given beside layers, which have their own; expected None")
        configs = [{"class_name": type(layer).__name__, "config": layer.get_config()} for layer in given]
        return configs, [array for layer in given for array in layer.get_weights()]
    if config is None:
        return None, weights
    return [config] if isinstance(config, Mapping) else list(config), weights


# What a configuration may say that changes no number of a call without dropout, or only what is returned.
ASIDE = {"name", "trainable", "dtype", "batch_input_shape", "units", "return_sequences", "return_state", "stateful"}
ASIDE |= {"unroll", "zero_output_for_mask", "seed", "dropout", "recurrent_dropout", "implementation", "use_cudnn"}
ASIDE |= {"unit_forget_bias", "activity_regularizer", "input_shape", "build_config"}
ASIDE |= {f"{whose}_{what}" for whose in ("kernel", "recurrent", "bias") for what in ("initializer", "regularizer")}
ASIDE |= {f"{whose}_constraint" for whose in ("kernel", "recurrent", "bias")}
OF_WRAPPER = {"name", "trainable", "dtype", "layer", "backward_layer", "merge_mode", "batch_input_shape"}


def _check_layer(rnn: Any, layer: Mapping[str, Any]) -> None:
    """ValueError unless a layer's configuration is of what `rnn` computes, in as many directions."""
    kind, config = (layer["class_name"], layer["config"]) if "class_name" in layer else (None, layer)
    if "layer" not in config:
        if rnn.directions == 2:
            raise ValueError("a layer is no Bidirectional; expected one, as rnn is bidirectional")
        return _check_direction(rnn, kind, config, False)
    if rnn.directions != 2:
        raise ValueError("a layer is a Bidirectional; expected rnn to be bidirectional")
    if unknown := sorted(set(config) - OF_WRAPPER):
        raise ValueError(
            f"a Bidirectional has {unknown[0]}={shown(config[unknown[0]])}; expected settings that are known"
        )
    if config.get("merge_mode") != "concat":
        came = shown(config.get("merge_mode"))
        raise ValueError(f"a Bidirectional has merge_mode={came}; expected 'concat', which is what y is here")
    for at, which in enumerate(("layer", "backward_layer")):
        if which in config:  # what an older file does not have is as the other
            _check_direction(rnn, config[which]["class_name"], config[which]["config"], at == 1)
    return None


def _check_direction(rnn: Any, kind: str | None, config: Mapping[str, Any], backwards: bool) -> None:
    name = config.get("name", "a layer")
    wanted: dict[str, Any] = {"units": rnn.hidden_size, "use_bias": rnn.bias, "go_backwards": backwards}
    wanted["activation"] = rnn.nonlinearity if isinstance(rnn, RNN) else "tanh"
    if not isinstance(rnn, RNN):
        wanted["recurrent_activation"] = "sigmoid"
    if isinstance(rnn, (GRU, Recurrent)):
        wanted["reset_after"] = isinstance(rnn, GRU)
    if "time_major" in config:
        wanted["time_major"] = False
    of_rnn = "SimpleRNN" if isinstance(rnn, RNN) else "LSTM" if isinstance(rnn, LSTM) else "GRU"
    if kind not in (of_rnn, None):
        raise ValueError(f"{name} is a {kind}; expected a {of_rnn}, for a fastrnn.{type(rnn).__name__}")
    for key, value in wanted.items():
        if key not in config or config[key] != value:
            came = f"{key}={shown(config[key])}" if key in config else f"no {key}"
            raise ValueError(f"{name} has {came}; expected {key}={value!r}{REMEDIES.get(key, '')}")
    if unknown := sorted(set(config) - set(wanted) - ASIDE):
        raise ValueError(f"{name} has {unknown[0]}={shown(config[unknown[0]])}; expected settings that are known")


REMEDIES = {
    "reset_after": ": for False use fastrnn.Recurrent(fastrnn.cells.reset_before_gru, ...)",
    "activation": ", which is what the module computes",
    "recurrent_activation": ", which is what the module computes",
    "go_backwards": ": turn x round and set it so",
}
