"""Heads: a recurrent product that is block-diagonal gives what a dense one with zeros outside of the blocks gives."""

from __future__ import annotations

import copy
import importlib.util
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_ensembles import decaying, draw, in_pieces, tupled
from test_switches import overridden
from tolerances import assert_close, assert_same_bits, tolerance

import fastrnn
from fastrnn import cells
from fastrnn.backends import BACKENDS

backends = pytest.mark.parametrize("backend", list(BACKENDS), indirect=True)
CELLS = {
    cell.name: cell
    for cell in (
        cells.slstm,
        cells.peephole_lstm,
        cells.reset_before_gru,
        cells.gal_lstm,
        cells.fast_grnn,
        cells.mgu,
        decaying,
    )
}
ON_NUMBA = ("slstm", "reset_before_gru")  # which compiles long
written = pytest.mark.parametrize(
    ("backend", "name"),
    [(backend, name) for backend in BACKENDS for name in (ON_NUMBA if backend == "numba" else CELLS)],
    indirect=["backend"],
)
T, N, I = 7, 3, 4


def pair(name: str, hidden: int, heads: int, backend: str, dtype: str, **options: Any) -> tuple[Any, Any]:
    """A module with heads, and on NumPy one without that has its weights, with zeros in weight_hh."""
    cell = CELLS[name]
    if cell.noise:
        options["noise"] = 0.0
    module = fastrnn.Recurrent(cell, I, hidden, heads=heads, seed=0, backend=backend, dtype=dtype, **options)
    dense = fastrnn.Recurrent(cell, I, hidden, seed=1, backend="numpy", dtype=dtype, **options)
    for which, values in module.parameters.items():
        dense.parameters[which] = spread(values, hidden, heads) if "weight_hh" in which else values
    return module, dense


def spread(weight: Any, hidden: int, heads: int) -> Any:
    """(G*H, H/K) as (G*H, H)."""
    whole, size = np.zeros((len(weight), hidden), weight.dtype), hidden // heads
    for row, values in enumerate(weight):
        first = row % hidden // size * size
        whole[row, first : first + size] = values
    return whole


def gathered(weight: Any, hidden: int, heads: int) -> Any:
    """(G*H, H) as (G*H, H/K)."""
    size = hidden // heads
    columns = np.arange(len(weight))[:, None] % hidden // size * size + np.arange(size)
    return np.take_along_axis(weight, columns, 1)


def train(module: Any, x: Any, dtype: str, checkpoint_every: int | None = None, **how: Any) -> dict[str, Any]:
    """All that comes out, with initial states, and gradients of all that comes out."""
    shapes = [s.shape for s in tupled(module(x, **how)[1])]
    states = tuple(draw(shape, dtype, 3) for shape in shapes)
    state = states if len(states) > 1 else states[0]
    inference, _ = module(x, state, **how)
    y, state_n, tape = module.forward(x, state, checkpoint_every=checkpoint_every, **how)
    dstate = tuple(draw(shape, dtype, 5) for shape in shapes)
    dx, dstate_0, grads = module.backward(tape, draw(y.shape, dtype, 4), dstate if len(dstate) > 1 else dstate[0])
    found = {"inference": inference, "y": y, "dx": dx} | grads
    found |= {f"state {at}": s for at, s in enumerate(tupled(state_n))}
    return found | {f"dstate {at}": s for at, s in enumerate(tupled(dstate_0))}


@written
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("way", list(in_pieces(1, 1)))
def test_as_a_dense_product(backend: str, name: str, dtype: str, way: str) -> None:
    for hidden, heads, options in (
        (12, 3, {}),
        (10, 2, {"num_layers": 2, "bidirectional": True, "num_threads": 2}),
        (40, 2, {"bias": False}),
    ):
        module, dense = pair(name, hidden, heads, backend, dtype, **options)
        how = in_pieces(N, T)[way]
        if name == "decaying":
            how["extra"] = {"gap": draw((T, N), dtype, 9)}
        got, want = (train(its, draw((T, N, I), dtype), dtype, **how) for its in (module, dense))
        for which, array in want.items():
            array = gathered(array, hidden, heads) if "weight_hh" in which else array
            length = T * (I + hidden + 2) + T * 4 * hidden + T * N
            assert_close(which, got[which], array, 4 * tolerance(array, dtype, length))


