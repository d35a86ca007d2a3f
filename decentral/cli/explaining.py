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
