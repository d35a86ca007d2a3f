"""Running a point: from its beginning, from its last checkpoint, or not at all."""

from __future__ import annotations

import gc
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from decentral import api
from decentral.engines.base import Watch
from decentral.errors import ConfigError, Interrupted, RunError
from decentral.sweeps.points import Point


@dataclass(frozen=True)
class Outcome:
    """What became of a point: done now, done before, or failed with ``reason``."""

    state: Literal["done", "before", "failed"]
    reason: str = ""


def run_point(point: Point, folder: Path, watch: Watch) -> Outcome:
    """Run a point in its folder unless it is finished; a failure is an outcome, not an error.

    Raises Interrupted when the user stops the run.
    """
    path = point.folder(folder)
    if point.finished(folder):
        return Outcome("before")
    try:
        api.begun(point.config, path).run(watch)
    except Interrupted:
        raise
    except (ConfigError, RunError) as error:
        return Outcome("failed", str(error))
    except Exception as error:  # whatever it is, the other points go on
        return Outcome("failed", f"{type(error).__name__}: {error}")
    finally:
        gc.collect()
    return Outcome("done")
