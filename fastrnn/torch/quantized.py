"""LSTMs and GRUs that torch has quantized, as modules of precision int8."""

from __future__ import annotations

from typing import Any

import torch

from fastrnn.checks import shown
from fastrnn.modules import GRU, LSTM
from fastrnn.quantized import of_integers

__all__ = ["from_quantized"]


def from_quantized(module: torch.nn.Module) -> LSTM | GRU:
    """Return the module for inference of an LSTM or GRU that `torch.ao.quantization.quantize_dynamic` has made.

    Its weights are the same integers, with torch's scales; -128, which the kernels do not have, becomes -127. torch
    rounds all of a step's x and h by one scale, fastrnn each row by its own.

    Parameters
    ----------
    module
        A `torch.ao.nn.quantized.dynamic.LSTM` or `GRU` of qint8 weights, per tensor or per channel, or of float16 ones.

    Returns
    -------
    LSTM or GRU
        fastrnn's, with ``precision="int8"`` and ``quantized=True``; one of float32 if the weights are float16.

    Raises
    ------
    TypeError
        If `module` is something else.

    Examples
    --------
    >>> import torch, warnings, fastrnn.torch
    >>> from torch.ao.quantization import quantize_dynamic
    >>> warnings.simplefilter("ignore")  # torch says that its way will change
    >>> model = quantize_dynamic(torch.nn.ModuleDict({"rnn": torch.nn.LSTM(8, 32)}), {torch.nn.LSTM})
    >>> fastrnn.torch.from_quantized(model["rnn"])
    LSTM(8, 32, precision='int8', quantized=True)
    """
    from torch.ao.nn.quantized import dynamic  # which torch says it will drop

    kinds: dict[Any, type[LSTM] | type[GRU]] = {dynamic.LSTM: LSTM, dynamic.GRU: GRU}
    if type(module) not in kinds:
        raise TypeError(
            f"module is {shown(module)}; expected an LSTM or GRU of torch.ao.nn.quantized.dynamic, as "
            "torch.ao.quantization.quantize_dynamic makes them"
        )
    rnn: Any = module
    names = ("num_layers", "batch_first", "dropout", "bidirectional")  # torch asks for a bias
    options: dict[str, Any] = {name: getattr(rnn, name) for name in names}
    weights: dict[str, Any] = rnn.get_weight()
    if narrow := all(weight.dtype == torch.qint8 for weight in weights.values()):
        options |= {"precision": "int8", "quantized": True}
    parameters = {name: bias.detach().numpy() for name, bias in rnn.get_bias().items()}
    for name, weight in weights.items():
        if not narrow:
            parameters[name] = weight.numpy()
            continue
        each = weight.qscheme() in (torch.per_channel_affine, torch.per_channel_symmetric)
        scale = weight.q_per_channel_scales().numpy() if each else weight.q_scale()
        zero = weight.q_per_channel_zero_points().numpy() if each else weight.q_zero_point()
        scale_name = name.replace("weight", "scale", 1)
        parameters[name], parameters[scale_name] = of_integers(weight.int_repr().numpy(), scale, zero)
    made = kinds[type(module)](rnn.input_size, rnn.hidden_size, **options)
    made.load_state_dict(parameters)
    return made
