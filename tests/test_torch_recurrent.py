"""fastrnn.torch.Recurrent against fastrnn.Recurrent: its numbers, and what torch's users do with modules."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
from calls import backends

import fastrnn
from fastrnn.cells import LIBRARY, tanh
from fastrnn.parameters import Array

torch = pytest.importorskip("torch", reason="torch is not installed")
from torch import Tensor  # noqa: E402
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence  # noqa: E402

import fastrnn.torch as ours  # noqa: E402

T, N, I, H = 6, 4, 3, 5
SOME = (
    "peephole_lstm",
    "janet",
    "slstm",
    "reset_before_gru",
    "min_gru",
    "ind_rnn",
    "lem",
    "layer_norm_reset_before_gru",
)
some = pytest.mark.parametrize("name", SOME)
OPTIONS: list[dict[str, Any]] = [
    {},
    {"num_layers": 2, "bidirectional": True},
    {"batch_first": True, "bias": False},
    {"num_layers": 3, "batch_first": True, "bidirectional": True},
]


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def pair(name: str, *sizes: int, dtype: Any = torch.float64, **options: Any) -> tuple[Any, fastrnn.Recurrent]:
    """A module of torch, and one without it with its weights."""
    module = ours.Recurrent(LIBRARY[name], *(sizes or (I, H)), dtype=dtype, **options)
    numpys = fastrnn.Recurrent(LIBRARY[name], *(sizes or (I, H)), dtype=str(dtype).split(".")[1], **options)
    numpys.load_state_dict(module.state_dict())
    return module, numpys


def leaf(*shape: int) -> Tensor:
    return torch.rand(shape, dtype=torch.float64).add_(0.5).requires_grad_()


def drawn_states(module: Any, *batch: int) -> list[Tensor]:
    D = 2 if module.bidirectional else 1
    return [leaf(module.num_layers * D, *batch, size) for size in module._state_sizes()]


def form(states: Any) -> Any:
    """A state as it is given and returned, or as a list."""
    if isinstance(states, list):
        return states[0] if len(states) == 1 else tuple(states)
    return list(states) if isinstance(states, tuple) else [states]


def arrays(tensors: list[Tensor]) -> list[Array]:
    return [t.detach().numpy() for t in tensors]


def compare(pair_of: tuple[Any, fastrnn.Recurrent], x: Tensor, states: list[Tensor] | None, **given: Any) -> None:
    """The same outputs, and the same gradients of everything."""
    module, numpys = pair_of
    tensors = {name: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for name, v in given.items()}
    y, state_n = module(x, states and form(states), **tensors)
    outputs = [y, *form(state_n)]
    weights = [torch.rand_like(out) for out in outputs]
    inputs = [x, *(states or []), *module.parameters()]
    gradients = torch.autograd.grad(sum((o * w).sum() for o, w in zip(outputs, weights, strict=True)), inputs)

    y_, state_, tape = numpys.forward(x.detach().numpy(), states and form(arrays(states)), **given)
    dx, dstate, grads = numpys.backward(tape, weights[0].numpy(), form(arrays(weights[1:])))
    want = [y_, *form(state_), dx, *(form(dstate) if states else []), *grads.values()]
    assert [*grads] == [name for name, _ in module.named_parameters()]
    for got, other in zip([*outputs, *gradients], want, strict=True):
        np.testing.assert_allclose(got.detach().numpy(), other, rtol=1e-10, atol=1e-11)


# ---- numbers


@pytest.mark.parametrize("name", list(LIBRARY))
def test_every_cell_equals_numpys(name: str) -> None:
    both = pair(name)
    compare(both, leaf(T, N, I), drawn_states(both[0], N))


@some
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("with_state", [False, True])
def test_every_option_equals_numpys(name: str, options: dict[str, Any], with_state: bool) -> None:
    both = pair(name, **options)
    x = leaf(N, T, I) if both[0].batch_first else leaf(T, N, I)
    compare(both, x, drawn_states(both[0], N) if with_state else None)


@pytest.mark.parametrize("name", ["min_lstm", "sru", "peephole_lstm"])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_projections_equal_numpys(name: str, options: dict[str, Any]) -> None:
    cell = LIBRARY[name]
    assert cell.program is not None
    if cell.program.reads_h or cell.program.m_gates:
        with pytest.raises(ValueError, match="proj_size is 2, but the equations"):
            ours.Recurrent(cell, I, H, proj_size=2, **options)
    else:
        both = pair(name, proj_size=2, **options)
        compare(both, leaf(N, T, I) if both[0].batch_first else leaf(T, N, I), drawn_states(both[0], N))


@some
def test_a_single_sequence_equals_numpys(name: str) -> None:
    both = pair(name, num_layers=2, batch_first=True)
    compare(both, leaf(T, I), drawn_states(both[0]))


@some
def test_masks_and_resets_equal_numpys(name: str) -> None:
    both = pair(name, num_layers=2, bidirectional=True)
    rng = np.random.default_rng(0)
    given = {"mask": rng.random((T, N)) < 0.7, "resets": rng.random((T, N)) < 0.2, "masked": "last"}
    compare(both, leaf(T, N, I), drawn_states(both[0], N), **given, reset_state="initial")


@some
@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True}], ids=str)
def test_packed_sequences_equal_numpys(name: str, options: dict[str, Any]) -> None:
    module, numpys = pair(name, **options)
    lengths = np.array([4, 6, 1, 5])
    x, states = leaf(T, N, I), drawn_states(module, N)
    packed = pack_padded_sequence(x, torch.from_numpy(lengths), enforce_sorted=False)
    out, state_n = module(packed, form(states))
    assert isinstance(out, PackedSequence)
    y, _ = pad_packed_sequence(out)
    outputs = [y, *form(state_n)]
    inputs = [x, *states, *module.parameters()]
    gradients = torch.autograd.grad(sum(o.square().sum() for o in outputs), inputs)
    y_, state_, tape = numpys.forward(x.detach().numpy(), form(arrays(states)), lengths=lengths)
    dx, dstate, grads = numpys.backward(tape, 2 * y_, form([2 * s for s in form(state_)]))
    want = [y_, *form(state_), dx, *form(dstate), *grads.values()]
    for got, other in zip([*outputs, *gradients], want, strict=True):
        np.testing.assert_allclose(got.detach().numpy(), other, rtol=1e-10, atol=1e-11)


@some
def test_gradients_are_those_of_the_function(name: str) -> None:
    module = ours.Recurrent(LIBRARY[name], 2, 3, bidirectional=True, dtype=torch.float64)
    states, names = drawn_states(module, 2), [name for name, _ in module.named_parameters()]

    def run(x: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
        for own, tensor in zip(names, tensors[len(states) :], strict=True):
            module.__dict__[own] = tensor  # found before the parameter is
        y, state_n = module(x, form(list(tensors[: len(states)])))
        return y, *form(state_n)

    leaves = [p.detach().clone().requires_grad_() for p in module.parameters()]
    assert torch.autograd.gradcheck(run, (leaf(3, 2, 2), *states, *leaves))


@backends
def test_runs_on_every_backend(backend: str, restored: None) -> None:
    fastrnn.use_backend(backend)
    both = pair("peephole_lstm", num_layers=2, bidirectional=True)
    assert fastrnn.info().used == backend
    compare(both, leaf(T, N, I), drawn_states(both[0], N))


def test_float32_equals_numpys_bits() -> None:
    module, numpys = pair("peephole_lstm", 7, 21, dtype=torch.float32, num_layers=2)
    x = torch.randn(9, 5, 7)
    y, state_n = module(x)
    y_, state_ = numpys(x.numpy())
    assert (y.detach().numpy() == y_).all()
    assert all((one.detach().numpy() == other).all() for one, other in zip(state_n, state_, strict=True))
    with torch.no_grad():
        assert torch.equal(module(x)[0], y)


# ---- as a module


@some
def test_state_dicts_go_both_ways(name: str) -> None:
    module, numpys = pair(name, num_layers=2, bidirectional=True)
    other = ours.Recurrent(LIBRARY[name], I, H, num_layers=2, bidirectional=True, dtype=torch.float64)
    x = leaf(T, N, I)
    assert not torch.equal(other(x)[0], module(x)[0])
    other.load_state_dict({key: torch.from_numpy(value) for key, value in numpys.state_dict().items()})
    assert torch.equal(other(x)[0], module(x)[0])


def test_parametrizations_are_trained() -> None:
    module = torch.nn.utils.parametrizations.weight_norm(ours.Recurrent(LIBRARY["janet"], I, H), "weight_hh_l0")
    module(torch.randn(T, N, I))[0].square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in module.parameters())


@some
def test_copies_and_pickles_compute_the_same(name: str) -> None:
    module = ours.Recurrent(LIBRARY[name], I, H, num_layers=2)
    x = torch.randn(T, N, I)
    for again in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert again.cell is module.cell
        assert torch.equal(again(x)[0], module(x)[0])
        assert again.weight_ih_l0.data_ptr() != module.weight_ih_l0.data_ptr()


def test_a_cell_that_no_module_has_is_copied_too() -> None:
    @fastrnn.cell(gates="n")
    def local(a: Any, prev: Any) -> Any:
        return tanh(a.n)

    module = ours.Recurrent(local, I, H)
    assert copy.deepcopy(module).cell is local
    assert copy.copy(local) is local
    assert copy.deepcopy(fastrnn.Recurrent(local, I, H)).cell is local


def test_parameters_begin_where_torch_and_the_cell_say() -> None:
    module = ours.Recurrent(LIBRARY["fast_rnn"], 4, 400)
    assert module.unit_l0.tolist() == [[-3.0] * 400, [3.0] * 400]
    bound = 1 / 20
    for name in ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0"):
        assert 0.9 * bound < getattr(module, name).abs().max() <= bound
    torch.manual_seed(0)
    again = ours.Recurrent(LIBRARY["fast_rnn"], 4, 400)
    assert torch.equal(again.weight_hh_l0, module.weight_hh_l0)
    assert repr(module) == "Recurrent(fast_rnn, 4, 400)"


@pytest.mark.parametrize("name", ["peephole_lstm", "min_gru", "reset_before_gru"])
def test_trains(name: str) -> None:
    model = torch.nn.ModuleDict({"rnn": ours.Recurrent(LIBRARY[name], 3, 16), "out": torch.nn.Linear(16, 1)})
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    x = torch.randn(8, 16, 3)
    wanted, losses = x.mean((0, 2)), []
    for _ in range(60):
        loss = (model["out"](model["rnn"](x)[0][-1])[:, 0] - wanted).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.2 * losses[0]


def test_dropout_is_between_layers_while_training() -> None:
    module = ours.Recurrent(LIBRARY["janet"], I, H, num_layers=2, dropout=0.5)
    x = torch.randn(T, N, I)
    assert not torch.equal(module(x)[0], module(x)[0])
    module.eval()
    assert torch.equal(module(x)[0], module(x)[0])


def test_a_graph_that_is_retained_gives_the_same_gradients_again() -> None:
    module = ours.Recurrent(LIBRARY["lem"], I, H, num_layers=2, bidirectional=True)
    loss = module(torch.randn(T, N, I))[0].square().sum()
    first = torch.autograd.grad(loss, [*module.parameters()], retain_graph=True)
    second = torch.autograd.grad(loss, [*module.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


def test_what_hooks_give_back_is_what_backward_takes() -> None:
    module = ours.Recurrent(LIBRARY["peephole_lstm"], I, H)
    x, halves = torch.randn(T, N, I), copy.deepcopy(module)
    with torch.no_grad():
        for parameter in halves.parameters():
            parameter /= 2
    want = torch.autograd.grad(halves(x / 2)[0].sum(), [*halves.parameters()])
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t / 2, lambda t: t):
        loss = module(x)[0].sum()
    for one, other in zip(torch.autograd.grad(loss, [*module.parameters()]), want, strict=True):
        assert torch.equal(one, other)


def test_hooks_see_what_is_kept() -> None:
    module = ours.Recurrent(LIBRARY["peephole_lstm"], I, H)
    x = torch.randn(T, N, I)
    want = torch.autograd.grad(module(x)[0].square().sum(), [*module.parameters()])
    seen: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: seen.append(t) or t.clone(), lambda t: t):
        loss = module(x)[0].square().sum()
    assert len(seen) >= 1 + 2 + 5  # x, the states, the parameters
    for one, other in zip(torch.autograd.grad(loss, [*module.parameters()]), want, strict=True):
        assert torch.equal(one, other)
    loss = torch.utils.checkpoint.checkpoint(lambda x: module(x)[0], x, use_reentrant=False).square().sum()
    for one, other in zip(torch.autograd.grad(loss, [*module.parameters()]), want, strict=True):
        assert torch.equal(one, other)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # Dynamo looks at it
def test_compiled_models_run_it_as_it_is() -> None:
    module = ours.Recurrent(LIBRARY["min_gru"], I, H)
    x = torch.randn(T, N, I)

    def model(x: Tensor) -> Tensor:
        y: Tensor = module(2 * x)[0]
        return y + 1

    compiled = torch.compile(model, backend="eager")
    assert torch.equal(compiled(x), model(x))
    compiled(x).sum().backward()
    assert module.weight_ih_l0.grad is not None
    assert torch.equal(torch.compile(module, backend="eager")(x)[0], module(x)[0])
    torch.compiler.reset()


# ---- mistakes


def test_what_it_cannot_be_made_of_is_named() -> None:
    with pytest.raises(TypeError, match=r"cell is 'lstm'; expected one that fastrnn\.cell has made"):
        ours.Recurrent("lstm", I, H)
    with pytest.raises(TypeError, match=r"dtype is torch\.float16; expected torch\.float32 or torch\.float64"):
        ours.Recurrent(LIBRARY["janet"], I, H, dtype=torch.float16)
    with pytest.raises(ValueError, match="hidden_size is 0"):
        ours.Recurrent(LIBRARY["janet"], I, 0)


@pytest.mark.parametrize(
    ("x", "hx", "error", "message"),
    [
        (np.zeros((T, N, I)), None, TypeError, "x is a ndarray; expected a tensor"),
        (torch.zeros(T, N, I, dtype=torch.bfloat16), None, TypeError, r"x has dtype torch\.bfloat16; expected"),
        (torch.zeros(T, N, I, dtype=torch.int64), None, TypeError, r"x has dtype torch\.int64; expected"),
        (torch.zeros(T, N, I, dtype=torch.float64), None, TypeError, r"float64; expected torch\.float32, as the par"),
        (torch.zeros(T, N, I, device="meta"), None, ValueError, "x is on meta; expected the CPU"),
        (torch.zeros(T, N, I).to_sparse(), None, TypeError, "x is nested or of the layout"),
        (torch.zeros(T, N, I + 1), None, ValueError, r"x has shape \(6, 4, 4\); expected \(T, N, I\) or \(T, I\)"),
        (torch.zeros(I), None, ValueError, r"x has shape \(3,\); expected"),
        (torch.zeros(T, N, I), torch.zeros(1, N, H), TypeError, r"hx is a Tensor; expected a tuple \(h_0, c_0\)"),
        (torch.zeros(T, N, I), (torch.zeros(1, N, H),), TypeError, r"hx is a tuple of 1; expected a tuple"),
        (torch.zeros(T, N, I), (torch.zeros(1, N, H), torch.zeros(1, 1, H)), ValueError, r"c_0 has shape \(1, 1, 5\)"),
        (torch.zeros(T, N, I), (torch.zeros(1, N, H), None), TypeError, "c_0 is a NoneType; expected a tensor"),
    ],
)
def test_bad_arguments_are_named(x: Any, hx: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        ours.Recurrent(LIBRARY["peephole_lstm"], I, H)(x, hx)


def test_what_the_kernels_do_not_do_is_said() -> None:
    module = ours.Recurrent(LIBRARY["janet"], I, H)
    x = torch.randn(T, N, I, requires_grad=True)
    with pytest.raises(NotImplementedError, match="the cell janet has no derivative of its derivative"):
        torch.autograd.grad(module(x)[0].sum(), x, create_graph=True)
    with pytest.raises(NotImplementedError, match="forward-mode"), torch.autograd.forward_ad.dual_level():
        module(x)
    with pytest.raises(NotImplementedError, match="cannot be traced"), torch._subclasses.FakeTensorMode():
        module(torch.zeros(T, N, I))
    with pytest.raises(NotImplementedError, match="cannot be traced"):
        torch.export.export(module, (torch.zeros(T, N, I),), strict=False)
    with pytest.raises(TypeError, match=r"a parameter has dtype torch\.float16; expected"):
        module.half()(x)


def test_a_parameter_of_another_shape_is_seen_where_forward_runs_again() -> None:
    module = ours.Recurrent(LIBRARY["janet"], I, H)
    loss = module(torch.randn(T, N, I))[0].sum()
    torch.autograd.grad(loss, [*module.parameters()], retain_graph=True)
    module.weight_hh_l0.data = torch.zeros(2 * H, H - 1)
    with pytest.raises(ValueError, match=r"weight_hh has shape \(10, 4\)"):
        loss.backward()
