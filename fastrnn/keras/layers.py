"""Keras' LSTM, GRU and SimpleRNN, whose loop over the steps fastrnn's kernels run where they can, else Keras itself.

Everything around the loop is Keras' own: weights, their initializers, regularizers and constraints, initial states,
stateful ones, seeds of dropout, configurations, files. So training moves the same variables by the same rules: an LSTM
has one bias, as in Keras, and what the kernels take for a second one is a constant zero.
"""

from __future__ import annotations

import functools
import warnings
import weakref
from dataclasses import replace
from importlib import import_module
from types import ModuleType
from typing import Any

import keras
from keras import activations, ops

from fastrnn.cells import CELLS, Cell, cell
from fastrnn.cells.library import gru_with, lstm_with, rnn_with
from fastrnn.cells.library.activations import KERAS, Activation, keras_activation
from fastrnn.cells.library.gru import reset_before_gru
from fastrnn.keras.spec import Spec

__all__ = ["GRU", "LSTM", "OnKernels", "SimpleRNN"]

BACKENDS = ("torch", "jax", "tensorflow")
CELL_CLASSES = (keras.layers.LSTMCell, keras.layers.GRUCell, keras.layers.SimpleRNNCell)
ALIKE = {ops.tanh: activations.tanh, ops.sigmoid: activations.sigmoid, ops.relu: activations.relu}


@functools.cache
def _backend() -> ModuleType:
    """How Keras' backend, of which a process has one, calls the kernels."""
    return import_module(f"fastrnn.keras.on_{keras.backend.backend()}")


@functools.cache
def _activation(function: Any) -> Activation | None:
    """What the kernels have for one of Keras' activations, or None."""
    function = ALIKE.get(function, function)
    name = activations.serialize(function)
    known = isinstance(name, str) and name in KERAS and activations.get(name) is function
    return keras_activation(name) if known else None


