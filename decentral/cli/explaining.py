"""What a word means, be it a concept, a plug-in or a setting; and what a run stands
on, as BibTeX: the program, and the sources that its plug-ins name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from rich.text import Text

from decentral import __version__
from decentral.cli import listing
from decentral.cli.output import console_of, print_json
from decentral.config import PARTS, Config
from decentral.errors import ConfigError, unknown
from decentral.plugins import plural
from decentral.registry import KINDS, build, names
from decentral.report.reader import read_run

#: The start of a concept: its name as a heading.
_HEADING = re.compile(r"^## (.+)\n\n", re.MULTILINE)
#: A word that a concept explains along with its own.
_ALONG = re.compile(r"(?<![*\w])\*([^*]+)\*(?!\*)")
#: A link, of which the terminal shows the text and the page.
_LINK = re.compile(r"\[([^\]]+)\]\(([^)]+)\)")


def concepts() -> dict[str, str]:
    """Return what each concept means, by its name in small letters.

    >>> concepts()["gossip"].split()[:3]
    ['Every', 'node', 'replaces']
    """
    page = (files("decentral.cli") / "concepts.md").read_text(encoding="utf-8")
    _, *parts = _HEADING.split(page)
    return {
        name.lower(): " ".join(text.split())
        for name, text in zip(parts[::2], parts[1::2], strict=True)
    }


def _name_of(word: str, known: dict[str, str]) -> str | None:
    """Return the concept of a word, or the one that explains it along with its own.

    Args:
        word: The word, also in the plural.
        known: The concepts.

    >>> _name_of("Rounds", concepts()), _name_of("doubly-stochastic", concepts())
    ('step', 'mixing')
    """
    asked = word.lower().replace("-", " ").replace("_", " ")
    along = {each: name for name, said in known.items() for each in _ALONG.findall(said)}
    names = along | {name: name for name in known}
    return next((names[k] for k in (asked, asked.removesuffix("s")) if k in names), None)


def explain(word: str | None) -> None:
    """Print what a word means; without one, which words there are.

    Args:
        word: A concept, a plug-in, a setting, or None.
    """
    known = concepts()
    if word is None:
        console_of().print(", ".join(known))
        print_json(known)
        return
    key = _name_of(word, known)
    if key is None:
        _explain_other(word, known)
        return
    console = console_of()
    console.print(Text(key.capitalize(), "bold"))
    console.print(Text(_LINK.sub(r"\1 (docs/\2)", known[key]).replace("*", "")))
    print_json({key: known[key]})


#: Pages that help, by how the message begins: the only list of them.
PAGES: dict[str, str] = {
    r"trust\b|.* names code that you have neither": "docs/trust.md",
    r"plug-in file ": "docs/python.md",
    r"topology file |topology '[^']*\.": "docs/graphs.md#formats",
    r"(attack|aggregation)\b": "docs/trouble.md#bad-nodes",
    r"faults?\b": "docs/trouble.md#faults",
    r"engine\b": "docs/cluster.md#when-something-fails",
    r"(network|compute)\b": "docs/network.md#a-network-from-a-file",
    r"(budget|min|source|capacity)\b": "docs/batch.md#the-planner",
    r"(sam|adversarial|label_noise|label_smoothing)\b": "docs/phases.md#the-timeline",
    r"(optimizer|blockwise|node_lr)\b": "docs/optimizers.md#who-gets-what",
    r"merge\b": "docs/mergeability.md#which-rule-runs-where",
    r"topology\b": "docs/plugins.md#topology",
    r"weights\b": "docs/plugins.md#weights",
    r"communication\b": "docs/plugins.md#communication",
    r"algorithm\b": "docs/plugins.md#algorithm",
    r"unknown (?!word|shell|setting)": "docs/plugins.md",
}


def page_of(message: str) -> str:
    """Return the page of the documentation that helps with an error; empty where none
    does.

    >>> page_of("attack: share 2 is above 1")
    'docs/trouble.md#bad-nodes'
    """
    return next((page for how, page in PAGES.items() if re.match(how, message)), "")


def _explain_other(word: str, known: dict[str, str]) -> None:
    """Show all about a plug-in or a setting of that name.

    Args:
        word: The name.
        known: The concepts.
    """
    kinds = [kind for kind in KINDS if word in names(kind)]
    for kind in kinds[:1]:
        listing.show(kind, word)
        for other in kinds[1:]:
            hint = f"Also a {other.replace('_', ' ')}: `decentral list {plural(other)} {word}`."
            console_of().print(Text(hint))
    if kinds:
        return
    if word.partition(".")[0] not in Config.model_fields:
        every = {
            *known,
            *Config.model_fields,
            *(n for kind in KINDS for n in names(kind)),
        }
        raise unknown("word", word, sorted(every))
    listing.show("settings", word.partition(".")[0])


# --- what to cite -----------------------------------------------------------------


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
