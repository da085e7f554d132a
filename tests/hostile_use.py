"""Use of fastrnn that nobody should make: `python hostile_use.py SEED CALLS BACKEND...` ends with 0, or crashes.

Every array that a call was given, and every attribute that there is, is changed between calls, between forward and
backward, and by another thread while calls run. Any exception is fine; a crash, or memory that a later call finds
broken, is not.
"""

from __future__ import annotations

import contextlib
import copy
import os
import pickle
import random
import sys
import threading
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from public_calls import ENDLESS, ROWS, hostile

import fastrnn

SIZES = [0, 1, 2, 3, 5, 8, 17]
ATTRIBUTES = ("input_size", "hidden_size", "num_layers", "bias", "batch_first", "dropout", "bidirectional", "dtype")
ATTRIBUTES += ("directions", "proj_size", "nonlinearity", "backend", "num_threads", "parameters", "seed", "_cell")
BAD_TOKENS = [-1, -(2**40), 10**9, 2**62, 200]


class Arrays:
    """The arrays that calls were given, and what may be done to them."""

    def __init__(self, draw: random.Random) -> None:
        self.draw = draw
        self.known: list[Any] = []
        self.in_place = threading.Lock()  # NumPy's own loops do not survive that their memory moves

    def add(self, *arrays: Any) -> None:
        self.known += [array for array in arrays if isinstance(array, np.ndarray)]
        del self.known[:-50]

    def write(self, draw: random.Random) -> None:
        """Values, shape and type of one: what another thread may change at any time."""
        if not self.known:
            return
        array = draw.choice(self.known)
        with contextlib.suppress(Exception), self.in_place:
            what = draw.randrange(5)
            if what < 3:
                array[...] = draw.choice(BAD_TOKENS) if array.dtype.kind == "i" else draw.choice([np.nan, 1e30, -1.0])
            elif what == 3:
                array.shape = draw.choice([(array.size,), (1, array.size), array.shape[::-1]])
            else:
                array.dtype = draw.choice([np.int64, np.float64, np.float32, np.int32, np.uint8])

    def move(self) -> None:
        """The memory of one: only between calls, as NumPy's own loops do not survive it either."""
        if self.known:
            with contextlib.suppress(Exception), self.in_place:
                self.draw.choice(self.known).resize(self.draw.choice([0, 1, 100_000]), refcheck=False)


def make_module(draw: random.Random, backends: list[str]) -> Any:
    sizes = [draw.choice(SIZES[1:]) for _ in range(2)]
    options: dict[str, Any] = {"backend": draw.choice(backends), "seed": draw.randrange(5)}
    options |= {"dtype": draw.choice(["float32", "float64"]), "num_threads": draw.choice([None, 1, 2, 3])}
    if draw.random() < 0.2:
        return draw.choice([fastrnn.RNNCell, fastrnn.LSTMCell, fastrnn.GRUCell])(*sizes, **options)
    cls = draw.choice([fastrnn.RNN, fastrnn.LSTM, fastrnn.GRU])
    options |= {name: draw.random() < 0.3 for name in ("batch_first", "bidirectional")}
    options |= {"num_layers": draw.choice([1, 2]), "bias": draw.random() < 0.8}
    if cls is fastrnn.LSTM and sizes[1] > 1 and draw.random() < 0.3:
        options["proj_size"] = draw.randrange(1, sizes[1])
    return cls(*sizes, **options)


def make_x(draw: random.Random, module: Any, arrays: Arrays) -> Any:
    T, N = draw.choice(SIZES), draw.choice(SIZES)
    leading = (N,) if "Cell" in type(module).__name__ else (T, N)
    if draw.random() < 0.5:
        x = np.random.default_rng(0).integers(0, module.input_size, leading, draw.choice(["i8", "i4", "u1"]))
    else:
        x = np.random.default_rng(0).standard_normal((*leading, module.input_size)).astype(module.dtype)
    arrays.add(x)
    return x


def train(draw: random.Random, module: Any, arrays: Arrays, disturb: Callable[[], None]) -> None:
    x = make_x(draw, module, arrays)
    options: dict[str, Any] = {}
    if "Cell" not in type(module).__name__:
        if draw.random() < 0.4:
            batch = x.shape[0 if module.batch_first else 1]
            steps = x.shape[1 if module.batch_first else 0]
            options["lengths"] = np.array([draw.randint(0, steps) for _ in range(batch)], np.int64)
            arrays.add(options["lengths"])
        options["checkpoint_every"] = draw.choice([None, None, 1, 3])
    found = module.forward(x, **options)
    tape, outputs = found[-1], found[:-1]
    flat = [o for each in outputs for o in (each if isinstance(each, tuple) else (each,))]
    arrays.add(*flat)
    disturb()
    dy = [None if draw.random() < 0.2 else np.ones_like(o) for o in flat]
    arrays.add(*dy)
    if len(found) == 2:
        module.backward(tape, tuple(dy) if len(dy) > 1 else dy[0])
    else:
        module.backward(tape, dy[0], None if len(dy) == 1 else tuple(dy[1:]) if len(dy) > 2 else dy[1])


