"""An outer optimizer without a global average."""

from __future__ import annotations

from decentral.algorithms import Block, Kept
from decentral.network import Act
from decentral.registry import NonNegative, Positive, Share, plugin


@plugin(
    "algorithm",
    communicates="rounds",
    guarantees=("single_node_is_plain",),
    state={"anchor": Kept(sent=True, begins="model"), "momentum": Kept()},
    identity={"outer_lr": 1.0, "outer_momentum": 0.0},
    refuses={
        "unbalanced": "use topology random_matchings",
        "robust": "leave aggregation out",
    },
    defaults={"topology": "random_matchings", "communication": "constant"},
)
def noloco(
    block: Block,
    act: Act | None,
    *,
    outer_lr: Positive = 0.7,
    outer_momentum: Share = 0.5,
    pull: NonNegative = 1.0,
) -> None:
    """Local steps, then pairs: m_i <- b m_i + a mean(x - z) - c (z_i - mean z), z_i <- z_i + m_i.

    Like DiLoCo without an all-reduce; the last term pulls the pair together. Two rows a message.
    (Kolehmainen et al., "NoLoCo: no-all-reduce low communication training", 2025.)
    """
    block.gradient()
    block.adapt()
    if act is None:
        return
    x, z, m = block.x, block.state["anchor"], block.state["momentum"]
    own = z.clone()
    block.combine(act)
    # z_i + m_i, written so that a = 1 and b = 0 change no bit of a lonely x.
    x.add_(x - z, alpha=outer_lr - 1).add_(own - z, alpha=1 - pull).add_(m, alpha=outer_momentum)
    m.copy_(x - own)
    z.copy_(x)
