"""The C kernels on the threads of torch's OpenMP runtime: the same bits, also where it has too few of them."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
from problems import run_python

# A script's start: train() is enough work to be shared by the threads it may use, by batch rows or by hidden units.
PRELUDE = """
import os, sys, threading
import numpy as np
import torch
import fastrnn

def train(num_threads, N=64):
    x = np.random.default_rng(0).standard_normal((20, N, 96)).astype(np.float32)
    module = fastrnn.LSTM(96, 256, seed=0, num_threads=num_threads)
    y, _, tape = module.forward(x)
    dx, _, grads = module.backward(tape, y.copy())
    return y.tobytes() + dx.tobytes() + grads["weight_hh_l0"].tobytes()

def threads():
    return len(os.listdir("/proc/self/task"))

want = [train(1), train(1, N=2)]
before = threads()
import fastrnn.torch
from fastrnn.torch.threads import share_threads
"""


@pytest.fixture(autouse=True)
def openmp(torch: ModuleType) -> None:
    if "parallel backend: OpenMP" not in torch.__config__.parallel_info():
        pytest.skip("this torch does not run on OpenMP")


def run_script(code: str, folder: Path, **environ: str) -> str:
    result = run_python(
        PRELUDE + code, folder, timeout=100, FASTRNN_BACKEND="cython", FASTRNN_OVERSUBSCRIBE="1", **environ
    )
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout


@pytest.mark.parametrize("backend", ["cython"], indirect=True)
def test_same_bits_on_borrowed_threads(backend: str, tmp_path: Path) -> None:
    code = """
print(share_threads())
for n in (2, 3, 5, 2):
    assert [train(n), train(n, N=2)] == want, n
"""
    assert run_script(code, tmp_path) == "True\n"


@pytest.mark.parametrize("backend", ["cython"], indirect=True)
def test_workers_stand_in_where_openmp_has_too_few_threads(backend: str, tmp_path: Path) -> None:
    code = """
for n in (2, 3):
    assert [train(n), train(n, N=2)] == want, n
print(threads() - before)
"""
    assert run_script(code, tmp_path, OMP_THREAD_LIMIT="1") == "2\n"  # workers of our own


@pytest.mark.parametrize("backend", ["cython"], indirect=True)
def test_a_forked_child_has_workers_of_its_own(backend: str, tmp_path: Path) -> None:
    code = """
assert [train(2), train(2, N=2)] == want
child = os.fork()
if child == 0:
    os._exit(0 if [train(2), train(2, N=2)] == want else 1)
print(os.waitpid(child, 0)[1])
assert [train(2), train(2, N=2)] == want
"""
    assert run_script(code, tmp_path) == "0\n"


@pytest.mark.parametrize("backend", ["cython"], indirect=True)
def test_calls_of_many_threads_at_once(backend: str, tmp_path: Path) -> None:
    code = """
found = []
calls = [threading.Thread(target=lambda: found.append(train(2))) for _ in range(4)]
for call in calls: call.start()
for call in calls: call.join()
print(len(found), set(found) == {want[0]})
"""
    assert run_script(code, tmp_path) == "4 True\n"


@pytest.mark.parametrize("backend", ["cython"], indirect=True)
def test_threads_are_borrowed_while_another_thread_computes(backend: str, tmp_path: Path) -> None:
    code = """
done, found = threading.Event(), []
def work():
    while not done.is_set(): found.append(train(2) == want[0])
other = threading.Thread(target=work)
other.start()
for _ in range(300):
    share_threads()
while len(found) < 3: pass
done.set()
other.join()
print(all(found))
"""
    assert run_script(code, tmp_path) == "True\n"
