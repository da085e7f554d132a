"""fastrnn.torch against torch.nn: every option, and what torch's users do with modules besides calling them."""

from __future__ import annotations

import copy
import gc
import importlib
import io
import pickle
import sys
import warnings
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastrnn
from fastrnn import ops
from fastrnn.backends import load
from fastrnn.parameters import Array

torch = pytest.importorskip("torch", reason="torch is not installed")
from torch import Tensor, nn  # noqa: E402
from torch.nn.utils import parametrizations  # noqa: E402
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence  # noqa: E402

import fastrnn.torch as ours  # noqa: E402
from fastrnn.torch import operator  # noqa: E402

KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "rnn_tanh": ("RNN", {"nonlinearity": "tanh"}),
    "rnn_relu": ("RNN", {"nonlinearity": "relu"}),
    "lstm": ("LSTM", {}),
    "gru": ("GRU", {}),
}
kinds = pytest.mark.parametrize("kind", list(KINDS))
T, N, I, H = 5, 3, 4, 6


@pytest.fixture(autouse=True)
def compiled(require: Callable[[bool, str], None]) -> None:
    backend, _ = ops.choose(None, None)
    require(ops.keeps(backend), "no backend with compiled kernels runs here")


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def threads() -> Iterator[None]:
    """Put torch's number of threads back afterwards."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def theirs(kind: str, *sizes: int, dtype: Any = torch.float64, **options: Any) -> Any:
    """A module of torch.nn with O(1) weights."""
    name, nonlinearity = KINDS[kind]
    module = getattr(nn, name)(*(sizes or (I, H)), **nonlinearity, **options, dtype=dtype)
    for parameter in module.parameters():
        nn.init.uniform_(parameter, -0.8, 0.8)
    return module


def pair(kind: str, *sizes: int, **options: Any) -> tuple[Any, Any]:
    """A module of torch.nn, and ours with its weights."""
    module = theirs(kind, *sizes, **options)
    return module, ours.accelerate(copy.deepcopy(module))


def states_of(result: Any) -> list[Tensor]:
    """y's numbers and the final states."""
    y, state_n = result
    return [y.data if isinstance(y, PackedSequence) else y, *(state_n if isinstance(state_n, tuple) else (state_n,))]


def weighted_sum(tensors: list[Tensor]) -> Tensor:
    """A loss that sends different gradients into every element."""
    return sum((t * torch.linspace(0.3, 1.7, t.numel(), dtype=t.dtype).reshape(t.shape)).sum() for t in tensors)


def train(module: Any, x: Any, *rest: Any) -> list[Tensor]:
    """All outputs, and the gradients of x and the parameters."""
    x = x.detach().clone().requires_grad_()
    outputs = states_of(module(x, *rest))
    return [*outputs, *torch.autograd.grad(weighted_sum(outputs), [x, *module.parameters()])]


def assert_equal(got: list[Tensor], want: list[Tensor], **tolerance: float) -> None:
    assert len(got) == len(want)
    for one, other in zip(got, want, strict=True):
        torch.testing.assert_close(one, other, **(tolerance or {"rtol": 1e-9, "atol": 1e-10}))


def assert_same_bits(got: list[Tensor], want: list[Tensor]) -> None:
    assert_equal(got, want, rtol=0, atol=0)


# ---- numbers


@dataclass(frozen=True)
class Call:
    """A module, and how it is called."""

    kind: str
    T: int
    N: int
    I: int
    H: int
    num_layers: int
    bias: bool
    batch_first: bool
    bidirectional: bool
    dropout: float
    proj_size: int
    form: str  # of x: batched, unbatched, packed or unsorted
    with_state: bool
    training: bool
    frozen: bool  # whether nothing but x requires gradients

    def run(self, module: Any) -> list[Tensor]:
        """All outputs, and the gradients of x, the states and the parameters."""
        rng = np.random.default_rng([self.T, self.N, self.I, self.H])

        def leaf(*shape: int) -> Tensor:
            return torch.from_numpy(rng.uniform(-1, 1, shape)).requires_grad_()

        x = leaf(*{"unbatched": (self.T,)}.get(self.form, (self.T, self.N)), self.I)
        batch = () if self.form == "unbatched" else (self.N,)
        sizes = (self.proj_size or self.H, self.H) if self.kind == "lstm" else (self.H,)
        states = [leaf(self.num_layers * (1 + self.bidirectional), *batch, size) for size in sizes]
        lengths = rng.integers(1, self.T + 1, self.N)
        given: Any = x
        if self.form == "packed":
            given = pack_padded_sequence(x, -np.sort(-lengths))
        elif self.form == "unsorted":
            given = pack_padded_sequence(x, torch.from_numpy(lengths), enforce_sorted=False)
        elif self.form == "batched" and self.batch_first:
            given = x.transpose(0, 1)
        module.train(self.training).requires_grad_(not self.frozen)
        hx = (tuple(states) if self.kind == "lstm" else states[0]) if self.with_state else None
        torch.manual_seed(1)  # of dropout
        y, state_n = module(given, hx)
        if isinstance(given, PackedSequence):
            assert type(y) is PackedSequence
            assert all(a is b for a, b in zip(y[1:], given[1:], strict=True))
        leaves = [x, *(states if self.with_state else []), *(p for p in module.parameters() if p.requires_grad)]
        outputs = states_of((y, state_n))
        return [*outputs, torch.rand(1), *torch.autograd.grad(weighted_sum(outputs), leaves)]


