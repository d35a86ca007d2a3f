"""What is wrong with a graph file is said in one line, with its line and what was expected."""

from __future__ import annotations

import ast
import gzip
import io
import re
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import decentral.topology.files as package
from decentral import ConfigError
from decentral.topology.files import content
from decentral.topology.files.content import Unreadable
from decentral.topology.files.formats import read_graph

PACKAGE = Path(package.__file__).parent
TABLE = Path(__file__).with_name("graph_mistakes.txt")

#: What cannot stand in graph_mistakes.txt: name of the file, content, and what is said.
ODD: list[tuple[str, str | bytes, str]] = [
    ("a.gml", "", "it is empty; expected GraphML"),
    ("a.csv", "\n", "it is empty; expected GraphML"),
    ("a.gml", b"\x1f\x8b\x08junk", "it cannot be unpacked"),
    ("a.txt", b"0 1\n1 \x002\n", "line 2: it holds a zero byte"),
    ("a.graphml", "<a>" * 200, "line 1: elements are nested 100 deep"),
    (
        "a.graphml",
        b'<?xml version="1.0" encoding="klingon"?><graphml/>',
        "it cannot be decoded (unknown encoding: klingon)",
    ),
    ("a.gml", "a [ " * 200, "lists are nested 100 deep"),
    ("a.gml", f"graph [ node [ id {'9' * 5000} ] ]", "line 1: the id of a node is"),
    ("a.json", '{"a": ' + "[" * 10**5, "values are nested too deep"),
    (
        "a.json",
        '{"nodes": [],\n"links": [' + "9" * 5000 + "]}",
        "line 2: it cannot be read",
    ),
    ("a.npy", b"\x93NUMPY junk", "it cannot be read"),
]


def mistakes() -> list[tuple[str, str | bytes, str]]:
    """Return all of them: files as graph_mistakes.txt has them between ``==`` and ``->``."""
    parts = re.split(r"^== (.*)\n", TABLE.read_text(encoding="utf-8"), flags=re.M)[1:]
    found: list[tuple[str, str | bytes, str]] = []
    for name, body in zip(parts[::2], parts[1::2], strict=True):
        data, _, message = body.rstrip("\n").rpartition("-> ")
        found.append((name, data, message))
    return [*found, *ODD]


MISTAKES = mistakes()


def said(folder: Path, name: str, data: str | bytes, **settings: Any) -> str:
    place = folder / name
    place.write_bytes(data.encode() if isinstance(data, str) else data)
    with pytest.raises(ConfigError) as caught:
        read_graph(place, name, **settings)
    return str(caught.value)


@pytest.fixture(scope="module", autouse=True)
def raised() -> Iterator[set[tuple[str, int]]]:
    """Where the readers have refused something."""
    found: set[tuple[str, int]] = set()
    original = Unreadable.__init__

    def init(self: Unreadable, *args: Any, **named: Any) -> None:
        frame = sys._getframe(1)
        found.add((frame.f_code.co_filename, frame.f_lineno))
        original(self, *args, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Unreadable, "__init__", init)
        yield found


@pytest.mark.parametrize(("name", "data", "message"), MISTAKES, ids=range(len(MISTAKES)))
def test_a_mistake_is_named_with_its_line(
    tmp_path: Path, name: str, data: str | bytes, message: str
) -> None:
    found = said(tmp_path, name, data)
    assert found.startswith(f"topology file {name}")
    assert message in found
    assert found.endswith(".")
    assert "\n" not in found


def packed(**arrays: Any) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


def test_matrices_of_numpy_are_judged_before_they_are_used(tmp_path: Path) -> None:
    for array, message in (
        (np.zeros((2, 3)), "its matrix is 2 x 3"),
        (np.zeros(3), "its matrix is 3; expected a square one"),
        (
            np.array([["a", "b"], ["c", "d"]]),
            "its entries are of type <U1; expected numbers",
        ),
        (np.eye(2) * 1j, "its entries are complex numbers; expected real ones"),
        (np.array([[None, {}]] * 2), "Object arrays cannot be loaded"),
    ):
        assert message in said(tmp_path, "a.npz", packed(adjacency=array))
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("Abilene.gml", "graph [ ]")
    for name in ("a.zip", "a.xlsx", "a.npz"):
        said_of_it = said(tmp_path, name, stream.getvalue())
        assert "it is an archive and holds Abilene.gml, which is no array" in said_of_it
    assert "it holds x, y; expected one matrix, or one named adjacency" in said(
        tmp_path, "a.npz", packed(x=np.eye(2), y=np.eye(2))
    )
    parts = {"data": [1.0, 1.0], "indptr": [0, 1, 2], "indices": [1, 9], "shape": [2, 2]}
    csr = packed(
        format=np.array("csr"), **{key: np.array(part) for key, part in parts.items()}
    )
    assert "it cannot be read" in said(tmp_path, "a.npz", csr)


def test_what_unpacks_to_too_much_is_not_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(content, "MOST_BYTES", 1 << 20)
    monkeypatch.setattr("decentral.topology.files.matrices.MOST_BYTES", 1 << 20)
    zeros = b"0 1\n" * (1 << 19)
    assert "at most 1 MiB, unpacked" in said(tmp_path, "a.txt.gz", gzip.compress(zeros))
    assert "at most 1 MiB, unpacked" in said(tmp_path, "a.txt", zeros)
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("adjacency.npy", zeros)
    assert "at most 1 MiB, unpacked" in said(tmp_path, "a.npz", stream.getvalue())


def test_nodes_end_at_the_most_that_a_run_may_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(content.limits, "NODES", 2)
    assert "it holds more nodes than that; expected at most 2 nodes" in said(
        tmp_path, "a.txt", "0 1\n1 2\n"
    )


def test_matrices_are_no_larger_than_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("decentral.topology.files.matrices.limits.NODES", 2)
    assert "its matrix has 3 rows; expected at most 2" in said(
        tmp_path, "a.npz", packed(a=np.eye(3))
    )


def test_direction_is_no_setting_where_the_format_says_it(tmp_path: Path) -> None:
    found = said(tmp_path, "a.gml", "graph [ node [ id 0 ] ]", directed=True)
    assert "the setting directed was given" in found


def test_every_mistake_has_its_file(
    raised: set[tuple[str, int]], request: pytest.FixtureRequest
) -> None:
    """Whoever refuses something adds the file that is refused."""
    here = {item.name for item in request.session.items if item.path == Path(__file__)}
    if len(here) <= len(MISTAKES) + 5:
        pytest.skip("needs all tests of this file to run before it")
    missing = [
        f"{path.name}:{node.lineno}"
        for path in PACKAGE.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Unreadable"
        if not any(
            (str(path), line) in raised
            for line in range(node.lineno, node.end_lineno + 1)
        )
    ]
    assert not missing
