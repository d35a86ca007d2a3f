"""Whether the parts of a run go together: found out, and refused, before anything
runs.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from itertools import chain

import torch

from decentral.algorithms.base import CONDITIONS, time_of
from decentral.config import Config
from decentral.errors import ConfigError
from decentral.exchange.codec.base import refuse_biased, refuse_coding
from decentral.faults.base import Faults
from decentral.layout import Layout
from decentral.mixing.base import Mixer
from decentral.network.planning import RoundPlanner
from decentral.optim.block_optimizer import BlockOptimizer
from decentral.optim.states import UnknownState
from decentral.plugins import label_of
from decentral.registry import ConfiguredPlugin, build
from decentral.schedules.action import Merge
from decentral.tasks.base import Task
from decentral.traits import (
    AggregationTraits,
    AlgorithmTraits,
    AttackTraits,
    CodecTraits,
    CommunicationTraits,
    OptimizerTraits,
    Refusing,
    SplitTraits,
    traits_of,
)

# --- an algorithm and the rest ----------------------------------------------------


def refuse_unsound(
    config: Config, parts: Mapping[str, ConfiguredPlugin], planner: RoundPlanner
) -> None:
    """Raise ConfigError, with a remedy, where a part does not do what it promises.

    Args:
        config: The configuration.
        parts: Plug-ins of the run, by kind.
        planner: What is sent when.
    """
    _refuse_weights(parts["algorithm"], planner.mixer)
    refuse_biased(parts["codec"])
    _refuse_cut(parts["aggregation"], config.nodes)
    mixer = planner.mixer
    # Functions, since only what a part refuses is looked at: some ask every step.
    holds: dict[str, Callable[[], bool]] = {
        "directed": lambda: mixer.topology.links(0).directed,
        "unbalanced": lambda: not planner.doubly_stochastic,
        "time_varying": lambda: _varies(planner),
        "local_steps": lambda: config.local_steps > 1,
        # A connected graph is a tree where it has N - 1 links, counted both ways.
        "cycles": lambda: len(mixer.topology.links(0)) != 2 * (config.nodes - 1),
        "momentum": lambda: not _plain(parts["optimizer"]),
        "mix_state": lambda: config.mix_state,
        "node_lr": lambda: bool(config.node_lr),
        "compression": lambda: not traits_of(parts["codec"], CodecTraits).uncoded,
        "losses": lambda: bool(planner.faults.strikes("messages")),
        "robust": lambda: not traits_of(parts["aggregation"], AggregationTraits).linear,
    }
    for part in (parts["algorithm"], parts["codec"]):
        for condition, remedy in traits_of(part, Refusing).refuses.items():
            if holds[condition]():
                raise ConfigError(
                    f"{part.plugin.kind} {part.name!r} is not sound {CONDITIONS[condition]}; "
                    f"{_because_of_faults(condition, planner) or remedy}."
                )
    schedule = planner.schedule
    # What has settings may gossip in a longer run, or by another setting.
    fixed = not (schedule.closed_loop or schedule.rule.settings)
    if fixed and holds["compression"]():
        decided = [action for _, action in planner.decisions()]
        if not any(not isinstance(action, Merge) and action > 0 for action in decided):
            who = f"communication {schedule.rule.name!r}, which never gossips,"
            refuse_coding(parts["codec"], who)


def _because_of_faults(condition: str, planner: RoundPlanner) -> str:
    """Return the remedy where only faults make a condition hold, else nothing."""
    if condition == "unbalanced" and planner.mixer.keeps_balance:
        return "let faults take both directions, such as lost(both=true)"
    # Asked without faults: if the graph changes anyway, leaving them out is no
    # remedy.
    steady = not _varies(replace(planner, faults=Faults()))
    return "leave faults out" if condition == "time_varying" and steady else ""


def _refuse_cut(rule: ConfiguredPlugin, nodes: int) -> None:
    """Raise ConfigError where a rule of aggregation leaves out more rows than a run
    has nodes, so that nothing could ever remain.
    """
    setting = traits_of(rule, AggregationTraits).cuts
    cut = rule.settings.get(setting, 0) if setting else 0
    if 2 * cut >= max(nodes, 3):
        raise ConfigError(
            f"aggregation {rule.name!r}: {setting} = {cut} at either end leaves nothing of "
            f"{nodes} nodes; it must be at most {max(1, (nodes - 1) // 2)}."
        )


def refuse_rounds(parts: Mapping[str, ConfiguredPlugin], faults: Faults) -> None:
    """Raise ConfigError for parts that change a gossip which the algorithm does not
    have.
    """
    algorithm = parts["algorithm"].name
    if faults.any:
        raise ConfigError(
            f"faults: {faults.rules[0].name} strikes gossip, and algorithm {algorithm!r} has none; "
            "leave it out, or use algorithm dsgd."
        )
    refuse_coding(parts["codec"], f"algorithm {algorithm!r}")
    if not traits_of(parts["aggregation"], AggregationTraits).linear:
        raise ConfigError(
            f"algorithm {algorithm!r} takes no aggregation: nothing is received from neighbours; "
            "leave aggregation out."
        )
    attack = parts.get("attack")
    if attack is not None and not traits_of(attack, AttackTraits).data:
        raise ConfigError(
            f"attack {attack.name!r} changes what nodes send each other, and algorithm "
            f"{algorithm!r} sends no models; use attack label_flip."
        )


def refuse_in_events(
    config: Config, parts: Mapping[str, ConfiguredPlugin], planner: RoundPlanner
) -> None:
    """Raise ConfigError for what an algorithm in simulated time does not have yet.

    Args:
        config: The configuration.
        parts: Plug-ins of the run, by kind.
        planner: What is sent when.
    """
    algorithm = parts["algorithm"]
    # One after the other: what is looked at last is only there if the first is not.
    for where, holds, remedy in chain(
        _undefined_around_events(config, parts),
        _undefined_between_events(planner, time_of(algorithm) == "events"),
    ):
        if holds:
            raise ConfigError(
                f"algorithm {algorithm.name!r} goes event by event, which is not defined {where}; "
                f"{remedy}."
            )
    if traits_of(algorithm, AlgorithmTraits).server:
        _refuse_far(algorithm, planner)


def _undefined_around_events(
    config: Config, parts: Mapping[str, ConfiguredPlugin]
) -> Iterator[tuple[str, bool, str]]:
    """Yield where events are not defined, whether that is so, and what helps."""
    engine, sam, attack = config.engine, config.sam, parts.get("attack")
    alone = engine.name in ("auto", "local") and engine.workers in ("auto", 1)
    yield "in several workers", not alone, "leave engine out"
    uncoded = traits_of(parts["codec"], CodecTraits).uncoded
    yield "with codecs", not uncoded, "leave codec out"
    linear = traits_of(parts["aggregation"], AggregationTraits).linear
    received = "where what is received is not averaged"
    yield received, not linear, "leave aggregation out"
    lies = attack is not None and not traits_of(attack, AttackTraits).data
    yield "with an attack on what is sent", lies, "use attack label_flip"
    yield "with optimizer state that is mixed", config.mix_state, "leave mix_state out"
    stops = config.on_nonfinite == "stop"
    yield "where nodes are quarantined", not stops, "leave on_nonfinite out"
    restarts = sam is not None and sam.momentum == "restart"
    yield "where SAM restarts the momentum", restarts, "use sam.momentum=keep"


def _undefined_between_events(
    planner: RoundPlanner, free: bool
) -> Iterator[tuple[str, bool, str]]:
    """Yield the same of what is sent; ``free``: nobody waits for a round."""
    schedule = planner.schedule
    yield "with faults", planner.faults.any, "leave faults out"
    listens = schedule.closed_loop or bool(schedule.own_feedback)
    reacts = "with a schedule that reacts to the run"
    yield reacts, listens, "use communication constant or late"
    changes = planner.mixer.topology.time_varying
    steady = "use a topology that stays, such as ring"
    yield "on links that change", free and changes, steady
    budgeted = traits_of(schedule.rule, CommunicationTraits).budgeted
    constant = "use communication constant(intensity=0.1)"
    yield "with a budget of bytes", budgeted, constant
    # Last, since a budget's factor is not known before the run.
    merges = any(isinstance(action, Merge) for _, action in planner.decisions())
    early = "use communication late, whose merge ends the run"
    yield "with a global merge before the end", merges, early


def _refuse_far(algorithm: ConfiguredPlugin, planner: RoundPlanner) -> None:
    """Refuse a topology in which node 0, which serves, does not reach all others."""
    links = planner.mixer.topology.links(0)
    near = {0, *links.senders[links.receivers == 0].tolist()}
    both = near & {0, *links.receivers[links.senders == 0].tolist()}
    if len(both) < planner.nodes:
        missing = min({*range(planner.nodes)} - both)
        raise ConfigError(
            f"algorithm {algorithm.name!r}: node 0 serves all others, and has no link with node "
            f"{missing}; use topology star."
        )


def refuse_idle(algorithm: ConfiguredPlugin, called: Collection[str]) -> None:
    """Raise ConfigError unless the first step of an algorithm trained as its traits
    say.

    Args:
        algorithm: The algorithm.
        called: Those of ``gradient`` and ``adapt`` that it called.
    """
    traits = traits_of(algorithm, AlgorithmTraits)
    label = label_of(algorithm)
    if traits.gradient == "samples" and "gradient" not in called:
        raise ConfigError(
            f"{label} took its first step without block.gradient(), and learns nothing from data; "
            'call it before block.adapt(), or declare @plugin("algorithm", gradient="none").'
        )
    if traits.update == "optimizer" and "adapt" not in called:
        raise ConfigError(
            f"{label} took its first step without block.adapt(), and no optimizer moves the rows; "
            'call it after block.gradient(), or declare @plugin("algorithm", update="own").'
        )


def _refuse_weights(algorithm: ConfiguredPlugin, mixer: Mixer) -> None:
    needed = traits_of(algorithm, AlgorithmTraits).weights
    if (needed or mixer.keeps != "rest") and mixer.weights_name != needed:
        raise ConfigError(
            f"algorithm {algorithm.name!r} does not work with weights {mixer.weights_name!r}; "
            "leave weights out."
        )


def _plain(optimizer: ConfiguredPlugin) -> bool:
    """Whether an optimizer is x <- x - lr g, weight decay apart."""
    plain = traits_of(optimizer, OptimizerTraits).plain
    return plain is not None and plain(optimizer.settings)


def _varies(planner: RoundPlanner) -> bool:
    """Whether links change from round to round."""
    return (
        planner.mixer.topology.time_varying
        or planner.faults.any
        or planner.participation is not None
        or _activates_some_links(planner)
    )


def _activates_some_links(planner: RoundPlanner) -> bool:
    """Whether some round activates only some of the links."""
    if planner.mixer.topology.activation == "round":
        return False
    # What it will ask for is not known, so that any intensity may come.
    if planner.schedule.closed_loop:
        return True
    actions = (action for _, action in planner.decisions())
    return any(isinstance(action, float) and 0 < action < 1 for action in actions)


# --- splits -----------------------------------------------------------------------


def split_of(config: Config, task: Task) -> ConfiguredPlugin:
    """Return the split as asked; by default iid, where a task lacks the classes it
    needs.

    Raises ConfigError where the user asked for a split that cannot be.
    """
    split = build("split", config.split)
    if not _lacks_classes(split, task):
        return split
    if "split" in config.model_fields_set:
        raise ConfigError(
            f"split {split.name!r} divides by classes, and this task's targets are none; use "
            "split=iid or split=quantity, or name a class of every sample by Task(labels=...)."
        )
    return build("split", "iid")


def split_notes(config: Config, task: Task) -> tuple[str, ...]:
    """Say where the default split gives way."""
    if task.owners is not None:
        return ()
    split = build("split", config.split)
    if not _lacks_classes(split, task):
        return ()
    return (
        f"the task has no classes: split iid, not {split.name}, which is the default.",
    )


def silence_note(planner: RoundPlanner, users: bool) -> str:
    """Say where a schedule lets nodes send nothing from the first step to the last.

    One that always does, such as ``none``, has no setting that could be meant
    otherwise.

    Args:
        planner: What is sent when.
        users: Whether the schedule is the user's own.
    """
    schedule = planner.schedule
    if schedule.closed_loop or schedule.final_merge or planner.steps < 1:
        return ""
    if not (users or schedule.rule.settings):
        return ""
    decided = [action for _, action in planner.decisions()]
    if any(isinstance(action, Merge) or action > 0 for action in decided):
        return ""
    times = "once, at the end" if len(decided) == 1 else (
        f"{len(decided)} times, every {planner.local_steps} steps and at the end"
    )  # fmt: skip
    return (
        f"{label_of(schedule.rule)} sends nothing: it is asked {times}, and says 0 each time; "
        "local_steps says how often."
    )


def _lacks_classes(split: ConfiguredPlugin, task: Task) -> bool:
    return task.labels is None and traits_of(split, SplitTraits).needs_classes


# --- an optimizer and a model, tried on small rows --------------------------------

#: Steps of the trial: what is made in the first is used in the second.
STEPS = 2


def check_optimizer(rule: ConfiguredPlugin, layout: Layout) -> None:
    """Refuse an optimizer, found by its dotted name, that cannot train rows of a
    model.

    Some need more than gradients: the graph that they were computed by, the loss
    again, or parameters that are all matrices. Some remember what no checkpoint can
    hold.

    Args:
        rule: The optimizer.
        layout: Where each parameter stands in a row.

    Raises:
        ConfigError: It fails, in one line that says what would do.
    """
    if "." not in rule.name or rule.plugin.origin:
        return
    row = torch.linspace(-1.0, 1.0, layout.width).unsqueeze(0)
    slope = row.cos()
    try:
        with torch.random.fork_rng(devices=[]):
            trial = BlockOptimizer(rule, layout, row, slope)
            for _ in range(STEPS):
                trial.step(1e-3)
            with trial.evaluating():
                trial.states()
    except UnknownState as error:
        raise ConfigError(
            f"optimizer {rule.name!r} remembers a {error}, which no checkpoint can hold; "
            "soap, muon and adamw resume."
        ) from error
    except Exception as error:
        if _refuses_settings(rule):
            raise
        cause = error.__cause__ or error
        said = (
            (str(cause).strip() or type(cause).__name__).splitlines()[0][:160].rstrip(".")
        )
        raise ConfigError(
            f"optimizer {rule.name!r} cannot train rows of this model ({said}); muon and soap take "
            "matrices and leave the rest to AdamW, adamw takes anything."
        ) from error


def _refuses_settings(rule: ConfiguredPlugin) -> bool:
    """Tell whether settings of the user's are refused, and not the model: a matrix
    fails, too.
    """
    known = rule.plugin.settings
    if all(value == known[key].default for key, value in rule.settings.items()):
        return False
    try:
        rule([torch.nn.Parameter(torch.ones(2, 2))])
    except ConfigError:
        return True
    return False
