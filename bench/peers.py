"""Who is compared: each peer makes a callable of a problem, that computes all of it with its own means.

Every peer gets the same numbers. What is prepared once in its real use (parameters, input in its own kind of array,
compilation) is prepared outside the call; what is done for every batch is part of it. To add a peer, write a `prepare_`
function and a row of `PEERS`.
"""

from __future__ import annotations

import importlib
import logging
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import fastrnn
from fastrnn.backends import load
from fastrnn.bench.cases import Case
from fastrnn.bench.cells import built_in_like
from fastrnn.bench.equations import Layer, jax_library, torch_library
from fastrnn.bench.machine import sums_bytes
from fastrnn.bench.problems import Outcome, Problem, make, suffixes
from fastrnn.errors import BackendError
from fastrnn.parameters import Array

__all__ = ["PEERS", "Peer", "Prepared", "UnsupportedError"]


class UnsupportedError(Exception):
    """A peer cannot do a problem; the text says why."""


@dataclass(frozen=True)
class Prepared:
    """A problem in a peer's hands."""

    call: Callable[[], Any]  # what is timed
    outcome: Callable[[Any], Outcome] | None  # what `call` returned, as named arrays; None where it is other work
    context: Callable[[], AbstractContextManager[Any]] = nullcontext  # what calls run in


@dataclass(frozen=True)
class Peer:
    """One row of the table of peers."""

    name: str
    prepare: Callable[[Problem, str, int], Prepared]  # (problem, kind, threads); UnsupportedError where it cannot
    modules: tuple[str, ...] = ()  # that have to be installed
    backend: str = "numpy"  # of fastrnn, that has to run
    applies: Callable[[Case], bool] = lambda case: True  # cases that it is there for
    compiles: bool = False  # for some seconds, each problem

    def why_absent(self) -> str | None:
        """Why the peer cannot run here, or None."""
        for module in self.modules:
            try:
                importlib.import_module(module)
            except ImportError as error:
                return f"{module} is not installed: pip install {module}" if error.name == module else str(error)
        try:
            load(self.backend)
        except BackendError as error:
            return str(error)
        return None


def named(case: Case, y: Any, state_n: Iterable[Any], *gradients: Any) -> Outcome:
    """Arrays under the names of an outcome; `gradients` are of x, of the initial state, and of the parameters."""
    outcome = {"y": y} | {f"{name}_n": value for name, value in zip(case.states, state_n, strict=True)}
    if gradients:
        dx, dstate_0, dparameters = gradients
        outcome |= {"dx": dx} | {f"d{name}_0": value for name, value in zip(case.states, dstate_0, strict=True)}
        outcome |= {f"d{name}": value for name, value in dparameters.items()}
    return {name: np.asarray(value) for name, value in outcome.items()}


# --- fastrnn


def _module(problem: Problem, threads: int, backend: str) -> Any:
    """The problem's module of fastrnn."""
    case = problem.case
    made: Any = partial(fastrnn.Recurrent, case.definition) if case.written else getattr(fastrnn, case.cell.upper())
    why_not = getattr(load(backend), "why_not_program", None)
    if case.written and why_not and (reason := why_not(case.definition)):
        raise UnsupportedError(reason)
    if case.narrow and case.precision not in getattr(load(backend), "PRECISIONS", ()):
        raise UnsupportedError(f"has no {case.precision} weights")
    module = made(
        case.I,
        case.H,
        case.num_layers,
        bidirectional=case.bidirectional,
        dtype=case.dtype,
        backend=backend,
        num_threads=threads,
        **_projection(case),
        **({"precision": case.precision} if case.narrow else {}),
    )
    module.load_state_dict(problem.parameters)
    return module


def _projection(case: Case) -> dict[str, int]:
    """The option that only an LSTM has, here and in torch."""
    return {"proj_size": case.proj_size} if case.proj_size else {}


