"""What a run ran on."""

from __future__ import annotations

import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

_PACKAGES = ("decentral", "torch", "numpy", "networkx", "pydantic", "safetensors", "scikit-learn")


def environment(device: str, threads: int) -> dict[str, Any]:
    """Return versions, git state, device and host of this process."""
    return {
        "versions": {name: _version(name) for name in _PACKAGES},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "git": _git(),
        "device": device,
        "threads": threads,
        "hosts": [platform.node()],
        "command": sys.argv,
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git() -> str | None:
    """Return the commit of decentral's own checkout, or None when it is not one."""
    home = Path(__file__).parent
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=home, capture_output=True, text=True, timeout=5, check=False,
        )  # fmt: skip
    except OSError:
        return None
    return found.stdout.strip() or None
