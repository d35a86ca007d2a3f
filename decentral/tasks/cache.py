"""What was made from data once, kept in a folder for the next run."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from decentral.errors import ConfigError
from decentral.process import OwnFolder

T = TypeVar("T")

#: Where tasks keep what they have decoded, unless told otherwise.
CACHE = "~/.cache/decentral"


def require(what: str, place: Path, setting: str = "path") -> None:
    """Raise ConfigError unless data are where a setting says that they are.

    Args:
        what: Whose setting it is, such as ``task 'text'``.
        place: The file or folder.
        setting: Its name.
    """
    if not place.exists():
        raise ConfigError(
            f"{what}: {setting} = {place}: there is no such file or folder; check {setting}=. "
            f"A run whose data have moved: decentral resume RUN --change task.{setting}=PATH."
        )


def fingerprint(files: Sequence[Path]) -> list[Any]:
    """Return what changes when one of the files does: paths, sizes and times."""
    return [
        [str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns]
        for path in files
    ]


def cached_folder(root: str, name: str, key: Any, make: Callable[[Path], None]) -> Path:
    """Return a folder that ``make`` has filled, now or earlier; it is there whole
    or not at all.

    ``key`` names everything that its contents depend on.

    Args:
        root: Folder of all caches.
        name: What it is of.
        key: Names everything that the contents depend on.
        make: Fills an empty folder.
    """
    digest = hashlib.blake2b(json.dumps(key).encode(), digest_size=8).hexdigest()
    folder = Path(root).expanduser() / f"{name}-{digest}"
    if folder.is_dir():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with OwnFolder(".making-", folder.parent) as scratch:
            made = scratch / "whole"
            made.mkdir()
            make(made)
            _publish(made, folder)
    except OSError as error:
        raise ConfigError(
            f"task {name!r}: cannot keep decoded data in {root} ({error.strerror or error}); "
            "name a folder with room by cache=DIR."
        ) from error
    return folder


def _publish(made: Path, folder: Path) -> None:
    try:
        os.rename(made, folder)
    except OSError:
        if not folder.is_dir():  # else somebody else was faster, with the same
            raise


def show_progress(items: Iterator[T], what: str, total: int) -> Iterator[T]:
    """Yield the items; on a terminal, draw how far it is.

    Args:
        items: The items.
        what: What is done with them.
        total: How many there are.
    """
    live = sys.stderr.isatty()
    for count, item in enumerate(items, start=1):
        if live and (count % max(1, total // 100) == 0 or count == total):
            done = 30 * count // total
            bar = "#" * done + "." * (30 - done)
            print(
                f"\r{what} [{bar}] {count:,}/{total:,}",
                end="",
                file=sys.stderr,
                flush=True,
            )
        yield item
    if live:
        print(file=sys.stderr)
