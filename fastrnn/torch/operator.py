"""One layer of a recurrent module, in one or both directions, as a differentiable operation of torch.

`layer` is what modules call. Where torch traces (torch.compile, torch.export, fake tensors, dispatch modes), or hooks
want to see what is saved for backward, it is the operator torch.ops.fastrnn.layer, which graphs hold as one node and
whose tape is tensors. Otherwise it is an autograd.Function that keeps the tape as it is: of a training step of one
small layer that takes 125 us, torch's dispatcher would make 150, and torch.library's own autograd 300. Tensors and
arrays share their memory throughout.

Backends overwrite the tape in `backward`. Where it is to serve a second time (retain_graph=True), or is missing,
forward runs again, which gives the same bits. A tape in tensors has a flag that says so: the operators are functions of
their other arguments alone, as compilers take them to be.

The tape reads y, so users get a copy: they may write to it, also where torch does not see it (`y.data`, `y.numpy()`).
It takes 1 % of an RNN's training step at T 50, N 64, I = H = 32, less of larger ones and of other cells. Writes to x,
initial states and parameters must not be hidden from torch before backward, as with torch.nn's modules.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from types import CodeType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch._C._dynamo.eval_frame import _FrameAction, _FrameExecStrategy, set_code_exec_strategy
from torch._C._functorch import is_functorch_wrapped_tensor
from torch.autograd import forward_ad

from fastrnn import ops
from fastrnn.backends import BACKENDS
from fastrnn.cells import CELLS, Cell, State, Weights, WrittenCell
from fastrnn.checks import shown
from fastrnn.extra import into_width
from fastrnn.fits import check_call, check_weights
from fastrnn.groups import Heads
from fastrnn.narrow import PRECISIONS, narrow
from fastrnn.parameters import Array
from fastrnn.torch.packed import packed

__all__ = [
    "DTYPES",
    "Written",
    "in_precision",
    "is_traced",
    "layer",
    "run_uncompiled",
    "skip_code",
    "why_no_tapes",
    "why_not_precision",
    "wide",
]

DTYPES = {torch.float32: np.dtype(np.float32), torch.float64: np.dtype(np.float64)}

# What the flag of a tape says: which backend reads it, or that backward has overwritten it.
USED = 0
FLAGS = {module: flag for flag, module in enumerate(BACKENDS.values(), start=1)}
BACKEND_OF_FLAG = [None, *BACKENDS]

Outputs = tuple[Tensor, list[Tensor], list[Tensor]]  # y, the final states, and the tape
Gradients = tuple[Any, Sequence[Any], Sequence[Any]]  # of x, of the initial states, and of the weights


class Written(NamedTuple):
    """A cell that a user wrote; torch has no layer for it, and graphs no node."""

    cell: WrittenCell
    fields: tuple[str, ...]  # those of `Weights` that a direction has
    extra: Sequence[tuple[Array, ...]] = ()  # by direction, what its layer is given beside x in a call, if anything
    tensors: Sequence[Tensor] = ()  # the first of these, (R, W) in all directions, if one of them wants a gradient
    heads: int = 1  # into how many the recurrent product is cut


def layer(
    x: Tensor,
    batch_sizes: Tensor | None,
    state: Sequence[Tensor],
    weights: Sequence[Tensor],
    cell: str | Written,
    warn: Callable[[str], None],
    inner: bool = False,
) -> tuple[Tensor, Sequence[Tensor]]:
    """Run one layer.

    Parameters
    ----------
    x
        (T, N, I), or the rows (R, I) of a packed sequence.
    batch_sizes
        (T,) ints on the CPU, those of a packed sequence, or None.
    state
        The initial states, h (D, N, P) and c (D, N, H), in the order of the cell's states.
    weights
        Of the forward and then of the reverse direction, in the order of torch.nn: weight_ih, weight_hh, then if any
        bias_ih, bias_hh, then if any weight_hr; of a written cell those of its fields.
    cell
        A name in `fastrnn.cells.CELLS`, of `in_precision` if its products are of fewer bits; or a written cell, which
        is not to be traced.
    warn
        Called with the reason where a backward has to be left to torch.
    inner
        Whether y is but another layer's x: then nobody writes to it, and the tape may share it.

    Returns
    -------
    tuple
        y (T, N, D*P) or (R, D*P), and the final states, shaped like `state`.
    """
    if forward_ad._current_level >= 0 and isinstance(cell, str) and not is_traced():
        from fastrnn.torch import second  # which is made of what is here

        return second.layer(x, batch_sizes, state, weights, wide(cell), warn)
    tensors = (x, *state, *weights) if isinstance(cell, str) else (x, *state, *weights, *cell.tensors)
    taped = torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
    traced = is_traced()
    hooked = taped and not traced and torch._C._autograd._top_saved_tensors_default_hooks(True) is not None
    if (traced or hooked) and isinstance(cell, str):
        # A graph to be kept outlives the grad mode it is made in: it has no tape, and a backward runs forward again.
        keep = hooked or (taped and torch.compiler.is_compiling() and not torch.compiler.is_exporting())
        y, state_n, _ = torch.ops.fastrnn.layer(x, batch_sizes, list(state), list(weights), cell, keep)
        if hooked:
            y = y.clone()  # what is saved by hooks, torch does not watch
    elif taped:
        y, *state_n = apply(_Layer, cell, warn, hooked, inner, batch_sizes, len(state), tensors=tensors)
    else:
        y, state_n, _ = _forward(x, batch_sizes, state, weights, cell, False)
    return y, state_n


def is_traced() -> bool:
    """Whether torch records operators, instead of merely running them."""
    if torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack() > 0:
        return True
    return torch._C._get_tracing_state() is not None  # torch.jit.trace


def run_uncompiled(*functions: Callable[..., Any]) -> None:
    """Keep torch.compile from making graphs of functions and what they call; within a graph they may still be.

    Where it does not compile a function, it tries those that the function calls, to the last comprehension.
    torch.compiler.disable would rule out a graph around them too, and import torch._dynamo, which takes a second.
    """
    for function in functions:
        skip_code(function.__code__)


def skip_code(code: CodeType) -> None:
    """As `run_uncompiled`."""
    set_code_exec_strategy(code, _FrameExecStrategy(_FrameAction.SKIP, _FrameAction.SKIP))


def why_no_tapes() -> str | None:
    """Why there is no backend that keeps its tapes in tensors, or None."""
    backend, _ = ops.choose(None, 1)
    return None if ops.keeps(backend) else f"are not compiled here: the backend is {backend.describe()}"


def why_not_precision(precision: str) -> str | None:
    """Why the kernels have no products in a precision, or None."""
    backend, _ = ops.choose(None, 1)
    known = precision == "float32" or precision in getattr(backend, "PRECISIONS", ())
    return None if known else f"have no precision {precision!r}: the backend is {backend.describe()}"


# torch.compiler.assume_constant_result, which would import torch._dynamo: not to be traced but to be called.
why_no_tapes._dynamo_marked_constant = True  # type: ignore[attr-defined]
why_not_precision._dynamo_marked_constant = True  # type: ignore[attr-defined]


# ---- names of cells, which say in which precision their products are, so that graphs do


def in_precision(cell: str, precision: str) -> str:
    """The name of a cell whose products are in one of `fastrnn.narrow.PRECISIONS`: lstm:bfloat16."""
    return cell if precision == "float32" else f"{cell}:{precision}"


NAMED = {in_precision(name, precision): (cell, precision) for name, cell in CELLS.items() for precision in PRECISIONS}


def wide(cell: Any) -> Any:
    """The name without a precision; a written cell as it is.

    It is what has derivatives beyond the first, and what transforms take: float32, of the same weights.
    """
    return NAMED[cell][0].name if isinstance(cell, str) else cell


# ---- on NumPy arrays


class _Problem:
    """What a layer is given, by direction, as arrays that share the tensors' memory."""

    def __init__(
        self,
        x: Tensor,
        batch_sizes: Tensor | None,
        state: Sequence[Tensor],
        weights: Sequence[Tensor],
        cell: str | Written,
        backend: str | None = None,
    ) -> None:
        self.cell, self.precision = NAMED[cell] if isinstance(cell, str) else (cell.cell, "float32")
        threads = torch.get_num_threads()
        if self.precision == "float32":
            self.backend, self.num_threads = ops.choose_for_cell(self.cell, backend, threads)
        else:
            self.backend, self.num_threads = ops.choose_for_precision(self.precision, backend, threads)
        self.x = _array(x, "x")
        # A copy: whoever writes to the caller's must not reach what is checked here and trusted in backward.
        self.batch_sizes: Array | None = None if batch_sizes is None else batch_sizes.numpy().copy()
        states = list(map(_array, state, self.cell.states_0))
        self.directions = len(states[0])
        self.extra = (() if isinstance(cell, str) else cell.extra) or [()] * self.directions
        parts = _split(weights, self.directions)
        if isinstance(cell, str):
            self.weights = list(map(_weights, parts))
            _check(self.cell, self.x, self.batch_sizes, states, self.weights)
            if self.precision != "float32":
                self._wide = list(zip(self.weights, parts, strict=True))
            if self.precision == "bfloat16":  # tapes refer to these; int8 has none
                self.weights = [narrow(its, self.precision) for its in self.weights]
        else:
            self.weights = [_weights_of_fields(its, cell.fields) for its in parts]
            if cell.heads > 1:
                self.weights = [Heads._make(its) for its in self.weights]
            _check_written(self.cell, self.x, self.batch_sizes, states, self.weights, self.extra)
        self.states = [tuple([s[direction] for s in states]) for direction in range(self.directions)]

    def parts(self, array: Array | None) -> Sequence[Any]:
        """Which columns of y or dy each direction has; None for each if there are none."""
        if array is None or self.directions == 1:
            return [array] * self.directions
        P = array.shape[-1] // 2
        return array[..., :P], array[..., P:]

    def run(self, keep: bool) -> tuple[Array, list[State], list[ops.Tape]]:
        """y, and by direction the final states and, if they are to be kept, the tapes.

        Raises
        ------
        ValueError
            If a tape is to be kept of int8 weights.
        """
        if keep and self.precision == "int8":
            wanted = "expected 'float32' or 'bfloat16' for a backward"
            raise ValueError(f"precision is 'int8', which is for inference; {wanted}")
        y: Array | None = None
        if self.directions == 2:
            y = ops.empty(self.backend, (*self.x.shape[:-1], 2 * self.states[0][0].shape[-1]), self.x.dtype)
        states_n, tapes = [], []
        for reverse, part in enumerate(self.parts(y)):
            state, weights = self.states[reverse], self.weights[reverse]
            given = (self.backend, self.cell, self.x, state, weights, self.num_threads)
            order = (self.batch_sizes, reverse == 1, part, self.extra[reverse])
            if keep:
                its_y, state_n, tape = ops.forward(*given, *order)
                tapes.append(tape)
            elif self.precision == "float32":
                its_y, state_n = ops.run(*given, *order)
            else:
                its_y, state_n = self._run_narrow(reverse, state, order)
            states_n.append(state_n)
        self.y = its_y if y is None else y
        return self.y, states_n, tapes

    def _run_narrow(self, direction: int, state: State, order: Sequence[Any]) -> tuple[Array, State]:
        """`ops.run` of weights of fewer bits."""
        (weights, tensors), backend, cell = self._wide[direction], self.backend, self.cell
        if not hasattr(backend, "pack"):
            return ops.run(backend, cell, self.x, state, narrow(weights, self.precision), self.num_threads, *order)
        its = packed(backend, cell, weights, tensors, self.precision, self.num_threads)
        return ops.run_packed(backend, cell, self.x, state, *its, self.num_threads, *order)

    def kept_sizes(self) -> list[int]:
        """How many elements each array of the tapes has, those of the forward direction first."""
        N, P = self.states[0][0].shape
        steps, rows = self.x.shape[0], self.x.shape[0] * N
        if self.batch_sizes is not None:
            steps, rows = len(self.batch_sizes), self.x.shape[0]
        weights = self.weights[0]
        sizes = steps, N, rows, len(weights.ih) // len(self.cell.gates), 0 if weights.hr is None else P
        return [*ops.kept_sizes(self.backend, self.cell, sizes, self.x.dtype)] * self.directions

    def recall(self, y: Array, kept: Sequence[Array]) -> list[ops.Tape]:
        """The tapes by direction, from their arrays."""
        return [
            ops.recall(
                self.backend,
                self.cell,
                self.x,
                self.states[reverse],
                self.weights[reverse],
                part,
                its_kept,
                self.num_threads,
                self.batch_sizes,
                reverse == 1,
            )
            for reverse, (part, its_kept) in enumerate(zip(self.parts(y), _split(kept, self.directions), strict=True))
        ]

    def gradients(
        self,
        tapes: list[ops.Tape],
        dy: Tensor | None,
        dstate_n: Sequence[Tensor | None],
        of_x: bool = True,
        dextra: tuple[Array, ...] = (),
    ) -> Gradients:
        """Run backward on the tapes, which it uses up; that of x is None unless `of_x`; dextra as of `ops.backward`."""
        dstates_n = [None if d is None else _array(d, "the gradient of a final state") for d in dstate_n]
        dx: Array | None = None
        dstates_0: list[State] = []
        dweights: list[Tensor] = []
        for direction, its_dy in enumerate(self.parts(None if dy is None else _array(dy, "dy"))):
            its_dstate_n = tuple([None if d is None else d[direction] for d in dstates_n])
            dx, dstate_0, its_dweights = ops.backward(
                tapes[direction], its_dy, its_dstate_n, dx, of_x=of_x, dextra=dextra
            )
            dstates_0.append(dstate_0)
            dweights += [torch.from_numpy(w) for w in its_dweights if w is not None]  # in torch.nn's order
        return torch.from_numpy(dx) if of_x else None, _tensors(dstates_0), dweights


