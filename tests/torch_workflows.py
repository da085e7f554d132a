"""What people do with a recurrent module of torch.nn besides calling it, each on a small one, and what then runs it.

`docs/from/torch.md` has a table of the same rows; `test_torch_workflows.py` does them, and compares the two.
"""

from __future__ import annotations

import copy
import io
import pickle
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, stack_module_state, vmap
from torch.nn.utils import parametrizations, prune
from torch.nn.utils.rnn import pack_padded_sequence
from torch.utils.checkpoint import checkpoint

import fastrnn
import fastrnn.torch as ours

KERNELS = "the kernels"
TORCH = "torch's own"
WARNED = "torch's own, with a warning"
PARTLY = "the kernels, then torch's own, with a warning"
REFUSED = "an error, which says why"

T, N, I, H = 4, 3, 2, 5


@dataclass(frozen=True)
class Workflow:
    """A row of the table."""

    name: str
    path: str
    do: Callable[[Any], Any]  # what it gives of a module: tensors
    of_stock: Callable[[Any], Any] | None = None  # what must come out, of torch's module, where that cannot `do` it
    make: Callable[[], Any] = lambda: nn.LSTM(I, H)


def numbers(*shape: int) -> Tensor:
    """The same ones at every call, O(1) and all different."""
    count = torch.Size(shape).numel()
    return (torch.arange(count, dtype=torch.float32) * 0.73).sin().reshape(shape)


def parameters(module: Any) -> dict[str, Tensor]:
    return {name: p.detach() for name, p in module.named_parameters()}


def loss(module: Any, *given: Any) -> Tensor:
    """Of all outputs, whose numbers weigh differently."""
    leaves = [t for t in torch.utils._pytree.tree_leaves(module(*given)) if t is not None and t.is_floating_point()]
    return sum((t.float() * (numbers(*t.shape) + 1.5)).sum() for t in leaves)  # type: ignore[return-value]


def loss_of(module: Any, values: dict[str, Tensor], x: Tensor) -> Tensor:
    return loss(lambda x: functional_call(module, values, (x,)), x)


def gradients(module: Any, *given: Any) -> list[Tensor]:
    """Of the loss, with respect to the parameters."""
    return list(torch.autograd.grad(loss(module, *(given or (numbers(T, N, I),))), list(module.parameters())))


def results(module: Any, *given: Any) -> list[Any]:
    """Outputs and gradients."""
    return [module(*(given or (numbers(T, N, I),))), gradients(module, *given)]


def stacked(*results: Any) -> Any:
    return torch.utils._pytree.tree_map(lambda *parts: torch.stack(parts), *results)


def of_samples(module: Any) -> Any:
    """The gradients of every sample, one after the other."""
    xs = numbers(3, T, N, I)
    return stacked(*[dict(zip(parameters(module), gradients(module, x), strict=True)) for x in xs])


def of_members(module: Any) -> Any:
    members, x = [copy.deepcopy(module) for _ in range(2)], numbers(T, N, I)
    return stacked(*[member(x) for member in members])


def ensemble(module: Any) -> Any:
    values, _ = stack_module_state([copy.deepcopy(module) for _ in range(2)])
    return vmap(lambda its: functional_call(module, its, (numbers(T, N, I),)))(values)


def penalty(module: Any) -> Any:
    x = numbers(T, N, I).requires_grad_()
    (dx,) = torch.autograd.grad(loss(module, x), x, create_graph=True)
    return torch.autograd.grad((dx.norm(dim=-1) - 1).square().sum(), list(module.parameters()), allow_unused=True)[:2]


def thrice(module: Any) -> Any:
    x = numbers(T, N, I).requires_grad_()
    found: Any = loss(module, x)
    for _ in range(3):
        (found,) = torch.autograd.grad(found.square().sum(), x, create_graph=True)
    return found


def batched_gradients(module: Any) -> Any:
    x = numbers(T, N, I).requires_grad_()
    y = module(x)[0]
    return torch.autograd.grad(y, x, numbers(2, *y.shape), is_grads_batched=True)


def batched_gradients_of_stock(module: Any) -> Any:
    x = numbers(T, N, I).requires_grad_()
    y = module(x)[0]
    return stacked(*[torch.autograd.grad(y, x, dy, retain_graph=True) for dy in numbers(2, *y.shape)])


def jacobian(module: Any, **options: Any) -> Any:
    return torch.autograd.functional.jacobian(lambda x: module(x)[0], numbers(2, 1, I), **options)


