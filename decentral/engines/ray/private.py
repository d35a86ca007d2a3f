"""The private parts of Ray that are used, all of them; see `decentral.private`."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any


def quieten() -> None:
    """Let Ray's notices, such as that a worker died, go to the log: the run tells
    it in its words.

    Ray prints them on the terminal, whatever ``log_to_driver`` and
    ``logging_level`` say.
    """
    from ray._private import worker

    def note(data: Mapping[str, Any], ignore_prefix: bool = False) -> None:
        logging.getLogger("decentral.ray").info("%s", " ".join(map(str, data["lines"])))

    worker.print_to_stdstream = note
