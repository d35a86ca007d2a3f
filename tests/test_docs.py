"""The pages tell the truth: code runs, links lead somewhere, nothing built in is left out."""

from __future__ import annotations

import ast
import doctest
import importlib
import importlib.util
import inspect
import json
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from snippets import Block, blocks, commands, run

from decentral import registry
from decentral.claims import trials
from decentral.cli import run as cli
from decentral.errors import ConfigError
from decentral.yamltext import load_file

REPO = Path(__file__).resolve().parent.parent
PACKAGE = REPO / "decentral"
README = REPO / "README.md"
GALLERIES = [REPO / "topologies/README.md", REPO / "configs/README.md"]
DOCS = sorted((REPO / "docs").rglob("*.md"))
SOURCES = [README, REPO / "CONTRIBUTING.md", *GALLERIES, *DOCS]
INSTALL = "python3 -m venv .venv && .venv/bin/pip install -c constraints.txt -e"
ENGINES = "engines"  # their modules need what the core does not


# --- the code in the pages ------------------------------------------------------------------------


@pytest.mark.pages
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "page", SOURCES, ids=lambda page: f"{page.parent.name}/{page.name}"
)
@pytest.mark.usefixtures("seeds_here")
def test_page_runs(page: Path, elsewhere: Path) -> None:
    undecided = [block.place for block in blocks(page) if not block.verdict()]
    assert not undecided, "each block needs a verdict; see tests/snippets.py"
    run(page)


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to be in, with a main module that may be replaced."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])
    return tmp_path


@pytest.fixture
def seeds_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """The seeds of a claim are tried in this process, which has loaded what they need.

    That each has a process of its own is looked at in test_claims.py and test_messages.py.
    """

    def here(threads: int, one: trials.Trial, seed: int) -> trials.Record:
        return one.findings(seed)

    monkeypatch.setattr(trials, "_apart", here)


def readme_command(mark: str) -> str:
    found = [block.source for block in blocks(README) if mark in block.marks]
    assert len(found) == 1, (
        f"README.md needs one block marked <!-- {mark} -->, found {len(found)}"
    )
    return found[0].replace("\\\n", " ").strip()


def test_readme_installs_and_tests() -> None:
    """.ci/run runs this command; here only its shape."""
    expected = f"{INSTALL} '.[test]' && .venv/bin/python -m pytest"
    assert readme_command("test-command") == expected


@pytest.mark.parametrize("marker", ["pages", "hosts", "slow", "claims"])
def test_what_the_suite_leaves_out_is_run_by_a_step_of_its_own(marker: str) -> None:
    """A file that a step does not name would never run."""
    text = (REPO / ".ci" / "run").read_text().replace("\\\n", " ")
    step = " ".join(
        line for line in text.splitlines() if f'-m "{marker} and not soak"' in line
    )
    tests = [*(REPO / "tests").glob("*.py"), *(REPO / "tests" / "laws").glob("*.py")]
    marked = {
        path.relative_to(REPO).as_posix()
        for path in tests
        if f"mark.{marker}" in path.read_text()
    }
    assert marked == {word for word in step.split() if word.endswith(".py")}


def returns_before_asserting(source: str) -> list[str]:
    """Return tests, with the line, that may return where nothing was asserted before."""
    found: list[str] = []
    for test in ast.walk(ast.parse(source)):
        if not isinstance(test, ast.FunctionDef) or not test.name.startswith("test_"):
            continue
        inner = {
            id(node)
            for part in ast.walk(test)
            if isinstance(part, ast.FunctionDef | ast.Lambda) and part is not test
            for node in ast.walk(part)
        }
        own = [node for node in ast.walk(test) if id(node) not in inner]
        lines = [node.lineno for node in own if _is_assertion(node)]
        found += [
            f"{test.name}:{node.lineno}"
            for node in own
            if isinstance(node, ast.Return) and min(lines, default=10**6) > node.lineno
        ]
    return found


def _is_assertion(node: ast.AST) -> bool:
    if isinstance(node, ast.Call):
        name = ast.unparse(node.func).rpartition(".")[2]
        return name in ("raises", "warns") or name.startswith("assert_")
    return isinstance(node, ast.Assert)


