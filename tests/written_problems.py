"""Random problems of written cells: a cell of the library or by options, a module of it, and a call of that."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from calls import as_state, as_tuple
from tolerances import Outcome, assert_close

import fastrnn
from fastrnn.cells import BESIDE, LIBRARY, WrittenCell, gru_with, lstm_with, rnn_with
from fastrnn.cells.library.activations import ACTIVATIONS
from fastrnn.cells.program import Op
from fastrnn.parameters import Array

WRITTEN = list((LIBRARY | BESIDE).values())
GATES = ["sigmoid", "hard_sigmoid", "sparse_sigmoid"]  # from 0 to 1, or 1 minus a gate would make states grow
OTHERS = [name for name in ACTIVATIONS if name != "exponential"]  # which grows beyond all numbers
# Of O(1) values whose errors do not grow from step to step, as tests/test_recurrent.py has them.
LIMITS = {"float64": 1e-11, "float32": 3e-4}
_KINKS = {Op.LESS, Op.LESS_EQUAL, Op.EQUAL, Op.SELECT}


@dataclass(frozen=True)
class WrittenProblem:
    """A module of a written cell, what a call of it is given, and the gradients that come back into it."""

    cell: WrittenCell
    options: dict[str, Any]  # of the module
    parameters: dict[str, Array]
    x: Array  # (T, N, I), or tokens (T, N)
    state: tuple[Array, ...]  # (L*D, N, H)
    given: dict[str, Any]  # what else forward and inference are given
    checkpoint_every: int | None
    dstate: tuple[Array, ...]
    dtype: str

    def _module(self, backend: str, dtype: str, num_threads: int) -> fastrnn.Recurrent:
        module = fastrnn.Recurrent(self.cell, **self.options, dtype=dtype, backend=backend, num_threads=num_threads)
        for name, value in self.parameters.items():
            module.parameters[name] = value.astype(dtype)
        return module

    def run(self, backend: str, dtype: str, num_threads: int = 1) -> Outcome:
        """Training and inference, and a stream where sequences run whole: everything they return by name."""
        module = self._module(backend, dtype, num_threads)

        def cast(value: Any) -> Any:
            if isinstance(value, dict):
                return {name: cast(each) for name, each in value.items()}
            if isinstance(value, tuple):
                return tuple(map(cast, value))
            return value.astype(dtype) if isinstance(value, np.ndarray) and value.dtype.kind == "f" else value

        x, given, state = cast(self.x), cast(self.given), as_state(cast(self.state))
        options = {"checkpoint_every": self.checkpoint_every, "extra_gradients": bool(module.cell.extra)}
        y, state_n, tape = module.forward(x, state, **given, **options)
        dy = np.random.default_rng(0).standard_normal(y.shape).astype(dtype)
        dx, dstate_0, grads = module.backward(tape, dy, as_state(cast(self.dstate)))
        inferred, inferred_n = module(x, state, **given)
        found = {"y": y, "inferred": inferred} | grads | ({} if dx is None else {"dx": dx})
        several = {"state_n": state_n, "dstate_0": dstate_0, "inferred_n": inferred_n}
        if tape.dreset_state is not None:
            several["dreset_state"] = tape.dreset_state
        found |= {f"d{name}": gradient for name, gradient in (tape.dextra or {}).items()}
        if not given.keys() - {"extra"} and not self.options["bidirectional"]:
            stream = module.stream(batch_size=x.shape[1])
            stream.state = state

            def beside(at: Any) -> dict[str, Any]:
                return {"extra": {name: value[at] for name, value in given["extra"].items()}} if given else {}

            steps = [stream.step(x[t], **beside(t))[None] for t in range(len(x[:3]))]
            found["streamed"] = np.concatenate([*steps, stream.steps(x[3:], **beside(slice(3, None)))])
            several["streamed_n"] = stream.state
        for name, states in several.items():
            found |= {f"{name}[{k}]": each for k, each in enumerate(as_tuple(states))}
        return found

    @cached_property
    def expected(self) -> Outcome:
        """What the reference gives in float64 for the same values."""
        with np.errstate(all="ignore"):
            return self.run("numpy", "float64")

    def check(self, got: Outcome) -> None:
        """Every output and gradient is within the limit of the dtype."""
        assert got.keys() == self.expected.keys()
        for name, want in self.expected.items():
            assert_close(name, got[name], want, LIMITS[self.dtype] * max(1.0, float(np.abs(want).max(initial=0))))


def _draw_cell(rng: np.random.Generator) -> WrittenCell:
    def one_of(names: list[str]) -> str:
        return str(rng.choice(names))

    clip = None if rng.random() < 0.7 else 0.8
    kind = rng.random()
    if kind < 0.7:
        return WRITTEN[rng.integers(len(WRITTEN))]
    if kind < 0.8:
        coupled, peepholes = rng.random(2) < 0.4
        names = one_of(GATES), one_of(OTHERS), one_of(OTHERS)
        return lstm_with(*names, clip=clip, coupled=bool(coupled), peepholes=bool(peepholes))
    if kind < 0.9:
        return gru_with(one_of(GATES), one_of(OTHERS), reset=one_of(["before", "after"]), clip=clip)
    return rnn_with(one_of(OTHERS), clip=clip)


def _has_kinks(cell: WrittenCell) -> bool:
    """Whether rounding may put a value on the other side of a kink, where the gradient is another."""
    assert cell.program is not None
    codes = [cell.program.backward, cell.program.middle_back, cell.program.take_back, cell.program.forward]
    codes += [phase.of_units for phase in (*cell.program.phases, *cell.program.phases_back)]
    return any(instruction.op in _KINKS for code in codes for instruction in code)


def draw_written(rng: np.random.Generator) -> WrittenProblem:
    """A problem of small sizes, or with one larger one."""
    cell = _draw_cell(rng)
    assert cell.program is not None
    T, N, I, H = (int(rng.integers(1, high)) for high in (10, 14, 20, 80))
    N, I, H = (N * 10, I, H) if rng.random() < 0.1 else (N, I * 10, H) if rng.random() < 0.1 else (N, I, H)
    few = cell.program.phases and H < 8  # units, which differ by little: to divide by that makes errors large
    grows = cell is LIBRARY["atr"]  # from layer to layer, and errors with it: h is a sum of x and h, times a gate
    dtype = "float64" if few or grows or _has_kinks(cell) or rng.random() < 0.3 else "float32"

    def chance(p: float) -> bool:
        return bool(rng.random() < p)

    def normal(*shape: int) -> Array:
        return rng.standard_normal(shape).astype(dtype)

    options: dict[str, Any] = {"input_size": I, "hidden_size": H, "num_layers": int(rng.integers(1, 4)), "seed": 0}
    options |= {"bias": chance(0.7), "bidirectional": chance(0.3), "dropout": 0.0}
    if options["num_layers"] > 1 and chance(0.3):
        options["dropout"] = 0.3
    options["noise"] = 0.4 if cell.noise else None
    reads_h = cell.program.reads_h or cell.program.m_gates or cell.program.take
    options["proj_size"] = int(rng.integers(1, H)) if H > 1 and not reads_h and chance(0.3) else 0
    module = fastrnn.Recurrent(cell, **options)
    parameters = {}
    for name, value in module.parameters.items():
        if "weight_hh" in name or "weight_hr" in name:  # U(-1, 1) / sqrt(H)
            parameters[name] = value.astype(dtype)
        elif "unit" in name:
            parameters[name] = (value + rng.uniform(-0.5, 0.5, value.shape)).astype(dtype)
        else:
            parameters[name] = normal(*value.shape) / max(1.0, value.shape[-1] / 10) ** 0.5
    parameters = {name: value.astype(dtype) for name, value in parameters.items()}
    _, state_n = module(np.zeros((1, N, I), np.float32), extra=_extra(cell, rng, 1, N, H, np.float32))
    shapes = [each.shape for each in as_tuple(state_n)]

    def draw_state() -> tuple[Array, ...]:
        state = [normal(*shape) for shape in shapes]
        if cell is LIBRARY["slstm"]:
            state[2] = np.abs(state[2]) + 1  # a sum of positive numbers, which divides
        return tuple(state)

    given: dict[str, Any] = {}
    if cell.extra:
        given["extra"] = _extra(cell, rng, T, N, H, dtype)
    if chance(0.3):
        given["lengths"] = rng.integers(0, T + 1, N)
    if chance(0.3):
        given |= {"mask": rng.random((T, N)) < 0.7, "masked": str(rng.choice(["zero", "last"]))}
    if chance(0.3):
        reset_state = [None, "initial", as_state(draw_state())][rng.integers(3)]
        given |= {"resets": rng.random((T, N)) < 0.2, "reset_state": reset_state}
    return WrittenProblem(
        cell,
        options,
        parameters,
        rng.integers(0, I, (T, N)) if chance(0.2) else normal(T, N, I),
        draw_state(),
        given,
        int(rng.integers(1, T + 1)) if chance(0.2) else None,
        tuple(normal(*shape) for shape in shapes),
        dtype,
    )


def _extra(cell: WrittenCell, rng: np.random.Generator, T: int, N: int, H: int, dtype: Any) -> dict[str, Array] | None:
    """One value for each row, or one for each row and unit."""
    return {
        name: np.abs(rng.standard_normal((T, N, H) if rng.random() < 0.5 else (T, N))).astype(dtype)
        for name in cell.extra
    } or None
