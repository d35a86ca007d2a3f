"""Run folders, damaged in every way: one clear line, no bug, no hang, nothing lost in silence."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attack as attacks
import pytest
from attack import CHANGE, Tally, attack, quick_folder
from damage import Damage, damages, field_damages, files_of, reseal

import decentral
import decentral.cli

NEWEST = "checkpoints/step-000000006/manifest.json"
GIVEN = {"task": "quadratic", "nodes": 4, "steps": 6, "checkpoint_every": 2, "threads": 1}

#: What is done with a damaged folder: of a finished run, and of one that ended on its way.
READING = {
    "check": ["check", "run"],
    "report": ["report", "run"],
    "compare": ["compare", "run", "whole", "--out", "page.html"],
    "merge": ["merge", "run", "--rule", "uniform"],
    "export": ["export", "run", "--out", "model"],
    "change": CHANGE,
}
GOING_ON = {
    "resume": ["resume", "run", "-q"],
    "launch again": ["launch", "run/config.yaml", "--out", "run", "--resume", "-q"],
}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a whole run, another one, and one that ended on its way."""
    with quick_folder(tmp_path_factory.mktemp("folders")) as folder:
        stage(folder)
        yield folder


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder in which commands are given."""
    with quick_folder(tmp_path) as folder:
        monkeypatch.chdir(folder)
        yield folder
        monkeypatch.undo()


def stage(folder: Path) -> None:
    for name, seed in (("whole", 0), ("other", 5)):
        given = {**GIVEN, "seed": seed, "keep_checkpoints": 3}
        decentral.launch(out=folder / name, quiet=True, **given)
    shutil.copytree(folder / "whole", folder / "stopped")
    for name in ("summary.json", "merged.safetensors"):
        (folder / "stopped" / name).unlink()


def strike(
    bench: Path, damage: Damage, what: str, words: list[str],
    capsys: pytest.CaptureFixture[str], tally: Tally,
) -> None:  # fmt: skip
    """Damage a copy of a run, let a command loose on it, and count what comes out."""
    source = bench / ("stopped" if what in GOING_ON else "whole")
    if not os.path.lexists(source / damage.file):
        return
    for name in ("run", "model"):
        shutil.rmtree(name, ignore_errors=True)
    shutil.copytree(source, "run")
    if not Path("whole").exists():
        Path("whole").symlink_to(bench / "whole")
    damage.harm(Path("run", damage.file), bench / "other" / damage.file)
    found = attack(words, capsys)
    fault = found.fault
    if not fault and what in GOING_ON and found.status == 0:
        fault = "" if intact(bench) else "lost or doubled"
    tally.add(
        "went through" if found.status == 0 else "refused",
        f"{what}: {damage.name}",
        fault,
        found.said,
    )


def intact(bench: Path) -> bool:
    """Whether the run that went on has the records and the model of the undisturbed one."""
    rows, wanted = (
        [
            (row["step"], row.get("phase"), row.get("loss/merged"))
            for row in map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
        ]
        for run in (Path("run"), bench / "whole")
    )
    models = [
        (run / "merged.safetensors").read_bytes()
        for run in (Path("run"), bench / "whole")
    ]
    return rows == wanted and models[0] == models[1]


FEW = (
    "config.yaml", "summary.json", "metrics.jsonl", "merged.safetensors",
    "checkpoints/step-000000006/manifest.json",
    "checkpoints/step-000000006/nodes-00000.safetensors",
)  # fmt: skip


@pytest.mark.parametrize("file", FEW)
def test_a_damaged_file_is_named_in_one_line(
    file: str,
    bench: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(attacks, "LIMIT_S", 60)
    tally = Tally()
    every = [one for one in damages(bench / "whole") if one.file == file]
    for damage in every:
        strike(bench, damage, "check", READING["check"], capsys, tally)
    assert not tally.faults
    assert tally.counts["refused"] >= len(every) - 3, str(tally)


@pytest.mark.parametrize(
    ("file", "harm"),
    [
        ("checkpoints/step-000000006/manifest.json", "a FIFO"),
        ("checkpoints/step-000000006/manifest.json", "nested too deep"),
        ("checkpoints/step-000000006/nodes-00000.safetensors", "flipped in the middle"),
        ("checkpoints/step-000000006/nodes-00000.safetensors", "of a terabyte"),
        ("records.json", "a FIFO"),
        ("env.json", "nested too deep"),
    ],
)
@pytest.mark.parametrize("what", GOING_ON)
def test_a_run_goes_on_from_the_newest_checkpoint_that_is_whole(
    what: str, file: str, harm: str, bench: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    tally = Tally()
    (damage,) = (one for one in damages(bench / "whole") if one.name == f"{file}, {harm}")
    strike(bench, damage, what, GOING_ON[what], capsys, tally)
    assert not tally.faults
    assert tally.counts["went through"] == 1


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("step", 0), ("digests", {}), ("counters", {"offsets": None}), ("counters", {"round": -1}),
        ("counters", {"elapsed_s": True}), ("counters", {"clock": []}),
    ],
)  # fmt: skip
def test_a_manifest_that_cannot_be_so_is_damaged_whatever_its_digest(
    field: str, value: Any, bench: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(bench / "stopped", "run")
    file = Path("run", NEWEST)
    stated = json.loads(file.read_text())
    stated[field] = stated[field] | value if field == "counters" else value
    file.write_text(json.dumps(reseal(stated)))
    assert decentral.cli.run(GOING_ON["resume"]) == 0
    assert "step-000000006: manifest.json is damaged" in capsys.readouterr().err
    assert intact(bench)


def test_records_that_a_checkpoint_counts_on_are_never_lost_in_silence(
    bench: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run goes back to where its records are whole; where they are whole nowhere, it ends."""
    run = Path(shutil.copytree(bench / "stopped", tmp_path / "run"))
    metrics = run / "metrics.jsonl"
    data = metrics.read_bytes()
    metrics.write_bytes(data[:-1])
    assert decentral.cli.run(["resume", str(run), "-q"]) == 0
    assert "metrics.jsonl has lost lines that it counts on" in capsys.readouterr().err
    assert len(metrics.read_bytes().splitlines()) == len(data.splitlines())
    shutil.rmtree(run)
    shutil.copytree(bench / "stopped", run)
    metrics.write_bytes(data.replace(b'"step": 0', b'"step": 1', 1))
    assert decentral.cli.run(["resume", str(run), "-q"]) == 1
    assert "the digest of its lines differs" in capsys.readouterr().err


