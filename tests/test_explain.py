"""module.explain and FASTRNN_EXPLAIN: what they say must be what runs."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from problems import run_python

import fastrnn
from fastrnn.backends import BACKENDS, load


@pytest.mark.parametrize("backend", BACKENDS, indirect=True)
@pytest.mark.parametrize("training", [False, True])
def test_work_and_memory(backend: str, training: bool) -> None:
    text = fastrnn.LSTM(64, 128, num_layers=2, backend=backend).explain((25, 32, 64), training=training)
    assert f"T = 25, N = 32, backend {backend}" in text
    assert text.count("\nlayer ") == 2
    first, second = text.split("layer 1")
    for layer, columns in ((first, 64), (second, 128)):
        flops = 2 * 25 * 32 * 4 * 128 * (columns + 128)
        assert f"{flops / 1e6:.3g} Mflop forward" in layer
        assert (f"{2 * flops / 1e6:.3g} Mflop backward" in layer) == training
        assert f"tape {4 * 25 * 32 * 5 * 128 / 1e6:.3g} MB" in layer or not training
        assert "bound by" in layer
        assert ("recurrent product" in layer) == (backend != "numpy")


def test_bounds() -> None:
    def bound(module: fastrnn.LSTM, *shape: int) -> str:
        return module.explain(shape).splitlines()[-1].split("bound by")[1].strip()

    assert bound(fastrnn.LSTM(8, 8), 1, 1, 8).startswith("the call itself")
    assert bound(fastrnn.LSTM(8, 256), 100, 1, 8) == "reading the recurrent weights, 1.05 MB at every step"
    assert bound(fastrnn.LSTM(32, 32), 50, 64, 32) == "the activations"
    assert bound(fastrnn.LSTM(256, 256), 50, 64, 256) == "the multiply-adds"


@pytest.mark.parametrize("backend", [name for name in BACKENDS if name != "numpy"], indirect=True)
def test_choices(backend: str) -> None:
    module = fastrnn.GRU(40, 300, backend=backend, num_threads=2)
    assert re.search("threads +1\n", module.explain((1, 1, 40)))
    assert re.search("threads +2, sharing the hidden units\n", module.explain((200, 1, 40)))
    assert re.search("threads +2, sharing the batch\n", module.explain((50, 64, 40)))
    assert re.search("weights +packed by an earlier call\n", module.explain((50, 64, 40)))
    assert re.search("weights +packed first\n", module.explain((50, 64, 40), training=True))
    held = module.parameters["weight_hh_l0"]
    assert re.search("weights +packed as each step goes\n", module.explain((1, 1, 40)))
    del held
    assert "columns of weight_ih, gathered" in module.explain((50, 64), tokens=True)
    assert "Gflop" not in module.explain((50,), tokens=True)
    assert "x and y 3.87 MB" in module.explain((50, 64), tokens=True), "a token is 8 bytes, not a row of 40 floats"
    batch_first = fastrnn.GRU(40, 300, batch_first=True, backend=backend)
    assert "T = 5, N = 7" in batch_first.explain((7, 5, 40))


@pytest.mark.parametrize("backend", ["cython"], indirect=True)
def test_rows_at_once_are_named_where_they_run(backend: str) -> None:
    module = fastrnn.LSTM(3, 8, backend=backend)
    registers = re.compile("recurrent product.*, sums of one row in registers")
    assert registers.search(module.explain((50, 1, 3)))
    assert not registers.search(module.explain((50, 2, 3)))
    assert not registers.search(module.explain((50, 1, 3), training=True))
    assert not registers.search(fastrnn.LSTM(3, 999, backend=backend).explain((50, 1, 3)))


@pytest.mark.parametrize("backend", ["cython"], indirect=True)
def test_split_products_are_named_where_they_run(backend: str) -> None:
    if "amx: used" not in load(backend).describe():
        pytest.skip("no matrix unit here, or FASTRNN_ISA forbids it")
    module = fastrnn.LSTM(128, 128, backend=backend)
    text = module.explain((50, 32, 128), training=True)
    assert re.search("input product +split floats", text)
    assert re.search("weight gradients +split floats", text)


@pytest.mark.parametrize("shape", [(3, 2, 5), (3,), (3, 2, 4, 4), (-1, 2, 4), ()])
def test_bad_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"^shape is .*; expected \(T, N, I\) or \(T, I\), I = 4$"):
        fastrnn.RNN(4, 8).explain(shape)


def test_environment_variable_says_every_kind_of_call_once(tmp_path: Path) -> None:
    code = """
import numpy as np, fastrnn
module = fastrnn.GRU(3, 5)
x = np.zeros((4, 2, 3), np.float32)
for _ in range(3):
    module(x)
    module.forward(x)
module(x[:2])
"""
    said = run_python(code, tmp_path, FASTRNN_EXPLAIN="1").stderr
    assert re.findall(r"(\w+), T = (\d), N = 2", said) == [("inference", "4"), ("training", "4"), ("inference", "2")]
    assert not run_python(code, tmp_path).stderr


def test_explaining_changes_nothing() -> None:
    module = fastrnn.LSTM(3, 5)
    x = np.ones((4, 2, 3), np.float32)
    before, _ = module(x)
    module.explain(x.shape)
    assert module._stamp() is not None, "the parameters count as handed out"
    assert np.array_equal(module(x)[0], before)
