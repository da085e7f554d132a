"""Signals, kills and full disks: nothing is lost beyond the step in work, and no file is half written."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import shlex
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from watched import Watch, communicate, run_watched

import fastrnn
import fastrnn.bench
from fastrnn.cli.signals import stop_signals
from fastrnn.errors import FastrnnError
from fastrnn.training import DivergenceError, Settings, Step, Trainer, choose_settings
from fastrnn.training.files import write_atomically

resource = pytest.importorskip("resource", reason="signals, limits and pipes are those of POSIX")

TEXT = " ".join(random.Random(0).choices(["to", "be", "or", "not", "that", "is", "the", "question"], k=400)) + "\n"
GIVEN = {
    "hidden_size": 10,
    "seq_length": 8,
    "batch_size": 4,
    "evaluate_every": 20,
    "steps": 100_000,
    "patience": 10**6,
}
SETTINGS = Settings(**GIVEN)
OPTIONS = [f"--{name}={value}" for name, value in GIVEN.items()]
CHECKPOINT = "run/checkpoint.safetensors"

# The command, which notes every step that is taken in a file: what is there is what must not be lost.
NOTING = """
import os, sys
from fastrnn.cli import main
from fastrnn.training import Trainer
take, log = Trainer._take_step, os.open("steps", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
def noting(self):
    step = take(self)
    os.write(log, b"%d\\n" % step.step)
    return step
Trainer._take_step = noting
main()
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty working directory with a text in it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text(TEXT, encoding="utf-8")
    return tmp_path


def start(*options, code=NOTING, **arguments):
    """Start the command; it goes on with a checkpoint if there is one."""
    resume = ["--resume"] if os.path.exists(CHECKPOINT) else []
    line = [sys.executable, "-c", code, "train", "text.txt", *OPTIONS, "--out", "run", *resume, *options]
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **arguments)


def noted():
    with open("steps", encoding="ascii") as file:
        return [int(line) for line in file if line.endswith("\n")]


def wait_for(happened, process, seconds=60.0):
    watch = Watch(process, seconds)
    while not happened():
        assert process.poll() is None, process.communicate()
        watch.look()
        time.sleep(0.002)


def goes_on_in_every_bit():
    """Train on from the checkpoint, and as far without an interruption, and compare all that is saved."""
    resumed, whole = Trainer.resume(CHECKPOINT, TEXT), Trainer(TEXT, choose_settings(TEXT, **GIVEN))
    last = resumed.step + 30
    for trainer, path in ((resumed, "resumed"), (whole, "whole")):
        while trainer.step < last:
            next(record for record in trainer.run() if isinstance(record, Step))
        trainer.save(path)
    with open("resumed", "rb") as resumed_file, open("whole", "rb") as whole_file:
        assert resumed_file.read() == whole_file.read()


def interrupt_again_and_again(number, times, wanted):
    """Send the signal at random moments after training has begun; return the processes' statuses."""
    rng, statuses = random.Random(number), []
    for _ in range(times):
        before = noted() if os.path.exists("steps") else []
        process = start()
        wait_for(lambda b=before: os.path.exists("steps") and len(noted()) > len(b), process)
        time.sleep(rng.random() * 0.1)
        process.send_signal(number)
        _, err = communicate(process, 60)
        assert err == ""
        statuses.append(process.returncode)
        done = Trainer.resume(CHECKPOINT, TEXT).step
        assert done == (noted()[-1] if wanted == "all" else done)
        assert done >= len(before) or wanted != "all"
    return statuses


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT], ids=["TERM", "HUP", "INT"])
def test_a_signal_ends_training_after_the_step_in_work(folder, number):
    statuses = interrupt_again_and_again(number, 3 if number == signal.SIGTERM else 1, "all")
    assert set(statuses) == {0 if number == signal.SIGINT else 128 + number}
    assert {path.name for path in (folder / "run").iterdir()} <= {"checkpoint.safetensors", "loss.png"}
    goes_on_in_every_bit()


