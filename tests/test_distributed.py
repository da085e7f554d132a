"""Training in several processes: sums of fixed order, one process's losses, and what happens when one ends."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import group_calls
import numpy as np
import pytest
from group_calls import TEXT, add_ranks, bits, die, fitted, model, ragged, trained
from groups import Exchanging, Unordered, together
from watched import Watch, run_watched

import fastrnn
from fastrnn import distributed
from fastrnn.distributed.group import call, sum_in_order
from fastrnn.distributed.local import start
from fastrnn.distributed.sharing import Flat, equal_work
from fastrnn.training import (
    Adam,
    Dropout,
    Last,
    Linear,
    ReduceOnPlateau,
    Sequential,
    Settings,
    Trainer,
    fit,
)
from fastrnn.training.batches import Lines, Windows

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "tests" / "group_calls.py"
MPIRUN = shutil.which("mpirun", path=os.path.dirname(sys.executable)) or shutil.which("mpirun")


def of_ranks(size: int, shape: tuple[int, ...], dtype: str) -> list[Any]:
    rng = np.random.default_rng(size)
    return [(1e3 * rng.standard_normal(shape)).astype(dtype) for _ in range(size)]


# ---- sums


@pytest.mark.parametrize("engine", [Unordered, Exchanging])
@pytest.mark.parametrize("size", [1, 2, 3, 4])
@pytest.mark.parametrize(("shape", "dtype"), [((1,), "float64"), ((3, 7), "float32"), ((2051,), "float32")])
def test_sums_are_in_the_order_of_the_ranks(engine, size, shape, dtype):
    arrays = of_ranks(size, shape, dtype)
    expected = arrays[0].copy()
    for array in arrays[1:]:
        expected += array

    def work(group):
        found = []
        for _ in range(2):  # the engine begins elsewhere the second time
            array = arrays[group.rank].copy()
            sum_in_order(group, array)
            found.append(array)
        return found

    every = together(size, work, engine)
    assert [array.tobytes() for found in every for array in found] == 2 * size * [expected.tobytes()]


def test_work_is_dealt_so_that_none_has_more_than_one_sequence_above_another():
    rng = np.random.default_rng(0)
    for size in (1, 2, 3, 8):
        for n in (0, 1, 5, 64):
            work = rng.integers(1, 100, n)
            shares = equal_work(work, size)
            loads = [int(work[share].sum()) for share in shares]
            assert sorted(np.concatenate(shares).tolist()) == list(range(n))
            assert max(loads) - min(loads) <= work.max(initial=0)
    one_long = np.array([1, 1, 1, 9, 1, 1, 1, 1, 1, 1])
    assert [int(one_long[share].sum()) for share in equal_work(one_long, 2)] == [9, 9]
    assert [share.tolist() for share in equal_work(np.full(5, 3), 2)] == [[0, 1, 2], [3, 4]]


def test_gradients_of_several_dtypes_lie_end_to_end():
    rng = np.random.default_rng(0)
    parameters = {"a": rng.random((2, 3), "float32"), "b": rng.random(4), "c": rng.random(5, "float32")}
    flat = Flat(parameters)
    for name in parameters:
        flat.take(name, parameters, 0.5)
    assert {dtype: len(buffer) for dtype, buffer in flat.buffers.items()} == {"<f4": 11, "<f8": 4}
    for name, p in parameters.items():
        assert flat.views[name].tobytes() == (p * p.dtype.type(0.5)).tobytes()
        assert np.shares_memory(flat.views[name], flat.buffers[p.dtype.str])
    for name in parameters:
        flat.take(name, None, 0.5)
    assert not any(buffer.any() for buffer in flat.buffers.values())


# ---- fit


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("every_step", [False, True])
def test_fit_in_a_group_has_the_losses_of_one_process(size, every_step):
    options: dict[str, Any] = {"every_step": every_step, "metrics": ["mse"] if every_step else ["accuracy", "f1"]}
    if not every_step:
        options |= {"class_weight": "balanced", "sample_weight": np.linspace(0.5, 2, 53)}
    (alone, parameters), *others = fitted(**options), *together(size, lambda group: fitted(group, **options))
    for history, theirs in others:
        for expected, found in zip(alone.epochs, history.epochs, strict=True):
            np.testing.assert_allclose(found[2:4], expected[2:4], rtol=1e-9)
            assert found.metrics == pytest.approx(expected.metrics, rel=1e-9)
        for name, p in parameters.items():
            np.testing.assert_allclose(theirs[name], p, rtol=1e-6, atol=1e-9)
        assert bits(theirs) == bits(others[0][1])


def test_the_same_number_of_processes_gives_the_same_bits_on_any_engine():
    runs = [together(3, lambda group: fitted(group, dropout=0.3), engine) for engine in (Unordered, Exchanging)]
    assert bits(runs[0][0][1]) == bits(runs[1][2][1])
    assert bits(runs[0][0][1]) != bits(fitted(dropout=0.3)[1])  # dropout goes by the number of processes


def test_processes_drop_other_outputs():
    made = []

    def work(group: Any) -> None:
        rnn = Last(fastrnn.GRU(3, 6, dtype="float64", seed=0))
        layers = Sequential(rnn, Dropout(0.5), Linear(6, 2, dtype="float64", seed=1))
        seeds: list[Any] = []
        layers.layers["1"].seed_dropout = lambda rng: seeds.append(rng.random())  # type: ignore[method-assign]
        fit(layers, *ragged(8), epochs=2, batch_size=4, progress=False, group=group)
        made.append(seeds)

    together(2, work)
    assert len(made[0]) == 4
    assert not set(made[0]) & set(made[1])


class Noting(Exchanging):
    """An engine that may be called in another thread, and tells what it has added."""

    overlaps = True

    def __init__(self, rank: int, table: Any) -> None:
        super().__init__(rank, table)
        self.added: list[int] = []

    def allreduce(self, array: Any) -> None:
        super().allreduce(array)
        self.added.append(array.size)


class Waiting:
    """A layer whose backward waits until the engine has added two more arrays up."""

    def __init__(self, added: list[int]) -> None:
        self.added, self.found = added, []
        self.parameters = {"own": np.zeros(1)}

    def __call__(self, x: Any) -> Any:
        return x

    def forward(self, x: Any) -> Any:
        return x, len(self.added)

    def backward(self, before: int, dy: Any) -> Any:
        until = time.monotonic() + 60
        while len(self.added) < before + 2 and time.monotonic() < until:
            time.sleep(0.001)
        self.found.append(self.added[before:])
        return dy, {"own": np.zeros(1)}


def test_the_sums_of_a_layer_are_made_while_backward_runs_below():
    X, y = ragged()
    X = np.stack([np.resize(x, (5, 3)) for x in X])

    def work(group: Any) -> Any:
        added = getattr(group, "added", None)
        layers = [Last(fastrnn.GRU(3, 4, dtype="float64", seed=0)), Linear(4, 2, dtype="float64", seed=1)]
        waiting = [] if added is None else [Waiting(added)]
        made = Sequential(*waiting, *layers)
        fit(made, X, y, epochs=1, batch_size=20, progress=False, group=group)
        return [each.found for each in waiting], [p.tobytes() for layer in layers for p in layer.parameters.values()]

    during = together(2, work, Noting)
    assert [found for found, _ in during] == 2 * [[3 * [[10, 108]]]]  # first the layer above, then the one below it
    assert [parameters for _, parameters in during] == [parameters for _, parameters in together(2, work, Exchanging)]


def test_more_processes_than_sequences_in_a_batch_leave_some_without_work():
    X, y = ragged(5)  # in batches of 3 and 2, for 4 processes

    def work(group: Any = None) -> Any:
        made = model()
        history = fit(made, X, y, epochs=2, batch_size=4, progress=False, group=group)
        return [epoch.loss for epoch in history.epochs]

    for losses in together(4, work):
        assert losses == pytest.approx(work(), rel=1e-9)


@pytest.mark.parametrize(("before", "after"), [(2, 3), (3, 1), (1, 2)])
def test_fit_goes_on_with_another_number_of_processes(tmp_path, before, after):
    whole = fitted(epochs=4, schedule=ReduceOnPlateau(patience=0))[0]
    path = tmp_path / "run.safetensors"

    def work(epochs: int, size: int) -> Any:
        def one(group: Any) -> Any:
            options = {"checkpoint": path, "resume": True, "schedule": ReduceOnPlateau(patience=0)}
            return fitted(group, epochs=epochs, **options)

        return [one(None)] if size == 1 else together(size, one)

    work(2, before)
    for history, _ in work(4, after):
        assert [epoch.step for epoch in history.epochs] == [epoch.step for epoch in whole.epochs]
        np.testing.assert_allclose([e[2:4] for e in history.epochs], [e[2:4] for e in whole.epochs], rtol=1e-9)


def test_the_first_process_alone_calls_back_and_decides():
    seen = []

    def work(group: Any) -> Any:
        return fitted(group, epochs=5, callbacks=[lambda epoch: seen.append(group.rank) or len(seen) == 2])[0]

    histories = together(3, work)
    assert [(history.stopped, len(history.epochs)) for history in histories] == 3 * [("callback", 2)]
    assert seen == [0, 0]


def test_processes_with_other_data_or_arguments_are_refused():
    def other_data(group: Any) -> None:
        X, y = ragged()
        fit(model(), X[group.rank :], y[group.rank :], progress=False, group=group)

    def other_model(group: Any) -> None:
        rnn = Last(fastrnn.GRU(3, 4 + group.rank, seed=0))
        fit(Sequential(rnn, Linear(rnn.rnn.hidden_size, 2)), *ragged(), progress=False, group=group)

    def other_settings(group: Any) -> None:
        trained(group, hidden_size=9 - group.rank // 2, seed=group.rank // 2)

    for size, work, rank, what in (
        (2, other_data, 1, "the data"),
        (2, other_model, 1, "the model"),
        (2, lambda group: fitted(group, epochs=1 + group.rank), 1, "epochs"),
        (3, other_settings, 2, "hidden_size, seed, the model"),
    ):
        with pytest.raises(ValueError, match=f"^process {rank} of the group differs from the first in {what}; "):
            together(size, work)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"group": 3}, TypeError, "group is 3; expected what has rank, size, allreduce and broadcast"),
        ({"group": Unordered}, TypeError, "expected what has rank"),
        ({"workers": 0}, ValueError, "workers is 0; expected"),
        ({"workers": 2.5}, TypeError, "workers is 2.5; expected"),
        ({"workers": 2, "loss": lambda y, targets: (0.0, y)}, TypeError, "loss cannot be sent to other processes"),
        ({"workers": 10}, ValueError, "there are 10 processes, but a batch has 9 sequences; expected one for each"),
    ],
)
def test_what_is_no_group_is_refused(options, error, message):
    with pytest.raises(error, match=message):
        fitted(**{"group": None} | options)


def test_a_group_that_contradicts_itself_is_refused():
    class Odd(Unordered):
        def __init__(self) -> None:
            self.rank, self.size = 2, 2

    with pytest.raises(ValueError, match="group has rank 2 and size 2; expected a rank from 0 to size - 1"):
        fitted(Odd())
    with pytest.raises(ValueError, match="workers is 2 and group is given; expected one of them"):
        together(1, lambda group: fitted(group, workers=2))


# ---- language models


@pytest.mark.parametrize("windows", ["continuous", "lines"])
@pytest.mark.parametrize("size", [2, 4])
def test_a_trainer_in_a_group_has_the_losses_of_one_process(windows, size):
    alone = trained(windows=windows)
    every = together(size, lambda group: trained(group, windows=windows))
    for found in every:
        np.testing.assert_allclose(found.losses, alone.losses, rtol=2e-5)
        np.testing.assert_allclose([e.loss for e in found.evaluations], [e.loss for e in alone.evaluations], rtol=2e-5)
        assert found.losses == every[0].losses
        assert bits(found.model.parameters) == bits(every[0].model.parameters)


@pytest.mark.parametrize("windows", ["continuous", "lines"])
def test_a_trainer_goes_on_in_every_bit_and_with_another_number_of_processes(tmp_path, windows):
    path = tmp_path / "half"
    whole = together(2, lambda group: trained(group, windows=windows))[0]
    together(2, lambda group: trained(group, path, 16, windows=windows))
    shutil.copy(path, tmp_path / "again")

    def go_on(group: Any = None) -> Any:
        # Those that join need not read the file: they are given what the first one has.
        if group is None or group.rank == 0:
            return trained(group, tmp_path / "again", resume=True)
        return trained(group, windows=windows)

    for found in together(2, go_on):
        assert bits(found.model.parameters) == bits(whole.model.parameters)
        assert found.losses == whole.losses
    for found in (*together(3, go_on), go_on()):
        np.testing.assert_allclose(found.losses, whole.losses, rtol=2e-5)


def test_states_that_are_in_several_processes_are_not_saved(tmp_path):
    def work(group: Any) -> Any:
        trainer = Trainer(TEXT, Settings(hidden_size=4, seq_length=7, batch_size=6, steps=3, evaluate_every=2))
        trainer.share(group)
        records = trainer.run()
        next(records)
        assert not trainer.can_save
        with pytest.raises(fastrnn.errors.FastrnnError, match="the states after step 1 are in several processes"):
            trainer.save(tmp_path / "none")
        kinds = [type(record).__name__ for record in records]
        assert trainer.can_save
        return kinds

    assert together(2, work) == 2 * [["Step", "Evaluation", "Step", "Evaluation"]]
    assert not (tmp_path / "none").exists()


def test_a_process_that_asks_to_stop_stops_all_at_the_same_step():
    def work(group: Any) -> Any:
        trainer = Trainer(TEXT, Settings(hidden_size=4, seq_length=7, batch_size=6, steps=30))
        trainer.share(group)
        trainer.asks_to_stop = lambda: group.rank == 1 and trainer.step == 4
        for _ in trainer.run():
            pass
        return trainer.step, trainer.can_save

    assert together(3, work) == 3 * [(5, True)]


def test_a_batch_without_a_row_for_each_process_is_refused():
    with pytest.raises(ValueError, match="there are 7 processes, but a batch has 6 sequences; expected one for each"):
        together(7, trained)


def test_parts_of_a_batch_are_the_whole():
    sequences = [np.arange(1, 2 + length) for length in (3, 9, 5, 5, 1)]
    for batches in (Lines(sequences, 5, 6), Windows(np.arange(50), 5, 4)):
        batch = batches.batch(0)
        parts = [batch.part(rank, 3) for rank in range(3)]
        assert sorted(np.concatenate([mine for _, mine in parts]).tolist()) == list(range(batch.inputs.shape[1]))
        for part, mine in parts:
            assert part is not None
            steps = len(part.inputs)
            assert (part.inputs == batch.inputs[:steps, mine]).all()
            assert (part.targets == batch.targets[:steps, mine]).all()
            assert part.lengths is None or part.lengths.max() == steps
        assert sum(part.size for part, _ in parts if part is not None) == batch.size


# ---- processes


def helpers(parent: int) -> set[str]:
    """The processes that `start` has started in a process and that live."""
    return {pid for pid, its_parent in living() if its_parent == f"{parent}"}


def living() -> list[list[str]]:
    """The processes that any has started so, with the one that has, or who took them over."""
    listed = subprocess.run(["ps", "-ewwo", "pid,ppid,args"], capture_output=True, text=True, check=True).stdout
    return [line.split()[:2] for line in listed.splitlines() if "fastrnn.distributed.local" in line]


def test_fit_with_workers_has_the_bits_of_any_group():
    X, y = ragged()
    results, before = [], fastrnn.threads._num_threads
    for workers in (2, 2, 1):
        made = model(dropout=0.3)
        optimizer = Adam(made.parameters, learning_rate=0.05)
        fit(made, X, y, epochs=2, batch_size=9, metrics=[lambda y, t: 0.0], optimizer=optimizer, workers=workers)
        results.append(bits(made.state_dict()))
    assert results[0] == results[1] != results[2]

    def work(group: Any) -> Any:
        made = model(dropout=0.3)
        optimizer = Adam(made.parameters, learning_rate=0.05)
        fit(made, X, y, epochs=2, batch_size=9, optimizer=optimizer, progress=False, group=group)
        return bits(made.state_dict())

    assert together(2, work)[0] == results[0]
    assert fastrnn.threads._num_threads == before


def work_with_one(**arguments: Any) -> None:
    """Two sums with a process that does but one."""
    with start(2) as group:
        call(group, die, **arguments)
        for _ in range(2):
            group.allreduce(np.ones(3))


@pytest.mark.parametrize(
    ("number", "message"),
    [(9, "worker 1 was killed by signal 9"), (0, "worker 1 has ended with status 1: ValueError: no more of this")],
)
def test_a_worker_that_ends_is_told_in_one_line(number, message):
    with pytest.raises(distributed.WorkerError, match=f"^{message}$"):
        work_with_one(number=number)
    assert not helpers(os.getpid())


def test_what_a_worker_cannot_import_is_told(monkeypatch):
    outside = type("Outside", (), {"__module__": "group_calls"})
    monkeypatch.setattr(group_calls, "Outside", outside, raising=False)
    with pytest.raises(distributed.WorkerError, match=r"worker 1 .*Outside.*of a module that can be imported"):
        work_with_one(number=outside())


def test_somebody_else_who_connects_is_turned_away(monkeypatch):
    found = []
    listen = socket.create_server

    def with_visitor(address: Any) -> Any:
        server = listen(address)
        for said in (b"1 wrong\n", b""):
            with socket.create_connection(server.getsockname()) as visitor:
                visitor.sendall(said)
        return server

    monkeypatch.setattr(socket, "create_server", with_visitor)
    with start(3) as group:
        call(group, add_ranks, power=2)
        array = np.zeros(2)
        group.allreduce(array)
        found.append(array.tolist())
        group.broadcast(array, 2)
        found.append(array.tolist())
    assert found == [[5.0, 5.0], [2.0, 2.0]]


COMMAND = [sys.executable, "-m", "fastrnn", "train", "--hidden", "24", "--evaluate-every", "5", "--batch-size", "6"]
COMMAND += ["--learning-rate", "0.01", "--threads", "1"]


def train(out: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return run_watched([*COMMAND, "--out", str(out), *options], 120)


def test_the_command_trains_in_processes_and_goes_on_in_one(tmp_path):
    run = train(tmp_path, "--workers", "2", "--steps", "10")
    assert run.returncode == 0, run.stderr
    assert "; 2 processes" in " ".join(run.stdout.split())
    assert "step 10/10" in run.stdout
    run = train(tmp_path, "--resume", "--steps", "15")
    assert run.returncode == 0, run.stderr
    assert "going on after step 10" in run.stdout
    run = train(tmp_path / "none", "--workers", "20")
    assert run.returncode == 2
    assert run.stderr.startswith("fastrnn: there are 20 processes, but a batch has 6 sequences; expected one for each")


def test_a_worker_of_the_command_that_is_killed_leaves_the_last_checkpoint(tmp_path):
    command = [*COMMAND, "--out", str(tmp_path), "--steps", "100000", "--patience", "100000", "--workers", "3"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        watch = Watch(process, 120)
        assert process.stdout is not None
        while not process.stdout.readline().startswith("step 5/"):
            watch.look()
        mine = sorted(helpers(process.pid))
        os.kill(int(mine[0]), signal.SIGKILL)
        _, told = process.communicate(timeout=60)
    assert process.returncode == 2
    assert told.startswith("fastrnn: worker ")
    assert "was killed by signal 9; the same command with --resume goes on from" in told
    assert told.count("\n") == 1
    assert len(mine) == 2
    assert not {pid for pid, _ in living()} & set(mine)
    run = train(tmp_path, "--resume", "--steps", "5")
    assert run.returncode == 0, run.stderr


def test_workers_end_with_the_first_process(tmp_path):
    command = [*COMMAND, "--out", str(tmp_path), "--steps", "100000", "--patience", "100000", "--workers", "2"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        watch = Watch(process, 120)
        assert process.stdout is not None
        while not process.stdout.readline().startswith("step 5/"):
            watch.look()
        mine = helpers(process.pid)
        process.kill()
    ends = time.monotonic() + 60
    while mine & {pid for pid, _ in living()} and time.monotonic() < ends:
        time.sleep(0.1)
    assert len(mine) == 1
    assert not mine & {pid for pid, _ in living()}


# ---- engines


def expected(size: int) -> Any:
    return together(size, group_calls.bits_of_runs)[0]


def told(text: str) -> Any:
    """What the first process of `group_calls` has printed."""
    return json.loads(next(line for line in text.splitlines() if line.startswith("{")))


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port


def by_gloo(size: int, port: int, ranks: Sequence[int]) -> list[subprocess.Popen[str]]:
    """Some of the processes that torchrun would start."""
    at = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": f"{port}", "WORLD_SIZE": f"{size}", "OMP_NUM_THREADS": "1"}
    environment, pipe = {**os.environ, **at}, subprocess.PIPE
    command = [sys.executable, SCRIPT, "gloo", "die"]
    return [
        subprocess.Popen(command, env={**environment, "RANK": f"{rank}"}, stdout=pipe, stderr=pipe, text=True)
        for rank in ranks
    ]


def has_gloo() -> bool:
    if importlib.util.find_spec("torch") is None:
        return False
    import torch.distributed

    return torch.distributed.is_available() and torch.distributed.is_gloo_available()


def test_gloo_gives_the_bits_of_any_group_and_says_that_a_process_has_ended(require):
    require(has_gloo(), "torch with gloo is not installed")
    processes = by_gloo(4, free_port(), range(4))
    ended = [process.communicate(timeout=300) for process in processes]
    assert told(ended[0][0]) == {"2": expected(2), "4": expected(4)}
    assert [process.returncode for process in processes] == [1, 1, 1, -signal.SIGKILL]
    for _, error in ended[:3]:
        assert error.startswith("WorkerError: another process of the group has ended: gloo says")


def test_gloo_says_that_a_port_is_in_use(require):
    require(has_gloo(), "torch with gloo is not installed")
    with socket.create_server(("0.0.0.0", 0)) as server:
        port = server.getsockname()[1]
        (first,) = by_gloo(2, port, [0])
        _, error = first.communicate(timeout=300)
    assert error == f"WorkerError: port {port} is in use by another process; expected MASTER_PORT to be free\n"


@pytest.mark.long
def test_the_command_under_torchrun(tmp_path, require):
    require(has_gloo(), "torch with gloo is not installed")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "-m", *COMMAND[2:]]
    run = run_watched([*command, "--steps", "5", "--out", str(tmp_path)], 300)
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("checkpoint  ") == 1


def by_mpi(size: int, *arguments: str, script: bool = True) -> subprocess.CompletedProcess[str]:
    command = [MPIRUN, "-n", f"{size}", sys.executable]
    command += ["-m", "mpi4py", str(SCRIPT), "mpi"] if script else []
    allowed = {f"{name}_ALLOW_RUN_AS_ROOT{end}": "1" for name in ("OMPI", "PRTE") for end in ("", "_CONFIRM")}
    # More processes than CPUs, in the words of Open MPI 5 and 4; MPICH asks nothing.
    allowed |= {"PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe", "OMPI_MCA_rmaps_base_oversubscribe": "1"}
    return run_watched([*command, *arguments], 300, env={**os.environ, **allowed})


needs_mpi = pytest.mark.skipif(
    MPIRUN is None or importlib.util.find_spec("mpi4py") is None, reason="mpirun or mpi4py is not installed"
)


@needs_mpi
def test_mpi_gives_the_bits_of_any_group_and_ends_all_when_one_is_killed():
    run = by_mpi(4, "die")
    assert told(run.stdout) == {"2": expected(2), "4": expected(4)}
    assert run.returncode != 0
    assert "signal 9" in run.stderr + run.stdout


@needs_mpi
@pytest.mark.long
def test_the_command_under_mpirun(tmp_path):
    command = ["-m", "fastrnn", "train", "--steps", "5", "--hidden", "8", "--out", str(tmp_path)]
    run = by_mpi(2, *command, script=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("checkpoint  ") == 1
    assert (tmp_path / "checkpoint.safetensors").exists()
    run = by_mpi(2, *command, script=False)  # there is one now, and nobody waits for ever
    assert run.returncode == 2
    assert run.stderr.count("--resume goes on with it") == 1


@needs_mpi
@pytest.mark.long
def test_sixteen_processes_have_the_losses_of_one_and_always_the_same_bits():
    runs = [told(by_mpi(16).stdout) for _ in range(2)]
    assert runs[0] == runs[1] == {"16": expected(16)}


@pytest.mark.long
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed: .ci/long engines")
def test_an_engine_on_ray():
    run = run_watched([sys.executable, ROOT / "examples" / "on_ray.py"], 300)
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("in one process") == 3


@pytest.mark.long
@pytest.mark.skipif(importlib.util.find_spec("flwr") is None, reason="flwr is not installed: .ci/long engines")
def test_clients_of_flower_learn_from_one_another():
    run = run_watched([sys.executable, ROOT / "examples" / "on_flower.py"], 300)
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("of unseen sequences right") == 6


def test_missing_engines_are_named(monkeypatch):
    for name, function in (("mpi4py", distributed.mpi), ("torch", distributed.gloo)):
        with monkeypatch.context() as context:
            context.setitem(sys.modules, name, None)
            with pytest.raises(ModuleNotFoundError, match=f"need {name}: pip install {name}"):
                function()


def test_connect_finds_nobody_where_nobody_started_it(monkeypatch):
    for name in ("TORCHELASTIC_RUN_ID", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert distributed.connect() is None
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "1")
    assert distributed.connect() is None
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    assert distributed.processes_here() == 3
