"""Metrics are records: a metric of a user's own shows in every output, by one key each."""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import decentral.cli
from decentral.api import models_of
from decentral.api.display import scores
from decentral.engines.ray.run import FAILURES, Monitor
from decentral.errors import ConfigError
from decentral.merging.base import merge_models
from decentral.metrics.base import built_in_records, check_values, declared_records
from decentral.records import (
    BYTES,
    QUANTITIES,
    RELATIVE,
    Panel,
    Record,
    Records,
    make_undeclared,
    read_records,
    records_of,
)
from decentral.registry import build
from decentral.report.facts import facts_of, number_text
from decentral.report.reader import read_run

pytestmark = pytest.mark.usefixtures("rendered")

Captured = pytest.CaptureFixture[str]

MINE = """
def norm(snapshot):
    lengths = snapshot.rows.double().norm(dim=1)
    return {"norm/shortest": lengths.min(), "norm/longest": lengths.max()}
"""
KEYS = ("norm/shortest", "norm/longest")
SMALL = (
    "--task", "digits", "--nodes", "4", "--steps", "4", "--topology", "ring", "--schedule", "late",
    "eval_every=2", "metrics=[accuracy, mine.py:norm]",
)  # fmt: skip


def command(*words: str) -> None:
    assert decentral.cli.run(words) == 0


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a metric of two keys, in which commands run on 80 columns."""
    folder = tmp_path_factory.mktemp("records")
    (folder / "mine.py").write_text(MINE)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("COLUMNS", "80")
        command("launch", *SMALL, "track=tensorboard", "--out", "run", "--quiet")
        yield folder


def rows(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


# --- a metric of a user's own, in every output ----------------------------------------------------


def test_the_terminal_shows_it_on_the_way_and_at_the_end(
    bench: Path, capsys: Captured
) -> None:
    command("launch", *SMALL, "--out", "again")
    said = capsys.readouterr().out
    first = next(line for line in said.splitlines() if line.startswith("step 0/4"))
    assert re.search(
        r"merged \S+ %  norm/shortest \d\S+  norm/longest \d\S+  sent 0 B", first
    )
    for key in KEYS:
        assert re.search(rf"^{key} +\d\S+ +\d\S+ *$", said, re.M), said
    assert all(
        len(line) <= 80
        for line in said.splitlines()
        if "norm/" in line and "step" not in line
    )


def test_the_summary_has_it_by_its_key(bench: Path) -> None:
    told = json.loads((bench / "run" / "summary.json").read_text())
    final = next(row for row in rows(bench) if row.get("phase") == "final")
    assert [told["final"][key] for key in KEYS] == [final[key] for key in KEYS]
    assert not [key for key in told["final"] if "/" not in key]


def test_the_report_draws_it_and_lists_it(bench: Path) -> None:
    page = (bench / "run" / "report.html").read_text(encoding="utf-8")
    heads = re.findall(r"<h2>(.*?)</h2>", page)
    assert heads.index("Norm") == heads.index("Training and evaluation loss") + 1
    drawing = page[page.index("<h2>Norm</h2>") :]
    drawing = drawing[: drawing.index("</figure>")]
    assert "norm/shortest; norm/longest." in drawing
    assert drawing.count("<svg") == 1
    assert all(f">{name}</text>" in drawing for name in ("shortest", "longest"))
    table = page[page.index("<h2>Measured</h2>") :]
    facts = facts_of(read_run(bench / "run"))
    for key in KEYS:
        value = number_text(facts.values[key], make_undeclared(key))
        assert (
            f'<th scope="row" class="text">{key}</th>\n'
            f'<td class="number" data-head="value">{value}</td>' in table
        )


def test_compare_has_a_column_for_it(bench: Path, capsys: Captured) -> None:
    command("launch", *SMALL[:-1], "--out", "plain", "--quiet")
    command("compare", "run", "plain", "--out", "compare.html")
    said = capsys.readouterr().out
    assert all(len(line.rstrip()) <= 80 for line in said.splitlines()), said
    first, second = said[said.index("run") :].split("\n\n")[:2]
    assert re.match(r"run +local mean +merged +norm/shortest +norm/longest +bytes", first)
    assert re.search(r"^run .* %( +\d\S+){2} +\d\S+ [kM]?B", first, re.M)
    assert re.search(r"^plain .* %( +—){2} +\d\S+ [kM]?B", first, re.M)
    assert re.match(r"run +wall time", second)
    page = (bench / "compare.html").read_text(encoding="utf-8")
    assert all(f'<th scope="col" class="number">{key}</th>' in page for key in KEYS)


def test_a_sweep_has_a_column_for_it_in_table_page_and_csv(
    bench: Path, capsys: Captured
) -> None:
    words = ["task=digits", "nodes=4", "steps=4", "topology=ring", *SMALL[-2:]]
    command("sweep", *words, "seed=0,1", "--out", "s")
    said = capsys.readouterr().out
    assert all(len(line.rstrip()) <= 80 for line in said.splitlines()), said
    assert re.search(r"merged +norm/shortest", said)
    # local, merged, and the two keys
    assert len(re.findall(r"\d(?: %)? ± \d", said)) == 4
    page = (bench / "s" / "sweep.html").read_text(encoding="utf-8")
    assert all(f'<th scope="col" class="number">{key}</th>' in page for key in KEYS)
    listed = list(csv.DictReader((bench / "s" / "results.csv").read_text().splitlines()))
    assert len(listed) == 2
    for one in listed:
        assert all(float(one[key]) > 0 for key in (*KEYS, "accuracy/merged", BYTES.key))


def test_tensorboard_has_it(bench: Path) -> None:
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator"
    )
    found = accumulator.EventAccumulator(str(bench / "run" / "tensorboard"))
    found.Reload()
    assert {*KEYS} <= {*found.Tags()["scalars"]}


def test_the_monitor_has_a_gauge_for_it(
    bench: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray")
    told: dict[str, tuple[str, float]] = {}

    class Gauge:
        def __init__(
            self, name: str, description: str, tag_keys: tuple[str, ...]
        ) -> None:
            assert tag_keys[0] == "run"
            self.name, self.description = name, description

        def set_default_tags(self, tags: dict[str, str]) -> None:
            assert tags == {"run": "tiny"}

        def set(self, value: float, tags: dict[str, str]) -> None:
            told[self.name] = self.description, value

    monkeypatch.setattr("ray.util.metrics.Gauge", Gauge)
    monitor = Monitor(
        "tiny", records_of(declared_records(["accuracy", f"{bench}/mine.py:norm"]))
    )
    row = rows(bench)[0] | {"failures": 3.0}
    monitor.record(row, [])
    assert told["decentral_norm_longest"] == (
        "norm/longest, a metric of the run", row["norm/longest"],
    )  # fmt: skip
    assert (
        told["decentral_accuracy_merged"][0]
        == "Test accuracy of the average of all models"
    )
    assert told["decentral_comm_bytes"][1] == 0
    assert told[FAILURES] == ("Failures so far", 0)  # and not a metric of that name
    assert told[f"{FAILURES}_"][1] == 3.0


JUDGING = """
from decentral import plugin
from decentral.records import scores

