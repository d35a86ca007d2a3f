"""The command that writes a trained model for others: export."""

from __future__ import annotations

from pathlib import Path

from rich.text import Text

from decentral import api
from decentral.cli.console import console_of
from decentral.cli.words import QUIET


def export(run: str, out: str, rule: str | None) -> None:
    """Write the model and print the lines that load it."""
    console = console_of()
    with console.status("tracing the model"):
        lines = api.Run(Path(run)).export(Path(out).expanduser(), rule=rule)
    console.print(Text(f"written into {out}; in that folder it loads"), soft_wrap=True)
    for needs, line in lines.items():
        console.print(Text(f"with {needs}:", QUIET))
        console.print(Text(f"  {line}"), soft_wrap=True)
