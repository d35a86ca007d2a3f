"""Labels: which classes occur, which targets a loss ignores, and samples that hold
no number.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from html import escape
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from decentral.errors import ConfigError, nearest
from decentral.pytree import leaves
from decentral.tasks.arrays import Held, is_text

#: The target that losses of torch leave out unless told otherwise.
IGNORED = -100
#: Losses whose targets are numbers of classes.
_CLASSIFIERS = (F.cross_entropy, F.nll_loss, F.multi_margin_loss)
_CLASSIFYING = (nn.CrossEntropyLoss, nn.NLLLoss, nn.MultiMarginLoss)


def takes_classes(loss: Callable[..., Any]) -> bool:
    """Tell whether a loss is one of torch's whose targets are numbers of classes.

    >>> (
    ...     takes_classes(F.cross_entropy),
    ...     takes_classes(partial(F.nll_loss)),
    ...     takes_classes(max),
    ... )
    (True, True, False)
    """
    bare = loss.func if isinstance(loss, partial) else loss
    return bare in _CLASSIFIERS or isinstance(bare, _CLASSIFYING)


def ignored_target(loss: Callable[..., Any]) -> int | None:
    """Return the target that a loss leaves out, if that can be seen: torch's say
    so.

    >>> (
    ...     ignored_target(F.cross_entropy),
    ...     ignored_target(nn.NLLLoss(ignore_index=0)),
    ...     ignored_target(F.mse_loss),
    ... )
    (-100, 0, None)
    """
    given = loss.keywords if isinstance(loss, partial) else {}
    bare = loss.func if isinstance(loss, partial) else loss
    found = given.get("ignore_index", getattr(bare, "ignore_index", None))
    # The functions have it as a default, which no attribute shows.
    return IGNORED if found is None and bare in (F.cross_entropy, F.nll_loss) else found


def leaves_out(loss: Callable[..., Any], targets: Tensor, ignored: int) -> bool:
    """Tell whether a loss leaves out a target, by what it makes of outputs for it.

    That is how a function that wraps one of torch's is found out. Outputs may have the
    classes as their last dimension, or as the one after the samples.

    Args:
        loss: The loss.
        targets: Whole numbers [m, ...], some of which may be ``ignored``.
        ignored: The target.
    """
    if not (targets == ignored).any():
        return False
    row = torch.zeros_like(targets[:1], dtype=torch.int64)
    some = torch.cat([torch.full_like(row, ignored), row])
    outputs = torch.linspace(-1, 1, some.numel() * (int(targets.max()) + 2))
    outputs = outputs.view(*some.shape, -1)
    # Others for the targets that are ignored, and others for those that are not.
    changed = [
        outputs + outputs.square() * (some == at)[..., None] for at in (ignored, 0)
    ]
    for place in sorted({1, some.dim()}):
        first, same, other = (
            _loss_or_nan(loss, one.movedim(-1, place), some)
            for one in (outputs, *changed)
        )
        if first == same != other:
            return True
    return False


def _loss_or_nan(loss: Callable[..., Any], outputs: Tensor, targets: Tensor) -> float:
    """Return a loss; NaN, which equals nothing, where it takes no such outputs."""
    try:
        with torch.no_grad():
            return float(loss(outputs, targets))
    except Exception:
        return math.nan


def from_text(
    targets: Mapping[str, NDArray[Any]], classes: Sequence[str] | None
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Return text as numbers of classes, and their names: those given, or those
    that occur, sorted.

    Args:
        targets: The labels of every sample, by split.
        classes: Their names in order, where the user has said so.

    Raises:
        ConfigError: A label is none of the classes.
    """
    found = np.unique(np.concatenate([labels.ravel() for labels in targets.values()]))
    names = tuple(classes or map(str, found))
    number = {name: place for place, name in enumerate(names)}
    for split, labels in targets.items():
        if strange := sorted({*map(str, np.unique(labels))} - number.keys()):
            raise ConfigError(
                f"task: {split} holds the label {strange[0]!r}, which is none of the classes."
                f"{nearest(strange[0], names)}"
            )
    return {
        split: torch.tensor([number[str(one)] for one in labels.flat]).view(labels.shape)
        for split, labels in targets.items()
    }, names


def occurring(parts: Sequence[Tensor]) -> Tensor:
    """Return the labels that occur in any of the parts, sorted, int64."""
    return torch.unique(torch.cat([part.flatten().long().cpu() for part in parts]))


