"""What Python asks of runs: their models, comparison, merges, analysis, export; what there is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import networkx as nx
import pandas
import pytest
import torch
from support import TINY, blobs
from torch import Tensor, nn

import decentral
from decentral import ConfigError, Run, registry
from decentral.api.results import Merged
from decentral.api.tables import Table


def normalised() -> nn.Module:
    return nn.Sequential(
        nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.2), nn.ReLU(), nn.Linear(8, 4)
    )


def towns() -> nx.Graph:
    return nx.cycle_graph(["Oslo", "Bergen", "Moss", "Bodø"])


def accuracy(model: nn.Module) -> float:
    samples = blobs().splits[2]
    with torch.no_grad():
        inputs: Any = samples.inputs
        return (
            (model(inputs.double()).argmax(1) == samples.targets).double().mean().item()
        )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    out = tmp_path_factory.mktemp("results") / "run"
    given: dict[str, Any] = {**TINY, "model": normalised, "out": out, "dtype": "float64"}
    return decentral.launch(
        task=blobs(), topology=towns(), keep_checkpoints=20, quiet=True, **given
    )


# --- models ---------------------------------------------------------------------------------------


def test_models_of_a_checkpoint_score_what_its_evaluation_did(run: Run) -> None:
    """Each with the BatchNorm statistics of its own node, in evaluation mode, in its type."""
    assert {10, 20} < set(run.checkpoints)
    logged = next(
        row for row in run.rows if row["step"] == 10 and "accuracy/merged" in row
    )
    models = run.models(at=10)
    found = [accuracy(model) for model in models.values()]
    assert list(models) == [0, 1, 2, 3]
    assert min(found) == pytest.approx(logged["accuracy/local_min"])
    assert max(found) == pytest.approx(logged["accuracy/local_max"])
    assert sum(found) / 4 == pytest.approx(logged["accuracy/local_mean"])
    assert accuracy(run.model("mean", at=10)) == pytest.approx(logged["accuracy/merged"])
    assert not models[0].training
    assert next(models[0].parameters()).dtype == torch.float64


def test_a_node_is_its_number_or_its_label(run: Run) -> None:
    by_number, by_label = run.state_dict(1), run.state_dict("Bergen")
    assert all(torch.equal(by_number[key], by_label[key]) for key in by_number)
    assert any(
        not torch.equal(by_number[key], run.state_dict(0)[key]) for key in by_number
    )
    with pytest.raises(
        ConfigError, match=r"no node labelled 'Osl'.* Did you mean 'Oslo'"
    ):
        run.model("Osl")
    with pytest.raises(KeyError):
        run.models()[4]
    assert len(run.models()) == 4


def test_the_merged_model_is_that_of_the_end_or_of_a_step(run: Run) -> None:
    final = run.summary["final"]["accuracy/merged"]
    assert accuracy(run.model("merged")) == pytest.approx(final)
    merged, mean = run.state_dict("merged", at=10), run.state_dict("mean", at=10)
    assert all(torch.equal(merged[key], mean[key]) for key in mean)  # the rule is uniform
    assert set(run.state_dict("merged")) == set(mean)


def test_parts_from_python_are_given_again_by_name(run: Run) -> None:
    parts: dict[str, Any] = {"task": blobs(), "model": normalised, "topology": towns()}
    again = Run(run.path, **parts)
    assert torch.equal(again.state_dict(0)["0.weight"], run.state_dict(0)["0.weight"])
    with pytest.raises(ConfigError) as found:
        Run(run.path, task=parts["task"]).models()
    assert str(found.value) == (
        f"run {run.path}: its model and topology were given from Python; use "
        f"decentral.Run({str(run.path)!r}, model=..., topology=...)."
    )
    with pytest.raises(ConfigError, match=r"keeps its merge .*leave merge=\.\.\. out"):
        Run(run.path, merge="median", **parts).models()
    with pytest.raises(ConfigError, match="Run takes no steps, which the folder keeps"):
        Run(run.path, steps=3)  # pyright: ignore


class Note(decentral.Callback):
    """Changes nothing."""

    def on_end(self, context: Any) -> None:
        assert context.step


def quiet_ring(progress: Any, feedback: Any) -> float:
    return float(progress.fraction > 0.5)


def spread(snapshot: Any) -> dict[str, Any]:
    return {"own/spread": snapshot.rows.std(), "own/merged": snapshot.rows.mean()}


def test_who_reads_gives_again_what_models_are_made_of(tmp_path: Path) -> None:
    """And a run that is gone on with brings everything along."""
    made: dict[str, Any] = {
        **TINY, "task": blobs(), "communication": quiet_ring, "callbacks": [Note()],
        "metrics": ["loss", spread], "learning_rate": lambda progress: 1.0,
    }  # fmt: skip
    run = decentral.launch(**made, out=tmp_path / "run", quiet=True)
    assert [key for key in run.rows[-1] if key.startswith("own/")]
    again = Run(run.path, task=made["task"])
    for node in (0, "mean", "merged"):
        one, other = again.state_dict(node), run.state_dict(node)
        assert all(torch.equal(one[key], other[key]) for key in other)
    assert "own/merged" not in decentral.merge(again, "median").scores
    told = Run(run.path, task=made["task"], metrics=made["metrics"])
    assert "own/merged" in decentral.merge(told, "median").scores
    with pytest.raises(ConfigError, match="its communication and learning_rate and"):
        decentral.resume(run.path, task=made["task"], change={"steps": 24})
    longer = decentral.resume(run, change={"steps": 24}, quiet=True)
    assert longer.rows[-1]["step"] == 24
    assert "own/spread" in longer.rows[-1]


def test_a_part_that_the_folder_keeps_is_not_silently_another(run: Run) -> None:
    given: dict[str, Any] = {
        "task": blobs(), "model": normalised, "topology": towns(), "change": {"steps": 24}
    }  # fmt: skip
    with pytest.raises(ConfigError, match=r"keeps its merge \(.*leave merge=\.\.\. out"):
        decentral.resume(run.path, **given, merge="median")
    with pytest.raises(
        ConfigError, match=r"name it as a change: .*--change communication="
    ):
        decentral.resume(run.path, **given, communication="none")
    with pytest.raises(ConfigError, match=r"keeps its metrics \("):
        decentral.resume(run.path, **given, metrics=["loss"])
    # what is the same is no other
    kept = run.config()
    same = Run(run.path, merge="uniform", optimizer=kept.optimizer, **{
        key: given[key] for key in ("task", "model", "topology")
    })  # fmt: skip
    assert same.config().merge == kept.merge


def test_tables_are_text_in_a_script(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    lines = str(decentral.merge(run, ["uniform", "median"])).splitlines()
    assert lines[0].split()[0] == "merge"
    assert [line.split("  ")[0] for line in lines[1:5]] == [
        "the mean model", "the best model", "uniform", "median",
    ]  # fmt: skip
    assert len({line.rstrip().rindex(line.split()[-1]) for line in lines[1:3]}) <= 2
    assert max(map(len, lines)) <= 40
    many = Table([{"run": f"r{k}", **{f"long/key{j}": k * j for j in range(9)}}
                  for k in range(50)])  # fmt: skip
    lines = str(many).splitlines()
    assert lines[0] == "run  long/key0  long/key1  long/key2"
    assert lines[2] == "r1           0          1          2"
    assert lines[-1] == "and 10 more rows and 6 more columns"
    assert str(Table([])) == ""
    assert repr(run.models()).endswith("Oslo, Bergen, Moss, Bodø>")


# --- side by side, merged, analyzed, exported -----------------------------------------------------


def test_compare_returns_numbers_and_settings(run: Run, tmp_path: Path) -> None:
    found = decentral.compare(run, run.path, out=tmp_path / "two.html")
    assert found.page is not None
    assert "<svg" in found.page.read_text()
    final = run.summary["final"]["accuracy/merged"]
    assert [one["accuracy/merged"] for one in found] == [final, final]
    frame = found.frame()
    assert isinstance(frame, pandas.DataFrame)
    assert frame["comm/bytes"].tolist() == [run.summary["counters"]["comm/bytes"]] * 2
    assert f"<td>{final:.4g}</td>" in found._repr_html_()


def test_merge_returns_a_model_or_a_table(run: Run) -> None:
    one = decentral.merge(run, "uniform", at=10)
    assert isinstance(one, Merged)
    assert accuracy(one.model()) == pytest.approx(one.scores["accuracy/merged"])
    assert one.distance == pytest.approx(0, abs=1e-6)

    def first(models: Any) -> Tensor:
        """Take the first model."""
        return models.rows[0]

    seen: list[Any] = []
    found = decentral.merge(
        run, ["uniform", decentral.plugin("merge", sees="models")(first)], at=10,
        watch=lambda *of: seen.append(of),
    )  # fmt: skip
    assert [one["merge"] for one in found] == [
        "the mean model", "the best model", "uniform", "first",
    ]  # fmt: skip
    assert found.merged[1].distance > 0
    assert seen == [("uniform", 0, 2), ("first", 1, 2)]
    assert found.frame()["accuracy"].notna().all()


def test_merge_tries_every_rule_that_takes_so_many_models(run: Run) -> None:
    found = decentral.merge(run)
    rules = {one.name for one in registry.members("merge")[0]}
    assert {one.method for one in found.merged} <= rules
    assert {"uniform", "fisher", "median"} <= {one.method for one in found.merged}


def test_analyze_writes_where_it_is_told_to(run: Run, tmp_path: Path) -> None:
    found = decentral.analyze(
        run, at=10, pairs=1, points=3, samples=16, out=tmp_path / "page"
    )
    assert (found["step"], found["nodes"]) == (10, 4)
    assert (tmp_path / "page" / "analysis.html").exists()


def test_export_takes_any_rule_at_any_checkpoint(run: Run, tmp_path: Path) -> None:
    decentral.export(run, tmp_path / "out", at=10)
    made = run.model("merged", at=10)
    program = torch.export.load(tmp_path / "out" / "model.pt2").module()
    inputs = torch.randn(5, 6, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(program(inputs), made(inputs))


# --- what there is --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["topology", "topologies", "schedules"])
def test_plugins_are_listed_by_kind(kind: str) -> None:
    found = decentral.list_plugins(kind)
    (named,) = {one["kind"] for one in found}
    assert [one["name"] for one in found] == [one.name for one in found.plugins]
    assert {one["name"] for one in found} | set(found.missing) == set(
        registry.names(named)
    )


def test_all_plugins_are_listed_with_their_settings() -> None:
    found = decentral.list_plugins()
    assert {one["kind"] for one in found} == set(registry.KINDS)
    late = next(one for one in found if one["name"] == "late")
    assert late["settings"]["intensity"] == 0.1
    assert late["settings"]["start"] == "90%"  # as it is written, not as it is held
    every = next(one for one in found if one["name"] == "every")
    assert every["settings"]["k"] == "required"
    assert late["about"].endswith(".")
    with pytest.raises(ConfigError, match=r"kind of plug-in 'topologie'.*topologies"):
        decentral.list_plugins("topologie")