@plugin("metric", records=scores("length", "length", unit="m", better="lower"))
def length(snapshot):
    'How long models are.'
    norms = snapshot.per_node(snapshot.rows.norm(dim=1))
    return {"length/local_mean": norms.mean(), "length/local_min": norms.min(),
            "length/merged": snapshot.merged_row.norm()}
"""


@pytest.fixture(scope="module")
def apart(bench: Path) -> Path:
    """A run whose models never meet, with a metric of a user's own that judges merges."""
    (bench / "judging.py").write_text(JUDGING)
    words = [word for word in SMALL if word not in ("--schedule", "late")][:-1]
    metrics = "metrics=[judging.py:length, accuracy, consensus]"
    command("launch", *words, "communication=none", metrics, "--out", "apart", "--quiet")
    return bench / "apart"


def test_merge_judges_by_it(apart: Path, capsys: Captured) -> None:
    command("merge", "apart", "--rule", "uniform", "--rule", "median")
    said = capsys.readouterr().out
    assert re.search(r"^merge +accuracy +loss +length +from the average", said, re.M), (
        said
    )
    models = models_of(apart)
    norms = models.rows.double().norm(dim=1)
    rows = {
        "the mean model": norms.mean(), "the best model": norms.min(),
        "uniform": models.rows.mean(0).norm(),
        "median": merge_models(build("merge", "median"), models.models()).norm(),
    }  # fmt: skip
    for name, value in rows.items():
        wanted = re.escape(number_text(value.item(), Record("length/merged", unit="m")))
        assert re.search(rf"^{name} +\S+ % +\S+ +{wanted}( |$)", said, re.M), said


