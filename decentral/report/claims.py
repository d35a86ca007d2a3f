"""The page of claims: a row per claim with its verdict, then what was expected and measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from statistics import mean, median
from typing import Any

from decentral.report.facts import ABSENT, duration_text
from decentral.report.pages import figure, page, sentence, table, write_page
from decentral.report.run import responsive

Record = Mapping[str, Any]


def write_claims(records: Sequence[Record], path: Path) -> Path:
    """Write the outcomes of claims as one HTML file and return its path."""
    return write_page(path, claims_html(records))


def claims_html(records: Sequence[Record]) -> str:
    """Return the outcomes of claims as one HTML document."""
    title = f"{len(records)} claim{'s' * (len(records) != 1)}"
    body = (
        f'<header><p class="over">decentral reproduce</p><h1>{title}</h1>'
        f'<p class="verdict">{sentence(summary_text(records))}</p></header>'
        f'<section class="card results"><h2>Verdicts</h2>{_verdicts(records)}</section>'
        + "".join(map(_claim, records))
    )
    return page(f"{title} · decentral", body)


def summary_text(records: Sequence[Record]) -> str:
    """Count the verdicts in one sentence.

    >>> summary_text([{"verdict": "holds"}, {"verdict": "holds"}, {"verdict": "holds in part"}])
    '2 holds, 1 holds in part.'
    """
    verdicts = [record["verdict"] for record in records]
    counts = ", ".join(f"{verdicts.count(one)} {one}" for one in dict.fromkeys(verdicts))
    return f"{counts or 'Nothing was tried'}."


def measured_text(values: Sequence[float], over: str = "mean") -> str:
    """Write what several seeds gave: their mean, or median, and their range.

    >>> measured_text([0.02, 0.04]), measured_text([3.0])
    ('0.03 (0.02 to 0.04)', '3')
    """
    if not values:
        return ABSENT
    middle = (median if over == "median" else mean)(values)
    if min(values) == max(values):
        return f"{middle:.3g}"
    return f"{middle:.3g} ({min(values):.3g} to {max(values):.3g})"


def spoken(claim: str) -> str:
    """Return a claim's name as it is typed.

    >>> spoken("single_merge")
    'single-merge'
    """
    return claim.replace("_", "-")


def _verdicts(records: Sequence[Record]) -> str:
    rows = [
        [
            escape(spoken(record["claim"])),
            escape(record["says"]),
            escape(record["verdict"]),
            duration_text(record.get("seconds")),
        ]
        for record in records
    ]
    columns = ["claim", "what the paper says", "verdict", "time"]
    return table(columns, rows, numeric=frozenset({"time"}), label="Verdicts")


def _claim(record: Record) -> str:
    head = f"<h2>{escape(spoken(record['claim']))}: {escape(record['verdict'])}</h2>"
    source = f'<p>{escape(record["title"])}</p><p class="over">{escape(record["paper"])}</p>'
    if "error" in record:
        return f'<section class="card">{head}{source}<p>{escape(record["error"])}</p></section>'
    rest = "".join((_expected(record), _others(record), _how(record)))
    drawn = f'<div class="grid">{"".join(_pictures(record))}</div>'
    return f'<section class="card results">{head}{source}{rest}</section>{drawn}'


def _expected(record: Record) -> str:
    rows = [
        [
            escape(one["means"]),
            escape(one["figure"]),
            f"{escape(one['bound'])}, {escape(one['over'])}",
            measured_text(record["figures"].get(one["figure"], []), one["over"]),
            "yes" if one["met"] else "<strong>no</strong>",
        ]
        for one in record["expected"]
    ]
    columns = ["expected beforehand", "figure", "limit", "measured", "met"]
    numeric = frozenset({"measured"})
    return table(columns, rows, numeric=numeric, label="Expected and measured")


def others(record: Record) -> dict[str, list[float]]:
    """Return the figures that were measured without being expected to be anything."""
    named = {one["figure"] for one in record["expected"]}
    return {name: values for name, values in record["figures"].items() if name not in named}


def _others(record: Record) -> str:
    rows = [[escape(name), measured_text(values)] for name, values in others(record).items()]
    if not rows:
        return ""
    columns = ["also measured", "value"]
    return table(columns, rows, numeric=frozenset({"value"}), label="Also measured")


def _how(record: Record) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in record["versions"].items())
    seeds = ",".join(map(str, record["seeds"]))
    command = f"decentral reproduce {spoken(record['claim'])} --seeds {seeds}"
    return f'<p class="over">{escape(command)} · {escape(record["time"][:10])}, {versions}</p>'


def _pictures(record: Record) -> Iterator[str]:
    from decentral.report import figures

    many = f"Line: mean over {len(record['seeds'])} seeds; band: from the least to the greatest."
    for place, panel in enumerate(record["panels"]):
        drawn = [figures.claim_panel(panel, size) for size in (figures.WIDE, figures.TALL)]
        shown = responsive(drawn, f"{record['claim']}-{place}", panel["title"])
        caption = many if len(record["seeds"]) > 1 else "One seed."
        yield figure(panel["title"], caption, shown, full=True)
