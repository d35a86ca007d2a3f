"""What phases do: SAM late in training, label noise, and whether late SAM changes mergeability.

    python benchmarks/phases.py late_sam label_noise mergeability cost [--png docs]

Prints the tables of docs/phases.md from configs/papers/*.yaml; with --png also draws the figures.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import decentral

# isort: split
import torch
from common import table
from torch import Tensor
from torch.nn.functional import cross_entropy

from decentral.config import make_config, read_file, resolve_aliases
from decentral.engines.worker import configure_process
from decentral.exchange.base import LocalExchange
from decentral.gradients import make_stacked_forward
from decentral.layout import share_parameters
from decentral.loop.block import Block
from decentral.loop.preparing import prepare
from decentral.loop.rounds import checkpoint_of, restore
from decentral.metrics import score
from decentral.metrics.curvature import hessian, top_eigenvalue
from decentral.run.checkpoint import Checkpoint
from decentral.tasks import Samples

CONFIGS = Path(__file__).parents[1] / "configs" / "papers"


def block_of(name: str, **settings: Any) -> Block:
    """Return the block of a configuration, all its nodes in this process."""
    config = make_config(read_file(CONFIGS / f"{name}.yaml"), resolve_aliases(settings))
    return Block(prepare(config), LocalExchange(config.nodes), lambda *_: None)


def advance(block: Block, step: int) -> None:
    """Train until ``step`` steps are done."""
    while block.step < step:
        block.setup.algorithm(block, block.decide())
        block.finish_step()


def spread(values: Tensor, digits: int = 3) -> str:
    """Write mean and standard deviation over the seeds."""
    return f"{values.mean():.{digits}f} ± {values.std():.{digits}f}"


# --- SAM late in training -------------------------------------------------------------------------

STARTS: dict[str, Any] = {
    "always": "0%", "last 25 %": "75%", "last 12.5 %": "87.5%", "never": None,
}  # fmt: skip
MARKS = (0, 10, 30, 60, 100, 200, 400)


class Judge:
    """Measures every row of a block, each seed for itself."""

    def __init__(self, block: Block) -> None:
        setup = block.setup
        train, val, test = setup.task.splits
        assert val is not None
        self.train, self.task, self.layout = train, setup.task, setup.layout
        pairs = zip((test.inputs, test.targets), (val.inputs, val.targets), strict=True)
        self.test = Samples(*(torch.cat(pair) for pair in pairs))
        self.forward = make_stacked_forward(
            share_parameters(setup.model).eval(), setup.layout
        )

    def smoothed(self, rows: Tensor) -> Tensor:
        """Return the training loss with label smoothing 0.1, [n]."""
        with torch.no_grad():
            outputs = self.forward(rows, {}, self.train.inputs)
        targets = self.train.targets
        return torch.stack(
            [cross_entropy(y, targets, label_smoothing=0.1) for y in outputs]
        )

    def __call__(self, rows: Tensor) -> dict[str, Tensor]:
        scores = score(self.task, self.forward, rows, {}, self.test)
        wide = self.layout.trainable
        product = hessian(self.forward, self.task.loss, rows, {}, self.train, wide)
        draw = torch.Generator().manual_seed(0)
        probes = torch.randn(20, wide, generator=draw).sign()
        trace = torch.stack(
            [(z * product(z.expand(len(rows), -1))).sum(1) for z in probes]
        ).mean(0)
        start = torch.randn(wide, generator=draw).expand(len(rows), -1)
        return {
            "error": 100 * (1 - scores.accuracy), "loss": scores.loss, "train": self.smoothed(rows),
            "top": top_eigenvalue(product, start, 40), "trace": trace,
        }  # fmt: skip


def barrier(judge: Judge, one: Tensor, other: Tensor) -> Tensor:
    """Return max_a [L(a) - (1 - a) L(0) - a L(1)] of the smoothed training loss, [n]."""
    shares = torch.linspace(0, 1, 21)
    losses = torch.stack(
        [judge.smoothed((1 - a) * one + a * other) for a in shares.tolist()]
    )
    line = (1 - shares)[:, None] * losses[0] + shares[:, None] * losses[-1]
    return (losses - line).max(0).values


def late_sam(png: Path | None) -> None:
    """Train with SAM from different points on; compare the minima; watch the escape."""
    ends: dict[str, Tensor] = {}
    found: dict[str, dict[str, Tensor]] = {}
    checkpoint: Checkpoint | None = None
    judge: Judge | None = None
    for name, start in STARTS.items():
        block = block_of("late_sam", **({"sam.start": start} if start else {"sam": 0.0}))
        judge = judge or Judge(block)
        advance(block, block.setup.config.steps)
        ends[name], found[name] = block.rows.clone(), judge(block.rows)
        checkpoint = checkpoint_of(block)
    assert judge is not None
    assert checkpoint is not None
    gap = found["never"]["top"] - found["always"]["top"]
    rows: list[list[str]] = []
    for name, values in found.items():
        back = (found["never"]["top"] - values["top"]) / gap
        apart = barrier(judge, ends["never"], ends[name]).max().item()
        rows.append([
            name, spread(values["error"], 2), spread(values["loss"]), spread(values["top"]),
            spread(values["trace"], 1), spread(values["train"]), spread(back, 2), f"{apart:.4f}",
        ])  # fmt: skip
    head = [
        "SAM",
        "test error %",
        "test loss",
        "top eigenvalue",
        "trace",
        "train loss, smoothed",
        "recovered",
        "barrier to never",
    ]
    table("SAM late in training (mean ± deviation over 3 seeds)", head, rows)
    never = ends["never"]
    apart = barrier(judge, never, never.roll(1, 0))
    print(f"\nbarrier between two seeds that never saw SAM: {spread(apart)}")
    curves = {rho: _escape(judge, checkpoint, rho) for rho in (0.0, 0.2, 0.5, 1.0)}
    lines = [
        [f"{rho:g}", *(f"{losses.mean():.4f}" for losses in curve)]
        for rho, curve in curves.items()
    ]
    table(
        "Leaving the minimum of never: smoothed training loss",
        ["rho", *map(str, MARKS)],
        lines,
    )
    if png:
        _draw_sam(png / "phases-late-sam.png", found, curves)


def _escape(judge: Judge, checkpoint: Checkpoint, rho: float) -> list[Tensor]:
    """Go on from where SGD ended, with SAM of radius ``rho`` and a fresh optimizer."""
    last = checkpoint.step
    block = block_of("late_sam", sam={"rho": rho, "start": "0%"}, steps=last + MARKS[-1])
    restore(block, checkpoint)
    block.optimizer.restart()
    losses: list[Tensor] = []
    for mark in MARKS:
        advance(block, last + mark)
        losses.append(judge.smoothed(block.rows))
    return losses


def _draw_sam(
    path: Path, found: dict[str, dict[str, Tensor]], curves: dict[float, list[Tensor]]
) -> None:
    def draw(figure: Any) -> None:
        left, right = figure.subplots(1, 2)
        names = list(found)
        for place, name in enumerate(names):
            left.plot([place] * 3, found[name]["top"], "o", color="#3b86f2")
        left.set_xticks(range(len(names)), names)
        left.set_ylim(0)
        left.set_title(
            "Top Hessian eigenvalue, three seeds, by when SAM was on", fontsize=9
        )
        for rho, curve in curves.items():
            right.plot(MARKS, [v.mean() for v in curve], "o-", ms=3, label=f"rho {rho:g}")
        right.set_title("Leaving SGD's minimum: smoothed training loss", fontsize=9)
        right.set_xlabel("steps of SAM")
        right.legend(frameon=False)

    _figure(path, draw)


def _figure(path: Path, draw: Callable[[Any], None]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.4), layout="constrained")
    draw(figure)
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)
    print(f"drawn in {path}")


# --- label noise ----------------------------------------------------------------------------------


def neurons(block: Block) -> dict[str, Tensor]:
    """Return how long and how aligned every seed's neurons are, and its kernel on the inputs."""
    first, second = block.setup.layout.views(block.rows).values()
    train = block.setup.train
    direction = torch.linalg.lstsq(train.inputs, train.targets).solution.flatten()
    direction = direction / direction.norm()
    norms = first.norm(dim=2)
    squared = torch.linalg.svdvals(first).square()
    hidden = train.inputs @ first.transpose(1, 2)
    size = second.square().sum((1, 2))[:, None, None]
    return {
        "norm": norms.mean(1),
        "alignment": (first @ direction).abs().sum(1) / norms.sum(1),
        "share": squared[:, 0] / squared.sum(1),
        "kernel": size * (train.inputs @ train.inputs.T)
        + hidden @ hidden.transpose(1, 2),
    }


