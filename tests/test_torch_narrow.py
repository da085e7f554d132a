"""fastrnn.torch in fewer bits: to the bit the numbers of NumPy's modules of that precision, and what refuses it."""

from __future__ import annotations

import copy
import gc
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from public_calls import hostile

import fastrnn
from fastrnn import ops

torch = pytest.importorskip("torch", reason="torch is not installed")
from torch import Tensor, nn  # noqa: E402
from torch.autograd import forward_ad  # noqa: E402
from torch.nn.utils.rnn import pack_padded_sequence  # noqa: E402
from torch.utils.checkpoint import checkpoint  # noqa: E402

import fastrnn.torch as ours  # noqa: E402
from fastrnn.torch import packed, precision  # noqa: E402

KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "lstm": ("LSTM", {}),
    "lstm_all": ("LSTM", {"num_layers": 2, "bidirectional": True, "proj_size": 5}),
    "gru": ("GRU", {"num_layers": 2, "bias": False}),
    "rnn": ("RNN", {"nonlinearity": "relu", "bidirectional": True, "batch_first": True}),
}
kinds = pytest.mark.parametrize("kind", list(KINDS))
narrow = pytest.mark.parametrize("bits", ["bfloat16", "int8"])
T, N, I, H = 6, 3, 9, 21


@pytest.fixture(autouse=True)
def compiled(require: Callable[[bool, str], None]) -> None:
    backend, _ = ops.choose(None, None)
    require(hasattr(backend, "pack") and hasattr(backend, "PRECISIONS"), "the C kernels are not built")
    torch.manual_seed(0)


@pytest.fixture
def in_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a CPU with instructions for it chooses."""
    monkeypatch.setattr(precision, "choose", lambda *given: "bfloat16")


def pair(kind: str, bits: str, sizes: tuple[int, int] = (I, H), dtype: Any = torch.float32) -> tuple[Any, Any]:
    """A module of ours with O(1) weights, and NumPy's with these; one batch first where the kind is."""
    name, options = KINDS[kind]
    module = getattr(ours, name)(*sizes, **options)
    for parameter in module.parameters():
        nn.init.uniform_(parameter, -1.6 * sizes[1] ** -0.5, 1.6 * sizes[1] ** -0.5)  # a rectifier amplifies nothing
    module.to(dtype)
    module.precision = bits
    of_numpy = getattr(fastrnn, name)(*sizes, **options, precision=bits)
    of_numpy.load_state_dict({name: p.detach().float() for name, p in module.named_parameters()})
    return module, of_numpy


def state_of(module: Any, batch: int) -> list[Tensor]:
    sizes = [module.proj_size or module.hidden_size, module.hidden_size][: 2 if module.mode == "LSTM" else 1]
    return [torch.randn(module.num_layers * (1 + module.bidirectional), batch, size) for size in sizes]


def joined(states: Any) -> Any:
    return tuple(states) if len(states) > 1 else states[0]


def parts(value: Any) -> list[Any]:
    return list(value) if isinstance(value, tuple) else [value]


def input_of(module: Any, *sizes: int) -> Tensor:
    x = torch.randn(*sizes)
    return x.transpose(0, 1).contiguous() if module.batch_first else x


def trained(module: Any, x: Tensor, states: list[Tensor], between: Any = None) -> tuple[list[Tensor], list[Tensor]]:
    """The outputs, of which each is given a gradient, and the gradients of x, the states and the parameters."""
    leaves = [t.clone().requires_grad_() for t in (x, *states)]
    y, state_n = (between or module)(leaves[0], joined(leaves[1:]))
    outputs = [y, *parts(state_n)]
    grads = [torch.linspace(-1, 1, t.numel()).reshape(t.shape).to(t.dtype) for t in outputs]
    gradients = torch.autograd.grad(outputs, [*leaves, *module.parameters()], grads)
    return [t.detach() for t in outputs], list(gradients)


