"""Write algorithms.md from the registry: ``python docs/make_algorithms.py``.

What stands in the page below the mark ``<!-- measured -->`` is kept.
"""

from __future__ import annotations

from pathlib import Path

from decentral.algorithms.base import CONDITIONS, channels_of, paper_of
from decentral.registry import Plugin, find, names
from decentral.traits import AlgorithmTraits, traits_of

PAGE = Path(__file__).with_name("algorithms.md")
MARK = "<!-- measured -->"
HEAD = """# Algorithms

Written by `python docs/make_algorithms.py` from what the algorithms declare; the law suite tests
every guarantee, and `decentral list algorithms` shows them with formula and cost in the terminal.
A channel is a row as long as the model, unless it says otherwise.

| algorithm | channels in a message | what it promises | paper |
|---|---|---|---|
"""
EVENTS = """
## Event by event

Nodes of these wait for no round; they run in simulated time, in one process. See
[asynchrony](asynchrony.md).

| algorithm | what it promises | paper |
|---|---|---|
"""
SOUND = """
## Which combinations are sound

A combination that is not sound is refused in one line, with a remedy.

"""


def sent(found: Plugin) -> str:
    """Return what a message holds."""
    return ", ".join(channels_of(found)) or "nothing"


def row(found: Plugin) -> str:
    """Return an algorithm's line in the first table."""
    guarantees = traits_of(found, AlgorithmTraits).guarantees
    promises = ", ".join(word.replace("_", " ") for word in guarantees)
    return f"| `{found.name}` | {sent(found)} | {promises} | {paper_of(found)} |"


def goes_in(found: Plugin) -> str:
    """Return the model of time: ``rounds``, also where a setting may choose another."""
    time = traits_of(found, AlgorithmTraits).time
    return time if isinstance(time, str) else "rounds"


def brief(found: Plugin) -> str:
    """Return the line of an algorithm that goes event by event."""
    guarantees = traits_of(found, AlgorithmTraits).guarantees
    promises = ", ".join(word.replace("_", " ") for word in guarantees)
    return f"| `{found.name}` | {promises} | {paper_of(found)} |"


def soundness(algorithms: list[Plugin]) -> list[str]:
    """Return the table of algorithms against the conditions that some refuse."""
    heads = [condition.replace("_", " ") for condition in CONDITIONS]
    lines = [f"| algorithm | {' | '.join(heads)} |", "|---|" + "---|" * len(heads)]
    for found in algorithms:
        refused = traits_of(found, AlgorithmTraits).refuses
        cells = ["no" if condition in refused else "yes" for condition in CONDITIONS]
        lines.append(f"| `{found.name}` | {' | '.join(cells)} |")
    meanings = "; ".join(f"*{k.replace('_', ' ')}*: {v}" for k, v in CONDITIONS.items())
    return [*lines, "", f"The conditions: {meanings}."]


def text() -> str:
    """Return the whole page."""
    every = [find("algorithm", name) for name in names("algorithm")]
    algorithms = [found for found in every if goes_in(found) == "rounds"]
    others = [found for found in every if found not in algorithms]
    page = HEAD + "\n".join(map(row, algorithms)) + "\n" + EVENTS
    page += "\n".join(map(brief, others)) + "\n" + SOUND
    page += "\n".join(soundness(algorithms)) + "\n"
    before = PAGE.read_text(encoding="utf-8") if PAGE.exists() else ""
    measured = before.partition(MARK)[2]
    return f"{page}\n{MARK}{measured or chr(10)}"


if __name__ == "__main__":
    PAGE.write_text(text(), encoding="utf-8")
