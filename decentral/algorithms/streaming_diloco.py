"""An outer optimizer over local steps, one part of the model at a time."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge

from decentral.algorithms import Block, Kept
from decentral.network import Act
from decentral.registry import Count, Positive, Share, plugin


@plugin(
    "algorithm",
    communicates="rounds",
    guarantees=("single_node_is_plain", "is_local_sgd"),
    state={"anchor": Kept(begins="model"), "momentum": Kept(), "due": Kept(scalar=True)},
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
    overlap: Annotated[int, Ge(0)] = 0,
) -> None:
    """DiLoCo on one of F ``fragments`` per round, in turn: a round sends 1 / F of a model.

    z <- outer step on that part; ``overlap`` steps later, before the next round and in the run at
    the latest, x <- keep x + (1 - keep) z. At equal bytes it talks F times as often. Fragments are
    F spans of the row rather than layers; ``overlap=5, keep=0.5`` hides what travels under five
    steps. (Douillard et al., "Streaming DiLoCo with overlapping communication", 2025.)
    """
    block.gradient()
    block.adapt()
    due, now = block.state["due"], block.progress
    ends = now.step + 1 == now.steps
    if overlap and due.any():
        due.sub_(1).clamp_(min=0)
        if act is not None or ends or not due.any():
            _arrive(block, _span(block, now.round - 1, fragments), keep)
    if act is None:
        return
    part = _span(block, now.round, fragments)
    x, z, m = (t[:, part] for t in (block.x, block.state["anchor"], block.state["momentum"]))
    own = x.clone()
    block.combine(act, part, ahead=overlap > 0)
    moved = z - x
    m.mul_(outer_momentum).add_(moved)
    # z - a (D + b m), written so that a = 1 and b = 0 change no bit of x.
    z.copy_(x.add_(moved, alpha=1 - outer_lr).sub_(m, alpha=outer_lr * outer_momentum))
    x.copy_(own)
    due.fill_(overlap)
    if ends or not overlap:
        _arrive(block, part, keep)


def _span(block: Block, round: int, fragments: int) -> slice:
    """Return the columns whose turn it is."""
    turn, width = round % fragments, block.x.shape[1]
    return slice(turn * width // fragments, (turn + 1) * width // fragments)


def _arrive(block: Block, part: slice, keep: float) -> None:
    """Take in what the outer optimizer has made of a part."""
    block.wait()
    block.state["due"].zero_()
    x, z = block.x[:, part], block.state["anchor"][:, part]
    x.copy_(z.lerp(x, keep))
