"""What packages cost beside their speed: size on disk, time to import, memory of a training step."""

from __future__ import annotations

import json
import multiprocessing
import statistics
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement

from fastrnn.bench.cases import LONG, Case
from fastrnn.bench.peers import PEERS, UnsupportedError
from fastrnn.bench.problems import make
from fastrnn.bench.results import Footprint, Memory

__all__ = ["PACKAGES", "import_seconds", "installed_bytes", "measure_footprints", "step_bytes"]

# Row of the table -> what has to be installed and imported, and the peer that runs the training step.
PACKAGES = {
    "fastrnn": (("fastrnn",), "cython"),
    "fastrnn[numba]": (("fastrnn", "numba"), "numba"),
    "torch": (("torch",), "torch"),
    "onnxruntime": (("onnxruntime",), "onnxruntime"),
    "jax": (("jax",), "jax"),
}
STEPS = (Case("lstm", 1000, 32, 256, 256), *(Case("lstm", *shape) for shape in LONG))
IMPORTS = 5  # measured, after one that fills the disk cache


def measure_footprints() -> Iterator[Footprint]:
    """Measure every package that is installed."""
    for name, (packages, peer) in PACKAGES.items():
        if PEERS[peer].why_absent() is not None:
            continue
        memory, without = [], ""
        for case in STEPS:
            result = step_bytes(peer, case)
            if isinstance(result, str):
                without = result
                break
            memory.append(Memory(case, result))
        yield Footprint(name, import_seconds(packages), installed_bytes(packages), tuple(memory), without)


def import_seconds(packages: tuple[str, ...]) -> float:
    """Seconds that importing takes in a new interpreter: the median of some."""
    code = f"import time; begun = time.perf_counter(); import {', '.join(packages)}; print(time.perf_counter() - begun)"
    seconds = []
    for _ in range(1 + IMPORTS):
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, encoding="utf-8"
        )
        seconds.append(float(done.stdout))
    return statistics.median(seconds[1:])


def installed_bytes(packages: tuple[str, ...]) -> int:
    """Bytes on disk of distributions and of everything that they need."""
    waiting, seen = list(packages), set[str]()
    files: dict[Path, int] = {}
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        try:
            found = distribution(name)
        except PackageNotFoundError:  # needed for a part that is not installed
            continue
        files |= {path: path.stat().st_size for path in _files(found) if path.is_file()}
        requirements = [Requirement(line) for line in found.requires or []]
        waiting += [r.name for r in requirements if r.marker is None or r.marker.evaluate({"extra": ""})]
    return sum(files.values())


def _files(found: Distribution) -> Iterator[Path]:
    """The files of an installed distribution; those of its folders where it is installed in place."""
    in_place = json.loads(found.read_text("direct_url.json") or "{}").get("dir_info", {}).get("editable")
    if not in_place:
        for file in found.files or []:
            yield Path(str(file.locate()))
        return
    import fastrnn.kernels

    for package in (fastrnn, fastrnn.kernels):
        for folder in package.__path__:
            yield from Path(folder).rglob("*")


def step_bytes(peer: str, case: Case) -> int | str:
    """Bytes of memory that one training step needs at its peak, beyond what was there before; or why it is not known.

    The peer has run a step of a few time steps before, so that its code and pools are there, but compilation for the
    case's own shape counts. Outputs and gradients count, parameters and inputs do not.
    """
    if not Path("/proc/self/clear_refs").exists():
        return "peak memory can be measured on Linux only"
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context) as executor:
        return executor.submit(_step_bytes, peer, case).result()


def _step_bytes(peer: str, case: Case) -> int | str:
    try:
        few = PEERS[peer].prepare(make(Case(case.cell, 2, case.N, case.I, case.H)), "training", 1)
        few.call()
        prepared = PEERS[peer].prepare(make(case), "training", 1)
    except UnsupportedError as error:
        return str(error)
    Path("/proc/self/clear_refs").write_text("5", "utf-8")  # the peak begins anew
    before = _status("VmRSS")
    result = prepared.call()
    del result
    return _status("VmHWM") - before


def _status(field: str) -> int:
    """A number of bytes from this process's status."""
    for line in Path("/proc/self/status").read_text("utf-8").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"/proc/self/status has no {field}")