@backends
@pytest.mark.parametrize("name", ["slstm", "reset_before_gru"])
def test_the_same_bits_however_it_is_cut(backend: str, name: str) -> None:
    x = draw((T, N, I), "float32")
    module, _ = pair(name, 12, 3, backend, "float32", num_layers=2, bidirectional=True)
    want = train(module, x, "float32")
    found = [train(module, x, "float32", checkpoint_every=2)]
    with overridden():
        module.num_threads = 2
        found.append(train(module, x, "float32"))
    for its in found:
        for which, array in want.items():
            assert_same_bits(which, its[which], array)


@written
def test_trace_and_stream(backend: str, name: str) -> None:
    module, dense = pair(name, 12, 3, backend, "float32", num_layers=2)
    x, gap = draw((T, N, I), "float32"), draw((T, N), "float32", 9)
    how = {"extra": {"gap": gap}} if name == "decaying" else {}
    found, want = module.trace(x, **how), dense.trace(x, **how)
    assert list(found) == list(want)
    for which, array in want.items():
        assert_close(which, found[which], array, tolerance(array, "float32", 1000))
    stream, (y, _) = module.stream(N), module(x, **how)
    for t in range(T):
        its = {"extra": {"gap": gap[t]}} if how else {}
        assert_close("a step", stream.step(x[t], **its), y[t], tolerance(y, "float32", 1000))
    module.parameters["weight_hh_l0"][...] *= 0.5
    stream.refresh()
    stream.reset()
    its = {"extra": {"gap": gap}} if how else {}
    y, _ = module(x, **how)
    assert_close("steps", stream.steps(x, **its), y, tolerance(y, "float32", 1000))


@pytest.mark.usefixtures("safetensors")
def test_tokens_single_sequences_and_what_is_kept(tmp_path: Path) -> None:
    module, dense = pair("slstm", 12, 4, "cython", "float32", num_layers=2)
    tokens = np.random.default_rng(0).integers(0, I, (T, N))
    for x in (tokens, tokens[:, 0], draw((T, I), "float32"), draw((0, N, I), "float32"), draw((T, 0, I), "float32")):
        y, _ = module(x)
        assert_close("y", y, dense(x)[0], 1e-5)
    x = draw((T, N, I), "float32")
    y, _ = module(x)
    fastrnn.save(module, tmp_path / "heads.safetensors")
    others = [fastrnn.load(tmp_path / "heads.safetensors"), pickle.loads(pickle.dumps(module)), copy.deepcopy(module)]
    others.append(fastrnn.Recurrent(cells.slstm, I, 12, 2, heads=4, seed=7))
    others[-1].load_state_dict(module.state_dict())
    others.append(copy.deepcopy(module).freeze())
    for other in others:
        assert repr(other).replace(", backend='cython'", "") == "Recurrent(slstm, 4, 12, num_layers=2, heads=4)"
        assert_same_bits("y", other(x)[0], y)
    assert module.parameters["weight_hh_l0"].shape == (48, 3)
    assert "4 at once" in module.explain((T, N, I))


@pytest.mark.parametrize("backend", ["cython", "numpy"], indirect=True)
@pytest.mark.parametrize("width", [(), (12,)])
def test_gradients_of_values_beside_x(backend: str, width: tuple[int, ...]) -> None:
    module, dense = pair("decaying", 12, 3, backend, "float64", num_layers=2, bidirectional=True)
    x, gap = draw((T, N, I), "float64"), draw((T, N, *width), "float64", 9)
    for how in ({}, {"lengths": [2, T, 0]}, {"checkpoint_every": 2}):
        found = []
        for its in (module, dense):
            y, _, tape = its.forward(x, extra={"gap": gap}, extra_gradients=True, **how)
            its.backward(tape, draw(y.shape, "float64", 4))
            found.append(tape.dextra["gap"])
        assert np.abs(found[1]).max() > 0.1
        assert_close("the gradient of gap", found[0], found[1], 1e-12)


