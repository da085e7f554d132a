"""How many threads a call may use, and that they survive fork, other threads, signals and the end of the process."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from problems import make, run, run_python
from tolerances import assert_same_bits

import fastrnn
from fastrnn import threads
from fastrnn.backends import BACKENDS

backends = pytest.mark.parametrize("backend", list(BACKENDS), indirect=True)
kernels = pytest.mark.parametrize("backend", [name for name in BACKENDS if name != "numpy"], indirect=True)

# A script's start: train() is enough work to be shared by the threads it may use, and returns the same bits each time.
PRELUDE = """
import multiprocessing, os, signal, sys, threading, time, warnings
import numpy as np
import fastrnn

warnings.simplefilter("error")
warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)  # fork, the subject here
x = np.random.default_rng(0).standard_normal((20, 64, 96)).astype(np.float32)

def train(num_threads=2):
    module = fastrnn.LSTM(96, 96, seed=0, num_threads=num_threads)
    y, _, tape = module.forward(x)
    dx, _, grads = module.backward(tape, y.copy())
    return y.tobytes() + dx.tobytes() + grads["weight_hh_l0"].tobytes()

want = train()
"""


# The scripts run on the kernels only: OpenBLAS's own threads, under the numpy backend, now and then wait for ever in a
# child that was forked, or at the end of a process, in the middle of a product.


def run_script(code: str, backend: str, folder: Path) -> str:
    """What the script prints; it must end by itself, in peace."""
    result = run_python(PRELUDE + code, folder, timeout=100, FASTRNN_BACKEND=backend)
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout


@pytest.mark.usefixtures("restored")
def test_number_of_threads_is_set_and_read() -> None:
    fastrnn.set_num_threads(None)
    assert fastrnn.get_num_threads() == threads.available_cpus()
    fastrnn.set_num_threads(3)
    assert fastrnn.get_num_threads() == fastrnn.info().num_threads == 3
    fastrnn.set_num_threads(np.int64(1))
    assert fastrnn.get_num_threads() == 1
    fastrnn.set_num_threads(None)
    assert fastrnn.get_num_threads() == threads.available_cpus()


@pytest.mark.usefixtures("restored")
@pytest.mark.parametrize("value", [0, -2, 1.0, "2", True])
def test_wrong_number_changes_nothing(value: object) -> None:
    fastrnn.set_num_threads(3)
    with pytest.raises((TypeError, ValueError), match=r"num_threads is .*; expected an integer of at least 1"):
        fastrnn.set_num_threads(value)
    assert fastrnn.get_num_threads() == 3


@pytest.mark.parametrize("backend", ["cython", "numba"], indirect=True)
def test_flops_worth_a_thread_can_be_chosen(tmp_path: Path, backend: str) -> None:
    """With FASTRNN_THREAD_FLOPS=0 the smallest problem takes all threads; what is no number is named."""
    code = f"""
