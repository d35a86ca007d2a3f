"""What is done beside single runs, in words, tables, pages and pictures: an
analysis of a run's models, and the claims that were tried.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from math import isfinite
from pathlib import Path
from statistics import fmean, mean, median
from typing import Any

from decentral.records import read_records
from decentral.report.facts import (
    ABSENT,
    duration_text,
    number_text,
    percent_text,
    short_text,
)
from decentral.report.pages import Card, drawings, page, write_page
from decentral.traits import t_interval

Record = Mapping[str, Any]
Cells = Sequence[str]

#: Loss by which a line must rise above its ends to be called a barrier.
_FLAT = 0.01


def write_analysis(record: Record, folder: Path) -> Path:
    """Write ``analysis.json``, ``.png`` and ``.html`` into a folder; return the
    page's path.
    """
    from decentral.report import figures

    text = json.dumps(record, indent=1, allow_nan=False)
    (folder / "analysis.json").write_text(text, encoding="utf-8")
    figures.save_png(figures.draw_analysis(record), folder / "analysis.png")
    return write_page(folder / "analysis.html", analysis_html(record))


def analysis_html(record: Record) -> str:
    """Return an analysis as one HTML document."""
    return page(
        "analysis",
        title=f"{record['nodes']} models of step {record['step']:,} of {record['run']}",
        over="decentral analyze",
        verdict=verdict(record),
        scores=(score_heads(record), score_rows(record)),
        lines=(LINES, line_rows(record)),
        figures=list(_figures(record)),
        layers=(LAYERS, layer_rows(record)),
        others=(OTHERS, other_rows(record)),
    )


def verdict(record: Record) -> str:
    """Say in a sentence what merging does, and whether barriers lie between the
    models.
    """
    metric, scores = next(iter(record["scores"].items()))  # the first judges the run
    merged, local, best = (
        _score(scores, key) for key in ("merged", "local_mean", "local_best")
    )
    barriers = [line["barrier"] for line in record["lines"]["nodes"]]
    free = sum(value is not None and value < _FLAT for value in barriers)
    return (
        f"The merged model has {metric} {merged}, the local models "
        f"{local} on average and {best} at best; "
        f"{free} of {len(barriers)} lines between nodes are free of barriers."
    )


# --- tables, as text: heads, then rows --------------------------------------------

LINES = ("on the line", "barrier", "below its ends", "accuracy lost")
LAYERS = ("layer", "parameters", "from the mean", "relative", "CKA nodes", "CKA merged")
OTHERS = ("what", "value")


def score_heads(record: Record) -> Cells:
    """Return the heads above `score_rows`: one for each quantity that judges a
    merged model.
    """
    return ("models", *record["scores"], "top eigenvalue", "trace")


def _score(scores: Record, key: str) -> str:
    """Write a score of local models or of the merged one, as its metric says."""
    (known,) = read_records([scores["record"]])
    return number_text(scores[key], known)


def score_rows(record: Record) -> Iterator[Cells]:
    """Yield what local models and the merged one can do, and how curved their loss
    is.
    """
    for label, key, curve in (
        ("the mean model", "local_mean", "local_mean"), ("the best model", "local_best", None),
        ("the merged model", "merged", "merged"),
    ):  # fmt: skip
        top, trace = (
            record["curvature"].get(f"{what}_{curve}") if curve else None
            for what in ("top", "trace")
        )
        written = [_score(scores, key) for scores in record["scores"].values()]
        yield label, *written, _short(top), _short(trace)


def line_rows(record: Record) -> Iterator[Cells]:
    """Yield the barriers between nodes, and between nodes and the merged model."""
    lines = record["lines"]
    for label, key in (("node to node", "nodes"), ("node to merged", "merged")):
        found: list[str] = []
        for what in ("barrier", "depth", "accuracy_barrier"):
            values = [one[what] for one in lines[key] if one.get(what) is not None]
            found.append(_range(values, percent=what == "accuracy_barrier"))
        yield label, *found


def layer_rows(record: Record) -> Iterator[Cells]:
    """Yield how far apart the models are in every layer, and how much their
    features agree.
    """
    for one in record["layers"]:
        relative = ABSENT if one["relative"] is None else percent_text(one["relative"])
        agreement = (_short(one[key]) for key in ("cka_nodes", "cka_merged"))
        name, count = one["name"] or "(the model)", f"{one['parameters']:,}"
        yield name, count, _short(one["distance"]), relative, *agreement


def other_rows(record: Record) -> Iterator[Cells]:
    """Yield the cosines between updates, and the noise scale of the gradient."""
    labels = {"from_start": "from their start", "from_mean": "from their mean"}
    for key, label in labels.items():
        one = record["updates"].get(key)
        if one is not None:
            span = f" ({_short(one['least'])} to {_short(one['greatest'])})"
            yield f"cosine between two nodes, {label}", _short(one["mean"]) + span
    for key, label in (("local", "local models"), ("merged", "merged model")):
        scale = record["noise"][key]["scale"]
        lost = "the gradient is lost in its noise"
        yield (
            f"gradient noise scale, {label}",
            lost if scale is None else f"{_short(scale)} samples",
        )


def _short(value: float | None) -> str:
    return ABSENT if value is None else short_text(value)


def _range(values: Sequence[float], percent: bool) -> str:
    """Write the mean of values and their range; of accuracies in points."""
    if not values:
        return ABSENT
    if percent:
        return f"{100 * fmean(values):.1f} points (to {100 * max(values):.1f})"
    return f"{_short(fmean(values))} (to {_short(max(values))})"


def _figures(record: Record) -> Iterator[Card]:
    from decentral.report import figures

    count = record["extent"]["samples"]
    both = [figures.lines(record, size) for size in (figures.WIDE, figures.TALL)]
    yield Card(
        "On straight lines between models",
        f"At 42 points of each line, on at most {count:,} samples, BatchNorm re-estimated.",
        drawings(both, "lines", "Losses and accuracies on lines between models"), full=True,
    )  # fmt: skip
    planes = record["planes"]
    for key, title, caption, labels in (
        ("through", "On the plane through three models",
         "Training loss; open: the nearest point to the merged model, which lies beside the plane.",
         ("distance", "distance")),
        ("around", "Around the merged model",
         "Training loss in two random directions; 1 is as long as the weights, filter by filter.",
         ("first direction", "second direction")),
    ):  # fmt: skip
        drawn = figures.plane(planes[key], labels)
        yield Card(
            title, caption, drawings([drawn], key, title), "The models lie on a line."
        )
    both = [figures.layers(record, size) for size in (figures.WIDE, figures.TALL)]
    caption = "How far models are from their mean, and whether their features agree."
    yield Card("Layer by layer", caption, drawings(both, "layers", caption), full=True)


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
    >>> measured_text([0.01, 0.02, 0.03], "interval")
    '0.02 ± 0.0248, 3 seeds'
    """
    if not values:
        return ABSENT
    if over == "interval" and len(values) > 1 and all(map(isfinite, values)):
        least, most = t_interval(values)
        return f"{mean(values):.3g} ± {(most - least) / 2:.3g}, {len(values)} seeds"
    middle = (median if over == "median" else mean)(values)
    if min(values) == max(values):
        return f"{middle:.3g}"
    return f"{middle:.3g} ({min(values):.3g} to {max(values):.3g})"


