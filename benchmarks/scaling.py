"""Many nodes in one process: time of a step, and peak memory against what a run expects.

    python benchmarks/scaling.py [--threads 2]

Every line is a process of its own, so that its peak is its own. Times are of the CPU, least of
several steps.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import table, threads

# isort: split
from decentral.config import make_config
from decentral.engines.local import LocalRun
from decentral.run.folder import RunFolder

#: Steps that are timed; as many again follow as a run, with evaluations and a checkpoint.
STEPS = 20
LARGE = {"name": "mlp", "hidden": [960, 960]}
CASES: list[tuple[str, dict[str, Any]]] = [
    *(("digits, mlp", {"nodes": nodes}) for nodes in (16, 64, 256, 1024)),
    *(("digits, mlp of 1M", {"nodes": nodes, "model": LARGE}) for nodes in (16, 64)),
]


def timed_step(run: LocalRun) -> float:
    """Do one step; return its seconds of CPU."""
    begin = time.process_time()
    run.setup.algorithm(run.block, run.block.decide())
    run.block.finish_step()
    return time.process_time() - begin


def measure(settings: dict[str, Any], count: int) -> dict[str, float]:
    """Begin a run, time steps, go on to its end; return time and memory."""
    given = {
        "steps": 2 * STEPS,
        "checkpoint_every": 2 * STEPS,
        "threads": count,
        **settings,
    }
    run = LocalRun(make_config(given))
    assert run.memory
    with tempfile.TemporaryDirectory() as folder:
        run.begin(RunFolder.create(Path(folder)))
        step_s = min(timed_step(run) for _ in range(STEPS))
        run.run(lambda row: None)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    parameters = run.setup.layout.parameter_count
    return {
        "parameters": parameters,
        "s": step_s,
        "peak": peak,
        "expected": run.memory.total,
    }


def line(name: str, settings: dict[str, Any], count: int) -> list[object]:
    """Measure one case in a process of its own."""
    command = [sys.executable, __file__, "--case", json.dumps(settings), str(count)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    nodes = settings["nodes"]
    memory = [f"{found[key] / 1e9:.2f}" for key in ("peak", "expected")]
    times = [found["s"] * 1e3, found["s"] * 1e6 / nodes]
    return [name, nodes, f"{int(found['parameters']):,}", *times, *memory]


if __name__ == "__main__":
    if "--case" in sys.argv:
        case, given_threads = sys.argv[-2:]
        print(json.dumps(measure(json.loads(case), int(given_threads))))
        raise SystemExit
    chosen = threads()
    head = (
        "task",
        "nodes",
        "parameters",
        "ms a step",
        "us a node",
        "peak GB",
        "expected GB",
    )
    table(f"Many nodes, {chosen} threads", head, [line(*case, chosen) for case in CASES])
