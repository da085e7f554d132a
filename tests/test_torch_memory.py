"""What a user may do to tensors around forward and backward: gradients stay right, or an error says why.

torch's own modules, in float64, are the measure: what is right there is right here.
"""

from __future__ import annotations

import contextlib
import copy
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from fastrnn import ops

torch = pytest.importorskip("torch", reason="torch is not installed")
from torch import Tensor, nn  # noqa: E402
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence  # noqa: E402

import fastrnn.torch as ours  # noqa: E402

KINDS: dict[str, tuple[Any, dict[str, Any]]] = {
    "rnn_tanh": (nn.RNN, {}),
    "rnn_relu": (nn.RNN, {"nonlinearity": "relu"}),
    "lstm": (nn.LSTM, {}),
    "gru": (nn.GRU, {}),
    "lstm_projected": (nn.LSTM, {"proj_size": 5}),
}
kinds = pytest.mark.parametrize("kind", list(KINDS))
T, N, I, H = 5, 3, 4, 6


@pytest.fixture(autouse=True)
def compiled(require: Callable[[bool, str], None]) -> None:
    backend, _ = ops.choose(None, None)
    require(ops.keeps(backend), "no backend with compiled kernels runs here")


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="There is a performance drop because", category=UserWarning)
        yield


def pair(kind: str, **options: Any) -> tuple[Any, Any]:
    """A module of torch.nn, and ours with its weights."""
    cls, more = KINDS[kind]
    module = cls(I, H, **more, **options, dtype=torch.float64)
    for parameter in module.parameters():
        nn.init.uniform_(parameter, -0.8, 0.8)
    return module, ours.accelerate(copy.deepcopy(module))


def a_batch(*shape: int) -> Tensor:
    return torch.randn(shape or (T, N, I), dtype=torch.float64)


def states_of(module: Any, leading: tuple[int, ...]) -> Any:
    """Random initial states."""
    states = [a_batch(*leading, size) for size in (module.proj_size or H, H)]
    return tuple(states) if isinstance(module, nn.LSTM) else states[0]


def gradients(module: Any, x: Tensor, between: Callable[[Tensor], Any]) -> list[Tensor]:
    """Of x and all parameters, where `between` gets y after forward."""
    x = x.clone().requires_grad_()
    y, _ = module(x)
    loss = (y * torch.linspace(-1, 1, y.numel(), dtype=y.dtype).reshape(y.shape)).sum()
    between(y)
    return list(torch.autograd.grad(loss, [x, *module.parameters()]))


def assert_equal(got: list[Tensor], want: list[Tensor]) -> None:
    for one, other in zip(got, want, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-10)


def assert_same_bits(got: list[Tensor], want: list[Tensor]) -> None:
    for one, other in zip(got, want, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


# ---- y


def zero_with_numpy(y: Tensor) -> None:
    y.detach().numpy()[...] = 0


WRITES = {
    "data": lambda y: y.data.zero_(),
    "numpy": zero_with_numpy,
    "an element": lambda y: y.data[1, 2].fill_(9),
    "no_grad": lambda y: torch.no_grad()(y.mul_)(3),
    "another": lambda y: setattr(y, "data", a_batch(*y.shape)),
}


@kinds
@pytest.mark.parametrize("write", list(WRITES))
@pytest.mark.parametrize("options", [{}, {"bidirectional": True, "num_layers": 2, "batch_first": True}], ids=str)
@pytest.mark.parametrize("hooked", [False, True], ids=["", "hooked"])
def test_what_is_written_to_y_reaches_no_gradient(kind: str, write: str, options: dict[str, Any], hooked: bool) -> None:
    """As in torch.nn, whose y is a copy. Hooks on what is saved for backward hide writes from torch."""
    want, got = pair(kind, **options)
    x = a_batch()
    expected = gradients(want, x, lambda y: None)
    if hooked:
        with torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t):
            found = gradients(got, x, WRITES[write])
    else:
        found = gradients(got, x, WRITES[write])
    assert_equal(found, expected)


# ---- everything else, before backward


