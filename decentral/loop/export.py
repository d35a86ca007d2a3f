"""A trained model in files that load without decentral."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from decentral.errors import ConfigError
from decentral.loop.afterwards import Afterwards
from decentral.loop.setup import Setup
from decentral.merge.base import merged
from decentral.registry import PYTHON, build

#: A line of Python by what it needs.
Lines = dict[str, str]


def by_rule(
    models: Afterwards, rule: str, run: str
) -> tuple[Setup, dict[str, Tensor], dict[str, Any]]:
    """Return what `export` takes of the model that a merge rule makes, and how it does on tests."""
    row = merged(build("merge", rule), models.models())
    scores = models.test(row)
    accuracy = None if scores.accuracy is None else scores.accuracy.item()
    about = {"run": run, "merge": rule, "nodes": len(models.rows),
             "accuracy": accuracy, "loss": scores.loss.item()}  # fmt: skip
    calibrated = models.evaluator.calibrated(row, models.integers)
    state = models.evaluator.state(calibrated, models.integers)
    return models.setup, state, about


def export(setup: Setup, state: Mapping[str, Tensor], about: Mapping[str, Any], to: Path) -> Lines:
    """Write a model into an empty folder; return the lines that load it, by what they need.

    ``model.pt2`` is the program that ``torch.export`` makes of it, for any batch; it is left out,
    and the reason returned, where the model cannot be traced. ``model.safetensors`` is its state,
    of a model of transformers as ``save_pretrained`` writes it; ``decentral.json`` and
    ``README.md`` say what it is.
    """
    if to.is_dir() and any(to.iterdir()):
        raise ConfigError(f"export: folder {to} is not empty; choose another --out.")
    to.mkdir(parents=True, exist_ok=True)
    model = setup.model.cpu().eval()
    model.load_state_dict(dict(state))
    lines: Lines = {"PyTorch": 'torch.export.load("model.pt2").module()'}
    if problem := _program(model, setup.train.first.cpu(), to / "model.pt2"):
        lines = {"PyTorch": f"no program: {problem}"}
    hub = [part for part in model.modules() if hasattr(part, "save_pretrained")]
    if hub:
        writer: Any = hub[0]
        writer.save_pretrained(to)
        lines["transformers"] = 'transformers.AutoModelForCausalLM.from_pretrained(".")'
    else:
        save_file(dict(state), to / "model.safetensors")
        lines["a module of your own"] = (
            'module.load_state_dict(safetensors.torch.load_file("model.safetensors"))'
        )
    what = {**about, **_described(setup), "load": lines}
    (to / "decentral.json").write_text(json.dumps(what, indent=1) + "\n", encoding="utf-8")
    (to / "README.md").write_text(_readme(what), encoding="utf-8")
    return lines


def _program(model: nn.Module, first: Tensor, path: Path) -> str | None:
    """Write the model as a program for any batch; return in a line why that cannot be."""
    batch = torch.export.Dim("batch")
    try:
        with torch.no_grad():
            made = torch.export.export(model, (first.repeat_interleave(2, 0),),
                                       dynamic_shapes=({0: batch},))  # fmt: skip
    except Exception as error:  # a model may do anything, and so may the tracer's complaints
        return f"torch.export cannot trace the model ({type(error).__name__})"
    torch.export.save(made, path)
    return None


def _described(setup: Setup) -> dict[str, Any]:
    """Return what one must know to use the model."""
    rule, task = setup.parts.get("model"), setup.task
    return {
        "task": setup.parts["task"].name if "task" in setup.parts else PYTHON,
        "model": rule.spec() if rule and rule.reloadable else type(setup.model).__name__,
        "parameters": setup.layout.parameter_count,
        "input_shape": list(task.input_shape),
        "input_dtype": str(setup.train.first.dtype).removeprefix("torch."),
        "outputs": task.outputs,
        "classes": list(task.classes or ()),
    }


def _readme(what: Mapping[str, Any]) -> str:
    shape = ", ".join(map(str, ["batch", *what["input_shape"]]))
    scores = [f"{key} {what[key]:.4g}" for key in ("accuracy", "loss") if what[key] is not None]
    ways = "\n".join(f"- {needs}: `{line}`" for needs, line in what["load"].items())
    return f"""# A model of {what["run"]}

Made by decentral: `{what["merge"]}` of {what["nodes"]} models, {what["parameters"]:,} parameters,
test {", ".join(scores)}. It takes inputs [{shape}] of type {what["input_dtype"]}, prepared as the
task `{what["task"]}` does.

To load it, in this folder:

{ways}

`decentral.json` says the rest.
"""
