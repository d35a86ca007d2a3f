"""What an optimizer of any origin remembers, as tensors: so that a checkpoint can
hold it.

A torch optimizer may keep tensors, numbers, text, lists, queues and mappings of all
these, in its state, in its groups and in attributes of its own. They are written as
one tensor of bytes that says how they hang together, and the tensors themselves.
Nothing is ever unpickled.
"""

from __future__ import annotations

import json
from collections import deque
from typing import Any

import torch
from torch import Tensor, nn

#: What the structure of a state is called, among the tensors.
STRUCTURE = "structure"
#: Attributes of every optimizer, which are kept by themselves or made anew.
_COMMON = ("defaults", "state", "param_groups")
#: Sequences by the name they are written under.
_SEQUENCES: dict[str, Any] = {"list": list, "tuple": tuple, "deque": deque, "set": set}


class UnknownState(TypeError):
    """Something that no checkpoint can hold."""


def pack(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return all that an optimizer remembers, as tensors by name.

    Settings that cannot be written, such as functions, are those of a fresh
    instance.

    Args:
        optimizer: An instance with parameters of its own.

    Raises:
        UnknownState: Its state holds something that no checkpoint can.
    """
    found: list[Tensor] = []
    places = {id(p): place for place, p in enumerate(_parameters(optimizer))}
    state = [
        [places.get(id(key), key), _pack(value, found)]
        for key, value in optimizer.state.items()
    ]
    groups = [_settings(group, found) for group in optimizer.param_groups]
    own = {k: v for k, v in vars(optimizer).items() if k not in _COMMON and k[0] != "_"}
    text = json.dumps({"state": state, "groups": groups, "own": _settings(own, found)})
    structure = torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)
    return {STRUCTURE: structure, **{str(k): tensor for k, tensor in enumerate(found)}}


def unpack(optimizer: torch.optim.Optimizer, kept: dict[str, Tensor]) -> None:
    """Let an optimizer remember what ``packed`` has returned.

    Args:
        optimizer: An instance made with the same settings.
        kept: The tensors by name.
    """
    parameters = _parameters(optimizer)
    device = parameters[0].device
    whole = json.loads(kept[STRUCTURE].numpy().tobytes().decode())
    optimizer.state.clear()
    for key, value in whole["state"]:
        owner: Any = parameters[key] if isinstance(key, int) else key
        optimizer.state[owner] = _unpack(value, kept, device)
    for group, settings in zip(optimizer.param_groups, whole["groups"], strict=True):
        group.update({k: _unpack(v, kept, device) for k, v in settings.items()})
    for name, value in whole["own"].items():
        setattr(optimizer, name, _unpack(value, kept, device))


def _parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [
        parameter for group in optimizer.param_groups for parameter in group["params"]
    ]


def _settings(values: dict[str, Any], found: list[Tensor]) -> dict[str, Any]:
    """Return those of some values that can be written."""
    written: dict[str, Any] = {}
    for key, value in values.items():
        before = len(found)
        try:
            written[key] = _pack(value, found)
        except UnknownState:
            del found[before:]
    return written


def _pack(value: Any, found: list[Tensor]) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
        kept = value.detach().clone()
        found.append(kept)
        # Products of a transposed matrix have other last bits than those of its
        # copy.
        strides = None if kept.is_contiguous() else kept.stride()
        return {"tensor": [len(found) - 1, value.device.type == "cpu", strides]}
    if isinstance(value, torch.dtype):
        return {"dtype": str(value).removeprefix("torch.")}
    if isinstance(value, dict):
        return {"dict": [[_pack(k, found), _pack(v, found)] for k, v in value.items()]}
    for name, kind in _SEQUENCES.items():
        if type(value) is kind:
            most = value.maxlen if isinstance(value, deque) else None
            return {name: [_pack(one, found) for one in value], "most": most}
    raise UnknownState(type(value).__name__)


def _unpack(value: Any, kept: dict[str, Tensor], device: torch.device) -> Any:
    if not isinstance(value, dict):
        return value
    if "tensor" in value:
        place, on_cpu, strides = value["tensor"]
        tensor = kept[str(place)]
        tensor = tensor.clone() if on_cpu else tensor.to(device, copy=True)
        return tensor if strides is None else _lay_out(tensor, strides)
    if "dtype" in value:
        return getattr(torch, value["dtype"])
    if "dict" in value:
        pairs = value["dict"]
        return {_unpack(k, kept, device): _unpack(v, kept, device) for k, v in pairs}
    ((name, inner),) = ((k, v) for k, v in value.items() if k != "most")
    items = [_unpack(one, kept, device) for one in inner]
    return deque(items, value["most"]) if name == "deque" else _SEQUENCES[name](items)


def _lay_out(tensor: Tensor, strides: list[int]) -> Tensor:
    """Return a copy of a tensor with its numbers in another order in memory."""
    found = torch.empty_strided(
        tensor.shape, strides, dtype=tensor.dtype, device=tensor.device
    )
    return found.copy_(tensor)
