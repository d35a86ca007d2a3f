"""Nothing heavy is loaded before it is needed."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = {"matplotlib", "networkx", "pandas", "ray", "scipy", "sklearn", "torch", "transformers"}
COMMAND = "sys.argv = {!r}.split()\nfrom decentral.cli import main\nmain()"
LIGHT = {
    "import decentral": "import decentral",
    "decentral --help": COMMAND.format("decentral --help"),
    "decentral launch --help": COMMAND.format("decentral launch --help"),
}


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