def _operator(
    x: Tensor,
    batch_sizes: Tensor | None,
    state: Sequence[Tensor],
    weights: Sequence[Tensor],
    cell: str,
    keep: bool,
) -> Outputs:
    """`_forward` for callers that nobody knows."""
    _check_arguments(x, state, weights, cell)
    return _forward(x, batch_sizes, state, weights, cell, keep)


def _forward(
    x: Tensor,
    batch_sizes: Tensor | None,
    state: Sequence[Tensor],
    weights: Sequence[Tensor],
    cell: str | Written,
    keep: bool,
) -> Outputs:
    """`layer` without its derivative; the tape is empty unless it is to be kept, and ends with its flag."""
    problem = _Problem(x, batch_sizes, state, weights, cell)
    y, states_n, tapes = problem.run(keep)
    tape = []
    if keep:
        tape = [torch.from_numpy(array) for its_tape in tapes for array in ops.keep(its_tape)]
        tape.append(torch.from_numpy(np.array([FLAGS[problem.backend.__name__]], np.uint8)))
    return torch.from_numpy(y), _tensors(states_n), tape


def _backward(
    x: Tensor,
    batch_sizes: Tensor | None,
    state: Sequence[Tensor],
    weights: Sequence[Tensor],
    y: Tensor | None,
    tape: Sequence[Tensor],
    dy: Tensor | None,
    dstate_n: Sequence[Tensor | None],
    cell: str,
) -> Gradients:
    """The gradients of `layer` with respect to x, the initial states and the weights; y is None if the tape is."""
    _check_arguments(x, state, weights, cell)
    flag = tape[-1] if tape and y is not None else torch.zeros(1, dtype=torch.uint8)
    if flag.dtype is not torch.uint8 or flag.shape != (1,) or not USED <= int(flag) < len(BACKEND_OF_FLAG):
        raise ValueError(f"tape ends with {flag}; expected what torch.ops.fastrnn.layer returned")
    problem = _Problem(x, batch_sizes, state, weights, cell, BACKEND_OF_FLAG[int(flag)])
    y_shape = (*x.shape[:-1], state[0].shape[-1] * len(state[0]))
    incoming = {"dy": (dy, y_shape)}
    if len(dstate_n) != len(state):
        raise ValueError(f"dstate_n has {len(dstate_n)} tensors or None; expected {len(state)}")
    for name, its, initial in zip(problem.cell.dstates_n, dstate_n, state, strict=True):
        incoming[name] = its, initial.shape
    if y is None or int(flag) == USED:
        _check_tensors(x.dtype, incoming)
        _, _, tapes = problem.run(keep=True)
    else:
        sizes = problem.kept_sizes()
        if len(tape) != len(sizes) + 1:
            raise ValueError(f"tape has {len(tape)} tensors; expected the {len(sizes) + 1} of torch.ops.fastrnn.layer")
        kept = {f"tape[{i}]": (tape[i], (size,)) for i, size in enumerate(sizes)}
        _check_tensors(x.dtype, incoming | {"y": (y, y_shape)} | kept)
        tapes = problem.recall(_array(y, "y"), list(map(_array, tape[:-1], kept)))
        flag.fill_(USED)
    return problem.gradients(tapes, dy, dstate_n)


