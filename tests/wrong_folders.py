"""What can be wrong with a run folder, beside what ``wrong.py`` has."""

from __future__ import annotations

import shutil
from pathlib import Path

from wrong import SMALL, Case

FOLDERS = [
    Case("launch or resume: no folder named", f"{SMALL} --resume"),
    Case("launch or resume: another run", f"{SMALL} seed=9 --resume --out finished"),
    Case("launch: what is left of a run", f"{SMALL} --out remains"),
]  # fmt: skip


def wreck() -> None:
    """Damage copies of the finished run in this folder."""
    shutil.copytree("finished", "remains")
    Path("remains/config.yaml").unlink()
