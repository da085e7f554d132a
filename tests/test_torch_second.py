"""Double backward, forward mode and third derivatives of fastrnn.torch's modules, against torch.nn's."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from fastrnn import ops

torch = pytest.importorskip("torch", reason="torch is not installed")
from torch import Tensor, nn  # noqa: E402
from torch.autograd import forward_ad  # noqa: E402
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence  # noqa: E402
from torch.testing import assert_close  # noqa: E402

import fastrnn.torch as ours  # noqa: E402

T, N, I, H, P = 5, 3, 3, 4, 2
CLOSE = {"rtol": 1e-9, "atol": 1e-10}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "lstm": ("LSTM", {}),
    "gru": ("GRU", {}),
    "rnn_tanh": ("RNN", {}),
    "rnn_relu": ("RNN", {"nonlinearity": "relu"}),
    "lstm_projected": ("LSTM", {"proj_size": P}),
}
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "stacked": {"num_layers": 2, "bidirectional": True},
    "no_bias": {"bias": False},
    "batch_first": {"batch_first": True},
}
kinds = pytest.mark.parametrize("kind", list(KINDS))
every_option = pytest.mark.parametrize("options", list(OPTIONS))
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")


@pytest.fixture(autouse=True)
def prepared(require: Callable[[bool, str], None]) -> None:
    backend, _ = ops.choose(None, None)
    require(ops.keeps(backend), "no backend with compiled kernels runs here")
    torch.manual_seed(0)


@pytest.fixture
def no_warning(recwarn: pytest.WarningsRecorder) -> Any:
    """Nothing was left to torch."""
    yield
    assert [str(w.message) for w in recwarn if "leaves this to torch" in str(w.message)] == []


class Pair:
    """A module of torch.nn and ours, what they are called with, and a direction for all of that."""

    def __init__(self, kind: str, options: str, dtype: Any = torch.float64) -> None:
        name, more = KINDS[kind]
        self.theirs = getattr(nn, name)(I, H, **more, **OPTIONS[options], dtype=dtype)
        for parameter in self.theirs.parameters():
            nn.init.uniform_(parameter, -0.8, 0.8)
        self.ours = ours.accelerate(copy.deepcopy(self.theirs))
        module = self.theirs
        layers = module.num_layers * (2 if module.bidirectional else 1)
        self.lstm, batch = name == "LSTM", T if module.batch_first else N
        sizes = [module.proj_size or H, H] if self.lstm else [H]
        states = [torch.randn(layers, batch, size, dtype=dtype) for size in sizes]
        self.inputs = [torch.randn(T, N, I, dtype=dtype), *states]
        self.inputs += [p.detach().clone() for p in module.parameters()]
        self.names = [key for key, _ in module.named_parameters()]
        self.direction = [torch.randn_like(t) for t in self.inputs]

    def call(self, module: Any, inputs: Sequence[Tensor], lengths: Any = None) -> list[Tensor]:
        """y and the final states, as functions of all inputs."""
        count = 3 if self.lstm else 2
        x, *state = inputs[:count]
        given: Any = x if lengths is None else pack_padded_sequence(x, lengths, module.batch_first, False)
        parameters = dict(zip(self.names, inputs[count:], strict=True))
        y, state_n = torch.func.functional_call(module, parameters, (given, tuple(state) if self.lstm else state[0]))
        return [y.data if isinstance(y, PackedSequence) else y, *(state_n if self.lstm else [state_n])]

    def both(
        self, function: Callable[[Callable[[Sequence[Tensor]], list[Tensor]]], Sequence[Tensor]], **more: Any
    ) -> list[list[Tensor]]:
        """What a function of the call gives with our module and with theirs."""
        modules = (self.ours, self.theirs)
        return [[t.detach() for t in function(lambda its, m=m: self.call(m, its, **more))] for m in modules]

    def leaves(self) -> list[Tensor]:
        return [t.clone().requires_grad_() for t in self.inputs]


def weighted(tensors: Sequence[Tensor]) -> Tensor:
    """A sum that sends a different gradient into every element."""
    return sum((t * torch.linspace(0.3, 1.7, t.numel(), dtype=t.dtype).reshape(t.shape)).sum() for t in tensors)


def squares(tensors: Sequence[Tensor]) -> Tensor:
    return sum(t.square().sum() for t in tensors)


# ---- double backward


@pytest.mark.usefixtures("no_warning")
@pytest.mark.parametrize("lengths", [None, [2, 3, 1, 3, 2]], ids=["whole", "packed"])
@every_option
@kinds
def test_second_derivatives_are_torchs(kind: str, options: str, lengths: Any) -> None:
    pair = Pair(kind, options)
    if lengths is not None:
        lengths = lengths if pair.theirs.batch_first else [2, T, 4]

    def everything(call: Any) -> list[Tensor]:
        """Also of what comes into the first backward, and with a graph that serves twice."""
        leaves = pair.leaves()
        outputs = call(leaves)
        incoming = [torch.linspace(-1, 1, o.numel(), dtype=o.dtype).reshape(o.shape).requires_grad_() for o in outputs]
        first = torch.autograd.grad(outputs, leaves, incoming, create_graph=True)
        second = torch.autograd.grad(weighted(first), [*leaves, *incoming], retain_graph=True)
        again = torch.autograd.grad(squares(first), [*leaves, *incoming])
        return [*first, *second, *again]

    assert_close(*pair.both(everything, lengths=lengths), **CLOSE)


@pytest.mark.usefixtures("no_warning")
@kinds
def test_gradient_penalty_of_each_output_alone(kind: str) -> None:
    pair = Pair(kind, "stacked")
    for at in range(3 if pair.lstm else 2):

        def penalty(call: Any, at: int = at) -> list[Tensor]:
            x, *others = pair.leaves()
            (gradient,) = torch.autograd.grad(call([x, *others])[at].sum(), x, create_graph=True)
            return [gradient, *torch.autograd.grad((gradient.norm() - 1).square(), [x, *others])]

        assert_close(*pair.both(penalty), **CLOSE)


@pytest.mark.usefixtures("no_warning")
@kinds
def test_whoever_wants_a_gradient_gets_that_alone(kind: str) -> None:
    pair = Pair(kind, "plain")
    for at in range(len(pair.inputs)):

        def of_one(call: Any, at: int = at) -> list[Tensor]:
            inputs = list(pair.inputs)
            inputs[at] = inputs[at].clone().requires_grad_()
            (first,) = torch.autograd.grad(weighted(call(inputs)), inputs[at], create_graph=True)
            return [first, *torch.autograd.grad(squares([first]), inputs[at])]

        assert_close(*pair.both(of_one), **CLOSE)


@pytest.mark.usefixtures("no_warning")
@pytest.mark.parametrize("options", ["plain", "stacked"])
@pytest.mark.parametrize("kind", ["lstm", "gru", "rnn_tanh", "lstm_projected"])
def test_gradgradcheck(kind: str, options: str) -> None:
    pair = Pair(kind, options)
    assert torch.autograd.gradgradcheck(lambda *its: tuple(pair.call(pair.ours, its)), pair.leaves(), fast_mode=True)
    assert torch.autograd.gradcheck(
        lambda *its: tuple(pair.call(pair.ours, its)),
        pair.leaves(),
        fast_mode=True,
        check_forward_ad=True,
        check_backward_ad=False,
    )


@pytest.mark.usefixtures("no_warning")
@pytest.mark.parametrize("product", ["hvp", "vhp"])
@kinds
def test_products_with_the_hessian_by_torch(kind: str, product: str) -> None:
    """hvp differentiates three times, but the last time by what enters linearly."""
    pair = Pair(kind, "stacked")

    def of_squares(call: Any) -> list[Tensor]:
        def loss(*inputs: Tensor) -> Tensor:
            return squares(call(inputs))

        function = getattr(torch.autograd.functional, product)
        value, found = function(loss, tuple(pair.inputs), tuple(pair.direction))
        return [value, *found]

    assert_close(*pair.both(of_squares), **CLOSE)


@pytest.mark.usefixtures("no_warning")
@kinds
def test_float32(kind: str) -> None:
    """Where torch.nn.LSTM on oneDNN has no second derivative."""
    pair, wide = Pair(kind, "plain", torch.float32), Pair(kind, "plain")
    wide.inputs = [t.double() for t in pair.inputs]

    def penalty(module: Any, its: Pair) -> Sequence[Tensor]:
        leaves = its.leaves()
        (gradient,) = torch.autograd.grad(weighted(its.call(module, leaves)), leaves[0], create_graph=True)
        return torch.autograd.grad(squares([gradient]), leaves)

    for got, want in zip(penalty(pair.ours, pair), penalty(wide.theirs, wide), strict=True):
        assert_close(got.double(), want, rtol=1e-4, atol=1e-4)


def test_what_was_written_to_is_found() -> None:
    pair = Pair("gru", "plain")
    leaves = pair.leaves()
    x = leaves[0] * 1
    (gradient,) = torch.autograd.grad(weighted(pair.call(pair.ours, [x, *leaves[1:]])), x, create_graph=True)
    with torch.no_grad():
        x.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        gradient.sum().backward()


@pytest.mark.usefixtures("no_warning")
def test_y_may_be_written_to_before_both_backwards() -> None:
    pair = Pair("lstm", "plain")

    def penalty(call: Any) -> list[Tensor]:
        leaves = pair.leaves()
        y = call(leaves)[0]
        loss = weighted([y])
        y.data.zero_()
        first = torch.autograd.grad(loss, leaves, create_graph=True)
        return list(torch.autograd.grad(squares(first), leaves))

    want = penalty(lambda its: [t.clone() for t in pair.call(pair.ours, its)])
    for got, other in zip(penalty(lambda its: pair.call(pair.ours, its)), want, strict=True):
        assert_close(got, other, rtol=0, atol=0)


def test_saved_tensor_hooks_and_checkpoints() -> None:
    pair = Pair("lstm", "plain")

    def penalty(call: Any) -> list[Tensor]:
        leaves = pair.leaves()
        with torch.autograd.graph.saved_tensors_hooks(lambda t: t.clone(), lambda t: t):
            outputs = call(leaves)
        first = torch.autograd.grad(weighted(outputs), leaves, create_graph=True)
        return list(torch.autograd.grad(squares(first), leaves))

    assert_close(*pair.both(penalty), **CLOSE)


def test_first_backward_keeps_nothing_for_a_second_that_nobody_asks_for() -> None:
    pair = Pair("lstm", "plain")
    leaves = pair.leaves()
    y = pair.call(pair.ours, leaves)[0]
    first = torch.autograd.grad(y.sum(), leaves)
    assert not any(t.requires_grad for t in first)


@pytest.mark.filterwarnings("ignore:fastrnn.torch.*third derivative")
@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_derivatives_as_often_as_one_likes(kind: str) -> None:
    pair = Pair(kind, "plain")

    def four(call: Any) -> list[Tensor]:
        x, *others = pair.leaves()
        found, value = [], squares(call([x, *others]))
        for _ in range(4):
            found += torch.autograd.grad(value, x, create_graph=True)
            value = squares(found[-1:])
        return found

    def of_a_product(call: Any) -> list[Tensor]:
        """Of one of the Hessian and a vector, by the vector and by x, twice."""
        x, *others = pair.leaves()
        vector = pair.direction[0].clone().requires_grad_()
        (first,) = torch.autograd.grad(squares(call([x, *others])), x, create_graph=True)
        (product,) = torch.autograd.grad(first, x, vector, create_graph=True)
        third = torch.autograd.grad(squares([product]), [x, vector], create_graph=True)
        return [*third, *torch.autograd.grad(squares(third), [x, vector])]

    assert_close(*pair.both(four), **CLOSE)
    assert_close(*pair.both(of_a_product), **CLOSE)


@kinds
def test_third_derivative_is_torchs(kind: str) -> None:
    pair = Pair(kind, "plain")

    def third(call: Any) -> list[Tensor]:
        leaves = pair.leaves()
        first = torch.autograd.grad(squares(call(leaves)), leaves, create_graph=True)
        second = torch.autograd.grad(squares(first), leaves, create_graph=True)
        return [*second, *torch.autograd.grad(squares(second), leaves)]

    with pytest.warns(UserWarning, match="leaves this to torch.nn: fastrnn's kernels have no third derivative"):
        assert_close(*pair.both(third), **CLOSE)


# ---- forward mode


@pytest.mark.usefixtures("no_warning")
@every_option
@kinds
def test_forward_mode_is_torchs(kind: str, options: str) -> None:
    pair = Pair(kind, options)

    def eager(call: Any) -> list[Tensor]:
        with forward_ad.dual_level():
            outputs = call([forward_ad.make_dual(*its) for its in zip(pair.inputs, pair.direction, strict=True)])
            return [part for o in outputs for part in forward_ad.unpack_dual(o)]

    def transformed(call: Any) -> list[Tensor]:
        both = torch.func.jvp(lambda *its: tuple(call(its)), tuple(pair.inputs), tuple(pair.direction))
        return [*both[0], *both[1]]

    assert_close(*pair.both(eager), **CLOSE)
    assert_close(*pair.both(transformed), **CLOSE)


@pytest.mark.usefixtures("no_warning")
@kinds
def test_forward_mode_of_one_input_alone(kind: str) -> None:
    pair = Pair(kind, "plain")
    for at in range(len(pair.inputs)):

        def of_one(call: Any, at: int = at) -> list[Tensor]:
            with torch.no_grad(), forward_ad.dual_level():
                inputs = list(pair.inputs)
                inputs[at] = forward_ad.make_dual(inputs[at], pair.direction[at])
                return [forward_ad.unpack_dual(o).tangent for o in call(inputs)]

        assert_close(*pair.both(of_one), **CLOSE)


@pytest.mark.usefixtures("no_warning")
def test_forward_mode_of_a_packed_sequence() -> None:
    """torch packs none in forward mode, but rows that are packed have tangents."""
    pair = Pair("lstm", "plain")
    packed = pack_padded_sequence(pair.inputs[0], [T, 3, 2])
    rows, tangent = packed.data, torch.randn_like(packed.data)

    def call(data: Tensor) -> Tensor:
        return pair.ours(PackedSequence(data, packed.batch_sizes))[0].data

    with forward_ad.dual_level():
        got = forward_ad.unpack_dual(call(forward_ad.make_dual(rows, tangent))).tangent
    with torch.no_grad():
        want = (call(rows + 1e-6 * tangent) - call(rows - 1e-6 * tangent)) / 2e-6
    assert_close(got, want, rtol=1e-6, atol=1e-8)


@pytest.mark.usefixtures("no_warning")
@pytest.mark.parametrize("options", ["plain", "stacked"])
@kinds
def test_either_mode_of_the_other(kind: str, options: str) -> None:
    pair = Pair(kind, options)

    def reverse_of_forward(call: Any) -> list[Tensor]:
        leaves = pair.leaves()
        with forward_ad.dual_level():
            outputs = call([forward_ad.make_dual(*its) for its in zip(leaves, pair.direction, strict=True)])
            tangents = [forward_ad.unpack_dual(o).tangent for o in outputs]
        return list(torch.autograd.grad(squares(tangents), leaves))

    def hessian_vector(call: Any) -> list[Tensor]:
        gradient = torch.func.grad(lambda its: squares(call(its)))
        both = torch.func.jvp(gradient, (pair.inputs,), (pair.direction,))
        return [*both[0], *both[1]]

    def gradient_of_jvp(call: Any) -> list[Tensor]:
        def loss(inputs: list[Tensor]) -> Tensor:
            return squares(torch.func.jvp(call, (inputs,), (pair.direction,))[1])

        return list(torch.func.grad(loss)(pair.inputs))

    for function in (reverse_of_forward, hessian_vector, gradient_of_jvp):
        assert_close(*pair.both(function), **CLOSE)


def test_forward_mode_of_a_backward_and_what_follows_are_torchs() -> None:
    pair = Pair("lstm", "plain")

    def third(call: Any) -> list[Tensor]:
        leaves = pair.leaves()
        with forward_ad.dual_level():
            duals = [forward_ad.make_dual(*its) for its in zip(leaves, pair.direction, strict=True)]
            first = torch.autograd.grad(squares(call(duals)), duals, create_graph=True)
            tangents = [forward_ad.unpack_dual(t).tangent for t in first]
            return [*first, *tangents, *torch.autograd.grad(squares(tangents), leaves)]

    with pytest.warns(UserWarning, match="have no third derivative"):
        assert_close(*pair.both(third), **CLOSE)


@pytest.mark.parametrize("kind", ["lstm", "gru", "rnn_tanh"])
def test_forward_mode_of_batches(kind: str) -> None:
    """hessian, jacfwd, and either of a batch of inputs, which torch's own layers do not know."""
    pair = Pair(kind, "plain")
    x, rest = pair.inputs[0].detach(), [t.detach() for t in pair.inputs[1:]]
    xs = torch.stack([x, 2 * x, x - 1])

    def first(call: Any) -> Any:
        return lambda x: call([x, *rest])[0]

    def energy(call: Any) -> Any:
        return lambda x: squares(call([x, *rest]))

    func, reverse = torch.func, torch.autograd.functional
    got, want = [lambda its, m=m: pair.call(m, its) for m in (pair.ours, pair.theirs)]  # type: ignore[misc]
    assert_close(func.jacfwd(first(got))(x), reverse.jacobian(first(want), x), **CLOSE)
    hessians = torch.stack([reverse.hessian(energy(want), each) for each in xs])
    assert_close(func.hessian(energy(got))(x), hessians[0], **CLOSE)
    assert_close(func.vmap(func.hessian(energy(got)))(xs), hessians, **CLOSE)


@pytest.mark.parametrize("transform", ["jvp_of_jvp", "jacrev_of_jacfwd"])
def test_other_transforms_are_torchs(transform: str) -> None:
    pair = Pair("rnn_tanh", "plain")

    def jvp_of_jvp(call: Any) -> list[Tensor]:
        def once(inputs: Sequence[Tensor]) -> list[Tensor]:
            return torch.func.jvp(call, (inputs,), (pair.direction,))[1]

        return torch.func.jvp(once, (pair.inputs,), (pair.direction,))[1]

    def jacrev_of_jacfwd(call: Any) -> list[Tensor]:
        forward = torch.func.jacfwd(lambda x: squares(call([x, *pair.inputs[1:]])))
        return [torch.func.jacrev(forward)(pair.inputs[0])]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert_close(*pair.both({"jvp_of_jvp": jvp_of_jvp, "jacrev_of_jacfwd": jacrev_of_jacfwd}[transform]), **CLOSE)
