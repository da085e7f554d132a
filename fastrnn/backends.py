"""The backends: which are built, which run here, which one is used, and why.

A backend is a module with two functions, `forward` and `backward`, of the signatures in `fastrnn.reference`:

    y, state_n, tape = forward(cell, x, state, weights, tape=..., num_threads=..., batch_sizes=..., reverse=..., y=...)
    dx, dstate_0, dweights = backward(cell, tape, dy, dstate_n, num_threads=..., dx=..., dweights=..., rows=...)
    gate_arrays = gates(cell, tape, num_threads=..., rows=..., to=...)

Arrays given to it are validated, C-contiguous (y and dy perhaps only in their last axis) and aligned, and are not
written unless they are to be; arrays it returns are new. It says what it is in `describe()` and, where it may be unfit,
why in `why_not_runnable()`. Functions it may have besides, that `fastrnn` does without otherwise:

- `PRECISIONS`, the names of those of `fastrnn.narrow` whose weights `forward(..., tape=False)` takes, and `pack` and
  `Stepper`, if there are any;
- `MULTIPLIES_BFLOAT16`, whether the CPU has instructions for its products of bfloat16, which then take less time than
  those of float32;
- `pack(cell, weights)`, whose result `forward(..., tape=False, packed=...)` takes in place of the weights, then None;
- `keep(tape)`, `recall(...)` and `kept_sizes(...)`, which take a tape apart into arrays and put it together again;
- `TAKES_KEPT`, if `forward(..., kept=arrays)` puts into the first part of these what `keep` returns of the tape;
- `TAKES_PREPARED`, if in place of a cell's own parameters it takes what programs see, (M, H): see
  `fastrnn.cells.prepared`;
- `run_on_arrays(program, *arrays)`, which makes these itself, and their gradients: the outputs (..., H) of a
  `fastrnn.cells.program.ArrayProgram` whose inputs are the rows of all arrays, one after the other;
- `LEAVES_DX`, if `backward(..., of_x=False)` does not compute the gradient of x;
- `LEAVES_DWEIGHTS`, if `backward(..., of_weights=False)` does not compute those of the weights, where it need not;
- `LOOKS_ITSELF`, if it makes sure that arrays fit one another, as `fastrnn.fits` does for the others. It then has for
  XLA `prepare(cell, x, state, weights)`, which chooses once what brief calls of the sizes of these arrays need, or
  returns None, and `RUN_PREPARED`, a capsule of the C function that runs one;
- `RUNS_GROUPS`, if `forward` and `pack` take `members`, the number of layers of one shape that are run in one call:
  arrays have an axis of these before the others, x too unless it is `shared`;
- `why_not_program(cell)`, which says what in a written cell's program it does not run, or None. If it runs those that
  are given values beside x, its `forward`, `recall` and stepper's `step` take these as `extra`;
- `sample(x)`, which is `fastrnn.ops.sample`;
- `new_array(shape, dtype)`, a new array on memory that it recycles;
- `multiply(a, b, bias)` for dense layers, `softmax(z, scale)` for losses, `scatter_add(rows, tokens, count)` for
  embeddings, `adam(p, grad, mean, square, ...)` for the optimizer;
- `explain(...)`, which says what it would choose for a call;
- `Stepper(cell, weights, batch_size, dtype, num_threads, validate)`, a class that takes single steps without allocating
  anything, from a list of each layer's weights, from the first on, and a zero state. Arrays have no axis N where
  batch_size is None, but in `states`. It has

  - `step(x, out=None, extra=())`, which takes one step of all layers and returns `out`, or a new array where that is
    None, with the last layer's outputs (N, P); `extra` is as of `forward`. x is used as it is where it is a
    C-contiguous and aligned ndarray (N, I) of dtype, and out where it is such an array (N, P) that can be written.
    Anything else, so token indices too, goes through `validate(x, out)`, before the state is touched: that raises what
    is to be raised, or returns x as an array that can be used, real or intp tokens (N,) within range, and says by
    returning that out is None or can be written. out may overlap x: it is written last;
  - `states`, a list of each layer's (h,) or (h, c), h (N, P) and c (N, H), with N = 1 where batch_size is None: arrays
    of its own that every step writes in place, and that others write to between steps;
  - `load(weights)`, which replaces the weights. They are copied or packed: no reference to a parameter stays.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import sys
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

import numpy as np

from fastrnn.checks import check_positive, shown
from fastrnn.errors import BackendError
from fastrnn.machine import Caches, find_caches
from fastrnn.threads import get_num_threads

__all__ = ["BACKENDS", "BackendStatus", "Info", "check_backend", "check_run", "info", "load", "resolve", "use_backend"]

# In the order in which auto tries them.
BACKENDS: dict[str, str] = {
    "cython": "fastrnn.kernels.sequence",
    "numba": "fastrnn.kernels.numba_sequence",
    "numpy": "fastrnn.reference",
}

SPELLED = {"numba": "Numba", "numpy": "NumPy"}

_chosen: str | None = None  # by use_backend
_loaded: dict[str | None, ModuleType | BackendError] = {}  # by name; under None the first that runs here


def _why_not_built(name: str, error: ImportError) -> str:
    """Why importing a backend failed, for a person who wants it."""
    package = Path(__file__).parent
    if name == "numba" and error.name == "numba":
        return "numba is not installed: pip install numba"
    if (package.parent / "setup.py").exists() and importlib.util.find_spec("fastrnn.kernels") is None:
        return (
            f"{package.parent} is fastrnn's source tree, whose kernels are not built, and hides the installed "
            "package: run from another folder, or pip install -e . in this one"
        )
    if name == "cython":
        spec = importlib.util.find_spec("fastrnn.kernels")
        for folder in (spec.submodule_search_locations or []) if spec else []:
            failure = Path(folder, "build_failure.txt")
            if failure.exists():
                return failure.read_text("utf-8").strip()
    return str(error)


def _import(name: str) -> ModuleType | BackendError:
    """A backend's module, or why there is none."""
    try:
        module = importlib.import_module(BACKENDS[name])
    except ImportError as error:
        return BackendError(f"backend {name!r} is not built: {_why_not_built(name, error)}")
    reason = getattr(module, "why_not_runnable", lambda: None)()
    return BackendError(f"backend {name!r} cannot run here: {reason}") if reason else module


