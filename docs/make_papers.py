"""Write against-the-papers.md from papers.yaml and claims.md: ``python docs/make_papers.py``."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from decentral.claims.base import FAILS, HOLDS, OPEN, PARTLY
from decentral.report.studies import spoken
from decentral.yamltext import load_file

HERE = Path(__file__).parent
PAGE, CLAIMS = HERE / "against-the-papers.md", HERE / "claims.md"
#: What a sentence gets of which the record of its claim has no figure yet.
UNRECORDED = "not run"
HEAD = """# Against the papers

What the abstracts of the papers behind this project say, sentence by sentence and in other words,
and what came of trying it here. Written by `python docs/make_papers.py` from `docs/papers.yaml`;
verdicts and figures of claims are those of [claims](claims.md), at the small sizes stated there. A
sentence holds if all figures beside it do, in part if some do; a figure that is so by design judges
nothing. "Not tried" says why; "not run" is what could be run, and was not.
"""


#: Of a claim, by name: limits, what was measured, and whether each limit was met.
Figures = dict[str, tuple[tuple[str, ...], str, tuple[str, ...]]]


def read_claims(text: str) -> dict[str, Figures]:
    """Return the figures of every claim in claims.md, by its name."""
    found: dict[str, Figures] = {}
    for section in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        name = section.partition("\n")[0].strip().replace("-", "_")
        rows = re.findall(r"^\|(.*)\|$", section, flags=re.MULTILINE)
        figures: Figures = {}
        for row in rows:
            _, figure, limit, measured, met = map(str.strip, row.split("|"))
            if measured == "not run":
                continue
            limits, measured, words = figures.get(figure, ((), measured, ()))
            # Of one figure more than one thing may be expected.
            figures[figure] = (*limits, limit), measured, (*words, met.strip("*"))
        found[name] = figures
    return found


def verdict(words: Sequence[str], missing: int) -> str:
    """Return what words of claims.md say together, some of the figures missing."""
    asked = [word for word in words if word in ("yes", "no", "open")]
    if not asked:
        return "by design" if words and not missing else UNRECORDED
    if "yes" not in asked:
        return FAILS if "no" in asked else OPEN
    return HOLDS if {*asked} == {"yes"} and not missing else PARTLY


def judge(sentence: dict[str, Any], claims: dict[str, Figures]) -> tuple[str, str, str]:
    """Return what tries a sentence, the verdict, and the figures or the reason.

    Args:
        sentence: As papers.yaml has it.
        claims: Figures of all claims.
    """
    if "why" in sentence:
        run, _, rest = sentence["why"].partition("not run: ")
        word = "not run" if rest and not run else "not tried"
        return (
            "",
            word,
            rest if word == "not run" else sentence["why"].removeprefix("not tried: "),
        )
    if "command" in sentence:
        return sentence["command"], sentence["verdict"], sentence["found"]
    recorded = claims.get(sentence["claim"], {})
    seen = [
        (name, recorded[name])
        for choice in sentence["figures"]
        for name in [one for one in choice.split(" | ") if one in recorded][:1]
    ]
    missing = len(sentence["figures"]) - len(seen)
    parts = [_measured(name, *found) for name, found in seen]
    parts += [f"{missing} of its figures not recorded yet"] if missing else []
    parts += [sentence["limit"]] if "limit" in sentence else []
    command = f"`decentral reproduce {spoken(sentence['claim'])}`"
    words = [word for _, (*_, words) in seen for word in words]
    return command, verdict(words, missing), "; ".join(parts)


def _measured(name: str, limits: Sequence[str], measured: str, _: Sequence[str]) -> str:
    asked = " and ".join(limit for limit in limits if limit)
    return f"{name}: {measured}" + (f" (asked: {asked})" if asked else "")


def page(papers: list[dict[str, Any]], claims: dict[str, Figures]) -> Iterator[str]:
    """Yield the lines of the page."""
    yield HEAD
    judged = [[judge(one, claims) for one in paper["sentences"]] for paper in papers]
    verdicts = [word for rows in judged for _, word, _ in rows]
    counts = {word: verdicts.count(word) for word in sorted({*verdicts})}
    yield (
        f"{len(verdicts)} sentences of {len(papers)} abstracts: "
        + ", ".join(f"{count} {word}" for word, count in counts.items())
        + "."
    )
    for paper, rows in zip(papers, judged, strict=True):
        yield f"\n## {paper['paper']}\n"
        yield f"{paper['by']}. Abstract: {paper['abstract']}.\n"
        yield "| the abstract | tried by | verdict | figure, or why not |\n|---|---|---|---|"
        for sentence, row in zip(paper["sentences"], rows, strict=True):
            cells = (cell.replace("|", r"\|") for cell in (sentence["says"], *row))
            yield f"| {' | '.join(cells)} |"


def write() -> None:
    """Write the page."""
    papers = load_file(HERE / "papers.yaml")
    claims = read_claims(CLAIMS.read_text(encoding="utf-8"))
    PAGE.write_text("\n".join(page(papers, claims)) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write()
