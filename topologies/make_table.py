"""Write the table of README.md from the files beside it:
``python topologies/make_table.py``.
"""

from __future__ import annotations

import re
from pathlib import Path

from decentral.mixing import Mixer, spectral_gap
from decentral.registry import build
from decentral.topology import Topology, statistics

HERE = Path(__file__).parent
PAGE = HERE / "README.md"
HEAD = (
    "| file | nodes | links | degree | diameter | spectral gap | latency | bandwidth |\n"
    "|---|---|---|---|---|---|---|---|"
)
#: From the smallest to the largest: how numbers with units are written.
_TIMES = ((1e-6, "µs"), (1e-3, "ms"))
_RATES = ((1e6 / 8, "Mbit/s"), (1e9 / 8, "Gbit/s"))


def row(file: Path) -> str:
    """Return one line of the table."""
    graph = build("topology", str(file))(0)
    topology = Topology(build("topology", str(file)), graph.number_of_nodes())
    found = statistics(topology)
    links = [data for _, _, data in graph.edges(data=True)]
    cells = (
        f"[{file.stem}]({file.name})", topology.nodes, found["links"],
        span(found["degree_min"], found["degree_max"]), found["diameter"],
        f"{spectral_gap(Mixer.make(topology)):.3g}",
        between([link["latency_s"] for link in links], _TIMES),
        between([link["bandwidth_Bps"] for link in links], _RATES),
    )  # fmt: skip
    return f"| {' | '.join(map(str, cells))} |"


def span(low: object, high: object) -> str:
    """Write a range, or the one value that it holds."""
    return f"{low}" if low == high else f"{low} to {high}"


def between(values: list[float], units: tuple[tuple[float, str], ...]) -> str:
    """Write the least and the largest of some quantities."""
    return span(quantity(min(values), units), quantity(max(values), units))


def quantity(value: float, units: tuple[tuple[float, str], ...]) -> str:
    """Write a quantity in the largest unit that it reaches."""
    scale, unit = max(((s, u) for s, u in units if value >= s), default=units[0])
    return f"{value / scale:.4g} {unit}"


def text() -> str:
    """Return the page with its table renewed."""
    table = "\n".join([HEAD, *map(row, sorted(HERE.glob("*.json")))])
    page = PAGE.read_text(encoding="utf-8")
    return re.sub(
        r"(?<=<!-- table -->\n).*?(?=\n\n)", lambda _: table, page, flags=re.DOTALL
    )


if __name__ == "__main__":
    PAGE.write_text(text(), encoding="utf-8")
