"""What a resume means: the same run, or one that says what has changed."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support import load_checkpoint

import decentral.cli
from decentral import ConfigError, api
from decentral.config import make_config
from decentral.engines.base import EngineRun
from decentral.registry import build
from decentral.run.digests import named_files
from decentral.schedules.progress import Past, step_timeline
from decentral.sweeps import read_sweep

SETTINGS: dict[str, Any] = {
    "task": "quadratic", "nodes": 4, "steps": 12, "local_steps": 2, "threads": 1, "batch": 4,
    "checkpoint_every": 4, "log_every": 1, "communication": "late(start=50%)",
}  # fmt: skip


class Killed(BaseException):
    """Stands for a process that is gone."""


def unseen(row: dict[str, Any]) -> None:
    """Watch nothing."""


def killed(folder: Path, step: int, **changes: Any) -> Path:
    """Launch, and die when a row of that step is shown."""

    def watch(row: dict[str, Any]) -> None:
        if row["step"] == step:
            raise Killed

    less = {"steps"} if "data" in changes else set()
    settings = {key: value for key, value in SETTINGS.items() if key not in less}
    run = api.start(make_config(settings | changes | {"out": str(folder)}))
    with pytest.raises(Killed):
        run.run(watch)
    return folder


def resumed(folder: Path, change: dict[str, Any] | None = None) -> EngineRun:
    run = api.restart(folder, change=change)
    run.run(unseen)
    return run


def edit(folder: Path, old: str, new: str) -> None:
    config = folder / "config.yaml"
    text = config.read_text()
    assert text.count(old) == 1, old
    config.write_text(text.replace(old, new))


def events(folder: Path, kind: str) -> list[dict[str, Any]]:
    lines = (folder / "events.jsonl").read_text().splitlines()
    return [event for event in map(json.loads, lines) if event["event"] == kind]


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was killed at step 10 and saved at step 8."""
    return killed(tmp_path_factory.mktemp("stopped") / "run", 10)


@pytest.fixture
def copy(stopped: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(stopped, tmp_path / "run"))


# --- edited configurations ------------------------------------------------------------------------

EDITS = {
    "seed": ("\nseed: 0", "\nseed: 1"),
    "topology": ("name: ring", "name: star"),
    "learning_rate": ("lr: 0.05", "lr: 0.02"),
    "steps": ("\nsteps: 12", "\nsteps: 24"),
    "communication": ("start: 50%", "start: 75%"),
    "batch": ("size: 4", "size: 8"),
    "optimizer": ("momentum: 0.0", "momentum: 0.9"),
    "metrics": ("- mergeability\n", ""),
    "clip": ("\nclip: null", "\nclip: 1.0"),
    "node_lr": ("\nnode_lr: {}", "\nnode_lr: {1: 3}"),
    "dtype": ("\ndtype: float32", "\ndtype: float64"),
}


@pytest.mark.parametrize("key", EDITS)
def test_an_edited_setting_is_refused_by_name(key: str, copy: Path) -> None:
    edit(copy, *EDITS[key])
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    with pytest.raises(
        ConfigError, match=rf"was edited: {key} is not as at step 8;"
    ) as refused:
        api.restart(copy)
    assert {
        path: path.read_bytes() for path in copy.rglob("*") if path.is_file()
    } == before
    # Only what may change is offered.
    assert (f"--change {key}=..." in str(refused.value)) == (key in api.CHANGEABLE)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("\nkeep_checkpoints: 2", "\nkeep_checkpoints: 5"),
        ("\ncheckpoint_every: 4", "\ncheckpoint_every: 3"),
        ("\nseed: 0", "\n# the seed\nseed:   0"),
    ],
)
def test_what_is_no_part_of_the_result_may_be_edited(
    old: str, new: str, copy: Path
) -> None:
    edit(copy, old, new)
    assert api.restart(copy).step == 8


