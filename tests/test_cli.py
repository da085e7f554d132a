"""The command: what it writes, how it goes on, and that every error of the user's is one line."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys

import pytest
from watched import run_watched

import fastrnn
from fastrnn import cli
from fastrnn.training import Settings, Trainer

SMALL = ["--hidden", "10", "--seq-length", "8", "--batch-size", "4", "--evaluate-every", "10"]
TEXT = " ".join(random.Random(0).choices(["to", "be", "or", "not", "that", "is", "the", "question"], k=300)) + "\n"
PLAIN = ["--no-embedding", "--dropout", "0", "--warmup", "0", "--schedule", "constant", "--optimizer", "sgd"]
PLAIN += ["--clip", "inf"]
CHECKPOINT = "run/checkpoint.safetensors"


@pytest.fixture
def command(monkeypatch, capsys):
    """Run the command with arguments; return its status, output and errors."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["fastrnn", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_:
            cli.main()
        return exit_.value.code, *capsys.readouterr()

    return run


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty working directory with a text in it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text(TEXT)
    return tmp_path


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """What a training run of 20 steps saves."""
    path = tmp_path_factory.mktemp("run") / "checkpoint.safetensors"
    trainer = Trainer(TEXT, Settings(hidden_size=10, seq_length=8, batch_size=4, evaluate_every=10, steps=20))
    list(trainer.run())
    trainer.save(path)
    return path.read_bytes()


@pytest.fixture
def trained(folder, checkpoint):
    """The working directory with that checkpoint in its folder `run`."""
    (folder / "run").mkdir()
    (folder / CHECKPOINT).write_bytes(checkpoint)
    return folder


def words(text):
    """A text without its line ends."""
    return " ".join(text.split())


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_train(folder, command):
    status, out, err = command("train", "text.txt", *SMALL, "--steps", 25, "--out", "a/run", "--temperature", 0.5)
    assert (status, err) == (0, "")
    assert "\x1b" not in out  # not a terminal
    assert f"text.txt: {len(TEXT):,} characters" in out
    evaluations = re.findall(
        r"^step (\d+)/25: loss [\d.]+, held out ([\d.]+) bits per character; [\d,]+/s$", out, re.MULTILINE
    )
    assert [int(step) for step, _ in evaluations] == [10, 20, 25]
    best = min(float(bits) for _, bits in evaluations)
    assert f"best   {best:.3f} bits per character, held out, after step" in out
    assert re.search(r"^speed  [\d,]+ characters/s$", out, re.MULTILINE)
    assert out.endswith("checkpoint  a/run/checkpoint.safetensors\nloss curve  a/run/loss.png\n")
    assert sorted(path.name for path in (folder / "a/run").iterdir()) == ["checkpoint.safetensors", "loss.png"]


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_train_on_the_corpus_that_ships(folder, command, cell):
    options = [*SMALL, "--cell", cell, "--layers", 2, "--optimizer", "sgd", "--threads", 1, "--backend", "numpy"]
    status, out, err = command("train", *options, "--steps", 20)
    assert (status, err) == (0, "")
    assert "names of dinosaurs: " in out
    assert "num_layers=2, backend='numpy', num_threads=1" in words(out)
    assert (folder / "fastrnn-run/loss.png").exists()


def test_training_in_bfloat16_goes_on_in_every_bit(folder, command):
    for arguments in (["--out", "whole", "--steps", 20], ["--out", "run", "--steps", 10]):
        given = [*SMALL, "--schedule", "constant", "--warmup", 0, "--patience", 9, *arguments]
        status, out, err = command("train", "text.txt", *given, "--precision", "bfloat16")
        assert (status, err) == (0, "")
        assert "precision='bfloat16'" in words(out)
    assert command("train", "text.txt", *given[:-2], "--steps", 20, "--resume")[0] == 0
    assert (folder / CHECKPOINT).read_bytes() == (folder / "whole/checkpoint.safetensors").read_bytes()
    trainer = Trainer.resume(CHECKPOINT, TEXT)
    assert (trainer.settings.precision, trainer.model.rnn.precision) == ("bfloat16", "bfloat16")
    assert "rnn.weight_ih_l0" in trainer.model.parameters
    assert {p.dtype.name for p in trainer.model.parameters.values()} == {"float32"}
    assert command("sample", CHECKPOINT, "--length", 5)[0] == 0