def label_noise(png: Path | None) -> None:
    """Let neurons shrink and align under noise of several levels, and turn it on and off."""
    rows: list[list[str]] = []
    curves: dict[str, list[float]] = {}
    for level in (0.0, 2.0, 4.0):
        block = block_of("label_noise", **{"label_noise.level": level})
        steps = block.setup.config.steps
        start, norms = neurons(block), []
        for step in range(0, steps + 1, 1_000):
            advance(block, step)
            norms.append(neurons(block)["norm"].mean().item())
        end = neurons(block)
        curves[f"noise {level:g}"] = norms
        cosine = torch.cosine_similarity(
            end["kernel"].flatten(1), start["kernel"].flatten(1)
        )
        away = (end["kernel"] - start["kernel"]).flatten(1).norm(dim=1)
        away = away / start["kernel"].flatten(1).norm(dim=1)
        rows.append(
            [
                f"{level:g}",
                spread(start["norm"]),
                spread(end["norm"]),
                spread(cosine),
                spread(away),
                spread(start["alignment"]),
                spread(end["alignment"]),
                spread(end["share"]),
            ]
        )
    head = [
        "noise",
        "norm at 0",
        "norm at the end",
        "kernel cosine",
        "kernel moved",
        "alignment at 0",
        "at the end",
        "top share",
    ]
    table("Label noise (mean ± deviation over 3 seeds)", head, rows)
    block = block_of("label_noise", **{"label_noise.every": 2_000, "steps": 8_000})
    toggled: list[float] = []
    for step in range(0, 8_001, 500):
        advance(block, step)
        toggled.append(neurons(block)["norm"].mean().item())
    at = [f"{norm:.4f}" for norm in toggled[::4]]
    table(
        "Noise 4 on and off every 2,000 steps: mean norm", ["0", *["on", "off"] * 2], [at]
    )
    if png:
        _draw_noise(png / "phases-label-noise.png", curves, toggled)


