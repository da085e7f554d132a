"""Large results lie on memory that earlier calls gave back: still ordinary arrays, and the process stays small."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from problems import run_python

import fastrnn

pytestmark = pytest.mark.parametrize("backend", ["cython"], indirect=True)

SIZES = [(40, 16, 32), (41, 16, 32), (20, 16, 64), (400, 64, 32)]  # (T, N, H): y has 80 KB to 3 MB


def result(backend: str, T: int, N: int, H: int, value: float) -> tuple[np.ndarray, np.ndarray]:
    """y of a module whose input is one number everywhere, and what it should be."""
    rnn = fastrnn.RNN(1, H, bias=False, backend=backend, seed=0)
    rnn.parameters["weight_hh_l0"][...] = 0
    x = np.full((T, N, 1), value, np.float32)
    y, _ = rnn(x)
    return y, np.broadcast_to(np.tanh(value * rnn.parameters["weight_ih_l0"][:, 0]), y.shape)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_results_stay_as_they_are_while_others_come_and_go(backend: str, size: tuple[int, int, int]) -> None:
    kept = [result(backend, *size, value) for value in np.linspace(-1, 1, 24)]
    for i in range(24):
        result(backend, *SIZES[i % len(SIZES)], 0.5)
        if i % 3 == 0:
            kept[i] = result(backend, *size, i / 24)
    for y, want in kept:
        np.testing.assert_allclose(y, want, rtol=0, atol=1e-6)


@pytest.mark.parametrize("factor", [0.25, 1, 1.0625, 3])
def test_results_can_be_resized_in_place(backend: str, factor: float) -> None:
    for size in SIZES:
        y, want = result(backend, *size, 0.75)
        T = int(size[0] * factor)
        y.resize((T, *y.shape[1:]), refcheck=False)
        kept = min(T, size[0])
        np.testing.assert_allclose(y[:kept], want[:kept], rtol=0, atol=1e-6)
        assert not y[kept:].any()


@pytest.mark.parametrize("count", [16, 1 << 18])
def test_an_array_that_fills_its_block_moves_to_grow(backend: str, count: int) -> None:
    from fastrnn.kernels.sequence import new_array

    array = new_array((count,), np.dtype(np.float32))
    before = array.ctypes.data
    array.resize((count + 16,), refcheck=False)
    assert array.ctypes.data != before


def test_several_threads_take_and_give_memory(backend: str) -> None:
    def calls(number: int) -> float:
        pairs = [result(backend, *SIZES[(number + i) % len(SIZES)], number / 8) for i in range(12)]
        return max(float(np.abs(y - want).max()) for y, want in pairs)

    with ThreadPoolExecutor(8) as executor:
        assert max(executor.map(calls, range(8))) < 1e-6


def test_process_stays_small(backend: str, tmp_path: Path) -> None:
    """Of results of ever other sizes, 2 to 30 MB, no more is kept than the limit of kernels/c/memory.h."""
    if not Path("/proc/self/statm").exists():
        pytest.skip("resident memory is read from /proc")
    code = """
import os
import numpy as np, fastrnn

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

rnn = fastrnn.RNN(1, 64, backend="cython")
rnn(np.zeros((10, 64, 1), np.float32))
before = resident()
for i in range(300):
    rnn(np.zeros((100 + 5 * i, 64 + i % 7, 1), np.float32))
print(resident() - before)
"""
    done = run_python(code, tmp_path)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 2 * 64 * 1024 * 1024


def test_a_block_serves_only_what_fits_into_it(backend: str, tmp_path: Path) -> None:
    code = """
import numpy as np
from fastrnn.kernels.sequence import new_array

def address(size):
    return new_array((size,), np.dtype(np.float32)).ctypes.data

size = 1 << 18
print(address(size) == address(size), address(size) == address(size + 1), address(size) == address(size + 16))
"""
    done = run_python(code, tmp_path)
    assert done.stdout == "True False False\n", done.stderr


def test_large_blocks_are_given_back(backend: str, tmp_path: Path) -> None:
    """Three of 40 MB: one is kept, for two would be more than may be."""
    if not Path("/proc/self/statm").exists():
        pytest.skip("resident memory is read from /proc")
    code = """
import os
import numpy as np
from fastrnn.kernels.sequence import new_array

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

before = resident()
arrays = [new_array((10 << 20,), np.dtype(np.float32)) for _ in range(3)]
for array in arrays:
    array.fill(1)
del array, arrays
print((resident() - before) >> 20)
"""
    done = run_python(code, tmp_path)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 64
