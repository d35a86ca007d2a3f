"""Append the outcome of a soak run (a JUnit file of pytest's) to a Markdown table."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from xml.etree import ElementTree

HEADER = """# Soak runs

Written by `.ci/soak`, newest last; failures stay.

| date (UTC) | commit | machine | test | outcome | seconds |
|---|---|---|---|---|--:|
"""


def commit() -> str:
    """Return the commit that was tested, with a + if the files differed from it."""
    command = ["git", "describe", "--always", "--dirty=+", "--exclude", "*"]
    return subprocess.run(
        command, capture_output=True, text=True, check=True
    ).stdout.strip()


def outcome(case: ElementTree.Element) -> str:
    """Return passed, perhaps with what was counted, failed, or skipped with its reason."""
    if case.find("failure") is not None or case.find("error") is not None:
        return "**failed**"
    skipped = case.find("skipped")
    if skipped is not None:
        return f"skipped: {skipped.get('message', '')}"
    counts = [one.get("value", "") for one in case.iter("property")]
    return f"passed: {'; '.join(counts)}" if counts else "passed"


def main(results: Path, page: Path) -> None:
    """Append one row per test."""
    torch, python = version("torch"), platform.python_version()
    machine = f"{os.cpu_count()} cores, Python {python}, torch {torch}"
    place = f"{datetime.now(UTC):%Y-%m-%d} | {commit()} | {machine}"
    rows = [
        f"| {place} | `{case.get('classname')}.{case.get('name')}` | {outcome(case)} "
        f"| {float(case.get('time', 0)):.0f} |\n"
        for case in ElementTree.parse(results).iter("testcase")
    ]
    page.parent.mkdir(exist_ok=True)
    before = page.read_text() if page.exists() else HEADER
    page.write_text(before + "".join(rows))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
