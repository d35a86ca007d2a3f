"""Turn a JSON file of phones and what happened to them into a trace of `compute`.

    python benchmarks/traces/states.py state_traces.json --out trace.csv --ready charging wifi idle

The file is as FLASH publishes it (Yang et al., "Characterizing impacts of heterogeneity in
federated learning upon large-scale smartphone data", WWW 2021): for every phone `messages`, a line
for each event, `2020-01-29 00:00:03`, a tab and `wifi`, `battery_charged_on`, `screen_off` or the
like. A phone is online while all that is asked for holds;
what nothing was said of yet does not. Phones that never are are left out.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Collection
from datetime import UTC, datetime
from pathlib import Path

#: What an event says of a phone.
EVENTS = {
    "battery_charged_on": ("charging", True), "battery_charged_off": ("charging", False),
    "wifi": ("wifi", True), **dict.fromkeys(("2G", "3G", "4G", "5G", "Unknown"), ("wifi", False)),
    **dict.fromkeys(("screen_off", "screen_lock"), ("idle", True)),
    **dict.fromkeys(("screen_on", "screen_unlock"), ("idle", False)),
}  # fmt: skip
READY = ("charging", "wifi", "idle")


def changes(messages: str, ready: Collection[str]) -> list[tuple[float, bool]]:
    """Return when a phone becomes online or leaves, in seconds, from its first event on.

    Args:
        messages: What happened to it, a line each.
        ready: What must hold.
    """
    told: list[tuple[float, str]] = []
    for line in messages.splitlines():
        when, _, event = line.strip().partition("\t")
        if event.strip() in EVENTS:
            moment = datetime.strptime(when.strip(), "%Y-%m-%d %H:%M:%S").replace(
                tzinfo=UTC
            )
            told.append((moment.timestamp(), event.strip()))
    holds: dict[str, bool] = {}
    found: dict[float, bool] = {}  # of one moment the last counts
    for at_s, event in sorted(told, key=lambda one: one[0]):
        what, now = EVENTS[event]
        holds[what] = now
        found[at_s] = all(holds.get(one, False) for one in ready)
    kept: list[tuple[float, bool]] = []
    for at_s, online in found.items():
        if not kept or kept[-1][1] != online:
            kept.append((at_s, online))
    return kept


def trace(phones: dict[str, dict[str, str]], ready: Collection[str]) -> list[str]:
    """Return the lines of a trace of when phones were online, in the order of their names.

    Args:
        phones: What is known of each.
        ready: What must hold.
    """
    found = [changes(phones[name]["messages"], ready) for name in sorted(phones)]
    found = [one for one in found if any(online for _, online in one)]
    first_s = min((one[0][0] for one in found), default=0.0)
    lines = ["node,time_s,online"]
    for number, moments in enumerate(found):
        if moments[0][0] > first_s:
            lines.append(f"{number},0,0")
        lines += [f"{number},{at_s - first_s:.0f},{online:d}" for at_s, online in moments]
    return lines


def main() -> None:
    """Convert the file that is named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--ready", nargs="+", choices=READY, default=READY)
    asked = parser.parse_args()
    lines = trace(json.loads(asked.source.read_text(encoding="utf-8")), asked.ready)
    if len(lines) == 1:
        parser.error(f"{asked.source}: no phone is ever ready")
    asked.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
