"""Batch schedules under equal data: the kernel model, networks on MNIST, a small GPT on text.

    DECENTRAL_DATA=DIR python benchmarks/batch_study.py \\
        kernel mnist mnist-hot mnist-cnn gpt together --out X

DIR holds mnist/*.parquet and text/tinyshakespeare.txt. Every part prints its tables, writes its
numbers into the folder and draws its figure. Seeds are nodes that never communicate: each has
a first model and samples of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

from common import table

# isort: split
import numpy as np
from matplotlib.figure import Figure

from decentral.config import make_config
from decentral.engines.worker import configure_process
from decentral.exchange.base import LocalExchange
from decentral.loop.block import Block
from decentral.loop.measure import Evaluator
from decentral.loop.preparing import prepare
from decentral.theory import fsl

SEEDS = 3
SHARES = {"early 25 %": 0.25, "mid 50 %": 0.5, "late 75 %": 0.75, "late 90 %": 0.9}
SMALL, MIDDLE, LARGE = 8, 24, 64
DATA = Path(os.environ.get("DECENTRAL_DATA", "data"))

MNIST: dict[str, Any] = {
    "task": {"name": "mnist", "path": str(DATA / "mnist")},
    "model": "mlp(hidden=[32])",
    "optimizer": "sgd(momentum=0)",
    "samples": 2**15,
}
NETWORKS: dict[str, dict[str, Any]] = {
    "mnist": {**MNIST, "learning_rate": {"name": "constant", "lr": 0.03}},
    "mnist-hot": {**MNIST, "learning_rate": {"name": "constant", "lr": 0.1}},
    "mnist-cnn": {
        **MNIST,
        "model": "cnn(channels=[8, 16], norm=group)",
        "learning_rate": {"name": "constant", "lr": 0.03},
        "samples": 2**14,
    },
    "gpt": {
        "task": {
            "name": "text",
            "path": str(DATA / "text/tinyshakespeare.txt"),
            "context": 32,
        },
        "model": "gpt(layers=1, width=32, heads=2)",
        "optimizer": "sgd(momentum=0.9)",
        "learning_rate": {"name": "constant", "lr": 0.1, "warmup": "20 steps"},
        "clip": 1.0,
        "samples": 2**13,
    },
}


# --- one run --------------------------------------------------------------------------------------


def block_of(settings: dict[str, Any]) -> Block:
    """Prepare a run in this process, on one thread, with nothing written."""
    configure_process(1)
    base = {
        "threads": 1,
        "device": "cpu",
        "eval_samples": 1000,
        "calibration_samples": 1000,
    }
    setup = prepare(make_config({**base, **settings}))
    return Block(setup, LocalExchange(setup.config.nodes), lambda event, details: None)


def curve(name: str, stages: fsl.Stages, looks: list[int]) -> dict[str, Any]:
    """Train by a schedule and return the test loss of every seed after each of ``looks`` steps."""
    settings = {key: value for key, value in NETWORKS[name].items() if key != "samples"}
    plan = {"name": "plan", "sizes": stages.sizes.tolist(), "at": stages.shares()}
    alone = {
        "algorithm": "local",
        "nodes": SEEDS,
        "init": "independent",
        "split": "iid",
        "sampling": "resample",
        "batch": plan,
        "data": f"{stages.data} samples/node",
    }
    block = block_of({**settings, **alone})
    evaluator, losses, begin = Evaluator(block), {}, time.process_time()
    while block.step < block.setup.config.steps:
        block.setup.algorithm(block, None)
        block.finish_step()
        if block.step in looks or block.step == block.setup.config.steps:
            losses[block.step] = evaluator.snapshot(complete=False).local.loss.tolist()
    assert block.samples == stages.data
    return {
        "steps": stages.steps,
        "data": stages.data,
        "cpu_s": time.process_time() - begin,
        "at": list(losses),
        "losses": list(losses.values()),
    }


def looks_of(stages: fsl.Stages) -> list[int]:
    """Return steps to look at: evenly by data, densely at the start and after every switch."""
    ends = np.cumsum(stages.counts)
    taken = np.cumsum(stages.per_step())
    even = np.searchsorted(taken, np.linspace(0, taken[-1], 33)[1:]) + 1
    starts = [0, *ends[:-1].tolist()] if len(ends) <= 4 else [0]
    dense = [
        start + step
        for start in starts
        for step in (0, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89)
    ]
    return sorted({int(step) for step in [*even, *dense] if 1 <= step <= stages.steps})


# --- networks -------------------------------------------------------------------------------------


def constant(budget: int, size: int) -> fsl.Stages:
    return fsl.Stages.of((size, budget // size))


def study_network(name: str, out: Path) -> None:
    """Fit constant batches, predict everything else, and measure it."""
    budget, lr = NETWORKS[name]["samples"], NETWORKS[name]["learning_rate"]["lr"]
    schedules = {f"constant {b}": constant(budget, b) for b in (SMALL, MIDDLE, LARGE)}
    found = {
        key: curve(name, stages, looks_of(stages)) for key, stages in schedules.items()
    }
    curves = [
        fsl.Curve(key, int(schedules[key].sizes[0]), lr, np.array(run["at"], dtype=float),
                  np.array(run["losses"]).mean(axis=1))
        for key, run in found.items()
    ]  # fmt: skip
    fitted = fsl.fit(curves)
    for key, share in SHARES.items():
        schedules[key] = fsl.Stages.switch(budget, SMALL, LARGE, share)
    schedules["optimal"] = fsl.optimal(fitted.law, budget, SMALL, LARGE).schedule
    for key, stages in schedules.items():
        if key not in found:
            found[key] = curve(name, stages, looks_of(stages))
    late = schedules["late 75 %"]
    reference = fsl.Stages.of((LARGE, late.steps))
    found["always large"] = curve(name, reference, looks_of(late))
    predicted = {key: fitted.predict(stages) for key, stages in schedules.items()}
    keep(
        out,
        name,
        {
            "runs": found,
            "fit": said(fitted),
            "predicted": {k: [p.loss, p.low, p.high] for k, p in predicted.items()},
        },
    )
    report_network(name, found, predicted, fitted)
    draw(out / f"batch-{name}.png", found, name)


def said(fitted: fsl.Fit) -> dict[str, Any]:
    return {
        "source": [fitted.law.source, *fitted.interval("source")],
        "capacity": [fitted.law.capacity, *fitted.interval("capacity")],
        "floor": [fitted.law.floor, *fitted.interval("floor")],
        "error": fitted.error,
    }


def report_network(
    name: str, found: dict[str, Any], predicted: dict[str, Any], fitted: fsl.Fit
) -> None:
    print(f"\n{name}: fit {json.dumps(said(fitted))}")
    rows = []
    for key, guess in predicted.items():
        last = np.array(found[key]["losses"][-1])
        rows.append([
            key, f"{found[key]['steps']:,}", f"{found[key]['data']:,}",
            f"{last.mean():.4f} ± {last.std(ddof=1):.4f}",
            f"{guess.loss:.4f} ({guess.low:.4f}-{guess.high:.4f})",
            f"{100 * (guess.loss / last.mean() - 1):+.1f} %", "" if key in SHARES or
            key == "optimal" else "fitted",
        ])  # fmt: skip
    head = ["schedule", "steps", "data", "test loss", "predicted", "off by", ""]
    table(f"{name}, {SEEDS} seeds", head, rows)
    late, large = found["late 75 %"], found["always large"]
    shared = [step for step in late["at"] if step in large["at"]]
    mean = lambda run, step: float(np.mean(run["losses"][run["at"].index(step)]))  # noqa: E731
    switch = max(s for s in shared if s <= 0.97 * late["steps"] and s % SMALL == 0)
    rows = [[step, mean(late, step), mean(large, step), mean(late, step) - mean(large, step)]
            for step in shared if step >= 0.8 * switch]  # fmt: skip
    written = [[row[0], *(f"{value:.4f}" for value in row[1:])] for row in rows]
    table(f"{name}: late 75 % against always {LARGE}, at the same step",
          ["step", "late", "always large", "difference"], written)  # fmt: skip


# --- the kernel model -----------------------------------------------------------------------------


def study_kernel(
    out: Path, budget: int = 2**20, small: int = 8, large: int = 128
) -> None:
    """Compare the exact recursion with the law, on a hard and on an easy task."""
    kept: dict[str, Any] = {}
    for label, source in (("hard, s = 0.25", 0.25), ("easy, s = 1", 1.0)):
        task = fsl.PowerLaw(source=source, capacity=2)
        law = fsl.Law.of(task)
        schedules = {f"constant {b}": constant(budget, b) for b in (small, 32, large)}
        for key, share in {"early 10 %": 0.1, **SHARES, "late 97 %": 0.97}.items():
            schedules[key] = fsl.Stages.switch(budget, small, large, share)
        begin = time.perf_counter()
        schedules["optimal"] = fsl.optimal(law, budget, small).schedule
        took = time.perf_counter() - begin
        schedules["optimal, two stages"] = fsl.Stages.switch(
            budget, small, large, fsl.two_stage(law, budget, small, large)[0]
        )
        exact = {k: float(fsl.exact_risk(task, s)[0]) for k, s in schedules.items()}
        rows = [
            [k, f"{s.steps:,}", f"{int(s.sizes.max()):,}", f"{exact[k]:.6f}",
             f"{law.risk(s):.6f}", f"{100 * (law.risk(s) / exact[k] - 1):+.1f} %"]
            for k, s in schedules.items()
        ]  # fmt: skip
        head = ["schedule", "steps", "largest batch", "exact", "law", "off by"]
        table(
            f"kernel, {label}, {budget:,} samples; planned in {1000 * took:.0f} ms",
            head,
            rows,
        )
        kept[label] = {
            "exact": exact,
            "curves": kernel_curves(task, schedules, small, large),
        }
    keep(out, "kernel", kept)
    draw_kernel(out / "batch-kernel.png", kept)


def kernel_curves(
    task: fsl.PowerLaw, schedules: dict[str, fsl.Stages], small: int, large: int
) -> dict[str, Any]:
    """Return curves with switches at three times, and of a batch that is always large."""
    steps = schedules["late 75 %"].steps
    at = sorted({int(s) for s in np.geomspace(10, steps, 160)})
    found: dict[str, Any] = {}
    for share in (0.1, 0.3, 0.75):
        before = int(share * steps)
        near = [
            before + k
            for k in (1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144, 233)
            if before + k < steps
        ]
        looks = sorted({*at, before, *near})
        stages = fsl.Stages.of((small, before), (large, steps - before))
        risks = fsl.exact_risk(task, stages, looks)
        found[f"switch after {before:,} steps"] = [looks, risks.tolist()]
    always = fsl.Stages.of((large, steps))
    found["always large"] = [at, fsl.exact_risk(task, always, at).tolist()]
    return found


# --- together with communication ------------------------------------------------------------------


def study_together(out: Path) -> None:
    """Cross batch schedules with communication schedules on 16 nodes, equal data."""
    batches = {"constant 8": 8, "constant 64": 64,
               "early switch": "early_switch(at=25%, from=8, to=64)",
               "late switch": "late_switch(at=75%, from=8, to=64)"}  # fmt: skip
    schedules = {
        "early": "early(stop=25%, intensity=0.05, final_merge=true)",
        "late": "late(start=75%, intensity=0.05)",
        "never, then merge": "none(final_merge=true)",
    }
    rows, kept = [], {}
    for batch, spec in batches.items():
        for schedule, communication in schedules.items():
            runs = [together(spec, communication, seed) for seed in range(SEEDS)]
            kept[f"{batch}, {schedule}"] = runs
            columns = [
                np.array([run[key] for run in runs])
                for key in ("local", "merged", "loss", "megabytes")
            ]
            local, merged, loss, sent = columns
            rows.append([
                batch, schedule, f"{runs[0]['steps']:,}", f"{sent.mean():.1f}",
                f"{local.mean():.1f} ± {local.std(ddof=1):.1f}",
                f"{merged.mean():.1f} ± {merged.std(ddof=1):.1f}",
                f"{loss.mean():.3f} ± {loss.std(ddof=1):.3f}",
            ])  # fmt: skip
    keep(out, "together", kept)
    head = [
        "batch",
        "communication",
        "steps",
        "MB sent",
        "local %",
        "merged %",
        "merged loss",
    ]
    table("mnist, 16 nodes, ring, 2,048 samples each", head, rows)


def together(batch: Any, communication: str, seed: int) -> dict[str, float]:
    from decentral.loop import train

    settings = {
        key: value for key, value in NETWORKS["mnist"].items() if key != "samples"
    }
    block = block_of({
        **settings, "nodes": 16, "topology": "ring", "local_steps": 2, "split": "dirichlet",
        "batch": batch, "data": "2048 samples/node", "communication": communication, "seed": seed,
        "eval_every": 100000,
    })  # fmt: skip
    rows = [row for row in train(block, Evaluator(block)) if "phase" in row]
    before, final = rows[0], rows[-1]
    assert final["samples"] == 2048
    return {
        "steps": final["step"], "megabytes": final["comm/bytes"] / 1e6,
        "local": 100 * before["accuracy/local_mean"], "merged": 100 * final["accuracy/merged"],
        "loss": final["loss/merged"],
    }  # fmt: skip


# --- figures --------------------------------------------------------------------------------------


def keep(out: Path, name: str, numbers: dict[str, Any]) -> None:
    (out / f"{name}.json").write_text(json.dumps(numbers))


COLOURS = {"constant 8": "#97a3b4", "constant 64": "#17202c", "early 25 %": "#cc6a14",
           "mid 50 %": "#0a8a6a", "late 75 %": "#1c5fc4", "optimal": "#b03a86"}  # fmt: skip


def draw(path: Path, found: dict[str, Any], name: str) -> None:
    figure = Figure(figsize=(10.5, 3.9), layout="constrained")
    left, right = figure.subplots(1, 2)
    for key, colour in COLOURS.items():
        run = found[key]
        losses = np.array(run["losses"])
        left.plot(run["at"], losses.mean(axis=1), color=colour, label=key, linewidth=1.6)
    left.set(xscale="log", yscale="log", xlabel="step", ylabel="test loss, mean of 3 seeds",
             title=f"{name}: equal data")  # fmt: skip
    left.legend(frameon=False, fontsize=8)
    late, large = found["late 75 %"], found["always large"]
    for run, label, colour in (
        (late, "8, then 64", "#1c5fc4"),
        (large, "always 64", "#17202c"),
    ):
        losses = np.array(run["losses"])
        right.plot(run["at"], losses.mean(axis=1), ".-", color=colour, label=label)
        right.fill_between(
            run["at"], losses.min(1), losses.max(1), color=colour, alpha=0.15
        )
    lower = np.array(large["losses"])[len(large["at"]) // 2 :].min()
    upper = np.array(late["losses"])[len(late["at"]) // 2 :].max()
    right.set(
        xlim=(0.4 * late["steps"], 1.01 * late["steps"]),
        ylim=(0.97 * lower, 1.03 * upper),
        xlabel="step",
        title="The switch, against a batch that was always large",
    )
    right.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=110)


def draw_kernel(path: Path, kept: dict[str, Any]) -> None:
    figure = Figure(figsize=(10.5, 3.9), layout="constrained")
    for axes, (label, both) in zip(figure.subplots(1, 2), kept.items(), strict=True):
        colours = ("#cc6a14", "#0a8a6a", "#1c5fc4", "#17202c")
        for (key, (steps, risks)), colour in zip(
            both["curves"].items(), colours, strict=True
        ):
            axes.plot(steps, risks, color=colour, label=key, linewidth=1.6)
        axes.set(xscale="log", yscale="log", xlabel="step", ylabel="excess risk, exact",
                 title=f"Kernel model, {label}: 8, then 128")  # fmt: skip
        axes.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("parts", nargs="+", choices=["kernel", "together", *NETWORKS])
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    for part in asked.parts:
        begin = time.process_time()
        if part == "kernel":
            study_kernel(asked.out)
        elif part == "together":
            study_together(asked.out)
        else:
            study_network(part, asked.out)
        print(f"\n{part}: {time.process_time() - begin:.0f} s of CPU")


if __name__ == "__main__":
    main()
