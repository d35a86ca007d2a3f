"""Laws of metrics: closed forms on tiny blocks; one number whatever the number of workers."""

from __future__ import annotations

from dataclasses import replace
from math import log, sqrt

import pytest
import torch
from support import blobs, exchanges, together
from torch import Tensor, nn

from decentral.exchange.base import LocalExchange
from decentral.layout import Layout
from decentral.metrics import Snapshot, score
from decentral.registry import find, names
from decentral.tasks import Task
from decentral.tasks.synthetic import Vector, quadratic_loss

NAMES = names("metric")
every = pytest.mark.parametrize("name", NAMES)


def measure(name: str, snapshot: Snapshot) -> dict[str, float]:
    return find("metric", name).target(snapshot)


def linear_forward(rows: Tensor, integers: dict[str, Tensor], inputs: Tensor) -> Tensor:
    """Outputs x W^T of a bias-free linear map whose weight is the row, [n, B, outputs]."""
    weights = rows.view(len(rows), -1, inputs.shape[1])
    return torch.einsum("bi,noi->nbo", inputs, weights)


def same(row: Tensor, integers: dict[str, Tensor]) -> Tensor:
    return row


def snapshot_of(
    task: Task, rows: Tensor, exchange: object = None, **changes: object
) -> Snapshot:
    """Return a snapshot of linear models, all healthy, all evaluated."""
    exchange = exchange or LocalExchange(len(rows))
    everyone = torch.arange(len(rows))
    defaults = {
        "exchange": exchange,
        "layout": Layout.of(nn.Linear(rows.shape[1], 1, bias=False)),
        "task": task,
        "forward": linear_forward,
        "rows": rows,
        "grads": rows.sin(),
        "integers": {},
        "weights": torch.full((len(rows),), 1 / exchange.nodes, dtype=torch.float64),
        "samples": task.splits[2].to(torch.device("cpu"), rows.dtype),
        "calibrate": same,
        "evaluated": everyone,
        "alive": everyone,
    }
    return Snapshot(**{**defaults, **changes})  # type: ignore[arg-type]


def two_halves() -> Snapshot:
    """Two models, each right about one of two classes; their average is right about both."""
    inputs = torch.tensor([[2.0, 0.0], [0.0, 2.0]] * 3, dtype=torch.float64)
    targets = torch.tensor([0, 1] * 3)
    task = Task(
        loss=nn.functional.cross_entropy, train=(inputs, targets), test=(inputs, targets)
    )
    # always says class 0
    first = torch.tensor([[3.0, 3.0], [0.0, 2.0]], dtype=torch.float64)
    # always says class 1
    second = torch.tensor([[2.0, 0.0], [3.0, 3.0]], dtype=torch.float64)
    return snapshot_of(task, torch.stack([first.flatten(), second.flatten()]))


def quadratic_pair() -> Snapshot:
    """Two vectors at +3 and -1 on f(x) = x^2 / 2 per coordinate, in two dimensions."""
    targets = torch.zeros(4, 2, 2, dtype=torch.float64)
    targets[:, 0] = 1.0
    inputs = torch.zeros(4, 1, dtype=torch.float64)
    task = Task(
        loss=quadratic_loss,
        train=(inputs, targets),
        test=(inputs, targets),
        best_loss=0.0,
    )
    rows = torch.tensor([[3.0, 3.0], [-1.0, -1.0]], dtype=torch.float64)

    def forward(rows: Tensor, integers: dict[str, Tensor], inputs: Tensor) -> Tensor:
        return rows.unsqueeze(1).expand(-1, len(inputs), -1)

    return snapshot_of(task, rows, forward=forward, layout=Layout.of(Vector(2)))


def test_accuracy_of_two_halves_and_of_their_average() -> None:
    found = measure("accuracy", two_halves())
    assert found == {
        "accuracy/local_mean": 0.5, "accuracy/local_min": 0.5, "accuracy/local_max": 0.5,
        "accuracy/merged": 1.0,
    }  # fmt: skip


