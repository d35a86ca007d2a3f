"""Bad inputs of every kind: each is refused in one line, before anything is written."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

import decentral
from decentral.config import PARTS

LAUNCH = ["launch", "-q", "--out", "made"]
SMALL = ["task=quadratic", "nodes=4", "steps=4"]
TINY: dict[str, Any] = {"nodes": 2, "steps": 2, "out": "made", "quiet": True}


@dataclass(frozen=True)
class Input:
    """Words of a command, or a call; a file that it names, by name."""

    name: str
    words: tuple[str, ...] = ()
    call: Callable[[], object] | None = None
    file: tuple[str, bytes] | None = None


COUNTS = (
    "nodes", "steps", "local_steps", "eval_every", "log_every", "checkpoint_every", "eval_samples",
    "eval_nodes", "keep_checkpoints", "calibration_samples", "micro_batch", "threads", "batch",
)  # fmt: skip
NO_COUNT = ("0", "-1", "1.5", "nan", "inf", "-inf", "true", "many", "[]", "[1, 2]", "{a: 1}",
            "1e19", "1" * 500, "1e400", "\x1b[31m3")  # fmt: skip
NUMBERS = (
    "clip",
    "lr",
    "label_smoothing",
    "sam",
    "adversarial",
    "label_noise",
    "node_lr.1",
)
NO_NUMBER = ("nan", "inf", "-inf", "-1", "true", "much", "[]", "1e400", "\x1b[2Jx")
CHOICES = ("init", "sampling", "replacement", "replicas", "mixing", "dtype", "precision", "device",
           "compile", "on_nonfinite", "mix_state", "gossip_buffers")  # fmt: skip
NO_CHOICE = ("sometimes", "3.7", "[]", "x" * 100_000)
NAMES = (
    "no_such", "no_such(x=1)", "(", ")", "x(", "a=b(c", "'", "x(1, 2, 3, 4, 5, 6, 7)", "[[[[",
    "{", "{name}", "x" * 100_000, "\x1b[31mred", "a(" * 5_000, "[" * 5_000, "nowhere.py:ring",
    "nowhere.py", "/dev/zero", "/dev/null.json", "no.such.module", "../../..", "\u202egnir", "",
)  # fmt: skip


def command_lines() -> Iterator[Input]:
    """Yield settings that cannot be, on the command line."""
    for key, values in [
        *((key, NO_COUNT) for key in COUNTS),
        *((key, NO_NUMBER) for key in NUMBERS),
        *((key, NO_CHOICE) for key in CHOICES),
        *((key, NAMES) for key in sorted(PARTS)),
    ]:
        for value in values:
            base = [word for word in SMALL if not word.startswith(f"{key}=")]
            yield Input(f"{key}={value[:20]!r}", (*LAUNCH, *base, f"{key}={value}"))
    for words in OTHERS:
        yield Input(" ".join(words)[:60], words)


#: Commands that are wrong as a whole, and slips within settings of plug-ins.
OTHERS: tuple[tuple[str, ...], ...] = (
    ("sweep", "seed=0..1000000000"), ("sweep", "seed=0..99", "lr=0..99", "nodes=1..99"),
    ("sweep", "seed=5..1"), ("sweep", "seed=0"), ("sweep",), ("frobnicate",), ("launch", "a", "b"),
    ("launch", "--nodes"), ("launch", "--nodes", "x" * 100_000), ("launch", "=3"), ("launch", "3"),
    ("launch", "nodes=3", "nodes=4"), ("resume", "nowhere"), ("check", "nowhere"), ("check",),
    ("compare", "nowhere"), ("merge", "nowhere"), ("analyze", "nowhere"), ("report", "nowhere"),
    ("export", "nowhere", "--out", "made"), ("list", "nothing"), ("list", "topologies", "rnig"),
    ("show", "topology", "ring", "--nodes", "0"), ("plan", "batch", "--steps", "-1"),
    ("reproduce", "nothing"), ("report", "/dev/zero"), ("check", "/dev/zero"),
    ("launch", "/dev/zero"), ("resume", "/dev"), ("launch", "x" * 5_000),
    *((*LAUNCH, *SMALL, word) for word in (
        "aggregation=trimmed_mean(cut=9)", "aggregation=clipping(radius=-1)", "compute=-1s",
        "compute=nan", "compute=1 parsec", "network=lan(latency=-1s)", "seed=-1", "seed=1e30",
        "data=0 samples", "data=1e99 samples", "data=-1", "faults=lost(2)", "faults=lost(-1)",
        "attack=sign_flip(nodes=[99])", "attack=sign_flip(nodes=[])", "metrics=[accuracy, 3]",
        "communication=late(start=200%)", "communication=late(start=-1%)",
        "communication=every(k=0)", "topology=torus(rows=3)", "codec=top_k(share=0)",
        "codec=choco(choco(choco(int8)))", "engine=ray(workers=0)", "engine=ray(workers=true)",
        "engine.liveness_s=inf", "batch=stages(at=[50%],sizes=[8])", "unknown=1", "workers=3",
        "engine.workers=3.5", "lr.lr=3", "optimizer.momentum=[1]", "optimizer=sgd(momentum=nan)",
        "task=quadratic(dimension=0)", "task=quadratic(dimension=1e12)", "node_lr.9=0.5",
    )),
)  # fmt: skip

#: Texts that are no configuration.
TEXTS: tuple[bytes, ...] = (
    b"", b"\x00", b"\xff\xfe", b"- 1", b"3", b"null", b"nodes", b"nodes: [", b"nodes: {",
    b"nodes: 010",
    b"nodes: 1:30", b"nodes: !!python/object:os.system x", b"nodes: !!set {a}", b"nodes: !!int x",
    b"nodes: !!bool 3", b"nodes: !!binary aGk=", b"a: &a [*a]", b"nodes: &n {b: *n}", b"? [a]\n: 3",
    b"nodes: 3\nnodes: 4", b"nodes: 3\n---\nnodes: 4", b"%YAML 9.9\n---\nnodes: 3", b"<<: [1]",
    b"[" * 100_000, b"{a: " * 50_000, b"- " * 50_000, b"nodes: " + b"1" * 5_000, b"1: 2", b"~: 2",
    b"nodes: .inf", b"nodes: .nan", b"nodes: 1e400", b"nodes: true", b"nodes: yes", b"nodes: null",
    b"a: &a [1,1]\n" + b"".join(
        b"x%d: &%c [*%c, *%c]\n" % (k, 98 + k, 97 + k, 97 + k) for k in range(24)
    ),
    b"topology: {name: [ring]}", b"topology: {nome: ring}", b"topology: [ring]",
    b"engine: {workers: [3]}", b"engine: [ray]", b"sweep: 3", b"sweep: {seed: {}}", b"steps: [a]",
    b"metrics: {a: 1}", b"metrics: [[accuracy]]", b"metrics: [null]", b"\x1b[31mnodes: 3",
    b"node_lr: {a: 1}", b"node_lr: 3", b"node_lr: {1: x}", b"sam: {rho: {}}", b"seed: [1]",
    b"nodes: '\x07'", b"nodes: 3\n\tsteps: 4", b"nodes: @3", b"nodes: `3`", b"nodes: *unknown",
    b"task: {path: ring}", b"nodes: 3 # \xe9",
)  # fmt: skip

#: Texts of graph files, by ending, that hold no graph or one that cannot be.
GRAPHS: tuple[tuple[str, bytes], ...] = (
    *((f"g{ending}", text) for ending in (".json", ".graphml", ".gml", ".gexf", ".csv", ".mtx",
      ".npz", ".net", ".edgelist", ".graphml.gz")
      for text in (b"", b"\x00" * 64, b"\xff\xfe\x00", b"[" * 50_000, b"\x1b[31m")),
    ("g.json", b'{"nodes": [], "links": []}'), ("g.json", b'{"nodes": 3}'), ("g.json", b"null"),
    ("g.json", b'{"nodes": [{"id": 0}], "links": [{"source": 0, "target": 9}]}'),
    ("g.graphml", b'<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><graphml>&b;</graphml>'),
    ("g.graphml", b'<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]><graphml>&e;</graphml>'),
    ("g.mtx", b"%%MatrixMarket matrix coordinate real general\n9 9 999999999999\n"),
    ("g.edgelist", b"0 1 nan\n"), ("g.csv", b"0,1\n1,2,3,4,5,6\n"),
)  # fmt: skip


def files() -> Iterator[Input]:
    """Yield configurations and graphs that are none."""
    for k, text in enumerate(TEXTS):
        words = (*LAUNCH, "given.yaml")
        yield Input(f"yaml {k}: {text[:30]!r}", words, None, ("given.yaml", text))
    for k, (name, text) in enumerate(GRAPHS):
        words = (*LAUNCH, "task=quadratic", "steps=4", f"topology={name}")
        yield Input(f"graph {k}: {name} {text[:20]!r}", words, None, (name, text))


def _launch(**given: Any) -> Callable[[], object]:
    return lambda: decentral.launch(**{**TINY, **given})


def _task(**given: Any) -> Callable[[], object]:
    def run() -> object:
        loss = torch.nn.functional.cross_entropy
        whole = {"train": (torch.zeros(8, 3), torch.arange(8) % 2), "loss": loss, **given}
        return decentral.launch(
            task=decentral.Task(**whole), model=lambda: torch.nn.Linear(3, 2), **TINY
        )

    return run


def calls() -> Iterator[Input]:
    """Yield what only Python can ask for."""
    quadratic = {"task": "quadratic"}
    settings: tuple[dict[str, Any], ...] = (
        {"nodes": 2.5}, {"nodes": True}, {"nodes": "two"}, {"nodes": 10**30}, {"nodes": [2]},
        {"steps": float("nan")}, {"steps": np.float64("inf")}, {"clip": float("inf")},
        {"lr": "x"}, {"lr": float("nan")}, {"lr": [0.1]},
        {"topology": 3}, {"topology": np.full((2, 2), np.nan)}, {"topology": np.zeros((2, 3))},
        {"topology": np.zeros((0, 0))}, {"topology": object()}, {"topology": lambda: None},
        {"topology": lambda n: None}, {"topology": b"ring"}, {"optimizer": object()},
        {"optimizer": torch.nn.Linear}, {"optimizer": lambda p: None}, {"optimizer": 3},
        {"metrics": [lambda snapshot: "x"]}, {"metrics": [object()]}, {"metrics": 3},
        {"communication": lambda progress: float("nan")}, {"communication": 3},
        {"schedule": lambda progress: "x"}, {"codec": 3}, {"merge": lambda models: None},
        {"merge": object()}, {"callbacks": [3]}, {"track": [object()]}, {"seed": 0.5},
        {"seed": None, "nodes": 0}, {"device": "abacus"}, {"dtype": torch.float32},
        {"engine": {"name": 3}}, {"engine": object()}, {"unknown": 3}, {"out": 3, "nodes": 0},
        {"learning_rate": lambda progress: float("inf")}, {"batch": lambda progress: -1},
        {"batch": lambda progress: float("nan")}, {"faults": object()}, {"node_lr": {0: "x"}},
        {"node_lr": [1, 2]}, {"attack": object()}, {"data": object()}, {"weights": object()},
        {"network": object()}, {"compute": object()},
    )  # fmt: skip
    for one in settings:
        yield Input(f"python {one}"[:70], call=_launch(**quadratic, **one))
    zeros = torch.zeros(8, 3)
    data: tuple[dict[str, Any], ...] = (
        {"train": None}, {"train": ()}, {"train": (zeros,)}, {"train": (zeros, torch.zeros(7))},
        {"train": (zeros[:0], torch.zeros(0, dtype=torch.long))}, {"train": 3}, {"train": "data"},
        {"train": (zeros * torch.nan, torch.arange(8) % 2)}, {"train": [(1, 2), (3,)]},
        
        {"train": (zeros[:, :2], torch.arange(8) % 2)}, {"train": {}}, {"train": iter(())},
        {"train": (np.array([object()] * 8), np.arange(8))}, {"loss": 3}, {"loss": None},
        {"loss": lambda outputs, targets: "x"}, {"loss": lambda outputs, targets: outputs},
        {"loss": lambda outputs, targets: outputs.sum() * torch.nan}, {"test": 3}, {"test": ()},
         {"owners": [0]}, {"owners": object()},
    )  # fmt: skip
    for one in data:
        yield Input(f"data {one}"[:70].replace("\n", " "), call=_task(**one))


# --- what nobody writes by mistake ----------------------------------------------------------------


class Rude:
    """What fails to say what it is."""

    def __repr__(self) -> str:
        raise ValueError("rude")


class Negative:
    """A data set of fewer than no samples."""

    def __len__(self) -> int:
        return -3

    def __getitem__(self, place: int) -> tuple[torch.Tensor, int]:
        return torch.zeros(3), 0


class Leaving(torch.nn.Module):
    """A model that ends the process."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = torch.nn.Linear(3, 2)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        raise SystemExit(0)


