"""precision= and fastrnn.quantize: modules, streams and files of fewer bits, and what they refuse."""

from __future__ import annotations

import copy
import importlib.util
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from problems import run_python
from tolerances import assert_close, assert_same_bits

import fastrnn
from fastrnn.backends import load
from fastrnn.errors import BackendError
from fastrnn.parameters import Array
from fastrnn.quantized import SHARES

CLASSES = [fastrnn.LSTM, fastrnn.GRU, fastrnn.RNN]
KINDS = [
    (fastrnn.LSTM, {}),
    (fastrnn.LSTM, {"num_layers": 2, "bidirectional": True, "proj_size": 5}),
    (fastrnn.GRU, {"num_layers": 2, "bias": False}),
    (fastrnn.RNN, {"nonlinearity": "relu", "bidirectional": True, "batch_first": True}),
]
T, N, I, H = 6, 4, 9, 20

kinds = pytest.mark.parametrize(("cls", "options"), KINDS, ids=["lstm", "lstm-all", "gru", "rnn"])
precisions = pytest.mark.parametrize("precision", ["bfloat16", "int8"])


def real(*shape: int) -> Array:
    return np.random.default_rng(list(shape)).standard_normal(shape).astype(np.float32)


def outputs(module: Any, *args: Any, **options: Any) -> list[Array]:
    y, state = module(*args, **options)
    return [y, *(state if isinstance(state, tuple) else (state,))]


def assert_alike(got: list[Array], want: list[Array], limit: float = 0) -> None:
    for k, (array, right) in enumerate(zip(got, want, strict=True)):
        assert_close(f"output {k}", array, right, limit)


@kinds
@precisions
def test_calls(cls: Any, options: dict[str, Any], precision: str) -> None:
    """The bits change with the precision, and are again what they were; the backends agree."""
    module, x = cls(I, H, seed=0, **options), real(T, N, I)
    x = x.swapaxes(0, 1) if module.batch_first else x
    want = outputs(module, x)
    module.precision = precision
    got = outputs(module, x)
    error = float(np.abs(got[0] - want[0]).max())
    assert 0 < error < 0.05
    assert_alike(outputs(cls(I, H, seed=0, precision=precision, **options), x), got)
    with fastrnn.use_backend("numpy"):
        assert_alike(outputs(module, x), got, error / 3)
    module.precision = "float32"
    assert_alike(outputs(module, x), want)


@kinds
@precisions
@pytest.mark.parametrize("held", [False, True], ids=["packed once", "parameters held"])
def test_ways_to_call(cls: Any, options: dict[str, Any], precision: str, held: bool) -> None:
    """Lengths, masks, resets, tokens and threads, against single sequences and pieces; weights that change."""
    module = cls(I, H, seed=0, precision=precision, **options | {"batch_first": False})
    kept = module.parameters if held else None
    x, lengths = real(T, N, I), [T, 2, 0, 4]
    y = module(x, lengths=lengths)[0]
    for n, length in enumerate(lengths):
        assert_same_bits(f"sequence {n}", y[:length, n], module(x[:length, n])[0])
        assert not y[length:, n].any()
    mask = np.arange(T)[:, None] < np.array(lengths)
    assert_same_bits("mask", module(x, mask=mask)[0], y)
    resets = np.zeros((T, N), bool)
    resets[3] = True
    again = module(x, resets=resets)[0]
    if not module.bidirectional:
        assert_same_bits("resets", again, np.concatenate([module(x[:3])[0], module(x[3:])[0]]))
    tokens = np.random.default_rng(0).integers(0, I, (T, N))
    one_hot = np.eye(I, dtype=np.float32)[tokens]
    assert_alike(outputs(module, tokens), outputs(module, one_hot), 0.01)
    before = outputs(module, x)
    module.num_threads = 2
    assert_alike(outputs(module, x), before)
    module.parameters["weight_hh_l0"] *= 2
    assert np.abs(outputs(module, x)[0] - before[0]).max() > 0.0001
    assert (kept is None) != held


