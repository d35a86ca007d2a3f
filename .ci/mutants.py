"""Which small changes of the code does no test notice? A seeded sample of them, each tried.

A mutant is one operator, number, truth value, return or statement changed. It is tried on a copy of
the repository by the tests that call the function it stands in, the quickest first. Survivors go to
a page: each is a test that is missing, or a change that changes nothing; why is written there by
hand, and stays when the page is written again.

    python .ci/mutants.py --count 200 --seed 1 --page docs/mutants.md --keep mutants

With ``--keep`` a run that was stopped goes on where it was: the folder holds which test calls what,
and what became of every mutant. ``--again`` tries those once more that survived, and files of tests
that are named are watched anew.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import multiprocessing
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cache
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from types import CodeType, FrameType
from typing import Any

import pytest

REPO = Path(__file__).resolve().parent.parent
PACKAGES = "decentral/loop", "decentral/exchange", "decentral/optim"
#: Seconds of a core that a mutant has; tests are chosen so that without it they take at most half.
LIMIT_S = 60.0
#: How many tests try a mutant first, and the rest only where it has survived these: most do not.
FIRST = 12
#: What tests import: loaded once, by the process of which those that try mutants are forked.
PRELOADED = (
    "torch", "torch.func", "torch.distributed", "networkx", "scipy.stats", "pydantic", "hypothesis",
    "matplotlib.figure", "safetensors.torch", "rich", "typer", "jinja2", "yaml", "pytest",
    "xdist.plugin",
)  # fmt: skip
_TRIED = count(1)
MARKS = "not soak and not ray and not pages and not hosts and not slow and not claims"
CAUGHT = ("killed", "timed out")

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
    around: str = ""  # a digest of the function or class that it stands in, and where

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


@cache
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
            line, around = _ends(node)[0][0], f"{digest}+{start - first}"
            found.append(
                Mutant(path, line, function, kind, start, end, before, after, around)
            )
        for child in _children(node):
            visit(child, function, prefix)

    for top in _children(ast.parse(source)):
        first, last = (offsets[line - 1] + column for line, column in _ends(top))
        digest = hashlib.sha256(source[first:last]).hexdigest()[:16]
        visit(top, "", "")
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


def sample(most: int, seed: int, packages: tuple[str, ...]) -> list[Mutant]:
    """Return some of all mutants: the same for a seed, whatever else is in the sources.

    More are the same and others beside them. Which file a function stands in does not matter.
    """
    files = sorted(
        file for package in packages for file in (REPO / package).rglob("*.py")
    )
    every: dict[str, Mutant] = {}
    alike: dict[tuple[str, ...], int] = defaultdict(int)
    for file in files:
        for mutant in mutants(file.relative_to(REPO).as_posix(), file.read_bytes()):
            what = mutant.function, mutant.before, mutant.after
            alike[what] += 1
            drawn = f"{seed} {what} {alike[what]}"
            every[hashlib.sha256(drawn.encode()).hexdigest()] = mutant
    return [every[drawn] for drawn in sorted(every)[:most]]


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
        seen: dict[int, CodeType] = {}

        def note(frame: FrameType, event: str, arg: Any) -> None:
            code = frame.f_code
            seen[id(code)] = code  # which hash slowly

        began = sum(os.times()[:4])
        threading.settrace(note)
        sys.settrace(note)
        try:
            yield
        finally:
            sys.settrace(None)
            threading.settrace(None)  # type: ignore[arg-type]
        self.took_s[item.nodeid] = sum(os.times()[:4]) - began
        root = f"{REPO / 'decentral'}{os.sep}"
        for code in seen.values():
            if code.co_filename.startswith(root):
                path = Path(code.co_filename).relative_to(REPO).as_posix()
                self.called[path, code.co_qualname].add(item.nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Forget a test that does not pass by itself."""
        if report.outcome != "passed":
            self.took_s[report.nodeid] = float("inf")

    def tests_of(self, mutant: Mutant, budget_s: float = LIMIT_S / 2) -> list[str]:
        """Return tests that call the function of a mutant, within a budget.

        The quickest first, a case of every test before a second case of any.
        """
        if mutant.function:
            # Also where it has moved to another file since the tests were watched.
            calling = self.called.get((mutant.path, mutant.function)) or {
                t
                for (_, function), ts in self.called.items()
                if function == mutant.function
                for t in ts
            }
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

    def add(self, other: Calls) -> None:
        """Take what was seen of other tests, or of some of these anew."""
        for tests in self.called.values():
            tests -= other.took_s.keys()
        for function, tests in other.called.items():
            self.called[function] |= tests
        self.took_s |= other.took_s

    def write(self, file: Path) -> None:
        """Write what was seen."""
        called = [[*function, sorted(tests)] for function, tests in self.called.items()]
        file.write_text(json.dumps({"called": called, "took_s": self.took_s}))

    @classmethod
    def read(cls, file: Path) -> Calls:
        """Return what was seen before, of tests that there still are."""
        calls = cls()
        if not file.exists():
            return calls
        found = json.loads(file.read_text())
        calls.took_s = found["took_s"]
        there = set(collected(list(calls.took_s)))
        for path, function, tests in found["called"]:
            calls.called[path, function] = there & set(tests)
        return calls


