"""Random LSTM, GRU and RNN nodes of ONNX, and models of one node, for the tests of `fastrnn.onnx`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from fastrnn.parameters import Array

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
ACTIVATIONS = {"LSTM": 3, "GRU": 2, "RNN": 1}
NUMBERS = {  # how many of alpha and beta an activation takes
    "Relu": 0,
    "Tanh": 0,
    "Sigmoid": 0,
    "Affine": 2,
    "LeakyRelu": 1,
    "ThresholdedRelu": 1,
    "ScaledTanh": 2,
    "HardSigmoid": 2,
    "Elu": 1,
    "Softsign": 0,
    "Softplus": 0,
}
INPUTS = ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P")
OUTPUTS = ("Y", "Y_h", "Y_c")


@dataclass(frozen=True)
class Problem:
    """A node, and what goes into it by the operator's names."""

    node: NodeProto
    arrays: dict[str, Array]

    @property
    def given(self) -> dict[str, Array]:
        """What is known at run time."""
        return {name: value for name, value in self.arrays.items() if name not in "WRBP"}


def draw(seed: int, *, plain: bool = False, dtype: str = "float32") -> Problem:
    """A random problem; of default activations and no options if it is plain."""
    rng = np.random.default_rng(seed)
    operator = str(rng.choice(list(GATES)))
    direction = str(rng.choice(["forward", "reverse", "bidirectional"]))
    D, G = 2 if direction == "bidirectional" else 1, GATES[operator]
    T, N, I, H = (int(rng.choice(sizes)) for sizes in ([1, 2, 5], [1, 3], [1, 2, 4], [1, 2, 5, 7]))
    options: dict[str, Any] = {} if direction == "forward" and rng.random() < 0.5 else {"direction": direction}
    options["hidden_size"] = H  # for which ONNX Runtime asks
    if operator == "GRU" and rng.random() < 0.6:
        options["linear_before_reset"] = int(rng.integers(2))
    if not plain:
        if rng.random() < 0.7:
            names = [str(name) for name in rng.choice(list(NUMBERS), ACTIVATIONS[operator] * D)]
            options["activations"] = names
            if rng.random() < 0.7:
                for key, least in (("activation_alpha", 1), ("activation_beta", 2)):
                    count = sum(NUMBERS[name] >= least for name in names)
                    if count:
                        options[key] = [float(v) for v in rng.uniform(0.1, 0.9, count)]
        if rng.random() < 0.4:
            options["clip"] = float(rng.uniform(0.3, 2))
        if operator == "LSTM" and rng.random() < 0.4:
            options["input_forget"] = int(rng.integers(2))

    def values(*shape: int) -> Array:
        return rng.normal(0, 0.5, shape).astype(dtype)

    arrays = {"X": values(T, N, I), "W": values(D, G * H, I), "R": values(D, G * H, H)}
    further = {"B": values(D, 2 * G * H), "initial_h": values(D, N, H)}
    further["sequence_lens"] = rng.integers(0, T + 1, N).astype(np.int32)
    if operator == "LSTM":
        further |= {"initial_c": values(D, N, H)} | ({} if plain else {"P": values(D, 3 * H)})
    arrays |= {name: value for name, value in further.items() if rng.random() < 0.6}
    inputs = [name if name in arrays else "" for name in INPUTS]
    while not inputs[-1]:
        inputs.pop()
    outputs = [name if rng.random() < 0.8 else "" for name in OUTPUTS[: 3 if operator == "LSTM" else 2]]
    outputs[0] = outputs[0] or ("" if any(outputs) else "Y")
    while not outputs[-1]:
        outputs.pop()
    return Problem(helper.make_node(operator, inputs, outputs, name="it", **options), arrays)


def value_of(name: str, dtype: Any, shape: Any = None) -> Any:
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), shape)


def model_of(problem: Problem) -> ModelProto:
    """A model of its node alone, the weights initializers."""
    given = [value_of(name, value.dtype, value.shape) for name, value in problem.given.items()]
    weights = [numpy_helper.from_array(problem.arrays[name], name) for name in "WRBP" if name in problem.arrays]
    outputs = [value_of(name, problem.arrays["X"].dtype) for name in problem.node.output if name]
    return as_model([problem.node], given, outputs, weights)


def as_model(nodes: Any, inputs: Any, outputs: Any, weights: Any = (), opset: int = 17) -> ModelProto:
    """A model that ONNX Runtime reads."""
    graph = helper.make_graph(nodes, "graph", inputs, outputs, weights)
    opsets = [helper.make_opsetid("", opset)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=helper.find_min_ir_version_for(opsets))


def by_runtime(model: ModelProto, given: dict[str, Array]) -> list[Array]:
    """What ONNX Runtime says."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return list(session.run(None, given))


__all__ = ["Problem", "TensorProto", "as_model", "by_runtime", "draw", "model_of", "onnx", "value_of"]
