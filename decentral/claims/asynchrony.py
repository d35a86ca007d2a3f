"""Claims about asynchronous training: what slow machines and slow links cost, and what
not waiting does to a step.
"""

from __future__ import annotations

import json
from itertools import pairwise
from math import log
from statistics import fmean
from typing import Any, Literal

import numpy as np

from decentral.claims.base import Curve, Expectation, Findings, Lab, Panel
from decentral.errors import RunError
from decentral.registry import Count, NonNegative, Positive, plugin

_NODES, _STEP_S = 16, 0.02
_SOON = {"name": "uniform", "latency_s": 1e-3, "bandwidth_Bps": 1e9}
#: Who never waits, and so changes the effective step.
_CHANGING = ("swift", "gossip_learning")


def _digits(lab: Lab, label: str, seed: int, steps: int, **way: Any) -> Any:
    given: dict[str, Any] = {
        "task": "digits", "model": {"name": "mlp", "hidden": [64]}, "nodes": _NODES,
        "split": "iid", "batch": 32, "optimizer": {"name": "sgd", "momentum": 0.0},
        "topology": "ring", "communication": "constant", "local_steps": 1, "seed": seed,
        "steps": steps, "eval_every": max(1, steps // 60), "metrics": ("loss",), **way,
    }  # fmt: skip
    return lab.run(label, **given)


def _loss(run: Any, label: str, key: str = "loss/merged") -> Curve:
    """Return a loss over simulated seconds."""
    found: dict[int, tuple[float, float]] = {}
    for record in run.rows:
        if record.get(key) is not None:
            # The first of a step is the one before a merge.
            point = record["time/simulated_s"], record[key]
            found.setdefault(record["step"], point)
    times, losses = zip(*found.values(), strict=True)
    return Curve(label, list(times), list(losses))


def _seconds_to(loss: float, curve: Curve) -> float:
    """Return when a curve first falls below a loss, between two points on a line of
    its logarithm.
    """
    points = list(zip(curve.x, curve.y, strict=True))
    for (before_s, before), (after_s, after) in pairwise(points):
        if after < loss:
            way = log(before / loss) / log(before / after) if before > loss else 0.0
            return before_s + way * (after_s - before_s)
    raise RunError(
        f"{curve.label} does not come to a loss of {loss:g}; give it more steps."
    )


def _trace(lab: Lab, name: str, seed: int, factor: float) -> dict[str, Any]:
    """Write the seconds of 16 machines, that differ by 2 % from moment to moment; the
    first takes ``factor`` times as long.

    Args:
        lab: Where it is written.
        name: What the file is called.
        seed: Seed of this repetition.
        factor: How many times as long.
    """
    draw = np.random.default_rng(seed)
    slow = np.where(np.arange(_NODES) == 0, factor, 1.0)
    lines = ["node,time_s,compute_s"]
    for tick in range(200):
        jitter = np.exp(0.02 * draw.standard_normal(_NODES))
        for node, seconds in enumerate(_STEP_S * slow * jitter):
            lines.append(f"{node},{tick * 0.1:.1f},{seconds:.6f}")
    lab.folder.mkdir(parents=True, exist_ok=True)
    path = lab.folder / f"{name}-{seed}.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return {"name": "trace", "path": str(path.resolve())}


@plugin(
    "claim",
    tiny={"steps": 16, "loss": 2.2},
    quick={"steps": 60, "loss": 1.8, "arms": "heart"},
    off={"algorithm": "dsgd(wait=neighbours)"},
    paper="Lian, Zhang, Zhang & Liu, Asynchronous decentralized parallel stochastic gradient "
    "descent, ICML 2018",
    says="One machine of sixteen that is five times slower slows gossip in rounds down nearly "
    "five times, and asynchronous gossip hardly.",
    expect=(
        Expectation(
            "slower by a straggler, ad_psgd", "AD-PSGD hardly waits for the slow machine",
            high=1.15, over="interval",
        ),
        Expectation(
            "slower by a straggler, rounds", "rounds do", low=4.0, role="condition"
        ),
        Expectation(
            "ad_psgd over its formula", "it loses the updates that the slow machine does not make",
            low=0.9, high=1.1, over="mean",
        ),
        Expectation(
            "slower by a straggler, swift at lr / gain", "nor does SWIFT", high=1.15, over="mean"
        ),
        Expectation(
            "slower by a straggler, gossip_learning at lr / gain", "nor do walking models",
            high=1.2, over="mean",
        ),
        Expectation(
            "no straggler, least over rounds",
            "the null: at equal speeds and gains nobody wins by more than noise",
            low=0.85, over="mean",
        ),
    ),
)  # fmt: skip
def asynchronous_stragglers(
    lab: Lab,
    seed: int,
    *,
    steps: Count = 360,
    lr: Positive = 0.05,
    loss: Positive = 0.5,
    factor: Positive = 5.0,
    algorithm: str = "ad_psgd",
    arms: Literal["all", "heart"] = "all",
) -> Findings:
    """Make one of 16 machines five times slower, and count the simulated seconds to a
    loss.

    Digits, dealt out evenly, on a ring with links of 1 ms and steps of 20 ms. Rules that
    never wait change the effective step; they run at the rate over their gain, too. With
    uneven data a slow machine's is heard less, which this does not measure. The formula
    of AD-PSGD is N / (N - 1 + 1 / factor).

    Args:
        lab: What runs the experiment and keeps its figures.
        seed: Seed of this repetition.
        steps: Steps of a run, of all nodes together over their number.
        lr: Learning rate.
        loss: The loss of the mean model that is waited for.
        factor: How many times as long the slow machine takes.
        algorithm: What takes the place of AD-PSGD.
        arms: Whether ``all`` is measured, or the ``heart``: without SWIFT and models
            that walk.
    """
    seconds: dict[tuple[str, str], float] = {}
    curves: list[Curve] = []
    for world, slowness in (("even", 1.0), ("slow", factor)):
        compute = _trace(lab, world, seed, slowness)
        ways = {"rounds": "dsgd(wait=neighbours)", "ad_psgd": algorithm}
        if arms == "all":
            ways |= {way: way for way in _CHANGING}
        for name, way in ways.items():
            shared = {"compute": compute, "network": _SOON, "algorithm": way}
            run = _digits(
                lab, f"{name}, {world}", seed, steps, **shared, learning_rate=lr
            )
            curve = _loss(run, f"{name}, {world}")
            if way in _CHANGING:
                # At the same length of a step; the gain is that of its own world.
                gain, label = _gain(run), f"{name} at lr / gain, {world}"
                run = _digits(lab, label, seed, steps, **shared, learning_rate=lr / gain)
                seconds[name, world] = _seconds_to(loss, curve)
                name, curve = f"{name} at lr / gain", _loss(run, label)
            seconds[name, world] = _seconds_to(loss, curve)
            curves.append(curve)
    figures = {
        f"slower by a straggler, {name}": seconds[name, "slow"] / seconds[name, "even"]
        for name in dict.fromkeys(name for name, _ in seconds)
    }
    formula = _NODES / (_NODES - 1 + 1 / factor)
    figures["ad_psgd over its formula"] = (
        figures["slower by a straggler, ad_psgd"] / formula
    )
    fair = ("ad_psgd", *(f"{name} at lr / gain" for name in _CHANGING))
    figures["no straggler, least over rounds"] = min(
        seconds[name, "even"] / seconds["rounds", "even"]
        for name in fair
        if (name, "even") in seconds
    )
    panel = Panel("One slow machine", "simulated seconds", "loss", curves, "y")
    return Findings(figures, [panel])


def _gain(run: Any) -> float:
    return float(run.rows[-1]["simulation/gain"])


# --- the effective step -----------------------------------------------------------


@plugin(
    "claim",
    tiny={"steps": 16, "loss": 2.2},
    quick={"steps": 60, "loss": 1.8},
    off={"correction": 0.0},
    paper="Bornstein, Rabbani, Wang, Bedi & Huang, SWIFT: Rapid decentralized federated learning "
    "via wait-free model communication, ICLR 2023",
    says="What never waits changes the effective step: most of what it wins at equal learning "
    "rates is a larger step, and is lost at the rate over the gain.",
    expect=(
        Expectation(
            "advantage that is left at lr / gain",
            "at the rate over its gain SWIFT wins less than half as many seconds",
            high=0.5, over="interval",
        ),
        Expectation(
            "swift over rounds, equal rates", "at equal rates it seems to win", high=0.85,
            over="interval", role="condition",
        ),
        Expectation(
            "gain, jitter 5 %", "its mean grows by more than the updates", low=1.3, high=1.55
        ),
        Expectation("gain, latency of five steps", "late models pull it back", high=0.4),
        Expectation(
            "ad_psgd over rounds, equal rates", "the null: what keeps the mean wins nothing",
            low=0.9, high=1.1, over="mean",
        ),
    ),
)  # fmt: skip
def wait_free_steps(
    lab: Lab,
    seed: int,
    *,
    steps: Count = 360,
    lr: Positive = 0.05,
    loss: Positive = 0.5,
    correction: NonNegative = 1.0,
) -> Findings:
    """Compare SWIFT with gossip in rounds at one learning rate, and at the rate over its
    gain.

    Digits, dealt out evenly, 16 nodes on a ring, steps of 20 ms that differ by 5 %,
    links of 1 ms; the gain is measured in the same runs, and with links of 100 ms.

    Args:
        lab: What runs the experiment and keeps its figures.
        seed: Seed of this repetition.
        steps: Steps of a run.
        lr: Learning rate.
        loss: The loss of the mean model that is waited for.
        correction: Exponent of the gain by which the rate is divided; 0 leaves the rate.
    """
    jitter = {"name": "lognormal", "median": _STEP_S, "nodes_spread": 0.0,
              "steps_spread": 0.05}  # fmt: skip
    shared: dict[str, Any] = {"compute": jitter, "network": _SOON}
    found: dict[str, tuple[Any, Curve]] = {}

    def run(label: str, algorithm: str, rate: float, **other: Any) -> Any:
        way = {**shared, "algorithm": algorithm, "learning_rate": rate, **other}
        made = _digits(lab, label, seed, steps, **way)
        found[label] = made, _loss(made, label)
        return made

    run("rounds", "dsgd(wait=neighbours)", lr)
    gain = _gain(run("swift", "swift", lr))
    run("swift at lr / gain", "swift", lr / gain**correction)
    run("ad_psgd", "ad_psgd", lr)
    far = {"network": {**_SOON, "latency_s": 5 * _STEP_S}}
    late = _gain(run("swift, latency of five steps", "swift", lr, **far))
    curves = [curve for label, (_, curve) in found.items() if "latency" not in label]
    seconds = {curve.label: _seconds_to(loss, curve) for curve in curves}
    over = {name: value / seconds["rounds"] for name, value in seconds.items()}
    figures = {
        "advantage that is left at lr / gain": (1 - over["swift at lr / gain"])
        / max(1e-9, 1 - over["swift"]),
        "swift over rounds, equal rates": over["swift"],
        "swift over rounds, lr / gain": over["swift at lr / gain"],
        "ad_psgd over rounds, equal rates": over["ad_psgd"],
        "gain, jitter 5 %": gain,
        "gain, latency of five steps": late,
    }
    panel = Panel("Equal rates, or equal steps", "simulated seconds", "loss", curves, "y")
    return Findings(figures, [panel])


# --- slow links -------------------------------------------------------------------


@plugin(
    "claim",
    tiny={"steps": 20},
    quick={"steps": 250, "arms": "heart"},
    off={"fragments": 1},
    paper="Biswas, Kermarrec, Sharma, Trinca & de Vos, Boosting asynchronous decentralized "
    "learning with model fragmentation, WWW 2025",
    says="Where some links are slow, sending fragments of models to random nodes trains better "
    "than sending whole models to them.",
    expect=(
        Expectation(
            "loss of fragments over whole models, slow links",
            "fragments come through slow links", high=0.95, over="interval",
        ),
        Expectation(
            "loss of fragments over whole models, fast links",
            "the null: on fast links it does not matter", low=0.9, high=1.1, over="mean",
        ),
        Expectation(
            "slow links over fast links",
            "and what slow links add is more than what there is without them",
            high=0.97, over="mean",
        ),
    ),
)  # fmt: skip
def divshare_slow_links(
    lab: Lab,
    seed: int,
    *,
    steps: Count = 400,
    lr: Positive = 0.05,
    fragments: Count = 10,
    arms: Literal["all", "heart"] = "all",
) -> Findings:
    """Send models in ten fragments, or whole, where half of the nodes have slow lines.

    Digits, few classes per node, 16 nodes that all reach each other, turns of ten steps
    of 20 ms. A slow line needs two turns for what a node sends in one. The loss is the
    mean over the nodes' own models after the last step, on all classes.

    Fragments gain a little on fast links as well: each goes to nodes of its own, so
    that every node receives about as much, where of whole models one node in eight
    gets none in a turn. The last figure leaves that out; it was added after the first
    measurement, in which all seeds had shown it.

    Args:
        lab: What runs the experiment and keeps its figures.
        seed: Seed of this repetition.
        steps: Steps of a run.
        lr: Learning rate.
        fragments: Into how many fragments models are cut.
        arms: Whether ``all`` is measured, or the ``heart``: slow links.
    """
    figures: dict[str, float] = {}
    curves: list[Curve] = []
    # Two models of 64 x 64 + 64 x 10 weights and biases, in two turns of 0.2 s.
    slow_Bps = 2 * 4 * (64 * 64 + 64 + 64 * 10 + 10) / 0.4
    worlds = {"slow": slow_Bps} | ({"fast": 1e9} if arms == "all" else {})
    for links, least_Bps in worlds.items():
        network = _lines(lab, links, seed, least_Bps)
        ends: dict[str, float] = {}
        for name, pieces in (("fragments", fragments), ("whole models", 1)):
            label = f"{name}, {links} links"
            run = _digits(
                lab, label, seed, steps, topology="complete", network=network,
                compute={"name": "lognormal", "nodes_spread": 0.0, "steps_spread": 0.1},
                split={"name": "dirichlet", "alpha": 0.1}, local_steps=10, learning_rate=lr,
                algorithm={"name": "divshare", "fragments": pieces, "receivers": 2},
            )  # fmt: skip
            curve = _loss(run, label, "loss/local_mean")
            curves.append(curve)
            # Over the last fifth: the loss goes up and down with every turn.
            ends[name] = fmean(curve.y[-max(1, len(curve.y) // 5) :])
        figures[f"loss of fragments over whole models, {links} links"] = (
            ends["fragments"] / ends["whole models"]
        )
    ratios = [*figures.values()]
    if len(ratios) == 2:
        figures["slow links over fast links"] = ratios[0] / ratios[1]
    panel = Panel("Fragments", "simulated seconds", "mean loss of nodes", curves, "y")
    return Findings(figures, [panel])


def _lines(lab: Lab, name: str, seed: int, least_Bps: float) -> dict[str, Any]:
    """Write a network in which every second node has a slow line to send over.

    Args:
        lab: Where it is written.
        name: What the file is called.
        seed: Seed of this repetition.
        least_Bps: Bytes per second of a slow line.
    """
    ids = range(_NODES)
    nodes = [{"id": i} if i % 2 else {"id": i, "up_Bps": least_Bps} for i in ids]
    links = [
        {
            "source": i,
            "target": j,
            **{k: _SOON[k] for k in ("latency_s", "bandwidth_Bps")},
        }
        for i in ids
        for j in range(i)
    ]
    lab.folder.mkdir(parents=True, exist_ok=True)
    path = lab.folder / f"{name}-{seed}.json"
    path.write_text(json.dumps({"nodes": nodes, "links": links}), encoding="utf-8")
    return {"name": str(path.resolve())}
