"""Checkpoints: tensors by node, committed by a rename, checked by digests."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from support import load_checkpoint

from decentral import ConfigError, RunError
from decentral.run.checkpoint import (
    Checkpoint,
    newest_checkpoint,
    save_checkpoint,
    stack_nodes,
)
from decentral.run.digests import seal
from decentral.run.folder import RunFolder, next_name


def made(step: int = 3, nodes: int = 2) -> Checkpoint:
    tensors = {
        node: {
            "row": torch.full((5,), float(node), dtype=torch.float64),
            "integer/count": torch.tensor(node),
            "optimizer/0/exp_avg": torch.randn(5).t(),
            "optimizer/0/step": torch.tensor(4.0),
        }
        for node in range(nodes)
    }
    counters = {"round": 7, "feedback": None, "ratio": 0.1 + 0.2}
    return Checkpoint(step, tuple(sorted(tensors)), tensors, counters)


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path / "run")


def test_a_checkpoint_survives_being_saved(folder: RunFolder) -> None:
    saved = made()
    save_checkpoint(folder, saved, keep=2)
    found = load_checkpoint(folder.path)
    assert (found.step, found.counters) == (saved.step, saved.counters)
    for node, tensors in saved.nodes.items():
        assert found.nodes[node].keys() == tensors.keys()
        for key, value in tensors.items():
            assert torch.equal(found.nodes[node][key], value)
            assert found.nodes[node][key].dtype == value.dtype
    assert stack_nodes(found, "row", range(2)).shape == (2, 5)


@given(value=st.floats(allow_nan=False))
def test_counters_survive_bit_by_bit(
    tmp_path_factory: pytest.TempPathFactory, value: float
) -> None:
    folder = RunFolder.create(tmp_path_factory.mktemp("run"))
    saved = made()
    saved.counters["value"] = value
    save_checkpoint(folder, saved, keep=1)
    assert load_checkpoint(folder.path).counters["value"] == value


def test_only_the_newest_are_kept_and_the_newest_is_loaded(folder: RunFolder) -> None:
    for step in (1, 2, 10, 100, 9):
        save_checkpoint(folder, made(step), keep=2)
    kept = sorted(path.name for path in (folder.path / "checkpoints").iterdir())
    assert kept == ["step-000000010", "step-000000100"]
    assert load_checkpoint(folder.path).step == 100


def test_saving_the_same_step_twice_replaces_it(folder: RunFolder) -> None:
    save_checkpoint(folder, made(3, nodes=1), keep=2)
    save_checkpoint(folder, made(3, nodes=2), keep=2)
    assert len(load_checkpoint(folder.path).nodes) == 2


@pytest.mark.parametrize("name", ["nodes-00000.safetensors", "manifest.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove", "empty"])
def test_any_damage_falls_back_to_the_checkpoint_before(
    folder: RunFolder, name: str, damage: str
) -> None:
    save_checkpoint(folder, made(1), keep=3)
    newest = save_checkpoint(folder, made(2), keep=3) / name
    data = newest.read_bytes()
    if damage == "remove":
        newest.unlink()
    else:
        half = len(data) // 2
        flipped = data[:half] + bytes([data[half] ^ 0xFF]) + data[half + 1 :]
        newest.write_bytes({"flip": flipped, "cut": data[:half], "empty": b""}[damage])
    assert load_checkpoint(folder.path).step == 1


def test_a_write_that_was_cut_off_leaves_the_last_one_good(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_checkpoint(folder, made(1), keep=2)

    def full(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", full)
        with pytest.raises(
            RunError, match=r"the disk is full.*last checkpoint is intact"
        ):
            save_checkpoint(folder, made(2), keep=2)
    assert load_checkpoint(folder.path).step == 1
    save_checkpoint(folder, made(2), keep=2)
    assert load_checkpoint(folder.path).step == 2


def test_a_full_disk_is_named_and_loses_nothing(tiny_disk: Path) -> None:
    folder = RunFolder.create(tiny_disk / "run")
    save_checkpoint(folder, made(1), keep=9)
    large = Checkpoint(2, (0,), {0: {"row": torch.zeros(200_000)}}, {})
    with pytest.raises(
        RunError, match=r"the disk is full.*make room, then `decentral resume"
    ):
        save_checkpoint(folder, large, keep=9)
    assert load_checkpoint(folder.path).step == 1


def test_a_checkpoint_of_another_format_is_refused(folder: RunFolder) -> None:
    path = save_checkpoint(folder, made(1), keep=2) / "manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(seal({**manifest, "format": 99})), encoding="utf-8")
    with pytest.raises(ConfigError, match="checkpoint format 99"):
        load_checkpoint(folder.path)


def test_no_checkpoint_is_an_error_with_a_remedy(folder: RunFolder) -> None:
    with pytest.raises(
        RunError, match=r"holds no checkpoint; `decentral resume .*` begins it"
    ):
        load_checkpoint(folder.path)


# --- the folder -----------------------------------------------------------------------------------


def test_a_folder_that_holds_a_run_is_not_overwritten(folder: RunFolder) -> None:
    folder.write_config({"nodes": 3})
    save_checkpoint(folder, made(2), keep=1)
    with pytest.raises(ConfigError, match=r"already holds a run.*decentral resume"):
        RunFolder.create(folder.path)


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    for name in ("slurm-7.out", "7.log", ".DS_Store", "checkpoints"):
        (tmp_path / "queued" / name).mkdir(parents=True)
    RunFolder.create(tmp_path / "queued").__exit__()
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes/plan.txt").write_text("a plan")
    with pytest.raises(
        ConfigError, match=r"no folder of a run.*holds plan\.txt; choose a new"
    ):
        RunFolder.create(tmp_path / "notes")
    assert os.listdir(tmp_path / "notes") == ["plan.txt"]
    with pytest.raises(ConfigError, match=r"--out / is no folder of a run"):
        RunFolder.create("/")


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"cannot be written \(Not a directory\)"):
        RunFolder.create(tmp_path / "file" / "run")


def test_lines_are_appended_cut_and_read(folder: RunFolder) -> None:
    assert folder.stamp("metrics.jsonl")[0] == 0
    folder.append("metrics.jsonl", {"step": 0, "loss": None})
    length = folder.stamp("metrics.jsonl")[0]
    folder.append("metrics.jsonl", {"step": 1})
    folder.truncate("metrics.jsonl", length)
    folder.truncate("events.jsonl", 0)
    assert folder.rows("metrics.jsonl") == [{"step": 0, "loss": None}]


def test_events_say_what_when(folder: RunFolder) -> None:
    folder.event("merge", 12, nodes=4)
    (event,) = folder.rows("events.jsonl")
    assert event.pop("time").endswith("+00:00")
    assert event == {"event": "merge", "step": 12, "nodes": 4}


def test_runs_are_numbered_past_the_last(tmp_path: Path) -> None:
    assert next_name(tmp_path / "none", "a b/c").name == "a-b-c-1"
    for name in ("ring-1", "ring-9", "ring-x", "ring-late-40"):
        (tmp_path / name).mkdir()
    assert next_name(tmp_path, "ring").name == "ring-10"


def test_what_nodes_have_alike_is_one_tensor_and_any_of_them_is_read(
    folder: RunFolder,
) -> None:
    """A node that lacks a state, or has it in another shape, keeps its own."""
    saved = made(nodes=6)
    del saved.nodes[2]["optimizer/0/exp_avg"]
    saved.nodes[4]["optimizer/0/exp_avg"] = torch.randn(3)
    path = save_checkpoint(folder, saved, keep=1)
    with safe_open(path / "nodes-00000.safetensors", "pt") as file:
        shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    assert sorted(map(tuple, shapes.values())) == [(1, 3), (4, 5), (6,), (6,), (6, 5)]
    some = newest_checkpoint(folder.path).load([1, 2, 4])
    assert some.nodes.keys() == {1, 2, 4}
    for node, tensors in some.nodes.items():
        assert tensors.keys() == saved.nodes[node].keys()
        assert all(
            torch.equal(value, saved.nodes[node][key]) for key, value in tensors.items()
        )
