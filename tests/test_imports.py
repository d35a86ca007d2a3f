"""Nothing heavy is loaded before it is needed; packages offer names and define none."""

from __future__ import annotations

import ast
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

import decentral

#: Imported by the functions that use them: a twentieth of a second to a second each.
LATE = {"jinja2", "scipy"}
HEAVY = {
    "matplotlib",
    "networkx",
    "pandas",
    "ray",
    "sklearn",
    "torch",
    "transformers",
    *LATE,
}
COMMAND = "sys.argv = {!r}.split()\nfrom decentral.cli import main\nmain()"
LIGHT = {
    "import decentral": "import decentral",
    "decentral --help": COMMAND.format("decentral --help"),
    "decentral launch --help": COMMAND.format("decentral launch --help"),
    "decentral list": COMMAND.format("decentral list"),
}
PACKAGE = Path(__file__).resolve().parent.parent / "decentral"


@pytest.mark.parametrize("code", LIGHT.values(), ids=LIGHT.keys())
def test_loads_nothing_heavy(code: str) -> None:
    report = "atexit.register(lambda: print('LOADED', *sys.modules, file=sys.stderr))"
    done = subprocess.run(
        [sys.executable, "-c", f"import atexit, sys\n{report}\n{code}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    loaded = {name.partition(".")[0] for name in last.removeprefix("LOADED").split()}
    assert "decentral" in loaded
    assert not loaded & HEAVY


TRAINS = """
import sys
from decentral.config import make_config
from decentral.exchange.base import LocalExchange
from decentral.loop import train
from decentral.loop.block import Block
from decentral.loop.measure import Evaluator
from decentral.loop.preparing import prepare
block = Block(prepare(make_config({"nodes": 4, "steps": 2})), LocalExchange(4), print)
assert "accuracy/merged" in list(train(block, Evaluator(block)))[-1]
print(*sys.modules)
"""


def test_a_run_trains_and_is_evaluated_without_what_only_its_pages_need() -> None:
    """Nor does torch import its symbolic mathematics, which takes half a second."""
    done = subprocess.run(
        [sys.executable, "-c", TRAINS], capture_output=True, text=True, check=True
    )
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert "torch" in loaded
    assert not loaded & {"sympy", "matplotlib", "jinja2", "pandas", "ray"}


PACKAGES = ["decentral"] + [
    found.name
    for found in pkgutil.walk_packages(decentral.__path__, "decentral.")
    if found.ispkg
]


@pytest.mark.parametrize("name", PACKAGES)
def test_a_package_offers_what_it_names(name: str) -> None:
    """Also what is imported only when it is asked for, after all modules of the package are."""
    package = import_module(name)
    modules = [found.name for found in pkgutil.iter_modules(package.__path__)]
    for module in modules:
        if not module.startswith("_"):
            import_module(f"{name}.{module}")
    for offered in getattr(package, "__all__", ()):
        value = getattr(package, offered)
        assert offered not in modules or callable(value), (
            f"{offered} is a module of {name}"
        )


@pytest.mark.parametrize("name", PACKAGES)
def test_a_package_defines_nothing(name: str) -> None:
    """What a package is stands in a module that says so by its name."""
    text = Path(str(import_module(name).__file__)).read_text(encoding="utf-8")
    defined = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    names = [one.name for one in ast.parse(text).body if isinstance(one, defined)]
    assert set(names) <= {"__getattr__", "__dir__"}


def imported_at_once(source: str) -> Iterator[str]:
    """Yield the packages that a module imports when it is imported, annotations' apart."""
    todo: list[ast.AST] = [ast.parse(source)]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield (node.module or "").partition(".")[0]
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        elif not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"):
            todo += ast.iter_child_nodes(node)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import scipy.special as special", {"scipy"}),
        (
            "try:\n    from scipy import special\nexcept ImportError:\n    special = 0",
            {"scipy"},
        ),
        ("class A:\n    import scipy", {"scipy"}),
        ("def f():\n    import scipy", set()),
        ("if TYPE_CHECKING:\n    import scipy", set()),
    ],
)
def test_imports_are_found(source: str, expected: set[str]) -> None:
    assert set(imported_at_once(source)) == expected


def test_what_is_used_late_is_imported_late() -> None:
    users = [
        p for p in PACKAGE.rglob("*.py") if LATE & set(imported_at_once(p.read_text()))
    ]
    assert users == []


FORMER = [
    ("algorithms", "Kept", "StateSchema"),
    ("exchange", "Ledger", "CommunicationStats"),
    ("exchange.codec", "Draw", "RngContext"),
    ("exchange.codec", "How", "CodecContext"),
    ("exchange.codec", "Load", "TensorLayout"),
    ("network", "Act", "RoundAction"),
    ("network", "Conversation", "RoundPlanner"),
    ("optim", "Course", "LrInfo"),
    ("schedules", "slots", "communication_steps"),
]


@pytest.mark.parametrize(("package", "was", "now"), FORMER)
def test_a_former_name_still_works_and_says_the_new_one(
    package: str, was: str, now: str
) -> None:
    module = import_module(f"decentral.{package}")
    with pytest.warns(
        DeprecationWarning, match=rf"\.{was} is now decentral\.{package}\.{now}$"
    ):
        former = getattr(module, was)
    assert former is getattr(module, now)
    assert was not in module.__all__
