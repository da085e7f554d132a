"""16-bit modules and autocast: torch.nn's dtypes, float32's numbers, rounded once."""

from __future__ import annotations

import contextlib
import copy
import itertools
from collections.abc import Callable
from typing import Any

import pytest

from fastrnn import ops

torch = pytest.importorskip("torch", reason="torch is not installed")
from torch import Tensor, nn  # noqa: E402
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence  # noqa: E402

import fastrnn.torch as ours  # noqa: E402
from fastrnn.torch import precision  # noqa: E402

KINDS: dict[str, tuple[Any, dict[str, Any]]] = {
    "rnn": (nn.RNN, {"num_layers": 2}),
    "lstm": (nn.LSTM, {"num_layers": 2, "bidirectional": True}),
    "lstm_projected": (nn.LSTM, {"proj_size": 5}),
    "gru": (nn.GRU, {"bidirectional": True}),
}
kinds = pytest.mark.parametrize("kind", list(KINDS))
pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN:UserWarning")
LOW = [torch.bfloat16, torch.float16]
T, N, I, H = 5, 3, 4, 6


@pytest.fixture(autouse=True)
def on_kernels(require: Callable[[bool, str], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the CPU, the kernels run; and a fallback, which warns, is an error."""
    backend, _ = ops.choose(None, None)
    require(ops.keeps(backend), "no backend with compiled kernels runs here")
    monkeypatch.setattr(precision, "MULTIPLIES_BFLOAT16", False)
    monkeypatch.setattr(precision, "kernels_multiply_bfloat16", lambda: False)
    torch.manual_seed(0)


def pair(kind: str) -> tuple[Any, Any]:
    """A module of torch.nn with O(1) weights, and ours with these."""
    cls, options = KINDS[kind]
    module = cls(I, H, **options)
    for parameter in module.parameters():
        nn.init.uniform_(parameter, -0.8, 0.8)
    return module, ours.accelerate(copy.deepcopy(module))


def state_of(module: Any, dtype: Any) -> Any:
    rows = module.num_layers * (1 + module.bidirectional)
    h = torch.randn(rows, N, module.proj_size or H).to(dtype)
    return (h, torch.randn(rows, N, H).to(dtype)) if module.mode == "LSTM" else h


def in_double(hx: Any) -> Any:
    return torch.utils._pytree.tree_map(lambda h: None if h is None else h.double(), hx)


def run(module: Any, x: Tensor, hx: Any, packed: bool, low: Any) -> tuple[list[Tensor], list[Tensor]]:
    """All outputs, and the gradients of x and the parameters, under autocast if `low` is given."""
    leaf = x.clone().requires_grad_()
    with torch.autocast("cpu", dtype=low) if low else contextlib.nullcontext():
        y, state_n = module(pack_padded_sequence(leaf, [5, 3, 2]) if packed else leaf, hx)
    outputs = [
        y.data if isinstance(y, PackedSequence) else y,
        *(state_n if isinstance(state_n, tuple) else (state_n,)),
    ]
    # Gradients of the outputs that 16 bits hold: only results are rounded
    loss = sum((t.double() * ((torch.arange(t.numel()) % 7 - 2) / 4).reshape(t.shape)).sum() for t in outputs)
    return outputs, list(torch.autograd.grad(loss, [leaf, *module.parameters()]))


def assert_rounded_once(got: list[Tensor], exact: list[Tensor]) -> None:
    """Half a unit of the last place of the 16 bits, and what float32 adds."""
    for mine, wanted in zip(got, exact, strict=True):
        unit = torch.finfo(mine.dtype).eps / 2
        torch.testing.assert_close(mine.double(), wanted.double(), rtol=1.01 * unit + 1e-5, atol=1e-5)


@kinds
@pytest.mark.parametrize("low", LOW, ids=str)
@pytest.mark.parametrize("packed", [False, True], ids=["", "packed"])
@pytest.mark.parametrize("with_state", [False, True], ids=["", "state"])
def test_16_bit_modules(kind: str, low: Any, packed: bool, with_state: bool) -> None:
    want, got = (module.to(low) for module in pair(kind))
    x, hx = torch.randn(T, N, I).to(low), state_of(want, low) if with_state else None
    outputs, gradients = run(got, x, hx, packed, None)
    torchs, torchs_gradients = run(want, x, hx, packed, None)
    assert [t.dtype for t in (*outputs, *gradients)] == [t.dtype for t in (*torchs, *torchs_gradients)]
    exact, exact_gradients = run(copy.deepcopy(want).double(), x.double(), in_double(hx), packed, None)
    assert_rounded_once(outputs, exact)
    assert_rounded_once(gradients, exact_gradients)


@kinds
@pytest.mark.parametrize("low", LOW, ids=str)
@pytest.mark.parametrize("packed", [False, True], ids=["", "packed"])
def test_autocast_gives_torchs_dtypes(kind: str, low: Any, packed: bool) -> None:
    """Whatever module, input and states are, wherever torch gives anything."""
    modules, compared = pair(kind), 0
    for of_module, of_x, of_state in itertools.product(
        [torch.float32, low], [torch.float32, low], [None, torch.float32, low]
    ):
        want, got = (copy.deepcopy(module).to(of_module) for module in modules)
        x, hx = torch.randn(T, N, I).to(of_x), state_of(want, of_state) if of_state else None
        outputs, gradients = run(got, x, hx, packed, low)
        exact, _ = run(copy.deepcopy(want).double(), x.double(), in_double(hx), packed, None)
        assert_rounded_once(outputs, exact)
        assert [t.dtype for t in gradients] == [of_x, *[of_module] * len(list(want.parameters()))]
        onednn = kind == "lstm" and not packed
        if onednn and (low is torch.float16 or not torch.ops.mkldnn._is_mkldnn_bf16_supported()):
            continue  # torch has none on this CPU
        torchs, _ = run(want, x, hx, packed, low)
        assert [t.dtype for t in outputs] == [t.dtype for t in torchs]
        compared += 1
    assert compared or (kind == "lstm" and not packed)


@kinds
def test_float64_is_not_changed_by_autocast(kind: str) -> None:
    want, got = (module.double() for module in pair(kind))
    x = torch.randn(T, N, I, dtype=torch.float64)
    outputs, gradients = run(got, x, None, False, torch.bfloat16)
    torchs, torchs_gradients = run(want, x, None, False, torch.bfloat16)
    torch.testing.assert_close([*outputs, *gradients], [*torchs, *torchs_gradients], rtol=1e-9, atol=1e-10)


@kinds
def test_per_sample_gradients_under_autocast(kind: str) -> None:
    _, module = pair(kind)
    x = torch.randn(7, T, N, I)
    values = {name: p.detach() for name, p in module.named_parameters()}

    def loss(values: Any, x: Tensor) -> Tensor:
        return torch.func.functional_call(module, values, (x,))[0].float().square().sum()

    per_sample = torch.func.vmap(torch.func.grad(loss), (None, 0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = per_sample(values, x)
    exact = per_sample(values, x)
    for name, gradient in found.items():
        assert gradient.dtype is torch.float32
        torch.testing.assert_close(gradient, exact[name], rtol=0.05, atol=0.05 * float(exact[name].abs().max()))


def test_torch_keeps_what_its_bfloat16_is_faster_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "MULTIPLIES_BFLOAT16", True)
    lstm, gru = ours.LSTM(8, 8).bfloat16(), ours.GRU(8, 300).bfloat16()
    x = torch.randn(T, N, 8, dtype=torch.bfloat16)
    assert "ToCopy" not in lstm(x)[0].grad_fn.name()  # and nobody warns
    assert "ToCopy" not in gru(x)[0].grad_fn.name()
    assert torch.func.vmap(lstm)(torch.stack([x, x]))[0].shape == (2, T, N, 8)  # which torch's does not know
    small = ours.GRU(8, 8).bfloat16()
    calls: list[Any] = []
    monkeypatch.setattr(small, "_run_rounded", lambda *given: calls.append(given) or (x, [x]))
    small(x)
    assert calls


def test_what_is_of_several_dtypes_is_left_to_torch() -> None:
    module = ours.GRU(I, H).bfloat16()
    with pytest.raises((RuntimeError, ValueError), match="dtype"):
        module(torch.randn(T, N, I))
    with (
        pytest.warns(UserWarning, match="of one floating dtype, or what autocast makes such"),
        torch.autocast("cpu", dtype=torch.bfloat16),
    ):
        y, _ = module(torch.randn(T, N, I).half())
    assert y.dtype is torch.float32
