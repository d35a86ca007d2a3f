"""The library's door: what a user writes in Python."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Any

import networkx as nx
import pandas
import pytest
import torch
import yaml
from support import TINY, blobs, untimed
from torch import Tensor, nn

import decentral
from decentral import GLOBAL_MERGE, ConfigError, Run, launch, resume
from decentral.tasks import Samples

SNIPPET = """
    import torch, decentral

    x = torch.randn(400, 10)
    y = (x @ torch.randn(10, 3)).argmax(1)
    task = decentral.Task(
        model=lambda: torch.nn.Linear(10, 3), loss=torch.nn.functional.cross_entropy, train=(x, y)
    )
    run = decentral.launch(task=task, nodes=4, steps=60, out=out)
    model = run.merged_model()
"""


def tiny(folder: Path, **settings: Any) -> Run:
    return launch(**{"task": blobs(), **TINY, "out": str(folder / "run"), **settings})


def agreement(model: nn.Module, samples: Samples) -> float:
    with torch.no_grad():
        return (model(samples.inputs).argmax(1) == samples.targets).double().mean().item()


# --- one's own ------------------------------------------------------------------------------------


def test_own_module_data_and_loss_take_less_than_ten_lines(tmp_path: Path) -> None:
    code = textwrap.dedent(SNIPPET).strip()
    assert len(code.splitlines()) < 10
    torch.manual_seed(0)
    names: dict[str, Any] = {"out": str(tmp_path / "run")}
    exec(code, names)
    run = names["run"]
    held_out = names["task"].splits[2]  # a fifth, drawn by the seed
    accuracy = agreement(names["model"], held_out)
    assert accuracy == pytest.approx(run.summary["final"]["accuracy/merged"])
    assert accuracy > 0.6


def test_own_schedule_topology_weights_split_and_optimizer_as_functions(
    tmp_path: Path,
) -> None:
    def twice(progress: Any, feedback: Any) -> Any:
        """Talk a little, then merge in the middle."""
        return GLOBAL_MERGE if progress.communication_step == 1 else 0.5

    def line(n: int) -> nx.Graph:
        """A row of nodes."""
        return nx.path_graph(n)

    def plain(params: Any) -> torch.optim.Optimizer:
        """SGD without anything."""
        return torch.optim.SGD(params, lr=0.1)

    def halves(labels: Any, nodes: int, seed: int) -> Any:
        """Every second node holds every second class."""
        import numpy as np

        share = np.zeros((int(labels.max()) + 1, nodes))
        for label in range(len(share)):
            share[label, label % 2 :: 2] = 1.0
        return share

    run = tiny(
        tmp_path, topology=line, communication=twice, optimizer=plain, split=halves,
        model=lambda: nn.Sequential(nn.Flatten(), nn.Linear(6, 4)),
    )  # fmt: skip
    events = [json.loads(s) for s in (run.path / "events.jsonl").read_text().splitlines()]
    assert [e["step"] for e in events if e["event"] == "merge"] == [10]
    links = json.loads((run.path / "topology.json").read_text())["links"]
    assert links == [[0, 1], [1, 2], [2, 3]]
    counts = json.loads((run.path / "data.json").read_text())["counts"]
    assert all((held[0] > 0) == (node % 2 == 0) for node, held in enumerate(counts))
    assert agreement(run.merged_model(), blobs().splits[2]) == pytest.approx(
        run.summary["final"]["accuracy/merged"]
    )


def test_parts_from_python_must_be_given_again_and_then_repeat_the_run(
    tmp_path: Path,
) -> None:
    def line(n: int) -> nx.Graph:
        """A row of nodes."""
        return nx.path_graph(n)

    task = blobs()
    first = tiny(tmp_path / "1", topology=line, task=task)
    config = first.path / "config.yaml"
    with pytest.raises(ConfigError, match="it was a Python object; give it again"):
        launch(config, out=str(tmp_path / "2" / "run"))
    again = launch(config, topology=line, task=task, out=str(tmp_path / "2" / "run"))
    same_numbers(first, again)


FILE = """
    from decentral import GLOBAL_MERGE, plugin
    from decentral.registry import Share
    import networkx as nx, torch

    def pulse(progress, feedback, *, high: Share = 1.0):
        "Communicate at every other communication step."
        return high * (progress.communication_step % 2)

    def wheel(n, *, spokes: int = 2):
        "A ring with a few chords."
        graph = nx.cycle_graph(n)
        graph.add_edges_from((i, (i + spokes) % n) for i in range(n))
        return graph

    def halving(params, *, momentum: float = 0.5):
        "SGD with half the momentum."
        return torch.optim.SGD(params, momentum=momentum)

    @plugin("algorithm", guarantees=("single_node_is_plain",))
    def lazy(block, action):
        "Local steps; rounds twice."
        block.gradient()
        block.adapt()
        block.combine(action)

    def net(input_shape, outputs, *, width: int = 5):
        "Two layers."
        return torch.nn.Sequential(
            torch.nn.Linear(input_shape[0], width), torch.nn.ReLU(), torch.nn.Linear(width, outputs)
        )
