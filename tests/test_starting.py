"""``decentral init`` and the gallery of configurations: what they write and hold runs as it is."""

from __future__ import annotations

import runpy
import shutil
from pathlib import Path
from typing import Any

import pytest
from support import small_images

import decentral.cli
from decentral.config import make_config, read_file
from decentral.loop.preparing import prepare
from decentral.registry import find, read
from decentral.sweeps import read_sweep
from decentral.traits import TaskTraits, traits_of

pytestmark = pytest.mark.usefixtures("drawn")

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
LARGE = {
    "cifar10_resnet18": {"model.width": 4, "batch": 4, "calibration_samples": 16},
    "text_gpt": {"model": "gpt(layers=1, width=8)", "batch": 2, "calibration_samples": 4},
}
FILES = sorted(CONFIGS.glob("*.yaml"))
PAPERS = sorted((CONFIGS / "papers").glob("*.yaml"))
TINY = {"nodes": 4, "eval_samples": 16, "threads": 1}
Captured = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    return tmp_path


def run(*words: str) -> int:
    return decentral.cli.run(words)


# --- init -----------------------------------------------------------------------------------------


def test_what_init_writes_runs_as_it_is(
    capsys: Captured, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("init", "mine") == 0
    said = capsys.readouterr().out
    assert all(len(line.rstrip()) <= 80 for line in said.splitlines())
    monkeypatch.chdir(folder / "mine")
    for line in said.splitlines():
        words = line.split("decentral ")
        if len(words) == 2 and words[1].startswith(("show", "launch", "sweep")):
            tiny = [] if words[1].startswith("show") else ["steps=4", "eval_samples=16"]
            assert run(*words[1].split(), *tiny) == 0, capsys.readouterr().err
    assert list((folder / "mine" / "runs").glob("*/summary.json"))
    assert len(list((folder / "mine" / "sweeps").glob("*/*/summary.json"))) == 6


def test_init_overwrites_nothing_and_writes_nothing_when_it_cannot(folder: Path) -> None:
    (folder / "mine.py").write_text("precious")
    assert run("init", ".") == 2
    assert (folder / "mine.py").read_text() == "precious"
    assert not (folder / "experiment.yaml").exists()


def test_every_key_of_the_starting_configuration_is_explained(folder: Path) -> None:
    assert run("init", ".") == 0
    text = (folder / "experiment.yaml").read_text()
    for key in read_file("experiment.yaml"):
        line = next(line for line in text.splitlines() if line.startswith(f"{key}:"))
        assert "#" in line or key in ("nodes", "optimizer", "learning_rate")


# --- configs/ -------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_configuration_runs_at_a_few_steps(
    file: Path, folder: Path, capsys: Captured
) -> None:
    """All points of a sweep can be prepared, two of them run."""
    settings = read_file(file)
    less = TINY | LARGE.get(file.stem, {}) | _data_of(settings, folder)
    tiny = [f"{key}={value}" for key, value in less.items()]
    if "sweep" not in settings:
        assert run("launch", str(file), *tiny, "steps=2", "--quiet", "--out", "run") == 0
        assert (folder / "run" / "merged.safetensors").exists()
        return
    texts = read("task", settings["task"]).name == "text"
    model = "gpt(width=8,heads=2,layers=1)" if texts else "mlp(hidden=[8])"
    for point in read_sweep(str(file), ["seed=0", f"model={model}"], {}).points:
        prepare(point.config)
    tiny += [f"model={model}"] if texts else []
    axes = {key: values for key, values in settings["sweep"].items()}
    first = [f"{key}={_first(values)}" for key, values in axes.items() if key != "seed"]
    assert run("sweep", str(file), *tiny, "steps=110", "seed=0,1", *first, "--quiet") == 0


def _data_of(settings: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return small images for a task that reads some."""
    task = read("task", settings["task"])
    if traits_of(find("task", task.name), TaskTraits).reads != "images":
        return {}
    return {"task.path": small_images(), "task.cache": folder / "cache"}


@pytest.mark.parametrize("file", PAPERS, ids=lambda file: file.stem)
def test_a_configuration_of_a_paper_can_be_prepared(file: Path) -> None:
    text = file.read_text()
    assert f"configs/papers/{file.name}" in text
    prepare(make_config(read_file(file)))


def test_the_gallery_lists_all_configurations() -> None:
    listed = (CONFIGS / "README.md").read_text()
    for file in [*FILES, *PAPERS]:
        assert f"]({file.relative_to(CONFIGS)})" in listed


def _first(values: object) -> object:
    return next(iter(values.values() if isinstance(values, dict) else values))  # type: ignore


@pytest.mark.parametrize(
    "file", [*FILES, CONFIGS / "own_model.py"], ids=lambda file: file.name
)
def test_a_configuration_says_what_it_shows_how_to_run_it_and_what_was_seen(
    file: Path,
) -> None:
    text = file.read_text()
    assert f"configs/{file.name}" in text
    assert "Seen" in text


def test_own_model_runs(folder: Path, capsys: Captured) -> None:
    shutil.copy(CONFIGS / "own_model.py", folder)
    found = runpy.run_path("own_model.py")["main"](steps=8)
    assert found.summary["final"]["loss/merged"] > 0
    assert "merged model" in capsys.readouterr().out


def test_sweeps_are_told_apart_from_runs(capsys: Captured) -> None:
    assert run("launch", str(CONFIGS / "late_vs_early.yaml")) == 2
    assert "run it by `decentral sweep`" in capsys.readouterr().err
    with pytest.raises(ValueError, match="describes a sweep"):
        make_config(read_file(CONFIGS / "late_vs_early.yaml"))
