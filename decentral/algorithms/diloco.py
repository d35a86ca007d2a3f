"""An outer optimizer over local steps."""

from __future__ import annotations

from decentral.algorithms import Block, Kept
from decentral.network import Act
from decentral.registry import Positive, Share, plugin


@plugin(
    "algorithm",
    communicates="rounds",
    guarantees=("single_node_is_plain", "is_local_sgd"),
    state={"anchor": Kept(begins="model"), "momentum": Kept()},
    identity={"outer_lr": 1.0, "outer_momentum": 0.0},
    defaults={"communication": "merges"},
)
def diloco(
    block: Block, act: Act | None, *, outer_lr: Positive = 0.7, outer_momentum: Share = 0.9
) -> None:
    """Local steps, then an outer one: D = z - mean x, m <- b m + D, z <- z - a (D + b m).

    z is where the last round ended and every node goes on from. With a graph and the schedule
    ``constant`` the mean is over neighbours. (Douillard et al., "DiLoCo", 2023.)
    """
    block.gradient()
    block.adapt()
    if act is None:
        return
    block.combine(act)
    x, z, m = block.x, block.state["anchor"], block.state["momentum"]
    moved = z - x
    m.mul_(outer_momentum).add_(moved)
    # z - a (D + b m), written so that a = 1 and b = 0 change no bit of x.
    x.add_(moved, alpha=1 - outer_lr).sub_(m, alpha=outer_lr * outer_momentum)
    z.copy_(x)
