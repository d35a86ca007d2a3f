"""The page around a report: one style sheet, small building blocks, and an atomic write."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import suppress
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template

from decentral.report.palette import css_variables

_PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<link rel="icon" href="data:,">
<title>$title</title>
<style>
:root { $light }
@media (prefers-color-scheme: dark) { :root { $dark } }
$style
</style>
</head>
<body>
<main>
$body
</main>
<footer>Written by decentral. This page is one file and loads nothing.</footer>
</body>
</html>
""")


def page(title: str, body: str) -> str:
    """Return a whole HTML document; ``body`` is HTML, ``title`` is text."""
    return _PAGE.substitute(
        title=escape(title),
        light=css_variables(0),
        dark=css_variables(1),
        style=(files("decentral.report") / "templates" / "style.css")
        .read_text(encoding="utf-8")
        .strip(),
        body=body,
    )


def sentence(text: str) -> str:
    """Return text as HTML in which no line begins with a percent sign."""
    return escape(text).replace(" %", "&nbsp;%")


def tile(label: str, value: str, note: str, kind: str = "") -> str:
    """Return one headline number with the words around it."""
    return (
        f'<div class="card tile {kind}"><p>{escape(label)}</p>'
        f'<p class="value">{escape(value)}</p><p>{escape(note)}</p></div>'
    )


def figure(title: str, caption: str, drawing: str, *, full: bool = False) -> str:
    """Return a titled figure; ``drawing`` is HTML, the rest is text."""
    size = " full" if full else ""
    return (
        f'<figure class="card{size}"><figcaption><h2>{escape(title)}</h2>'
        f"<p>{escape(caption)}</p></figcaption>{drawing}</figure>"
    )


def settings(pairs: Iterable[tuple[str, str]]) -> str:
    """Return names and values as a readable list."""
    items = (f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in pairs)
    return f'<dl class="settings">{"".join(items)}</dl>'


def table(
    columns: Sequence[str], rows: Iterable[Sequence[str]], *, numeric: frozenset[str], label: str
) -> str:
    """Return a table that scrolls sideways on small screens; cells and column names are HTML.

    The first cell of a row is its heading; the columns in ``numeric`` are set flush right.
    """
    kinds = ["number" if column in numeric else "text" for column in columns]
    head = "".join(
        f'<th scope="col" class="{kind}">{column}</th>'
        for column, kind in zip(columns, kinds, strict=True)
    )
    lines = (
        f'<tr><th scope="row" class="{kinds[0]}">{row[0]}</th>'
        + "".join(
            f'<td class="{kind}">{cell}</td>' for cell, kind in zip(row[1:], kinds[1:], strict=True)
        )
        + "</tr>"
        for row in rows
    )
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(label)}"><table>'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
    )


def write_page(path: Path, html: str) -> Path:
    """Write a page so that a reader sees the old one or the new one, never a half."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            file.write(html)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    return path