@pytest.mark.long
def test_thirty_signals_at_random_moments_lose_nothing(folder):
    assert set(interrupt_again_and_again(signal.SIGTERM, 30, "all")) == {128 + signal.SIGTERM}
    goes_on_in_every_bit()


def test_kills_leave_a_checkpoint_that_goes_on(folder):
    assert set(interrupt_again_and_again(signal.SIGKILL, 3, "a checkpoint")) == {-signal.SIGKILL}
    goes_on_in_every_bit()


@pytest.mark.long
def test_a_hundred_kills_leave_a_checkpoint_that_goes_on(folder):
    assert set(interrupt_again_and_again(signal.SIGKILL, 100, "a checkpoint")) == {-signal.SIGKILL}
    goes_on_in_every_bit()
    before, process = len(noted()), start()  # the next run removes what the killed ones have left
    wait_for(lambda: len(noted()) > before, process)
    assert sorted(os.listdir("run")) == [".lock", "checkpoint.safetensors"]
    process.terminate()
    communicate(process, 60)
    assert os.listdir("run") == ["checkpoint.safetensors"]


def test_signals_while_it_saves_do_not_break_the_file(folder):
    slow = NOTING.replace("main()", "fsync = os.fsync\nos.fsync = lambda f: (fsync(f), time.sleep(0.05))\nmain()")
    process = start(code="import time\n" + slow)
    wait_for(lambda: os.path.exists("steps") and noted(), process)
    while process.poll() is None:
        process.send_signal(random.choice([signal.SIGTERM, signal.SIGHUP]))
        time.sleep(0.001)
    assert communicate(process, 60)[1] == ""
    # Signals that come once the handlers of before are back end the process in the usual way.
    assert process.returncode in (128 + signal.SIGTERM, 128 + signal.SIGHUP, -signal.SIGTERM, -signal.SIGHUP)
    assert Trainer.resume(CHECKPOINT, TEXT).step == noted()[-1]
    goes_on_in_every_bit()


SLOW_STEP = NOTING.replace(
    "main()",
    "import time\n"
    "from fastrnn.training.model import LanguageModel\n"
    "gradients = LanguageModel.gradients\n"
    "def slow(self, *arguments):\n"
    "    if os.path.exists('slow'):\n"
    "        open('begun', 'wb').close()\n"
    "        time.sleep(30)\n"
    "    return gradients(self, *arguments)\n"
    "LanguageModel.gradients = slow\n"
    "main()",
)


def test_a_second_ctrl_c_breaks_into_the_step_and_saves_what_was_before_it(folder):
    process = start(code=SLOW_STEP)
    wait_for(lambda: os.path.exists("steps") and len(noted()) > 50, process)
    open("slow", "wb").close()
    wait_for(lambda: os.path.exists("begun"), process)
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    assert process.poll() is None  # the first waits for the step
    process.send_signal(signal.SIGINT)
    out, _ = communicate(process, 20)
    assert process.returncode == 130
    assert "the same command with --resume goes on as if it had not been" in " ".join(out.split())  # it wraps lines
    assert Trainer.resume(CHECKPOINT, TEXT).step == noted()[-1]
    goes_on_in_every_bit()


def test_what_nobody_reads_ends_training_quietly_and_saves(folder):
    line = shlex.join([sys.executable, "-c", NOTING, "train", "text.txt", *OPTIONS, "--out", "run"])
    line += " | head -n 9; echo ${PIPESTATUS[0]}"
    done = run_watched(["bash", "-c", line], 60)
    assert done.stderr == ""
    assert done.stdout.endswith("\n141\n")  # as if SIGPIPE had ended it
    assert Trainer.resume(CHECKPOINT, TEXT).step == noted()[-1]


def test_nohup_keeps_training_alive(folder):
    code = "import signal\nsignal.signal(signal.SIGHUP, signal.SIG_IGN)\n" + NOTING
    process = start(code=code)
    wait_for(lambda: os.path.exists("steps") and noted(), process)
    process.send_signal(signal.SIGHUP)
    count = len(noted())
    wait_for(lambda: len(noted()) > count + 10, process)
    process.terminate()
    assert communicate(process, 60)[1] == ""