"""


def test_plug_ins_in_a_file_by_path_and_their_yaml_repeats_the_run(
    tmp_path: Path,
) -> None:
    path = tmp_path / "mine.py"
    path.write_text(textwrap.dedent(FILE), encoding="utf-8")
    task = blobs()
    first = tiny(
        tmp_path / "1", task=task, communication=f"{path}:pulse(high=0.8)",
        topology=f"{path}:wheel(spokes=2)", optimizer=f"{path}:halving",
        algorithm=f"{path}:lazy", model=f"{path}:net(width=7)",
    )  # fmt: skip
    config = yaml.safe_load((first.path / "config.yaml").read_text(encoding="utf-8"))
    assert config["communication"] == {
        "name": f"{path}:pulse", "high": 0.8, "final_merge": False,
    }  # fmt: skip
    assert config["model"] == {"name": f"{path}:net", "width": 7}
    again = launch(first.path / "config.yaml", task=task, out=str(tmp_path / "2" / "run"))
    same_numbers(first, again)
    assert first.merged_model()[0].out_features == 7


# --- the same again -------------------------------------------------------------------------------

SHIPPED: list[dict[str, Any]] = [
    {"task": "digits", "topology": "ring", "schedule": "late(start=1/3)".replace("1/3", "33.3%")},
    {"task": "quadratic(noise=0.5)", "topology": "one_peer_exponential", "local_steps": 3},
    {"task": "digits", "algorithm": "allreduce", "optimizer": "adamw", "lr": 0.003},
    {
        "task": "digits", "model": "cnn(channels=[2], norm=batch)", "sampling": "resample",
        "topology": "random_neighbors(r=0.7)", "communication": "adaptive(target=0.05)",
    },
    {
        "task": "digits", "topology": "nx:random_regular_graph(d=3)", "mix_state": True,
        "communication": "scale_to_budget(schedule=linear, budget=3%)", "clip": 0.5,
    },
]  # fmt: skip


def same_numbers(first: Run, again: Run) -> None:
    rows = [
        [
            untimed(json.loads(line))
            for line in (run.path / "metrics.jsonl").read_text().splitlines()
        ]
        for run in (first, again)
    ]
    assert rows[0] == rows[1]
    merged = [(run.path / "merged.safetensors").read_bytes() for run in (first, again)]
    assert merged[0] == merged[1]
    assert first.summary["final"] == again.summary["final"]


@pytest.mark.parametrize("given", SHIPPED, ids=str)
def test_the_yaml_of_a_finished_run_repeats_it_bit_by_bit(
    given: dict[str, Any], tmp_path: Path
) -> None:
    settings = {k: v for k, v in TINY.items() if k != "model" and k not in given}
    first = launch(**settings, **given, out=str(tmp_path / "1"))
    again = launch(first.path / "config.yaml", out=str(tmp_path / "2"))
    same_numbers(first, again)
    texts = [
        (run.path / "config.yaml").read_text(encoding="utf-8") for run in (first, again)
    ]
    assert texts[0] == texts[1]


def test_another_seed_gives_another_run_and_the_same_seed_the_same(
    tmp_path: Path,
) -> None:
    finals = [
        tiny(tmp_path / str(k), seed=seed).summary["final"]
        for k, seed in enumerate((0, 0, 1))
    ]
    assert finals[0] == finals[1] != finals[2]


def test_settings_win_over_the_file_and_short_names_work(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("task: quadratic\nnodes: 3\nsteps: 8\ncommunication: constant\n")
    run = launch(
        path, steps=5, schedule="none", lr=0.125, out=str(tmp_path / "run"), nodes=None
    )
    config = yaml.safe_load((run.path / "config.yaml").read_text(encoding="utf-8"))
    assert (config["nodes"], config["steps"]) == (3, 5)
    assert config["communication"]["name"] == "none"
    assert config["learning_rate"]["lr"] == 0.125
    assert config["out"] is None


# --- what a run gives -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Run, list[dict[str, Any]]]:
    seen: list[dict[str, Any]] = []
    run = tiny(
        tmp_path_factory.mktemp("api"), task="digits", watch=seen.append, topology="ring"
    )
    return run, seen


def test_metrics_are_a_frame_of_numbers(
    finished: tuple[Run, list[dict[str, Any]]],
) -> None:
    run, seen = finished
    frame = run.metrics
    assert isinstance(frame, pandas.DataFrame)
    assert len(frame) == len(seen)
    text = [
        column for column in frame if not pandas.api.types.is_numeric_dtype(frame[column])
    ]
    assert text == ["phase"]
    last = frame.iloc[-1]
    assert last["phase"] == "final"
    assert last["accuracy/merged"] == run.summary["final"]["accuracy/merged"]
    assert frame["comm/bytes"].is_monotonic_increasing
    assert frame["loss/train"].isna().sum() == 1, "only before the first step"


def test_without_pandas_metrics_are_arrays(
    finished: tuple[Run, list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "pandas", None)
    columns = finished[0].metrics
    assert isinstance(columns, dict)
    assert columns["step"].tolist() == [row["step"] for row in finished[1]]
    assert columns["loss/train"].dtype.kind == "f"


def test_watch_sees_every_row_that_is_written(
    finished: tuple[Run, list[dict[str, Any]]],
) -> None:
    run, seen = finished
    written = (run.path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert seen == [json.loads(line) for line in written]


def test_the_summary_holds_the_headline_numbers(
    finished: tuple[Run, list[dict[str, Any]]],
) -> None:
    run, _ = finished
    summary = run.summary
    assert summary["steps"] == 20
    assert summary["nodes"] == 4
    assert set(summary) >= {"run", "config", "final", "before_merge", "counters", "model"}
    assert set(summary["final"]) >= {
        "accuracy/local_mean", "accuracy/merged", "loss/merged", "consensus/distance",
    }  # fmt: skip
    assert set(summary["counters"]) >= {
        "comm/bytes", "comm/messages", "comm/rounds", "time/wall_s", "time/steps_per_s",
    }  # fmt: skip
    logged = {key for row in run.rows for key in row} - {"step", "phase"}
    assert {*summary["final"], *summary["counters"]} == logged
    assert summary["model"]["parameters"] == 64 * 8 + 8 + 8 * 10 + 10
    assert summary["final"]["consensus/distance"] == pytest.approx(0.0, abs=1e-6)
    assert summary["before_merge"]["consensus/distance"] > 1e-3
    frame = run.metrics.set_index("phase")
    assert (
        summary["before_merge"]["accuracy/merged"]
        == (frame.loc["before_merge", "accuracy/merged"])
    )


def test_the_merged_model_is_an_ordinary_module_as_good_as_it_says(
    finished: tuple[Run, list[dict[str, Any]]],
) -> None:
    from decentral.registry import build

    run, _ = finished
    model = run.merged_model()
    assert isinstance(model, nn.Module)
    assert not model.training
    test = build("task", "digits")().splits[2]
    assert agreement(model, test) == pytest.approx(
        run.summary["final"]["accuracy/merged"]
    )


def test_a_merged_model_with_batchnorm_is_as_good_as_it_says(tmp_path: Path) -> None:
    from decentral.registry import build

    run = tiny(tmp_path, task="digits", model="cnn(channels=[4], norm=batch)")
    accuracy = agreement(run.merged_model(), build("task", "digits")().splits[2])
    assert accuracy == pytest.approx(run.summary["final"]["accuracy/merged"])


def test_the_run_folder_explains_itself(
    finished: tuple[Run, list[dict[str, Any]]],
) -> None:
    run, _ = finished
    names = {path.name for path in run.path.iterdir()}
    assert names >= {
        "config.yaml", "env.json", "metrics.jsonl", "events.jsonl", "summary.json", "records.json",
        "checkpoints",
        "merged.safetensors", "report.html",
    }  # fmt: skip
    environment = json.loads((run.path / "env.json").read_text(encoding="utf-8"))
    assert environment["versions"]["torch"] == torch.__version__
    assert not [name for name in names if name.endswith(".tmp")]


def test_the_plot_is_a_figure(finished: tuple[Run, list[dict[str, Any]]]) -> None:
    import matplotlib.pyplot as plt

    figure = finished[0].plot()
    assert figure.axes
    plt.close(figure)


def test_a_watch_that_stops_leaves_a_run_that_can_be_resumed(tmp_path: Path) -> None:
    def watch(row: dict[str, Any]) -> None:
        if row["step"] == 13:
            raise KeyboardInterrupt

    task = blobs()
    with pytest.raises(KeyboardInterrupt):
        tiny(tmp_path, task=task, watch=watch, checkpoint_every=5)
    path = tmp_path / "run"
    with pytest.raises(ConfigError, match="no merged model; it did not finish"):
        Run(path).merged_model()
    with pytest.raises(
        ConfigError, match=r"its task was given from Python; .*task=\.\.\."
    ):
        resume(path)
    seen: list[int] = []
    run = resume(path, task=task, watch=lambda row: seen.append(row["step"]))
    assert seen[0] == 11
    assert run.summary["steps"] == 20
    same_numbers(tiny(tmp_path / "through", task=task), run)


def test_public_names_are_there_and_no_others() -> None:
    assert set(decentral.__all__) == set(dir(decentral))
    for name in decentral.__all__:
        assert getattr(decentral, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'lunch'"):
        decentral.lunch  # noqa: B018


def test_a_tensor_task_of_any_shape_works(tmp_path: Path) -> None:
    """Regression with two outputs: no classes, no accuracy, losses only."""
    torch.manual_seed(0)
    x: Tensor = torch.randn(120, 5)
    task = decentral.Task(loss=nn.functional.mse_loss, train=(x, x[:, :2] * 2 + 1))
    run = tiny(tmp_path, task=task, lr=0.05)
    assert "accuracy/merged" not in run.summary["final"]
    frame = run.metrics
    assert "accuracy/merged" not in frame
    assert frame["loss/merged"].iloc[-1] < frame["loss/merged"].iloc[0]


def test_a_plot_shows_itself_in_a_notebook(tmp_path: Path) -> None:
    """IPython asks an object for its picture; no pyplot is needed."""
    run = decentral.launch(task="quadratic", nodes=2, steps=4, out=str(tmp_path / "run"))
    assert run.plot()._repr_png_().startswith(b"\x89PNG")
