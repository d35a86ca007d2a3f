"""The row layout: how one node's model lies in a flat row of length P.

A row is ``[trainable, ordered by parameter group | float buffers]``; every group,
the buffers and the next row start at a multiple of 16 columns: in whole vectors, so
that kernels over the block do to a row what they do to it alone. Named tensors are
views ``[n, *shape]`` into a block of rows ``[n, P]``. Integer buffers stand beside
the rows, and so do float buffers that begin infinite, such as masks and the ranges
of observers: no average is finite with them. Frozen parameters are shared by all
nodes; tied weights appear once.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from decentral.errors import ConfigError

ALIGNMENT = 16

#: Maps a parameter's name to the index of its group.
GroupRule = Callable[[str, nn.Parameter], int]


def one_group(name: str, parameter: nn.Parameter) -> int:
    """Put every parameter into one group."""
    return 0


@dataclass(frozen=True, slots=True)
class Entry:
    """One named tensor of a row: columns ``start:stop`` hold ``shape``."""

    name: str
    shape: tuple[int, ...]
    start: int
    stop: int


@dataclass(frozen=True)
class Layout:
    """Where every tensor of a model lies in a row."""

    parameters: tuple[Entry, ...]
    buffers: tuple[Entry, ...]
    # columns of each parameter group, without padding
    groups: tuple[tuple[int, int], ...]
    width: int  # P, padding included
    # initial values
    integers: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])
    # shared by all nodes
    frozen: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])

    @staticmethod
    def of(model: nn.Module, group: GroupRule = one_group) -> Layout:
        """Lay out a model; raises ConfigError for a model without trainable
        parameters.
        """
        trainable = [(k, p) for k, p in model.named_parameters() if p.requires_grad]
        if not trainable:
            raise ConfigError(
                "the model has no trainable parameters; nothing can be learned."
            )
        members: dict[int, list[tuple[str, Tensor]]] = {}
        for name, parameter in trainable:
            members.setdefault(group(name, parameter), []).append((name, parameter))
        entries: list[Entry] = []
        spans: list[tuple[int, int]] = []
        for index in sorted(members):
            # Every group begins aligned, so that its part of a row can be a
            # parameter of its own.
            placed = _place(members[index], _align(entries[-1].stop if entries else 0))
            spans.append((placed[0].start, placed[-1].stop))
            entries += placed
        floats = [(k, b) for k, b in model.named_buffers() if _averages(b)]
        buffers = _place(floats, _align(entries[-1].stop)) if floats else []
        return Layout(
            parameters=tuple(entries),
            buffers=tuple(buffers),
            groups=tuple(spans),
            width=_align((buffers or entries)[-1].stop),
            integers=_integers(model),
            frozen={
                k: p.detach() for k, p in model.named_parameters() if not p.requires_grad
            },
        )

    @property
    def trainable(self) -> int:
        """Columns of the trainable part, padding included."""
        return _align(self.parameters[-1].stop)

    @property
    def parameter_count(self) -> int:
        """Trainable numbers of one model."""
        return sum(prod(entry.shape) for entry in self.parameters)

    def frozen_digest(self) -> str | None:
        """Return a digest of what no row holds and training leaves as it is; None:
        there is nothing of that.
        """
        if not self.frozen:
            return None
        digest = hashlib.sha256()
        for name in sorted(self.frozen):
            value = self.frozen[name].cpu().contiguous()
            digest.update(f"{name} {tuple(value.shape)} {value.dtype} ".encode())
            digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def entries_sent(self, buffers: bool) -> tuple[Entry, ...]:
        """Return the tensors of a row that are sent: parameters, and float buffers
        or not.
        """
        return self.parameters + (self.buffers if buffers else ())

    def payload(self, buffers: bool) -> int:
        """Return the numbers of one row that carry information when it is sent."""
        return sum(prod(entry.shape) for entry in self.entries_sent(buffers))

    def trainable_view(self, block: Tensor) -> Tensor:
        """Return the trainable columns of a block, [n, trainable]."""
        return block[:, : self.trainable]

    def views(
        self, block: Tensor, entries: Iterable[Entry] | None = None
    ) -> dict[str, Tensor]:
        """Return named views [n, *shape] into a block [n, P], parameters only
        unless given.
        """
        chosen = self.parameters if entries is None else entries
        return {e.name: block[:, e.start : e.stop].view(-1, *e.shape) for e in chosen}

    def pack(self, model: nn.Module, row: Tensor) -> None:
        """Copy a model's parameters and float buffers into one row [P]."""
        values = dict(model.named_parameters()) | dict(model.named_buffers())
        with torch.no_grad():
            for entry in self.parameters + self.buffers:
                row[entry.start : entry.stop] = values[entry.name].reshape(-1)

    def unpack(
        self, row: Tensor, model: nn.Module, integers: Mapping[str, Tensor] | None = None
    ) -> None:
        """Copy one row [P], and integer buffers [1, ...] if given, into a model.

        Args:
            row: One row, [P].
            model: The module that is written to.
            integers: Integer buffers by name, [1, ...].
        """
        values = dict(model.named_parameters()) | dict(model.named_buffers())
        with torch.no_grad():
            for entry in self.parameters + self.buffers:
                values[entry.name].copy_(row[entry.start : entry.stop].view(entry.shape))
            for name, value in (integers or {}).items():
                values[name].copy_(value[0])


def cast(model: nn.Module, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """Move a model to a device, its real numbers as ``dtype``; ``nn.Module.to``
    makes all real.

    Args:
        model: The model, which is changed.
        device: Where its numbers will be.
        dtype: A floating type.

    Raises:
        ConfigError: A parameter is complex.
    """
    for name, parameter in model.named_parameters():
        if parameter.is_complex():
            raise ConfigError(
                f"the model's parameter {name!r} is complex, and rows hold real numbers; keep its "
                "real and imaginary part, and join them by torch.view_as_complex."
            )
    phases = [
        (module, name)
        for module in model.modules()
        for name, buffer in module.named_buffers(recurse=False)
        if buffer.is_complex()
    ]
    for module, name in phases:
        # As pairs of real numbers, which ``to`` casts without dropping one of them.
        setattr(module, name, torch.view_as_real(getattr(module, name)))
    model.to(device, dtype)
    for module, name in phases:
        setattr(module, name, torch.view_as_complex(getattr(module, name)))
    return model


def share_parameters(model: nn.Module) -> nn.Module:
    """Return a copy of a model, its buffers included, that shares the memory of its
    parameters.
    """
    memo: dict[int, Any] = {
        id(p): nn.Parameter(p.detach(), p.requires_grad) for p in model.parameters()
    }
    return copy.deepcopy(model, memo)


def _integers(model: nn.Module) -> dict[str, Tensor]:
    """Return the persistent buffers that are not averaged; other constants stay in
    the module.
    """
    kept = model.state_dict().keys()
    return {
        name: buffer.clone()
        for name, buffer in model.named_buffers()
        if name in kept and not _averages(buffer)
    }


def _averages(buffer: Tensor) -> bool:
    """Tell whether a buffer is of numbers that have an average."""
    return buffer.is_floating_point() and bool(torch.isfinite(buffer).all())


def _align(column: int) -> int:
    return -(-column // ALIGNMENT) * ALIGNMENT


def _place(tensors: Iterable[tuple[str, Tensor]], start: int) -> list[Entry]:
    entries: list[Entry] = []
    for name, tensor in tensors:
        entries.append(Entry(name, tuple(tensor.shape), start, start + tensor.numel()))
        start += tensor.numel()
    return entries