class OnKernels(keras.layers.RNN):  # type: ignore[misc]
    """The loop over the steps; the next of a class's bases is one of Keras' layers."""

    drops_at_1 = False  # whether Keras drops all at a rate of 1, or nothing

    def _kernel_cell(self) -> Cell | None:
        """The cell of fastrnn that computes what Keras' does, or None."""
        raise NotImplementedError

    def _dropped_cell(self) -> Cell | None:
        """The same with recurrent_dropout, or None."""
        return None

    def _kernel_order(self, columns: Any) -> Any:
        """Columns by Keras' gates, in the order of fastrnn's."""
        return columns

    @property
    def supports_jit(self) -> bool:
        """Whether TensorFlow's XLA may compile a model with the layer. It cannot call the kernels."""
        theirs: bool = self.__dict__.get("supports_jit", True)
        return theirs and (keras.backend.backend() != "tensorflow" or self.why_not() is not None)

    @supports_jit.setter
    def supports_jit(self, value: bool) -> None:
        self.__dict__["supports_jit"] = value

    def why_not(self) -> str | None:
        """Why the kernels do not run the layer, whatever it is called with, or None."""
        cell, backend = self.cell, keras.backend.backend()
        if backend not in BACKENDS:
            return f"run on Keras' backends {', '.join(BACKENDS)}, not on {backend}"
        if type(cell) not in CELL_CLASSES:
            return f"do not know what a {type(cell).__name__} computes"
        if self._kernel_cell() is None:
            names = [name for name in ("activation", "recurrent_activation") if hasattr(cell, name)]
            return f"have no cell with {', '.join(f'{name}={_name(getattr(cell, name))}' for name in names)}"
        if cell.compute_dtype != cell.variable_dtype or cell.compute_dtype not in ("float32", "float64"):
            return f"compute in float32 or float64, not by the dtype policy {cell.dtype_policy.name}"
        reason: str | None = _backend().why_not()
        return reason

    def _why_not_this_call(self, sequences: Any, training: bool) -> str | None:
        """Why the kernels do not run a call, or None."""
        known = self._cell_of_call(training)
        if known is None:
            return "drop h once for all gates; recurrent_dropout has a mask a gate, so while training Keras' loop runs"
        if 0 in sequences.shape:
            return "take no empty input"
        reason: str | None = _backend().why_not_this_call(known, sequences)
        return reason

    def _is_dropping(self, rate: float, training: bool) -> bool:
        """Whether a dropout of Keras' does anything."""
        return training and (0 < rate < 1 or (rate == 1 and self.drops_at_1))

    def _cell_of_call(self, training: bool) -> Cell | None:
        """The kernels' cell with what Keras drops in training, or None."""
        is_dropping = self._is_dropping(self.cell.recurrent_dropout, training)
        return self._dropped_cell() if is_dropping else self._kernel_cell()

    def inner_loop(self, sequences: Any, initial_state: Any, mask: Any, training: bool = False) -> Any:
        """Run the steps: the last output, all outputs, and the final states, as Keras has them."""
        reason = self.why_not() or self._why_not_this_call(sequences, training)
        if reason:
            self._warn(reason)
            return super().inner_loop(sequences, initial_state, mask=mask, training=training)
        cell, states = self.cell, keras.tree.flatten(initial_state)
        if self.stateful and keras.backend.backend() == "torch":
            states = [ops.copy(state) for state in states]  # Keras writes to its variables before there is a gradient
        x = ops.cast(sequences, cell.compute_dtype)
        mask = self._as_mask(mask, x)
        kernel = ops.convert_to_tensor(cell.kernel)
        if self._is_dropping(cell.dropout, training):
            x, kernel = self._drop(x, kernel)
        dropped = None
        if self._is_dropping(cell.recurrent_dropout, training):
            dropped = cell.get_recurrent_dropout_mask(states[0])
        weights = [self._kernel_order(kernel), self._kernel_order(ops.convert_to_tensor(cell.recurrent_kernel))]
        weights = [ops.transpose(columns) for columns in weights]
        if cell.bias is not None:
            weights += self._biases(ops.convert_to_tensor(cell.bias))
        known = self._cell_of_call(training)
        assert known is not None  # as `_why_not_this_call` has seen
        spec = Spec(known, self.go_backwards, self.return_sequences, bool(training), not self.zero_output_for_mask)
        y, states_n = _backend().run(spec, x, mask, dropped, states, weights, self._warn)
        return *self._outputs(y, states[0], states_n[0], mask), states_n

    def _as_mask(self, mask: Any, x: Any) -> Any:
        """The mask as bools (N, T), or None; ValueError if it has another shape."""
        mask = next(iter(keras.tree.flatten(mask)), None)
        if mask is None:
            return None
        mask = ops.cast(mask, "bool")
        if len(mask.shape) == 3 and mask.shape[2] == 1:
            mask = ops.squeeze(mask, 2)
        wanted = tuple(x.shape[:2])
        if len(mask.shape) != 2 or any(
            a not in (b, None) for a, b in zip(mask.shape, wanted, strict=True) if b is not None
        ):
            raise ValueError(
                f"the mask of {type(self).__name__} {self.name!r} has shape {tuple(mask.shape)}; "
                f"expected (N, T) = {wanted}"
            )
        return mask

    def _drop(self, x: Any, kernel: Any) -> tuple[Any, Any]:
        """The input with its dropout, which is that of all steps.

        With implementation=1 each gate has its own: then x is the inputs of all gates side by side, (N, T, G*I), and
        the kernel has blocks on its diagonal, (G*I, G*H).
        """
        kept = self.cell.get_dropout_mask(x[:, 0, :])
        if not isinstance(kept, (list, tuple)):
            return x * ops.expand_dims(kept, 1), kernel
        gates, H = len(kept), self.cell.units
        x = ops.concatenate([x * ops.expand_dims(its, 1) for its in kept], axis=2)
        columns = ops.split(kernel, gates, axis=1)
        blocks = [ops.pad(its, ((0, 0), (at * H, (gates - 1 - at) * H))) for at, its in enumerate(columns)]
        return x, ops.concatenate(blocks, axis=0)

    def _biases(self, bias: Any) -> list[Any]:
        """bias_ih and bias_hh."""
        bias = self._kernel_order(bias)
        if len(bias.shape) == 2:
            return [bias[0], bias[1]]
        return [bias, ops.zeros_like(bias)]

    def _outputs(self, y: Any, h_0: Any, h_n: Any, mask: Any) -> tuple[Any, Any]:
        """The last output (N, H) and all of them (N, T, H), of which there is but the last if no others are wanted.

        Where all steps so far are masked, and these are not to be zero, JAX's backend has the initial state, the others
        zero.
        """
        hold, of_state = not self.zero_output_for_mask, keras.backend.backend() == "jax"
        if self.return_sequences:
            if mask is not None and hold and of_state:
                steps = ops.flip(mask, 1) if self.go_backwards else mask
                begun = ops.cumsum(ops.cast(steps, "int32"), axis=1) > 0
                y = ops.where(ops.expand_dims(begun, 2), y, ops.expand_dims(h_0, 1))
            return y[:, -1], y
        last = h_n
        if mask is not None and not (hold and of_state):
            run = ops.any(mask, axis=1) if hold else mask[:, 0 if self.go_backwards else -1]
            last = ops.where(ops.expand_dims(run, 1), h_n, ops.zeros_like(h_n))
        return last, ops.expand_dims(last, 1)

    def _warn(self, reason: str) -> None:
        """Say once a layer and reason that Keras' own path is taken, and why: what the kernels do not do."""
        said = _said.setdefault(self, set())
        if reason not in said:
            said.add(reason)
            kind = type(self).__name__
            warnings.warn(
                f"fastrnn.keras.{kind} {self.name!r} stays on Keras' own path: fastrnn's kernels {reason}", stacklevel=2
            )


