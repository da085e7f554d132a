"""Cells that are written in the language, through `fastrnn.Recurrent`: the kernels against the NumPy reference."""

import copy
import enum
import pickle
from collections import namedtuple
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from calls import backends
from closed_pages import close_inputs, needs_closed_pages
from tolerances import assert_close, assert_same_bits

import fastrnn
from fastrnn.backends import BACKENDS, info, load
from fastrnn.cells import LIBRARY, sigmoid, tanh
from fastrnn.cells.program import Kind, Operand, Program
from fastrnn.errors import BackendError
from fastrnn.parameters import Array
from fastrnn.training import Last, Linear, Sequential, check_gradients

KERNELS = [name for name in BACKENDS if name != "numpy"]
RUNS_NUMBA = any(status.runs and status.name == "numba" for status in info().backends)
REFUSED = {name for name, cell in LIBRARY.items() if RUNS_NUMBA and load("numba").why_not_program(cell)}
PAIRS = [(backend, name) for backend in KERNELS for name in LIBRARY if backend != "numba" or name not in REFUSED]

kernels = pytest.mark.parametrize("backend", KERNELS, indirect=True)
cells = pytest.mark.parametrize("name", list(LIBRARY))
kernels_and_cells = pytest.mark.parametrize(("backend", "name"), PAIRS, indirect=["backend"])
SHAPES = [(1, 1, 1, 1), (3, 1, 5, 7), (2, 3, 4, 33), (9, 20, 10, 70), (20, 6, 3, 17), (6, 2, 16, 130)]
# Of O(1) values whose errors do not grow from step to step: `draw` sees to both.
LIMITS = {"float64": 1e-11, "float32": 3e-4}


@fastrnn.cell(gates="i f g o", states="h c")
def lstm(a, prev):
    i, f, g, o = sigmoid(a.i), sigmoid(a.f), tanh(a.g), sigmoid(a.o)
    c = f * prev.c + i * g
    return o * tanh(c), c


@fastrnn.cell(gates="r z n", apart="n")
def gru(a, prev):
    r, z = sigmoid(a.r), sigmoid(a.z)
    n = tanh(a.n.x + r * a.n.h)
    return (1 - z) * n + z * prev.h


def draw(rng: np.random.Generator, *shape: int) -> Array:
    return rng.standard_normal(shape)


class Pair:
    """A module on a backend in a dtype, the same one on the reference in float64, and what goes into both."""

    def __init__(self, backend, name, shape, dtype="float64", *, tokens=False, lengths=False, seed=0, **options):
        T, N, I, H = shape
        rng = np.random.default_rng(seed)
        self.mine = fastrnn.Recurrent(LIBRARY[name], I, H, dtype=dtype, seed=seed, backend=backend, **options)
        self.reference = fastrnn.Recurrent(LIBRARY[name], I, H, dtype="float64", seed=seed, backend="numpy", **options)
        for key, value in self.mine.parameters.items():
            # recurrent weights of U(-1, 1) / sqrt(H), everything else O(1)
            wide = draw(rng, *value.shape) if "weight_hh" not in key and "weight_hr" not in key else value
            self.mine.parameters[key] = wide.astype(dtype)
            self.reference.parameters[key] = self.mine.parameters[key].astype("float64")
        self.x = rng.integers(0, I, (T, N)) if tokens else draw(rng, T, N, I).astype(dtype)
        self.lengths = rng.integers(0, T + 1, N) if lengths else None
        y, state, _ = self.mine.forward(self.x)
        self.count = len(LIBRARY[name].states)
        states = (state,) if self.count == 1 else state
        self.state = [draw(rng, *s.shape).astype(dtype) for s in states]
        if name == "slstm":
            self.state[2] = np.abs(self.state[2]) + 1  # a sum of positive numbers, which divides
        self.dy, self.dstate = draw(rng, *y.shape).astype(dtype), [draw(rng, *s.shape).astype(dtype) for s in states]

    def given(self, states, dtype):
        states = [s.astype(dtype) for s in states]
        return states[0] if self.count == 1 else tuple(states)

    def run(self, module, **options):
        dtype = module.dtype
        x = self.x if self.x.dtype.kind == "i" else self.x.astype(dtype)
        y, state, tape = module.forward(x, self.given(self.state, dtype), lengths=self.lengths, **options)
        dx, dstate, grads = module.backward(tape, self.dy.astype(dtype), self.given(self.dstate, dtype))
        found = {"y": y} | ({} if dx is None else {"dx": dx})
        for k in range(self.count):
            found[f"state_{k}"] = state if self.count == 1 else state[k]
            found[f"dstate_{k}"] = dstate if self.count == 1 else dstate[k]
        return found | grads

    def check(self, **options):
        want = self.run(self.reference, **options)
        got = self.run(self.mine, **options)
        assert got.keys() == want.keys()
        for key, value in want.items():
            assert_close(key, got[key], value, LIMITS[self.mine.dtype.name] * max(1.0, np.abs(value).max(initial=0)))


