"""Single merge."""

from __future__ import annotations

from typing import Any

from decentral.claims.base import Curve, Expectation, Findings, Lab, Panel
from decentral.registry import Count, Positive, plugin

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
            "all-reduce minus merged", "the merge comes close to centralized training", high=0.05
        ),
        Expectation("merged minus local", "the local models look poorer than the merge", low=0.03),
        Expectation("merged minus never", "without gossip the merge is much worse", low=0.2),
        Expectation(
            "persistence",
            "share of the evaluations after the first fifth at which the merge beats the locals",
            low=0.95,
        ),
        Expectation("bytes", "the share of all-reduce's bytes", high=0.05),
        Expectation(
            "all-reduce minus merged, mild", "it also holds with mild heterogeneity", high=0.05
        ),
    ),
    tiny={"nodes": 4, "steps": 40},
    full=FULL,
)
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
    peers: Positive = 0.4,
) -> Findings:
    """Sparse random gossip and one merge against all-reduce, and against never talking.

    ``alpha`` is the Dirichlet heterogeneity, ``peers`` the links per node and round. All-reduce
    averages gradients at every step. The mild case has ten times ``alpha``. What independent first
    models change is reported; nothing is expected of it.

    Args:
        lab: What runs the experiment and keeps its figures.
        seed: Seed of this repetition.
        task: Task of the runs.
        model: Model of the runs.
        nodes: Nodes of the runs.
        steps: Steps of a run.
        local_steps: Steps between two communication steps.
        alpha: Heterogeneity of the data (Dirichlet).
        peers: Nodes that a node receives from per round.
    """
    shared = {"task": task, "model": model, "nodes": nodes, "steps": steps, "seed": seed}
    uneven = f"dirichlet(alpha={alpha})"
    gossip = {"local_steps": local_steps, "topology": f"random_neighbors(r={peers})"}
    sparse = {**shared, **gossip, "communication": "constant(final_merge=true)"}
    central = {**shared, "algorithm": "allreduce"}
    runs = {
        "all-reduce": lab.run("all-reduce", split=uneven, **central),
        "sparse gossip": lab.run("sparse gossip", split=uneven, **sparse),
        "never": lab.run(
            "never", split=uneven, **shared, local_steps=local_steps, topology="ring",
            communication="none(final_merge=true)",
        ),
    }  # fmt: skip
    mild = f"dirichlet(alpha={10 * alpha})"
    even = [lab.run(f"mild {k}", split=mild, **v) for k, v in (("a", central), ("g", sparse))]
    apart = lab.run("independent", split=uneven, init="independent", **sparse)
    merged = {name: accuracy(run) for name, run in runs.items()}
    local = runs["sparse gossip"].summary["before_merge"]["accuracy/local_mean"]
    figures = {
        "all-reduce minus merged": merged["all-reduce"] - merged["sparse gossip"],
        "merged minus local": merged["sparse gossip"] - local,
        "merged minus never": merged["sparse gossip"] - merged["never"],
        "persistence": persistence(runs["sparse gossip"]),
        "bytes": runs["sparse gossip"].summary["counters"]["comm/relative"],
        "all-reduce minus merged, mild": accuracy(even[0]) - accuracy(even[1]),
        "merged minus independent": merged["sparse gossip"] - accuracy(apart),
    }
    curves = [series(run, name, "accuracy/merged") for name, run in runs.items()]
    curves.append(series(runs["sparse gossip"], "sparse gossip, local", "accuracy/local_mean"))
    panel = Panel("What the average of all models could do", "step", "accuracy", curves)
    return Findings(figures, [panel])


def accuracy(run: Any) -> float:
    """Return the test accuracy of a run's merged model."""
    return float(run.summary["final"]["accuracy/merged"])


def series(run: Any, label: str, key: str) -> Curve:
    """Return a logged number over steps; of a step that ends in a merge, the one before it.

    Args:
        run: A run of the claim.
        label: Name of the curve.
        key: Key of the number.
    """
    found: dict[int, float] = {}
    for row in run.rows:
        if row.get(key) is not None:
            found.setdefault(row["step"], row[key])
    return Curve(label, list(map(float, found)), list(found.values()))


def persistence(run: Any) -> float:
    """Return the share of evaluations after the first fifth where the merge beats the locals."""
    merged, local = (series(run, "", f"accuracy/{what}") for what in ("merged", "local_mean"))
    points = zip(merged.x, merged.y, local.y, strict=True)
    better = [average >= own for step, average, own in points if step >= merged.x[-1] / 5]
    return sum(better) / len(better)
