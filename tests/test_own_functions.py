"""Functions as people write them: partials, methods, objects, schedulers of torch, shards."""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pytest
import torch
import yaml
from support import (
    TINY,
    advance,
    blobs,
    exchanges,
    silent,
    tiny_block,
    tiny_setup,
    together,
    walk,
)
from torch import nn
from torch.optim.lr_scheduler import (
    ChainedScheduler,
    CosineAnnealingLR,
    ExponentialLR,
    LambdaLR,
    LinearLR,
    OneCycleLR,
    SequentialLR,
)

import decentral
from decentral import plugin, registry
from decentral.config import make_config
from decentral.errors import ConfigError, RunError
from decentral.exchange.base import LocalExchange
from decentral.loop.block import Block
from decentral.loop.measure import Evaluator
from decentral.loop.rounds import checkpoint_of, restore
from decentral.loop.setup import resolve_config, write_in_list
from decentral.metrics.scores import accuracy
from decentral.plugins import place_of
from decentral.registry import build
from decentral.schedules.communication import constant, late
from decentral.schedules.learning_rate import LearningRate
from decentral.schedules.progress import Progress
from decentral.tasks.splits import class_shares, shards
from decentral.traits import CommunicationTraits, FaultTraits, traits_of

STEPS = 8


def between(progress: Progress, feedback: Any) -> float:
    """Communicate at every tenth step, from the fifth."""
    return float(progress.step % 10 == 5)


@pytest.mark.parametrize(
    ("schedule", "said"),
    [
        (between, "'between' .* sends nothing: it is asked 4 times, every 10 steps and"),
        ("window(start=10%, width=5%, final_merge=false)", "'window' sends nothing"),
        ("window(start=10%, width=5%, final_merge=true)", ""),
        ("window(start=50%, width=10%, final_merge=false)", ""),
        ("none(final_merge=false)", ""),
        (lambda progress, feedback: 1.0, ""),
    ],
)
def test_a_schedule_that_never_sends_is_named_before_the_run(
    schedule: Any, said: str
) -> None:
    setup = tiny_setup(communication=schedule, steps=40, local_steps=10)
    found = [note for note in setup.notes if "sends nothing" in note]
    assert len(found) == bool(said)
    assert not said or re.search(said, found[0])


def tiny(out: Path, **settings: Any) -> decentral.Run:
    asked = {"task": blobs(), **TINY, "steps": 6, "local_steps": 2, "log_every": 1}
    return decentral.launch(**{**asked, **settings}, out=str(out / "run"))


def config_of(run: decentral.Run) -> dict[str, Any]:
    return yaml.safe_load((run.path / "config.yaml").read_text())


# --- callables ------------------------------------------------------------------------------------


class Tenth:
    """A schedule that is an object, with a setting of its own."""

    def __call__(self, progress: Any, feedback: Any, *, times: float = 1.0) -> float:
        return 0.1 * times

    def method(self, progress: Any, feedback: Any) -> float:
        return 0.1


@pytest.fixture
def registered() -> Iterator[None]:
    """Let what a test registers go with it, and what it has imported stay."""
    before = {*registry._registered}
    yield
    for key in {*registry._registered} - before:
        if not registry._registered[key].target.__module__.startswith("decentral."):
            del registry._registered[key]


def nested(progress: Any, feedback: Any) -> float:
    return 0.1


