"""Who is compared: each peer makes a callable of a problem, that computes all of it with its own means.

Every peer gets the same numbers. What is prepared once in its real use (parameters, input in its own kind of array,
compilation) is prepared outside the call; what is done for every batch is part of it. To add a peer, write a `prepare_`
function and a row of `PEERS`.
"""

from __future__ import annotations

import importlib
import os
import warnings
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

import fastrnn
from fastrnn.backends import load
from fastrnn.bench.cases import Case
from fastrnn.bench.problems import Outcome, Problem, suffixes
from fastrnn.errors import BackendError
from fastrnn.parameters import Array

__all__ = ["PEERS", "Peer", "Prepared", "UnsupportedError"]


class UnsupportedError(Exception):
    """A peer cannot do a problem; the text says why."""


@dataclass(frozen=True)
class Prepared:
    """A problem in a peer's hands."""

    call: Callable[[], Any]  # what is timed
    outcome: Callable[[Any], Outcome]  # what `call` returned, as named arrays
    context: Callable[[], AbstractContextManager[Any]] = nullcontext  # what calls run in


@dataclass(frozen=True)
class Peer:
    """One row of the table of peers."""

    name: str
    prepare: Callable[[Problem, str, int], Prepared]  # (problem, kind, threads); UnsupportedError where it cannot
    modules: tuple[str, ...] = ()  # that have to be installed
    backend: str = "numpy"  # of fastrnn, that has to run
    applies: Callable[[Case], bool] = lambda case: True  # cases that it is there for

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
    module = getattr(fastrnn, case.cell.upper())(
        case.I,
        case.H,
        case.num_layers,
        bidirectional=case.bidirectional,
        dtype=case.dtype,
        backend=backend,
        num_threads=threads,
        **_projection(case),
    )
    module.load_state_dict(problem.parameters)
    return module


def _projection(case: Case) -> dict[str, int]:
    """The option that only an LSTM has, here and in torch."""
    return {"proj_size": case.proj_size} if case.proj_size else {}


def prepare_fastrnn(problem: Problem, kind: str, threads: int, *, backend: str) -> Prepared:
    """A fastrnn module on one backend."""
    case, lstm = problem.case, problem.case.cell == "lstm"
    options: dict[str, Any] = {} if problem.lengths is None else {"lengths": problem.lengths}
    state, dstate = (problem.state, problem.dstate) if lstm else (problem.state[0], problem.dstate[0])
    module = _module(problem, threads, backend)

    def infer() -> Any:
        return module(problem.x, state, **options)

    def train() -> Any:
        y, state_n, tape = module.forward(problem.x, state, **options)
        return y, state_n, *module.backward(tape, problem.dy, dstate)

    def outcome(result: Any) -> Outcome:
        y, state_n, *gradients = result
        if gradients and not lstm:
            gradients[1] = (gradients[1],)
        return named(case, y, state_n if lstm else (state_n,), *gradients)

    return Prepared(train if kind == "training" else infer, outcome)


def can_stream(case: Case) -> bool:
    """Whether the case is a step of a stream."""
    return case.T == 1 and not case.bidirectional and not case.ragged


def prepare_stream(problem: Problem, kind: str, threads: int) -> Prepared:
    """A stream of a fastrnn module: every call is the step after the one before, into the same y."""
    case = problem.case
    if kind == "training":
        raise UnsupportedError("does inference only")
    stream = _module(problem, threads, "cython").stream(case.N)
    stream.state = problem.state if case.cell == "lstm" else problem.state[0]
    out = np.empty((case.N, case.outputs), case.dtype)

    def outcome(y: Array) -> Outcome:
        return named(case, y[None], stream.state if case.cell == "lstm" else (stream.state,))

    return Prepared(partial(stream.step, problem.x[0], out), outcome)


# --- PyTorch


