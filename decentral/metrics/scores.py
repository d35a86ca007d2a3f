"""Scores of the models and of their average, and how far apart and how large they
are.
"""

from __future__ import annotations

from dataclasses import replace
from math import log
from typing import Any

import torch
from torch import Tensor

from decentral.gradients.perturb import ascend, smooth_labels
from decentral.metrics.base import Snapshot, by_role, judge_models, score
from decentral.pytree import tree_at
from decentral.records import LOSSES, Panel, Record
from decentral.records import scores as score_records
from decentral.registry import Count, Positive, Share, plugin
from decentral.tasks.base import Task

# --- scores -----------------------------------------------------------------------


@plugin(
    "metric",
    records=score_records("accuracy", "test accuracy", unit="%", better="higher"),
)
def accuracy(snapshot: Snapshot) -> dict[str, float]:
    """Share of test samples that the local models, and their average, classify
    correctly.
    """
    local, merged = snapshot.local.accuracy, snapshot.merged.accuracy
    if local is None or merged is None:
        return {}
    return by_role("accuracy", local, merged)


#: The losses of all nodes have one figure with that of training; their range is no
#: part of it.
_SCORES = [
    replace(one, panel=LOSSES, tables=(), draw="none" if one.draw == "band" else "line")
    for one in score_records("loss", "test loss", unit="loss", better="lower")
]
_EXCESS = Record(
    "loss/excess_merged", "Merged test loss above the known optimum", "excess", unit="loss",
    better="lower", draw="none", tables=(),
)  # fmt: skip


@plugin("metric", records=(*_SCORES, _EXCESS))
def loss(snapshot: Snapshot) -> dict[str, float]:
    """Mean test loss of the local models and of their average; excess over a known
    optimum.
    """
    local, merged = snapshot.local.loss, snapshot.merged.loss
    found = by_role("loss", local, merged)
    if snapshot.task.best_loss is not None:
        found["loss/excess_merged"] = merged.item() - snapshot.task.best_loss
    return found


#: Nodes whose scores are told one by one.
_EACH = 64


def _node_record(group: str, **traits: Any) -> Record:
    """Return the record of the scores of single nodes.

    Args:
        group: What is scored.
        traits: Unit and direction.
    """
    panel = Panel(f"Test {group}, node by node", "A line for every node's own model.")
    moment: Any = {"moment": "before_merge", "tables": (), "panel": panel}
    said = f"Test {group} of one node's model"
    return Record(f"{group}/node_*", said, **moment, **traits)


_EVERY_NODE = (
    _node_record("accuracy", unit="%", better="higher"),
    _node_record("loss", unit="loss", better="lower"),
)


@plugin("metric", records=_EVERY_NODE)
def every_node(snapshot: Snapshot) -> dict[str, float]:
    """Test accuracy, else test loss, of every node by itself: of up to 64, spread
    evenly.

    Between the first and the last evaluation it is known of ``eval_nodes`` nodes.
    """
    local = snapshot.local
    name, values = (
        ("loss", local.loss) if local.accuracy is None else ("accuracy", local.accuracy)
    )
    own = torch.tensor(snapshot.ids or snapshot.exchange.hosted, dtype=torch.int64)
    ids = snapshot.exchange.gather(own[snapshot.evaluated]).tolist()
    shown = torch.linspace(0, len(ids) - 1, min(len(ids), _EACH)).round().long()
    return {f"{name}/node_{ids[k]}": values[k].item() for k in shown.tolist()}


# Of the lowest and the highest the losses tell.
_LANGUAGE = [
    one
    for group, text in (
        ("perplexity", "perplexity of the test text"),
        ("bits_per_byte", "bits per byte of the test text"),
    )
    for one in score_records(group, text, unit="", better="lower")
    if one.draw != "band"
]


@plugin("metric", records=tuple(_LANGUAGE))
def perplexity(snapshot: Snapshot) -> dict[str, float]:
    """Perplexity of a language model, exp of its test loss, and bits per byte of
    text.

    Of the local models it is the mean of theirs. Bits per byte, loss / log 2 times
    tokens per byte, compares models of different tokens.
    """
    if (size := snapshot.task.token_bytes) is None:
        return {}
    local, merged = snapshot.local.loss.double(), snapshot.merged.loss.double()
    bits = 1 / (log(2) * size)
    return {
        "perplexity/local_mean": local.exp().mean().item(),
        "perplexity/merged": merged.exp().item(),
        "bits_per_byte/local_mean": bits * local.mean().item(),
        "bits_per_byte/merged": bits * merged.item(),
    }


_SCORE = Record(
    "score/*_merged", "Score of the task's own, for the average of all models"
)


@plugin("metric", records=(_SCORE,))
def scores(snapshot: Snapshot) -> dict[str, float]:
    """Mean of every further score that the task defines, for the average of all
    models.
    """
    found: dict[str, float] = {}
    for name, judge in snapshot.task.scores.items():
        task = replace(snapshot.task, accuracy=judge)
        one = snapshot.score_merged(task, snapshot.samples)
        assert one.accuracy is not None
        found[f"score/{name}_merged"] = one.accuracy.item()
    return found


