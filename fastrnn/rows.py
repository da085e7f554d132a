"""From what a module's callers have to rows as the kernels take them, and back.

What a call is given is validated here, once. Single sequences, `batch_first`, lengths, masks and resets end here, and
what is behind this room knows none of them: a stack is given x as (T, N, I), or as rows (R, I) with `batch_sizes`, and
an initial state by layer and direction. What it returns takes the same way back.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fastrnn import ops
from fastrnn.cells import Cell, State
from fastrnn.checks import check_choice, shown, take_array
from fastrnn.extra import named
from fastrnn.parameters import Array
from fastrnn.steps import Empty, Ragged

__all__ = ["Entrance", "Rows", "as_flags", "parts_of"]

MASKED = ("zero", "last")  # what y may have at masked steps

DState = tuple[Array | None, ...]


class Rows:
    """The way back of a call, here of a plain one: every sequence is run step by step from its h_0 on.

    Of such there is one for each form that callers have their arrays in.
    """

    batch_sizes: Array | None = None  # those of `ragged`
    ragged: Ragged | None = None

    def __init__(self, batched: bool, batch_first: bool) -> None:
        self.batched, self.batch_first = batched, batch_first

    def form(self, array: Array) -> Array:
        """An array of all steps, (T, N, K), in the caller's form."""
        if self.batch_first:
            return array.swapaxes(0, 1)
        return array if self.batched else array[:, 0]

    def steps_of(self, x: Array) -> tuple[int, int]:
        """The caller's T and N, of x as `Entrance.take` returned it."""
        return x.shape[0], x.shape[1]

    def pack(self, array: Array) -> Array:
        """Of an array (T, N, K) what is run."""
        return array

    def unpack(self, rows: Array) -> Array:
        """What `pack` has made, (..., K), in the caller's form; zero where nothing is run."""
        return self.form(rows)

    def back(self, y: Array, states_n: Sequence[State], empty: Empty) -> tuple[Array, Any]:
        """y and the final states as the caller has them; `empty` makes arrays."""
        return self.form(y), self.join(states_n)

    def join(self, per_layer: Sequence[State]) -> Any:
        """The states (N, K) by layer and direction as (L*D, N, K), alone or in a tuple, as the caller has them."""
        if len(per_layer) > 1:
            per_state = tuple([np.stack(layers) for layers in zip(*per_layer, strict=True)])
        elif len(per_layer[0]) == 2:
            h, c = per_layer[0]  # a comprehension costs more than the rest of the function
            per_state = h[None], c[None]
        else:
            per_state = tuple([s[None] for s in per_layer[0]])
        if not self.batched:
            per_state = tuple([s[:, 0] for s in per_state])
        return per_state if len(per_state) > 1 else per_state[0]

    def take_dy(self, dy: Array) -> Array:
        """The gradient of y, as the caller has it, as `back` was given y."""
        if self.batch_first:
            return np.ascontiguousarray(dy.swapaxes(0, 1))
        return dy if self.batched else dy[:, None]

    def take_dstates(self, per_layer: Sequence[DState]) -> Sequence[DState]:
        """The gradients of the final states by layer and direction, as `back` was given them."""
        return per_layer

    def gradients_back(
        self, dx: Array | None, dstates_0: Sequence[State], dstates_n: Sequence[DState]
    ) -> tuple[Array | None, Any, Any]:
        """The gradients of x, of the initial state and of a state to begin anew with, as the caller has them.

        `dstates_n` is what `take_dstates` was given.
        """
        return None if dx is None else self.unpack(dx), self.join(dstates_0), None


_BATCH = Rows(True, False)
_SINGLE = Rows(False, False)
_FORMS = {(True, False): _BATCH, (True, True): Rows(True, True), (False, False): _SINGLE, (False, True): _SINGLE}


class _NoSequences(Rows):
    """Of a batch of no sequences, which is run as one of no steps, however many it has."""

    given = False  # whether there are states to begin anew with

    def __init__(self, batch_first: bool, steps: int) -> None:
        super().__init__(True, batch_first)
        self._steps = steps

    def steps_of(self, x: Array) -> tuple[int, int]:
        return self._steps, 0

    def pack(self, array: Array) -> Array:
        return array[:0]

    def form(self, array: Array) -> Array:
        return super().form(np.empty((self._steps, *array.shape[1:]), array.dtype))

    def take_dy(self, dy: Array) -> Array:
        return super().take_dy(dy)[:0]

    def gradients_back(
        self, dx: Array | None, dstates_0: Sequence[State], dstates_n: Sequence[DState]
    ) -> tuple[Array | None, Any, Any]:
        dx, dstate_0, _ = super().gradients_back(dx, dstates_0, dstates_n)
        return dx, dstate_0, self.join(dstates_0) if self.given else None