def load(name: str) -> ModuleType:
    """Import a backend's module.

    Raises
    ------
    BackendError
        If the name is unknown, the backend is not built, or it cannot run on this CPU; three different texts.
    """
    if not isinstance(name, str) or name not in BACKENDS:
        raise BackendError(f"backend is {shown(name)}; expected one of {', '.join(BACKENDS)}")
    found = _loaded.get(name)
    if found is None:
        found = _loaded[name] = _import(name)
    if isinstance(found, BackendError):
        raise BackendError(str(found))
    return found


def check_backend(backend: Any) -> str | None:
    """Return the name of a backend that runs here, or None; TypeError or BackendError for anything else."""
    if backend is None:
        return None
    if not isinstance(backend, str):
        raise TypeError(f"backend is {shown(backend)}; expected None or one of {', '.join(BACKENDS)}")
    load(backend)
    return backend


def check_run(backend: Any, num_threads: Any) -> tuple[str | None, int | None]:
    """Return what a module is to run on, None where that is left open; TypeError, ValueError or BackendError."""
    return check_backend(backend), None if num_threads is None else check_positive("num_threads", num_threads)


def _automatic() -> tuple[str, ModuleType]:
    for name in BACKENDS:
        try:
            return name, load(name)
        except BackendError:
            continue
    raise AssertionError("the numpy backend always loads")


