"""Budgets: expected logical bytes of a run, as a share of all-reduce's or per node."""

from __future__ import annotations

from dataclasses import replace

from decentral.errors import ConfigError
from decentral.network import Conversation, all_reduce_messages, expected_messages
from decentral.registry import Bound
from decentral.schedules.communication import CommunicationSchedule
from decentral.units import parse_bytes

_LARGEST = 1e9
_BISECTIONS = 200


def budget_messages(budget: str | float, nodes: int, steps: int, row_bytes: int) -> float:
    """Turn ``2%``, ``0.02`` or ``2MB/node`` into a number of messages of ``row_bytes`` each."""
    text = str(budget).strip()
    if text.endswith("/node"):
        return nodes * parse_bytes(text.removesuffix("/node"), "budget") / row_bytes
    try:
        share = float(text.removesuffix("%")) / (100.0 if text.endswith("%") else 1.0)
    except ValueError:
        share = -1.0
    if not share > 0:
        raise ConfigError(f"budget: cannot read {budget!r}; write 2%, 0.02 or 2MB/node.")
    return share * all_reduce_messages(nodes, steps)


def with_factor(schedule: CommunicationSchedule, factor: float) -> CommunicationSchedule:
    """Return a budgeted schedule with its factor set."""
    rule = schedule.rule
    return CommunicationSchedule(
        Bound(rule.plugin, {**rule.settings, "factor": factor}, rule.common)
    )


def solve_budget(conversation: Conversation, row_bytes: int) -> Conversation:
    """Solve the factor of a schedule scaled to a budget; others are returned as they are.

    Expected bytes grow with the factor and saturate where every intensity is clipped to 1. Raises
    ConfigError naming the reachable minimum or maximum when the budget lies outside.
    """
    schedule = conversation.schedule
    if not schedule.rule.plugin.traits.get("budgeted") or schedule.rule.settings["factor"]:
        return conversation
    budget = schedule.rule.settings["budget"]
    wanted = budget_messages(budget, conversation.nodes, conversation.steps, row_bytes)
    reference = all_reduce_messages(conversation.nodes, conversation.steps)

    def spent(factor: float) -> float:
        return expected_messages(replace(conversation, schedule=with_factor(schedule, factor)))

    for factor, word, outside in (
        (1e-12, "least", wanted.__lt__),
        (_LARGEST, "most", wanted.__gt__),
    ):
        reachable = spent(factor)
        if outside(reachable) and abs(wanted - reachable) > 1e-9 * reference:
            raise ConfigError(
                f"communication 'scale_to_budget': budget {budget} cannot be reached; the {word} "
                "this schedule can spend on this topology is "
                f"{reachable / max(reference, 1):.3%} of all-reduce."
            )
    low, high = 1e-12, _LARGEST
    for _ in range(_BISECTIONS):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if spent(middle) < wanted else (low, middle)
        if high / low < 1 + 1e-9:
            break
    return replace(conversation, schedule=with_factor(schedule, high))
