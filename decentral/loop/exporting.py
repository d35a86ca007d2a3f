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
from decentral.merging.vectors import slerp_weights
from decentral.pytree import Tree, tree_map
from decentral.registry import PYTHON, build
from decentral.tasks.labels import in_order
from decentral.tasks.models.adapters import average_products, write_pretrained
from decentral.tasks.models.pretrained import Pretrained
from decentral.tasks.samples import is_whole
from decentral.topology.labels import NodeId
from decentral.yamltext import dump

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

    ``model.pt2`` is the program that ``torch.export`` makes of it, for any batch
    from 1 sample; it is left out, and the reason returned, where the model cannot be
    traced.
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
    lines |= _write_state(model, state, to)
    what = {**about, **_describe(setup), "load": lines}
    (to / "README.md").write_text(_readme(what), encoding="utf-8")
    what = {**what.pop("scores"), **what}  # each by its name, beside the rest
    (to / "decentral.json").write_text(
        json.dumps(what, indent=1) + "\n", encoding="utf-8"
    )
    return lines


def _write_state(
    model: nn.Module, state: Mapping[str, Tensor], to: Path, *, whole: bool = True
) -> Lines:
    """Write a model as its library does; return the lines that load it.

    Args:
        model: The module.
        state: Its state dict.
        to: The folder.
        whole: Whether adapters are written merged into the base, too.
    """
    if isinstance(model, Pretrained):
        return write_pretrained(model, to, whole=whole)
    hub = [part for part in model.modules() if hasattr(part, "save_pretrained")]
    if hub:
        writer: Any = hub[0]
        writer.save_pretrained(to)
        line = 'transformers.AutoModelForCausalLM.from_pretrained(".")'
        return {"transformers": line}
    save_file(dict(state), to / "model.safetensors")
    line = 'module.load_state_dict(safetensors.torch.load_file("model.safetensors"))'
    return {"a module of your own": line}


# --- all nodes --------------------------------------------------------------------


def export_nodes(models: TrainedModels, to: Path) -> Lines:
    """Write every node's model below a folder that ``export`` has written; return the
    lines that load or merge them.

    Of adapters, ``product`` is the one whose product is the mean of theirs. Of whole
    models, ``mergekit`` holds configurations by which mergekit makes what our rules
    do.

    Args:
        models: The models of a checkpoint.
        to: The folder.
    """
    places = [f"nodes/{node}" for node in models.live]
    lines, module = Lines(), models.setup.model
    for place, row in zip(places, models.rows, strict=True):
        # Integer buffers of the merged model: no average is made of them, and mergekit
        # refuses those that differ.
        state = models.evaluator.state(row, models.integers)
        (to / place).mkdir(parents=True)
        module = models.setup.module(state).cpu()
        lines = _write_state(module, state, to / place, whole=False)
    found = {f"{needs}, in {places[0]} and others": at for needs, at in lines.items()}
    if isinstance(module, Pretrained) and module.adapted:
        average_products([to / place for place in places], to / "product")
        line = lines["transformers and peft"].replace('"."', '"product"')
        return {**found, "transformers and peft, the mean of products": line}
    return {**found, **_write_mergekit(models, places, to, "transformers" in lines)}


def _write_mergekit(
    models: TrainedModels, places: Sequence[str], to: Path, folders: bool
) -> Lines:
    """Write configurations for mergekit; return its commands by the rule of ours that
    each is.

    Args:
        models: The models of a checkpoint.
        places: Folders of the nodes' models, within ``to``.
        to: The folder.
        folders: Whether they are models of transformers.
    """
    kit = to / "mergekit"
    rows = {place: f"mergekit/{place}/row.safetensors" for place in (*places, "start")}
    start = models.setup.initial_rows([NodeId(0)])[0]
    for place, row in zip(rows, (*models.rows, start), strict=True):
        (kit / place).mkdir(parents=True)
        # The whole row as one tensor: mergekit trims and elects signs tensor by tensor.
        numbers = {"row": row.detach().cpu().float().contiguous()}
        save_file(numbers, to / rows[place])
    named = [place if folders else f"{place}/model.safetensors" for place in places]
    width = models.rows.shape[1]
    # mergekit rounds down, and ``ties`` to the nearest.
    kept = {"density": (max(1, round(0.2 * width)) + 0.5) / width, "weight": 1.0}
    drawn = {"density": 0.5, "weight": 1.0}
    each: dict[str, Any] = {
        "uniform": {
            "merge_method": "linear",
            "models": [{"model": one, "parameters": {"weight": 1.0}} for one in named],
            "parameters": {"normalize": True},
        },
        "ties": {
            "merge_method": "ties",
            "base_model": rows["start"],
            "models": [{"model": rows[place], "parameters": kept} for place in places],
            "parameters": {"normalize": True},
        },
    }
    # Ours in expectation only: it draws other numbers, and keeps a sum of magnitudes.
    each["dare"] = each["ties"] | {
        "merge_method": "dare_linear",
        "models": [{"model": rows[place], "parameters": drawn} for place in places],
    }
    if len(places) == 2:
        pairs = zip(named, slerp_weights(models.rows), strict=True)
        each["slerp"] = {
            # By our weights: that of mergekit goes tensor by tensor.
            "merge_method": "linear",
            "models": [{"model": one, "parameters": {"weight": w}} for one, w in pairs],
            "parameters": {"normalize": False},
        }
    return _write_commands(each, to, folders)


def _write_commands(each: Mapping[str, Any], to: Path, folders: bool) -> Lines:
    lines = Lines()
    for rule, config in each.items():
        file = f"mergekit/{rule}.yaml"
        (to / file).write_text(dump({**config, "dtype": "float32"}), encoding="utf-8")
        tool = "mergekit-yaml --no-copy-tokenizer --no-write-model-card"
        if rule in ("ties", "dare") or not folders:
            tool = "mergekit-pytorch"
        lines[f"mergekit, {rule}"] = f"{tool} {file} {rule}"
    return lines


def _program(model: nn.Module, first: Tree, path: Path) -> str | None:
    """Write the model as a program for any batch from 1 sample; return in a line why
    that cannot be.
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
