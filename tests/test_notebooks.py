"""The notebooks in examples/notebooks run from top to bottom and hold what they printed."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from problems import clean_environ
from watched import run_watched

NOTEBOOKS = sorted((Path(__file__).resolve().parents[1] / "examples" / "notebooks").glob("*.ipynb"))


def cells(notebook: Path) -> list[dict[str, object]]:
    return [cell for cell in json.loads(notebook.read_text("utf-8"))["cells"] if cell["cell_type"] == "code"]


def test_there_is_one_for_each_source() -> None:
    assert [notebook.stem for notebook in NOTEBOOKS] == ["blog", "characters", "counting", "course"]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_cell_has_run_in_order_without_an_error(notebook: Path) -> None:
    assert [cell["execution_count"] for cell in cells(notebook)] == list(range(1, len(cells(notebook)) + 1))
    assert '"output_type": "error"' not in notebook.read_text("utf-8")
    assert "site-packages" not in notebook.read_text("utf-8")


@pytest.mark.long  # they train for up to half a minute
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_run(notebook: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the notebooks draw with matplotlib")
    script = tmp_path / "notebook.py"
    script.write_text("\n".join("".join(cell["source"]) for cell in cells(notebook)), "utf-8")
    environ = clean_environ() | {"MPLBACKEND": "agg"}
    command = [sys.executable, "-W", "error", "-W", "ignore:FigureCanvasAgg", str(script)]
    done = run_watched(command, 600, cwd=tmp_path, env=environ)
    assert done.returncode == 0, done.stderr
