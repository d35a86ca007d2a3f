"""The scripts and the notebooks under docs/ run as they are, from an empty folder."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

pytestmark = pytest.mark.pages

DOCS = Path(__file__).resolve().parent.parent / "docs"
SCRIPTS = sorted((DOCS / "scripts").glob("*.py"))
NOTEBOOKS = sorted((DOCS / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_script_runs_and_is_short(
    script: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert len(script.read_text().splitlines()) <= 25
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])
    runpy.run_path(str(script), run_name="__main__")
    assert capsys.readouterr().out.strip()
    assert list(tmp_path.rglob("summary.json"))


def test_there_are_scripts_and_notebooks() -> None:
    assert len(SCRIPTS) == 3
    assert len(NOTEBOOKS) == 5


@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore")  # of Jupyter's own
@pytest.mark.parametrize("page", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs_and_draws(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a kernel of its own; runs and sweeps draw themselves, and the progress stays."""
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = nbformat.read(page, 4)
    nbformat.validate(notebook)
    place = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=100, resources=place).execute()
    shown = [
        str(output["data"].get("text/html", ""))
        for cell in notebook.cells
        for output in cell.get("outputs", ())
        if "data" in output
    ]
    assert any("<svg" in html for html in shown)
    assert any('<progress value="1.000"' in html for html in shown)
    assert not any(cell.get("outputs") for cell in nbformat.read(page, 4).cells)
