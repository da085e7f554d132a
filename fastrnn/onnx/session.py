"""onnxruntime's session with the recurrent nodes on fastrnn's kernels."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper

from fastrnn.checks import check_flag, check_mapping, shown
from fastrnn.onnx.node import Node
from fastrnn.onnx.pieces import cut
from fastrnn.onnx.scope import is_quantized, is_recurrent, read_model

__all__ = ["Argument", "InferenceSession"]

_LARGEST = 2**31 - 1  # bytes of a model that can be handed over in memory
_MANY = 4096  # shapes to remember
_TURN = 5e-3  # seconds to measure a way for, but two runs at least
_GAIN = 0.97  # of onnxruntime's time must be left: less than that is noise


class Argument(NamedTuple):
    """An input or output, as onnxruntime describes it."""

    name: str
    type: str  # as in "tensor(float)"
    shape: list[Any]  # a number, a name, or None of what is not known


class InferenceSession:
    """Run an ONNX file as onnxruntime's class of this name does, its recurrent nodes on fastrnn's kernels.

    The graph is cut at its LSTM, GRU and RNN nodes whose weights are constants, also in the branches of If; onnxruntime
    runs what is between them. Nodes in the bodies of Loop and Scan, which would be cut once a step, and those whose
    weights come at run time, stay in onnxruntime.

    Not slower but by a microsecond or two: inputs of sizes that are new, to a factor of two, are run both ways for some
    milliseconds, and from then on in pieces where that is faster by three hundredths, twice. Numbers of the two are
    equal but in rounding.

    Parameters
    ----------
    path
        Of the file.
    sess_options, providers
        Of onnxruntime, for what it runs; providers are ``["CPUExecutionProvider"]`` unless given. A number of threads,
        `intra_op_num_threads`, goes for fastrnn, too.
    measure
        False runs all recurrent nodes here that can be, without a look at the time: the same bits on every run.
    quantized
        True runs DynamicQuantizeLSTM nodes here, too. Both ways round x and h to 8 bits, onnxruntime all rows of a step
        by one scale, fastrnn each by its own: numbers then differ by some thousandths.

    Attributes
    ----------
    nodes
        The recurrent nodes that can run here, as `fastrnn.onnx.load` gives them.

    Raises
    ------
    FileNotFoundError, ValueError
        As of `fastrnn.onnx.load`.

    Examples
    --------
    >>> import tempfile, numpy as np, fastrnn, fastrnn.onnx
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     fastrnn.onnx.export(fastrnn.GRU(3, 5, seed=0), f"{folder}/gru.onnx")
    ...     session = fastrnn.onnx.InferenceSession(f"{folder}/gru.onnx")
    >>> y, h_n = session.run(None, {"x": np.ones((7, 2, 3), np.float32)})
    >>> y.shape, [argument.name for argument in session.get_outputs()], list(session.nodes)
    ((7, 2, 5), ['y', 'h_n'], ['gru_l0'])
    """

    def __init__(
        self,
        path: Any,
        sess_options: Any = None,
        providers: Sequence[Any] | None = None,
        *,
        measure: bool = True,
        quantized: bool = False,
    ) -> None:
        import onnxruntime

        model = read_model(path)
        constants = {tensor.name for tensor in model.graph.initializer}
        self._inputs = [_argument(value) for value in model.graph.input if value.name not in constants]
        self._outputs = [_argument(value) for value in model.graph.output]
        self._defaults = {value.name for value in model.graph.input} & constants  # which a caller may replace
        self._measure, quantized = check_flag("measure", measure), check_flag("quantized", quantized)
        providers = ["CPUExecutionProvider"] if providers is None else list(providers)
        self._chosen: dict[tuple[Any, ...], Any] = {}  # by sizes to a factor of two, how to run them
        self._ways: dict[tuple[Any, ...], Any] = {}  # by shapes

        def start(source: Any, options: Any) -> Any:
            return onnxruntime.InferenceSession(source, options, providers=providers)

        def start_piece(piece: ModelProto) -> Any:
            options = sess_options
            if options is None:
                options = onnxruntime.SessionOptions()
                # Its threads would spin on while fastrnn's run.
                options.add_session_config_entry("session.intra_op.allow_spinning", "0")
            return start(piece.SerializeToString(), options)

        def taken(node: NodeProto) -> bool:
            return is_recurrent(node) or (quantized and is_quantized(node))

        self._pieces = cut(model, start_piece, taken) if model.ByteSize() < _LARGEST else None
        self.nodes: dict[str, Node] = {} if self._pieces is None else self._pieces.nodes
        threads = 0 if sess_options is None else sess_options.intra_op_num_threads
        # Of one thread its own time is known, whatever else the machine does.
        known = threads == 1 and time.get_clock_info("thread_time").resolution < 1e-6
        self._clock = time.thread_time if known else time.perf_counter
        for node in self.nodes.values():
            for module in node.modules:
                module.num_threads = threads or None
        self._whole: Any = None
        if measure or not self.nodes or self._defaults:
            try:
                self._whole = start(str(path), sess_options)
            except Exception:  # onnxruntime's have no class in common; layout 1 is one that it cannot run
                if not self.nodes:
                    raise

    def get_inputs(self) -> list[Argument]:
        """Return name, type and shape of each input."""
        return list(self._inputs)

    def get_outputs(self) -> list[Argument]:
        """Return name, type and shape of each output."""
        return list(self._outputs)

    def run(
        self, output_names: Iterable[str] | None, input_feed: Mapping[str, Any], run_options: Any = None
    ) -> list[Any]:
        """Run the model.

        Parameters
        ----------
        output_names
            Those that are wanted; None for all.
        input_feed
            The inputs by name.
        run_options
            Of onnxruntime, for what it runs.

        Returns
        -------
        list
            The outputs in their order.

        Raises
        ------
        ValueError
            If an input is missing or not known, or an output is not known.
        """
        shapes = tuple([(name, getattr(value, "shape", None)) for name, value in input_feed.items()])
        way = self._ways.get(shapes)
        if way is None or output_names is not None:
            self._check(output_names, input_feed)
        if way is None:
            if len(self._ways) >= _MANY:
                self._ways.clear()
            way = self._ways[shapes] = self._choose(input_feed, run_options)
        return way.run(output_names, input_feed, run_options)  # type: ignore[no-any-return]

    def _check(self, output_names: Iterable[str] | None, input_feed: Any) -> None:
        check_mapping("input_feed", input_feed, "the inputs by name")
        known = [argument.name for argument in self._outputs]
        for name in output_names or ():
            if name not in known:
                raise ValueError(f"output_names has {shown(name)}; expected of {', '.join(known)}")
        wanted = {argument.name for argument in self._inputs}
        if wanted - input_feed.keys() or input_feed.keys() - wanted - self._defaults:
            raise ValueError(
                f"input_feed has {', '.join(map(str, input_feed)) or 'nothing'}; expected {', '.join(sorted(wanted))}"
            )

    def _choose(self, feed: Mapping[str, Any], run_options: Any) -> Any:
        """The way that is to run inputs of these shapes: whole, or in pieces."""
        if self._pieces is None or self._defaults & feed.keys():
            return self._whole
        if self._whole is None or not self._measure:
            return self._pieces
        sizes = tuple([(name, np.size(feed[name]).bit_length()) for name in sorted(feed)])
        if sizes not in self._chosen:
            turns = (
                self._turn(self._pieces, feed, run_options) < _GAIN * self._turn(self._whole, feed, run_options)
                for _ in range(2)  # chance seldom strikes twice
            )
            self._chosen[sizes] = self._pieces if all(turns) else self._whole
        return self._chosen[sizes]

    def _turn(self, way: Any, feed: Mapping[str, Any], run_options: Any) -> float:
        """The seconds of the fastest of some runs: the first may meet threads that spin on after the other way's."""
        seconds: list[float] = []
        while len(seconds) < 2 or sum(seconds) < _TURN:
            start = self._clock()
            way.run(None, feed, run_options)
            seconds.append(self._clock() - start)
        return min(seconds)


def _argument(value: ValueInfoProto) -> Argument:
    """What onnxruntime says of an input or output."""
    of = value.type.tensor_type
    names = {TensorProto.FLOAT: "float", TensorProto.DOUBLE: "double", TensorProto.STRING: "string"}
    kind = names.get(of.elem_type) or helper.tensor_dtype_to_np_dtype(of.elem_type).name
    dims = [dim.dim_value if dim.HasField("dim_value") else dim.dim_param or None for dim in of.shape.dim]
    return Argument(value.name, f"tensor({kind})", dims)