def _draw_noise(path: Path, curves: dict[str, list[float]], toggled: list[float]) -> None:
    def draw(figure: Any) -> None:
        left, right = figure.subplots(1, 2, sharey=True)
        for name, norms in curves.items():
            left.plot(range(0, 1_000 * len(norms), 1_000), norms, label=name)
        left.legend(frameon=False)
        left.set_title("Mean norm of a neuron under label noise", fontsize=9)
        right.plot(range(0, 8_001, 500), toggled, color="#b4560f")
        for begin in (0, 4_000):
            right.axvspan(begin, begin + 2_000, color="#f3e3d3", linewidth=0)
        right.set_title("Noise 4, on where shaded", fontsize=9)
        left.set_ylim(0)
        for axes in (left, right):
            axes.set_xlabel("steps")

    _figure(path, draw)


# --- mergeability ---------------------------------------------------------------------------------

KEYS = ("accuracy/local_mean", "accuracy/merged", "mergeability/gap", "loss/merged",
        "consensus/distance", "curvature/top_local_mean", "curvature/top_merged")  # fmt: skip


def mergeability(png: Path | None) -> None:
    """Merge 16 models that saw SAM from different points on, 3 seeds each."""
    rows: list[list[str]] = []
    for name, start in STARTS.items():
        found = [_merged(start, seed) for seed in range(3)]
        columns = {key: torch.tensor([row[key] for row in found]) for key in KEYS}
        rows.append([name, *(
            spread(v * 100, 1) if "acc" in key or "gap" in key else spread(v)
            for key, v in columns.items()
        )])  # fmt: skip
    head = [
        "SAM",
        "local %",
        "merged %",
        "gap, points",
        "merged loss",
        "consensus",
        "top eigenvalue, local",
        "merged",
    ]
    table("Just before the single merge (mean ± deviation over 3 seeds)", head, rows)


def _merged(start: str | None, seed: int) -> dict[str, float]:
    settings = read_file(CONFIGS / "late_sam_mergeability.yaml")
    settings["sam"] = {**settings["sam"], "start": start} if start else {"rho": 0}
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        decentral.launch(**settings, out=str(out), seed=seed, threads=1)
        lines = [json.loads(x) for x in (out / "metrics.jsonl").read_text().splitlines()]
    return next(row for row in lines if row.get("phase") == "before_merge")


# --- cost -----------------------------------------------------------------------------------------

METHODS: dict[str, dict[str, Any]] = {
    "label noise": {"label_noise": 0.1},
    "label smoothing": {"label_smoothing": 0.1},
    "SAM": {"sam": 0.1},
    "adversarial, 1 step": {"adversarial": {"eps": 0.1, "steps": 1}},
    "adversarial, 10 steps": {"adversarial": {"eps": 0.1, "steps": 10}},
}
_STEPS = 40


def cost(png: Path | None) -> None:
    """Compare the processor time of a step with each method to that of a plain one."""
    rows: list[list[str]] = []
    for nodes in (1, 16):
        settings = {
            "nodes": nodes,
            "topology": "ring",
            "communication": "none",
            "task": "digits",
        }
        plain = _step_s(settings)
        ratios = [
            f"{_step_s(settings | extra) / plain:.2f}" for extra in METHODS.values()
        ]
        rows.append([str(nodes), f"{1e3 * plain:.2f} ms", *ratios])
    table(
        "Processor time of a step, times that of plain SGD",
        ["nodes", "plain", *METHODS],
        rows,
    )


def _step_s(settings: dict[str, Any]) -> float:
    """Return the least processor seconds of one step."""
    block = Block(
        prepare(make_config(settings)), LocalExchange(settings["nodes"]), lambda *_: None
    )
    times: list[float] = []
    for step in range(1, _STEPS):
        begin = time.process_time()
        advance(block, step)
        times.append(time.process_time() - begin)
    return min(times)


STUDIES = {
    "late_sam": late_sam, "label_noise": label_noise, "mergeability": mergeability, "cost": cost,
}  # fmt: skip


def main() -> None:
    """Run the studies that are named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "studies", nargs="*", default=list(STUDIES), help=", ".join(STUDIES)
    )
    parser.add_argument("--png", type=Path, help="folder of the figures")
    arguments = parser.parse_args()
    configure_process(1)
    for name in arguments.studies:
        STUDIES[name](arguments.png)


if __name__ == "__main__":
    main()
