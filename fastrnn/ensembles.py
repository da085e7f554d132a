"""Several modules of one shape as one: members with weights of their own, which run in one call of the kernels."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from fastrnn import ops, stack
from fastrnn.cells import State
from fastrnn.checks import check_iterable, check_positive, make_generator, shown, take_array
from fastrnn.extra import Beside, Given
from fastrnn.groups import BesideMembers, Dropouts, GroupWeights, Members
from fastrnn.modules import GRU, LSTM, RNN, Recurrent, Tape, check_tape
from fastrnn.parameters import Array, Parametrized, _Store
from fastrnn.rows import Rows

__all__ = ["Ensemble", "stack_modules"]

KINDS = (RNN, LSTM, GRU, Recurrent)


def stack_modules(modules: Iterable[Any]) -> Ensemble:
    """Make an ensemble of modules of one class, shape and dtype.

    Parameters
    ----------
    modules
        `RNN`, `LSTM`, `GRU` or `Recurrent` modules, each with its own weights; of the same arguments, but for seeds.
        The parameters are copied, so that neither notices what happens to the other from then on, and so are the
        generators of dropout: `forward` of the ensemble draws what the modules would have drawn next.

    Raises
    ------
    TypeError
        If one is no such module.
    ValueError
        If there is none, or they differ, or have heads.

    Examples
    --------
    >>> import numpy as np, fastrnn
    >>> networks = [fastrnn.LSTM(10, 25, bidirectional=True, seed=seed) for seed in range(8)]
    >>> ensemble = fastrnn.stack_modules(networks)
    >>> x = np.ones((100, 1, 10), np.float32)
    >>> y, (h_n, c_n) = ensemble(x)
    >>> y.shape, h_n.shape, bool((y[3] == networks[3](x)[0]).all())
    ((8, 100, 1, 50), (8, 2, 1, 25), True)
    """
    from fastrnn.training.architecture import arguments

    given = check_iterable("modules", modules, "modules of fastrnn")
    if not given:
        raise ValueError("modules is empty; expected at least one module")
    for k, module in enumerate(given):
        if type(module) not in KINDS:
            raise TypeError(f"modules[{k}] is {shown(module)}; expected a fastrnn.RNN, LSTM, GRU or Recurrent")
        first, its = given[0], arguments(module)
        if type(module) is not type(first):
            raise ValueError(
                f"modules[{k}] is of the class {type(module).__name__}, modules[0] of {type(first).__name__}; "
                "expected modules of one class"
            )
        for name, value in arguments(first).items():
            if its[name] != value:
                raise ValueError(
                    f"modules[{k}] has {name}={shown(_brief(its[name]))}, modules[0] {shown(_brief(value))}; "
                    "expected modules that differ in their weights alone"
                )
    return Ensemble._of(given)


def _brief(value: Any) -> Any:
    return getattr(value, "name", value)  # of a cell or a dtype


class _Call(NamedTuple):
    """What a call is given, as a stack takes it, and how it goes back."""

    x: Array  # (T, N, I) or (K, T, N, I), or rows (R, I) or (K, R, I), or tokens
    states: Sequence[State]  # by layer and direction, (K, N, P) and so on
    rows: Rows | list[Rows]  # one for all where a plain call serves
    one: Array  # x of the first member


class Ensemble(Parametrized):
    """K modules of one shape that run in one call: members, each with weights and results of its own.

    `stack_modules` makes one of modules; this class one whose members are drawn. Each member computes what its module
    would, to the bit. What a call costs besides, in Python and to begin it, is paid once and not K times; and while one
    small network waits for the step before, the CPU works on another.

    Everything a module's call takes is here: lengths, mask, resets, states, tokens, extra. These are the same for all
    members, but for states, which have an axis of K first, as y and all results have. x may have it, (K, T, N, I), if
    each member has an x of its own. Parameters, and so their gradients, have torch's names and an axis of K first: an
    optimizer trains all members in one step. One that only looks at each element, as Adam does, trains each as it would
    alone; a norm of all gradients, as for clipping, is of all members together.

    ``ensemble[k]`` is a copy of member k as a module; ``list(ensemble)`` all of them.

    Parameters
    ----------
    module
        What each member is like: an `RNN`, `LSTM`, `GRU` or `Recurrent`, whose parameters are not used.
    members
        K.
    seed
        Of all members' parameters and dropout, anything `numpy.random.default_rng` takes.
    backend, num_threads
        As of a module. Threads have members of their own where there are enough.

    Raises
    ------
    TypeError, ValueError
        If `module` is no such module, or has heads; if `members` is no positive integer.

    Examples
    --------
    >>> import numpy as np, fastrnn
    >>> from fastrnn.training import Adam, mse
    >>> ensemble = fastrnn.Ensemble(fastrnn.GRU(3, 8), 16, seed=0)
    >>> optimizer = Adam(ensemble, learning_rate=0.01)
    >>> x, target = np.ones((10, 4, 3), np.float32), np.zeros((16, 10, 4, 8), np.float32)
    >>> for _ in range(2):
    ...     y, h_n, tape = ensemble.forward(x)
    ...     loss, dy = mse(y, target)
    ...     dx, dh_0, grads = ensemble.backward(tape, dy)
    ...     optimizer.step(grads)
    >>> y.shape, grads["weight_hh_l0"].shape, ensemble[5]
    ((16, 10, 4, 8), (16, 24, 8), GRU(3, 8))
    """

    def __init__(
        self, module: Any, members: int, *, seed: Any = None, backend: str | None = None, num_threads: int | None = None
    ) -> None:
        from fastrnn.training.architecture import arguments

        if type(module) not in KINDS:
            raise TypeError(f"module is {shown(module)}; expected a fastrnn.RNN, LSTM, GRU or Recurrent")
        generators = make_generator(seed).spawn(check_positive("members", members))
        options = arguments(module) | {"backend": backend, "num_threads": num_threads}
        self._take([type(module)(**options, seed=rng) for rng in generators])

    @classmethod
    def _of(cls, modules: Sequence[Any]) -> Ensemble:
        ensemble = cls.__new__(cls)
        ensemble._take(modules)
        return ensemble

    def _take(self, modules: Sequence[Any]) -> None:
        """Become an ensemble of these modules, which are alike."""
        like = modules[0]
        if like.precision != "float32":
            raise ValueError(f"the modules have precision={like.precision!r}; expected precision='float32'")
        if like.heads > 1:
            raise ValueError(f"the modules have heads={like.heads}; expected modules of one head")
        self._members = len(modules)
        self.dtype = like.dtype
        self._parameters = _Store()
        for name in like._parameters:
            self._parameters[name] = np.stack([module._parameters[name] for module in modules])
        self._like = _without_arrays(like)
        self._noises = [(copy.deepcopy(m._dropout), copy.deepcopy(m._random)) for m in modules]
        dropouts = [dropout for dropout, _ in self._noises if dropout is not None]
        self._dropout = Dropouts(dropouts[0].p, (), tuple(dropouts)) if dropouts else None
        self._start_caches()

    def _start_caches(self) -> None:
        like = self._like
        self._weights = [
            [GroupWeights(self._parameters, like._names(layer, reverse), Members) for reverse in range(like.directions)]
            for layer in range(like.num_layers)
        ]
        self._zeros: tuple[int, list[State]] = (-1, [])  # N, each layer's initial states where none are given

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        return {name: value for name, value in state.items() if name not in ("_weights", "_zeros")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._start_caches()

    def __repr__(self) -> str:
        return f"Ensemble({self._like!r}, {self._members})"

    @property
    def members(self) -> int:
        """K."""
        return self._members

    @property
    def module(self) -> Any:
        """A copy of the first member, which is what each of them is like."""
        return self[0]

    @property
    def backend(self) -> str | None:
        """As of a module."""
        backend: str | None = self._like.backend
        return backend

    @backend.setter
    def backend(self, backend: str | None) -> None:
        self._like.backend = backend

    @property
    def num_threads(self) -> int | None:
        """As of a module."""
        num_threads: int | None = self._like.num_threads
        return num_threads

    @num_threads.setter
    def num_threads(self, num_threads: int | None) -> None:
        self._like.num_threads = num_threads

    def __len__(self) -> int:
        return self._members

    def __iter__(self) -> Iterator[Any]:
        return (self[k] for k in range(self._members))

    def __getitem__(self, k: int) -> Any:
        """A copy of member k as a module of its own; IndexError unless -K <= k < K."""
        if not isinstance(k, (int, np.integer)) or isinstance(k, bool):
            raise TypeError(f"k is {shown(k)}; expected an integer")
        if not -self._members <= k < self._members:
            K = self._members
            raise IndexError(f"k is {shown(k)}; expected {-K} <= k < {K}, as there are {K} members")
        module = _without_arrays(self._like)
        for name, values in self._parameters.items():
            module._parameters[name] = values[k]
        module._dropout, module._random = copy.deepcopy(self._noises[k])
        return module

    def __call__(
        self,
        x: Any,
        state: Any = None,
        *,
        lengths: Any = None,
        mask: Any = None,
        masked: str = "zero",
        resets: Any = None,
        reset_state: Any = None,
        extra: Any = None,
    ) -> tuple[Array, Any]:
        """Run the sequences through every member for the outputs only.

        Parameters
        ----------
        x
            As of a module, for all members; or (K, T, N, I), or (K, N, T, I) with `batch_first`, or tokens (K, T, N),
            for each its own.
        state, reset_state
            As of a module, each array with an axis of K before the others: h_0 (K, L*D, N, P).
        lengths, mask, masked, resets, extra
            As of a module, the same for all members.

        Returns
        -------
        tuple
            y (K, T, N, D*P) in the layout of x, and the final state, shaped like `state`.

        Raises
        ------
        TypeError, ValueError
            As of a module.
        """
        call = self._enter(x, state, lengths, mask, masked, resets, reset_state)
        setting = self._setting(call, extra)
        y, states_n = stack.infer(setting, self._weights, call.x, call.states, self._stamp())
        return self._back(call.rows, y, states_n, setting)

    def forward(
        self,
        x: Any,
        state: Any = None,
        *,
        lengths: Any = None,
        mask: Any = None,
        masked: str = "zero",
        resets: Any = None,
        reset_state: Any = None,
        extra: Any = None,
        noise: Any = None,
        checkpoint_every: int | None = None,
    ) -> tuple[Array, Any, Tape]:
        """Run the sequences through every member and keep what `backward` needs.

        Parameters and errors are those of `__call__` and of a module's `forward`; `noise` is that of a tape before.

        Returns
        -------
        tuple
            y, the final state, and the tape, as of a module.
        """
        if checkpoint_every is not None:
            checkpoint_every = check_positive("checkpoint_every", checkpoint_every)
        call = self._enter(x, state, lengths, mask, masked, resets, reset_state)
        states = [tuple([s.copy() for s in its]) for its in call.states] if state is not None else call.states
        setting = self._setting(call, extra)
        masks: Any = None
        if self._noises[0][1] is not None:
            setting, masks = self._draw_noise(setting, call, noise)
        elif noise is not None:
            raise ValueError("noise is given, but the members have none that is the same for a sequence; expected None")
        y, states_n, kept = stack.forward(setting, self._weights, call.x, states, self._dropout, checkpoint_every)
        y.flags.writeable = False
        y, state_n = self._back(call.rows, y, states_n, setting)
        y.flags.writeable = False
        rows: Any = call.rows
        tape = Tape(self, setting.backend, call.x, kept, y.shape, rows)
        tape.noise = masks
        return y, state_n, tape

    def backward(self, tape: Tape, dy: Any = None, dstate: Any = None) -> tuple[Array | None, Any, dict[str, Array]]:
        """Back-propagate through time in every member.

        Parameters
        ----------
        tape
            From `forward` of this ensemble; it serves once.
        dy
            The gradient of y, of its shape; None means zero.
        dstate
            The gradient of the final state, shaped like it; its arrays may be None.

        Returns
        -------
        tuple
            dx, of x's shape: for an x that all members were given, the sum over them (None for tokens); the gradient of
            the initial state, shaped like it; and a dict of the parameters' gradients under the names of `parameters`,
            each with an axis of K first. With a `reset_state` as of a module.

        Raises
        ------
        TypeError, ValueError
            As of a module.
        """
        check_tape(tape, self)
        rows, entrance, shape = tape._rows, self._like._entrance, tape._y_shape
        if dy is not None:
            dy = ops.as_real("dy", dy, self.dtype, shape, "y's shape")
        its_rows = _of_first(rows)
        N = shape[1 if its_rows.batch_first else 2] if its_rows.batched else 1
        names = self._like._cell.dstates_n
        dstates = self._take_state(dstate, N, its_rows.batched, names, optional=True)
        if isinstance(rows, Rows):
            dy = dy if dy is None else self._form_back(rows, dy)
            per_layer: Any = [(None,) * len(names)] * self._places
            if dstates is not None:
                if not rows.batched:
                    dstates = tuple([None if d is None else d[:, :, None] for d in dstates])
                per_layer = [tuple([None if d is None else d[:, at] for d in dstates]) for at in range(self._places)]
        else:
            each = [
                entrance.take_gradients(its, shape[1:], None if dy is None else dy[k], _member(dstates, k))
                for k, its in enumerate(rows)
            ]
            dy = None if dy is None else np.stack([its_dy for its_dy, _, _ in each])
            per_layer = _stacked([its for _, its, _ in each])
        dx, dstates_0, dweights = tape._take().backward(dy, per_layer)
        grads: dict[str, Array] = {}
        for weights, of_weights in zip([its for layer in self._weights for its in layer], dweights, strict=True):
            grads |= weights.named(of_weights)
        if isinstance(rows, Rows):
            return None if dx is None else self._form(rows, dx), self._join(rows, dstates_0), grads
        shared = dx is not None and dx.ndim == (3 if rows[0].batch_sizes is None else 2)
        back = [
            its.gradients_back(
                None if dx is None or (shared and k) else dx if shared else dx[k],
                [tuple([d[k] for d in of_layer]) for of_layer in dstates_0],
                each[k][2],
            )
            for k, its in enumerate(rows)
        ]
        if dx is not None:
            dx = back[0][0] if shared else np.stack([its_dx for its_dx, _, _ in back])
        if back[0][2] is not None:
            tape.dreset_state = _gathered([its for _, _, its in back])
        return dx, _gathered([its for _, its, _ in back]), grads

    def trace(
        self,
        x: Any,
        state: Any = None,
        *,
        lengths: Any = None,
        mask: Any = None,
        resets: Any = None,
        reset_state: Any = None,
        extra: Any = None,
    ) -> dict[str, Array]:
        """Show every gate and every state of every step of all members.

        Parameters and errors are those of `__call__`. Members are run one after the other.

        Returns
        -------
        dict
            As of a module's `trace`, each array with an axis of K first.
        """
        call = self._enter(x, state, lengths, mask, "zero", resets, reset_state)
        x, N, batched = take_array("x", x), self._batch(call), _of_first(call.rows).batched
        states, anew = self._take_state(state, N, batched), self._take_reset(reset_state, N, batched)
        found = [
            self[k].trace(
                x[k] if self._is_own(x) else x,
                _member(states, k),
                lengths=lengths,
                mask=mask,
                resets=resets,
                reset_state=_member(anew, k),
                extra=extra,
            )
            for k in range(self._members)
        ]
        return {name: np.stack([its[name] for its in found]) for name in found[0]}

    def explain(self, shape: Sequence[int], *, tokens: bool = False, training: bool = False) -> str:
        """Say how a member's call on x of a shape, that of `module.explain`, would run here."""
        return f"{self._members} at once, each so:\n{self[0].explain(shape, tokens=tokens, training=training)}"

    # ---- from what callers have to what a stack takes, and back

    def _is_own(self, x: Array) -> bool:
        """Whether x has an axis of members; ValueError if that is of another number."""
        tokens = ops.is_tokens(x)
        own = x.ndim == (3 if tokens else 4)
        if own and len(x) != self._members:
            letters = "(K, T, N)" if tokens else "(K, T, N, I)"
            raise ValueError(f"x has shape {x.shape}; expected {letters} with K = {self._members} members")
        return own

    def _enter(self, x: Any, state: Any, lengths: Any, mask: Any, masked: str, resets: Any, reset_state: Any) -> _Call:
        """Validate what a call is given."""
        like, entrance, x = self._like, self._like._entrance, take_array("x", x)
        own, first = self._is_own(x), like.batch_first
        how = (first, lengths, mask, masked, resets)
        whole = lengths is None and mask is None and resets is None and reset_state is None
        anew = reset_state if reset_state is None or isinstance(reset_state, str) else None
        one, _, rows = entrance.take(x[0] if own else x, None, *how, anew)
        N = rows.steps_of(one)[1]
        states, resets_to = self._take_state(state, N, rows.batched), self._take_reset(reset_state, N, rows.batched)
        if whole and N:
            if own and (first or not ops.are_ready((x,), self.dtype, (like.input_size,), 3)):
                x = np.stack([entrance.take(its, None, first)[0] for its in x])
            return _Call(x if own else one, self._by_layer(states, N, rows.batched), rows, one)
        each = [
            entrance.take(its, _member(states, k), *how, _member(resets_to, k))
            for k, its in enumerate(x if own else [x] * self._members)
        ]
        x = np.stack([its for its, _, _ in each]) if own else each[0][0]
        return _Call(x, _stacked([its for _, its, _ in each]), [its for *_, its in each], each[0][0])

    def _batch(self, call: _Call) -> int:
        return _of_first(call.rows).steps_of(call.one)[1]

    @property
    def _places(self) -> int:
        """L * D."""
        places: int = self._like.num_layers * self._like.directions
        return places

    def _take_state(
        self,
        state: Any,
        N: int,
        batched: bool,
        names: Sequence[str] = (),
        *,
        optional: bool = False,
        what: str = "the state",
    ) -> tuple[Any, ...] | None:
        """A state, or a gradient of it, as a tuple of validated arrays in the caller's form; None for None."""
        if state is None:
            return None
        cell, sizes = self._like._cell, self._like._entrance._sizes
        batch = (N,) if batched else ()
        shapes = [(self._members, self._places, *batch, size) for size in sizes]
        ends = ("P" if self._like.proj_size else "H", *"H" * (len(sizes) - 1))
        letters = [f"(K, L*D, {'N, ' * batched}{end})" for end in ends]
        return ops.as_states(names or cell.states_0, state, self.dtype, shapes, letters, optional=optional, what=what)

    def _take_reset(self, reset_state: Any, N: int, batched: bool) -> Any:
        """The state to begin anew with, or the word for it."""
        if reset_state is None or isinstance(reset_state, str):
            return reset_state
        count = len(self._like._cell.states)
        names = [f"reset_state[{at}]" for at in range(count)] if count > 1 else ["reset_state"]
        return self._take_state(reset_state, N, batched, names, what="reset_state")

    def _by_layer(self, states: tuple[Any, ...] | None, N: int, batched: bool) -> list[State]:
        """The initial states by layer and direction, (K, N, P) and so on; zeros of None."""
        if states is not None:
            states = states if batched else tuple([s[:, :, None] for s in states])
            return [tuple([s[:, at] for s in states]) for at in range(self._places)]
        of_size, zeros = self._zeros  # read, and below written, at once: other threads do so too
        if of_size != N:
            zero = tuple([np.zeros((self._members, N, size), self.dtype) for size in self._like._entrance._sizes])
            for array in zero:
                array.flags.writeable = False
            zeros = [zero] * self._places
            self._zeros = N, zeros
        return zeros

    def _setting(self, call: _Call, extra: Any) -> stack.Setting:
        """What all layers of a call without noise share."""
        like, rows = self._like, _of_first(call.rows)
        backend, num_threads = like._choose()
        setting = stack.Setting(backend, like._quiet, num_threads, rows.batch_sizes)
        if not like._extra_names and extra is None:
            return setting
        given = like._entrance.take_extra(like._extra_names, extra, call.one, rows, like.hidden_size)
        return setting._replace(extra=[Beside([*map(Given, given)])] * self._places)

    def _draw_noise(self, setting: stack.Setting, call: _Call, masks: Any) -> tuple[stack.Setting, tuple[Any, ...]]:
        """The same with every member's noise, and what that has for whole sequences."""
        if masks is None:
            masks = [None] * self._members
        if not isinstance(masks, Sequence) or len(masks) != self._members:
            raise TypeError(f"noise is {shown(masks)}; expected None, or the noise of the tape of a call before")
        rows = [call.rows] * self._members if isinstance(call.rows, Rows) else call.rows
        drawn = [
            self._like._draw_noise(random, setting, call.one, its_rows, its_masks)
            for (_, random), its_rows, its_masks in zip(self._noises, rows, masks, strict=True)
        ]
        by_place = zip(*[its.extra for its, _ in drawn], strict=True)
        extra = [BesideMembers((), its) for its in by_place]
        return drawn[0][0]._replace(extra=extra), tuple([its for _, its in drawn])

    def _form(self, rows: Rows, array: Array) -> Array:
        """An array of all steps, of a plain call, in the caller's form."""
        if array.ndim == 3:
            return rows.form(array)
        if rows.batch_first:
            return array.swapaxes(1, 2)
        return array if rows.batched else array[:, :, 0]

    def _form_back(self, rows: Rows, dy: Array) -> Array:
        """The gradient of y as `stack` gave y."""
        if rows.batch_first:
            return np.ascontiguousarray(dy.swapaxes(1, 2))
        return dy if rows.batched else dy[:, :, None]

    def _join(self, rows: Rows, per_layer: Sequence[State]) -> Any:
        """States by layer and direction as the caller has them."""
        if len(per_layer) == 1:
            states = tuple([s[:, None] for s in per_layer[0]])
        else:
            states = tuple([np.stack(its, axis=1) for its in zip(*per_layer, strict=True)])
        if not rows.batched:
            states = tuple([s[:, :, 0] for s in states])
        return states if len(states) > 1 else states[0]

    def _back(
        self, rows: Rows | list[Rows], y: Array, states_n: Sequence[State], setting: stack.Setting
    ) -> tuple[Array, Any]:
        """y and the final states as the caller has them."""
        if isinstance(rows, Rows):
            return self._form(rows, y), self._join(rows, states_n)
        back = [
            its.back(y[k], [tuple([s[k] for s in of_layer]) for of_layer in states_n], setting.empty)
            for k, its in enumerate(rows)
        ]
        return np.stack([its_y for its_y, _ in back]), _gathered([its for _, its in back])


def _without_arrays(module: Any) -> Any:
    """A module like it that has no parameters yet."""
    like = copy.copy(module)
    like._parameters = _Store()
    like._dropout = like._random = None
    like._start_caches()
    return like


def _of_first(rows: Rows | list[Rows]) -> Rows:
    """The first member's way back."""
    return rows if isinstance(rows, Rows) else rows[0]


def _member(states: Any, k: int) -> Any:
    """Member k's part of states of all, alone or in a tuple, as a module takes them."""
    if states is None or isinstance(states, str):
        return states
    its = tuple([None if s is None else s[k] for s in states])
    return its if len(its) > 1 else its[0]


def _stacked(members: Sequence[Sequence[Sequence[Any]]]) -> list[tuple[Any, ...]]:
    """Each member's states by layer and direction as those of all, by layer and direction."""
    return [
        tuple([None if its[0] is None else np.stack(its) for its in zip(*of_layer, strict=True)])
        for of_layer in zip(*members, strict=True)
    ]


def _gathered(members: Sequence[Any]) -> Any:
    """Each member's states, alone or in a tuple, as those of all."""
    if isinstance(members[0], tuple):
        return tuple([np.stack(its) for its in zip(*members, strict=True)])
    return np.stack(members)
