"""One layer of a recurrent network, in one or both directions, as a primitive of JAX.

`layer` runs forward. Its derivative is that of JAX's other primitives, in two parts: `linear`, what a layer makes of
small changes, which JAX only ever transposes, and its transpose `layer_back`, which is back-propagation through time.
Both of those that run are custom calls of XLA (see `fastrnn.kernels.xla`): the kernels read XLA's buffers, and write y
into one. The tape is results of `layer`, so compiled programs may keep it, drop it or compute it anew as they like;
`layer_back` overwrites it, which XLA is told (it copies where somebody else reads it).

A batch axis that `jax.vmap` adds becomes part of the batch N, unless weights have it: then, and for gradients of single
weights by example, the layer runs once for each of its entries.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from fastrnn import ops
from fastrnn.cells import CELLS, Cell, Weights
from fastrnn.kernels import xla
from fastrnn.parameters import Array
from fastrnn.rows import Entrance, Rows
from fastrnn.threads import allowed_threads

__all__ = ["Layer", "known", "run"]

PADDED = 64  # of so many rows one after the other at least one is padded, if any are
# Where N is in what a call is given without a gradient: which steps are run, and what h is multiplied by before the
# product, in cells that have such dropout and nothing else beside x.
AXES = {"lengths": 0, "mask": 1, "resets": 1, "dropped": 0}


_WRITTEN: dict[str, Cell] = {}  # by name, those that `known` was given


def known(cell: Cell) -> str:
    """What `Layer.cell` is for a cell: its name, which is no other's."""
    if cell.name not in CELLS and _WRITTEN.setdefault(cell.name, cell) is not cell:
        raise ValueError(f"there are two cells {cell.name}; expected one of each name")
    return cell.name


def _cell(name: str) -> Cell:
    found = CELLS.get(name) or _WRITTEN.get(name)
    if found is None:
        raise ValueError(
            f"a program of XLA has the cell {name}, which this process does not know; expected it traced here"
        )
    return found


class Layer(NamedTuple):
    """What a layer is but for its arrays. Those of a call are in the order x, given, initial states, weights."""

    cell: str  # see `known`
    directions: int  # D
    fields: tuple[str, ...]  # those of `Weights` that each direction has
    given: tuple[str, ...]  # of AXES
    masked: str  # what y has at masked steps, and
    anew: str  # what states begin anew with: see `fastrnn.LSTM`
    backend: str

    @property
    def states(self) -> int:
        """K."""
        return len(_cell(self.cell).states)

    @property
    def first_weight(self) -> int:
        """How many arrays of a call come before its weights."""
        return 1 + len(self.given) + self.states

    @property
    def arguments(self) -> int:
        """How many arrays a call has."""
        return self.first_weight + self.directions * len(self.fields)

    def text(self) -> str:
        """As part of a custom call's attribute."""
        return json.dumps(self)

    def batch_axes(self) -> list[int]:
        """The axis N of x, of what is given and of the states."""
        return [1, *[AXES[name] for name in self.given], *[1] * self.states]


def _is_real(x: Any) -> bool:
    """Whether x is no tokens."""
    return bool(np.dtype(x.dtype).kind == "f")


def run(layer: Layer, x: Any, given: Sequence[Any], states: Sequence[Any], weights: Sequence[Any]) -> tuple[Any, ...]:
    """Run a layer.

    Parameters
    ----------
    layer
        What it is.
    x
        (T, N, I), or tokens (T, N).
    given
        What `layer.given` names: lengths (N), mask and resets (T, N), dropped (N, H).
    states
        (D, N, P) and (D, N, H).
    weights
        The fields of the forward, then of the reverse direction.

    Returns
    -------
    tuple
        y (T, N, D*P) and the final states.
    """
    results = layer_p.bind(x, *given, *states, *weights, layer=layer, keep=False)
    return tuple(results)


# ---- on NumPy arrays, when XLA calls


def _read(text: str) -> Layer:
    """A layer from its text."""
    values: list[Any] = [tuple(value) if isinstance(value, list) else value for value in json.loads(text)]
    return Layer(*values)


@functools.lru_cache(256)
def _entrance(cell: Cell, dtype: np.dtype[Any], input_size: int, sizes: tuple[int, ...], directions: int) -> Entrance:
    return Entrance(cell, dtype, input_size, sizes, 1, directions, len(set(sizes)) > 1)


def _weights(layer: Layer, arrays: Sequence[Any]) -> Weights:
    """Of one direction, whose arrays come first."""
    return Weights(**dict(zip(layer.fields, arrays, strict=False)))


