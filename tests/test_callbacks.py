"""Callbacks are told of a run, may stop it at the same step on any workers, and change nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from support import TINY, blobs, exchanges, silent, tiny_setup, together
from torch import Tensor

import decentral
from decentral import Callback, EarlyStopping
from decentral.config import make_config
from decentral.errors import ConfigError, RunError
from decentral.exchange.base import LocalExchange
from decentral.loop import train
from decentral.loop.block import Block
from decentral.loop.callbacks import MOMENTS, Callbacks, Context
from decentral.loop.measure import Evaluator
from decentral.loop.rounds import checkpoint_of, restore
from decentral.loop.setup import write_in_list
from decentral.records import Record, records_of
from decentral.registry import build

EXACT = {"dtype": "float64", "mixing": "ordered", "replicas": "vmap"}


class Log(Callback):
    """Writes down every call."""

    rows = True

    def __init__(self, stop_at: int = 10**9) -> None:
        self.stop_at = stop_at
        self.seen: list[tuple[Any, ...]] = []

    def note(self, what: str, context: Context) -> None:
        losses = tuple(context.losses.values())
        self.seen.append(
            (what, context.step, context.phase, losses, dict(context.metrics))
        )

    def on_start(self, context: Context) -> None:
        self.note("start", context)

    def on_step(self, context: Context) -> None:
        self.note("step", context)
        if context.step == self.stop_at:
            context.stop("far enough")

    def on_round(self, context: Context) -> None:
        self.note("round", context)

    def on_evaluate(self, context: Context) -> None:
        self.note("evaluate", context)

    def on_end(self, context: Context) -> None:
        self.note("end", context)


def settings(callback: Any, **more: Any) -> dict[str, Any]:
    return {"task": blobs(), **TINY, **EXACT, "callbacks": callback, **more}


def block_of(exchange: Any, made: dict[str, Any], announce: Any = silent) -> Block:
    return Block(tiny_setup(**made), exchange, announce)


def run(block: Block) -> tuple[list[dict[str, Any]], Tensor]:
    return list(train(block, Evaluator(block))), block.rows


def alone(callback: Any, **more: Any) -> tuple[list[dict[str, Any]], Tensor]:
    return run(block_of(LocalExchange(4, ordered=True), settings(callback, **more)))


def launch(out: Path, callback: Any, **more: Any) -> decentral.Run:
    return decentral.launch(**settings(callback, **more), out=str(out))


def events(run: decentral.Run) -> list[dict[str, Any]]:
    return [
        json.loads(line) for line in (run.path / "events.jsonl").read_text().splitlines()
    ]


# --- when they are called -------------------------------------------------------------------------


def test_each_moment_comes_when_it_should() -> None:
    log = Log()
    alone(log, communication="every(k=2)")
    steps = {what: [s[1] for s in log.seen if s[0] == what] for what in MOMENTS}
    assert steps["start"] == [0]
    assert steps["step"] == list(range(1, 21))
    assert steps["round"] == [10, 20]
    assert steps["evaluate"] == [0, 10, 20]
    assert steps["end"] == [20]
    assert [s[2] for s in log.seen if s[0] == "evaluate"] == [None, None, "final"]


def test_metrics_are_the_newest_of_every_key_and_cannot_be_changed() -> None:
    seen: list[Context] = []

    class Keep(Callback):
        def on_step(self, context: Context) -> None:
            seen.append(context)

    rows, _ = alone(Keep())
    first = next(row for row in rows if row["step"] == 0)
    assert seen[3].metrics["loss/merged"] == first["loss/merged"]
    assert seen[3].measured.keys() < seen[3].metrics.keys()
    assert seen[3].metrics["loss/train"] == next(
        row["loss/train"] for row in rows if row["step"] == 4
    )
    with pytest.raises(TypeError):
        seen[3].metrics["loss/merged"] = 0.0  # type: ignore[index]
    with pytest.raises(AttributeError):
        seen[3].step = 0  # type: ignore[misc]
    samples = len(blobs().train)
    assert seen[3].epoch == 4 * 8 * 4 / samples
    assert seen[3].nodes == (0, 1, 2, 3)


def test_nothing_that_a_callback_does_to_what_it_sees_reaches_the_run() -> None:
    class Vandal(Callback):
        rows = True

        def on_step(self, context: Context) -> None:
            context.rows.zero_()
            torch.manual_seed(context.step)
            context.losses | {0: 0.0}

    shaken, rows = alone(Vandal())
    plain, expected = alone([])
    assert torch.equal(rows, expected)
    assert shaken == plain


def test_rows_must_be_asked_for(tmp_path: Path) -> None:
    class Curious(Callback):
        def on_step(self, context: Context) -> None:
            context.rows.sum()

    with pytest.raises(RunError, match=r"give its class, .* the attribute rows = True"):
        launch(tmp_path / "run", Curious())


# --- a stop ---------------------------------------------------------------------------------------


def test_a_stop_ends_the_run_as_its_end_would(tmp_path: Path) -> None:
    log = Log(stop_at=7)
    run = launch(tmp_path / "run", log, communication="late(start=50%)")
    assert run.summary["steps"] == 7
    assert run.summary["stopped"] == "Log: far enough"
    assert run.summary["counters"]["samples"] == 7 * 8
    assert [(e["event"], e["step"]) for e in events(run)[1:]] == [
        ("stopped", 7), ("merge", 7), ("finished", 7),
    ]  # fmt: skip
    assert [s[2] for s in log.seen if s[0] == "evaluate"] == [
        None,
        "before_merge",
        "final",
    ]
    assert [s[:2] for s in log.seen][-1] == ("end", 7)
    assert (run.path / "merged.safetensors").exists()
    assert "stopped" not in launch(tmp_path / "whole", Log()).summary


def test_a_stop_at_an_evaluation_and_before_the_first_step(tmp_path: Path) -> None:
    rows, _ = alone(lambda context: context.stop("at once"))
    phases = [None, "before_merge", "final"]
    assert [(row["step"], row.get("phase")) for row in rows] == [(0, p) for p in phases]


@pytest.mark.usefixtures("threads_may_evaluate")
@pytest.mark.parametrize("sizes", [[3, 1], [1, 1, 2]])
def test_workers_call_one_of_them_and_all_stop_at_its_step(sizes: list[int]) -> None:
    reference = Log(stop_at=13)
    rows, expected = alone(reference, communication="constant")
    logs, told = [Log(stop_at=13) for _ in sizes], []
    blocks = [
        block_of(
            exchange,
            settings(log, communication="constant"),
            lambda event, details, k=k: told.append((k, event, details["step"])),
        )
        for k, (exchange, log) in enumerate(zip(exchanges(sizes), logs, strict=True))
    ]
    found = together(run, blocks)
    assert torch.equal(torch.cat([rows for _, rows in found]), expected)
    assert {block.step for block in blocks} == {13}
    assert logs[0].seen == reference.seen
    assert not any(log.seen for log in logs[1:])
    assert (0, "stopped", 13) in told
    assert [row["step"] for row in found[1][0]] == [row["step"] for row in rows]


# --- going on -------------------------------------------------------------------------------------


class Third(Callback):
    """Stops at the third evaluation that it sees."""

    def __init__(self) -> None:
        self.seen = 0

    def on_start(self, context: Context) -> None:
        self.seen = 0

    def on_evaluate(self, context: Context) -> None:
        self.seen += 1
        if self.seen == 3:
            context.stop("third")


def test_a_run_that_goes_on_stops_where_it_would_have(tmp_path: Path) -> None:
    def cut(row: dict[str, Any]) -> None:
        if row["step"] == 6:
            raise KeyboardInterrupt

    more = {"eval_every": 4, "checkpoint_every": 3, "steps": 40}
    whole = launch(tmp_path / "whole", Third(), **more)
    third = Third()
    with pytest.raises(KeyboardInterrupt):
        decentral.launch(**settings(third, **more), out=str(tmp_path / "run"), watch=cut)
    run = decentral.resume(tmp_path / "run", task=blobs(), callbacks=third)
    assert run.summary["steps"] == whole.summary["steps"] == 8
    assert run.summary["final"] == whole.summary["final"]
    with pytest.raises(ConfigError, match="is finished"):
        decentral.resume(tmp_path / "run", task=blobs(), callbacks=third)


def test_a_checkpoint_keeps_what_leads_to_a_stop() -> None:
    made = settings(EarlyStopping(metric="loss", patience=2, mode="max"), eval_every=1)
    whole, expected = run(block_of(LocalExchange(4, ordered=True), made))
    assert whole[-1]["step"] == 2
    first = block_of(LocalExchange(4, ordered=True), made)
    for row in train(first, Evaluator(first)):
        if row["step"] == 1:
            break
    kept = checkpoint_of(first)
    kept.counters = json.loads(json.dumps(kept.counters))
    again = block_of(LocalExchange(4, ordered=True), made)
    restore(again, kept)
    rows, found = run(again)
    assert torch.equal(found, expected)
    assert rows == [row for row in whole if row["step"] == 2]


def test_a_run_killed_after_its_stop_only_writes_its_summary(tmp_path: Path) -> None:
    whole = launch(tmp_path / "run", Third(), eval_every=2, checkpoint_every=2)
    # no checkpoint at the stop itself: the one of its end takes its place
    assert [p.name for p in sorted((whole.path / "checkpoints").iterdir())] == [
        "step-000000002", "step-000000004",
    ]  # fmt: skip
    before, rows = whole.summary, whole.rows
    (whole.path / "summary.json").unlink()
    again = decentral.resume(whole.path, task=blobs(), callbacks=Third())
    assert again.summary["final"] == before["final"]
    assert again.summary["stopped"] == before["stopped"] == "Third: third"
    assert again.summary["steps"] == 4
    assert again.rows == rows


def test_a_run_that_was_stopped_goes_on_with_more_steps(tmp_path: Path) -> None:
    stopped = launch(tmp_path / "run", Third(), eval_every=2)
    assert stopped.summary["steps"] == 4
    with pytest.raises(ConfigError, match="the final merge was made at step 4"):
        decentral.resume(
            stopped.path, task=blobs(), callbacks=Third(), change={"steps": 24}
        )
    run = decentral.resume(
        stopped.path,
        task=blobs(),
        callbacks=Third(),
        change={"steps": 24, "final_merge": True},
    )
    # the callback has begun anew at step 4, and sees evaluations at 6, 8 and 10
    assert run.summary["steps"] == 10


# --- early stopping -------------------------------------------------------------------------------


def steps_of(values: list[float], **given: Any) -> tuple[int, str]:
    """Return at which evaluation early stopping stops, and why."""
    made = Callbacks([EarlyStopping(metric="m", **given)])
    records = records_of((Record("m", better="lower"), Record("up", better="higher")))
    for step, value in enumerate(values):
        context = Context(
            step=step, steps=99, epoch=0.0, samples=0, round=0, nodes=(), losses={}, metrics={},
            measured={"m": value}, records=records,
        )  # fmt: skip
        if step == 0:
            made.call("start", context)
            made.start()
        if reason := made.call("evaluate", context):
            return step, reason
    return -1, ""


@pytest.mark.parametrize(
    ("values", "given", "step"),
    [
        ([3, 2, 2, 2, 2], {"patience": 2}, 3),
        ([3, 2, 2, 1.9, 2, 2], {"patience": 2}, 5),
        ([3, 2, 2, 1.9, 2], {"patience": 2, "min_delta": 0.2}, 3),
        ([1, 2, 3, 4], {"patience": 2, "mode": "max"}, -1),
        ([1, 2, 3, 4], {"patience": 2}, 2),
        ([float("nan")] * 4, {"patience": 3}, 2),
    ],
)
def test_early_stopping_counts_evaluations_without_an_improvement(
    values: list[float], given: dict[str, Any], step: int
) -> None:
    assert steps_of(values, **given)[0] == step


def test_it_says_what_was_best_and_when() -> None:
    assert steps_of([3, 2, 2.5, 2], patience=2)[1] == (
        "early_stopping: m was best at step 1, 2: no better in 2 evaluations"
    )


def test_early_stopping_stands_in_a_file(tmp_path: Path) -> None:
    given = EarlyStopping(metric="val/loss", patience=5)
    text = write_in_list(build("callback", given))
    assert text == "early_stopping(patience=5)"
    assert make_config({"callbacks": given}).callbacks[0] != text  # it is an object still
    assert make_config({"callbacks": text}).callbacks == (text,)
    (file := tmp_path / "mine.py").write_text(
        "from decentral import Callback\n"
        "class Until(Callback):\n"
        "    def __init__(self, *, step: int = 5): self.step = step\n"
        "    def on_step(self, context):\n"
        "        if context.step == self.step: context.stop('here')\n"
    )
    rows, _ = alone(f"{file}:Until(step=3)")
    assert rows[-1]["step"] == 3


@pytest.mark.parametrize(
    ("metric", "said"),
    [
        ("val/loss", r"The task has no validation data: give it Task\(val=\.\.\.\)"),
        ("los/merged", "Did you mean 'loss/merged'"),
        (
            "comm/bytes",
            "comm/bytes does not say which way is better; say mode=min or mode=max",
        ),
    ],
)
def test_a_metric_that_cannot_be_watched_is_refused_at_the_first_evaluation(
    metric: str, said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        alone(EarlyStopping(metric=metric))


# --- mistakes -------------------------------------------------------------------------------------


def test_what_a_callback_raises_is_said_with_file_and_line_and_its_checkpoint_stays(
    tmp_path: Path,
) -> None:
    class Broken(Callback):
        def on_step(self, context: Context) -> None:
            if context.step == 9:
                raise ValueError("tired")

    with pytest.raises(RunError) as caught:
        launch(tmp_path / "run", Broken(), checkpoint_every=4)
    said = str(caught.value)
    assert said.startswith("callback 'Broken' raised ValueError: tired (")
    assert "test_callbacks.py:" in said
    assert (tmp_path / "run/checkpoints/step-000000008/manifest.json").exists()


def test_one_that_returns_something_or_is_none_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"returned True .*context.stop\(reason\) ends a run"
    ):
        alone(lambda context: True)
    with pytest.raises(
        ConfigError, match="an object with on_step, on_evaluate or the like"
    ):
        alone([lambda: 3])
    with pytest.raises(ConfigError, match="takes a, b; a callback takes a context alone"):
        alone([lambda a, b: None])