@pytest.mark.parametrize("cls", CLASSES)
@precisions
@pytest.mark.parametrize("backend", ["cython", "numpy"], indirect=True)
@pytest.mark.parametrize("batch_size", [None, 1, 3])
def test_streams(cls: Any, precision: str, backend: str, batch_size: int | None) -> None:
    module = cls(I, H, 2, seed=0, precision=precision, backend=backend)
    x = real(T, I) if batch_size is None else real(T, batch_size, I)
    want = module(x)[0]
    stream, blocks = module.stream(batch_size), module.stream(batch_size)
    limit = 0 if backend == "cython" else 0.003  # of roundings that go the other way
    assert_close("step", np.stack([stream.step(x_t) for x_t in x]), want, limit)
    assert_close("steps", np.concatenate([blocks.steps(x[:4]), blocks.steps(x[4:])]), want, limit)
    module.parameters["weight_ih_l0"] *= 3
    stream.reset()
    assert_close("old weights", stream.step(x[0]), want[0], limit)
    stream.refresh()
    stream.reset()
    assert_close("new weights", stream.step(x[0]), module(x[:1])[0][0], limit)
    assert np.abs(module(x[:1])[0][0] - want[0]).max() > 0.01


@pytest.mark.parametrize("backend", ["cython"], indirect=True)
@precisions
def test_packed_weights_are_kept_and_smaller(backend: str, precision: str, tmp_path: Path) -> None:
    module = fastrnn.LSTM(64, 128, seed=0, precision=precision, backend=backend)
    module(real(3, 1, 64))
    layer = module._weights[0][0]
    packed = layer._kept[2]
    module(real(5, 2, 64))
    assert layer._kept[2] is packed
    text = module.explain((50, 1, 64))
    assert f"precision={precision!r}" in text
    assert f"weights {'394' if precision == 'int8' else '787'}" not in text
    bytes_of_weights = {"int8": "102 kB", "bfloat16": "197 kB"}[precision]
    assert f"weights {bytes_of_weights}" in text
    assert f"products of {precision}" in text
    level = {"int8": "int8 on", "bfloat16": "bfloat16 weights on"}[precision]
    assert f"{level} {text.split('recurrent product ')[1].split()[0]}" in load(backend).describe()


def test_info_says_what_would_run() -> None:
    assert "bfloat16 weights on" in str(fastrnn.info()) or "cython" not in str(fastrnn.info())


@precisions
@pytest.mark.usefixtures("safetensors")
def test_repr_pickle_copy_and_file(precision: str, tmp_path: Path) -> None:
    module, x = fastrnn.GRU(I, H, 2, seed=0, precision=precision), real(T, N, I)
    want = outputs(module, x)
    assert repr(module) == f"GRU({I}, {H}, num_layers=2, precision={precision!r})"
    fastrnn.save(module, tmp_path / "module")
    for again in (copy.deepcopy(module), pickle.loads(pickle.dumps(module)), fastrnn.load(tmp_path / "module")):
        assert again.precision == precision
        assert repr(again) == repr(module)
        assert_alike(outputs(again, x), want)
    assert_alike(outputs(copy.deepcopy(module).freeze(), x), want)


def test_training_is_refused() -> None:
    module, x = fastrnn.LSTM(I, H, precision="int8"), real(T, N, I)
    wanted = r"^precision is 'int8', which is for inference; expected 'float32' or 'bf.* module.precision = 'float32'"
    for call in (module.forward, module.trace):
        with pytest.raises(ValueError, match=wanted):
            call(x)
    with pytest.raises(ValueError, match=wanted):
        module.explain(x.shape, training=True)
    module.precision = "float32"
    y, _, tape = module.forward(x)
    module.backward(tape, np.ones_like(y))
    assert module.trace(x)["h_l0"].shape == (T, N, H)


