"""Late communication."""

from __future__ import annotations

from decentral.claims.base import Expectation, Findings, Lab, Panel
from decentral.claims.single_merge import FULL, PAPER, accuracy, series
from decentral.registry import Count, Positive, Share, plugin


@plugin(
    "claim",
    paper=PAPER,
    says="At an equal budget, communication late in training is worth more than early or uniform "
    "communication.",
    expect=(
        Expectation("late minus early, merged", "late beats early after the merge", low=0.0),
        Expectation("late minus early, local", "late beats early before the merge", low=0.05),
        Expectation("late minus uniform, local", "late beats uniform before it", low=0.02),
        Expectation(
            "late minus uniform, merged", "late beats uniform after it", low=0.0, over="mean"
        ),
        Expectation("largest difference in bytes", "the budgets are equal", high=0.1),
    ),
    tiny={"nodes": 4, "steps": 40},
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
) -> Findings:
    """A window of dense gossip at the start, in the middle and at the end, against an even spread.

    Every node receives from ``peers`` random others per round in a window of ``width`` of the
    run, and ``outside`` times as many elsewhere; the even spread has the same expected bytes. All
    end in one global merge.

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
        outside: Intensity outside of the window.
    """
    even = width + (1 - width) * outside
    windows = {"early": 0.0, "middle": (1 - width) / 2, "late": 1 - width}
    schedules = {
        name: f"window(start={100 * start:g}%, width={100 * width:g}%, outside={outside}, "
        "final_merge=true)"
        for name, start in windows.items()
    } | {"uniform": f"constant({even}, final_merge=true)"}
    runs = {
        name: lab.run(
            name, task=task, model=model, nodes=nodes, steps=steps, local_steps=local_steps,
            split=f"dirichlet(alpha={alpha})", topology=f"random_neighbors(r={peers})",
            communication=schedule, seed=seed,
        )
        for name, schedule in schedules.items()
    }  # fmt: skip
    merged = {name: accuracy(run) for name, run in runs.items()}
    local = {
        name: float(run.summary["before_merge"]["accuracy/local_mean"])
        for name, run in runs.items()
    }
    sent = [run.summary["counters"]["comm/bytes"] for run in runs.values()]
    figures = {
        f"late minus {other}, {what}": found["late"] - found[other]
        for other in ("early", "middle", "uniform")
        for what, found in (("merged", merged), ("local", local))
    } | {"largest difference in bytes": max(sent) / min(sent) - 1}
    panels = [
        Panel(title, "step", "accuracy", [series(run, name, key) for name, run in runs.items()])
        for title, key in (
            ("The local models", "accuracy/local_mean"),
            ("Their average", "accuracy/merged"),
        )
    ]
    return Findings(figures, panels)