def test_epochs(folder, command):
    status, out, _ = command("train", "text.txt", *SMALL, "--epochs", 1)
    steps = Trainer.resume("fastrnn-run/checkpoint.safetensors", TEXT).steps_per_epoch
    assert status == 0
    assert f"step {steps}/{steps}:" in out


def test_several_texts_are_one(folder, command):
    (folder / "more.txt").write_text("no line end")
    status, out, _ = command("train", "text.txt", "more.txt", "more.txt", *SMALL, "--steps", 5)
    text = f"{TEXT}no line end\nno line end"
    assert status == 0
    assert f"text.txt, more.txt, more.txt: {len(text):,} characters" in words(out)
    assert Trainer.resume("fastrnn-run/checkpoint.safetensors", text).step == 5


def test_resumed_equals_uninterrupted_in_every_bit(folder, command):
    whatever_the_steps = ["--schedule", "constant", "--warmup", 0, "--dropout", 0.1, "--patience", 9]
    for arguments in (["--out", "whole", "--steps", 40], ["--out", "part", "--steps", 20]):
        assert command("train", "text.txt", *SMALL, *whatever_the_steps, *arguments)[0] == 0
    status, out, err = command("train", "text.txt", *SMALL, "--out", "part", "--steps", 40, "--resume")
    assert (status, err) == (0, "")
    assert "going on after step 20 of part/checkpoint.safetensors; the text is the same" in words(out)
    for name in ("checkpoint.safetensors", "loss.png"):
        assert (folder / "part" / name).read_bytes() == (folder / "whole" / name).read_bytes()


def test_ctrl_c_saves_and_resume_goes_on_in_every_bit(folder, command):
    steps = 2000
    arguments = ["train", "text.txt", *SMALL, "--evaluate-every", "200", "--patience", "100", "--steps", steps]
    assert command(*arguments, "--out", "whole")[0] == 0

    line = [sys.executable, "-c", "from fastrnn.cli import main; main()", *map(str, arguments), "--out", "part"]
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        for told in process.stdout:
            if told.startswith("step 200/"):
                break
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    assert re.search(r"stopped after step [\d,]+ of 2,000; the same command with --resume goes on", words(out))
    stopped = Trainer.resume("part/checkpoint.safetensors", TEXT).step
    assert 200 <= stopped < steps

    status, out, err = command(*arguments, "--out", "part", "--resume")
    assert (status, err) == (0, "")
    assert f"going on after step {stopped:,} of" in out
    checkpoints = [(folder / run / "checkpoint.safetensors").read_bytes() for run in ("part", "whole")]
    assert checkpoints[0] == checkpoints[1]


def test_patience(folder, command):
    (folder / "noise.txt").write_text("".join(random.Random(1).choices("abcdefgh", k=400)))
    status, out, _ = command("train", "noise.txt", *SMALL, "--learning-rate", 0.05, "--patience", 2, "--steps", 5000)
    assert status == 0
    assert re.search(r"^stopped after step \d+: the last 2 evaluations were no better$", out, re.MULTILINE)
    assert "the last evaluation was the best" not in out


def test_a_run_that_ends_while_it_improves_says_how_to_go_on(folder, command):
    told = "the last evaluation was the best: the same command with --resume {} improves it further"
    constant = [*SMALL, "--schedule", "constant"]
    status, out, _ = command("train", "text.txt", *constant, "--steps", 20, "--out", "steps")
    assert status == 0
    assert told.format("--steps 40") in words(out)
    status, out, _ = command("train", "text.txt", *SMALL, "--steps", 20, "--out", "steps", "--resume", "--steps", 40)
    assert status == 0
    assert told.format("--steps 80") in words(out)
    _, out, _ = command("train", "text.txt", *constant, "--epochs", 1, "--out", "epochs")
    assert told.format("--epochs 2") in words(out)
    for ended in (["--schedule", "linear"], ["--evaluate-every", 100]):  # as meant; with nothing to compare with
        _, out, _ = command("train", "text.txt", *constant, "--steps", 20, *ended, "--out", ended[1])
        assert "the last evaluation was the best" not in out


