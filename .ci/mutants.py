"""Which small changes of the code does no test notice? A seeded sample of them, each tried.

A mutant is one operator, number, truth value, return or statement changed. It is tried on a copy of
the repository by the tests that call the function it stands in, the quickest first. Survivors go to
a page: each is a test that is missing, or a change that changes nothing.

    python .ci/mutants.py --count 200 --seed 1 --page docs/mutants.md
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import random
import shutil
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Any

import pytest

REPO = Path(__file__).resolve().parent.parent
PACKAGES = "decentral/loop", "decentral/exchange", "decentral/optim"
#: Seconds that a mutant has; tests are chosen so that without it they take at most half.
LIMIT_S = 60.0

COMPARED = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
COUNTED = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult, ast.Mod: ast.Mult, ast.Pow: ast.Mult,
}  # fmt: skip


@dataclass(frozen=True)
class Mutant:
    """A node of a file, as bytes from ``start`` to ``end``, and what stands there instead."""

    path: str
    line: int
    function: str  # as in code objects; empty at the level of a module or class
    kind: str
    start: int
    end: int
    before: str
    after: str

    def applied(self, source: bytes) -> bytes:
        """Return the source with this change."""
        return source[: self.start] + self.after.encode() + source[self.end :]


# --- making mutants -------------------------------------------------------------------------------


def changes(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    """Yield what may stand in the place of a node, and the kind of the change."""
    match node:
        case ast.Compare(left, [operator], rest) if type(operator) in COMPARED:
            yield "comparison", ast.Compare(left, [COMPARED[type(operator)]()], rest)
        case ast.BinOp(left, operator, right) if type(operator) in COUNTED:
            yield "arithmetic", ast.BinOp(left, COUNTED[type(operator)](), right)
        case ast.AugAssign(target, operator, value) if type(operator) in COUNTED:
            yield "arithmetic", ast.AugAssign(target, COUNTED[type(operator)](), value)
        case ast.BoolOp(operator, values):
            other = ast.Or() if isinstance(operator, ast.And) else ast.And()
            yield "boolean", ast.BoolOp(other, values)
        case ast.UnaryOp(ast.Not(), operand):
            yield "boolean", operand
        case ast.Constant(bool(value)):
            yield "boolean", ast.Constant(not value)
        case ast.Constant(int(value)):
            yield "constant", ast.Constant(value + 1)
        case ast.Constant(float(value)):
            yield "constant", ast.Constant(2 * value or 1.0)
        case ast.Return(ast.expr() as value) if ast.unparse(value) != "None":
            yield "return", ast.Return(ast.Constant(None))
        case ast.Expr(ast.Call()) | ast.Assign([ast.Attribute() | ast.Subscript()]):
            yield "deletion", ast.Pass()


def mutants(path: str, source: bytes) -> list[Mutant]:
    """Return every mutant of a file, in order."""
    offsets = [0]
    for line in source.splitlines(keepends=True):
        offsets.append(offsets[-1] + len(line))
    found: list[Mutant] = []

    def visit(node: ast.AST, function: str, prefix: str) -> None:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            inner = prefix + node.name
            function = inner if isinstance(node, ast.FunctionDef) else function
            prefix = (
                f"{inner}.<locals>." if isinstance(node, ast.FunctionDef) else f"{inner}."
            )
        for kind, other in changes(node):
            start, end = (offsets[line - 1] + column for line, column in _ends(node))
            after = ast.unparse(ast.fix_missing_locations(other))
            if isinstance(node, ast.expr):  # whatever stands around it
                after = f"({after})"
            before = source[start:end].decode()
            found.append(
                Mutant(path, _ends(node)[0][0], function, kind, start, end, before, after)
            )
        for child in _children(node):
            visit(child, function, prefix)

    visit(ast.parse(source), "", "")
    return found


def _ends(node: Any) -> tuple[tuple[int, int], tuple[int, int]]:
    return (node.lineno, node.col_offset), (node.end_lineno, node.end_col_offset)


def _children(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the parts of a node that run: no annotations, decorators or texts in f-strings."""
    left_out = {"annotation", "returns", "decorator_list"}
    typing_only = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    if typing_only or isinstance(node, ast.JoinedStr):
        return
    for field, value in ast.iter_fields(node):
        if field not in left_out:
            parts = value if isinstance(value, list) else [value]
            yield from (part for part in parts if isinstance(part, ast.AST))


def sample(count: int, seed: int, packages: tuple[str, ...]) -> list[Mutant]:
    """Return some of all mutants, the same for the same seed and sources."""
    files = sorted(
        file for package in packages for file in (REPO / package).rglob("*.py")
    )
    every = [
        mutant
        for file in files
        for mutant in mutants(file.relative_to(REPO).as_posix(), file.read_bytes())
    ]
    return random.Random(seed).sample(every, min(count, len(every)))


# --- who calls what -------------------------------------------------------------------------------