def _check_tensors(dtype: torch.dtype, tensors: dict[str, tuple[Tensor | None, tuple[int, ...]]]) -> None:
    """Raise TypeError or ValueError unless those that are given have their shapes and are of x's dtype."""
    for name, (tensor, shape) in tensors.items():
        if tensor is not None and tensor.dtype is not dtype:
            raise TypeError(f"{name} has dtype {tensor.dtype}; expected {dtype}, as x has")
        if tensor is not None and tensor.shape != shape:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}; expected {tuple(shape)}")


def _array(tensor: Tensor, name: str) -> Array:
    """The tensor as a C-contiguous, aligned array: on its memory, if that is so.

    The array keeps the memory alive, and torch from resizing it, whatever becomes of the tensor.

    Raises
    ------
    RuntimeError
        If the tensor's storage has been made too small for it.
    """
    try:
        array: Array = tensor.numpy()
    except RuntimeError:
        tensor = tensor.resolve_neg()
        array = tensor.numpy()
    held = tensor.untyped_storage().nbytes()
    if array.flags.carray and array.nbytes <= held:
        return array
    last = sum((n - 1) * stride for n, stride in zip(tensor.shape, tensor.stride(), strict=True))
    if array.size and (tensor.storage_offset() + last + 1) * array.itemsize > held:
        raise RuntimeError(
            f"{name} has shape {array.shape}, but a storage of {held} bytes; expected all of its elements: "
            "it was freed by resize_, so fill it first"
        )
    return np.require(array, None, ["C", "A"])


