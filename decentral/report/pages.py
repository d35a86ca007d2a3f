"""Pages: what stands in their templates, and an atomic write."""

from __future__ import annotations

import glob
import hashlib
import os
import tempfile
import time
from base64 import b64encode
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from decentral.report.drawing import Drawing, css_variables, drawing

if TYPE_CHECKING:
    from jinja2 import Environment

    from decentral.report.figures import Figure


@dataclass(frozen=True)
class Card:
    """A titled figure of a page, over its whole width if ``full``.

    Where there are no drawings, what is ``absent`` stands for them; of several, a
    page shows the one that fits its width.
    """

    title: str
    caption: str
    drawings: Sequence[Drawing]
    absent: str = ""
    full: bool = False

    @property
    def plot(self) -> str:
        """What can be explored of the drawings, as JSON."""
        return self.drawings[0].plot if self.drawings else ""


def page(name: str, *, live: str = "", **values: Any) -> str:
    """Return a whole HTML document: a template, filled in.

    It runs one script, that of all pages, whose digest is all that the page allows.

    Args:
        name: Name of the template, without its ending.
        live: Address that says whether a served page has changed; empty for a file.
        **values: Text (and numbers, drawings) by the names of the template; every
            text is escaped.
    """
    template = _templates().get_template(f"{name}.html")
    colours = {"light": css_variables(0), "dark": css_variables(1)}
    code = script()
    digest = b64encode(hashlib.sha256(code.encode()).digest()).decode()
    return template.render(live=live, script=code, digest=digest, **colours, **values)


@lru_cache(maxsize=1)
def script() -> str:
    """Return the script of all pages."""
    folder = files("decentral.report") / "templates"
    parts = ("numbers.js", "figures.js", "page.js")
    return "".join((folder / name).read_text(encoding="utf-8") for name in parts)


@lru_cache(maxsize=1)
def _templates() -> Environment:
    """Return what finds and fills in templates; a name that nobody has given is an
    error.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    found = Environment(
        loader=PackageLoader("decentral.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters["unbroken"] = unbroken
    return found


def unbroken(text: str) -> str:
    """Return text in which no line begins with a percent sign."""
    return text.replace(" %", "\N{NO-BREAK SPACE}%")


def drawings(drawn: Sequence[Figure | None], key: str, label: str) -> list[Drawing]:
    """Return figures for a page: one, or a wide and a narrow one of which it shows
    one.

    Args:
        drawn: The figures, where there is something to draw.
        key: What they are on the page, in letters of an id.
        label: What they show, for readers who cannot see it.
    """
    from decentral.report import figures

    kinds = [""] if len(drawn) == 1 else ["wide", "narrow"]
    made: list[Drawing] = []
    for one, kind in zip(drawn, kinds, strict=True):
        if one is not None:
            # Marks first, then drawn, then measured: only that lays the axes out.
            plot = figures.explored(one)
            body = drawing(figures.to_svg(one), f"{key}-{kind or 'any'}", label, kind)
            made.append(replace(body, plot=plot, boxes=figures.boxes(one)))
    return made


def cell_drawing(figure: Figure, label: str) -> str:
    """Return a figure as an element for the cell of a notebook, where no page has a
    style.

    Args:
        figure: The figure.
        label: What it shows, for readers who cannot see it.
    """
    from decentral.report.figures import to_svg

    document = to_svg(figure)
    # Cells are on one page, and the same drawing may be there twice.
    key = f"cell-{hashlib.sha256(document.encode()).hexdigest()[:8]}"
    made = drawing(document, key, label)
    style = "display:block;width:100%;max-width:44em;font-family:sans-serif"
    return (
        f'<svg viewBox="{made.box}" role="img" aria-label="{escape(label)}" '
        f'style="{css_variables(0)} {style};background:var(--card)">{made.body}</svg>'
    )


#: Seconds after which the draft of a page is what a kill has left of it.
_DRAFT_S = 60.0


def _clear_drafts(path: Path) -> None:
    """Remove what kills have left of a page; others may be writing it just now."""
    for draft in path.parent.glob(f".{glob.escape(path.name)}.????????"):
        with suppress(OSError):
            if time.time() - draft.stat().st_mtime > _DRAFT_S:
                draft.unlink()


def write_page(path: Path, html: str) -> Path:
    """Write a page so that a reader sees the old one or the new one, never a half."""
    # Beside the page: only within one file system does a rename replace a file at
    # once.
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        # Names of files need not be text: what is none is shown as its codes.
        with os.fdopen(
            handle, "w", encoding="utf-8", errors="backslashreplace", newline="\n"
        ) as file:
            file.write(html)
        # mkstemp lets nobody but the owner read; a page may be served or shared.
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
        _clear_drafts(path)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    return path