class _Problem:
    """What a layer is given, by direction."""

    def __init__(self, layer: Layer, arguments: Sequence[Array]) -> None:
        self.layer, self.cell = layer, _cell(layer.cell)
        self.backend, self.num_threads = ops.choose(layer.backend, None)
        x, given, states = arguments[0], arguments[1 : 1 + len(layer.given)], arguments[1 + len(layer.given) :]
        states, flat = states[: layer.states], states[layer.states :]
        count = len(layer.fields)
        self.weights = [_weights(layer, flat[d * count : (d + 1) * count]) for d in range(layer.directions)]
        ih = self.weights[0].ih
        self.entrance = _entrance(
            self.cell, ih.dtype, ih.shape[1], tuple([s.shape[2] for s in states]), layer.directions
        )
        named = dict(zip(layer.given, given, strict=True))
        dropped = named.pop("dropped", None)
        self.x, self.states, self.rows = self.entrance.take(
            x,
            states[0] if len(states) == 1 else tuple(states),
            False,
            masked=layer.masked,
            reset_state=None if layer.anew == "zero" else layer.anew,
            **named,
        )
        self.extra: tuple[Array, ...] = ()
        if dropped is not None:
            ragged = self.rows.ragged
            self.extra = (dropped if ragged is None else dropped[ragged.sources[0] % len(dropped)],)

    @property
    def batch_sizes(self) -> Array | None:
        """Those of rows that are not (T, N)."""
        return self.rows.batch_sizes

    def parts(self, array: Array | None) -> Sequence[Any]:
        """Which columns of y or dy each direction has; None for each if there are none."""
        if array is None or self.layer.directions == 1:
            return [array] * self.layer.directions
        P = array.shape[-1] // 2
        return array[..., :P], array[..., P:]

    def forward(
        self, keep: bool, into: Array | None, kept: Sequence[Array] = ()
    ) -> tuple[Array, list[Any], list[ops.Tape]]:
        """y, in `into` if it is as the kernels have it, and by direction the final states and the tapes.

        Tapes are in the arrays `kept` if the backend can put them there.
        """
        y = into if self.batch_sizes is None and type(self.rows) is Rows else None
        if y is None and self.layer.directions == 2:
            P = self.states[0][0].shape[1]
            y = ops.empty(self.backend, (*self.x.shape[: 2 if self.batch_sizes is None else 1], 2 * P), self.dtype)
        states_n, tapes = [], []
        its = len(kept) // self.layer.directions
        for reverse, part in enumerate(self.parts(y)):
            given = (self.backend, self.cell, self.x, self.states[reverse], self.weights[reverse], self.num_threads)
            if keep:
                room = kept[reverse * its : (reverse + 1) * its]
                its_y, state_n, tape = ops.forward(*given, self.batch_sizes, reverse == 1, part, self.extra, kept=room)
                tapes.append(tape)
            else:
                its_y, state_n = ops.run(*given, self.batch_sizes, reverse == 1, part, self.extra)
            states_n.append(state_n)
        return its_y if y is None else y, states_n, tapes

    @property
    def dtype(self) -> np.dtype[Any]:
        """That of the weights."""
        return self.weights[0].ih.dtype

    def recall(self, y: Array, kept: Sequence[Array]) -> list[ops.Tape]:
        """The tapes by direction, from y as the caller has it and from what was kept, which may be larger."""
        if self.rows.ragged is not None:
            y = self.rows.ragged.pack(y)
        elif type(self.rows) is not Rows:
            y = self.rows.take_dy(y)
        steps = len(self.x) if self.batch_sizes is None else len(self.batch_sizes)
        count = len(self.x) if self.batch_sizes is not None else steps * self.x.shape[1]
        tapes, its = [], len(kept) // self.layer.directions
        for reverse, part in enumerate(self.parts(y)):
            state, weights = self.states[reverse], self.weights[reverse]
            sizes = _kept_sizes(self.backend, self.cell, steps, len(state[0]), count, state, weights)
            arrays = [k[:size] for k, size in zip(kept[reverse * its :], sizes, strict=False)]
            tapes.append(
                ops.recall(
                    self.backend,
                    self.cell,
                    self.x,
                    state,
                    weights,
                    part,
                    arrays,
                    self.num_threads,
                    self.batch_sizes,
                    reverse == 1,
                    self.extra,
                )
            )
        return tapes