@kernels_and_cells
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_reference(backend, name, shape):
    Pair(backend, name, shape).check()


@kernels_and_cells
def test_equals_reference_in_float32(backend, name):
    Pair(backend, name, (7, 5, 6, 20), "float32").check()


@kernels_and_cells
@pytest.mark.parametrize(
    "options",
    [
        {"lengths": True},
        {"tokens": True},
        {"num_layers": 2, "bidirectional": True, "lengths": True},
        {"bidirectional": True, "tokens": True, "lengths": True, "bias": False},
    ],
    ids=str,
)
def test_every_order_equals_reference(backend, name, options):
    Pair(backend, name, (6, 5, 4, 19), **options).check()


@needs_closed_pages
@kernels_and_cells
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_nothing_is_read_beyond_an_array(backend, name, dtype, monkeypatch):
    """Where rows have parts of vectors: a read beyond the last would end the process."""
    for shape in [(2, 3, 4, 33), (3, 1, 5, 7)]:
        pair, found = Pair(backend, name, shape, dtype), []
        state = pair.given(pair.state, dtype)
        for closed in (False, True):
            with monkeypatch.context() as patch:
                called = close_inputs(patch, load(backend)) if closed else []
                found.append(pair.run(pair.mine) | {"inference": pair.mine(pair.x, state)[0]})
        assert called == ["forward", "backward", "forward"]
        want, got = found
        for key, value in want.items():
            assert_same_bits(key, got[key], value)


@kernels_and_cells
def test_masks_and_resets_equal_reference(backend, name):
    pair = Pair(backend, name, (8, 5, 4, 19))
    rng = np.random.default_rng(1)
    given = {"mask": rng.random((8, 5)) < 0.7, "resets": rng.random((8, 5)) < 0.2, "masked": "last"}
    pair.check(**given, reset_state="initial")
    pair.check(**given)


@kernels_and_cells
def test_checkpoints_give_the_same_bits(backend, name):
    pair = Pair(backend, name, (12, 30, 4, 19), num_layers=2)
    whole, again = pair.run(pair.mine), pair.run(pair.mine, checkpoint_every=4)
    assert all((whole[key] == again[key]).all() for key in whole)


@kernels_and_cells
@pytest.mark.parametrize("shape", [(30, 2, 16, 200), (30, 40, 16, 70)], ids=["units", "batch"])
def test_threads_give_the_same_bits(backend, name, shape):
    pair = Pair(backend, name, shape, "float32")
    found = []
    for threads in (1, 2, 3):
        pair.mine.num_threads = threads
        found.append(pair.run(pair.mine))
    assert all((found[0][key] == other[key]).all() for other in found[1:] for key in found[0])
    y = pair.mine(pair.x, pair.given(pair.state, "float32"))[0]
    assert (y == found[0]["y"]).all()


SCANS = ("min_gru", "sru", "ind_rnn", "qrnn")


@pytest.mark.parametrize("name", SCANS)
def test_products_of_many_rows_equal_reference(name):
    Pair("cython", name, (20, 8, 64, 72), "float32").check()  # the last group of unit vectors is not full


