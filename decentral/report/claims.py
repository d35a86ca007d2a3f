"""The page of claims: a row per claim with its verdict, then what was expected and
measured.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import mean, median
from typing import Any

from decentral.report.facts import ABSENT, duration_text
from decentral.report.pages import Card, drawings, page, write_page

Record = Mapping[str, Any]


def write_claims(records: Sequence[Record], path: Path) -> Path:
    """Write the outcomes of claims as one HTML file and return its path."""
    return write_page(path, claims_html(records))


def claims_html(records: Sequence[Record]) -> str:
    """Return the outcomes of claims as one HTML document."""
    return page(
        "claims",
        title=f"{len(records)} claim{'s' * (len(records) != 1)}",
        over="decentral reproduce",
        verdict=summary_text(records),
        verdicts=_verdicts(records),
        claims=[_claim(record, place) for place, record in enumerate(records)],
    )


def summary_text(records: Sequence[Record]) -> str:
    """Count the verdicts in one sentence.

    >>> summary_text(
    ...     [{"verdict": "holds"}, {"verdict": "holds"}, {"verdict": "holds in part"}]
    ... )
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


def others(record: Record) -> dict[str, list[float]]:
    """Return the figures that were measured without being expected to be anything."""
    named = {one["figure"] for one in record["expected"]}
    return {
        name: values for name, values in record["figures"].items() if name not in named
    }


def _verdicts(records: Sequence[Record]) -> list[list[str]]:
    return [
        [
            spoken(record["claim"]),
            record["says"],
            record["verdict"],
            duration_text(record.get("seconds")),
        ]
        for record in records
    ]


def _claim(record: Record, place: int) -> dict[str, Any]:
    """Return what the page says of one claim, which is the only one at its place."""
    said = {key: record[key] for key in ("verdict", "title", "paper")}
    said |= {"name": spoken(record["claim"]), "tried": "error" not in record}
    if "error" in record:
        return {**said, "error": record["error"]}
    found = others(record).items()
    return {
        **said,
        "expected": _expectation_rows(record),
        "others": [[name, measured_text(values)] for name, values in found],
        "how": _how(record),
        "figures": list(_figures(record, place)),
    }


def _expectation_rows(record: Record) -> list[list[str]]:
    return [
        [
            one["means"],
            one["figure"],
            f"{one['bound']}, {one['over']}",
            measured_text(record["figures"].get(one["figure"], []), one["over"]),
            "yes" if one["met"] else "no",
        ]
        for one in record["expected"]
    ]


def _how(record: Record) -> str:
    versions = ", ".join(
        f"{name} {number}" for name, number in record["versions"].items()
    )
    seeds = ",".join(map(str, record["seeds"]))
    command = f"decentral reproduce {spoken(record['claim'])} --seeds {seeds}"
    return f"{command} · {record['time'][:10]}, {versions}"


def _figures(record: Record, claim: int) -> Iterator[Card]:
    from decentral.report import figures

    many = f"Line: mean over {len(record['seeds'])} seeds; band: from the least to the greatest."
    caption = many if len(record["seeds"]) > 1 else "One seed."
    for place, panel in enumerate(record["panels"]):
        drawn = [
            figures.claim_panel(panel, size) for size in (figures.WIDE, figures.TALL)
        ]
        shown = drawings(drawn, f"claim-{claim}-{place}", panel["title"])
        yield Card(panel["title"], caption, shown, full=True)
