"""Checkpoints: tensors by node id, a manifest with digests, committed by a rename."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import shutil
from collections.abc import Container, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from decentral.errors import ConfigError, RunError, in_words, refusal_of, shell_word
from decentral.limits import open_file, read_json
from decentral.process import remove_folder
from decentral.run.digests import (
    FORMAT,
    READ,
    are_counters,
    is_sealed,
    seal,
    stamp_of,
)
from decentral.run.folder import DESCRIPTION, RunFolder, explain_disk_errors
from decentral.topology.labels import NodeId

#: What a manifest says of the run, beside what it says of the checkpoint.
_IDENTITY = ("settings", "files", "past", "described", "base")


@dataclass
class Checkpoint:
    """Everything a run needs to go on: tensors by node, and plain counters.

    ``live`` are the ids of all nodes of the run; ``nodes[i]`` maps ``row``,
    ``integer/<name>`` and ``optimizer/<place>/<key>`` to tensors of node i, for all
    of them or for those of one worker.
    """

    step: int
    live: tuple[NodeId, ...]
    nodes: dict[NodeId, dict[str, Tensor]]
    counters: dict[str, Any] = field(default_factory=dict[str, Any])

    def check_fits(self, nodes: int, width: int) -> None:
        """Raise ConfigError unless it is of so many nodes, and of so many numbers
        per model.
        """
        own = next(iter(self.nodes.values()))["row"].numel()
        for what, theirs, ours in (
            ("nodes", len(self.live), nodes),
            ("numbers per model", own, width),
        ):
            if theirs != ours:
                raise ConfigError(
                    f"the checkpoint of step {self.step} holds {theirs} {what}, the "
                    f"configuration asks for {ours}; restore config.yaml, or launch a new run."
                )


class Draft:
    """A checkpoint being written: shards in a temporary folder, until ``commit``
    renames it.

    A shard is a file of tensors of some nodes; every node is in one of them.
    """

    def __init__(self, folder: RunFolder, step: int, epoch: int = 0) -> None:
        """Make room for the shards; what an interrupted attempt has left is
        dropped.
        """
        folder.check()
        self.folder, self.step = folder, step
        self.home = folder.path / "checkpoints"
        self.target = self.home / (
            f"step-{step:09d}" + (f"-epoch-{epoch:04d}" if epoch else "")
        )
        self.path = self.home / f".{self.target.name}.tmp"
        with explain_disk_errors(folder.path):
            # A kill may have left an unfinished one of the same step.
            shutil.rmtree(self.path, ignore_errors=True)
            self.path.mkdir(parents=True)

    def commit(
        self, live: Sequence[NodeId], digests: Mapping[str, str], counters: Any, keep: int
    ) -> Path:
        """Write the manifest, rename the folder, and drop all but the newest
        ``keep``.
        """
        manifest = {
            "format": FORMAT,
            "step": self.step,
            "nodes": list(live),
            "digests": dict(digests),
            "sizes": {name: (self.path / name).stat().st_size for name in digests},
            "counters": counters,
            **self.folder.identity,
            "described": self.folder.digests(DESCRIPTION),
        }
        with explain_disk_errors(self.folder.path):
            write_synced(self.path / "manifest.json", _text(manifest))
            self.folder.check()
            # A run that went back comes to the same step again: the newer one
            # counts.
            remove_folder(self.target)
            self.path.rename(self.target)
            # The rename itself is on the disk only when its folder is.
            _sync(self.home)
        # Only now: at any moment there is a complete checkpoint.
        for old in _complete(self.home)[:-keep]:
            remove_folder(old)
        return self.target


def save_checkpoint(folder: RunFolder, checkpoint: Checkpoint, keep: int) -> Path:
    """Write a checkpoint that holds all nodes, as one shard."""
    epoch = checkpoint.counters.get("epoch", 0)
    draft, name = Draft(folder, checkpoint.step, epoch), shard_name(0)
    with explain_disk_errors(folder.path):
        digests = {name: write_synced(draft.path / name, shard_bytes(checkpoint))}
    return draft.commit(checkpoint.live, digests, checkpoint.counters, keep)


def shard_name(worker: int) -> str:
    """Return the file of a worker's nodes."""
    return f"nodes-{worker:05d}.safetensors"


