"""Who may import whom: the contracts in pyproject.toml hold, and they bite."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from decentral.plugins import find_members
from decentral.registry import KINDS

REPO = Path(__file__).resolve().parent.parent
PACKAGE = REPO / "decentral"
CONFIG = tomllib.loads((REPO / "pyproject.toml").read_text())["tool"]["importlinter"]


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the contracts of pyproject.toml over the package in ``folder``."""
    code = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    return subprocess.run(
        [sys.executable, "-c", code, "--no-cache"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


def test_contracts_hold() -> None:
    done = lint_imports(REPO)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_contract_can_fail(tmp_path: Path) -> None:
    """A module of the lowest layer that imports all it must not breaks every contract."""
    shutil.copytree(
        PACKAGE, tmp_path / "decentral", ignore=shutil.ignore_patterns("__pycache__")
    )
    shutil.copy(REPO / "pyproject.toml", tmp_path)
    doors = [
        c["forbidden_modules"] for c in CONFIG["contracts"] if c["type"] == "forbidden"
    ]
    wrong = ["decentral.cli", *(name for names in doors for name in names)]
    circle = "decentral.registry"  # which imports errors
    errors = tmp_path / "decentral" / "errors.py"
    imports = "".join(f"\nimport {name}" for name in [*wrong, circle])
    errors.write_text(errors.read_text() + imports + "\n")

    done = lint_imports(tmp_path)

    assert done.returncode == 1, done.stdout + done.stderr
    for contract in CONFIG["contracts"]:
        assert f"{contract['name']} BROKEN" in done.stdout
    for name in wrong:
        assert f"decentral.errors -> {name}" in done.stdout


def uses_torch_distributed(source: str) -> bool:
    """Whether Python source imports or names ``torch.distributed``."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found = any(a.name.startswith("torch.distributed") for a in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            named = module == "torch" and any(a.name == "distributed" for a in node.names)
            found = module.startswith("torch.distributed") or named
        elif isinstance(node, ast.Attribute):
            found = ast.unparse(node) == "torch.distributed"
        else:
            continue
        if found:
            return True
    return False


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import torch.distributed as dist", True),
        ("from torch import distributed", True),
        ("from torch.distributed import all_reduce", True),
        ("import torch\ndef f():\n    torch.distributed.barrier()", True),
        ("import torch\nfrom torch.utils import data\n'torch.distributed'", False),
    ],
)
def test_torch_distributed_is_recognised(source: str, expected: bool) -> None:
    assert uses_torch_distributed(source) is expected


def test_torch_distributed_has_one_door() -> None:
    """Only one module talks to other processes: the exchange of process groups."""
    users = [
        path.relative_to(PACKAGE).as_posix()
        for path in sorted(PACKAGE.rglob("*.py"))
        if uses_torch_distributed(path.read_text())
    ]
    assert users == ["exchange/process_group.py"]


def imported_at_once(module: str) -> set[str]:
    """Return all modules of ours that importing one imports, functions not called."""
    found, waiting = set[str](), [module]
    while waiting:
        path = REPO / (waiting.pop().replace(".", "/") + ".py")
        if path.is_file():
            for node in ast.parse(path.read_text()).body:
                if isinstance(node, ast.ImportFrom) and node.module not in found:
                    found.add(str(node.module))
                    waiting.append(str(node.module))
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_kind_is_can_be_imported_without_its_members(kind: str) -> None:
    """A member that is imported first asks its kind, which must not wait for the member."""
    home = KINDS[kind]
    elsewhere = {*find_members(home, kind).values()} - {home}
    assert not imported_at_once(home) & elsewhere


def test_contributing_shows_the_layers() -> None:
    """The table in CONTRIBUTING.md has the rows of the contract, in the same order."""
    contract = next(c for c in CONFIG["contracts"] if c["id"] == "layers")
    rows = [
        row.replace("(", "").replace(")", "").split(" : ") for row in contract["layers"]
    ]
    table = (REPO / "CONTRIBUTING.md").read_text()
    shown = [line.split("|") for line in table.splitlines() if line.startswith("| `")]
    places = [cells[1].replace("`", "").replace(" ", "").split(",") for cells in shown]
    assert [p for p in places if p in rows] == rows


WAY = re.compile(r"^\| `([\w/]+\.py)` \| `([\w.]+)` \|", re.MULTILINE)
WAYS = WAY.findall((REPO / "CONTRIBUTING.md").read_text())


@pytest.mark.parametrize(("place", "name"), WAYS)
def test_contributing_leads_through_what_there_is(place: str, name: str) -> None:
    """Every step of the ways that it shows is a function, class or method of that file."""
    nodes: list[ast.stmt] = ast.parse((PACKAGE / place).read_text()).body
    for part in name.split("."):
        found = {
            n.name: n.body for n in nodes if isinstance(n, ast.FunctionDef | ast.ClassDef)
        }
        assert part in found
        nodes = found[part]


def test_contributing_shows_ways() -> None:
    assert len(WAYS) > 10
