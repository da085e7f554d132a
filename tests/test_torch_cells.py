"""torch.nn's cells of one step on the kernels, in loops, against torch's own."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest

from fastrnn import ops

torch = pytest.importorskip("torch", reason="torch is not installed")
from torch import Tensor, nn  # noqa: E402
from torch.nn.utils import parametrizations  # noqa: E402

import fastrnn.torch as ours  # noqa: E402
from fastrnn.torch import cells  # noqa: E402

KINDS: dict[str, tuple[Any, dict[str, Any]]] = {
    "lstm": (nn.LSTMCell, {}),
    "gru": (nn.GRUCell, {"bias": False}),
    "rnn_tanh": (nn.RNNCell, {}),
    "rnn_relu": (nn.RNNCell, {"nonlinearity": "relu"}),
}
kinds = pytest.mark.parametrize("kind", list(KINDS))
T, N, I, H = 4, 3, 5, 7


@pytest.fixture(autouse=True)
def compiled(require: Callable[[bool, str], None]) -> None:
    backend, _ = ops.choose(None, None)
    require(ops.keeps(backend), "no backend with compiled kernels runs here")
    torch.manual_seed(0)


@pytest.fixture
def on_kernels(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Steps run there whatever the time; the cells of those that did."""
    run, steps = cells._step, []

    def count(cell: str, *given: Any) -> Any:
        steps.append(cell)
        return run(cell, *given)

    monkeypatch.setattr(cells, "_step", count)
    for kind in (ours.LSTMCell, ours.GRUCell, ours.RNNCell):
        monkeypatch.setattr(kind, "_is_faster", lambda *_: True)
    return steps


def pair(kind: str, **options: Any) -> tuple[Any, Any]:
    """A cell of torch.nn, and ours with its weights."""
    cls, more = KINDS[kind]
    cell = cls(I, H, **more, **options, dtype=torch.float64)
    for parameter in cell.parameters():
        nn.init.uniform_(parameter, -0.8, 0.8)
    return cell, ours.accelerate(copy.deepcopy(cell))


def state_of(cell: Any, *shape: int) -> Any:
    h = torch.rand(*shape, H, dtype=torch.float64)
    return (h, h.cos()) if isinstance(cell, nn.LSTMCell) else h


def loop(cell: Any, xs: Tensor, hx: Any) -> list[Tensor]:
    """All states of all steps, and the gradients of x, the initial states and the parameters."""
    xs = xs.clone().requires_grad_()
    first = [] if hx is None else [h.clone().requires_grad_() for h in (hx if isinstance(hx, tuple) else (hx,))]
    state = None if hx is None else tuple(first) if isinstance(hx, tuple) else first[0]
    states: list[Tensor] = []
    for x in xs:
        state = cell(x, state)
        states += state if isinstance(state, tuple) else (state,)
    loss = sum((s * torch.linspace(0.3, 1.7, s.numel()).reshape(s.shape)).sum() for s in states)
    return [*states, *torch.autograd.grad(loss, [xs, *first, *cell.parameters()])]


def assert_equal(got: list[Tensor], want: list[Tensor]) -> None:
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-10)


@kinds
@pytest.mark.parametrize("batched", [True, False], ids=["batched", "single"])
@pytest.mark.parametrize("with_state", [True, False], ids=["state", "zeros"])
def test_loops_equal_torchs(kind: str, batched: bool, with_state: bool, on_kernels: list[str]) -> None:
    want, got = pair(kind)
    shape = (N,) if batched else ()
    xs, hx = torch.randn(T, *shape, I, dtype=torch.float64), state_of(want, *shape) if with_state else None
    assert_equal(loop(got, xs, hx), loop(want, xs, hx))
    assert on_kernels == [kind] * T
    with torch.no_grad():
        assert_equal(
            [*torch.utils._pytree.tree_leaves(got(xs[0], hx))], [*torch.utils._pytree.tree_leaves(want(xs[0], hx))]
        )
    assert on_kernels == [kind] * (T + 1)


@kinds
def test_what_autograd_may_ask_for(kind: str, on_kernels: list[str]) -> None:
    """Backward twice, a batch of gradients, a gradient of a gradient."""
    found = []
    for cell in pair(kind):
        x = torch.linspace(-1, 1, N * I, dtype=torch.float64).reshape(N, I).requires_grad_()
        state = cell(x)
        h, leaves = state[0] if isinstance(state, tuple) else state, [x, *cell.parameters()]
        once = [torch.autograd.grad(h.square().sum(), leaves, retain_graph=True, allow_unused=True) for _ in range(2)]
        dh = torch.linspace(-1, 1, 2 * h.numel(), dtype=torch.float64).reshape(2, *h.shape)
        many = torch.autograd.grad(h, leaves, dh, is_grads_batched=True, retain_graph=True, allow_unused=True)
        (dx,) = torch.autograd.grad(h.square().sum(), x, create_graph=True)
        twice = torch.autograd.grad(dx.square().sum(), leaves, allow_unused=True)
        found.append([t for t in (*once[0], *once[1], *many, dx, *twice) if t is not None and t.abs().sum() > 0])
    assert_equal(found[1], found[0])
    assert on_kernels


