"""Modules under torch.func's transforms: what one call after the other gives, by torch's own modules."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import fastrnn
from fastrnn import ops
from fastrnn.cells.library import LIBRARY

torch = pytest.importorskip("torch", reason="torch is not installed")
from torch import Tensor, nn  # noqa: E402
from torch.func import functional_call, grad, jacrev, stack_module_state, vjp, vmap  # noqa: E402
from torch.nn.utils.rnn import pack_padded_sequence  # noqa: E402

import fastrnn.torch as ours  # noqa: E402

KINDS: dict[str, tuple[Any, dict[str, Any]]] = {
    "rnn_tanh": (nn.RNN, {"bidirectional": True}),
    "rnn_relu": (nn.RNN, {"nonlinearity": "relu", "bias": False}),
    "lstm": (nn.LSTM, {}),
    "lstm_layers": (nn.LSTM, {"num_layers": 2, "bidirectional": True}),
    "lstm_projected": (nn.LSTM, {"proj_size": 5, "bidirectional": True}),
    "gru": (nn.GRU, {}),
    "gru_reverse": (nn.GRU, {"num_layers": 2, "bidirectional": True, "bias": False}),
}
kinds = pytest.mark.parametrize("kind", list(KINDS))
B, T, N, I, H = 5, 4, 3, 2, 6


@pytest.fixture(autouse=True)
def compiled(require: Callable[[bool, str], None]) -> None:
    backend, _ = ops.choose(None, None)
    require(ops.keeps(backend), "no backend with compiled kernels runs here")


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # what these compare with is thousands of small operations
    with warnings.catch_warnings():  # whatever falls back to torch is an error
        warnings.filterwarnings("ignore", message="There is a performance drop because", category=UserWarning)
        yield
    torch.set_num_threads(threads)


def theirs(kind: str, dtype: Any = torch.float64) -> Any:
    cls, options = KINDS[kind]
    module = cls(I, H, **options, dtype=dtype)
    for parameter in module.parameters():
        nn.init.uniform_(parameter, -0.8, 0.8)
    return module


def pair(kind: str, dtype: Any = torch.float64) -> tuple[Any, Any]:
    """A module of torch.nn, and ours with its weights."""
    module = theirs(kind, dtype)
    return module, ours.accelerate(copy.deepcopy(module))


def some(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64)


def state_of(module: Any, *batch: int) -> Any:
    """Initial states, which differ."""
    rows = module.num_layers * (1 + module.bidirectional)
    h = some(*batch, rows, N, module.proj_size or H)
    return (h, some(*batch, rows, N, H)) if module.mode == "LSTM" else h


def parameters(module: Any) -> dict[str, Tensor]:
    return {name: p.detach() for name, p in module.named_parameters()}


def loss_of(module: Any) -> Callable[..., Tensor]:
    """A loss of the parameters, the input and the states, that sends different gradients into every output."""

    def loss(values: dict[str, Tensor], *given: Any) -> Tensor:
        outputs = torch.utils._pytree.tree_leaves(functional_call(module, values, given))
        outputs = [t for t in outputs if t is not None and t.is_floating_point()]
        return sum((t * torch.linspace(0.3, 1.7, t.numel()).reshape(t.shape)).sum() for t in outputs)  # type: ignore

    return loss


def plainly(module: Any, values: dict[str, Tensor], *given: Any) -> dict[str, Tensor]:
    """The gradients of `loss_of` with respect to the parameters, by backward."""
    leaves = {name: value.clone().requires_grad_() for name, value in values.items()}
    return dict(zip(leaves, torch.autograd.grad(loss_of(module)(leaves, *given), list(leaves.values())), strict=True))


def stacked(results: list[Any]) -> Any:
    return torch.utils._pytree.tree_map(lambda *parts: torch.stack(parts), *results)


def at(tree: Any, index: Any) -> Any:
    return torch.utils._pytree.tree_map(lambda t: t[index], tree)


def assert_equal(got: Any, want: Any) -> None:
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-10, check_dtype=False)


# ---- vmap


@kinds
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_batch_of_inputs(kind: str, axis: int) -> None:
    want, got = pair(kind)
    x = some(B, T, N, I)
    found = vmap(got, in_dims=axis)(x.movedim(0, axis))
    assert_equal(found, stacked([want(each) for each in x]))


@kinds
def test_states_alone_or_with_the_input(kind: str) -> None:
    want, got = pair(kind)
    x, hx = some(B, T, N, I), state_of(want, B)
    both = vmap(got)(x, hx)
    assert_equal(both, stacked([want(x[b], at(hx, b)) for b in range(B)]))
    states = vmap(got, (None, 0))(x[0], hx)
    assert_equal(states, stacked([want(x[0], at(hx, b)) for b in range(B)]))


def test_single_sequences_batch_first() -> None:
    want = nn.GRU(I, H, 2, batch_first=True, dtype=torch.float64)
    got = ours.accelerate(copy.deepcopy(want))
    x = some(B, T, I)
    assert_equal(vmap(got)(x), stacked([want(each) for each in x]))
    x = some(B, N, T, I)
    assert_equal(vmap(got)(x), stacked([want(each) for each in x]))


@kinds
def test_ensembles(kind: str) -> None:
    """Stacked parameters, on one input or on one for each, within a batch and around it."""
    members = [theirs(kind) for _ in range(3)]
    base = ours.accelerate(copy.deepcopy(members[0]))
    stack = {name: value.detach() for name, value in stack_module_state(members)[0].items()}
    x = some(B, T, N, I)

    def call(values: Any, x: Tensor) -> Any:
        return functional_call(base, values, (x,))

    assert_equal(vmap(call, (0, None))(stack, x[0]), stacked([member(x[0]) for member in members]))
    assert_equal(vmap(call)(stack, x[:3]), stacked([member(x[m]) for m, member in enumerate(members)]))
    by_member = stacked([stacked([member(each) for each in x]) for member in members])
    assert_equal(vmap(vmap(call, (None, 0)), (0, None))(stack, x), by_member)
    by_input = torch.utils._pytree.tree_map(lambda t: t.transpose(0, 1), by_member)
    assert_equal(vmap(vmap(call, (0, None)), (None, 0))(stack, x), by_input)


def written(name: str, heads: int = 1) -> Any:
    return ours.Recurrent(LIBRARY[name], I, H, num_layers=2, bidirectional=True, heads=heads, dtype=torch.float64)


ENSEMBLES: dict[str, Callable[[], Any]] = {
    **{kind: lambda kind=kind: ours.accelerate(theirs(kind)) for kind in KINDS},  # type: ignore[misc]
    "peephole_lstm": lambda: written("peephole_lstm"),
    "heads": lambda: written("slstm", 2),
}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", list(ENSEMBLES))
def test_members_are_what_they_are_alone_to_the_bit(kind: str, packed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """One grouped call for each layer and direction; heads, which are groups themselves, run one after the other."""
    members = [ENSEMBLES[kind]() for _ in range(3)]
    for parameter in [p for member in members for p in member.parameters()]:
        nn.init.uniform_(parameter, -0.8, 0.8)
    stack = {name: value.detach() for name, value in stack_module_state(members)[0].items()}
    rows = pack_padded_sequence(some(T, N, I), [4, 2, 1])

    def loss(values: Any, x: Tensor) -> Tensor:
        return loss_of(members[0])(values, rows._replace(data=x) if packed else x)

    x = some(3, *rows.data.shape) if packed else some(3, T, N, I)
    alone = stacked([grad(loss, (0, 1))(parameters(m), its) for m, its in zip(members, x, strict=True)])
    shared = stacked([grad(loss, (0, 1))(parameters(m), x[0]) for m in members])
    calls = []
    run_group = ops.run_group
    monkeypatch.setattr(ops, "run_group", lambda *given, **more: calls.append(given[6]) or run_group(*given, **more))
    torch.testing.assert_close(vmap(grad(loss, (0, 1)))(stack, x), alone, rtol=0, atol=0)
    backend, _ = ops.choose(None, None)
    layers = 2 * 2 if kind not in KINDS else members[0].num_layers * (1 + members[0].bidirectional)
    if hasattr(backend, "RUNS_GROUPS"):
        assert calls == ([2] * layers * 3 if kind == "heads" else [3] * layers)
    torch.testing.assert_close(vmap(grad(loss, (0, 1)), (0, None))(stack, x[0]), shared, rtol=0, atol=0)


def test_masks_and_resets_are_those_of_all() -> None:
    module = ours.LSTM(I, H, dtype=torch.float64)
    x, mask = some(B, T, N, I), torch.rand(T, N) > 0.3

    def call(values: Any, x: Tensor, mask: Tensor) -> Tensor:
        return functional_call(module, values, (x,), {"mask": mask, "resets": ~mask})[0].square().sum()

    found = vmap(grad(call), (None, 0, None))(parameters(module), x, mask)
    assert_equal(found, stacked([grad(call)(parameters(module), each, mask) for each in x]))
    with pytest.raises(ValueError, match=r"mask is mapped over by torch\.vmap; expected one for all"):
        vmap(call, (None, 0, 0))(parameters(module), x, torch.stack([mask] * B))


# ---- derivatives


@kinds
def test_gradients_and_products(kind: str) -> None:
    want, got = pair(kind)
    x, hx = some(T, N, I), state_of(want)
    assert_equal(grad(loss_of(got))(parameters(got), x, hx), plainly(want, parameters(want), x, hx))
    y, pull = vjp(lambda x: got(x, hx)[0], x)
    cotangent = torch.randn_like(y)
    leaf = x.clone().requires_grad_()
    assert_equal(pull(cotangent)[0], torch.autograd.grad(want(leaf, hx)[0], leaf, cotangent)[0])


@kinds
def test_jacobians(kind: str) -> None:
    want, got = pair(kind)
    x = some(2, 3, 2, I)
    rows = stacked([torch.autograd.functional.jacobian(lambda x: want(x)[0], each) for each in x])
    assert_equal(jacrev(lambda x: got(x)[0])(x[0]), rows[0])
    assert_equal(jacrev(lambda x: got(x)[0], chunk_size=7)(x[0]), rows[0])
    assert_equal(vmap(jacrev(lambda x: got(x)[0]))(x), rows)
    assert_equal(torch.autograd.functional.jacobian(lambda x: got(x)[0], x[0], vectorize=True), rows[0])
    weight = parameters(want)["weight_hh_l0"]

    def of_weight(module: Any) -> Callable[[Tensor], Tensor]:
        return lambda w: functional_call(module, {"weight_hh_l0": w}, (x[0],))[0]

    assert_equal(jacrev(of_weight(got))(weight), torch.autograd.functional.jacobian(of_weight(want), weight))


@kinds
def test_per_sample_gradients(kind: str) -> None:
    want, got = pair(kind)
    x, hx = some(2, B, T, N, I), state_of(want, 2, B)
    values = parameters(want)
    rows = [[plainly(want, values, x[a, b], at(hx, (a, b))) for b in range(B)] for a in range(2)]
    per_sample = vmap(grad(loss_of(got)), (None, 0, 0))
    assert_equal(per_sample(values, x[0], at(hx, 0)), stacked(rows[0]))
    twice = vmap(per_sample, (None, 0, 0))(values, x, hx)
    assert_equal(twice, stacked([stacked(each) for each in rows]))


@kinds
def test_per_sample_gradients_of_ensembles(kind: str) -> None:
    members = [theirs(kind) for _ in range(2)]
    base = ours.accelerate(copy.deepcopy(members[0]))
    stack = {name: value.detach() for name, value in stack_module_state(members)[0].items()}
    x = some(B, T, N, I)
    rows = stacked([stacked([plainly(m, parameters(m), each) for each in x]) for m in members])
    assert_equal(vmap(vmap(grad(loss_of(base)), (None, 0)), (0, None))(stack, x), rows)
    turned = vmap(vmap(grad(loss_of(base)), (0, None)), (None, 0))(stack, x)
    assert_equal(turned, {name: t.transpose(0, 1) for name, t in rows.items()})


def test_per_sample_gradients_of_packed_sequences() -> None:
    """The rows of a packed sequence are a tensor like any other."""
    want, got = pair("lstm_layers")
    lengths = [4, 3, 1]
    x = some(B, T, N, I)
    first = pack_padded_sequence(x[0], lengths)
    rows = torch.stack([pack_padded_sequence(each, lengths).data for each in x])

    def loss(module: Any) -> Callable[..., Tensor]:
        return lambda values, data: loss_of(module)(values, first._replace(data=data))

    found = vmap(grad(loss(got)), (None, 0))(parameters(got), rows)
    leaves = [{k: v.clone().requires_grad_() for k, v in parameters(want).items()} for _ in x]
    losses = [loss(want)(its, data) for its, data in zip(leaves, rows, strict=True)]
    expected = [
        dict(zip(its, torch.autograd.grad(one, list(its.values())), strict=True))
        for its, one in zip(leaves, losses, strict=True)
    ]
    assert_equal(found, stacked(expected))


def test_a_batch_is_put_in_order_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Single sequences, whose steps lie apart: not by NumPy, for the members and again for the look at the first."""
    copies, require = [], np.require
    monkeypatch.setattr(np, "require", lambda array, *args: copies.append(array.shape) or require(array, *args))
    want, got = pair("lstm")
    x = some(B, T, I)
    found = vmap(grad(loss_of(got)), (None, 0))(parameters(got), x)
    assert_equal(found, stacked([plainly(want, parameters(want), each) for each in x]))
    assert [shape for shape in copies if shape[-1] == I] == []


