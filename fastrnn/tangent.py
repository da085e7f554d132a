"""Derivatives beyond the first of one layer in one direction: its tangent, and the derivative of that.

Write v' for the tangent of v: the derivative in the direction of given x', initial states' and weights'. With

    a_t = W_x x_t + b + W_h h_{t-1},    s_t = cell(a_t, s_{t-1})

forward mode is the linear recurrence

    a_t' = (W_x x_t' + W_x' x_t + b' + W_h' h_{t-1}) + W_h h_{t-1}'

whose products in parentheses are of all steps at once, and whose step is `fastrnn.cells.tangents`.

The gradient of <dy, y'> + <dstate_n, state_n'> with respect to x, the initial states and the weights is the product of
the Hessian of <dy, y> with the direction; so it is what a second backward (torch's double backward) gives, and, with
the tangents of dy and dstate_n, the tangent of the first one. It takes back-propagation through time twice: first
through the tangent, which gives the gradients alpha_t of a_t' (those of a_t in the first backward) and of the values
that its coefficients are made of; then through the layer itself, where these, and W_h'^T alpha_t for h_{t-1}, join in.

All of it is recurrences of written cells and dense products, and so runs on the kernels. The letters are those of
`fastrnn.reference`.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from fastrnn import ops
from fastrnn.backends import load
from fastrnn.cells import Cell, State, Weights
from fastrnn.cells.tangents import TANGENTS, adjoint_cell, tangent_cell
from fastrnn.parameters import Array

__all__ = ["Point", "Tangent"]


class Point:
    """Where a layer is differentiated: what it was given, what it returned, and its steps' values.

    Parameters
    ----------
    backend, cell, x, state, weights, num_threads, batch_sizes, reverse
        As of `fastrnn.ops.forward`; the cell is a built-in one.
    y
        What that returned.
    gates
        What `fastrnn.ops.gates` said of its tape; of RNNs none need be asked for.
    """

    def __init__(
        self,
        backend: ModuleType,
        cell: Cell,
        x: Array,
        state: State,
        weights: Weights,
        num_threads: int,
        batch_sizes: Array | None,
        reverse: bool,
        y: Array,
        gates: Sequence[Array],
    ) -> None:
        self.cell, self.x, self.state, self.weights, self.y = cell, x, state, weights, y
        self.num_threads, self.batch_sizes, self.reverse = num_threads, batch_sizes, reverse
        reason = getattr(backend, "why_not_program", None)
        self.backend = load("numpy") if reason and reason(tangent_cell(cell.name, True)) else backend
        self.rows = y.reshape(-1, y.shape[-1])  # (R, P)
        self.links = Links.of(len(self.rows), len(state[0]), batch_sizes, reverse)
        assert weights.hh is not None
        self.hh = weights.hh
        self.u: Array | None = None  # (R, H), what a projection takes
        if cell.name == "lstm":
            i, f, g, o, c = gates
            k = np.tanh(c, out=ops.empty(self.backend, c.shape, c.dtype))
            self.values: tuple[Array, ...] = i, f, g, o, self.before(c, state[1]), k
            self.u = None if weights.hr is None else o * k
        elif cell.name == "gru":
            r, z, n = gates
            h_prev, H = self.before(self.rows, state[0]), r.shape[1]
            bias = None if weights.bias_hh is None else weights.bias_hh[2 * H :]
            self.values = r, z, n, self.multiply(h_prev, self.hh[2 * H :].T, bias), h_prev
        else:
            self.values = (self.rows,)

    def multiply(
        self, a: Array, b: Array, bias: Array | None = None, out: Array | None = None, add: bool = False
    ) -> Array:
        """a b + bias, on the kernels if there are such for it; put into `out`, or added to that."""
        if hasattr(self.backend, "multiply"):
            product: Array = self.backend.multiply(a, b, bias, num_threads=self.num_threads, out=out, add=add)
            return product
        product = a @ b if bias is None else a @ b + bias
        if out is None:
            return product
        out[...] = out + product if add else product
        return out

    def before(self, rows: Array, initial: Array) -> Array:
        """What states of all rows were before each, given the initial ones."""
        found = ops.empty(self.backend, rows.shape, rows.dtype)
        for to, source in self.links.carried:
            found[to] = rows[source]
        for to, sequences in self.links.begun:
            found[to] = initial[sequences]
        return found

    def back(self, drows: Array) -> tuple[Array, Array]:
        """The gradients of `rows` and `initial` from that of what `before` returned."""
        of_rows = ops.empty(self.backend, drows.shape, drows.dtype)
        of_initial = np.zeros((len(self.state[0]), drows.shape[1]), drows.dtype)
        for rows, _ in self.links.ended:
            of_rows[rows] = 0
        for to, source in self.links.carried:
            of_rows[source] = drows[to]
        for to, sequences in self.links.begun:
            of_initial[sequences] = drows[to]
        return of_rows, of_initial

    def blocks(self, weight: Array, wanted: Sequence[int]) -> Array:
        """Some blocks of a weight's rows, (H, K) each, in an order."""
        H = len(self.weights.ih) // len(self.cell.gates)
        if list(wanted) == list(range(len(wanted))):
            return weight[: len(wanted) * H]
        return np.concatenate([weight[k * H : (k + 1) * H] for k in wanted])