def test_two_do_not_train_in_one_folder(folder):
    process = start()
    wait_for(lambda: os.path.exists("steps") and noted(), process)
    for more in ([], ["--resume"]):
        line = [
            sys.executable,
            "-c",
            "from fastrnn.cli import main; main()",
            "train",
            "text.txt",
            "--out",
            "run",
            *more,
        ]
        second = run_watched(line, 60)
        assert (second.returncode, second.stdout) == (2, "")
        wanted = (
            "run is in use: another `fastrnn train` writes there" if more else f"{CHECKPOINT} exists; --resume goes"
        )
        assert second.stderr.startswith(f"fastrnn: {wanted}")
        assert second.stderr.count("\n") == 1
    process.kill()  # which gives up the lock, whose file stays
    communicate(process, 60)
    assert (folder / "run/.lock").exists()
    before, process = len(noted()), start()
    wait_for(lambda: len(noted()) > before, process)
    process.terminate()
    assert communicate(process, 60)[1] == ""
    assert not (folder / "run/.lock").exists()


def test_two_that_start_at_once_do_not_both_train(folder):
    several = [start("--steps", "300") for _ in range(3)]
    ends = [communicate(process, 60) for process in several]
    assert sorted(process.returncode for process in several) == [0, 2, 2]
    assert all(err.count("\n") == 1 for process, (_, err) in zip(several, ends, strict=True) if process.returncode)


def test_handlers_come_back_and_the_library_sets_none(monkeypatch):
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    with stop_signals() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)  # nothing is breakable
        assert stop.signal == signal.SIGTERM
    assert {number: signal.getsignal(number) for number in before} == before

    def refuse(*arguments):
        raise AssertionError(arguments)

    monkeypatch.setattr(signal, "signal", refuse)
    trainer = Trainer(TEXT, SETTINGS)
    next(trainer.run())
    thread = threading.Thread(target=lambda: stop_signals().__enter__())  # outside the main thread nor does the command
    thread.start()
    thread.join()


class UserError(Exception):
    """What a signal handler of the user's raises."""


def test_exceptions_at_random_places_leave_a_state_that_goes_on_or_says_that_it_cannot(tmp_path):
    """As Ctrl-C in a notebook does: wherever it breaks into `run`, what is saved then is bit-exact or refused."""
    rng = random.Random(1)
    last, path = 400, tmp_path / "part"
    whole = Trainer(TEXT, SETTINGS)
    while whole.step < last:
        next(record for record in whole.run() if isinstance(record, Step))
    whole.save(tmp_path / "whole")

    def interrupt(number, frame):
        raise UserError

    before = signal.signal(signal.SIGALRM, interrupt)
    trainer = Trainer(TEXT, SETTINGS)
    trainer.save(path)
    broken = refused = 0
    while trainer.step < last:
        with contextlib.suppress(UserError):
            signal.setitimer(signal.ITIMER_REAL, rng.uniform(0.0005, 0.02))
            for _ in trainer.run():
                if trainer.step == last:
                    break
            signal.setitimer(signal.ITIMER_REAL, 0)
            continue
        broken += 1
        if trainer.halfway:
            refused += 1
            message = r"the update of step \d+ was broken off half way"
            with pytest.raises(FastrnnError, match=message):
                trainer.save(path)
            with pytest.raises(FastrnnError, match=message):
                next(trainer.run())
            trainer = Trainer.resume(path, TEXT)
        else:
            trainer.save(path)
            if rng.random() < 0.5:
                trainer = Trainer.resume(path, TEXT)
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)
    trainer.save(path)
    assert broken > 5
    assert path.read_bytes() == (tmp_path / "whole").read_bytes()