class Calls:
    """A pytest plug-in that notes which functions of the package every test that passes calls."""

    def __init__(self) -> None:
        """Know nothing."""
        self.called: dict[tuple[str, str], set[str]] = defaultdict(set)
        self.took_s: dict[str, float] = {}

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        """Watch a test with its fixtures."""
        seen: set[tuple[str, str]] = set()
        root = f"{REPO / 'decentral'}{os.sep}"

        def note(frame: FrameType, event: str, arg: Any) -> None:
            code = frame.f_code
            if code.co_filename.startswith(root):
                seen.add((code.co_filename, code.co_qualname))

        began = time.perf_counter()
        threading.settrace(note)
        sys.settrace(note)
        try:
            yield
        finally:
            sys.settrace(None)
            threading.settrace(None)  # type: ignore[arg-type]
        self.took_s[item.nodeid] = time.perf_counter() - began
        for file, function in seen:
            self.called[Path(file).relative_to(REPO).as_posix(), function].add(
                item.nodeid
            )

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Forget a test that does not pass by itself."""
        if report.outcome != "passed":
            self.took_s[report.nodeid] = float("inf")

    def tests_of(self, mutant: Mutant, budget_s: float = LIMIT_S / 2) -> list[str]:
        """Return tests that call the function of a mutant, within a budget.

        The quickest first, a case of every test before a second case of any.
        """
        if mutant.function:
            calling = self.called[mutant.path, mutant.function]
        else:
            calling = {
                t
                for (file, _), ts in self.called.items()
                if file == mutant.path
                for t in ts
            }
        cases: dict[str, int] = defaultdict(int)
        turns: list[tuple[int, float, str]] = []
        for test in sorted(calling, key=lambda test: (self.took_s[test], test)):
            function = test.split("[")[0]
            turns.append((cases[function], self.took_s[test], test))
            cases[function] += 1
        chosen: list[str] = []
        for _, took_s, test in sorted(turns):
            if took_s <= budget_s:
                budget_s -= took_s
                chosen.append(test)
        return chosen


def watched(tests: list[str]) -> Calls:
    """Run tests once, unchanged, and return which function each of them calls."""
    calls = Calls()
    options = [
        "-n",
        "0",
        "-q",
        "-m",
        "not soak and not ray and not pages and not hosts and not slow",
        "--timeout",
        "900",
    ]
    code = pytest.main([*options, "-p", "no:cacheprovider", *tests], plugins=[calls])
    if code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        raise SystemExit(f"pytest ended with {code!r}")
    return calls


# --- trying them ----------------------------------------------------------------------------------


def tried(mutant: Mutant, tests: list[str], copy: Path) -> str:
    """Return what became of a mutant: killed, timed out, survived, or not covered."""
    if not tests:
        return "not covered"
    file = copy / mutant.path
    source = file.read_bytes()
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-n",
        "0",
        "-x",
        "-q",
        "-p",
        "no:cacheprovider",
    ]
    environ = {**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    file.write_bytes(mutant.applied(source))
    try:
        done = subprocess.run(
            [*command, *tests], cwd=copy, env=environ, capture_output=True, timeout=LIMIT_S,
            check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return "timed out"
    finally:
        file.write_bytes(source)
    return "survived" if done.returncode == 0 else "killed"


def campaign(chosen: list[Mutant], calls: Calls) -> dict[Mutant, str]:
    """Try mutants one after the other on a copy of the repository."""
    with TemporaryDirectory() as folder:
        copy = Path(folder) / "copy"
        left_out = shutil.ignore_patterns(
            ".git", ".venv", "runs", "__pycache__", ".pytest_cache"
        )
        shutil.copytree(REPO, copy, ignore=left_out)
        found: dict[Mutant, str] = {}
        for number, mutant in enumerate(chosen, start=1):
            tests = calls.tests_of(mutant)
            found[mutant] = tried(mutant, tests, copy)
            place = f"{mutant.path}:{mutant.line}"
            print(
                f"{number}/{len(chosen)} {place} {mutant.kind} {found[mutant]}",
                flush=True,
            )
    return found


def page(found: dict[Mutant, str], seed: int) -> str:
    """Return the page of what survived."""
    described = subprocess.run(
        ["git", "describe", "--always", "--dirty=+", "--exclude", "*"],
        cwd=REPO, capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    outcomes = list(found.values())
    counts = ", ".join(f"{outcomes.count(one)} {one}" for one in sorted(set(outcomes)))
    lines = [
        "# Mutants", "",
        "Small changes of the code that no test noticed, written by the soak test of",
        "`.ci/mutants.py`: a seeded sample, each tried by the tests that call its function. A",
        "survivor is a test that is missing, or a change that changes nothing.", "",
        f"{datetime.now(UTC):%Y-%m-%d}, {described}, seed {seed}: {len(found)} tried, {counts}.",
        "", "| place | function | change | outcome |", "|---|---|---|---|",
    ]  # fmt: skip
    for mutant, outcome in sorted(
        found.items(), key=lambda item: (item[0].path, item[0].start)
    ):
        if outcome in ("survived", "not covered"):
            change = f"`{_cell(mutant.before)}` → `{_cell(mutant.after)}`"
            place = f"{mutant.path}:{mutant.line}"
            lines.append(f"| {place} | `{mutant.function}` | {change} | {outcome} |")
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    """Return code in one line of a table."""
    line = " ".join(text.split()).replace("|", "\\|").replace("`", "'")
    return line if len(line) <= 80 else f"{line[:77]}..."


def main(words: list[str] | None = None) -> dict[str, int]:
    """Try a sample of mutants; return how many had which outcome."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--page", type=Path, help="where survivors are listed")
    parser.add_argument("--json", type=Path, help="where outcomes are counted")
    parser.add_argument(
        "--package", action="append", help=f"instead of {', '.join(PACKAGES)}"
    )
    parser.add_argument("tests", nargs="*", help="that try them; all by default")
    given = parser.parse_args(words)
    chosen = sample(given.count, given.seed, tuple(given.package or PACKAGES))
    found = campaign(chosen, watched(given.tests or ["tests"]))
    counts = {one: list(found.values()).count(one) for one in sorted(set(found.values()))}
    print(counts)
    if given.page:
        given.page.write_text(page(found, given.seed), encoding="utf-8")
    if given.json:
        given.json.write_text(json.dumps(counts), encoding="utf-8")
    return counts


if __name__ == "__main__":
    main()