def test_several_edits_are_all_named(copy: Path) -> None:
    edit(copy, *EDITS["seed"])
    edit(copy, *EDITS["steps"])
    with pytest.raises(ConfigError, match="was edited: steps, seed are not as at step 8"):
        api.restart(copy)
    with pytest.raises(ConfigError, match="was edited: seed is not"):
        api.restart(copy, change={"steps": 24})


def test_an_edit_that_is_named_is_a_change(copy: Path) -> None:
    edit(copy, *EDITS["steps"])
    run = resumed(copy, {"steps": 24})
    assert run.setup.config.steps == 24
    (event,) = events(copy, "change")
    assert (event["step"], event["settings"]["steps"]) == (8, [None, 24])
    assert load_checkpoint(copy).step == 24


# --- changes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 3}, {"nodes": 5}, {"topology": "star"}, {"optimizer.momentum": 0.5}, {"step": 4},
        {"nowhere.py": True},
    ],
)  # fmt: skip
def test_what_cannot_change_is_refused_by_name(
    change: dict[str, Any], copy: Path
) -> None:
    (key,) = change
    message = (
        "no checkpoint" if key.endswith(".py") else f"{re.escape(key)} cannot change"
    )
    if key.endswith(".py"):
        shutil.rmtree(copy / "checkpoints")
    with pytest.raises(ConfigError, match=message):
        api.restart(copy, change=change)


def test_points_are_of_the_new_length_and_the_past_is_not_redone(copy: Path) -> None:
    before = api.Run(copy).rows
    run = resumed(copy, {"steps": 24})
    rows = api.Run(copy).rows
    assert [row for row in rows if row["step"] <= 8] == [
        row for row in before if row["step"] <= 8
    ]
    full = [
        row["step"] for row in rows if row["comm/intensity"] == 1.0 and "phase" not in row
    ]
    assert full == [6, 7, 8, 9, *range(12, 24)]  # from 50 % of 12 on, then of 24
    (event,) = events(copy, "change")
    assert event["settings"] == {"steps": [12, 24]}
    assert run.summary()["steps"] == 24
    head = (copy / "config.yaml").read_text().partition("\n")[0]
    assert "changed on its way" in head
    assert api.run_config(copy).steps == 24


def test_a_change_that_changes_nothing_ends_at_the_same_bits(
    copy: Path, tmp_path: Path
) -> None:
    resumed(copy, {"steps": 12, "batch.size": 4, "lr": 0.05})
    api.start(make_config(SETTINGS | {"out": str(tmp_path / "whole")})).run(unseen)
    merged = [
        (run / "merged.safetensors").read_bytes() for run in (copy, tmp_path / "whole")
    ]
    assert merged[0] == merged[1]


@pytest.mark.parametrize(
    ("change", "key", "values"),
    [
        ({"batch": 8}, "batch/size", [4] * 9 + [8] * 4),
        ({"lr": 0.5}, "learning_rate", [0.05] * 9 + [0.5] * 4),
        ({"learning_rate.lr": 0.5, "steps": 14}, "learning_rate", [0.05] * 9 + [0.5] * 6),
        ({"communication": "none"}, "comm/rounds", None),
    ],
)
def test_schedules_change_from_the_checkpoint_on(
    change: dict[str, Any], key: str, values: list[float] | None, copy: Path
) -> None:
    resumed(copy, change)
    rows = {row["step"]: row for row in api.Run(copy).rows}
    if values is None:
        assert rows[12][key] == rows[8][key] > 0
        return
    # A row holds the size and the rate of the step that follows it.
    assert [rows[step][key] for step in sorted(rows)] == pytest.approx(values)


def test_samples_go_on_from_where_they_were(copy: Path) -> None:
    run = api.restart(copy, change={"batch": 8})
    assert run.setup.timeline.samples[8] == 32
    run.run(unseen)
    assert api.Run(copy).rows[-1]["samples"] == 32 + 4 * 8