class _Runs(Rows):
    """Of a call that does not run all steps, or whose states begin anew.

    Parameters
    ----------
    form
        That of the caller.
    ragged
        Which steps are run.
    pools
        By layer and direction, the states where runs may begin; see `Ragged`.
    anew
        What states begin anew with: "zero", "initial", or "given" states.
    last
        Whether y has the last output at masked steps, instead of zero.
    directions
        D.
    """

    def __init__(
        self, form: Rows, ragged: Ragged, pools: Sequence[State], anew: str, last: bool, directions: int
    ) -> None:
        super().__init__(form.batched, form.batch_first)
        self.ragged = self._ragged = ragged
        self.batch_sizes = ragged.batch_sizes
        self._pools, self._anew, self._last, self._directions = pools, anew, last, directions

    def steps_of(self, x: Array) -> tuple[int, int]:
        return self._ragged.shape

    def pack(self, array: Array) -> Array:
        return self._ragged.pack(array)

    def unpack(self, rows: Array) -> Array:
        return self.form(self._ragged.unpack(rows))

    def begin(self) -> list[State]:
        """The states that the runs begin with, by layer and direction."""
        begin, D = self._ragged.begin, self._directions
        return [tuple([begin(pool, at % D == 1) for pool in its]) for at, its in enumerate(self._pools)]

    def back(self, y: Array, states_n: Sequence[State], empty: Empty) -> tuple[Array, Any]:
        y, end, D = self._ragged.unpack(y, empty), self._ragged.end, self._directions
        if self._last:
            for reverse, part in enumerate(self.parts_of(y)):
                self._ragged.hold(part, reverse == 1)
        ended = [
            tuple([end(state, pool, at % D == 1) for state, pool in zip(its, pools, strict=True)])
            for at, (its, pools) in enumerate(zip(states_n, self._pools, strict=True))
        ]
        return self.form(y), self.join(ended)

    def take_dy(self, dy: Array) -> Array:
        dy = super().take_dy(dy)
        if self._last:
            dy = dy.copy()
            for reverse, part in enumerate(self.parts_of(dy)):
                self._ragged.release(part, reverse == 1)
        return self._ragged.pack(dy)

    def parts_of(self, y: Array) -> list[Array]:
        """The columns of y by direction."""
        P = y.shape[2] // self._directions
        return [y[..., at * P : (at + 1) * P] for at in range(self._directions)]

    def take_dstates(self, per_layer: Sequence[DState]) -> Sequence[DState]:
        into, D = self._ragged.into_runs, self._directions
        return [tuple([None if d is None else into(d, at % D == 1) for d in its]) for at, its in enumerate(per_layer)]

    def gradients_back(
        self, dx: Array | None, dstates_0: Sequence[State], dstates_n: Sequence[DState]
    ) -> tuple[Array | None, Any, Any]:
        ragged, N, D = self._ragged, self._ragged.shape[1], self._directions
        dpools = [
            [ragged.into_pool(d_0, d_n, at % D == 1) for d_0, d_n in zip(*both, strict=True)]
            for at, both in enumerate(zip(dstates_0, dstates_n, strict=True))
        ]
        if self._anew == "initial" and ragged.anew:
            dpools = [[d[:N] + d[N:] for d in its] for its in dpools]
        dstate_0 = self.join([tuple([d[:N] for d in its]) for its in dpools])
        danew = None
        if self._anew == "given":
            danew = self.join([tuple([d[N:] if ragged.anew else np.zeros_like(d) for d in its]) for its in dpools])
        return None if dx is None else self.unpack(dx), dstate_0, danew