def _kept_sizes(
    backend: Any, cell: Cell, steps: int, batch: int, count: int, state: Sequence[Any], weights: Any
) -> tuple[int, ...]:
    """How many elements each array of a tape has; `state` and `weights` are asked for their shapes."""
    H = weights.ih.shape[0] // len(cell.gates_ih)
    sizes = steps, batch, count, H, 0 if weights.hr is None else state[0].shape[-1]
    return ops.kept_sizes(backend, cell, sizes, np.dtype(weights.ih.dtype))


def _infer(layer: Layer) -> xla.Inference:
    """What `_forward` does for a layer that is plain, sooner."""
    backend, _ = ops.choose(layer.backend, None)
    places = [Weights._fields.index(field) for field in layer.fields]
    return xla.Inference(backend, _cell(layer.cell), layer.states, places, allowed_threads)


def _is_plain(layer: Layer, arguments: Sequence[Any]) -> bool:
    """Whether `xla.Inference` runs a call: the backend takes arrays as they are, and looks whether they fit."""
    backend, _ = ops.choose(layer.backend, None)
    x = arguments[0]
    return layer.directions == 1 and not layer.given and hasattr(backend, "LOOKS_ITSELF") and _is_real(x) and x.size > 0


def _forward(layer: Layer, arguments: list[Array], results: list[Array]) -> None:
    """Results are y, the final states, and what is kept if there is room for it."""
    problem = _Problem(layer, arguments)
    kept = results[1 + layer.states :]
    y, states_n, tapes = problem.forward(bool(kept), results[0], kept)
    back, state_n = problem.rows.back(y, states_n, np.empty)
    if back is not results[0]:
        results[0][...] = back
    for result, state in zip(results[1:], state_n if layer.states > 1 else (state_n,), strict=False):
        result[...] = state
    for result, array in zip(kept, [array for tape in tapes for array in ops.keep(tape)], strict=False):
        if not np.may_share_memory(result, array):
            result[: array.size] = array


def _backward(layer: Layer, of_x: bool, present: Sequence[bool], arguments: list[Array], results: list[Array]) -> None:
    """Arguments are those of forward, y, what it kept, and the gradients of those results that are `present`.

    Results are the gradients of x with `of_x`, of the initial states, and of the weights, and what was kept again,
    which is overwritten.
    """
    problem = _Problem(layer, arguments[: layer.arguments])
    y, kept = arguments[layer.arguments], results[of_x + layer.states + layer.directions * len(layer.fields) :]
    cotangents = iter(arguments[len(arguments) - sum(present) :])
    dy, *dstates = [next(cotangents) if its else None for its in present]
    tapes = problem.recall(y, kept) if kept else problem.forward(True, None)[2]
    dstate = None if all(d is None for d in dstates) else dstates[0] if layer.states == 1 else tuple(dstates)
    dy, dstates_n, per_layer = problem.entrance.take_gradients(problem.rows, y.shape, dy, dstate)
    dx: Array | None = None
    dstates_0, dweights = [], []
    for direction, its_dy in enumerate(problem.parts(dy)):
        dx, dstate_0, gradients = ops.backward(tapes[direction], its_dy, dstates_n[direction], dx, of_x=of_x)
        dstates_0.append(dstate_0)
        found = Weights(*gradients)  # type: ignore[arg-type]
        dweights += [getattr(found, field) for field in layer.fields]
    dx, dstate_0, _ = problem.rows.gradients_back(dx, dstates_0, per_layer)
    gradients = [dx] if of_x else []
    gradients += [*(dstate_0 if layer.states > 1 else (dstate_0,)), *dweights]
    for result, gradient in zip(results, gradients, strict=False):
        result[...] = gradient


def _make_backward(text: str) -> Callable[[list[Array], list[Array]], None]:
    flags, _, layer = text.partition(" ")
    of_x, *present = [its == "1" for its in flags]
    return functools.partial(_backward, _read(layer), of_x, present)


xla.calls["infer"] = lambda text: _infer(_read(text))
xla.calls["forward"] = lambda text: functools.partial(_forward, _read(text))
xla.calls["backward"] = _make_backward
jax.ffi.register_ffi_target("fastrnn", xla.handler, platform="cpu")


# ---- as primitives

layer_p = Primitive("fastrnn_layer")
layer_back_p = Primitive("fastrnn_layer_back")
linear_p = Primitive("fastrnn_layer_linear")
for primitive in (layer_p, layer_back_p, linear_p):
    primitive.multiple_results = True

Abstract = jax.core.ShapedArray


def _outputs(layer: Layer, arguments: Sequence[Any]) -> list[Any]:
    """What y and the final states are like."""
    x, states = arguments[0], arguments[layer.first_weight - layer.states : layer.first_weight]
    y = Abstract((*x.shape[:2], layer.directions * states[0].shape[2]), states[0].dtype)
    return [y, *[Abstract(s.shape, s.dtype) for s in states]]


