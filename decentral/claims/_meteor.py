"""METEOR, by the Java program of its authors."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any


def meteor(
    said: Mapping[str, Sequence[str]], references: Sequence[Sequence[str]]
) -> dict[str, float]:
    """Return METEOR 1.5 in [0, 1] of the captions of several models; nothing without the program.

    It is that of the package pycocoevalcap, extra ``[captions]``, and needs Java. (Denkowski &
    Lavie, "Meteor universal", 2014.)
    """
    if not (shutil.which("java") and find_spec("pycocoevalcap")):
        return {}
    program: Any = import_module("pycocoevalcap.meteor.meteor").Meteor()
    known = dict(enumerate(references))
    with program.meteor_p:
        return {
            name: program.compute_score(known, {pair: [one] for pair, one in enumerate(captions)})[
                0
            ]
            for name, captions in said.items()
        }