def _tensors(states: Sequence[State]) -> list[Tensor]:
    """States by direction, (N, K) each, as those of both, (D, N, K)."""
    if len(states) == 1:
        return [torch.from_numpy(s[None]) for s in states[0]]
    return [torch.from_numpy(np.stack(directions)) for directions in zip(*states, strict=True)]


def _split(items: Sequence[Any], parts: int) -> list[Sequence[Any]]:
    """Cut into equal parts."""
    count = len(items) // parts
    return [items[part * count : (part + 1) * count] for part in range(parts)]


def _weights(tensors: Sequence[Tensor]) -> Weights:
    """One direction's, from torch.nn's order."""
    arrays = list(map(_array, tensors, WEIGHT_NAMES[len(tensors)]))
    hr = arrays.pop() if len(arrays) % 2 else None
    bias_ih, bias_hh = arrays[2:] or (None, None)
    return Weights(arrays[0], arrays[1], bias_ih, bias_hh, hr)


def _weights_of_fields(tensors: Sequence[Tensor], fields: Sequence[str]) -> Weights:
    """One direction's, by the fields of Weights that there are."""
    arrays: dict[str, Any] = {field: _array(t, field) for field, t in zip(fields, tensors, strict=True)}
    return Weights(arrays.pop("ih"), arrays.pop("hh", None), **arrays)


