"""Single faults, put into the code one by one: the tests must notice each of them.

python tests/mutants.py [--list] [--only NAME ...] [--shard I/N] [--folder FOLDER]

The faults stand in `mutations`. They are made in a copy of the tree, whose kernels are built with little optimisation
and, after a fault in them, only for the instruction set that runs here. A mutant is caught if a test fails, crashes or
hangs with it and passes without it. The command fails if one survives that `mutations` gives no reason for. Those of an
instruction set that does not run here are left out.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mutations import MUTANTS, Mutant
from watched import Watch

ROOT = Path(__file__).resolve().parents[1]
QUIET = 300  # seconds, which `Watch` counts, after which a test hangs; the slowest here compile for a minute

# Tests that notice faults in some part, as pytest's arguments. A mutant names those that are meant for it, and they run
# in its order until one fails.
SUITES = {
    "kernels": "test_kernels.py -k 'cython and not again'",
    "narrow": "test_narrow.py test_narrow_training.py -k 'not again_on'",
    "precision": "test_precision.py -k 'not numba'",
    "checked": "test_kernels.py -k 'cython and checked_memory'",
    "switches": "test_switches.py -k 'not numba'",
    "activations": "test_activations.py -k 'not numba'",
    "dense": "test_multiply.py test_softmax.py -k 'not numba'",
    "modules": "test_modules.py test_same_bits.py test_trace.py test_dropout.py -k 'not numba'",
    "masks": "test_masks.py -k 'not numba'",
    "written": "test_recurrent.py -k 'not numba'",
    "ensembles": "test_ensembles.py -k 'not numba'",
    "heads": "test_heads.py -k 'not numba'",
    "language": "test_language.py",
    "extra": "test_extra.py -k 'not numba'",
    "prepared": "test_prepared.py -k 'not numba'",
    "tangent": "test_tangent.py -k 'not (numba or again_on)'",
    "extra_torch": "test_torch_extra.py -k 'loop_in_torch'",
    "saturated": "test_saturated.py -k 'not numba'",
    "variants": "test_variants.py",
    "onnx": "test_onnx.py",
    "onnx_quantized": "test_onnx_quantized.py",
    "torch_quantized": "test_torch_quantized.py",
    "onnx_session": "test_onnx_session.py",
    "onnx_export": "test_onnx_export.py",
    "normalized": "test_normalized.py -k 'not numba'",
    "numba_extra": "test_extra.py -k 'numba'",
    "numba_normalized": "test_normalized.py -k 'numba'",
    "cells": "test_cells.py -k 'not numba'",
    "stream": "test_stream.py -k 'not numba'",
    "input": "test_bad_input.py -k 'not numba'",
    "stateful": "test_stateful.py -k 'not numba'",
    "safety": "test_safety.py -k 'serves or during'",
    "memory": "test_memory.py",
    "machine": "test_machine.py",
    "threads": "test_threads.py -k 'not numba'",
    "fork": "test_fork.py -k 'not numba'",
    "interrupt": "test_interrupt.py -k 'cython'",
    "torch": "test_torch.py -k 'not numba'",
    "torch_memory": "test_torch_memory.py",
    "torch_narrow": "test_torch_narrow.py",
    "torch_func": "test_torch_func.py -k 'not numba'",
    "torch_recurrent": "test_torch_recurrent.py -k 'not compiled'",
    "compile": "test_torch_compile.py -k 'not numba'",
    "torch_threads": "test_torch_threads.py -k 'not numba'",
    "keras": "test_keras.py",
    "keras_layers": "test_keras_layers.py",
    "layers": "test_training_layers.py test_training_optimizers.py test_training_schedules.py",
    "losses": "test_training_layers.py test_scratch_losses.py test_training_adaptive.py",
    "text": "test_training_text.py test_training_sampling.py test_training_composition.py",
    "pooling": "test_training_pooling.py",
    "composition": "test_training_composition.py",
    "training_cells": "test_training_cells.py",
    "saving": "test_saving.py",
    "loop": "test_training_loop.py",
    "fit": "test_fit.py",
    "distributed": "test_distributed.py -k 'not gloo and not mpi and not command'",
    "sklearn": "test_sklearn.py -k 'not scikit'",
    "defaults": "test_training_defaults.py",
    "bench": "test_bench.py test_bench_cells.py -k 'wrong or torch_returns or yardsticks'",
    "numba": "test_kernels.py -k 'numba and float32 and not again'",
    "numba_activations": "test_activations.py -k 'numba and float32'",
    "numba_written": "test_recurrent.py -k 'numba'",
    "numba_threads": "test_threads.py test_same_bits.py -k 'numba'",
}


class Copy:
    """A copy of the tree in which faults are made and taken back."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environ = os.environ | {
            "PYTHONPATH": str(folder),
            "PYTHONDONTWRITEBYTECODE": "1",  # a fault may come and go within the second that file times count
            "FASTRNN_REQUIRE_KERNELS": "1",
            "FASTRNN_CFLAGS": "-O1",
            "NUMBA_CACHE_DIR": str(folder / "numba"),
        }
        skipped = shutil.ignore_patterns(".git", ".venv", "build", "__pycache__", ".*_cache", ".hypothesis", "*.so")
        shutil.copytree(ROOT, folder, ignore=skipped, dirs_exist_ok=True)
        for name in ("kernels", "bench"):  # where an installation has them
            (folder / "fastrnn" / name).symlink_to(folder / name)
        lines = self.python("setup.py", "build_ext", "--inplace").stdout.splitlines()
        self.compile = {line.split(" -c ")[1].split()[0]: line for line in lines if " -c " in line}
        (self.link,) = (line for line in lines if " -shared " in line and "sequence" in line)
        origin = self.python("-c", "import fastrnn.ops as o; print(o.__file__)").stdout.strip()
        if not Path(origin).is_relative_to(folder):
            raise RuntimeError(f"the tests would run {origin} instead of the copy in {folder}, and notice no fault")
        used = self.python("-c", "import fastrnn.kernels.sequence as s; print(s.describe())").stdout
        isa = re.search(r"(\w+): used", used)[1]
        on_top = ("avx512", "avx512_vnni", "avx512_bf16")  # each with a part of the kernels; avx512's has amx
        self.isas = list(on_top) if isa == "amx" else list(on_top[: on_top.index(isa) + 1]) if isa in on_top else [isa]
        self.clean = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in self.files()}

    def files(self) -> list[Path]:
        """Everything that a fault or what is built of it may change."""
        kept = (".py", ".pyx", ".c", ".h", ".o", ".a", ".so")
        return [path for path in self.folder.rglob("*") if path.suffix in kept and not path.is_symlink()]

    def python(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run Python in the copy; RuntimeError with its output if it fails."""
        return self.command([sys.executable, *arguments])

    def command(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        """Run a command in the copy; RuntimeError with its output if it fails."""
        done = subprocess.run(command, cwd=self.folder, env=self.environ, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{done.stdout}{done.stderr}")
        return done

    @contextmanager
    def fault(self, mutant: Mutant) -> Iterator[None]:
        """Make a fault, and what has to be built for it; take back whatever that changed."""
        path = self.folder / mutant.path
        path.write_text(path.read_text().replace(mutant.before, mutant.after))
        try:
            if path.suffix == ".pyx":
                self.python("setup.py", "-q", "build_ext", "--inplace")
            elif path.suffix in (".c", ".h"):
                self.build(mutant.path)
            yield
        finally:
            for changed in self.files():
                time_ns, content = self.clean.get(changed, (None, b""))
                if time_ns is not None and changed.stat().st_mtime_ns != time_ns:
                    changed.unlink()  # who has the old one open keeps it
                    changed.write_bytes(content)
                    os.utime(changed, ns=(time_ns, time_ns))

    def build(self, path: str) -> None:
        """Compile what a C file or header is part of, as the first build did, and link."""
        kernels = [f"kernels/c/isa_{isa}.c" for isa in self.isas]
        others = [source for source in self.compile if "/isa_" not in source and "loops" not in source]
        sources = [path] if path.endswith(".c") else kernels + others * (not path.endswith(".inc.h"))
        for source in sources:
            self.command(shlex.split(self.compile[source]))
        objects = [source.replace(".c", ".o") for source in kernels]
        for isa, object_ in zip(self.isas, objects, strict=True):
            (library,) = self.folder.glob(f"build/**/libfastrnn_{isa}.a")
            (compiled,) = self.folder.glob(f"build/**/{object_}")
            self.command(["ar", "rcs", str(library), str(compiled)])
        link = shlex.split(self.link)
        self.command(link)
        (extension,) = self.folder.glob("kernels/sequence*.so")
        extension.unlink()
        shutil.copy(self.folder / link[link.index("-o") + 1], extension)

    def failing(self, arguments: list[str]) -> tuple[str, str] | None:
        """The first test that fails, of those that pytest's arguments choose, and how; None if all pass."""
        command = [sys.executable, "-u", "-m", "pytest", "-x", "-v", "-p", "no:cacheprovider", *arguments]
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
            own = {"cwd": self.folder, "env": self.environ, "start_new_session": True}
            process = subprocess.Popen(command, stdout=out, stderr=err, **own)
            written, watch = 0, Watch(process, QUIET)
            with suppress(subprocess.TimeoutExpired):
                while process.poll() is None:
                    time.sleep(0.1)
                    if written != (now := os.fstat(out.fileno()).st_size):
                        written, watch = now, Watch(process, QUIET)
                    watch.look()
            hangs = process.poll() is None
            with suppress(ProcessLookupError):  # also children of tests, which may hang without it
                os.killpg(process.pid, signal.SIGKILL)
            if process.wait() == 0:
                return None
            out.seek(0)
            lines = out.read().splitlines()
            if failed := re.search(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", "\n".join(lines), re.MULTILINE):
                return failed[1], "fails"
            if hangs or process.returncode < 0:
                return lines[-1].strip(), "hangs" if hangs else f"ends with {process.returncode}"
            err.seek(0)
            raise RuntimeError("\n".join([*command, *lines, err.read()]))


def chosen_by(suite: str) -> list[str]:
    """Pytest's arguments of a suite."""
    return [f"tests/{word}" if word.endswith(".py") else word for word in shlex.split(SUITES[suite])]


def missing(mutants: list[Mutant]) -> list[str]:
    """The names of mutants whose text does not stand in its file exactly once."""
    texts = {path: (ROOT / path).read_text() for path in {mutant.path for mutant in mutants}}
    return [mutant.name for mutant in mutants if texts[mutant.path].count(mutant.before) != 1]


def main() -> int:
    """Run the chosen mutants and print what becomes of each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--list", action="store_true", help="list the mutants")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="run these")
    parser.add_argument("--shard", default="1/1", metavar="I/N", help="run the I-th of N parts")
    parser.add_argument("--folder", type=Path, help="where the copy of the tree is made, a temporary folder by default")
    arguments = parser.parse_args()
    part, parts = map(int, arguments.shard.split("/"))
    chosen = [m for m in MUTANTS if not arguments.only or m.name in arguments.only][part - 1 :: parts]
    if arguments.list:
        for mutant in chosen:
            print(f"{mutant.path:32} {mutant.name:32} {mutant.suites}")
        return 0
    if lost := missing(chosen):
        print(f"the texts of these mutants are not in their files exactly once: {', '.join(lost)}")
        return 2
    with tempfile.TemporaryDirectory() as folder:
        copy = Copy(arguments.folder or Path(folder, "fastrnn"))
        left_out = [mutant for mutant in chosen if mutant.isa and mutant.isa not in copy.isas]
        for mutant in left_out:
            print(f"{mutant.path:32} {mutant.name:32}         left out: it takes {mutant.isa}")
        return run(copy, [mutant for mutant in chosen if mutant not in left_out])


def run(copy: Copy, mutants: list[Mutant]) -> int:
    """Run mutants in a copy and print a table."""
    survivors, unexplained = 0, 0
    for mutant in mutants:
        started = time.perf_counter()
        with copy.fault(mutant):
            found = next(filter(None, (copy.failing(chosen_by(suite)) for suite in mutant.suites.split())), None)
        verdict = f"caught: {' '.join(found)}" if found else f"SURVIVES {mutant.reason}"
        if found and copy.failing(found[:1]):
            found, verdict = None, f"SURVIVES: without it {found[0]} does not pass either"
        survivors += found is None
        unexplained += found is None and not mutant.reason
        print(f"{mutant.path:32} {mutant.name:32} {time.perf_counter() - started:4.0f} s  {verdict}", flush=True)
    print(f"{len(mutants) - survivors} of {len(mutants)} mutants caught, {unexplained} survive without a reason")
    return int(unexplained > 0)


if __name__ == "__main__":
    sys.exit(main())