def test_what_is_no_precision_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^precision is 'half'; expected .*float32.*int8"):
        fastrnn.LSTM(I, H, precision="half")
    with pytest.raises(TypeError, match=r"^precision is 8"):
        fastrnn.LSTM(I, H, precision=8)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^precision is 'int8' with dtype float64; expected dtype='float32'"):
        fastrnn.LSTM(I, H, precision="int8", dtype="float64")
    with pytest.raises(ValueError, match=r"^precision is 'int8' with 131073 columns"):
        fastrnn.RNN(131073, 1, precision="int8")
    assert fastrnn.RNN(131073, 1, precision="bfloat16").precision == "bfloat16"
    written = fastrnn.Recurrent(fastrnn.cells.min_gru, I, H)
    with pytest.raises(ValueError, match=r"^precision is 'int8', but min_gru is a written cell; expected 'float32'"):
        written.precision = "int8"
    with pytest.raises(ValueError, match=r"^the modules have precision='int8'; expected precision='float32'"):
        fastrnn.stack_modules([fastrnn.LSTM(I, H, precision="int8")] * 2)
    module = fastrnn.LSTM(I, H)
    with pytest.raises(ValueError, match=r"^precision is"):
        module.precision = "int4"
    assert module.precision == "float32"


@pytest.mark.parametrize("backend", ["numba"], indirect=True)
def test_a_backend_without_them_is_refused(backend: str, restored: None) -> None:
    module, x = fastrnn.LSTM(I, H, precision="int8", backend=backend), real(T, N, I)
    with pytest.raises(BackendError, match=r"^the numba backend has no precision 'int8'; expected another"):
        module(x)
    module.backend = None
    fastrnn.use_backend(backend)
    with pytest.raises(BackendError, match=r"^the numba backend has no precision"):
        module.stream()
    fastrnn.use_backend(None)
    assert module(x)[0].shape == (T, N, H)


@pytest.mark.parametrize("backend", ["numba"], indirect=True)
def test_without_kernels_numpy_computes(backend: str, tmp_path: Path) -> None:
    """Where nobody asks for Numba, a lack of it is no error."""
    code = """
import sys, warnings
sys.modules["fastrnn.kernels.sequence"] = None
warnings.simplefilter("ignore")
import numpy as np, fastrnn
module = fastrnn.GRU(3, 4, seed=0, precision="bfloat16")
y = module(np.ones((5, 2, 3), "f"))[0]
module.backend = "numpy"
print(fastrnn.info().used, bool((module(np.ones((5, 2, 3), "f"))[0] == y).all()))
"""
    assert run_python(code, tmp_path).stdout.split() == ["numba", "True"]


# ---- quantize


@kinds
@pytest.mark.usefixtures("safetensors")
def test_quantized_modules(cls: Any, options: dict[str, Any], tmp_path: Path) -> None:
    module = cls(I, H, seed=0, **options)
    x = real(*((N, T) if module.batch_first else (T, N)), I)
    small = fastrnn.quantize(module)
    assert (module.precision, module.quantized) == ("float32", False)
    assert repr(small) == repr(module)[:-1] + ", precision='int8', quantized=True)"
    module.precision = "int8"
    want = outputs(module, x)
    assert_alike(outputs(small, x), want)
    weights = [p for name, p in small.parameters.items() if name.startswith(("weight_ih", "weight_hh"))]
    assert {(p.dtype.name, int(np.abs(p).max())) for p in weights} == {("int8", 127)}
    assert {p.dtype.name for name, p in small.parameters.items() if "hr" in name or "scale" in name} == {"float32"}
    fastrnn.save(small, tmp_path / "small")
    again = fastrnn.load(tmp_path / "small")
    assert repr(again) == repr(small)
    for each in (again, copy.deepcopy(small), pickle.loads(pickle.dumps(small)), copy.deepcopy(small).freeze()):
        assert_alike(outputs(each, x), want)
    other = fastrnn.quantize(cls(I, H, seed=1, **options))
    other.load_state_dict(small.state_dict())
    assert_alike(outputs(other, x), want)
    if not module.bidirectional:
        stream = small.stream(N)
        assert_same_bits("stream", np.stack([stream.step(x_t) for x_t in x]), want[0])
    with fastrnn.use_backend("numpy"):
        assert_alike(outputs(small, x), want, 0.01)


@pytest.mark.usefixtures("safetensors")
def test_files_have_a_quarter_of_the_bytes(tmp_path: Path) -> None:
    module = fastrnn.LSTM(128, 256, seed=0)
    fastrnn.save(module, tmp_path / "large")
    fastrnn.save(fastrnn.quantize(module), tmp_path / "small")
    assert (tmp_path / "small").stat().st_size < 0.28 * (tmp_path / "large").stat().st_size


