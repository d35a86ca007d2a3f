"""Turn CSV files of measurements of machines' lines into a trace of `compute`.

    python benchmarks/traces/measurements.py --out trace.csv --down curr_httpgetmt.csv \
        --up curr_httppostmt.csv --latency curr_udplatency.csv

The names of columns are those of the raw data of Measuring Broadband America (FCC): `unit_id`,
`dtime`, `bytes_sec`, and `rtt_avg` in microseconds; others are given. What a machine's line
measured at a moment holds until it measures again; several of one moment count as their mean, and
what failed (0, or no number) is left out. One way takes half of the way there and back.
"""

from __future__ import annotations

import argparse
import csv
from collections import defaultdict
from collections.abc import Mapping
from datetime import UTC, datetime
from math import isfinite
from pathlib import Path
from statistics import fmean

COLUMNS = ("up_Bps", "down_Bps", "latency_s")
#: (machine, second) -> column of the trace -> what was measured.
Found = dict[tuple[str, float], dict[str, list[float]]]


def seconds(said: str) -> float:
    """Return a moment in seconds: a number of them, or date and time."""
    try:
        return float(said)
    except ValueError:
        moment = datetime.fromisoformat(said.strip())
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def read(
    source: Path, column: str, names: tuple[str, str, str], scale: float, found: Found
) -> None:
    """Add the measurements of a file to what was found.

    Args:
        source: The CSV file, with a header.
        column: What it measures.
        names: Its columns of the machine, the moment and the value.
        scale: Times what a value is of the trace's unit.
        found: What was found.
    """
    node, time, value = names
    with source.open(encoding="utf-8-sig", newline="") as file:
        for row in csv.DictReader(file):
            try:
                measured = float(row[value]) * scale
            except ValueError:
                continue
            if isfinite(measured) and measured > 0:
                place = row[node].strip(), seconds(row[time])
                found[place][column].append(measured)


def trace(found: Mapping[tuple[str, float], Mapping[str, list[float]]]) -> list[str]:
    """Return the lines of a trace, machines in the order of their names."""
    numbers = {
        name: place for place, name in enumerate(sorted({name for name, _ in found}))
    }
    measured = [one for one in COLUMNS if any(one in values for values in found.values())]
    first_s = min(at_s for _, at_s in found)
    lines = [",".join(["node", "time_s", *measured])]
    for name, at_s in sorted(found):
        values = found[name, at_s]
        cells = [f"{fmean(values[one]):.6g}" if one in values else "" for one in measured]
        lines.append(",".join([str(numbers[name]), f"{at_s - first_s:g}", *cells]))
    return lines


def main() -> None:
    """Convert the files that are named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    for name in ("down", "up", "latency"):
        parser.add_argument(f"--{name}", type=Path)
    parser.add_argument("--node", default="unit_id")
    parser.add_argument("--time", default="dtime")
    parser.add_argument("--rate", default="bytes_sec", help="bytes per second")
    parser.add_argument("--rtt", default="rtt_avg", help="microseconds there and back")
    asked = parser.parse_args()
    found: Found = defaultdict(lambda: defaultdict(list))
    files = (
        (asked.down, "down_Bps", asked.rate, 1.0), (asked.up, "up_Bps", asked.rate, 1.0),
        (asked.latency, "latency_s", asked.rtt, 0.5e-6),
    )  # fmt: skip
    for source, column, value, scale in files:
        if source is not None:
            read(source, column, (asked.node, asked.time, value), scale, found)
    if not found:
        parser.error("nothing was measured; name files by --down, --up or --latency")
    asked.out.write_text("\n".join(trace(found)) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