def prepare_torch(problem: Problem, kind: str, threads: int, *, library: str = "torch.nn") -> Prepared:
    """LSTM, GRU or RNN of torch.nn or of another library with torch modules; packed sequences where lengths differ."""
    import torch
    from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

    case = problem.case
    module = getattr(importlib.import_module(library), case.cell.upper())(
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


def is_single_step(case: Case) -> bool:
    """Whether a cell can do the case."""
    return (case.T, case.num_layers, case.directions, case.proj_size) == (1, 1, 1, 0)


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
    case, lstm = problem.case, problem.case.cell == "lstm"
    ends = {name: name if axis is None else name.removesuffix("_l0") for name in problem.parameters}
    module.load_state_dict({ends[name]: torch.from_numpy(value) for name, value in problem.parameters.items()})
    parameters = dict(module.named_parameters())

    def tensor(array: Array) -> Any:
        return torch.from_numpy(array if axis is None else array[0])

    x, dy = tensor(problem.x), tensor(problem.dy)
    states, dstates = [tensor(s) for s in problem.state], [tensor(d) for d in problem.dstate]
    state = tuple(states) if lstm else states[0]
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
        outputs = [y, *(state_n if lstm else (state_n,))]
        return y, state_n, torch.autograd.grad(outputs, leaves, [dy, *dstates])

    def outcome(result: Any) -> Outcome:
        def array(value: Any) -> Array:
            whole: Array = value.detach().numpy()
            return whole if axis is None else whole[None]

        y, state_n, *rest = result
        gradients: list[Any] = []
        if rest:
            dx, *others = rest[0]
            n = len(states)
            of_parameters = {name: others[n + list(parameters).index(end)].numpy() for name, end in ends.items()}
            gradients = [array(dx), [array(d) for d in others[:n]], of_parameters]
        return named(case, array(y), [array(s) for s in (state_n if lstm else (state_n,))], *gradients)

    return Prepared(train if training else infer, outcome, nullcontext if training else torch.inference_mode)


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
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(_onnx_model(problem), options, providers=["CPUExecutionProvider"])
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

    if not hasattr(os, "sched_getaffinity") and threads != os.cpu_count():
        raise UnsupportedError("uses every CPU where a process cannot be pinned to some")
    jax.config.update("jax_enable_x64", True)
    case = problem.case
    within = None
    if problem.lengths is not None:
        within = jnp.arange(case.T)[:, None, None] < jnp.asarray(problem.lengths)[None, :, None]  # (T, N, 1)

    def layer(x: Any, state: Any, parameters: Any, suffix: str) -> Any:
        weight_ih, weight_hh, bias_ih, bias_hh = (
            parameters[f"{field}{suffix}"] for field in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        )
        a_x = x @ weight_ih.T + bias_ih + (0 if case.cell == "gru" else bias_hh)
        transposed, weight_hr = weight_hh.T, parameters.get(f"weight_hr{suffix}")

        def step(state: Any, given: Any) -> Any:
            a_x, real = given
            h_prev, *c_prev = state
            a_h = h_prev @ transposed
            after: tuple[Any, ...]
            if case.cell == "lstm":
                i, f, g, o = jnp.split(a_x + a_h, 4, axis=1)
                c = jax.nn.sigmoid(f) * c_prev[0] + jax.nn.sigmoid(i) * jnp.tanh(g)
                h = jax.nn.sigmoid(o) * jnp.tanh(c)
                after = (h if weight_hr is None else h @ weight_hr.T, c)
            elif case.cell == "gru":
                (r_x, z_x, n_x), (r_h, z_h, n_h) = jnp.split(a_x, 3, axis=1), jnp.split(a_h + bias_hh, 3, axis=1)
                z = jax.nn.sigmoid(z_x + z_h)
                n = jnp.tanh(n_x + jax.nn.sigmoid(r_x + r_h) * n_h)
                after = (n + z * (h_prev - n),)
            else:
                after = (jnp.tanh(a_x + a_h),)
            if real is None:
                return after, after[0]
            after = tuple(jnp.where(real, new, old) for new, old in zip(after, state, strict=True))
            return after, jnp.where(real, after[0], 0)

        return jax.lax.scan(step, state, (a_x, within), reverse=suffix.endswith("reverse"))

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


PEERS: dict[str, Peer] = {
    peer.name: peer
    for peer in (
        *(Peer(name, partial(prepare_fastrnn, backend=name), backend=name) for name in ("cython", "numba", "numpy")),
        Peer("stream", prepare_stream, backend="cython", applies=can_stream),
        Peer("fastrnn.torch", partial(prepare_torch, library="fastrnn.torch"), ("torch",), backend="cython"),
        Peer("torch", prepare_torch, ("torch",)),
        Peer("torch-cell", prepare_torch_cell, ("torch",), applies=is_single_step),
        Peer("onnxruntime", prepare_onnxruntime, ("onnxruntime", "onnx")),
        Peer("jax", prepare_jax, ("jax",)),
    )
}