def test_export_says_it(apart: Path) -> None:
    command("export", "apart", "--rule", "uniform", "--out", "exported")
    what = json.loads((apart.parent / "exported" / "decentral.json").read_text())
    mean = models_of(apart).rows.mean(0).norm().item()
    assert what["length"] == pytest.approx(mean)
    assert f"length {mean:.4g}" in (apart.parent / "exported" / "README.md").read_text()
    command("export", "apart", "--out", "final")
    final = json.loads((apart / "summary.json").read_text())["final"]
    what = json.loads((apart.parent / "final" / "decentral.json").read_text())
    assert [what[key] for key in ("accuracy", "length")] == [
        final["accuracy/merged"], final["length/merged"],
    ]  # fmt: skip


def test_analyze_lists_it(apart: Path, capsys: Captured) -> None:
    command("analyze", "apart", "--pairs", "1", "--points", "3", "--samples", "40")
    said = capsys.readouterr().out
    assert re.search(r"^models +accuracy +loss +length +top eigenvalue", said, re.M), said
    found = json.loads((apart / "analysis.json").read_text())["scores"]
    norms = models_of(apart).rows.double().norm(dim=1)
    assert found["length"]["local_mean"] == pytest.approx(norms.mean().item())
    assert found["length"]["local_best"] == pytest.approx(norms.min().item())
    page = (apart / "analysis.html").read_text(encoding="utf-8")
    assert '<th scope="col" class="number">length</th>' in page


# --- records --------------------------------------------------------------------------------------


def test_every_built_in_number_is_declared(bench: Path) -> None:
    command("launch", *SMALL[:-1], "network=lan", "--out", "everything", "--quiet")
    run = read_run(bench / "everything")
    patterns = [record.key for record in run.records.declared]
    known = Records([Record(key) for key in patterns if "*" in key])
    unknown = [
        k for k in run.logged if k not in patterns and known.of(k) == make_undeclared(k)
    ]
    assert not unknown


def test_records_survive_the_run_folder() -> None:
    declared_ = (
        *built_in_records(),
        Record("mine/*", unit="m", better="lower", panel=Panel("Lengths", log=True)),
    )
    loaded = json.loads(json.dumps(records_of(declared_).plain()))
    assert read_records(loaded) == declared_
    newer = [{**loaded[-1], "colour": "red"}]
    assert read_records(newer) == declared_[-1:]


def test_a_folder_without_records_knows_those_of_built_in_metrics(bench: Path) -> None:
    (bench / "run" / "records.json").rename(bench / "kept")
    try:
        run = read_run(bench / "run")
    finally:
        (bench / "kept").rename(bench / "run" / "records.json")
    assert run.metric == "accuracy"
    assert run.records.of("accuracy/merged").unit == "%"


F1 = tuple(
    Record(f"f1/{role}", unit="%", better="higher", headline=True)
    for role in ("local_mean", "merged")
)