@kinds
@pytest.mark.parametrize("name", ["x", "h_0", "dy", "weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"])
@pytest.mark.parametrize("held", [0, 8])
def test_freed_storage_is_refused(kind: str, name: str, held: int) -> None:
    """As some free the memory of parameters between steps: NumPy would make up numbers for it."""
    _, module = pair(kind)
    x, state = a_batch(), states_of(module, (1, N))
    dy = a_batch(T, N, module.proj_size or H)
    tensors = {"x": x, "dy": dy, "h_0": state[0] if isinstance(state, tuple) else state}
    tensors |= dict(module.named_parameters())
    if name == "dy":
        y, _ = module(x, state)
        dy.untyped_storage().resize_(held)
        with pytest.raises(RuntimeError, match=rf"dy has shape \({T}, .*a storage of {held} bytes; expected all"):
            y.backward(dy)
        return
    tensors[name].untyped_storage().resize_(held)
    for grad in (True, False):
        message = f"{name.removesuffix('_l0')} has shape .*a storage of {held} bytes; expected all"
        with torch.set_grad_enabled(grad), pytest.raises(RuntimeError, match=message):
            module(x, state)


def test_views_of_freed_storage_are_refused() -> None:
    """An expanded one needs no more memory than it has."""
    _, module = pair("gru")
    message = r"has shape .* expected all of its elements: it was freed by resize_"
    x = a_batch()
    module(x[:, :1].expand(T, N, I))
    last = x[1:]
    module(last)
    x = a_batch()
    last = x[1:]
    x.untyped_storage().resize_(0)
    with pytest.raises(RuntimeError, match=f"x {message}"):
        module(last)
    wide = a_batch(*module.weight_hh_l0.shape, 2)
    module.weight_hh_l0.data = wide[..., 0]
    wide.untyped_storage().resize_(8 * (wide.numel() - 2))
    with pytest.raises(RuntimeError, match=f"weight_hh {message}"):
        module(a_batch())


@kinds
def test_torch_frees_nothing_that_backward_needs(kind: str) -> None:
    _, module = pair(kind)
    x = a_batch().requires_grad_()
    want = gradients(module, x.detach(), lambda y: None)
    y, _ = module(x)
    for tensor in (x, *module.parameters()):
        with pytest.raises(RuntimeError, match="resize storage that is not resizable"):
            tensor.untyped_storage().resize_(0)
    loss = (y * torch.linspace(-1, 1, y.numel(), dtype=y.dtype).reshape(y.shape)).sum()
    assert_same_bits(list(torch.autograd.grad(loss, [x, *module.parameters()])), want)


@kinds
def test_memory_that_is_replaced_before_backward(kind: str) -> None:
    """The gradients are those of what forward read; torch.nn would mix old and new."""
    _, module = pair(kind)
    x = a_batch()
    want = gradients(module, x, lambda y: None)
    old = copy.deepcopy(module.state_dict())

    def replace(y: Tensor) -> None:
        for parameter in module.parameters():
            parameter.data = torch.full_like(parameter, 1e6)

    assert_same_bits(gradients(module, x, replace), want)
    module.load_state_dict(old)
    y, _ = module(x)
    module.weight_hh_l0.data = torch.zeros(2, 2, dtype=torch.float64)
    with pytest.raises(RuntimeError, match="must match the size"):
        y.sum().backward(retain_graph=True)
    with pytest.raises((RuntimeError, ValueError), match=r"weight_hh has shape \(2, 2\); expected"):
        y.sum().backward()  # a second time, for which forward runs again
    module.weight_hh_l0.data = old["weight_hh_l0"].half()
    with pytest.raises((RuntimeError, TypeError), match="weight_hh has dtype float16; expected float64"):
        y.sum().backward()


@kinds
def test_other_memory_by_set_is_seen_by_torch(kind: str) -> None:
    _, module = pair(kind)
    x = a_batch()
    y, _ = module(x)
    with torch.no_grad():
        x.set_(a_batch(2, 2))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


@kinds
def test_parameters_may_be_of_any_layout(kind: str) -> None:
    want, got = pair(kind)
    for name, parameter in got.named_parameters():
        wide = torch.zeros(*parameter.shape, 2, dtype=torch.float64)
        wide[..., 1] = getattr(want, name).detach()
        parameter.data = wide[..., 1]
        assert not parameter.is_contiguous()
    x = a_batch()
    assert_equal(gradients(got, x, lambda y: None), gradients(want, x, lambda y: None))


@kinds
def test_batch_sizes_are_read_once(kind: str) -> None:
    """A packed sequence is a tuple of tensors, and NumPy writes to them unseen."""
    want, got = pair(kind, bidirectional=True)
    data, found = a_batch(9, I), []
    for module, size in ((want, None), (got, 10**9), (got, -1)):
        batch_sizes = torch.tensor([3, 3, 2, 1])
        y, _ = module(PackedSequence(data, batch_sizes))
        if size is not None:
            batch_sizes.numpy()[...] = size
        found.append(list(torch.autograd.grad(y.data.square().sum(), list(module.parameters()))))
    assert_equal(found[1], found[0])
    assert_same_bits(found[2], found[1])


