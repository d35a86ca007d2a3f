"""The report of one run: a single HTML file that needs no network."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from decentral.quantities import SIMULATED
from decentral.records import Panel
from decentral.report.facts import (
    ABSENT,
    Facts,
    duration_text,
    facts_of,
    flatten,
    gain_text,
    number_text,
    plugin_text,
    relative_text,
    verdict,
)
from decentral.report.layout import MOST_LINKS
from decentral.report.pages import figure, page, sentence, settings, table, tile, write_page
from decentral.report.palette import inline_svg
from decentral.report.reader import RunData, read_run
from decentral.units import format_bytes

if TYPE_CHECKING:
    from decentral.report.figures import Figure

_MOST_EVENTS = 200


def write_report(run_dir: str | Path) -> Path:
    """Write ``report.html`` into a run folder and return its path.

    Raises:
        ConfigError: The folder is not a run or one of its files cannot be read.
    """
    run = read_run(run_dir)
    return write_page(run.path / "report.html", report_html(run))


def report_html(run: RunData) -> str:
    """Return the report of a run as one HTML document."""
    facts = facts_of(run)
    body = [_header(run, facts), _tiles(facts), '<div class="grid">']
    body += [*_figures(run, facts), "</div>", _measurements(facts)]
    body += [_config(run), _events(run), _environment(run)]
    return page(f"{run.name} · decentral", "\n".join(body))


def _header(run: RunData, facts: Facts) -> str:
    status = str((run.summary or {}).get("status") or "unfinished")
    badge = "" if facts.finished else f'<span class="badge">{escape(status)}</span>'
    return (
        f'<header><p class="over">{escape(_subtitle(run, facts))}</p>'
        f"<h1>{escape(run.name)}{badge}</h1>"
        f'<p class="verdict">{sentence(verdict(facts))}</p></header>'
    )


def _subtitle(run: RunData, facts: Facts) -> str:
    parts = [f"{facts.nodes:,} node{'s' * (facts.nodes != 1)}"] if facts.nodes else []
    parts += [
        plugin_text(run.config[key])
        for key in ("topology", "communication", "algorithm")
        if run.config.get(key) is not None
    ]
    parts += [f"{facts.steps:,} steps"] if facts.steps else []
    parameters = run.number("model.parameters")
    parts += [f"{parameters:,.0f} parameters"] if parameters else []
    return " · ".join(parts)


def _tiles(facts: Facts) -> str:
    metric = facts.metric
    merged, local = (number_text(v, facts.score) for v in (facts.merged, facts.local_mean))
    when = ", so far" if not facts.finished else " before the merge" if facts.has_merge else ""
    sent = ABSENT if facts.bytes is None else format_bytes(facts.bytes)
    tiles = [
        tile(f"Merged {metric}", merged, _gain(facts), "merged"),
        tile(f"Local mean{when}", local, _range(facts), "local"),
        tile("Communication", sent, _share(facts)),
        tile("Wall time", duration_text(facts.wall_s), _pace(facts)),
    ]
    if facts.nodes == 1:
        tiles[:3] = [tile(metric.capitalize(), merged, "of the single node", "merged")]
    return f'<div class="tiles">{"".join(tiles)}</div>'


def _gain(facts: Facts) -> str:
    if facts.gain is None:
        return "no local mean to compare with" if facts.merged is not None else "not measured"
    if not facts.finished:
        return "if all models were averaged now"
    return f"{gain_text(facts)} vs the local mean"


def _range(facts: Facts) -> str:
    if facts.local_min is None or facts.local_max is None:
        return "range not measured"
    low, high = (number_text(v, facts.score) for v in (facts.local_min, facts.local_max))
    return f"nodes from {low} to {high}"


def _share(facts: Facts) -> str:
    if facts.relative is None:
        return "all nodes together"
    return f"{relative_text(facts.relative)} of all-reduce"


def _pace(facts: Facts) -> str:
    return (
        f"{facts.steps_per_s:,.3g} steps/s" if facts.steps_per_s else f"{facts.last_step:,} steps"
    )


def _figures(run: RunData, facts: Facts) -> Iterator[str]:
    from decentral.report import figures

    name = facts.metric.capitalize()
    curves = [figures.learning(run, size) for size in (figures.WIDE, figures.TALL)]
    yield figure(
        f"{name} over steps",
        "What the nodes' own models can do, and what their plain average could do at that moment.",
        responsive(curves, "learning", verdict(facts)) or _none("Nothing has been evaluated."),
        full=True,
    )
    panels = figures.panels_of(run)
    yield from (_panel(run, one) for one in panels if one.leads)
    for key, title, caption, drawn, missing in (
        ("communication", "Communication", "What all nodes together sent, and when.",
         figures.communication(run), "Nothing was sent."),
        ("bytes", f"{name} against bytes", "What the communication bought.",
         figures.bytes_against_metric(run), "Nothing was sent, or nothing evaluated."),
        *([("seconds", f"{name} against simulated time", "What the time on this network bought.",
            figures.seconds_against_metric(run), "Nothing has been evaluated.")]
          if run.last(SIMULATED.key) is not None else []),
    ):  # fmt: skip
        yield _drawn(key, title, caption, drawn, missing)
    yield from (_panel(run, one) for one in panels if not one.leads)
    for key, title, caption, drawn, missing in (
        ("topology", "Topology", _topology_caption(run),
         figures.network(run.topology) if run.topology else None, "There is nobody to talk to."),
        ("data", "Data", _shards_caption(run),
         figures.shards(run.shards) if run.shards else None, "No data statistics were written."),
    ):  # fmt: skip
        yield _drawn(key, title, caption, drawn, missing)
    on = figures.phases(run)
    if on is not None:
        title, caption = "Phases", "When each method of training was on."
        yield figure(title, caption, responsive([on], "phases", f"{title}. {caption}"))


def _drawn(key: str, title: str, caption: str, drawn: Figure | None, missing: str) -> str:
    """Return a small figure, or what to say where there is nothing to draw."""
    drawing = responsive([drawn], key, f"{title}. {caption}")
    return figure(title, caption, drawing or _none(missing))


def _panel(run: RunData, panel: Panel) -> str:
    """Return the figure of a panel; one without numbers and without words for that is left out."""
    from decentral.report import figures

    drawn = figures.panel(run, panel)
    if drawn is None and not panel.absent:
        return ""
    said = (one.text or one.key for one in figures.records_in(run, panel))
    caption = panel.caption or f"{'; '.join(dict.fromkeys(said))}."
    key = re.sub(r"[^a-z0-9]+", "-", panel.title.lower())
    return _drawn(f"panel-{key}", panel.title, caption, drawn, panel.absent)


def _measurements(facts: Facts) -> str:
    """Return the table of what was measured beside what judges the run, empty without any."""
    rows = [
        [escape(one.title), number_text(facts.values[one.key], one), escape(one.text)]
        for one in facts.listed("results")
    ]
    if not rows:
        return ""
    columns = ["metric", "value", "what it is"]
    listed = table(columns, rows, numeric=frozenset({"value"}), label="Metrics of the run")
    return f'<section class="card results"><h2>Measured</h2>{listed}</section>'


def responsive(drawn: Sequence[Figure | None], key: str, label: str) -> str:
    """Return figures as inline SVG: one, or a wide and a narrow one of which a page shows one."""
    from decentral.report.figures import to_svg

    kinds = [""] if len(drawn) == 1 else ["wide", "narrow"]
    return "".join(
        inline_svg(to_svg(one), f"{key}-{kind or 'any'}", label, kind)
        for one, kind in zip(drawn, kinds, strict=True)
        if one is not None
    )


def _none(reason: str) -> str:
    return f'<p class="none">{escape(reason)}</p>'


def _topology_caption(run: RunData) -> str:
    if run.topology is None:
        return "Nodes do not talk to each other."
    n, links = run.topology.nodes, run.topology.links
    kind = "directed link" if run.topology.directed else "link"
    text = f"{n:,} node{'s' * (n != 1)}, {len(links):,} {kind}{'s' * (len(links) != 1)}"
    text += ", all that occur over one period" if run.topology.time_varying else ""
    return f"{text}; {MOST_LINKS:,} of them drawn." if len(links) > MOST_LINKS else f"{text}."


def _shards_caption(run: RunData) -> str:
    if run.shards is None:
        return "Who holds which samples."
    sizes = [sum(row) for row in run.shards.counts]
    low, high = min(sizes, default=0), max(sizes, default=0)
    each = f"{low:,}" if low == high else f"{low:,} to {high:,}"
    return f"Who holds which samples; each node has {each}."


def _config(run: RunData) -> str:
    pairs = [(str(key), plugin_text(value)) for key, value in run.config.items()]
    return f'<section class="card"><h2>Configuration</h2>{settings(pairs)}</section>'


def _events(run: RunData) -> str:
    if not run.events:
        return ""
    shown = run.events[-_MOST_EVENTS:]
    rows = [
        [
            escape(str(event.get("event", ABSENT))),
            f"{event['step']:,}",
            escape(_moment(event.get("time"))),
            escape(_details(event)),
        ]
        for event in shown
    ]
    columns = ["event", "step", "time", "details"]
    listed = table(columns, rows, numeric=frozenset({"step", "time"}), label="Events of the run")
    more = len(run.events) - len(shown)
    title = f"Events, the last {len(shown)} of {len(run.events):,}" if more else "Events"
    return f'<section class="card"><h2>{title}</h2>{listed}</section>'


def _moment(time: object) -> str:
    return ABSENT if time is None else str(time).replace("T", " ")[:19]


def _details(event: Mapping[str, Any]) -> str:
    rest = {k: v for k, v in event.items() if k not in ("event", "step", "time")}
    return ", ".join(f"{key} {plugin_text(value)}" for key, value in rest.items())


def _environment(run: RunData) -> str:
    pairs = flatten(run.env)
    if not pairs:
        return ""
    inside = settings((key, plugin_text(value)) for key, value in pairs.items())
    return (
        f'<section class="card"><details><summary>Environment</summary>{inside}</details></section>'
    )
