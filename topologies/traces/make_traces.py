"""Write the traces beside this file: made up, with the shapes that published measurements of such
machines have. The seeds are fixed: to run it again changes nothing.

    python topologies/traces/make_traces.py
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
HEAD = "node,time_s,compute_s,online"
#: A day lasts ten minutes, so that short runs see some.
DAY_S = 600.0


def write(name: str, lines: list[tuple[int, float, float, int]]) -> None:
    """Write a trace, node by node in the order of time."""
    rows = [f"{n},{t:.1f},{c:.4f},{on}" for n, t, c, on in sorted(lines)]
    (HERE / f"{name}.csv").write_text("\n".join([HEAD, *rows]) + "\n", encoding="utf-8")


def homes(machines: int = 24) -> list[tuple[int, float, float, int]]:
    """Return machines at home: speeds log-normal, on in the evening for a third of the day."""
    draw = np.random.default_rng(1)
    lines: list[tuple[int, float, float, int]] = []
    for node in range(machines):
        seconds = 0.1 * float(np.exp(0.5 * draw.standard_normal()))
        on_s = round((0.55 + 0.1 * float(draw.standard_normal())) * DAY_S, 1)
        off_s = round(min(on_s + float(draw.uniform(0.2, 0.45)) * DAY_S, DAY_S - 1), 1)
        always = (
            node % 4 == 0
        )  # those that nobody switches off, and which the run begins with
        lines += [(node, 0.0, seconds, int(always)), (node, on_s, seconds, 1)]
        if not always:
            lines.append((node, off_s, seconds, 0))
    return [*lines, (0, DAY_S, lines[0][2], 1)]


def shared(machines: int = 16) -> list[tuple[int, float, float, int]]:
    """Return machines of a laboratory: equal, always on, three times slower while others use
    them.
    """
    draw = np.random.default_rng(2)
    lines: list[tuple[int, float, float, int]] = []
    for node in range(machines):
        at_s, busy = 0.0, False
        while at_s < DAY_S:
            lines.append((node, at_s, 0.09 if busy else 0.03, 1))
            at_s += round(float(draw.exponential(20.0 if busy else 60.0)) + 0.1, 1)
            busy = not busy
    return [*lines, (0, DAY_S, 0.03, 1)]


if __name__ == "__main__":
    write("homes", homes())
    write("shared", shared())