def test_one_head_is_the_layer() -> None:
    x = draw((T, N, I), "float32")
    want = train(fastrnn.Recurrent(cells.slstm, I, 12, seed=3), x, "float32")
    found = train(fastrnn.Recurrent(cells.slstm, I, 12, heads=1, seed=3), x, "float32")
    for which, array in want.items():
        assert_same_bits(which, found[which], array)


def test_weights_are_packed_anew_when_they_have_changed() -> None:
    module, dense = pair("slstm", 12, 4, "cython", "float32")
    x = draw((T, N, I), "float32")
    module(x)
    for its in (module, dense):
        its.parameters["weight_ih_l0"][...] *= 0.5
        its.parameters["bias_hh_l0"][...] += 1
    assert_close("y", module(x)[0], dense(x)[0], 1e-5)


def test_in_torch(torch: Any) -> None:
    import fastrnn.torch as doors

    for options in ({}, {"num_layers": 2, "bidirectional": True}):
        torch.manual_seed(0)
        ours = doors.Recurrent(cells.slstm, I, 12, heads=3, **options)
        module = fastrnn.Recurrent(cells.slstm, I, 12, heads=3, **options)
        module.load_state_dict(ours.state_dict())
        x = torch.from_numpy(draw((T, N, I), "float32")).requires_grad_()
        y, states = ours(x)
        want, want_n, tape = module.forward(x.detach().numpy())
        assert_same_bits("y", y.detach().numpy(), want)
        for got, its in zip(states, want_n, strict=True):
            assert_same_bits("a state", got.detach().numpy(), its)
        dy = draw(want.shape, "float32", 4)
        y.backward(torch.from_numpy(dy))
        dx, _, grads = module.backward(tape, dy)
        assert_same_bits("dx", x.grad.numpy(), dx)
        for name, parameter in ours.named_parameters():
            assert_same_bits(name, parameter.grad.numpy(), grads[name])
        with torch.no_grad():
            assert_same_bits("inference", ours(x)[0].numpy(), module(x.detach().numpy())[0])
        assert "heads=3" in repr(ours)


def test_in_onnx(tmp_path: Path, require: Any) -> None:
    for name in ("onnx", "onnxruntime"):
        require(importlib.util.find_spec(name) is not None, f"{name} is not installed")
    from onnxruntime import InferenceSession

    from fastrnn.onnx import export

    module, _ = pair("slstm", 12, 3, "cython", "float32", num_layers=2, bidirectional=True)
    export(module, tmp_path / "heads.onnx")
    x = draw((T, N, I), "float32")
    (y, *_) = InferenceSession(tmp_path / "heads.onnx").run(None, {"x": x})
    assert_close("y", y, module(x)[0], 1e-5)


def test_mistakes() -> None:
    for cell, arguments, error, text in (
        (cells.slstm, {"heads": 3}, ValueError, "heads is 3; expected a divisor of hidden_size = 8"),
        (cells.slstm, {"heads": 0}, ValueError, "heads is 0"),
        (cells.slstm, {"heads": "2"}, TypeError, "heads is '2'"),
        (cells.slstm, {"heads": 2, "proj_size": 4}, ValueError, "mixes the heads"),
        (cells.layer_norm_lstm, {"heads": 2}, ValueError, "a mean over all units"),
        (cells.min_gru, {"heads": 2}, ValueError, "no recurrent product"),
    ):
        with pytest.raises(error, match=text):
            fastrnn.Recurrent(cell, I, 8, **arguments)  # type: ignore[arg-type]
    module = fastrnn.Recurrent(cells.slstm, I, 8, heads=2)
    with pytest.raises(AttributeError, match="heads of a Recurrent is fixed"):
        module.heads = 4
    with pytest.raises(ValueError, match=r"has shape \(32, 8\); expected \(32, 4\)"):
        module.parameters["weight_hh_l0"] = np.zeros((32, 8), np.float32)
