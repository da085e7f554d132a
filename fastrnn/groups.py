"""Several layers of one shape in one call: the members of an ensemble, and the heads of a layer.

K members have weights of their own in arrays with an axis of K before the others, and so are their states, y, and x
unless they share it. A backend that runs groups (`RUNS_GROUPS`) is called once; on others each member is a call. Every
member's results are those of a layer alone, to the bit.

The heads of a layer are members that share x, and whose outputs are side by side: H/K columns of y, of every state, and
H/K rows of each gate's block of the weights belong to a head, whose recurrent product sees no other head's h.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from fastrnn import ops
from fastrnn.cells import Cell, State, Weights
from fastrnn.extra import Beside
from fastrnn.fits import check_weights
from fastrnn.parameters import Array
from fastrnn.stack import Dropout

__all__ = ["BesideMembers", "Dropouts", "GroupWeights", "Heads", "Members", "MembersOfHeads", "dense"]


class Members(ops.Several):
    """The weights of K members: ih (K, G*H, I) and so on."""

    __slots__ = ()

    def at(self, k: int) -> Weights:
        """Those of member k."""
        return Weights._make(None if weight is None else weight[k] for weight in self)

    def are_run_by(self, backend: ModuleType) -> bool:
        """Whether a backend runs all of them in one call."""
        return hasattr(backend, "RUNS_GROUPS")

    def count(self, cell: Cell) -> int:
        """K."""
        return len(self.ih)

    def first(self, cell: Cell) -> Weights:
        """Those of the first member."""
        return self.at(0)

    def run(
        self,
        backend: ModuleType,
        cell: Cell,
        x: Array,
        state: State,
        num_threads: int,
        batch_sizes: Array | None = None,
        reverse: bool = False,
        y: Array | None = None,
        extra: tuple[Array, ...] = (),
    ) -> tuple[Array, State]:
        """As `ops.run`."""
        shared = _is_shared(x, batch_sizes)
        if not self.are_run_by(backend):
            y = _new_y(x, state, shared) if y is None else y
            ends = [
                ops.run(backend, cell, *_of(k, x, shared, state, self), num_threads, batch_sizes, reverse, y[k], more)
                for k, more in enumerate(_each(extra, len(self.ih)))
            ]
            return y, _stacked([state_n for _, state_n in ends])
        y, state_n, _ = ops.run_group(
            backend, cell, x, state, self, num_threads, len(self.ih), shared, batch_sizes, reverse, y, extra
        )
        return y, state_n

    def forward(
        self,
        backend: ModuleType,
        cell: Cell,
        x: Array,
        state: State,
        num_threads: int,
        batch_sizes: Array | None = None,
        reverse: bool = False,
        y: Array | None = None,
        extra: tuple[Array, ...] = (),
    ) -> tuple[Array, State, Tape]:
        """As `ops.forward`."""
        shared = _is_shared(x, batch_sizes)
        if not self.are_run_by(backend):
            y = _new_y(x, state, shared) if y is None else y
            made = [
                ops.forward(
                    backend, cell, *_of(k, x, shared, state, self), num_threads, batch_sizes, reverse, y[k], more
                )
                for k, more in enumerate(_each(extra, len(self.ih)))
            ]
            return y, _stacked([state_n for _, state_n, _ in made]), Tape([tape for *_, tape in made], shared, x)
        y, state_n, tape = ops.run_group(
            backend, cell, x, state, self, num_threads, len(self.ih), shared, batch_sizes, reverse, y, extra, tape=True
        )
        assert tape is not None
        return y, state_n, Tape(tape, shared, x)


def _new_y(x: Array, state: State, shared: bool) -> Array:
    leading = x.shape[: x.ndim - 1] if x.dtype.kind == "f" else x.shape
    K, _, P = state[0].shape
    return np.empty((K, *(leading if shared else leading[1:]), P), state[0].dtype)


def _is_shared(x: Array, batch_sizes: Array | None) -> bool:
    """Whether all members have the same x: (T, N, I), or rows (R, I), or tokens, without an axis of members."""
    return x.ndim == (2 if batch_sizes is None else 1) + (x.dtype.kind == "f")


def _of(k: int, x: Array, shared: bool, state: State, weights: Members) -> tuple[Array, State, Weights]:
    """What member k is given."""
    return x if shared else x[k], tuple([s[k] for s in state]), weights.at(k)


def _each(extra: Sequence[Array], members: int) -> list[tuple[Array, ...]]:
    """What each member is given beside x: of arrays (R, W) all, of (K, R, W) its own."""
    return [tuple([each[k] if each.ndim == 3 else each for each in extra]) for k in range(members)]


def _stacked(states: Sequence[Sequence[Array]]) -> State:
    return tuple([np.stack(its) for its in zip(*states, strict=True)])


@dataclass(slots=True)
class Tape(ops.SeveralTape):
    """The tape of a group."""

    tape: ops.Tape | list[ops.Tape | ops.SeveralTape]  # or one of each member
    shared: bool
    x: Array

    def backward(
        self,
        dy: Array | None,
        dstate: tuple[Array | None, ...],
        dx: Array | None = None,
        dweights: Weights | None = None,
        rows: int | None = None,
        of_x: bool = True,
        dextra: tuple[Array, ...] = (),
        of_weights: bool = True,
    ) -> tuple[Array | None, State, Sequence[Array | None]]:
        """As `ops.backward`; dx of an x that members share is the sum of theirs, from the first to the last.

        Those that members share of the values beside x have no gradient but one of each, (K, R, H).
        """
        given = None if self.shared else dx
        if isinstance(self.tape, ops.Tape):
            found, dstate_0, gradients = ops.backward(
                self.tape, dy, dstate, given, dweights, rows, of_x, dextra, of_weights=of_weights
            )
        else:
            each = [
                ops.backward(
                    tape,
                    None if dy is None else dy[k],
                    tuple([None if d is None else d[k] for d in dstate]),
                    None if given is None else given[k],
                    None if dweights is None else Weights._make(None if d is None else d[k] for d in dweights),
                    rows,
                    of_x,
                    tuple([d[k] for d in dextra]),
                    of_weights=of_weights,
                )
                for k, tape in enumerate(self.tape)
            ]
            dxs = [its_dx for its_dx, _, _ in each]
            found = None if dxs[0] is None else given if given is not None else np.stack(dxs)  # type: ignore[arg-type]
            dstate_0 = _stacked([its_dstate_0 for _, its_dstate_0, _ in each])
            if dweights is not None:
                gradients = dweights
            else:
                per_weight = zip(*[its for *_, its in each], strict=True)
                gradients = [None if its[0] is None else np.stack(its) for its in per_weight]
        if not self.shared or found is None:
            return found, dstate_0, gradients
        if dx is None:
            return np.add.reduce(found, 0), dstate_0, gradients
        dx += np.add.reduce(found, 0)
        return dx, dstate_0, gradients

    def sums_backward(
        self, dy: Array | None, dstate: tuple[Array | None, ...], dx: Array | None = None, of_x: bool = True
    ) -> tuple[Array | None, State, Sequence[Array], Sequence[Array]]:
        """As `ops.sums_backward`, of members that do not share x; each with an axis of them."""
        if isinstance(self.tape, ops.Tape):
            return ops.sums_backward(self.tape, dy, dstate, dx, of_x)
        each = [
            ops.sums_backward(
                tape,
                None if dy is None else dy[k],
                tuple([None if d is None else d[k] for d in dstate]),
                None if dx is None else dx[k],
                of_x,
            )
            for k, tape in enumerate(self.tape)
        ]
        dxs, dstates_0, da_x, da_h = zip(*each, strict=True)
        dx = None if dxs[0] is None else np.stack(dxs) if dx is None else dx
        return dx, _stacked(dstates_0), _stacked(da_x), _stacked(da_h)

    def gates(self, rows: int | None = None, to: Array | None = None) -> dict[str, Array]:
        """As `ops.gates`, each (K, R, H)."""
        if isinstance(self.tape, ops.Tape):
            return ops.gates(self.tape, rows, to)
        each = [ops.gates(tape, rows, to) for tape in self.tape]
        return {name: np.stack([its[name] for its in each]) for name in each[0]}


# ---- heads


class Heads(ops.Several):
    """The weights of a layer whose recurrent product is block-diagonal: weight_hh (G*H, H/K), the rest as ever."""

    __slots__ = ()

    def split(self, cell: Cell) -> Members:
        """Those of each head."""
        H = len(self.ih) // len(cell.gates_ih)
        K = H // self.hh.shape[1]  # type: ignore[union-attr]
        of_heads = [None if weight is None else _by_head(weight, H, K) for weight in self[:5]]
        return Members._make([*of_heads, None if self.unit is None else _by_columns(self.unit, K)])

    def count(self, cell: Cell) -> int:
        """K."""
        heads: int = len(self.ih) // len(cell.gates_ih) // self.hh.shape[1]  # type: ignore[union-attr]
        return heads

    def first(self, cell: Cell) -> Weights:
        """Those of the first head."""
        H, K = len(self.ih) // len(cell.gates_ih), self.count(cell)
        rows = [None if w is None else w.reshape(-1, K, H // K, *w.shape[1:])[:, 0] for w in self[:5]]
        its = [None if w is None else np.ascontiguousarray(w).reshape(-1, *w.shape[2:]) for w in rows]
        return Weights._make([*its, None if self.unit is None else self.unit[:, : H // K].copy()])

    def sizes(self, cell: Cell) -> tuple[int, int, int]:
        """I, H and H; ValueError unless the weights fit one another and the cell."""
        K = self.count(cell)
        I, size, _ = check_weights(cell, self.first(cell))
        return I, K * size, K * size

    def alone(self, cell: Cell) -> Weights:
        """As of a layer that multiplies with the zeros outside of the blocks, too."""
        H = len(self.ih) // len(cell.gates_ih)
        return Weights._make(self)._replace(hh=dense(self.hh, H))  # type: ignore[arg-type]

    def run(
        self,
        backend: ModuleType,
        cell: Cell,
        x: Array,
        state: State,
        num_threads: int,
        batch_sizes: Array | None = None,
        reverse: bool = False,
        y: Array | None = None,
        extra: tuple[Array, ...] = (),
    ) -> tuple[Array, State]:
        """As `ops.run`."""
        members = self.split(cell)
        K, y = len(members.ih), _new_whole(x, state) if y is None else y
        given = (backend, cell, x, tuple([_by_columns(s, K) for s in state]), num_threads, batch_sizes, reverse)
        _, state_n = members.run(*given, _parts(y, K), _extra_by_head(extra, K))
        return y, _side_by_side(state_n)

    def forward(
        self,
        backend: ModuleType,
        cell: Cell,
        x: Array,
        state: State,
        num_threads: int,
        batch_sizes: Array | None = None,
        reverse: bool = False,
        y: Array | None = None,
        extra: tuple[Array, ...] = (),
    ) -> tuple[Array, State, HeadsTape]:
        """As `ops.forward`."""
        members = self.split(cell)
        K, y = len(members.ih), _new_whole(x, state) if y is None else y
        given = (backend, cell, x, tuple([_by_columns(s, K) for s in state]), num_threads, batch_sizes, reverse)
        _, state_n, tape = members.forward(*given, _parts(y, K), _extra_by_head(extra, K))
        return y, _side_by_side(state_n), HeadsTape(tape, K, members.ih.shape[1] * K // len(cell.gates_ih))


class MembersOfHeads(Members):
    """Members whose layers have heads: these are a group each, and the members run one after the other."""

    __slots__ = ()

    def at(self, k: int) -> Weights:
        """Those of member k."""
        return Heads._make(super().at(k))

    def are_run_by(self, backend: ModuleType) -> bool:
        """Never."""
        return False


def _new_whole(x: Array, state: State) -> Array:
    return np.empty((*(x.shape[:-1] if x.dtype.kind == "f" else x.shape), state[0].shape[1]), state[0].dtype)


def dense(weight_hh: Array, H: int) -> Array:
    """A block-diagonal weight (G*H, H/K) as (G*H, H), with zeros outside of the blocks."""
    rows, columns = weight_hh.shape
    K = H // columns
    whole = np.zeros((rows // H, K, columns, K, columns), weight_hh.dtype)
    for k in range(K):
        whole[:, k, :, k] = weight_hh.reshape(-1, K, columns, columns)[:, k]
    return whole.reshape(rows, H)


def _by_head(weight: Array, H: int, K: int) -> Array:
    """Rows of blocks of H, (G*H, ...), as those of each head, (K, G*H/K, ...)."""
    blocks = weight.reshape(-1, K, H // K, *weight.shape[1:])
    return np.ascontiguousarray(blocks.swapaxes(0, 1)).reshape(K, -1, *weight.shape[1:])


def _whole(weight: Array, H: int) -> Array:
    """What `_by_head` made such of."""
    K, rows = weight.shape[:2]
    blocks = weight.reshape(K, -1, H // K, *weight.shape[2:])
    return np.ascontiguousarray(blocks.swapaxes(0, 1)).reshape(K * rows, *weight.shape[2:])


def _by_columns(array: Array, K: int) -> Array:
    """(N, H) as (K, N, H/K)."""
    return np.ascontiguousarray(array.reshape(len(array), K, array.shape[1] // K).swapaxes(0, 1))


def _side_by_side(states: Sequence[Array]) -> tuple[Array, ...]:
    """What `_by_columns` made such of."""
    return tuple([s.swapaxes(0, 1).reshape(s.shape[1], s.shape[0] * s.shape[2]) for s in states])


def _parts(y: Array, K: int) -> Array:
    """The columns of y by head, (K, ..., H/K), on its memory."""
    return np.moveaxis(y.reshape(*y.shape[:-1], K, y.shape[-1] // K), -2, 0)


def _extra_by_head(extra: Sequence[Array], K: int) -> tuple[Array, ...]:
    """What each head is given beside x: one value for all units as it is, of one for each those of its own."""
    return tuple([each if each.shape[1] == 1 else _by_columns(each, K) for each in extra])


@dataclass(slots=True)
class HeadsTape(ops.SeveralTape):
    """The tape of a layer with heads."""

    tape: Tape
    heads: int
    hidden: int

    def backward(
        self,
        dy: Array | None,
        dstate: tuple[Array | None, ...],
        dx: Array | None = None,
        dweights: Weights | None = None,
        rows: int | None = None,
        of_x: bool = True,
        dextra: tuple[Array, ...] = (),
        of_weights: bool = True,
    ) -> tuple[Array | None, State, Sequence[Array | None]]:
        """As `ops.backward`."""
        K, H = self.heads, self.hidden
        added = None
        if dweights is not None:
            of_heads = [None if d is None else _by_head(d, H, K) for d in dweights[:5]]
            added = Members._make([*of_heads, None if dweights.unit is None else _by_columns(dweights.unit, K)])
        dextra_of_heads = tuple([np.zeros((K, len(d), H // K), d.dtype) for d in dextra])
        dx, dstate_0, (*gradients, dunit) = self.tape.backward(
            None if dy is None else _parts(dy, K),
            tuple([None if d is None else _by_columns(d, K) for d in dstate]),
            dx,
            added,
            rows,
            of_x,
            dextra_of_heads,
        )
        for d, found in zip(dextra, _side_by_side(dextra_of_heads), strict=True):
            d += found
        whole = [None if d is None else _whole(d, H) for d in gradients]
        whole.append(None if dunit is None else _side_by_side([dunit])[0])
        for given, sum_ in zip(dweights or (), whole, strict=False):
            if given is not None:
                given[...] = sum_
        return dx, _side_by_side(dstate_0), whole

    def gates(self, rows: int | None = None, to: Array | None = None) -> dict[str, Array]:
        """As `ops.gates`."""
        return {name: _side_by_side([found])[0] for name, found in self.tape.gates(rows, to).items()}


# ---- what a module keeps of a group


class GroupWeights(ops.LayerWeights):
    """As of one layer, for several: `kind` says of what arrays."""

    def __init__(self, parameters: Mapping[str, Array], names: Mapping[str, str], kind: type[Members] | type[Heads]):
        super().__init__(parameters, names)
        self._kind = kind
        self._packed: tuple[Any, ...] = (None, None, None, 0)  # backend, stamp, packed weights, K

    def arrays(self) -> Weights:
        """As of one layer."""
        return self._kind._make(super().arrays())

    def infer(
        self,
        backend: ModuleType,
        cell: Cell,
        x: Array,
        state: State,
        stamp: int | None,
        num_threads: int,
        batch_sizes: Array | None,
        reverse: bool,
        y: Array | None,
        extra: tuple[Array, ...],
    ) -> tuple[Array, State]:
        """As `ops.infer`."""
        if stamp is None or not hasattr(backend, "RUNS_GROUPS"):
            weights: Any = self.arrays()
            result: tuple[Array, State] = weights.run(
                backend, cell, x, state, num_threads, batch_sizes, reverse, y, extra
            )
            return result
        by, under, packed, K = self._packed  # read, and below written, at once: other threads do so too
        if by is not backend or under != stamp:
            members: Any = self.arrays()
            members = members.split(cell) if self._kind is Heads else members
            K = len(members.ih)
            packed = backend.pack(cell, ops.prepared(backend, cell, members), num_threads=num_threads, members=K)
            self._packed = backend, stamp, packed, K
        if self._kind is Members:
            shared = _is_shared(x, batch_sizes)
            y, state_n, _ = ops.run_group(
                backend, cell, x, state, None, num_threads, K, shared, batch_sizes, reverse, y, extra, packed
            )
            return y, state_n
        y = _new_whole(x, state) if y is None else y
        states, its_y, its_extra = tuple([_by_columns(s, K) for s in state]), _parts(y, K), _extra_by_head(extra, K)
        _, state_n, _ = ops.run_group(
            backend, cell, x, states, None, num_threads, K, True, batch_sizes, reverse, its_y, its_extra, packed
        )
        return y, _side_by_side(state_n)


@dataclass(frozen=True, slots=True)
class Dropouts(Dropout):
    """Dropout of a group, whose members each have generators of their own."""

    members: tuple[Dropout, ...] = ()

    def __call__(self, y: Array, layer: int) -> tuple[Array, Array]:
        """As of one layer, of y (K, ...)."""
        found = [dropout(its, layer) for dropout, its in zip(self.members, y, strict=True)]
        return np.stack([its for its, _ in found]), np.stack([kept for _, kept in found])

    def now(self) -> list[Any]:
        """The states of the generators."""
        return [dropout.now() for dropout in self.members]

    def again(self, states: list[Any]) -> Dropouts:
        """One that draws what this one drew from the given states on."""
        members = [dropout.again(its) for dropout, its in zip(self.members, states, strict=True)]
        return Dropouts(self.p, (), tuple(members))


@dataclass(frozen=True, slots=True)
class BesideMembers(Beside):
    """What each member of a group is given beside x."""

    members: Sequence[Beside] = ()

    def of(self, part: slice) -> BesideMembers:
        """That of some steps, or rows where lengths differ."""
        return BesideMembers((), [its.of(part) for its in self.members])

    def arrays(self) -> tuple[Array, ...]:
        """As kernels take it, each (K, R, W)."""
        return tuple([np.stack(its) for its in zip(*[its.arrays() for its in self.members], strict=True)])