FORMS: dict[str, Callable[..., Any]] = {
    "function": nested,
    "partial": functools.partial(nested),
    "lambda": lambda progress, feedback: 0.1,
    "object": Tenth(),
    "method": Tenth().method,
    "partial of an object": functools.partial(Tenth(), times=1.0),
    "partial by place": functools.partial(lambda x, progress, feedback: x, 0.1),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_plug_in_may_be_any_callable(form: str) -> None:
    rule = build("communication", FORMS[form])
    assert rule(Progress(0, 4), None) == 0.1
    place = place_of(rule)
    assert place is not None
    assert place.file == __file__


def test_a_partial_is_called_what_it_is_of_and_has_its_settings_with_other_defaults() -> (
    None
):
    rule = build("communication", functools.partial(Tenth(), times=3.0))
    assert (rule.name, rule.settings) == ("Tenth", {"times": 3.0})
    again = build("communication", {"name": rule.plugin.target, "times": 2.0})
    assert again(Progress(0, 4), None) == pytest.approx(0.2)


@pytest.mark.usefixtures("registered")
def test_a_decorator_counts_also_of_a_partial() -> None:
    @plugin("communication", closed_loop=True, final_merge=True)
    def listening(progress: Any, feedback: Any, *, loud: float = 0.5) -> float:
        """Talk as loud as asked."""
        return loud

    by_place = functools.partial(lambda x, *given: listening(*given, loud=x), 0.5)
    for hidden in (listening, functools.partial(listening, loud=0.2)):
        rule = build("communication", hidden)
        assert traits_of(rule, CommunicationTraits).closed_loop
        assert rule.common == {"final_merge": True}
    assert not traits_of(
        build("communication", by_place), CommunicationTraits
    ).closed_loop


@pytest.mark.usefixtures("registered")
def test_a_method_is_its_function_to_the_decorator() -> None:
    class Talker:
        @plugin("communication", "talks_back", closed_loop=True)
        def speak(self, progress: Any, feedback: Any) -> float:
            return 0.3

    rule = build("communication", Talker().speak)
    assert traits_of(rule, CommunicationTraits).closed_loop
    assert rule(Progress(0, 4), None) == 0.3


def test_a_partial_of_a_built_in_one_is_written_out() -> None:
    settings = {"communication": functools.partial(late, start="50%", intensity=0.3),
                "metrics": ["loss", functools.partial(accuracy)],
                "optimizer": functools.partial(torch.optim.AdamW, lr=0.25, weight_decay=0.5),
                "topology": "ring"}  # fmt: skip
    written = resolve_config(tiny_setup(**settings))
    assert written["communication"] == {
        "name": "late", "start": "50%", "intensity": 0.3, "then": 1.0, "final_merge": True,
    }  # fmt: skip
    assert written["metrics"] == ["loss", "accuracy"]
    assert written["optimizer"]["name"] == "torch.optim.AdamW"
    assert written["optimizer"]["weight_decay"] == 0.5
    assert written["learning_rate"]["lr"] == 0.25


def test_what_is_listed_is_written_with_its_settings() -> None:
    lost = build("fault", {"name": "lost", "share": 0.25})
    assert write_in_list(lost) == "lost(share=0.25)"
    assert make_config({"faults": [{"name": "lost", "share": 0.25}]}).faults == (
        "lost(share=0.25)",
    )


def test_a_dotted_setting_reaches_into_a_function() -> None:
    config = make_config({"communication": Tenth(), "communication.times": 4.0})
    assert build("communication", config.communication).settings == {"times": 4.0}


@pytest.mark.parametrize(
    ("made", "lr"),
    [
        (lambda params: torch.optim.SGD(params, lr=0.125), 0.125),
        (functools.partial(torch.optim.SGD, lr=0.5), 0.5),
        (torch.optim.SGD, 0.05),  # as the task recommends
    ],
)
def test_the_rate_of_an_optimizer_from_python_counts(made: Any, lr: float) -> None:
    setup = tiny_setup(task="quadratic", optimizer=made)
    assert setup.rate(setup.timeline.progress(0)) == lr


class Net(nn.Module):
    """A model whose settings all have defaults."""

    def __init__(self, width: int = 3, depth: int = 1) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, width), nn.ReLU(), nn.Linear(width, 4))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.net(inputs)


@pytest.mark.parametrize(
    ("made", "width"),
    [(Net, 3), (functools.partial(Net, 5), 5), (functools.partial(Net, width=7), 7)],
)
def test_a_class_of_modules_is_called_without_arguments(made: Any, width: int) -> None:
    assert tiny_setup(model=made).model.net[0].out_features == width


def test_lists_given_from_python_are_given_again_to_go_on(tmp_path: Path) -> None:
    def spread(snapshot: Any) -> dict[str, float]:
        return {"own/spread": float(snapshot.rows.std())}

    def down(ids: Any, step: int, seed: int) -> Any:
        return (ids == 1) & (step % 2 == 0)

    def cut(row: dict[str, Any]) -> None:
        if row["step"] == 4:
            raise KeyboardInterrupt

    own = {"metrics": ["loss", spread], "faults": down}
    whole = tiny(tmp_path / "whole", **own)
    with pytest.raises(KeyboardInterrupt):
        tiny(tmp_path, **own, watch=cut, checkpoint_every=2)
    path = tmp_path / "run"
    with pytest.raises(ConfigError, match=r"its metrics were given from Python"):
        decentral.resume(path, task=blobs(), faults=down)
    with pytest.raises(ConfigError, match=r"its metrics were \[loss, python\]; give"):
        decentral.resume(path, task=blobs(), metrics=[spread], faults=down)
    run = decentral.resume(path, task=blobs(), **own)
    assert run.summary["final"] == whole.summary["final"]
    assert "own/spread" in run.summary["final"]