@pytest.mark.parametrize("backend", ["cython", "numba"], indirect=True)
def test_float32_on_each_backend(backend: str, restored: None, require: Callable[[bool, str], None]) -> None:
    require(ops.keeps(fastrnn.backends.load(backend)), f"{backend} does not take tapes apart")
    fastrnn.use_backend(backend)
    want, got = pair("gru")
    x = some(B, T, N, I)
    expected = stacked([plainly(want, parameters(want), each) for each in x])
    values = {name: value.float() for name, value in parameters(got).items()}
    found = vmap(grad(loss_of(got.float())), (None, 0))(values, x.float())
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4, check_dtype=False)


# ---- derivatives of derivatives


@pytest.mark.parametrize("kind", ["lstm_layers", "gru", "lstm_projected"])
def test_second_derivatives(kind: str) -> None:
    want, got = pair(kind)
    x = some(B, 3, 2, I)

    def energy(module: Any) -> Callable[[Tensor], Tensor]:
        return lambda x: module(x)[0].square().sum()

    rows = stacked([torch.autograd.functional.hessian(energy(want), each) for each in x[:2]])
    assert_equal(jacrev(grad(energy(got)))(x[0]), rows[0])
    assert_equal(vmap(jacrev(grad(energy(got))))(x[:2]), rows)

    def penalty(module: Any, per_sample: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> list[Tensor]:
        leaves = {name: value.clone().requires_grad_() for name, value in parameters(module).items()}
        norms = sum((i + 1) * g.flatten(1).norm(dim=1).sum() for i, g in enumerate(per_sample(leaves).values()))
        return list(torch.autograd.grad(norms, list(leaves.values())))

    def loop(leaves: dict[str, Tensor]) -> dict[str, Tensor]:
        found = [
            torch.autograd.grad(loss_of(want)(leaves, each), list(leaves.values()), create_graph=True) for each in x
        ]
        return stacked([dict(zip(leaves, its, strict=True)) for its in found])

    assert_equal(penalty(got, lambda leaves: vmap(grad(loss_of(got)), (None, 0))(leaves, x)), penalty(want, loop))


def test_third_derivatives_are_torchs() -> None:
    want, got = pair("gru")
    x = some(2, 1, I)

    def third(module: Any) -> Tensor:
        return grad(
            lambda x: grad(lambda x: grad(lambda x: module(x)[0].pow(3).sum())(x).pow(2).sum())(x).pow(2).sum()
        )(x)

    with pytest.warns(UserWarning, match="fastrnn's kernels have no third derivative"):
        found = third(got)
    assert_equal(found, third(want))


# ---- a cell of one's own, and tools


@pytest.mark.parametrize("name", ["peephole_lstm", "min_gru"])
def test_written_cells(name: str) -> None:
    module = ours.Recurrent(LIBRARY[name], I, H, num_layers=2, bidirectional=True, dtype=torch.float64)
    x = some(B, T, N, I)
    assert_equal(vmap(module)(x), stacked([module(each) for each in x]))
    found = vmap(grad(loss_of(module)), (None, 0))(parameters(module), x)
    assert_equal(found, stacked([plainly(module, parameters(module), each) for each in x]))
    rows = torch.autograd.functional.jacobian(lambda x: module(x)[0], x[0])
    assert_equal(jacrev(lambda x: module(x)[0])(x[0]), rows)
    with pytest.raises(NotImplementedError, match=f"the cell {name} has no derivative of its derivative"):
        jacrev(jacrev(lambda x: module(x)[0].sum()))(x[0])


@pytest.mark.filterwarnings("ignore:Full backward hook is firing")
def test_differentially_private_training_takes_them() -> None:
    """Opacus' optimizer, on our per-sample gradients and on those of its own LSTM, makes the same step."""
    opacus = pytest.importorskip("opacus", reason="opacus is not installed")
    layers = pytest.importorskip("opacus.layers")
    samples = pytest.importorskip("opacus.grad_sample")
    private = layers.DPLSTM(I, H, batch_first=True).double()
    module = ours.LSTM(I, H, batch_first=True, dtype=torch.float64)
    module.load_state_dict(private.state_dict())
    x = some(B, T, I)
    wrapped = samples.GradSampleModule(private, loss_reduction="sum")
    wrapped(x)[0].square().sum().backward()

    def loss(values: dict[str, Tensor], x: Tensor) -> Tensor:
        return functional_call(module, values, (x,))[0].square().sum()

    for name, gradient in vmap(grad(loss), (None, 0))(parameters(module), x).items():
        module.get_parameter(name).grad_sample = gradient
    stepped = []
    for model in (wrapped, module):
        optimizer = opacus.optimizers.DPOptimizer(
            torch.optim.SGD(model.parameters(), 0.1), noise_multiplier=0.0, max_grad_norm=0.5, expected_batch_size=B
        )
        optimizer.step()
        stepped.append(model.state_dict())
    before = ours.LSTM(I, H).state_dict()
    assert list(stepped[1]) == list(before)
    assert_equal(list(stepped[1].values()), [dict(private.state_dict())[name] for name in before])