def met_text(expected: Record) -> str:
    """Say whether an expectation was met, or why it was not asked.

    >>> [met_text({"met": met, "role": "evidence"}) for met in (True, False, None)]
    ['yes', 'no', 'open']
    >>> met_text({"met": True, "role": "by design"})
    'by design'
    """
    # Outcomes of earlier versions have no roles.
    if expected.get("role") == "by design" and expected["met"]:
        return "by design"
    return {True: "yes", False: "no", None: "open"}[expected["met"]]


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
        "figures": list(_claim_figures(record, place)),
    }


def over_text(expected: Record) -> str:
    """Say over what of the seeds a limit holds, and what hangs on it.

    >>> over_text({"over": "interval", "role": "condition"})
    '95 % interval, a condition'
    """
    over = "95 % interval" if expected["over"] == "interval" else expected["over"]
    return over + ", a condition" * (expected.get("role") == "condition")


def _expectation_rows(record: Record) -> list[list[str]]:
    return [
        [
            one["means"],
            one["figure"],
            f"{one['bound']}, {over_text(one)}",
            measured_text(record["figures"].get(one["figure"], []), one["over"]),
            met_text(one),
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


def _claim_figures(record: Record, claim: int) -> Iterator[Card]:
    from decentral.report import figures

    many = f"Line: mean over {len(record['seeds'])} seeds; band: from the least to the greatest."
    caption = many if len(record["seeds"]) > 1 else "One seed."
    for place, panel in enumerate(record["panels"]):
        drawn = [
            figures.claim_panel(panel, size) for size in (figures.WIDE, figures.TALL)
        ]
        shown = drawings(drawn, f"claim-{claim}-{place}", panel["title"])
        yield Card(panel["title"], caption, shown, full=True)
