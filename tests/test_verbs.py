"""What a block does when an algorithm asks: decide, begin, combine; and what a run is made of."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from support import advance, tiny_block, tiny_setup, trained
from torch import Tensor
from torch.nn import functional as F

from decentral import ConfigError, RunError
from decentral.exchange.codec.base import RngContext, innermost
from decentral.loop import analysis
from decentral.loop.analysis import Analysis
from decentral.loop.block import Block
from decentral.loop.feedback import SKETCH
from decentral.loop.models import RefuseBroadcasts, _NoDraws
from decentral.network import RoundAction
from decentral.traits import CodecTraits, traits_of

#: Every node takes the mean of all, at every step.
TALK: dict[str, Any] = {
    "nodes": 4, "topology": "complete", "communication": "constant", "local_steps": 1,
    "dtype": "float64",
}  # fmt: skip
#: A model whose statistics change with every forward pass.
NORMED = {"task": "digits", "model": "cnn(channels=[1], norm=batch)"}


def planned(block: Block) -> RoundAction:
    """Return what is sent after the next step."""
    action = block.decide()
    assert action is not None
    return action


# --- decide ---------------------------------------------------------------------------------------


def test_where_nothing_is_sent_the_intensity_is_zero() -> None:
    block = tiny_block(**TALK | {"communication": "late(start=50%, intensity=0)"})
    assert block.decide() is None
    assert block.intensity == 0.0
    advance(block, 15)
    assert planned(block).intensity == block.intensity > 0


# --- begin ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "leaves"),
    [
        ({}, True),
        (NORMED, False),
        (NORMED | {"gossip_buffers": False}, True),
        ({"gossip_buffers": False}, True),
        ({"on_nonfinite": "quarantine"}, False),
        ({"codec": "top_k(0.5)"}, False),
    ],
    ids=["plain", "statistics", "statistics stay", "none to stay", "quarantine", "coded"],
)
def test_rows_travel_under_the_gradient_unless_they_may_change(
    settings: dict[str, Any], leaves: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    codec = "choco(codec=top_k(0.5), step=0.1)" if "codec" in settings else "none"
    block = tiny_block(**TALK | settings | {"codec": codec})
    left: list[Any] = []
    monkeypatch.setattr(block.exchange, "begin", lambda *sent: left.append(sent))
    action = planned(block)
    block.begin(action)
    assert bool(left) == leaves
    if leaves:
        assert left[0][0].data_ptr() == block.sent.data_ptr()
        assert left[0][1] is action.mixing


def test_a_row_that_is_not_finite_does_not_leave() -> None:
    block = tiny_block(**TALK)
    action = planned(block)
    block.rows[2, 0] = torch.nan
    with pytest.raises(RunError, match="node 2 became NaN or infinite at step 1"):
        block.begin(action)


# --- combine --------------------------------------------------------------------------------------


def test_a_node_found_sick_at_a_gossip_is_left_out_of_its_weights() -> None:
    """The plan was made before: weights of a node that is now zero would shrink the others."""
    block = tiny_block(**TALK | {"on_nonfinite": "quarantine"})
    action = planned(block)
    block.rows.fill_(1.0)
    block.rows[2, 0] = torch.inf
    block.combine(action)
    assert block.quarantined == {2}
    torch.testing.assert_close(block.rows[[0, 1, 3]], torch.ones_like(block.rows[:3]))
    assert not block.rows[2].any()


def test_a_node_found_sick_at_a_merge_leaves_a_merge() -> None:
    """What was planned stays: only a gossip has weights that must be drawn anew."""
    block = tiny_block(**TALK | {"on_nonfinite": "quarantine"})
    block.rows[:] = torch.arange(4.0)[:, None]
    block.rows[2, 0] = torch.nan
    block.combine(RoundAction(1.0))
    mean = (0 + 1 + 3) / 3
    torch.testing.assert_close(
        block.rows[[0, 1, 3]], torch.full_like(block.rows[:3], mean)
    )
    assert block.stats.messages == 2 * (3 - 1), "one global average of three"


def test_an_algorithm_that_never_asks_for_a_gradient_is_refused_after_a_step() -> None:
    def idle(block: Block, action: RoundAction | None) -> None:
        block.adapt()

    with pytest.raises(ConfigError, match="gradient"):
        trained(tiny_block(algorithm=idle))


def test_what_stays_in_one_process_is_not_packed_for_a_wire() -> None:
    block = tiny_block(**TALK | {"codec": "choco(codec=top_k(0.5), step=0.1)"})
    assert traits_of(innermost(block.setup.codec), CodecTraits).wire is not None
    draw = RngContext(0, "model", 0, block.hosted)
    channels, rows = block.channels, block.sent
    assert channels._message_buffer(rows, rows, "model", draw) is None
    channels.exchange = SimpleNamespace(workers=2)  # type: ignore[assignment]
    buffer = channels._message_buffer(rows, rows, "model", draw)
    assert buffer is not None
    assert buffer[0].dtype == torch.uint8


# --- what a run is made of ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scale", "factor"), [("none", 1.0), ("sqrt", 2.0), ("linear", 4.0)]
)
def test_the_rate_follows_the_batch_only_where_asked(scale: str, factor: float) -> None:
    batch = f"stages(sizes=[8, 32], at=[50%], scale_lr='{scale}')"
    setup = tiny_setup(batch=batch, learning_rate="constant(lr=0.5)", steps=20)
    start = setup.timeline.progress(0, 0, 1)
    late = setup.timeline.progress(15, 0, 1)
    assert setup.rate(start) == 0.5
    assert setup.rate(late) == 0.5 * factor


def test_samples_that_are_drawn_anew_are_counted_as_expected() -> None:
    setup = tiny_setup(sampling="resample", nodes=3)
    assert setup.samples_held.tolist() == pytest.approx([50.0, 50.0, 50.0], abs=1)


def test_an_optimizer_that_cannot_train_rows_is_refused_before_the_run() -> None:
    with pytest.raises(ConfigError, match="cannot train rows of this model"):
        tiny_setup(optimizer="torch.optim.SparseAdam")


def test_a_sketch_has_signs_of_one_and_keeps_distances() -> None:
    block = tiny_block(nodes=8, init="independent", model="mlp(hidden=[64])")
    sketch = block.sketch
    assert sketch.sign.unique().tolist() == [-1.0, 1.0]
    assert len(sketch.bucket.unique()) == SKETCH
    x = block.x.double()
    ratio = torch.pdist(sketch(block.rows)).square() / torch.pdist(x).square()
    assert ratio.mean().item() == pytest.approx(1.0, abs=0.15)


def test_without_a_second_derivative_the_analysis_says_why(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refused(snapshot: Any, *, samples: int) -> dict[str, float]:
        assert samples == 3
        raise ConfigError("no second derivative.")

    monkeypatch.setattr(analysis, "curvature", refused)
    asked: list[str] = []
    of = SimpleNamespace(
        _begin=asked.append, setup=SimpleNamespace(activation_memory=0), nodes=[0],
        train=[0, 1, 2], snapshot=None,
    )  # fmt: skip
    found = Analysis._curvature(of)  # type: ignore[arg-type]
    assert found == {"samples": 0, "reason": "no second derivative."}
    assert asked == ["curvature"]


def test_a_model_without_memory_is_not_filled_and_keeps_its_tensors() -> None:
    with torch.device("meta"), _NoDraws():
        weight = torch.empty(3, 2)
        assert torch.nn.init.normal_(weight, 0.0, 1.0) is weight
        assert torch.nn.init.ones_(tensor=weight) is weight
        assert torch.cat([weight, weight]).shape == (6, 2)


# --- a loss and its shapes ------------------------------------------------------------------------


def squared(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - targets).square().mean()


@pytest.mark.parametrize("loss", [squared, F.mse_loss, F.huber_loss])
@pytest.mark.parametrize("flat", [0, 1])
def test_a_loss_that_pairs_every_output_with_every_target_is_refused(
    loss: Any, flat: int
) -> None:
    given = [torch.zeros(3, 1), torch.zeros(3, 1)]
    given[flat] = torch.zeros(3)
    with (
        RefuseBroadcasts(*given),
        pytest.raises(ConfigError, match="each with each"),
    ):
        loss(*given)


def test_other_shapes_and_other_tensors_are_none_of_its_concern() -> None:
    outputs, targets = torch.zeros(3, 1), torch.ones(3)
    with RefuseBroadcasts(outputs, targets):
        assert squared(outputs, targets[:, None]).item() == 1.0
        assert (outputs + torch.ones(3)).shape == (3, 3), "a mask of the user's, say"
        assert (outputs * 2).shape == (3, 1)
