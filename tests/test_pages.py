"""The pages: whatever their text is called, it stays text; what they lack is an error."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from jinja2 import UndefinedError
from synthetic import Page, assert_self_contained, write_json, write_run

from decentral.report import pages
from decentral.report.compare import (
    Group,
    compare,
    comparison_html,
    write_comparison,
    write_sweep,
)
from decentral.report.facts import facts_of
from decentral.report.pages import Card, drawings, page
from decentral.report.reader import read_run
from decentral.report.run import report_html, write_report
from decentral.report.studies import claims_html

pytestmark = pytest.mark.usefixtures("rendered")

EVIL = "<script>alert('x')<\u2215script>"  # a folder can be called so
QUOTED = """'"><img src=x onerror=alert(1)>"""
TEMPLATES = Path(pages.__file__).with_name("templates")


def hostile(folder: Path) -> Path:
    """Write a run in which everything that a user may name is called like code."""
    run = write_run(
        folder / EVIL, steps=60, classes=[EVIL, "a$b$c", "&amp;", "#17202c", "中文"], notes=QUOTED,
        topology={"name": EVIL},
    )  # fmt: skip
    records = [
        {"key": f"{EVIL}/one", "text": QUOTED, "label": f"label {EVIL}", "unit": EVIL},
        {"key": "日本/a"}, {"key": "中文/a"},
    ]  # fmt: skip
    write_json(run / "records.json", records)
    file = run / "metrics.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    measured = {record["key"]: 2.0 for record in records}
    file.write_text("".join(json.dumps(row | measured) + "\n" for row in rows))
    with (run / "events.jsonl").open("a") as file:
        for event in (
            {"event": "note", "text": QUOTED},
            {"event": EVIL, "why": {EVIL: [EVIL]}},
        ):
            file.write(json.dumps({"step": 1, "time": EVIL, **event}) + "\n")
    return run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hostile(tmp_path_factory.mktemp("hostile"))


def read(path: Path) -> Page:
    """Read a page that loads and runs nothing."""
    found = Page(path)
    assert_self_contained(found)
    assert not found.open
    assert not [name for _, tag in found.tags for name in tag if name.startswith("on")]
    return found


def test_names_of_a_run_stay_text(run: Path) -> None:
    found = read(write_report(run))
    assert found.text("h1.") == [EVIL]
    assert {"a$b$c", "&amp;", "#17202c", "中文"} <= set(found.text("text."))
    assert f"label {EVIL}" in found.text("th.text")  # a metric's label
    assert QUOTED in found.text("td.text")  # and what it says that it is
    assert EVIL in found.text("th.text")  # a kind of event
    assert f"text {QUOTED}" in found.text("td.text")  # a note
    assert QUOTED in found.text("dd.")  # a setting
    # figures of metrics
    assert {"日本", "中文", EVIL.capitalize()} <= set(found.text("h2."))
    assert any(EVIL in label for label in found.attributes("aria-label"))


def test_names_of_compared_runs_stay_text(run: Path, tmp_path: Path) -> None:
    other = write_run(tmp_path / "other", steps=60)
    found = read(write_comparison(compare([run, other]), tmp_path / "compare.html"))
    assert found.text("li.").count(EVIL) == 2
    assert {EVIL, f"label {EVIL}"} <= set(found.text("th.text") + found.text("th.number"))


def test_names_of_a_sweep_stay_text(run: Path, tmp_path: Path) -> None:
    groups = [
        Group({QUOTED: EVIL}, 2, (facts_of(read_run(run)),)),
        Group({QUOTED: "b"}, 1, ()),
    ]
    (tmp_path / EVIL).mkdir()
    found = read(write_sweep(tmp_path / EVIL, groups, [f"{EVIL}: {QUOTED}"]))
    assert found.text("h1.") == [EVIL]
    assert found.text("li.") == [f"{EVIL}: {QUOTED}"]
    assert QUOTED in found.text("th.text")
    assert EVIL in found.text("th.text")