def test_a_changed_run_that_is_killed_again_ends_at_the_same_bits(
    copy: Path, tmp_path: Path
) -> None:
    """The past of its batches is in every checkpoint."""
    batch = "late_switch(at=60%, from=4, to=12)"
    change = {"batch": batch, "steps": 20, "communication": "constant"}
    other = Path(shutil.copytree(copy, tmp_path / "other"))
    resumed(copy, change)

    def die(row: dict[str, Any]) -> None:
        if row["step"] == 18:
            raise Killed

    for again in (change, None):
        run = api.restart(other, change=again)
        with pytest.raises(Killed):
            run.run(die)
    resumed(other)
    assert (copy / "merged.safetensors").read_bytes() == (
        other / "merged.safetensors"
    ).read_bytes()
    assert len(events(other, "change")) == 1
    assert [r["samples"] for r in api.Run(copy).rows] == [
        r["samples"] for r in api.Run(other).rows
    ]


def test_a_budget_of_data_may_grow(tmp_path: Path) -> None:
    folder = killed(tmp_path / "run", 10, data="48/node")
    run = resumed(folder, {"data": "80/node", "batch": 8})
    # 32 + 6 x 8
    assert [load_checkpoint(folder).step, run.setup.config.steps] == [
        14,
        14,
    ]
    assert api.Run(folder).rows[-1]["samples"] == 80
    with pytest.raises(ConfigError, match="is finished"):
        api.restart(folder)


@given(
    step=st.integers(0, 9), samples=st.integers(10, 90), first=st.integers(1, 9),
    more=st.integers(1, 5), size=st.integers(1, 7),
)  # fmt: skip
def test_a_timeline_goes_on_from_its_past(
    step: int, samples: int, first: int, more: int, size: int
) -> None:
    past = Past(step, samples if step else 0, first)
    taken = step_timeline(
        build("batch", f"constant({size})"), step + more, past=past
    ).samples
    assert len(taken) == step + more + 1
    assert taken[step] == past.samples
    assert list(taken) == sorted(taken)
    assert [after - before for before, after in pairwise(taken[step:])] == [size] * more


# --- the end of a run -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished") / "run"
    api.start(make_config(SETTINGS | {"out": str(folder)})).run(unseen)
    return folder


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (None, "is finished; `decentral report"),
        ({"lr": 0.1}, "is finished; only with more steps"),
        ({"steps": 20}, "the final merge was made at step 12.*add --change final_merge"),
        ({"steps": 12, "final_merge": True}, "12 steps are done.* give more"),
        ({"steps": 6, "final_merge": True}, "12 steps are done.* give more"),
    ],
)
def test_a_finished_run_goes_on_only_where_that_is_meant(
    change: dict[str, Any] | None, message: str, finished: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(finished, tmp_path / "run"))
    with pytest.raises(ConfigError, match=message):
        api.restart(folder, change=change)
    assert (folder / "summary.json").read_bytes() == (
        finished / "summary.json"
    ).read_bytes()
    assert not events(folder, "change")


def test_the_merged_model_is_trained_on_where_it_is_named(
    finished: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(finished, tmp_path / "run"))
    merged = (folder / "merged.safetensors").read_bytes()
    run = resumed(folder, {"steps": 20, "final_merge": True})
    assert torch.equal(run.block.rows[0], run.block.rows[1])  # merged at the end again
    assert (folder / "merged-000000012.safetensors").read_bytes() == merged
    assert json.loads((folder / "summary-000000012.json").read_text())["steps"] == 12
    assert json.loads((folder / "summary.json").read_text())["steps"] == 20
    assert api.Run(folder).report().exists()


