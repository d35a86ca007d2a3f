"""Checkpoints: tensors by node id, a manifest with digests, committed by a rename."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from decentral.errors import ConfigError, RunError
from decentral.run.folder import FORMAT, RunFolder, explained


@dataclass
class Checkpoint:
    """Everything a run needs to go on: tensors by node, and plain counters.

    ``nodes[i]`` maps ``row``, ``integer/<name>`` and ``optimizer/<place>/<key>`` to tensors of node
    i.
    """

    step: int
    nodes: dict[int, dict[str, Tensor]]
    counters: dict[str, Any] = field(default_factory=dict[str, Any])


def save_checkpoint(folder: RunFolder, checkpoint: Checkpoint, keep: int) -> Path:
    """Write a checkpoint, commit it by a rename, and drop all but the newest ``keep``."""
    home = folder.path / "checkpoints"
    target = home / f"step-{checkpoint.step:09d}"
    temporary = home / f".{target.name}.tmp"
    with explained(folder.path):
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        digests = {"nodes.safetensors": _write(temporary / "nodes.safetensors", _flat(checkpoint))}
        manifest = {
            "format": FORMAT,
            "step": checkpoint.step,
            "nodes": sorted(checkpoint.nodes),
            "digests": digests,
            "counters": checkpoint.counters,
        }
        _write(temporary / "manifest.json", json.dumps(manifest, indent=1).encode())
        shutil.rmtree(target, ignore_errors=True)
        temporary.rename(target)
        _sync(home)
    for old in _complete(home)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return target


def _flat(checkpoint: Checkpoint) -> bytes:
    return save(
        {
            f"{node}/{name}": tensor.detach().cpu().contiguous()
            for node, tensors in checkpoint.nodes.items()
            for name, tensor in tensors.items()
        }
    )


def _write(path: Path, data: bytes) -> str:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return hashlib.sha256(data).hexdigest()


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _complete(home: Path) -> list[Path]:
    return sorted(p for p in home.glob("step-*") if (p / "manifest.json").exists())


def load_checkpoint(run: Path) -> Checkpoint:
    """Load the newest checkpoint whose digests hold; raises RunError if there is none."""
    found = _complete(run / "checkpoints")
    for path in reversed(found):
        checkpoint = _load(path)
        if checkpoint is not None:
            return checkpoint
    what = "every checkpoint is damaged" if found else "it holds no checkpoint"
    raise RunError(f"run {run} cannot be resumed: {what}; launch its config.yaml again.")


def _load(path: Path) -> Checkpoint | None:
    """Return a checkpoint, or None if its files do not match the manifest."""
    try:
        manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
        _check_format(manifest.get("format"), path)
        data = (path / "nodes.safetensors").read_bytes()
        if hashlib.sha256(data).hexdigest() != manifest["digests"]["nodes.safetensors"]:
            return None
        tensors = load(data)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        if isinstance(error, ConfigError):
            raise
        return None
    nodes: dict[int, dict[str, Tensor]] = {int(node): {} for node in manifest["nodes"]}
    for name, tensor in tensors.items():
        node, _, key = name.partition("/")
        nodes[int(node)][key] = tensor
    return Checkpoint(int(manifest["step"]), nodes, manifest["counters"])


def _check_format(found: object, path: Path) -> None:
    if found != FORMAT:
        raise ConfigError(
            f"{path} has checkpoint format {found}; this version of decentral reads format "
            f"{FORMAT}. Resume it with the version named in its env.json."
        )


def stacked(checkpoint: Checkpoint, name: str, nodes: range) -> Tensor:
    """Return one named tensor of several nodes as a block [n, ...]."""
    return torch.stack([checkpoint.nodes[node][name] for node in nodes])