def _tape(layer: Layer, arguments: Sequence[Any]) -> list[Any]:
    """What is kept at the most; nothing on a backend that cannot say what its tapes consist of."""
    backend, _ = ops.choose(layer.backend, None)
    if not ops.keeps(backend):
        return []
    states = arguments[layer.first_weight - layer.states : layer.first_weight]
    weights = _weights(layer, arguments[layer.first_weight :])
    T, N = arguments[0].shape[:2]
    runs = T * N if "resets" in layer.given else N  # each step may begin anew
    # Rows are padded where they would share the sets of a cache, so a few rows less may take more than all.
    fewest = max(0, T * N - PADDED) if layer.given else T * N
    by_rows = [
        _kept_sizes(backend, _cell(layer.cell), T, runs, rows, states, weights) for rows in range(fewest, T * N + 1)
    ]
    return [Abstract((max(sizes),), states[0].dtype) for sizes in zip(*by_rows, strict=True)] * layer.directions


def _like_layer(*arguments: Any, layer: Layer, keep: bool) -> list[Any]:
    return _outputs(layer, arguments) + (_tape(layer, arguments) if keep else [])


def _like_layer_back(*arguments: Any, layer: Layer, of_x: bool, present: tuple[bool, ...]) -> list[Any]:
    return [Abstract(a.shape, a.dtype) for a in _differentiated(layer, of_x, arguments)]


def _like_linear(*arguments: Any, layer: Layer, varied: tuple[bool, ...]) -> list[Any]:
    return _outputs(layer, arguments)


def _differentiated(layer: Layer, of_x: bool, arguments: Sequence[Any]) -> list[Any]:
    """Those arrays of a call whose gradients are computed."""
    return [*arguments[:of_x], *arguments[1 + len(layer.given) : layer.arguments]]


def _run_layer(*arguments: Any, layer: Layer, keep: bool) -> list[Any]:
    """By XLA's custom call."""
    results = _like_layer(*arguments, layer=layer, keep=keep)
    call = jax.ffi.ffi_call("fastrnn", [jax.ShapeDtypeStruct(r.shape, r.dtype) for r in results])
    name = "infer" if not keep and _is_plain(layer, arguments) else "forward"
    return list(call(*arguments, call=f"{name} {layer.text()}"))


def _run_layer_back(*arguments: Any, layer: Layer, of_x: bool, present: tuple[bool, ...]) -> list[Any]:
    gradients = _differentiated(layer, of_x, arguments)
    kept = arguments[layer.arguments + 1 : len(arguments) - sum(present)]
    call = jax.ffi.ffi_call(
        "fastrnn",
        [jax.ShapeDtypeStruct(r.shape, r.dtype) for r in [*gradients, *kept]],
        input_output_aliases={layer.arguments + 1 + i: len(gradients) + i for i in range(len(kept))},
    )
    flags = "".join("01"[its] for its in (of_x, *present))
    return list(call(*arguments, call=f"backward {flags} {layer.text()}"))[: len(gradients)]


def _run_linear(*arguments: Any, layer: Layer, varied: tuple[bool, ...]) -> list[Any]:
    raise NotImplementedError(
        f"fastrnn.jax's {layer.cell} has no forward-mode derivative (jax.jvp, jax.jacfwd, jax.hessian): use jax.grad, "
        "jax.vjp or jax.jacrev, or a lax.scan of its equations, such as flax.nnx.RNN"
    )


for primitive, like, function in (
    (layer_p, _like_layer, _run_layer),
    (layer_back_p, _like_layer_back, _run_layer_back),
    (linear_p, _like_linear, _run_linear),
):
    primitive.def_abstract_eval(like)
    primitive.def_impl(function)
    mlir.register_lowering(primitive, mlir.lower_fun(function, multiple_results=True), platform="cpu")


def _jvp(arguments: Sequence[Any], tangents: Sequence[Any], *, layer: Layer, keep: bool) -> tuple[list[Any], list[Any]]:
    results = layer_p.bind(*arguments, layer=layer, keep=True)
    y, kept = results[0], results[1 + layer.states :]
    moved = [(i, t) for i, t in enumerate(tangents) if type(t) is not ad.Zero and not 1 <= i <= len(layer.given)]
    varied = tuple(i in [at for at, _ in moved] for i in range(len(arguments)))
    changes = linear_p.bind(*arguments, y, *kept, *[t for _, t in moved], layer=layer, varied=varied)
    if not keep:
        return results[: 1 + layer.states], changes
    return results, [*changes, *[jnp.zeros_like(k) for k in kept]]


