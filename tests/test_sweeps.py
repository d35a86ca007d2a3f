"""Sweeps: every point once, whatever it is called; what failed is said; what is done stays done."""

from __future__ import annotations

import csv
import json
import os
import statistics
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import decentral.cli
from decentral.config import make_config
from decentral.errors import ConfigError, Interrupted
from decentral.report.reader import read_run
from decentral.run.lock import WriterLock
from decentral.sweeps import read_sweep, run_point, run_points
from decentral.sweeps.points import _pieces, digest

BASE = ["task=quadratic", "nodes=4", "steps=8", "threads=1"]
Captured = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    return tmp_path


def sweep(capsys: Captured, *words: str, status: int = 0) -> tuple[str, str]:
    own = {word.partition("=")[0] for word in words}
    base = [word for word in BASE if word.partition("=")[0] not in own]
    found = decentral.cli.run(["sweep", *base, *words])
    said = capsys.readouterr()
    assert found == status, said.err
    assert all(
        len(line.rstrip()) <= 80 for line in said.out.splitlines() if "failed" not in line
    )
    return said.out, said.err


def runs(folder: Path) -> dict[str, float]:
    """Return when each run of a sweep was finished."""
    return {p.parent.name: p.stat().st_mtime for p in folder.glob("*/summary.json")}


# --- points ---------------------------------------------------------------------------------------


plain = st.from_regex(r"[a-z0-9=.%]{1,6}", fullmatch=True)
nested = st.builds(lambda a, b: f"late({a}, [{b},x])", plain, plain)


@given(
    st.lists(plain | nested, min_size=1, max_size=5).filter(
        lambda p: ".." not in ",".join(p)
    )
)
def test_values_are_split_at_commas_outside_of_brackets(pieces: list[str]) -> None:
    assert _pieces(",".join(pieces)) == pieces


@pytest.mark.parametrize(
    "axis",
    ["learning_rate: [1e-3, 1e-2]", "learning_rate: 1e-3,1e-2", "lr: ['1e-3', 0.01]"],
)
def test_numbers_of_a_sweep_are_the_same_in_yaml_and_on_the_line(
    folder: Path, axis: str
) -> None:
    (folder / "sweep.yaml").write_text(f"sweep:\n  {axis}\n")
    written = read_sweep("sweep.yaml", [], {}).points
    said = read_sweep(None, ["learning_rate=1e-3,1e-2"], {}).points
    assert [point.digest for point in written] == [point.digest for point in said]
    assert [point.config.learning_rate["lr"] for point in said] == [0.001, 0.01]


def test_a_range_counts_whole_numbers() -> None:
    assert _pieces("8..1e1") == ["8", "9", "10"]
    for text in ("1e-3..1e-1", "3..0", "0.5..2"):
        with pytest.raises(ConfigError, match=r"is no range: .* list other values"):
            read_sweep(None, [f"learning_rate={text}"], {})


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ({"communication": "late"}, {"communication": "late(start=90%)"}, True),
        (
            {"communication": "late"},
            {"communication": {"name": "late", "start": 0.9}},
            True,
        ),
        ({"nodes": 16}, {}, True),
        ({"out": "here", "engine": {"workers": 2}}, {"engine": "local"}, True),
        ({"engine": "ray(wire=bfloat16)"}, {}, False),
        (
            {"learning_rate": 0.1},
            {"learning_rate": {"name": "constant", "lr": 0.1}},
            True,
        ),
        ({"communication": "late(start=80%)"}, {"communication": "late"}, False),
        ({"seed": 1}, {"seed": 2}, False),
        ({"topology": "ring"}, {"topology": "star"}, False),
    ],
)
def test_equal_points_have_equal_digests_and_only_they(
    one: dict[str, object], other: dict[str, object], same: bool
) -> None:
    assert (digest(make_config(one)) == digest(make_config(other))) == same


def test_another_content_of_a_plugin_file_is_another_point(folder: Path) -> None:
    def point(text: str, name: str) -> str:
        (folder / name).write_text(f"import networkx as nx\ndef mine(n): return {text}\n")
        return digest(make_config({"topology": f"{name}:mine"}))

    kept = point("nx.cycle_graph(n)", "a.py")
    assert point("nx.cycle_graph(n)", "a.py") == kept
    assert point("nx.path_graph(n)", "a.py") != kept


def test_another_content_of_what_a_plugin_file_imports_is_another_point(
    folder: Path,
) -> None:
    (folder / "a.py").write_text("import helpers\ndef mine(n): return helpers.graph(n)\n")
    digests: set[str] = set()
    for graph in ("cycle", "path", "cycle"):
        (folder / "helpers.py").write_text(
            f"import networkx as nx\ndef graph(n): return nx.{graph}_graph(n)\n"
        )
        digests.add(digest(make_config({"topology": "a.py:mine"})))
    assert len(digests) == 2