class Entrance:
    """Where a module's calls come in.

    Parameters
    ----------
    cell, dtype
        Those of the module.
    input_size, sizes
        I, and how many columns each state has: P, then H.
    layers, directions
        L and D.
    projected
        Whether P is the size of a projection.
    """

    def __init__(
        self,
        cell: Cell,
        dtype: np.dtype[Any],
        input_size: int,
        sizes: Sequence[int],
        layers: int,
        directions: int,
        projected: bool,
    ) -> None:
        self._cell, self._dtype, self._input_size, self._sizes = cell, dtype, input_size, tuple(sizes)
        self._layers, self._directions, self._projected = layers * directions, directions, projected
        self._alike = len(set(sizes)) == 1
        self._zeros: tuple[int, list[State]] = (-1, [])  # N, each layer's initial state where none is given

    def take(
        self,
        x: Any,
        state: Any,
        batch_first: bool,
        lengths: Any = None,
        mask: Any = None,
        masked: Any = "zero",
        resets: Any = None,
        reset_state: Any = None,
    ) -> tuple[Array, Sequence[State], Rows]:
        """Validate what a call is given.

        Returns x as (T, N, I), tokens (T, N), or the rows of either that are run; the initial states by layer and
        direction; and the way back.
        """
        rows: Rows = _BATCH
        whole = lengths is None and mask is None and resets is None and reset_state is None
        if batch_first or not ops.are_ready((x,), self._dtype, (self._input_size,), 2):
            leading = ("N", "T") if batch_first else ("T", "N")
            x, batched = ops.as_input(
                x, self._dtype, self._input_size, leading, time_major=not batch_first, padded=not whole
            )
            rows = _FORMS[batched, batch_first]
        steps, N = x.shape[:2]
        if N == 0:
            x = x[:0]  # there may be any number of steps, and there is nothing to do in each
            rows = _NoSequences(batch_first, steps)
        if type(masked) is not str or masked != "zero":
            check_choice("masked", masked, MASKED)
        if not whole:
            return self._take_runs(x, state, rows, steps, lengths, mask, masked == "last", resets, reset_state)
        return x, self._zero_states(N) if state is None else self._take_states(state, N, rows.batched), rows

    def _take_runs(
        self,
        x: Array,
        state: Any,
        rows: Rows,
        steps: int,
        lengths: Any,
        mask: Any,
        last: bool,
        resets: Any,
        reset_state: Any,
    ) -> tuple[Array, Sequence[State], Rows]:
        """The same of a call that may not run all steps, or whose states may begin anew; x is (T, N, ...)."""
        N, anew = x.shape[1], "zero"
        if isinstance(reset_state, str):
            anew = reset_state
            if anew != "initial":
                raise ValueError(f"reset_state is {shown(anew)}; expected None for zeros, 'initial', or a state")
        elif reset_state is not None:
            anew = "given"
        ragged = _look(x, rows, steps, lengths, mask, resets, anew == "given")
        if ragged is not None:
            x = ragged.pack(x)
        if ops.is_tokens(x):
            x = ops.as_tokens("x", x, self._input_size, "input_size")
        states = self._zero_states(N) if state is None else self._take_states(state, N, rows.batched)
        if anew == "given":
            others = self._take_states(reset_state, N, rows.batched, reset=True)
        else:
            others = states if anew == "initial" else self._zero_states(N)
        if isinstance(rows, _NoSequences):
            rows.given = anew == "given"
        if ragged is None:
            return x, states, rows
        if ragged.anew:
            states = [
                tuple([np.concatenate(both) for both in zip(*its, strict=True)])
                for its in zip(states, others, strict=True)
            ]
        runs = _Runs(rows, ragged, states, anew, last, self._directions)
        return x, runs.begin(), runs

    def take_extra(self, names: Sequence[str], extra: Any, x: Array, rows: Rows, hidden_size: int) -> list[Array]:
        """Validate what a call is given beside x, by name.

        Returns of each a copy, (T, N, 1) or (T, N, H), or the rows of it that are run; x and `rows` are from `take`.
        """
        steps, N = rows.steps_of(x)
        axes, letters = ((steps, N), "T, N") if rows.batched else ((steps,), "T")
        if rows.batch_first:
            axes, letters = (N, steps), "N, T"
        taken = []
        for what, value in named(self._cell.name, names, extra):
            array = take_array(what, value)
            if array.ndim <= len(axes):
                array = ops.as_real(what, array, self._dtype, axes, f"({letters}) or ({letters}, H)")[..., None]
            W = 1 if array.shape[-1] == 1 else hidden_size
            array = ops.as_real(what, array, self._dtype, (*axes, W), f"({letters}, H)")
            if rows.batch_first:
                array = array.swapaxes(0, 1)
            taken.append(rows.pack(array.reshape(steps, N, W)).copy())
        return taken

    def take_gradients(
        self, rows: Rows, y_shape: tuple[int, ...], dy: Any, dstate: Any, *, tangents: bool = False
    ) -> tuple[Array | None, Sequence[DState], Sequence[DState]]:
        """Validate what `backward` is given, for a y of a shape; or the `tangents` of these.

        Returns the gradients of y and of the final states as `rows.back` was given these, and for `gradients_back` the
        latter by layer and direction as they came.
        """
        if dy is not None:
            dy = rows.take_dy(ops.as_real("dy_tangent" if tangents else "dy", dy, self._dtype, y_shape, "y's shape"))
        names, what = self._cell.dstates_n, "the state"
        if tangents:
            names, what = parts_of("dstate_tangent", len(names)), "dstate_tangent"
        per_layer: Sequence[DState] = [(None,) * len(names)] * self._layers
        if dstate is not None:
            N = y_shape[0 if rows.batch_first else 1] if rows.batched else 1
            dstates = self._as_states(names, dstate, N, rows.batched, optional=True, what=what)
            per_layer = [tuple([None if d is None else d[layer] for d in dstates]) for layer in range(self._layers)]
        return dy, rows.take_dstates(per_layer), per_layer

    def _zero_states(self, N: int) -> list[State]:
        """The initial states where none is given: the same for all calls, read-only."""
        of_size, zeros = self._zeros  # read, and below written, at once: other threads do so too
        if of_size != N:
            zero = tuple([np.zeros((N, size), self._dtype) for size in self._sizes])
            for array in zero:
                array.flags.writeable = False
            zeros = [zero] * self._layers
            self._zeros = N, zeros
        return zeros

    def _take_states(self, state: Any, N: int, batched: bool, *, reset: bool = False) -> list[State]:
        """The given initial state, or with `reset` the one to begin anew with, by layer and direction."""
        names, what = self._cell.states_0, "the state"
        if reset:
            names, what = parts_of("reset_state", len(names)), "reset_state"
        states = self._as_states(names, state, N, batched, what=what)
        if len(states[0]) > 1 or len(states) > 2:
            return [tuple([s[layer] for s in states]) for layer in range(self._layers)]
        if len(states) > 1:
            return [(states[0][0], states[1][0])]  # a comprehension costs more than the rest of the function
        return [(states[0][0],)]

    def _as_states(
        self,
        names: Sequence[str],
        values: Any,
        N: int,
        batched: bool,
        *,
        optional: bool = False,
        what: str = "the state",
    ) -> tuple[Any, ...]:
        """A state or its gradient as the caller has it, as a tuple of (L*D, N, K)."""
        layers, count = self._layers, len(names)
        if batched and self._alike and (count == 1 or (type(values) is tuple and len(values) == count)):
            states = (values,) if count == 1 else values
            if ops.are_ready(states, self._dtype, (layers, N, self._sizes[0])):
                return states  # as most are: what follows takes as long as a small step
        batch = (N,) if batched else ()
        shapes = [(layers, *batch, size) for size in self._sizes]
        of_h = f"(L*D, {'N, ' * batched}{'P' if self._projected else 'H'})"
        letters = [of_h] + [f"(L*D, {'N, ' * batched}H)"] * (count - 1)
        states = ops.as_states(names, values, self._dtype, shapes, letters, optional=optional, what=what)
        return states if batched else tuple([None if s is None else s[:, None] for s in states])


