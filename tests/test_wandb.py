"""Weights & Biases offline, by its own library: what its files hold after a run and its restart."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from decentral.api import launch, resume

pytestmark = pytest.mark.needs("wandb")

SETTINGS: dict[str, Any] = {
    "task": "quadratic",
    "nodes": 2,
    "steps": 8,
    "communication": "constant",
    "metrics": "loss",
    "eval_every": 2,
    "log_every": 2,
    "checkpoint_every": 4,
    "track": "wandb(project=mine, mode=offline)",
}
BLOCK, HEAD = 2**15, 7


def records(file: Path) -> Iterator[Any]:
    """Read a log in LevelDB's format: blocks of pieces with checksum, length and kind."""
    from wandb.proto import wandb_internal_pb2

    content, at, whole = file.read_bytes(), HEAD, b""
    while at + HEAD <= len(content):
        if BLOCK - at % BLOCK < HEAD:
            at += BLOCK - at % BLOCK
            continue
        length, kind = int.from_bytes(content[at + 4 : at + 6], "little"), content[at + 6]
        whole += content[at + HEAD : at + HEAD + length]
        at += HEAD + length
        if kind in (1, 4):  # whole, or its last piece
            yield wandb_internal_pb2.Record.FromString(whole)
            whole = b""


class Sent(NamedTuple):
    """What a file holds: the configuration, the history and the last summary."""

    config: dict[str, Any]
    history: list[dict[str, Any]]
    summary: dict[str, Any]


def contents(file: Path) -> Sent:
    config: dict[str, Any] = {}
    history: list[dict[str, Any]] = []
    summary: dict[str, Any] = {}

    def plain(items: Any) -> dict[str, Any]:
        return {i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in items}

    for record in records(file):
        if record.HasField("run"):
            config |= plain(record.run.config.update)
        if record.HasField("history"):
            history.append(plain(record.history.item))
        if record.HasField("summary"):
            summary |= plain(record.summary.update)
    return Sent(config, history, summary)


def test_files_of_wandb_hold_a_run_and_its_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_MODE", "offline")
    run = tmp_path / "run"

    def interrupt(row: Mapping[str, Any]) -> None:
        if row["step"] == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        launch(**SETTINGS, out=str(run), watch=interrupt)
    summary = resume(run).summary
    files = sorted(
        run.glob("wandb/offline-run-*/*.wandb"), key=lambda f: f.stat().st_ctime
    )
    assert len({file.name for file in files}) == 1  # the same run, be it in two files
    before, after = (contents(file) for file in files)
    for config, _, _ in (before, after):
        assert config["task"]["name"] == "quadratic"
        assert (config["steps"], config["nodes"]) == (8, 2)
    steps = [row["_step"] for row in (*before.history, *after.history)]
    assert steps == [0, 2, 4, 6, 8]
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for sent, row in zip((*before.history, *after.history), rows, strict=True):
        assert sent["loss/merged"] == row["loss/merged"]
        assert sent["comm/bytes"] == row["comm/bytes"]
    assert after.summary["_step"] == 8
    assert after.summary["loss/merged"] == summary["final"]["loss/merged"]
