"""One module, one tape, one stream in the hands of many Python threads: right, or refused."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from calls import backends
from problems import clean_environ

import fastrnn

THREADS = 8


def together(work: Callable[[int], Any], threads: int = THREADS) -> list[Any]:
    """What `work(number)` returns, or raises, in so many threads that start at once and change places often."""
    results: list[Any] = [None] * threads
    gate = threading.Barrier(threads)

    def run(number: int) -> None:
        gate.wait()
        try:
            results[number] = work(number)
        except Exception as error:
            results[number] = error

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        workers = [threading.Thread(target=run, args=(number,)) for number in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    finally:
        sys.setswitchinterval(interval)
    return results


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
        refusals = []
        for _ in range(50):
            try:
                if number == 0:
                    stream.refresh()
                else:
                    stream.step(x)
                    taken.append(number)
            except RuntimeError as error:
                refusals.append(str(error))
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
try:
    import fastrnn
    fastrnn.use_backend("cython")
except ImportError as error:
    print("refused:", error, flush=True)
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
