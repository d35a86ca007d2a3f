"""Generators of networkx whose ``n`` is not the number of nodes: refused, with the n that fits."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any

from decentral.errors import ConfigError

#: Two small values of n that tell whether it counts nodes.
_PROBES = (5, 6)
#: Values of n that are tried one by one.
_TRIED = 24
#: Links beyond which a graph is the last one that is drawn to look for a size.
_COSTLY = 20_000
#: Values of n that a message lists.
_LISTED = 4
_ABOUT_N = re.compile(r"^n *:[^\n]*\n((?: +[^\n]+\n?)+)", re.MULTILINE)

Generator = Callable[..., Any]


def check_size(name: str, generator: Generator, given: Mapping[str, Any], nodes: int) -> None:
    """Raise ConfigError where ``n`` is something else than the number of nodes.

    Args:
        name: Of the topology, for the message.
        generator: A function of networkx.
        given: Its other arguments.
        nodes: Of the run.
    """
    probed = [_drawn(generator, given, n) for n in _PROBES]
    if any(drawn is None or drawn[0] == n for drawn, n in zip(probed, _PROBES, strict=True)):
        return  # it counts nodes, or small ones do not exist
    found = _sizes(generator, given, nodes)
    fitting = next((n for n, count in found.items() if count == nodes), None)
    if not found or fitting == nodes:
        return
    near = sorted(sorted(found, key=lambda n: abs(found[n] - nodes))[:_LISTED])
    listed = f"n={_several(near)} {'give' if len(near) > 1 else 'gives'} "
    listed += f"{_several([found[n] for n in near])} nodes"
    call = f"{name}(n={{}}{_settings(generator, given)})"
    remedy = f"write {call.format('...')} and set nodes to what it gives"
    if fitting is not None:
        remedy = f"write {call.format(fitting)} for {nodes} nodes"
    elif max(found.values()) >= nodes:
        remedy = f"none gives {nodes}; {remedy}"
    raise ConfigError(
        f"topology {name!r}: its n is not the number of nodes{_meaning(generator)}; "
        f"{listed}; {remedy}."
    )


def _settings(generator: Generator, given: Mapping[str, Any]) -> str:
    """Return the arguments that are not as they would be anyway, as a call spells them."""
    parameters = inspect.signature(generator).parameters
    differ = {key: value for key, value in given.items() if value != parameters[key].default}
    return "".join(f", {key}={value}" for key, value in differ.items() if key != "seed")


def _several(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers))


def _meaning(generator: Generator) -> str:
    """Return what networkx says about ``n``, in brackets."""
    found = _ABOUT_N.search(inspect.getdoc(generator) or "")
    sentence = " ".join(found[1].split()).partition(". ")[0].rstrip(".") if found else ""
    return f" ({sentence})" if sentence else ""


def _drawn(generator: Generator, given: Mapping[str, Any], n: int) -> tuple[int, int] | None:
    """Return the numbers of nodes and links for an n, None where there is no graph.

    Args:
        generator: A function of networkx.
        given: Its other arguments.
        n: The argument n.
    """
    try:
        graph = generator(**given, n=n)
        return int(graph.number_of_nodes()), int(graph.number_of_edges())
    except Exception:  # of a generator that refuses this n: it has no size
        return None


def _sizes(generator: Generator, given: Mapping[str, Any], nodes: int) -> dict[int, int]:
    """Return sizes by n, up to the first that is large enough.

    One by one at first, since some double each time; what is still too small then grows slowly,
    and is bracketed and halved.

    Args:
        generator: A function of networkx.
        given: Its other arguments.
        nodes: Of the run.
    """
    found: dict[int, int] = {}

    def small(n: int) -> bool:
        """Whether the graph for this n is too small, and the next one not too large to draw."""
        drawn = _drawn(generator, given, n)
        if drawn is None:
            return True
        found[n] = drawn[0]
        return drawn[0] < nodes and drawn[1] < _COSTLY

    if not all(small(n) for n in range(1, _TRIED + 1)):
        return found
    low, high = _TRIED, _TRIED * 3 // 2
    while high < 2 * nodes and small(high):
        low, high = high, high * 3 // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if small(middle) else (low, middle)
    return found
