"""Every example that a user can read runs and prints what it says."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import re
import runpy
from pathlib import Path

import pytest

import fastrnn

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
EXAMPLES = [
    pytest.param(code, id=f"{page.relative_to(ROOT)}-{k}")
    for page in PAGES
    for k, code in enumerate(re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL), 1)
]
MODULES = [
    "fastrnn",
    *(m.name for m in pkgutil.walk_packages(fastrnn.__path__, "fastrnn.") if ".kernels" not in m.name),
]


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings(name: str) -> None:
    module = importlib.import_module(name)
    assert doctest.testmod(module).failed == 0


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Keras asks its own variables so
@pytest.mark.parametrize("code", EXAMPLES)
def test_examples_in_pages(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KERAS_BACKEND", "torch")  # an example sets it where it is not set, which would stay
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))  # where Keras writes its settings when it is imported
    script = tmp_path / "example.py"
    script.write_text(code)
    values = runpy.run_path(str(script)).values()
    origins = {str(getattr(value, "__module__", None) or getattr(value, "__name__", "")) for value in values}
    assert any(origin.startswith("fastrnn") for origin in origins), "the example runs, but not on fastrnn"


def test_readme_map_knows_every_file() -> None:
    tree = README.split("## Map")[1]
    for folder in (ROOT / "fastrnn", ROOT):
        for path in folder.iterdir():
            if path.suffix == ".py" and path.name != "__init__.py":
                assert path.name in tree, f"README's map does not know {path.relative_to(ROOT)}"
