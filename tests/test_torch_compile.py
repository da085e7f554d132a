"""fastrnn.torch within graphs: torch.compile, torch.export, fake tensors, and the operator's own promises."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from problems import run_python

from fastrnn import ops

torch = pytest.importorskip("torch", reason="torch is not installed")
from torch import Tensor, nn  # noqa: E402
from torch._dynamo.testing import CompileCounterWithBackend  # noqa: E402
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence  # noqa: E402

import fastrnn.torch as ours  # noqa: E402

KINDS = ["RNN", "LSTM", "GRU"]
OPTIONS: list[dict[str, Any]] = [{}, {"num_layers": 2, "bidirectional": True, "batch_first": True, "dropout": 0.3}]
T, N, I, H = 5, 2, 3, 4

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*torch.jit.script.* is deprecated:DeprecationWarning"),  # inductor's own
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning"),  # Dynamo looks at it
    pytest.mark.filterwarnings("ignore:.*treespec.* is deprecated:FutureWarning"),  # torch.export's own
    pytest.mark.filterwarnings("ignore:The tensor attributes? .* assigned during export:UserWarning"),  # as torch.nn's
]


@pytest.fixture(autouse=True)
def compiled(require: Callable[[bool, str], None]) -> Iterator[None]:
    backend, _ = ops.choose(None, None)
    require(ops.keeps(backend), "no backend with compiled kernels runs here")
    torch.manual_seed(0)
    torch.compiler.reset()
    with torch._dynamo.config.patch(allow_rnn=True):
        yield


class Model(nn.Module):
    """A recurrent module between others."""

    def __init__(self, kind: str, **options: Any) -> None:
        super().__init__()
        self.rnn = getattr(ours, kind)(I, H, **options)
        self.out = nn.Linear((self.rnn.proj_size or H) * (1 + self.rnn.bidirectional), 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.rnn(x)[0].relu())


def train(model: Any, x: Tensor) -> list[Tensor]:
    """The output, and the gradients of x and the parameters."""
    torch.manual_seed(1)
    x = x.detach().clone().requires_grad_()
    y = model(x)
    return [y, *torch.autograd.grad(y.square().sum(), [x, *model.parameters()])]


def assert_equal(got: list[Tensor], want: list[Tensor]) -> None:
    assert len(got) == len(want)
    for one, other in zip(got, want, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_compiles_to_one_graph(kind: str, options: dict[str, Any]) -> None:
    model, x = Model(kind, **options).eval(), torch.randn(T, N, I)
    graphs = CompileCounterWithBackend("aot_eager")
    fast = torch.compile(model, fullgraph=True, backend=graphs)
    assert_equal(train(fast, x), train(model, x))
    assert sum(str(node.target) == "fastrnn.layer" for node in graphs.graphs[0].graph.nodes) == model.rnn.num_layers
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            assert_equal([fast(x)], [model(x)])


def test_compiles_on_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where no backend has been loaded yet."""
    monkeypatch.setattr("fastrnn.backends._loaded", {})
    module, x = ours.LSTM(I, H), torch.randn(T, N, I)
    graphs = CompileCounterWithBackend("aot_eager")
    y, _ = torch.compile(module, fullgraph=True, backend=graphs)(x)
    assert_equal([y], [module(x)[0]])
    assert graphs.frame_count == 1


@pytest.mark.parametrize("allow_rnn", [False, True])
@pytest.mark.parametrize("compiled_autograd", [False, True])
def test_compiles_a_training_step(allow_rnn: bool, compiled_autograd: bool) -> None:
    model, x = Model("GRU"), torch.randn(T, N, I)

    def step(x: Tensor) -> Tensor:
        loss = model(x).square().sum()
        loss.backward()
        return loss

    results = []
    for run in (step, torch.compile(step, backend="aot_eager")):
        model.zero_grad()
        with torch._dynamo.config.patch(allow_rnn=allow_rnn, compiled_autograd=compiled_autograd):
            results.append([run(x).detach(), *(p.grad.clone() for p in model.parameters())])
    assert_equal(results[1], results[0])


def test_trains_under_a_dispatch_mode() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    model, x = Model("LSTM"), torch.randn(T, N, I)
    _, _, *want = train(model, x)
    with FlopCounterMode(display=False):
        model(x).square().sum().backward()
    assert_equal([p.grad for p in model.parameters()], want)


def test_compiles_with_inductor(tmp_path: Path) -> None:
    """In a new process: inductor needs setuptools, which refuses to be imported after torch has imported distutils."""
    code = f"""
import torch, fastrnn.torch

torch._dynamo.config.allow_rnn = True
for options in {OPTIONS}:
    module, x = fastrnn.torch.LSTM({I}, {H}, **options).eval(), torch.randn({T}, {N}, {I}, requires_grad=True)
    found = []
    for call in (torch.compile(module, fullgraph=True), module):
        y, (h_n, c_n) = call(x)
        loss = y.square().sum() + h_n.sin().sum() + c_n.sum()
        found.append([y, *torch.autograd.grad(loss, [x, *module.parameters()])])
    for compiled, plain in zip(*found, strict=True):
        torch.testing.assert_close(compiled, plain)
    print(len(found[0]))
"""
    result = run_python(code, tmp_path, timeout=120)
    assert (result.returncode, result.stdout.split()) == (0, ["6", "18"]), result.stderr


def test_dropout_of_a_compiled_module() -> None:
    model, x = Model("GRU", num_layers=2, dropout=0.5), torch.randn(T, N, I)
    assert_equal(train(torch.compile(model, fullgraph=True, backend="aot_eager"), x), train(model, x))


