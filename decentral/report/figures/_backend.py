"""Import matplotlib whatever MPLBACKEND holds: drawings go into files, without a
backend.

IPython sets it for its children to a module that their environment need not have,
and matplotlib then refuses to be imported at all.
"""

from __future__ import annotations

import os

_wanted = os.environ.pop("MPLBACKEND", None)
try:
    import matplotlib as mpl
finally:
    if _wanted is not None:
        os.environ["MPLBACKEND"] = _wanted


def _honour(backend: str) -> None:
    """Let windows and notebooks of the same process have the backend they asked
    for, if valid.
    """
    try:
        mpl.rcParams["backend"] = backend
    except ValueError:
        mpl.rcParams["backend"] = "agg"


if _wanted:
    _honour(_wanted)
