"""Second order: the Hessian's top eigenvalue and trace, Fisher information block by
block.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from math import prod

import numpy as np
import torch
from torch import Tensor

from decentral import rng
from decentral.errors import ConfigError
from decentral.gradients.autograd import plain_attention
from decentral.metrics.base import Forward, Snapshot, judge_models
from decentral.optim.blocks import block_of
from decentral.records import Record
from decentral.registry import Count, plugin
from decentral.tasks.base import Samples
from decentral.tasks.samples import is_whole

#: Hessian times one vector per row: [n, K] -> [n, K].
Product = Callable[[Tensor], Tensor]


_CURVATURE = (
    Record(
        "curvature/*_local_mean", "Mean curvature of the training loss at the local models",
        moment="before_merge",
    ),
    Record("curvature/*_merged", "Curvature of the training loss at the average of all models"),
)  # fmt: skip


@plugin("metric", records=_CURVATURE)
def curvature(
    snapshot: Snapshot,
    *,
    samples: Count = 512,
    iterations: Count = 30,
    probes: Count = 10,
) -> dict[str, float]:
    """Top eigenvalue (largest in magnitude) and trace of the Hessian of the
    training loss.

    Of the local models, mean over those that are evaluated, and of their average;
    on the first ``samples`` of the training set, the model in evaluation mode.
    Power iteration v <- H v / |H v| and Hutchinson's mean of z^T H z over
    ``probes`` signs z, H v by double backward. One evaluation takes ``iterations``
    + ``probes`` of them per model, so set ``eval_every``.

    Args:
        snapshot: The models as they are, and how to evaluate them.
        samples: Training samples that the loss is taken on.
        iterations: Steps of the power iteration.
        probes: Random signs of the estimate of the trace.
    """
    train = snapshot.task.splits[0]
    chosen = train.subset(torch.arange(min(samples, len(train))))
    chosen = chosen.to(snapshot.rows.device, snapshot.rows.dtype)
    row, integers = snapshot.calibrated
    local = _measure(snapshot, *snapshot.chosen, chosen, iterations, probes)
    merged = _measure(snapshot, row.unsqueeze(0), integers, chosen, iterations, probes)
    top, trace = (snapshot.exchange.gather(values).mean().item() for values in local)
    return {
        "curvature/top_local_mean": top,
        "curvature/trace_local_mean": trace,
        "curvature/top_merged": merged[0].item(),
        "curvature/trace_merged": merged[1].item(),
    }


def _measure(
    snapshot: Snapshot,
    rows: Tensor,
    integers: dict[str, Tensor],
    samples: Samples,
    iterations: int,
    probes: int,
) -> tuple[Tensor, Tensor]:
    """Return the top eigenvalues and the traces of the rows' Hessians, float64 [n]
    each.
    """
    if not len(rows):
        return rows.new_zeros(0).double(), rows.new_zeros(0).double()
    wide = snapshot.layout.trainable_view(rows).shape[1]
    product = hessian(snapshot.forward, snapshot.task.loss, rows, integers, samples, wide)
    column, place = torch.arange(wide).numpy(), torch.arange(probes).numpy()[:, None]
    # The same start for all models and evaluations: differences are theirs, not the
    # draw's.
    start = torch.from_numpy(rng.normal(0, "curvature/start", column)).to(rows)
    top = top_eigenvalue(product, start.expand(len(rows), -1), iterations)
    positive = torch.from_numpy(rng.uniform(0, "curvature/probe", place, column) < 0.5)
    probe = 2.0 * positive.to(rows) - 1.0
    quadratic = [(z * product(z.expand(len(rows), -1))).sum(1).double() for z in probe]
    return top, torch.stack(quadratic).mean(0)


def hessian(
    forward: Forward,
    loss: Callable[[Tensor, Tensor], Tensor],
    rows: Tensor,
    integers: dict[str, Tensor],
    samples: Samples,
    trainable: int,
) -> Product:
    """Return v -> H v for the loss of every row on the same samples, one Hessian
    per row.

    Args:
        forward: Runs rows [n, P] on the same inputs.
        loss: The task's loss.
        rows: The models, [n, P].
        integers: Integer buffers by name, [n, ...].
        samples: The samples.
        trainable: Parameters at the start of a row.
    """
    leaf = rows[:, :trainable].detach().clone().requires_grad_()
    with torch.enable_grad(), plain_attention():
        # Buffers are part of the forward pass, but nothing is differentiated by
        # them.
        whole = torch.cat([leaf, rows[:, trainable:].detach()], dim=1)
        inputs, targets = samples.take(torch.arange(len(samples)))
        losses = judge_models(loss, forward(whole, integers, inputs), targets)
        with second_derivative():
            # Every row's loss depends on its own parameters only: one sum gives all
            # gradients, and the second pass all products.
            (slope,) = torch.autograd.grad(losses.sum(), leaf, create_graph=True)

    def product(vectors: Tensor) -> Tensor:
        if not slope.requires_grad:  # a linear loss has no curvature
            return torch.zeros_like(vectors)
        with second_derivative():
            (found,) = torch.autograd.grad(slope, leaf, vectors, retain_graph=True)
        return found

    return product


@contextmanager
def second_derivative() -> Generator[None]:
    """Say in one line where torch has no second derivative of a layer or a loss, as
    of CTC.
    """
    try:
        yield
    except RuntimeError as error:
        said = str(error).strip().splitlines()[0][:120]
        raise ConfigError(
            f"curvature needs the second derivative of the loss, which torch cannot take ({said}); "
            "leave it out of metrics."
        ) from error


def top_eigenvalue(product: Product, start: Tensor, iterations: int) -> Tensor:
    """Return the eigenvalue of largest magnitude per row, float64 [n], by power
    iteration.

    Args:
        product: v -> H v for every row.
        start: First vectors, [n, k].
        iterations: Steps of the power iteration.
    """
    vector = start / start.norm(dim=1, keepdim=True)
    value = vector.new_zeros(len(vector))
    for _ in range(iterations):
        moved = product(vector)
        value = (vector * moved).sum(1)
        # Where the loss is flat the vector becomes 0, and with it the value.
        vector = moved / moved.norm(dim=1, keepdim=True).clamp_min(1e-30)
    return value.double()


#: Samples that are looked at: one backward pass for each.
SAMPLES = 32


_BLOCK = Record(
    "sharpness/*", "Mean diagonal Fisher information of a block of the average model"
)


@plugin("metric", records=(_BLOCK,))
def sharpness(snapshot: Snapshot) -> dict[str, float]:
    """Mean diagonal Fisher information of the average model, block by block:
    ``sharpness/qk``, ...

    S(block) = 1/|block| sum_k sum_s g_sk^2 / predictions, with g_s the gradient of
    a test sample's summed cross-entropy against labels drawn from the model's own
    predictions; with the true labels it would be another quantity.
    ``decentral show blocks`` lists the blocks; parameters of no known block are
    ``sharpness/unknown``. Tasks without classes have none (Wang et al., "The
    sharpness disparity principle in transformers", 2025).
    """
    if not is_whole(snapshot.samples.targets):
        return {}
    fisher = _diagonal(snapshot)
    sums: dict[str, float] = {}
    sizes: dict[str, int] = {}
    for entry in snapshot.layout.parameters:
        block = block_of(entry.name) or "unknown"
        sums[block] = sums.get(block, 0.0) + fisher[entry.start : entry.stop].sum().item()
        sizes[block] = sizes.get(block, 0) + prod(entry.shape)
    return {f"sharpness/{block}": total / sizes[block] for block, total in sums.items()}


def _diagonal(snapshot: Snapshot) -> Tensor:
    """Return the diagonal of the Fisher information of the average model, [P]."""
    row, integers = snapshot.calibrated
    row = row.detach().clone().requires_grad_()
    total, predictions = torch.zeros_like(row), 0
    for index in range(min(SAMPLES, len(snapshot.samples))):
        sample, _ = snapshot.samples.take(torch.tensor([index]))
        with torch.enable_grad():
            outputs = snapshot.forward(row.unsqueeze(0), integers, sample)
            scores = outputs.reshape(-1, outputs.shape[-1]).log_softmax(-1)
            drawn = draw_labels(scores.detach(), "sharpness", index)
            (grad,) = torch.autograd.grad(-scores.gather(1, drawn).sum(), row)
        total += grad.square()
        predictions += len(scores)
    return total / predictions


def draw_labels(scores: Tensor, purpose: str, sample: int) -> Tensor:
    """Draw a label for each prediction from its own probabilities, [k, 1].

    Args:
        scores: Logarithms of the probabilities, [k, classes].
        purpose: What the draws are for.
        sample: Number of the sample.
    """
    draws = rng.uniform(0, purpose, sample, np.arange(len(scores)))
    level = torch.from_numpy(draws).to(scores.device).unsqueeze(1)
    below = scores.double().exp().cumsum(1) < level
    return below.sum(1, keepdim=True).clamp_max(scores.shape[1] - 1)