def test_a_shard_outside_of_its_checkpoint_is_not_read(
    bench: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(bench / "stopped", tmp_path / "run"))
    outside = tmp_path / "outside.safetensors"
    for path in run.glob("checkpoints/step-*/manifest.json"):
        stated = json.loads(path.read_text())
        ((name, digest),) = stated["digests"].items()
        shutil.copyfile(path.parent / name, outside)
        path.write_text(json.dumps(reseal({**stated, "digests": {str(outside): digest}})))
    assert decentral.cli.run(["resume", str(run), "-q"]) == 1
    assert "names a file outside of its checkpoint" in capsys.readouterr().err


def test_a_flipped_bit_of_the_merged_model_is_noticed(
    bench: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(bench / "whole", tmp_path / "run"))
    data = bytearray((run / "merged.safetensors").read_bytes())
    data[-1] ^= 1
    (run / "merged.safetensors").write_bytes(data)
    with pytest.raises(decentral.ConfigError, match="its digest differs"):
        decentral.Run(run).merged_model()


#: What is damaged: every file in every way, or fields of what is read back.
PARTS: dict[str, Callable[[str], bool]] = {
    "the manifest": lambda file: file == NEWEST,
    "older manifests": lambda file: file.endswith("manifest.json") and file != NEWEST,
    "other files": lambda file: not file.endswith("manifest.json"),
}
#: What each damaged field meets; of all else, one after the other.
ALWAYS = ("check", "resume")


@pytest.mark.soak
@pytest.mark.timeout(0)
@pytest.mark.usefixtures("place")
def test_no_damage_of_a_file_is_a_bug_or_a_hang(
    bench: Path, capsys: pytest.CaptureFixture[str],
    record_property: Callable[[str, object], None],
) -> None:  # fmt: skip
    tally = Tally()
    for damage in damages(bench / "whole"):
        for what, words in {**READING, **GOING_ON}.items():
            strike(bench, damage, what, words, capsys, tally)
    record_property("counts", str(tally))
    assert not tally.faults, "\n".join(tally.faults)


@pytest.mark.soak
@pytest.mark.timeout(0)
@pytest.mark.usefixtures("place")
@pytest.mark.parametrize("part", PARTS)
def test_no_field_of_thousands_is_a_bug_or_a_hang(
    part: str, bench: Path, capsys: pytest.CaptureFixture[str],
    record_property: Callable[[str, object], None],
) -> None:  # fmt: skip
    tally = Tally()
    fields = [one for one in field_damages(bench / "whole") if PARTS[part](one.file)]
    every = {**READING, **GOING_ON}
    others = [what for what in every if what not in ALWAYS]
    for place, damage in enumerate(fields):
        for what in (*ALWAYS, others[place % len(others)]):
            strike(bench, damage, what, every[what], capsys, tally)
    record_property("counts", f"{len(fields)} fields, {tally}")
    assert not tally.faults, "\n".join(tally.faults)


def test_every_file_of_a_run_is_attacked(bench: Path) -> None:
    written = {str(p.relative_to(bench / "whole")) for p in (bench / "whole").rglob("*")
               if p.is_file() and not p.name.startswith(".")}  # fmt: skip
    assert written - set(files_of(bench / "whole")) <= {"report.html"}