WEIGHT_NAMES = {
    len(names): names
    for names in (
        ("weight_ih", "weight_hh"),
        ("weight_ih", "weight_hh", "weight_hr"),
        ("weight_ih", "weight_hh", "bias_ih", "bias_hh"),
        ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr"),
    )
}
SMALL = 1 << 15  # elements up to which NumPy copies faster than torch, which shares larger ones out to threads


def _copy(array: Array) -> Tensor:
    """A tensor on memory of its own."""
    return torch.from_numpy(array.copy()) if array.size < SMALL else torch.from_numpy(array).clone()


def _check_arguments(x: Tensor, state: Sequence[Tensor], weights: Sequence[Tensor], cell: str) -> None:
    """Raise TypeError or ValueError where `_check` relies on its caller; modules have looked at all this before."""
    if cell not in NAMED:
        raise ValueError(f"cell is {shown(cell)}; expected one of {', '.join(NAMED)}")
    if x.dtype not in DTYPES:
        raise TypeError(f"x has dtype {x.dtype}; expected torch.float32 or float64: use x.float() or x.double()")
    its, precision = NAMED[cell]
    if x.dtype is not torch.float32 and precision != "float32":
        raise TypeError(f"cell is {shown(cell)} and x of {x.dtype}; expected torch.float32 for fewer bits")
    names = its.states_0
    if len(state) != len(names):
        raise ValueError(f"state has {len(state)} tensors; expected {len(names)}: {', '.join(names)}")
    if x.dim() < 2 or state[0].dim() != 3 or state[0].shape[0] not in (1, 2):
        shapes = f"x has shape {tuple(x.shape)} and h_0 {tuple(state[0].shape)}"
        raise ValueError(f"{shapes}; expected (T, N, I) or (R, I), and (D, N, P) with D = 1 or 2")
    D = state[0].shape[0]
    if len(weights) % D or len(weights) // D not in WEIGHT_NAMES:
        raise ValueError(f"weights has {len(weights)} tensors; expected 2 to 5 in each of D = {D} directions")


LETTERS = ("(G*H, I)", "(G*H, P)", "(G*H,)", "(G*H,)", "(P, H)", "(M, H)")  # of the fields of Weights


def _check(
    cell: Cell, x: Array, batch_sizes: Array | None, states: Sequence[Array], weights: Sequence[Weights]
) -> None:
    """Raise TypeError or ValueError unless everything fits together: the kernels trust it."""
    D, N, P = states[0].shape
    rows, I, dtype = len(weights[0].ih), x.shape[-1], x.dtype
    H, projected = rows // len(cell.gates), weights[0].hr is not None
    weight_shapes = ((rows, I), (rows, P), (rows,), (rows,), (P, H), ())
    for its in weights:
        for field, array, shape in zip(Weights._fields, its, weight_shapes, strict=True):
            if array is not None and (array.shape != shape or array.dtype is not dtype):
                letters = dict(zip(Weights._fields, LETTERS, strict=True))
                name = field if field.startswith("bias") else f"weight_{field}"
                ops.as_real(name, array, dtype, shape, letters[field])
    if rows != H * len(cell.gates) or (P != H and not projected) or (projected and cell.name != "lstm"):
        raise ValueError(
            f"weight_ih has shape {weights[0].ih.shape} and h_0 {states[0].shape}; expected ({len(cell.gates)} * H, I) "
            "and (D, N, P), with P = H unless an lstm has weight_hr"
        )
    names = cell.states_0
    for name, array, size in zip(names, states, (P, H)[: len(names)], strict=True):
        if array.shape != (D, N, size) or array.dtype is not dtype:
            ops.as_real(name, array, dtype, (D, N, size), f"(D, N, {'P' if name == 'h_0' else 'H'})")
    _check_rows(x, batch_sizes, N)


