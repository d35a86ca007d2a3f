"""The report of one run: what its page says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from decentral.records import SIMULATED, Panel
from decentral.report.drawing import MOST_LINKS
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
    state_of,
    verdict,
)
from decentral.report.pages import Card, cell_drawing, drawings, page, write_page
from decentral.report.reader import RunData, read_run
from decentral.units import format_bytes

if TYPE_CHECKING:
    from decentral.report.figures import Figure

_MOST_EVENTS = 200
#: The event with the first seconds of a run in simulated time.
TIMELINE = "timeline"


def write_report(run_dir: str | Path) -> Path:
    """Write ``report.html`` into a run folder and return its path.

    Raises:
        ConfigError: The folder is not a run or one of its files cannot be read.
    """
    run = read_run(run_dir)
    return write_page(run.path / "report.html", report_html(run))


def report_html(run: RunData, live: str = "") -> str:
    """Return the report of a run as one HTML document.

    Args:
        run: The run.
        live: Address that says whether the page of a running server has changed.
    """
    facts = facts_of(run)
    # What is drawn is not told as well.
    told = [one for one in run.events if one.get("event") != TIMELINE]
    return page(
        "report",
        live=live,
        title=run.name,
        over=_subtitle(run, facts),
        verdict=verdict(facts),
        status="" if facts.finished else state_of(run),
        tiles=_tiles(facts),
        figures=list(_figures(run, facts)),
        measured=_measured_rows(facts),
        generated=_generated(run),
        config=_pairs(run.config),
        labels=_labels(run),
        events=_events(told[-_MOST_EVENTS:]),
        all_events=len(told),
        environment=_pairs(flatten(run.env)),
    )


def cell_html(run: RunData) -> str:
    """Return what the cell of a notebook shows of a run."""
    from decentral.report import figures

    facts = facts_of(run)
    said = verdict(facts)
    figure = figures.learning(run, (8.2, 3.0))
    drawn = cell_drawing(figure, said) if figure else ""
    head = f"<b>{escape(run.name)}</b> {escape(_subtitle(run, facts))}"
    return f"<div>{head}<br>{escape(said)}{drawn}</div>"


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


def _tiles(facts: Facts) -> list[tuple[str, str, str, str]]:
    """Return the headline numbers: label, value, a note, and which colour."""
    metric = facts.metric
    merged, local = (
        number_text(v, facts.score) for v in (facts.merged, facts.local_mean)
    )
    when = (
        ", so far"
        if not facts.finished
        else " before the merge"
        if facts.has_merge
        else ""
    )
    sent = ABSENT if facts.bytes is None else format_bytes(facts.bytes)
    costs = [
        ("Communication", sent, _share(facts), ""),
        ("Wall time", duration_text(facts.wall_s), _pace(facts), ""),
    ]
    if facts.nodes == 1:
        return [(metric.capitalize(), merged, "of the single node", "merged"), costs[1]]
    return [
        (f"Merged {metric}", merged, _gain(facts), "merged"),
        (f"Local mean{when}", local, _range(facts), "local"),
        *costs,
    ]


def _gain(facts: Facts) -> str:
    if facts.gain is None:
        return (
            "no local mean to compare with"
            if facts.merged is not None
            else "not measured"
        )
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
        f"{facts.steps_per_s:,.3g} steps/s"
        if facts.steps_per_s
        else f"{facts.last_step:,} steps"
    )


def _figures(run: RunData, facts: Facts) -> Iterator[Card]:
    from decentral.report import figures

    name = facts.metric.capitalize()
    curves = [figures.learning(run, size) for size in (figures.WIDE, figures.TALL)]
    yield Card(
        f"{name} over steps",
        "What the nodes' own models can do, and what their plain average could do at that moment.",
        drawings(curves, "learning", verdict(facts)), "Nothing has been evaluated.", full=True,
    )  # fmt: skip
    panels = list(enumerate(figures.panels_of(run)))
    yield from (
        card for place, one in panels if one.leads for card in _panel(run, one, place)
    )
    yield _card("communication", "Communication", "What all nodes together sent, and when.",
                figures.communication(run), "Nothing was sent.")  # fmt: skip
    yield _card("bytes", f"{name} against bytes", "What the communication bought.",
                figures.bytes_against_metric(run), "Nothing was sent, or nothing evaluated."
                )  # fmt: skip
    if run.last(SIMULATED.key) is not None:
        yield _card("seconds", f"{name} against simulated time",
                    "What the time on this network bought.", figures.seconds_against_metric(run),
                    "Nothing has been evaluated.")  # fmt: skip
    yield from _strip(run, facts)
    yield from (
        card for place, one in panels if not one.leads for card in _panel(run, one, place)
    )
    yield _card("topology", "Topology", _topology_caption(run),
                figures.network(run.topology) if run.topology else None,
                "There is nobody to communicate with.")  # fmt: skip
    yield _card("data", "Data", _shards_caption(run),
                figures.shards(run.shards) if run.shards else None,
                "No data statistics were written.")  # fmt: skip
    on = figures.phases(run)
    if on is not None:
        yield _card("phases", "Phases", "When each method of training was on.", on)


def _strip(run: RunData, facts: Facts) -> Iterator[Card]:
    """Yield the first seconds of a run in simulated time."""
    from decentral.report import figures

    for event in [one for one in run.events if one.get("event") == TIMELINE][-1:]:
        drawn = [figures.strip(event, size) for size in (figures.WIDE, figures.TALL)]
        shown, nodes = len(event["nodes"]), facts.nodes or 0
        some = f" {shown} of {nodes:,} nodes are shown." if shown < nodes else ""
        caption = (
            "Who computes, whose messages are under way, and who is away; where a node has "
            f"no bar it waits.{some}"
        )
        title = "The first simulated seconds"
        yield Card(title, caption, drawings(drawn, "strip", title), full=True)


def _card(
    key: str, title: str, caption: str, drawn: Figure | None, absent: str = ""
) -> Card:
    """Return a small figure.

    Args:
        key: What it is on the page, in letters of an id.
        title: Its title.
        caption: What it shows.
        drawn: The drawing, if there is anything to draw.
        absent: What to say if there is not.
    """
    return Card(title, caption, drawings([drawn], key, f"{title}. {caption}"), absent)


def _panel(run: RunData, panel: Panel, place: int) -> Iterator[Card]:
    """Yield the figure of a panel; one without numbers and without words for that
    is left out.

    Args:
        run: The run.
        panel: What is drawn together.
        place: The number of the panel, which no other has.
    """
    from decentral.report import figures

    drawn = figures.panel(run, panel)
    if drawn is None and not panel.absent:
        return
    said = (one.text or one.key for one in figures.records_in(run, panel))
    caption = panel.caption or f"{'; '.join(dict.fromkeys(said))}."
    yield _card(f"panel-{place}", panel.title, caption, drawn, panel.absent)


def _measured_rows(facts: Facts) -> list[list[str]]:
    """Return what was measured beside what judges the run: label, value, what it
    is.
    """
    return [
        [one.title, number_text(facts.values[one.key], one), one.text]
        for one in facts.list_records("results")
    ]


def _generated(run: RunData) -> list[tuple[str, str]]:
    """Return what the merged model of a text has written: beginnings, and the rest."""
    found = (run.summary or {}).get("generated")
    pairs = found if isinstance(found, list) else []
    return [(_printable(one["prompt"]), _printable(one["text"])) for one in pairs]


def _printable(text: object) -> str:
    """Return a text without what a page cannot show."""
    return "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in str(text))


def _topology_caption(run: RunData) -> str:
    if run.topology is None:
        return "Nodes do not communicate."
    n, links = run.topology.nodes, run.topology.links
    kind = "directed link" if run.topology.directed else "link"
    text = f"{n:,} node{'s' * (n != 1)}, {len(links):,} {kind}{'s' * (len(links) != 1)}"
    text += ", all that occur over one period" if run.topology.time_varying else ""
    return (
        f"{text}; {MOST_LINKS:,} of them drawn."
        if len(links) > MOST_LINKS
        else f"{text}."
    )


def _shards_caption(run: RunData) -> str:
    if run.shards is None:
        return "Who holds which samples."
    sizes = [sum(row) for row in run.shards.counts]
    low, high = min(sizes, default=0), max(sizes, default=0)
    each = f"{low:,}" if low == high else f"{low:,} to {high:,}"
    return f"Who holds which samples; each node has {each}."


def _labels(run: RunData) -> list[tuple[str, str]]:
    """Return the number of every label and what it is called, where that is not its
    number.
    """
    names = (run.shards and run.shards.classes) or ()
    pairs = [(str(place), name) for place, name in enumerate(names)]
    return [] if all(place == name for place, name in pairs) else pairs


def _pairs(settings: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(key, plugin_text(value)) for key, value in settings.items()]


def _events(events: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Return what happened: kind, step, time, and the rest."""
    return [
        [
            str(event.get("event", ABSENT)),
            f"{event['step']:,}",
            _moment(event.get("time")),
            _details(event),
        ]
        for event in events
    ]


def _moment(time: object) -> str:
    return ABSENT if time is None else str(time).replace("T", " ")[:19]


def _details(event: Mapping[str, Any]) -> str:
    rest = {k: v for k, v in event.items() if k not in ("event", "step", "time")}
    return ", ".join(f"{key} {plugin_text(value)}" for key, value in rest.items())