def watched(tests: list[str]) -> Calls:
    """Run tests once, unchanged, and return which function each of them calls."""
    calls = Calls()
    options = ["-n", "0", "-q", "-m", MARKS, "--timeout", "900", "-p", "no:cacheprovider"]
    code = pytest.main([*options, *tests], plugins=[calls])
    if code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        raise SystemExit(f"pytest ended with {code!r}")
    return calls


def watch(tests: list[str], file: Path) -> None:
    """Add what some tests call to a file, in a process of its own."""
    calls = Calls.read(file)
    calls.add(watched(tests))
    calls.write(file)


def collected(tests: list[str]) -> list[str]:
    """Return which of some tests there still are."""
    files = sorted({test.split("::")[0] for test in tests})
    command = [sys.executable, "-m", "pytest", "-n", "0", "-q", "--collect-only"]
    found = subprocess.run(
        [*command, "-m", MARKS, *(file for file in files if (REPO / file).exists())],
        cwd=REPO, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return found.stdout.splitlines()


# --- trying them ----------------------------------------------------------------------------------


def _attempt(tests: list[str], copy: Path) -> None:
    """Run tests on a copy of the repository, as a process that ends with pytest's status."""
    os.setsid()
    resource.setrlimit(resource.RLIMIT_CPU, (int(LIMIT_S), int(LIMIT_S) + 1))
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(nowhere, stream)
    os.chdir(copy)
    os.environ["PYTHONPATH"] = str(copy)
    sys.path[:] = [str(copy), *(path for path in sys.path if path not in ("", str(REPO)))]
    sys.dont_write_bytecode = False
    options = ["-n", "0", "-x", "-q", "-p", "no:cacheprovider", "--rootdir", str(copy)]
    os._exit(pytest.main([*options, *tests]))


def _status(tests: list[str], copy: Path) -> int | None:
    """Return pytest's status, or None where the time that a mutant has was over."""
    starting = multiprocessing.get_context("forkserver")
    starting.set_forkserver_preload(list(PRELOADED))
    process = starting.Process(target=_attempt, args=(tests, copy))
    process.start()
    # Of a core, which is limited, it gets a tenth where others are busy.
    process.join(10 * LIMIT_S)
    hangs = process.is_alive()
    with suppress(ProcessLookupError):  # and whatever it has started
        os.killpg(process.pid, signal.SIGKILL)
    process.join()
    over = hangs or process.exitcode in (-signal.SIGXCPU, -signal.SIGKILL)
    return None if over else process.exitcode


def tried(mutant: Mutant, tests: list[str], copy: Path) -> str:
    """Return what became of a mutant: killed, timed out, survived, or not covered."""
    if not tests:
        return "not covered"
    file = copy / mutant.path
    source, stat = file.read_bytes(), file.stat()
    file.write_bytes(mutant.applied(source))
    # Compiled code is told apart by whole seconds and size.
    os.utime(file, (stat.st_mtime, stat.st_mtime + 2 * next(_TRIED)))
    try:
        for some in (tests[:FIRST], tests[FIRST:]):
            status = _status(some, copy) if some else 0
            if status is None:
                return "timed out"
            if status:
                return "killed"
        return "survived"
    finally:
        file.write_bytes(source)
        os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))


class Outcomes:
    """What became of mutants, kept in a file line by line; a changed source makes them new."""

    def __init__(self, file: Path) -> None:
        """Read what is kept."""
        self.file = file
        lines = file.read_text().splitlines() if file.exists() else []
        self.known = {one["key"]: one["outcome"] for one in map(json.loads, lines)}

    def key(self, mutant: Mutant) -> str:
        """Return what stands for a mutant: itself, and the text that stands around it."""
        what = mutant.function, mutant.before, mutant.after, mutant.around
        return hashlib.sha256(f"{what}".encode()).hexdigest()[:16]

    def of(self, mutant: Mutant) -> str | None:
        """Return what became of a mutant, or None where it was not tried."""
        return self.known.get(self.key(mutant))

    def note(self, mutant: Mutant, outcome: str) -> None:
        """Keep what became of a mutant."""
        key = self.key(mutant)
        self.known[key] = outcome
        line = {"key": key, "outcome": outcome, **asdict(mutant)}
        with self.file.open("a") as file:
            file.write(json.dumps(line) + "\n")