import fastrnn
print(fastrnn.LSTM(3, 4, backend="{backend}", num_threads=2).explain((2, 2, 3)))
"""
    for flops, threads_line in (("", "threads 1"), ("0", "threads 2")):
        done = run_python(code, tmp_path, FASTRNN_THREAD_FLOPS=flops, FASTRNN_OVERSUBSCRIBE="1")
        assert threads_line in " ".join(done.stdout.replace(":", "").split()), done.stdout + done.stderr
    refused = run_python(code, tmp_path, FASTRNN_THREAD_FLOPS="few")
    assert "FASTRNN_THREAD_FLOPS is 'few'; expected an integer of at least 0" in refused.stderr


V1 = {"cpu.cfs_quota_us": "50000\n", "cpu.cfs_period_us": "100000\n"}


@pytest.mark.parametrize(
    ("kind", "quotas", "cpus"),
    [
        ("cgroup2", {}, math.inf),
        ("cgroup2", {"": {"cpu.max": "max 100000\n"}}, math.inf),
        ("cgroup2", {"": {"cpu.max": "150000 100000\n"}}, 1.5),
        ("cgroup2", {"a": {"cpu.max": "400000 50000\n"}}, 8.0),
        ("cgroup2", {"": {"cpu.max": "400000 100000\n"}, "a/b": {"cpu.max": "50000 100000\n"}}, 0.5),
        ("cgroup2", {"a": {"cpu.max": "150000 100000\n"}, "a/b": {"cpu.max": "400000 100000\n"}}, 1.5),
        ("cgroup2", {"a/b/not_its_own": {"cpu.max": "50000 100000\n"}}, math.inf),
        ("cgroup2", {"": {"cpu.max": "\n"}}, math.inf),
        ("cgroup", {"": {"cpu.cfs_quota_us": "-1\n", "cpu.cfs_period_us": "100000\n"}}, math.inf),
        ("cgroup", {"": V1}, 0.5),
        ("cgroup", {"a/b": V1}, 0.5),
        ("cgroup", {"a/b": {"cpu.cfs_quota_us": "50000\n"}}, math.inf),
        ("cgroup", {"a": {**V1, "cpu.cfs_quota_us": "garbage\n"}}, math.inf),
        ("cgroup", {"a": {**V1, "cpu.cfs_period_us": "0\n"}}, math.inf),
    ],
    ids=str,
)
def test_quota_of_a_container(tmp_path: Path, kind: str, quotas: dict[str, dict[str, str]], cpus: float) -> None:
    """The least quota of the process's own cgroup a/b and those around it."""
    process, mount = tmp_path / "process", tmp_path / "cgroups"
    process.mkdir()
    (process / "cgroup").write_text("0::/a/b\n" if kind == "cgroup2" else "4:memory:/a\n3:cpu,cpuacct:/a/b\n")
    options = "rw" if kind == "cgroup2" else "rw,cpu,cpuacct"
    (process / "mountinfo").write_text(f"30 23 0:26 / {mount} rw,nosuid - {kind} cgroup {options}\n")
    for folder, files in quotas.items():
        (mount / folder).mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (mount / folder / name).write_text(text)
    assert threads._cgroup_cpus(process) == cpus


def test_no_more_threads_than_cpus_unless_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "_recent", (math.inf, 3))
    assert [threads.usable_threads(n) for n in (1, 2, 64)] == [1, 2, 64]
    monkeypatch.setattr(threads, "_OVERSUBSCRIBE", False)
    assert [threads.usable_threads(n) for n in (1, 2, 64)] == [1, 2, 3]


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no affinity masks")
def test_pinning_is_followed() -> None:
    """A process that is pinned to one CPU after the import uses one thread, as soon as the count is 50 ms old."""
    code = """
import os, time, fastrnn
from fastrnn import threads
before = threads.usable_threads(64)
os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
time.sleep(0.1)
print(before, threads.usable_threads(64), fastrnn.get_num_threads())
"""
    environment = {**os.environ, "FASTRNN_OVERSUBSCRIBE": "0"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.split()[1:] == ["1", "1"]


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system has no affinity masks")
@pytest.mark.parametrize(("quota", "cpus"), [(math.inf, 4), (8.0, 4), (4.0, 4), (2.5, 3), (1.0, 1), (0.1, 1)])
def test_available_cpus(monkeypatch: pytest.MonkeyPatch, quota: float, cpus: int) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 2, 5, 7})
    monkeypatch.setattr(threads, "_cgroup_cpus", lambda: quota)
    assert threads.available_cpus() == cpus


@backends
def test_several_python_threads_at_once(backend: str) -> None:
    problems = [make("lstm", 6, 40, 30, 70, dtype=d, tokens=k) for d in ("float32", "float64") for k in (False, True)]
    want = [run(backend, problem) for problem in problems]
    with ThreadPoolExecutor(4) as pool:
        rounds = [pool.submit(run, backend, p, num_threads=n) for n in (1, 2, 3, 2, 3, 2) for p in problems]
        outcomes = [future.result(timeout=60) for future in rounds]
    for index, outcome in enumerate(outcomes):
        for name, value in want[index % len(problems)].items():
            assert_same_bits(name, outcome[name], value)


