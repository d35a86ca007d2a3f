"""What people expect of any program: completion, a version, citations, JSON, silence."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import decentral
import decentral.cli
from decentral import errors
from decentral.cli.app import app
from decentral.cli.explaining import (
    PAGES,
    command_of,
    pages,
    sections,
    sources,
)  # fmt: skip
from decentral.cli.options import Group

SMALL = ["launch", "task=digits", "nodes=4", "steps=8", "-q"]
Captured = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def ok(capsys: Captured, *words: str) -> str:
    assert decentral.cli.run(words) == 0
    return capsys.readouterr().out


def test_the_version_is_one() -> None:
    cff = (Path(__file__).parent.parent / "CITATION.cff").read_text()
    assert f'version: "{decentral.__version__}"' in cff
    assert "__version__" in dir(decentral)


# --- completion -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shell", "holds"),
    [
        ("bash", "complete -o default -F _decentral_completion decentral"),
        ("zsh", "#compdef decentral"),
        ("fish", "complete --command decentral"),
    ],
)
def test_shells_are_told_how_to_complete(
    capsys: Captured, shell: str, holds: str
) -> None:
    said = ok(capsys, "--show-completion", shell)
    assert holds in said
    assert f"_DECENTRAL_COMPLETE=complete_{shell}" in said


def test_the_script_for_bash_is_bash(capsys: Captured) -> None:
    script = ok(capsys, "--show-completion", "bash")
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("decentral la", {"launch"}),
        ("decentral launch --topology rin", {"ring"}),
        ("decentral launch --schedule la", {"late"}),
        ("decentral show sched", {"schedule"}),
    ],
)
def test_words_are_completed(
    capsys: Captured, monkeypatch: pytest.MonkeyPatch, line: str, expected: set[str]
) -> None:
    monkeypatch.setenv("_DECENTRAL_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", line)
    monkeypatch.setenv("COMP_CWORD", str(len(line.split()) - 1))
    assert set(ok(capsys).split()) == expected


# --- JSON and silence -----------------------------------------------------------------------------


def commands() -> dict[str, set[str]]:
    """Return every command with its flags."""
    from typer.main import get_command

    found: dict[str, set[str]] = {}

    def walk(path: str, command: object) -> None:
        for name, inner in getattr(command, "commands", {}).items():
            flags = {flag for param in inner.params for flag in param.opts}
            if not isinstance(inner, Group):
                found[f"{path}{name}"] = flags
            walk(f"{path}{name} ", inner)

    walk("", get_command(app))
    return found


#: They print a path or what to do next, no table.
WITHOUT_JSON = {"report", "init", "export"}


@pytest.mark.parametrize("command", commands())
def test_every_command_can_be_quiet_and_every_table_be_json(command: str) -> None:
    flags = commands()[command]
    assert {"-q", "--quiet", "--debug"} <= flags
    assert ("--json" in flags) == (command not in WITHOUT_JSON)


@pytest.mark.parametrize(
    "words",
    [
        "list",
        "list topologies ring",
        "list schedules",
        "list settings",
        "list topologies --nodes 4",
        "show topology ring",
        "show schedule late steps=40",
        "show network lan --nodes 4",
        "show blocks",
        "plan communication --steps 20 --nodes 4",
        "plan batch --source 0.25 --capacity 2 --budget 2^12 --min 8",
        "reproduce",
    ],
)
def test_tables_are_json_too(capsys: Captured, words: str) -> None:
    assert decentral.cli.run([*words.split(), "--json", "-q"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)
    assert said.err == ""


def test_results_are_json_too(capsys: Captured) -> None:
    ok(capsys, *SMALL, "--out", "one")
    (one,) = json.loads(ok(capsys, "compare", "one", "--json", "-q"))["runs"]
    held = decentral.Run("one").summary
    assert one["accuracy/merged"] == held["final"]["accuracy/merged"]
    merged = json.loads(ok(capsys, "merge", "one", "--rule", "uniform", "--json", "-q"))
    assert {row["merge"] for row in merged["merges"]} >= {"uniform"}
    swept = json.loads(
        ok(capsys, "sweep", "task=quadratic", "nodes=4", "steps=5", "seed=0..1",
           "--json", "-q")
    )  # fmt: skip
    assert [row["seed"] for row in swept["runs"]] == [0, 1]
    assert all(row["loss/merged"] > 0 for row in swept["runs"])


def test_runs_are_listed_and_chosen(capsys: Captured, folder: Path) -> None:
    ok(capsys, *SMALL, "--topology", "ring", "--out", "runs/one")
    ok(capsys, *SMALL, "--topology", "complete", "--out", "runs/deep/two")
    (folder / "runs/deep/two/summary.json").unlink()
    (folder / "runs/config.yaml").write_text("nodes: [")
    listed = json.loads(ok(capsys, "runs", "--json", "-q"))
    assert [(row["run"], row["state"], row["topology"]) for row in listed] == [
        ("deep/two", "unfinished", "complete"),
        ("one", "finished", "ring"),
    ]
    assert listed[1]["step"] == 8
    (chosen,) = json.loads(ok(capsys, "runs", "runs", "topology=ring", "--json", "-q"))
    assert chosen["run"] == "one"
    assert "finished" in ok(capsys, "runs")
    assert "no runs" in ok(capsys, "runs", "nowhere")


@pytest.mark.parametrize(
    "words", ["list", "show topology ring", "init new", "list topologies --nodes 4"]
)
def test_quiet_says_nothing(capsys: Captured, words: str) -> None:
    assert ok(capsys, *words.split(), "-q") == ""


@pytest.mark.parametrize("words", ["list topologies", "show topology ring", "list ring"])
def test_without_a_terminal_lines_end_with_a_letter(capsys: Captured, words: str) -> None:
    decentral.cli.run(words.split())
    said = capsys.readouterr().out
    assert not re.search(r"[ \t]$|\x1b", said, re.MULTILINE)


# --- citations ------------------------------------------------------------------------------------


def test_a_run_is_cited_with_its_parts(capsys: Captured) -> None:
    ok(capsys, *SMALL, "--out", "one")
    said = ok(capsys, "cite", "one")
    keys = re.findall(r"^@\w+\{(\w+),$", said, re.MULTILINE)
    assert keys[0] == "decentral"
    assert {"lian2017decentralized", "alpaydin1998"} <= set(keys)
    assert len(keys) == len(set(keys))
    assert said.count("{") == said.count("}")
    by_key = {
        one.get("key"): one
        for one in json.loads(ok(capsys, "cite", "one", "--json", "-q"))
    }
    lian = by_key["lian2017decentralized"]
    assert (lian["authors"], lian["venue"], lian["year"]) == (
        "Lian et al.",
        "NeurIPS",
        "2017",
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('Two (A & B, "One", 2019; C et al., "Two", ICML 2020).', ["One", "Two"]),
        ("Nothing is named here since 2019.", []),
        ("Of somebody (Krizhevsky, 2009.)", [""]),
        ('Example\n>>> f("A", "B", 2019)', []),
    ],
)
def test_sources_are_read_from_docstrings(text: str, expected: list[str]) -> None:
    assert [one.title for one in sources("kind name", text)] == expected


# --- words ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("gossip", "weighted mean"),
        ("Spectral-gap", "share of disagreement"),
        ("nodes", "One learner"),
        ("rounds", "at which something was sent"),
        ("communication_step", "after which the schedule is asked"),
        ("doubly stochastic", "rows and columns sum to one"),
        ("worker", "One process that owns a device"),
        ("block", "All rows that a process holds"),
        ("engine", "What starts the workers of a run"),
        ("engine", "Also a setting: `decentral list settings engine`."),
        ("trouble bad-nodes", "## Bad nodes"),
        ("docs/trouble.md#faults", "## Faults"),
        ("trust", "# Whose code runs"),
        ("ring", "Every node exchanges with the next"),
        ("local_steps", "steps"),
    ],
)
def test_a_word_is_explained(capsys: Captured, word: str, said: str) -> None:
    assert said in " ".join(ok(capsys, "explain", *word.split()).split())


def test_a_section_ends_where_the_next_of_its_level_begins(capsys: Captured) -> None:
    said = ok(capsys, "explain", "trouble", "bad-nodes")
    assert "| `sign_flip` |" in said
    assert "## Faults" not in said
    assert "<!--" not in said


@pytest.mark.parametrize("how", PAGES)
def test_pages_that_errors_name_exist(capsys: Captured, how: str) -> None:
    path, _, anchor = PAGES[how].partition("#")
    assert (Path(__file__).parent.parent / path).is_file()
    _, *words = command_of(PAGES[how]).split()
    first = ok(capsys, *words).splitlines()[0]
    assert first.startswith("#")
    assert not anchor or anchor in {said for said, _, _ in sections(first)}


def test_commands_that_pages_and_concepts_are_linked_by_lead_to_pages(
    capsys: Captured,
) -> None:
    """Whoever has installed the package has no repository to look into."""
    told = [ok(capsys, "explain", f"{page}.md") for page in pages()]
    named = set(re.findall(r"\(`decentral (explain [^`]+)`\)", "".join(told)))
    assert len(named) > 20
    for command in sorted(named):
        assert ok(capsys, *command.split()).startswith("#")


def test_all_pages_are_installed_with_the_package() -> None:
    """And read from there: .ci/package asks for one, where nothing else is."""
    project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert "docs" in wheel["only-include"]
    assert wheel["sources"] == {"docs": "decentral/docs"}
    assert not [one for one in wheel["exclude"] if one.endswith((".md", "*"))]


@pytest.mark.parametrize("terminal", [True, False])
def test_a_person_is_told_the_page_that_helps(
    capsys: Captured, monkeypatch: pytest.MonkeyPatch, terminal: bool
) -> None:
    """A program that reads what went wrong finds one line, as before."""
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    assert decentral.cli.run(["launch", "topology=rng", "nodes=4"]) == 2
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith("error: unknown topology 'rng'.")
    assert said[1:] == ["See `decentral explain plugins`."] * terminal


def test_concepts_are_listed(capsys: Captured) -> None:
    assert {"node", "step", "merge"} <= set(
        json.loads(ok(capsys, "explain", "--json", "-q"))
    )
    assert "mixing" in ok(capsys, "explain")


def test_extras_are_installed_as_decentral_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever has the wheel has neither a folder to install nor constraints.txt."""
    assert errors.install_command("lm") == "pip install -c constraints.txt -e '.[lm]'"
    monkeypatch.setattr(errors, "__file__", str(tmp_path / "decentral/errors.py"))
    assert errors.install_command("lm") == "pip install 'decentral[lm]'"