def _warn_without_kernels(used: str) -> None:
    """Say why a backend is used that nobody asked for: without the C kernels a step may take twenty times as long."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and str(frame.f_globals.get("__name__")).partition(".")[0] == "fastrnn":
        frame, level = frame.f_back, level + 1
    warnings.warn(
        f"fastrnn runs on {SPELLED[used]}, much slower than on its C kernels: {_loaded['cython']} "
        f"(if {SPELLED[used]} is what you want, FASTRNN_BACKEND={used} or fastrnn.use_backend({used!r}) says so)",
        RuntimeWarning,
        stacklevel=level,
    )


def _environment() -> tuple[Mapping[Any, Any], Any]:
    """Where to look FASTRNN_BACKEND up, and under which key.

    In CPython that is the dictionary which os.environ keeps: os.environ itself raises and catches an error for a name
    that is not set, which took a tenth of a call of one small step.
    """
    try:
        return os.environ._data, os.environ.encodekey("FASTRNN_BACKEND")  # type: ignore[attr-defined]
    except AttributeError:
        return os.environ, "FASTRNN_BACKEND"


_VARIABLES, _KEY = _environment()


def asked_for() -> str | None:
    """The backend that `use_backend` or FASTRNN_BACKEND names, if one does."""
    return _chosen or (_VARIABLES.get(_KEY) and os.environ["FASTRNN_BACKEND"]) or None


def resolve(name: str | None = None) -> ModuleType:
    """The backend to use: `name`, else `use_backend`'s, else FASTRNN_BACKEND's, else the first that runs here.

    Where that first one is not the C kernels, a RuntimeWarning says why, once in a process.
    """
    wanted = name or asked_for()
    if wanted:
        return load(wanted)
    found = _loaded.get(None)
    if not isinstance(found, ModuleType):
        used, found = _automatic()
        _loaded[None] = found  # before the warning, which may be an exception: it comes once
        if isinstance(_loaded.get("cython"), BackendError):
            _warn_without_kernels(used)
    return found


class use_backend:  # noqa: N801  (reads as a statement)
    """Choose the backend of every call from here on; as a context manager, until the block ends.

    Parameters
    ----------
    name
        "cython", "numba" or "numpy"; None lets fastrnn choose. A module's own `backend` goes before it.

    Raises
    ------
    BackendError
        If that backend is unknown, not built, or cannot run on this CPU.

    Examples
    --------
    >>> import fastrnn
    >>> with fastrnn.use_backend("numpy"):
    ...     fastrnn.info().used
    'numpy'
    """

    def __init__(self, name: str | None) -> None:
        global _chosen
        if name is not None:
            load(name)
        self._before = _chosen
        _chosen = name

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        global _chosen
        _chosen = self._before


@dataclass(frozen=True)
class BackendStatus:
    """What `info` says of one backend."""

    name: str
    runs: bool
    detail: str  # what it is when it runs, why not when it does not


@dataclass(frozen=True)
class Info:
    """What was built, what runs here, and why; str() of it is a readable report."""

    version: str
    used: str
    why: str
    num_threads: int
    caches: Caches  # of a core; the C kernels choose by them
    backends: tuple[BackendStatus, ...]

    def __str__(self) -> str:
        lines = [
            f"fastrnn {self.version}, Python {platform.python_version()}, NumPy {np.__version__}, {platform.machine()}",
            f"backend: {self.used} ({self.why}), up to {self.num_threads} threads",
        ]
        lines += [f"  {b.name:<7} {'runs' if b.runs else 'does not run'}: {b.detail}" for b in self.backends]
        lines.append(f"caches: {self.caches}")
        return "\n".join(lines)


def info() -> Info:
    """Tell what was built, what runs here and why.

    Raises
    ------
    BackendError
        If FASTRNN_BACKEND names a backend that does not run.
    """
    import fastrnn

    statuses, caches = [], find_caches()
    for name in BACKENDS:
        try:
            module: Any = load(name)
        except BackendError as error:
            statuses.append(BackendStatus(name, False, str(error)))
        else:
            statuses.append(BackendStatus(name, True, module.describe()))
            caches = getattr(module, "CACHES", caches)
    if _chosen:
        why = "chosen by use_backend"
    elif os.environ.get("FASTRNN_BACKEND"):
        why = "chosen by FASTRNN_BACKEND"
    else:
        why = "the first that runs here"
    used = _chosen or os.environ.get("FASTRNN_BACKEND") or _automatic()[0]
    load(used)
    return Info(fastrnn.__version__, used, why, get_num_threads(), caches, tuple(statuses))