@pytest.mark.parametrize("name", SCANS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_products_piece_by_piece_have_the_same_bits(name, dtype):
    sequence = load("cython")
    pair = Pair("cython", name, (20, 6, 8, 72), dtype, lengths=True, num_layers=2, bidirectional=True)
    found = [pair.run(pair.mine)]  # after all steps, of so small a Z
    for rows in (1, 25, 1 << 40):
        before = sequence._override(ROWS_BACK=rows, PROJECTION_BYTES=0)
        found.append(pair.run(pair.mine))
        sequence._override(**before)
    assert all((found[0][key] == other[key]).all() for other in found[1:] for key in found[0])


@pytest.mark.parametrize("name", SCANS)
def test_threads_that_never_meet_give_the_same_bits(name):
    sequence = load("cython")
    pair = Pair("cython", name, (20, 6, 8, 256), "float32", lengths=True)
    found = [pair.run(pair.mine)]
    before = sequence._override(FLOPS_WORTH_A_THREAD=0)
    for threads in (2, 3, 4):
        pair.mine.num_threads = threads
        found.append(pair.run(pair.mine))
    sequence._override(**before)
    assert all((found[0][key] == other[key]).all() for other in found[1:] for key in found[0])


@kernels_and_cells
@pytest.mark.parametrize(("batch_size", "blocks"), [(1, False), (3, False), (3, True), (9, True)])
def test_streams_give_the_same_bits(backend, name, batch_size, blocks):
    """In blocks of 9 rows no sums are projected ahead: a program's place for them is not the one in Z."""
    pair = Pair(backend, name, (5, batch_size, 6, 37), "float32", num_layers=2)
    stream = pair.mine.stream(batch_size)
    stream.state = pair.given(pair.state, "float32")
    y, state_n = pair.mine(pair.x, pair.given(pair.state, "float32"))
    got = [stream.steps(x) for x in (pair.x[:3], pair.x[3:])] if blocks else [[stream.step(x_t)] for x_t in pair.x]
    assert (np.concatenate(got) == y).all()
    for kept, last in zip(*[(s,) if pair.count == 1 else s for s in (stream.state, state_n)], strict=True):
        assert (kept == last).all()


@kernels_and_cells
def test_traces_equal_reference(backend, name):
    pair = Pair(backend, name, (6, 5, 4, 19), lengths=True, bidirectional=True)
    want, got = [
        module.trace(pair.x, pair.given(pair.state, "float64"), lengths=pair.lengths)
        for module in (pair.reference, pair.mine)
    ]
    assert got.keys() == want.keys()
    for key, value in want.items():
        assert_close(key, got[key], value, 1e-11 * max(1.0, np.abs(value).max(initial=0)))
    assert {key.split("_l0")[0] for key in got} == {*LIBRARY[name].gates, *LIBRARY[name].states}


@cells
def test_derivative_is_that_of_the_function(name):
    assert fastrnn.check_cell(LIBRARY[name], seed=1).passed


def test_a_wrong_derivative_is_seen():
    found = fastrnn.check_cell(LIBRARY["min_gru"], limit=1e-16)
    assert not found.passed
    assert "WRONG" in str(found)


@pytest.mark.parametrize(
    ("backend", "name"),
    [
        (backend, name)
        for backend, name in PAIRS
        if not (LIBRARY[name].program.reads_h or LIBRARY[name].program.m_gates)
    ],
    indirect=["backend"],
)
@pytest.mark.parametrize("lengths", [False, True])
def test_projections_equal_reference(backend, name, lengths):
    Pair(backend, name, (6, 5, 4, 19), proj_size=7, lengths=lengths, num_layers=2).check()


def test_a_cell_that_reads_its_output_has_no_projection():
    with pytest.raises(ValueError, match=r"proj_size is 3, but the equations of min_gru read its output prev\.h"):
        fastrnn.Recurrent(LIBRARY["min_gru"], 4, 8, proj_size=3)


@kernels
@pytest.mark.parametrize(("cell", "built_in"), [(lstm, fastrnn.LSTM), (gru, fastrnn.GRU)])
def test_built_in_cells_written_in_the_language_equal_them(backend, cell, built_in):
    mine = fastrnn.Recurrent(cell, 6, 35, num_layers=2, bidirectional=True, dtype="float64", seed=3, backend=backend)
    theirs = built_in(6, 35, num_layers=2, bidirectional=True, dtype="float64", seed=3, backend=backend)
    assert all((mine.parameters[key] == value).all() for key, value in theirs.parameters.items())
    x = np.random.default_rng(0).standard_normal((9, 4, 6))
    outcomes = []
    for module in (mine, theirs):
        y, state, tape = module.forward(x)
        dx, dstate, grads = module.backward(tape, np.cos(y))
        states = [*state, *dstate] if isinstance(state, tuple) else [state, dstate]
        outcomes.append({"y": y, "dx": dx, **{str(k): s for k, s in enumerate(states)}, **grads, **module.trace(x)})
    for key, value in outcomes[1].items():
        assert_close(key, outcomes[0][key], value, 1e-12 * max(1.0, np.abs(value).max()))


def reset_before(torch, x, h, w_ih, w_hh, b_ih, b_hh):
    H = h.shape[1]
    ys = []
    for x_t in x:
        a = x_t @ w_ih.T + b_ih
        r, z = torch.sigmoid(a[:, : 2 * H] + h @ w_hh[: 2 * H].T + b_hh[: 2 * H]).chunk(2, 1)
        n = torch.tanh(a[:, 2 * H :] + (r * h) @ w_hh[2 * H :].T + b_hh[2 * H :])
        h = (1 - z) * n + z * h
        ys.append(h)
    return torch.stack(ys)


@backends
def test_a_second_product_equals_torch(backend, torch):
    rnn = fastrnn.Recurrent(LIBRARY["reset_before_gru"], 5, 21, dtype="float64", seed=0, backend=backend)
    rng = np.random.default_rng(0)
    x, h_0 = draw(rng, 8, 4, 5), draw(rng, 1, 4, 21)
    y, _, tape = rnn.forward(x, h_0)
    dy = draw(rng, *y.shape)
    dx, dh_0, grads = rnn.backward(tape, dy)
    leaves = [torch.tensor(v, requires_grad=True) for v in (x, h_0[0], *rnn.parameters.values())]
    theirs = reset_before(torch, *leaves)
    theirs.backward(torch.tensor(dy))
    assert_close("y", y, theirs.detach().numpy(), 1e-12)
    for key, mine, leaf in zip(["x", "h_0", *grads], [dx, dh_0[0], *grads.values()], leaves, strict=True):
        assert_close(key, mine, leaf.grad.numpy(), 1e-11 * max(1.0, np.abs(mine).max()))


def test_state_dicts_pickles_and_copies_keep_everything():
    rnn = fastrnn.Recurrent(LIBRARY["peephole_lstm"], 4, 9, num_layers=2, bidirectional=True, seed=0)
    assert rnn.parameters["unit_l1_reverse"].shape == (3, 9)
    x = draw(np.random.default_rng(0), 5, 3, 4).astype("float32")
    y = rnn(x)[0]
    other = fastrnn.Recurrent(LIBRARY["peephole_lstm"], 4, 9, num_layers=2, bidirectional=True, seed=1)
    other.load_state_dict(rnn.state_dict())
    for module in (other, pickle.loads(pickle.dumps(rnn)), copy.deepcopy(rnn), copy.copy(rnn)):
        assert module.cell is rnn.cell
        assert (module(x)[0] == y).all()
    assert repr(rnn) == "Recurrent(peephole_lstm, 4, 9, num_layers=2, bidirectional=True)"


def test_a_cell_that_no_module_has_cannot_come_back_from_a_pickle():
    @fastrnn.cell(gates="n")
    def local(a, prev):
        return tanh(a.n)

    with pytest.raises(AttributeError, match="define it at the top of a module"):
        pickle.loads(pickle.dumps(local))


def test_parameters_begin_where_the_cell_says():
    rnn = fastrnn.Recurrent(LIBRARY["fast_rnn"], 4, 8, seed=0)
    assert (rnn.parameters["unit_l0"] == [[-3]] * 1 + [[3]] * 1).all()
    drawn = fastrnn.Recurrent(LIBRARY["ind_rnn"], 4, 400, seed=0).parameters["unit_l0"]
    assert 0.8 / 20 < np.abs(drawn).max() <= 1 / 20


def test_no_recurrent_weights_without_a_recurrent_product():
    assert [*fastrnn.Recurrent(LIBRARY["min_gru"], 4, 8).parameters] == ["weight_ih_l0", "bias_ih_l0"]


def test_the_numba_backend_runs_the_library():
    assert set() == REFUSED


@pytest.mark.parametrize(("backend", "name"), [pair for pair in PAIRS if pair[0] == "numba"], indirect=["backend"])
def test_numba_runs_all_that_a_backend_can(backend, name):
    """Sums over many rows, which are cut in pieces, and weights that are added to."""
    pair = Pair(backend, name, (40, 9, 5, 19))
    pair.check(checkpoint_every=15)


def changes(program: Program) -> dict[str, Any]:
    """What is wrong for the Numba backend with a program that does not fit it, and that program."""
    (first, *_), later = program.forward, enum.Enum("later", "FOLD")
    wider = namedtuple("wider", (*Program._fields, "mean"))
    return {
        "its program has mean": wider(*program, (1,)),
        "its program has the operation FOLD": program._replace(middle=(first._replace(op=later.FOLD),)),
        "its program has REGISTER 48, and may have less than 48 of a kind": program._replace(
            forward=(first._replace(out=Operand(Kind.REGISTER, 48)),)
        ),
        "it keeps 40 values, and has 9 of parameters, and 48 may be": program._replace(room=40, seen_units=9),
        "it is given 9 values beside x, and 8 may be": program._replace(extras=(False,) * 9),
        "17 of its sums come of one product, and 16 may": program._replace(x_gates=(0,) * 17),
    }


@pytest.mark.parametrize("reason", list(changes(LIBRARY["min_gru"].program)))
@pytest.mark.parametrize("backend", ["numba"], indirect=True)
def test_what_the_numba_backend_does_not_run_is_refused_by_name(backend, reason):
    cell = replace(LIBRARY["min_gru"], program=changes(LIBRARY["min_gru"].program)[reason])
    text = f"the numba backend does not run min_gru: {reason}; expected another"
    with pytest.raises(BackendError, match=text):
        fastrnn.Recurrent(cell, 4, 8, backend="numba")(np.zeros((2, 3, 4), "float32"))
    with fastrnn.use_backend("numba"), pytest.raises(BackendError, match=text):
        fastrnn.Recurrent(cell, 4, 8)(np.zeros((2, 3, 4), "float32"))


def test_what_is_no_cell_is_refused():
    with pytest.raises(TypeError, match=r"cell is 'lstm'; expected one that fastrnn\.cell has made"):
        fastrnn.Recurrent("lstm", 4, 8)
    with pytest.raises(AttributeError, match="cell of a Recurrent is fixed"):
        fastrnn.Recurrent(LIBRARY["min_gru"], 4, 8).cell = LIBRARY["janet"]


@cells
def test_prints_equations_derivative_and_programs(name):
    text = str(LIBRARY[name])
    assert f"def {name}(" in text
    assert "derivative" in text
    assert "backward: " in text
    assert "registers" in text


@kernels_and_cells
def test_explains_what_it_does(backend, name):
    text = fastrnn.Recurrent(LIBRARY[name], 4, 8, backend=backend).explain((3, 2, 4), training=True)
    assert "recurrent product" in text or not LIBRARY[name].gates_hh


@backends
def test_a_trace_of_no_rows_is_empty(backend):
    rnn = fastrnn.Recurrent(LIBRARY["reset_before_gru"], 3, 5, seed=0, backend=backend)
    found = rnn.trace(np.ones((4, 2, 3), np.float32), lengths=[0, 0])
    assert found.keys() == {"r_l0", "z_l0", "n_l0", "h_l0"}
    assert all((value == 0).all() for value in found.values())


@pytest.mark.parametrize("name", ["peephole_lstm", "min_gru", "slstm", "reset_before_gru"])
def test_training_takes_written_cells(name):
    rng = np.random.default_rng(0)
    x = draw(rng, 4, 3, 5)
    for make in (Sequential, lambda rnn, head: Sequential(Last(rnn), head)):
        rnn = fastrnn.Recurrent(LIBRARY[name], 5, 6, bidirectional=True, dtype="float64", seed=0)
        model = make(rnn, Linear(12, 2, dtype="float64", seed=0))
        assert max(check_gradients(model, x, lengths=np.array([4, 2, 3])).values()) < 1e-6


@fastrnn.cell(gates="n z")
def undefined_at_zero(a, prev):
    return prev.h / (1 + a.z * a.z) + 0.5 * a.n / (a.n * a.n)  # what lanes beyond H compute: 0 / 0


@kernels
@pytest.mark.parametrize("shape", [(4, 3, 2, 7), (4, 1, 2, 7), (3, 20, 5, 75)], ids=str)
def test_what_lanes_beyond_the_units_compute_reaches_nothing(backend, shape):
    T, N, I, H = shape
    rng = np.random.default_rng(0)
    x, h_0, dy = 2 + draw(rng, T, N, I), draw(rng, 1, N, H), draw(rng, T, N, H)
    found = []
    for its in (backend, "numpy"):
        module = fastrnn.Recurrent(undefined_at_zero, I, H, dtype="float64", seed=0, backend=its)
        module.parameters["bias_ih_l0"] = np.full(2 * H, 4.0)  # far from zero
        y, h_n, tape = module.forward(x, h_0)
        dx, dh_0, gradients = module.backward(tape, dy, h_n)
        found.append({"y": y, "dx": dx, "dh_0": dh_0, **gradients})
    assert all(np.isfinite(value).all() for value in found[1].values())
    for key, value in found[1].items():
        assert_close(key, found[0][key], value, 1e-11 * max(1.0, np.abs(value).max()))


@fastrnn.cell(gates="u v w", states="h s", parameters="k l")
def chains(a, prev, p):
    s = sigmoid(p.k * a.u + p.l) * prev.s + ((a.u - a.v) * p.k) * p.l + ((a.v + a.w) + p.l)
    t = tanh(a.w * p.l + a.v) * (p.k * p.k) - (a.u * p.l) * a.v
    return tanh(s) * p.l + sigmoid(t) * (p.k - a.w * prev.h), s


CHAINS = {"chains": chains} | {name: LIBRARY[name] for name in ("layer_norm_lstm", "rms_norm_lstm", "peephole_lstm")}


@pytest.mark.parametrize("backend", ["cython"], indirect=True)
def test_every_pair_of_operations_is_in_a_program(backend):
    made = load(backend).with_two_at_once
    found = set()
    for cell in CHAINS.values():
        program = cell.program
        phases = program.phases + program.phases_back
        for code in (program.forward, program.backward, *[phase.of_units for phase in phases]):
            found |= {int(op) for op, *_ in made(code)}
    assert set(load(backend).TWO_AT_ONCE.values()) <= found


@pytest.mark.parametrize("backend", ["cython"], indirect=True)
@pytest.mark.parametrize("dtype", LIMITS)
@pytest.mark.parametrize("name", CHAINS)
def test_two_operations_at_once_have_the_bits_of_each(backend, name, dtype, monkeypatch):
    def train():
        cell = CHAINS[name].definition.cell()  # a new one, which is not compiled yet
        rng = np.random.default_rng(0)
        rnn = fastrnn.Recurrent(cell, 5, 37, dtype=dtype, seed=0, backend=backend)
        state, dstate = [tuple(draw(rng, 2, 1, 7, 37).astype(dtype)) for _ in range(2)]
        y, (h_n, c_n), tape = rnn.forward(draw(rng, 6, 7, 5).astype(dtype), state)
        dx, (dh_0, dc_0), grads = rnn.backward(tape, draw(rng, 6, 7, 37).astype(dtype), dstate)
        return [y, h_n, c_n, dx, dh_0, dc_0, *grads.values()]

    together = train()
    monkeypatch.setattr(load(backend), "with_two_at_once", lambda code: [(*one, one.a, one.a) for one in code])
    assert all((a == b).all() for a, b in zip(together, train(), strict=True))