# --- faults ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "strikes"),
    [
        (lambda ids, step, seed: ids == 1, "nodes"),
        (lambda low, high, step, seed: low == 0, "links"),
        (lambda receivers, senders, step, seed: receivers == 0, "messages"),
    ],
)
def test_a_fault_strikes_what_its_parameters_say(function: Any, strikes: str) -> None:
    assert traits_of(build("fault", function), FaultTraits).strikes == strikes


@pytest.mark.parametrize("strikes", ["nodes", "links"])
def test_bytes_without_a_share_are_expected_as_the_fault_says(strikes: str) -> None:
    faults = {
        "nodes": lambda ids, step, seed: (ids == 1) & (step == 1),
        "links": lambda low, high, step, seed: (low == 0) & (step == 1),
    }
    block = tiny_block(
        faults=faults[strikes],
        communication=functools.partial(constant, final_merge=False),
    )
    assert block.planner is not None
    from decentral.network import expected_bytes

    expected = expected_bytes(block.planner, block.setup.size)
    walk(block)
    assert block.stats.bytes == pytest.approx(expected)
    # a ring of 4 has 8 messages in each of 4 rounds, of which 4 are left out
    assert block.stats.bytes == 28 * block.setup.size.gossip


# --- splits ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["arrays", "lists", "mapping"])
def test_a_split_may_return_the_samples_of_each_node(form: str) -> None:
    labels = np.arange(24) % 3
    held = [np.arange(24)[node::4][::-1] for node in range(4)]
    returned: dict[str, Any] = {
        "arrays": held,
        "lists": [part.tolist() for part in held],
        "mapping": {node: held[node] for node in (3, 1, 0, 2)},
    }
    rule = build("split", lambda labels, nodes, seed: returned[form])
    found = shards(rule, labels, 4, seed=0)
    assert [part.tolist() for part in found] == [sorted(part.tolist()) for part in held]
    share = class_shares(rule, labels, 4, seed=0)
    assert share.shape == (3, 4)
    assert share.sum(1) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("held", "said"),
    [
        ([[0, 1], [1, 2]], "sample 1 more than once"),
        ([[0, 1], []], "no sample for node 1"),
        ([[0, 1], [2, 24]], "the index 24"),
        ([[0, 1], [2, -1]], "the index -1"),
    ],
)
def test_shards_that_cannot_be_are_refused(held: Any, said: str) -> None:
    rule = build("split", lambda labels, nodes, seed: [np.array(p, int) for p in held])
    with pytest.raises(ConfigError, match=said):
        shards(rule, np.arange(24) % 3, 2, seed=0)


# --- schedulers of torch --------------------------------------------------------------------------


def one_cycle(optimizer: Any) -> Any:
    return OneCycleLR(optimizer, max_lr=0.5, total_steps=STEPS)


def in_turn(optimizer: Any) -> Any:
    first = LinearLR(optimizer, 0.1, total_iters=3)
    return SequentialLR(optimizer, [first, ExponentialLR(optimizer, 0.5)], milestones=[3])


def chained(optimizer: Any) -> Any:
    first = LinearLR(optimizer, 0.1, total_iters=3)
    return ChainedScheduler([first, ExponentialLR(optimizer, 0.5)])


FACTORIES: dict[str, Any] = {
    "a class in a partial": functools.partial(CosineAnnealingLR, T_max=STEPS),
    "with a function": functools.partial(LambdaLR, lr_lambda=lambda step: 0.9**step),
    "a lambda": lambda optimizer: ExponentialLR(optimizer, 0.5),
    "one cycle": one_cycle,
    "one after the other": in_turn,
    "chained": chained,
}