@functools.cache
def _lstm(activation: Any, recurrent_activation: Any) -> Cell | None:
    function, gate = _activation(activation), _activation(recurrent_activation)
    if function is None or gate is None:
        return None
    return CELLS["lstm"] if (function.name, gate.name) == USUAL else lstm_with(gate, function, function)


@functools.cache
def _gru(activation: Any, recurrent_activation: Any, reset_after: bool) -> Cell | None:
    function, gate = _activation(activation), _activation(recurrent_activation)
    if function is None or gate is None:
        return None
    if (function.name, gate.name) == USUAL:
        return CELLS["gru"] if reset_after else reset_before_gru
    return gru_with(gate, function, reset="after" if reset_after else "before")


@functools.cache
def _simple_rnn(activation: Any) -> Cell | None:
    function = _activation(activation)
    if function is None:
        return None
    name = f"rnn_{function.name}"
    return CELLS[name] if name in CELLS else rnn_with(function)


@functools.cache
def dropped_rnn(function: Activation) -> Cell:
    """An RNN whose product takes h times a mask, the same at all steps."""

    def rnn(a: Any, prev: Any, e: Any) -> Any:
        return function(a.h(e.drop(prev.h)))

    return replace(cell(gates="h", dropout={"drop": "sequence"})(rnn), name=f"dropped_rnn({function})")


USUAL = ("tanh", "sigmoid")
_said: weakref.WeakKeyDictionary[OnKernels, set[str]] = weakref.WeakKeyDictionary()


def _name(activation: Any) -> str:
    return repr(activations.serialize(activation))


@keras.saving.register_keras_serializable("fastrnn")
class LSTM(OnKernels, keras.layers.LSTM):  # type: ignore[misc]
    """keras.layers.LSTM on fastrnn's kernels.

    Arguments, variables, calls, results and files are those of keras.layers.LSTM, which it is a subclass of. The
    kernels run float32 and float64 on the CPU, with Keras' activations of single units, masks anywhere in the
    sequence, any state, dropout, in either direction, forward and backward; on Keras' torch, JAX and TensorFlow
    backends, eager and compiled. All else (activations of your own, softmax, recurrent_dropout of an LSTM or GRU while
    training, other dtypes, a GPU) runs on Keras' own path, and a warning says why, once a layer.

    On TensorFlow, XLA cannot compile a model with it: Keras then takes jit_compile=False. On TensorFlow and JAX there
    is no second derivative. ``use_cudnn`` and ``implementation`` make no difference but in how dropout is drawn.

    Examples
    --------
    >>> import numpy as np, fastrnn.keras
    >>> lstm = fastrnn.keras.LSTM(20, return_state=True)
    >>> y, h_n, c_n = lstm(np.zeros((3, 5, 10), np.float32))
    >>> tuple(y.shape), tuple(c_n.shape)
    ((3, 20), (3, 20))
    """

    def _kernel_cell(self) -> Cell | None:
        return _lstm(self.cell.activation, self.cell.recurrent_activation)


@keras.saving.register_keras_serializable("fastrnn")
class GRU(OnKernels, keras.layers.GRU):  # type: ignore[misc]
    """keras.layers.GRU on fastrnn's kernels, with reset_after or without; see `LSTM`.

    Examples
    --------
    >>> import numpy as np, fastrnn.keras
    >>> gru = fastrnn.keras.GRU(20, return_sequences=True)
    >>> tuple(gru(np.zeros((3, 5, 10), np.float32)).shape)
    (3, 5, 20)
    """

    def _kernel_cell(self) -> Cell | None:
        return _gru(self.cell.activation, self.cell.recurrent_activation, self.cell.reset_after)

    def _kernel_order(self, columns: Any) -> Any:
        z, r, h = ops.split(columns, 3, axis=-1)
        return ops.concatenate([r, z, h], axis=-1)


@keras.saving.register_keras_serializable("fastrnn")
class SimpleRNN(OnKernels, keras.layers.SimpleRNN):  # type: ignore[misc]
    """keras.layers.SimpleRNN on fastrnn's kernels, see `LSTM`.

    Examples
    --------
    >>> import numpy as np, fastrnn.keras
    >>> rnn = fastrnn.keras.SimpleRNN(20, activation="relu")
    >>> tuple(rnn(np.zeros((3, 5, 10), np.float32)).shape)
    (3, 20)
    """

    drops_at_1 = True

    def _kernel_cell(self) -> Cell | None:
        return _simple_rnn(self.cell.activation)

    def _dropped_cell(self) -> Cell | None:
        function = _activation(self.cell.activation)
        return None if function is None else dropped_rnn(function)
