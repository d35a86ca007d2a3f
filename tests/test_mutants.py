"""The mutants that a soak run tries: each is valid code that differs in one place."""

from __future__ import annotations

import ast
import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

REPO = Path(__file__).resolve().parent.parent
SCRIPT = REPO / ".ci" / "mutants.py"

SOURCE = '''"""A text of 3 words."""
from typing import TYPE_CHECKING

def f(a: int = 1, *, b: "list[2]") -> bool:
    """Say 4."""
    a += 2
    print(a, f"{a + 5}")
    b.c = a * 0.5

    def g():
        return not a
    return a <= b and True

class C:
    def h(self):
        return None
'''
#: Function, kind, what stood there and what stands there.
WANTED = [
    ("f", "constant", "1", "(2)"),
    ("f", "arithmetic", "a += 2", "a -= 2"),
    ("f", "constant", "2", "(3)"),
    ("f", "deletion", 'print(a, f"{a + 5}")', "pass"),
    ("f", "deletion", "b.c = a * 0.5", "pass"),
    ("f", "arithmetic", "a * 0.5", "(a / 0.5)"),
    ("f", "constant", "0.5", "(1.0)"),
    ("f.<locals>.g", "return", "return not a", "return None"),
    ("f.<locals>.g", "boolean", "not a", "(a)"),
    ("f", "return", "return a <= b and True", "return None"),
    ("f", "boolean", "a <= b and True", "(a <= b or True)"),
    ("f", "comparison", "a <= b", "(a < b)"),
    ("f", "boolean", "True", "(False)"),
]


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    """The script, as a module."""
    found = importlib.util.spec_from_file_location("mutants", SCRIPT)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    sys.modules["mutants"] = module
    found.loader.exec_module(module)
    module.PRELOADED = ()  # nothing that the tests of these tests need
    sys.path.append(str(SCRIPT.parent))
    yield module
    sys.path.remove(str(SCRIPT.parent))


def test_every_place_that_runs_is_changed_in_its_way(script: ModuleType) -> None:
    found = script.mutants("x.py", SOURCE.encode())
    assert [(m.function, m.kind, m.before, m.after) for m in found] == WANTED


def test_every_mutant_of_the_package_is_valid_code_that_differs(
    script: ModuleType,
) -> None:
    for mutant in script.sample(60, 7, script.PACKAGES):
        source = (REPO / mutant.path).read_bytes()
        changed = mutant.applied(source)
        assert ast.dump(ast.parse(changed)) != ast.dump(ast.parse(source)), mutant


def test_a_sample_is_that_of_its_seed(script: ModuleType) -> None:
    once, again, other = (script.sample(20, seed, script.PACKAGES) for seed in (1, 1, 2))
    assert once == again != other
    assert len(set(once)) == 20


def test_a_case_of_every_test_is_tried_before_a_second_case_of_any(
    script: ModuleType,
) -> None:
    calls = script.Calls()
    calls.took_s = {"a[1]": 1.0, "a[2]": 2.0, "b": 3.0, "c": float("inf"), "d": 0.5}
    calls.called["x.py", "f"] = {"a[1]", "a[2]", "b", "c"}
    calls.called["x.py", "g"] = {"d"}
    rest = ("", 0, 0, "", "")
    inside, outside = (
        script.Mutant("x.py", 1, "f", *rest),
        script.Mutant("x.py", 1, "", *rest),
    )
    assert calls.tests_of(inside, 9.0) == ["a[1]", "b", "a[2]"]
    assert calls.tests_of(inside, 4.5) == ["a[1]", "b"]
    assert calls.tests_of(outside, 2.0) == ["d", "a[1]"]
    moved, unknown = (script.Mutant("y.py", 1, name, *rest) for name in ("f", "h"))
    assert calls.tests_of(moved, 4.5) == ["a[1]", "b"]
    assert calls.tests_of(unknown) == []


def test_a_mutant_is_killed_survives_or_is_not_covered(
    script: ModuleType, tmp_path: Path
) -> None:
    (tmp_path / "x.py").write_text("def f(a):\n    return a + 0 + 1\n")
    (tmp_path / "test_x.py").write_text(
        "from x import f\n\ndef test_f():\n    assert f(2) == 3\n"
    )
    source = (tmp_path / "x.py").read_bytes()
    fates = {
        (m.before, m.after): script.tried(m, ["test_x.py"], tmp_path)
        for m in script.mutants("x.py", source)
        if m.kind == "arithmetic"
    }
    assert fates == {
        ("a + 0 + 1", "(a + 0 - 1)"): "killed",
        ("a + 0", "(a - 0)"): "survived",
    }
    assert (tmp_path / "x.py").read_bytes() == source
    assert script.tried(script.mutants("x.py", source)[0], [], tmp_path) == "not covered"


def test_a_run_that_was_stopped_goes_on_until_the_code_around_a_mutant_changes(
    script: ModuleType, tmp_path: Path
) -> None:
    first, *others = script.mutants("x.py", b"def f(a):\n    return a + 1 + 1\n")
    script.Outcomes(tmp_path / "kept").note(first, "killed")
    known = script.Outcomes(tmp_path / "kept")
    assert [known.of(one) for one in (first, *others)] == [
        "killed",
        *[None] * len(others),
    ]
    moved, *_ = script.mutants("y.py", b"import z\n\ndef f(a):\n    return a + 1 + 1\n")
    changed, *_ = script.mutants("x.py", b"def f(a):\n    return a + 1 + 1 + a\n")
    assert (known.of(moved), known.of(changed)) == ("killed", None)


def test_what_a_page_says_of_a_survivor_stays_when_it_is_written_again(
    script: ModuleType,
) -> None:
    mutant = script.mutants("decentral/x.py", b"def f(a, b):\n    return a or b\n")[0]
    line = script.page({mutant: "survived"}, 1).splitlines()[-1]
    assert line.endswith("| survived |  |")
    reasoned = line.removesuffix("|  |") + "| the same: `a \\| b` |"
    again = script.page({mutant: "survived"}, 1, reasoned)
    assert again.splitlines()[-1] == reasoned
    assert reasoned not in script.page({mutant: "killed"}, 1, reasoned)


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_few_changes_of_the_code_go_unnoticed(tmp_path: Path) -> None:
    """Survivors are listed in docs/mutants.md, to be read."""
    command = [sys.executable, str(SCRIPT), "--page", "docs/mutants.md"]
    counted = tmp_path / "counts.json"
    subprocess.run([*command, "--json", str(counted)], cwd=REPO, check=True)
    counts = json.loads(counted.read_text())
    caught = counts.get("killed", 0) + counts.get("timed out", 0)
    assert caught >= 0.8 * sum(counts.values()), counts