def _transpose(cotangents: Sequence[Any], *arguments: Any, layer: Layer, varied: tuple[bool, ...]) -> list[Any]:
    count = len(arguments) - sum(varied)
    present = tuple(type(c) is not ad.Zero for c in cotangents)
    of_x = varied[0] and _is_real(arguments[0])
    gradients = iter(
        layer_back_p.bind(
            *arguments[:count],
            *[c for c, its in zip(cotangents, present, strict=True) if its],
            layer=layer,
            of_x=of_x,
            present=present,
        )
    )
    found: list[Any] = [None] * count
    for i, its in enumerate(varied):
        gradient = next(gradients) if i > len(layer.given) or (i == 0 and of_x) else None
        if its:
            found.append(gradient)
    return [g if ad.is_undefined_primal(a) else None for g, a in zip(found, arguments, strict=True)]


def _no_second_derivative(*_: Any, layer: Layer, **__: Any) -> Any:
    raise NotImplementedError(
        f"fastrnn.jax's {layer.cell} has no second derivative: use one jax.grad, jax.vjp or jax.jacrev around it, or a "
        "lax.scan of its equations, such as flax.nnx.RNN"
    )


ad.primitive_jvps[layer_p] = _jvp
ad.primitive_jvps[layer_back_p] = _no_second_derivative
ad.primitive_transposes[linear_p] = _transpose


# ---- under jax.vmap


def _fold(array: Any, mapped: int | None, axis: int, size: int) -> Any:
    """The mapped axis as part of the batch, an axis of an example."""
    if mapped is None:
        array = jnp.broadcast_to(jnp.expand_dims(array, axis), (*array.shape[:axis], size, *array.shape[axis:]))
    else:
        array = jnp.moveaxis(array, mapped, axis)
    return array.reshape(*array.shape[:axis], -1, *array.shape[axis + 2 :])


def _one_by_one(bind: Any, arguments: Sequence[Any], mapped: Sequence[int | None]) -> tuple[Sequence[Any], list[int]]:
    """Run a primitive for each entry of the mapped axes."""
    rest = [jnp.moveaxis(a, its, 0) for a, its in zip(arguments, mapped, strict=True) if its is not None]

    def of_entry(entries: Sequence[Any]) -> list[Any]:
        its = iter(entries)
        return list(bind(*[a if at is None else next(its) for a, at in zip(arguments, mapped, strict=True)]))

    results = jax.lax.map(of_entry, rest)
    return results, [0] * len(results)


def _batch(
    arguments: Sequence[Any], mapped: Sequence[int | None], *, layer: Layer, keep: bool
) -> tuple[Sequence[Any], Sequence[int | None]]:
    first = layer.first_weight
    if any(its is not None for its in mapped[first:]):
        return _one_by_one(functools.partial(layer_p.bind, layer=layer, keep=keep), arguments, mapped)
    size = next(a.shape[its] for a, its in zip(arguments, mapped, strict=True) if its is not None)
    folded = [_fold(*each, size) for each in zip(arguments[:first], mapped[:first], layer.batch_axes(), strict=True)]
    y, *others = layer_p.bind(*folded, *arguments[first:], layer=layer, keep=keep)
    outputs = [o.reshape(o.shape[0], size, -1, *o.shape[2:]) for o in (y, *others[: layer.states])]
    kept = others[layer.states :]  # of the whole batch
    return [*outputs, *kept], [*[1] * len(outputs), *[None] * len(kept)]


def _batch_back(
    arguments: Sequence[Any], mapped: Sequence[int | None], *, layer: Layer, of_x: bool, present: tuple[bool, ...]
) -> tuple[Sequence[Any], Sequence[int | None]]:
    first, count = layer.first_weight, layer.arguments
    cotangents = len(arguments) - sum(present)
    in_batch = any(its is not None for its in mapped[:first])
    if in_batch and all(its is None for its in mapped[first:count]):
        # The tape is of the whole batch, but each entry has gradients of its own.
        arguments = [*arguments[: count + 1], *arguments[cotangents:]]
        mapped = [*mapped[: count + 1], *mapped[cotangents:]]
    return _one_by_one(functools.partial(layer_back_p.bind, layer=layer, of_x=of_x, present=present), arguments, mapped)


def _batch_linear(*_: Any, **options: Any) -> Any:
    return _run_linear(**options)


batching.primitive_batchers[layer_p] = _batch
batching.primitive_batchers[layer_back_p] = _batch_back
batching.primitive_batchers[linear_p] = _batch_linear