@pytest.mark.parametrize("name", FACTORIES)
@pytest.mark.filterwarnings("ignore:The epoch parameter:UserWarning")
def test_a_factory_gives_the_rates_of_torch(name: str) -> None:
    lr = 0.25
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=lr, momentum=0.9)
    scheduler = FACTORIES[name](optimizer)
    expected: list[float] = []
    for _ in range(STEPS):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    rate = LearningRate.make({"name": FACTORIES[name], "lr": lr}, 1.0, STEPS)
    found = [rate(Progress(step, STEPS)) for step in range(STEPS)]
    assert found == pytest.approx(expected, rel=1e-12)
    # what is shown after the last step is its rate
    assert rate(Progress(STEPS, STEPS)) == found[-1]


def test_a_scheduler_by_its_name_is_the_class_and_both_are_written(
    tmp_path: Path,
) -> None:
    made = functools.partial(CosineAnnealingLR, T_max=6)
    first = tiny(tmp_path / "1", lr_schedule=made, lr=0.5)
    name = "torch.optim.lr_scheduler.CosineAnnealingLR(T_max=6)"
    second = tiny(tmp_path / "2", learning_rate=name, lr=0.5)
    written = config_of(first)["learning_rate"]
    assert written == config_of(second)["learning_rate"]
    assert written["name"] == "torch.optim.lr_scheduler.CosineAnnealingLR"
    assert first.summary["final"] == second.summary["final"]
    rates = [row["learning_rate"] for row in first.rows if "phase" not in row]
    assert rates == pytest.approx([0.25 * (1 + np.cos(np.pi * k / 6)) for k in range(6)])


def test_only_the_rate_is_taken_where_momentum_is_cycled_too() -> None:
    rate = LearningRate.make(one_cycle, 0.1, STEPS)
    assert (
        rate.note == "learning_rate one_cycle: only its rate is taken, and no momentum."
    )
    plain = functools.partial(one_cycle)
    assert rate.note in tiny_setup(learning_rate=plain, steps=STEPS).notes
    assert not LearningRate.make(chained, 0.1, STEPS).note


def test_a_function_of_the_progress_is_never_asked_with_an_optimizer() -> None:
    asked: list[str] = []

    def half(progress: Any) -> float:
        asked.append(type(progress).__name__)
        return 0.5

    rate = LearningRate.make(half, 0.1, STEPS)
    assert rate(Progress(0, STEPS)) == 0.05
    assert {*asked} == {"Progress"}


def test_workers_train_at_the_rates_of_a_scheduler_as_one_process_does() -> None:
    settings = {"task": blobs(), **TINY, "dtype": "float64", "mixing": "ordered",
                "replicas": "vmap", "nodes": 4, "steps": STEPS,
                "learning_rate": one_cycle, "topology": nx.path_graph}  # fmt: skip

    def block(exchange: Any) -> Block:
        return Block(tiny_setup(**settings), exchange, silent)

    alone = walk(block(LocalExchange(4, ordered=True)))
    parts = together(walk, [block(exchange) for exchange in exchanges([3, 1])])
    assert torch.equal(torch.cat(parts), alone)


# --- feedback of one's own ------------------------------------------------------------------------

EXACT = {"task": blobs(), **TINY, "dtype": "float64", "mixing": "ordered", "replicas": "vmap",
         "topology": "ring", "init": "independent", "steps": 24, "local_steps": 2}  # fmt: skip


def listening(heard: list[tuple[float, ...]], every: int = 3) -> Any:
    """Return a schedule that talks where the losses of the nodes differ, and notes them."""

    def differ(progress: Any, feedback: Any, *, feedback_every: int = every) -> float:
        heard.append(feedback.values)
        return 1.0 if max(feedback.values) > 1.6 * min(feedback.values) else 0.0

    plugin("communication", feedback=lambda block: block.losses)(differ)
    return differ


def exact(exchange: Any, heard: list[tuple[float, ...]]) -> Block:
    return Block(tiny_setup(**EXACT, communication=listening(heard)), exchange, silent)


@pytest.mark.usefixtures("registered")
def test_a_schedule_hears_a_number_of_every_node_which_is_counted() -> None:
    heard: list[tuple[float, ...]] = []
    block = exact(LocalExchange(4, ordered=True), heard)
    losses: list[tuple[float, ...]] = []
    while block.step < 24:
        block.setup.algorithm(block, block.decide())
        block.finish_step()
        losses.append(tuple(block.losses.tolist()))
    # asked at the steps 2, 4, ..., anew every third time, with the losses of the step before
    expected = [losses[2 * (k - k % 3)] for k in range(12)]
    assert heard == expected
    measured = 4 * 4 * 3 * 8
    assert block.stats.bytes == block.stats.messages * block.setup.row_bytes + measured
    assert 0 < block.stats.rounds < 12
    assert block.feedback is not None
    assert np.isnan(
        block.feedback.consensus
    )  # nobody reads it, so nothing is sent for it


