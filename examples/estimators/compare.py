"""The estimators of fastrnn.sklearn beside Keras and skorch: how good, and after how many seconds.

    pip install -e ".[bench,estimators]"
    python examples/estimators/compare.py [--out FILE] [NAME ...]

Five public data sets that come inside packages (`data.py`). The networks are of one size: a bidirectional GRU of 64
units, the mean of its steps and a linear layer; for the series a GRU and its last state. All are trained by Adam at
0.005 with gradients clipped to a norm of 1, in batches of 32, for up to 100 epochs. Ours are the estimators as they
come, whose rate falls by a cosine, and whose classifier holds nothing out of few sequences. The others keep their rate,
hold a tenth out, end after 15 epochs without a lower loss on it, and keep the best epoch. With SEEDS seeds, the
libraries in turns; the means of the scores and the medians of the seconds are kept. KERAS_BACKEND chooses what Keras
runs on, JAX unless it is set.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
from importlib import metadata
from pathlib import Path
from statistics import mean, median
from typing import Any

import data

SETS = ("vowels", "motions", "power", "digits", "sunspots")
LIBRARIES = {"fastrnn": "ours", "keras": "with_keras", "skorch": "with_skorch"}
SEEDS = 3


def row(name: str) -> dict[str, Any]:
    """Train every library's network on a data set, once for each seed."""
    loaded = getattr(data, name)()
    found: dict[str, list[tuple[float, float]]] = {library: [] for library in LIBRARIES}
    for seed in range(SEEDS):
        for library, module in LIBRARIES.items():
            runs = importlib.import_module(module)
            run = runs.forecast if isinstance(loaded, data.Series) else runs.classify
            found[library].append(run(loaded, seed))
    return {
        "data": name,
        "about": loaded.about,
        "measure": "R²" if isinstance(loaded, data.Series) else "accuracy",
        "scores": {library: mean(score for score, _ in runs) for library, runs in found.items()},
        "seconds": {library: median(seconds for _, seconds in runs) for library, runs in found.items()},
    }


def main() -> None:
    """Measure, print, and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[*SETS, []], help="the data sets; all unless given")
    parser.add_argument("--out", type=Path, help="a JSON file, as docs/fit.md has it")
    arguments = parser.parse_args()
    backend = os.environ.setdefault("KERAS_BACKEND", "jax")

    from fastrnn.bench.machine import describe, versions

    rows = []
    for name in arguments.names or SETS:
        rows.append(found := row(name))
        told = (f"{key} {found['scores'][key]:.3f} in {found['seconds'][key]:6.2f} s" for key in LIBRARIES)
        print(f"{name:9} {found['about']}\n          {found['measure']}: {', '.join(told)}", flush=True)
    if arguments.out:
        of_peers = {name: metadata.version(name) for name in ("keras", "skorch")}
        known = {"machine": describe(), "versions": versions() | of_peers, "backend": backend, "rows": rows}
        arguments.out.write_text(json.dumps(known, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
