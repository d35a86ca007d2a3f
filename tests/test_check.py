"""What is wrong with a configuration or a run folder, all of it at once, without running it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from support import tiny_run

import decentral.cli
from decentral.config import file_faults
from decentral.config.schema import config_schema
from decentral.yamltext import load, load_file

CONFIGS = sorted((Path(__file__).parent.parent / "configs").rglob("*.yaml"))

WRONG = """\
# many mistakes
nodes: many
stepz: 3
schedule: {name: late, strat: 90%}
topology: rng
optimizer:
  name: sgd
  momentum: x
  nestrov: 1
lr: -1
eval_every: true
engine: {name: ray, wrkers: 3}
model.hidden: [a]
metrics: [accuracy, los]
faults: [churnx]
label_noise: {lvel: 0.1}
"""
FOUND = [
    (2, "nodes"),
    (3, "stepz"),
    (4, "communication.strat"),
    (5, "topology"),
    (8, "optimizer.momentum"),
    (9, "optimizer.nestrov"),
    (10, "learning_rate.lr"),
    (11, "eval_every"),
    (12, "engine.wrkers"),
    (13, "model.hidden"),
    (14, "metrics"),
    (15, "faults"),
    (16, "label_noise"),
    (16, "label_noise.lvel"),
]


def check(*words: str) -> int:
    return decentral.cli.run(["check", *words])


# --- configurations -------------------------------------------------------------------------------


def test_all_mistakes_of_a_file_are_listed_by_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "a.yaml"
    place.write_text(WRONG)
    assert [(one.line, one.setting) for one in file_faults(place)] == FOUND
    assert check(str(place)) == 2
    out, err = capsys.readouterr()
    assert [line.partition(":")[0] for line in out.splitlines()] == [
        f"line {n}" for n, _ in FOUND
    ]
    assert err.splitlines() == [
        f"error: configuration {place} has 14 mistakes; nothing was run."
    ]
    assert check(str(place), "--json") == 2
    found = json.loads(capsys.readouterr().out)
    assert (found["kind"], found["whole"]) == ("configuration", False)
    assert [(one["line"], one["setting"]) for one in found["faults"]] == FOUND
    assert list(tmp_path.iterdir()) == [place]


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("nodes: 4\nnodes: 8\n", 2, "'nodes' is given twice"),
        ("nodes: 4\nsteps: 010\n", 2, "010 begins with 0; write 10"),
        ("topology: [", 1, "not valid YAML"),
        (
            "nodes: 5\ntask: quadratic\ntopology: hypercube\n",
            None,
            "is a power of 2, not 5",
        ),
        (
            "task: quadratic\nalgorithm: allreduce\ntopology: ring\n",
            None,
            "takes no topology",
        ),
        ("- a list\n", None, "must be a mapping"),
    ],
)
def test_what_only_the_whole_shows_is_found_too(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    text: str,
    line: int | None,
    said: str,
) -> None:
    (tmp_path / "a.yaml").write_text(text)
    assert check(str(tmp_path / "a.yaml"), "--json") == 2
    (fault,) = json.loads(capsys.readouterr().out)["faults"]
    assert fault["line"] == line
    assert said in fault["text"]


def test_a_file_that_is_right(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = tmp_path / "a.yaml"
    place.write_text("task: quadratic\nnodes: 4\nsteps: 20\nlr: 1e-2\n")
    assert check(str(place)) == 0
    assert (
        capsys.readouterr().out == f"{place} is right: a run of 4 nodes and 20 steps.\n"
    )
    place.write_text("task: quadratic\nnodes: 4\nsteps: 20\nsweep: {seed: [0, 1, 2]}\n")
    assert check(str(place), "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found == {
        "path": str(place),
        "kind": "configuration",
        "whole": True,
        "faults": [],
    }


def test_a_mistake_in_a_file_is_named_by_its_line_when_it_is_launched(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "a.yaml"
    place.write_text("nodes: 4\noptimizer:\n  name: sgd\n  momentum: x\n")
    assert decentral.cli.run(["launch", str(place)]) == 2
    assert (
        f"configuration {place}, line 4: optimizer 'sgd': mom" in capsys.readouterr().err
    )
    assert decentral.cli.run(["launch", str(place), "optimizer=adamx"]) == 2
    assert capsys.readouterr().err.startswith("error: unknown optimizer 'adamx'")
    place.write_text("nodes: 4\nsteps: true\n")
    assert decentral.cli.run(["launch", str(place)]) == 2
    assert "line 2: steps = true: it must be a number" in capsys.readouterr().err


# --- run folders ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("check") / "a run"
    run = tiny_run(folder, steps=4, checkpoint_every=2)
    run.run(lambda row: None)
    return folder


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "copy (1)"))


def parts(folder: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Any]]:
    status = check(str(folder), "--json")
    found = json.loads(capsys.readouterr().out)
    assert found["whole"] is (status == 0)
    return status, {part["name"]: part for part in found["parts"]}


def test_every_part_of_a_whole_run_has_its_line(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert check(str(run)) == 0
    lines = capsys.readouterr().out.splitlines()
    names = [
        "config.yaml", "env.json", "records.json", "topology.json", "data.json", "metrics.jsonl",
        "events.jsonl", "checkpoints/step-000000002", "checkpoints/step-000000004",
        "merged.safetensors", "summary.json",
    ]  # fmt: skip
    assert [line.split()[:2] for line in lines] == [[name, "whole"] for name in names]
    assert {
        path: path.read_bytes() for path in run.rglob("*") if path.is_file()
    } == before


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def edit(path: Path) -> None:
    path.write_text(path.read_text().replace("seed: 0", "seed: 1"))


SHARD = "checkpoints/step-000000004/nodes-00000.safetensors"
MANIFEST = "checkpoints/step-000000002/manifest.json"


@pytest.mark.parametrize(
    ("name", "harm", "part", "said"),
    [
        (
            "config.yaml",
            edit,
            "config.yaml",
            "differs from what the checkpoints state: seed",
        ),
        ("config.yaml", Path.unlink, "config.yaml", "is missing"),
        ("env.json", Path.unlink, "env.json", "is missing"),
        ("data.json", cut, "data.json", "is no JSON"),
        ("metrics.jsonl", cut, "metrics.jsonl", "is cut"),
        (SHARD, flip, "checkpoints/step-000000004", "nodes-00000.safetensors is damaged"),
        (SHARD, Path.unlink, "checkpoints/step-000000004", "cannot be read"),
        (MANIFEST, cut, "checkpoints/step-000000002", "manifest.json is damaged"),
        ("merged.safetensors", cut, "merged.safetensors", "is damaged"),
        ("merged.safetensors", Path.unlink, "merged.safetensors", "is missing"),
        ("summary.json", cut, "summary.json", "is no JSON"),
    ],
)
def test_what_is_broken_is_named(
    run: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    harm: Any,
    part: str,
    said: str,
) -> None:
    harm(run / name)
    status, found = parts(run, capsys)
    assert status == 1
    broken = [one for one in found if not found[one]["whole"]]
    if name == "metrics.jsonl":  # whose lines the last checkpoint counts on
        assert broken.pop() == "checkpoints/step-000000004"
    assert broken == [part]
    assert said in found[part]["text"]


def test_an_unfinished_run_is_whole_as_far_as_it_is(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / "summary.json").unlink()
    (run / "merged.safetensors").unlink()
    with (run / "metrics.jsonl").open("a") as metrics:
        metrics.write('{"step": 5, "lo')
    status, found = parts(run, capsys)
    assert status == 0
    assert "one that a kill has cut" in found["metrics.jsonl"]["text"]
    assert f"`decentral resume '{run}'` goes on" in found["summary.json"]["text"]


# --- the schema for editors -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    return config_schema()


@pytest.fixture(scope="module")
def validator(schema: dict[str, Any]) -> Any:
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_the_schema_takes_every_configuration_of_the_project(
    validator: Any, path: Path
) -> None:
    assert [error.message for error in validator.iter_errors(load_file(path))] == []


def test_the_schema_takes_what_a_run_has_resolved(validator: Any, finished: Path) -> None:
    assert [
        e.message for e in validator.iter_errors(load_file(finished / "config.yaml"))
    ] == []


RIGHT: list[dict[str, Any]] = [
    {"optimizer.momentum": 0.9, "lr": 0.1, "schedule": "late(start=80%)", "clip": "none"},
    {
        "topology": "a (1).graphml",
        "network": "nets/a.json",
        "optimizer": "torch.optim.RAdam",
    },
    {
        "communication": {
            "name": "every",
            "k": 2,
            "schedule": {"name": "late", "start": "90%"},
        }
    },
    {"optimizer": {"momentum": 0.5}, "batch": 32, "compute": "20ms", "weights": "file"},
    {
        "sam": 0.1,
        "label_noise": {"level": 0.1, "start": "75%"},
        "engine": "ray(workers=2)",
    },
    {
        "sweep": {"seed": [0, 1], "optimizer.lr": [0.1]},
        "node_lr": {"3": 0.5},
        "faults": "churn",
    },
]
#: As they stand in a file; what a plug-in takes depends on which one is chosen.
TYPOS = [
    "stepz: 3",
    "nodes: many",
    "nodes: true",
    "steps: 0",
    "steps.x: 3",
    "optimizer: adamx",
    "optimizer: {name: sgd, momentun: 1}",
    "optimizer: {momentun: 1}",
    "optimizer.momentun: 1",
    "optimizer.momentum: x",
    "optimizer.momentum.x: 1",
    "optimizer: adamw(eps=1e-7)\noptimizer.momentum: 0.9",
    "communication.strat: 90%",
    "schedule: {name: late, strat: 90%}",
    "schedule: late\nschedule.strat: 90%",
    "schedule: late\ncommunication: early",
    "communication: {name: every, schedule: {name: lat}}",
    "communication: {name: every, k: 2, schedule: late}\ncommunication.schedule.strt: 1%",
    "topology.p: 0.1",
    "topology: ring\ntopology.k: 3",
    "topology: {name: random_regular, degree: 3}\ntopology.p: 3",
    "task: quadratic\ntask.dimensoin: 8",
    "task: cifar10\nmodel.chanels: [8]",
    "learning_rate.lr: fast",
    "lr: fast",
    "lr.x: 1",
    "batch: 0",
    "engine: {wrkers: 3}",
    "engine.worker: 4",
    "engine.workers: x",
    "engine.progress_s: -1",
    "metrics: [acuracy]",
    "label_noise: {lvel: 0.1}",
    "label_noise.lvel: 0.1",
    "label_noise.start: 50%",
    "attack.nodes: [1]",
    "node_lr.3: x",
    "merge.x: 1",
]


@pytest.mark.parametrize("settings", RIGHT, ids=str)
def test_the_schema_takes_what_may_be_written(
    validator: Any, settings: dict[str, Any]
) -> None:
    assert [error.message for error in validator.iter_errors(settings)] == []


@pytest.mark.parametrize("text", TYPOS)
def test_schema_and_reader_refuse_the_same(
    validator: Any, text: str, tmp_path: Path
) -> None:
    (tmp_path / "a.yaml").write_text(text)
    assert file_faults(tmp_path / "a.yaml")
    assert not validator.is_valid(load(text))


#: What looks like one of those, and is right.
TAKEN = [
    "optimizer.momentum: 0.9",
    "topology: random_regular\ntopology.degree: 3",
    "optimizer: torch.optim.Adam\noptimizer.betas: [0.9, 0.99]",
    "communication: {name: every, k: 2, schedule: late}\ncommunication.schedule.start: 1%",
    "schedule: late(intensity=0.2)\nschedule.start: 80%",
    "task: cifar10\nmodel.channels: [8]",
    "task: induction\noptimizer.amsgrad: true",
    "label_noise.level: 0.1\nlabel_noise.start: 50%",
    "optimizer: muon_lite\noptimizer.chi.embedding: 1",
    "engine.workers: auto\nengine.wire: same",
    "node_lr.3: 2",
    "batch: 8",
    # as a run writes that never communicates, or whose task brings its own model
    "algorithm: local\ntopology: null\nweights: null\ncommunication: null",
    "task: induction\nmodel: null",
]


@pytest.mark.parametrize("text", TAKEN)
def test_schema_and_reader_take_the_same(
    validator: Any, text: str, tmp_path: Path
) -> None:
    (tmp_path / "a.yaml").write_text(text)
    assert [one for one in file_faults(tmp_path / "a.yaml") if one.line] == []
    assert [error.message for error in validator.iter_errors(load(text))] == []


def test_the_schema_is_printed(
    schema: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert check("--schema") == 0
    assert json.loads(capsys.readouterr().out) == schema