def forward_mode(module: Any) -> Any:
    with forward_ad.dual_level():
        y = module(forward_ad.make_dual(numbers(T, N, I), numbers(T, N, I).cos()))[0]
        return forward_ad.unpack_dual(y).tangent


def differences(module: Any) -> Any:
    """The tangent of y, of torch's module, which has none: the double backward gives it."""
    x, v = numbers(T, N, I), numbers(T, N, I).cos()
    with torch.backends.mkldnn.flags(enabled=False):
        return torch.autograd.functional.jvp(lambda x: module(x)[0], x, v)[1]


def without_onednn(do: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """oneDNN's LSTM has no second derivative."""

    def done(module: Any) -> Any:
        with torch.backends.mkldnn.flags(enabled=False):
            return do(module)

    return done


def hessian_of(module: Any) -> Any:
    return hessian(lambda x: loss(module, x))(numbers(2, 1, I))


def hessian_of_stock(module: Any) -> Any:
    return torch.autograd.functional.hessian(lambda x: loss(module, x), numbers(2, 1, I))


def autocast(module: Any) -> Any:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return module(numbers(T, N, I))[0].float()


def set_precision(module: Any, precision: str) -> Any:
    module = copy.deepcopy(module)
    module.precision = precision
    return module


def after(change: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """What a module gives once it was changed, from a seed."""

    def do(module: Any) -> Any:
        torch.manual_seed(1)
        changed = change(copy.deepcopy(module))
        return results(changed)

    return do


def averaged(module: Any) -> Any:
    model = torch.optim.swa_utils.AveragedModel(module)
    model.update_parameters(module)
    return model(numbers(T, N, I))


def loop(cell: Any) -> Any:
    def run(xs: Tensor) -> Any:
        state, states = None, []
        for x in xs:
            state = cell(x, state)
            states += list(state) if isinstance(state, tuple) else [state]
        return states

    return [run(numbers(T, N, I)), torch.autograd.grad(loss(run, numbers(T, N, I)), list(cell.parameters()))]


def gradients_of_checkpoint(module: Any) -> list[Tensor]:
    """Whose forward runs again in backward."""
    return gradients_of(module, lambda x: checkpoint(module, x, use_reentrant=False))


def gradients_of(module: Any, run: Callable[..., Any]) -> list[Tensor]:
    return list(torch.autograd.grad(loss(run, numbers(T, N, I)), list(module.parameters())))


def hooked(module: Any) -> Any:
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t.clone(), lambda t: t):
        return results(module)


def traced(module: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch, of tracing
        return torch.jit.trace(module, numbers(T, N, I), check_trace=False)(numbers(T, N, I))


def read_again(module: Any) -> Any:
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    file.seek(0)
    other = copy.deepcopy(module)
    with torch.no_grad():
        for p in other.parameters():
            p.zero_()
    other.load_state_dict(torch.load(file))
    return results(other)


def packed(module: Any) -> Any:
    return results(module, pack_padded_sequence(numbers(T, N, I), [2, 4, 1], enforce_sorted=False))


@fastrnn.cell(gates="f n")
def minimal(a: Any, prev: Any) -> Any:
    return prev.h + fastrnn.cells.sigmoid(a.f) * (fastrnn.cells.tanh(a.n) - prev.h)


WORKFLOWS = [
    Workflow("calls and `backward()`, layers, directions, projections", KERNELS, results,
             make=lambda: nn.LSTM(I, H, num_layers=2, bidirectional=True, proj_size=3)),
    Workflow("packed sequences, in any order, as they are: no copy is made of them", KERNELS, packed),
    Workflow("an RNN of one step", TORCH, lambda m: results(m, numbers(1, N, I)), make=lambda: nn.RNN(I, H)),
    Workflow("`create_graph=True`, gradient penalties", KERNELS, penalty, without_onednn(penalty)),
    Workflow("a third derivative", PARTLY, thrice, without_onednn(thrice)),
    Workflow("`torch.autograd.functional.jacobian`, also `vectorize=True`", KERNELS,
             lambda m: jacobian(m, vectorize=True), jacobian),
    Workflow("`is_grads_batched=True`", KERNELS, batched_gradients, batched_gradients_of_stock),
    Workflow("`torch.autograd.forward_ad`", KERNELS, forward_mode, differences),
    Workflow("`torch.func.jvp`", KERNELS,
             lambda m: jvp(lambda x: m(x)[0], (numbers(T, N, I),), (numbers(T, N, I).cos(),))[1], differences),
    Workflow("`torch.func.jacrev`", KERNELS, lambda m: jacrev(lambda x: m(x)[0])(numbers(2, 1, I)), jacobian),
    Workflow("`torch.func.jacfwd`", KERNELS, lambda m: jacfwd(lambda x: m(x)[0])(numbers(2, 1, I)), jacobian,
             make=lambda: nn.RNN(I, H)),
    Workflow("`torch.func.hessian`", KERNELS, hessian_of, hessian_of_stock, make=lambda: nn.RNN(I, H)),
    Workflow("`torch.func.vmap` over inputs", KERNELS, lambda m: vmap(m)(numbers(3, T, N, I)),
             lambda m: stacked(*[m(x) for x in numbers(3, T, N, I)])),
    Workflow("`vmap(grad(...))`: per-sample gradients", KERNELS,
             lambda m: vmap(grad(lambda *given: loss_of(m, *given)), (None, 0))(parameters(m), numbers(3, T, N, I)),
             of_samples),
    Workflow("ensembles of `stack_module_state`, all members at once", KERNELS, ensemble, of_members),
    Workflow("`torch.autocast(\"cpu\")`: products in bfloat16 where the CPU has it, else float32, rounded once",
             KERNELS, autocast, make=lambda: nn.GRU(I, H)),
    Workflow("`.bfloat16()`, `.half()`: the same", KERNELS,
             lambda m: copy.deepcopy(m).bfloat16()(numbers(T, N, I).bfloat16())[0].float(), make=lambda: nn.GRU(I, H)),
    Workflow("the same in a call of few rows", TORCH,
             lambda m: copy.deepcopy(m).half()(numbers(1, 1, I).half())[0].float(), make=lambda: nn.GRU(I, H)),
    Workflow("`module.precision = \"bfloat16\"`, with backward: factors are rounded", KERNELS,
             lambda m: results(set_precision(m, "bfloat16")), results),
    Workflow("`module.precision = \"int8\"`, in inference: factors are rounded", KERNELS,
             lambda m: torch.no_grad()(set_precision(m, "int8"))(numbers(T, N, I)), lambda m: m(numbers(T, N, I))),
    Workflow("`nn.LSTMCell`, `GRUCell` in a loop, with backward", KERNELS, loop, make=lambda: nn.LSTMCell(I, H)),
    Workflow("`nn.RNNCell` in a loop", TORCH, loop, make=lambda: nn.RNNCell(I, H)),
    Workflow("`weight_norm`", KERNELS, after(lambda m: parametrizations.weight_norm(m, "weight_hh_l0"))),
    Workflow("`spectral_norm`", KERNELS, after(lambda m: parametrizations.spectral_norm(m, "weight_hh_l0"))),
    Workflow("`orthogonal`", KERNELS, after(lambda m: parametrizations.orthogonal(m, "weight_ih_l0"))),
    Workflow("`prune`", KERNELS, after(lambda m: prune.l1_unstructured(m, "weight_ih_l0", amount=0.4))),
    Workflow("`AveragedModel`", KERNELS, averaged),
    Workflow("`share_memory`", KERNELS, after(lambda m: m.share_memory())),
    Workflow("`deepcopy`, `pickle`", KERNELS, lambda m: results(pickle.loads(pickle.dumps(m)))),
    Workflow("`state_dict` to a file and back", KERNELS, read_again),
    Workflow("`checkpoint`", KERNELS, gradients_of_checkpoint),
    Workflow("`saved_tensors_hooks`", KERNELS, hooked),
    Workflow("`torch.compile`", KERNELS, lambda m: results(torch.compile(m, backend="eager"))),
    Workflow("`torch.export`", KERNELS,
             lambda m: torch.export.export(m, (numbers(T, N, I),)).module()(numbers(T, N, I))),
    Workflow("`torch.jit.trace`", KERNELS, traced),
    Workflow("`torch.jit.script`", TORCH,
             lambda m: torch.jit.script(nn.Sequential(copy.deepcopy(m)))(numbers(T, N, I))),
    Workflow("an empty batch", WARNED, lambda m: m(numbers(T, 0, I))),
    Workflow("a gradient of a gradient of a cell of your own", REFUSED, penalty,
             make=lambda: ours.Recurrent(minimal, I, H)),
]  # fmt: skip