def test_a_run_without_a_final_merge_goes_on_without_more_ado(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    plain = {"communication": "constant(final_merge=false)", "out": str(folder)}
    api.start(make_config(SETTINGS | plain)).run(unseen)
    resumed(folder, {"steps": 16})
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["steps"] == 16
    assert summary["before_merge"] == summary["final"]


# --- files ----------------------------------------------------------------------------------------

OWN = """
import networkx as nx
from decentral import plugin
@plugin("communication", final_merge=True)
def pulses(progress, feedback, *, width: int = 3):
    return 1.0 if progress.communication_step % width == 0 else 0.0
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Make a run that was killed, with a schedule, a metric and a graph of the user's own."""
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(OWN)
    Path("counts.py").write_text("def counts(snapshot): return {'counts/one': 1.0}\n")
    Path("square.edgelist").write_text("0 1\n1 2\n2 3\n3 0\n")

    def begun(**settings: Any) -> Path:
        chosen = {
            "communication": "mine.py:pulses(width=2)", "topology": "square.edgelist",
            "metrics": ["loss", "counts.py:counts"],
        }  # fmt: skip
        return killed(tmp_path / "run", 10, **chosen | settings)

    return begun


@pytest.mark.parametrize("name", ["mine.py", "counts.py", "square.edgelist"])
@pytest.mark.parametrize("how", ["changed", "gone"])
def test_a_file_that_is_not_what_it_was_is_refused_by_name(
    name: str, how: str, own: Callable[..., Path], tmp_path: Path
) -> None:
    folder, file = own(), tmp_path / name
    manifest = json.loads(
        (folder / "checkpoints/step-000000008/manifest.json").read_text()
    )
    assert set(manifest["files"]) == {
        str(tmp_path / one) for one in ("mine.py", "counts.py", "square.edgelist")
    }
    if how == "gone":
        file.unlink()
        says = "is gone"
    else:
        file.write_text(file.read_text() + "\n")
        says = "has changed since the run began"
    with pytest.raises(ConfigError, match=rf"^{file} {says}.*--change {file}\.$"):
        api.restart(folder)


def test_a_changed_file_is_taken_where_it_is_named(
    own: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = own()
    Path("mine.py").write_text(OWN.replace("1.0 if", "0.5 if"))
    assert (
        decentral.cli.run(["resume", str(folder), "--change", "mine.py", "--quiet"]) == 0
    )
    (event,) = events(folder, "change")
    assert event["files"] == [str(tmp_path / "mine.py")]
    assert (folder / "summary.json").exists()


def test_a_file_that_is_gone_hinders_no_other_run(own: Callable[..., Path]) -> None:
    own()
    Path("mine.py").unlink()
    assert len(read_sweep(None, ["task=quadratic", "seed=0,1"], {}).points) == 2


def test_words_of_the_command_line(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["resume", str(copy), "--quiet"]
    assert decentral.cli.run([*words, "--change", "steps=16", "--change", "lr=0.5"]) == 0
    (event,) = events(copy, "change")
    assert event["settings"] == {"steps": [12, 16], "learning_rate.lr": [0.05, 0.5]}
    assert (
        decentral.cli.run([*words, "--change", "steps=20", "--change", "final_merge"])
        == 0
    )
    assert decentral.cli.run([*words, "--change", "nodes=20"]) == 2
    assert "nodes cannot change when a run goes on." in capsys.readouterr().err


def test_a_run_refers_to_its_own_files_alone(tmp_path: Path) -> None:
    """Imported yet or not, and whatever other runs of the process have opened beside them."""
    for name, text in {
        "one.py": "import helpers\ndef ring(n): return helpers.ring(n)\n",
        "other.py": "import networkx as nx\ndef ring(n): return nx.cycle_graph(n)\n",
        "helpers.py": "import networkx as nx\ndef ring(n): return nx.cycle_graph(n)\n",
    }.items():
        (tmp_path / name).write_text(text)
    own = {str(tmp_path / "one.py"), str(tmp_path / "helpers.py")}
    settings = {"topology": f"{tmp_path / 'one.py'}:ring"}
    assert named_files(settings) == own
    for name in ("one.py", "other.py"):
        build("topology", f"{tmp_path / name}:ring")
    assert named_files(settings) == own
