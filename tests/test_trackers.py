"""Trackers: every number of a run reaches them, and none can end a run."""

from __future__ import annotations

import json
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import decentral
from decentral.config import make_config
from decentral.engines.local import LocalRun
from decentral.errors import ConfigError, install_command
from decentral.registry import find, names
from decentral.run import trackers
from decentral.traits import TrackerTraits, traits_of

SETTINGS: dict[str, Any] = {
    "task": "quadratic", "nodes": 4, "steps": 40, "eval_every": 10, "log_every": 5,
}  # fmt: skip
TRACKERS = [
    pytest.param(
        name,
        marks=pytest.mark.skipif(
            not find_spec(
                traits_of(find("tracker", name), TrackerTraits).package or name
            ),
            reason=f"needs {name}: {install_command('track')}",
        ),
    )
    for name in names("tracker")
]
MINE = """
from decentral import plugin
from decentral.traits import TrackerTraits, traits_of

class Loud:
    def log(self, numbers, step):
        if step >= 10:
            raise ConnectionError("the line is dead")
    def close(self):
        raise AssertionError("it was left out")

@plugin("tracker")
def loud(folder, config, step):
    return Loud()
"""


def scalars(folder: Path) -> dict[str, dict[int, float]]:
    """Return all curves that TensorBoard would show."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found: Any = EventAccumulator(
        str(folder / "tensorboard"), size_guidance={"scalars": 0}
    )
    found.Reload()
    return {
        tag: {event.step: event.value for event in found.Scalars(tag)}
        for tag in found.Tags()["scalars"]
    }


def logged(folder: Path) -> list[dict[str, Any]]:
    return [
        json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()
    ]


@pytest.mark.parametrize("name", TRACKERS)
def test_a_tracker_leaves_something_in_the_run_folder(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    decentral.launch(**SETTINGS, track=name, out=str(tmp_path / "run"))
    written = [path for path in (tmp_path / "run" / name).rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in written) > 1000


@pytest.mark.skipif(
    not find_spec("tensorboard"), reason=f"needs tensorboard: {install_command('track')}"
)
def test_tensorboard_shows_what_was_logged(tmp_path: Path) -> None:
    out = tmp_path / "run"
    decentral.launch(**SETTINGS, track="tensorboard", out=str(out))
    rows, curves = logged(out), scalars(out)
    for row in rows[:-1]:
        for key in ("loss/merged", "loss/train", "comm/bytes", "consensus/distance"):
            if row.get(key) is not None:
                assert curves[key][row["step"]] == pytest.approx(row[key], rel=1e-6)
    assert rows[-1]["phase"] == "final"
    assert curves["final/loss/merged"][40] == pytest.approx(
        rows[-1]["loss/merged"], rel=1e-6
    )


@pytest.mark.skipif(
    not find_spec("tensorboard"), reason=f"needs tensorboard: {install_command('track')}"
)
def test_a_resumed_run_goes_on_in_the_same_curves(tmp_path: Path) -> None:
    out = tmp_path / "run"
    whole = tmp_path / "whole"
    decentral.launch(**SETTINGS, track="tensorboard", out=str(whole))

    class Stop(Exception): ...

    def stop(row: dict[str, Any]) -> None:
        if row["step"] >= 25:
            raise Stop

    settings = {
        **SETTINGS,
        "track": "tensorboard",
        "checkpoint_every": 10,
        "out": str(out),
    }
    with pytest.raises(Stop):
        decentral.launch(**settings, watch=stop)
    decentral.resume(str(out))
    ours, theirs = (scalars(folder)["loss/merged"] for folder in (out, whole))
    assert ours == pytest.approx(theirs)


@pytest.mark.skipif(
    not find_spec("tensorboard"), reason=f"needs tensorboard: {install_command('track')}"
)
def test_tensorboard_tables_settings_beside_scores(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    decentral.launch(**SETTINGS, track="tensorboard", out=str(tmp_path / "run"))
    read: Any = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    read.Reload()
    found = read.summary_metadata
    start, about = (
        HParamsPluginData.FromString(found[f"_hparams_/{part}"].plugin_data.content)
        for part in ("session_start_info", "experiment")
    )
    settings = start.session_start_info.hparams
    assert settings["nodes"].number_value == 4
    assert settings["task.name"].string_value == "quadratic"
    scores = {one.name.tag for one in about.experiment.metric_infos}
    assert "loss/merged" in scores
    assert scores <= set(scalars(tmp_path / "run"))


@pytest.mark.skipif(
    not find_spec("mlflow"), reason=f"needs mlflow: {install_command('track')}"
)
def test_mlflow_has_every_number_once_also_after_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_ALLOW_FILE_STORE", raising=False)
    settings = {**SETTINGS, "track": "mlflow", "checkpoint_every": 10, "log_every": 10}

    class Stop(Exception): ...

    def stop(row: dict[str, Any]) -> None:
        if row["step"] >= 30:
            raise Stop

    with pytest.raises(Stop):
        decentral.launch(**settings, watch=stop, out="run")
    decentral.resume("run")
    client: Any = mlflow.MlflowClient((tmp_path / "run" / "mlflow" / "store").as_uri())
    (experiment,) = [e for e in client.search_experiments() if e.name == "decentral"]
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "run"
    assert (run.data.params["nodes"], run.data.params["task.name"]) == ("4", "quadratic")
    history = client.get_metric_history(run.info.run_id, "loss/merged")
    right: dict[int, float] = {}
    for row in logged(tmp_path / "run"):
        if "loss/merged" in row:
            right.setdefault(row["step"], row["loss/merged"])
    assert [one.step for one in history] == sorted(right)
    assert {one.step: one.value for one in history} == pytest.approx(right)
    # Nothing but the run itself in the folder that one stands in.
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_tracker_that_fails_is_left_out_and_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    out = tmp_path / "run"
    decentral.launch(**SETTINGS, track=f"{tmp_path}/mine.py:loud", out=str(out))
    assert json.loads((out / "summary.json").read_text())["status"] == "finished"
    why = r"ConnectionError: the line is dead, \S*mine.py:8"
    told = rf"tracker loud failed \({why}\); the run goes on without it\."
    assert len(re.findall(told, capsys.readouterr().err)) == 1


def test_a_missing_package_is_told_before_anything_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    with pytest.raises(
        ConfigError, match=r"tracker 'tensorboard' needs tensorboard: pip install"
    ):
        LocalRun(make_config({**SETTINGS, "track": ["tensorboard"]}))
