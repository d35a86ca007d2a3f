"""A user's own files, opened because they were named; they travel with a job to other machines."""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Mapping
from pathlib import Path

#: Endings of graph files that are topologies, in any case and with .gz behind them, and formats.
GRAPHS = {
    ".graphml": "markup", ".xml": "markup", ".gexf": "markup", ".gml": "gml",
    ".json": "json", ".jgf": "json", ".cyjs": "json", ".net": "pajek", ".paj": "pajek",
    ".graph": "metis", ".metis": "metis", ".mtx": "matrix market", ".npz": "numpy",
    ".npy": "numpy", ".csv": "table", ".tsv": "table",
    ".edgelist": "list", ".edges": "list", ".el": "list", ".txt": "list",
}  # fmt: skip
_ENDINGS = (*GRAPHS, *(f"{ending}.gz" for ending in GRAPHS))
_BEFORE_SETTINGS = re.compile(rf"(?:{'|'.join(map(re.escape, GRAPHS))})(?:\.gz)?(?=\()", re.I)
_FUNCTION = re.compile(r"\.py:[A-Za-z_]\w*")

# By the path that the user's machine has: where a file lies here.
_opened: dict[str, Path] = {}
_carried: dict[str, Path] = {}


def located(path: str | Path) -> Path:
    """Return where a named file lies, be it on this machine or carried here from the user's."""
    place = place_of(path)
    if place.is_file():
        _opened[resolved(path)] = place
    return place


def place_of(path: str | Path) -> Path:
    """Return where a named file lies; unlike one that is ``located``, it is not carried along."""
    whole = resolved(path)
    return _carried.get(whole, Path(whole))


def resolved(path: str | Path) -> str:
    """Return the whole path of a file that is named, on the user's machine."""
    return os.path.realpath(os.path.expanduser(path))


def file_part(text: str) -> int:
    """Return how many characters of ``text`` name a user's file, whatever is in its path.

    No call ends as a file does, so its path is data; before a call's settings, the file must exist.

    >>> [file_part(t) for t in ("my job (2)/a.py:b", "Abilene (1).graphml", "late(start=90%)")]
    [17, 19, 0]
    """
    if is_graph_file(text) or text.rstrip().endswith(".py"):
        return len(text.rstrip())
    for start in (found.end() for found in _BEFORE_SETTINGS.finditer(text)):
        if lies(text[:start].strip()):
            return start
    for start in (found.end() for found in _FUNCTION.finditer(text)):
        rest = text[start:].strip()
        path = text[:start].rpartition(":")[0].strip()
        if not rest or (rest.startswith("(") and lies(path)):
            return start
    return 0


def lies(path: str | Path) -> bool:
    """Whether there is such a file, on this machine or carried here."""
    return "\0" not in str(path) and os.path.isfile(place_of(path))


def is_graph_file(text: str) -> bool:
    """Whether a text ends as a graph file does, or is the path of a file that is there.

    >>> is_graph_file("Abilene.GML.gz"), is_graph_file("ring")
    (True, False)
    """
    path = text.strip()
    if path.lower().endswith(_ENDINGS):
        return True
    # A word alone is the name of a plug-in, even where a file is called so.
    return not path.endswith(".py") and ("/" in path or "." in path) and lies(path)


def names_file(word: str) -> bool:
    """Whether a word names a file, there or not, and no setting."""
    return lies(word) or word.endswith(".py") or is_graph_file(word)


def carried_below(folder: Path) -> list[str]:
    """Return the old paths of the files that were carried here and lay below a folder."""
    return [path for path in _carried if path.startswith(f"{folder}{os.sep}")]


def opened() -> dict[str, bytes]:
    """Return the contents of all files that were named so far, to carry them elsewhere."""
    there = {path: place for path, place in _opened.items() if place.is_file()}
    return {path: place.read_bytes() for path, place in there.items()}


def unpack(files: Mapping[str, bytes], folder: Path) -> None:
    """Lay carried files into a folder; from now on they are found under their old paths."""
    for path, content in files.items():
        place = folder / f"{zlib.crc32(path.encode()):x}" / Path(path).name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
        _carried[path] = place