def claim(name: str, **other: Any) -> dict[str, Any]:
    """Return the outcome of a claim in which every text is like code."""
    expected = {
        "figure": EVIL,
        "means": EVIL,
        "bound": EVIL,
        "over": "mean",
        "met": False,
    }
    curve = {"label": EVIL, "lines": [[[0, 1], [0, 1]]]}
    return {
        "claim": name, "title": EVIL, "says": QUOTED, "paper": EVIL, "verdict": EVIL, "seeds": [0],
        "time": EVIL, "versions": {EVIL: EVIL}, "figures": {EVIL: [1.0], QUOTED: [2.0, 3.0]},
        "expected": [expected],
        "panels": [{"title": QUOTED, "x": EVIL, "y": EVIL, "log": "", "curves": [curve]}], **other,
    }  # fmt: skip


def test_names_of_claims_stay_text(tmp_path: Path) -> None:
    """Also of one in a file of its own, whose name is a path, and of two that are called alike."""
    path = tmp_path / "claims.html"
    records = [
        claim(f"{QUOTED}.py:mine"),
        claim("a b"),
        claim("a+b"),
        claim("c", error=QUOTED),
    ]
    path.write_text(claims_html(records), encoding="utf-8")
    found = read(path)
    assert f"{QUOTED}.py:mine: {EVIL}" in found.text("h2.")
    assert found.text("strong.") == ["no"] * 3
    assert QUOTED in found.text("p.")  # the error
    assert sum(tag == "svg" for tag, _ in found.tags) == 6


@pytest.mark.parametrize("name", ["report", "compare", "sweep", "claims"])
def test_what_a_page_was_not_given_is_an_error(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Each of the values that a page is made of, left out, is missed, and no empty place."""
    given: dict[str, Any] = {}

    def take(asked: str, live: str = "", **values: Any) -> str:
        assert asked == name
        given.update(values)
        return page(name, **values)

    module = {"report": "run", "sweep": "compare", "claims": "studies"}.get(name, name)
    monkeypatch.setattr(f"decentral.report.{module}.page", take)
    {
        "report": lambda: report_html(read_run(run)),
        "compare": lambda: comparison_html(compare([run, run])),
        "sweep": lambda: write_sweep(tmp_path, [Group({"a": "b"}, 1, ())], ["failed"]),
        "claims": lambda: claims_html([claim("a")]),
    }[name]()
    assert {"title", "over", "verdict"} < given.keys()
    for left_out in given:
        with pytest.raises(UndefinedError, match=f"'{left_out}' is undefined"):
            page(name, **{key: value for key, value in given.items() if key != left_out})


def test_what_a_template_takes_as_it_is_comes_from_no_user() -> None:
    """Only drawings are, whose text matplotlib has escaped, and the script of all pages;
    nothing turns escaping off."""
    safe = [
        (file.name, found)
        for file in sorted(TEMPLATES.glob("*.html"))
        for found in re.findall(r"\{[{%].*?[%}]\}", file.read_text(), re.DOTALL)
        if "safe" in found or "escape" in found
    ]
    assert safe == [
        ("base.html", "{{ script | safe }}"),
        ("parts.html", "{{ one.body | safe }}"),
    ]


def test_a_figure_without_anything_to_draw_says_so_in_words() -> None:
    assert drawings([None, None], "a", "b") == []
    card = Card("Figure", "What it shows.", [], "Nothing to see.", full=True)
    html = page(
        "sweep", title="t", over="o", verdict="50 %", drawn=card, columns=["a"], numeric=[],
        rows=[["b"]], failures=[],
    )  # fmt: skip
    assert '<p class="none">Nothing to see.</p>' in html
    assert '<figure class="card full">' in html
    assert "50\N{NO-BREAK SPACE}%" in html
    assert "<svg" not in html