def test_an_update_that_is_broken_off_is_never_saved(tmp_path):
    trainer = Trainer(TEXT, SETTINGS)
    next(trainer.run())
    trainer.save(tmp_path / "checkpoint")
    update, calls = trainer.optimizer._update, []

    def second_breaks(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        update(*arguments)

    trainer.optimizer._update = second_breaks
    with pytest.raises(KeyboardInterrupt):
        next(trainer.run())
    assert trainer.halfway
    before = (tmp_path / "checkpoint").read_bytes()
    with pytest.raises(FastrnnError, match="the update of step 2 was broken off half way"):
        trainer.save(tmp_path / "checkpoint")
    assert (tmp_path / "checkpoint").read_bytes() == before


def test_an_evaluation_that_is_broken_off_is_made_anew(monkeypatch, tmp_path):
    whole = Trainer(TEXT, SETTINGS)
    part = Trainer(TEXT, SETTINGS)
    state_dict = part.model.state_dict

    def once():
        monkeypatch.undo()
        raise KeyboardInterrupt

    for trainer in (whole, part):
        while trainer.step < 20:
            next(trainer.run())
    monkeypatch.setattr(part.model, "state_dict", once)  # where the best parameters are kept
    with pytest.raises(KeyboardInterrupt):
        next(part.run())
    assert part.model.state_dict == state_dict
    for name, trainer in (("whole", whole), ("part", part)):
        next(trainer.run())
        trainer.save(tmp_path / name)
    assert (tmp_path / "whole").read_bytes() == (tmp_path / "part").read_bytes()


@pytest.mark.parametrize("where", ["model", "optimizer", "best"])
def test_what_is_not_finite_is_never_saved(tmp_path, where):
    """An update may overflow where no loss has told yet."""
    trainer = Trainer(TEXT, SETTINGS)
    next(trainer.run())
    trainer.save(tmp_path / "checkpoint")
    before = (tmp_path / "checkpoint").read_bytes()
    arrays = {
        "model": trainer.model.parameters["head.bias"],
        "optimizer": trainer.optimizer._averages["head.bias"][1],
        "best": trainer.best["head.bias"],
    }
    arrays[where][-1] = np.inf
    with pytest.raises(DivergenceError, match=rf"diverged: {where}\..*head.bias holds NaN or infinity after step 1;"):
        trainer.save(tmp_path / "checkpoint")
    assert (tmp_path / "checkpoint").read_bytes() == before


def limited(size):
    """What makes a write beyond `size` bytes fail in a process, as a full disk does."""

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    return limit


def test_a_disk_that_is_full_leaves_the_old_checkpoint(folder):
    trainer = Trainer(TEXT, SETTINGS)
    next(trainer.run())
    (folder / "run").mkdir()
    trainer.save(CHECKPOINT)
    before = (folder / CHECKPOINT).read_bytes()
    process = start(preexec_fn=limited(len(before) // 2))
    out, err = communicate(process, 60)
    assert (process.returncode, out) == (2, "")
    assert err == f"fastrnn: {CHECKPOINT}: {os.strerror(errno.EFBIG)}\n"
    assert (folder / CHECKPOINT).read_bytes() == before
    assert [path.name for path in (folder / "run").iterdir()] == ["checkpoint.safetensors"]


@pytest.mark.long
def test_a_disk_that_fills_up_leaves_a_checkpoint_that_goes_on(folder, require):
    (folder / "run").mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", "run"]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only who may mount a small disk can fill it")
    process = start("--hidden", "10")
    _, err = communicate(process, 300)  # the history grows until it does not fit
    left, names = (folder / CHECKPOINT).read_bytes(), os.listdir("run")
    subprocess.run(["umount", "run"], check=True)
    assert process.returncode == 2
    assert err == f"fastrnn: {CHECKPOINT}: {os.strerror(errno.ENOSPC)}\n"
    assert names == ["checkpoint.safetensors"]
    (folder / CHECKPOINT).write_bytes(left)
    goes_on_in_every_bit()


@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root may write to any folder")
def test_a_folder_that_cannot_be_written_to(folder):
    (folder / "run").mkdir(mode=0o500)
    _, err = start().communicate(timeout=60)
    assert err.startswith("fastrnn: run/.lock: ")
    assert err.count("\n") == 1


def ended():
    """The number of a process that is no more."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_temporary_files_of_ended_processes_are_removed_and_no_others(tmp_path):
    gone, parent = ended(), os.getppid()
    stale = [f".file.{gone}.tmp", f".file.{gone}.12345.tmp"]
    others = [f".file.{parent}.tmp", f".other.{gone}.tmp", f"file.{gone}.tmp", ".file.x.tmp", f".file.{gone}.tmp.txt"]
    for name in [*stale, *others]:
        (tmp_path / name).write_bytes(b"half")
    write_atomically(tmp_path / "file", b"whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*others, "file"])


def test_training_removes_what_a_killed_run_has_left(folder):
    (folder / "run").mkdir()
    gone = ended()
    for name in ("checkpoint.safetensors", "loss.png"):
        (folder / f"run/.{name}.{gone}.tmp").write_bytes(b"half")
    process = start("--steps", "5")
    assert communicate(process, 60)[1] == ""
    assert sorted(path.name for path in (folder / "run").iterdir()) == ["checkpoint.safetensors", "loss.png"]


def test_threads_that_write_to_one_path_leave_one_whole_file(tmp_path):
    contents = [bytes([k]) * 100_000 for k in range(8)]

    def write(data):
        for _ in range(5):
            write_atomically(tmp_path / "file", data)

    threads = [threading.Thread(target=write, args=(data,)) for data in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "file").read_bytes() in contents
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_link_stays_a_link_and_what_is_no_file_is_written_to(tmp_path):
    (tmp_path / "file").write_bytes(b"old")
    (tmp_path / "link").symlink_to("file")
    write_atomically(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_bytes() == b"new"
    os.mkfifo(tmp_path / "pipe")
    read = []
    thread = threading.Thread(target=lambda: read.append((tmp_path / "pipe").read_bytes()))
    thread.start()
    write_atomically(tmp_path / "pipe", b"through")
    thread.join()
    assert read == [b"through"]
    assert (tmp_path / "pipe").is_fifo()


def test_the_folder_is_synced_after_the_file_has_its_name(tmp_path, monkeypatch):
    """Or a power failure could leave neither name nor contents."""
    done = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda f: (done.append(os.fstat(f).st_ino), fsync(f)))
    monkeypatch.setattr(os, "replace", lambda a, b: (done.append("replace"), replace(a, b)))
    write_atomically(tmp_path / "file", b"data")
    assert done == [(tmp_path / "file").stat().st_ino, "replace", tmp_path.stat().st_ino]


def test_an_error_names_the_file_that_was_meant(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        write_atomically(tmp_path / "none/file", b"data")
    assert caught.value.filename == str(tmp_path / "none/file")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError) as caught:  # noqa: PT011 - its name differs by system
        write_atomically(tmp_path / "folder", b"data")
    assert caught.value.filename == str(tmp_path / "folder")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_every_file_that_the_package_writes_is_written_through_one_function():
    """Or one of them could be half written."""
    ways = (
        "write_text(",
        "write_bytes(",
        "savefig(path",
        ".save(path",
        "onnx.save(",
        'open("w',
        '"wb"',
        ', "w"',
        'mode="w',
        "json.dump(",
    )
    sources = [path for package in (fastrnn, fastrnn.bench) for path in Path(package.__path__[0]).rglob("*.py")]
    found = {(path.name, way) for path in sources for way in ways if way in path.read_text(encoding="utf-8")}
    assert found == {
        ("files.py", '"wb"'),
        ("run.py", ', "w"'),  # the benchmark's log, in a temporary folder
        ("footprint.py", "write_text("),  # to /proc
        ("peers.py", "write_bytes("),  # a model that is quantized, in a temporary folder
    }
