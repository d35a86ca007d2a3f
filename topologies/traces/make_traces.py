"""Write the traces beside this file: made up, with the shapes that published measurements of such
machines have. The seeds are fixed: to run it again changes nothing.

    python topologies/traces/make_traces.py
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
#: Of lines with as many numbers: their names, and how they are written.
FORMS = {
    4: ("node,time_s,compute_s,online", "{},{:.1f},{:.4f},{}"),
    5: ("node,time_s,up_Bps,down_Bps,latency_s", "{},{:.1f},{:.0f},{:.0f},{:.4f}"),
}
#: A day lasts ten minutes, so that short runs see some.
DAY_S = 600.0


def write(name: str, lines: Sequence[tuple[float, ...]]) -> None:
    """Write a trace, node by node in the order of time."""
    head, form = FORMS[len(lines[0])]
    rows = [form.format(*line) for line in sorted(lines)]
    (HERE / f"{name}.csv").write_text("\n".join([head, *rows]) + "\n", encoding="utf-8")


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


def lines(machines: int = 24) -> list[tuple[int, float, float, float, float]]:
    """Return lines of homes: a tenth as fast up as down, by the kind of line, and slower in the
    evening, when neighbours use theirs; every fourth is a radio link that comes and goes.
    """
    draw = np.random.default_rng(3)
    found: list[tuple[int, float, float, float, float]] = []
    for node in range(machines):
        down_Bps = 12e6 * float(np.exp(0.8 * draw.standard_normal()))
        way_s = float(draw.uniform(0.005, 0.02))
        radio = node % 4 == 3
        for part in range(24):
            evening = 0.55 if 18 <= part < 23 else 1.0
            share = evening * float(
                np.exp((0.6 if radio else 0.1) * draw.standard_normal())
            )
            more_s = 0.03 * float(draw.random()) if radio else 0.0
            rates = down_Bps * share / 10, down_Bps * share
            found.append((node, part * DAY_S / 24, *rates, way_s / evening + more_s))
    return [*found, (0, DAY_S, *found[0][2:])]


if __name__ == "__main__":
    write("homes", homes())
    write("shared", shared())
    write("lines", lines())
