"""onnxruntime's session with the recurrent nodes on fastrnn's kernels."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper

from fastrnn.checks import check_flag, check_mapping, shown
from fastrnn.onnx.loading import take_node
from fastrnn.onnx.node import Node
from fastrnn.onnx.scope import DRAWN, Scope, is_recurrent, opset_of, read_model

__all__ = ["Argument", "InferenceSession"]

_LARGEST = 2**31 - 1  # bytes of a model that can be handed over in memory
_MANY = 4096  # shapes to remember


class Argument(NamedTuple):
    """An input or output, as onnxruntime describes it."""

    name: str
    type: str  # as in "tensor(float)"
    shape: list[Any]  # a number, a name, or None of what is not known


class InferenceSession:
    """Run an ONNX file as onnxruntime's class of this name does, its recurrent nodes on fastrnn's kernels.

    The graph is cut at its LSTM, GRU and RNN nodes whose weights are constants; onnxruntime runs what is between them.
    Nodes in branches and loop bodies, and those whose weights come at run time, stay in onnxruntime.

    Not slower but by a microsecond or two: inputs of sizes that are new, to a factor of two, are run both ways three
    times, and from then on the faster way. Numbers of the two are equal but in rounding.

    Parameters
    ----------
    path
        Of the file.
    sess_options, providers
        Of onnxruntime, for what it runs; providers are ``["CPUExecutionProvider"]`` unless given. A number of threads,
        `intra_op_num_threads`, goes for fastrnn, too.
    measure
        False runs all recurrent nodes here that can be, without a look at the time: the same bits on every run.

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
        self, path: Any, sess_options: Any = None, providers: Sequence[Any] | None = None, *, measure: bool = True
    ) -> None:
        import onnxruntime

        model = read_model(path)
        constants = {tensor.name for tensor in model.graph.initializer}
        self._inputs = [_argument(value) for value in model.graph.input if value.name not in constants]
        self._outputs = [_argument(value) for value in model.graph.output]
        self._defaults = {value.name for value in model.graph.input} & constants  # which a caller may replace
        self._measure = check_flag("measure", measure)
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

        self._pieces = _cut(model, start_piece) if model.ByteSize() < _LARGEST else None
        self.nodes: dict[str, Node] = {} if self._pieces is None else self._pieces.nodes
        threads = 0 if sess_options is None else sess_options.intra_op_num_threads
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
            ways = self._whole, self._pieces
            seconds = [float("inf"), float("inf")]
            for which in (1, 1, 1, 0, 0, 0):  # not in turns: onnxruntime's threads spin on for a while
                start = time.perf_counter()
                ways[which].run(None, feed, run_options)
                seconds[which] = min(seconds[which], time.perf_counter() - start)
            self._chosen[sizes] = ways[seconds[1] < seconds[0]]
        return self._chosen[sizes]


class _Step(NamedTuple):
    """A piece of the graph that onnxruntime runs, or a recurrent node."""

    inputs: list[str]
    outputs: list[str]  # "" of a node's that nobody has
    run: Callable[[list[Any], Any], Sequence[Any]]


class _Pieces:
    """A graph that is cut at its recurrent nodes."""

    def __init__(
        self, steps: list[_Step], nodes: dict[str, Node], constants: Mapping[str, Any], outputs: list[str]
    ) -> None:
        self.steps, self.nodes, self.constants, self.outputs = steps, nodes, constants, outputs

    def run(self, names: Iterable[str] | None, feed: Mapping[str, Any], run_options: Any) -> list[Any]:
        """The outputs of these names, or all."""
        values = {**self.constants, **feed}
        for step in self.steps:
            found = step.run([values[name] if name else None for name in step.inputs], run_options)
            values.update(zip(step.outputs, found, strict=False))
        return [values[name] for name in (self.outputs if names is None else names)]