@pytest.mark.usefixtures("registered")
def test_workers_hear_the_same_and_so_does_a_run_that_goes_on() -> None:
    heard: list[tuple[float, ...]] = []
    alone = exact(LocalExchange(4, ordered=True), heard)
    expected = walk(alone)
    parts: list[list[tuple[float, ...]]] = [[], []]
    pairs = zip(exchanges([1, 3]), parts, strict=True)
    blocks = [exact(exchange, part) for exchange, part in pairs]
    assert torch.equal(torch.cat(together(walk, blocks)), expected)
    assert parts[0] == parts[1] == heard
    assert blocks[1].stats.bytes == alone.stats.bytes
    for step in (5, 6, 7, 12):
        later: list[tuple[float, ...]] = []
        first = exact(LocalExchange(4, ordered=True), [])
        advance(first, step)
        kept = checkpoint_of(first)
        kept.counters = json.loads(json.dumps(kept.counters, allow_nan=False))
        again = exact(LocalExchange(4, ordered=True), later)
        restore(again, kept)
        assert torch.equal(walk(again), expected)
        assert later == heard[-len(later) :]


@pytest.mark.usefixtures("registered")
def test_schedules_within_another_each_hear_their_own() -> None:
    heard: dict[str, list[Any]] = {"loss": [], "norm": []}

    @plugin("communication", "by_loss", feedback=lambda block: block.losses)
    def by_loss(progress: Any, feedback: Any) -> float:
        heard["loss"].append(feedback.values)
        return 0.5

    @plugin("communication", "by_norm", feedback=lambda block: block.x.norm(dim=1))
    def by_norm(progress: Any, feedback: Any) -> float:
        heard["norm"].append(feedback.values)
        return 0.5

    nested = "switch(before=by_loss, after=by_norm, at=50%)"
    block = tiny_block(**EXACT, communication=nested)
    walk(block)
    assert len(heard["loss"]) == 5
    assert len(heard["norm"]) == 7
    assert not {*heard["loss"]} & {*heard["norm"]}
    assert all(len(values) == 4 for values in (*heard["loss"], *heard["norm"]))


@pytest.mark.usefixtures("registered")
def test_measuring_does_not_train() -> None:
    """A schedule's own function looks at copies, and at nothing that acts."""

    def meddling(block: Any) -> Any:
        assert all(len(one) == 4 for one in (block.hosted, *block.parameters.values()))
        assert not hasattr(block, "adapt")
        kept = block.losses.clone()
        for one in (block.rows, block.x, block.grads, block.g, block.losses):
            one.zero_()
        return kept

    @plugin("communication", "reading", feedback=lambda block: block.losses)
    def reading(progress: Any, feedback: Any, *, feedback_every: int = 1) -> float:
        return float(max(feedback.values) > 1.2 * min(feedback.values))

    @plugin("communication", "spoiling", feedback=meddling)
    def spoiling(progress: Any, feedback: Any, *, feedback_every: int = 1) -> float:
        return reading(progress, feedback)

    rows = [walk(tiny_block(**EXACT, communication=one)) for one in (reading, spoiling)]
    assert torch.equal(*rows)


def test_a_metric_that_changes_what_it_measures_is_refused() -> None:
    def shrinking(snapshot: Any) -> dict[str, Any]:
        return {"own/norm": snapshot.rows.mul_(0.5).norm()}

    block = tiny_block(**EXACT, metrics=[shrinking])
    with pytest.raises(
        ConfigError,
        match=r"'shrinking' \(.*test_own_functions.py:\d+\) changed the",
    ):
        Evaluator(block)(complete=False)


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize(
    ("returned", "said"),
    [
        (lambda block: 3.0, "returned 3.0"),
        (lambda block: block.losses[:1], r"a tensor of shape \[1\]"),
        (lambda block: block.losses * float("nan"), "numbers that are NaN or infinite"),
        (lambda block: ["much"] * 4, "returned a list"),
    ],
)
def test_what_a_schedule_measures_is_checked(returned: Any, said: str) -> None:
    @plugin("communication", "measuring", feedback=returned)
    def measuring(progress: Any, feedback: Any) -> float:
        return 1.0

    with pytest.raises(
        ConfigError, match=f"{said}.*; return one finite number for each of"
    ):
        walk(tiny_block(**EXACT, communication=measuring))


