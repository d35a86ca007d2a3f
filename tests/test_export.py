"""Exported models load without decentral and compute what the run's own model does."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from support import tiny_run
from torch import Tensor, nn

from decentral import Run, Task, launch
from decentral.api import models_of
from decentral.cli import run as cli
from decentral.merging.base import merge_models
from decentral.registry import build
from decentral.topology.labels import NodeId

ALONE = """
import sys, torch
sys.modules["decentral"] = None  # not to be imported
model = torch.export.load("model.pt2").module()
inputs = torch.load("inputs.pt")
torch.save(model(inputs), "outputs.pt")
"""


def finished(folder: Path, **settings: Any) -> Run:
    tiny_run(folder, **settings).run(lambda row: None)
    return Run(folder)


def computed_alone(folder: Path, inputs: Tensor) -> Tensor:
    """Return what the program in a folder computes in a process that has no decentral."""
    torch.save(inputs, folder / "inputs.pt")
    subprocess.run([sys.executable, "-c", ALONE], cwd=folder, check=True)
    return torch.load(folder / "outputs.pt")


@pytest.mark.slow
def test_a_program_computes_what_the_merged_model_does_for_any_batch(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = finished(tmp_path / "run", task="digits", model="cnn(channels=[4], norm=batch)")
    capsys.readouterr()
    out = tmp_path / "out"
    assert cli(["export", str(run.path), "--out", str(out)]) == 0
    assert 'torch.export.load("model.pt2").module()' in capsys.readouterr().out
    inputs = torch.randn(7, 1, 8, 8)
    model = run.merged_model()
    with torch.no_grad():
        torch.testing.assert_close(computed_alone(out, inputs), model(inputs))
    what = json.loads((out / "decentral.json").read_text())
    assert (what["input_shape"], what["outputs"]) == ([1, 8, 8], 10)
    assert what["accuracy"] == run.summary["final"]["accuracy/merged"]
    (line,) = re.findall(r"of your own: `module.(.*)`", (out / "README.md").read_text())
    assert line == 'load_state_dict(safetensors.torch.load_file("model.safetensors"))'
    from safetensors.torch import load_file

    fresh = build("model", what["model"])(tuple(what["input_shape"]), what["outputs"])
    fresh.load_state_dict(load_file(out / "model.safetensors"))
    with torch.no_grad():
        torch.testing.assert_close(fresh.eval()(inputs), model(inputs))


def test_a_rule_exports_what_it_merges(tmp_path: Path) -> None:
    run = finished(tmp_path / "run", communication="none", split="iid")
    run.export(tmp_path / "out", method="median")
    models = models_of(run.path)
    row = merge_models(build("merge", "median"), models.models())
    models.setup.layout.unpack(row, models.setup.model)
    from safetensors.torch import load_file

    for name, value in load_file(tmp_path / "out" / "model.safetensors").items():
        torch.testing.assert_close(value, models.setup.model.state_dict()[name])
    what = json.loads((tmp_path / "out" / "decentral.json").read_text())
    assert what["loss"] == pytest.approx(models.test(row).loss.item())


def test_a_model_of_transformers_loads_there(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    text = tmp_path / "text.txt"
    text.write_text("to be or not to be, that is the question. " * 600)
    run = finished(
        tmp_path / "run", task=f"text(path={text}, context=16)", steps=2, nodes=2,
        model="gpt2(layers=1, width=16, heads=2)",
    )  # fmt: skip
    lines = run.export(tmp_path / "out")
    assert (
        lines["transformers"] == 'transformers.AutoModelForCausalLM.from_pretrained(".")'
    )
    tokens = torch.arange(8).view(1, 8)
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    with torch.no_grad():
        torch.testing.assert_close(loaded(tokens).logits, run.merged_model()(tokens))


class Moody(nn.Module):
    """Computes differently for different values, which no tracer can follow."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) if x.sum() > 0 else -self.linear(x)


def test_a_model_that_cannot_be_traced_is_exported_without_a_program(
    tmp_path: Path,
) -> None:
    x = torch.randn(60, 3)
    task = Task(
        model=Moody, loss=nn.functional.cross_entropy, train=(x, (x[:, 0] > 0).long())
    )
    run = launch(task=task, nodes=2, steps=2, replicas="loop", out=str(tmp_path / "run"))
    lines = run.export(tmp_path / "out")
    assert lines["PyTorch"].startswith("no program: torch.export cannot trace the model")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"README.md", "decentral.json", "model.safetensors"}


# --- all nodes ------------------------------------------------------------------------


def in_rows(
    run: Run, out: Path, rule: str
) -> tuple[dict[str, Any], list[dict[str, Tensor]]]:
    """Return a configuration for mergekit, and the tensors that it names."""
    from safetensors.torch import load_file

    from decentral.yamltext import load

    config = load((out / "mergekit" / f"{rule}.yaml").read_text())
    files = [out / one["model"] for one in config["models"]]
    files = [file / "model.safetensors" if file.is_dir() else file for file in files]
    return config, [load_file(file) for file in files]


def by_rule_of_ours(run: Run, rule: str) -> dict[str, Tensor]:
    models = models_of(run.path)
    return models.merged_state(merge_models(build("merge", rule), models.models()))