def unseen_labels(known: Tensor, train: Tensor) -> list[int]:
    """Return those of the ``known`` labels that no training sample has, ascending."""
    return known[~torch.isin(known, occurring([train]))].tolist()


def places(labels: Tensor, known: Tensor) -> Tensor:
    """Return the place of every label among sorted ``known`` ones."""
    return torch.searchsorted(known, labels.long().cpu().contiguous())


def in_order(names: Sequence[Any], what: str) -> str:
    """Say which name has which number, of many the first and the last.

    >>> in_order([1, 2, 3, 7, 900], "class")
    '1 is class 0, 2 is 1, ..., 900 is 4'
    """
    pairs = [f"{name} is {place}" for place, name in enumerate(names)]
    pairs[0] = f"{names[0]} is {what} 0"
    return ", ".join(pairs if len(pairs) < 5 else [*pairs[:2], "...", pairs[-1]])


def check_numbers(held: Held, split: str) -> None:
    """Refuse NaN, and infinity where there is one input: several may hold a mask of
    it.

    Raises:
        ConfigError: Names the sample, and the column of a table.
    """
    several = not isinstance(held.inputs, Tensor)
    targets = () if is_text(held.targets) else held.targets
    for what, tree in (("", held.inputs), ("the target of ", targets)):
        for leaf in leaves(tree):
            if leaf.is_meta or leaf.is_quantized:
                kind = (
                    "on the meta device, without numbers" if leaf.is_meta else "quantised"
                )
                raise ConfigError(
                    f"task: {split}: {what or 'the input of '}every sample is {kind}; give tensors "
                    "of plain numbers."
                )
            bad = _bad(leaf, infinite=not several or bool(what))
            if bad is None:
                continue
            sample, column = bad
            where = (
                f" (column {held.columns[column]!r})" if held.columns and not what else ""
            )
            value = leaf[sample].flatten()[column].item()
            raise ConfigError(
                f"task: {split}: {what}sample {sample} holds {value}{where}; fill in what is "
                "missing, or leave the sample out."
            )


def _bad(leaf: Tensor, infinite: bool) -> tuple[int, int] | None:
    """Return the sample, and the place within it, of the first number that is none."""
    # One pass, and no mask of the size of the data: a finite sum has finite terms
    # only.
    if not leaf.is_floating_point() or bool(torch.isfinite(leaf.sum())):
        return None
    wrong = ~torch.isfinite(leaf) if infinite else torch.isnan(leaf)
    found = torch.nonzero(wrong.view(len(leaf), -1))
    return None if not len(found) else (int(found[0, 0]), int(found[0, 1]))


#: Bars that are drawn of numbers.
_BARS = 24


def bars_svg(labels: Tensor, classes: Sequence[str] | None) -> str:
    """Return a small drawing of how many samples have which label, for a notebook.

    Args:
        labels: Labels or numbers of the samples.
        classes: The names of the labels, where these are numbered so.
    """
    flat = labels.flatten()
    if not len(flat) or flat.is_complex():
        return ""
    if classes is not None and not flat.is_floating_point():
        counts = torch.bincount(flat.long().clamp_min(0), minlength=len(classes))
        ends = classes[0], classes[-1]
    else:
        numbers = flat.double()
        counts = torch.histc(numbers, _BARS)
        ends = f"{numbers.min():.4g}", f"{numbers.max():.4g}"
    width, top = 320 / len(counts), max(float(counts.max()), 1.0)
    bars = "".join(
        f'<rect x="{place * width:.1f}" y="{62 - 60 * one / top:.1f}" '
        f'width="{0.8 * width:.1f}" height="{60 * one / top:.1f}"/>'
        for place, one in enumerate(counts.tolist())
    )
    right = f"{320 - 0.2 * width:.1f}"  # where the last bar ends
    texts = (
        f'<text x="0" y="76">{escape(ends[0])}</text>'
        f'<text x="{right}" y="76" text-anchor="end">{escape(ends[1])}</text>'
    )
    label = f"training samples per label, at most {top:,.0f}"
    return (
        f'<svg viewBox="0 0 320 80" role="img" aria-label="{label}" style="display:block;'
        f'width:100%;max-width:24em;font:11px sans-serif" fill="#5b6676">'
        f"<title>{label}</title>{bars}{texts}</svg>"
    )
