"""Plug-ins of every kind, as a user writes them into a file, and runs that call them."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

from support import TINY, blobs

from decentral.config import LISTS

#: The decorator and the parameters of a plug-in of every kind that raises when it is called.
HEADS = {
    "topology": "(n)",
    "weights": "(receivers, senders, nodes)",
    "communication": "(progress, feedback)",
    "learning_rate": "(progress)",
    "batch": "(progress)",
    "optimizer": "(params)",
    "network": "(n)",
    "compute": "(nodes, step, seed)",
    "merge": "(samples)",
    "algorithm": "(block, action)",
    "codec": "(rows, load, draw)",
    "aggregation": "(values, weights)",
    "attack": "(rows, load, draw)",
    "fault": "(receivers, senders, step, seed, *, share: float = 0.1, both: bool = False)",
    "metric": "(snapshot)",
    "task": "(nodes)",
    "model": "(shape, outputs)",
    "split": "(labels, nodes, seed)",
    "claim": "(lab, seed)",
    "tracker": "(folder, config, step)",
    "callback": "(context)",
}
TRAITS = {
    "algorithm": ", guarantees=('keeps_mean',)",
    "codec": ", size=lambda load, settings: load.numbers",
    "fault": ", strikes='messages'",
    "claim": ", paper='Nobody, 2026', says='It works.', expect=()",
}
#: What a run needs beside the plug-in, for it to be asked.
BESIDE: dict[str, dict[str, Any]] = {"compute": {"network": "lan"}}


def written(folder: Path, kind: str, body: str = "return 1 / 0") -> Path:
    """Write a file with a plug-in ``own`` whose body is that; the first line of it is the 6th."""
    head = f"@plugin({kind!r}{TRAITS.get(kind, '')})\ndef own{HEADS[kind]}:\n    'Be mine.'\n"
    file = folder / f"{kind}_file.py"
    file.write_text(
        f"from decentral import plugin\n\n{head}{textwrap.indent(body, '    ')}\n"
    )
    return file


def asked(kind: str, part: Any) -> dict[str, Any]:
    """Return the settings of a tiny run that calls a plug-in of a kind."""
    settings = {"task": blobs(), **TINY, "local_steps": 1, **BESIDE.get(kind, {})}
    settings["communication"] = "constant"
    if kind == "attack":
        part = {"name": part, "nodes": [0]}
    one = next((key for key, of in LISTS.items() if of == kind), None)
    return settings | ({one: [part]} if one else {kind: part})
