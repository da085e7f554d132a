"""RNN, LSTM and GRU: layers on top of one another, with torch.nn's shapes, names and defaults. No arithmetic here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from fastrnn import backends, explain, ops
from fastrnn.cells import CELLS, Cell, State
from fastrnn.parameters import Array, Parametrized, check_dtype, check_positive, take_array, uniform

__all__ = ["GRU", "LSTM", "RNN", "Tape"]


class Tape:
    """What a module's `forward` keeps for its `backward`; it serves once, as backward works in place on it."""

    def __init__(self, module: Parametrized, layers: list[ops.Tape], y_shape: tuple[int, ...]) -> None:
        self._module = module
        self._layers = layers  # emptied by backward
        self._y_shape = y_shape  # as the caller sees y


class _Recurrent(Parametrized):
    """Everything that RNN, LSTM and GRU share."""

    _cell: Cell

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        *,
        dtype: Any = "float32",
        seed: Any = None,
        backend: str | None = None,
        num_threads: int | None = None,
    ) -> None:
        _not_yet("dropout", dropout, 0.0)
        _not_yet("bidirectional", bidirectional, False)
        self.input_size = check_positive("input_size", input_size)
        self.hidden_size = check_positive("hidden_size", hidden_size)
        self.num_layers = check_positive("num_layers", num_layers)
        self.bias = bool(bias)
        self.batch_first = bool(batch_first)
        self.dtype = check_dtype(dtype)
        if backend is not None:
            backends.load(backend)
        self.backend = backend
        self.num_threads = None if num_threads is None else check_positive("num_threads", num_threads)

        rows = len(self._cell.gates) * self.hidden_size
        shapes: dict[str, tuple[int, ...]] = {}
        for layer in range(self.num_layers):
            columns = self.input_size if layer == 0 else self.hidden_size
            of_layer = ((rows, columns), (rows, self.hidden_size), (rows,), (rows,))
            shapes |= zip(self._names(layer), of_layer, strict=False)  # the biases last, if any
        self._declare(shapes, uniform(1 / math.sqrt(self.hidden_size)), seed)
        self._start_caches()

    def _names(self, layer: int) -> tuple[str, ...]:
        """torch.nn's names of the fields of `Weights`."""
        fields = ("weight_ih", "weight_hh", "bias_ih", "bias_hh") if self.bias else ("weight_ih", "weight_hh")
        return tuple(f"{field}_l{layer}" for field in fields)

    def _start_caches(self) -> None:
        self._weights = [ops.LayerWeights(self._parameters, self._names(layer)) for layer in range(self.num_layers)]
        self._zeros: tuple[int, list[State]] = (-1, [])  # batch size, each layer's initial state where none is given

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in super().__getstate__().items() if name not in ("_weights", "_zeros")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._start_caches()

    def __repr__(self) -> str:
        options = "".join(
            f", {name}={value!r}"
            for name, value, default in (
                ("nonlinearity", getattr(self, "nonlinearity", None), None),
                ("num_layers", self.num_layers, 1),
                ("bias", self.bias, True),
                ("batch_first", self.batch_first, False),
                ("dtype", self.dtype.name, "float32"),
                ("backend", self.backend, None),
                ("num_threads", self.num_threads, None),
            )
            if value != default
        )
        return f"{type(self).__name__}({self.input_size}, {self.hidden_size}{options})"

    def __call__(self, x: Any, state: Any = None, *, lengths: Any = None) -> tuple[Array, Any]:
        """Run the sequence for its outputs only.

        Parameters
        ----------
        x
            (T, N, I), or (N, T, I) with `batch_first`, or (T, I) for a single sequence, of the module's dtype.
            An integer array of one dimension less holds token indices: each stands for its one-hot row, and a column
            of weight_ih takes the place of the input product.
        state
            The initial state, (L, N, H), or (L, H) for a single sequence: h_0, for LSTM the tuple (h_0, c_0).
            None means zeros.
        lengths
            Not implemented yet.

        Returns
        -------
        tuple
            y, x's shape with H in place of I, and the final state, shaped like `state`. T = 0 gives an empty y and
            the initial state.

        Raises
        ------
        TypeError
            If a dtype differs, or an argument is not an array.
        ValueError
            If a shape differs, or a token is out of range.
        """
        x, states, batched = self._take(x, state, lengths)
        if explain.WANTED:
            explain.say_once(self._explanation(x.shape[0], x.shape[1], tokens=x.ndim == 2, training=False))
        backend, num_threads = ops.choose(self.backend, self.num_threads)
        stamp = self._stamp()  # before weights are taken: they count as held
        states_n = []
        for weights, state_0 in zip(self._weights, states, strict=True):
            x, state_n = ops.infer(backend, self._cell, x, state_0, weights, stamp, num_threads)
            states_n.append(state_n)
        return self._to_caller(x, batched), self._join(states_n, batched)

    def forward(self, x: Any, state: Any = None, *, lengths: Any = None) -> tuple[Array, Any, Tape]:
        """Run the sequence and keep what `backward` needs.

        Parameters and errors are those of `__call__`.

        Returns
        -------
        tuple
            y, the final state, and the tape. The tape refers to x, y and the parameters without a copy: they must not
            change before `backward`; y is read-only for that reason.
        """
        x, states, batched = self._take(x, state, lengths)
        if state is not None:
            states = [tuple([s.copy() for s in state_0]) for state_0 in states]  # the tape outlives the caller's arrays
        if explain.WANTED:
            explain.say_once(self._explanation(x.shape[0], x.shape[1], tokens=x.ndim == 2, training=True))
        backend, num_threads = ops.choose(self.backend, self.num_threads)
        states_n, tapes = [], []
        for weights, state_0 in zip(self._weights, states, strict=True):
            x, state_n, tape = ops.forward(backend, self._cell, x, state_0, weights, num_threads)
            states_n.append(state_n)
            tapes.append(tape)
        x.flags.writeable = False
        y = self._to_caller(x, batched)
        return y, self._join(states_n, batched), Tape(self, tapes, y.shape)

    def backward(self, tape: Tape, dy: Any = None, dstate: Any = None) -> tuple[Array | None, Any, dict[str, Array]]:
        """Back-propagate through time: the exact gradients of everything that went into `forward`.

        Parameters
        ----------
        tape
            From `forward` of this module; it serves once.
        dy
            The loss's gradient with respect to y, of y's shape; None means zero.
        dstate
            The loss's gradient with respect to the final state, shaped like it: dh_n, for LSTM (dh_n, dc_n), each of
            which may be None for zero.

        Returns
        -------
        tuple
            dx (None for token input), the gradient of the initial state, and a dict of the parameters' gradients
            under the names of `parameters`.

        Raises
        ------
        ValueError
            If a shape differs, or the tape was used before or belongs to another module.
        TypeError
            If a dtype differs.
        """
        if not isinstance(tape, Tape):
            raise TypeError(f"tape is a {type(tape).__name__}; expected the tape that forward returned")
        if tape._module is not self:
            raise ValueError("tape is another module's; expected one from this module's forward")
        if not tape._layers:
            raise ValueError("tape was used before; expected a fresh one: backward works in place, run forward again")
        batched = len(tape._y_shape) == 3
        if dy is not None:
            dy = ops.as_real("dy", dy, self.dtype, tape._y_shape, "y's shape")
            if not batched:
                dy = dy[:, None]
            elif self.batch_first:
                dy = _to_time_major(dy)
        batch_size = tape._y_shape[0 if self.batch_first else 1] if batched else 1
        dstates = self._take_dstate(dstate, batch_size, batched)

        layers, tape._layers = tape._layers, []
        dstates_0, dweights = [], []
        dx: Array | None = dy
        for layer in reversed(range(self.num_layers)):
            at_layer = tuple([None if d is None else d[layer] for d in dstates])
            dx, dstate_0, of_weights = ops.backward(layers[layer], dx, at_layer)
            dstates_0.append(dstate_0)
            dweights.append(of_weights)
        grads: dict[str, Any] = {}
        for weights, of_weights in zip(self._weights, reversed(dweights), strict=True):
            grads.update(zip(weights.names, of_weights, strict=False))  # without bias there are more than names
        return (
            None if dx is None else self._to_caller(dx, batched),
            self._join(dstates_0[::-1], batched),
            grads,
        )

    def explain(self, shape: Sequence[int], *, tokens: bool = False, training: bool = False) -> str:
        """Say how a call on x of a shape would run here: what the backend chooses, how much work it is, what bounds it.

        With FASTRNN_EXPLAIN=1 in the environment every new kind of call says so on stderr.

        Parameters
        ----------
        shape
            Of x: (T, N, I), or (N, T, I) with `batch_first`, or (T, I); for tokens (T, N), (N, T) or (T,).
        tokens
            Whether x holds token indices.
        training
            Whether `forward` and `backward` are meant, not an inference call.

        Raises
        ------
        ValueError
            If no x can have this shape.
        """
        sizes = list(shape)[: len(shape) if tokens else -1]
        if len(sizes) not in (1, 2) or min(shape) < 0 or not (tokens or shape[-1] == self.input_size):
            letters = "(T, N) or (T,)" if tokens else f"(T, N, I) or (T, I), I = {self.input_size}"
            raise ValueError(f"shape is {tuple(shape)}; expected {letters}")
        steps, batch = sizes[::-1] if self.batch_first and len(sizes) == 2 else [*sizes, 1][:2]
        return self._explanation(steps, batch, tokens=tokens, training=training)

    def _explanation(self, steps: int, batch: int, *, tokens: bool, training: bool) -> str:
        backend, num_threads = ops.choose(self.backend, self.num_threads)
        kind = "training" if training else "inference"
        name = next(name for name, module in backends.BACKENDS.items() if module == backend.__name__)
        lines = [f"{self!r}, {kind}, T = {steps}, N = {batch}, backend {name}"]
        packed = self._stamp() is not None
        for layer, weights in enumerate(self._weights):
            lines += [f"layer {layer}"] if self.num_layers > 1 else []
            lines.append(
                explain.explain_layer(
                    backend,
                    self._cell,
                    weights.arrays(),
                    steps,
                    batch,
                    tokens=tokens and layer == 0,
                    training=training,
                    packed=packed,
                    num_threads=num_threads,
                )
            )
        return "\n".join(lines)

    def _take(self, x: Any, state: Any, lengths: Any) -> tuple[Array, list[State], bool]:
        """Validate what a call is given: x as (T, N, I) or tokens (T, N), each layer's state, whether it is a batch."""
        if lengths is not None:
            raise NotImplementedError("lengths is not implemented yet; expected None")
        batched = True
        if self.batch_first or not ops.are_ready((x,), self.dtype, (self.input_size,), 2):
            x, batched = self._take_input(x)
        batch_size = x.shape[1]
        if state is None:
            of_size, zeros = self._zeros  # read, and below written, at once: other threads do so too
            if of_size != batch_size:
                zero = np.zeros((batch_size, self.hidden_size), self.dtype)
                zero.flags.writeable = False  # one for all
                zeros = [(zero,) * len(self._cell.states)] * self.num_layers
                self._zeros = batch_size, zeros
            return x, zeros, batched
        shape = (self.num_layers, batch_size, self.hidden_size)
        states = self._as_states(self._cell.states_0, state, shape, batched)
        if self.num_layers > 1:
            per_layer = [tuple([s[layer] for s in states]) for layer in range(self.num_layers)]
        elif len(states) > 1:
            per_layer = [(states[0][0], states[1][0])]  # a comprehension costs more than the rest of the function
        else:
            per_layer = [(states[0][0],)]
        return x, per_layer, batched

    def _take_input(self, x: Any) -> tuple[Array, bool]:
        """Validate x; return it as (T, N, I) or tokens (T, N), and whether it came with a batch axis."""
        x = take_array("x", x)
        tokens = ops.is_tokens(x)
        features = 0 if tokens else 1
        batched = x.ndim == 2 + features
        if not batched and x.ndim != 1 + features:
            kind = "token indices" if tokens else "real input"
            letters = "(T, N) or (T,)" if tokens else f"(T, N, I) or (T, I), I = {self.input_size}"
            raise ValueError(f"x has shape {x.shape}; expected {letters} for {kind} (dtype {x.dtype})")
        if batched and self.batch_first:
            x = _to_time_major(x)
        if tokens:
            x = ops.as_tokens("x", x, self.input_size, "input_size")
        else:
            letters = "(T, N, I)" if batched else "(T, I)"
            x = ops.as_real("x", x, self.dtype, (self.input_size,), letters, free=x.ndim - 1)
        return x if batched else x[:, None], batched

    def _take_dstate(self, dstate: Any, batch_size: int, batched: bool) -> tuple[Array | None, ...]:
        """Validate the final state's gradient; None stands for zero in whole or in part."""
        names = self._cell.dstates_n
        if dstate is None:
            return (None,) * len(names)
        shape = (self.num_layers, batch_size, self.hidden_size)
        return self._as_states(names, dstate, shape, batched, optional=True)

    def _as_states(
        self, names: Sequence[str], values: Any, shape: tuple[int, int, int], batched: bool, *, optional: bool = False
    ) -> tuple[Any, ...]:
        if batched:
            return ops.as_states(names, values, self.dtype, shape, "(L*D, N, H)", optional=optional)
        states = ops.as_states(names, values, self.dtype, (shape[0], shape[2]), "(L*D, H)", optional=optional)
        return tuple([None if s is None else s[:, None] for s in states])

    def _to_caller(self, array: Array, batched: bool) -> Array:
        if not batched:
            return array[:, 0]
        return array.swapaxes(0, 1) if self.batch_first else array

    def _join(self, per_layer: list[State], batched: bool) -> Any:
        """Join the layers' (N, H) states to (L, N, H), in the form in which the caller gives them."""
        if len(per_layer) > 1:
            per_state = tuple([np.stack(layers) for layers in zip(*per_layer, strict=True)])
        elif len(per_layer[0]) > 1:
            h, c = per_layer[0]
            per_state = h[None], c[None]
        else:
            per_state = (per_layer[0][0][None],)
        if not batched:
            per_state = tuple([s[:, 0] for s in per_state])
        return per_state if len(per_state) > 1 else per_state[0]