def test_training_loss_is_that_of_the_training_samples() -> None:
    """Not of the test, which is right about what the training samples are not."""
    inputs, right = torch.eye(2, dtype=torch.float64), torch.tensor([0, 1])
    task = Task(
        loss=nn.functional.cross_entropy, train=(inputs, 1 - right), test=(inputs, right)
    )
    rows = torch.tensor([[9.0, 0.0, 0.0, 9.0], [0.0, 0.0, 0.0, 0.0]], dtype=torch.float64)
    found = measure("train_loss", snapshot_of(task, rows))
    assert found["train_loss/local_max"] == pytest.approx(9.0, abs=1e-3)
    assert found["train_loss/local_min"] == pytest.approx(log(2))
    assert found["train_loss/merged"] == pytest.approx(4.5, abs=0.02)
    smoothed = find("metric", "train_loss").target(snapshot_of(task, rows), smoothing=0.2)
    assert smoothed["train_loss/local_max"] == pytest.approx(0.9 * 9.0, abs=1e-3)
    blank, task = torch.zeros(2, 24, dtype=torch.float64), blobs()
    even = find("metric", "train_loss").target(snapshot_of(task, blank), smoothing=0.1)
    assert even["train_loss/merged"] == pytest.approx(log(len(task.classes or ())))


@pytest.mark.parametrize(("eps", "right"), [(0.3, 1.0), (0.6, 0.5), (1.2, 0.0)])
def test_robust_accuracy_is_that_of_inputs_within_reach(eps: float, right: float) -> None:
    """Two points 0.5 and 1 beyond the boundary, in the direction that the model sees."""
    inputs = torch.tensor([[0.5, -3.0], [-1.0, 3.0]], dtype=torch.float64)
    targets = torch.tensor([0, 1])
    task = Task(
        loss=nn.functional.cross_entropy, train=(inputs, targets), test=(inputs, targets)
    )
    row = torch.tensor([[1.0, 0.0, -1.0, 0.0]], dtype=torch.float64)
    found = find("metric", "robust_accuracy").target(snapshot_of(task, row), eps=eps)
    assert {*found.values()} == {right}
    assert measure("accuracy", snapshot_of(task, row))["accuracy/merged"] == 1.0


def test_inputs_that_cannot_move_have_no_robust_accuracy() -> None:
    assert measure("robust_accuracy", quadratic_pair()) == {}


def test_mergeability_is_what_the_average_gains() -> None:
    assert measure("mergeability", two_halves()) == {
        "mergeability/gap": 0.5, "mergeability/ratio": 2.0,
    }  # fmt: skip


def test_mergeability_without_accuracy_compares_losses_and_gains_are_positive() -> None:
    """Losses 9 and 1 locally, 1 for the average at 1: gap 5 - 1."""
    found = measure("mergeability", quadratic_pair())
    assert found["mergeability/gap"] == pytest.approx(4.0)


def test_loss_of_two_vectors_and_of_their_average() -> None:
    found = measure("loss", quadratic_pair())
    assert found == pytest.approx({
        "loss/local_mean": 5.0, "loss/local_min": 1.0, "loss/local_max": 9.0, "loss/merged": 1.0,
        "loss/excess_merged": 1.0,
    })  # fmt: skip


def test_consensus_is_the_root_mean_square_distance_from_the_average() -> None:
    found = measure("consensus", quadratic_pair())
    assert found["consensus/distance"] == pytest.approx(sqrt(8.0))


def test_gradient_is_the_mean_norm() -> None:
    snapshot = quadratic_pair()
    snapshot.grads = torch.tensor([[3.0, 4.0], [0.0, 1.0]], dtype=torch.float64)
    assert measure("gradient", snapshot)["gradient/norm"] == pytest.approx(3.0)


