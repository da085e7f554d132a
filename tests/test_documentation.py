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
MODULES = [
    "fastrnn",
    *(m.name for m in pkgutil.walk_packages(fastrnn.__path__, "fastrnn.") if ".kernels" not in m.name),
]


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings(name: str) -> None:
    module = importlib.import_module(name)
    assert doctest.testmod(module).failed == 0


@pytest.mark.parametrize("code", re.findall(r"```python\n(.*?)```", README, re.DOTALL))
def test_examples_in_readme(code: str, tmp_path: Path) -> None:
    script = tmp_path / "readme.py"
    script.write_text(code)
    assert "fastrnn" in runpy.run_path(str(script))


def test_readme_map_knows_every_file() -> None:
    tree = README.split("## Map")[1]
    for folder in (ROOT / "fastrnn", ROOT):
        for path in folder.iterdir():
            if path.suffix == ".py" and path.name != "__init__.py":
                assert path.name in tree, f"README's map does not know {path.relative_to(ROOT)}"
