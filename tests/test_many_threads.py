"""One module, one tape, one stream in the hands of many Python threads: right, or refused."""

from __future__ import annotations

import contextlib
import importlib.util
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from calls import Refusals, backends
from problems import clean_environ

import fastrnn

THREADS = 8


def together(work: Callable[[int], Any], threads: int = THREADS) -> list[Any]:
    """What `work(number)` returns, or raises, in so many threads that start at once and change places often."""
    gate = threading.Barrier(threads)

    def run(number: int) -> Any:
        gate.wait()
        return work(number)

    with contextlib.ExitStack() as after, ThreadPoolExecutor(threads) as pool:
        after.callback(sys.setswitchinterval, sys.getswitchinterval())
        sys.setswitchinterval(1e-6)
        futures = [pool.submit(run, number) for number in range(threads)]
        return [future.result() if future.exception() is None else future.exception() for future in futures]


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


@pytest.mark.parametrize("backend", ["cython", "numpy"], indirect=True)  # numba compiles for a minute under this strain
def test_one_module_in_many_threads(backend: str) -> None:
    """Inference on kept weights, training with a tape each, parameters handed out and in part written as they are."""
    lstm = fastrnn.LSTM(5, 24, num_layers=2, seed=0, backend=backend, num_threads=2)
    x, dy = draw(7, 3, 5), draw(7, 3, 24, seed=1)
    y, _, tape = lstm.forward(x)
    wanted = lstm.backward(tape, dy)

    def work(number: int) -> list[bool]:
        same = []
        for _ in range(20):
            if number % 4 == 3:
                lstm.parameters["weight_hh_l0"][...] = lstm.state_dict()["weight_hh_l0"]  # the same bits
            same.append(np.array_equal(lstm(x)[0], y))
            if number % 2:
                dx, _, grads = lstm.backward(lstm.forward(x)[2], dy)
                same.append(np.array_equal(dx, wanted[0]))
                same += [np.array_equal(grads[name], wanted[2][name]) for name in grads]
        return same

    for result in together(work):
        assert isinstance(result, list), result
        assert all(result)


@backends
@pytest.mark.parametrize("make", [fastrnn.GRU, fastrnn.GRUCell])
def test_a_tape_serves_one_of_many_threads(backend: str, make: Any) -> None:
    module = make(5, 24, seed=0, backend=backend)
    x = draw(3, 5) if make is fastrnn.GRUCell else draw(7, 3, 5)
    dy = np.ones_like(module.forward(x)[0])
    wanted = module.backward(module.forward(x)[-1], dy)[0]
    for _ in range(30):
        tape = module.forward(x)[-1]
        results = together(lambda number, tape=tape: module.backward(tape, dy)[0])
        served = [result for result in results if isinstance(result, np.ndarray)]
        refused = [str(result) for result in results if isinstance(result, ValueError)]
        assert len(served) == 1
        np.testing.assert_array_equal(served[0], wanted)
        assert len(refused) == THREADS - 1
        assert all(text.startswith("tape was used before") for text in refused)


@pytest.mark.parametrize("H", [8, 320])
def test_a_stream_serves_one_thread_at_a_time(H: int) -> None:
    """Steps of the same x: the state is that after as many steps as were taken, bit by bit; the others say why."""
    lstm = fastrnn.LSTM(16, H, num_layers=2, seed=0, backend="cython", num_threads=2)
    stream, x, taken = lstm.stream(2), draw(2, 16), []

    def work(number: int) -> list[str]:
        refusals = Refusals(RuntimeError)
        for _ in range(50):
            with refusals:
                if number == 0:
                    stream.refresh()
                else:
                    stream.step(x)
                    taken.append(number)
        return refusals

    for result in together(work):
        assert isinstance(result, list), result
        assert all(text.startswith("the stream is in a step of another thread") for text in result)
    alone = lstm.stream(2)
    for _ in taken:
        alone.step(x)
    for state, wanted in zip(stream.state, alone.state, strict=True):
        np.testing.assert_array_equal(state, wanted)


SUBINTERPRETER = """
import fastrnn, {module} as interpreters
fastrnn.use_backend("cython")
code = '''
class Refusal:
    def __enter__(self):
        pass
    def __exit__(self, kind, error, trace):
        print("refused:", error, flush=True)
        return kind is not None and issubclass(kind, ImportError)
with Refusal():
    import fastrnn
    fastrnn.use_backend("cython")
'''
interpreters.run_string(interpreters.create(), code)
fastrnn.LSTM(2, 3)
print("works on")
"""


def test_a_second_interpreter_is_refused(tmp_path: Any) -> None:
    """By NumPy or by the kernels, which serve one interpreter of a process; the first one works on."""
    modules = [name for name in ("_interpreters", "_xxsubinterpreters") if importlib.util.find_spec(name)]
    command = [sys.executable, "-W", "ignore", "-c", SUBINTERPRETER.format(module=modules[0])]
    done = subprocess.run(command, cwd=tmp_path, env=clean_environ(), capture_output=True, text=True, check=False)
    refusal, after = done.stdout.splitlines()
    assert refusal.startswith("refused: "), done.stdout + done.stderr
    assert after == "works on"