def _leave(*given: object) -> None:
    raise SystemExit(0)


def _train(model: Callable[[], object]) -> Callable[[], object]:
    pair = torch.zeros(8, 3), torch.arange(8) % 2
    loss = torch.nn.functional.cross_entropy
    return lambda: decentral.launch(
        task=decentral.Task(train=pair, loss=loss), model=model, **TINY
    )


def _endless() -> tuple[dict[str, Any], list[Any]]:
    mapping: dict[str, Any] = {}
    mapping["a"] = mapping
    return mapping, [mapping]


def surprises() -> Iterator[Input]:
    """Yield names that no file can have, settings that hold themselves, tensors without
    numbers, parts that end the process, and what is no path at all.
    """
    small, wrong = (*LAUNCH[:2], *SMALL), "g\0"
    for words in (
        (*small, "--out", wrong), (*small, "--out", "~nobody-here/x"), ("launch", f"{wrong}.yaml"),
        (*LAUNCH, *SMALL, f"topology={wrong}.json"), (*LAUNCH, *SMALL, f"topology={wrong}.py:x"),
        ("init", wrong), ("init", "~nobody-here"), ("sweep", *SMALL, "seed=0,1", "--out", wrong),
        ("check", "~nobody-here"), ("export", "nowhere", "--out", wrong),
    ):  # fmt: skip
        yield Input(f"names: {words}"[:70], words)
    for text in (b'topology: "g\\0.json"', b'topology: "g\\0.py:x"', b'nodes: "4\\0"'):
        given = ("given.yaml", b"task: quadratic\nsteps: 4\n" + text)
        yield Input(f"yaml: {text!r}", (*LAUNCH, "given.yaml"), None, given)
    (mapping, several), quadratic = _endless(), {"task": "quadratic"}
    meta = torch.ones(2, 2, device="meta")
    settings: tuple[tuple[str, dict[str, Any]], ...] = (
        ("holds itself", {"sam": mapping}), ("holds itself, listed", {"metrics": several}),
        ("holds itself, engine", {"engine": mapping}), ("long", {"seed": 10**5000}),
        ("long, negative", {"batch": -(10**5000)}), ("rude", {"topology": Rude()}),
        ("a builtin", {"topology": type}), ("a module", {"topology": torch.nn.Linear(2, 2)}),
        ("no numbers", {"topology": meta}), ("leaves", {"topology": _leave}),
    )  # fmt: skip
    for name, one in settings:
        yield Input(f"python: {name}", call=_launch(**quadratic, **one))
    labels = torch.arange(8) % 2
    data: tuple[tuple[str, dict[str, Any]], ...] = (
        ("no numbers", {"train": (torch.zeros(8, 3, device="meta"), labels)}),
        ("labels without numbers", {"train": (torch.zeros(8, 3), labels.to("meta"))}),
        ("fewer than none", {"train": Negative()}), ("a loss that leaves", {"loss": _leave}),
    )  # fmt: skip
    for name, one in data:
        yield Input(f"data: {name}", call=_task(**one))
    yield Input("models: leaves", call=_train(Leaving))
    yield Input("models: leaves when made", call=_train(_leave))
    paths: tuple[Any, ...] = (3, None, b"run", ["run"], Rude())
    for path in paths:
        for command in (decentral.resume, decentral.Run, decentral.merge):
            name = f"folders: {command.__name__}, {type(path).__name__}"
            yield Input(name, call=partial(command, path))


def inputs() -> list[Input]:
    """Return them all."""
    return [*command_lines(), *files(), *calls(), *surprises()]


def lay(one: Input, folder: Path) -> None:
    """Write the file that an input names."""
    if one.file:
        (folder / one.file[0]).write_bytes(one.file[1])