def parts_of(name: str, count: int) -> tuple[str, ...]:
    """What messages call the parts of a state, which is a tuple unless it has one."""
    return tuple([f"{name}[{at}]" for at in range(count)]) if count > 1 else (name,)


def _look(x: Array, rows: Rows, steps: int, lengths: Any, mask: Any, resets: Any, always: bool) -> Ragged | None:
    """Validate which steps of x (T, N, ...) are run and where states begin anew; None where a plain call serves."""
    N = x.shape[1]
    axes, letters = ((steps, N), "(T, N)") if rows.batched else ((steps,), "(T,)")
    if rows.batch_first:
        axes, letters = (N, steps), "(N, T)"
    if lengths is not None:
        if not rows.batched:
            shape = x.shape[:1] + x.shape[2:]
            raise ValueError(f"lengths is given, but x has shape {shape}; expected a batch with it")
        lengths = ops.as_lengths(lengths, N, steps)
    if mask is None and resets is None and not always:
        return Ragged.of_lengths(lengths, steps) if lengths is not None and (lengths != steps).any() else None
    run, cut = np.full((steps, N), True), np.full((steps, N), False)
    for name, given, flags in (("mask", mask, run), ("resets", resets, cut)):
        if given is not None:
            its = as_flags(name, given, axes, letters)
            flags[...] = its.T if rows.batch_first else its.reshape(steps, N)
    inside = np.full((steps, N), True) if lengths is None or N == 0 else np.arange(steps)[:, None] < lengths
    if N == 0 or (run.all() and inside.all() and not cut.any() and not always):
        return None
    return Ragged.of_steps(run, cut, inside)


def as_flags(name: str, value: Any, shape: tuple[int, ...], letters: str) -> Array:
    """Return `value` as an array of bools; TypeError or ValueError unless it is of a shape, which `letters` names."""
    array = take_array(name, value)
    if array.dtype != bool and array.size:  # an empty list is one of float64
        remedy = ""
        if array.dtype.kind in "iuf":
            remedy = (
                f": use np.array({name}, bool)" if isinstance(value, (list, tuple)) else f": use {name}.astype(bool)"
            )
        raise TypeError(f"{name} has dtype {array.dtype}; expected bool{remedy}")
    if array.shape != shape:
        remedy = f": use {name}.T" if array.ndim > 1 and array.shape == shape[::-1] else ""
        raise ValueError(f"{name} has shape {array.shape}; expected {letters} = {shape}{remedy}")
    return array