def trained_by_numpy(
    module: Any, x: Tensor, states: list[Tensor], dtypes: Any = (torch.float32,) * 3
) -> tuple[list[Tensor], list[Tensor]]:
    """The same of NumPy's; the gradients that come in are such as outputs of these dtypes have."""
    y, state_n, tape = module.forward(x.numpy(), joined([s.numpy() for s in states]))
    outputs = [torch.tensor(a) for a in (y, *parts(state_n))]
    rounded = [
        torch.linspace(-1, 1, t.numel()).reshape(t.shape).to(dtype).float().numpy()
        for t, dtype in zip(outputs, dtypes, strict=False)
    ]
    dx, dstate, grads = module.backward(tape, rounded[0], joined(rounded[1:]))
    return outputs, [torch.tensor(a) for a in (dx, *parts(dstate), *grads.values())]


def assert_same_bits(got: list[Tensor], want: list[Tensor]) -> None:
    assert len(got) == len(want)
    for k, (one, other) in enumerate(zip(got, want, strict=True)):
        assert one.dtype is other.dtype, k
        assert torch.equal(one, other), k


# ---- the numbers


@kinds
@pytest.mark.parametrize("sizes", [(1, 1, 1, 7), (T, N, I, H), (3, 17, 40, 65)], ids=str)
def test_trains_as_numpys_module(kind: str, sizes: tuple[int, int, int, int]) -> None:
    steps, batch, *columns = sizes
    module, of_numpy = pair(kind, "bfloat16", (columns[0], columns[1]))
    x, states = input_of(module, steps, batch, columns[0]), state_of(module, batch)
    outputs, gradients = trained(module, x, states)
    want = trained_by_numpy(of_numpy, x, states)
    assert_same_bits(outputs, want[0])
    assert_same_bits(gradients, want[1])
    module.precision = "float32"
    others, _ = trained(module, x, states)
    for got, exact in zip(outputs, others, strict=True):
        assert 0 < float((got - exact).norm()) <= 0.05 * float(exact.norm())


@kinds
@narrow
@pytest.mark.parametrize("sizes", [(1, 1, 1, 7), (T, N, I, H), (3, 17, 40, 65)], ids=str)
def test_infers_as_numpys_module(kind: str, bits: str, sizes: tuple[int, int, int, int]) -> None:
    steps, batch, *columns = sizes
    module, of_numpy = pair(kind, bits, (columns[0], columns[1]))
    x, states = input_of(module, steps, batch, columns[0]), state_of(module, batch)
    y, state_n = of_numpy(x.numpy(), joined([s.numpy() for s in states]))
    want = [torch.tensor(a) for a in (y, *parts(state_n))]
    for mode in (torch.no_grad, torch.inference_mode):
        for _ in range(2):  # packs, and has packed
            with mode():
                y, state_n = module(x, joined(states))
            assert_same_bits([y, *parts(state_n)], want)


@kinds
@narrow
def test_lengths_masks_and_resets(kind: str, bits: str) -> None:
    module, of_numpy = pair(kind, bits)
    x, states, lengths = input_of(module, T, N, I), state_of(module, N), [2, T, 3]
    given = joined([s.numpy() for s in states])
    with torch.no_grad():
        y, state_n = module(pack_padded_sequence(x, lengths, module.batch_first, False), joined(states))
        padded, _ = nn.utils.rnn.pad_packed_sequence(y, module.batch_first)
    want, want_n = of_numpy(x.numpy(), given, lengths=lengths)
    assert_same_bits([padded, *parts(state_n)], [torch.tensor(a) for a in (want, *parts(want_n))])
    shape = (N, T) if module.batch_first else (T, N)
    flags = {"mask": np.arange(T * N).reshape(shape) % 4 > 0, "resets": np.arange(T * N).reshape(shape) % 5 == 0}
    with torch.no_grad():
        y, state_n = module(x, joined(states), **{name: torch.tensor(its) for name, its in flags.items()})
    want, want_n = of_numpy(x.numpy(), given, **flags)
    assert_same_bits([y, *parts(state_n)], [torch.tensor(a) for a in (want, *parts(want_n))])


@kinds
def test_a_packed_sequence_trains(kind: str) -> None:
    module, of_numpy = pair(kind, "bfloat16")
    x, lengths = input_of(module, T, N, I), [T, 4, 1]
    leaf = x.clone().requires_grad_()
    y, _ = module(pack_padded_sequence(leaf, lengths, module.batch_first))
    y, _ = nn.utils.rnn.pad_packed_sequence(y, module.batch_first)
    gradients = torch.autograd.grad(y.square().sum() / 2, [leaf, *module.parameters()])
    want, _, tape = of_numpy.forward(x.numpy(), lengths=lengths)
    dx, _, grads = of_numpy.backward(tape, np.array(want))
    assert_same_bits([y, *gradients], [torch.tensor(a) for a in (want, dx, *grads.values())])