def test_sample(trained, command):
    status, out, err = command("sample", CHECKPOINT, "--prompt", "to ", "--length", 30, "--seed", 1)
    assert (status, err) == (0, "")
    assert out.startswith("to ")
    assert len(out) == 3 + 30 + 1
    assert set(out) <= set(TEXT)
    assert command("sample", CHECKPOINT, "--prompt", "to ", "--length", 30, "--seed", 1)[1] == out
    assert command("sample", CHECKPOINT, "--prompt", "to ", "--length", 30, "--seed", 2)[1] != out
    greedy = [command("sample", CHECKPOINT, "--temperature", 0, "--length", 30)[1] for _ in range(2)]
    assert greedy[0] == greedy[1]


@pytest.mark.parametrize(("name", "written"), [("sample", "to "), ("plot", "loss.png")])
def test_the_folder_that_train_made_stands_for_its_checkpoint(trained, command, name, written):
    options = ["--prompt", "to "] + ["--seed", "1"] * (name == "sample")
    status, out, err = command(name, "run", *options)
    assert (status, err) == (0, "")
    assert written in out
    assert command(name, CHECKPOINT, *options)[1] == out
    (trained / "empty").mkdir()
    assert command(name, "empty") == (2, "", "fastrnn: empty/checkpoint.safetensors: No such file or directory\n")


def test_s18_sample_stops_and_draws_from_the_likeliest(trained, command):
    options = ["sample", CHECKPOINT, "--seed", 1, "--length", 60]
    whole = command(*options)[1]
    assert command(*options, "--stop", "e")[1] == whole[: whole.index("e")] + "\n"
    assert command(*options, "--stop", r"\n")[1] == whole[: whole.index("\n")] + "\n"
    assert command(*options, "--top-k", 1)[1] == command(*options, "--temperature", 0)[1]
    assert command(*options, "--top-p", 0.5)[1] != whole


def test_s19_every_flag_has_an_equivalent(folder, command):
    flags = {  # ours for those of the original, and the setting it makes
        "--iterations": ("--steps", 6, "steps"),
        "--learning_rate": ("--learning-rate", 0.02, "learning_rate"),
        "--optimizer": ("--optimizer", "momentum", "optimizer"),
        "--hidden_size": ("--hidden", 7, "hidden_size"),
        "--sample_every": ("--evaluate-every", 3, "evaluate_every"),
        "--seq_length": ("--seq-length", 9, "seq_length"),
        "--clip_value": ("--clip-value", 5.0, "clip_value"),
        "--batch_size": ("--batch-size", 2, "batch_size"),
        "--deterministic": ("--seed", 1, "seed"),
    }
    options = [part for option, value, _ in flags.values() for part in (option, value)]
    status, out, err = command("train", "text.txt", *options, "--temperature", 0.5)  # the same flag in both
    assert (status, err) == (0, "")
    assert re.findall(r"^step (\d)/6: ", out, re.MULTILINE) == ["3", "6"]
    settings = Trainer.resume("fastrnn-run/checkpoint.safetensors", TEXT).settings
    assert [getattr(settings, name) for *_, name in flags.values()] == [value for _, value, _ in flags.values()]


def test_n3_samples_before_training_and_as_it_goes(folder, command):
    _, out, _ = command("train", "text.txt", *SMALL, "--steps", 20)
    told = out.split("\n")
    first = told.index("before training it writes:")
    assert told[first + 1].startswith("    ")
    assert told[first + 2].startswith("step 10/20: ")
    assert told[first + 3].startswith("    ")
    _, out, _ = command("train", "text.txt", *SMALL, "--steps", 25, "--resume")
    assert "before training" not in out