class Links(NamedTuple):
    """Which rows follow which, as the steps go."""

    carried: list[tuple[slice, slice]]  # rows, and those of the step before
    begun: list[tuple[slice, slice]]  # rows, and the sequences whose first ones they are
    ended: list[tuple[slice, slice]]  # and whose last ones

    @classmethod
    def of(cls, R: int, N: int, batch_sizes: Array | None, reverse: bool) -> Links:
        """Those of R rows of N sequences, of `batch_sizes` where their lengths differ."""
        if R == 0:
            return cls([], [], [])
        if batch_sizes is None:
            first, last, every = slice(0, N), slice(R - N, R), slice(0, N)
            sooner, later = slice(0, R - N), slice(N, R)
            if reverse:
                return cls([(sooner, later)], [(last, every)], [(first, every)])
            return cls([(later, sooner)], [(first, every)], [(last, every)])
        counts = batch_sizes.tolist()
        firsts = np.concatenate([[0], np.cumsum(batch_sizes)]).tolist()
        links = cls([], [], [])
        for step, count in enumerate(counts):
            at, (before, after) = firsts[step], (step + 1, step - 1) if reverse else (step - 1, step + 1)
            common = min(count, counts[before]) if 0 <= before < len(counts) else 0
            followed = min(count, counts[after]) if 0 <= after < len(counts) else 0
            if common:
                links.carried.append((slice(at, at + common), slice(firsts[before], firsts[before] + common)))
            if common < count:
                links.begun.append((slice(at + common, at + count), slice(common, count)))
            if followed < count:
                links.ended.append((slice(at + followed, at + count), slice(followed, count)))
        return links


