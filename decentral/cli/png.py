"""Figures as PNG files."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.text import Text

from decentral.errors import ConfigError


def save(figure: Any, caption: str, path: str, console: Console) -> None:
    """Write a figure above its caption and say so; ConfigError where the file cannot be written."""
    from decentral.report import figures

    if figure is None:
        raise ConfigError(f"--png {path}: there is nothing to draw.")
    figure.supxlabel(caption, fontsize=9)
    try:
        figures.save_png(figure, path)
    except OSError as error:
        raise ConfigError(f"--png {path} cannot be written: {error.strerror}.") from error
    console.print()
    console.print(Text(f"drawn in {path}"), soft_wrap=True)