def test_n2_words(folder, command):
    options = [*SMALL, "--level", "word", "--min-count", 1, "--max-words", 6, "--dropout", 0.1, "--steps", 20]
    status, out, err = command("train", "text.txt", *options)
    assert (status, err) == (0, "")
    assert f"text.txt: {len(TEXT):,} characters, a vocabulary of 7 words" in out
    assert "model an embedding, LSTM(10, 10) and a linear layer: " in words(out).replace(", backend='cython'", "")
    assert re.search(r"^step 10/20: perplexity [\d.]+, held out [\d.]+; [\d,]+/s$", out, re.MULTILINE)
    loss = r"perplexity [\d.]+ \([\d.]+ bits per word\)"
    assert re.search(rf" best {loss}, held out, after step \d+; it writes: ", words(out))
    assert re.search(r"^speed  [\d,]+ words/s$", out, re.MULTILINE)
    written = command("sample", "fastrnn-run/checkpoint.safetensors", "--prompt", "What is", "--length", 9)[1]
    assert written.startswith("What is ")
    assert len(written.split()) == 2 + 9
    assert set(written.split()[2:]) <= set(TEXT.split())


def test_an_adaptive_output(folder, command):
    options = [*SMALL, "--level", "word", "--hidden", 16, "--output", "adaptive", "--steps", 5]
    status, out, _ = command("train", "text.txt", *options)
    assert status == 0
    assert "and an adaptive softmax cut at [1, 2]: " in words(out)


def test_s20_lines_and_n1_letters(folder, command):
    (folder / "names.txt").write_text("".join(f"{word.title()}!\n\n" for word in TEXT.split()))
    options = [
        *SMALL,
        "--windows",
        "lines",
        "--lower",
        "--letters-only",
        "--optimizer",
        "rmsprop",
        "--schedule",
        "cosine",
    ]
    status, out, err = command("train", "names.txt", *options, "--warmup", 5, "--clip-value", 1, "--steps", 60)
    assert (status, err) == (0, "")
    assert f"characters, {len(set(TEXT))} different ones" in out
    status, out, _ = command("sample", "fastrnn-run/checkpoint.safetensors", "--temperature", 0, "--length", 40)
    names = out.split("\n")
    assert names[0] == names[1]  # greedy, and each line starts anew


