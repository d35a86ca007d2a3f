"""Models of a run written into files that load without decentral."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from decentral.errors import ConfigError
from decentral.loop.adapting import spread_inputs
from decentral.loop.setup import Setup
from decentral.loop.trained import TrainedModels
from decentral.merging.base import merge_models
from decentral.pytree import Tree, tree_map
from decentral.registry import PYTHON, build
from decentral.tasks.labels import in_order
from decentral.tasks.models.adapters import write_pretrained
from decentral.tasks.models.pretrained import Pretrained
from decentral.tasks.samples import is_whole

#: A line of Python by what it needs.
Lines = dict[str, str]


def by_rule(
    models: TrainedModels, rule: object, run: str
) -> tuple[Setup, dict[str, Tensor], dict[str, Any]]:
    """Return what `export` takes of the model that a merge rule makes, and how it
    does on tests.

    Args:
        models: The models of a checkpoint.
        rule: Merging rule.
        run: Name of the run, for messages.
    """
    made = build("merge", rule)
    row = merge_models(made, models.models())
    found, (_, records) = models.judge(row), models.judges
    scores = {one.of_merge: found[one.key] for one in records.merged(found)}
    about = {"run": run, "merge": rule if isinstance(rule, str) else made.name}
    about |= {"nodes": len(models.rows), "scores": scores}
    return models.setup, models.merged_state(row), about


def export(
    setup: Setup, state: Mapping[str, Tensor], about: Mapping[str, Any], to: Path
) -> Lines:
    """Write a model into an empty folder; return the lines that load it, by what
    they need.

    ``model.pt2`` is the program that ``torch.export`` makes of it, for any batch;
    it is left out, and the reason returned, where the model cannot be traced.
    ``model.safetensors`` is its state, of a model of transformers as
    ``save_pretrained`` writes it; ``decentral.json`` and ``README.md`` say what it
    is.

    Args:
        setup: The run.
        state: State dict of the model.
        about: What is written beside it.
        to: The folder.
    """
    if to.is_dir() and any(to.iterdir()):
        raise ConfigError(f"export: folder {to} is not empty; choose another --out.")
    to.mkdir(parents=True, exist_ok=True)
    model = setup.module(state).cpu()
    lines: Lines = {"PyTorch": 'torch.export.load("model.pt2").module()'}
    if problem := _program(model, setup.train.first, to / "model.pt2"):
        lines = {"PyTorch": f"no program: {problem}"}
    hub = [part for part in model.modules() if hasattr(part, "save_pretrained")]
    if isinstance(model, Pretrained):
        lines |= write_pretrained(model, to)
    elif hub:
        writer: Any = hub[0]
        writer.save_pretrained(to)
        lines["transformers"] = 'transformers.AutoModelForCausalLM.from_pretrained(".")'
    else:
        save_file(dict(state), to / "model.safetensors")
        lines["a module of your own"] = (
            'module.load_state_dict(safetensors.torch.load_file("model.safetensors"))'
        )
    what = {**about, **_describe(setup), "load": lines}
    (to / "README.md").write_text(_readme(what), encoding="utf-8")
    what = {**what.pop("scores"), **what}  # each by its name, beside the rest
    (to / "decentral.json").write_text(
        json.dumps(what, indent=1) + "\n", encoding="utf-8"
    )
    return lines


def _program(model: nn.Module, first: Tree, path: Path) -> str | None:
    """Write the model as a program for any batch; return in a line why that cannot
    be.
    """
    batch = torch.export.Dim("batch")
    try:
        with torch.no_grad(), _silence():
            # torch.export takes a dimension of size 1 for a constant.
            two = tree_map(lambda one: one.cpu().repeat_interleave(2, 0), first)
            args, named = spread_inputs(two)
            dynamic: Any = {key: {0: batch} for key in named} or tuple(
                {0: batch} for _ in args
            )
            made = torch.export.export(model, args, named, dynamic_shapes=dynamic)
        torch.export.save(made, path)
    except (
        Exception
    ) as error:  # a model may do anything, and so may the tracer's complaints
        path.unlink(missing_ok=True)
        return f"torch.export cannot trace the model ({type(error).__name__})"
    return None


@contextmanager
def _silence() -> Generator[None]:
    """Keep the tracer from printing its graph where it fails: the reason is a line
    of ours.
    """
    before, words = logging.root.manager.disable, io.StringIO()
    logging.disable(logging.CRITICAL)
    try:
        with redirect_stdout(words), redirect_stderr(words):
            yield
    finally:
        logging.disable(before)


def _describe(setup: Setup) -> dict[str, Any]:
    """Return what one must know to use the model."""
    rule, task, first = setup.parts.get("model"), setup.task, setup.train.first
    counted = is_whole(setup.train.targets) and setup.train.targets.dim() == 1
    return {
        "task": setup.parts["task"].name if "task" in setup.parts else PYTHON,
        "model": rule.spec() if rule and rule.reloadable else type(setup.model).__name__,
        "parameters": setup.layout.parameter_count,
        "input_shape": tree_map(lambda one: list(one.shape[1:]), first),
        "input_dtype": tree_map(lambda one: str(one.dtype).removeprefix("torch."), first),
        "outputs": task.outputs,
        "classes": list(task.classes or ()) if counted else [],
    }


def _inputs(shape: Any, dtype: Any) -> str:
    """Return the shapes and types of inputs in words."""
    if isinstance(shape, dict):
        return ", ".join(f"`{key}` {_inputs(shape[key], dtype[key])}" for key in shape)
    if isinstance(dtype, tuple):
        return ", ".join(map(_inputs, shape, dtype))
    return f"[{', '.join(map(str, ['batch', *shape]))}] of type {dtype}"


def _outputs(classes: Sequence[str]) -> str:
    """Return which output is which class, of many the first and the last."""
    if not classes:
        return ""
    return f"Its outputs are the classes: {in_order(classes, 'output')}.\n"


def _readme(what: Mapping[str, Any]) -> str:
    inputs = _inputs(what["input_shape"], what["input_dtype"])
    scores = [
        f"{key} {one:.4g}" for key, one in what["scores"].items() if one is not None
    ]
    ways = "\n".join(f"- {needs}: `{line}`" for needs, line in what["load"].items())
    return f"""# A model of {what["run"]}

Made by decentral: `{what["merge"]}` of {what["nodes"]} models, {what["parameters"]:,} parameters,
test {", ".join(scores)}. It takes inputs {inputs}, prepared as the task `{what["task"]}` does.
{_outputs(what["classes"])}
To load it, in this folder:

{ways}

`decentral.json` says the rest.
"""
