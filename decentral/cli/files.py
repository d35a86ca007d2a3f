"""The commands about files that run nothing: init writes those to begin with, check
reads them.
"""

from __future__ import annotations

import json as text_json
import os
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from rich.text import Text

from decentral.cli.output import console_of
from decentral.cli.words import MERGED, QUIET, count, facts, path_text
from decentral.config import (
    Fault,
    file_faults,
    make_config,
    read_file,
    read_settings,
)
from decentral.errors import ConfigError, RunError
from decentral.limits import named_folder
from decentral.trust import Trust

# --- init -------------------------------------------------------------------------


#: The files of a start, and where they are kept: as text, since they are no part of
#: the package.
_FILES = {"experiment.yaml": "start/experiment.yaml", "mine.py": "start/mine.py.txt"}


def init(path: str) -> None:
    """Lay the files of a start into a folder; nothing that is there is touched."""
    folder = named_folder(path)
    for name in _FILES:
        if (folder / name).exists():
            raise ConfigError(
                f"{folder / name} exists; choose another folder, or move it away."
            )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, source in _FILES.items():
            with (folder / name).open("x", encoding="utf-8") as file:
                file.write((files("decentral.cli") / source).read_text(encoding="utf-8"))
    except OSError as error:
        cause = os.strerror(error.errno or 0)
        raise ConfigError(
            f"folder {folder} cannot be written ({cause}); choose another."
        ) from error
    _next(folder)


def _next(folder: Path) -> None:
    """Say what to do with the files."""
    console = console_of()
    here = (
        []
        if folder.resolve() == Path.cwd().resolve()
        else [("go there", f"cd {path_text(folder)}")]
    )
    rows: list[tuple[str, Text | str]] = [
        *here,
        ("look", "decentral show topology mine.py:two_rings --nodes 16"),
        ("", "decentral show schedule mine.py:pulses"),
        ("run", "decentral launch experiment.yaml"),
        ("vary", "decentral sweep experiment.yaml topology.bridges=1,4 seed=0..2"),
    ]
    names = " and ".join(_FILES)
    console.print(Text(f"wrote {names} into {path_text(folder)}", "bold"))
    console.print()
    console.print(facts(rows), soft_wrap=True)
    console.print()
    console.print(Text("Both files run as they are; change them.", QUIET))


# --- check ------------------------------------------------------------------------


def check(
    path: str | None, *, json: bool, schema: bool, trust: Sequence[str] = ()
) -> None:
    """Print what is wrong with a file or folder; status 2 for a file, 1 for a
    folder, else 0.

    Args:
        path: A configuration, or a run folder.
        json: Whether the result is printed as JSON.
        schema: Whether the JSON Schema of configurations is printed, and nothing is
            checked.
        trust: Digests of code that a configuration may name.
    """
    if schema:
        from decentral.config.schema import config_schema

        print(text_json.dumps(config_schema(), indent=1))
        return
    if path is None:
        raise ConfigError(
            "check: give a configuration or a run folder, or ask for --schema."
        )
    place = named_folder(path)
    if not place.exists():
        raise ConfigError(
            f"check: {path} does not exist; give a configuration or a run folder."
        )
    if place.is_dir():
        _check_folder(place, json)
    else:
        _check_file(place, json, Trust.of(trust))


def _check_file(path: Path, json: bool, trust: Trust) -> None:
    faults, about = _judge(path, trust)
    if json:
        listed = [
            {"setting": f.setting, "line": f.line or None, "text": f.text} for f in faults
        ]
        _print(
            {
                "path": str(path),
                "kind": "configuration",
                "whole": not faults,
                "faults": listed,
            }
        )
    else:
        console = console_of()
        for fault in faults:
            where = f"line {fault.line}: " if fault.line else ""
            console.print(Text.assemble((where, "bold"), fault.text), soft_wrap=True)
        if not faults:
            console.print(Text(f"{path} is right: {about}."), soft_wrap=True)
    if faults:
        wrong = count(len(faults), "mistake")
        raise ConfigError(f"configuration {path} has {wrong}; nothing was run.")


def _judge(path: Path, trust: Trust) -> tuple[list[Fault], str]:
    """Return what is wrong with a configuration, else what it describes."""
    from decentral.loop.preparing import prepare
    from decentral.sweeps import read_sweep

    # All mistakes of the text come first; what prepare refuses below is one at a
    # time.
    if faults := file_faults(path, "sweep", trust=trust):
        return faults, ""
    try:
        if "sweep" in read_file(path):
            points = read_sweep(str(path), [], {}, trust).points
            for point in points:
                # As a run begins: only so are parts refused that are right alone,
                # but not together.
                prepare(point.config)
            return [], f"a sweep of {count(len(points), 'run')}"
        setup = prepare(make_config(read_settings(path, trust=trust)))
    except (ConfigError, RunError) as error:
        return [Fault("", 0, str(error))], ""
    config = setup.config
    return [], f"a run of {count(config.nodes, 'node')} and {config.steps:,} steps"


def _check_folder(folder: Path, json: bool) -> None:
    from decentral.run.checking import check_run

    # One that lacks only its configuration is a broken run, and is told what is
    # broken.
    if not (folder / "config.yaml").exists() and not (folder / "checkpoints").exists():
        raise ConfigError(
            f"{folder} is no run folder: it has no config.yaml; give one, or a file."
        )
    parts = list(check_run(folder))
    broken = [part for part in parts if not part.whole]
    if json:
        listed = [vars(part) for part in parts]
        _print({"path": str(folder), "kind": "run", "whole": not broken, "parts": listed})
    else:
        console, width = console_of(), max(len(part.name) for part in parts)
        for part in parts:
            sign = ("whole   ", QUIET) if part.whole else ("broken  ", MERGED)
            line = Text.assemble(part.name.ljust(width + 2), sign, part.text)
            console.print(line, soft_wrap=True)
    if broken:
        names = ", ".join(part.name for part in broken[:3])
        raise RunError(
            f"run {folder} is not whole: {names}{', ...' * (len(broken) > 3)}."
        )


def _print(found: dict[str, Any]) -> None:
    print(text_json.dumps(found, indent=1))