def test_no_test_returns_before_it_asserts() -> None:
    """Cases that have nothing to assert are filtered away where they are made.

    What asserts nothing as it runs is named by .ci/asserts.py.
    """
    early = "def test_a(x):\n    if x:\n        return\n    assert x\n"
    assert returns_before_asserting(early) == ["test_a:3"]
    assert not returns_before_asserting(early.replace("if x", "with raises(x)"))
    assert not [
        f"{path.name}: {test}"
        for path in (REPO / "tests").rglob("test_*.py")
        for test in returns_before_asserting(path.read_text())
    ]


def readme_run() -> list[str]:
    """Return the arguments of the README's run; its installation is that of the test command."""
    install, separator, command = readme_command("run-command").partition(" . && ")
    assert (install, separator) == (INSTALL, " . && ")
    program, *arguments = shlex.split(command)
    assert program == ".venv/bin/decentral"
    return arguments


def test_readme_installs_and_runs(elsewhere: Path) -> None:
    scripts = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts == {"decentral": "decentral.cli:main"}
    assert Path(sys.executable).with_name("decentral").exists()
    assert cli([*readme_run(), "steps=60"]) == 0
    assert list(elsewhere.rglob("summary.json"))
    assert list(elsewhere.rglob("report.html"))


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_readme_runs_to_its_end(tmp_path: Path) -> None:
    done = subprocess.run(
        [str(Path(sys.executable).parent / "decentral"), *readme_run()],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert list(tmp_path.rglob("summary.json"))
    assert list(tmp_path.rglob("report.html"))


def page_of(tmp_path: Path, text: str) -> Block:
    page = tmp_path / "page.md"
    page.write_text(text)
    (block,) = blocks(page)
    return block


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("```python\n1\n```\n", "python"),
        ("<!-- not run: takes an hour -->\n```python\n1\n```\n", "nothing"),
        ("<!-- not run: -->\n```python\n1\n```\n", ""),
        ("<!-- runs -->\n```bash\ntrue\n```\n", "bash"),
        ("<!-- run -->\n```bash\ntrue\n```\n", ""),
        ("```bash\ntrue\n```\n", ""),
        ("<!-- run-command -->\n```bash\ntrue\n```\n", "command"),
        ("<!-- config -->\n```yaml\na: 1\n```\n", "config"),
        ("```yaml\na: 1\n```\n", ""),
        ("<!-- file: a.py -->\n```python\n1\n```\n", "file"),
        ("```text\n1\n```\n", "nothing"),
        ("```\n1\n```\n", ""),
        ("- item\n\n  ```python\n  1\n  ```\n", "python"),
    ],
)
def test_verdicts(tmp_path: Path, text: str, verdict: str) -> None:
    block = page_of(tmp_path, text)
    assert block.verdict() == verdict
    assert not block.source.startswith(" ")


@pytest.mark.parametrize(
    ("text", "expected", "said"),
    [
        ('```python\nassert 1 == 2, "so"\n```\n', AssertionError, "so"),
        (
            "<!-- runs -->\n```bash\nfalse\ntrue\n```\n",
            RuntimeError,
            "page.md:3: exit status 1",
        ),
        (
            "<!-- runs -->\n```bash\ndecentral list\ndecentral list 'two words'\n```\n",
            RuntimeError,
            "page.md:3: list 'two words': exit status 2",
        ),
        ("<!-- config -->\n```yaml\nno_such_key: 1\n```\n", ConfigError, "no_such_key"),
    ],
    ids=["python", "bash", "command", "config"],
)
def test_a_wrong_page_fails(
    elsewhere: Path, text: str, expected: type[Exception], said: str
) -> None:
    page = elsewhere / "page.md"
    page.write_text(text)
    with pytest.raises(expected, match=re.escape(said)):
        run(page)