@kinds
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("bits", ["bfloat16", "int8"])
def test_parameters_of_16_bits(kind: str, dtype: Any, bits: str) -> None:
    """They are read as float32; results are rounded once."""
    module, of_numpy = pair(kind, bits, dtype=dtype)
    x, states = input_of(module, T, N, I).to(dtype), [s.to(dtype) for s in state_of(module, N)]
    with torch.no_grad():
        y, state_n = module(x, joined(states))
    want, want_n = of_numpy(x.float().numpy(), joined([s.float().numpy() for s in states]))
    assert_same_bits([y, *parts(state_n)], [torch.tensor(a).to(dtype) for a in (want, *parts(want_n))])


# ---- autocast and 16-bit modules


@kinds
def test_16_bit_modules_multiply_bfloat16(kind: str, in_bfloat16: None) -> None:
    low = torch.bfloat16
    module, of_numpy = pair(kind, "float32", dtype=low)
    of_numpy.precision = "bfloat16"
    x, states = input_of(module, T, N, I).to(low), [s.to(low) for s in state_of(module, N)]
    outputs, gradients = trained(module, x, states)
    want = trained_by_numpy(of_numpy, x.float(), [s.float() for s in states], [low] * 3)
    assert_same_bits(outputs, [t.to(low) for t in want[0]])
    assert_same_bits(gradients, [t.to(low) for t in want[1]])


@kinds
@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN:UserWarning")
@pytest.mark.parametrize("packing", [False, True], ids=["", "packed"])
def test_autocast_multiplies_bfloat16(kind: str, packing: bool, in_bfloat16: None) -> None:
    """Dtypes are torch's, the numbers those of NumPy's module, rounded to them once; gradients are float32."""
    module, of_numpy = pair(kind, "float32")
    of_numpy.precision = "bfloat16"
    x, states, lengths = input_of(module, T, N, I), state_of(module, N), [T, 4, 1]
    given = pack_padded_sequence(x, lengths, module.batch_first) if packing else x
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, state_n = module(given, joined(states))
        outputs = [y.data if packing else y, *parts(state_n)]
        onednn = module.mode == "LSTM" and not (packing or module.proj_size)
        if not onednn or torch.ops.mkldnn._is_mkldnn_bf16_supported():  # else torch has none on this CPU
            y, state_n = ours.restore(copy.deepcopy(module))(given, joined(states))
            assert [t.dtype for t in outputs] == [t.dtype for t in [y.data if packing else y, *parts(state_n)]]
    dtypes = [t.dtype for t in outputs]
    want, want_n = of_numpy(x.numpy(), joined([s.numpy() for s in states]), lengths=lengths if packing else None)
    y = torch.tensor(want)
    y = pack_padded_sequence(y, lengths, module.batch_first).data if packing else y
    want = [t.to(dtype) for t, dtype in zip([y, *map(torch.tensor, parts(want_n))], dtypes, strict=True)]
    assert_same_bits([t.detach() for t in outputs], want)
    if not packing:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            _, gradients = trained(module, x, states)
        assert_same_bits(gradients, trained_by_numpy(of_numpy, x, states, dtypes)[1])


