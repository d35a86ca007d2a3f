"""Run folders of the format before: read by whatever looks at a run, and not gone on with.

``old/format-2`` was written by a run of two workers on Ray, before settings of the engine stood
under it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from support import tiny_run

import decentral
from decentral import Run
from decentral.api import restart, run_config
from decentral.cli import run as cli
from decentral.config import make_config
from decentral.errors import ConfigError
from decentral.report.compare import compare
from decentral.run.checkpoint import newest_checkpoint
from decentral.run.digests import FORMAT, config_head, present

OLD = Path(__file__).parent / "old" / "format-2"


@pytest.fixture
def old(tmp_path: Path) -> Path:
    return Path(shutil.copytree(OLD, tmp_path / "old"))


READERS: dict[str, Callable[[Path], list[str]]] = {
    "report": lambda run: ["report", str(run)],
    "compare": lambda run: [
        "compare",
        str(run),
        str(OLD),
        "--out",
        str(run / "compare.html"),
    ],
    "merge": lambda run: ["merge", str(run), "--rule", "uniform"],
    "export": lambda run: ["export", str(run), "--out", str(run / "model")],
}


@pytest.mark.parametrize("reader", READERS)
def test_a_run_of_the_format_before_is_read(reader: str, old: Path, capsys: Any) -> None:
    assert cli(READERS[reader](old)) == 0, capsys.readouterr().err


def test_what_is_read_of_it_is_what_was_trained(old: Path) -> None:
    run, found = Run(old), run_config(old)
    assert found.engine == make_config({"engine": "ray(workers=2)"}).engine
    assert (found.nodes, found.steps, found.seed) == (3, 12, 5)
    stored = json.loads((old / "summary.json").read_text())
    assert run.summary["final"]["accuracy/merged"] == stored["final"]["accuracy/merged"]
    saved = newest_checkpoint(old)
    assert saved.shards == ("nodes-00000.safetensors", "nodes-00001.safetensors")
    assert saved.load([0, 2]).nodes.keys() == {0, 2}
    analysis = run.analyze(pairs=1, points=2, samples=10)
    assert (analysis["step"], analysis["nodes"]) == (8, 3)


def test_it_is_not_gone_on_with(old: Path) -> None:
    (old / "summary.json").unlink()
    before = sorted(path.name for path in old.rglob("*"))
    with pytest.raises(
        ConfigError, match=r"in format 2, which is read only; .* of format 3"
    ):
        decentral.resume(old)
    assert sorted(path.name for path in old.rglob("*")) == before


@pytest.mark.parametrize(
    ("engine", "found"),
    [
        ("local", {"name": "local"}),
        ("auto", {"name": "auto"}),
        ("ray", {"name": "ray", "workers": 4, "wire": "same"}),
    ],
)
def test_flat_settings_of_an_engine_move_under_it(
    engine: str, found: dict[str, Any]
) -> None:
    flat = {"seed": 3, "engine": engine, "workers": 4, "wire": "same", "faults": []}
    assert present(flat, 2) == {"seed": 3, "engine": found, "faults": []}
    assert present({"seed": 3, "engine": found}, FORMAT) == {"seed": 3, "engine": found}


# --- the present format ---------------------------------------------------------------------------


def test_a_run_folder_names_its_format_and_nests_its_engine(tmp_path: Path) -> None:
    tiny_run(tmp_path / "run").run(lambda row: None)
    text = (tmp_path / "run/config.yaml").read_text()
    assert text.startswith(f"# decentral run, format {FORMAT}:")
    written = yaml.safe_load(text)
    assert written["engine"] == {"name": "local"}
    assert not {"workers", "address", "wire"} & written.keys()
    (manifest, *_) = (tmp_path / "run").glob("checkpoints/*/manifest.json")
    assert json.loads(manifest.read_text())["format"] == FORMAT


@pytest.mark.parametrize("added", ["later: 7", "engine: {name: local, later: 7}"])
def test_readers_ignore_keys_that_a_later_version_added(
    added: str, tmp_path: Path
) -> None:
    """Going on would train something else than that version meant."""
    out = tmp_path / "run"
    tiny_run(out).run(lambda row: None)
    (out / "summary.json").unlink()
    kept = (out / "config.yaml").read_text().replace("engine:\n  name: local\n", "")
    (out / "config.yaml").write_text(f"{kept}{added}\n")
    assert run_config(out).nodes > 0
    with pytest.raises(ConfigError, match=r"later', which this version .* not know"):
        restart(out)


def test_two_engines_differ_by_their_names(old: Path, tmp_path: Path) -> None:
    """Not by all that one of them takes; the same of both formats are the same."""
    kept = (old / "config.yaml").read_text()
    local = Path(shutil.copytree(old, tmp_path / "local"))
    (local / "config.yaml").write_text(kept.replace("engine: ray", "engine: local"))
    assert compare([old, local]).differing == ("engine.name",)
    new = Path(shutil.copytree(old, tmp_path / "new"))
    settings = present(yaml.safe_load(kept), 2)
    (new / "config.yaml").write_text(config_head() + yaml.safe_dump(settings))
    assert compare([old, new]).differing == ()
