"""Every example that a user can read runs and prints what it says."""

from __future__ import annotations

import doctest
import importlib
import importlib.util
import inspect
import pkgutil
import re
import runpy
from collections.abc import Iterator
from pathlib import Path

import pytest

import fastrnn
from fastrnn.bench.bars import INKS, draw_bars, first_rows
from fastrnn.bench.results import load, mean_ratio

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
EXAMPLES = [
    pytest.param(code, id=f"{page.relative_to(ROOT)}-{k}")
    for page in PAGES
    for k, code in enumerate(re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL), 1)
]


def modules(package: str) -> Iterator[str]:
    """Its modules and those of its packages, which need not be imported for it: Keras asks for a backend by then."""
    spec = importlib.util.find_spec(package)
    assert spec is not None
    yield package
    for module in pkgutil.iter_modules(spec.submodule_search_locations, f"{package}."):
        if module.ispkg and module.name != "fastrnn.kernels":
            yield from modules(module.name)
        elif module.name not in ("fastrnn.keras.on_jax", "fastrnn.keras.on_tensorflow", "fastrnn.kernels"):
            yield module.name


MODULES = list(modules("fastrnn"))


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings(request: pytest.FixtureRequest, name: str) -> None:
    if name.startswith("fastrnn.keras"):
        request.getfixturevalue("keras")
    if name.startswith("fastrnn.sklearn"):
        request.getfixturevalue("sklearn")
    module = importlib.import_module(name)
    assert doctest.testmod(module).failed == 0


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Keras asks its own variables so
@pytest.mark.parametrize("code", EXAMPLES)
def test_examples_in_pages(
    request: pytest.FixtureRequest, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "fastrnn.sklearn" in code:
        request.getfixturevalue("sklearn")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KERAS_BACKEND", "torch")  # an example sets it where it is not set, which would stay
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))  # where Keras writes its settings when it is imported
    script = tmp_path / "example.py"
    script.write_text(code)
    values = runpy.run_path(str(script)).values()
    origins = {str(getattr(value, "__module__", None) or getattr(value, "__name__", "")) for value in values}
    assert any(origin.startswith("fastrnn") for origin in origins), "the example runs, but not on fastrnn"


def test_the_first_example_prints_what_readme_says(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, told = re.search(r"```python\n(.*?)```\n\n```text\n(.*?)```", README, re.DOTALL).groups()  # type: ignore[union-attr]
    script = tmp_path / "example.py"
    script.write_text(code)
    runpy.run_path(str(script))
    printed, said = ([line.rsplit(" ", 1) for line in text.splitlines()] for text in (capsys.readouterr().out, told))
    assert [line[0] for line in printed] == [line[0] for line in said]
    figures = [[float(line[1]) for line in lines] for lines in (printed, said)]
    assert figures[0] == pytest.approx(figures[1], rel=0.1)  # another instruction set rounds otherwise
    assert code in (ROOT / "docs" / "index.md").read_text()


def test_readmes_figures_are_those_of_the_results() -> None:
    results = load(ROOT / "bench" / "results" / f"{fastrnn.__version__}.json")
    said = re.findall(r"^\| (LSTM|GRU|RNN) \|(.*)\|$", README, re.MULTILINE)
    for cell, figures in said:
        tables = [[row for row in rows if row.case.cell == cell.lower()] for _, _, rows in results.tables()]
        assert figures.split("|") == [
            f" {mean_ratio(rows):.2f} ({min(row.ratio for row in rows if row.counts):.2f}) " for rows in tables
        ]
    assert len(said) == 3
    for ink in INKS:
        picture = ROOT / "docs" / "gallery" / f"speed{ink}.svg"
        assert picture.read_text() == draw_bars(first_rows(results), ink)
    times = [time for row in first_rows(results) for time in map(row.seconds, ("cython", "torch", "jax", "numpy"))]
    alt = re.search(r'alt="(.*)"', README)
    assert alt
    assert [float(figure) for figure in re.findall(r" (\d+\.\d+)", alt[1])] == pytest.approx(
        [1000 * time for time in times], rel=0.005
    )


def test_links_in_readme_lead_somewhere() -> None:
    links = re.findall(r'[^"]\]\(([\w./]+)\)', README) + re.findall(r'(?:src|srcset)="([^"]+)"', README)
    assert len(links) > 10
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_readme_map_knows_every_file() -> None:
    tree = README.split("## Map")[1]
    for folder in (ROOT / "fastrnn", ROOT):
        for path in folder.iterdir():
            if path.suffix == ".py" and path.name != "__init__.py":
                assert path.name in tree, f"README's map does not know {path.relative_to(ROOT)}"


@pytest.mark.parametrize("name", MODULES)
def test_no_property_has_a_sentence_for_a_type(request: pytest.FixtureRequest, name: str) -> None:
    """Napoleon takes what stands before a colon in a property's first line for its type."""
    if name.startswith("fastrnn.sklearn"):
        request.getfixturevalue("sklearn")
    classes = [value for value in vars(importlib.import_module(name)).values() if inspect.isclass(value)]
    properties = [p for cls in classes if cls.__module__ == name for p in vars(cls).values() if isinstance(p, property)]
    assert [p.__doc__ for p in properties if re.match(r"[^\n`]*: ", p.__doc__ or "")] == []