def test_float16_is_computed_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "kernels_multiply_bfloat16", lambda: True)
    module, of_numpy = pair("gru", "float32")
    x = torch.randn(T, N, I)
    with torch.autocast("cpu", dtype=torch.float16), torch.no_grad():
        y, _ = module(x)
    assert torch.equal(y, torch.tensor(of_numpy(x.numpy())[0]).to(y.dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        y, _ = module(x)
    of_numpy.precision = "bfloat16"
    assert torch.equal(y, torch.tensor(of_numpy(x.numpy())[0]).to(y.dtype))


@pytest.mark.parametrize(
    ("of_torch", "of_kernels", "hidden", "batch", "want"),
    [
        (True, True, 400, 2, precision.TORCHS),
        (True, True, 256, 2, "bfloat16"),
        (True, True, 400, 1, "bfloat16"),
        (False, True, 400, 2, "bfloat16"),  # FASTRNN_ISA and torch's ONEDNN_MAX_CPU_ISA may differ
        (True, False, 256, 2, "float32"),
        (False, False, 400, 2, "float32"),
    ],
)
def test_who_multiplies_bfloat16(
    of_torch: bool, of_kernels: bool, hidden: int, batch: int, want: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "MULTIPLIES_BFLOAT16", of_torch)
    monkeypatch.setattr(precision, "kernels_multiply_bfloat16", lambda: of_kernels)
    x = torch.zeros(T, batch, 8, dtype=torch.bfloat16)
    assert precision.choose("GRU", False, False, x, batch, hidden) == want
    assert precision.choose("GRU", False, False, x.half(), batch, hidden) == "float32"
    with torch.autocast("cpu", dtype=torch.float16):
        assert precision.choose("GRU", False, False, x, batch, hidden) == "float32"


def test_the_kernels_say_whether_they_multiply_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    backend, _ = ops.choose(None, None)
    assert precision.kernels_multiply_bfloat16() == ("bfloat16 weights on avx512_bf16" in backend.describe())
    with fastrnn.use_backend("numpy"):
        assert not precision.kernels_multiply_bfloat16()


# ---- a module's precision


@pytest.mark.parametrize("bits", ["bfloat16", "int8"])
def test_it_is_part_of_the_module(bits: str) -> None:
    module, of_numpy = pair("lstm", bits)
    x = torch.randn(T, N, I)
    want = torch.tensor(of_numpy(x.numpy())[0])
    for again in (module, copy.deepcopy(module), pickle.loads(pickle.dumps(module)), copy.copy(module)):
        assert again.precision == bits
        assert f"precision={bits!r}" in repr(again)
        with torch.no_grad():
            assert torch.equal(again(x)[0], want)
    assert module.state_dict().keys() == nn.LSTM(I, H).state_dict().keys()
    other = ours.LSTM(I, H)
    other.load_state_dict(module.state_dict())
    assert other.precision == "float32"
    assert "precision" not in repr(other)
    module.precision = "float32"
    assert torch.equal(module(x)[0], other(x)[0])


def test_accelerate_sets_it(capsys: pytest.CaptureFixture[str]) -> None:
    model = nn.ModuleDict({"a": nn.LSTM(I, H), "b": nn.ModuleList([nn.GRU(H, 5), nn.LSTMCell(5, 5)])})
    assert ours.accelerate(model, precision="bfloat16", verbose=True) is model
    assert capsys.readouterr().out.splitlines()[0] == "a: LSTM, on fastrnn's kernels, in bfloat16"
    assert [each.precision for each in ours.report(model)] == ["bfloat16", "bfloat16", "float32"]
    ours.accelerate(model)
    assert model["a"].precision == "bfloat16"
    with ours.restored(model):
        assert type(model["a"]) is nn.LSTM
        assert {each.precision for each in ours.report(model)} == {"float32"}
    assert model["a"].precision == "bfloat16"
    ours.accelerate(model, precision="int8")
    assert [each.precision for each in ours.report(model)][:2] == ["int8", "int8"]
    ours.restore(model)
    assert type(model["a"]) is nn.LSTM
    assert vars(model["a"]).keys() == vars(nn.LSTM(I, H)).keys()
    assert ours.accelerate(model)["a"].precision == "float32"


def test_accelerate_changes_nothing_after_an_error() -> None:
    model = nn.Sequential(nn.GRU(I, H), nn.GRU(H, H).double())
    with pytest.raises(ValueError, match=r"^precision is 'int8' with dtype torch.float64; expected torch.float32"):
        ours.accelerate(model, precision="int8")
    with pytest.raises(ValueError, match=r"^precision is 'half'; expected .*bfloat16"):
        ours.accelerate(model, precision="half")
    assert [type(module) for module in model] == [nn.GRU, nn.GRU]


def test_subclasses_and_parametrized_modules_have_it() -> None:
    class Doubled(nn.GRU):
        def forward(self, input: Tensor, hx: Any = None) -> Any:
            return super().forward(2 * input, hx)

    model = nn.Sequential(Doubled(I, H), nn.GRU(I, H))
    nn.utils.parametrizations.weight_norm(model[1], "weight_hh_l0")
    ours.accelerate(model, subclasses=[Doubled], precision="bfloat16")
    x = torch.randn(T, N, I)
    for module, factor in ((model[0], 2), (model[1], 1)):
        of_numpy = fastrnn.GRU(I, H, precision="bfloat16")
        names = list(of_numpy.parameters)
        of_numpy.load_state_dict({name: getattr(module, name).detach() for name in names})
        y, _, _ = of_numpy.forward(factor * x.numpy())
        assert torch.equal(module(x)[0].detach(), torch.tensor(y))
    assert ours.restore(model)[0].__class__ is Doubled


def test_a_subclass_keeps_an_attribute_of_that_name() -> None:
    class Own(nn.GRU):
        def __init__(self, *sizes: int) -> None:
            super().__init__(*sizes)
            self.precision = 16

    model = ours.accelerate(nn.Sequential(Own(I, H)), subclasses=[Own], precision="bfloat16")
    assert model[0].precision == 16
    model[0].precision = 8
    assert (model[0].precision, ours.report(model)[0].precision) == (8, "bfloat16")
    assert (ours.restore(model)[0].precision, type(model[0])) == (8, Own)


def test_what_is_no_precision_is_refused() -> None:
    module = ours.GRU(I, H)
    with pytest.raises(ValueError, match=r"^precision is 'half'; expected .*float32.*int8"):
        module.precision = "half"
    with pytest.raises(TypeError, match=r"^precision is 8"):
        module.precision = 8
    with pytest.raises(ValueError, match=r"^precision is 'bfloat16' with dtype torch.float64; expected torch.float32"):
        ours.GRU(I, H).double().precision = "bfloat16"
    with pytest.raises(ValueError, match=r"^precision is 'int8' with 131073 columns"):
        ours.RNN(131073, 1).precision = "int8"
    written = ours.Recurrent(fastrnn.cells.min_gru, I, H)
    with pytest.raises(ValueError, match=r"^precision is 'int8', but min_gru is a written cell; expected 'float32'"):
        written.precision = "int8"
    written.precision = "float32"
    assert (module.precision, written.precision) == ("float32", "float32")


@pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")
def test_a_bad_precision_is_named() -> None:
    model, bad = nn.Sequential(nn.GRU(I, H)), {k: value for k, value in hostile(torch).items() if k != "None"}
    assert len(bad) > 20
    for kind, value in bad.items():
        with pytest.raises((TypeError, ValueError), match=r"^precision is "):
            ours.accelerate(model, precision=value())
        assert type(model[0]) is nn.GRU, kind


def test_float64_is_refused_where_it_came_later() -> None:
    module = pair("gru", "bfloat16")[0].double()
    with pytest.raises(ValueError, match=r"^precision is 'bfloat16' with tensors of torch.float64; expected torch.fl"):
        module(torch.randn(T, N, I, dtype=torch.float64))


def test_int8_is_for_inference() -> None:
    module, x = pair("lstm", "int8")[0], torch.randn(T, N, I)
    wanted = r"^precision is 'int8', which is for inference; expected torch.no_grad\(\).* module.precision = 'float32'$"
    with pytest.raises(ValueError, match=wanted):
        module(x)
    module.requires_grad_(False)
    assert not module(x)[0].requires_grad
    with pytest.raises(ValueError, match=wanted):
        module(x.requires_grad_())
    with torch.no_grad():
        assert module(x)[0].shape == (T, N, H)


def forward_mode(module: Any, x: Tensor) -> Any:
    with forward_ad.dual_level():
        return module(forward_ad.make_dual(x[0], x[1]))


TRANSFORMS: dict[str, Callable[[Any, Tensor], Any]] = {
    "vmap": lambda module, x: torch.func.vmap(lambda x: module(x)[0])(x),
    "jvp": lambda module, x: torch.func.jvp(lambda x: module(x)[0], (x[0],), (x[1],)),
    "forward_ad": forward_mode,
}


@pytest.mark.parametrize("transform", list(TRANSFORMS))
def test_int8_refuses_transforms(transform: str) -> None:
    module, x = pair("lstm", "int8")[0].requires_grad_(False), torch.randn(2, T, N, I)
    with pytest.raises(ValueError, match=r"^precision is 'int8'; expected 'float32' or 'bfloat16' under torch.func's"):
        TRANSFORMS[transform](module, x)


def test_brief_calls_have_it_too() -> None:
    module, of_numpy = pair("rnn", "bfloat16")
    x = torch.randn(N, 1, I)  # a step, which torch's operator takes in float32
    assert torch.equal(module(x)[0].detach(), torch.tensor(of_numpy.forward(x.numpy())[0]))


def test_a_backend_without_it_leaves_it_to_torch(require: Callable[[bool, str], None]) -> None:
    numba = next(each for each in fastrnn.info().backends if each.name == "numba")
    require(numba.runs, numba.detail)
    module, x = pair("gru", "bfloat16")[0], torch.randn(T, N, I)
    with fastrnn.use_backend("numba"):
        assert not ours.report(module)[0].on_kernels
        with pytest.warns(UserWarning, match="have no precision 'bfloat16': the backend is numba"):
            y, _ = module(x)
    assert torch.equal(y, ours.restore(module)(x)[0])


def test_what_is_left_to_torch_warns() -> None:
    module = pair("gru", "bfloat16")[0]
    with pytest.warns(UserWarning, match="leaves this to torch.nn: .*take no empty input"):
        assert module(torch.randn(T, 0, I))[0].shape == (T, 0, H)


# ---- weights that are packed once


WRITES: dict[str, Callable[[Any], Any]] = {
    "no_grad": lambda module: torch.no_grad()(module.weight_hh_l0.__setitem__)((3, 2), 5.0),
    "load_state_dict": lambda module: module.load_state_dict({n: 2 * p for n, p in module.state_dict().items()}),
    "data": lambda module: module.weight_hh_l0.data.mul_(2),
    "numpy": lambda module: np.multiply(module.bias_hh_l0.detach().numpy(), 2, module.bias_hh_l0.detach().numpy()),
    "another parameter": lambda module: setattr(module, "bias_hh_l0", nn.Parameter(2 * module.bias_hh_l0.detach())),
    "another memory": lambda module: setattr(module.weight_ih_l0, "data", 2 * module.weight_ih_l0.detach()),
    "threads": lambda module: None,
}


@narrow
@pytest.mark.parametrize("write", list(WRITES))
def test_weights_are_packed_anew_when_they_change(bits: str, write: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module, of_numpy = pair("lstm", bits)
    x, count = torch.randn(T, N, I), []
    original = packed.narrow
    monkeypatch.setattr(packed, "narrow", lambda *given: count.append(given) or original(*given))
    with torch.no_grad():
        module(x)
        module(x)
        assert len(count) == 1
        WRITES[write](module)
        y, _ = module(x)
    of_numpy.load_state_dict(module.state_dict())
    assert torch.equal(y, torch.tensor(of_numpy(x.numpy())[0]))
    assert len(count) == (1 if write == "threads" else 2)


def test_a_change_of_precision_packs_anew() -> None:
    module, of_numpy = pair("gru", "float32")
    x = torch.randn(T, N, I)
    for bits in ("int8", "bfloat16", "int8", "float32"):
        module.precision = of_numpy.precision = bits
        with torch.no_grad():
            assert torch.equal(module(x)[0], torch.tensor(of_numpy(x.numpy())[0]))


def test_packed_weights_go_with_the_module() -> None:
    gc.collect()
    before = len(packed._kept)
    module = pair("lstm_all", "int8")[0]
    with torch.no_grad():
        module(torch.randn(T, N, I))
    assert len(packed._kept) == before + 4
    del module
    gc.collect()
    assert len(packed._kept) == before


def test_weights_without_versions_are_packed_each_time() -> None:
    with torch.inference_mode():
        module, x = pair("gru", "bfloat16")[0], torch.randn(T, N, I)
        y, _ = module(x)
        module.weight_ih_l0[0, 0] += 1.0
        assert not torch.equal(module(x)[0], y)


# ---- derivatives beyond the first, transforms: in float32


def test_gradients_of_gradients_are_those_of_float32() -> None:
    """A backward that is to be differentiated is of float32, at what the layer was given."""
    module, x = pair("rnn", "bfloat16")[0], torch.randn(T, N, I, requires_grad=True)
    wide = copy.deepcopy(module)
    wide.precision = "float32"
    found = []
    for its in (module, wide):
        y, _ = its(x)
        (gradient,) = torch.autograd.grad(y, x, torch.ones_like(y), create_graph=True)
        found.append([gradient.detach(), *torch.autograd.grad(gradient.square().sum(), [x, its.weight_hh_l0])])
        (again,) = torch.autograd.grad(y, x, torch.ones_like(y))
        assert torch.equal(again, gradient) == (its is wide)
    assert_same_bits(found[0], found[1])


def test_transforms_are_in_float32() -> None:
    module, x = pair("rnn", "bfloat16")[0], torch.randn(2, N, T, I)
    wide = copy.deepcopy(module)
    wide.precision = "float32"
    values = {name: p.detach() for name, p in module.named_parameters()}
    found = []
    for its in (module, wide):

        def run(values: Any, x: Tensor, its: Any = its) -> Tensor:
            return torch.func.functional_call(its, values, (x,))[0]

        of_samples = torch.func.vmap(torch.func.grad(lambda v, x: run(v, x).square().sum()), (None, 0))(values, x)
        _, tangent = torch.func.jvp(lambda x: run(values, x), (x[0],), (x[1],))
        leaf = x[0].clone().requires_grad_()
        y = its(leaf)[0]
        (batched,) = torch.autograd.grad(y, leaf, torch.ones(2, *y.shape), is_grads_batched=True)
        found.append([*of_samples.values(), tangent, batched])
    assert_same_bits(found[0], found[1])


# ---- graphs, hooks, checkpoints


def in_hooks(module: Any) -> Callable[..., Any]:
    def run(*given: Any) -> Any:
        with torch.autograd.graph.saved_tensors_hooks(lambda t: t.clone(), lambda t: t):
            return module(*given)

    return run


def in_a_graph(module: Any) -> Callable[..., Any]:
    torch.compiler.reset()
    fast = torch.compile(module, fullgraph=True, backend="aot_eager")
    return lambda *given: fast(*given)


WAYS = {
    "hooks": in_hooks,
    "checkpoint": lambda module: lambda *given: checkpoint(module, *given, use_reentrant=False),
    "compile": in_a_graph,
}


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
@pytest.mark.parametrize("way", list(WAYS))
@pytest.mark.parametrize("kind", ["lstm_all", "gru"])
def test_trains_in_other_ways(kind: str, way: str) -> None:
    module, of_numpy = pair(kind, "bfloat16")
    x, states = torch.randn(T, N, I), state_of(module, N)
    with torch._dynamo.config.patch(allow_rnn=True):
        outputs, gradients = trained(module, x, states, WAYS[way](module))
    want = trained_by_numpy(of_numpy, x, states)
    assert_same_bits(outputs, want[0])
    assert_same_bits(gradients, want[1])


def test_a_backward_serves_twice() -> None:
    module, x = pair("gru", "bfloat16")[0], torch.randn(T, N, I)
    y, _ = module(x)
    first = torch.autograd.grad(y.square().sum(), list(module.parameters()), retain_graph=True)
    assert_same_bits(list(first), list(torch.autograd.grad(y.square().sum(), list(module.parameters()))))


@narrow
@pytest.mark.filterwarnings("ignore:.*torch.jit.trace.* is deprecated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:Converting a tensor to a Python:torch.jit.TracerWarning")
@pytest.mark.filterwarnings("ignore:.*treespec.* is deprecated:FutureWarning")
@pytest.mark.filterwarnings("ignore:The tensor attributes? .* assigned during export:UserWarning")
def test_graphs_carry_it(bits: str) -> None:
    module, of_numpy = pair("lstm_all", bits)
    x = torch.randn(T, N, I)
    want = torch.tensor(of_numpy(x.numpy())[0])
    with torch.no_grad():
        program = torch.export.export(module, (x,))
        assert {node.args[4] for node in program.graph.nodes if "fastrnn.layer" in str(node.target)} == {f"lstm:{bits}"}
        assert torch.equal(program.module()(x)[0], want)
        assert torch.equal(torch.jit.trace(module, x)(x)[0], want)
        torch.compiler.reset()
        with torch._dynamo.config.patch(allow_rnn=True):
            assert torch.equal(torch.compile(module, fullgraph=True, backend="aot_eager")(x)[0], want)
    loaded = program.module()
    y, _ = loaded(x)
    if bits == "int8":
        with pytest.raises(ValueError, match=r"^precision is 'int8', which is for inference; expected 'float32' or"):
            y.sum().backward()
    else:
        y.sum().backward()
        _, _, tape = of_numpy.forward(x.numpy())
        grads = of_numpy.backward(tape, np.ones(y.shape, np.float32))[2]
        found = {name: p.grad for name, p in loaded.named_parameters()}
        assert_same_bits([found[name] for name in grads], [torch.tensor(each) for each in grads.values()])


@pytest.mark.parametrize(("bits", "steps"), [("float32", 1), ("float32", T), ("bfloat16", T), ("int8", T)])
def test_nothing_is_compiled_between_graphs(bits: str, steps: int) -> None:
    """Nor of what looks at a brief call in float32; autocast comes with it."""
    module, x = pair("rnn", bits)[0], torch.randn(N, steps, I)
    graphs: list[Any] = []
    for low in (False, True):
        torch.compiler.reset()
        fast = torch.compile(nn.Sequential(module), backend=lambda graph, given: graphs.append(graph) or graph)
        with torch._dynamo.config.patch(allow_rnn=False), torch.no_grad(), torch.autocast("cpu", enabled=low):
            fast(x)
    assert [graph.code for graph in graphs] == []


def test_a_change_of_it_is_compiled_anew() -> None:
    module, of_numpy = pair("gru", "float32")
    x = torch.randn(T, N, I)
    fast = in_a_graph(module)
    for bits in ("float32", "bfloat16", "float32"):
        module.precision = of_numpy.precision = bits
        with torch._dynamo.config.patch(allow_rnn=True), torch.no_grad():
            assert torch.equal(fast(x)[0], torch.tensor(of_numpy(x.numpy())[0]))


def test_autocast_within_a_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "MULTIPLIES_BFLOAT16", False)
    monkeypatch.setattr(ops.choose(None, None)[0], "MULTIPLIES_BFLOAT16", True)
    module, of_numpy = pair("gru", "float32")
    of_numpy.precision = "bfloat16"
    x = torch.randn(T, N, I)
    with (
        torch._dynamo.config.patch(allow_rnn=True),
        torch.no_grad(),
        torch.autocast("cpu", dtype=torch.bfloat16),
    ):
        y, _ = in_a_graph(module)(x)
    assert torch.equal(y, torch.tensor(of_numpy(x.numpy())[0]).to(y.dtype))


def test_the_operator_refuses_what_it_does_not_know() -> None:
    module, x = ours.LSTM(I, H), torch.randn(T, N, I)
    given = [x, None, [torch.zeros(1, N, H)] * 2, [w.detach() for w in module._flat_weights]]
    with pytest.raises(ValueError, match=r"^cell is 'lstm:half'; expected one of .*lstm, lstm:bfloat16, lstm:int8, "):
        torch.ops.fastrnn.layer(*given, "lstm:half", False)
    with pytest.raises(ValueError, match=r"^precision is 'int8', which is for inference; expected 'float32' or"):
        torch.ops.fastrnn.layer(*given, "lstm:int8", True)
    doubles = torch.utils._pytree.tree_map(lambda t: t.double() if isinstance(t, Tensor) else t, given)
    with pytest.raises(TypeError, match=r"^cell is 'lstm:int8' and x of torch.float64; expected torch.float32"):
        torch.ops.fastrnn.layer(*doubles, "lstm:int8", False)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.* is deprecated:DeprecationWarning")
def test_torch_jit_script_takes_torchs() -> None:
    model = nn.Sequential(pair("gru", "bfloat16")[0])
    with pytest.warns(UserWarning, match="made torch.nn's of this"):
        scripted = torch.jit.script(model)
    x = torch.randn(T, N, I)
    assert torch.equal(scripted(x)[0], nn.GRU.forward(model[0], x)[0])
    assert ours.accelerate(model)[0].precision == "bfloat16"
