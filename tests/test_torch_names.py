"""The private names of torch that `fastrnn.torch` rests on: they are why the extra `torch` has an upper bound."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from types import ModuleType

import pytest

import fastrnn

NAMES = {
    "torch._C._are_functorch_transforms_active": "whether a transform of torch.func is at work",
    "torch._C._autograd._top_saved_tensors_default_hooks": "whether hooks want to see what is saved for backward",
    "torch._C._dynamo.eval_frame._FrameAction": "functions that torch.compile runs as they are",
    "torch._C._dynamo.eval_frame._FrameExecStrategy": "the same",
    "torch._C._dynamo.eval_frame.set_code_exec_strategy": "the same",
    "torch._C._functorch.TransformType": "which transforms of torch.func are at work",
    "torch._C._functorch._add_batch_dim": "functions of ours go through their levels: of vmap",
    "torch._C._functorch._unwrap_batched": "the same",
    "torch._C._functorch._unwrap_for_grad": "the same, of grad, vjp and jvp",
    "torch._C._functorch._wrap_for_grad": "the same",
    "torch._C._functorch.get_interpreter_stack": "the same",
    "torch._C._functorch.get_unwrapped": "whether a gradient is wanted under one of them",
    "torch._C._functorch.is_batchedtensor": "whether a gradient is a batch of them",
    "torch._C._functorch.is_functorch_wrapped_tensor": "whether a gradient is wanted under a transform",
    "torch._C._functorch.peek_interpreter_stack": "functions of ours go through levels: whether one is left",
    "torch._C._functorch.unwrap_if_dead": "the same: tensors of levels that are over",
    "torch._functorch.pyfunctorch.retrieve_current_functorch_interpreter": "the same: which is the next one",
    "torch._functorch.utils.enable_single_level_autograd_function": "the same",
    "torch.autograd.forward_ad._set_fwd_grad_enabled": "the same",
    "torch.autograd.function._SingleLevelFunction": "the same",
    "torch._functorch.pyfunctorch.temporarily_clear_interpreter_stack": "arrays of masks under transforms",
    "torch._C._vmapmode_decrement_nesting": "how deep is_grads_batched=True is",
    "torch._C._vmapmode_increment_nesting": "the same",
    "torch._add_batch_dim": "batches of gradients, where is_grads_batched=True wants them",
    "torch._remove_batch_dim": "the same",
    "torch._C._get_mkldnn_enabled": "a second derivative goes round oneDNN, which has none",
    "torch._C._get_tracing_state": "whether torch.jit.trace is at work",
    "torch._C._len_torch_dispatch_stack": "whether a dispatch mode is at work",
    "torch._C._set_mkldnn_enabled": "a second derivative goes round oneDNN, which has none",
    "torch._VF": "torch's own recurrent layers, as functions",
    "torch.autograd.forward_ad._current_level": "whether forward-mode derivatives are asked for",
    "torch.cpu._is_avx512_bf16_supported": "whether torch's bfloat16 is the faster one",
    "torch.nn.RNN._flat_weights": "the parameters in their order",
    "torch.nn.RNN._update_flat_weights": "the parameters in their order, after one was replaced",
    "torch.Tensor._version": "whether y was written to since",
}
SOURCES = {path.name: path.read_text() for path in (Path(fastrnn.__file__).parent / "torch").glob("*.py")}


def look_up(name: str) -> object:
    """The object of a dotted name: modules are imported, `RNN` is an instance."""
    found: object = importlib.import_module("torch")
    at = "torch"
    for part in name.split(".")[1:]:
        at += f".{part}"
        if isinstance(found, ModuleType) and not hasattr(found, part):
            importlib.import_module(at)
        found = getattr(found, part)
        if at == "torch.nn.RNN":
            found = found(1, 1)  # type: ignore[operator]
    return found


@pytest.mark.parametrize("name", NAMES)
def test_private_name_is_there(name: str, torch: ModuleType) -> None:
    assert look_up(name) is not None


def test_no_private_name_of_torch_is_missing_from_the_list() -> None:
    found = {name for text in SOURCES.values() for name in re.findall(r"\btorch(?:\.\w+)*\._(?!_)\w+(?:\.\w+)*", text)}
    for text in SOURCES.values():
        for module, names in re.findall(r"^from (torch\.[\w.]+) import (.+)$", text, re.MULTILINE):
            found |= {
                f"{module}.{name.strip()}" for name in names.split(",") if "._" in module or name.strip()[0] == "_"
            }
    found = {name for name in found if not name.startswith("torch._dynamo")}  # in what is said to users
    missing = {name for name in found if not any(f"{known}.".startswith(f"{name}.") for known in NAMES)}
    assert not missing, "add them, and say what for"
