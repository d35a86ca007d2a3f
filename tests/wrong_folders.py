"""What can be wrong with a run folder, beside what ``wrong.py`` has."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import patch

import networkx as nx
import torch
from wrong import SMALL, Case

import decentral
from decentral.errors import Interrupted
from decentral.loop.trained import TrainedModels
from decentral.run.checkpoint import Checkpoint, restoring
from decentral.run.folder import RunFolder
from decentral.run.lock import WriterLock
from decentral.trust import confirm
from decentral.units import time_text
from decentral.yamltext import dump, load

FOLDERS = [
    Case("adversarial: a loss without inputs", f"{SMALL} adversarial=0.1 --out unmoved", 1),
    Case("serve: no folder", "serve nowhere"),
    Case("a number of many digits", f"launch nodes={'1' * 500}"),
    Case("sweep: a range without end", "sweep seed=0..1000000000"),
    Case("aggregation: nothing is left", f"{SMALL} aggregation=trimmed_mean(cut=9)"),
    Case("launch or resume: no folder named", f"{SMALL} --resume"),
    Case("launch or resume: another run", f"{SMALL} seed=9 --resume --out finished"),
    Case("launch: what is left of a run", f"{SMALL} --out remains"),
    Case("launch: what is no run's", f"{SMALL} --out notes"),
    Case("launch or resume: what is no run's", f"{SMALL} --resume --out notes"),
    Case("resume: an edited setting", "resume edited"),
    Case("resume: edited settings that may change", "resume longer"),
    Case("resume: a file that has changed", "resume plugged"),
    Case("resume: a change that cannot be", "resume longer --change nodes=5"),
    Case("resume: no more steps", "resume finished --change steps=4"),
    Case("resume: beyond the final merge", "resume finished --change steps=8"),
    Case("resume: a change without more steps", "resume finished --change lr=0.1"),
    Case("merge: somebody else's plug-in", "merge foreign_file"),
    Case("merge: two of somebody else's", "merge foreign_two"),
    Case("merge: somebody else's module", "merge foreign_module"),
    Case("resume: a change before the first checkpoint", "resume empty --change steps=8"),
]  # fmt: skip


def _without_pandas() -> None:
    with patch.dict(sys.modules, {"pandas": None}):
        decentral.compare("finished").frame()


def _late_clock() -> None:
    """A clock that somebody set to the year 10000."""
    late = SimpleNamespace(now=lambda zone: datetime.fromtimestamp(253402300800, zone))
    with patch("decentral.units.datetime", late):
        time_text()


def _interrupted_sweep() -> None:
    def stopped(*given: Any) -> None:
        raise Interrupted("stop")

    with patch("decentral.sweeps.running.run_point", stopped):
        decentral.sweep({"seed": 2}, out="swept", quiet=True)


def _swept(size: Any = -1) -> Any:
    """Return a sweep of one run, which fails for a size that cannot be."""
    given: Any = {"task": "quadratic", "nodes": 2, "steps": 2, "out": "swept"}
    axes = {"topology": {"own": lambda n: nx.path_graph(n if size > 0 else n + 1)}}
    return decentral.sweep(axes, quiet=True, **given)


def _misfit() -> None:
    with restoring(3):
        raise KeyError("round")


#: What only Python can do wrong.
def _stands_nowhere() -> None:
    """The folder that this process stands in was removed."""
    kept = os.getcwd()
    try:
        os.chdir(tempfile.mkdtemp())
        os.rmdir(os.getcwd())
        WriterLock(Path("run"))
    finally:
        os.chdir(kept)


PYTHON: dict[str, Callable[[], Any]] = {
    "a process that stands nowhere": _stands_nowhere,
    "a checkpoint of another model": lambda: Checkpoint(
        4, (0,), {0: {"row": torch.zeros(16)}}
    ).check_fits(1, 32),
    "a checkpoint that does not fit": _misfit,
    "a line that is no object": lambda: RunFolder(Path("spoilt")).rows("metrics.jsonl"),
    "a merged model without a digest": lambda: decentral.Run("spoilt").merged_model(),
    "export: a run without a summary": lambda: decentral.Run("unsummed").export("made"),
    "Run: a setting": lambda: decentral.Run("finished", steps=3),  # pyright: ignore
    "Run: a part that the folder keeps": lambda: decentral.Run(
        "finished", merge="median"
    ).models(),
    "resume: a part that the folder keeps": lambda: decentral.resume(
        "finished", merge="median"
    ),
    "resume: a part that may change": lambda: decentral.resume(
        "finished", communication="none"
    ),
    "the model of a lost node": lambda: TrainedModels.state(
        cast("TrainedModels", SimpleNamespace(live=[0], step=4)), 1
    ),
    "a clock beyond all dates": _late_clock,
    "a frame without pandas": _without_pandas,
    "a plug-in that has changed since": lambda: confirm({"theirs.py": "0" * 64}),
    "sweep: no axis": lambda: decentral.sweep({}),
    "sweep: an axis and a keyword": lambda: decentral.sweep({"lr": [1, 2]}, lr=1),
    "sweep: interrupted in Python": _interrupted_sweep,
    "sweep: every run failed": lambda: _swept(),
    "sweep: best by what is not measured": lambda: _swept(4).best("speed"),
}


def wreck() -> None:
    """Damage copies of the finished run in this folder."""
    shutil.copytree("finished", "remains")
    Path("remains/config.yaml").unlink()
    Path("notes").mkdir()
    Path("notes/plan.txt").write_text("a plan")
    for name, old, new in (
        ("edited", "seed: 0", "seed: 1"),
        ("longer", "steps: 4", "steps: 8"),
        ("plugged", "", ""),
        ("spoilt", "", ""),
        ("unsummed", "", ""),
    ):
        shutil.copytree("finished", name)
        Path(name, "summary.json").unlink()
        config = Path(name, "config.yaml")
        config.write_text(config.read_text().replace(f"\n{old}\n", f"\n{new}\n"))
    Path("theirs.py").write_text("import lone\n")
    for name, parts in (
        ("foreign_file", {"learning_rate": "theirs.py:slow"}),
        ("foreign_two", {"learning_rate": "theirs.py:slow", "batch": "lone.py:grow"}),
        ("foreign_module", {"optimizer": "plugins.Own"}),
    ):
        shutil.copytree("finished", name)
        config = Path(name, "config.yaml")
        text = config.read_text()
        config.write_text(text.partition("\n")[0] + "\n" + dump(load(text) | parts))
    Path("spoilt/merged.safetensors").write_bytes(b"nothing")
    Path("spoilt/metrics.jsonl").write_text("[]\n")
    manifest = max(Path("plugged/checkpoints").glob("*/manifest.json"))
    stated = json.loads(manifest.read_text())
    del stated["sha256"]
    manifest.write_text(
        json.dumps(stated | {"files": {str(Path("lone.py").resolve()): "other"}})
    )
