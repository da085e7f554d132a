"""Children of a fork, in any order of imports and uses: the same bits, and no waiting for their parent's threads."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest
from problems import run_python

from fastrnn.backends import BACKENDS

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no fork")
kernels = pytest.mark.parametrize("backend", [name for name in BACKENDS if name != "numpy"], indirect=True)

# A script's start. train() shares the batch on two threads, or with few rows the hidden units, and meets at every step.
# in_child() returns what it returns in a child, which dies of the alarm if it hangs.
PRELUDE = """
import hashlib, os, signal, sys, threading, time, warnings
import numpy as np
import fastrnn

warnings.simplefilter("error")
warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)  # fork, the subject here
SIZES = [(64, 96), (1, 512)]

def train(num_threads=2):
    digest = hashlib.sha256()
    for N, H in SIZES:
        module = fastrnn.LSTM(16, H, seed=0, num_threads=num_threads)
        x = np.random.default_rng(0).standard_normal((20, N, 16)).astype(np.float32)
        y, _, tape = module.forward(x)
        dx, _, grads = module.backward(tape, y.copy())
        for array in (y, dx, grads["weight_hh_l0"]):
            digest.update(array)
    return digest.hexdigest()

def in_child(work):
    read, write = os.pipe()
    if (child := os.fork()) == 0:
        signal.alarm(40)
        os.write(write, work().encode())
        os._exit(0)
    os.close(write)
    found = os.read(read, 100).decode()
    os.close(read)
    return found, os.waitpid(child, 0)[1]
"""

USE_TORCH = """
import torch
torch.set_num_threads(2)
torch.ones(10**6).exp().sum()  # starts OpenMP's threads
"""

OF_TORCH = """
def train_torch():
    import fastrnn.torch
    import torch
    torch.set_num_threads(1)  # torch's own operators hang in such a child
    module = fastrnn.torch.LSTM(16, 512)
    with torch.no_grad():
        for i, parameter in enumerate(module.parameters()):
            values = np.sin(np.arange(parameter.numel()) + i).astype("f4") / 20
            parameter.copy_(torch.from_numpy(values).view_as(parameter))
    x = np.random.default_rng(0).standard_normal((20, 1, 16)).astype(np.float32)
    torch.set_num_threads(2)
    y, _ = module(torch.from_numpy(x))  # on two threads, as its backward will be
    torch.set_num_threads(1)
    y.backward(y.detach())
    return hashlib.sha256(y.detach().numpy().tobytes() + module.weight_hh_l0.grad.numpy().tobytes()).hexdigest()
"""


QUIET = (0, "", "")


def said_by(code: str, backend: str, folder: Path) -> tuple[int, str, str]:
    """The status of a script, whose own assertions end it, and what it prints."""
    result = run_python(PRELUDE + code, folder, timeout=150, FASTRNN_BACKEND=backend)
    return result.returncode, result.stdout, result.stderr


@kernels
def test_a_child_and_its_child_start_without_workers(backend: str, tmp_path: Path) -> None:
    code = """
want = train()
def grandchild():
    assert train() == want
    found, status = in_child(train)
    return found if status == 0 else "hangs"
assert in_child(train) == (want, 0)
assert in_child(grandchild) == (want, 0)
assert train() == train(1) == want
"""
    assert said_by(code, backend, tmp_path) == QUIET


@kernels
def test_fork_before_the_first_use_and_at_once_after_it(backend: str, tmp_path: Path) -> None:
    code = """
found = in_child(train)
want = train()
assert found == in_child(train) == (want, 0)
"""
    assert said_by(code, backend, tmp_path) == QUIET


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="threads are counted in /proc")
@pytest.mark.parametrize("backend", ["cython"], indirect=True)
def test_a_child_of_a_fork_during_a_call_has_threads(backend: str, tmp_path: Path) -> None:
    """The call that holds the pool is not in the child."""
    code = """
def count():
    train()
    return str(len(os.listdir("/proc/self/task")))

begun = threading.Event()
def long_call():
    module = fastrnn.LSTM(16, 512, seed=0, num_threads=2)
    x = np.zeros((4000, 1, 16), np.float32)
    begun.set()
    module(x)
caller = threading.Thread(target=long_call)
caller.start()
begun.wait()
time.sleep(0.05)
assert caller.is_alive()
found = in_child(count)
caller.join()
assert found == ("2", 0), found
"""
    assert said_by(code, backend, tmp_path) == QUIET


@kernels
def test_fork_during_calls_of_other_threads(backend: str, tmp_path: Path) -> None:
    """Whatever they hold at that moment: the pool, or memory that is being given back."""
    code = """
want, done = train(), threading.Event()
def work():
    while not done.is_set():
        train()
others = [threading.Thread(target=work) for _ in range(2)]
for other in others: other.start()
found = [in_child(train) for _ in range(6)]
done.set()
for other in others: other.join()
assert found == 6 * [(want, 0)]
"""
    assert said_by(code, backend, tmp_path) == QUIET


IMPORT = "import fastrnn.torch\n"
OWN = "train()\n"
ORDERS = {
    "import, torch": IMPORT + USE_TORCH,
    "torch, import": USE_TORCH + IMPORT,
    "import, torch, own": IMPORT + USE_TORCH + OWN,
    "import, own, torch": IMPORT + OWN + USE_TORCH,
    "own, torch": OWN + USE_TORCH,
    "torch": USE_TORCH,
}


def _uses(order: str, *children: str) -> str:
    lines = [f"found_{i} = in_child({child})" for i, child in enumerate(children)]
    lines += ["want = {'train': train(), 'train_torch': train_torch()}"]  # not before the forks
    lines += [f"assert found_{i} == (want[{child!r}], 0)" for i, child in enumerate(children)]
    return OF_TORCH + ORDERS[order] + "\n".join(lines)


@pytest.fixture
def openmp(torch: ModuleType) -> None:
    if "parallel backend: OpenMP" not in torch.__config__.parallel_info():
        pytest.skip("this torch does not run on OpenMP")


@pytest.mark.usefixtures("openmp")
@pytest.mark.parametrize("backend", ["cython"], indirect=True)
@pytest.mark.parametrize("order", ORDERS)
def test_a_child_leaves_the_threads_of_torch_alone(order: str, backend: str, tmp_path: Path) -> None:
    """Torch's own pool of threads is the parent's; where the child first loads fastrnn.torch, nobody has told it so."""
    assert said_by(_uses(order, "train", "train_torch"), backend, tmp_path) == QUIET


@pytest.mark.usefixtures("openmp")
@pytest.mark.parametrize("backend", ["numba"], indirect=True)
def test_a_child_leaves_the_threads_of_torch_alone_on_numba(backend: str, tmp_path: Path) -> None:
    assert said_by(_uses("torch, import", "train", "train_torch"), backend, tmp_path) == QUIET


@pytest.mark.usefixtures("openmp")
@kernels
def test_workers_of_a_data_loader_use_a_module(backend: str, tmp_path: Path) -> None:
    code = """
from torch.utils.data import DataLoader, Dataset

class Features(Dataset):
    def __len__(self):
        return 4
    def __getitem__(self, index):
        return int(train()[:8], 16)

found = [int(value) for value in DataLoader(Features(), batch_size=None, num_workers=2, timeout=60)]
assert found == 4 * [int(train()[:8], 16)]
"""
    assert said_by(USE_TORCH + IMPORT + code, backend, tmp_path) == QUIET