@pytest.mark.parametrize(
    ("metrics", "logged", "judge"),
    [
        (["loss", "accuracy"], ["loss/merged", "accuracy/merged"], "accuracy"),
        (["loss", "accuracy"], ["loss/merged"], "loss"),
        (["loss", F1, "accuracy"], ["loss/merged", "accuracy/merged", "f1/merged"], "f1"),
        (["accuracy", F1], ["accuracy/merged", "f1/merged"], "accuracy"),
        ([], ["loss/train"], "loss"),
        (["accuracy"], [], "loss"),
    ],
)
def test_the_first_headline_judges_the_run(
    metrics: list[Any], logged: list[str], judge: str
) -> None:
    given = [declared_records([one]) if isinstance(one, str) else one for one in metrics]
    assert records_of(tuple(r for group in given for r in group)).score(logged) == judge


def test_a_headline_of_ones_own_is_what_terminal_and_table_show() -> None:
    records = records_of((*F1, *built_in_records()))
    found = {
        "f1/local_mean": 0.5,
        "f1/merged": 0.75,
        "norm/mean": 2.0,
        "accuracy/merged": 0.9,
    }
    assert [text.plain for text in scores(found, records)] == [
        "local 50.0 % (—–—)  merged 75.0 %", "norm/mean 2.00", "accuracy merged 90.0 %",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("record", "value", "text"),
    [
        (Record("a", unit="%"), 0.5, "50.0 %"),
        (RELATIVE, 0.02049, "2.05 %"),
        (BYTES, 7520000, "7.52 MB"),
        (Record("a", unit="s"), 61.0, "61 s"),
        (Record("a", unit="bits", format=".1f"), 3.14159, "3.1 bits"),
        (Record("a"), 3.14159, "3.14"),
        (Record("a"), None, "—"),
    ],
)
def test_a_number_is_written_in_its_unit(record: Record, value: float, text: str) -> None:
    assert number_text(value, record) == text


# --- what metrics return --------------------------------------------------------------------------


def mine(snapshot: Any) -> dict[str, float]:
    return {}


RULE = build("metric", mine)


def test_numbers_of_every_kind_are_taken_and_overflows_are_no_numbers() -> None:
    returned = {
        "a": 1, "b": 2.5, "c": torch.tensor(3.5), "d": np.float32(4.5), "e": np.array(5),
        "f": torch.tensor(math.inf), "g": 10**400, "h": math.nan,
    }  # fmt: skip
    found = check_values(RULE, returned, {})
    assert {type(value) for value in found.values()} == {float}
    assert [found[key] for key in "abcde"] == [1.0, 2.5, 3.5, 4.5, 5.0]
    assert all(math.isnan(found[key]) for key in "fgh")


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (None, r"metric 'mine' returned None \(.*; return keys and numbers"),
        (0.5, "metric 'mine' returned 0.5"),
        ("good", "metric 'mine' returned 'good'"),
        (torch.ones(3), r"metric 'mine' returned a tensor of shape \[3\]"),
        ({"a": None}, r"metric 'mine' returned None for 'a' \(.*; return one number"),
        ({"a": "high"}, "metric 'mine' returned 'high' for 'a'"),
        (
            {"a": np.ones((1, 1))},
            r"metric 'mine' returned an array of shape \[1, 1\] for 'a'",
        ),
        ({"a": 1j}, "metric 'mine' returned '?1j'? for 'a'"),
        ({"a": [1.0]}, "metric 'mine' returned a list for 'a'"),
        ({1: 1.0}, "metric 'mine' returned the key 1"),
        ({"": 1.0}, "metric 'mine' returned the key ''"),
        ({"b": 1.0}, "metric 'mine' returned 'b', a key of another metric"),
        (
            {"time/mix_s": 1.0},
            "metric 'mine' returned 'time/mix_s', a key of the run itself",
        ),
        ({"phase": 1.0}, "metric 'mine' returned 'phase', a key of the run itself"),
    ],
)
def test_what_is_no_number_is_refused_by_name(returned: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_values(RULE, returned, {"b": 1.0})


def test_no_two_quantities_share_a_key() -> None:
    keys = [record.key for record in (*built_in_records(), *QUANTITIES)]
    assert len(keys) == len({*keys})
    assert all(record.text for record in (*built_in_records(), *QUANTITIES))