def nodes_of(folder: Path, **settings: Any) -> Run:
    given: dict[str, Any] = {"nodes": 2, "steps": 3, "communication": "none", **settings}
    run = finished(folder, split="iid", learning_rate=0.1, **given)
    assert not (models_of(run.path).rows[0] == models_of(run.path).rows[1]).all()
    return run


@pytest.mark.parametrize("model", ["mlp(hidden=[8])", "cnn(channels=[4], norm=batch)"])
def test_every_node_is_exported_as_it_is(tmp_path: Path, model: str) -> None:
    run = nodes_of(tmp_path / "run", model=model)
    lines = run.export(tmp_path / "out", nodes=True)
    models = models_of(run.path)
    from safetensors.torch import load_file

    for node in (0, 1):
        state = load_file(tmp_path / "out" / "nodes" / str(node) / "model.safetensors")
        for name, value in models.state(node).items():
            # Those that no average is of are the merged model's, for mergekit.
            if value.is_floating_point():
                assert torch.equal(state[name], value)
    assert lines["mergekit, uniform"] == "mergekit-pytorch mergekit/uniform.yaml uniform"


@pytest.mark.parametrize("rule", ["uniform", "slerp"])
def test_linear_configurations_are_our_merges(tmp_path: Path, rule: str) -> None:
    run = nodes_of(tmp_path / "run", model="mlp(hidden=[8])")
    run.export(tmp_path / "out", nodes=True)
    config, states = in_rows(run, tmp_path / "out", rule)
    weights = [one["parameters"]["weight"] for one in config["models"]]
    total = sum(weights) if config["parameters"]["normalize"] else 1.0
    for name, value in by_rule_of_ours(run, rule).items():
        pairs = zip(weights, states, strict=True)
        found = sum(weight * state[name] for weight, state in pairs) / total
        torch.testing.assert_close(found, value, rtol=1e-6, atol=1e-8)


def test_the_density_of_ties_is_what_we_keep(tmp_path: Path) -> None:
    run = nodes_of(tmp_path / "run", model="mlp(hidden=[8])", nodes=3)
    run.export(tmp_path / "out", nodes=True)
    config, states = in_rows(run, tmp_path / "out", "ties")
    models = models_of(run.path)
    for node, state in enumerate(states):
        assert torch.equal(state["row"], models.rows[node])
    width = models.rows.shape[1]
    densities = {one["parameters"]["density"] for one in config["models"]}
    assert {int(density * width) for density in densities} == {round(0.2 * width)}
    assert (tmp_path / "out" / config["base_model"]).is_file()
    assert not (tmp_path / "out" / "mergekit" / "slerp.yaml").exists()


@pytest.mark.parametrize(
    "model", ["mlp(hidden=[8])", "gpt2(layers=1, width=16, heads=2)"]
)
def test_mergekit_makes_what_our_rules_do(tmp_path: Path, model: str) -> None:
    pytest.importorskip(
        "mergekit", reason="needs mergekit==0.1.5, which pins old versions"
    )
    from safetensors.torch import load_file

    settings: dict[str, Any] = {"model": model}
    if model.startswith("gpt2"):
        text = tmp_path / "text.txt"
        text.write_text("to be or not to be, that is the question. " * 600)
        settings["task"] = f"text(path={text}, context=16)"
    run = nodes_of(tmp_path / "run", **settings)
    out = tmp_path / "out"
    lines = run.export(out, nodes=True)
    for rule in ("uniform", "slerp", "ties"):
        tool, *args = lines[f"mergekit, {rule}"].split()
        module = {"mergekit-yaml": "run_yaml", "mergekit-pytorch": "merge_raw_pytorch"}
        start = f"from mergekit.scripts.{module[tool]} import main; main()"
        subprocess.run(
            [sys.executable, "-W", "ignore", "-c", start, *args], cwd=out, check=True
        )
        found = load_file(out / rule / "model.safetensors")
        if rule == "ties":
            models = models_of(run.path)
            row = merge_models(build("merge", "ties"), models.models())
            torch.testing.assert_close(found["row"], row, rtol=1e-6, atol=1e-7)
            continue
        for name, value in by_rule_of_ours(run, rule).items():
            known = found.get(name.removeprefix("model."))
            if known is not None:
                torch.testing.assert_close(known, value, rtol=1e-6, atol=1e-7)
        assert len(found) > 3
    _, *args = lines["mergekit, dare"].split()
    loop = (
        "import sys; from mergekit.scripts.merge_raw_pytorch import main\n"
        "for seed in range(24):\n"
        "    more = [f'{sys.argv[2]}{seed}', '--random-seed', str(seed)]\n"
        "    main([sys.argv[1], *more], standalone_mode=False)\n"
    )
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", loop, *args], cwd=out, check=True
    )
    rows = [load_file(out / f"dare{k}" / "model.safetensors")["row"] for k in range(24)]
    models = models_of(run.path)
    start = models.setup.initial_rows([NodeId(0)])[0]
    learnt, found = models.rows.mean(0) - start, torch.stack(rows).mean(0) - start
    assert not torch.equal(rows[0], rows[1])
    # Of two nodes, each number kept or dropped: the noise of 24 draws is near 1/7.
    assert (found - learnt).norm() < 0.3 * learnt.norm()
    assert (found @ learnt / (learnt @ learnt)) == pytest.approx(1, abs=0.05)