def _cut(model: ModelProto, start: Callable[[ModelProto], Any]) -> _Pieces | None:
    """The model in pieces; None if nothing is to be cut out, or the type of a value between pieces is not known."""
    graph, scope = model.graph, Scope(model.graph, opset_of(model))
    moved: dict[int, Node] = {}
    for k, node in enumerate(graph.node):
        if is_recurrent(node):
            try:
                moved[k] = take_node(scope, node, node.name or next(filter(None, node.output)))
            except ValueError:
                continue  # which onnxruntime runs, or says why it cannot
    if not moved:
        return None
    uses = [_names_of(node, k in moved) for k, node in enumerate(graph.node)]
    outputs = [value.name for value in graph.output]

    # What is wanted, from behind.
    wanted, needed = set(outputs), set[int]()
    for k in reversed(range(len(graph.node))):
        if wanted & set(graph.node[k].output):
            needed.add(k)
            wanted |= uses[k]
    constants = {tensor.name for tensor in graph.initializer}
    constants |= {tensor.values.name for tensor in graph.sparse_initializer}

    # How many recurrent nodes, one behind the other, come before: pieces are of nodes of one such level.
    level: dict[str, int] = {}
    makers: dict[str, int] = {}  # of what is constant
    levels: dict[int, list[int]] = {}
    for k in sorted(needed):
        node = graph.node[k]
        if uses[k] <= constants | makers.keys() and k not in moved and node.op_type not in DRAWN:
            makers |= dict.fromkeys(node.output, k)
            continue
        at = max((level.get(name, 0) for name in uses[k]), default=0)
        levels.setdefault(at, []).append(k)
        level |= dict.fromkeys(node.output, at + (k in moved))
    types = _types(model, moved)
    given = {value.name: value for value in graph.input}

    steps, nodes = [], {}
    for at in sorted(levels):
        here = [k for k in levels[at] if k not in moved]
        made = {name for k in here for name in graph.node[k].output if name}
        others = [uses[k] for k in needed if k not in here] + [set(outputs)]
        leaving = sorted(made & set().union(*others))
        if leaving:
            entering = sorted(set().union(*(uses[k] for k in here)) - made - constants - makers.keys())
            if any(name not in given and name not in types for name in entering):
                return None
            values = [given[name] if name in given else types[name] for name in entering]
            piece = _piece(model, _with_constants(here, uses, makers), values, leaving)
            steps.append(_Step(entering, leaving, _runner(start(piece), entering, leaving)))
        for k in levels[at]:
            if k in moved:
                node, inputs = moved[k], [*graph.node[k].input, *[""] * 8]
                nodes[node.name] = node
                names = [inputs[0], *inputs[4:7]]
                steps.append(_Step(names, list(graph.node[k].output), _runner_of_node(node)))
    known = {name: scope.value(name) for name in outputs if name in constants | makers.keys()}
    return _Pieces(steps, nodes, known, outputs)


def _runner(session: Any, entering: list[str], leaving: list[str]) -> Callable[[list[Any], Any], Sequence[Any]]:
    return lambda values, options: session.run(leaving, dict(zip(entering, values, strict=True)), options)


def _runner_of_node(node: Node) -> Callable[[list[Any], Any], Sequence[Any]]:
    return lambda values, _: node(*values)


def _names_of(node: NodeProto, moved: bool) -> set[str]:
    """What a node reads at run time, in its branches and bodies, too; of a moved one what are not its weights."""
    inputs = [*node.input[:1], *node.input[4:7]] if moved else node.input
    found = {name for name in inputs if name}
    for attribute in node.attribute:
        graphs = [attribute.g] if attribute.type == AttributeProto.GRAPH else list(attribute.graphs)
        for graph in graphs:
            own = {tensor.name for tensor in graph.initializer} | {value.name for value in graph.input}
            own |= {name for inner in graph.node for name in inner.output}
            used = set().union(*(_names_of(inner, False) for inner in graph.node), (v.name for v in graph.output))
            found |= used - own
    return found


def _with_constants(nodes: list[int], uses: list[set[str]], makers: Mapping[str, int]) -> list[int]:
    """Nodes with those that make their constants, in the graph's order."""
    found, left = set(nodes), list(nodes)
    while left:
        for name in uses[left.pop()]:
            if name in makers and makers[name] not in found:
                found.add(makers[name])
                left.append(makers[name])
    return sorted(found)


def _types(model: ModelProto, moved: Mapping[int, Node]) -> dict[str, ValueInfoProto]:
    """What is known of values' types."""
    inferred = onnx.shape_inference.infer_shapes(model).graph
    found = {}
    for value in (*inferred.value_info, *inferred.output):
        if value.type.WhichOneof("value") is not None:
            found[value.name] = ValueInfoProto(name=value.name, type=value.type)
            if value.type.HasField("tensor_type"):  # a shape that is wrong in the file stops nobody but us
                found[value.name].type.tensor_type.ClearField("shape")
    for k, node in moved.items():
        for name in model.graph.node[k].output:
            found[name] = helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(node.dtype), None)
    return found


def _piece(model: ModelProto, nodes: list[int], inputs: list[ValueInfoProto], leaving: list[str]) -> ModelProto:
    """The model of some of the nodes."""
    graph = model.graph
    used = set().union(*(_names_of(graph.node[k], False) for k in nodes))
    piece = GraphProto(name=graph.name)
    piece.node.extend(graph.node[k] for k in nodes)
    piece.input.extend(inputs)
    piece.output.extend(ValueInfoProto(name=name) for name in leaving)
    piece.initializer.extend(tensor for tensor in graph.initializer if tensor.name in used)
    piece.sparse_initializer.extend(tensor for tensor in graph.sparse_initializer if tensor.values.name in used)
    return ModelProto(ir_version=model.ir_version, opset_import=model.opset_import, graph=piece)


def _argument(value: ValueInfoProto) -> Argument:
    """What onnxruntime says of an input or output."""
    of = value.type.tensor_type
    names = {TensorProto.FLOAT: "float", TensorProto.DOUBLE: "double", TensorProto.STRING: "string"}
    kind = names.get(of.elem_type) or helper.tensor_dtype_to_np_dtype(of.elem_type).name
    dims = [dim.dim_value if dim.HasField("dim_value") else dim.dim_param or None for dim in of.shape.dim]
    return Argument(value.name, f"tensor({kind})", dims)