class Tangent:
    """A layer's tangent at a point.

    Parameters
    ----------
    point
        Where.
    x, state, weights
        The direction, each array shaped as its own of the point; None stands for zero. Of tokens there is no x.
    keep
        Whether `adjoint` is to be called.

    Attributes
    ----------
    y
        The tangent of y, shaped like it.
    state_n
        Those of the final states.
    """

    def __init__(
        self,
        point: Point,
        x: Array | None,
        state: Sequence[Array | None],
        weights: Sequence[Array | None],
        keep: bool,
    ) -> None:
        self._point, its = point, point.weights
        self._x, dtype = x, its.ih.dtype
        # In the fields of Weights, of which ih may be None, too.
        ih, hh, bias_ih, bias_hh, self._hr, _ = self._weights = weights
        H = len(its.ih) // len(point.cell.gates)
        self._equations = TANGENTS[point.cell.name]
        S = len(self._equations.sums)
        self._sums: Array | None = None  # (R, S*H), what goes into them besides; then their gradients
        if ih is not None or hh is not None or self._hr is not None:
            self._sums = self._of_weights()
        if bias_ih is not None or bias_hh is not None:
            bias_ih, bias_hh = (
                np.zeros(len(w), dtype) if b is None else b for b, w in ((bias_ih, its.ih), (bias_hh, point.hh))
            )
        given = Weights(its.ih, point.hh, bias_ih, bias_hh, its.hr)
        if x is None:  # an input of one column that is zero
            leading = point.y.shape[:-1]
            x, given = np.zeros((*leading, 1), dtype), given._replace(ih=np.zeros((len(its.ih), 1), dtype))
        states = tuple([np.zeros_like(s) if d is None else d for d, s in zip(state, point.state, strict=True)])
        extra = point.values
        if self._sums is not None:
            extra = (*extra, *[self._sums[:, k * H : (k + 1) * H] for k in range(S)])
        cell = tangent_cell(point.cell.name, self._sums is not None)
        arguments: tuple[Any, ...] = (point.backend, cell, x, states, given, point.num_threads)
        arguments += (point.batch_sizes, point.reverse, None, extra)
        self._tape: ops.Tape | None = None
        if keep:
            y, state_n, self._tape = ops.forward(*arguments)
        else:
            y, state_n = ops.run(*arguments)
        self.y, self.state_n = y, state_n
        if self._hr is not None:  # h' = W_hr u' + W_hr' u
            self.y = y + self._projected.reshape(y.shape)
            h_n = state_n[0].copy()
            for rows, sequences in point.links.ended:
                h_n[sequences] += self._projected[rows]
            self.state_n = (h_n, *state_n[1:])

    def _of_weights(self) -> Array:
        """What the sums have from tangents of weights: W_x' x_t + W_h' h_{t-1}, and what W_hr' gives h_{t-1}'."""
        point, (ih, hh, *_) = self._point, self._weights
        H, S = len(point.weights.ih) // len(point.cell.gates), len(self._equations.sums)
        found = ops.empty(point.backend, (len(point.rows), S * H), point.rows.dtype)
        of_x, of_h = self._columns(found)
        if ih is None:
            found[...] = 0
        else:
            found[:, of_x.shape[1] :] = 0
            weight = point.blocks(ih, self._equations.of_x)
            if point.x.dtype.kind == "f":
                point.multiply(point.x.reshape(len(found), point.x.shape[-1]), weight.T, out=of_x)
            else:
                of_x[...] = weight.T[point.x.reshape(-1)]
        if hh is not None:
            h_prev = point.before(point.rows, point.state[0])
            point.multiply(h_prev, point.blocks(hh, self._equations.of_h).T, out=of_h, add=True)
        if self._hr is not None:
            assert point.u is not None
            self._projected = point.multiply(point.u, self._hr.T)
            self._projected_prev = point.before(self._projected, np.zeros_like(point.state[0]))
            point.multiply(self._projected_prev, point.hh.T, out=of_h, add=True)  # only LSTMs have it
        return found

    def _columns(self, sums: Array) -> tuple[Array, Array]:
        """Of all sums (R, S*H) those that x feeds, and those that h feeds."""
        H, S = len(self._point.weights.ih) // len(self._point.cell.gates), len(self._equations.sums)
        return sums[:, : len(self._equations.of_x) * H], sums[:, (S - len(self._equations.of_h)) * H :]

    def adjoint(
        self,
        dy: Array | None,
        dstate_n: Sequence[Array | None],
        dy_tangent: Array | None = None,
        dstate_n_tangent: Sequence[Array | None] | None = None,
        of_x: bool = True,
    ) -> tuple[Array | None, State, Sequence[Array | None]]:
        """The gradient of <dy, y'> + <dstate_n, state_n'>, once; given tangents of these, the tangent of backward.

        Parameters
        ----------
        dy, dstate_n
            Gradients of y and the final states, as of `fastrnn.ops.backward`.
        dy_tangent, dstate_n_tangent
            Their tangents; None for zero.
        of_x
            Whether the first result is wanted.

        Returns
        -------
        tuple
            As of `fastrnn.ops.backward`: with respect to x, the initial states and the weights.
        """
        point, weights = self._point, self._point.weights
        tape, self._tape = self._tape, None
        assert tape is not None
        H, S = len(weights.ih) // len(point.cell.gates), len(self._equations.sums)
        (R, P), sums = point.rows.shape, self._sums
        columns = ops.empty(point.backend, (R, len(point.values) * H), weights.ih.dtype)
        gradients = [columns[:, k * H : (k + 1) * H] for k in range(len(point.values))]
        of_sums = [] if sums is None else [sums[:, k * H : (k + 1) * H] for k in range(S)]
        _, _, found = ops.backward(
            tape, dy, tuple(dstate_n), of_x=False, dextra=(*gradients, *of_sums), dextra_add=False
        )
        first = Weights._make(found)
        # From here on `sums` holds alpha.
        dx: Array | None = None
        dh: Array | None = None  # (R, P), what joins in into h_{t-1}
        if sums is not None:
            ih, hh = self._weights[:2]
            of_inputs, of_h = self._columns(sums)
            if ih is not None and of_x and point.x.dtype.kind == "f":
                dx = point.multiply(of_inputs, point.blocks(ih, self._equations.of_x)).reshape(point.x.shape)
            if hh is not None:
                dh = point.multiply(of_h, point.blocks(hh, self._equations.of_h))
        more: tuple[Array, ...] = ()
        if self._hr is not None:
            assert sums is not None
            dprojected, _ = point.back(point.multiply(sums, point.hh))
            if dy is not None:
                dprojected += dy.reshape(R, P)
            if dstate_n[0] is not None:
                for rows, sequences in point.links.ended:
                    dprojected[rows] += dstate_n[0][sequences]
            more = (point.multiply(dprojected, self._hr),)
            first.hh[...] += point.multiply(np.ascontiguousarray(sums.T), self._projected_prev)  # type: ignore[index]
        dweights = Weights._make(None if w is None else np.zeros_like(w) for w in weights)
        dweights = dweights._replace(hh=first.hh, hr=first.hr)
        if self._x is not None:
            dweights = dweights._replace(ih=first.ih)
        into_y, into_h_0 = dy_tangent, None
        if dh is not None:
            of_rows, into_h_0 = point.back(dh)
            into_y = of_rows.reshape(point.y.shape) if into_y is None else into_y + of_rows.reshape(point.y.shape)
        one = np.ones((len(point.state[0]), H), weights.ih.dtype)
        of_states: tuple[Array | None, ...] = tuple(dstate_n_tangent or [None] * len(point.state))
        last = ops.recall_linear(
            point.backend,
            adjoint_cell(point.cell.name, self._hr is not None),
            point.x,
            (*point.state, np.zeros_like(one)),
            weights,
            point.y,
            point.u,
            point.num_threads,
            point.batch_sizes,
            point.reverse,
            (*point.values, *gradients, *more),
        )
        dx, dstate_0, found = ops.backward(last, into_y, (*of_states, one), dx, dweights, of_x=of_x)
        dstates = dstate_0[:-1]
        if into_h_0 is not None:
            dstates = (dstates[0] + into_h_0, *dstates[1:])
        return dx if of_x else None, dstates, found
