"""Folders and files of any name: what is in a path is never read as anything else."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import networkx as nx
import pytest

import decentral.cli
from decentral.config import read_file

SMALL = ["task=quadratic", "nodes=4", "steps=6", "checkpoint_every=3", "communication=constant"]
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
