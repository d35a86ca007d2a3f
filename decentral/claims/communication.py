"""Claims about communication: how little of it is enough, when it is worth most."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

from decentral.claims.base import Curve, Expectation, Findings, Lab, Panel, series
from decentral.registry import Count, NonNegative, Positive, Share, plugin

# --- one merge at the end ---------------------------------------------------------


#: What two claims share: where they come from, and their size for a GPU.
PAPER = (
    "On the surprising effectiveness of a single global merging in decentralized learning, "
    "ICLR 2026"
)
FULL = {
    "task": "cifar10",
    "model": "resnet18",
    "nodes": 32,
    "steps": 20_000,
    "local_steps": 100,
}


@plugin(
    "claim",
    paper=PAPER,
    says="With heterogeneous data and very little gossip, local models look poor, yet one global "
    "merge of them comes close to centralized training; without any gossip it does not.",
    expect=(
        Expectation(
            "all-reduce minus merged",
            "the merge comes within a point of centralized training",
            low=-0.01,
            high=0.01,
            over="interval",
        ),
        Expectation(
            "merged minus local",
            "the local models look poorer than the merge",
            low=0.01,
            role="condition",
        ),
        Expectation(
            "merged minus never", "without gossip the merge is much worse", low=0.2
        ),
        Expectation(
            "persistence",
            "share of the evaluations after the first fifth at which the merge beats the locals",
            low=0.95,
        ),
        Expectation(
            "bytes", "the share of all-reduce's bytes", high=0.05, role="by design"
        ),
        Expectation(
            "merged minus never, least over time",
            "models stay mergeable throughout: after the first fifth their merge is better "
            "than without gossip by 10 points, always",
            low=0.1,
        ),
        Expectation(
            "all-reduce minus merged, mild",
            "it also holds with mild heterogeneity",
            low=-0.01,
            high=0.01,
            over="interval",
        ),
        Expectation(
            "all-reduce minus merged, MNIST", "and on MNIST", low=-0.01, high=0.01,
            over="interval", optional=True,
        ),
        Expectation(
            "merged minus never, MNIST", "where the merge without gossip is worse, too",
            low=0.0, over="interval", optional=True,
        ),
    ),
    tiny={"nodes": 4, "steps": 40},
    quick={"arms": "heart"},
    off={"peers": 0.0},
    full=FULL,
)  # fmt: skip
def single_merge(
    lab: Lab,
    seed: int,
    *,
    task: str = "digits",
    model: str = "mlp",
    nodes: Count = 16,
    steps: Count = 3000,
    local_steps: Count = 10,
    alpha: Positive = 0.1,
    peers: NonNegative = 0.4,
    sampling: Literal["fixed", "resample"] = "resample",
    arms: Literal["all", "heart"] = "all",
) -> Findings:
    """Sparse random gossip and one merge against all-reduce, and against no
    communication.

    ``alpha`` is the Dirichlet heterogeneity, ``peers`` the links per node and
    round. Nodes draw a class by their preferences, then any sample of it, as in the
    paper. All-reduce averages gradients at every step. The mild case has ten times
    ``alpha``. What independent first models change is reported; nothing is expected
    of it. On MNIST, where the folder that ``DECENTRAL_DATA`` names has it, a third of
    the steps are taken.

    Args:
        lab: What runs the experiment and keeps its figures.
        seed: Seed of this repetition.
        task: Task of the runs.
        model: Model of the runs.
        nodes: Nodes of the runs.
        steps: Steps of a run.
        local_steps: Steps between two communication steps.
        alpha: Heterogeneity of the data (Dirichlet).
        peers: Nodes that a node receives from per round; 0 is no gossip.
        sampling: Whether nodes draw from all samples, or hold a part of their own.
        arms: Whether ``all`` is measured, or the ``heart``: the merge against
            all-reduce and the local models.
    """
    central = {
        "task": task, "model": model, "nodes": nodes, "steps": steps, "seed": seed,
        "sampling": sampling, "split": f"dirichlet(alpha={alpha})",
    }  # fmt: skip
    alone = {
        **central, "local_steps": local_steps, "topology": "ring",
        "communication": "none(final_merge=true)",
    }  # fmt: skip
    central["algorithm"] = "allreduce"
    sparse = alone | {
        "topology": f"random_neighbors(r={peers})",
        "communication": "constant(final_merge=true)",
    } if peers else alone  # fmt: skip
    runs = {
        "all-reduce": lab.run("all-reduce", **central),
        "sparse gossip": lab.run("sparse gossip", **sparse),
    }
    if arms == "heart":
        return _compare(runs)
    runs["never"] = lab.run("never", **alone)
    mild = {"split": f"dirichlet(alpha={10 * alpha})"}
    even = [lab.run(f"mild {k}", **v | mild) for k, v in (("a", central), ("g", sparse))]
    apart = lab.run("independent", init="independent", **sparse)
    found = _compare(runs)
    merged = accuracy(runs["sparse gossip"])
    apart_by, panel = stays_mergeable(runs["sparse gossip"], runs["never"])
    figures = {
        "merged minus never": merged - accuracy(runs["never"]),
        "merged minus never, least over time": apart_by,
        "persistence": persistence(runs["sparse gossip"]),
        "bytes": runs["sparse gossip"].summary["counters"]["comm/relative"],
        "all-reduce minus merged, mild": accuracy(even[0]) - accuracy(even[1]),
        "merged minus independent": merged - accuracy(apart),
    }
    sides = {"all-reduce": central, "merged": sparse, "never": alone}
    if on := {name: accuracy(run) for name, run in on_mnist(lab, steps, sides).items()}:
        figures["all-reduce minus merged, MNIST"] = on["all-reduce"] - on["merged"]
        figures["merged minus never, MNIST"] = on["merged"] - on["never"]
    return Findings(found.figures | figures, [*found.panels, panel])


def find_mnist(lab: Lab) -> dict[str, Any] | None:
    """Return the task of MNIST in the folder that DECENTRAL_DATA names; where there is
    none, say so.
    """
    folder = Path(os.environ.get("DECENTRAL_DATA", "data")) / "mnist"
    if folder.is_dir():
        return {"name": "mnist", "path": str(folder.resolve())}
    lab.say(f"not run: the arm on MNIST ({folder} is no folder; see DECENTRAL_DATA)")
    return None


def on_mnist(lab: Lab, steps: int, sides: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return runs on MNIST by name, with a third of the steps; none without its data.

    Args:
        lab: What runs them.
        steps: Steps of the others.
        sides: Settings of each, beside those.
    """
    if (mnist := find_mnist(lab)) is None:
        return {}
    images = {"task": mnist, "steps": max(1, steps // 3)}
    return {
        name: lab.run(f"{name}, MNIST", **one | images) for name, one in sides.items()
    }


def stays_mergeable(sparse: Any, never: Any) -> tuple[float, Panel]:
    """Return the least by which a run's merge beats that of another after the first
    fifth, and what merging is worth to both over time.

    Args:
        sparse: The run with gossip.
        never: The run without.
    """
    gains, merges = list[Curve](), list[Curve]()
    for name, run in (("sparse gossip", sparse), ("never", never)):
        merged, local = (
            series(run, name, f"accuracy/{what}") for what in ("merged", "local_mean")
        )
        more = [after - own for after, own in zip(merged.y, local.y, strict=True)]
        gains.append(Curve(name, merged.x, more))
        merges.append(merged)
    with_, without = merges
    least = min(
        one - other
        for step, one, other in zip(with_.x, with_.y, without.y, strict=True)
        if step >= with_.x[-1] / 5
    )
    return least, Panel("What merging is worth", "step", "merged minus local", gains)


def _compare(runs: dict[str, Any]) -> Findings:
    """Return what a merge after sparse gossip is worth, and what it could have been."""
    sparse = runs["sparse gossip"]
    local = sparse.summary["before_merge"]["accuracy/local_mean"]
    figures = {
        "all-reduce minus merged": accuracy(runs["all-reduce"]) - accuracy(sparse),
        "merged minus local": accuracy(sparse) - local,
    }
    curves = [series(run, name, "accuracy/merged") for name, run in runs.items()]
    curves.append(series(sparse, "sparse gossip, local", "accuracy/local_mean"))
    panel = Panel("What the average of all models could do", "step", "accuracy", curves)
    return Findings(figures, [panel])


def accuracy(run: Any) -> float:
    """Return the test accuracy of a run's merged model."""
    return float(run.summary["final"]["accuracy/merged"])


def persistence(run: Any) -> float:
    """Return the share of evaluations after the first fifth where the merge beats
    the locals.
    """
    merged, local = (
        series(run, "", f"accuracy/{what}") for what in ("merged", "local_mean")
    )
    points = zip(merged.x, merged.y, local.y, strict=True)
    # Not from the first evaluation on: models that have hardly trained differ by
    # chance.
    better = [average >= own for step, average, own in points if step >= merged.x[-1] / 5]
    return sum(better) / len(better)


# --- when to communicate ----------------------------------------------------------


@plugin(
    "claim",
    paper=PAPER,
    says="At an equal budget, communication late in training is worth more than early or uniform "
    "communication.",
    expect=(
        Expectation(
            "late minus early, local",
            "late beats early before the merge, by more than a point",
            low=0.01,
            over="interval",
        ),
        Expectation(
            "late minus uniform, local",
            "late beats uniform before it",
            low=0.01,
            over="interval",
        ),
        Expectation(
            "late minus early, merged",
            "late beats early after the merge",
            low=0.0,
            over="interval",
        ),
        Expectation(
            "late minus uniform, merged",
            "late beats uniform after it",
            low=0.0,
            over="interval",
        ),
        Expectation(
            "largest difference in bytes",
            "the budgets are equal",
            high=0.1,
            role="condition",
        ),
        *(
            Expectation(
                f"late minus early, {what}, MNIST",
                f"on MNIST late beats early {when} the merge",
                low=0.0,
                over="interval",
                optional=True,
            )
            for what, when in (("local", "before"), ("merged", "after"))
        ),
    ),
    tiny={"nodes": 4, "steps": 40},
    quick={"steps": 1000, "sampling": "fixed", "arms": "heart"},
    off={"outside": 1.0},
    full=FULL,
)
def late_communication(
    lab: Lab,
    seed: int,
    *,
    task: str = "digits",
    model: str = "mlp",
    nodes: Count = 16,
    steps: Count = 3000,
    local_steps: Count = 10,
    alpha: Positive = 0.1,
    peers: Positive = 1.0,
    width: Share = 0.1,
    outside: Share = 0.1,
    sampling: Literal["fixed", "resample"] = "resample",
    arms: Literal["all", "heart"] = "all",
) -> Findings:
    """A window of dense gossip at the start, in the middle and at the end, against
    an even spread.

    Every node receives from ``peers`` random others per round in a window of
    ``width`` of the run, and ``outside`` times as many elsewhere; the even spread
    has the same expected bytes. All end in one global merge. On MNIST, where the folder
    that ``DECENTRAL_DATA`` names has it, a third of the steps are taken.

    Args:
        lab: What runs the experiment and keeps its figures.
        seed: Seed of this repetition.
        task: Task of the runs.
        model: Model of the runs.
        nodes: Nodes of the runs.
        steps: Steps of a run.
        local_steps: Steps between two communication steps.
        alpha: Heterogeneity of the data (Dirichlet).
        peers: Nodes that a node receives from per round in the window.
        width: Length of the window as a share of the run.
        outside: Intensity outside of the window; 1 is a window like all else.
        sampling: Whether nodes draw from all samples, or hold a part of their own.
        arms: Whether ``all`` is measured, or the ``heart``: late against early.
    """
    # The mean of a window's intensity over the run: equal bytes in expectation.
    even = width + (1 - width) * outside
    windows = {"early": 0.0, "late": 1 - width}
    if arms == "all":
        windows["middle"] = (1 - width) / 2
    schedules = {
        name: f"window(start={100 * start:g}%, width={100 * width:g}%, outside={outside}, "
        "final_merge=true)"
        for name, start in windows.items()
    }
    if arms == "all":
        schedules["uniform"] = f"constant({even}, final_merge=true)"
    shared = {
        "model": model, "nodes": nodes, "local_steps": local_steps, "sampling": sampling,
        "split": f"dirichlet(alpha={alpha})", "topology": f"random_neighbors(r={peers})",
        "seed": seed,
    }  # fmt: skip
    runs = {
        name: lab.run(name, task=task, steps=steps, communication=schedule, **shared)
        for name, schedule in schedules.items()
    }
    merged, local = _accuracies(runs)
    sent = [run.summary["counters"]["comm/bytes"] for run in runs.values()]
    figures = {
        f"late minus {other}, {what}": found["late"] - found[other]
        for other in runs
        if other != "late"
        for what, found in (("merged", merged), ("local", local))
    } | {"largest difference in bytes": max(sent) / min(sent) - 1}
    sides = {k: {**shared, "communication": schedules[k]} for k in ("early", "late")}
    if arms == "all" and (images := on_mnist(lab, steps, sides)):
        for what, one in zip(("merged", "local"), _accuracies(images), strict=True):
            figures[f"late minus early, {what}, MNIST"] = one["late"] - one["early"]
    titles = {"local_mean": "The local models", "merged": "Their average"}
    curves = {
        key: [series(run, name, f"accuracy/{key}") for name, run in runs.items()]
        for key in titles
    }
    panels = [Panel(titles[key], "step", "accuracy", curves[key]) for key in titles]
    return Findings(figures, panels)


def _accuracies(runs: dict[str, Any]) -> tuple[dict[str, float], dict[str, float]]:
    """Return the accuracies of merges, and of local models before them, by run."""
    return {name: accuracy(run) for name, run in runs.items()}, {
        name: float(run.summary["before_merge"]["accuracy/local_mean"])
        for name, run in runs.items()
    }
