"""Turn a CSV file of intervals in which machines were available into a trace of `compute`.

    python benchmarks/traces/intervals.py EVENTS.csv --out trace.csv --node node_id \
        --start event_start_time --end event_stop_time --where event_type=1

One line of the file is one interval of one machine; archives of failures and of desktop grids come
so. Machines are numbered in the order of their names, time begins with the first interval, and
intervals that touch or overlap are one. Public traces that are pickles are never read here: turn
them into CSV in an environment of their own.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path


def intervals(
    source: Path, node: str, start: str, end: str, where: str | None
) -> dict[str, list[tuple[float, float]]]:
    """Return the intervals of each machine, in order.

    Args:
        source: The CSV file, with a header.
        node: The column of the machine.
        start: The column of the seconds at which an interval begins.
        end: The column of the seconds at which it ends.
        where: ``COLUMN=VALUE``: the lines that count; none: all do.
    """
    column, _, value = (where or "").partition("=")
    found: dict[str, list[tuple[float, float]]] = {}
    with source.open(encoding="utf-8-sig", newline="") as file:
        sample = file.readline()
        file.seek(0)
        delimiter = max(",;\t", key=sample.count)
        for row in csv.DictReader(file, delimiter=delimiter):
            if not column or row[column].strip() == value:
                pair = float(row[start]), float(row[end])
                found.setdefault(row[node].strip(), []).append(pair)
    return {name: sorted(pairs) for name, pairs in found.items()}


def trace(found: dict[str, list[tuple[float, float]]]) -> list[str]:
    """Return the lines of a trace of when machines were online."""
    first_s = min(pairs[0][0] for pairs in found.values())
    lines = ["node,time_s,online"]
    for number, name in enumerate(sorted(found)):
        joined: list[list[float]] = []
        for begin_s, end_s in found[name]:
            if joined and begin_s <= joined[-1][1]:
                joined[-1][1] = max(joined[-1][1], end_s)
            elif end_s > begin_s:
                joined.append([begin_s, end_s])
        if joined and joined[0][0] > first_s:
            lines.append(f"{number},0,0")
        for begin_s, end_s in joined:
            lines += [
                f"{number},{begin_s - first_s:g},1",
                f"{number},{end_s - first_s:g},0",
            ]
    return lines


def main() -> None:
    """Convert the file that is named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--node", default="node")
    parser.add_argument("--start", default="start_s")
    parser.add_argument("--end", default="end_s")
    parser.add_argument("--where", help="COLUMN=VALUE: the lines that count")
    asked = parser.parse_args()
    found = intervals(asked.source, asked.node, asked.start, asked.end, asked.where)
    if not found:
        parser.error(f"{asked.source}: no line counts")
    asked.out.write_text("\n".join(trace(found)) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