def _to_time_major(array: Array) -> Array:
    return np.ascontiguousarray(array.swapaxes(0, 1))


def _not_yet(option: str, value: Any, default: Any) -> None:
    if value != default:
        raise NotImplementedError(f"{option}={value!r} is not implemented yet; expected {default!r}")


class RNN(_Recurrent):
    """An Elman RNN, h_t = tanh(W_ih x_t + b_ih + W_hh h_{t-1} + b_hh), over one or more layers.

    Parameters
    ----------
    input_size, hidden_size, num_layers
        I, H and L.
    bias
        Whether the layers have bias_ih and bias_hh.
    batch_first
        Whether x and y are (N, T, ...) instead of (T, N, ...). States never are.
    dropout, bidirectional
        Not implemented yet: anything but the default raises NotImplementedError.
    nonlinearity
        "tanh" or "relu".
    dtype
        float32 or float64, of the parameters and of everything that goes in and out.
    seed
        Of the initial parameters, anything `numpy.random.default_rng` takes; they are drawn from torch.nn's
        distribution, U(-1/sqrt(H), 1/sqrt(H)).
    backend
        "cython", "numba" or "numpy"; None leaves the choice to `fastrnn.use_backend`.
    num_threads
        The most threads a call may use; None leaves it to `fastrnn.set_num_threads`. It changes no bit of any result.

    Examples
    --------
    >>> import numpy as np, fastrnn
    >>> rnn = fastrnn.RNN(10, 20, seed=0)
    >>> y, h_n = rnn(np.zeros((5, 3, 10), np.float32))
    >>> y.shape, h_n.shape
    ((5, 3, 20), (1, 3, 20))
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        *,
        nonlinearity: str = "tanh",
        dtype: Any = "float32",
        seed: Any = None,
        backend: str | None = None,
        num_threads: int | None = None,
    ) -> None:
        if nonlinearity not in ("tanh", "relu"):
            raise ValueError(f"nonlinearity is {nonlinearity!r}; expected 'tanh' or 'relu'")
        self.nonlinearity = nonlinearity
        self._cell = CELLS[f"rnn_{nonlinearity}"]
        super().__init__(
            input_size,
            hidden_size,
            num_layers,
            bias,
            batch_first,
            dropout,
            bidirectional,
            dtype=dtype,
            seed=seed,
            backend=backend,
            num_threads=num_threads,
        )


class LSTM(_Recurrent):
    """A long short-term memory; see `fastrnn.cells` for its equations.

    The state is the tuple (h, c). Parameters are those of `RNN`, without `nonlinearity`, and

    Parameters
    ----------
    proj_size
        Not implemented yet: anything but 0 raises NotImplementedError.

    Examples
    --------
    >>> import numpy as np, fastrnn
    >>> lstm = fastrnn.LSTM(10, 20, num_layers=2, seed=0)
    >>> x = np.zeros((5, 3, 10), np.float32)
    >>> y, (h_n, c_n), tape = lstm.forward(x)
    >>> dx, (dh_0, dc_0), grads = lstm.backward(tape, dy=np.ones_like(y))
    >>> dx.shape, dc_0.shape, grads["weight_hh_l1"].shape
    ((5, 3, 10), (2, 3, 20), (80, 20))
    """

    _cell = CELLS["lstm"]

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        *,
        dtype: Any = "float32",
        seed: Any = None,
        backend: str | None = None,
        num_threads: int | None = None,
    ) -> None:
        _not_yet("proj_size", proj_size, 0)
        super().__init__(
            input_size,
            hidden_size,
            num_layers,
            bias,
            batch_first,
            dropout,
            bidirectional,
            dtype=dtype,
            seed=seed,
            backend=backend,
            num_threads=num_threads,
        )


class GRU(_Recurrent):
    """A gated recurrent unit, the variant of torch.nn and cuDNN; see `fastrnn.cells` for its equations.

    Parameters are those of `RNN`, without `nonlinearity`.

    Examples
    --------
    >>> import numpy as np, fastrnn
    >>> gru = fastrnn.GRU(10, 20, batch_first=True, seed=0)
    >>> y, h_n = gru(np.zeros((3, 5, 10), np.float32))
    >>> y.shape, h_n.shape
    ((3, 5, 20), (1, 3, 20))
    """

    _cell = CELLS["gru"]
