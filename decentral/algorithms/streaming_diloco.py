"""An outer optimizer over local steps, one part of the model at a time."""

from __future__ import annotations

from decentral.algorithms import Block, Kept
from decentral.network import Act
from decentral.registry import Count, Positive, Share, plugin


@plugin(
    "algorithm",
    communicates="rounds",
    guarantees=("single_node_is_plain", "is_local_sgd"),
    state={"anchor": Kept(begins="model"), "momentum": Kept()},
    identity={"outer_lr": 1.0, "outer_momentum": 0.0, "fragments": 1},
    fragments="fragments",
    refuses={"compression": "leave codec out", "mix_state": "leave mix_state out"},
    defaults={"communication": "merges"},
)
def streaming_diloco(
    block: Block,
    act: Act | None,
    *,
    fragments: Count = 4,
    outer_lr: Positive = 0.7,
    outer_momentum: Share = 0.9,
    keep: Share = 0.0,
) -> None:
    """DiLoCo on one of F ``fragments`` per round, in turn: a round sends 1 / F of a model.

    z <- outer step on that part, x <- keep x + (1 - keep) z. At equal bytes it talks F times as
    often. Fragments are F spans of the row rather than layers, and arrive at once: the overlap with
    later steps is not modelled. (Douillard et al., "Streaming DiLoCo with overlapping
    communication", 2025.)
    """
    block.gradient()
    block.adapt()
    if act is None:
        return
    turn, width = block.progress.round % fragments, block.x.shape[1]
    part = slice(turn * width // fragments, (turn + 1) * width // fragments)
    x, z, m = (t[:, part] for t in (block.x, block.state["anchor"], block.state["momentum"]))
    own = x.clone()
    block.combine(act, part)
    moved = z - x
    m.mul_(outer_momentum).add_(moved)
    # z - a (D + b m), written so that a = 1 and b = 0 change no bit of x.
    x.add_(moved, alpha=1 - outer_lr).sub_(m, alpha=outer_lr * outer_momentum)
    z.copy_(x)
    x.lerp_(own, keep)
