"""Folders and files of any name: what is in a path is never read as anything else."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import networkx as nx
import pytest

import decentral.cli
from decentral.config import read_file
from decentral.errors import ConfigError
from decentral.sweeps import read_sweep

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


CONFIG = """\
task: {name: text, path: words, context: 8}
model: gpt(layers=1, width=8, heads=1)
nodes: 4
steps: 4
checkpoint_every: 2
topology: Abilene (1).graphml
schedule: every(k=1, schedule=plug.py:always)
"""
ALWAYS = "\ndef always(progress, feedback):\n    return 1.0\n"


def test_paths_in_a_configuration_begin_at_its_own_folder(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Plug-ins, graphs and data; and they are found again, moved with the run or alone."""
    home = tmp_path / "mine (1), a=b"
    (home / "words").mkdir(parents=True)
    (home / "words" / "a.txt").write_text("some words of a kind\n" * 3000)
    nx.write_graphml(nx.cycle_graph(4), home / "Abilene (1).graphml")
    (home / "plug.py").write_text(PLUGIN + ALWAYS)
    (home / "a.yaml").write_text(CONFIG)
    (tmp_path / "plug.py").write_text("raise RuntimeError('not this one')\n")
    monkeypatch.chdir(tmp_path)

    def command(*words: str, status: int = 0) -> str:
        found = decentral.cli.run(words)
        said = capsys.readouterr().err
        assert found == status, said
        return said

    def cut(run: Path) -> None:
        (run / "summary.json").unlink()
        shutil.rmtree(run / "checkpoints" / "step-000000004")

    command("check", f"{home.name}/a.yaml")
    command("launch", f"{home.name}/a.yaml", "--out", f"{home.name}/run", "--quiet")
    before = final(home / "run")
    assert read_file(home / "run" / "config.yaml")["task"]["path"] == str(home / "words")
    moved = home.rename(tmp_path / "moved [2]")
    cut(moved / "run")
    command("resume", str(moved / "run"), "--quiet")
    command("launch", f"{moved}/run/config.yaml", "--out", "again", "--quiet")
    assert final(moved / "run") == final(Path("again")) == before

    (moved / "words").rename(tmp_path / "elsewhere")
    cut(moved / "run")
    said = command("resume", str(moved / "run"), status=2)
    assert "/words: there is no such file or folder" in said
    assert "decentral resume RUN --change task.path=PATH" in said
    command("resume", str(moved / "run"), "--change", "task.path=elsewhere", "--quiet")
    assert final(moved / "run") == before
    kept = read_file(moved / "run" / "config.yaml")["task"]["path"]
    assert kept == str(tmp_path / "elsewhere")


def test_axes_of_a_sweep_begin_at_its_own_folder_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "plug.py").write_text(PLUGIN)
    (tmp_path / "deep" / "a.yaml").write_text(
        "task: quadratic\nnodes: 4\nsteps: 4\n"
        "sweep: {topology: ['plug.py:mine(k=1)', 'plug.py:mine', ring]}\n"
    )
    monkeypatch.chdir(tmp_path)
    assert len(read_sweep("deep/a.yaml", [], {}).points) == 3
    (tmp_path / "deep" / "plug.py").rename(tmp_path / "plug.py")
    with pytest.raises(ConfigError, match=r"its own folder, so write \.\./plug\.py"):
        read_sweep("deep/a.yaml", [], {})


@pytest.mark.parametrize("name", ["plug.py", "plug (1), a='q [z].py"])
def test_plug_ins_of_lists_are_found_from_any_folder(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "job (2)"
    folder.mkdir()
    (folder / name).write_text(
        "from decentral import plugin\n"
        '@plugin("metric")\ndef mine(snapshot):\n    """Count."""\n    return {"mine/n": 1.0}\n'
    )
    monkeypatch.chdir(folder)
    words = [f'metrics=[consensus, "{name}:mine"]', *SMALL, "out=a"]
    assert decentral.cli.run(["launch", *words]) == 0
    monkeypatch.chdir(tmp_path)
    (folder / "a" / "summary.json").unlink()
    shutil.rmtree(folder / "a" / "checkpoints" / "step-000000006")
    assert decentral.cli.run(["resume", str(folder / "a")]) == 0


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
    command("check", str(run))  # before anything else has found them
    (run / "summary.json").unlink()
    shutil.rmtree(run / "checkpoints" / "step-000000006")
    command("resume", str(run))
    command("check", str(run))
    command("launch", f"{run}/config.yaml", "--out", "again")
    assert final(run) == final(Path("again")) == before