@kinds
@pytest.mark.parametrize("garbage", [np.nan, np.inf, 1e300])
def test_padding_of_packed_sequences_touches_nothing(kind: str, garbage: float) -> None:
    _, module = pair(kind, bidirectional=True)
    lengths, x = torch.tensor([2, 5, 1]), a_batch()
    outcomes = []
    for padding in (0.0, garbage):
        padded = torch.where(torch.arange(T)[:, None, None] < lengths[None, :, None], x, padding).requires_grad_()
        y, _ = module(pack_padded_sequence(padded, lengths, enforce_sorted=False))
        outcomes.append([y.data, *torch.autograd.grad(y.data.square().sum(), [padded, *module.parameters()])])
    assert_same_bits(*outcomes)


@pytest.mark.parametrize("enforce_sorted", [True, False], ids=["sorted", ""])
@pytest.mark.parametrize("layers", [1, 2])
@kinds
def test_packed_data_is_shared_on_its_way(
    kind: str, layers: int, enforce_sorted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows go in and out of each layer, forward and backward, on the memory they came in; the last y alone is a copy.

    torch.nn makes that copy too: it puts the rows together from steps.
    """
    _, module = pair(kind, num_layers=layers, bidirectional=True)
    came: dict[str, list[np.ndarray]] = {name: [] for name in ("x", "y", "dy", "dx")}

    def forward(backend: Any, cell: Any, x: Any, *rest: Any, original: Any = ops.forward) -> Any:
        y, state_n, tape = original(backend, cell, x, *rest)
        came["x"].append(x)
        came["y"].append(y)
        return y, state_n, tape

    def backward(tape: Any, dy: Any, *rest: Any, original: Any = ops.backward, **options: Any) -> Any:
        found = original(tape, dy, *rest, **options)
        came["dy"].append(dy)
        came["dx"].append(found[0])
        return found

    monkeypatch.setattr(ops, "forward", forward)
    monkeypatch.setattr(ops, "backward", backward)
    packed = pack_padded_sequence(a_batch(), torch.tensor([5, 3, 2]), enforce_sorted=enforce_sorted)
    data = packed.data.requires_grad_()
    y, _ = module(PackedSequence(data, *packed[1:]))
    dy = torch.ones_like(y.data)
    (dx,) = torch.autograd.grad(y.data, data, dy)
    assert {name: len(arrays) for name, arrays in came.items()} == dict.fromkeys(came, 2 * layers)

    inputs = [data.detach().numpy(), *came["y"][: 2 * layers - 2 : 2]]
    for at, x in enumerate(came["x"]):
        assert address(x) == address(inputs[at // 2])
    assert not any(np.shares_memory(y.data.detach().numpy(), its) for its in came["y"])
    gradients = [dy.numpy(), *came["dx"][: 2 * layers - 2 : 2]]
    for at, its in enumerate(came["dy"]):
        assert np.shares_memory(its, gradients[at // 2])
    assert address(dx.numpy()) == address(came["dx"][-1]) == address(came["dx"][-2])


def address(array: np.ndarray) -> int:
    """Where it begins."""
    return int(array.__array_interface__["data"][0])


# ---- tensors that are not what they seem


def negative(tensor: Tensor) -> Tensor:
    """The same values with torch's negative bit set: their memory holds the opposite."""
    result = torch.complex(torch.zeros_like(tensor), -tensor).conj().imag
    assert result.is_neg()
    return result


@kinds
@pytest.mark.parametrize("hooked", [False, True], ids=["", "hooked"])
def test_a_negative_bit_is_resolved(kind: str, hooked: bool) -> None:
    """Losses of complex numbers send such gradients."""
    modules, x, outcomes = pair(kind), a_batch(), []
    state = states_of(modules[0], (1, N))
    for module, change in zip(modules, (torch.clone, negative), strict=True):
        hx = tuple(map(change, state)) if isinstance(state, tuple) else change(state)
        hooks = (lambda t: t, lambda t: t) if hooked else (lambda t: t.clone(), lambda t: t)
        with torch.autograd.graph.saved_tensors_hooks(*hooks):
            y, state_n = module(change(x), hx)
        h_n = state_n[0] if isinstance(state_n, tuple) else state_n
        dy = [change(torch.ones_like(out)) for out in (y, h_n)]
        outcomes.append([y, h_n, *torch.autograd.grad([y, h_n], list(module.parameters()), dy)])
    assert_equal(outcomes[1], outcomes[0])


@kinds
@pytest.mark.parametrize("hooked", [False, True], ids=["", "hooked"])
def test_batches_of_gradients(kind: str, hooked: bool) -> None:
    modules, x, outcomes = pair(kind), a_batch(), []
    hooks = (lambda t: t.clone(), lambda t: t)
    for module in modules:
        leaf = x.clone().requires_grad_()
        with torch.autograd.graph.saved_tensors_hooks(*hooks) if hooked else contextlib.nullcontext():
            y, state_n = module(leaf)
        h_n = state_n[0] if isinstance(state_n, tuple) else state_n
        dy, dh_n = (torch.linspace(-1, 1, 7 * out.numel(), dtype=out.dtype).reshape(7, *out.shape) for out in (y, h_n))
        leaves = [leaf, *module.parameters()]
        outcomes.append(
            [
                *torch.autograd.grad([y, h_n], leaves, [dy, dh_n], is_grads_batched=True, retain_graph=True),
                *torch.autograd.grad(h_n, leaves, dh_n, is_grads_batched=True, retain_graph=True),
                *torch.autograd.grad(y, leaves, dy, is_grads_batched=True, retain_graph=True),
                torch.autograd.functional.jacobian(lambda x, m=module: m(x)[0], x, vectorize=True),
            ]
        )
    assert_equal(outcomes[1], outcomes[0])
    by_vmap = torch.vmap(lambda d: torch.autograd.grad(y, leaves, d, retain_graph=True))(dy)
    assert_equal(list(by_vmap), outcomes[1][-1 - len(leaves) : -1])


# ---- threads, and calls past the modules


@kinds
def test_one_graph_in_many_threads(kind: str) -> None:
    """Whoever comes first has the tape, the others run forward again: the same bits."""
    _, module = pair(kind)
    x = a_batch(40, N, I).requires_grad_()
    tensors = [x, *module.parameters()]
    y, _ = module(x)
    loss = y.square().sum()
    want = torch.autograd.grad(module(x)[0].square().sum(), tensors)
    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            tasks = [pool.submit(torch.autograd.grad, loss, tensors, retain_graph=True) for _ in range(8)]
            for task in tasks:
                assert_same_bits(list(task.result()), list(want))


def operator_arguments(kind: str) -> dict[str, Any]:
    """What torch.ops.fastrnn.layer_backward takes, of a packed sequence in both directions."""
    _, module = pair(kind, bidirectional=True)
    states = [s.contiguous() for s in states_of(module, (2, N))] if "lstm" in kind else [states_of(module, (2, N))]
    given = {"x": a_batch(9, I), "batch_sizes": torch.tensor([3, 3, 2, 1]), "state": states}
    given |= {"weights": [w.detach() for w in module._flat_weights]}
    cell = kind.removesuffix("_projected")
    y, state_n, tape = torch.ops.fastrnn.layer(*given.values(), cell, True)
    dstate_n = [torch.randn_like(s) for s in state_n]
    return given | {"y": y, "tape": list(tape), "dy": torch.randn_like(y), "dstate_n": dstate_n, "cell": cell}


def spoilt(value: Any) -> Iterator[Any]:
    """Values that are not what an argument must be; lists also with one of their elements spoilt."""
    if isinstance(value, list):
        yield from ([], value[1:], value + value[:1])
        for i, item in enumerate(value):
            yield from ([*value[:i], other, *value[i + 1 :]] for other in spoilt(item))
    elif isinstance(value, str):
        yield from ("gru" if value != "gru" else "rnn_relu", "?")
    else:
        yield from (value[1:], value[:0], value[None], value.flatten()[0], torch.cat([value, value]))
        yield from (value.half(), value.to(torch.complex128), value.long() if value.is_floating_point() else -value)
        yield value.to(torch.float32)


@kinds
def test_operators_refuse_what_does_not_fit(kind: str) -> None:
    """Anyone can call them, and the kernels trust what they get."""
    given = operator_arguments(kind)
    torch.ops.fastrnn.layer_backward(*given.values())
    given["tape"][-1].fill_(operator_arguments(kind)["tape"][-1].item())
    for name, value in given.items():
        for other in spoilt(value):
            if name == "tape" and not other:
                continue  # then forward runs again
            with pytest.raises((TypeError, ValueError, IndexError)):
                torch.ops.fastrnn.layer_backward(*(given | {name: other}).values())
            if name in ("x", "batch_sizes", "state", "weights", "cell"):
                changed = given | {name: other}
                arguments = [changed[key] for key in ("x", "batch_sizes", "state", "weights", "cell")]
                with pytest.raises((TypeError, ValueError, IndexError)):
                    torch.ops.fastrnn.layer(*arguments, True)