@kinds
def test_what_is_left_to_torch(kind: str, on_kernels: list[str]) -> None:
    want, got = pair(kind)
    x, hx = torch.randn(N, I, dtype=torch.float64), state_of(want, N)

    def under_hooks(cell: Any) -> Any:
        with torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t):
            return cell(x, hx)

    def under_autocast(cell: Any) -> Any:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return cell(x, hx)

    calls: list[Callable[[Any], Any]] = [
        under_hooks,
        under_autocast,
        lambda cell: parametrizations.weight_norm(copy.deepcopy(cell), "weight_hh")(x, hx),
        lambda cell: copy.deepcopy(cell).bfloat16()(x.bfloat16()),
    ]
    for call in calls:
        assert_equal(torch.utils._pytree.tree_leaves(call(got)), torch.utils._pytree.tree_leaves(call(want)))
    assert not on_kernels
    for mistake in (x[:, :2], x[0, 0], x.float(), "x"):
        with pytest.raises((RuntimeError, ValueError, TypeError, AttributeError, IndexError)) as expected:
            want(mistake, hx)
        with pytest.raises(expected.type) as raised:
            got(mistake, hx)
        assert str(raised.value) == str(expected.value)


@kinds
def test_transforms(kind: str) -> None:
    """Of which torch's cells know none."""
    want, cell = pair(kind)
    xs = torch.randn(6, T, N, I, dtype=torch.float64)
    values = {name: p.detach() for name, p in cell.named_parameters()}

    def loss(values: Any, xs: Tensor) -> Tensor:
        state = None
        for x in xs:
            state = torch.func.functional_call(cell, values, (x, state))
        return torch.cat(torch.utils._pytree.tree_leaves(state)).square().sum()

    found = torch.func.vmap(torch.func.grad(loss), (None, 0))(values, xs)
    for at, each in enumerate(xs):
        leaves = {name: value.clone().requires_grad_() for name, value in values.items()}
        ours.restore(cell)
        gradients = torch.autograd.grad(loss(leaves, each), list(leaves.values()))
        assert_equal([found[name][at] for name in values], list(gradients))
    assert type(cell) is type(want)


@kinds
def test_classes_copies_and_reports(kind: str) -> None:
    want, got = pair(kind)
    assert isinstance(got, type(want))
    assert got.state_dict().keys() == want.state_dict().keys()
    copied = pickle.loads(pickle.dumps(got))
    assert type(copied) is type(copy.deepcopy(got)) is type(got)
    assert ours.report(nn.Sequential(got))[0] == ("0", type(want).__name__, True, "", "float32")
    assert not ours.report(want)[0].on_kernels
    with ours.restored(got):
        assert type(got) is type(want)
    assert type(ours.restore(got)) is type(want)


def test_steps_that_torch_takes_faster_are_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cells, "_step", None)
    ours.RNNCell(I, H)(torch.zeros(N, I))
    large = ours.GRUCell(1, 600)
    assert large(torch.zeros(2, 1)).shape == (2, 600)
    with torch.no_grad():
        assert ours.LSTMCell(I, H)(torch.zeros(I))[0].shape == (H,)


@kinds
def test_torchs_operator_is_called_as_its_cell_does(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    want, got = pair(kind)
    monkeypatch.setattr(type(got), "_is_faster", lambda *_: False)
    xs = torch.randn(T, N, I, dtype=torch.float64)
    for state in (None, state_of(want, N)):
        assert_equal(loop(got, xs, state), loop(want, xs, state))
    hx = state_of(want)
    assert_equal(loop(got, xs[:, 0], hx), loop(want, xs[:, 0], hx))
    hx = state_of(want, N)
    wide = tuple(h[:, :2] for h in hx) if isinstance(hx, tuple) else hx[:, :2]
    for mistake in (
        (xs[0, :, :2], hx),
        (xs[0, 0], hx),
        (xs, hx),
        (xs[0].float(), hx),
        (xs[0], (xs[0],)),
        (xs[0], wide),
    ):
        with pytest.raises((RuntimeError, ValueError, TypeError, AttributeError, IndexError)) as expected:
            want(*mistake)
        with pytest.raises(expected.type) as raised:
            got(*mistake)
        assert str(raised.value) == str(expected.value)