def _as_given(state: tuple[Any, ...]) -> Any:
    """A state as modules take it, here and in torch: a tuple, or h where there is nothing else."""
    return state if len(state) > 1 else state[0]


def _as_tuple(state: Any) -> tuple[Any, ...]:
    return state if isinstance(state, tuple) else (state,)


def prepare_fastrnn(problem: Problem, kind: str, threads: int, *, backend: str) -> Prepared:
    """A fastrnn module on one backend."""
    case = problem.case
    _refuse_training_of_int8(case, kind)
    options: dict[str, Any] = {} if problem.lengths is None else {"lengths": problem.lengths}
    state, dstate = _as_given(problem.state), _as_given(problem.dstate)
    module = _module(problem, threads, backend)

    def infer() -> Any:
        return module(problem.x, state, **options)

    def train() -> Any:
        y, state_n, tape = module.forward(problem.x, state, **options)
        return y, state_n, *module.backward(tape, problem.dy, dstate)

    def outcome(result: Any) -> Outcome:
        y, state_n, *gradients = result
        if gradients:
            gradients[1] = _as_tuple(gradients[1])
        return named(case, y, _as_tuple(state_n), *gradients)

    return Prepared(train if kind == "training" else infer, outcome)


def _refuse_training(kind: str) -> None:
    if kind == "training":
        raise UnsupportedError("does inference only")


def _refuse_training_of_int8(case: Case, kind: str) -> None:
    if case.precision == "int8":
        _refuse_training(kind)


def can_stream(case: Case) -> bool:
    """Whether the case is a step of a stream."""
    return case.T == 1 and not case.bidirectional and not case.ragged


def prepare_stream(problem: Problem, kind: str, threads: int) -> Prepared:
    """A stream of a fastrnn module: every call is the step after the one before, into the same y."""
    case = problem.case
    _refuse_training(kind)
    stream = _module(problem, threads, "cython").stream(case.N)
    stream.state = _as_given(problem.state)
    out = np.empty((case.N, case.outputs), case.dtype)

    def outcome(y: Array) -> Outcome:
        return named(case, y[None], _as_tuple(stream.state))

    return Prepared(partial(stream.step, problem.x[0], out), outcome)


# --- yardsticks: what else fastrnn or the machine does with as many products


def is_variant(case: Case) -> bool:
    """Whether the case's cell is a built-in one with other equations between the same products."""
    return case.written and built_in_like(case.cell) is not None


def prepare_built_in(problem: Problem, kind: str, threads: int) -> Prepared:
    """The built-in cell that a written one is a variant of; what is the same cell has to return the same."""
    case = problem.case
    like = str(built_in_like(case.cell))
    prepared = prepare_fastrnn(make(replace(case, cell=like)), kind, threads, backend="cython")
    return prepared if case.cell == f"written_{like}" else replace(prepared, outcome=None)


def is_scan(case: Case) -> bool:
    """Whether the case's cell has no recurrent product."""
    return case.written and not case.definition.gates_hh


def prepare_products(problem: Problem, kind: str, threads: int) -> Prepared:
    """The matrix products of all steps, by NumPy into arrays that are there."""
    x, weight = problem.x.reshape(-1, problem.case.I), problem.parameters["weight_ih_l0"]
    sums = np.empty((len(x), len(weight)), x.dtype)
    dx, dweight = np.empty_like(x), np.empty_like(weight)

    def infer() -> None:
        np.matmul(x, weight.T, out=sums)

    def train() -> None:
        infer()
        np.matmul(sums, weight, out=dx)
        np.matmul(sums.T, x, out=dweight)

    return Prepared(train if kind == "training" else infer, None)


def is_narrow(case: Case) -> bool:
    """Whether the case's weights have fewer bits than its dtype."""
    return case.narrow


