"""The report of a run and the comparison of runs: what they say, and how a browser shows it."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from matplotlib.patches import StepPatch
from synthetic import (
    Page,
    assert_self_contained,
    write_run,
)

from decentral.errors import ConfigError
from decentral.records import Record
from decentral.report import drawing
from decentral.report.compare import compare, write_comparison
from decentral.report.facts import Facts, duration_text, facts_of, plugin_text, verdict
from decentral.report.figures import overview, save_png
from decentral.report.figures.canvas import to_svg
from decentral.report.figures.planned import network, shards
from decentral.report.reader import MOST_RECORDS, Shards, Topology, read_run
from decentral.report.run import write_report
from decentral.units import format_bytes

pytestmark = pytest.mark.usefixtures("rendered")

FIGURES = (
    "Accuracy over steps",
    "Consensus distance",
    "Communication",
    "Accuracy against bytes",
    "Training and evaluation loss",
    "Topology",
    "Data",
)


def titles(page: Page) -> list[str]:
    return [
        title for title in page.text("h2.") if title not in ("Configuration", "Events")
    ]


# --- the report -----------------------------------------------------------------------------------


def test_report_is_self_contained_and_complete(late: Path) -> None:
    page = Page(late / "report.html")
    assert_self_contained(page)
    assert tuple(titles(page)) == FIGURES
    assert not page.open
    drawings = [found for tag, found in page.tags if tag == "svg"]
    # The first one, for wide and for narrow pages.
    assert len(drawings) == len(FIGURES) + 1
    assert all(found["role"] == "img" and found["aria-label"] for found in drawings)


def test_tiles_and_verdict_say_what_the_summary_says(late: Path) -> None:
    page = Page(late / "report.html")
    told = json.loads((late / "summary.json").read_text())
    merged = f"{100 * told['final']['accuracy_merged']:.1f} %"
    local = f"{100 * told['before_merge']['accuracy_local_mean']:.1f} %"
    share = f"{100 * told['comm']['relative']:.3g} %"
    sent = format_bytes(told["comm"]["bytes"])
    assert page.text("p.value") == [merged, local, sent, "41.2 s"]
    assert page.text("p.verdict") == [
        f"Before the merge the 16 local models averaged {local}; "
        f"their plain average reaches {merged} with {share} of all-reduce's bytes."
    ]


def test_every_setting_is_shown(late: Path) -> None:
    page = Page(late / "report.html")
    shown = dict(zip(page.text("dt."), page.text("dd."), strict=True))
    config = yaml.safe_load((late / "config.yaml").read_text())
    assert config.keys() <= shown.keys()
    assert shown["communication"] == (
        "late(start=90%, intensity=0.1, then=1.0, final_merge=true)"
    )
    assert shown["notes"] == "none"
    assert shown["torch.version"] == "2.13.0"


def test_colours_follow_the_page(late: Path) -> None:
    """Drawings have no colour of their own, so that they turn dark with the page."""
    source = Page(late / "report.html").source
    drawings = "".join(re.findall(r"<svg.*?</svg>", source, re.DOTALL))
    assert not re.search(r"(?:fill|stroke): ?#|font-family", drawings)
    roles = set(re.findall(r"var\(--([\w-]+)\)", drawings))
    assert {"merged", "local", "comm", "muted"} <= roles
    light, dark = (
        set(re.findall(r"--([\w-]+):", part)) for part in source.split("@media")[:2]
    )
    assert roles <= light == dark


def test_writing_again_gives_the_same_file_and_leaves_nothing_else(late: Path) -> None:
    before = (late / "report.html").read_bytes()
    assert write_report(late) == (late / "report.html").resolve()
    assert (late / "report.html").read_bytes() == before
    assert not list(late.glob(".report*"))


def test_a_silent_run_shows_the_bytes_of_its_merge(tmp_path: Path) -> None:
    silent = {"name": "none", "final_merge": True}
    page = Page(write_report(write_run(tmp_path / "none", communication=silent)))
    assert not page.text("p.none")
    assert "final merge, 3.13 MB" in page.text("text.")


def test_regression_reports_losses(tmp_path: Path) -> None:
    run = write_run(tmp_path / "regression", regression=True, classes=None)
    page = Page(write_report(run))
    assert_self_contained(page)
    assert titles(page)[0] == "Loss over steps"
    facts = facts_of(read_run(run))
    assert facts.metric == "loss"
    assert facts.gain is not None
    assert facts.gain > 0
    assert page.text("p.value")[0] == f"{facts.merged:.4f}"
    assert "comes down to a loss of" in verdict(facts)


def test_one_node_has_nobody_to_talk_to(tmp_path: Path) -> None:
    page = Page(write_report(write_run(tmp_path / "one", nodes=1)))
    assert_self_contained(page)
    assert tuple(titles(page)) == FIGURES
    assert page.text("p.verdict")[0].startswith("The single node reached")
    assert len(page.text("p.none")) == 4
    assert "merge" not in page.text("p.verdict")[0]


def test_a_thousand_nodes_stay_small(tmp_path: Path) -> None:
    every = [(i, j) for i in range(1024) for j in range(i)]
    run = write_run(
        tmp_path / "complete",
        nodes=1024,
        links=every,
        classes=[f"class {k}" for k in range(100)],
    )
    report = write_report(run)
    page = Page(report)
    assert_self_contained(page)
    assert report.stat().st_size < 1_000_000
    assert any("523,776 links; 4,000 of them drawn." in text for text in page.text("p."))


def test_unfinished_run_says_so(tmp_path: Path) -> None:
    run = write_run(tmp_path / "unfinished", finished=False)
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 1200, "loss/tr')
    page = Page(write_report(run))
    assert_self_contained(page)
    assert page.text("span.badge") == ["unfinished"]
    assert (
        "This run has not finished: it stands at step 1,185 of 3,000"
        in page.text("p.verdict")[0]
    )
    assert tuple(titles(page)) == FIGURES


def test_a_run_that_has_only_begun_has_a_report(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("nodes: 4\nsteps: 10\n")
    (tmp_path / "metrics.jsonl").write_text("")
    page = Page(write_report(tmp_path))
    assert_self_contained(page)
    assert "Nothing has been evaluated yet." in page.text("p.verdict")[0]
    assert len(page.text("p.none")) == len(FIGURES)
    save_png(overview(read_run(tmp_path)), tmp_path / "plot.png")


def test_overview_is_a_picture(late: Path, tmp_path: Path) -> None:
    path = save_png(overview(read_run(late)), tmp_path / "plot.png")
    assert path.read_bytes().startswith(b"\x89PNG")


# --- reading a run --------------------------------------------------------------------------------


def test_the_final_merge_is_apart_from_the_curve(late: Path) -> None:
    run = read_run(late)
    steps, values = run.series("accuracy/local_mean")
    assert steps[-1] == 3000
    assert values[-1] < 0.9
    steps, values = run.series("accuracy/local_mean", final=True)
    assert steps[-2:] == [3000, 3000]
    assert values[-1] == run.number("final.accuracy/merged")


def test_without_a_merge_the_last_evaluation_ends_the_curve(tmp_path: Path) -> None:
    schedule = {"name": "constant", "intensity": 0.5, "final_merge": False}
    run = read_run(write_run(tmp_path / "constant", communication=schedule))
    assert run.series("accuracy/merged") == run.series("accuracy/merged", final=True)
    assert run.series("accuracy/merged")[0][-1] == 3000
    assert verdict(facts_of(run)).startswith("At the end the 16 local models averaged")


def test_gaps_in_metrics_are_skipped(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("steps: 3\n")
    rows = [
        {"step": 0, "x": 1.0}, {"step": 1, "y": 2.0}, {"step": 2, "x": None, "y": math.nan},
        {"step": 3, "x": True, "y": 4},
    ]  # fmt: skip
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)))
    run = read_run(tmp_path)
    assert run.series("x") == ([0], [1.0])
    assert run.series("y") == ([1, 3], [2.0, 4.0])
    assert run.pair("y", "x") == ([1, 3], [2.0, 4.0], [1.0, 1.0])
    assert run.last("z") is None
    assert run.number("final.accuracy/merged") is None


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.yaml", None, r"not a run folder, config\.yaml missing; give the folder"),
        ("metrics.jsonl", None, r"metrics\.jsonl missing"),
        ("config.yaml", "a: [", r"config\.yaml, line \d"),
        ("metrics.jsonl", '{"step": 1\n{"step": 2}\n', r"metrics\.jsonl: .*line 1"),
        (
            "metrics.jsonl",
            '{"loss": 1}\n',
            r"line 1 is not an object with a numeric step",
        ),
        ("summary.json", "{", r"summary\.json: cannot be read"),
        ("records.json", '[{"unit": "%"}]', r"records\.json: cannot be read"),
        (
            "topology.json",
            '{"n": 2, "links": [[0, 2]]}',
            r"topology\.json: .* leaves the nodes 0\.\.1",
        ),
        (
            "data.json",
            '{"classes": ["a"], "counts": [[1, 2]]}',
            r"data\.json: .*needs 1 counts",
        ),
    ],
)
def test_a_broken_run_is_refused_in_one_line(
    tmp_path: Path, name: str, content: str | None, message: str
) -> None:
    run = write_run(tmp_path / "run", steps=20)
    if content is None:
        (run / name).unlink()
    else:
        (run / name).write_text(content)
    with pytest.raises(ConfigError, match=message) as caught:
        write_report(run)
    assert "\n" not in str(caught.value)
    assert not (run / "report.html").exists()


def test_no_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such folder; give the folder of a run"):
        write_report(tmp_path / "nowhere")
    with pytest.raises(
        ConfigError, match=r"not a run folder, config\.yaml and metrics\.jsonl missing"
    ):
        read_run(tmp_path)


def write_many(run: Path, lines: int, evaluations: int) -> list[dict[str, Any]]:
    """Write a long log: every so often an evaluation, at the end those of the merge."""
    records: list[dict[str, Any]] = []
    for step in range(lines):
        records.append({"step": step, "loss/train": 1.0 / (step + 1)})
        if step % (lines // evaluations) == 0:
            records[-1] |= {"loss/merged": 2.0, "loss/local_mean": 3.0}
    records += [
        {"step": lines, "loss/merged": 1.5, "phase": phase}
        for phase in ("before_merge", "final")
    ]
    text = "".join(f"{json.dumps(record)}\n" for record in records)
    (run / "metrics.jsonl").write_text(text)
    return records


def test_a_long_log_is_sampled_evenly(tmp_path: Path) -> None:
    """Evaluations and log lines each by themselves; the ends of both are there."""
    path = write_run(tmp_path / "long")
    records = write_many(path, 40 * MOST_RECORDS, 500)
    read = list(read_run(path).metrics)
    assert len(read) < 2 * MOST_RECORDS + 510
    assert read[0] == records[0]
    assert read[-3:] == records[-3:]
    evaluated = [record for record in records if "loss/merged" in record]
    assert [record for record in read if "loss/merged" in record] == evaluated
    steps = [record["step"] for record in read if "loss/merged" not in record]
    assert max(b - a for a, b in pairwise(steps)) <= 40
    assert list(read_run(path, whole=True).metrics) == records


def test_a_log_of_evaluations_alone_is_sampled_too(tmp_path: Path) -> None:
    path = write_run(tmp_path / "long")
    records = write_many(path, 5 * MOST_RECORDS, 5 * MOST_RECORDS)
    read = read_run(path).metrics
    assert MOST_RECORDS <= len(read) <= 2 * MOST_RECORDS + 3
    assert list(read[-3:]) == records[-3:]


def test_the_last_line_of_a_long_log_may_be_cut_off(tmp_path: Path) -> None:
    path = write_run(tmp_path / "long")
    records = write_many(path, 5 * MOST_RECORDS, 10)
    with (path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "loss/tr')
    assert read_run(path).metrics[-1] == records[-1]
    with (path / "metrics.jsonl").open("a") as file:
        file.write("\n")
    with pytest.raises(ConfigError, match=f"line {len(records) + 1}: "):
        read_run(path)


# --- words ----------------------------------------------------------------------------------------


ACCURACY = Record("accuracy/merged", unit="%", better="higher")
LOSS = Record("loss/merged", better="lower")


def facts(**changes: Any) -> Facts:
    known: dict[str, Any] = {
        "score": ACCURACY, "nodes": 16, "last_step": 3000, "steps": 3000, "finished": True,
        "has_merge": True, "local_mean": 0.876, "local_min": 0.8, "local_max": 0.9,
        "merged": 0.942, "bytes": 1.95e8, "relative": 0.0205,
        "wall_s": 41.2, "steps_per_s": 72.8,
    }  # fmt: skip
    return Facts(**known | changes)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "their plain average reaches 94.2 % with 2.05 % of all-reduce's bytes."),
        ({"merged": 0.11}, "their plain average falls to 11.0 %"),
        ({"merged": 0.876}, "their plain average stays at 87.6 %"),
        ({"merged": 0.878}, "their plain average is no different: 87.8 %"),
        ({"has_merge": False}, "At the end the 16 local models averaged 87.6 %"),
        ({"bytes": 0.0, "relative": 0.0}, "reaches 94.2 % without any communication."),
        ({"relative": None}, "reaches 94.2 % with 195 MB of communication."),
        ({"relative": 1.0}, "with 100 % of all-reduce's bytes"),
        ({"merged": None}, "The run reached 87.6 %"),
        (
            {"merged": None, "local_mean": None},
            "The run has ended without an evaluation.",
        ),
        ({"score": LOSS, "local_mean": 0.4, "merged": 0.9}, "rises to a loss of 0.900"),
        ({"finished": False, "last_step": 1200}, "stands at step 1,200 of 3,000 (40 %)"),
    ],
)
def test_verdict(changes: dict[str, Any], expected: str) -> None:
    assert expected in verdict(facts(**changes))


def test_words_for_settings_and_durations() -> None:
    assert plugin_text({"name": "ring"}) == "ring"
    assert plugin_text(
        {"name": "late", "start": "90%", "in": {"name": "x", "a": [1, 2]}}
    ) == ("late(start=90%, in=x(a=1, 2))")
    assert [duration_text(s) for s in (0.52, 41.2, 99.96, 151, 3570, 3725)] == [
        "0.52 s", "41.2 s", "1 min 40 s", "2 min 31 s", "59 min 30 s", "1 h 02 min",
    ]  # fmt: skip


# --- drawing a topology ---------------------------------------------------------------------------


def test_positions_show_structure() -> None:
    """A ring becomes a circle; in a path, distance grows with every hop."""
    ring = drawing.positions(Topology(12, tuple((i, (i + 1) % 12) for i in range(12))))
    assert (ring**2).sum(1) == pytest.approx(1)
    path = drawing.positions(Topology(9, tuple((i, i + 1) for i in range(8))))
    reach = ((path - path[0]) ** 2).sum(1)
    assert (reach[1:] > reach[:-1]).all()


@pytest.mark.parametrize(
    ("nodes", "links"),
    [
        (1, ()),
        (2, ((0, 1),)),
        (5, ()),
        (7, tuple((0, i) for i in range(1, 7))),
        (6, ((0, 1), (2, 3))),
    ],
)
def test_every_topology_has_distinct_finite_positions(
    nodes: int, links: tuple[tuple[int, int], ...]
) -> None:
    points = drawing.positions(Topology(nodes, links))
    assert points.shape == (nodes, 2)
    rounded = {tuple(point) for point in points.round(2).tolist()}
    assert len(rounded) == nodes
    assert all(math.isfinite(x) for point in rounded for x in point)


# --- comparing ------------------------------------------------------------------------------------


def test_comparison_shows_results_and_only_what_differs(dozen: list[Path]) -> None:
    found = compare(dozen)
    assert found.differing == ("split.alpha", "seed")
    assert found.columns == (
        "run", "topology", "communication", "local mean", "merged", "bytes", "of all-reduce",
        "wall time", "split.alpha", "seed",
    )  # fmt: skip
    told = json.loads((dozen[0] / "summary.json").read_text())
    assert found.rows[0]["bytes"] == format_bytes(told["comm"]["bytes"])
    assert found.rows[0]["merged"] == f"{100 * told['final']['accuracy_merged']:.1f} %"
    assert found.rows[2]["communication"].startswith("late(start=90%")
    lines = found.text().splitlines()
    assert len(lines) == 13
    assert lines[0].split()[:2] == ["run", "topology"]


def test_comparison_page(dozen: list[Path], tmp_path: Path) -> None:
    page = Page(write_comparison(compare(dozen), tmp_path / "compare.html"))
    assert_self_contained(page)
    assert titles(page) == ["Accuracy over steps", "Accuracy against bytes", "Results"]
    names = [path.name for path in dozen]
    assert page.text("li.") == names * 2
    assert page.text("th.text")[-12:] == names
    assert len({*re.findall(r"style=\"color: var\(--(run-\d+)\)", page.source)}) == 12
    best = max(compare(dozen).rows, key=lambda row: float(row["merged"].split()[0]))
    assert page.text("span.best") == [best["merged"]]
    assert page.text("p.verdict")[0].startswith(
        f"{best['run']} has the best merged model"
    )


def test_unlike_runs_can_be_compared(late: Path, tmp_path: Path) -> None:
    """Silent, unfinished and regression runs stand in one table; equal names are told apart."""
    silent = {"name": "none", "final_merge": False}
    runs = [
        late,
        write_run(tmp_path / "a" / "same", communication=silent, nodes=1),
        write_run(tmp_path / "b" / "same", finished=False),
        write_run(tmp_path / "loss", regression=True),
    ]
    found = compare(runs)
    assert [row["run"] for row in found.rows] == [
        "digits-ring-late",
        "a/same",
        "b/same",
        "loss",
    ]
    assert found.rows[2]["merged"].endswith("%  *".replace("  ", " "))
    assert_self_contained(
        Page(write_comparison(compare(runs), tmp_path / "compare.html"))
    )


def test_comparison_errors(tmp_path: Path, late: Path) -> None:
    with pytest.raises(ConfigError, match="no run given; name the folders"):
        compare([])
    with pytest.raises(ConfigError, match="no such folder"):
        compare([late, tmp_path / "nowhere"])
    with pytest.raises(ConfigError, match="does not exist; create it first"):
        write_comparison(compare([late]), tmp_path / "missing" / "compare.html")


# --- figures --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "backend", ["module://matplotlib_inline.backend_inline", "nonsense"]
)
def test_figures_need_no_backend(backend: str) -> None:
    code = (
        "from decentral.report import figures as f; f.to_svg(f.canvas.canvas((1, 1))[0])"
    )
    subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "MPLBACKEND": backend},
        check=True,
    )


def test_figures_of_many_nodes_are_as_small_as_those_of_few() -> None:
    """A hundred thousand nodes took a minute to draw, and 26 MB."""
    nodes = 20_000
    counts = tuple((k % 7, 1) for k in range(nodes))
    drawn = (
        shards(Shards(counts, ("a", "b"))),
        shards(Shards(tuple((k % 7,) for k in range(nodes)), None)),
        network(Topology(nodes, tuple((k, (k + 1) % nodes) for k in range(nodes)))),
    )
    for figure in drawn:
        assert figure is not None
        assert len(to_svg(figure)) < 1_000_000
    sizes = drawn[0].axes[0]
    assert sizes.get_xlim() == (-0.5, nodes - 0.5)
    # means over neighbours, which add up to what there is
    bars = next(one for one in sizes.patches if isinstance(one, StepPatch))
    heights, edges, _ = bars.get_data()
    assert (heights * np.diff(edges)).sum() == pytest.approx(np.sum(counts))