def shard_bytes(checkpoint: Checkpoint) -> bytes:
    """Return a checkpoint's tensors as the content of a file.

    What several nodes have alike is one tensor, [nodes, ...]: with thousands of
    nodes, a tensor for each would take longer to name than to write. ``GROUP/NAME``
    is of the nodes that the header lists at that place under ``nodes``.
    """
    alike: dict[tuple[str, torch.Size, torch.dtype], list[NodeId]] = {}
    for node, tensors in checkpoint.nodes.items():
        for name, tensor in tensors.items():
            # Shapes may differ from node to node: states that an optimizer has not
            # made yet.
            alike.setdefault((name, tensor.shape, tensor.dtype), []).append(node)
    groups: dict[tuple[NodeId, ...], int] = {}
    stacks: dict[str, Tensor] = {}
    for (name, _, _), nodes in alike.items():
        group = groups.setdefault(tuple(nodes), len(groups))
        parts = [checkpoint.nodes[node][name].detach() for node in nodes]
        stacks[f"{group}/{name}"] = torch.stack(parts).cpu()
    return save(stacks, {"nodes": json.dumps(list(groups))})


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


def relabel(saved: Saved, identity: Mapping[str, Any]) -> None:
    """Let a checkpoint be one of the run as it is now, whose settings were changed
    at its step.
    """
    manifest = saved.path / "manifest.json"
    temporary = manifest.with_name(".manifest.json.tmp")
    write_synced(temporary, _text({**read_json(manifest), **identity}))
    temporary.replace(manifest)
    _sync(saved.path)


def _text(manifest: Mapping[str, Any]) -> bytes:
    """Return the text of a manifest with a digest of all that it says."""
    return json.dumps(seal(manifest), indent=1).encode()


def _complete(home: Path) -> list[Path]:
    return sorted(p for p in home.glob("step-*") if os.path.lexists(p / "manifest.json"))


@dataclass(frozen=True)
class Saved:
    """A complete checkpoint on disk; ``load`` reads the nodes that are asked for."""

    path: Path
    step: int
    live: tuple[NodeId, ...]
    shards: tuple[str, ...]
    counters: dict[str, Any]
    #: Digests of the settings and files that make the result, and the ``past`` of
    #: the schedules.
    identity: Mapping[str, Any] = field(default_factory=dict[str, Any])
    #: What is wrong with newer ones, a text for each; the run goes on from this
    #: one.
    passed_over: tuple[str, ...] = ()

    def load(self, nodes: Iterable[NodeId]) -> Checkpoint:
        """Return the checkpoint with the tensors of some nodes."""
        nodes = frozenset(nodes)
        found: dict[NodeId, dict[str, Tensor]] = {}
        for shard in self.shards:
            with safe_open(self.path / shard, "pt") as file:
                for node, key, tensor in _tensors(file, nodes):
                    found.setdefault(node, {})[key] = tensor
        # Whoever restores may change the counters, and may come back for them.
        return Checkpoint(self.step, self.live, found, copy.deepcopy(self.counters))


@contextmanager
def restoring(step: int) -> Generator[None]:
    """Say of a checkpoint whose content cannot be restored that it does not fit.

    Its digests hold, so it is as somebody has written it: by another program, or
    for a model or an optimizer that is another one now.
    """
    try:
        yield
    except (ConfigError, RunError):
        raise
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, SafetensorError,
            TypeError, ValueError) as error:  # fmt: skip
        if refusal_of(error):  # no room for it
            raise
        raise ConfigError(
            f"the checkpoint of step {step} does not fit its run ({in_words(error)}); restore "
            "the plug-ins that it was trained with, or launch a new run."
        ) from error


def _tensors(file: Any, nodes: Container[NodeId]) -> Iterator[tuple[NodeId, str, Tensor]]:
    """Yield what a shard holds of some nodes: node, name, tensor."""
    head = file.metadata() or {}  # none in format 2, which named every tensor NODE/NAME
    groups: list[list[NodeId]] | None = (
        json.loads(head["nodes"]) if "nodes" in head else None
    )
    for name in file.keys():  # noqa: SIM118 (no mapping)
        group, _, key = name.partition("/")
        if groups is None:
            if (node := NodeId(int(group))) in nodes:
                yield node, key, file.get_tensor(name)
            continue
        owners = groups[int(group)]
        asked = [place for place, node in enumerate(owners) if node in nodes]
        if asked:
            # A worker's nodes lie together: one read, of not much more than is
            # asked for.
            begin, end = asked[0], asked[-1] + 1
            parts = file.get_slice(name)[begin:end]
            for place in asked:
                yield owners[place], key, parts[place - begin]


def has_checkpoint(run: Path) -> bool:
    """Whether a run has saved anything to go on from."""
    return any((run / "checkpoints").glob("step-*"))


