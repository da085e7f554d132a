"""From the source tree to an installed package: sdist, wheel, with a compiler and without one."""

from __future__ import annotations

import importlib.metadata
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from problems import clean_environ
from watched import run_watched

pytestmark = pytest.mark.slow

NO_COMPILER = {"CC": "/bin/false", "CXX": "/bin/false"}
WORKS = """
import numpy as np, fastrnn, fastrnn.cells, fastrnn.training
y, _, tape = fastrnn.LSTM(3, 4).forward(np.ones((5, 2, 3), np.float32))
fastrnn.GRU(3, 4)(np.ones((5, 2, 3), np.float32))
fastrnn.Recurrent(fastrnn.cells.reset_before_gru, 3, 4)(np.ones((5, 2, 3), np.float32))
print(fastrnn.__file__)
print(fastrnn.info())
"""


def call(command: list[str | Path], folder: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    environ = clean_environ(PIP_DISABLE_PIP_VERSION_CHECK="1", PIP_NO_CACHE_DIR="1", **environ)
    return run_watched(command, 900, cwd=folder, env=environ)


def succeed(command: list[str | Path], folder: Path, **environ: str) -> str:
    result = call(command, folder, **environ)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def build_wheel(sdist: Path, folder: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    """Build a wheel into `folder` with the setuptools and Cython of this environment: nothing is downloaded."""
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", folder]
    return call([*command, sdist], folder, **environ)


@pytest.fixture(scope="module")
def tree(
    require: Callable[[bool, str], None], pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A copy of the repository without anything that was built in it."""
    installed = {distribution.name.lower() for distribution in importlib.metadata.distributions()}
    for name in ("setuptools", "cython", "pip"):  # not imported: setuptools warns of pip after distutils
        require(name in installed, f"{name} is not installed")
    built = shutil.ignore_patterns(
        *(".git", ".venv", ".*_cache", ".hypothesis", ".benchmarks"),
        *("build", "dist", "__pycache__", "*.so", "*.egg-info", "build_failure.txt"),
    )
    return Path(shutil.copytree(pytestconfig.rootpath, tmp_path_factory.mktemp("tree") / "fastrnn", ignore=built))


@pytest.fixture(scope="module")
def sdist(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sdist")
    succeed(
        [sys.executable, "-c", f"from setuptools.build_meta import build_sdist; build_sdist({str(folder)!r})"], tree
    )
    (path,) = folder.iterdir()
    return path


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel that a machine with a compiler makes of the sdist."""
    folder = tmp_path_factory.mktemp("wheel")
    result = build_wheel(sdist, folder, FASTRNN_REQUIRE_KERNELS="1")
    assert result.returncode == 0, result.stdout + result.stderr
    (path,) = folder.iterdir()
    return path


@pytest.fixture
def environment(tmp_path: Path) -> Callable[..., Path]:
    """A function that installs something into a new environment and returns its Python.

    The environment sees this one's other packages, after its own: NumPy is not downloaded again.
    """

    def install(*what: str | Path, **environ: str) -> Path:
        folder = tmp_path / "environment"
        venv.create(folder, with_pip=False)
        python = folder / "bin" / "python"
        command = "import sysconfig; print(sysconfig.get_path('purelib'))"
        packages = Path(succeed([python, "-c", command], tmp_path).strip())
        (packages / "zz_outer.pth").write_text(f"{Path(np.__file__).parents[1]}\n")
        pip = [sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index"]
        succeed([*pip, "--no-build-isolation", *what], tmp_path, **environ)
        return python

    return install


def test_sdist_holds_the_sources(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = {
        "setup.py",
        "LICENSE",
        "README.md",
        "bench/limit_loops.h",
        "bench/loops.pyx",
        "bench/report.html.j2",
        "kernels/sequence.pyx",
        "kernels/c_kernels.pxd",
        "kernels/c/kernels.h",
    }
    wanted |= {
        ".ci/run",
        ".ci/quick.py",
        ".github/workflows/wheels.yml",
        "CHANGELOG.md",
        "docs/start.md",
        "examples/ddp.py",
    }
    wanted |= {"kernels/c/isa_baseline.c", "fastrnn/py.typed", "fastrnn/training/dinosaurs.txt", "tests/conftest.py"}
    assert wanted <= names
    assert not [name for name in names if name.endswith((".so", ".pyc", "build_failure.txt", "sequence.c"))]


def test_wheel_holds_every_module(wheel: Path, tree: Path) -> None:
    modules = {path.relative_to(tree).as_posix() for path in (tree / "fastrnn").rglob("*.py")}
    modules |= {
        f"fastrnn/{path.relative_to(tree)}" for name in ("kernels", "bench") for path in (tree / name).glob("*.py")
    }
    assert len(modules) > 100
    with zipfile.ZipFile(wheel) as archive:
        assert modules - set(archive.namelist()) == set()


def test_wheel_holds_the_package_alone(wheel: Path) -> None:
    assert wheel.stat().st_size < 3_000_000
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"fastrnn"}
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    wanted = {"__init__.py", "py.typed", "training/dinosaurs.txt", "cli/__init__.py", "kernels/__init__.py"}
    wanted |= {f"kernels/sequence{suffix}", "kernels/sequence.pyi", "kernels/numba_sequence.py"}
    wanted |= {f"bench/loops{suffix}", "bench/report.html.j2", "bench/cases.py"}
    assert {f"fastrnn/{name}" for name in wanted} <= set(names)
    sources = (".c", ".h", ".pyx", ".pxd", ".pyc", "build_failure.txt")
    assert not [name for name in names if name.endswith(sources)]


def test_installed_wheel_runs_on_the_kernels(wheel: Path, tree: Path, environment: Callable[..., Path]) -> None:
    python = environment(wheel)
    folder = python.parent
    path, *report = succeed([python, "-W", "error", "-c", WORKS], folder).splitlines()
    assert Path(path).is_relative_to(folder.parent)
    assert report[1].startswith("backend: cython (the first that runs here)")
    assert "No module named 'kernels'" in call([python, "-c", "import kernels"], folder).stderr

    # At the root of the source tree `python -m pytest` imports the tree, which has no kernels, and has to say so.
    hidden = call([python, "-m", "pytest", "--collect-only", "-p", "no:cacheprovider"], tree)
    assert hidden.returncode == pytest.ExitCode.USAGE_ERROR
    assert f"the source tree {tree} hides the installed fastrnn" in hidden.stderr
    slow = call([python, "-c", WORKS], tree)
    assert slow.returncode == 0
    assert slow.stderr.count("RuntimeWarning: fastrnn runs on ") == 1
    assert (
        f"{tree} is fastrnn's source tree, whose kernels are not built, and hides the installed package" in slow.stderr
    )


def test_without_a_compiler_the_package_works_and_says_why(
    sdist: Path, tmp_path: Path, environment: Callable[..., Path]
) -> None:
    python = environment(sdist, **NO_COMPILER)
    result = call([python, "-W", "error", "-W", "default::RuntimeWarning:__main__", "-c", WORKS], tmp_path)
    assert result.stderr.count("RuntimeWarning") == 1
    assert ", much slower than on its C kernels: backend 'cython' is not built: compiling" in result.stderr
    path, *report = result.stdout.splitlines()
    assert Path(path).is_relative_to(tmp_path)
    assert report[1].startswith(("backend: numba", "backend: numpy"))
    assert "cython  does not run: backend 'cython' is not built: compiling the C kernels failed" in report[2]
    assert "/bin/false" in report[2]
    chosen = call([python, "-c", "import fastrnn; fastrnn.use_backend('cython')"], tmp_path)
    assert "BackendError: backend 'cython' is not built: compiling the C kernels failed" in chosen.stderr


def test_editable_install(tree: Path, tmp_path: Path, environment: Callable[..., Path]) -> None:
    python = environment("-e", tree, **NO_COMPILER)
    path, *report = succeed([python, "-c", WORKS], tmp_path).splitlines()
    assert Path(path).is_relative_to(tree)
    assert "compiling the C kernels failed" in report[2]


def test_readme_commands_leave_python_in_the_clone_on_the_kernels(
    tree: Path, tmp_path: Path, environment: Callable[..., Path]
) -> None:
    """Python started in a clone imports it: whatever README installs from the clone has to put the kernels there."""
    commands = re.findall(r"pip install (.*)", (tree / "README.md").read_text("utf-8"))
    from_the_clone = [command for command in commands if re.search(r'"?\.\[', command)]
    assert len(from_the_clone) >= 2
    assert [command for command in from_the_clone if "-e " not in command] == []

    clone = shutil.copytree(tree, tmp_path / "clone")
    python = environment("-e", clone, FASTRNN_REQUIRE_KERNELS="1")
    path, *report = succeed([python, "-W", "error", "-c", WORKS], clone).splitlines()
    assert Path(path).is_relative_to(clone)
    assert report[1].startswith("backend: cython (the first that runs here)")


def test_failed_build_is_fatal_on_demand(sdist: Path, tmp_path: Path) -> None:
    result = build_wheel(sdist, tmp_path, FASTRNN_REQUIRE_KERNELS="1", **NO_COMPILER)
    assert result.returncode != 0
    assert "/bin/false" in result.stdout + result.stderr
    assert not list(tmp_path.iterdir())