def test_axes_of_a_file_have_labels_and_the_line_wins(folder: Path) -> None:
    (folder / "s.yaml").write_text(
        "nodes: 4\nsweep:\n  communication: {a: late, b: none}\n  seed: [0, 1]\n  lr: 0.1,0.2\n"
    )
    found = read_sweep("s.yaml", ["seed=0..2", "lr=0.3"], {})
    assert found.axes == ("communication", "seed")
    assert len(found.points) == 6
    assert {point.labels["communication"] for point in found.points} == {"a", "b"}
    assert {point.config.learning_rate["lr"] for point in found.points} == {0.3}


# --- running --------------------------------------------------------------------------------------


def test_a_sweep_is_a_table_with_mean_and_spread_and_a_page(
    capsys: Captured, folder: Path
) -> None:
    said, _ = sweep(capsys, "topology=ring,star", "seed=0,1", "--out", "s")
    assert "4 runs: 2 topology × 2 seed" in said
    done = [read_run(path) for path in sorted((folder / "s").glob("ring-*"))]
    merged = [run.number("final.loss/merged") for run in done]
    assert len(merged) == 2
    mean, spread = statistics.fmean(merged), statistics.stdev(merged)  # pyright: ignore
    row = next(line for line in said.splitlines() if line.startswith("ring "))
    assert f"{mean:.4f} ± {spread:.4f}" in row
    assert (folder / "s" / "sweep.png").stat().st_size > 5000
    page = (folder / "s" / "sweep.html").read_text()
    assert "± " in page
    assert "<svg" in page
    rows = list(csv.DictReader((folder / "s" / "results.csv").read_text().splitlines()))
    assert [(row["topology"], row["seed"]) for row in rows] == [
        ("ring", "0"), ("ring", "1"), ("star", "0"), ("star", "1")
    ]  # fmt: skip


def test_no_point_runs_twice_within_or_between_sweeps(
    capsys: Captured, folder: Path
) -> None:
    said, _ = sweep(capsys, "schedule=late,late(start=90%),none", "--out", "s")
    assert "1 more are the same as others" in said
    before = runs(folder / "s")
    assert len(before) == 2
    said, _ = sweep(capsys, "schedule=late(start=0.9),none", "seed=0,1", "--out", "s")
    assert "2 of them finished before" in said
    after = runs(folder / "s")
    assert len(after) == 4
    assert before.items() <= after.items()


def test_a_failed_point_is_named_and_the_others_go_on(
    capsys: Captured, folder: Path
) -> None:
    said, error = sweep(
        capsys, "topology=hypercube,ring", "nodes=3", "--out", "s", status=1
    )
    assert (
        "topology=hypercube  failed: topology 'hypercube' needs a number of nodes" in said
    )
    assert "1 run of 2 failed, the first in topology=hypercube" in error
    assert len(runs(folder / "s")) == 1
    assert "Failed" in (folder / "s" / "sweep.html").read_text()


def test_a_point_that_was_killed_goes_on_from_its_checkpoint(
    capsys: Captured, folder: Path
) -> None:
    point = read_sweep(None, [*BASE, "seed=3,4", "checkpoint_every=2"], {}).points[0]
    whole = folder / "whole"
    assert run_point(point, whole, lambda row: None).state == "done"
    part = folder / "part"
    assert run_point(point, part, _stop_at(5)).state == "failed"
    assert run_point(point, part, lambda row: None).state == "done"
    path = point.folder(part)
    lines = (path / "events.jsonl").read_text().splitlines()
    events = [json.loads(line)["event"] for line in lines]
    assert "resume" in events
    name = "merged.safetensors"
    assert (path / name).read_bytes() == (point.folder(whole) / name).read_bytes()
    assert run_point(point, part, lambda row: None).state == "before"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_a_lock_that_a_killed_run_left_goes_and_one_in_use_stays(folder: Path) -> None:
    points = read_sweep(None, [*BASE, "seed=3,4"], {}).points
    for point in points:
        (path := point.folder(folder)).mkdir(parents=True)
        (path / "summary.json").touch()
    left, used = (point.folder(folder) for point in points)
    if (child := os.fork()) == 0:
        with WriterLock(left):
            os._exit(0)
    os.waitpid(child, 0)
    assert (left / ".lock").exists()
    with WriterLock(used):
        outcomes = dict(run_points(points, folder, lambda places: None))
        assert [one.state for one in outcomes.values()] == ["before", "before"]
        assert (used / ".lock").exists()
    assert not (left / ".lock").exists()


def _stop_at(step: int) -> Callable[[dict[str, object]], None]:
    def watch(row: dict[str, object]) -> None:
        if row["step"] == step:
            raise RuntimeError("pulled the plug")

    return watch


def test_ctrl_c_ends_the_sweep_and_is_no_failure(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    point = read_sweep(None, [*BASE, "seed=0,1"], {}).points[0]

    def interrupted(*given: object) -> None:
        raise Interrupted("stop")

    monkeypatch.setattr("decentral.engines.base.EngineRun.run", interrupted)
    with pytest.raises(Interrupted):
        run_point(point, folder, lambda row: None)
