"""What torch has quantized, as fastrnn's modules of precision int8."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tolerances import assert_close

import fastrnn
from fastrnn.quantized import of_integers

torch = pytest.importorskip("torch", reason="torch is not installed")
from torch.ao.quantization import per_channel_dynamic_qconfig, quantize_dynamic  # noqa: E402

import fastrnn.torch as ours  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:.*deprecated")  # torch.ao and its tensors

both = pytest.mark.parametrize("name", ["LSTM", "GRU"])


def quantized(name: str, wanted: Any = None, dtype: Any = torch.qint8) -> tuple[Any, Any]:
    """A module of torch and what `quantize_dynamic` makes of it."""
    torch.manual_seed(0)
    cls = getattr(torch.nn, name)
    wide = cls(6, 20, num_layers=2, bidirectional=True, batch_first=True)
    how = {cls} if wanted is None else {cls: wanted}
    return wide, quantize_dynamic(torch.nn.ModuleDict({"rnn": wide}), how, dtype=dtype)["rnn"]


@both
@pytest.mark.parametrize("per_channel", [False, True])
def test_integers_and_scales_are_torchs(name, per_channel):
    wide, theirs = quantized(name, per_channel_dynamic_qconfig if per_channel else None)
    module = ours.from_quantized(theirs)
    assert type(module) is getattr(fastrnn, name)
    assert module.precision == "int8"
    for key, weight in theirs.get_weight().items():
        np.testing.assert_array_equal(module.parameters[key], np.maximum(weight.int_repr().numpy(), -127))
        scale = weight.q_per_channel_scales().numpy() if per_channel else weight.q_scale()
        assert_close(key, module.parameters[key.replace("weight", "scale")], np.broadcast_to(scale, len(weight)), 1e-9)
    for key, bias in theirs.get_bias().items():
        np.testing.assert_array_equal(module.parameters[key], bias.detach().numpy())
    x = torch.randn(3, 9, 6)
    with torch.no_grad():
        y, z = wide(x)[0].numpy(), theirs(x)[0].numpy()
    mine = module(x.numpy())[0]
    assert_close("y", mine, z, 0.03)
    assert np.abs(mine - y).max() < np.abs(z - y).max()  # a scale for each row serves it better than one for all


@both
def test_halves_are_floats(name):
    _, theirs = quantized(name, dtype=torch.float16)
    module = ours.from_quantized(theirs)
    assert not module.quantized
    for key, weight in theirs.get_weight().items():
        np.testing.assert_array_equal(module.parameters[key], weight.numpy())
    x = torch.randn(3, 9, 6)
    with torch.no_grad():
        assert_close("y", module(x.numpy())[0], theirs(x)[0].numpy(), 1e-6)


@pytest.mark.parametrize("module", [torch.nn.LSTM(2, 3), fastrnn.LSTM(2, 3), None])
def test_others_are_refused(module):
    with pytest.raises(TypeError, match=r"^module is .*; expected an LSTM or GRU of torch.ao.nn.quantized.dynamic"):
        ours.from_quantized(module)


def test_what_does_not_fit_8_bits_is_rounded_anew():
    integers = np.array([[0, 3, 255], [100, 120, 90], [0, 228, 100]], np.uint8)
    found, scales = of_integers(integers, 0.5, [0, 100, 128])
    np.testing.assert_array_equal(found, [[0, 1, 127], [0, 20, -10], [-127, 100, -28]])
    assert_close("scales", scales, np.array([127.5 / 127, 0.5, 0.5], "f"), 1e-7)