calls = st.builds(
    Call,
    kind=st.sampled_from(list(KINDS)),
    T=st.integers(1, 6),
    N=st.integers(1, 5),
    I=st.integers(1, 5),
    H=st.integers(2, 9),
    num_layers=st.integers(1, 3),
    bias=st.booleans(),
    batch_first=st.booleans(),
    bidirectional=st.booleans(),
    dropout=st.sampled_from([0.0, 0.4]),
    proj_size=st.sampled_from([0, 1]),
    form=st.sampled_from(["batched", "unbatched", "packed", "unsorted"]),
    with_state=st.booleans(),
    training=st.booleans(),
    frozen=st.booleans(),
)


@pytest.mark.parametrize("backend", ["cython", "numba"], indirect=True)
def test_every_option_equals_torch(backend: str, require: Callable[[bool, str], None], restored: None) -> None:
    require(ops.keeps(load(backend)), f"{backend} does not take tapes apart")
    fastrnn.use_backend(backend)

    @settings(max_examples=150, deadline=None)
    @given(calls)
    def check(call: Call) -> None:
        options = {name: getattr(call, name) for name in ("num_layers", "bias", "batch_first", "bidirectional")} | {
            "dropout": call.dropout if call.num_layers > 1 else 0.0
        }
        if call.kind == "lstm":
            options["proj_size"] = call.proj_size
        want, got = pair(call.kind, call.I, call.H, **options)
        assert_equal(call.run(got), call.run(want))

    check()


@kinds
@pytest.mark.parametrize("bidirectional", [False, True])
def test_float32_equals_torch(kind: str, bidirectional: bool) -> None:
    want, got = pair(kind, 30, 50, num_layers=2, bidirectional=bidirectional, dtype=torch.float32)
    want.reset_parameters()
    got.load_state_dict(want.state_dict())
    x = torch.randn(12, 8, 30)
    wide = copy.deepcopy(want).double()
    for mine, torchs, exact in zip(train(got, x), train(want, x), train(wide, x.double()), strict=True):
        scale = exact.abs().max().clamp(min=1)
        error = (mine - exact).abs().max() / scale
        assert error <= max(4 * (torchs - exact).abs().max() / scale, 1e-5)


@kinds
def test_kernels_are_ours(kind: str) -> None:
    _, module = pair(kind)
    y, _ = module(torch.randn(T, N, I, dtype=torch.float64))
    assert y.grad_fn.name() == "_LayerBackward"


@kinds
def test_empty_input_is_as_in_torch(kind: str) -> None:
    want, got = pair(kind)
    with pytest.warns(UserWarning, match="leaves this to torch.nn: fastrnn's kernels take no empty input"):
        assert_equal(
            states_of(got(torch.zeros(T, 0, I, dtype=torch.float64))), states_of(want(torch.zeros(T, 0, I).double()))
        )
    with pytest.raises(RuntimeError) as expected:
        want(torch.zeros(0, N, I).double())
    with pytest.raises(RuntimeError) as raised:
        got(torch.zeros(0, N, I).double())
    assert str(raised.value) == str(expected.value)


@kinds
def test_views_of_any_strides(kind: str) -> None:
    want, got = pair(kind)
    x = torch.randn(N, T, 2 * I, dtype=torch.float64)[..., ::2].transpose(0, 1)
    assert_equal(train(got, x), train(want, x))
    wide = torch.randn(1, 2 * N, H, dtype=torch.float64)[:, ::2]
    state = (wide, wide) if kind == "lstm" else wide
    assert_equal(train(got, x, state), train(want, x, state))
    for module in (want, got):  # a gradient without strides
        module.zero_grad()
        module(x)[0].sum().backward()
    assert_equal([p.grad for p in got.parameters()], [p.grad for p in want.parameters()])


# ---- what a module is


def copies() -> dict[str, Callable[[Any], Any]]:
    def save_and_load(module: Any) -> Any:
        file = io.BytesIO()
        torch.save(module, file)
        file.seek(0)
        return torch.load(file, weights_only=False)

    return {"deepcopy": copy.deepcopy, "pickle": lambda m: pickle.loads(pickle.dumps(m)), "torch.save": save_and_load}


