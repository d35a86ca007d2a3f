"""What a word means: a concept, a plug-in, or a setting."""

from __future__ import annotations

import re
from importlib.resources import files

from rich.text import Text

from decentral.cli import listing
from decentral.cli.output import console_of, print_json
from decentral.config import Config
from decentral.errors import unknown
from decentral.plugins import plural
from decentral.registry import KINDS, names

#: The start of a concept: its name as a heading.
_HEADING = re.compile(r"^## (.+)\n\n", re.MULTILINE)
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
    asked = word.lower().replace("-", " ").replace("_", " ")
    key = next((k for k in (asked, asked.removesuffix("s")) if k in known), None)
    if key is None:
        _explain_other(word, known)
        return
    console = console_of()
    console.print(Text(key.capitalize(), "bold"))
    console.print(Text(_LINK.sub(r"\1 (docs/\2)", known[key]).replace("*", "")))
    print_json({key: known[key]})


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
