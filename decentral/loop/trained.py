"""The models of a run after training: looked at in one place, written for others."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from decentral.errors import ConfigError
from decentral.exchange.local import LocalExchange
from decentral.layout import share_parameters
from decentral.loop.adapting import spread_inputs
from decentral.loop.block import Block
from decentral.loop.measure import Evaluator
from decentral.loop.rounds import restore
from decentral.loop.setup import Setup
from decentral.merging.base import Models, merge_models
from decentral.merging.calibrate import merge_integers
from decentral.metrics.base import Scores, Snapshot, check_values, declared_records, score
from decentral.network.planning import Membership
from decentral.pytree import Tree, tree_at, tree_map
from decentral.records import Records, records_of
from decentral.registry import PYTHON, ConfiguredPlugin, build
from decentral.run.checkpoint import Saved, restoring
from decentral.tasks.base import Samples
from decentral.tasks.labels import in_order
from decentral.tasks.samples import is_whole
from decentral.topology.labels import NodeId

#: A row [P] and its integer buffers [1, ...].
Model = tuple[Tensor, dict[str, Tensor]]

#: Fewest training samples that judge merges where there are none for validation.
JUDGED = 512
#: Samples of its own node from which a model's Fisher information is taken.
FISHER_SAMPLES = 64


class TrainedModels:
    """The rows of a checkpoint, with the data they were trained and are judged on."""

    def __init__(self, setup: Setup, saved: Saved) -> None:
        """Load a checkpoint."""
        self.setup, self.step = setup, saved.step
        exchange = LocalExchange(len(saved.live))
        with restoring(saved.step):
            members = Membership(saved.live, saved.counters["epoch"])
            self.block = Block(setup, exchange, lambda *_: None, members)
            restore(self.block, saved.load(saved.live))
        # Schedule-free ones train at other points than those that are looked at.
        self.block.optimizer.set_mode(training=False)
        self.evaluator = Evaluator(self.block)
        healthy = self.block.healthy_rows()
        self.rows, self.live = (
            self.block.rows[healthy],
            [self.block.hosted[i] for i in healthy],
        )
        self.own = {name: value[healthy] for name, value in self.block.integers.items()}
        #: Integer and bool buffers of whatever is made of all models, [1, ...].
        self.integers = merge_integers(
            self.own, torch.arange(len(healthy)), exchange.gather
        )
        train = setup.train
        judged = max(setup.config.eval_samples, JUDGED)
        some = train.subset(torch.arange(min(len(train), judged)))
        self.judging = self.evaluator.val or some

    @cached_property
    def snapshot(self) -> Snapshot:
        """What metrics look at: all models, on all test samples.

        BatchNorm of the local models, too, is re-estimated, as it is of what is
        made of them.
        """
        found = self.evaluator.snapshot(complete=True)
        if self.setup.task.objective is None:
            found.local = self.local(found.samples)
        return found

    @cached_property
    def judges(self) -> tuple[list[ConfiguredPlugin], Records]:
        """The metrics that say how good a merged model is, and their records.

        These are those of accuracy and loss and the run's own, if they return keys
        of a merged model: others, which may take long, would say the same of every
        merge.
        """
        named = ["accuracy", "loss", *self.setup.config.metrics]
        rules = {rule.name: rule for rule in (build("metric", one) for one in named)}
        records = records_of(declared_records(rules.values()))
        found = [
            rule
            for rule in rules.values()
            if records.merged(check_values(rule, rule(self.snapshot), {}))
        ]
        return found, records

    def judge(self, row: Tensor) -> dict[str, float]:
        """Return what the metrics of the run say of its models, and of their merge
        into a row.
        """
        snapshot = self.snapshot.with_merge(row)
        found: dict[str, float] = {}
        for rule in self.judges[0]:
            found |= check_values(rule, rule(snapshot), found)
        return found

    def state(self, node: NodeId) -> dict[str, Tensor]:
        """Return the state dict of a node's model, with buffers of its own."""
        if node not in self.live:
            raise ConfigError(f"node {node} was lost before step {self.step}.")
        place = self.live.index(node)
        own = {name: value[place : place + 1] for name, value in self.own.items()}
        return self.evaluator.state(self.rows[place], own)

    def merged_state(self, row: Tensor) -> dict[str, Tensor]:
        """Return the state dict of what was made of the models, BatchNorm
        re-estimated.
        """
        calibrated = self.evaluator.calibrate_row(row, self.integers)
        return self.evaluator.state(calibrated, self.integers)

    def models(self) -> Models:
        """Return what merge rules may know."""
        setup = self.setup
        return Models(
            rows=self.rows,
            samples=setup.samples_held[self.live],
            start=setup.initial_rows([NodeId(0)])[0].to(self.rows),
            model=setup.model,
            layout=setup.layout,
            seed=setup.config.seed,
            loss=self.loss,
            fisher=self.fisher,
        )

    def test(self, row: Tensor) -> Scores:
        """Return loss and accuracy of one row on test data, BatchNorm re-estimated."""
        return self.scores([row], self.evaluator.test)

    def loss(self, row: Tensor) -> float:
        """Return the loss of one row on validation data; without any, on training
        data.
        """
        return self.scores([row], self.judging).loss.item()

    def local(self, samples: Samples) -> Scores:
        """Return loss and accuracy of the models that were trained, with buffers of
        their own.
        """
        own = (
            {k: v[i : i + 1] for k, v in self.own.items()} for i in range(len(self.rows))
        )
        return self._scores(zip(self.rows, own, strict=True), samples)

    def scores(self, rows: Iterable[Tensor], samples: Samples) -> Scores:
        """Return loss and accuracy of rows that were made of the models."""
        return self._scores(((row, self.integers) for row in rows), samples)

    def _scores(self, models: Iterable[Model], samples: Samples) -> Scores:
        """Judge models, BatchNorm re-estimated, as many at a time as fit."""
        parts: list[Scores] = []
        waiting = iter(models)
        while some := list(islice(waiting, self.evaluator.chunk[0])):
            parts.append(self._together(some, samples))
        right = [part.accuracy for part in parts if part.accuracy is not None]
        return Scores(
            torch.cat([part.loss for part in parts]), torch.cat(right) if right else None
        )

    def _together(self, some: Sequence[Model], samples: Samples) -> Scores:
        evaluator, setup = self.evaluator, self.setup
        rows = torch.stack([evaluator.calibrate_row(*model) for model in some])
        integers = {
            name: torch.cat([whole[name] for _, whole in some])
            for name in setup.layout.integers
        }
        return score(
            setup.task, evaluator.forward, rows, integers, samples, evaluator.chunk
        )

    def fisher(self, index: int) -> Tensor:
        """Return the mean squared gradient of a model on single samples of its own
        node, [P].

        Buffers, which have no gradient, count like the mean of the parameters.
        """
        setup, place = self.setup, self.block.hosted.index(self.live[index])
        batch = self.block.sampler.batch(0, FISHER_SAMPLES)
        inputs, targets = (
            tree_map(lambda t: t[place].unsqueeze(1), part)
            for part in (batch.inputs, batch.targets)
        )
        # A copy of the row for each sample: one backward pass of the sum then gives
        # the gradient of every single sample.
        rows = self.rows[index].expand(FISHER_SAMPLES, -1).clone().requires_grad_()
        forward = self.evaluator.forward_of(
            share_parameters(setup.model).eval(), setup.layout, own=True
        )
        whole = {k: v[place].expand(FISHER_SAMPLES, *v[place].shape)
                 for k, v in self.block.integers.items()}  # fmt: skip
        outputs = forward(rows, whole, inputs)
        losses = [
            setup.task.loss(tree_at(outputs, i), tree_at(targets, i))
            for i in range(FISHER_SAMPLES)
        ]
        (gradients,) = torch.autograd.grad(torch.stack(losses).sum(), rows)
        squared = gradients.square().mean(0)
        columns = setup.layout.trainable
        squared[columns:] = squared[:columns].mean()
        return squared


def differing(setup: Setup, saved: Iterable[Saved], needed: bool = True) -> TrainedModels:
    """Return the newest checkpoint whose models are not all the same, as they are
    after a merge.

    Where there is none, that is a ConfigError if it is ``needed``, else the newest.
    """
    newest = None
    for each in saved:
        found = TrainedModels(setup, each)
        # A final merge leaves nothing to look at: the checkpoint before it is
        # wanted.
        if len(found.rows) < 2 or not bool((found.rows == found.rows[0]).all()):
            return found
        newest = newest or found
    if newest and not needed:
        return newest
    raise ConfigError(
        "in every checkpoint all models are the same; launch with "
        "communication.final_merge=false, or a larger keep_checkpoints."
    )


# --- files that load without decentral --------------------------------------------

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
    if hub:
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