def _check_written(
    cell: Cell,
    x: Array,
    batch_sizes: Array | None,
    states: Sequence[Array],
    weights: Sequence[Weights],
    extra: Sequence[tuple[Array, ...]],
) -> None:
    """As `_check`, for a cell that a user wrote."""
    D, N = states[0].shape[:2]
    for name, array in zip(cell.states_0, states, strict=True):
        if array.ndim != 3 or array.shape[:2] != (D, N):
            raise ValueError(f"{name} has shape {array.shape}; expected three axes, the first two of {(D, N)}")
    if x.dtype != weights[0].ih.dtype or x.ndim < 2:
        raise TypeError(f"x has dtype {x.dtype} and {x.ndim} axes; expected {weights[0].ih.dtype}, and two or three")
    _check_rows(x, batch_sizes, N)
    for direction, its in enumerate(weights):
        sizes = its.sizes(cell) if isinstance(its, Heads) else check_weights(cell, its)
        state = tuple([s[direction] for s in states])
        check_call(cell, x, state, sizes, its.ih.dtype, batch_sizes, extra[direction])


def _check_rows(x: Array, batch_sizes: Array | None, N: int) -> None:
    """ValueError unless x has the rows of N sequences."""
    if batch_sizes is None:
        if x.shape[1:-1] != (N,):
            raise ValueError(f"x has shape {x.shape}; expected (T, N, I) with N = {N}, as in h_0")
    elif (
        batch_sizes.dtype != np.int64
        or batch_sizes.ndim != 1
        or len(batch_sizes) == 0
        or batch_sizes[0] != N
        or batch_sizes[-1] < 1
        or (batch_sizes[1:] > batch_sizes[:-1]).any()
        or x.shape[:-1] != (batch_sizes.sum(),)
    ):
        raise ValueError(
            f"batch_sizes is {batch_sizes}; expected int64 of at least 1, not increasing, from N = {N}, as in h_0, on, "
            f"whose sum is x's number of rows, {len(x)}"
        )


# ---- its derivative


def apply(function: Any, *args: Any, tensors: Sequence[Tensor]) -> Any:
    """Call a function of autograd on all of this, outside of transforms; its own `apply` takes 4 us more.

    That one looks at every argument for a wrapper that a transform has left behind.
    """
    if any(map(is_functorch_wrapped_tensor, tensors)):
        return function.apply(*args, *tensors)
    return super(torch.autograd.Function, function).apply(*args, *tensors)


class _Layer(torch.autograd.Function):
    """The layer for autograd, without the dispatcher, and without taking its tapes apart."""

    @staticmethod
    def forward(
        ctx: Any,
        cell: str | Written,
        warn: Callable[[str], None],
        hooked: bool,
        inner: bool,
        batch_sizes: Tensor | None,
        states: int,
        x: Tensor,
        *tensors: Tensor,
    ) -> tuple[Tensor, ...]:
        ctx.beside = 0 if isinstance(cell, str) else len(cell.tensors)
        problem = _Problem(x, batch_sizes, tensors[:states], tensors[states : len(tensors) - ctx.beside], cell)
        y, states_n, tapes = problem.run(keep=not hooked)
        ctx.save_for_backward(x, batch_sizes, *tensors)
        ctx.set_materialize_grads(False)
        # Hooks are to see all that is kept: then it is what went in, and backward runs forward again.
        ctx.fresh = [] if hooked else [(problem, tapes)]
        ctx.cell, ctx.warn, ctx.states = cell, warn, states
        return torch.from_numpy(y) if inner else _copy(y), *_tensors(states_n)

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None, *dstate_n: Tensor | None) -> tuple[Tensor | None, ...]:
        x, batch_sizes, *tensors = ctx.saved_tensors
        state, weights = tensors[: ctx.states], tensors[ctx.states : len(tensors) - ctx.beside]
        beside = tensors[len(tensors) - ctx.beside :]
        dextra: tuple[Array, ...] = ()
        if beside:
            H = dict(zip(ctx.cell.fields, weights, strict=False))["ih"].shape[0] // len(ctx.cell.cell.gates_ih)
            dtype: Any = DTYPES[x.dtype]
            dextra = tuple([np.zeros((len(t), H), dtype) for t in beside])
        written = not isinstance(ctx.cell, str)
        if written and torch.is_grad_enabled():
            raise NotImplementedError(no_second(ctx.cell))
        if written and is_traced():
            name = ctx.cell.cell.name
            raise NotImplementedError(
                f"the backward of the cell {name} cannot be traced; expected it to run outside of torch's tracing"
            )
        if torch.is_grad_enabled():
            from fastrnn.torch import second  # which is made of what is here

            fresh = ctx.fresh if wide(ctx.cell) == ctx.cell else []  # whose tapes are of fewer bits
            gradients = second.backward(
                fresh, x, batch_sizes, state, weights, dy, dstate_n, wide(ctx.cell), ctx.warn, ctx.needs_input_grad[6]
            )
        elif is_traced():
            gradients = torch.ops.fastrnn.layer_backward(
                x, batch_sizes, state, weights, None, [], dy, dstate_n, ctx.cell
            )
        else:
            try:
                problem, tapes = ctx.fresh.pop()  # at once: another thread may run backward too
            except IndexError:
                if not written:  # of which `_Problem` sees all
                    _check_arguments(x, state, weights, ctx.cell)  # others may be in the tensors by now
                problem = _Problem(x, batch_sizes, state, weights, ctx.cell)
                _, _, tapes = problem.run(keep=True)
            try:
                gradients = problem.gradients(tapes, dy, dstate_n, ctx.needs_input_grad[6], dextra)
            except RuntimeError:
                if not _are_batched(dy, *dstate_n):
                    raise
                from fastrnn.torch.transforms import backward_of_batches  # which rests on this module

                incoming = (dy, *dstate_n)
                gradients = backward_of_batches(x, batch_sizes, state, weights, incoming, wide(ctx.cell), ctx.warn)
        dx, dstate_0, dweights = gradients
        into = [torch.from_numpy(into_width(d, t.shape[1])) for d, t in zip(dextra, beside, strict=True)]
        return None, None, None, None, None, None, dx, *dstate_0, *dweights, *into


