"""fastrnn's modules and models as ONNX files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, ValueInfoProto, helper

from fastrnn.checks import check_flag, check_integer, check_path, shown
from fastrnn.modules import GRU, LSTM, RNN, Recurrent
from fastrnn.onnx.graph import Graph
from fastrnn.onnx.operators import operator_of, write_operator
from fastrnn.onnx.scan import scan
from fastrnn.training import Dropout, Embedding, LanguageModel, Last, Linear, Sequential
from fastrnn.training.files import write_atomically

__all__ = ["export"]

_OLDEST = 14  # in which LSTM, GRU and RNN are as they are today


def export(model: Any, path: Any, *, opset: int = 17, lengths: bool = False, state: bool = False) -> None:
    """Write a module or model of fastrnn as an ONNX file.

    T and N are left open. LSTM, GRU and RNN, and cells by options whose activations ONNX has, become ONNX' operators;
    other cells, and projections, a Scan of their equations.

    Parameters
    ----------
    model
        A `fastrnn.LSTM`, `GRU`, `RNN` or `Recurrent`; or of `fastrnn.training` a `Sequential` of these, `Last`,
        `Embedding`, `Linear` and `Dropout`, or a `LanguageModel`.
    path
        Of the file.
    opset
        Of the operators, 14 or later.
    lengths
        Whether there is an input `lengths`, (N,) int32: how many steps each sequence has.
    state
        Whether a module, or a language model's, has inputs for its initial state, (L*D, N, H) each: `h_0`, `c_0`, or as
        its states are called. It has the final one as outputs `h_n`, `c_n` anyway.

    Raises
    ------
    TypeError
        If it is no module or model, or has a layer that ONNX cannot have.
    ValueError
        If the opset is not known, or `state` or `lengths` is asked of a model that takes none.

    Examples
    --------
    >>> import tempfile, numpy as np, fastrnn, fastrnn.onnx, onnxruntime
    >>> lstm = fastrnn.LSTM(3, 5, num_layers=2, bidirectional=True, seed=0)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     fastrnn.onnx.export(lstm, f"{folder}/lstm.onnx", lengths=True)
    ...     session = onnxruntime.InferenceSession(f"{folder}/lstm.onnx")
    >>> x, lengths = np.ones((7, 2, 3), np.float32), np.array([7, 4], np.int32)
    >>> y, h_n, c_n = session.run(None, {"x": x, "lengths": lengths})
    >>> np.allclose(y, lstm(x, lengths=lengths)[0], atol=1e-6)
    True
    """
    file, newest = check_path("path", path), onnx.defs.onnx_opset_version()
    version = check_integer("opset", opset)
    if not _OLDEST <= version <= newest:
        raise ValueError(f"opset is {version}; expected {_OLDEST} to {newest}, which onnx {onnx.__version__} knows")
    written = _Export(model, check_flag("lengths", lengths), check_flag("state", state)).model(version)
    onnx.checker.check_model(written, full_check=True)
    write_atomically(file, written.SerializeToString())


class _Export:
    """One model on its way."""

    def __init__(self, model: Any, lengths: bool, state: bool) -> None:
        self.graph = Graph()
        self.inputs: list[ValueInfoProto] = []
        self.outputs: list[ValueInfoProto] = []
        if state and not isinstance(model, (LSTM, GRU, RNN, Recurrent, LanguageModel)):
            raise ValueError(f"state is True, but {shown(model)} takes no state; expected a module or LanguageModel")
        taking = isinstance(model, (LSTM, GRU, RNN, Recurrent, LanguageModel)) or getattr(model, "takes_lengths", False)
        if lengths and not taking:
            raise ValueError(f"lengths is True, but {shown(model)} takes none; expected False")
        self.lengths = "lengths" if lengths else None
        self.state = state
        self._write(model)
        if lengths:
            self.inputs.append(helper.make_tensor_value_info("lengths", TensorProto.INT32, ["N"]))

    def model(self, opset: int) -> onnx.ModelProto:
        graph = helper.make_graph(self.graph.nodes, "fastrnn", self.inputs, self.outputs, self.graph.initializers)
        opsets = [helper.make_opsetid("", opset)]
        return helper.make_model(
            graph, opset_imports=opsets, ir_version=helper.find_min_ir_version_for(opsets), producer_name="fastrnn"
        )

    def _write(self, model: Any) -> None:
        first, leading = _first(model), ["T", "N"]
        if getattr(model, "batch_first", False) or getattr(first, "batch_first", False):
            leading = ["N", "T"]
        tokens = isinstance(first, Embedding) or isinstance(model, LanguageModel)
        if tokens:
            self.inputs.append(helper.make_tensor_value_info("tokens", TensorProto.INT64, leading))
            x = "tokens"
        else:
            size = first.in_features if isinstance(first, Linear) else _rnn_of(first).input_size
            self.inputs.append(self._value("x", _dtype_of(first), [*leading, size]))
            x = "x"
        finals: Mapping[str, str] = {}
        if isinstance(model, (LSTM, GRU, RNN, Recurrent)):
            y, finals = self._recurrent(model, x, "")
            self._output("y", y, model, [*leading, model.directions * model._output_size])
        elif isinstance(model, LanguageModel):
            y, finals = self._language_model(model, x)
            self._output("logits", y, model.rnn, _axes_after(model.head, [*leading, ""]))
        else:
            y = self._layer(model, x, "")
            self._output("y", y, first, _axes_after(model, leading))
        rnn: Any = getattr(model, "rnn", model)
        for name, value in finals.items():
            size = rnn._output_size if name == f"{rnn._cell.states[0]}_n" else rnn.hidden_size
            self._output(name, value, rnn, [rnn.num_layers * rnn.directions, "N", size])

    def _value(self, name: str, dtype: np.dtype[Any], shape: Any) -> ValueInfoProto:
        return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(dtype), shape)

    def _output(self, name: str, value: str, of: Any, shape: Any) -> None:
        self.graph.add("Identity", [value], outputs=[name])
        self.outputs.append(self._value(name, _dtype_of(of), shape))

    def _layer(self, layer: Any, x: str, prefix: str) -> str:
        """A layer of a model."""
        if isinstance(layer, Sequential):
            for name, part in layer.layers.items():
                if self.lengths and name in layer._padded and not isinstance(part, Dropout):
                    of_tokens = isinstance(_first(part), Embedding)
                    x = self._clear(x, None if of_tokens else _dtype_of(_first(part)), layer.batch_first)
                x = self._layer(part, x, f"{prefix}{name}/")
            return x
        if isinstance(layer, Last):
            rnn = layer.rnn
            _, finals = self._recurrent(rnn, x, prefix)
            h_n = finals[f"{rnn._cell.states[0]}_n"]
            last = self.graph.cut(h_n, (rnn.num_layers - 1) * rnn.directions, rnn.num_layers * rnn.directions)
            turned = self.graph.add("Transpose", [last], perm=[1, 0, 2])
            return self.graph.add("Flatten", [turned], axis=1)
        if isinstance(layer, (LSTM, GRU, RNN, Recurrent)):
            return self._recurrent(layer, x, prefix)[0]
        if isinstance(layer, Embedding):
            return self.graph.add("Gather", [self.graph.constant(layer.parameters["weight"], f"{prefix}weight"), x])
        if isinstance(layer, Linear):
            y = self.graph.add("MatMul", [x, self.graph.constant(layer.parameters["weight"].T, f"{prefix}weight")])
            if "bias" in layer.parameters:
                y = self.graph.add("Add", [y, self.graph.constant(layer.parameters["bias"], f"{prefix}bias")])
            return y
        if isinstance(layer, Dropout):
            return x
        raise TypeError(f"{prefix.rstrip('/') or 'model'} is {shown(layer)}; expected {_LAYERS}")

    def _clear(self, x: str, dtype: np.dtype[Any] | None, batch_first: bool) -> str:
        """What a layer before a recurrent one reads, vectors of a dtype or tokens, with zeros beyond the lengths."""
        g = self.graph
        real = g.real_steps(x, self.lengths or "", batch_first)
        if dtype is None:
            return g.add("Where", [real, x, g.constant(np.int64(0))])
        real = g.add("Unsqueeze", [real, g.constant(np.array([2]))])
        return g.add("Where", [real, x, g.constant(np.zeros((), dtype))])

    def _language_model(self, model: LanguageModel, tokens: str) -> tuple[str, Mapping[str, str]]:
        if not isinstance(model.head, Linear):
            raise TypeError(f"head is {shown(model.head)}; expected a Linear: ONNX has no adaptive softmax")
        x = tokens
        if self.lengths:
            x = self._clear(x, None, model.rnn.batch_first)
        if model.embedding is not None:
            x = self._layer(model.embedding, x, "embedding/")
        else:
            values = self.graph.constant(np.array([0, 1], model.rnn.dtype))
            x = self.graph.add("OneHot", [x, self.graph.constant(np.array([model.rnn.input_size])), values])
        y, finals = self._recurrent(model.rnn, x, "rnn/")
        return self._layer(model.head, y, "head/"), finals

    def _recurrent(self, rnn: Any, x: str, prefix: str) -> tuple[str, dict[str, str]]:
        """The layers of a module: y, and the final states by name."""
        g, D, cell = self.graph, rnn.directions, rnn._cell
        sizes = [rnn._output_size] + [rnn.hidden_size] * (len(cell.states) - 1)
        before = []
        if self.state:
            for name, size in zip(cell.states, sizes, strict=True):
                self.inputs.append(self._value(f"{name}_0", rnn.dtype, [rnn.num_layers * D, "N", size]))
                before.append(f"{name}_0")
        if rnn.batch_first:
            x = g.add("Transpose", [x], perm=[1, 0, 2])
        finals: list[list[str]] = [[] for _ in cell.states]
        native = operator_of(rnn)
        for layer in range(rnn.num_layers):
            states = [g.cut(name, layer * D, (layer + 1) * D) for name in before]
            if native is not None:
                x, after = write_operator(g, native, rnn, layer, x, self.lengths, states, prefix)
            else:
                x, after = scan(g, rnn, layer, x, self.lengths, states)
            for found, value in zip(finals, after, strict=True):
                found.append(value)
        y = g.add("Transpose", [x], perm=[1, 0, 2]) if rnn.batch_first else x
        together = [each[0] if len(each) == 1 else g.add("Concat", each, axis=0) for each in finals]
        return y, {f"{name}_n": value for name, value in zip(cell.states, together, strict=True)}


_LAYERS = "a module of fastrnn, or a Sequential of them, Last, Embedding, Linear and Dropout, or a LanguageModel"


def _first(model: Any) -> Any:
    """The layer that takes the input."""
    while isinstance(model, Sequential):
        model = next(layer for layer in model.layers.values() if not isinstance(layer, Dropout))
    return model


def _axes_after(layer: Any, axes: list[Any]) -> list[Any]:
    """The axes of what a layer makes of rows, x with the axes T and N, N and T, or N before its last, or of tokens."""
    if isinstance(layer, Sequential):
        for part in layer.layers.values():
            axes = _axes_after(part, axes)
        return axes
    if isinstance(layer, Dropout):
        return axes
    leading = [axis for axis in axes if axis in ("T", "N")]
    if isinstance(layer, Embedding):
        return [*leading, layer.embedding_dim]
    if isinstance(layer, Linear):
        return [*leading, layer.out_features]
    rnn = _rnn_of(layer)
    return [*(["N"] if isinstance(layer, Last) else leading), rnn.directions * rnn._output_size]


def _rnn_of(layer: Any) -> Any:
    rnn = layer.rnn if isinstance(layer, Last) else layer
    if not isinstance(rnn, (LSTM, GRU, RNN, Recurrent)):
        raise TypeError(f"model is {shown(rnn)}; expected {_LAYERS}")
    if rnn.quantized:
        raise TypeError(
            f"model has a quantized {type(rnn).__name__}; expected float32 weights: export what it was made of"
        )
    return rnn


def _dtype_of(layer: Any) -> np.dtype[Any]:
    dtype: np.dtype[Any] = layer.dtype if isinstance(layer, (Linear, Embedding)) else _rnn_of(layer).dtype
    return dtype
