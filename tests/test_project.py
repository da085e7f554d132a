"""What the project says of itself holds together: its version, its files, its reference of public names."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path

import pytest

import fastrnn

ROOT = Path(__file__).resolve().parents[1]
API = "\n".join(page.read_text() for page in sorted((ROOT / "docs" / "api").glob("*.md")))
PUBLIC = ["fastrnn", "fastrnn.errors", "fastrnn.training", "fastrnn.training.plots", "fastrnn.scratch"]
PUBLIC += [
    "fastrnn.scratch.anbn",
    "fastrnn.scratch.blog",
    "fastrnn.scratch.course",
    "fastrnn.distributed",
    "fastrnn.torch",
    "fastrnn.jax",
    "fastrnn.keras",
    "fastrnn.onnx",
    "fastrnn.sklearn",
    "fastrnn.demos",
    "fastrnn.cells",
    "fastrnn.reference",
]
SCRIPTS = sorted(path.name for path in (ROOT / ".ci").iterdir() if path.suffix == "" and path.is_file())


def described(module: str) -> tuple[set[str], bool]:
    """What the API reference describes of a module: these names, and whether all that has a docstring besides."""
    named = set(re.findall(rf"^\.\. auto(?:class|function|data|exception):: {re.escape(module)}\.(\w+)$", API, re.M))
    block = re.search(rf"^\.\. automodule:: {re.escape(module)}\n((?:   :.*\n)*)", API, re.M)
    return named, block is not None and ":members:" in block[1]


@pytest.mark.parametrize("module", PUBLIC)
def test_api_reference_has_every_public_name(request: pytest.FixtureRequest, module: str) -> None:
    if module == "fastrnn.keras":
        request.getfixturevalue("keras")  # on a backend that is installed
    if module == "fastrnn.sklearn":
        request.getfixturevalue("sklearn")
    found = importlib.import_module(module)
    named, whole = described(module)
    for name in found.__all__:
        value = getattr(found, name)
        if inspect.ismodule(value):
            assert described(value.__name__)[1], f"docs/api does not describe the module {value.__name__}"
        elif name not in named:
            assert whole, f"docs/api does not describe {module}.{name}"
            # Autodoc leaves out what has no docstring of its own.
            documented = not callable(value) or value.__doc__
            assert documented, f"{module}.{name} has no docstring, so that docs/api leaves it out"


def test_public_packages_are_all_of_them() -> None:
    packages = {f"fastrnn.{path.parent.name}" for path in (ROOT / "fastrnn").glob("*/__init__.py")}
    assert packages - {"fastrnn.cli", "fastrnn.kernels", "fastrnn.bench"} <= set(PUBLIC)


def test_version_has_one_source() -> None:
    (version,) = re.findall(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.M)
    assert fastrnn.__version__ == version
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"\n## [{version}]" in (ROOT / "CHANGELOG.md").read_text()


def test_workflows_call_scripts_that_exist() -> None:
    texts = [path.read_text() for path in (ROOT / ".github" / "workflows").glob("*.yml")]
    called = {name for text in texts for name in re.findall(r"\.ci/([\w-]+(?:\.py)?)", text)}
    assert called
    for name in called:
        assert (ROOT / ".ci" / name).exists(), name
    for text in texts:
        assert "\npermissions: {}\n" in text
        for action in re.findall(r"uses: (\S+)", text):
            assert action.startswith("./") or re.search(r"@[0-9a-f]{40}$", action), f"{action} is not pinned"
