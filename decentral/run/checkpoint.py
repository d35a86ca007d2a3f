"""Checkpoints: tensors by node id, a manifest with digests, committed by a rename."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Container, Mapping, Sequence
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

    ``live`` are the ids of all nodes of the run; ``nodes[i]`` maps ``row``, ``integer/<name>`` and
    ``optimizer/<place>/<key>`` to tensors of node i, for all of them or for those of one worker.
    """

    step: int
    live: tuple[int, ...]
    nodes: dict[int, dict[str, Tensor]]
    counters: dict[str, Any] = field(default_factory=dict[str, Any])


class Draft:
    """A checkpoint being written: shards in a temporary folder, until ``commit`` renames it.

    A shard is a file of tensors of some nodes; every node is in one of them.
    """

    def __init__(self, folder: RunFolder, step: int) -> None:
        """Make room for the shards; what an interrupted attempt has left is dropped."""
        self.folder, self.step = folder, step
        self.home = folder.path / "checkpoints"
        self.target = self.home / f"step-{step:09d}"
        self.path = self.home / f".{self.target.name}.tmp"
        with explained(folder.path):
            shutil.rmtree(self.path, ignore_errors=True)
            self.path.mkdir(parents=True)

    def commit(
        self, live: Sequence[int], digests: Mapping[str, str], counters: Any, keep: int
    ) -> Path:
        """Write the manifest, rename the folder, and drop all but the newest ``keep``."""
        manifest = {
            "format": FORMAT,
            "step": self.step,
            "nodes": list(live),
            "digests": dict(digests),
            "counters": counters,
        }
        with explained(self.folder.path):
            write_synced(self.path / "manifest.json", json.dumps(manifest, indent=1).encode())
            shutil.rmtree(self.target, ignore_errors=True)
            self.path.rename(self.target)
            _sync(self.home)
        for old in _complete(self.home)[:-keep]:
            shutil.rmtree(old, ignore_errors=True)
        return self.target


def save_checkpoint(folder: RunFolder, checkpoint: Checkpoint, keep: int) -> Path:
    """Write a checkpoint that holds all nodes, as one shard."""
    draft, name = Draft(folder, checkpoint.step), shard_name(0)
    with explained(folder.path):
        digests = {name: write_synced(draft.path / name, shard_bytes(checkpoint))}
    return draft.commit(checkpoint.live, digests, checkpoint.counters, keep)


def shard_name(worker: int) -> str:
    """Return the file of a worker's nodes."""
    return f"nodes-{worker:05d}.safetensors"


def shard_bytes(checkpoint: Checkpoint) -> bytes:
    """Return a checkpoint's tensors as the content of a file."""
    return save(
        {
            f"{node}/{name}": tensor.detach().cpu().contiguous()
            for node, tensors in checkpoint.nodes.items()
            for name, tensor in tensors.items()
        }
    )


def write_synced(path: Path, data: bytes) -> str:
    """Write a file through to the disk and return its digest."""
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


def load_checkpoint(run: Path, nodes: Container[int] | None = None) -> Checkpoint:
    """Load the newest checkpoint whose digests hold; raises RunError if there is none.

    ``nodes`` are those whose tensors are wanted; None: all.
    """
    found = _complete(run / "checkpoints")
    for path in reversed(found):
        checkpoint = _load(path, nodes)
        if checkpoint is not None:
            return checkpoint
    what = "every checkpoint is damaged" if found else "it holds no checkpoint"
    raise RunError(f"run {run} cannot be resumed: {what}; launch its config.yaml again.")


def _load(path: Path, wanted: Container[int] | None) -> Checkpoint | None:
    """Return a checkpoint, or None if its files do not match the manifest."""
    try:
        manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
        _check_format(manifest.get("format"), path)
        nodes: dict[int, dict[str, Tensor]] = {}
        for name, digest in manifest["digests"].items():
            data = (path / name).read_bytes()
            if hashlib.sha256(data).hexdigest() != digest:
                return None
            _unpack(data, wanted, nodes)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        if isinstance(error, ConfigError):
            raise
        return None
    live = tuple(int(node) for node in manifest["nodes"])
    return Checkpoint(int(manifest["step"]), live, nodes, manifest["counters"])


def _unpack(
    data: bytes, wanted: Container[int] | None, nodes: dict[int, dict[str, Tensor]]
) -> None:
    """Add the tensors of a shard's wanted nodes to ``nodes``."""
    for name, tensor in load(data).items():
        node, _, key = name.partition("/")
        if wanted is None or int(node) in wanted:
            nodes.setdefault(int(node), {})[key] = tensor


def _check_format(found: object, path: Path) -> None:
    if found != FORMAT:
        raise ConfigError(
            f"{path} has checkpoint format {found}; this version of decentral reads format "
            f"{FORMAT}. Resume it with the version named in its env.json."
        )


def stacked(checkpoint: Checkpoint, name: str, nodes: Sequence[int]) -> Tensor:
    """Return one named tensor of several nodes as a block [n, ...]."""
    return torch.stack([checkpoint.nodes[node][name] for node in nodes])
