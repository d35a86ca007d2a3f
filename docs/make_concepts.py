"""Pictures of the concepts, drawn by the program that they are about, as the site is built."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from decentral.mixing.base import Mixer
from decentral.registry import build
from decentral.report import figures, reader
from decentral.report.drawing import drawing, light
from decentral.report.figures.canvas import canvas, styled
from decentral.topology.base import Topology

SIZE = (5.6, 2.4)  # Inches.
_HEADING = re.compile(r"^## (.+)\n\n", re.MULTILINE)


def embedded(figure: figures.Figure | None, name: str, label: str) -> str:
    """Return a figure as a part of a page, in the colours of the page's theme.

    Args:
        figure: What was drawn.
        name: Prefix of its ids, unique on the page.
        label: What it shows, for readers who cannot see it.
    """
    assert figure is not None
    made = drawing(figures.to_svg(figure), name, label)
    width = float(made.box.split()[2])
    return (
        f'\n```{{raw}} html\n<svg class="drawn" role="img" aria-label="{label}" '
        f'viewBox="{made.box}" width="{1.3 * width:.0f}">{made.body}</svg>\n```\n'
    )


def rounds(name: str, nodes: int, count: int) -> np.ndarray:
    """Return numbers of nodes over rounds of averaging, [rounds + 1, nodes]."""
    mixer = Mixer.make(Topology(build("topology", name), nodes))
    held = [np.random.default_rng(0).normal(size=nodes)]
    for step in range(count):
        held.append(mixer.mixing(step).dense() @ held[-1])
    return np.stack(held)


def _bare(width: float = SIZE[0], height: float = SIZE[1]):
    figure, axes = canvas((width, height))
    axes.set_axis_off()
    return figure, axes


def node() -> figures.Figure:
    """Draw three nodes with data of their own."""
    figure, axes = _bare()
    for place, shares in enumerate(((5, 1, 0), (0, 4, 2), (1, 0, 5))):
        axes.scatter(
            [3 * place], [1], s=900, facecolor=light("card"), edgecolor=light("merged")
        )
        axes.text(3 * place, 1, f"node {place}", ha="center", va="center", fontsize=8)
        for kind, share in enumerate(shares):
            axes.bar(
                3 * place - 0.5 + kind * 0.5,
                share / 6,
                0.4,
                2,
                color=light(f"run-{kind}"),
            )
    axes.text(3, 3.2, "samples by class", ha="center", color=light("muted"))
    axes.set_xlim(-1.3, 7.3)
    return figure


def row() -> figures.Figure:
    """Draw a block of rows, one of them marked."""
    figure, axes = _grid(4, 14, lambda i, j: i == 1)
    axes.text(7, 1.2, "P parameters", ha="center", color=light("muted"))
    axes.set_xlim(-3, 14.5)
    axes.set_ylim(-3.4, 1.8)
    return figure


def _grid(nodes: int, columns: int, marked: Callable[[int, int], bool]) -> Any:
    """Draw boxes side by side for each node, and mark some."""
    figure, axes = _bare()
    for i in range(nodes):
        for j in range(columns):
            colour = light("merged") if marked(i, j) else light("line")
            axes.add_patch(_box(j, -i, 0.9, 0.8, colour))
        axes.text(-0.4, -i + 0.4, f"node {i}", ha="right", va="center")
    return figure, axes


def _box(x: float, y: float, width: float, height: float, colour: str):
    from matplotlib.patches import Rectangle

    return Rectangle((x, y), width, height, facecolor=colour, edgecolor="none")


def step() -> figures.Figure:
    """Draw the steps of three nodes, one of them marked."""
    figure, axes = _grid(3, 10, lambda i, k: k == 4)
    axes.text(4.45, 1.2, "one step", ha="center", color=light("muted"))
    axes.set_xlim(-2.5, 10.2)
    axes.set_ylim(-2.4, 1.8)
    return figure


def communication_step() -> figures.Figure:
    """Draw steps, and those after which the schedule is asked."""
    figure, axes = _timeline()
    for x in (10, 20, 30):
        axes.text(x, 1.25, "?", ha="center", va="center", color=light("comm"))
    return figure


def round_() -> figures.Figure:
    """Draw communication steps, and the rounds among them with their numbers."""
    figure, axes = _timeline()
    for x, said in ((10, "round 0"), (30, "round 1")):
        axes.scatter([x], [1.0], s=70, color=light("comm"))
        axes.text(x, 1.4, said, ha="center", va="center")
    axes.text(20, 1.4, "nothing sent", ha="center", va="center", color=light("muted"))
    return figure


def _timeline():
    """Return steps on a line, every tenth a communication step."""
    figure, axes = _bare()
    axes.vlines(range(1, 31), 0, 0.4, color=light("link"))
    axes.vlines((10, 20, 30), 0, 1.0, color=light("comm"), lw=2)
    for y, said in ((0.2, "steps"), (0.8, "communication steps")):
        axes.text(31.5, y, said, va="center")
    axes.set_xlim(-4, 46)
    axes.set_ylim(-0.3, 1.7)
    return figure, axes


def topology() -> figures.Figure | None:
    """Draw a ring and its links."""
    links = tuple((i, (i + 1) % 8) for i in range(8))
    return figures.network(reader.Topology(8, links, False, False))


def mixing() -> figures.Figure:
    """Draw the weights of a line of five nodes."""
    found = Mixer.make(Topology(build("topology", "line"), 5)).mixing(0).dense()
    figure, axes = _bare(4.2, 2.8)
    for i, weights in enumerate(found):
        for j, weight in enumerate(weights):
            axes.add_patch(_box(j, -i, 0.95, 0.95, light("local" if weight else "line")))
            axes.text(
                j + 0.47, -i + 0.47, f"{weight:.2f}", ha="center", va="center", fontsize=8,
                color=light("card" if weight else "muted"),
            )  # fmt: skip
    axes.text(
        2.5,
        1.2,
        "to node i (row) from node j (column)",
        ha="center",
        color=light("muted"),
    )
    axes.set_xlim(-0.1, 5.1)
    axes.set_ylim(-4.1, 1.6)
    return figure


def spectral_gap() -> figures.Figure:
    """Draw how fast disagreement falls on three graphs."""
    figure, axes = canvas(SIZE)
    for place, name in enumerate(("ring", "exponential", "complete")):
        held = rounds(name, 16, 12)
        apart = np.linalg.norm(held - held.mean(1, keepdims=True), axis=1)
        axes.semilogy(
            np.maximum(apart / apart[0], 1e-6), label=name, color=light(f"run-{place}")
        )
    axes.set_xlabel("round")
    axes.set_ylabel("disagreement")
    axes.set_ylim(1e-5, 1.5)
    axes.legend(ncols=3, loc="lower right")
    return figure


def schedule() -> figures.Figure:
    """Draw three schedules."""
    figure, axes = canvas(SIZE)
    t = np.linspace(0, 1, 201)
    curves = {"late": np.where(t < 0.9, 0.1, 1), "constant": 0 * t + 0.5}
    curves["cosine"] = (1 - np.cos(np.pi * t)) / 2
    for place, (name, curve) in enumerate(curves.items()):
        axes.plot(100 * t, curve, label=name, color=light(f"run-{place}"))
    axes.set_xlabel("% of the run")
    axes.set_ylabel("intensity")
    axes.legend(ncols=3, loc="upper left")
    axes.set_ylim(0, 1.35)
    return figure


def gossip() -> figures.Figure:
    """Draw eight numbers on a ring over rounds of gossip."""
    figure, axes = canvas(SIZE)
    axes.plot(rounds("ring", 8, 12), color=light("local"), lw=1)
    axes.set_xlabel("round")
    axes.set_ylabel("model (a number)")
    return figure


def merge() -> figures.Figure:
    """Draw models that become one."""
    figure, axes = canvas(SIZE)
    held = rounds("ring", 8, 0)[0]
    for value in held:
        axes.plot([0, 1, 2], [value, value, held.mean()], color=light("local"), lw=1)
    axes.plot([2, 3], [held.mean()] * 2, color=light("merged"), lw=3)
    axes.set_xticks([0.5, 1.5, 2.5], ["apart", "merge", "one model"])
    axes.set_ylabel("model (a number)")
    return figure


def consensus_distance() -> figures.Figure:
    """Draw models around their average."""
    figure, axes = _bare(3.6, 2.6)
    points = np.random.default_rng(1).normal(size=(8, 2))
    middle = points.mean(0)
    for point in points:
        axes.plot(*zip(point, middle, strict=True), color=light("line"))
    axes.scatter(*points.T, color=light("local"), zorder=3)
    axes.scatter(*middle, color=light("merged"), s=90, zorder=3)
    return figure


def algorithm() -> figures.Figure:
    """Draw what a node does in a step of D-SGD."""
    figure, axes = _bare()
    for place, said in enumerate(("gradient", "adapt", "combine")):
        axes.add_patch(_box(3 * place, 0, 2.2, 1, light("line")))
        axes.text(3 * place + 1.1, 0.5, said, ha="center", va="center")
    for x in (2.2, 5.2):
        arrow = {"arrowstyle": "-|>", "color": light("link")}
        axes.annotate("", (x + 0.8, 0.5), (x, 0.5), arrowprops=arrow)
    axes.text(7.1, 1.25, "rows of neighbours", ha="center", color=light("muted"))
    axes.set_xlim(-0.2, 8.4)
    axes.set_ylim(-0.5, 1.7)
    return figure


def worker() -> figures.Figure:
    """Draw two processes, each with its block of nodes."""
    figure, axes = _bare()
    for place in range(2):
        axes.add_patch(_box(4 * place, 0, 3.4, 1.6, light("line")))
        axes.text(4 * place + 1.7, 1.25, f"worker {place}", ha="center", va="center")
        for i in range(3):
            axes.scatter(4 * place + 0.7 + i, 0.5, s=420, facecolor=light("card"),
                         edgecolor=light("merged"))  # fmt: skip
            said = str(3 * place + i)
            axes.text(
                4 * place + 0.7 + i, 0.5, said, ha="center", va="center", fontsize=8
            )
    axes.set_xlim(-0.3, 7.7)
    axes.set_ylim(-0.3, 1.9)
    return figure


def engine() -> figures.Figure:
    """Draw one configuration, and where the engines put its workers."""
    figure, axes = _bare(6.4, 2.8)
    axes.add_patch(_box(0, 1.5, 2.6, 1, light("line")))
    axes.text(1.3, 2.0, "config.yaml", ha="center", va="center", family="monospace")
    places = ("this process", "ranks of torchrun", "actors on a cluster")
    for place, (name, said) in enumerate(
        zip(("local", "torchrun", "ray"), places, strict=True)
    ):
        y = 3.0 - 1.5 * place
        way = {"arrowstyle": "-|>", "color": light("link")}
        axes.annotate("", (4.2, y + 0.5), (2.7, 2.0), arrowprops=way)
        axes.add_patch(_box(4.3, y, 2.4, 1, light("line")))
        axes.text(5.5, y + 0.5, name, ha="center", va="center", color=light("merged"))
        axes.text(7.0, y + 0.5, said, va="center", color=light("muted"))
    axes.set_xlim(-0.2, 11.4)
    axes.set_ylim(-0.3, 4.3)
    return figure


def task() -> figures.Figure:
    """Draw what a task brings to the nodes."""
    return _chain(("data", "model", "loss", "evaluation"), arrows=False)


def run() -> figures.Figure:
    """Draw what lies in the folder of a run."""
    figure, axes = _bare()
    axes.add_patch(_box(0, -0.2, 8, 3.1, light("line")))
    names = ("config.yaml", "metrics.jsonl", "checkpoints/", "merged.safetensors",
             "summary.json", "report.html")  # fmt: skip
    for i, name in enumerate(names):
        axes.text(0.4 + 4 * (i % 2), 2.2 - i // 2, name, va="center", family="monospace")
    axes.set_xlim(-0.3, 8.3)
    axes.set_ylim(-0.5, 3.2)
    return figure


def record() -> figures.Figure:
    """Draw a line of metrics over steps, one record marked."""
    figure, axes = canvas(SIZE)
    steps = np.arange(0, 301, 30)
    axes.plot(steps, 2.3 * np.exp(-steps / 90), "o", color=light("line"))
    axes.plot(steps[4:5], 2.3 * np.exp(-steps[4:5] / 90), "o", color=light("merged"))
    axes.set_xlabel("step")
    axes.set_ylabel("loss")
    return figure


def exchange() -> figures.Figure:
    """Draw the exchange between the blocks of two workers."""
    return _chain(("rows of\nworker 0", "exchange", "rows of\nworker 1"), both=True)


def _chain(
    words: tuple[str, ...], *, arrows: bool = True, both: bool = False
) -> figures.Figure:
    """Draw boxes side by side, with arrows from each to the next, or in both directions."""
    figure, axes = _bare()
    for place, said in enumerate(words):
        axes.add_patch(_box(3 * place, 0, 2.2, 1, light("line")))
        axes.text(3 * place + 1.1, 0.5, said, ha="center", va="center")
        if arrows and place:
            style = "<|-|>" if both else "-|>"
            way = {"arrowstyle": style, "color": light("link")}
            axes.annotate("", (3 * place, 0.5), (3 * place - 0.8, 0.5), arrowprops=way)
    axes.set_xlim(-0.2, 3 * len(words) - 0.6)
    axes.set_ylim(-0.5, 1.5)
    return figure


def budget() -> figures.Figure:
    """Draw what some ways of training send, as shares of all-reduce at every step."""
    figure, axes = canvas(SIZE)
    n, steps, every = 16, 3000, 10
    # Rows: 2 (N - 1) of an all-reduce or merge, 2 N of a round on a ring.
    whole = 2 * (n - 1) * steps
    late = steps / every * (0.9 * 0.1 + 0.1) * 2 * n + 2 * (n - 1)
    sent = {"all-reduce": 1.0, "ring, constant": 2 * n * steps / every / whole}
    sent |= {"ring, late": late / whole, "one merge": 2 * (n - 1) / whole}
    shares = [100 * v for v in sent.values()]
    bars = axes.barh(list(sent), shares, color=light("comm"))
    axes.bar_label(bars, [f"{share:.3g} %" for share in shares], padding=3)
    axes.set_xscale("log")
    axes.set_xticks([0.01, 0.1, 1, 10, 100], ["0.01", "0.1", "1", "10", "100"])
    axes.grid(visible=False)
    axes.set_xlim(0.01, 500)
    axes.invert_yaxis()
    axes.set_xlabel("bytes, % of all-reduce")
    return figure


PICTURES: dict[str, Callable[[], figures.Figure | None]] = {
    "Node": node, "Row": row, "Worker": worker, "Task": task, "Run": run,
    "Engine": engine, "Record": record, "Exchange": exchange, "Step": step,
    "Communication step": communication_step, "Round": round_, "Topology": topology,
    "Mixing": mixing,
    "Spectral gap": spectral_gap, "Schedule": schedule, "Gossip": gossip, "Merge": merge,
    "Consensus distance": consensus_distance, "Algorithm": algorithm, "Budget": budget,
}  # fmt: skip


@styled
def illustrate(page: Path) -> None:
    """Put its picture behind the text of each concept of a page."""
    first, *parts = _HEADING.split(page.read_text(encoding="utf-8"))
    for name, text in zip(parts[::2], parts[1::2], strict=True):
        key = name.lower().replace(" ", "-")
        shown = embedded(PICTURES[name](), key, f"{name}, drawn")
        first += f"## {name}\n\n{text.rstrip()}\n{shown}\n"
    page.write_text(first, encoding="utf-8")
