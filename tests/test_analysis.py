"""The analysis of a run: the same numbers as by hand, the command, the page, any kind of run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support import tiny_run
from synthetic import Page, assert_self_contained

from decentral import ConfigError, Run
from decentral.api import models_of
from decentral.cli import run as cli
from decentral.loop.analysis import Analysis, Extent, sampled_pairs
from decentral.metrics.geometry import through
from decentral.report.studies import verdict, write_analysis


def trained(folder: Path, **settings: Any) -> Run:
    tiny_run(folder, **{"communication": "none", "split": "iid", **settings}).run(
        lambda row: None
    )
    return Run(folder)


@given(nodes=st.integers(2, 300), count=st.integers(1, 40), seed=st.integers(0, 5))
def test_pairs_are_different_and_as_many_as_there_are(
    nodes: int, count: int, seed: int
) -> None:
    pairs = sampled_pairs(nodes, count, seed)
    assert len(set(pairs)) == len(pairs) == min(count, nodes * (nodes - 1) // 2)
    assert all(0 <= one < other < nodes for one, other in pairs)
    assert pairs == sampled_pairs(nodes, count, seed)


def test_lines_and_planes_hold_the_losses_of_the_models_themselves(
    tmp_path: Path,
) -> None:
    """At their ends, at the corners of the plane, and in its middle."""
    run = trained(tmp_path / "run", nodes=6, eval_every=20)
    seen: list[tuple[str, int, int]] = []
    found = run.analyze(pairs=3, points=3, samples=40, watch=lambda *of: seen.append(of))
    models = models_of(run.path)
    assert [done for _, done, _ in seen] == list(range(seen[0][2]))

    again = Analysis(models, Extent(3, 3, 40), lambda *of: None)
    losses = models.scores(models.rows, again.train).loss.tolist()
    merged = models.scores([again.merged], again.train).loss.item()
    places = found["lines"]["positions"]
    for kind in ("nodes", "merged"):
        for line in found["lines"][kind]:
            ends = [line["train_loss"][places.index(end)] for end in (0, 1)]
            wanted = [losses[node] for node in line["nodes"]] + [merged]
            assert ends == pytest.approx(wanted[:2])
    assert found["planes"]["around"]["loss"][1][1] == pytest.approx(merged)
    assert len(found["lines"]["nodes"]) == 3
    torch.testing.assert_close(again.merged, models.rows.mean(0))


def test_a_plane_reproduces_the_losses_of_its_three_models(tmp_path: Path) -> None:
    models = models_of(trained(tmp_path / "run").path)
    analysis = Analysis(models, Extent(), lambda *of: None)
    plane = through(*models.rows[:3], points=3)
    assert plane is not None
    corners = [plane.at(*plane.coordinates(row)) for row in models.rows[:3]]
    found = models.scores(corners, analysis.train).loss
    wanted = models.scores(models.rows[:3], analysis.train).loss
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)


def test_many_rows_score_as_one_by_one_with_batch_norm(tmp_path: Path) -> None:
    run = trained(
        tmp_path / "run", task="digits", model="cnn(channels=[4], norm=batch)", steps=4
    )
    models = models_of(run.path)
    evaluator, setup = models.evaluator, models.setup
    together = models.scores(models.rows, evaluator.subset)
    for index, row in enumerate(models.rows):
        integers = models.integers
        one = evaluator.calibrate_row(row, integers)
        outputs = evaluator.forward(one.unsqueeze(0), integers, evaluator.subset.inputs)[
            0
        ]
        loss = setup.task.loss(outputs, evaluator.subset.targets).item()
        assert together.loss[index].item() == pytest.approx(loss, rel=1e-5)


@pytest.mark.parametrize(
    "settings",
    [
        {"nodes": 2},
        {"init": "independent"},
        {"task": "digits", "model": "cnn(channels=[4], norm=batch)", "steps": 10},
        pytest.param(
            {"task": "digits", "model": "vit(layers=1, width=8, heads=2)", "steps": 10},
            marks=pytest.mark.soak,
        ),
        {"task": "quadratic", "replicas": "loop"},
    ],
    ids=["two nodes", "independent", "batchnorm", "vit", "quadratic"],
)
def test_any_run_can_be_analysed_and_drawn(
    settings: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained(tmp_path / "run", **settings)
    capsys.readouterr()
    out = tmp_path / "out"
    flags = ["--pairs", "2", "--points", "3", "--samples", "32", "--out", str(out)]
    assert cli(["analyze", str(tmp_path / "run"), *flags]) == 0
    said = capsys.readouterr().out
    assert "the merged model" in said
    assert all(
        len(line) <= 80 for line in said.splitlines()[1:] if str(tmp_path) not in line
    )
    record = json.loads((out / "analysis.json").read_text())
    assert verdict(record).split()[-2:] == ["of", "barriers."]
    assert (out / "analysis.png").stat().st_size > 5000
    page = Page(out / "analysis.html")
    assert_self_contained(page)
    assert page.source.count("<svg") == 6
    assert ("from_start" in record["updates"]) == (settings.get("init") != "independent")


def test_what_has_diverged_is_written_as_nothing(tmp_path: Path) -> None:
    run = trained(tmp_path / "run", task="quadratic")
    models = models_of(run.path)
    models.rows[:] *= 1e30
    record = Analysis(models, Extent(2, 3, 8), lambda *of: None).record()
    json.dumps(record, allow_nan=False)
    assert record["lines"]["nodes"][0]["barrier"] is None


def test_one_model_has_nothing_to_compare(tmp_path: Path) -> None:
    run = trained(tmp_path / "run", nodes=1)
    with pytest.raises(ConfigError, match="launch with nodes=2"):
        run.analyze()


@pytest.mark.usefixtures("rendered")
def test_names_are_text_on_the_page_and_in_its_drawings(tmp_path: Path) -> None:
    record = Analysis(
        models_of(trained(tmp_path / "run").path), Extent(2, 3, 8), lambda *of: None
    )
    found = json.loads(json.dumps(record.record()))
    evil = "<script>alert(1)</script>"
    for one in found["layers"]:
        one["name"] = evil
    page = Page(write_analysis({**found, "run": evil}, tmp_path))
    assert_self_contained(page)
    assert page.source.count("<svg") == 6
    assert evil in page.text("h1.")[0]
    assert evil in page.text("th.text")
    assert evil in page.text("text.")
