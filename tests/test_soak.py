"""What takes minutes: figures of the default task over seeds, random kills, laws on workers."""

from __future__ import annotations

import importlib.util
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest

import decentral

REPO = Path(__file__).resolve().parent.parent
SEEDS = 8

pytestmark = [pytest.mark.soak, pytest.mark.timeout(0)]

#: What an independent implementation measured: local mean before the merge, merged, both in %.
REFERENCE = {
    "ring, late": (88.5, 94.4),
    "complete, 0.1/15": (67.6, 93.5),
    "complete, 0.2/15": (80.8, 94.6),
    "complete, 0.4/15": (87.5, 95.7),
}
#: Seeds of a setting whose spread is too wide for eight.
MANY = {"complete, 0.1/15": 24}


@cache
def benchmark(name: str = "mergeability") -> ModuleType:
    """Return a script of benchmarks/ as a module."""
    found = importlib.util.spec_from_file_location(
        name, REPO / "benchmarks" / f"{name}.py"
    )
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


@cache
def figures(name: str) -> list[dict[str, float]]:
    """Return the headline numbers of a setting, one row per seed."""
    return [
        benchmark().measure(name, "digits", seed) for seed in range(MANY.get(name, SEEDS))
    ]


def mean(name: str, key: str) -> float:
    return statistics.fmean(row[key] for row in figures(name))


def test_all_reduce_is_as_measured_elsewhere() -> None:
    assert mean("all-reduce", "merged") == pytest.approx(97.7, abs=1.0)


@pytest.mark.parametrize("name", list(REFERENCE))
def test_a_single_merge_is_as_measured_elsewhere(name: str) -> None:
    local, merged = REFERENCE[name]
    assert mean(name, "local") == pytest.approx(local, abs=3.0)
    assert mean(name, "merged") == pytest.approx(merged, abs=1.5)


@pytest.mark.parametrize("name", list(REFERENCE))
def test_in_every_seed_the_merge_beats_its_parts_and_silence(name: str) -> None:
    silent = figures("never talking")
    assert mean("never talking", "merged") < 75
    for row, never in zip(figures(name), silent, strict=False):
        assert row["merged"] > row["local"] + 2
        assert row["merged"] > never["merged"] + 15


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "decentral", *words]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The merged model of a run that nobody killed."""
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    subprocess.run(command("launch", *SETTINGS, "--out", str(folder)), check=True)
    return (folder / "merged.safetensors").read_bytes()


EVERY = 40
SETTINGS = ["--quiet", "--steps", "1500", f"checkpoint_every={EVERY}"]


@pytest.mark.parametrize("attempt", range(50))
def test_a_killed_run_resumes_to_the_same_bits(
    attempt: int, undisturbed: bytes, tmp_path: Path
) -> None:
    """Kill -9 at a random moment, again and again until the run ends."""
    draw = random.Random(attempt)
    folder = tmp_path / "run"
    words = ["launch", *SETTINGS, "--out", str(folder), "--resume"]
    while not (folder / "summary.json").exists():
        process = subprocess.Popen(command(*words), stderr=subprocess.DEVNULL)
        awaited = saved_step(folder) + EVERY * draw.randrange(25)
        while process.poll() is None and saved_step(folder) < awaited:
            time.sleep(0.01)
        assert process.poll() in (None, 0)
        # It writes, trains or, where nothing was awaited, starts at this moment.
        time.sleep(draw.uniform(0, 0.3) if awaited else draw.uniform(0, 8))
        process.kill()
        process.wait()
    assert (folder / "merged.safetensors").read_bytes() == undisturbed


def saved_step(folder: Path) -> int:
    """Return the step of the newest checkpoint of a run, 0 before the first."""
    found = (folder / "checkpoints").glob("step-*")
    return max((int(path.name.removeprefix("step-")) for path in found), default=0)


def test_adapters_of_ranks_that_are_killed_beat_their_base_and_their_nodes(
    data_dir: Path, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """Two ranks of torchrun, one killed in the middle; used without decentral at the end."""
    words = [str(data_dir / "text"), "--out", str(tmp_path)]
    rows = benchmark("adapters").main(words)
    assert len(rows) == 3
    gains = [row["base"] - row["merged"] for row in rows]
    assert statistics.fmean(gains) > 3 * statistics.stdev(gains)
    for row in rows:
        record_property(
            "", "{base:.3f} base, {nodes:.3f} nodes, {merged:.3f} merged".format(**row)
        )
        assert row["merged"] < row["nodes"] < row["base"]
        assert row["equal"]


def test_diloco_comes_near_all_reduce_at_a_fiftieth_of_its_bytes(
    data_dir: Path, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """Within 5 % of its loss at under 2 % of its bytes, in every seed of the recipe."""
    path = data_dir / "text" / "tinyshakespeare.txt"
    runs = decentral.sweep(
        {}, config=REPO / "configs" / "diloco.yaml", out=str(tmp_path), quiet=True,
        task={"name": "text", "context": 32, "path": str(path)},
    )  # fmt: skip
    found = {(run["algorithm"], run["seed"]): run for run in runs}
    for seed in range(3):
        ours, theirs = found["diloco", seed], found["allreduce", seed]
        losses = ours["loss/merged"], theirs["loss/merged"]
        record_property("", "DiLoCo {:.4f}, all-reduce {:.4f}".format(*losses))
        assert losses[0] < 1.05 * losses[1]
        assert ours["comm/bytes"] < 0.02 * theirs["comm/bytes"]


def test_the_laws_hold_where_rows_travel_between_workers() -> None:
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-n",
        "2",
        "--engine",
        "ray",
        "tests/laws",
    ]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