def no_second(cell: Written) -> str:
    """What an error says of a second derivative of a cell that a user wrote."""
    return (
        f"the cell {cell.cell.name} has no derivative of its derivative (create_graph=True, gradients of gradients); "
        "expected a first derivative: step by step in torch's own operations such a cell has others"
    )


run_uncompiled(layer, _Layer.backward)
CREATE_GRAPH = "have no second derivative (create_graph=True)"


def _are_batched(*gradients: Tensor | None) -> bool:
    """Whether torch.autograd has batches of gradients in place of these."""
    functorch = torch._C._functorch
    return any(
        d is not None and (functorch.is_legacy_batchedtensor(d) or functorch.is_batchedtensor(d)) for d in gradients
    )


def _torchs_backward(
    x: Tensor,
    batch_sizes: Tensor | None,
    state: Sequence[Tensor],
    weights: Sequence[Tensor],
    dy: Tensor | None,
    dstate_n: Sequence[Tensor | None],
    cell: str,
) -> Gradients:
    """`_backward` by torch's own layer: a differentiable function of all its arguments where gradients are recorded."""
    recorded = torch.is_grad_enabled()
    # Aliases, since what led from one of these to another is not part of this layer.
    with torch.enable_grad():
        tensors = [t.view_as(t) for t in (x, *state, *weights)]
        x, state, weights = tensors[0], tensors[1 : 1 + len(state)], tensors[1 + len(state) :]
        onednn = torch._C._get_mkldnn_enabled()
        try:
            torch._C._set_mkldnn_enabled(False)  # its LSTM has no second derivative either
            outputs = _torchs_layer(x, batch_sizes, state, weights, cell)
        finally:
            torch._C._set_mkldnn_enabled(onednn)
    pairs = [(out, d) for out, d in zip(outputs, (dy, *dstate_n), strict=True) if d is not None]
    wanted = [t for t in tensors if t.requires_grad]
    found = torch.autograd.grad(
        [out for out, _ in pairs], wanted, [d for _, d in pairs], create_graph=recorded, allow_unused=True
    )
    by_tensor = iter(found)
    gradients = [next(by_tensor) if t.requires_grad else None for t in tensors]
    return gradients[0], gradients[1 : 1 + len(state)], gradients[1 + len(state) :]