@plugin(
    "metric",
    records=score_records("train_loss", "training loss", unit="loss", better="lower"),
)
def train_loss(
    snapshot: Snapshot, *, samples: Count = 1024, smoothing: Share = 0.0
) -> dict[str, float]:
    """Training loss of the local models and of their average, in evaluation mode.

    Args:
        snapshot: The models as they are, and how to evaluate them.
        samples: How many of the first training samples it is taken on.
        smoothing: Share of the labels that is spread over all classes.
    """
    classes, train = len(snapshot.task.classes or ()), snapshot.task.splits[0]
    if snapshot.task.objective is not None or (smoothing and not classes):
        return {}
    first = train.subset(torch.arange(min(samples, len(train))))
    some = first.to(snapshot.rows.device, snapshot.rows.dtype)
    task = snapshot.task
    if smoothing:
        # What is asked of a class means nothing of probabilities.
        task = replace(task, accuracy=lambda outputs, targets: targets[..., 0])
        asked = some.targets[None], smoothing, classes, snapshot.rows.dtype
        some = replace(some, targets=smooth_labels(*asked)[0])
    local = score(task, snapshot.forward, *snapshot.chosen, some, snapshot.chunk)
    merged = snapshot.score_merged(task, some)
    return by_role("train_loss", snapshot.exchange.gather(local.loss), merged.loss)


@plugin(
    "metric",
    records=score_records(
        "robust_accuracy", "accuracy on attacked test inputs", unit="%", better="higher"
    ),
)
def robust_accuracy(
    snapshot: Snapshot,
    *,
    eps: Positive = 0.1,
    steps: Count = 10,
    samples: Count = 256,
) -> dict[str, float]:
    """Share of test samples that local models, and their average, classify correctly
    after each input was moved against the model.

    The attack is that of ``adversarial``: projected gradient ascent of the loss, by
    ``eps`` / 4 a step, from the clean input; a number stays within the range of those
    of the test. Nothing for tasks of tokens or without accuracy. (Madry et al.,
    "Towards deep learning models resistant to adversarial attacks", ICLR 2018.)

    Args:
        snapshot: The models as they are, and how to evaluate them.
        eps: Largest change of one number of an input.
        steps: Steps of the attack.
        samples: How many of the first test samples are attacked.
    """
    task, judge = snapshot.task, snapshot.task.accuracy
    inputs, targets = snapshot.samples.take(
        torch.arange(min(samples, len(snapshot.samples)))
    )
    if judge is None or not isinstance(inputs, Tensor) or not inputs.is_floating_point():
        return {}
    low, high = inputs.aminmax()

    def attacked(row: Tensor, integers: dict[str, Tensor]) -> float:
        def slope(moved: Tensor) -> Tensor:
            leaf = moved.detach().requires_grad_()
            with torch.enable_grad():
                loss = task.loss(
                    tree_at(snapshot.forward(row, integers, leaf), 0), targets
                )
            # Of a model that is the same everywhere no input is harder.
            return torch.autograd.grad(loss, leaf)[0] if loss.requires_grad else 0 * leaf

        moved = ascend(
            inputs, torch.zeros_like(inputs), eps, (low.item(), high.item()), slope, steps,
            eps / 4,
        )  # fmt: skip
        with torch.no_grad():
            found = judge_models(judge, snapshot.forward(row, integers, moved), targets)
        return found.double().mean().item()

    def share(rows: Tensor, integers: dict[str, Tensor]) -> Tensor:
        # Every model has inputs of its own.
        found = [
            attacked(rows[k : k + 1], {n: v[k : k + 1] for n, v in integers.items()})
            for k in range(len(rows))
        ]
        return torch.tensor(found, dtype=torch.float64)

    row, integers = snapshot.calibrated
    local, merged = share(*snapshot.chosen), share(row.unsqueeze(0), integers)
    return by_role("robust_accuracy", snapshot.exchange.gather(local), merged)


_GAP = Record(
    "mergeability/gap", "How much better the average is than the models it averages",
    "mergeability gap", better="higher", draw="none", tables=(), moment="before_merge",
)  # fmt: skip
_RATIO = Record(
    "mergeability/ratio", "Score of the average over the mean score of the local models",
    "mergeability ratio", draw="none", tables=(), moment="before_merge",
)  # fmt: skip


@plugin("metric", records=(_GAP, _RATIO))
def mergeability(snapshot: Snapshot) -> dict[str, float]:
    """How much better the average is than the models it averages.

    ``gap`` is the merged minus the local mean accuracy (for tasks without accuracy:
    local minus merged loss, so that positive is good in both); ``ratio`` is merged
    over local.
    """
    local, merged = snapshot.local, snapshot.merged
    if local.accuracy is not None and merged.accuracy is not None:
        before, after = local.accuracy.mean().item(), merged.accuracy.item()
        gap = after - before
    else:
        before, after = local.loss.mean().item(), merged.loss.item()
        gap = before - after
    found = {"mergeability/gap": gap}
    return found | {"mergeability/ratio": after / before} if before else found