@kinds
@pytest.mark.parametrize("how", list(copies()))
def test_copies_compute_with_their_own_parameters(kind: str, how: str) -> None:
    _, module = pair(kind, I, H, 2)
    x = torch.randn(T, N, I, dtype=torch.float64)
    other = copies()[how](module)
    assert type(other) is type(module)
    assert_same_bits(train(other, x), train(module, x))
    with torch.no_grad():
        other.weight_hh_l0 *= 2
    assert not torch.equal(other(x)[0], module(x)[0])


@kinds
def test_is_torchs_class(kind: str) -> None:
    name, nonlinearity = KINDS[kind]
    module = getattr(ours, name)(I, H, 2, **nonlinearity, bidirectional=True)
    base = getattr(nn, name)(I, H, 2, **nonlinearity, bidirectional=True)
    assert isinstance(module, type(base))
    assert repr(module) == repr(base)
    base.load_state_dict(module.state_dict())
    module.load_state_dict(base.state_dict())
    assert list(module.state_dict()) == list(base.state_dict())
    module.flatten_parameters()
    module.reset_parameters()
    module.double()
    assert module(torch.zeros(T, I, dtype=torch.float64))[0].dtype is torch.float64
    assert {n for n in dir(module) if n[0] != "_"} == {n for n in dir(base) if n[0] != "_"} | {"precision"}


def test_accelerate_and_restore_change_classes_in_place() -> None:
    class Custom(nn.LSTM):
        """May compute anything."""

    shared = nn.GRU(I, I)
    model = nn.ModuleDict(
        {
            "first": nn.ModuleList([nn.LSTM(I, H, 2), shared]),
            "second": nn.ModuleList([nn.RNN(I, H), shared, nn.Linear(I, H)]),
            "custom": Custom(I, H),
            "parametrized": parametrizations.weight_norm(nn.LSTM(I, H), "weight_hh_l0"),
        }
    )
    before = [(type(m).__name__, type(m).__mro__[1:], id(m)) for m in model.modules()]
    parameters = [id(p) for p in model.parameters()]
    calls: list[Any] = []
    shared.register_forward_hook(lambda *_: calls.append("hook"))
    shared.eval()

    assert ours.accelerate(model) is model
    assert ours.accelerate(model) is model
    assert [id(m) for m in model.modules()] == [at for _, _, at in before]
    assert [id(p) for p in model.parameters()] == parameters
    lstm, gru = model["first"]
    assert type(lstm) is ours.LSTM
    assert type(gru) is ours.GRU
    assert gru is shared is model["second"][1]
    assert type(model["second"][0]) is ours.RNN
    assert type(model["custom"]) is Custom
    assert isinstance(model["parametrized"], ours.LSTM)
    gru(torch.zeros(T, I))
    assert calls == ["hook"]
    assert not gru.training

    assert ours.restore(model) is model
    assert [(type(m).__name__, type(m).__mro__[1:], id(m)) for m in model.modules()] == before


@pytest.mark.parametrize("change", [ours.accelerate, ours.restore])
def test_only_modules_are_accelerated(change: Callable[[Any], Any]) -> None:
    with pytest.raises(TypeError, match=r"model is a list; expected a torch\.nn\.Module"):
        change([nn.LSTM(I, H)])


def test_accelerate_a_module_that_is_one() -> None:
    module = nn.LSTM(I, H)
    assert ours.accelerate(module) is module
    assert type(module) is ours.LSTM
    assert type(ours.restore(module)) is nn.LSTM


def test_script_modules_stay() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        scripted = torch.jit.script(nn.Sequential(nn.LSTM(I, H)))
    kinds_before = [type(m) for m in scripted.modules()]
    with pytest.warns(
        UserWarning, match=r"nothing in this \w+ runs on fastrnn's kernels: 0: torch.jit has compiled it"
    ):
        ours.accelerate(scripted)
    assert [type(m) for m in scripted.modules()] == kinds_before
    assert ours.report(scripted) == [("0", "LSTM", False, "torch.jit has compiled it", "float32")]


class Doubled(nn.LSTM):
    """A user's, whose state dict, pickles and copies are to stay its own."""

    def forward(self, input: Tensor, hx: Any = None) -> Any:
        return super().forward(2 * input, hx)