def _torchs_layer(
    x: Tensor, batch_sizes: Tensor | None, state: Sequence[Tensor], weights: Sequence[Tensor], cell: str
) -> tuple[Tensor, ...]:
    """y and the final states, by torch's own operators."""
    directions = len(state[0])
    function = getattr(torch._VF, cell)
    hx = tuple(state) if len(state) > 1 else state[0]
    options = (list(weights), len(weights) // directions > 3, 1, 0.0, True, directions == 2)
    if batch_sizes is None:
        result: tuple[Tensor, ...] = function(x, hx, *options, False)
    else:
        result = function(x, batch_sizes, hx, *options)
    return result


# ---- as operators

torch.library.define(
    "fastrnn::layer",
    "(Tensor x, Tensor? batch_sizes, Tensor[] state, Tensor[] weights, str cell, bool keep) "
    "-> (Tensor y, Tensor[] state_n, Tensor[] tape)",
)
torch.library.define(
    "fastrnn::layer_backward",
    "(Tensor x, Tensor? batch_sizes, Tensor[] state, Tensor[] weights, Tensor? y, Tensor[] tape, Tensor? dy, "
    "Tensor?[] dstate_n, str cell) -> (Tensor dx, Tensor[] dstate_0, Tensor[] dweights)",
)
torch.library.impl("fastrnn::layer", "CPU", _operator)
torch.library.impl("fastrnn::layer_backward", "CPU", _backward)


def _fake_forward(
    x: Tensor,
    batch_sizes: Tensor | None,
    state: Sequence[Tensor],
    weights: Sequence[Tensor],
    cell: str,
    keep: bool,
) -> Outputs:
    """What `_forward` returns, without numbers."""
    D, N, P = state[0].shape
    tape = []
    if keep:
        steps, rows = (x.shape[0], x.shape[0] * N) if batch_sizes is None else (batch_sizes.shape[0], x.shape[0])
        its, _ = NAMED[cell]
        H = weights[1].shape[0] // len(its.gates)
        projected = len(weights) // D % 2 == 1
        sizes: list[Any] = [steps, N, rows, H, P if projected else 0]
        dtype: Any = DTYPES[x.dtype]
        backend, _ = ops.choose(None, 1)
        if all(type(size) is int for size in sizes):
            kept: Sequence[Any] = ops.kept_sizes(backend, its, sizes, dtype)
        else:
            some = ops.kept_sizes(backend, its, [1, 1, 1, 2, int(projected)], dtype)
            kept = [torch.library.get_ctx().new_dynamic_size() for _ in some]
        tape = [x.new_empty(size) for _ in range(D) for size in kept]
        tape.append(x.new_empty(1, dtype=torch.uint8))
    return x.new_empty((*x.shape[:-1], D * P)), [s.new_empty(s.shape) for s in state], tape


def _fake_backward(
    x: Tensor,
    batch_sizes: Tensor | None,
    state: Sequence[Tensor],
    weights: Sequence[Tensor],
    y: Tensor | None,
    tape: Sequence[Tensor],
    dy: Tensor | None,
    dstate_n: Sequence[Tensor | None],
    cell: str,
) -> Gradients:
    """What `_backward` returns, without numbers."""
    return x.new_empty(x.shape), [s.new_empty(s.shape) for s in state], [w.new_empty(w.shape) for w in weights]


torch.library.register_fake("fastrnn::layer", _fake_forward)
torch.library.register_fake("fastrnn::layer_backward", _fake_backward)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Outputs) -> None:
    x, batch_sizes, state, weights, ctx.cell, _ = inputs
    y, _, tape = output
    ctx.mark_non_differentiable(*tape)
    ctx.save_for_backward(x, batch_sizes, y, *state, *weights, *tape)
    ctx.set_materialize_grads(False)
    ctx.states, ctx.tensors = len(state), len(state) + len(weights)


def _backward_of_operator(ctx: Any, dy: Tensor | None, dstate_n: Sequence[Tensor | None], _: Any) -> tuple[Any, ...]:
    x, batch_sizes, y, *others = ctx.saved_tensors
    tensors, tape = others[: ctx.tensors], others[ctx.tensors :]
    state, weights = tensors[: ctx.states], tensors[ctx.states :]
    if torch.is_grad_enabled():
        from fastrnn.torch import second  # which is made of what is here

        dx, dstate_0, dweights = second.backward(
            [], x, batch_sizes, state, weights, dy, dstate_n, wide(ctx.cell), _warn, ctx.needs_input_grad[0]
        )
    elif _are_batched(dy, *dstate_n):
        from fastrnn.torch.transforms import backward_of_batches  # which rests on this module

        cell, incoming = wide(ctx.cell), (dy, *dstate_n)
        dx, dstate_0, dweights = backward_of_batches(x, batch_sizes, state, weights, incoming, cell, _warn)
    else:
        dx, dstate_0, dweights = torch.ops.fastrnn.layer_backward(
            x, batch_sizes, state, weights, y, tape, dy, dstate_n, ctx.cell
        )
    return dx, None, dstate_0, dweights, None, None


def _warn(reason: str) -> None:
    warnings.warn(f"torch.ops.fastrnn.layer leaves this to torch.nn: fastrnn's kernels {reason}", stacklevel=3)


torch.library.register_autograd("fastrnn::layer", _backward_of_operator, setup_context=_setup_context)
