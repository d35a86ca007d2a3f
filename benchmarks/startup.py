"""From the command to the first step, and the CPU seconds of --help.

python benchmarks/startup.py
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import table

COMMAND = [sys.executable, "-m", "decentral"]


def help_cpu_s() -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([*COMMAND, "--help"], stdout=subprocess.DEVNULL, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def first_step_s() -> float:
    """Return the seconds until a run of the default settings has logged its first steps."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        begin = time.perf_counter()
        process = subprocess.Popen(
            [*COMMAND, "launch", "--out", str(out), "--quiet", "log_every=1"],
            stdout=subprocess.DEVNULL,
            env={**os.environ, "PYTHONWARNINGS": "ignore"},
        )
        try:
            while process.poll() is None and not _stepped(out / "metrics.jsonl"):
                time.sleep(0.005)
            return time.perf_counter() - begin
        finally:
            process.kill()
            process.wait()


def _stepped(metrics: Path) -> bool:
    return metrics.exists() and b'"step": 1,' in metrics.read_bytes()


if __name__ == "__main__":
    rows = [
        ["decentral --help, CPU s", min(help_cpu_s() for _ in range(5)), 0.3],
        ["command to first step, s", min(first_step_s() for _ in range(3)), 4.0],
    ]
    table("Starting", ("what", "best", "target"), rows)