def abuse_module(draw: random.Random, module: Any, arrays: Arrays) -> None:
    """Change what can be changed of a module, its parameters included."""
    what = draw.randrange(8)
    parameters = module.parameters
    name = draw.choice(list(parameters))
    if what == 0:
        setattr(module, draw.choice(ATTRIBUTES), draw.choice([1, 0, 64, 10**6, -1, True, "relu", np.dtype("f8"), None]))
    elif what == 1:
        shape = draw.choice([parameters[name].shape, (3, 4), (0,)])
        parameters[name] = np.zeros(shape, draw.choice(["f4", "f8", "i8"]))
    elif what == 2:
        del parameters[name]
    elif what == 3:
        parameters[name].shape = draw.choice([(-1,), (1, -1), parameters[name].shape[::-1]])
    elif what == 4:
        parameters[name].dtype = draw.choice([np.float64, np.float32, np.int32])
    elif what == 5:
        parameters[name].resize(draw.choice([0, 1, 10_000]), refcheck=False)
    elif what == 6:
        parameters.clear()
    else:
        parameters[name].setflags(write=False)
        arrays.add(parameters[name])


def step_through(draw: random.Random, module: Any, arrays: Arrays, disturb: Callable[[], None]) -> None:
    if "Cell" in type(module).__name__:
        return
    N = draw.choice([None, *SIZES[1:]])
    stream = module.stream(N)
    shape = () if N is None else (N,)
    out = np.empty((*shape, getattr(module, "proj_size", 0) or module.hidden_size), module.dtype)
    tokens = draw.random() < 0.5
    x = np.zeros(shape, np.int64) if tokens else np.zeros((*shape, module.input_size), module.dtype)
    arrays.add(x, out)
    for _ in range(3):
        stream.step(x, draw.choice([None, out]))
        state = stream.state
        arrays.add(*(state if isinstance(state, tuple) else (state,)))
        disturb()
        if draw.random() < 0.3:
            stream.reset(draw.choice([None, [0], [N], [True], [-1]]))
        if draw.random() < 0.3:
            stream.refresh()


def fork_and_run(module: Any) -> None:
    """A child makes a call; a crash of it is one of ours."""
    if not hasattr(os, "fork"):
        return
    child = os.fork()
    if child == 0:
        with contextlib.suppress(Exception):
            module(np.zeros((2, 2), np.int64))
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if status:
        raise SystemExit(f"a forked child ended with {status}")


def main(seed: int, calls: int, backends: list[str]) -> None:
    draw = random.Random(seed)
    arrays, others = Arrays(draw), random.Random(seed + 1)
    pool, rows, done = hostile(None), list(ROWS), threading.Event()

    def write_always() -> None:
        while not done.is_set():
            for _ in range(50):
                arrays.write(others)
            done.wait(0.0005)

    def disturb() -> None:
        for _ in range(draw.randrange(4)):
            arrays.write(draw)
        if draw.random() < 0.3:
            arrays.move()

    writer = threading.Thread(target=write_always, daemon=True)
    writer.start()
    modules: list[Any] = []
    for call in range(calls):
        if len(modules) < 4 or draw.random() < 0.05:
            modules = [*modules[-5:], make_module(draw, backends)]
        module = draw.choice(modules)
        with contextlib.suppress(Exception):
            what = draw.randrange(12)
            if what < 4:
                train(draw, module, arrays, disturb)
            elif what < 6:
                x = make_x(draw, module, arrays)
                disturb()
                module(x)
            elif what == 6:
                step_through(draw, module, arrays, disturb)
            elif what == 7:
                abuse_module(draw, module, arrays)
            elif what == 8:
                modules.append(draw.choice([copy.copy, copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])(module))
            elif what == 9:
                with contextlib.suppress(KeyError):
                    module.trace(make_x(draw, module, arrays))
            else:
                row = draw.choice(rows)
                function, arguments = ROWS[row]()
                arrays.add(*arguments.values())
                for name in draw.sample(list(arguments), min(len(arguments), draw.choice([0, 1, 2]))):
                    kind = draw.choice(list(pool))
                    if (name, kind) not in ENDLESS:
                        arguments[name] = pool[kind]()
                function(**arguments)
                disturb()
        fastrnn.use_backend(None)
        fastrnn.set_num_threads(None)
        if call % 1000 == 0:
            fork_and_run(fastrnn.LSTM(3, 4, seed=0))
    done.set()
    writer.join()
    y, _ = fastrnn.LSTM(3, 4, seed=0)(np.zeros((5, 2), np.int64))  # memory that was broken shows here, if nowhere else
    assert np.isfinite(y).all()
    print(calls, "calls")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    np.seterr(all="ignore")
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