def good_checkpoints(run: Path) -> Iterator[Saved]:
    """Yield the checkpoints whose digests hold, the newest first."""
    for path in reversed(_complete(run / "checkpoints")):
        saved = judge(path)
        if isinstance(saved, Saved):
            yield saved


def newest_checkpoint(run: Path) -> Saved:
    """Find the newest checkpoint that a run can go on from: whose digests hold, and
    whose records are there; raises RunError if there is none.
    """
    problems: list[str] = []
    for path in reversed(_complete(run / "checkpoints")):
        saved = judge(path)
        problem = saved if isinstance(saved, str) else find_lost(saved)
        if isinstance(saved, Saved) and not problem:
            return replace(saved, passed_over=tuple(problems))
        problems.append(f"{path.name}: {problem}")
    if not problems:
        raise RunError(
            f"run {run} holds no checkpoint; `decentral resume {shell_word(run)}` begins it again."
        )
    raise RunError(
        f"run {run} cannot be resumed: no checkpoint is whole ({problems[0]}); restore the "
        "file, or launch its config.yaml again."
    )


def find_lost(saved: Saved) -> str:
    """Return which records, that a checkpoint counts on, are not what they were;
    else nothing.
    """
    counters = saved.counters
    for name, length in (counters.get("offsets") or {}).items():
        try:
            found = stamp_of(saved.path.parent.parent / name, length)
        except OSError as error:
            return f"{name} cannot be read ({error.strerror})"
        if found is None:
            return f"{name} has lost lines that it counts on"
        # None: earlier versions stated the lengths alone.
        if (counters.get("stamps") or {}).get(name) not in (None, found):
            return f"{name} is damaged: the digest of its lines differs"
    return ""


def judge(path: Path) -> Saved | str:
    """Return a checkpoint that is whole, or what is damaged in it.

    Raises:
        ConfigError: It has a format that is not read.
    """
    try:
        manifest = read_json(path / "manifest.json")
        # Manifests of format 2 had no digest of their own.
        if not is_sealed(manifest):
            return "manifest.json is not what it was: its digest differs"
        _check_format(manifest.get("format"), path)
        for name, digest in manifest["digests"].items():
            size = manifest.get("sizes", {}).get(name)
            if problem := _judge_shard(path, name, digest, size):
                return problem
        return _saved(path, manifest)
    except OSError as error:
        return f"{Path(error.filename or path).name} cannot be read ({error.strerror})"
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        return "manifest.json is damaged"


def _judge_shard(path: Path, name: str, digest: str, size: int | None) -> str:
    """Return what is damaged in a file of a checkpoint; else nothing.

    Args:
        path: The checkpoint.
        name: The file, as the manifest names it.
        digest: What its digest should be.
        size: How many bytes it should have; None where nobody says.
    """
    # A manifest from elsewhere must not have other files read.
    if os.path.basename(name) != name or name in ("", ".", ".."):
        return "manifest.json names a file outside of its checkpoint"
    with open_file(path / name) as file:
        found = os.fstat(file.fileno()).st_size
        if size not in (None, found):
            return f"{name} is damaged: it has {found:,} bytes, and had {size:,}"
        if hashlib.file_digest(file, "sha256").hexdigest() != digest:
            return f"{name} is damaged: its digest differs"
    return ""


def _saved(path: Path, manifest: Mapping[str, Any]) -> Saved:
    """Return what a manifest says; raises ValueError where it cannot be so."""
    live = tuple(NodeId(int(node)) for node in manifest["nodes"])
    step, counters = manifest["step"], manifest["counters"]
    identity = {key: manifest[key] for key in _IDENTITY if key in manifest}
    if not (
        all(type(number) is int and number >= 0 for number in (step, *live))
        and len(set(live)) == len(live) > 0
        and manifest["digests"]
        and path.name.startswith(f"step-{step:09d}")
        and all(isinstance(identity.get(key, {}), dict) for key in _IDENTITY)
        and are_counters(counters)
    ):
        raise ValueError
    return Saved(path, step, live, tuple(manifest["digests"]), counters, identity)


def _check_format(found: object, path: Path) -> None:
    if found not in READ:
        raise ConfigError(
            f"{path} has checkpoint format {found}; this version of decentral reads formats "
            f"{' and '.join(map(str, READ))}. Use the version named in its env.json."
        )


def stack_nodes(checkpoint: Checkpoint, name: str, nodes: Sequence[NodeId]) -> Tensor:
    """Return one named tensor of several nodes as a block [n, ...].

    Args:
        checkpoint: The checkpoint.
        name: Name of the tensor.
        nodes: The nodes, in order.
    """
    return torch.stack([checkpoint.nodes[node][name] for node in nodes])