def test_only_trainable_columns_count() -> None:
    class Buffered(Vector):
        def __init__(self) -> None:
            super().__init__(2)
            self.register_buffer("mean", torch.zeros(1))

    layout = Layout.of(Buffered())
    snapshot = quadratic_pair()
    wide = torch.zeros(2, layout.width, dtype=torch.float64)
    wide[:, :2] = snapshot.rows
    wide[0, -1] = 1e6
    for name in ("consensus", "gradient"):
        narrow = measure(name, snapshot)
        changed = snapshot_of(
            snapshot.task, wide, layout=layout, forward=snapshot.forward, grads=wide.sin()
        )
        changed.grads[:, :2] = snapshot.grads
        assert measure(name, changed) == pytest.approx(narrow)


@every
def test_a_metric_changes_nothing_and_repeats_itself(name: str) -> None:
    rows = torch.linspace(-1, 1, 5 * 24, dtype=torch.float64).view(5, 24).tan()
    task = replace(
        blobs(), token_bytes=2.0
    )  # as if of text, which some metrics are about
    snapshot = snapshot_of(task, rows.clone())
    first = measure(name, snapshot)
    assert first
    assert torch.equal(snapshot.rows, rows)
    assert measure(name, snapshot_of(task, rows)) == first


@every
@pytest.mark.parametrize("sizes", [[3, 2], [1, 4], [2, 1, 2]])
@pytest.mark.parametrize("sick", [None, 0, 3])
def test_one_worker_and_several_give_the_same_number(
    name: str, sizes: list[int], sick: int | None
) -> None:
    rows = torch.linspace(-1, 1, 5 * 24, dtype=torch.float64).view(5, 24).tan()
    weights = torch.tensor(
        [float(node != sick) for node in range(5)], dtype=torch.float64
    )
    weights /= weights.sum()
    if sick is not None:
        rows[sick] = 0.0

    def part(exchange: object, hosted: range) -> Snapshot:
        healthy = torch.tensor(
            [i for i, node in enumerate(hosted) if node != sick]
        ).long()
        here = slice(hosted.start, hosted.stop)
        return snapshot_of(
            replace(blobs(), token_bytes=2.0), rows[here].clone(), exchange=exchange,
            weights=weights[here], alive=healthy, evaluated=healthy,
        )  # fmt: skip

    whole = measure(name, part(LocalExchange(5), range(5)))
    parts = [part(exchange, exchange.hosted) for exchange in exchanges(sizes)]

    def work(snapshot: Snapshot) -> dict[str, float]:
        # Python 3.11 computes a cached property under one lock for all instances; workers that
        # are threads would wait for each other in it.
        for key in ("local", "merged_row", "merged"):
            vars(snapshot)[key] = vars(Snapshot)[key].func(snapshot)
        return measure(name, snapshot)

    for found in together(work, parts):
        assert found.keys() == whole.keys()
        assert found == pytest.approx(whole, rel=1e-12)


@pytest.mark.parametrize("count", [1, 7, 50])
def test_scores_do_not_depend_on_how_samples_are_chunked(
    count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = blobs()
    samples = (
        task.splits[2].to(torch.device("cpu"), torch.float64).subset(torch.arange(count))
    )
    rows = torch.linspace(-1, 1, 3 * 24, dtype=torch.float64).view(3, 24).tan()
    whole = score(task, linear_forward, rows, {}, samples)
    logits = linear_forward(rows, {}, samples.inputs)
    for row, outputs in enumerate(logits):
        loss = nn.functional.cross_entropy(outputs, samples.targets)
        right = (outputs.argmax(-1) == samples.targets).double().mean()
        assert whole.loss[row].item() == pytest.approx(loss.item(), rel=1e-12)
        assert whole.accuracy is not None
        assert whole.accuracy[row].item() == pytest.approx(right.item())
    monkeypatch.setattr("decentral.metrics.base._SAMPLES", 7)
    monkeypatch.setattr("decentral.metrics.base._ROWS", 2)
    chunked = score(task, linear_forward, rows, {}, samples)
    torch.testing.assert_close(chunked.loss, whole.loss)