def test_pages_run_from_the_shell_too(tmp_path: Path) -> None:
    """As CONTRIBUTING.md says: ``python tests/snippets.py PAGE``."""
    (page := tmp_path / "page.md").write_text("```python\nassert 1 == 2\n```\n")
    script = Path(__file__).with_name("snippets.py")
    done = subprocess.run(
        [sys.executable, str(script), str(page)],
        cwd=tmp_path,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 1
    assert b"assert 1 == 2" in done.stderr


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("decentral list  # all of it\n", [["list"]]),
        (
            "decentral show \\\n  'late(at=1)'\n\ndecentral list\n",
            [["show", "late(at=1)"], ["list"]],
        ),
        ("decentral launch a=$HOME\n", []),
        ('decentral launch "a=$HOME"\n', []),
        (
            'a="b=1 c=d(e=2)"\ndecentral launch $a f\n',
            [["launch", "b=1", "c=d(e=2)", "f"]],
        ),
        ('a="b"\ndecentral launch "$a c"\n', []),
        ("decentral show late(at=1)\n", []),
        ("decentral list | head\n", []),
        ("decentral list\nls\n", []),
    ],
)
def test_what_a_shell_must_read_is_left_to_it(
    source: str, words: list[list[str]]
) -> None:
    assert commands(source) == words


def test_readme_shows_the_algorithm_as_shipped() -> None:
    """The text of D-SGD in the README is the body of the function, behind its switch to events."""
    from decentral.algorithms.gossip import dsgd

    (function,) = ast.parse(inspect.getsource(dsgd)).body
    assert isinstance(function, ast.FunctionDef)
    _, switch, *body = function.body
    assert isinstance(switch, ast.If)
    assert isinstance(switch.body[-1], ast.Return)
    shipped = "\n".join(ast.unparse(statement) for statement in body)
    shown = [
        b.source for b in blocks(README) if "test compares" in b.marks.get("not run", "")
    ]
    assert [ast.unparse(ast.parse(source)) for source in shown] == [shipped]


@pytest.mark.parametrize("script", ["docs/make_plugins.py", "topologies/make_table.py"])
def test_a_page_is_what_its_script_writes(script: str) -> None:
    found = importlib.util.spec_from_file_location(Path(script).stem, REPO / script)
    assert found is not None
    assert found.loader is not None
    maker = importlib.util.module_from_spec(found)
    found.loader.exec_module(maker)
    assert maker.PAGE.read_text(encoding="utf-8") == maker.text()


# --- the examples in docstrings -------------------------------------------------------------------


def modules_with_examples() -> list[str]:
    paths = [path for path in sorted(PACKAGE.rglob("*.py")) if ">>> " in path.read_text()]
    inside = [path.relative_to(REPO).with_suffix("").parts for path in paths]
    return [".".join(p).removesuffix(".__init__") for p in inside if ENGINES not in p]