@backends
def test_one_module_in_several_python_threads(backend: str) -> None:
    module = fastrnn.GRU(30, 70, 2, seed=0, backend=backend, num_threads=2)
    xs = [np.random.default_rng(n).standard_normal((6, 20, 30)).astype(np.float32) for n in range(16)]

    def train(x: np.ndarray) -> np.ndarray:
        y, _, tape = module.forward(x)
        return module.backward(tape, y.copy())[0]

    want = [train(x) for x in xs]
    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(train, x) for x in xs]
        for future, dx in zip(futures, want, strict=True):
            assert_same_bits("dx", future.result(timeout=60), dx)


@kernels
def test_fork_after_use(backend: str, tmp_path: Path) -> None:
    code = """
context = multiprocessing.get_context("fork")
results = context.SimpleQueue()
children = [context.Process(target=lambda: results.put(train() == want)) for _ in range(3)]
for child in children:
    child.start()
for child in children:
    child.join(30)
print([child.exitcode for child in children], [results.get() for child in children], train() == want)
for child in children:
    child.kill()
"""
    assert run_script(code, backend, tmp_path) == "[0, 0, 0] [True, True, True] True\n"


@kernels
def test_child_shares_units_among_threads_of_its_own(backend: str, tmp_path: Path) -> None:
    """They meet after every step: a child that counts on its parent's threads waits for ever."""
    code = """
module, x = fastrnn.LSTM(512, 512, seed=0, num_threads=2), np.ones((20, 1, 512), np.float32)
want = module(x)[0].tobytes()
child = os.fork()
if child == 0:
    signal.alarm(30)  # a child that hangs dies of it
    os._exit(module(x)[0].tobytes() != want)
print(os.waitpid(child, 0)[1])
"""
    assert run_script(code, backend, tmp_path) == "0\n"


@kernels
def test_fork_while_another_thread_computes(backend: str, tmp_path: Path) -> None:
    code = """
stop = threading.Event()
def compute():
    while not stop.is_set():
        train()
other = threading.Thread(target=compute)
other.start()
codes = []
for _ in range(5):
    child = os.fork()
    if child == 0:
        signal.alarm(15)  # a child that hangs dies of it
        os._exit(train() != want)
    codes.append(os.waitpid(child, 0)[1])
stop.set()
other.join()
print(codes)
"""
    assert run_script(code, backend, tmp_path) == "[0, 0, 0, 0, 0]\n"


@kernels
def test_process_ends_while_a_thread_computes(backend: str, tmp_path: Path) -> None:
    code = """
def compute():
    while True:
        train()
for _ in range(2):
    threading.Thread(target=compute, daemon=True).start()
time.sleep(0.3)
print("end")
"""
    assert run_script(code, backend, tmp_path) == "end\n"


@kernels
def test_interrupt_ends_the_process(backend: str, tmp_path: Path) -> None:
    code = """
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs start with it ignored
threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
while True:
    train()
"""
    result = run_python(PRELUDE + code, tmp_path, FASTRNN_BACKEND=backend)
    assert result.returncode == -signal.SIGINT
    assert result.stderr.endswith("KeyboardInterrupt\n")


@pytest.mark.skipif(sys.platform != "linux", reason="threads are counted in /proc")
@kernels
def test_no_more_threads_than_allowed(backend: str, tmp_path: Path) -> None:
    code = """
import os
os.environ["OPENBLAS_NUM_THREADS"] = "1"
import numpy as np
import fastrnn
x = np.zeros((20, 64, 96), np.float32)
counts = []
for num_threads in (1, 3, 2, 1):
    module = fastrnn.LSTM(96, 96, num_threads=num_threads)
    for _ in range(3):
        y, _, tape = module.forward(x)
        module.backward(tape, y.copy())
    counts.append(len(os.listdir("/proc/self/task")))
print(counts[0], max(counts) <= 3)
"""
    result = run_python(code, tmp_path, FASTRNN_BACKEND=backend)
    assert (result.stdout, result.stderr) == ("1 True\n", "")