@pytest.mark.parametrize("named", ["Doubled", Doubled])
def test_subclasses_on_request(named: Any) -> None:
    model = nn.Sequential(Doubled(I, H, bidirectional=True, dtype=torch.float64))
    x = torch.randn(T, N, I, dtype=torch.float64)
    want = train(model[0], x)
    with pytest.warns(UserWarning, match=r"0: it is a subclass, .* subclasses=\['Doubled'\]\) takes it"):
        ours.accelerate(model)
    ours.accelerate(model, subclasses=[named])
    assert ours.report(model) == [("0", "Doubled", True, "", "float32")]
    for each in (model, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert isinstance(each[0], Doubled)
        assert isinstance(each[0], ours.LSTM)
        each.zero_grad()
        assert_equal(train(each[0], x), want)
    assert type(ours.restore(model)[0]) is Doubled


@pytest.mark.parametrize(
    ("subclasses", "error", "message"),
    [
        ("Doubled", TypeError, "subclasses is 'Doubled'; expected a list"),
        (["Linear"], TypeError, "subclasses has 'Linear'; expected subclasses of torch.nn.RNN"),
        ([3], TypeError, "subclasses has 3; expected subclasses"),
        (["Other"], ValueError, "subclasses has 'Other', which no module in the model is; recurrent ones are: Doubled"),
    ],
)
def test_what_are_no_subclasses(subclasses: Any, error: type[Exception], message: str) -> None:
    model = nn.Sequential(Doubled(I, H), nn.Linear(H, H))
    with pytest.raises(error, match=message):
        ours.accelerate(model, subclasses=subclasses)
    assert type(model[0]) is Doubled


def test_report_says_what_runs_where(capsys: pytest.CaptureFixture[str]) -> None:
    model = nn.ModuleDict(
        {"a": nn.LSTM(I, H), "cell": nn.GRUCell(I, H), "far": ours.GRU(I, H, device="meta"), "out": nn.Linear(H, H)}
    )
    assert ours.report(model)[0] == ("a", "LSTM", False, "it is torch's own: accelerate it", "float32")
    ours.accelerate(model, verbose=True)
    assert capsys.readouterr().out.splitlines() == [
        "a: LSTM, on fastrnn's kernels",
        "cell: GRUCell, on fastrnn's kernels",
        "far: GRU, not on fastrnn's kernels: fastrnn's kernels take tensors on the CPU, not on meta",
    ]
    assert [each.on_kernels for each in ours.report(model)] == [True, True, False]


def test_a_model_without_anything_to_accelerate() -> None:
    with pytest.warns(UserWarning, match=r"nothing in this Linear runs on fastrnn's kernels: it has no torch\.nn\.RNN"):
        ours.accelerate(nn.Linear(I, H))


@kinds
def test_restored_for_a_block(kind: str) -> None:
    model = nn.ModuleDict(
        {"plain": pair(kind)[1], "weighed": parametrizations.weight_norm(pair(kind)[1], "weight_hh_l0")}
    )
    before = [type(module) for module in model.modules()]
    block = ours.restored(model)
    assert block.__enter__() is model
    assert not any(isinstance(module, ours.LSTM | ours.GRU | ours.RNN) for module in model.modules())
    error = ArithmeticError()
    assert not block.__exit__(ArithmeticError, error, None)  # goes on
    assert [type(module) for module in model.modules()] == before


@kinds
def test_optimizer_built_before_accelerate_trains_on(kind: str) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(10, I, dtype=torch.float64)
            self.rnn = theirs(kind)
            self.logits = nn.Linear(H, 10, dtype=torch.float64)

        def forward(self, tokens: Tensor) -> Tensor:
            return self.logits(self.rnn(self.embedding(tokens))[0])

    model = Model()
    models = [model, copy.deepcopy(model)]
    optimizers = [torch.optim.Adam(m.parameters(), 0.05) for m in models]
    ours.accelerate(models[1])
    losses: list[list[float]] = [[], []]
    tokens = torch.randint(10, (8, N))
    for _ in range(6):
        for each, optimizer, its_losses in zip(models, optimizers, losses, strict=True):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(each(tokens[:-1]).flatten(0, 1), tokens[1:].flatten())
            loss.backward()
            optimizer.step()
            its_losses.append(loss.item())
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-9)
    assert losses[0][-1] < losses[0][0]


# ---- what weights may be


@kinds
def test_parametrized_weights(kind: str) -> None:
    want, got = (parametrizations.weight_norm(m, "weight_hh_l0") for m in pair(kind))
    x = torch.randn(T, N, I, dtype=torch.float64)
    assert isinstance(got, getattr(ours, KINDS[kind][0]))
    for _ in range(2):
        assert_equal(train(got, x), train(want, x))


@kinds
def test_functional_call(kind: str) -> None:
    want, got = pair(kind)
    x = torch.randn(T, N, I, dtype=torch.float64)
    other = {name: (p * 0.5).T.contiguous().T if p.dim() == 2 else p * 0.5 for name, p in want.named_parameters()}
    before = got(x)[0]
    outputs = [states_of(torch.func.functional_call(module, other, (x,))) for module in (want, got)]
    assert_equal(outputs[1], outputs[0])
    assert_same_bits([got(x)[0]], [before])


