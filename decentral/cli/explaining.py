"""What a word means, be it a concept, a plug-in or a setting; pages of the documentation,
which are installed with the package; and what a run stands on, as BibTeX: the program,
and the sources that its plug-ins name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from rich.text import Text

from decentral import __version__
from decentral.cli import listing
from decentral.cli.output import console_of, print_json
from decentral.config import PARTS, Config
from decentral.errors import ConfigError, nearest, unknown
from decentral.plugins import plural
from decentral.registry import KINDS, build, names
from decentral.report.reader import read_run

#: The start of a concept: its name as a heading.
_HEADING = re.compile(r"^## (.+)\n\n", re.MULTILINE)
#: A word that a concept explains along with its own.
_ALONG = re.compile(r"(?<![*\w])\*([^*]+)\*(?!\*)")
#: A link, and a picture.
_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)]+)\)")
_PICTURE = re.compile(r"^!\[.*\]\(.*\)\n*", re.MULTILINE)
#: What tests read of a page.
_REMARK = re.compile(r"^<!--.*?-->\n", re.MULTILINE | re.DOTALL)


# --- pages ------------------------------------------------------------------------


@cache
def pages() -> dict[str, Path]:
    """Return the pages of the documentation by name, as they are installed, or as they
    lie in a checkout.
    """
    package = Path(__file__).parents[1]
    inside = package / "docs"
    folder = inside if inside.is_dir() else package.parent / "docs"
    return {path.stem: path for path in sorted(folder.glob("*.md"))}


def sections(text: str) -> Iterator[tuple[str, int, int]]:
    r"""Yield anchor, level and line of every heading of a page, anchors as GitHub and the
    site make them.

    >>> list(sections("# One\n```sh\n# no heading\n```\n## Two, more\n"))
    [('one', 1, 0), ('two-more', 2, 4)]
    """
    fenced = False
    for number, line in enumerate(text.splitlines()):
        fenced ^= line.lstrip().startswith("```")
        found = None if fenced else re.match(r"(#+) (.+)", line)
        if found:
            said = re.sub(r"[^\w -]", "", found[2].lower()).strip().replace(" ", "-")
            yield said, len(found[1]), number


def read_page(asked: str) -> tuple[str, str] | None:
    """Return the place and the text of a page, or of a section of it; None where no page
    is called so.

    Args:
        asked: As in ``trouble``, ``docs/trouble.md``, ``trouble.md#bad-nodes`` or
            ``trouble bad-nodes``.

    Raises:
        ConfigError: The page has no such section.
    """
    name, _, anchor = asked.replace("#", " ", 1).partition(" ")
    name = name.removeprefix("docs/").removesuffix(".md")
    if name not in pages():
        return None
    text = pages()[name].read_text(encoding="utf-8")
    if not anchor:
        return name, text
    known = list(sections(text))
    wanted = anchor.strip().lower().replace(" ", "-")
    for place, (said, level, line) in enumerate(known):
        if said == wanted:
            later = (at for _, deep, at in known[place + 1 :] if deep <= level)
            lines = text.splitlines(keepends=True)[line : next(later, None)]
            return f"{name}#{said}", "".join(lines)
    there = [said for said, _, _ in known[1:]]
    raise ConfigError(
        f"page {name!r} has no section {wanted!r}.{nearest(wanted, there)} It has: "
        f"{', '.join(there) or 'none'}."
    )


def command_of(page: str) -> str:
    """Return the command that shows a page.

    Args:
        page: Where it lies in the repository, as in ``docs/trouble.md#bad-nodes``.

    >>> command_of("docs/trouble.md#bad-nodes"), command_of("docs/algorithms.md")
    ('decentral explain trouble bad-nodes', 'decentral explain algorithms.md')
    """
    name, _, anchor = page.removeprefix("docs/").partition("#")
    bare = name.removesuffix(".md")
    if anchor or not _is_word(bare, concepts()):
        name = f"{bare} {anchor}".rstrip()
    return f"decentral explain {name}"


def _linked(text: str) -> str:
    """Write behind each link the command that shows its page; others lead nowhere in a
    terminal, and only their words stay.
    """

    def replace(link: re.Match[str]) -> str:
        name = link[2].partition("#")[0].removesuffix(".md")
        if link[2].startswith("http"):
            return f"{link[1]} ({link[2]})"
        return f"{link[1]} (`{command_of(link[2])}`)" if name in pages() else link[1]

    return _LINK.sub(replace, text)


def _print_page(place: str, text: str) -> None:
    """Print a page, laid out where somebody looks at a terminal."""
    text = _REMARK.sub("", _PICTURE.sub("", _linked(text)))
    console = console_of()
    if console.is_terminal:
        from rich.markdown import Markdown

        console.print(Markdown(text))
    else:
        console.print(Text(text.rstrip()), soft_wrap=True)
    print_json({place: text})


# --- words ------------------------------------------------------------------------


@cache
def concepts() -> dict[str, str]:
    """Return what each concept means, by its name in small letters.

    >>> concepts()["gossip"].split()[:3]
    ['Every', 'node', 'replaces']
    """
    _, *parts = _HEADING.split(pages()["concepts"].read_text(encoding="utf-8"))
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
    ('round', 'mixing')
    """
    asked = word.lower().replace("-", " ").replace("_", " ")
    along = {each: name for name, said in known.items() for each in _ALONG.findall(said)}
    called = along | {name: name for name in known}
    return next(
        (called[k] for k in (asked, asked.removesuffix("s")) if k in called), None
    )


def _is_word(word: str, known: dict[str, str]) -> bool:
    """Whether a word is a concept, a plug-in or a setting.

    Args:
        word: The word.
        known: The concepts.
    """
    setting = word.partition(".")[0] in Config.model_fields
    return setting or bool(_name_of(word, known)) or any(word in names(k) for k in KINDS)


def explain(asked: str) -> None:
    """Print what a word means, or a page; without one, which there are.

    Args:
        asked: A concept, a plug-in, a setting, a page with or without a section; or
            nothing.
    """
    known = concepts()
    if not asked:
        console = console_of()
        console.print("words:", ", ".join(known))
        console.print("pages:", ", ".join(pages()))
        print_json(known)
        return
    spelled = ".md" in asked or not _is_word(asked, known)
    if spelled and (found := read_page(asked)):
        _print_page(*found)
        return
    key = _name_of(asked, known)
    if key is None:
        _explain_other(asked, known)
    else:
        _explain_concept(key, known[key])
    for name in (asked, f"{asked}s"):
        if name in pages():
            page = Text(f"More: `{command_of(name + '.md')}`.")
            console_of().print(page)


def _explain_concept(key: str, text: str) -> None:
    """Print what a concept means.

    Args:
        key: Its name.
        text: What it means.
    """
    console = console_of()
    console.print(Text(key.capitalize(), "bold"))
    console.print(Text(_linked(text).replace("*", "")))
    if key in Config.model_fields:
        console.print(Text(f"Also a setting: `decentral list settings {key}`."))
    print_json({key: text})


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
        members = (n for kind in KINDS for n in names(kind))
        every = {*known, *pages(), *Config.model_fields, *members}
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