def test_sample_into_a_closed_pipe(trained):
    line = f"'{sys.executable}' -c 'from fastrnn.cli import main; main()' sample run/checkpoint.safetensors | true"
    done = run_watched(["sh", "-c", line], 60)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_terminal_that_cannot_show_the_text(folder):
    (folder / "greek.txt").write_text("γνῶθι σεαυτόν\n" * 99, encoding="utf-8")
    line = [sys.executable, "-c", "from fastrnn.cli import main; main()", "train", "greek.txt", *SMALL, "--steps", "10"]
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = run_watched(line, 60, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert "?" in done.stdout


def test_info(command):
    status, out, err = command("info")
    assert (status, words(out), err) == (0, words(str(fastrnn.info())), "")


LINES = {
    "info": ["info"],
    "cases": ["bench", "--list"],
    **{f"help of {name}": [name, "--help"] for name in ("", "train", "sample", "plot", "demo", "bench", "info")},
    "training": ["train", "text.txt", *SMALL, "--num-layers", "2", "--steps", "20"],
    "words": ["train", "text.txt", "--level", "word", *SMALL, "--steps", "20", "--threads", "1", "--seed", "3"],
    "a recipe": ["demo", "hello"],
}


@pytest.mark.parametrize("terminal", [False, True], ids=["a pipe", "a terminal"])
@pytest.mark.parametrize("arguments", LINES.values(), ids=LINES)
def test_every_line_fits_80_columns(folder, command, monkeypatch, arguments, terminal):
    monkeypatch.setenv("COLUMNS", "80")
    if terminal:
        monkeypatch.setenv("FORCE_COLOR", "1")
        monkeypatch.setenv("TTY_INTERACTIVE", "0")
    status, out, err = command(*filter(None, arguments))
    assert (status, err) == (0, "")
    plain = re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", out)
    assert max(map(len, plain.splitlines())) <= 80


def test_s19_underscores_and_the_modules_own_words_are_understood(folder, command):
    options = ["--hidden_size", 7, "--num_layers", 2, "--seq_length", 8, "--batch_size", 4, "--steps", 3]
    assert command("train", "text.txt", *options, "--out", "a")[0] == 0
    settings = Trainer.resume("a/checkpoint.safetensors", TEXT).settings
    assert (settings.hidden_size, settings.num_layers, settings.seq_length, settings.batch_size) == (7, 2, 8, 4)
    options = ["--hidden", 7, "--layers", 2, "--seq-length", 8, "--batch-size", 4, "--steps", 3]
    assert command("train", "text.txt", *options, "--out", "b")[0] == 0
    assert Trainer.resume("b/checkpoint.safetensors", TEXT).settings == settings


def test_version(command):
    assert command("--version") == (0, f"fastrnn {fastrnn.__version__}\n", "")


def test_help(command):
    for arguments, words in (((), ("train", "sample", "info")), (("train", "--help"), ("--seq-length", "--resume"))):
        status, out, err = command(*arguments)
        assert (status, err) == (0, "")
        assert all(word in out for word in words)


ERRORS = {
    "missing text": (["train", "none.txt"], "none.txt: No such file or directory"),
    "folder as text": (["train", "run"], "run: Is a directory"),
    "empty text": (["train", "empty.txt"], "empty.txt is empty"),
    "binary text": (["train", "binary.txt"], "binary.txt is not a text file: NUL at byte 3"),
    "text not UTF-8": (["train", "latin.txt"], "latin.txt is not UTF-8: byte 0xfc at offset 1"),
    "short text": (
        ["train", "short.txt"],
        "the training part of the text is too short: 9 tokens are fewer than the 33",
    ),
    "short held-out text": (["train", "text.txt", "--batch-size", "1", "--seq-length", "200"], "the held-out part"),
    "run exists": (["train", "text.txt", "--out", "run"], f"{CHECKPOINT} exists; --resume goes on with it"),
    "nothing to resume": (
        ["train", "text.txt", "--out", "none", "--resume"],
        "none/checkpoint.safetensors: No such file",
    ),
    "resume, another text": (["train", "more.txt", "--out", "run", "--resume"], "was trained on another text"),
    "resume, another size": (
        ["train", "text.txt", "--out", "run", "--resume", "--hidden", "11"],
        f"{CHECKPOINT} has hidden_size 10; it cannot go on with 11",
    ),
    "resume, damaged": (["train", "text.txt", "--out", "damaged", "--resume"], "is not a usable checkpoint"),
    "folder not writable": (["train", "text.txt", *SMALL, "--out", "text.txt/run"], "text.txt/run"),
    "folder is a file": (["train", "text.txt", *SMALL, "--out", "more.txt"], "more.txt"),
    "divergence": (
        ["train", "text.txt", *SMALL, *PLAIN, "--learning-rate", "1e38", "--out", "new"],
        "training diverged at step",
    ),
    "backend": (["train", "text.txt", *SMALL, "--backend", "fortran"], "backend is 'fortran'; expected one of"),
    "cell": (["train", "--cell", "transformer"], "Invalid value for '--cell'"),
    "hidden": (["train", "--hidden", "0"], "Invalid value for '--hidden'"),
    "minutes": (["train", "--minutes", "0"], "Invalid value for '--minutes'"),
    "endless minutes": (["train", "--minutes", "inf"], "Invalid value for '--minutes'"),
    "minutes that are none": (["train", "--minutes", "soon"], "'soon' is not a valid float"),
    "steps and minutes": (["train", "--steps", "5", "--minutes", "5"], "--steps and --minutes exclude each other"),
    "resume, other minutes": (
        ["train", "text.txt", "--out", "run", "--resume", "--minutes", "3"],
        f"{CHECKPOINT} has minutes None; it cannot go on with 3.0",
    ),
    "resume, another split": (
        ["train", "text.txt", "--out", "run", "--resume", "--split", "drawn"],
        f"{CHECKPOINT} has split end; it cannot go on with drawn",
    ),
    "steps and epochs": (["train", "--steps", "5", "--epochs", "5"], "--steps and --epochs exclude each other"),
    "learning rate": (["train", "--learning-rate", "nan"], "Invalid value for '--learning-rate'"),
    "infinite learning rate": (["train", "--learning-rate", "inf"], "Invalid value for '--learning-rate'"),
    "clip": (["train", "--clip", "-1"], "Invalid value for '--clip'"),
    "temperature": (["train", "--temperature", "nan"], "Invalid value for '--temperature'"),
    "threads": (["train", "--threads", "0"], "Invalid value for '--threads'"),
    "seed": (["train", "--seed", "-1"], "Invalid value for '--seed'"),
    "unknown option": (["train", "--drop", "0.5"], "No such option"),
    "dropout": (["train", "--dropout", "1"], "Invalid value for '--dropout'"),
    "max words": (["train", "--level", "word", "--max-words", "0"], "Invalid value for '--max-words'"),
    "words of characters": (["train", "--max-words", "5"], "--max-words is for --level word"),
    "output of characters": (["train", "--output", "full"], "--output is for --level word"),
    "precision of a written cell": (
        ["train", "text.txt", *SMALL, "--cell", "min_gru", "--precision", "bfloat16", "--out", "new"],
        "precision is 'bfloat16', but cell 'min_gru'; expected 'float32', or one of lstm, gru, rnn",
    ),
    "words without vectors": (["train", "--level", "word", "--no-embedding"], "--no-embedding is for --level char"),
    "units of the adaptive output": (
        ["train", "text.txt", *SMALL, "--level", "word", "--output", "adaptive", "--out", "new"],
        "hidden_size is 10; expected at least 16 with the adaptive output",
    ),
    "words of the adaptive output": (
        [
            "train",
            "text.txt",
            "--level",
            "word",
            "--output",
            "adaptive",
            "--max-words",
            "1",
            *SMALL[2:],
            "--out",
            "new",
        ],
        "the vocabulary has 2 words; expected 3 or more with the adaptive output",
    ),
    "memory": (["train", "text.txt", "--hidden", "10000000", *SMALL[2:], "--out", "new"], "not enough memory: Unable"),
    "no lines": (["train", "line.txt", "--windows", "lines"], "the text has 1 lines that are not empty"),
    "rare words": (["train", "line.txt", "--level", "word"], "no word of the text occurs 2 times"),
    "resume, another level": (
        ["train", "text.txt", "--out", "run", "--resume", "--level", "word"],
        f"{CHECKPOINT} has level char; it cannot go on with word",
    ),
    "unknown command": (["trane"], "No such command 'trane'"),
    "sample, nothing": (["sample"], "Missing argument 'CHECKPOINT'"),
    "sample, missing": (["sample", "none"], "none: No such file or directory"),
    "sample, a text": (["sample", "text.txt"], "text.txt is not a usable checkpoint"),
    "sample, damaged": (["sample", "damaged/checkpoint.safetensors"], "is not a usable checkpoint"),
    "sample, prompt": (["sample", CHECKPOINT, "--prompt", "Zoo"], "character 'Z' (U+005A) at position 0"),
    "sample, temperature": (["sample", CHECKPOINT, "--temperature", "-1"], "Invalid value for '--temperature'"),
    "sample, top-k": (["sample", CHECKPOINT, "--top-k", "0"], "Invalid value for '--top-k'"),
    "sample, top-p": (["sample", CHECKPOINT, "--top-p", "1.5"], "Invalid value for '--top-p'"),
    "sample, stop": (["sample", CHECKPOINT, "--stop", ""], "stop is ''; expected characters of the vocabulary"),
    "plot, nothing": (["plot"], "Missing argument 'CHECKPOINT'"),
    "plot, missing": (["plot", "none"], "none: No such file or directory"),
    "plot, a text": (["plot", "text.txt"], "text.txt is not a usable checkpoint"),
    "plot, damaged": (["plot", "damaged/checkpoint.safetensors"], "is not a usable checkpoint"),
    "plot, prompt": (["plot", CHECKPOINT, "--prompt", "be Zoo"], "character 'Z' (U+005A) at position 3"),
    "plot, empty prompt": (["plot", CHECKPOINT, "--prompt", ""], "--prompt is empty"),
    "plot, layer": (["plot", CHECKPOINT, "--layer", "2"], "--layer is 2, but the model has 1"),
    "plot, no layer": (["plot", CHECKPOINT, "--layer", "0"], "Invalid value for '--layer'"),
    "plot, folder": (["plot", CHECKPOINT, "--out", "text.txt"], "text.txt: File exists"),
    "sample, length": (["sample", CHECKPOINT, "--length", "-1"], "Invalid value for '--length'"),
}


@pytest.mark.parametrize(("arguments", "message"), ERRORS.values(), ids=ERRORS)
def test_an_error_is_one_line_and_overwrites_nothing(trained, command, arguments, message):
    files = {
        "empty.txt": b"",
        "binary.txt": b"PNG\0\1",
        "latin.txt": "Zürich".encode("latin-1"),
        "short.txt": b"too short\n",
        "line.txt": b"one line\n",
    }
    files |= {"more.txt": b"another text\n" * 99}
    files |= {"damaged/checkpoint.safetensors": (trained / CHECKPOINT).read_bytes()[:-1]}
    (trained / "damaged").mkdir()
    for name, data in files.items():
        (trained / name).write_bytes(data)
    before = contents(trained)

    status, _, err = command(*arguments)

    assert status == 2
    assert err.startswith("fastrnn: ")
    assert message in err
    assert err.count("\n") == 1
    after = contents(trained)
    assert {path: data for path, data in after.items() if path in before} == before
    assert {path.name for path in after.keys() - before.keys()} <= {"checkpoint.safetensors"}


def test_divergence_names_the_checkpoint_that_is_left(folder, command):
    options = [*PLAIN, "--learning-rate", "1e38"]
    status, _, err = command("train", "text.txt", *SMALL, *options)
    assert status == 2
    assert "fastrnn-run/checkpoint.safetensors holds the last good state" in err
    assert Trainer.resume("fastrnn-run/checkpoint.safetensors", TEXT).step == 0


def test_without_its_packages_the_command_says_what_to_install(command, monkeypatch):
    monkeypatch.setattr(cli, "find_spec", lambda name: None if name == "rich" else name)
    assert command("info") == (2, "", "fastrnn: the command needs rich: pip install rich\n")


def test_without_matplotlib_there_is_no_picture(folder, command, monkeypatch):
    monkeypatch.setattr("fastrnn.cli.train.find_spec", lambda name: None)
    status, out, _ = command("train", "text.txt", *SMALL, "--steps", 5)
    assert status == 0
    assert "loss curve  needs matplotlib: pip install matplotlib" in out
    assert not (folder / "fastrnn-run/loss.png").exists()


def test_the_package_does_not_import_what_only_the_command_needs():
    heavy = {"click", "rich", "safetensors", "matplotlib"}
    code = f"import sys, fastrnn, fastrnn.training; print(*{heavy} & set(sys.modules))"
    done = run_watched([sys.executable, "-c", code], 60)
    assert (done.returncode, done.stdout) == (0, "\n")


def test_python_m_fastrnn_is_the_command(tmp_path):
    command = [sys.executable, "-m", "fastrnn"]
    result = run_watched([*command, "info"], 60, cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith(f"fastrnn {fastrnn.__version__}, ")
    missing = run_watched([*command, "no"], 60, cwd=tmp_path)
    assert missing.returncode == 2


def test_an_error_with_half_a_character_is_told(capsys):
    assert cli._complain("model is \ud800\nand more") == 2
    assert capsys.readouterr().err == "fastrnn: model is \\ud800 and more\n"
