"""A command that a queue starts again at any moment: ``decentral launch --resume``."""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
from support import blobs, load_checkpoint

import decentral.cli
from decentral import ConfigError, api
from decentral.api.launching import Watch
from decentral.config import make_config
from decentral.loop.measure import Evaluator

SETTINGS: dict[str, Any] = {
    "task": "quadratic", "nodes": 4, "steps": 12, "local_steps": 2, "threads": 1,
    "checkpoint_every": 3, "log_every": 1, "communication": "late(start=50%)",
}  # fmt: skip


class Killed(BaseException):
    """Stands for a process that is gone."""


def words(**changes: Any) -> list[str]:
    return [
        "launch",
        *(f"{key}={value}" for key, value in (SETTINGS | changes).items()),
        "-q",
    ]


def unseen(row: dict[str, Any]) -> None:
    """Watch nothing."""


def launched(folder: Path, watch: Watch = unseen, **changes: Any) -> api.Run:
    """Launch, and draw no report."""
    run = api.start_or_resume(make_config(SETTINGS | changes | {"out": str(folder)}))
    assert run is not None
    run.run(watch)
    return api.Run(folder)


def killed(folder: Path, step: int, **changes: Any) -> None:
    """Launch, and die when a row of that step is shown."""

    def watch(row: dict[str, Any]) -> None:
        if row["step"] == step:
            raise Killed

    with pytest.raises(Killed):
        launched(folder, watch, **changes)


def merged(folder: Path) -> bytes:
    return (folder / "merged.safetensors").read_bytes()


def events(folder: Path) -> list[str]:
    lines = (folder / "events.jsonl").read_text().splitlines()
    return [json.loads(line)["event"] for line in lines]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    api.launch(**SETTINGS, out=str(folder))
    return folder


@pytest.mark.parametrize(
    "there", ["nothing", "a folder", "what a kill has left", "a log"]
)
def test_it_begins_where_there_is_no_run(
    there: str, tmp_path: Path, undisturbed: Path
) -> None:
    folder = tmp_path / "run"
    if there != "nothing":
        folder.mkdir()
    if there == "what a kill has left":
        (folder / "checkpoints").mkdir()
        (folder / ".config.yaml.tmp").write_text("task: qua")
    if there == "a log":
        (folder / "17.log").write_text("the queue's own")
    launched(folder)
    assert merged(folder) == merged(undisturbed)
    assert events(folder) == events(undisturbed)


def test_it_goes_on_until_the_run_is_finished_and_then_says_so(
    tmp_path: Path, undisturbed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    for step in (0, 1, 8):
        killed(folder, step)
    assert load_checkpoint(folder).step == 6
    assert decentral.cli.run([*words(), "--out", str(folder), "--resume"]) == 0
    assert merged(folder) == merged(undisturbed)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    capsys.readouterr()
    assert (
        decentral.cli.run([*words()[:-1], "--out", str(folder), "--resume", "--json"])
        == 0
    )
    said = capsys.readouterr()
    assert (
        said.err == f"run {folder} is finished; `decentral report {folder}` shows it.\n"
    )
    assert json.loads(said.out)["status"] == "finished"
    assert api.launch(**SETTINGS, out=str(folder), resume=True).summary["steps"] == 12
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    assert events(folder) == ["start", "resume", "resume", "resume", "merge", "finished"]
    steps = [
        [row["step"] for row in api.Run(path).rows] for path in (folder, undisturbed)
    ]
    assert steps[0] == steps[1]


def test_fewer_samples_of_a_short_run_are_no_other_configuration(tmp_path: Path) -> None:
    """A run decides how many samples its evaluations look at along with their interval."""
    short = {**SETTINGS, "eval_every": "auto", "eval_samples": 64, "out": str(tmp_path)}
    first = api.launch(**short, resume=True)
    assert first.config().eval_samples < 64
    assert api.start_or_resume(make_config(short)) is None


@pytest.mark.parametrize("left", ["unfinished", "finished"])
@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"seed": 3}, "seed: 0 there, 3 here"),
        ({"steps": 24, "nodes": 5}, "nodes: 4 there, 5 here; steps: 12 there, 24 here"),
        ({"optimizer": "adamw"}, "(optimizer.name: sgd there, adamw here)"),
        (
            {"communication": "late(start=75%)"},
            "communication.start: 50% there, 75% here",
        ),
        ({"attack": "noise(nodes=[1])"}, "(attack.name: none there, noise here)"),
        ({"clip": 1.0}, "clip: none there, 1.0 here"),
    ],
)
def test_a_run_of_another_configuration_is_left_alone(
    changes: dict[str, Any], named: str, left: str, tmp_path: Path, undisturbed: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(undisturbed, folder)
    if left == "unfinished":
        (folder / "summary.json").unlink()
    before = {
        path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()
    }
    with pytest.raises(ConfigError, match="of another configuration") as refused:
        launched(folder, **changes)
    assert named in str(refused.value)
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()} == before


def test_what_says_where_it_runs_and_how_often_it_is_kept_may_differ(
    tmp_path: Path, undisturbed: Path
) -> None:
    folder = tmp_path / "run"
    killed(folder, 8)
    launched(folder, engine="local", checkpoint_every=5, keep_checkpoints=9)
    assert merged(folder) == merged(undisturbed)


def test_what_the_run_has_decided_counts_where_it_is_left_open(tmp_path: Path) -> None:
    """On another host another choice might be faster; it would give other bits."""
    folder = tmp_path / "run"
    killed(folder, 8, replicas="vmap", eval_every=4)
    run = api.start_or_resume(make_config(SETTINGS | {"out": str(folder)}))
    assert run is not None
    with run.folder:
        assert (run.step, run.replicas, run.setup.config.eval_every) == (6, "vmap", 4)


def test_parts_from_python_are_given_again(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    own: dict[str, Any] = {"task": blobs(), "model": "mlp(hidden=[4])"}
    killed(folder, 8, **own)
    assert launched(folder, **own).summary["status"] == "finished"


def test_it_needs_a_folder() -> None:
    with pytest.raises(ConfigError, match="by --out FOLDER"):
        api.launch(**SETTINGS, resume=True)


# --- the first checkpoint -------------------------------------------------------------------------


def test_the_first_checkpoint_is_there_before_the_first_evaluation(
    tmp_path: Path, undisturbed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"

    def die(self: Evaluator, complete: bool) -> dict[str, float]:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Evaluator, "__call__", die)
        for _ in range(2):
            with pytest.raises(Killed):
                launched(folder)
    assert load_checkpoint(folder).step == 0
    assert not (folder / "metrics.jsonl").exists()
    run = launched(folder)
    assert merged(folder) == merged(undisturbed)
    rows, wanted = run.rows, api.Run(undisturbed).rows
    assert [row["step"] for row in rows] == [row["step"] for row in wanted]
    assert rows[-1]["comm/measure_bytes"] == wanted[-1]["comm/measure_bytes"]


def test_a_run_stopped_in_its_first_evaluation_makes_it_again(
    tmp_path: Path, undisturbed: Path
) -> None:
    folder = tmp_path / "run"
    run = api.start_or_resume(make_config(SETTINGS | {"out": str(folder)}))
    assert run is not None
    run.stopping = threading.Event()
    run.stopping.set()
    with pytest.raises(
        decentral.RunError, match="interrupted at step 0; everything is saved"
    ):
        run.run(lambda row: None)
    assert load_checkpoint(folder).step == 0
    assert launched(folder).rows[0]["step"] == 0
    assert merged(folder) == merged(undisturbed)