def prepare_float32(problem: Problem, kind: str, threads: int) -> Prepared:
    """The same module with weights of float32."""
    _refuse_training_of_int8(problem.case, kind)
    wide = replace(problem, case=replace(problem.case, precision="float32"))
    return prepare_fastrnn(wide, kind, threads, backend="cython")


# --- PyTorch


def prepare_torch(problem: Problem, kind: str, threads: int, *, library: str = "torch.nn") -> Prepared:
    """LSTM, GRU or RNN of torch.nn or of another library with torch modules; packed sequences where lengths differ."""
    import torch
    from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

    case = problem.case
    _refuse_training_of_int8(case, kind)
    if case.narrow and library != "torch.nn":
        raise UnsupportedError(f"has no {case.precision} weights")
    modules = importlib.import_module(library)
    made = partial(modules.Recurrent, case.definition) if case.written else getattr(modules, case.cell.upper())
    module = made(
        case.I,
        case.H,
        case.num_layers,
        bidirectional=case.bidirectional,
        dtype=getattr(torch, case.dtype),
        **_projection(case),
    )
    lengths = None if problem.lengths is None else torch.from_numpy(problem.lengths)

    def run(x: Any, state: Any) -> Any:
        if lengths is None:
            return module(x, state)
        y, state_n = module(pack_padded_sequence(x, lengths, enforce_sorted=False), state)
        return pad_packed_sequence(y, total_length=case.T)[0], state_n

    return _torch(problem, kind, threads, module, run, axis=None)


def is_built_in(case: Case) -> bool:
    """Whether the case's cell is one that others have too."""
    return not case.written


def is_single_step(case: Case) -> bool:
    """Whether a cell can do the case."""
    single = (case.T, case.num_layers, case.directions, case.proj_size) == (1, 1, 1, 0)
    return single and not (case.written or case.narrow)


def is_written(case: Case) -> bool:
    """Whether the case's cell is written in the language; here in one layer and direction, and steps of all rows."""
    return case.written and (case.num_layers, case.directions, case.proj_size, case.ragged) == (1, 1, 0, False)


def prepare_torch_cell(problem: Problem, kind: str, threads: int) -> Prepared:
    """torch.nn.LSTMCell, GRUCell or RNNCell, torch's fastest way of taking one step."""
    import torch

    case = problem.case
    module = getattr(torch.nn, f"{case.cell.upper()}Cell")(case.I, case.H, dtype=getattr(torch, case.dtype))

    def run(x: Any, state: Any) -> Any:
        state_n = module(x, state)
        return state_n[0] if case.cell == "lstm" else state_n, state_n

    return _torch(problem, kind, threads, module, run, axis=0)


def _torch(
    problem: Problem, kind: str, threads: int, module: Any, run: Callable[[Any, Any], Any], axis: int | None
) -> Prepared:
    """What modules and cells share; a cell's arrays have no first axis, of time or layers, which `axis` = 0 tells."""
    import torch

    torch.set_num_threads(threads)
    case = problem.case
    ends = {name: name if axis is None else name.removesuffix("_l0") for name in problem.parameters}
    module.load_state_dict({ends[name]: torch.from_numpy(value) for name, value in problem.parameters.items()})
    parameters = dict(module.named_parameters())
    if case.precision == "int8":
        return _torch_int8(problem, module)
    dtype = torch.bfloat16 if case.narrow else getattr(torch, case.dtype)
    module.to(dtype)

    def tensor(array: Array) -> Any:
        return torch.from_numpy(array if axis is None else array[0]).to(dtype)

    x, dy = tensor(problem.x), tensor(problem.dy)
    states, dstates = [tensor(s) for s in problem.state], [tensor(d) for d in problem.dstate]
    state = _as_given(tuple(states))
    training = kind == "training"
    for leaf in (x, *states):
        leaf.requires_grad_(training)
    leaves = [x, *states, *parameters.values()]
    if case.proj_size:
        with warnings.catch_warnings(), torch.inference_mode():
            warnings.simplefilter("ignore")
            run(x, state)  # torch tells once that oneDNN has no projection

    def infer() -> Any:
        return run(x, state)

    def train() -> Any:
        y, state_n = run(x, state)
        return y, state_n, torch.autograd.grad([y, *_as_tuple(state_n)], leaves, [dy, *dstates], materialize_grads=True)

    def outcome(result: Any) -> Outcome:
        def array(value: Any) -> Array:
            whole: Array = value.detach().to(getattr(torch, case.dtype)).numpy()
            return whole if axis is None else whole[None]

        y, state_n, *rest = result
        gradients: list[Any] = []
        if rest:
            dx, *others = rest[0]
            n = len(states)
            of_parameters = {name: others[n + list(parameters).index(end)] for name, end in ends.items()}
            wide = {name: d.to(getattr(torch, case.dtype)).numpy() for name, d in of_parameters.items()}
            gradients = [array(dx), [array(d) for d in others[:n]], wide]
        return named(case, array(y), [array(s) for s in _as_tuple(state_n)], *gradients)

    return Prepared(train if training else infer, outcome, nullcontext if training else torch.inference_mode)


