"""The command line: ``decentral init``, ``launch``, ``sweep``, ``resume``,
``compare``, ...
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from decentral.lazy import lazy_names

if TYPE_CHECKING:
    from decentral.cli.entry import main, run

__all__ = ["main", "run"]

__getattr__ = lazy_names(__name__, {"entry": __all__})
