"""A graph in pieces: its recurrent nodes on fastrnn's kernels, what is between them in onnxruntime.

Pieces are of nodes of one level: how many recurrent nodes, one behind the other, come before. An If with recurrent
nodes in its branches counts as one; each of its branches is a graph in pieces again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper

from fastrnn.onnx.loading import named, take_node
from fastrnn.onnx.node import Node
from fastrnn.onnx.scope import Scope, can_fold, graphs_of, has_any, opset_of

__all__ = ["Pieces", "cut"]

Start = Callable[[ModelProto], Any]  # makes onnxruntime's session of a model
Types = Mapping[str, ValueInfoProto | None]  # of values that are known at run time only; None of those not known


class Step(NamedTuple):
    """A piece of the graph that onnxruntime runs, a recurrent node, or an If."""

    inputs: list[str]  # "" of a node's that are left out
    outputs: list[str]  # "" of a node's that nobody has
    run: Callable[[list[Any], Any], Sequence[Any]]


class Pieces:
    """A graph in pieces.

    Attributes
    ----------
    inputs
        What the steps take from outside.
    nodes
        The recurrent nodes among them, and in branches, by name.
    """

    def __init__(
        self, steps: list[Step], nodes: dict[str, Node], constants: Mapping[str, Any], outputs: list[str]
    ) -> None:
        self.steps, self.nodes, self.constants, self.outputs = steps, nodes, constants, outputs
        self.inputs = set(outputs).union(*(step.inputs for step in steps)) - constants.keys() - {""}
        self.inputs -= {name for step in steps for name in step.outputs}

    def run(self, names: Iterable[str] | None, feed: Mapping[str, Any], run_options: Any) -> list[Any]:
        """The outputs of these names, or all."""
        values = {**self.constants, **feed}
        for step in self.steps:
            found = step.run([values[name] if name else None for name in step.inputs], run_options)
            values.update(zip(step.outputs, found, strict=False))
        return [values[name] for name in (self.outputs if names is None else names)]


class _UnknownError(Exception):
    """The type of a value between pieces is not known."""


def cut(model: ModelProto, start: Start, recurrent: Callable[[NodeProto], bool]) -> Pieces | None:
    """The model in pieces, cut at recurrent nodes.

    None if nothing is to be cut out, or the type of a value between pieces is not known.
    """
    constants = {tensor.name for tensor in model.graph.initializer}
    given = {value.name: value for value in model.graph.input if value.name not in constants}
    inferred = onnx.shape_inference.infer_shapes(model).graph
    try:
        pieces = _Cut(model, Scope(model.graph, opset_of(model)), inferred, given, start, recurrent, set()).pieces()
    except _UnknownError:
        return None
    return pieces if pieces.nodes else None


class _Cut:
    """One graph on its way into pieces.

    Parameters
    ----------
    scope
        Of the graph: the model's, or a branch's.
    inferred
        The same graph with what is known of its values' types.
    given
        What comes from outside at run time. Names that are neither given nor made in the graph are constants.
    recurrent
        Whether a node is one that is to be cut out.
    taken
        Names of recurrent nodes so far.
    """

    def __init__(
        self,
        model: ModelProto,
        scope: Scope,
        inferred: GraphProto,
        given: Types,
        start: Start,
        recurrent: Callable[[NodeProto], bool],
        taken: set[str],
    ) -> None:
        self.model, self.scope, self.graph, self.start, self.taken = model, scope, scope.graph, start, taken
        self.recurrent = recurrent
        self.outputs = [value.name for value in self.graph.output]
        self.given = given
        self.types: dict[str, ValueInfoProto | None] = dict(given)
        for value in (*inferred.value_info, *inferred.output):
            if value.type.WhichOneof("value") is not None:
                self.types.setdefault(value.name, _without_shape(value))
        self.makers: dict[str, int] = {}  # of what is constant
        for k, node in enumerate(self.graph.node):
            if can_fold(node) and all(map(self._constant, filter(None, node.input))):
                self.makers |= dict.fromkeys(filter(None, node.output), k)
        self.nodes: dict[str, Node] = {}
        self.moved = self._move(inferred)

    def _constant(self, name: str) -> bool:
        return name in self.makers or (name not in self.given and name not in self.scope.makers)

    def _move(self, inferred: GraphProto) -> dict[int, Step]:
        """What does not stay in onnxruntime, by its place among the nodes."""
        moved = {}
        for k, node in enumerate(self.graph.node):
            if self.recurrent(node):
                name = named(self.scope, node, self.taken)
                try:
                    found = take_node(self.scope, node, name)
                except ValueError:
                    continue  # which onnxruntime runs, or says why it cannot
                self.nodes[name] = found
                self.taken.add(name)
                names = [*node.input, *[""] * 8]
                moved[k] = Step([names[0], *names[4:7]], list(node.output), _run_node(found))
                kind = helper.np_dtype_to_tensor_dtype(found.dtype)
                self.types |= {name: helper.make_tensor_value_info(name, kind, None) for name in node.output}
            elif node.op_type == "If" and any(has_any(graph, self.recurrent) for graph in graphs_of(node)):
                step = self._branch(node, inferred.node[k])
                if step is not None:
                    moved[k] = step
        return moved

    def _branch(self, node: NodeProto, inferred: NodeProto) -> Step | None:
        """An If as a step; None where nothing in its branches can be taken out."""
        here = {name: self.types.get(name) for name in self.scope.makers if not self._constant(name)}
        typed = {attribute.name: attribute.g for attribute in inferred.attribute}
        branches = {}
        for attribute, scope in self.scope.inside(node):
            given = {**self.given, **here}
            inner = _Cut(self.model, scope, typed[attribute], given, self.start, self.recurrent, self.taken)
            branches[attribute] = inner.pieces()
        then, otherwise = branches["then_branch"], branches["else_branch"]
        nodes = then.nodes | otherwise.nodes
        if not nodes:
            return None
        self.nodes |= nodes
        entering = sorted(then.inputs | otherwise.inputs)
        self.types |= {
            name: _without_shape(helper.make_value_info(name, value.type))
            for name, value in zip(node.output, typed["then_branch"].output, strict=True)
        }

        def run(values: list[Any], options: Any) -> list[Any]:
            which = then if values[0] else otherwise
            return which.run(None, dict(zip(entering, values[1:], strict=True)), options)

        return Step([node.input[0], *entering], list(node.output), run)

    def pieces(self) -> Pieces:
        """The graph in pieces; _UnknownError if the type of a value between them is not known."""
        nodes = self.graph.node
        uses = [
            set(filter(None, self.moved[k].inputs)) if k in self.moved else _names_of(node)
            for k, node in enumerate(nodes)
        ]

        # What is wanted, from behind.
        wanted, needed = set(self.outputs), list[int]()
        for k in reversed(range(len(nodes))):
            if wanted & set(nodes[k].output):
                needed.insert(0, k)
                wanted |= uses[k]

        # What runs at which level.
        level: dict[str, int] = {}
        levels: dict[int, list[int]] = {}
        for k in needed:
            if self.makers.keys().isdisjoint(nodes[k].output):
                at = max((level.get(name, 0) for name in uses[k]), default=0)
                levels.setdefault(at, []).append(k)
                level |= dict.fromkeys(nodes[k].output, at + (k in self.moved))

        steps = []
        for at in sorted(levels):
            here = [k for k in levels[at] if k not in self.moved]
            made = {name for k in here for name in nodes[k].output if name}
            others = [uses[k] for k in needed if k not in here] + [set(self.outputs)]
            leaving = sorted(made & set().union(*others))
            if leaving:
                used = set().union(*(uses[k] for k in here)) - made
                steps.append(self._piece(here, uses, sorted(n for n in used if not self._constant(n)), leaving))
            steps += [self.moved[k] for k in levels[at] if k in self.moved]
        known = set(self.outputs).union(*(step.inputs for step in steps)) - {""}
        constants = {name: self.scope.value(name) for name in known if self._constant(name)}
        return Pieces(steps, self.nodes, constants, self.outputs)

    def _piece(self, here: list[int], uses: list[set[str]], entering: list[str], leaving: list[str]) -> Step:
        """The step of some of the nodes, which onnxruntime runs."""
        inputs = [self.types.get(name) for name in entering]
        if any(value is None for value in inputs):
            raise _UnknownError
        # With the nodes that make their constants, in the graph's order.
        found, left = set(here), list(here)
        while left:
            for name in uses[left.pop()]:
                if name in self.makers and self.makers[name] not in found:
                    found.add(self.makers[name])
                    left.append(self.makers[name])
        used = set().union(*(uses[k] for k in found)) - self.makers.keys()
        piece = GraphProto(name=self.graph.name)
        piece.node.extend(self.graph.node[k] for k in sorted(found))
        piece.input.extend(inputs)
        piece.output.extend(ValueInfoProto(name=name) for name in leaving)
        for name in sorted(filter(self._constant, used)):
            tensor = self.scope.tensor(name)
            if isinstance(tensor, TensorProto):
                piece.initializer.append(tensor)
            else:
                piece.sparse_initializer.append(tensor)
        model = ModelProto(ir_version=self.model.ir_version, opset_import=self.model.opset_import, graph=piece)
        return Step(entering, leaving, _run_session(self.start(model), entering, leaving))


def _run_session(session: Any, entering: list[str], leaving: list[str]) -> Callable[[list[Any], Any], Sequence[Any]]:
    return lambda values, options: session.run(leaving, dict(zip(entering, values, strict=True)), options)


def _run_node(node: Node) -> Callable[[list[Any], Any], Sequence[Any]]:
    return lambda values, _: node(*values)


def _names_of(node: NodeProto) -> set[str]:
    """What a node reads at run time, in its branches and bodies, too."""
    found = set(filter(None, node.input))
    for graph in graphs_of(node):
        own = {tensor.name for tensor in graph.initializer} | {value.name for value in graph.input}
        own |= {name for inner in graph.node for name in inner.output}
        found |= set().union(*map(_names_of, graph.node), (value.name for value in graph.output)) - own
    return found


def _without_shape(value: ValueInfoProto) -> ValueInfoProto:
    """The type of a value alone: a shape that is wrong in the file stops nobody but us."""
    found = ValueInfoProto(name=value.name, type=value.type)
    if found.type.HasField("tensor_type"):
        found.type.tensor_type.ClearField("shape")
    return found
