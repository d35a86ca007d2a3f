"""Laws of merge rules, and the re-estimation of BatchNorm statistics."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support import example, tiny_block
from torch import nn

from decentral import ConfigError
from decentral.exchange import LocalExchange
from decentral.layout import Layout
from decentral.loop.measure import Evaluator
from decentral.merge import merge_weights
from decentral.merge._calibrate import recalibrate
from decentral.registry import names

every = pytest.mark.parametrize("name", names("merge"))
holdings = st.lists(st.integers(1, 5000), min_size=1, max_size=9)


@every
@given(samples=holdings)
def test_weights_sum_to_one_and_are_not_negative(name: str, samples: list[int]) -> None:
    weights = merge_weights(example("merge", name), torch.tensor(samples))
    assert weights.shape == (len(samples),)
    assert weights.sum().item() == pytest.approx(1.0, rel=1e-12)
    assert weights.min() >= 0


@every
@given(samples=holdings, width=st.integers(1, 40))
def test_equal_inputs_are_unchanged(name: str, samples: list[int], width: int) -> None:
    weights = merge_weights(example("merge", name), torch.tensor(samples))
    row = torch.linspace(-3, 5, width, dtype=torch.float64).exp()
    merged, _ = LocalExchange(len(samples)).mean(row.expand(len(samples), -1).clone(), weights)
    torch.testing.assert_close(merged, row, rtol=1e-14, atol=0)


@every
@given(samples=holdings, draw=st.randoms(use_true_random=False))
def test_the_order_of_nodes_is_irrelevant(name: str, samples: list[int], draw: object) -> None:
    order = list(range(len(samples)))
    draw.shuffle(order)  # type: ignore[attr-defined]
    rows = torch.arange(5 * len(samples), dtype=torch.float64).view(-1, 5).sin()
    held = torch.tensor(samples)
    weights, shuffled = (merge_weights(example("merge", name), h) for h in (held, held[order]))
    torch.testing.assert_close(shuffled, weights[order], rtol=1e-14, atol=0)
    torch.testing.assert_close(shuffled @ rows[order], weights @ rows, rtol=1e-12, atol=1e-14)


@every
@given(samples=st.lists(st.integers(1, 5000), min_size=2, max_size=9), data=st.data())
def test_excluded_nodes_weigh_nothing_and_the_rest_is_as_if_they_were_never_there(
    name: str, samples: list[int], data: st.DataObject
) -> None:
    nodes = range(len(samples))
    gone = frozenset(data.draw(st.sets(st.sampled_from(nodes), max_size=len(samples) - 1)))
    held = torch.tensor(samples)
    weights = merge_weights(example("merge", name), held, gone)
    stay = [node for node in nodes if node not in gone]
    assert (weights[sorted(gone)] == 0).all()
    torch.testing.assert_close(weights[stay], merge_weights(example("merge", name), held[stay]))


@every
def test_nobody_left_to_merge_is_an_error(name: str) -> None:
    with pytest.raises(ConfigError, match="no healthy node"):
        merge_weights(example("merge", name), torch.tensor([3, 4]), frozenset({0, 1}))


@every
@pytest.mark.parametrize("topology", ["star", "ring"])
def test_after_a_global_merge_every_node_holds_the_weighted_average(
    name: str, topology: str
) -> None:
    """Also where the graph is a star: a merge goes past the topology, not through its hub."""
    block = tiny_block(
        nodes=5, topology=topology, merge=name, local_steps=1, steps=2, dtype="float64",
        communication="then_merge(schedule=none, at=1 steps)", split="quantity", init="independent",
    )  # fmt: skip
    held = block.setup.samples_held
    assert len(set(held.tolist())) > 1
    act = block.decide()
    block.gradient()
    block.adapt()
    wanted = merge_weights(block.setup.merge, held) @ block.rows
    assert (block.rows - wanted).abs().max() > 1e-3
    block.combine(act)
    torch.testing.assert_close(block.rows, wanted.expand_as(block.rows), rtol=1e-12, atol=1e-14)


# --- BatchNorm ------------------------------------------------------------------------------------


class Normed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 4)
        self.norm = nn.BatchNorm1d(4)
        self.outer = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.outer(self.norm(self.inner(x)).relu())


@pytest.mark.parametrize("count", [64, 256, 512])
def test_recalibrated_statistics_are_those_of_the_calibration_inputs(count: int) -> None:
    torch.manual_seed(0)
    model, inputs = Normed().double(), torch.randn(count, 3, dtype=torch.float64) * 2 + 1
    model(inputs * 5)  # a template that has seen other data
    layout = Layout.of(model)
    row = torch.zeros(layout.width, dtype=torch.float64)
    layout.pack(model, row)
    row[layout.trainable :] = 77.0  # what an average of statistics may look like
    calibrated, integers = recalibrate(model, layout, row, inputs)

    views = layout.views(calibrated.unsqueeze(0), layout.buffers)
    hidden = model.inner(inputs)
    parts = hidden.split(256)  # every batch counts alike; here they are equally large
    variance = torch.stack([part.var(0) for part in parts]).mean(0)
    torch.testing.assert_close(views["norm.running_mean"][0], hidden.mean(0))
    torch.testing.assert_close(views["norm.running_var"][0], variance)
    assert integers["norm.num_batches_tracked"].tolist() == [len(parts)]
    assert torch.equal(calibrated[: layout.trainable], row[: layout.trainable])


def test_recalibration_leaves_the_template_and_the_row_alone() -> None:
    model = Normed()
    layout = Layout.of(model)
    row = torch.randn(layout.width)
    before = row.clone(), {k: v.clone() for k, v in model.state_dict().items()}
    recalibrate(model, layout, row, torch.randn(32, 3))
    assert torch.equal(row, before[0])
    assert all(torch.equal(value, before[1][key]) for key, value in model.state_dict().items())


def test_a_model_without_batchnorm_is_returned_as_it_is() -> None:
    model = nn.Linear(3, 2)
    layout = Layout.of(model)
    row = torch.randn(layout.width)
    assert recalibrate(model, layout, row, torch.randn(8, 3))[0] is row


def test_the_final_merged_model_of_a_run_carries_recalibrated_statistics() -> None:
    task_settings = {"task": "digits", "model": "cnn(channels=[3], norm=batch)", "steps": 6}
    block = tiny_block(**task_settings, communication="none(final_merge=true)")
    for _ in range(6):
        act = block.decide()
        block.setup.algorithm(block, act)
        block.finish_step()
    evaluator = Evaluator(block)
    state = evaluator.merged_state()
    merged = block.merge_shares().to(block.rows) @ block.rows
    expected, _ = recalibrate(block.setup.model, block.setup.layout, merged, evaluator.calibration)
    named = block.setup.layout.views(expected.unsqueeze(0), block.setup.layout.buffers)
    averaged = block.setup.layout.views(merged.unsqueeze(0), block.setup.layout.buffers)
    assert named
    for name, value in named.items():
        torch.testing.assert_close(state[name], value[0])
        assert not torch.allclose(state[name], averaged[name][0], rtol=1e-3)