@kinds
def test_replaced_parameters(kind: str) -> None:
    want, got = pair(kind)
    x = torch.randn(T, N, I, dtype=torch.float64)
    got(x)
    for module in (want, got):
        torch.manual_seed(3)
        module.weight_ih_l0 = nn.Parameter(torch.rand_like(module.weight_ih_l0))
        module.bias_hh_l0.data = torch.rand_like(module.bias_hh_l0)
        module.weight_hh_l0.requires_grad_(False)
    outputs = [states_of(module(x)) for module in (want, got)]
    assert_equal(outputs[1], outputs[0])
    got.weight_hh_l0 = nn.Parameter(torch.zeros(2, 3, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"hh has shape \(2, 3\); expected \(G\*H, P\) = "):
        got(x)


# ---- modes of autograd


@kinds
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_inference_keeps_no_tape(kind: str, mode: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    want, got = pair(kind, I, H, 2, bidirectional=True)
    x = torch.randn(T, N, I, dtype=torch.float64)
    monkeypatch.setattr(ops, "forward", None)
    with mode():
        assert_equal(states_of(got(x)), states_of(want(x)))
    got.requires_grad_(False)
    assert not got(x)[0].requires_grad


@kinds
def test_backward_twice(kind: str) -> None:
    _, module = pair(kind, I, H, 2, bidirectional=True)
    x = torch.randn(T, N, I, dtype=torch.float64, requires_grad=True)
    loss = weighted_sum(states_of(module(x)))
    leaves = [x, *module.parameters()]
    first = torch.autograd.grad(loss, leaves, retain_graph=True)
    for _ in range(2):
        assert_same_bits(list(torch.autograd.grad(loss, leaves, retain_graph=True)), list(first))
    torch.autograd.grad(loss, leaves)
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(loss, leaves)


@kinds
def test_tape_is_used_in_place(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A first backward does not run forward again."""
    want, got = pair(kind)
    x = torch.randn(T, N, I, dtype=torch.float64)
    loss = weighted_sum(states_of(got(x)))
    monkeypatch.setattr(ops, "forward", None)
    gradients = torch.autograd.grad(loss, list(got.parameters()))
    assert_equal(list(gradients), list(torch.autograd.grad(weighted_sum(states_of(want(x))), list(want.parameters()))))


@kinds
@pytest.mark.parametrize("bidirectional", [False, True])
def test_outputs_may_be_modified_in_place(kind: str, bidirectional: bool) -> None:
    want, got = pair(kind, bidirectional=bidirectional)
    x = torch.randn(T, N, I, dtype=torch.float64)
    gradients = []
    for module in (want, got):
        y, state_n = module(x)
        y[1:3] = 0.5
        y.mul_(3)
        (state_n[0] if kind == "lstm" else state_n).mul_(2)
        gradients.append(torch.autograd.grad(weighted_sum(states_of((y, state_n))), list(module.parameters())))
    assert_equal(list(gradients[1]), list(gradients[0]))


@kinds
def test_inputs_must_not_be_modified_before_backward(kind: str) -> None:
    _, module = pair(kind)
    for change in (lambda x: x.mul_(2), lambda x: module.weight_hh_l0.mul_(2)):
        x = torch.randn(T, N, I, dtype=torch.float64)
        y, _ = module(x)
        with torch.no_grad():
            change(x)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            y.sum().backward()


@kinds
def test_backend_may_change_between_forward_and_backward(kind: str, restored: None) -> None:
    _, module = pair(kind)
    x = torch.randn(T, N, I, dtype=torch.float64)
    want = train(module, x)
    x.requires_grad_()
    outputs = states_of(module(x))
    fastrnn.use_backend("numpy")
    got = [*outputs, *torch.autograd.grad(weighted_sum(outputs), [x, *module.parameters()])]
    assert_same_bits(got, want)


@kinds
def test_checkpoint_and_hooks_on_saved_tensors(kind: str) -> None:
    from torch.utils.checkpoint import checkpoint

    _, module = pair(kind, I, H, 2)
    x = torch.randn(T, N, I, dtype=torch.float64)
    want = train(module, x)
    for reentrant in (False, True):
        leaf = x.clone().requires_grad_()
        module.zero_grad()
        outputs = checkpoint(lambda x: tuple(states_of(module(x))), leaf, use_reentrant=reentrant)
        weighted_sum(outputs).backward()
        assert_same_bits([*outputs, leaf.grad, *(p.grad for p in module.parameters())], want)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t.detach().clone(), lambda t: t):
        assert_same_bits(train(module, x), want)


@kinds
def test_backward_frees_what_forward_kept(kind: str) -> None:
    """Although the loss lives on, as it does in most training loops."""
    _, module = pair(kind)
    y, _ = module(torch.randn(T, N, I, dtype=torch.float64))
    loss = y.sum()
    graph = y.grad_fn
    assert graph.fresh
    loss.backward()
    assert not graph.fresh


@kinds
def test_forward_without_backward_leaves_no_cycles(kind: str) -> None:
    _, module = pair(kind)
    y, _ = module(torch.randn(T, N, I, dtype=torch.float64))
    ((problem, _),), gone = y.grad_fn.fresh, []
    weakref.finalize(problem, gone.append, True)
    gc.disable()
    del y, _, problem
    assert gone
    gc.enable()


@kinds
def test_second_derivative_where_the_state_is_made_of_the_input(kind: str) -> None:
    want, got = pair(kind, I, H, 2, bidirectional=True)
    x = torch.randn(T, N, I, dtype=torch.float64)

    def penalty(module: Any) -> list[Tensor]:
        leaf = x.clone().requires_grad_()
        h_0 = leaf[:4].sum(-1, keepdim=True).expand(4, N, H)  # the state is a function of the input
        outputs = states_of(module(leaf, (h_0, h_0.tanh()) if kind == "lstm" else h_0))
        (gradient,) = torch.autograd.grad(weighted_sum(outputs), leaf, create_graph=True)
        return [gradient, *torch.autograd.grad(gradient.square().sum(), [leaf, *module.parameters()])]

    first, second = [penalty(got) for _ in range(2)]
    assert_equal(first, penalty(want))
    assert_same_bits(second, first)


# ---- what the kernels cannot do


def call_on_numpy(module: Any, x: Tensor) -> Tensor:
    with fastrnn.use_backend("numpy"):
        return module(x)[0]


class Marked(Tensor):
    """A tensor that might do anything."""


FALLBACKS: dict[str, tuple[Callable[[Any, Tensor], Tensor], str]] = {
    "meta": (lambda m, x: m.to("meta")(x.to("meta"))[0], "take tensors on the CPU, not on meta"),
    "functionalize": (
        lambda m, x: torch.func.functionalize(lambda x: m(x)[0])(x),
        "do not know torch.func.functionalize",
    ),
    "numpy": (call_on_numpy, "are not compiled here: the backend is the reference, plain NumPy"),
    "subclass": (lambda m, x: m(x.as_subclass(Marked))[0], "do not know what a Marked does"),
}


@pytest.mark.parametrize("case", list(FALLBACKS))
@pytest.mark.parametrize("kind", ["gru", "rnn_tanh"])
def test_falls_back_to_torch_with_one_warning(kind: str, case: str) -> None:
    call, reason = FALLBACKS[case]
    want, got = pair(kind)
    x = torch.randn(T, N, I, dtype=torch.float64)
    expected = call(want, x)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        results = [call(got, x) for _ in range(2)]
    mine = [w for w in caught if "fastrnn.torch" in str(w.message)]
    assert len(mine) == 1
    name = type(got).__name__
    assert str(mine[0].message) == f"fastrnn.torch.{name} leaves this to torch.nn: fastrnn's kernels {reason}"
    assert mine[0].filename == __file__
    for result in results:
        assert type(result) is type(expected)
        if case != "meta":
            assert_same_bits([result], [expected])


MISTAKES: dict[str, Callable[[Any], Any]] = {
    "one axis": lambda m: m(torch.zeros(I).double()),
    "four axes": lambda m: m(torch.zeros(1, T, N, I).double()),
    "wrong input size": lambda m: m(torch.zeros(T, N, I + 1).double()),
    "wrong dtype": lambda m: m(torch.zeros(T, N, I)),
    "integers": lambda m: m(torch.zeros(T, N, I, dtype=torch.int64)),
    "an array": lambda m: m(np.zeros((T, N, I))),
    "state of an unbatched input": lambda m: m(torch.zeros(T, N, I).double(), zeros(m, 1, H)),
    "unbatched input with a batch's state": lambda m: m(torch.zeros(T, I).double(), zeros(m, 1, 1, H)),
    "too many layers of state": lambda m: m(torch.zeros(T, N, I).double(), zeros(m, 2, N, H)),
    "state of another batch": lambda m: m(torch.zeros(T, N, I).double(), zeros(m, 1, N + 1, H)),
    "state of another size": lambda m: m(torch.zeros(T, N, I).double(), zeros(m, 1, N, H + 1)),
    "state of another dtype": lambda m: m(torch.zeros(T, N, I).double(), zeros(m, 1, N, H, dtype=torch.float32)),
    "no states in a state": lambda m: m(torch.zeros(T, N, I).double(), ()),
    "packed rows of another size": lambda m: m(pack_padded_sequence(torch.zeros(T, N, I + 1).double(), [T] * N)),
    "state of another packed batch": lambda m: m(
        pack_padded_sequence(torch.zeros(T, N, I).double(), [T] * N), zeros(m, 1, N + 1, H)
    ),
}


def zeros(module: Any, *shape: int, dtype: Any = torch.float64) -> Any:
    state = torch.zeros(shape, dtype=dtype)
    return (state, state) if isinstance(module, nn.LSTM) else state


@kinds
@pytest.mark.parametrize("mistake", list(MISTAKES))
def test_mistakes_raise_as_in_torch(kind: str, mistake: str) -> None:
    raised = []
    for module in pair(kind):
        with pytest.raises((TypeError, ValueError, IndexError, RuntimeError, AttributeError)) as caught:
            MISTAKES[mistake](module)
        raised.append((type(caught.value), str(caught.value)))
    if kind == "lstm" and "packed" in mistake:  # torch.nn.LSTM finds these out in the middle of its arithmetic
        raised = [(error, "") for error, _ in raised]
    assert raised[1] == raised[0]


def test_constructor_refuses_what_torch_refuses() -> None:
    for arguments in ({"num_layers": 0}, {"proj_size": H}, {"dropout": 2}, {"bias": 1}):
        raised = []
        for cls in (nn.LSTM, ours.LSTM):
            with pytest.raises((TypeError, ValueError)) as caught:
                cls(I, H, **arguments)
            raised.append((type(caught.value), str(caught.value)))
        assert raised[1] == raised[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_sizes": [2, 3]}, "batch_sizes is"),
        ({"batch_sizes": [3, 3]}, "whose sum is x's number of rows, 5"),
        ({"batch_sizes": [3, 2, 0]}, "at least 1"),
        ({"state": [(1, 3, 5), (1, 3, 6)]}, r"hh has shape \(24, 6\); expected \(G\*H, P\) = \(24, 5\)"),
        ({"state": [(1, 3, 6), (1, 2, 6)]}, r"c_0 has shape \(1, 2, 6\); expected \(D, N, H\) = \(1, 3, 6\)"),
        ({"x": (5, 7)}, r"ih has shape \(24, 4\); expected \(G\*H, I\) = \(24, 7\)"),
    ],
)
def test_operator_checks_what_the_kernels_trust(change: dict[str, Any], message: str) -> None:
    module = ours.LSTM(I, H)
    given = {"x": (5, 4), "batch_sizes": [3, 2], "state": [(1, 3, 6), (1, 3, 6)]} | change
    state = [torch.zeros(shape) for shape in given["state"]]
    with torch.no_grad(), pytest.raises(ValueError, match=message):
        torch.ops.fastrnn.layer(
            torch.zeros(given["x"]), torch.tensor(given["batch_sizes"]), state, module._flat_weights, "lstm", False
        )


def test_import_without_torch_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("fastrnn.torch")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ImportError, match=r"fastrnn\.torch needs PyTorch: pip install torch"):
        importlib.import_module("fastrnn.torch")


# ---- memory, threads, processes


def test_no_copies_but_of_y(monkeypatch: pytest.MonkeyPatch) -> None:
    """The arrays that the backend gets and gives are the tensors' memory."""
    backend, _ = ops.choose(None, None)
    seen: dict[str, Any] = {}

    def spy(name: str) -> Callable[..., Any]:
        function = getattr(backend, name)

        def call(*arguments: Any, **options: Any) -> Any:
            seen[name] = arguments, function(*arguments, **options)
            return seen[name][1]

        return call

    spies = ModuleType(backend.__name__)
    for name in ("forward", "backward"):
        setattr(spies, name, spy(name))
    for name in ("keep", "recall", "kept_sizes", "empty"):
        if hasattr(backend, name):
            setattr(spies, name, getattr(backend, name))
    monkeypatch.setattr(ops, "resolve", lambda name: spies)

    module = ours.LSTM(I, H)
    x, h_0, c_0 = torch.randn(T, N, I, requires_grad=True), torch.randn(1, N, H), torch.randn(1, N, H)
    y, _ = module(x, (h_0, c_0))
    (_, x_array, states, weights), (y_array, _, _) = seen["forward"]
    assert not np.may_share_memory(y.detach().numpy(), y_array)  # the tape's own: users may write to theirs
    pairs: list[tuple[Tensor, Array]] = [(x, x_array), (h_0, states[0]), (c_0, states[1])]
    pairs += zip(module._flat_weights, [w for w in weights if w is not None], strict=True)
    dy = torch.randn_like(y)
    gradients = torch.autograd.grad(y, [x, *module.parameters()], dy)
    (_, _, dy_array, _), (dx, _, dweights) = seen["backward"]
    pairs += [(dy, dy_array), *zip(gradients, [dx, *(w for w in dweights if w is not None)], strict=True)]
    module(x)[0].sum().backward()
    parameters = [p.grad for p in module.parameters()]
    pairs += zip(parameters, [w for w in seen["backward"][1][2] if w is not None], strict=True)
    for tensor, array in pairs:
        assert tensor.data_ptr() == array.ctypes.data
        assert tuple(tensor.shape)[-array.ndim :] == array.shape


@kinds
def test_as_many_threads_as_torch(kind: str, threads: None, monkeypatch: pytest.MonkeyPatch) -> None:
    module = pair(kind, 40, 70)[1]
    x = torch.randn(30, 20, 40, dtype=torch.float64)
    asked: list[int] = []
    choose = ops.choose
    monkeypatch.setattr(ops, "choose", lambda name, count: asked.append(count) or choose(name, count))
    results = []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        asked.clear()
        results.append(train(module, x))
        assert set(asked) <= {1, count}
        assert count in asked
    assert_same_bits(results[1], results[0])
    assert_same_bits(results[2], results[0])


@kinds
def test_modules_in_several_threads(kind: str) -> None:
    module = pair(kind, 20, 30)[1]
    inputs = [torch.randn(15, 8, 20, dtype=torch.float64) for _ in range(8)]
    want = [train(module, x) for x in inputs]
    with ThreadPoolExecutor(4) as pool:
        for got, expected in zip(pool.map(lambda x: train(module, x), inputs), want, strict=True):
            assert_same_bits(got, expected)


@pytest.mark.parametrize("backend", ["cython"], indirect=True)
def test_no_gradient_is_computed_of_an_x_that_wants_none(monkeypatch: pytest.MonkeyPatch, backend: str) -> None:
    fastrnn.use_backend(backend)
    module, computed = pair("gru", 5, 7, bidirectional=True)[1], []
    x, backward = torch.randn(6, 3, 5, dtype=torch.float64), ops.backward

    def noting(*given: Any, **options: Any) -> Any:
        result = backward(*given, **options)
        computed.append(result[0] is not None)
        return result

    monkeypatch.setattr(ops, "backward", noting)
    found = []
    for wanted in (True, False):
        module.zero_grad()
        given = x.clone().requires_grad_(wanted)
        module(given)[0].sin().sum().backward()
        found.append([p.grad.clone() for p in module.parameters()])
        assert (given.grad is None) != wanted
    assert_same_bits(*found)
    assert computed == [True, True, False, False]


class Encoded(torch.utils.data.Dataset):
    """Items that a recurrent module computes where they are loaded."""

    def __init__(self, module: Any, x: Tensor) -> None:
        self.module, self.x = module, x

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, at: int) -> Tensor:
        return train(self.module, self.x[at])[-1]


def test_in_the_forked_workers_of_a_loader() -> None:
    module = pair("lstm", 40, 64)[1]
    x = torch.randn(4, 30, 20, 40, dtype=torch.float64)
    data = Encoded(module, x)
    want = [data[at] for at in range(len(data))]  # starts threads, which a fork does not take along
    loader = torch.utils.data.DataLoader(data, batch_size=None, num_workers=2, multiprocessing_context="fork")
    assert_same_bits([item.clone() for item in loader], want)
    assert_same_bits([data[0]], want[:1])


def test_doctests_of_the_public_api() -> None:
    import doctest

    for name in ("modules", "accelerate"):
        result = doctest.testmod(importlib.import_module(f"fastrnn.torch.{name}"))
        assert result.attempted
        assert not result.failed


# ---- brief calls, and copies


@pytest.mark.parametrize("kind", ["rnn_tanh", "rnn_relu"])
@pytest.mark.parametrize("batch_first", [False, True])
def test_one_step_on_torchs_operator(kind: str, batch_first: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    want, got = pair(kind, num_layers=2, bidirectional=True, batch_first=batch_first)
    x, h_0 = torch.randn(*((N, 1) if batch_first else (1, N)), I, dtype=torch.float64), torch.randn(4, N, H).double()
    mapped = torch.func.vmap(got)(torch.stack([x, 2 * x]))[0]  # on the kernels: torch's module knows no vmap
    torch.testing.assert_close(mapped[1], want(2 * x)[0])
    monkeypatch.setattr(ours.RNN, "_run_input", None)
    for hx in ((), (h_0,)):
        assert_same_bits(train(got, x, *hx), train(want, x, *hx))
    with pytest.raises(TypeError):
        got(x.movedim(0, 1) if batch_first else x.expand(2, N, I))  # of more steps


@pytest.mark.parametrize("packed", [False, True])
def test_only_what_users_get_is_copied(packed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a module of three layers y of the last one, as it was before users wrote to it."""
    copies, copy_of = [], operator._copy
    monkeypatch.setattr(operator, "_copy", lambda array: copies.append(array.shape) or copy_of(array))
    want, got = pair("lstm", num_layers=3, bidirectional=True)
    x = torch.randn(T, N, I, dtype=torch.float64)
    if packed:
        rows, gradients = pack_padded_sequence(x, [5, 3, 2]), []
        for module in (want, got):
            y = module(rows)[0].data
            gradients.append(torch.autograd.grad(weighted_sum([y]), list(module.parameters())))
        assert_equal(list(gradients[1]), list(gradients[0]))
    else:
        assert_equal(train(got, x), train(want, x))
    assert copies == [(10, 2 * H) if packed else (T, N, 2 * H)]
