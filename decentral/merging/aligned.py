"""Neurons of several models put into one order before they are averaged."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from decentral.layout import Entry, Layout
from decentral.merging.base import Models
from decentral.registry import Count, plugin


@dataclass(frozen=True)
class Axis:
    """The units of a hidden layer as they lie in one tensor: along ``axis``, in
    equal parts.
    """

    entry: Entry
    axis: int


@dataclass(frozen=True)
class Hidden:
    """Interchangeable units of one hidden layer: permute all axes alike, and
    nothing changes.
    """

    units: int
    axes: tuple[Axis, ...]


#: What may stand between two layers whose units correspond: it treats all units
#: alike.
_ALIKE = (
    nn.ReLU, nn.GELU, nn.SiLU, nn.Tanh, nn.Sigmoid, nn.LeakyReLU, nn.ELU, nn.Identity, nn.Flatten,
    nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d,
)  # fmt: skip
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.LayerNorm, nn.GroupNorm)
_LAYERS = (nn.Linear, nn.Conv2d)


def hidden_units(model: nn.Module, layout: Layout) -> list[Hidden]:
    """Return the hidden layers of a model that are known to have interchangeable
    units.

    Between two linear or convolutional layers of an ``nn.Sequential``, with
    normalisation and what treats all units alike between; the feed-forward parts
    and the attention heads of transformers, by the names of their projections.
    Residual streams stay as they are.
    """
    entries = {entry.name: entry for entry in (*layout.parameters, *layout.buffers)}
    found: list[Hidden] = []
    for name, module in model.named_modules():
        prefix = f"{name}." if name else ""
        if isinstance(module, nn.Sequential):
            found += _between(prefix, module, entries)
        elif hasattr(module, "down_proj") and hasattr(module, "up_proj"):
            found += _feed_forward(prefix, module, entries)
        elif isinstance(getattr(module, "heads", None), int) and hasattr(
            module, "o_proj"
        ):
            found += _heads(prefix, module, entries)
    return found


def _between(
    prefix: str, sequence: nn.Sequential, entries: dict[str, Entry]
) -> Iterator[Hidden]:
    """Yield the units between successive layers of a sequence, as long as all is
    known there.
    """
    first: tuple[str, nn.Linear | nn.Conv2d] | None = None
    norms: list[str] = []
    flat = False
    for key, module in sequence.named_children():
        name = prefix + key
        flat |= isinstance(module, nn.Flatten)
        if isinstance(module, _LAYERS) and getattr(module, "groups", 1) == 1:
            # From convolutions to a linear layer only through a flattening, which
            # keeps a channel's numbers together.
            if first is not None and (flat or type(first[1]) is type(module)):
                yield from _pair(first, norms, name, entries)
            first, norms, flat = (name, module), [], False
        elif isinstance(module, _NORMS) and _treats_alike(module):
            norms.append(name)
        elif not isinstance(module, _ALIKE):
            first, norms = None, []


def _treats_alike(norm: nn.Module) -> bool:
    """Whether units may be permuted before a normalisation: not within several
    groups.
    """
    return not isinstance(norm, nn.GroupNorm) or norm.num_groups in (1, norm.num_channels)


def _pair(
    first: tuple[str, nn.Linear | nn.Conv2d],
    norms: list[str],
    second: str,
    entries: dict[str, Entry],
) -> Iterator[Hidden]:
    name, layer = first
    units = layer.weight.shape[0]
    outputs = [f"{name}.weight", f"{name}.bias"]
    outputs += [f"{norm}.{part}" for norm in norms for part in _NORM_PARTS]
    yield from _hidden(units, outputs, [f"{second}.weight"], entries)


_NORM_PARTS = ("weight", "bias", "running_mean", "running_var")


def _feed_forward(
    prefix: str, module: nn.Module, entries: dict[str, Entry]
) -> Iterator[Hidden]:
    up = [
        f"{prefix}{part}.{kind}" for part in ("gate_proj", "up_proj") for kind in _KINDS
    ]
    weight = entries.get(f"{prefix}up_proj.weight")
    if weight is not None:
        yield from _hidden(weight.shape[0], up, [f"{prefix}down_proj.weight"], entries)


def _heads(prefix: str, module: nn.Module, entries: dict[str, Entry]) -> Iterator[Hidden]:
    parts = ("q_proj", "k_proj", "v_proj")
    ins = [f"{prefix}{part}.{kind}" for part in parts for kind in _KINDS]
    heads: int = module.heads  # pyright: ignore[reportAssignmentType]
    yield from _hidden(heads, ins, [f"{prefix}o_proj.weight"], entries)


_KINDS = ("weight", "bias")


def _hidden(
    units: int, outputs: list[str], inputs: list[str], entries: dict[str, Entry]
) -> Iterator[Hidden]:
    """Yield units that are made along axis 0 of ``outputs`` and read along axis 1
    of ``inputs``.

    Nothing where a tensor is tied, frozen or of another size: then the units are
    not free.
    """
    makers = [entries[name] for name in outputs if name in entries]
    readers = [entries[name] for name in inputs if name in entries]
    fits = all(entry.shape[0] % units == 0 for entry in makers)
    # A multiple where a channel was flattened, or a head has several columns.
    fits &= len(readers) == len(inputs) and all(e.shape[1] % units == 0 for e in readers)
    if units > 1 and makers and fits:
        axes = [Axis(entry, 0) for entry in makers] + [
            Axis(entry, 1) for entry in readers
        ]
        yield Hidden(units, tuple(axes))


def by_unit(row: Tensor, axis: Axis, units: int) -> Tensor:
    """Return one tensor of a row [P] unit by unit, [units, ...], as a view or a
    copy.

    Args:
        row: One row, [P].
        axis: The tensor, and the axis along which its units lie.
        units: Number of units.
    """
    entry = axis.entry
    whole = row[entry.start : entry.stop].view(entry.shape)
    return whole.movedim(axis.axis, 0).reshape(units, -1)


def permute(row: Tensor, hidden: Hidden, order: Tensor) -> None:
    """Put the units of a hidden layer of a row [P] into another order [units], in
    place.
    """
    for axis in hidden.axes:
        entry = axis.entry
        whole = row[entry.start : entry.stop].view(entry.shape).movedim(axis.axis, 0)
        parts = whole.unflatten(0, (hidden.units, -1))
        whole.copy_(parts[order].flatten(0, 1))


@plugin("merge", sees="models")
def aligned(models: Models, *, passes: Count = 10) -> Tensor:
    """Average all models after permuting the hidden units of each to match the
    others.

    x = (1/N) sum_i P_i x_i, where the permutations P_i leave what a model computes
    as it is and maximise <P_i x_i, m>: first with the model m of least validation
    loss, which stays, then with the mean of the others in the order of their loss,
    until nothing moves or after ``passes``. Known are linear and convolutional
    layers in sequence, feed-forward parts and attention heads; a model without them
    is averaged as it is. (Ainsworth, Hayase & Srinivasa, "Git Re-Basin", 2023.)

    Args:
        models: What is merged: rows [N, P], and what rules may ask about them.
        passes: Passes over the models, at most.
    """
    layers, rows = hidden_units(models.model, models.layout), models.rows.clone()
    losses = [models.loss(row) for row in models.rows]
    # Permutations are relative: one model has to stay, and the best one is the best
    # guide.
    best, *others = sorted(range(len(rows)), key=losses.__getitem__)
    for index in others:
        align(rows[index], rows[best], layers)
    for _ in range(passes):
        if not _align_to_rest(rows, others, layers):
            break
    return rows.mean(0)


def _align_to_rest(rows: Tensor, chosen: list[int], layers: list[Hidden]) -> bool:
    """Match each of the chosen rows [N, P] with the sum of the others; return
    whether any moved.
    """
    total, moved = rows.sum(0), False
    for index in chosen:
        rest = total - rows[index]
        moved |= align(rows[index], rest, layers)
        total = rest + rows[index]
    return moved


def align(row: Tensor, reference: Tensor, layers: list[Hidden], sweeps: int = 20) -> bool:
    """Permute the units of a row [P] in place to match a reference; return whether
    any moved.

    Layer by layer: each permutation is the best one while the others stay (a linear
    assignment), so that the inner product of both rows only grows.

    Args:
        row: The row that is permuted, [P].
        reference: The row that it is to match, [P].
        layers: Layers whose units may be permuted.
        sweeps: Passes over the layers, at most.
    """
    moved = False
    for _ in range(sweeps):
        changed = [_align_layer(row, reference, hidden) for hidden in layers]
        if not any(changed):
            break
        moved = True
    return moved


def _align_layer(row: Tensor, reference: Tensor, hidden: Hidden) -> bool:
    """Put the units of one layer into the order that matches best; return whether
    that is new.
    """
    from scipy.optimize import linear_sum_assignment

    likeness = torch.zeros(hidden.units, hidden.units, dtype=torch.float64)
    for axis in hidden.axes:
        # In float64: units that are nearly equal should not be told apart by
        # rounding.
        ours, theirs = (
            by_unit(one, axis, hidden.units).double() for one in (row, reference)
        )
        likeness += (theirs @ ours.T).cpu()
    order = torch.from_numpy(linear_sum_assignment(likeness.numpy(), maximize=True)[1])
    stays = torch.arange(hidden.units)
    gain = (likeness[stays, order] - likeness[stays, stays]).sum().item()
    # as good as it was: rounding must not decide
    if gain <= 1e-9 * likeness.abs().max().item():
        return False
    permute(row, hidden, order.to(row.device))
    return True