def campaign(
    chosen: list[Mutant], calls: Calls, outcomes: Outcomes, again: bool
) -> dict[Mutant, str]:
    """Try mutants one after the other on a copy of the repository, if they were not before."""
    found: dict[Mutant, str] = {}
    with TemporaryDirectory() as folder:
        copy = Path(folder) / "copy"
        left_out = shutil.ignore_patterns(
            ".git", ".venv", "runs", "__pycache__", ".pytest_cache"
        )
        shutil.copytree(REPO, copy, ignore=left_out)
        for number, mutant in enumerate(chosen, start=1):
            outcome = outcomes.of(mutant)
            if outcome is None or (again and outcome not in CAUGHT):
                outcome = tried(mutant, calls.tests_of(mutant), copy)
                outcomes.note(mutant, outcome)
                place = f"{mutant.path}:{mutant.line}"
                print(
                    f"{number}/{len(chosen)} {place} {mutant.kind} {outcome}", flush=True
                )
            found[mutant] = outcome
    return found


def page(found: dict[Mutant, str], seed: int, before: str = "") -> str:
    """Return the page of what survived; why, from the page as it was before."""
    described = subprocess.run(
        ["git", "describe", "--always", "--dirty=+", "--exclude", "*"],
        cwd=REPO, capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    outcomes = list(found.values())
    counts = ", ".join(f"{outcomes.count(one)} {one}" for one in sorted(set(outcomes)))
    lines = [
        "# Mutants", "",
        "Small changes of the code that no test noticed, written by `.ci/mutants.py`: a seeded",
        "sample, each tried by the tests that call its function. A survivor is a test that is",
        "missing, or a change that changes nothing.", "",
        f"{datetime.now(UTC):%Y-%m-%d}, {described}, seed {seed}: {len(found)} tried, {counts}.",
        "", "| place | function | change | outcome | why |", "|---|---|---|---|---|",
    ]  # fmt: skip
    reasons = _reasons(before)
    for mutant, outcome in sorted(
        found.items(), key=lambda item: (item[0].path, item[0].start)
    ):
        if outcome not in CAUGHT:
            change = f"`{_cell(mutant.before)}` → `{_cell(mutant.after)}`"
            place = f"{mutant.path}:{mutant.line}"
            why = reasons.get((mutant.path, f"`{mutant.function}`", change), "")
            lines.append(
                f"| {place} | `{mutant.function}` | {change} | {outcome} | {why} |"
            )
    return "\n".join(lines) + "\n"


def _reasons(text: str) -> dict[tuple[str, str, str], str]:
    """Return what a page says about survivors, by file, function and change."""
    rows = [
        re.split(r" (?<!\\)\| ", line.strip("| "))
        for line in text.splitlines()
        if line.startswith("| decentral/")
    ]
    return {
        (place.rsplit(":", 1)[0], function, change): why
        for place, function, change, _, why in (row for row in rows if len(row) == 5)
    }


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
        "--keep", type=Path, help="a folder, to go on where it was stopped"
    )
    parser.add_argument("--again", action="store_true", help="try survivors once more")
    parser.add_argument(
        "--package", action="append", help=f"instead of {', '.join(PACKAGES)}"
    )
    parser.add_argument("tests", nargs="*", help="to be watched; all, if none were yet")
    given = parser.parse_args(words)
    chosen = sample(given.count, given.seed, tuple(given.package or PACKAGES))
    with TemporaryDirectory() as folder:
        keep = given.keep or Path(folder)
        keep.mkdir(parents=True, exist_ok=True)
        calls = keep / "calls.json"
        if given.tests or not calls.exists():
            watching = multiprocessing.get_context("spawn").Process(
                target=watch, args=(given.tests or ["tests"], calls)
            )
            watching.start()
            watching.join()
            if watching.exitcode:
                raise SystemExit("the tests could not be watched")
        outcomes = Outcomes(keep / "outcomes.jsonl")
        found = campaign(chosen, Calls.read(calls), outcomes, given.again)
    counts = {one: list(found.values()).count(one) for one in sorted(set(found.values()))}
    print(counts)
    if given.page:
        before = given.page.read_text(encoding="utf-8") if given.page.exists() else ""
        given.page.write_text(page(found, given.seed, before), encoding="utf-8")
    if given.json:
        given.json.write_text(json.dumps(counts), encoding="utf-8")
    return counts


if __name__ == "__main__":
    main()