def _torch_int8(problem: Problem, module: Any) -> Prepared:
    """What torch has for int8 weights: quantize_dynamic."""
    import torch

    if problem.case.cell == "rnn":
        raise UnsupportedError("has no int8 RNN")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is to go away, and says so
        from torch.ao.quantization import quantize_dynamic

        quantized: Any = quantize_dynamic
        whole = quantized(torch.nn.Sequential(module), {type(module)}, dtype=torch.qint8)
    module = whole[0]
    x, states = torch.from_numpy(problem.x), [torch.from_numpy(s) for s in problem.state]
    state = _as_given(tuple(states))

    def outcome(result: Any) -> Outcome:
        y, state_n = result
        return named(problem.case, y.numpy(), [s.numpy() for s in _as_tuple(state_n)])

    return Prepared(lambda: module(x, state), outcome, torch.inference_mode)


UNROLLED = 10  # steps that are compiled as one


def prepare_torch_loop(problem: Problem, kind: str, threads: int, *, compiled: bool = False) -> Prepared:
    """A written cell as a loop over steps; `UNROLLED` of them may be compiled, as all would take minutes."""
    import torch

    compiler = os.environ.get("CXX", "g++")
    if compiled and shutil.which(compiler) is None:
        raise UnsupportedError(f"needs a C++ compiler; there is no {compiler}")
    case = problem.case
    layer = Layer(case.definition, case.H, torch_library())

    def traced() -> Any:
        """The step as a function of tensors, of which nothing is left but torch's own calls."""
        graph = torch.fx.Graph()
        tracer = torch.fx.proxy.GraphAppendingTracer(graph)

        def argument(name: str) -> Any:
            return torch.fx.Proxy(graph.placeholder(name), tracer)

        its = {name.removesuffix("_l0"): torch.from_numpy(value) for name, value in problem.parameters.items()}
        _, _, taken = layer.ahead(its)
        state = layer.step(
            argument("sums_x"),
            [argument(name) for name in case.states],
            {name: argument(f"taken_{k}") for k, name in enumerate(taken)},
        )
        graph.output(tuple(value.node for value in state))
        return torch.fx.GraphModule(torch.nn.Module(), graph).forward

    step = traced()

    def block(sums_x: Any, state: Any, taken: Any) -> Any:
        ys = []
        for sums in sums_x.unbind():
            state = step(sums, *state, *taken)
            ys.append(state[0])
        return torch.stack(ys), state

    if compiled:
        torch.compiler.reset()  # `block` is one function to it, of which it compiles eight at most
    run: Any = torch.compile(block, fullgraph=True, dynamic=False) if compiled else block
    size = UNROLLED if compiled else case.T

    class Loop(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for name, value in problem.parameters.items():
                self.register_parameter(name, torch.nn.Parameter(torch.from_numpy(value).clone()))

        def forward(self, x: Any, state: Any) -> Any:
            parameters = {name.removesuffix("_l0"): value for name, value in self.named_parameters()}
            weight_ih, bias_ih, taken = layer.ahead(parameters)
            states, ys = tuple([s[0] for s in _as_tuple(state)]), []
            for sums_x in torch.split(torch.nn.functional.linear(x, weight_ih, bias_ih), size):
                y, states = run(sums_x, states, tuple(taken.values()))
                ys.append(y)
            return torch.cat(ys) if len(ys) > 1 else y, _as_given(tuple([s[None] for s in states]))

    module = Loop()
    return _torch(problem, kind, threads, module, module, axis=None)


# --- ONNX Runtime

ONNX_GATES = {"lstm": (0, 3, 1, 2), "gru": (1, 0, 2), "rnn": (0,)}  # ONNX's order of torch's gate blocks


def prepare_onnxruntime(problem: Problem, kind: str, threads: int) -> Prepared:
    """An ONNX model of one node per layer; inference only."""
    import onnxruntime

    case = problem.case
    if kind == "training":
        raise UnsupportedError("does inference only")
    if case.dtype != "float32":
        raise UnsupportedError(f"has no LSTM, GRU or RNN in {case.dtype}")
    if case.proj_size:
        raise UnsupportedError("has no projection")
    if case.narrow and (case.cell, case.precision) != ("lstm", "int8"):
        raise UnsupportedError(f"has no {case.cell} of {case.precision}")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    model = _onnx_quantized(_onnx_model(problem)) if case.narrow else _onnx_model(problem)
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    feed = {"x": problem.x}
    if problem.lengths is not None:
        feed["lengths"] = problem.lengths.astype(np.int32)
    for name, value in zip(case.states, problem.state, strict=True):
        for layer, part in enumerate(np.split(value, case.num_layers)):
            feed[f"{name}_0_{layer}"] = np.ascontiguousarray(part)

    def outcome(result: Any) -> Outcome:
        y, *states_n = result  # (T, D, N, H); state by state, layer by layer (D, N, H)
        y = y.transpose(0, 2, 1, 3).reshape(case.T, case.N, -1)
        parts = np.split(np.concatenate(states_n), len(case.states))
        return named(case, y, parts)

    return Prepared(lambda: session.run(None, feed), outcome)


def _onnx_quantized(model: bytes) -> bytes:
    """The model with DynamicQuantizeLSTM in place of LSTM, whose weights are int8 by output channel.

    They have 7 bits where onnxruntime's sums of products would overflow with 8.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with tempfile.TemporaryDirectory() as folder:
        before, after = Path(folder, "before.onnx"), Path(folder, "after.onnx")
        before.write_bytes(model)
        logging.disable(logging.WARNING)  # it advises to prepare the model, which changes nothing here
        try:
            options = {"per_channel": True, "weight_type": QuantType.QInt8, "reduce_range": not sums_bytes()}
            quantize_dynamic(before, after, **options)
        finally:
            logging.disable(logging.NOTSET)
        return after.read_bytes()


def _onnx_model(problem: Problem) -> bytes:
    """The problem's module as a serialized model."""
    from onnx import TensorProto, helper, numpy_helper

    case = problem.case
    ends = suffixes(case)
    order = ONNX_GATES[case.cell]

    def reordered(field: str, suffix: str) -> Array:
        blocks = np.split(problem.parameters[f"{field}{suffix}"], case.gates)
        return np.concatenate([blocks[gate] for gate in order])

    def stacked(layer: int, *fields: str) -> Array:
        own = ends[layer * case.directions : (layer + 1) * case.directions]
        return np.stack([np.concatenate([reordered(field, suffix) for field in fields]) for suffix in own])

    initializers = [numpy_helper.from_array(np.array([0, 0, -1]), "flat")] if case.num_layers > 1 else []
    inputs, outputs, nodes, given = ["x"], ["y"], [], "x"
    lengths = "" if problem.lengths is None else "lengths"
    options: dict[str, Any] = {"hidden_size": case.H, "direction": "bidirectional" if case.bidirectional else "forward"}
    if case.cell == "gru":
        options["linear_before_reset"] = 1
    for layer in range(case.num_layers):
        for name, value in {
            "W": stacked(layer, "weight_ih"),
            "R": stacked(layer, "weight_hh"),
            "B": stacked(layer, "bias_ih", "bias_hh"),
        }.items():
            initializers.append(numpy_helper.from_array(value, f"{name}{layer}"))
        last = layer == case.num_layers - 1
        names = [given, f"W{layer}", f"R{layer}", f"B{layer}", lengths]
        states = [f"{name}_0_{layer}" for name in case.states]
        y = "y" if last else f"y{layer}"
        results = [y, *(f"{name}_n_{layer}" for name in case.states)]
        nodes.append(helper.make_node(case.cell.upper(), [*names, *states], results, **options))
        inputs += states
        if not last:  # (T, D, N, H) to (T, N, D*H)
            nodes.append(helper.make_node("Transpose", [y], [f"{y}_rows"], perm=[0, 2, 1, 3]))
            nodes.append(helper.make_node("Reshape", [f"{y}_rows", "flat"], [f"{y}_flat"]))
            given = f"{y}_flat"
    outputs += [f"{name}_n_{layer}" for name in case.states for layer in range(case.num_layers)]

    def declared(names: Iterable[str]) -> list[Any]:
        return [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names]

    its_lengths = [helper.make_tensor_value_info("lengths", TensorProto.INT32, None)] if lengths else []
    graph = helper.make_graph(nodes, case.name, declared(inputs) + its_lengths, declared(outputs), initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)
    serialized: bytes = model.SerializeToString()
    return serialized


# --- JAX


def prepare_jax(problem: Problem, kind: str, threads: int) -> Prepared:
    """A compiled `lax.scan` per layer and direction, the input product ahead of it."""
    import jax
    import jax.numpy as jnp

    if problem.case.narrow:
        raise UnsupportedError(f"has no {problem.case.precision} weights in this loop")
    if not hasattr(os, "sched_getaffinity") and threads != os.cpu_count():
        raise UnsupportedError("uses every CPU where a process cannot be pinned to some")
    jax.config.update("jax_enable_x64", True)
    case = problem.case
    within = None
    if problem.lengths is not None:
        within = jnp.arange(case.T)[:, None, None] < jnp.asarray(problem.lengths)[None, :, None]  # (T, N, 1)

    def layer(x: Any, state: Any, parameters: Any, suffix: str) -> Any:
        own = {name.removesuffix(suffix): value for name, value in parameters.items() if name.endswith(suffix)}
        sums_x, step = (_jax_written if case.written else _jax_built_in)(case, x, own)

        def masked(state: Any, given: Any) -> Any:
            sums_x, real = given
            after = step(sums_x, state)
            if real is None:
                return after, after[0]
            after = tuple(jnp.where(real, new, old) for new, old in zip(after, state, strict=True))
            return after, jnp.where(real, after[0], 0)

        return jax.lax.scan(masked, state, (sums_x, within), reverse=suffix.endswith("reverse"))

    def forward(x: Any, state: Any, parameters: Any) -> Any:
        ends, states_n = suffixes(case), []
        for start in range(0, len(ends), case.directions):
            ys = []
            for index in range(start, start + case.directions):
                state_n, y = layer(x, tuple(s[index] for s in state), parameters, ends[index])
                states_n.append(state_n)
                ys.append(y)
            x = jnp.concatenate(ys, axis=2) if len(ys) > 1 else ys[0]
        return x, tuple(jnp.stack(parts) for parts in zip(*states_n, strict=True))

    def backward(x: Any, state: Any, parameters: Any, dy: Any, dstate: Any) -> Any:
        outputs, differentiate = jax.vjp(forward, x, state, parameters)
        return *outputs, *differentiate((dy, dstate))

    given = [problem.x, problem.state, problem.parameters, problem.dy, problem.dstate]
    arrays = jax.tree.map(jnp.asarray, given if kind == "training" else given[:3])
    function = jax.jit(backward if kind == "training" else forward)
    return Prepared(lambda: jax.block_until_ready(function(*arrays)), lambda result: named(case, *result))


def _jax_built_in(case: Case, x: Any, parameters: Any) -> tuple[Any, Callable[[Any, Any], tuple[Any, ...]]]:
    """The product of x for all steps, and a step from its rows of that and the state; of a built-in cell."""
    import jax
    import jax.numpy as jnp

    weight_hr, transposed = parameters.get("weight_hr"), parameters["weight_hh"].T
    bias_hh = parameters["bias_hh"]

    def step(a_x: Any, state: Any) -> tuple[Any, ...]:
        h_prev, *c_prev = state
        a_h = h_prev @ transposed
        if case.cell == "lstm":
            i, f, g, o = jnp.split(a_x + a_h, 4, axis=1)
            c = jax.nn.sigmoid(f) * c_prev[0] + jax.nn.sigmoid(i) * jnp.tanh(g)
            h = jax.nn.sigmoid(o) * jnp.tanh(c)
            return (h if weight_hr is None else h @ weight_hr.T, c)
        if case.cell == "gru":
            (r_x, z_x, n_x), (r_h, z_h, n_h) = jnp.split(a_x, 3, axis=1), jnp.split(a_h + bias_hh, 3, axis=1)
            z = jax.nn.sigmoid(z_x + z_h)
            n = jnp.tanh(n_x + jax.nn.sigmoid(r_x + r_h) * n_h)
            return (n + z * (h_prev - n),)
        return (jnp.tanh(a_x + a_h),)

    return x @ parameters["weight_ih"].T + parameters["bias_ih"] + (0 if case.cell == "gru" else bias_hh), step


def _jax_written(case: Case, x: Any, parameters: Any) -> tuple[Any, Callable[[Any, Any], tuple[Any, ...]]]:
    """As `_jax_built_in`, of a written cell."""
    layer = Layer(case.definition, case.H, jax_library())
    weight_ih, bias_ih, taken = layer.ahead(parameters)
    return x @ weight_ih.T + bias_ih, lambda sums_x, state: layer.step(sums_x, state, taken)


PEERS: dict[str, Peer] = {
    peer.name: peer
    for peer in (
        *(Peer(name, partial(prepare_fastrnn, backend=name), backend=name) for name in ("cython", "numba", "numpy")),
        Peer("stream", prepare_stream, backend="cython", applies=can_stream),
        Peer("built-in", prepare_built_in, backend="cython", applies=is_variant),
        Peer("products", prepare_products, applies=is_scan),
        Peer("float32", prepare_float32, backend="cython", applies=is_narrow),
        Peer("fastrnn.torch", partial(prepare_torch, library="fastrnn.torch"), ("torch",), backend="cython"),
        Peer("torch", prepare_torch, ("torch",), applies=is_built_in),
        Peer("torch-cell", prepare_torch_cell, ("torch",), applies=is_single_step),
        Peer("torch-loop", prepare_torch_loop, ("torch",), applies=is_written),
        Peer(
            "torch-compile", partial(prepare_torch_loop, compiled=True), ("torch",), applies=is_written, compiles=True
        ),
        Peer("onnxruntime", prepare_onnxruntime, ("onnxruntime", "onnx"), applies=is_built_in),
        Peer("jax", prepare_jax, ("jax",)),
    )
}