# --- objects that count -----------------------------------------------------------


class MeanAbsolute:
    """What libraries of metrics share: reset, update for every batch, compute."""

    higher_is_better = False

    def reset(self) -> None:
        self.total, self.samples = 0.0, 0

    def update(self, outputs: torch.Tensor, targets: torch.Tensor) -> None:
        self.total += outputs.abs().sum(1).double().sum().item()
        self.samples += len(targets)

    def compute(self) -> Any:
        return torch.tensor(self.total / self.samples)


class TwoOfThem(MeanAbsolute):
    def compute(self) -> Any:
        return {"mine": super().compute(), "twice": 2 * super().compute()}


def mean_absolute(model: nn.Module, inputs: torch.Tensor) -> float:
    with torch.no_grad():
        return model(inputs).abs().sum(1).double().mean().item()


def test_an_object_that_counts_over_batches_is_a_metric(tmp_path: Path) -> None:
    """As those of torchmetrics are: of every model, over all test samples."""
    task = blobs()
    run = decentral.launch(
        **{**TINY, "task": task, "steps": 4, "communication": "none"},
        metrics=["loss", MeanAbsolute(), TwoOfThem()], out=tmp_path / "run", quiet=True,
    )  # fmt: skip
    final = run.summary["final"]
    inputs = task.splits[2].inputs
    each = [mean_absolute(run.model(node), inputs) for node in range(TINY["nodes"])]
    assert final["mean_absolute/local_mean"] == pytest.approx(sum(each) / len(each))
    assert final["mean_absolute/local_min"] == pytest.approx(min(each))
    assert final["mean_absolute/local_max"] == pytest.approx(max(each))
    merged = mean_absolute(run.model("merged"), inputs)
    assert final["mean_absolute/merged"] == final["mine/merged"] == pytest.approx(merged)
    assert final["twice/merged"] == pytest.approx(2 * merged)
    stated = json.loads((run.path / "records.json").read_text())
    record = next(one for one in stated if one["key"] == "mean_absolute/merged")
    assert (record["better"], record["headline"]) == ("lower", True)


def test_a_function_built_into_python_declares_no_records() -> None:
    assert build("metric", math.hypot).traits.records == ()


def test_a_loss_that_is_not_one_number_is_refused(tmp_path: Path) -> None:
    train = torch.randn(40, 6), torch.arange(40) % 4
    task = decentral.Task(train=train, loss=nn.CrossEntropyLoss(reduction="none"))
    with pytest.raises(ConfigError, match=r"\[\d+\] numbers, where one is wanted"):
        decentral.launch(task=task, nodes=2, steps=2, out=tmp_path / "run", quiet=True)


@pytest.mark.usefixtures("threads_may_evaluate")
def test_workers_count_what_one_process_counts() -> None:
    def block(exchange: Any) -> Block:
        own = {"nodes": 4, "dtype": "float64", "mixing": "ordered", "init": "independent"}
        settings = {**TINY, **own, "metrics": ["loss", MeanAbsolute()]}
        return Block(tiny_setup(task=blobs(), **settings), exchange, silent)

    def measure(block: Block) -> dict[str, float]:
        return Evaluator(block)(complete=True)

    alone = measure(block(LocalExchange(4, ordered=True)))
    assert alone["mean_absolute/local_min"] < alone["mean_absolute/local_max"]
    for found in together(measure, [block(exchange) for exchange in exchanges([3, 1])]):
        assert found == pytest.approx(alone)


def test_what_a_counting_object_raises_is_its_own(tmp_path: Path) -> None:
    class Wrong(MeanAbsolute):
        def update(self, outputs: torch.Tensor, targets: torch.Tensor) -> None:
            raise ValueError("the shapes differ")

    with pytest.raises(RunError, match=r"metric 'wrong' raised ValueError: the shapes"):
        decentral.launch(
            **{**TINY, "task": blobs(), "steps": 2}, metrics=["loss", Wrong()],
            out=tmp_path / "run", quiet=True,
        )  # fmt: skip