@pytest.mark.parametrize("name", modules_with_examples())
def test_docstring_examples(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    results = doctest.testmod(importlib.import_module(name), optionflags=flags)
    assert results.attempted
    assert not results.failed


# --- completeness ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", registry.KINDS)
def test_every_plugin_is_documented(kind: str) -> None:
    """Each has help, and is named as code in README.md or under docs/."""
    names = registry.names(kind)
    assert names
    assert [name for name in names if not registry.find(kind, name).help] == []
    pages = [page.read_text() for page in [README, *DOCS]]
    code = "\n".join(re.findall(r"```.*?```|`[^`\n]+`", "\n".join(pages), re.DOTALL))
    unnamed = [
        n for n in names if not re.search(rf"(?<![\w-]){re.escape(n)}(?![\w-])", code)
    ]
    assert unnamed == []


@pytest.mark.parametrize(
    "page", SOURCES, ids=lambda page: f"{page.parent.name}/{page.name}"
)
def test_links_lead_somewhere(page: Path) -> None:
    """Relative links and pictures point to files of the repository."""
    targets = re.findall(
        r"\]\(([^)#\s]+)[^)]*\)|<img[^>]+src=\"([^\"]+)\"", page.read_text()
    )
    local = [t for pair in targets for t in pair if t and "://" not in t and ":" not in t]
    assert [target for target in local if not (page.parent / target).exists()] == []


def test_constraints_pin_every_direct_dependency() -> None:
    project = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
    listed = [project["dependencies"], *project["optional-dependencies"].values()]
    direct = {Requirement(text).name for texts in listed for text in texts} - {
        "decentral"
    }
    lines = (REPO / "constraints.txt").read_text().splitlines()
    pins = [
        Requirement(line) for line in lines if line.strip() and not line.startswith("#")
    ]
    assert {pin.name for pin in pins} == direct
    assert all(
        str(pin.specifier).startswith("==") and "*" not in str(pin) for pin in pins
    )


# --- what papers say ------------------------------------------------------------------------------


def script(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, REPO / f"docs/{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_sentences_of_papers_are_tried_by_claims_that_exist_or_say_why_not() -> None:
    papers = load_file(REPO / "docs/papers.yaml")
    claims = set(registry.names("claim"))
    tried: set[str] = set()
    for paper in papers:
        assert {"paper", "by", "abstract", "sentences"} == set(paper)
        for one in paper["sentences"]:
            ways = {"claim", "command", "why"} & set(one)
            assert len(ways) == 1, f"{one['says']}: one of claim, command and why"
            if "claim" in one:
                assert one["claim"] in claims, one
                assert one["figures"], one
                tried.add(one["claim"])
            elif "command" in one:
                assert all((one["verdict"], one["found"])), one
    assert tried == claims, "every claim is what some paper says"


def test_the_page_on_papers_has_the_verdicts_of_the_claims() -> None:
    maker = script("make_papers")
    recorded = maker.read_claims(maker.CLAIMS.read_text(encoding="utf-8"))
    figures = [name for found in recorded.values() for name in found]
    assert set(recorded) >= set(registry.names("claim"))
    assert len(figures) > 50
    page = "\n".join(maker.page(load_file(REPO / "docs/papers.yaml"), recorded)) + "\n"
    assert page == maker.PAGE.read_text(encoding="utf-8"), "run docs/make_papers.py"


@pytest.mark.parametrize(
    ("words", "missing", "wanted"),
    [
        (["yes", "yes"], 0, "holds"), (["yes"], 1, "holds in part"), ([], 1, "not run"),
        (["yes", "no"], 0, "holds in part"), (["no"], 0, "does not reproduce at this size"),
        (["open", "by design"], 0, "not separable at this size"), (["by design"], 0, "by design"),
    ],
)  # fmt: skip
def test_a_sentence_is_judged_by_its_figures(
    words: list[str], missing: int, wanted: str
) -> None:
    assert script("make_papers").verdict(words, missing) == wanted


def test_a_claim_that_is_tried_again_changes_its_own_lines_only(tmp_path: Path) -> None:
    maker = script("make_claims")
    page, kept = tmp_path / "claims.md", tmp_path / "claims"
    before = (REPO / "docs/claims.md").read_text(encoding="utf-8")
    page.write_text(before, encoding="utf-8")
    maker.write(page, REPO / "docs/claims")
    assert page.read_text(encoding="utf-8") == before, "run docs/make_claims.py"
    record = {
        "claim": "lite", "size": "long", "verdict": "holds", "seeds": [0, 1], "seconds": 60.0,
        "time": "2026-11-28T00:00:00", "versions": {"torch": "2"}, "says": "A.", "paper": "B",
        "title": "C.", "figures": {"gain": [1.0, 2.0]},
        "settings": {"name": "lite", "arm": "lite", "tokens": 400_000},
        "expected": [{"figure": "gain", "means": "it gains", "bound": "at least 0",
                      "over": "every seed", "role": "evidence", "met": True}],
    }  # fmt: skip
    kept.mkdir()
    (kept / "lite-long.json").write_text(json.dumps(record), encoding="utf-8")
    maker.write(page, kept)
    after = page.read_text(encoding="utf-8")
    changed = {*after.splitlines()} ^ {*before.splitlines()}
    assert all("lite-long" in line or line in after for line in changed)
    assert "| lite-long | not run" not in after
    assert "Measured with `tokens=400000`." in after
    assert "| it gains | gain | at least 0 | 1.5 (1 to 2) | yes |" in after
