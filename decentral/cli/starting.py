"""``decentral init``: a configuration and a plug-in file to begin with."""

from __future__ import annotations

import os
from importlib.resources import files
from pathlib import Path

from rich.text import Text

from decentral.cli.words import QUIET, console_of, facts, shown
from decentral.errors import ConfigError

#: The files of a start, and where they are kept: as text, since they are no part of the package.
_FILES = {"experiment.yaml": "start/experiment.yaml", "mine.py": "start/mine.py.txt"}


def init(path: str) -> None:
    """Lay the files of a start into a folder; nothing that is there is touched."""
    folder = Path(path).expanduser()
    for name in _FILES:
        if (folder / name).exists():
            raise ConfigError(f"{folder / name} exists; choose another folder, or move it away.")
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
    here = [] if folder.resolve() == Path.cwd().resolve() else [("go there", f"cd {shown(folder)}")]
    rows: list[tuple[str, Text | str]] = [
        *here,
        ("look", "decentral show topology mine.py:two_rings --nodes 16"),
        ("", "decentral show schedule mine.py:pulses"),
        ("run", "decentral launch experiment.yaml"),
        ("vary", "decentral sweep experiment.yaml topology.bridges=1,4 seed=0..2"),
    ]
    names = " and ".join(_FILES)
    console.print(Text(f"wrote {names} into {shown(folder)}", "bold"))
    console.print()
    console.print(facts(rows), soft_wrap=True)
    console.print()
    console.print(Text("Both files run as they are; change them.", QUIET))
