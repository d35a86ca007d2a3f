"""Folders and files of any name: what is in a path is never read as anything else."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import networkx as nx
import pytest

import decentral.cli
from decentral.config import read_file

SMALL = [
    "task=quadratic",
    "nodes=4",
    "steps=6",
    "checkpoint_every=3",
    "communication=constant",
]
PLUGIN = """import networkx as nx

def mine(n, /, *, k: int = 2):
    return nx.circulant_graph(n, [1, k])
"""


def final(run: Path) -> dict[str, float]:
    found = json.loads((run / "summary.json").read_text())
    assert found["status"] == "finished"
    return found["final"]


@pytest.mark.parametrize(
    ("name", "file", "k"),
    [
        ("job (2)", "plug.py:mine", 2),
        ("job (2)", "Abilene (1).graphml", None),
        ("a, b=c [1] #3 & 'd'", "plug.py:mine(k=1)", 1),
    ],
)
def test_a_run_below_any_folder_is_launched_resumed_and_launched_again(
    name: str,
    file: str,
    k: int | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = Path(name)
    folder.mkdir()
    nx.write_graphml(nx.cycle_graph(4), folder / "Abilene (1).graphml")
    (folder / "plug.py").write_text(PLUGIN)

    def command(*words: str) -> None:
        assert decentral.cli.run(words) == 0, capsys.readouterr().err

    out, again = folder / "run", folder / "again"
    command("launch", "--topology", f"{name}/{file}", *SMALL, f"out={out}")
    written = read_file(out / "config.yaml")["topology"]
    assert written["name"].startswith(str(tmp_path / name))
    assert written.get("k") == k
    ends = [final(out)]
    (out / "summary.json").unlink()
    shutil.rmtree(out / "checkpoints" / "step-000000006")
    command("resume", str(out))
    command("launch", f"{out}/config.yaml", "--out", str(again))
    ends += [final(out), final(again)]
    assert ends == ends[:1] * 3


@pytest.mark.parametrize("file", ["plug.py:mine(k=1)", "Abilene (1).graphml"])
def test_a_project_moves_with_its_run(
    file: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Files that lay beside a run are found beside it, wherever both are now."""
    old, new = tmp_path / "old & [1]", tmp_path / "else where" / "new"
    old.mkdir()
    nx.write_graphml(nx.cycle_graph(4), old / "Abilene (1).graphml")
    (old / "plug.py").write_text("from helper import mine\n")
    (old / "helper.py").write_text(PLUGIN)

    def command(*words: str) -> None:
        assert decentral.cli.run(words) == 0, capsys.readouterr().err

    monkeypatch.chdir(old)
    command("launch", "--topology", file, *SMALL, "out=runs/a")
    before = final(old / "runs" / "a")
    monkeypatch.chdir(tmp_path)
    new.parent.mkdir()
    old.rename(new)
    run = (new / "runs" / "a").rename(new / "runs" / "renamed, 2")
    (run / "summary.json").unlink()
    shutil.rmtree(run / "checkpoints" / "step-000000006")
    command("resume", str(run))
    command("check", str(run))
    command("launch", f"{run}/config.yaml", "--out", "again")
    assert final(run) == final(Path("again")) == before
