"""One LSTM, GRU or RNN of an ONNX file as fastrnn's modules, with the operator's complete semantics.

An operator's weights have a block for each direction, first axis D, and the biases of both products in one B. Its gates
come in another order::

    ONNX                          here
    LSTM  W (D, 4*H, I)  i o f c  weight_ih (4*H, I)  i f g o
    GRU   W (D, 3*H, I)  z r h    weight_ih (3*H, I)  r z n
    RNN   W (D, H, I)             weight_ih (H, I)
    P (D, 3*H)           i o f    unit (3, H)         p_i p_f p_o
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from onnx import NodeProto, helper

from fastrnn.cells import gru_with, lstm_with, rnn_with
from fastrnn.cells.library.activations import Activation, onnx_activations
from fastrnn.checks import check_choice, shown, take_array, take_integers
from fastrnn.modules import GRU, LSTM, RNN, Recurrent
from fastrnn.parameters import Array

__all__ = ["Node", "gates_of"]

Module = LSTM | GRU | RNN | Recurrent

#: By operator: the activations of a direction where a node names none.
ACTIVATIONS = {"LSTM": ("Sigmoid", "Tanh", "Tanh"), "GRU": ("Sigmoid", "Tanh"), "RNN": ("Tanh",)}
#: By operator: the order in which ONNX has the gates, under our names.
GATES = {"LSTM": "iofg", "GRU": "zrn", "RNN": "h"}
#: Inputs after X, W, R, B, sequence_lens and initial_h.
FURTHER = {"LSTM": ("initial_c", "P"), "GRU": (), "RNN": ()}
_KNOWN = {"activation_alpha", "activation_beta", "activations", "clip", "direction", "hidden_size", "layout"}
_ATTRIBUTES = {
    "LSTM": _KNOWN | {"input_forget", "output_sequence"},
    "GRU": _KNOWN | {"linear_before_reset", "output_sequence"},
    "RNN": _KNOWN | {"output_sequence"},
}
_NEWEST = 22  # the opset of the operators' last change
_FLOATS = {"float16": "float32", "float32": "float32", "float64": "float64"}  # of the file, and computed in


def gates_of(operator: str, order: Sequence[str], blocks: Array) -> Array:
    """Blocks (G*H, ...) of an operator's gates in another order, which may leave some out."""
    by_gate = dict(zip(GATES[operator], np.split(blocks, len(GATES[operator])), strict=True))
    return np.concatenate([by_gate[gate] for gate in order])


