"""Resuming: a run that was stopped anywhere ends as if it had never been stopped, bit by bit."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from support import TINY, Row, in_turns, load_checkpoint, tiny_run, untimed

from decentral import ConfigError, RunError
from decentral.api import models_of, restart, run_config
from decentral.engines import local
from decentral.engines.local import LocalRun
from decentral.loop.preparing import prepare

CASES: dict[str, dict[str, Any]] = {
    "momentum": {"topology": "ring", "communication": "late(start=50%, intensity=0.4)"},
    "adamw": {
        "topology": "one_peer_exponential", "optimizer": "adamw", "communication": "constant(0.6)",
        "learning_rate": "cosine(lr=0.01, warmup=20%)", "sampling": "resample",
    },
    "batchnorm": {
        "topology": "ring", "model": "cnn(channels=[2], norm=batch)", "communication": "constant",
    },
    "adaptive": {
        "topology": "ring", "init": "independent",
        "communication": "adaptive(target=0.05, feedback_every=2, max_budget=9)", "local_steps": 2,
    },
    "mix_state": {
        "topology": "random_neighbors(r=2)", "optimizer": "adamw", "mix_state": True,
        "communication": "then_merge(schedule=constant(0.5), at=60%)",
    },
    "allreduce": {"algorithm": "allreduce", "optimizer": "torch.optim.RMSprop(momentum=0.5)"},
    "methods": {
        "topology": "ring", "communication": "constant", "label_smoothing": 0.1,
        "sam": {"rho": 0.1, "start": "25%", "stop": "75%"},
        "label_noise": {"level": 0.2, "every": 3},
        "adversarial": {"eps": 0.1, "steps": 2, "start": "50%"},
    },
    "loop": {"topology": "ring", "replicas": "loop", "batch": 9, "micro_batch": 4},
}  # fmt: skip
#: Just after gossip, in the middle of a round, at an evaluation, before the last step.
STOPS = [5, 7, 10, 19]


class Killed(BaseException):
    """Stands for a process that is gone."""


def ended(
    run: LocalRun,
) -> tuple[torch.Tensor, list[dict[str, Any]], list[Row], dict[str, Any]]:
    """Return everything a finished run leaves behind that does not depend on the clock."""
    folder = run.folder.path
    rows = [untimed(row) for row in run.folder.rows("metrics.jsonl")]
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    # Digests are of files that hold times, too.
    for key in ("run", "config", "digests", "sha256"):
        del summary[key]
    summary["counters"] = untimed(summary["counters"])
    return run.block.rows, run.block.optimizer.states(), rows, summary


def same(found: LocalRun, wanted: LocalRun) -> None:
    rows, states, metrics, summary = ended(found)
    their_rows, their_states, their_metrics, their_summary = ended(wanted)
    assert torch.equal(rows, their_rows)
    for mine, its in zip(states, their_states, strict=True):
        assert mine.keys() == its.keys()
        assert all(torch.equal(mine[key], its[key]) for key in mine)
    assert metrics == their_metrics
    assert summary == their_summary
    merged = [
        (r.folder.path / "merged.safetensors").read_bytes() for r in (found, wanted)
    ]
    assert merged[0] == merged[1]


@pytest.fixture(scope="module")
def through(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], LocalRun]:
    """Return runs of every case that nobody interrupted."""
    made: dict[str, LocalRun] = {}

    def uninterrupted(case: str) -> LocalRun:
        if case not in made:
            made[case] = tiny_run(
                tmp_path_factory.mktemp("through") / "run", **CASES[case]
            )
            made[case].run(quiet)
        return made[case]

    return uninterrupted


def quiet(row: Row) -> None:
    """Watch nothing."""


def killed(folder: Path, step: int, **settings: Any) -> LocalRun:
    """Run until a row of that step is shown, and die there."""

    def watch(row: Row) -> None:
        if row["step"] == step:
            raise Killed

    run = tiny_run(folder, **settings)
    with pytest.raises(Killed):
        run.run(watch)
    return run


def resumed(folder: Path) -> LocalRun:
    run = restart(folder)
    run.run(quiet)
    return run


@pytest.mark.parametrize(("case", "stop"), in_turns([[case] for case in CASES], STOPS, 2))
def test_a_run_stopped_at_a_checkpoint_ends_as_if_it_never_stopped(
    case: str, stop: int, tmp_path: Path, through: Callable[[str], LocalRun]
) -> None:
    killed(tmp_path / "run", min(stop + 1, 20), **CASES[case], checkpoint_every=stop)
    assert load_checkpoint(tmp_path / "run").step == stop
    same(resumed(tmp_path / "run"), through(case))


@pytest.mark.parametrize("stop", [1, 6, 13, 20])
def test_a_run_killed_between_two_checkpoints_loses_nothing(
    stop: int, tmp_path: Path, through: Callable[[str], LocalRun]
) -> None:
    """What was logged after the checkpoint is cut off and done again."""
    killed(tmp_path / "run", stop, **CASES["momentum"], checkpoint_every=4)
    saved = load_checkpoint(tmp_path / "run").step
    assert saved == (stop - 1) // 4 * 4
    steps = [row["step"] for row in resumed_rows(tmp_path / "run")]
    assert steps == sorted(steps)
    same(restarted(tmp_path / "run"), through("momentum"))


def resumed_rows(folder: Path) -> list[Row]:
    return resumed(folder).folder.rows("metrics.jsonl")


def restarted(folder: Path) -> LocalRun:
    """Return a finished run as an object, from its last checkpoint."""
    (folder / "summary.json").rename(folder / "done.json")
    run = restart(folder)
    (folder / "done.json").rename(folder / "summary.json")
    return run


def test_a_run_may_be_killed_again_and_again(
    tmp_path: Path, through: Callable[[str], LocalRun]
) -> None:
    killed(tmp_path / "run", 6, **CASES["adamw"], checkpoint_every=2)
    for step in (9, 11, 18):

        def watch(row: Row, step: int = step) -> None:
            if row["step"] == step:
                raise Killed

        with pytest.raises(Killed):
            restart(tmp_path / "run").run(watch)
    same(resumed(tmp_path / "run"), through("adamw"))


@pytest.mark.parametrize("phase", ["before_merge", "final"])
def test_a_run_killed_in_its_last_act_can_be_resumed(
    phase: str, tmp_path: Path, through: Callable[[str], LocalRun]
) -> None:
    def watch(row: Row) -> None:
        if row.get("phase") == phase:
            raise Killed

    run = tiny_run(tmp_path / "run", **CASES["momentum"], checkpoint_every=8)
    with pytest.raises(Killed):
        run.run(watch)
    same(resumed(tmp_path / "run"), through("momentum"))


def test_a_run_killed_before_its_summary_was_written_can_be_resumed(
    tmp_path: Path, through: Callable[[str], LocalRun], monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(self: LocalRun) -> dict[str, Any]:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(LocalRun, "summary", die)
        with pytest.raises(Killed):
            tiny_run(tmp_path / "run", **CASES["momentum"]).run(quiet)
    assert load_checkpoint(tmp_path / "run").step == 20
    same(resumed(tmp_path / "run"), through("momentum"))


def test_a_stop_signal_saves_and_says_how_to_go_on(
    tmp_path: Path, through: Callable[[str], LocalRun], monkeypatch: pytest.MonkeyPatch
) -> None:
    stopping = threading.Event()

    @contextmanager
    def signals(asked: threading.Event | None) -> Generator[threading.Event]:
        yield asked or stopping

    def watch(row: Row) -> None:
        if row["step"] == 7:
            stopping.set()

    folder = tmp_path / "run"
    monkeypatch.setattr(local, "stop_signals", signals)
    with pytest.raises(
        RunError, match=rf"interrupted at step 7.*`decentral resume {folder}`"
    ):
        tiny_run(folder, **CASES["momentum"], checkpoint_every=100).run(watch)
    assert load_checkpoint(folder).step == 7
    stopping.clear()
    run = resumed(folder)
    same(run, through("momentum"))
    events = [event["event"] for event in run.folder.rows("events.jsonl")]
    assert events == ["start", "interrupted", "resume", "merge", "finished"]


def test_a_damaged_checkpoint_falls_back_to_the_one_before(
    tmp_path: Path, through: Callable[[str], LocalRun]
) -> None:
    folder = tmp_path / "run"
    killed(folder, 14, **CASES["momentum"], checkpoint_every=5)
    newest = folder / "checkpoints" / "step-000000010" / "nodes-00000.safetensors"
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 1
    newest.write_bytes(data)
    assert load_checkpoint(folder).step == 5
    same(resumed(folder), through("momentum"))


# --- refusals -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was killed at step 12 and saved at step 10."""
    folder = tmp_path_factory.mktemp("stopped") / "run"
    killed(folder, 12, **CASES["momentum"], checkpoint_every=5)
    return folder


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("nodes: 4", "nodes: 5", "holds 4 nodes, the configuration asks for 5"),
        ("nodes: 4", "nodes: 3", "holds 4 nodes, the configuration asks for 3"),
        ("- 8", "- 9", "numbers per model"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused_and_nothing_is_lost(
    old: str, new: str, message: str, stopped: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(stopped, folder)
    config = folder / "config.yaml"
    text = config.read_text(encoding="utf-8")
    assert old in text
    config.write_text(text.replace(old, new), encoding="utf-8")
    logged = (folder / "metrics.jsonl").read_bytes()
    with pytest.raises(
        ConfigError, match=r"was edited: (nodes|model) is not as at step 10"
    ):
        restart(folder)
    with pytest.raises(
        ConfigError, match=r"was edited: (nodes|model) is not as at step 10"
    ):
        models_of(folder)
    saved, changed = load_checkpoint(folder), prepare(run_config(folder))
    with pytest.raises(ConfigError, match=message):
        saved.check_fits(changed.config.nodes, changed.layout.width)
    assert (folder / "metrics.jsonl").read_bytes() == logged


def test_what_cannot_be_resumed_says_why(stopped: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not a run folder"):
        restart(tmp_path)
    broken = tmp_path / "broken"
    shutil.copytree(stopped, broken)
    for path in broken.glob("checkpoints/*/manifest.json"):
        path.write_text("{", encoding="utf-8")
    with pytest.raises(RunError, match="no checkpoint is whole"):
        restart(broken)
    other = tmp_path / "other"
    shutil.copytree(stopped, other)
    config = (other / "config.yaml").read_text(encoding="utf-8")
    (other / "config.yaml").write_text(
        config.replace("format 3", "format 9"), encoding="utf-8"
    )
    with pytest.raises(ConfigError, match=r"in format 9; .* reads formats 2 and 3"):
        restart(other)


def test_a_finished_run_is_not_resumed(tmp_path: Path) -> None:
    tiny_run(tmp_path / "run", steps=2, **CASES["momentum"]).run(quiet)
    with pytest.raises(ConfigError, match="is finished"):
        restart(tmp_path / "run")


def test_every_row_says_how_far_and_how_much(through: Callable[[str], LocalRun]) -> None:
    rows = ended(through("momentum"))[2]
    assert [row["step"] for row in rows[:-1]] == list(range(TINY["steps"] + 1))
    assert rows[-2]["phase"] == "before_merge"
    assert rows[-1]["phase"] == "final"
    spent = [row["comm/bytes"] for row in rows]
    assert spent == sorted(spent)
    assert all("accuracy/merged" in row for row in rows if row["step"] % 10 == 0)