@pytest.mark.parametrize(
    ("kind", "options"), [("RNN", {}), ("LSTM", {}), ("LSTM", {"proj_size": 2}), ("GRU", OPTIONS[1])]
)
def test_compiles_once_for_all_sizes(kind: str, options: dict[str, Any]) -> None:
    model = Model(kind, **options).eval()
    graphs = CompileCounterWithBackend("aot_eager")
    fast = torch.compile(model, fullgraph=True, backend=graphs, dynamic=True)
    for sizes in ((5, 2), (6, 3), (9, 4)):
        x = torch.randn(*sizes, I)
        assert_equal(train(fast, x), train(model, x))
    assert graphs.frame_count == 1


def test_graph_breaks_without_allow_rnn() -> None:
    """As torch.nn's: the module runs uncompiled."""
    model, x = Model("LSTM"), torch.randn(T, N, I)
    counts = []
    for change in (ours.accelerate, ours.restore):
        change(model)
        graphs = CompileCounterWithBackend("aot_eager")
        with torch._dynamo.config.patch(allow_rnn=False):
            assert_equal(train(torch.compile(model, backend=graphs), x), train(model, x))
        counts.append(graphs.frame_count)
    assert counts[0] == counts[1]


def test_packed_sequences_of_a_compiled_model() -> None:
    module = ours.GRU(I, H)
    packed = pack_padded_sequence(torch.randn(T, N, I), [T, T - 2])

    def run(data: Tensor, h_0: Tensor) -> list[Tensor]:
        y, h_n = module(PackedSequence(data, packed.batch_sizes), h_0)
        return [y.data, h_n]

    h_0 = torch.randn(1, N, H)
    with torch._dynamo.config.patch(allow_rnn=False):
        assert_equal(torch.compile(run, backend="aot_eager")(packed.data, h_0), run(packed.data, h_0))


def test_fallback_within_a_graph() -> None:
    model, x = Model("GRU"), torch.randn(T, N, I, dtype=torch.float16)
    fast = torch.compile(model, fullgraph=True, backend="aot_eager")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with pytest.warns(UserWarning, match="not torch.float16"):
            y = fast(x)
        torch.testing.assert_close(y, ours.restore(model)(x), rtol=0.1, atol=0.05)


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_exports(kind: str, strict: bool) -> None:
    model, x = Model(kind, **OPTIONS[1]).eval(), torch.randn(T, N, I)
    sizes = {"x": {0: torch.export.Dim("batch"), 1: torch.export.Dim("time")}}
    for shapes in (None, sizes):
        program = torch.export.export(model, (x,), dynamic_shapes=shapes, strict=strict)
        nodes = [node for node in program.graph.nodes if "fastrnn.layer" in str(node.target)]
        assert len(nodes) == 2
        assert not any(node.args[-1] is True for node in nodes)  # no tape
        for module in (program.module(), program.run_decompositions().module()):
            assert_equal([module(x)], [model(x)])
    other = torch.randn(T + 2, N + 3, I)
    assert_equal(train(program.module(), other), train(model, other))


def test_exported_program_is_saved_and_loaded(tmp_path: Any) -> None:
    model, x = Model("LSTM").eval(), torch.randn(T, N, I)
    torch.export.save(torch.export.export(model, (x,)), tmp_path / "model.pt2")
    assert_equal([torch.export.load(tmp_path / "model.pt2").module()(x)], [model(x)])


def test_traces_with_fake_tensors() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.proxy_tensor import make_fx

    model, x = Model("GRU").eval(), torch.randn(T, N, I)
    graph = make_fx(model)(x)
    assert_equal([graph(x)], [model(x)])
    with FakeTensorMode(allow_non_fake_inputs=True):
        y = model(torch.randn(T, N, I))
    assert y.shape == (T, N, 2)


@pytest.mark.filterwarnings("ignore:.*torch.jit.trace.* is deprecated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:Converting a tensor to a Python:torch.jit.TracerWarning")
def test_jit_traces() -> None:
    model, x = Model("LSTM").eval(), torch.randn(T, N, I)
    assert_equal([torch.jit.trace(model, x)(x)], [model(x)])


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_operator_keeps_its_promises(kind: str, packed: bool) -> None:
    for bidirectional in (False, True):
        module = getattr(ours, kind)(I, H, bidirectional=bidirectional)
        states = 2 if kind == "LSTM" else 1
        rows = (T * N - 2,) if packed else (T, N)
        batch_sizes = torch.tensor([N] * (T - 2) + [1] * 2) if packed else None
        x = torch.randn(*rows, I, requires_grad=True)
        state = [torch.randn(1 + bidirectional, N, H, requires_grad=True) for _ in range(states)]
        arguments = (x, batch_sizes, state, module._flat_weights, module.mode.lower())
        for keep in (False, True):
            torch.library.opcheck(torch.ops.fastrnn.layer, (*arguments, keep))

        with torch.no_grad():
            y, state_n, tape = torch.ops.fastrnn.layer(*arguments, True)
        gradients = (torch.randn_like(y), [torch.randn_like(s) for s in state_n])
        detached = [x.detach(), batch_sizes, [s.detach() for s in state], [w.detach() for w in module._flat_weights]]
        outcomes, kept = [], (y, [t.clone() for t in tape])
        for _ in range(2):  # on the tape, and when that is used
            dx, _, dweights = torch.ops.fastrnn.layer_backward(*detached, *kept, *gradients, module.mode.lower())
            outcomes.append([dx, *dweights])
        assert_equal(*outcomes)
        torch.library.opcheck(
            torch.ops.fastrnn.layer_backward,
            (*detached, y, tape, *gradients, module.mode.lower()),
            # test_schema is left out: the tape is scratch memory of the operator, which it overwrites; what it returns
            # does not depend on that. As a declared mutation compilers would copy the tape.
            test_utils=("test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic"),
        )