@pytest.mark.parametrize("tokens", [False, True], ids=["dense", "tokens"])
@pytest.mark.parametrize(("cls", "options"), KINDS[:3], ids=["lstm", "lstm-all", "gru"])
def test_calibration_makes_errors_smaller(cls: Any, options: dict[str, Any], tokens: bool) -> None:
    """Large weights of what hardly occurs: scales that cut these off serve the others better."""
    module = cls(I, H, seed=0, **options)
    rng = np.random.default_rng(0)
    for name, weight in module.parameters.items():
        if name.startswith(("weight_ih", "weight_hh")):
            weight[...] = 0.2 * rng.standard_normal(weight.shape)
            weight[:, -1] *= 5
            weight[0, 0] = 9  # but this one often occurs
    x = rng.integers(0, I - 1, (40, 8)) if tokens else real(40, 8, I) * np.float32([1] * (I - 1) + [0.01])
    plain, better = fastrnn.quantize(module), fastrnn.quantize(module, x)
    scales = [name for name in plain.parameters if name.startswith("scale")]
    shares = np.concatenate([better.parameters[name] / plain.parameters[name] for name in scales])
    assert SHARES[-1] - 1e-6 <= shares.min() < 0.999
    assert shares.max() <= 1
    assert better.parameters["scale_ih_l0"][0] == plain.parameters["scale_ih_l0"][0]
    of_x = (np.eye(I)[x] if tokens else x.astype(float)).reshape(-1, I)
    errors = []
    for each in (plain, better):
        wide = each.parameters["weight_ih_l0"] * each.parameters["scale_ih_l0"][:, None].astype(float)
        errors.append(((of_x @ (wide - module.parameters["weight_ih_l0"]).T) ** 2).sum(axis=0))
    assert (errors[1] <= errors[0] * 1.0001).all()
    assert errors[1].sum() < 0.99 * errors[0].sum()
    module.precision = "int8"
    assert_alike(outputs(fastrnn.quantize(module, x), x), outputs(better, x))


def test_an_export_wants_float32(tmp_path: Path, require: Any) -> None:
    require(importlib.util.find_spec("onnx") is not None, "onnx is not installed")
    from fastrnn.onnx import export

    with pytest.raises(TypeError, match=r"^model has a quantized GRU; expected float32 weights"):
        export(fastrnn.quantize(fastrnn.GRU(I, H)), tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_quantized_is_refused() -> None:
    small = fastrnn.quantize(fastrnn.LSTM(I, H, seed=0))
    with pytest.raises(ValueError, match=r"^module is quantized already"):
        fastrnn.quantize(small)
    with pytest.raises(TypeError, match=r"^module is .*min_gru.*; expected a fastrnn.LSTM, GRU or RNN"):
        fastrnn.quantize(fastrnn.Recurrent(fastrnn.cells.min_gru, I, H))  # type: ignore[type-var]
    with pytest.raises(TypeError, match=r"^module is 'lstm'; expected"):
        fastrnn.quantize("lstm")  # type: ignore[type-var]
    with pytest.raises(TypeError, match=r"^module has dtype float64; expected float32"):
        fastrnn.quantize(fastrnn.LSTM(I, H, dtype="float64"))
    with pytest.raises(ValueError, match=r"^calibration is no input of the module: x has shape"):
        fastrnn.quantize(fastrnn.LSTM(I, H), real(T, N, I + 1))
    with pytest.raises(
        ValueError, match=r"^precision is 'int8', which is for inference; .* the module that it was made"
    ):
        small.forward(real(T, N, I))
    with pytest.raises(ValueError, match=r"^precision is 'float32' of a quantized module; expected 'int8'"):
        small.precision = "float32"
    with pytest.raises(AttributeError, match=r"^quantized of a LSTM is fixed"):
        small.quantized = False
    state = small.state_dict()
    with pytest.raises(TypeError, match=r"^state_dict\['weight_ih_l0'\] has dtype float32; expected int8: .*quantize"):
        small.load_state_dict(state | {"weight_ih_l0": state["weight_ih_l0"].astype(np.float32)})
    small.parameters["weight_ih_l0"].shape = (I, 4 * H)
    with pytest.raises(ValueError, match="weight_ih has shape"):
        small(real(T, N, I))
