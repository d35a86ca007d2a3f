"""The site: what it leads to, what it writes from the code, and that broken links are found.

The whole is built by .ci/run, with warnings as errors.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import pytest
from test_habits import commands

from decentral.cli.explaining import concepts
from decentral.registry import KINDS, find, names

DOCS = Path(__file__).resolve().parent.parent / "docs"


@pytest.fixture(scope="module")
def maker() -> Any:
    found = importlib.util.spec_from_file_location("make_site", DOCS / "make_site.py")
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def test_every_page_is_in_the_navigation(maker: Any) -> None:
    parts = (
        maker.FIRST, maker.NOTEBOOKS, maker.HOW_TO, maker.COMING_FROM, maker.REFERENCE,
        maker.ABOUT,
    )  # fmt: skip
    listed = {page for part in parts for page in part}
    written = [*DOCS.rglob("*.md"), *DOCS.glob("notebooks/*.ipynb")]
    assert {f"docs/{p.relative_to(DOCS).with_suffix('')}" for p in written} <= listed
    assert all(page in maker.index() for page in listed)


def test_every_command_is_on_its_page(maker: Any) -> None:
    text = "".join(maker.commands())
    assert [name for name in commands() if f"## decentral {name}\n" not in text] == []
    assert text.count("usage: decentral") >= len(commands())


def test_every_setting_has_its_line(maker: Any, tmp_path: Path) -> None:
    assert "kind_topology" in maker.plugins(tmp_path)
    for kind in KINDS:
        text = (tmp_path / f"kind_{kind}.md").read_text()
        for name in names(kind):
            _, _, after = text.partition(f"\n## {name}\n")
            own, _, _ = after.partition("\n## ")
            accepts = find(kind, name).accepts
            assert [key for key in accepts if f"\n| `{key}` |" not in own] == []


def test_help_is_prose_of_whole_paragraphs(maker: Any) -> None:
    """A line that begins with a minus, or a plus, would be an item of a list."""
    for kind in KINDS:
        for name in names(kind):
            said = maker.prose(find(kind, name))
            text = re.sub(r"```.*?```", "", said, flags=re.DOTALL)
            assert not re.search(r"^[-+*#>|]", text, re.MULTILINE), name


@pytest.mark.usefixtures("rendered")
def test_a_topology_is_drawn(maker: Any) -> None:
    said = "".join(maker.drawing(find("topology", "ring")))
    assert "`ring` on 16 nodes: spectral gap 0.0507." in said
    assert said.count(">15</text>") == 1
    assert "var(--merged)" in said  # a role, whose colour the page's theme says
    assert all(f"--{role}: " in maker.stylesheet() for role in ("merged", "ink", "line"))


def test_every_concept_has_its_picture(maker: Any, tmp_path: Path) -> None:
    (page := tmp_path / "concepts.md").write_text((DOCS / "concepts.md").read_text())
    maker.illustrate(page)
    _, *parts = page.read_text().split("\n## ")
    assert len(parts) == len(concepts())
    assert [part.count("<svg ") for part in parts] == [1] * len(parts)


def test_the_bill_of_materials_goes_to_the_leaves(maker: Any, tmp_path: Path) -> None:
    page = maker.licences(tmp_path)
    bill = json.loads((tmp_path / "sbom.cdx.json").read_text())
    assert bill["bomFormat"] == "CycloneDX"
    held = {part["name"]: part["version"] for part in bill["components"]}
    assert held["torch"] == importlib.metadata.version("torch")
    assert "mpmath" in held  # of sympy, of torch
    assert all(f"| {name} | {version} |" in page for name, version in held.items())


@pytest.mark.parametrize(
    ("target", "lost"),
    [
        ("two.html", False),
        ("two.html#here", False),
        ("two.html#nowhere", True),
        ("three.html", True),
        ("#top", False),
        ("https://example.org/none", False),
    ],
)
def test_broken_links_are_found(
    maker: Any, tmp_path: Path, target: str, lost: bool
) -> None:
    (tmp_path / "one.html").write_text(f'<p id="top"><a href="{target}">x</a></p>')
    (tmp_path / "two.html").write_text('<h2 id="here">Here</h2>')
    assert list(maker.broken(tmp_path)) == ([f"one.html: {target}"] if lost else [])
