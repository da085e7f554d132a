"""torch's own samples of nn.RNN, LSTM, GRU and their cells, done to accelerated modules and to torch's.

They are what torch's tests of modules run on: torch.testing._internal.common_modules.module_db. Its name is private,
and it needs the package expecttest.
"""

from __future__ import annotations

import copy
import importlib.util
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from fastrnn import ops

torch = pytest.importorskip("torch", reason="torch is not installed")
from torch import Tensor, nn  # noqa: E402
from torch.func import functional_call, grad, vmap  # noqa: E402
from torch.nn.utils.rnn import PackedSequence  # noqa: E402

import fastrnn.torch as ours  # noqa: E402

CLASSES = (nn.RNN, nn.LSTM, nn.GRU, nn.RNNCell, nn.LSTMCell, nn.GRUCell)
classes = pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)


@pytest.fixture(autouse=True)
def there(require: Callable[[bool, str], None]) -> Iterator[None]:
    backend, _ = ops.choose(None, None)
    require(ops.keeps(backend), "no backend with compiled kernels runs here")
    require(importlib.util.find_spec("expecttest") is not None, "expecttest is not installed, which module_db needs")
    torch.manual_seed(0)
    state, default = torch.get_rng_state(), torch.get_default_dtype()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="There is a performance drop because", category=UserWarning)
        yield
    torch.set_default_dtype(default)  # which the import of torch's testing changes
    torch.set_rng_state(state)


def pairs(cls: Any, **options: Any) -> list[tuple[Any, Any, tuple[Any, ...]]]:
    """For each sample torch's module, ours, and what they are called with."""
    from torch.testing._internal.common_modules import module_db

    found = []
    for info in (each for each in module_db if each.module_cls is cls):
        made = info.module_inputs_func(
            info, device="cpu", dtype=torch.float64, requires_grad=True, training=True, **options
        )
        for sample in made:
            given = sample.constructor_input
            module = cls(*given.args, **given.kwargs, dtype=torch.float64)
            accelerated = ours.accelerate(copy.deepcopy(nn.Sequential(module)))[0]
            assert not sample.forward_input.kwargs
            found.append((module, accelerated, tuple(sample.forward_input.args)))
    return found


def leaves(tree: Any) -> list[Tensor]:
    """Tensors of numbers, of packed sequences too."""
    found: list[Tensor] = []
    for each in tree if isinstance(tree, (tuple, list)) and not isinstance(tree, PackedSequence) else (tree,):
        if isinstance(each, (tuple, list)) and not isinstance(each, PackedSequence):
            found += leaves(each)
        elif each is not None:
            found.append(each.data if isinstance(each, PackedSequence) else each)
    return found


def loss(outputs: Any) -> Tensor:
    return sum((t * torch.linspace(0.3, 1.7, t.numel(), dtype=t.dtype).reshape(t.shape)).sum() for t in leaves(outputs))  # type: ignore[return-value]


def derivatives(module: Any, given: tuple[Any, ...]) -> list[Any]:
    """Outputs, first derivatives, and those of these."""
    wanted = [*[t for t in leaves(given) if t.requires_grad], *module.parameters()]
    outputs = module(*given)
    first = torch.autograd.grad(loss(outputs), wanted, create_graph=True)
    second = torch.autograd.grad(loss([g.square() for g in first]), wanted, allow_unused=True)
    zeros = [torch.zeros_like(t) if g is None else g for g, t in zip(second, wanted, strict=True)]
    return [leaves(outputs), list(first), zeros]


@classes
def test_outputs_and_derivatives(cls: Any) -> None:
    samples = pairs(cls)
    if cls in (nn.RNN, nn.GRU):
        samples += pairs(cls, with_packed_sequence=True)
    assert samples
    for module, accelerated, given in samples:
        assert type(accelerated) is getattr(ours, cls.__name__)
        torch.testing.assert_close(
            derivatives(accelerated, given), derivatives(module, given), rtol=1e-9, atol=1e-10, msg=repr(module)
        )


@classes
def test_gradcheck_and_gradgradcheck(cls: Any) -> None:
    """As torch checks its modules: of the inputs, in the fast mode."""
    for _, accelerated, given in pairs(cls):

        def outputs(*inputs: Any, module: Any = accelerated) -> Any:
            hx = inputs[1:] if isinstance(module, (nn.LSTM, nn.LSTMCell)) and len(inputs) > 1 else inputs[1:2]
            return tuple(leaves(module(inputs[0], *([hx] if len(hx) > 1 else hx))))

        inputs = tuple(leaves(given))
        assert torch.autograd.gradcheck(outputs, inputs, fast_mode=True)
        assert torch.autograd.gradgradcheck(outputs, inputs, fast_mode=True)


@classes
def test_vmap_and_gradients_of_samples(cls: Any) -> None:
    for module, accelerated, given in pairs(cls):
        batch = torch.utils._pytree.tree_map(lambda t: torch.stack([t, 2 * t.cos(), -t]).detach(), given)
        each = [torch.utils._pytree.tree_map(lambda t, at=at: t[at], batch) for at in range(3)]
        values = {name: p.detach() for name, p in module.named_parameters()}

        def its_loss(values: Any, *given: Any, module: Any = accelerated) -> Tensor:
            return loss(functional_call(module, values, given))

        got = vmap(accelerated)(*batch)
        torch.testing.assert_close(
            leaves(got), [torch.stack(parts) for parts in zip(*[leaves(module(*its)) for its in each], strict=True)]
        )
        found = vmap(grad(its_loss), (None, *[0] * len(batch)))(values, *batch)
        for at, its in enumerate(each):
            want = torch.autograd.grad(loss(module(*its)), list(module.parameters()))
            torch.testing.assert_close([found[name][at] for name in values], list(want))