class Node:
    """A recurrent operator of ONNX on fastrnn's kernels.

    Calling it is running the operator. `load` and `InferenceSession` make them; one can be made of a node of `onnx` and
    of its weights, too.

    Parameters
    ----------
    node
        An LSTM, GRU or RNN.
    W, R
        Its weights, (D, G*H, I) and (D, G*H, H), of float16, float32 or float64.
    B, P
        Its biases (D, 2*G*H) and peepholes (D, 3*H), or None.

    Attributes
    ----------
    name, operator
        The node's name, and "LSTM", "GRU" or "RNN".
    modules
        The fastrnn modules that run it: one; or two, forward and reverse, where the directions differ in more than
        their weights. That of a node of direction "reverse" is run from the last step to the first.
    direction, layout
        As in the file.
    dtype
        Of X and Y. float16 is computed in float32.

    Raises
    ------
    ValueError
        If an attribute is not known, or the weights do not fit one another; the message names the node.

    Examples
    --------
    >>> import numpy as np, onnx.helper
    >>> rng = np.random.default_rng(0)
    >>> W, R = rng.normal(size=(1, 12, 3)), rng.normal(size=(1, 12, 4))
    >>> gru = Node(onnx.helper.make_node("GRU", "XWR", ["Y"], linear_before_reset=1, clip=2.0), W, R)
    >>> Y, Y_h = gru(rng.normal(size=(5, 2, 3)), sequence_lens=[5, 3])
    >>> Y.shape, Y_h.shape, gru.module
    ((5, 1, 2, 4), (1, 2, 4), Recurrent(gru_with(gate='sigmoid', candidate='tanh', reset='after', clip=2.0), 3, 4, \
bias=False, dtype='float64'))
    """

    def __init__(self, node: NodeProto, W: Any, R: Any, B: Any = None, P: Any = None, *, name: str = "") -> None:
        self.name, self.operator = name or node.name or node.op_type, check_choice("node", node.op_type, list(GATES))
        options: dict[str, Any] = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        unknown = sorted(options.keys() - _ATTRIBUTES[self.operator])
        if unknown:
            raise self._fault(f"the attribute {unknown[0]} is not known; expected those of opset {_NEWEST}")
        self.direction = options.get("direction", b"forward").decode()
        if self.direction not in ("forward", "reverse", "bidirectional"):
            raise self._fault(f"direction is {shown(self.direction)}; expected forward, reverse or bidirectional")
        self.layout = int(options.get("layout", 0))
        if self.layout not in (0, 1):
            raise self._fault(f"layout is {self.layout}; expected 0 or 1")
        weights = self._check_weights(options, W, R, B, P)
        self.modules = self._make(options, weights)

    @property
    def module(self) -> Module:
        """The module; ValueError where there are two."""
        if len(self.modules) > 1:
            raise self._fault("its directions have activations of their own, and so each a module: see modules")
        return self.modules[0]

    def __repr__(self) -> str:
        return f"<{self.operator} {self.name}, {self.direction}: {', '.join(map(repr, self.modules))}>"

    def _fault(self, message: str) -> ValueError:
        return ValueError(f"{self.operator} {self.name}: {message}")

    def _check_weights(self, options: Mapping[str, Any], W: Any, R: Any, B: Any, P: Any) -> dict[str, Array]:
        """The weights by input, of the dtype in which is computed; ValueError where they do not fit one another."""
        given = {"W": W, "R": R, "B": B, "P": P if self.operator == "LSTM" else None}
        weights = {key: np.asarray(value) for key, value in given.items() if value is not None}
        self.dtype = weights["W"].dtype
        for key, value in weights.items():
            if value.dtype.name not in _FLOATS or value.dtype != self.dtype:
                raise self._fault(
                    f"{key} has dtype {value.dtype}; expected float16, float32 or float64, the same for all weights"
                )
        D, G = 2 if self.direction == "bidirectional" else 1, len(GATES[self.operator])
        if weights["W"].ndim != 3 or weights["R"].ndim != 3:
            raise self._fault(f"W has {weights['W'].ndim} axes and R {weights['R'].ndim}; expected 3 each")
        I, H = weights["W"].shape[2], weights["R"].shape[2]
        stated = int(options.get("hidden_size", H))
        if stated != H:
            raise self._fault(f"hidden_size is {stated}, and R has {H} columns; expected the same")
        shapes = {"W": (D, G * H, I), "R": (D, G * H, H), "B": (D, 2 * G * H), "P": (D, 3 * H)}
        for key, value in weights.items():
            if value.shape != shapes[key]:
                raise self._fault(f"{key} has shape {value.shape}; expected {shapes[key]}")
        return {key: value.astype(_FLOATS[self.dtype.name]) for key, value in weights.items()}

    def _make(self, options: Mapping[str, Any], weights: Mapping[str, Array]) -> tuple[Module, ...]:
        """The modules, with their weights."""
        D, default = len(weights["W"]), ACTIVATIONS[self.operator]
        names = [name.decode() for name in options.get("activations", [])] or [*default * D]
        if len(names) != D * len(default):
            raise self._fault(f"activations has {len(names)} names; expected {len(default)} of each direction")
        try:
            found = onnx_activations(names, options.get("activation_alpha", ()), options.get("activation_beta", ()))
            of_directions = [found[: len(default)], found[len(default) :]][:D]
            peepholes = "P" in weights and bool(weights["P"].any())
            makers = [self._maker(activations, options, peepholes) for activations in of_directions]
        except ValueError as error:
            raise self._fault(str(error)) from None
        I, H = weights["W"].shape[2], weights["R"].shape[2]
        sizes = {"bias": "B" in weights, "batch_first": self.layout == 1, "dtype": weights["W"].dtype}
        alike = D == 1 or of_directions[0] == of_directions[1]
        modules: list[Module] = []
        for make in makers[:1] if alike else makers:
            modules.append(make(I, H, bidirectional=alike and D == 2, **sizes))
        for d in range(D):
            module, suffix = (modules[0], "_reverse" * d) if alike else (modules[d], "")
            self._fill(module, f"_l0{suffix}", {key: value[d] for key, value in weights.items()})
        return tuple(modules)

    def _maker(self, of: Sequence[Activation], options: Mapping[str, Any], peepholes: bool) -> Callable[..., Module]:
        """The built-in module where the node is plain, else one of a cell by options."""
        clip = float(options["clip"]) if "clip" in options else None
        plain = clip is None and of == onnx_activations(ACTIVATIONS[self.operator])
        if self.operator == "RNN":
            if clip is None and of[0].name in ("tanh", "relu"):
                return lambda I, H, **others: RNN(I, H, nonlinearity=of[0].name, **others)
            cell = rnn_with(*of, clip=clip)
        elif self.operator == "GRU":
            after = bool(options.get("linear_before_reset", 0))
            if plain and after:
                return GRU
            cell = gru_with(*of, reset="after" if after else "before", clip=clip)
        else:
            coupled = bool(options.get("input_forget", 0))
            if plain and not coupled and not peepholes:
                return LSTM
            cell = lstm_with(*of, clip=clip, coupled=coupled, peepholes=peepholes)
        return lambda *sizes, **others: Recurrent(cell, *sizes, **others)

    def _fill(self, module: Module, suffix: str, weights: Mapping[str, Array]) -> None:
        """Write the weights of a direction into its module."""
        gates = module._cell.gates
        parameters = module.parameters
        parameters[f"weight_ih{suffix}"] = gates_of(self.operator, gates, weights["W"])
        parameters[f"weight_hh{suffix}"] = gates_of(self.operator, gates, weights["R"])
        if "B" in weights:
            of_x, of_h = np.split(weights["B"], 2)
            parameters[f"bias_ih{suffix}"] = gates_of(self.operator, gates, of_x)
            parameters[f"bias_hh{suffix}"] = gates_of(self.operator, gates, of_h)
        if isinstance(module, Recurrent) and module.cell.parameters:
            p_i, p_o, p_f = np.split(weights["P"], 3)
            by_name = {"p_i": p_i, "p_f": p_f, "p_o": p_o}
            parameters[f"unit{suffix}"] = np.stack([by_name[name] for name in module.cell.parameters])

    def __call__(
        self, X: Any, sequence_lens: Any = None, initial_h: Any = None, initial_c: Any = None
    ) -> tuple[Array, ...]:
        """Run the operator.

        Parameters
        ----------
        X
            (T, N, I), of layout 1 (N, T, I), of the node's dtype.
        sequence_lens
            (N,) ints, or None for T each. Y is zero beyond them.
        initial_h, initial_c
            (D, N, H), of layout 1 (N, D, H); None for zeros. initial_c is an LSTM's alone.

        Returns
        -------
        tuple
            Y (T, D, N, H), of layout 1 (N, T, D, H); then Y_h and, of an LSTM, Y_c, shaped like initial_h, which
            are zero of a sequence of no steps, as in ONNX Runtime.

        Raises
        ------
        TypeError, ValueError
            If a dtype or shape is wrong.
        """
        of_file, inside = self.dtype, self.modules[0].dtype
        given = {"X": X, "initial_h": initial_h, "initial_c": initial_c}
        if initial_c is not None and self.operator != "LSTM":
            raise self._fault("initial_c is given; expected none, which an LSTM alone has")
        arrays = {key: take_array(key, value) for key, value in given.items() if value is not None}
        for key, value in arrays.items():
            if value.ndim != 3:
                raise self._fault(f"{key} has {value.ndim} axes; expected 3")
            if value.dtype != of_file:
                raise TypeError(f"{self.operator} {self.name}: {key} has dtype {value.dtype}; expected {of_file}")
            arrays[key] = value.astype(inside, copy=False)
        x = arrays["X"]
        lengths = None if sequence_lens is None else take_integers("sequence_lens", sequence_lens)
        names = ("initial_h", "initial_c")[: len(self.modules[0]._cell.states)]
        T, N = x.shape[self.layout], x.shape[1 - self.layout]
        H, D = self.modules[0].hidden_size, 2 if self.direction == "bidirectional" else 1
        if lengths is not None and (lengths.shape != (N,) or ((lengths < 0) | (lengths > T)).any()):
            raise self._fault(f"sequence_lens is {lengths.tolist()}; expected N = {N} numbers from 0 to T = {T}")
        states = None
        if any(name in arrays for name in names):
            zeros = np.zeros((N, D, H) if self.layout else (D, N, H), inside)
            states = [self._turned(arrays.get(name, zeros)) for name in names]
        y, after = self._run(x, states, lengths)
        y = y.reshape(*y.shape[:2], D, H)
        if not self.layout:
            y = y.swapaxes(1, 2)
        found = (y, *map(self._turned, after))
        return tuple(np.ascontiguousarray(value, of_file) for value in found)

    def _turned(self, state: Array) -> Array:
        """A state of the operator as one of modules, (D, N, H), and back."""
        return state.swapaxes(0, 1) if self.layout else state

    def _run(self, x: Array, states: list[Array] | None, lengths: Array | None) -> tuple[Array, tuple[Array, ...]]:
        """y as modules have it, and the states after."""
        both = self.direction == "bidirectional"
        found = []
        for d, module in enumerate(self.modules):
            reverse = self.direction == "reverse" or d == 1
            of_x = _reversed(x, lengths, self.layout) if reverse else x
            state = None if states is None else [s if len(self.modules) == 1 else s[d : d + 1] for s in states]
            given: Any = None if state is None else tuple(map(np.ascontiguousarray, state))
            y, after = module(of_x, given[0] if given and len(given) == 1 else given, lengths=lengths)
            after = after if isinstance(after, tuple) else (after,)
            if lengths is not None:
                for s in after:
                    s[:, lengths == 0] = 0
            found.append((_reversed(y, lengths, self.layout) if reverse else y, after))
        if len(found) == 1 or not both:
            return found[0]
        (y_forward, forward), (y_reverse, reverse_) = found
        together = tuple(np.concatenate(pair) for pair in zip(forward, reverse_, strict=True))
        return np.concatenate((y_forward, y_reverse), axis=2), together


def _reversed(x: Array, lengths: Array | None, layout: int) -> Array:
    """x (T, N, ...), of layout 1 (N, T, ...), with each sequence's steps from the last to the first, padding behind."""
    axis = layout
    if lengths is None:
        return np.ascontiguousarray(np.flip(x, axis))
    order = lengths - 1 - np.arange(x.shape[axis])[:, None]  # (T, N); below 0, from the end, where there is padding
    order = (order.T if layout else order)[:, :, None]
    return np.take_along_axis(x, order, axis)
