"""What a run stands on, as BibTeX: the program, and the sources that its plug-ins name."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from decentral import __version__
from decentral.cli.output import console_of, print_json
from decentral.config import PARTS
from decentral.errors import ConfigError
from decentral.registry import build
from decentral.report.reader import read_run

#: Names, a title in quotes, and what stands between it and a year.
_SOURCE = re.compile(
    r"(?:(?P<authors>[A-Z][^\"();:]*?), )?"
    r"\"(?P<title>[^\"]+)\",? (?P<venue>[^\";()]*?)\b(?P<year>(?:19|20)\d\d)\b"
)
#: Names and a year without a title, as ``Krizhevsky, 2009``.
_UNTITLED = re.compile(
    r"\((?P<authors>[A-Z][^\"();:0-9]*?), (?:(?P<venue>[A-Z][^\";()0-9]*?),? )?"
    r"(?P<year>(?:19|20)\d\d)\b"
)


@dataclass(frozen=True)
class Source:
    """A work that a plug-in names."""

    plugin: str
    authors: str
    title: str
    venue: str
    year: str

    @property
    def key(self) -> str:
        """What a text cites it by: the first author, the year, a word of the title."""
        first = re.findall(r"\w+", re.split(r",| & | et al", self.authors)[0])
        word = next((w for w in re.findall(r"\w+", self.title) if len(w) > 3), "")
        return f"{first[-1] if first else 'source'}{self.year}{word}".lower()

    def bibtex(self) -> str:
        """Return it as an entry."""
        fields = {
            "author": bibtex_authors(self.authors),
            "title": f"{{{self.title}}}" if self.title else "",
            "booktitle" if self.venue else "": self.venue,
            "year": self.year,
            "note": f"named by {self.plugin} of decentral",
        }
        return _entry("inproceedings" if self.venue else "misc", self.key, fields)


def bibtex_authors(text: str) -> str:
    """Write names as BibTeX reads them.

    >>> bibtex_authors("He, Karimireddy & Jaggi"), bibtex_authors("Lian et al.")
    ('He and Karimireddy and Jaggi', 'Lian and others')
    """
    names = re.split(r", | & ", re.sub(r" et al\.?$", "", text))
    ending = ["others"] if re.search(r" et al\.?$", text) else []
    return " and ".join([name for name in names if name] + ending)


def sources(plugin: str, text: str) -> Iterator[Source]:
    """Yield the works that a docstring names.

    >>> [s.key for s in sources("task digits", "(Alpaydin & Kaynak, UCI, 1998.)")]
    ['alpaydin1998']

    Args:
        plugin: Kind and name of the plug-in.
        text: Its docstring.
    """
    text = " ".join(text.split(">>>")[0].split())
    found = list(_SOURCE.finditer(text)) or list(_UNTITLED.finditer(text))
    for one in found:
        held = {key: (value or "").strip(" ,") for key, value in one.groupdict().items()}
        authors = re.sub(r"^.*\b(?:after|of) ", "", held["authors"])
        yield Source(plugin, authors, held.get("title", ""), held["venue"], held["year"])


def cite(path: str) -> None:
    """Print the sources of a run, as BibTeX or as JSON.

    Args:
        path: Folder of the run.
    """
    console, config = console_of(), read_run(path).config
    found = list(_of_run(config))
    tool = {
        "title": "{decentral}: train one model on many machines that communicate little",
        "author": "{The authors of decentral}",
        "year": "2026",
        "version": __version__,
    }
    entries = {"decentral": _entry("software", "decentral", tool)}
    entries |= {one.key: one.bibtex() for one in found}
    # Not wrapped: a line of BibTeX that breaks within a title reads as two titles.
    console.print("\n\n".join(entries.values()), soft_wrap=True)
    tool_record = {"plugin": "decentral", "title": "decentral", "version": __version__}
    print_json([tool_record, *({**vars(one), "key": one.key} for one in found)])


def _of_run(config: Mapping[str, Any]) -> Iterator[Source]:
    """Yield what the parts of a run name, each work once."""
    seen: set[str] = set()
    for key, kind in PARTS.items():
        if config.get(key) in (None, "auto"):
            continue
        try:
            found = build(kind, config[key]).plugin
        except ConfigError:
            continue  # of Python or of a file that is not here: it names no source
        for one in sources(f"{kind} {found.name}", found.help):
            if one.key not in seen:
                seen.add(one.key)
                yield one


def _entry(kind: str, key: str, fields: dict[str, str]) -> str:
    lines = [f"  {name} = {{{value}}}," for name, value in fields.items() if value]
    return "\n".join([f"@{kind}{{{key},", *lines, "}"])