# --- distances and norms ----------------------------------------------------------


_DISTANCE = Record(
    "consensus/distance", "Root mean square distance of the models from their average",
    "consensus distance", tables=(), moment="before_merge",
    panel=Panel(
        "Consensus distance", "How far the nodes' parameters are from their average.",
        absent="No distance between nodes was logged.", log=True, leads=True,
    ),
)  # fmt: skip


@plugin("metric", records=(_DISTANCE,))
def consensus(snapshot: Snapshot) -> dict[str, float]:
    """Root mean square distance of the models from their average, trainable columns
    only.

    sqrt((1/N) sum_i |x_i - x|^2), in the units of the parameters.
    """
    mean = snapshot.layout.trainable_view(snapshot.merged_row.unsqueeze(0))
    rows = snapshot.layout.trainable_view(snapshot.rows)
    squared = snapshot.per_node((rows - mean).square().sum(1))
    return {"consensus/distance": squared.mean().sqrt().item()}


_NORM = Record(
    "gradient/norm", "Mean norm of the last mini-batch gradients", "gradient norm", draw="none",
    tables=(), moment="before_merge",
)  # fmt: skip


@plugin("metric", records=(_NORM,))
def gradient(snapshot: Snapshot) -> dict[str, float]:
    """Mean norm of the last mini-batch gradients as computed, (1/N) sum_i |g_i|."""
    norms = snapshot.layout.trainable_view(snapshot.grads).norm(dim=1)
    return {"gradient/norm": snapshot.per_node(norms).mean().item()}


_TEXTS = {
    "norm": "Mean norm of the rows of the first weight matrix",
    "first": "Squared norm of the first weight matrix",
    "second": "Squared norm of the second weight matrix",
    "top_share": "Share of the top singular value in the first weight matrix",
    "alignment": "Alignment of the neurons with the direction of regression",
}
_NEURONS = tuple(
    Record(f"neurons/{name}", text, moment="before_merge")
    for name, text in _TEXTS.items()
)


@plugin("metric", records=_NEURONS)
def neurons(snapshot: Snapshot) -> dict[str, float]:
    """Norm and agreement of the rows w_j of the first weight matrix W, mean over
    the nodes.

    ``norm`` is mean_j |w_j|; ``first`` and ``second`` are |W|^2 and |a|^2, the
    squares of the first and the second weight matrix; ``top_share`` is s_1^2 /
    sum_k s_k^2 with the singular values s of W. Where one number is learned from
    vectors, ``alignment`` is sum_j |w_j| |cos(w_j, t)| / sum_j |w_j| with the
    direction t that linear regression finds on the training samples.
    """
    matrices = _matrices(snapshot)
    if not matrices:
        return {}
    weight = matrices[0]
    norms = weight.norm(dim=2)
    squares = (
        weight.transpose(1, 2) @ weight
        # The smaller of both products has the same eigenvalues, zeros apart.
        if weight.shape[2] <= weight.shape[1]
        else (weight @ weight.transpose(1, 2))
    )
    # Squares of the singular values: cheaper than a decomposition of W itself.
    spectrum = torch.linalg.eigvalsh(squares)
    found = {
        "neurons/norm": norms.mean(1),
        "neurons/top_share": spectrum[:, -1] / spectrum.sum(1).clamp_min(1e-300),
    }
    for name, matrix in zip(("first", "second"), matrices, strict=False):
        found[f"neurons/{name}"] = matrix.square().sum((1, 2))
    direction = _direction(snapshot.task)
    if direction is not None and len(direction) == weight.shape[2]:
        along = (weight @ direction.to(weight.device)).abs().sum(1)
        found["neurons/alignment"] = along / norms.sum(1).clamp_min(1e-300)
    return {key: snapshot.per_node(value).mean().item() for key, value in found.items()}


def _matrices(snapshot: Snapshot) -> list[Tensor]:
    """Return the first two weight matrices of every model, float64 [n, neurons,
    inputs].
    """
    entries = [entry for entry in snapshot.layout.parameters if len(entry.shape) == 2][:2]
    views = snapshot.layout.views(snapshot.rows, entries)
    return [views[entry.name].double() for entry in entries]


def _direction(task: Task) -> Tensor | None:
    """Return the unit vector along which the targets grow, None where that means
    nothing.
    """
    train = task.splits[0]
    inputs, targets = train.inputs, train.targets
    if not isinstance(inputs, Tensor) or not isinstance(targets, Tensor):
        return None
    if inputs.dim() != 2 or not targets.is_floating_point() or targets[0].numel() != 1:
        return None
    slope = torch.linalg.lstsq(
        inputs.double(), targets.double().view(-1, 1)
    ).solution.flatten()
    return slope / slope.norm().clamp_min(1e-300)
